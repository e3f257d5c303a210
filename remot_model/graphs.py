"""A function's kernels on a GPU, recorded once and replayed: launching them one by one takes longer than they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

_pool: list[Any] = []


class Recorded:
    """A CUDA graph of `function`, called with tensors by name.

    What it changes in place (weights, moments, averages) it changes with each replay. What it returns is overwritten by
    the next. Its kernels have to be the same for any values of the inputs, and it must not wait for the device.
    """

    def __init__(self, function: Callable[[dict[str, Tensor]], Any], inputs: Mapping[str, Tensor]) -> None:
        self._inputs = {name: x.clone() for name, x in inputs.items()}
        self._graph = torch.cuda.CUDAGraph()
        if not _pool:
            _pool.append(torch.cuda.graph_pool_handle())  # graphs that never run at the same time share memory
        # Other threads may copy the next batch meanwhile.
        with torch.cuda.graph(self._graph, pool=_pool[0], capture_error_mode="thread_local"):
            self._outputs = function(self._inputs)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Any:
        for name, x in inputs.items():
            self._inputs[name].copy_(x)
        self._graph.replay()
        return self._outputs
