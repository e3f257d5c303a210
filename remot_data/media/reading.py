"""Displayed RGB pictures of a video: crop, scale and conversion in one pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Generator, Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np

from remot_data.media.container import VideoError, open_container, video_stream
from remot_data.media.folders import folder_frames
from remot_data.media.frames import Wanted, frames_from
from remot_data.media.geometry import Geometry, crop_steps, fill_outside
from remot_data.media.with_decord import decord_frames
from remot_data.records import HW, OUTSIDE, WH, XYWH

_NO_PICTURE = np.empty((0, 0, 3), np.uint8)


class _Picture:
    """Turns decoded frames into displayed RGB: crop, scale and conversion are one pass of FFmpeg's filters."""

    def __init__(
        self,
        path: str | Path,
        shape: Callable[[av.VideoFrame], Geometry],
        crop: XYWH | None,
        size: HW | None,
        outside: str | None,
    ) -> None:
        self._path, self._shape, self._crop, self._size, self._outside = path, shape, crop, size, outside or "smear"
        self._geometry: Geometry | None = None
        self._pixels = ""

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        geometry = self._shape(frame)
        if self._geometry is not None and geometry != self._geometry:
            was, now = (f"{'x'.join(map(str, g.stored))} turned {g.turns * 90}" for g in (self._geometry, geometry))
            detail = f"{self._path}: the picture changes from {was} to {now} at PTS {frame.pts}; re-encode it to one"
            raise VideoError("unreadable", detail)
        if frame.format.name != self._pixels:
            self._geometry, self._pixels = geometry, frame.format.name
            self._graph = self._build(frame, geometry)
        self._graph.push(frame)
        picture = geometry.show(self._graph.pull().to_ndarray())
        if self._crop is not None:
            box = geometry.to_displayed(XYWH(geometry.even_box(self._crop)))
            fill_outside(picture, self._outside, box, geometry.displayed)
        return picture

    def _build(self, frame: av.VideoFrame, geometry: Geometry) -> av.filter.Graph:
        box = geometry.even_box(self._crop) if self._crop is not None else (0, 0, *geometry.stored)
        steps = crop_steps(box, geometry.stored, frame.format.name) if self._crop is not None else []
        width, height = self._target(box, geometry)
        shrinks = width <= box[2] and height <= box[3]
        flags = f"{'area' if shrinks else 'bicubic'}+accurate_rnd+full_chroma_int"
        # Planar: the same values as rgb24, which swscale writes a pixel at a time where chroma is full.
        steps += [("scale", f"{width}:{height}:flags={flags}"), ("format", "gbrp")]
        graph = av.filter.Graph()
        if hasattr(graph, "threads"):  # PyAV 18 and later
            graph.threads = 1
        last = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 25)
        )
        for name, arguments in [*steps, ("buffersink", None)]:
            node = graph.add(name, arguments)
            last.link_to(node)
            last = node
        graph.configure()
        return graph

    def _target(self, box: tuple[int, int, int, int], geometry: Geometry) -> WH:
        """Size of the result before it is turned."""
        if self._size is None:
            shown = geometry.to_displayed(XYWH(box))
            height, width = max(round(shown[3]), 1), max(round(shown[2]), 1)
        else:
            height, width = self._size
        return (width, height) if geometry.turns % 2 == 0 else (height, width)


def read(
    path: str | Path,
    *,
    start_pts: int | None = None,
    end_pts: int | None = None,
    only: Collection[int] | None = None,
    crop: XYWH | None = None,
    size: HW | None = None,
    fps: float | None = None,
    decoder: str = "pyav",
    times: str | None = "continued",
    outside: str | None = None,
    passing: bool = False,
) -> Generator[tuple[int, np.ndarray], None, None]:
    """The frames of a video in presentation order, as (PTS, uint8 [H, W, 3] RGB), PTS strictly increasing.

    A missing or repeated PTS is mended (see `mended`), and so are times that jump back (see `times`). Frames that
    damage may have reached are left out (see `decoded`) with a warning in the log, so count the frames that come. A
    frame is held at a time, and the B frames before it.

    Args:
        start_pts, end_pts: half-open range [start, end) in the stream's time base. Reading from `start_pts`
            gives the frames that reading in order gives; it seeks where the container allows that.
        only: the PTS that are wanted, or None for all. Reading begins at the first and ends after the last of
            them; what lies between is decoded and neither converted nor given. A PTS without a frame gives none.
        crop: x, y, width, height in displayed pixels, rounded by `round_crop`.
        size: (H, W) of the result; shrinking averages areas, enlarging is bicubic. None: displayed pixels.
        fps: frames a second of a folder of pictures, as for `probe`: its PTS are 0, 1, 2, ... at any rate.
        decoder: ``pyav``, or ``decord`` for files that `decord_agrees` on: the same frames with slightly different
            colours. decord converts whole pictures first, so it is the slower one where `crop` or `size` is given
            (``benchmarks/decode.py``).
        times: ``continued``: where the time stamps of a file are no clock, as where two recordings were joined, they
            go on after each step back, frames whose time stands alone are left out (with a warning), and the file is
            always read from its beginning. None, as in stores from before: a PTS that does not increase becomes the
            PTS before plus 1.
        outside: what is seen where the crop reaches out of the picture: its border repeated (``smear``, the default),
            that blurred (``blur``), or ``black``. `persons.valid` tells which pixels are of the picture.
        passing: also give the frames that are skipped on the way, with an empty picture [0, 0, 3]: a sign of life
            where the way is long, as in a container that has to be read from the beginning.

    Raises:
        VideoError: as `probe`, or the picture changes size midway.
        ValueError: the crop lies outside the picture, or decord is not installed or not safe for this file.
    """
    if decoder not in ("pyav", "decord"):
        raise ValueError(f"unknown decoder {decoder!r}: write 'pyav' or 'decord'")
    if times not in ("continued", None):
        raise ValueError(f"times are 'continued' or None, not {times!r}")
    if outside not in (*OUTSIDE, None):
        raise ValueError(f"outside is {', '.join(OUTSIDE)}, not {outside!r}")
    wanted, shown = Wanted.of(start_pts, end_pts, only), (crop, size, outside)
    if decoder == "decord":
        return _pictures(decord_frames(path, wanted), _Picture(path, _as_stored, *shown), wanted, passing)
    if os.path.isdir(path):
        return _pictures(folder_frames(path, fps, wanted), _Picture(path, _as_stored, *shown), wanted, passing)
    with open_container(path) as container:
        aspect = video_stream(container, path).sample_aspect_ratio
    picture = _Picture(path, lambda frame: Geometry.of(frame, aspect), *shown)
    return _pictures(frames_from(path, wanted.start, times), picture, wanted, passing)


def _as_stored(frame: av.VideoFrame) -> Geometry:
    """Neither mirrored nor turned: FFmpeg tells the EXIF orientation of some formats only, and not in every version."""
    return Geometry((frame.width, frame.height), (frame.width, frame.height))


def _pictures(
    frames: Iterator[tuple[int, av.VideoFrame]], picture: _Picture, wanted: Wanted, passing: bool
) -> Generator[tuple[int, np.ndarray], None, None]:
    for pts, frame in frames:
        if wanted.end is not None and pts >= wanted.end:
            return
        if pts in wanted:
            yield pts, picture(frame)
            if wanted.end == pts + 1:
                return
        elif passing:
            yield pts, _NO_PICTURE
