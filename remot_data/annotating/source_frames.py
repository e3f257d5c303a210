"""Clips at the resolution of their source: read again through the recorded crops."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any

import cv2
import numpy as np

from remot_data import media
from remot_data.media import in_child, sandbox
from remot_data.media.identity import checked, content_sha256, stamp
from remot_data.records import HW, Clip


def native_size(clip: Clip, size: HW, most: int) -> HW:
    """The size at which a clip is read: that of its crop in the source, but at most `most` rows.

    Of the shape of the store's frames `size`, and even; never smaller than these.
    """
    rows = max(size[0], min(round(clip.crop[3]), most))
    return 2 * round(rows / 2), 2 * round(rows * size[1] / size[0] / 2)


def read_native(
    clip: Clip,
    size: HW,
    *,
    times: str | None = None,
    outside: str | None = None,
    limits: sandbox.Limits | None = None,
) -> np.ndarray:
    """The frames of a clip from its source video, uint8 [T, H, W, 3] of `size`.

    Args:
        times, outside: those of the store's policy.

    Raises:
        VideoError: ``changed`` where the video is not the one the store was built from, ``unavailable`` where this
            machine cannot read it; as `media.read`.
        ChildError: reading hung, crashed or took too much memory.
    """
    frames = np.empty((clip.frames, *size, 3), np.uint8)
    arguments = {"clip": clip.to_json(), "size": list(size), "options": {"times": times, "outside": outside}}
    messages = sandbox.call("remot_data.annotating.source_frames:reading", arguments, limits)
    for number, (_, frame) in enumerate(in_child.received(messages)):
        frames[number] = frame
    return frames


def reading(clip: Mapping[str, Any], size: HW, options: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], Any]]:
    """What the child does: every frame of a clip, in order, as bytes; and signs of life."""
    cv2.setNumThreads(1)
    yield from checked(clip["path"], _reading(clip, size, options), ({}, b""))


def _reading(
    clip: Mapping[str, Any], size: HW, options: Mapping[str, Any]
) -> Generator[tuple[dict[str, Any], Any], None, None]:
    found = Clip.from_json(clip)
    if stamp(found.path) == "absent" or content_sha256(found.path) != found.sha256:
        raise media.VideoError("changed", f"{found.path} is gone, or not what it was when the store was built")
    yield {}, b""
    read = 0
    wanted = found.pts.array().tolist()
    for message in in_child.frames(found.path, only=wanted, crop=found.crop, size=tuple(size), **options):
        yield message
        read += "pts" in message[0]
    if read != found.frames:
        raise media.VideoError("changed", f"{found.path}: {read} of {found.frames} frames were found again by PTS")
