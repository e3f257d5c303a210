"""From flow between pairs of frames to a flow layer: padding, both directions, the grid and the confidence."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from remot_data.detectors._network import Runner
from remot_data.detectors.base import Arrays, Batched, Pending
from remot_data.store.layers.flow import CONSISTENT, PHOTOMETRIC

if TYPE_CHECKING:
    import torch

_GRID = 2  # frame pixels a cell of the stored flow, as of the DIS flow
_HALF = 0.4975  # of a cell's pixels, as rounding in eighths of a percent leaves it


class Pairs(Batched):
    """Base of detectors whose network gives the flow between two frames: both ways for every frame but the first.

    An item is a frame with the one before it. The confidence bits are those of `remot_data.detectors.dis`.

    Attributes:
        multiple, least: the network takes frames whose sides are multiples of one, and at least the other.
    """

    _runner: Runner
    multiple: int
    least: int

    @abstractmethod
    def estimate(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Flow [N, 2, H, W] from images to others, dx and dy in pixels; images float32 [N, 3, H, W], RGB, 0 to 255."""

    def split(self, frames: np.ndarray, **needed: Arrays) -> np.ndarray:
        """Each frame after the one before it, uint8 [T - 1, 2, H, W, 3]; a view."""
        if len(frames) < 2:
            return np.zeros((0, 2, *frames.shape[1:]), frames.dtype)
        return np.moveaxis(np.lib.stride_tricks.sliding_window_view(frames, 2, axis=0), -1, 1)

    def infer(self, items: np.ndarray) -> Arrays | Pending:
        return self._runner(self._flows, items)

    def join(self, frames: np.ndarray, outputs: Arrays, **needed: Arrays) -> Arrays:
        """`flow` float32 [T, H // 2, W // 2, 2] in pixels of its grid, 0 for the first frame; `confidence` uint8
        [T, H // 2, W // 2]."""
        grid = len(frames), *grid_of(*frames.shape[1:3])
        layer: Arrays = {"flow": np.zeros((*grid, 2), np.float32), "confidence": np.zeros(grid, np.uint8)}
        for name, array in outputs.items():
            layer[name][1:] = array
        return layer

    def _flows(self, pairs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Flow and confidence on the grid for pairs uint8 [N, 2, H, W, 3], earlier and later."""
        import torch

        images = pairs.permute(1, 0, 4, 2, 3).contiguous().float()
        (earlier, later), ((first, second), (rows, columns)) = images, padded(images, self.multiple, self.least)
        flow = self.estimate(torch.cat([second, first]), torch.cat([first, second]))
        back, ahead = flow[:, :, rows, columns].float().chunk(2)
        return on_grid(later, earlier, back, ahead)


def grid_of(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the flow's grid for frames of a size."""
    return max(height // _GRID, 1), max(width // _GRID, 1)


def on_grid(
    frame: torch.Tensor, earlier: torch.Tensor, back: torch.Tensor, ahead: torch.Tensor
) -> dict[str, torch.Tensor]:
    """`flow` float32 [N, h, w, 2] and `confidence` uint8 [N, h, w], as `remot_data.detectors.dis` defines them.

    Args:
        frame: float32 [N, 3, H, W], 0 to 255; `earlier` the frames before them.
        back: float32 [N, 2, H, W], flow from the frames to the earlier ones; `ahead` the other way.
    """
    import torch
    from torch.nn.functional import adaptive_avg_pool2d, grid_sample

    height, width = frame.shape[2:]
    h, w = grid_of(height, width)
    x = torch.arange(width, device=back.device) + back[:, 0]
    y = torch.arange(height, device=back.device)[:, None] + back[:, 1]
    places = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    warped = grid_sample(torch.cat([earlier, ahead], 1), places, padding_mode="border", align_corners=False)
    there, different = warped[:, 3:], frame - warped[:, :3]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    agree = (_norm2(back + there) < 0.01 * (_norm2(back) + _norm2(there)) + 0.5) & inside
    alike = _norm2(different) < 0.02 * 127.5**2
    bits = adaptive_avg_pool2d(torch.stack([agree, alike], 1).float(), (h, w)) >= _HALF
    dx, dy = adaptive_avg_pool2d(back, (h, w)).unbind(1)
    confidence = bits[:, 0].to(torch.uint8) * CONSISTENT + bits[:, 1].to(torch.uint8) * PHOTOMETRIC
    return {"flow": torch.stack([dx * (w / width), dy * (h / height)], -1), "confidence": confidence}


def _norm2(x: torch.Tensor) -> torch.Tensor:
    return (x * x).sum(1)


def padded(images: torch.Tensor, multiple: int, least: int) -> tuple[torch.Tensor, tuple[slice, slice]]:
    """Images [..., C, H, W] repeated outwards at their edges until a network can take them.

    Returns:
        The larger images, whose sides are multiples of `multiple` and at least `least`; and the rows and columns that
        hold the images.
    """
    import torch

    size = images.shape[-2:]
    grown = [max(-(-side // multiple) * multiple, -(-least // multiple) * multiple) for side in size]
    before = [(new - old) // 2 for new, old in zip(grown, size, strict=True)]
    inside = tuple(slice(b, b + side) for b, side in zip(before, size, strict=True))
    if grown != list(size):
        edges = (before[1], grown[1] - size[1] - before[1], before[0], grown[0] - size[0] - before[0])
        flat = torch.nn.functional.pad(images.flatten(0, -4), edges, mode="replicate")
        images = flat.unflatten(0, images.shape[:-3])
    return images, (inside[0], inside[1])
