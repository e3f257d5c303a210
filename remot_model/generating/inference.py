"""The generators of a run as transfer and evaluation use them: converted once, and on a GPU recorded and replayed.

A frame needs the two before it, so on a GPU its kernels are small, and launching them would take longer than they do. A
piece of a clip is therefore recorded as a CUDA graph, in which the stages overlap: while the Region GAN is at some
frames, the Layout GAN is at the next ones.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from remot_model import devices, networks
from remot_model.config import Config
from remot_model.generating import rollout
from remot_model.generating.graphs import Lanes, Recorded
from remot_model.generating.rollout import State, Transferred

log = logging.getLogger(__name__)

# Frames that go through a stage together, where they need not wait for each other, on a GPU.
_TOGETHER = 4
# Of the runners of a run, so many have streams of their own for the stages: torch has 32 streams, and they take four.
# Where more clips than that are at work, there is no room left on the card to overlap.
_WITH_LANES = 4
# One at a time records, and meanwhile nobody runs kernels for the first time, which may load them.
_recording = threading.Lock()


class Networks:
    """The generators of a run, for any number of clips at once.

    Where they run in bfloat16 these are copies whose weights are converted; else they are the same modules.

    Args:
        generators: by stage, in eval mode without gradients, all on one device.
        config: of the run. It decides how they run, never the device.

    Attributes:
        plain: why pieces are not recorded as CUDA graphs, in a few words; empty where they are.
    """

    def __init__(self, generators: Mapping[str, nn.Module], config: Config) -> None:
        self.config = config
        self.device = next(next(iter(generators.values())).parameters()).device
        self.generators = dict(generators)
        if devices.infers_in_bfloat16(config, self.device):
            self.generators = {
                stage: networks.converted(copy.deepcopy(net), torch.bfloat16) for stage, net in generators.items()
            }
        self.plain = devices.why_plain(config, "region", self.device)
        self._idle: list[Runner] = []
        self._made, self._lock = 0, threading.Lock()

    @contextmanager
    def lent(self) -> Iterator[Runner]:
        """A runner for one clip at a time, with what it recorded for earlier ones; what a thread does with its results
        on a GPU belongs into this context, whose stream it is."""
        with self._lock:
            if self._idle:
                runner = self._idle.pop()
            else:
                runner = Runner(self, self._made < _WITH_LANES)
                self._made += 1
        try:
            with torch.cuda.stream(runner.stream) if runner.stream else nullcontext():
                yield runner
        finally:
            with self._lock:
                self._idle.append(runner)


class Runner:
    """Runs pieces of one clip after the other; `Networks.lent` gives it."""

    def __init__(self, nets: Networks, lanes: bool) -> None:
        self._nets = nets
        gpu = nets.device.type == "cuda"
        self.stream = torch.cuda.Stream(nets.device) if gpu else None
        self._together = _TOGETHER if gpu else None
        self._lanes = Lanes(nets.config.stages, nets.device) if lanes and not nets.plain else None
        self._seen: set[Any] = set()
        self._recorded: dict[Any, Recorded] = {}

    def __call__(
        self,
        source: Tensor,
        source_labels: Tensor,
        poses: Tensor,
        background: Tensor,
        labels: Tensor | None = None,
        states: dict[str, State] | None = None,
        placed: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Transferred, dict[str, State]]:
        """All stages over a piece of a clip, as `remot_model.generating.rollout.transfer`; its arguments and results.

        On a GPU the results may be overwritten by the next call, which takes the states as they are.
        """
        if self._nets.plain:
            return self._run(source, source_labels, poses, background, labels, states or {}, placed)
        given = {"source": source, "source_labels": source_labels, "poses": poses, "background": background}
        given |= {} if labels is None else {"labels": labels}
        given |= {f"state {stage} {name}": x for stage, state in (states or {}).items() for name, x in _there(state)}
        given |= {} if placed is None else {"scale": placed[0], "offset": placed[1]}
        key = tuple((name, x.shape, x.dtype) for name, x in given.items())
        if key not in self._recorded:
            with _recording:
                if key not in self._seen:  # compiles kernels and makes constants
                    self._seen.add(key)
                    return self._named(given)
                expected = self._named(given)
                if not self._record(key, given, expected):
                    return expected
        return self._recorded[key](given)

    def _record(self, key: Any, given: dict[str, Tensor], expected: Any) -> bool:
        """Record a piece; a graph that does not give the bytes of its kernels one by one is not used."""
        beside = next(iter(self._recorded.values()), None)
        given = {name: x.clone() for name, x in given.items()}  # a replay may write where states of another one lie
        while True:
            recorded = Recorded(self._in_lanes, given, beside, self.stream)
            if all(map(torch.equal, _tensors(recorded(given)), _tensors(expected))):
                self._recorded[key] = recorded
                return True
            if not self._lanes:
                break
            self._lanes = None
            log.warning("stages that overlap in a CUDA graph do not give their own bytes here; they run one by one")
        self._nets.plain = "a recorded piece did not give the bytes of its kernels one by one"
        log.warning("transfer continues without CUDA graphs: %s", self._nets.plain)
        return False

    def _in_lanes(self, given: dict[str, Tensor]) -> tuple[Transferred, dict[str, State]]:
        return self._named(given, self._lanes)

    def _named(self, given: dict[str, Tensor], lanes: Lanes | None = None) -> tuple[Transferred, dict[str, State]]:
        """What was given by name, see `__call__`."""
        states: dict[str, dict[str, Tensor]] = {}
        for name, x in given.items():
            if name.startswith("state "):
                _, stage, part = name.split()
                states.setdefault(stage, {})[part] = x
        return self._run(
            given["source"],
            given["source_labels"],
            given["poses"],
            given["background"],
            given.get("labels"),
            {stage: State(**parts) for stage, parts in states.items()},
            (given["scale"], given["offset"]) if "scale" in given else None,
            lanes,
        )

    def _run(
        self,
        source: Tensor,
        source_labels: Tensor,
        poses: Tensor,
        background: Tensor,
        labels: Tensor | None,
        states: dict[str, State],
        placed: tuple[Tensor, Tensor] | None,
        lanes: Lanes | None = None,
    ) -> tuple[Transferred, dict[str, State]]:
        """In groups of as many frames as go together: the same whether it is recorded or not."""
        count, made = poses.shape[1], []
        step = self._together or count
        with lanes.opened() if lanes else nullcontext(rollout.NO_LANE) as lane:
            for i in range(0, count, step):
                part = slice(i, i + step)
                done, states = rollout.transfer(
                    self._nets.generators,
                    self._nets.config,
                    source,
                    source_labels,
                    poses[:, part],
                    background,
                    labels if labels is None else labels[:, part],
                    states=states,
                    placed=None if placed is None else (placed[0][:, part], placed[1][:, part]),
                    lane=lane,
                )
                made.append(done)
        return _joined(made), states  # behind all lanes


def _there(state: State) -> Iterator[tuple[str, Tensor]]:
    return ((name, x) for name, x in vars(state).items() if x is not None)


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in dataclasses, tuples and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        yield from _tensors([getattr(value, f.name) for f in fields(value)])
    elif isinstance(value, dict):
        yield from _tensors([x for _, x in sorted(value.items())])
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)


def _joined(parts: Sequence[Any]) -> Any:
    """Dataclasses of tensors [N, T, ...] as one, the frames one after the other."""
    first = parts[0]
    if len(parts) == 1 or first is None:
        return first
    if isinstance(first, Tensor):
        return torch.cat(list(parts), 1)
    assert is_dataclass(first)
    kind: Any = type(first)
    return kind(*(_joined([getattr(part, f.name) for part in parts]) for f in fields(first)))
