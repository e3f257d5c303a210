"""Batches of windows: threads decode straight into the arrays of a batch, ahead of who takes it.

Threads, because decoding leaves Python's lock to others, and a batch that never leaves the process costs nothing to
hand over. The order is that of `sampling.batches`: a function of the seed, whatever the number of threads, workers and
ranks.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from remot_data import sampling
from remot_data.store import DamagedError, StoreError
from remot_data.stream import Arrays, Plan, as_used, in_memory

log = logging.getLogger(__name__)

_MOST_THREADS = 8
_IN_FLIGHT = 8  # windows that are asked for at the same time on a remote store
_UNHELD = 2  # references to an array in a dict, while they are counted
_ATTEMPTS = 20  # windows tried in place of a damaged one

Batch = dict[str, Any]


class Loader:
    """The batches of one rank; iterating gives those that are left of the epoch, iterating again those of the next.

    A batch is a dict: the arrays of `remot_data.stream.Window` with a first axis for the windows, ``id`` (a list of
    their ids) and ``number`` (int64 [N], the number of each in the order, counted over all epochs).

    What is done is one integer, `seen`: windows of the order that all ranks together have taken, counted over all
    epochs. `state_dict` holds it, and any number of ranks and workers and any batch size may go on from it.

    A damaged window is replaced by another of the epoch, a function of its number: so every rank still gets equal
    batches. It is kept in `replaced`, and reported at the end of the epoch.

    Args:
        batch: windows in a batch.
        size: height and width to resize to at load; needed where stores of several sizes are mixed.
        rank, world_size: which share of each round of world_size * batch windows is taken here.
        threads: that decode; 0 decodes in the caller's thread when a batch is asked for. By default one a processor, at
            most 8, and in the worker processes of a `torch` DataLoader 0.
        ahead: batches that are made before they are asked for.
        last: what becomes of the end of an epoch that is no whole round: ``drop``, ``pad`` or ``through`` (batches run
            on into the next epoch, and iterating never ends); see `sampling.batches`.
        change: called with the number of each window and its arrays, to change them in place; augmentation.
        most_damaged: share of the windows of an epoch that may be damaged (one always may).

    Raises:
        ValueError: for arguments that make no sense, at once.
        StoreError: while iterating, if more windows are damaged than allowed; names key and shard.
        remot_data.files.FilesError: while iterating, if a remote store is away for more than a minute.
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
        ahead: int = 2,
        last: str = "drop",
        change: Callable[[int, Arrays], None] | None = None,
        most_damaged: float = 0.01,
    ) -> None:
        if ahead < 1 or (threads or 0) < 0:
            raise ValueError(f"{threads} threads and {ahead} batches ahead: need at least 0 and 1")
        next(sampling.batches(len(plan), batch, rank=rank, world_size=world_size, last=last), None)
        self.plan, self.batch, self.size, self.last = plan, batch, size, last
        self.rank, self.world_size, self.threads, self.ahead = rank, world_size, threads, ahead
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
        """What `load_state_dict` needs to go on behind the batch that was taken last."""
        return {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.seen = int(state["seen"])

    def __iter__(self) -> Iterator[Batch]:
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
        self.replaced = {}
        pending: deque[tuple[int, Batch, list[Callable[[], None]]]] = deque()
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
        decoders, fetchers = self._pools(workers)
        ahead = self.ahead if decoders or fetchers else 0
        try:
            while True:
                while len(pending) <= ahead and (part := next(parts, None)) is not None:
                    pending.append((part[0], *self._begun(part[1], decoders, fetchers)))
                if not pending:
                    break
                after, batch, rows = pending.popleft()
                while rows:
                    rows.pop(0)()
                yield after, batch
                del batch
        finally:
            for pool in (decoders, fetchers):
                if pool is not None:
                    # What waits for a server is left alone: it ends by itself, within the patience of `Files`.
                    pool.shutdown(wait=not self.plan.remote, cancel_futures=True)
        if self.replaced:
            some = "; ".join(list(self.replaced.values())[:3])
            log.warning("%d windows of this epoch were damaged and replaced by others: %s", len(self.replaced), some)

    def _pools(self, workers: int) -> tuple[ThreadPoolExecutor | None, ThreadPoolExecutor | None]:
        count = self.threads
        if count is None:
            count = 0 if workers > 1 else min(_MOST_THREADS, len(os.sched_getaffinity(0)))
        decoders = ThreadPoolExecutor(count, "remot-decode") if count else None
        return decoders, ThreadPoolExecutor(_IN_FLIGHT, "remot-fetch") if self.plan.remote else None

    def _begun(
        self, numbers: np.ndarray, decoders: ThreadPoolExecutor | None, fetchers: ThreadPoolExecutor | None
    ) -> tuple[Batch, list[Callable[[], None]]]:
        """A batch whose rows are being filled, and what to call to have each of them."""
        if not self._like:
            self._fill(int(numbers[0]), self._like, [""], 0, None)
        arrays = self._arrays()
        ids, rows = [""] * len(numbers), []
        for row, number in enumerate(numbers.tolist()):
            fetched = fetchers.submit(self.plan.fetch, number) if fetchers else None
            views = {name: array[row] for name, array in arrays.items()}
            task = partial(self._fill, number, views, ids, row, fetched)
            rows.append(decoders.submit(task).result if decoders else task)
        return {**arrays, "id": ids, "number": numbers}, rows

    def _arrays(self) -> Arrays:
        """The arrays of a batch: those of an earlier one that nobody holds any more, or new ones.

        Fresh memory costs a quarter of what decoding costs, since the system hands it out in pages of zeros. Who
        holds an array, a view of it or a tensor on it holds its owner, and an owner that is held is not taken.
        """
        for owners in self._owners:
            if all(sys.getrefcount(owners[name]) == _UNHELD for name in owners):
                break
        else:
            owners = {
                name: np.empty(in_memory(name, (self.batch, *a.shape)), a.dtype) for name, a in self._like.items()
            }
            self._owners = [*self._owners, owners][-self.ahead - 2 :]
        return {name: as_used(name, owner[:]) for name, owner in owners.items()}

    def _fill(self, number: int, arrays: Arrays, ids: list[str], row: int, fetched: Future[list[bytes]] | None) -> None:
        """Read window `number` into `arrays`, or one in its place."""
        used = number
        for attempt in range(_ATTEMPTS):
            try:
                data = fetched.result() if fetched and not attempt else self.plan.fetch(used)
                ids[row] = self.plan.fill(used, data, arrays, self.size)
                break
            except DamagedError as error:
                self._note(used, error)
                used = sampling.spare(number, attempt, len(self.plan), self.plan.seed)
        else:
            raise StoreError(f"{_ATTEMPTS} windows in place of a damaged one are damaged too: {self.replaced[number]}")
        if self.change is not None:
            self.change(number, arrays)

    def _note(self, number: int, error: DamagedError) -> None:
        self.replaced[number] = str(error)
        most = max(1, round(self.most_damaged * len(self.plan)))
        if len(self.replaced) > most:
            raise StoreError(
                f"{len(self.replaced)} windows of this epoch are damaged, and {most} are allowed; the last: {error}"
            ) from error
