from __future__ import annotations

import threading
import time

import pytest

from remot_data.annotating.lanes import Lanes


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("test-")]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_is_given_is_done_and_errors_that_are_expected_stay_with_it(count):
    with Lanes(expected=(ZeroDivisionError,)) as lanes:
        lane = lanes.lane(count, "test")
        numbers = [lane.submit(divmod, 7, n) for n in range(4)]
        total = lane.after(numbers, lambda: sum(n.result()[0] for n in numbers[1:]))
        assert lanes.result(total) == 7 + 3 + 2
        with pytest.raises(ZeroDivisionError):
            lanes.result(numbers[0])
    assert ours() == []


def test_one_thread_keeps_the_order_and_the_smallest_turn_comes_first():
    done = []
    with Lanes() as lanes:
        lane = lanes.lane(1, "test")
        begin = threading.Event()
        lane.submit(begin.wait)
        futures = [lane.submit(done.append, (turn, n), turn=turn) for n, turn in enumerate((2, 1, 2, 1))]
        begin.set()
        for future in futures:
            lanes.result(future)
    assert done == [(1, 1), (1, 3), (2, 0), (2, 2)]


def test_an_unexpected_error_reaches_who_waits_for_something_else():
    with pytest.raises(OSError, match="full"), Lanes() as lanes:
        slow, quick = lanes.lane(1, "native"), lanes.lane(1, "test")
        waited = slow.submit(time.sleep, 30)

        def fail() -> None:
            raise OSError("the disk is full")

        quick.submit(fail)
        started = time.monotonic()
        try:
            lanes.result(waited)
        finally:
            assert time.monotonic() - started < 10
            slow.threads[0].join = lambda timeout=None: None  # a native call of 30 s: not waited for here
    assert ours() == []


def test_threads_that_are_at_work_wait_or_have_not_begun_all_end():
    begun = threading.Event()

    def work() -> None:
        begun.set()
        while True:
            time.sleep(0.001)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Lanes() as lanes:
        first, second = lanes.lane(1, "test"), lanes.lane(2, "test")
        endless = first.submit(work)
        second.submit(endless.result)
        never = lanes.promise()
        second.submit(never.result)
        last = first.submit(work)
        begun.wait()
        raise KeyboardInterrupt
    assert time.monotonic() - started < 5
    assert ours() == [] and last.cancelled() and never.cancelled()
