"""Weights must fit their network, and one thread computes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest

from remot_data.detectors._network import at_least_one, inference, load_tensors, misfits, tensors
from remot_data.detectors.base import DetectorError


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
