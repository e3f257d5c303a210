"""Backward warping of images by flow, and flow of several frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
    y = torch.arange(h, dtype=flow.dtype, device=flow.device)[None, :, None] + flow[:, 1]
    x = torch.arange(w, dtype=flow.dtype, device=flow.device)[None, None, :] + flow[:, 0]
    grid = torch.stack([x * (2 / (w - 1)) - 1, y * (2 / (h - 1)) - 1], -1)
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
