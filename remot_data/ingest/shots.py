"""One shot of a video that was looked through: what its frames are worth, whoever is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from remot_data import media, persons
from remot_data.ingest import people
from remot_data.ingest.policy import Policy
from remot_data.persons import Person
from remot_data.records import WH, XYWH, Clip, Reject, Video

_FEW_STEPS = 3.0  # median steps that are no pause, however long they are


class Shot:
    """A shot and what comes of it: clips, and rejects of its picked frames that are in no clip."""

    def __init__(self, found: Video, seen: people.Watched, picked: np.ndarray, policy: Policy, number: int) -> None:
        self.found, self.seen, self.picked, self.policy, self.number = found, seen, picked, policy, number
        self.span = seen.shots[number]
        self.clips: list[Clip] = []
        self.rejects: list[Reject] = []

    def looks_in(self, start: int, stop: int) -> list[int]:
        """Numbers of the looks at frames start to stop - 1."""
        return list(range(*np.searchsorted(self.seen.at, (start, stop)).tolist()))

    def picked_in(self, start: int, stop: int) -> np.ndarray:
        """The frames from start to stop - 1 that the frame rate leaves."""
        return start + np.flatnonzero(self.picked[start:stop])

    def parts(self, numbers: np.ndarray) -> list[np.ndarray]:
        """Frames, in parts of about equal length that are no longer than a clip may be."""
        return np.array_split(numbers, -(-len(numbers) // self.policy.max_frames))

    def unbroken(self, numbers: np.ndarray, track: Sequence[Person]) -> Iterator[tuple[np.ndarray, Sequence[Person]]]:
        """Frames in parts between which the recording pauses, each with the boxes of a track that belong to it."""
        times = self.seconds(numbers)
        steps = np.diff(times)
        if self.policy.max_gap is None or not len(steps):
            yield numbers, track
            return
        after = 1 + np.flatnonzero(steps > max(self.policy.max_gap, _FEW_STEPS * float(np.median(steps))))
        first = 0
        for part, stop in zip(np.split(numbers, after), [*numbers[after], self.span[1]], strict=True):
            near = [p for p in track if first <= p.frame < stop] if len(after) else track
            yield part, near or track
            first = int(part[-1]) + 1

    def seconds(self, numbers: np.ndarray) -> np.ndarray:
        """When frames are shown, float64 [N]."""
        return self.seen.pts[numbers] * (self.found.time_base[0] / self.found.time_base[1])

    def _rate(self, numbers: np.ndarray) -> float:
        """Frames a second by the median step; of a second's steps at a time where the frame rate leaves frames out."""
        times = self.seconds(numbers)
        if len(times) < 2:
            return 0.0
        if self.policy.times is None:
            return float((len(times) - 1) / (times[-1] - times[0]))
        leaves_out = self.policy.fps if self.policy.fps and (np.diff(numbers) > 1).any() else 1
        ahead = min(max(round(leaves_out), 1), len(times) - 1)
        return float(ahead / np.median(times[ahead:] - times[:-ahead]))

    def around(self, numbers: np.ndarray, track: Sequence[Person]) -> list[Person]:
        """The boxes of a track from the look before the first frame to that after the last: she is between them."""
        before, after = np.searchsorted(self.seen.at, (numbers[0], numbers[-1] + 1)) + (-1, 0)
        bounds = self.seen.at[max(before, 0)], self.seen.at[min(after, len(self.seen.at) - 1)]
        near = [p for p in track if bounds[0] <= p.frame <= bounds[1]]
        return near or [min(track, key=lambda p: abs(p.frame - numbers[len(numbers) // 2]))]

    def crop(self, around: Sequence[Person]) -> XYWH:
        aspect = self.policy.size[1] / self.policy.size[0]
        inside = self.policy.outside is not None
        return persons.crop([p.box for p in around], self.found.size, aspect, self.policy.margin, inside)

    def fault(
        self, numbers: np.ndarray, track: Sequence[Person], around: Sequence[Person], crop: XYWH
    ) -> tuple[str, str] | None:
        """Code and detail of what makes these frames hopeless for a person."""
        policy, seen = self.policy, self.seen
        looks = self.looks_in(int(numbers[0]), int(numbers[-1]) + 1)
        at = {p.frame for p in track}
        present = sum(seen.at[i] in at for i in looks)
        if present < policy.min_seen * len(looks):
            return "occluded", seen_in(present, len(looks), policy)
        base = self.found.time_base[0] / self.found.time_base[1]
        lasts = float(seen.pts[numbers[-1]] - seen.pts[numbers[0]]) * base
        moved = motion(seen.cells[looks], crop, self.found.size) if lasts >= 1.0 and len(looks) > 1 else np.inf
        if moved < policy.min_motion:
            return "static", f"nothing changes by more than {moved:.0f} grey levels, at least {policy.min_motion:g}"
        sharp = float(np.median([p.sharpness for p in around]))
        if sharp < policy.min_sharpness:
            return "blurred", f"sharpness {sharp:.3f}, at least {policy.min_sharpness:g}"
        return None

    def few(self, numbers: np.ndarray) -> str:
        return f"{len(numbers)} frames, {self.policy.min_frames} asked for"

    def too_small(self, track: Sequence[Person]) -> str:
        """Why a person is too small; empty where she is not. Who lies, or bends, is as long as she is wide."""
        old = self.policy.persons is None
        long = float(np.median([persons.height(p.box) if old else persons.extent(p.box) for p in track]))
        named = "high" if old else "long"
        return f"{long:.0f} pixels {named}, {self.policy.min_height} asked for" if long < self.policy.min_height else ""

    def refuse(self, code: str, span: tuple[int, int], detail: str, lost: int | None = None) -> None:
        """Note the picked frames of a span, or `lost` of them, as refused."""
        lost = len(self.picked_in(*span)) if lost is None else lost
        if lost:
            where = f"frames {span[0]} to {span[1] - 1}: {detail}"
            name = f"{self.found.id}-{self.number:03d}"
            self.rejects.append(Reject("shot", name, self.found.path, code, where, lost))

    def clip(self, part: int, numbers: np.ndarray, crop: XYWH, other: int = 0, person: str = "") -> Clip:
        """A clip of the main person of the shot, or of its `other`-th other, who is called `person`."""
        found, pts = self.found, self.seen.pts[numbers]
        chance = int(hashlib.sha256((found.person or found.id).encode()).hexdigest()[:8], 16) / 2**32
        return Clip(
            id=f"{found.id}-{self.number:03d}-{part:02d}" + (f"-t{other:02d}" if other else ""),
            video=found.id,
            path=found.path,
            sha256=found.sha256,
            shot=self.number,
            pts=pts,
            time_base=found.time_base,
            fps=round(self._rate(numbers), 4),
            source_size=found.size,
            crop=media.round_crop(crop, self.seen.probe, self.policy.outside is not None),
            person=person or found.person or f"{found.id}-{self.number:03d}",
            split=found.split or ("test" if chance < self.policy.test else "train"),
            licence="" if other else found.licence,
            url=found.url,
        )


def span_of(track: Sequence[Person], shot: tuple[int, int], at: Sequence[int]) -> tuple[int, int]:
    """First frame and one past the last of a track; `at` are the frames of the looks at the shot.

    To the end of the shot where no later look missed the person, from its beginning where one earlier look did at most.
    """
    first = shot[0] if track[0].frame <= at[:2][-1] else track[0].frame
    last = shot[1] if track[-1].frame == at[-1] else track[-1].frame + 1
    return first, last


def seen_in(present: int, looks: int, policy: Policy) -> str:
    return f"the person is found in {present} of {looks} looks, at least {policy.min_seen:.0%}"


def motion(cells: np.ndarray, crop: XYWH, size: WH) -> float:
    """How much the most changing part of a crop changes: the range of a cell's grey level over all looks.

    Args:
        cells: uint8 [looks, 32, 32], a grid over a picture of `size`.
        crop: in that picture.
    """
    rows, columns = cells.shape[1:]
    x0, x1 = _cell_span(crop[0], crop[2], columns / size[0], columns)
    y0, y1 = _cell_span(crop[1], crop[3], rows / size[1], rows)
    return float(np.ptp(cells[:, y0:y1, x0:x1].astype(np.int16), axis=0).max())


def _cell_span(start: float, extent: float, scale: float, count: int) -> tuple[int, int]:
    first = min(max(int(start * scale), 0), count - 1)
    return first, max(min(int(np.ceil((start + extent) * scale)), count), first + 1)
