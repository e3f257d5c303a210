"""The normalised convolution layers of all networks, with kernels of their own for inference on a CPU.

A bias in front of an instance norm changes nothing: the norm takes it away again, and its gradient is rounding. So it
is not added; it stays a parameter, because checkpoints hold it. On a GPU that saves a pass over each map, forward and
back.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remot_model.networks import gpu

# Where Winograd's way pays, on CPUs with AVX-512; below, transforming the weights costs what it saves.
_CHANNELS = 512
_TILES = 128

# G of the reference below for both axes, acting on a kernel as nine numbers.
_G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_KERNEL_TO_TILE = torch.kron(_G, _G)


def infers_on_cpu(x: Tensor) -> bool:
    """Whether a CPU works on `x` without gradients; not so while a graph is recorded, for ONNX or `torch.compile`."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _own_kernels_take(x: Tensor) -> bool:
    return infers_on_cpu(x) and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


class InstanceNorm(nn.InstanceNorm2d):
    """Instance normalisation with a scale and a shift a channel; with `own` it overwrites its input where it can.

    Nobody else holds that input, the output of a convolution, so a second map of its size is saved. Vectorised sums
    are also faster than torch's own kernel.
    """

    def __init__(self, channels: int, own: bool, on_gpu: bool = False) -> None:
        """`on_gpu`: with kernels of our own there."""
        super().__init__(channels, eps=1e-5, affine=True)
        self.own, self.on_gpu = own, on_gpu

    def fuses(self, x: Tensor) -> bool:
        """Whether `fused` can be called for `x`."""
        return self.on_gpu and gpu.takes(x)

    def fused(self, x: Tensor, **behind: Any) -> Tensor:
        """The norm and what follows it on a GPU; `behind` as in `remot_model.networks.gpu.norm`."""
        return gpu.norm(x, self.weight, self.bias, self.eps, **behind)

    def forward(self, x: Tensor) -> Tensor:
        if self.fuses(x):
            return self.fused(x)
        if not (self.own and _own_kernels_take(x)):
            return self._plain(x)
        x -= x.mean((2, 3), keepdim=True)
        rows = torch.linalg.vector_norm(x, dim=3, keepdim=True)  # a sum over all at once would round more
        variance = torch.linalg.vector_norm(rows, dim=2, keepdim=True).square() / x[0, 0].numel()
        x *= self.weight[:, None, None] * torch.rsqrt(variance + self.eps)
        x += self.bias[:, None, None]
        return x

    def _plain(self, x: Tensor) -> Tensor:
        """In float32 whatever the precision of `x`, which the result has too."""
        if torch.compiler.is_compiling():
            if getattr(torch.compiler, "is_exporting", bool)():
                return super().forward(x)  # ONNX has an operator of this name
            wide = x.float()  # written out, a compiler fuses it with what stands before and behind it
            variance, mean = torch.var_mean(wide, (2, 3), correction=0, keepdim=True)
            scale = self.weight[:, None, None] * torch.rsqrt(variance + self.eps)
            return ((wide - mean) * scale + self.bias[:, None, None]).to(x.dtype)
        # A group a channel is the same norm; torch's own repeats its weights for each call and is slower everywhere.
        return F.group_norm(x.float(), self.num_features, self.weight, self.bias, self.eps).to(x.dtype)


class NormedConv(nn.Conv2d):
    """A convolution in front of a norm; `shift`: whether its bias is added, which an instance norm would undo."""

    def __init__(self, channels: int, wanted: int, side: int, *, shift: bool, **options: Any) -> None:
        super().__init__(channels, wanted, side, **options)
        self.shift = shift
        assert self.bias is not None
        self.bias.requires_grad_(shift)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight, self.bias if self.shift else None)

    def padded(self, x: Tensor) -> Tensor:
        """The same of an `x` that has its border, and perhaps channels of zeros behind its own."""
        more = x.shape[1] - self.in_channels
        weight = F.pad(self.weight, (0, 0, 0, 0, 0, more)) if more else self.weight
        return F.conv2d(x, weight, self.bias if self.shift else None, self.stride)


class NormedUpConv(nn.ConvTranspose2d):
    """A transposed convolution in front of a norm, to twice the size; `shift` as in `NormedConv`."""

    def __init__(self, channels: int, wanted: int, shift: bool) -> None:
        super().__init__(channels, wanted, 3, stride=2, padding=1, output_padding=1)
        self.shift = shift
        assert self.bias is not None
        self.bias.requires_grad_(shift)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[N, c, h, w] -> [N, wanted, 2h, 2w]; there is no other `output_size`."""
        bias = self.bias if self.shift else None
        return F.conv_transpose2d(x, self.weight, bias, 2, 1, 1)


class ReflectedConv(NormedConv):
    """A 3x3 convolution of as many channels as it gives, reflect-padded; with `own` by Winograd's way where it pays."""

    def __init__(self, channels: int, own: bool, shift: bool) -> None:
        super().__init__(channels, channels, 3, padding=1, padding_mode="reflect", shift=shift)
        self.own = own

    def forward(self, x: Tensor) -> Tensor:
        pays = self.in_channels >= _CHANNELS and x.numel() >= 4 * _TILES * self.in_channels
        if not (self.own and pays and _own_kernels_take(x)):
            return super().forward(x)
        bias = self.bias if self.shift else None
        return winograd(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.weight, bias)


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution with 16 multiplications for each 2x2 tile of output and pair of channels instead of 36.

    F(2x2, 3x3) of Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016 (arXiv 1509.09308). It
    rounds about as much as a direct convolution.

    Args:
        x: float32 [N, C, H + 2, W + 2], padded.
        weight: float32 [K, C, 3, 3].
        bias: float32 [K], or None.

    Returns:
        float32 [N, K, H, W].
    """
    n, c, h, w = x.shape[0], x.shape[1], x.shape[2] - 2, x.shape[3] - 2
    down, along = -(-h // 2), -(-w // 2)
    if h % 2 or w % 2:  # a padding of nothing would copy
        x = F.pad(x, (0, w % 2, 0, h % 2))
    x = x.transpose(0, 1)
    tiles = x.new_empty(4, 4, c, n, down, along)
    for i, rows in enumerate(_to_tile(x, 2, down)):
        for j, values in enumerate(_to_tile(rows, 3, along)):
            tiles[i, j] = values
    kernels = (_KERNEL_TO_TILE @ weight.reshape(-1, 9).T).view(16, -1, c)
    products = torch.bmm(kernels, tiles.view(16, c, -1)).view(4, 4, -1, n, down, along)
    out = x.new_empty(n, len(weight), 2 * down, 2 * along)
    for i, rows in enumerate(_from_tile(products)):
        for j, values in enumerate(_from_tile(rows)):
            shifted = values if bias is None else values + bias[:, None, None, None]
            out[:, :, i::2, j::2] = shifted.transpose(0, 1)
    return out[:, :, :h, :w]


def _to_tile(x: Tensor, axis: int, count: int) -> tuple[Tensor, ...]:
    """B of the reference: the four lines of each of `count` tiles, which overlap by two, as their four sums."""
    a, b, c, d = (x.narrow(axis, i, 2 * count - 1).unfold(axis, 1, 2).squeeze(-1) for i in range(4))
    return a - c, b + c, c - b, b - d


def _from_tile(x: Tensor) -> tuple[Tensor, Tensor]:
    """A of the reference: the two lines of output that the four of a tile stand for, [4, ...] -> two of [...]."""
    return x[0] + x[1] + x[2], x[1] - x[2] - x[3]
