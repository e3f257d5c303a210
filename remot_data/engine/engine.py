"""Runs plain functions over tiny task arguments and hands back tiny results.

Tasks know nothing of the engine, and the engine nothing of the tasks. With ``workers=0`` everything runs in
this process, in order, without dask.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any, Protocol

from remot_data.engine.cluster import EngineError, LocalWorkers, OtherWorkers, connected, cpus, quiet, say_dashboard
from remot_data.errors import RemotError

log = logging.getLogger(__name__)

Task = dict[str, Any]
Many = Callable[[Sequence[Task]], Generator[Any]]
Progress = Callable[[str, int, int], None]


class Log(Protocol):
    """Where lines are added that must not be lost, as `remot_data.store.Store.log` gives it."""

    def add(self, line: dict[str, Any]) -> None: ...


_COUNT_EVERY = 5.0  # seconds after which workers are counted again, and a silent scheduler is looked after
_TOGETHER = 4  # tasks that a GPU's worker takes at once
_ATTEMPTS = 3  # at a task that spoils its worker


class Spoilt(RemotError, RuntimeError):
    """What a task raises whose process is of no more use, as one that has lost its GPU.

    Its worker is then started again, and the task tried again.
    """

    worker = ""


@dataclass(frozen=True)
class _Attempt:
    tasks: list[Task]
    need: str
    number: int = 1


class Engine:
    """Runs functions over tasks, on the workers it is given; None: in this process."""

    def __init__(self, workers: LocalWorkers | OtherWorkers | None = None) -> None:
        self._workers = workers
        self._waits = False
        self._renewed: set[str] = set()

    @property
    def here(self) -> bool:
        """Whether tasks run in this process."""
        return self._workers is None

    @property
    def client(self) -> Any:
        assert self._workers is not None
        return self._workers.client

    def offers(self, need: str) -> bool:
        """Whether a worker of a scheduler declares the dask resource `need`."""
        return isinstance(self._workers, OtherWorkers) and need in self._workers.offered()

    def map(
        self,
        function: Callable[..., Any],
        tasks: Sequence[Task],
        label: str = "",
        need: str = "CPU",
        log: Log | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Any]:
        """Results of ``function(**task)`` in the order they complete; see `run`.

        Args:
            log: takes each result, a record or plain values, before anything else is done with it.
            progress: called with the label, the tasks done and their number.
        """
        for done, result in enumerate(self.run(partial(_one_by_one, function), {need: deque(tasks)}, label), 1):
            if log:
                log.add(result if isinstance(result, dict) else result.to_json())
            if progress:
                progress(label, done, len(tasks))
            yield result

    def run(self, function: Many, work: Mapping[str, deque[Task]], label: str = "") -> Generator[Any]:
        """Results of a function that takes some tasks and gives a result for each, in their order.

        It is given those that it may overlap: in this process all that can begin, on a worker with a GPU a few, on
        others one, since processes overlap by themselves. Results come as they complete, until no task is left.

        No more tasks than a few a worker are with the scheduler at a time, so its memory does not grow with
        their number; tasks of a worker that dies are retried by others.

        Args:
            work: ``CPU`` or ``GPU`` -> tasks that ask for one unit of that dask resource, where any worker declares
                it. Tasks of both kinds run side by side; those that the caller adds while it takes results are done
                as well.

        Raises:
            EngineError: for a task that raised, with its arguments (the tasks after it are given up), when the
                scheduler is gone, or when GPUs are needed and there is none.
        """
        if self._workers is not None:
            if any(work.values()):
                yield from self._run_dask(function, work, label)
            return
        while waiting := next((tasks for tasks in work.values() if tasks), None):
            taken, done = _taken(waiting, len(waiting)), 0
            try:
                with closing(function(taken)) as results:
                    for result in results:
                        done += 1
                        yield result
            except Exception as error:
                raise _failed(label, taken[min(done, len(taken) - 1)], error) from error

    def threads(self, tasks: int, need: str = "CPU") -> int:
        """CPUs for each of so many tasks: 0 for all that its process may use."""
        if self._workers is None or need != "CPU":
            return 0
        return max(1, cpus() // max(1, min(self._workers.wanted, tasks))) if self._workers.wanted else 1

    def _run_dask(self, function: Many, work: Mapping[str, deque[Task]], label: str) -> Iterator[Any]:
        assert self._workers is not None
        with self._reaching():
            resources = self._workers.ready(work)
            gpus = self._workers.gpus if "GPU" in work else 0
        running: dict[Any, _Attempt] = {}
        flying: Counter[str] = Counter()
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def submit(attempt: _Attempt) -> None:
            options = {"resources": resources[attempt.need], "priority": attempt.number, "pure": False}
            with self._reaching():
                name = f"{label or 'task'}-{uuid.uuid4().hex}"
                future = self.client.submit(_attempted, function, attempt.tasks, key=name, **options)
            running[future] = attempt
            flying[attempt.need] += 1
            future.add_done_callback(done.put)

        def fill(room: int) -> None:
            for need, tasks in work.items():
                while tasks and flying[need] < room:
                    submit(_Attempt(_taken(tasks, _together(len(tasks), need, gpus)), need))

        try:
            room, counted = self._room(), time.monotonic()
            fill(room)
            while running:
                if (future := self._next(done)) is not None:
                    attempt = running.pop(future)
                    flying[attempt.need] -= 1
                    try:
                        results = self._result(future, label, attempt.tasks[0])
                    except Spoilt as error:
                        submit(self._again(attempt, label, error))
                        continue
                    yield from results
                if time.monotonic() - counted > _COUNT_EVERY:
                    room, counted = self._room(), time.monotonic()
                fill(room)
        finally:
            with suppress(Exception):
                self.client.cancel(list(running))

    def _again(self, attempt: _Attempt, label: str, error: Spoilt) -> _Attempt:
        """The next attempt at a task that spoilt its worker, which is started again."""
        if attempt.number == _ATTEMPTS:
            raise EngineError(
                f"{label or 'task'} {_short(attempt.tasks[0])} was given up after {_ATTEMPTS} attempts, each by a "
                f"fresh worker: {error}"
            ) from error
        log.warning("%s; its worker is started again and the task is tried again", error)
        if error.worker not in self._renewed:
            self._renewed.add(error.worker)
            with self._reaching():
                self.client.run(_renew, workers=[error.worker], on_error="ignore")
        return replace(attempt, number=attempt.number + 1)

    def _next(self, done: queue.SimpleQueue[Any]) -> Any:
        """The next task that is done; None after a while without one, if the scheduler is still there."""
        try:
            return done.get(timeout=_COUNT_EVERY)
        except queue.Empty:
            if self.client.status != "running":
                raise self._gone() from None
            return None

    def _result(self, future: Any, label: str, task: Task) -> Any:
        from dask.distributed import KilledWorker

        try:
            if future.status == "cancelled":
                raise CancelledError
            # Where the worker has died with the result, this waits until another has made it again.
            return future.result()
        except Spoilt:
            raise
        except KilledWorker as error:
            raise EngineError(
                f"{label or 'task'} {_short(task)} was given up: every worker that took it up died "
                f"(the last was {error.last_worker.address}); out of memory, or native code that crashes"
            ) from error
        except CancelledError as error:
            raise self._gone() from error
        except Exception as error:
            if self.client.status != "running":
                raise self._gone() from error
            raise _failed(label, task, error) from error

    def check_workers(self) -> None:
        """Refuse workers without this package: a task would end them, and the next, until none is left.

        Raises:
            EngineError: for a worker that cannot import it, or has another version.
        """
        own = version("remot")

        # A function within a function travels as code, so that a worker needs nothing to know it.
        def installed() -> str:
            import importlib.metadata

            import remot_data  # noqa: F401 - whether it can be imported

            return importlib.metadata.version("remot")

        with self._reaching():
            answers = self.client.run(installed, on_error="return")
        for worker, found in answers.items():
            cure = "install the same version of remot on every machine"
            if isinstance(found, ImportError):
                raise EngineError(f"the worker {worker} cannot import remot_data ({found}): {cure}")
            if isinstance(found, str) and found != own:
                raise EngineError(f"the worker {worker} has remot {found}, this machine {own}: {cure}")

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Say so when the scheduler cannot be reached."""
        try:
            yield
        except EngineError:
            raise
        except Exception as error:
            if isinstance(error, (OSError, asyncio.TimeoutError)) or self.client.status != "running":
                raise self._gone() from error
            raise

    def _gone(self) -> EngineError:
        return EngineError(
            f"the scheduler{self._where} is gone; start one and run the same command again, what is finished is kept"
        )

    @property
    def _where(self) -> str:
        return f" {self.client.scheduler.address}" if self.client.scheduler else ""

    def _room(self) -> int:
        """How many tasks to have with the scheduler: a few a thread, and some while there are no workers yet."""
        with self._reaching():
            threads = sum(self.client.nthreads().values())
        if not threads and not self._waits and self.client.cluster is None:
            self._waits = True
            hint = "a worker that cannot import remot_data ends when it gets a task, and its log says so"
            log.warning("the scheduler%s has no worker now; waiting for one (%s)", self._where, hint)
        return max(8, 3 * threads)


def _one_by_one(function: Callable[..., Any], tasks: Sequence[Task]) -> Generator[Any]:
    for task in tasks:
        yield function(**task)


def _together(tasks: int, need: str, gpus: int) -> int:
    """How many tasks a worker takes at a time: few enough that all GPUs have some, several times."""
    return max(1, min(_TOGETHER, tasks // (2 * gpus))) if need == "GPU" and gpus else 1


def _taken(waiting: deque[Task], count: int) -> list[Task]:
    """The first of the tasks that wait."""
    return [waiting.popleft() for _ in range(min(count, len(waiting)))]


def _attempted(function: Many, tasks: Sequence[Task]) -> list[Any]:
    """What a worker runs: some tasks, where an error that spoils the process says in which worker that is."""
    try:
        return list(function(tasks))
    except Spoilt as error:
        from dask.distributed import get_worker

        error.worker = get_worker().address
        raise


def _renew(dask_worker: Any) -> None:
    """End a worker, whose tasks others retry; its nanny starts it again."""
    dask_worker.loop.add_callback(dask_worker.close_gracefully, restart=True, reason="its process is spoilt")


def _failed(label: str, task: Task, error: BaseException | None) -> EngineError:
    if isinstance(error, Spoilt):
        return EngineError(f"{label or 'task'} {_short(task)} was given up: {error}; run the same command again")
    return EngineError(f"{label or 'task'} {_short(task)} failed: {type(error).__name__}: {error}")


def _short(task: Task) -> dict[str, Any]:
    return {k: v for k, v in task.items() if isinstance(v, (str, int, float))}


@contextmanager
def open_engine(
    workers: int | None = None, scheduler: str | None = None, gpus: Callable[[], Sequence[str]] = tuple
) -> Iterator[Engine]:
    """An engine on a local cluster, on an existing one, or on nothing.

    Args:
        workers: local worker processes with one thread each for tasks that need no GPU; as many as CPUs by
            default, less those that feed GPUs. 0: no processes, everything runs in this one.
        scheduler: address of a running dask scheduler, ``tcp://host:port``; `workers` and `gpus` are then ignored.
        gpus: gives the GPUs of this machine, each as ``CUDA_VISIBLE_DEVICES`` names it, when a task first needs one;
            each then has one more worker process, which sees no other.

    Raises:
        EngineError: if the scheduler cannot be reached; at the first task, if worker processes do not start.
    """
    if scheduler is None and workers == 0:
        yield Engine()
        return
    if scheduler is not None:
        with quiet(), connected(scheduler) as client:
            engine = Engine(OtherWorkers(client))
            engine.check_workers()
            say_dashboard(client)
            yield engine
        return
    with ExitStack() as running:
        yield Engine(LocalWorkers(workers, gpus, running))
