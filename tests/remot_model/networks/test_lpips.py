"""LPIPS: the values of the reference package, within rounding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from remot_data.assets import AssetError, fetch  # noqa: E402
from remot_model.networks.lpips import ASSET, LPIPS  # noqa: E402

REFERENCE = json.loads((Path(__file__).parents[2] / "data/lpips-reference.json").read_text())["values"]
PLACES = {"astronaut": (0, 120), "chelsea": (20, 100), "coffee": (60, 200), "rocket": (100, 220)}


@pytest.fixture(scope="module")
def network() -> LPIPS:
    try:
        return LPIPS.load(fetch(ASSET))
    except AssetError as error:
        pytest.skip(str(error))


def picture(name: str) -> np.ndarray:
    from skimage import data

    y, x = PLACES[name]
    return getattr(data, name)()[y : y + 256, x : x + 192, :3]


def spoilt(image: np.ndarray, how: str) -> np.ndarray:
    noise = np.random.default_rng(0).integers(-30, 31, image.shape)
    return {
        "shifted": np.roll(image, (2, -3), (0, 1)),
        "noisy": (image.astype(np.int32) + noise).clip(0, 255).astype(np.uint8),
        "coarse": image[::4, ::4].repeat(4, 0).repeat(4, 1),
        "dark": image // 2,
    }[how]


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.mark.parametrize("pair", REFERENCE)
def test_the_values_are_those_of_the_reference_package(network, pair):
    name, other = pair.split()
    first = picture(name)
    second = picture(other) if other in PLACES else spoilt(first, other)
    assert network(tensor(first), tensor(second)).item() == pytest.approx(REFERENCE[pair], abs=2e-5)


def test_pictures_of_a_batch_are_measured_each_for_itself(network):
    a, b = torch.rand(2, 3, 3, 64, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    together = network(a, b)
    assert together.shape == (3,)
    for i in range(3):
        torch.testing.assert_close(together[i], network(a[i : i + 1], b[i : i + 1])[0])
    torch.testing.assert_close(network(a, a), torch.zeros(3))
    torch.testing.assert_close(together, network(b, a))


def test_pictures_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="at least 31 pixels"):
        LPIPS()(torch.zeros(1, 3, 30, 64), torch.zeros(1, 3, 30, 64))
