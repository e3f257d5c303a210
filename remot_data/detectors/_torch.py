"""What the detectors that run on torch have in common: where to compute, and reading weights that are no code."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from remot_data.detectors.base import DetectorError

log = logging.getLogger(__name__)


def choose_device(wanted: str | None, detector: str, on_cpu: str) -> str:
    """The torch device a detector runs on: `wanted`, or else ``cuda`` where torch sees one and ``cpu`` where not.

    Args:
        wanted: ``cpu``, ``cuda``, ``cuda:N``, or None to choose.
        on_cpu: what to expect of the processor, for the warning that is given once where it was not asked for.

    Raises:
        DetectorError: for another name, or a CUDA device that torch does not see.
    """
    import torch

    if wanted is None:
        if torch.cuda.is_available():
            return "cuda"
        _warn_of_cpu(detector, on_cpu)
        return "cpu"
    kind, _, number = str(wanted).partition(":")
    if kind == "cpu" and not number:
        return "cpu"
    if kind != "cuda" or not (number.isdigit() or wanted == "cuda"):
        raise DetectorError(f"{detector}: there is no device {wanted!r}; give cpu, cuda or cuda:N")
    if int(number or 0) >= torch.cuda.device_count():
        raise DetectorError(
            f"{detector}: device {wanted!r} was asked for, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices; install torch for your driver, or give device=cpu"
        )
    return str(wanted)


@lru_cache
def _warn_of_cpu(detector: str, on_cpu: str) -> None:
    log.warning("%s runs on the processor, since torch sees no CUDA device: expect %s", detector, on_cpu)


def read_checkpoint(path: str | Path, detector: str, expected: str, allowed: Sequence[Any] = ()) -> Any:
    """What a torch file holds, tensors and plain containers only: nothing in it is ever run.

    Args:
        expected: which file would fit, for the error.
        allowed: harmless classes that the file may hold besides, as `torch.serialization.safe_globals` takes them.

    Raises:
        DetectorError: if there is no such file, or it is no torch file, or it holds other objects.
    """
    import torch

    if not Path(path).is_file():
        raise DetectorError(f"{detector}: there is no weights file {path}; give {expected}")
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, pickle.UnpicklingError) as error:
        raise DetectorError(
            f"{detector}: {path} cannot be read as a file of tensors ({_first_line(error)}); give {expected}"
        ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:200]
