from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from remot_data.reading.stream import Window  # noqa: E402
from remot_data.render import pose_map  # noqa: E402
from remot_data.store.layers import BUILT_IN  # noqa: E402
from remot_model import networks  # noqa: E402
from remot_model.checkpoint import CheckpointError, Run  # noqa: E402
from remot_model.config import preset  # noqa: E402
from remot_model.evaluating import evaluate as evaluation  # noqa: E402
from remot_model.evaluating import report as report_of  # noqa: E402

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
    """Windows of two clips of a person who walks to the right, in the form of `remot_data.reading.stream.Plan`."""

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
    monkeypatch.setattr(evaluation, "_layers", lambda store, snapshot: {"flow": "dis-0123 (dis 1)"})
    monkeypatch.setattr(FakePlan, "absent", ())
    monkeypatch.setattr(FakePlan, "made_with", [])
    return FakePlan


def test_every_method_is_measured_and_written_down(store, tmp_path):
    seen = []
    report = evaluation.evaluate(
        random_run(tmp_path / "run"), "store", length=LENGTH, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    told = {"store": ["store"], "snapshot": "main", "split": "test", "length": 4, "source": "frontal", "shuffle": False}
    assert store.made_with == [{**told, "among": BUILT_IN}]
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


def test_the_protocol_stands_beside_the_numbers(store, tmp_path):
    run = random_run(tmp_path)
    report = evaluation.evaluate(run, "store", length=LENGTH)
    protocol = report["protocol"]
    assert protocol["source_frames"] == {"a": 30, "b": 30}
    assert protocol["scored_frames"] == {"a": [[0, 7]], "b": [[8, 11], [20, 23]]}
    assert set(protocol["networks"]) == {"layout", "region", "whole"}
    assert protocol["layers"] == {"store": {"flow": "dis-0123 (dis 1)"}} and protocol["config"] == CONFIG.digest()
    assert protocol["versions"]["scikit-image"]
    with torch.no_grad():
        next(run.generators["whole"].parameters()).add_(1)
    other = evaluation.evaluate(run, "store", length=LENGTH)["protocol"]["networks"]
    assert [other[s] == protocol["networks"][s] for s in ("layout", "region", "whole")] == [True, True, False]
    page = (tmp_path / "evaluation" / "metrics.md").read_text()
    assert "source frame 30; scored 8 to 11, 20 to 23" in page and other["whole"] in page and "dis-0123" in page


@pytest.mark.slow
def test_frames_at_the_start_of_a_sequence_can_be_left_unscored(store, tmp_path):
    run = random_run(tmp_path)
    whole = evaluation.evaluate(run, "store", length=LENGTH)
    rows = (tmp_path / "evaluation" / "frames.csv").read_text().splitlines()
    for skip, spans in ((1, {"a": [[1, 7]], "b": [[9, 11], [21, 23]]}), (4, {"a": [[4, 7]]}), (6, {"a": [[6, 7]]})):
        report = evaluation.evaluate(run, "store", length=LENGTH, skip=skip)
        assert report["protocol"]["scored_frames"] == spans and report["protocol"]["skipped"] == skip
        assert report["frames"] == sum(b - a + 1 for part in spans.values() for a, b in part)
        # The frames that are scored have the values they have without it, but the TCM of the pair that is cut.
        left = (tmp_path / "evaluation" / "frames.csv").read_text().splitlines()
        assert {row.rsplit(",", 2)[0] for row in left} < {row.rsplit(",", 2)[0] for row in rows}
    assert whole["frames"] == 16
    with pytest.raises(evaluation.EvaluationError, match="no sequence is longer than the 8 frames"):
        evaluation.evaluate(run, "store", length=LENGTH, skip=8)


def test_means_by_clip_rows_by_frame_and_the_worst_frames_agree(store, tmp_path):
    report = evaluation.evaluate(random_run(tmp_path), "store", length=LENGTH)
    rows = list(csv.DictReader((tmp_path / "evaluation" / "frames.csv").open()))
    assert [r["method"] for r in rows] == [m for m in evaluation.METHODS for _ in range(16)]
    model = rows[:16]
    assert [(r["clip"], int(r["frame"])) for r in model[:9:4]] == [("a", 0), ("a", 4), ("b", 8)]
    # A pair of frames has its TCM at the second; the first of a window has none.
    assert [r["tcm"] == "" for r in model[:8]] == [True, False, False, False] * 2
    for name in ("ssim", "mask_psnr"):
        values = [float(r[name]) for r in model]
        assert report["methods"]["model"][name] == pytest.approx(np.mean(values))
        assert report["by_clip"]["b"][name] == pytest.approx(np.mean(values[8:]))
    tcm = [np.mean([float(r["tcm"]) for r in part if r["tcm"]]) for part in (model[:8], model[8:])]
    assert report["methods"]["model"]["tcm"] == pytest.approx(np.mean(tcm))
    lowest = sorted(min(float(r["mask_psnr"]) for r in model[i : i + 4]) for i in (0, 4, 8, 12))
    assert [row["mask_psnr"] for row in report["worst"]] == pytest.approx(lowest)
    picture = cv2.imread(str(tmp_path / "evaluation" / "worst.png"))
    assert 4 * 192 < picture.shape[0] < 4 * 192 + 40
    assert (
        f"{report['worst'][0]['clip']}, frame {report['worst'][0]['frame']}"
        in (tmp_path / "evaluation" / "metrics.md").read_text()
    )


def test_the_published_tables_are_those_of_the_paper():
    tables = report_of.PUBLISHED
    assert [len(rows) for rows in tables.values()] == [5, 5, 4, 4]
    assert tables["Table 1, iPER"]["C2F"] == {"ssim": 0.849, "psnr": 24.27, "lpips": 0.072, "fid": 55.07, "tcm": 0.687}
    assert tables["Table 2, SoloDance"]["REMOT"]["mask_psnr"] == 27.89
    assert tables["Table 3, ablation on iPER"]["RGN without GAM"] == {"mask_ssim": 0.892, "mask_psnr": 20.94}
    # The last row of an ablation is the method of the main table.
    for full, ablation in (
        ("Table 1, iPER", "Table 3, ablation on iPER"),
        ("Table 2, SoloDance", "Table 4, ablation on SoloDance"),
    ):
        a, b = tables[full]["REMOT"], tables[ablation]["REMOT"]
        assert all(a[name] == b[name] for name in set(a) & set(b))


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
        states.append(bool(value))

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
