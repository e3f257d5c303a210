"""Frozen feature maps for perceptual losses and comparisons.

VGG-19 is what the paper names. Its weights are in no published package, those of VGG-16 are: that one stands in for it
where they are absent, and says so. EfficientNet-Lite0 is there by name, for machines on which VGG-16 takes too long.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from remot_data.assets import fetch
from remot_data.detectors.base import file_sha256
from remot_data.errors import RemotError
from remot_model.networks import gpu

log = logging.getLogger(__name__)

VGG19_FILE = "vgg19-dcbb9e9d.pth"
# How many convolutions each of VGG's blocks has before its pooling, up to conv5_1, and the blocks' widths.
_VGG = {"vgg19": (2, 2, 4, 4, 1), "vgg16": (2, 2, 3, 3, 1)}
_VGG_WIDTHS = (64, 128, 256, 512, 512)
_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
# Rows of the EfficientNet-Lite0 table: repeats, kernel, stride of the first, expansion, channels out.
_LITE0 = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# The last block at each of the five resolutions 1/2, 1/4, 1/8, 1/16 and 1/32.
_LITE0_TAPS = (0, 2, 4, 10, 15)
# Spread of these maps on photographs, rounded: divided by it they weigh about as much as VGG-19's in a loss.
_LITE0_SPREAD = (6.0, 9.0, 7.5, 6.5, 3.0)
# A map smaller than this on a side says nothing about place: the layer is skipped.
_SMALLEST = 2


class FeatureError(RemotError, RuntimeError):
    """Feature weights that are not at hand or do not fit; the message says how to get them."""


class Features(nn.Module):
    """A frozen network that turns images into a list of feature maps.

    Attributes:
        name: what the features are, for logs and reports.
        digest: sha256 of the weights file, in hexadecimal.
        weights: one weight for each map of a full list, shallow first.
    """

    def __init__(self, body: nn.Module, name: str, digest: str, weights: tuple[float, ...]) -> None:
        super().__init__()
        self.body: Any = body.eval().requires_grad_(False)
        self.name, self.digest, self.weights = name, digest, weights

    def train(self, mode: bool = True) -> Features:
        """Stays in evaluation mode whatever the model around it does: its statistics are frozen."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of images float [B, 3, H, W] in [-1, 1], shallow first.

        Maps with a side below 2 are left out, so small images give a shorter list; pair it with `weights`
        from the front.
        """
        return self.body(images)


class VGG(nn.Module):
    """The convolutions of VGG-19 or VGG-16 up to relu5_1, under torchvision's names (``features.N.weight``).

    Its maps are relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1. Images go in as they are, in [-1, 1], without ImageNet
    normalisation, as vid2vid and the authors' code do.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, self.taps = 3, set[int]()
        for count, width in zip(_VGG[name], _VGG_WIDTHS, strict=True):
            layers += [nn.MaxPool2d(2)] * bool(layers)
            self.taps.add(len(layers) + 1)
            for _ in range(count):
                # In place would overwrite the maps that are handed out.
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=False)]
                channels = width
        self.features = nn.Sequential(*layers)
        self.on_gpu = False  # whether kernels of our own add biases, for channels_last

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for i, layer in enumerate(self.features):
            if isinstance(layer, nn.MaxPool2d) and min(x.shape[-2:]) < 2 * _SMALLEST:
                break
            fused = self.on_gpu and gpu.takes(x)
            if fused and isinstance(layer, nn.Conv2d):
                x = F.conv2d(x, layer.weight, padding=1)
            elif fused and isinstance(layer, nn.ReLU):
                before = self.features[i - 1]
                assert isinstance(before, nn.Conv2d) and before.bias is not None
                x = gpu.shifted(x, before.bias, 0.0)
            else:
                x = layer(x)
            if i in self.taps:
                maps.append(x)
        return maps


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding, which is uneven at stride 2."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = []
        for size in (x.shape[-1], x.shape[-2]):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads) if any(pads) else x)


def _conv(inside: int, outside: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return _SameConv(inside, outside, kernel, stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Block(nn.Module):
    """Inverted residual: widen, depthwise convolution, narrow; no squeeze-and-excitation in the Lite family."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inside * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = _conv(inside, wide), _norm(wide)
        self._depthwise_conv, self._bn1 = _conv(wide, wide, kernel, stride, groups=wide), _norm(wide)
        self._project_conv, self._bn2 = _conv(wide, outside), _norm(outside)
        self._widens, self._adds = expansion > 1, stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self._widens else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self._adds else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 under the names of its published PyTorch weights, classifier included."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _conv(3, 32, 3, 2), _norm(32)
        blocks, channels = [], 32
        for repeats, kernel, stride, expansion, outside in _LITE0:
            for i in range(repeats):
                blocks.append(_Block(channels, outside, kernel, stride if i == 0 else 1, expansion))
                channels = outside
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _conv(channels, 1280), _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def _normalised(self, images: Tensor) -> Tensor:
        # These weights were trained on (pixel - 127) / 128.
        return (images + 1) * (127.5 / 128) - 127 / 128

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.relu6(self._bn0(self._conv_stem(self._normalised(images))))
        maps: list[Tensor] = []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if min(x.shape[-2:]) < _SMALLEST:
                break
            if i in _LITE0_TAPS:
                maps.append(x / _LITE0_SPREAD[len(maps)])
        return maps

    def classify(self, images: Tensor) -> Tensor:
        """ImageNet logits [B, 1000]: there to check that the weights are what they claim to be."""
        x = F.relu6(self._bn0(self._conv_stem(self._normalised(images))))
        for block in self._blocks:
            x = block(x)
        return self._fc(F.relu6(self._bn1(self._conv_head(x))).mean((-2, -1)))


CHOICES = ("auto", "vgg19", "vgg16", "efficientnet-lite0")


def perceptual(choice: str = "auto", weights: str | Path | None = None, device: str | torch.device = "cpu") -> Features:
    """Frozen perceptual features.

    Args:
        choice: ``vgg19``, ``vgg16``, ``efficientnet-lite0``, or ``auto``: VGG-19 where its weights are at hand,
            otherwise VGG-16 with a warning that names it. ``vgg19:FILE`` and the like name the weights too.
        weights: a file with the weights of the chosen network (of VGG-19 for ``auto``).
        device: where the network goes.

    Raises:
        FeatureError: for an unknown choice, weights that are not at hand, or a file that does not fit.
    """
    choice, _, named = choice.partition(":")
    weights = named or weights
    if choice not in CHOICES:
        raise FeatureError(f"no perceptual features are called {choice!r}; known: {', '.join(CHOICES)}")
    if choice == "efficientnet-lite0":
        return _efficientnet(weights).to(device)
    if choice == "vgg16":
        return _vgg16(weights).to(device)
    file = Path(weights) if weights is not None else _cached_vgg19()
    if file is not None:
        return _vgg19(file).to(device)
    if choice == "vgg19":
        raise FeatureError(
            f"the weights of VGG-19 are not at hand: download torchvision's {VGG19_FILE} and give "
            f"`--features vgg19:FILE`, or put it into {_hub_folder()}; or use `--features vgg16`"
        )
    log.warning(
        "VGG-19 (%s) is not at hand: perceptual features come from VGG-16, a stand-in; results differ from the paper's "
        "loss",
        VGG19_FILE,
    )
    return _vgg16(None).to(device)


def _hub_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _cached_vgg19() -> Path | None:
    file = _hub_folder() / VGG19_FILE
    return file if file.is_file() else None


def _vgg19(file: Path) -> Features:
    body = VGG("vgg19")
    last = max(body.taps)

    def wanted(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: v for k, v in state.items() if k.startswith("features.") and int(k.split(".")[1]) < last}

    return _load(body, file, "vgg19", wanted)


def _vgg16(weights: str | Path | None) -> Features:
    """VGG-16 out of the asset, whose kernels are [H, W, in, out], or out of a file of torchvision's."""
    body = VGG("vgg16")
    convs = [name for name, layer in body.named_modules() if isinstance(layer, nn.Conv2d)]

    def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
        if "VGG16_0/Conv_0/kernel" not in state:
            return {f"{n}.{part}": state[f"{n}.{part}"] for n in convs for part in ("weight", "bias")}
        found = {f"{n}.weight": state[f"VGG16_0/Conv_{i}/kernel"].permute(3, 2, 0, 1) for i, n in enumerate(convs)}
        return found | {f"{n}.bias": state[f"VGG16_0/Conv_{i}/bias"] for i, n in enumerate(convs)}

    return _load(body, Path(weights or fetch("lpips-vgg16")), "vgg16 (stand-in for VGG-19)", renamed)


def _efficientnet(weights: str | Path | None) -> Features:
    file = Path(weights or fetch("efficientnet-lite0"))
    return _load(EfficientNetLite0(), file, "efficientnet-lite0 (stand-in for VGG-19)", lambda state: state)


def _load(body: nn.Module, file: Path, name: str, wanted: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Features:
    if not file.is_file():
        raise FeatureError(f"no weights file {file}; give the path of the weights of {name}")
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        body.load_state_dict(wanted(state), strict=True)
    except Exception as error:  # torch.load raises many kinds for a file that is none of its own
        reason = " ".join(str(error).split())[:300]
        raise FeatureError(f"{file} does not hold the weights of {name}: {reason}") from error
    return Features(body, name, file_sha256(file), _WEIGHTS)
