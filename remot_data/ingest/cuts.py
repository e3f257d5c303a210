"""Where a video is cut: shots, and the transitions between them, found while frames pass by.

`Contrast` is what new stores have. Each frame becomes a small picture without its coarse light and dark, a vector, and
all that is decided follows from the distances between vectors up to two seconds apart, a band of numbers:

- a cut: frames before and after it are further from each other than those of either side among themselves, and the
  step is larger than the steps around it. That is so however small the step is, as in a jump cut on one set; motion, a
  shaking camera or a zoom is not. Where the picture comes back after a moment (a flash), nothing was cut;
- a dissolve: the frames between two lie on the straight line between them (a mixture), not beside it (motion);
- a fade: frames gradually come to nothing, or out of it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np

from remot_data.detectors import base
from remot_data.records import WH

Span = tuple[int, int]

CONTRAST = "contrast"


class Shots(Protocol):
    """What finds shots while frames pass by."""

    def see(self, frame: np.ndarray) -> np.ndarray:
        """Take the next frame, uint8 [H, W, 3], RGB; returns its thumbnail, uint8 [18, 32, 3]."""
        ...

    def spans(self) -> tuple[list[Span], list[Span]]:
        """After the last frame: spans [start, stop) of shots, and of transitions; together they have every frame."""
        ...


def open_shots(how: str | Mapping[str, Any] | None, fps: float) -> Shots:
    """What finds the shots of a video of about `fps` frames a second.

    Args:
        how: ``contrast``; the fingerprint of a network of `base.SHOTS`; None for `ShotFinder`.

    Raises:
        DetectorError: the network cannot be had here, or is another.
    """
    if how is None:
        return ShotFinder()
    if isinstance(how, str):
        return Contrast(fps)
    found: Shots = _network(how).follow()
    return found


def prepare(how: str | Mapping[str, Any] | None) -> None:
    """Check that the network with the fingerprint `how` can be had here; nothing where none is asked for.

    Raises:
        DetectorError: it cannot, or is another.
    """
    if isinstance(how, Mapping):
        _network(how)


def by_name(spec: str) -> str | dict[str, Any]:
    """What a policy holds for `spec`: ``contrast``, or a name of `base.SHOTS`.

    Raises:
        DetectorError: there is no such name, or its library is missing.
    """
    return spec if spec == CONTRAST else base.load_shots(spec).fingerprint()


def _network(how: Mapping[str, Any]) -> Any:
    one = base.load_shots(str(how.get("detector")))
    base.check_same(f"{how.get('detector')!r}, which finds the shots,", one.fingerprint(), how)
    return one


THUMBNAIL = (32, 18)


def thumbnail(frame: np.ndarray, size: WH = THUMBNAIL) -> np.ndarray:
    """A frame uint8 [H, W, 3] as uint8 [h, w, 3], whatever its shape."""
    return cv2.resize(_halved(frame, size), size, interpolation=cv2.INTER_AREA)


def _halved(picture: np.ndarray, size: WH) -> np.ndarray:
    """The picture, halved as long as it is four times as large as `size`: OpenCV is quick at that alone."""
    while picture.shape[1] >= 4 * size[0] and picture.shape[0] >= 4 * size[1]:
        height, width = picture.shape[0] // 2, picture.shape[1] // 2
        even = picture[: 2 * height, : 2 * width]
        picture = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)
    return picture


class ShotFinder:
    """Finds cuts alone, as in stores whose policy says nothing of shots.

    A cut is where the mean change of the HSV thumbnail is large both absolutely and against the changes around
    it; fast motion is large only against rest, a flash only for one frame.
    """

    def __init__(self, threshold: float = 18.0, ratio: float = 3.0, window: int = 4) -> None:
        self.threshold, self.ratio, self.window = threshold, ratio, window
        self._last: np.ndarray | None = None
        self._changes = array("d")

    def see(self, frame: np.ndarray) -> np.ndarray:
        """Take the next frame, uint8 [H, W, 3], RGB; returns its thumbnail, uint8 [18, 32, 3]."""
        small = thumbnail(frame)
        colours = cv2.cvtColor(small, cv2.COLOR_RGB2HSV).astype(np.int16)
        if self._last is not None:
            change = np.abs(colours - self._last)
            change[..., 0] = np.minimum(change[..., 0], 180 - change[..., 0])
            self._changes.append(float(change.mean()))
        else:
            self._changes.append(0.0)
        self._last = colours
        return small

    def spans(self) -> tuple[list[Span], list[Span]]:
        """Spans [start, stop) of frames between cuts; together they cover every frame seen. No transitions."""
        changes = np.array(self._changes)
        cuts = []
        for t in range(1, len(changes)):
            around = np.r_[changes[max(1, t - self.window) : t], changes[t + 1 : t + 1 + self.window]]
            if changes[t] >= self.threshold and changes[t] >= self.ratio * max(
                float(around.mean()) if len(around) else 0.0, 1.0
            ):
                cuts.append(t)
        return parted(len(changes), cuts, ())


def parted(frames: int, cuts: Iterable[int], transitions: Iterable[Span]) -> tuple[list[Span], list[Span]]:
    """Shots and transitions of so many frames: transitions that touch become one, cuts in them are dropped."""
    gone: list[Span] = []
    for start, stop in sorted(transitions):
        if gone and start <= gone[-1][1]:
            gone[-1] = gone[-1][0], max(gone[-1][1], stop)
        elif start < stop:
            gone.append((start, stop))
    shots: list[Span] = []
    at = 0
    for start, stop in [*sorted([*gone, *((t, t) for t in cuts)]), (frames, frames)]:
        if start > at:
            shots.append((at, start))
        at = max(at, stop)
    return shots, gone


def joined(shots: Sequence[Span], frames: int) -> list[Span]:
    """Shots that cover every frame: each transition is parted in its middle."""
    edges = [0, *((a + b) // 2 for (_, a), (b, _) in zip(shots, shots[1:], strict=False)), frames]
    return list(zip(edges, edges[1:], strict=False)) if shots else [(0, frames)] * bool(frames)


# --- by contrast --------------------------------------------------------------------------------------------

_FINE, _MOVING = (64, 36), (128, 72)
_COARSE = 5.0  # cells of blur that are taken away as light and dark
_NOISE = 6.0  # grey levels that are no structure
_SEEN = 20.0  # grey levels that change a place
_BAND = 64  # frames that are compared
_NEAR = 8  # of them, those whose structure alone is compared, whatever the light
_SIDE = 4  # frames on either side of a cut
_AROUND = 6  # steps around a cut
_BEYOND = 12  # frames beyond the ends of a dissolve, at most
_AHEAD = _BAND + _BEYOND  # frames that have to be seen after one that is decided on


@dataclass(frozen=True)
class Limits:
    """What is a cut or a transition; set by `benchmarks/shots.py` on its tuning set.

    Attributes:
        step: least distance of frames over a cut.
        apart: least distance over a cut, over the largest one among four frames of a side.
        sudden: least step at a cut, over the largest of the six before and the six after.
        back: seconds after which a picture may come back without a cut, and
        same: its distance then, over the step.
        light: grey levels of the mean by which a flash differs.
        mixed: how far the frames of a dissolve may lie off the straight line, over their distance from its ends.
        still: least distance of the ends of a dissolve, over those of frames beyond each end.
        other: least share of a picture that a dissolve changes.
        slow: largest share of a dissolve that one frame may bring.
        blend: share of the places that change whose change is half done when that of the whole is.
        flat: structure of a black frame, over that of what is faded, and
        dark: that of a black frame by itself.
    """

    step: float = 100.0
    apart: float = 0.97
    sudden: float = 1.5
    back: float = 0.65
    same: float = 0.5
    light: float = 8.0
    mixed: float = 0.5
    still: float = 1.1
    other: float = 0.1
    slow: float = 0.4
    blend: float = 0.68
    flat: float = 0.1
    dark: float = 25.0


_LENGTHS = (2, 3, 4, 6, 8, 11, 14, 18, 23, 29, 36, 45, 56)  # frames from one end of a dissolve to the other


@dataclass(frozen=True)
class _Mixed:
    """Frames a and b between which the others lie on a straight line; `first` to `last` are of neither.

    `gain` is the squared distance that the line explains, `share` how far along it the frame `middle` lies.
    """

    a: int
    b: int
    first: int
    last: int
    gain: float
    middle: int
    share: float

    def later(self, by: int) -> _Mixed:
        return replace(self, a=self.a + by, b=self.b + by, first=self.first + by, last=self.last + by)


class _Band:
    """Products of the vector of each frame with those before it, by lag, for a window of frames."""

    def __init__(self, lags: int) -> None:
        self.lags = lags
        self._past = np.zeros((0, 0), np.float32)
        self._rows: list[np.ndarray] = []
        self._count = 0

    def add(self, vector: np.ndarray) -> None:
        if not self._count:
            self._past = np.zeros((self.lags, len(vector)), np.float32)
        self._past[self._count % self.lags] = vector
        order = (self._count - np.arange(self.lags)) % self.lags
        row = (self._past @ vector)[order].astype(np.float64)
        row[self._count + 1 :] = np.nan
        self._rows.append(row)
        self._count += 1

    def window(self, more: int) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances [n, lags] and squared lengths [n] of the rows kept, with `more` rows of nothing after."""
        products = np.vstack([*self._rows, np.full((more, self.lags), np.nan)])
        lengths = products[:, 0]
        far = np.full_like(products, np.nan)
        for lag in range(min(self.lags, len(products))):
            far[lag:, lag] = lengths[lag:] + lengths[: len(lengths) - lag] - 2 * products[lag:, lag]
        return np.maximum(far, 0.0), lengths

    def drop(self, rows: int) -> None:
        del self._rows[:rows]


class Contrast:
    """Finds cuts, dissolves and fades; see the module.

    Args:
        fps: frames a second, about: how long a moment is after which a picture may come back.
    """

    def __init__(self, fps: float = 30.0, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self.limits = limits
        self._back = int(np.clip(round(limits.back * fps), _SIDE, _BAND // 2))
        self._whole, self._structure = _Band(_BAND), _Band(_NEAR)
        self._first = 0  # frame of the first row of the bands
        self._done = 0  # frames decided
        self._count = 0
        self._bright = array("f")
        self._grey: list[np.ndarray] = []  # of the rows of the bands
        self._cuts: list[int] = []
        self._mixed: list[_Mixed] = []
        self._faded: list[Span] = []

    def see(self, frame: np.ndarray) -> np.ndarray:
        twice = thumbnail(frame, _MOVING)
        small = cv2.resize(twice, _FINE, interpolation=cv2.INTER_AREA)
        whole, structure, bright = vectors(small)
        self._whole.add(whole)
        self._structure.add(structure)
        self._bright.append(bright)
        self._grey.append(cv2.cvtColor(twice, cv2.COLOR_RGB2GRAY))
        self._count += 1
        if self._count - self._first >= 6 * _BAND:
            self._decide(self._count - _AHEAD, 0)
        return cv2.resize(small, THUMBNAIL, interpolation=cv2.INTER_AREA)

    def spans(self) -> tuple[list[Span], list[Span]]:
        if not self._count:
            return [], []
        self._decide(self._count, _AHEAD)
        mixed = [(max(0, m.first), min(self._count, m.last + 1)) for m in _best(self._mixed)]
        inside = {t for start, stop in [*mixed, *self._faded] for t in range(start - 2, stop + 3)}
        cuts = [t for t in self._cuts if t not in inside]
        return parted(self._count, cuts, [*mixed, *self._faded])

    def _decide(self, stop: int, more: int) -> None:
        """Decide on the frames up to `stop`, which have what they need after them, or nothing after the last."""
        far, lengths = self._whole.window(more)
        near, _ = self._structure.window(more)
        rows = np.arange(self._done - self._first, stop - self._first)
        first = self._first
        self._cuts += (rows[self._are_cuts(far, near, rows)] + first).tolist()
        mixed = [m for length in _LENGTHS for m in self._mixes(far, lengths, rows, length)]
        self._mixed += [m.later(first) for m in mixed if self._is_blend(m)]
        self._faded += [(a + first, b + first) for a, b in self._fades(far, lengths, rows)]
        self._done = stop
        drop = max(0, stop - 2 * _BAND - self._first)
        self._whole.drop(drop)
        self._structure.drop(drop)
        del self._grey[:drop]
        self._first += drop

    def _are_cuts(self, far: np.ndarray, near: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Which rows begin a shot, bool [N]."""
        limits = self.limits
        apart, sudden, step = _contrast(far, rows)
        bare, bare_sudden, _ = _contrast(near, rows)
        # Where the light changes, the structure alone has to tell, and more.
        more = np.where([self._is_lit(int(row)) for row in rows], 1.5**2, 1.0)
        is_cut = (step > limits.step**2) & (np.fmin(apart, bare / more) > limits.apart**2)
        is_cut &= np.fmin(sudden, bare_sudden / more) > limits.sudden**2
        for i in np.flatnonzero(is_cut):
            is_cut[i] = not self._comes_back(far, int(rows[i]))
        return is_cut

    def _is_lit(self, row: int) -> bool:
        """Whether a frame is lighter or darker than the one before."""
        at = self._first + row
        return at > 0 and abs(self._bright[at] - self._bright[at - 1]) > self.limits.light

    def _comes_back(self, far: np.ndarray, row: int) -> bool:
        """Whether the picture before a step is there again soon after another one, or that after it was there before.

        Who dances comes back to a pose by and by. Light comes back as it likes.
        """
        later, step = np.arange(1, self._back), far[row, 1]
        # The frame before the step and those after; the frame after it and those before.
        again = np.stack([_at(far, row + later, later + 1), _at(far, row + 0 * later, later + 1)])
        found = again < self.limits.same**2 * step
        if not self._is_lit(row):
            jumps = np.stack([_at(far, row + later, 1), _at(far, row - later, 1)]) > step / 4
            found &= np.logical_or.accumulate(jumps, axis=1)
        return bool(found.any())

    def _mixes(self, far: np.ndarray, lengths: np.ndarray, a: np.ndarray, length: int) -> Iterator[_Mixed]:
        """What may be dissolves: from rows a [N] over `length` steps."""
        limits, b, between = self.limits, a + length, np.arange(1, length)[:, None]
        ends = _at(far, b, length)
        to_a, to_b = _at(far, a + between, between), _at(far, b + 0 * between, length - between)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = (to_a + ends - to_b) / (2 * ends)
            off = np.maximum(to_a - share**2 * ends, 0).sum(0) / np.minimum(to_a, to_b).sum(0)
            steps = np.diff(np.vstack([0 * ends, share, 0 * ends + 1]), axis=0)
            beyond = int(np.clip(length // 2, 3, _BEYOND))
            still = ends / np.fmax(np.fmax(_at(far, a, beyond), _at(far, b + beyond, beyond)), 1e-6)
            other = ends / (lengths[a] + lengths[b])
        short = length < 6  # a movement from rest to rest is as short
        found = (ends > limits.step**2) & (off < limits.mixed) & (other > limits.other)
        found &= ~(still < (limits.still * (1.8 if short else 1.0)) ** 2)
        found &= (steps.max(0) < limits.slow * (1.5 if short else 1.0)) & (steps.min(0) > -0.1)
        spare = 1 + length // 16  # the first frames show hardly anything of what comes
        for i in np.flatnonzero(found):
            inside = np.flatnonzero((share[:, i] > 0.02) & (share[:, i] < 0.98)) + 1 + a[i]
            middle = int(np.abs(share[:, i] - 0.5).argmin())
            yield _Mixed(
                a=int(a[i]),
                b=int(b[i]),
                first=int(inside[0]) - spare,
                last=int(inside[-1]) + spare,
                gain=float(ends[i] * (1 - off[i])),
                middle=int(a[i]) + 1 + middle,
                share=float(share[middle, i]),
            )

    def _is_blend(self, mixed: _Mixed) -> bool:
        """Whether each place changes as the whole does; where an edge passes, it changes at once, sooner or later."""
        a, middle, b = (self._grey[n].astype(np.float32) for n in (mixed.a, mixed.middle, mixed.b))
        there = np.abs(b - a) > _SEEN
        share = (middle[there] - a[there]) / (b - a)[there]
        return bool((np.abs(share - mixed.share) < 0.25).sum() > self.limits.blend * max(there.sum(), 1))

    def _fades(self, far: np.ndarray, lengths: np.ndarray, rows: np.ndarray) -> list[Span]:
        """Fades to black and out of it around rows without structure, those with the black between them as one."""
        size = np.sqrt(lengths)
        found = []
        flat = np.array([self._is_flat(size, int(row)) for row in rows], bool)
        edges = np.flatnonzero(np.diff(np.r_[0, flat.astype(np.int8), 0]))
        for u, v in edges.reshape(-1, 2):
            start, stop = int(rows[u]), int(rows[v - 1]) + 1
            out, into = _rise(size, start, -1), _rise(size, stop - 1, 1)
            goes_on = bool(self._faded) and self._faded[-1][1] == self._first + start  # since it was cut up here
            if max(out, into) < 3 and not goes_on:
                continue
            span = start - (out if out >= 3 else 0), stop + (into if into >= 3 else 0)
            bright = self._bright[self._first + start]
            if bright > 128 and self._same_over(far, span):
                continue  # a flash that goes slowly
            found.append(span)
        return found

    def _is_flat(self, size: np.ndarray, row: int) -> bool:
        most = np.fmax.reduce(size[max(0, row - _BAND) : row + _BAND])
        return bool(size[row] < max(self.limits.flat * most, self.limits.dark))

    def _same_over(self, far: np.ndarray, span: Span) -> bool:
        a, b = span[0] - 1, span[1]
        if a < 0 or b - a >= _BAND or b >= len(far):
            return False
        return bool(far[b, b - a] < 0.5 * far[span[0], 1])


def vectors(small: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """What frames are compared by, of a picture uint8 [36, 64, 3].

    Returns:
        Grey levels and colours without their coarse part, float32 [3456]; structure alone, float32 [2304]: grey levels
        over their deviation around; and the mean grey level.
    """
    colours = cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb).astype(np.float32)
    grey = colours[..., 0]
    fine = grey - _blurred(grey)
    tint = cv2.resize(colours[..., 1:], (small.shape[1] // 2, small.shape[0] // 2), interpolation=cv2.INTER_AREA)
    tint -= tint.mean((0, 1))
    structure = fine / (np.sqrt(_blurred(fine * fine)) + _NOISE)
    return np.concatenate([fine.ravel(), 2 * tint.ravel()]), structure.ravel(), float(grey.mean())


def _blurred(picture: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), _COARSE, borderType=cv2.BORDER_REFLECT)


def _at(values: np.ndarray, rows: np.ndarray, lags: np.ndarray | int) -> np.ndarray:
    """values[rows, lags], NaN where there is no such row or lag."""
    rows, lags = np.broadcast_arrays(rows, lags)
    there = (rows >= 0) & (rows < values.shape[0]) & (lags < values.shape[1])
    return np.where(there, values[np.where(there, rows, 0), np.where(there, lags, 0)], np.nan)


def _contrast(far: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For a cut before each of rows: contrast of its sides, of its step, and the least distance over it; squares."""
    over = np.fmin.reduce([_at(far, rows + j, i + j) for i in range(1, _SIDE + 1) for j in range(_SIDE)])
    before = [_at(far, rows - i, lag) for i in range(1, _SIDE) for lag in range(1, _SIDE + 1 - i)]
    after = [_at(far, rows + j, lag) for j in range(1, _SIDE) for lag in range(1, j + 1)]
    around = np.stack([_at(far, rows + s, 1) for s in range(-_AROUND, _AROUND + 1) if s])
    usual = np.sort(around, axis=0)[len(around) // 2]
    # Where one frame was shown twice, the next step is that of two frames.
    twice = (_at(far, rows - 1, 1) < 0.04 * usual) & (_at(far, rows - 2, 1) > 0.25 * usual)
    with np.errstate(invalid="ignore"):
        apart = over / np.fmax(np.fmax.reduce([*before, *after]), 1e-6)
        sudden = _at(far, rows, 1) / np.fmax(np.fmax.reduce(around), 1e-6) / np.where(twice, 4.0, 1.0)
    return apart, sudden, over


def _rise(size: np.ndarray, row: int, way: int) -> int:
    """How many frames on from `row` structure grows without a rest."""
    count = 0
    while True:
        here = row + way * count
        ahead = [size[n] for n in (here + way, here + 2 * way, here + 3 * way) if 0 <= n < len(size)]
        if not ahead or count >= _BAND or not np.fmax.reduce(ahead) > 1.015 * size[here]:
            return max(0, count - 1)
        count += 1


def _best(mixed: Sequence[_Mixed]) -> list[_Mixed]:
    """Of those that overlap, the one that tells the most."""
    kept: list[_Mixed] = []
    for one in sorted(mixed, key=lambda m: (-m.gain, m.a, m.b)):
        if all(one.b <= other.a or other.b <= one.a for other in kept):
            kept.append(one)
    return kept
