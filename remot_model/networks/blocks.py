"""The blocks every generator is made of (section 4 of the specification)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remot_model.config import Config
from remot_model.networks.cpu import InstanceNorm, ReflectedConv, infers_on_cpu


def norm_layer(channels: int, config: Config) -> nn.Module:
    """``instance``: statistics of each image and channel; ``layer``: of each image over all channels."""
    if config.norm == "instance":
        return InstanceNorm(channels, config.cpu_kernels)
    return nn.GroupNorm(1, channels, eps=1e-5)


def initialise(network: nn.Module) -> nn.Module:
    """Weights N(0, 0.02), norm scales N(1, 0.02), biases 0."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, 0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.InstanceNorm2d, nn.GroupNorm)):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
    return network


class ResidualBlock(nn.Module):
    """Two reflect-padded 3x3 convolutions added to the input; no activation behind the sum."""

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ReflectedConv(channels, config.cpu_kernels),
            norm_layer(channels, config),
            nn.ReLU(inplace=True),
            ReflectedConv(channels, config.cpu_kernels),
            norm_layer(channels, config),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def residual_blocks(count: int, config: Config) -> nn.Sequential:
    """`count` residual blocks in a row, [N, features, h, w] -> the same."""
    return nn.Sequential(*(ResidualBlock(config.features, config) for _ in range(count)))


class Encoder(nn.Sequential):
    """E: [N, c, H, W] -> [N, features, H / 2^n, W / 2^n]."""

    def __init__(self, channels: int, config: Config) -> None:
        width = config.ngf
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 7, padding=3, padding_mode="reflect")]
        layers += [norm_layer(width, config), nn.ReLU(inplace=True)]
        for _ in range(config.n_downsample):
            layers += [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), norm_layer(2 * width, config)]
            layers += [nn.ReLU(inplace=True)]
            width *= 2
        layers += residual_blocks(config.n_blocks - config.decoder_blocks, config)
        super().__init__(*layers)


class Upsampler(nn.Sequential):
    """[N, features, h, w] -> [N, ngf, h * 2^n, w * 2^n]."""

    def __init__(self, config: Config) -> None:
        layers: list[nn.Module] = []
        width = config.features
        for _ in range(config.n_downsample):
            layers += [nn.ConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1)]
            layers += [norm_layer(width // 2, config), nn.ReLU(inplace=True)]
            width //= 2
        super().__init__(*layers)


class DecoderTrunk(nn.Sequential):
    """D: residual blocks, then back to full size; the heads follow."""

    def __init__(self, config: Config) -> None:
        super().__init__(
            residual_blocks(config.decoder_blocks, config),
            Upsampler(config),
        )


class Head(nn.Module):
    """A 7x7 convolution to `channels` and the given activation."""

    def __init__(self, channels: int, config: Config, activation: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(config.ngf, channels, 7, padding=3, padding_mode="reflect")
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv(x))


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
        padded = F.pad(x, (3, 3, 3, 3), mode="reflect")
        both = F.conv2d(padded, torch.cat([c.weight for c in convs]), torch.cat([c.bias for c in convs]))
        return self.flow.activation(both[:, :2]) * self.scale, self.weight.activation(both[:, 2:])


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
    return weight * raw + (1 - weight) * warped


def cast_memory(memory: Tensor) -> Tensor:
    """Memory [N, 2, c, H, W] as channels [N, 2c, H, W], oldest first, cut off from the graph."""
    return torch.flatten(memory.detach(), 1, 2)
