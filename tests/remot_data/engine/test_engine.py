from __future__ import annotations

import os
from collections import deque
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import pytest

from remot_data.engine import Engine, EngineError, open_engine
from remot_data.engine.cluster import LocalWorkers, OtherWorkers, cpus, say_dashboard
from remot_data.engine.engine import _together


def double(number: int) -> int:
    if number == 13:
        raise ValueError("unlucky")
    return 2 * number


def doubles(tasks):
    for task in tasks:
        yield double(**task)


def process(number: int) -> int:
    return os.getpid()


def test_without_workers_it_runs_here_and_in_order():
    with open_engine(0) as engine:
        assert list(engine.map(double, [{"number": n} for n in (3, 1, 2)])) == [6, 2, 4]
        assert set(engine.map(process, [{"number": 1}])) == {os.getpid()}


def test_a_failed_task_is_named():
    with open_engine(0) as engine, pytest.raises(EngineError, match=r"frames \{'number': 13\}.*unlucky"):
        list(engine.map(double, [{"number": 13}], "frames"))


def test_a_worker_with_a_gpu_is_handed_a_few_tasks_at_a_time():
    assert [_together(count, "GPU", 2) for count in (1, 4, 8, 15, 16, 1000)] == [1, 1, 2, 3, 4, 4]
    assert _together(1000, "CPU", 2) == _together(1000, "GPU", 0) == 1


def test_processors_are_shared_among_the_tasks_of_one_machine():
    def local(count: int | None) -> Engine:
        return Engine(LocalWorkers(count, tuple, ExitStack()))

    assert Engine().threads(8) == local(2).threads(8, "GPU") == 0
    assert Engine(OtherWorkers(None)).threads(8) == 1  # on a cluster nobody knows who else is there
    assert local(4).threads(1) == cpus()
    assert local(2 * cpus()).threads(9999) == local(None).threads(9999) == 1


@pytest.mark.slow
def test_a_scheduler_that_is_not_there_is_an_error():
    with pytest.raises(EngineError, match="no dask scheduler answers"), open_engine(scheduler="tcp://127.0.0.1:1"):
        pass


@pytest.mark.slow
def test_local_workers_do_every_task_once_in_other_processes():
    environment = dict(os.environ)
    with open_engine(2) as engine:
        assert sorted(engine.map(double, [{"number": n} for n in range(12)])) == [2 * n for n in range(12)]
        assert sorted(engine.run(doubles, {"CPU": deque({"number": n} for n in range(5))})) == [0, 2, 4, 6, 8]
        with pytest.raises(EngineError, match=r"pairs \{'number': 13\} failed.*unlucky"):
            list(engine.run(doubles, {"CPU": deque([{"number": 13}])}, "pairs"))
        processes = set(engine.map(process, [{"number": n} for n in range(12)]))
        with pytest.raises(EngineError, match="unlucky"):
            list(engine.map(double, [{"number": n} for n in range(10, 20)]))
    assert dict(os.environ) == environment
    assert os.getpid() not in processes and 1 <= len(processes) <= 2


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_tasks_that_are_added_while_results_come_are_done_as_well(workers):
    work, found = {"CPU": deque({"number": n} for n in range(5))}, []
    with open_engine(workers) as engine:
        for result in engine.run(doubles, work):
            found.append(result)
            if result < 20:
                work["CPU"].append({"number": result + 10})
    assert sorted(found) == sorted([0, 2, 4, 6, 8, *(2 * (10 + 2 * n) for n in range(5))])


class _Client:
    dashboard_link = "http://127.0.0.1:8787/status"

    def __init__(self, services: dict[str, int], packages: dict[str, str]) -> None:
        self._services, self._packages = services, packages

    def scheduler_info(self, n_workers: int) -> dict[str, object]:
        return {"services": self._services}

    def run_on_scheduler(self, function: object, name: str) -> str:
        assert function is version
        if name not in self._packages:
            raise PackageNotFoundError(name)
        return self._packages[name]


def test_the_dashboard_is_named_where_there_is_one(caplog):
    say_dashboard(_Client({}, {"bokeh": "3.8"}))
    say_dashboard(_Client({"dashboard": 8787}, {}))
    assert not caplog.messages
    say_dashboard(_Client({"dashboard": 8787}, {"bokeh": "3.8"}))
    assert caplog.messages == ["dask's dashboard: http://127.0.0.1:8787/status"]


@pytest.mark.slow
def test_workers_on_this_machine_name_a_dashboard_only_where_bokeh_draws_it(caplog):
    with open_engine(1) as engine:
        assert list(engine.map(double, [{"number": 1}])) == [2]
    assert len(caplog.messages) == (find_spec("bokeh") is not None)
