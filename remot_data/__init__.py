"""REMOT Toolkit, the data layer: from raw videos to a verified, annotated, streamable store.

What is listed in ``__all__`` is the public interface. It is imported when it is first asked for, so that importing the
package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remot_data.annotating.annotate import annotate
    from remot_data.care.compact import compact, remove
    from remot_data.care.compare import compare
    from remot_data.care.doctor import diagnose
    from remot_data.care.verify import repair, verify
    from remot_data.detectors.base import Batched, Detector
    from remot_data.errors import RemotError
    from remot_data.exchange.exports import export
    from remot_data.exchange.importers import import_layer, import_manifest
    from remot_data.ingest.build import build
    from remot_data.ingest.policy import Policy
    from remot_data.reading.joining import Join
    from remot_data.reading.loader import Loader
    from remot_data.reading.stream import Plan, Window, stream, to_torch
    from remot_data.report import write_report
    from remot_data.store import Store, open_store
    from remot_data.store.cache import Cache
    from remot_data.store.layers.base import Kind
    from remot_data.synthetic.store import build_synthetic

# Name -> module.
_HOME = {
    # Build a dataset.
    "build": "ingest.build",
    "Policy": "ingest.policy",
    "build_synthetic": "synthetic.store",
    "import_layer": "exchange.importers",
    "import_manifest": "exchange.importers",
    "export": "exchange.exports",
    "verify": "care.verify",
    "repair": "care.verify",
    "remove": "care.compact",
    "compact": "care.compact",
    "write_report": "report",
    "diagnose": "care.doctor",
    # Stream it.
    "open_store": "store",
    "Store": "store",
    "stream": "reading.stream",
    "Plan": "reading.stream",
    "Window": "reading.stream",
    "Loader": "reading.loader",
    "Cache": "store.cache",
    "Join": "reading.joining",
    "to_torch": "reading.stream",
    # Annotate it anew.
    "annotate": "annotating.annotate",
    "compare": "care.compare",
    "Detector": "detectors.base",
    "Batched": "detectors.base",
    "Kind": "store.layers.base",
    "RemotError": "errors",
}

__all__ = [
    "Batched",
    "Cache",
    "Detector",
    "Join",
    "Kind",
    "Loader",
    "Plan",
    "Policy",
    "RemotError",
    "Store",
    "Window",
    "annotate",
    "build",
    "build_synthetic",
    "compact",
    "compare",
    "diagnose",
    "export",
    "import_layer",
    "import_manifest",
    "open_store",
    "remove",
    "repair",
    "stream",
    "to_torch",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"remot_data.{_HOME[name]}"), name)
    raise AttributeError(f"module 'remot_data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
