"""What runs once a frame and the losses of a chunk can be compiled whole, and give what they gave."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from benchmarks._counting import batch_of, few_channels, trainer_of  # noqa: E402
from remot_model import networks  # noqa: E402
from remot_model.config import STAGES  # noqa: E402


@pytest.fixture(autouse=True)
def compiler():
    """Nothing compiled before is taken, and a graph may be gone through twice: both sides go through the judges'."""
    torch._dynamo.reset()
    with torch._functorch.config.patch(donated_buffer=False):
        yield
    torch._dynamo.reset()


def whole(function):
    """Compiled without a break, for these shapes only; kernels stay torch's."""
    return torch.compile(function, fullgraph=True, dynamic=False, backend="aot_eager")


def trainer_and_batch(stage, **fields):
    torch.manual_seed(0)
    config = few_channels(
        "paper:no-crops", stage, size=(32, 24), n_downsample=2, n_blocks=2, decoder_blocks=1, ngf=4, ndf=4,
        region_ndf=4, d_layers=2, temporal_scales=1, precision="float32", **fields,
    )  # fmt: skip
    return trainer_of(stage, config, torch.device("cpu")), batch_of(config, 1, 4)


def of_a_chunk(trainer, batch, losses_of):
    """Outputs, losses and gradients of a chunk of three frames."""
    chunk, out, _, made = trainer._rolled(trainer.net, trainer._prepare(batch, False), 0, 3, None)
    terms, d_total = losses_of(chunk)(out, made)
    judged = [judge for name, judge in trainer.judges.items() if f"gan_{name}" in terms]
    judges = [p for judge in judged for p in judge.parameters() if p.requires_grad]
    torch.autograd.backward(d_total, inputs=judges, retain_graph=True)
    trained = [p for p in trainer.net.parameters() if p.requires_grad]
    torch.autograd.backward(torch.stack(list(terms.values())).sum(), inputs=trained)
    weights = {f"{kind}.{n}": p for kind in ("net", "judges") for n, p in getattr(trainer, kind).named_parameters()}
    gradients = {name: p.grad for name, p in weights.items() if p.grad is not None}
    return made.detach(), {**terms, "d": d_total}, gradients


def losses_by(trainer, around=lambda function: function):
    def of(chunk):
        def losses(out, made):
            terms, d_total, _ = trainer.judged(*trainer.stage.losses(chunk, out, made))
            return terms, d_total

        return around(losses)

    return of


def check_equal(found, expected):
    (made, losses, gradients), (made_before, losses_before, gradients_before) = found, expected
    torch.testing.assert_close(made, made_before, rtol=1e-4, atol=1e-5)
    assert losses.keys() == losses_before.keys() and gradients.keys() == gradients_before.keys()
    for name, x in losses_before.items():
        torch.testing.assert_close(losses[name], x, rtol=1e-4, atol=1e-6, msg=name)
    for name, x in gradients_before.items():
        assert (gradients[name] - x).norm() <= 1e-2 * x.norm() + 1e-7, name


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_frame_and_the_losses_of_a_chunk_compile_whole(stage):
    trainer, batch = trainer_and_batch(stage)
    expected = of_a_chunk(trainer, batch, losses_by(trainer))
    trainer, batch = trainer_and_batch(stage)
    trainer.net.encode, trainer.net.step.function = (whole(f) for f in (trainer.net.encode, trainer.net.step.function))
    check_equal(of_a_chunk(trainer, batch, losses_by(trainer, whole)), expected)


@pytest.mark.parametrize(
    "stage", [pytest.param(stage, marks=() if stage == "region" else pytest.mark.slow) for stage in STAGES]
)
def test_a_frame_is_one_graph(stage):
    """Nothing in it is left to Python, and no value decides what is done."""
    trainer, batch = trainer_and_batch(stage)
    graphs = []

    def counted(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = {"fullgraph": True, "dynamic": False, "backend": counted}
    trainer.net.encode = torch.compile(trainer.net.encode, **compiled)
    trainer.net.step.function = torch.compile(trainer.net.step.function, **compiled)
    made = trainer._rolled(trainer.net, trainer._prepare(batch, False), 0, 4, None)[3]
    plain, _ = trainer_and_batch(stage)
    expected = plain._rolled(plain.net, plain._prepare(batch, False), 0, 4, None)[3]
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    # `encode`, the first frame, and the others, whether or not what they remember has a gradient.
    assert 2 <= len(graphs) <= 4


@pytest.mark.slow
def test_a_trainer_compiles_with_its_switch_and_learns_the_same():
    """With torch's own compiler of kernels, which takes minutes for more: two steps, and the names of the weights."""
    found = []
    for compile_ in (False, True):
        trainer, batch = trainer_and_batch("region", compile=compile_, num_d=1)
        losses = [dict(trainer.step(batch, 1e-4)) for _ in range(2)]
        found.append((losses, list(trainer.net.state_dict()), list(trainer.judges.state_dict())))
    assert found[0][1:] == found[1][1:]
    for plain, other in zip(found[0][0], found[1][0], strict=True):
        assert other == pytest.approx(plain, rel=1e-2, abs=1e-4)


@pytest.mark.slow
def test_compiling_leaves_a_network_what_it_was():
    """Its weights, their names, and that it can be copied as the average is."""
    trainer, _ = trainer_and_batch("region")
    config = trainer.config
    net, judges = networks.generator("region", config), networks.discriminators("region", config)
    before = [list(x.state_dict()) for x in (net, judges)]
    networks.compiled(net, *judges.values())
    assert [list(x.state_dict()) for x in (net, judges)] == before
    assert isinstance(net, networks.RegionGenerator)
