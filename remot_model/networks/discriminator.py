"""The multi-scale patch discriminator (section 4 of the specification)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from remot_model.config import Config
from remot_model.networks.blocks import needs_bias, norm_layer, through
from remot_model.networks.cpu import NormedConv

_WIDEST_FIRST_LAYER = 64
_WIDEST = 512


class PatchDiscriminator(nn.ModuleList):
    """Five convolutions 4x4; every layer's output is returned for feature matching, the logits last."""

    def __init__(self, channels: int, ndf: int, config: Config) -> None:
        layers: list[nn.Module] = [_layer(channels, ndf, 2)]
        width = ndf
        for i in range(1, config.d_layers + 1):
            wider = min(2 * width, _WIDEST)
            layers.append(_layer(width, wider, 2 if i < config.d_layers else 1, config))
            width = wider
        layers.append(nn.Conv2d(width, 1, 4, padding=2))
        super().__init__(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for layer in self:
            x = through(layer, x) if isinstance(layer, nn.Sequential) else layer(x)
            outputs.append(x)
        return outputs


class MultiScaleDiscriminator(nn.ModuleList):
    """Patch discriminators at full, half, ... size; the coarser ones are wider.

    `forward` takes [N, c, H, W] and gives, a scale, the list of layer outputs with the logits last.
    """

    def __init__(self, channels: int, ndf: int, scales: int, config: Config) -> None:
        widest = max(_WIDEST_FIRST_LAYER * config.ndf // 32, ndf)
        super().__init__(PatchDiscriminator(channels, min(widest, ndf * 2**s), config) for s in range(scales))

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        outputs = []
        for i, scale in enumerate(self):
            if i:
                x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
            outputs.append(scale(x))
        return outputs


def _layer(channels: int, width: int, stride: int, config: Config | None = None) -> nn.Sequential:
    shift = config is None or needs_bias(config)
    layers: list[nn.Module] = [NormedConv(channels, width, 4, stride=stride, padding=2, shift=shift)]
    if config is not None:
        layers.append(norm_layer(width, config))
    return nn.Sequential(*layers, nn.LeakyReLU(0.2, inplace=True))
