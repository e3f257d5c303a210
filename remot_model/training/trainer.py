"""The networks, optimizers and averaged weights of one stage, and one step of its training.

Several processes may train together, each on its share of every batch: gradients and losses are averaged over them, so
all keep the same weights, and what is learnt does not depend on how many there are.

A step never waits for the device: losses stay there until somebody reads them, and an update that is not finite is
left out there, with all after it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from remot_data.errors import RemotError
from remot_model import devices, networks
from remot_model.config import STAGES as STAGE_NAMES
from remot_model.generating.graphs import Recorded
from remot_model.networks.blocks import Network
from remot_model.networks.cpu import InstanceNorm
from remot_model.training import processes
from remot_model.training.apart import Apart
from remot_model.training.losses import Pair, Pairs, judge
from remot_model.training.stages import STAGES, Carried, Chunk, Setting, Stage, history

Tensors = dict[str, Tensor]
# Steps that run plainly before a graph is recorded: they allocate, choose kernels and compile.
_WARM = 2


class TrainingError(RemotError, RuntimeError):
    """Training that cannot continue: a loss that is not a number, or a stage out of order."""


class Losses(Mapping[str, float]):
    """The losses of a step, means over its chunks. They stay on the device; reading the first waits for the step.

    Raises:
        TrainingError: when read, in every process, if a loss or a gradient was not finite in any of them. No update was
            made since.
    """

    def __init__(self, stage: str, names: Sequence[str], table: Tensor) -> None:
        """`table` is [chunks, 2, names + 1]: sums and counts of each loss, and behind the sums whether all is well."""
        self.stage, self.names, self.table = stage, names, table
        self._read: dict[str, float] | None = None

    def _found(self) -> dict[str, float]:
        if self._read is None:
            rows = self.table.tolist()
            found = [{n: s / c for n, s, c in zip(self.names, *row, strict=False) if c} for row in rows]
            names = dict.fromkeys(name for row in found for name in row)
            means = {name: [row[name] for row in found if name in row] for name in names}
            losses = {name: sum(values) / len(values) for name, values in means.items()}
            wrong = [name for name, value in losses.items() if not abs(value) < float("inf")]
            if wrong:
                raise TrainingError(f"the losses {', '.join(wrong)} of the {self.stage} stage are not finite: {losses}")
            if any(sums[-1] for sums, _ in rows):
                raise TrainingError(f"gradients of the {self.stage} stage are not finite; its losses are {losses}")
            self._read = losses
        return self._read

    def __getitem__(self, name: str) -> float:
        return self._found()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())


class Trainer:
    """The networks and optimizers of one stage, and one step of its training.

    Steps, weights and losses depend on the seed, the step number and the batches only.
    """

    def __init__(self, stage: str, setting: Setting, device: torch.device, seed: int) -> None:
        count = processes.count()
        self.config = devices.resolved(setting.config, device, count)
        self.name, self.device, self.seed = stage, device, seed
        self._kind = devices.HALF.get(self.config.precision)
        frozen = {name: _frozen(net, self._kind) for name, net in setting.generators.items()}
        features = None if setting.features is None else _frozen(setting.features, self._kind)
        if features is not None and self.config.channels_last:
            features = networks.laid_out(features)
            features.body.on_gpu = self.config.fuses
        self.stage: Stage = STAGES[stage](Setting(self.config, features, frozen))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * len(STAGE_NAMES) + STAGE_NAMES.index(stage))
            self.net: Any = networks.generator(stage, self.config).to(device).train()
            self.judges = networks.discriminators(stage, self.config).to(device).train()
        self.average = AveragedModel(self.net, device=device) if self.config.ema else None
        gpu = device.type == "cuda"
        self.optimizers = {
            name: torch.optim.Adam(x.parameters(), lr=0.0, betas=self.config.betas, fused=True, capturable=gpu)
            for name, x in (("generator", self.net), ("discriminators", self.judges))
        }
        for optimizer in self.optimizers.values():
            _start(optimizer)
        # Adam leaves an update out where this is not 0; it stays so, and the weights those before the bad step.
        self.bad = torch.zeros((), device=device)
        self.rate = torch.zeros((), device=device) if gpu else 0.0
        self._set_up_optimizers()
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.config.precision == "float16")
        self.averager = processes.Averager() if count > 1 else None
        self.steps = 0
        if self.config.compile:
            networks.compiled(self.net, *self.judges.values(), *frozen.values())
            if features is not None:
                networks.compiled(features)
        if stage != "region" or not self.config.crop_regions:  # a crop's gradients are as large as a frame's, and many
            made = self.averager.made if self.averager else None
            together = bool(self.config.gpu_kernels) and not self.config.compile
            step = Apart(self.net.step, list(self.net.parameters()), made, together)
            vars(self.net).update(step=step)
        self._records = not devices.why_plain(self.config, stage, device, count)
        self._recorded: dict[Any, Recorded] = {}
        self._plain: dict[Any, int] = {}

    @property
    def result(self) -> nn.Module:
        """The generator to use: with the averaged weights where there are some."""
        return self.average.module if self.average else self.net

    def step(self, batch: Mapping[str, Tensor], rate: float) -> Losses:
        """Train on one batch of windows at the learning rate `rate`; the losses can be read from what is returned."""
        if isinstance(self.rate, Tensor):
            self.rate.fill_(rate)
        else:
            for optimizer in self.optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = rate
        moved = {name: x.to(self.device, non_blocking=True) for name, x in batch.items()}
        predicted = self._predicted()
        names, table = self._work(moved, predicted)
        self.steps += 1
        return Losses(self.name, names, table)

    def _work(self, batch: Tensors, predicted: bool) -> tuple[list[str], Tensor]:
        """The step itself: plainly, or, from the third of a shape on, as a graph of kernels that is replayed."""
        if not self._records:
            return self._step(batch, predicted)
        key = (predicted, *((name, x.shape, x.dtype) for name, x in batch.items()))
        if key not in self._recorded:
            if self._plain.setdefault(key, 0) < _WARM:
                self._plain[key] += 1
                return self._step(batch, predicted)
            beside = next(iter(self._recorded.values()), None)
            self._recorded[key] = Recorded(lambda given: self._step(given, predicted), batch, beside)
        names, table = self._recorded[key](batch)
        return names, table.clone()

    def _step(self, batch: Tensors, predicted: bool) -> tuple[list[str], Tensor]:
        clips = [self._prepare(part, predicted) for part in _parts(batch, self.config.plan(self.name).accumulate)]
        carried: list[Carried | None] = [None] * len(clips)
        names, tables = self._terms(), []
        for a, b in self._chunks(batch):
            rows = []
            for i, clip in enumerate(clips):
                last = i == len(clips) - 1
                losses, counts, carried[i] = self._gradients(clip, a, b, carried[i], len(clips), last)
                rows.append(_row(names, losses, counts))
            table = rows[0] if len(rows) == 1 else torch.stack(rows).sum(0)
            if self.averager:
                self.averager.finish()
            processes.sum_over_processes(table)
            self._update(table[0])
            tables.append(torch.cat([table, torch.stack([self.bad, self.bad])[:, None]], 1))
        return names, torch.stack(tables)

    @torch.no_grad()
    def pictures(self, batch: Mapping[str, Tensor]) -> Tensors:
        """The pictures of the whole of each window, by name, [N, T, 3, H, W] in [-1, 1], on the CPU."""
        moved = {name: x.to(self.device) for name, x in batch.items()}
        clip, carried, found = self._prepare(moved, self._predicted()), None, []
        for a, b in self._chunks(batch):
            chunk, out, carried, _ = self._rolled(self.result, clip, a, b, carried)
            found.append(self.stage.pictures(chunk, out))
        return {name: torch.cat([f[name] for f in found], 1).clamp(-1, 1).float().cpu() for name in found[0]}

    def state(self) -> dict[str, Any]:
        """All that `load` needs; the same on every device."""
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        for state in optimizers.values():
            plain = {"lr": float(self.rate if isinstance(self.rate, Tensor) else state["param_groups"][0]["lr"])}
            state["param_groups"] = [{**group, **plain, "capturable": False} for group in state["param_groups"]]
        return {
            "steps": self.steps,
            "generator": self.net.state_dict(),
            "judges": self.judges.state_dict(),
            "optimizers": optimizers,
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average else None,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.net.load_state_dict(state["generator"])
        self.judges.load_state_dict(state["judges"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self._set_up_optimizers()
        self.scaler.load_state_dict(state["scaler"])
        if self.average and state["average"]:
            self.average.load_state_dict(state["average"])
        self.steps = state["steps"]

    def _set_up_optimizers(self) -> None:
        """What is ours and not the state's: where the rate and the leaving out come from."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group.update(fused=True, capturable=self.device.type == "cuda")
                if isinstance(self.rate, Tensor):
                    group["lr"] = self.rate
            vars(optimizer).update(found_inf=self.bad, grad_scale=None)

    def _predicted(self) -> bool:
        """Whether this step's windows show generated layouts: a function of seed and step."""
        if self.name != "whole" or not self.config.predicted_layouts:
            return False
        chance = torch.Generator().manual_seed(self.seed * 1_000_003 + self.steps)
        return bool(torch.rand((), generator=chance) < self.config.predicted_layouts)

    def _prepare(self, batch: Tensors, predicted: bool) -> Tensors:
        with torch.no_grad(), self._autocast():
            return self.stage.prepare(batch, predicted)

    def _chunks(self, batch: Mapping[str, Tensor]) -> Iterable[tuple[int, int]]:
        length, chunk = batch["frames"].shape[1], self.config.plan(self.name).chunk
        return [(a, min(a + chunk, length)) for a in range(0, length, chunk)]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self._kind or torch.bfloat16, enabled=self._kind is not None)

    def _terms(self) -> list[str]:
        """The names of all losses there can be: those of a judge are absent from a chunk that gives it nothing."""
        judged = [f"{kind}_{name}" for name in self.judges for kind in ("gan", "feat")]
        return [*self.stage.terms, *judged, "d", "total"]

    def _rolled(
        self, net: nn.Module, clip: Tensors, a: int, b: int, carried: Carried | None
    ) -> tuple[Chunk, Any, Carried, Tensor]:
        """Run frames a to b of a clip: the chunk, the outputs, what the next chunk needs, and all outputs at hand."""
        before = carried.made.shape[1] if carried else 0
        chunk = Chunk(clip, a, b, before)
        with self._autocast():
            out, state = self.stage.roll(net, chunk, carried.state if carried else None)
            new = self.stage.made(out)
        made = torch.cat([carried.made, new], 1) if carried else new
        kept = made.detach()[:, max(0, made.shape[1] - history(self.config)) :]
        return chunk, out, Carried(state, kept), made

    def _gradients(
        self, clip: Tensors, a: int, b: int, carried: Carried | None, parts: int, last: bool
    ) -> tuple[Tensors, Tensors, Carried]:
        """Run frames a to b of one of `parts` of a batch, and add its share of the gradients to all parameters.

        Gives the losses, how many images each of those is of that may be of none, and what the next chunk needs.
        """
        chunk, out, later, made = self._rolled(self.net, clip, a, b, carried)
        with self._autocast():
            losses, pairs = self.stage.losses(chunk, out, made)
            terms, d_total, counts = self.judged(losses, pairs)
        g_total = torch.stack(list(terms.values())).sum()
        judges = [p for name in pairs for p in self.judges[name].parameters() if p.requires_grad]
        trained = [p for p in self.net.parameters() if p.requires_grad]
        if self.averager and last:
            self.averager.expect([*trained, *judges])  # the judges' come first
        torch.autograd.backward(self.scaler.scale(d_total / parts), inputs=judges, retain_graph=True)
        torch.autograd.backward(self.scaler.scale(g_total / parts), inputs=trained)
        return {k: x.detach() for k, x in {**terms, "d": d_total, "total": g_total}.items()}, counts, later

    def judged(self, losses: Tensors, pairs: Mapping[str, Pair | Pairs]) -> tuple[Tensors, Tensor, Tensors]:
        """All weighted terms of the generator, the sum of the judges' losses, and the counts of `_gradients`."""
        terms, d_terms = dict(losses), []
        counts: Tensors = {}
        for name, pair in pairs.items():
            judgement = judge(self.judges[name], pair, self.config)
            terms[f"gan_{name}"] = pair.weight * self.config.lambda_gan * judgement.gan
            terms[f"feat_{name}"] = pair.weight * self.config.lambda_feat * judgement.feat
            d_terms.append(judgement.d)
            if isinstance(pair, Pair) and pair.keep is not None:
                counts |= dict.fromkeys((f"gan_{name}", f"feat_{name}"), pair.keep.max())
        return terms, torch.stack(d_terms).sum(), counts

    def _update(self, losses: Tensor) -> None:
        """Let all networks take a step along their gradients, those of all processes together."""
        networks_of = {"generator": self.net, "discriminators": self.judges}
        finite, trained = [losses.sum()], {}
        if self.scaler.is_enabled():
            self._note(finite)
        for name, network in networks_of.items():
            trained[name] = [p for p in network.parameters() if p.grad is not None]
            for parameter in trained[name]:
                _lay_out_gradient(parameter)
            if self.scaler.is_enabled():  # it looks at gradients alone
                torch._foreach_mul_(
                    [p.grad for p in trained[name] if p.grad is not None], torch.where(self.bad > 0, torch.nan, 1.0)
                )
            self.scaler.unscale_(self.optimizers[name])
            norm = nn.utils.clip_grad_norm_(trained[name], self.config.clip_grad)
            if not self.scaler.is_enabled():  # which leaves steps out that overflow, and goes on
                finite.append(norm)
        self._note(finite)
        for name, optimizer in self.optimizers.items():
            if self.scaler.is_enabled():
                self.scaler.step(optimizer)
            else:
                optimizer.step()
            for parameter in trained[name]:
                parameter.grad = None
        self.scaler.update()
        if self.average:
            self._move(self.average)

    def _note(self, values: Sequence[Tensor]) -> None:
        """Let updates be left out from now on, if not all values are finite."""
        self.bad.copy_(torch.maximum(self.bad, (~torch.isfinite(torch.stack(list(values)).sum())).float()))

    @torch.no_grad()
    def _move(self, average: AveragedModel) -> None:
        """A step of the average: `ema` of the old, at the start less, so that the first weights are soon forgotten."""
        count = average.n_averaged
        kept = torch.clamp((1 + count) / (10 + count), max=self.config.ema)
        averages, weights = (list(x.parameters()) for x in (average.module, self.net))
        change = torch._foreach_sub(weights, averages)
        torch._foreach_mul_(change, (1 - kept) * (1 - self.bad))
        torch._foreach_add_(averages, change)
        count.add_((1 - self.bad).to(count.dtype))


def _start(optimizer: torch.optim.Adam) -> None:
    """Make the moments of all weights, which Adam would do in the first step: so that is like all others."""
    for parameter in optimizer.param_groups[0]["params"]:
        if parameter.requires_grad:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            optimizer.state[parameter] = {"step": step, **moments}


def _lay_out_gradient(parameter: nn.Parameter) -> None:
    """Give a gradient the strides of its parameter: the fused Adam of a GPU takes no others."""
    gradient = parameter.grad
    if gradient is not None and gradient.stride() != parameter.stride():
        parameter.grad = torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(gradient)


def _frozen(net: Network, kind: torch.dtype | None) -> Network:
    """A copy of a network that is not trained: its convolutions in the precision that they run in, which autocast would
    convert for each frame, and torch's norms, which are faster for maps that are not large."""
    net = copy.deepcopy(net)
    if kind:
        networks.converted(net, kind)
    for module in net.modules():
        if isinstance(module, InstanceNorm):
            module.own = False
    return net


def _parts(batch: Tensors, count: int) -> list[Tensors]:
    if count == 1:
        return [batch]
    pieces = {name: x.chunk(count) for name, x in batch.items()}
    return [{name: x[i] for name, x in pieces.items()} for i in range(count)]


def _row(names: Sequence[str], losses: Tensors, counts: Tensors) -> Tensor:
    """Sums and counts [2, names] of the losses of a chunk of one part in one process.

    Raises:
        TrainingError: for a loss without a name, which would be learnt from and written down nowhere.
    """
    if unnamed := sorted(losses.keys() - set(names)):
        raise TrainingError(f"the losses {', '.join(unnamed)} are not among the terms of their stage: name them there")
    zero, one = losses["total"].new_zeros((), dtype=torch.float32), losses["total"].new_ones((), dtype=torch.float32)
    values = torch.stack([losses[n].float() if n in losses else zero for n in names])
    there = torch.stack([counts.get(n, one) if n in losses else zero for n in names])
    return torch.stack([values * there, there])
