"""Taking clips out of a store: at once for readers, by a note; later out of the shards, which are then rewritten."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, BinaryIO, cast

from remot_data.engine import Progress, open_engine
from remot_data.records import BOXES, Clip, Receipt
from remot_data.store import Store, StoreError, shards
from remot_data.store.boxes_table import file_bytes
from remot_data.store.currency import in_order
from remot_data.store.files import LOCK
from remot_data.store.history import note
from remot_data.store.shards import Sample


def remove(store: Store, names: Collection[str], reason: str = "removed by hand") -> list[Clip]:
    """Remove videos or clips by id: readers skip them from now on, and no build adds them again.

    Raises:
        StoreError: for an id that is neither that of a video nor of a clip.
    """
    with store.lock():
        found: list[Clip] = []
        for name in names:
            clips = [clip for clip in store.planned if name in (clip.id, clip.video)]
            if not clips:
                raise StoreError(f"{store.url} has no video or clip {name!r}; `remot stats --clips` lists them")
            found += [clip for clip in clips if clip.id not in store.removed]
        if found:
            store.remove({clip.id: reason for clip in found})
            note(store, "remove", clips=[clip.id for clip in found])
        return found


def compact(
    store: Store, workers: int | None = None, scheduler: str | None = None, progress: Progress | None = None
) -> int:
    """Rewrite the shards that hold removed clips without them; returns how many. Nothing is decoded.

    Layers keep their ids and stay current: a clip's own bytes do not change. Interrupted, it can be run again.

    Raises:
        Busy: while somebody else writes the store or a layer.
    """
    with ExitStack() as locks, open_engine(workers, scheduler) as engine:
        for name in ("store", *sorted({info.id for info in store.layers} | _being_made(store))):
            locks.enter_context(store.lock(name))
        store.sweep("", "ledger", "frames", BOXES, *(info.folder for info in store.layers))
        kept = [clip for clip in store.planned if clip.id not in store.removed]
        touched = sorted({clip.shard for clip in store.planned if clip.id in store.removed})
        tasks = [{"url": store.url, "shard": shard} for shard in touched]
        with store.log("receipts") as log:
            _ = list(engine.map(compact_shard, tasks, "compact", log=log, progress=progress))
        if touched:
            gone = {clip.id: clip.frames for clip in store.planned if clip.id in store.removed}
            note(store, "compact", clips=gone)
            store.write_clips(kept)
        store.trim()
        return len(touched)


def _being_made(store: Store) -> set[str]:
    """The layers that have a lock, be it that of a process that is gone."""
    names = store.files.names("ledger")
    return {n.removeprefix(LOCK).removesuffix(".json") for n in names if n.startswith(LOCK)} - {"store"}


def compact_shard(url: str, shard: int) -> Receipt:
    """The task: one shard of the frames and of every layer, without its removed clips.

    Layers name the sha256 of what they saw, so the new ones are worked out first, and what reads is written before
    what it reads: whenever this is stopped, what is left to do can be told from what is there.
    """
    store = Store(url)
    gone = {clip.id for clip in store.shard_clips(shard) if clip.id in store.removed}
    folders = ["frames", *(info.folder for info in in_order(store.layers))]
    reads = {info.folder: info.reads for info in store.layers}
    metas = {folder: meta for folder in folders if (meta := store.meta(folder, shard)) is not None}
    holds = [folder for folder in metas if gone & {*store.index(folder, shard).spans, *metas[folder]["failed"]}]
    was = {folder: meta["sha256"] for folder, meta in metas.items()}
    new, made = dict(was), dict(metas)  # also of what an interrupted run had done, which kept no receipt
    boxes = store.shard_boxes(shard) if store.has_boxes else {}
    kept = {clip: of for clip, of in boxes.items() if clip not in gone}
    if boxes:
        made[BOXES] = shards.file_meta(file_bytes(kept))
        was[BOXES], new[BOXES] = store.sha256(BOXES, shard), made[BOXES]["sha256"]
    plans: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
    for folder in holds:
        saw = dict(metas[folder]["saw"])
        for kind, source in reads.get(folder, {}).items():
            if saw.get(kind) == was.get(source):
                saw[kind] = new[source]
        failed = {clip: why for clip, why in metas[folder]["failed"].items() if clip not in gone}
        plans[folder] = saw, failed
        table = shards.write(cast(BinaryIO, _Nowhere()), _kept(store, folder, shard, gone), saw, failed)
        new[folder] = shards.index_meta(table)["sha256"]
    for folder in reversed(holds):
        samples = list(_kept(store, folder, shard, gone))
        made[folder] = store.write_shard(folder, shard, samples, *plans[folder], metas[folder].get("gpu", ""))
    if kept.keys() != boxes.keys():
        store.write_boxes(shard, kept)
    return Receipt("compact", shard=shard, made=made)


def _kept(store: Store, folder: str, shard: int, gone: Collection[str]) -> Iterator[Sample]:
    """The samples of a shard as they are, but for those of some clips."""
    index = store.index(folder, shard)
    clips = {clip.id: clip for clip in store.shard_clips(shard)}
    extra = [name for name in index.rows.column_names if name not in shards.COLUMNS]
    for name, (start, stop) in index.spans.items():
        if name in gone:
            continue
        clip, count = clips[name], stop - start
        has = [ext for ext in index.offsets if index.has(name, ext)]
        members = {ext: list(store.read_members(folder, clip, ext, range(count))) for ext in has}
        columns: Mapping[str, Any] = {c: index.column(name, c).tolist() for c in extra}
        for t in range(count):
            values = {c: column[t] for c, column in columns.items()}
            yield Sample(clip.key(t), {ext: data[t] for ext, data in members.items()}, values)


class _Nowhere:
    """Takes bytes and keeps none."""

    def write(self, data: Any) -> int:
        return len(data)
