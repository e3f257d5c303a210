"""Pixels whose labels the parser is unsure of do not teach: from the layer through windows and batches to losses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from remot_data.reading.stream import Plan, to_torch
from remot_data.records import LayerInfo
from remot_data.store import Store, open_store
from remot_data.store.currency import saw
from remot_data.store.layers import kind
from remot_data.store.shards import encoded
from remot_data.synthetic.store import build_synthetic
from remot_model import networks
from remot_model.config import Config, ConfigError, StagePlan
from remot_model.training.data import augmented, epochs, resolved
from remot_model.training.feeding import converted
from remot_model.training.stages import STAGES, Chunk, Setting, needed_generators
from remot_model.training.trainer import Trainer
from tests.remot_model.windows import Windows, clip_arrays, small_config

SIZE = (32, 24)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Drawn dancers with another parsing layer beside: its left half is unsure, but in the first clip all is sure."""
    made = build_synthetic(str(tmp_path / "store"), dancers=2, frames=8, test=0, size=SIZE, workers=0)
    old = made.layer("parsing", made.snapshot("main").layers["parsing"])
    info = dataclasses.replace(old, id="unsure-1", detector="unsure")
    samples = []
    for number, clip in enumerate(made.clips):
        labels = made.read_arrays(old.folder, "parsing", clip)["labels"]
        sure = np.full(labels.shape, 255, np.uint8)
        sure[:, :, :12] = 60
        samples += encoded("parsing", clip, {"labels": labels, **({"sure": sure} if number else {})})
    _write(made, info, samples)
    snapshot = made.snapshot("main")
    made.write_snapshot(dataclasses.replace(snapshot, name="sure", layers={**snapshot.layers, "parsing": "unsure-1"}))
    return open_store(made.url)


def _write(store: Store, info: LayerInfo, samples: list[Any]) -> None:
    store.write_shard(info.folder, 0, samples, saw(store, {}, 0))
    store.write_json(f"{info.folder}/layer.json", info.to_json())


def test_a_layer_keeps_it_in_few_levels() -> None:
    layer = kind("parsing")
    sure = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    arrays = {"labels": np.zeros_like(sure), "sure": sure}
    layer.check(arrays, 1, (16, 16))
    back = layer.decode("sure.png", layer.encode(arrays, 0)["sure.png"])
    np.testing.assert_array_equal(back, layer.stored(arrays)["sure"][0])
    assert set(np.unique(back)) == {0, 85, 170, 255} and np.abs(back.astype(int) - sure[0]).max() <= 43
    assert set(layer.encode({"labels": arrays["labels"]}, 0)) == {"png"}
    assert layer.at_size(arrays, (16, 16), (8, 8))["sure"].shape == (1, 8, 8)


def test_windows_have_it_where_it_is_asked_for(store: Store) -> None:
    assert "sure" not in Plan(store, "sure", length=4).window(0).arrays
    assert "sure" not in Plan(store, "sure", length=4, among=["parsing"]).window(0).arrays
    for plan in (
        Plan(store, "sure", length=4, layers=["parsing", "sure"], shuffle=False),
        Plan(store, "sure", length=4, among=["parsing", "sure"], shuffle=False),
    ):
        for number in range(len(plan)):
            window = plan.window(number)
            sure = window.arrays["sure"]
            assert sure.dtype == bool and sure.shape == (4, *SIZE)
            assert sure[..., 12:].all() and sure[..., :12].all() == (window.clip == store.clips[0].id)
            assert sure[..., :12].any() == (window.clip == store.clips[0].id)
    assert to_torch(window)["sure"].shape == (4, 1, *SIZE)
    assert plan.window(len(plan) - 1, (16, 12)).arrays["sure"].shape == (4, 16, 12)
    # A layer that does not tell is sure of everything.
    assert Plan(store, length=4, layers=["parsing", "sure"]).window(0).arrays["sure"].all()


def test_runs_honour_it_where_their_layer_tells(store: Store) -> None:
    config = small_config()
    assert config.sure == "auto" and Config(name="of before").sure is False
    assert resolved(store, config, "main").sure is False
    only = dataclasses.replace(config, sure=True)
    assert resolved(store, only, "main").sure is True
    with pytest.raises(ConfigError, match="sure is false, true"):
        small_config(sure="maybe")
    assert resolved(store, config, "sure").sure is True and resolved([store, store], config, "sure").sure is True
    assert "sure" in epochs(store, config, "layout", snapshot="sure").window(0).arrays
    assert "sure" not in epochs(store, config, "layout").window(0).arrays
    off = dataclasses.replace(config, sure=False)
    assert "sure" not in epochs(store, off, "layout", snapshot="sure").window(0).arrays


def _batch(sure: np.ndarray | None, seed: int = 0) -> dict[str, torch.Tensor]:
    """A window of a drawn dancer, with labels that are invented where they are not sure."""
    window = Windows(clip_arrays(8), 8).window(0)
    if sure is not None:
        invented = np.random.default_rng(seed).integers(0, 11, window.arrays["labels"].shape).astype(np.uint8)
        window.arrays["labels"] = np.where(sure, window.arrays["labels"], invented)
        window.arrays["sure"] = sure
    return {name: x[None] for name, x in to_torch(window).items()}


def _step(stage: str, batch: dict[str, torch.Tensor]) -> tuple[dict[str, float], list[torch.Tensor]]:
    config = small_config(**{stage: StagePlan(1, 1, length=8, chunk=8, lr=1e-3)})
    earlier = {n: networks.generator(n, config).requires_grad_(False) for n in needed_generators(stage, config)}
    torch.manual_seed(0)
    for net in earlier.values():
        for parameter in net.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape))
    trainer = Trainer(stage, Setting(config, None, earlier), torch.device("cpu"), 0)
    losses = dict(trainer.step(batch, 1e-3))
    return losses, [*trainer.net.parameters(), *trainer.judges.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_all_sure_is_no_map_to_the_bit_and_less_is_not(stage: str) -> None:
    everything, part = np.ones((8, *SIZE), bool), np.ones((8, *SIZE), bool)
    part[:, :, :12] = False
    plain, ones = _step(stage, _batch(None)), _step(stage, _batch(everything))
    assert plain[0] == ones[0]
    assert all(torch.equal(a, b) for a, b in zip(plain[1], ones[1], strict=True))
    unsure = {**_batch(None), "sure": _batch(part)["sure"]}
    assert _step(stage, unsure)[0] != plain[0]


@pytest.mark.slow
def test_what_the_labels_are_where_they_are_unsure_teaches_nothing() -> None:
    part = np.ones((8, *SIZE), bool)
    part[:, :, :12] = False
    one, other = (_step("layout", _batch(part, seed))[0] for seed in (1, 2))
    assert one["nll"] == other["nll"] and one["nll_raw"] == other["nll_raw"]
    untold = [_step("layout", {n: x for n, x in _batch(part, seed).items() if n != "sure"})[0] for seed in (1, 2)]
    assert untold[0]["nll"] != untold[1]["nll"]


@pytest.mark.parametrize("shape", [(1, 3, 6, 4, 4), (1, 3, 5, 3, 4, 4)])
def test_gradients_are_zero_where_labels_are_unsure(shape: tuple[int, ...]) -> None:
    sure = torch.ones(1, 4, 1, 4, 4)
    sure[:, 2, :, :2] = 0
    chunk = Chunk({"sure": sure}, 1, 4, 0)
    made, wanted = torch.zeros(shape, requires_grad=True), torch.ones(shape)
    chunk.in_view(made, wanted).sub(wanted).square().sum().backward()
    assert made.grad is not None
    assert (made.grad[:, 1, ..., :2, :] == 0).all() and (made.grad[:, 1, ..., 2:, :] == -2).all()
    assert (made.grad[:, [0, 2]] == -2).all()


def test_a_mirrored_window_is_mirrored_with_it() -> None:
    sure = np.random.default_rng(0).random((8, *SIZE)) < 0.5
    arrays = Windows(clip_arrays(8), 8).window(0).arrays | {"sure": sure.copy()}
    augmented(arrays, small_config(flip=1.0, colour_jitter=False), "body25", np.random.default_rng(0))
    np.testing.assert_array_equal(arrays["sure"], sure[..., ::-1])
    np.testing.assert_array_equal(converted("sure", torch.from_numpy(arrays["sure"])), to_torch(arrays)["sure"])
