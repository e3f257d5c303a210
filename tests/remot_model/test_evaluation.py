from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from remot_data.render import pose_map  # noqa: E402
from remot_data.stream import Window  # noqa: E402
from remot_model import evaluation, networks  # noqa: E402
from remot_model.checkpoint import CheckpointError, Run  # noqa: E402
from remot_model.config import preset  # noqa: E402

SIZE, LENGTH = (32, 24), 4
CONFIG = dataclasses.replace(preset("tiny"), name="test", size=SIZE, ngf=4, n_blocks=2, decoder_blocks=1)
SCHEMAS = {"pose": "body25", "labels": "remot11"}


def random_run(path: Path, config=CONFIG, stages=("layout", "region", "whole")) -> Run:
    torch.manual_seed(0)
    nets = {s: networks.generator(s, config).eval().requires_grad_(False) for s in stages}
    return Run(path, config, nets, SCHEMAS, {})


def standing(x: int) -> tuple[np.ndarray, np.ndarray]:
    """A frame and labels of a person of coloured blocks round column x."""
    frame = np.full((*SIZE, 3), 60, np.uint8)
    labels = np.zeros(SIZE, np.uint8)
    for label, (top, bottom), colour in ((4, (4, 9), 200), (1, (9, 17), 90), (2, (17, 26), 30), (5, (26, 29), 250)):
        labels[top:bottom, x - 3 : x + 3] = label
        frame[top:bottom, x - 3 : x + 3] = colour, 255 - colour, 80
    return frame, labels


class FakePlan:
    """Windows of two clips of a person who walks to the right, in the form of `remot_data.stream.Plan`."""

    length = LENGTH
    absent: tuple[str, ...] = ()
    made_with: list[dict] = []

    def __init__(self, store, snapshot, split, **options):
        type(self).made_with.append({"store": store, "snapshot": snapshot, "split": split, **options})

    def __len__(self) -> int:
        return 4

    def window(self, index: int, size) -> Window:
        assert size == SIZE
        clip, first = ("a", "a", "b", "b")[index], (0, 4, 8, 20)[index]
        frames, labels = (np.stack(v) for v in zip(*(standing(6 + t) for t in range(LENGTH)), strict=True))
        noise = np.random.default_rng(index).integers(-2, 3, frames.shape)
        frames = np.clip(frames.astype(int) + noise, 0, 255).astype(np.uint8)
        source, source_labels = standing(16)
        flow = np.zeros((LENGTH, *SIZE, 2), np.float32)
        flow[..., 0] = -1
        points = np.zeros((25, 3), np.float32)
        points[[0, 1, 8]] = [(12, 4, 1), (12, 9, 1), (12, 17, 1)]
        arrays = {
            "frames": frames,
            "labels": labels,
            "pose_map": np.stack([pose_map(points, "body25", SIZE)] * LENGTH),
            "source": source,
            "source_labels": source_labels,
            "background": np.full((*SIZE, 3), 60, np.uint8),
            "flow": flow,
            "confidence": np.ones((LENGTH, *SIZE), bool),
        }
        arrays = {k: v for k, v in arrays.items() if k not in self.absent}
        return Window(f"{clip}:{first}-{first + 3}/30", clip, first, 30, arrays)


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(evaluation, "Plan", FakePlan)
    monkeypatch.setattr(evaluation, "schemas", lambda store, snapshot: dict(SCHEMAS))
    monkeypatch.setattr(FakePlan, "absent", ())
    monkeypatch.setattr(FakePlan, "made_with", [])
    return FakePlan


def test_every_method_is_measured_and_written_down(store, tmp_path):
    seen = []
    report = evaluation.evaluate(
        random_run(tmp_path / "run"), "store", length=LENGTH, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert store.made_with == [
        {"store": ["store"], "snapshot": "main", "split": "test", "length": 4, "source": "frontal", "shuffle": False}
    ]
    assert (report["frames"], report["windows"], report["clips"]) == (16, 4, 2)
    assert set(report["methods"]) == set(evaluation.METHODS)
    for values in report["methods"].values():
        assert set(values) == {"ssim", "psnr", "mask_ssim", "mask_psnr", "tcm", "tcm_masked"}
        assert all(np.isfinite(v) for v in values.values())
    folder = tmp_path / "run" / "evaluation"
    assert json.loads((folder / "metrics.json").read_text()) == report
    picture = cv2.imread(str(folder / "samples.png"))
    # Two clips in a row each, six columns, enlarged six times, with room for names and gaps.
    assert 2 * 192 < picture.shape[0] < 2 * 192 + 40 and 6 * 144 < picture.shape[1] < 6 * 144 + 40


def test_gam_baseline_moves_the_source_to_the_real_place(store, tmp_path):
    methods = evaluation.evaluate(random_run(tmp_path), "store", length=LENGTH, out=tmp_path / "out")["methods"]
    # Source and driving person are equal blocks, so the aligned source is the truth but for the noise.
    assert methods["source after GAM"]["psnr"] > 40
    assert methods["source after GAM"]["ssim"] > 0.95 > methods["source copied"]["ssim"]
    # Along the flow the real frames change by their noise only: a still picture changes far more.
    assert methods["source copied"]["tcm"] < 0.01


def test_page_names_protocol_conventions_and_that_published_numbers_do_not_compare(store, tmp_path):
    evaluation.evaluate(random_run(tmp_path), "store", length=LENGTH)
    page = (tmp_path / "evaluation" / "metrics.md").read_text()
    for words in ("not comparable", "source copied", "source after GAM", "0.856", "Mask-PSNR", "whole frame", "LPIPS"):
        assert words in page
    assert "LPIPS ↓: not measured" in page


def test_memory_goes_on_between_windows_that_adjoin(store, tmp_path, monkeypatch):
    states = []
    real = evaluation.rollout.transfer
    monkeypatch.setattr(
        evaluation.rollout,
        "transfer",
        lambda *a, states=None, **k: (states_seen(states), real(*a, states=states, **k))[1],
    )

    def states_seen(value):
        states.append(value is not None)

    evaluation.evaluate(random_run(tmp_path), "store", length=LENGTH)
    assert states == [False, True, False, False]


def test_limit_spreads_over_all_windows(store, tmp_path):
    report = evaluation.evaluate(random_run(tmp_path), "store", length=LENGTH, limit=2)
    assert (report["windows"], report["clips"]) == (2, 2)
    with pytest.raises(evaluation.EvaluationError, match="limit of 0"):
        evaluation.evaluate(random_run(tmp_path), "store", limit=0)


def test_without_flow_there_is_no_tcm_and_the_report_says_why(store, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "absent", ("flow", "confidence"))
    report = evaluation.evaluate(random_run(tmp_path), "store", length=LENGTH)
    assert "tcm" not in report["methods"]["model"]
    assert "--layer flow" in report["unavailable"]["tcm"]


def test_a_layer_that_is_needed_and_missing_is_named(store, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "absent", ("labels",))
    with pytest.raises(evaluation.EvaluationError, match="--layer parsing"):
        evaluation.evaluate(random_run(tmp_path), "store", length=LENGTH)
    assert not (tmp_path / "evaluation").exists()


def test_without_a_background_people_stand_on_black(store, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "absent", ("background",))
    report = evaluation.evaluate(random_run(tmp_path), "store", length=LENGTH)
    assert "no background layer" in report["background"]
    assert "no background layer" in (tmp_path / "evaluation" / "metrics.md").read_text()
    values = report["methods"]["source after GAM"]
    # Everything outside the person is equally black, so masking changes nothing.
    assert values["mask_psnr"] == pytest.approx(values["psnr"], abs=0.5)


def test_a_run_without_a_stage_is_refused(store, tmp_path):
    with pytest.raises(evaluation.EvaluationError, match="no trained whole stage"):
        evaluation.evaluate(random_run(tmp_path, stages=("layout", "region")), "store")
    without_wcn = dataclasses.replace(CONFIG, use_wcn=False)
    report = evaluation.evaluate(
        random_run(tmp_path, without_wcn, ("layout", "region")), "store", length=LENGTH, limit=1
    )
    assert report["frames"] == LENGTH


def test_another_schema_is_refused(store, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "schemas", lambda store, snapshot: {"pose": "coco18"})
    with pytest.raises(CheckpointError, match=r"body25.*coco18"):
        evaluation.evaluate(random_run(tmp_path), "store")
