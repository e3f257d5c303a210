"""RAFT of torchvision: what goes into the network and comes out, the wrong weights, and the real one on real frames."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from remot_data import assets, media
from remot_data.detectors import base
from remot_data.detectors.base import Detector, DetectorError, load
from tests.remot_data.detectors.company import assert_company_changes_nothing

pytestmark = pytest.mark.detectors


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = base.Entry("flow", "remot_data.detectors.torchvision_raft:TorchvisionRAFT", extra="flow")
    monkeypatch.setitem(base.BUILTIN, "torchvision-raft", entry)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Three frames of a real video, uint8 [3, 256, 192, 3]."""
    decoded = [image for (_, image), _ in zip(media.read(assets.fetch("sample-cam02")), range(3), strict=False)]
    return np.stack([cv2.resize(image, (192, 256), interpolation=cv2.INTER_AREA) for image in decoded])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights of the small network."""
    torch = pytest.importorskip("torch")
    flow = pytest.importorskip("torchvision.models.optical_flow")
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "small.pth"
    torch.save(flow.raft_small(weights=None).state_dict(), path)
    return path


def test_without_torchvision_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DetectorError, match=r'not installed .*torchvision.*pip install "remot\[flow\]"'):
        load("torchvision-raft")


@pytest.mark.slow
def test_real_frames_give_a_flow_layer_and_the_same_one_again(weights: Path, frames: np.ndarray) -> None:
    raft = load("torchvision-raft:raft_small", weights=str(weights), settings={"device": "cpu", "updates": 3})
    assert isinstance(raft, Detector)
    first, second = raft(frames), raft(frames)
    assert first["flow"].shape == (3, 128, 96, 2) and first["flow"].dtype == np.float32
    assert first["confidence"].shape == (3, 128, 96) and first["confidence"].dtype == np.uint8
    assert not first["flow"][0].any() and first["flow"][1:].any() and np.isfinite(first["flow"]).all()
    assert all(first[key].tobytes() == second[key].tobytes() for key in first)
    assert raft(frames[[0, 0], :101, :77])["flow"].shape == (2, 50, 38, 2)
    settings = {"device": "cpu", "updates": 3, "batch": 2}
    raft = load("torchvision-raft:raft_small", weights=str(weights), settings=settings)
    assert all(raft(frames)[key].tobytes() == first[key].tobytes() for key in first)
    assert_company_changes_nothing(raft, frames)
    raft = load("torchvision-raft:raft_small", weights=str(weights), settings={**settings, "precision": "bfloat16"})
    assert raft.fingerprint()["settings"] == {"updates": 3, "precision": "bfloat16"}
    half = raft(frames)
    assert half["flow"].dtype == np.float32 and np.isfinite(half["flow"]).all()
    assert 0 < np.abs(half["flow"] - first["flow"]).mean() < 0.1 * np.abs(first["flow"]).mean()


@pytest.mark.slow
def test_what_the_network_is_given_and_how_its_answer_is_read(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    raft: Any = load("torchvision-raft:raft_small", weights=str(weights), settings={"device": "cpu", "updates": 5})
    seen: list[Any] = []

    def network(one: Any, two: Any, num_flow_updates: int) -> list[Any]:
        seen.append((one, two, num_flow_updates))
        flow = torch.zeros(len(one), 2, *one.shape[2:])
        flow[:, 0] = torch.arange(one.shape[3]) - 26  # 0 at the frame's left edge once the padding is cut off
        flow[:, 1] = torch.arange(one.shape[2])[:, None] - 14
        return [torch.full_like(flow, 99), flow]

    monkeypatch.setattr(raft, "_network", network)
    pictures = np.zeros((2, 100, 76, 3), np.uint8)
    pictures[1] = (255, 0, 0)
    out = raft(pictures)
    one, two, updates = seen[0]
    assert updates == 5 and one.shape == (2, 3, 128, 128)
    assert one[0, :, 0, 0].tolist() == [1, -1, -1] and two[0, :, 0, 0].tolist() == [-1, -1, -1]  # RGB, later to earlier
    assert one[1, 0, 0, 0] == -1 and two[1, 0, 0, 0] == 1
    assert out["flow"].shape == (2, 50, 38, 2)
    assert out["flow"][1, 0, :3, 0] == pytest.approx([0.25, 1.25, 2.25])
    assert out["flow"][1, :3, 0, 1] == pytest.approx([0.25, 1.25, 2.25])


@pytest.mark.slow
def test_the_fingerprint_says_what_the_flow_depends_on(weights: Path) -> None:
    def mark(**settings: Any) -> dict[str, Any]:
        settings = {"device": "cpu", **settings}
        return load("torchvision-raft:raft_small", weights=str(weights), settings=settings).fingerprint()

    plain = mark()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["weights"] == base.file_sha256(weights) and plain["model"] == "raft_small"
    assert mark(batch=1) == plain and mark(updates=4) != plain


@pytest.mark.slow
def test_wrong_weights_and_settings_are_named(weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    def raised(spec: str, weights: Path | None = weights, **settings: Any) -> str:
        with pytest.raises(DetectorError) as error:
            load(spec, weights=weights and str(weights), settings=settings)
        return str(error.value)

    large = raised("torchvision-raft:raft_large")
    assert "do not fit the network" in large and "give a state dict of torchvision's raft_large" in large
    assert "choose one of raft_large, raft_small" in raised("torchvision-raft:raft_huge")
    assert "the batch is 0" in raised("torchvision-raft:raft_small", batch=0)
    assert "give at least 1, 12 is usual" in raised("torchvision-raft:raft_small", updates=0)
    assert "there is no weights file" in raised("torchvision-raft:raft_small", tmp_path / "missing.pth")
    assert "choose C_T_V1, C_T_V2" in raised("torchvision-raft:raft_small", None, variant="BEST")

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    said = raised("torchvision-raft:raft_small", None)
    assert "cannot be downloaded (no network)" in said and "give weights=FILE" in said
