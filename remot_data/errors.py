"""The root of every error that both packages raise on purpose, so that callers and commands can tell it from a bug."""

from __future__ import annotations

PARTS = ("what", "where", "why", "what_next")


class RemotError(Exception):
    """Something that cannot be done. Its text is one sentence for a user; any other exception is a bug.

    Every class under it also has the built-in base that fits, after this one: ``class StoreError(RemotError,
    RuntimeError)``.

    Attributes:
        what, where, why, what_next: the parts of the sentence, for programs; empty where they are not told apart.
        exit_status: the status that a command ends with.
    """

    exit_status = 2
    what = where = why = what_next = ""

    def __init__(self, *args: object, what: str = "", where: str = "", why: str = "", what_next: str = "") -> None:
        """`args` are the sentence; where there are none, it is made of the parts: ``where: what (why); what_next``."""
        if not args and (what or where or why or what_next):
            told = ": ".join(filter(None, (where, what))) + (f" ({why})" if why else "")
            args = ("; ".join(filter(None, (told.strip(), what_next))),)
        super().__init__(*args)
        self.what, self.where, self.why, self.what_next = what, where, why, what_next


def error_classes() -> list[type[RemotError]]:
    """The root and every class under it that is loaded."""
    found = [RemotError]
    for one in found:  # grows on the way
        found += [c for c in one.__subclasses__() if c not in found]
    return found
