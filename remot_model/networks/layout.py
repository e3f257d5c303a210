"""Stage 1: the Layout GAN, source layout + driving poses -> driving layouts (section 5 of the specification)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from remot_model.config import Config
from remot_model.networks.blocks import DecoderTrunk, Encoder, FlowHeads, Head, blend, cast_memory, over_time
from remot_model.networks.warping import warp


@dataclass(frozen=True)
class LayoutCode:
    """What does not depend on earlier outputs: F_L [N, C, h, w] and F_P [N, T, C, h, w]."""

    source: Tensor
    pose: Tensor


@dataclass(frozen=True)
class LayoutFrame:
    """One frame: `layout` and `raw` probabilities [N, K, H, W], `flow` [N, 2, H, W] pixels, `weight` [N, 1, H, W]."""

    layout: Tensor
    raw: Tensor
    flow: Tensor
    weight: Tensor


class LayoutGenerator(nn.Module):
    """Equations (2a) to (2c): three encoders, a layout branch and a flow branch that does not see the source."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        k = config.layout_classes
        self.first_frame_raw = config.first_frame_raw
        self.encode_source = Encoder(k, config)
        self.encode_pose = Encoder(3 * 3, config)
        self.encode_previous = Encoder(2 * k, config)
        self.layout = nn.Sequential(DecoderTrunk(config), Head(k, config, nn.Softmax(1)))
        self.motion = nn.Sequential(DecoderTrunk(config), FlowHeads(config))

    def encode(self, source_layout: Tensor, pose_windows: Tensor, source: Tensor | None = None) -> LayoutCode:
        """Features of all frames at once.

        Args:
            source_layout: one-hot [N, K, H, W].
            pose_windows: [N, T, 9, H, W], the pose maps of frames t-2, t-1, t in [-1, 1].
            source: F_L of an earlier piece of the clip, instead of computing it again.
        """
        source = self.encode_source(source_layout) if source is None else source
        return LayoutCode(source, over_time(self.encode_pose, pose_windows))

    def step(self, source: Tensor, pose: Tensor, memory: Tensor, first: bool) -> LayoutFrame:
        """A frame from F_L and its F_P [N, C, h, w], and the last two layouts [N, 2, K, H, W] (oldest first; zeros at
        the start)."""
        motion = pose + self.encode_previous(cast_memory(memory))
        raw = self.layout(source + motion)
        flow, weight = self.motion(motion)
        warped = warp(memory[:, -1].detach(), flow)
        return LayoutFrame(blend(raw, warped, weight, first and self.first_frame_raw), raw, flow, weight)
