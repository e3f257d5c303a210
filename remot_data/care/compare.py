"""Agreement of two layers of one kind, frame by frame: where two detectors differ, worst first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from remot_data.engine import Progress, open_engine
from remot_data.records import Comparison, LayerInfo
from remot_data.store import Store, StoreError, open_store
from remot_data.store import layers as layer_kinds
from remot_data.store.disk import FilesError
from remot_data.store.history import note

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
        a: id of a layer, or its beginning.
        b: likewise of the other.
        out: folder for the two files. The table has a row a frame: clip, frame, agreement, measures of the kind.

    Raises:
        LayerError: for a kind that is not known here.
        StoreError: for a layer that is not there, a kind that cannot be compared, or where no clip is in both.
    """
    store = store if isinstance(store, Store) else open_store(store)
    if not layer_kinds.kind(kind).is_comparable:
        others = ", ".join(k for k in layer_kinds.known() if layer_kinds.kind(k).is_comparable)
        raise StoreError(f"layers of kind {kind!r} cannot be compared; those of {others} can")
    infos = store.layer(kind, a), store.layer(kind, b)
    about = {"kind": kind, "layers": [info.to_json() for info in infos], "origin": layer_kinds.origin(kind)}
    tasks = [{"url": store.url, "shard": shard, **about} for shard in range(store.shard_count)]
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
    with suppress(FilesError):  # a store that is only read
        note(store, "compare", layer=kind, a=made.a, b=made.b, agreement=made.agreement, frames=made.frames)
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


def compare_shard(
    url: str, shard: int, kind: str, layers: list[Mapping[str, Any]], origin: str = ""
) -> tuple[int, Rows]:
    """The task: the rows of one shard. `origin` is the detector's file that brought the kind."""
    cv2.setNumThreads(1)
    if origin and not layer_kinds.is_known(kind):
        layer_kinds.load(origin)
    layer = layer_kinds.kind(kind)
    store = Store(url)
    infos = [LayerInfo.from_json(layer) for layer in layers]
    folders = [info.folder for info in infos]
    lost = {clip for info in infos for clip in info.failed} | set(store.removed)
    parts: list[Rows] = []
    for clip in (c for c in store.shard_clips(shard) if c.id not in lost):
        pair = [store.read_arrays(folder, kind, clip) for folder in folders]
        rows = layer.agreement(pair[0], pair[1], infos[0].schema, infos[1].schema, store.size)
        count = 1 if layer.per_clip else clip.frames
        parts.append({"clip": np.full(count, clip.id, object), "frame": np.arange(count), **rows})
    names = parts[0] if parts else {"clip": (), "frame": ()}
    return shard, {name: np.concatenate([part[name] for part in parts]) if parts else np.array([]) for name in names}
