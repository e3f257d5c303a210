"""The pose-guided parser on drawn dancers whose labels are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from remot_data.detectors.base import Detector, load
from remot_data.detectors.pose_guided import PoseGuidedParser, as_body25, torso_lengths, vote
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
    assert ((parsed(scene, mask=scene.mask) > 0) == (scene.mask > 127)).all()


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
    assert isinstance(parser, Detector) and parser.approximate and parser.needs == ("pose",)
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
