from __future__ import annotations

import os

import pytest

from remot_data.engine import Engine, EngineError, open_engine, processors


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
    class Client:
        def scheduler_info(self, n_workers):
            return {"workers": {name: {"resources": {"GPU": 1}} for name in "ab"} | {"c": {}}}

    engine = Engine(Client)
    assert [engine._together(count, "GPU") for count in (1, 4, 8, 15, 16, 1000)] == [1, 1, 2, 3, 4, 4]
    assert engine._together(1000, "CPU") == 1


def test_processors_are_shared_among_the_tasks_of_one_machine():
    assert Engine().threads(8) == Engine(object, workers=2).threads(8, "GPU") == 0
    assert Engine(object).threads(8) == 1  # on a cluster nobody knows who else is there
    assert Engine(object, workers=4).threads(1) == processors()
    assert Engine(object, workers=2 * processors()).threads(9999) == 1


@pytest.mark.slow
def test_a_scheduler_that_is_not_there_is_an_error():
    with pytest.raises(EngineError, match="no dask scheduler answers"), open_engine(scheduler="tcp://127.0.0.1:1"):
        pass


@pytest.mark.slow
def test_local_workers_do_every_task_once_in_other_processes():
    environment = dict(os.environ)
    with open_engine(2) as engine:
        assert sorted(engine.map(double, [{"number": n} for n in range(12)])) == [2 * n for n in range(12)]
        assert sorted(engine.map_many(doubles, [{"number": n} for n in range(5)], "", "CPU")) == [0, 2, 4, 6, 8]
        with pytest.raises(EngineError, match=r"pairs \{'number': 13\} failed.*unlucky"):
            list(engine.map_many(doubles, [{"number": 13}], "pairs", "CPU"))
        processes = set(engine.map(process, [{"number": n} for n in range(12)]))
        with pytest.raises(EngineError, match="unlucky"):
            list(engine.map(double, [{"number": n} for n in range(10, 20)]))
    assert dict(os.environ) == environment
    assert os.getpid() not in processes and 1 <= len(processes) <= 2
