from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from remot_data import cli
from remot_data.cli import commands
from remot_data.detectors import base
from remot_data.store import open_store
from remot_data.store.layers import kind


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = cli.run(line.split())
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_verify_and_stats_of_a_sound_store(dancers, capsys):
    assert run(f"verify {dancers.url}", capsys)[:2] == (0, f"{dancers.url} is sound\n")
    status, out, _ = run(f"stats {dancers.url} --json", capsys)
    assert status == 0 and "body25" in out
    assert json.loads(out.splitlines()[-1])["frames"] == 100


def test_verify_lists_what_is_wrong_with_status_1(own_dancers, capsys):
    (Path(own_dancers.url) / "frames/shard-00000.tar").unlink()
    status, out, err = run(f"verify {own_dancers.url}", capsys)
    assert status == 1
    assert "frames/shard-00000.tar is missing" in err
    assert "1 problems" in out


def test_a_snapshot_is_made_counted_and_switched_back(own_dancers, capsys):
    pose = own_dancers.snapshot("main").layers["pose"]
    status, out, _ = run(f"snapshot {own_dancers.url} some --layer pose={pose[:12]} --split time:0.2", capsys)
    assert status == 0 and "100 of 100 frames pass" in out
    assert open_store(own_dancers.url).snapshot("some").split == "time:0.2"
    status, out, _ = run(f"snapshot {own_dancers.url} some --where motion<0", capsys)
    assert "0 of 100 frames pass" in out
    assert open_store(own_dancers.url).snapshot("some").split == "time:0.2"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--layer pose=other", "no single pose layer"),
        ("--where beauty>1", "no column 'beauty'"),
        ("--split halves", "'column' or 'time:F'"),
    ],
)
def test_a_wrong_snapshot_is_refused_and_not_written(own_dancers, capsys, options, says):
    status, _, err = run(f"snapshot {own_dancers.url} bad {options}", capsys)
    assert status == 2 and says in err
    assert "bad" not in open_store(own_dancers.url).snapshots


def test_a_store_keeps_to_the_finder_that_it_was_built_with(red, tmp_path, capsys):
    finder, path = red
    common = f"build {path} --out {tmp_path / 'store'} --no-layers --size 64x48 --persons main --workers 0"
    assert run(f"{common} --finder {finder}", capsys)[0] == 0
    store = open_store(str(tmp_path / "store"))
    assert store.config["policy"]["finder"] == {"detector": "red", "weights": "WEIGHTS"} and len(store.clips) == 1
    assert run(common, capsys)[0] == 0  # nothing to look through
    (tmp_path / "more.mp4").write_bytes(path.read_bytes())
    status, _, err = run(f"{common} {tmp_path / 'more.mp4'}", capsys)
    assert status == 2 and "found by red (weights WEIGHTS); give that again with --finder" in err
    other = tmp_path / "other.py"
    other.write_text((tmp_path / "red.py").read_text().replace("WEIGHTS", "others"))
    status, _, err = run(f"{common} --finder {other}:Red", capsys)
    assert status == 2 and "another policy (weights is WEIGHTS, not others)" in err
    assert run(f"{common} --rule finder=red", capsys)[0] == 2


def test_a_package_of_somebody_else_offers_a_detector(monkeypatch, capsys):
    point = EntryPoint("theirs", "tests.remot_data.cli.test_commands:Theirs", "remot.detectors")
    monkeypatch.setattr(base, "_offered", lambda path: [point])
    assert "theirs" in run("detectors", capsys)[1]
    with pytest.raises(base.DetectorError, match="'theirs' is no detector"):
        base.load("theirs")


class Theirs:
    """No detector, but it can be made."""


def test_the_template_of_an_own_detector_runs(own_dancers, capsys):
    template = Path(__file__).parents[3] / "docs" / "own_detector.py"
    line = f"annotate {own_dancers.url} --layer parsing --with {template}:Bright --setting threshold=60 --workers 0"
    status, out, err = run(f"{line} --snapshot mine", capsys)
    assert status == 0, err
    store = open_store(own_dancers.url)
    layer, clip = store.snapshot("mine").layers["parsing"], store.clips[0]
    frame = kind("frames").decode("jpg", next(store.read_members("frames", clip, "jpg", [0])))
    labels = kind("parsing").decode("png", next(store.read_members(f"layers/parsing/{layer}", clip, "png", [0])))
    assert layer.startswith("bright-") and ((labels == 4) == (frame.mean(-1) > 60)).all()
    assert 0 < (labels == 4).mean() < 1


def test_listings_name_defaults_licences_and_packages(capsys):
    listing = run("detectors", capsys)[1]
    assert "blazepose" in listing and "persons" in listing and "docker/mmpose.sh" in listing
    listing = run("assets", capsys)[1]
    assert "mediapipe==0.10.21" in listing and "BSD-3-Clause" in listing
    status, _, err = run("assets nothing", capsys)
    assert status == 2 and "nothing" in err


def test_a_recipe_runs_its_steps_and_stops_at_the_first_that_cannot(tmp_path, capsys):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "settings: {n: 2}\n"
        "steps:\n"
        "  - synthetic --out {out}/s --dancers {n} --frames 4 --test 0 --size 32x32 --workers 0\n"
        "  - verify {out}/s\n"
        "  - stats {out}/absent\n"
        "  - synthetic --out {out}/never\n"
    )
    status, out, err = run(f"run {recipe} --set out={tmp_path} --set n=3", capsys)
    assert status == 2
    assert "3 dancers, 12 frames" in out and "is sound" in out
    assert "is no store" in err
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("text", ["steps: 3", "nothing: []", "steps: [", "{}"])
def test_a_recipe_that_cannot_be_read_is_one_sentence(tmp_path, capsys, text):
    (tmp_path / "r.yaml").write_text(text)
    status, _, err = run(f"run {tmp_path / 'r.yaml'}", capsys)
    assert status == 2 and "no recipe" in err


def test_a_setting_a_recipe_needs_is_named(tmp_path, capsys):
    (tmp_path / "r.yaml").write_text("steps: ['stats {where}']")
    status, _, err = run(f"run {tmp_path / 'r.yaml'}", capsys)
    assert status == 2 and "--set where=" in err


def test_a_command_that_cannot_be_imported_says_why(monkeypatch, capsys):
    class Point:
        name = "levitate"

        def load(self):
            raise ImportError("No module named 'antigravity'")

    monkeypatch.setattr(commands, "entry_points", lambda group: [Point()])
    monkeypatch.setattr(commands.app, "registered_commands", list(commands.app.registered_commands))
    status, _, err = run("levitate", capsys)
    assert status == 2 and "antigravity" in err


def test_unknown_commands_and_options_are_status_2(capsys):
    assert run("fly", capsys)[0] == 2
    assert run("stats", capsys)[0] == 2
    assert run("build x --out y --nothing", capsys)[0] == 2
