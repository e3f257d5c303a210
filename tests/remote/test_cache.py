"""The cache on local disk: what it holds is what the server has, whatever happens to disk, server and processes."""

from __future__ import annotations

import errno
import itertools
import logging
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from remot_data.reading.loader import Loader
from remot_data.reading.stream import Plan
from remot_data.store import cache as cache_module
from remot_data.store.cache import BLOCK, Cache
from remot_data.store.files import Files
from tests.remote.servers import Proxy, web_server

pytestmark = pytest.mark.slow

TOLD = {"length": 4, "seed": 1}


@pytest.fixture(scope="module")
def served(dancers):
    with web_server(Path(dancers.url).parent) as web:
        yield web


@pytest.fixture(scope="module")
def wanted(dancers):
    return list(Loader(Plan(dancers, **TOLD), 2))


def plan_of(served, cache):
    return Plan(f"{served.url}/store", **TOLD, cache=cache)


def same(found, wanted):
    return len(found) == len(wanted) and all(
        a["id"] == b["id"] and all(np.array_equal(a[k], b[k]) for k in ("frames", "labels", "flow", "source"))
        for a, b in zip(found, wanted, strict=True)
    )


def tars(served):
    return [(path, first, end) for path, first, end in served.log if path.endswith(".tar")]


def size_of(folder):
    return sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())


def test_every_block_is_fetched_once_in_all_epochs(served, wanted, dancers, tmp_path):
    served.log.clear()
    for _ in range(2):
        for decoding in ({"threads": 2}, {"workers": 2}):
            assert same(list(Loader(plan_of(served, Cache(tmp_path)), 2, **decoding)), wanted)
    fetched = tars(served)
    assert len(fetched) == len(set(fetched)) and all(first % BLOCK == 0 for _, first, _ in fetched)
    read = sum(end - first for _, first, end in fetched)
    assert read <= sum(p.stat().st_size for p in Path(dancers.url).rglob("*.tar"))


def test_a_torn_block_is_noticed_and_fetched_again(served, wanted, tmp_path, caplog):
    list(Loader(plan_of(served, Cache(tmp_path)), 2))
    blocks = [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size > 100]
    os.truncate(blocks[0], blocks[0].stat().st_size // 2)
    data = bytearray(blocks[1].read_bytes())
    data[len(data) // 2] ^= 1
    blocks[1].write_bytes(data)
    blocks[2].write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert same(list(Loader(plan_of(served, Cache(tmp_path)), 2)), wanted)
    assert all(str(block) in caplog.text for block in blocks[:3])
    caplog.clear()
    assert same(list(Loader(plan_of(served, Cache(tmp_path)), 2)), wanted)
    assert "torn" not in caplog.text


def pieces(files, cache, wanted):
    return cache.pieces(files, wanted, {name: name for name, _, _ in wanted})


@pytest.fixture
def big(tmp_path):
    """Files of 4.5 blocks, at a URL that counts as remote."""
    chance = np.random.default_rng(0)
    files = Files("memory://big-" + tmp_path.name)
    contents = {f"{n}.tar": chance.bytes(BLOCK * 9 // 2) for n in range(6)}
    for name, data in contents.items():
        files.write(name, data)
    return files, contents


def test_pieces_over_the_ends_of_blocks_and_of_the_file(big, tmp_path):
    files, contents = big
    cache, chance = Cache(tmp_path / "cache"), np.random.default_rng(1)
    for _ in range(2):
        for _ in range(40):
            a, b = sorted(chance.integers(0, BLOCK * 9 // 2 + 1000, 2).tolist())
            name = f"{chance.integers(6)}.tar"
            asked = [(name, a, b), ("0.tar", BLOCK - 5, BLOCK + 5), (name, a, a)]
            assert pieces(files, cache, asked) == [contents[n][x:y] for n, x, y in asked]


def test_the_size_is_kept_and_what_was_used_last_stays(big, tmp_path, monkeypatch):
    files, contents = big
    monkeypatch.setattr(cache_module, "_FRESH", 0.0)
    limit = 10 * BLOCK
    cache = Cache(tmp_path / "cache", limit)
    for number in range(6):
        for block in range(4):
            pieces(files, cache, [(f"{number}.tar", block * BLOCK, block * BLOCK + 10)])
            pieces(files, cache, [("0.tar", 0, 10)])
            assert size_of(tmp_path / "cache") <= limit + BLOCK + 1000
            time.sleep(0.002)
    files.remove("0.tar")
    assert pieces(files, cache, [("0.tar", 0, 10)]) == [contents["0.tar"][:10]]
    assert size_of(tmp_path / "cache") > limit / 2


def test_what_kills_left_is_swept(big, tmp_path):
    files, _ = big
    old = tmp_path / "cache" / "ab" / "x.1-0.tmp"
    old.parent.mkdir(parents=True)
    for path in (old, old.with_name("y.1-0.tmp")):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    pieces(files, Cache(tmp_path / "cache"), [("0.tar", 0, 10)])
    assert not old.exists() and old.with_name("y.1-0.tmp").exists()


def test_a_disk_that_is_full_is_said_once_and_read_past(served, wanted, tmp_path, caplog, monkeypatch):
    real, left = os.replace, [2]

    def replace(source, target):
        if str(target).startswith(str(tmp_path)):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with caplog.at_level(logging.WARNING):
        assert same(list(Loader(plan_of(served, Cache(tmp_path)), 2, threads=3)), wanted)
    assert caplog.text.count("reading continues without it") == 1
    assert left[0] < 0 and not list(tmp_path.rglob("*.tmp"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_really_is_full(served, wanted, small_disk, caplog):
    (small_disk / "rest").write_bytes(bytes(1_500_000))
    with caplog.at_level(logging.WARNING):
        assert same(list(Loader(plan_of(served, Cache(small_disk)), 2)), wanted)
    assert caplog.text.count("No space left on device") == 1


def test_a_cache_that_makes_no_sense_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="is no folder"):
        Cache(tmp_path / "file")
    with pytest.raises(ValueError, match="holds no block"):
        Cache(tmp_path, 1000)


def read_all(url, folder, done):
    found = list(Loader(Plan(url, **TOLD, cache=Cache(folder)), 2, threads=2))
    done.put([batch["id"] for batch in found] + [int(batch["frames"].sum()) for batch in found])


def test_processes_share_it_and_fetch_each_block_once(served, wanted, tmp_path):
    context = multiprocessing.get_context("fork")
    served.log.clear()
    done = context.Queue()
    told = (f"{served.url}/store", tmp_path, done)
    workers = [context.Process(target=read_all, args=told) for _ in range(3)]
    for worker in workers:
        worker.start()
    results = [done.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(20)
    assert all(r == [b["id"] for b in wanted] + [int(b["frames"].sum()) for b in wanted] for r in results)
    assert len(tars(served)) == len(set(tars(served)))


def hold(folder, ready):
    cache = Cache(folder)
    with cache._claimed([cache._path(f"0.tar-{BLOCK}", n) for n in range(5)]):
        ready.set()
        time.sleep(1000)


def test_a_killed_holder_of_a_lock_stops_nobody(big, tmp_path):
    files, contents = big
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=hold, args=(tmp_path / "cache", ready))
    worker.start()
    assert ready.wait(20)
    threading.Timer(0.5, os.kill, (worker.pid, signal.SIGKILL)).start()
    started = time.monotonic()
    assert pieces(files, Cache(tmp_path / "cache"), [("0.tar", 0, 10)]) == [contents["0.tar"][:10]]
    assert 0.3 < time.monotonic() - started < 10
    worker.join(10)


def test_a_stopped_holder_of_a_lock_is_not_waited_for_forever(big, tmp_path, monkeypatch):
    files, contents = big
    monkeypatch.setattr(cache_module, "_WAIT", 1.0)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=hold, args=(tmp_path / "cache", ready))
    worker.start()
    assert ready.wait(20)
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        assert pieces(files, Cache(tmp_path / "cache"), [("0.tar", 0, 10)]) == [contents["0.tar"][:10]]
        assert 0.9 < time.monotonic() - started < 10
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.join(10)


@pytest.mark.parametrize("cached", [True, False])
def test_a_server_that_is_away_for_five_seconds_is_waited_for(served, wanted, tmp_path, cached):
    proxy = Proxy(int(served.url.rsplit(":", 1)[1]))
    plan = Plan(f"http://127.0.0.1:{proxy.port}/store", **TOLD, cache=Cache(tmp_path) if cached else None)
    batches, found = iter(Loader(plan, 2, threads=2, ahead=1)), []
    found.append(next(batches))
    proxy.away(5.0)
    started = time.monotonic()
    found += batches
    assert same(found, wanted)
    assert time.monotonic() - started < 25
    proxy.down()


@pytest.mark.parametrize("layers", [*itertools.combinations(("pose", "parsing", "flow", "background"), 2)])
def test_a_window_reads_its_members_and_little_more(served, dancers, layers):
    """Two of five layers, frames of the size that is usual."""
    plan = Plan(f"{served.url}/store", layers=layers, length=6)
    near = Plan(dancers, layers=layers, length=6)
    read = members = 0
    for number in range(len(plan)):
        served.log.clear()
        plan.window(number)
        read += sum(end - first for _, first, end in tars(served))
        keys = [(folder, ext, t) for folder, _, ext, which in near.members(number)[1] for t in which]
        own = dict(zip(keys, near.fetch(number), strict=True))  # the source may be in the window
        members += sum(map(len, own.values()))
    assert members <= read <= 1.1 * members
