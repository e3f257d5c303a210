"""Numbers a frame as JSON; the same numbers stand as columns in the shard's index, where filters read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from remot_data.records import canonical_json
from remot_data.store.layers._check import LayerError, expect

FIELDS = {"scores": "json"}
PER_CLIP = False


def encode(arrays: Mapping[str, np.ndarray], t: int) -> dict[str, bytes]:
    return {"json": canonical_json(columns(arrays, t)).encode()}


def columns(arrays: Mapping[str, np.ndarray], t: int) -> dict[str, float]:
    """The scores of one frame, rounded to what means something."""
    return {name: _rounded(values[t]) for name, values in sorted(arrays.items())}


def stored(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The scores as they are rounded, float32."""
    return {name: np.array([_rounded(x) for x in values], np.float32) for name, values in sorted(arrays.items())}


def _rounded(value: Any) -> float:
    return round(float(value), 4)


def decode(extension: str, data: Any) -> Any:
    return json.loads(bytes(data))


def check(arrays: Mapping[str, np.ndarray], frames: int, size: tuple[int, int]) -> None:
    if not arrays:
        raise LayerError("a scores layer needs at least one score")
    for name in arrays:
        if not np.isfinite(expect(arrays, name, "float32", (frames,))).all():
            raise LayerError(f"score {name!r} must be finite")
