"""What a check of the machine finds, and remedies that several of them advise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from remot_data.records import Record

STATES = ("ok", "warn", "bad")

AGAIN = "run `remot doctor` again on a quieter machine"
REINSTALL = "pip install --force-reinstall remot, and ask for wheels that fit this CPU"


@dataclass(frozen=True)
class Finding(Record):
    """How one part was found.

    `state` is ``ok``, ``warn`` (the toolkit runs, but slower or with less) or ``bad`` (it cannot do its work);
    `remedy` says what to do about the last two and is empty for the first.
    """

    what: str
    state: str
    detail: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f"a finding is one of {', '.join(STATES)}, not {self.state!r}")
        if (self.state == "ok") == bool(self.remedy):
            raise ValueError(f"{self.what}: a remedy is for what is not ok, and only for that")


# Takes the URL of a store, or None for the current folder.
Check = Callable[[str | None], Iterator[Finding]]
