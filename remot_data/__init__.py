"""REMOT Toolkit, the data layer: from raw videos to a verified, annotated, streamable store.

The functions below are the public interface. Three of them share their name with the module they live in: inside
the package write ``from remot_data.reading.stream import Plan``, since ``remot_data.stream`` is the function.
"""

from remot_data.annotating.annotate import annotate
from remot_data.ingest.build import build
from remot_data.reading.stream import stream
from remot_data.store import open_store

__all__ = ["annotate", "build", "open_store", "stream"]
