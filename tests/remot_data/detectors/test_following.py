"""Following one person of several: made of dancers of the sample clips, one pasted beside the other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from remot_data.detectors._following import OneEuro, region_of
from remot_data.detectors.basic_scores import BasicScores
from remot_data.detectors.blazepose import BlazePose
from remot_data.detectors.pose_guided import PoseGuidedParser
from tests.remot_data.detectors.two_people import Clip, Dancer, scene

pytestmark = pytest.mark.slow

CLOSE = (60, 60)  # the one before half covers the one behind
CROSSING = (200, -200)
APART = (-90, -90)


@pytest.fixture(scope="module")
def pose() -> BlazePose:
    return BlazePose()


def away(keypoints: np.ndarray, clip: Clip, own: Dancer) -> np.ndarray:
    """Mean distance of the main joints from where the dancer has them, in heights of the body; NaN without a pose."""
    truth = own.keypoints[..., :2] * clip.scale + clip.shift
    both = (keypoints[..., 2] > 0) & (own.keypoints[..., 2] > 0.5)
    both[:, 15:] = False
    height = np.ptp(truth[:, :15, 1], axis=1)
    distance = np.hypot(*np.moveaxis(keypoints[..., :2] - truth, -1, 0))
    count = both.sum(1)
    return np.where(count > 0, (distance * both).sum(1) / np.maximum(count, 1) / height, np.nan)


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "before"), [(CLOSE, False), (CLOSE, True), (CROSSING, True), (APART, False)])
def test_the_pose_stays_on_the_person_of_the_track(pose: BlazePose, shift: tuple[int, int], before: bool) -> None:
    """Two clips of one scene, one for each own box."""
    frames, *dancers = scene(shift)
    own, other = dancers[::-1] if before else dancers
    clip = Clip.of(frames, own, other)
    found = pose(clip.frames, boxes=clip.boxes)
    wrong = away(found["keypoints"], clip, own)
    assert (wrong < 0.16).all(), wrong


def test_without_boxes_it_slides_to_the_other_one(pose: BlazePose) -> None:
    """So the test above can fail."""
    frames, other, own = scene(CROSSING)
    clip = Clip.of(frames, own, other)
    assert (away(pose(clip.frames)["keypoints"], clip, own) > 0.16).sum() >= 3


def test_boxes_that_tell_of_one_person_change_little(pose: BlazePose) -> None:
    frames, own, _ = scene((400, 400))
    clip = Clip.of(frames, own, own)
    alone = {"own": clip.boxes["own"], "others": clip.boxes["others"][:, :0]}
    plain, told = pose(clip.frames), pose(clip.frames, boxes=alone)
    assert plain.keys() == told.keys() == {"keypoints", "mask", "checks"}
    a, b = plain["keypoints"], told["keypoints"]
    assert (both := (a[..., 2] > 0.5) & (b[..., 2] > 0.5)).mean() > 0.7
    assert np.percentile(np.abs(a - b)[both][:, :2], 90) < 3
    assert ((plain["mask"] > 127) == (told["mask"] > 127)).mean() > 0.99


def test_where_pose_and_track_disagree_all_is_zero(pose: BlazePose) -> None:
    """The own box is where nobody is; then its person is said to be the one who is there."""
    frames, behind, before = scene(APART)
    clip = Clip.of(frames, before, behind)
    boxes = {name: array.copy() for name, array in clip.boxes.items()}
    boxes["own"][:8] = (2, 2, 30, 70)
    found = pose(clip.frames, boxes=boxes)
    assert not found["keypoints"][:8].any() and not found["mask"][:8].any()
    assert (found["keypoints"][8:, :, 2].max(1) > 0.5).all() and (found["mask"][8:].max((1, 2)) > 200).all()


@pytest.mark.slow
def test_where_the_track_is_lost_the_pose_goes_on_but_jumps_to_nobody_else(pose: BlazePose) -> None:
    frames, behind, before = scene(APART)
    clip = Clip.of(frames, before, behind)
    boxes = {name: array.copy() for name, array in clip.boxes.items()}
    boxes["own"][3:] = np.nan
    assert (away(pose(clip.frames, boxes=boxes)["keypoints"], clip, before) < 0.16).all()
    gone = clip.frames.copy()
    gone[6:][clip.mask(before)[6:]] = 127  # the own person is painted over
    found = pose(gone, boxes=boxes)["keypoints"]
    assert not (away(found[6:], clip.cut(slice(6, None)), behind.cut(slice(6, None))) < 0.16).any()


@pytest.mark.slow
def test_pixels_of_others_are_told_and_those_of_the_person_are_not(pose: BlazePose) -> None:
    for before in (False, True):
        frames, *dancers = scene(APART)
        own, other = dancers[::-1] if before else dancers
        clip = Clip.of(frames, own, other)
        theirs, mine = clip.mask(other), clip.mask(own)
        both = theirs & mine
        others = pose(clip.frames, boxes=clip.boxes)["others"]
        assert others.dtype == np.uint8 and others.shape == clip.frames.shape[:3]
        assert (others[theirs & ~both] > 127).mean() > 0.75
        assert (others[mine & ~both] > 127).mean() < 0.1
        assert (others[~mine & ~theirs] > 127).mean() < 0.02


def test_a_clip_without_anybody_else_has_no_such_mask(pose: BlazePose) -> None:
    frames, own, other = scene(APART)
    clip = Clip.of(frames, own, other)
    for others in (np.full_like(clip.boxes["others"], np.nan), clip.boxes["others"] + 400):
        assert "others" not in pose(clip.frames[:2], boxes={"own": clip.boxes["own"][:2], "others": others[:2]})


def test_the_parser_leaves_out_what_is_others(pose: BlazePose) -> None:
    frames, behind, before = scene((0, 0))
    clip = Clip.of(frames, before, behind)
    found = pose(clip.frames, boxes=clip.boxes)
    theirs = clip.mask(behind) & ~clip.mask(before)
    plain = PoseGuidedParser()(clip.frames, pose={name: found[name] for name in ("keypoints", "mask")})["labels"]
    told = PoseGuidedParser()(clip.frames, pose=found)["labels"]
    assert (told[found["others"] >= 128] == 0).all()
    assert (told[theirs] > 0).mean() < 0.7 * (plain[theirs] > 0).mean()


def test_scores_tell_who_is_there_and_whether_the_pose_is_on_the_person(pose: BlazePose) -> None:
    frames, behind, before = scene(APART)
    clip = Clip.of(frames, before, behind)
    boxes = {name: array.copy() for name, array in clip.boxes.items()}
    right = pose(clip.frames, boxes=boxes)
    keypoints = right["keypoints"].copy()
    theirs = behind.keypoints.copy()
    theirs[..., :2] = theirs[..., :2] * clip.scale + clip.shift
    keypoints[2:5] = theirs[2:5]  # on the other person
    keypoints[7] = 0
    boxes["own"][10:12] = np.nan
    keypoints[11] = theirs[11]
    boxes["others"][14] += 1000
    found = BasicScores()(clip.frames, pose={"keypoints": keypoints}, boxes=boxes)
    expected = np.ones(16)
    expected[[2, 3, 4, 7, 11]] = 0
    assert found["agreement"].tolist() == expected.tolist() and found["agreement"].dtype == np.float32
    seen = (clip.boxes["others"][:, 0, [0, 2]].clip(0, 192) @ (-1, 1)) / (clip.boxes["others"][:, 0, [0, 2]] @ (-1, 1))
    assert found["persons"][0] == 1 + (seen[0] > 0.5) and found["persons"][14] == 1
    assert found["persons"][10] == found["persons"][0] - 1
    assert BasicScores()(clip.frames, pose={"keypoints": keypoints}).keys() == found.keys() - {"agreement"}


def test_region_of_an_upright_and_of_a_lying_body() -> None:
    upright = region_of(np.array([10.0, 20.0]), np.array([10.0, 12.0]))
    assert (upright.x, upright.y, upright.rotation) == (10, 20, 0)
    assert upright.side == pytest.approx(20)
    lying = region_of(np.array([10.0, 20.0]), np.array([18.0, 20.0]))
    assert lying.rotation == pytest.approx(math.pi / 2)
    # The head of the lying body, on its right, comes to the top of the tensor.
    assert lying.to_tensor(256) @ (18, 20, 1) == pytest.approx((128, 128 - 8 / 20 * 256))


def test_one_euro_passes_the_first_value_and_lags_behind_a_step() -> None:
    slow, fast = OneEuro(0.01, 1.0), OneEuro(0.05, 80.0)
    start, end = np.zeros((1, 2)), np.ones((1, 2))
    assert (slow(start, 1.0) == 0).all() and (fast(start, 1.0) == 0).all()
    a, b = slow(end, 1.0), fast(end, 1.0)
    assert (a > 0).all() and (a < b).all() and (b < 1).all()
    for _ in range(200):
        b = fast(end, 1.0)
    assert b == pytest.approx(1, abs=0.1)
