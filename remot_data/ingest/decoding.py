"""What a child process does for one clip: decode, crop and encode its frames.

Apart from the build, for it is imported in every child: nothing of stores and clusters is needed there.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from functools import lru_cache
from typing import Any

import cv2

from remot_data import media
from remot_data.ingest.policy import Policy
from remot_data.media import sandbox
from remot_data.media.identity import checked, content_sha256, stamp
from remot_data.records import Clip
from remot_data.store import layers as layer_kinds


def decoding(clip: Mapping[str, Any], policy: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The key, PTS and JPEG bytes of every frame of a clip, in order."""
    cv2.setNumThreads(1)
    yield from checked(clip["path"], _decoding(clip, policy), ({}, b""))


def _decoding(clip: Mapping[str, Any], policy: Mapping[str, Any]) -> Generator[sandbox.Message, None, None]:
    found, rules = Clip.from_json(clip), Policy.from_json(policy)
    if _sha256(found.path, stamp(found.path)) != found.sha256:
        raise media.VideoError("changed", f"{found.path} is not what it was when it was looked through")
    yield {}, b""
    decoder = rules.decoder if rules.decoder == "pyav" or media.decord_agrees(found.path) else "pyav"
    wanted = found.pts.array().tolist()
    written, encode = 0, layer_kinds.kind("frames").encode
    shown: dict[str, Any] = {"crop": found.crop, "size": rules.size, "outside": rules.outside}
    shown |= {"decoder": decoder, "times": rules.times}
    for pts, frame in media.read(found.path, only=wanted, passing=True, **shown):
        if not frame.size:
            yield {}, b""
            continue
        yield {"key": found.key(written), "pts": pts}, encode({"frames": frame[None]}, 0)["jpg"]
        written += 1
    if written != found.frames:
        detail = f"{found.path}: {written} of {found.frames} frames were found again by PTS"
        raise media.VideoError("changed", detail)


@lru_cache(maxsize=256)
def _sha256(path: str, stamp: str) -> str:
    return content_sha256(path)
