"""The table of clips, ``clips.parquet``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from remot_data.records import Clip, Times
from remot_data.store.tables import array, to_numpy

# Clips in one row group of clips.parquet: what a task reads to know its shard.
CLIP_GROUP = 512
_CLIP_TYPES = {
    "id": pa.string(),
    "video": pa.string(),
    "path": pa.string(),
    "sha256": pa.string(),
    "shot": pa.int64(),
    "pts": pa.list_(pa.int64()),
    "time_base": pa.list_(pa.int64()),
    "fps": pa.float64(),
    "source_size": pa.list_(pa.int64()),
    "crop": pa.list_(pa.float64()),
    "person": pa.string(),
    "split": pa.string(),
    "licence": pa.string(),
    "url": pa.string(),
    "shard": pa.int64(),
}


def clip_table(clips: Sequence[Clip]) -> pa.Table:
    """A row a clip, sorted by shard and key."""
    clips = sorted(clips, key=lambda c: c.place)
    columns = {name: [getattr(c, name) for c in clips] for name in _CLIP_TYPES if name != "pts"}
    arrays = {name: array(values, _CLIP_TYPES[name]) for name, values in columns.items()}
    ends = np.cumsum([0, *(c.frames for c in clips)]).astype(np.int32)
    values = np.concatenate([c.pts.array() for c in clips]) if clips else np.empty(0, np.int64)
    arrays["pts"] = pa.ListArray.from_arrays(array(ends), array(values))
    return pa.table({name: arrays[name] for name in _CLIP_TYPES})


def clips_of(table: pa.Table) -> list[Clip]:
    pts = table["pts"].combine_chunks()
    ends, ticks = to_numpy(pts.offsets), to_numpy(pts.values)
    times = (Times(ticks[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True))
    rows = table.drop_columns(["pts"]).to_pylist()
    return [_clip(row, t) for row, t in zip(rows, times, strict=True)]


def _clip(row: Mapping[str, Any], times: Times) -> Clip:
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    return Clip(**plain, pts=times)
