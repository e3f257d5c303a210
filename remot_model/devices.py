"""Which device trains and infers, in which precision, and what `auto` means on it.

An ``auto`` is resolved once, when a stage begins, and written into the run's config.json as a value: resuming,
evaluating and transferring follow that file, whatever the device.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import torch

from remot_model.config import AUTO_FIELDS, Config, ConfigError

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def pick(name: str) -> torch.device:
    """The device of a name: ``cpu``, ``cuda``, ``cuda:N``, ``mps`` (untested), or ``auto``, CUDA where there is one.

    Raises:
        ConfigError: for another name, or a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = re.fullmatch(r"(cpu|cuda|mps)((?<=cuda):[0-9]+)?", name)
    if not found:
        raise ConfigError(f"there is no device {name!r}; it is auto, cpu, cuda, cuda:N (a number) or mps")
    kind, number = found[1], int((found[2] or ":0")[1:])
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if number >= count:  # before torch is asked, which knows no large numbers
            has = f"this machine has {count} GPU{'s' * (count != 1)} that torch can use"
            raise ConfigError(f"there is no device {name!r}: {has}; `remot doctor` says more")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("there is no device 'mps' here: it is that of Apple's chips; take cpu")
    return torch.device(kind, number) if found[2] else torch.device(kind)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 faster than by emulation: AVX512-BF16 or AMX on a CPU."""
    if device.type == "cpu":
        can: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(can.get("avx512_bf16") or can.get("amx_bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def infers_in_bfloat16(config: Config, device: torch.device) -> bool:
    """Whether a run's networks infer in bfloat16: they were trained in it, and the device has the instructions."""
    return config.precision == "bfloat16" and has_bfloat16(device)


def resolved(config: Config, device: torch.device | str, processes: int = 1) -> Config:
    """The configuration with a value for each ``auto``: what was measured to be best on this kind of device.

    Args:
        config: any; fields that are not ``auto`` stay.
        device: that trains.
        processes: that train together. CUDA graphs were never recorded together with the exchange of gradients, so
            several processes go without.
    """
    device = torch.device(device)
    gpu = device.type == "cuda"
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if gpu and has_bfloat16(device) else "float32"
    values: dict[str, Any] = {
        "precision": precision,
        "crop_regions": not gpu,
        "channels_last": gpu and precision != "float32",
        "gpu_kernels": gpu and precision != "float32",
        "compile": False,  # slower to start than it ever saved; docs/gpu.md
        "cuda_graphs": gpu and processes == 1 and precision != "float16",
    }
    return dataclasses.replace(config, **{name: values[name] for name in config.open_fields})


def settled(config: Config, made: Config) -> Config:
    """The configuration with the values that a run was made with, `made`, in place of each ``auto``."""
    names = [*config.open_fields, *(name for name in ("valid", "sure") if getattr(config, name) == "auto")]
    return dataclasses.replace(config, **{name: getattr(made, name) for name in names})


def why_plain(config: Config, stage: str, device: torch.device, processes: int = 1) -> str:
    """Why the steps of a stage are not recorded as a CUDA graph, in a few words; empty where they are."""
    if not config.cuda_graphs:
        return "cuda_graphs is off"
    if device.type != "cuda":
        return f"{device} has no CUDA graphs"
    if processes > 1:
        return "several processes exchange gradients within a step"
    if config.precision == "float16":
        return "float16 leaves steps out by their gradients"
    if stage != "layout" and config.crop_regions:
        return "crops follow the person, so shapes change"
    return ""


def words(config: Config, before: Config, device: torch.device) -> str:
    """What became of each ``auto`` of `before`, for the line that says it once; empty where there was none."""
    names = [name for name in AUTO_FIELDS if name in before.open_fields]
    if not names:
        return ""
    found = ", ".join(f"{name}={str(getattr(config, name)).lower()}" for name in names)
    return f"auto on {device}: {found}"
