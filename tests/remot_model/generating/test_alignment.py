import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remot_data.schemas import keypoint_set
from remot_model.generating.alignment import Steady, align, body_lengths, boxes, placement
from remot_model.networks.warping import chain_flow, warp

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


def test_a_placement_can_be_given_for_some_frames():
    image, source, target = torch.rand(2, 3, H, W), rectangle(2, 12, 3, 8), rectangle(15, 35, 12, 22)
    source, target = source.expand(2, -1, -1), target.expand(2, -1, -1)
    nan = float("nan")
    out = align(image, source, target, placed=(torch.tensor([1.5, nan]), torch.tensor([[2.0, 3.0], [nan, nan]])))
    own = align(image, source, target)
    assert out.scale.tolist() == [1.5, 2.0] and out.offset[0].tolist() == [2.0, 3.0]
    assert torch.equal(out.image[1], own.image[1]) and not torch.equal(out.image[0], own.image[0])
    # Rows 2..12 land at 1.5 * row + 3.
    found, _ = boxes(out.labels > 0)
    assert (found[0] - torch.tensor([6, 21, 6, 14])).abs().max() <= 1


POINTS = {
    "nose": (50, 20), "neck": (50, 30), "mid-hip": (50, 60), "right-hip": (45, 60), "left-hip": (55, 60),
    "right-knee": (45, 80), "left-knee": (55, 80), "right-ankle": (45, 100), "left-ankle": (55, 100),
    "right-wrist": (40, 60), "left-wrist": (60, 60),
}  # fmt: skip


def body(scale: float = 1.0, shift: tuple[float, float] = (0.0, 0.0), **moved: tuple[float, float]) -> np.ndarray:
    """Keypoints of somebody who stands, scaled and shifted; some points elsewhere or, as None, not seen."""
    points = np.zeros((25, 3), np.float32)
    for name, place in {**POINTS, **{k.replace("_", "-"): v for k, v in moved.items()}}.items():
        if place is not None:
            points[keypoint_set("body25").index(name)] = (*(np.array(place) * scale + shift), 1)
    return points


def test_lengths_along_the_body():
    np.testing.assert_allclose(body_lengths(body()), [16, 30, 20, 20])
    # Arms do not count; of two legs the longer one does, and one that is seen stands for both.
    np.testing.assert_allclose(body_lengths(body(right_wrist=(30, 0), right_knee=(45, 70))), [16, 30, 20, 30])
    found = body_lengths(body(left_ankle=None, right_ankle=None, nose=None))
    np.testing.assert_array_equal(np.isnan(found), [True, False, False, True])


def test_the_steady_gam_brings_trunk_onto_trunk_at_the_ratio_of_the_bodies():
    source, driving = body(), body(1.5, (20.0, -10.0))
    scale, offset = Steady(source, "body25", 30)(driving[None].repeat(3, 0))
    np.testing.assert_allclose(scale, 1.5, rtol=1e-6)
    # In pixels counted from the centre of the first, as `align` moves them.
    middle, theirs = (np.array(p[[1, 8], :2].mean(0)) - 0.5 for p in (source, driving))
    np.testing.assert_allclose(scale[:, None] * middle + offset, np.broadcast_to(theirs, (3, 2)), rtol=1e-5)


def test_a_raised_arm_or_a_hidden_leg_does_not_move_the_steady_gam():
    still = body()
    frames = [still, body(right_wrist=(50, -20)), body(left_ankle=None, right_ankle=None), still]
    scale, offset = Steady(still, "body25", 10)(np.stack(frames))
    np.testing.assert_allclose(scale, 1, atol=1e-6)
    np.testing.assert_allclose(offset, 0, atol=1e-5)


def test_the_steady_scale_stays_within_its_bounds_and_changes_slowly():
    steady = Steady(body(), "body25", 30)
    assert steady(body(5.0)[None])[0][0] == pytest.approx(2)
    assert Steady(body(), "body25", 30)(body(0.1)[None])[0][0] == pytest.approx(0.5)
    scale, _ = steady(body(1.0)[None].repeat(150, 0))
    assert scale[0] > 1.9 and (np.diff(scale) < 0).all() and scale[-1] == pytest.approx(1, abs=1e-3)
    # Half a second is the time constant, in the logarithm.
    assert np.log(scale[14]) == pytest.approx(np.log(2) / np.e, rel=1e-4)


def test_the_steady_gam_calms_a_trembling_body_and_follows_a_running_one():
    rng = np.random.default_rng(0)
    still = body()[None].repeat(120, 0)
    trembling = still.copy()
    trembling[..., :2] += rng.normal(0, 0.5, (120, 1, 2))
    _, offset = Steady(body(), "body25", 30)(trembling)
    assert offset[30:].std() < 0.4 * 0.5
    running = still.copy()
    running[..., 0] += 4 * np.arange(120)[:, None]
    _, offset = Steady(body(), "body25", 30)(running)
    assert abs(offset[-1, 0] - 4 * 119) < 4  # less than a frame behind


@settings(deadline=None, max_examples=20)
@given(st.lists(st.booleans(), min_size=2, max_size=12), st.integers(1, 11), st.integers(0, 1000))
def test_the_steady_gam_is_online(seen, cut, seed):
    frames = np.stack([body(1 + 0.02 * t, (t, 0), neck=(50, 30) if s else None) for t, s in enumerate(seen)])
    frames[..., :2] += np.random.default_rng(seed).normal(0, 1, frames[..., :2].shape) * (frames[..., 2:] > 0)
    whole = Steady(body(), "body25", 25)(frames)
    first, second = Steady(body(), "body25", 25), Steady(body(), "body25", 25)
    before = first(frames[:cut])
    second.memory = first.memory
    after = second(frames[cut:])
    for a, b, c in zip(whole, before, after, strict=True):
        np.testing.assert_array_equal(a, np.concatenate([b, c]))
    begins = seen.index(True) if True in seen else len(seen)
    np.testing.assert_array_equal(np.isnan(whole[0]), np.arange(len(seen)) < begins)


def test_the_steady_gam_refuses_a_source_without_a_trunk():
    with pytest.raises(ValueError, match="neck and hips"):
        Steady(body(neck=None), "body25", 30)


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
