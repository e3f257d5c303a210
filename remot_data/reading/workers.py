"""Worker processes of a `Loader`: forked ones, that decode into batches in memory they share with it.

What goes through the pipes is a few numbers. A process that is forked has the plan, the arrays and the `change` of
the loader without a copy or pickling; it ends when its pipe does, so never lives longer than who reads.

They may be forked where CUDA is in use, since they never touch it: what they run is numpy, OpenCV and reading, they
never free what they inherited (that could call CUDA), and they end without running anybody's clean-up.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import mmap
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import cv2
import numpy as np

from remot_data.store import StoreError

IN_FLIGHT = 8  # windows that are asked for at the same time on a remote store
_PATIENCE = 1.0  # seconds to end in before a process is killed

Arrays = dict[str, np.ndarray]
# The bytes of a window; and a window read into the row of a batch: its id, and what was damaged on the way.
Fetch = Callable[[int], list[bytes]]
Fill = Callable[[int, Arrays, "Future[list[bytes]] | None"], Any]


class WorkerError(StoreError):
    """A worker process is gone."""


def shared(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """An array in memory that it shares with processes forked later, and that every view of it holds as its base."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.ndarray(tuple(shape), dtype, mmap.mmap(-1, max(size, 1)))


class Crew:
    """Processes that fill rows of the batches `slots`; `fetch` is given on remote stores, to read ahead there."""

    def __init__(self, count: int, slots: Sequence[Arrays], fill: Fill, fetch: Fetch | None) -> None:
        context = multiprocessing.get_context("fork")
        self._ends: list[Connection] = []
        self._processes = []
        try:
            for number in range(count):
                mine, theirs = context.Pipe()
                self._ends.append(mine)
                told = (theirs, list(self._ends), slots, fill, fetch)
                process = context.Process(target=_serve, args=told, name=f"remot-decode-{number}", daemon=True)
                process.start()
                theirs.close()
                self._processes.append(process)
        except BaseException:
            self.close()
            raise
        self._turn = itertools.cycle(range(count))

    def begin(self, slot: int, numbers: Sequence[int]) -> list[Callable[[], list[Any]]]:
        """Have the windows `numbers` filled into the rows of a slot. Gives what to call, in this order and that of
        earlier calls, to wait for the next of them and have what `fill` returned."""
        share = -(-len(numbers) // len(self._ends))
        waits: list[Callable[[], list[Any]]] = []
        for row in range(0, len(numbers), share):
            worker = next(self._turn)
            with contextlib.suppress(OSError):  # a process that is gone is told of by `_answer`
                self._ends[worker].send((slot, row, numbers[row : row + share]))
            waits.append(partial(self._answer, worker))
        return waits

    def _answer(self, worker: int) -> list[Any]:
        try:
            answer = self._ends[worker].recv()
        except (EOFError, OSError):
            process = self._processes[worker]
            process.join(_PATIENCE)
            raise WorkerError(
                f"the worker process {process.pid} of the loader is gone (exit code {process.exitcode}; -9 is what the "
                "system does when memory is short); resume from the last saved state"
            ) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """End the processes, whatever they are at."""
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join(_PATIENCE)
            process.kill()
            process.join()


def _serve(
    end: Connection, others: Iterable[Connection], slots: Sequence[Arrays], fill: Fill, fetch: Fetch | None
) -> None:
    for other in others:  # else the pipes would outlive their process
        other.close()
    gc.freeze()  # garbage of the process that was forked, tensors of a GPU among it, is not ours to collect
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)  # its threads are those of the process that was forked
    fetchers = ThreadPoolExecutor(IN_FLIGHT, "remot-fetch") if fetch else None
    waiting: deque[Any] = deque()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            while not waiting or end.poll():
                slot, row, numbers = end.recv()
                fetched = [fetchers.submit(fetch, n) if fetchers and fetch else None for n in numbers]
                waiting.append((slot, row, numbers, fetched))
            slot, row, numbers, fetched = waiting.popleft()
            try:
                rows = ({name: array[row + at] for name, array in slots[slot].items()} for at in range(len(numbers)))
                answer: Any = [fill(*told) for told in zip(numbers, rows, fetched, strict=True)]
            except Exception as error:
                answer = error
            try:
                end.send(answer)
            except (TypeError, AttributeError, ValueError) as error:  # an exception that cannot be pickled
                end.send(RuntimeError(f"{type(answer).__name__}: {answer} (and {error})"))
