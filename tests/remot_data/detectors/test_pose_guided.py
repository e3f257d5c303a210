"""The pose-guided parser on drawn dancers whose labels are known."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remot_data.detectors._limbs import as_body25, head_yaw, torso_lengths, with_extras
from remot_data.detectors.base import Detector, load
from remot_data.detectors.pose_guided import Carry, PoseGuidedParser, vote
from remot_data.schemas import LABELS, SchemaError, convert_keypoints, convert_labels
from remot_data.synthetic import Cloth, Dancer, Scene, dance

ATR = {name: i for i, name in enumerate(LABELS["atr18"].labels)}


def plain(**changes: object) -> Dancer:
    """A dancer in a green shirt and blue trousers, without things that the parser does not know."""
    usual = dict(
        skin=(224, 172, 130), hair="short", hair_colour=(24, 20, 18), hat="", glasses=False, scarf=False, bag=False,
        belt=False, top=Cloth("plain", (40, 150, 70), (40, 150, 70), 0.1), sleeves=0.55, bottom="pants", hem=1.9,
        lower=Cloth("plain", (40, 50, 140), (40, 50, 140), 0.1), boots=False, print_colour=None, place=0.5,
    )  # fmt: skip
    return replace(Dancer.random(0), **(usual | changes))


def parsed(scene: Scene, **pose: np.ndarray) -> np.ndarray:
    return PoseGuidedParser()(scene.frames, pose={"keypoints": scene.keypoints, **pose})["labels"]


def overlap(found: np.ndarray, truth: np.ndarray, schema: str = "remot6") -> dict[str, float]:
    """Intersection over union of each label of a schema that the truth has."""
    a, b = (convert_labels(labels, "atr18", schema) for labels in (found, truth))
    names = LABELS[schema].labels
    return {names[k]: float(((a == k) & (b == k)).sum() / ((a == k) | (b == k)).sum()) for k in np.unique(b) if k}


@pytest.fixture(scope="module")
def scene() -> Scene:
    return dance(plain(), 6, seed=3)


def test_all_regions_are_found(scene: Scene) -> None:
    labels = parsed(scene, mask=scene.mask)
    assert labels.shape == scene.labels.shape and labels.dtype == np.uint8
    found = overlap(labels, scene.labels)
    assert set(found) == set(LABELS["remot6"].labels[1:])
    assert min(found.values()) > 0.75, found


def test_left_is_left(scene: Scene) -> None:
    found = overlap(parsed(scene, mask=scene.mask), scene.labels, "remot11")
    assert all(found[f"{side}-{what}"] > 0.6 for side in ("left", "right") for what in ("shoe", "arm")), found


def test_labels_stay_inside_the_mask(scene: Scene) -> None:
    labelled, mask = parsed(scene, mask=scene.mask) > 0, scene.mask > 127
    assert not (labelled & ~mask).any()
    assert (labelled & mask).sum() > 0.99 * mask.sum()


def test_bare_legs_and_sleeves_follow_the_colour() -> None:
    shorts = dance(plain(bottom="shorts", hem=0.5, sleeves=1.95), 4, seed=3)
    labels = parsed(shorts, mask=shorts.mask)
    found = overlap(labels, shorts.labels, "remot11")
    assert min(found["left-leg"], found["right-leg"], found["bottom"]) > 0.6, found
    # With long sleeves only the hands are left of the arms.
    arms = np.isin(labels, (ATR["left-arm"], ATR["right-arm"])).sum()
    assert 0 < arms < 0.1 * (labels > 0).sum()


def test_a_bare_torso_is_top_and_bare_feet_are_shoes() -> None:
    skin = (224, 172, 130)
    bare = dance(plain(top=Cloth("plain", skin, skin, 0.1), sleeves=0.0, shoe=skin), 4, seed=3)
    labels = parsed(bare, mask=bare.mask)
    found = overlap(labels, bare.labels)
    assert found["shoes"] > 0.7 and found["top"] > 0.6
    assert np.isin(labels, (ATR["left-arm"], ATR["right-arm"])).mean() > 0.005


# The mean and the least IoU of a region over six random dancers: some points below what was measured.
@pytest.mark.parametrize(("turned", "mean", "least"), [(0, 0.93, 0.88), (np.pi / 2, 0.86, 0.77), (np.pi, 0.93, 0.88)])
def test_random_dancers_from_every_side(turned: float, mean: float, least: float) -> None:
    shared, either = np.zeros((2, 6))
    for seed in range(40, 46):
        drawn = dance(Dancer.random(seed), 3, seed=seed, turned=turned)
        a, b = (convert_labels(x, "atr18", "remot6") for x in (parsed(drawn, mask=drawn.mask), drawn.labels))
        shared += [((a == k) & (b == k)).sum() for k in range(6)]
        either += [((a == k) | (b == k)).sum() for k in range(6)]
    found = (shared / either)[1:]
    assert found.mean() > mean and found.min() > least, found


@pytest.mark.parametrize("turned", [0, np.pi / 2, np.pi])
@pytest.mark.parametrize(("kind", "top"), [("skirt", (40, 150, 70)), ("dress", (40, 50, 140))])
def test_skirts_and_dresses_are_no_trousers(kind: str, top: tuple[int, int, int], turned: float) -> None:
    looks = plain(bottom=kind, hem=0.9, top=Cloth("plain", top, top, 0.1))
    drawn = dance(looks, 3, seed=3, turned=turned)
    labels = parsed(drawn, mask=drawn.mask)
    a, b = labels == ATR[kind], drawn.labels == ATR[kind]
    assert (a & b).sum() > 0.75 * (a | b).sum()
    assert (labels == ATR["pants"]).sum() < 0.03 * b.sum()


def test_a_head_from_behind_has_no_face() -> None:
    back, front = (dance(plain(hair="bob"), 3, seed=3, turned=turned) for turned in (np.pi, 0))
    face = [(parsed(s, mask=s.mask) == ATR["face"]).sum() / (s.labels == ATR["hair"]).sum() for s in (back, front)]
    assert face[0] < 0.35 < 0.8 < face[1]
    assert all(abs(head_yaw(p)) > 2 for p in with_extras(back.keypoints))
    assert all(abs(head_yaw(p)) < 1 for p in with_extras(front.keypoints))


@pytest.mark.parametrize("turned", [0, np.pi])
def test_crossed_limbs(turned: float) -> None:
    crossed = dance(plain(), 4, seed=3, turned=turned, crossed=True)
    found = overlap(parsed(crossed, mask=crossed.mask), crossed.labels)
    assert min(found.values()) > 0.6 and np.mean(list(found.values())) > 0.8, found


def test_trousers_in_a_greyer_tone_of_the_skin_are_trousers() -> None:
    nude = dance(plain(lower=Cloth("plain", (196, 165, 140), (196, 165, 140), 0.1)), 4, seed=3)
    found = overlap(parsed(nude, mask=nude.mask), nude.labels)
    assert found["bottom"] > 0.8 and found["limbs"] > 0.6, found


def test_a_small_person() -> None:
    small = dance(plain(height=0.25, ground=0.7), 4, seed=3)
    found = overlap(parsed(small, mask=small.mask), small.labels)
    assert min(found.values()) > 0.6, found


def test_a_cap_of_a_colour_no_hair_has_is_a_hat() -> None:
    cap = dance(plain(hat="beanie", hat_colour=(20, 140, 150)), 4, seed=3)
    assert (parsed(cap, mask=cap.mask) == ATR["hat"]).mean() > 0.002
    hair = dance(plain(), 4, seed=3)
    assert not (parsed(hair, mask=hair.mask) == ATR["hat"]).any()


def test_without_a_mask_the_limbs_stand_for_it(scene: Scene) -> None:
    labels = parsed(scene)
    found = overlap(labels, scene.labels)
    assert set(found) == set(LABELS["remot6"].labels[1:])
    person, truth = labels > 0, scene.labels > 0
    assert (person & truth).sum() > 0.6 * (person | truth).sum()


def test_a_picture_of_the_upper_body_has_a_top(scene: Scene) -> None:
    rows = int(scene.keypoints[:, 8, 1].min()) - 8
    keypoints = np.where(scene.keypoints[..., 1:2] < rows, scene.keypoints, 0)
    assert not keypoints[:, 8].any()
    cut = replace(scene, frames=scene.frames[:, :rows], keypoints=keypoints, labels=scene.labels[:, :rows])
    found = overlap(parsed(cut, mask=scene.mask[:, :rows]), cut.labels)
    assert found["top"] > 0.8 and found["head"] > 0.8, found


def test_a_bystander_in_the_mask_is_left_out(scene: Scene) -> None:
    mask = scene.mask.copy()
    x = 0 if mask[:, :, :12].sum() == 0 else 180
    mask[:, 100:150, x : x + 10] = 255
    assert (parsed(scene, mask=mask) == parsed(scene, mask=scene.mask)).all()


def test_frames_without_a_person_are_background(scene: Scene) -> None:
    keypoints = scene.keypoints.copy()
    keypoints[2] = 0
    labels = PoseGuidedParser()(scene.frames, pose={"keypoints": keypoints, "mask": scene.mask})["labels"]
    assert not labels[2].any() and labels[1].any()
    nobody = PoseGuidedParser()(scene.frames, pose={"keypoints": np.zeros_like(keypoints)})["labels"]
    assert nobody.shape == scene.labels.shape and not nobody.any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(16, 16), (40, 24), (64, 48)]), st.integers(1, 3))
def test_any_keypoints_and_any_mask_give_labels_inside_the_mask(seed: int, size: tuple[int, int], count: int) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)
    mask = rng.integers(0, 2, (count, *size), dtype=np.uint8) * np.uint8(255)
    keypoints = rng.uniform(-10, 80, (count, 25, 3)).astype(np.float32)
    keypoints[..., 2] = rng.random((count, 25))
    keypoints[rng.random((count, 25)) < rng.random()] = 0
    labels = PoseGuidedParser()(frames, pose={"keypoints": keypoints, "mask": mask})["labels"]
    assert labels.shape == mask.shape and labels.dtype == np.uint8
    assert not labels[mask == 0].any() and labels.max() < len(ATR)


def test_other_keypoint_sets_do(scene: Scene) -> None:
    coco = convert_keypoints(scene.keypoints, "body25", "coco17")
    found = overlap(
        PoseGuidedParser()(scene.frames, pose={"keypoints": coco, "mask": scene.mask})["labels"], scene.labels
    )
    assert min(found.values()) > 0.5, found
    with pytest.raises(SchemaError, match="7 points"):
        as_body25(np.zeros((1, 7, 3), np.float32))


def test_equal_input_gives_equal_bytes(scene: Scene) -> None:
    assert parsed(scene, mask=scene.mask).tobytes() == parsed(scene, mask=scene.mask).tobytes()


def test_it_says_that_it_is_approximate() -> None:
    parser = load("pose-guided")
    assert isinstance(parser, Detector) and parser.approximate and parser.needs == ("pose", "valid")
    assert parser.fingerprint() != PoseGuidedParser(mask_threshold=64).fingerprint()


def test_torso_lengths_follow_the_person_and_not_one_bad_frame() -> None:
    keypoints = np.zeros((5, 25, 3), np.float32)
    keypoints[:, 1] = (50, 20, 1)
    keypoints[:, 8] = (50, 70, 1)
    keypoints[4, 8] = (50, 170, 1)
    assert torso_lengths(keypoints) == pytest.approx([50, 50, 50, 50, 62.5])
    assert not torso_lengths(np.zeros((3, 25, 3), np.float32)).any()


def test_vote_removes_specks_and_keeps_the_mask() -> None:
    labels = np.full((20, 20), 4, np.uint8)
    labels[10, 10] = 6
    mask = np.ones((20, 20), bool)
    mask[:3] = False
    out = vote(labels, mask, 5)
    assert (out[3:] == 4).all() and not out[:3].any()


def test_the_label_before_decides_where_the_window_does_not() -> None:
    labels = np.where(np.arange(20) < 10, 4, 6).astype(np.uint8)[None].repeat(20, 0)
    mask, before = np.ones((20, 20), bool), np.full((20, 20), 4, np.uint8)
    out = vote(labels, mask, 5, before)
    assert (out[:, 10] == 4).all() and (out[:, 12:] == 6).all()
    assert (vote(labels, mask, 5)[:, 10] == 6).all()


def test_labels_are_carried_along_what_moves() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (16, 12, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (192, 256), interpolation=cv2.INTER_CUBIC)
    labels = np.zeros((256, 192), np.uint8)
    labels[60:200, 60:120] = 4
    moved, there = (np.roll(x, (4, 6), (0, 1)) for x in (image, labels))
    moved[100:124, 80:104] = 255 * (moved[100:124, 80:104] < 128)
    carry = Carry()
    assert carry.to(image, 0) is None
    carry.keep(labels, 0)
    brought = carry.to(moved, 1)
    known = brought != 255
    assert known[20:-20, 20:-20].mean() > 0.8 and known[104:120, 84:100].mean() < 0.4
    assert (brought == there)[known].mean() > 0.98
    carry.keep(labels, 1)
    assert carry.to(moved, 3) is None
