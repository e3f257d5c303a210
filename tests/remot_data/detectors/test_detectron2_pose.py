"""detectron2: choosing the person and reading weights without it, the networks with random weights where it is."""

from __future__ import annotations

import builtins
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from remot_data import assets, media  # noqa: E402
from remot_data.detectors import base, detectron2_pose  # noqa: E402
from remot_data.detectors._network import Runner  # noqa: E402
from remot_data.detectors.base import Detector, DetectorError, landed, load  # noqa: E402
from remot_data.detectors.detectron2_pose import (  # noqa: E402
    KEYPOINTS,
    MASKS,
    Detectron2Pose,
    best_match,
    largest,
    read_weights,
)
from tests.remot_data.detectors.company import assert_company_changes_nothing  # noqa: E402


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = base.Entry("pose", "remot_data.detectors.detectron2_pose:Detectron2Pose")
    monkeypatch.setitem(base.BUILTIN, "detectron2", entry)


def test_the_largest_persons() -> None:
    assert largest(torch.zeros(0, 4), 2) == [None, None]
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 5, 50, 90], [0, 0, 90, 20]])
    assert largest(boxes, 2) == [1, 2] and largest(boxes, 4) == [1, 2, 0, None]
    assert len(largest(boxes)) == 8


def test_the_person_is_the_largest_or_that_of_the_track() -> None:
    detector = Detectron2Pose.__new__(Detectron2Pose)
    detector.threshold, detector._masks = 0.0, None
    people = np.zeros((3, 8, 4), np.float32)
    people[:2, 0], people[:2, 1] = (40, 10, 80, 90), (5, 10, 30, 90)
    keypoints = np.zeros((3, 8, 17, 3), np.float32)
    keypoints[:, 0], keypoints[:, 1] = (60, 50, 0.9), (18, 50, 0.8)
    outputs = {"boxes": people, "keypoints": keypoints * (people.any(-1)[..., None, None])}
    frames = np.zeros((3, 100, 100, 3), np.uint8)
    assert detector.join(frames, outputs)["keypoints"][:, 0, 0].tolist() == [60, 60, 0]
    own = np.array([(4, 9, 31, 92), (90, 80, 99, 99), (4, 9, 31, 92)], np.float32)
    boxes = {"own": own, "others": np.full((3, 1, 4), (40, 10, 80, 90), np.float32)}
    assert detector.join(frames, outputs, boxes=boxes)["keypoints"][:, 0, 0].tolist() == [18, 0, 0]
    assert detector.join(frames[:0], {}, boxes={n: b[:0] for n, b in boxes.items()})["keypoints"].shape == (0, 17, 3)


def test_the_mask_of_the_same_person() -> None:
    box = torch.tensor([10.0, 10, 50, 90])
    boxes = torch.tensor([[0.0, 0, 200, 200], [12, 8, 52, 88], [100, 100, 150, 190]])
    assert best_match(box, boxes) == 1
    assert best_match(box, boxes[[0, 2]]) is None
    assert best_match(box, boxes[:0]) is None


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_file_of_the_zoo_is_read(tmp_path: Path, protocol: int) -> None:
    arrays = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b.num": np.array(3)}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}, protocol=protocol))
    state = read_weights(path, "some")
    assert state.keys() == arrays.keys() and all(np.array_equal(state[k].numpy(), arrays[k]) for k in arrays)
    torch.save({"model": {"a": torch.ones(2)}, "iteration": 5}, tmp_path / "trained.pth")
    assert torch.equal(read_weights(tmp_path / "trained.pth", "some")["a"], torch.ones(2))


class Marks:
    """Unpickling it leaves a trace."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return builtins.exec, (f"open({self.path!r}, 'w')",)


def test_what_is_no_file_of_weights(tmp_path: Path) -> None:
    def refusal(name: str, content: bytes | None) -> str:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DetectorError) as caught:
            read_weights(tmp_path / name, "some")
        return str(caught.value)

    trap = pickle.dumps({"model": {"a": Marks(str(tmp_path / "ran"))}})
    assert "names builtins.exec, which is no array" in refusal("trap.pkl", trap)
    assert not (tmp_path / "ran").exists()
    assert "is no file of arrays" in refusal("text.pkl", b"text") and "is no file of arrays" in refusal("none.pkl", b"")
    assert "holds no arrays by name under 'model'" in refusal("list.pkl", pickle.dumps([1, 2]))
    assert "holds no arrays by name under 'model'" in refusal("blobs.pkl", pickle.dumps({"blobs": {"a": 1}}))
    assert "there is no weights file" in refusal("absent.pkl", None)
    assert "there is no weights file" in refusal("absent.pth", None)
    assert "cannot be read as a file of tensors" in refusal("text.pth", b"text")


def test_without_the_library_the_way_to_get_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = detectron2_pose.importlib.import_module

    def without(name: str, package: str | None = None) -> object:
        if name.split(".")[0] == "detectron2":
            raise ImportError(f"No module named {name!r}")
        return real(name, package)

    monkeypatch.setattr(detectron2_pose.importlib, "import_module", without)
    with pytest.raises(
        DetectorError, match=r"not installed \(No module named 'detectron2'; docker/detectron2.sh installs"
    ):
        load("detectron2")


# From here on with the library.


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    decoded = [image for (_, image), _ in zip(media.read(assets.fetch("sample-cam02")), range(3), strict=False)]
    return np.stack([cv2.resize(image, (192, 256), interpolation=cv2.INTER_AREA) for image in decoded])


def random_weights(model: str, makes: str, path: Path) -> Path:
    """Random weights of a network of the zoo in a file as the zoo has it.

    The backbone's norms do not follow its features, which would grow without bound: the last of each block damps them.
    """
    d2 = detectron2_pose.library()
    config = detectron2_pose.configured(d2, model, makes)
    config.MODEL.DEVICE, config.MODEL.WEIGHTS = "cpu", ""
    torch.manual_seed(1)
    state = d2.build_model(config).state_dict()
    for key, tensor in state.items():
        if key.endswith("conv3.norm.weight"):
            tensor *= 0.1
        elif key.endswith("stem.conv1.norm.weight"):
            tensor *= 0.02
        elif key.endswith("mask_head.predictor.weight"):
            tensor *= 100
        elif key.endswith("cls_score.bias"):
            tensor[0] += 3  # everything is a person
    arrays = {key: tensor.numpy() for key, tensor in state.items()} | {"pixel_mean": np.zeros(3, np.float32)}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "nobody"}, protocol=2))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    pytest.importorskip("detectron2")
    folder = tmp_path_factory.mktemp("detectron2")
    return (
        random_weights(KEYPOINTS, "keypoints", folder / "keypoints.pkl"),
        random_weights(MASKS, "masks", folder / "masks.pkl"),
    )


def few_people(network: detectron2_pose.Network) -> None:
    """Random weights find people everywhere, and each costs; the best three are enough."""
    network._network.roi_heads.box_predictor.test_topk_per_image = 3


@pytest.mark.slow
@pytest.mark.detectors
def test_keypoints_and_mask_of_real_frames(
    weights: tuple[Path, Path], frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The people that two networks of random weights find have nothing to do with each other.
    monkeypatch.setattr(detectron2_pose, "_SAME", 0.0)
    settings = {"mask": True, "mask_weights": str(weights[1]), "device": "cpu", "size": 128, "score": 0.0}
    detector = load("detectron2", weights=str(weights[0]), settings={**settings, "threshold": 0.0, "batch": 2})
    assert isinstance(detector, Detector)
    few_people(detector._people)
    few_people(detector._masks)
    found = detector(frames)
    keypoints, mask = found["keypoints"], found["mask"]
    assert keypoints.shape == (3, 17, 3) and keypoints.dtype == np.float32
    assert mask.shape == (3, 256, 192) and mask.dtype == np.uint8
    seen = keypoints[..., 2] > 0
    assert seen.any() and not keypoints[~seen].any()
    assert ((keypoints[..., :2] >= 0) & (keypoints[..., :2] < (192, 256))).all() and keypoints[..., 2].max() <= 1
    assert len(np.unique(mask)) > 2
    for key, single in detector(frames[2:]).items():
        assert np.array_equal(single, found[key][2:]), key
    assert_company_changes_nothing(detector, frames)
    assert {key: array.shape for key, array in detector(frames[:0]).items()} == {
        "keypoints": (0, 17, 3),
        "mask": (0, 256, 192),
    }


@pytest.mark.slow
@pytest.mark.detectors
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_card_finds_what_the_processor_finds(weights: tuple[Path, Path], frames: np.ndarray, precision: str) -> None:
    settings = {"weights": weights[0], "mask": True, "mask_weights": weights[1], "size": 128, "score": 0.0, "batch": 3}
    one, other = (Detectron2Pose(**settings, precision=precision, device=device) for device in ("cpu", "cuda"))
    for detector in (one, other):
        few_people(detector._people)
        few_people(detector._masks)
    wanted, found = (landed(detector.infer(frames)) for detector in (one, other))
    assert {name: array.shape for name, array in wanted.items()} == {name: array.shape for name, array in found.items()}
    if precision == "float32":  # random weights leave near ties, which half the digits decide otherwise
        near = np.abs(wanted["keypoints"][..., :2] - found["keypoints"][..., :2]).max(-1) < 2
        assert near.mean() > 0.9
    assert other(frames)["mask"].shape == (3, 256, 192)


@pytest.mark.slow
@pytest.mark.detectors
def test_half_precision_is_that_of_the_backbone(weights: tuple[Path, Path], frames: np.ndarray) -> None:
    settings = {"weights": weights[0], "device": "cpu", "size": 128, "score": 0.0, "threshold": 0.0}
    full, half = (Detectron2Pose(**settings, precision=kind) for kind in ("float32", "bfloat16"))
    for detector in (full, half):
        few_people(detector._people)
    kinds = {
        name: {t.dtype for part in half._people._network.get_submodule(name).modules() for t in part.parameters(False)}
        for name in ("backbone", "proposal_generator", "roi_heads")
    }
    assert torch.bfloat16 in kinds["backbone"] and kinds["proposal_generator"] == kinds["roi_heads"] == {torch.float32}
    one, other = full(frames)["keypoints"], half(frames)["keypoints"]
    assert other.dtype == np.float32 and other.any() and not np.array_equal(one, other)
    assert half.fingerprint()["settings"]["precision"] == "bfloat16"
    assert "precision" not in full.fingerprint()["settings"]


@pytest.mark.slow
@pytest.mark.detectors
@pytest.mark.parametrize("makes", ["keypoints", "masks"])
def test_results_are_those_of_the_library(weights: tuple[Path, Path], frames: np.ndarray, makes: str) -> None:
    """The same boxes, keypoints and masks as detectron2's own way from a picture to results in its pixels."""
    d2 = detectron2_pose.library()
    model, path = (KEYPOINTS, weights[0]) if makes == "keypoints" else (MASKS, weights[1])
    runner = Runner("detectron2", "cpu", None, "float32")
    ours = detectron2_pose.Network(d2, model, path, makes, runner, 128, 0.0)
    few_people(ours)
    picture = ours.prepared(torch.from_numpy(frames[:1]))[0]
    resize = d2.ResizeShortestEdge([128, 128], 1333)
    usual = frames[0] if ours._format == "RGB" else np.ascontiguousarray(frames[0][..., ::-1])
    usual = resize.get_transform(usual).apply_image(usual).transpose(2, 0, 1)
    assert np.abs(picture.numpy() - usual).max() <= 1  # grey level: Pillow rounds twice
    with torch.no_grad():
        theirs = ours._network([{"image": picture, "height": 256, "width": 192}])[0]["instances"]
    theirs = theirs[theirs.pred_classes == 0]
    assert len(theirs) > 1
    size = np.array([192, 256, 192, 256])
    for i in range(len(theirs)):
        found = landed(runner(lambda images, i=i: ours(images, lambda t, boxes: [None, i]), frames[:1]))
        assert not any(array[:, 0].any() for array in found.values())
        found = {name: array[:, 1] for name, array in found.items()}
        assert np.allclose(found["boxes"][0].clip(0, size), theirs.pred_boxes.tensor[i].numpy(), atol=1e-3)
        if makes == "keypoints":
            assert np.allclose(found["keypoints"][0], theirs.pred_keypoints[i].numpy(), atol=1e-3)
        else:
            soft, box = (torch.from_numpy(found[name]) for name in ("masks", "boxes"))
            hard = d2.paste(soft, box, (256, 192), threshold=-1)[0].numpy() > 127
            assert (hard == theirs.pred_masks[i].numpy()).mean() > 0.99


@pytest.mark.slow
@pytest.mark.detectors
def test_nobody_gives_zeros(weights: tuple[Path, Path], frames: np.ndarray) -> None:
    settings = {"weights": weights[0], "device": "cpu", "size": 64, "score": 1.0}
    found = Detectron2Pose(**settings)(frames)
    assert list(found) == ["keypoints"] and not found["keypoints"].any()
    masked = Detectron2Pose(**settings, mask=True, mask_weights=weights[1])
    assert masked.infer(frames[:1])["masks"].shape == (1, 8, 28, 28)
    assert not masked(frames)["mask"].any()


@pytest.mark.slow
@pytest.mark.detectors
def test_fingerprint(weights: tuple[Path, Path]) -> None:
    plain = {"weights": weights[0], "device": "cpu"}
    one = Detectron2Pose(**plain, batch=1).fingerprint()
    assert one == Detectron2Pose(**plain, batch=3).fingerprint()
    masked = Detectron2Pose(**plain, mask=True, mask_weights=weights[1]).fingerprint()
    smaller = Detectron2Pose(**plain, size=400).fingerprint()
    assert len({str(f) for f in (one, masked, smaller)}) == 3 and len(masked["weights"]) == 2


@pytest.mark.slow
@pytest.mark.detectors
def test_wrong_weights_and_models(weights: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(**settings: object) -> str:
        with pytest.raises(DetectorError) as caught:
            Detectron2Pose(**{"weights": weights[0], "device": "cpu", **settings})
        return str(caught.value)

    said = refusal(weights=weights[1])
    assert "do not fit" in said and "missing" in said and "keypoint_head" in said
    assert "not of this network" in said
    assert "is not in the model zoo" in refusal(model="nothing") and KEYPOINTS in refusal(model="nothing")
    assert "gives no keypoints" in refusal(model="COCO-Detection/faster_rcnn_R_50_FPN_3x")
    assert "gives no masks" in refusal(mask=True, mask_model=KEYPOINTS)
    assert "too small" in refusal(size=1) and "at least 1" in refusal(batch=0)
    d2 = detectron2_pose.library()

    def offline(url: str) -> str:
        raise OSError("no network")

    monkeypatch.setattr(d2.files, "get_local_path", offline)
    said = refusal(weights=None)
    assert "cannot be fetched (no network)" in said and "weights=FILE" in said
