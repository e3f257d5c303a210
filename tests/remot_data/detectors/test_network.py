"""Weights must fit their network, and one thread computes."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from remot_data.detectors._network import Runner, at_least_one, inference, load_tensors, misfits, tensors
from remot_data.detectors.base import Arrays, Batched, DetectorError, DeviceError, Pending, check_device, landed
from tests.remot_data.detectors.company import assert_company_changes_nothing


def test_misfits_are_counted_and_named() -> None:
    want = {"a": (1, 2), "b": (3,), "bn.num_batches_tracked": ()}
    assert misfits({"a": (1, 2), "b": (3,)}, want) == ""
    said = misfits({"a": (2, 1), "c": (1,), "d": (), "e": (), "f": ()}, want)
    assert said == "1 missing (b); 4 not of this network (c, d, e, ...); 1 of another shape (a)"


def test_a_batch_is_at_least_one() -> None:
    assert at_least_one(1, "x") == 1
    with pytest.raises(DetectorError, match="x: the batch is 0"):
        at_least_one(0, "x")


@pytest.mark.parametrize("under", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_tensors_are_found_where_trainings_put_them(under: str | None, prefix: str) -> None:
    torch = pytest.importorskip("torch")
    state: Any = OrderedDict({f"{prefix}weight": torch.ones(2, 3), f"{prefix}bias": torch.zeros(2)})
    network = torch.nn.Linear(3, 2)
    load_tensors(network, {under: state, "epoch": 3} if under else state, "x", "file", "another")
    assert (network.weight == 1).all() and (network.bias == 0).all()


def test_files_that_do_not_fit_are_refused() -> None:
    torch = pytest.importorskip("torch")
    assert tensors([1]) is None and tensors({}) is None and tensors({"a": "text"}) is None
    with pytest.raises(DetectorError, match="x: file holds no tensors by name; give another"):
        load_tensors(torch.nn.Linear(3, 2), {"a": 1}, "x", "file", "another")
    with pytest.raises(DetectorError, match=r"1 missing \(bias\); 1 of another shape \(weight\); give another"):
        load_tensors(torch.nn.Linear(3, 2), {"weight": torch.ones(3, 2)}, "x", "file", "another")


def test_one_thread_on_the_processor_and_back() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(ValueError, match="stop"), inference("cpu"):
            assert torch.get_num_threads() == 1 and torch.is_inference_mode_enabled()
            raise ValueError("stop")
        assert torch.get_num_threads() == 2 and not torch.is_inference_mode_enabled()
    finally:
        torch.set_num_threads(before)


def test_detectors_side_by_side_have_one_thread_until_the_last_is_done() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        first, second = inference("cpu"), inference("cpu")
        # Each in a thread of its own, as detectors are: whether gradients are kept is a matter of the thread.
        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
            one.submit(first.__enter__).result()
            other.submit(second.__enter__).result()
            one.submit(first.__exit__, None, None, None).result()
            assert other.submit(torch.get_num_threads).result() == 1
            other.submit(second.__exit__, None, None, None).result()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


class Convolved(Batched):
    """A small network with random weights; `batch` and `precision` as an adapter has them."""

    name = "convolved"

    def __init__(self, device: str, batch: int | None = None, precision: str = "float32", mixed: bool = True):
        import torch

        torch.manual_seed(0)
        self._runner = Runner(self.name, device, batch, precision, on_card=4)
        self.batch, self.seen = self._runner.batch, []
        layers = torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 3)
        self._network = self._runner.place(torch.nn.Sequential(*layers), mixed)

    def infer(self, items: np.ndarray) -> Arrays | Pending:
        return self._runner(self._values, items)

    def _values(self, images: Any) -> Any:
        self.seen.append(len(images))
        values = self._network(images.permute(0, 3, 1, 2).to(self._runner.dtype) / 255)
        return {"values": values.float(), "mean": values.float().mean((1, 2, 3))}


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (5, 24, 20, 3), np.uint8)


def test_on_the_processor_items_go_through_one_by_one(pictures: np.ndarray) -> None:
    pytest.importorskip("torch")
    single, batched = Convolved("cpu"), Convolved("cpu", 3)
    assert (single.batch, batched.batch) == (1, 3)
    one, three = single(pictures), batched(pictures)
    assert one["values"].shape == (5, 2, 20, 16) and one["mean"].shape == (5,)
    assert all(one[name].tobytes() == three[name].tobytes() for name in one)
    assert batched.seen == [1] * 6
    assert_company_changes_nothing(batched, pictures)


@pytest.mark.parametrize("mixed", [True, False])
def test_bfloat16_is_close_and_said(pictures: np.ndarray, mixed: bool) -> None:
    torch = pytest.importorskip("torch")
    plain, half = Convolved("cpu"), Convolved("cpu", 2, "bfloat16", mixed)
    assert plain._runner.settings == {} and half._runner.settings == {"precision": "bfloat16"}
    kinds = [module.weight.dtype for module in half._network if hasattr(module, "weight")]
    assert kinds == [torch.bfloat16, torch.float32 if mixed else torch.bfloat16, torch.bfloat16]
    difference = np.abs(half(pictures)["values"] - plain(pictures)["values"])
    assert 0 < difference.max() < 0.02
    assert_company_changes_nothing(half, pictures)


def test_a_runner_that_cannot_be_is_refused() -> None:
    with pytest.raises(DetectorError, match="x: there is no precision 'half'; give float32 or bfloat16"):
        Runner("x", "cpu", None, "half")
    with pytest.raises(DetectorError, match="x: the batch is 0"):
        Runner("x", "cpu", 0, "float32")
    assert Runner("x", "cuda:1", None, "float32").batch == 32


def test_only_what_the_card_is_to_blame_for_is_its_fault() -> None:
    detector = Convolved.__new__(Convolved)
    detector.batch = 64
    check_device(ValueError("bad"), detector)
    full = type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2 GiB")
    with pytest.raises(DeviceError, match="convolved: .*64 items .*give a smaller --setting batch="):
        check_device(full, detector)
    with pytest.raises(DeviceError, match="convolved: the card failed .*illegal memory access"):
        check_device(RuntimeError("CUDA error: an illegal memory access was encountered"), detector)


def _has_card() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


@pytest.mark.skipif(not _has_card(), reason="there is no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_card_outputs_come_later_and_company_changes_nothing(pictures: np.ndarray, precision: str) -> None:
    import torch

    card = Convolved("cuda", None, precision)
    assert card.batch == 4
    coming = card.infer(pictures[:4])
    assert not isinstance(coming, dict) and {"values", "mean"} == set(landed(coming))
    wanted, got = Convolved("cpu")(pictures), card(pictures)
    assert np.abs(got["values"] - wanted["values"]).max() < 0.02
    assert all(got[name].tobytes() == card(pictures)[name].tobytes() for name in got)
    assert_company_changes_nothing(card, pictures)
    # Begun one after the other, none waits for another's result, and none writes over it.
    many = [card.infer(np.roll(pictures[:4], n, 0)) for n in range(6)]
    for n, later in enumerate(many):
        assert np.roll(got["values"][:4], n, 0).tobytes() == landed(later)["values"].tobytes()
    with pytest.raises(DeviceError, match="--setting batch="):
        try:
            card._runner(lambda images: {"x": torch.empty(1 << 50, device="cuda")}, pictures[:4])
        except RuntimeError as error:
            check_device(error, card)
