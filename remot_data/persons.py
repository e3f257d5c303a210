"""Persons, their boxes and tracks, and the one crop of a clip: geometry and small measures, numbers in and numbers out.

Boxes are in pixels of the displayed picture, corner origin: those of persons `XYXY`, crops `XYWH`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import cv2
import numpy as np

from remot_data.records import HW, WH, XYWH, XYXY


@dataclass(frozen=True)
class Person:
    """One person found in one frame: body box, score in [0, 1], and `sharpness` in the box where it was measured.

    `track` is the number that a finder with a tracker of its own knows the person by. A box that is not `sure` may
    only go on a track that expects it. `colours` is what `colours` gives, where it was asked for.
    """

    frame: int
    box: XYXY
    score: float
    sharpness: float = math.inf
    track: int | None = None
    sure: bool = True
    colours: np.ndarray | None = field(default=None, compare=False, repr=False)


class Finder(Protocol):
    """What finds persons in whole pictures in place of the default detector.

    `follow` begins a video. What it returns is called with each picture, uint8 [H, W, 3], RGB, the number of its frame
    and the size (W, H) of the picture that it was made smaller from, and gives what `find` gives. Where it has an
    attribute `longest`, pictures come with a longest side of up to so many pixels.
    """

    def fingerprint(self) -> dict[str, Any]: ...

    def follow(self) -> Callable[[np.ndarray, int, WH], list[Person]]: ...


def as_box(corners: Iterable[float]) -> XYXY:
    """A box of four numbers of whatever kind."""
    x0, y0, x1, y1 = map(float, corners)
    return XYXY((x0, y0, x1, y1))


def overlap(a: XYXY, b: XYXY) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def share(box: XYXY, within: XYXY) -> float:
    """Share of the area of `box` that lies within another."""
    width = min(box[2], within[2]) - max(box[0], within[0])
    height = min(box[3], within[3]) - max(box[1], within[1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return width * height / area if width > 0 and height > 0 else 0.0


def extent(box: XYXY) -> float:
    """The longer side of a box: how long somebody is, standing or lying."""
    return max(box[2] - box[0], box[3] - box[1])


def height(box: XYXY) -> float:
    return box[3] - box[1]


def tracks(seen: Sequence[Sequence[Person]], least_overlap: float = 0.2, most_missed: int = 3) -> list[list[Person]]:
    """Link the persons of successive looks into tracks, each box to the track it overlaps most.

    A track that was missed in more than `most_missed` looks ends. Where the finder has tracked them, its tracks are
    taken instead; a person that it could not place in one stands alone.
    """
    if any(person.track is not None for look in seen for person in look):
        return _tracks_found(seen)
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


def _tracks_found(seen: Sequence[Sequence[Person]]) -> list[list[Person]]:
    tracked: dict[int, list[Person]] = {}
    alone: list[list[Person]] = []
    for person in itertools.chain.from_iterable(seen):
        if person.track is None:
            alone.append([person])
        else:
            tracked.setdefault(person.track, []).append(person)
    return [*tracked.values(), *alone]


def main_track(seen: Sequence[Sequence[Person]]) -> list[Person]:
    """The track of the main person: the one with the largest sum of score times box area; empty if there is none."""

    def weight(track: list[Person]) -> float:
        return sum(p.score * (p.box[2] - p.box[0]) * height(p.box) for p in track)

    return max(tracks(seen), key=weight, default=[])


def crop(boxes: Sequence[XYXY], source_size: WH, aspect: float, margin: float, inside: bool = True) -> XYWH:
    """The one crop of a clip: it holds the union of `boxes` plus a margin.

    Args:
        boxes: at least one.
        source_size: of the displayed picture.
        aspect: width over height of the crop.
        margin: share of the union's height added above and below, and as many pixels left and right.
        inside: leave less margin, down to none, where the crop would else be larger than the picture. It then reaches
            out only where what the picture shows of the boxes fits into no crop of this shape inside it.

    The crop is moved into the picture where it fits; where it is larger than the picture it reaches out evenly.
    """
    union = np.array(boxes, float)
    if inside:
        union = union.clip(0, (*source_size, *source_size))
    x0, y0 = union[:, :2].min(0)
    x1, y1 = union[:, 2:].max(0)
    pad = margin * (y1 - y0)
    tall = max(y1 - y0 + 2 * pad, (x1 - x0 + 2 * pad) / aspect)
    if inside:
        largest = min(source_size[1], source_size[0] / aspect)
        tall = min(tall, max(largest, y1 - y0, (x1 - x0) / aspect))
    wide = tall * aspect
    corner = []
    for centre, extent, limit in (((x0 + x1) / 2, wide, source_size[0]), ((y0 + y1) / 2, tall, source_size[1])):
        start = centre - extent / 2
        corner.append((limit - extent) / 2 if extent > limit else min(max(start, 0.0), limit - extent))
    return XYWH((float(corner[0]), float(corner[1]), float(wide), float(tall)))


def borders(crop: XYWH, picture: WH, size: HW) -> tuple[int, int, int, int]:
    """How many columns left and right, and rows above and below, of a crop at `size` reach out of the picture.

    A pixel counts as outside that is so in part.
    """
    x, y, width, height = crop
    across, down = size[1] / width, size[0] / height
    reach = (-x * across, (x + width - picture[0]) * across, -y * down, (y + height - picture[1]) * down)
    # A hair less: crops of pictures whose pixels are not square are no whole numbers.
    left, right, above, below = (max(math.ceil(pixels - 1e-6), 0) for pixels in reach)
    return left, right, above, below


def valid(crop: XYWH, picture: WH, stored: HW, size: HW | None = None) -> np.ndarray:
    """Which pixels of a clip's frames the source shows, bool [H, W]; the others lie outside its picture.

    Args:
        crop: of the clip, in the displayed picture of size `picture`.
        stored: height and width of the frames.
        size: that they were brought to afterwards, `stored` if not given.
    """
    height, width = size or stored
    left, right, above, below = borders(crop, picture, stored)
    across, down = width / stored[1], height / stored[0]
    out: np.ndarray = np.zeros((height, width), bool)
    rows = slice(math.ceil(above * down), height - math.ceil(below * down))
    out[rows, math.ceil(left * across) : width - math.ceil(right * across)] = True
    return out


_SLACK, _FASTEST = 0.7, 4.5  # heights, heights a second: nobody moves farther


def jumped(before: np.ndarray, after: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Whether somebody was put elsewhere between two looks, as by a cut inside a set, bool [N].

    Args:
        before, after: boxes [N, 4].
        seconds: [N] between them.
    """
    way = after.reshape(-1, 2, 2).mean(1) - before.reshape(-1, 2, 2).mean(1)
    tall = np.maximum(before[:, 3] - before[:, 1], after[:, 3] - after[:, 1])
    return np.hypot(*way.T) > (_SLACK + _FASTEST * seconds) * tall


_SHARPNESS_HEIGHT = 128


def sharpness(grey: np.ndarray, box: XYXY) -> float:
    """How much fine detail the picture has in a person's box, whatever the size of the person and the light.

    The variance of the Laplacian over that of the brightness, where the person is 128 pixels high; a smaller one is
    not enlarged. Sharp video has 0.3 to 0.7. Gaussian blur with a standard deviation of 0.5 % of the person's height
    leaves 0.1 to 0.2, 1 % 0.02 to 0.04, 2 % less than 0.01.

    Args:
        grey: uint8 [H, W].
        box: in its pixels; inf where less than 3 x 3 pixels of it lie in the picture.
    """
    height, width = grey.shape
    x0, y0 = max(math.floor(box[0]), 0), max(math.floor(box[1]), 0)
    inside = grey[y0 : max(min(math.ceil(box[3]), height), 0), x0 : max(min(math.ceil(box[2]), width), 0)]
    if min(inside.shape) < 3:
        return math.inf
    scale = min(1.0, _SHARPNESS_HEIGHT / inside.shape[0])
    size = max(3, round(inside.shape[1] * scale)), max(3, round(inside.shape[0] * scale))
    small = cv2.resize(inside.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    detail = cv2.Laplacian(small, cv2.CV_32F)[1:-1, 1:-1]
    return float(detail.var() / max(float(small.var()), 1e-6))


_CELLS = 5  # of each axis of Lab


def colours(image: np.ndarray, box: XYXY) -> np.ndarray:
    """What a person wears, told by colour: a histogram of the upper and of the lower body, float32 [2, 125].

    Roots of shares, so that the product of two histograms is 1 where they are the same (Bhattacharyya). It is taken in
    Lab of the middle of the box, so that background counts little.

    Args:
        image: uint8 [H, W, 3], RGB.
        box: in its pixels.
    """
    x0, y0, x1, y1 = box
    out = np.zeros((2, _CELLS**3), np.float32)
    left, right = x0 + 0.3 * (x1 - x0), x1 - 0.3 * (x1 - x0)
    for half, (top, bottom) in zip(out, ((0.15, 0.5), (0.5, 0.85)), strict=True):
        rows = slice(max(int(y0 + top * (y1 - y0)), 0), max(math.ceil(y0 + bottom * (y1 - y0)), 0))
        patch = image[rows, max(int(left), 0) : max(math.ceil(right), 0)]
        if not patch.size:
            continue
        small = cv2.resize(patch, (16, 16), interpolation=cv2.INTER_AREA)
        lab = cv2.cvtColor(small, cv2.COLOR_RGB2Lab).reshape(-1, 3).astype(np.float32)
        # Skin and cloth differ by far less of a and b than the whole range has.
        lab[:, 1:] = (lab[:, 1:] - 128) * 2 + 128
        cells = (lab / 256 * _CELLS).clip(0, _CELLS - 1).astype(np.int64)
        counts = np.bincount(cells @ np.array([_CELLS**2, _CELLS, 1]), minlength=_CELLS**3)
        half[:] = np.sqrt(counts / counts.sum())
    return out


def differ(a: np.ndarray, b: np.ndarray) -> float:
    """How different two persons' `colours` are: 0 the same, 1 nothing in common."""
    return float(1 - (a * b).sum(1).mean())
