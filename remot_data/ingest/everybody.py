"""A shot in a store that follows persons: clips of everybody who is in view long enough, reasons for other frames.

A person who is away for more than a second comes back in another clip of the same track. Frames in which somebody else
is too much in her way are left out, and the rest of her track is kept.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from remot_data import persons
from remot_data.ingest.shots import Shot, span_of
from remot_data.ingest.tracking import LOST, Track
from remot_data.ingest.tracking import track as tracks_of
from remot_data.persons import Person


@dataclass(frozen=True)
class Part:
    """Some frames start to stop - 1 of a track: kept in `clip`, or refused for `code` with a `detail`."""

    start: int
    stop: int
    frames: int
    clip: str = ""
    code: str = ""
    detail: str = ""

    def to_json(self) -> list[Any]:
        return [self.start, self.stop, self.clip or self.code, self.detail]


@dataclass
class Followed:
    """A track of the shot, its number in the video, and what became of its frames.

    `rank` is 0 for the main person of the shot; `person` is what she is called in clips.
    """

    track: Track
    number: int
    rank: int
    person: str
    parts: list[Part] = field(default_factory=list)
    clips: int = 0


class Everybody(Shot):
    """One shot and what comes of it; `follow` first, then `judge`."""

    followed: list[Followed]

    def follow(self, number: int, others: int) -> None:
        """Make the tracks; `number` is that of the first, and so many others than main persons came before."""
        self._looks = self.looks_in(*self.span)
        times = self.seen.pts * (self.found.time_base[0] / self.found.time_base[1])
        found = [self.seen.looks[i] for i in self._looks]
        made = tracks_of(found, [float(times[self.seen.at[i]]) for i in self._looks])
        self.followed = [
            Followed(t, number + rank, rank, f"{self.found.id}-p{others + rank}" if rank else "")
            for rank, t in enumerate(made)
        ]

    def judge(self) -> None:
        for one in self.followed:
            self._judge_track(one)
        self._refuse_rest()

    def _judge_track(self, one: Followed) -> None:
        code, detail = "", ""
        if self.policy.persons == "main" and one.rank:
            code, detail = "not-main", "another than the main person of the shot"
        elif detail := self.too_small(one.track.seen):
            code = "person-too-small"
        for start, stop, seen in self._runs(one.track):
            numbers = self.picked_in(start, stop)
            if code:
                self._leave(one, numbers, code, detail)
            elif len(numbers) < self.policy.min_frames:
                self._leave(one, numbers, self._too_short(start, stop), self.few(numbers))
            else:
                self._judge_run(one, numbers, seen)

    def _judge_run(self, one: Followed, numbers: np.ndarray, track: Sequence[Person]) -> None:
        for unbroken, seen in self.unbroken(numbers, track):
            if len(unbroken) < self.policy.min_frames:
                self._leave(one, unbroken, "time-gap", self.few(unbroken))
                continue
            for chosen in self.parts(unbroken):
                for near in self._large_enough(chosen, seen):
                    self._judge_part(one, near, seen)

    def _large_enough(self, numbers: np.ndarray, track: Sequence[Person]) -> list[np.ndarray]:
        """The frames in as few parts as it takes for the person to be large enough in the crop of each.

        No part is shorter than a clip may be.
        """
        parts = [numbers]
        for count in range(1, len(numbers) // self.policy.min_frames + 1):
            parts = np.array_split(numbers, count)
            if all(self._share(part, track) >= self.policy.min_share for part in parts):
                break
        return parts

    def _share(self, numbers: np.ndarray, track: Sequence[Person]) -> float:
        """The height of the person over that of the crop of some frames."""
        around = self.around(numbers, track)
        return float(np.median([persons.height(p.box) for p in around])) / self.crop(around)[3]

    def _too_short(self, start: int, stop: int) -> str:
        if (start, stop) != self.span:
            return "track-too-short"
        return "too-short" if len(self.seen.shots) == 1 else "shot-too-short"

    def _runs(self, t: Track) -> Iterator[tuple[int, int, list[Person]]]:
        """Spans of frames in which the person of a track is away for no longer than she may be, and her boxes there."""
        at = [self.seen.at[i] for i in self._looks]
        cuts = [i for i in range(1, len(t.seen)) if self._was_away(t, i, at) or self._jumped(t, i)]
        first, last = span_of(t.seen, self.span, at)
        for a, b in itertools.pairwise([0, *cuts, len(t.seen)]):
            start = t.seen[a].frame if a else first
            # She was there until she was seen to be away, or elsewhere; where she jumps, that is the next look.
            stop = t.seen[b - 1].frame + 1 if b < len(t.seen) else last
            if b in cuts and self._jumped(t, b):
                stop = t.seen[b].frame
            yield start, stop, t.seen[a:b]

    @staticmethod
    def _was_away(t: Track, i: int, at: Sequence[int]) -> bool:
        """Whether looks missed the person between two of hers for too long; a gap of the recording is none of hers."""
        missed = np.searchsorted(at, t.seen[i].frame) - np.searchsorted(at, t.seen[i - 1].frame) > 1
        return bool(missed) and t.times[i] - t.times[i - 1] > LOST

    def _jumped(self, t: Track, i: int) -> bool:
        before, after = (np.array([t.seen[j].box]) for j in (i - 1, i))
        return bool(persons.jumped(before, after, np.diff(t.times[i - 1 : i + 1]))[0])

    def _judge_part(self, one: Followed, numbers: np.ndarray, track: Sequence[Person]) -> None:
        around = self.around(numbers, track)
        crop = self.crop(around)
        if fault := self.fault(numbers, track, around, crop):
            one.clips += 1
            return self._leave(one, numbers, *fault)
        crowded, share = self._crowded(track, numbers)
        if not crowded.any():
            return self._keep(one, numbers, track)
        detail = f"somebody else is before or behind the person in {share}, at most {self.policy.max_others:.0%}"
        for is_crowded, run in itertools.groupby(zip(crowded, numbers, strict=True), key=lambda pair: bool(pair[0])):
            chosen = np.array([n for _, n in run])
            if is_crowded or len(chosen) < self.policy.min_frames:
                self._leave(one, chosen, "several-persons", detail)
            else:
                self._keep(one, chosen, track)

    def _crowded(self, track: Sequence[Person], numbers: np.ndarray) -> tuple[np.ndarray, str]:
        """Which frames to leave out because of others, bool [N], and the share of looks in which they are too much."""
        seen = self.seen
        main = {p.frame: p for p in track}
        present = [i for i in self.looks_in(int(numbers[0]), int(numbers[-1]) + 1) if seen.at[i] in main]
        flags = np.array([_hides(main[seen.at[i]], seen.looks[i]) for i in present], bool)
        if flags.sum() <= max(1, self.policy.max_others * len(present)):
            return np.zeros(len(numbers), bool), ""
        at = np.array([seen.at[i] for i in present])
        nearest = np.abs(numbers[:, None] - at).argmin(1)
        return flags[nearest], f"{flags.mean():.0%} of {len(present)} looks"

    def _keep(self, one: Followed, numbers: np.ndarray, track: Sequence[Person]) -> None:
        crop = self.crop(self.around(numbers, track))
        made = self.clip(one.clips, numbers, crop, one.rank, one.person)
        one.clips += 1
        self.clips.append(made)
        one.parts.append(Part(int(numbers[0]), int(numbers[-1]) + 1, len(numbers), made.id))

    def _leave(self, one: Followed, numbers: np.ndarray, code: str, detail: str) -> None:
        if len(numbers):
            part = Part(int(numbers[0]), int(numbers[-1]) + 1, len(numbers), code=code, detail=detail)
            one.parts.append(part)

    def _refuse_rest(self) -> None:
        """A reject for each run of frames that no clip has: for the first of the tracks that were there."""
        start, stop = self.span
        why: list[tuple[str, str] | None] = [None] * (stop - start)
        for one in reversed(self.followed):
            for part in one.parts:
                if part.code:
                    why[part.start - start : part.stop - start] = [(part.code, part.detail)] * (part.stop - part.start)
        kept = np.zeros(stop - start, bool)
        for one in self.followed:
            for part in one.parts:
                if part.clip:
                    kept[part.start - start : part.stop - start] = True
        nobody = self._nobody()
        reasons = [None if k else w or n for k, w, n in zip(kept, why, nobody, strict=True)]
        for reason, run in itertools.groupby(range(stop - start), key=lambda n: reasons[n]):
            if reason is not None:
                frames = list(run)
                self.refuse(reason[0], (start + frames[0], start + frames[-1] + 1), reason[1])

    def _nobody(self) -> list[tuple[str, str]]:
        """What to say of each frame that is of no track: whether the look next to it found somebody."""
        start, stop = self.span
        if not self._looks:
            return [("no-person", "the shot lies between two looks")] * (stop - start)
        at = np.array([self.seen.at[i] for i in self._looks])
        nearest = np.abs(np.arange(start, stop)[:, None] - at).argmin(1)
        taken = {id(p) for one in self.followed for p in one.track.seen}
        loose = [any(p.sure and id(p) not in taken for p in self.seen.looks[i]) for i in self._looks]
        said = ("not-followed", "somebody is found, in too few looks to be followed"), ("no-person", "nobody is found")
        return [said[0] if loose[n] else said[1] for n in nearest]

    def person_frames(self) -> tuple[int, Counter[str]]:
        """How many frames of persons are kept, and how many are refused, by code."""
        refused: Counter[str] = Counter()
        for one in self.followed:
            for part in one.parts:
                if part.code:
                    refused[part.code] += part.frames
        return sum(p.frames for one in self.followed for p in one.parts if p.clip), refused


_HIDES = 0.5


def _hides(main: Person, look: Sequence[Person]) -> bool:
    """Whether somebody else, at least half as tall, is before or behind the person for the most part."""
    tall = persons.height(main.box) / 2
    others = (p for p in look if p is not main and p.sure and persons.height(p.box) >= tall)
    return any(persons.share(main.box, p.box) > _HIDES for p in others)
