"""What every kind checks and measures alike."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from remot_data.errors import RemotError


class LayerError(RemotError, ValueError):
    """Arrays that are no valid layer, or a member that cannot be decoded."""


def expect(arrays: Mapping[str, np.ndarray], name: str, dtype: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """The array called `name`, if it has this dtype and shape (None matches any length)."""
    if name not in arrays:
        raise LayerError(f"the array {name!r} is missing; there are {', '.join(arrays) or 'none'}")
    array = arrays[name]
    fits = array.ndim == len(shape) and all(s is None or s == n for s, n in zip(shape, array.shape, strict=True))
    if array.dtype != np.dtype(dtype) or not fits:
        wanted = "x".join("?" if s is None else str(s) for s in shape)
        raise LayerError(f"{name!r} must be {dtype} [{wanted}], not {array.dtype} {list(array.shape)}")
    return array


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where there is no whole."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
