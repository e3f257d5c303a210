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

import pyarrow as pa
import pyarrow.parquet as pq

from remot_data.records import digest

META = b"remot"
BLOCK = 512


class ShardError(ValueError):
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


def write(file: BinaryIO, samples: Iterable[Sample], saw: Mapping[str, str] | None = None) -> pa.Table:
    """Write samples to a tar and return its index table, metadata included.

    Keys must come in ascending order and hold no dot; a clip's samples follow each other. `saw` names the
    sha256 of each shard that this one was made from; it is kept in the metadata.

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
    table = pa.table({**rows, **extra})
    meta = {
        "sha256": out.sha.hexdigest(),
        "bytes": out.size,
        "samples": len(keys),
        "members": table.num_rows,
        "keys": digest(keys),
        "saw": dict(saw or {}),
    }
    return table.replace_schema_metadata({META: json.dumps(meta, sort_keys=True)})


def table_bytes(table: pa.Table) -> bytes:
    """A table as Parquet, the same bytes for the same table."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_statistics=False, store_schema=True)
    return buffer.getvalue()


def index_meta(table: pa.Table) -> dict[str, Any]:
    """sha256, bytes, samples, members, keys (digest of the key list) and saw of the shard an index belongs to."""
    return json.loads((table.schema.metadata or {})[META])


def check(name: str, file: BinaryIO, table: pa.Table) -> Iterator[str]:
    """What is wrong with a shard, a sentence each; nothing for a sound one.

    Reads the whole tar once: its digest, and its members against the index.
    """
    meta = index_meta(table)
    data = file.read()
    found = hashlib.sha256(data).hexdigest()
    if found == meta["sha256"]:
        return
    if len(data) != meta["bytes"]:
        yield f"{name}: {len(data)} bytes, its index says {meta['bytes']}"
    else:
        yield f"{name}: sha256 is {found[:12]}…, its index says {meta['sha256'][:12]}…"
    offsets = {f"{k}.{e}": (o, s) for k, e, o, s in zip(*(table[c].to_pylist() for c in _COLUMNS), strict=True)}
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = {m.name: (m.offset_data, m.size) for m in tar}
    except (tarfile.TarError, EOFError) as error:
        yield f"{name}: not readable as tar ({error})"
        return
    for member in sorted(set(offsets) ^ set(members)):
        yield f"{name}: member {member} is {'missing' if member in offsets else 'not in the index'}"


_COLUMNS = ("key", "ext", "offset", "size")
