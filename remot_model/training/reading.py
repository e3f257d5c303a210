"""What a stage reads while it trains: endless batches on a device, the windows of its sample pictures, and how fast."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import psutil
import torch
from torch import Tensor

from remot_data.store import StoreError
from remot_model import devices
from remot_model.config import Config, ConfigError
from remot_model.training import data
from remot_model.training.feeding import Feeder, readers

_SAMPLED_WINDOWS, _SAMPLED_LENGTHS = 2, (16, 8)
_WEIGHED_WINDOWS = 16  # whose bytes are counted where reading is measured


@dataclass(frozen=True)
class Reading:
    """Where the batches of a stage come from; `processes` is accelerate's state."""

    stores: Any
    config: Config
    stage: str
    snapshot: str
    split: str
    pose_schema: str
    seed: int
    processes: Any
    workers: int = 0
    device: torch.device = torch.device("cpu")  # where `batches` shall be
    say: Callable[[str], None] = print

    def batches(self, length: int, start: int) -> Feeder:
        """This process's share of endless batches of windows of `length` frames, from window number `start` on."""
        p = self.processes
        share: dict[str, Any] = {"rank": p.process_index, "processes": p.num_processes, "workers": self.workers}
        plan, config, stage = self._of(self.config, length)
        size, count = config.plan(stage).batch, len(plan)
        if size > count:
            self.say(
                f"warning: {stage}: a batch has {size} windows of {length} frames, an epoch of the data {count}: every "
                f"step sees the same frames several times; give --batch {count} or less, or more data"
            )
        found = data.stored(plan, config, stage, start=start, **share, **self._drawn)
        return Feeder(found, self.device, self.stage)

    def sample(self) -> dict[str, Tensor]:
        """The windows that sample pictures show: as they are stored, long where the clips allow it."""
        plan = self.config.plan(self.stage)
        few = dataclasses.replace(plan, batch=_SAMPLED_WINDOWS, accumulate=1)
        config = self.config.with_plan(self.stage, few)
        for length in (n for n in _SAMPLED_LENGTHS if n > plan.length):
            with suppress(StoreError):  # no clip has so many frames in a row
                return self._first(config, length)
        return self._first(config, plan.length)

    def _first(self, config: Config, length: int) -> dict[str, Tensor]:
        plan, config, stage = self._of(config, length)
        with closing(data.batches(plan, config, stage, augment=False, **self._drawn)) as batches:
            return next(batches)

    @property
    def _drawn(self) -> dict[str, Any]:
        return {"pose_schema": self.pose_schema, "seed": self.seed}

    def _of(self, config: Config, length: int) -> tuple[Any, Config, str]:
        """The order of windows of `length` frames, and the configuration and stage to read them for."""
        plan = dataclasses.replace(config.plan(self.stage), length=length)
        config = config.with_plan(self.stage, plan)
        told: dict[str, Any] = {"snapshot": self.snapshot, "split": self.split, "seed": self.seed}
        return data.epochs(self.stores, config, self.stage, **told), config, self.stage


def read_only(
    stores: Any,
    *,
    config: Config,
    stage: str,
    seconds: float = 10.0,
    snapshot: str = "main",
    split: str = "train",
    device: str = "auto",
    seed: int = 0,
    workers: int | str = "auto",
) -> dict[str, Any]:
    """Read the windows of a stage as its training does, up to the tensors on the device, without any network.

    Started by `torchrun`, every process reads and measures its own share.

    Args:
        seconds: how long, after the first batch.
        stores, config, snapshot, split, device, seed, workers: as for `train`.

    Returns:
        What was read (``stage``, ``preset``, ``batch``, ``length``, ``size``, ``device``, ``workers``), ``seconds``,
        ``windows``, and ``frames_per_second``, ``frames_per_second_per_core`` (of the CPU seconds that this
        process and its children took), ``cores`` (that were busy), ``windows_per_second`` and ``mb_per_second``, of
        what is stored.

    Raises:
        ConfigError: for a stage that the configuration has not.
        StoreError, remot_model.training.data.DataError: if a layer is missing that the stage needs.
    """
    ranks = SimpleNamespace(
        process_index=int(os.environ.get("RANK", 0)), num_processes=int(os.environ.get("WORLD_SIZE", 1))
    )
    check_plan(config, [stage], ranks.num_processes)
    plan, place = config.plan(stage), devices.pick(device)
    if ranks.num_processes > 1 and place == torch.device("cuda"):
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    count = readers(workers, [stage], place)
    schema = data.schemas(stores, snapshot).get("pose", "body25")
    reading = Reading(stores, config, stage, snapshot, split, schema, seed, ranks, count, place)
    windows = 0
    with closing(reading.batches(plan.length, 0)) as batches:
        next(batches)  # starts threads and processes
        began, before = time.monotonic(), _cpu_seconds()
        while not windows or time.monotonic() - began < seconds:
            windows += len(next(batches)["frames"])
        spent, busy = time.monotonic() - began, _cpu_seconds() - before
    order, *_ = reading._of(config, plan.length)
    some = [sum(map(len, order.fetch(number))) for number in range(min(windows, _WEIGHED_WINDOWS))]
    told = {"stage": stage, "preset": config.name, "batch": plan.batch, "length": plan.length}
    told |= {"size": list(config.size), "device": str(place), "workers": count}
    return told | _rates(windows, plan.length, spent, busy, sum(some) / len(some))


def _rates(windows: int, length: int, seconds: float, busy: float, size: float) -> dict[str, float]:
    """How fast windows of `length` frames and `size` bytes were read, in `busy` CPU seconds."""
    return {
        "seconds": round(seconds, 3),
        "windows": windows,
        "frames_per_second": round(windows * length / seconds, 1),
        "frames_per_second_per_core": round(windows * length / max(busy, 1e-2), 1),
        "cores": round(busy / seconds, 2),
        "windows_per_second": round(windows / seconds, 2),
        "mb_per_second": round(windows / seconds * size / 1e6, 2),
    }


def _cpu_seconds() -> float:
    """CPU seconds that this process and its children have used so far."""
    this = psutil.Process()
    return sum(one.user + one.system for one in (p.cpu_times() for p in (this, *this.children(recursive=True))))


def check_plan(config: Config, stages: Sequence[str], processes: int) -> None:
    for stage in stages:
        plan = config.plan(stage)
        if stage not in config.stages:
            raise ConfigError(f"the configuration {config.name!r} has no {stage} stage (use_wcn is off)")
        if plan.batch % (processes * plan.accumulate):
            raise ConfigError(
                f"{processes} processes with accumulate={plan.accumulate} cannot share the {stage} stage's batches of "
                f"{plan.batch} windows evenly; give --batch {processes * plan.accumulate} or a multiple of it"
            )
