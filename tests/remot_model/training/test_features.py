from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from remot_data.assets import AssetError
from remot_data.assets.arrays import as_safetensors

torch = pytest.importorskip("torch")

from remot_model.training import features  # noqa: E402

# Shapes of torchvision's official vgg19 file, features and classifier.
_WIDTHS = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 16: 256}
_WIDTHS |= {i: 512 for i in (19, 21, 23, 25, 28, 30, 32, 34)}


def vgg19_state() -> dict[str, torch.Tensor]:
    state, channels = {}, 3
    for i, width in _WIDTHS.items():
        state[f"features.{i}.weight"] = torch.randn(width, channels, 3, 3) * (2 / (9 * channels)) ** 0.5
        state[f"features.{i}.bias"] = torch.zeros(width)
        channels = width
    return state | {"classifier.6.weight": torch.zeros(10, 20), "classifier.6.bias": torch.zeros(10)}


@pytest.fixture(scope="module")
def vgg19_file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "hub" / "checkpoints" / features.VGG19_FILE
    file.parent.mkdir(parents=True)
    torch.save(vgg19_state(), file)
    return file


@pytest.fixture(scope="module")
def vgg16_asset(tmp_path_factory) -> Path:
    """Weights of VGG-16 under the names and in the order of the asset."""
    rng, state, channels = np.random.default_rng(0), {}, 3
    for i, width in enumerate((64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)):
        scale = (2 / (9 * channels)) ** 0.5
        state[f"VGG16_0/Conv_{i}/kernel"] = (rng.standard_normal((3, 3, channels, width)) * scale).astype(np.float32)
        state[f"VGG16_0/Conv_{i}/bias"] = np.zeros(width, np.float32)
        channels = width
    file = tmp_path_factory.mktemp("weights") / "lpips-vgg16.safetensors"
    file.write_bytes(as_safetensors(state))
    return file


@pytest.fixture
def lite0_file(tmp_path) -> Path:
    torch.manual_seed(0)
    torch.save(features.EfficientNetLite0().state_dict(), tmp_path / "lite0.pth")
    return tmp_path / "lite0.pth"


def test_vgg19_takes_torchvisions_state_dict_and_gives_the_five_relus(vgg19_file):
    network = features.perceptual("vgg19", vgg19_file)
    assert network.name == "vgg19"
    assert network.digest == hashlib.sha256(vgg19_file.read_bytes()).hexdigest()
    assert network.weights == (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
    maps = network(torch.rand(2, 3, 64, 48) * 2 - 1)
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 64, 48), (128, 32, 24), (256, 16, 12), (512, 8, 6), (512, 4, 3)]
    assert all((m >= 0).all() for m in maps)


def test_vgg19_taps_follow_the_published_order_and_images_go_in_unnormalised(vgg19_file):
    network, state = features.perceptual("vgg19", vgg19_file), torch.load(vgg19_file, weights_only=True)
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    conv = torch.nn.functional.conv2d
    first = conv(x, state["features.0.weight"], state["features.0.bias"], padding=1).relu()
    second = conv(first, state["features.2.weight"], state["features.2.bias"], padding=1).relu()
    third = torch.nn.functional.max_pool2d(second, 2)
    third = conv(third, state["features.5.weight"], state["features.5.bias"], padding=1).relu()
    maps = network(x)
    torch.testing.assert_close(maps[0], first)
    torch.testing.assert_close(maps[1], third)


def test_layers_that_would_get_too_small_are_skipped(vgg19_file, lite0_file):
    for network in (features.perceptual("vgg19", vgg19_file), features.perceptual("efficientnet-lite0", lite0_file)):
        maps = network(torch.rand(1, 3, 12, 10))
        assert 0 < len(maps) < 5
        assert all(min(m.shape[-2:]) >= 2 for m in maps)


def test_features_stay_frozen_but_let_the_gradient_through(lite0_file):
    network = features.perceptual("efficientnet-lite0", lite0_file)
    network.train()
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    before = {k: v.clone() for k, v in network.state_dict().items()}
    images = torch.rand(1, 3, 64, 48, requires_grad=True)
    sum(m.mean() for m in network(images)).backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_auto_takes_vgg19_from_torchs_cache(vgg19_file, monkeypatch, caplog):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(vgg19_file.parent.parent))
    assert features.perceptual("auto").name == "vgg19"
    assert not caplog.records


def test_a_choice_can_name_its_weights(vgg19_file, lite0_file):
    assert features.perceptual(f"vgg19:{vgg19_file}").name == "vgg19"
    assert features.perceptual(f"efficientnet-lite0:{lite0_file}").name.startswith("efficientnet-lite0")


def test_auto_without_vgg19_names_its_stand_in(tmp_path, vgg16_asset, monkeypatch, caplog):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(features, "fetch", {"lpips-vgg16": vgg16_asset}.__getitem__)
    with caplog.at_level(logging.WARNING):
        network = features.perceptual("auto")
    assert [r for r in caplog.messages if "VGG-16, a stand-in" in r]
    assert network.name == "vgg16 (stand-in for VGG-19)"
    maps = network(torch.rand(2, 3, 64, 48) * 2 - 1)
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 64, 48), (128, 32, 24), (256, 16, 12), (512, 8, 6), (512, 4, 3)]
    assert len(network.weights) == len(maps)


def test_vgg16_is_read_out_of_the_asset_and_out_of_torchvisions_file(tmp_path, vgg16_asset):
    network = features.perceptual(f"vgg16:{vgg16_asset}")
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    state = safetensors.torch.load_file(vgg16_asset)
    kernel, bias = (state[f"VGG16_0/Conv_0/{name}"] for name in ("kernel", "bias"))
    first = torch.nn.functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=1).relu()
    maps = network(x)
    torch.testing.assert_close(maps[0], first)
    official = {**network.body.state_dict(), "features.26.weight": torch.zeros(1), "classifier.0.bias": torch.zeros(1)}
    torch.save(official, tmp_path / "vgg16.pth")
    for a, b in zip(features.perceptual(f"vgg16:{tmp_path / 'vgg16.pth'}")(x), maps, strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_the_published_vgg16_knows_what_it_sees():
    """Its features tell a cat with noise from another picture: they are those of a trained network."""
    from skimage import data

    try:
        network = features.perceptual("vgg16")
    except AssetError as error:
        pytest.skip(str(error))

    def deep(image):
        x = torch.from_numpy(image[:224, :224].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        return network(x)[-1].flatten()

    cat, cup = data.chelsea(), data.coffee()
    darker = cat // 2
    alike, other = (torch.cosine_similarity(deep(cat), deep(x), 0) for x in (darker, cup))
    assert alike > 2 * other


def test_vgg19_demanded_but_absent_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(features.FeatureError, match=rf"{features.VGG19_FILE}.*{tmp_path}"):
        features.perceptual("vgg19")


def test_wrong_files_are_refused(tmp_path, lite0_file):
    with pytest.raises(features.FeatureError, match="does not hold the weights of vgg19"):
        features.perceptual("vgg19", lite0_file)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(features.FeatureError, match="does not hold the weights of efficientnet"):
        features.perceptual("efficientnet-lite0", tmp_path / "text.pth")
    with pytest.raises(features.FeatureError, match="no weights file"):
        features.perceptual("vgg19", tmp_path / "absent.pth")
    with pytest.raises(features.FeatureError, match="known: auto"):
        features.perceptual("alexnet")


def test_lite0_is_the_published_architecture():
    network = features.EfficientNetLite0()
    assert sum(p.numel() for p in network.parameters()) == 4_652_008
    assert len(network.state_dict()) == 296
    # TensorFlow's SAME padding is uneven at stride 2: nothing on the left, one on the right.
    conv = features._conv(1, 1, 3, 2)
    torch.nn.init.ones_(conv.weight)
    out = conv(torch.ones(1, 1, 4, 4))[0, 0]
    assert out.tolist() == [[9.0, 6.0], [6.0, 4.0]]
