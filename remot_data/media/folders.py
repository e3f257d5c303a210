"""Folders of pictures (PNG, JPEG, BMP, WebP) as videos: a frame a file, in natural order of the names.

An EXIF orientation is not applied.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from remot_data.media.container import VideoError
from remot_data.media.frames import Wanted
from remot_data.records import WH

# How the files of a folder of pictures begin and end, and what decodes them. The last two say their size instead.
_PICTURES = {
    "png": (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"),
    "mjpeg": (b"\xff\xd8\xff", b"\xff\xd9"),
    "bmp": (b"BM", b""),
    "webp": (b"RIFF", b""),
}
_PICTURE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp"))
_PICTURE_RATE = 30.0  # frames a second, by default


def frame_names(folder: str | Path) -> list[str]:
    """The file names of the pictures in a folder, in the order in which they are its frames.

    Natural order: digits count as numbers, so ``9.png`` comes before ``10.png``. Hidden files and others than
    PNG, JPEG, BMP and WebP (by their suffix) are skipped, and so are folders.

    Raises:
        VideoError: ``unreadable``: there is no such folder, no picture in it, or a link to nothing.
    """
    try:
        with os.scandir(folder) as entries:
            found = [e for e in entries if not e.name.startswith(".") and not e.is_dir()]
    except OSError as error:
        raise VideoError("unreadable", f"{folder}: {error.strerror}") from error
    found = [e for e in found if os.path.splitext(e.name)[1].lower() in _PICTURE_SUFFIXES]
    if not found:
        raise VideoError("unreadable", f"{folder} is a folder without a picture (PNG, JPEG, BMP or WebP)")
    for entry in found:
        if not entry.is_file():
            raise VideoError("unreadable", f"{entry.path} is not a file")
    return sorted((e.name for e in found), key=lambda name: (_natural(name), name))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts texts with the numbers in them by value."""
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(re.split(r"([0-9]+)", name))]


def folder_rate(fps: float | None) -> Fraction:
    rate = _PICTURE_RATE if fps is None else fps
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"a frame rate has to be positive, not {fps}")
    return Fraction(rate).limit_denominator(1001)


def folder_frames(folder: str | Path, fps: float | None, wanted: Wanted) -> Iterator[tuple[int, av.VideoFrame]]:
    """The wanted pictures of a folder, numbered; each has to have the size of the first of them."""
    base = 1 / folder_rate(fps)
    size: WH | None = None
    for number, name in enumerate(frame_names(folder)):
        if number not in wanted or (wanted.end is not None and number >= wanted.end):
            continue
        path = os.path.join(folder, name)
        frame = decode_picture(path)
        size = size or (frame.width, frame.height)
        if (frame.width, frame.height) != size:
            shapes = f"{frame.width}x{frame.height}, those before it {size[0]}x{size[1]}"
            raise VideoError("unreadable", f"{path} is {shapes}: the pictures of a folder have to have one size")
        frame.time_base = base
        yield number, frame


def decode_picture(path: str) -> av.VideoFrame:
    """A picture file as a frame: decoded from its bytes, so that no name or playlist leads to another file."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        codec = next((codec for codec, (begin, _) in _PICTURES.items() if data.startswith(begin)), None)
        if codec is None:
            raise VideoError("unreadable", f"{path} is no PNG, JPEG, BMP or WebP")
        if not _is_whole(codec, data):
            raise VideoError("truncated", f"{path} ends after {len(data)} bytes, before the picture does")
        context: Any = av.CodecContext.create(codec, "r")
        context.thread_count = 1
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError("unreadable", f"{path}: {error.strerror}") from error
    if len(frames) != 1:
        raise VideoError("unreadable", f"{path} gives {len(frames)} pictures, not one")
    return frames[0]


def _is_whole(codec: str, data: bytes) -> bool:
    if codec == "webp":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    if codec == "bmp":
        return len(data) >= int.from_bytes(data[2:6], "little")
    return data.rfind(_PICTURES[codec][1]) >= 0
