"""Two dancers of the sample clips in one picture, and what is true of each: one is cut out and pasted."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from remot_data import assets
from remot_data.detectors.blazepose import BlazePose

_RECIPE = runpy.run_path(str(Path(__file__).parent / "golden" / "make_golden.py"))
_SIZE = (512, 384)  # of the clips that the scene is made of
_FRAMES = 16


@dataclass(frozen=True)
class Dancer:
    """`box` float32 [T, 4], `keypoints` float32 [T, 25, 3] and `mask` bool [T, H, W] in pixels of the scene."""

    box: np.ndarray
    keypoints: np.ndarray
    mask: np.ndarray

    def cut(self, span: slice) -> Dancer:
        return Dancer(self.box[span], self.keypoints[span], self.mask[span])


@lru_cache
def _dancer(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames of a sample clip, and the keypoints and the person mask that its single dancer has in them."""
    frames = _RECIPE["cropped"](assets.fetch(f"sample-{name}"), _RECIPE["CROPS"][name], _SIZE)[:_FRAMES]
    found = BlazePose()(frames)
    mask = np.stack([_largest(m > 127) for m in found["mask"]])
    return frames, found["keypoints"], mask


def _largest(mask: np.ndarray) -> np.ndarray:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()


@lru_cache
def scene(shift: tuple[int, ...], behind: str = "cam03", before: str = "cam04") -> tuple[np.ndarray, Dancer, Dancer]:
    """Frames uint8 [T, 512, 768, 3], the dancer behind, and the one before, who stands `shift` pixels to the right.

    `shift` has two numbers, at the first and at the last frame: they may cross.
    """
    frames, points, masks = _dancer(behind)
    other, their_points, their_masks = _dancer(before)
    width, room = 768, (768 - _SIZE[1]) // 2
    out = np.stack([cv2.copyMakeBorder(f, 0, 0, room, room, cv2.BORDER_REPLICATE) for f in frames])
    first, second = (np.zeros((_FRAMES, _SIZE[0], width), bool) for _ in range(2))
    moved = np.array(their_points)
    for t, x in enumerate(np.linspace(shift[0], shift[-1], _FRAMES).round().astype(int) + room):
        a, b = max(x, 0), min(x + _SIZE[1], width)
        second[t, :, a:b] = their_masks[t][:, a - x : b - x]
        out[t][second[t]] = other[t][their_masks[t] & _columns(a - x, b - x)]
        first[t, :, room : room + _SIZE[1]] = masks[t]
        moved[t, :, 0] += x
    own = np.array(points)
    own[..., 0] += room
    return out, _made(own, first), _made(moved, second)


def _columns(start: int, stop: int) -> np.ndarray:
    inside = np.arange(_SIZE[1])
    return np.broadcast_to((inside >= start) & (inside < stop), _SIZE)


def _made(keypoints: np.ndarray, mask: np.ndarray) -> Dancer:
    boxes = [(*np.argwhere(m).min(0)[::-1], *np.argwhere(m).max(0)[::-1] + 1) for m in mask]
    return Dancer(np.array(boxes, np.float32), keypoints, mask)


@dataclass(frozen=True)
class Clip:
    """The clip of one of two dancers: a point of the scene is in it at `scale` times itself plus `shift`."""

    frames: np.ndarray
    scale: float
    shift: np.ndarray
    boxes: dict[str, np.ndarray]  # as a detector is given them

    @classmethod
    def of(cls, frames: np.ndarray, own: Dancer, other: Dancer, size: tuple[int, int] = (256, 192)) -> Clip:
        low, high = own.box[:, :2].min(0), own.box[:, 2:].max(0)
        wide, tall = (high - low) * 1.1
        scale = min(size[0] / tall, size[1] / wide)
        shift = np.array(size[::-1]) / 2 - scale * (low + high) / 2
        made = cls(frames, scale, shift, {})
        cut = np.stack([made.seen(frame, size) for frame in frames])
        own_box, other_box = ((d.box * scale + np.tile(shift, 2)).astype(np.float32) for d in (own, other))
        return cls(cut, scale, shift, {"own": own_box, "others": other_box[:, None]})

    def seen(self, picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """A picture of the scene as it is in the clip."""
        matrix = np.array([[self.scale, 0, self.shift[0]], [0, self.scale, self.shift[1]]])
        return cv2.warpAffine(picture, matrix, size[::-1], flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)

    def mask(self, dancer: Dancer) -> np.ndarray:
        """Where a dancer is or would be, was the other one not there: bool [T, H, W]."""
        size = self.frames.shape[1], self.frames.shape[2]
        return np.stack([self.seen(m.astype(np.uint8), size) for m in dancer.mask]) > 0

    def cut(self, span: slice) -> Clip:
        return Clip(self.frames[span], self.scale, self.shift, {n: x[span] for n, x in self.boxes.items()})
