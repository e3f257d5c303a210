"""The background: measured where it was seen, inpainted and said so where it was not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remot_data.detectors.base import Detector, DetectorError, load
from remot_data.detectors.temporal_median import TemporalMedian, masked_median
from remot_data.store.layers import kind
from remot_data.synthetic import Dancer, dance


def walk(count: int = 12, height: int = 64, width: int = 96) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A red square walks before a gradient: frames, labels, and the gradient."""
    y, x = np.mgrid[:height, :width]
    background = np.stack([x * 2, y * 3, x + y], -1).astype(np.uint8)
    frames, labels = np.repeat(background[None], count, 0), np.zeros((count, height, width), np.uint8)
    for t in range(count):
        x0 = 5 + 5 * t
        frames[t, 20:50, x0 : x0 + 15] = (255, 0, 0)
        labels[t, 20:50, x0 : x0 + 15] = 4
    return frames, labels, background


def test_a_walking_person_disappears() -> None:
    frames, labels, background = walk()
    out = TemporalMedian()(frames, parsing={"labels": labels})
    assert (out["image"] == background).all() and out["image"].dtype == np.uint8
    assert (out["seen"] == 255).all() and out["seen"].dtype == np.uint8


def test_what_is_never_seen_is_inpainted_and_said_so() -> None:
    frames, labels, background = walk()
    frames, labels = frames[:1].repeat(5, 0), labels[:1].repeat(5, 0)
    out = TemporalMedian()(frames, parsing={"labels": labels})
    hidden = out["seen"] == 0
    assert hidden[20:50, 5:20].all() and hidden.sum() > 450
    assert (out["image"][~hidden] == background[~hidden]).all()
    assert np.abs(out["image"][hidden].astype(int) - background[hidden]).mean() < 20


def test_the_margin_grows_with_the_frame() -> None:
    frames, labels, _ = walk(1, 128, 96)
    small = TemporalMedian(margin=0)(frames, parsing={"labels": labels})["seen"] == 0
    large = TemporalMedian(margin=8)(frames, parsing={"labels": labels})["seen"] == 0
    assert small.sum() == (labels > 0).sum()
    assert large.any(0).sum() == small.any(0).sum() + 8


def test_outliers_do_not_move_the_median() -> None:
    frames, labels, background = walk(11)
    frames[3] = 255 - frames[3]
    assert (TemporalMedian()(frames, parsing={"labels": labels})["image"] == background).mean() > 0.95


def test_many_frames_are_sampled_and_the_result_repeats() -> None:
    frames, labels, background = walk()
    many, marks = np.tile(frames, (20, 1, 1, 1)), np.tile(labels, (20, 1, 1))
    first = TemporalMedian(frames=16)(many, parsing={"labels": marks})
    assert (first["image"] == background).all()
    assert first["image"].tobytes() == TemporalMedian(frames=16)(many, parsing={"labels": marks})["image"].tobytes()


def test_a_person_who_fills_every_frame_leaves_nothing_seen() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 24, 3), dtype=np.uint8)
    out = TemporalMedian()(frames, parsing={"labels": np.full((3, 32, 24), 4, np.uint8)})
    assert not out["seen"].any() and (out["image"] == 128).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_masked_median_is_numpys(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (count, 3, 4, 3), dtype=np.uint8)
    masks = rng.random((count, 3, 4)) < 0.4
    image, seen = masked_median(frames, masks)
    for y in range(3):
        for x in range(4):
            left = frames[~masks[:, y, x], y, x]
            assert seen[y, x] == (len(left) > 0)
            wanted = np.floor(np.median(left, 0) + 0.5) if len(left) else 128
            assert (image[y, x] == wanted).all()


def test_settings() -> None:
    with pytest.raises(DetectorError, match="frames 0"):
        TemporalMedian(frames=0)
    assert TemporalMedian().fingerprint() != TemporalMedian(margin=3).fingerprint()
    assert isinstance(load("temporal-median"), Detector) and TemporalMedian.needs == ("parsing", "valid")
    assert TemporalMedian().fingerprint() != TemporalMedian(moving=False).fingerprint()
    assert "moving" not in TemporalMedian(moving=False).fingerprint()["settings"]


def followed(frames: int = 24, *, size: tuple[int, int] = (128, 96)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A crop that moves over a picture, with a dancer who stays in the middle of the picture's floor: frames, labels
    and what the crop shows without her."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(30, 226, (24, 30, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (240, 160), interpolation=cv2.INTER_CUBIC)
    labels = np.zeros((160, 240), np.uint8)
    cv2.ellipse(labels, (118, 80), (9, 34), 0, 0, 360, 4, -1)
    cv2.line(labels, (118, 66), (140, 50), 4, 5)
    person = np.where(labels[..., None] > 0, np.uint8(255) - picture // 4 * 3, picture)
    out: list[tuple[np.ndarray, ...]] = []
    for t in range(frames):
        at = slice(12 + t // 2, 12 + t // 2 + size[0]), slice(50 + 2 * t, 50 + 2 * t + size[1])
        out.append((person[at], labels[at], picture[at]))
    seen, marks, behind = (np.stack(x) for x in zip(*out, strict=True))
    return seen, marks, behind


def wrong(made: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Squared error by pixel, float64 [H, W]."""
    return ((made.astype(float) - truth) ** 2).mean(-1)


def test_a_moving_camera_is_followed() -> None:
    frames, labels, behind = followed()
    middle = len(frames) // 2
    made = TemporalMedian()(frames, parsing={"labels": labels})
    seen, error = made["seen"] > 0, wrong(made["image"], behind[middle])
    assert 10 * np.log10(255**2 / error[seen].mean()) > 30
    assert seen.mean() > 0.8 and not seen[labels[middle] > 0].any(), "she hides the same place all the time"
    plain = TemporalMedian(moving=False)(frames, parsing={"labels": labels})
    assert 10 * np.log10(255**2 / wrong(plain["image"], behind[middle])[plain["seen"] > 0].mean()) < 20


def test_who_stays_put_leaves_no_ghost_that_is_called_seen() -> None:
    frames, labels, behind = followed()
    middle, lost = len(frames) // 2, labels.copy()
    lost[[3, 9, 20]] = 0  # nobody was found
    lost[15][lost[15].shape[0] // 3 :] = 0  # half of her was
    made = TemporalMedian()(frames, parsing={"labels": lost})
    ghost = (made["seen"] > 0) & (labels[middle] > 0)
    assert not ghost.any()
    still = np.repeat(frames[middle][None], 8, 0), np.repeat(labels[middle][None], 8, 0)
    still[1][5] = 0
    assert not (TemporalMedian()(still[0], parsing={"labels": still[1]})["seen"] > 0)[labels[middle] > 0].any()


def test_a_camera_that_stands_still_gives_what_it_gave() -> None:
    for seed in range(3):
        scene = dance(Dancer.random(seed), 12, size=(128, 96), seed=seed)
        rng = np.random.default_rng(seed)
        noisy = np.clip(scene.frames + rng.normal(0, 3, scene.frames.shape), 0, 255).astype(np.uint8)
        new, old = (TemporalMedian(moving=x)(noisy, parsing={"labels": scene.labels}) for x in (True, False))
        assert (new["image"] == old["image"]).all() and (new["seen"] == old["seen"]).all()


def test_noise_on_a_screen_is_no_motion_of_the_camera() -> None:
    """A blue screen has no corners but those of compression, which dance."""
    rng, labels = np.random.default_rng(0), np.zeros((12, 128, 96), np.uint8)
    labels[:, 40:90, 40:60] = 4
    frames = []
    for _ in labels:
        blocks = cv2.resize(rng.normal(0, 1.5, (32, 24)).astype(np.float32), (96, 128), interpolation=cv2.INTER_CUBIC)
        frames.append(np.clip(np.array([20, 30, 200]) + blocks[..., None], 0, 255).astype(np.uint8))
    new, old = (TemporalMedian(moving=x)(np.stack(frames), parsing={"labels": labels}) for x in (True, False))
    assert (new["image"] == old["image"]).all()


def test_the_layer_tells_how_much_was_seen() -> None:
    frames, labels, _ = followed()
    made = TemporalMedian()(frames, parsing={"labels": labels})
    (told,) = kind("background").columns(made, 0).items()
    assert told == ("seen", pytest.approx((made["seen"] > 0).mean(), abs=1e-4)) and 0.8 < told[1] < 1
