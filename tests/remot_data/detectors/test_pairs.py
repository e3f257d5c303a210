"""Flow layers out of pairs: what DIS makes where DIS gives the pairs; padding; both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from remot_data.detectors._network import Runner  # noqa: E402
from remot_data.detectors._pairs import Pairs, padded  # noqa: E402
from remot_data.detectors.dis import PRESETS, DISFlow, one_opencv_thread  # noqa: E402
from remot_data.store.layers.flow import CONSISTENT, PHOTOMETRIC  # noqa: E402
from tests.remot_data.detectors.company import assert_company_changes_nothing  # noqa: E402


class Estimated(Pairs):
    """Pairs of a function on arrays [N, H, W, 3]."""

    multiple, least = 1, 1

    def __init__(self, function: Callable[[np.ndarray, np.ndarray], np.ndarray], batch: int = 1):
        self._function, self._runner, self.batch = function, Runner("test", "cpu", batch, "float32"), batch

    def estimate(self, first: Any, second: Any) -> Any:
        pictures = [images.permute(0, 2, 3, 1).to(torch.uint8).numpy() for images in (first, second)]
        return torch.from_numpy(self._function(*pictures)).permute(0, 3, 1, 2)


def texture(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def moving(dx: int, dy: int, count: int = 4) -> np.ndarray:
    """A texture that moves by (dx, dy) pixels a frame."""
    return np.stack([np.roll(texture(), (dy * t, dx * t), (0, 1)) for t in range(count)])


def dis(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    network = cv2.DISOpticalFlow_create(PRESETS["medium"])
    grey = [[cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in stack] for stack in (first, second)]
    with one_opencv_thread():
        return np.stack([network.calc(a, b, None) for a, b in zip(*grey, strict=True)])


@pytest.mark.parametrize("batch", [1, 3])
def test_pairs_of_dis_give_the_layer_of_dis(batch: int) -> None:
    frames = moving(3, -2, 6)
    wanted, got = DISFlow()(frames), Estimated(dis, batch)(frames)
    assert np.abs(wanted["flow"] - got["flow"]).max() < 1e-5
    # OpenCV warps in steps of a 32nd pixel, and to whole grey levels.
    assert (wanted["confidence"] == got["confidence"]).mean() > 0.995
    assert len(np.unique(got["confidence"])) == 4
    assert np.median(got["flow"][1:, 8:-8, 8:-8], (0, 1, 2)) == pytest.approx((-1.5, 1), abs=0.1)


def test_company_changes_nothing() -> None:
    assert_company_changes_nothing(Estimated(dis, 3), moving(3, -2, 5))


def test_each_pair_is_seen_once_both_ways() -> None:
    frames = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    seen: list[tuple[int, int]] = []

    def estimate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        seen.extend((int(a[0, 0, 0]), int(b[0, 0, 0])) for a, b in zip(first, second, strict=True))
        return np.zeros((*first.shape[:3], 2), np.float32)

    out = Estimated(estimate)(frames)
    assert sorted(seen) == sorted([(t, t - 1) for t in range(1, 7)] + [(t - 1, t) for t in range(1, 7)])
    assert (out["confidence"][1:] == CONSISTENT | PHOTOMETRIC).all() and not out["confidence"][0].any()


def test_flow_there_without_a_way_back_is_not_trusted() -> None:
    def estimate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        flow = np.zeros((*first.shape[:3], 2), np.float32)
        flow[..., 0] = 6  # the same both ways: going on, not back
        return flow

    out = Estimated(estimate)(moving(0, 0, 2))
    assert (out["flow"][1, ..., 0] == 3).all() and (out["flow"][1, ..., 1] == 0).all()
    assert not (out["confidence"][1] & CONSISTENT).any()


def test_one_frame_and_odd_sizes() -> None:
    def never(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        raise AssertionError("there is no pair")

    out = Estimated(never)(np.zeros((1, 9, 7, 3), np.uint8))
    assert out["flow"].shape == (1, 4, 3, 2) and out["confidence"].shape == (1, 4, 3)
    still = Estimated(lambda first, second: np.zeros((*first.shape[:3], 2), np.float32))
    assert still(np.zeros((3, 9, 1, 3), np.uint8))["flow"].shape == (3, 4, 1, 2)


@pytest.mark.parametrize(
    ("size", "multiple", "least", "grown"),
    [((256, 192), 8, 128, (256, 192)), ((250, 190), 64, 128, (256, 192)), ((50, 130), 8, 128, (128, 136))],
)
def test_padding_grows_to_what_is_wanted_and_is_undone(
    size: tuple[int, int], multiple: int, least: int, grown: tuple[int, int]
) -> None:
    frames = torch.randint(0, 256, (2, 3, 1, *size)).float()
    large, (rows, columns) = padded(frames, multiple, least)
    assert large.shape == (2, 3, 1, *grown)
    assert (large[..., rows, columns] == frames).all()
    assert (large[..., 0, columns] == frames[..., 0, :]).all()
    assert (large[..., rows, -1] == frames[..., -1]).all()
