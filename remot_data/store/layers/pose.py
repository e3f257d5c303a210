"""Keypoints as a ``.npy`` member, exact, and the optional soft person mask as PNG.

The mask is stored in 16 grey levels: its last bits are noise and double its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from remot_data.store.layers._check import LayerError, expect
from remot_data.store.layers._images import from_png, to_png

FIELDS = {"keypoints": "npy", "mask": "mask.png"}
PER_CLIP = False

_MAGIC = b"\x93NUMPY\x01\x00"


def encode(arrays: Mapping[str, np.ndarray], t: int) -> dict[str, bytes]:
    members = {"npy": to_npy(arrays["keypoints"][t])}
    if "mask" in arrays:
        members["mask.png"] = to_png(_in_levels(arrays["mask"][t]))
    return members


def stored(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with the mask in its 16 levels."""
    return {name: _in_levels(x) if name == "mask" else x for name, x in arrays.items()}


def _in_levels(mask: np.ndarray) -> np.ndarray:
    levels = (np.arange(256) * 15 + 127) // 255 * 17
    return levels.astype(np.uint8)[mask]


def decode(extension: str, data: Any) -> np.ndarray:
    return from_png(data) if extension == "mask.png" else from_npy(data)


def check(arrays: Mapping[str, np.ndarray], frames: int, size: tuple[int, int]) -> None:
    points = expect(arrays, "keypoints", "float32", (frames, None, 3))
    if not np.isfinite(points).all():
        raise LayerError("keypoints must be finite")
    if points.size and not (points[..., 2].min() >= 0 and points[..., 2].max() <= 1):
        raise LayerError("keypoint confidences must lie in [0, 1]")
    if "mask" in arrays:
        expect(arrays, "mask", "uint8", (frames, *size))


def to_npy(array: np.ndarray) -> bytes:
    """A small float32 array as a ``.npy`` file of version 1.0."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {array.shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return (
        _MAGIC
        + len(header).to_bytes(2, "little")
        + header.encode()
        + np.ascontiguousarray(array, dtype="<f4").tobytes()
    )


def from_npy(data: Any) -> np.ndarray:
    """The float32 [K, 3] array of a member written by `to_npy`.

    `numpy.load` parses the header as Python source, which costs twenty times the rest.
    """
    data = bytes(data)
    if not data.startswith(_MAGIC) or b"'<f4'" not in data[:128]:
        raise LayerError("a keypoint member is not a float32 .npy file of version 1.0")
    start = 10 + int.from_bytes(data[8:10], "little")
    return np.frombuffer(data, "<f4", offset=start).reshape(-1, 3).astype(np.float32)
