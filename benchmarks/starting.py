"""What starting costs: a command that reads a store, a decoder until its first frame, a small build.

    python benchmarks/starting.py [--against CLONE] [--rounds 5]

Medians of seconds on the clock and of CPU seconds, children included, each in a process of its own. `--against` is
another clone of the project; both are run in turns, and the last column is this one over the other.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from remot_data.assets import fetch
from remot_data.media import ffmpeg_binary

ROOT = Path(__file__).parents[1]
REMOT = "import sys; from remot_data.cli import main; main()"
DECODER = """
import sys, psutil
from remot_data.media import in_child
in_child.probe(sys.argv[1])
print(max(child.memory_info().rss for child in psutil.Process().children()) // 1_000_000)
"""


def tiny(folder: Path) -> list[str]:
    """Two videos of 8 frames."""
    paths = [folder / f"{n}.mp4" for n in (1, 2)]
    for path in paths:
        command = [ffmpeg_binary(), "-v", "error", "-i", fetch(f"sample-cam0{path.stem}"), "-an", "-frames:v", "8"]
        subprocess.run([*map(str, command), "-vf", "scale=216:384", str(path)], check=True)
    return [str(path) for path in paths]


def timed(root: Path, code: str, arguments: list[str]) -> tuple[float, float, str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPATH": str(root)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, cwd=root, check=True, capture_output=True, text=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another clone of the project")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    roots = [ROOT, *([args.against.resolve()] if args.against else [])]
    with tempfile.TemporaryDirectory() as folder:
        videos, number = tiny(Path(folder)), 0
        size = "--size 64x48 --min-frames 4 --max-frames 8 --shard-frames 8".split()

        def build(workers: int) -> list[str]:
            nonlocal number
            number += 1
            return ["build", *videos, "--out", f"{folder}/store-{number}", *size, "--workers", str(workers)]

        timed(ROOT, REMOT, build(0))
        works = {
            "remot status": (REMOT, lambda: ["status", f"{folder}/store-1"]),
            "a decoder": (DECODER, lambda: videos[:1]),
            "remot build, no workers": (REMOT, lambda: build(0)),
            "remot build, 2 workers": (REMOT, lambda: build(2)),
        }
        for name, (code, arguments) in works.items():
            runs = [[timed(root, code, arguments()) for root in roots] for _ in range(args.rounds + 1)][1:]
            line = f"{name:24}"
            for part, unit in ((0, "s"), (1, "CPU s")):
                values = [median(one[i][part] for one in runs) for i in range(len(roots))]
                line += "".join(f" {value:7.2f} {unit}" for value in values)
                line += f" ({values[0] / values[1]:.2f})" if args.against else ""
            told = f", {'; '.join(one[2].strip() for one in runs[-1])} MB" if code is DECODER else ""
            print(line + told, flush=True)


if __name__ == "__main__":
    main()
