"""What each way to store a layer costs to decode and in bytes, beside the one that was chosen.

Times are microseconds a frame in this process, medians of several rounds over real frames; compare within a run.
"""

from __future__ import annotations

import io
import statistics
import time
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from remot_data import synthetic
from remot_data.store import layers
from remot_data.store.layers import _images

_RGB = cv2.IMREAD_COLOR_RGB
Coder = tuple[str, Callable[[int], bytes], Callable[[bytes], Any]]


def measure(kind: str, coders: list[Coder], frames: int, rounds: int = 15) -> None:
    """Print a line a coder: microseconds to decode and to encode, and bytes, a frame."""
    print(f"\n{kind:<34}{'decode us':>10}{'encode us':>10}{'bytes':>9}")
    for name, encode, decode in coders:
        started = time.perf_counter()
        members = [encode(t) for t in range(frames)]
        encoding = (time.perf_counter() - started) / frames
        times = []
        for _ in range(rounds):
            started = time.perf_counter()
            for data in members:
                decode(data)
            times.append((time.perf_counter() - started) / frames)
        size = statistics.mean(map(len, members))
        print(f"{name:<34}{statistics.median(times) * 1e6:>10.0f}{encoding * 1e6:>10.0f}{size:>9.0f}")


def _npz(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, flow=array)
    return out.getvalue()


def _png16(array: np.ndarray) -> bytes:
    shifted = (array.astype(np.int32) + 32768).astype(np.uint16)
    return cv2.imencode(".png", shifted, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def main() -> None:
    cv2.setNumThreads(1)
    scene = synthetic.dance(synthetic.Dancer.random(1), 30)
    arrays = synthetic.layers(scene)
    flow, points = arrays["flow"], arrays["pose"]["keypoints"]
    planes = [np.rint(flow["flow"][..., i] * 64) for i in (0, 1)]
    packed = np.stack([*planes, flow["confidence"]], 1).astype("<i2")
    shape = packed.shape[1:]

    def chosen(kind: str, values: dict[str, np.ndarray], ext: str, name: str) -> Coder:
        module = layers.kind(kind)
        return name, lambda t: module.encode(values, t)[ext], lambda data: module.decode(ext, data)

    def jpeg(quality: int) -> Coder:
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        return (
            f"JPEG {quality}, 4:2:0",
            lambda t: cv2.imencode(".jpg", scene.frames[t][..., ::-1], options)[1].tobytes(),
            _images.from_jpeg,
        )

    def as_float(values: np.ndarray) -> np.ndarray:
        out = values.astype(np.float32)
        out[:2] *= np.float32(1 / 64)
        return out

    def raw(data: bytes) -> np.ndarray:
        return as_float(np.frombuffer(zlib.decompress(data), "<i2").reshape(shape))

    def png16(data: bytes) -> np.ndarray:
        return as_float(np.moveaxis(cv2.imdecode(np.frombuffer(data, "u1"), -1).astype(np.int32) - 32768, -1, 0))

    labels = arrays["parsing"]["labels"]
    png = chosen("parsing", arrays["parsing"], "png", "PNG, no filter, inflated (chosen)")
    by_opencv = ("the same, read by OpenCV", png[1], lambda data: cv2.imdecode(np.frombuffer(data, "u1"), 0))
    runs = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    zstd, lz4 = pa.Codec("zstd", 3), pa.Codec("lz4_raw")

    def packing(name: str, codec: pa.Codec, values: np.ndarray, read: Callable[[np.ndarray], Any]) -> Coder:
        form, size = values.shape[1:], values[0].nbytes
        return (
            name,
            lambda t: codec.compress(values[t].tobytes(), asbytes=True),
            lambda data: read(np.frombuffer(codec.decompress(data, size), values.dtype).reshape(form)),
        )

    best = chosen("frames", {"frames": scene.frames}, "jpg", "JPEG 95, 4:4:4 (chosen)")
    opened = ("the same, read by OpenCV", best[1], lambda data: cv2.imdecode(np.frombuffer(data, "u1"), _RGB))
    measure("frames", [best, opened, jpeg(95)], 30)
    npz = chosen("flow", flow, "npz", "npz from the buffer (chosen)")

    def by_zlib(data: bytes) -> np.ndarray:
        found = zlib.decompress(data[30 + sum(data[26:30:2]) :], -15, packed[0].nbytes + 128)
        return as_float(np.frombuffer(found, "<i2", offset=128).reshape(shape))

    measure(
        "flow",
        [
            npz,
            ("the same, inflated by zlib", npz[1], by_zlib),
            ("npz, numpy.load", lambda t: _npz(packed[t]), lambda d: as_float(np.load(io.BytesIO(d))["flow"])),
            ("zlib 1, no header", lambda t: zlib.compress(packed[t].tobytes(), 1), raw),
            packing("zstd 3, no header", zstd, packed, as_float),
            packing("lz4, no header", lz4, packed, as_float),
            ("PNG, 16 bits a channel", lambda t: _png16(np.moveaxis(packed[t], 0, -1)), png16),
        ],
        30,
    )
    measure(
        "parsing",
        [
            png,
            by_opencv,
            ("PNG, filtered, runs", lambda t: cv2.imencode(".png", labels[t], runs)[1].tobytes(), by_opencv[2]),
            ("PNG, OpenCV's defaults", lambda t: cv2.imencode(".png", labels[t])[1].tobytes(), by_opencv[2]),
            packing("zstd 3, no header", zstd, labels, np.asarray),
            packing("lz4, no header", lz4, labels, np.asarray),
        ],
        30,
    )
    measure(
        "keypoints",
        [
            chosen("pose", {"keypoints": points}, "npy", "npy from the buffer (chosen)"),
            (
                "npy, numpy.load",
                lambda t: layers.kind("pose").encode({"keypoints": points}, t)["npy"],
                lambda d: np.load(io.BytesIO(d)),
            ),
        ],
        30,
    )


if __name__ == "__main__":
    main()
