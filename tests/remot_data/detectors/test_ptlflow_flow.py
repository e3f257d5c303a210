"""ptlflow: what goes into a network and comes out, checkpoints, and real networks on real frames."""

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
    entry = base.Entry("flow", "remot_data.detectors.ptlflow_flow:PTLFlow", extra="ptlflow")
    monkeypatch.setitem(base.BUILTIN, "ptlflow", entry)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Three frames of a real video, uint8 [3, 256, 192, 3]."""
    decoded = [image for (_, image), _ in zip(media.read(assets.fetch("sample-cam02")), range(3), strict=False)]
    return np.stack([cv2.resize(image, (192, 256), interpolation=cv2.INTER_AREA) for image in decoded])


@pytest.fixture(scope="module")
def library() -> Any:
    pytest.importorskip("ptlflow")
    from remot_data.detectors.ptlflow_flow import _ptlflow

    return _ptlflow()


def checkpoint(library: Any, model: str, folder: Path) -> Path:
    """Random weights as ptlflow keeps its own."""
    import torch

    torch.manual_seed(0)
    network = library.get_model(model)
    path = folder / f"{model}.ckpt"
    torch.save({"state_dict": network.state_dict(), "hyper_parameters": {"train_size": [256, 192]}}, path)
    return path


def test_without_ptlflow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ptlflow", None)
    with pytest.raises(DetectorError, match=r'not installed .*ptlflow.*pip install "remot\[ptlflow\]"'):
        load("ptlflow")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["raft_small", "flownet2", "pwcnet", "gmflow"])
def test_real_networks_on_real_frames(library: Any, model: str, frames: np.ndarray, tmp_path: Path) -> None:
    path = checkpoint(library, model, tmp_path)
    flow: Any = load(f"ptlflow:{model}", weights=str(path), settings={"device": "cpu"})
    assert isinstance(flow, Detector)
    assert flow._network.train_size == [256, 192]
    first = flow(frames[:2])
    assert first["flow"].shape == (2, 128, 96, 2) and first["flow"].dtype == np.float32
    assert first["confidence"].shape == (2, 128, 96) and first["confidence"].dtype == np.uint8
    assert not first["flow"][0].any() and first["flow"][1].any() and np.isfinite(first["flow"]).all()
    assert flow(frames[:2])["flow"].tobytes() == first["flow"].tobytes()
    if model in ("raft_small", "pwcnet"):
        flow = load(f"ptlflow:{model}", weights=str(path), settings={"device": "cpu", "batch": 2})
        assert flow(frames[:2])["flow"].tobytes() == first["flow"].tobytes()
        assert_company_changes_nothing(flow, frames)


@pytest.mark.slow
def test_what_a_network_is_given_and_how_its_answer_is_read(
    library: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch

    path = checkpoint(library, "raft_small", tmp_path)
    flow: Any = load("ptlflow:raft_small", weights=str(path), settings={"device": "cpu"})
    seen: list[Any] = []

    def network(inputs: dict[str, Any]) -> dict[str, Any]:
        images = inputs["images"]
        seen.append(images)
        flows = torch.zeros(len(images), 1, 2, *images.shape[3:])
        flows[:, 0, 0] = torch.arange(images.shape[4]) - 26  # 0 at the frame's left edge once the padding is cut off
        return {"flows": flows}

    monkeypatch.setattr(flow, "_network", network)
    pictures = np.zeros((2, 100, 76, 3), np.uint8)
    pictures[1] = (255, 0, 0)
    out = flow(pictures)
    assert seen[0].shape == (2, 2, 3, 128, 128)
    assert seen[0][0, :, :, 0, 0].tolist() == [[0, 0, 1], [0, 0, 0]]  # BGR, the later frame first
    assert seen[0][1, :, :, 0, 0].tolist() == [[0, 0, 0], [0, 0, 1]]
    assert out["flow"][1, 0, :3, 0] == pytest.approx([0.25, 1.25, 2.25]) and not out["flow"][1, ..., 1].any()
    monkeypatch.setattr(flow, "_network", lambda inputs: {"flows": torch.zeros(2, 2, 2, 128, 128)})
    with pytest.raises(DetectorError, match="take a two-frame network"):
        flow(pictures)


@pytest.mark.slow
def test_fingerprints_and_wrong_files(library: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    path = checkpoint(library, "raft_small", tmp_path)
    mark = load("ptlflow:raft_small", weights=str(path), settings={"device": "cpu"}).fingerprint()
    assert json.loads(json.dumps(mark)) == mark
    assert mark["weights"] == base.file_sha256(path) and mark["model"] == "raft_small"
    settings = {"device": "cpu", "batch": 3}
    assert mark == load("ptlflow:raft_small", weights=str(path), settings=settings).fingerprint()
    half = load("ptlflow:raft_small", weights=str(path), settings={**settings, "precision": "bfloat16"}).fingerprint()
    assert half == mark | {"settings": {"precision": "bfloat16"}}

    def raised(spec: str, weights: Path | None = path, **settings: Any) -> str:
        with pytest.raises(DetectorError) as error:
            load(spec, weights=weights and str(weights), settings={"device": "cpu", **settings})
        return str(error.value)

    assert "do not fit the network" in raised("ptlflow:pwcnet")
    assert "choose ccmr" in raised("ptlflow:nothing")
    assert "raft_small has no checkpoint 'best'; choose things" in raised("ptlflow:raft_small", None, checkpoint="best")

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    assert "cannot be downloaded (no network); fetch it by other means" in raised("ptlflow:raft_small", None)
    monkeypatch.setattr(library, "get_model", offline)
    assert "raft_small fetches weights of its backbone" in raised("ptlflow:raft_small")
