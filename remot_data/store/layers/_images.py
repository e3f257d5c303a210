"""JPEG and PNG: one place for the settings. OpenCV writes both; JPEG is read by simplejpeg, straight into its place."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import cv2
import numpy as np
import simplejpeg

from remot_data.store.layers._check import LayerError
from remot_data.store.layers._inflate import inflate
from remot_data.store.layers._sizes import resize

# 4:4:4 because the pictures are small already: halving their colour again is seen in thin limbs.
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
# Without line filters: labels and masks need none, and the lines need no work but inflating.
_PNG = [
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_DEFAULT,
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_NONE,
]
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY_8 = b"\x08\x00\x00\x00\x00"  # 8 bits, one channel, the only methods there are, not interlaced


def to_jpeg(image: np.ndarray) -> bytes:
    """JPEG of an image uint8 [H, W, 3], RGB, at quality 95 without colour subsampling."""
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _JPEG)[1].tobytes()


def to_png(image: np.ndarray) -> bytes:
    """PNG of a single-channel image uint8 [H, W]."""
    return cv2.imencode(".png", image, _PNG)[1].tobytes()


def from_jpeg(data: Any, into: np.ndarray | None = None) -> np.ndarray:
    """uint8 [H, W, 3], RGB, pixel for pixel what OpenCV gives; in the memory of `into` if the picture has its shape.

    Raises:
        LayerError: for damaged data, also where a decoder could guess the rest.
    """
    try:
        size = simplejpeg.decode_jpeg_header(data)[:2]
        return simplejpeg.decode_jpeg(data, buffer=into if into is not None and into.shape[:2] == size else None)
    except ValueError as error:
        raise LayerError(f"a picture of {len(data)} bytes cannot be decoded ({error})") from error


def into_place(data: Any, to: np.ndarray) -> None:
    """Decode a JPEG into the array `to`, uint8 [h, w, 3], at its size."""
    image = from_jpeg(data, to)
    if not np.may_share_memory(image, to):
        resize(image, to)


def from_png(data: Any) -> np.ndarray:
    """uint8 [H, W]; what `to_png` wrote is only inflated, other PNG files are left to OpenCV."""
    try:
        plain = _unfiltered(bytes(data))
    except struct.error as error:
        raise LayerError(f"a PNG of {len(data)} bytes is damaged ({error})") from error
    if plain is not None:
        return plain
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise LayerError(f"a picture of {len(data)} bytes cannot be decoded")
    return image


def _unfiltered(data: bytes) -> np.ndarray | None:
    """The image of a PNG with 8 bits of grey and no line filter; None for any other PNG."""
    if data[:8] != _SIGNATURE or data[12:16] != b"IHDR" or data[24:29] != _GREY_8:
        return None
    width, height = struct.unpack_from(">II", data, 16)
    at, packed = 8, []
    while at + 12 <= len(data):
        (size,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        if kind in (b"IHDR", b"IDAT"):
            (check,) = struct.unpack_from(">I", data, at + 8 + size)
            if zlib.crc32(data[at + 4 : at + 8 + size]) != check:
                raise LayerError(f"a PNG is damaged: the checksum of its {kind.decode()} does not fit")
        if kind == b"IDAT":
            packed.append(data[at + 8 : at + 8 + size])
        at += 12 + size
    lines = np.frombuffer(inflate(b"".join(packed), 15, height * (width + 1)), np.uint8).reshape(height, width + 1)
    return None if lines[:, 0].any() else lines[:, 1:]
