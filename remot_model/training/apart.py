"""A function of a network as a single node of the graph of gradients, for one that is called again and again.

A generator's step runs once a frame, on memory that is cut off from the graph. Left to autograd, the gradients of all
frames are added one weight and frame at a time; here those of all weights of a frame are added at once. And where a
convolution's weight is larger than what goes through it, as in the narrow middle of a generator, its gradient can be
made once, from all frames side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Apart:
    """`function` with the gradients of its weights going straight to their `grad`, whoever asks for gradients.

    Args:
        function: of tensors and plain values; it returns a tensor or a dataclass of tensors.
        weights: what `function` may take gradients for, besides its arguments.
        made: called when the gradients of all calls are there, with the weights that got some from them.
        together: make the gradients of large convolutions once for all calls; what they need is kept until then.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        weights: Sequence[nn.Parameter],
        made: Callable[[Sequence[nn.Parameter]], None] | None = None,
        together: bool = False,
    ) -> None:
        self.function, self.made = function, made
        self.weights = [w for w in weights if w.requires_grad]
        self.open = 0  # calls whose gradients are still to come
        self.convolutions = _Convolutions(self.weights) if together else nullcontext()
        self._given: dict[nn.Parameter, None] = {}

    def __call__(self, *arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.function(*arguments)
        if not self.open and isinstance(self.convolutions, _Convolutions):
            self.convolutions.seen.clear()  # the weights have changed
        form: list[Any] = []
        outputs = _Node.apply(self, form, *arguments)
        return form[0](*outputs) if form[0] is not Tensor else outputs[0]

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Add the gradients of a call to those of the weights; None is none. The last call's come with the deferred."""
        self._add([(w, g) for w, g in zip(self.weights, gradients, strict=True) if g is not None])
        self.open -= 1
        if not self.open:
            if isinstance(self.convolutions, _Convolutions):
                self._add(self.convolutions.gradients())
            given, self._given = list(self._given), {}
            if self.made:
                self.made(given)

    def _add(self, found: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
        old = [(w.grad, g) for w, g in found if w.grad is not None]
        if old:
            torch._foreach_add_(*map(list, zip(*old, strict=True)))
        for weight, gradient in found:
            if weight.grad is None:
                weight.grad = gradient
        self._given |= dict.fromkeys(weight for weight, _ in found)


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, apart: Apart, form: list[Any], *arguments: Any) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        inputs = [x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in arguments]
        with torch.enable_grad(), apart.convolutions:
            made = apart.function(*inputs)
        kind = Tensor if isinstance(made, Tensor) else type(made)
        form.append(kind)
        outputs = (made,) if kind is Tensor else tuple(getattr(made, f.name) for f in fields(made))
        ctx.apart, ctx.inputs, ctx.outputs = apart, inputs, outputs
        apart.open += 1
        return tuple(x.detach() for x in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = [x for x in ctx.inputs if isinstance(x, Tensor) and x.requires_grad]
        given = [(x, g) for x, g in zip(ctx.outputs, gradients, strict=True) if g is not None and x.requires_grad]
        found = torch.autograd.grad(
            [x for x, _ in given], [*wanted, *ctx.apart.weights], [g for _, g in given], allow_unused=True
        )
        ctx.apart.add(found[len(wanted) :])
        of_inputs = iter(found[: len(wanted)])
        needs = [isinstance(x, Tensor) and x.requires_grad for x in ctx.inputs]
        del ctx.inputs, ctx.outputs
        return (None, None, *(next(of_inputs) if need else None for need in needs))


@dataclass
class _Large:
    """A weight in the precision it is used in, how its convolution goes, and of each call so far input and gradient."""

    weight: Tensor
    how: tuple[Any, ...]
    inputs: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)


class _Convolutions(TorchFunctionMode):
    """Takes over the convolutions whose weights, among some, are larger than their inputs, and have no bias."""

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        self.weights = set(weights)
        self.seen: dict[nn.Parameter, _Large] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.conv2d, F.conv_transpose2d) and not kwargs and self._takes(*args):
            x, weight, _, *how = args
            kind = weight.dtype
            if torch.is_autocast_enabled(x.device.type):
                kind = torch.get_autocast_dtype(x.device.type)
            large = self.seen.get(weight)
            if large is None:
                large = self.seen[weight] = _Large(weight.detach().to(kind), _how(func, *how))
            return _Convolution.apply(x.to(kind), large)
        return func(*args, **(kwargs or {}))

    def _takes(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *_: Any) -> bool:
        return bias is None and weight in self.weights and x.requires_grad and weight.numel() >= x.numel()

    def gradients(self) -> list[tuple[nn.Parameter, Tensor]]:
        """The gradients of all calls, by weight, in its type."""
        found = []
        for parameter, large in self.seen.items():
            if large.gradients:
                x, gradient = torch.cat(large.inputs), torch.cat(large.gradients)
                of_weight = _back(large, gradient, x, (False, True, False))[1]
                assert of_weight is not None  # it was asked for
                found.append((parameter, of_weight.to(parameter.dtype)))
        self.seen.clear()
        return found


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, large: _Large) -> Tensor:
        ctx.large = large
        ctx.save_for_backward(x)
        return torch.ops.aten.convolution(x, large.weight, None, *large.how)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        ctx.large.inputs.append(x)
        ctx.large.gradients.append(gradient)
        return _back(ctx.large, gradient, x, (True, False, False))[0], None


def _back(large: _Large, gradient: Tensor, x: Tensor, wanted: tuple[bool, bool, bool]) -> tuple[Tensor | None, ...]:
    return torch.ops.aten.convolution_backward(gradient, x, large.weight, None, *large.how, wanted)


def _how(func: Any, stride: Any = 1, padding: Any = 0, *rest: Any) -> tuple[Any, ...]:
    """What `aten.convolution` is to be told: stride, padding, dilation, whether transposed, output padding, groups."""
    if func is F.conv2d:
        dilation, groups, *_ = rest + (1, 1)[len(rest) :]
        more: Any = 0
    else:
        more, groups, dilation, *_ = rest + (0, 1, 1)[len(rest) :]
    pairs = [list(v) if isinstance(v, (tuple, list)) else [v, v] for v in (stride, padding, dilation, more)]
    return (*pairs[:3], func is F.conv_transpose2d, pairs[3], groups)
