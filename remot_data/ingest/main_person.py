"""A shot in a store whose policy says nothing of persons: one clip or more of its main person, or a reject.

Stores that were built before all persons were followed grow under these rules.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from remot_data import persons
from remot_data.ingest.shots import Shot, seen_in, span_of
from remot_data.persons import Person
from remot_data.records import XYWH, XYXY


class MainPerson(Shot):
    """One shot and what comes of it: clips and rejects, which together have all its picked frames."""

    def judge(self) -> None:
        looks = self.looks_in(*self.span)
        track = persons.main_track([self.seen.looks[i] for i in looks])
        if not track:
            return self.refuse("no-person", self.span, f"nobody in {len(looks)} looks")
        if detail := self.too_small(track):
            return self.refuse("person-too-small", self.span, detail)
        first, last = span_of(track, self.span, [self.seen.at[i] for i in looks])
        numbers = self.picked_in(first, last)
        few = len(numbers) < self.policy.min_frames
        if few and len(self.picked_in(*self.span)) >= self.policy.min_frames:
            somebody = sum(bool(self.seen.looks[i]) for i in looks)
            if somebody < self.policy.min_seen * len(looks):
                return self.refuse("occluded", self.span, seen_in(somebody, len(looks), self.policy))
        self.refuse("no-person", (self.span[0], first), "before the person is seen")
        self.refuse("no-person", (last, self.span[1]), "after the person is last seen")
        if few:
            code = "too-short" if len(self.seen.shots) == 1 else "shot-too-short"
            return self.refuse(code, (first, last), self.few(numbers))
        part = 0
        for unbroken, seen in self.unbroken(numbers, track):
            if len(unbroken) < self.policy.min_frames:
                self.refuse("time-gap", (int(unbroken[0]), int(unbroken[-1]) + 1), self.few(unbroken))
                continue
            for chosen in self.parts(unbroken):
                self._judge_part(part, chosen, seen)
                part += 1

    def _judge_part(self, part: int, numbers: np.ndarray, track: Sequence[Person]) -> None:
        around = self.around(numbers, track)
        crop = self.crop(around)
        fault = self.fault(numbers, track, around, crop) or self._crowd(numbers, track, crop)
        if fault:
            self.refuse(fault[0], (int(numbers[0]), int(numbers[-1]) + 1), fault[1])
        else:
            self.clips.append(self.clip(part, numbers, crop))

    def _crowd(self, numbers: np.ndarray, track: Sequence[Person], crop: XYWH) -> tuple[str, str] | None:
        seen, most = self.seen, self.policy.max_others
        main = {p.frame: p for p in track}
        present = [i for i in self.looks_in(int(numbers[0]), int(numbers[-1]) + 1) if seen.at[i] in main]
        crowded = sum(_others_in(crop, main[seen.at[i]], seen.looks[i]) for i in present)
        if crowded <= max(1, most * len(present)):
            return None
        share = f"{crowded / len(present):.0%} of {len(present)} looks"
        return "several-persons", f"somebody else stands in the crop in {share}, at most {most:.0%}"


def _others_in(crop: XYWH, main: Person, look: Sequence[Person]) -> bool:
    """Whether somebody else, at least half as tall as the main person, stands for the most part in the crop."""
    inside = XYXY((crop[0], crop[1], crop[0] + crop[2], crop[1] + crop[3]))
    tall = persons.height(main.box) / 2
    return any(p != main and persons.height(p.box) >= tall and persons.share(p.box, inside) > 0.5 for p in look)
