"""LPIPS 0.1 with AlexNet: how different two pictures look, after Zhang et al. (CVPR 2018).

The network and its heads are those of the reference package, which publishes only the heads: all come out of another
package that carries both (asset ``lpips-alexnet``). The values agree with the reference to rounding.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ASSET = "lpips-alexnet"
# Width, kernel, stride, padding of AlexNet's convolutions, and whether a pooling comes before.
_LAYERS = (
    (64, 11, 4, 2, False),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, True),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, False),
)
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
SMALLEST = 31  # pixels a side that leave something after the poolings


class LPIPS(nn.Module):
    """The distance of pictures float [B, 3, H, W] in [-1, 1]: float [B], 0 for equal ones.

    Raises:
        ValueError: for pictures of less than 31 pixels a side.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        channels = (3, *(layer[0] for layer in _LAYERS))
        self.convs = nn.ModuleList(
            nn.Conv2d(channels[i], width, kernel, stride, padding)
            for i, (width, kernel, stride, padding, _) in enumerate(_LAYERS)
        )
        self.heads = nn.ParameterList(torch.zeros(width) for width in channels[1:])
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None], persistent=False)
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, file: str | Path) -> LPIPS:
        """The network with the weights of a file, as the asset has them: kernels [H, W, in, out]."""
        from safetensors.torch import load_file

        network, state = cls(), load_file(file)
        for i, conv in enumerate(network.convs):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            conv.weight.copy_(state[f"AlexNet_0/Conv_{i}/kernel"].permute(3, 2, 0, 1))
            conv.bias.copy_(state[f"AlexNet_0/Conv_{i}/bias"])
            network.heads[i].copy_(state[f"NetLinLayer_{i}/Conv_0/kernel"].flatten())
        return network

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        if min(a.shape[-2:]) < SMALLEST:
            raise ValueError(f"LPIPS needs pictures of at least {SMALLEST} pixels a side, not {tuple(a.shape[-2:])}")
        x = (torch.cat([a, b]) - self.shift) / self.scale
        total = x.new_zeros(len(a))
        for conv, head, (*_, pools) in zip(self.convs, self.heads, _LAYERS, strict=True):
            x = F.relu(conv(F.max_pool2d(x, 3, 2) if pools else x))
            unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
            first, second = unit.chunk(2)
            total += ((first - second).square() * head[:, None, None]).sum(1).mean((1, 2))
        return total
