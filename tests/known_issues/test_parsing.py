"""Parsing took skirts for trousers, dark hair for a hat, an arm without a pose for hair, balls and subtitles for body.

The kinds are those seen in real videos. The dancers are drawn (`remot_data.synthetic`), so that every label is known:
with a ball in a hand, in coloured light, above a line of text, with an arm that the pose has lost, in skirts of one
colour. Each test names the share of right pixels that there has to be. Labels that are guessed are to be known as that:
`sure` has to point at the wrong ones. Of the same kinds, seen on drawn dancers: sleeves and gloves of one colour from
behind as bare arms, a grey shirt as grey hair, pale legs as trousers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from remot_data.detectors.pose_guided import PoseGuidedParser
from remot_data.schemas import LABELS, keypoint_set
from remot_data.synthetic import Cloth, Dancer, Scene, dance, in_coloured_light, subtitled, without_joints

ATR = {name: i for i, name in enumerate(LABELS["atr18"].labels)}
JOINTS = keypoint_set("body25").points


def dancer(**changes: object) -> Dancer:
    """In a green shirt with short sleeves and blue trousers; nothing else is worn."""
    usual = dict(
        skin=(224, 172, 130), hair="short", hair_colour=(24, 20, 18), hat="", glasses=False, scarf=False, bag=False,
        belt=False, top=Cloth("plain", (40, 150, 70), (40, 150, 70), 0.1), sleeves=0.55, bottom="pants", hem=1.9,
        lower=Cloth("plain", (40, 50, 140), (40, 50, 140), 0.1), boots=False, print_colour=None, place=0.5,
    )  # fmt: skip
    return replace(Dancer.random(0), **(usual | changes))


def parsed(scene: Scene) -> dict[str, np.ndarray]:
    return PoseGuidedParser()(scene.frames, pose={"keypoints": scene.keypoints, "mask": scene.mask})


def shares(labels: np.ndarray, where: np.ndarray, *names: str) -> float:
    """The share of the pixels `where` that have one of the labels."""
    return float(np.isin(labels, [ATR[name] for name in names])[where].mean())


@pytest.mark.parametrize("turned", [0.0, np.pi / 2, np.pi])
def test_a_skirt_of_one_colour_is_no_pair_of_trousers(turned: float) -> None:
    skirt = Cloth("folds", (180, 60, 90), (165, 52, 80), 0.06)
    scene = dance(dancer(bottom="skirt", hem=0.8, lower=skirt), 6, seed=4, turned=turned)
    labels = parsed(scene)["labels"]
    assert shares(labels, scene.labels == ATR["skirt"], "skirt", "dress") > 0.9


@pytest.mark.parametrize("baggy", [1.0, 1.3])
def test_wide_trousers_are_no_skirt(baggy: float) -> None:
    scene = dance(dancer(hem=2.0, baggy=baggy), 6, seed=4, turned=0.0)
    labels = parsed(scene)["labels"]
    assert shares(labels, scene.labels == ATR["pants"], "pants") > 0.9


@pytest.mark.parametrize("light", [((80, 70, 255), (70, 150, 255)), ((200, 60, 255), (90, 80, 255))])
def test_dark_hair_in_coloured_light_is_no_hat(light: tuple) -> None:
    scene = in_coloured_light(dance(dancer(), 6, seed=4, turned=0.0), light)
    labels = parsed(scene)["labels"]
    assert not (labels == ATR["hat"]).any()
    assert shares(labels, scene.labels == ATR["hair"], "hair", "face") > 0.9


def test_a_hat_is_still_a_hat() -> None:
    scene = dance(dancer(hat="beanie", hat_colour=(40, 60, 190)), 6, seed=4, turned=0.0)
    assert shares(parsed(scene)["labels"], scene.labels == ATR["hat"], "hat") > 0.8


@pytest.mark.parametrize(("side", "seed"), [("right", 3), ("left", 25)])
def test_a_raised_arm_without_a_pose_is_no_hair(side: str, seed: int) -> None:
    scene = dance(dancer(sleeves=0.0), 8, seed=seed, turned=0.0)
    lost = without_joints(scene, tuple(JOINTS.index(f"{side}-{joint}") for joint in ("elbow", "wrist")))
    arm, found = scene.labels == ATR[f"{side}-arm"], parsed(lost)
    assert shares(found["labels"], arm, "hair", "hat", "face") < 0.05
    assert shares(found["labels"], arm, f"{side}-arm") > 0.65
    assert (found["sure"][arm] < 128).mean() > 0.6, "that arm is a guess"


@pytest.mark.parametrize("colour", [(210, 40, 40), (236, 180, 30), (250, 250, 250)])
def test_a_ball_in_the_hand_is_no_body(colour: tuple[int, int, int]) -> None:
    scene = dance(dancer(ball="left", ball_colour=colour), 8, seed=4, turned=0.0)
    ball = (scene.mask > 0) & (scene.labels == 0)
    assert ball.sum() > 1000
    labels = parsed(scene)["labels"]
    assert shares(labels, ball, "background") > 0.8
    assert shares(labels, scene.labels > 0, "background") < 0.02


@pytest.mark.parametrize("top", [0.6, 0.8])
def test_subtitles_are_no_body(top: float) -> None:
    plain = dance(dancer(), 6, seed=4, turned=0.0)
    scene = subtitled(plain, "and now they dance", top)
    text = (scene.mask > 0) & (plain.mask == 0)
    assert text.sum() > 300
    labels = parsed(scene)["labels"]
    assert shares(labels, text, "background") > 0.55
    assert shares(labels, scene.labels == ATR["pants"], "pants") > 0.85, "writing beside the legs makes no skirt"


def test_bare_feet_and_shins_are_no_boots() -> None:
    skirt = Cloth("plain", (200, 40, 180), (200, 40, 180), 0.1)
    look = dancer(barefoot=True, bottom="dress", hem=0.7, top=skirt, lower=skirt, sleeves=1.9, skin=(150, 100, 66))
    scene = dance(look, 6, seed=4, turned=np.pi)
    labels, legs = parsed(scene)["labels"], np.isin(scene.labels, [ATR["left-leg"], ATR["right-leg"]])
    assert shares(labels, legs, "left-leg", "right-leg") > 0.8


def black() -> Scene:
    cloth = Cloth("plain", (20, 20, 24), (20, 20, 24), 0.1)
    return dance(dancer(top=cloth, lower=cloth, sleeves=1.9, shoe=(24, 22, 22)), 6, seed=4)


@pytest.mark.parametrize("colour", [(150, 85, 35), (140, 70, 30)])
def test_sleeves_and_gloves_of_one_colour_seen_from_behind_are_no_bare_arms(colour: tuple[int, int, int]) -> None:
    top = Cloth("fade", colour, colour, 0.1)
    scene = dance(dancer(gloves=colour, top=top, sleeves=1.9), 8, seed=4, turned=np.pi)
    labels, worn = parsed(scene)["labels"], scene.labels == ATR["upper-clothes"]
    assert shares(labels, worn, "left-arm", "right-arm") < 0.05
    assert shares(labels, worn, "upper-clothes", "dress") > 0.85


def test_a_shirt_in_the_colour_of_the_hair_is_no_hair() -> None:
    grey = Cloth("plain", (80, 82, 90), (80, 82, 90), 0.1)
    scene = dance(dancer(hair="afro", hair_colour=(160, 158, 166), top=grey, scarf=True), 8, seed=4, turned=0.0)
    worn = scene.labels == ATR["upper-clothes"]
    assert shares(parsed(scene)["labels"], worn, "hair", "hat") < 0.05


def test_pale_legs_below_shorts_seen_from_behind_are_no_trousers() -> None:
    pale = (250, 240, 210)
    skin = Cloth("plain", pale, tuple(int(0.93 * c) for c in pale), 0.1)
    scene = dance(dancer(skin=pale, top=skin, sleeves=0.0, bottom="shorts", hem=0.6), 8, seed=4, turned=np.pi)
    legs = np.isin(scene.labels, [ATR["left-leg"], ATR["right-leg"]])
    assert shares(parsed(scene)["labels"], legs, "left-leg", "right-leg") > 0.85


@pytest.mark.parametrize(
    "made",
    [
        lambda: dance(Dancer.random(3), 6, seed=3, turned=np.pi / 2),
        lambda: dance(Dancer.random(5), 6, seed=5, crossed=True),
        black,
    ],
)
def test_it_is_unsure_where_it_is_wrong(made: Callable[[], Scene]) -> None:
    scene = made()
    found = parsed(scene)
    person = (scene.labels > 0) | (found["labels"] > 0)
    wrong, unsure = (found["labels"] != scene.labels) & person, (found["sure"] < 128) & person
    assert unsure.sum() < 0.2 * person.sum()
    assert wrong[unsure].mean() > 3 * wrong[person & ~unsure].mean()


def test_edges_of_the_mask_are_unsure_and_the_rest_of_the_background_is_not() -> None:
    scene = dance(dancer(), 4, seed=4)
    soft = np.stack([np.clip(m.astype(int) * 4 // 5 + 25, 0, 255).astype(np.uint8) for m in scene.mask])
    soft[:, 0:20] = 120  # hardly outside
    found = PoseGuidedParser()(scene.frames, pose={"keypoints": scene.keypoints, "mask": soft})
    assert (found["sure"][:, 0:20] < 128).all() and (found["labels"][:, 0:20] == 0).all()
    assert (found["sure"][:, 30:][scene.mask[:, 30:] == 0] == 255).all()


def test_a_frame_without_a_pose_is_not_sure_of_anything() -> None:
    scene = dance(dancer(), 4, seed=4)
    keypoints = scene.keypoints.copy()
    keypoints[2] = 0
    found = PoseGuidedParser()(scene.frames, pose={"keypoints": keypoints, "mask": scene.mask})
    assert not found["sure"][2].any() and found["sure"][1].any()
