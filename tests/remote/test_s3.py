"""Stores on S3: a real server process on loopback, behind a proxy that fails as networks do."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from remot_data import media
from remot_data.annotating.annotate import annotate
from remot_data.care.compact import compact, remove
from remot_data.care.status import status
from remot_data.care.verify import verify
from remot_data.cli.commands import invoke
from remot_data.ingest.build import build
from remot_data.reading.stream import Plan, stream
from remot_data.records import is_sealed
from remot_data.store import files as files_module
from remot_data.store import open_store
from remot_data.store.disk import FilesError
from remot_data.store.files import Files
from remot_data.store.lock import Busy, Lock
from remot_data.store.shards import file_meta
from tests.remote.conftest import LAYERS, POLICY, content, copied, videos
from tests.remote.servers import Proxy, Request, s3_server

pytestmark = pytest.mark.slow
OPTIONS = "--size 128x96 --fps 12 --min-frames 4 --max-frames 8 --shard-frames 8 --persons main --no-layers".split()
RUN = "from remot_data.cli import main; main()"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Proxy]:
    """S3 behind a proxy; the environment points to it."""
    with s3_server(tmp_path_factory.mktemp("s3")) as port, pytest.MonkeyPatch.context() as patch:
        proxy = Proxy(port)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1")
        Files("s3://bucket").fs.mkdir("bucket")
        yield proxy
        proxy.down()


@pytest.fixture
def proxy(server) -> Iterator[Proxy]:
    server.forget()
    yield server
    server.watch = lambda request: False


@pytest.fixture
def url(proxy, request) -> str:
    """A place of its own for each test."""
    return f"s3://bucket/{abs(hash(request.node.nodeid)):x}"


@pytest.fixture(scope="module")
def remote_dancers(server, dancers) -> str:
    copied(dancers.url, "s3://bucket/dancers")
    return "s3://bucket/dancers"


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Whatever a test started is gone when it ends."""
    yield
    for process in _started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _started.clear()


def start(url: str, *more: str, run: str = RUN) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", run, "build", *videos(), "--out", url, *OPTIONS, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    _started.append(process)
    return process


def finish(url: str, *more: str) -> str:
    process = start(url, *more)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return printed


def half_visible(url: str) -> list[str]:
    """Every file that shows and is not whole: tars by their index, the others by their seal."""
    files, wrong = Files(url), []
    names = files.walk()
    for name in names:
        try:
            data = files.read(name)
        except FileNotFoundError:  # a lock or a part of a log that is gone since
            assert name.startswith("ledger/")
            continue
        if name.endswith(".tar"):
            index = f"{name.removesuffix('.tar')}.parquet"
            if index in names:
                told = file_meta(files.read(index))
                if (told["bytes"], told["sha256"]) != (len(data), hashlib.sha256(data).hexdigest()):
                    wrong.append(name)
            elif data[-1024:] != bytes(1024):
                wrong.append(name)
        elif "/lock-" in name:
            json.loads(data)
        elif name.endswith(".jsonl"):
            wrong += [name for line in data.split(b"\n")[:-1] if not is_sealed(line)]
        elif not is_sealed(data):
            wrong.append(name)
    return wrong


# The same store


@pytest.mark.parametrize("workers", [0, 2])
def test_a_build_gives_the_same_bytes_as_on_a_disk(url, plain, workers):
    build(videos(), url, policy=POLICY, layers={}, workers=workers)
    assert content(url) == plain
    assert list(verify(open_store(url))) == []


def test_layers_growing_annotating_removing_and_compacting_as_on_a_disk(url, layered, tmp_path):
    """One store here and one there, and the same done to both."""
    here = str(tmp_path / "store")
    for place in (here, url):
        build(videos(), place, policy=POLICY, layers=LAYERS, workers=0)
    assert content(url) == content(layered)
    for place in (here, url):
        build(videos(2), place, workers=0)
        annotate(place, "flow", "dis", snapshot="other", workers=0)
    assert content(url) == content(here)
    assert len(open_store(url).clips) > 3
    for place in (here, url):
        store = open_store(place)
        remove(store, [store.clips[0].id], "a test")
        assert compact(open_store(place), workers=0) == 1
    assert content(url) == content(here)
    assert list(verify(open_store(url))) == []
    assert [n for n in Files(url).walk() if n.endswith(".tmp") or "/lock-" in n] == []


def test_verify_finds_a_flipped_byte_a_cut_tar_and_an_empty_file(url, layered):
    copied(layered, url)
    store, tar = open_store(url), "frames/shard-00000.tar"
    data = store.files.read(tar)
    for broken in (data[:-700] + bytes([data[-700] ^ 1]) + data[-699:], data[:5000], b""):
        store.files.write(tar, broken)
        assert {p.name for p in verify(open_store(url))} == {tar}
    with pytest.raises(Exception, match="cut short"):
        open_store(url).read_arrays("frames", "frames", store.clips[0])


def test_windows_and_frames_are_those_of_the_store_on_the_disk(remote_dancers, dancers):
    options = {"length": 4, "seed": 3, "layers": None}
    count = 0
    for near, far in zip(stream(dancers.url, **options), stream(remote_dancers, **options), strict=True):
        count += 1
        assert near.id == far.id
        assert near.arrays.keys() == far.arrays.keys()
        assert all(np.array_equal(near.arrays[name], far.arrays[name]) for name in near.arrays)
    assert count > 5
    key = dancers.clips[1].key(7)
    near, far = dancers[key], open_store(remote_dancers)[key]
    assert near.keys() == far.keys() and np.array_equal(near["frames"], far["frames"])


def test_a_forked_process_reads_too(remote_dancers):
    """As the workers of a torch data loader do."""
    plan = Plan(remote_dancers, layers=["pose"])
    wanted = plan.window(1).arrays["frames"].sum()
    pipe, other = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(other, str(plan.window(1).arrays["frames"].sum()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(pipe, 100) == str(wanted).encode()


# What it costs


def test_requests_for_opening_and_for_a_window(remote_dancers, proxy):
    store = open_store(remote_dancers)
    assert len(proxy.requests) == 1
    plan = Plan(store, layers=["parsing", "flow"])
    # snapshot, clips, what was removed, and each layer's description (twice at most)
    assert len(proxy.requests) <= 1 + 3 + 2 * 2
    for index in range(4):
        plan.window(index)
    proxy.forget()
    plan.window(0)
    # One a layer, and one more where the source frame lies apart.
    assert 3 <= len(proxy.requests) <= 5, [r.head for r in proxy.requests]
    assert all(r.method == "GET" and "list-type" not in r.target for r in proxy.requests)


def test_requests_of_a_task_to_know_its_clips(remote_dancers, proxy):
    store = open_store(remote_dancers)
    proxy.forget()
    store.shard_clips(1)
    assert [r.method for r in proxy.requests] == ["HEAD", "GET"]


# Kills


@pytest.mark.parametrize(("puts", "workers"), [(1, 0), (3, 2), (6, 0), (8, 2), (10, 0), (12, 0)])
def test_a_build_killed_while_it_writes_goes_on_to_the_same_bytes(url, proxy, plain, puts, workers):
    """Kill -9 of the driver and its workers when it begins its nth upload, a part of which still arrives."""
    seen = []
    process = start(url, "--workers", str(workers))

    def kill(request: Request) -> bool | int:
        if request.method != "PUT":
            return False
        seen.append(request.path)
        if len(seen) != puts:
            return False
        os.killpg(process.pid, signal.SIGKILL)
        return len(request.head) + 300

    proxy.watch = kill
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    proxy.watch = lambda request: False
    assert half_visible(url) == []
    finish(url, "--workers", str(workers))
    assert content(url) == plain
    assert list(verify(open_store(url))) == []


def test_nothing_half_written_shows_at_any_moment_of_a_build(url, proxy):
    process = start(url, "--workers", "2")
    looks, wrong = 0, []
    while process.poll() is None:
        wrong += half_visible(url)
        looks += 1
    assert process.returncode == 0, process.communicate()[0]
    assert wrong == []
    assert looks > 5


def test_an_upload_in_parts_that_was_cut_off_does_not_show(url, proxy, monkeypatch):
    """The driver is gone after the second part of a tar; the object is not there, only parts nobody sees."""
    files = Files(url)
    real = files.fs.put_file
    monkeypatch.setattr(files.fs, "put_file", lambda here, there: real(here, there, chunksize=5 * 2**20))
    data = os.urandom(14 * 2**20)
    script = (
        f"from remot_data.store.files import Files; files = Files({url!r}); real = files.fs.put_file\n"
        "files.fs.put_file = lambda here, there: real(here, there, chunksize=5 * 2**20)\n"
        "with files.writing('x.tar') as file: file.write(bytes(14 * 2**20))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    parts = []

    def kill(request: Request) -> bool:
        if "partNumber" in request.target:
            parts.append(request.target)
            if len(parts) == 2:
                process.kill()
                return True
        return False

    proxy.watch = kill
    assert process.wait(timeout=60) == -signal.SIGKILL
    proxy.watch = lambda request: False
    assert not files.exists("x.tar") and files.walk() == []
    # Parts that are cut off are sent again, and the whole is what it should be.
    cut = []

    def cut_once(request: Request) -> bool:
        if "partNumber" in request.target and not cut:
            cut.append(request)
            return True
        return False

    proxy.watch = cut_once
    files.write("x.tar", data)
    assert cut and files.read("x.tar") == data


# Locks


def test_of_several_that_create_an_object_one_succeeds(url, proxy):
    """S3 refuses to overwrite where it is asked to (If-None-Match)."""
    for turn in range(10):
        with ThreadPoolExecutor(4) as pool:
            won = list(pool.map(lambda n, turn=turn: Files(url).create(f"x{turn}", str(n).encode()), range(4)))
        assert won.count(True) == 1
        assert Files(url).read(f"x{turn}") == str(won.index(True)).encode()
    puts = [r for r in proxy.requests if r.method == "PUT"]
    assert puts and all("if-none-match: *" in r.head.lower() for r in puts)


def test_a_second_build_says_who_holds_the_store_or_waits(url, plain):
    build(videos(), url, policy=POLICY, layers={}, workers=0)
    store = open_store(url)
    with store.lock():
        with pytest.raises(Busy, match=f"process {os.getpid()}"):
            build(videos(), url, layers={}, workers=0)
        second = start(url, "--workers", "0", "--wait")
        time.sleep(4)
        assert second.poll() is None
    printed, _ = second.communicate(timeout=120)
    assert second.returncode == 0, printed
    assert content(url) == plain


# Outages


def test_a_server_that_is_away_for_a_while_is_waited_for(url, proxy, plain):
    """Every connection drops and new ones are refused for 3 s, twice in a build."""
    marks = [4, 9]

    def away(request: Request) -> bool:
        if marks and sum(r.method == "PUT" for r in proxy.requests) >= marks[0]:
            marks.pop(0)
            threading.Thread(target=proxy.away, args=(3.0,)).start()
        return False

    proxy.watch = away
    printed = finish(url, "--workers", "2")
    assert not marks and "Traceback" not in printed
    assert content(url) == plain


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_server_that_stays_away_ends_a_build_with_one_sentence(url, proxy, workers):
    """With a patience of 5 s in place of a minute, also in the workers."""
    process = start(url, "--workers", workers, run=f"import remot_data.store.files as f; f._PATIENCE = 5.0; {RUN}")

    def away(request: Request) -> bool:
        if sum(r.method == "PUT" for r in proxy.requests) == 4:
            threading.Thread(target=proxy.down).start()
        return False

    proxy.watch = away
    try:
        printed, _ = process.communicate(timeout=240)
    finally:
        proxy.down()
        proxy.up()
    assert process.returncode == 2, printed
    assert "Traceback" not in printed
    assert f"{url} does not answer" in printed and "run the same command again" in printed


def test_a_server_that_was_never_there_is_one_sentence(proxy, monkeypatch):
    monkeypatch.setattr(files_module, "_PATIENCE", 1.0)
    proxy.down()
    started = time.monotonic()
    try:
        with pytest.raises(FilesError, match="s3://bucket/none does not answer"):
            open_store("s3://bucket/none")
    finally:
        proxy.up()
    assert time.monotonic() - started < 60


def test_a_bucket_that_is_not_there_and_one_that_is_closed_are_one_sentence(proxy, monkeypatch):
    with pytest.raises(FilesError, match="no such bucket"):
        build(videos(), "s3://nobody/store", policy=POLICY, layers={}, workers=0)
    monkeypatch.setattr(Files("s3://bucket").fs, "_call_s3", _denied)
    started = time.monotonic()
    for act in (lambda f: f.read("x"), lambda f: f.exists("x"), lambda f: f.names(""), lambda f: f.create("x", b"")):
        with pytest.raises(FilesError, match="access is refused .Access Denied.; check the credentials"):
            act(Files("s3://bucket/x"))
    assert time.monotonic() - started < 5


async def _denied(*args, **named):
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    answer = {
        "Error": {"Code": "AccessDenied", "Message": "Access Denied"},
        "ResponseMetadata": {"HTTPStatusCode": 403},
    }
    raise translate_boto_error(ClientError(answer, "GetObject"))


def test_watching_and_asking_on_s3(proxy, url, dancers, monkeypatch, tmp_path, capsys):
    """Who writes and how far they are, what changed, the card, a clip as a video: none of it needs a local disk."""
    copied(dancers.url, url)
    store = open_store(url)
    monkeypatch.setattr(Lock, "BEAT", 0.1)
    with store.lock() as lock:
        lock.telling()("frames", 2, 5)
        end = time.monotonic() + 20
        while not (doing := status(open_store(url)).writers[0].doing):
            assert time.monotonic() < end
            time.sleep(0.1)
        assert (doing[0].what, doing[0].done, doing[0].total) == ("frames", 2, 5)
    found = status(store)
    assert found.writers == () and (found.clips, found.frames) == (3, 90)

    remove(store, [store.clips[0].id])
    assert invoke(["snapshot", url, "main"]) == 0
    assert invoke(["diff", url, "main", "main", "--in", dancers.url]) == 0
    assert "clips: 2 -> 3" in capsys.readouterr().out
    assert invoke(["diff", url, "main@2999-01-01"]) == 0
    assert "no difference" in capsys.readouterr().out
    assert invoke(["card", url, "--out", str(tmp_path / "card")]) == 0
    assert "2 clips of 2 persons" in (tmp_path / "card/README.md").read_text()
    clip = store.clips[-1]
    assert invoke(["view", url, clip.id, "--out", str(tmp_path / "clip.mp4"), "--layer", "pose"]) == 0
    assert media.probe(tmp_path / "clip.mp4").size == (2 * 192, 256)
