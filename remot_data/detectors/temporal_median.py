"""The background of a clip: what is seen beside the person, in the median over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import cv2
import numpy as np

from remot_data.detectors._camera import views
from remot_data.detectors.base import Arrays, DetectorError
from remot_data.detectors.dis import one_opencv_thread
from remot_data.records import VALID

_ROWS = 32  # at a time, so that memory stays bounded
_RARELY = 0.1  # of the frames that look at a pixel; what fewer show beside the person may be a hole in its mask
_APART = 16.0  # levels by which half of what was seen of a pixel may differ from its median


class TemporalMedian:
    """Masked temporal median; what no frame shows is inpainted. `seen` tells measured pixels from invented ones.

    Of a camera that stands still the picture is what all frames show. Where the camera moves, it is the view of the
    frame in the middle of the clip: the others are registered with it on what is no person (`_camera`), and a pixel is
    seen where several of them agree on it. A person who does not move from a place hides it in every frame: frames
    in which nobody was found, and the few that show something where the others have the person, do not count.

    Args:
        margin: the person mask is widened by this many pixels of a frame 256 pixels high.
        frames: at most so many frames of the clip are used, evenly spread.
        moving: whether a moving camera is followed; without it the picture of one is blurred, as in layers that were
            made before it could be.
    """

    name = "temporal-median"
    kind = "background"
    version = "1"
    schema = "rgb"
    needs = ("parsing", VALID)
    licence = "Apache-2.0"
    approximate = False
    before: ClassVar[Mapping[str, Any]] = {"moving": False}

    def __init__(self, margin: float = 7, frames: int = 64, moving: bool = True):
        if frames < 1 or margin < 0:
            raise DetectorError(f"temporal-median: margin {margin}, frames {frames}; give margin >= 0 and frames >= 1")
        self.margin, self.frames, self.moving = margin, frames, moving

    def fingerprint(self) -> dict[str, Any]:
        settings = {"margin": self.margin, "frames": self.frames, "moving": self.moving}
        return {
            "detector": self.name,
            "version": self.version,
            "settings": {name: x for name, x in settings.items() if name not in self.before or x != self.before[name]},
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
        if self.moving and (there := labels[chosen].any((1, 2))).any():
            chosen = chosen[there]
        masks = np.stack([cv2.dilate((labels[t] > 0).astype(np.uint8), kernel) for t in chosen]) > 0
        if VALID in needed:
            masks |= ~needed[VALID][VALID]
        image, seen = (moving_median if self.moving else masked_median)(frames[chosen], masks)
        if seen.any() and not seen.all():
            image = cv2.inpaint(image, (~seen).astype(np.uint8), 3, cv2.INPAINT_TELEA)
        return {"image": image, "seen": seen.astype(np.uint8) * np.uint8(255)}


def moving_median(frames: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`masked_median` of frames as the one in the middle sees them; of a camera that stands still just that.

    A pixel is seen where at least two frames, and a tenth of those that look at it, show it beside their mask, and
    half of these agree. Arguments and results are those of `masked_median`.
    """
    if len(frames) < 2:
        return masked_median(frames, masks)
    middle, size = len(frames) // 2, frames.shape[2:0:-1]
    with one_opencv_thread():
        found = views(frames, masks, middle)
        if found is None:
            return masked_median(frames, masks)
        kept = np.flatnonzero(np.isfinite(found).all((1, 2)))
        inside = np.full(size[::-1], 255, np.uint8)
        back = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
        looks = np.stack([cv2.warpPerspective(inside, found[t], size, flags=back) == 255 for t in kept])
        # Bits of a masked pixel spread as far as interpolation reaches.
        hidden = np.stack([cv2.warpPerspective(_wider(masks[t]), found[t], size, flags=back) > 0 for t in kept])
        sharp = cv2.WARP_INVERSE_MAP | cv2.INTER_CUBIC
        moved = [
            cv2.warpPerspective(frames[t], found[t], size, flags=sharp, borderMode=cv2.BORDER_REPLICATE) for t in kept
        ]
    clear = looks & ~hidden
    frames = np.stack(moved)
    image, seen = masked_median(frames, ~clear)
    count, apart = clear.sum(0), np.zeros(seen.shape, np.int64)
    for frame, free in zip(frames, clear, strict=True):
        apart += free & (cv2.absdiff(frame, image).max(-1) > _APART)
    seen &= (count >= np.maximum(min(2, len(kept)), _RARELY * looks.sum(0))) & (2 * apart <= count)
    return image, seen


def _wider(mask: np.ndarray) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) * np.uint8(255)


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
