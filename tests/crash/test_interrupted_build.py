"""Builds as real processes, stopped by real signals, then gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from remot_data.assets import fetch
from remot_data.store import open_store
from remot_data.verify import verify
from tests.remot_data.conftest import digests

pytestmark = pytest.mark.slow
OPTIONS = "--size 128x96 --fps 12 --min-frames 4 --max-frames 8 --shard-frames 8 --workers 2".split()


def start(out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from remot_data.cli import main; main()", "build", *videos(), "--out", str(out)]
    return subprocess.Popen(
        [*command, *OPTIONS], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def videos() -> list[str]:
    return [str(fetch(f"sample-cam0{i}")) for i in (1, 2)]


def content(store: Path) -> dict[str, str]:
    """Digests of everything but the ledger, which keeps times, and what an interrupted write left behind."""
    return {k: v for k, v in digests(store).items() if not k.startswith("ledger/") and not k.endswith(".tmp")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "store"
    process = start(out)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return content(out)


@pytest.mark.parametrize("written", [0, 1, 3, 6, 12, 20])
def test_a_killed_build_goes_on_to_the_same_bytes(undisturbed, tmp_path, written):
    """Kill -9 of the driver and its workers as soon as so many files are there."""
    out = tmp_path / "store"
    process = start(out)
    while process.poll() is None and len(digests(out)) <= written:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    again = start(out)
    printed, _ = again.communicate(timeout=300)
    assert again.returncode == 0, printed
    assert content(out) == undisturbed
    assert list(verify(open_store(str(out)))) == []


def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(undisturbed, tmp_path):
    out = tmp_path / "store"
    process = start(out)
    while process.poll() is None and not list(out.glob("frames/*.parquet")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "run the same command again" in printed
    assert "Traceback" not in printed
    again = start(out)
    again.communicate(timeout=300)
    assert content(out) == undisturbed
