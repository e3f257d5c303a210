"""Keypoints as a ``.npy`` member, exact, and the optional soft masks of the person and of others as PNG.

Masks are stored in 16 grey levels: their last bits are noise and double their size. How joints were found, where the
detector says so, is a small PNG, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from remot_data import render
from remot_data.schemas import SchemaError, convert_keypoints, keypoint_set
from remot_data.store.layers._check import LayerError, expect, share
from remot_data.store.layers._images import from_png, to_png
from remot_data.store.layers._sizes import each, nearest, smooth
from remot_data.store.layers.base import Arrays, Kind, Size, Slot

_MASKS = ("mask", "others")
_ANYBODY = 128  # value of a mask from which a pixel is somebody's
PCK = 0.05  # a joint agrees within this share of the person's height
_MAGIC = b"\x93NUMPY\x01\x00"


class Pose(Kind):
    """``keypoints`` float32 [T, K, 3] of x, y, confidence; what may be absent: ``mask``, ``others`` uint8 [T, H, W],
    ``checks`` uint8 [T, 2, K].

    The first row of ``checks`` marks what became of a joint, by bits: 1 filled in over time, 2 left and right
    exchanged, 4 taken from a pass backward in time, 8 taken from the mirrored picture, 16 whose side another pass
    calls otherwise. The second row says how far
    other passes saw it elsewhere, whatever they call left, in 1/250 of the person's height, 250 for that or more; 255
    where only one pass looked.

    ``others`` is the soft mask of everybody but the person, 0 where a pixel is rather the person's. A clip in whose
    frames there is nobody else has none.
    """

    name = "pose"
    fields = {"keypoints": "npy", "mask": "mask.png", "others": "others.png", "checks": "checks.png"}
    window_field = "keypoints"
    window_optional = "others"
    window_arrays = {"keypoints": "plain", "source_keypoints": "plain", "pose_map": "image", "others": "map"}
    about_agreement = (
        "Agreement is the share of joints seen by both that lie within 5 % of the person's height of each other."
    )

    def encode(self, arrays: Mapping[str, np.ndarray], t: int) -> dict[str, bytes]:
        masks = {self.fields[name]: to_png(_in_levels(arrays[name][t])) for name in _MASKS if name in arrays}
        checks = {self.fields["checks"]: to_png(arrays["checks"][t])} if "checks" in arrays else {}
        return {"npy": to_npy(arrays["keypoints"][t]), **masks, **checks}

    def decode(self, extension: str, data: Any) -> np.ndarray:
        return from_npy(data) if extension == "npy" else from_png(data)

    def check(self, arrays: Mapping[str, np.ndarray], frames: int, size: Size) -> None:
        points = expect(arrays, "keypoints", "float32", (frames, None, 3))
        if not np.isfinite(points).all():
            raise LayerError("keypoints must be finite")
        if points.size and not (points[..., 2].min() >= 0 and points[..., 2].max() <= 1):
            raise LayerError("keypoint confidences must lie in [0, 1]")
        for name in _MASKS:
            if name in arrays:
                expect(arrays, name, "uint8", (frames, *size))
        if "checks" in arrays:
            expect(arrays, "checks", "uint8", (frames, 2, points.shape[1]))

    def stored(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """The arrays with masks in their 16 levels."""
        return {name: _in_levels(x) if name in _MASKS else x for name, x in arrays.items()}

    def resized(self, arrays: Mapping[str, np.ndarray], old: Size, new: Size) -> Arrays:
        """Coordinates are multiplied, masks are averaged or interpolated."""
        points = arrays["keypoints"] * np.array([new[1] / old[1], new[0] / old[0], 1], np.float32)
        masks = {name: each(arrays[name], new, smooth(old, new)) for name in _MASKS if name in arrays}
        return {**arrays, "keypoints": points, **masks}

    def window(self, members: Iterator[bytes], slot: Slot) -> None:
        points = np.stack([from_npy(data) for data in islice(members, slot.cut.length + 1)])
        height, width = slot.stored
        if slot.size != (height, width):
            points[..., :2] *= np.array([slot.size[1] / width, slot.size[0] / height], np.float32)
        slot.place("keypoints", points[:-1].shape, np.float32)[:] = points[:-1]
        slot.place("source_keypoints", points[-1].shape, np.float32)[:] = points[-1]
        if not slot.raw:
            maps = slot.place("pose_map", (slot.cut.length, *slot.size, 3), np.uint8)
            for to, keypoints in zip(maps, points[:-1], strict=True):
                to[:] = render.pose_map(keypoints, slot.schema, slot.size)

        masks: Iterable[np.ndarray] = ()
        if slot.optional is not None:
            others = slot.place("others", (slot.cut.length, *slot.size), np.bool_)
            others[:] = False
            masks = others if slot.optional else ()
        for to, data in zip(masks, members, strict=True):
            to[:] = nearest(from_png(data), slot.size) >= _ANYBODY

    def schemas(self, schema: str) -> dict[str, str]:
        return {"pose": schema}

    def agreement(
        self, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], schema_a: str, schema_b: str, size: Size
    ) -> Arrays:
        """Distance of the joints that both see, over the person's height, and the share of them that agree.

        Joints are matched by name. The height is that of the box around all points that `a` sees, at least a tenth of
        the frame. ``only_a`` and ``only_b`` are the joints that one alone sees, as a share of those either sees.

        Args:
            a, b: ``keypoints`` float32 [T, K, 3] in their schemas.

        Raises:
            SchemaError: if the sets have no point in common.
        """
        names = [n for n in keypoint_set(schema_a).points if n in keypoint_set(schema_b).points]
        if not names:
            raise SchemaError(f"the keypoint sets {schema_a!r} and {schema_b!r} have no point in common")
        points = [
            convert_keypoints(arrays["keypoints"], schema, schema)[:, [keypoint_set(schema).index(n) for n in names]]
            for arrays, schema in ((a, schema_a), (b, schema_b))
        ]
        seen = [p[..., 2] > 0 for p in points]
        both, either = seen[0] & seen[1], seen[0] | seen[1]
        ys = np.where(a["keypoints"][..., 2] > 0, a["keypoints"][..., 1], np.nan)
        empty = ~(a["keypoints"][..., 2] > 0).any(1)
        ys[empty] = 0.0
        height = np.maximum(np.nanmax(ys, 1) - np.nanmin(ys, 1), 0.1 * size[0])
        distance = np.hypot(*np.moveaxis(points[0][..., :2] - points[1][..., :2], -1, 0)) / height[:, None]
        agree = both & (distance < PCK)
        return {
            "agreement": share(agree.sum(1), both.sum(1)),
            "distance": share(np.where(both, distance, 0).sum(1), both.sum(1)),
            "pck@0.1": share((both & (distance < 0.1)).sum(1), both.sum(1)),
            "only_a": share((seen[0] & ~seen[1]).sum(1), either.sum(1)),
            "only_b": share((seen[1] & ~seen[0]).sum(1), either.sum(1)),
        }

    def pictures(
        self, frames: np.ndarray, arrays: Mapping[str, np.ndarray], schema: str, common: bool = False
    ) -> Sequence[np.ndarray]:
        return [render.draw_keypoints(f, points, schema) for f, points in zip(frames, arrays["keypoints"], strict=True)]


def _in_levels(mask: np.ndarray) -> np.ndarray:
    levels = (np.arange(256) * 15 + 127) // 255 * 17
    return levels.astype(np.uint8)[mask]


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
