"""Agreement of two layers of one kind, frame by frame: where two detectors differ, worst first."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from remot_data.engine import Progress, open_engine
from remot_data.records import Comparison, LayerInfo
from remot_data.schemas import convert_keypoints, convert_labels, keypoint_set, label_set
from remot_data.store import Store, StoreError, open_store

# The set in which labels of different sets are compared: what the model reads.
COMMON_LABELS = "remot6"
# A joint agrees within this share of the person's height, a pixel's flow within so many pixels.
PCK, EPE = 0.05, 1.0

Rows = dict[str, np.ndarray]


def compare(
    store: Store | str,
    kind: str,
    a: str,
    b: str,
    out: str | os.PathLike[str],
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two layers of one kind on every clip that both hold, and write ``agreement.parquet`` and ``index.html``.

    Args:
        a, b: ids of the layers, or beginnings of them.
        out: folder for the two files. The table has a row a frame: clip, frame, agreement, measures of the kind.

    Raises:
        StoreError: for a layer that is not there, a kind that cannot be compared, or where no clip is in both.
    """
    store = store if isinstance(store, Store) else open_store(store)
    if kind not in _MEASURES:
        raise StoreError(f"layers of kind {kind!r} cannot be compared; those of {', '.join(_MEASURES)} can")
    infos = store.layer(kind, a), store.layer(kind, b)
    tasks = [
        {"url": store.url, "shard": shard, "kind": kind, "layers": [info.to_json() for info in infos]}
        for shard in range(store.shard_count)
    ]
    with open_engine(workers, scheduler) as engine:
        parts: dict[int, Rows] = dict(engine.map(compare_shard, tasks, "compare", progress=progress))
    columns = [parts[shard] for shard in sorted(parts) if len(parts[shard]["frame"])]
    if not columns:
        raise StoreError(f"no clip of {store.url} is in both {infos[0].id} and {infos[1].id}")
    rows = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    made = _summary(store, kind, infos, rows, Path(out))
    Path(out).mkdir(parents=True, exist_ok=True)
    table = pa.table({name: pa.array(values) for name, values in rows.items()})
    pq.write_table(table.replace_schema_metadata({"remot": str(made.to_json())}), made.table, compression="zstd")
    from remot_data.report.agreement import write_page

    write_page(store, made, infos, rows, Path(out) / "index.html")
    return made


def _summary(store: Store, kind: str, infos: tuple[LayerInfo, LayerInfo], rows: Rows, out: Path) -> Comparison:
    measured = {n: v for n, v in rows.items() if n not in ("clip", "frame")}
    means = {n: round(float(np.nanmean(v)), 6) for n, v in measured.items() if not np.isnan(v).all()}
    names = infos[0].id, infos[1].id
    clips = len(set(rows["clip"].tolist()))
    agreement = means.pop("agreement", 0.0)
    return Comparison(
        store.url, kind, *names, clips, len(rows["frame"]), agreement, means, str(out / "agreement.parquet")
    )


def compare_shard(url: str, shard: int, kind: str, layers: list[Mapping[str, Any]]) -> tuple[int, Rows]:
    """The task: the rows of one shard."""
    cv2.setNumThreads(1)
    store = Store(url)
    infos = [LayerInfo.from_json(layer) for layer in layers]
    folders = [info.folder for info in infos]
    lost = {clip for info in infos for clip in info.failed} | set(store.removed)
    parts: list[Rows] = []
    for clip in (c for c in store.shard_clips(shard) if c.id not in lost):
        pair = [store.read_arrays(folder, kind, clip) for folder in folders]
        rows = _MEASURES[kind](pair[0], pair[1], infos[0].schema, infos[1].schema, store.size)
        parts.append({"clip": np.full(clip.frames, clip.id, object), "frame": np.arange(clip.frames), **rows})
    names = parts[0] if parts else {"clip": (), "frame": ()}
    return shard, {name: np.concatenate([part[name] for part in parts]) if parts else np.array([]) for name in names}


def pose_agreement(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], schema_a: str, schema_b: str, size: tuple[int, int]
) -> Rows:
    """Distance of the joints that both see, over the person's height, and the share of them that agree.

    Joints are matched by name. The height is that of the box around all points that `a` sees, at least a tenth of
    the frame. ``only_a`` and ``only_b`` are the joints that one alone sees, as a share of those either sees.

    Args:
        a, b: ``keypoints`` float32 [T, K, 3] in their schemas.
        size: height and width of the frames.
    """
    names = [n for n in keypoint_set(schema_a).points if n in keypoint_set(schema_b).points]
    if not names:
        raise StoreError(f"the keypoint sets {schema_a!r} and {schema_b!r} have no point in common")
    points = [
        convert_keypoints(arrays["keypoints"], schema, schema)[:, [keypoint_set(schema).index(n) for n in names]]
        for arrays, schema in ((a, schema_a), (b, schema_b))
    ]
    seen = [p[..., 2] > 0 for p in points]
    both, either = seen[0] & seen[1], seen[0] | seen[1]
    ys = np.where(a["keypoints"][..., 2] > 0, a["keypoints"][..., 1], np.nan)
    empty = ~(a["keypoints"][..., 2] > 0).any(1)
    ys[empty] = 0.0
    height = np.maximum(np.nanmax(ys, 1) - np.nanmin(ys, 1), 0.1 * size[0])
    distance = np.hypot(*np.moveaxis(points[0][..., :2] - points[1][..., :2], -1, 0)) / height[:, None]
    agree = both & (distance < PCK)
    return {
        "agreement": _share(agree.sum(1), both.sum(1)),
        "distance": _share(np.where(both, distance, 0).sum(1), both.sum(1)),
        "pck@0.1": _share((both & (distance < 0.1)).sum(1), both.sum(1)),
        "only_a": _share((seen[0] & ~seen[1]).sum(1), either.sum(1)),
        "only_b": _share((seen[1] & ~seen[0]).sum(1), either.sum(1)),
    }


def label_agreement(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], schema_a: str, schema_b: str, size: tuple[int, int]
) -> Rows:
    """IoU of each of the six layout classes, NaN where neither has it, and their mean over those that either has.

    Args:
        a, b: ``labels`` uint8 [T, H, W] in their schemas; both are merged into `COMMON_LABELS`.
    """
    labels = [convert_labels(x["labels"], schema, COMMON_LABELS) for x, schema in ((a, schema_a), (b, schema_b))]
    rows: Rows = {}
    for number, name in enumerate(label_set(COMMON_LABELS).labels):
        first, second = (x == number for x in labels)
        rows[f"iou_{name}"] = _share((first & second).sum((1, 2)), (first | second).sum((1, 2)))
    return {"agreement": np.nanmean(np.stack(list(rows.values())), 0), **rows}


def flow_agreement(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], schema_a: str, schema_b: str, size: tuple[int, int]
) -> Rows:
    """End-point error in pixels of the stored frames; the first frame of a clip has no flow and is NaN.

    Args:
        a, b: ``flow`` float32 [T, h, w, 2] in pixels of its grid, each brought to the frames' size.
    """
    full = [_full_flow(x["flow"], size) for x in (a, b)]
    error = np.hypot(*np.moveaxis(full[0] - full[1], -1, 0))
    error[0] = np.nan
    flat = error.reshape(len(error), -1)
    agreement = np.where(np.isnan(flat[:, 0]), np.nan, (flat < EPE).mean(1))
    return {"agreement": agreement, "epe": flat.mean(1), "epe_95": np.percentile(flat, 95, axis=1)}


def _full_flow(flow: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    scale = np.array([size[1] / flow.shape[2], size[0] / flow.shape[1]], np.float32)
    return np.stack([cv2.resize(f, size[::-1], interpolation=cv2.INTER_LINEAR) for f in flow]) * scale


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where there is no whole."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


_MEASURES: dict[str, Callable[..., Rows]] = {
    "pose": pose_agreement,
    "parsing": label_agreement,
    "flow": flow_agreement,
}
