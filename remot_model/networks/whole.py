"""Stage 3: the Whole Composition Network and its texture alignment module (section 8 of the specification)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remot_model.config import Config
from remot_model.networks.blocks import (
    Encoder,
    FlowHeads,
    Head,
    Upsampler,
    blend,
    cast_memory,
    over_time,
    residual_blocks,
)
from remot_model.warping import warp


def texture_alignment(generated: Tensor, source: Tensor, tau: float = 1.0, softmax: bool = True) -> Tensor:
    """The TAM, equations (12) and (13): F_g + F_s . A, with A from cosines of source and generated features.

    Softmax runs over source positions at temperature `tau`; without it the sum is divided by their number.
    Both inputs and the result are [N, C, h, w].
    """
    q = F.normalize(generated.flatten(2).transpose(1, 2).contiguous(), dim=2, eps=1e-6)
    v = source.flatten(2).transpose(1, 2).contiguous()
    k = F.normalize(v, dim=2, eps=1e-6)
    if softmax:
        # One head, channels last in memory: only such inputs go to the kernels that keep no N x N matrix.
        found = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=1 / tau)[:, 0]
    else:
        found = q @ (k.transpose(1, 2) @ v) / v.shape[1]
    return generated + found.transpose(1, 2).unflatten(2, generated.shape[2:])


@dataclass(frozen=True)
class WholeCode:
    """What does not depend on earlier outputs: F_c and F_s, both [N, T, C, h, w]."""

    context: Tensor
    source: Tensor


@dataclass(frozen=True)
class WholeFrame:
    """One frame: `image`, `raw`, `foreground` [N, 3, H, W]; `shade`, `weight` [N, 1, H, W]; `flow` [N, 2, H, W] pixels.

    `image` and `raw` may exceed 1 a little: clamp them for display.
    """

    image: Tensor
    raw: Tensor
    foreground: Tensor
    shade: Tensor
    flow: Tensor
    weight: Tensor


class WholeGenerator(nn.Module):
    """Equations (12) to (15): a foreground branch, and a motion branch shared by background mask and flow."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.use_tam, self.tau, self.softmax = config.use_tam, config.tau, config.tam_softmax
        self.first_frame_raw, self.refine = config.first_frame_raw, config.refine_coarse
        self.encode_context = Encoder(3 * (3 + 6), config)
        self.encode_generated = Encoder(3 * 3, config)
        self.encode_source = Encoder(3, config)
        self.foreground = nn.Sequential(
            residual_blocks(config.decoder_blocks, config),
            Upsampler(config),
            Head(3, config, nn.Tanh()),
        )
        self.shared = residual_blocks(config.decoder_blocks, config)
        self.shade = nn.Sequential(Upsampler(config), Head(1, config, nn.Sigmoid()))
        self.motion = nn.Sequential(Upsampler(config), FlowHeads(config))

    def encode(self, context_windows: Tensor, aligned: Tensor) -> WholeCode:
        """Features of all frames at once.

        Args:
            context_windows: [N, T, 27, H, W], pose map and one-hot layout of frames t-2, t-1, t.
            aligned: [N, T, 3, H, W], the aligned source foreground, -1 outside the person.
        """
        return WholeCode(over_time(self.encode_context, context_windows), over_time(self.encode_source, aligned))

    def step(
        self,
        t: int,
        code: WholeCode,
        coarse: Tensor,
        person: Tensor,
        background: Tensor,
        memory: Tensor,
        first: bool,
    ) -> WholeFrame:
        """Frame `t`, from the sum of its regions, its background and the last two images.

        Args:
            code: what `encode` gave.
            coarse: [N, 3, H, W], the sum of the generated regions, equation (11).
            person: bool [N, 1, H, W], where the layout is not background.
            background: [N, 3, H, W], -1 where the person stands.
            memory: [N, 2, 3, H, W], the last two images, oldest first; zeros at the start.
            first: whether this is the first frame of a clip.
        """
        context, source = code.context[:, t], code.source[:, t]
        generated = self.encode_generated(torch.cat([coarse, cast_memory(memory)], 1))
        textured = generated + source
        if self.use_tam:
            textured = texture_alignment(generated, source, self.tau, self.softmax)
        foreground = self.foreground(context + textured)
        if self.refine:
            foreground = foreground + torch.where(person, coarse, -1.0)
        shared = self.shared(context + generated)
        shade = self.shade(shared)
        flow, weight = self.motion(shared)
        raw = foreground + shade * (background + 1)
        warped = warp(memory[:, -1].detach(), flow)
        image = blend(raw, warped, weight, first and self.first_frame_raw)
        return WholeFrame(image, raw, foreground, shade, flow, weight)
