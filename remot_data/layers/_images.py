"""JPEG and PNG as OpenCV writes them: one place for the settings, RGB outside and BGR inside."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from remot_data.layers._check import LayerError

# 4:4:4 because the pictures are small already: halving their colour again is seen in thin limbs.
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]


def to_jpeg(image: np.ndarray) -> bytes:
    """JPEG of an image uint8 [H, W, 3], RGB, at quality 95 without colour subsampling."""
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _JPEG)[1].tobytes()


def to_png(image: np.ndarray) -> bytes:
    """PNG of a single-channel image uint8 [H, W]; labels compress as well with runs as with a search."""
    return cv2.imencode(".png", image, _PNG)[1].tobytes()


def from_jpeg(data: Any) -> np.ndarray:
    """uint8 [H, W, 3], RGB."""
    return _decode(data, cv2.IMREAD_COLOR_RGB)


def from_png(data: Any) -> np.ndarray:
    """uint8 [H, W]."""
    return _decode(data, cv2.IMREAD_GRAYSCALE)


def _decode(data: Any, how: int) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    if image is None:
        raise LayerError(f"a picture of {len(data)} bytes cannot be decoded")
    return image
