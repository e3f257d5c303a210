"""One picture a clip as JPEG, and where it was really seen as PNG (255) or filled in (0)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from remot_data.store.layers._check import expect
from remot_data.store.layers._images import from_jpeg, from_png, to_jpeg, to_png

FIELDS = {"image": "jpg", "seen": "seen.png"}
PER_CLIP = True


def encode(arrays: Mapping[str, np.ndarray], t: int) -> dict[str, bytes]:
    return {"jpg": to_jpeg(arrays["image"]), "seen.png": to_png(arrays["seen"])}


def stored(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with the picture as JPEG leaves it."""
    return {**arrays, "image": from_jpeg(to_jpeg(arrays["image"]))}


def decode(extension: str, data: Any, into: np.ndarray | None = None) -> np.ndarray:
    return from_jpeg(data, into) if extension == "jpg" else from_png(data)


def check(arrays: Mapping[str, np.ndarray], frames: int, size: tuple[int, int]) -> None:
    expect(arrays, "image", "uint8", (*size, 3))
    expect(arrays, "seen", "uint8", size)
