"""What a store and a snapshot hold: digests, counts, sizes, and what is stale."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from remot_data.records import LayerInfo, digest
from remot_data.store import Store
from remot_data.store.currency import changed, known_shards, shards_of


@dataclass(frozen=True)
class Content:
    """What reading a snapshot gives: `digest` names its clips and every byte of its frames and layers; `stale` are the
    layers (``kind/id``) that do not belong to the frames and layers of now, each with the reason.
    """

    digest: str
    stale: dict[str, str]


def content(store: Store, name: str) -> Content:
    """What the snapshot `name` holds now, by the indexes alone: each is read once, no shard is.

    Raises:
        StoreError: where there is no such snapshot, or a layer it names is not there.
    """
    snapshot = store.snapshot(name)
    infos = [store.layer(kind, layer_id) for kind, layer_id in snapshot.layers.items()]
    metas = _metas(store, infos)
    clips = [(clip.id, clip.split, clip.shard, clip.frames) for clip in store.clips]
    folders = ("frames", *(info.folder for info in infos))
    shas = {folder: [meta and meta["sha256"] for meta in metas[folder]] for folder in folders}
    return Content(digest([snapshot.to_json(), clips, shas]), _stale(infos, metas))


def _metas(store: Store, infos: Sequence[LayerInfo]) -> dict[str, list[dict[str, Any] | None]]:
    """Folder -> metadata of the index of each shard, of the frames, of layers and of all that these read."""
    folders = sorted({"frames", *(i.folder for i in infos), *(f for i in infos for f in i.reads.values())})
    pairs = [(folder, shard) for folder in folders for shard in range(store.shard_count)]
    with ThreadPoolExecutor(16) as pool:  # on remote stores a read is mostly waiting
        found = dict(zip(pairs, pool.map(lambda pair: store.meta(*pair), pairs), strict=True))
    return {folder: [found[folder, shard] for shard in range(store.shard_count)] for folder in folders}


def _stale(infos: Sequence[LayerInfo], metas: Mapping[str, Sequence[dict[str, Any] | None]]) -> dict[str, str]:
    found = {}
    for layer in infos:
        for shard, meta in enumerate(metas[layer.folder]):
            now = {kind: metas[folder][shard] for kind, folder in layer.reads.items()}
            others = changed(meta, now) if meta else []
            if meta is None or others:
                why = f"was made from other {', '.join(others)}" if meta else "is missing"
                found[f"{layer.kind}/{layer.id}"] = f"its shard {shard} {why}"
                break
    return found


def stats(store: Store) -> dict[str, Any]:
    """Counts, sizes and layers of a store as plain values; what is `stale` about a layer, as `content` tells."""
    clips = store.clips
    frames = sum(clip.frames for clip in clips)
    receipts = store.logged("receipts")
    seconds: dict[str, float] = {}
    for receipt in receipts:
        for stage, value in receipt.get("seconds", {}).items():
            name = "read frames" if (receipt["task"], stage) == ("annotate", "frames") else stage
            seconds[name] = seconds.get(name, 0.0) + value
    infos = store.layers
    stale = _stale(infos, _metas(store, infos))
    layers = [
        {
            "kind": info.kind,
            "id": info.id,
            "detector": info.detector,
            "schema": info.schema,
            "approximate": info.approximate,
            "licence": info.licence,
            "failed": len(info.failed),
            "stale": stale.get(f"{info.kind}/{info.id}", ""),
            "bytes": _bytes(store, info.folder),
        }
        for info in infos
    ]
    return {
        "store": store.url,
        "size": list(store.size),
        "videos": len({clip.video for clip in clips}),
        "clips": len(clips),
        "removed": len(store.planned) - len(clips),
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
    return sum(meta["bytes"] for meta in shards_of(store, folder, known_shards(store)).values())


def _counts(values: Iterator[str]) -> dict[str, int]:
    out: dict[str, int] = {}
    for value in values:
        out[value] = out.get(value, 0) + 1
    return json.loads(json.dumps(out, sort_keys=True))
