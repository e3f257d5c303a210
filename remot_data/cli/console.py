"""What commands say on the terminal beside their results; also for the commands of other packages."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from remot_data.errors import RemotError

out, err = (Console(highlight=False, soft_wrap=True, stderr=stderr) for stderr in (False, True))

_OF_A_PATH = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


def explained(error: Exception) -> tuple[str, int] | None:
    """The sentence and the exit status that an error ends a command with; None for a bug, which shows its traceback."""
    if isinstance(error, RemotError):
        return str(error), error.exit_status
    if isinstance(error, _OF_A_PATH):
        sentence = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return sentence, RemotError.exit_status
    return None


@contextmanager
def reported() -> Iterator[None]:
    """End the command with the sentence of what is raised on stderr, and its status.

    Raises:
        typer.Exit: with that status. A bug passes through.
    """
    try:
        yield
    except Exception as error:
        found = explained(error)
        if found is None:
            raise
        sentence, status = found
        err.print(f"[red]error:[/red] {escape(sentence)}", emoji=False)
        raise typer.Exit(status) from error


_AGAIN = "what is finished is kept: run the same command again to resume"
_stopped: list[str] = []


@contextmanager
def when_stopped(words: Callable[[], str]) -> Iterator[None]:
    """What `stopped` says, where Ctrl-C ends the block and the same command would not resume."""
    try:
        yield
    except KeyboardInterrupt:
        _stopped[:] = [words()]
        raise


def stopped() -> None:
    """Say that Ctrl-C was heard, and how to go on."""
    err.print(f"stopped; {_stopped.pop() if _stopped else _AGAIN}", markup=False)


@contextmanager
def progress_bars() -> Iterator[Any]:
    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=not err.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def update(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total, rate="")
            task = bars.tasks[bars.task_ids.index(tasks[label])]
            rate = f"{done / task.elapsed:.2f}/s" if task.elapsed else ""
            bars.update(tasks[label], completed=done, total=total, rate=rate)

        yield update


def print_failed(failed: dict[str, dict[str, str]]) -> None:
    for kind, clips in failed.items():
        for clip, why in clips.items():
            out.print(escape(f"no {kind} for clip {clip}: {why}"))


def as_line(value: Any) -> str:
    """A value as JSON that stdout has letters for."""
    return json.dumps(value, ensure_ascii=(sys.stdout.encoding or "").lower().replace("-", "") != "utf8")


def finish(value: Any, as_json: bool, status: int = 0) -> None:
    if as_json:
        print(as_line(value))
    if status:
        raise typer.Exit(status)


class Line:
    """A line on a terminal that is redrawn in place, with sentences above it."""

    drawn = False

    def say(self, sentence: str) -> None:
        sys.stderr.write(f"\r\x1b[K{sentence}\n")
        self.drawn = False

    def show(self, line: str, last: bool) -> None:
        """Draw the line in place of the one before; behind the last one of a stage a new one begins."""
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r{line[:width]}\x1b[K" + ("\n" if last else ""))
        sys.stderr.flush()
        self.drawn = not last

    def end(self) -> None:
        """Begin a new line behind one that training was stopped at."""
        if self.drawn:
            sys.stderr.write("\n")
