"""What stands for `media.in_child` in a child process, where a file brings the decoder down."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from remot_data.media import in_child, sandbox


def hangs(**arguments: Any) -> Iterator[sandbox.Message]:
    """Writes its process id to the file that the environment names, if it does."""
    if note := os.environ.get("REMOT_TEST_NOTE"):
        Path(note).write_text(str(os.getpid()))
    time.sleep(1000)
    yield {}, b""


def dies(**arguments: Any) -> Iterator[sandbox.Message]:
    os.write(2, b"the decoder: a bad block\n")
    os.abort()
    yield {}, b""


def is_killed(**arguments: Any) -> Iterator[sandbox.Message]:
    """From outside, after some frames."""
    yield from islice(in_child.frames(**arguments), 10)
    os.kill(os.getpid(), signal.SIGKILL)


def taken(function: str, how: str, real: Any = sandbox.call) -> Any:
    """`sandbox.call`, which makes one of the functions above out of `function` of `in_child`."""

    def call(asked: str, arguments: Any, limits: sandbox.Limits | None = None) -> Any:
        return real(f"{__name__}:{how}" if asked == f"{in_child.__name__}:{function}" else asked, arguments, limits)

    return call
