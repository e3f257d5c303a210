"""Batches of windows: threads or forked processes decode straight into the arrays of a batch, ahead of who takes it.

Threads start at once and need nothing, because decoding leaves Python's lock to others. From two or three on they wait
for that lock more than processes cost. Neither copies a batch to hand it over. The order is that of
`sampling.batches`: a function of the seed, whatever the number of threads, workers and ranks.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import numpy as np

from remot_data.reading import sampling
from remot_data.reading.stream import Plan, as_used, in_memory
from remot_data.reading.workers import IN_FLIGHT, Arrays, Crew, shared
from remot_data.store import DamagedError, StoreError

log = logging.getLogger(__name__)

_MOST_THREADS = 8
_UNHELD = 2  # references to an array in a dict, while they are counted
_HELD = 3  # batches in shared memory that who reads may hold; of more it gets copies
_ATTEMPTS = 20  # windows tried in place of a damaged one

Batch = dict[str, Any]
# What the row of a batch became: the id of its window, and the numbers and errors of those that were damaged.
Row = tuple[str, list[tuple[int, str]]]
Wait = Callable[[], "list[Row]"]
Begin = Callable[[np.ndarray], "tuple[Arrays, list[Wait]]"]


class Loader:
    """The batches of one rank; iterating gives those that are left of the epoch, iterating again those of the next.

    A batch is a dict: the arrays of `remot_data.reading.stream.Window` with a first axis for the windows, ``id`` (a
    list of their ids) and ``number`` (int64 [N], the number of each in the order, counted over all epochs).

    What is done is one integer, `seen`: windows of the order that all ranks together have taken, counted over all
    epochs. `state_dict` holds it, and any number of ranks and workers and any batch size may resume from it.

    A damaged window is replaced by another of the epoch, a function of its number: so every rank still gets equal
    batches. It is kept in `replaced`, and reported at the end of the epoch.

    Args:
        batch: windows in a batch.
        size: height and width to resize to at load; needed where stores of several sizes are mixed.
        rank: which share of each round of world_size * batch windows is taken here.
        world_size: ranks that share the windows.
        threads: that decode; 0 decodes in the caller's thread when a batch is asked for. By default one a CPU, at
            most 8, and in the worker processes of a `torch` DataLoader 0.
        workers: processes that decode, instead of threads. They are forked when the first batch is asked for and end
            with the iteration. `change` then runs in them.
        ahead: batches that are made before they are asked for.
        last: what becomes of the end of an epoch that is no whole round: ``drop``, ``pad`` or ``through`` (batches run
            on into the next epoch, and iterating never ends); see `sampling.batches`.
        change: called with the number of each window and its arrays, to change them in place; augmentation.
        most_damaged: share of the windows of an epoch that may be damaged (one always may).

    Raises:
        ValueError: for arguments that make no sense, at once.
        StoreError: while iterating, if more windows are damaged than allowed; names key and shard.
        remot_data.store.disk.FilesError: while iterating, if a remote store is away for more than a minute.
        WorkerError: while iterating, if a worker process is killed; at once.
    """

    def __init__(
        self,
        plan: Plan,
        batch: int,
        *,
        size: tuple[int, int] | None = None,
        rank: int = 0,
        world_size: int = 1,
        threads: int | None = None,
        workers: int = 0,
        ahead: int = 2,
        last: str = "drop",
        change: Callable[[int, Arrays], None] | None = None,
        most_damaged: float = 0.01,
    ) -> None:
        if ahead < 1 or workers < 0 or (threads or 0) < 0:
            raise ValueError(f"{threads} threads, {workers} workers, {ahead} batches ahead: need at least 0, 0 and 1")
        if threads and workers:
            raise ValueError(f"{threads} threads and {workers} workers: choose one")
        next(sampling.batches(len(plan), batch, rank=rank, world_size=world_size, last=last), None)
        self.plan, self.batch, self.size, self.last = plan, batch, size, last
        self.rank, self.world_size, self.ahead = rank, world_size, ahead
        self.threads, self.workers = threads, workers
        self.change, self.most_damaged = change, most_damaged
        self.seen = 0
        self.replaced: dict[int, str] = {}
        self._like: Arrays = {}
        self._owners: list[Arrays] = []

    def __len__(self) -> int:
        """Batches of a whole epoch; where they run on into the next, those that end in it."""
        rounds, rest = divmod(len(self.plan), self.batch * self.world_size)
        return rounds + (rest > 0 and self.last == "pad")

    @property
    def uneven(self) -> int:
        """Windows at the end of an epoch that are no whole round; `last` says what becomes of them."""
        return len(self.plan) % (self.batch * self.world_size)

    def state_dict(self) -> dict[str, int]:
        """What `load_state_dict` needs to resume behind the batch that was taken last."""
        return {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.seen = int(state["seen"])

    def __iter__(self) -> Generator[Batch]:
        end = self.end
        for after, batch in self.part():
            self.seen = after
            yield batch
        self.seen = end

    @property
    def end(self) -> int:
        """Where the epoch of the next batch ends."""
        return (self.seen // len(self.plan) + 1) * len(self.plan)

    def part(self, worker: int = 0, workers: int = 1, skip: int = 0) -> Iterator[tuple[int, Batch]]:
        """What one of several workers takes of the rest of the epoch: `seen` behind each batch, and the batch."""
        if self.workers and workers > 1:
            raise ValueError("a loader with workers cannot be shared by the workers of a DataLoader: choose one")
        self.replaced = {}
        pending: deque[tuple[int, np.ndarray, Arrays, list[Wait]]] = deque()
        parts = sampling.batches(
            len(self.plan),
            self.batch,
            rank=self.rank,
            world_size=self.world_size,
            start=self.seen,
            worker=worker,
            workers=workers,
            skip=skip,
            last=self.last,
        )
        # Shared memory belongs to the processes that were forked with it, so to this iteration.
        owners = [] if self.workers else self._owners
        with ExitStack() as running:
            start = self._processes if self.workers else partial(self._threads, workers)
            begin, ahead = start(owners, running)
            while True:
                while len(pending) <= ahead and (part := next(parts, None)) is not None:
                    pending.append((*part, *begin(part[1])))
                if not pending:
                    break
                after, numbers, arrays, waits = pending.popleft()
                yield after, self._finished(owners, arrays, numbers, waits)
                del arrays
        if self.replaced:
            some = "; ".join(list(self.replaced.values())[:3])
            log.warning("%d windows of this epoch were damaged and replaced by others: %s", len(self.replaced), some)

    def _threads(self, workers: int, owners: list[Arrays], running: ExitStack) -> tuple[Begin, int]:
        """What begins a batch in threads, or leaves it to who waits for it; and how many to begin ahead."""
        count = self.threads
        if count is None:
            count = 0 if workers > 1 else min(_MOST_THREADS, len(os.sched_getaffinity(0)))
        decoders = ThreadPoolExecutor(count, "remot-decode") if count else None
        fetchers = ThreadPoolExecutor(IN_FLIGHT, "remot-fetch") if self.plan.remote else None
        for pool in filter(None, (decoders, fetchers)):
            # What waits for a server is left alone: it ends by itself, within the patience of `Files`.
            running.callback(pool.shutdown, wait=not self.plan.remote, cancel_futures=True)

        def begin(numbers: np.ndarray) -> tuple[Arrays, list[Wait]]:
            arrays = self._arrays(owners, numbers)
            waits: list[Wait] = []
            for row, number in enumerate(numbers.tolist()):
                fetched = fetchers.submit(self.plan.fetch, number) if fetchers else None
                fill = partial(self._fill, number, {name: array[row] for name, array in arrays.items()}, fetched)
                wait = decoders.submit(fill).result if decoders else fill
                waits.append(partial(_listed, wait))
            return arrays, waits

        return begin, self.ahead if decoders or fetchers else 0

    def _processes(self, owners: list[Arrays], running: ExitStack) -> tuple[Begin, int]:
        """What begins a batch in worker processes, which start with the first; and how many to begin ahead."""
        crew: Crew | None = None

        def begin(numbers: np.ndarray) -> tuple[Arrays, list[Wait]]:
            nonlocal crew
            if crew is None:
                owners.extend(self._new(numbers, shared) for _ in range(self.ahead + 1 + _HELD))
                fetch = self.plan.fetch if self.plan.remote else None
                slots = [_views(one) for one in owners]
                crew = running.enter_context(closing(Crew(self.workers, slots, self._fill, fetch)))
                del slots  # else all would be held
            slot = next(n for n, one in enumerate(owners) if _is_free(one))
            return _views(owners[slot]), crew.begin(slot, numbers.tolist())

        return begin, self.ahead

    def _arrays(self, owners: list[Arrays], numbers: np.ndarray) -> Arrays:
        """The arrays of a batch: those of an earlier one that nobody holds any more, or new ones.

        Fresh memory costs a quarter of what decoding costs, since the system hands it out in pages of zeros.
        """
        for one in owners:
            if _is_free(one):
                return _views(one)
        del owners[: -self.ahead - 1]
        owners.append(self._new(numbers, np.empty))
        return _views(owners[-1])

    def _new(self, numbers: np.ndarray, make: Callable[..., np.ndarray]) -> Arrays:
        if not self._like:
            self._fill(int(numbers[0]), self._like, None)
        return {name: make(in_memory(name, (self.batch, *a.shape)), a.dtype) for name, a in self._like.items()}

    def _finished(self, owners: list[Arrays], batch: Arrays, numbers: np.ndarray, waits: list[Wait]) -> Batch:
        rows: list[Row] = []
        while waits:  # each holds memory of the batch
            rows += waits.pop(0)()
        for _, damaged in rows:
            for used, why in damaged:
                self._note(used, why)
        if self.workers and not any(map(_is_free, owners)):
            batch = {name: array.copy(order="K") for name, array in batch.items()}
        return {**batch, "id": [name for name, _ in rows], "number": numbers}

    def _fill(self, number: int, arrays: Arrays, fetched: Future[list[bytes]] | None) -> Row:
        """Read window `number` into `arrays`, or one in its place."""
        used, damaged = number, []
        for attempt in range(_ATTEMPTS):
            try:
                data = fetched.result() if fetched and not attempt else self.plan.fetch(used)
                name = self.plan.fill(used, data, arrays, self.size)
                break
            except DamagedError as error:
                damaged.append((used, str(error)))
                if len(damaged) > self._most:
                    raise self._too_many(len(damaged), str(error)) from error
                used = sampling.spare(number, attempt, len(self.plan), self.plan.seed)
        else:
            raise StoreError(f"{_ATTEMPTS} windows in place of a damaged one are damaged too: {damaged[0][1]}")
        if self.change is not None:
            self.change(number, arrays)
        return name, damaged

    def _note(self, number: int, why: str) -> None:
        self.replaced[number] = why
        if len(self.replaced) > self._most:
            raise self._too_many(len(self.replaced), why)

    @property
    def _most(self) -> int:
        return max(1, round(self.most_damaged * len(self.plan)))

    def _too_many(self, count: int, why: str) -> StoreError:
        return StoreError(f"{count} windows of this epoch are damaged, and {self._most} are allowed; the last: {why}")


def _listed(wait: Callable[[], Row]) -> list[Row]:
    return [wait()]


def _is_free(owners: Arrays) -> bool:
    """Whether nobody uses arrays of a batch; who holds one, a view of it or a tensor on it holds its owner."""
    return all(sys.getrefcount(owners[name]) == _UNHELD for name in owners)


def _views(owners: Arrays) -> Arrays:
    return {name: as_used(name, owner[:]) for name, owner in owners.items()}
