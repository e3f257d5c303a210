import pytest
import torch
import torch.nn.functional as F

from remot_model import devices, networks
from remot_model.config import ConfigError, preset
from remot_model.generating import rollout
from remot_model.generating.rollout import one_hot
from remot_model.networks.whole import attention, texture_alignment
from tests.remot_model.windows import SIZE, small_config


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(("stage", "millions"), [("layout", 116.5), ("region", 70.8), ("whole", 118.0)])
def test_parameter_counts_are_those_of_the_specification(stage, millions):
    with torch.device("meta"):
        count = networks.parameter_count(networks.generator(stage, preset("paper")))
    assert round(count / 1e6, 1) == millions


def test_discriminators_take_the_channels_of_the_specification():
    nets = networks.discriminators("whole", preset("tiny"))
    channels = {name: net[0][0][0].in_channels for name, net in nets.items()}
    assert channels == {"image": 15, "foreground": 12, "face": 4, "temporal1": 13, "temporal3": 13}
    assert networks.discriminators("layout", preset("tiny"))["image"][0][0][0].in_channels == 25
    assert networks.discriminators("region", preset("tiny"))["image"][0][0][0].in_channels == 4


def test_coarser_discriminators_are_wider():
    net = networks.discriminators("whole", small_config(ndf=32))["image"]
    assert [scale[0][0].out_channels for scale in net] == [32, 64]
    outputs = net(torch.rand(2, 15, *SIZE))
    assert [len(scale) for scale in outputs] == [5, 5]
    assert outputs[0][-1].shape[1] == 1


def test_unknown_stages_are_refused():
    with pytest.raises(ConfigError, match="layout, region, whole"):
        networks.generator("face", preset("tiny"))
    with pytest.raises(ConfigError, match="layout, region, whole"):
        networks.discriminators("face", preset("tiny"))


def test_attention_weights_sum_to_one():
    """A constant source adds that constant, whatever the cosines are."""
    generated, source = torch.randn(2, 8, 4, 3), torch.randn(2, 8, 1, 1).expand(-1, -1, 4, 3)
    assert torch.allclose(texture_alignment(generated, source, tau=0.1), generated + source, atol=1e-5)


def test_attention_is_the_softmax_of_cosines_over_source_positions():
    g, s = torch.randn(1, 8, 4, 3), torch.randn(1, 8, 4, 3)
    fg, fs = g.flatten(2)[0], s.flatten(2)[0]
    cosine = (fs / fs.norm(dim=0)).T @ (fg / fg.norm(dim=0))
    weights = (cosine / 0.5).softmax(0)
    assert torch.allclose(weights.sum(0), torch.ones(12), atol=1e-6)
    expected = g + (fs @ weights).reshape(1, 8, 4, 3)
    assert torch.allclose(texture_alignment(g, s, tau=0.5), expected, atol=1e-5)
    linear = g + (fs @ cosine / 12).reshape(1, 8, 4, 3)
    assert torch.allclose(texture_alignment(g, s, softmax=False), linear, atol=1e-5)


def test_a_small_temperature_finds_the_matching_position():
    source = torch.randn(1, 32, 4, 3)
    order = torch.randperm(12)
    generated = source.flatten(2)[..., order].reshape(1, 32, 4, 3)
    found = texture_alignment(generated, source, tau=0.01) - generated
    assert torch.allclose(found, generated, atol=1e-2)


@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_attention_of_a_gpu_is_that_of_the_fused_kernel(tau):
    q, k = (F.normalize(torch.randn(2, 48, 8), dim=2).requires_grad_() for _ in range(2))
    v, wanted = torch.randn(2, 48, 8), []
    for found in (attention(q, k, v, tau), F.scaled_dot_product_attention(q, k, v, scale=1 / tau)):
        wanted.append((found, *torch.autograd.grad(found.square().sum(), (q, k))))
    for a, b in zip(*wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_five_regions_in_one_batch_equal_five_alone():
    config = small_config()
    net = networks.generator("region", config).eval()
    labels = torch.randint(0, 6, (2, 3, *SIZE))
    aligned = torch.rand(2, 3, 3, *SIZE) * 2 - 1
    with torch.no_grad():
        together, _ = rollout.regions(net, config, labels, aligned, labels)
        for i in range(1, 6):
            masks = (labels == i).float()[:, :, None]
            codes = net.encode(rollout.windows(masks, None)).unbind(1)
            memory = torch.zeros(2, 2, 3, *SIZE)
            for t in range(3):
                image = net.step(codes[t], aligned[:, t] * masks[:, t], memory) * masks[:, t]
                assert torch.allclose(image, together[:, t, i - 1], atol=1e-4)
                memory = torch.stack([memory[:, 1], image], 1)


def test_clipped_regions_are_zero_outside_their_masks():
    config = small_config(clip_regions=True)
    labels = torch.randint(0, 6, (1, 2, *SIZE))
    made, _ = rollout.regions(networks.generator("region", config), config, labels, torch.rand(1, 2, 3, *SIZE), labels)
    assert made.sum(2)[(labels == 0)[:, :, None].expand(-1, -1, 3, -1, -1)].abs().max() == 0


def test_real_regions_sum_to_the_foreground():
    labels, frames = torch.randint(0, 6, (1, 2, *SIZE)), torch.rand(1, 2, 3, *SIZE) * 2 - 1
    total = (frames[:, :, None] * rollout.region_masks(labels)).sum(2)
    assert torch.equal(total, frames * (labels > 0)[:, :, None])


@pytest.mark.parametrize("stage", ["layout", "region", "whole"])
def test_a_clip_in_pieces_equals_the_clip(stage):
    config = small_config()
    net = networks.generator(stage, config).eval()
    poses, labels = torch.rand(1, 5, 3, *SIZE), torch.randint(0, 6, (1, 5, *SIZE))
    images, background = torch.rand(1, 5, 3, *SIZE), torch.rand(1, 3, *SIZE)
    source = one_hot(torch.randint(0, 11, (1, *SIZE)), 11)

    def run(part, state):
        if stage == "layout":
            out, state = rollout.layouts(net, source, poses[:, part], state)
            return out.layout, state
        if stage == "region":
            return rollout.regions(net, config, labels[:, part], images[:, part], labels[:, part], state)
        out, state = rollout.whole(
            net, config, poses[:, part], labels[:, part], images[:, part], images[:, part], background, state
        )
        return out.image, state

    with torch.no_grad():
        whole, _ = run(slice(0, 5), None)
        first, state = run(slice(0, 2), None)
        second, state = run(slice(2, 3), state)
        third, _ = run(slice(3, 5), state)
    assert torch.allclose(torch.cat([first, second, third], 1), whole, atol=1e-4)


def test_refining_starts_from_the_coarse_foreground():
    config = small_config(refine_coarse=True)
    net = networks.generator("whole", config)
    torch.nn.init.zeros_(net.foreground[-1].conv.weight)
    labels, coarse = torch.randint(0, 2, (1, 2, *SIZE)), torch.rand(1, 2, 3, *SIZE)
    black = torch.full((1, 3, *SIZE), -1.0)
    out, _ = rollout.whole(net, config, torch.rand(1, 2, 3, *SIZE), labels, coarse, coarse, black)
    assert torch.equal(out.foreground, torch.where(labels[:, :, None] > 0, coarse, -1.0))


@pytest.mark.parametrize("raw", [True, False])
def test_the_first_frame_is_raw_only_if_asked(raw):
    net = networks.generator("layout", small_config(first_frame_raw=raw))
    out, _ = rollout.layouts(net, one_hot(torch.zeros(1, *SIZE, dtype=torch.int64), 11), torch.rand(1, 2, 3, *SIZE))
    assert torch.equal(out.layout[:, 0], out.raw[:, 0]) == raw
    assert not torch.equal(out.layout[:, 1], out.raw[:, 1])
    assert torch.allclose(out.raw.sum(2), torch.ones(1, 2, *SIZE), atol=1e-5)


def test_gradients_stop_at_the_memory():
    config = small_config()
    net = networks.generator("region", config)
    labels = torch.ones(1, 2, *SIZE, dtype=torch.int64)
    images = torch.rand(1, 2, 3, *SIZE, requires_grad=True)
    made, _ = rollout.regions(net, config, labels, images, labels)
    made[:, 1].sum().backward()
    assert images.grad[:, 0].abs().max() == 0
    assert images.grad[:, 1].abs().max() > 0


@pytest.mark.parametrize(("wcn", "given"), [(True, True), (False, False)])
def test_transfer_runs_all_stages(wcn, given):
    config = small_config(use_wcn=wcn)
    generators = {s: networks.generator(s, config).eval() for s in config.stages}
    labels = torch.randint(0, 11, (1, 3, *SIZE))
    background = torch.rand(1, 3, *SIZE)
    out, states = rollout.transfer(
        generators,
        config,
        torch.rand(1, 3, *SIZE),
        labels[:, 0],
        torch.rand(1, 3, 3, *SIZE),
        background,
        labels if given else None,
    )
    assert out.images.shape == (1, 3, 3, *SIZE)
    assert out.images.abs().max() <= 1
    assert out.labels.max() <= 5
    assert set(states) == set(config.stages) - ({"layout"} if given else set())


def test_transfer_in_bfloat16_where_the_device_has_it(monkeypatch):
    images = {}
    for name, precision, has in (
        ("exact", "float32", True),
        ("emulated", "bfloat16", False),
        ("half", "bfloat16", True),
    ):
        monkeypatch.setattr(devices, "has_bfloat16", lambda device, has=has: has)
        config = small_config(precision=precision)
        torch.manual_seed(0)
        generators = {s: networks.generator(s, config).eval() for s in config.stages}
        labels = torch.arange(11).repeat(24 * 3)[: 32 * 24].reshape(1, 1, *SIZE)
        given = (torch.rand(1, 3, *SIZE), labels[:, 0], torch.rand(1, 1, 3, *SIZE), torch.rand(1, 3, *SIZE), labels)
        images[name] = rollout.transfer(generators, config, *given)[0].images
    assert torch.equal(images["exact"], images["emulated"])
    assert 0 < (images["half"] - images["exact"]).abs().max() < 0.1


def test_transfer_names_the_stage_that_is_missing():
    config = small_config()
    with pytest.raises(ConfigError, match="no layout generator"):
        rollout.transfer(
            {}, config, torch.rand(1, 3, *SIZE), torch.zeros(1, *SIZE).long(), torch.rand(1, 1, 3, *SIZE), None
        )
