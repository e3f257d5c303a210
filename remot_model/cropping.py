"""Regions cut out of their frames, so that the Region GAN works where there is something and nowhere else.

A crop holds what a region shows in the driving layout and in the aligned source, with a margin. Its place and size are
multiples, so that a person who hardly moves keeps the same crop, and crops of one size go through a network together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from remot_model.alignment import boxes

_STEP = 2  # sizes are multiples of so many cells of the networks' coarsest map: fewer sizes, larger batches
_MARGIN = 1  # cells round the content


@dataclass(frozen=True)
class Crop:
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def area(self) -> int:
        """Its number of pixels."""
        return self.height * self.width

    def cut(self, x: Tensor) -> Tensor:
        """[..., H, W] -> [..., height, width]."""
        return x[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def paste(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """[..., height, width] -> [..., H, W], zeros round it."""
        below, right = size[0] - self.top - self.height, size[1] - self.left - self.width
        return F.pad(x, (self.left, right, self.top, below))


def crops_of(content: Tensor, cell: int) -> list[Crop | None]:
    """The crop of each map, None where it is empty.

    Args:
        content: bool [M, H, W], true where something is to be seen; H and W are multiples of `cell`.
        cell: pixels of a cell of the coarsest feature map. Crops begin at multiples of it, leave at least one cell
            round the content where the frame allows it, and are multiples of two cells large, at most the frame.
    """
    found, present = boxes(content)
    limits = content.shape[-2:]

    def crop(box: list[int]) -> Crop:
        (top, height), (left, width) = (
            _span(first, last, cell, limit) for first, last, limit in zip(box[::2], box[1::2], limits, strict=True)
        )
        return Crop(top, left, height, width)

    return [crop(box) if there else None for box, there in zip(found.tolist(), present.tolist(), strict=True)]


def _span(first: int, last: int, cell: int, limit: int) -> tuple[int, int]:
    """Begin and length of a span that holds `first` to `last` with their margin."""
    begin = max(0, (first // cell - _MARGIN) * cell)
    length = -(-(last + 1 + _MARGIN * cell - begin) // (_STEP * cell)) * _STEP * cell
    length = min(length, limit)
    return min(begin, limit - length), length


def by_size(crops: Sequence[Crop | None]) -> list[list[int]]:
    """Indices of the crops, those of one size together; empty ones are left out."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, crop in enumerate(crops):
        if crop is not None:
            groups.setdefault((crop.height, crop.width), []).append(i)
    return list(groups.values())


def cut_all(x: Tensor, crops: Sequence[Crop | None], group: Sequence[int]) -> Tensor:
    """The crops of a group: [M, ..., H, W] -> [len(group), ..., height, width]."""
    return torch.stack([crops[i].cut(x[i]) for i in group])


def on_crops(network: Callable[..., Tensor], crops: Sequence[Crop | None], *inputs: Tensor) -> Tensor:
    """Run a network on the crops of inputs [M, ..., H, W]; the result is [M, c, H, W], 0 outside of them."""
    size = inputs[0].shape[-2:]
    made: dict[int, Tensor] = {}
    for group in by_size(crops):
        outputs = network(*(cut_all(x, crops, group) for x in inputs))
        made |= {i: crops[i].paste(y, size) for i, y in zip(group, outputs, strict=True)}
    like = next(iter(made.values())) if made else inputs[0].new_zeros(3, *size)
    return torch.stack([made[i] if i in made else torch.zeros_like(like) for i in range(len(crops))])
