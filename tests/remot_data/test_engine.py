from __future__ import annotations

import os
from collections import deque

import pytest

from remot_data.engine import EngineError, open_engine


def double(number: int) -> int:
    if number == 13:
        raise ValueError("unlucky")
    return 2 * number


def process(number: int) -> int:
    return os.getpid()


def test_without_workers_it_runs_here_and_in_order():
    with open_engine(0) as engine:
        assert list(engine.map(double, [{"number": n} for n in (3, 1, 2)])) == [6, 2, 4]
        assert set(engine.map(process, [{"number": 1}])) == {os.getpid()}


def test_a_failed_task_is_named():
    with open_engine(0) as engine, pytest.raises(EngineError, match=r"frames \{'number': 13\}.*unlucky"):
        list(engine.map(double, [{"number": 13}], "frames"))


@pytest.mark.slow
def test_a_scheduler_that_is_not_there_is_an_error():
    with pytest.raises(EngineError, match="no dask scheduler answers"), open_engine(scheduler="tcp://127.0.0.1:1"):
        pass


@pytest.mark.slow
def test_local_workers_do_every_task_once_in_other_processes():
    environment = dict(os.environ)
    with open_engine(2) as engine:
        assert sorted(engine.map(double, [{"number": n} for n in range(12)])) == [2 * n for n in range(12)]
        processes = set(engine.map(process, [{"number": n} for n in range(12)]))
        with pytest.raises(EngineError, match="unlucky"):
            list(engine.map(double, [{"number": n} for n in range(10, 20)]))
    assert dict(os.environ) == environment
    assert os.getpid() not in processes and 1 <= len(processes) <= 2


def doubled(tasks):
    for task in tasks:
        yield double(**task)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_tasks_that_are_added_while_results_come_are_done_as_well(workers):
    work, found = {"CPU": deque({"number": n} for n in range(5))}, []
    with open_engine(workers) as engine:
        for result in engine.run(doubled, work):
            found.append(result)
            if result < 20:
                work["CPU"].append({"number": result + 10})
    assert sorted(found) == sorted([0, 2, 4, 6, 8, *(2 * (10 + 2 * n) for n in range(5))])
