"""What is kept of videos, and how."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from remot_data.errors import RemotError
from remot_data.records import HW, OUTSIDE, Record

# Fields that came after stores were built, at the values by which those were built: these are not named, so that
# policies keep the bytes that they had.
_BEFORE: Mapping[str, Any] = {"min_share": 0.0} | dict.fromkeys(
    ("finder", "persons", "times", "max_gap", "outside", "shots")
)


def _is_sane(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


class PolicyError(RemotError, ValueError):
    """A rule with a value that means nothing."""


@dataclass(frozen=True)
class Policy(Record):
    """What decides how videos become clips; kept in ``store.json``.

    Attributes:
        size: height and width of the stored frames.
        fps: frames a second, chosen by time, or None for those of the source.
        margin: room around the union of the person's boxes, as a share of its height.
        min_frames, max_frames: a shorter shot is refused, a longer one becomes several clips of about equal length.
        min_share: height of the person over that of the crop below which somebody who goes far is given several clips,
            each with a crop of its own, as far as `min_frames` allows. 0 for one crop
            of all her way.
        min_height: least height of the person in source pixels; a picture that is lower than that is refused whole.
        looks: times a second that persons are searched for.
        max_others: share of the looks in which somebody else, at least half as tall, may be before or behind the person
            for the most part (or, where `persons` is None, in the crop); a single look is always allowed, and 1 allows
            all. Where it is more, frames of those looks are left out.
        min_seen: share of the looks from the first to the last in which the person has to be found.
        min_sharpness: least median of `persons.sharpness` over the looks. 0.02 is Gaussian blur with a standard
            deviation of more than 1 % of the person's height, 2 pixels of a stored frame. Video that was enlarged
            from 180 lines has 0.13.
        min_motion: grey levels by which some cell of the crop has to change in the course of the clip (see `motion`).
            4 refuses stills, also with the noise of compression; somebody who breathes changes more. Clips of less
            than a second are not held against it.
        duplicates: ``persons`` to refuse videos that show the same as an earlier one, also when they were encoded
            anew (see `duplicates.same_content`); ``pictures``, as in stores from before, the same by whole pictures
            alone; ``bytes`` for files of the same bytes only.
        shard_frames: frames after which a shard is full.
        test: share of the videos whose split is ``test`` where a manifest does not say.
        decoder: ``pyav``, or ``decord`` for the files where it was proved to give the same frames.
        finder: fingerprint of what finds the persons (with its version and the sha256 of its weights), None for
            BlazePose's detector.
        persons: ``all`` for clips of everybody who is in view long enough, ``main`` for the main person of each shot.
            None, as in stores from before persons were followed: the main person, linked from look to look by the
            overlap of boxes alone.
        times: ``continued`` to mend time stamps that jump, see `media.read`, and for a clip's frame rate to be that of
            its median step. None, as in stores from before: only stamps that do not increase are mended, and a clip's
            frame rate is its mean.
        max_gap: seconds. A clip is split where the recording pauses: where two frames that the frame rate leaves lie
            more than this apart, and more than 3 median steps. None for no splits, as in stores from before.
        outside: what a frame shows where its crop reaches out of the picture, as it only does where the person does not
            fit into a crop of that shape inside: ``black``, ``blur`` or ``smear`` (see `media.read`). None, as in older
            stores: the crop reaches out wherever it has room to leave round the person, and the border is smeared.
        shots: what finds the shots: ``contrast`` (see `cuts.Contrast`), or the fingerprint of a network that does,
            with its version and the sha256 of its weights. None, as in stores from before: cuts by an absolute change
            alone.
    """

    size: HW = (256, 192)
    fps: float | None = None
    margin: float = 0.1
    min_frames: int = 16
    max_frames: int = 600
    min_share: float = 0.0
    min_height: int = 64
    looks: float = 5.0
    max_others: float = 0.3
    min_seen: float = 0.5
    min_sharpness: float = 0.02
    min_motion: float = 4.0
    duplicates: str = "persons"
    shard_frames: int = 4096
    test: float = 0.1
    decoder: str = "pyav"
    finder: Mapping[str, Any] | None = None
    persons: str | None = "all"
    times: str | None = "continued"
    max_gap: float | None = 0.5
    outside: str | None = "black"
    shots: str | Mapping[str, Any] | None = "contrast"

    def __post_init__(self) -> None:
        # Equal policies have equal bytes in store.json, whether 12 or 12.0 was said.
        for name, value in (
            ("fps", self.fps),
            ("margin", self.margin),
            ("looks", self.looks),
            ("test", self.test),
            ("min_share", self.min_share),
            ("max_gap", self.max_gap),
        ):
            try:
                object.__setattr__(self, name, value if value is None else float(value))
            except (TypeError, ValueError):
                raise PolicyError(f"the policy's {name} is no number: {value!r}") from None
        if bad := [f.name for f in dataclasses.fields(self) if not _is_sane(getattr(self, f.name))]:
            raise PolicyError(f"the policy's {bad[0]} is no finite number: {getattr(self, bad[0])}")
        if self.persons not in ("all", "main", None):
            raise PolicyError(f"persons are 'all' or 'main', not {self.persons!r}")
        if self.times not in ("continued", None):
            raise PolicyError(f"times are 'continued' or None, not {self.times!r}")
        if self.max_gap is not None and not self.max_gap > 0:
            raise PolicyError(f"max_gap has to be positive, not {self.max_gap}")
        if self.outside not in (*OUTSIDE, None):
            raise PolicyError(f"outside is {', '.join(OUTSIDE)} or None, not {self.outside!r}")
        if isinstance(self.shots, str) and self.shots != "contrast":
            raise PolicyError(f"shots are found by 'contrast', or by a network as --shots names it, not {self.shots!r}")
        if self.duplicates not in ("persons", "pictures", "bytes"):
            raise PolicyError(f"duplicates are found by 'persons', 'pictures' or 'bytes', not by {self.duplicates!r}")

    def to_json(self) -> dict[str, Any]:
        return {n: value for n, value in super().to_json().items() if n not in _BEFORE or value != _BEFORE[n]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Policy:
        """The policy of a ``store.json``, where a field that is not named means what it meant before it was there."""
        return super().from_json({**_BEFORE, **value})
