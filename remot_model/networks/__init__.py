"""The networks of the three stages, by stage name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from remot_model.config import Config, ConfigError, temporal_spacings
from remot_model.networks.blocks import Network, initialise
from remot_model.networks.discriminator import MultiScaleDiscriminator
from remot_model.networks.layout import LayoutGenerator
from remot_model.networks.region import RegionGenerator
from remot_model.networks.whole import WholeGenerator

Generator = LayoutGenerator | RegionGenerator | WholeGenerator
_GENERATORS: dict[str, Callable[[Config], Generator]] = {
    "layout": LayoutGenerator,
    "region": RegionGenerator,
    "whole": WholeGenerator,
}


def generator(stage: str, config: Config) -> Generator:
    """The generator of a stage, ``layout``, ``region`` or ``whole``, with fresh weights N(0, 0.02)."""
    if stage not in _GENERATORS:
        raise ConfigError(f"no stage is called {stage!r}; there are {', '.join(_GENERATORS)}")
    return _laid_out(initialise(_GENERATORS[stage](config)), config)


def discriminators(stage: str, config: Config) -> nn.ModuleDict:
    """The discriminators of a stage by name, with fresh weights (table of section 8 of the specification).

    ``layout``: `image` and `temporal1`, `temporal3`; ``region``: `image`; ``whole``: `image`, `foreground`,
    `face` and the temporal ones. The number behind `temporal` is the spacing of the frames.
    """
    k = config.layout_classes
    pose, flows = 3, 4

    def make(channels: int, ndf: int = config.ndf, scales: int = config.num_d) -> nn.Module:
        return MultiScaleDiscriminator(channels, ndf, scales, config)

    def temporal(channels: int) -> dict[str, nn.Module]:
        return {f"temporal{s}": make(3 * channels + flows) for s in temporal_spacings(config)}

    if stage == "layout":
        nets = {"image": make(k + pose + k), **temporal(k)}
    elif stage == "region":
        nets = {"image": make(1 + 3, config.region_ndf)}
    elif stage == "whole":
        nets = {"image": make(pose + 6 + 3 + 3), **temporal(3)}
        if config.foreground_d:
            nets["foreground"] = make(pose + 6 + 3)
        if config.face_d:
            nets["face"] = make(1 + 3, scales=1)
    else:
        raise ConfigError(f"no stage is called {stage!r}; there are {', '.join(_GENERATORS)}")
    return _laid_out(initialise(nn.ModuleDict(nets)), config)


def _laid_out(network: Network, config: Config) -> Network:
    """The network as `config.channels_last` wants it; names and values of its weights stay."""
    return laid_out(network) if config.channels_last is True else network


def laid_out(network: Network) -> Network:
    """The network with its weights in the memory layout ``channels_last``."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # it is documented


def converted(network: nn.Module, kind: torch.dtype) -> nn.Module:
    """The network with the weights of its convolutions in the precision that autocast would convert them to each time.

    Everything else stays, so under autocast the results are those of before, to the byte.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.to(kind)
    return network


def compiled(*nets: nn.Module) -> None:
    """Have the methods that run a network compiled when they are first called; its weights and their names stay.

    Of a generator those are `encode`, of all frames, and `step`, of one: shapes that hardly ever change. Where they do,
    with crops, torch compiles the first few and runs the others plainly.
    """
    # A judge's graph is gone through twice, for its own gradient and for the generator's; donated buffers go once.
    torch._functorch.config.donated_buffer = False
    for net in nets:
        if isinstance(net, Generator):
            methods = {name: torch.compile(getattr(net, name), dynamic=False) for name in ("encode", "step")}
            vars(net).update(methods)
        else:
            net.compile(dynamic=False)


def parameter_count(network: nn.Module) -> int:
    """Number of trainable numbers in a network."""
    return sum(p.numel() for p in network.parameters())
