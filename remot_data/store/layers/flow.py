"""Backward flow and its confidence as one ``.npz`` member, ``flow`` int16 [3, h, w].

Planes are dx and dy in 1/64 pixel of the flow's own grid, and the confidence bits; planes, because turning
interleaved int16 into float32 costs more than everything else. The file is an ordinary archive for `numpy.load`;
here it is written with a fast setting and a fixed date, and read by inflating its only entry straight out of the
buffer (see benchmarks/encodings.py for what that saves).
"""

from __future__ import annotations

import io
import itertools
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from remot_data import render
from remot_data.store.layers._check import LayerError, expect
from remot_data.store.layers._inflate import inflate
from remot_data.store.layers._sizes import each, nearest, resize, smooth
from remot_data.store.layers.base import Arrays, Cut, Kind, Size, Slot

SCALE = 64
CONSISTENT = 1  # bit 0 of the confidence: the flows forward and back agree
PHOTOMETRIC = 2  # bit 1: the warped earlier frame looks like this one
CONFIDENT = CONSISTENT | PHOTOMETRIC
EPE = 1.0  # a pixel's flow agrees within so many pixels
_MOST_BYTES = 1 << 28  # of one member, unpacked: more is damage


class Flow(Kind):
    """``flow`` float32 [T, h, w, 2] back to the frame before, in pixels of its grid, half the frames' size; and
    ``confidence`` uint8 [T, h, w] of bits."""

    name = "flow"
    fields = {"flow": "npz"}
    window_field = "flow"
    window_arrays = {"flow": "vectors", "confidence": "map"}
    about_agreement = "Agreement is the share of pixels with an end-point error below one pixel."
    about_pictures = "Flow: hue is its direction, saturation its length; dark where it is not to be trusted."

    def encode(self, arrays: Mapping[str, np.ndarray], t: int) -> dict[str, bytes]:
        packed = np.empty((3, *arrays["confidence"].shape[1:]), "<i2")
        packed[:2] = np.rint(np.moveaxis(arrays["flow"][t], -1, 0) * SCALE)
        packed[2] = arrays["confidence"][t]
        body = io.BytesIO()
        np.lib.format.write_array(body, packed, version=(1, 0))
        out, entry = io.BytesIO(), zipfile.ZipInfo("flow.npy", (1980, 1, 1, 0, 0, 0))
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr(entry, body.getvalue(), zipfile.ZIP_DEFLATED, 1)
        return {"npz": out.getvalue()}

    def decode(self, extension: str, data: Any) -> np.ndarray:
        """float32 [3, h, w]: dx and dy in pixels of the flow's grid, and the confidence bits."""
        out = unpack(extension, data).astype(np.float32)
        out[:2] *= np.float32(1 / SCALE)
        return out

    def check(self, arrays: Mapping[str, np.ndarray], frames: int, size: Size) -> None:
        flow = expect(arrays, "flow", "float32", (frames, None, None, 2))
        expect(arrays, "confidence", "uint8", flow.shape[:3])
        limit = 32767 / SCALE
        if flow.size and not np.abs(flow).max() <= limit:
            raise LayerError(f"flow must be finite and below {limit:.0f} pixels of its grid")
        if arrays["confidence"].size and arrays["confidence"][0].any():
            raise LayerError("the first frame of a clip has no earlier frame: its flow confidence must be 0")

    def stored(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """The arrays with the flow in steps of 1/64 pixel."""
        return {**arrays, "flow": np.rint(arrays["flow"] * SCALE) / np.float32(SCALE)}

    def stacked(self, samples: Mapping[str, Sequence[Any]]) -> Arrays:
        if "flow" not in samples:
            return {}
        packed = np.stack(samples["flow"])
        return {"flow": np.stack([packed[:, 0], packed[:, 1]], -1), "confidence": packed[:, 2].astype(np.uint8)}

    def resized(self, arrays: Mapping[str, np.ndarray], old: Size, new: Size) -> Arrays:
        """On a grid of half the frames, in pixels of that grid; the confidence bits of the nearest."""
        grid = new[0] // 2, new[1] // 2
        was = arrays["flow"].shape[1:3]
        scale = np.array([grid[1] / was[1], grid[0] / was[0]], np.float32)
        flow = each(arrays["flow"], grid, smooth(was, grid)) * scale
        return {**arrays, "flow": flow, "confidence": each(arrays["confidence"], grid, cv2.INTER_NEAREST_EXACT)}

    def samples(self, cut: Cut) -> Sequence[int]:
        """All between the first and the last frame: flow of a larger step is chained over the frames between."""
        return range(cut.first + (cut.step > 1), cut.frames[-1] + 1)

    def window(self, members: Iterator[bytes], slot: Slot) -> None:
        steps, size = (unpack("npz", data) for data in members), slot.size
        for t, planes in enumerate(steps if slot.cut.step == 1 else _chained(steps, slot.cut)):
            if not t:
                grid = planes.shape[1:]
                size = grid if slot.raw else size
                flow = np.moveaxis(slot.place("flow", (slot.cut.length, *size, 2), np.float32), -1, 1)
                sure = slot.place("confidence", (slot.cut.length, *size), np.bool_)
                scale = np.array([size[1] / grid[1], size[0] / grid[0]], np.float32) / SCALE
                scale = scale[:, None, None]
            if grid == size:
                flow[t] = planes[:2]
                flow[t] *= scale
                np.equal(planes[2], CONFIDENT, out=sure[t])
                continue
            for plane, to in zip(planes[:2] * scale, flow[t], strict=True):
                resize(plane, to)
            sure[t] = nearest((planes[2] == CONFIDENT).view(np.uint8), size)

    def agreement(
        self, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], schema_a: str, schema_b: str, size: Size
    ) -> Arrays:
        """End-point error in pixels of the stored frames; the first frame of a clip has no flow and is NaN.

        Args:
            a, b: ``flow`` float32 [T, h, w, 2] in pixels of its grid, each brought to the frames' size.
        """
        full = [_at_frames(x["flow"], size) for x in (a, b)]
        error = np.hypot(*np.moveaxis(full[0] - full[1], -1, 0))
        error[0] = np.nan
        flat = error.reshape(len(error), -1)
        agreement = np.where(np.isnan(flat[:, 0]), np.nan, (flat < EPE).mean(1))
        return {"agreement": agreement, "epe": flat.mean(1), "epe_95": np.percentile(flat, 95, axis=1)}

    def pictures(
        self, frames: np.ndarray, arrays: Mapping[str, np.ndarray], schema: str, common: bool = False
    ) -> Sequence[np.ndarray]:
        """Colours on one scale; where it is not to be trusted they are dark, but for `common`."""
        flow, size = arrays["flow"], frames.shape[2:0:-1]
        scale = max(1.0, float(np.percentile(np.hypot(flow[..., 0], flow[..., 1]), 99)))
        sure = [None] * len(flow) if common else arrays["confidence"] == CONFIDENT
        images = (render.flow_image(f, scale, trusted) for f, trusted in zip(flow, sure, strict=True))
        return [cv2.resize(image, size, interpolation=cv2.INTER_NEAREST) for image in images]


def unpack(extension: str, data: Any) -> np.ndarray:
    """int16 [3, h, w] as it is stored: dx and dy in 1/64 pixel of the flow's grid, and the confidence bits."""
    data = bytes(data)
    if data[:4] != b"PK\x03\x04":
        raise LayerError("a flow member is not a .npz archive")
    method, packed_size, whole_size = struct.unpack_from("<8xH8xII", data, 0)
    name, extra = struct.unpack_from("<HH", data, 26)
    if method != zipfile.ZIP_DEFLATED or not packed_size or not 0 < whole_size <= _MOST_BYTES:
        raise LayerError("a flow member was not written by this package")
    start = 30 + name + extra
    raw = inflate(data[start : start + packed_size], -15, whole_size)
    header = 10 + int.from_bytes(raw[8:10], "little")
    shape = [int(n) for n in raw[10:header].split(b"(")[1].split(b")")[0].split(b",")]
    if len(shape) != 3 or shape[0] != 3:
        raise LayerError(f"a flow member holds planes [3, h, w], not {shape}")
    return np.frombuffer(raw, "<i2", offset=header).reshape(shape)


def chain(steps: Sequence[np.ndarray]) -> np.ndarray:
    """The flow over several frames, from the flow of each to the one before it, in the order of time.

    From the last frame each pixel is followed back, d <- d + f(x + d), with f read between pixels. The result is
    trusted where every step is, and the way stays inside the picture.

    Args:
        steps: int16 [3, h, w] each, as `unpack` gives them.

    Returns:
        float32 [3, h, w] in the same units.
    """
    total, bits = steps[-1][:2].astype(np.float32), steps[-1][2]
    h, w = bits.shape
    rows, columns = np.indices((h, w), np.float32)
    for planes in reversed(steps[:-1]):
        x, y = columns + total[0] / SCALE, rows + total[1] / SCALE
        for axis in (0, 1):
            earlier = planes[axis].astype(np.float32)
            total[axis] += cv2.remap(earlier, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        inside = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
        found = cv2.remap(planes[2], x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        bits = bits & np.where(inside, found, 0)
    return np.stack([*total, bits.astype(np.float32)])


def _chained(flows: Iterator[np.ndarray], cut: Cut) -> Iterator[np.ndarray]:
    """The flow of each frame of a window to the one `step` before, from that of neighbours; none for the first."""
    for t in range(1, cut.length):
        between = list(itertools.islice(flows, cut.step))
        if t == 1:
            yield np.zeros_like(between[0])
        yield chain(between)


def _at_frames(flow: np.ndarray, size: Size) -> np.ndarray:
    scale = np.array([size[1] / flow.shape[2], size[0] / flow.shape[1]], np.float32)
    return np.stack([cv2.resize(f, size[::-1], interpolation=cv2.INTER_LINEAR) for f in flow]) * scale
