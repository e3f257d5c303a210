"""One trainer for the three stages: what they differ in, `remot_model.stages` declares by name."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from remot_data import render
from remot_model import checkpoint, data, features, networks
from remot_model.checkpoint import CheckpointError, write_atomically
from remot_model.config import STAGES as STAGE_NAMES
from remot_model.config import Config, ConfigError
from remot_model.losses import Pair, judge
from remot_model.stages import STAGES, Setting, needed_generators

_SAMPLED_WINDOWS, _SAMPLED_FRAMES = 2, 3


class TrainingError(RuntimeError):
    """Training that cannot go on: a loss that is not a number, or a stage out of order."""


@dataclass(frozen=True)
class StageResult:
    """How the training of a stage ended: `losses` are means over its last tenth of the updates in this call."""

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
    say: Callable[[str], None] = print,
) -> list[StageResult]:
    """Train stages one after the other and write them into a run folder (see `remot_model.checkpoint`).

    Args:
        stores: a store, its URL, or several.
        run: the run folder; stages trained into it before are used by later ones.
        config: the model and its plan.
        stages: all that `config` has by default.
        steps: batches of windows a stage, instead of the plan's.
        minutes: time for all stages together, shared evenly; without `steps` it replaces the plan's number. The
            decay of the learning rate follows the time then, so such a run does not repeat exactly.
        device: ``cpu``, ``cuda``, ... or ``auto``, which takes CUDA where there is one and says what it took.
        resume: go on from the last save; a run that was killed and resumed equals one that never was.
        save_every: steps from one save and sample grid to the next.
        say: where status lines go.

    Raises:
        CheckpointError: if the folder holds something else, or a trained stage and `resume` is false.
        TrainingError: if a loss is not finite, or a stage is missing that a later one needs.
        remot_model.data.DataError: if the stores do not fit together or lack a layer.
    """
    run = Path(run)
    stages = config.stages if stages is None else tuple(stages)
    for stage in stages:
        config.plan(stage)
        if stage not in config.stages:
            raise ConfigError(f"the configuration {config.name!r} has no {stage} stage (use_wcn is off)")
    place = torch.device(pick_device(device))
    schemas = data.schemas(stores, snapshot)
    _check_run(run, config, schemas, stages, resume)
    used = _load_features(config, stages, place, say)
    _write_info(run, config, stores, snapshot, split, schemas, seed, used)
    threads = f", {torch.get_num_threads()} threads" if place.type == "cpu" else ""
    say(f"training {', '.join(stages)} of {config.name!r} on {place}{threads}; run folder {run}")
    results, began = [], time.monotonic()
    for i, stage in enumerate(stages):
        left = None if minutes is None else (60 * minutes - (time.monotonic() - began)) / (len(stages) - i)
        planned = config.plan(stage).steps if minutes is None else None
        budget = Budget(steps if steps is not None else planned, left)
        source = data.epochs(stores, config, stage, snapshot=snapshot, split=split, seed=seed)
        trainer = Trainer(stage, _setting(run, stage, config, used, schemas, place), place, seed)
        results.append(_Loop(run, trainer, source, schemas, budget, save_every, say).go(resume))
    return results


class Trainer:
    """The networks and optimizers of one stage, and one step of its training.

    Steps, weights and losses depend on the seed, the step number and the batches only.
    """

    def __init__(self, stage: str, setting: Setting, device: torch.device, seed: int) -> None:
        self.name, self.config, self.device, self.seed = stage, setting.config, device, seed
        self.stage = STAGES[stage](setting)
        with torch.random.fork_rng():
            torch.manual_seed(seed * len(STAGE_NAMES) + STAGE_NAMES.index(stage))
            net, judges = networks.generator(stage, self.config), networks.discriminators(stage, self.config)
        self.net, self.judges = (x.to(device).train() for x in (net, judges))
        self.optimizers = {
            name: torch.optim.Adam(x.parameters(), lr=0.0, betas=self.config.betas, fused=True)
            for name, x in (("generator", self.net), ("discriminators", self.judges))
        }
        self.steps = 0

    def step(self, batch: Mapping[str, Tensor], rate: float) -> dict[str, float]:
        """Train on one batch of windows at the learning rate `rate`; the mean of each loss term over the chunks."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
        clip = self._prepare(batch)
        rows, carried = [], None
        for a, b in self._chunks():
            with self._autocast():
                result = self.stage.run(self.net, clip, a, b, carried)
                terms, d_total = self._judged(result.losses, result.pairs)
            rows.append(self._update(terms, d_total))
            carried = result.carried
        self.steps += 1
        return {name: float(np.mean([row[name] for row in rows if name in row])) for name in rows[-1]}

    @torch.no_grad()
    def pictures(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The pictures of the whole of each window, by name, [N, T, 3, H, W] in [-1, 1]."""
        clip, carried, found = self._prepare(batch), None, []
        for a, b in self._chunks():
            result = self.stage.run(self.net, clip, a, b, carried)
            carried = result.carried
            found.append(result.pictures)
        return {name: torch.cat([f[name] for f in found], 1).clamp(-1, 1).cpu() for name in found[0]}

    def state(self) -> dict[str, Any]:
        """All that `load` needs."""
        return {
            "steps": self.steps,
            "generator": self.net.state_dict(),
            "judges": self.judges.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.net.load_state_dict(state["generator"])
        self.judges.load_state_dict(state["judges"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.steps = state["steps"]

    def _prepare(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        chance = torch.Generator().manual_seed(self.seed * 1_000_003 + self.steps)
        moved = {name: x.to(self.device, non_blocking=True) for name, x in batch.items()}
        with torch.no_grad(), self._autocast():
            return self.stage.prepare(moved, chance)

    def _chunks(self) -> Iterable[tuple[int, int]]:
        plan = self.config.plan(self.name)
        return [(a, min(a + plan.chunk, plan.length)) for a in range(0, plan.length, plan.chunk)]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def _update(self, terms: Mapping[str, Tensor], d_total: Tensor) -> dict[str, float]:
        g_total = torch.stack(list(terms.values())).sum()
        values = {name: float(x.detach()) for name, x in {**terms, "d": d_total, "total": g_total}.items()}
        wrong = [name for name, value in values.items() if not np.isfinite(value)]
        if wrong:
            raise TrainingError(f"the losses {', '.join(wrong)} of the {self.name} stage are not finite: {values}")
        judges, net = list(self.judges.parameters()), list(self.net.parameters())
        gradients = torch.autograd.grad(d_total, judges, retain_graph=True, allow_unused=True)
        for parameter, gradient in zip(judges, gradients, strict=True):
            parameter.grad = gradient
        self.net.zero_grad()
        g_total.backward(inputs=net)
        for parameters, optimizer in ((net, "generator"), (judges, "discriminators")):
            nn.utils.clip_grad_norm_(parameters, self.config.clip_grad)
            self.optimizers[optimizer].step()
        return values

    def _judged(self, losses: Mapping[str, Tensor], pairs: Mapping[str, Pair]) -> tuple[dict[str, Tensor], Tensor]:
        """All weighted terms of the generator, and the sum of the discriminators' losses."""
        terms, d_total = dict(losses), torch.zeros((), device=self.device)
        for name, pair in pairs.items():
            judgement = judge(self.judges[name], pair, self.config)
            terms[f"gan_{name}"] = pair.weight * self.config.lambda_gan * judgement.gan
            terms[f"feat_{name}"] = pair.weight * self.config.lambda_feat * judgement.feat
            d_total = d_total + judgement.d
        return terms, d_total


class _Loop:
    """The training of one stage: batches, logs, saves."""

    def __init__(
        self,
        run: Path,
        trainer: Trainer,
        source: Callable[[int], data.Epoch],
        schemas: Mapping[str, str],
        budget: Budget,
        save_every: int,
        say: Callable[[str], None],
    ) -> None:
        self.run, self.trainer, self.source, self.schemas = run, trainer, source, schemas
        self.budget, self.save_every, self.say = budget, save_every, say
        self.folder, self.config = run / trainer.name, trainer.config
        self.seconds = self.resumed_at = self.waited = 0.0
        self.saved = 0

    def go(self, resume: bool) -> StageResult:
        from torch.utils.tensorboard import SummaryWriter

        trainer = self.trainer
        if resume:
            self._load()
        started, rows, said = trainer.steps, [], 0.0
        fixed = self._fixed_batch()
        _keep_lines(self.folder / "stats.jsonl", trainer.steps)
        batches = self._batches(trainer.steps * self.config.plan(trainer.name).batch, augment=True)
        board = SummaryWriter(str(self.run / "tensorboard" / trainer.name), purge_step=trainer.steps)
        try:
            with open(self.folder / "stats.jsonl", "a") as stats:
                while (done := self.budget.done(trainer.steps, self.seconds)) < 1:
                    rows.append(self._step(batches, done))
                    stats.write(json.dumps(rows[-1]) + "\n")
                    stats.flush()
                    if self.seconds - said > 5:
                        said = self.seconds
                        self.say(self._status(rows[-1], trainer.steps - started))
                        _log(board, rows[-1])
                    if trainer.steps % self.save_every == 0:
                        self._save(board, fixed)
            self._save(board, fixed)
        finally:
            batches.close()
            board.close()
        return self._result(rows, trainer.steps - started)

    def _step(self, batches: Any, done: float) -> dict[str, float]:
        trainer = self.trainer
        began = time.monotonic()
        batch = next(batches)
        waited = time.monotonic() - began
        try:
            losses = trainer.step(batch, rate := self.config.learning_rate(trainer.name, done))
        except TrainingError as error:
            path = self.folder / f"failed-{trainer.steps:06d}.safetensors"
            write_atomically(path, safetensors_bytes({k: v.contiguous() for k, v in batch.items()}))
            raise TrainingError(
                f"step {trainer.steps}: {error}; the batch is saved as {path}; resume with a lower learning rate, or "
                "look at the batch for damaged frames or flow"
            ) from error
        self.seconds += time.monotonic() - began
        self.waited += waited
        return {"step": trainer.steps, "seconds": round(self.seconds, 3), "lr": rate, **losses}

    def _status(self, row: Mapping[str, float], count: int) -> str:
        terms = " ".join(f"{k} {v:.3f}" for k, v in row.items() if k not in ("step", "seconds", "lr"))
        total = f"/{self.budget.steps}" if self.budget.steps is not None else ""
        speed = count / max(self.seconds - self.resumed_at, 1e-9)
        waited = 100 * self.waited / max(self.seconds - self.resumed_at, 1e-9)
        return f"{self.trainer.name} {row['step']}{total} | {terms} | {speed:.2f} steps/s, data wait {waited:.0f} %"

    def _load(self) -> None:
        state = checkpoint.load_state(self.run, self.trainer.name)
        if state is None:
            return
        self.trainer.load(state)
        self.saved = self.trainer.steps
        self.seconds = self.resumed_at = float(state["seconds"])
        self.say(f"{self.trainer.name}: resumed at step {self.trainer.steps}")

    def _save(self, board: Any, fixed: Mapping[str, Tensor]) -> None:
        trainer = self.trainer
        if trainer.steps == self.saved:
            return
        self.saved = trainer.steps
        checkpoint.save_state(self.run, trainer.name, {**trainer.state(), "seconds": self.seconds})
        checkpoint.save_generator(self.run, trainer.name, trainer.net, self.config, self.schemas)
        sheet = sample_grid(trainer.pictures(fixed))
        ok, png = cv2.imencode(".png", sheet[..., ::-1])
        assert ok
        write_atomically(self.folder / "samples" / f"step-{trainer.steps:06d}.png", png.tobytes())
        board.add_image("samples", sheet, trainer.steps, dataformats="HWC")

    def _fixed_batch(self) -> dict[str, Tensor]:
        batches = self._batches(0, augment=False)
        try:
            return {name: x[:_SAMPLED_WINDOWS] for name, x in next(batches).items()}
        finally:
            batches.close()

    def _batches(self, start: int, augment: bool) -> Any:
        trainer = self.trainer
        return data.batches(
            self.source,
            self.config,
            trainer.name,
            pose_schema=self.schemas.get("pose", "body25"),
            seed=trainer.seed,
            start=start,
            augment=augment,
        )

    def _result(self, rows: Sequence[Mapping[str, float]], count: int) -> StageResult:
        spent = self.seconds - self.resumed_at
        last = rows[-max(1, len(rows) // 10) :]
        names = [n for n in (last[-1] if last else ()) if n not in ("step", "seconds", "lr")]
        means = {n: float(np.mean([row[n] for row in last if n in row])) for n in names}
        speed = count / max(spent, 1e-9)
        waited = self.waited / max(spent, 1e-9)
        result = StageResult(self.trainer.name, self.trainer.steps, self.seconds, speed, waited, means)
        self.say(f"{result.stage}: {result.steps} steps, {speed:.2f} steps/s, data wait {100 * waited:.0f} %")
        return result


def sample_grid(pictures: Mapping[str, Tensor]) -> np.ndarray:
    """Pictures by name, [N, T, 3, H, W] in [-1, 1], as one labelled sheet uint8 [h, w, 3]: a column a name."""
    count, length = next(iter(pictures.values())).shape[:2]
    moments = sorted({round(i * (length - 1) / max(_SAMPLED_FRAMES - 1, 1)) for i in range(_SAMPLED_FRAMES)})
    rows = [[_to_uint8(p[n, t]) for p in pictures.values()] for n in range(count) for t in moments]
    return render.grid(rows, list(pictures), height=max(128, rows[0][0].shape[0]))


def pick_device(device: str) -> str:
    """``auto`` is CUDA where there is one, else the CPU."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _to_uint8(image: Tensor) -> np.ndarray:
    return image.add(1).mul(127.5).round().to(torch.uint8).movedim(0, -1).numpy()


def _check_run(run: Path, config: Config, schemas: Mapping[str, str], stages: Sequence[str], resume: bool) -> None:
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
    stores: Any,
    snapshot: str,
    split: str,
    schemas: Mapping[str, str],
    seed: int,
    used: features.Features | None,
) -> None:
    before = checkpoint.read_info(run) if (run / "config.json").exists() else {}
    info = {
        "config": config.to_json(),
        "stores": [str(getattr(s, "url", s)) for s in data.stores_of(stores)],
        "snapshot": snapshot,
        "split": split,
        "schemas": dict(schemas),
        "seed": seed,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
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


def _keep_lines(path: Path, steps: int) -> None:
    """Drop the lines of steps after the last save: they are about to be done again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= steps]
    write_atomically(path, "".join(line + "\n" for line in kept).encode())


def _log(board: Any, row: Mapping[str, float]) -> None:
    for name, value in row.items():
        if name != "step":
            board.add_scalar(name, value, int(row["step"]))
