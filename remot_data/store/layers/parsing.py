"""Labels as PNG, in the detector's own set; merging happens at load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from remot_data.store.layers._check import expect
from remot_data.store.layers._images import from_png, to_png

FIELDS = {"labels": "png"}
PER_CLIP = False


def encode(arrays: Mapping[str, np.ndarray], t: int) -> dict[str, bytes]:
    return {"png": to_png(arrays["labels"][t])}


def decode(extension: str, data: Any) -> np.ndarray:
    return from_png(data)


def check(arrays: Mapping[str, np.ndarray], frames: int, size: tuple[int, int]) -> None:
    expect(arrays, "labels", "uint8", (frames, *size))
