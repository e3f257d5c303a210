"""Batches of windows, read ahead by a thread, in an order that one integer resumes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from remot_data import render
from remot_data.schemas import MIRROR_11, mirror_keypoints
from remot_data.store import open_store
from remot_data.stream import Plan, Window, to_torch
from remot_data.stream import schemas as store_schemas
from remot_data.verify import Content, content
from remot_model.config import Config

# Layers a stage reads; None is all that the snapshot has.
LAYERS = {"layout": ("pose", "parsing", "flow"), "region": ("parsing",), "whole": None}
_IMAGES = ("frames", "source", "background")
_MAPS = (*_IMAGES, "labels", "source_labels", "confidence", "flow")


class DataError(RuntimeError):
    """Stores that cannot be trained on together, or that lack what a stage needs."""


class Epoch(Protocol):
    """The windows of one epoch, as `remot_data.stream.Plan`."""

    def __len__(self) -> int: ...

    def window(self, index: int, size: tuple[int, int] | None = None) -> Window: ...


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


def epochs(
    stores: Any, config: Config, stage: str, *, snapshot: str = "main", split: str = "train", seed: int = 0
) -> Callable[[int], Epoch]:
    """A function from the number of an epoch to its windows, with the layers and length that `stage` needs."""

    def of(epoch: int) -> Epoch:
        return Plan(
            stores_of(stores),
            snapshot,
            split,
            layers=LAYERS[stage],
            length=config.plan(stage).length,
            source=config.source_frame,
            seed=seed,
            epoch=epoch,
        )

    return of


def batches(
    epochs: Callable[[int], Epoch],
    config: Config,
    stage: str,
    *,
    pose_schema: str = "body25",
    seed: int = 0,
    start: int = 0,
    rank: int = 0,
    processes: int = 1,
    augment: bool = True,
    ahead: int = 4,
) -> Iterator[dict[str, Tensor]]:
    """Endless batches from window number `start` on; window i is number i % n of epoch i // n.

    Each batch is what `remot_data.stream.to_torch` gives, stacked: ``frames`` [N, T, 3, H, W] and so on. The
    augmentation of a window depends on `seed` and its number only, so a run resumed at `start` sees the same. With
    several `processes`, each reads its equal part of every batch: number `rank`.

    Raises:
        DataError: if windows lack a layer that the stage needs.
    """
    size = config.plan(stage).batch
    mine = range(rank * size // processes, (rank + 1) * size // processes)

    def make() -> Iterator[dict[str, Tensor]]:
        first, opened, epoch = start, -1, None
        while True:
            rows = []
            while len(rows) < len(mine):
                number = first + mine[len(rows)]
                if epoch is None or number // len(epoch) != opened:
                    opened = number // len(epoch) if epoch is not None else 0
                    epoch = epochs(opened)
                    if number // len(epoch) != opened:
                        continue
                window = epoch.window(number % len(epoch), config.size)
                if augment:
                    window = augmented(window, config, pose_schema, np.random.default_rng((seed, 1, number)))
                rows.append(to_torch(window))
            first += size
            yield stack(rows, stage)

    return prefetch(make(), ahead)


def stack(rows: Sequence[Mapping[str, Tensor]], stage: str) -> dict[str, Tensor]:
    """Windows as one batch, with what the stage needs; an optional layer is dropped where some window lacks it."""
    needed = {"layout": ("pose_map", "labels", "flow"), "region": ("labels",), "whole": ("pose_map", "labels", "flow")}
    for name in needed[stage]:
        if any(name not in row for row in rows):
            layer = {"pose_map": "pose", "labels": "parsing"}.get(name, name)
            raise DataError(f"the {stage} stage needs the {layer} layer, which the snapshot lacks; `remot annotate` it")
    common = set.intersection(*(set(row) for row in rows))
    return {name: torch.stack([row[name] for row in rows]) for name in sorted(common)}


def prefetch(items: Iterator[Any], ahead: int) -> Iterator[Any]:
    """Items computed by a thread, up to `ahead` in advance; an error in the thread is raised here."""
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(ahead)
    stop = threading.Event()

    def put(item: Any, error: BaseException | None = None) -> None:
        while not stop.is_set():
            try:
                return ready.put((item, error), timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stop.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:  # handed to the reader, whatever it is
            put(None, error)

    thread = threading.Thread(target=work, name="remot-batches", daemon=True)

    def read() -> Iterator[Any]:
        thread.start()
        try:
            while True:
                item, error = ready.get()
                if isinstance(error, StopIteration):
                    return
                if error is not None:
                    raise error
                yield item
        finally:
            stop.set()
            thread.join()

    return read()


def augmented(window: Window, config: Config, pose_schema: str, chance: np.random.Generator) -> Window:
    """The window mirrored with probability `config.flip`, its colours shifted if `config.colour_jitter`.

    One choice holds for all frames, the source and the background. Left and right labels and keypoints change
    places and pose maps are drawn anew, so a mirrored window is a true one.
    """
    arrays = dict(window.arrays)
    flip, gains, shifts = chance.random(), chance.uniform(0.8, 1.2, 3), chance.uniform(-1, 1, 3)
    if flip < config.flip:
        arrays = _mirrored(arrays, pose_schema)
    if config.colour_jitter:
        for name in _IMAGES:
            if name in arrays:
                arrays[name] = _jittered(arrays[name], gains, shifts)
    return Window(window.id, window.clip, window.first, window.source, arrays)


def _mirrored(arrays: dict[str, np.ndarray], pose_schema: str) -> dict[str, np.ndarray]:
    out = dict(arrays)
    height, width = arrays["frames"].shape[1:3]
    for name in _MAPS:
        if name in arrays:
            axis = 1 if arrays[name].ndim == 2 or name in ("source", "background") else 2
            out[name] = np.ascontiguousarray(np.flip(arrays[name], axis))
    for name in ("labels", "source_labels"):
        if name in out:
            out[name] = np.array(MIRROR_11, np.uint8)[out[name]]
    if "flow" in out:
        out["flow"] = out["flow"] * np.array([-1, 1], np.float32)
    for name in ("keypoints", "source_keypoints"):
        if name in out:
            out[name] = mirror_keypoints(out[name], pose_schema, width)
    if "pose_map" in out:
        out["pose_map"] = np.stack([render.pose_map(p, pose_schema, (height, width)) for p in out["keypoints"]])
    return out


def _jittered(images: np.ndarray, gains: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """HSV jitter of section 3.7 on uint8 [..., H, W, 3]: hue + U(-30, 30) of 256, the others * gain + U(-10, 10)."""
    flat = images.reshape(-1, images.shape[-2], 3)
    hsv = cv2.cvtColor(flat, cv2.COLOR_RGB2HSV_FULL).astype(np.float32)
    hue = (hsv[..., 0] + 30 * shifts[0]) % 256
    rest = np.clip(hsv[..., 1:] * gains[1:].astype(np.float32) + 10 * shifts[1:].astype(np.float32), 0, 255)
    jittered = np.concatenate([hue[..., None], rest], -1).astype(np.uint8)
    return cv2.cvtColor(jittered, cv2.COLOR_HSV2RGB_FULL).reshape(images.shape)
