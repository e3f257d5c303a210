"""What is kept of videos, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from remot_data.records import HW, Record

# Fields that came after stores were built. They are not named at their defaults: policies keep the bytes that they had.
_LATER = frozenset(("finder",))


@dataclass(frozen=True)
class Policy(Record):
    """What decides how videos become clips; kept in ``store.json``.

    Attributes:
        size: height and width of the stored frames.
        fps: frames a second, chosen by time, or None for those of the source.
        margin: room around the union of the person's boxes, as a share of its height.
        min_frames, max_frames: a shorter shot is refused, a longer one becomes several clips of about equal length.
        min_height: least height of the person in source pixels; a picture that is lower than that is refused whole.
        looks: times a second that persons are searched for.
        max_others: share of the looks in which somebody else, at least half as tall as the main person, may stand
            in the crop; a single look is always allowed, and 1 allows all.
        min_seen: share of the looks from the first to the last in which the person has to be found.
        min_sharpness: least median of `persons.sharpness` over the looks. 0.02 is Gaussian blur with a standard
            deviation of more than 1 % of the person's height, 2 pixels of a stored frame. Video that was enlarged
            from 180 lines has 0.13.
        min_motion: grey levels by which some cell of the crop has to change in the course of the clip (see `motion`).
            4 refuses stills, also with the noise of compression; somebody who breathes changes more. Clips of less
            than a second are not held against it.
        duplicates: ``pictures`` to refuse videos that show the same as an earlier one (see `same_content`), also
            when they were encoded anew; ``bytes`` for files of the same bytes only.
        shard_frames: frames after which a shard is full.
        test: share of the videos whose split is ``test`` where a manifest does not say.
        decoder: ``pyav``, or ``decord`` for the files where it was proved to give the same frames.
        finder: fingerprint of what finds the persons (with its version and the sha256 of its weights), None for the
            default detector.
    """

    size: HW = (256, 192)
    fps: float | None = None
    margin: float = 0.1
    min_frames: int = 16
    max_frames: int = 600
    min_height: int = 64
    looks: float = 5.0
    max_others: float = 0.3
    min_seen: float = 0.5
    min_sharpness: float = 0.02
    min_motion: float = 4.0
    duplicates: str = "pictures"
    shard_frames: int = 4096
    test: float = 0.1
    decoder: str = "pyav"
    finder: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        # Equal policies have equal bytes in store.json, whether 12 or 12.0 was said.
        for name, value in (("fps", self.fps), ("margin", self.margin), ("looks", self.looks), ("test", self.test)):
            object.__setattr__(self, name, value if value is None else float(value))
        if self.duplicates not in ("pictures", "bytes"):
            raise ValueError(f"duplicates are found by 'pictures' or 'bytes', not by {self.duplicates!r}")

    def to_json(self) -> dict[str, Any]:
        usual = {f.name: f.default for f in fields(self) if f.name in _LATER}
        return {n: value for n, value in super().to_json().items() if n not in usual or value != usual[n]}
