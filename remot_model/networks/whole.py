"""Stage 3: the Whole Composition Network and its texture alignment module (section 8 of the specification)."""

from __future__ import annotations

from collections.abc import Iterable
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
from remot_model.networks.warping import warp


def texture_alignment(generated: Tensor, source: Tensor, tau: float = 1.0, softmax: bool = True) -> Tensor:
    """The TAM, equations (12) and (13): F_g + F_s . A, with A from cosines of source and generated features.

    Softmax runs over source positions at temperature `tau`; without it the sum is divided by their number.
    Both inputs and the result are [N, C, h, w].
    """
    return generated + _found(generated, *_directions(source), tau, softmax)


def _directions(features: Tensor) -> tuple[Tensor, Tensor]:
    """Features [N, C, h, w] as vectors [N, h * w, C], and these at length 1."""
    vectors = features.flatten(2).transpose(1, 2).contiguous()
    return vectors, F.normalize(vectors, dim=2, eps=1e-6)


def _found(generated: Tensor, v: Tensor, k: Tensor, tau: float, softmax: bool) -> Tensor:
    """F_s . A, [N, C, h, w]."""
    q = _directions(generated)[1]
    if softmax and q.is_cuda:
        found = attention(q, k, v, tau)
    elif softmax:
        # One head, channels last in memory: only such inputs go to the kernels that keep no N x N matrix.
        found = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=1 / tau)[:, 0]
    else:
        found = q @ (k.transpose(1, 2) @ v) / v.shape[1]
    return found.transpose(1, 2).unflatten(2, generated.shape[2:])


def attention(q: Tensor, k: Tensor, v: Tensor, tau: float) -> Tensor:
    """softmax(q k' / tau) v for [N, n, C], with its n x n matrix in float32.

    For a GPU: the gradient of torch's fused kernel for so many channels took 5 of the 68 ms of a step of `paper`.
    """
    with torch.autocast(q.device.type, enabled=False):
        weights = torch.softmax(q.float() @ k.float().transpose(1, 2) / tau, 2)
    return weights.to(v.dtype) @ v


@dataclass(frozen=True)
class WholeCode:
    """What does not depend on earlier outputs: F_c and F_s, [N, T, C, h, w], and the vectors of F_s, see `frames`."""

    context: Tensor
    source: Tensor
    vectors: Tensor
    directions: Tensor

    def frames(self) -> Iterable[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """The four of each frame: [N, C, h, w] twice, then F_s as [N, h * w, C] as it is and at length 1."""
        parts = (self.context, self.source, self.vectors, self.directions)
        return zip(*(x.unbind(1) for x in parts), strict=True)


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
        source = over_time(self.encode_source, aligned)
        vectors = (x.unflatten(0, source.shape[:2]) for x in _directions(source.flatten(0, 1)))
        return WholeCode(over_time(self.encode_context, context_windows), source, *vectors)

    def step(
        self,
        context: Tensor,
        source: Tensor,
        vectors: Tensor,
        directions: Tensor,
        coarse: Tensor,
        person: Tensor,
        background: Tensor,
        memory: Tensor,
        first: bool,
    ) -> WholeFrame:
        """A frame from the sum of its regions, its background and the last two images.

        Args:
            context, source, vectors, directions: of the frame, as `WholeCode.frames` gives them.
            coarse: [N, 3, H, W], the sum of the generated regions, equation (11).
            person: bool [N, 1, H, W], where the layout is not background.
            background: [N, 3, H, W], -1 where the person stands.
            memory: [N, 2, 3, H, W], the last two images, oldest first; zeros at the start.
            first: whether this is the first frame of a clip.
        """
        generated = self.encode_generated(torch.cat([coarse, cast_memory(memory)], 1))
        if self.use_tam:
            source = _found(generated, vectors, directions, self.tau, self.softmax)
        merged = context + generated
        foreground = self.foreground(merged + source)
        if self.refine:
            foreground = foreground + torch.where(person, coarse, -1.0)
        shared = self.shared(merged)
        shade = self.shade(shared)
        flow, weight = self.motion(shared)
        raw = foreground + shade * (background + 1)
        warped = warp(memory[:, -1].detach(), flow)
        image = blend(raw, warped, weight, first and self.first_frame_raw)
        return WholeFrame(image, raw, foreground, shade, flow, weight)
