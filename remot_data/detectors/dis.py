"""Dense optical flow by OpenCV's DIS, with a confidence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np

from remot_data.detectors.base import Arrays, DetectorError
from remot_data.store.layers.flow import CONSISTENT, PHOTOMETRIC

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """OpenCV on one thread, so that no result can depend on how many there are; work is spread over processes."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def consistent(forward: np.ndarray, backward: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Forward-backward check, bool [H, W]: |f + W(b)|^2 < 0.01 (|f|^2 + |W(b)|^2) + 0.5, section 11 of the paper's
    temporal consistency metric; false where the flow leaves the image.

    Args:
        forward: float32 [H, W, 2], flow from this frame to the other, in pixels.
        backward: float32 [H, W, 2], flow from the other frame to this one.
        x: float32 [H, W], column that each pixel flows to; `y` the row.
    """
    h, w = x.shape
    warped = cv2.remap(backward, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    residual = cv2.add(forward, warped)
    inside = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
    return (_norm2(residual) < 0.01 * (_norm2(forward) + _norm2(warped)) + 0.5) & inside


def photometric(frame: np.ndarray, warped: np.ndarray) -> np.ndarray:
    """Where two images uint8 [H, W, 3] agree, bool [H, W]: the squared difference summed over the channels is
    below 0.02 with images in [-1, 1]."""
    difference = np.minimum(cv2.absdiff(frame, warped), 100).astype(np.uint16)
    difference *= difference
    return difference[..., 0] + difference[..., 1] + difference[..., 2] < 0.02 * 127.5**2


def _norm2(flow: np.ndarray) -> np.ndarray:
    return flow[..., 0] * flow[..., 0] + flow[..., 1] * flow[..., 1]


class DISFlow:
    """Dense inverse search flow (Kroeger et al., ECCV 2016) from each frame back to the one before it.

    Args:
        preset: ``ultrafast``, ``fast`` or ``medium``.
        scale: the flow is computed at full size and stored on a grid `scale` times coarser.
    """

    name = "dis"
    kind = "flow"
    version = "1"
    schema = "backward"
    needs: tuple[str, ...] = ()
    licence = "Apache-2.0"
    approximate = False

    def __init__(self, preset: str = "medium", scale: int = 2):
        if preset not in PRESETS:
            raise DetectorError(f"dis has no preset {preset!r}; choose one of {', '.join(PRESETS)}")
        if scale < 1:
            raise DetectorError(f"dis: the scale is {scale}; give 1 for the full grid, 2 for half of it, and so on")
        self.preset, self.scale = preset, scale

    def fingerprint(self) -> dict[str, Any]:
        return {
            "detector": self.name,
            "version": self.version,
            "settings": {"preset": self.preset, "scale": self.scale},
        }

    def __call__(self, frames: np.ndarray, **needed: Arrays) -> Arrays:
        """Flow and confidence of frames uint8 [T, H, W, 3].

        Returns:
            `flow` float32 [T, h, w, 2], dx and dy in pixels of the h x w grid, from frame t to frame t - 1, 0 for
            the first; `confidence` uint8 [T, h, w], bits `CONSISTENT` and `PHOTOMETRIC`, each set where it holds
            for at least half of the pixels of a cell.
        """
        count, height, width = frames.shape[:3]
        h, w = max(height // self.scale, 1), max(width // self.scale, 1)
        flow = np.zeros((count, h, w, 2), np.float32)
        confidence = np.zeros((count, h, w), np.uint8)
        with one_opencv_thread():
            dis: Any = cv2.DISOpticalFlow.create(PRESETS[self.preset])
            columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
            grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
            for t in range(1, count):
                forward = dis.calc(grey[t], grey[t - 1], None)
                backward = dis.calc(grey[t - 1], grey[t], None)
                x, y = columns + forward[..., 0], rows + forward[..., 1]
                warped = cv2.remap(frames[t - 1], x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
                flow[t] = _shrunk(forward, h, w) * np.array([w / width, h / height], np.float32)
                agree = _shrunk(consistent(forward, backward, x, y).view(np.uint8) * np.uint8(200), h, w) >= 100
                alike = _shrunk(photometric(frames[t], warped).view(np.uint8) * np.uint8(200), h, w) >= 100
                confidence[t] = agree * np.uint8(CONSISTENT) + alike * np.uint8(PHOTOMETRIC)
        return {"flow": flow, "confidence": confidence}


def _shrunk(image: np.ndarray, h: int, w: int) -> np.ndarray:
    return image if image.shape[:2] == (h, w) else cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
