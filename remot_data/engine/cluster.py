"""The processes that tasks run in: those started on this machine, and those of a dask scheduler that is there.

With `remot_data.engine`, the only import of dask.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

from remot_data.errors import RemotError

log = logging.getLogger(__name__)

_SPAWN = "distributed.nanny.pre-spawn-environ"  # setting with the environment of new worker processes
_CONNECT = 10.0  # seconds to reach a scheduler
_FEEDING = 4  # CPUs that read, decode, encode and write for one GPU


class EngineError(RemotError, RuntimeError):
    """The cluster cannot be used, or a task failed; the message names the task."""


def cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OtherWorkers:
    """The workers of a scheduler that somebody else started."""

    wanted = 0

    def __init__(self, client: Any) -> None:
        self.client = client

    @property
    def gpus(self) -> int:
        """How many GPUs workers declare."""
        return int(sum(worker.get("resources", {}).get("GPU", 0) for worker in self._infos()))

    def offered(self) -> set[str]:
        """The resources that workers declare."""
        return {name for worker in self._infos() for name in worker.get("resources", {})}

    def ready(self, needs: Iterable[str]) -> dict[str, dict[str, float] | None]:
        """What to ask dask for, for tasks of each need."""
        offered = self.offered()
        if "GPU" in needs and "GPU" not in offered and self._infos():
            raise EngineError(
                "this detector runs on a GPU and no worker declares one; start a worker for each GPU, such as "
                f"`CUDA_VISIBLE_DEVICES=0 dask worker {self.client.scheduler.address} --nthreads 1 --memory-limit 0 "
                "--resources GPU=1`, or run the detector with --setting device=cpu"
            )
        return {need: {need: 1} if need in offered or need == "GPU" else None for need in needs}

    def _infos(self) -> list[dict[str, Any]]:
        return list(self.client.scheduler_info(n_workers=-1)["workers"].values())


class LocalWorkers:
    """Worker processes on this machine, some for its CPUs and one for each GPU.

    Starting them takes seconds: where nothing is left to do that needs one, it is never started.
    """

    def __init__(self, count: int | None, gpus: Callable[[], Sequence[str]], running: ExitStack) -> None:
        self._count, self._gpus, self._running = count, gpus, running
        self._started: dict[str, list[str]] = {}

    @cached_property
    def client(self) -> Any:
        from dask.distributed import Client

        client = self._running.enter_context(Client(self._cluster))
        say_dashboard(client)
        return client

    @cached_property
    def _cluster(self) -> Any:
        import dask
        from dask.distributed import LocalCluster

        self._running.enter_context(dask.config.set({f"{_SPAWN}.DASK_LOGGING__DISTRIBUTED": "critical"}))
        self._running.enter_context(quiet())
        options = {"processes": True, "dashboard_address": "127.0.0.1:0", "memory_limit": 0}
        with _starting():
            cluster = LocalCluster(n_workers=0, threads_per_worker=1, **options)
        return self._running.enter_context(cluster)

    def ready(self, needs: Iterable[str]) -> dict[str, dict[str, float] | None]:
        """Start the workers that are not there yet, and say what to ask dask for, for tasks of each need."""
        if "GPU" in needs and "GPU" not in self._started:
            self._start_gpus()
        if "CPU" in needs and "CPU" not in self._started:
            self._start("CPU", [{}] * self.wanted)
        # Where there are no others, tasks go to any worker, as they always did.
        return {need: {need: 1} if "GPU" in self._started else None for need in needs}

    def _start_gpus(self) -> None:
        gpus = self._gpus()
        if not gpus:
            raise EngineError(
                "this detector runs on a GPU and this machine shows none; run it with --setting device=cpu, or with "
                "--scheduler on machines that have them"
            )
        self._start("GPU", [{"env": {"CUDA_VISIBLE_DEVICES": gpu}} for gpu in gpus])
        if spare := self._started.get("CPU", [])[self.wanted :]:
            self._cluster.sync(self._cluster.scale_down, spare)

    @property
    def gpus(self) -> int:
        """How many GPUs have a worker."""
        return len(self._started.get("GPU", []))

    @property
    def wanted(self) -> int:
        """How many workers for tasks without a GPU."""
        return self._count or max(1, cpus() - _FEEDING * self.gpus)

    def _start(self, need: str, options: Sequence[Mapping[str, Any]]) -> None:
        cluster, names = self._cluster, [f"{need}-{number}" for number in range(len(options))]
        common = cluster.new_spec["options"]
        for name, own in zip(names, options, strict=True):
            told = {**common, "resources": {need: 1}, **own}
            cluster.worker_spec[name] = {"cls": cluster.new_spec["cls"], "options": told}
        with _starting():
            cluster.sync(_settled, cluster)
        self._started[need] = names


async def _settled(cluster: Any) -> None:
    """Wait until a cluster has the workers it is to have."""
    await cluster


@contextmanager
def _starting() -> Iterator[None]:
    with _no_interrupt(), _own_environment():
        try:
            yield
        except (OSError, RuntimeError, asyncio.TimeoutError) as error:
            raise EngineError(
                what="the worker processes do not start",
                why=str(error),
                what_next="run the same command again, or, in a script of your own, call this under "
                '`if __name__ == "__main__":`, because every worker imports the script',
            ) from error


def connected(scheduler: str) -> Any:
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


def say_dashboard(client: Any) -> None:
    """Name the page on which dask shows its tasks, where the scheduler has one.

    Without bokeh a scheduler serves a page all the same, one that asks for bokeh: nothing to send anybody to.
    """
    if "dashboard" not in client.scheduler_info(n_workers=0).get("services", {}):
        return
    try:
        client.run_on_scheduler(importlib.metadata.version, "bokeh")
    except importlib.metadata.PackageNotFoundError:
        return
    log.warning("dask's dashboard: %s", client.dashboard_link)


@contextmanager
def quiet() -> Iterator[None]:
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
