"""The layers for inference on a CPU give what torch's kernels give, and leave everything else to those."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from remot_model import networks
from remot_model.generating import rollout
from remot_model.networks import cpu
from tests.remot_model.windows import small_config


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def calls(monkeypatch):
    """Winograd's way for any size; the shapes of what it was given."""
    seen, real = [], cpu.winograd
    monkeypatch.setattr(cpu, "_CHANNELS", 1)
    monkeypatch.setattr(cpu, "_TILES", 1)
    monkeypatch.setattr(cpu, "winograd", lambda x, *rest: seen.append(tuple(x.shape)) or real(x, *rest))
    return seen


@given(
    st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99)
)
@settings(deadline=None, max_examples=50)
def test_winograd_is_a_convolution(n, c, k, h, w, seed):
    chance = torch.Generator().manual_seed(seed)
    x, weight, bias = (torch.randn(shape, generator=chance) for shape in ((n, c, h + 2, w + 2), (k, c, 3, 3), (k,)))
    exact = F.conv2d(x.double(), weight.double(), bias.double())
    assert (cpu.winograd(x, weight, bias) - exact).abs().max() < 1e-5


def test_winograd_rounds_about_as_well_as_torch():
    """At the size of the paper: 512 channels, 32 x 24."""
    layer = cpu.ReflectedConv(512, own=True, shift=True)
    x = torch.randn(1, 512, 32, 24)
    exact = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect").double(), layer.weight.double(), layer.bias.double())
    with torch.no_grad():
        ours = (layer(x) - exact).abs().mean()
    plain = (layer(x) - exact).abs().mean()  # with gradients torch's own convolution runs
    assert 0 < ours < 3 * plain


@given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 9), st.integers(2, 9), st.floats(-50, 50))
@settings(deadline=None, max_examples=50)
def test_the_norm_in_place_is_the_norm(n, c, h, w, mean):
    layer = cpu.InstanceNorm(c, own=True)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(n, c, h, w) + mean
    expected = layer(x.clone()).detach()
    with torch.no_grad():
        found = layer(x)
    assert found.data_ptr() == x.data_ptr()
    assert (found - expected).abs().max() < 1e-3


def test_a_constant_map_has_no_deviation():
    layer = cpu.InstanceNorm(2, own=True)
    with torch.no_grad():
        assert torch.equal(layer(torch.full((1, 2, 4, 4), 3.0)), torch.zeros(1, 2, 4, 4))


def test_winograd_only_where_it_pays(monkeypatch):
    def unwanted(*_):
        raise AssertionError("called")

    monkeypatch.setattr(cpu, "winograd", unwanted)
    with torch.no_grad():
        for channels, size in ((256, (32, 24)), (512, (16, 24))):
            assert (
                cpu.ReflectedConv(channels, own=True, shift=True)(torch.randn(1, channels, *size)).shape[1] == channels
            )
        with pytest.raises(AssertionError, match="called"):
            cpu.ReflectedConv(512, own=True, shift=True)(torch.randn(1, 512, 32, 24))


def test_everything_else_is_left_to_torch(calls):
    x = torch.randn(1, 4, 8, 8)
    for own in (True, False):
        conv, norm = cpu.ReflectedConv(4, own, shift=True), cpu.InstanceNorm(4, own)
        assert norm(conv(x)).requires_grad
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            given = x.bfloat16()
            assert conv(given).dtype == torch.bfloat16
            assert norm(given).data_ptr() != given.data_ptr()
        with torch.no_grad():
            recorded = torch.export.export(torch.nn.Sequential(conv, norm), (x,))
            assert "instance_norm" in str(recorded.graph) and "bmm" not in str(recorded.graph)
    assert calls == []
    with torch.no_grad():
        conv(x)
        assert calls == []
        cpu.ReflectedConv(4, own=True, shift=True)(x)
    assert calls == [(1, 4, 10, 10)]


@pytest.mark.parametrize("crop", [False, True])
def test_a_transfer_is_the_same_with_and_without(calls, crop):
    """Three frames of all stages: the same weights under the same names, the same pictures."""
    images, names = [], []
    for own in (True, False):
        config = small_config(cpu_kernels=own, crop_regions=crop)
        assert config.digest() == small_config(crop_regions=crop).digest()
        torch.manual_seed(0)
        nets = {stage: networks.generator(stage, config).eval() for stage in config.stages}
        labels = torch.arange(11).repeat_interleave(config.size[0] * config.size[1] // 11 + 1)
        labels = labels[: config.size[0] * config.size[1]].reshape(1, 1, *config.size).repeat(1, 3, 1, 1)
        source, poses = torch.rand(1, 3, *config.size), torch.rand(1, 3, 3, *config.size)
        done, _ = rollout.transfer(nets, config, source, labels[:, 0], poses, source.flip(-1), labels)
        images.append(done.images)
        names.append([list(net.state_dict()) for net in nets.values()])
        assert bool(calls) == own
        calls.clear()
    assert names[0] == names[1]
    assert (images[0] - images[1]).abs().max() < 1e-4
