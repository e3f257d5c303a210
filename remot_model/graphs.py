"""A function's kernels on a GPU, recorded once and replayed: launching them one by one takes longer than they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class Recorded:
    """A CUDA graph of `function`, called with tensors by name.

    What it changes in place (weights, moments, averages) it changes with each replay. What it returns is overwritten by
    the next. Its kernels have to be the same for any values of the inputs, and it must not wait for the device.
    """

    def __init__(
        self,
        function: Callable[[dict[str, Tensor]], Any],
        inputs: Mapping[str, Tensor],
        beside: Recorded | None = None,
    ) -> None:
        """`beside`: another graph, which never runs at the same time, and whose memory this one may use."""
        self._inputs = {name: x.clone() for name, x in inputs.items()}
        self._graph = torch.cuda.CUDAGraph()
        pool = beside._graph.pool() if beside else None
        # Other threads may copy the next batch meanwhile.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._outputs = function(self._inputs)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Any:
        for name, x in inputs.items():
            self._inputs[name].copy_(x)
        self._graph.replay()
        return self._outputs
