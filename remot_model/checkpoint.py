"""The run folder: what is in it, written so that nothing half-written is ever visible.

RUN/config.json                  configuration; what each stage read, with the digest of its content; schemas, versions,
                                 machine, perceptual network
RUN/<stage>/model.safetensors    the generator to use, with averaged weights where the plan averages; its metadata holds
                                 the configuration's digest and the schemas
RUN/<stage>/train_state.pt       all networks as trained, average, optimizers, step and place in the data
RUN/<stage>/stats.jsonl          the losses, a line a step
RUN/<stage>/speed.jsonl          speed and memory, a line every few seconds
RUN/<stage>/samples/             the fixed windows as a sheet at every save
RUN/<stage>/samples.mp4          the same in motion, of the last save
RUN/planned.jsonl                what `--plan` had said, beside what training took, a line a call
RUN/tensorboard/
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import nn

from remot_data.errors import RemotError
from remot_data.store.disk import write_whole
from remot_model import networks
from remot_model.config import STAGES, Config, ConfigError
from remot_model.devices import resolved
from remot_model.generating.inference import Networks

# What may be changed of a trained run: how its networks are computed, not what they are.
COMPUTED = ("precision", "channels_last", "gpu_kernels", "cuda_graphs", "cpu_kernels")


class CheckpointError(RemotError, RuntimeError):
    """A run folder that is missing, damaged, or made for other data or another configuration."""


@dataclass(frozen=True)
class Run:
    """A trained run, ready for inference: generators in eval mode without gradients, by stage."""

    path: Path
    config: Config
    generators: dict[str, nn.Module]
    schemas: dict[str, str]
    info: dict[str, Any]

    @property
    def outside(self) -> str | None:
        """What frames that it was trained on show outside their picture, as `remot_data.Policy` has it."""
        return self.info.get("outside")

    @cached_property
    def networks(self) -> Networks:
        """The generators as inference uses them; made once, so that clips share weights and recorded kernels."""
        return Networks(self.generators, self.config)

    def digests(self) -> dict[str, str]:
        """Stage -> sha256 over the names and values of its generator's tensors."""
        found = {}
        for stage, net in self.generators.items():
            sha = hashlib.sha256()
            for name, value in sorted(net.state_dict().items()):
                sha.update(name.encode())
                sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
            found[stage] = sha.hexdigest()
        return found

    def untrained(self) -> str:
        """A sentence on the stages that the run has not been trained in; empty where it has every one."""
        missing = [stage for stage in self.config.stages if stage not in self.generators]
        if not missing:
            return ""
        return (
            f"{self.path} has no trained {' and '.join(missing)} stage; train it with "
            f"`remot train STORE --stage {missing[0]} --out {self.path}`"
        )


def write_info(run: Path, info: Mapping[str, Any]) -> None:
    """Write ``config.json``; `info` holds at least `config` (as `Config.to_json` gives it) and `schemas`."""
    write_whole(run / "config.json", json.dumps(dict(info), indent=2, sort_keys=True).encode() + b"\n")


def read_info(run: Path) -> dict[str, Any]:
    """The content of ``config.json``; `CheckpointError` if it is not there or not JSON."""
    path = run / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{run} is no run folder: {path.name} is missing; make one with `remot train`") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); train again or restore the file") from error


def save_generator(run: Path, stage: str, net: nn.Module, config: Config, schemas: Mapping[str, str]) -> None:
    """Write ``model.safetensors`` of a stage."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    metadata = {"stage": stage, "config": config.digest(stage), "schemas": json.dumps(dict(schemas), sort_keys=True)}
    write_whole(run / stage / "model.safetensors", safetensors_bytes(tensors, metadata))


def load_generator(run: Path, stage: str, config: Config, schemas: Mapping[str, str] | None = None) -> nn.Module:
    """The generator of a stage, on the CPU.

    Raises:
        CheckpointError: if the file is missing or damaged, or was made with another network configuration or for
            other schemas than these.
    """
    path = run / stage / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; train the stage with `remot train --stage {stage}`")
    try:
        with safe_open(path, "pt") as f:
            metadata = f.metadata() or {}
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); train the stage again or restore the file") from error
    if metadata.get("config") != config.digest(stage):
        raise CheckpointError(
            f"{path} was made with the network configuration {str(metadata.get('config'))[:12]}, "
            f"this is {config.digest(stage)[:12]} ({config.name}); use another run folder"
        )
    if schemas is not None:
        check_schemas(json.loads(metadata["schemas"]), schemas, str(path))
    net = networks.generator(stage, config)
    net.load_state_dict(tensors)
    return net


def check_schemas(made: Mapping[str, str], given: Mapping[str, str], where: str) -> None:
    """`CheckpointError` that names both where the run was made for another schema than the data has."""
    for name in sorted(set(made) & set(given)):
        if made[name] != given[name]:
            raise CheckpointError(
                f"{where} was trained on {name} in the schema {made[name]!r}, the data has {given[name]!r}; "
                f"choose a snapshot whose {name} layer is in {made[name]!r}, or train a new run"
            )


def save_state(run: Path, stage: str, state: Mapping[str, Any]) -> None:
    """Write ``train_state.pt``; `state` holds tensors and plain values only."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_whole(run / stage / "train_state.pt", buffer.getvalue())


def load_state(run: Path, stage: str) -> dict[str, Any] | None:
    """What `save_state` wrote, on the CPU, or None if the stage was never saved."""
    path = run / stage / "train_state.pt"
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); delete the folder {path.parent} to start over"
        ) from error


def load_run(
    run: str | Path, device: str | torch.device = "cpu", computed: Mapping[str, bool | str] | None = None
) -> Run:
    """Open a run folder for inference, with the generators of the stages trained so far.

    Args:
        run: the folder.
        device: where the generators shall be.
        computed: fields of `COMPUTED` that replace those of the run's configuration; ``auto`` is what is best on
            `device`.

    Raises:
        CheckpointError: if the folder is no run, or holds no generator.
        ConfigError: for another field, or a value that it does not take.
    """
    run = Path(run)
    info = read_info(run)
    config = Config.from_json(info["config"])
    chosen: dict[str, Any] = dict(computed or {})
    if wrong := [name for name in chosen if name not in COMPUTED]:
        raise ConfigError(f"{', '.join(wrong)} of a trained run cannot be changed; it can be {', '.join(COMPUTED)}")
    settled = resolved(replace(config, **chosen), device)
    config = replace(config, **{name: getattr(settled, name) for name in chosen})
    trained = [s for s in STAGES if (run / s / "model.safetensors").is_file()]
    if not trained:
        raise CheckpointError(f"{run} holds no trained stage yet; train one with `remot train`")
    generators = {
        s: load_generator(run, s, config, info["schemas"]).to(device).eval().requires_grad_(False) for s in trained
    }
    return Run(run, config, generators, dict(info["schemas"]), info)


def versions() -> dict[str, str]:
    """The versions of what numbers and frames depend on, of the packages that are installed."""
    names = "remot numpy opencv-python-headless scikit-image torch torchmetrics torchvision torch-fidelity"
    found = {}
    for name in names.split():
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
