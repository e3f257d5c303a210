"""What `--plan` tells: counts exactly, seconds from measuring or from the ledger, and nothing is left behind."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import pytest

from remot_data import media
from remot_data.annotating.annotate import annotate
from remot_data.assets import fetch
from remot_data.care import forecast, planned
from remot_data.cli.commands import invoke
from remot_data.ingest.build import build
from remot_data.ingest.policy import Policy
from remot_data.records import Receipt
from remot_data.report import write_report
from remot_data.store import Store, open_store
from remot_data.store.history import history
from tests.remot_data.conftest import digests

SMALL = Policy(persons="main", size=(128, 96), min_frames=6, shard_frames=20)
LAYERS = {"flow": "dis"}


def test_an_annotation_is_measured_on_the_beginning_of_a_clip(
    own_dancers: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = digests(own_dancers.url)
    made = forecast.of_annotate(own_dancers, "pose", "smooth")
    (stage,) = made.stages
    assert (stage.todo, stage.there) == (100, 0) and stage.seconds > 0 and made.bytes > 100 * 300
    assert "measured here on 20 frames" in made.source and made.wall(2) <= made.wall(1)
    assert digests(own_dancers.url) == before and not list(tmp_path.glob("remot-plan-*"))
    annotate(own_dancers, "pose", "smooth", workers=0)
    assert forecast.of_annotate(own_dancers, "pose", "smooth").stages[0].there == 100
    assert invoke(["annotate", own_dancers.url, "--layer", "flow", "--with", "dis", "--plan", "--workers", "2"]) == 0


def test_hours_of_a_gpu_come_from_shards_that_it_made_or_are_unknown(
    own_dancers: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    mine = "class OnACard(DISFlow):\n    name = 'on-a-card'\n    device = 'cuda'\n"
    file.write_text(f"from remot_data.detectors.dis import DISFlow\n\n\n{mine}")
    plan = [
        "annotate",
        own_dancers.url,
        "--layer",
        "flow",
        "--with",
        f"{file}:OnACard",
        "--plan",
        "--price",
        "2.5/gpu-h",
    ]
    assert invoke(plan) == 0
    assert "GPU-hours: unknown" in capsys.readouterr().out
    meta = {"gpu": "NVIDIA H100", "sha256": "", "bytes": 1, "failed": {}}
    told = Receipt("annotate", 0, 1000, 5, {"layers/flow/on-a-card-123": meta}, {"flow": 3600.0})
    with own_dancers.log("receipts") as log:
        log.add(told.to_json())
    assert invoke([*plan, "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("0.10 GPU-hours on NVIDIA H100, 0.25 at 2.5" in line for line in lines)
    assert json.loads(lines[-1])["gpu_seconds"] == pytest.approx(360)
    assert invoke([*plan[:-1], "2.5 euros"]) == 2


@pytest.mark.slow
def test_a_build_is_measured_then_told_by_its_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (2, 3):
        media.cut(fetch(f"sample-cam0{number}"), tmp_path / f"{number}.mp4", 0.0, 1.0)
    first, second = tmp_path / "2.mp4", tmp_path / "3.mp4"
    out = str(tmp_path / "store")
    made = forecast.of_build([first, second, tmp_path / "2.mp4"], out, policy=SMALL, layers=LAYERS)
    assert not Path(out).exists()
    assert [(s.what, s.todo, s.there) for s in made.stages][0] == ("look through", 2, 0)
    assert "measured here" in made.source and made.bytes > 10_000 and all(s.seconds > 0 for s in made.stages)
    done = build([first], out, policy=SMALL, layers=LAYERS, workers=0)
    kept = done.frames["kept"]

    monkeypatch.setattr(forecast, "_ENOUGH", 20)
    more = forecast.of_build([first, second], out, policy=SMALL)
    assert "the ledger" in more.source
    assert [(s.todo, s.there) for s in more.stages][0] == (1, 1) and more.stages[1].there == kept
    assert more.stages[1].todo == pytest.approx(kept, rel=0.35)
    assert forecast.of_build([first], out, policy=SMALL).source == "nothing is left to do"


def test_inputs_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(forecast.ForecastError, match="no part of the inputs can be read"):
        forecast.of_build([tmp_path / "text.mp4"], str(tmp_path / "store"))


@pytest.mark.slow
def test_a_plan_stands_beside_what_its_run_took_once(
    own_dancers: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REMOT_CACHE", str(tmp_path / "cache"))
    command = ["annotate", own_dancers.url, "--layer", "pose", "--with", "smooth", "--workers", "0"]
    assert invoke([*command, "--plan"]) == 0
    assert invoke(["annotate", own_dancers.url, "--layer", "flow", "--with", "dis", "--workers", "0"]) == 0
    assert "planned" not in capsys.readouterr().out, "another run was planned"
    assert invoke(command) == 0
    assert re.search(r"planned \d+ s, took \d+ s\n", capsys.readouterr().out)
    (line,) = [line for line in history(open_store(own_dancers.url)) if line["what"] == "planned"]
    (stage,) = line["stages"]
    assert (line["command"], line["workers"], stage["what"], stage["todo"]) == ("annotate", 1, "pose", 100)
    assert all(seconds > 0 for pair in (line["wall"], line["cpu"], stage["wall"]) for seconds in pair)
    page = write_report(own_dancers.url, tmp_path / "r.html", most_clips=0).read_text()
    assert "What --plan had said beside what it took" in page
    assert f'<td class="number">{stage["wall"][1]:,.1f}</td>' in page
    assert invoke(command) == 0
    assert "planned" not in capsys.readouterr().out, "the plan was for one run"


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_costs_the_comparison_alone(
    own_dancers: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("REMOT_CACHE", str(tmp_path / "cache"))
    assert invoke(["annotate", own_dancers.url, "--layer", "flow", "--with", "dis", "--plan"]) == 0
    told = capsys.readouterr()
    assert "frames to do" in told.out and "the plan is not kept for comparison" in told.err


def test_few_plans_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REMOT_CACHE", str(tmp_path))
    monkeypatch.setattr(planned, "_MOST", 3)
    made = planned.Forecast("build", (planned.Stage("frames", "frames", 10, 0, 20.0, 20.0),), "the ledger")
    for number in range(5):
        planned.keep(made, f"s3://bucket/{number}")
    assert len(list((tmp_path / "plans").iterdir())) == 3
    pair = planned.Clock("build", "s3://bucket/4", workers=1).beside({"frames": 18.0})
    assert pair is not None and pair["stages"] == [
        {"what": "frames", "unit": "frames", "todo": 10, "wall": [20.0, 18.0]}
    ]
    assert pair["wall"][0] == pair["cpu"][0] == 20.0
    assert planned.Clock("build", "s3://bucket/0", workers=1).beside({}) is None


def test_what_resumes_is_not_held_against_the_whole_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REMOT_CACHE", str(tmp_path))
    made = planned.Forecast("build", (planned.Stage("frames", "frames", 10, 0, 20.0, 20.0),), "the ledger")
    planned.keep(made, "store", "a.mp4")
    assert planned.Clock("build", "store", "b.mp4").beside({}) is None, "of other videos"
    planned.Clock("build", "store", "a.mp4")  # and is interrupted
    assert planned.Clock("build", "store", "a.mp4").beside({"frames": 3.0}) is None
