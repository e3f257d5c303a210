"""Training: the stages one after the other into a run folder, each by a loop of batches, logs and saves.

What the stages differ in, `remot_model.training.stages` declares by name; one step of any of them is
`remot_model.training.trainer`.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, distributed

from remot_data.store import StoreError
from remot_model import checkpoint, devices
from remot_model.checkpoint import CheckpointError, write_atomically
from remot_model.config import Config, ConfigError
from remot_model.training import data, features
from remot_model.training.feeding import Feeder, readers
from remot_model.training.journal import Journal, Pace
from remot_model.training.stages import STAGES, Setting, needed_generators
from remot_model.training.trainer import Losses, Trainer, TrainingError

_SAMPLED_WINDOWS, _SAMPLED_LENGTHS = 2, (16, 8)
_WEIGHED_WINDOWS = 16  # whose bytes are counted where reading is measured
_UNREAD = 10  # steps on a GPU after which losses are read; so many batches are kept
_MEANT = 1000
_VERSIONS = ("remot", "torch", "numpy", "accelerate", "opencv-python-headless")


@dataclass(frozen=True)
class StageResult:
    """How the training of a stage ended: `losses` are means over the last tenth of its steps in this call, of the last
    thousand at most."""

    stage: str
    steps: int
    seconds: float
    steps_per_second: float
    waited: float
    losses: dict[str, float]


@dataclass(frozen=True)
class Budget:
    """When a stage is over: after `steps`, or after `seconds` of training, whichever is given and comes first."""

    steps: int | None
    seconds: float | None

    def done(self, step: int, seconds: float) -> float:
        """The share of the training that is over, 0 to 1."""
        shares = [step / max(self.steps, 1)] if self.steps is not None else []
        shares += [seconds / max(self.seconds, 1e-9)] if self.seconds is not None else []
        return min(1.0, max(shares))


def train(
    stores: Any,
    run: str | Path,
    *,
    config: Config,
    stages: Sequence[str] | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    snapshot: str = "main",
    split: str = "train",
    device: str = "auto",
    resume: bool = False,
    seed: int = 0,
    save_every: int = 250,
    workers: int | str = "auto",
    say: Callable[[str], None] = print,
) -> list[StageResult]:
    """Train stages one after the other and write them into a run folder (see `remot_model.checkpoint`).

    Started by `torchrun` or `accelerate launch`, every process takes its share of each batch; the run folder has to be
    one that all of them see.

    Args:
        stores: a store, its URL, or several.
        run: the run folder; stages trained into it before are used by later ones.
        config: the model and its plan. What is ``auto`` in it is as in the run, where there is one already, else as
            `remot_model.devices.resolved` has it for the device; it is said, and written into the run.
        stages: all that `config` has by default.
        steps: batches of windows a stage, instead of the plan's.
        minutes: time for all stages together, shared evenly; without `steps` it replaces the plan's number. The
            decay of the learning rate follows the time then, so such a run does not repeat exactly.
        device: ``cpu``, ``cuda``, ``cuda:1``, ... or ``auto``, which takes CUDA where there is one.
        resume: go on from the last save; a run that was killed and resumed equals one that never was.
        save_every: steps from one save and sample grid to the next.
        workers: processes that read and decode for each process that trains; 0 for threads. ``auto`` is threads for a
            CPU, and processes for a GPU (see `remot_model.training.feeding.readers`).
        say: where status lines go.

    Raises:
        CheckpointError: if the folder holds something else, or a trained stage and `resume` is false, or a stage was
            trained on other data than the snapshot holds now.
        ConfigError: for a stage that the configuration has not, batches that the processes cannot share, or a device
            that is not there.
        TrainingError: if a loss or gradient is not finite, or a stage is missing that a later one needs.
        remot_model.training.data.DataError: if the stores do not fit together or lack a layer.
    """
    from accelerate import PartialState

    run, stages = Path(run), config.stages if stages is None else tuple(stages)
    place = devices.pick(device)
    processes = PartialState(cpu=place.type == "cpu")
    _check_plan(config, stages, processes.num_processes)
    if processes.num_processes > 1:
        place = processes.device
    asked, config = config, _resolved(run, config, place, processes.num_processes)
    reading = readers(workers, stages, place)
    schemas = data.schemas(stores, snapshot)
    read = _read(stores, snapshot, split, say if processes.is_main_process else _quiet)
    _check_run(run, config, schemas, read, stages, resume)
    if not processes.is_main_process:
        say = _quiet
    used = _load_features(config, stages, place, say)
    processes.wait_for_everyone()
    if processes.is_main_process:
        _write_info(run, config, schemas, read, stages, seed, used, place)
    threads = f", {torch.get_num_threads()} threads" if place.type == "cpu" else ""
    several = f", {processes.num_processes} processes" if processes.num_processes > 1 else ""
    say(f"training {', '.join(stages)} of {config.name!r} on {place}{threads}{several}; run folder {run}")
    if settled := devices.words(config, asked, place):
        say(settled)
    by = f"{reading} process{'es' if reading > 1 else ''}" if reading else "threads"
    say(f"reading: {by}{' for each' if several else ''}")
    results: list[StageResult] = []
    for i, stage in enumerate(stages):
        spent = sum(result.seconds for result in results)
        left = None if minutes is None else (60 * minutes - spent) / (len(stages) - i)
        planned = config.plan(stage).steps if minutes is None else None
        budget = Budget(steps if steps is not None else planned, left)
        if config.cuda_graphs and (why := devices.why_plain(config, stage, place, processes.num_processes)):
            say(f"{stage}: steps are not recorded as a CUDA graph: {why}")
        trainer = Trainer(stage, _setting(run, stage, config, used, schemas, place), place, seed)
        source = _Source(
            stores, config, stage, snapshot, split, schemas.get("pose", "body25"), seed, processes, reading, place
        )
        results.append(_Loop(run, trainer, source, schemas, budget, save_every, say).go(resume))
        processes.wait_for_everyone()  # the next stage may need what the first process has just saved
    return results


@dataclass(frozen=True)
class _Source:
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

    def batches(self, length: int, start: int) -> Feeder:
        """This process's share of endless batches of windows of `length` frames, from window number `start` on."""
        p = self.processes
        share = {"rank": p.process_index, "processes": p.num_processes, "workers": self.workers}
        found = data.stored(*self._of(self.config, length), start=start, **share, **self._drawn)
        return Feeder(found, self.device, self.stage)

    def sample(self) -> dict[str, Tensor]:
        """The windows that sample pictures show: as they are stored, long where the clips allow it."""
        plan = self.config.plan(self.stage)
        few = dataclasses.replace(plan, batch=_SAMPLED_WINDOWS, accumulate=1)
        config = dataclasses.replace(self.config, **{self.stage: few})
        for length in (n for n in _SAMPLED_LENGTHS if n > plan.length):
            with suppress(StoreError):  # no clip has so many frames in a row
                return self._first(config, length)
        return self._first(config, plan.length)

    def _first(self, config: Config, length: int) -> dict[str, Tensor]:
        with closing(data.batches(*self._of(config, length), augment=False, **self._drawn)) as batches:
            return next(batches)

    @property
    def _drawn(self) -> dict[str, Any]:
        return {"pose_schema": self.pose_schema, "seed": self.seed}

    def _of(self, config: Config, length: int) -> tuple[Any, Config, str]:
        """The order of windows of `length` frames, and the configuration and stage to read them for."""
        plan = dataclasses.replace(config.plan(self.stage), length=length)
        config = dataclasses.replace(config, **{self.stage: plan})
        told = {"snapshot": self.snapshot, "split": self.split, "seed": self.seed}
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
        ``windows``, and ``frames_per_second``, ``frames_per_second_per_core`` (of the seconds of processors that this
        process and its children took), ``cores`` (that were busy), ``windows_per_second`` and ``mb_per_second``, of
        what is stored.

    Raises:
        ConfigError: for a stage that the configuration has not.
        StoreError, remot_model.training.data.DataError: if a layer is missing that the stage needs.
    """
    ranks = SimpleNamespace(
        process_index=int(os.environ.get("RANK", 0)), num_processes=int(os.environ.get("WORLD_SIZE", 1))
    )
    _check_plan(config, [stage], ranks.num_processes)
    plan, place = config.plan(stage), devices.pick(device)
    if ranks.num_processes > 1 and place == torch.device("cuda"):
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    count = readers(workers, [stage], place)
    schema = data.schemas(stores, snapshot).get("pose", "body25")
    source = _Source(stores, config, stage, snapshot, split, schema, seed, ranks, count, place)
    windows = 0
    with closing(source.batches(plan.length, 0)) as batches:
        next(batches)  # starts threads and processes
        began, before = time.monotonic(), _processor_seconds()
        while not windows or time.monotonic() - began < seconds:
            windows += len(next(batches)["frames"])
        spent, busy = time.monotonic() - began, _processor_seconds() - before
    order, *_ = source._of(config, plan.length)
    some = [sum(map(len, order.fetch(number))) for number in range(min(windows, _WEIGHED_WINDOWS))]
    told = {"stage": stage, "preset": config.name, "batch": plan.batch, "length": plan.length}
    told |= {"size": list(config.size), "device": str(place), "workers": count}
    return told | _rates(windows, plan.length, spent, busy, sum(some) / len(some))


def _rates(windows: int, length: int, seconds: float, busy: float, size: float) -> dict[str, float]:
    """How fast windows of `length` frames and `size` bytes were read, in `busy` seconds of processors."""
    return {
        "seconds": round(seconds, 3),
        "windows": windows,
        "frames_per_second": round(windows * length / seconds, 1),
        "frames_per_second_per_core": round(windows * length / max(busy, 1e-2), 1),
        "cores": round(busy / seconds, 2),
        "windows_per_second": round(windows / seconds, 2),
        "mb_per_second": round(windows / seconds * size / 1e6, 2),
    }


def _processor_seconds() -> float:
    """What this process and its children have used so far."""
    this = psutil.Process()
    return sum(one.user + one.system for one in (p.cpu_times() for p in (this, *this.children(recursive=True))))


class _Step(NamedTuple):
    """A step that was taken: its number, from 0 on, and what it was given and gave."""

    number: int
    rate: float
    losses: Losses
    batch: dict[str, Tensor]


class _Loop:
    """The training of one stage: batches, logs, saves. Only the first of several processes writes anything."""

    def __init__(
        self,
        run: Path,
        trainer: Trainer,
        source: _Source,
        schemas: Mapping[str, str],
        budget: Budget,
        save_every: int,
        say: Callable[[str], None],
    ) -> None:
        self.run, self.trainer, self.source, self.schemas = run, trainer, source, schemas
        self.budget, self.save_every, self.say = budget, save_every, say
        self.folder, self.config = run / trainer.name, trainer.config
        self.plan, self.main = trainer.config.plan(trainer.name), source.processes.is_main_process
        # How often the length of windows has doubled, and the step since when: so the place in the data is known.
        self.phase = self.since = self.saved = 0
        # Steps whose losses nobody has read, since that waits for a GPU, with the batches that they were made of.
        self.unread: deque[_Step] = deque(maxlen=_UNREAD if trainer.device.type == "cuda" else 1)
        self.rows: deque[dict[str, float]] = deque(maxlen=_MEANT)

    def go(self, resume: bool) -> StageResult:
        trainer, before = self.trainer, 0.0
        if resume and (state := checkpoint.load_state(self.run, trainer.name)) is not None:
            trainer.load(state)
            before, self.phase, self.since = float(state["seconds"]), state["phase"], state["since"]
            self.saved = trainer.steps
            self.say(f"{trainer.name}: resumed at step {trainer.steps}")
        self.pace = Pace(trainer.steps, self.budget.done(trainer.steps, before), before)
        journal = Journal(self.run, trainer.name, trainer.steps, self.budget.steps, self.say) if self.main else None
        sample = self.source.sample() if self.main else {}
        started, batches = trainer.steps, None
        try:
            while (done := self._done()) < 1:
                batches = self._in_phase(batches, self.plan.phase(done))
                self._step(batches, done)
                due = trainer.steps % self.save_every == 0
                if due or len(self.unread) == self.unread.maxlen:
                    self._read(journal)
                if journal and due:
                    self._save(journal, sample)
            self._read(journal)
            if journal:
                self._save(journal, sample)
        finally:
            for opened in (batches, journal):
                if opened:
                    opened.close()
        return self._result(trainer.steps - started)

    def _share(self) -> float:
        return self.budget.done(self.trainer.steps, self.pace.seconds)

    def _done(self) -> float:
        """The share of the training that is over; by time, the first process's clock holds for all."""
        done = torch.tensor(self._share(), dtype=torch.float64)
        if self.budget.seconds is not None and self.source.processes.num_processes > 1:
            done = done.float().to(self.trainer.device)
            distributed.broadcast(done, 0)
        return float(done)

    def _in_phase(self, batches: Any, phase: int) -> Any:
        """`batches`, or others where none are open yet or windows are to be of another length from now on."""
        if batches is not None and phase == self.phase:
            return batches
        if batches is not None:
            batches.close()
        if phase != self.phase:
            self.phase, self.since = phase, self.trainer.steps
        start = (self.trainer.steps - self.since) * self.plan.batch
        return self.source.batches(self.plan.length * 2**phase, start)

    def _step(self, batches: Any, done: float) -> None:
        trainer = self.trainer
        began = time.monotonic()
        batch = next(batches)
        self.pace.waited += time.monotonic() - began
        rate = self.config.learning_rate(trainer.name, done)
        self.unread.append(_Step(trainer.steps, rate, trainer.step(batch, rate), batch))

    def _read(self, journal: Journal | None) -> None:
        """Read the losses of the steps since the last time, and note them."""
        rows: list[dict[str, float]] = []
        try:
            while self.unread:
                rows.append(self._losses(self.unread.popleft()))
        finally:
            self.rows.extend(rows)
            if journal and rows:
                journal.write(rows, self.pace, self._share(), self.trainer.device)

    def _losses(self, step: _Step) -> dict[str, float]:
        """What a step's row says; the batch of one that failed is saved."""
        try:
            return {"step": step.number + 1, "lr": step.rate, **step.losses}
        except TrainingError as error:
            rank = "" if self.main else f"-process{self.source.processes.process_index}"
            path = self.folder / f"failed-{step.number:06d}{rank}.safetensors"
            write_atomically(path, safetensors_bytes({k: v.cpu().contiguous() for k, v in step.batch.items()}))
            raise TrainingError(
                f"step {step.number}: {error}; no weight has changed since, and the batch is saved as {path}; "
                "resume with a lower learning rate, or look at the batch for damaged frames or flow"
            ) from error

    def _save(self, journal: Journal, sample: Mapping[str, Tensor]) -> None:
        trainer = self.trainer
        if trainer.steps == self.saved:
            return
        self.saved = trainer.steps
        place = {"seconds": self.pace.seconds, "phase": self.phase, "since": self.since}
        checkpoint.save_state(self.run, trainer.name, {**trainer.state(), **place})
        checkpoint.save_generator(self.run, trainer.name, trainer.result, self.config, self.schemas)
        journal.show(trainer.pictures(sample), trainer.steps)

    def _result(self, count: int) -> StageResult:
        spent = max(self.pace.here, 1e-9)
        last = list(self.rows)[-max(1, count // 10) :]
        names = [n for n in (last[-1] if last else ()) if n not in ("step", "lr")]
        means = {n: float(np.mean([row[n] for row in last if n in row])) for n in names}
        speed, waited = count / spent, self.pace.waited / spent
        result = StageResult(self.trainer.name, self.trainer.steps, self.pace.seconds, speed, waited, means)
        self.say(f"{result.stage}: {result.steps} steps, {speed:.2f} steps/s, data wait {100 * waited:.0f} %")
        return result


def _quiet(_: str) -> None:
    pass


def _check_plan(config: Config, stages: Sequence[str], processes: int) -> None:
    for stage in stages:
        plan = config.plan(stage)
        if stage not in config.stages:
            raise ConfigError(f"the configuration {config.name!r} has no {stage} stage (use_wcn is off)")
        if plan.batch % (processes * plan.accumulate):
            raise ConfigError(
                f"{processes} processes with accumulate={plan.accumulate} cannot share the {stage} stage's batches of "
                f"{plan.batch} windows evenly; give --batch {processes * plan.accumulate} or a multiple of it"
            )


def _read(stores: Any, snapshot: str, split: str, say: Callable[[str], None]) -> dict[str, Any]:
    """What the stages of this call read, as the run folder records it; says which layers are stale."""
    contents = data.contents(stores, snapshot)
    urls = [str(getattr(s, "url", s)) for s in data.stores_of(stores)]
    for url, content in zip(urls, contents, strict=True):
        for layer, why in content.stale.items():
            say(f"warning: the layer {layer} of {url} is stale: {why}; `remot annotate` it again")
    return {"stores": urls, "snapshot": snapshot, "split": split, "contents": [content.digest for content in contents]}


def _resolved(run: Path, config: Config, device: torch.device, processes: int) -> Config:
    """The configuration without an ``auto``: as the run was made, or as the device has it where there is no run yet."""
    if (run / "config.json").exists():
        config = devices.settled(config, Config.from_json(checkpoint.read_info(run)["config"]))
    return devices.resolved(config, device, processes)


def _check_run(
    run: Path,
    config: Config,
    schemas: Mapping[str, str],
    read: Mapping[str, Any],
    stages: Sequence[str],
    resume: bool,
) -> None:
    if not (run / "config.json").exists():
        return
    info = checkpoint.read_info(run)
    made = Config.from_json(info["config"])
    if made.digest() != config.digest():
        raise CheckpointError(
            f"{run} holds the configuration {made.name!r} ({made.digest()[:12]}), not {config.name!r} "
            f"({config.digest()[:12]}); use another run folder"
        )
    checkpoint.check_schemas(info["schemas"], schemas, str(run))
    trained = [s for s in stages if (run / s / "train_state.pt").is_file()]
    if trained and not resume:
        raise CheckpointError(
            f"{run} already holds the stage {', '.join(trained)}; resume it or use another run folder"
        )
    for stage in trained:
        before = info.get("data", {}).get(stage, read)
        changed = [name for name in ("snapshot", "split", "contents") if before[name] != read[name]]
        if changed:
            raise CheckpointError(
                f"the {stage} stage in {run} was trained on other data (other {', '.join(changed)}): snapshot "
                f"{before['snapshot']!r} of {', '.join(before['stores'])}, split {before['split']!r}, then "
                f"{_short(before)}, now {_short(read)}; give it the same data, or use another run folder"
            )


def _short(read: Mapping[str, Any]) -> str:
    return " and ".join(digest[:12] for digest in read["contents"])


def _load_features(
    config: Config, stages: Sequence[str], device: torch.device, say: Callable[[str], None]
) -> features.Features | None:
    if not config.perceptual_on or not any(STAGES[s].perceptual for s in stages):
        return None
    choice, _, file = config.perceptual.partition(":")
    found = features.perceptual(choice, file or None, device)
    say(f"perceptual features: {found.name}")
    return found


def _write_info(
    run: Path,
    config: Config,
    schemas: Mapping[str, str],
    read: Mapping[str, Any],
    stages: Sequence[str],
    seed: int,
    used: features.Features | None,
    device: torch.device,
) -> None:
    before = checkpoint.read_info(run) if (run / "config.json").exists() else {}
    info = {
        "config": config.to_json(),
        "stores": read["stores"],
        "snapshot": read["snapshot"],
        "split": read["split"],
        "data": {**before.get("data", {}), **{stage: dict(read) for stage in stages}},
        "schemas": dict(schemas),
        "seed": seed,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS}},
        "environment": {
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
            "cuda": torch.version.cuda,
            "processes": int(os.environ.get("WORLD_SIZE", 1)),
            "threads": torch.get_num_threads(),
        },
        "perceptual": {"name": used.name, "sha256": used.digest} if used else before.get("perceptual"),
    }
    checkpoint.write_info(run, info)


def _setting(
    run: Path,
    stage: str,
    config: Config,
    used: features.Features | None,
    schemas: Mapping[str, str],
    device: torch.device,
) -> Setting:
    earlier = {}
    for name in needed_generators(stage, config):
        if not (run / name / "model.safetensors").is_file():
            raise TrainingError(f"the {stage} stage needs a trained {name} stage in {run}; train that first")
        net = checkpoint.load_generator(run, name, config, schemas)
        earlier[name] = net.to(device).eval().requires_grad_(False)
    return Setting(config, used, earlier)
