"""Training: the stages one after the other into a run folder, which must be for the same model and data, or new.

The loop of a stage is `remot_model.training.loop`, one step of it `remot_model.training.trainer`. What the stages
differ in, `remot_model.training.stages` declares by name.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from remot_model import checkpoint, devices
from remot_model.checkpoint import CheckpointError
from remot_model.config import Config
from remot_model.training import data, features
from remot_model.training.feeding import readers
from remot_model.training.journal import Show, printed
from remot_model.training.loop import Budget, Loop, StageResult
from remot_model.training.reading import Reading, check_plan
from remot_model.training.stages import STAGES, Setting, needed_generators
from remot_model.training.trainer import Trainer, TrainingError

_VERSIONS = ("remot", "torch", "numpy", "accelerate", "opencv-python-headless")


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
    show: Show | None = None,
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
        resume: from the last save; a run that was killed and resumed equals one that never was.
        save_every: steps from one save and sample grid to the next.
        workers: processes that read and decode for each process that trains; 0 for threads. ``auto`` is threads for a
            CPU, and processes for a GPU (see `remot_model.training.feeding.readers`).
        say: where sentences go.
        show: takes the line about how training goes, about one a second, and whether it is the last of its stage; by
            default `say` gets one every 30 seconds.

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
    check_plan(config, stages, processes.num_processes)
    if processes.num_processes > 1:
        place = processes.device
    count = readers(workers, stages, place)
    asked, config = config, _resolved(run, stores, config, place, processes.num_processes)
    schemas = data.schemas(stores, snapshot)
    read = _read(stores, config, snapshot, split, say if processes.is_main_process else _quiet)
    _check_run(run, config, schemas, read, stages, resume)
    if not processes.is_main_process:
        say = _quiet
    show = show or printed(say)
    used = _load_features(run, config, stages, place, say)
    processes.wait_for_everyone()
    if processes.is_main_process:
        asked_for = {"stages": list(stages), "steps": steps, "minutes": minutes, "save_every": save_every}
        _write_info(run, config, schemas, read, stages, seed, used, place, asked_for)
    threads = f", {torch.get_num_threads()} threads" if place.type == "cpu" else ""
    several = f", {processes.num_processes} processes" if processes.num_processes > 1 else ""
    say(f"training {', '.join(stages)} of {config.name!r} on {place}{threads}{several}; run folder {run}")
    if settled := devices.words(config, asked, place):
        say(settled)
    if config.valid:
        say("what lies outside the pictures of the sources is left out of losses and metrics (valid=true)")
    by = f"{count} process{'es' if count > 1 else ''}" if count else "threads"
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
        reading = Reading(
            stores, config, stage, snapshot, split, schemas.get("pose", "body25"), seed, processes, count, place, say
        )
        results.append(Loop(run, trainer, reading, schemas, budget, save_every, say, show).go(resume))
        processes.wait_for_everyone()  # the next stage may need what the first process has just saved
    return results


def _quiet(_: str) -> None:
    pass


def _read(stores: Any, config: Config, snapshot: str, split: str, say: Callable[[str], None]) -> dict[str, Any]:
    """What the stages of this call read, as the run folder records it; says what of that is stale or stretched."""
    contents, outside = data.contents(stores, snapshot), data.outside(stores)
    urls = [str(getattr(s, "url", s)) for s in data.stores_of(stores)]
    for url, content in zip(urls, contents, strict=True):
        for layer, why in content.stale.items():
            say(f"warning: the layer {layer} of {url} is stale: {why}; `remot annotate` it again")
    for sentence in data.stretched(stores, config):
        say(f"warning: {sentence}")
    read = {"stores": urls, "snapshot": snapshot, "split": split, "outside": outside}
    return {**read, "contents": [content.digest for content in contents]}


def _resolved(run: Path, stores: Any, config: Config, device: torch.device, processes: int) -> Config:
    """The configuration without an ``auto``: as the run was made, or for a new one as stores and device have it."""
    if (run / "config.json").exists():
        config = devices.settled(config, Config.from_json(checkpoint.read_info(run)["config"]))
    return devices.resolved(data.resolved(stores, config), device, processes)


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
    run: Path, config: Config, stages: Sequence[str], device: torch.device, say: Callable[[str], None]
) -> features.Features | None:
    """The perceptual features of a run: for ``auto`` those that it has used, where it has."""
    if not config.perceptual_on or not any(STAGES[s].perceptual for s in stages):
        return None
    choice = config.perceptual
    if choice == "auto" and (run / "config.json").exists():
        choice = ((checkpoint.read_info(run).get("perceptual") or {}).get("name") or choice).split()[0]
    found = features.perceptual(choice, device=device)
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
    asked: Mapping[str, Any],
) -> None:
    before = checkpoint.read_info(run) if (run / "config.json").exists() else {}
    info = {
        "config": config.to_json(),
        "stores": read["stores"],
        "snapshot": read["snapshot"],
        "split": read["split"],
        "outside": before.get("outside") if before else read["outside"],
        "data": {**before.get("data", {}), **{stage: dict(read) for stage in stages}},
        "schemas": dict(schemas),
        "seed": seed,
        "asked": dict(asked),
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
