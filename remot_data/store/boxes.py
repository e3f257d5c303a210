"""Who was seen where: the boxes of all persons at every look around a clip, a file a shard.

Tracks are numbered within their video, and one of them is the clip's own person. A detector whose `needs` names
`BOXES` gets them for its frames; to the currency of layers they are one more thing that a layer was made from.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from remot_data.persons import jumped
from remot_data.records import HW, Clip

_NEAR = 1.0  # most seconds between two looks at a track that its box is interpolated over
_HELD = 0.25  # most seconds that a box holds where no look at its track comes before or after it
STORED = {"pts": np.int64, "look": np.int32, "track": np.int32, "box": np.int16, "score": np.uint8}


class Looks(NamedTuple):
    """The P boxes of a span of a video that were seen in L looks; those of one look are in the order of their tracks.

    `pts` int64 [L], `look` int32 [P], the row of `pts` that each was seen at, `track` int32 [P], -1 for a box in no
    track, `box` float32 [P, 4], XYXY in displayed source pixels, `score` float32 [P] in [0, 1].
    Kept are whole pixels and 255ths: int16 and uint8.
    """

    pts: np.ndarray
    look: np.ndarray
    track: np.ndarray
    box: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Boxes:
    """Who was seen where, at every look around one clip; arrays as of `Looks`.

    `own` is the number of the clip's person. The looks go from the last before the first frame to the first after the
    last one.
    """

    own: int
    pts: np.ndarray
    look: np.ndarray
    track: np.ndarray
    box: np.ndarray
    score: np.ndarray

    def at(self, pts: np.ndarray, time_base: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """The own box float32 [T, 4] and those of others float32 [T, N, 4] at times int64 [T], NaN where nobody is.

        Between two looks at a track that are at most 1 s apart a box is interpolated by time, unless the person was put
        elsewhere between them; else it holds for at most 0.25 s. One in no track holds at most half the way to the next
        look. Each track has a column of its own.
        """
        seconds = time_base[0] / time_base[1]
        times, seen = np.asarray(pts) * seconds, self.pts * seconds
        own = _along(times, seen[self.look[self.track == self.own]], self.box[self.track == self.own])
        rest = np.unique(self.track[(self.track >= 0) & (self.track != self.own)])
        columns = [_along(times, seen[self.look[self.track == n]], self.box[self.track == n]) for n in rest]
        alone = self.track < 0
        columns += _singles(times, seen, self.look[alone], self.box[alone])
        others = np.stack(columns, 1) if columns else np.empty((len(times), 0, 4), np.float32)
        return own, others[:, ~np.isnan(others).all((0, 2))]

    def in_frames(self, clip: Clip, size: HW) -> tuple[np.ndarray, np.ndarray]:
        """`at` the times of a clip's frames, in pixels of these where they are of height and width `size`."""
        x, y, width, height = clip.crop
        shift = np.array((x, y) * 2, np.float32)
        grow = np.array((size[1] / width, size[0] / height) * 2, np.float32)
        own, others = self.at(clip.pts.array(), clip.time_base)
        return (own - shift) * grow, (others - shift) * grow

    @property
    def looks(self) -> Looks:
        return Looks(self.pts, self.look, self.track, self.box, self.score)


def boxes_at_size(arrays: Mapping[str, np.ndarray], old: HW, new: HW) -> dict[str, np.ndarray]:
    """Boxes [..., 4] in pixels of frames of the size `old` as they are for frames of the size `new`."""
    grow = np.array((new[1] / old[1], new[0] / old[0]) * 2, np.float32)
    return {name: boxes * grow for name, boxes in arrays.items()}


def _along(times: np.ndarray, seen: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The boxes float32 [T, 4] of one track, seen at times [S], ascending, as boxes [S, 4]."""
    out = np.full((len(times), 4), np.nan, np.float32)
    if not len(seen):
        return out
    after = np.searchsorted(seen, times)
    b, a = after.clip(0, len(seen) - 1), (after - 1).clip(0)
    gap = seen[b] - seen[a]
    between = (gap <= _NEAR) & (after > 0) & (after < len(seen)) & ~jumped(box[a], box[b], gap)
    share = np.where(between, (times - seen[a]) / np.where(gap > 0, gap, 1), 0).astype(np.float32)[:, None]
    nearest = np.where(np.abs(times - seen[a]) <= np.abs(seen[b] - times), a, b)
    held = np.abs(times - seen[nearest]) <= _HELD + 1e-9
    out[held] = box[nearest[held]]
    moved = (1 - share) * box[a] + share * box[b]
    out[between] = moved[between]
    return out


def _singles(times: np.ndarray, seen: np.ndarray, look: np.ndarray, box: np.ndarray) -> list[np.ndarray]:
    """Columns [T, 4] of boxes that are in no track, as few as hold them."""
    columns: list[np.ndarray] = []
    edges = np.concatenate([[-np.inf], (seen[1:] + seen[:-1]) / 2, [np.inf]])
    for row, corners in zip(look.tolist(), box, strict=True):
        low, high = max(edges[row], seen[row] - _HELD), min(edges[row + 1], seen[row] + _HELD)
        where = (times >= low) & (times < high)
        free = next((c for c in columns if np.isnan(c[where]).all()), None)
        if free is None:
            columns.append(free := np.full((len(times), 4), np.nan, np.float32))
        free[where] = corners
    return columns


def of_clip(looks: Looks, clip: Clip, own: int) -> Boxes:
    """The boxes around one clip out of those of its video.

    Args:
        own: number of the clip's person among the tracks.
    """
    pts = clip.pts.array()
    first = max(int(np.searchsorted(looks.pts, pts[0], "right")) - 1, 0)
    stop = min(int(np.searchsorted(looks.pts, pts[-1])) + 1, len(looks.pts))
    a, b = np.searchsorted(looks.look, (first, stop)).tolist()
    return Boxes(own, looks.pts[first:stop], looks.look[a:b] - first, *(x[a:b] for x in looks[2:]))


def stored(looks: Looks) -> Looks:
    """As it is kept, in the one order that it has."""
    pts, look, track, box, score = (np.asarray(column) for column in looks)
    pixels = np.rint(box.reshape(-1, 4)).clip(-(2**15), 2**15 - 1).astype(np.int16)
    score = np.rint(score * 255).clip(0, 255).astype(np.uint8)
    order = np.lexsort((score, *pixels.T[::-1], track, look))
    return Looks(
        pts.astype(np.int64), look.astype(np.int32)[order], track.astype(np.int32)[order], pixels[order], score[order]
    )


def restored(kept: Looks) -> Looks:
    """What was kept by `stored`."""
    return kept._replace(box=kept.box.astype(np.float32), score=kept.score.astype(np.float32) / np.float32(255))


# As text, in the ledger


def pack(pts: np.ndarray, look: np.ndarray, track: np.ndarray, box: np.ndarray, score: np.ndarray) -> str:
    """The columns of `Looks` as short text: along a track they change little, so differences are kept."""
    kept = stored(Looks(pts, look, track, box, score))
    order = np.argsort(kept.track, kind="stable")
    columns = [kept.track[order], kept.look[order], *kept.box[order].T, kept.score[order]]
    steps = np.diff(kept.pts, prepend=0)  # of looks at an even rate they hardly change
    planes = [_planes(np.array([len(kept.pts), len(kept.look)])), _planes(np.diff(steps, prepend=0))]
    planes += [_planes(np.diff(column.astype(np.int64), prepend=0)) for column in columns]
    return base64.b64encode(zlib.compress(b"".join(planes), 9)).decode()


def unpack(text: str) -> Looks:
    """What `pack` was given, rounded to what is kept."""
    values = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    count, looks = _numbers(values[:16]), values[16:]
    ends = 8 * np.cumsum([count[0], *[count[1]] * 7])
    steps, *columns = (np.cumsum(_numbers(part)) for part in np.split(looks, ends[:-1]))
    track, look, x0, y0, x1, y1, score = columns
    order = np.lexsort((np.arange(len(look)), track, look))
    box = np.stack([x0, y0, x1, y1], 1)[order].astype(np.float32)
    kept = Looks(np.cumsum(steps), look.astype(np.int32)[order], track.astype(np.int32)[order], box, score[order])
    return restored(kept)


def _planes(values: np.ndarray) -> bytes:
    """Whole numbers, small ones of either sign as small ones, first the lowest bytes of all and the highest last."""
    folded = (values << 1) ^ (values >> 63)
    return folded.astype("<i8").view(np.uint8).reshape(-1, 8).T.tobytes()


def _numbers(planes: np.ndarray) -> np.ndarray:
    folded = np.ascontiguousarray(planes.reshape(8, -1).T).view("<u8").ravel()
    return (folded >> np.uint64(1)).astype(np.int64) ^ -(folded & np.uint64(1)).astype(np.int64)
