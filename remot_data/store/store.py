"""A store: what it says of itself, its shards, its snapshots, its ledger and what was removed from it.

Nothing half-written is ever visible: a shard's tar comes before its index, all indexes of a layer before its
``layer.json``, layers before the snapshot; and each file appears whole (`remot_data.store.files`).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from remot_data.records import (
    BOXES,
    FORMAT,
    NO_SEAL,
    Clip,
    LayerInfo,
    Snapshot,
    canonical_json,
    digest,
    is_sealed,
    layer_folder,
    sealed,
)
from remot_data.store import boxes_table, shards
from remot_data.store import layers as layer_kinds
from remot_data.store.boxes import Boxes
from remot_data.store.cache import Cache
from remot_data.store.clips_table import CLIP_GROUP, clip_table, clips_of
from remot_data.store.disk import TEMPORARY, FilesError
from remot_data.store.files import LOCK, Files
from remot_data.store.index import (
    DamagedError,
    Index,
    Members,
    Recent,
    StoreError,
    index_name,
    member_key,
    of_shard,
    shard_name,
)
from remot_data.store.lock import Lock
from remot_data.store.log import Lines, read_lines
from remot_data.store.tables import read_table, rows_where, table

# The end of the name of an index that waits for its tar.
_NEXT = f".next{TEMPORARY}"
_BETWEEN, _AT_ONCE = 4096, 1 << 20  # bytes between members that are read along, and the most that is read at once
_INDEXES, _OPEN_FILES, _BOXES = 256, 128, 8  # indexes (a third of a megabyte each), tars, boxes that a process keeps

T = TypeVar("T")
Line = dict[str, Any]


class Store:
    """A dataset folder at any fsspec URL. Open one with `open_store`."""

    def __init__(self, url: str, cache: Cache | None = None) -> None:
        self.url = os.fspath(url)
        self.files = Files(self.url)
        self.cache = cache
        self._indexes, self._open_files, self._boxes = Recent(_INDEXES), Recent(_OPEN_FILES), Recent(_BOXES)

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "cache": self.cache}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"], state["cache"])  # type: ignore[misc]

    # What the store says of itself

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of ``store.json``: format, frame size, crop and fps policy."""
        try:
            config = self._read_json("store.json")
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
        height, width = self.config["size"]
        return height, width

    @property
    def outside(self) -> str | None:  # see `Policy.outside`
        return self.config.get("policy", {}).get("outside")

    @property
    def policy(self) -> str:
        """Digest of ``store.json``: part of every layer id."""
        return digest(self.config)

    @cached_property
    def planned(self) -> list[Clip]:
        """Every clip that the shards hold, in the order of shards and keys; those that were removed, too."""
        try:
            return clips_of(read_table(self.files.read("clips.parquet")))
        except FileNotFoundError:
            raise StoreError(f"{self.url} has no clips yet: its build did not finish; run it again") from None
        except FilesError:
            raise
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.url}/clips.parquet cannot be read ({error}); run `remot verify`") from error

    @cached_property
    def clips(self) -> list[Clip]:
        """Every clip but those that were removed, in the order of shards and keys."""
        return [clip for clip in self.planned if clip.id not in self.removed]

    @cached_property
    def clip(self) -> dict[str, Clip]:
        """Every clip by its id."""
        return {clip.id: clip for clip in self.clips}

    @cached_property
    def removed(self) -> dict[str, str]:
        """The clips that were removed, and why; readers skip them, a build never adds them again."""
        try:
            return self._read_json("removed.json")["clips"]
        except FileNotFoundError:
            return {}

    @cached_property
    def _by_shard(self) -> dict[int, list[Clip]]:
        found: dict[int, list[Clip]] = {}
        for clip in self.planned:
            found.setdefault(clip.shard, []).append(clip)
        return found

    @property
    def shard_count(self) -> int:
        return 1 + max(self._by_shard, default=-1)

    def shard_clips(self, shard: int) -> list[Clip]:
        """The clips of a shard in key order, removed ones too. A task that asks for one shard reads little."""
        if "planned" in self.__dict__:
            return self._by_shard.get(shard, [])
        with self.files.open("clips.parquet") as file:
            return clips_of(rows_where(file, "shard", shard))

    def write_clips(self, clips: Sequence[Clip]) -> None:
        """Write ``clips.parquet``, the plan of the store."""
        self.files.write("clips.parquet", shards.table_bytes(clip_table(clips), group=CLIP_GROUP))
        self._forget("planned", "clips", "clip", "_by_shard")

    def remove(self, clips: Mapping[str, str]) -> None:
        """Note clips as removed, each with the reason: readers honour it at once, `compact` frees the space."""
        self.write_json("removed.json", {"clips": {**self.removed, **clips}})
        self._forget("removed", "clips", "clip")

    def _forget(self, *names: str) -> None:
        for name in names:
            self.__dict__.pop(name, None)

    def _kinds(self) -> list[str]:
        """The kinds that there are layers of, whether known here or not."""
        return layer_kinds.ordered(name for name in self.files.names("layers") if re.fullmatch(r"\w+", name))

    @property
    def layers(self) -> list[LayerInfo]:
        """Every finished layer."""
        found = []
        for kind in self._kinds():
            for name in self.files.names(f"layers/{kind}"):
                with contextlib.suppress(FileNotFoundError):
                    found.append(LayerInfo.from_json(self._read_json(f"{layer_folder(kind, name)}/layer.json")))
        return found

    def layer(self, kind: str, layer_id: str) -> LayerInfo:
        """One layer by kind and id, or by the unique beginning of its id."""
        with contextlib.suppress(FileNotFoundError):
            return LayerInfo.from_json(self._read_json(f"{layer_folder(kind, layer_id)}/layer.json"))
        known = [info for info in self.layers if info.kind == kind]
        found = [info for info in known if info.id.startswith(layer_id)]
        if len(found) != 1:
            names = ", ".join(info.id for info in known) or "none"
            raise StoreError(f"{self.url} has no single {kind} layer called {layer_id!r}; there is {names}")
        return found[0]

    @property
    def snapshots(self) -> dict[str, Snapshot]:
        names = (name.removesuffix(".json") for name in self.files.names("snapshots") if name.endswith(".json"))
        return {name: self.snapshot(name) for name in names}

    def snapshot(self, name: str) -> Snapshot:
        """The snapshot called `name`; `StoreError` lists the known ones."""
        try:
            return Snapshot.from_json(self._read_json(f"snapshots/{name}.json"))
        except FileNotFoundError:
            known = ", ".join(n.removesuffix(".json") for n in self.files.names("snapshots")) or "none"
            raise StoreError(f"{self.url} has no snapshot {name!r}; there is {known}") from None

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Make `snapshot` visible, replacing one of the same name. Each layer it names must exist."""
        if not re.fullmatch(r"[\w-]+", snapshot.name):
            raise StoreError(f"a snapshot's name has only letters, digits, - and _, not {snapshot.name!r}")
        for kind, layer_id in snapshot.layers.items():
            if not self.files.exists(f"{layer_folder(kind, layer_id)}/layer.json"):
                raise StoreError(f"snapshot {snapshot.name!r} names the {kind} layer {layer_id!r}, which is not there")
        self.files.sweep("snapshots", f"{snapshot.name}.json")
        self.write_json(f"snapshots/{snapshot.name}.json", snapshot.to_json())

    # Boxes

    @property
    def has_boxes(self) -> bool:
        """Whether it says who was seen where: then its policy says whose clips are made."""
        return "persons" in self.config.get("policy", {})

    def boxes(self, clip: Clip) -> Boxes | None:
        """Who was seen where around a clip, None where the store does not say."""
        return self.shard_boxes(clip.shard)[clip.id] if self.has_boxes else None

    def shard_boxes(self, shard: int) -> dict[str, Boxes]:
        """Clip id -> boxes of the clips of a shard, in a store that has them."""
        return self._boxes.get(shard, lambda: self._read_table(BOXES, shard, boxes_table.of_table))

    def write_boxes(self, shard: int, boxes: Mapping[str, Boxes]) -> dict[str, Any]:
        """Write the boxes of a shard's clips, by their ids; returns what `meta` gives of them from now on."""
        self.files.write(index_name(BOXES, shard), data := boxes_table.file_bytes(boxes))
        self._boxes.forget(shard)
        return shards.file_meta(data)

    # Shards

    def meta(self, folder: str, shard: int) -> dict[str, Any] | None:
        """The metadata of a shard's index (`shards.index_meta`), or None where the shard is not complete."""
        if (folder, shard) in self._indexes:
            return self.index(folder, shard).meta
        try:
            return shards.file_meta(self.files.read(index_name(folder, shard)))
        except FileNotFoundError:
            return None
        except FilesError:
            raise
        except (OSError, ValueError, KeyError) as error:
            raise self._unreadable(index_name(folder, shard), error) from error

    def present(self, folder: str) -> set[int]:
        """The shards of a folder that have both files; boxes have but one."""
        names = set(self.files.names(folder))
        stems = (name.removesuffix(".parquet") for name in names if name.endswith(".parquet"))
        return {int(stem.removeprefix("shard-")) for stem in stems if folder == BOXES or f"{stem}.tar" in names}

    def index(self, folder: str, shard: int) -> Index:
        """The index of a shard of ``frames`` or of ``layers/<kind>/<id>``."""
        return self._indexes.get((folder, shard), lambda: self._read_table(folder, shard, Index))

    def _read_table(self, folder: str, shard: int, made: Callable[[pa.Table], T]) -> T:
        name = index_name(folder, shard)
        try:
            return made(read_table(self.files.read(name)))
        except FileNotFoundError:
            again = "build" if folder in ("frames", BOXES) else "build or `remot annotate`"
            raise DamagedError(f"{self.url}/{name} is missing: run the {again} again") from None
        except FilesError:
            raise
        except (OSError, ValueError, KeyError) as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: Exception) -> StoreError:
        return DamagedError(f"{self.url}/{name} cannot be read ({error}); run `remot verify {self.url} --repair`")

    def sha256(self, folder: str, shard: int) -> str:
        """The sha256 that a shard's index gives for its tar."""
        meta = self.meta(folder, shard)
        if meta is None:
            raise StoreError(f"{self.url}/{index_name(folder, shard)} is missing: run the build again")
        return meta["sha256"]

    def write_shard(
        self,
        folder: str,
        shard: int,
        samples: Iterable[shards.Sample],
        saw: Mapping[str, str] | None = None,
        failed: Mapping[str, str] | None = None,
        gpu: str = "",
    ) -> dict[str, Any]:
        """Write one shard, tar before index, and return the index metadata; see `shards.write`.

        Where there is one already, its old index does not fit the new tar: until the new one is there, it lies next
        to it under a temporary name, so that `sweep` can finish what was interrupted in between.
        """
        index, coming = index_name(folder, shard), index_name(folder, shard) + _NEXT
        replaces = self.files.exists(index)
        with self.files.writing(shard_name(folder, shard)) as file:
            table = shards.write(file, samples, saw, failed, gpu)
            data = shards.table_bytes(table)
            if replaces:
                self.files.write(coming, data)
        self.files.write(index, data)
        if replaces:
            self.files.remove(coming)
        self._indexes.forget((folder, shard))
        self._open_files.forget(shard_name(folder, shard))
        return shards.index_meta(table)

    def read_members(self, folder: str, clip: Clip, ext: str, which: Sequence[int]) -> Iterator[bytes]:
        """The members of a clip with this extension for the samples `which` (0 is the first)."""
        return iter(self.read_all([Members(folder, clip, ext, which)]))

    def read_all(self, wanted: Sequence[Members], waste: float = math.inf) -> list[bytes]:
        """The bytes of members of any layers; on a remote store all are asked for at once.

        `waste` is the share of bytes that may be read along to save requests, `Files.pieces` says how.

        Raises:
            DamagedError: for a shard that is missing or cut short; names the key and the shard.
        """
        places = self._places(wanted)
        try:
            found = self._pieces(places, waste)
        except FilesError:
            raise
        except OSError as error:
            raise DamagedError(f"a shard cannot be read ({error}); run `remot verify {self.url} --repair`") from error
        for at, ((name, start, end), data) in enumerate(zip(places, found, strict=True)):
            if len(data) != end - start:
                raise DamagedError(
                    f"{self.url}/{name}: {member_key(wanted, at)} is cut short; run `remot verify {self.url} --repair`"
                )
        return found

    def _places(self, wanted: Sequence[Members]) -> list[tuple[str, int, int]]:
        """The name of the tar, and where in it each member begins and ends."""
        places: list[tuple[str, int, int]] = []
        for folder, clip, ext, which in wanted:
            name = shard_name(folder, clip.shard)
            offsets, sizes = self.index(folder, clip.shard).members(clip.id, ext)
            if len(which) and max(which) >= len(offsets):
                raise DamagedError(f"{self.url}/{name} has no member {clip.key(max(which))}.{ext}")
            starts = offsets[rows := np.array(which, np.int64)]
            places += zip(itertools.repeat(name), starts.tolist(), (starts + sizes[rows]).tolist())
        return places

    def _pieces(self, places: Sequence[tuple[str, int, int]], waste: float = math.inf) -> list[bytes]:
        """The bytes [start, end) of each (name, start, end)."""
        if self.files.local:
            return list(self._read_local(places))
        if self.cache is None:
            return self.files.pieces(places, waste)
        stamps = {name: self.sha256(*of_shard(name)) for name, _, _ in places}
        return self.cache.pieces(self.files, places, stamps)

    def _read_local(self, places: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        """Read members that follow each other at once: what a system call costs is more than the bytes between them."""
        at = 0
        while at < len(places):
            name, first, end = places[at]
            stop = at + 1
            for other, start, until in places[stop:]:
                if other != name or not 0 <= start - end <= _BETWEEN or until - first > _AT_ONCE:
                    break
                end, stop = until, stop + 1
            # Reading at an offset leaves no mark on the file: threads and forked processes may share it.
            data = os.pread(self._open(name).fileno(), end - first, first)
            for _, start, until in places[at:stop]:
                yield data[start - first : until - first]
            at = stop

    def read_arrays(
        self,
        folder: str,
        kind: str,
        clip: Clip,
        names: Iterable[str] | None = None,
        which: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """Decoded arrays of a clip, as a detector returned them; those the layer does not hold are absent.

        `which` are the frames to read, all by default; what a clip has once is read in any case.

        Raises:
            LayerError: for a kind of layer that is not known here.
        """
        layer, index = layer_kinds.kind(kind), self.index(folder, clip.shard)
        only = None if names is None else set(names)
        chosen = {n: e for n, e in layer.fields.items() if index.has(clip.id, e) and (only is None or n in only)}
        samples = range(1) if layer.per_clip else range(clip.frames) if which is None else which
        read = iter(self.read_all([Members(folder, clip, ext, samples) for ext in chosen.values()]))
        return layer.stacked({name: [layer.decode(ext, next(read)) for _ in samples] for name, ext in chosen.items()})

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Everything the ``main`` snapshot holds for one frame, ``store["clip/frame"]``, decoded."""
        clip_id, _, number = key.rpartition("/")
        if clip_id not in self.clip or not number.isdigit() or int(number) >= self.clip[clip_id].frames:
            raise KeyError(f"{key!r} is no frame of {self.url}")
        clip, out = self.clip[clip_id], {"__key__": key, "pts": self.clip[clip_id].pts[int(number)]}
        for kind, folder in {"frames": "frames", **self.folders(self.snapshot("main"))}.items():
            layer = layer_kinds.kind(kind)
            chosen = {n: e for n, e in layer.fields.items() if self.index(folder, clip.shard).has(clip.id, e)}
            which = 0 if layer.per_clip else int(number)
            read = self.read_all([Members(folder, clip, ext, [which]) for ext in chosen.values()])
            for (name, ext), data in zip(chosen.items(), read, strict=True):
                out[name] = layer.decode(ext, data)
        return out

    @staticmethod
    def folders(snapshot: Snapshot) -> dict[str, str]:
        """Kind -> folder of each layer of a snapshot."""
        return {kind: layer_folder(kind, layer_id) for kind, layer_id in snapshot.layers.items()}

    # JSON, the ledger, locks

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write values as sealed JSON that a person can read, the same bytes for equal values."""
        text = json.dumps({**value, "seal": NO_SEAL}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        self.files.write(name, sealed(text.encode()))

    def _read_json(self, name: str) -> dict[str, Any]:
        value = json.loads(self.files.read(name))
        value.pop("seal", None)
        return value

    def log(self, name: str) -> Lines:
        """Opens the log `name` of the ledger for new records."""
        return Lines(self.files, f"ledger/{name}")

    def logged(self, name: str) -> list[dict[str, Any]]:
        """The records of a log, in the order they were written."""
        return [*self._compacted(name), *read_lines(self.files, f"ledger/{name}")[0]]

    def compact_log(self, name: str, key: Callable[[Line], Any], change: Callable[[Line], Line] = dict) -> None:
        """Put the lines of a log into one Parquet file: of records with one key, the last. `change` gives new ones."""
        records, names = read_lines(self.files, f"ledger/{name}")
        if not names and change is dict:
            return
        kept: dict[Any, str] = {}
        for record in map(change, [*self._compacted(name), *records]):
            kept.pop(key(record), None)  # the order is that of the last writing
            kept[key(record)] = canonical_json(record)
        self.files.write(f"ledger/{name}.parquet", shards.table_bytes(table({"record": list(kept.values())})))
        for part in names:
            self.files.remove(part)

    def _compacted(self, name: str) -> list[dict[str, Any]]:
        try:
            data = self.files.read(f"ledger/{name}.parquet")
        except FileNotFoundError:
            return []
        if not is_sealed(data):
            raise StoreError(f"{self.url}/ledger/{name}.parquet is damaged; run `remot verify {self.url} --repair`")
        texts = read_table(data)["record"].to_pylist()
        return json.loads("[" + ",".join(texts) + "]")

    def lock(self, name: str = "store", wait: bool = False) -> Lock:
        """The lock of who writes frames (``store``) or a layer (its id)."""
        return Lock(self.files, f"ledger/{LOCK}{name}.json", wait)

    def sweep(self, *folders: str) -> None:
        """Finish or remove what interrupted writes left in these folders; only for who holds the lock on them."""
        for folder in folders:
            for name in self.files.names(folder, temporary=True):
                if name.endswith(_NEXT):
                    self._finish(f"{folder}/{name.removesuffix(_NEXT)}")
            self.files.sweep(folder)

    def trim(self) -> None:
        """Remove shards past the last one that has clips; only for who holds the lock on the store.

        A plan that became shorter leaves them, and a store that grows would take them for its own.
        """
        count = self.shard_count
        layers = (layer_folder(k, name) for k in self._kinds() for name in self.files.names(f"layers/{k}"))
        for folder in ("frames", BOXES, *layers):
            for name in self.files.names(folder):
                found = re.fullmatch(r"shard-(\d+)\.(tar|parquet)", name)
                if found and int(found[1]) >= count:
                    self.files.remove(f"{folder}/{name}")

    def _finish(self, index: str) -> None:
        """Give a replaced shard its new index, if its tar is the new one."""
        data = self.files.read(index + _NEXT)
        tar = self.files.read(f"{index.removesuffix('.parquet')}.tar")
        if hashlib.sha256(tar).hexdigest() == shards.file_meta(data)["sha256"]:
            self.files.write(index, data)

    def _open(self, name: str) -> Any:
        # Never closed here: a thread that reads from it keeps it, and the last to let go closes it.
        return self._open_files.get(name, lambda: self.files.open(name))
