"""A scheduler and workers as processes of their own, the way a cluster starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash import harness
from tests.crash.conftest import clips, complete, frames_only

__all__ = ["clips", "complete", "frames_only"]
LOCAL = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s"}


class Cluster:
    """Starts schedulers and workers, and kills all of them at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes, self._count = folder, [], 0
        self.address = ""
        self.scheduler: subprocess.Popen[Any] | None = None

    def start_scheduler(self) -> str:
        """Start a scheduler at a free port, in place of the last one, and say where it is."""
        self._count += 1
        told = self.folder / f"scheduler-{self._count}.json"
        options = ["--port", "0", "--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(told)]
        self.scheduler = self._start("scheduler", *options)
        harness.wait_for(lambda: told.exists() and told.read_text().endswith("}"), 60, self.scheduler)
        self.address = json.loads(told.read_text())["address"]
        return self.address

    def start_worker(self, *options: str, **environment: str) -> subprocess.Popen[Any]:
        """Start a worker process with one thread; without a nanny, so nobody starts it again."""
        own = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self.folder)]
        return self._start("worker", self.address, *own, *options, environment=environment)

    def _start(self, what: str, *options: str, environment: dict[str, str] | None = None) -> subprocess.Popen[Any]:
        self._count += 1
        with open(self.folder / f"{what}-{self._count}.log", "w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", what, *options],
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
                env={**os.environ, **LOCAL, **(environment or {})},
            )
        self.processes.append(process)
        return process

    def stop(self) -> None:
        for process in self.processes:
            harness.kill_group(process)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "cluster"
    folder.mkdir()
    made = Cluster(folder)
    try:
        yield made
    finally:
        made.stop()
