"""The background of a clip: what is seen beside the person, in the median over time."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from remot_data.detectors.base import Arrays, DetectorError
from remot_data.records import VALID

_ROWS = 32  # at a time, so that memory stays bounded


class TemporalMedian:
    """Masked temporal median for a camera that stands still; what no frame shows is inpainted.

    A moving camera gives a blurred picture: nothing here follows the camera. `seen` tells measured pixels from
    invented ones.

    Args:
        margin: the person mask is widened by this many pixels of a frame 256 pixels high.
        frames: at most so many frames of the clip are used, evenly spread.
    """

    name = "temporal-median"
    kind = "background"
    version = "1"
    schema = "rgb"
    needs = ("parsing", VALID)
    licence = "Apache-2.0"
    approximate = False

    def __init__(self, margin: float = 7, frames: int = 64):
        if frames < 1 or margin < 0:
            raise DetectorError(f"temporal-median: margin {margin}, frames {frames}; give margin >= 0 and frames >= 1")
        self.margin, self.frames = margin, frames

    def fingerprint(self) -> dict[str, Any]:
        return {
            "detector": self.name,
            "version": self.version,
            "settings": {"margin": self.margin, "frames": self.frames},
        }

    def __call__(self, frames: np.ndarray, **needed: Arrays) -> Arrays:
        """`image` uint8 [H, W, 3] and `seen` uint8 [H, W] (255 or 0) of frames uint8 [T, H, W, 3].

        `needed["parsing"]["labels"]` are uint8 [T, H, W], 0 for the background. Where `needed["valid"]` tells which
        pixels are of the picture, the others are not seen.
        """
        chosen = np.unique(np.linspace(0, len(frames) - 1, min(self.frames, len(frames))).round().astype(int))
        reach = round(self.margin * frames.shape[1] / 256)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        labels = needed["parsing"]["labels"]
        masks = np.stack([cv2.dilate((labels[t] > 0).astype(np.uint8), kernel) for t in chosen]) > 0
        if VALID in needed:
            masks |= ~needed[VALID][VALID]
        image, seen = masked_median(frames[chosen], masks)
        if seen.any() and not seen.all():
            image = cv2.inpaint(image, (~seen).astype(np.uint8), 3, cv2.INPAINT_TELEA)
        return {"image": image, "seen": seen.astype(np.uint8) * np.uint8(255)}


def masked_median(frames: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median over time of the pixels outside their mask.

    Args:
        frames: uint8 [T, H, W, 3].
        masks: bool [T, H, W], true where a pixel is to be left out.

    Returns:
        image uint8 [H, W, 3], 128 where every frame is masked, and seen bool [H, W]. Of an even number of values
        the mean of the two in the middle counts, rounded up.
    """
    counts = (~masks).sum(0)
    image = np.full(frames.shape[1:], 128, np.uint8)
    for y in range(0, frames.shape[1], _ROWS):
        rows = slice(y, y + _ROWS)
        # Masked values become 255: sorted last, they never reach the middle of the `count` that are left.
        values = np.where(masks[:, rows, :, None], np.uint8(255), frames[:, rows])
        values = np.sort(np.moveaxis(values, 0, -1), axis=-1)
        count = np.maximum(counts[rows], 1)[:, :, None, None]
        low = np.take_along_axis(values, (count - 1) // 2, -1)[..., 0].astype(np.uint16)
        high = np.take_along_axis(values, count // 2, -1)[..., 0]
        image[rows] = np.where(counts[rows][:, :, None] > 0, (low + high + 1) // 2, 128)
    return image, counts > 0
