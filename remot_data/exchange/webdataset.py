"""Merged training tars: a tar a split and shard, with all layers of a frame in one sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from remot_data.exchange.view import View, write_json
from remot_data.records import Clip, Snapshot, canonical_json
from remot_data.store import Store, shards
from remot_data.store import layers as layer_kinds
from remot_data.store.shards import Sample

# Layer -> what its members are called in a merged sample.
_NAMES = {"pose": "pose", "parsing": "labels", "flow": "flow", "background": "background", "scores": "scores"}


def write_shard(view: View, out: Path) -> list[Any]:
    """A tar a split, with all layers of a frame in one sample."""
    files = []
    for split, clips in view.by_split():
        name = f"{split}-{view.shard:05d}.tar"
        with open(out / name, "wb") as file:
            table = shards.write(file, (s for clip, which in clips for s in _merged(view, clip, which, split)))
        meta = shards.index_meta(table)
        files.append([split, {"name": name, **{k: meta[k] for k in ("samples", "bytes", "sha256")}}])
    return files


def name_of(kind: str) -> str:
    """What the members of a kind are called; a kind of others that is called as those of another has an underscore."""
    taken = kind in _NAMES.values() and kind not in _NAMES
    return f"{kind}_" if taken else _NAMES.get(kind, kind)


def _merged(view: View, clip: Clip, which: np.ndarray, split: str) -> Iterator[Sample]:
    columns = {"jpg": view.members("frames", clip, which.tolist())["jpg"]}
    for kind in view.infos:
        per_clip = layer_kinds.kind(kind).per_clip
        for ext, data in view.members(kind, clip, [0] if per_clip else which.tolist()).items():
            columns[f"{name_of(kind)}.{ext}"] = data * len(which) if per_clip else data
    times = clip.pts.array()
    seconds = clip.time_base[0] / clip.time_base[1]
    said = {"clip": clip.id, "video": clip.video, "person": clip.person, "split": split, "licence": clip.licence}
    for row, t in enumerate(which.tolist()):
        about = {**said, "frame": t, "pts": int(times[t]), "seconds": round(float(times[t]) * seconds, 6)}
        members = {name: data[row] for name, data in columns.items()}
        yield Sample(clip.key(t), {**members, "json": canonical_json(about).encode()})


def finish(store: Store, snapshot: Snapshot, part: Path, target: Path, done: Sequence[Mapping[str, Any]]) -> None:
    """``dataset.json``: the tars of each split, and the schemas of their labels and keypoints."""
    splits: dict[str, list[Any]] = {}
    for split, meta in (file for result in done for file in result["files"]):
        splits.setdefault(split, []).append(meta)
    layers = {kind: store.layer(kind, i).schema for kind, i in snapshot.layers.items()}
    write_json(part / "dataset.json", {"size": list(store.size), "schemas": layers, "splits": splits}, indent=1)
