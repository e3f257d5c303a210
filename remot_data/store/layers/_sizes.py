"""Bringing pictures to another size, the same way wherever it is done."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np


def smooth(old: Sequence[int], new: Sequence[int]) -> int:
    """OpenCV's interpolation for values that may be averaged, from one height and width to another."""
    return cv2.INTER_AREA if new[0] < old[0] else cv2.INTER_LINEAR


def resize(image: np.ndarray, to: np.ndarray) -> None:
    """Bring an image to the size of the array `to`, and put it there."""
    cv2.resize(image, to.shape[1::-1], dst=to, interpolation=smooth(image.shape, to.shape))


def nearest(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels or a mask [H, W] at another height and width."""
    if image.shape[:2] == tuple(size):
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def each(pictures: np.ndarray, size: tuple[int, int], how: int) -> np.ndarray:
    """Pictures [T, H, W, ...] at another height and width."""
    return np.stack([cv2.resize(picture, size[::-1], interpolation=how) for picture in pictures])
