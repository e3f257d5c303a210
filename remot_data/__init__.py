"""REMOT Toolkit, the data layer: from raw videos to a verified, annotated, streamable store.

The functions below are the public interface. They are imported when they are first asked for, so that importing the
package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remot_data.annotating.annotate import annotate
    from remot_data.ingest.build import build
    from remot_data.reading.stream import stream
    from remot_data.store import open_store

__all__ = ["annotate", "build", "open_store", "stream"]

_HOME = {"annotate": "annotating.annotate", "build": "ingest.build", "open_store": "store", "stream": "reading.stream"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"remot_data.{_HOME[name]}"), name)
    raise AttributeError(f"module 'remot_data' has no attribute {name!r}")
