"""Decoding in order: frames with increasing PTS, without those that damage may have reached."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, dropwhile
from pathlib import Path
from statistics import median

import av
import av.container
from av.video.frame import PictureType

from remot_data.media.container import (
    SEEKABLE,
    VideoError,
    frame_time,
    in_order,
    open_container,
    packets,
    scan,
    time_base,
    video_stream,
)

log = logging.getLogger(__name__)

_BACK_OFFS = (1, 4, 16)  # seconds
_MOST_HELD = 8  # B frames in a row that are waited for


def decoded(
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
    for packet in packets(container, stream, path):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            failed.append(packet.pts)
        except av.error.FFmpegError as error:
            raise VideoError("unreadable", f"{path}: the decoder stops: {error.strerror}") from error


def mended(frames: Iterable[av.VideoFrame], stream: av.VideoStream) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames with strictly increasing PTS, all of them kept.

    A missing PTS becomes the frame's DTS where that is later than the frame before, or else the PTS before plus
    one nominal frame time (0 for the first); a PTS that does not increase becomes the PTS before plus 1.
    """
    last: int | None = None
    step = frame_time(stream)
    for frame in frames:
        pts = frame.pts
        if pts is None:
            following = 0 if last is None else last + step
            pts = frame.dts if frame.dts is not None and (last is None or frame.dts > last) else following
        last = pts if last is None else max(pts, last + 1)
        yield last, frame


_FAR = 0.5, 3.0  # seconds, and median steps, by which a frame has to be off to be an outlier
_RECENT = 31  # steps that the median is of


def continued(frames: Iterable[av.VideoFrame], stream: av.VideoStream) -> Iterator[tuple[int | None, av.VideoFrame]]:
    """Frames of a file whose times jump, in the order in which they come, with strictly increasing PTS.

    Where the times step back, as where two recordings were joined, they go on one median step after the frame before,
    and all that follow are shifted alike. A single frame whose time lies far from those of its neighbours has None; one
    that only repeats or falls behind a little comes to lie between them. Jumps forward stay: a recording may pause.
    """
    last: int | None = None
    shift, steps = 0, deque([frame_time(stream)], _RECENT)
    far = _FAR[0] / time_base(stream)
    for frame, after in _with_next(frames):
        step = max(round(median(steps)), 1)
        most = max(far, _FAR[1] * step)
        own, next_own = _own_time(frame), None if after is None else _own_time(after)
        if last is None:
            is_first = own is None or next_own is None or own - next_own <= most
            last = (own or 0) if is_first else None
            yield last, frame
            continue
        off = step if own is None else own + shift - last
        next_off = 0 if next_own is None else next_own + shift - last
        goes_on = next_off > 0  # with the next frame, whatever this one says
        if goes_on and abs(off) > most and not 0 < off <= next_off:
            yield None, frame
            continue
        if off <= 0:
            moved = max(min(next_off // 2, step), 1) if goes_on else step
            shift += 0 if goes_on else moved - off
            off = moved
        steps.append(off)
        last += off
        yield last, frame


def _own_time(frame: av.VideoFrame) -> int | None:
    return frame.pts if frame.pts is not None else frame.dts


def _with_next(frames: Iterable[av.VideoFrame]) -> Iterator[tuple[av.VideoFrame, av.VideoFrame | None]]:
    held: av.VideoFrame | None = None
    for frame in frames:
        if held is not None:
            yield held, frame
        held = frame
    if held is not None:
        yield held, None


def _all_continued(path: str | Path) -> Iterator[tuple[int | None, av.VideoFrame]]:
    alone = 0
    with open_container(path) as container:
        stream = video_stream(container, path)
        for pts, frame in continued(decoded(container, stream, path), stream):
            alone += pts is None
            yield pts, frame
    if alone:
        log.warning("%s: %d frame(s) whose time stamp lies far from those of its neighbours are left out", path, alone)


def all_times(path: str | Path) -> list[int]:
    """PTS of all frames of a file, increasing; one that `continued` leaves out has that of the frame before.

    Where times jump, frames that damage may have reached are not counted.
    """
    if in_order(path):
        return scan(path).pts
    found = [pts for pts, _ in _all_continued(path)]
    last = next((pts - 1 for pts in found if pts is not None), 0)
    return [last := last if pts is None else pts for pts in found]


def frames_from(
    path: str | Path, start: int | None, times: str | None
) -> Generator[tuple[int, av.VideoFrame], None, None]:
    """Frames with their PTS, from `start` on: sought where that is safe, read from the beginning where not.

    `times` as for `media.read`.
    """
    if times and not in_order(path):
        yield from ((pts, frame) for pts, frame in _all_continued(path) if pts is not None)
        return
    for seconds in _BACK_OFFS:
        if start is None:
            break
        with open_container(path) as container:
            stream = video_stream(container, path)
            target = start - math.ceil(seconds / time_base(stream))
            if not container.format.name.startswith(SEEKABLE) or target <= (stream.start_time or 0):
                break
            container.seek(target, stream=stream)
            # Leading pictures of an open group need frames from before the seek: they are not to be trusted.
            frames = dropwhile(lambda frame: not frame.key_frame, decoded(container, stream, path))
            first = next(frames, None)
            if first is not None and first.pts is not None and first.pts <= start:
                yield from mended(chain([first], frames), stream)
                return
    with open_container(path) as container:
        stream = video_stream(container, path)
        yield from mended(decoded(container, stream, path), stream)


@dataclass(frozen=True)
class Wanted:
    """The half-open range of PTS to read, and which of them are wanted (None: all)."""

    start: int | None
    end: int | None
    only: frozenset[int] | None

    @classmethod
    def of(cls, start: int | None, end: int | None, only: Collection[int] | None) -> Wanted:
        if only is None:
            return cls(start, end, None)
        first, last = (min(only), max(only)) if len(only) else (0, -1)
        start = first if start is None else max(start, first)
        return cls(start, last + 1 if end is None else min(end, last + 1), frozenset(only))

    def __contains__(self, pts: int) -> bool:
        return (self.start is None or pts >= self.start) and (self.only is None or pts in self.only)
