"""Frames: JPEG, quality 95, 4:4:4."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from remot_data.persons import valid
from remot_data.records import VALID
from remot_data.store.layers._check import expect
from remot_data.store.layers._images import from_jpeg, into_place, to_jpeg
from remot_data.store.layers.base import Kind, Size, Slot


class Frames(Kind):
    """``frames`` uint8 [T, H, W, 3], RGB; of every window. Which pixels of them are ``valid`` follows from the clip."""

    name = "frames"
    fields = {"frames": "jpg"}
    window_field = "frames"
    window_arrays = {"frames": "image", "source": "image", VALID: "map"}

    def encode(self, arrays: Mapping[str, np.ndarray], t: int) -> dict[str, bytes]:
        return {"jpg": to_jpeg(arrays["frames"][t])}

    def decode(self, extension: str, data: Any) -> np.ndarray:
        return from_jpeg(data)

    def check(self, arrays: Mapping[str, np.ndarray], frames: int, size: Size) -> None:
        expect(arrays, "frames", "uint8", (frames, *size, 3))

    def window(self, members: Iterator[bytes], slot: Slot) -> None:
        frames = slot.place("frames", (slot.cut.length, *slot.size, 3), np.uint8)
        for jpeg, to in zip(members, [*frames, slot.place("source", (*slot.size, 3), np.uint8)], strict=True):
            into_place(jpeg, to)
        if slot.valid:
            clip = slot.cut.clip
            slot.place(VALID, slot.size, np.bool_)[:] = valid(clip.crop, clip.source_size, slot.stored, slot.size)
