"""Batches of windows for training, read ahead by threads or processes, in an order that one integer resumes."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from remot_data import render
from remot_data.errors import RemotError
from remot_data.reading.loader import Batch, Loader
from remot_data.reading.stream import Plan, to_torch
from remot_data.reading.stream import schemas as store_schemas
from remot_data.records import HW, OUTSIDE, SURE, VALID, layer_folder
from remot_data.schemas import MIRROR_11, mirror_keypoints
from remot_data.store import Store, open_store
from remot_data.store.content import Content, content
from remot_data.store.layers import BUILT_IN, kind
from remot_model.config import Config, fitted

# Layers a stage reads; None is all that the snapshot has of the built-in kinds.
LAYERS = {"layout": ("pose", "parsing", "flow"), "region": ("parsing",), "whole": None}
# What a batch of a stage has to have, and the layer that it comes from.
_POSE_TO_FLOW = {"pose_map": "pose", "labels": "parsing", "flow": "flow"}
_REQUIRED = {"layout": _POSE_TO_FLOW, "region": {"labels": "parsing"}, "whole": _POSE_TO_FLOW}
_IMAGES = ("frames", "source", "background")
_LABELS = ("labels", "source_labels")
_WINDOWS_A_WORKER = 2  # under way: one that is read, one that waits for the worker
# The labels of a mirrored person; a table for `cv2.LUT`.
_MIRRORED = np.arange(256, dtype=np.uint8)
_MIRRORED[: len(MIRROR_11)] = MIRROR_11


class DataError(RemotError, RuntimeError):
    """Stores that cannot be trained on together, or that lack what a stage needs."""


def stores_of(stores: Any) -> list[Any]:
    """One store or several, as a list."""
    return list(stores) if isinstance(stores, Sequence) and not isinstance(stores, str) else [stores]


def schemas(stores: Any, snapshot: str) -> dict[str, str]:
    """The schemas of all stores; `DataError` that names both where two differ."""
    found: dict[str, str] = {}
    for store in stores_of(stores):
        for name, schema in store_schemas(store, snapshot).items():
            if found.setdefault(name, schema) != schema:
                raise DataError(
                    f"snapshot {snapshot!r} of {store} has {name} in the schema {schema!r}, another store has "
                    f"{found[name]!r}; train on stores of one schema, or choose snapshots that agree"
                )
    return found


def contents(stores: Any, snapshot: str) -> list[Content]:
    """What the snapshot of each store holds now, and which of its layers are stale."""
    return [content(open_store(s) if isinstance(s, str) else s, snapshot) for s in stores_of(stores)]


@dataclass(frozen=True)
class Shown:
    """What the frames of a store are like: their height and width, and its `Store.outside`."""

    url: str
    size: HW
    outside: str | None


def shown(stores: Any) -> list[Shown]:
    """The frames of each store."""
    opened = (open_store(s) if isinstance(s, str) else s for s in stores_of(stores))
    return [Shown(store.url, store.size, store.outside) for store in opened]


def resolved(stores: Any, config: Config, snapshot: str = "main") -> Config:
    """The configuration with a value for an ``auto`` of `Config.valid` and of `Config.sure`."""
    if config.valid == "auto":
        config = dataclasses.replace(config, valid=all(found.outside is not None for found in shown(stores)))
    if config.sure == "auto":
        config = dataclasses.replace(config, sure=tell_sure(stores, snapshot))
    return config


def tell_sure(stores: Any, snapshot: str) -> bool:
    """Whether the parsing of a snapshot of all stores tells how sure its labels are, as their first shards have it."""
    return all(_tells_sure(open_store(s) if isinstance(s, str) else s, snapshot) for s in stores_of(stores))


def _tells_sure(store: Store, snapshot: str) -> bool:
    layers, extension = store.snapshot(snapshot).layers, kind("parsing").fields[SURE]
    if "parsing" not in layers or not store.clips:
        return False
    shard = store.clips[0].shard
    index = store.index(layer_folder("parsing", layers["parsing"]), shard)
    return any(index.has(clip.id, extension) for clip in store.shard_clips(shard))


def outside(stores: Any) -> str | None:
    """What frames of the stores show outside the picture of their source: ``black`` where they are not of one mind."""
    found = {found.outside for found in shown(stores)}
    return found.pop() if len(found) == 1 else OUTSIDE[0]


def stretched(stores: Any, config: Config) -> list[str]:
    """A sentence on each store whose frames are of another shape than the configuration's."""
    return [
        f"the frames of {found.url} are {_by(found.size)}, and stretched to {_by(config.size)}; "
        f"--set size=[{','.join(map(str, fits))}] keeps their shape"
        for found in shown(stores)
        if (fits := fitted(config, found.size).size) != config.size
    ]


def _by(size: HW) -> str:
    return "x".join(map(str, size))


def epochs(
    stores: Any, config: Config, stage: str, *, snapshot: str = "main", split: str = "train", seed: int = 0
) -> Plan:
    """The windows of all epochs, with the layers and length that `stage` needs.

    Raises:
        DataError: if a snapshot lacks a layer that the stage needs, or the pose that says which frame is frontal.
    """
    opened = [open_store(s) if isinstance(s, str) else s for s in stores_of(stores)]
    read, config = LAYERS[stage], resolved(opened, config, snapshot)
    real = [*([VALID] if config.valid else []), *([SURE] if config.sure else [])]
    wanted = {*_REQUIRED[stage].values(), *(["pose"] if config.source_frame == "frontal" else [])}
    for store in opened:
        if missing := wanted - set(store.snapshot(snapshot).layers):
            raise _lacks(stage, min(missing), f"snapshot {snapshot!r} of {store.url}")
    return Plan(
        opened,
        snapshot,
        split,
        layers=None if read is None else [*read, *real],
        among=(*BUILT_IN, *real),
        length=config.plan(stage).length,
        source=config.source_frame,
        max_step=config.max_step,
        seed=seed,
    )


def batches(plan: Plan, config: Config, stage: str, **reading: Any) -> Generator[dict[str, Tensor]]:
    """Endless batches as `stored` reads them, as tensors on the CPU.

    Each batch is what `remot_data.reading.stream.to_torch` gives: ``frames`` float32 [N, T, 3, H, W] and so on.
    `remot_model.training.feeding.Feeder` gives the same on a device.
    """
    with closing(stored(plan, config, stage, **reading)) as found:
        for batch in found:
            yield needed(to_torch(batch), stage)


def stored(
    plan: Plan,
    config: Config,
    stage: str,
    *,
    pose_schema: str = "body25",
    seed: int = 0,
    start: int = 0,
    rank: int = 0,
    processes: int = 1,
    augment: bool = True,
    ahead: int | None = None,
    threads: int | None = None,
    workers: int = 0,
) -> Generator[Batch]:
    """Endless batches from window number `start` on, as `Loader` gives them; epochs follow each other without a gap.

    The order and the augmentation of a window depend on `seed` and its number only. So a run resumed at `start`, the
    number of windows that all processes together have seen, sees the same; also with other `processes`, each of which
    gets its equal share of every batch.

    Args:
        ahead: batches that are made before they are asked for; by default two, or what keeps all `workers` busy.

    Raises:
        DataError: if windows lack a layer that the stage needs, or a batch cannot be shared evenly.
    """
    size = config.plan(stage).batch
    if size % processes:
        raise DataError(f"{processes} processes cannot share batches of {size} windows evenly; choose another batch")
    size //= processes

    def change(number: int, arrays: dict[str, np.ndarray]) -> None:
        augmented(arrays, config, pose_schema, np.random.default_rng((seed, 1, number)))

    loader = Loader(
        plan,
        size,
        size=config.size,
        rank=rank,
        world_size=processes,
        threads=threads,
        workers=workers,
        ahead=max(2, -(-_WINDOWS_A_WORKER * workers // size)) if ahead is None else ahead,
        last="through",
        change=change if augment else None,
    )
    loader.seen = start
    yield from loader


def needed(batch: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """The arrays or tensors of a batch; `DataError` where one is missing that the stage needs."""
    for name, layer in _REQUIRED[stage].items():
        if name not in batch:
            raise _lacks(stage, layer, "the snapshot")
    return {name: batch[name] for name in sorted(batch) if name not in ("id", "number")}


def _lacks(stage: str, layer: str, where: str) -> DataError:
    return DataError(f"the {stage} stage needs the {layer} layer, which {where} lacks; `remot annotate` it")


def augmented(arrays: dict[str, np.ndarray], config: Config, pose_schema: str, chance: np.random.Generator) -> None:
    """Mirror the arrays of a window in place with probability `config.flip`, and shift its colours if
    `config.colour_jitter`.

    One choice holds for all frames, the source and the background. Left and right labels and keypoints change
    places and pose maps are drawn anew, so a mirrored window is a true one.
    """
    flip, gains, shifts = chance.random(), chance.uniform(0.8, 1.2, 3), chance.uniform(-1, 1, 3)
    if flip < config.flip:
        _mirror(arrays, pose_schema)
    if config.colour_jitter:
        table = _jitter_table(gains, shifts)
        for name in _IMAGES:
            for picture in _pictures(name, arrays):
                _jitter(picture, table)


def _mirror(arrays: dict[str, np.ndarray], pose_schema: str) -> None:
    height, width = arrays["frames"].shape[1:3]
    for name in (*_IMAGES, *_LABELS, "confidence", "others", SURE, VALID, "flow"):
        for picture in _pictures(name, arrays):
            # OpenCV mirrors a picture many times faster than numpy copies a reversed view.
            picture[:] = cv2.flip(picture, 1)
            if name in _LABELS:
                picture[:] = cv2.LUT(picture, _MIRRORED)
    if "flow" in arrays:
        arrays["flow"][..., 0] *= -1
    for name in ("keypoints", "source_keypoints"):
        if name in arrays:
            arrays[name][:] = mirror_keypoints(arrays[name], pose_schema, width)
    if "pose_map" in arrays:
        for to, points in zip(arrays["pose_map"], arrays["keypoints"], strict=True):
            to[:] = render.pose_map(points, pose_schema, (height, width))


def _pictures(name: str, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Views [H, W] or [H, W, 3] of the pictures of an array of a window; none where it is absent."""
    if name not in arrays:
        return []
    array = arrays[name]
    if name == "flow":
        return [plane for frame in array for plane in np.moveaxis(frame, -1, 0)]
    array = array.view(np.uint8) if array.dtype == bool else array
    return [array] if array.ndim == (3 if name in _IMAGES else 2) else list(array)


def _jitter_table(gains: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """HSV jitter of section 3.7 as a table uint8 [256, 3]: hue + U(-30, 30) of 256, the others * gain + U(-10, 10)."""
    value = np.arange(256, dtype=np.float32)[:, None]
    hue = (value + np.float32(30 * shifts[0])) % 256
    rest = np.clip(value * gains[1:].astype(np.float32) + 10 * shifts[1:].astype(np.float32), 0, 255)
    return np.concatenate([hue, rest], 1).astype(np.uint8)


def _jitter(image: np.ndarray, table: np.ndarray) -> None:
    """Change the colours of uint8 [H, W, 3] in place. One picture at a time stays in the CPU's cache."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    image[:] = cv2.cvtColor(cv2.LUT(hsv, table[None]), cv2.COLOR_HSV2RGB_FULL)
