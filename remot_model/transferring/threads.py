"""The parts of a transfer in parallel: what is read and seen ahead, and what is written behind.

Everything keeps its order, and nothing gets further ahead than a piece or two, so that memory stays flat.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

A = TypeVar("A")
B = TypeVar("B")
_END = object()


def ahead(items: Iterator[A]) -> Generator[A, None, None]:
    """The items, each made by a thread while the one before is worked on. Closing it waits for the thread."""
    pool = ThreadPoolExecutor(1, "remot-ahead")
    try:
        coming: Future[Any] = pool.submit(next, items, _END)
        while (item := coming.result()) is not _END:
            coming = pool.submit(next, items, _END)
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


def mapped(function: Callable[[A], B], items: Iterable[A], threads: int) -> Generator[B, None, None]:
    """`function` of each item, in their order, by so many threads at once. Closing it waits for what they are at."""
    pool, coming = ThreadPoolExecutor(threads, "remot-mapped"), deque[Future[B]]()
    try:
        for item in items:
            coming.append(pool.submit(function, item))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Behind:
    """Calls of a function that a thread makes one after the other; a context manager that waits for them at its end.

    An error is raised by the next call or at the end, and nothing is called after it. Where the context ends with an
    error of its own, what was asked for is done all the same, and that error counts.
    """

    def __init__(self, function: Callable[..., Any], waiting: int = 1) -> None:
        """`waiting`: calls that may wait while one is made; another one has to be waited for."""
        self._function, self._most, self._failed = function, waiting, False
        self._calls: deque[Future[None]] = deque()
        self._pool = ThreadPoolExecutor(1, "remot-behind")

    def __call__(self, *arguments: Any) -> None:
        while self._calls and (len(self._calls) > self._most or self._calls[0].done()):
            self._calls.popleft().result()
        self._calls.append(self._pool.submit(self._call, *arguments))

    def _call(self, *arguments: Any) -> None:
        if self._failed:
            return
        try:
            self._function(*arguments)
        except BaseException:
            self._failed = True
            raise

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            while kind is None and self._calls:
                self._calls.popleft().result()
        finally:
            self._pool.shutdown()
