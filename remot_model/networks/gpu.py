"""What stands between the convolutions on a GPU, in kernels of our own: norms, activations, sums and reflected borders.

torch's norms leave the memory layout and the precision that tensor cores want, and each of these steps goes through the
whole map once more. Here a norm is two kernels forward and two back, which do the rest on their way; the kernels are in
`remot_model.networks.kernels`, this is their side of torch. Maps are channels last, float32, bfloat16 or float16; all
arithmetic is float32, and sums are made in a fixed order, so that the same input gives the same bytes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

try:
    import triton

    from remot_model.networks import kernels
except ModuleNotFoundError:  # torch without CUDA
    triton = None

_CHANNELS, _PIXELS = 64, 64  # of a tile
_PROGRAMS = 264  # that a card is busy with; more make nothing faster
_MOST_PARTS = 64
_MANY = 2048  # numbers of a program that goes through a map one by one
_TILES = 4  # that a program which writes goes through
_SMALL, _FEW = 1024, 8  # pixels of a map that one program takes whole, so many channels of it


def takes(x: Tensor) -> bool:
    """Whether these kernels can be used for `x`: on a GPU, where Triton is there, and not while torch compiles."""
    return triton is not None and x.is_cuda and not torch.compiler.is_compiling()


def norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    slope: float = 1.0,
    pad: int = 0,
    residual: Tensor | None = None,
    small: bool = True,
) -> Tensor:
    """Instance norm, then what follows it: y = act(norm(x) * weight + bias) + residual, with a reflected border.

    Args:
        x: [N, C, H, W].
        weight, bias: float32 [C].
        slope: of the activation below 0; 0 is ReLU, 1 none.
        pad: pixels of the border, less than H and W.
        residual: of the shape and type of x; only without a border.
        small: take maps of at most 1024 pixels in one kernel each way.

    Returns:
        [N, C, H + 2 pad, W + 2 pad], of the type of x, channels last.
    """
    residual = None if residual is None else _last(residual)
    return _Norm.apply(_last(x), weight, bias, eps, slope, pad, residual, small and x.shape[2] * x.shape[3] <= _SMALL)


def reflect(x: Tensor, pad: int, channels: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """x [N, C, H, W] with a reflected border of `pad` pixels, channels last.

    Args:
        channels: fill up with zeros to so many; tensor cores want a multiple of 8.
        dtype: of the result.
    """
    return _Reflect.apply(_last(x), pad, channels or x.shape[1], dtype or x.dtype)


def shifted(x: Tensor, bias: Tensor, slope: float) -> Tensor:
    """act(x + bias): x [N, C, H, W], whose memory the result takes; bias [C]; `slope` of the activation below 0."""
    return _Shift.apply(_last(x), bias, slope)


def distance(x: Tensor, y: Tensor) -> Tensor:
    """mean |x - y|, float32, of two maps of one shape; a gradient for x alone."""
    return _Distance.apply(_last(x), _last(y.detach()))


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _new(n: int, c: int, h: int, w: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    kind = dtype or like.dtype
    return torch.empty((n, c, h, w), dtype=kind, device=like.device, memory_format=torch.channels_last)


@cache
def _shares(n: int, c: int, pixels: int) -> tuple[int, int, int, int]:
    """Blocks of channels; into how many parts sums are split, and pixels of each; pixels of a program that writes."""
    blocks = -(-c // _CHANNELS)
    most = min(_MOST_PARTS, -(-pixels // _PIXELS))
    parts = max(1, min(most, -(-_PROGRAMS // (n * blocks))))
    each = _PIXELS  # doubled, so that few kernels serve all sizes
    while each * parts < pixels:
        each *= 2
    return blocks, -(-pixels // each), each, _TILES * _PIXELS


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        slope: float,
        pad: int,
        residual: Tensor | None,
        small: bool,
    ) -> Tensor:
        n, c, h, w = x.shape
        found = torch.empty((n, 2, c), dtype=torch.float32, device=x.device)
        out = _new(n, c, h + 2 * pad, w + 2 * pad, x)
        ctx.save_for_backward(x, weight, bias, found)
        ctx.slope, ctx.pad, ctx.residual, ctx.small = slope, pad, residual is not None, small
        if small:
            kernels.norm_small[(n * -(-c // _FEW),)](
                x, residual, weight, bias, found, out, c, h, w, eps, slope, pad, residual is not None, slope != 1.0,
                triton.next_power_of_2(h * w), _FEW, num_warps=8,
            )  # fmt: skip
            return out
        blocks, parts, each, written = _shares(n, c, h * w)
        sums = torch.empty((n, 2, parts, c), dtype=torch.float32, device=x.device)
        kernels.moments[(n * blocks, parts)](x, sums, c, h * w, parts, each, _PIXELS, _CHANNELS)
        many = triton.next_power_of_2(parts)
        kernels.normalise[(n * blocks, -(-(h * w) // written))](
            x, residual, weight, bias, sums, found, out, c, h, w, parts, eps, slope, each,
            many, written, pad, residual is not None, slope != 1.0, _PIXELS, _CHANNELS,
        )  # fmt: skip
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, found = ctx.saved_tensors
        n, c, h, w = x.shape
        gradient, acts = _last(gradient), ctx.slope != 1.0
        totals = torch.empty((n, 2, c), dtype=torch.float32, device=x.device)
        out = _new(n, c, h, w, x)
        if ctx.small:
            kernels.norm_small_back[(n * -(-c // _FEW),)](
                x, gradient, weight, bias, found, totals, out, c, h, w, ctx.slope, ctx.pad, acts,
                triton.next_power_of_2(h * w), _FEW, num_warps=8,
            )  # fmt: skip
        else:
            blocks, parts, each, written = _shares(n, c, h * w)
            sums = torch.empty((n, 2, parts, c), dtype=torch.float32, device=x.device)
            kernels.gradient_sums[(n * blocks, parts)](
                x, gradient, weight, bias, found, sums, c, h, w, parts, ctx.slope, each, ctx.pad, acts,
                _PIXELS, _CHANNELS,
            )  # fmt: skip
            many = triton.next_power_of_2(parts)
            kernels.normalise_back[(n * blocks, -(-(h * w) // written))](
                x, gradient, weight, bias, found, sums, totals, out, c, h, w, parts, ctx.slope,
                many, written, ctx.pad, acts, _PIXELS, _CHANNELS,
            )  # fmt: skip
        of_bias, of_weight = (totals.sum(0) if n > 1 else totals[0]).unbind(0)
        return out, of_weight, of_bias, None, None, None, gradient if ctx.residual else None, None


class _Reflect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pad: int, channels: int, dtype: torch.dtype) -> Tensor:
        n, c, h, w = x.shape
        ctx.pad, ctx.shape, ctx.dtype = pad, x.shape, x.dtype
        out = _new(n, channels, h + 2 * pad, w + 2 * pad, x, dtype)
        tile = triton.next_power_of_2(min(channels, _CHANNELS))
        grid = (n * -(-channels // tile), -(-(out.shape[2] * out.shape[3]) // _PIXELS))
        kernels.reflected[grid](x, out, c, channels, h, w, pad, _PIXELS, tile)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        n, c, h, w = ctx.shape
        gradient = _last(gradient)
        out = _new(n, c, h, w, gradient, ctx.dtype)
        tile = triton.next_power_of_2(min(c, _CHANNELS))
        grid = (n * -(-c // tile), -(-(h * w) // _PIXELS))
        kernels.reflected_back[grid](gradient, out, c, gradient.shape[1], h, w, ctx.pad, _PIXELS, tile)
        return out, None, None, None


class _Shift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, slope: float) -> Tensor:
        ctx.mark_dirty(x)
        grid = (-(-x.numel() // _MANY),)
        kernels.shifted[grid](x, bias, x.shape[1], x.numel(), slope, _MANY)
        ctx.save_for_backward(x)
        ctx.slope, ctx.wants_bias = slope, bias.requires_grad
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (out,) = ctx.saved_tensors
        found = torch.empty_like(out)
        kernels.shifted_back[(-(-out.numel() // _MANY),)](out, _last(gradient), found, out.numel(), ctx.slope, _MANY)
        return found, found.sum((0, 2, 3), dtype=torch.float32) if ctx.wants_bias else None, None


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        programs = min(1024, -(-x.numel() // _MANY))
        rounds = triton.next_power_of_2(-(-x.numel() // (_MANY * programs)))
        sums = torch.empty(programs, dtype=torch.float32, device=x.device)
        kernels.distances[(programs,)](x, y, sums, x.numel(), rounds, _MANY)
        ctx.save_for_backward(x, y)
        return sums.sum() / x.numel()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        out = torch.empty_like(x)
        kernels.distance_back[(-(-x.numel() // _MANY),)](x, y, gradient, out, x.numel(), _MANY)
        return out, None
