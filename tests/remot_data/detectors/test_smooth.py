"""Smoothed keypoints: no lag, by time stamps, never across what is lost; and as a layer beside the raw one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remot_data import media, open_store
from remot_data.annotating.annotate import Outdated, annotate
from remot_data.assets import fetch
from remot_data.care.verify import repair, verify
from remot_data.detectors.base import DetectorError
from remot_data.detectors.smooth import Smooth, smoothed
from remot_data.ingest.build import build
from remot_data.ingest.policy import Policy
from remot_data.reading.stream import Plan
from remot_data.store import StoreError
from tests.remot_data.conftest import digests


def keypoints(x: np.ndarray, confidence: float = 1.0) -> np.ndarray:
    """One joint [T, 1, 3] that moves along x and stands still in y."""
    return np.stack([x, np.full_like(x, 7.0), np.full_like(x, confidence)], -1)[:, None].astype(np.float32)


@pytest.mark.parametrize("fps", [15, 30, 60])
@pytest.mark.parametrize("hertz", [4.0, 6.0])
def test_a_frequency_passes_as_the_formula_says_and_in_place(fps: int, hertz: float) -> None:
    times = np.arange(8 * fps) / fps
    for frequency in (1.0, 2.5, hertz):
        if frequency > 0.3 * fps:
            continue
        wave = np.sin(2 * np.pi * frequency * times + 0.4)
        middle = slice(2 * fps, -2 * fps)
        found = smoothed(keypoints(50 + 10 * wave), times, hertz)[middle, 0, 0] - 50
        left = 10 / (1 + (frequency / hertz) ** 4)
        assert np.abs(found - left * wave[middle]).max() < 0.12 * left, "as strong as told, and without a shift in time"


def test_it_goes_by_time_stamps() -> None:
    """Frames that come at double the rate for a while are not smoothed less there."""
    rng = np.random.default_rng(0)
    steps = np.where(np.arange(300) < 150, 1 / 60, 1 / 30)
    times = np.cumsum(steps)
    even = smoothed(keypoints(20 * times), times, 6.0)
    assert np.abs(even[:, 0, 0] - 20 * times).max() < 1e-3, "what moves evenly in time stays where it is"
    noise = rng.standard_normal(300)
    left = smoothed(keypoints(50 + noise), times, 3.0)[:, 0, 0] - 50
    assert left[20:130].std() < 0.45 and left[170:280].std() < 0.55


def test_it_never_reaches_across_lost_spans_and_pauses() -> None:
    times = np.arange(60) / 30
    x = np.where(np.arange(60) < 30, 10.0, 100.0)
    lost = keypoints(x)
    lost[28:32] = 0
    found = smoothed(lost, times, 6.0)
    assert not found[28:32].any()
    assert np.abs(found[:28, 0, 0] - 10).max() < 1e-3 and np.abs(found[32:, 0, 0] - 100).max() < 1e-3
    paused = times + np.where(np.arange(60) < 30, 0, 1.0)
    found = smoothed(keypoints(x), paused, 6.0)
    assert np.abs(found[:, 0, 0] - x).max() < 1e-3


@given(st.integers(0, 40), st.integers(1, 4), st.integers(0, 2**31), st.floats(0.5, 40))
def test_confidences_and_what_is_lost_stay(frames: int, joints: int, seed: int, hertz: float) -> None:
    rng = np.random.default_rng(seed)
    given_points = rng.uniform(0.1, 1, (frames, joints, 3)).astype(np.float32)
    given_points[rng.random((frames, joints)) < 0.2] = 0
    before = given_points.copy()
    found = smoothed(given_points, np.cumsum(rng.uniform(0.01, 0.1, frames)), hertz)
    assert np.array_equal(given_points, before)
    assert np.isfinite(found).all() and np.array_equal(found[..., 2], given_points[..., 2])
    assert not found[given_points[..., 2] == 0].any()


def test_masks_and_marks_are_those_of_the_layer_it_reads() -> None:
    pose = {"keypoints": keypoints(np.arange(9.0)), "mask": np.ones((9, 4, 4), np.uint8)}
    found = Smooth()(np.zeros((9, 4, 4, 3), np.uint8), pose=pose, times={"times": np.arange(9) / 30})
    assert found["mask"] is pose["mask"] and set(found) == {"keypoints", "mask"}


@pytest.mark.parametrize("hertz", [0, -1, float("nan"), float("inf")])
def test_a_frequency_is_above_zero(hertz: float) -> None:
    with pytest.raises(DetectorError, match="above 0"):
        Smooth(hertz=hertz)


class TestLayer:
    def test_it_stands_beside_the_raw_one_with_its_schema(self, own_dancers) -> None:
        raw = own_dancers.snapshot("main").layers["pose"]
        before = digests(own_dancers.url)
        done = annotate(own_dancers, "pose", f"smooth:{raw[:6]}", snapshot="even", workers=0)
        assert done.id.startswith("smooth-") and done.computed == 3
        store = open_store(own_dancers.url)
        assert store.layer("pose", done.id).schema == store.layer("pose", raw).schema
        assert store.layer("pose", done.id).inputs == {"pose": raw}
        after = digests(own_dancers.url)
        assert all(after[name] == before[name] for name in before if raw in name), "the raw layer stays"
        clip = store.clips[0]
        a, b = (store.read_arrays(f"layers/pose/{i}", "pose", clip)["keypoints"] for i in (raw, done.id))
        assert not np.array_equal(a, b) and np.abs(a - b).max() < 6
        assert Plan(store, snapshot="even", length=2).window(0).arrays["keypoints"].shape[1:] == (25, 3)
        assert not list(verify(store))
        assert annotate(store, "pose", "smooth", inputs={"pose": raw}, workers=0).id == done.id

    def test_an_unknown_layer_is_named(self, own_dancers) -> None:
        with pytest.raises(StoreError, match="no single pose layer called 'nothing'"):
            annotate(own_dancers, "pose", "smooth:nothing", workers=0)

    def test_a_lost_shard_of_both_is_made_again(self, own_dancers) -> None:
        """The smoothed layer is made after the raw one of its kind."""
        raw = own_dancers.snapshot("main").layers["pose"]
        first = annotate(own_dancers, "pose", f"smooth:{raw}", workers=0)
        second = annotate(own_dancers, "pose", f"smooth:{first.id}", settings={"hertz": 3}, workers=0)
        before = digests(own_dancers.url)
        for layer in (first.id, second.id):
            (Path(own_dancers.url) / f"layers/pose/{layer}/shard-00001.tar").unlink()
        store = open_store(own_dancers.url)
        assert not repair(store, list(verify(store)), workers=0)
        after = digests(own_dancers.url)
        assert {k for k in before if "ledger" not in k and after[k] != before[k]} == set()


SMALL = Policy(persons="main", size=(128, 96), min_frames=6, shard_frames=20)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("videos")
    for name in ("sample-cam02", "sample-cam03"):
        media.cut(fetch(name), folder / f"{name}.mp4", 0.0, 0.5)
    return folder / "sample-cam02.mp4", folder / "sample-cam03.mp4"


def build_smoothed(out: str, video: Path) -> dict[str, str]:
    """A store whose snapshot holds a smoothed pose alone: parsing reads the raw one, scores the smoothed one."""
    layers = {"pose": "blazepose", "parsing": "pose-guided"}
    raw = build([video], out, policy=SMALL, layers=layers, workers=0).layers["pose"]
    even = annotate(out, "pose", "smooth", snapshot="main", workers=0).id
    scores = annotate(out, "scores", "basic-scores", snapshot="main", workers=0).id
    assert open_store(out).layer("scores", scores).inputs["pose"] == even
    return {"raw": raw, "even": even, "scores": scores}


@pytest.mark.slow
def test_a_store_grows_with_the_layers_that_its_layers_read(tmp_path: Path, videos: tuple[Path, Path]) -> None:
    out = str(tmp_path / "store")
    made = build_smoothed(out, videos[0])
    chosen = open_store(out).snapshot("main").layers
    done = build([videos[1]], out, workers=0)
    store = open_store(out)
    assert done.layers == chosen == store.snapshot("main").layers and chosen["pose"] == made["even"]
    assert store.shard_count > 1 and not list(verify(store))
    for folder in (f"layers/pose/{made['raw']}", f"layers/pose/{made['even']}", f"layers/scores/{made['scores']}"):
        assert set(store.present(folder)) == set(range(store.shard_count)), folder

    whole = str(tmp_path / "whole")
    build_smoothed(whole, videos[0])
    build([videos[1]], whole, workers=2)
    layers = {k: v for k, v in digests(whole).items() if k.startswith("layers/") and not k.endswith(".json")}
    assert layers == {k: v for k, v in digests(out).items() if k in layers} and len(layers) > 8


AGED = """
from remot_data.detectors.{module} import {base}

class Aged({base}):
    version = "{version}"
"""


@pytest.mark.slow
def test_a_store_whose_detector_has_changed_says_so_before_it_grows(tmp_path: Path, videos: tuple[Path, Path]) -> None:
    """The commands it names make the layers again, those too that read them; then it grows."""
    file, out = tmp_path / "mine.py", str(tmp_path / "store")
    file.write_text(AGED.format(module="pose_guided", base="PoseGuidedParser", version="1"))
    layers = {"pose": "blazepose", "parsing": f"{file}:Aged", "background": "temporal-median"}
    build([videos[0]], out, policy=SMALL, layers=layers, workers=0)
    later = file.with_name("later.py")
    later.write_text(AGED.format(module="pose_guided", base="PoseGuidedParser", version="2"))
    store = open_store(out)
    made_by = store.layer("parsing", store.snapshot("main").layers["parsing"])
    store.write_json(f"{made_by.folder}/layer.json", dataclasses.replace(made_by, spec=f"{later}:Aged").to_json())

    before = digests(out)
    with pytest.raises(Outdated, match="made by pose-guided 1") as caught:
        build([videos[1]], out, workers=0)
    assert {k: v for k, v in digests(out).items() if v != before.get(k)}.keys() <= {"ledger/lock.json"}
    told = [part.partition("remot annotate ")[2] for part in str(caught.value).split("; ") if "remot annotate" in part]
    assert [part.split()[2] for part in told] == ["parsing", "background"]
    for part in told:
        _, _, kind, _, spec, _, snapshot = part.split()
        annotate(out, kind, spec, snapshot=snapshot, workers=0)
    grown = build([videos[1]], out, workers=0)
    assert grown.clips == 2 and not list(verify(open_store(out)))
    (Path(out) / f"{made_by.folder}/shard-00000.tar").unlink()
    problems = list(verify(open_store(out)))
    assert [p.name for p in problems] == [f"{made_by.folder}/shard-00000.tar"], "it has outgrown the old layers alone"
