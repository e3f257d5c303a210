"""Threads beside a transfer keep the order, stop when asked to, and bring errors to who waits for them."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remot_model.transferring.threads import Behind, ahead, mapped


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 4), st.integers(0, 2))
def test_what_goes_through_all_threads_comes_out_in_order(waits, threads, waiting):
    def slow(pair):
        time.sleep(pair[1] / 2000)
        return pair

    out = []
    with (
        closing(ahead(iter(enumerate(waits)))) as items,
        closing(mapped(slow, items, threads)) as made,
        Behind(lambda *pair: out.append(pair), waiting) as write,
    ):
        for pair in made:
            write(*pair)
    assert out == list(enumerate(waits))


def test_nothing_gets_further_ahead_than_an_item():
    made = []

    def items():
        for i in range(9):
            made.append(i)
            yield i

    with closing(ahead(items())) as found:
        for i in found:
            time.sleep(0.02)
            assert len(made) <= i + 2


def test_as_many_threads_work_at_once_as_are_asked_for():
    together = threading.Barrier(3, timeout=10)
    assert list(mapped(lambda i: together.wait() and i or i, range(3), 3)) == [0, 1, 2]


def test_errors_come_out_where_the_item_is_asked_for():
    def items():
        yield 1
        raise ValueError("broken")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="broken"):
        next(found)
    halves = mapped(lambda x: 1 / x, [1, 2, 0, 4], 2)
    assert [next(halves), next(halves)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(halves)


def test_closing_ends_the_threads():
    before = threading.active_count()
    endless = ahead(iter(int, 1))
    many = mapped(lambda x: x, endless, 2)
    assert next(many) == 0
    many.close()
    endless.close()
    assert threading.active_count() == before


def test_nothing_is_written_after_an_error():
    written = []

    def write(i):
        time.sleep(0.01)
        if i == 2:
            raise OSError("disk full")
        written.append(i)

    with pytest.raises(OSError, match="disk full"), Behind(write, waiting=5) as behind:
        for i in range(9):
            behind(i)
    assert written == [0, 1]


def test_after_an_error_of_another_part_what_was_asked_for_is_written():
    written = []

    def write(i):
        time.sleep(0.02)
        written.append(i)

    with pytest.raises(KeyboardInterrupt), Behind(write, waiting=2) as behind:
        for i in range(3):
            behind(i)
        raise KeyboardInterrupt
    assert written == [0, 1, 2]
