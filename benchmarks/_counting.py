"""What a training step asks of a GPU, counted on a CPU: the operations it dispatches, and where it waits for results.

A GPU launches about one kernel for each operation that is no view, so the count predicts what a step of small networks
costs there. Whoever asks for a value, or for a shape that depends on values, waits until the GPU has done all before.
"""

from __future__ import annotations

import collections
import dataclasses
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from remot_data import render, synthetic
from remot_data.reading.stream import Window, to_torch
from remot_data.schemas import convert_labels
from remot_model import devices, networks
from remot_model.config import Config, StagePlan, preset
from remot_model.training.features import Features
from remot_model.training.stages import Setting, needed_generators
from remot_model.training.trainer import Trainer

# Views and memory without content: nothing is launched.
FREE = frozenset(
    "view _unsafe_view view_as_real view_as_complex expand slice select permute transpose transpose_ t t_ movedim "
    "detach detach_ alias unsqueeze unsqueeze_ squeeze squeeze_ as_strided as_strided_ unbind split split_with_sizes "
    "unsafe_split unsafe_split_with_sizes chunk narrow diagonal unfold _reshape_alias real imag _conj _neg_view "
    "empty empty_like empty_strided new_empty new_empty_strided set_ resize_ lift lift_fresh is_pinned is_same_size "
    "sym_size sym_stride sym_numel sym_storage_offset size stride".split()
)
# Namespaces of operators that only name or describe something.
_SILENT = frozenset(("profiler", "prim"))
# Operators whose result, or whose shape, a GPU has to report.
_WAITS = frozenset(
    "_local_scalar_dense item is_nonzero nonzero nonzero_numpy masked_select _unique _unique2 unique_dim "
    "unique_consecutive unique_dim_consecutive bincount equal".split()
)
_INDEXING = frozenset("index index_put index_put_ _index_put_impl_ _unsafe_index _unsafe_index_put".split())
# Methods that bring values to Python; on a CPU most of them dispatch nothing.
_METHODS = "cpu tolist numpy item __bool__ __float__ __int__ __index__ __complex__".split()

_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)


class Count(TorchDispatchMode):
    """Counts what is dispatched while it is active: `operations` and `waits`, both by name.

    `Tensor.to("cpu")` is a wait if it names the CPU by its word: in a count, the device itself is a CPU. So is a tensor
    made of Python values on a device, since it is copied from memory that may change.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: collections.Counter[str] = collections.Counter()
        self.waits: collections.Counter[str] = collections.Counter()
        self.places: collections.Counter[str] = collections.Counter()  # of waits, by name and line
        self._within = 0  # of a method that is counted as a wait already

    def __enter__(self) -> Count:
        super().__enter__()
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if func.namespace in _SILENT:
            return func(*args, **kwargs)
        # In inference mode composite operators come here whole.
        with self:
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        if func.namespace != "aten":
            return self._opened(func, name, args, kwargs)
        if name not in FREE:
            self.operations[name] += 1
        if _waits(func, name, args):
            self.wait(name)
        return func(*args, **kwargs)

    def _opened(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Run a custom operator with this mode on; one that dispatches nothing that is seen counts as one."""
        before = self.operations.total()
        with self:
            out = func.redispatch(_CPU, *args, **kwargs)
        if self.operations.total() == before:
            self.operations[name] += 1
        return out

    def wait(self, name: str) -> None:
        if not self._within:
            self.waits[name] += 1
            self.places[f"{name} at {_place()}"] += 1

    @contextmanager
    def waiting(self, name: str) -> Iterator[None]:
        """Count a wait, and none of those inside of it."""
        self.wait(name)
        self._within += 1
        try:
            yield
        finally:
            self._within -= 1


@contextmanager
def counted() -> Iterator[Count]:
    """A count of what is done meanwhile, methods of tensors included."""
    count = Count()
    changed = {name: _method(count, name) for name in _METHODS} | {"to": _to(count), "new_tensor": _new(count)}
    makers = {name: _maker(count, name) for name in ("tensor", "as_tensor")}
    own = {name: vars(Tensor)[name] for name in changed if name in vars(Tensor)}
    plain = {name: getattr(torch, name) for name in makers}
    for name, method in changed.items():
        setattr(Tensor, name, method)
    for name, maker in makers.items():
        setattr(torch, name, maker)
    try:
        with count:
            yield count
    finally:
        for name, maker in plain.items():
            setattr(torch, name, maker)
        for name in changed:
            if name in own:
                setattr(Tensor, name, own[name])
            else:
                delattr(Tensor, name)


def _place() -> str:
    """The innermost line of Python that is neither torch's nor of this file."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename != __file__ and "/torch/" not in frame.filename and "contextlib" not in frame.filename:
            return f"{Path(frame.filename).name}:{frame.lineno}"
    return "?"


def _waits(func: Any, name: str, args: Any) -> bool:
    if name in _INDEXING:
        return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    if name == "repeat_interleave":
        return func._overloadname == "Tensor"
    return name in _WAITS


def _method(count: Count, name: str) -> Callable[..., Any]:
    plain = getattr(Tensor, name)

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        with count.waiting(name.strip("_")):
            return plain(self, *args, **kwargs)

    return method


def _to(count: Count) -> Callable[..., Tensor]:
    plain = Tensor.to

    def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if "cpu" in (*args[:1], kwargs.get("device")) and not kwargs.get("non_blocking"):
            with count.waiting("to cpu"):
                return plain(self, *args, **kwargs)
        return plain(self, *args, **kwargs)

    return to


def _new(count: Count) -> Callable[..., Tensor]:
    plain = Tensor.new_tensor

    def new_tensor(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with count.waiting("new_tensor"):
            return plain(self, *args, **kwargs)

    return new_tensor


def _maker(count: Count, name: str) -> Callable[..., Tensor]:
    plain = getattr(torch, name)

    def make(values: Any, *args: Any, **kwargs: Any) -> Tensor:
        if isinstance(values, Tensor) or kwargs.get("device") in (None, "cpu"):
            return plain(values, *args, **kwargs)
        with count.waiting(name):
            return plain(values, *args, **kwargs)

    return make


def few_channels(name: str, stage: str, **fields: Any) -> Config:
    """A preset with its structure and few channels: whole frames, no perceptual features, one window of 6 frames."""
    plan = StagePlan(1, 1, length=6, chunk=6)
    fields = {"ngf": 8, "ndf": 8, "region_ndf": 8, "crop_regions": False, "cpu_kernels": False, **fields}
    config = dataclasses.replace(preset(name), lambda_per=0.0, **{stage: plan}, **fields)
    return devices.resolved(config, "cpu")


def batch_of(config: Config, windows: int, frames: int) -> dict[str, Tensor]:
    """Windows of drawn dances without a store, a dancer each; the source is a frame some time before."""
    made = [to_torch(_window(config, number, frames)) for number in range(1, windows + 1)]
    return {name: torch.stack([window[name] for window in made]) for name in made[0]}


def _window(config: Config, number: int, frames: int) -> Window:
    before = 4
    scene = synthetic.dance(synthetic.Dancer.random(number), before + frames, size=config.size, seed=number)
    labels = convert_labels(scene.labels, "atr18", "remot11")
    arrays = {
        "frames": scene.frames[before:],
        "pose_map": np.stack([render.pose_map(k, "body25", config.size) for k in scene.keypoints[before:]]),
        "labels": labels[before:],
        "flow": scene.flow[before:],
        "confidence": scene.confidence[before:] == 3,
        "background": scene.background,
        "source": scene.frames[0],
        "source_labels": labels[0],
    }
    return Window(f"dance:{before}/0", "dance", before, 0, arrays)


def trainer_of(stage: str, config: Config, device: torch.device, features: Features | None = None) -> Trainer:
    """A trainer of fresh networks, those of earlier stages included."""
    earlier = {n: networks.generator(n, config).to(device).eval() for n in needed_generators(stage, config)}
    earlier = {n: net.requires_grad_(False) for n, net in earlier.items()}
    return Trainer(stage, Setting(config, features, earlier), device, 0)


def count_step(stage: str, config: Config) -> Count:
    """What the second step of a stage does; the first makes the constants and the optimizers' state."""
    trainer = trainer_of(stage, config, torch.device("cpu"))
    batch = batch_of(config, 1, config.plan(stage).chunk)
    trainer.step(batch, 1e-4)
    with counted() as count:
        trainer.step(batch, 1e-4)
    return count
