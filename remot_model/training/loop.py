"""The loop of a stage: batches, steps, logs and saves, until its steps or its time are over."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, distributed

from remot_data.store.disk import write_whole
from remot_model import checkpoint
from remot_model.training.journal import Journal, Pace, Show
from remot_model.training.reading import Reading
from remot_model.training.trainer import Losses, Trainer, TrainingError

_UNREAD = 10  # steps on a GPU after which losses are read; so many batches are kept
_MEANT = 1000


@dataclass(frozen=True)
class StageResult:
    """How the training of a stage ended: `losses` are means over the last tenth of its steps in this call, of the last
    thousand at most; `seconds` are those of all calls, `here` those of this one."""

    stage: str
    steps: int
    seconds: float
    steps_per_second: float
    waited: float
    losses: dict[str, float]
    here: float = 0.0


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


class _Step(NamedTuple):
    """A step that was taken: its number, from 0 on, and what it was given and gave."""

    number: int
    rate: float
    losses: Losses
    batch: dict[str, Tensor]


class Loop:
    """The training of one stage: batches, logs, saves. Only the first of several processes writes anything."""

    def __init__(
        self,
        run: Path,
        trainer: Trainer,
        reading: Reading,
        schemas: Mapping[str, str],
        budget: Budget,
        save_every: int,
        say: Callable[[str], None],
        show: Show,
    ) -> None:
        self.run, self.trainer, self.reading, self.schemas = run, trainer, reading, schemas
        self.budget, self.save_every, self.say, self.show = budget, save_every, say, show
        self.folder, self.config = run / trainer.name, trainer.config
        self.plan, self.main = trainer.config.plan(trainer.name), reading.processes.is_main_process
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
        journal = self._journal() if self.main else None
        sample = self.reading.sample() if self.main else {}
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

    def _journal(self) -> Journal:
        named = ("total", self.trainer.stage.terms[0], "d")
        return Journal(self.run, self.trainer.name, self.trainer.steps, self.budget.steps, named, self.show)

    def _share(self) -> float:
        return self.budget.done(self.trainer.steps, self.pace.seconds)

    def _done(self) -> float:
        """The share of the training that is over; by time, the first process's clock holds for all."""
        done = torch.tensor(self._share(), dtype=torch.float64)
        if self.budget.seconds is not None and self.reading.processes.num_processes > 1:
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
        return self.reading.batches(self.plan.length * 2**phase, start)

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
            rank = "" if self.main else f"-process{self.reading.processes.process_index}"
            path = self.folder / f"failed-{step.number:06d}{rank}.safetensors"
            write_whole(path, safetensors_bytes({k: v.cpu().contiguous() for k, v in step.batch.items()}))
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
        journal.draw(trainer.pictures(sample), trainer.steps)

    def _result(self, count: int) -> StageResult:
        spent = max(self.pace.here, 1e-9)
        last = list(self.rows)[-max(1, count // 10) :]
        names = [n for n in (last[-1] if last else ()) if n not in ("step", "lr")]
        means = {n: float(np.mean([row[n] for row in last if n in row])) for n in names}
        speed, waited = count / spent, self.pace.waited / spent
        result = StageResult(self.trainer.name, self.trainer.steps, self.pace.seconds, speed, waited, means, spent)
        self.say(f"{result.stage}: {result.steps} steps, {speed:.2f} steps/s, data wait {100 * waited:.0f} %")
        return result
