"""Scores that find wrong frames: what is good is passed, each fault shows in the column that is for it."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from remot_data.detectors.base import DEFAULTS, Detector, load
from remot_data.detectors.quality_scores import UNKNOWN, QualityScores, quality
from remot_data.reading.filters import DEFAULT, passing
from remot_data.schemas import SCORES, keypoint_set
from remot_data.synthetic import Dancer, Scene, dance

T, SPAN = 40, slice(15, 20)
P = keypoint_set("body25").points
Columns = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A dancer seen from the front, who stays in the picture."""
    return dance(Dancer.random(3), T, seed=3, turned=0.0)


def scored(scene: Scene, frames: np.ndarray | None = None, **changed: np.ndarray) -> Columns:
    """Scores of a scene, some of whose arrays are changed: keypoints, mask, labels, checks."""
    arrays = {"keypoints": scene.keypoints, "mask": scene.mask, "labels": scene.labels, **changed}
    parsing = {"labels": arrays.pop("labels")}
    return quality(scene.frames if frames is None else frames, pose=arrays, parsing=parsing)


def moved(array: np.ndarray, pixels: int) -> np.ndarray:
    """Maps [T, H, W] that lie aside in the span."""
    out = array.copy()
    out[SPAN] = np.roll(out[SPAN], pixels, 2)
    return out


def points(scene: Scene, change: Callable[[np.ndarray], None]) -> np.ndarray:
    out = scene.keypoints.copy()
    change(out[SPAN])
    return out


def exchange(part: np.ndarray) -> None:
    pairs = [(i, P.index(name.replace("left", "right"))) for i, name in enumerate(P) if name.startswith("left")]
    a, b = np.array(pairs).T
    part[:, np.r_[a, b]] = part[:, np.r_[b, a]]


def exchange_legs(part: np.ndarray) -> None:
    a, b = ([P.index(f"{side}-{name}") for name in ("hip", "knee", "ankle")] for side in ("left", "right"))
    part[:, [*a, *b]] = part[:, [*b, *a]]


def lose_wrist(part: np.ndarray) -> None:
    part[:, P.index("left-wrist")] = 0


def push(part: np.ndarray) -> None:
    part[..., 0] += 45


def throw_wrist(part: np.ndarray) -> None:
    part[:, P.index("left-wrist"), :2] += 40


def test_it_is_the_default_and_a_detector() -> None:
    assert DEFAULTS["scores"] == "quality-scores" and isinstance(load("quality-scores"), Detector)
    assert QualityScores().fingerprint() != load("basic-scores").fingerprint()
    assert QualityScores.schema == "quality"


def test_it_has_every_basic_column_and_its_own(scene: Scene) -> None:
    needed = {"pose": {"keypoints": scene.keypoints, "mask": scene.mask}, "parsing": {"labels": scene.labels}}
    found, basic = QualityScores()(scene.frames, **needed), load("basic-scores")(scene.frames, pose=needed["pose"])
    assert set(found) == {*SCORES["basic"], *SCORES["quality"]}
    for name, values in found.items():
        assert values.dtype == np.float32 and values.shape == (T,) and np.isfinite(values).all(), name
        assert name not in basic or np.array_equal(values, basic[name])


def test_every_column_is_documented() -> None:
    documented = [line.split("``")[1] for line in str(QualityScores.__doc__).splitlines() if line.startswith("    ``")]
    assert documented == list(SCORES["quality"])


def test_good_frames_pass_the_default_filter(scene: Scene) -> None:
    assert passing(DEFAULT, scored(scene), T).all()


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("swapped", exchange),
        ("swapped", exchange_legs),
        ("twist", exchange_legs),
        ("jumps", throw_wrist),
        ("jitter", throw_wrist),
        ("limbs", throw_wrist),
        ("lost", lose_wrist),
        ("off_person", push),
        ("no_limb", push),
    ],
)
def test_a_spoilt_pose_shows(scene: Scene, column: str, change: Callable[[np.ndarray], None]) -> None:
    good, bad = scored(scene)[column], scored(scene, keypoints=points(scene, change))[column]
    assert good.max() < 0.06
    # Jitter is at the ends of a span: there somebody goes, and comes.
    assert (bad[SPAN].max() if column == "jitter" else bad[SPAN].min()) > max(0.06, 1.5 * float(good.max()))
    assert (bad[: SPAN.start - 6] == good[: SPAN.start - 6]).all() or column == "limbs"


@pytest.mark.parametrize("change", [exchange, exchange_legs, throw_wrist, lose_wrist, push])
def test_spoilt_poses_do_not_pass_the_default_filter(scene: Scene, change: Callable[[np.ndarray], None]) -> None:
    passed = passing(DEFAULT, scored(scene, keypoints=points(scene, change)), T)
    assert not passed[SPAN].any() and passed[:10].all() and passed[25:].all()


def test_labels_beside_the_person_show(scene: Scene) -> None:
    found = scored(scene, labels=moved(scene.labels, 20))
    assert found["apart"][SPAN].min() > 0.3 and found["apart"][:15].max() < 0.1
    assert not passing(DEFAULT, found, T)[SPAN].any()


def test_labels_that_flicker_show(scene: Scene) -> None:
    labels = scene.labels.copy()
    most = np.bincount(labels[labels > 0]).argmax()
    labels[10::2][labels[10::2] == most] = 17  # what she wears is a scarf in every other frame
    found = scored(scene, labels=labels)["flicker"]
    assert found[12:].min() > 0.1 and scored(scene)["flicker"].max() < 0.01


def test_writing_over_the_person_shows(scene: Scene) -> None:
    there = np.argwhere(scene.mask.min(0) > 0)
    y, x = there.mean(0).astype(int)
    frames = scene.frames.copy()
    shaking = np.random.default_rng(0).integers(-60, 60, frames.shape)  # what moves behind the letters
    frames = np.where(scene.mask[..., None] > 0, frames + shaking, frames).clip(0, 255).astype(np.uint8)
    plain = scored(scene, frames)["overlay"]
    for frame in frames:
        cv2.putText(frame, "WMWMW", (int(x) - 40, int(y)), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (0, 0, 0), 6)
        cv2.putText(frame, "WMWMW", (int(x) - 40, int(y)), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (255, 255, 255), 3)
    assert plain.max() < 0.002 and scored(scene, frames)["overlay"].min() > 0.005


def test_blown_pixels_and_a_moving_camera_show(scene: Scene) -> None:
    frames = scene.frames.copy()
    frames[SPAN] = np.where(scene.mask[SPAN, ..., None] > 0, 255, frames[SPAN])
    assert scored(scene, frames)["clipped"][SPAN].min() > 0.8 and scored(scene)["clipped"].max() < 0.2
    wide = cv2.resize(np.random.default_rng(1).integers(0, 255, (40, 60, 3)).astype(np.uint8), (600, 400))
    walking = np.stack([wide[:256, 5 * t : 5 * t + 192] for t in range(T)])
    nobody = {"mask": np.zeros_like(scene.mask), "labels": np.zeros_like(scene.labels)}
    found = scored(scene, walking, **nobody)["camera"]
    assert found[1:] == pytest.approx(5 / 256, abs=0.004) and scored(scene)["camera"].max() < 0.002


def test_what_no_second_pass_saw_is_neither_good_nor_bad(scene: Scene) -> None:
    assert (scored(scene)["disagreement"] == UNKNOWN).all() and (scored(scene)["mended"] == UNKNOWN).all()
    checks = np.zeros((T, 2, 25), np.uint8)
    checks[:, 1] = 255
    checks[3, 1, P.index("left-knee")] = 50
    checks[4, :, P.index("right-wrist")] = 2, 25
    found = scored(scene, checks=checks)
    assert found["disagreement"][[0, 3, 4]].tolist() == pytest.approx([UNKNOWN, 0.2, 0.1])
    assert found["mended"][[3, 4]].tolist() == pytest.approx([0, 1 / 15])
    assert passing("disagreement<=0.15", found, T).tolist() == [t != 3 for t in range(T)]


@pytest.mark.parametrize("frames", [1, 2])
def test_short_clips_without_anybody(frames: int) -> None:
    empty = {"keypoints": np.zeros((frames, 25, 3), np.float32)}
    found = quality(
        np.zeros((frames, 64, 48, 3), np.uint8), pose=empty, parsing={"labels": np.zeros((frames, 64, 48), np.uint8)}
    )
    assert all(np.isfinite(values).all() and len(values) == frames for values in found.values())


def test_times_decide_what_is_fast(scene: Scene) -> None:
    """A wrist that is thrown in a video of five frames a second may have got there."""
    keypoints = points(scene, throw_wrist)
    slow = quality(
        scene.frames,
        pose={"keypoints": keypoints, "mask": scene.mask},
        parsing={"labels": scene.labels},
        times={"times": np.arange(T) / 5},
    )
    assert slow["jumps"].max() == 0 and slow["jitter"].max() == 0
