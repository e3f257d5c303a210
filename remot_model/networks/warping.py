"""Backward warping of images by flow, and flow of several frames."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@cache
def _kept(make: Callable[..., Tensor], *key: Hashable) -> Tensor:
    return make(*key)


def constant(make: Callable[..., Tensor], *key: Any) -> Tensor:
    """`make(*key)`, made once: what a step copies to a device anew would make the device wait for the program.

    A compiler is given the code of `make` instead, and fuses it.
    """
    if torch.compiler.is_compiling():
        return make(*key)
    with torch.inference_mode(False):
        return _kept(make, *key)


def _still(height: int, width: int, device: torch.device) -> Tensor:
    """The sampling grid [H, W, 2] that leaves an image as it is, x and y from -1 to 1."""
    y = torch.arange(height, dtype=torch.float32, device=device) * (2 / (height - 1)) - 1
    x = torch.arange(width, dtype=torch.float32, device=device) * (2 / (width - 1)) - 1
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], -1)


def _units(height: int, width: int, device: torch.device) -> Tensor:
    """What a pixel is in that grid, along x and y."""
    steps = torch.arange(2, device=device)
    return torch.where(steps == 0, 2 / (width - 1), 2 / (height - 1))


def warp(images: Tensor, flow: Tensor) -> Tensor:
    """W(X, O): out(x, y) = X(x + O_x, y + O_y), bilinear, the border repeats; zero flow gives `images`.

    Args:
        images: float [N, C, H, W].
        flow: float [N, 2, H, W], dx and dy in pixels.

    Returns:
        float32 [N, C, H, W].
    """
    h, w = images.shape[-2:]
    flow = flow.float()  # bfloat16 cannot tell neighbouring pixels of a large image apart
    still, units = (constant(make, h, w, flow.device) for make in (_still, _units))
    grid = torch.addcmul(still, flow.movedim(1, -1), units)
    if flow.device.type == "cpu" and (grid.requires_grad or images.requires_grad):
        grid = torch.nan_to_num(grid)  # torch's gradient on a CPU takes a NaN for a place in memory, and crashes
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)


def chain_flow(flows: Tensor) -> Tensor:
    """Flow from the last frame back over all steps.

    Args:
        flows: float [N, n, 2, H, W]; `flows[:, i]` goes from frame i + 1 back to frame i.

    Returns:
        float [N, 2, H, W], from frame n back to frame 0.
    """
    total = flows[:, 0]
    for i in range(1, flows.shape[1]):
        total = flows[:, i] + warp(total, flows[:, i])
    return total
