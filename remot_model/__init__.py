"""REMOT: trained from windows of `remot_data.stream`, run on one source image and a driving video.

What is listed in ``__all__`` is imported when it is first asked for, so that what needs no torch, such as the help of
the commands, works without it. No module or folder here has their names: docs/architecture.md says why.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remot_model.checkpoint import Run, load_run
    from remot_model.config import Config, preset
    from remot_model.evaluating.evaluate import evaluate
    from remot_model.networks import generator
    from remot_model.training.reading import read_only
    from remot_model.training.train import train
    from remot_model.transferring.batch import transfer_all
    from remot_model.transferring.transfer import transfer

__all__ = [
    "Config",
    "Run",
    "evaluate",
    "generator",
    "load_run",
    "preset",
    "read_only",
    "train",
    "transfer",
    "transfer_all",
]

# Name -> module.
_HOME = {
    "Config": "config",
    "preset": "config",
    "generator": "networks",
    "train": "training.train",
    "read_only": "training.reading",
    "Run": "checkpoint",
    "load_run": "checkpoint",
    "evaluate": "evaluating.evaluate",
    "transfer": "transferring.transfer",
    "transfer_all": "transferring.batch",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"remot_model.{_HOME[name]}"), name)
    raise AttributeError(f"module 'remot_model' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
