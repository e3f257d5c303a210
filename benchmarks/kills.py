"""Kill drivers, workers, decoders and schedulers of builds at random moments, go on, and compare every byte.

Half of the builds start their own workers, half use a scheduler and two workers that are processes of their own. Each
is killed at a few times, then allowed to finish; its files have to be those of a build that nobody disturbed, and
`verify` must find nothing. Prints how many were killed, and how many builds were finished.

    python benchmarks/kills.py [--kills 200] [--seed 0]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from remot_data import media
from remot_data.assets import fetch
from remot_data.care.verify import verify
from remot_data.store import open_store

BUILD = "--size 64x48 --min-frames 4 --max-frames 4 --shard-frames 4".split()
REMOT = [sys.executable, "-c", "from remot_data.cli import main; main()"]
MOST = 8  # kills of one store
LONGEST = 3.0  # seconds from when there is work to the next kill
PATIENCE = 180.0  # seconds a build may take that nobody disturbs


class Failed(RuntimeError):
    """A store that is not what it has to be, or a process that hangs."""


def cut(folder: Path) -> list[str]:
    """Two videos of 16 frames, small pictures: eight clips, each in a shard of its own."""
    paths = []
    for name in ("sample-cam01", "sample-cam02"):
        paths.append(str(folder / f"{name}.mp4"))
        frames = [frame for _, frame in zip(range(31), media.read(fetch(name), size=(384, 216)), strict=False)]
        with media.VideoWriter(paths[-1], 30, (384, 216)) as out:
            for _, frame in frames[::2]:
                out.write(frame)
    return paths


def content(store: Path) -> dict[str, str]:
    """sha256 of what a build makes: all but the ledger, which keeps times, and half-written files."""
    files = {str(p.relative_to(store)): p for p in store.rglob("*") if p.is_file()}
    kept = {name: path for name, path in files.items() if not name.startswith("ledger/") and path.suffix != ".tmp"}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in kept.items()}


def kill(process: subprocess.Popen[Any]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


class Own:
    """A build that starts its own two workers."""

    victims = ("driver", "worker", "worker", "decoder")

    def __init__(self, folder: Path) -> None:
        self.options = ["--workers", "2"]

    def prepare(self) -> None:
        """Nothing to start."""

    def workers(self, driver: subprocess.Popen[Any]) -> list[psutil.Process]:
        return [p for p in below(driver) if "spawn_main" in words(p)]

    def killed(self, victim: str) -> None:
        """Workers are started again by the driver."""

    def stop(self) -> None:
        """Nothing to stop."""


class Cluster:
    """A scheduler and two workers for builds to use."""

    victims = ("driver", "worker", "worker", "decoder", "scheduler")

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.scheduler: subprocess.Popen[Any] | None = None
        self.helpers: list[subprocess.Popen[Any]] = []

    @property
    def options(self) -> list[str]:
        return ["--scheduler", self.address]

    def prepare(self) -> None:
        """See that the scheduler and both workers run."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.stop()
            self.number += 1
            told = self.folder / f"scheduler-{self.number}.json"
            self.scheduler = self._start("scheduler", "--port", "0", "--scheduler-file", str(told))
            until(lambda: told.exists() and told.read_text().endswith("}"), 60)
            self.address = json.loads(told.read_text())["address"]
        self.helpers = [helper for helper in self.helpers if helper.poll() is None]
        while len(self.helpers) < 2:
            self.helpers.append(self._start("worker", self.address, "--nthreads", "1", "--no-nanny"))

    def _start(self, what: str, *options: str) -> subprocess.Popen[Any]:
        local = ["--host", "127.0.0.1", "--no-dashboard"]
        with open(self.folder / "dask.log", "a") as log:
            command = [sys.executable, "-m", "dask", what, *options, *local]
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)

    def workers(self, driver: subprocess.Popen[Any]) -> list[psutil.Process]:
        return [psutil.Process(helper.pid) for helper in self.helpers if helper.poll() is None]

    def killed(self, victim: str) -> None:
        if victim == "scheduler" and self.scheduler is not None:
            kill(self.scheduler)
        elif victim == "worker":
            until(lambda: any(helper.poll() is not None for helper in self.helpers), 30)
            self.prepare()

    def stop(self) -> None:
        for process in [*self.helpers, *filter(None, [self.scheduler])]:
            kill(process)
        self.helpers = []


def below(process: subprocess.Popen[Any]) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def words(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def until(condition: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"it never came to that within {seconds:g} s")
        time.sleep(0.02)


class Trial:
    """One store: begun, killed at a few times, finished."""

    def __init__(self, folder: Path, videos: list[str], place: Own | Cluster, chance: random.Random) -> None:
        self.store, self.log = folder / "store", folder / "build.log"
        self.videos, self.place, self.chance = videos, place, chance
        self.counts: Counter[str] = Counter()

    def start(self) -> subprocess.Popen[Any]:
        self.place.prepare()
        command = [*REMOT, "build", *self.videos, "--out", str(self.store), *BUILD, *self.place.options]
        with open(self.log, "w") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def run(self, most: int) -> Counter[str]:
        """Kill so many times, or until the build has ended well; then let it end."""
        build = self.start()
        try:
            while sum(self.counts.values()) < most:
                self._wait_for_work(build)
                time.sleep(self.chance.uniform(0, LONGEST))
                if build.poll() == 0:
                    return self.counts
                self._strike(build, self.chance.choice(self.place.victims))
                build = self._go_on(build)
            while self._ended(build) != 0:
                build = self.start()
            return self.counts
        finally:
            kill(build)

    def _wait_for_work(self, build: subprocess.Popen[Any]) -> None:
        lock = self.store / "ledger/lock-store.json"
        held = lambda: lock.exists() and f'"pid": {build.pid},' in lock.read_text()  # noqa: E731
        until(lambda: build.poll() is not None or (held() and self.place.workers(build)), PATIENCE)

    def _strike(self, build: subprocess.Popen[Any], victim: str) -> None:
        workers = self.place.workers(build)
        if victim == "driver":
            build.kill()
        elif victim == "worker" and workers:
            self.chance.choice(workers).kill()
        elif victim == "decoder":
            found = [p for w in workers for p in children(w) if "remot_data.media.sandbox" in words(p)]
            if not found:
                return
            with suppress(psutil.Error):
                self.chance.choice(found).kill()
        elif victim != "scheduler":
            return
        self.place.killed(victim)
        self.counts[victim] += 1

    def _go_on(self, build: subprocess.Popen[Any]) -> subprocess.Popen[Any]:
        """The same build, or the next where it was killed or has given up."""
        scheduler = getattr(self.place, "scheduler", None)
        if scheduler is not None and scheduler.poll() is not None:
            self._ended(build)
        with suppress(subprocess.TimeoutExpired):
            build.wait(0.3)
        return self.start() if build.poll() not in (None, 0) else build

    def _ended(self, build: subprocess.Popen[Any]) -> int:
        """The status of a build that is not disturbed any more: well, killed before, or 2 with a sentence."""
        try:
            status = build.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failed(f"a build hangs: {self.log.read_text()}") from None
        printed = self.log.read_text()
        if status not in (0, 2, -signal.SIGKILL) or "Traceback" in printed:
            raise Failed(f"a build ended with status {status}: {printed}")
        return status

    def check(self, wanted: dict[str, str]) -> None:
        found = content(self.store)
        if found != wanted:
            different = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
            raise Failed(f"{self.store} differs in {', '.join(different)}")
        wrong = [str(problem) for problem in verify(open_store(str(self.store))) if not problem.name.endswith(".tmp")]
        if wrong:
            raise Failed(f"{self.store}: {'; '.join(wrong)}")


def children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, counts, builds, began = random.Random(options.seed), Counter[str](), 0, time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    places = [Own(folder), Cluster(folder)]
    try:
        videos = cut(folder)
        calm = folder / "calm"
        subprocess.run(
            [*REMOT, "build", *videos, "--out", calm, *BUILD, "--workers", "0"], check=True, timeout=PATIENCE
        )
        wanted = content(calm)
        while counts.total() < options.kills:
            trial = Trial(folder, videos, places[builds % len(places)], chance)
            counts += trial.run(min(chance.randint(1, MOST), options.kills - counts.total()))
            trial.check(wanted)
            shutil.rmtree(trial.store)
            builds += 1
            print(f"{time.monotonic() - began:6.0f} s  build {builds}: {dict(trial.counts)}, equal", flush=True)
        shutil.rmtree(folder)
    except Failed as failure:
        sys.exit(f"after {counts.total()} kills and {builds} finished builds: {failure}")
    finally:
        for place in places:
            place.stop()
    told = ", ".join(f"{name} {counts[name]}" for name in sorted(counts))
    print(f"{counts.total()} kills ({told}), {builds} finished builds, all equal, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
