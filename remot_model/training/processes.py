"""Processes that train together: gradients are averaged over them while the rest of them is still computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

_BUCKET = 25 * 2**20  # bytes of gradients that travel together; torch's DDP sends as many


def count() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def sum_over_processes(table: Tensor) -> None:
    """Add up a table over all processes, in place."""
    if count() > 1:
        distributed.all_reduce(table)


class Averager:
    """Gradients as means over all processes.

    They are put together in buckets, the last parameters first, as backward makes them. A bucket that is full travels
    while the others are filled; the order is the same in all processes. Which parameters get a gradient is too, so one
    without is left without: zeros would have Adam move it on.
    """

    def __init__(self) -> None:
        self._hooked: set[nn.Parameter] = set()
        self._buckets: list[list[nn.Parameter]] = []
        self._bucket_of: dict[nn.Parameter, int] = {}
        self._missing: list[int] = []
        self._sent: list[tuple[Tensor, Any]] = []

    def expect(self, parameters: Sequence[nn.Parameter]) -> None:
        """The parameters that the next backward passes give gradients to; the same in all processes."""
        self._buckets, size = [[]], 0
        for parameter in reversed(parameters):
            if size and size + parameter.nbytes > _BUCKET:
                self._buckets.append([])
                size = 0
            self._buckets[-1].append(parameter)
            size += parameter.nbytes
        self._bucket_of = {p: i for i, bucket in enumerate(self._buckets) for p in bucket}
        self._missing, self._sent = [len(bucket) for bucket in self._buckets], []
        for parameter in parameters:
            if parameter not in self._hooked:
                self._hooked.add(parameter)
                parameter.register_post_accumulate_grad_hook(lambda p: self.made([p]))

    def finish(self) -> None:
        """Wait until all gradients are means."""
        self._send(all_of_them=True)
        for bucket, (flat, work) in zip(self._buckets, self._sent, strict=True):
            work.wait()
            pieces = (flat / count()).split([p.numel() for p in bucket])
            for parameter, piece in zip(bucket, pieces, strict=True):
                if parameter.grad is not None:
                    parameter.grad = piece.view_as(parameter)
        self._buckets, self._bucket_of, self._sent = [], {}, []

    def made(self, parameters: Sequence[nn.Parameter]) -> None:
        """The gradients of some parameters are there."""
        for parameter in parameters:
            if (bucket := self._bucket_of.get(parameter)) is not None:
                self._missing[bucket] -= 1
        self._send()

    def _send(self, all_of_them: bool = False) -> None:
        while len(self._sent) < len(self._buckets) and (all_of_them or not self._missing[len(self._sent)]):
            bucket = self._buckets[len(self._sent)]
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([g.flatten() for g in gradients])
            self._sent.append((flat, distributed.all_reduce(flat, async_op=True)))
