"""Backward flow and its confidence as one ``.npz`` member, ``flow`` int16 [3, h, w].

Planes are dx and dy in 1/64 pixel of the flow's own grid, and the confidence bits; planes, because turning
interleaved int16 into float32 costs more than everything else. The file is an ordinary archive for `numpy.load`;
here it is written with a fast setting and a fixed date, and read by inflating its only entry straight out of the
buffer (see benchmarks/encodings.py for what that saves).
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from remot_data.store.layers._check import LayerError, expect
from remot_data.store.layers._inflate import inflate

FIELDS = {"flow": "npz"}
PER_CLIP = False

SCALE = 64
FORWARD_BACKWARD, PHOTOMETRIC = 1, 2
_MOST_BYTES = 1 << 28  # of one member, unpacked: more is damage


def encode(arrays: Mapping[str, np.ndarray], t: int) -> dict[str, bytes]:
    packed = np.empty((3, *arrays["confidence"].shape[1:]), "<i2")
    packed[:2] = np.rint(np.moveaxis(arrays["flow"][t], -1, 0) * SCALE)
    packed[2] = arrays["confidence"][t]
    body = io.BytesIO()
    np.lib.format.write_array(body, packed, version=(1, 0))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(zipfile.ZipInfo("flow.npy", (1980, 1, 1, 0, 0, 0)), body.getvalue(), zipfile.ZIP_DEFLATED, 1)
    return {"npz": out.getvalue()}


def stored(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with the flow in steps of 1/64 pixel."""
    return {**arrays, "flow": np.rint(arrays["flow"] * SCALE) / np.float32(SCALE)}


def decode(extension: str, data: Any) -> np.ndarray:
    """float32 [3, h, w]: dx and dy in pixels of the flow's grid, and the confidence bits."""
    out = unpack(extension, data).astype(np.float32)
    out[:2] *= np.float32(1 / SCALE)
    return out


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


def check(arrays: Mapping[str, np.ndarray], frames: int, size: tuple[int, int]) -> None:
    flow = expect(arrays, "flow", "float32", (frames, None, None, 2))
    expect(arrays, "confidence", "uint8", flow.shape[:3])
    limit = 32767 / SCALE
    if flow.size and not np.abs(flow).max() <= limit:
        raise LayerError(f"flow must be finite and below {limit:.0f} pixels of its grid")
    if arrays["confidence"].size and arrays["confidence"][0].any():
        raise LayerError("the first frame of a clip has no earlier frame: its flow confidence must be 0")
