"""What `remot build --plan` says beside what the build then took, with one and two workers.

CPU seconds are those of all processes, start-up included. Median of `--repeat` runs, each a plan and a build of its
own. Aim: CPU time within 20 %, wall within 35 %.

    python benchmarks/forecast.py [VIDEOS ...] [--repeat 3]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from remot_data.assets import fetch
from remot_data.care.planned import read

RUN = "import sys; from remot_data.cli import main; sys.argv[0] = 'remot'; main()"


def run(*words: str) -> tuple[str, float, float]:
    """What a command says last, and its seconds of a clock and of CPUs."""
    before, began = os.times(), time.monotonic()
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True, check=True)
    wall, after = time.monotonic() - began, os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return done.stdout.splitlines()[-1], wall, spent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("videos", nargs="*")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    videos = args.videos or [str(fetch(f"sample-cam0{n}")) for n in range(1, 5)]
    late = False
    for workers in (1, 2):
        rows = []
        for _ in range(args.repeat):
            with tempfile.TemporaryDirectory() as folder:
                out = str(Path(folder, "store"))
                told = read(json.loads(run("build", *videos, "--out", out, "--plan", "--json")[0]))
                _, wall, spent = run("build", *videos, "--out", out, "--workers", str(workers), "--json")
            cpu, planned = told.cpu(workers), told.wall(workers)
            rows.append((cpu, spent, planned, wall))
        cpu, spent, planned, wall = np.median(rows, axis=0)
        print(f"{workers} workers: CPU {cpu:.0f} s planned, {spent:.0f} s true ({cpu / spent:.2f}); "
              f"wall {planned:.0f} s planned, {wall:.0f} s true ({planned / wall:.2f})", flush=True)  # fmt: skip
        late |= abs(cpu / spent - 1) > 0.2 or abs(planned / wall - 1) > 0.35
    return 1 if late else 0


if __name__ == "__main__":
    raise SystemExit(main())
