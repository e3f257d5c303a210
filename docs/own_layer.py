"""A template for a kind of layer of your own, and a detector that makes it; docs/layers.md says how they are found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from remot_data.store.layers import Kind, LayerError, Slot, expect

MOST = 65.0  # metres: what fits into 16 bits of millimetres


class Depth(Kind):
    """A depth map a frame, ``depth`` float32 [T, H, W] in metres from the camera, 0 where it is not known.

    Windows get ``depth`` float32 [T, H, W] and ``source_depth`` float32 [H, W].
    """

    name = "depth"
    fields = {"depth": "png"}  # the array, and the extension of the member that holds a frame of it
    window_field = "depth"
    window_arrays = {"depth": "map", "source_depth": "map"}
    about_agreement = "Agreement is the share of pixels known to both whose depths differ by less than 5 %."
    about_pictures = "Depth: from red, near, to blue, far; black where it is not known."

    def encode(self, arrays: Mapping[str, np.ndarray], t: int) -> dict[str, bytes]:
        return {"png": cv2.imencode(".png", _millimetres(arrays["depth"][t]))[1].tobytes()}

    def decode(self, extension: str, data: Any) -> np.ndarray:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if found is None or found.dtype != np.uint16 or found.ndim != 2:
            raise LayerError(f"a depth map of {len(data)} bytes is no PNG of 16 bits of grey")
        return _metres(found)

    def check(self, arrays: Mapping[str, np.ndarray], frames: int, size: tuple[int, int]) -> None:
        depth = expect(arrays, "depth", "float32", (frames, *size))
        if not (np.isfinite(depth).all() and depth.min() >= 0 and depth.max() <= MOST):
            raise LayerError(f"depths must lie in [0, {MOST:.0f}] metres")

    def stored(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"depth": _metres(_millimetres(arrays["depth"]))}

    def resized(
        self, arrays: Mapping[str, np.ndarray], old: tuple[int, int], new: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        return {"depth": np.stack([_nearest(depth, new) for depth in arrays["depth"]])}

    def window(self, members: Iterator[bytes], slot: Slot) -> None:
        depth = slot.place("depth", (slot.cut.length, *slot.size), np.float32)
        source = slot.place("source_depth", slot.size, np.float32)
        for data, to in zip(members, [*depth, source], strict=True):  # the source frame comes last
            to[:] = _nearest(self.decode("png", data), slot.size)

    def agreement(
        self,
        a: Mapping[str, np.ndarray],
        b: Mapping[str, np.ndarray],
        schema_a: str,
        schema_b: str,
        size: tuple[int, int],
    ) -> dict[str, np.ndarray]:
        one, other = a["depth"], b["depth"]
        both = (one > 0) & (other > 0)
        error = np.abs(one - other) / np.maximum(one, 1e-6)
        count = both.sum((1, 2))
        near, total = (both & (error < 0.05)).sum((1, 2)), np.where(both, error, 0).sum((1, 2))
        with np.errstate(invalid="ignore"):  # NaN where there is nothing to compare
            return {"agreement": near / count, "relative_error": total / count}

    def pictures(
        self, frames: np.ndarray, arrays: Mapping[str, np.ndarray], schema: str, common: bool = False
    ) -> Sequence[np.ndarray]:
        far = max(float(arrays["depth"].max()), 1e-6)
        return [_coloured(depth / far) for depth in arrays["depth"]]


class Ramp:
    """Stands in for a depth network: the lower a pixel lies in the picture, the nearer it is.

    Args:
        far: metres at the upper edge; 1 m at the lower.
    """

    name = "ramp"
    kind = "depth"
    layer_kind = Depth  # so that whoever loads the detector knows the kind
    version = "1"
    schema = "metres"
    needs: tuple[str, ...] = ()
    licence = "Apache-2.0"
    approximate = True

    def __init__(self, weights: str | None = None, *, far: float = 5.0):
        self.far = far

    def fingerprint(self) -> dict[str, object]:
        return {"detector": self.name, "version": self.version, "far": self.far}

    def __call__(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        rows = np.linspace(self.far, 1, frames.shape[1], dtype=np.float32)
        return {"depth": np.broadcast_to(rows[None, :, None], frames.shape[:3]).copy()}


def _millimetres(depth: np.ndarray) -> np.ndarray:
    return np.rint(depth * 1000).astype(np.uint16)


def _metres(stored: np.ndarray) -> np.ndarray:
    return stored.astype(np.float32) / np.float32(1000)


def _nearest(depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(depth, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def _coloured(share: np.ndarray) -> np.ndarray:
    colours = cv2.applyColorMap(np.rint(255 * (1 - share)).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    return np.where((share > 0)[..., None], colours, 0).astype(np.uint8)
