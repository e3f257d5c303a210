"""Whether this machine can do the work: every part is tried out, not looked up.

The checks run in a child process, since what is wrong with a machine may hang or kill a process: a codec built for
another CPU, a network folder that is gone, a driver that does not answer. Nothing is downloaded, and what is
written is removed again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from remot_data.care import check_computing, check_machine, check_video
from remot_data.care.findings import AGAIN, REINSTALL, Finding
from remot_data.media import sandbox

_SECONDS = 28.0  # for all checks together
_STALL = 14.0  # for one step of a check
_CHECKS = check_machine.CHECKS | check_video.CHECKS | check_computing.CHECKS


def diagnose(out: str | None = None) -> list[Finding]:
    """Try out every part of this machine, in under 30 seconds.

    Args:
        out: URL of the store to make or to resume; its disk is tried. The current folder by default.

    Returns:
        A finding for each part, in a fixed order. A check that hangs, crashes or fails is one of them.
    """
    started, waiting, findings = time.monotonic(), list(_CHECKS), []
    while waiting:
        left = _SECONDS - (time.monotonic() - started)
        if left < 1:
            findings += [Finding(what, "warn", "not checked: the time was up", AGAIN) for what in waiting]
            break
        current, limits = waiting[0], sandbox.Limits(stall=min(_STALL, left), total=left, memory=1 << 40)
        try:
            for message, _ in sandbox.call("remot_data.care.doctor:run", {"names": waiting, "out": out}, limits):
                if "begins" in message:
                    current = message["begins"]
                else:
                    findings.append(Finding.from_json(message))
            break
        except sandbox.ChildError as error:
            late = error.code == "timeout" and time.monotonic() - started > _SECONDS - 0.5
            state, remedy = ("warn", AGAIN) if late else ("bad", _CHECKS[current][1])
            findings.append(Finding(current, state, str(error), remedy))
            waiting = waiting[waiting.index(current) + 1 :]
        except RuntimeError as error:  # There is no child to try anything in.
            findings.append(Finding("child processes", "bad", str(error), REINSTALL))
            break
    return findings


def run(names: Sequence[str], out: str | None) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Run the checks called `names` here: for each ``{"begins": name}``, then its findings as JSON."""
    for name in names:
        yield {"begins": name}, b""
        check, remedy = _CHECKS[name]
        try:
            for finding in check(out):
                yield finding.to_json(), b""
        except Exception as error:  # A check that fails is a finding: the others still have something to say.
            yield Finding(name, "bad", f"{type(error).__name__}: {error}", remedy).to_json(), b""
