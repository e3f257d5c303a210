"""DIS flow: direction, size and confidence on images whose motion is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from remot_data.detectors.base import Detector, DetectorError, load
from remot_data.detectors.dis import DISFlow, consistent, one_opencv_thread, photometric
from remot_data.store.layers.flow import CONSISTENT, PHOTOMETRIC


def texture(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def moving(dx: int, dy: int, count: int = 3) -> np.ndarray:
    """A texture that moves by (dx, dy) pixels a frame."""
    return np.stack([np.roll(texture(), (dy * t, dx * t), (0, 1)) for t in range(count)])


@pytest.mark.parametrize("shift", [(3, 0), (0, -2), (-4, 2)])
def test_flow_points_back_to_where_a_pixel_came_from(shift: tuple[int, int]) -> None:
    out = DISFlow()(moving(*shift))
    inner = out["flow"][1:, 8:-8, 8:-8]
    # What moved by `shift` came from -shift; the grid has half as many pixels.
    assert np.median(inner, (0, 1, 2)) == pytest.approx(-np.array(shift) / 2, abs=0.1)
    assert (out["confidence"][1:, 8:-8, 8:-8] == CONSISTENT | PHOTOMETRIC).mean() > 0.9


def test_shapes_and_the_first_frame() -> None:
    out = DISFlow()(moving(2, 1))
    assert out["flow"].shape == (3, 48, 64, 2) and out["flow"].dtype == np.float32
    assert out["confidence"].shape == (3, 48, 64) and out["confidence"].dtype == np.uint8
    assert not out["flow"][0].any() and not out["confidence"][0].any()
    full = DISFlow(scale=1)(moving(2, 1))
    assert full["flow"].shape == (3, 96, 128, 2)
    assert np.median(full["flow"][1], (0, 1)) == pytest.approx(2 * np.median(out["flow"][1], (0, 1)), abs=0.1)


def test_a_new_picture_is_not_trusted() -> None:
    cut = np.stack([texture(seed=1), texture(seed=2)])
    confidence = DISFlow()(cut)["confidence"][1]
    assert (confidence & PHOTOMETRIC > 0).mean() < 0.2
    assert (confidence == CONSISTENT | PHOTOMETRIC).mean() < 0.1


def test_one_frame_and_the_same_frame_twice() -> None:
    assert not DISFlow()(moving(0, 0, 1))["flow"].any()
    still = DISFlow()(moving(0, 0, 2))
    assert np.abs(still["flow"]).max() < 1e-3
    assert (still["confidence"][1] == CONSISTENT | PHOTOMETRIC).all()


def test_the_number_of_threads_does_not_matter() -> None:
    before = cv2.getNumThreads()
    runs = []
    for threads in (1, 4):
        cv2.setNumThreads(threads)
        runs.append(DISFlow()(moving(3, 1))["flow"].tobytes())
        assert cv2.getNumThreads() == threads
    cv2.setNumThreads(before)
    assert runs[0] == runs[1]
    with one_opencv_thread():
        assert cv2.getNumThreads() == 1


def test_forward_backward_check() -> None:
    y, x = np.mgrid[:8, :10].astype(np.float32)
    forward = np.zeros((8, 10, 2), np.float32)
    forward[..., 0] = 2
    agree = consistent(forward, -forward, x + 2, y)
    assert agree[:, :8].all() and not agree[:, 8:].any()  # the last two columns flow out of the image
    assert not consistent(forward, forward, x + 2, y).any()


def test_photometric_threshold() -> None:
    frame = np.full((4, 4, 3), 100, np.uint8)
    # 0.02 over three channels of [-1, 1] is 10.4 grey levels in each.
    assert photometric(frame, frame + np.uint8(10)).all()
    assert not photometric(frame, frame + np.uint8(11)).any()
    assert not photometric(frame, frame + np.uint8(120)).any()


def test_settings_are_checked_and_in_the_fingerprint() -> None:
    with pytest.raises(DetectorError, match="ultrafast, fast, medium"):
        DISFlow(preset="slow")
    with pytest.raises(DetectorError, match="scale is 0"):
        DISFlow(scale=0)
    assert (
        DISFlow().fingerprint() != DISFlow(preset="fast").fingerprint() != DISFlow(preset="fast", scale=1).fingerprint()
    )
    assert isinstance(load("dis"), Detector)
