"""Checking a store against itself: every file that should be there, every byte of every shard, every pointer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from remot_data import layers as layer_kinds
from remot_data import shards
from remot_data.annotate import LEDGER, saw
from remot_data.records import LayerInfo, digest
from remot_data.store import Store, StoreError, shard_name


def verify(store: Store) -> Iterator[str]:
    """What is wrong with a store, a sentence each, naming the file; nothing for a sound one.

    Reads every shard once.

    Raises:
        StoreError: if it cannot be read as a store at all.
    """
    folders: dict[str, LayerInfo | None] = {"frames": None}
    folders.update({f"layers/{info.kind}/{info.id}": info for info in store.layers})
    for folder, info in folders.items():
        yield from _folder(store, folder, info)
    yield from _unknown_layers(store, folders)
    for name, snapshot in store.snapshots.items():
        for kind, layer_id in snapshot.layers.items():
            if f"layers/{kind}/{layer_id}" not in folders:
                yield f"snapshots/{name}.json names the {kind} layer {layer_id!r}, which is not there"


def _folder(store: Store, folder: str, info: LayerInfo | None) -> Iterator[str]:
    kind = info.kind if info else "frames"
    expected = {shard_name(folder, s) for s in range(store.shard_count)}
    wanted = expected | {name.removesuffix(".tar") + ".parquet" for name in expected}
    present = {f"{folder}/{name}" for name in store.names(folder)} - {f"{folder}/layer.json"}
    for name in sorted(wanted - present):
        yield f"{name} is missing"
    for name in sorted(present - wanted):
        yield f"{name} does not belong to this store"
    for shard in range(store.shard_count):
        tar = shard_name(folder, shard)
        if {tar, tar.removesuffix(".tar") + ".parquet"} <= present:
            try:
                yield from _shard(store, folder, kind, shard, info)
            except (StoreError, OSError, ValueError, KeyError) as error:
                yield f"{tar}: its index cannot be read ({error})"


def _shard(store: Store, folder: str, kind: str, shard: int, info: LayerInfo | None) -> Iterator[str]:
    name, index = shard_name(folder, shard), store.index(folder, shard)
    with store.fs.open(store.path(name), "rb") as file:
        yield from shards.check(name, file, index.table)
    clips = store.shard_clips(shard)
    if layer_kinds.kind(kind).PER_CLIP:
        keys = [clip.key(0) for clip in clips]
    else:
        keys = [clip.key(t) for clip in clips for t in range(clip.frames)]
    if index.meta["keys"] != digest(keys):
        yield f"{name}: its keys are not those of clips.parquet"
    if info is not None:
        current: Mapping[str, Any] = saw(store, info.inputs, shard)
        stale = [kind for kind in current if index.meta["saw"].get(kind) != current[kind]]
        if stale:
            yield f"{name} is stale: it was made from other {', '.join(stale)}; annotate that layer again"


def _unknown_layers(store: Store, known: Mapping[str, Any]) -> Iterator[str]:
    for kind in store.names("layers"):
        for name in store.names(f"layers/{kind}"):
            if f"layers/{kind}/{name}" not in known:
                yield f"layers/{kind}/{name} is unfinished: it has no layer.json; annotate it again or remove it"


def stats(store: Store) -> dict[str, Any]:
    """Counts, sizes and layers of a store as plain values."""
    clips = store.clips
    frames = sum(clip.frames for clip in clips)
    receipts = store.read_lines(LEDGER)
    seconds: dict[str, float] = {}
    for receipt in receipts:
        task = receipt["task"].partition("/")[0]
        for stage, value in receipt.get("seconds", {}).items():
            name = "read frames" if (task, stage) == ("annotate", "frames") else stage
            seconds[name] = seconds.get(name, 0.0) + value
    layers = [
        {
            "kind": info.kind,
            "id": info.id,
            "detector": info.detector,
            "schema": info.schema,
            "approximate": info.approximate,
            "licence": info.licence,
            "bytes": _bytes(store, f"layers/{info.kind}/{info.id}"),
        }
        for info in store.layers
    ]
    return {
        "store": store.url,
        "size": list(store.size),
        "videos": len({clip.video for clip in clips}),
        "clips": len(clips),
        "persons": len({clip.person for clip in clips}),
        "frames": frames,
        "seconds_of_video": round(sum(clip.frames / clip.fps for clip in clips if clip.fps), 2),
        "splits": _counts(clip.split for clip in clips),
        "shards": store.shard_count,
        "bytes": {"frames": _bytes(store, "frames")},
        "layers": layers,
        "snapshots": {name: snapshot.to_json() for name, snapshot in store.snapshots.items()},
        "worker_seconds": {k: round(v, 2) for k, v in seconds.items()},
    }


def _bytes(store: Store, folder: str) -> int:
    return sum(store.index(folder, shard).meta["bytes"] for shard in range(store.shard_count))


def _counts(values: Iterator[str]) -> dict[str, int]:
    out: dict[str, int] = {}
    for value in values:
        out[value] = out.get(value, 0) + 1
    return json.loads(json.dumps(out, sort_keys=True))
