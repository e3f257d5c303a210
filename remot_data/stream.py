"""Store and snapshot to windows: consecutive frames of a clip and a source frame of the same person.

Only the layers asked for are read, and only the members of the frames used are decoded. A clip that a
detector failed on is left out of every snapshot that reads the layer, and counted in the log.
"""

from __future__ import annotations

import logging
import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from remot_data import layers as layer_kinds
from remot_data import render, sampling
from remot_data.records import Clip, Snapshot
from remot_data.schemas import convert_labels, keypoint_set
from remot_data.store import Store, StoreError, open_store

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

LAYERS = ("pose", "parsing", "flow", "background")
LABEL_SCHEMA = "remot11"


@dataclass(frozen=True)
class Window:
    """A training sample.

    `id` is ``clip:first-last/source``. `arrays`, where T frames of H x W were asked for: ``frames`` uint8
    [T, H, W, 3], ``pts`` int64 [T], ``keypoints`` float32 [T, K, 3], ``pose_map`` uint8 [T, H, W, 3],
    ``labels`` uint8 [T, H, W] in the set `LABEL_SCHEMA`, ``flow`` float32 [T, H, W, 2] in pixels from each frame
    back to the one before, ``confidence`` bool [T, H, W], ``background`` uint8 [H, W, 3]; and of the source frame
    ``source`` uint8 [H, W, 3], ``source_keypoints`` float32 [K, 3], ``source_labels`` uint8 [H, W]. The arrays of
    a layer that was not chosen are absent.
    """

    id: str
    clip: str
    first: int
    source: int
    arrays: dict[str, np.ndarray] = field(repr=False)


def stream(
    store: Store | str | Sequence[Store | str],
    *,
    snapshot: str = "main",
    split: str | None = "train",
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
) -> Iterator[Window]:
    """The windows of one epoch, in an order that depends on nothing but seed and epoch.

    Args:
        store: a store or several, which are then mixed in proportion to their windows.
        split: ``train``, ``test`` or whatever the snapshot's split policy knows; None for every frame.
        layers: kinds to read besides frames; all of `LAYERS` that the snapshot holds by default.
        size: height and width to resize to at load.
        source: ``random``, or ``frontal``: the frame of the clip that shows the person most from the front. With
            the split policy ``time:F`` the source always comes out of the training part.
        start: windows of the global order to pass over; rank r of w yields start + r, start + r + w, ...

    Raises:
        StoreError: for a store, snapshot or layer that is not there, or when no window is left (says why).
    """
    plan = Plan(store, snapshot, split, layers, length, stride, source, shuffle, seed, epoch)
    for index in sampling.share(len(plan), rank, world_size, start):
        yield plan.window(index, size)


class Plan:
    """The order of one epoch: `len(plan)` windows, each read on demand by its index."""

    def __init__(
        self,
        store: Store | str | Sequence[Store | str],
        snapshot: str = "main",
        split: str | None = "train",
        layers: Sequence[str] | None = None,
        length: int = 6,
        stride: int | None = None,
        source: str = "random",
        shuffle: bool = True,
        seed: int = 0,
        epoch: int = 0,
    ) -> None:
        if source not in ("random", "frontal"):
            raise ValueError(f"source is 'random' or 'frontal', not {source!r}")
        several = store if isinstance(store, Sequence) and not isinstance(store, str) else [store]
        self.readers = [_Reader(s if isinstance(s, Store) else open_store(s), snapshot, layers) for s in several]
        self.length, self.source, self.seed, self.epoch = length, source, seed, epoch
        self.entries: list[tuple[_Reader, Clip, np.ndarray]] = []
        spans = []
        for reader in self.readers:
            for clip in (c for c in reader.store.clips if c.id not in reader.failed):
                allowed = reader.allowed(clip)
                usable = allowed & reader.split(clip, split)
                sources = allowed & reader.split(clip, split if reader.snapshot.split == "column" else "train")
                if sources.any():
                    spans += [(len(self.entries), a, b) for a, b in sampling.runs(usable)]
                    self.entries.append((reader, clip, np.flatnonzero(sources)))
        self.table = sampling.windows(spans, length, stride=stride, seed=seed, epoch=epoch, shuffle=shuffle)
        if not len(self.table):
            names = ", ".join(r.store.url for r in self.readers)
            raise StoreError(
                f"no window of {length} frames is left in split {split!r} of snapshot {snapshot!r} of {names}: "
                f"{len(spans)} runs of usable frames, the longest of {max((b - a for _, a, b in spans), default=0)}; "
                "take shorter windows, another split, or loosen the snapshot's filter"
            )

    def __len__(self) -> int:
        return len(self.table)

    def window(self, index: int, size: tuple[int, int] | None = None) -> Window:
        """Read and decode one window of the order."""
        number, first = (int(v) for v in self.table[index])
        reader, clip, candidates = self.entries[number]
        if self.source == "frontal":
            source = reader.frontal(clip, candidates)
        else:
            source = sampling.source_frame(candidates, self.seed, self.epoch, index)
        last = first + self.length - 1
        arrays = reader.read(clip, range(first, last + 1), source, size or reader.store.size)
        return Window(f"{clip.id}:{first}-{last}/{source}", clip.id, first, source, arrays)


def schemas(store: Store | str, snapshot: str = "main") -> dict[str, str]:
    """Names of the schemas that windows of this snapshot have: ``pose`` and ``labels``."""
    store = store if isinstance(store, Store) else open_store(store)
    layers = store.snapshot(snapshot).layers
    found = {"labels": LABEL_SCHEMA} if "parsing" in layers else {}
    if "pose" in layers:
        found["pose"] = store.layer("pose", layers["pose"]).schema
    return found


def to_torch(window: Window) -> dict[str, torch.Tensor]:
    """A window as torch tensors under the same names.

    Images become float32 [..., 3, H, W] in [-1, 1], labels int64, flow float32 [T, 2, H, W] and confidence
    float32 [T, 1, H, W]; keypoints and pts keep their form.
    """
    import torch

    out = {}
    for name, array in window.arrays.items():
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if name in ("frames", "pose_map", "background", "source"):
            tensor = tensor.movedim(-1, -3).float().div_(127.5).sub_(1)
        elif name in ("labels", "source_labels"):
            tensor = tensor.long()
        elif name == "flow":
            tensor = tensor.movedim(-1, -3)
        elif name == "confidence":
            tensor = tensor.float().unsqueeze(1)
        out[name] = tensor
    return out


class _Reader:
    """One store through one snapshot."""

    def __init__(self, store: Store, snapshot: str, layers: Sequence[str] | None) -> None:
        self.store, self.snapshot = store, store.snapshot(snapshot)
        missing = [k for k in layers or () if k not in self.snapshot.layers]
        if missing:
            raise StoreError(
                f"snapshot {snapshot!r} of {store.url} has no {', '.join(missing)} layer; "
                f"it has {', '.join(self.snapshot.layers) or 'none'}"
            )
        self.kinds = [k for k in (layers or LAYERS) if k in self.snapshot.layers]
        self.folders = store.folders(self.snapshot)
        read = {*self.kinds, *(["scores"] if self.snapshot.where and "scores" in self.snapshot.layers else [])}
        infos = {kind: store.layer(kind, self.snapshot.layers[kind]) for kind in sorted(read)}
        self.schema = {kind: infos[kind].schema for kind in self.kinds}
        self._frontal: dict[str, np.ndarray] = {}
        self.failed = {clip for info in infos.values() for clip in info.failed}
        if self.failed:
            log.warning(
                "%s: %d of %d clips are left out, because a detector failed on them (`remot stats` names the layers)",
                store.url,
                len(self.failed & set(store.clip)),
                len(store.clips),
            )

    def split(self, clip: Clip, split: str | None) -> np.ndarray:
        return sampling.split_mask(clip.frames, self.snapshot.split, split, clip.split)

    def allowed(self, clip: Clip) -> np.ndarray:
        """Which frames of a clip pass the snapshot's filter: bool [frames]."""
        return where(self.snapshot, self.store, clip)

    def frontal(self, clip: Clip, candidates: np.ndarray) -> int:
        if clip.id not in self._frontal:
            points = self.store.read_arrays(self.folders["pose"], "pose", clip, ["keypoints"])["keypoints"]
            self._frontal[clip.id] = frontality(points, self.store.layer("pose", self.snapshot.layers["pose"]).schema)
        return int(candidates[np.argmax(self._frontal[clip.id][candidates])])

    def read(self, clip: Clip, which: range, source: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
        arrays = {"pts": np.array(clip.pts[which.start : which.stop], np.int64)}
        frames = [_resized(f, size) for f in self._members("frames", "frames", clip, [*which, source])]
        arrays["frames"], arrays["source"] = np.stack(frames[:-1]), frames[-1]
        for kind in self.kinds:
            arrays.update(getattr(self, f"_{kind}")(clip, which, source, size))
        return arrays

    def _members(self, kind: str, name: str, clip: Clip, which: Sequence[int]) -> list[Any]:
        module, folder = layer_kinds.kind(kind), "frames" if kind == "frames" else self.folders[kind]
        ext = module.FIELDS[name]
        return [module.decode(ext, data) for data in self.store.read_members(folder, clip, ext, which)]

    def _pose(self, clip: Clip, which: range, source: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
        points = np.stack(self._members("pose", "keypoints", clip, [*which, source]))
        height, width = self.store.size
        points[..., :2] *= np.array([size[1] / width, size[0] / height], np.float32)
        maps = [render.pose_map(p, self.schema["pose"], size) for p in points[:-1]]
        return {"keypoints": points[:-1], "source_keypoints": points[-1], "pose_map": np.stack(maps)}

    def _parsing(self, clip: Clip, which: range, source: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
        labels = np.stack([_nearest(m, size) for m in self._members("parsing", "labels", clip, [*which, source])])
        labels = convert_labels(labels, self.schema["parsing"], LABEL_SCHEMA)
        return {"labels": labels[:-1], "source_labels": labels[-1]}

    def _flow(self, clip: Clip, which: range, source: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
        packed = self._members("flow", "flow", clip, which)
        grid = packed[0].shape[1:]
        how = _interpolation(grid, size)
        flow = np.empty((len(packed), *size, 2), np.float32)
        for t, planes in enumerate(packed):
            for axis, scale in enumerate((size[1] / grid[1], size[0] / grid[0])):
                flow[t, ..., axis] = cv2.resize(planes[axis], size[::-1], interpolation=how) * np.float32(scale)
        return {"flow": flow, "confidence": np.stack([_nearest(planes[2], size) == _CONFIDENT for planes in packed])}

    def _background(self, clip: Clip, which: range, source: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
        return {"background": _resized(self._members("background", "image", clip, [0])[0], size)}


_CONFIDENT = layer_kinds.flow.FORWARD_BACKWARD | layer_kinds.flow.PHOTOMETRIC

_OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"\s*(\w+)\s*(>=|<=|==|!=|>|<)\s*(\S+?)\s*")


def where(snapshot: Snapshot, store: Store, clip: Clip) -> np.ndarray:
    """Which frames of a clip pass a snapshot's filter: bool [frames].

    A filter is conditions joined by ``and``; a condition compares a column of the scores layer (a value a frame)
    or of the clip (one value) with a number or a word.

    Raises:
        StoreError: for a condition that cannot be read, or a column that is not there (lists what is).
    """
    keep = np.ones(clip.frames, bool)
    for part in filter(str.strip, re.split(r"\band\b|,", snapshot.where)):
        match = _CONDITION.fullmatch(part)
        if match is None:
            raise StoreError(f"the filter {part.strip()!r} is not of the form 'column >= value'")
        name, sign, text = match.groups()
        values = _column(snapshot, store, clip, name)
        wanted = text.strip("\"'") if values.dtype.kind in "UO" else float(text)
        keep &= _OPERATORS[sign](values, wanted)
    return keep


def _column(snapshot: Snapshot, store: Store, clip: Clip, name: str) -> np.ndarray:
    described = {**clip.to_json(), "frames": clip.frames}
    if "scores" in snapshot.layers:
        index = store.index(store.folders(snapshot)["scores"], clip.shard)
        if name in index.rows.column_names:
            return index.column(clip.id, name)
        known = [*index.rows.column_names[4:], *described]
    else:
        known = list(described)
    if not isinstance(described.get(name), (str, int, float)):
        raise StoreError(f"there is no column {name!r} to filter by; there are {', '.join(known)}")
    return np.array(described[name])


def frontality(keypoints: np.ndarray, schema: str) -> np.ndarray:
    """How much each pose faces the camera: float32 [T], from keypoints float32 [T, K, 3].

    The signed width of the shoulders over the length of the trunk (positive when the left shoulder is on the
    right of the picture, as for a person seen from the front), plus the share of nose and eyes that are visible.
    """
    names = keypoint_set(schema)
    left, right = (keypoints[:, names.index(f"{side}-shoulder")] for side in ("left", "right"))
    hips = [keypoints[:, names.index(f"{side}-hip")] for side in ("left", "right")]
    trunk = np.hypot(*np.moveaxis(((left + right) - (hips[0] + hips[1]))[:, :2] / 2, -1, 0))
    seen = (left[:, 2] > 0) & (right[:, 2] > 0) & (trunk > 1)
    width = np.where(seen, (left[:, 0] - right[:, 0]) / np.maximum(trunk, 1), -1).clip(-1, 1)
    face = np.mean([keypoints[:, names.index(p), 2] > 0 for p in ("nose", "left-eye", "right-eye")], axis=0)
    return (width + face).astype(np.float32)


def _interpolation(old: Sequence[int], new: Sequence[int]) -> int:
    return cv2.INTER_AREA if new[0] < old[0] else cv2.INTER_LINEAR


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.shape[:2] == tuple(size):
        return image
    return cv2.resize(image, size[::-1], interpolation=_interpolation(image.shape, size))


def _nearest(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.shape[:2] == tuple(size):
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
