"""Classes in files of a user's own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from remot_data.store.layers._check import LayerError


def class_in(spec: str) -> Any:
    """The class that ``path/to/file.py:ClassName`` names; the file is run.

    Raises:
        LayerError: if there is none.
    """
    name, _, attribute = spec.partition(":")
    path = Path(name)
    if not path.is_file() or not attribute:
        raise LayerError(f"{path}:{attribute} is not a file and a class name (write path/to/file.py:ClassName)")
    found = importlib.util.spec_from_file_location(f"remot_detector_{path.stem}", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    if not hasattr(module, attribute):
        raise LayerError(f"{path} has no class {attribute!r}")
    return getattr(module, attribute)
