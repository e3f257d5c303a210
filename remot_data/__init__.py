"""REMOT Toolkit, the data layer: from raw videos to a verified, annotated, streamable store.

The functions below are the public interface. Three of them share their name with the module they live in: inside
the package write ``from remot_data.stream import Plan``, since ``remot_data.stream`` is the function.
"""

from remot_data.annotate import annotate
from remot_data.build import build
from remot_data.store import open_store
from remot_data.stream import stream

__all__ = ["annotate", "build", "open_store", "stream"]
