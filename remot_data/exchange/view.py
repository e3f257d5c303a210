"""What may leave a store: the clips and frames of a shard that a snapshot lets through; and files written from them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from remot_data.reading import sampling
from remot_data.reading.filters import where
from remot_data.records import Clip, Snapshot
from remot_data.store import Store, StoreError
from remot_data.store import layers as layer_kinds


class View:
    """What one shard of a store holds for a snapshot."""

    def __init__(self, store: Store, snapshot: Snapshot, shard: int) -> None:
        self.store, self.snapshot, self.shard = store, snapshot, shard
        self.infos = {kind: store.layer(kind, layer_id) for kind, layer_id in snapshot.layers.items()}
        self.folders = {"frames": "frames", **store.folders(snapshot)}
        lost = {clip for info in self.infos.values() for clip in info.failed} | set(store.removed)
        self.clips = [clip for clip in store.shard_clips(shard) if clip.id not in lost]
        for name in (name for clip in self.clips for name in (clip.id, clip.split or "train")):
            if not re.fullmatch(r"[\w-]+", name):
                raise StoreError(f"{store.url} has a clip or split called {name!r}, which is no safe name for a file")

    def splits(self, clip: Clip) -> dict[str, np.ndarray]:
        """Split -> which frames of a clip are in it and pass the filter: bool [frames]."""
        policy, allowed = self.snapshot.split, where(self.snapshot, self.store, clip)
        names = [clip.split or "train"] if policy == "column" else ["train", "test"]
        return {name: allowed & sampling.split_mask(clip.frames, policy, name, clip.split) for name in names}

    def by_split(self) -> Iterator[tuple[str, list[tuple[Clip, np.ndarray]]]]:
        """Each split that has frames here, with its clips and the numbers of their frames."""
        found: dict[str, list[tuple[Clip, np.ndarray]]] = {}
        for clip in self.clips:
            for split, mask in self.splits(clip).items():
                if mask.any():
                    found.setdefault(split, []).append((clip, np.flatnonzero(mask)))
        yield from sorted(found.items())

    def arrays(self, kind: str, clip: Clip) -> dict[str, np.ndarray]:
        return self.store.read_arrays(self.folders[kind], kind, clip)

    def members(self, kind: str, clip: Clip, which: Sequence[int]) -> dict[str, list[bytes]]:
        """The bytes of each member of a kind, by extension."""
        folder, fields = self.folders[kind], layer_kinds.kind(kind).fields
        there = [ext for ext in fields.values() if self.store.index(folder, self.shard).has(clip.id, ext)]
        return {ext: list(self.store.read_members(folder, clip, ext, which)) for ext in there}


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    write(path, (json.dumps(value, indent=indent, ensure_ascii=False, sort_keys=indent is None) + "\n").encode())
