from __future__ import annotations

import errno
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec
import psutil
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from remot_data.store import files as module
from remot_data.store import ranges
from remot_data.store.disk import FilesError
from remot_data.store.files import Files
from remot_data.store.lock import Busy, Lock
from remot_data.store.log import Lines, read_lines


class Renaming(MemoryFileSystem):
    """A store of another kind than disks and object stores: what is written shows while it grows."""

    protocol = "renaming"
    store: dict = {}
    pseudo_dirs = [""]


fsspec.register_implementation("renaming", Renaming, clobber=True)


@pytest.fixture(params=["disk", "objects", "renaming"])
def files(request, tmp_path):
    urls = {"disk": str(tmp_path / "store"), "objects": "memory://store", "renaming": "renaming://store"}
    yield Files(urls[request.param])
    for kind in (MemoryFileSystem, Renaming):
        kind.store.clear()
        kind.pseudo_dirs[:] = [""]


@pytest.fixture
def objects():
    yield Files("memory://store")
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def impatient(monkeypatch):
    """Short pauses; gives the list of those that were made."""
    made: list[float] = []
    monkeypatch.setattr(module, "_PAUSES", (0.001, 0.004))
    monkeypatch.setattr(module.random, "uniform", lambda low, high: made.append(1.0) or 1.0)
    return made


def failing(monkeypatch, name: str, error: Exception, times: int) -> list[int]:
    """Makes a method of the memory file system fail so many times; gives the list of its calls."""
    real, calls = getattr(MemoryFileSystem, name), []

    def method(self, *args, **named):
        calls.append(len(calls))
        if len(calls) <= times:
            raise error
        return real(self, *args, **named)

    monkeypatch.setattr(MemoryFileSystem, name, method)
    return calls


# Reading and writing


def test_a_file_is_written_read_listed_and_removed(files):
    files.write("a/b.json", b"0123456789")
    assert files.read("a/b.json") == b"0123456789"
    assert files.read("a/b.json", 2, 5) == b"234"
    assert files.read("a/b.json", 8, 50) == b"89"
    assert files.exists("a/b.json") and not files.exists("a/c.json")
    assert files.size("a/b.json") == 10
    assert files.names("a") == ["b.json"] and files.names("nothing") == []
    files.write("a/b.json", b"new")
    assert files.read("a/b.json") == b"new"
    assert files.walk() == ["a/b.json"]
    files.remove("a/b.json")
    files.remove("a/b.json")
    assert files.walk() == []
    with pytest.raises(FileNotFoundError):
        files.read("a/b.json")


def test_a_folder_is_removed_with_all_in_it(files):
    files.write("a/b/c", b"1")
    files.write("a/d", b"1")
    files.write("e", b"1")
    files.remove_folder("a")
    files.remove_folder("a")
    assert files.walk() == ["e"]


def test_an_error_while_writing_leaves_nothing_new_and_the_old_as_it_was(files):
    files.write("a/old", b"old")
    for name in ("a/old", "a/new"):
        with pytest.raises(KeyboardInterrupt), files.writing(name) as file:
            file.write(b"half")
            raise KeyboardInterrupt
    assert files.walk() == ["a/old"]
    assert files.read("a/old") == b"old"


def test_nothing_is_seen_under_the_name_before_the_file_is_complete(files):
    with files.writing("a/x") as file:
        file.write(b"half")
        file.flush()
        assert not files.exists("a/x")
        assert files.names("a") == []
        file.write(b" and half")
    assert files.read("a/x") == b"half and half"
    assert files.names("a", temporary=True) == ["x"]


def test_a_store_that_renames_gets_a_temporary_name_first_and_one_move(monkeypatch):
    files, seen = Files("renaming://store"), []
    real = Renaming.mv

    def mv(self, source, target, **named):
        seen.append((source.rsplit("/", 1)[1], files.names("a"), files.names("a", temporary=True)))
        return real(self, source, target, **named)

    monkeypatch.setattr(Renaming, "mv", mv)
    files.write("a/x", b"1")
    [(source, shown, there)] = seen
    assert source.startswith("x.") and source.endswith(".tmp")
    assert shown == [] and there == [source]
    assert files.names("a", temporary=True) == ["x"]
    Renaming.store.clear()


def test_a_move_whose_answer_was_lost_counts_and_one_that_fails_leaves_nothing(monkeypatch, impatient):
    files, real = Files("renaming://store"), Renaming.mv

    def mv(self, *args, **named):
        real(self, *args, **named)
        monkeypatch.setattr(Renaming, "mv", real)
        raise ConnectionResetError

    monkeypatch.setattr(Renaming, "mv", mv)
    files.write("a/x", b"1")
    assert files.read("a/x") == b"1"

    def never(self, *args, **named):
        raise ConnectionResetError

    monkeypatch.setattr(module, "_PATIENCE", 0.1)

    monkeypatch.setattr(Renaming, "mv", never)
    with pytest.raises(FilesError, match="does not answer"):
        files.write("a/y", b"1")
    assert files.walk() == ["a/x"]
    Renaming.store.clear()


def test_parts_come_in_the_order_asked_for_and_close_ones_in_one_request(objects, monkeypatch):
    data = os.urandom(300_000)
    objects.write("x", data)
    real, asked = MemoryFileSystem.cat_ranges, []

    def cat_ranges(self, paths, starts, ends, **named):
        asked.append(list(zip(starts, ends, strict=True)))
        return real(self, paths, starts, ends, **named)

    monkeypatch.setattr(MemoryFileSystem, "cat_ranges", cat_ranges)
    ranges = [(200_000, 200_010), (10, 20), (700, 900), (15, 18), (0, 0), (250_000, 250_001)]
    assert objects.parts("x", ranges) == [data[a:b] for a, b in ranges]
    assert asked == [[(0, 900), (200_000, 200_010), (250_000, 250_001)]]


def test_a_file_can_be_opened_and_searched_through(files, monkeypatch):
    monkeypatch.setattr(module, "_SMALL", 100)
    data = os.urandom(200_000)
    files.write("x", data)
    with files.open("x") as file:
        assert file.read(10) == data[:10]
        assert file.seek(-1000, os.SEEK_END) == 199_000
        assert file.read(500) == data[199_000:199_500]
        file.seek(100_000)
        assert file.read() == data[100_000:]
        assert file.read() == b""


def test_files_travel_to_a_forked_process(objects):
    objects.write("x", b"1")
    old = objects.fs
    pipe, other = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(other, objects.read("x") + str(objects._pid == os.getpid()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(pipe, 100) == b"1True"
    assert objects.fs is old


@pytest.mark.parametrize(
    ("url", "sentence"), [("nothing://x", "Protocol not known"), ("s3://bucket/x", r'pip install "remot\[s3\]"')]
)
def test_a_url_without_a_library_is_one_sentence(url, sentence, monkeypatch):
    def missing(url, **options):
        raise (ValueError("Protocol not known: nothing") if url.startswith("nothing") else ImportError("Install s3fs"))

    monkeypatch.setattr(module.fsspec.core, "url_to_fs", missing)
    with pytest.raises(FilesError, match=sentence):
        Files(url)


# Several at once


def test_of_several_threads_that_create_a_file_one_succeeds(files):
    for turn in range(10):
        barrier = threading.Barrier(6)

        def create(content: bytes, barrier=barrier, turn=turn) -> bool:
            barrier.wait()
            return files.create(f"a/{turn}", content)

        contents = [str(i).encode() for i in range(6)]
        with ThreadPoolExecutor(6) as pool:
            won = list(pool.map(create, contents))
        if files.local:  # the memory file system looks, then writes: two may pass the look
            assert won.count(True) == 1
            assert files.read(f"a/{turn}") == contents[won.index(True)]
        assert True in won
        assert not files.create(f"a/{turn}", b"late")
    assert files.names("a", temporary=True) == sorted(map(str, range(10)))


def _create(url: str, start: object, turns: int) -> list[bool]:
    files, won = Files(url), []
    for turn in range(turns):
        start.wait()
        won.append(files.create(f"a/{turn}", str(os.getpid()).encode()))
    return won


def _creator(url, start, turns, results):
    results.put(_create(url, start, turns))


def test_of_several_processes_that_create_a_file_one_succeeds(tmp_path):
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(4), context.Queue()
    url = str(tmp_path / "store")
    processes = [context.Process(target=_creator, args=(url, start, 20, results)) for _ in range(4)]
    for process in processes:
        process.start()
    won = [results.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(10)
    assert [sum(turn) for turn in zip(*won, strict=True)] == [1] * 20


def test_a_create_whose_answer_was_lost_knows_its_own_file(objects, monkeypatch, impatient):
    real = MemoryFileSystem.pipe_file

    def lost(self, *args, **named):
        real(self, *args, **named)
        monkeypatch.setattr(MemoryFileSystem, "pipe_file", real)
        raise ConnectionResetError

    for content, success in ((b"mine", True), (b"theirs", False)):
        monkeypatch.setattr(MemoryFileSystem, "pipe_file", lost)
        monkeypatch.setattr(objects, "exists", lambda name: False)
        if not success:

            def other(self, path, data, **named):
                real(self, path, b"not mine")
                monkeypatch.setattr(MemoryFileSystem, "pipe_file", real)
                raise ConnectionResetError

            monkeypatch.setattr(MemoryFileSystem, "pipe_file", other)
        assert objects.create(content.decode(), content) is success


def test_sweeping_takes_what_was_left_half_written_but_not_what_others_write(files):
    for name in ("a/x.12345678.tmp", "a/lock-x.json.12345678.tmp", "a/x", "y.12345678.tmp"):
        files.write(name, b"1")
    swept = files.local or isinstance(files.fs, Renaming)  # an object store has no half-written files
    files.sweep("a")
    left = ["a/lock-x.json.12345678.tmp", "a/x", "y.12345678.tmp"]
    assert files.walk() == (left if swept else sorted([*left, "a/x.12345678.tmp"]))
    if swept:
        files.sweep("a", "lock-x.json")
        files.sweep("")
        assert files.walk() == ["a/x"]


# Trouble


def own_error(library: str, name: str = "Trouble", **fields) -> Exception:
    """An error as a library raises it."""
    made = type(name, (Exception,), {"__module__": f"{library}.errors"})("it went wrong")
    for field, value in fields.items():
        setattr(made, field, value)
    return made


PASSING = {
    "reset": ConnectionResetError("peer"),
    "errno": OSError(errno.EIO, "input/output"),
    "timeout": TimeoutError("slow"),
    "aiohttp": own_error("aiohttp"),
    "botocore": own_error("botocore"),
    "503": own_error("aiohttp", status=503),
    "429": own_error("aiohttp", status=429),
}
LASTING = {
    "not there": (FileNotFoundError("x"), FileNotFoundError, "x"),
    "refused": (PermissionError("Access Denied"), FilesError, "access is refused .*credentials"),
    "403": (own_error("aiohttp", status=403), FilesError, "access is refused"),
    "410": (own_error("aiohttp", status=410), FilesError, "cannot be used"),
    "credentials": (own_error("botocore", "NoCredentialsError"), FilesError, "cannot be used .*NoCredentials"),
    "full": (OSError(errno.ENOSPC, "full"), OSError, "full"),
    "ours": (ZeroDivisionError("bug"), ZeroDivisionError, "bug"),
}


@pytest.mark.parametrize("name", PASSING)
def test_trouble_that_may_pass_is_tried_again(objects, monkeypatch, impatient, name, caplog):
    objects.write("x", b"1")
    calls = failing(monkeypatch, "cat_file", PASSING[name], times=3)
    assert objects.read("x") == b"1"
    assert len(calls) == 4 and len(impatient) == 3
    assert len([r for r in caplog.records if "trying again" in r.message]) == 1
    calls = failing(monkeypatch, "put_file", PASSING[name], times=2)
    objects.write("y", b"2")
    assert objects.read("y") == b"2" and len(calls) == 3


@pytest.mark.parametrize("name", LASTING)
def test_trouble_that_lasts_is_said_at_once(objects, monkeypatch, impatient, name):
    error, kind, sentence = LASTING[name]
    objects.write("x", b"1")
    calls = failing(monkeypatch, "cat_file", error, times=99)
    with pytest.raises(kind, match=sentence):
        objects.read("x")
    assert len(calls) == 1 and impatient == []


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only by pauses; gives the pauses that were made, and [seconds now]."""
    pauses: list[float] = []
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "sleep", lambda s: (pauses.append(s), now.__setitem__(0, now[0] + s)))
    return pauses, now


def test_a_store_that_stays_away_is_given_up_within_a_bound_and_then_at_once(objects, monkeypatch, clock):
    objects.write("x", b"1")
    calls = failing(monkeypatch, "cat_file", ConnectionRefusedError("nobody there"), times=99)
    with pytest.raises(FilesError, match="does not answer .ConnectionRefusedError: nobody there.; when it does, run"):
        objects.read("x")
    assert 8 < len(calls) < 20
    tries = len(calls)
    with pytest.raises(FilesError):
        objects.read("x")
    assert len(calls) <= tries + 2
    clock[1][0] += 100.0  # longer than a store's patience: later trouble is new trouble
    del calls[:]
    with pytest.raises(FilesError):
        objects.read("x")
    assert len(calls) > 8


def test_one_outage_does_not_count_for_the_next(objects, monkeypatch, clock):
    objects.write("x", b"1")
    for _ in range(3):
        failing(monkeypatch, "cat_file", ConnectionRefusedError(), times=8)  # about 30 s
        assert objects.read("x") == b"1"
        monkeypatch.undo()
        monkeypatch.setattr(module.time, "monotonic", lambda: clock[1][0])
        monkeypatch.setattr(module.time, "sleep", lambda s: clock[1].__setitem__(0, clock[1][0] + s))
    assert clock[1][0] > 1000 + 75


def test_pauses_grow_to_a_bound(objects, monkeypatch, clock):
    pauses, _ = clock
    failing(monkeypatch, "cat_file", ConnectionRefusedError(), times=99)
    with pytest.raises(FilesError):
        objects.read("x")
    assert 0.16 <= pauses[0] <= 0.24 and all(6.4 <= p <= 9.6 for p in pauses[-2:])
    assert all(b > a for a, b in zip(pauses[:5], pauses[1:6], strict=True))
    assert 40 < sum(pauses) <= 60


def test_a_try_that_takes_long_by_itself_is_not_made_for_ever(objects, monkeypatch, clock):
    calls = []

    def slow(self, *args, **named):
        calls.append(1)
        clock[1][0] += 77.0
        raise TimeoutError("no answer")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", slow)
    with pytest.raises(FilesError, match="does not answer"):
        objects.read("x")
    assert len(calls) == 1


def test_a_missing_bucket_is_said_when_writing(objects, monkeypatch):
    failing(monkeypatch, "put_file", FileNotFoundError("NoSuchBucket"), times=1)
    with pytest.raises(FilesError, match="no such bucket or folder"):
        objects.write("x", b"1")


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "no space is left; free some and run the same command again"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "may not write"),
        (errno.EPERM, "may not write"),
    ],
)
def test_a_disk_that_refuses_is_one_sentence(tmp_path, monkeypatch, number, sentence):
    files = Files(str(tmp_path))

    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.os, "fsync", refuse)
    with pytest.raises(FilesError, match=sentence) as caught:
        files.write("a/x", b"1")
    assert caught.value.errno == number
    assert "a/x cannot be written" in str(caught.value)
    assert files.names("a", temporary=True) == []


def test_a_folder_this_user_may_not_write_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*args, **named):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(module.os, "makedirs", refuse)
    for act in (Files(str(tmp_path)).write, Files(str(tmp_path)).create):
        with pytest.raises(FilesError, match="may not write"):
            act("a/x", b"1")


def test_nothing_is_written_over_http():
    files = Files.__new__(Files)
    files.url, files._protocol, files.local, files._moves = "http://server/store", "http", False, False
    for act in (
        lambda: files.write("x", b"1"),
        lambda: files.create("x", b"1"),
        lambda: files.remove("x"),
        lambda: files.remove_folder("x"),
    ):
        with pytest.raises(FilesError, match="http://server/store can only be read"):
            act()


# Logs


def test_lines_come_back_in_order_also_from_several_writers(files, monkeypatch):
    monkeypatch.setattr(Lines, "EVERY", 0.0)
    for first in (0, 3):
        with Lines(files, "ledger/x") as log:
            for number in range(first, first + 3):
                log.add({"n": number})
                time.sleep(0.001)
    records, names = read_lines(files, "ledger/x")
    assert records == [{"n": n} for n in range(6)]
    assert len(names) == (2 if files.local else 6)
    assert read_lines(files, "ledger/y") == ([], [])


def test_a_line_is_there_at_once_on_a_disk_and_at_the_end_elsewhere(files):
    with Lines(files, "x") as log:
        log.add({"n": 1})
        assert read_lines(files, "x")[0] == ([{"n": 1}] if files.local else [])
    assert read_lines(files, "x")[0] == [{"n": 1}]


def test_lines_that_wait_are_kept_when_the_work_fails(objects):
    with pytest.raises(ZeroDivisionError), Lines(objects, "x") as log:
        log.add({"n": 1})
        raise ZeroDivisionError
    assert read_lines(objects, "x")[0] == [{"n": 1}]


def test_a_log_without_lines_leaves_no_file(files):
    with Lines(files, "x"):
        pass
    assert files.walk() == []


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_last_line_is_left_out(tmp_path, cut):
    files = Files(str(tmp_path))
    with Lines(files, "x") as log:
        log.add({"n": 1})
        log.add({"text": "ü" * 40})
    [name] = files.names("x")
    path = files.path(f"x/{name}")
    os.truncate(path, os.path.getsize(path) - cut)
    assert read_lines(files, "x")[0] == [{"n": 1}]


# Locks


def held(files: Files, **fields) -> None:
    me = psutil.Process()
    value = {"host": socket.gethostname(), "pid": me.pid, "born": me.create_time(), "key": "k", "beat": time.time()}
    files.write("ledger/lock-store.json", json.dumps({**value, **fields}).encode())


def lock(files: Files, **named) -> Lock:
    return Lock(files, "ledger/lock-store.json", **named)


@pytest.fixture
def quick_locks(monkeypatch):
    monkeypatch.setattr(Lock, "SETTLE", 0.01)
    monkeypatch.setattr(Lock, "WRITING", 0.3)


def test_a_lock_is_held_by_one_says_by_whom_and_goes(files, quick_locks):
    with lock(files):
        assert files.names("ledger") == ["lock-store.json"]
        with pytest.raises(Busy, match=rf"process {os.getpid()} on {socket.gethostname()} .*UTC\); wait for it, or"):
            lock(files).__enter__()
    assert files.walk() == []
    with pytest.raises(ZeroDivisionError), lock(files):
        raise ZeroDivisionError
    assert files.walk() == []


def test_a_lock_of_a_process_of_this_machine_that_is_gone_is_taken_over(files, quick_locks):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    born = psutil.Process(ended.pid).create_time()
    ended.wait()
    earlier = {"born": psutil.Process().create_time() - 100}  # a process that had this one's number
    for fields in ({"pid": ended.pid, "born": born}, earlier, {"pid": 2**22 + 1}):
        held(files, **fields)
        with lock(files):
            assert json.loads(files.read("ledger/lock-store.json"))["pid"] == os.getpid()
    assert files.walk() == []


def test_a_lock_of_another_machine_is_taken_over_only_when_it_is_old(files, quick_locks):
    held(files, host="elsewhere", beat=time.time() - Lock.DEAD + 10)
    with pytest.raises(Busy, match="on elsewhere"):
        lock(files).__enter__()
    held(files, host="elsewhere", beat=time.time() - Lock.DEAD - 1)
    with lock(files):
        pass
    assert files.walk() == []


def test_a_lock_that_cannot_be_read_is_taken_over(files, quick_locks):
    files.write("ledger/lock-store.json", b"{")
    with lock(files):
        assert json.loads(files.read("ledger/lock-store.json"))["pid"] == os.getpid()


def test_a_lock_shows_signs_of_life(files, monkeypatch):
    monkeypatch.setattr(Lock, "BEAT", 0.02)
    with lock(files):
        first = json.loads(files.read("ledger/lock-store.json"))["beat"]
        deadline = time.monotonic() + 5
        while json.loads(files.read("ledger/lock-store.json"))["beat"] == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert json.loads(files.read("ledger/lock-store.json"))["beat"] > first
    time.sleep(0.1)
    assert files.walk() == []


def test_a_lock_that_somebody_took_over_is_left_to_them(files, monkeypatch, caplog):
    monkeypatch.setattr(Lock, "BEAT", 0.02)
    with lock(files):
        for _ in range(50):  # a beat that is just being written may go over it
            held(files, host="elsewhere")
            time.sleep(0.1)
            if "taken over" in caplog.text:
                break
    assert json.loads(files.read("ledger/lock-store.json"))["host"] == "elsewhere"


def test_who_takes_over_a_lock_and_has_it_taken_in_turn_does_not_hold_it(files, monkeypatch, quick_locks):
    held(files, host="elsewhere", beat=0.0)
    real, tries = Files.create, []

    def create(self, name, data):
        done = real(self, name, data)
        tries.append(done)
        if done:  # one who saw the same dead holder comes a moment later
            held(files, host="third")
        return done

    monkeypatch.setattr(Files, "create", create)
    with pytest.raises(Busy, match="on third"):
        lock(files).__enter__()
    assert tries == [False, True]


@pytest.mark.slow
def test_of_several_that_see_a_dead_holder_one_gets_the_lock(tmp_path):
    files = Files(str(tmp_path))
    for _ in range(3):
        held(files, host="elsewhere", beat=0.0)
        barrier = threading.Barrier(5)
        inside: list[int] = []
        busy: list[int] = []

        def enter(_: int, barrier=barrier, inside=inside, busy=busy) -> bool:
            barrier.wait()
            try:
                with lock(Files(str(tmp_path))):
                    inside.append(1)
                    end = time.monotonic() + 10.0
                    while len(inside) + len(busy) < 5 and time.monotonic() < end:
                        time.sleep(0.01)  # held until everybody has tried
                    return True
            except Busy:
                busy.append(1)
                return False

        with ThreadPoolExecutor(5) as pool:
            assert list(pool.map(enter, range(5))).count(True) == 1


def test_waiting_for_a_lock_ends_when_it_is_free(files, monkeypatch):
    monkeypatch.setattr(Lock, "POLL", 0.05)
    order = []
    first = lock(files)
    first.__enter__()

    def second() -> None:
        with lock(files, wait=True):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    time.sleep(0.2)
    order.append("first")
    first.__exit__()
    thread.join(10)
    assert order == ["first", "second"]


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40_000), st.integers(0, 3000)), max_size=8),
    st.sampled_from([0.0, 0.07, 0.5, float("inf")]),
)
def test_ranges_are_asked_for_together_within_the_waste_allowed(pieces, waste):
    wanted = [(name, start, start + size) for name, start, size in pieces]
    spans = module.together(wanted, waste)
    assert spans == sorted(spans) and len(spans) <= len(wanted)
    for name, start, end in wanted:
        assert any(n == name and a <= start and end <= b for n, a, b in spans)
    needed = {(name, byte) for name, start, end in wanted for byte in range(start, end)}
    extra = sum(b - a for _, a, b in spans) - len(needed)
    headers = len(wanted) * ranges._HEADER
    if waste < float("inf"):
        assert extra <= waste * sum(end - start for _, start, end in wanted) + headers
    else:
        assert all(b[1] - a[2] > ranges._GAP for a, b in zip(spans, spans[1:], strict=False) if a[0] == b[0])
