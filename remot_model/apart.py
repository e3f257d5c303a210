"""A function of a network as a single node of the graph of gradients, for one that is called again and again.

A generator's step runs once a frame, on memory that is cut off from the graph. Left to autograd, the gradients of all
frames are added one weight and frame at a time; here those of all weights of a frame are added at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn


class Apart:
    """`function` with the gradients of its weights going straight to their `grad`, whoever asks for gradients.

    Args:
        function: of tensors and plain values; it returns a tensor or a dataclass of tensors.
        weights: what `function` may take gradients for, besides its arguments.
        made: called when the gradients of all calls are there, with the weights that got some from them.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        weights: Sequence[nn.Parameter],
        made: Callable[[Sequence[nn.Parameter]], None] | None = None,
    ) -> None:
        self.function, self.made = function, made
        self.weights = [w for w in weights if w.requires_grad]
        self.open = 0  # calls whose gradients are still to come
        self._given: dict[nn.Parameter, None] = {}

    def __call__(self, *arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.function(*arguments)
        form: list[Any] = []
        outputs = _Node.apply(self, form, *arguments)
        return form[0](*outputs) if form[0] is not Tensor else outputs[0]

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Add gradients to those of the weights; None is none."""
        found = [(w, g) for w, g in zip(self.weights, gradients, strict=True) if g is not None]
        old = [(w.grad, g) for w, g in found if w.grad is not None]
        if old:
            torch._foreach_add_(*map(list, zip(*old, strict=True)))
        for weight, gradient in found:
            if weight.grad is None:
                weight.grad = gradient
        self._given |= dict.fromkeys(weight for weight, _ in found)
        self.open -= 1
        if not self.open:
            given, self._given = list(self._given), {}
            if self.made:
                self.made(given)


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, apart: Apart, form: list[Any], *arguments: Any) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        inputs = [x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in arguments]
        with torch.enable_grad():
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
