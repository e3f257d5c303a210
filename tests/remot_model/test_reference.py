"""The package against the equations written down plainly (`reference.py`): batching and reuse change no number."""

from __future__ import annotations

import pytest
import torch

from remot_data.reading.stream import to_torch
from remot_model import networks
from remot_model.generating import rollout
from remot_model.generating.rollout import convert_labels, one_hot
from remot_model.networks.whole import texture_alignment
from remot_model.training.losses import Pair, judge
from remot_model.training.stages import STAGES, Chunk, Setting
from tests.remot_model import reference
from tests.remot_model.windows import Windows, clip_arrays, small_config

SIZE = (64, 48)


@pytest.fixture(scope="module")
def batch():
    """Two windows of three frames of two drawn dancers; the region "shoes" is absent from the second."""
    rows = [to_torch(Windows(clip_arrays(3, SIZE, seed), 3).window(0)) for seed in (0, 1)]
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    batch["source_labels"] = batch["labels"].flip(1)[:, 0].clone()  # another pose than the first
    for name in ("labels", "source_labels"):
        for shoe in (5, 6):
            batch[name][1][batch[name][1] == shoe] = 0
    return batch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def frames_of(x):
    return [x[:, t] for t in range(x.shape[1])]


def close(a, b, limit=1e-5):
    assert (a - b).abs().max() <= limit * max(1.0, float(b.abs().max()))


def aligned_to(config, batch):
    six = convert_labels(batch["labels"], "remot11", "remot6")
    source = convert_labels(batch["source_labels"], "remot11", "remot6")
    return six, rollout.align_clip(config, batch["source"], source, six)


@pytest.mark.parametrize("fields", [{}, {"layout_classes": 6, "first_frame_raw": False}])
@pytest.mark.parametrize("pieces", [[3], [1, 2]])
def test_layouts(batch, fields, pieces):
    config = small_config(size=SIZE, **fields)
    net = networks.generator("layout", config).eval()
    k = config.layout_classes
    source = one_hot(convert_labels(batch["source_labels"], "remot11", config.layout_schema), k)
    with torch.no_grad():
        expected = reference.layouts(net, config, source, frames_of(batch["pose_map"]))
        state, t = None, 0
        for length in pieces:
            out, state = rollout.layouts(net, source, batch["pose_map"][:, t : t + length], state)
            for i in range(length):
                for name, value in expected[t + i].items():
                    close(getattr(out, name)[:, i], value)
            t += length


@pytest.mark.parametrize(
    "fields",
    [
        {"crop_regions": False},
        {"crop_regions": "sizes"},
        {"mask_frames": 1},
        {"clip_regions": True},
        {"crop_parts": True},
        {},
    ],
)
def test_regions(batch, fields):
    config = small_config(size=SIZE, **{"clip_regions": False, **fields})
    net = networks.generator("region", config).eval()
    six, moved = aligned_to(config, batch)
    with torch.no_grad():
        made, _ = rollout.regions(net, config, six, moved.image, moved.labels)
        for n in range(2):
            for i in range(1, 6):
                masks, source_masks = ([(x == i)[None, None].float() for x in y[n]] for y in (six, moved.labels))
                images = [x[None] for x in moved.image[n]]
                expected = reference.region(net, config, masks, images, source_masks)
                close(made[n, :, i - 1], torch.cat(expected))
    if config.crop_regions:
        assert made[1, :, 4].abs().max() == 0  # absent
        assert made[0, :, 4].abs().max() > 0
        crops = rollout.region_crops(config, six, moved.labels)
        assert any(len({crop.map for crop in frame}) < len(frame) for frame in crops) == config.crop_parts
        sizes = {(crop.height, crop.width) for frame in crops for crop in frame}
        few = {(16, 24), (32, 24), (32, 48), (64, 24), (64, 48)}
        assert len(sizes) > 1 and (sizes <= few) == (config.crop_regions == "sizes")


@pytest.mark.parametrize(
    "fields", [{}, {"use_tam": False, "refine_coarse": False}, {"background_hole": False, "tau": 0.1}]
)
def test_whole(batch, fields):
    config = small_config(size=SIZE, **fields)
    net = networks.generator("whole", config).eval()
    six, moved = aligned_to(config, batch)
    coarse = torch.rand_like(moved.image)
    with torch.no_grad():
        out, _ = rollout.whole(net, config, batch["pose_map"], six, coarse, moved.image, batch["background"])
        for n in range(2):
            layouts = [one_hot(x[None], 6) for x in six[n]]
            poses, regions, source = ([x[None] for x in y[n]] for y in (batch["pose_map"], coarse, moved.image))
            expected = reference.whole(net, config, poses, layouts, regions, source, batch["background"][n : n + 1])
            for t, frame in enumerate(expected):
                for name, value in frame.items():
                    close(getattr(out, name)[n, t], value[0])


class Blurred(torch.nn.Module):
    """Stands in for perceptual features: the image at half and quarter size."""

    weights = (0.5, 1.0)

    def forward(self, images):
        return [torch.nn.functional.avg_pool2d(images, n) for n in (2, 4)]


def compare(stage, net, judges, config, batch, expected):
    """Losses and gradients of generator and discriminators of the package's stage against those of the reference."""
    t = batch["frames"].shape[1]
    chunk = Chunk(stage.prepare(batch), 0, t, 0)
    out, _ = stage.roll(net, chunk, None)
    losses, pairs = stage.losses(chunk, out, stage.made(out))
    found, d = dict(losses), torch.zeros(())
    for name, pair in pairs.items():
        judgement = judge(judges[name], pair, config)
        found[f"gan_{name}"] = pair.weight * config.lambda_gan * judgement.gan
        found[f"feat_{name}"] = pair.weight * config.lambda_feat * judgement.feat
        d = d + judgement.d
    terms, d_loss = expected
    assert {k: v.item() for k, v in found.items()} == pytest.approx({k: v.item() for k, v in terms.items()}, rel=1e-4)
    assert d.item() == pytest.approx(d_loss.item(), rel=1e-4)
    for of_package, of_reference, network in ((sum(found.values()), sum(terms.values()), net), (d, d_loss, judges)):
        weights = [p for p in network.parameters() if p.requires_grad]
        a, b = (
            torch.cat([g.flatten() for g in torch.autograd.grad(x, weights, retain_graph=True)])
            for x in (of_package, of_reference)
        )
        # Rounding decides the sign of a difference near 0, so single numbers differ more than all together.
        assert (a - b).norm() <= 0.01 * b.norm()


@pytest.fixture(scope="module")
def clip():
    """A window of seven frames, which is what the wider temporal discriminator needs; no head in the third frame."""
    batch = {name: x[None] for name, x in to_torch(Windows(clip_arrays(7, SIZE, 2), 7).window(0)).items()}
    batch["source_labels"] = batch["labels"][:, 4].clone()
    third = batch["labels"][:, 2]
    third[(third == 3) | (third == 4)] = 0
    return batch


def plain(clip, labels):
    names = {"poses": "pose_map", "frames": "frames", "flow": "flow", "stored": "confidence"}
    return {"labels": labels[0], **{name: clip[key][0] for name, key in names.items()}}


@pytest.mark.parametrize("classes", [6, 11])
def test_losses_and_gradients_of_the_layout_stage(clip, classes):
    config = small_config(size=SIZE, layout_classes=classes)
    net, judges = networks.generator("layout", config), networks.discriminators("layout", config)
    labels, source = (convert_labels(clip[n], "remot11", config.layout_schema) for n in ("labels", "source_labels"))
    given = (one_hot(source, classes), plain(clip, labels))
    expected = reference.layout_losses(net, judges, config, *given)
    assert len(expected[0]) == 12
    compare(STAGES["layout"](Setting(config)), net, judges, config, clip, expected)


@pytest.mark.parametrize(("crop", "parts"), [(True, False), (True, True), ("sizes", False), (False, False)])
def test_losses_and_gradients_of_the_region_stage(batch, crop, parts):
    config = small_config(size=SIZE, crop_regions=crop, crop_parts=parts, clip_regions=False, lambda_per=10.0)
    net, judges = networks.generator("region", config), networks.discriminators("region", config)
    one = {name: x[:1] for name, x in batch.items()}
    six, moved = aligned_to(config, one)
    arguments = (six[0], one["frames"][0], moved.image[0], moved.labels[0], Blurred())
    expected = reference.region_losses(net, judges["image"], config, *arguments)
    compare(STAGES["region"](Setting(config, Blurred())), net, judges, config, one, expected)


def test_losses_and_gradients_of_the_whole_stage(clip):
    config = small_config(size=SIZE, lambda_per=10.0, lambda_image=0.0)
    region = networks.generator("region", config).requires_grad_(False)
    net, judges = networks.generator("whole", config), networks.discriminators("whole", config)
    six, moved = aligned_to(config, clip)
    with torch.no_grad():
        parts, _ = rollout.regions(region, config, six, moved.image, moved.labels)
    given = {**plain(clip, six), "coarse": parts[0].sum(1), "aligned": moved.image[0]}
    expected = reference.whole_losses(net, judges, config, given, clip["background"], Blurred())
    assert len(expected[0]) == 16
    compare(STAGES["whole"](Setting(config, Blurred(), {"region": region})), net, judges, config, clip, expected)


def test_one_pass_of_a_discriminator_equals_separate_ones():
    config = small_config()
    net = networks.discriminators("whole", config)["image"]
    real, final, raw = (torch.rand(2, 15, *SIZE) for _ in range(3))
    found = judge(net, Pair(real, (final, raw)), config)
    gan, feat = reference.generator_gan_loss(net, real, [final, raw], config)
    assert found.d.item() == pytest.approx(reference.discriminator_loss(net, real, [final, raw]).item(), rel=1e-5)
    assert (found.gan.item(), found.feat.item()) == pytest.approx((gan.item(), feat.item()), rel=1e-5)


@pytest.mark.parametrize("tau", [1.0, 0.05])
def test_attention_keeps_no_matrix_and_equals_the_plain_softmax(tau):
    """At the size of the paper, 768 positions of 512 channels; the fused CPU kernel is the one that runs."""
    generated, source = torch.randn(2, 1, 512, 32, 24).unbind()
    with torch.profiler.profile(profile_memory=True) as profile, torch.no_grad():
        found = texture_alignment(generated, source, tau)
    close(found, reference.attention(generated, source, tau))
    names = {event.key for event in profile.key_averages()}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest < 768 * 768 * 4


@pytest.mark.parametrize(
    "fields", [{"channels_last": True}, pytest.param({"compile": True}, marks=pytest.mark.slow)], ids=str
)
def test_switches_that_change_no_number(batch, fields):
    """Another memory layout and compiled blocks: the same weights under the same names, the same pictures."""
    made = []
    for chosen in ({}, fields):
        config = small_config(size=SIZE, **chosen)
        assert config.digest() == small_config(size=SIZE).digest()
        torch.manual_seed(0)
        net = networks.generator("region", config).eval()
        if config.compile:
            torch._dynamo.reset()
            networks.compiled(net)
        six, moved = aligned_to(config, batch)
        with torch.no_grad():
            made.append((list(net.state_dict()), rollout.regions(net, config, six, moved.image, moved.labels)[0]))
    assert made[0][0] == made[1][0]
    close(made[1][1], made[0][1])
