"""The network of SCHP, for inference: Augmented CE2P (Li et al., "Self-Correction for Human Parsing", 2019).

A ResNet-101 with a three-convolution stem and a dilated last stage, a pyramid pooling context (PSP), a parsing decoder
and an edge branch whose features are fused for the final labels. Attributes carry the names of the official
checkpoints, `fushion` included, so that their keys fit as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SLOPE = 0.01  # of the leaky ReLU that is part of the norms outside the backbone
_POOLED = (1, 2, 3, 6)


class LeakyNorm(nn.BatchNorm2d):
    """Batch norm and leaky ReLU in one module, as InPlaceABN has them."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x), _SLOPE, inplace=True)


def _conv(inside: int, out: int, kernel: int = 1, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, out, kernel, stride, dilation * (kernel // 2), dilation, bias=False)


def _leaky(inside: int, out: int, kernel: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(inside, out, kernel), LeakyNorm(out))


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)


class Bottleneck(nn.Module):
    """A residual block of three convolutions; its output has four times `width` channels."""

    def __init__(self, inside: int, width: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        out = 4 * width
        self.conv1, self.bn1 = _conv(inside, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride, dilation), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, out), nn.BatchNorm2d(out)
        changes = stride != 1 or inside != out
        shortcut = [_conv(inside, out, 1, stride), nn.BatchNorm2d(out)]
        self.downsample = nn.Sequential(*shortcut) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)


class Context(nn.Module):
    """Pyramid pooling: means over grids of 1, 2, 3 and 6 cells beside the features themselves."""

    def __init__(self, inside: int = 2048, out: int = 512):
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(n), _conv(inside, out), LeakyNorm(out)) for n in _POOLED
        )
        self.bottleneck = _leaky(inside + len(_POOLED) * out, out, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bottleneck(torch.cat([*(_resized(stage(x), x) for stage in self.stages), x], 1))


class Edge(nn.Module):
    """Features of three stages of the backbone for the outline of the parts.

    `conv4` and `conv5` make the edge map itself, which only training uses.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = _leaky(256, 256), _leaky(512, 256), _leaky(1024, 256)
        self.conv4 = nn.Conv2d(256, 2, 3, padding=1)
        self.conv5 = nn.Conv2d(6, 2, 1)

    def forward(self, x2: Tensor, x3: Tensor, x4: Tensor) -> Tensor:
        first = self.conv1(x2)
        return torch.cat([first, _resized(self.conv2(x3), first), _resized(self.conv3(x4), first)], 1)


class Decoder(nn.Module):
    """Features for the parts out of the context and the first stage; `conv4` makes labels that only training uses."""

    def __init__(self, classes: int):
        super().__init__()
        self.conv1, self.conv2 = _leaky(512, 256), _leaky(256, 48)
        self.conv3 = nn.Sequential(_conv(304, 256), LeakyNorm(256), _conv(256, 256), LeakyNorm(256))
        self.conv4 = nn.Conv2d(256, classes, 1)

    def forward(self, context: Tensor, x2: Tensor) -> Tensor:
        return self.conv3(torch.cat([_resized(self.conv1(context), x2), self.conv2(x2)], 1))


class AugmentedCE2P(nn.Module):
    """Images float [N, 3, S, S], BGR, normalised, to logits float [N, classes, S/4, S/4] of the fusion head."""

    def __init__(self, classes: int):
        super().__init__()
        self.conv1, self.bn1 = _conv(3, 64, 3, 2), nn.BatchNorm2d(64)
        self.conv2, self.bn2 = _conv(64, 64, 3), nn.BatchNorm2d(64)
        self.conv3, self.bn3 = _conv(64, 128, 3), nn.BatchNorm2d(128)
        self.layer1 = _stage(128, 64, 3)
        self.layer2 = _stage(256, 128, 4, stride=2)
        self.layer3 = _stage(512, 256, 23, stride=2)
        self.layer4 = _stage(1024, 512, 3, dilation=2)
        self.context_encoding = Context()
        self.edge = Edge()
        self.decoder = Decoder(classes)
        self.fushion = nn.Sequential(_conv(1024, 256), LeakyNorm(256), nn.Dropout2d(0.1), nn.Conv2d(256, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        x = F.relu(self.bn3(self.conv3(x)), inplace=True)
        x2 = self.layer1(F.max_pool2d(x, 3, 2, 1))
        x3 = self.layer2(x2)
        x4 = self.layer3(x3)
        parts = self.decoder(self.context_encoding(self.layer4(x4)), x2)
        return self.fushion(torch.cat([parts, self.edge(x2, x3, x4)], 1))


def _stage(inside: int, width: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    first = Bottleneck(inside, width, stride, dilation)
    return nn.Sequential(first, *(Bottleneck(4 * width, width, 1, dilation) for _ in range(blocks - 1)))
