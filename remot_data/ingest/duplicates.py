"""Videos with the same content, known by small pictures at evenly spaced moments."""

from __future__ import annotations

import base64
import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from remot_data.ingest import people
from remot_data.records import WH

_HEADER = struct.Struct("<ff")  # seconds, width over height
_GRID = (people.Moments.COUNT, people.Moments.SIDE, people.Moments.SIDE)
_MOST_DIFFERENCE = 16  # grey levels; another encoding at 10 frames a second makes 11, another take 50 and more
_BINNED = 5  # cells that pairs are looked up by
_PAIRS = 1 << 20  # compared at a time


def signature(moments: np.ndarray, seconds: float, size: WH) -> str:
    """What a video looks like at eight moments (uint8 [8, 12, 12]), its length and shape, as text of 1.5 kB."""
    return base64.b64encode(_HEADER.pack(seconds, size[0] / size[1]) + moments.tobytes()).decode()


def same_content(a: str, b: str) -> bool:
    """Whether two signatures are of the same video, be it encoded anew.

    Strict, as a video that is called the same is lost: length (2 %, at least 0.15 s, two frames of a slow rate) and
    shape (3 %) agree, and no cell of any moment differs by more than 16 grey levels, or a quarter of what moves in
    the video where that is less. Another size, codec, container, quality or frame rate passes; another take, a part,
    a mirrored or a differently lit picture does not.
    """
    table = _Signatures([a, b])
    return bool(table.agree(np.array([0]), np.array([1]))[0])


def duplicates(lines: Sequence[Mapping[str, Any]], by: str = "pictures") -> dict[int, tuple[int, str]]:
    """Which lines of `scan` repeat an earlier one: index -> index of the first of its kind, and what is the same.

    That is ``bytes`` or ``pictures``; the latter only if `by` says so, and only between videos that have clips: what
    has none has its own reason, and must not stand for a better copy.
    """
    first: dict[str, int] = {}
    found: dict[int, tuple[int, str]] = {}
    for i, line in enumerate(lines):
        if line["video"]:
            original = first.setdefault(line["video"]["sha256"], i)
            if original != i:
                found[i] = original, "bytes"
    if by == "pictures":
        left = [i for i, line in enumerate(lines) if i not in found and line["clips"] and line.get("signature")]
        shows: dict[str, int] = {}
        for i in left:
            shows.setdefault(lines[i]["signature"], i)
        origins = dict(zip(shows, _Signatures(list(shows)).originals(), strict=True))
        numbers = list(shows.values())
        for i in left:
            earlier = numbers[origins[lines[i]["signature"]]]
            if earlier != i:
                found[i] = earlier, "pictures"
    # A copy of the bytes of a repeat repeats the first of them all.
    return {i: found.get(j, (j, what)) for i, (j, what) in sorted(found.items())}


class _Signatures:
    """Many signatures as arrays: `seconds` and `shape` float [N], `cells` uint8 [N, 1152], `bound` int [N]."""

    def __init__(self, texts: Sequence[str]) -> None:
        raw = [base64.b64decode(text) for text in texts]
        length = _HEADER.size + int(np.prod(_GRID))
        for one in raw:
            if len(one) != length:
                raise ValueError(f"a signature has {length} bytes, not {len(one)}: it is of another version")
        whole = np.frombuffer(b"".join(raw), np.uint8).reshape(len(raw), length)
        header = np.ascontiguousarray(whole[:, : _HEADER.size]).view("<f4").astype(np.float64)
        self.seconds, self.shape = header[:, 0], header[:, 1]
        self.cells = np.ascontiguousarray(whole[:, _HEADER.size :])
        moving = np.ptp(self.cells.reshape(-1, *_GRID), axis=1).max((1, 2), initial=0)
        self.bound = np.minimum(_MOST_DIFFERENCE, moving // 4).astype(np.int16)

    def agree(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """bool [P]: whether the signatures i [P] and j [P] are of the same video."""
        return self._near(i, j) & self._alike(i, j)

    def _near(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        a, b = self.seconds[i], self.seconds[j]
        close = np.abs(a - b) <= np.maximum(0.15, 0.02 * np.maximum(a, b))
        return close & (np.abs(self.shape[i] - self.shape[j]) <= 0.03 * np.maximum(self.shape[i], self.shape[j]))

    def _alike(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        bound = np.minimum(self.bound[i], self.bound[j])
        out = np.empty(len(i), bool)
        for start in range(0, len(i), 4096):
            part = slice(start, start + 4096)
            a, b = self.cells[i[part]], self.cells[j[part]]
            out[part] = (np.maximum(a, b) - np.minimum(a, b)).max(1) <= bound[part]
        return out

    def originals(self) -> list[int]:
        """For each signature the first one it repeats, at once or by way of others; itself where there is none."""
        first = np.arange(len(self.cells))
        for i, j in self._candidates():
            same = self._alike(i, j)
            low, high = np.minimum(i[same], j[same]), np.maximum(i[same], j[same])
            np.minimum.at(first, high, low)
        out: list[int] = []
        for earlier in first.tolist():
            out.append(out[earlier] if earlier < len(out) else earlier)
        return out

    def _candidates(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs that may agree, each once.

        Length and a few cells are put into bins as wide as they may differ, so only videos of the same or of
        neighbouring bins are compared, first by more cells.
        """
        telling = self._telling()
        bins = np.stack([self._length_bins(), *(self.cells[:, c] // (_MOST_DIFFERENCE + 1) for c in telling[:_BINNED])])
        bins = bins.astype(np.int64) + 1
        bins = bins[bins.min(1, initial=2**30) < bins.max(1, initial=0)]
        place = np.cumprod(np.r_[1, bins.max(1, initial=0) + 2])[:-1]
        keys = (bins * place[:, None]).sum(0)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        rows = np.arange(len(keys))
        columns = [self.cells[:, c].astype(np.int16) for c in telling]
        for offset in itertools.product((-1, 0, 1), repeat=len(bins)):
            step = int(np.dot(offset, place))
            if step < 0:  # each pair of bins is met from one side
                continue
            ends = np.searchsorted(keys, keys + step, side="right")
            starts = np.searchsorted(keys, keys + step, side="left") if step else rows + 1
            for i, j in _pairs(rows, starts, ends):
                yield self._thinned(order[i], order[j], columns)

    def _thinned(self, i: np.ndarray, j: np.ndarray, columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        for column in columns:
            close = np.flatnonzero(np.abs(column[i] - column[j]) <= np.minimum(self.bound[i], self.bound[j]))
            i, j = i[close], j[close]
        close = self._near(i, j)
        return i[close], j[close]

    def _length_bins(self) -> np.ndarray:
        """Lengths that `_near` lets pass differ by at most one bin."""
        seconds = np.maximum(self.seconds, 1e-3)
        return np.where(seconds < 7.5, seconds / 0.15, 50 + np.log(seconds / 7.5) / 0.0202) / 1.02

    def _telling(self) -> list[int]:
        """Up to twelve cells: each the one that tells the most of those pairs apart that the ones before do not."""
        chance = np.random.default_rng(0)
        i, j = chance.integers(0, max(len(self.cells), 1), (2, 1 << 14))
        i, j = i[i != j], j[i != j]
        chosen: list[int] = []
        while len(chosen) < 12 and len(i):
            a, b = self.cells[i], self.cells[j]
            apart = np.count_nonzero(np.maximum(a, b) - np.minimum(a, b) > _MOST_DIFFERENCE, axis=0)
            best = int(apart.argmax())
            if not apart[best]:
                break
            chosen.append(best)
            near = np.abs(a[:, best].astype(np.int16) - b[:, best]) <= _MOST_DIFFERENCE
            i, j = i[near], j[near]
        return chosen


def _pairs(rows: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each row with every number from its start to its end - 1, some millions of pairs at a time."""
    counts = ends - starts
    rows = rows[counts > 0]
    for part in np.split(rows, np.flatnonzero(np.diff(np.cumsum(counts[rows]) // _PAIRS)) + 1):
        many = counts[part]
        steps = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        yield np.repeat(part, many), np.repeat(starts[part], many) + steps
