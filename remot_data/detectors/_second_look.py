"""A clip whose forward pass is done is looked at again where that is doubtful, and the best of all looks is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from remot_data.detectors import _carrying as carrying
from remot_data.detectors import _doubts as doubts
from remot_data.detectors._boxes import Sight
from remot_data.detectors._following import Landmarks, Track, is_own, soft_mask
from remot_data.detectors._litert import Region
from remot_data.schemas import convert_keypoints


class Looking(Protocol):
    """The landmark network, which can look at the mirrored picture of a region."""

    def __call__(self, image: np.ndarray, region: Region, mirrored: bool = False) -> Landmarks: ...


@dataclass(frozen=True)
class Carried:
    """Landmarks of each frame, a joint that is not seen with the confidence 0; `checks` uint8 [T, 2, 25]."""

    seen: list[Landmarks | None]
    checks: np.ndarray


class SecondLook:
    """Looks again at a clip, and carries joints over time."""

    def __init__(
        self,
        track: Callable[[], Track],
        landmarks: Looking,
        frames: np.ndarray,
        sights: Sequence[Sight | None],
        times: np.ndarray,
    ) -> None:
        self._track, self._landmarks, self._frames, self._sights, self._times = track, landmarks, frames, sights, times

    def __call__(self, seen: Sequence[Landmarks | None], mask: np.ndarray, threshold: float) -> Carried:
        """What is made of the landmarks of a forward pass. Frames where only it found nobody get their `mask`."""
        passes: list[list[Landmarks | None]] = [list(seen), [None] * len(seen), [None] * len(seen)]
        heights = _heights(seen)
        looks = _looks(passes)
        doubtful = doubts.doubtful(looks[0], heights, self._times)
        calm = np.array([found is not None for found in seen], bool) & ~doubtful
        if probes := doubts.probes(calm, self._times):
            bad = [t for t in probes if not self._agrees(t, passes, looks[0, t], heights[t])]
            doubtful |= calm & np.isin(doubts.nearest(probes, self._times), bad)
        for start, stop in doubts.spans(doubtful):
            self._look(passes, start, stop, mask)
        looks = _looks(passes)
        bodies, marks = looks[0].copy(), np.zeros(looks.shape[1:3], np.uint8)
        if doubtful.any():
            among = looks.copy()
            among[1:, ~doubtful] = np.array((np.nan, np.nan, 0), np.float32)
            bodies, marks = carrying.decide(among, heights, self._times)
        held = carrying.helped(bodies, heights, self._times, threshold)
        filled = carrying.fill(bodies, held, heights, self._times)
        marks[filled] = carrying.FILLED
        bodies[~(held | filled), 2] = 0
        apart, disputed = carrying.apart(looks, bodies, heights)
        marks |= disputed
        marks[bodies[..., 2] == 0] = 0
        return Carried(_put(passes, bodies), _checks(marks, apart))

    def _agrees(self, t: int, passes: Sequence[list[Landmarks | None]], body: np.ndarray, height: float) -> bool:
        """Whether the mirrored picture of a frame shows the same body."""
        passes[carrying.MIRRORED][t] = found = self._mirrored(t, passes[carrying.FORWARD][t])
        return found is not None and not doubts.disagree(body, found.body, height)

    def _look(self, passes: Sequence[list[Landmarks | None]], start: int, stop: int, mask: np.ndarray) -> None:
        """Look at the frames of a span backward in time, and at their mirrored pictures."""
        seen, back, mirrored = passes
        track = self._track()
        if stop < len(seen) and (after := seen[stop]) is not None:
            track.start(after)
        for t in reversed(range(start, stop)):
            found = track(self._frames[t], self._sights[t])
            if found is not None:
                back[t] = found.placed
                if seen[t] is None:
                    mask[t] = soft_mask(found, mask.shape[1:3])
            if mirrored[t] is None:
                mirrored[t] = self._mirrored(t, seen[t] or back[t])

    def _mirrored(self, t: int, where: Landmarks | None) -> Landmarks | None:
        if where is None:
            return None
        found = self._landmarks(self._frames[t], where.region, mirrored=True)
        return found.placed if is_own(found, self._sights[t]) else None


def _heights(seen: Sequence[Landmarks | None]) -> np.ndarray:
    """Of the person in each frame, float64 [T]; where nobody is found, those of the frame before (or the first)."""
    out = np.array([found.height if found is not None else np.nan for found in seen])
    known = np.flatnonzero(~np.isnan(out))
    if not len(known):
        return np.ones(len(out))
    return out[known[np.searchsorted(known, np.arange(len(out)), "right").clip(1) - 1]]


def _looks(passes: Sequence[Sequence[Landmarks | None]]) -> np.ndarray:
    """Float32 [P, T, 33, 3] of passes; NaN and 0 where there is none."""
    out = np.empty((len(passes), len(passes[0]), 33, 3), np.float32)
    out[:] = np.nan, np.nan, 0
    for to, looks in zip(out, passes, strict=True):
        for t, found in enumerate(looks):
            if found is not None:
                to[t] = found.body
    return out


def _put(passes: Sequence[Sequence[Landmarks | None]], bodies: np.ndarray) -> list[Landmarks | None]:
    """Landmarks with other places of the joints of the body."""
    out: list[Landmarks | None] = []
    for t, body in enumerate(bodies):
        found = next((looks[t] for looks in passes if looks[t] is not None), None)
        if found is not None:
            points = found.points.copy()
            points[:33] = body[:, [0, 1, 2, 2]]
            found = replace(found, points=points)
        out.append(found)
    return out


def _checks(marks: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Marks and disagreements [T, 33] as uint8 [T, 2, 25]; neck and middle of the hips have those of both sides."""
    first, second = _OF_BODY_25
    out = np.stack([marks[:, first] | marks[:, second], np.maximum(apart[:, first], apart[:, second])], 1)
    out[:, 0, _ABSENT], out[:, 1, _ABSENT] = 0, carrying.UNKNOWN
    return out


def _sources() -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Of which points each of BODY_25 is the mean, and which ones BlazePose has not."""
    numbers = np.repeat(np.arange(33, dtype=np.float32)[:, None], 3, 1)
    numbers[:, 2] = 1
    made = convert_keypoints(numbers, "blazepose33", "body25")
    return (np.floor(made[:, 0]).astype(int), np.ceil(made[:, 0]).astype(int)), made[:, 2] == 0


_OF_BODY_25, _ABSENT = _sources()
