"""Threads for the stages of a task: each does in order what it is given, and all of them end when the task does."""

from __future__ import annotations

import ctypes
import itertools
import math
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, wait
from contextlib import suppress
from typing import Any

_PATIENCE = 10.0  # seconds that a native call may go on once its thread is told to stop


class Lane:
    """Threads that share one queue; with none, what is given is done at once, by who gives it.

    Of what waits, the smallest `turn` is next, and what was given first.
    """

    def __init__(self, lanes: Lanes, count: int, name: str) -> None:
        self._lanes = lanes
        self._work: queue.PriorityQueue[Any] = queue.PriorityQueue()
        self._given = itertools.count()
        # Daemons, since a native call that never returns must not keep the process.
        self.threads = [threading.Thread(target=self._run, name=f"{name}-{i}", daemon=True) for i in range(count)]
        for thread in self.threads:
            thread.start()

    def submit(self, function: Callable[..., Any], *arguments: Any, turn: int = 0) -> Future[Any]:
        """A future of ``function(*arguments)``."""
        return self.after((), function, *arguments, turn=turn)

    def after(
        self, needs: Sequence[Future[Any]], function: Callable[..., Any], *arguments: Any, turn: int = 0
    ) -> Future[Any]:
        """As `submit`, once all of `needs` are done, well or not: so no thread waits for another's work."""
        future = self._lanes.promise()
        left, lock = len(needs), threading.Lock()
        # Futures keep their callbacks: what these hold must not keep a clip's arrays alive.
        waiting = [(turn, future, function, arguments)]

        def done(_: Future[Any]) -> None:
            nonlocal left
            with lock:
                left -= 1
                ready = not left
            if ready:
                self._put(*waiting.pop())

        for need in needs:
            need.add_done_callback(done)
        if not needs:
            self._put(*waiting.pop())
        return future

    def end(self) -> None:
        """Let the threads go once they have done what they were given."""
        for _ in self.threads:
            self._work.put((math.inf, next(self._given), None))

    def _put(self, turn: int, future: Future[Any], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        if self.threads:
            self._work.put((turn, next(self._given), (future, function, arguments)))
        else:
            self._lanes.settle(future, function, arguments)

    def _run(self) -> None:
        with suppress(SystemExit):
            while (work := self._work.get()[-1]) is not None:
                self._lanes.settle(*work)
                del work  # its arrays, while this thread waits for more


class Lanes:
    """All lanes of a task, as a context: left by an error or by Ctrl-C, it stops them in the middle of their work.

    Args:
        expected: errors that are results; the first other one is raised by whatever `result` is asked for next.
    """

    def __init__(self, expected: tuple[type[Exception], ...] = ()) -> None:
        self._expected = expected
        self._lanes: list[Lane] = []
        self._open: set[Future[Any]] = set()
        self._broken: Future[Any] = Future()
        self._stopping = False

    def lane(self, count: int, name: str) -> Lane:
        made = Lane(self, count, name)
        self._lanes.append(made)
        return made

    def promise(self) -> Future[Any]:
        """A future that somebody will fulfil, or that is cancelled at the end."""
        future: Future[Any] = Future()
        self._open.add(future)
        future.add_done_callback(self._open.discard)
        if self._stopping:
            future.cancel()
        return future

    def settle(self, future: Future[Any], function: Callable[..., Any], arguments: Sequence[Any]) -> None:
        """Fulfil a future with what a function gives or raises."""
        if future.cancelled():
            return
        try:
            found = function(*arguments)
        except Exception as error:
            with suppress(InvalidStateError):
                if not isinstance(error, self._expected):
                    self._broken.set_exception(error)
            with suppress(InvalidStateError):
                future.set_exception(error)
        else:
            with suppress(InvalidStateError):
                future.set_result(found)

    def result(self, future: Future[Any]) -> Any:
        """The result of a future, or the first unexpected error of any thread."""
        if not future.done():
            wait((future, self._broken), return_when=FIRST_COMPLETED)
        return self._broken.result() if self._broken.done() else future.result()

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        threads = [thread for lane in self._lanes for thread in lane.threads]
        self._stopping = kind is not None
        if self._stopping:
            # Who waits for one of these goes on, and what was not begun never is.
            for future in list(self._open):
                future.cancel()
        for lane in self._lanes:
            lane.end()
        if self._stopping:
            for thread in threads:
                _stop(thread)
        for thread in threads:
            thread.join(_PATIENCE if self._stopping else None)


def _stop(thread: threading.Thread) -> None:
    """Raise SystemExit in a thread, as Ctrl-C raises KeyboardInterrupt in the main one: between native calls."""
    if thread.ident is not None and thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
