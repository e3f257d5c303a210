from pathlib import Path

import pytest
import torch

from remot_data.store import disk  # noqa: E402
from remot_model import checkpoint, networks
from remot_model.checkpoint import CheckpointError, load_run
from tests.remot_model.windows import SCHEMAS, small_config


@pytest.fixture
def run(tmp_path):
    config = small_config()
    checkpoint.write_info(tmp_path, {"config": config.to_json(), "schemas": SCHEMAS})
    net = networks.generator("region", config)
    checkpoint.save_generator(tmp_path, "region", net, config, SCHEMAS)
    return tmp_path, config, net


def test_a_run_comes_back_as_it_was(run):
    path, config, net = run
    found = load_run(path)
    assert found.config == config
    assert found.schemas == SCHEMAS
    assert list(found.generators) == ["region"]
    loaded = found.generators["region"]
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), loaded.state_dict().values(), strict=True))


def test_no_temporary_files_stay(run):
    assert not list(run[0].rglob("*.tmp"))


def test_a_failed_write_leaves_the_old_file(run, monkeypatch):
    path = run[0] / "config.json"
    before = path.read_bytes()

    def fail(*_):
        raise OSError("killed")

    monkeypatch.setattr(disk.os, "replace", fail)
    with pytest.raises(OSError):
        disk.write_whole(path, b"half")
    assert path.read_bytes() == before


def test_another_schema_is_an_error_that_names_both(run):
    path, config, _ = run
    with pytest.raises(CheckpointError, match="'body25'.*'coco18'"):
        checkpoint.load_generator(path, "region", config, {"pose": "coco18"})


def test_another_configuration_is_refused(run):
    path, _, _ = run
    with pytest.raises(CheckpointError, match="another run folder"):
        checkpoint.load_generator(path, "region", small_config(ngf=8))


@pytest.mark.parametrize("what", ["folder", "json", "stage", "weights"])
def test_damage_is_named(run, what, tmp_path_factory):
    path = run[0]
    if what == "folder":
        path = tmp_path_factory.mktemp("empty")
    elif what == "json":
        (path / "config.json").write_text("{")
    elif what == "stage":
        (path / "region" / "model.safetensors").unlink()
    else:
        file = path / "region" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
    expected = {"folder": "no run folder", "json": "damaged", "stage": "no trained stage", "weights": "damaged"}[what]
    with pytest.raises(CheckpointError, match=expected):
        load_run(path)


def test_the_state_holds_plain_values_only(tmp_path):
    assert checkpoint.load_state(tmp_path, "layout") is None
    checkpoint.save_state(tmp_path, "layout", {"steps": 3, "x": torch.ones(2)})
    assert checkpoint.load_state(tmp_path, "layout")["steps"] == 3
    torch.save({"bad": Path("x")}, tmp_path / "layout" / "train_state.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load_state(tmp_path, "layout")
