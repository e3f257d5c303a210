"""Where the members of a shard lie: its index, and the names of its files."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from remot_data.errors import RemotError
from remot_data.records import Clip
from remot_data.store import shards
from remot_data.store.tables import take, to_numpy

T = TypeVar("T")


class StoreError(RemotError, RuntimeError):
    """A store that is missing, unfinished or not as asked for; the message says what to do."""


class DamagedError(StoreError):
    """A shard or member that is missing, cut short or cannot be decoded; the message names it."""


class Index:
    """The index of one shard: where each member of each clip lies.

    `offsets[ext]` and `sizes[ext]` hold one value a sample, in key order; a clip's samples are a slice. A clip has all
    its members with an extension or none.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table, self.meta = table, shards.index_meta(table)
        exts = np.array(table["ext"].to_pylist(), object)
        offset, size = to_numpy(table["offset"]), to_numpy(table["size"])
        self.offsets = {e: offset[exts == e] for e in set(exts)}
        self.sizes = {e: size[exts == e] for e in set(exts)}
        first = max(sorted(self.offsets), key=lambda ext: len(self.offsets[ext]), default="")
        keep = np.flatnonzero(exts == first)
        self.rows = take(table, keep) if len(keep) else table
        self.spans = _spans(self.rows)
        some = (ext for ext, values in self.offsets.items() if len(values) < len(keep))
        self._partial = {ext: _spans(take(table, np.flatnonzero(exts == ext))) for ext in some}

    def has(self, clip: str, ext: str) -> bool:
        """Whether a clip has members with this extension."""
        return ext in self.offsets and clip in self._partial.get(ext, self.spans)

    def members(self, clip: str, ext: str) -> tuple[np.ndarray, np.ndarray]:
        """Offsets and sizes of a clip's members with this extension, in frame order."""
        if not self.has(clip, ext):
            raise DamagedError(f"no member {clip}/*.{ext} in this shard")
        a, b = self._partial.get(ext, self.spans)[clip]
        return self.offsets[ext][a:b], self.sizes[ext][a:b]

    def column(self, clip: str, name: str) -> np.ndarray:
        """An extra column of the index for a clip's samples, in frame order."""
        a, b = self.spans[clip]
        return to_numpy(self.rows[name].slice(a, b - a))


def _spans(rows: pa.Table) -> dict[str, tuple[int, int]]:
    """Clip -> first and one past the last of its rows."""
    clips = np.array([key.rsplit("/", 1)[0] for key in rows["key"].to_pylist()], object)
    starts = np.flatnonzero(np.r_[True, clips[1:] != clips[:-1]]) if len(clips) else np.array([], int)
    ends = np.r_[starts[1:], len(clips)] if len(clips) else starts
    return {clips[a]: (int(a), int(b)) for a, b in zip(starts, ends, strict=True)}


class Recent:
    """The results of a function for the last `most` keys; of several threads that want one, one computes it.

    A process that was forked starts with none, since a thread of the other may have been at work.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._reset()

    def _reset(self) -> None:
        self._kept: dict[Any, Future[Any]] = {}
        self._lock, self._pid = threading.Lock(), os.getpid()

    def __contains__(self, key: Any) -> bool:
        found = self._kept.get(key)
        return found is not None and found.done()

    def get(self, key: Any, make: Callable[[], T]) -> T:
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            found = self._kept.pop(key, None)
            mine = found is None
            self._kept[key] = found = found or Future()
            while len(self._kept) > self._most:
                self._kept.pop(next(iter(self._kept)))
        if mine:
            try:
                found.set_result(make())
            except BaseException as error:
                self.forget(key)
                found.set_exception(error)
        return found.result()

    def forget(self, key: Any) -> None:
        with self._lock:
            self._kept.pop(key, None)


class Members(NamedTuple):
    """Members of a shard: folder of the layer, clip, extension, and the numbers of the samples in the clip."""

    folder: str
    clip: Clip
    ext: str
    which: Sequence[int]


def member_key(wanted: Iterable[Members], at: int) -> str:
    """The key of number `at` of these members."""
    keys = (f"{clip.key(t)}.{ext}" for _, clip, ext, which in wanted for t in which)
    return next(itertools.islice(keys, at, None))


def shard_name(folder: str, shard: int) -> str:
    return f"{folder}/shard-{shard:05d}.tar"


def index_name(folder: str, shard: int) -> str:
    return f"{folder}/shard-{shard:05d}.parquet"


def of_shard(name: str) -> tuple[str, int]:
    folder, _, file = name.rpartition("/")
    return folder, int(file.removeprefix("shard-").removesuffix(".tar"))
