"""BlazePose on LiteRT: finding people, their keypoints and their masks.

Both networks are those of MediaPipe's pose solution (Bazarevsky et al., "BlazePose: On-device Real-time Body
Pose tracking", 2020); anchors, regions of interest, sampling and the refinement by heatmap follow its published
graphs, so that its own results come out. Two things differ on purpose: a person lost by the tracking is looked
for again in the same frame, not in the next one; and where the body moved far since the last frame, as in
videos of few frames a second, the landmarks are computed again in its new place.
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

from remot_data.detectors._hands_face import Followed, HandsFace
from remot_data.detectors._litert import Network, Region, crop, overlaps, sigmoid, turned, weights_file
from remot_data.detectors.base import Arrays, file_sha256
from remot_data.persons import Person, as_box, sharpness
from remot_data.records import WH
from remot_data.schemas import convert_keypoints, keypoint_set

_DETECTOR_SIZE = 224
_LANDMARK_SIZE = 256
_HEATMAP_SIZE = 64
_POINTS = 39  # 33 keypoints, then the two that give the next region of interest, then four of the hands
_MARGIN = 1.25  # of a region of interest round the circle through the body
_PRESENCE = 0.5
_KERNEL = 7
_PERIOD = 1 / 30  # seconds between frames for the filters, as MediaPipe assumes for a video


def region_of(centre: np.ndarray, scale_point: np.ndarray) -> Region:
    """The region round a body whose hips are at `centre` and whose enclosing circle passes `scale_point`."""
    reach = math.hypot(float(scale_point[0] - centre[0]), float(scale_point[1] - centre[1]))
    return Region(float(centre[0]), float(centre[1]), max(2 * reach * _MARGIN, 1.0), turned(centre, scale_point))


@dataclass(frozen=True)
class Detection:
    """A person found by the detector network.

    `points` are float32 [4, 2] in pixels: middle of the hips, a point of the circle round the whole body,
    middle of the shoulders, a point of the circle round the upper body.
    """

    score: float
    points: np.ndarray

    @property
    def region(self) -> Region:
        return region_of(self.points[0], self.points[1])

    @property
    def radius(self) -> float:
        return math.hypot(*(self.points[1] - self.points[0]))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 of the circle round the body: coarse, and it may reach outside the image."""
        (x, y), r = self.points[0], self.radius
        return float(x - r), float(y - r), float(x + r), float(y + r)


@dataclass(frozen=True)
class Body:
    """A person with keypoints: a tight box x0, y0, x1, y1 inside the image, a score, keypoints float32 [25, 3]."""

    box: tuple[float, float, float, float]
    score: float
    keypoints: np.ndarray


@dataclass(frozen=True)
class Landmarks:
    """Output of the landmark network in image pixels: float32 [39, 4] of x, y, visibility, presence."""

    points: np.ndarray
    presence: float
    logits: np.ndarray
    region: Region


@lru_cache
def anchors() -> np.ndarray:
    """Centres float32 [2254, 2] of the detector's anchors in units of its input; their size is always 1."""
    cells = []
    for stride, count in ((8, 2), (16, 2), (32, 6)):
        n = _DETECTOR_SIZE // stride
        y, x = np.mgrid[:n, :n]
        cells.append(np.repeat((np.stack([x, y], -1).reshape(-1, 2) + 0.5) / n, count, axis=0))
    return np.concatenate(cells).astype(np.float32)


def refine(points: np.ndarray, heatmaps: np.ndarray) -> np.ndarray:
    """Points float32 [K, 2] in 0..1 moved to the centre of mass of their heatmap round them.

    The window has 7 x 7 cells, cut at the border; a point moves only where the largest sigmoid in the window
    reaches 0.5 and stays where its cell is outside. `heatmaps` are logits float32 [h, w, K].
    """
    h, w, count = heatmaps.shape
    cells = (points * (w, h)).astype(np.int64)  # truncation towards zero, as in C
    inside = (cells >= 0).all(1) & (cells[:, 0] < w) & (cells[:, 1] < h)
    reach = np.arange(_KERNEL) - _KERNEL // 2
    xs, ys = cells[:, :1] + reach, cells[:, 1:] + reach
    valid = ((ys >= 0) & (ys < h))[:, :, None] & ((xs >= 0) & (xs < w))[:, None, :]
    window = heatmaps[ys.clip(0, h - 1)[:, :, None], xs.clip(0, w - 1)[:, None, :], np.arange(count)[:, None, None]]
    weight = sigmoid(window) * valid
    total = weight.sum((1, 2))
    moves = inside & (weight.max((1, 2)) >= 0.5)
    safe = np.where(total > 0, total, 1)
    x = (weight.sum(1) * xs).sum(1) / safe / w
    y = (weight.sum(2) * ys).sum(1) / safe / h
    return np.where(moves[:, None], np.stack([x, y], -1), points).astype(np.float32)


class OneEuro:
    """One-euro filter of Casiez et al. (CHI 2012) for points float [K, 2] at a fixed rate.

    Speeds are measured in units of the object's size a second, as MediaPipe does.
    """

    def __init__(self, min_cutoff: float, beta: float, derivative_cutoff: float = 1.0):
        self._min_cutoff, self._beta, self._derivative_cutoff = min_cutoff, beta, derivative_cutoff
        self._raw: np.ndarray | None = None

    @staticmethod
    def _alpha(cutoff: Any) -> Any:
        return 1 / (1 + 1 / (2 * math.pi * cutoff * _PERIOD))

    def __call__(self, points: np.ndarray, size: float) -> np.ndarray:
        points = points.astype(np.float64)
        if self._raw is None:
            self._speed, self._value = np.zeros_like(points), points
        else:
            speed = (points - self._raw) / size / _PERIOD
            a = self._alpha(self._derivative_cutoff)
            self._speed = a * speed + (1 - a) * self._speed
            a = self._alpha(self._min_cutoff + self._beta * np.abs(self._speed))
            self._value = a * points + (1 - a) * self._value
        self._raw = points
        return self._value


class PersonDetector:
    """The detector network: where people are in an image.

    Args:
        weights: a ``pose_detection.tflite``; the asset ``blazepose-detector`` if not given.
        threads: CPU threads of LiteRT.
        threshold: smallest score of a detection.
    """

    def __init__(self, weights: str | Path | None = None, threads: int = 1, threshold: float = 0.5):
        self.path = weights_file(weights, "blazepose-detector")
        self.threshold = threshold
        size, count = _DETECTOR_SIZE, len(anchors())
        self._network = Network(
            self.path, "person detector", (1, size, size, 3), ((1, count, 12), (1, count, 1)), threads
        )

    def __call__(self, image: np.ndarray, tiles: bool = False) -> list[Detection]:
        """People in an image uint8 [H, W, 3], best score first, overlapping ones merged.

        The network sees the image shrunk to 224 pixels; it is sure of a person who takes up a quarter of the
        longer side. With `tiles`, an image where nobody is found is looked at again through overlapping windows
        of half that side (6 for a 9:16 video), which shows people half as large. Windows are no help where
        somebody was found: they also report parts of bodies.
        """
        found = _merge(*self._raw(image, _whole(image)))
        if found or not tiles:
            return found
        parts = [self._raw(image, region) for region in _windows(image)]
        return _merge(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _raw(self, image: np.ndarray, region: Region) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores [N], face boxes [N, 4] and points [N, 4, 2] in image pixels, before merging."""
        picture = crop(image, region, _DETECTOR_SIZE, cv2.BORDER_CONSTANT)
        values, logits = self._network(picture.astype(np.float32) * np.float32(2 / 255) - 1)
        scores = sigmoid(logits[:, 0])
        kept = np.flatnonzero(scores >= self.threshold)
        values = values[kept].reshape(-1, 6, 2) / _DETECTOR_SIZE
        values[:, [0, 2, 3, 4, 5]] += anchors()[kept][:, None]
        points = values * region.side
        points[:, [0, 2, 3, 4, 5]] += (region.x - region.side / 2, region.y - region.side / 2)
        boxes = np.concatenate([points[:, 0] - points[:, 1] / 2, points[:, 0] + points[:, 1] / 2], 1)
        return scores[kept], boxes, points[:, 2:]


def _whole(image: np.ndarray) -> Region:
    h, w = image.shape[:2]
    return Region(w / 2, h / 2, max(h, w))


def _windows(image: np.ndarray) -> list[Region]:
    """Square windows of half the longer side, half overlapping, that cover the image."""
    h, w = image.shape[:2]
    side = max(h, w) / 2

    def starts(length: int) -> np.ndarray:
        return np.linspace(0, max(length - side, 0), math.ceil(max(length - side, 0) / (side / 2)) + 1)

    return [Region(x + side / 2, y + side / 2, side) for y in starts(h) for x in starts(w)]


def _merge(scores: np.ndarray, boxes: np.ndarray, points: np.ndarray) -> list[Detection]:
    """Weighted non-maximum suppression: face boxes that overlap by 0.3 become one detection with mean points.

    A body found twice with two faces keeps the better one.
    """
    left = np.argsort(-scores, kind="stable")
    out: list[Detection] = []
    while len(left):
        near = overlaps(boxes[left[0]], boxes[left]) > 0.3
        near[0] = True
        weight = scores[left[near]]
        mean = (points[left[near]] * weight[:, None, None]).sum(0) / weight.sum()
        person = Detection(float(scores[left[0]]), mean.astype(np.float32))
        if not any(_same_person(person, other) for other in out):
            out.append(person)
        left = left[~near]
    return out


def _same_person(a: Detection, b: Detection) -> bool:
    """Whether hips and shoulders of two detections lie close together for the size of the larger body."""
    distance = np.hypot(*(a.points[[0, 2]] - b.points[[0, 2]]).T).mean()
    return bool(distance < 0.3 * max(a.radius, b.radius))


def same_body(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two boxes are of one person: they overlap well, or one of like size lies within the other."""
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    overlap = float(overlaps(np.array(a), np.array([b]))[0])
    within = overlap * sum(areas) / (1 + overlap) / max(min(areas), 1e-9)
    return overlap > 0.5 or (within > 0.85 and min(areas) > 0.35 * max(areas))


class LandmarkNetwork:
    """The landmark network: 39 points, presence and person mask inside a region of interest."""

    def __init__(self, weights: str | Path | None = None, threads: int = 1):
        self.path = weights_file(weights, "blazepose-landmarks")
        size, cells = _LANDMARK_SIZE, _HEATMAP_SIZE
        outputs = ((1, _POINTS * 5), (1, 1), (1, size, size, 1), (1, cells, cells, _POINTS))
        self._network = Network(self.path, "landmark network", (1, size, size, 3), outputs, threads)

    def __call__(self, image: np.ndarray, region: Region) -> Landmarks:
        """Landmarks of the person in a region of an image uint8 [H, W, 3]."""
        picture = crop(image, region, _LANDMARK_SIZE, cv2.BORDER_REPLICATE)
        values, presence, mask, heatmaps = self._network(picture * np.float32(1 / 255))
        values = values.reshape(_POINTS, 5)
        placed = refine(values[:, :2] / _LANDMARK_SIZE, heatmaps) * _LANDMARK_SIZE
        points = region.to_image(placed, _LANDMARK_SIZE)
        points = np.concatenate([points, sigmoid(values[:, 3:])], 1).astype(np.float32)
        return Landmarks(points, float(presence[0]), mask[..., 0], region)


def _soft_mask(found: Landmarks, size: tuple[int, int]) -> np.ndarray:
    """The person mask uint8 [H, W] in the image, 0 outside the region."""
    matrix = found.region.to_tensor(_LANDMARK_SIZE)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    logits = cv2.warpAffine(found.logits, matrix, size[::-1], flags=flags, borderValue=-80.0)
    return np.rint(255 * sigmoid(logits)).astype(np.uint8)


def _body25(points: np.ndarray, size: tuple[int, int], threshold: float) -> np.ndarray:
    """BODY_25 keypoints float32 [25, 3] of landmarks; those outside the image or below the threshold are 0."""
    keypoints = np.concatenate([points[:33, :2], points[:33, 2:].min(1, keepdims=True)], 1)
    inside = ((keypoints[:, :2] >= 0) & (keypoints[:, :2] < size[::-1])).all(1)
    keypoints[~inside | (keypoints[:, 2] < threshold)] = 0
    return convert_keypoints(keypoints, "blazepose33", "body25")


class BlazePose:
    """BlazePose (full model) as a pose detector: BODY_25 keypoints and a soft person mask for every frame.

    What is stored is raw: the landmarks of each frame on its own. Only the region of interest is carried from
    frame to frame, filtered as MediaPipe does. A frame where nobody is found has keypoints and mask of zeros.
    The confidence of a keypoint is the smaller of its visibility and its presence in the frame.

    Args:
        weights: a ``pose_landmark_full.tflite``; the asset ``blazepose-landmarks`` if not given.
        detector_weights: a ``pose_detection.tflite``; the asset ``blazepose-detector`` if not given.
        threads: CPU threads of LiteRT.
        threshold: keypoints of smaller confidence are stored as not seen.
        smooth: pass the keypoints through MediaPipe's one-euro filter, at 30 frames a second.
        hands_face: find 21 points of each hand and 70 of the face besides, as OpenPose names them (``openpose137``).
            Of hands of a dozen pixels, as in frames of 256 x 192, a third is missed: read the source videos.
    """

    name = "blazepose"
    kind = "pose"
    version = "1"
    needs: tuple[str, ...] = ()
    licence = "Apache-2.0"
    approximate = False

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        detector_weights: str | Path | None = None,
        threads: int = 1,
        threshold: float = 0.3,
        smooth: bool = False,
        hands_face: bool = False,
    ):
        self._landmarks = LandmarkNetwork(weights, threads)
        self._detector = PersonDetector(detector_weights, threads)
        self._settings = {"threads": threads, "threshold": threshold, "smooth": smooth}
        self._threshold, self._smooth = threshold, smooth
        self._hands_face = HandsFace(threads) if hands_face else None
        self.schema = "openpose137" if hands_face else "body25"

    def fingerprint(self) -> dict[str, Any]:
        more = {"hands_face": self._hands_face.fingerprint()} if self._hands_face else {}
        return {
            **more,
            "detector": self.name,
            "version": self.version,
            "weights": file_sha256(self._landmarks.path),
            "detector_weights": file_sha256(self._detector.path),
            "settings": self._settings,
        }

    def __call__(self, frames: np.ndarray, **needed: Arrays) -> Arrays:
        """`keypoints` float32 [T, 25 or 137, 3] and `mask` uint8 [T, H, W] of one person in uint8 [T, H, W, 3]."""
        count, size = len(frames), frames.shape[1:3]
        keypoints = np.zeros((count, len(keypoint_set(self.schema)), 3), np.float32)
        mask = np.zeros((count, *size), np.uint8)
        track = _Track(self._landmarks, self._detector, self._smooth)
        parts = Followed(self._hands_face) if self._hands_face else None
        for t, frame in enumerate(frames):
            found = track(frame)
            if found is not None:
                keypoints[t, :25] = _body25(found.points, size, self._threshold)
                mask[t] = _soft_mask(found, size)
            if parts is not None:
                keypoints[t, 25:] = parts(frame, found.points if found is not None else None)
        return {"keypoints": keypoints, "mask": mask}

    def body_boxes(self, image: np.ndarray, tiles: bool = False) -> list[Body]:
        """Everybody in an image uint8 [H, W, 3], best score first, with tight boxes to crop by.

        Where the landmark network denies the person that the detector saw (people who stand close together,
        or are seen in part), the keypoints are zeros and the box is that of the detector, inside the image.
        """
        bodies: list[Body] = []
        for detection in self._detector(image, tiles):
            body = self.body_in(image, detection.region, detection.score)
            if body is None:
                body = Body(_clip(detection.box, image.shape[:2]), detection.score, np.zeros((25, 3), np.float32))
            if not any(same_body(body.box, other.box) for other in bodies):
                bodies.append(body)
        return bodies

    def body_in(self, image: np.ndarray, region: Region, score: float, twice: bool = False) -> Body | None:
        """The person in a region of an image uint8 [H, W, 3]; None where the landmark network denies that there is one.

        With `twice`, it looks again where the body turns out to lie quite elsewhere.
        """
        size = image.shape[:2]
        found = self._landmarks(image, region)
        if twice and found.presence >= _PRESENCE and _moved(region, better := region_of(*found.points[33:35, :2])):
            found = self._landmarks(image, better)
        if found.presence < _PRESENCE:
            return None
        return Body(_tight_box(found, size), score, _body25(found.points, size, self._threshold))


class BlazePoseFinder:
    """Finds persons in pictures of 640 pixels with BlazePose alone: one well, a second one seldom."""

    name = "blazepose"
    longest = 640

    def __init__(self) -> None:
        self._pose = BlazePose()
        self.fingerprint = self._pose.fingerprint

    def follow(self) -> Callable[[np.ndarray, int, WH], list[Person]]:
        return self.find

    def find(self, image: np.ndarray, frame: int = 0, size: WH | None = None) -> list[Person]:
        """The persons of an image uint8 [H, W, 3]; boxes in pixels of the image, or of a picture of `size`."""
        width, height = size or image.shape[1::-1]
        grow = np.array([width / image.shape[1], height / image.shape[0]] * 2)
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        bodies = self._pose.body_boxes(image, tiles=True)
        return [Person(frame, as_box(np.array(b.box) * grow), b.score, sharpness(grey, as_box(b.box))) for b in bodies]


class _Track:
    """One person followed through consecutive frames."""

    def __init__(self, landmarks: LandmarkNetwork, detector: PersonDetector, smooth: bool):
        self._landmarks, self._detector, self._smooth = landmarks, detector, smooth
        self._region: Region | None = None

    def __call__(self, frame: np.ndarray) -> Landmarks | None:
        """Landmarks of the person in the next frame, None where nobody is found."""
        found = self._look(frame, self._region) if self._region is not None else None
        if found is None:
            self._restart()
            found = self._look(frame, self._search(frame))
        if found is None:
            self._region = None
            return None
        return self._follow(found)

    def _restart(self) -> None:
        self._aux = OneEuro(0.01, 10.0)
        self._points = OneEuro(0.05, 80.0)

    def _look(self, frame: np.ndarray, region: Region) -> Landmarks | None:
        """Landmarks in a region, looked at twice where the body turns out to lie quite elsewhere."""
        found = self._landmarks(frame, region)
        if found.presence >= _PRESENCE and _moved(region, better := region_of(*found.points[33:35, :2])):
            self._restart()
            found = self._landmarks(frame, better)
        return found if found.presence >= _PRESENCE else None

    def _search(self, frame: np.ndarray) -> Region:
        """Where to look for the person of a crop: the largest and most central, or else the crop itself."""
        middle = np.array(frame.shape[1::-1]) / 2
        people = self._detector(frame)
        if not people:
            return _whole(frame)
        return max(people, key=lambda p: p.radius - math.hypot(*(p.points[0] - middle))).region

    def _follow(self, found: Landmarks) -> Landmarks:
        size = 2 * math.hypot(*(found.points[34, :2] - found.points[33, :2]))
        centre, scale_point = self._aux(found.points[33:35, :2], max(size, 1e-6))
        self._region = region_of(centre, scale_point)
        if self._smooth:
            points = found.points.copy()
            points[:, :2] = self._points(points[:, :2], max(size, 1e-6))
            found = replace(found, points=points)
        return found


def _moved(a: Region, b: Region) -> bool:
    """Whether a body whose own region is b sticks out of region a, or is lost in it."""
    shift = max(abs(b.x - a.x), abs(b.y - a.y))
    return shift + b.side / _MARGIN / 2 > a.side / 2 or b.side < a.side / 2


def _tight_box(found: Landmarks, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Box of the landmarks inside the image, with room for the crown of the head and the outline of the limbs."""
    inside = found.points[:33][found.points[:33, 3] >= 0.5, :2]
    points = inside if len(inside) else found.points[:33, :2]
    low, high = points.min(0), points.max(0)
    room = 0.04 * (high - low).max()
    crown = 2 * room if found.points[0, 3] >= 0.5 else room
    return _clip((*(low - (room, crown)), *(high + room)), size)


def _clip(box: tuple[float, ...], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box inside an image of height and width `size`."""
    x0, y0, x1, y1 = (float(v) for v in box)
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(size[1])), min(y1, float(size[0]))
