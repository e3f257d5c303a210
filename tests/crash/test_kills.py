"""A short run of the benchmark that kills at random."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/kills.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_random_kills_leave_no_trace():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "10", "--seed", "2"], capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("10 kills (") and "all equal" in done.stdout
