"""Weights that are absent or broken, detectors that fail, GPUs that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from remot_data import assets
from remot_data.care import check_computing
from remot_data.detectors import base
from tests.remot_data.care.conftest import by_name, one


def test_gpus_that_torch_cannot_use_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(check_computing, "_nvidia_smi", lambda: ["Some GPU, 80 GiB, 570.1"])
    finding = one(check_computing._gpus(None))
    assert finding.state == "warn" and "Some GPU" in finding.detail and "CUDA" in finding.remedy
    monkeypatch.setattr(check_computing, "_nvidia_smi", list)
    assert one(check_computing._gpus(None)).state == "ok"


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REMOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_weights_that_are_not_there_are_not_fetched_but_named(empty_cache: Path) -> None:
    before = dict(os.environ)
    found = by_name(check_computing._detectors(None))
    assert dict(os.environ) == before
    assert found["detector blazepose"].state == found["detector basic-scores"].state == "warn"
    assert "remot assets blazepose-landmarks" in found["detector blazepose"].remedy
    assert "remot assets blazepose-detector" in found["detector basic-scores"].remedy
    assert found["detector dis"].state == found["detector pose-guided"].state == "ok"
    assert not empty_cache.exists()
    assert "not fetched: blazepose-detector" in one(check_computing._weights(None)).detail


def test_broken_weights_are_bad(empty_cache: Path) -> None:
    path = assets.ASSETS["blazepose-landmarks"].path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cut off")
    broken = by_name(check_computing._weights(None))["asset blazepose-landmarks"]
    assert broken.state == "bad" and str(path) in broken.detail
    assert "remot assets blazepose-landmarks" in broken.remedy
    assert by_name(check_computing._detectors(None))["detector blazepose"].state == "bad"


class Other:
    """A detector of another package, with what the protocol asks for."""

    name, kind, version, schema, needs, licence, approximate = "other", "scores", "1", "other", (), "MIT", False

    def fingerprint(self) -> dict[str, object]:
        return {}

    def __call__(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        raise RuntimeError("illegal opcode")


def test_detectors_of_other_packages_need_only_load(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"other": base.Entry("", f"{__name__}:Other"), "gone": base.Entry("", "no_such_package:Thing")}
    monkeypatch.setattr(base, "known", lambda: entries)
    other, gone = check_computing._detectors(None)
    assert (other.what, other.state) == ("detector other", "ok")
    assert gone.state == "warn" and "no_such_package" in gone.detail


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (Other.__call__, "illegal opcode"),
        (lambda self, frames: {"sharpness": np.zeros(1, np.float32)}, "LayerError"),
    ],
)
def test_a_default_detector_that_fails_on_a_frame_is_bad(
    call: object, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Other, "__call__", call)
    monkeypatch.setattr(base, "known", lambda: {"other": base.Entry("", f"{__name__}:Other")})
    monkeypatch.setattr(base, "DEFAULTS", {"scores": "other"})
    finding = one(check_computing._detectors(None))
    assert finding.state == "bad" and says in finding.detail
