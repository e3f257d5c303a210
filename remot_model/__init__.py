"""REMOT: trained from windows of `remot_data.stream`, run on one source image and a driving video.

`transfer` and `evaluate` are imported when they are first asked for, so that what needs no torch, such as
the help of the commands, works without it. No module or folder here has their names: docs/architecture.md says why.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remot_model.evaluating.evaluate import evaluate
    from remot_model.transferring.transfer import transfer

__all__ = ["evaluate", "transfer"]

_HOME = {"evaluate": "evaluating.evaluate", "transfer": "transferring.transfer"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"remot_model.{_HOME[name]}"), name)
    raise AttributeError(f"module 'remot_model' has no attribute {name!r}")
