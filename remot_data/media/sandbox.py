"""Running a generator function in a child process that can be killed, bounded in time and memory.

Videos are untrusted and are decoded by native code: a hang, a crash or a memory blow-up has to cost one video and
become a reason code. Children are ordinary subprocesses, since workers of dask may not use `multiprocessing`. They
are started when they are needed and kept for the next call, as starting one takes most of a second; a process has
as many as it makes calls at a time. A child that failed or kept much memory is never used again.

What a child says is data: length, JSON, bytes; never pickle. Its native libraries and prints cannot disturb that,
since its standard output goes where its errors go: to a temporary file, of which the last words are told after a
crash and the rest is thrown away.

A child never outlives its parent. On Linux the kernel kills it (``PR_SET_PDEATHSIG``), also while it hangs in
native code. Elsewhere it ends itself when its input ends, which native code that holds the interpreter can delay.
It ignores Ctrl-C and SIGTERM, which reach all processes of a terminal or a job: the parent alone ends it.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import importlib
import json
import os
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice, product
from typing import IO, Any, BinaryIO

import psutil

from remot_data.errors import PARTS, RemotError, error_classes
from remot_data.records import Record

Message = tuple[dict[str, Any], bytes]

_TICK = 0.1  # seconds between two looks at the time and memory of the calls
_LONGEST_STEP = 1.0  # a longer gap is a stopped machine or process, for which no child is to blame
_START = 300.0  # seconds a child may take to import this package: file systems of clusters are slow
_MOST_HEADER = 64 * 2**20
_MOST_PRINTED = 4 * 2**20
_MOST_TEXT = 4000  # characters of an error
_PREFIX = struct.Struct("<cIQ")  # kind, bytes of JSON, bytes of payload
_READY, _REQUEST, _ITEM, _DONE, _FAILED = b"r", b"q", b"i", b"d", b"f"
_SIGKILL = getattr(signal, "SIGKILL", None)
# What native code says before it gives up for want of memory: C++, Rust, Python, libc.
_MEMORY_WORDS = ("std::bad_alloc", "memory allocation of", "memoryerror", "cannot allocate memory", "out of memory")
# The path is set before anything is imported: with -c, Python would look in the working folder first.
# Errors of the machine: full disks, too many open files, a file server that lost its files, a disk that does not read.
_MACHINE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EIO))

# Loaded before a child's memory is measured, since libraries take some for themselves, and crash where they get none.
_LOADED = ("numpy", "cv2", "av")
_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from remot_data.media.sandbox import serve; serve(int(sys.argv[1]))"


@dataclass(frozen=True)
class Limits(Record):
    """What a call may take.

    Attributes:
        stall: seconds without a message while the caller waits for one. Time the caller spends on its own work
            does not count, nor does time in which the machine or the caller is stopped.
        total: seconds from the beginning of the call to its end, the caller's own time included.
        memory: bytes the work may take beyond what a fresh child holds (about 80 MB in memory). The resident
            memory of the child is looked at ten times a second. On Linux, allocations are refused too
            (``RLIMIT_DATA``) once the private writable memory of the child, touched or not, has grown by as much;
            on macOS and Windows a very fast blow-up can get past the limit for a tenth of a second. Processes
            that the work starts are not counted.

    Raises:
        ValueError: a limit that is not positive.
    """

    stall: float = 120.0
    total: float = 21600.0
    memory: int = 4 * 2**30

    def __post_init__(self) -> None:
        if not min(self.stall, self.total, self.memory) > 0:
            raise ValueError(f"limits have to be positive, not {self}")


class ChildError(RemotError, RuntimeError):
    """Work that was ended or died.

    `code` is one of ``timeout``, ``crashed``, ``out-of-memory`` and, for what is the machine's fault, ``unavailable``;
    `detail` is a sentence. `by_signal` is the number
    of the signal that ended the child where it did not end by our hand: SIGKILL then came from outside, for
    example from the kernel of a machine out of memory, and did so twice.
    """

    def __init__(self, code: str, detail: str, by_signal: int | None = None) -> None:
        super().__init__(code, detail, by_signal)
        self.code = code
        self.detail = detail
        self.by_signal = by_signal

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


def call(function: str, arguments: Mapping[str, Any], limits: Limits | None = None) -> Generator[Message, None, None]:
    """Run a generator function in a child process; what it yields comes out here, in order.

    The child sees the caller's working folder, module path and environment. A message is its sign of life: a
    function that works for long yields now and then. A child that is killed from outside (SIGKILL) is replaced,
    once, and the work begun again: somebody else's kill, such as that of a whole job, is not the fault of the work.
    The messages that came out before do not come again, so the function has to yield the same ones again.

    Args:
        function: ``package.module:name`` of a generator function that yields (dict, bytes) pairs; the dict holds
            plain JSON values (tuples arrive as lists, keys as strings) and at most 64 MiB of them, the payload is
            bytes or another contiguous buffer of at most `limits.memory`.
        arguments: its keyword arguments, plain JSON values.
        limits: `Limits()` if None.

    Returns:
        An iterator of (dict, bytes). Nothing runs before its first step. Closed early, it kills the child.

    Raises:
        ValueError: `function` is not of that form.
        TypeError: arguments that are not JSON.
        ChildError: from the iterator: ``timeout``; ``out-of-memory``, also for a MemoryError, FFmpeg's ENOMEM and
            OpenCV's "Insufficient memory", alone or as the cause of another error; ``unavailable`` for a full disk and
            the like (see `_MACHINE`) and where the process was killed from outside twice; ``crashed`` where it died
            otherwise or the function raised anything else.
        RemotError: from the iterator, as the function raised it, or of the nearest class above that this process has.
        RuntimeError: from the iterator: no child can be started. This is the machine's fault, not that of the work.
    """
    module, colon, name = function.partition(":")
    if not (module and colon and name):
        raise ValueError(f"{function!r} is no function: write 'package.module:name'")
    request = json.dumps({"function": function, "arguments": dict(arguments)}, allow_nan=False).encode()
    return _messages(request, limits or Limits())


def _messages(request: bytes, limits: Limits) -> Generator[Message, None, None]:
    watch, given = _Watch(limits), 0
    for again in (True, False):
        try:
            with closing(_talk(request, watch)) as talk:
                for message in islice(talk, given, None):
                    given += 1
                    yield message
            return
        except ChildError as error:
            if not again or error.by_signal is None or error.by_signal != _SIGKILL:
                raise


def _talk(request: bytes, watch: _Watch) -> Generator[Message, None, None]:
    """One try of a call in one child."""
    keeper = _the_keeper()
    child = keeper.take()
    reusable = False
    try:
        child.ask(request, watch)
        while True:
            kind, header, payload = child.hear()
            if kind == _ITEM:
                yield header, payload
            elif kind == _DONE:
                reusable = True
                return
            else:
                error = _error_from(header)
                reusable = not isinstance(error, ChildError)
                raise error
    finally:
        keeper.give_back(child, reusable)


def _error_from(header: Mapping[str, Any]) -> RemotError:
    kind, text = str(header.get("kind")), str(header.get("text"))[:_MOST_TEXT]
    classes = header.get("classes")
    known = {_name(found): found for found in error_classes()}
    for name, args in product(classes if isinstance(classes, list) else (), (header.get("args"), [text])):
        with suppress(Exception):  # a class that is not loaded here, or is made of something else
            error = known[name](*(a[:_MOST_TEXT] if isinstance(a, str) else a for a in args))
            if str(error)[:_MOST_TEXT] == text:
                vars(error).update({part: str(header.get(part, ""))[:_MOST_TEXT] for part in PARTS})
                return error
    return ChildError({"memory": "out-of-memory", "machine": "unavailable"}.get(kind, "crashed"), text)


def _name(found: type) -> str:
    return f"{found.__module__}.{found.__qualname__}"


# --- messages -----------------------------------------------------------------------------------------------


def _send(stream: IO[bytes], kind: bytes, header: Mapping[str, Any], payload: Any = b"") -> None:
    words, data = json.dumps(header, allow_nan=False).encode(), memoryview(payload).cast("B")
    if len(words) > _MOST_HEADER:
        raise ValueError(f"a message with {len(words)} bytes of JSON; {_MOST_HEADER} are allowed: use the payload")
    stream.write(_PREFIX.pack(kind, len(words), data.nbytes) + words)
    stream.write(data)
    stream.flush()


def _receive(stream: IO[bytes], most: int) -> tuple[bytes, dict[str, Any], bytes] | None:
    """The next message with at most `most` bytes of payload, or None where the stream ends.

    Raises:
        ValueError, RecursionError: it is no message.
    """
    prefix = stream.read(_PREFIX.size)
    if len(prefix) < _PREFIX.size:
        return None
    kind, words, size = _PREFIX.unpack(prefix)
    if words > _MOST_HEADER or size > most:
        raise ValueError(f"{words} bytes of JSON and {size} bytes of payload are too many")
    text, payload = stream.read(words), stream.read(size)
    if len(text) < words or len(payload) < size:
        return None
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError("the JSON of a message is no object")
    return kind, header, payload


# --- in the parent ------------------------------------------------------------------------------------------


class _Watch:
    """The clocks of one call, over both its tries.

    The caller's thread writes `heard` and `waiting`, the keeper's all the rest.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.heard, self.waiting = 0, True
        self.verdict: tuple[str, str] | None = None
        self._seen, self._quiet, self._spent = -1, 0.0, 0.0

    def judge(self, step: float, grown: int) -> tuple[str, str] | None:
        """Code and detail of the limit that is passed, if one is, `step` seconds after the last look."""
        if self.verdict is not None:
            return self.verdict
        limits, heard = self.limits, self.heard
        self._spent += step
        self._quiet = self._quiet + step if self.waiting and heard == self._seen else 0.0
        self._seen = heard
        if grown > limits.memory:
            self.verdict = "out-of-memory", f"it took {_mib(grown)} of memory; {_mib(limits.memory)} are allowed"
        elif self._quiet > limits.stall:
            self.verdict = "timeout", f"no sign of life for {limits.stall:g} s, after {heard} messages"
        elif self._spent > limits.total:
            self.verdict = "timeout", f"it took longer than {limits.total:g} s"
        return self.verdict


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


class _Child:
    """A child process and the parent's ends of its pipes. To be made in a thread that lasts."""

    def __init__(self) -> None:
        self.watch: _Watch | None = None
        self._owner, self._lock = os.getpid(), threading.Lock()
        self._ended, self._said = False, ""
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed in end()
        try:
            # A session of its own, so that whatever the work starts is killed with it.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(self._owner), *map(str, sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._words,
                bufsize=2**16,
                start_new_session=True,
            )
        except BaseException:
            self._words.close()
            raise
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._memory, self._fresh = psutil.Process(self._process.pid), 0

    def get_ready(self) -> None:
        """Wait until the child has imported what it needs.

        Raises:
            RuntimeError: it does not come up.
        """
        self.watch = _Watch(Limits(stall=_START, total=_START, memory=2**62))
        try:
            _, header, _ = self.hear()
            # Where the interpreter is a launcher (Windows), the work is done by a process of its own.
            self._memory = psutil.Process(int(header["pid"]))
        except (ChildError, psutil.Error, KeyError) as error:
            raise RuntimeError(
                f"{sys.executable} cannot be started as a child process, or cannot import remot_data: {error}"
            ) from error
        self._fresh = self._resident()

    def ask(self, request: bytes, watch: _Watch) -> None:
        self._words.seek(0)
        self._words.truncate()
        watch.waiting = True
        self.watch = watch
        setting = {"folder": _folder(), "path": [str(p) for p in sys.path], "environment": dict(os.environ)}
        try:
            _send(self._to, _REQUEST, {"memory": watch.limits.memory, **setting}, request)
        except OSError:
            raise self._death() from None
        finally:
            watch.waiting = False

    def hear(self) -> tuple[bytes, dict[str, Any], bytes]:
        """The next message of the child.

        Raises:
            ChildError: it died, was killed, or sent what is no message.
        """
        if os.getpid() != self._owner:
            raise RuntimeError("this iterator belongs to the process that made it; call again in this one")
        watch = self.watch
        assert watch is not None
        watch.waiting = True
        try:
            message = _receive(self._from, watch.limits.memory)
        except (ValueError, RecursionError) as error:
            raise ChildError("crashed", f"the child sent what is no message: {error}") from error
        finally:
            watch.waiting = False
        if message is None:
            raise self._death()
        watch.heard += 1
        return message

    def look(self, step: float) -> None:
        """Kill the child if its call passed a limit."""
        with self._lock:
            if self._ended or self.watch is None:
                return
            if self.watch.judge(step, self._resident() - self._fresh):
                self._kill()
            elif os.fstat(self._words.fileno()).st_size > _MOST_PRINTED:
                self._words.seek(0)
                self._words.truncate()

    def rest(self) -> bool:
        """Put the child aside for the next call; False if it is not fit for that."""
        with self._lock:
            watch, self.watch = self.watch, None
            assert watch is not None
            # What a call leaves behind must not make the next one fail.
            lean = self._resident() - self._fresh <= watch.limits.memory // 8
            return lean and watch.verdict is None and not self._ended

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Kill the child and wait until it is gone."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            if self._ended:
                return
            self._ended = True
            self._kill()
        with suppress(subprocess.TimeoutExpired):  # a process that waits for a device cannot be killed yet
            self._process.wait(10)
        self._said = self._last_words()
        self._close()

    def forget(self) -> None:
        """In a forked process: let go of the other's child without touching it."""
        self._ended = True
        self._process.returncode = 0  # or Popen would try to wait for it
        self._close()

    def _kill(self) -> None:
        if self._process.returncode is not None:
            return
        with suppress(ProcessLookupError, PermissionError):  # it is dead already
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def _close(self) -> None:
        # Not through the buffer: it would try to write what could not be written.
        for stream in (self._to, self._from):
            stream.raw.close()  # type: ignore[attr-defined]
        self._words.close()

    def _resident(self) -> int:
        try:
            return self._memory.memory_info().rss
        except psutil.Error:  # it ended
            return 0

    def _death(self) -> ChildError:
        self.end()
        watch, status = self.watch, self._process.returncode
        if watch is not None and watch.verdict is not None:
            return ChildError(*watch.verdict)
        said = self._said
        if status is not None and -status == _SIGKILL:
            detail = "the process was killed from outside (SIGKILL), maybe because this machine is out of memory"
            return ChildError("unavailable", detail, -status)
        if status is not None and status < 0:
            detail = f"the process was ended by {_signal_name(-status)}"
        else:
            detail = f"the process ended with status {status}"
        code = "out-of-memory" if any(words in said.lower() for words in _MEMORY_WORDS) else "crashed"
        by_signal = -status if status is not None and status < 0 else None
        return ChildError(code, f"{detail}; its last words: {said}" if said else detail, by_signal)

    def _last_words(self) -> str:
        """The last two lines the child printed, at most 300 characters."""
        self._words.seek(max(self._words.seek(0, os.SEEK_END) - 4096, 0))
        text = self._words.read().decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        words = "; ".join(lines[-2:])
        return "".join(c if c.isprintable() else " " for c in words)[-300:]


def _folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _Keeper:
    """All children of this process, and a thread that starts them and watches their calls.

    The kernel ties a child's life to the thread that started it, so that has to be one that lasts.
    """

    def __init__(self) -> None:
        self._owner, self._lock = os.getpid(), threading.Lock()
        self._orders: queue.SimpleQueue[Future[_Child] | None] = queue.SimpleQueue()
        self._coming: Future[_Child] | None = None
        self._idle: list[_Child] = []
        self._busy: list[_Child] = []
        threading.Thread(target=self._run, name="remot-children", daemon=True).start()

    def prepare(self) -> None:
        with self._lock:
            if self._coming or self._idle or self._busy:
                return
            self._coming = Future()
        self._orders.put(self._coming)

    def take(self) -> _Child:
        """A child that is ready, and watched from now on.

        Raises:
            RuntimeError: none can be started.
        """
        while child := self._take_idle():
            if child.is_alive():
                self._orders.put(None)
                return child
            self.give_back(child, False)
        with self._lock:
            order, self._coming = self._coming, None
        if order is None:
            order = Future()
            self._orders.put(order)
        try:
            child = order.result()
        except OSError as error:
            raise RuntimeError(f"no child process can be started: {error}") from error
        try:
            child.get_ready()
        except BaseException:
            self.give_back(child, False)
            raise
        return child

    def _take_idle(self) -> _Child | None:
        with self._lock:
            if not self._idle:
                return None
            self._busy.append(self._idle.pop())
            return self._busy[-1]

    def give_back(self, child: _Child, reusable: bool) -> None:
        if os.getpid() != self._owner:  # an iterator of the process this one was forked from is thrown away
            return
        reusable = reusable and child.rest()
        if not reusable:
            child.end()
        with self._lock:
            if child in self._busy:
                self._busy.remove(child)
            if reusable:
                self._idle.append(child)

    def end_all(self) -> None:
        with self._lock:
            coming = self._coming
        if coming is not None:  # its process may be there already, and it not among the others yet
            with suppress(Exception):
                coming.result(10.0)
        for child in (*self._idle, *self._busy):
            child.end()

    def forget_all(self) -> None:
        for child in (*self._idle, *self._busy):
            child.forget()

    def _run(self) -> None:
        looked = time.monotonic()
        while True:
            busy = tuple(self._busy)
            with suppress(queue.Empty):
                self._start(self._orders.get(timeout=_TICK if busy else None))
            now = time.monotonic()
            step = min(now - looked, _LONGEST_STEP) if busy else 0.0
            looked = now
            for child in tuple(self._busy):
                child.look(step)

    def _start(self, order: Future[_Child] | None) -> None:
        if order is None:
            return
        try:
            child = _Child()
        except BaseException as error:
            order.set_exception(error)
            return
        with self._lock:
            self._busy.append(child)
        order.set_result(child)


_keeper: _Keeper | None = None
_keeper_lock = threading.Lock()


def _the_keeper() -> _Keeper:
    global _keeper
    with _keeper_lock:
        if _keeper is None:
            _keeper = _Keeper()
        return _keeper


def prepare() -> None:
    """Start a child for a call that is to come, and do not wait for it; nothing where this process has one."""
    _the_keeper().prepare()


@atexit.register
def _end_all() -> None:
    if _keeper is not None:
        _keeper.end_all()


def _after_fork() -> None:
    """A forked process has none of the threads and must not touch the children of the other."""
    global _keeper, _keeper_lock
    old, _keeper, _keeper_lock = _keeper, None, threading.Lock()
    if old is not None:
        old.forget_all()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# --- in the child -------------------------------------------------------------------------------------------


def serve(parent: int) -> None:
    """The life of a child process: answer requests until the process `parent` is gone. For `call` alone."""
    _die_with(parent)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if sys.platform == "linux":
        _no_core_dumps()
    requests, answers = _private_pipes()
    waiting: queue.SimpleQueue[tuple[dict[str, Any], bytes]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, waiting), daemon=True).start()
    for name in _LOADED:
        importlib.import_module(name)
    reserved = _reserved()
    _send(answers, _READY, {"pid": os.getpid()})
    while True:
        setting, request = waiting.get()
        _adopt(setting)
        _answer(json.loads(request), reserved + setting["memory"], answers)


def _die_with(parent: int) -> None:
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    if ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, int(signal.SIGKILL), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel refuses PR_SET_PDEATHSIG")
    if os.getppid() != parent:  # it was gone before the call above
        os._exit(1)


def _no_core_dumps() -> None:
    """A crash is expected here, and thousands of core files would fill the disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes to the parent, out of reach of native libraries, prints and processes started here."""
    requests, answers = open(os.dup(0), "rb"), open(os.dup(1), "wb", 2**16)  # noqa: SIM115 - open for life
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return requests, answers


def _listen(requests: BinaryIO, waiting: queue.SimpleQueue[tuple[dict[str, Any], bytes]]) -> None:
    while message := _receive(requests, 2**62):
        waiting.put(message[1:])
    os._exit(0)  # the parent is gone, whatever the main thread is doing


def _adopt(setting: Mapping[str, Any]) -> None:
    """See the working folder, module path and environment of the caller."""
    sys.path[:] = setting["path"]
    if setting["environment"] != dict(os.environ):
        os.environ.clear()
        os.environ.update(setting["environment"])
    if setting["folder"] is not None:
        os.chdir(setting["folder"])


def _answer(request: Mapping[str, Any], memory: int, answers: BinaryIO) -> None:
    report = None
    try:
        with _bounded(memory):
            module, _, name = request["function"].partition(":")
            function = getattr(importlib.import_module(module), name)
            for header, payload in function(**request["arguments"]):
                _send(answers, _ITEM, header, payload)
    except BaseException as error:
        report = _report(error)
    _send(answers, _FAILED if report else _DONE, report or {})


def _report(error: BaseException) -> dict[str, Any]:
    text = f"{type(error).__name__}: {error}"
    if _wants_memory(error):
        return {"kind": "memory", "text": text}
    if isinstance(error, RemotError):
        classes = [_name(found) for found in type(error).__mro__ if issubclass(found, RemotError)]
        args = [a if a is None or isinstance(a, (str, int)) else str(a) for a in error.args]
        parts = {part: str(getattr(error, part)) for part in PARTS}
        return {"kind": "remot", "classes": classes, "args": args, "text": str(error), **parts}
    if isinstance(error, OSError) and error.errno in _MACHINE and not _is_a_codecs(error):
        return {"kind": "machine", "text": text}
    return {"kind": "other", "text": text}


def _is_a_codecs(error: OSError) -> bool:
    """FFmpeg says EIO of damaged files too."""
    return error.errno == errno.EIO and type(error).__module__.split(".")[0] == "av"


def _wants_memory(error: BaseException | None) -> bool:
    """Whether want of memory is the error or, in what it was raised from, its cause."""
    for _ in range(20):
        if error is None:
            return False
        refused = type(error).__module__ == "cv2" and "Insufficient memory" in str(error)
        if refused or isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def _reserved() -> int:
    """Bytes of private writable memory, touched or not, that this process has: what RLIMIT_DATA counts."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm") as file:
        return int(file.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def _bounded(memory: int) -> Iterator[None]:
    """Refuse allocations beyond so much private writable memory, on Linux."""
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    set_by_others = [limit for limit in before if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(memory, *set_by_others, 2**62), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
