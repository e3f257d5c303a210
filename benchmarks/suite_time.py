"""How long the tests of one commit take in another: those that are in both and passed in both.

A suite grows with what it tests, so the time of the whole says little about whether the code, or its tests, became
slower. Run both suites one after the other on a quiet machine, with the same number of processes:

    (cd OLD && .venv/bin/python -m pytest -n 2 --dist loadfile --junitxml=/tmp/old.xml)
    (cd NEW && .venv/bin/python -m pytest -n 2 --dist loadfile --junitxml=/tmp/new.xml)
    python benchmarks/suite_time.py /tmp/old.xml /tmp/new.xml [--worst 20]
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree


def read(path: Path) -> dict[str, list[tuple[str, float, bool]]]:
    """Name of a test -> its file's name, seconds and whether it passed, for each of that name."""
    found = defaultdict(list)
    for case in ElementTree.parse(path).iter("testcase"):
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
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--worst", type=int, default=20, help="tests to list that take most longer")
    args = parser.parse_args()
    old, new = read(args.old), read(args.new)
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
