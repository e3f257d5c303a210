import dataclasses

import pytest
import torch
from torch import nn

from remot_model import networks
from remot_model.training import losses
from remot_model.training.losses import Motion, Pair, crops, gram, judge, layout_nll, photometric_confidence, triplets
from tests.remot_model.windows import SIZE, small_config


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Constant(nn.Module):
    """A discriminator of one scale and one layer whose logits are the mean of its input."""

    def forward(self, x):
        return [[x, x.mean((1, 2, 3), keepdim=True)]]


def test_lsgan_wants_one_for_real_and_zero_for_fake():
    config = small_config(d_layers=1)
    pair = Pair(torch.full((2, 3, 4, 4), 0.8), (torch.full((2, 3, 4, 4), 0.3), torch.full((2, 3, 4, 4), 0.3)))
    found = judge(Constant(), pair, config)
    assert found.d.item() == pytest.approx(2 * (0.2**2 + 0.3**2) / 2)
    assert found.gan.item() == pytest.approx(2 * 0.7**2)
    assert found.feat.item() == pytest.approx(2 * 0.5 * 4 / 2)


def test_one_pass_gives_the_same_as_separate_passes():
    config = small_config()
    net = networks.discriminators("region", config)["image"]
    real, final, raw = (torch.rand(3, 4, *SIZE) for _ in range(3))
    both = judge(net, Pair(real, (final, raw)), config)
    single = [judge(net, Pair(real, (fake,)), config) for fake in (final, raw)]
    assert torch.allclose(both.d, single[0].d + single[1].d, atol=1e-5)
    assert torch.allclose(both.gan, single[0].gan + single[1].gan, atol=1e-5)
    assert torch.allclose(both.feat, single[0].feat + single[1].feat, atol=1e-5)


def test_real_features_get_no_gradient():
    config = small_config()
    net = networks.discriminators("region", config)["image"]
    real = torch.rand(1, 4, *SIZE, requires_grad=True)
    judgement = judge(net, Pair(real, (torch.rand(1, 4, *SIZE),)), config)
    assert torch.autograd.grad(judgement.feat, real, allow_unused=True)[0] is None


def test_layout_loss_is_zero_for_the_truth():
    labels = torch.randint(0, 6, (2, *SIZE))
    right = nn.functional.one_hot(labels, 6).movedim(-1, 1).float()
    assert layout_nll(right, labels).item() == pytest.approx(0, abs=1e-5)
    assert layout_nll(torch.full((2, 6, *SIZE), 1 / 6), labels).item() == pytest.approx(1.7917, abs=1e-3)


def test_confidence_follows_the_photometric_test():
    before = torch.rand(1, 3, *SIZE)
    frames = before.clone()
    frames[..., :5, :] += 0.1  # 3 * 0.1^2 is above 0.02
    frames[..., 10:, :] += 0.08  # 3 * 0.08^2 is below it
    sure = photometric_confidence(frames, before, torch.zeros(1, 2, *SIZE))
    assert sure[..., :5, :].max() == 0
    assert sure[..., 5:, :].min() == 1


def test_motion_losses_vanish_for_true_motion_and_where_nothing_is_sure():
    config = small_config()
    image, flow, zero = torch.rand(2, 3, *SIZE), torch.zeros(2, 2, *SIZE), torch.zeros(2, 1, *SIZE)
    still = Motion(image, image, image, image, flow, zero, flow, zero + 1)
    assert all(v.item() == pytest.approx(0, abs=1e-4) for v in losses.motion_losses(still, config).values())
    wrong = Motion(image, image + 1, image, image + 1, flow + 3, zero + 1, flow, zero + 1)
    assert all(v.item() > 0.5 for v in losses.motion_losses(wrong, config).values())
    unsure = dataclasses.replace(wrong, confidence=zero)
    assert all(v.item() == 0 for v in losses.motion_losses(unsure, config).values())


def test_masked_means_run_over_every_element():
    sure = torch.zeros(1, 1, *SIZE)
    sure[..., : SIZE[0] // 2, :] = 1
    ones = torch.ones(1, 3, *SIZE)
    assert losses.masked_l1(ones, -ones, sure).item() == pytest.approx(1.0)


def test_gram_matrices_have_unit_norm():
    g = gram(torch.rand(2, 5, 4, 3))
    assert g.shape == (2, 5, 5)
    assert torch.allclose(g.flatten(1).norm(dim=1), torch.ones(2))


@pytest.mark.parametrize(
    ("count", "new", "spacing", "expected"), [(6, 6, 1, 4), (6, 6, 3, 0), (8, 2, 3, 2), (8, 2, 1, 2)]
)
def test_triplets_end_at_new_frames(count, new, spacing, expected):
    frames, flows = torch.rand(1, count, 3, *SIZE), torch.zeros(1, count, 2, *SIZE)
    found = triplets([frames], flows, spacing, new)
    if not expected:
        assert found is None
        return
    found = found[0]
    assert found.shape == (expected, 13, *SIZE)
    assert torch.equal(found[-1, :9], frames[0, [-1 - 2 * spacing, -1 - spacing, -1]].flatten(0, 1))


def test_flow_of_a_triplet_is_chained_in_pixels():
    """A pattern that moves faster the further right it is: the order of scaling and warping matters."""
    flows = torch.arange(SIZE[1]).float().expand(1, 7, 2, *SIZE) / 8
    chained = losses.chain_flow(flows[:, 1:4]) / 5
    (found,) = triplets([torch.rand(1, 7, 3, *SIZE)], flows, 3, 7, unit=5.0)
    assert torch.allclose(found[:, 9:11], chained, atol=1e-6)
    assert not torch.allclose(chained, losses.chain_flow(flows[:, 1:4] / 5), atol=0.05)


def test_crops_stay_inside():
    images = torch.arange(SIZE[0] * SIZE[1]).float().reshape(1, 1, *SIZE).expand(2, 1, -1, -1)
    found = crops(images, torch.tensor([[0, 2, 0, 2], [14, 18, 10, 14]]), 8)
    assert torch.equal(found[0, 0], images[0, 0, :8, :8])
    assert torch.equal(found[1, 0], images[1, 0, 12:20, 8:16])
