"""The blocks every generator is made of (section 4 of the specification)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remot_model.config import Config
from remot_model.networks import gpu
from remot_model.networks.cpu import InstanceNorm, NormedConv, NormedUpConv, ReflectedConv, infers_on_cpu

Network = TypeVar("Network", bound=nn.Module)
_CHANNELS = 8  # tensor cores take so many at once


def norm_layer(channels: int, config: Config) -> nn.Module:
    """``instance``: statistics of each image and channel; ``layer``: of each image over all channels."""
    if config.norm == "instance":
        return InstanceNorm(channels, config.cpu_kernels, config.fuses)
    return nn.GroupNorm(1, channels, eps=1e-5)


def needs_bias(config: Config) -> bool:
    """Whether the bias of a convolution in front of a norm has an effect: an instance norm takes it away again."""
    return config.norm != "instance"


def initialise(network: Network) -> Network:
    """Weights N(0, 0.02), norm scales N(1, 0.02), biases 0."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, 0.02)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.InstanceNorm2d, nn.GroupNorm)):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
    return network


class ResidualBlock(nn.Module):
    """Two reflect-padded 3x3 convolutions added to the input; no activation behind the sum."""

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        shift = needs_bias(config)
        self.body = nn.Sequential(
            ReflectedConv(channels, config.cpu_kernels, shift),
            norm_layer(channels, config),
            nn.ReLU(inplace=True),
            ReflectedConv(channels, config.cpu_kernels, shift),
            norm_layer(channels, config),
        )

    def forward(self, x: Tensor) -> Tensor:
        parts: Any = self.body
        first, norm, _, second, last = parts
        if not (isinstance(norm, InstanceNorm) and norm.fuses(x)):
            return x + self.body(x)
        y = norm.fused(first.padded(gpu.reflect(x, 1)), slope=0.0, pad=1)
        return last.fused(second.padded(y), residual=x)


def residual_blocks(count: int, config: Config) -> nn.Sequential:
    """`count` residual blocks in a row, [N, features, h, w] -> the same."""
    return nn.Sequential(*(ResidualBlock(config.features, config) for _ in range(count)))


class Encoder(nn.Sequential):
    """E: [N, c, H, W] -> [N, features, H / 2^n, W / 2^n]."""

    def __init__(self, channels: int, config: Config) -> None:
        width, shift = config.ngf, needs_bias(config)
        layers: list[nn.Module] = [NormedConv(channels, width, 7, padding=3, padding_mode="reflect", shift=shift)]
        layers += [norm_layer(width, config), nn.ReLU(inplace=True)]
        for _ in range(config.n_downsample):
            layers += [NormedConv(width, 2 * width, 3, stride=2, padding=1, shift=shift)]
            layers += [norm_layer(2 * width, config), nn.ReLU(inplace=True)]
            width *= 2
        layers += residual_blocks(config.n_blocks - config.decoder_blocks, config)
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        parts: Any = self
        first, norm, *rest = parts
        if not (isinstance(norm, InstanceNorm) and norm.fuses(x)):
            return super().forward(x)
        whole = -(-x.shape[1] // _CHANNELS) * _CHANNELS
        return through([norm, *rest], first.padded(gpu.reflect(x, 3, whole, precision_of(x))))


class Upsampler(nn.Sequential):
    """[N, features, h, w] -> [N, ngf, h * 2^n, w * 2^n]."""

    def __init__(self, config: Config) -> None:
        layers: list[nn.Module] = []
        width = config.features
        for _ in range(config.n_downsample):
            layers += [NormedUpConv(width, width // 2, needs_bias(config))]
            layers += [norm_layer(width // 2, config), nn.ReLU(inplace=True)]
            width //= 2
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return through(self, x)


class DecoderTrunk(nn.Sequential):
    """D: residual blocks, then back to full size; the heads follow."""

    def __init__(self, config: Config) -> None:
        super().__init__(
            residual_blocks(config.decoder_blocks, config),
            Upsampler(config),
        )


class Head(nn.Module):
    """A 7x7 convolution to `channels` and the given activation, which is float32 in every precision."""

    def __init__(self, channels: int, config: Config, activation: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(config.ngf, channels, 7, padding=3, padding_mode="reflect")
        self.activation = activation
        self.on_gpu = config.fuses

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(conv_to_few(x, self.conv.weight, self.conv.bias, self.on_gpu))


class FlowHeads(nn.Module):
    """Flow in pixels and blending weight from one shared trunk."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.scale = config.flow_scale
        self.flow = Head(2, config, nn.Identity())
        self.weight = Head(1, config, nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, ngf, H, W] -> flow [N, 2, H, W] in pixels, weight [N, 1, H, W] in 0..1.

        Both convolutions run as one: a convolution to so few channels costs about the same for one as for three.
        """
        convs = self.flow.conv, self.weight.conv
        weight, bias = (torch.cat([getattr(c, name) for c in convs]) for name in ("weight", "bias"))
        both = conv_to_few(x, weight, bias, self.flow.on_gpu)
        return self.flow.activation(both[:, :2]) * self.scale, self.weight.activation(both[:, 2:])


def conv_to_few(x: Tensor, weight: Tensor, bias: Tensor | None, on_gpu: bool) -> Tensor:
    """A reflect-padded 7x7 convolution to a few channels, float32 [N, K, H, W]."""
    padded = gpu.reflect(x, 3) if on_gpu and gpu.takes(x) else F.pad(x, (3, 3, 3, 3), mode="reflect")
    return F.conv2d(padded, weight, bias).float()


def through(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Layers one after the other; on a GPU a norm and the activation behind it at once."""
    rest = deque(layers)
    while rest:
        layer = rest.popleft()
        behind = rest[0] if rest else None
        if isinstance(layer, InstanceNorm) and isinstance(behind, (nn.ReLU, nn.LeakyReLU)) and layer.fuses(x):
            x = layer.fused(x, slope=getattr(rest.popleft(), "negative_slope", 0.0))
        else:
            x = layer(x)
    return x


def precision_of(x: Tensor) -> torch.dtype:
    """What a convolution of `x` computes in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def over_time(network: nn.Module, x: Tensor) -> Tensor:
    """Run a network on all frames of [N, T, c, H, W]; the result is [N, T, ...].

    They go in one batch, except for inference on a CPU: there a batch is no faster and takes more memory.
    """
    if infers_on_cpu(x):
        return torch.stack([network(frame) for frame in x.unbind(1)], 1)
    y = network(x.flatten(0, 1))
    return y.unflatten(0, x.shape[:2])


def blend(raw: Tensor, warped: Tensor, weight: Tensor, first: bool) -> Tensor:
    """w * raw + (1 - w) * warped; only `raw` for the `first` frame of a clip (equations (2c) and after (15))."""
    if first:
        return raw
    return torch.lerp(warped, raw.float(), weight)


def cast_memory(memory: Tensor) -> Tensor:
    """Memory [N, 2, c, H, W] as channels [N, 2c, H, W], oldest first, cut off from the graph."""
    return torch.flatten(memory.detach(), 1, 2)
