"""A diverging network predicted flow that was no number; torch's gradient of grid_sample then crashed the process."""

from __future__ import annotations

import math

import torch

from remot_model.networks.warping import warp


def test_warping_by_no_number_gives_a_gradient_and_no_crash():
    images = torch.rand(1, 3, 8, 6)
    flow = torch.full((1, 2, 8, 6), math.nan, requires_grad=True)
    warp(images, flow).sum().backward()
    assert flow.grad.shape == flow.shape


def test_warping_by_far_too_much_repeats_the_border():
    images, flow = torch.rand(1, 3, 8, 6), torch.full((1, 2, 8, 6), 1e9)
    assert torch.equal(warp(images, flow), images[..., -1:, -1:].expand_as(images))
