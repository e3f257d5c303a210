"""What happened to a store and when: lines of the ledger, which no two builds have alike and nothing depends on.

A line has ``at`` (UTC, ISO 8601), ``what`` and more: ``snapshot`` (name, layers, where, split), ``build`` (before,
shards: how many there were and are; clips, frames), ``annotate`` (layer, id, shards, frames, seconds), ``remove``
(clips), ``compact`` (clips, each with its frames), ``compare`` (layer, a, b, agreement, frames), ``planned``
(command and more, see `remot_data.care.planned`).
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from remot_data.records import canonical_json

if TYPE_CHECKING:
    from remot_data.store import Store

_LOG = "history"


def now() -> str:
    """The time as lines have it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def note(store: Store, what: str, **about: Any) -> None:
    """Append a line."""
    with store.log(_LOG) as log:
        log.add({"at": now(), "what": what, **about})


def history(store: Store) -> list[dict[str, Any]]:
    """All lines, the oldest first; stores that are older than the history have none."""
    return sorted(store.logged(_LOG), key=lambda line: line["at"])


def gather(store: Store) -> None:
    """Put the lines into one file; only for who holds the lock on the store."""
    store.compact_log(_LOG, canonical_json)
