"""Finding several persons: the SSD of MediaPipe's Objectron beside BlazePose, which confirms what it is unsure of.

The network is an SSD (Liu et al., 2016) on MobileNetV2, trained on Open Images; class 4 of its 24 is Person. Anchors
and decoding follow MediaPipe's published graph of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from remot_data.detectors._litert import Network, Region, overlaps, sigmoid, weights_file
from remot_data.detectors.base import file_sha256
from remot_data.detectors.blazepose import BlazePose, Body, same_body
from remot_data.persons import Person, as_box, overlap, share, sharpness
from remot_data.records import WH, XYXY

_SIZE = 300
_PERSON = 4
_CLASSES = 24
_STRIDES = (16, 32, 64, 128, 256, 512)
_SCALES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)  # of the layers, and what comes after the last one
_RATIOS = (1.0, 2.0, 1 / 2, 3.0, 1 / 3)
_REDUCED = 640  # longest side of the picture that BlazePose sees, as where it is the finder
_TILES = (0.6, 0.4)  # sides of windows over the shorter side of the picture
_CLOSE = 0.3  # the smallest
_FORGOTTEN = 5  # looks after which somebody is no longer expected where she was last seen
_MOST = 3  # windows round persons in one look
_SWEEP = 4  # looks for all windows while nobody is in view

Window = tuple[int, int, int, int]  # x0, y0, x1, y1 in whole pixels


@lru_cache
def anchors() -> np.ndarray:
    """float32 [1917, 4]: centre x, y, width and height of the network's anchors in units of its input."""
    layers = []
    for layer, stride in enumerate(_STRIDES):
        scale, after = _SCALES[layer : layer + 2]
        shapes = [(scale, ratio) for ratio in _RATIOS] + [(math.sqrt(scale * after), 1.0)]
        if layer == 0:
            shapes = [(0.1, 1.0), (scale, 2.0), (scale, 1 / 2)]
        cells = math.ceil(_SIZE / stride)
        y, x = np.mgrid[:cells, :cells]
        centres = (np.stack([x, y], -1).reshape(-1, 1, 2) + 0.5) / cells
        sides = np.array([(side * math.sqrt(ratio), side / math.sqrt(ratio)) for side, ratio in shapes])
        layers.append(np.concatenate(np.broadcast_arrays(centres, sides[None]), -1).reshape(-1, 4))
    return np.concatenate(layers).astype(np.float32)


def decode(values: np.ndarray, logits: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores [N] and boxes XYXY [N, 4], in units of the input, of the persons with a score of at least `least`.

    Args:
        values: float32 [1917, 4]: centre y, x in tenths, logarithms of height and width in fifths of an anchor's.
        logits: float32 [1917, 24].
    """
    scores = sigmoid(logits[:, _PERSON])
    kept = np.flatnonzero(scores >= least)
    offsets, anchor = values[kept], anchors()[kept]
    centres = offsets[:, 1::-1] / 10 * anchor[:, 2:] + anchor[:, :2]
    sides = np.exp(offsets[:, :1:-1] / 5) * anchor[:, 2:]
    return scores[kept], np.concatenate([centres - sides / 2, centres + sides / 2], 1)


def best_of(scores: np.ndarray, boxes: np.ndarray, most: float = 0.5) -> np.ndarray:
    """Indices of the boxes [N, 4] that no better one overlaps by more than `most`, best first."""
    left, out = np.argsort(-scores, kind="stable"), []
    while len(left):
        out.append(left[0])
        left = left[1:][overlaps(boxes[left[0]], boxes[left[1:]]) <= most]
    return np.array(out, np.int64)


class PersonNetwork:
    """The SSD: persons in a window of an image, brought to the shape of its input whatever its own is.

    Args:
        weights: the network's file; the asset ``person-detector`` if not given.
        threads: CPU threads of LiteRT.
    """

    def __init__(self, weights: str | Path | None = None, threads: int = 1):
        self.path = weights_file(weights, "person-detector")
        outputs = ((1, len(anchors()), 4), (1, len(anchors()), _CLASSES))
        self.network = Network(self.path, "SSD of Objectron", (1, _SIZE, _SIZE, 3), outputs, threads)

    def __call__(self, image: np.ndarray, window: Window, least: float) -> tuple[np.ndarray, np.ndarray]:
        """Scores [N] and boxes XYXY [N, 4] in pixels of an image uint8 [H, W, 3], best first, one a person."""
        x0, y0, x1, y1 = window
        picture = cv2.resize(image[y0:y1, x0:x1], (_SIZE, _SIZE), interpolation=cv2.INTER_AREA)
        values, logits = self.network(picture.astype(np.float32) * np.float32(2 / 255) - 1)
        scores, boxes = decode(values, logits, least)
        boxes = (boxes.clip(0, 1) * np.tile((x1 - x0, y1 - y0), 2)) + (x0, y0, x0, y0)
        kept = best_of(scores, boxes)
        return scores[kept], boxes[kept]


@lru_cache
def windows(size: WH, tiles: tuple[float, ...] = _TILES) -> list[Window]:
    """Square windows of `tiles` of the shorter side of a picture; those of a size cover it and overlap by a quarter."""

    def starts(length: int, side: int) -> list[int]:
        count = math.ceil((length - side) / (0.75 * side)) + 1
        return np.linspace(0, length - side, count).round().astype(int).tolist()

    sides = [round(tile * min(size)) for tile in tiles]
    return [(x, y, x + s, y + s) for s in sides for y in starts(size[1], s) for x in starts(size[0], s)]


def window_round(box: XYXY, size: WH) -> Window:
    """The square window in which a person is looked for who was last seen in `box`: twice her size, in the picture."""
    side = round(min(max(2 * _longer(box), _CLOSE * min(size)), min(size)))
    middles = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    x, y = (round(min(max(m - side / 2, 0), length - side)) for m, length in zip(middles, size, strict=True))
    return x, y, x + side, y + side


@dataclass(frozen=True)
class Seen:
    """What may be a person: box in pixels of the picture looked at, score, and whether that is enough by itself.

    `joints` are BODY_25 keypoints float32 [25, 3] in pixels of the picture where the landmark network has seen her.
    """

    box: XYXY
    score: float
    sure: bool
    joints: np.ndarray | None = None

    def is_body(self, other: Seen) -> bool:
        """Whether the joints of two lie on each other: then they are one, even if one box has only half of her."""
        if self.joints is None or other.joints is None:
            return False
        both = (self.joints[:, 2] > 0) & (other.joints[:, 2] > 0)
        if both.sum() < 3:
            return False
        far = np.hypot(*(self.joints[both, :2] - other.joints[both, :2]).T)
        return bool(np.median(far) < 0.1 * min(_longer(self.box), _longer(other.box)))


def without_parts(whole: Sequence[Seen], near: Sequence[Seen]) -> list[Seen]:
    """What was seen in the whole picture and in windows, best first; of large persons windows show parts."""
    large = [one for one in whole if one.sure]
    near = [a for a in near if not any(share(a.box, b.box) > 0.7 and _area(b.box) > 1.5 * _area(a.box) for b in large)]
    if not (both := [*whole, *near]):
        return []
    return [both[i] for i in best_of(np.array([one.score for one in both]), np.array([one.box for one in both]))]


def pairs(bodies: Sequence[Seen], seen: Sequence[Seen]) -> dict[int, int]:
    """Which of `bodies` each of `seen` is, by index: those that overlap best first, and nobody twice."""
    likely = [
        (overlap(body.box, one.box), i, j)
        for i, body in enumerate(bodies)
        for j, one in enumerate(seen)
        if same_body(body.box, one.box)
    ]
    of: dict[int, int] = {}
    for _, i, j in sorted(likely, reverse=True):
        if j not in of and i not in of.values():
            of[j] = i
    return of


def covered(box: XYXY, by: Sequence[XYXY]) -> float:
    """Share of a box, by 16 x 16 points of it, that lies in any of the others."""
    x, y = (np.linspace(low, high, 33)[1::2] for low, high in ((box[0], box[2]), (box[1], box[3])))
    inside = np.zeros((16, 16), bool)
    for x0, y0, x1, y1 in by:
        inside |= ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))
    return float(inside.mean())


class SSDFinder:
    """Finds everybody in pictures of a longest side of up to 960 pixels (`remot_data.persons.Finder`).

    A person whom BlazePose finds and its landmark network confirms has the box of her landmarks, as where BlazePose is
    the finder; another has that of the SSD. What BlazePose finds and the landmark network denies is nobody by itself.

    Args:
        weights: the file of the SSD; the asset ``person-detector`` if not given.
        threads: CPU threads of LiteRT.
        sure: a box of at least this score is a person, unless others cover it: then it may show parts of them.
        least: one of at least this score is where the landmark network sees her and nobody else in it; else it is not
            sure.
    """

    name = "ssd"
    version = "1"
    longest = 960

    def __init__(self, weights: str | Path | None = None, *, threads: int = 1, sure: float = 0.45, least: float = 0.3):
        self._ssd, self._blazepose = PersonNetwork(weights, threads), BlazePose(threads=threads)
        self._allocate = self._ssd.network.allocate, self._blazepose.allocate
        self._sure, self._least = sure, least

    def fingerprint(self) -> dict[str, Any]:
        pose = self._blazepose.fingerprint()
        return {
            "detector": self.name,
            "version": self.version,
            "weights": file_sha256(self._ssd.path),
            "blazepose": {key: pose[key] for key in ("version", "weights", "detector_weights")},
            "settings": {"sure": self._sure, "least": self._least},
        }

    def follow(self) -> Callable[[np.ndarray, int, WH], list[Person]]:
        # Before the pictures of a video may take all there is: that would be the video's fault.
        for allocate in self._allocate:
            allocate()
        return _Watch(self)

    def find(self, image: np.ndarray, frame: int = 0, size: WH | None = None) -> list[Person]:
        """The persons of an image uint8 [H, W, 3]; boxes in pixels of the image, or of a picture of `size`."""
        return self.follow()(image, frame, size or image.shape[1::-1])

    def seen(self, image: np.ndarray, window: Window) -> list[Seen]:
        """What the SSD sees in a window of an image, best first, without what an edge of the window may have cut."""
        edges = np.array((0, 0, image.shape[1], image.shape[0]))
        inner, near = np.array(window) != edges, 0.02 * (window[3] - window[1])
        scores, boxes = self._ssd(image, window, self._least)
        whole = ~((np.abs(boxes - window) < near) & inner).any(1)
        scored = zip(scores[whole].tolist(), boxes[whole], strict=True)
        return [Seen(as_box(box), score, score >= self._sure) for score, box in scored]

    def bodies(self, image: np.ndarray, grow: float) -> list[Seen]:
        """Whom BlazePose finds and confirms in an image; boxes and joints are made `grow` times as large."""
        return [_confirmed(b, b.score, grow) for b in self._blazepose.body_boxes(image) if b.keypoints.any()]

    def persons(self, image: np.ndarray, bodies: Sequence[Seen], seen: Sequence[Seen]) -> list[Seen]:
        """The persons in an image out of what BlazePose confirms and what the SSD sees, which has the best first."""
        of = pairs(bodies, seen)
        found = [replace(bodies[i], score=max(bodies[i].score, seen[j].score)) for j, i in of.items()]
        confirmed, doubtful = list(found), []
        for j, one in enumerate(seen):
            if j in of:
                continue
            others = [f.box for f in confirmed] + [better.box for better in seen[:j]]
            again = any(same_body(one.box, f.box) for f in confirmed)
            if one.sure and not again and covered(one.box, others) < 0.8:
                found.append(one)
            else:
                doubtful.append(one)
        # A body over others that the SSD sees is made of their parts.
        alone = [bodies[i] for i in range(len(bodies)) if i not in of.values()]
        found += [b for b in alone if not any(max(share(f.box, b.box), share(b.box, f.box)) > 0.5 for f in found)]
        for one in doubtful:
            if one.sure or not any(same_body(one.box, f.box) or share(one.box, f.box) > 0.8 for f in found):
                found.append(self._asked(image, one, found))
        return found

    def _asked(self, image: np.ndarray, one: Seen, found: Sequence[Seen]) -> Seen:
        """One who is not sure: sure, in the box of her landmarks, where the landmark network sees her and no other."""
        x0, y0, x1, y1 = one.box
        region = Region((x0 + x1) / 2, (y0 + y1) / 2, 1.25 * _longer(one.box))
        body = self._blazepose.body_in(image, region, one.score, twice=True)
        asked = replace(one, sure=False) if body is None else _confirmed(body, one.score)
        if not same_body(asked.box, one.box) or any(asked.is_body(f) for f in found):
            return replace(one, sure=False)
        return asked


def _confirmed(body: Body, score: float, grow: float = 1.0) -> Seen:
    joints = body.keypoints * np.array((grow, grow, 1), np.float32)
    return Seen(as_box(np.array(body.box) * grow), score, True, joints)


class _Watch:
    """The looks at one video.

    Beside the whole picture it looks at windows: where somebody was seen who is missed now, and where somebody small
    might be. Those are many at first, a quarter of all while nobody is in view, and else one at every second look. The
    whole picture is left out at these where BlazePose sees the one person who is expected, and nobody else.
    """

    def __init__(self, finder: SSDFinder):
        self._finder = finder
        self._expected: list[tuple[XYXY, int]] = []  # shares of the picture's size, and looks since she was seen
        self._turn = -1

    def __call__(self, image: np.ndarray, frame: int, size: WH) -> list[Person]:
        height, width = image.shape[:2]
        self._turn += 1
        small = _reduced(image)
        shrink, grow = small.shape[1] / width, np.array((size[0] / width, size[1] / height) * 2)
        bodies = self._finder.bodies(small, 1 / shrink)
        expected = [as_box(np.array(box) * ((width, height) * 2)) for box, _ in self._expected]
        whole = [] if self._is_alone(bodies, expected) else self._finder.seen(image, (0, 0, width, height))
        have = [one.box for one in (*bodies, *whole) if one.sure]
        near = [one for w in self._windows((width, height), have, expected) for one in self._finder.seen(image, w)]
        found = self._finder.persons(image, bodies, without_parts(whole, near))
        self._remember([as_box(np.array(one.box) / ((width, height) * 2)) for one in found if one.sure])
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        sharp = [sharpness(grey, as_box(np.array(one.box) * shrink)) for one in found]
        return [
            Person(frame, as_box(np.array(one.box) * grow), one.score, detail, sure=one.sure)
            for one, detail in zip(found, sharp, strict=True)
        ]

    def _is_alone(self, bodies: Sequence[Seen], expected: Sequence[XYXY]) -> bool:
        one = len(bodies) == len(expected) == 1 and _meets(expected[0], [bodies[0].box])
        return one and self._turn % 2 == 1

    def _windows(self, size: WH, have: Sequence[XYXY], expected: Sequence[XYXY]) -> list[Window]:
        every = windows(size)
        if self._turn == 0:
            return windows(size, _TILES[:1]) if have else every
        if not (have or expected):
            return every[self._turn % _SWEEP :: _SWEEP]
        missed = [window_round(box, size) for box in expected if not _meets(box, have)]
        scouts = [every[self._turn // 2 % len(every)]] if self._turn % 2 else []
        return missed[:_MOST] + scouts

    def _remember(self, boxes: Sequence[XYXY]) -> None:
        waited = [(box, looks + 1) for box, looks in self._expected if looks < _FORGOTTEN]
        missed = [(box, looks) for box, looks in waited if not _meets(box, boxes)]
        self._expected = [(box, 0) for box in boxes] + missed


def _reduced(image: np.ndarray) -> np.ndarray:
    scale = _REDUCED / max(image.shape[:2])
    if scale >= 1:
        return image
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _meets(box: XYXY, others: Sequence[XYXY]) -> bool:
    return any(overlap(box, other) > 0.3 for other in others)


def _longer(box: XYXY) -> float:
    return max(box[2] - box[0], box[3] - box[1])


def _area(box: XYXY) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
