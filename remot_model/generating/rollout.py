"""The loop over time that training and transfer share: every frame sees the last two outputs.

A clip may be run in pieces: each function returns a `State`, which the next piece takes. Without one a new clip
begins: the conditions before its first frame repeat the first, the memory is zeros (section 10 of the specification).
Batches are [N, T, ...]: N clips side by side, T consecutive frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from remot_data.schemas import REGIONS, label_table
from remot_model.config import Config, ConfigError
from remot_model.devices import infers_in_bfloat16
from remot_model.generating.alignment import Aligned, align
from remot_model.generating.cropping import Crop, crops_of, grown, on_crops
from remot_model.networks.layout import LayoutFrame, LayoutGenerator
from remot_model.networks.region import RegionGenerator
from remot_model.networks.warping import constant
from remot_model.networks.whole import WholeFrame, WholeGenerator

# The context that a stage runs in, by its name; on its own it is none.
Lane = Callable[[str], AbstractContextManager[Any]]
NO_LANE: Lane = nullcontext


@dataclass(frozen=True)
class State:
    """What a clip carries from one piece to the next: two conditions and two outputs, both [N, 2, c, H, W].

    `source` is what the Layout GAN made of the source layout, [N, C, h, w]: it is the same for the whole clip.
    """

    conditions: Tensor
    outputs: Tensor
    source: Tensor | None = None


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """int64 [..., H, W] -> float32 [..., classes, H, W]."""
    return (labels.unsqueeze(-3) == constant(_classes, classes, labels.device)).float()


def to_uint8(images: Tensor) -> Tensor:
    """float [..., c, H, W] in [-1, 1] -> uint8 [..., H, W, c], rounded, on their device."""
    scaled = (images.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).movedim(-3, -1)


def convert_labels(labels: Tensor, source: str, target: str) -> Tensor:
    """int64 label maps of one schema as those of another; the schemas must convert, see `remot_data.schemas`."""
    if source == target:
        return labels
    return constant(_table, source, target, labels.device)[labels]


def _classes(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device)[:, None, None]


def _table(source: str, target: str, device: torch.device) -> Tensor:
    return torch.tensor(label_table(source, target), dtype=torch.int64, device=device)


def windows(frames: Tensor, before: Tensor | None) -> Tensor:
    """Frames t-2, t-1, t side by side: [N, T, c, H, W] -> [N, T, 3c, H, W]; `before` is the two frames before."""
    if before is None:
        before = frames[:, :1].expand(-1, 2, -1, -1, -1)
    padded = torch.cat([before, frames], 1)
    return torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], 2)


def layouts(
    net: LayoutGenerator, source_layout: Tensor, poses: Tensor, state: State | None = None
) -> tuple[LayoutFrame, State]:
    """Run the Layout GAN over T frames.

    Args:
        source_layout: one-hot [N, K, H, W].
        poses: [N, T, 3, H, W] in [-1, 1].
        state: of the piece before.

    Returns:
        A `LayoutFrame` whose tensors are [N, T, ...], and the state for the next piece.
    """
    conditions, source = (state.conditions, state.source) if state else (None, None)
    code = net.encode(source_layout, windows(poses, conditions), source)
    memory = state.outputs if state else torch.zeros_like(source_layout)[:, None].repeat(1, 2, 1, 1, 1)
    begins, conditions = state is None, _last_two(poses, state)
    frames: list[LayoutFrame] = []
    del state  # what it holds is freed with the first frames
    for t, pose in enumerate(code.pose.unbind(1)):
        frames.append(net.step(code.source, pose, memory, begins and t == 0))
        memory = _push(memory, frames[-1].layout)
    return _stack(LayoutFrame, frames), State(conditions, memory, code.source.detach())


def regions(
    net: RegionGenerator,
    config: Config,
    labels: Tensor,
    aligned: Tensor,
    aligned_labels: Tensor,
    state: State | None = None,
) -> tuple[Tensor, State]:
    """Run the Region GAN over T frames, the five regions as one batch, or those whose crops have one size.

    Args:
        config: its configuration.
        labels: int64 [N, T, H, W] in schema remot6.
        aligned: [N, T, 3, H, W], the aligned source image.
        aligned_labels: int64 [N, T, H, W] in schema remot6, moved alike.
        state: of the piece before.

    Returns:
        float [N, T, 5, 3, H, W], 0 outside a region; their sum over the regions is the coarse foreground of
        equation (11). And the state for the next piece.
    """
    masks = _by_region(region_masks(labels))
    parts = _by_region(aligned[:, :, None] * region_masks(aligned_labels))
    context = windows(masks, state.conditions if state else None) if config.mask_frames == 3 else masks
    crops = region_crops(config, labels, aligned_labels)
    codes: Sequence[Tensor] = [] if crops else net.encode(context).unbind(1)
    memory = state.outputs if state else torch.zeros_like(parts[:, :1]).repeat(1, 2, 1, 1, 1)
    conditions = _last_two(masks, state)
    frames: list[Tensor] = []
    del state
    for t in range(labels.shape[1]):
        if crops:
            image = on_crops(net.frame, crops[t], context[:, t], parts[:, t], memory)
        else:
            image = net.step(codes[t], parts[:, t], memory)
        frames.append(image * masks[:, t] if config.clip_regions else image)
        memory = _push(memory, frames[-1])
    made = torch.stack(frames, 1).unflatten(0, (-1, len(REGIONS))).transpose(1, 2)
    return made, State(conditions, memory)


def whole(
    net: WholeGenerator,
    config: Config,
    poses: Tensor,
    labels: Tensor,
    coarse: Tensor,
    aligned: Tensor,
    background: Tensor,
    state: State | None = None,
) -> tuple[WholeFrame, State]:
    """Run the Whole Composition Network over T frames.

    Args:
        config: its configuration.
        poses: [N, T, 3, H, W] in [-1, 1].
        labels: int64 [N, T, H, W] in schema remot6.
        coarse: [N, T, 3, H, W], the sum of the regions.
        aligned: [N, T, 3, H, W], the aligned source foreground, -1 outside.
        background: [N, 3, H, W].
        state: of the piece before.

    Returns:
        A `WholeFrame` whose tensors are [N, T, ...], and the state for the next piece.
    """
    conditions = torch.cat([poses, one_hot(labels, 6)], 2)
    code = net.encode(windows(conditions, state.conditions if state else None), aligned)
    behind = background_of(config, background, labels)
    memory = state.outputs if state else torch.zeros_like(coarse[:, :1]).repeat(1, 2, 1, 1, 1)
    begins, conditions = state is None, _last_two(conditions, state)
    frames: list[WholeFrame] = []
    del state
    for t, codes in enumerate(code.frames()):
        person, first = labels[:, t, None] > 0, begins and t == 0
        frames.append(net.step(*codes, coarse[:, t], person, behind[:, t], memory, first))
        memory = _push(memory, frames[-1].image)
    return _stack(WholeFrame, frames), State(conditions, memory)


def region_masks(labels: Tensor) -> Tensor:
    """Masks of the five regions: int64 [N, T, H, W] in schema remot6 -> float [N, T, 5, 1, H, W]."""
    return one_hot(labels, 6)[..., 1:, :, :].unsqueeze(-3)


def region_crops(config: Config, labels: Tensor, aligned_labels: Tensor) -> list[list[Crop]] | None:
    """Where the regions are worked on: the crops of each frame, or None if the configuration crops nothing.

    The maps of a frame are the five regions of each clip, N * 5. Crops hold the region in the layout and in the aligned
    source, both int64 [N, T, H, W] in schema remot6. Where both are empty the region is absent and comes out as zeros;
    but training needs one crop to have a gradient.
    """
    if not config.crop_regions:
        return None
    if config.crop_regions == "auto":
        raise ConfigError("crop_regions is still 'auto'; remot_model.devices.resolved(config, device) settles it")
    content = _by_region((region_masks(labels) + region_masks(aligned_labels)) > 0)[:, :, 0].transpose(0, 1)
    cell, few = 2**config.n_downsample, config.crop_regions == "sizes"
    maps = content.shape[1]
    crops: list[list[Crop]] = [[] for _ in content]
    for crop in crops_of(content.flatten(0, 1), cell, config.crop_parts, few):
        crops[crop.map // maps].append(replace(crop, map=crop.map % maps))
    if torch.is_grad_enabled() and not any(crops):
        corner = Crop(0, 0, 0, 2 * cell, 2 * cell)
        crops[0].append(grown(corner, (content.shape[-2], content.shape[-1]), cell) if few else corner)
    return crops


def background_of(config: Config, background: Tensor, labels: Tensor) -> Tensor:
    """B^t: [N, 3, H, W] and int64 [N, T, H, W] -> [N, T, 3, H, W], black where the person stands."""
    behind = background[:, None].expand(-1, labels.shape[1], -1, -1, -1)
    return torch.where(labels[:, :, None] > 0, -1.0, behind) if config.background_hole else behind


def align_clip(
    config: Config, source: Tensor, source_labels: Tensor, labels: Tensor, placed: tuple[Tensor, Tensor] | None = None
) -> Aligned:
    """GAM for every frame: source [N, 3, H, W] and [N, H, W], layouts [N, T, H, W] -> `Aligned` of [N, T, ...].

    `placed`: scale [N, T] and offset [N, T, 2] instead of those of the layouts, where they are not NaN.
    """
    n, t = labels.shape[:2]
    moved = align(
        source.repeat_interleave(t, 0),
        source_labels.repeat_interleave(t, 0),
        labels.flatten(0, 1),
        enabled=config.use_gam,
        placed=None if placed is None else (placed[0].flatten(), placed[1].flatten(0, 1)),
    )
    return Aligned(*(getattr(moved, f.name).unflatten(0, (n, t)) for f in fields(Aligned)))


@dataclass(frozen=True)
class Transferred:
    """Frames of a transfer, all [N, T, ...].

    `images` [3, H, W] in [-1, 1]; `labels` int64 [H, W] in schema remot6; `aligned`, the source after GAM;
    `regions` [5, 3, H, W], 0 outside; `coarse` [3, H, W], their sum; `whole`, what the composition network gave,
    None for a configuration without it.
    """

    images: Tensor
    labels: Tensor
    aligned: Aligned
    regions: Tensor
    coarse: Tensor
    whole: WholeFrame | None


@torch.no_grad()
def transfer(
    generators: Mapping[str, nn.Module],
    config: Config,
    source: Tensor,
    source_labels: Tensor,
    poses: Tensor,
    background: Tensor,
    labels: Tensor | None = None,
    states: dict[str, State] | None = None,
    placed: tuple[Tensor, Tensor] | None = None,
    lane: Lane = NO_LANE,
) -> tuple[Transferred, dict[str, State]]:
    """All stages over a piece of a clip: source image and driving poses -> images.

    Networks that were trained in bfloat16 run in it where the device has the instructions for it.

    Args:
        generators: by stage; ``layout`` is needed without `labels`, ``whole`` only if the configuration has a WCN.
        config: of the run.
        source: [N, 3, H, W] in [-1, 1].
        source_labels: int64 [N, H, W] in schema remot11.
        poses: [N, T, 3, H, W] in [-1, 1], the drawn driving poses.
        background: [N, 3, H, W] in [-1, 1].
        labels: int64 [N, T, H, W] in schema remot11, to use these layouts instead of generated ones.
        states: of the piece before; none at the start of a clip. Emptied, so that its memory goes as the next grows.
        placed: scale [N, T] and offset [N, T, 2] for the GAM instead of its own, where they are not NaN.
        lane: gives the context that a stage runs in, by its name, in their order.

    Returns:
        The frames, and the states for the next piece.

    Raises:
        ConfigError: if a generator that is needed was not trained.
    """
    half = infers_in_bfloat16(config, source.device)
    with torch.autocast(source.device.type, torch.bfloat16, enabled=half):
        return _transfer(
            generators, config, source, source_labels, poses, background, labels, states or {}, placed, lane
        )


def _transfer(
    generators: Mapping[str, nn.Module],
    config: Config,
    source: Tensor,
    source_labels: Tensor,
    poses: Tensor,
    background: Tensor,
    labels: Tensor | None,
    states: dict[str, State],
    placed: tuple[Tensor, Tensor] | None,
    lane: Lane,
) -> tuple[Transferred, dict[str, State]]:
    later = {}
    with lane("layout"):
        if labels is None:
            wanted = convert_labels(source_labels, "remot11", config.layout_schema)
            net, source_layout = _need(generators, "layout"), one_hot(wanted, config.layout_classes)
            made, later["layout"] = layouts(net, source_layout, poses, states.pop("layout", None))
            six = convert_labels(made.layout.argmax(2), config.layout_schema, "remot6")
            del made
        else:
            six = convert_labels(labels, "remot11", "remot6")
    with lane("region"):
        aligned = align_clip(config, source, convert_labels(source_labels, "remot11", "remot6"), six, placed)
        parts, later["region"] = regions(
            _need(generators, "region"), config, six, aligned.image, aligned.labels, states.pop("region", None)
        )
        coarse, composed = parts.sum(2), None
    with lane("whole"):
        if config.use_wcn:
            net = _need(generators, "whole")
            composed, later["whole"] = whole(
                net, config, poses, six, coarse, aligned.image, background, states.pop("whole", None)
            )
            images = composed.image
        else:
            images = torch.where(six[:, :, None] > 0, coarse, background[:, None])
        images = images.clamp(-1, 1)
    return Transferred(images, six, aligned, parts, coarse, composed), later


def _need(generators: Mapping[str, nn.Module], stage: str) -> Any:
    if stage not in generators:
        raise ConfigError(f"the run has no {stage} generator; train it with `remot train --stage {stage}`")
    return generators[stage]


def _by_region(x: Tensor) -> Tensor:
    """[N, T, 5, c, H, W] -> [N * 5, T, c, H, W]."""
    return x.transpose(1, 2).flatten(0, 1)


def _push(memory: Tensor, frame: Tensor) -> Tensor:
    return torch.stack([memory[:, 1], frame.detach()], 1)


def _last_two(frames: Tensor, state: State | None) -> Tensor:
    before = state.conditions if state else frames[:, :1].expand(-1, 2, -1, -1, -1)
    return torch.cat([before, frames], 1)[:, -2:]


def _stack(kind: type, frames: list[Any]) -> Any:
    return kind(*(torch.stack([getattr(f, x.name) for f in frames], 1) for x in fields(kind)))
