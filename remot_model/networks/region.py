"""Stage 2: the Region GAN, one network shared by the five body regions (section 7 of the specification)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from remot_model.config import Config
from remot_model.networks.blocks import DecoderTrunk, Encoder, Head, cast_memory, over_time


class RegionGenerator(nn.Module):
    """Equations (3) and (5). Regions stand on the batch axis: with InstanceNorm that equals one by one.

    Masked images are products in [-1, 1], so outside its region an image is 0, not -1.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.encode_mask = Encoder(config.mask_frames, config)
        self.encode_image = Encoder(3 * 3, config)
        self.image = nn.Sequential(DecoderTrunk(config), Head(3, config, nn.Tanh()))

    def encode(self, mask_windows: Tensor) -> Tensor:
        """F_M [N, T, C, h, w] of mask windows [N, T, mask_frames, H, W] of 0 and 1, the current frame last."""
        return over_time(self.encode_mask, mask_windows)

    def frame(self, masks: Tensor, aligned: Tensor, memory: Tensor) -> Tensor:
        """`encode` and `step` of a single frame; `masks` is [N, mask_frames, H, W]."""
        return self.step(self.encode(masks[:, None])[:, 0], aligned, memory)

    def step(self, code: Tensor, aligned: Tensor, memory: Tensor) -> Tensor:
        """The region [N, 3, H, W] of a frame.

        Args:
            code: F_M [N, C, h, w], of the frame.
            aligned: [N, 3, H, W], the region cut from the aligned source image.
            memory: [N, 2, 3, H, W], the last two generated regions, oldest first; zeros at the start.
        """
        image = self.encode_image(torch.cat([cast_memory(memory), aligned], 1))
        return self.image(code + image)
