"""What the pictures and maps of a clip say: mask and labels against the pose, flicker, camera, overlays, clipping.

All work on a raster of 128 rows, whatever the size of the frames, so that they cost the same for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from remot_data.detectors._limbs import CAPSULES, torso_lengths, with_extras

ROWS = 128
_BLOCK = 1.5  # seconds that a subtitle stands still in
# Grey levels: of a line of writing over its surroundings, that it changes by, that these change by.
_EDGE, _STILL, _MOVING = 25.0, 5.0, 12.0
_LETTER, _COVERED = np.ones((7, 7), np.uint8), 0.7  # what masks leave out of a person, how long she is behind it
_AROUND, _MANY = (13, 13), 0.25  # surroundings in pixels, and the share of them that has to change
_DENSE = 0.3  # share of still lines in a place: one edge, as of a leg that stands, has less


@dataclass(frozen=True)
class Raster:
    """A clip in 128 rows.

    `frames` uint8 [T, 128, W, 3], `grey` uint8 [T, 128, W]; `mask` bool [T, 128, W], the person by the pose, None where
    it has none; `classes` uint8 [T, 128, W], labels of whatever set, 0 for nobody; `points` float32 [T, 32, 3], see
    `_limbs.with_extras`, `units` float32 [T], torso lengths, both in pixels of the raster; `valid` bool [128, W].
    """

    frames: np.ndarray
    grey: np.ndarray
    mask: np.ndarray | None
    classes: np.ndarray
    points: np.ndarray
    units: np.ndarray
    valid: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        return self.classes > 0

    @property
    def person(self) -> np.ndarray:
        return self.labels if self.mask is None else self.labels | self.mask


def raster(
    frames: np.ndarray, keypoints: np.ndarray, mask: np.ndarray | None, classes: np.ndarray, valid: np.ndarray | None
) -> Raster:
    """A clip's frames uint8 [T, H, W, 3], ``body25`` keypoints, soft mask and labels uint8 [T, H, W] in 128 rows."""
    size = (ROWS, max(round(ROWS * frames.shape[2] / frames.shape[1]), 8))
    small = _each(frames, size, cv2.INTER_AREA)
    scale = np.array([size[1] / frames.shape[2], size[0] / frames.shape[1], 1], np.float32)
    points = keypoints * scale
    real = np.ones(size, bool)
    if valid is not None:
        real = _each(valid[None].astype(np.uint8), size, cv2.INTER_NEAREST)[0] > 0
    return Raster(
        frames=small,
        grey=np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in small]),
        mask=None if mask is None else _each(mask, size, cv2.INTER_AREA) >= 128,
        classes=_each(classes, size, cv2.INTER_NEAREST_EXACT),
        points=with_extras(points),
        units=torso_lengths(points),
        valid=real,
    )


def _each(pictures: np.ndarray, size: tuple[int, int], how: int) -> np.ndarray:
    if pictures.shape[1:3] == size:
        return pictures
    return np.stack([cv2.resize(np.ascontiguousarray(x), size[::-1], interpolation=how) for x in pictures])


_NEEDED = tuple(range(15))


def against_pose(clip: Raster) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask and labels against the pose, float32 [T] each.

    Returns:
        share of the main joints seen that lie off the person, by mask or labels, whichever is more;
        share of the person's pixels that lie near no limb, likewise;
        share of the pixels of mask or labels that are in one of both alone.
    """
    count = len(clip.points)
    off, bare, apart = np.zeros((3, count), np.float32)
    maps = [clip.labels] if clip.mask is None else [clip.labels, clip.mask]
    for t in range(count):
        unit = float(clip.units[t])
        limbs = _limbs(clip.points[t], unit, clip.labels.shape[1:])
        for which in maps:
            person = which[t]
            area = int(person.sum())
            off[t] = max(off[t], _off(clip.points[t], person, unit))
            if area:
                bare[t] = max(bare[t], 1 - int((person & limbs).sum()) / area)
        if clip.mask is not None:
            either = int((clip.mask[t] | clip.labels[t]).sum())
            apart[t] = int((clip.mask[t] ^ clip.labels[t]).sum()) / either if either else 0
    return off, bare, apart


def _limbs(points: np.ndarray, unit: float, size: tuple[int, ...]) -> np.ndarray:
    """Where the limbs are, as wide as clothes and hair are at most: bool [H, W]."""
    out = np.zeros(size, np.uint8)
    for capsule in CAPSULES:
        if points[[capsule.a, capsule.b], 2].min() > 0:
            width = max(round(1.6 * (capsule.width_a + capsule.width_b) * unit), 3)
            a, b = (tuple(int(v) for v in points[i, :2].clip(-999, 9999)) for i in (capsule.a, capsule.b))
            cv2.line(out, a, b, 1, min(width, 255))
    return out > 0


def _off(points: np.ndarray, person: np.ndarray, unit: float) -> float:
    """Share of the main joints seen, inside the picture, that lie farther than a tenth of the torso off the person."""
    main = points[list(_NEEDED)]
    places = main[main[:, 2] > 0, :2]
    h, w = person.shape
    inside = (places >= 0).all(1) & (places[:, 0] < w) & (places[:, 1] < h)
    places = places[inside].astype(int)
    if not len(places):
        return 0.0
    reach = max(round(0.1 * unit), 1)
    near = cv2.dilate(person.astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8))
    return float(1 - near[places[:, 1], places[:, 0]].mean())


def flicker(clip: Raster) -> np.ndarray:
    """Share of the person's pixels whose label is nowhere near in any frame beside it: float32 [T].

    Near is within a fifth of the torso, as far as somebody moves from frame to frame.
    """
    out = np.zeros(len(clip.classes), np.float32)
    reaches = [max(round(0.2 * float(unit)), 2) for unit in clip.units]
    grown = [_grown(labels, reach) for labels, reach in zip(clip.classes, reaches, strict=True)]
    for t, labels in enumerate(clip.classes):
        beside = [grown[n] for n in (t - 1, t + 1) if 0 <= n < len(grown)]
        area = np.count_nonzero(labels)
        if area and beside:
            strange = 0
            for number in np.unique(labels[labels > 0]).tolist():
                here = labels == number
                for other in beside:
                    if number in other:
                        here &= ~other[number]
                strange += int(np.count_nonzero(here))
            out[t] = strange / area
    return out


def _grown(labels: np.ndarray, reach: int) -> dict[int, np.ndarray]:
    """Label -> what lies within `reach` of its pixels, bool [H, W]."""
    kernel = np.ones((2 * reach + 1,) * 2, np.uint8)
    there = np.flatnonzero(np.bincount(labels.ravel(), minlength=1))
    return {n: cv2.dilate((labels == n).view(np.uint8), kernel).view(bool) for n in there.tolist() if n}


def camera(clip: Raster) -> np.ndarray:
    """How far what is no person moved since the frame before, in shares of the frame's height: float32 [T].

    The median over the pixels with structure; the first frame has the value of the second.
    """
    count, high = len(clip.grey), clip.grey.shape[1]
    out = np.zeros(count, np.float32)
    kernel = np.ones((9, 9), np.uint8)
    for t in range(1, count):
        free = (cv2.dilate(clip.person[t - 1].astype(np.uint8), kernel) == 0) & clip.valid
        points = cv2.goodFeaturesToTrack(clip.grey[t - 1], 40, 0.02, 5, mask=free.astype(np.uint8))
        if points is not None and len(points) >= 6:
            before, now, start = clip.grey[t - 1], clip.grey[t], np.asarray(points, np.float32)
            # OpenCV's stub does not know that it makes the points itself.
            moved, found, _ = cv2.calcOpticalFlowPyrLK(before, now, start, None, winSize=(9, 9), maxLevel=2)  # type: ignore[call-overload]
            good = found[:, 0] > 0
            if good.sum() >= 6:
                shift = np.median((moved - start)[good, 0], 0)
                out[t] = float(np.hypot(*shift)) / high
    if count > 1:
        out[0] = out[1]
    return out


def overlay(clip: Raster, times: np.ndarray) -> np.ndarray:
    """Share of the person's pixels under writing: lines that stand still while all around them moves; float32 [T].

    Looked for in spans of 1.5 seconds: pixels of a strong edge that hardly change, among pixels that do.
    """
    out = np.zeros(len(clip.grey), np.float32)
    block = np.floor((times - times[0]) / _BLOCK + 1e-6).astype(int) if len(times) else np.zeros(0, int)
    for number in np.unique(block):
        span = np.flatnonzero(block == number)
        if len(span) < 6:
            out[span] = out[span[0] - 1] if span[0] else 0
            continue
        person = np.stack([cv2.morphologyEx(p.astype(np.uint8), cv2.MORPH_CLOSE, _LETTER) for p in clip.person[span]])
        inside = cv2.erode((person.mean(0) >= _COVERED).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        still = _writing(clip.grey[span]) & inside
        for t, area in zip(span, person.sum((1, 2)), strict=True):
            out[t] = still.sum() / max(int(area), 1)
    return out


def _writing(grey: np.ndarray) -> np.ndarray:
    """Where lines stand still among what moves, in frames uint8 [T, H, W]: bool [H, W]."""
    mean = grey.mean(0, dtype=np.float32)
    change = np.sqrt(np.maximum((grey.astype(np.float32) ** 2).mean(0) - mean**2, 0))
    edge = np.maximum(
        np.abs(cv2.Sobel(mean, cv2.CV_32F, 1, 0, scale=0.25)), np.abs(cv2.Sobel(mean, cv2.CV_32F, 0, 1, scale=0.25))
    )
    moving = (change >= _STILL).astype(np.float32)
    many = cv2.blur(moving, _AROUND)
    around = cv2.blur(change * moving, _AROUND) / np.maximum(many, 1e-6)
    still = (edge > _EDGE) & (change < _STILL) & (around > _MOVING) & (many > _MANY)
    return still & (cv2.blur(still.astype(np.float32), (9, 9)) > _DENSE)


def clipped(clip: Raster) -> np.ndarray:
    """Share of the person's pixels, of the picture's where there is nobody, that are blown or black: float32 [T]."""
    low, high = clip.frames.max(-1) <= 4, clip.frames.min(-1) >= 251
    out = np.zeros(len(clip.frames), np.float32)
    for t, person in enumerate(clip.person):
        where = person & clip.valid if (person & clip.valid).any() else clip.valid
        out[t] = (low[t] | high[t])[where].mean() if where.any() else 0
    return out
