"""A doctor for sets of human videos: which clips look wrong, by which rule, and what filter would drop their frames."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from remot_data.care.check_rules import RULES, Rule, Seen, marked, rules_table
from remot_data.reading.filters import conditions, where
from remot_data.records import Clip, Record, Snapshot
from remot_data.report.checked import write_page
from remot_data.schemas import SCORES
from remot_data.store import Store, StoreError, open_store

_WORST = 6  # frames of a clip that are named for a rule
_APART = 5  # frames that these lie apart, where there are enough


@dataclass(frozen=True)
class Fired(Record):
    """A rule that fired: its number and limit, in words what it is of, and the numbers of its worst frames."""

    rule: str
    value: float
    limit: float
    detail: str = ""
    frames: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sick(Record):
    """A clip for which rules fired. `score` is the sum of the shares of its frames that they mark, all of them for a
    rule of clips."""

    clip: str
    person: str
    frames: int
    score: float
    fired: tuple[Fired, ...]


@dataclass(frozen=True)
class Report(Record):
    """What `check` found.

    Attributes:
        clips: those for which rules fired, worst first.
        whole: rules of sets that fired.
        unjudged: rules that could not be judged on any clip, each with the reason.
        filter: that would drop what the rules of frames found, together with the snapshot's own; empty where none did.
        keeps: frames that pass it, of `frames`; `passes` are those that pass the snapshot's own filter.
    """

    store: str
    snapshot: str
    clips: tuple[Sick, ...]
    whole: tuple[Fired, ...]
    unjudged: dict[str, str] = field(default_factory=dict)
    checked: int = 0
    frames: int = 0
    passes: int = 0
    filter: str = ""
    keeps: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Rule -> clips for which it fired, 1 for a rule of sets; in the order of the table of rules."""
        fired = [f.rule for sick in self.clips for f in sick.fired] + [f.rule for f in self.whole]
        return {name: fired.count(name) for name in RULES if name in fired}

    @property
    def command(self) -> str:
        """What puts the filter in place."""
        return f"remot snapshot {self.store} {self.snapshot} --where '{self.filter}'"

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "counts": self.counts, "command": self.command if self.filter else ""}


def check(store: Store | str, snapshot: str = "main", *, out: str | os.PathLike[str] | None = None) -> Report:
    """Judge every clip of a store, and the store as a whole, by the rules of `check_rules`.

    It reads columns of the scores layer, the table of clips and the labels of eight frames a clip.

    Args:
        out: an HTML file for the report with the worst frames; none if not given.

    Raises:
        StoreError: for a store without clips or without that snapshot.
    """
    store = store if isinstance(store, Store) else open_store(store)
    chosen = store.snapshot(snapshot)
    if not store.clips:
        raise StoreError(f"{store.url} has no clips to check")
    seen = [Seen(store, chosen, clip) for clip in store.clips]
    found = [_clip(one) for one in seen]
    sick = sorted((one for one, _ in found if one.fired), key=lambda s: (-s.score, s.clip))
    judged = {name for _, names in found for name in names}
    whole, judged_whole = _whole(store.clips, chosen)
    unjudged = {name: _why(rule, store, chosen) for name, rule in RULES.items() if name not in judged | judged_whole}
    filter_ = _filter(chosen, sick)
    made = Report(
        store=store.url,
        snapshot=snapshot,
        clips=tuple(sick),
        whole=tuple(whole),
        unjudged=unjudged,
        checked=len(seen),
        frames=sum(clip.frames for clip in store.clips),
        passes=sum(int(where(chosen, store, clip).sum()) for clip in store.clips),
        filter=filter_,
        keeps=_kept(filter_, seen, chosen),
    )
    if out is not None:
        write_page(store, made.to_json(), rules_table(), Path(out))
    return made


def _clip(seen: Seen) -> tuple[Sick, set[str]]:
    """What is wrong with a clip, and the names of the rules that could be judged on it."""
    fired, score, judged = [], 0.0, set()
    for rule in RULES.values():
        frames: np.ndarray | None = None
        if rule.filter:
            frames = marked(rule, seen.columns)
            measured = None if frames is None else (float(frames.mean()), "")
        else:
            measured = rule.measure(seen) if rule.measure else None
        if measured is None:
            continue
        judged.add(rule.name)
        value, detail = measured
        if rule.fires(value):
            worst = () if frames is None else _worst(rule, seen, np.flatnonzero(frames))
            fired.append(Fired(rule.name, round(value, 4), rule.limit, detail, worst))
            score += value if rule.filter else 1.0
    clip = seen.clip
    return Sick(clip.id, clip.person, clip.frames, round(score, 4), tuple(fired)), judged


def _worst(rule: Rule, seen: Seen, frames: np.ndarray) -> tuple[int, ...]:
    """The marked frames that are farthest beyond the limits of a rule, not all of one moment, in the order of time."""
    far = np.zeros(len(frames))
    for name, sign, text in conditions(rule.filter):
        values = seen.columns[name][frames]
        far = np.maximum(far, (values - float(text)) * (1 if sign.startswith("<") else -1))
    picked: list[int] = []
    for t in frames[np.argsort(-far, kind="stable")].tolist():
        if len(picked) < _WORST and all(abs(t - other) >= _APART for other in picked):
            picked.append(t)
    return tuple(sorted(picked))


def _whole(clips: Sequence[Clip], snapshot: Snapshot) -> tuple[list[Fired], set[str]]:
    fired, judged = [], set()
    for rule in RULES.values():
        measured = rule.whole(clips, snapshot.split) if rule.whole else None
        if measured is not None:
            judged.add(rule.name)
            if rule.fires(measured[0]):
                fired.append(Fired(rule.name, round(measured[0], 4), rule.limit, measured[1]))
    return fired, judged


def _why(rule: Rule, store: Store, snapshot: Snapshot) -> str:
    """Why a rule could not be judged, and what makes that possible."""
    known = {name for names in SCORES.values() for name in names}
    have = set(Seen(store, snapshot, store.clips[0]).columns)
    lacking = [name for name in rule.columns if name not in have]
    if lacking and set(lacking) <= known:
        return (
            f"there is no column {', '.join(lacking)}; make it with `remot annotate {store.url} --layer scores "
            f"--with quality-scores --snapshot {snapshot.name}`"
        )
    if lacking:
        return f"there is no column {', '.join(lacking)}, which only stores with boxes of persons have"
    if rule.columns:
        return f"the column {', '.join(rule.columns)} says nothing of any frame"
    return "there is no test split" if rule.whole else "the snapshot has no layer that tells"


def _filter(snapshot: Snapshot, sick: Iterable[Sick]) -> str:
    """The snapshot's filter and the conditions of the rules that fired; of several on a column, the closest."""
    names = {fired.rule for one in sick for fired in one.fired}
    rules = [rule.filter for rule in RULES.values() if rule.name in names and rule.filter]
    if not rules:
        return ""
    found: dict[tuple[str, str], str] = {}
    for name, sign, text in [c for part in (snapshot.where, *rules) for c in conditions(part)]:
        before = found.get((name, sign))
        closer = sign[0] in "<>" and before is not None and (float(text) < float(before)) == sign.startswith("<")
        if before is None or closer:
            found[name, sign] = text
    return " and ".join(f"{name}{sign}{text}" for (name, sign), text in found.items())


def _kept(filter_: str, seen: Iterable[Seen], snapshot: Snapshot) -> int:
    """How many frames pass a filter."""
    planned = dataclasses.replace(snapshot, where=filter_)
    return sum(int(where(planned, one.store, one.clip).sum()) for one in seen)
