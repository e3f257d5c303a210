"""Damaged copies of ten small videos through build, transfer and import.

    python benchmarks/fuzz.py --out FOLDER --files 5000

Done in parts of 250 files; run again, it goes on after the last finished part. Says how each file ended, what must not
have happened, the time, and the most memory that a process took. Exit status 1 where something must not have happened.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import fuzzing

PART = 250


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="Number of the first copy: others are damaged otherwise.")
    parser.add_argument("--workers", type=int, default=2)
    told = parser.parse_args()
    told.out.mkdir(parents=True, exist_ok=True)
    files = fuzzing.originals(told.out / "originals")
    log = told.out / "parts.jsonl"
    parts = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    known = {part["first"] for part in parts}
    for first in range(told.first, told.first + told.files, PART):
        if first in known:
            continue
        started, folder = time.monotonic(), told.out / f"part-{first:06d}"
        shutil.rmtree(folder, ignore_errors=True)
        trial = fuzzing.Trial(files, folder)
        trial.run(range(first, min(first + PART, told.first + told.files)), workers=told.workers)
        peak = max(map(_peak, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
        part = {"first": first, "ends": dict(trial.ends), "bad": trial.bad, "peak_mib": peak}
        part["seconds"] = round(time.monotonic() - started, 1)
        parts.append(part)
        with open(log, "a") as file:
            file.write(json.dumps(part) + "\n")
        print(f"{first}: {part['seconds']} s, {len(trial.bad)} bad, {part['ends']}", flush=True)
        if not trial.bad:
            shutil.rmtree(folder)
    ends = sum((Counter(part["ends"]) for part in parts), Counter[str]())
    bad = [sentence for part in parts for sentence in part["bad"]]
    seconds, peak = sum(part["seconds"] for part in parts), max(part["peak_mib"] for part in parts)
    total = sum(count for end, count in ends.items() if ":" not in end)
    summary = {"files": total, "minutes": round(seconds / 60, 1), "peak_mib": peak, "bad": bad, "ends": dict(ends)}
    print(json.dumps(summary, indent=1))
    return 1 if bad else 0


def _peak(who: int) -> int:
    """The most memory in MiB that this process, or one that it waited for, has had."""
    return resource.getrusage(who).ru_maxrss // 1024


if __name__ == "__main__":
    sys.exit(main())
