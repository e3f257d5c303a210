"""Numbers a frame as JSON; the same numbers stand as columns in the shard's index, where filters read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from remot_data.records import canonical_json
from remot_data.store.layers._check import LayerError, expect
from remot_data.store.layers.base import Arrays, Kind, Size


class Scores(Kind):
    """float32 [T] each, under names of their own. They have no size, and windows hold none."""

    name = "scores"
    fields = {"scores": "json"}

    def encode(self, arrays: Mapping[str, np.ndarray], t: int) -> dict[str, bytes]:
        return {"json": canonical_json(self.columns(arrays, t)).encode()}

    def decode(self, extension: str, data: Any) -> Any:
        return json.loads(bytes(data))

    def check(self, arrays: Mapping[str, np.ndarray], frames: int, size: Size) -> None:
        if not arrays:
            raise LayerError("a scores layer needs at least one score")
        for name in arrays:
            if not np.isfinite(expect(arrays, name, "float32", (frames,))).all():
                raise LayerError(f"score {name!r} must be finite")

    def columns(self, arrays: Mapping[str, np.ndarray], t: int) -> dict[str, float]:
        """The scores of one frame, rounded to what means something."""
        return {name: _rounded(values[t]) for name, values in sorted(arrays.items())}

    def stored(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """The scores as they are rounded, float32."""
        return {name: np.array([_rounded(x) for x in values], np.float32) for name, values in sorted(arrays.items())}

    def stacked(self, samples: Mapping[str, Sequence[Any]]) -> Arrays:
        rows = samples.get("scores", [])
        return {name: np.array([row[name] for row in rows], np.float32) for name in (rows[0] if rows else ())}

    def resized(self, arrays: Mapping[str, np.ndarray], old: Size, new: Size) -> Arrays:
        return dict(arrays)


def _rounded(value: Any) -> float:
    return round(float(value), 4)
