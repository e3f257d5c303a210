"""Frames: JPEG, quality 95, 4:4:4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from remot_data.store.layers._check import expect
from remot_data.store.layers._images import from_jpeg, to_jpeg

FIELDS = {"frames": "jpg"}
PER_CLIP = False


def encode(arrays: Mapping[str, np.ndarray], t: int) -> dict[str, bytes]:
    return {"jpg": to_jpeg(arrays["frames"][t])}


def decode(extension: str, data: Any, into: np.ndarray | None = None) -> np.ndarray:
    return from_jpeg(data, into)


def check(arrays: Mapping[str, np.ndarray], frames: int, size: tuple[int, int]) -> None:
    expect(arrays, "frames", "uint8", (frames, *size, 3))
