"""The one pass over a video that sees all of it: shots, persons, and small pictures to know it again by."""

from __future__ import annotations

import itertools
import math
import os
import threading
from array import array
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from remot_data import media
from remot_data.detectors import base
from remot_data.ingest import cuts
from remot_data.persons import Finder, Person, as_box, colours, differ, height, overlap, share, sharpness
from remot_data.records import WH


class Moments:
    """Small grey pictures at evenly spaced moments of a video, to know it again by.

    Moments are chosen by time, and each is a mean over `WINDOW` seconds of what is interpolated between the frames:
    so the pictures hardly depend on the frame rate.

    Args:
        start: seconds at which the first frame is shown.
        seconds: length of the video.
        side: cells of a picture, across and down.
    """

    COUNT = 8
    SIDE = 12
    FINE = 128
    WINDOW = 0.8
    SAMPLES = 9

    def __init__(self, start: float, seconds: float, side: int = SIDE) -> None:
        self._side = side
        self.centres = centres = start + seconds * (np.arange(self.COUNT) + 0.5) / self.COUNT
        times = centres[:, None] + self.WINDOW * np.linspace(-0.5, 0.5, self.SAMPLES)
        samples = [(float(t), moment) for moment, row in enumerate(times) for t in row]
        self._waiting = deque(sorted(samples))
        self._sum = np.zeros((self.COUNT, side, side))
        self._time: float | None = None
        self._picture = np.empty(0)

    def see(self, time: float, picture: np.ndarray) -> None:
        """Take the next frame, uint8 [h, w, 3], RGB, shown at `time` seconds."""
        if self._waiting and self._waiting[0][0] <= time:
            after = self._grey(picture)
            before = after if self._time is None else self._grey(self._picture)
            while self._waiting and self._waiting[0][0] <= time:
                wanted, moment = self._waiting.popleft()
                passed = 1.0 if self._time is None else max(wanted - self._time, 0.0) / (time - self._time)
                self._sum[moment] += before + passed * (after - before)
        self._time, self._picture = time, picture

    def pictures(self) -> np.ndarray:
        """uint8 [8, side, side]; what was to come after the last frame looks like the last frame."""
        if self._waiting:
            last = self._grey(self._picture)
            while self._waiting:
                self._sum[self._waiting.popleft()[1]] += last
        return np.rint(self._sum / self.SAMPLES).astype(np.uint8)

    def _grey(self, picture: np.ndarray) -> np.ndarray:
        return _cells(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), self._side)


def _cells(grey: np.ndarray, side: int) -> np.ndarray:
    """Means of a grid of side x side cells over the whole picture, float32 [side, side], whatever its shape."""
    return cv2.resize(grey.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)


@dataclass(frozen=True)
class Watched:
    """What one pass over a video saw.

    Attributes:
        pts: int64 [frames], in the time base of `probe`.
        shots: spans [start, stop) of frames.
        at: the frame of each look.
        looks: the persons found in each look.
        cells: uint8 [looks, 32, 32], the grey picture of each look.
        moments: uint8 [8, 12, 12], see `Moments`.
        transitions: spans of frames between shots that are of none.
        fine: uint8 [8, 128, 128], `moments` with more cells, and
        near: of each the numbers of the looks within its time.
    """

    probe: media.Probe
    pts: np.ndarray
    shots: list[tuple[int, int]]
    at: list[int]
    looks: list[list[Person]]
    cells: np.ndarray
    moments: np.ndarray
    transitions: list[tuple[int, int]] = field(default_factory=list)
    fine: np.ndarray | None = None
    near: list[list[int]] = field(default_factory=list)


_SIGN = 16  # frames after which `watching` says that it lives


def watching(
    path: str | Path,
    *,
    rate: float = 5.0,
    start_pts: int | None = None,
    end_pts: int | None = None,
    fps: float | None = None,
    probe: media.Probe | None = None,
    finder: str | None = None,
    dense: bool = False,
    times: str | None = "continued",
    shots: str | Mapping[str, Any] | None = None,
    read: Callable[..., Generator[tuple[int, np.ndarray], None, None]] = media.read,
) -> Generator[int, None, Watched]:
    """Go once through a video, in reduced pictures, for its shots and, `rate` times a second, its persons.

    Yields how many frames it has seen, now and then; its return value is the `Watched`.

    Args:
        start_pts, end_pts, fps, times: as for `media.read`.
        probe: of this video, if it was probed before.
        finder: what finds the persons, see `open_finder`; None for the detector of BlazePose.
        dense: look up to four times as often where persons move fast, come or go, and tell what they wear: what
            `tracking.track` needs.
        shots: what finds the shots, see `cuts.open_shots`.
        read: what reads the video; `media.in_child.read` for a process that has to live on.

    Raises:
        VideoError: as `media.read`, and ``no-frames`` where none comes.
        DetectorError: finding persons failed in a frame.
        DeviceError: persons cannot be found on this machine.
    """
    probe = probe or media.probe(path, fps, times)
    base_seconds = probe.time_base[0] / probe.time_base[1]
    chosen = open_finder(finder) if finder else None
    scale = min(1.0, getattr(chosen, "longest", _LONGEST) / max(probe.size))
    shape = max(2, round(probe.size[1] * scale)), max(2, round(probe.size[0] * scale))
    if chosen is None:
        _finder().allocate()
    look = partial(_look, path, chosen.follow() if chosen else find, probe.size, dense)
    looks = _Dense(look, 1 / rate) if dense else _Even(look, 1 / rate)
    edges = cuts.open_shots(shots, probe.fps)
    moments, fine = (Moments(probe.first_pts * base_seconds, probe.seconds, n) for n in (Moments.SIDE, Moments.FINE))
    pts = array("q")
    with closing(read(path, start_pts=start_pts, end_pts=end_pts, size=shape, fps=fps, times=times)) as frames:
        for stamp, frame in frames:
            time = stamp * base_seconds
            looks.see(time, len(pts), frame)
            moments.see(time, edges.see(frame))
            fine.see(time, frame)
            pts.append(stamp)
            if len(pts) % _SIGN == 0:
                yield len(pts)
    if not pts:
        raise media.VideoError("no-frames", f"{path}: no frame could be decoded")
    at, found, cells = looks.done()
    spans, transitions = edges.spans()
    seconds = np.array(pts)[at] * base_seconds
    near = [np.flatnonzero(np.abs(seconds - centre) <= Moments.WINDOW / 2).tolist() for centre in fine.centres]
    small = moments.pictures(), transitions, fine.pictures(), near
    return Watched(probe, np.array(pts), spans, at, found, cells, *small)


_Looked = tuple[int, list[Person], np.ndarray]  # frame, persons, cells


class _Even:
    """Looks at even distances in time."""

    def __init__(self, look: Callable[[np.ndarray, int], list[Person]], step: float) -> None:
        self._look, self._step, self._next = look, step, -math.inf
        self._done: list[_Looked] = []

    def see(self, time: float, number: int, frame: np.ndarray) -> None:
        """Take the next frame, at `time` seconds."""
        if time < self._next:
            return
        self._next = time + self._step - 1e-6
        self._done.append(self._looked(number, frame))

    def _looked(self, number: int, frame: np.ndarray) -> _Looked:
        cells = _cells(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), _CELLS).round().astype(np.uint8)
        return number, self._look(frame, number), cells

    def done(self) -> tuple[list[int], list[list[Person]], np.ndarray]:
        """Frame, persons and cells of each look, after the last frame."""
        numbers, found, cells = zip(*sorted(self._done, key=lambda looked: looked[0]), strict=True)
        return list(numbers), list(found), np.stack(cells)


_PARTS = 4  # that the time between two looks may be parted into
_MOVED = 0.3  # heights by which somebody moves from one look to the next who is looked at in between
_FLICKER = 2.0  # seconds in which looks at who comes and goes are made once: a weak box comes and goes all the time


class _Dense(_Even):
    """Looks at even distances, and between two of them where persons moved far, came or went."""

    def __init__(self, look: Callable[[np.ndarray, int], list[Person]], step: float) -> None:
        super().__init__(look, step)
        self._between: list[tuple[float, int, np.ndarray]] = []
        self._last = -math.inf
        self._came = -math.inf

    def see(self, time: float, number: int, frame: np.ndarray) -> None:
        before = self._done[-1] if self._done else None
        if time < self._next:
            if time >= self._last + self._step / _PARTS - 1e-6:
                self._between.append((time, number, frame))
                self._last = time
            return
        super().see(time, number, frame)
        if before is not None and self._between and self._is_worth(time, before[1], self._done[-1][1]):
            self._refine(before[1], self._between, self._done[-1][1])
        self._between, self._last = [], time

    def _is_worth(self, time: float, before: Sequence[Person], after: Sequence[Person]) -> bool:
        if any(p.track is not None for p in after):
            return False  # the finder follows them itself, from look to look
        if _has_moved(before, after):
            return True
        came = sum(p.sure for p in before) != sum(p.sure for p in after)
        if not came or time - self._came < _FLICKER:
            return False
        self._came = time
        return True

    def _refine(
        self, before: Sequence[Person], between: Sequence[tuple[float, int, np.ndarray]], after: Sequence[Person]
    ) -> None:
        middle = len(between) // 2
        _, number, frame = between[middle]
        looked = self._looked(number, frame)
        last = self._done.pop()  # the next look goes on from it
        self._done += [looked, last]
        for some, a, b in ((between[:middle], before, looked[1]), (between[middle + 1 :], looked[1], after)):
            if some and (_has_moved(a, b) or sum(p.sure for p in a) != sum(p.sure for p in b)):
                self._refine(a, some, b)


def _has_moved(before: Sequence[Person], after: Sequence[Person]) -> bool:
    """Whether somebody's box is far from all of the look before."""
    old = np.array([p.box for p in before if p.sure]).reshape(-1, 2, 2).mean(1)
    if not len(old):
        return False
    for person in after:
        if person.sure:
            centre = np.array(person.box).reshape(2, 2).mean(0)
            if np.hypot(*(old - centre).T).min() > _MOVED * height(person.box):
                return True
    return False


def watch(path: str | Path, **options: Any) -> Watched:
    """`watching` in one go, with the same options."""
    steps = watching(path, **options)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _look(
    path: str | Path,
    look: Callable[[np.ndarray, int, WH], list[Person]],
    size: WH,
    told: bool,
    image: np.ndarray,
    frame: int,
) -> list[Person]:
    """The persons of a picture, and where `told`, what they wear."""
    try:
        found = look(image, frame, size)
    except base.DeviceError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise base.DetectorError(f"{path}: finding persons in frame {frame} failed: {what}") from error
    if not told:
        return found
    shrunk = np.array([image.shape[1] / size[0], image.shape[0] / size[1]] * 2)
    return _once([replace(p, colours=colours(image, as_box(np.array(p.box) * shrunk))) for p in found])


_TWICE, _ALIKE = 0.5, 0.3  # overlap and difference of colours of two boxes that are of one person


def _once(found: Sequence[Person]) -> list[Person]:
    """Persons without boxes of groups, and without second boxes: on a better one, with the same colours."""
    kept: list[Person] = []
    for one in sorted(found, key=lambda p: (not p.sure, -p.score)):
        if not any(_is_same(one, other) for other in kept) and not _is_group(one, found):
            kept.append(one)
    return [p for p in found if any(p is k for k in kept)]


def _is_group(one: Person, found: Sequence[Person]) -> bool:
    """Whether a box goes round several persons who have boxes of their own, from side to side."""
    inside = [p.box for p in found if p is not one and p.sure and share(p.box, one.box) > 0.8]
    if len(inside) < 2:
        return False
    around = as_box((*np.min(inside, 0)[:2], *np.max(inside, 0)[2:]))
    apart = min(overlap(a, b) for a, b in itertools.combinations(inside, 2)) < 0.3
    return apart and overlap(around, one.box) > 0.75


def _is_same(a: Person, b: Person) -> bool:
    lies = max(overlap(a.box, b.box), 0.7 * share(a.box, b.box), 0.7 * share(b.box, a.box))
    return lies > _TWICE and a.colours is not None and b.colours is not None and differ(a.colours, b.colours) < _ALIKE


def find(image: np.ndarray, frame: int = 0, size: WH | None = None) -> list[Person]:
    """The persons of an image uint8 [H, W, 3]; boxes in pixels of the image, or of a picture of `size`."""
    width, height = size or image.shape[1::-1]
    grow = np.array([width / image.shape[1], height / image.shape[0]] * 2)
    bodies = _finder().body_boxes(image, tiles=True)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return [Person(frame, as_box(np.array(b.box) * grow), float(b.score), sharpness(grey, b.box)) for b in bodies]


def prepare(finder: str | None = None, expected: Mapping[str, Any] | None = None) -> None:
    """Load what finds persons, and check that it is the one with the fingerprint `expected`.

    Raises:
        DetectorError, AssetError: it cannot be had here, or is another.
    """
    if finder is None:
        _finder()
        return
    base.check_same(f"the finder {finder!r}", open_finder(finder).fingerprint(), expected or {})


SSD, BLAZEPOSE = "ssd", "blazepose"


def default_finder() -> str:
    """What finds the persons of a new store: ``$REMOT_FINDER``, or else ``ssd``."""
    return os.environ.get("REMOT_FINDER") or SSD


_opened = threading.local()


def open_finder(spec: str) -> Finder:
    """What finds persons in place of BlazePose alone; one for each thread, since a network is for one at a time.

    Args:
        spec: ``ssd``, ``ultralytics``, ``ultralytics:yolo11m``, ``ultralytics:FILE.pt`` or ``file.py:Class``.

    Raises:
        DetectorError: it cannot be had.
    """
    known: dict[str, Finder] = _opened.__dict__
    if spec not in known:
        known.clear()
        known[spec] = base.load_finder(spec)
    return known[spec]


# Persons are found as well in pictures of this longest side, and shots need no more.
_LONGEST = 640
_CELLS = 32


class _Finders:
    """The detector that finds persons in whole pictures: one for each thread, since a network is for one at a time."""

    def __init__(self) -> None:
        self._idle: list[Any] = [base.load("blazepose")]

    def allocate(self) -> None:
        for one in self._idle:
            one.allocate()

    def body_boxes(self, image: np.ndarray, tiles: bool) -> list[Any]:
        try:
            one = self._idle.pop()
        except IndexError:
            one = base.load("blazepose")
        try:
            return one.body_boxes(image, tiles=tiles)
        finally:
            self._idle.append(one)


@lru_cache(maxsize=1)
def _finder() -> _Finders:
    return _Finders()
