"""The map between the stored and the displayed picture: square pixels, mirrored, turned; and crops in either."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
from av.sidedata import sidedata

from remot_data.persons import borders
from remot_data.records import WH, XYWH

# Stored formats with four luma columns a chroma sample: even offsets do not fit them.
_WIDE_CHROMA = ("yuv410p", "yuv411p", "yuvj411p", "uyyvyy411")
_BLUR = 0.04  # standard deviation of what is blurred outside, of the height


@dataclass(frozen=True)
class Geometry:
    """The map between displayed and stored pixels: made square, mirrored left to right, then turned.

    `turns` are quarter turns counter-clockwise.
    """

    stored: WH
    upright: WH
    turns: int = 0
    mirrored: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame, aspect: Fraction | None) -> Geometry:
        """From a decoded frame and the width of a pixel over its height (None or 0: square)."""
        width = round(frame.width * aspect) if aspect else frame.width
        return cls((frame.width, frame.height), (max(width, 1), frame.height), *orientation(frame))

    @property
    def displayed(self) -> WH:
        return self.upright if self.turns % 2 == 0 else self.upright[::-1]

    def to_stored(self, box: XYWH) -> XYWH:
        x, y, w, h = box
        width, height = self.upright
        if self.turns == 1:
            x, y, w, h = width - (y + h), x, h, w
        elif self.turns == 2:
            x, y = width - (x + w), height - (y + h)
        elif self.turns == 3:
            x, y, w, h = y, height - (x + w), h, w
        if self.mirrored:
            x = width - (x + w)
        scale = self.stored[0] / width
        return XYWH((x * scale, y, w * scale, h))

    def to_displayed(self, box: XYWH) -> XYWH:
        scale = self.upright[0] / self.stored[0]
        x, y, w, h = box[0] * scale, box[1], box[2] * scale, box[3]
        width, height = self.upright
        if self.mirrored:
            x = width - (x + w)
        if self.turns == 1:
            x, y, w, h = y, width - (x + w), h, w
        elif self.turns == 2:
            x, y = width - (x + w), height - (y + h)
        elif self.turns == 3:
            x, y, w, h = height - (y + h), x, h, w
        return XYWH((x, y, w, h))

    def show(self, picture: np.ndarray) -> np.ndarray:
        """A stored picture [H, W, 3], already of the displayed shape, mirrored and turned."""
        return np.ascontiguousarray(np.rot90(picture[:, ::-1] if self.mirrored else picture, self.turns))

    def even_box(self, crop: XYWH, inside: bool = False) -> tuple[int, int, int, int]:
        """The box of stored pixels with even corners that is nearest to `crop` (displayed pixels).

        With `inside`, one that does not step over a border of the picture where `crop` does not.
        """
        x, y, w, h = self.to_stored(crop)
        left, top = _even(x), _even(y)
        right, bottom = max(_even(x + w), left + 2), max(_even(y + h), top + 2)
        if inside:
            right, bottom = (
                stop - 2 if stop > limit >= exact - 1e-6 else stop
                for stop, exact, limit in zip((right, bottom), (x + w, y + h), self.stored, strict=True)
            )
        if left >= self.stored[0] or top >= self.stored[1] or right <= 0 or bottom <= 0:
            raise ValueError(f"the crop {tuple(crop)} lies outside the picture of {self.displayed} pixels")
        return left, top, right - left, bottom - top


def _newer_kind(cls: Any, number: int) -> Any:
    kind = object.__new__(cls)
    kind._name_, kind._value_ = f"KIND_{number}", number
    return kind


# PyAV lists all side data of a frame or none: where FFmpeg gives a kind that PyAV has no name for (the views of spatial
# video, EXIF), it raises. So each of those gets a name, and nobody looks at it.
sidedata.Type._missing_ = classmethod(_newer_kind)  # type: ignore[assignment, method-assign]


def _display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """FFmpeg's display matrix, int32 [9], whatever else comes with the frame."""
    # Not `frame.side_data`: that makes a cycle, which would keep the picture until the garbage collector comes by.
    found = sidedata.SideDataContainer(frame)  # type: ignore[call-arg]  # its stub has no constructor
    matrix = found.get("DISPLAYMATRIX")
    return None if matrix is None else np.frombuffer(bytes(matrix), np.int32)


def orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Quarter turns counter-clockwise for display, and whether the picture is mirrored left to right before them.

    The first two rows of the matrix say where the right and the lower neighbour of a pixel are shown.
    """
    matrix = _display_matrix(frame)
    if matrix is None:
        return 0, False
    a, b, _, c, d = matrix[:5].tolist()
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return round(math.degrees(math.atan2(-b, a)) / 90) % 4, mirrored


def _even(value: float) -> int:
    return 2 * math.floor(value / 2 + 0.5)


def crop_steps(box: tuple[int, int, int, int], stored: WH, pixels: str) -> list[tuple[str, str]]:
    """FFmpeg filters that cut `box` out of a picture of size `stored`, repeating its border outside."""
    x, y, w, h = box
    left, top = max(-x, 0), max(-y, 0)
    right, bottom = max(x + w - stored[0], 0), max(y + h - stored[1], 0)
    width, height = w - left - right, h - top - bottom
    outside = bool(left or top or right or bottom)
    # The pad filter loses the last column or row of an odd picture whose chroma is stored at half size.
    full_chroma = pixels in _WIDE_CHROMA or (outside and (width % 2 or height % 2))
    steps = [("format", "yuv444p")] if full_chroma else []
    steps.append(("crop", f"{width}:{height}:{max(x, 0)}:{max(y, 0)}:exact=1"))
    left_over = np.array((left, right, top, bottom))
    while left_over.any():
        # At most as much as is there: the filter takes no border that is more than half of the whole.
        a, b, c, d = added = np.minimum(left_over, (width, width, height, height))
        width, height, left_over = width + a + b, height + c + d, left_over - added
        steps += [("pad", f"{width}:{height}:{a}:{c}"), ("fillborders", f"{a}:{b}:{c}:{d}:smear")]
    return steps


def fill_outside(picture: np.ndarray, outside: str, crop: XYWH, displayed: WH) -> None:
    """Change in place what a crop shows outside the picture, where its border is repeated, to one of `OUTSIDE`.

    Here and not before it is brought to its size: so no pixel of the picture is mixed with what replaces the border.

    Args:
        picture: uint8 [H, W, 3], the crop at any size.
        crop: in a displayed picture of size `displayed`.
    """
    height, width = picture.shape[:2]
    left, right, above, below = borders(crop, displayed, (height, width))
    if outside == "smear" or not (left or right or above or below):
        return
    real = slice(above, height - below), slice(left, width - right)
    kept = picture[real].copy()
    if outside == "blur":
        picture[:] = cv2.GaussianBlur(picture, (0, 0), _BLUR * height, borderType=cv2.BORDER_REPLICATE)
    else:
        picture[:] = 0
    picture[real] = kept
