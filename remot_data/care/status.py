"""What is going on in a store: what it holds, who writes it and how far they are, what failed lately.

Nothing is opened that grows with the frames: counts come out of one column and the metadata of ``clips.parquet`` and
out of the names of files, who writes out of the files of the locks, what failed out of the ends of the ledger's logs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from remot_data.records import Record, layer_folder
from remot_data.store import Store
from remot_data.store.files import LOCK
from remot_data.store.lock import is_alive
from remot_data.store.tables import read_columns, read_metadata

_TAIL = 1 << 16  # bytes at the end of a log that are looked at
_LATELY = 5  # failures that are told


@dataclass(frozen=True)
class Doing(Record):
    """A stage of somebody's work: `rate` is tasks a second, `left` the seconds that are left at that rate."""

    what: str
    done: int
    total: int
    seconds: float
    rate: float
    left: float | None


@dataclass(frozen=True)
class Writer(Record):
    """Who holds a lock: ``store`` or the id of a layer; `silent` are the seconds since their last sign of life."""

    lock: str
    host: str
    pid: int
    alive: bool
    silent: float
    doing: tuple[Doing, ...] = ()


@dataclass(frozen=True)
class Status(Record):
    """What a store holds and who works on it.

    `layers` are kind/id -> shards that are complete, of `shards`; `lately` the last inputs that were refused or clips
    that failed, as sentences; `rejects` how many are refused in all.
    """

    store: str
    clips: int = 0
    frames: int = 0
    shards: int = 0
    written: int = 0
    rejects: int = 0
    layers: dict[str, int] = field(default_factory=dict)
    snapshots: tuple[str, ...] = ()
    writers: tuple[Writer, ...] = ()
    lately: tuple[str, ...] = ()


def status(store: Store) -> Status:
    """What is going on in a store.

    Raises:
        StoreError: where there is none.
    """
    _ = store.config
    files = store.files
    clips = frames = shards = rejects = 0
    if data := _whole(store, "clips.parquet"):
        table, meta = read_columns(data, ["shard"]), read_metadata(data)
        clips, frames = len(table), _values(meta, "pts")
        shards = 1 + max(table["shard"].to_pylist(), default=-1)
    if refused := _whole(store, "ledger/rejects.parquet"):
        rejects = read_metadata(refused).num_rows
    kinds = [name for name in files.names("layers") if name.isidentifier()]
    layers = {(kind, layer): len(store.present(layer_folder(kind, layer))) for kind in kinds
              for layer in files.names(f"layers/{kind}")}  # fmt: skip
    return Status(
        store.url,
        clips,
        frames,
        shards,
        len(store.present("frames")),
        rejects,
        {f"{kind}/{layer}": count for (kind, layer), count in layers.items()},
        tuple(name.removesuffix(".json") for name in files.names("snapshots") if name.endswith(".json")),
        tuple(_writers(store)),
        tuple(_lately(store)),
    )


def _whole(store: Store, name: str) -> bytes:
    """A file of a store, empty where it is not there."""
    try:
        return store.files.read(name)
    except FileNotFoundError:
        return b""


def _values(meta: Any, column: str) -> int:
    """How many values the lists of a column hold together, by the metadata alone."""
    number = next(i for i in range(meta.num_columns) if meta.schema.column(i).path.split(".")[0] == column)
    return sum(meta.row_group(i).column(number).num_values for i in range(meta.num_row_groups))


def _writers(store: Store) -> Iterator[Writer]:
    now = time.time()
    for name in store.files.names("ledger"):
        if not (name.startswith(LOCK) and name.endswith(".json")):
            continue
        try:
            held = json.loads(store.files.read(f"ledger/{name}"))
        except (FileNotFoundError, ValueError):  # given back, or only half written, in this moment
            continue
        lock = name.removeprefix(LOCK).removesuffix(".json")
        doing = tuple(_doing(what, stage) for what, stage in held.get("doing", {}).items())
        silent = max(now - held.get("beat", 0.0), 0.0)
        yield Writer(lock, held.get("host", "?"), held.get("pid", 0), is_alive(held), round(silent, 1), doing)


def _doing(what: str, stage: Mapping[str, Any]) -> Doing:
    seconds = stage["at"] - stage["begun"]
    # The first task's end is where the clock begins: so many have been done since.
    rate = (stage["done"] - 1) / seconds if seconds > 0 and stage["done"] > 1 else 0.0
    left = (stage["total"] - stage["done"]) / rate if rate else None
    return Doing(what, stage["done"], stage["total"], round(seconds, 1), round(rate, 3), left and round(left, 1))


def _lately(store: Store) -> list[str]:
    """The last failures that the logs of runs that are on, or were cut off, tell of; the newest first."""
    found: list[str] = []
    for line in _ends(store, "videos"):
        for reject in reversed(line.get("rejects", [])):
            found.append(f"{line['input']['path']}: {reject['code']} {reject.get('detail', '')}".rstrip())
    for line in _ends(store, "receipts"):
        for folder, meta in line.get("made", {}).items():
            found += [f"{folder}, clip {clip}: {why}" for clip, why in meta.get("failed", {}).items()]
    return found[:_LATELY]


def _ends(store: Store, log: str) -> Iterator[dict[str, Any]]:
    """The last lines of a log, the newest first."""
    names = [n for n in store.files.names(f"ledger/{log}") if n.endswith(".jsonl")]
    for name in sorted(names, reverse=True)[:4]:
        path = f"ledger/{log}/{name}"
        size = store.files.size(path)
        whole = store.files.read(path, max(size - _TAIL, 0), size).split(b"\n")
        for line in reversed(whole[1 if size > _TAIL else 0 : -1]):
            yield json.loads(line)
