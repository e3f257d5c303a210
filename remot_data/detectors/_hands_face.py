"""Hands and face of a person whose pose is known, by the networks of MediaPipe's holistic solution on LiteRT.

Where to look follows its published graphs, so that its own results come out: for a hand the landmarks of the pose
round the wrist, corrected by a network that sees that place; for a face those of the head, corrected by a face
detector. What was found in the frame before is followed as long as it lies where the pose says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from remot_data import assets
from remot_data.detectors._litert import Network, Region, crop, overlaps, sigmoid, turned
from remot_data.detectors.base import file_sha256

ASSETS = ("hand-recrop", "hand-landmarks", "face-detector", "face-landmarks")

# Landmarks of the pose: wrist, knuckle of the small finger, of the index finger; those of the head; the eyes.
_HANDS = {"left": (15, 17, 19), "right": (16, 18, 20)}
_HEAD, _RIGHT_EYE, _LEFT_EYE = slice(11), 5, 2
_WRIST_VISIBLE = 0.1
_PRESENCE = 0.5
_TOGETHER = 0.35  # of a hand's size: mean distance below which two hands are one that was found twice

# Landmarks of a hand without the finger tips and the joints next to them, which move too much to place it by.
_PALM = (0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18)

# The points of the face mesh that stand for the 68 of iBUG.
_IBUG = (
    *(127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356),  # jaw, from the right ear
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),  # brows
    *(168, 197, 5, 1, 98, 97, 2, 326, 327),  # nose: bridge, then nostrils
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),  # eyes
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),  # lips: outline
    *(78, 82, 13, 312, 308, 317, 14, 87),  # lips: opening
)
_MESH_EYES = 33, 263
_EYES_70 = slice(36, 42), slice(42, 48)


@dataclass(frozen=True)
class Found:
    """A hand or a face: all landmarks of its network, float64 [N, 2] in image pixels, and how sure it is of it.

    `right` is how sure the network is that a hand is a right one.
    """

    points: np.ndarray
    presence: float
    right: float = 0.5


@dataclass(frozen=True)
class _Nearness:
    """How far what was found in the frame before may lie from where it is now looked for.

    Rotation in radians, shift and change of size as shares of the new region's side; all its landmarks must lie
    in the new region, made larger by `room`.
    """

    rotation: float
    shift: float
    scale: float
    room: float

    def holds(self, old: Region, points: np.ndarray, new: Region) -> bool:
        upright = new.to_tensor(1)[:, :2] * new.side  # turned so that the new region is
        away = np.abs(upright @ (old.x - new.x, old.y - new.y))
        spread = np.abs((points - (new.x, new.y)) @ upright.T)
        return bool(
            abs(math.remainder(old.rotation - new.rotation, 2 * math.pi)) <= self.rotation
            and away.max() <= self.shift * new.side
            and abs(old.side - new.side) <= self.scale * new.side
            and spread.max() < new.side * (1 + self.room) / 2
        )


_HAND_NEAR = _Nearness(math.radians(40), 0.2, 0.4, -0.1)
_FACE_NEAR = _Nearness(math.radians(15), 0.1, 0.3, -0.2)


class HandsFace:
    """The four networks; `threads` are the CPU threads of each."""

    def __init__(self, threads: int = 1):
        self._paths = assets.fetch_all(ASSETS)

        def network(asset: str, what: str, size: int, *outputs: tuple[int, ...]) -> Network:
            return Network(self._paths[asset], what, (1, size, size, 3), outputs, threads)

        self._recrop = network("hand-recrop", "hand re-crop network", 256, (1, 1, 1, 4))
        self._hand = network("hand-landmarks", "hand landmark network", 224, (1, 63), (1, 1), (1, 1))
        self._detector = network("face-detector", "face detector", 128, (1, 896, 16), (1, 896, 1))
        self._mesh = network("face-landmarks", "face landmark network", 192, (1, 1, 1, 1404), (1, 1, 1, 1))

    def fingerprint(self) -> dict[str, str]:
        """sha256 of each weights file."""
        return {name: file_sha256(path) for name, path in self._paths.items()}

    def hand(self, image: np.ndarray, pose: np.ndarray, side: str, last: Found | None) -> Found | None:
        """A hand in an image uint8 [H, W, 3], None where there is none.

        Args:
            pose: the landmarks of BlazePose, float32 [39, 4]: x, y, visibility, presence.
            side: ``left`` or ``right``, of the person.
            last: that hand in the frame before.
        """
        wrist, little, index = pose[list(_HANDS[side])]
        if wrist[2] <= _WRIST_VISIBLE:
            return None
        looked = hand_region(wrist[:2], little[:2], index[:2])
        values = self._recrop(crop(image, looked, 256, cv2.BORDER_REPLICATE) * np.float32(1 / 255))[0]
        centre, border = looked.to_image(values.reshape(2, 2), 256)
        size = 2 * math.hypot(*(border - centre))
        fresh = _around(centre, (size, size), turned(centre, border, -math.pi / 2), 1.0, -0.1)
        region = _followed(last, fresh, palm_region, _HAND_NEAR)
        picture = crop(image, region, 224, cv2.BORDER_REPLICATE) * np.float32(1 / 255)
        values, presence, right = self._hand(picture)
        if not presence[0] > _PRESENCE:
            return None
        return Found(region.to_image(values.reshape(21, 3)[:, :2], 224), float(presence[0]), float(right[0]))

    def face(self, image: np.ndarray, pose: np.ndarray, last: Found | None) -> Found | None:
        """The face mesh of 468 points in an image, None where no face is seen; arguments as for `hand`."""
        head = pose[_HEAD, :2]
        looked = _box_region(head, turned(head[_RIGHT_EYE], head[_LEFT_EYE], 0.0), 3.0)
        seen = self._detect_face(image, looked)
        if seen is None:
            return None
        fresh = _box_region(seen, turned(seen[0], seen[1], 0.0), 2.0, -0.1)
        region = _followed(last, fresh, mesh_region, _FACE_NEAR)
        picture = crop(image, region, 192, cv2.BORDER_REPLICATE) * np.float32(1 / 255)
        values, logit = (output.ravel() for output in self._mesh(picture))
        presence = float(sigmoid(logit)[0])
        if not presence > _PRESENCE:
            return None
        return Found(region.to_image(values.reshape(468, 3)[:, :2], 192), presence)

    def _detect_face(self, image: np.ndarray, region: Region) -> np.ndarray | None:
        """The surest face in a region as six points [6, 2] in image pixels: eyes, nose, mouth, ears."""
        picture = crop(image, region, 128, cv2.BORDER_CONSTANT).astype(np.float32)
        values, logits = self._detector(picture * np.float32(2 / 255) - 1)
        scores = sigmoid(logits[:, 0])
        kept = np.flatnonzero(scores >= _PRESENCE)
        if not len(kept):
            return None
        values, scores = values[kept].reshape(-1, 8, 2), scores[kept]
        values[:, [0, 2, 3, 4, 5, 6, 7]] += _face_anchors()[kept][:, None] * 128
        boxes = np.concatenate([values[:, 0] - values[:, 1] / 2, values[:, 0] + values[:, 1] / 2], 1)
        best = int(scores.argmax())
        weight = scores * (overlaps(boxes[best], boxes) > 0.3)
        return region.to_image((values[:, 2:] * weight[:, None, None]).sum(0) / weight.sum(), 128)


class Followed:
    """Hands and face of one person through consecutive frames of a clip."""

    def __init__(self, networks: HandsFace):
        self._networks = networks
        self._last: dict[str, Found | None] = {}

    def __call__(self, image: np.ndarray, pose: np.ndarray | None) -> np.ndarray:
        """Keypoints float32 [112, 3] of the next frame: left hand, right hand, face, as `openpose137` has them.

        The confidence is that of the whole hand or face; what is not there, and points outside the image, are 0.
        `pose` is None in a frame where the person was not found.
        """
        keypoints = np.zeros((2 * 21 + 70, 3), np.float32)
        if pose is None:
            self._last = {}
            return keypoints
        left, right = (self._networks.hand(image, pose, side, self._last.get(side)) for side in _HANDS)
        left, right = without_double(left, right)
        face = self._networks.face(image, pose, self._last.get("face"))
        self._last = {"left": left, "right": right, "face": face}
        for first, found in ((0, left), (21, right), (42, face)):
            if found is not None:
                points = face70(found.points) if found is face else found.points
                keypoints[first : first + len(points), :2] = points
                keypoints[first : first + len(points), 2] = found.presence
        inside = ((keypoints[:, :2] >= 0) & (keypoints[:, :2] < image.shape[1::-1])).all(1)
        keypoints[~inside] = 0
        return keypoints


def hand_region(wrist: np.ndarray, little: np.ndarray, index: np.ndarray) -> Region:
    """Where a hand lies whose wrist and knuckles the pose has at these points [2]: round the middle finger's."""
    middle = (2 * index + little) / 3
    size = 2 * math.hypot(*(middle - wrist))
    return _around(middle, (size, size), turned(wrist, middle), 2.7, -0.1)


def palm_region(points: np.ndarray) -> Region:
    """Where a hand with these landmarks [21, 2] lies: the box of its palm, turned with it, and room."""
    palm, knuckles = points[list(_PALM)], (points[5] + points[13]) / 2
    rotation = turned(points[0], (knuckles + points[9]) / 2)
    upright = Region(0.0, 0.0, 1.0, rotation).to_tensor(1)[:, :2]
    placed = palm @ upright.T
    low, high = placed.min(0), placed.max(0)
    return _around(upright.T @ ((low + high) / 2), high - low, rotation, 2.0, -0.1)


def mesh_region(points: np.ndarray) -> Region:
    """Where a face with this mesh [468, 2] lies."""
    right, left = _MESH_EYES
    return _box_region(points, turned(points[right], points[left], 0.0), 1.5)


def face70(mesh: np.ndarray) -> np.ndarray:
    """OpenPose's 70 points of a face [70, 2] of a mesh [468, 2]; a pupil is the mean of the six points of its eye."""
    points = mesh[list(_IBUG)]
    return np.concatenate([points, [points[eye].mean(0) for eye in _EYES_70]])


def without_double(left: Found | None, right: Found | None) -> tuple[Found | None, Found | None]:
    """The two hands; where both are one that was found twice, only on the side that it looks like.

    Hands of a person that are held together look like one left and one right, and stay.
    """
    if left is not None and right is not None and (left.right > 0.5) == (right.right > 0.5):
        size = min(np.ptp(hand.points, 0).max() for hand in (left, right))
        if np.hypot(*(left.points - right.points).T).mean() < _TOGETHER * size:
            return (None, right) if right.right > 0.5 else (left, None)
    return left, right


def _followed(last: Found | None, fresh: Region, region: Callable[[np.ndarray], Region], near: _Nearness) -> Region:
    """The region of what was found before where it is near enough to the fresh one, or else that."""
    if last is None:
        return fresh
    old = region(last.points)
    return old if near.holds(old, last.points, fresh) else fresh


def _around(
    centre: np.ndarray, size: np.ndarray | tuple[float, float], rotation: float, scale: float, shift: float = 0.0
) -> Region:
    """The square region round a box turned by `rotation`, moved down by a share of its height and enlarged."""
    (x, y), (width, height) = centre, size
    x, y = x - height * shift * math.sin(rotation), y + height * shift * math.cos(rotation)
    return Region(float(x), float(y), max(float(max(width, height)) * scale, 1.0), rotation)


def _box_region(points: np.ndarray, rotation: float, scale: float, shift: float = 0.0) -> Region:
    """The region round the upright box of points [N, 2]."""
    low, high = points.min(0), points.max(0)
    return _around((low + high) / 2, high - low, rotation, scale, shift)


@lru_cache
def _face_anchors() -> np.ndarray:
    """Centres float32 [896, 2] of the face detector's anchors in units of its input; their size is always 1."""
    cells = []
    for n, count in ((16, 2), (8, 6)):
        y, x = np.mgrid[:n, :n]
        cells.append(np.repeat((np.stack([x, y], -1).reshape(-1, 2) + 0.5) / n, count, axis=0))
    return np.concatenate(cells).astype(np.float32)
