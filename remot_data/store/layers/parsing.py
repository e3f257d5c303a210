"""Labels as PNG, in the detector's own set; merging happens at load. How sure the detector is of them, as another PNG.

Of sureness four grey levels are kept: more would only be noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import cv2
import numpy as np

from remot_data import render
from remot_data.records import SURE
from remot_data.schemas import convert_labels, label_set, label_table
from remot_data.store.layers._check import LayerError, expect, share
from remot_data.store.layers._images import from_png, to_png
from remot_data.store.layers._sizes import each, nearest
from remot_data.store.layers.base import Arrays, Kind, Size, Slot

WINDOW_LABELS = "remot11"  # the set that windows have
COMMON_LABELS = "remot6"  # the set in which labels of different sets are compared: what the model reads
_NO_LABEL = 255
_SURE = 128  # value from which a label is one to learn from


class Parsing(Kind):
    """``labels`` uint8 [T, H, W]; ``sure`` uint8 [T, H, W], 255 where they are, which may be absent.

    Windows have ``sure`` bool [T, H, W] where it is asked for by that name; without the array, all labels are.
    """

    name = "parsing"
    fields = {"labels": "png", SURE: "sure.png"}
    window_field = "labels"
    window_optional = SURE
    window_arrays = {"labels": "labels", "source_labels": "labels", SURE: "map"}
    about_agreement = "Agreement is the mean IoU over the six layout classes that either has."

    def encode(self, arrays: Mapping[str, np.ndarray], t: int) -> dict[str, bytes]:
        sure = {self.fields[SURE]: to_png(_in_levels(arrays[SURE][t]))} if SURE in arrays else {}
        return {"png": to_png(arrays["labels"][t]), **sure}

    def decode(self, extension: str, data: Any) -> np.ndarray:
        return from_png(data)

    def check(self, arrays: Mapping[str, np.ndarray], frames: int, size: Size) -> None:
        expect(arrays, "labels", "uint8", (frames, *size))
        if SURE in arrays:
            expect(arrays, SURE, "uint8", (frames, *size))

    def stored(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """The arrays with sureness in its levels."""
        return {name: _in_levels(x) if name == SURE else x for name, x in arrays.items()}

    def resized(self, arrays: Mapping[str, np.ndarray], old: Size, new: Size) -> Arrays:
        """Each pixel takes the nearest label, and how sure that is."""
        nearest_ones = {n: each(arrays[n], new, cv2.INTER_NEAREST_EXACT) for n in ("labels", SURE) if n in arrays}
        return {**arrays, **nearest_ones}

    def window(self, members: Iterator[bytes], slot: Slot) -> None:
        labels = slot.place("labels", (slot.cut.length, *slot.size), np.uint8)
        table = label_table(slot.schema, WINDOW_LABELS)
        source = slot.place("source_labels", slot.size, np.uint8)
        for found, to in zip(islice(members, slot.cut.length + 1), [*labels, source], strict=True):
            near = nearest(self.decode("png", found), slot.size)
            to[:] = near if slot.raw else cv2.LUT(near, table)
            if not slot.raw and to.max() == _NO_LABEL:
                convert_labels(near, slot.schema, WINDOW_LABELS)  # says which
        if slot.raw and max(labels.max(), source.max()) >= len(label_set(slot.schema)):
            raise LayerError(f"labels are outside the set {slot.schema!r}")
        if slot.optional is not None:
            sure = slot.place(SURE, (slot.cut.length, *slot.size), np.bool_)
            sure[:] = True
            for to, data in zip(sure if slot.optional else (), members, strict=True):
                to[:] = nearest(from_png(data), slot.size) >= _SURE

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


def _in_levels(sure: np.ndarray) -> np.ndarray:
    levels = (np.arange(256) + 42) // 85 * 85
    return levels.astype(np.uint8)[sure]
