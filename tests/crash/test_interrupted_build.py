"""Builds with workers as real processes, stopped by real signals, then gone on with."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.crash.harness import (
    TINY,
    assert_sound,
    below,
    content,
    decoders_of,
    kill_group,
    remot,
    started,
    wait_for,
    workers_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def building(clips: list[str], out: Path, *options: str) -> list[str]:
    return ["build", *clips[:2], "--out", str(out), *TINY, *(options or ("--workers", "2"))]


def shards_begun(store: Path) -> list[Path]:
    """Shards of frames that are being written."""
    return list(store.glob("frames/*.tar.*.tmp"))


def goes_on(clips: list[str], out: Path, complete: Path, *options: str) -> None:
    status, printed = remot(*building(clips, out, *(options or ("--workers", "0"))))
    assert status == 0, printed
    assert_sound(out, content(complete))


@pytest.mark.parametrize("files", [4, 14])
def test_all_processes_killed_and_gone_on_with_by_fewer(files, clips, complete, tmp_path):
    """Kill -9 of the driver and its workers as soon as so many files are there; then without workers."""
    out = tmp_path / "store"
    with started(*building(clips, out)) as build:
        wait_for(lambda: sum(p.is_file() for p in out.rglob("*")) >= files, 120, build)
        kill_group(build)
    goes_on(clips, out, complete)


def test_workers_do_not_outlive_a_driver_that_is_killed(clips, complete, tmp_path):
    out = tmp_path / "store"
    with started(*building(clips, out, "--workers", "1")) as build:
        wait_for(lambda: shards_begun(out), 120, build)
        family = below(build.pid)
        build.kill()
        build.wait()
        wait_for(lambda: not any(p.is_running() for p in family), 30)
    goes_on(clips, out, complete, "--workers", "1")


def test_a_worker_killed_in_the_middle_of_a_task_is_made_good(clips, complete, tmp_path):
    out = tmp_path / "store"
    with started(*building(clips, out)) as build:
        wait_for(lambda: shards_begun(out), 120, build)
        workers = workers_of(build.pid)
        assert len(workers) == 2
        for worker in workers:
            worker.kill()
        printed, _ = build.communicate(timeout=120)
        assert build.returncode == 0, printed
    assert content(out) == content(complete)
    goes_on(clips, out, complete)


def test_a_decoder_that_somebody_kills_is_no_fault_of_the_video(clips, complete, tmp_path):
    """The build itself goes on: the video is decoded again, and is no reject."""
    out = tmp_path / "store"
    with started(*building(clips, out, "--workers", "1")) as build:
        wait_for(lambda: shards_begun(out), 120, build)
        for decoder in wait_for(lambda: decoders_of(build.pid), 60, build):
            decoder.kill()
        printed, _ = build.communicate(timeout=120)
        assert build.returncode == 0, printed
    assert_sound(out, content(complete))


@pytest.mark.parametrize(
    ("number", "to_all", "when"),
    [
        (signal.SIGINT, True, "frames/*.parquet"),
        (signal.SIGINT, True, "ledger/lock-store.json"),
        (signal.SIGTERM, False, "frames/*.parquet"),
        (signal.SIGTERM, True, "frames/*.parquet"),
    ],
)
def test_a_build_that_is_asked_to_end_says_how_to_go_on(number, to_all, when, clips, complete, tmp_path):
    """Ctrl-C of a terminal goes to all processes; `kill` to one; a batch system ends its jobs in either way."""
    out = tmp_path / "store"
    with started(*building(clips, out)) as build:
        wait_for(lambda: list(out.glob(when)), 120, build)
        family = below(build.pid)
        asked = time.monotonic()
        if to_all:
            os.killpg(build.pid, number)
        else:
            build.send_signal(number)
        printed, _ = build.communicate(timeout=60)
        assert (build.returncode, "Traceback" in printed) == (130, False), printed
        assert "stopped; what is finished is kept: run the same command again" in printed
        assert time.monotonic() - asked < 30 and not (out / "ledger/lock-store.json").exists()
        wait_for(lambda: not any(p.is_running() for p in family), 30)
    goes_on(clips, out, complete)


def test_another_shard_size_is_refused_by_name_and_what_was_begun_goes_on(clips, complete, tmp_path):
    out = tmp_path / "store"
    with started(*building(clips, out, "--workers", "0")) as build:
        wait_for(lambda: (out / "clips.parquet").exists(), 120, build)
        kill_group(build)
    status, printed = remot("build", *clips[:2], "--out", out, "--shard-frames", "64", "--workers", "0")
    assert status == 2 and "another policy (shard_frames is 8, not 64)" in printed, printed
    status, printed = remot("build", *clips[:2], "--out", out, "--workers", "0")
    assert status == 0, printed
    assert_sound(out, content(complete))
