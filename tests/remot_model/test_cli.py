from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from remot_model import cli

app = typer.Typer()
for command in (cli.train, cli.transfer, cli.evaluate, cli.app):
    app.command()(command)


@pytest.fixture(autouse=True)
def stores(monkeypatch):
    """Stores that are only named have frames of 256x192."""
    # What is first imported while it is patched would keep what it got.
    import remot_data.care.forecast  # noqa: F401

    if importlib.util.find_spec("torch"):
        import remot_model.training.forecast  # noqa: F401
        import remot_model.transferring.forecast  # noqa: F401
    monkeypatch.setattr("remot_data.store.open_store", lambda url: SimpleNamespace(url=url, size=(256, 192)))


def invoke(*words: str):
    return CliRunner().invoke(app, list(words))


def test_importing_the_commands_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; import remot_model.cli; "
        "assert not {'safetensors', 'skimage', 'cv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "store", "--out", "run"],
        ["transfer", "--run", "run", "--source", "a.png", "--driving", "b.mp4", "--out", "c.mp4"],
        ["evaluate", "store", "--run", "run"],
        ["app", "--run", "run"],
    ],
)
def test_without_torch_every_command_says_what_to_install(words, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import typer; from remot_model import cli\n"
        "app = typer.Typer()\n"
        "for f in (cli.train, cli.transfer, cli.evaluate, cli.app): app.command()(f)\n"
        f"app({words!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert 'pip install "remot[train]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["train", "transfer", "evaluate", "app"])
def test_help_lists_the_options(command):
    words = invoke(command, "--help").output
    wanted = {
        "train": "--stage --preset --out --steps --minutes --resume --seed --workers --only-read --json".split(),
        "transfer": ["--run", "--source", "--driving", "--out", "--background", "--show", "--save", "--gam"],
        "evaluate": ["--run", "--snapshot", "--split", "--limit", "--skip", "--json"],
        "app": ["--run", "--host", "--port"],
    }
    assert all(option in words for option in wanted[command])


def test_a_folder_that_is_no_run_is_one_sentence_and_status_2(tmp_path):
    pytest.importorskip("torch")
    done = invoke("evaluate", "store", "--run", str(tmp_path))
    assert done.exit_code == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "is no run folder" in done.stderr


def test_a_bug_is_not_hidden(tmp_path, monkeypatch):
    evaluation = pytest.importorskip("remot_model.evaluating.evaluate")

    def broken(*args, **options):
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(evaluation, "evaluate", broken)
    done = invoke("evaluate", "store", "--run", str(tmp_path))
    assert isinstance(done.exception, ZeroDivisionError)


def test_transfer_hands_everything_on_and_ends_with_json(tmp_path, monkeypatch):
    module = pytest.importorskip("remot_model.transferring.transfer")
    seen = {}

    def fake(*args, progress, **options):
        seen.update(args=args, options=options)
        progress(1, 2)
        progress(2, 2)
        return {"frames": 2, "fps": 25.0, "seconds": 1.3, "frames_per_second": 1.5, "notes": ["two persons"]}

    monkeypatch.setattr(module, "transfer", fake)
    words = (
        "--run r --source a.png --driving b.mp4 --out c.mp4 --side-by-side --background black --scale 2 --end 3 "
        "--save layout,mask --png --gam steady --region top=d.png --region head=e.png "
        "--set cuda_graphs=true --set precision=auto"
    )
    done = invoke("transfer", *words.split(), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.strip().splitlines()[-1])["frames"] == 2
    assert seen["args"] == (Path("r"), Path("a.png"), Path("b.mp4"), Path("c.mp4"))
    assert seen["options"] == {
        "background": "black",
        "show": ("source", "driving", "result"),
        "save": ("layout", "mask"),
        "png": True,
        "stages": None,
        "person": None,
        "finder": None,
        "gam": "steady",
        "regions": {"top": "d.png", "head": "e.png"},
        "scale": 2,
        "start": None,
        "end": 3.0,
        "pose": "blazepose",
        "parsing": "pose-guided",
        "computed": {"cuda_graphs": True, "precision": "auto"},
        "device": "auto",
    }
    told = invoke("transfer", *words.split()).stdout
    assert "2 frames at 25 fps" in told and "note: two persons" in told
    done = invoke("transfer", *words.split(), "--region", "top")
    assert done.exit_code == 2 and "REGION=SOURCE" in done.stderr
    done = invoke("transfer", *words.split(), "--parallel", "2")
    assert done.exit_code == 2 and "--parallel makes pairs of folders at once" in done.stderr


def test_transfer_of_folders_lists_what_failed_and_ends_with_status_1(tmp_path, monkeypatch):
    module = pytest.importorskip("remot_model.transferring.batch")
    failed = [{"source": "b.png", "driving": "x.mp4", "out": "b--x.mp4", "error": "no person was found"}]
    report = {"done": [{}], "kept": [], "failed": failed, "passed_over": []}
    seen = {}

    def fake(*args, **options):
        seen.update(options, args=args)
        options["say"]("a--x.mp4: done")
        return report

    monkeypatch.setattr(module, "transfer_all", fake)
    words = f"transfer --run r --source {tmp_path} --driving x.mp4 --out out --pairs zip --parallel 3".split()
    done = invoke(*words)
    assert done.exit_code == 1 and (seen["pairing"], seen["parallel"]) == ("zip", 3) and "stages" not in seen
    assert "1 done, 0 kept, 1 failed" in done.stdout and "b.png with x.mp4: no person was found" in done.stdout
    assert "a--x.mp4: done" in done.stderr
    failed.clear()
    assert invoke(*words, "--json").exit_code == 0
    done = invoke(*words, "--stages", "s.mp4")
    assert done.exit_code == 2 and "--stages" in done.stderr


@pytest.fixture
def trained(monkeypatch):
    module = pytest.importorskip("remot_model.training.train")
    calls = []

    def fake(stores, run, **options):
        calls.append({"stores": stores, "run": run, **options})
        options["say"]("a status line")
        return [module.StageResult("layout", 3, 1.0, 3.0, 0.1, {"total": 2.0}, 0.9)]

    monkeypatch.setattr(module, "train", fake)
    return calls


def test_train_builds_the_configuration_from_its_options(tmp_path, trained):
    words = (
        f"train a b --out {tmp_path / 'run'} --stage layout --preset tiny:no-tam --steps 7 --batch 3 --seed 4 --json "
        "--set tau=0.1 --set layout.lr=0.5 --set lambda_per=10 --features vgg19"
    )
    done = invoke(*words.split())
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.strip())["stages"][0]["steps"] == 3
    assert "a status line" in done.stderr
    call = trained[0]
    assert (call["stores"], call["stages"], call["steps"], call["seed"]) == (["a", "b"], ("layout",), 7, 4)
    config = call["config"]
    assert (config.name, config.use_tam, config.tau, config.perceptual) == ("tiny:no-tam", False, 0.1, "vgg19")
    assert (config.layout.batch, config.whole.batch, config.layout.lr) == (3, 3, 0.5)


@pytest.mark.parametrize(("words", "workers"), [("", "auto"), ("--workers auto", "auto"), ("--workers 3", 3)])
def test_processes_that_read_are_a_number_or_auto(tmp_path, trained, words, workers):
    assert invoke("train", "a", "--out", str(tmp_path / "run"), *words.split()).exit_code == 0
    assert trained[0]["workers"] == workers


@pytest.mark.parametrize("wrong", ["-1", "many", "1.5"])
def test_other_numbers_of_processes_are_one_sentence(tmp_path, wrong):
    pytest.importorskip("torch")
    done = invoke("train", "a", "--workers", wrong, "--only-read", "1")
    assert done.exit_code == 2
    assert done.stderr == f"error: workers is 'auto' or a number of processes, 0 for threads, not {wrong!r}\n"


def test_training_without_a_run_folder_is_refused_in_one_sentence(trained):
    done = invoke("train", "a", "--preset", "tiny")
    assert done.exit_code == 2 and not trained
    assert done.stderr == "error: training needs a run folder to write: give --out; only --only-read needs none\n"


def test_reading_alone_needs_no_run_folder_and_trains_nothing(trained, monkeypatch):
    module = pytest.importorskip("remot_model.training.reading")
    calls = []
    rates = {
        "size": [64, 48], "batch": 2, "length": 4, "device": "cpu", "workers": 0, "frames_per_second": 812.5,
        "frames_per_second_per_core": 406.2, "cores": 2.0, "windows_per_second": 203.1, "mb_per_second": 4.5,
    }  # fmt: skip

    def fake(stores, **options):
        calls.append({"stores": stores, **options})
        return {"stage": options["stage"], **rates, "workers": 0 if options["workers"] == "auto" else 1}

    monkeypatch.setattr(module, "read_only", fake)
    done = invoke(*"train a b --only-read 2.5 --preset tiny --stage layout --batch 3 --split test --seed 4".split())
    assert done.exit_code == 0 and not trained, done.output
    assert done.stdout == (
        "layout: 812.5 frames/s (406.2 a core, 2 cores busy), 203.1 windows/s, 4.5 MB/s; "
        "batches of 2 windows of 4 frames of 64x48 on cpu, threads\n"
    )
    (call,) = calls
    assert call.pop("config").layout.batch == 3
    assert call == {
        "stores": ["a", "b"], "stage": "layout", "seconds": 2.5, "snapshot": "main", "split": "test", "device": "auto",
        "seed": 4, "workers": "auto",
    }  # fmt: skip
    done = invoke(*"train a --only-read 1 --preset tiny:no-wcn --workers 1 --json".split())
    told = json.loads(done.stdout)
    assert told["preset"] == "tiny:no-wcn" and [found["stage"] for found in told["stages"]] == ["layout", "region"]
    assert told["stages"][0] == {"stage": "layout", **rates, "workers": 1}
    assert "1 process\n" in invoke(*"train a --only-read 1 --preset tiny --stage whole --workers 1".split()).stdout


def test_a_plan_of_training_stands_beside_what_it_took(tmp_path, trained, monkeypatch):
    from remot_data.care.planned import Forecast, Stage
    from remot_data.report.runs import run_section

    module = pytest.importorskip("remot_model.training.forecast")
    stages = (Stage("layout", "steps", 3, 0, 4.0),)
    monkeypatch.setattr(module, "of_train", lambda *a, **k: Forecast("train", stages, "measured here", parallel=False))
    monkeypatch.setenv("REMOT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "run").mkdir()
    words = ["train", "a", "--out", str(tmp_path / "run"), "--preset", "tiny"]
    assert invoke(*words, "--plan").exit_code == 0 and not trained
    assert "planned 4 s, took 0 s" in invoke(*words).stdout and "planned 4" not in invoke(*words).stdout
    (line,) = map(json.loads, (tmp_path / "run" / "planned.jsonl").read_text().splitlines())
    assert line["stages"] == [{"what": "layout", "unit": "steps", "todo": 3, "wall": [4.0, 0.9]}]
    page = run_section(tmp_path / "run")
    assert "What --plan had said" in page and "layout: 3 steps" in page and "4.44" in page


def test_one_process_of_several_prints_the_result(tmp_path, trained, monkeypatch):
    words = ["train", "a", "--out", str(tmp_path / "run"), "--preset", "tiny", "--json"]
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        done = invoke(*words)
        assert done.exit_code == 0 and done.stdout.count("\n") == lines


def test_train_takes_the_configuration_of_the_run_that_is_there(tmp_path, trained):
    from remot_model.checkpoint import write_info
    from remot_model.config import preset

    write_info(tmp_path, {"config": preset("tiny:no-wcn").to_json(), "schemas": {}})
    assert invoke("train", "a", "--out", str(tmp_path), "--resume").exit_code == 0
    assert trained[0]["config"] == preset("tiny:no-wcn") and trained[0]["resume"]
    assert trained[0]["stages"] is None
    assert invoke("train", "a", "--out", str(tmp_path / "new")).exit_code == 0
    assert trained[1]["config"] == preset("small")


def test_features_without_a_loss_that_uses_them_are_refused(tmp_path, trained):
    words = f"train a --out {tmp_path} --preset tiny --set lambda_per=0 --set lambda_gram=0 --features vgg19"
    done = invoke(*words.split())
    assert done.exit_code == 2 and "add --set lambda_per=10" in done.stderr
    assert not trained


@pytest.mark.parametrize(
    ("setting", "words"),
    [("tau", "FIELD=VALUE"), ("nothing=1", "no field 'nothing'"), ("layout.x=1", "no field"), ("size=[5,5]", "size")],
)
def test_settings_that_do_not_exist_are_refused(tmp_path, trained, setting, words):
    done = invoke("train", "a", "--out", str(tmp_path), "--set", setting)
    assert done.exit_code == 2
    assert words in done.stderr
    assert not trained


def test_evaluate_says_what_was_measured_and_what_was_not(tmp_path, monkeypatch):
    module = pytest.importorskip("remot_model.evaluating.evaluate")
    report = {
        "frames": 32,
        "clips": 2,
        "methods": {"model": {"ssim": 0.5, "tcm": None}},
        "unavailable": {"lpips": "its weights are absent"},
    }
    monkeypatch.setattr(module, "evaluate", lambda *args, **options: report)
    done = invoke("evaluate", "store", "--run", str(tmp_path))
    assert done.exit_code == 0
    assert done.stdout.strip().splitlines() == [
        "32 frames of 2 clips",
        "model: ssim 0.500",
        "lpips is not measured: its weights are absent",
    ]
    assert json.loads(invoke("evaluate", "store", "--run", str(tmp_path), "--json").stdout.splitlines()[-1]) == report


def test_without_gradio_the_page_says_what_to_install(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "remot_model.app", raising=False)
    done = invoke("app", "--run", str(tmp_path))
    assert done.exit_code == 2 and 'pip install "remot[train,app]"' in done.stderr
