"""One picture a clip as JPEG, and where it was really seen as PNG (255) or filled in (0)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from remot_data.store.layers._check import expect
from remot_data.store.layers._images import from_jpeg, from_png, into_place, to_jpeg, to_png
from remot_data.store.layers._sizes import smooth
from remot_data.store.layers.base import Arrays, Kind, Size, Slot


class Background(Kind):
    """``image`` uint8 [H, W, 3], RGB, and ``seen`` uint8 [H, W]."""

    name = "background"
    fields = {"image": "jpg", "seen": "seen.png"}
    per_clip = True
    window_field = "image"
    window_arrays = {"background": "image"}

    def encode(self, arrays: Mapping[str, np.ndarray], t: int) -> dict[str, bytes]:
        return {"jpg": to_jpeg(arrays["image"]), "seen.png": to_png(arrays["seen"])}

    def decode(self, extension: str, data: Any) -> np.ndarray:
        return from_jpeg(data) if extension == "jpg" else from_png(data)

    def check(self, arrays: Mapping[str, np.ndarray], frames: int, size: Size) -> None:
        expect(arrays, "image", "uint8", (*size, 3))
        expect(arrays, "seen", "uint8", size)

    def columns(self, arrays: Mapping[str, np.ndarray], t: int) -> dict[str, float]:
        """`seen`: the share of the picture that was."""
        return {"seen": round(float((arrays["seen"] > 0).mean()), 4)}

    def stored(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """The arrays with the picture as JPEG leaves it."""
        return {**arrays, "image": from_jpeg(to_jpeg(arrays["image"]))}

    def resized(self, arrays: Mapping[str, np.ndarray], old: Size, new: Size) -> Arrays:
        out = {**arrays, "image": cv2.resize(arrays["image"], new[::-1], interpolation=smooth(old, new))}
        if "seen" in arrays:
            out["seen"] = cv2.resize(arrays["seen"], new[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return out

    def window(self, members: Iterator[bytes], slot: Slot) -> None:
        into_place(next(members), slot.place("background", (*slot.size, 3), np.uint8))

    def pictures(
        self, frames: np.ndarray, arrays: Mapping[str, np.ndarray], schema: str, common: bool = False
    ) -> Sequence[np.ndarray]:
        return [arrays["image"]]

    def caption(self, arrays: Mapping[str, np.ndarray]) -> str:
        seen = arrays.get("seen")
        return self.name if seen is None else f"{self.name}, {100 * float((seen > 0).mean()):.0f} % seen"
