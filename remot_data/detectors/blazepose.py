"""BlazePose on LiteRT: finding people, their keypoints and their masks.

Both networks are those of MediaPipe's pose solution (Bazarevsky et al., "BlazePose: On-device Real-time Body
Pose tracking", 2020); anchors, regions of interest, sampling and the refinement by heatmap follow its published
graphs, so that its own results come out. Two things differ on purpose: a person lost by the tracking is looked
for again in the same frame, not in the next one; and where the body moved far since the last frame, as in
videos of few frames a second, the landmarks are computed again in its new place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from remot_data.detectors._boxes import sights
from remot_data.detectors._carrying import OTHER_SIDE, UNKNOWN
from remot_data.detectors._following import (
    LANDMARK_SIZE,
    PRESENCE,
    Company,
    Landmarks,
    Track,
    clip_box,
    moved,
    region_of,
    soft_mask,
    tight_box,
    whole,
)
from remot_data.detectors._hands_face import Followed, HandsFace
from remot_data.detectors._litert import Network, Region, crop, overlaps, sigmoid, weights_file
from remot_data.detectors._second_look import SecondLook
from remot_data.detectors.base import Arrays, DetectorError, file_sha256
from remot_data.records import BOXES, TIMES
from remot_data.schemas import convert_keypoints, keypoint_set

_DETECTOR_SIZE = 224
_HEATMAP_SIZE = 64
_POINTS = 39  # 33 keypoints, then the two that give the next region of interest, then four of the hands
_KERNEL = 7
_USUAL_RATE = 30.0  # frames a second where nobody says when frames are seen
_MODELS = {"full": "blazepose-landmarks", "heavy": "blazepose-heavy"}


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
    def middle(self) -> np.ndarray:
        """Between hips and shoulders."""
        return self.points[[0, 2]].mean(0)

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
        self.network = Network(
            self.path, "person detector", (1, size, size, 3), ((1, count, 12), (1, count, 1)), threads
        )

    def __call__(self, image: np.ndarray, tiles: bool = False) -> list[Detection]:
        """People in an image uint8 [H, W, 3], best score first, overlapping ones merged.

        The network sees the image shrunk to 224 pixels; it is sure of a person who takes up a quarter of the
        longer side. With `tiles`, an image where nobody is found is looked at again through overlapping windows
        of half that side (6 for a 9:16 video), which shows people half as large. Windows are no help where
        somebody was found: they also report parts of bodies.
        """
        found = _merge(*self._raw(image, whole(image)))
        if found or not tiles:
            return found
        parts = [self._raw(image, region) for region in _windows(image)]
        return _merge(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def within(self, image: np.ndarray, region: Region) -> list[Detection]:
        """People in a region of an image, as `__call__`."""
        return _merge(*self._raw(image, region))

    def _raw(self, image: np.ndarray, region: Region) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores [N], face boxes [N, 4] and points [N, 4, 2] in image pixels, before merging."""
        picture = crop(image, region, _DETECTOR_SIZE, cv2.BORDER_CONSTANT)
        values, logits = self.network(picture.astype(np.float32) * np.float32(2 / 255) - 1)
        scores = sigmoid(logits[:, 0])
        kept = np.flatnonzero(scores >= self.threshold)
        values = values[kept].reshape(-1, 6, 2) / _DETECTOR_SIZE
        values[:, [0, 2, 3, 4, 5]] += anchors()[kept][:, None]
        points = values * region.side
        points[:, [0, 2, 3, 4, 5]] += (region.x - region.side / 2, region.y - region.side / 2)
        boxes = np.concatenate([points[:, 0] - points[:, 1] / 2, points[:, 0] + points[:, 1] / 2], 1)
        return scores[kept], boxes, points[:, 2:]


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

    def __init__(self, weights: str | Path | None = None, threads: int = 1, asset: str = _MODELS["full"]):
        self.path = weights_file(weights, asset)
        size, cells = LANDMARK_SIZE, _HEATMAP_SIZE
        outputs = ((1, _POINTS * 5), (1, 1), (1, size, size, 1), (1, cells, cells, _POINTS))
        self.network = Network(self.path, "landmark network", (1, size, size, 3), outputs, threads)

    def __call__(self, image: np.ndarray, region: Region, mirrored: bool = False) -> Landmarks:
        """Landmarks of the person in a region of an image uint8 [H, W, 3].

        With `mirrored`, the network sees the mirrored picture of the region, and what it finds is mirrored back.
        """
        picture = crop(image, region, LANDMARK_SIZE, cv2.BORDER_REPLICATE)
        if mirrored:
            picture = picture[:, ::-1]
        values, presence, mask, heatmaps = self.network(picture * np.float32(1 / 255))
        values = values.reshape(_POINTS, 5)
        placed = refine(values[:, :2] / LANDMARK_SIZE, heatmaps) * LANDMARK_SIZE
        if mirrored:
            placed[:, 0], mask = LANDMARK_SIZE - 1 - placed[:, 0], mask[:, ::-1]
            placed[:33], values[:33] = placed[OTHER_SIDE], values[OTHER_SIDE]
        points = region.to_image(placed, LANDMARK_SIZE)
        points = np.concatenate([points, sigmoid(values[:, 3:])], 1).astype(np.float32)
        return Landmarks(points, float(presence[0]), mask[..., 0], region)


def body25(points: np.ndarray, size: tuple[int, int], threshold: float) -> np.ndarray:
    """BODY_25 keypoints float32 [25, 3] of landmarks; those outside the image or below the threshold are 0."""
    keypoints = np.concatenate([points[:33, :2], points[:33, 2:].min(1, keepdims=True)], 1)
    inside = ((keypoints[:, :2] >= 0) & (keypoints[:, :2] < size[::-1])).all(1)
    keypoints[~inside | (keypoints[:, 2] < threshold)] = 0
    return convert_keypoints(keypoints, "blazepose33", "body25")


class BlazePose:
    """BlazePose (full model) as a pose detector: BODY_25 keypoints and a soft person mask for every frame.

    Frames are looked at one after the other, the region of interest carried along, filtered as MediaPipe does. Frames
    that are doubtful then (`_doubts`) are looked at again, backward in time and in the mirrored picture, and for
    shoulders and hips, arms, and legs what moves least is taken, also with left and right exchanged (`_carrying`). A
    joint that the network is unsure of is kept where it moves little from a frame in which it is sure; a single joint
    that is lost for at most 0.2 s is filled in. What was changed is marked. No place is smoothed.

    A frame where nobody is found has keypoints and mask of zeros. The confidence of a keypoint is the smaller of its
    visibility and its presence in the frame.

    Args:
        weights: a ``pose_landmark_full.tflite``; the asset ``blazepose-landmarks``, or that of `model`, if not given.
        detector_weights: a ``pose_detection.tflite``; the asset ``blazepose-detector`` if not given.
        threads: CPU threads of LiteRT.
        threshold: keypoints of smaller confidence are stored as not seen, unless they are carried over.
        smooth: pass the keypoints through MediaPipe's one-euro filter, at 30 frames a second.
        carry: carry joints over time, as said above. False: the landmarks of each frame on its own, as this detector
            gave them before it had the setting. By default, unless `smooth`.
        model: ``full``, or ``heavy`` for a landmark network that takes three times as long.
        hands_face: find 21 points of each hand and 70 of the face besides, as OpenPose names them (``openpose137``).
            Of hands of a dozen pixels, as in frames of 256 x 192, a third is missed: read the source videos.
    """

    name = "blazepose"
    kind = "pose"
    version = "1"
    needs: tuple[str, ...] = (BOXES, TIMES)
    licence = "Apache-2.0"
    approximate = False
    before: ClassVar[Mapping[str, Any]] = {"carry": False, "model": "full"}

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        detector_weights: str | Path | None = None,
        threads: int = 1,
        threshold: float = 0.3,
        smooth: bool = False,
        hands_face: bool = False,
        carry: bool | None = None,
        model: str = "full",
    ):
        if model not in _MODELS:
            raise DetectorError(f"blazepose has no model {model!r}; its models are {', '.join(_MODELS)}")
        if carry and smooth:
            raise DetectorError("blazepose: smooth is for joints of each frame on its own; give it with carry=false")
        self._carry = not smooth if carry is None else carry
        self._landmarks = LandmarkNetwork(weights, threads, _MODELS[model])
        self._detector = PersonDetector(detector_weights, threads)
        self._settings: dict[str, Any] = {"threads": threads, "threshold": threshold, "smooth": smooth}
        later: dict[str, Any] = {"carry": self._carry, "model": model}
        self._settings |= {name: value for name, value in later.items() if value != self.before[name]}
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
        """`keypoints` float32 [T, 25 or 137, 3] and `mask` uint8 [T, H, W] of one person in uint8 [T, H, W, 3].

        Given `boxes`, the person is that of the own box, and in frames in which the body that is found is not that
        person's, all are zeros. Where somebody else's box reaches into a frame, there is `others`, too. Where joints
        are carried over time, there is `checks` uint8 [T, 2, 25 or 137], as the pose layer has it; without `times`,
        frames are taken for 1/30 s apart.
        """
        count, size = len(frames), frames.shape[1:3]
        mask = np.zeros((count, *size), np.uint8)
        track = self.track(self._smooth)
        known = list(sights(needed[BOXES], size)) if BOXES in needed else [None] * count
        company = Company(self.track, needed[BOXES], size) if BOXES in needed else None
        seen: list[Landmarks | None] = []
        for t, frame in enumerate(frames):
            found = track(frame, known[t])
            if found is not None:
                mask[t] = soft_mask(found, size)
            if company is not None:
                company.see(t, frame, found)
            seen.append(found and found.placed)
        more: Arrays = {"others": company.mask} if company is not None and company.seen.any() else {}
        if not self._carry:
            return {"keypoints": self._keypoints(frames, seen), "mask": mask, **more}
        times = needed[TIMES][TIMES] if TIMES in needed else np.arange(count) / _USUAL_RATE
        carried = SecondLook(self.track, self._landmarks, frames, known, times)(seen, mask, self._threshold)
        checks = np.zeros((count, 2, len(keypoint_set(self.schema))), np.uint8)
        checks[:, 1] = UNKNOWN
        checks[..., :25] = carried.checks
        return {"keypoints": self._keypoints(frames, carried.seen, 1e-9), "mask": mask, **more, "checks": checks}

    def _keypoints(
        self, frames: np.ndarray, seen: Sequence[Landmarks | None], threshold: float | None = None
    ) -> np.ndarray:
        """Keypoints float32 [T, 25 or 137, 3] of landmarks, with hands and face where these are asked for."""
        keypoints = np.zeros((len(frames), len(keypoint_set(self.schema)), 3), np.float32)
        parts = Followed(self._hands_face) if self._hands_face else None
        for t, (frame, found) in enumerate(zip(frames, seen, strict=True)):
            if found is not None:
                keypoints[t, :25] = body25(
                    found.points, frame.shape[:2], self._threshold if threshold is None else threshold
                )
            if parts is not None:
                keypoints[t, 25:] = parts(frame, found.points if found is not None else None)
        return keypoints

    def track(self, smooth: bool = False) -> Track:
        """Follows one person through the frames of a clip."""
        return Track(self._landmarks, self._detector, smooth)

    def allocate(self) -> None:
        """Take the memory of both networks; `DeviceError` where it cannot be had."""
        self._detector.network.allocate()
        self._landmarks.network.allocate()

    def body_boxes(self, image: np.ndarray, tiles: bool = False) -> list[Body]:
        """Everybody in an image uint8 [H, W, 3], best score first, with tight boxes to crop by.

        Where the landmark network denies the person that the detector saw (people who stand close together,
        or are seen in part), the keypoints are zeros and the box is that of the detector, inside the image.
        """
        bodies: list[Body] = []
        for detection in self._detector(image, tiles):
            body = self.body_in(image, detection.region, detection.score)
            if body is None:
                body = Body(clip_box(detection.box, image.shape[:2]), detection.score, np.zeros((25, 3), np.float32))
            if not any(same_body(body.box, other.box) for other in bodies):
                bodies.append(body)
        return bodies

    def body_in(self, image: np.ndarray, region: Region, score: float, twice: bool = False) -> Body | None:
        """The person in a region of an image uint8 [H, W, 3]; None where the landmark network denies that there is one.

        With `twice`, it looks again where the body turns out to lie quite elsewhere.
        """
        size = image.shape[:2]
        found = self._landmarks(image, region)
        if twice and found.presence >= PRESENCE and moved(region, better := region_of(*found.points[33:35, :2])):
            found = self._landmarks(image, better)
        if found.presence < PRESENCE:
            return None
        return Body(tight_box(found, size), score, body25(found.points, size, self._threshold))
