"""Probe, decode and write videos. Time is PTS; the picture is the displayed one.

The reference decoder is PyAV read in order: variable frame rate, edit lists and B-frames come out right, and
nothing depends on the frame count that a container claims. The displayed picture is the stored one with
non-square pixels made square and the rotation flag applied; every size and crop here is in displayed pixels.
Only local files are opened.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterable, Iterator
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
from av.stream import Disposition

from remot_data.records import REASONS, Record

log = logging.getLogger(__name__)

Box = tuple[float, float, float, float]

# Containers whose seek lands where their timestamps say; the others are always read from the beginning.
_SEEKABLE = ("mov,mp4", "matroska", "mpegts")
# Stored formats with four luma columns a chroma sample: even offsets do not fit them.
_WIDE_CHROMA = ("yuv410p", "yuv411p", "yuvj411p", "uyyvyy411")
_BACK_OFFS = (1, 4, 16)  # seconds


class VideoError(Exception):
    """A video that cannot be used: `code` is one of `records.REASONS`, `detail` says where and why."""

    def __init__(self, code: str, detail: str) -> None:
        if code not in REASONS:
            raise ValueError(f"unknown reason code {code!r}")
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class EncodeError(RuntimeError):
    """ffmpeg refused to write a video; the message ends with ffmpeg's own words."""


@dataclass(frozen=True)
class Probe(Record):
    """What a video is, measured by demuxing all of it and decoding one frame.

    `size` is the displayed width, height; `stored_size` that of the coded picture; `rotation` the degrees
    (0, 90, 180, 270) that the stored picture is turned counter-clockwise for display. `frames` counts the
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


# --- geometry -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Geometry:
    """The map between displayed and stored pixels. `turns` are quarter turns counter-clockwise for display."""

    stored: tuple[int, int]
    upright: tuple[int, int]
    turns: int

    @classmethod
    def of(cls, stored: tuple[int, int], aspect: Fraction | None, rotation: int) -> _Geometry:
        """From the stored size, the width of a pixel over its height (None or 0: square) and the rotation."""
        width = round(stored[0] * aspect) if aspect else stored[0]
        return cls(stored, (max(width, 1), stored[1]), round(rotation / 90) % 4)

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
        scale = self.stored[0] / width
        return x * scale, y, w * scale, h

    def to_displayed(self, box: Box) -> Box:
        scale = self.upright[0] / self.stored[0]
        x, y, w, h = box[0] * scale, box[1], box[2] * scale, box[3]
        width, height = self.upright
        if self.turns == 1:
            return y, width - (x + w), h, w
        if self.turns == 2:
            return width - (x + w), height - (y + h), w, h
        if self.turns == 3:
            return height - (y + h), x, h, w
        return x, y, w, h

    def even_box(self, crop: Box) -> tuple[int, int, int, int]:
        """The box of stored pixels with even corners that is nearest to `crop` (displayed pixels)."""
        x, y, w, h = self.to_stored(crop)
        left, top = _even(x), _even(y)
        right, bottom = max(_even(x + w), left + 2), max(_even(y + h), top + 2)
        if left >= self.stored[0] or top >= self.stored[1] or right <= 0 or bottom <= 0:
            raise ValueError(f"the crop {tuple(crop)} lies outside the picture of {self.displayed} pixels")
        return left, top, right - left, bottom - top


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
    geometry = _Geometry(video.stored_size, upright, turns)
    x, y, w, h = geometry.to_displayed(geometry.even_box(crop))
    return float(x), float(y), float(w), float(h)


# --- opening and probing ------------------------------------------------------------------------------------


def _open(path: str | Path) -> av.container.InputContainer:
    """Open a local file. The protocol list keeps a playlist inside it from reaching the network."""
    if not os.path.isfile(path):
        raise VideoError("unreadable", f"{path} is not a file")
    try:
        url = "file:" + os.path.abspath(path)
        return av.open(url, container_options={"protocol_whitelist": "file"}, metadata_errors="ignore")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError("unreadable", f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _video_stream(container: av.container.InputContainer, path: str | Path) -> av.VideoStream:
    """The largest video stream that is not a cover picture, set to decode in one thread."""
    streams = [s for s in container.streams.video if not _is_cover(s)]
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise VideoError("no-video-stream", f"{path} holds {kinds} only")
    stream = max(streams, key=lambda s: s.width * s.height)
    if stream.codec_context is None:
        raise VideoError("unreadable", f"{path}: FFmpeg has no decoder for its video stream")
    stream.codec_context.thread_count = 1
    return stream


def _is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def probe(path: str | Path) -> Probe:
    """Size, rotation, codec, frame count and timing of a video; reads the whole file, decodes one frame.

    Raises:
        VideoError: ``unreadable``, ``no-video-stream``, ``truncated`` or ``no-frames``.
    """
    timing = _scan(path)
    with _open(path) as container:
        stream = _video_stream(container, path)
        pts, frame = next(_mended(_decoded(container, stream, path), stream), (0, None))
        if frame is None:
            raise VideoError("no-frames", f"{path}: none of {len(timing.pts)} packets gives a frame")
        geometry = _Geometry.of((frame.width, frame.height), stream.sample_aspect_ratio, frame.rotation)
        span = float((timing.pts[-1] - timing.pts[0]) * stream.time_base)
        nominal = float(stream.average_rate or stream.guessed_rate or 0)
        return Probe(
            size=geometry.displayed,
            stored_size=geometry.stored,
            rotation=geometry.turns * 90,
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
    """Hold the end of the file against its index, and the end of its packets against the header of a Matroska file."""
    have, reach = os.path.getsize(path), max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if reach > have:
        raise VideoError("truncated", f"{path} has {have} bytes; its index reaches to {reach}")
    # Elsewhere the duration may be a guess from the bit rate, or that of a track which is not read.
    if container.duration is None or not container.format.name.startswith("matroska"):
        return
    promised = container.duration / av.time_base
    if seconds < promised - max(1.0, 0.02 * promised):
        raise VideoError("truncated", f"{path} ends at {seconds:.2f} s; its header says {promised:.2f} s")


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
    """Frames in presentation order. A packet that cannot be decoded is passed over, as players do, and counted."""
    damaged = 0
    for packet in _packets(container, stream, path):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            damaged += 1
        except av.error.FFmpegError as error:
            raise VideoError("unreadable", f"{path}: the decoder stops: {error.strerror}") from error
    if damaged:
        log.warning("%s: %d packet(s) could not be decoded and were passed over", path, damaged)


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

    def __init__(self, path: str | Path, aspect: Fraction | None, crop: Box | None, size: tuple[int, int] | None):
        self._path, self._aspect, self._crop, self._size = path, aspect, crop, size
        self._layout: tuple[Any, ...] | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        layout = (frame.width, frame.height, frame.format.name, frame.rotation)
        if self._layout is None:
            self._layout = layout
            self._geometry = _Geometry.of(layout[:2], self._aspect, frame.rotation)
            self._graph = self._build(frame)
        elif layout != self._layout:
            was, now = ("x".join(map(str, x[:2])) + f" {x[2]} turned {x[3]}" for x in (self._layout, layout))
            detail = f"{self._path}: the picture changes from {was} to {now} at PTS {frame.pts}; re-encode it to one"
            raise VideoError("unreadable", detail)
        self._graph.push(frame)
        picture = self._graph.pull().to_ndarray()
        return np.ascontiguousarray(np.rot90(picture, self._geometry.turns))

    def _build(self, frame: av.VideoFrame) -> av.filter.Graph:
        geometry = self._geometry
        box = geometry.even_box(self._crop) if self._crop is not None else (0, 0, *geometry.stored)
        steps = _crop_steps(box, geometry.stored, frame.format.name) if self._crop is not None else []
        width, height = self._target(box)
        shrinks = width <= box[2] and height <= box[3]
        flags = f"{'area' if shrinks else 'bicubic'}+accurate_rnd+full_chroma_int"
        steps += [("scale", f"{width}:{height}:flags={flags}"), ("format", "rgb24")]
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
    crop: Box | None = None,
    size: tuple[int, int] | None = None,
    decoder: str = "pyav",
) -> Iterator[tuple[int, np.ndarray]]:
    """The frames of a video in presentation order, as (PTS, uint8 [H, W, 3] RGB), PTS strictly increasing.

    One frame is held at a time. A missing or repeated PTS is mended (see `_mended`); a packet that cannot be
    decoded is passed over with a warning in the log, so count the frames that come.

    Args:
        start_pts, end_pts: half-open range [start, end) in the stream's time base. Reading from `start_pts`
            gives the frames that reading in order gives; it seeks where the container allows that.
        crop: x, y, width, height in displayed pixels, rounded by `round_crop`; outside the picture its border
            is repeated.
        size: (H, W) of the result; shrinking averages areas, enlarging is bicubic. None: displayed pixels.
        decoder: ``pyav``, or ``decord`` for files that `decord_agrees` on: the same frames with slightly different
            colours. decord converts whole pictures first, so it is the slower one where `crop` or `size` is given
            (``benchmarks/decode.py``).

    Raises:
        VideoError: as `probe`, or the picture changes size midway.
        ValueError: the crop lies outside the picture, or decord is not installed or not safe for this file.
    """
    if decoder not in ("pyav", "decord"):
        raise ValueError(f"unknown decoder {decoder!r}: write 'pyav' or 'decord'")
    if decoder == "decord":
        frames: Iterator[tuple[int, av.VideoFrame]] = _decord_frames(path, start_pts, end_pts)
        aspect = None
    else:
        frames = _frames_from(path, start_pts)
        with _open(path) as container:
            aspect = _video_stream(container, path).sample_aspect_ratio
    return _pictures(frames, _Picture(path, aspect, crop, size), start_pts, end_pts)


def _pictures(
    frames: Iterator[tuple[int, av.VideoFrame]], picture: _Picture, start: int | None, end: int | None
) -> Iterator[tuple[int, np.ndarray]]:
    for pts, frame in frames:
        if end is not None and pts >= end:
            return
        if start is None or pts >= start:
            yield pts, picture(frame)


# --- decord -------------------------------------------------------------------------------------------------


def decord_agrees(path: str | Path) -> bool:
    """Whether decord shows the same frames at the same times as PyAV for this file; False where decord is absent.

    True only for square, unrotated pictures in 8-bit 4:2:0 of H.264, HEVC, VP8 or VP9 in MP4 or Matroska, with
    no edit list, no missing PTS and no leading pictures, where decord's time of every frame is the demuxed one.
    """
    return _decord_pts(path) is not None


def _decord_pts(path: str | Path) -> list[int] | None:
    """The PTS of decord's frames if they are proved to be those of the file, or else None."""
    if importlib.util.find_spec("decord") is None:
        return None
    timing = _scan(path)
    with _open(path) as container:
        stream = _video_stream(container, path)
        frame = next(_decoded(container, stream, path), None)
        plain = (
            frame is not None
            and stream.codec_context.name in ("h264", "hevc", "vp8", "vp9", "libvpx-vp9")
            and frame.format.name in ("yuv420p", "yuvj420p")
            and _Geometry.of((frame.width, frame.height), stream.sample_aspect_ratio, frame.rotation)
            == _Geometry((frame.width, frame.height), (frame.width, frame.height), 0)
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


def _decord_frames(path: str | Path, start: int | None, end: int | None) -> Iterator[tuple[int, av.VideoFrame]]:
    if importlib.util.find_spec("decord") is None:
        raise ValueError('decord is not installed; pip install "remot[decord]", or read with decoder="pyav"')
    pts = _decord_pts(path)
    if pts is None:
        raise ValueError(f'decord is not proved to give the right frames of {path}; read it with decoder="pyav"')
    first = 0 if start is None else int(np.searchsorted(pts, start))
    last = len(pts) if end is None else int(np.searchsorted(pts, end))
    reader = _decord_reader(path)
    return ((pts[i], av.VideoFrame.from_ndarray(reader[i].asnumpy(), format="rgb24")) for i in range(first, last))


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
    """The ffmpeg on the PATH, or else the one that the package imageio-ffmpeg carries."""
    import imageio_ffmpeg

    return shutil.which("ffmpeg") or imageio_ffmpeg.get_ffmpeg_exe()


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
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        node = ffmpeg.output(*streams, "file:" + os.path.abspath(self._part), **options)
        node = node.global_args("-hide_banner", "-v", "error", "-y")
        try:
            self._process = subprocess.Popen(
                node.compile(cmd=ffmpeg_binary()),
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


def mux_audio(video: str | Path, sound_from: str | Path, out: str | Path) -> None:
    """Write `out` with the pictures of `video`, untouched, and the sound of `sound_from` from its first frame on.

    AAC and MP3 are copied, any other sound becomes AAC. The sound is cut where the pictures end; where it ends
    earlier the pictures go on in silence.

    Raises:
        ValueError: `sound_from` has no sound.
        EncodeError: ffmpeg failed.
    """
    heard, shown = probe(sound_from), probe(video)
    with _open(sound_from) as container:
        if not container.streams.audio:
            raise ValueError(f"{sound_from} has no sound to copy")
        codec = container.streams.audio[0].codec_context.name
        skip = heard.first_pts * Fraction(*heard.time_base) - Fraction(container.start_time or 0, av.time_base)
    sound = _input(sound_from, **({"ss": f"{float(skip):.6f}"} if skip > 0 else {}))
    options = {"vcodec": "copy", "acodec": "copy" if codec in ("aac", "mp3") else "aac", "movflags": "+faststart"}
    _encode(out, [_input(video)["v:0"], sound["a:0"]], {**options, "t": f"{shown.seconds:.6f}"})


def cut(path: str | Path, out: str | Path, start: float, end: float) -> None:
    """Write the part of a video from `start` to `end` (seconds from its beginning), encoded anew, with its sound.

    Raises:
        ValueError: the part is empty or lies outside the video.
        VideoError: as `probe`.
        EncodeError: ffmpeg failed.
    """
    found = probe(path)
    if not 0 <= start < min(end, found.seconds):
        raise ValueError(f"{path} of {found.seconds:.2f} s has no part from {start} s to {end} s")
    source, options = _input(path, ss=f"{start:.6f}"), _h264(18)
    # By the clock: a duration (-t) would begin to count at the first frame of the part.
    options["vf"] = f"trim=end={end - start:.6f},{options['vf']}"
    streams = [source["v:0"]]
    if found.has_audio:
        streams.append(source["a:0"])
        options.update(acodec="aac", af=f"atrim=end={end - start:.6f}")
    _encode(out, streams, options)
