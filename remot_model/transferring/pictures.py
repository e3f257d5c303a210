"""Image files, and pictures cut and brought to a size."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from remot_data.media import VideoError, in_child
from remot_data.media.geometry import fill_outside
from remot_data.media.pictures import Picture
from remot_data.records import HW, XYWH
from remot_model.transferring.request import TransferError

# Room round the person as a share of its height, as the default of `remot build`.
MARGIN = 0.1


def read_image(path: Path) -> Picture | None:
    """An image file as it is to be seen; None if it is no image."""
    if not path.is_file():
        raise TransferError(f"there is no file {path}")
    try:
        return in_child.image(path)
    except VideoError as error:
        raise TransferError(error.detail) from error


def cut(image: np.ndarray, crop: XYWH, size: HW, outside: str | None = None) -> np.ndarray:
    """The crop of an image at `size`; outside the image is what `media.read` shows there."""
    x, y, width, height = map(int, whole(crop))
    pad = max(0, -x, -y, x + width - image.shape[1], y + height - image.shape[0])
    padded = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE) if pad else image
    found = resized(padded[y + pad : y + pad + height, x + pad : x + pad + width], size)
    if pad:
        found = np.ascontiguousarray(found)
        fill_outside(found, outside or "smear", XYWH((x, y, width, height)), image.shape[1::-1])
    return found


def whole(crop: XYWH) -> XYWH:
    """The whole pixels that `cut` takes for a crop."""
    x, y, width, height = map(round, crop)
    return XYWH((x, y, width, height))


def resized(image: np.ndarray, size: HW) -> np.ndarray:
    """An image at another size: area-averaged where it shrinks, bicubic where it grows."""
    if image.shape[:2] == tuple(size):
        return image
    shrinks = size[0] < image.shape[0]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
