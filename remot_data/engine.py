"""The only import of dask: runs plain functions over tiny task arguments and hands back tiny results.

Tasks know nothing of the engine, and the engine nothing of the tasks. With ``workers=0`` everything runs in
this process, in order, without dask.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cached_property
from importlib.metadata import version
from typing import Any

log = logging.getLogger(__name__)

Task = dict[str, Any]
Progress = Callable[[str, int, int], None]
_SPAWN = "distributed.nanny.pre-spawn-environ"  # setting with the environment of new worker processes
_CONNECT = 10.0  # seconds to reach a scheduler
_TOGETHER = 4  # tasks that a GPU's worker takes at once
_COUNT_EVERY = 5.0  # seconds after which workers are counted again, and a silent scheduler is looked after


class EngineError(RuntimeError):
    """The cluster cannot be used, or a task failed; the message names the task."""


class Engine:
    """Runs functions over tasks; `connect` gives a dask client, called at the first task. None: in this process.

    `workers` is how many there are on this machine alone; 0 where they are elsewhere.
    """

    def __init__(self, connect: Callable[[], Any] | None = None, workers: int = 0) -> None:
        self._connect, self._workers = connect, workers
        self._waits = False

    @cached_property
    def client(self) -> Any:
        assert self._connect is not None
        return self._connect()

    def map(
        self, function: Callable[..., Any], tasks: Sequence[Task], label: str = "", need: str = "CPU"
    ) -> Iterator[Any]:
        """Results of ``function(**task)`` in the order they complete.

        No more tasks than a few a worker are with the scheduler at a time, so its memory does not grow with
        their number; a worker that dies loses the tasks it had, which others take up. Each task asks for one unit of
        the dask resource `need`, where any worker declares that resource.

        Raises:
            EngineError: for a task that raised, with its arguments (the tasks after it are given up), when the
                scheduler is gone, or when GPUs are needed and no worker declares one.
        """
        if self._connect is None:
            for task in tasks:
                try:
                    yield function(**task)
                except Exception as error:
                    raise _failed(label, task, error) from error
            return
        if tasks:
            yield from self._map_dask(function, tasks, label, self._resources(need))

    def map_many(
        self, function: Callable[[Sequence[Task]], Iterator[Any]], tasks: Sequence[Task], label: str, need: str
    ) -> Iterator[Any]:
        """As `map`, for a function that overlaps tasks: it takes several, and gives their results in order.

        In this process it takes all of them; a worker takes a few if it has the only GPU, and else one, since
        processes overlap by themselves.
        """
        if not tasks:
            return
        if self._connect is None:
            done = 0
            try:
                with closing(function(tasks)) as results:  # type: ignore[type-var]
                    for result in results:
                        done += 1
                        yield result
            except Exception as error:
                raise _failed(label, tasks[min(done, len(tasks) - 1)], error) from error
            return
        size = self._together(len(tasks), need)
        lots = [tasks[at : at + size] for at in range(0, len(tasks), size)]
        given = [{"function": function, "tasks": lot, **_short(lot[0])} for lot in lots]
        for results in self.map(_all_of, given, label, need):
            yield from results

    def _together(self, tasks: int, need: str) -> int:
        """How many tasks a worker takes at a time: few enough that all workers have some, several times."""
        if need == "CPU":
            return 1
        with self._reaching():
            workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        units = sum(worker.get("resources", {}).get(need, 0) for worker in workers)
        return max(1, min(_TOGETHER, int(tasks / max(2 * units, 1))))

    def threads(self, tasks: int, need: str = "CPU") -> int:
        """Processors for each of so many tasks: 0 for all that its process may use."""
        if self._connect is None or need != "CPU":
            return 0
        return max(1, processors() // max(1, min(self._workers, tasks))) if self._workers else 1

    def _map_dask(
        self, function: Callable[..., Any], tasks: Sequence[Task], label: str, resources: dict[str, float] | None
    ) -> Iterator[Any]:
        waiting = iter(tasks)
        running: dict[Any, Task] = {}
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def submit(count: int) -> None:
            for task in itertools.islice(waiting, max(0, count)):
                with self._reaching():
                    future = self.client.submit(function, **task, pure=False, resources=resources)
                running[future] = task
                future.add_done_callback(done.put)

        try:
            submit(self._room())
            counted = time.monotonic()
            while running:
                future, more = self._next(done), 0
                if future is not None:
                    task, more = running.pop(future), 1
                    yield self._result(future, label, task)
                if time.monotonic() - counted > _COUNT_EVERY:
                    more, counted = self._room() - len(running), time.monotonic()
                submit(more)
        finally:
            with suppress(Exception):
                self.client.cancel(list(running))

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

    def _resources(self, need: str) -> dict[str, float] | None:
        with self._reaching():
            workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        offered = {name for worker in workers for name in worker.get("resources", {})}
        if need == "GPU" and workers and need not in offered:
            raise EngineError(
                "this detector runs on a GPU and no worker declares one; start workers with --resources GPU=1, "
                "or run the detector with --setting device=cpu"
            )
        return {need: 1} if need in offered or need == "GPU" else None


def _all_of(function: Callable[[Sequence[Task]], Iterator[Any]], tasks: Sequence[Task], **shown: Any) -> list[Any]:
    """The task of `Engine.map_many`; what is `shown` is for error messages."""
    return list(function(tasks))


def _failed(label: str, task: Task, error: BaseException | None) -> EngineError:
    return EngineError(f"{label or 'task'} {_short(task)} failed: {type(error).__name__}: {error}")


def _short(task: Task) -> dict[str, Any]:
    return {k: v for k, v in task.items() if isinstance(v, (str, int, float))}


def processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def open_engine(workers: int | None = None, scheduler: str | None = None) -> Iterator[Engine]:
    """An engine on a local cluster, on an existing one, or on nothing.

    Args:
        workers: local worker processes with one thread each; as many as processors by default, 0 for none.
        scheduler: address of a running dask scheduler, ``tcp://host:port``; `workers` is then ignored.

    Raises:
        EngineError: if the scheduler cannot be reached; at the first task, if worker processes do not start.
    """
    if scheduler is None and workers == 0:
        yield Engine()
        return
    if scheduler is not None:
        with _quiet(), _connected(scheduler) as client:
            engine = Engine(lambda: client)
            engine.check_workers()
            yield engine
        return
    with ExitStack() as running:
        # Starting workers takes seconds: where nothing is left to do, they are never started.
        count = workers or processors()
        yield Engine(lambda: _started(count, running), count)


def _started(count: int, running: ExitStack) -> Any:
    """A client of a new local cluster, which `running` ends."""
    import dask
    from dask.distributed import Client

    running.enter_context(dask.config.set({f"{_SPAWN}.DASK_LOGGING__DISTRIBUTED": "critical"}))
    running.enter_context(_quiet())
    cluster = running.enter_context(_local_cluster(count))
    return running.enter_context(Client(cluster))


def _local_cluster(count: int) -> Any:
    from dask.distributed import LocalCluster

    options = {"processes": True, "dashboard_address": "127.0.0.1:0", "memory_limit": 0}
    with _no_interrupt(), _own_environment():
        try:
            return LocalCluster(n_workers=count, threads_per_worker=1, **options)
        except (OSError, RuntimeError, asyncio.TimeoutError) as error:
            raise EngineError(
                f"the worker processes do not start ({error}); run the same command again, or, in a script of your "
                'own, call this under `if __name__ == "__main__":`, because every worker imports the script'
            ) from error


def _connected(scheduler: str) -> Any:
    """A client of a scheduler. What takes connections and says nothing could keep dask waiting for ever."""
    from dask.distributed import Client

    answer: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def connect() -> None:
        try:
            answer.put(Client(scheduler, timeout=f"{_CONNECT}s"))
        except Exception as error:
            answer.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        client = answer.get(timeout=2 * _CONNECT)
    except queue.Empty:
        client = TimeoutError("it takes connections, but is no scheduler")
    if isinstance(client, Exception):
        raise EngineError(f"no dask scheduler answers at {scheduler} ({client})") from client
    return client


@contextmanager
def _quiet() -> Iterator[None]:
    """What goes wrong, and Ctrl-C, is told in one sentence, not by the logs of dask with their tracebacks."""
    import dask.distributed  # noqa: F401 - sets levels of its own, once

    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client", "tornado.application")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def _own_environment() -> Iterator[None]:
    """Keep this process's environment: starting workers sets theirs in ours, which would leave torch one thread."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Threads and processes started here do not see Ctrl-C: a terminal sends it to all, and the driver ends the work.

    One that comes meanwhile reaches the driver afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # it would let Ctrl-C through when the first process starts it
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
