from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remot_data.detectors.basic_scores import BasicScores
from remot_data.schemas import KEYPOINTS, LABELS, convert_labels
from remot_data.store import layers as kinds
from remot_data.synthetic import Dancer, Scene, dance, layers
from remot_data.synthetic.figure import Easel
from remot_data.synthetic.scene import _stamp_labels

BODY = KEYPOINTS["body25"]
ATR = LABELS["atr18"]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [dance(Dancer.random(seed), 4, size=(128, 96), fps=15, seed=seed) for seed in range(40)]


def labels_near(scene: Scene, t: int, point: str, radius: int = 3) -> set[str]:
    """Names of the labels around a keypoint; empty if it is outside the image."""
    x, y, seen = scene.keypoints[t, BODY.index(point)]
    if not seen:
        return set()
    rows, columns = (slice(max(int(c) - radius, 0), int(c) + radius + 1) for c in (y, x))
    return {ATR.labels[i] for i in np.unique(scene.labels[t, rows, columns])}


def test_same_seeds_give_the_same_bytes() -> None:
    first, again = (dance(Dancer.random(3), 3, size=(64, 48), seed=5) for _ in range(2))
    for field in dataclasses.fields(Scene):
        assert np.array_equal(getattr(first, field.name), getattr(again, field.name)), field.name
    assert not np.array_equal(first.frames, dance(Dancer.random(3), 3, size=(64, 48), seed=6).frames)
    assert Dancer.random(3) == Dancer.random(3) != Dancer.random(4)


def test_a_longer_dance_begins_like_the_shorter_one() -> None:
    short, long = (dance(Dancer.random(8), frames, size=(64, 48), seed=8) for frames in (2, 5))
    assert np.array_equal(short.frames, long.frames[:2]) and np.array_equal(short.flow, long.flow[:2])


@pytest.mark.parametrize("seed", [1, 5, 19, 21])
def test_previous_frame_warped_by_the_flow_is_this_frame(seed: int) -> None:
    scene = dance(Dancer.random(seed), 6, size=(256, 192), seed=seed)
    y, x = np.indices((256, 192), np.float32)
    squared, still, moved = [], [], []
    for t in range(1, 6):
        warped = cv2.remap(scene.frames[t - 1], x + scene.flow[t, ..., 0], y + scene.flow[t, ..., 1], cv2.INTER_LINEAR)
        edges = cv2.morphologyEx(scene.labels[t], cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
        inner = cv2.erode(scene.confidence[t] & 1, np.ones((5, 5), np.uint8)) > 0
        inner &= ~edges & (scene.labels[t] > 0)
        here = scene.frames[t][inner].astype(float)
        squared.append((here - warped[inner]) ** 2)
        still.append((here - scene.frames[t - 1][inner]) ** 2)
        moved.append(np.linalg.norm(scene.flow[t][inner], axis=-1))
    assert np.concatenate(moved).mean() > 0.2
    assert sum(map(len, squared)) > 5 * 1000
    error = np.concatenate(squared).mean()
    assert 10 * np.log10(255**2 / error) > 30
    assert error < 0.7 * np.concatenate(still).mean()


def test_background_is_exact_and_still(scenes: list[Scene]) -> None:
    for scene in scenes[:10]:
        away = cv2.dilate(scene.mask[1], np.ones((5, 5), np.uint8)) == 0
        assert np.array_equal(scene.frames[1][away], scene.background[away])
        assert not scene.flow[1][away].any()


def test_first_frame_has_no_flow_and_occlusion_is_marked(scenes: list[Scene]) -> None:
    for scene in scenes[:10]:
        assert not scene.flow[0].any() and not scene.confidence[0].any()
        uncovered = (scene.labels[1] == 0) & (scene.labels[0] != 0)
        assert not (scene.confidence[1][uncovered] & 1).any()
        both = (scene.labels[1] == 0) & (scene.labels[0] == 0)
        assert (scene.confidence[1][both] & 1).all()
        assert (scene.confidence[1] & 1).mean() > 0.9 and (scene.confidence[1] & 2).astype(bool).mean() > 0.9


def test_trusted_flow_leads_to_the_same_label(scenes: list[Scene]) -> None:
    same = []
    for scene in scenes:
        for t in range(1, len(scene.frames)):
            y, x = np.nonzero((scene.confidence[t] & 1) * scene.labels[t])
            before = np.floor(np.stack([x, y], -1) + 0.5 + scene.flow[t, y, x]).astype(int)
            there = scene.labels[t - 1, before[:, 1], before[:, 0]]
            assert (there != 0).all()
            same += (there == scene.labels[t, y, x]).tolist()
    assert np.mean(same) > 0.98


def test_image_and_labels_coincide() -> None:
    """Around the mask, the blended border of the picture is as wide above as below, and left as right."""
    blended: dict[tuple[int, int], list[bool]] = {(0, 1): [], (0, -1): [], (1, 1): [], (1, -1): []}
    for seed in range(10):
        scene = dance(Dancer.random(seed), 1, size=(128, 96), background=np.full((128, 96, 3), (0, 255, 0), np.uint8))
        changed = (scene.frames[0] != scene.background).any(-1)
        mask = scene.mask[0] > 0
        assert changed[mask].mean() > 0.99
        for (axis, step), found in blended.items():
            found += changed[np.roll(mask, step, axis) & ~mask].tolist()
    for axis in (0, 1):
        assert abs(np.mean(blended[axis, 1]) - np.mean(blended[axis, -1])) < 0.12


def test_sprites_lie_where_they_are_drawn() -> None:
    easel = Easel((-1.0, -1.0, 1.0, 1.0), 20)
    easel.polygon([(-0.5, 0.0), (0.5, 0.0), (0.5, 0.8), (-0.5, 0.8)], "bag", (1, 2, 3))
    sprite = easel.sprite()
    y, x = np.nonzero(sprite.labels)
    assert abs((x + 0.5).mean() / 20 - 1 - 0.0) < 0.03 and abs((y + 0.5).mean() / 20 - 1 - 0.4) < 0.03
    labels, owners = np.zeros((2, 60, 60), np.uint8)
    shifted = np.array([[1.0, 0, 7], [0, 1.0, 9]])
    _stamp_labels(labels, owners, 5, sprite, shifted, np.array([7, 9, 47, 49]))
    assert np.array_equal(labels[9:49, 7:47], sprite.labels) and np.array_equal(owners > 0, labels > 0)


def test_mask_is_where_the_labels_are(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert np.array_equal(scene.mask, np.where(scene.labels != 0, 255, 0))
        assert 0.03 < (scene.mask > 0).mean() < 0.5


def test_labels_agree_with_the_keypoints(scenes: list[Scene]) -> None:
    head = {"face", "hair", "hat", "sunglasses"}
    found: dict[str, list[bool]] = {"nose": [], "ankle": [], "wrist": [], "hip": []}
    for scene in scenes:
        for t in range(len(scene.frames)):
            arms = {"left-arm", "right-arm", "upper-clothes", "dress"}
            found["nose"].append(bool(labels_near(scene, t, "nose") & (head | arms)))
            for side in ("left", "right"):
                ankle, wrist = labels_near(scene, t, f"{side}-ankle"), labels_near(scene, t, f"{side}-wrist")
                if ankle:
                    found["ankle"].append(bool(ankle & {f"{side}-shoe", f"{side}-leg"}))
                if wrist:
                    found["wrist"].append(f"{side}-arm" in wrist)
                found["hip"].append(bool(labels_near(scene, t, f"{side}-hip") - {"background"}))
    assert all(found["nose"]) and all(found["hip"])
    # The others may be hidden by another part.
    assert np.mean(found["ankle"]) > 0.95 and np.mean(found["wrist"]) > 0.85


def test_keypoints_lie_on_the_person(scenes: list[Scene]) -> None:
    inside = []
    for scene in scenes:
        for t, points in enumerate(scene.keypoints):
            seen = points[points[:, 2] > 0]
            assert ((seen[:, :2] >= 0) & (seen[:, :2] < [96, 128])).all()
            near = cv2.dilate(scene.mask[t], np.ones((3, 3), np.uint8))
            inside += (near[seen[:, 1].astype(int), seen[:, 0].astype(int)] > 0).tolist()
    assert np.mean(inside) > 0.97


def test_unseen_keypoints_are_zero() -> None:
    dancer = dataclasses.replace(Dancer.random(0), place=0.02)
    points = dance(dancer, 4, size=(128, 96), seed=0).keypoints
    unseen = points[..., 2] == 0
    assert unseen.any() and not unseen.all() and not points[unseen].any()


def test_left_and_right_change_places_from_behind() -> None:
    """The line of the shoulders turns with the body: both orders occur, and the labels follow the keypoints."""
    order = set()
    for seed in range(30):
        scene = dance(Dancer.random(seed), 1, size=(64, 48), seed=seed)
        left, right = (scene.keypoints[0, BODY.index(f"{side}-shoulder")] for side in ("left", "right"))
        if left[2] and right[2] and abs(left[0] - right[0]) > 4:
            order.add(bool(left[0] > right[0]))
    assert order == {True, False}


def test_sides_of_the_face_are_those_of_the_body(scenes: list[Scene]) -> None:
    for scene in scenes:
        at = {name: scene.keypoints[:, BODY.index(name)] for name in ("left-eye", "right-eye", "left-ear", "right-ear")}
        wide = np.abs(at["left-ear"][:, 0] - at["right-ear"][:, 0]) > 5
        wide &= np.min([p[:, 2] for p in at.values()], 0) > 0
        for t in np.nonzero(wide)[0]:
            assert (at["left-eye"][t, 0] > at["right-eye"][t, 0]) == (at["left-ear"][t, 0] > at["right-ear"][t, 0])


def test_a_set_of_dancers_has_every_layout_class_and_most_labels(scenes: list[Scene]) -> None:
    seen = set()
    for scene in scenes:
        assert set(np.unique(convert_labels(scene.labels, "atr18", "remot6"))) >= {0, 3, 4, 5}
        seen |= set(np.unique(scene.labels).tolist())
    merged = {int(i) for i in convert_labels(np.array(sorted(seen), np.uint8), "atr18", "remot11")}
    assert merged == set(range(11))
    assert seen == set(range(18))


def test_layers_are_what_detectors_return(scenes: list[Scene]) -> None:
    made = layers(scenes[0])
    assert set(made) == {"pose", "parsing", "flow", "background", "scores"}
    for name, arrays in made.items():
        kinds.kind(name).check(arrays, 4, (128, 96))
    assert made["flow"]["flow"].shape == (4, 64, 48, 2)
    full = scenes[0].flow[2].reshape(64, 2, 48, 2, 2).mean((1, 3)) / 2
    assert np.allclose(made["flow"]["flow"][2], full, atol=1e-4)
    all_four = (scenes[0].confidence[2] & 1).reshape(64, 2, 48, 2).min((1, 3))
    assert np.array_equal(made["flow"]["confidence"][2] & 1, all_four)
    assert (made["scores"]["persons"] == 1).all()
    as_measured = BasicScores()(scenes[0].frames, pose=made["pose"])
    for name in ("sharpness", "visible_joints", "motion"):
        assert np.array_equal(made["scores"][name], as_measured[name])  # one schema, one meaning


def test_a_given_background_is_used_and_another_size_refused() -> None:
    given_one = np.full((64, 48, 3), 77, np.uint8)
    scene = dance(Dancer.random(2), 2, size=(64, 48), background=given_one)
    assert np.array_equal(scene.background, given_one) and (scene.frames[0][scene.mask[0] == 0] == 77).mean() > 0.8
    with pytest.raises(ValueError, match="background"):
        dance(Dancer.random(2), 2, size=(64, 64), background=given_one)
    with pytest.raises(ValueError, match="at least 1 frame"):
        dance(Dancer.random(2), 0)


@given(seed=st.integers(0, 10_000), height=st.integers(16, 150), width=st.integers(16, 150), frames=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_any_size_gives_whole_arrays(seed: int, height: int, width: int, frames: int) -> None:
    scene = dance(Dancer.random(seed), frames, size=(height, width), seed=seed)
    assert scene.frames.shape == (frames, height, width, 3) and scene.background.shape == (height, width, 3)
    assert scene.labels.shape == scene.confidence.shape == scene.mask.shape == (frames, height, width)
    assert scene.flow.shape == (frames, height, width, 2) and scene.flow.dtype == np.float32
    assert np.isfinite(scene.flow).all() and scene.labels.max() < 18 and scene.confidence.max() <= 3
    for name, arrays in layers(scene).items():
        kinds.kind(name).check(arrays, frames, (height, width))
