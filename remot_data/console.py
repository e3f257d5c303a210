"""What commands say on the terminal beside their results; also for the commands of other packages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

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
