import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remot_model.alignment import align, boxes, placement
from remot_model.warping import chain_flow, warp

H, W = 40, 30


def rectangle(top: int, bottom: int, left: int, right: int) -> torch.Tensor:
    """A layout of class 2 in rows top..bottom and columns left..right, both included."""
    labels = torch.zeros(1, H, W, dtype=torch.int64)
    labels[:, top : bottom + 1, left : right + 1] = 2
    return labels


def test_boxes_of_masks():
    masks = torch.cat([rectangle(3, 10, 4, 7), rectangle(0, H - 1, 0, W - 1), torch.zeros(1, H, W).long()]) > 0
    found, filled = boxes(masks)
    assert found.tolist() == [[3, 10, 4, 7], [0, H - 1, 0, W - 1], [0, 0, 0, 0]]
    assert filled.tolist() == [True, True, False]


def test_equal_masks_leave_the_foreground_where_it_is():
    image, labels = torch.rand(1, 3, H, W) * 2 - 1, rectangle(5, 30, 4, 20)
    out = align(image, labels, labels)
    assert torch.allclose(out.image, torch.where(labels[:, None] > 0, image, -1.0), atol=1e-4)
    assert torch.equal(out.labels, labels)


side = st.tuples(st.integers(0, 20), st.integers(4, 18))


@settings(deadline=None, max_examples=30)
@given(side, side, side, side)
def test_centre_goes_to_centre_and_height_to_height(sy, sx, ty, tx):
    source = rectangle(sy[0], sy[0] + sy[1], min(sx[0], 10), min(sx[0], 10) + sx[1])
    target = rectangle(ty[0], ty[0] + ty[1], min(tx[0], 10), min(tx[0], 10) + tx[1])
    scale, offset = placement(source > 0, target > 0)
    (s,), _ = boxes(source > 0)
    (t,), _ = boxes(target > 0)
    assert scale[0] == pytest.approx(float(t[1] - t[0]) / float(s[1] - s[0]))
    assert (scale * s[:2] + offset[0, 1]).tolist() == pytest.approx(t[:2].tolist(), abs=1e-4)
    assert float(scale * (s[2] + s[3]) / 2 + offset[0, 0]) == pytest.approx(float(t[2] + t[3]) / 2, abs=1e-4)


def test_the_labels_land_in_the_driving_box():
    source, target = rectangle(2, 12, 3, 8), rectangle(15, 35, 12, 22)
    found, _ = boxes(align(torch.ones(1, 3, H, W), source, target).labels > 0)
    assert (found[0] - torch.tensor([15, 35, 12, 22])).abs().max() <= 1


@pytest.mark.parametrize("empty", ["source", "driving", "flat"])
def test_empty_masks_mean_no_alignment(empty):
    some, none = rectangle(5, 20, 5, 15), torch.zeros(1, H, W, dtype=torch.int64)
    flat = rectangle(5, 5, 5, 15)
    source, driving = {"source": (none, some), "driving": (some, none), "flat": (flat, some)}[empty]
    scale, offset = placement(source > 0, driving > 0)
    assert scale.tolist() == [1] and offset.tolist() == [[0, 0]]


def test_without_gam_only_the_background_goes():
    image, source, target = torch.rand(1, 3, H, W), rectangle(2, 12, 3, 8), rectangle(15, 35, 12, 22)
    out = align(image, source, target, enabled=False)
    assert torch.allclose(out.image, torch.where(source[:, None] > 0, image, -1.0), atol=1e-4)


def test_shrinking_averages_instead_of_skipping_pixels():
    stripes = torch.where(torch.arange(H)[:, None] % 2 == 0, 1.0, -1.0).expand(1, 3, H, W)
    out = align(stripes, rectangle(0, 32, 5, 20), rectangle(10, 18, 8, 16))
    inside = out.image[0, 0, 12:17, 11:14]
    assert inside.abs().max() < 0.2


def test_a_batch_equals_single_alignments():
    image = torch.rand(2, 3, H, W)
    source = torch.cat([rectangle(2, 30, 3, 20), rectangle(5, 15, 5, 12)])
    target = torch.cat([rectangle(10, 20, 5, 15), rectangle(2, 35, 3, 25)])
    both = align(image, source, target)
    for i in range(2):
        one = align(image[i : i + 1], source[i : i + 1], target[i : i + 1])
        assert torch.allclose(one.image[0], both.image[i], atol=1e-5)
        assert torch.equal(one.labels[0], both.labels[i])


def test_zero_flow_is_identity():
    images = torch.rand(2, 3, H, W)
    assert torch.allclose(warp(images, torch.zeros(2, 2, H, W)), images, atol=1e-5)


def test_flow_points_back_to_where_the_pixel_was():
    before = torch.rand(1, 1, H, W)
    now = torch.roll(before, (2, -3), (2, 3))
    flow = torch.tensor([3.0, -2.0])[None, :, None, None].expand(1, 2, H, W)
    assert torch.allclose(warp(before, flow)[..., 2:, :-3], now[..., 2:, :-3], atol=1e-5)


def test_chained_flows_add_up():
    flows = torch.stack([torch.full((1, 2, H, W), v) for v in (1.0, 2.0, -0.5)], 1)
    assert torch.allclose(chain_flow(flows), torch.full((1, 2, H, W), 2.5), atol=1e-5)
