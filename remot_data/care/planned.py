"""What a plan said, kept until the run that was planned has ended, and then put beside what that took.

A plan changes nothing in a store, which may not even be there yet; so it waits in the cache folder of the user.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from remot_data.assets import cache_folder
from remot_data.care.forecast import Forecast, Stage, span, spent
from remot_data.detectors._torch import visible_gpus
from remot_data.engine import cpus
from remot_data.store.disk import write_whole

_MOST = 100  # plans that wait; the oldest are forgotten


def keep(made: Forecast, *target: str) -> None:
    """Keep a plan for the run of its command on a target: the store or run folder, and what else names the run."""
    path = _path(made.command, target)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(made.to_json()).encode())
    for old in sorted(path.parent.glob("*.json"), key=lambda p: p.stat().st_mtime)[:-_MOST]:
        old.unlink(missing_ok=True)


def read(plain: Mapping[str, Any]) -> Forecast:
    """A forecast out of its JSON."""
    made = Forecast.from_json(plain)
    return replace(made, stages=tuple(Stage.from_json(stage) for stage in plain["stages"]))


class Clock:
    """Seconds of a run, from when it is made, and the plan for it."""

    def __init__(self, command: str, *target: str, workers: int | None = None) -> None:
        self._path, self._began, self._spent = _path(command, target), time.monotonic(), spent()
        self._workers = cpus() if workers is None else max(workers, 1)

    def beside(self, stages: Mapping[str, float]) -> dict[str, Any] | None:
        """Plan and truth, once the run has ended; None where nothing was planned. The plan is forgotten.

        Args:
            stages: seconds of a clock that each stage took.

        Returns:
            ``command``, ``workers``, ``source`` (where the seconds of the plan came from); ``wall`` and ``cpu``,
            seconds [planned, took]; ``stages``, each with ``what``, ``unit``, ``todo`` and ``wall``. What was not known
            is None.
        """
        took, cpu = time.monotonic() - self._began, spent() - self._spent
        if not self._path.exists():
            return None
        made = read(json.loads(self._path.read_bytes()))
        self._path.unlink()
        wall, cpus_planned = made.wall(self._workers), made.cpu(self._workers) if made.parallel else None
        if on_cards := made.gpu_seconds is not None and made.parallel:
            wall, cpus_planned = (made.gpu_seconds or 0.0) / max(len(visible_gpus()), 1), None
        return {
            "command": made.command,
            "workers": self._workers if made.parallel else 1,
            "source": made.source,
            "wall": _pair(wall, took),
            "cpu": _pair(cpus_planned, cpu),
            "stages": [
                {
                    "what": stage.what,
                    "unit": stage.unit,
                    "todo": stage.todo,
                    "wall": _pair(wall if on_cards else made.wall_of(stage, self._workers), stages.get(stage.what)),
                }
                for stage in made.stages
            ],
        }


def sentence(pair: Mapping[str, Any]) -> str:
    """Plan and truth for a terminal."""
    planned, took = pair["wall"]
    return f"planned {'unknown' if planned is None else span(planned)}, took {span(took)}"


def _pair(planned: float | None, took: float | None) -> list[float | None]:
    return [None if seconds is None else round(seconds, 2) for seconds in (planned, took)]


def _path(command: str, target: tuple[str, ...]) -> Path:
    place, *rest = target
    whole = place if "://" in place else os.path.abspath(place)
    name = hashlib.sha256(json.dumps([command, whole, *rest]).encode()).hexdigest()[:16]
    return cache_folder() / "plans" / f"{name}.json"
