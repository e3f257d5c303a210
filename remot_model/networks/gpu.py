"""What stands between the convolutions on a GPU, in kernels of our own: norms, activations, sums and reflected borders.

torch's norms leave the memory layout and the precision that tensor cores want, and each of these steps goes through the
whole map once more. Here a norm is two kernels forward and two back, which do the rest on their way. Written in Triton,
which torch for CUDA brings along. Maps are channels last, float32, bfloat16 or float16; all arithmetic is float32, and
sums are made in a fixed order, so that the same input gives the same bytes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
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
    small: bool = False,
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
            _norm_small[(n * -(-c // _FEW),)](
                x, residual, weight, bias, found, out, c, h, w, eps, slope, pad, residual is not None, slope != 1.0,
                triton.next_power_of_2(h * w), _FEW, num_warps=8,
            )  # fmt: skip
            return out
        blocks, parts, each, written = _shares(n, c, h * w)
        sums = torch.empty((n, 2, parts, c), dtype=torch.float32, device=x.device)
        _moments[(n * blocks, parts)](x, sums, c, h * w, parts, each, _PIXELS, _CHANNELS)
        many = triton.next_power_of_2(parts)
        _normalise[(n * blocks, -(-(h * w) // written))](
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
            _norm_small_back[(n * -(-c // _FEW),)](
                x, gradient, weight, bias, found, totals, out, c, h, w, ctx.slope, ctx.pad, acts,
                triton.next_power_of_2(h * w), _FEW, num_warps=8,
            )  # fmt: skip
        else:
            blocks, parts, each, written = _shares(n, c, h * w)
            sums = torch.empty((n, 2, parts, c), dtype=torch.float32, device=x.device)
            _gradient_sums[(n * blocks, parts)](
                x, gradient, weight, bias, found, sums, c, h, w, parts, ctx.slope, each, ctx.pad, acts,
                _PIXELS, _CHANNELS,
            )  # fmt: skip
            many = triton.next_power_of_2(parts)
            _gradient[(n * blocks, -(-(h * w) // written))](
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
        _reflected[grid](x, out, c, channels, h, w, pad, _PIXELS, tile)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        n, c, h, w = ctx.shape
        gradient = _last(gradient)
        out = _new(n, c, h, w, gradient, ctx.dtype)
        tile = triton.next_power_of_2(min(c, _CHANNELS))
        grid = (n * -(-c // tile), -(-(h * w) // _PIXELS))
        _reflected_back[grid](gradient, out, c, gradient.shape[1], h, w, ctx.pad, _PIXELS, tile)
        return out, None, None, None


class _Shift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, slope: float) -> Tensor:
        ctx.mark_dirty(x)
        grid = (-(-x.numel() // _MANY),)
        _shift[grid](x, bias, x.shape[1], x.numel(), slope, _MANY)
        ctx.save_for_backward(x)
        ctx.slope, ctx.wants_bias = slope, bias.requires_grad
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (out,) = ctx.saved_tensors
        found = torch.empty_like(out)
        _shift_back[(-(-out.numel() // _MANY),)](out, _last(gradient), found, out.numel(), ctx.slope, _MANY)
        return found, found.sum((0, 2, 3), dtype=torch.float32) if ctx.wants_bias else None, None


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        programs = min(1024, -(-x.numel() // _MANY))
        rounds = triton.next_power_of_2(-(-x.numel() // (_MANY * programs)))
        sums = torch.empty(programs, dtype=torch.float32, device=x.device)
        _distances[(programs,)](x, y, sums, x.numel(), rounds, _MANY)
        ctx.save_for_backward(x, y)
        return sums.sum() / x.numel()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        out = torch.empty_like(x)
        _distance_back[(-(-x.numel() // _MANY),)](x, y, gradient, out, x.numel(), _MANY)
        return out, None


if triton is not None:
    # A program works on some channels of one image: its first index says which, the second which of the pixels. Tiles
    # are [pixels, channels]. Pointers move to the image first, so that offsets within it stay small.

    @triton.jit
    def _moments(
        x, sums, c, pixels, parts, EACH: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr
    ):  # fmt: skip
        """Mean and sum of squared differences to it, of each part of the pixels: sums [n, 2, parts, c]."""
        blocks = tl.cdiv(c, CHANNELS)
        image, part = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(1)
        channel = (tl.program_id(0) % blocks) * CHANNELS + tl.arange(0, CHANNELS)
        x += image * pixels * c
        mean = tl.zeros((CHANNELS,), tl.float32)
        squares = tl.zeros((CHANNELS,), tl.float32)
        count = 0.0
        for tile in range(0, EACH, PIXELS):
            first = part * EACH + tile
            pixel = first + tl.arange(0, PIXELS)
            there = (pixel < pixels)[:, None] & (channel < c)[None, :]
            value = tl.load(x + pixel[:, None] * c + channel[None, :], there, 0.0).to(tl.float32)
            new = tl.maximum(tl.minimum(PIXELS, pixels - first), 0).to(tl.float32)
            middle = tl.sum(value, 0) / tl.maximum(new, 1.0)
            away = tl.where(there, value - middle[None, :], 0.0)
            step, both = middle - mean, tl.maximum(count + new, 1.0)
            squares += tl.sum(away * away, 0) + step * step * (count * new / both)
            mean += step * (new / both)
            count += new
        where = (image * 2 * parts + part) * c + channel
        tl.store(sums + where, mean, channel < c)
        tl.store(sums + parts * c + where, squares, channel < c)

    @triton.jit
    def _store_padded(out, value, pixel, channel, there, c, h, w, PAD: tl.constexpr):
        """Write a tile into a map with a border, and what is mirrored there."""
        y, x = pixel // w, pixel % w
        for a in tl.static_range(3 if PAD else 1):
            row, ok_y = _mirrored(y, h, a, PAD)
            for b in tl.static_range(3 if PAD else 1):
                column, ok_x = _mirrored(x, w, b, PAD)
                at = (row * (w + 2 * PAD) + column) * c
                tl.store(out + at[:, None] + channel[None, :], value, there & (ok_y & ok_x)[:, None])

    @triton.jit
    def _load_padded(g, pixel, channel, there, c, h, w, PAD: tl.constexpr):
        """The sum of all places in a map with a border that a tile was written to."""
        y, x = pixel // w, pixel % w
        total = tl.zeros((pixel.shape[0], channel.shape[0]), tl.float32)
        for a in tl.static_range(3 if PAD else 1):
            row, ok_y = _mirrored(y, h, a, PAD)
            for b in tl.static_range(3 if PAD else 1):
                column, ok_x = _mirrored(x, w, b, PAD)
                at = (row * (w + 2 * PAD) + column) * c
                here = there & (ok_y & ok_x)[:, None]
                total += tl.load(g + at[:, None] + channel[None, :], here, 0.0).to(tl.float32)
        return total

    @triton.jit
    def _mirrored(i, size, WHICH: tl.constexpr, PAD: tl.constexpr):
        """Where line i is in a map with a border: itself, before the first or behind the last line; and whether."""
        if WHICH == 0:
            return i + PAD, i >= 0
        elif WHICH == 1:
            return PAD - i, (i >= 1) & (i <= PAD)
        else:
            return PAD + 2 * (size - 1) - i, (i <= size - 2) & (i >= size - 1 - PAD)

    @triton.jit
    def _normalise(
        x, residual, weight, bias, sums, found, out, c, h, w, parts, eps, slope, EACH: tl.constexpr,
        MANY: tl.constexpr, WRITTEN: tl.constexpr, PAD: tl.constexpr, ADDS: tl.constexpr, ACTS: tl.constexpr,
        PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
    ):  # fmt: skip
        """Put the parts' moments together, and write the normalised map; found [n, 2, c]: mean and 1 / deviation."""
        blocks, pixels = tl.cdiv(c, CHANNELS), h * w
        image = (tl.program_id(0) // blocks).to(tl.int64)
        channel = (tl.program_id(0) % blocks) * CHANNELS + tl.arange(0, CHANNELS)
        known = channel < c
        part = tl.arange(0, MANY)
        where = (image * 2 * parts + part[:, None]) * c + channel[None, :]
        some = (part < parts)[:, None] & known[None, :]
        means = tl.load(sums + where, some, 0.0)
        squares = tl.load(sums + parts * c + where, some, 0.0)
        counts = tl.maximum(tl.minimum(EACH, pixels - part * EACH), 0).to(tl.float32)[:, None]
        mean = tl.sum(means * counts, 0) / pixels
        away = tl.where(some, means - mean[None, :], 0.0)
        variance = (tl.sum(squares, 0) + tl.sum(away * away * counts, 0)) / pixels
        inverse = 1 / tl.sqrt(variance + eps)
        if tl.program_id(1) == 0:
            tl.store(found + image * 2 * c + channel, mean, known)
            tl.store(found + (image * 2 + 1) * c + channel, inverse, known)
        scale = inverse * tl.load(weight + channel, known, 0.0).to(tl.float32)
        shift = tl.load(bias + channel, known, 0.0).to(tl.float32)
        x += image * pixels * c
        out += image * (h + 2 * PAD) * (w + 2 * PAD) * c
        if ADDS:
            residual += image * pixels * c
        for tile in range(0, WRITTEN, PIXELS):
            pixel = tl.program_id(1) * WRITTEN + tile + tl.arange(0, PIXELS)
            there = (pixel < pixels)[:, None] & known[None, :]
            at = pixel[:, None] * c + channel[None, :]
            value = (tl.load(x + at, there, 0.0).to(tl.float32) - mean[None, :]) * scale[None, :] + shift[None, :]
            if ACTS:
                value = tl.where(value > 0, value, value * slope)
            if ADDS:
                value += tl.load(residual + at, there, 0.0).to(tl.float32)
            _store_padded(out, value.to(out.dtype.element_ty), pixel, channel, there, c, h, w, PAD)

    @triton.jit
    def _gradient_sums(
        x, g, weight, bias, found, sums, c, h, w, parts, slope, EACH: tl.constexpr, PAD: tl.constexpr,
        ACTS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
    ):  # fmt: skip
        """Of each part of the pixels, sums of the gradient and of its product with the norm: sums [n, 2, parts, c]."""
        blocks, pixels = tl.cdiv(c, CHANNELS), h * w
        image, part = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(1)
        channel = (tl.program_id(0) % blocks) * CHANNELS + tl.arange(0, CHANNELS)
        known = channel < c
        mean = tl.load(found + image * 2 * c + channel, known, 0.0)
        inverse = tl.load(found + (image * 2 + 1) * c + channel, known, 0.0)
        scale = tl.load(weight + channel, known, 0.0).to(tl.float32)
        shift = tl.load(bias + channel, known, 0.0).to(tl.float32)
        x += image * pixels * c
        g += image * (h + 2 * PAD) * (w + 2 * PAD) * c
        plain = tl.zeros((CHANNELS,), tl.float32)
        product = tl.zeros((CHANNELS,), tl.float32)
        for tile in range(0, EACH, PIXELS):
            pixel = part * EACH + tile + tl.arange(0, PIXELS)
            there = (pixel < pixels)[:, None] & known[None, :]
            value = tl.load(x + pixel[:, None] * c + channel[None, :], there, 0.0).to(tl.float32)
            normal = tl.where(there, (value - mean[None, :]) * inverse[None, :], 0.0)
            gradient = _load_padded(g, pixel, channel, there, c, h, w, PAD)
            if ACTS:
                gradient = tl.where(normal * scale[None, :] + shift[None, :] > 0, gradient, gradient * slope)
            plain += tl.sum(gradient, 0)
            product += tl.sum(gradient * normal, 0)
        where = (image * 2 * parts + part) * c + channel
        tl.store(sums + where, plain, known)
        tl.store(sums + parts * c + where, product, known)

    @triton.jit
    def _gradient(
        x, g, weight, bias, found, sums, totals, out, c, h, w, parts, slope, MANY: tl.constexpr,
        WRITTEN: tl.constexpr, PAD: tl.constexpr, ACTS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
    ):  # fmt: skip
        """The gradient of the input; totals [n, 2, c]: the sums of all parts."""
        blocks, pixels = tl.cdiv(c, CHANNELS), h * w
        image = (tl.program_id(0) // blocks).to(tl.int64)
        channel = (tl.program_id(0) % blocks) * CHANNELS + tl.arange(0, CHANNELS)
        known = channel < c
        part = tl.arange(0, MANY)
        where = (image * 2 * parts + part[:, None]) * c + channel[None, :]
        some = (part < parts)[:, None] & known[None, :]
        plain = tl.sum(tl.load(sums + where, some, 0.0), 0)
        product = tl.sum(tl.load(sums + parts * c + where, some, 0.0), 0)
        if tl.program_id(1) == 0:
            tl.store(totals + image * 2 * c + channel, plain, known)
            tl.store(totals + (image * 2 + 1) * c + channel, product, known)
        mean = tl.load(found + image * 2 * c + channel, known, 0.0)
        inverse = tl.load(found + (image * 2 + 1) * c + channel, known, 0.0)
        scale = tl.load(weight + channel, known, 0.0).to(tl.float32)
        shift = tl.load(bias + channel, known, 0.0).to(tl.float32)
        x += image * pixels * c
        g += image * (h + 2 * PAD) * (w + 2 * PAD) * c
        out += image * pixels * c
        for tile in range(0, WRITTEN, PIXELS):
            pixel = tl.program_id(1) * WRITTEN + tile + tl.arange(0, PIXELS)
            there = (pixel < pixels)[:, None] & known[None, :]
            at = pixel[:, None] * c + channel[None, :]
            normal = (tl.load(x + at, there, 0.0).to(tl.float32) - mean[None, :]) * inverse[None, :]
            gradient = _load_padded(g, pixel, channel, there, c, h, w, PAD)
            if ACTS:
                gradient = tl.where(normal * scale[None, :] + shift[None, :] > 0, gradient, gradient * slope)
            value = gradient - plain[None, :] / pixels - normal * (product[None, :] / pixels)
            value = value * (inverse * scale)[None, :]
            tl.store(out + at, value.to(out.dtype.element_ty), there)

    @triton.jit
    def _norm_small(
        x, residual, weight, bias, found, out, c, h, w, eps, slope, PAD: tl.constexpr, ADDS: tl.constexpr,
        ACTS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
    ):  # fmt: skip
        """`_moments` and `_normalise` at once, of a map with at most PIXELS pixels."""
        blocks, pixels = tl.cdiv(c, CHANNELS), h * w
        image = (tl.program_id(0) // blocks).to(tl.int64)
        channel = (tl.program_id(0) % blocks) * CHANNELS + tl.arange(0, CHANNELS)
        known, pixel = channel < c, tl.arange(0, PIXELS)
        there = (pixel < pixels)[:, None] & known[None, :]
        at = image * pixels * c + pixel[:, None] * c + channel[None, :]
        value = tl.load(x + at, there, 0.0).to(tl.float32)
        mean = tl.sum(value, 0) / pixels
        value = tl.where(there, value - mean[None, :], 0.0)
        inverse = 1 / tl.sqrt(tl.sum(value * value, 0) / pixels + eps)
        tl.store(found + image * 2 * c + channel, mean, known)
        tl.store(found + (image * 2 + 1) * c + channel, inverse, known)
        scale = inverse * tl.load(weight + channel, known, 0.0).to(tl.float32)
        value = value * scale[None, :] + tl.load(bias + channel, known, 0.0).to(tl.float32)[None, :]
        if ACTS:
            value = tl.where(value > 0, value, value * slope)
        if ADDS:
            value += tl.load(residual + at, there, 0.0).to(tl.float32)
        out += image * (h + 2 * PAD) * (w + 2 * PAD) * c
        _store_padded(out, value.to(out.dtype.element_ty), pixel, channel, there, c, h, w, PAD)

    @triton.jit
    def _norm_small_back(
        x, g, weight, bias, found, totals, out, c, h, w, slope, PAD: tl.constexpr, ACTS: tl.constexpr,
        PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
    ):  # fmt: skip
        """`_gradient_sums` and `_gradient` at once, of a map with at most PIXELS pixels."""
        blocks, pixels = tl.cdiv(c, CHANNELS), h * w
        image = (tl.program_id(0) // blocks).to(tl.int64)
        channel = (tl.program_id(0) % blocks) * CHANNELS + tl.arange(0, CHANNELS)
        known, pixel = channel < c, tl.arange(0, PIXELS)
        there = (pixel < pixels)[:, None] & known[None, :]
        mean = tl.load(found + image * 2 * c + channel, known, 0.0)
        inverse = tl.load(found + (image * 2 + 1) * c + channel, known, 0.0)
        scale = tl.load(weight + channel, known, 0.0).to(tl.float32)
        shift = tl.load(bias + channel, known, 0.0).to(tl.float32)
        at = image * pixels * c + pixel[:, None] * c + channel[None, :]
        value = tl.load(x + at, there, 0.0).to(tl.float32)
        normal = tl.where(there, (value - mean[None, :]) * inverse[None, :], 0.0)
        g += image * (h + 2 * PAD) * (w + 2 * PAD) * c
        gradient = _load_padded(g, pixel, channel, there, c, h, w, PAD)
        if ACTS:
            gradient = tl.where(normal * scale[None, :] + shift[None, :] > 0, gradient, gradient * slope)
        plain, product = tl.sum(gradient, 0), tl.sum(gradient * normal, 0)
        tl.store(totals + image * 2 * c + channel, plain, known)
        tl.store(totals + (image * 2 + 1) * c + channel, product, known)
        value = gradient - plain[None, :] / pixels - normal * (product[None, :] / pixels)
        value = value * (inverse * scale)[None, :]
        tl.store(out + at, value.to(out.dtype.element_ty), there)

    @triton.jit
    def _reflected(x, out, c, channels, h, w, PAD: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
        """A map with a reflected border, and zeros in the channels from c to `channels`."""
        blocks = tl.cdiv(channels, CHANNELS)
        image = (tl.program_id(0) // blocks).to(tl.int64)
        channel = (tl.program_id(0) % blocks) * CHANNELS + tl.arange(0, CHANNELS)
        wide = w + 2 * PAD
        pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
        row, column = tl.abs(pixel // wide - PAD), tl.abs(pixel % wide - PAD)
        row = tl.where(row < h, row, 2 * (h - 1) - row)
        column = tl.where(column < w, column, 2 * (w - 1) - column)
        inside = (pixel < (h + 2 * PAD) * wide)[:, None]
        at = (row * w + column)[:, None] * c + channel[None, :]
        value = tl.load(x + image * h * w * c + at, inside & (channel < c)[None, :], 0.0)
        out += image * (h + 2 * PAD) * wide * channels
        there = inside & (channel < channels)[None, :]
        tl.store(out + pixel[:, None] * channels + channel[None, :], value.to(out.dtype.element_ty), there)

    @triton.jit
    def _reflected_back(g, out, c, channels, h, w, PAD: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
        """The gradient of what `_reflected` was given."""
        blocks = tl.cdiv(c, CHANNELS)
        image = (tl.program_id(0) // blocks).to(tl.int64)
        channel = (tl.program_id(0) % blocks) * CHANNELS + tl.arange(0, CHANNELS)
        pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
        there = (pixel < h * w)[:, None] & (channel < c)[None, :]
        g += image * (h + 2 * PAD) * (w + 2 * PAD) * channels
        value = _load_padded(g, pixel, channel, there, channels, h, w, PAD)
        out += image * h * w * c
        tl.store(out + pixel[:, None] * c + channel[None, :], value.to(out.dtype.element_ty), there)

    # The following go through the numbers of a map in the order of its memory.

    @triton.jit
    def _shift(x, bias, c, count, slope, MANY: tl.constexpr):
        at = tl.program_id(0).to(tl.int64) * MANY + tl.arange(0, MANY)
        value = tl.load(x + at, at < count, 0.0).to(tl.float32) + tl.load(bias + at % c, at < count, 0.0).to(tl.float32)
        tl.store(x + at, tl.where(value > 0, value, value * slope).to(x.dtype.element_ty), at < count)

    @triton.jit
    def _shift_back(out, g, found, count, slope, MANY: tl.constexpr):
        """The activation keeps the sign, so its result says on which side its argument was."""
        at = tl.program_id(0).to(tl.int64) * MANY + tl.arange(0, MANY)
        gradient = tl.load(g + at, at < count, 0.0).to(tl.float32)
        value = tl.load(out + at, at < count, 0.0).to(tl.float32)
        kept = tl.where(value > 0, gradient, gradient * slope)
        tl.store(found + at, kept.to(found.dtype.element_ty), at < count)

    @triton.jit
    def _distances(x, y, sums, count, ROUNDS: tl.constexpr, MANY: tl.constexpr):
        total = tl.zeros((MANY,), tl.float32)
        first = tl.program_id(0).to(tl.int64) * MANY * ROUNDS
        for i in range(0, ROUNDS):
            at = first + i * MANY + tl.arange(0, MANY)
            a = tl.load(x + at, at < count, 0.0).to(tl.float32)
            total += tl.abs(a - tl.load(y + at, at < count, 0.0).to(tl.float32))
        tl.store(sums + tl.program_id(0), tl.sum(total, 0))

    @triton.jit
    def _distance_back(x, y, g, out, count, MANY: tl.constexpr):
        at = tl.program_id(0).to(tl.int64) * MANY + tl.arange(0, MANY)
        a = tl.load(x + at, at < count, 0.0).to(tl.float32) - tl.load(y + at, at < count, 0.0).to(tl.float32)
        sign = tl.where(a > 0, 1.0, tl.where(a < 0, -1.0, 0.0))
        tl.store(out + at, (sign * (tl.load(g) / count)).to(out.dtype.element_ty), at < count)
