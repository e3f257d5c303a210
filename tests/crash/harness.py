"""What the crash tests share: small clips, builds as processes, and processes that kill themselves at a given point."""

from __future__ import annotations

import builtins
import errno
import importlib
import itertools
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from remot_data.assets import fetch
from remot_data.care.verify import verify
from remot_data.media import ffmpeg_binary
from remot_data.store import open_store
from tests.remot_data.conftest import digests

PYTHON = [sys.executable, "-c", "from remot_data.cli import main; main()"]
TINY = "--size 64x48 --min-frames 4 --max-frames 8 --shard-frames 8 --persons main".split()
_LOOKING = threading.Lock()
_SOURCES = (("sample-cam01", 0.0), ("sample-cam02", 0.0), ("sample-cam01", 0.9))


def cut_clips(folder: Path, frames: int = 8) -> list[str]:
    """Three small videos of so many frames at 30 frames a second, cut from two of the sample clips."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"clip-{n}.mp4" for n in range(len(_SOURCES))]
    for path, (sample, start) in zip(paths, _SOURCES, strict=True):
        cut(path, sample, start, frames)
    return [str(path) for path in paths]


def cut(path: Path, sample: str, start: float, frames: int, fps: int = 30) -> None:
    """Write so many frames of a sample clip, 216 x 384, from a second on."""
    command = [ffmpeg_binary(), "-v", "error", "-y", "-ss", str(start), "-i", str(fetch(sample)), "-an"]
    command += ["-vf", f"fps={fps},scale=216:384", "-frames:v", str(frames), "-c:v", "libx264", "-threads", "1"]
    subprocess.run([*command, str(path)], check=True, timeout=60)


def content(store: str | Path) -> dict[str, str]:
    """Digests of what a build makes: all but the ledger's logs, which keep times, locks and half-written files."""
    kept = ("ledger/store.json", "ledger/rejects.parquet")
    found = {k: v for k, v in digests(store).items() if not k.endswith(".tmp")}
    return {k: v for k, v in found.items() if not k.startswith("ledger/") or k in kept}


def leftovers(store: str | Path) -> list[str]:
    """Half-written files and locks."""
    return [k for k in digests(store) if k.endswith(".tmp") or k.startswith("ledger/lock-")]


def assert_sound(store: str | Path, wanted: dict[str, str]) -> None:
    """A store has the files it should have, byte for byte, and nothing else."""
    assert content(store) == wanted
    assert leftovers(store) == []
    assert [str(problem) for problem in verify(open_store(str(store)))] == []


# Commands as processes


@contextmanager
def started(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A `remot` command in a session of its own; whatever is left of it is killed at the end."""
    process = subprocess.Popen(
        [*PYTHON, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    )
    try:
        yield process
    finally:
        kill_group(process)
        process.stdout.close()  # type: ignore[union-attr]


def kill_group(process: subprocess.Popen[Any]) -> None:
    """Kill -9 a process and all that belong to it, and wait until it is gone."""
    family = below(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        with suppress(psutil.Error):
            member.kill()
    process.wait(30)


def remot(*arguments: str, seconds: float = 120, **options: Any) -> tuple[int, str]:
    """Status and output of a `remot` command."""
    with started(*arguments, **options) as process:
        printed, _ = process.communicate(timeout=seconds)
        return process.returncode, printed


def below(pid: int) -> list[psutil.Process]:
    """All processes that a process started, and those that these started."""
    with suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def workers_of(pid: int) -> list[psutil.Process]:
    """The worker processes of a build with a local cluster."""
    return [p for p in below(pid) if "spawn_main" in words(p) and "resource_tracker" not in words(p)]


def decoders_of(pid: int) -> list[psutil.Process]:
    """The child processes in which a build or its workers decode."""
    return [p for p in below(pid) if "remot_data.media.sandbox" in words(p)]


def words(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def wait_for(condition: Callable[[], Any], seconds: float = 60, process: subprocess.Popen[Any] | None = None) -> Any:
    """The first true value of a condition; fails when it takes too long, or the process ends before."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it never came to that"
        assert process is None or process.poll() is None, f"it ended before: {process.communicate()[0]}"
        time.sleep(0.01)
    return value


# Commands that kill themselves


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status (-9 when it was killed), what it printed, and the points it reached."""

    status: int
    printed: str
    points: list[str]


def run(
    arguments: Sequence[str], log: Path, kill_at: int = 0, refuse: tuple[int, int] | None = None, broken: str = ""
) -> Ended:
    """Run a `remot` command in a fresh process forked from one that has everything imported.

    Args:
        log: file for what it prints; the points it reaches go to another beside it.
        kill_at: the point at which it kills itself with SIGKILL, counted from 1; 0 for none.
        refuse: an error number, and the point from which on every write fails with it.
        broken: a video whose frames cannot be read when they are to be written.
    """
    process = _server().Process(target=_run, args=(list(map(str, arguments)), str(log), kill_at, refuse, broken))
    status = _status(process, 120)
    assert status is not None, f"remot {' '.join(arguments)} hangs"
    points = log.with_suffix(".points")
    return Ended(status, log.read_text(), points.read_text().splitlines() if points.exists() else [])


def sweep(check: Callable[[int], bool]) -> int:
    """Call ``check(1)``, ``check(2)`` and so on, two at a time, until one says that it is past the end; how many."""
    with ThreadPoolExecutor(2) as pool:
        numbers = itertools.count(1)
        while all(results := list(pool.map(check, itertools.islice(numbers, 8)))):
            pass
        return next(numbers) - 1 - len(results) + results.index(False)


def _status(process: Any, seconds: float) -> int | None:
    """The status of a process that is run to its end; None if it had to be killed.

    Starting one process looks after the others, and of two threads that look at once, one is told 255.
    """
    end = time.monotonic() + seconds
    with _LOOKING:
        process.start()
    while time.monotonic() < end:
        with _LOOKING:
            if process.exitcode is not None:
                return process.exitcode
        time.sleep(0.01)
    with _LOOKING:
        process.kill()
    return None


def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    rooms = ("ingest.build", "ingest.scan", "care.compact", "care.planned", "cli.commands")
    modules = [f"remot_data.{name}" for name in (*rooms, "detectors.blazepose", "detectors.pose_guided")]
    modules += ["typer._adapters", "ai_edge_litert.interpreter", __name__]
    assert all(map(find_spec, modules))  # what cannot be imported would be left out without a word
    context.set_forkserver_preload(modules)
    return context


def _run(arguments: list[str], log: str, kill_at: int, refuse: tuple[int, int] | None, broken: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from remot_data import cli
    from remot_data.detectors._litert import Network
    from remot_data.media import sandbox
    from remot_data.store.lock import Lock

    # What is tested is who writes. Decoders and networks only read: here they run once, and every later run gets what
    # they said.
    said = Path(log).parents[1] / "said"
    sandbox.call = partial(_said_before, said, broken)
    computed = Network.__call__
    Network.__call__ = lambda network, image: _computed_before(said, computed, network, image)  # type: ignore[method-assign]
    Lock.SETTLE = 0.0  # nobody else is there
    Lock.TELL = Lock.BEAT  # how far it is would be written at points that no two runs have alike
    _Points(Path(log).with_suffix(".points"), kill_at, refuse).watch()
    sys.exit(cli.run(arguments))


def _said_before(
    folder: Path, broken: str, function: str, arguments: dict[str, Any], limits: Any = None
) -> Iterator[tuple[dict[str, Any], bytes]]:
    from remot_data.media.sandbox import ChildError

    module, _, name = function.partition(":")
    if name == "decoding" and arguments["clip"]["path"] == broken:
        raise ChildError("crashed", "the decoder gave up")

    def decode() -> list[tuple[dict[str, Any], bytes]]:
        return [(head, bytes(data)) for head, data in getattr(importlib.import_module(module), name)(**arguments)]

    yield from _before(folder, json.dumps([function, arguments], sort_keys=True).encode(), decode)


def _computed_before(folder: Path, compute: Callable[..., Any], network: Any, image: Any) -> Any:
    what = f"{network.path} {image.dtype} {image.shape} ".encode()
    return _before(folder, what + image.tobytes(), lambda: compute(network, image))


def _before(folder: Path, what: bytes, work: Callable[[], Any]) -> Any:
    """What came of this work when it was done the first time."""
    told = folder / sha256(what).hexdigest()
    if not told.exists():
        said = pickle.dumps(work())
        folder.mkdir(exist_ok=True)
        half = told.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        half.write_bytes(said)
        half.rename(told)
    return pickle.loads(told.read_bytes())


class _Points:
    """The moments after which something else is on the disk, numbered: there the process ends, or the disk refuses."""

    def __init__(self, log: Path, kill_at: int, refuse: tuple[int, int] | None) -> None:
        log.unlink(missing_ok=True)
        self.log, self.kill_at, self.refuse, self.count = log, kill_at, refuse, 0

    def watch(self) -> None:
        for module, name in ((os, "replace"), (os, "link"), (os, "remove"), (os, "unlink"), (shutil, "rmtree")):
            setattr(module, name, self._watched(name, getattr(module, name)))
        for name in ("disk", "files", "log"):
            module = importlib.import_module(f"remot_data.store.{name}")
            module.open = self._open  # type: ignore[attr-defined]

    def reach(self, what: str) -> None:
        self.count += 1
        with builtins.open(self.log, "a") as log:
            log.write(what + "\n")
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.may_write(what)

    def may_write(self, what: str) -> None:
        if self.refuse and self.count >= self.refuse[1] and not what.startswith(("remove", "unlink", "rmtree")):
            raise OSError(self.refuse[0], os.strerror(self.refuse[0]), what)

    def _watched(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*paths: Any, **options: Any) -> Any:
            where = f"{name} {'/'.join(Path(paths[-1]).parts[-2:])}"
            if name in ("replace", "link"):
                self.reach(f"before {where}")
            result = act(*paths, **options)
            self.reach(where)
            return result

        return watched

    def _open(self, path: Any, mode: str = "r", *rest: Any) -> Any:
        if set(mode) & set("wa"):
            self.may_write(f"open {Path(path).name}")
        file = builtins.open(path, mode, *rest)  # noqa: SIM115 - closed by who asked for it
        return _Halves(file, self) if mode == "ab" else file


class _Halves:
    """A log that is written in two halves."""

    def __init__(self, file: Any, points: _Points) -> None:
        self._file, self._points = file, points

    def write(self, data: bytes) -> None:
        for part in (data[: len(data) // 2], data[len(data) // 2 :]):
            self._file.write(part)
            self._file.flush()
            self._points.reach(f"append {Path(self._file.name).parent.name}: {len(part)} bytes")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


FULL, READ_ONLY = errno.ENOSPC, errno.EROFS
