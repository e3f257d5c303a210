"""What a run was asked for, and how it goes on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remot_model import checkpoint
from remot_model.config import STAGES

_USUAL = {"snapshot": "main", "split": "train", "seed": 0, "save_every": 250}


def asked(run: Path | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """What to train on and for how long: as given, else as the run that is resumed was told, else the defaults.

    Args:
        run: the folder of the run that is resumed, or None.
        given: ``stores``, ``stages`` (an empty list for all), ``snapshot``, ``split``, ``steps``, ``minutes``,
            ``save_every`` and ``seed``; None where nothing was said. Who says one of steps and minutes
            leaves the other out.
    """
    before: dict[str, Any] = {}
    if run is not None and (run / "config.json").is_file():
        info = checkpoint.read_info(run)
        before = {**info, **info.get("asked", {})}
    found = {name: before.get(name, _USUAL.get(name)) if value is None else value for name, value in given.items()}
    if given["steps"] is None and given["minutes"] is not None:
        found["steps"] = None
    elif given["minutes"] is None and given["steps"] is not None:
        found["minutes"] = None
    return {**found, "stages": tuple(found["stages"] or ()) or None}


def how_to_resume(run: Path) -> str:
    """What is saved of a run that was stopped, and the command that goes on."""
    states = {stage: checkpoint.load_state(run, stage) for stage in STAGES}
    saved = ", ".join(f"{stage} at step {state['steps']}" for stage, state in states.items() if state)
    kept = f"saved: {saved}" if saved else "nothing is saved yet"
    return f"{kept}. To go on: remot train --resume --out {shlex.quote(str(run))}"
