"""Opening local files and going through their packets: streams, times, and whether the file is whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import av.container
import numpy as np
from av.stream import Disposition

from remot_data.errors import RemotError
from remot_data.records import REASONS

# Containers whose seek lands where their timestamps say; the others are always read from the beginning.
SEEKABLE = ("mov,mp4", "matroska", "mpegts")
# Containers that hold their pictures and sound themselves: a playlist or a description leads to other files, and FFmpeg
# takes a text of any name for one.
_CONTAINERS = (
    "3g2,3gp,aac,ac3,aiff,amr,ape,apng,asf,au,av1,avi,caf,dirac,dnxhd,dts,dv,eac3,evc,flac,flic,flv,gif,gxf,h261,h263,"
    "h264,hevc,ivf,live_flv,m4v,matroska,mjpeg,mov,mp3,mp4,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rawvideo,rm,roq,smk,"
    "swf,tta,vc1,vvc,w64,wav,webm,wtv,wv,yuv4mpegpipe,"
    # A single picture, as the source of a transfer.
    "bmp_pipe,jpeg_pipe,png_pipe,tiff_pipe,webp_pipe"
)
_MOST_DELAY = 32  # frames; H.264 and HEVC allow 16


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


def open_container(path: str | Path) -> av.container.InputContainer:
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


def video_stream(container: av.container.InputContainer, path: str | Path) -> av.VideoStream:
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


@dataclass(frozen=True)
class _Timing:
    """What demuxing a whole file tells of its video stream.

    `pts` are those of the frames to be shown, in order, and `end` that of the end of the last one; `missing` where
    a packet had none, `discarded` where an edit list hides packets, `leading` where the file does not begin with a
    key frame that is also the first to be shown. `jumps`: the times do not go up from the first packet to the last, as
    where recordings were joined without care, or where a time stamp is damaged.
    """

    pts: list[int]
    end: int
    missing: bool
    discarded: bool
    leading: bool
    container: str
    jumps: bool


def scan(path: str | Path) -> _Timing:
    """Demux every packet; `VideoError` where the file ends before its index or its header says."""
    if not os.path.isfile(path):
        raise VideoError("unreadable", f"{path} is not a file")
    status = os.stat(path)
    return _scan(os.path.abspath(path), (status.st_ino, status.st_size, status.st_mtime_ns))


def in_order(path: str | Path) -> bool:
    """Whether the times of a file go up from its first packet to its last, so that a seek finds what it should."""
    try:
        return not scan(path).jumps
    except VideoError:  # whoever reads it meets the same, where it is
        return True


@lru_cache(maxsize=4)
def _scan(path: str, _seen: tuple[int, int, int]) -> _Timing:
    shown: list[tuple[int, int, bool]] = []  # PTS, end, key frame; in decoding order
    decoding: list[int] = []  # DTS
    missing = discarded = False
    seconds = 0.0
    with open_container(path) as container:
        stream = video_stream(container, path)
        step = frame_time(stream)
        for packet in packets(container, None, path):
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
            if packet.dts is not None:
                decoding.append(packet.dts)
        _check_whole(container, stream, seconds, path)
        if not shown:
            raise VideoError("no-frames", f"{path}: the video stream has no packet to show")
        begins, ends, keys = zip(*shown, strict=True)
        leading = not keys[0] or min(begins) < begins[0]
        jumps = _jumps(np.array(begins), np.array(decoding))
        return _Timing(sorted(begins), max(ends), missing, discarded, leading, container.format.name, jumps)


def _jumps(begins: np.ndarray, decoding: np.ndarray) -> bool:
    """Whether PTS or DTS, both in decoding order, are no clock: DTS go up, and PTS differ by a decoder's delay."""
    moved = np.argsort(begins, kind="stable") - np.arange(len(begins))
    return bool((np.diff(decoding) <= 0).any() or np.abs(moved).max() > _MOST_DELAY)


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


def time_base(stream: av.VideoStream) -> Fraction:
    """Seconds of a unit of time; every stream of a file that was opened has one."""
    assert stream.time_base is not None
    return stream.time_base


def frame_time(stream: av.VideoStream) -> int:
    """The nominal time between two frames, in the stream's time base; at least 1."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate or Fraction(25)
    return max(round(1 / (rate * time_base(stream))), 1)


def packets(
    container: av.container.InputContainer, stream: av.VideoStream | None, path: str | Path
) -> Iterator[av.Packet]:
    try:
        yield from container.demux(stream) if stream is not None else container.demux()
    except av.error.FFmpegError as error:
        raise VideoError("truncated", f"{path}: reading stops before the end: {error.strerror}") from error
