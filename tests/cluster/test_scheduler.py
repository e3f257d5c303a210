"""Builds on a scheduler and workers that were started as processes of their own, and what happens when these die."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from dask.distributed import Client, LocalCluster

from remot_data.engine import EngineError, open_engine
from remot_data.engine import cluster as cluster_module
from remot_data.ingest.inputs import Input
from remot_data.ingest.policy import Policy
from remot_data.ingest.scan import scan
from remot_data.media.identity import stamp
from tests.cluster.conftest import Cluster
from tests.crash.harness import TINY, assert_sound, content, remot, started, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
GONE = "is gone; start one and run the same command again"


def building(clips: list[str], out: Path, address: str, *options: str) -> list[str]:
    return ["build", *clips[:2], "--out", str(out), *TINY, "--scheduler", address, *options]


def in_the_middle(store: Path) -> list[Path]:
    """Shards of frames that are being written."""
    return list(store.glob("frames/*.tar.*.tmp"))


def writes(pid: int, store: Path) -> bool:
    """Whether a process is writing a shard of frames."""
    with suppress(psutil.Error):
        names = {file.path for file in psutil.Process(pid).open_files()}
        return any(str(path) in names for path in in_the_middle(store))
    return False


def test_the_same_bytes_as_without_workers(clips, complete, cluster, tmp_path):
    """All default layers, on two workers that declare a CPU each."""
    cluster.start_scheduler()
    for _ in range(2):
        cluster.start_worker("--resources", "CPU=1")
    status, printed = remot(*building(clips, tmp_path / "store", cluster.address))
    assert status == 0, printed
    assert_sound(tmp_path / "store", content(complete))


def test_a_worker_that_is_killed_loses_only_its_task(clips, frames_only, cluster, tmp_path):
    out = tmp_path / "store"
    cluster.start_scheduler()
    workers = [cluster.start_worker(), cluster.start_worker()]
    with started(*building(clips, out, cluster.address, "--no-layers")) as build:
        busy = wait_for(lambda: [w for w in workers if writes(w.pid, out)], 60, build)
        busy[0].kill()
        printed, _ = build.communicate(timeout=60)
        assert build.returncode == 0, printed
    assert len(in_the_middle(out)) == 1 and content(out) == content(frames_only)
    status, printed = remot(*building(clips, out, cluster.address, "--no-layers"))
    assert status == 0, printed
    assert_sound(out, content(frames_only))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_scheduler_that_is_killed_ends_the_build_and_a_new_one_goes_on(how, clips, frames_only, cluster, tmp_path):
    out = tmp_path / "store"
    cluster.start_scheduler()
    cluster.start_worker()
    with started(*building(clips, out, cluster.address, "--no-layers")) as build:
        wait_for(lambda: in_the_middle(out), 60, build)
        cluster.scheduler.send_signal(how)
        killed = time.monotonic()
        printed, _ = build.communicate(timeout=60)
    assert (build.returncode, GONE in printed) == (2, True), printed
    assert "Traceback" not in printed and time.monotonic() - killed < 30
    cluster.start_scheduler()
    cluster.start_worker()
    status, printed = remot(*building(clips, out, cluster.address, "--no-layers"))
    assert status == 0, printed
    assert_sound(out, content(frames_only))


def test_workers_may_join_later(clips, frames_only, cluster, tmp_path):
    out = tmp_path / "store"
    cluster.start_scheduler()
    with started(*building(clips, out, cluster.address, "--no-layers")) as build:
        wait_for(lambda: (out / "ledger/lock-store.json").exists(), 60, build)
        time.sleep(2)
        assert build.poll() is None and not (out / "clips.parquet").exists()
        cluster.start_worker()
        printed, _ = build.communicate(timeout=90)
    assert build.returncode == 0 and "has no worker now; waiting for one" in printed, printed
    assert_sound(out, content(frames_only))


def test_a_cluster_that_grows_and_shrinks_loses_no_work(clips, frames_only, tmp_path):
    out = tmp_path / "store"
    options = {"n_workers": 0, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(**options) as local:
        local.adapt(minimum=0, maximum=2, interval="200ms", wait_count=1)
        status, printed = remot(*building(clips, out, local.scheduler_address, "--no-layers"))
        assert status == 0, printed
        with Client(local) as client:
            wait_for(lambda: not client.nthreads(), 30)
    assert_sound(out, content(frames_only))


def test_a_worker_that_does_not_see_the_videos_is_no_fault_of_theirs(clips, tmp_path):
    """It must not become a reject: elsewhere the same video is good."""
    missing = Input(str(tmp_path / "not-mounted.mp4")).to_json()
    with pytest.raises(RuntimeError, match="this worker does not see .*not-mounted.mp4"):
        scan(missing, Policy().to_json(), seen=stamp(clips[0]))


def test_a_worker_without_this_package_is_named(clips, cluster, tmp_path):
    blind = tmp_path / "blind/remot_data"
    blind.mkdir(parents=True)
    error = "raise ModuleNotFoundError('No module named remot_data', name='remot_data')"
    (blind / "__init__.py").write_text(error)
    cluster.start_scheduler()
    cluster.start_worker(PYTHONPATH=str(blind.parent))
    status, printed = remot(*building(clips, tmp_path / "store", cluster.address, "--no-layers"))
    assert status == 2, printed
    assert "cannot import remot_data (No module named remot_data): install the same version" in printed
    assert "Traceback" not in printed


@contextmanager
def listening(answer: bytes) -> Iterator[str]:
    """Something that takes connections and is no scheduler."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept = []

        def accept() -> None:
            while True:
                try:
                    kept.append(server.accept()[0])
                except OSError:
                    return
                kept[-1].sendall(answer)

        threading.Thread(target=accept, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


def refused_within(seconds: float, address: str) -> None:
    began = time.monotonic()
    with pytest.raises(EngineError, match=f"no dask scheduler answers at {address}"), open_engine(scheduler=address):
        pass
    assert time.monotonic() - began < seconds


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"])
def test_what_is_no_scheduler_is_an_error_within_a_bound(answer, monkeypatch):
    monkeypatch.setattr(cluster_module, "_CONNECT", 1.0)
    with listening(answer) as address:
        refused_within(10, address)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "tcp://no-such-host.invalid:8786"])
def test_a_scheduler_that_is_not_there_is_an_error(address, monkeypatch):
    monkeypatch.setattr(cluster_module, "_CONNECT", 1.0)
    refused_within(10, address)


def test_a_wrong_address_is_one_sentence(clips, tmp_path):
    status, printed = remot(*building(clips, tmp_path / "store", "nonsense", "--no-layers"), seconds=60)
    assert status == 2 and "no dask scheduler answers at nonsense" in printed, printed
    assert "Traceback" not in printed and printed.count("error:") == 1


def test_a_result_that_dies_with_its_worker_is_made_again(cluster):
    """The driver takes results late here: its worker is gone by then, and the scheduler still there."""
    cluster.start_scheduler()
    workers = [cluster.start_worker()]
    with open_engine(scheduler=cluster.address) as opened:
        results = opened.map(pow, [{"base": 2, "exp": n, "mod": None} for n in range(4)])
        assert next(results) in (1, 2, 4, 8)
        time.sleep(2)  # the others are done, and lie at the worker
        workers[0].kill()
        workers.append(cluster.start_worker())
        assert len(list(results)) == 3


def test_nothing_is_left_running(cluster: Cluster):
    cluster.start_scheduler()
    worker = cluster.start_worker()
    cluster.stop()
    assert isinstance(worker, subprocess.Popen) and all(p.poll() is not None for p in cluster.processes)
