import dataclasses
import json
import math
from collections import deque

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from remot_data import media
from remot_data.store.content import Content
from remot_model import checkpoint, devices, networks
from remot_model.checkpoint import CheckpointError
from remot_model.config import STAGES, ConfigError, StagePlan
from remot_model.generating import rollout
from remot_model.training import data, loop, train
from remot_model.training.journal import sample_grid
from remot_model.training.loop import Budget
from remot_model.training.stages import STAGES as STAGE_CLASSES
from remot_model.training.stages import Setting, needed_generators
from remot_model.training.trainer import Trainer, TrainingError
from tests.remot_model.windows import SCHEMAS, SIZE, Windows, clip_arrays, small_config


@pytest.fixture(scope="module")
def arrays():
    return clip_arrays(16)


@pytest.fixture(autouse=True)
def store(monkeypatch, arrays):
    """Stands in for a store: one drawn clip."""
    monkeypatch.setattr(data, "schemas", lambda stores, snapshot: SCHEMAS)
    monkeypatch.setattr(data, "contents", lambda stores, snapshot: [Content("abc", {})])
    monkeypatch.setattr(data, "shown", lambda stores: [data.Shown("drawn", SIZE, None)])
    monkeypatch.setattr(data, "tell_sure", lambda stores, snapshot: False)
    monkeypatch.setattr(
        data,
        "epochs",
        lambda stores, config, stage, **_: Windows(arrays, config.plan(stage).length),
    )


def quiet(_: str) -> None:
    pass


def weights(run, stage):
    return checkpoint.load_run(run).generators[stage].state_dict()


@pytest.mark.slow
def test_all_stages_fill_the_run_folder(tmp_path):
    said = []
    results = train.train("store", tmp_path, config=small_config(), steps=2, say=said.append)
    assert [r.stage for r in results] == list(STAGES)
    found = checkpoint.load_run(tmp_path)
    assert list(found.generators) == list(STAGES)
    assert found.info["stores"] == ["store"] and found.info["snapshot"] == "main"
    for stage in STAGES:
        lines = [json.loads(line) for line in (tmp_path / stage / "stats.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2]
        assert all(math.isfinite(v) for line in lines for v in line.values())
        assert cv2.imread(str(tmp_path / stage / "samples" / "step-000002.png")) is not None
        film = [frame for _, frame in media.read(tmp_path / stage / "samples.mp4")]
        assert len(film) == 16 and film[0].shape[1] > 3 * 96
        speed = json.loads((tmp_path / stage / "speed.jsonl").read_text().splitlines()[-1])
        assert speed["step"] == 2 and speed["seconds"] > 0 and speed["memory"] > 2**26
    assert any((tmp_path / "tensorboard" / "whole").iterdir())
    status = next(line for line in said if line.startswith("whole 2/2 |"))
    assert all(words in status for words in (" total ", " foreground ", " steps/s | data wait ", " GB"))
    assert len(status) <= 120
    assert found.info["data"]["whole"]["contents"] == ["abc"]
    assert (
        set(found.info["versions"]) >= {"python", "torch", "accelerate"} and found.info["environment"]["threads"] == 1
    )


@pytest.mark.slow
def test_every_discriminator_learns():
    config = small_config(layout=StagePlan(1, 1, 8, 8, 1e-3), whole=StagePlan(1, 1, 8, 8, 1e-3))
    earlier = {"region": networks.generator("region", config).requires_grad_(False)}
    for stage in STAGES:
        trainer = Trainer(stage, Setting(config, None, earlier), torch.device("cpu"), 0)
        before = {k: v.clone() for k, v in trainer.judges.state_dict().items()}
        batches = data.batches(data.epochs("", config, stage), config, stage, augment=False)
        losses = trainer.step(next(batches), 1e-3)
        batches.close()
        for name in trainer.judges:
            assert f"gan_{name}" in losses
            key = f"{name}.0.0.0.weight"
            assert not torch.equal(before[key], trainer.judges.state_dict()[key]), name


def trainer_and_batch(stage, config):
    torch.manual_seed(0)
    earlier = {"region": networks.generator("region", config).requires_grad_(False)}
    batches = data.batches(data.epochs("", config, stage), config, stage, augment=False)
    batch = next(batches)
    batches.close()
    return Trainer(stage, Setting(config, None, earlier), torch.device("cpu"), 0), batch


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_in_half_precision_is_close_to_one_in_float32(stage, precision):
    losses = []
    for choice in ("float32", precision):
        trainer, batch = trainer_and_batch(stage, small_config(precision=choice))
        before = {k: v.clone() for k, v in trainer.net.state_dict().items()}
        losses.append(trainer.step(batch, 1e-3))
        # The scale of the losses starts high: steps whose gradients overflow are left out until it is right.
        while all(torch.equal(before[k], v) for k, v in trainer.net.state_dict().items()):
            assert choice == "float16" and trainer.steps < 16
            trainer.step(batch, 1e-3)
        moved = max(float((v - before[k]).abs().max()) for k, v in trainer.net.state_dict().items())
        assert moved == pytest.approx(1e-3, rel=0.05), "Adam's first step is the rate, however losses are scaled"
    first = "nll" if stage == "layout" else "rec" if stage == "region" else "foreground"
    assert losses[1][first] == pytest.approx(losses[0][first], rel=0.01)
    assert losses[0] != losses[1]


def test_gradients_that_overflow_in_float16_cost_the_step_not_the_weights():
    trainer, batch = trainer_and_batch("region", small_config(precision="float16"))
    trainer.step(batch, 1e-3)  # makes the scale
    before = {k: v.clone() for k, v in trainer.net.state_dict().items()}
    trainer.scaler.update(2.0**40)
    trainer.step(batch, 1e-3)
    assert all(torch.equal(before[k], v) for k, v in trainer.net.state_dict().items())
    assert trainer.scaler.get_scale() == 2.0**39


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_parts_of_a_batch_add_up_to_the_whole(stage, monkeypatch):
    """Four windows at once, in two parts and in four: the same losses, and gradients of both chunks."""
    seen, losses = [], []

    def update(self, losses):
        parameters = (*self.net.parameters(), *self.judges.parameters())
        seen[-1].append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
        self.net.zero_grad()
        self.judges.zero_grad()

    monkeypatch.setattr(Trainer, "_update", update)
    for parts in (1, 2, 4):
        seen.append([])
        plan = StagePlan(1, 4, length=4, chunk=2, accumulate=parts)
        trainer, batch = trainer_and_batch(stage, small_config(**{stage: plan}, temporal_scales=1))
        losses.append(dict(trainer.step(batch, 1e-4)))
    for chunks, found in zip(seen[1:], losses[1:], strict=True):
        assert found == pytest.approx(losses[0], rel=1e-4, abs=1e-6)
        for gradients, whole in zip(chunks, seen[0], strict=True):
            torch.testing.assert_close(gradients, whole, rtol=1e-2, atol=1e-3 * float(whole.abs().max()))


def test_the_average_follows_the_weights_and_is_what_a_run_saves(tmp_path):
    config = small_config(ema=0.5, layout=StagePlan(3, 1, length=4, chunk=4, lr=1e-3))
    trainer, batch = trainer_and_batch("layout", config)
    seen = []
    for _ in range(3):
        trainer.step(batch, 1e-3)
        seen.append({k: v.clone() for k, v in trainer.net.state_dict().items()})
    kept = [min(0.5, (1 + n) / (10 + n)) for n in (1, 2)]
    for name, x in trainer.result.state_dict().items():
        expected = seen[0][name]
        for keep, later in zip(kept, seen[1:], strict=True):
            expected = keep * expected + (1 - keep) * later[name]
        torch.testing.assert_close(x, expected)
    train.train("s", tmp_path, config=config, stages=["layout"], say=quiet)
    state, saved = checkpoint.load_state(tmp_path, "layout"), weights(tmp_path, "layout")
    assert all(torch.equal(saved[k], state["average"][f"module.{k}"]) for k in saved)
    assert any(not torch.equal(saved[k], state["generator"][k]) for k in saved)
    assert Trainer("layout", Setting(small_config(ema=0.0)), torch.device("cpu"), 0).average is None


def test_windows_double_in_length_and_the_data_goes_on(tmp_path, monkeypatch):
    config = small_config(layout=StagePlan(6, 2, length=2, chunk=2, lr=1e-3, doublings=1))
    seen = []

    def step(self, batch, rate, original=Trainer.step):
        seen.append(tuple(batch["frames"].shape[:2]))
        return original(self, batch, rate)

    monkeypatch.setattr(Trainer, "step", step)
    train.train("s", tmp_path, config=config, stages=["layout"], say=quiet)
    assert seen == [(2, 2)] * 3 + [(2, 4)] * 3
    assert (checkpoint.load_state(tmp_path, "layout")["phase"], checkpoint.load_state(tmp_path, "layout")["since"]) == (
        1,
        3,
    )


class Blurred(torch.nn.Module):
    """Stands in for perceptual features: the image at half and quarter size."""

    weights = (0.5, 1.0)

    def forward(self, images):
        return [torch.nn.functional.avg_pool2d(images, n) for n in (2, 4)]


@pytest.mark.parametrize(
    ("stage", "fields"),
    [
        ("layout", {"layout_classes": 6}),
        ("region", {"mask_frames": 1}),
        ("region", {"use_gam": False, "norm": "layer"}),
        ("region", {"lambda_per": 10.0, "lambda_gram": 1.0}),
        ("whole", {"lambda_per": 10.0, "lambda_image": 0.0}),
        ("whole", {"use_tam": False, "face_d": False, "foreground_d": False, "temporal_scales": 0}),
        ("whole", {"tam_softmax": False, "background_hole": False, "first_frame_raw": False}),
    ],
)
def test_every_choice_trains(stage, fields):
    config = small_config(**fields)
    earlier = {"region": networks.generator("region", config).requires_grad_(False)}
    features = Blurred() if config.perceptual_on else None
    trainer = Trainer(stage, Setting(config, features, earlier), torch.device("cpu"), 0)
    batches = data.batches(data.epochs("", config, stage), config, stage)
    losses = trainer.step(next(batches), 1e-3)
    batches.close()
    assert all(math.isfinite(v) for v in losses.values())
    assert ("per" in losses, "gram" in losses) == (config.lambda_per > 0 and stage != "layout", config.lambda_gram > 0)
    assert ("image" in losses) == (config.lambda_image > 0 and stage == "whole")
    assert ("gan_face" in losses) == (stage == "whole" and config.face_d)


def test_a_run_goes_on_with_the_features_it_began_with(tmp_path, monkeypatch):
    """What ``auto`` means may change with the version and with what is at hand; a run's losses may not."""
    asked = []

    def perceptual(choice, weights=None, device="cpu"):
        asked.append(choice)
        found = Blurred()
        found.name, found.digest = "efficientnet-lite0 (stand-in for VGG-19)", "abc"
        return found

    monkeypatch.setattr(train.features, "perceptual", perceptual)
    config = small_config(lambda_per=10.0)
    train.train("s", tmp_path, config=config, stages=["region"], steps=1, say=quiet)
    train.train("s", tmp_path, config=config, stages=["region"], steps=2, resume=True, say=quiet)
    assert asked == ["auto", "efficientnet-lite0"]


def test_without_a_background_the_foreground_is_the_image(arrays):
    config = small_config()
    setting = Setting(config, None, {"region": networks.generator("region", config)})
    batches = data.batches(Windows(arrays, 4, ("background",)), config, "whole")
    clip = STAGE_CLASSES["whole"](setting).prepare(next(batches))
    batches.close()
    assert torch.equal(clip["image"], clip["foreground"])
    assert clip["background"].max() == -1


def test_frozen_generators_stay_as_they_are():
    config = small_config()
    region = networks.generator("region", config).requires_grad_(False)
    before = {k: v.clone() for k, v in region.state_dict().items()}
    trainer = Trainer("whole", Setting(config, None, {"region": region}), torch.device("cpu"), 0)
    batches = data.batches(data.epochs("", config, "whole"), config, "whole")
    trainer.step(next(batches), 1e-3)
    batches.close()
    assert all(torch.equal(before[k], v) for k, v in region.state_dict().items())


def test_chunks_carry_the_memory_on(arrays):
    """Two chunks of four see what one of eight sees."""
    results = []
    for chunk in (4, 8):
        config = small_config(layout=StagePlan(1, 1, 8, chunk, 1e-3))
        trainer = Trainer("layout", Setting(config), torch.device("cpu"), 0)
        batches = data.batches(data.epochs("", config, "layout"), config, "layout", augment=False)
        results.append(trainer.pictures(next(batches)))
        batches.close()
    assert torch.equal(results[0]["made"], results[1]["made"])


@pytest.mark.parametrize("stage", ["layout", "whole"])
def test_the_first_frame_has_no_trusted_flow(stage, arrays):
    config = small_config()
    setting = Setting(config, None, {"region": networks.generator("region", config)})
    batches = data.batches(data.epochs("", config, stage), config, stage, augment=False, start=1)
    clip = STAGE_CLASSES[stage](setting).prepare(next(batches))
    batches.close()
    assert clip["confidence"][:, 0].max() == 0
    assert clip["confidence"][:, 1:].mean() > 0.3


def test_a_trained_stage_is_not_overwritten(tmp_path):
    config = small_config()
    train.train("s", tmp_path, config=config, stages=["layout"], steps=1, say=quiet)
    with pytest.raises(CheckpointError, match="already holds the stage layout"):
        train.train("s", tmp_path, config=config, stages=["layout"], steps=1, say=quiet)
    with pytest.raises(CheckpointError, match="use another run folder"):
        train.train("s", tmp_path, config=small_config(ngf=8), stages=["region"], steps=1, say=quiet)


@pytest.mark.slow
def test_other_data_is_refused_and_stale_layers_are_named(tmp_path, monkeypatch):
    said, config = [], small_config()
    monkeypatch.setattr(data, "contents", lambda *_: [Content("abc", {"pose/x": "its shard 3 was made from others"})])
    train.train("s", tmp_path, config=config, stages=["layout"], steps=1, say=said.append)
    assert (
        said[0]
        == "warning: the layer pose/x of s is stale: its shard 3 was made from others; `remot annotate` it again"
    )
    train.train("elsewhere", tmp_path, config=config, stages=["layout"], steps=2, resume=True, say=quiet)
    monkeypatch.setattr(data, "contents", lambda *_: [Content("def", {})])
    with pytest.raises(CheckpointError, match="layout stage .* other data .*contents.*'main' of .*abc, now def"):
        train.train("s", tmp_path, config=config, stages=["layout"], steps=3, resume=True, say=quiet)
    train.train("s", tmp_path, config=config, stages=["region"], steps=1, resume=True, say=quiet)


def test_other_schemas_are_refused(tmp_path, monkeypatch):
    train.train("s", tmp_path, config=small_config(), stages=["layout"], steps=1, say=quiet)
    monkeypatch.setattr(data, "schemas", lambda stores, snapshot: {"pose": "coco18", "labels": "remot11"})
    with pytest.raises(CheckpointError, match="'body25'.*'coco18'"):
        train.train("s", tmp_path, config=small_config(), stages=["region"], steps=1, say=quiet)


def test_the_last_stage_needs_the_region_stage(tmp_path):
    with pytest.raises(TrainingError, match="train that first"):
        train.train("s", tmp_path, config=small_config(), stages=["whole"], steps=1, say=quiet)
    with pytest.raises(ConfigError, match="no whole stage"):
        train.train("s", tmp_path, config=small_config(use_wcn=False), stages=["whole"], steps=1, say=quiet)


def test_a_loss_that_is_no_number_stops_and_saves_the_batch(tmp_path, monkeypatch, arrays):
    broken = {**arrays, "flow": np.full_like(arrays["flow"], np.nan)}
    monkeypatch.setattr(data, "epochs", lambda *_, **__: Windows(broken, 4))
    with pytest.raises(TrainingError, match="flow.*not finite"):
        train.train("s", tmp_path, config=small_config(), stages=["layout"], steps=1, say=quiet)
    assert (tmp_path / "layout" / "failed-000000.safetensors").is_file()


@pytest.mark.parametrize("wrong", ["losses", "gradients"])
def test_a_bad_step_that_is_found_late_is_told_as_if_found_at_once(tmp_path, monkeypatch, arrays, wrong):
    """As on a GPU, losses are read every few steps: files and the saved batch are those of the step that failed."""
    config, bad = small_config(layout=StagePlan(9, 1, length=4, chunk=4, lr=1e-3)), 5
    batches = []

    def begin(self, *args, original=loop.Loop.__init__):
        original(self, *args)
        self.unread = deque(maxlen=4)

    def step(self, batch, rate, original=Trainer.step):
        batches.append({k: v.clone() for k, v in batch.items()})
        hooks = []
        if self.steps == bad and wrong == "losses":
            batch = {**batch, "flow": torch.full_like(batch["flow"], float("inf"))}
        elif self.steps == bad:
            weight = next(p for p in self.net.parameters() if p.requires_grad)
            hooks = [weight.register_hook(lambda g: g * float("inf"))]
        found = original(self, batch, rate)
        for hook in hooks:
            hook.remove()
        return found

    monkeypatch.setattr(loop.Loop, "__init__", begin)
    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(TrainingError, match=f"step {bad}: .*{wrong} .*not finite.*batch is saved as"):
        train.train("s", tmp_path, config=config, stages=["layout"], save_every=4, say=quiet)
    assert len(batches) > bad + 1, "it was found later"
    folder = tmp_path / "layout"
    (kept,) = folder.glob("failed-*")
    assert kept.name == f"failed-{bad:06d}.safetensors"
    saved = load_file(kept)
    assert saved.keys() == batches[bad].keys()
    assert all(torch.equal(saved[name], x) for name, x in batches[bad].items())
    assert not all(torch.equal(saved["frames"], b["frames"]) for b in batches)
    state = checkpoint.load_state(tmp_path, "layout")
    assert state["steps"] == 4 and all(x.isfinite().all() for x in state["generator"].values())
    stats = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert [row["step"] for row in stats] == [1, 2, 3, 4, 5]
    assert all(math.isfinite(x) for row in stats for x in row.values())


@pytest.mark.slow
def test_losses_are_read_before_a_save_and_at_the_end(tmp_path, monkeypatch):
    """Whenever they are read, the files are the same."""
    config, files = small_config(layout=StagePlan(3, 1, length=4, chunk=4, lr=1e-3)), []

    def begin(self, *args, original=loop.Loop.__init__):
        original(self, *args)
        self.unread = deque(maxlen=4)

    for late in (False, True):
        if late:
            monkeypatch.setattr(loop.Loop, "__init__", begin)
        run = tmp_path / str(late)
        train.train("s", run, config=config, stages=["layout"], save_every=2, say=quiet)
        files.append((run / "layout" / "stats.jsonl").read_bytes())
    assert files[0] == files[1] and files[0].count(b"\n") == 3


def test_predicted_layouts_reach_the_last_stage(arrays):
    config = small_config(predicted_layouts=1.0)
    assert needed_generators("whole", config) == ("region", "layout")
    assert needed_generators("whole", small_config()) == ("region",)
    nets = {s: networks.generator(s, config) for s in ("layout", "region")}
    batches = data.batches(data.epochs("", config, "whole"), config, "whole", augment=False)
    batch = next(batches)
    batches.close()
    clip = STAGE_CLASSES["whole"](Setting(config, None, nets)).prepare(batch, predicted=True)
    assert not torch.equal(clip["six"], rollout.convert_labels(batch["labels"], "remot11", "remot6"))


def test_a_budget_ends_by_steps_or_by_time():
    assert Budget(10, None).done(5, 999) == 0.5
    assert Budget(None, 60).done(10**6, 30) == 0.5
    assert Budget(10, 60).done(2, 60) == 1


@pytest.mark.slow
def test_training_by_time_ends_in_time(tmp_path):
    (result,) = train.train("s", tmp_path, config=small_config(), stages=["layout"], minutes=0.02, say=quiet)
    assert result.steps >= 1
    assert result.seconds < 30


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["layout", "region"])
def test_one_clip_can_be_learnt(tmp_path, stage, arrays):
    """The layout stage reaches a high overlap, the region stage a high PSNR, on the clip it was trained on."""
    plan = StagePlan(72 if stage == "layout" else 120, 2, length=4, chunk=4, lr=2e-3)
    config = small_config(ngf=12, flip=0.0, colour_jitter=False, clip_regions=True, layout=plan, region=plan)
    train.train("s", tmp_path, config=config, stages=[stage], say=quiet)
    net = checkpoint.load_run(tmp_path).generators[stage]
    batches = data.batches(data.epochs("", config, stage), config, stage, augment=False)
    batch = next(batches)
    batches.close()
    with torch.no_grad():
        if stage == "layout":
            source = rollout.one_hot(batch["source_labels"], 11)
            made, _ = rollout.layouts(net, source, batch["pose_map"])
            found, labels = made.layout.argmax(2), batch["labels"]
            overlaps = [
                float(((found == k) & (labels == k)).sum() / ((found == k) | (labels == k)).sum())
                for k in labels.unique().tolist()
            ]
            assert np.mean(overlaps) > 0.6
        else:
            six = rollout.convert_labels(batch["labels"], "remot11", "remot6")
            source = rollout.convert_labels(batch["source_labels"], "remot11", "remot6")
            moved = rollout.align_clip(config, batch["source"], source, six)
            made, _ = rollout.regions(net, config, six, moved.image, moved.labels)
            mask = (six > 0)[:, :, None]
            error = [((x - batch["frames"]) / 2 * mask).square().mean() for x in (made.sum(2), moved.image)]
            gained = 10 * math.log10(error[1] / error[0])
            assert gained > 6


def test_the_sample_sheet_has_a_column_a_picture():
    sheet = sample_grid({"a": torch.zeros(2, 4, 3, *SIZE), "b": torch.ones(2, 4, 3, *SIZE)})
    assert sheet.dtype == np.uint8 and sheet.ndim == 3
    assert sheet.shape[0] > 6 * 128


def test_the_configuration_of_a_step_is_all_it_depends_on():
    """Two trainers with one seed take the same steps; another seed starts elsewhere."""
    config = small_config()
    batches = data.batches(data.epochs("", config, "region"), config, "region")
    batch = next(batches)
    batches.close()
    made = [Trainer("region", Setting(config), torch.device("cpu"), seed) for seed in (0, 0, 1)]
    losses = [trainer.step(batch, 1e-3) for trainer in made]
    assert losses[0] == losses[1] != losses[2]
    assert dataclasses.asdict(devices.resolved(config, "cpu")) == dataclasses.asdict(made[0].config)
