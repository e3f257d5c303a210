"""From flow between pairs of frames to a flow layer: padding, both directions, the grid and the confidence."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from remot_data.detectors.base import Arrays
from remot_data.detectors.dis import (
    CONSISTENT,
    PHOTOMETRIC,
    _shrunk,
    consistent,
    one_opencv_thread,
    photometric,
)

Estimate = Callable[[np.ndarray, np.ndarray], np.ndarray]
_GRID = 2  # frame pixels a cell of the stored flow, as of the DIS flow


def flow_layer(frames: np.ndarray, estimate: Estimate, batch: int) -> Arrays:
    """Flow from each frame back to the one before it, with the confidence bits of `remot_data.detectors.dis`.

    Args:
        frames: uint8 [T, H, W, 3].
        estimate: takes two stacks of frames uint8 [N, H, W, 3] and gives the flow from the first to the second,
            float32 [N, H, W, 2], dx and dy in pixels.
        batch: pairs that `estimate` takes at once.

    Returns:
        `flow` float32 [T, H // 2, W // 2, 2] in pixels of its grid, 0 for the first frame; `confidence` uint8
        [T, H // 2, W // 2].
    """
    count, height, width = frames.shape[:3]
    h, w = max(height // _GRID, 1), max(width // _GRID, 1)
    flow = np.zeros((count, h, w, 2), np.float32)
    confidence = np.zeros((count, h, w), np.uint8)
    step = max(batch // 2, 1)
    for start in range(1, count, step):
        later, earlier = frames[start : start + step], frames[start - 1 : min(start + step, count) - 1]
        if batch == 1:
            back, ahead = estimate(later, earlier), estimate(earlier, later)
        else:
            back, ahead = np.split(estimate(np.concatenate([later, earlier]), np.concatenate([earlier, later])), 2)
        with one_opencv_thread():
            for i in range(len(later)):
                flow[start + i], confidence[start + i] = on_grid(later[i], earlier[i], back[i], ahead[i], h, w)
    return {"flow": flow, "confidence": confidence}


def on_grid(
    frame: np.ndarray, earlier: np.ndarray, back: np.ndarray, ahead: np.ndarray, h: int, w: int
) -> tuple[np.ndarray, np.ndarray]:
    """Flow float32 [h, w, 2] and confidence uint8 [h, w] of one frame uint8 [H, W, 3].

    Args:
        earlier: the frame before it.
        back: float32 [H, W, 2], flow from this frame to the earlier one; `ahead` the other way.
    """
    height, width = frame.shape[:2]
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = columns + back[..., 0], rows + back[..., 1]
    warped = cv2.remap(earlier, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    agree = _mostly(consistent(back, ahead, x, y), h, w)
    alike = _mostly(photometric(frame, warped), h, w)
    flow = _shrunk(back, h, w) * np.float32([w / width, h / height])
    return flow, agree * np.uint8(CONSISTENT) + alike * np.uint8(PHOTOMETRIC)


def _mostly(holds: np.ndarray, h: int, w: int) -> np.ndarray:
    """Cells bool [h, w] where it holds for half of the pixels."""
    return _shrunk(holds.view(np.uint8) * np.uint8(200), h, w) >= 100


def padded(frames: np.ndarray, multiple: int, least: int) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Frames [N, H, W, C] repeated outwards at their edges until a network can take them.

    Returns:
        The larger frames, whose sides are multiples of `multiple` and at least `least`; and the rows and columns
        that hold the frames.
    """
    grown = [max(-(-side // multiple) * multiple, -(-least // multiple) * multiple) for side in frames.shape[1:3]]
    before = [(new - old) // 2 for new, old in zip(grown, frames.shape[1:3], strict=True)]
    after = [new - old - b for new, old, b in zip(grown, frames.shape[1:3], before, strict=True)]
    inside = tuple(slice(b, b + side) for b, side in zip(before, frames.shape[1:3], strict=True))
    edges = ((0, 0), (before[0], after[0]), (before[1], after[1]), (0, 0))
    return np.pad(frames, edges, mode="edge"), (inside[0], inside[1])
