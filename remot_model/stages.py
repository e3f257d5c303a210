"""The three stages in one vocabulary: each turns a batch into named losses, pairs to judge and pictures.

A stage runs a clip chunk by chunk. The trainer knows no stage; what it logs, judges and draws is what a
`Pass` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remot_data.schemas import label_set
from remot_model import rollout
from remot_model.alignment import boxes
from remot_model.config import Config, temporal_spacings
from remot_model.cropping import Crop, by_size, cut_all
from remot_model.features import Features
from remot_model.losses import (
    Motion,
    Pair,
    Pairs,
    crops,
    image_losses,
    layout_nll,
    motion_losses,
    photometric_confidence,
    triplets,
)
from remot_model.rollout import State, align_clip, background_of, convert_labels, one_hot, region_masks

Tensors = dict[str, Tensor]
_HEAD = label_set("remot6").labels.index("head")


@dataclass(frozen=True)
class Carried:
    """What a chunk leaves to the next of the same clip: the memory, and all outputs so far [N, t, c, H, W]."""

    state: State
    made: Tensor


@dataclass(frozen=True)
class Pass:
    """A chunk's result: weighted `losses`, `pairs` by discriminator, `pictures` [N, T, 3, H, W] in [-1, 1]."""

    losses: Tensors
    pairs: dict[str, Pair | Pairs]
    pictures: Tensors
    carried: Carried


@dataclass(frozen=True)
class Setting:
    """What every stage works with. `generators` are the frozen ones of earlier stages."""

    config: Config
    features: Features | None = None
    generators: Mapping[str, nn.Module] = field(default_factory=dict)


class LayoutStage:
    """Stage 1, section 5 of the specification."""

    needs: tuple[str, ...] = ()
    perceptual = False

    def __init__(self, setting: Setting) -> None:
        self.config = setting.config

    def prepare(self, batch: Tensors, chance: torch.Generator) -> Tensors:
        """Tensors of a whole clip from a batch of windows."""
        c = self.config
        labels = convert_labels(batch["labels"], "remot11", c.layout_schema)
        source = convert_labels(batch["source_labels"], "remot11", c.layout_schema)
        return {
            "labels": labels,
            "layout": one_hot(labels, c.layout_classes),
            "source": one_hot(source, c.layout_classes),
            "pose_map": batch["pose_map"],
            **_measured_flow(batch),
        }

    def run(self, net: nn.Module, clip: Tensors, a: int, b: int, carried: Carried | None) -> Pass:
        """Frames a to b of a prepared clip."""
        c = self.config
        poses, real = clip["pose_map"][:, a:b], clip["layout"][:, a:b]
        out, state = rollout.layouts(net, clip["source"], poses, carried and carried.state)
        motion = _motion(clip, "layout", out.layout, out.flow, out.weight, a, b, carried)
        labels = clip["labels"][:, a:b].flatten(0, 1)
        losses = {
            "nll": c.lambda_nll * layout_nll(out.layout.flatten(0, 1), labels),
            "nll_raw": c.lambda_nll * layout_nll(out.raw.flatten(0, 1), labels),
            **motion_losses(motion, c),
        }
        condition = torch.cat([clip["source"][:, None].expand_as(real), poses], 2)
        made = _so_far(carried, out.layout)
        pairs = {"image": _pair(condition, real, out.layout, out.raw)}
        pairs |= _temporal_pairs(c, clip["layout"][:, :b], made, clip["flow"][:, :b], b - a)
        pictures = {
            "pose": poses,
            "real": _colours(clip["labels"][:, a:b], c.layout_schema),
            "raw": _colours(out.raw.argmax(2), c.layout_schema),
            "made": _colours(out.layout.argmax(2), c.layout_schema),
        }
        return Pass(losses, pairs, pictures, Carried(state, made.detach()))


class RegionStage:
    """Stage 2, section 7 of the specification."""

    needs: tuple[str, ...] = ()
    perceptual = True

    def __init__(self, setting: Setting) -> None:
        self.config, self.features = setting.config, setting.features

    def prepare(self, batch: Tensors, chance: torch.Generator) -> Tensors:
        """Tensors of a whole clip from a batch of windows."""
        six = convert_labels(batch["labels"], "remot11", "remot6")
        return {"frames": batch["frames"], **_aligned(self.config, batch, six)}

    def run(self, net: nn.Module, clip: Tensors, a: int, b: int, carried: Carried | None) -> Pass:
        """Frames a to b of a prepared clip."""
        c = self.config
        labels, aligned, aligned_labels = (clip[k][:, a:b] for k in ("six", "aligned", "aligned_labels"))
        made, state = rollout.regions(net, c, labels, aligned, aligned_labels, carried and carried.state)
        masks = region_masks(labels)
        real = clip["frames"][:, a:b, None] * masks
        groups = _same_size(rollout.region_crops(c, labels, aligned_labels), masks, made, real)
        shares = tuple(m.numel() / masks.numel() for m, _, _ in groups)
        terms = [image_losses(x, y, self.features, c) for _, x, y in groups]
        losses = {"rec": c.lambda_rec * F.l1_loss(made, real)}
        for name in terms[0] if terms else ():
            losses[name] = torch.stack([s * term[name] for s, term in zip(shares, terms, strict=True)]).sum()
        judged = tuple(Pair(torch.cat([m, y], 1), (torch.cat([m, x], 1),)) for m, x, y in groups)
        pairs = {"image": Pairs(judged, shares)}
        pictures = {"aligned": aligned, "real": real.sum(2), "made": made.sum(2)}
        return Pass(losses, pairs, pictures, Carried(state, made.detach().sum(2)))


class WholeStage:
    """Stage 3, section 8 of the specification, on the output of the frozen Region GAN."""

    needs: tuple[str, ...] = ("region",)
    perceptual = True

    def __init__(self, setting: Setting) -> None:
        self.config, self.features, self.generators = setting.config, setting.features, setting.generators

    @torch.no_grad()
    def prepare(self, batch: Tensors, chance: torch.Generator) -> Tensors:
        """Tensors of a whole clip from a batch of windows; without a background the foreground is the image."""
        c = self.config
        real_six = six = convert_labels(batch["labels"], "remot11", "remot6")
        if torch.rand((), generator=chance) < c.predicted_layouts:
            six = self._predicted(batch)
        clip = {"pose_map": batch["pose_map"], **_measured_flow(batch), **_aligned(c, batch, six)}
        clip["foreground"] = torch.where(real_six[:, :, None] > 0, batch["frames"], -1.0)
        clip["image"] = batch["frames"] if "background" in batch else clip["foreground"]
        clip["background"] = batch.get("background", torch.full_like(batch["source"], -1.0))
        parts, _ = rollout.regions(self.generators["region"], c, clip["six"], clip["aligned"], clip["aligned_labels"])
        clip["coarse"] = parts.sum(2)
        clip["source_head"] = (convert_labels(batch["source_labels"], "remot11", "remot6") == _HEAD).flatten(1).any(1)
        return clip

    def run(self, net: nn.Module, clip: Tensors, a: int, b: int, carried: Carried | None) -> Pass:
        """Frames a to b of a prepared clip."""
        c = self.config
        poses, labels, coarse, aligned = (clip[k][:, a:b] for k in ("pose_map", "six", "coarse", "aligned"))
        real, real_fg = clip["image"][:, a:b], clip["foreground"][:, a:b]
        out, state = rollout.whole(
            net, c, poses, labels, coarse, aligned, clip["background"], carried and carried.state
        )
        made = _so_far(carried, out.image)
        both = torch.cat([out.image.flatten(0, 1), out.raw.flatten(0, 1)])
        twice = real.flatten(0, 1).repeat(2, 1, 1, 1)
        losses = {
            "foreground": c.lambda_rec * F.l1_loss(out.foreground, real_fg),
            **{k: 2 * v for k, v in image_losses(both, twice, self.features, c).items()},
            **motion_losses(_motion(clip, "image", out.image, out.flow, out.weight, a, b, carried), c),
        }
        if c.lambda_image:
            losses["image"] = c.lambda_image * (F.l1_loss(out.image, real) + F.l1_loss(out.raw, real))
        pairs = self._pairs(clip, a, b, out, made)
        pictures = {"aligned": aligned, "coarse": coarse, "real": real, "raw": out.raw, "made": out.image}
        return Pass(losses, pairs, pictures, Carried(state, made.detach()))

    def _pairs(self, clip: Tensors, a: int, b: int, out: rollout.WholeFrame, made: Tensor) -> dict[str, Pair]:
        c = self.config
        labels, real, real_fg = (clip[k][:, a:b] for k in ("six", "image", "foreground"))
        condition = torch.cat([clip["pose_map"][:, a:b], one_hot(labels, 6)], 2)
        behind = background_of(c, clip["background"], labels)
        pairs = {"image": _pair(torch.cat([condition, behind], 2), real, out.image, out.raw)}
        if c.foreground_d:
            pairs["foreground"] = _pair(condition, real_fg, out.foreground)
        if c.face_d:
            pairs |= _face_pair(c, labels, clip["source_head"], real_fg, out.foreground)
        return pairs | _temporal_pairs(c, clip["image"][:, :b], made, clip["flow"][:, :b], b - a)

    def _predicted(self, batch: Tensors) -> Tensor:
        c = self.config
        source = one_hot(convert_labels(batch["source_labels"], "remot11", c.layout_schema), c.layout_classes)
        made, _ = rollout.layouts(self.generators["layout"], source, batch["pose_map"])
        return convert_labels(made.layout.argmax(2), c.layout_schema, "remot6")


STAGES = {"layout": LayoutStage, "region": RegionStage, "whole": WholeStage}


def needed_generators(stage: str, config: Config) -> tuple[str, ...]:
    """The earlier stages whose generators a stage runs, frozen."""
    extra = ("layout",) if stage == "whole" and config.predicted_layouts > 0 else ()
    return (*STAGES[stage].needs, *extra)


def _same_size(crops: list[list[Crop]] | None, *images: Tensor) -> list[tuple[Tensor, ...]]:
    """Images [N, T, 5, c, H, W] of all regions as batches of one size: their crops, or the frames without any."""
    frames = [x.movedim(1, 0).flatten(0, 2) for x in images]  # by frame, then clip and region, as the maps of crops are
    if crops is None:
        return [tuple(frames)]
    maps = len(frames[0]) // len(crops)
    flat = [replace(crop, map=t * maps + crop.map) for t, frame in enumerate(crops) for crop in frame]
    return [tuple(cut_all(x, group) for x in frames) for group in by_size(flat)]


def _aligned(config: Config, batch: Tensors, six: Tensor) -> Tensors:
    """Six-class layouts, and the source aligned to them."""
    moved = align_clip(config, batch["source"], convert_labels(batch["source_labels"], "remot11", "remot6"), six)
    return {"six": six, "aligned": moved.image, "aligned_labels": moved.labels}


def _measured_flow(batch: Tensors) -> Tensors:
    """The measured flow, and where to trust it: the photometric test on foreground images, and the stored test.

    The first frame of a window has no frame before it: its confidence is 0.
    """
    flow = batch["flow"]
    foreground = torch.where(batch["labels"][:, :, None] > 0, batch["frames"], -1.0)
    before = torch.cat([foreground[:, :1], foreground[:, :-1]], 1)
    sure = photometric_confidence(foreground.flatten(0, 1), before.flatten(0, 1), flow.flatten(0, 1))
    sure = sure.unflatten(0, flow.shape[:2]) * batch["confidence"]
    sure[:, 0] = 0
    return {"flow": flow, "confidence": sure}


def _motion(
    clip: Tensors, name: str, made: Tensor, flow: Tensor, weight: Tensor, a: int, b: int, carried: Carried | None
) -> Motion:
    real = clip[name]
    real_before = torch.cat([real[:, :1], real], 1)[:, a:b]
    first = carried.made[:, -1:] if carried else torch.zeros_like(made[:, :1])
    made_before = torch.cat([first, made[:, :-1].detach()], 1)
    parts = (
        real[:, a:b],
        real_before,
        made,
        made_before,
        flow,
        weight,
        clip["flow"][:, a:b],
        clip["confidence"][:, a:b],
    )
    return Motion(*(x.flatten(0, 1) for x in parts))


def _so_far(carried: Carried | None, new: Tensor) -> Tensor:
    return torch.cat([carried.made, new], 1) if carried else new


def _pair(condition: Tensor, real: Tensor, *fakes: Tensor) -> Pair:
    """A pair from tensors [N, T, c, H, W]."""
    joined = [torch.cat([condition, x], 2).flatten(0, 1) for x in (real, *fakes)]
    return Pair(joined[0], tuple(joined[1:]))


def _temporal_pairs(config: Config, real: Tensor, made: Tensor, flow: Tensor, new: int) -> dict[str, Pair]:
    pairs = {}
    for spacing in temporal_spacings(config):
        of_real, of_made = (triplets(x, flow, spacing, new, config.flow_scale) for x in (real, made))
        if of_real is not None and of_made is not None:
            pairs[f"temporal{spacing}"] = Pair(of_real, (of_made,))
    return pairs


def _face_pair(config: Config, labels: Tensor, source_head: Tensor, real: Tensor, made: Tensor) -> dict[str, Pair]:
    """Crops around the head of each frame; frames without a head, or with a source without one, are left out."""
    heads = (labels == _HEAD).flatten(0, 1)
    box, found = boxes(heads)
    keep = found & source_head.repeat_interleave(labels.shape[1])
    if not keep.any():
        return {}
    mask = heads[:, None].float()
    crop = [crops(torch.cat([mask, x.flatten(0, 1)], 1)[keep], box[keep], config.face_size) for x in (real, made)]
    return {"face": Pair(crop[0], (crop[1],), config.lambda_face)}


def _colours(labels: Tensor, schema: str) -> Tensor:
    """Label maps int64 [N, T, H, W] in the colours of their set, [N, T, 3, H, W] in [-1, 1]."""
    palette = torch.tensor(label_set(schema).palette, device=labels.device).float() / 127.5 - 1
    return palette[labels].movedim(-1, -3)
