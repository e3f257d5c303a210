"""Probe, decode and write videos. Time is PTS; the picture is the displayed one.

The reference decoder is PyAV read in order: variable frame rate, edit lists and B-frames come out right, and
nothing depends on the frame count that a container claims. The displayed picture is the stored one with
non-square pixels made square, mirrored and turned as its display matrix says; every size and crop here is in
displayed pixels. Only local files are opened.

A folder of pictures (PNG, JPEG, BMP, WebP) is a video too: a frame a file, in natural order of the names, at a
frame rate that the caller gives. An EXIF orientation is not applied to them.

What comes out is 8-bit RGB by the matrix and range that the file names. Deeper pictures are rounded to 8 bits.
There is no tone mapping: HDR (PQ, HLG) keeps its code values and looks flat. Interlaced pictures come out as they
are coded, both fields woven. Transparency is dropped.
"""

from __future__ import annotations

import errno
import importlib.util
import logging
import math
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, dropwhile
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.container
import av.filter
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.stream import Disposition
from av.video.frame import PictureType

from remot_data.errors import RemotError
from remot_data.records import REASONS, Record

log = logging.getLogger(__name__)

Box = tuple[float, float, float, float]

# Containers whose seek lands where their timestamps say; the others are always read from the beginning.
_SEEKABLE = ("mov,mp4", "matroska", "mpegts")
# Containers that hold their pictures and sound themselves: a playlist or a description leads to other files, and FFmpeg
# takes a text of any name for one.
_CONTAINERS = (
    "3g2,3gp,aac,ac3,aiff,amr,ape,apng,asf,au,av1,avi,caf,dirac,dnxhd,dts,dv,eac3,evc,flac,flic,flv,gif,gxf,h261,h263,"
    "h264,hevc,ivf,live_flv,m4v,matroska,mjpeg,mov,mp3,mp4,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rawvideo,rm,roq,smk,"
    "swf,tta,vc1,vvc,w64,wav,webm,wtv,wv,yuv4mpegpipe,"
    # A single picture, as the source of a transfer.
    "bmp_pipe,jpeg_pipe,png_pipe,tiff_pipe,webp_pipe"
)
# Stored formats with four luma columns a chroma sample: even offsets do not fit them.
_WIDE_CHROMA = ("yuv410p", "yuv411p", "yuvj411p", "uyyvyy411")
_BACK_OFFS = (1, 4, 16)  # seconds
_MOST_HELD = 8  # B frames in a row that are waited for

# How the files of a folder of pictures begin and end, and what decodes them. The last two say their size instead.
_PICTURES = {
    "png": (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"),
    "mjpeg": (b"\xff\xd8\xff", b"\xff\xd9"),
    "bmp": (b"BM", b""),
    "webp": (b"RIFF", b""),
}
_PICTURE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp"))
_PICTURE_RATE = 30.0  # frames a second, where nobody says


class VideoError(RemotError):
    """A video that cannot be used: `code` is one of `records.REASONS`, `detail` says where and why."""

    def __init__(self, code: str, detail: str) -> None:
        if code not in REASONS:
            raise ValueError(f"unknown reason code {code!r}")
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class EncodeError(RemotError, RuntimeError):
    """ffmpeg refused to write a video; the message ends with ffmpeg's own words."""


@dataclass(frozen=True)
class Probe(Record):
    """What a video is, measured by demuxing all of it and decoding one frame.

    `size` is the displayed width, height; `stored_size` that of the coded picture; `rotation` the degrees
    (0, 90, 180, 270) that the stored picture is turned counter-clockwise for display, after it was mirrored
    left to right where `mirrored` says so. `codec` is ``images`` for a folder of pictures. `frames` counts the
    packets that are to be shown (the container's own count is never used), `fps` is the average over them,
    `seconds` the time from the first frame to the end of the last. `first_pts` is in units of `time_base`
    (numerator, denominator) seconds.
    """

    size: tuple[int, int]
    stored_size: tuple[int, int]
    rotation: int
    codec: str
    time_base: tuple[int, int]
    frames: int
    fps: float
    seconds: float
    has_audio: bool
    first_pts: int
    mirrored: bool = False


# --- geometry -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Geometry:
    """The map between displayed and stored pixels: made square, mirrored left to right, then turned.

    `turns` are quarter turns counter-clockwise.
    """

    stored: tuple[int, int]
    upright: tuple[int, int]
    turns: int = 0
    mirrored: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame, aspect: Fraction | None) -> _Geometry:
        """From a decoded frame and the width of a pixel over its height (None or 0: square)."""
        width = round(frame.width * aspect) if aspect else frame.width
        return cls((frame.width, frame.height), (max(width, 1), frame.height), *_orientation(frame))

    @property
    def displayed(self) -> tuple[int, int]:
        return self.upright if self.turns % 2 == 0 else self.upright[::-1]

    def to_stored(self, box: Box) -> Box:
        x, y, w, h = box
        width, height = self.upright
        if self.turns == 1:
            x, y, w, h = width - (y + h), x, h, w
        elif self.turns == 2:
            x, y = width - (x + w), height - (y + h)
        elif self.turns == 3:
            x, y, w, h = y, height - (x + w), h, w
        if self.mirrored:
            x = width - (x + w)
        scale = self.stored[0] / width
        return x * scale, y, w * scale, h

    def to_displayed(self, box: Box) -> Box:
        scale = self.upright[0] / self.stored[0]
        x, y, w, h = box[0] * scale, box[1], box[2] * scale, box[3]
        width, height = self.upright
        if self.mirrored:
            x = width - (x + w)
        if self.turns == 1:
            return y, width - (x + w), h, w
        if self.turns == 2:
            return width - (x + w), height - (y + h), w, h
        if self.turns == 3:
            return height - (y + h), x, h, w
        return x, y, w, h

    def show(self, picture: np.ndarray) -> np.ndarray:
        """A stored picture [H, W, 3], already of the displayed shape, mirrored and turned."""
        return np.ascontiguousarray(np.rot90(picture[:, ::-1] if self.mirrored else picture, self.turns))

    def even_box(self, crop: Box) -> tuple[int, int, int, int]:
        """The box of stored pixels with even corners that is nearest to `crop` (displayed pixels)."""
        x, y, w, h = self.to_stored(crop)
        left, top = _even(x), _even(y)
        right, bottom = max(_even(x + w), left + 2), max(_even(y + h), top + 2)
        if left >= self.stored[0] or top >= self.stored[1] or right <= 0 or bottom <= 0:
            raise ValueError(f"the crop {tuple(crop)} lies outside the picture of {self.displayed} pixels")
        return left, top, right - left, bottom - top


def _orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Quarter turns counter-clockwise for display, and whether the picture is mirrored left to right before them.

    From FFmpeg's display matrix, whose first two rows say where the right and the lower neighbour of a pixel are shown.
    """
    # Not `frame.side_data`: that makes a cycle, which would keep the picture until the garbage collector comes by.
    matrix = SideDataContainer(frame).get("DISPLAYMATRIX")
    if matrix is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return round(math.degrees(math.atan2(-b, a)) / 90) % 4, mirrored


def _even(value: float) -> int:
    return 2 * math.floor(value / 2 + 0.5)


def round_crop(crop: Box, video: Probe) -> Box:
    """The crop that `read` really uses for `crop`: even whole pixels of the stored picture, as x, y, w, h.

    Even, because chroma is stored at half size; given in displayed pixels, so it is whole there too unless
    the pixels are not square. Rounding a rounded crop changes nothing, so record this one.

    Raises:
        ValueError: the crop lies wholly outside the picture.
    """
    turns = video.rotation // 90
    upright = video.size if turns % 2 == 0 else video.size[::-1]
    geometry = _Geometry(video.stored_size, upright, turns, video.mirrored)
    x, y, w, h = geometry.to_displayed(geometry.even_box(crop))
    return float(x), float(y), float(w), float(h)


# --- opening and probing ------------------------------------------------------------------------------------


def _open(path: str | Path) -> av.container.InputContainer:
    """Open a local file. It may be no playlist, and nothing in it may lead to another file or to the network."""
    if not os.path.isfile(path):
        raise VideoError("unreadable", f"{path} is not a file")
    options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
    try:
        return av.open("file:" + os.path.abspath(path), container_options=options, metadata_errors="ignore")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) == errno.EINVAL:
            why += " (not a container of video, or a playlist)"
        raise VideoError("unreadable", f"{path}: {why}") from error


def _video_stream(container: av.container.InputContainer, path: str | Path) -> av.VideoStream:
    """The largest video stream that is not a cover picture, set to decode in one thread."""
    streams = [s for s in container.streams.video if not _is_cover(s)]
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "no stream"
        raise VideoError("no-video-stream", f"{path} holds {kinds} and no moving picture")
    streams = [s for s in streams if s.codec_context is not None]
    if not streams:
        raise VideoError("unreadable", f"{path}: FFmpeg has no decoder for its video stream")
    stream = max(streams, key=lambda s: s.width * s.height)
    stream.codec_context.thread_count = 1
    return stream


def _is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def probe(path: str | Path, fps: float | None = None) -> Probe:
    """Size, rotation, codec, frame count and timing of a video; reads the whole file, decodes one frame.

    A file that was cut off is found by its index, by a broken fragment, or by a Matroska header. What has none of
    these (MPEG-TS, AVI, a fragmented MP4 cut between two fragments) gives the frames that are there.

    Args:
        fps: frames a second of a folder of pictures, 30 where nobody says; ignored for a file, which has times.

    Raises:
        VideoError: ``unreadable``, ``no-video-stream``, ``truncated`` or ``no-frames``.
    """
    if os.path.isdir(path):
        return _probe_folder(path, fps)
    timing = _scan(path)
    with _open(path) as container:
        stream = _video_stream(container, path)
        pts, frame = next(_mended(_decoded(container, stream, path), stream), (0, None))
        if frame is None:
            raise VideoError("no-frames", f"{path}: none of {len(timing.pts)} packets gives a frame")
        geometry = _Geometry.of(frame, stream.sample_aspect_ratio)
        span = float((timing.pts[-1] - timing.pts[0]) * stream.time_base)
        nominal = float(stream.average_rate or stream.guessed_rate or 0)
        return Probe(
            size=geometry.displayed,
            stored_size=geometry.stored,
            rotation=geometry.turns * 90,
            mirrored=geometry.mirrored,
            codec=stream.codec_context.name,
            time_base=(stream.time_base.numerator, stream.time_base.denominator),
            frames=len(timing.pts),
            fps=(len(timing.pts) - 1) / span if span else nominal,
            seconds=float((timing.end - timing.pts[0]) * stream.time_base),
            has_audio=bool(container.streams.audio),
            first_pts=pts,
        )


@dataclass(frozen=True)
class _Timing:
    """What demuxing a whole file tells of its video stream.

    `pts` are those of the frames to be shown, in order, and `end` that of the end of the last one; `missing` where
    a packet had none, `discarded` where an edit list hides packets, `leading` where the file does not begin with a
    key frame that is also the first to be shown.
    """

    pts: list[int]
    end: int
    missing: bool
    discarded: bool
    leading: bool
    container: str


def _scan(path: str | Path) -> _Timing:
    """Demux every packet; `VideoError` where the file ends before its index or its header says."""
    shown: list[tuple[int, int, bool]] = []  # PTS, end, key frame; in decoding order
    missing = discarded = False
    seconds = 0.0
    with _open(path) as container:
        stream = _video_stream(container, path)
        step = _step(stream)
        for packet in _packets(container, None, path):
            pts = packet.pts if packet.pts is not None else packet.dts
            if pts is not None and packet.time_base:
                seconds = max(seconds, float((pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != stream.index or not packet.size:
                continue
            if packet.is_discard:
                discarded = True
                continue
            missing |= packet.pts is None
            if pts is None:
                pts = shown[-1][0] + step if shown else 0
            shown.append((pts, pts + (packet.duration or step), packet.is_keyframe))
        _check_whole(container, stream, seconds, path)
        if not shown:
            raise VideoError("no-frames", f"{path}: the video stream has no packet to show")
        pts, ends, keys = zip(*shown, strict=True)
        leading = not keys[0] or min(pts) < pts[0]
        return _Timing(sorted(pts), max(ends), missing, discarded, leading, container.format.name)


def _check_whole(
    container: av.container.InputContainer, stream: av.VideoStream, seconds: float, path: str | Path
) -> None:
    """Hold the end of the file against its index, and the end of a Matroska file against its header."""
    have, reach = os.path.getsize(path), max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if reach > have:
        raise VideoError("truncated", f"{path} has {have} bytes; its index reaches to {reach}")
    # Elsewhere the duration may be a guess from the bit rate, or that of a track which is not read.
    if not container.format.name.startswith("matroska"):
        return
    end = _segment_end(path)
    if end is not None and end > have:
        raise VideoError("truncated", f"{path} has {have} bytes; its header says {end}")
    promised = (container.duration or 0) / av.time_base
    if seconds < promised - max(1.0, 0.02 * promised):
        raise VideoError("truncated", f"{path} ends at {seconds:.2f} s; its header says {promised:.2f} s")


def _segment_end(path: str | Path) -> int | None:
    """Where a Matroska file ends by the size of its segment (RFC 8794, 9559); None where that is left open."""
    with open(path, "rb") as file:
        head = file.read(1024)
    at = 0
    for element in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):
        if not head.startswith(element, at) or len(head) < at + 12:
            return None
        length = 9 - head[at + 4].bit_length()
        size = int.from_bytes(head[at + 4 : at + 4 + length], "big") & (1 << 7 * length) - 1
        if size == (1 << 7 * length) - 1:
            return None
        start, at = at + 4 + length, at + 4 + length + size
    return start + size


def _step(stream: av.VideoStream) -> int:
    """The nominal time between two frames, in the stream's time base; at least 1."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate or Fraction(25)
    return max(round(1 / (rate * stream.time_base)), 1)


# --- decoding -----------------------------------------------------------------------------------------------


def _packets(
    container: av.container.InputContainer, stream: av.VideoStream | None, path: str | Path
) -> Iterator[av.Packet]:
    try:
        yield from container.demux(stream) if stream is not None else container.demux()
    except av.error.FFmpegError as error:
        raise VideoError("truncated", f"{path}: reading stops before the end: {error.strerror}") from error


def _decoded(
    container: av.container.InputContainer, stream: av.VideoStream, path: str | Path
) -> Iterator[av.VideoFrame]:
    """Frames in presentation order, without those that damage may have reached.

    A decoder conceals what it cannot decode and marks that frame only, though others are predicted from it. So a
    damaged frame is left out with all that follow up to the next key frame, and with the B frames just before it,
    which are held back until their later reference is seen. A packet that gives an error counts as a damaged frame.
    """
    held: list[av.VideoFrame] = []
    failed: list[int | None] = []  # PTS of packets without a frame, until their place in the order is reached
    broken, lost = False, 0
    for frame in _all_frames(container, stream, path, failed):
        passed = [pts for pts in failed if pts is None or frame.pts is None or pts < frame.pts]
        if passed or frame.is_corrupt:
            failed[:] = [pts for pts in failed if pts not in passed]
            broken, lost, held = True, lost + len(passed) + len(held), []
        if frame.key_frame and not frame.is_corrupt:
            broken = False
        if broken:
            lost += 1
            continue
        held.append(frame)
        if frame.pict_type != PictureType.B or len(held) > _MOST_HELD:
            yield from held
            held = []
    if failed:
        lost, held = lost + len(failed) + len(held), []
    yield from held
    if lost:
        log.warning("%s: %d damaged frame(s) are left out", path, lost)


def _all_frames(
    container: av.container.InputContainer, stream: av.VideoStream, path: str | Path, failed: list[int | None]
) -> Iterator[av.VideoFrame]:
    """Frames in presentation order, sound or not; the PTS of packets that gave none are appended to `failed`."""
    for packet in _packets(container, stream, path):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            failed.append(packet.pts)
        except av.error.FFmpegError as error:
            raise VideoError("unreadable", f"{path}: the decoder stops: {error.strerror}") from error


def _mended(frames: Iterable[av.VideoFrame], stream: av.VideoStream) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames with strictly increasing PTS, all of them kept.

    A missing PTS becomes the frame's DTS where that is later than the frame before, or else the PTS before plus
    one nominal frame time (0 for the first); a PTS that does not increase becomes the PTS before plus 1.
    """
    last: int | None = None
    step = _step(stream)
    for frame in frames:
        pts = frame.pts
        if pts is None:
            following = 0 if last is None else last + step
            pts = frame.dts if frame.dts is not None and (last is None or frame.dts > last) else following
        last = pts if last is None else max(pts, last + 1)
        yield last, frame


def _frames_from(path: str | Path, start: int | None) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames with their PTS, from `start` on: sought where that is safe, read from the beginning where not."""
    for seconds in _BACK_OFFS if start is not None else ():
        with _open(path) as container:
            stream = _video_stream(container, path)
            target = start - math.ceil(seconds / stream.time_base)
            if not container.format.name.startswith(_SEEKABLE) or target <= (stream.start_time or 0):
                break
            container.seek(target, stream=stream)
            # Leading pictures of an open group need frames from before the seek: they are not to be trusted.
            frames = dropwhile(lambda frame: not frame.key_frame, _decoded(container, stream, path))
            first = next(frames, None)
            if first is not None and first.pts is not None and first.pts <= start:
                yield from _mended(chain([first], frames), stream)
                return
    with _open(path) as container:
        stream = _video_stream(container, path)
        yield from _mended(_decoded(container, stream, path), stream)


class _Picture:
    """Turns decoded frames into displayed RGB: crop, scale and conversion are one pass of FFmpeg's filters."""

    def __init__(
        self,
        path: str | Path,
        shape: Callable[[av.VideoFrame], _Geometry],
        crop: Box | None,
        size: tuple[int, int] | None,
    ) -> None:
        self._path, self._shape, self._crop, self._size = path, shape, crop, size
        self._geometry: _Geometry | None = None
        self._pixels = ""

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        geometry = self._shape(frame)
        if self._geometry is not None and geometry != self._geometry:
            was, now = (f"{'x'.join(map(str, g.stored))} turned {g.turns * 90}" for g in (self._geometry, geometry))
            detail = f"{self._path}: the picture changes from {was} to {now} at PTS {frame.pts}; re-encode it to one"
            raise VideoError("unreadable", detail)
        if frame.format.name != self._pixels:
            self._geometry, self._pixels = geometry, frame.format.name
            self._graph = self._build(frame)
        self._graph.push(frame)
        return geometry.show(self._graph.pull().to_ndarray())

    def _build(self, frame: av.VideoFrame) -> av.filter.Graph:
        geometry = self._geometry
        box = geometry.even_box(self._crop) if self._crop is not None else (0, 0, *geometry.stored)
        steps = _crop_steps(box, geometry.stored, frame.format.name) if self._crop is not None else []
        width, height = self._target(box)
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

    def _target(self, box: tuple[int, int, int, int]) -> tuple[int, int]:
        """Width and height of the result before it is turned."""
        if self._size is None:
            shown = self._geometry.to_displayed(box)
            height, width = max(round(shown[3]), 1), max(round(shown[2]), 1)
        else:
            height, width = self._size
        return (width, height) if self._geometry.turns % 2 == 0 else (height, width)


def _crop_steps(box: tuple[int, int, int, int], stored: tuple[int, int], pixels: str) -> list[tuple[str, str]]:
    """FFmpeg filters that cut `box` out of a picture of size `stored`, repeating its border outside."""
    x, y, w, h = box
    left, top = max(-x, 0), max(-y, 0)
    right, bottom = max(x + w - stored[0], 0), max(y + h - stored[1], 0)
    width, height = w - left - right, h - top - bottom
    outside = bool(left or top or right or bottom)
    # The pad filter loses the last column or row of an odd picture whose chroma is stored at half size.
    full_chroma = pixels in _WIDE_CHROMA or (outside and (width % 2 or height % 2))
    steps = [("format", "yuv444p")] if full_chroma else []
    steps.append(("crop", f"{width}:{height}:{max(x, 0)}:{max(y, 0)}:exact=1"))
    if outside:
        steps += [("pad", f"{w}:{h}:{left}:{top}"), ("fillborders", f"{left}:{right}:{top}:{bottom}:smear")]
    return steps


def read(
    path: str | Path,
    *,
    start_pts: int | None = None,
    end_pts: int | None = None,
    only: Collection[int] | None = None,
    crop: Box | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    decoder: str = "pyav",
    passing: bool = False,
) -> Iterator[tuple[int, np.ndarray]]:
    """The frames of a video in presentation order, as (PTS, uint8 [H, W, 3] RGB), PTS strictly increasing.

    A missing or repeated PTS is mended (see `_mended`). Frames that damage may have reached are left out (see
    `_decoded`) with a warning in the log, so count the frames that come. A frame is held at a time, and the B frames
    before it.

    Args:
        start_pts, end_pts: half-open range [start, end) in the stream's time base. Reading from `start_pts`
            gives the frames that reading in order gives; it seeks where the container allows that.
        only: the PTS that are wanted, or None for all. Reading begins at the first and ends after the last of
            them; what lies between is decoded and neither converted nor given. A PTS without a frame gives none.
        crop: x, y, width, height in displayed pixels, rounded by `round_crop`; outside the picture its border
            is repeated.
        size: (H, W) of the result; shrinking averages areas, enlarging is bicubic. None: displayed pixels.
        fps: frames a second of a folder of pictures, as for `probe`: its PTS are 0, 1, 2, ... at any rate.
        decoder: ``pyav``, or ``decord`` for files that `decord_agrees` on: the same frames with slightly different
            colours. decord converts whole pictures first, so it is the slower one where `crop` or `size` is given
            (``benchmarks/decode.py``).
        passing: also give the frames that are passed over on the way, with an empty picture [0, 0, 3]: a sign of life
            where the way is long, as in a container that has to be read from the beginning.

    Raises:
        VideoError: as `probe`, or the picture changes size midway.
        ValueError: the crop lies outside the picture, or decord is not installed or not safe for this file.
    """
    if decoder not in ("pyav", "decord"):
        raise ValueError(f"unknown decoder {decoder!r}: write 'pyav' or 'decord'")
    wanted = _Wanted.of(start_pts, end_pts, only)
    if decoder == "decord":
        return _pictures(_decord_frames(path, wanted), _Picture(path, _as_stored, crop, size), wanted, passing)
    if os.path.isdir(path):
        return _pictures(_folder_frames(path, fps, wanted), _Picture(path, _as_stored, crop, size), wanted, passing)
    with _open(path) as container:
        aspect = _video_stream(container, path).sample_aspect_ratio
    picture = _Picture(path, lambda frame: _Geometry.of(frame, aspect), crop, size)
    return _pictures(_frames_from(path, wanted.start), picture, wanted, passing)


def _as_stored(frame: av.VideoFrame) -> _Geometry:
    """Neither mirrored nor turned: FFmpeg tells the EXIF orientation of some formats only, and not in every version."""
    return _Geometry((frame.width, frame.height), (frame.width, frame.height))


@dataclass(frozen=True)
class _Wanted:
    """The half-open range of PTS to read, and which of them are wanted (None: all)."""

    start: int | None
    end: int | None
    only: frozenset[int] | None

    @classmethod
    def of(cls, start: int | None, end: int | None, only: Collection[int] | None) -> _Wanted:
        if only is None:
            return cls(start, end, None)
        first, last = (min(only), max(only)) if len(only) else (0, -1)
        start = first if start is None else max(start, first)
        return cls(start, last + 1 if end is None else min(end, last + 1), frozenset(only))

    def __contains__(self, pts: object) -> bool:
        return (self.start is None or pts >= self.start) and (self.only is None or pts in self.only)


_NO_PICTURE = np.empty((0, 0, 3), np.uint8)


def _pictures(
    frames: Iterator[tuple[int, av.VideoFrame]], picture: _Picture, wanted: _Wanted, passing: bool
) -> Iterator[tuple[int, np.ndarray]]:
    for pts, frame in frames:
        if wanted.end is not None and pts >= wanted.end:
            return
        if pts in wanted:
            yield pts, picture(frame)
            if wanted.end == pts + 1:
                return
        elif passing:
            yield pts, _NO_PICTURE


# --- folders of pictures ------------------------------------------------------------------------------------


def frame_names(folder: str | Path) -> list[str]:
    """The file names of the pictures in a folder, in the order in which they are its frames.

    Natural order: digits count as numbers, so ``9.png`` comes before ``10.png``. Hidden files and others than
    PNG, JPEG, BMP and WebP (by their suffix) are passed over, and so are folders.

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


def _folder_rate(fps: float | None) -> Fraction:
    rate = _PICTURE_RATE if fps is None else fps
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"a frame rate has to be positive, not {fps}")
    return Fraction(rate).limit_denominator(1001)


def _probe_folder(folder: str | Path, fps: float | None) -> Probe:
    names, rate = frame_names(folder), _folder_rate(fps)
    frame = _decode_picture(os.path.join(folder, names[0]))
    return Probe(
        size=(frame.width, frame.height),
        stored_size=(frame.width, frame.height),
        rotation=0,
        codec="images",
        time_base=(rate.denominator, rate.numerator),
        frames=len(names),
        fps=float(rate),
        seconds=float(len(names) / rate),
        has_audio=False,
        first_pts=0,
    )


def _folder_frames(folder: str | Path, fps: float | None, wanted: _Wanted) -> Iterator[tuple[int, av.VideoFrame]]:
    """The wanted pictures of a folder, numbered; each has to have the size of the first of them."""
    base = 1 / _folder_rate(fps)
    size: tuple[int, int] | None = None
    for number, name in enumerate(frame_names(folder)):
        if number not in wanted or (wanted.end is not None and number >= wanted.end):
            continue
        path = os.path.join(folder, name)
        frame = _decode_picture(path)
        size = size or (frame.width, frame.height)
        if (frame.width, frame.height) != size:
            shapes = f"{frame.width}x{frame.height}, those before it {size[0]}x{size[1]}"
            raise VideoError("unreadable", f"{path} is {shapes}: the pictures of a folder have to have one size")
        frame.time_base = base
        yield number, frame


def _decode_picture(path: str) -> av.VideoFrame:
    """A picture file as a frame: decoded from its bytes, so that no name or playlist leads to another file."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        codec = next((codec for codec, (begin, _) in _PICTURES.items() if data.startswith(begin)), None)
        if codec is None:
            raise VideoError("unreadable", f"{path} is no PNG, JPEG, BMP or WebP")
        if not _is_whole(codec, data):
            raise VideoError("truncated", f"{path} ends after {len(data)} bytes, before the picture does")
        context = av.CodecContext.create(codec, "r")
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


# --- decord -------------------------------------------------------------------------------------------------


def decord_agrees(path: str | Path) -> bool:
    """Whether decord shows the same frames at the same times as PyAV for this file; False where decord is absent.

    True only for square, unrotated pictures in 8-bit 4:2:0 of H.264, HEVC, VP8 or VP9 in MP4 or Matroska, with
    no edit list, no missing PTS and no leading pictures, where decord's time of every frame is the demuxed one.
    Never for a folder of pictures.
    """
    return _decord_pts(path) is not None


def _decord_pts(path: str | Path) -> list[int] | None:
    """The PTS of decord's frames if they are proved to be those of the file, or else None."""
    if importlib.util.find_spec("decord") is None or os.path.isdir(path):
        return None
    timing = _scan(path)
    with _open(path) as container:
        stream = _video_stream(container, path)
        frame = next(_decoded(container, stream, path), None)
        plain = (
            frame is not None
            and stream.codec_context.name in ("h264", "hevc", "vp8", "vp9", "libvpx-vp9")
            and frame.format.name in ("yuv420p", "yuvj420p")
            and _Geometry.of(frame, stream.sample_aspect_ratio)
            == _Geometry((frame.width, frame.height), (frame.width, frame.height))
        )
        seconds = np.array(timing.pts) * float(stream.time_base)
    if not plain or not timing.container.startswith(_SEEKABLE[:2]) or timing.leading:
        return None
    if timing.missing or timing.discarded or len(set(timing.pts)) != len(timing.pts):
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


def _decord_frames(path: str | Path, wanted: _Wanted) -> Iterator[tuple[int, av.VideoFrame]]:
    if importlib.util.find_spec("decord") is None:
        raise ValueError('decord is not installed; pip install "remot[decord]", or read with decoder="pyav"')
    pts = _decord_pts(path)
    if pts is None:
        raise ValueError(f'decord is not proved to give the right frames of {path}; read it with decoder="pyav"')
    reader = _decord_reader(path)
    picked = [i for i, p in enumerate(pts) if p in wanted and (wanted.end is None or p < wanted.end)]
    return ((pts[i], av.VideoFrame.from_ndarray(reader[i].asnumpy(), format="rgb24")) for i in picked)


# --- time ---------------------------------------------------------------------------------------------------


def pick(times: np.ndarray, fps: float | None) -> np.ndarray:
    """Which frames to keep for a frame rate, chosen by time: indices, strictly increasing, starting with 0.

    At each tick k / fps after the first frame the frame on show is kept, once; the last frame is on show as long
    as the one before it. A source that is nowhere faster than `fps` gives every frame once: nothing is repeated.
    Containers round times to their time base, so times that differ by up to 1 ms (at most a quarter of a tick)
    count as the same in both rules.

    Args:
        times: float [N], seconds, strictly increasing.
        fps: frames a second wanted, or None for every frame.

    Raises:
        ValueError: times that do not increase, or a rate that is not positive.
    """
    times = np.asarray(times, np.float64)
    gaps = np.diff(times) if times.ndim == 1 else np.zeros(1)
    if not (gaps > 0).all():
        raise ValueError("the times of the frames have to be one strictly increasing row of numbers")
    if fps is not None and not (fps > 0 and math.isfinite(fps)):
        raise ValueError(f"a frame rate has to be positive, not {fps}")
    slack = 0.0 if fps is None else min(1e-3, 0.25 / fps)
    if fps is None or gaps.min(initial=np.inf) >= 1 / fps - slack:
        return np.arange(len(times))
    since = times - times[0]
    ticks = np.arange(math.ceil((since[-1] + gaps[-1]) * fps)) / fps
    shown = np.searchsorted(since, ticks[ticks < since[-1] + gaps[-1] - slack] + slack, side="right") - 1
    return np.unique(shown)


# --- writing ------------------------------------------------------------------------------------------------


def ffmpeg_binary() -> str:
    """The ffmpeg that writes videos: the one that `REMOT_FFMPEG` names, or else the carried one.

    Not the first on the PATH: another version may write other bytes, or drop what it does not know.

    Raises:
        EncodeError: there is none.
    """
    return chosen_ffmpeg() or carried_ffmpeg()


def chosen_ffmpeg() -> str | None:
    """The program that the environment variable `REMOT_FFMPEG` names, a path or a name on the PATH; None if unset.

    Raises:
        EncodeError: it is no program.
    """
    name = os.environ.get("REMOT_FFMPEG")
    if not name:
        return None
    found = shutil.which(name)
    if found is None:
        raise EncodeError(f"REMOT_FFMPEG={name} is no program that can be run; unset it to use the carried ffmpeg")
    return os.path.abspath(found)


def carried_ffmpeg() -> str:
    """The program in the wheel of imageio-ffmpeg.

    Raises:
        EncodeError: the package carries none.
    """
    # Not `imageio_ffmpeg.get_ffmpeg_exe`: where it finds none of its own, that answers with any other.
    try:
        import imageio_ffmpeg

        folders = list(imageio_ffmpeg.__path__)
    except ImportError:
        folders = []
    for path in sorted(path for folder in folders for path in Path(folder, "binaries").glob("ffmpeg-*")):
        if os.access(path, os.X_OK):
            return str(path)
    raise EncodeError(
        f"imageio-ffmpeg carries no ffmpeg that can be run ({', '.join(folders) or 'it is not installed'}): "
        "install its wheel for this machine, or set REMOT_FFMPEG to the path of another ffmpeg, 5.1 or newer"
    )


def _input(path: str | Path, **options: Any) -> Any:
    """A local file as an input of an ffmpeg command."""
    import ffmpeg

    return ffmpeg.input("file:" + os.path.abspath(path), protocol_whitelist="file", **options)


def _part(out: Path) -> Path:
    """A temporary name beside `out`; the suffix stays, since it chooses the container."""
    return out.with_name(f".{out.stem}.{uuid.uuid4().hex[:12]}.part{out.suffix}")


class _Encoding:
    """A running ffmpeg that writes `out` under a temporary name until it is whole."""

    def __init__(self, out: Path, streams: list[Any], options: dict[str, Any]) -> None:
        import ffmpeg

        self._out, self._part = out, _part(out)
        # A frame in is a frame out. Left to itself, ffmpeg doubles or drops frames as version and container have it.
        options = {"fps_mode": "passthrough", **options}
        node = ffmpeg.output(*streams, "file:" + os.path.abspath(self._part), **options)
        command = node.global_args("-hide_banner", "-v", "error", "-y").compile(cmd=ffmpeg_binary())
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
            )
        except OSError as error:
            self._errors.close()
            raise EncodeError(f"{out} cannot be written: ffmpeg does not start: {error}") from error

    def write(self, data: bytes | memoryview) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
        except BrokenPipeError as error:
            raise self._failed() from error

    def finish(self) -> None:
        """Wait for ffmpeg and give the file its name."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError as error:
            raise self._failed() from error
        if self._process.wait():
            raise self._failed()
        os.replace(self._part, self._out)

    def close(self) -> None:
        """Stop ffmpeg if it still runs and remove what is not finished."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdin is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                log.debug("ffmpeg had already closed its input")
        self._errors.close()
        self._part.unlink(missing_ok=True)

    def _failed(self) -> EncodeError:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        words = "; ".join(line.strip() for line in lines[-4:]) or "it gave no reason"
        return EncodeError(f"{self._out} cannot be written: ffmpeg ended with status {status}: {words}")


def _h264(crf: int) -> dict[str, Any]:
    """H.264 that every player and browser opens, tagged with the colours it has."""
    return {
        "vcodec": "libx264",
        "crf": crf,
        "pix_fmt": "yuv420p",
        "movflags": "+faststart",
        "vf": "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int",
        "colorspace": "bt709",
        "color_primaries": "bt709",
        "color_trc": "bt709",
        "color_range": "tv",
    }


class VideoWriter:
    """Write RGB frames as an H.264 video of constant frame rate; a context manager.

    The file appears under its name when the block ends without an error, and not at all otherwise.

    Args:
        path: the file; its suffix chooses the container (``.mp4``, ``.mkv``, ``.mov``).
        fps: frames a second.
        size: (H, W) of the frames, both even (4:2:0 has no odd sizes).
        crf: quality of x264, 0 (lossless) to 51; 18 looks like the original.
    """

    def __init__(self, path: str | Path, fps: float | Fraction, size: tuple[int, int], *, crf: int = 18) -> None:
        if fps <= 0:
            raise ValueError(f"a frame rate has to be positive, not {fps}")
        if size[0] % 2 or size[1] % 2 or min(size) <= 0:
            raise ValueError(f"H.264 needs an even height and width, not {size[0]} x {size[1]}; pad the frames by one")
        self.path = Path(path)
        self.size = (int(size[0]), int(size[1]))
        self.frames = 0
        self._rate, self._crf = Fraction(fps).limit_denominator(1001), crf

    def __enter__(self) -> VideoWriter:
        import ffmpeg

        if not self.path.parent.is_dir():
            raise EncodeError(f"{self.path} cannot be written: there is no folder {self.path.parent}")
        height, width = self.size
        pipe = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=str(self._rate))
        self._encoding = _Encoding(self.path, [pipe], _h264(self._crf))
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append a frame, uint8 [H, W, 3] RGB."""
        if frame.shape != (*self.size, 3) or frame.dtype != np.uint8:
            raise ValueError(f"{self.path} takes uint8 frames of {(*self.size, 3)}, not {frame.dtype} {frame.shape}")
        self._encoding.write(np.ascontiguousarray(frame).data)
        self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and not self.frames:
                raise EncodeError(f"{self.path} cannot be written: it was given no frame")
            if kind is None:
                self._encoding.finish()
        finally:
            self._encoding.close()


def _encode(out: str | Path, streams: list[Any], options: dict[str, Any]) -> None:
    encoding = _Encoding(Path(out), streams, options)
    try:
        encoding.finish()
    finally:
        encoding.close()


def join(parts: Sequence[str | Path], out: str | Path) -> None:
    """Write the pictures of videos of one size, rate and encoding one after the other, untouched and without sound.

    All have to lie in one folder; a list of them is there while it is read.

    Raises:
        EncodeError: ffmpeg failed.
    """
    import ffmpeg

    names = [Path(part).name for part in parts]
    listing = Path(parts[0]).with_name(f".{uuid.uuid4().hex[:12]}.txt")
    try:
        listing.write_text("".join(f"file '{name}'\n" for name in names))
        source = ffmpeg.input("file:" + os.path.abspath(listing), format="concat", protocol_whitelist="file")
        _encode(out, [source["v:0"]], {"vcodec": "copy", "movflags": "+faststart"})
    finally:
        listing.unlink(missing_ok=True)


def mux_audio(video: str | Path, sound_from: str | Path, out: str | Path) -> None:
    """Write `out` with the pictures of `video`, untouched, and the sound of `sound_from` from its first frame on.

    AAC and MP3 are copied, any other sound becomes AAC. The sound is cut where the pictures end; where it ends
    earlier the pictures go on in silence.

    Raises:
        ValueError: `sound_from` has no sound.
        EncodeError: ffmpeg failed.
    """
    heard, shown = probe(sound_from), probe(video)
    if not heard.has_audio:
        raise ValueError(f"{sound_from} has no sound to copy")
    with _open(sound_from) as container:
        codec = container.streams.audio[0].codec_context.name
        skip = _before_the_first_frame(container, heard)
    sound = _input(sound_from, **({"ss": f"{float(skip):.6f}"} if skip > 0 else {}))
    options = {"vcodec": "copy", "acodec": "copy" if codec in ("aac", "mp3") else "aac", "movflags": "+faststart"}
    _encode(out, [_input(video)["v:0"], sound["a:0"]], {**options, "t": f"{shown.seconds:.6f}"})


def cut(path: str | Path, out: str | Path, start: float, end: float) -> None:
    """Write the part of a video from `start` to `end` (seconds from its first frame), encoded anew, with its sound.

    Every frame of the part comes out once, as long after the others as it was. Times are rounded to the time base of
    the video.

    Raises:
        ValueError: the part is empty or lies outside the video, or the video is a folder of pictures.
        VideoError: as `probe`.
        EncodeError: ffmpeg failed.
    """
    found = probe(path)
    if found.codec == "images":
        raise ValueError(f"{path} is a folder of pictures; copy the files of the part that is wanted")
    if not 0 <= start < min(end, found.seconds):
        raise ValueError(f"{path} of {found.seconds:.2f} s has no part from {start} s to {end} s")
    with _open(path) as container:
        sought = container.format.name.startswith(_SEEKABLE[:2])
        first = start + max(float(_before_the_first_frame(container, found)), 0.0)
        shown = str(_video_stream(container, path).index)
    # By the clock: a duration (-t) would begin to count at the first frame of the part. Where a seek may land behind
    # its target, everything is decoded and the clock set back.
    if sought:
        source, trim, back = _input(path, ss=f"{first:.6f}"), f"trim=end={end - start:.6f}", "null"
    else:
        source, trim = _input(path), f"trim=start={first:.6f}:end={first + end - start:.6f}"
        back = f"setpts=PTS-{first:.6f}/TB"
    # In the source's own time base: the encoder's would be the average frame time, which a variable rate does not keep.
    options = {**_h264(18), "enc_time_base:v": "/".join(map(str, found.time_base))}
    options["vf"] = f"{trim},{back},{options['vf']}"
    streams = [source[shown]]
    if found.has_audio:
        streams.append(source["a:0"])
        options.update(acodec="aac", af=f"a{trim},a{back}")
    _encode(out, streams, options)


def _before_the_first_frame(container: av.container.InputContainer, found: Probe) -> Fraction:
    """Seconds from ffmpeg's zero, where the first of all streams begins, to the first frame."""
    return found.first_pts * Fraction(*found.time_base) - Fraction(container.start_time or 0, av.time_base)
