"""What the detectors that run on torch have in common: where to compute, reading weights that are no code, importing
libraries that want more installed than they use, and keypoints as a pose layer has them."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from remot_data.detectors.base import DetectorError

log = logging.getLogger(__name__)


def choose_device(wanted: str | None, detector: str, on_cpu: str) -> str:
    """The torch device a detector runs on: `wanted`, or else ``cuda`` where torch sees one and ``cpu`` where not.

    Args:
        wanted: ``cpu``, ``cuda``, ``cuda:N``, or None to choose.
        on_cpu: what to expect of the CPU, for the warning that is given once where it was not asked for.

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
    if multiprocessing.parent_process() is None:  # a worker need not repeat it
        log.warning("%s runs on the CPU, since torch sees no CUDA device: expect %s", detector, on_cpu)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, each as ``CUDA_VISIBLE_DEVICES`` names it; without touching one.

    They are those that torch counts, or, where torch knows no CUDA, those that ``nvidia-smi`` lists.
    """
    try:
        import torch

        count, asked = torch.cuda.device_count(), torch.version.cuda is not None
    except ImportError:
        count, asked = 0, False
    count = count if count or asked else _listed_gpus()
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in range(count)] if told is None else _parted(told)[:count]


def _listed_gpus() -> int:
    binary = shutil.which("nvidia-smi")
    if binary is None:
        return 0
    listed = subprocess.run([binary, "-L"], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _parted(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


@contextmanager
def only_gpus(wanted: str | None) -> Iterator[None]:
    """With no other GPUs to be seen by this process, if it has not used one, and by the processes it starts.

    Args:
        wanted: with commas, numbers as torch counts the GPUs that are seen now, or names as
            ``CUDA_VISIBLE_DEVICES`` takes them; ``none`` for none at all, None for those that are seen now.

    Raises:
        DetectorError: if one of them is not there.
    """
    if wanted is None:
        yield
        return
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = None if before is None else _parted(before)
    names = [] if wanted == "none" else _parted(wanted)
    if seen is not None:
        names = [seen[int(name)] if name.isdigit() and int(name) < len(seen) else name for name in names]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
    try:
        known = visible_gpus() if names else []
        if known != names or len(set(names)) < len(names) or (seen is not None and not set(names) <= set(seen)):
            raise DetectorError(
                f"--gpus {wanted}: not all of these are there; give numbers from 0, or names as `nvidia-smi -L` lists "
                "them, or none"
            )
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def gpu_name(device: str) -> str:
    """The name of the card that a detector with this `device` runs on here; empty for ``cpu``, or unknown to torch."""
    if not str(device).startswith("cuda"):
        return ""
    try:
        import torch

        return torch.cuda.get_device_name(device) if torch.cuda.is_available() else ""
    except ImportError:
        return ""


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
        with torch.serialization.safe_globals(list(allowed)) if allowed else nullcontext():
            return torch.load(path, map_location="cpu", weights_only=True)
    # torch fails on a file of something else in whatever way its bytes lead to.
    except Exception as error:
        raise DetectorError(
            f"{detector}: {path} cannot be read as a file of tensors ({_first_line(error)}); give {expected}"
        ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:200]


def as_layer(points: np.ndarray, scores: np.ndarray, size: tuple[int, int], threshold: float) -> np.ndarray:
    """Keypoints of a pose layer, float32 [T, K, 3], of positions [T, K, 2] with the origin at the corner.

    Scores [T, K] are brought to [0, 1]; points outside the frame, below the threshold or not finite are 0, 0, 0.
    """
    out = np.concatenate([points, scores[..., None]], -1).astype(np.float32)
    finite = np.isfinite(out).all(-1)
    inside = ((out[..., :2] >= 0) & (out[..., :2] < size[::-1])).all(-1)
    out[..., 2] = out[..., 2].clip(0, 1)
    out[~(finite & inside & (out[..., 2] > 0) & (out[..., 2] >= threshold))] = 0
    return out


@contextmanager
def stand_ins(names: Sequence[str], advice: str) -> Iterator[None]:
    """Modules that refuse to be used in place of those of `names` that are not installed, for as long as it lasts.

    They are taken away again, since libraries look at what is imported to tell what is installed. `advice` ends the
    `DetectorError` that is raised when something of them is called.
    """
    placed = []
    try:
        for name in names:
            try:
                importlib.import_module(name)
            # A torchvision for another torch fails with RuntimeError.
            except (ImportError, RuntimeError):
                sys.modules[name] = _Refusing(name, advice)
                placed.append(name)
        yield
    finally:
        for name in placed:
            del sys.modules[name]


class _Refusing(ModuleType):
    """A module that has every name, and raises when one is called."""

    def __init__(self, name: str, advice: str):
        super().__init__(name)
        self.__advice = advice

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise DetectorError(f"{self.__name__}.{name} was called, which is not installed; {self.__advice}")

        return refuse


@contextmanager
def without_warnings() -> Iterator[None]:
    """Without what libraries warn of that a user can do nothing about, as deprecations among themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
