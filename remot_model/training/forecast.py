"""What a training would do and how long it would take: some steps of each stage in a folder that is removed again."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from remot_data.care.forecast import peak
from remot_data.care.planned import Forecast, Stage
from remot_model import checkpoint, devices
from remot_model.config import Config
from remot_model.training.train import train

_WARM, _MEASURED = 2, 6  # steps


def of_train(
    stores: Any,
    run: Path | None,
    *,
    config: Config,
    stages: Sequence[str] | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    device: str = "auto",
    **reading: Any,
) -> Forecast:
    """What `train` would do with these arguments; steps that `run` has already are not done again.

    On a GPU the seconds are those of the card, which is measured as it is.

    Raises:
        DataError, ConfigError, CheckpointError: as `train`.
    """
    chosen, place = tuple(stages or config.stages), devices.pick(device)
    found = []
    with tempfile.TemporaryDirectory(prefix="remot-plan-") as folder:
        for name in config.stages:
            pace, options = 0.0, {**reading, "config": config, "stages": [name], "device": device, "say": _quiet}
            train(stores, folder, steps=_WARM, **options)
            if name in chosen:
                (result,) = train(stores, folder, steps=_WARM + _MEASURED, resume=True, **options)
                pace = 1 / max(result.steps_per_second, 1e-9)
                planned = (
                    (steps or config.plan(name).steps) if minutes is None else round(60 * minutes / len(chosen) / pace)
                )
                there = min(_steps(run, name), planned)
                found.append(Stage(name, "steps", planned - there, there, (planned - there) * pace))
    seconds = sum(stage.seconds or 0.0 for stage in found)
    words = f"measured here, {_MEASURED} steps of each stage on {place}"
    if place.type != "cuda":
        return Forecast("train", tuple(found), words, memory=peak(), parallel=False)
    card = torch.cuda.get_device_name(place)
    memory = torch.cuda.max_memory_allocated(place)
    return Forecast("train", tuple(found), words, memory=memory, gpu=card, gpu_seconds=seconds, parallel=False)


def _steps(run: Path | None, stage: str) -> int:
    """How many steps of a stage a run has."""
    state = checkpoint.load_state(run, stage) if run is not None and (run / "config.json").exists() else None
    return 0 if state is None else int(state["steps"])


def _quiet(_: str) -> None:
    pass
