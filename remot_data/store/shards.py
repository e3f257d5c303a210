"""The only code that knows tar: writing a shard with its index, reading an index, checking a shard.

A shard is a plain WebDataset tar: members sorted by key, mtime 0, fixed owner and mode, no directory
entries. Beside it lies its index, a Parquet file with a row a member (key, ext, offset, size, and columns
of the kind), whose metadata carries the tar's sha256, size, counts and the digest of its key list.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from remot_data.errors import RemotError
from remot_data.records import NO_SEAL, Clip, digest, sealed
from remot_data.store import layers as layer_kinds
from remot_data.store.tables import read_metadata, table

META = b"remot"
BLOCK = 512


class ShardError(RemotError, ValueError):
    """A shard or index that is not what it should be; the message names the file and the key."""


@dataclass(frozen=True)
class Sample:
    """Members that share one key, and extra index columns for them."""

    key: str
    members: Mapping[str, bytes]
    columns: Mapping[str, Any] = field(default_factory=dict)


class _Digesting:
    """Counts and hashes what is written to a file that cannot seek."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha, self.size = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.sha.update(data)
        self.size += len(data)
        return self.file.write(data)


def write(
    file: BinaryIO,
    samples: Iterable[Sample],
    saw: Mapping[str, str] | None = None,
    failed: Mapping[str, str] | None = None,
    gpu: str = "",
) -> pa.Table:
    """Write samples to a tar and return its index table, metadata included.

    Keys must come in ascending order and hold no dot; a clip's samples follow each other. The metadata keeps `saw`,
    the sha256 of each shard that this one was made from, and `failed`, the clips that are not in it and why; both are
    read after the last sample, so they may grow while samples are made. `gpu` is the name of the card that computed
    it, kept where there was one.

    Raises:
        ShardError: for a key out of order, twice, or with a dot.
    """
    out = _Digesting(file)
    rows: dict[str, list[Any]] = {"key": [], "ext": [], "offset": [], "size": []}
    extra: dict[str, list[Any]] = {}
    keys: list[str] = []
    for sample in samples:
        if "." in sample.key or (keys and sample.key <= keys[-1]):
            raise ShardError(f"key {sample.key!r} has a dot or is not after {keys[-1] if keys else 'nothing'!r}")
        keys.append(sample.key)
        for ext in sorted(sample.members):
            data = sample.members[ext]
            info = tarfile.TarInfo(f"{sample.key}.{ext}")
            info.size, info.mode, info.uname, info.gname = len(data), 0o644, "remot", "remot"
            out.write(info.tobuf(tarfile.USTAR_FORMAT))
            for name, value in (("key", sample.key), ("ext", ext), ("offset", out.size), ("size", len(data))):
                rows[name].append(value)
            out.write(data)
            out.write(bytes(-len(data) % BLOCK))
            for name, value in sample.columns.items():
                extra.setdefault(name, []).append(value)
    out.write(bytes(2 * BLOCK))
    schema = pa.schema([("key", pa.string()), ("ext", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])
    made = table({**rows, **extra}) if keys else table(rows, schema)
    meta = {
        "sha256": out.sha.hexdigest(),
        "bytes": out.size,
        "samples": len(keys),
        "members": made.num_rows,
        "keys": digest(keys),
        "saw": dict(saw or {}),
        "failed": dict(failed or {}),
        **({"gpu": gpu} if gpu else {}),
    }
    return made.replace_schema_metadata({META: json.dumps(meta, sort_keys=True)})


def table_bytes(table: pa.Table, group: int | None = None) -> bytes:
    """A table as Parquet, the same bytes for the same table, sealed (`records.sealed`).

    `group` rows go into one row group, with the statistics a reader needs to skip the others.
    """
    meta = json.loads((table.schema.metadata or {}).get(META, b"{}"))
    table = table.replace_schema_metadata({META: json.dumps({**meta, "seal": NO_SEAL}, sort_keys=True)})
    buffer = io.BytesIO()
    groups = {"row_group_size": group, "write_statistics": True} if group else {"write_statistics": False}
    pq.write_table(table, buffer, compression="zstd", store_schema=True, **groups)
    return sealed(buffer.getvalue())


def index_meta(table: pa.Table) -> dict[str, Any]:
    """sha256, bytes, samples, members, keys (digest of the key list), saw, failed and gpu of the shard of an index."""
    return _meta(table.schema.metadata)


def file_meta(data: bytes) -> dict[str, Any]:
    """`index_meta` out of the bytes of an index, without reading its rows."""
    return _meta(read_metadata(data).metadata)


def _meta(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    meta = json.loads((metadata or {})[META])
    return {k: v for k, v in meta.items() if k != "seal"}


def check(file: BinaryIO, table: pa.Table) -> Iterator[str]:
    """What is wrong with a shard, a sentence each; nothing for a sound one.

    Reads the whole tar once: its digest, and its members against the index.
    """
    meta = index_meta(table)
    data = file.read()
    found = hashlib.sha256(data).hexdigest()
    if found == meta["sha256"]:
        return
    if len(data) != meta["bytes"]:
        yield f"has {len(data)} bytes, its index says {meta['bytes']}"
    else:
        yield f"has the sha256 {found[:12]}…, its index says {meta['sha256'][:12]}…"
    offsets = {f"{k}.{e}": (o, s) for k, e, o, s in zip(*(table[c].to_pylist() for c in COLUMNS), strict=True)}
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = {m.name: (m.offset_data, m.size) for m in tar}
    except (tarfile.TarError, EOFError) as error:
        yield f"is not readable as tar ({error})"
        return
    for member in sorted(set(offsets) ^ set(members)):
        yield f"has no member {member}" if member in offsets else f"has a member {member} that its index does not name"


COLUMNS = ("key", "ext", "offset", "size")


def encoded(kind: str, clip: Clip, arrays: Mapping[str, np.ndarray]) -> list[Sample]:
    """The samples of one clip of a layer, ready to be written."""
    layer = layer_kinds.kind(kind)
    count = 1 if layer.per_clip else clip.frames
    return [Sample(clip.key(t), layer.encode(arrays, t), layer.columns(arrays, t)) for t in range(count)]
