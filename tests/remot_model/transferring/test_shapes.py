"""Frames of other shapes than 3:4, and crops that reach out of the picture, from training to transfer."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

from remot_data import media  # noqa: E402
from remot_data.synthetic.store import build_synthetic  # noqa: E402
from remot_model import cli  # noqa: E402
from remot_model.config import preset  # noqa: E402
from remot_model.evaluating.evaluate import evaluate  # noqa: E402
from remot_model.training.train import train  # noqa: E402
from remot_model.transferring import background, driving, source  # noqa: E402
from remot_model.transferring.eyes import load_eyes  # noqa: E402
from remot_model.transferring.transfer import transfer  # noqa: E402
from tests.remot_model.red_people import CONFIG, GREY, RED, write_image, write_video  # noqa: E402

pytestmark = pytest.mark.usefixtures("seers")


def person(size: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    """A grey picture of height and width `size` with a red person: left, top, right, bottom."""
    image = np.full((*size, 3), GREY, np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = RED
    return image


def moving(path: Path, size: tuple[int, int], box: tuple[int, int, int, int]) -> Path:
    x0, y0, x1, y1 = box
    return write_video(path, [person(size, (x0 + t % 4, y0, x1 + t % 4, y1)) for t in range(21)])


def invoke(*words: object):
    app = typer.Typer()
    app.command()(cli.train)
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.mark.slow
def test_a_portrait_store_is_trained_evaluated_and_transferred_in_its_shape(tmp_path, files):
    store, run = str(tmp_path / "store"), tmp_path / "run"
    small = "--preset tiny --device cpu --batch 1 --set ngf=4 --set n_blocks=2 --set decoder_blocks=1".split()
    build_synthetic(store, dancers=3, frames=16, test=1, size=(64, 36), workers=0)
    done = invoke(store, "--out", run, *small, "--steps", 2)
    assert done.exit_code == 0 and "stretched" not in done.output, done.output
    assert json.loads((run / "config.json").read_text())["config"]["size"] == [64, 36]
    again = [*small, "--resume", "--steps", 3, "--stage", "layout"]
    assert invoke(store, "--out", run, *again).exit_code == 0
    report = evaluate(run, store, split="test", length=4, device="cpu")
    assert report["size"] == [64, 36] and report["methods"]["model"]["ssim"] > 0
    summary = transfer(run, files.source, files.driving, files.out, device="cpu")
    assert summary["size"] == [64, 36] and media.probe(files.out).size == (36, 64)


def test_training_in_another_shape_says_which_option_keeps_it(tmp_path):
    store, said = str(tmp_path / "store"), []
    build_synthetic(store, dancers=1, frames=8, test=0, size=(32, 20), workers=0)
    config = dataclasses.replace(CONFIG, layout=dataclasses.replace(CONFIG.layout, steps=1, length=4))
    train(store, tmp_path / "run", config=config, stages=["layout"], device="cpu", say=said.append)
    assert any("are 32x20, and stretched to 32x24; --set size=[32,20] keeps their shape" in line for line in said)


def test_presets_come_in_portrait():
    sizes = {name: preset(f"{name}:portrait").size for name in ("tiny", "small", "paper")}
    assert sizes == {"tiny": (64, 36), "small": (128, 72), "paper": (256, 144)}
    assert preset("tiny:portrait:layout6").layout_classes == 6


@pytest.mark.parametrize(("outside", "lowest", "highest"), [(None, 80, 100), ("smear", 80, 100), ("black", 0, 0)])
def test_the_driving_crop_is_what_the_run_was_trained_on(tmp_path, outside, lowest, highest):
    tall = moving(tmp_path / "tall.mp4", (160, 90), (30, 4, 60, 156))
    drive = driving.find_driving(tall, CONFIG.size, None, None, outside=outside)
    assert driving.Driving.from_json(json.loads(json.dumps(drive.to_json()))) == drive
    frames = driving.sampled(drive, (128, 96), 4)
    columns = frames[:, :, [0, 1, 94, 95]]
    assert lowest <= columns.min() and columns.max() <= highest
    (piece,) = list(driving.read_pieces(drive, (128, 96)))
    np.testing.assert_array_equal(piece.frames[0], frames[0])
    near = moving(tmp_path / "near.mp4", (160, 90), (2, 20, 32, 136))
    x, _, wide, _ = driving.find_driving(near, CONFIG.size, None, None, outside=outside).crop
    assert (x >= 0 and x + wide <= 90) == (outside is not None)


@pytest.mark.parametrize("outside", [None, "black"])
def test_what_is_outside_the_source_is_neither_her_nor_her_background(run, tmp_path, outside):
    run = dataclasses.replace(run, info={} if outside is None else {"outside": outside})
    eyes = load_eyes(run, "blazepose", "pose-guided")
    path = write_image(tmp_path / "tall.png", person((160, 90), (30, 4, 60, 156)))
    who = source.find_source(path, eyes)
    edge = who.image[:, :4]
    assert (edge.max() == 0) if outside else (edge.min() > 60)
    assert (who.valid is None) == (outside is None) and (who.valid is None or not who.valid[:, :4].any())
    tall = moving(tmp_path / "tall.mp4", (160, 90), (30, 4, 60, 156))
    drive = driving.find_driving(tall, CONFIG.size, None, None, outside=run.outside)
    for choice in ("source", "driving"):
        behind = background.find_background(choice, who, drive, eyes, CONFIG.size)
        assert abs(behind.astype(int) - GREY[0]).max() < 12  # filled in, and no bars
