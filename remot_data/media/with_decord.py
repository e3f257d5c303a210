"""decord as a decoder, for the files on which it is proved to agree."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from remot_data.media.container import SEEKABLE, open_container, scan, time_base, video_stream
from remot_data.media.frames import Wanted, decoded
from remot_data.media.geometry import Geometry


def decord_agrees(path: str | Path) -> bool:
    """Whether decord shows the same frames at the same times as PyAV for this file; False where decord is absent.

    True only for square, unrotated pictures in 8-bit 4:2:0 of H.264, HEVC, VP8 or VP9 in MP4 or Matroska, with
    no edit list, no leading pictures, no PTS that is missing or jumps, where decord's time of every frame is the
    demuxed one. Never for a folder of pictures.
    """
    return _decord_pts(path) is not None


def _decord_pts(path: str | Path) -> list[int] | None:
    """The PTS of decord's frames if they are proved to be those of the file, or else None."""
    if importlib.util.find_spec("decord") is None or os.path.isdir(path):
        return None
    timing = scan(path)
    with open_container(path) as container:
        stream = video_stream(container, path)
        frame = next(decoded(container, stream, path), None)
        plain = (
            frame is not None
            and stream.codec_context.name in ("h264", "hevc", "vp8", "vp9", "libvpx-vp9")
            and frame.format.name in ("yuv420p", "yuvj420p")
            and Geometry.of(frame, stream.sample_aspect_ratio)
            == Geometry((frame.width, frame.height), (frame.width, frame.height))
        )
        seconds = np.array(timing.pts) * float(time_base(stream))
    if not plain or not timing.container.startswith(SEEKABLE[:2]) or timing.leading:
        return None
    if timing.missing or timing.discarded or timing.jumps or len(set(timing.pts)) != len(timing.pts):
        return None
    return timing.pts if _same_times(_decord_reader(path), seconds) else None


def _same_times(reader: Any, seconds: np.ndarray) -> bool:
    if len(reader) != len(seconds):
        return False
    theirs = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0]
    tolerance = 0.25 * np.diff(seconds).min(initial=0.04)
    return bool(np.abs(theirs - seconds).max() < tolerance)


def _decord_reader(path: str | Path) -> Any:
    import decord

    return decord.VideoReader(os.path.abspath(path), ctx=decord.cpu(0), num_threads=1)


def decord_frames(path: str | Path, wanted: Wanted) -> Iterator[tuple[int, av.VideoFrame]]:
    if importlib.util.find_spec("decord") is None:
        raise ValueError('decord is not installed; pip install "remot[decord]", or read with decoder="pyav"')
    pts = _decord_pts(path)
    if pts is None:
        raise ValueError(f'decord is not proved to give the right frames of {path}; read it with decoder="pyav"')
    reader = _decord_reader(path)
    picked = [i for i, p in enumerate(pts) if p in wanted and (wanted.end is None or p < wanted.end)]
    return ((pts[i], av.VideoFrame.from_ndarray(reader[i].asnumpy(), format="rgb24")) for i in picked)
