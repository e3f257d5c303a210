"""Scores: each number moves with what it is meant to measure, and not with the size of the frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from remot_data.detectors.base import Detector, DetectorError, load
from remot_data.detectors.basic_scores import BasicScores, motion, sharpness
from remot_data.synthetic import Dancer, Scene, dance, layers


@pytest.fixture(scope="module")
def scene() -> Scene:
    return dance(Dancer.random(2), 8, seed=2)


@pytest.fixture(scope="module")
def scores() -> BasicScores:
    return BasicScores(every=3)


def test_every_score_is_one_number_a_frame(scene: Scene, scores: BasicScores) -> None:
    out = scores(scene.frames, pose={"keypoints": scene.keypoints})
    assert set(out) == {"sharpness", "visible_joints", "persons", "motion"}
    assert set(out) == set(layers(scene)["scores"]), "drawn scores have the same schema"
    assert all(v.shape == (8,) and v.dtype == np.float32 and np.isfinite(v).all() for v in out.values())
    again = scores(scene.frames, pose={"keypoints": scene.keypoints})
    assert all(out[key].tobytes() == again[key].tobytes() for key in out)


def test_blur_lowers_sharpness(scene: Scene, scores: BasicScores) -> None:
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in scene.frames])
    sharp, soft = (scores(f, pose={"keypoints": scene.keypoints})["sharpness"] for f in (scene.frames, blurred))
    assert (soft < 0.6 * sharp).all()


def test_sharpness_hardly_depends_on_the_size_of_the_frame() -> None:
    large = dance(Dancer.random(2), 1, size=(512, 384), seed=2).frames[0]
    small = cv2.resize(large, (192, 256), interpolation=cv2.INTER_AREA)
    assert sharpness(large, (60, 60, 340, 500)) == pytest.approx(sharpness(small, (30, 30, 170, 250)), rel=0.25)


def test_visible_joints_count_the_main_ones(scene: Scene, scores: BasicScores) -> None:
    keypoints = np.ones((2, 25, 3), np.float32) * (50, 60, 1)
    keypoints[0, :3, 2] = 0.2
    keypoints[:, 15:] = 0
    out = scores(scene.frames[:2], pose={"keypoints": keypoints.astype(np.float32)})
    assert out["visible_joints"] == pytest.approx([12 / 15, 1])


def test_motion_is_in_heights_of_the_person() -> None:
    keypoints = np.zeros((4, 25, 3), np.float32)
    keypoints[:, 0], keypoints[:, 11] = (50, 20, 1), (50, 120, 1)
    keypoints[2:, :, 0] += 10 * (keypoints[2:, :, 2] > 0)
    assert motion(keypoints) == pytest.approx([0, 0, 0.1, 0])
    assert motion(2 * keypoints) == pytest.approx(motion(keypoints))
    assert not motion(np.zeros((3, 25, 3), np.float32)).any()
    assert motion(keypoints[:1]).tolist() == [0]


def test_no_person(scores: BasicScores) -> None:
    out = scores(np.full((4, 64, 48, 3), 90, np.uint8), pose={"keypoints": np.zeros((4, 25, 3), np.float32)})
    assert not any(out[key].any() for key in out)


def test_people_are_counted_every_so_often(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = BasicScores(every=3)
    counts = iter([1, 2, 0])
    monkeypatch.setattr(counter, "_people", lambda frame: [None] * next(counts))
    assert counter._persons(scene.frames).tolist() == [1, 1, 1, 2, 2, 2, 0, 0]


def test_settings() -> None:
    with pytest.raises(DetectorError, match="every is 0"):
        BasicScores(every=0)
    assert BasicScores().fingerprint() != BasicScores(visible=0.3).fingerprint()
    assert isinstance(load("basic-scores"), Detector) and BasicScores.needs == ("pose", "boxes", "valid")
