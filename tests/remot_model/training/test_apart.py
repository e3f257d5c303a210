"""A function as one node of the graph of gradients: the same outputs and gradients as without."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from remot_data.reading.stream import to_torch
from remot_model import networks
from remot_model.config import STAGES, StagePlan
from remot_model.training.apart import Apart
from remot_model.training.stages import Setting, needed_generators
from remot_model.training.trainer import Trainer
from tests.remot_model.windows import Windows, clip_arrays, small_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def batch():
    """Two windows of three frames, of two dancers."""
    rows = [to_torch(Windows(clip_arrays(3, seed=seed), 3).window(0)) for seed in (0, 1)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def trainer_of(stage, fields=(), **plan):
    torch.manual_seed(0)
    plan = StagePlan(1, 2, length=3, chunk=3, lr=1e-3, **plan)
    config = small_config(**{stage: plan}, crop_regions=False, **dict(fields))
    earlier = {n: networks.generator(n, config).requires_grad_(False) for n in needed_generators(stage, config)}
    return Trainer(stage, Setting(config, None, earlier), torch.device("cpu"), 0)


ENCODERS = {
    "layout": ("encode_source", "encode_pose"),
    "region": ("encode_mask",),
    "whole": ("encode_context", "encode_source"),
}


def gradients_of(trainer, batch):
    """The outputs of a rollout, and the gradients of all weights of an update that is not made."""
    found, outputs = {}, []

    def update(losses):
        found.update({n: p.grad for n, p in trainer.net.named_parameters()})
        found.update({f"judges.{n}": p.grad for n, p in trainer.judges.named_parameters()})

    def made(out, original=trainer.stage.made):
        outputs.append(original(out).detach())
        return original(out)

    trainer._update, trainer.stage.made = update, made
    losses = trainer.step(batch, 1e-3)
    return torch.cat(outputs), {n: g for n, g in found.items() if g is not None}, losses.table


@pytest.mark.parametrize("parts", [1, 2], ids=["at-once", "accumulated"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_rollout_has_the_gradients_it_had(batch, stage, parts):
    with_it, without = (trainer_of(stage, accumulate=parts) for _ in range(2))
    assert isinstance(with_it.net.step, Apart)
    without.net.step = without.net.step.function
    calls, before = [], with_it.net.step
    names = {p: name for name, p in with_it.net.named_parameters()}
    before.made = lambda weights: calls.append({names[p]: p.grad.clone() for p in weights})
    (out, found, table), (expected_out, expected, expected_table) = (gradients_of(t, batch) for t in (with_it, without))
    assert torch.equal(out, expected_out)
    assert torch.equal(table, expected_table)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()), msg=name)
    # Once for each part; and when it is told, the gradients of the weights named are complete.
    assert len(calls) == parts and before.open == 0
    assert all(torch.equal(found[name], gradient) for name, gradient in calls[-1].items())
    # Those of what runs once for all frames are not among them: they are still to come.
    own = [name for name in found if not name.startswith(("judges", *ENCODERS[stage]))]
    assert sorted(calls[-1]) == sorted(own)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", STAGES)
def test_large_convolutions_make_their_gradients_once_for_all_frames(batch, stage, precision, monkeypatch):
    fields = {"precision": precision, "ngf": 8, "n_downsample": 3, "decoder_blocks": 1}
    together, apart = (trainer_of(stage, fields | {"gpu_kernels": kind}, accumulate=2) for kind in (True, False))
    wanted, back = [], torch.ops.aten.convolution_backward

    def told(*args):
        wanted.append(args[-1])
        return back(*args)

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", told)
    (out, found, table), (expected_out, expected, expected_table) = (gradients_of(t, batch) for t in (together, apart))
    assert torch.equal(out, expected_out)
    assert torch.equal(table, expected_table)
    assert found.keys() == expected.keys()
    bound = 1e-5 if precision == "float32" else 0.02
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= bound * gradient.norm(), name
    # For each of two parts: the gradient of an input for each of three frames, that of the weight once.
    inputs, weights = (wanted.count(mask) for mask in ((True, False, False), (False, True, False)))
    assert weights and inputs == 3 * weights


@dataclass
class Two:
    a: Tensor
    b: Tensor


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = (nn.Parameter(torch.tensor([2.0, 3.0])) for _ in range(2))
        self.frozen = nn.Parameter(torch.tensor(5.0), requires_grad=False)

    def step(self, x: Tensor, flag: bool, y: Tensor) -> Two:
        return Two(x * self.used * self.frozen, y * self.used if flag else y * 1.0)


@pytest.fixture
def cell():
    cell, cell.told = Cell(), []
    cell.apart = Apart(cell.step, list(cell.parameters()), cell.told.append)
    cell.x, cell.y = torch.tensor([1.0, -1.0], requires_grad=True), torch.tensor([4.0, 4.0])
    return cell


def test_outputs_may_be_of_several_and_used_in_part(cell):
    outs = [cell.apart(cell.x, flag, cell.y) for flag in (True, False, True)]
    assert cell.apart.open == 3 and not cell.told
    (outs[0].a.sum() + outs[1].a.sum() + outs[2].b.sum()).backward()
    assert torch.equal(cell.used.grad, 5 * (cell.x + cell.x).detach() + cell.y)
    assert torch.equal(cell.x.grad, 5 * 2 * cell.used.detach())
    assert cell.unused.grad is None and cell.frozen.grad is None and cell.y.grad is None
    assert [[id(w) for w in weights] for weights in cell.told] == [[id(cell.used)]]


def test_gradients_add_up_over_graphs_and_each_is_told_of(cell):
    for n in (1, 2):
        cell.apart(cell.x, True, cell.y).a.sum().backward()
        assert torch.equal(cell.used.grad, n * 5 * cell.x.detach())
        assert len(cell.told) == n
    given = cell.used.grad
    cell.apart(cell.x, True, cell.y).a.sum().backward()
    assert cell.used.grad is given, "added in place, where an optimizer or a graph of kernels may look for it"


def test_without_gradients_it_is_the_function(cell):
    with torch.no_grad():
        out = cell.apart(cell.x, True, cell.y)
    assert not out.a.requires_grad and cell.apart.open == 0
    assert torch.equal(out.a, cell.step(cell.x, True, cell.y).a)


def test_a_single_tensor_comes_back_as_one(cell):
    apart = Apart(lambda x: x * cell.used, list(cell.parameters()))
    out = apart(cell.x)
    assert isinstance(out, Tensor)
    out.sum().backward()
    assert torch.equal(cell.used.grad, cell.x.detach())


def test_a_gradient_for_others_alone_leaves_the_weights_and_the_graph(cell):
    """As the judges' backward pass does, which comes first and goes through none of the generator."""
    judge = torch.tensor(2.0, requires_grad=True)
    out = cell.apart(cell.x, True, cell.y)
    loss = (out.a * judge).sum()
    torch.autograd.backward(loss, inputs=[judge], retain_graph=True)
    assert cell.used.grad is None and judge.grad is not None and not cell.told and cell.apart.open == 1
    torch.autograd.backward(loss, inputs=[cell.x])
    assert cell.used.grad is not None and len(cell.told) == 1
