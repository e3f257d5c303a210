"""What stands behind the person: the source picture's, the driving video's, black, or an image."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from remot_data.detectors import base as detectors
from remot_data.records import HW, VALID, XYWH
from remot_model.transferring.driving import Driving, sampled
from remot_model.transferring.eyes import Eyes
from remot_model.transferring.pictures import cut, read_image, resized
from remot_model.transferring.request import TransferError
from remot_model.transferring.source import Source

log = logging.getLogger(__name__)

_SAMPLED = 48  # frames of the driving video


def find_background(choice: str | Path, who: Source, drive: Driving, eyes: Eyes, size: HW) -> np.ndarray:
    """The background uint8 [H, W, 3] at the networks' `size`."""
    if choice == "black":
        return np.zeros((*size, 3), np.uint8)
    if choice == "source":
        return _behind(who.image[None], who.labels[None], who.valid, size)
    if choice == "driving":
        frames = sampled(drive, eyes.size, _SAMPLED)
        apart = np.arange(len(frames), dtype=np.float64)  # seconds or more: nothing is carried from one to the next
        return _behind(frames, eyes.persons(frames, eyes.look(frames, seconds=apart)), drive.valid(eyes.size), size)
    image = read_image(Path(choice)) if Path(choice).is_file() else None
    if image is None:
        raise TransferError(f"the background {choice} is no image file, nor one of source, driving, black")
    for note in image.notes:
        log.warning("%s", note)
    height, width = image.pixels.shape[:2]
    wide, tall = min(width, height * size[1] / size[0]), min(height, width * size[0] / size[1])
    return cut(image.pixels, XYWH(((width - wide) / 2, (height - tall) / 2, wide, tall)), size)


def _behind(frames: np.ndarray, labels: np.ndarray, valid: np.ndarray | None, size: HW) -> np.ndarray:
    """The median of frames [T, h, w, 3] where they show no person, [H, W, 3]; the rest is filled in."""
    needed = {"parsing": {"labels": labels}, **({} if valid is None else {VALID: {VALID: valid}})}
    return resized(detectors.load("temporal-median")(frames, **needed)["image"], size)
