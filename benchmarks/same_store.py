"""Whether two commits make the same store of the sample clips, and read the same windows from it.

    python benchmarks/same_store.py OLD [NEW] [--size 128x96] [--workers N]

checks OLD and NEW (HEAD by default) out with `git worktree`, builds the four sample clips in each and streams an epoch
of windows, with the packages of the Python that runs this. It prints how long each took, and every file whose
sha256 differs; exit status 1 if one does, or a window. Left out are files that hold times of day or durations:
the ledger, and what names the commit's own state (`removed.json`, locks).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COMPARED = (".tar", ".parquet", "layer.json", "main.json")
WINDOWS = """
import hashlib, sys
from remot_data import stream
digest, count = hashlib.sha256(), 0
for window in stream(sys.argv[1], split=None, length=6, seed=1):
    digest.update(window.id.encode())
    for name in sorted(window.arrays):
        array = window.arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    count += 1
print(count, digest.hexdigest())
"""


@contextlib.contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def python(tree: Path, code: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{tree.name}: {' '.join(arguments[:3])} ended with status {done.returncode}")
    return done.stdout


def made(tree: Path, store: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Digests of the store that a tree builds, and of its windows."""
    began = time.perf_counter()
    rest = ["--out", str(store), "--size", options.size, "--workers", str(options.workers), "--shard-frames", "200"]
    python(tree, "from remot_data.cli import main; main()", "build", "manifests/samples.yaml", *rest)
    built = time.perf_counter() - began
    files = {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name.endswith(COMPARED) and "ledger" not in path.parts
    }
    began = time.perf_counter()
    windows = python(tree, WINDOWS, str(store)).strip()
    return {"seconds": built, "reading": time.perf_counter() - began, "windows": windows, "files": files}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new", nargs="?", default="HEAD")
    parser.add_argument("--size", default="128x96")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as name:
        for number, commit in enumerate((options.old, options.new)):
            with checked_out(commit, Path(name) / f"tree{number}") as tree:
                found.append(made(tree, Path(name) / f"store{number}", options))
            result = found[-1]
            count, digest = result["windows"].split()
            print(
                f"{commit}: built in {result['seconds']:.1f} s, {len(result['files'])} files; {count} windows in "
                f"{result['reading']:.1f} s, sha256 {digest[:16]}",
                flush=True,
            )
    old, new = (f["files"] for f in found)
    different = sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
    for path in different:
        state = "differs" if path in old and path in new else "is missing in one of them"
        print(f"{path} {state}")
    same = not different and found[0]["windows"] == found[1]["windows"]
    print(json.dumps({"same": same, "files": len(old), "different": different}))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
