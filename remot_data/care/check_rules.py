"""The rules of `remot check`: what makes a clip, or a whole set of human videos, look wrong. A rule is one entry.

A rule of frames has a filter, and marks the frames that do not pass it; one of clips has a measure of a clip, one of
sets a measure of all clips together. Each fires beyond its limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from remot_data import persons
from remot_data.reading.filters import conditions, passing
from remot_data.records import Clip, Snapshot
from remot_data.schemas import REGIONS, SchemaError, convert_labels, label_set
from remot_data.store import Store

_SAMPLED = 8  # frames of a clip whose labels are read
_FEW = 0.003  # of the person's pixels: what a class has less of, it hardly has
_ALWAYS = 0.99  # of them somebody has to cover a pixel for nobody to have seen what is behind


class Seen:
    """A clip as rules see it: its columns, and the labels of some of its frames."""

    def __init__(self, store: Store, snapshot: Snapshot, clip: Clip) -> None:
        self.store, self.snapshot, self.clip = store, snapshot, clip
        self.folders = store.folders(snapshot)

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """The scores of the clip, a value a frame each."""
        folder = self.folders.get("scores")
        if folder is None:
            return {}
        index = self.store.index(folder, self.clip.shard)
        names = index.rows.column_names[4:] if self.clip.id in index.spans else []
        return {name: index.column(self.clip.id, name) for name in names}

    @cached_property
    def labels(self) -> np.ndarray | None:
        """Labels uint8 [N, H, W] of some frames in the detector's set, None where the snapshot has none of the clip."""
        which = np.unique(np.linspace(0, self.clip.frames - 1, _SAMPLED).astype(int)).tolist()
        return self._array("parsing", "labels", which)

    @property
    def label_set(self) -> str:
        return self.store.layer("parsing", self.snapshot.layers["parsing"]).schema

    @cached_property
    def behind(self) -> np.ndarray | None:
        """What the background layer says was seen, uint8 [H, W]; None where there is none."""
        return self._array("background", "seen", None)

    def _array(self, kind: str, name: str, which: Sequence[int] | None) -> np.ndarray | None:
        folder = self.folders.get(kind)
        if folder is None or self.clip.id not in self.store.index(folder, self.clip.shard).spans:
            return None
        return self.store.read_arrays(folder, kind, self.clip, [name], which).get(name)


# A number, and in words what it is of; None where nothing is known.
Measured = tuple[float, str] | None


@dataclass(frozen=True)
class Rule:
    """One thing that may be wrong.

    Attributes:
        name: what ``--fail-on`` takes.
        what: what is measured, in words that go before a number.
        limit: beyond which it fires: of `filter`, the share of the clip's frames that do not pass.
        why: what it does to a model.
        cure: what to do.
        filter: conditions that good frames pass; of a rule of frames.
        measure: of a rule of clips.
        whole: of a rule of sets, from all clips and the split policy.
        below: whether it fires below its limit, not above.
        reads: scores that `measure` needs.
    """

    name: str
    what: str
    limit: float
    why: str
    cure: str
    filter: str = ""
    measure: Callable[[Seen], Measured] | None = None
    whole: Callable[[Sequence[Clip], str], Measured] | None = None
    below: bool = False
    reads: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The scores that it needs."""
        return [*self.reads, *(name for name, _, _ in conditions(self.filter))]

    def fires(self, value: float) -> bool:
        return value < self.limit if self.below else value > self.limit


def _face(seen: Seen) -> Measured:
    faces = seen.columns.get("face", np.zeros(0))
    found = faces[faces > 0]
    return (float(np.median(found)), "") if len(found) else None


def _rarest(seen: Seen) -> Measured:
    """The least share that one of the five classes of the layout has of the person's pixels.

    Skirts and dresses are of the class of tops: who wears one lacks no trousers.
    """
    if seen.labels is None:
        return None
    try:
        counts = np.bincount(convert_labels(seen.labels, seen.label_set, "remot6").ravel(), minlength=6)[1:]
    except SchemaError:
        return None
    if not counts.sum():
        return 0.0, "no label at all"
    names = label_set(seen.label_set).labels
    skirts = np.isin(seen.labels, [n for n, name in enumerate(names) if name in ("skirt", "dress")]).sum()
    shares = dict(zip(REGIONS, counts / counts.sum(), strict=True))
    if skirts > _FEW * counts.sum():
        del shares["bottom"]
    few = [name for name, share in shares.items() if share < _FEW]
    return float(min(shares.values())), ", ".join(few)


def _invented(seen: Seen) -> Measured:
    return float(1 - persons.valid(seen.clip.crop, seen.clip.source_size, seen.store.size).mean()), ""


def _ghost(seen: Seen) -> Measured:
    """The share of what somebody always covers that the background layer calls seen all the same."""
    if seen.labels is None or seen.behind is None:
        return None
    always = (seen.labels > 0).mean(0) >= _ALWAYS
    return (float((seen.behind[always] >= 128).mean()), "") if always.any() else None


def _one_person(clips: Sequence[Clip], policy: str) -> Measured:
    frames: Counter[str] = Counter()
    for clip in clips:
        frames[clip.person] += clip.frames
    (who, most), *_ = frames.most_common(1)
    return most / frames.total(), who


def _in_both(clips: Sequence[Clip], policy: str) -> Measured:
    if policy != "column":
        return 1.0, f"everybody, as the split is {policy}"
    splits: dict[str, set[str]] = {"test": set(), "train": set()}
    for clip in clips:
        splits.setdefault(clip.split or "train", set()).add(clip.person)
    both = sorted(splits["test"] & splits["train"])
    return (len(both) / len(splits["test"]), ", ".join(both)) if splits["test"] else None


_MARKED = "share of the frames"
_AGAIN = "make the pose again with `--from source` or another detector, or leave the frames out"
RULES = {
    rule.name: rule
    for rule in (
        Rule(
            "swaps", _MARKED + " with left and right exchanged", 0.02, "limbs change places", _AGAIN,
            filter="swapped<=0 and twist<=0.03",
        ),
        Rule(
            "jitter", _MARKED + " with joints that jump or tremble", 0.05, "made limbs tremble, flow and pose disagree",
            "smooth the pose, make it again with `--from source`, or leave the frames out",
            filter="jumps<=0.05 and jitter<=0.06",
        ),
        Rule(
            "lost-joints", _MARKED + " that lack joints seen before and after, or all", 0.1, "limbs vanish", _AGAIN,
            filter="lost<=0.05 and sure>=0.2",
        ),
        Rule(
            "passes-disagree", _MARKED + " on which the passes of the pose detector disagree", 0.1,
            "one of them is wrong there", _AGAIN, filter="disagreement<=0.05",
        ),
        Rule(
            "wrong-person", _MARKED + " whose pose is not on the clip's person", 0.02,
            "pose and appearance are of two persons",
            "leave the frames out, or take clips out with `remot remove`", filter="agreement>=1",
        ),
        Rule(
            "beside-mask", _MARKED + " whose joints lie off the mask or the labels, or these off each other", 0.05,
            "labels teach the wrong pixels",
            "make pose and parsing again with other detectors, or leave the frames out",
            filter="off_person<=0.07 and apart<=0.2",
        ),
        Rule(
            "ghosts", _MARKED + " with mask or labels where no limb is", 0.05, "things and bystanders become body",
            "make the parsing again with a trained parser, or leave the frames out", filter="no_limb<=0.1",
        ),
        Rule(
            "flicker", _MARKED + " whose labels flicker", 0.05, "made clothes flicker",
            "make the parsing again with a trained parser, or leave the frames out", filter="flicker<=0.03",
        ),
        Rule(
            "overlay", _MARKED + " with text or a logo over the person", 0.2, "writing is painted onto clothes",
            "take another copy of the video, or leave the frames out", filter="overlay<=0.005",
        ),
        Rule(
            "clipping", _MARKED + " in which much of the person is blown or black", 0.2, "no cloth is seen",
            "take another recording, or leave the frames out", filter="clipped<=0.3",
        ),
        Rule(
            "camera", _MARKED + " in which the camera moves", 0.2, "a background layer for still cameras smears there",
            "use a background detector that registers frames, or leave the frames out", filter="camera<=0.01",
        ),
        Rule(
            "tiny-faces", "pixels of the median face", 16, "no face can be learned from so few pixels",
            "build with a larger `--size`, or refuse small persons with `--min-height`", measure=_face, below=True,
            reads=("face",),
        ),
        Rule(
            "few-labels", "share of the person's pixels that the rarest class has", _FEW,
            "what is never seen is made up", "look whether the parser misses it; add clips that show it",
            measure=_rarest, below=True,
        ),
        Rule(
            "invented-pixels", "share of the pixels that no camera saw", 0.1, "made up borders are learned",
            "build frames of the videos' own shape with `--size`, or filter with `valid>=0.9`", measure=_invented,
        ),
        Rule(
            "background-ghost", "share of what somebody always covers that the background calls seen", 0.2,
            "the person stands in her own background", "make the background again", measure=_ghost,
        ),
        Rule(
            "one-person", "share of the frames that one person has", 0.5, "the model learns her looks",
            "add videos of others, or weigh stores with `remot stream --weight`", whole=_one_person,
        ),
        Rule(
            "test-in-train", "share of the persons of test who are in train too", 0.0,
            "tests then say nothing of strangers",
            "name persons and splits in a manifest, with nobody in both", whole=_in_both,
        ),
    )
}  # fmt: skip


def rules_table() -> list[dict[str, str]]:
    """Every rule in words, and ``of`` what it is: frames, clips or sets."""
    return [
        {
            "name": rule.name,
            "of": "frames" if rule.filter else "clips" if rule.measure else "sets",
            "what": rule.what,
            "limit": f"{'below ' if rule.below else ''}{rule.limit:g}",
            "filter": rule.filter,
            "why": rule.why,
            "cure": rule.cure,
        }
        for rule in RULES.values()
    ]


def chosen(names: str) -> list[Rule]:
    """The rules of a list like ``swaps,jitter``; ``any`` is all of them.

    Raises:
        KeyError: the name that is none.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    return list(RULES.values()) if "any" in wanted else [RULES[name] for name in wanted]


def marked(rule: Rule, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The frames that a rule of frames marks, bool [frames]; None where its columns are not there or say nothing."""
    if not set(rule.columns) <= columns.keys():
        return None
    unknown = np.logical_or.reduce([columns[name] < 0 for name in rule.columns])
    if unknown.all():
        return None
    return ~passing(rule.filter, columns, len(unknown)) & ~unknown
