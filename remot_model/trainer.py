"""The networks, optimizers and averaged weights of one stage, and one step of its training.

Several processes may train together, each on its share of every batch: gradients and losses are averaged over them, so
all keep the same weights, and what is learnt does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim.swa_utils import AveragedModel

from remot_model import networks
from remot_model.config import STAGES as STAGE_NAMES
from remot_model.losses import Pair, judge
from remot_model.stages import STAGES, Carried, Setting

_PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainingError(RuntimeError):
    """Training that cannot go on: a loss that is not a number, or a stage out of order."""


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
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.config.precision == "float16")
        self.average = AveragedModel(self.net, multi_avg_fn=_towards(self.config.ema)) if self.config.ema else None
        self.steps = 0

    @property
    def result(self) -> nn.Module:
        """The generator to use: with the averaged weights where there are some."""
        return self.average.module if self.average else self.net

    def step(self, batch: Mapping[str, Tensor], rate: float) -> dict[str, float]:
        """Train on one batch of windows at the learning rate `rate`; the mean of each loss term over the chunks.

        Raises:
            TrainingError: in every process, if a loss is not finite in any of them.
        """
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
        clips = [self._prepare(part) for part in _parts(batch, self.config.plan(self.name).accumulate)]
        carried: list[Carried | None] = [None] * len(clips)
        rows = []
        for a, b in self._chunks(batch):
            found = [
                self._gradients(clip, a, b, before, len(clips)) for clip, before in zip(clips, carried, strict=True)
            ]
            rows.append(self._checked(_mean_losses([losses for losses, _ in found], self._terms(found[0][0]))))
            carried = [later for _, later in found]
            self._update(rows[-1])
        self.steps += 1
        names = dict.fromkeys(name for row in rows for name in row)
        means = {name: [row[name] for row in rows if name in row] for name in names}
        return {name: sum(values) / len(values) for name, values in means.items()}

    @torch.no_grad()
    def pictures(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The pictures of the whole of each window, by name, [N, T, 3, H, W] in [-1, 1]."""
        clip, carried, found = self._prepare(batch), None, []
        for a, b in self._chunks(batch):
            result = self.stage.run(self.result, clip, a, b, carried)
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
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average else None,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.net.load_state_dict(state["generator"])
        self.judges.load_state_dict(state["judges"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.scaler.load_state_dict(state["scaler"])
        if self.average and state["average"]:
            self.average.load_state_dict(state["average"])
        self.steps = state["steps"]

    def _prepare(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        chance = torch.Generator().manual_seed(self.seed * 1_000_003 + self.steps)
        moved = {name: x.to(self.device, non_blocking=True) for name, x in batch.items()}
        with torch.no_grad(), self._autocast():
            return self.stage.prepare(moved, chance)

    def _chunks(self, batch: Mapping[str, Tensor]) -> Iterable[tuple[int, int]]:
        length, chunk = batch["frames"].shape[1], self.config.plan(self.name).chunk
        return [(a, min(a + chunk, length)) for a in range(0, length, chunk)]

    def _autocast(self) -> torch.autocast:
        kind = _PRECISIONS.get(self.config.precision)
        return torch.autocast(self.device.type, kind or torch.bfloat16, enabled=kind is not None)

    def _terms(self, losses: Mapping[str, Tensor]) -> list[str]:
        """The names of all losses there can be: those of a judge are absent from a batch that gives it nothing."""
        judged = [f"{kind}_{name}" for name in self.judges for kind in ("gan", "feat")]
        return [*(n for n in losses if n not in (*judged, "d", "total")), *judged, "d", "total"]

    def _gradients(
        self, clip: dict[str, Tensor], a: int, b: int, carried: Carried | None, parts: int
    ) -> tuple[dict[str, Tensor], Carried]:
        """Run frames a to b of one of `parts` of a batch, and add its share of the gradients to all parameters."""
        with self._autocast():
            found = self.stage.run(self.net, clip, a, b, carried)
            terms, d_total = self._judged(found.losses, found.pairs)
        g_total = torch.stack(list(terms.values())).sum()
        judges = list(self.judges.parameters())
        wanted = self.scaler.scale(d_total / parts)
        gradients = torch.autograd.grad(wanted, judges, retain_graph=True, allow_unused=True)
        for parameter, gradient in zip(judges, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        self.scaler.scale(g_total / parts).backward(inputs=list(self.net.parameters()))
        return {k: x.detach() for k, x in {**terms, "d": d_total, "total": g_total}.items()}, found.carried

    def _judged(self, losses: Mapping[str, Tensor], pairs: Mapping[str, Pair]) -> tuple[dict[str, Tensor], Tensor]:
        """All weighted terms of the generator, and the sum of the discriminators' losses."""
        terms, d_total = dict(losses), torch.zeros((), device=self.device)
        for name, pair in pairs.items():
            judgement = judge(self.judges[name], pair, self.config)
            terms[f"gan_{name}"] = pair.weight * self.config.lambda_gan * judgement.gan
            terms[f"feat_{name}"] = pair.weight * self.config.lambda_feat * judgement.feat
            d_total = d_total + judgement.d
        return terms, d_total

    def _checked(self, losses: dict[str, float]) -> dict[str, float]:
        wrong = [name for name, value in losses.items() if not abs(value) < float("inf")]
        if wrong:
            raise TrainingError(f"the losses {', '.join(wrong)} of the {self.name} stage are not finite: {losses}")
        return losses

    def _update(self, losses: Mapping[str, float]) -> None:
        """Let all networks take a step along their gradients, those of all processes together."""
        trained = [self.net, *(judge for name, judge in self.judges.items() if f"gan_{name}" in losses)]
        for network in trained:
            _mean_gradients(list(network.parameters()))
        for network, optimizer in ((self.net, "generator"), (self.judges, "discriminators")):
            self.scaler.unscale_(self.optimizers[optimizer])
            nn.utils.clip_grad_norm_(network.parameters(), self.config.clip_grad)
            self.scaler.step(self.optimizers[optimizer])
            self.optimizers[optimizer].zero_grad()
        self.scaler.update()
        if self.average:
            self.average.update_parameters(self.net)


def _towards(decay: float) -> Any:
    """The average's step: `decay` of the old, at the start less, so that the first weights are soon forgotten."""

    @torch.no_grad()
    def update(averages: Sequence[Tensor], weights: Sequence[Tensor], count: Tensor | int) -> None:
        kept = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(averages, weights, 1 - kept)

    return update


def _parts(batch: Mapping[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    pieces = {name: x.chunk(count) for name, x in batch.items()}
    return [{name: x[i] for name, x in pieces.items()} for i in range(count)]


def _processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _mean_losses(rows: Sequence[Mapping[str, Tensor]], names: Sequence[str]) -> dict[str, float]:
    """The mean of each loss over the parts and processes that have it; those that none has are left out."""
    zero = rows[0]["total"].new_zeros((), dtype=torch.float32)
    sums = torch.stack([sum((row[name].float() for row in rows if name in row), zero) for name in names])
    table = torch.stack([sums, sums.new_tensor([sum(name in row for row in rows) for name in names])])
    if _processes() > 1:
        distributed.all_reduce(table)
    return {name: s / n for name, s, n in zip(names, *table.tolist(), strict=True) if n}


def _mean_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Average the gradients over all processes, in one transfer; a process without one counts as zero."""
    count = _processes()
    if count == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(flat)
    pieces = (flat / count).split([g.numel() for g in gradients])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)
