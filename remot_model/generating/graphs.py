"""A function's kernels on a GPU, recorded once and replayed: launching them one by one takes longer than they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        """Record `function` of `inputs`.

        Args:
            beside: another graph, which never runs at the same time, and whose memory this one may use.
            stream: to record on, not the default one. Libraries keep memory to work in by stream and thread, so graphs
                that run at the same time need one each.
        """
        self._inputs = {name: x.clone() for name, x in inputs.items()}
        self._graph = torch.cuda.CUDAGraph()
        pool = beside._graph.pool() if beside else None
        # Other threads may copy the next batch meanwhile.
        with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._outputs = function(self._inputs)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Any:
        for name, x in inputs.items():
            self._inputs[name].copy_(x)
        self._graph.replay()
        return self._outputs


class Lanes:
    """Streams for work that is done in steps, so that a later step of one item runs beside an earlier one of the next.

    Within a graph, where memory that a step leaves is not used again by another lane before all have joined, as long as
    somebody holds it.
    """

    def __init__(self, steps: Sequence[str], device: torch.device) -> None:
        self._streams = {step: torch.cuda.Stream(device) for step in steps}

    @contextmanager
    def opened(self) -> Iterator[Callable[[str], Any]]:
        """A function that gives the context of a step; at the end the current stream waits for all."""
        now = torch.cuda.current_stream()
        for stream in self._streams.values():
            stream.wait_stream(now)
        yield self._step
        for stream in self._streams.values():
            now.wait_stream(stream)

    @contextmanager
    def _step(self, step: str) -> Iterator[None]:
        """Behind all that the step before has been given so far."""
        streams = list(self._streams.values())
        stream = self._streams[step]
        if stream is not streams[0]:
            stream.wait_stream(streams[streams.index(stream) - 1])
        with torch.cuda.stream(stream):
            yield
