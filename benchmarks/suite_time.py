"""How long the tests of one commit take in another: those that are in both and passed in both.

A suite grows with what it tests, so the time of the whole says little about whether the code, or its tests, became
slower. The script runs both suites by their folders in turns, old and new one after the other, so that a machine that
becomes slower or faster does so for both:

    python benchmarks/suite_time.py OLD NEW [--out /tmp/suites] [--worst 20]

OLD and NEW are clones after `make setup`. What was run already is read from the folder of --out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

# Folders of tests that both have; the files beside them are the rest.
PARTS = ("cluster", "crash", "remote", "remot_model", "remot_data", "")


def run(clone: Path, part: str, junit: Path) -> None:
    """Run a part of the tests of a clone as `make test` does, unless that was done before."""
    tests = [clone / "tests" / part] if part else [p for p in (clone / "tests").iterdir() if p.name not in PARTS]
    files = [str(path) for path in tests if path.is_dir() or path.name.startswith("test_")]
    if not files or junit.exists():
        return
    half = junit.with_suffix(".half")
    command = [clone / ".venv/bin/python", "-m", "pytest", "-n", "2", "--dist", "loadfile", f"--junitxml={half}"]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")}
    done = subprocess.run([*map(str, command), *files], cwd=clone, env=environment, stdout=subprocess.DEVNULL)
    assert done.returncode in (0, 1), f"{part or 'the rest'} of {clone} did not run: {done.args}"
    half.rename(junit)


def read(paths: Iterable[Path]) -> dict[str, list[tuple[str, float, bool]]]:
    """Name of a test -> its file's name, seconds and whether it passed, for each of that name."""
    found = defaultdict(list)
    for case in (case for path in paths for case in ElementTree.parse(path).iter("testcase")):
        passed = not any(child.tag in ("failure", "error", "skipped") for child in case)
        found[case.get("name", "")].append(
            (case.get("classname", "").split(".")[-1], float(case.get("time", 0)), passed)
        )
    return found


def matched(old: dict, new: dict) -> list[tuple[str, float, float]]:
    """Name, old and new seconds of every test in both: in a file of the same name, or alone under its name."""
    pairs = []
    for name, cases in old.items():
        left = list(new.get(name, ()))
        for file, seconds, passed in cases:
            same = [other for other in left if other[0] == file] or (left if len(left) == len(cases) == 1 else [])
            if same:
                other = same[0]
                left.remove(other)
                if passed and other[2]:
                    pairs.append((f"{other[0]}::{name}", seconds, other[1]))
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="a clone of the commit before, set up")
    parser.add_argument("new", type=Path, help="a clone of the commit of now, set up")
    parser.add_argument("--out", type=Path, default=Path("/tmp/suites"), help="folder for what pytest reports")
    parser.add_argument("--worst", type=int, default=20, help="tests to list that take most longer")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        for name in ("old", "new"):
            run(getattr(args, name).resolve(), part, args.out / f"{name}-{part or 'rest'}.xml")
    old, new = (read(sorted(args.out.glob(f"{name}-*.xml"))) for name in ("old", "new"))
    pairs = matched(old, new)
    for name, before, now in sorted(pairs, key=lambda pair: pair[1] - pair[2])[: args.worst]:
        print(f"{before:7.1f} {now:7.1f}  {name}")
    for what, found in (("old", old), ("new", new)):
        cases = [case for each in found.values() for case in each]
        print(f"{what}: {len(cases)} tests, {sum(seconds for _, seconds, _ in cases):.0f} s")
    before, now = (sum(pair[i] for pair in pairs) for i in (1, 2))
    print(f"{len(pairs)} tests in both: {before:.0f} s, then {now:.0f} s: {now / before:.3f} of the time before")


if __name__ == "__main__":
    main()
