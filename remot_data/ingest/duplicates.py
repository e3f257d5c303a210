"""Videos with the same content, known by small pictures at evenly spaced moments.

Takes of one camera differ in little but the persons. So in new stores what all of a picture has in common, its
brightness and contrast, is taken away first, as where videos fade in and out, and pictures of what moves around the
persons decide.
"""

from __future__ import annotations

import base64
import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from remot_data.ingest import people
from remot_data.records import WH

_HEADER = struct.Struct("<ff")  # seconds, width over height
_GRID = (people.Moments.COUNT, people.Moments.SIDE, people.Moments.SIDE)
_MOST_DIFFERENCE = 16  # grey levels; another encoding at 10 frames a second makes 11, another take 50 and more
_BINNED = 5  # cells that pairs are looked up by
_CROP = 16  # cells of the picture of what moves around the persons, across and down
_ROOM = 0.15  # around their boxes, of the height
_CONTRAST = 40.0  # grey levels that contrast is brought to,
_FAINT = 10.0, 0.25  # but not where it is less than so many, or than this share of the usual one
_MOVED = 2.0  # grey levels, root mean square, of what moves: less tells nothing
_OTHER = 0.4  # of what moves in both: the difference of the same movements is less, that of others about all of it
_PAIRS = 1 << 20  # compared at a time
_MORE = _GRID[0] * (16 + _CROP**2)  # bytes of places and crops


def signature(moments: np.ndarray, seconds: float, size: WH) -> str:
    """What a video looks like at eight moments (uint8 [8, 12, 12]), its length and shape, as text of 1.5 kB."""
    return base64.b64encode(_HEADER.pack(seconds, size[0] / size[1]) + moments.tobytes()).decode()


def signature_with_persons(seen: people.Watched) -> str:
    """What a video looks like at eight moments, whatever its brightness, and what moves around its persons there.

    Where nobody is seen at a moment, that is what moves in the whole picture. Text of 5 kB.
    """
    assert seen.fine is not None
    even = _even(seen.fine)
    cells = np.stack([cv2.resize(one, _GRID[1:], interpolation=cv2.INTER_AREA) for one in even])
    moving = _moving(seen.fine, np.median(even, axis=0))
    places = np.stack([_around([p.box for i in near for p in seen.looks[i] if p.sure], seen) for near in seen.near])
    whole = np.array([0.0, 0.0, 1.0, 1.0])
    crops = [_part(one, whole, place, _CROP) for one, place in zip(moving, places, strict=True)]
    head = _HEADER.pack(seen.probe.seconds, seen.probe.size[0] / seen.probe.size[1])
    parts = _bytes(cells), places.astype("<f4"), _bytes(np.stack(crops))
    return base64.b64encode(head + b"".join(part.tobytes() for part in parts)).decode()


def _even(fine: np.ndarray) -> np.ndarray:
    """Pictures uint8 [8, n, n] with a mean of 0 and all with the same contrast, float32."""
    grey = fine.astype(np.float32) - fine.mean((1, 2), keepdims=True, dtype=np.float32)
    contrast = grey.std((1, 2), keepdims=True)
    least = max(_FAINT[0], _FAINT[1] * float(contrast.max()))
    out: np.ndarray = grey * (_CONTRAST / np.maximum(contrast, least))
    return out


def _moving(fine: np.ndarray, still: np.ndarray) -> np.ndarray:
    """What pictures uint8 [8, n, n] show beside what stands still in all of them, under the light of each."""
    grey = fine.astype(np.float32) - fine.mean((1, 2), keepdims=True, dtype=np.float32)
    gain = (grey * still).sum((1, 2), keepdims=True) / max(float((still**2).sum()), 1.0)
    return (grey - gain * still) / np.maximum(gain, _FAINT[1])


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values + 128), 0, 255).astype(np.uint8)


def _around(boxes: Sequence[Sequence[float]], seen: people.Watched) -> np.ndarray:
    """Where persons are, with room around them: XYXY as shares of the picture, all of it where there is nobody."""
    if not boxes:
        return np.array([0.0, 0.0, 1.0, 1.0])
    corners = np.array(boxes)
    low, high = corners[:, :2].min(0), corners[:, 2:].max(0)
    room = _ROOM * (high[1] - low[1])
    return np.clip(np.r_[low - room, high + room] / (*seen.probe.size, *seen.probe.size), 0, 1)


def _part(picture: np.ndarray, place: np.ndarray, wanted: np.ndarray, side: int) -> np.ndarray:
    """`wanted` of a picture [h, w] that shows `place` (XYXY each) in side x side cells, float32."""
    scale = np.array(picture.shape[::-1]) / np.maximum(place[2:] - place[:2], 1e-6)
    step = (wanted[2:] - wanted[:2]) / side * scale
    begin = (wanted[:2] - place[:2]) * scale + step / 2 - 0.5
    x, y = (begin[i] + step[i] * np.arange(side) for i in (0, 1))
    grid = [part.astype(np.float32) for part in np.meshgrid(x, y)]
    soft = cv2.blur(picture.astype(np.float32), tuple(int(max(1, round(s))) for s in step))
    return cv2.remap(soft, grid[0], grid[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


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

    That is ``bytes`` or ``pictures``; the latter only if `by` is ``pictures`` or ``persons``, and only between videos
    that have clips: what has none has its own reason, and must not stand for a better copy.
    """
    first: dict[str, int] = {}
    found: dict[int, tuple[int, str]] = {}
    for i, line in enumerate(lines):
        if line["video"]:
            original = first.setdefault(line["video"]["sha256"], i)
            if original != i:
                found[i] = original, "bytes"
    if by != "bytes":
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
        short = _HEADER.size + int(np.prod(_GRID))
        length = len(raw[0]) if raw else short
        for one in raw:
            if len(one) != length or length not in (short, short + _MORE):
                raise ValueError(f"a signature has {length} bytes, not {len(one)}: it is of another version")
        whole = np.frombuffer(b"".join(raw), np.uint8).reshape(len(raw), length)
        header = np.ascontiguousarray(whole[:, : _HEADER.size]).view("<f4").astype(np.float64)
        self.seconds, self.shape = header[:, 0], header[:, 1]
        self.cells = np.ascontiguousarray(whole[:, _HEADER.size : short])
        count = _GRID[0] if length > short else 0
        places = short + 16 * count
        self._places = np.ascontiguousarray(whole[:, short:places]).view("<f4").reshape(len(raw), count, 4)
        self._crops = whole[:, places:].reshape(len(raw), count, _CROP, _CROP)
        moving = np.ptp(self.cells.reshape(-1, *_GRID), axis=1).max((1, 2), initial=0)
        self.bound = np.minimum(_MOST_DIFFERENCE, moving // 4).astype(np.int16)
        if length > short:
            self.bound[:] = _MOST_DIFFERENCE  # what moves is left to the crops

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
        if self._crops.size:
            for n in np.flatnonzero(out):
                out[n] = self._moves_alike(int(i[n]), int(j[n]))
        return out

    def _moves_alike(self, i: int, j: int) -> bool:
        """Whether the persons of two videos move alike, where both were seen at the same place."""
        other = all_of_it = 0.0
        for a, b, one, two in zip(self._places[i], self._places[j], self._crops[i], self._crops[j], strict=True):
            both = np.r_[np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])]
            if (both[2:] <= both[:2]).any():
                continue
            x, y = (_part(crop.astype(np.float32) - 128, at, both, 12) for crop, at in ((one, a), (two, b)))
            weight = float(np.prod(both[2:] - both[:2]))
            other += weight * float(((x - y) ** 2).mean())
            all_of_it += weight * float((x**2 + y**2).mean() - 2 * _MOVED**2)
        return other <= _OTHER * max(all_of_it, 0.0) or all_of_it <= 0

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
