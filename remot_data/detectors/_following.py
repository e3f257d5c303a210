"""A person followed through the frames of a clip with BlazePose's networks, and everybody else in its crop.

Regions of interest and filters are those of MediaPipe's published graphs. Where boxes of tracks are known, a body is
only followed while it is that of its box (`_boxes.Sight`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np

from remot_data.detectors._boxes import Sight, in_view, within
from remot_data.detectors._limbs import limb_distance
from remot_data.detectors._litert import Region, sigmoid, turned
from remot_data.detectors.base import Arrays
from remot_data.records import HW
from remot_data.schemas import convert_keypoints

LANDMARK_SIZE = 256
PRESENCE = 0.5  # from which the landmark network is believed that there is a person
_MARGIN = 1.25  # of a region of interest round the circle through the body
_PERIOD = 1 / 30  # seconds between frames for the filters, as MediaPipe assumes for a video
_NOT = -80.0  # logit of a pixel that is nobody's
_SEEN = 0.3  # confidence from which a limb may own pixels


def whole(image: np.ndarray) -> Region:
    """The square round a whole image."""
    h, w = image.shape[:2]
    return Region(w / 2, h / 2, max(h, w))


def region_of(centre: np.ndarray, scale_point: np.ndarray) -> Region:
    """The region round a body whose hips are at `centre` and whose enclosing circle passes `scale_point`."""
    reach = math.hypot(float(scale_point[0] - centre[0]), float(scale_point[1] - centre[1]))
    return Region(float(centre[0]), float(centre[1]), max(2 * reach * _MARGIN, 1.0), turned(centre, scale_point))


@dataclass(frozen=True)
class Landmarks:
    """Output of the landmark network in image pixels: float32 [39, 4] of x, y, visibility, presence."""

    points: np.ndarray
    presence: float
    logits: np.ndarray
    region: Region

    @property
    def middle(self) -> np.ndarray:
        """Between hips and shoulders."""
        return self.points[[11, 12, 23, 24], :2].mean(0)

    @property
    def placed(self) -> Landmarks:
        """The same without the mask, which takes most of the memory."""
        return replace(self, logits=self.logits[:0])

    @property
    def body(self) -> np.ndarray:
        """The points of the body, float32 [33, 3] of x, y, confidence."""
        return np.concatenate([self.points[:33, :2], self.points[:33, 2:].min(1, keepdims=True)], 1)

    @property
    def height(self) -> float:
        """About that of the person, upright, in pixels: the diameter of the circle round the body."""
        return self.region.side / _MARGIN


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


class Found(Protocol):
    """A person found by the detector network: hips and other points, `middle` between hips and shoulders."""

    @property
    def points(self) -> np.ndarray: ...
    @property
    def middle(self) -> np.ndarray: ...
    @property
    def radius(self) -> float: ...
    @property
    def region(self) -> Region: ...


class Finding(Protocol):
    """The detector network, which looks at a whole image or at a region of it."""

    def __call__(self, image: np.ndarray) -> Sequence[Found]: ...
    def within(self, image: np.ndarray, region: Region) -> Sequence[Found]: ...


class Track:
    """One person followed through consecutive frames."""

    def __init__(self, landmarks: Callable[[np.ndarray, Region], Landmarks], detector: Finding, smooth: bool):
        self._landmarks, self._detector, self._smooth = landmarks, detector, smooth
        self._region: Region | None = None

    def __call__(self, frame: np.ndarray, sight: Sight | None = None) -> Landmarks | None:
        """Landmarks of the person in the next frame, None where nobody is found.

        `sight` tells where the person is and who else is there: a body that is somebody else's is none.
        """
        found = self._look(frame, self._region, sight) if self._region is not None else None
        if found is None:
            self._restart()
            looks = (self._look(frame, region, sight) for region in self._search(frame, sight))
            found = next((look for look in looks if look is not None), None)
        if found is None:
            self._region = None
            return None
        return self._follow(found)

    def start(self, found: Landmarks) -> None:
        """Go on from landmarks that are known, as if they had been found in the frame before."""
        self._restart()
        self._follow(found)

    def _restart(self) -> None:
        self._aux = OneEuro(0.01, 10.0)
        self._points = OneEuro(0.05, 80.0)

    def _look(self, frame: np.ndarray, region: Region, sight: Sight | None) -> Landmarks | None:
        """Landmarks in a region, looked at twice where the body turns out to lie quite elsewhere."""
        found = self._landmarks(frame, region)
        if found.presence >= PRESENCE and moved(region, better := region_of(*found.points[33:35, :2])):
            self._restart()
            found = self._landmarks(frame, better)
        return found if is_own(found, sight) else None

    def _search(self, frame: np.ndarray, sight: Sight | None) -> Iterator[Region]:
        """Where to look for the person of a crop: the largest and most central, or else the crop itself.

        Where the person's box is known: whoever fits it best, or else the box.
        """
        middle = np.array(frame.shape[1::-1]) / 2
        if sight is None or not sight.is_known:
            people = [p for p in self._detector(frame) if sight is None or sight.holds(None, p.middle)]
            central = max(people, key=lambda p: p.radius - math.hypot(*(p.points[0] - middle)), default=None)
            yield central.region if central else whole(frame)
            return
        people = [p for p in self._detector.within(frame, _around(sight, 2.0)) if sight.holds(None, p.middle)]
        if people:
            yield max(people, key=lambda p: sight.fit(None, p.middle)).region
        yield _around(sight)

    def glimpse(self, frame: np.ndarray, sight: Sight) -> np.ndarray:
        """The logits of the person mask float32 [H, W] of the own box, whether there is a body for it or not."""
        return mask_logits(self._landmarks(frame, _around(sight)), sight.size)

    def _follow(self, found: Landmarks) -> Landmarks:
        size = 2 * math.hypot(*(found.points[34, :2] - found.points[33, :2]))
        centre, scale_point = self._aux(found.points[33:35, :2], max(size, 1e-6))
        self._region = region_of(centre, scale_point)
        if self._smooth:
            points = found.points.copy()
            points[:, :2] = self._points(points[:, :2], max(size, 1e-6))
            found = replace(found, points=points)
        return found


def is_own(found: Landmarks, sight: Sight | None) -> bool:
    """Whether landmarks are of anybody, and of the person in the own box."""
    if found.presence < PRESENCE:
        return False
    return sight is None or sight.holds(np.array(tight_box(found, sight.size)), found.middle)


def _around(sight: Sight, times: float = 1.1 * _MARGIN) -> Region:
    """The upright region round the own box, so many times as large."""
    x0, y0, x1, y1 = map(float, sight.own)
    return Region((x0 + x1) / 2, (y0 + y1) / 2, max(times * max(x1 - x0, y1 - y0), 1.0))


def moved(a: Region, b: Region) -> bool:
    """Whether a body whose own region is b sticks out of region a, or is lost in it."""
    shift = max(abs(b.x - a.x), abs(b.y - a.y))
    return shift + b.side / _MARGIN / 2 > a.side / 2 or b.side < a.side / 2


def tight_box(found: Landmarks, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Box of the landmarks inside the image, with room for the crown of the head and the outline of the limbs."""
    inside = found.points[:33][found.points[:33, 3] >= 0.5, :2]
    points = inside if len(inside) else found.points[:33, :2]
    low, high = points.min(0), points.max(0)
    room = 0.04 * (high - low).max()
    crown = 2 * room if found.points[0, 3] >= 0.5 else room
    return clip_box((*(low - (room, crown)), *(high + room)), size)


def clip_box(box: tuple[float, ...], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box inside an image of height and width `size`."""
    x0, y0, x1, y1 = (float(v) for v in box)
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(size[1])), min(y1, float(size[0]))


def mask_logits(found: Landmarks, size: HW) -> np.ndarray:
    """Logits of the person mask float32 [H, W] in the image, -80 outside the region."""
    matrix = found.region.to_tensor(LANDMARK_SIZE)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(found.logits, matrix, size[::-1], flags=flags, borderValue=_NOT)


def soft_mask(found: Landmarks, size: HW) -> np.ndarray:
    """The person mask uint8 [H, W] in the image, 0 outside the region."""
    return np.rint(255 * sigmoid(mask_logits(found, size))).astype(np.uint8)


class Company:
    """Everybody else in the frames of a clip, each followed by their own box.

    `seen` bool [T, N] tells whose box reaches into which frame, `mask` uint8 [T, H, W] is their soft mask, 0 where a
    pixel is rather the own person's: where that one's mask has it too and no limb of somebody else is nearer.
    """

    def __init__(self, track: Callable[[], Track], boxes: Arrays, size: HW) -> None:
        self._own, self._others, self._size = boxes["own"], boxes["others"], size
        self.seen = in_view(self._others, size)
        self.mask = np.zeros((len(self.seen), *size), np.uint8)
        self._tracks = [track() for _ in range(self.seen.shape[1])]

    def see(self, t: int, frame: np.ndarray, own: Landmarks | None) -> None:
        """Take frame `t`, and what was found of the own person in it."""
        logits, bodies = np.full(self._size, _NOT, np.float32), []
        for which in np.flatnonzero(self.seen[t]):
            rest = self.seen[t] & (np.arange(self.seen.shape[1]) != which)
            around = np.concatenate([self._own[t][None], self._others[t][rest]])
            sight = Sight(self._others[t, which], around, self._size)
            found = self._tracks[which](frame, sight)
            if found is not None:
                bodies.append(found)
                np.maximum(logits, mask_logits(found, self._size), out=logits)
            else:  # a body that is cut off is denied, but its pixels are known all the same
                part = self._tracks[which].glimpse(frame, sight)
                x0, y0, x1, y1 = np.rint(within(sight.own, self._size)).astype(int)
                np.maximum(logits[y0:y1, x0:x1], part[y0:y1, x0:x1], out=logits[y0:y1, x0:x1])
        if own is not None:
            both = (mask_logits(own, self._size) > 0) & (logits > 0)
            pixels = np.stack(np.nonzero(both)[::-1]).astype(np.float32) + 0.5
            far = limb_distance(_body(own), pixels)
            near = [limb_distance(_body(body), pixels) for body in bodies]
            logits[both] = np.where(np.min([far, *near], 0) < far, logits[both], _NOT)
        self.mask[t] = np.rint(255 * sigmoid(logits))


def _body(found: Landmarks) -> np.ndarray:
    """BODY_25 keypoints [25, 3] of landmarks, outside the image too."""
    points = found.body
    points[points[:, 2] < _SEEN] = 0
    return convert_keypoints(points, "blazepose33", "body25")
