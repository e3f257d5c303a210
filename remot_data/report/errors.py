"""What a report says of a file that it cannot show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from remot_data.store import StoreError


class ReportError(StoreError):
    """A ledger or a run folder that cannot be shown; the message names the file."""


@contextmanager
def reading(path: object) -> Iterator[None]:
    """Whatever is wrong with the content of a file becomes an error that names it."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ReportError(f"{path} is damaged ({error!r}); restore it, make it again, or remove it") from error
