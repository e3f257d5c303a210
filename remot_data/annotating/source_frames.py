"""Clips at the resolution of their source: read again through the recorded crops, and the results mapped back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np

from remot_data import media
from remot_data.media import in_child, sandbox
from remot_data.media.identity import content_sha256, stamp
from remot_data.records import HW, Clip

Arrays = dict[str, np.ndarray]


def native_size(clip: Clip, size: HW, most: int) -> HW:
    """The size at which a clip is read: that of its crop in the source, but at most `most` rows.

    Of the shape of the store's frames `size`, and even; never smaller than these.
    """
    rows = max(size[0], min(round(clip.crop[3]), most))
    return 2 * round(rows / 2), 2 * round(rows * size[1] / size[0] / 2)


def read_native(clip: Clip, size: HW, limits: sandbox.Limits | None = None) -> np.ndarray:
    """The frames of a clip from its source video, uint8 [T, H, W, 3] of `size`.

    Raises:
        VideoError: ``changed`` where the video is gone or is not the one the store was built from; as `media.read`.
        ChildError: reading hung, crashed or took too much memory.
    """
    frames = np.empty((clip.frames, *size, 3), np.uint8)
    arguments = {"clip": clip.to_json(), "size": list(size)}
    messages = sandbox.call("remot_data.annotating.source_frames:reading", arguments, limits)
    for number, (_, frame) in enumerate(in_child.received(messages)):
        frames[number] = frame
    return frames


def reading(clip: Mapping[str, Any], size: HW) -> Iterator[tuple[dict[str, Any], Any]]:
    """What the child does: every frame of a clip, in order, as bytes; and signs of life."""
    cv2.setNumThreads(1)
    found = Clip.from_json(clip)
    if stamp(found.path) == "absent" or content_sha256(found.path) != found.sha256:
        raise media.VideoError("changed", f"{found.path} is gone, or not what it was when the store was built")
    yield {}, b""
    read = 0
    wanted = found.pts.array().tolist()
    for message in in_child.frames(found.path, only=wanted, crop=found.crop, size=tuple(size)):
        yield message
        read += "pts" in message[0]
    if read != found.frames:
        raise media.VideoError("changed", f"{found.path}: {read} of {found.frames} frames were found again by PTS")


def at_size(kind: str, arrays: Mapping[str, Any], old: HW, new: HW) -> Arrays:
    """The arrays of a layer for frames of `old`, as they are for frames of `new`.

    Coordinates are multiplied (their origin is the corner of the picture), masks and pictures averaged or interpolated,
    labels take the nearest; flow keeps its grid of half the frames, in pixels of that grid, and its confidence bits
    the nearest. Scores have no size.
    """
    if old == new or kind == "scores":
        return dict(arrays)
    out = dict(arrays)
    if kind == "pose":
        out["keypoints"] = arrays["keypoints"] * np.array([new[1] / old[1], new[0] / old[0], 1], np.float32)
        if "mask" in arrays:
            out["mask"] = _each(arrays["mask"], new, _smooth(old, new))
    elif kind == "parsing":
        out["labels"] = _each(arrays["labels"], new, cv2.INTER_NEAREST_EXACT)
    elif kind == "flow":
        grid = new[0] // 2, new[1] // 2
        was = arrays["flow"].shape[1:3]
        scale = np.array([grid[1] / was[1], grid[0] / was[0]], np.float32)
        out["flow"] = _each(arrays["flow"], grid, _smooth(was, grid)) * scale
        out["confidence"] = _each(arrays["confidence"], grid, cv2.INTER_NEAREST_EXACT)
    elif kind == "background":
        out["image"] = cv2.resize(arrays["image"], new[::-1], interpolation=_smooth(old, new))
        if "seen" in arrays:
            out["seen"] = cv2.resize(arrays["seen"], new[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return out


def _each(pictures: np.ndarray, size: HW, how: int) -> np.ndarray:
    return np.stack([cv2.resize(picture, size[::-1], interpolation=how) for picture in pictures])


def _smooth(old: tuple[int, ...], new: HW) -> int:
    return cv2.INTER_AREA if new[0] < old[0] else cv2.INTER_LINEAR
