"""Regions cut out of their frames, so that the Region GAN works where there is something and nowhere else.

A crop holds what a region shows in the driving layout and in the aligned source, with a margin. With `crop_parts` a
region of which parts lie far apart, such as arms and legs, gets one for each part where that saves area. Places and
sizes are whole cells of the networks' coarsest map, so that a person who hardly moves keeps the same crops, and crops
of one size go through a network together. With `crop_regions="sizes"` a crop grows to the next of a few sizes, so that
there are no others whatever the frames show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_MARGIN = 1  # cells round the content
_WORTH = 0.8  # of the area of one crop, that several may have at most
# The few sizes: parts that the height and the width of the frame are divided into.
_FEW = ((4, 2), (2, 2), (2, 1), (1, 2), (1, 1))


@dataclass(frozen=True)
class Crop:
    """A rectangle of pixels of one of several maps."""

    map: int
    top: int
    left: int
    height: int
    width: int

    @property
    def area(self) -> int:
        """Its number of pixels."""
        return self.height * self.width

    def cut(self, x: Tensor) -> Tensor:
        """Its part of all maps [M, ..., H, W] -> [..., height, width]."""
        return x[self.map, ..., self.top : self.top + self.height, self.left : self.left + self.width]

    def paste(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """[..., height, width] -> [..., H, W], zeros round it."""
        below, right = size[0] - self.top - self.height, size[1] - self.left - self.width
        return F.pad(x, (self.left, right, self.top, below))


def crops_of(content: Tensor, cell: int, parts: bool = False, few: bool = False) -> list[Crop]:
    """The crops of maps, in their order; an empty map has none, and those of one map do not overlap.

    Args:
        content: bool [M, H, W], true where something is to be seen; H and W are multiples of `cell`.
        cell: pixels of a cell of the coarsest feature map. Crops are whole cells, and leave one round the content where
            the frame allows it.
        parts: whether a map may have several.
        few: whether they get the next of a few sizes, see `grown`.
    """
    grids = F.max_pool2d(content.float(), cell).bool().cpu().numpy()
    found = [Crop(i, *(cell * n for n in place)) for i, grid in enumerate(grids) for place in _rectangles(grid, parts)]
    return [grown(crop, content.shape[-2:], cell) for crop in found] if few else found


def grown(crop: Crop, size: Sequence[int], cell: int) -> Crop:
    """The smallest of five sizes that holds a crop, round the crop's middle as far as the frame of `size` allows.

    They are a quarter by a half, a half by a half, a half by all, all by a half and all of the frame, in whole cells;
    of two with one area the first is taken.
    """
    cells = [[-(-(n // cell) // parts) * cell for n, parts in zip(size, few, strict=True)] for few in _FEW]
    height, width = min((s for s in cells if crop.height <= s[0] and crop.width <= s[1]), key=math.prod)
    top = _moved(crop.top, crop.height, height, size[0], cell)
    return Crop(crop.map, top, _moved(crop.left, crop.width, width, size[1], cell), height, width)


def _moved(start: int, length: int, wanted: int, limit: int, cell: int) -> int:
    """Where a line begins that grows from `length` to `wanted` on both sides alike, in whole cells, within `limit`."""
    return min(max(0, start - (wanted - length) // cell // 2 * cell), limit - wanted)


Rectangle = tuple[int, int, int, int]  # top, left, height, width


def _rectangles(grid: np.ndarray, parts: bool) -> list[Rectangle]:
    """Rectangles of cells that hold all that is true in bool [h, w], with a margin."""
    lines = [np.flatnonzero(grid.any(1 - axis)) for axis in (0, 1)]
    if not len(lines[0]):
        return []
    (top, bottom), (left, right) = (
        (max(0, int(found[0]) - _MARGIN), min(limit, int(found[-1]) + 1 + _MARGIN))
        for found, limit in zip(lines, grid.shape, strict=True)
    )
    best = whole = [(top, left, bottom - top, right - left)]
    for axis, found in enumerate(lines if parts else ()):
        for at in np.flatnonzero(np.diff(found) > 2 * _MARGIN):
            border = int(found[at]) + 1 + _MARGIN
            one, other = np.split(grid, [border], axis)
            down, along = (border, 0) if axis == 0 else (0, border)
            moved = [(down + t, along + x, h, w) for t, x, h, w in _rectangles(other, parts)]
            best = min(best, _rectangles(one, parts) + moved, key=_area)
    return best if _area(best) <= _WORTH * _area(whole) else whole


def _area(rectangles: Sequence[Rectangle]) -> int:
    return sum(height * width for _, _, height, width in rectangles)


def by_size(crops: Sequence[Crop]) -> list[list[Crop]]:
    """The crops, those of one size together."""
    groups: dict[tuple[int, int], list[Crop]] = {}
    for crop in crops:
        groups.setdefault((crop.height, crop.width), []).append(crop)
    return list(groups.values())


def cut_all(x: Tensor, group: Sequence[Crop]) -> Tensor:
    """The crops of a group: [M, ..., H, W] -> [len(group), ..., height, width]."""
    return torch.stack([crop.cut(x) for crop in group])


def on_crops(network: Callable[..., Tensor], crops: Sequence[Crop], *inputs: Tensor) -> Tensor:
    """Run a network on the crops of inputs [M, ..., H, W]; the result is [M, c, H, W], 0 outside of them."""
    size = inputs[0].shape[-2:]
    made: dict[int, Tensor] = {}
    for group in by_size(crops):
        outputs = network(*(cut_all(x, group) for x in inputs))
        for crop, image in zip(group, outputs, strict=True):
            pasted = crop.paste(image, size)
            made[crop.map] = made[crop.map] + pasted if crop.map in made else pasted
    like = next(iter(made.values())) if made else inputs[0].new_zeros(3, *size)
    return torch.stack([made[i] if i in made else torch.zeros_like(like) for i in range(len(inputs[0]))])
