"""A plan: what a run would do and take; kept until that run has ended, and then put beside what it took.

A plan changes nothing in a store, which may not even be there yet; so it waits in the cache folder of the user.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from remot_data.assets import cache_folder
from remot_data.detectors._torch import visible_gpus
from remot_data.engine import cpus
from remot_data.records import Record
from remot_data.store.disk import write_whole

_MOST = 100  # plans that wait; the oldest are forgotten
_SHARED = 0.9  # of what a CPU does alone it does beside another (benchmarks/workers.py)


@dataclass(frozen=True)
class Stage(Record):
    """A part of the work: `todo` of its `unit` are to be done, `there` are done; `seconds` of CPUs, None if unknown.

    Attributes:
        alone: seconds of a clock that one worker takes for it, whose threads and children share the CPUs.
        longest: those of its longest task, which one worker does alone.
        once: seconds that each worker takes before its first task, to load what it needs.
    """

    what: str
    unit: str
    todo: int
    there: int = 0
    seconds: float | None = 0.0
    alone: float = 0.0
    longest: float = 0.0
    once: float = 0.0


@dataclass(frozen=True)
class Forecast(Record):
    """What would be done.

    Attributes:
        source: where the seconds come from, in words.
        start: seconds of a CPU that a process takes to start.
        bytes: that are to be written, None where unknown.
        memory: bytes that a worker takes at most.
        gpu: what the card is called that `gpu_seconds` are of; empty where no stage runs on one, or none is known.
        parallel: whether workers share it; else its seconds are those of a clock.
    """

    command: str
    stages: tuple[Stage, ...]
    source: str
    start: float = 0.0
    bytes: int | None = None
    memory: int | None = None
    gpu: str = ""
    gpu_seconds: float | None = None
    parallel: bool = True

    @property
    def seconds(self) -> float | None:
        """Of CPUs, in all, but for what workers take before they begin."""
        known = [stage.seconds for stage in self.stages]
        return None if None in known else float(sum(s for s in known if s is not None))

    def cpu(self, workers: int) -> float | None:
        """Seconds of CPUs with so many workers, from the first process on."""
        if self.seconds is None or not self.parallel:
            return self.seconds
        count = max(workers, 1) if self.seconds else 0
        return self.seconds + self.start * (1 + count) + count * sum(stage.once for stage in self.stages if stage.todo)

    def wall(self, workers: int) -> float | None:
        """Seconds that it takes with so many workers."""
        parts = [self.wall_of(stage, workers) for stage in self.stages]
        if None in parts:
            return None
        at_once = -(-max(workers, 1) // cpus())
        return self.start * (1 + at_once * any(parts)) * self.parallel + sum(part for part in parts if part is not None)

    def wall_of(self, stage: Stage, workers: int) -> float | None:
        """Seconds that a stage takes with so many workers."""
        if not stage.seconds or not self.parallel:
            return stage.seconds
        at_once = max(min(workers, cpus()), 1)
        shared = stage.alone / (at_once * _SHARED if at_once > 1 else 1.0)
        return stage.once + max(shared, stage.seconds / cpus(), stage.longest)


def sentences(made: Forecast, workers: int | None, price: float | None = None) -> list[str]:
    """A forecast as lines of text; `price` is that of an hour of a GPU."""
    lines = [f"{made.command}: {made.source}"]
    for stage in made.stages:
        there = f", {stage.there:,} are there" if stage.there else ""
        seconds = "unknown" if stage.seconds is None else span(stage.seconds)
        of = " of CPUs" if made.parallel else ""
        lines.append(f"  {stage.what}: {stage.todo:,} {stage.unit} to do{there}; {seconds}{of}")
    if made.gpu_seconds is not None:
        hours = made.gpu_seconds / 3600
        lines.append(
            f"  {hours:.2f} GPU-hours on {made.gpu}" + (f", {hours * price:.2f} at {price:g}" if price else "")
        )
    elif made.seconds is None:
        lines.append("  GPU-hours: unknown")
    counts = sorted({1, cpus(), *([workers] if workers else [])})
    walls = [(n, made.wall(n)) for n in counts]
    if made.seconds and not made.parallel:
        lines.append(f"  takes {span(made.seconds)}")
    elif made.seconds:
        lines.append(
            "  takes " + ", ".join(f"{span(w)} with {n} worker{'s' * (n > 1)}" for n, w in walls if w is not None)
        )
    if made.bytes:
        lines.append(f"  writes about {made.bytes / 1e6:,.1f} MB")
    if made.memory:
        lines.append(f"  a worker takes up to about {made.memory / 2**30:.1f} GiB")
    return lines


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
    """Seconds of a run, from when it is made, and the plan for it, which is taken then.

    So a run that is interrupted has no comparison, and what goes on with the rest is not held against the whole.
    """

    def __init__(self, command: str, *target: str, workers: int | None = None) -> None:
        self._began, self._spent = time.monotonic(), spent()
        self._workers = cpus() if workers is None else max(workers, 1)
        path = _path(command, target)
        self._plan = read(json.loads(path.read_bytes())) if path.exists() else None
        path.unlink(missing_ok=True)

    def beside(self, stages: Mapping[str, float]) -> dict[str, Any] | None:
        """Plan and truth, once the run has ended; None where nothing was planned.

        Args:
            stages: seconds of a clock that each stage took.

        Returns:
            ``command``, ``workers``, ``source`` (where the seconds of the plan came from); ``wall`` and ``cpu``,
            seconds [planned, took]; ``stages``, each with ``what``, ``unit``, ``todo`` and ``wall``. What was not known
            is None.
        """
        took, cpu = time.monotonic() - self._began, spent() - self._spent
        if (made := self._plan) is None:
            return None
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


def spent() -> float:
    """Seconds of CPUs that this process and its children have had, those that have ended and those that live."""
    here, total = psutil.Process(), 0.0
    for process in (here, *here.children(recursive=True)):
        try:
            found = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += found.user + found.system + getattr(found, "children_user", 0) + getattr(found, "children_system", 0)
    return total


def span(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
