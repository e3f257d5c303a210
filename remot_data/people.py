"""Shots, person tracks, and the one crop of a clip.

All but `watch` and `find` is geometry: numbers in and numbers out. A box is x0, y0, x1, y1 in pixels of the displayed
picture, corner origin.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from remot_data import video
from remot_data.detectors import base

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Person:
    """One person found in one frame: body box and score in [0, 1]."""

    frame: int
    box: Box
    score: float


class ShotFinder:
    """Finds cuts while frames pass by.

    A cut is where the mean change of the HSV thumbnail is large both absolutely and against the changes around
    it; fast motion is large only against rest, a flash only for one frame.
    """

    SIZE = (32, 18)

    def __init__(self, threshold: float = 18.0, ratio: float = 3.0, window: int = 4) -> None:
        self.threshold, self.ratio, self.window = threshold, ratio, window
        self._last: np.ndarray | None = None
        self._changes: list[float] = []

    def see(self, frame: np.ndarray) -> None:
        """Take the next frame, uint8 [H, W, 3], RGB."""
        small = cv2.resize(frame, self.SIZE, interpolation=cv2.INTER_AREA)
        thumbnail = cv2.cvtColor(small, cv2.COLOR_RGB2HSV).astype(np.int16)
        if self._last is not None:
            change = np.abs(thumbnail - self._last)
            change[..., 0] = np.minimum(change[..., 0], 180 - change[..., 0])
            self._changes.append(float(change.mean()))
        else:
            self._changes.append(0.0)
        self._last = thumbnail

    def shots(self) -> list[tuple[int, int]]:
        """Spans [start, stop) of frames between cuts; together they cover every frame seen."""
        changes = np.array(self._changes)
        cuts = [0]
        for t in range(1, len(changes)):
            around = np.r_[changes[max(1, t - self.window) : t], changes[t + 1 : t + 1 + self.window]]
            if changes[t] >= self.threshold and changes[t] >= self.ratio * max(
                float(around.mean()) if len(around) else 0.0, 1.0
            ):
                cuts.append(t)
        return list(zip(cuts, [*cuts[1:], len(changes)], strict=True)) if len(changes) else []


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def height(box: Box) -> float:
    return box[3] - box[1]


def tracks(seen: Sequence[Sequence[Person]], least_overlap: float = 0.2, most_missed: int = 3) -> list[list[Person]]:
    """Link the persons of successive looks into tracks, each box to the track it overlaps most.

    A track that was missed in more than `most_missed` looks ends.
    """
    done: list[list[Person]] = []
    open_tracks: list[tuple[int, list[Person]]] = []
    for look, persons in enumerate(seen):
        candidates = itertools.product(enumerate(open_tracks), enumerate(persons))
        pairs = sorted(((overlap(t[-1].box, p.box), i, j) for (i, (_, t)), (j, p) in candidates), reverse=True)
        used_tracks: set[int] = set()
        used_persons: set[int] = set()
        for value, i, j in pairs:
            if value >= least_overlap and i not in used_tracks and j not in used_persons:
                open_tracks[i][1].append(persons[j])
                open_tracks[i] = (look, open_tracks[i][1])
                used_tracks.add(i)
                used_persons.add(j)
        done += [track for last, track in open_tracks if look - last > most_missed]
        open_tracks = [(last, track) for last, track in open_tracks if look - last <= most_missed]
        open_tracks += [(look, [p]) for j, p in enumerate(persons) if j not in used_persons]
    return done + [track for _, track in open_tracks]


def main_track(seen: Sequence[Sequence[Person]]) -> list[Person]:
    """The track of the main person: the one with the largest sum of score times box area; empty if there is none."""

    def weight(track: list[Person]) -> float:
        return sum(p.score * (p.box[2] - p.box[0]) * height(p.box) for p in track)

    return max(tracks(seen), key=weight, default=[])


def crop(
    boxes: Sequence[Box], source_size: tuple[int, int], aspect: float, margin: float
) -> tuple[float, float, float, float]:
    """The one crop of a clip: x, y, width, height that holds the union of `boxes` plus a margin.

    Args:
        boxes: at least one.
        source_size: width and height of the displayed picture.
        aspect: width over height of the crop.
        margin: share of the union's height added above and below, and as many pixels left and right.

    The crop is moved into the picture where it fits; where it is larger than the picture it reaches out evenly.
    """
    union = np.array(boxes, float)
    x0, y0 = union[:, :2].min(0)
    x1, y1 = union[:, 2:].max(0)
    pad = margin * (y1 - y0)
    tall = max(y1 - y0 + 2 * pad, (x1 - x0 + 2 * pad) / aspect)
    wide = tall * aspect
    corner = []
    for centre, extent, limit in (((x0 + x1) / 2, wide, source_size[0]), ((y0 + y1) / 2, tall, source_size[1])):
        start = centre - extent / 2
        corner.append((limit - extent) / 2 if extent > limit else min(max(start, 0.0), limit - extent))
    return float(corner[0]), float(corner[1]), float(wide), float(tall)


@dataclass(frozen=True)
class Watched:
    """What one pass over a video saw: the PTS of every frame, spans of shots, and the persons of each look."""

    probe: video.Probe
    pts: list[int]
    shots: list[tuple[int, int]]
    looks: list[list[Person]]


def watch(path: str | Path, *, rate: float = 5.0, start_pts: int | None = None, end_pts: int | None = None) -> Watched:
    """Go once through a video, in reduced pictures, for its shots and, `rate` times a second, its persons.

    Raises:
        VideoError: as `video.read`, and ``no-frames`` where none comes.
    """
    probe = video.probe(path)
    base_seconds = probe.time_base[0] / probe.time_base[1]
    scale = min(1.0, _LONGEST / max(probe.size))
    shape = max(2, round(probe.size[1] * scale)), max(2, round(probe.size[0] * scale))
    shots, looks, pts, next_look = ShotFinder(), [], [], -np.inf
    for stamp, frame in video.read(path, start_pts=start_pts, end_pts=end_pts, size=shape):
        if stamp * base_seconds >= next_look:
            looks.append(find(frame, len(pts), probe.size))
            next_look = stamp * base_seconds + 1 / rate - 1e-6
        shots.see(frame)
        pts.append(stamp)
    if not pts:
        raise video.VideoError("no-frames", f"{path}: no frame could be decoded")
    return Watched(probe, pts, shots.shots(), looks)


def find(image: np.ndarray, frame: int = 0, size: tuple[int, int] | None = None) -> list[Person]:
    """The persons of an image uint8 [H, W, 3]; boxes in pixels of the image, or of a picture `size` = (W, H)."""
    width, height = size or image.shape[1::-1]
    grow = np.array([width / image.shape[1], height / image.shape[0]] * 2)
    bodies = _finder().body_boxes(image, tiles=True)
    return [Person(frame, tuple(np.array(b.box) * grow), float(b.score)) for b in bodies]


# Persons are found as well in pictures of this longest side, and shots need no more.
_LONGEST = 640


@lru_cache(maxsize=1)
def _finder() -> Any:
    """The detector that finds persons in whole pictures."""
    return base.load("blazepose")
