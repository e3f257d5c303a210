"""A store in the formats of other projects. Only what the snapshot's filter lets through, and nothing that was removed.

An export appears under its name when it is complete. Frames keep the bytes they have in the store wherever the format
takes JPEG.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2

from remot_data.engine import Progress, open_engine
from remot_data.exchange import coco, croissant, solodance, webdataset
from remot_data.exchange.trainers import TRAINERS, finish_for, write_shard_for
from remot_data.exchange.view import View
from remot_data.records import Record, Snapshot
from remot_data.store import Store, StoreError, open_store


@dataclass(frozen=True)
class Format:
    """The layers that a format cannot do without, what writes the files of one shard, and what the whole in the end."""

    needs: tuple[str, ...] = ()
    write_shard: Callable[[View, Path], list[Any]] | None = None
    finish: Callable[[Store, Snapshot, Path, Path, Sequence[Mapping[str, Any]]], None] | None = None


FORMATS = {
    "solodance": Format(("pose", "parsing"), solodance.write_shard),
    "webdataset": Format((), webdataset.write_shard, webdataset.finish),
    "coco": Format(("pose",), coco.write_shard, coco.finish),
    "croissant": Format(finish=croissant.finish),
    **{name: Format(t.needs, write_shard_for(t), finish_for(t)) for name, t in TRAINERS.items()},
}


@dataclass(frozen=True)
class ExportSummary(Record):
    """What `export` wrote: `frames` of `clips`, and how many of the store's frames the filter and failures left out."""

    store: str
    to: str
    out: str
    clips: int
    frames: int
    left_out: int
    splits: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def export(
    store: str | Store,
    to: str,
    out: str | os.PathLike[str],
    *,
    snapshot: str = "main",
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> ExportSummary:
    """Write a store in another format; see `docs/data.md` for what lies where.

    Args:
        to: one of `FORMATS`.
        out: the folder to make.

    Raises:
        StoreError: for an unknown format, a layer that the snapshot lacks or of a schema that has no conversion, a
            folder that holds something, or a filter that lets nothing through.
    """
    store = store if isinstance(store, Store) else open_store(store)
    if not store.clips:
        raise StoreError(f"{store.url} has no clips to export" + ", all were removed" * bool(store.removed))
    chosen, target, started = store.snapshot(snapshot), Path(out).absolute(), time.monotonic()
    _check(store, chosen, to, target)
    part = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    tasks = [
        {"url": store.url, "shard": shard, "snapshot": snapshot, "to": to, "out": str(part)}
        for shard in range(store.shard_count)
    ]
    with open_engine(workers, scheduler) as engine:
        done = list(engine.map(export_shard, tasks, f"export {to}", progress=progress))
    done.sort(key=lambda result: result["shard"])
    splits: dict[str, int] = {}
    for result in done:
        for split, frames in result["splits"].items():
            splits[split] = splits.get(split, 0) + frames
    if not any(splits.values()):
        shutil.rmtree(part)
        raise StoreError(f"snapshot {snapshot!r} of {store.url} lets no frame through; loosen its filter")
    if finish := FORMATS[to].finish:
        finish(store, chosen, part, target, done)
    if target.exists():
        target.rmdir()
    part.rename(target)
    frames = sum(splits.values())
    return ExportSummary(
        store.url,
        to,
        str(target),
        sum(result["clips"] for result in done),
        frames,
        sum(clip.frames for clip in store.clips) - frames,
        splits,
        round(time.monotonic() - started, 3),
    )


def _check(store: Store, snapshot: Snapshot, to: str, target: Path) -> None:
    if to not in FORMATS:
        raise StoreError(f"there is no export to {to!r}; known are {', '.join(FORMATS)}")
    missing = [kind for kind in FORMATS[to].needs if kind not in snapshot.layers]
    if missing:
        raise StoreError(
            f"{to} needs the {' and '.join(missing)} layer, which snapshot {snapshot.name!r} does not have"
        )
    if to == "solodance":
        solodance.to_twenty(store.layer("parsing", snapshot.layers["parsing"]).schema)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{target} exists; choose another --out or remove it")


def export_shard(url: str, shard: int, snapshot: str, to: str, out: str) -> dict[str, Any]:
    """The task: write what comes of one shard. Returns plain values; harmless to run twice."""
    cv2.setNumThreads(1)
    store = Store(url)
    view = View(store, store.snapshot(snapshot), shard)
    result: dict[str, Any] = {"shard": shard, "clips": 0, "splits": {}, "files": []}
    for clip in view.clips:
        kept = {split: int(mask.sum()) for split, mask in view.splits(clip).items() if mask.any()}
        result["clips"] += bool(kept)
        for split, frames in kept.items():
            result["splits"][split] = result["splits"].get(split, 0) + frames
    if write := FORMATS[to].write_shard:
        result["files"] = write(view, Path(out))
    return result
