"""The files of boxes: a Parquet file a shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from remot_data.records import canonical_json
from remot_data.store.boxes import STORED, Boxes, Looks, restored, stored
from remot_data.store.shards import META, table_bytes
from remot_data.store.tables import array, to_numpy


def file_bytes(boxes: Mapping[str, Boxes]) -> bytes:
    """The file of a shard, a row a clip in the order of their ids; its metadata has the sha256 and size of its content.

    The same bytes for the same boxes.
    """
    kept = {name: stored(boxes[name].looks) for name in sorted(boxes)}
    own = [boxes[name].own for name in kept]
    sha, size = hashlib.sha256(canonical_json([[*kept], own]).encode()), 0
    columns = {"clip": array([*kept], pa.string()), "own": array(own, pa.int32())}
    for name, dtype in STORED.items():
        parts = [np.ravel(getattr(looks, name)).astype(dtype) for looks in kept.values()]
        ends = np.cumsum([0, *map(len, parts)]).astype(np.int32)
        values = np.concatenate([np.empty(0, dtype), *parts])
        columns[name] = pa.ListArray.from_arrays(array(ends), array(values))
        sha.update(ends.tobytes() + values.tobytes())
        size += values.nbytes
    meta = {"sha256": sha.hexdigest(), "bytes": size}
    return table_bytes(pa.table(columns).replace_schema_metadata({META: json.dumps(meta, sort_keys=True)}))


def of_table(table: pa.Table) -> dict[str, Boxes]:
    """Clip id -> boxes, out of the table of a file."""
    columns = [[to_numpy(row.values).astype(dtype) for row in table[name]] for name, dtype in STORED.items()]
    found = {}
    for clip, own, *arrays in zip(table["clip"].to_pylist(), table["own"].to_pylist(), *columns, strict=True):
        looks = Looks(*arrays)
        found[clip] = Boxes(own, *restored(looks._replace(box=looks.box.reshape(-1, 4))))
    return found
