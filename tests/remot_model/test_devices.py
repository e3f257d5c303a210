"""Names of devices, and what `auto` becomes on them: once, written down, and followed ever after."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import typer
from typer.testing import CliRunner

from remot_model import checkpoint, cli, devices
from remot_model.config import AUTO_FIELDS, STAGES, Config, ConfigError, preset
from remot_model.training import train
from remot_model.training.trainer import Trainer
from tests.remot_model.windows import small_config

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ALL_AUTO = dict.fromkeys(AUTO_FIELDS, "auto")
# What decides shape and meaning of the networks of the presets, as it was before there was an `auto`: run folders of
# then have these digests in them.
DIGESTS = {
    "tiny": {
        None: "622ca582dce2e9e2823811a9d95b0d7d75943fcf6801467d76ba59a56e6874c8",
        "layout": "0da1a1a4cc5ed20915967ff1b5f71cd32c8f4c69b0786766107ee01df2ab6b1a",
        "region": "4c7a48945e3920e98ce27cd315532233834ac8d107d73d01c25791f78edc5208",
        "whole": "622ca582dce2e9e2823811a9d95b0d7d75943fcf6801467d76ba59a56e6874c8",
    },
    "small": {
        None: "5c87decde72e5c323681a2bcbae4e9b0040b0af6fda8bb19136ebb3247d77078",
        "layout": "156dbf9048b3f53a49241ecc03ebad916c1b1db17a34ce7da2a7a0682a40f16a",
        "region": "db1c86f88f2db1ff0a3fb92bd2f59d6b5ebdbe6d303157f4457d0ab0037c6de7",
        "whole": "5c87decde72e5c323681a2bcbae4e9b0040b0af6fda8bb19136ebb3247d77078",
    },
    "paper": {
        None: "50716a4b7d1cbd6839eb12f3da32c2fb376e6a6c54f37611bd6f300044d73c27",
        "layout": "b3d94647df5e703d1c8978d9ada934c2b7c9e410fd7ac02e93347bc666b9384e",
        "region": "5f759dbcb8f343571f90a8dc7b116cf508e0a52564a45b1b169116437b1f76e4",
        "whole": "50716a4b7d1cbd6839eb12f3da32c2fb376e6a6c54f37611bd6f300044d73c27",
    },
}


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.mark.parametrize(
    ("name", "device"),
    [("auto", "cuda"), ("cpu", "cpu"), ("cuda", "cuda"), ("cuda:0", "cuda:0"), ("cuda:1", "cuda:1")],
)
def test_names_of_devices(two_gpus, name, device):
    assert devices.pick(name) == torch.device(device)


def test_auto_takes_the_processor_where_there_is_no_gpu(no_gpu):
    assert devices.pick("auto") == devices.pick("cpu") == CPU


def test_apples_device_is_known(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices.pick("mps") == torch.device("mps")


UNKNOWN = ["gpu", "cuda:x", "cuda:-1", "CPU", "", " cpu", "cuda:", "cpu:0", "cuda:1\n", "cuda:\u0663", "xpu", "meta"]


@pytest.mark.parametrize("name", UNKNOWN)
def test_another_name_is_refused_with_those_there_are(two_gpus, name):
    with pytest.raises(ConfigError) as error:
        devices.pick(name)
    assert str(error.value) == f"there is no device {name!r}; it is auto, cpu, cuda, cuda:N (a number) or mps"


@pytest.mark.parametrize("name", ["cuda:2", "cuda:7", "cuda:300", "cuda:99999999999999999999"])
def test_a_gpu_too_many_is_refused_with_their_number(two_gpus, name):
    with pytest.raises(ConfigError) as error:
        devices.pick(name)
    assert str(error.value).startswith(f"there is no device {name!r}: this machine has 2 GPUs that torch can use")


def test_a_device_that_is_not_there_is_refused(no_gpu, monkeypatch):
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ConfigError, match=f"^there is no device '{name}': this machine has 0 GPUs that torch can"):
            devices.pick(name)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^there is no device 'mps' here: .*; take cpu$"):
        devices.pick("mps")


app = typer.Typer()
for command in (cli.train, cli.transfer, cli.evaluate):
    app.command()(command)


@pytest.mark.parametrize(
    "words",
    [
        "train store --out run --preset tiny",
        "train store --preset tiny --only-read 1",
        "evaluate store --run run",
        "transfer --run run --source a.png --driving b.mp4 --out c.mp4",
    ],
)
@pytest.mark.parametrize("name", ["nonsense", "cuda:7"])
def test_commands_refuse_a_device_in_one_sentence(tmp_path, monkeypatch, no_gpu, words, name):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*words.split(), "--device", name])
    assert done.exit_code == 2
    *bars, sentence = done.stderr.strip().splitlines()
    assert sentence.startswith(f"error: there is no device {name!r}")
    assert "Traceback" not in done.stderr and not any("error" in line for line in bars)
    assert not list(tmp_path.iterdir()), "nothing was begun"


ON_CPU = {
    "precision": "float32", "crop_regions": True, "channels_last": False, "gpu_kernels": False, "compile": False,
    "cuda_graphs": False,
}  # fmt: skip
ON_GPU = {
    "precision": "bfloat16", "crop_regions": False, "channels_last": True, "gpu_kernels": True, "compile": False,
    "cuda_graphs": True,
}  # fmt: skip
# An older card: no precision that pays without scaled losses, so neither what comes with it.
ON_OLD_GPU = {**ON_GPU, "precision": "float32", "channels_last": False, "gpu_kernels": False}


@pytest.mark.parametrize(
    ("device", "bfloat16", "processes", "expected"),
    [
        (CPU, True, 1, ON_CPU),
        (CPU, False, 2, ON_CPU),
        (CUDA, True, 1, ON_GPU),
        (torch.device("cuda:1"), True, 1, ON_GPU),
        (CUDA, True, 2, {**ON_GPU, "cuda_graphs": False}),
        (CUDA, False, 1, ON_OLD_GPU),
        ("mps", False, 1, ON_CPU),
    ],
)
def test_what_auto_becomes(monkeypatch, device, bfloat16, processes, expected):
    monkeypatch.setattr(devices, "has_bfloat16", lambda _: bfloat16)
    config = small_config(**ALL_AUTO)
    found = devices.resolved(config, device, processes)
    assert {name: getattr(found, name) for name in AUTO_FIELDS} == expected
    assert not found.open_fields and found == dataclasses.replace(config, **expected)
    assert devices.resolved(found, "cpu" if torch.device(device).type == "cuda" else CUDA) == found


def test_what_was_asked_for_stays_and_decides_the_rest(monkeypatch):
    monkeypatch.setattr(devices, "has_bfloat16", lambda _: True)
    asked = small_config(**{**ALL_AUTO, "precision": "float32", "crop_regions": "sizes"})
    found = devices.resolved(asked, CUDA)
    assert (found.precision, found.crop_regions) == ("float32", "sizes")
    assert (found.channels_last, found.gpu_kernels, found.cuda_graphs) == (False, False, True)
    scaled = devices.resolved(small_config(**{**ALL_AUTO, "precision": "float16"}), CUDA)
    assert scaled.channels_last is True and scaled.cuda_graphs is False, "whether a step is left out is asked for"
    forced = small_config(**{**ALL_AUTO, "cuda_graphs": True, "compile": True, "gpu_kernels": False})
    assert devices.resolved(forced, CPU, 2) == dataclasses.replace(forced, **{**ON_CPU, "cuda_graphs": True,
                                                                             "compile": True})  # fmt: skip


def test_an_open_field_is_settled_as_the_run_was_made():
    made = devices.resolved(small_config(**{**ALL_AUTO, "precision": "bfloat16", "crop_regions": "sizes"}), CPU)
    asked = small_config(**{**ALL_AUTO, "compile": True, "lambda_rec": 3.0})
    found = devices.settled(asked, made)
    assert (found.precision, found.crop_regions, found.channels_last) == ("bfloat16", "sizes", False)
    assert (found.compile, found.lambda_rec) == (True, 3.0), "what was asked for is not the run's"
    assert not found.open_fields


def test_what_became_of_auto_is_said_in_a_line():
    asked = small_config(precision="auto", cuda_graphs="auto", crop_regions="sizes")
    found = devices.resolved(asked, CPU)
    assert devices.words(found, asked, CPU) == "auto on cpu: precision=float32, cuda_graphs=false"
    assert devices.words(found, found, CPU) == ""


def quiet(_: str) -> None:
    pass


def as_written(run):
    return json.loads((run / "config.json").read_text())["config"]


@pytest.mark.slow
def test_training_writes_values_and_says_them_once(tmp_path, drawn_store):
    said, config = [], small_config(**ALL_AUTO)
    train.train("s", tmp_path, config=config, stages=["layout"], steps=1, say=said.append)
    assert {name: as_written(tmp_path)[name] for name in AUTO_FIELDS} == ON_CPU
    assert "auto" not in [v for k, v in as_written(tmp_path).items() if k != "perceptual"]
    (line,) = (line for line in said if line.startswith("auto on"))
    assert line == "auto on cpu: " + ", ".join(f"{name}={str(value).lower()}" for name, value in ON_CPU.items())
    said.clear()
    settled = Config.from_json(as_written(tmp_path))
    train.train("s", tmp_path, config=settled, stages=["layout"], steps=1, resume=True, say=said.append)
    assert not [line for line in said if line.startswith("auto on")], "nothing was left to decide"


@pytest.mark.slow
def test_a_run_that_goes_on_follows_its_file_and_not_the_device(tmp_path, drawn_store, monkeypatch):
    config, seen = small_config(**ALL_AUTO), []
    train.train("s", tmp_path, config=config, stages=["layout"], steps=1, say=quiet)
    # As if a GPU had begun it.
    info = checkpoint.read_info(tmp_path)
    info["config"] |= {"precision": "bfloat16", "channels_last": True}
    checkpoint.write_info(tmp_path, info)

    def begin(self, stage, setting, device, seed, original=Trainer.__init__):
        original(self, stage, setting, device, seed)
        seen.append(self.config)

    monkeypatch.setattr(Trainer, "__init__", begin)
    train.train("s", tmp_path, config=config, stages=["layout"], steps=2, resume=True, say=quiet)
    assert (seen[0].precision, seen[0].channels_last, seen[0].crop_regions) == ("bfloat16", True, True)
    assert as_written(tmp_path) == info["config"]
    # A device that would have chosen whole frames: the run, whose networks saw crops, goes on with crops.
    monkeypatch.setattr(devices, "resolved", lambda c, *_: dataclasses.replace(c, **_of(ON_GPU, c.open_fields)))
    train.train("s", tmp_path, config=config, stages=["region"], steps=1, say=quiet)
    assert seen[1].crop_regions is True and seen[1].precision == "bfloat16"
    assert as_written(tmp_path) == info["config"]


def _of(values, names):
    return {name: values[name] for name in names}


def test_another_value_than_the_runs_is_refused_where_networks_depend_on_it(tmp_path, drawn_store):
    train.train("s", tmp_path, config=small_config(**ALL_AUTO), stages=["layout"], steps=1, say=quiet)
    asked = small_config(**{**ALL_AUTO, "crop_regions": False})
    with pytest.raises(checkpoint.CheckpointError, match="use another run folder"):
        train.train("s", tmp_path, config=asked, stages=["region"], steps=1, say=quiet)


@pytest.mark.parametrize("name", DIGESTS)
def test_a_configuration_of_before_means_what_it_meant(name):
    """As commit 1c74548 wrote it: without the fields that came later, with values where there is `auto` now."""
    found = devices.resolved(preset(name), CPU)
    assert {stage: found.digest(stage) for stage in (None, *STAGES)} == DIGESTS[name]
    plain = found.to_json()
    for later in ("cuda_graphs", "gpu_kernels"):
        del plain[later]
    assert (plain["precision"], plain["crop_regions"]) == ("float32", name != "tiny")
    before = Config.from_json(json.loads(json.dumps(plain)))
    assert (before.cuda_graphs, before.gpu_kernels, before.open_fields) == (False, False, ())
    assert {stage: before.digest(stage) for stage in (None, *STAGES)} == DIGESTS[name]


def test_no_digest_before_it_is_known_what_the_networks_see():
    with pytest.raises(ConfigError, match="crop_regions is still 'auto'"):
        preset("paper").digest("region")
