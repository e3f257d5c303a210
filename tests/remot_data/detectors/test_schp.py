"""SCHP: the official names and shapes against a table of their own, the norm's rule, the way in and the way back."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from remot_data import assets, media  # noqa: E402
from remot_data.detectors import _torch, base, schp  # noqa: E402
from remot_data.detectors._schp_network import AugmentedCE2P, LeakyNorm  # noqa: E402
from remot_data.detectors.base import Detector, DetectorError, load  # noqa: E402
from remot_data.detectors.schp import SCHP, as_batch_norm, prepared, to_frame, to_input  # noqa: E402
from remot_data.schemas import LABELS  # noqa: E402
from tests.remot_data.detectors.company import assert_company_changes_nothing  # noqa: E402

PARAMETERS = {18: 66_722_900, 20: 66_723_928}  # weights and biases, as docs/detectors.md says


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(base.BUILTIN, "schp", base.Entry("parsing", "remot_data.detectors.schp:SCHP", extra="train"))


def official_shapes(classes: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an official checkpoint, written down from the published architecture."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (width,)

    def conv_norm(conv: str, norm_: str, out: int, inside: int, kernel: int) -> None:
        shapes[f"{conv}.weight"] = (out, inside, kernel, kernel)
        norm(norm_, out)

    for i, (inside, out) in enumerate([(3, 64), (64, 64), (64, 128)], 1):
        conv_norm(f"conv{i}", f"bn{i}", out, inside, 3)
    inside = 128
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 23), (512, 3)], 1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            conv_norm(f"{at}.conv1", f"{at}.bn1", width, inside, 1)
            conv_norm(f"{at}.conv2", f"{at}.bn2", width, width, 3)
            conv_norm(f"{at}.conv3", f"{at}.bn3", 4 * width, width, 1)
            if block == 0:
                conv_norm(f"{at}.downsample.0", f"{at}.downsample.1", 4 * width, inside, 1)
            inside = 4 * width
    for i in range(4):
        conv_norm(f"context_encoding.stages.{i}.1", f"context_encoding.stages.{i}.2", 512, 2048, 1)
    conv_norm("context_encoding.bottleneck.0", "context_encoding.bottleneck.1", 512, 2048 + 4 * 512, 3)
    for i, inside in enumerate([256, 512, 1024], 1):
        conv_norm(f"edge.conv{i}.0", f"edge.conv{i}.1", 256, inside, 1)
    shapes |= {"edge.conv4.weight": (2, 256, 3, 3), "edge.conv4.bias": (2,)}
    shapes |= {"edge.conv5.weight": (2, 6, 1, 1), "edge.conv5.bias": (2,)}
    conv_norm("decoder.conv1.0", "decoder.conv1.1", 256, 512, 1)
    conv_norm("decoder.conv2.0", "decoder.conv2.1", 48, 256, 1)
    conv_norm("decoder.conv3.0", "decoder.conv3.1", 256, 304, 1)
    conv_norm("decoder.conv3.2", "decoder.conv3.3", 256, 256, 1)
    shapes |= {"decoder.conv4.weight": (classes, 256, 1, 1), "decoder.conv4.bias": (classes,)}
    conv_norm("fushion.0", "fushion.1", 256, 1024, 1)
    shapes |= {"fushion.3.weight": (classes, 256, 1, 1), "fushion.3.bias": (classes,)}
    return shapes


def random_state(classes: int, full: bool = False) -> dict[str, torch.Tensor]:
    """Tensors of an official checkpoint, some norms with scales below 0.

    A tensor is one random number of its own, repeated without taking memory, which tells keys apart as well as full
    tensors do. `full` gives convolutions of He's size instead, so that the network can be run.
    """
    generator = torch.Generator().manual_seed(classes)
    state = {}
    for name, shape in official_shapes(classes).items():
        tensor = torch.randn(shape if full else (1,) * len(shape), generator=generator)
        if len(shape) == 4:
            tensor *= (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        elif name.endswith("running_var"):
            tensor = 1 + tensor.abs()
        elif name.endswith(".weight"):
            tensor = 0.5 + 0.5 * tensor
        state[f"module.{name}"] = tensor.expand(shape)
    return state


@pytest.fixture(scope="module", params=[18, 20])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """A file as the authors' training script writes it, the one for ATR in the format of torch before 1.6."""
    path = tmp_path_factory.mktemp("schp") / f"{request.param}.pth"
    content = {"epoch": 150, "state_dict": random_state(request.param)}
    torch.save(content, path, _use_new_zipfile_serialization=request.param == 20)
    return request.param, path


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    decoded = [image for (_, image), _ in zip(media.read(assets.fetch("sample-cam02")), range(3), strict=False)]
    return np.stack([cv2.resize(image, (192, 256), interpolation=cv2.INTER_AREA) for image in decoded])


def save(tmp_path: Path, state: Mapping[str, torch.Tensor]) -> Path:
    torch.save({"state_dict": dict(state)}, tmp_path / "some.pth")
    return tmp_path / "some.pth"


@pytest.mark.parametrize("classes", [18, 20])
def test_the_network_has_the_official_tensors(classes: int) -> None:
    with torch.device("meta"):
        network = AugmentedCE2P(classes)
    have = {k: tuple(t.shape) for k, t in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert have == official_shapes(classes)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[classes]


def test_which_norms_are_leaky() -> None:
    with torch.device("meta"):
        network = AugmentedCE2P(18)
    leaky = {name for name, module in network.named_modules() if isinstance(module, LeakyNorm)}
    norms = {name for name, module in network.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert all(name.startswith(("context_encoding", "edge", "decoder", "fushion")) for name in leaky)
    assert all(name.startswith(("bn", "layer")) for name in norms - leaky)
    assert len(leaky) == 4 + 1 + 3 + 4 + 1


def test_every_key_of_an_official_file_is_taken(checkpoint: tuple[int, Path]) -> None:
    classes, path = checkpoint
    detector = load("schp", weights=str(path), settings={"device": "cpu"})
    assert isinstance(detector, Detector) and isinstance(detector, SCHP)
    assert (detector.schema, len(LABELS[detector.schema])) == ({18: "atr18", 20: "lip20"}[classes], classes)
    assert detector.model == {18: "atr", 20: "lip"}[classes]
    loaded = {k: t for k, t in detector._network.state_dict().items() if not k.endswith("num_batches_tracked")}
    official = {k.removeprefix("module."): t for k, t in random_state(classes).items()}
    assert loaded.keys() == official.keys()
    for key, tensor in official.items():
        norm = key.removesuffix("weight") + "running_mean" in official and key.endswith("weight")
        assert torch.equal(loaded[key], tensor.abs() + 1e-5 if norm else tensor), key


def test_a_norm_scales_by_the_size_of_its_weight() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 4, 5, 5, generator=generator)
    state = {
        "weight": torch.tensor([-2.0, 0.0, 0.5, -1e-3]),
        "bias": torch.randn(4, generator=generator),
        "running_mean": torch.randn(4, generator=generator),
        "running_var": torch.rand(4, generator=generator) + 0.5,
    }
    norm = LeakyNorm(4)
    norm.load_state_dict(as_batch_norm(state))
    mean, var, gamma, beta = (
        t[:, None, None]
        for t in (state["running_mean"], state["running_var"], state["weight"].abs() + 1e-5, state["bias"])
    )
    wanted = (x - mean) / (var + 1e-5).sqrt() * gamma + beta
    wanted = torch.where(wanted < 0, 0.01 * wanted, wanted)
    torch.testing.assert_close(norm.eval()(x.clone()), wanted)
    plain = LeakyNorm(4)
    plain.load_state_dict(state)
    assert (plain.eval()(x.clone()) - wanted).abs().max() > 0.5


def test_the_sign_of_a_scale_does_not_matter() -> None:
    state = random_state(18)
    flipped = {
        k: -t if k.endswith("weight") and k.removesuffix("weight") + "running_mean" in state else t
        for k, t in state.items()
    }
    states = [as_batch_norm({k.removeprefix("module."): t for k, t in s.items()}) for s in (state, flipped)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_the_way_to_the_input_and_back() -> None:
    image = np.zeros((256, 192, 3), np.uint8)
    cv2.ellipse(image, (80, 120), (40, 90), 20, 0, 360, (255, 128, 64), -1)
    cv2.rectangle(image, (150, 200), (191, 255), (40, 200, 250), -1)
    image = cv2.GaussianBlur(image, (0, 0), 2)
    for size in (512, 473):
        inputs = prepared(torch.from_numpy(image[None]), size)
        assert inputs.shape == (1, 3, size, size) and inputs.dtype == torch.float32
        bgr = inputs.permute(0, 2, 3, 1).numpy() * np.float32(schp._STD) + np.float32(schp._MEAN)
        back = to_frame(torch.from_numpy(bgr).permute(0, 3, 1, 2), 256, 192)[0].permute(1, 2, 0).numpy()[..., ::-1]
        # OpenCV rounds to parts of a pixel; at a border that mixes in a little of the black outside.
        error = np.abs(back * 255 - image)
        assert error[1:-1, 1:-1].max() < 3 and error.max() < 32
        # The sides of the square that the frame does not reach are black.
        assert np.allclose(bgr[0, :, : size // 8 - 2], 0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(256, 192), (192, 256), (64, 64), (1, 1)])
def test_the_corner_pixels_meet(height: int, width: int) -> None:
    matrix = to_input(height, width, 473)
    longer = max(height, width)
    ends = matrix @ np.array([[0, 0, 1], [width - 1, height - 1, 1]]).T
    along = ends[0] if width >= height else ends[1]
    if longer > 1:
        assert np.allclose(along, [0, 472])
    assert np.allclose(ends.mean(1), 236)


def test_normalisation_is_in_bgr() -> None:
    red = np.full((1, 8, 8, 3), (255, 0, 0), np.uint8)
    assert np.allclose(
        prepared(torch.from_numpy(red), 16)[0, :, 8, 8], [-0.406 / 0.225, -0.456 / 0.224, (1 - 0.485) / 0.229]
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("classes", [18, 20])
def test_labels_of_real_frames(classes: int, tmp_path: Path, frames: np.ndarray) -> None:
    state = random_state(classes, full=True)
    detector = SCHP(weights=save(tmp_path, state), device="cpu", batch=2)
    with torch.inference_mode():
        inputs = prepared(torch.from_numpy(frames[:1]), schp.MODELS[detector.model].size)
        logits = detector._network(inputs)
        side = -(-inputs.shape[-1] // 4)
        assert logits.shape == (1, classes, side, side)
        # Random features hardly vary over an image: without their mean every pixel would get the same label.
        detector._network.fushion[3].bias -= logits.mean((0, 2, 3))
    labels = detector(frames)["labels"]
    assert labels.shape == frames.shape[:3] and labels.dtype == np.uint8
    assert labels.max() < classes and len(np.unique(labels)) > 3
    assert (labels[2] == detector(frames[2:])["labels"]).all()
    if classes == 18:
        assert_company_changes_nothing(detector, frames[:2])


def test_fingerprint(checkpoint: tuple[int, Path], tmp_path: Path) -> None:
    classes, path = checkpoint
    one = SCHP(weights=path, device="cpu", batch=1).fingerprint()
    assert one == SCHP(weights=path, device="cpu", batch=7).fingerprint()
    half = SCHP(weights=path, device="cpu", precision="bfloat16").fingerprint()
    assert half == one | {"settings": {"precision": "bfloat16"}}
    state = random_state(classes)
    state["module.fushion.3.bias"] = state["module.fushion.3.bias"] + 1
    other = SCHP(weights=save(tmp_path, state), device="cpu").fingerprint()
    assert one["weights"] != other["weights"] and one | {"weights": ""} == other | {"weights": ""}


def test_no_frames(checkpoint: tuple[int, Path]) -> None:
    empty = np.zeros((0, 256, 192, 3), np.uint8)
    assert SCHP(weights=checkpoint[1], device="cpu")(empty)["labels"].shape == (0, 256, 192)


def refusal(**settings: object) -> str:
    with pytest.raises(DetectorError) as caught:
        SCHP(device="cpu", **settings)
    return str(caught.value)


def test_the_other_label_set_is_refused(checkpoint: tuple[int, Path]) -> None:
    classes, path = checkpoint
    wanted, found = ("lip", "atr") if classes == 18 else ("atr", "lip")
    said = refusal(model=wanted, weights=path)
    assert f"makes {classes} labels" in said and f"for {found.upper()}" in said and f"schp:{found}" in said
    assert schp.MODELS[wanted].file in said


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.pth"
    text.write_bytes(b"not a checkpoint")
    assert "cannot be read as a file of tensors" in refusal(weights=text)
    torch.save([1, 2], tmp_path / "list.pth")
    assert "no tensors under 'state_dict'" in refusal(weights=tmp_path / "list.pth")
    assert "there is no weights file" in refusal(weights=tmp_path / "absent.pth")
    said = refusal()
    assert "needs its weights" in said and "atr.pth" in said and "lip.pth" in said
    assert "no model 'pascal'" in refusal(model="pascal", weights=text)
    assert "at least 1" in refusal(weights=text, batch=0)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return builtins.exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"state_dict": {}, "trap": Trap()}, tmp_path / "trap.pth")
    assert "cannot be read as a file of tensors" in refusal(weights=tmp_path / "trap.pth")
    assert not (tmp_path / "ran").exists()


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = random_state(18)
    bias = state.pop("module.layer3.22.bn3.bias")
    state["module.extra"] = bias
    state["module.conv1.weight"] = torch.zeros(64, 3, 7, 7)
    said = refusal(weights=save(tmp_path, state))
    assert "1 missing (layer3.22.bn3.bias)" in said
    assert "1 not of this network (extra)" in said and "1 of another shape (conv1.weight)" in said
    del state["module.fushion.3.weight"]
    assert "lacks 'fushion.3.weight'" in refusal(weights=save(tmp_path, state))
    state["module.fushion.3.weight"] = torch.zeros(7, 256, 1, 1)
    assert "makes 7 labels; supported are 18 (ATR) and 20 (LIP)" in refusal(weights=save(tmp_path, state))


def test_without_torch_the_way_to_get_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.split(".")[0] == "torch":
            raise ImportError("No module named 'torch'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DetectorError, match=r"needs a library that is not installed .*pip install \"remot\[train\]\""):
        load("schp", weights=str(tmp_path / "any.pth"))


def test_devices(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    _torch._warn_of_cpu.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert [_torch.choose_device(None, "schp", "a minute a frame") for _ in range(2)] == ["cpu", "cpu"]
        assert _torch.choose_device("cpu", "schp", "") == "cpu"
    assert (
        [r.getMessage() for r in caplog.records].count(
            "schp runs on the CPU, since torch sees no CUDA device: expect a minute a frame"
        )
        == len(caplog.records)
        == 1
    )
    for wanted in ("cuda", "cuda:1"):
        with pytest.raises(DetectorError, match="sees 0 CUDA devices.*device=cpu"):
            _torch.choose_device(wanted, "schp", "")
    for wanted in ("gpu", "cpu:1", "cuda:", "cuda:x"):
        with pytest.raises(DetectorError, match="there is no device"):
            _torch.choose_device(wanted, "schp", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [_torch.choose_device(d, "schp", "") for d in (None, "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
