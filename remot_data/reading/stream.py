"""Store and snapshot to windows: consecutive frames of a clip and a source frame of the same person.

Only the layers asked for are read, and only the members of the frames used are decoded. A clip that a
detector failed on is left out of every snapshot that reads the layer, and counted in the log.
"""

from __future__ import annotations

import itertools
import logging
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import cv2
import numpy as np

from remot_data.reading import sampling
from remot_data.reading.filters import frontality, where
from remot_data.records import BOXES, SURE, VALID, Clip
from remot_data.schemas import SchemaError
from remot_data.store import DamagedError, Members, Store, StoreError, member_key, open_store, shard_name
from remot_data.store import layers as layer_kinds
from remot_data.store.cache import Cache
from remot_data.store.layers import Cut, LayerError, Slot

log = logging.getLogger(__name__)

Stores = Store | str | Sequence[Store | str]
Arrays = dict[str, np.ndarray]
Split = str | Sequence[str | None] | None


@dataclass(frozen=True)
class Window:
    """A training sample.

    `id` is ``clip:first-last/source``, or ``clip:first-last:step/source`` where frames lie `step` > 1 apart. `arrays`,
    where T frames of H x W were asked for: ``frames`` uint8 [T, H, W, 3], ``pts`` int64 [T], ``keypoints`` float32
    [T, K, 3], ``pose_map`` uint8 [T, H, W, 3], ``labels`` uint8 [T, H, W] in the set ``remot11``, ``flow`` float32
    [T, H, W, 2] in pixels from each frame back to the one before in the window, ``confidence`` bool [T, H, W],
    ``background`` uint8 [H, W, 3]; and of the source frame ``source`` uint8 [H, W, 3], ``source_keypoints`` float32
    [K, 3], ``source_labels`` uint8 [H, W]. The arrays of a layer that was not chosen are absent. Where all pose layers
    were made from boxes, ``others`` bool [T, H, W] is where somebody else is. Where asked for, ``valid`` bool [H, W]
    is which pixels of the frames and of the source frame are of the source's picture (`remot_data.persons.valid`), and
    ``sure`` bool [T, H, W] which labels the parser is sure of: all, where its layer does not tell.
    Kinds of layers that are not built in add the arrays that they document.

    With a step of 1, the flow of the first frame points to the frame before the window. With a larger one, flow is
    chained over the frames between, and the first frame has none: zeros, not to be trusted.

    Where plans say `raw`, there is no ``pose_map``, labels are in the layer's own set, and flow and confidence stay on
    the grid [h, w] that they were stored on, in pixels of that grid.
    """

    id: str
    clip: str
    first: int
    source: int
    arrays: dict[str, np.ndarray] = field(repr=False)
    step: int = 1


def stream(
    store: Stores,
    *,
    snapshot: str = "main",
    split: Split = "train",
    layers: Sequence[str] | None = None,
    length: int = 6,
    stride: int | None = None,
    size: tuple[int, int] | None = None,
    source: str = "random",
    shuffle: bool = True,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
    weights: Sequence[float] | None = None,
    max_step: int = 1,
    open_shards: int = 16,
    raw: bool = False,
    cache: Cache | None = None,
    among: Sequence[str] | None = None,
) -> Iterator[Window]:
    """The windows of one epoch one by one, in an order that depends on nothing but seed and epoch.

    `remot_data.Loader` gives batches of the same windows, read ahead by threads.

    Args:
        store: a store or several, which are then mixed in proportion to their windows, or to `weights`.
        split: ``train``, ``test`` or whatever the snapshot's split policy knows; None for every frame.
        layers: kinds to read besides frames, ``valid``, which any store can tell, and ``sure``; by default all of the
            snapshot that windows can hold, and ``valid`` where the policies of all stores say what is outside.
        size: height and width to resize to at load.
        source: ``random``, or ``frontal``: the frame of the clip that shows the person most from the front. With
            the split policy ``time:F`` the source always comes out of the training part.
        start: windows of the global order to skip; rank r of w yields start + r, start + r + w, ...
        weights: see `Plan`, and so for `max_step`, `open_shards`, `raw`, `cache` and `among`.

    Raises:
        StoreError: for a store, snapshot or layer that is not there, or when no window is left (says why).
        LayerError: for a layer of a kind that is not known here.
    """
    plan = Plan(
        store,
        snapshot,
        split,
        layers,
        length,
        stride,
        source,
        shuffle,
        seed,
        epoch,
        weights=weights,
        max_step=max_step,
        open_shards=open_shards,
        raw=raw,
        cache=cache,
        among=among,
    )
    for index in sampling.share(len(plan), rank, world_size, start):
        yield plan.window(index, size)


class Plan:
    """The order of training: `len(plan)` windows an epoch, each read on demand by its number.

    Number i is window i of the epoch `epoch`; numbers from `len(plan)` on are those of the epochs after it. A plan can
    be pickled, and be used by several threads and in forked processes.

    Args:
        split: one for all stores, or one for each. A store may be given twice, with two splits.
        weights: how many of its windows an epoch shows of each store: 1 all of them, 2 all twice, 0.5 half (and the
            next epoch the other half).
        max_step: frames of a window lie 1 to so many apart, drawn for each window.
        open_shards: shards that are shuffled together; see `sampling.Order`.
        raw: leave out what is derived at load; see `Window`.
        cache: where the bytes of remote shards are kept (`remot_data.store.cache.Cache`).
        among: kinds that may be read where `layers` does not say which, ``valid``, ``sure``; any but that by default.

    Raises:
        StoreError: see `stream`.
    """

    def __init__(
        self,
        store: Stores,
        snapshot: str = "main",
        split: Split = "train",
        layers: Sequence[str] | None = None,
        length: int = 6,
        stride: int | None = None,
        source: str = "random",
        shuffle: bool = True,
        seed: int = 0,
        epoch: int = 0,
        *,
        weights: Sequence[float] | None = None,
        max_step: int = 1,
        open_shards: int = 16,
        raw: bool = False,
        cache: Cache | None = None,
        among: Sequence[str] | None = None,
    ) -> None:
        if source not in ("random", "frontal"):
            raise ValueError(f"source is 'random' or 'frontal', not {source!r}")
        several = [store] if isinstance(store, (Store, str)) else list(store)
        splits = [split] * len(several) if split is None or isinstance(split, str) else list(split)
        if len(splits) != len(several):
            raise ValueError(f"{len(several)} stores need one split or as many, not {len(splits)}")
        self.rules = sampling.Rules(length, stride, max_step, shuffle, open_shards, seed)
        self.length, self.source, self.seed, self.epoch, self.raw = length, source, seed, epoch, raw
        stores = [s if isinstance(s, Store) else open_store(s, cache) for s in several]
        if layers is None:
            layers = _common(stores, snapshot, among)
        self.readers = [_Reader(s, snapshot, layers) for s in stores]
        self._agree_on_optional()
        spans = [r.spans(name) for r, name in zip(self.readers, splits, strict=True)]
        self.order = sampling.Mix([sampling.Order(*s, self.rules, part) for part, s in enumerate(spans)], weights)
        if not len(self.order):
            names = ", ".join(r.store.url for r in self.readers)
            if elsewhere := self._elsewhere(splits):
                raise StoreError(
                    f"every usable frame of snapshot {snapshot!r} of {names} is in split {elsewhere!r}, none in "
                    f"{split!r}: read that by --split {elsewhere}, or divide each clip by time with "
                    f"`remot snapshot {names} {snapshot} --split time:0.1`"
                )
            found = np.concatenate([s for s, _ in spans])
            raise StoreError(
                f"no window of {length} frames is left in split {split!r} of snapshot {snapshot!r} of {names}: "
                f"{len(found)} runs of usable frames, the longest of {(found[:, 3] - found[:, 2]).max(initial=0)}; "
                "take shorter windows, another split, or loosen the snapshot's filter"
            )

    def _elsewhere(self, splits: Sequence[str | None]) -> str:
        """The split in which all frames are, where there are none in those that were asked for."""
        there = {
            name
            for reader, asked in zip(self.readers, splits, strict=True)
            for name in ("train", "test")
            if asked is not None and len(reader.spans(name)[0])
        }
        return there.pop() if len(there) == 1 and there.isdisjoint(splits) else ""

    def _agree_on_optional(self) -> None:
        """Windows have an optional array where every store tells of it, since those of one batch are alike."""
        for kind in {kind for reader in self.readers for kind in reader.optional}:
            for reader in self.readers:
                if lacking := [r.store.url for r in self.readers if kind not in r.optional]:
                    log.warning("windows do not tell of others: the %s layer of %s cannot", kind, ", ".join(lacking))
                    reader.optional -= {kind}

    def __len__(self) -> int:
        return len(self.order)

    @property
    def remote(self) -> bool:
        """Whether reading waits for a network."""
        return any(not reader.store.files.local for reader in self.readers)

    def window(self, number: int, size: tuple[int, int] | None = None) -> Window:
        """Read and decode one window of the order."""
        _, cut = self._cut(number)
        arrays: Arrays = {}
        self.fill(number, self.fetch(number), arrays, size)
        return Window(cut.id, cut.clip.id, cut.first, cut.source, arrays, cut.step)

    def fetch(self, number: int) -> list[bytes]:
        """The members of a window as they are stored.

        Raises:
            DamagedError: for a shard or member that is missing or cut short; names the key and the shard.
        """
        part, members = self.members(number)
        return self.readers[part].store.read_all(members, _WASTE)

    def members(self, number: int) -> tuple[int, list[Members]]:
        """Number of the store of a window, and the members that it reads."""
        part, cut = self._cut(number)
        return part, self.readers[part].members(cut)

    def fill(self, number: int, data: Sequence[bytes], out: Arrays, size: tuple[int, int] | None = None) -> str:
        """Decode what `fetch` gave into the arrays that `out` has, or new ones; gives the id of the window.

        Raises:
            DamagedError: for a member that cannot be decoded; names the key and the shard.
        """
        part, cut = self._cut(number)
        reader = self.readers[part]
        reader.decode(cut, data, out, size or reader.store.size, self.raw)
        return cut.id

    def _cut(self, number: int) -> tuple[int, Cut]:
        part, clip, first, step, source = self.order.window(self.epoch * len(self.order) + number)
        reader = self.readers[part]
        found = reader.store.clips[clip]
        if self.source == "frontal":
            source = reader.frontal(found, self.order.orders[part].sources(clip))
        return part, Cut(found, first, step, self.length, source)


def schemas(store: Store | str, snapshot: str = "main") -> dict[str, str]:
    """Names of the schemas that windows of this snapshot have: ``pose`` and ``labels``."""
    store = store if isinstance(store, Store) else open_store(store)
    found: dict[str, str] = {}
    for kind, layer_id in store.snapshot(snapshot).layers.items():
        if layer_kinds.is_known(kind):
            found |= layer_kinds.kind(kind).schemas(store.layer(kind, layer_id).schema)
    return found


def to_torch(window: Window | Mapping[str, Any]) -> dict[str, Any]:
    """A window, or the arrays of a batch, as torch tensors under the same names.

    Images become float32 [..., 3, H, W] in [-1, 1], labels int64, flow float32 [..., T, 2, H, W] and confidence
    float32 [..., T, 1, H, W]; keypoints, pts and what is no array keep their form. Arrays of other kinds of layers
    become what `Kind.window_arrays` says.
    """
    import torch

    out = {}
    for name, array in (window.arrays if isinstance(window, Window) else window).items():
        if not isinstance(array, np.ndarray):
            out[name] = array
            continue
        form = layer_kinds.form(name)
        if form == "vectors":
            array = np.moveaxis(array, -1, -3)
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if form == "image":
            tensor = tensor.movedim(-1, -3).float().div_(127.5).sub_(1)
        elif form == "labels":
            tensor = tensor.long()
        elif form == "map":
            tensor = tensor.float().unsqueeze(-3)
        out[name] = tensor
    return out


def _common(stores: Sequence[Store], snapshot: str, among: Sequence[str] | None) -> list[str]:
    """The kinds of layer that windows of all stores can have."""
    held = [[k for k in layer_kinds.ordered(store.snapshot(snapshot).layers) if _is_read(k, among)] for store in stores]
    common = [kind for kind in held[0] if all(kind in layers for layers in held)]
    for store, layers in zip(stores, held, strict=True):
        lost = [kind for kind in layers if kind not in common]
        if lost:
            log.warning("%s: the %s layer is not read, because another store has none", store.url, ", ".join(lost))
    told = all(store.outside is not None for store in stores) if among is None else VALID in among
    return [*common, *([VALID] if told else []), *([SURE] if among is not None and SURE in among else [])]


def _is_read(kind: str, among: Sequence[str] | None) -> bool:
    return (among is None or kind in among) and bool(layer_kinds.kind(kind).window_field)


class _Reader:
    """One store through one snapshot."""

    def __init__(self, store: Store, snapshot: str, layers: Sequence[str]) -> None:
        self.store, self.snapshot = store, store.snapshot(snapshot)
        self.valid, sure = VALID in layers, SURE in layers
        layers = [kind for kind in layers if kind not in (VALID, SURE)]
        missing = [k for k in layers if k not in self.snapshot.layers]
        if missing:
            raise StoreError(
                f"snapshot {snapshot!r} of {store.url} has no {', '.join(missing)} layer; "
                f"it has {', '.join(self.snapshot.layers) or 'none'}"
            )
        self.kinds, self.reads = layers, ["frames", *layers]
        self.folders = store.folders(self.snapshot)
        for kind in layers:
            if not layer_kinds.kind(kind).window_field:
                raise StoreError(f"windows hold no {kind} layer; leave it out")
        read = {*self.kinds, *(["scores"] if self.snapshot.where and "scores" in self.snapshot.layers else [])}
        infos = {kind: store.layer(kind, self.snapshot.layers[kind]) for kind in sorted(read)}
        self.schema = {kind: infos[kind].schema for kind in self.kinds}
        optional = {kind: layer_kinds.kind(kind).window_optional for kind in self.kinds}
        told = {k: sure if name == SURE else name and BOXES in infos[k].inputs for k, name in optional.items()}
        self.optional = {kind for kind, is_told in told.items() if is_told}
        self._frontal: dict[str, int] = {}
        self.failed = {clip for info in infos.values() for clip in info.failed}
        if self.failed:
            log.warning(
                "%s: %d of %d clips are left out, because a detector failed on them (`remot stats` names the layers)",
                store.url,
                len(self.failed & set(store.clip)),
                len(store.clips),
            )

    def spans(self, split: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Runs of usable frames, int64 [S, 4] of shard, number of the clip, start and stop; and of source frames."""
        clips = [(n, clip) for n, clip in enumerate(self.store.clips) if clip.id not in self.failed]
        shards = [list(of) for _, of in itertools.groupby(clips, key=lambda one: one[1].shard)]
        # A filter reads an index a shard, which takes time far away.
        many = _AT_ONCE if self.snapshot.where and not self.store.files.local else 1
        with ThreadPoolExecutor(many) as pool:
            parts = list(pool.map(partial(self._spans, split), shards))
        spans, sources = ([row for part in parts for row in part[which]] for which in (0, 1))
        return np.array(spans, np.int64).reshape(-1, 4), np.array(sources, np.int64).reshape(-1, 3)

    def _spans(self, split: str | None, clips: Sequence[tuple[int, Clip]]) -> tuple[list[Any], list[Any]]:
        policy, filtered = self.snapshot.split, self.snapshot.is_filtered
        spans, sources = [], []
        for number, clip in clips:
            if not filtered and policy == "column":
                usable = found = [(0, clip.frames)] if split in (None, clip.split or "train") else []
            else:
                allowed = where(self.snapshot, self.store, clip)
                usable = sampling.runs(allowed & sampling.split_mask(clip.frames, policy, split, clip.split))
                as_source = split if policy == "column" else "train"
                found = sampling.runs(allowed & sampling.split_mask(clip.frames, policy, as_source, clip.split))
            if found:
                spans += [(clip.shard, number, a, b) for a, b in usable]
                sources += [(number, a, b) for a, b in found]
        return spans, sources

    def frontal(self, clip: Clip, candidates: np.ndarray) -> int:
        """The one of `candidates` (int [N]) that shows the person most from the front."""
        if clip.id not in self._frontal:
            points = self.store.read_arrays(self.folders["pose"], "pose", clip, ["keypoints"])["keypoints"]
            facing = frontality(points, self.store.layer("pose", self.snapshot.layers["pose"]).schema)
            self._frontal[clip.id] = int(candidates[np.argmax(facing[candidates])])
        return self._frontal[clip.id]

    def members(self, cut: Cut) -> list[Members]:
        """The members of a window: those of each layer in turn."""
        found = []
        for kind in self.reads:
            layer, folder = layer_kinds.kind(kind), self.folders.get(kind, "frames")
            found.append(Members(folder, cut.clip, layer.fields[layer.window_field], layer.samples(cut)))
            if self._has_optional(kind, cut.clip):
                found.append(Members(folder, cut.clip, layer.fields[layer.window_optional], cut.frames))
        return found

    def _has_optional(self, kind: str, clip: Clip) -> bool | None:
        """Whether a clip has the optional array of a kind; None where windows have none."""
        if kind not in self.optional:
            return None
        layer = layer_kinds.kind(kind)
        return self.store.index(self.folders[kind], clip.shard).has(clip.id, layer.fields[layer.window_optional])

    def decode(self, cut: Cut, data: Sequence[bytes], out: Arrays, size: tuple[int, int], raw: bool) -> None:
        """Turn the bytes of `members` into the arrays of a window; see `Plan.fill`."""
        _place(out, "pts", (cut.length,), np.int64)[:] = cut.clip.pts.array()[list(cut.frames)]
        start = taken = 0

        def contents(stop: int) -> Iterator[bytes]:
            nonlocal taken
            for content in itertools.islice(data, start, stop):
                yield content
                taken += 1

        try:
            for kind in self.reads:
                layer = layer_kinds.kind(kind)
                has = self._has_optional(kind, cut.clip)
                schema, place = self.schema.get(kind, ""), partial(_place, out)
                slot = Slot(cut, self.store.size, size, raw, schema, place, has, self.valid)
                stop = start + len(layer.samples(cut)) + cut.length * bool(has)
                layer.window(contents(stop), slot)
                start = taken = stop  # a kind need not ask whether there is more
        except _DAMAGE as error:
            folder = "frames" if kind == "frames" else self.folders[kind]
            name = member_key(self.members(cut), min(taken, len(data) - 1))
            raise DamagedError(
                f"{self.store.url}/{shard_name(folder, cut.clip.shard)}: {name} cannot be used ({error}); "
                f"run `remot verify {self.store.url} --repair`"
            ) from error


_AT_ONCE = 16  # indexes that are read at the same time for a filter
_WASTE = 0.07  # share of the bytes of a window that may be read along to save requests
# What decoding damaged bytes raises.
_DAMAGE = (LayerError, SchemaError, ValueError, IndexError, struct.error, cv2.error)


def _place(out: Arrays, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """The array `name` of `out`; a new one where it has none."""
    found = out.get(name)
    if found is None:
        found = out[name] = as_used(name, np.empty(in_memory(name, shape), dtype))
    elif found.shape != shape:
        raise StoreError(
            f"{name} has the shape {list(shape)} here and {list(found.shape)} in other windows; give a size, and read "
            "stores of one flow grid and one keypoint set together"
        )
    return found


def in_memory(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape an array has in memory: vectors lie there as planes, [..., C, H, W], as they are written and used."""
    return (*shape[:-3], shape[-1], *shape[-3:-1]) if layer_kinds.form(name) == "vectors" else tuple(shape)


def as_used(name: str, array: np.ndarray) -> np.ndarray:
    """An array of the shape `in_memory`, as the view that windows show."""
    return np.moveaxis(array, -3, -1) if layer_kinds.form(name) == "vectors" else array
