"""The three stages in one vocabulary: each turns a batch into named losses, pairs to judge and pictures.

A stage runs a clip chunk by chunk. The trainer knows no stage; what it logs, judges and draws is what `losses` and
`pictures` name. Nothing here depends on what is in the images but their values: no shape, no branch. So a step has
always the same kernels, and never waits for the device (but for crops, whose sizes follow the person).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from remot_data.records import SURE, VALID
from remot_data.schemas import label_set
from remot_model.config import Config, temporal_spacings
from remot_model.generating import rollout
from remot_model.generating.alignment import boxes
from remot_model.generating.cropping import Crop, by_size, cut_all
from remot_model.generating.rollout import State, align_clip, background_of, convert_labels, one_hot, region_masks
from remot_model.networks.layout import LayoutFrame
from remot_model.networks.whole import WholeFrame
from remot_model.training.features import Features
from remot_model.training.losses import (
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

Tensors = dict[str, Tensor]
_MOTION_TERMS = ("flow", "flow_warp", "warp", "weight")
_HEAD = label_set("remot6").labels.index("head")


@dataclass(frozen=True)
class Carried:
    """What a chunk leaves to the next of the same clip: the memory, and the outputs [N, t, c, H, W] of the last frames.

    So many of these as the widest temporal discriminator looks back, or all there are.
    """

    state: State
    made: Tensor


@dataclass(frozen=True)
class Chunk:
    """Frames a to b of a prepared clip; `made` holds outputs of `before` frames before them."""

    clip: Tensors
    a: int
    b: int
    before: int

    def new(self, name: str) -> Tensor:
        """The frames themselves, of a tensor [N, T, ...] of the clip."""
        return self.clip[name][:, self.a : self.b]

    def in_view(self, made: Tensor, wanted: Tensor) -> Tensor:
        """`made` [N, T, ..., c, H, W] where it teaches, else `wanted`: no loss is to see that.

        That is outside the source's picture, and where the parser was unsure of its labels.
        """
        if VALID in self.clip:
            valid = self.clip[VALID]  # [N, 1, H, W]
            shape = (len(valid), *(1,) * (made.ndim - 3), *valid.shape[-2:])
            made = torch.where(valid.view(shape) > 0, made, wanted.to(made.dtype))
        if SURE in self.clip:
            sure = self.new(SURE)  # [N, T, 1, H, W]
            shape = (*sure.shape[:2], *(1,) * (made.ndim - 4), *sure.shape[-2:])
            made = torch.where(sure.reshape(shape) > 0, made, wanted.to(made.dtype))
        return made

    def judged(self, name: str) -> Tensor:
        """The frames and those before them whose outputs are at hand."""
        return self.clip[name][:, self.a - self.before : self.b]


@dataclass(frozen=True)
class Setting:
    """What every stage works with. `generators` are the frozen ones of earlier stages."""

    config: Config
    features: Features | None = None
    generators: Mapping[str, Any] = field(default_factory=dict)


class Stage(Protocol):
    """What the trainer asks of a stage; `Out` is what its rollout gives, tensors [N, T, ...]."""

    needs: tuple[str, ...]
    perceptual: bool
    terms: tuple[str, ...]  # all losses that it can have, but the judges'

    def __init__(self, setting: Setting) -> None: ...

    def prepare(self, batch: Tensors, predicted: bool = False) -> Tensors:
        """Tensors of whole clips from a batch of windows; with `predicted` on generated layouts, where a stage can."""

    def roll(self, net: Any, chunk: Chunk, state: State | None) -> tuple[Any, State]:
        """The generator's outputs for the frames of a chunk, and the memory for the next."""

    def made(self, out: Any) -> Tensor:
        """What is shown to the temporal discriminators, [N, T, c, H, W]."""

    def losses(self, chunk: Chunk, out: Any, made: Tensor) -> tuple[Tensors, dict[str, Pair | Pairs]]:
        """Weighted losses, and pairs by discriminator; `made` are the outputs of `chunk.judged`."""

    def pictures(self, chunk: Chunk, out: Any) -> Tensors:
        """What a sample sheet shows: [N, T, 3, H, W] in [-1, 1], by name."""


class LayoutStage:
    """Stage 1, section 5 of the specification."""

    needs: tuple[str, ...] = ()
    perceptual = False
    terms: tuple[str, ...] = ("nll", "nll_raw", *_MOTION_TERMS)

    def __init__(self, setting: Setting) -> None:
        self.config = setting.config

    def prepare(self, batch: Tensors, predicted: bool = False) -> Tensors:
        c, batch = self.config, _of_picture(batch)
        labels = convert_labels(batch["labels"], "remot11", c.layout_schema)
        source = convert_labels(batch["source_labels"], "remot11", c.layout_schema)
        return {
            "labels": labels,
            "layout": one_hot(labels, c.layout_classes),
            "source": one_hot(source, c.layout_classes),
            "pose_map": batch["pose_map"],
            **_measured_flow(batch),
            **_teaching(batch),
        }

    def roll(self, net: Any, chunk: Chunk, state: State | None) -> tuple[LayoutFrame, State]:
        out, state = rollout.layouts(net, chunk.clip["source"], chunk.new("pose_map"), state)
        real = chunk.new("layout")
        return replace(out, layout=chunk.in_view(out.layout, real), raw=chunk.in_view(out.raw, real)), state

    def made(self, out: LayoutFrame) -> Tensor:
        return out.layout

    def losses(self, chunk: Chunk, out: LayoutFrame, made: Tensor) -> tuple[Tensors, dict[str, Pair | Pairs]]:
        c = self.config
        poses, real = chunk.new("pose_map"), chunk.new("layout")
        labels = chunk.new("labels").flatten(0, 1)
        losses = {
            "nll": c.lambda_nll * layout_nll(out.layout.flatten(0, 1), labels),
            "nll_raw": c.lambda_nll * layout_nll(out.raw.flatten(0, 1), labels),
            **motion_losses(_motion(chunk, "layout", made, out.flow, out.weight), c),
        }
        condition = torch.cat([chunk.clip["source"][:, None].expand_as(real), poses], 2)
        pairs = {"image": _pair(condition, real, out.layout, out.raw)}
        return losses, pairs | _temporal_pairs(c, chunk, "layout", made)

    def pictures(self, chunk: Chunk, out: LayoutFrame) -> Tensors:
        schema = self.config.layout_schema
        return {
            "pose": chunk.new("pose_map"),
            "real": _colours(chunk.new("labels"), schema),
            "raw": _colours(out.raw.argmax(2), schema),
            "made": _colours(out.layout.argmax(2), schema),
        }


class RegionStage:
    """Stage 2, section 7 of the specification."""

    needs: tuple[str, ...] = ()
    perceptual = True
    terms: tuple[str, ...] = ("rec", "per", "gram")

    def __init__(self, setting: Setting) -> None:
        self.config, self.features = setting.config, setting.features

    def prepare(self, batch: Tensors, predicted: bool = False) -> Tensors:
        batch = _of_picture(batch)
        six = convert_labels(batch["labels"], "remot11", "remot6")
        return {"frames": batch["frames"], **_aligned(self.config, batch, six), **_teaching(batch)}

    def roll(self, net: Any, chunk: Chunk, state: State | None) -> tuple[Tensor, State]:
        labels, aligned, aligned_labels = map(chunk.new, ("six", "aligned", "aligned_labels"))
        out, state = rollout.regions(net, self.config, labels, aligned, aligned_labels, state)
        if VALID in chunk.clip or SURE in chunk.clip:
            out = chunk.in_view(out, chunk.new("frames")[:, :, None] * region_masks(labels))
        return out, state

    def made(self, out: Tensor) -> Tensor:
        return out.detach()[:, :, 0]  # no discriminator looks back here

    def losses(self, chunk: Chunk, out: Tensor, made: Tensor) -> tuple[Tensors, dict[str, Pair | Pairs]]:
        c = self.config
        labels = chunk.new("six")
        masks = region_masks(labels)
        real = chunk.new("frames")[:, :, None] * masks
        groups = _same_size(rollout.region_crops(c, labels, chunk.new("aligned_labels")), masks, out, real)
        shares = tuple(m.numel() / masks.numel() for m, _, _ in groups)
        terms = [image_losses(x, y, self.features, c) for _, x, y in groups]
        losses = {"rec": c.lambda_rec * F.l1_loss(out, real)}
        for name in terms[0] if terms else ():
            losses[name] = torch.stack([s * term[name] for s, term in zip(shares, terms, strict=True)]).sum()
        judged = tuple(Pair(torch.cat([m, y], 1), (torch.cat([m, x], 1),)) for m, x, y in groups)
        return losses, {"image": judged[0] if len(judged) == 1 and shares == (1.0,) else Pairs(judged, shares)}

    def pictures(self, chunk: Chunk, out: Tensor) -> Tensors:
        real = chunk.new("frames")[:, :, None] * region_masks(chunk.new("six"))
        return {"aligned": chunk.new("aligned"), "real": real.sum(2), "made": out.sum(2)}


class WholeStage:
    """Stage 3, section 8 of the specification, on the output of the frozen Region GAN."""

    needs: tuple[str, ...] = ("region",)
    perceptual = True
    terms: tuple[str, ...] = ("foreground", "per", "gram", *_MOTION_TERMS, "image")

    def __init__(self, setting: Setting) -> None:
        self.config, self.features, self.generators = setting.config, setting.features, setting.generators

    @torch.no_grad()
    def prepare(self, batch: Tensors, predicted: bool = False) -> Tensors:
        """Without a background the foreground is the image."""
        c, batch = self.config, _of_picture(batch)
        real_six = six = convert_labels(batch["labels"], "remot11", "remot6")
        if predicted:
            six = self._predicted(batch)
        clip = {"pose_map": batch["pose_map"], **_measured_flow(batch), **_aligned(c, batch, six), **_teaching(batch)}
        clip["foreground"] = torch.where(real_six[:, :, None] > 0, batch["frames"], -1.0)
        clip["image"] = batch["frames"] if "background" in batch else clip["foreground"]
        clip["background"] = batch.get("background", torch.full_like(batch["source"], -1.0))
        parts, _ = rollout.regions(self.generators["region"], c, clip["six"], clip["aligned"], clip["aligned_labels"])
        clip["coarse"] = parts.sum(2)
        clip["source_head"] = (convert_labels(batch["source_labels"], "remot11", "remot6") == _HEAD).flatten(1).any(1)
        return clip

    def roll(self, net: Any, chunk: Chunk, state: State | None) -> tuple[WholeFrame, State]:
        poses, six, coarse, aligned = map(chunk.new, ("pose_map", "six", "coarse", "aligned"))
        out, state = rollout.whole(net, self.config, poses, six, coarse, aligned, chunk.clip["background"], state)
        real = {"image": chunk.new("image"), "raw": chunk.new("image"), "foreground": chunk.new("foreground")}
        return replace(out, **{name: chunk.in_view(getattr(out, name), x) for name, x in real.items()}), state

    def made(self, out: WholeFrame) -> Tensor:
        return out.image

    def losses(self, chunk: Chunk, out: WholeFrame, made: Tensor) -> tuple[Tensors, dict[str, Pair | Pairs]]:
        c = self.config
        real, real_fg = chunk.new("image"), chunk.new("foreground")
        both = torch.cat([out.image.flatten(0, 1), out.raw.flatten(0, 1)])
        losses = {
            "foreground": c.lambda_rec * F.l1_loss(out.foreground, real_fg),
            **{k: 2 * v for k, v in image_losses(both, real.flatten(0, 1), self.features, c).items()},
            **motion_losses(_motion(chunk, "image", made, out.flow, out.weight), c),
        }
        if c.lambda_image:
            losses["image"] = c.lambda_image * (F.l1_loss(out.image, real) + F.l1_loss(out.raw, real))
        return losses, self._pairs(chunk, out, made)

    def _pairs(self, chunk: Chunk, out: WholeFrame, made: Tensor) -> dict[str, Pair | Pairs]:
        c = self.config
        labels, real, real_fg = map(chunk.new, ("six", "image", "foreground"))
        condition = torch.cat([chunk.new("pose_map"), one_hot(labels, 6)], 2)
        behind = background_of(c, chunk.clip["background"], labels)
        pairs = {"image": _pair(torch.cat([condition, behind], 2), real, out.image, out.raw)}
        if c.foreground_d:
            pairs["foreground"] = _pair(condition, real_fg, out.foreground)
        if c.face_d:
            pairs["face"] = _face_pair(c, labels, chunk.clip["source_head"], real_fg, out.foreground)
        return pairs | _temporal_pairs(c, chunk, "image", made)

    def pictures(self, chunk: Chunk, out: WholeFrame) -> Tensors:
        given = {name: chunk.new(name) for name in ("aligned", "coarse")}
        return {**given, "real": chunk.new("image"), "raw": out.raw, "made": out.image}

    def _predicted(self, batch: Tensors) -> Tensor:
        c = self.config
        source = one_hot(convert_labels(batch["source_labels"], "remot11", c.layout_schema), c.layout_classes)
        made, _ = rollout.layouts(self.generators["layout"], source, batch["pose_map"])
        return convert_labels(made.layout.argmax(2), c.layout_schema, "remot6")


STAGES: dict[str, type[Stage]] = {"layout": LayoutStage, "region": RegionStage, "whole": WholeStage}


def history(config: Config) -> int:
    """Outputs that the temporal discriminators look back on: twice the widest spacing."""
    return 2 * max(temporal_spacings(config), default=0)


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

    The first frame of a window has no frame before it: its confidence is 0, as it is outside the source's picture.
    """
    flow, valid = batch["flow"], batch.get(VALID)
    foreground = torch.where(batch["labels"][:, :, None] > 0, batch["frames"], -1.0)
    before = torch.cat([foreground[:, :1], foreground[:, :-1]], 1)
    sure = photometric_confidence(foreground.flatten(0, 1), before.flatten(0, 1), flow.flatten(0, 1))
    sure = sure.unflatten(0, flow.shape[:2]) * batch["confidence"]
    if valid is not None:
        sure = sure * valid[:, None]
    if SURE in batch:
        sure = sure * batch[SURE]
    sure[:, 0] = 0
    return {"flow": flow, "confidence": sure}


def _of_picture(batch: Tensors) -> Tensors:
    """A batch that shows black and no label outside the source's picture, where it tells what that is."""
    if VALID not in batch:
        return batch
    valid = batch[VALID] > 0  # [N, 1, H, W]
    return {
        **batch,
        "frames": torch.where(valid[:, None], batch["frames"], -1.0),
        "labels": torch.where(valid, batch["labels"], 0),
        "source_labels": torch.where(valid[:, 0], batch["source_labels"], 0),
    }


def _teaching(batch: Tensors) -> Tensors:
    """Which pixels are of the source's picture, float [N, 1, H, W], and whose labels are sure, float [N, T, 1, H, W],
    where the batch tells it."""
    return {name: batch[name] for name in (VALID, SURE) if name in batch}


def _motion(chunk: Chunk, name: str, made: Tensor, flow: Tensor, weight: Tensor) -> Motion:
    """The frames of a chunk and those before them; a clip's first frame has itself and zeros before it."""
    real, a, new = chunk.clip[name], chunk.a, chunk.b - chunk.a
    if a:
        real_before, made_before = real[:, a - 1 : chunk.b - 1], made[:, -new - 1 : -1].detach()
    else:
        real_before = torch.cat([real[:, :1], real[:, : chunk.b - 1]], 1)
        made_before = torch.cat([torch.zeros_like(made[:, :1]), made[:, :-1].detach()], 1)
    parts = (chunk.new(name), real_before, made[:, -new:], made_before, flow, weight)
    return Motion(*(x.flatten(0, 1) for x in (*parts, chunk.new("flow"), chunk.new("confidence"))))


def _pair(condition: Tensor, real: Tensor, *fakes: Tensor) -> Pair:
    """A pair from tensors [N, T, c, H, W]."""
    joined = [torch.cat([condition, x], 2).flatten(0, 1) for x in (real, *fakes)]
    return Pair(joined[0], tuple(joined[1:]))


def _temporal_pairs(config: Config, chunk: Chunk, name: str, made: Tensor) -> dict[str, Pair | Pairs]:
    pairs: dict[str, Pair | Pairs] = {}
    for spacing in temporal_spacings(config):
        clips = (chunk.judged(name), made)
        found = triplets(clips, chunk.judged("flow"), spacing, chunk.b - chunk.a, config.flow_scale)
        if found is not None:
            pairs[f"temporal{spacing}"] = Pair(found[0], (found[1],))
    return pairs


def _face_pair(config: Config, labels: Tensor, source_head: Tensor, real: Tensor, made: Tensor) -> Pair:
    """Crops around the head of each frame; frames without a head, or with a source without one, are not kept."""
    heads = (labels == _HEAD).flatten(0, 1)
    box, found = boxes(heads)
    keep = found & source_head.repeat_interleave(labels.shape[1])
    mask = heads[:, None].float()
    crop = [crops(torch.cat([mask, x.flatten(0, 1)], 1), box, config.face_size) for x in (real, made)]
    return Pair(crop[0], (crop[1],), config.lambda_face, keep.float())


def _colours(labels: Tensor, schema: str) -> Tensor:
    """Label maps int64 [N, T, H, W] in the colours of their set, [N, T, 3, H, W] in [-1, 1]."""
    palette = torch.tensor(label_set(schema).palette, device=labels.device).float() / 127.5 - 1
    return palette[labels].movedim(-1, -3)
