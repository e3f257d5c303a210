"""Labels as PNG, in the detector's own set; merging happens at load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from remot_data import render
from remot_data.schemas import convert_labels, label_set, label_table
from remot_data.store.layers._check import LayerError, expect, share
from remot_data.store.layers._images import from_png, to_png
from remot_data.store.layers._sizes import each, nearest
from remot_data.store.layers.base import Arrays, Kind, Size, Slot

WINDOW_LABELS = "remot11"  # the set that windows have
COMMON_LABELS = "remot6"  # the set in which labels of different sets are compared: what the model reads
_NO_LABEL = 255


class Parsing(Kind):
    """``labels`` uint8 [T, H, W]."""

    name = "parsing"
    fields = {"labels": "png"}
    window_field = "labels"
    window_arrays = {"labels": "labels", "source_labels": "labels"}
    about_agreement = "Agreement is the mean IoU over the six layout classes that either has."

    def encode(self, arrays: Mapping[str, np.ndarray], t: int) -> dict[str, bytes]:
        return {"png": to_png(arrays["labels"][t])}

    def decode(self, extension: str, data: Any) -> np.ndarray:
        return from_png(data)

    def check(self, arrays: Mapping[str, np.ndarray], frames: int, size: Size) -> None:
        expect(arrays, "labels", "uint8", (frames, *size))

    def resized(self, arrays: Mapping[str, np.ndarray], old: Size, new: Size) -> Arrays:
        """Each pixel takes the nearest label."""
        return {**arrays, "labels": each(arrays["labels"], new, cv2.INTER_NEAREST_EXACT)}

    def window(self, members: Iterator[bytes], slot: Slot) -> None:
        labels = slot.place("labels", (slot.cut.length, *slot.size), np.uint8)
        table = label_table(slot.schema, WINDOW_LABELS)
        source = slot.place("source_labels", slot.size, np.uint8)
        for found, to in zip(members, [*labels, source], strict=True):
            near = nearest(self.decode("png", found), slot.size)
            to[:] = near if slot.raw else cv2.LUT(near, table)
            if not slot.raw and to.max() == _NO_LABEL:
                convert_labels(near, slot.schema, WINDOW_LABELS)  # says which
        if slot.raw and max(labels.max(), source.max()) >= len(label_set(slot.schema)):
            raise LayerError(f"labels are outside the set {slot.schema!r}")

    def schemas(self, schema: str) -> dict[str, str]:
        return {"labels": WINDOW_LABELS}

    def agreement(
        self, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], schema_a: str, schema_b: str, size: Size
    ) -> Arrays:
        """IoU of each of the six layout classes, NaN where neither has it, and their mean over those that either has.

        Args:
            a, b: ``labels`` uint8 [T, H, W] in their schemas; both are merged into `COMMON_LABELS`.
        """
        labels = [convert_labels(x["labels"], schema, COMMON_LABELS) for x, schema in ((a, schema_a), (b, schema_b))]
        rows: Arrays = {}
        for number, name in enumerate(label_set(COMMON_LABELS).labels):
            first, second = (x == number for x in labels)
            rows[f"iou_{name}"] = share((first & second).sum((1, 2)), (first | second).sum((1, 2)))
        return {"agreement": np.nanmean(np.stack(list(rows.values())), 0), **rows}

    def pictures(
        self, frames: np.ndarray, arrays: Mapping[str, np.ndarray], schema: str, common: bool = False
    ) -> Sequence[np.ndarray]:
        if not common:
            return [render.overlay(f, labels, schema) for f, labels in zip(frames, arrays["labels"], strict=True)]
        merged = convert_labels(arrays["labels"], schema, COMMON_LABELS)
        return [render.overlay(f, labels, COMMON_LABELS, 0.6) for f, labels in zip(frames, merged, strict=True)]

    def legend(self, schema: str) -> list[tuple[str, str]]:
        """Every label of a set but the background."""
        known = label_set(schema)
        return [(n, "#{:02x}{:02x}{:02x}".format(*c)) for n, c in zip(known.labels, known.palette, strict=True)][1:]
