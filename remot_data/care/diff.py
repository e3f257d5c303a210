"""What changed between two snapshots, two days of one, or two stores: clips, frames, splits, layers.

Clips are compared by id, column by column; the scores are read only where the filters of the two may let different
frames through.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cached_property

from remot_data.reading.filters import where
from remot_data.records import Clip, Record, Snapshot
from remot_data.store import Store, StoreError
from remot_data.store.history import history
from remot_data.store.tables import read_columns

_NAMED = 20  # clips that are named in the text


@dataclass(frozen=True)
class Layer(Record):
    """A kind whose layer is another: `agreement` as `remot compare` has said last, None where it has not."""

    kind: str
    a: str
    b: str
    agreement: float | None = None


@dataclass(frozen=True)
class Difference(Record):
    """What `b` has and `a` has not, and the other way round.

    `added` and `removed` are clips with their frames, `split` clips whose split is another, from and to; `layers` kinds
    whose layer is another; `where` and `policy` the filters and split policies, where they differ. `passing` are the
    frames that the filters let through, of `frames`; None where both have one filter over the same scores: then clips
    that both have let the same frames through.
    """

    a: str
    b: str
    clips: tuple[int, int]
    frames: tuple[int, int]
    passing: tuple[int, int] | None
    added: dict[str, int] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    split: dict[str, tuple[str, str]] = field(default_factory=dict)
    layers: tuple[Layer, ...] = ()
    where: tuple[str, str] | None = None
    policy: tuple[str, str] | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.removed or self.split or self.layers or self.where or self.policy)


class State:
    """A snapshot of a store as it is, or as it was at the end of a day or at a time of it: ``NAME@2026-11-27``.

    Raises:
        StoreError: for a name or a time that the store knows nothing of.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        plain, _, moment = name.partition("@")
        self._gone: dict[str, int] = {}
        table = read_columns(store.files.read("clips.parquet"), ["id", "split", "shard", "pts"])
        lengths = table["pts"].combine_chunks().value_lengths().to_pylist()
        columns = (table[name].to_pylist() for name in ("id", "split", "shard"))
        rows: Iterable[tuple[str, str, int, int]] = zip(*columns, lengths, strict=True)
        removed = set(store.removed)
        if moment:
            self.snapshot, shards, undone, self._gone = _then(store, plain, _until(moment))
            removed -= undone
            rows = (row for row in rows if shards is None or row[2] < shards)
        else:
            self.snapshot = store.snapshot(plain)
        self.frames: dict[str, int] = {}
        self.splits: dict[str, str] = {}
        for clip, split, _, frames in rows:
            if clip not in removed:
                self.frames[clip], self.splits[clip] = frames, split
        self.frames |= self._gone

    @cached_property
    def _clips(self) -> dict[str, Clip]:
        return {clip.id: clip for clip in self.store.planned}

    def passing(self, clip: str) -> int:
        """How many frames of a clip the filter lets through; all of a clip that is gone from the disk."""
        if not self.snapshot.is_filtered or clip in self._gone:
            return self.frames[clip]
        return int(where(self.snapshot, self.store, self._clips[clip]).sum())


def _until(moment: str) -> datetime:
    """The time that a text means; a day alone means its end."""
    try:
        found = datetime.fromisoformat(moment)
    except ValueError:
        raise StoreError(f"{moment!r} is no day or time, as 2026-11-27 or 2026-11-27T14:30 (UTC)") from None
    if re.fullmatch(r"\d{4}-\d\d-\d\d", moment):
        found += timedelta(days=1)
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def _then(store: Store, name: str, until: datetime) -> tuple[Snapshot, int | None, set[str], dict[str, int]]:
    """A snapshot as it was, how many shards there were (None: all of now), the clips removed since, those then gone."""
    lines = history(store)
    past = [line for line in lines if datetime.fromisoformat(line["at"]) < until]
    later = lines[len(past) :]
    written = [line for line in past if line["what"] == "snapshot" and line["name"] == name]
    if not written:
        first = next((line["at"][:16] for line in lines if line["what"] == "snapshot" and line["name"] == name), "")
        known = f"its history begins at {first} UTC" if first else "its history knows nothing of it"
        raise StoreError(f"{store.url} does not say what {name!r} was then: {known}")
    undone = {clip for line in later if line["what"] == "remove" for clip in line["clips"]}
    gone = {c: n for line in later if line["what"] == "compact" for c, n in line["clips"].items() if c in undone}
    last = written[-1]
    snapshot = Snapshot.from_json({**last, "name": name})
    grown = [line["shards"] for line in past if line["what"] == "build"]
    grows = [line["before"] for line in later if line["what"] == "build"]
    return snapshot, next(iter(grown[-1:] or grows[:1]), None), undone, gone


def diff(a: State, b: State) -> Difference:
    """What is different in `b`."""
    added = {clip: n for clip, n in b.frames.items() if clip not in a.frames}
    removed = {clip: n for clip, n in a.frames.items() if clip not in b.frames}
    common = [clip for clip in b.frames if clip in a.frames]
    split = {}
    if a.snapshot.split == b.snapshot.split == "column":
        pairs = ((clip, a.splits.get(clip, ""), b.splits[clip]) for clip in common if clip in b.splits)
        split = {clip: (old, new) for clip, old, new in pairs if old != new}
    layers = _layers(a, b)
    scores = [x.snapshot.layers.get("scores") for x in (a, b)]
    passing = None
    filters = [(x.store.url, x.snapshot.where, x.snapshot.ids) for x in (a, b)]
    if filters[0] != filters[1] or scores[0] != scores[1]:
        passing = sum(map(a.passing, a.frames)), sum(map(b.passing, b.frames))
    frames = sum(a.frames.values()), sum(b.frames.values())
    pair = _words(a.snapshot), _words(b.snapshot)
    policies = a.snapshot.split, b.snapshot.split
    return Difference(
        _full(a),
        _full(b),
        (len(a.frames), len(b.frames)),
        frames,
        passing,
        added,
        removed,
        split,
        layers,
        pair if pair[0] != pair[1] else None,
        policies if policies[0] != policies[1] else None,
    )


def _words(snapshot: Snapshot) -> str:
    """A filter in words."""
    listed = [f"a list of {len(snapshot.ids)}"] if snapshot.ids is not None else []
    return " and ".join([*([snapshot.where] if snapshot.where else []), *listed])


def _changed(old: str, new: str) -> str:
    """What of a filter went and what came, where it has more conditions than that."""
    a, b = (text.split(" and ") if text else [] for text in (old, new))
    gone, came = ([c for c in one if c not in other] for one, other in ((a, b), (b, a)))
    if len(gone) + len(came) >= max(len(a), len(b)):
        return f"{old or 'none'} -> {new or 'none'}"
    return ", ".join([f"without {condition}" for condition in gone] + [f"with {condition}" for condition in came])


def _full(state: State) -> str:
    return f"{state.store.url} {state.name}"


def _layers(a: State, b: State) -> tuple[Layer, ...]:
    kinds = sorted(a.snapshot.layers.keys() | b.snapshot.layers.keys())
    pairs = [(kind, a.snapshot.layers.get(kind, ""), b.snapshot.layers.get(kind, "")) for kind in kinds]
    said = {
        frozenset((line["a"], line["b"])): line["agreement"] for line in history(b.store) if line["what"] == "compare"
    }
    return tuple(Layer(kind, x, y, said.get(frozenset((x, y)))) for kind, x, y in pairs if x != y)


def sentences(found: Difference) -> list[str]:
    """A difference as lines of text."""
    lines = [f"{found.a} -> {found.b}"]
    sums = {"clips": found.clips, "frames": found.frames}
    if found.passing:
        sums["frames that pass"] = found.passing
    for name, (old, new) in sums.items():
        lines.append(f"{name}: {old} -> {new}" if old != new else f"{name}: {new}")
    for sign, clips in (("+", found.added), ("-", found.removed)):
        lines += [f"  {sign} {clip} ({frames} frames)" for clip, frames in list(clips.items())[:_NAMED]]
        if len(clips) > _NAMED:
            lines.append(f"  {sign} {len(clips) - _NAMED} more clips, {sum(list(clips.values())[_NAMED:])} frames")
    moves: dict[tuple[str, str], int] = {}
    for pair in found.split.values():
        moves[pair] = moves.get(pair, 0) + 1
    lines += [f"split {old or 'train'} -> {new or 'train'}: {n} clips" for (old, new), n in sorted(moves.items())]
    for layer in found.layers:
        agreed = f", agreement {layer.agreement:.3f}" if layer.agreement is not None else ""
        compared = "" if agreed or not (layer.a and layer.b) else "; `remot compare` says how far they differ"
        lines.append(f"{layer.kind}: {layer.a or 'none'} -> {layer.b or 'none'}{agreed}{compared}")
    if found.where:
        lines.append(f"filter: {_changed(*found.where)}")
    if found.policy:
        lines.append(f"split policy: {found.policy[0]} -> {found.policy[1]}")
    return [*lines, "no difference"] if found.is_empty else lines
