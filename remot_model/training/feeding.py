"""Batches on the way to a device: copied ahead from page-locked memory beside the step, converted where they arrive.

And how many processes should read for a device.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from remot_data.reading.stream import to_torch
from remot_data.records import SURE, VALID
from remot_model.training.data import DataError, needed

Batch = dict[str, Tensor]

_SLOTS = 2  # batches that lie on the device as they are stored, before they are asked for
_PICTURES = ("frames", "pose_map", "background", "source")
_LABELS = ("labels", "source_labels")
# Processes that read a stage four times as fast as a card is to train it (docs/streaming.md). The size of the pictures
# does not matter much: both go by the pixel.
_READERS = {"layout": 2, "region": 1, "whole": 1}


class Slot(Protocol):
    """Room for one batch on its way; `fill` is called by a thread, `take` by who trains, in turns."""

    def fill(self, batch: Mapping[str, Tensor]) -> None:
        """Begin to copy a batch to the device. The tensors of `batch` may be written to again afterwards."""

    def take(self) -> Batch:
        """The batch as `converted`, in memory of its own on the device."""


class Feeder:
    """The batches of `remot_model.training.data.stored`, as tensors on a device; iterate it, and close it at the end.

    Each has the names, shapes, types and values that `remot_model.training.data.batches` gives. For CUDA a thread reads
    on and copies up to two batches ahead, as they are stored, on a stream beside the one of the step; floating point is
    made of them on the device. Nothing in the thread that trains waits for the device. For any other device they are
    converted on the CPU when they are asked for, and moved there.

    Args:
        batches: dicts of arrays or CPU tensors, all of one shape; it is closed with the feeder.
        device: where the tensors shall be.
        stage: whose layers a batch has to have.
        slot: what makes the slots of a device, from the first batch; for CUDA `PinnedSlot`.

    Raises:
        DataError: when iterating, for a batch without a layer that the stage needs. Errors of `batches` come out alike.
    """

    def __init__(
        self,
        batches: Iterator[Mapping[str, Any]],
        device: torch.device | str,
        stage: str,
        *,
        slot: Callable[[Mapping[str, Tensor]], Slot] | None = None,
    ) -> None:
        self.device, self._batches = _indexed(torch.device(device)), batches
        if slot is None and self.device.type == "cuda":
            stream = torch.cuda.Stream(self.device)
            slot = lambda like: PinnedSlot(like, stream)  # noqa: E731
        self._found = _ahead(batches, stage, slot) if slot else _moved(batches, stage, self.device)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._found)

    def close(self) -> None:
        """End the thread, once it has what it is reading, and then `batches`."""
        self._found.close()
        if close := getattr(self._batches, "close", None):
            close()


def _indexed(device: torch.device) -> torch.device:
    """A CUDA device with its number: which one is the current is another matter in another thread."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _moved(batches: Iterable[Mapping[str, Any]], stage: str, device: torch.device) -> Generator[Batch, None, None]:
    for batch in batches:
        yield {name: x.to(device) for name, x in needed(to_torch(batch), stage).items()}


def _ahead(
    batches: Iterator[Mapping[str, Any]], stage: str, make: Callable[[Mapping[str, Tensor]], Slot]
) -> Generator[Batch, None, None]:
    # Read in this thread, so that a loader forks its processes in it, as without a feeder.
    first = next(batches, None)
    if first is None:
        return
    batch = _as_stored(first, stage)
    slots = [make(batch) for _ in range(_SLOTS)]
    slots[0].fill(batch)
    del first, batch  # a loader writes into arrays again that nobody holds
    free: SimpleQueue[Slot] = SimpleQueue()
    ready: SimpleQueue[Slot | BaseException | None] = SimpleQueue()
    ready.put(slots[0])
    for slot in slots[1:]:
        free.put(slot)
    ended = threading.Event()
    thread = threading.Thread(target=_fill, args=(batches, stage, free, ready, ended), name="remot-feed", daemon=True)
    thread.start()
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            batch = found.take()
            free.put(found)
            yield batch
            del batch
    finally:
        ended.set()
        free.put(slots[0])  # wakes the thread
        thread.join()


def _fill(
    batches: Iterator[Mapping[str, Any]],
    stage: str,
    free: SimpleQueue[Slot],
    ready: SimpleQueue[Slot | BaseException | None],
    ended: threading.Event,
) -> None:
    """The thread: fill slots that are free with batches, until there are no more or nobody asks."""
    try:
        while True:
            slot = free.get()
            if ended.is_set() or (batch := next(batches, None)) is None:
                break
            slot.fill(_as_stored(batch, stage))
            del batch
            ready.put(slot)
        ready.put(None)
    except BaseException as error:  # raised where the batch is asked for
        ready.put(error)


def _as_stored(batch: Mapping[str, Any], stage: str) -> Batch:
    """The tensors of a batch in the types they are stored in, flow as planes; they share the memory of its arrays."""
    found = {}
    for name, array in needed(batch, stage).items():
        tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
        found[name] = tensor.movedim(-1, -3) if name == "flow" else tensor
    return found


def converted(name: str, stored: Tensor) -> Tensor:
    """What `remot_data.reading.stream.to_torch` makes of an array, to the bit, from a tensor with flow as planes.

    It is computed where `stored` lies and shares no memory with it.
    """
    if name in _PICTURES:
        # By a number of Python's, CUDA multiplies by the reciprocal instead, which rounds differently.
        divisor = torch.full((), 127.5, device=stored.device)
        return stored.movedim(-1, -3).to(torch.float32, copy=True).div_(divisor).sub_(1)
    if name in _LABELS:
        return stored.to(torch.int64, copy=True)
    if name in ("confidence", "others", SURE, VALID):
        return stored.to(torch.float32, copy=True).unsqueeze(-3)
    return stored.clone()


class PinnedSlot:
    """A slot of a CUDA device: page-locked memory, and memory on the device that a side stream copies it to.

    Two events say who may write where. `_copied`: the side stream has read the page-locked memory, and the device's
    is complete. `_used`: the stream of the step has made tensors of the device's memory. Only the filling thread waits
    on the host, for `_copied`; otherwise streams wait for each other.

    Args:
        like: a batch; those that are filled in have its names, shapes and types.
        stream: the side stream; all slots of a feeder may share it.
    """

    def __init__(self, like: Mapping[str, Tensor], stream: torch.cuda.Stream) -> None:
        self._stream = stream
        self._copied, self._used = torch.cuda.Event(blocking=True), torch.cuda.Event()
        with torch.cuda.stream(stream):  # the device's memory belongs to this stream
            self._here = {n: torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for n, x in like.items()}
            self._there = {n: torch.empty(x.shape, dtype=x.dtype, device=stream.device) for n, x in like.items()}

    def fill(self, batch: Mapping[str, Tensor]) -> None:
        check_alike(self._here, batch)
        self._copied.synchronize()  # at once where nothing was copied yet
        for name, x in batch.items():
            self._here[name].copy_(x)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._used)
            for name, x in self._here.items():
                self._there[name].copy_(x, non_blocking=True)
            self._copied.record(self._stream)

    def take(self) -> Batch:
        stream = torch.cuda.current_stream(self._stream.device)
        stream.wait_event(self._copied)
        for x in self._there.values():
            x.record_stream(stream)  # else it could be given away too early when the slot goes
        found = {name: converted(name, x) for name, x in self._there.items()}
        self._used.record(stream)
        return found


def readers(workers: int | str, stages: Iterable[str], device: torch.device) -> int:
    """How many processes read for each that trains; 0 are threads.

    A number is taken as it is. ``auto`` is threads for a CPU. For anything else it is as many processes as the fastest
    of the stages needs, but no more than the machine has CPUs for each process that trains on it, less one.

    Raises:
        DataError: for anything else.
    """
    if isinstance(workers, int) and workers >= 0:
        return workers
    if workers != "auto":
        raise DataError(f"workers is 'auto' or a number of processes, 0 for threads, not {workers!r}")
    if device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(cores - 1, max(_READERS[stage] for stage in stages)))


def check_alike(room: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> None:
    """`ValueError` where a batch does not fit into the room made for another: copying would stretch or round it."""
    wrong = [n for n in {*room, *batch} if _form(room.get(n)) != _form(batch.get(n))]
    if wrong:
        raise ValueError(f"the batches of a feeder have one form, but {', '.join(sorted(wrong))} changed")


def _form(tensor: Tensor | None) -> Any:
    return None if tensor is None else (tensor.shape, tensor.dtype)
