"""Children that hang, crash and eat memory, as real processes ended by real signals."""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest

from remot_data.detectors.base import DetectorError
from remot_data.media import VideoError
from remot_data.media.sandbox import ChildError, Limits, Message, _the_keeper, call, prepare
from remot_data.store import StoreError
from remot_data.store.disk import FilesError

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does this")
posix_only = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no such signals")
slow = pytest.mark.slow  # most failures cost a new child, which takes most of a second to start


# --- what the children do -----------------------------------------------------------------------------------


def count(to: int, size: int = 0) -> Iterator[Message]:
    for number in range(to):
        yield {"number": number, "pid": os.getpid()}, bytes([number % 256]) * size


def see(name: str) -> Iterator[Message]:
    yield {"folder": os.getcwd(), "path": sys.path, "value": os.environ.get(name)}, b""


def hang(how: str, first: int = 0, note: str = "") -> Iterator[Message]:
    yield from count(first)
    if note:
        Path(note).write_text(str(os.getpid()))
    if how == "python":
        while True:
            pass
    if how == "native":
        ctypes.PyDLL(None).sleep(1000)  # holds the interpreter's lock
    ctypes.CDLL(None).sleep(1000)
    yield {}, b""


def burn(seconds: float, note: str) -> Iterator[Message]:
    Path(note).write_text(str(os.getpid()))
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    yield {}, b""


def die(how: str, first: int = 0) -> Iterator[Message]:
    yield from count(first)
    if how == "abort":
        os.write(2, b"\x1b[31mthe decoder: a bad block\n")
        os.abort()
    if how == "segfault":
        ctypes.string_at(0)
    if how == "exit":
        os._exit(7)
    if how == "sys.exit":
        sys.exit("enough")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "bad_alloc":
        os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
        os.abort()
    if how == "garbage":
        os.write(find_pipe(), b"x" * 100)
        time.sleep(100)


def find_pipe() -> int:
    """The descriptor on which the child answers."""
    own = os.stat(2)
    for fd in range(3, 100):
        try:
            status = os.fstat(fd)
            mode = os.readlink(f"/proc/self/fd/{fd}")
            flags = int(Path(f"/proc/self/fdinfo/{fd}").read_text().split()[3], 8)
        except OSError:
            continue
        if status.st_ino != own.st_ino and mode.startswith("pipe:") and flags & os.O_ACCMODE == os.O_WRONLY:
            return fd
    raise AssertionError("no pipe to write to")


def die_once(note: str, after: int) -> Iterator[Message]:
    for header, data in count(after + 2):
        if header["number"] == after and not os.path.exists(note):
            Path(note).write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        yield header, data


def linger(note: str) -> Iterator[Message]:
    """Is killed after 1.2 s, and takes 1.2 s more the second time."""
    time.sleep(1.2)
    yield from die_once(note, 0)


def devour(how: str) -> Iterator[Message]:
    yield {}, b""
    kept: list[Any] = []
    while True:
        if how == "arrays":
            kept.append(np.ones(2**22))
        elif how == "bytes":
            kept += [os.urandom(40) for _ in range(10_000)]
        else:
            np.zeros(2**40)


def grow(to: int) -> Iterator[Message]:
    """Take memory that RLIMIT_DATA does not count, slowly."""
    import mmap

    shared = mmap.mmap(-1, to)
    for start in range(0, to, 2**23):
        shared[start : start + 2**23] = b"x" * 2**23
        time.sleep(0.05)
    yield {}, b""


def keep(size: int) -> Iterator[Message]:
    """Leave memory behind."""
    globals()["kept"] = np.ones(size, np.uint8)
    yield {"pid": os.getpid()}, b""


def fail(how: str) -> Iterator[Message]:
    yield {}, b"before"
    if how == "video":
        raise VideoError("truncated", "a.mp4 ends at 3 s")
    if how == "detector":
        raise DetectorError("no weights")
    if how == "store":
        raise StoreError("no store")
    if how == "files":
        raise FilesError(28, "no room")
    if how == "ffmpeg":
        try:
            av.error.err_check(-12)
        except av.FFmpegError as error:
            raise VideoError("unreadable", "a.mp4: cannot allocate memory") from error
    if how == "opencv":
        import cv2

        raise cv2.error("OpenCV(5.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes")
    if how == "json":
        yield {"path": Path("x")}, b""
    raise KeyError("the key")


def chatter() -> Iterator[Message]:
    print("printed" * 1000)
    os.write(1, b"written")
    os.system("echo said; cat")
    yield {"read": sys.stdin.read()}, b"\n"
    print("again")


def start_a_process() -> Iterator[Message]:
    """Something that goes on and holds every pipe it can."""
    if os.fork() == 0:
        time.sleep(1000)
    yield from count(1)
    time.sleep(1000)


# --- helpers ------------------------------------------------------------------------------------------------


def run(function: str, limits: Limits | None = None, **arguments: Any) -> list[Message]:
    return list(call(f"{__name__}:{function}", arguments, limits))


def refused(function: str, limits: Limits | None = None, **arguments: Any) -> ChildError:
    with pytest.raises(ChildError) as caught:
        run(function, limits, **arguments)
    assert len(caught.value.detail) < 500
    return caught.value


def child() -> int:
    """The process id of the child that the next call gets."""
    return run("count", to=1)[0][0]["pid"]


def is_gone(pid: int, within: float = 0.0) -> bool:
    until = time.monotonic() + within
    while True:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.02)


@pytest.fixture
def no_children(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that has made no call yet."""
    monkeypatch.setattr("remot_data.media.sandbox._keeper", None)
    yield
    _the_keeper().end_all()


# --- good days ----------------------------------------------------------------------------------------------


def test_messages_come_in_order_with_their_payloads():
    found = run("count", to=300, size=70_000)
    assert [header["number"] for header, _ in found] == list(range(300))
    assert all(data == bytes([i % 256]) * 70_000 for i, (_, data) in enumerate(found))
    assert run("count", to=0) == []


def test_a_child_is_another_process_and_is_kept():
    assert os.getpid() != child() == child()


def test_calls_at_the_same_time_have_children_of_their_own():
    one, two = (call(f"{__name__}:count", {"to": 3}) for _ in range(2))
    pairs = [(a["pid"], b["pid"]) for (a, _), (b, _) in zip(one, two, strict=True)]
    assert len(pairs) == 3
    assert len(set(pairs[0])) == 2


def test_the_child_sees_folder_path_and_environment_of_the_call(tmp_path, monkeypatch):
    before = child()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("REMOT_TEST", "näh\udcff")
    (header, _), *_ = run("see", name="REMOT_TEST")
    assert header == {"folder": str(tmp_path), "path": sys.path, "value": "näh\udcff"}
    assert child() == before


def test_what_is_printed_does_not_disturb():
    assert run("chatter") == [({"read": ""}, b"\n")]
    assert run("count", to=1)


def test_a_wrong_name_and_wrong_arguments_are_refused_at_once():
    with pytest.raises(ValueError, match="package.module:name"):
        call("count", {})
    with pytest.raises(TypeError, match="not JSON serializable"):
        call("a:b", {"path": Path("x")})
    with pytest.raises(ValueError, match="limits have to be positive"):
        Limits(stall=0)


def test_the_error_can_be_sent_between_processes():
    error = pickle.loads(pickle.dumps(ChildError("crashed", "it died", 9)))
    assert (error.code, error.detail, error.by_signal, str(error)) == ("crashed", "it died", 9, "crashed: it died")


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("video", VideoError("truncated", "a.mp4 ends at 3 s")),
        ("detector", DetectorError("no weights")),
        ("store", StoreError("no store")),
        ("files", FilesError(28, "no room")),
    ],
)
def test_known_errors_keep_type_and_fields_and_the_child_lives(how, error):
    before, got = child(), []
    with pytest.raises(type(error)) as caught:
        got.extend(call(f"{__name__}:fail", {"how": how}))
    assert type(caught.value) is type(error)
    assert caught.value.args == error.args
    assert child() == before


def test_messages_before_an_error_come_out():
    got = []
    with pytest.raises(VideoError):
        for message in call(f"{__name__}:fail", {"how": "video"}):
            got.append(message)
    assert got == [({}, b"before")]


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("other", "crashed", "KeyError: 'the key'"),
        pytest.param("json", "crashed", "TypeError: Object of type .*Path is not JSON serializable", marks=slow),
        ("ffmpeg", "out-of-memory", "VideoError: unreadable: a.mp4"),
        pytest.param("opencv", "out-of-memory", "Insufficient memory", marks=slow),
    ],
)
def test_other_errors_become_a_code(how, code, words):
    error = refused("fail", how=how)
    assert (error.code, error.by_signal) == (code, None)
    pytest.raises(ChildError, lambda: (_ for _ in ()).throw(error)).match(words)


@slow
def test_a_function_that_is_not_there():
    with pytest.raises(ChildError, match="crashed: AttributeError: .*nothing"):
        run("nothing")


# --- time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [pytest.param("python", marks=slow), "native", pytest.param("sleep", marks=slow)])
def test_a_hang_ends_in_time(how):
    pid, started, got = child(), time.monotonic(), []
    with pytest.raises(ChildError, match="no sign of life for 1 s, after [0-2] messages") as caught:
        got.extend(call(f"{__name__}:hang", {"how": how, "first": 2}, Limits(stall=1)))
    assert caught.value.code == "timeout"
    assert 0.9 <= time.monotonic() - started < 5
    assert is_gone(pid)
    assert child() != pid


@slow
def test_the_total_is_bounded():
    started = time.monotonic()
    with pytest.raises(ChildError, match="timeout: it took longer than 0.5 s"):
        for _ in call(f"{__name__}:count", {"to": 10**9}, Limits(total=0.5)):
            pass
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_a_slow_caller_is_not_a_stall():
    pid, found = child(), []
    for header, _ in call(f"{__name__}:count", {"to": 3, "size": 200_000}, Limits(stall=1)):
        time.sleep(1.4)
        found.append(header)
    assert found == [{"number": number, "pid": pid} for number in range(3)]


# --- death --------------------------------------------------------------------------------------------------


@posix_only
@pytest.mark.parametrize(
    ("how", "words", "number"),
    [
        pytest.param(
            "abort", r"ended by SIGABRT; its last words:  \[31mthe decoder: a bad block", signal.SIGABRT, marks=slow
        ),
        ("segfault", "ended by SIGSEGV", signal.SIGSEGV),
        pytest.param("exit", "ended with status 7", None, marks=slow),
        pytest.param("sys.exit", "SystemExit: enough", None, marks=slow),
        pytest.param("kill", "killed from outside", signal.SIGKILL, marks=slow),
        pytest.param("garbage", "sent what is no message", None, marks=(slow, linux_only)),
    ],
)
def test_a_crash_has_a_reason(how, words, number):
    got = []
    with pytest.raises(ChildError, match=words) as caught:
        for header, _ in call(f"{__name__}:die", {"how": how, "first": 1}):
            got.append(header["number"])
    code = "unavailable" if number == signal.SIGKILL else "crashed"
    assert (caught.value.code, caught.value.by_signal) == (code, number)
    assert got == [0]
    assert run("count", to=1)


@slow
@posix_only
@pytest.mark.parametrize("after", [0, 3])
def test_a_kill_from_outside_is_made_good_once_and_no_message_comes_twice(tmp_path, after):
    note = tmp_path / "tried"
    found = [header for header, _ in run("die_once", note=str(note), after=after)]
    assert [header["number"] for header in found] == list(range(after + 2))
    assert {header["pid"] for header in found[:after]} <= {int(note.read_text())}
    assert int(note.read_text()) not in {header["pid"] for header in found[after:]}
    assert refused("die", how="kill", first=after).by_signal == signal.SIGKILL


@posix_only
def test_an_idle_child_that_was_killed_is_not_used():
    os.kill(child(), signal.SIGKILL)
    assert [h["number"] for h, _ in run("count", to=2)] == [0, 1]


def test_a_child_that_was_prepared_is_the_one_that_works(no_children):
    before = set(psutil.Process().children())
    prepare()
    prepare()
    found = {header["pid"] for _ in range(2) for header, _ in run("count", to=1)}
    assert found == {child.pid for child in set(psutil.Process().children()) - before}


def test_a_child_that_was_prepared_for_nothing_ends_with_the_others(no_children):
    before = set(psutil.Process().children())
    prepare()
    while not (mine := set(psutil.Process().children()) - before):
        time.sleep(0.01)
    _the_keeper().end_all()
    assert not psutil.wait_procs(mine, 10)[1]


@slow
@posix_only
def test_both_tries_share_the_time_of_a_call(tmp_path):
    note, started = tmp_path / "tried", time.monotonic()
    with pytest.raises(ChildError, match="it took longer than 2 s"):
        run("linger", Limits(total=2), note=str(note))
    assert note.exists() and time.monotonic() - started < 6


def test_closing_the_iterator_kills_the_child():
    with closing(call(f"{__name__}:count", {"to": 10**9})) as messages:
        pid = next(messages)[0]["pid"]
        assert not is_gone(pid)
    assert is_gone(pid)
    assert list(messages) == []
    assert child() != pid


@posix_only
def test_the_signals_of_a_terminal_and_a_job_do_not_end_it():
    messages = call(f"{__name__}:count", {"to": 50, "size": 100_000})
    pid = next(messages)[0]["pid"]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.killpg(os.getpgid(pid), number)
    assert {h["pid"] for h, _ in messages} == {pid}


@slow
@posix_only
def test_what_the_work_started_dies_with_it():
    pid = child()
    assert refused("start_a_process", Limits(stall=0.5)).code == "timeout"
    assert is_gone(pid)
    others = [p.pid for p in psutil.process_iter() if in_group(p.pid, pid)]
    assert all(is_gone(other, 5) for other in others)


def in_group(pid: int, group: int) -> bool:
    try:
        return os.getpgid(pid) == group and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


# --- memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [pytest.param("arrays", marks=slow), pytest.param("bytes", marks=slow), "at once"])
def test_eating_memory(how):
    limits = Limits(memory=256 * 2**20)
    started = time.monotonic()
    assert refused("devour", limits, how=how).code == "out-of-memory"
    assert time.monotonic() - started < 30
    assert run("count", limits, to=1)


@linux_only
def test_memory_that_the_kernel_does_not_refuse_is_watched():
    error = refused("grow", Limits(memory=64 * 2**20), to=2**30)
    assert (error.code, error.by_signal) == ("out-of-memory", None)
    assert "64 MiB are allowed" in error.detail


@slow
@linux_only
def test_the_limit_holds_for_one_call():
    (header, _), *_ = run("keep", Limits(memory=2**29), size=2**20)
    (again, _), *_ = run("keep", Limits(memory=2**31), size=2**30)
    assert again["pid"] == header["pid"]


@slow
def test_a_child_that_kept_memory_is_replaced():
    (header, _), *_ = run("keep", Limits(memory=2**30), size=2**28)
    assert is_gone(header["pid"])


@slow
@posix_only
def test_native_code_that_aborts_for_want_of_memory():
    error = refused("die", how="bad_alloc")
    assert (error.code, error.by_signal) == ("out-of-memory", signal.SIGABRT)


# --- starting -----------------------------------------------------------------------------------------------


@posix_only
@pytest.mark.parametrize(
    ("program", "words"),
    [("/nowhere/python", "no child process can be started"), (shutil.which("false"), "cannot import remot_data")],
)
def test_a_child_that_cannot_be_started_is_not_the_fault_of_the_work(no_children, monkeypatch, program, words):
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(RuntimeError, match=words) as caught:
        run("count", to=1)
    assert not isinstance(caught.value, ChildError)


# --- parents ------------------------------------------------------------------------------------------------

PARENT = """
import sys
from remot_data.media.sandbox import Limits, call
sys.path[:] = {path!r}
for _ in call({function!r}, {arguments!r}, {limits}):
    {then}
"""


def parent(function: str, arguments: dict[str, Any], then: str = "pass", limits: str = "None") -> Any:
    """A process that makes a call."""
    function = f"{__name__}:{function}"
    code = PARENT.format(path=sys.path, function=function, arguments=arguments, then=then, limits=limits)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)


@slow
@linux_only
@pytest.mark.parametrize("how", ["native", "sleep"])
def test_a_hung_child_dies_with_its_parent(tmp_path, how):
    note = tmp_path / "pid"
    process = parent("hang", {"how": how, "note": str(note)})
    pid = written_in(note)
    assert not is_gone(pid, 0.2)
    process.kill()
    process.communicate()
    assert is_gone(pid, 5)


def written_in(note: Path) -> int:
    until = time.monotonic() + 30
    while not (note.exists() and note.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    return int(note.read_text())


@slow
@linux_only
def test_time_in_which_all_is_stopped_does_not_count(tmp_path):
    note = tmp_path / "pid"
    process = parent("burn", {"seconds": 0.3, "note": str(note)}, limits="Limits(stall=6)")
    both = (process.pid, written_in(note))
    for pid in both:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(8)
    for pid in both:
        os.kill(pid, signal.SIGCONT)
    process.communicate(timeout=30)
    assert process.returncode == 0


@slow
def test_the_end_of_the_parent_ends_its_children():
    process = parent("count", {"to": 10**9}, "print(_[0]['pid']); raise SystemExit")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert is_gone(int(printed), 0.1)


def test_short_lived_threads_share_children_that_outlive_them(no_children):
    found: list[int] = []
    for _ in range(2):
        thread = threading.Thread(target=lambda: found.append(child()))
        thread.start()
        thread.join()
    assert not is_gone(found[0], 0.2)
    assert [*found, child()] == [found[0]] * 3


@slow
@posix_only
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_has_children_of_its_own():
    messages = call(f"{__name__}:count", {"to": 1000, "size": 2000})
    first = next(messages)[0]["pid"]
    idle = child()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        try:
            with pytest.raises(RuntimeError, match="belongs to the process"):
                next(messages)
            os.write(writing, json.dumps([child(), child()]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        own, again = json.loads(file.read())
    os.waitpid(pid, 0)
    assert own == again
    assert own not in (first, idle)
    assert is_gone(own, 5)
    assert {h["pid"] for h, _ in messages} == {first}
    assert child() in (first, idle)
