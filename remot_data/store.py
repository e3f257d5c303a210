"""The only code that knows fsspec: a store's files, what is complete in it, and how they become visible.

Nothing half-written is ever visible: bytes go to a temporary name and are renamed; a shard's tar comes
before its index, all indexes of a layer before its ``layer.json``, layers before the snapshot.
"""

from __future__ import annotations

import io
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from remot_data import layers as layer_kinds
from remot_data import shards
from remot_data.records import FORMAT, Clip, LayerInfo, Snapshot, canonical_json, digest

_TORN = "#torn"


class StoreError(RuntimeError):
    """A store that is missing, unfinished or not as asked for; the message says what to do."""


class Index:
    """The index of one shard: where each member of each clip lies.

    `offsets[ext]` and `sizes[ext]` hold one value a sample, in key order; a clip's samples are a slice.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table, self.meta = table, shards.index_meta(table)
        exts = np.array(table["ext"].to_pylist(), object)
        offset, size = table["offset"].to_numpy(), table["size"].to_numpy()
        self.offsets = {e: offset[exts == e] for e in set(exts)}
        self.sizes = {e: size[exts == e] for e in set(exts)}
        first = min(self.offsets, default="")
        keep = np.flatnonzero(exts == first)
        self.rows = table.take(keep) if len(keep) else table
        clips = np.array([key.rsplit("/", 1)[0] for key in self.rows["key"].to_pylist()], object)
        starts = np.flatnonzero(np.r_[True, clips[1:] != clips[:-1]]) if len(clips) else np.array([], int)
        ends = np.r_[starts[1:], len(clips)] if len(clips) else starts
        self.spans = {clips[a]: (int(a), int(b)) for a, b in zip(starts, ends, strict=True)}

    def members(self, clip: str, ext: str) -> tuple[np.ndarray, np.ndarray]:
        """Offsets and sizes of a clip's members with this extension, in frame order."""
        if clip not in self.spans or ext not in self.offsets:
            raise StoreError(f"no member {clip}/*.{ext} in this shard")
        a, b = self.spans[clip]
        return self.offsets[ext][a:b], self.sizes[ext][a:b]

    def column(self, clip: str, name: str) -> np.ndarray:
        """An extra column of the index for a clip's samples, in frame order."""
        a, b = self.spans[clip]
        return self.rows[name].slice(a, b - a).to_numpy()


class Store:
    """A dataset folder at any fsspec URL. Open one with `open_store`."""

    def __init__(self, url: str) -> None:
        self.url = os.fspath(url)
        self.fs, self.root = fsspec.core.url_to_fs(self.url)
        self._indexes: dict[tuple[str, int], Index] = {}
        self._files: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"])  # type: ignore[misc]

    def path(self, *parts: str) -> str:
        return "/".join((self.root.rstrip("/"), *parts))

    # What the store says of itself

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of ``store.json``: format, frame size, crop and fps policy."""
        try:
            config = json.loads(self.read_bytes("store.json"))
        except FileNotFoundError:
            raise StoreError(f"{self.url} is no store: it has no store.json (make one with `remot build`)") from None
        except ValueError as error:
            raise StoreError(f"{self.url} is no store: its store.json is not JSON ({error})") from error
        if config.get("format") != FORMAT:
            raise StoreError(f"{self.url} has format {config.get('format')!r}; this version reads {FORMAT}")
        return config

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every frame."""
        return tuple(self.config["size"])  # type: ignore[return-value]

    @property
    def policy(self) -> str:
        """Digest of ``store.json``: part of every layer id."""
        return digest(self.config)

    @cached_property
    def clips(self) -> list[Clip]:
        """Every clip, in key order."""
        try:
            rows = pq.read_table(io.BytesIO(self.read_bytes("clips.parquet"))).to_pylist()
        except FileNotFoundError:
            raise StoreError(f"{self.url} has no clips yet: its build did not finish; run it again") from None
        return [Clip.from_json(row) for row in rows]

    def write_clips(self, clips: Sequence[Clip]) -> None:
        """Write ``clips.parquet``, the plan of the store.

        Raises:
            StoreError: if the store was planned from other inputs before.
        """
        if self.exists("clips.parquet"):
            if self.clips != list(clips):
                raise StoreError(
                    f"{self.url} was planned from other inputs ({len(self.clips)} clips, now {len(clips)}); "
                    "build from the same videos, or into another --out"
                )
            return
        table = pa.Table.from_pylist([clip.to_json() for clip in clips])
        self.write_bytes("clips.parquet", shards.table_bytes(table))

    @cached_property
    def clip(self) -> dict[str, Clip]:
        """Every clip by its id."""
        return {clip.id: clip for clip in self.clips}

    @property
    def shard_count(self) -> int:
        return 1 + max((clip.shard for clip in self.clips), default=-1)

    def shard_clips(self, shard: int) -> list[Clip]:
        return [clip for clip in self.clips if clip.shard == shard]

    @property
    def layers(self) -> list[LayerInfo]:
        """Every finished layer."""
        found = []
        for kind in layer_kinds.KINDS:
            for name in self.names(f"layers/{kind}"):
                if self.exists(f"layers/{kind}/{name}/layer.json"):
                    info = json.loads(self.read_bytes(f"layers/{kind}/{name}/layer.json"))
                    found.append(LayerInfo.from_json(info))
        return found

    def layer(self, kind: str, layer_id: str) -> LayerInfo:
        """One layer by kind and id, or by the unique beginning of its id."""
        known = [info for info in self.layers if info.kind == kind]
        found = [info for info in known if info.id == layer_id] or [i for i in known if i.id.startswith(layer_id)]
        if len(found) != 1:
            names = ", ".join(info.id for info in known) or "none"
            raise StoreError(f"{self.url} has no single {kind} layer called {layer_id!r}; there is {names}")
        return found[0]

    @property
    def snapshots(self) -> dict[str, Snapshot]:
        names = (name.removesuffix(".json") for name in self.names("snapshots") if name.endswith(".json"))
        return {name: self.snapshot(name) for name in names}

    def snapshot(self, name: str) -> Snapshot:
        """The snapshot called `name`; `StoreError` lists the known ones."""
        try:
            return Snapshot.from_json(json.loads(self.read_bytes(f"snapshots/{name}.json")))
        except FileNotFoundError:
            known = ", ".join(n.removesuffix(".json") for n in self.names("snapshots")) or "none"
            raise StoreError(f"{self.url} has no snapshot {name!r}; there is {known}") from None

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Make `snapshot` visible, replacing one of the same name. Each layer it names must exist."""
        if not re.fullmatch(r"[\w-]+", snapshot.name):
            raise StoreError(f"a snapshot's name has only letters, digits, - and _, not {snapshot.name!r}")
        for kind, layer_id in snapshot.layers.items():
            if not self.exists(f"layers/{kind}/{layer_id}/layer.json"):
                raise StoreError(f"snapshot {snapshot.name!r} names the {kind} layer {layer_id!r}, which is not there")
        self.write_json(f"snapshots/{snapshot.name}.json", snapshot.to_json())

    # Shards

    def is_done(self, folder: str, shard: int, saw: Mapping[str, str] | None = None) -> bool:
        """Whether a shard of a layer is complete and, where `saw` is given, was made from just that."""
        if not self.exists(_index_name(folder, shard)):
            return False
        return saw is None or self.index(folder, shard).meta["saw"] == dict(saw)

    def index(self, folder: str, shard: int) -> Index:
        """The index of a shard of ``frames`` or of ``layers/<kind>/<id>``."""
        if (folder, shard) not in self._indexes:
            try:
                data = self.read_bytes(_index_name(folder, shard))
            except FileNotFoundError:
                raise StoreError(f"{self.url}/{_index_name(folder, shard)} is missing: run the build again") from None
            self._indexes[folder, shard] = Index(pq.read_table(io.BytesIO(data)))
        return self._indexes[folder, shard]

    def sha256(self, folder: str, shard: int) -> str:
        return self.index(folder, shard).meta["sha256"]

    def write_shard(
        self, folder: str, shard: int, samples: Iterable[shards.Sample], saw: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Write one shard, tar before index, and return the index metadata."""
        with self._renamed(shard_name(folder, shard)) as file:
            table = shards.write(file, samples, saw)
        self.write_bytes(_index_name(folder, shard), shards.table_bytes(table))
        self._indexes.pop((folder, shard), None)
        return shards.index_meta(table)

    def read_members(self, folder: str, clip: Clip, ext: str, which: Iterable[int]) -> Iterator[bytes]:
        """The members of a clip with this extension for the samples `which` (0 is the first)."""
        offsets, sizes = self.index(folder, clip.shard).members(clip.id, ext)
        file = self._open(shard_name(folder, clip.shard))
        for t in which:
            file.seek(int(offsets[t]))
            data = file.read(int(sizes[t]))
            if len(data) != sizes[t]:
                raise StoreError(
                    f"{self.url}/{shard_name(folder, clip.shard)}: {clip.key(int(t))}.{ext} is cut short; "
                    f"run `remot verify {self.url}`"
                )
            yield data

    def read_arrays(self, folder: str, kind: str, clip: Clip, names: Iterable[str] | None = None) -> dict[str, Any]:
        """Decoded arrays of a whole clip, as a detector returned them; those the layer does not hold are absent."""
        module = layer_kinds.kind(kind)
        index = self.index(folder, clip.shard)
        out: dict[str, Any] = {}
        for name, ext in module.FIELDS.items():
            if ext not in index.offsets or (names is not None and name not in names):
                continue
            count = 1 if module.PER_CLIP else clip.frames
            values = [module.decode(ext, data) for data in self.read_members(folder, clip, ext, range(count))]
            out[name] = values[0] if module.PER_CLIP else values
        return _stacked(kind, out)

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Everything the ``main`` snapshot holds for one frame, ``store["clip/frame"]``, decoded."""
        clip_id, _, number = key.rpartition("/")
        if clip_id not in self.clip or not number.isdigit() or int(number) >= self.clip[clip_id].frames:
            raise KeyError(f"{key!r} is no frame of {self.url}")
        clip, out = self.clip[clip_id], {"__key__": key, "pts": self.clip[clip_id].pts[int(number)]}
        for kind, folder in {"frames": "frames", **self.folders(self.snapshot("main"))}.items():
            module = layer_kinds.kind(kind)
            for name, ext in module.FIELDS.items():
                if ext in self.index(folder, clip.shard).offsets:
                    which = 0 if module.PER_CLIP else int(number)
                    out[name] = module.decode(ext, next(self.read_members(folder, clip, ext, [which])))
        return out

    @staticmethod
    def folders(snapshot: Snapshot) -> dict[str, str]:
        """Kind -> folder of each layer of a snapshot."""
        return {kind: f"layers/{kind}/{layer_id}" for kind, layer_id in snapshot.layers.items()}

    # Files

    def exists(self, name: str) -> bool:
        return self.fs.exists(self.path(name))

    def names(self, folder: str) -> list[str]:
        """Sorted names in a folder, none if it is not there; temporary ones are left out."""
        try:
            found = self.fs.ls(self.path(folder), detail=False)
        except FileNotFoundError:
            return []
        return sorted(n for n in (p.rstrip("/").rsplit("/", 1)[1] for p in found) if not n.endswith(".tmp"))

    def read_bytes(self, name: str) -> bytes:
        return self.fs.cat_file(self.path(name))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a whole file; readers see the old content or the new, never a part."""
        with self._renamed(name) as file:
            file.write(data)

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as JSON that a person can read, the same bytes for equal values."""
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        self.write_bytes(name, text.encode())

    def append_lines(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Append JSON lines to a ledger file; a line that a kill cut off is marked and stays apart from them."""
        path = self.path(name)
        self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        size = self.fs.size(path) if self.fs.exists(path) else 0
        torn = size > 0 and self.fs.cat_file(path, start=size - 1) != b"\n"
        with self.fs.open(path, "ab") as file:
            file.write((f"{_TORN}\n" * torn + "".join(canonical_json(r) + "\n" for r in records)).encode())

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """The JSON lines of a ledger file; what a kill cut off is left out, its task is simply done again."""
        if not self.exists(name):
            return []
        *lines, _ = self.read_bytes(name).split(b"\n")
        return [json.loads(line) for line in lines if line and not line.endswith(_TORN.encode())]

    def _renamed(self, name: str) -> _Renamed:
        return _Renamed(self.fs, self.path(name))

    def _open(self, name: str) -> Any:
        if name not in self._files:
            if len(self._files) >= 64:
                self._files.pop(next(iter(self._files))).close()
            self._files[name] = self.fs.open(self.path(name), "rb")
        return self._files[name]


class _Renamed:
    """A file under a temporary name, renamed when the block ends well and removed when it does not."""

    def __init__(self, fs: Any, path: str) -> None:
        self.fs, self.path, self.temporary = fs, path, f"{path}.{uuid.uuid4().hex[:8]}.tmp"

    def __enter__(self) -> Any:
        self.fs.makedirs(self.path.rsplit("/", 1)[0], exist_ok=True)
        self.file = self.fs.open(self.temporary, "wb")
        return self.file

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.file.close()
        if error is None:
            self.fs.mv(self.temporary, self.path)
        elif self.fs.exists(self.temporary):
            self.fs.rm(self.temporary)


def open_store(url: str) -> Store:
    """The store at `url`.

    Raises:
        StoreError: where there is none, or of another format.
    """
    store = Store(url)
    _ = store.config
    return store


def create_store(url: str, config: Mapping[str, Any]) -> Store:
    """A new store with this policy, or the one that is there if its policy is the same.

    Raises:
        StoreError: where the folder holds something else, or a store of another policy (names what differs).
    """
    store = Store(url)
    wanted = json.loads(canonical_json({"format": FORMAT, **config}))
    if not store.exists("store.json"):
        if store.names("."):
            raise StoreError(f"{url} exists and is no store; choose another --out or empty that folder")
        store.write_json("store.json", wanted)
    different = [k for k in {**wanted, **store.config} if wanted.get(k) != store.config.get(k)]
    if different:
        changes = ", ".join(f"{k} {store.config.get(k)} is not {wanted.get(k)}" for k in different)
        raise StoreError(f"{url} was made with another policy ({changes}); use the same, or another --out")
    return store


def shard_name(folder: str, shard: int) -> str:
    return f"{folder}/shard-{shard:05d}.tar"


def _index_name(folder: str, shard: int) -> str:
    return f"{folder}/shard-{shard:05d}.parquet"


def _stacked(kind: str, out: dict[str, Any]) -> dict[str, Any]:
    if kind == "background":
        return out
    if kind == "scores":
        rows = out.get("scores", [])
        return {name: np.array([row[name] for row in rows], np.float32) for name in (rows[0] if rows else ())}
    arrays = {name: np.stack(values) for name, values in out.items()}
    if kind == "flow" and "flow" in arrays:
        packed = arrays["flow"]
        return {"flow": np.stack([packed[:, 0], packed[:, 1]], -1), "confidence": packed[:, 2].astype(np.uint8)}
    return arrays
