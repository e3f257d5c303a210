"""GAM, the global alignment module: the source person moved and scaled to where the driving person stands.

Section 6 of the specification, equation (4): I_gs(x) = I_fs((x - C_t) / s + C_s) with s = H_t / H_s, from the
boxes of the two person masks. It has no parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Aligned:
    """The aligned source: `image` [N, 3, H, W], -1 outside the person; `labels` int64 [N, H, W].

    A pixel p of the source lands at `scale` * p + `offset`; `scale` is [N], `offset` [N, 2] as x, y in pixels.
    """

    image: Tensor
    labels: Tensor
    scale: Tensor
    offset: Tensor


def boxes(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes of masks and whether there is anything in them.

    Args:
        masks: bool [N, H, W].

    Returns:
        int64 [N, 4], the first and last row and the first and last column (top, bottom, left, right), zeros for an
        empty mask; bool [N], true where the mask is not empty.
    """
    found = masks.flatten(1).any(1)
    sides = []
    for axis in (2, 1):
        line = masks.any(axis).to(torch.int64)
        sides += [line.argmax(1), line.shape[1] - 1 - line.flip(1).argmax(1)]
    return torch.stack(sides, 1) * found[:, None], found


def placement(source_masks: Tensor, driving_masks: Tensor) -> tuple[Tensor, Tensor]:
    """Scale [N] and offset [N, 2] (x, y) that bring the source box to the height and centre of the driving box.

    Heights are last row - first row and centres those of the boxes, so the box's first and last row land exactly
    on those of the driving box. The released code rounds centre and offset to whole pixels of a 1024-pixel canvas;
    here nothing is rounded. Where a mask is empty or one row high there is no alignment: scale 1, offset 0.
    """
    (source, a), (driving, b) = boxes(source_masks), boxes(driving_masks)
    h_s, h_t = source[:, 1] - source[:, 0], driving[:, 1] - driving[:, 0]
    usable = a & b & (h_s > 0) & (h_t > 0)
    scale = torch.where(usable, h_t / h_s.clamp(min=1), 1.0)
    offset = _centres(driving) - scale[:, None] * _centres(source)
    return scale, torch.where(usable[:, None], offset, 0.0)


def align(image: Tensor, labels: Tensor, driving_labels: Tensor, *, enabled: bool = True) -> Aligned:
    """The source foreground aligned to the driving person.

    Args:
        image: float [N, 3, H, W] in [-1, 1], the source image.
        labels: int64 [N, H, W], its layout; 0 is background.
        driving_labels: int64 [N, H, W], the layout to align to.
        enabled: false gives the foreground where it was, for the ablation without GAM.
    """
    foreground = torch.where(labels[:, None] > 0, image, -1.0)
    scale, offset = placement(labels > 0, driving_labels > 0)
    if not enabled:
        scale, offset = torch.ones_like(scale), torch.zeros_like(offset)
    grid = _grid(scale, offset, image.shape[-2:]).to(image.dtype)
    moved = F.grid_sample(
        _blur(foreground + 1, scale), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    moved_labels = F.grid_sample(
        labels[:, None].to(image.dtype), grid, mode="nearest", padding_mode="zeros", align_corners=False
    )
    return Aligned(moved - 1, moved_labels[:, 0].round().long(), scale, offset)


def _centres(box: Tensor) -> Tensor:
    top, bottom, left, right = box.unbind(1)
    return torch.stack([left + right, top + bottom], 1) / 2


def _grid(scale: Tensor, offset: Tensor, size: tuple[int, int]) -> Tensor:
    """Sampling grid [N, H, W, 2] for `align_corners=False`; pixel p of the source lands at scale * p + offset."""
    h, w = size
    y, x = torch.meshgrid(
        torch.arange(h, device=scale.device, dtype=torch.float32),
        torch.arange(w, device=scale.device, dtype=torch.float32),
        indexing="ij",
    )
    place = (torch.stack([x, y], -1) - offset[:, None, None]) / scale[:, None, None, None]
    return (2 * place + 1) / place.new_tensor([w, h]) - 1


def _blur(images: Tensor, scale: Tensor) -> Tensor:
    """A tent of the width of an output pixel where the image shrinks (as PIL's bilinear resize does)."""
    reach = torch.clamp(1 / scale, min=1.0)
    radius = int(torch.ceil(reach.max()).item()) - 1
    if radius == 0:
        return images
    n, c, h, w = images.shape
    taps = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    tent = torch.clamp(1 - taps.abs() / reach[:, None].to(images.dtype), min=0)
    tent = (tent / tent.sum(1, keepdim=True)).repeat_interleave(c, 0)
    x = images.reshape(1, n * c, h, w)
    x = F.conv2d(x, tent[:, None, :, None], padding=(radius, 0), groups=n * c)
    x = F.conv2d(x, tent[:, None, None, :], padding=(0, radius), groups=n * c)
    return x.reshape(n, c, h, w)
