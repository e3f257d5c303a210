"""The `remot` command: options become calls, results text, errors one sentence and a status."""

from __future__ import annotations

import io
import signal
import sys


def main() -> None:
    """Entry point of the `remot` command. A batch system that ends it is heard like Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        # What a terminal has no letters for is written as its number.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line, without `remot` itself; returns its exit status."""
    from remot_data.cli.commands import invoke

    return invoke(arguments)
