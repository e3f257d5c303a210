"""What a run tells programs while it goes on: lines of JSON in a file, and numbers for Prometheus."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from remot_data.engine import Progress
from remot_data.errors import RemotError

Events = Annotated[
    Path | None, typer.Option(help="A file to append what happens to, a line of JSON each.", show_default=False)
]
Metrics = Annotated[
    int | None, typer.Option(min=1, max=65535, help="Port on which Prometheus finds how far the run is.")
]


class EventsError(RemotError, RuntimeError):
    """Events or metrics cannot be told; the message says why."""


class Watched:
    """Takes the progress of a run, as `remot_data.engine.Progress`, and tells it on."""

    def __init__(self, progress: Progress, file: IO[str] | None, gauges: _Gauges | None) -> None:
        self._progress, self._file, self._gauges = progress, file, gauges

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._progress(stage, done, total)
        self.tell("progress", stage=stage, done=done, total=total)
        if self._gauges:
            self._gauges.progress(stage, done, total)

    def tell(self, event: str, **about: Any) -> None:
        """Write an event."""
        if self._file:
            at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            print(json.dumps({"at": at, "event": event, **about}), file=self._file, flush=True)

    def finished(self, summary: Mapping[str, Any]) -> None:
        """Tell each reject of the summary, then the summary."""
        for reject in summary.get("rejects", ()):
            self.tell("reject", **reject)
            if self._gauges:
                self._gauges.reject(reject["code"])
        self.tell("finished", **{name: value for name, value in summary.items() if name != "rejects"})


@contextmanager
def watched(command: str, store: str, progress: Progress, file: Path | None, port: int | None) -> Iterator[Watched]:
    """Tell that a command begins, what it tells in between, and how it ends where that is an error.

    Raises:
        EventsError: a file or a port that cannot be used, or the client of Prometheus is not installed.
    """
    with ExitStack() as stack:
        gauges = _Gauges(stack, command, port) if port else None
        try:
            opened = stack.enter_context(open(file, "a", encoding="utf-8")) if file else None
        except OSError as error:
            raise EventsError(f"--events {file} cannot be written: {error.strerror}") from error
        told = Watched(progress, opened, gauges)
        told.tell("started", command=command, store=store, pid=os.getpid())
        try:
            yield told
        except BaseException as error:
            told.tell("stopped" if isinstance(error, KeyboardInterrupt) else "failed", error=str(error))
            raise


class _Gauges:
    """The numbers, served until the stack ends."""

    def __init__(self, stack: ExitStack, command: str, port: int) -> None:
        try:
            import prometheus_client
        except ImportError as error:
            raise EventsError('--metrics needs prometheus-client: pip install "remot[prometheus]"') from error
        registry = prometheus_client.CollectorRegistry()
        labels = {"labelnames": ["command", "stage"], "registry": registry}
        self._done = prometheus_client.Gauge("remot_tasks_done", "Tasks of a stage that are done.", **labels)
        self._total = prometheus_client.Gauge("remot_tasks", "Tasks of a stage in all.", **labels)
        self._last = prometheus_client.Gauge(
            "remot_progress_timestamp_seconds", "When a task was last done, in Unix time.", **labels
        )
        self._rejects = prometheus_client.Counter(
            "remot_rejects", "Inputs and clips refused, by reason.", ["command", "code"], registry=registry
        )
        self._command = command
        try:
            server, thread = prometheus_client.start_http_server(port, registry=registry)
        except OSError as error:
            raise EventsError(f"--metrics {port}: the port cannot be used ({error.strerror})") from error
        stack.callback(thread.join, 5.0)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)

    def progress(self, stage: str, done: int, total: int) -> None:
        self._done.labels(self._command, stage).set(done)
        self._total.labels(self._command, stage).set(total)
        self._last.labels(self._command, stage).set_to_current_time()

    def reject(self, code: str) -> None:
        self._rejects.labels(self._command, code).inc()
