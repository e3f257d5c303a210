"""MMPose: the conversions without it, and RTMPose itself with random weights where it is installed."""

from __future__ import annotations

import builtins
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from remot_data import assets, media
from remot_data.annotating.annotate import plan_job
from remot_data.annotating.task import annotate_shards
from remot_data.detectors import _torch, base, mmpose_pose
from remot_data.detectors._torch import as_layer, stand_ins
from remot_data.detectors.base import Detector, DetectorError, landed, load
from remot_data.detectors.mmpose_pose import MMPose, download, find_config, published, schema_of
from remot_data.schemas import keypoint_set
from tests.remot_data.detectors.company import assert_company_changes_nothing

TINY = "rtmpose-t_8xb256-420e_coco-256x192"


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(base.BUILTIN, "mmpose", base.Entry("pose", "remot_data.detectors.mmpose_pose:MMPose"))


def described(schema: str) -> dict[str, object]:
    """A description of a data set as MMPose gives it: its own words for face and hands."""
    names = [name.replace("-", "_") for name in keypoint_set(schema).points]
    names[91:92] = ["left_hand_root"] if len(names) > 91 else names[91:92]
    return {"dataset_name": "some", "keypoint_id2name": dict(enumerate(names))}


def test_keypoints_as_the_layer_has_them() -> None:
    points = np.float32([[[0, 0], [191.9, 255.9], [192, 10], [10, -0.1], [5, 6], [np.nan, 3], [7, 8], [9, 9]]])
    scores = np.float32([[1.2, 0.5, 0.9, 0.9, 0.29, 0.9, 0.3, -1]])
    found = as_layer(points, scores, (256, 192), 0.3)
    assert found.dtype == np.float32 and found.shape == (1, 8, 3)
    assert np.allclose(found[0, [0, 1, 6]], [[0, 0, 1], [191.9, 255.9, 0.5], [7, 8, 0.3]])
    assert not found[0, [2, 3, 4, 5, 7]].any()
    assert not as_layer(points[:, :1], scores[:, :1] * 0, (256, 192), 0.0).any()


@pytest.mark.parametrize("schema", ["coco17", "wholebody133"])
def test_the_schema_is_told_by_the_names(schema: str) -> None:
    assert schema_of(described(schema), "some") == schema
    meta = described(schema)
    names = meta["keypoint_id2name"]
    names[5], names[6] = names[6], names[5]
    with pytest.raises(DetectorError, match=r"some gives \d+ keypoints of some; supported are the 17 of COCO"):
        schema_of(meta, "some")


def test_other_keypoints_are_refused() -> None:
    with pytest.raises(DetectorError, match="gives 25 keypoints"):
        schema_of({"keypoint_id2name": dict(enumerate(keypoint_set("body25").points))}, "some")


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A folder of configs as MMPose ships it."""
    folder = tmp_path / "configs" / "body_2d_keypoint" / "rtmpose" / "coco"
    folder.mkdir(parents=True)
    (folder / f"{TINY}.py").write_text("")
    (folder / "rtmpose-x.py").write_text("")
    (folder / "rtmpose_coco.yml").write_text(
        f"Models:\n- Config: configs/a/{TINY}.py\n  Weights: https://example.invalid/zoo/tiny-0123abcd_20230101.pth\n"
        "- Config: configs/a/rtmpose-x.py\n"
    )
    return tmp_path / "configs"


def test_models_by_name(zoo: Path, tmp_path: Path) -> None:
    assert find_config(TINY, zoo).name == f"{TINY}.py"
    own = tmp_path / "own.py"
    own.write_text("")
    assert find_config(str(own), zoo) == own
    with pytest.raises(DetectorError, match=f"has no model 'nothing'; take one of body, wholebody, {TINY}, rtmpose-x"):
        find_config("nothing", zoo)
    with pytest.raises(DetectorError, match="no config file .*absent.py"):
        find_config(str(tmp_path / "absent.py"), zoo)
    for outside in ("../own", "*", "**/own"):
        with pytest.raises(DetectorError, match="has no model"):
            find_config(outside, zoo)


def test_weights_by_name(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    asked = []

    def fetch(url: str, target: str, hash_prefix: str, progress: bool) -> None:
        asked.append((url, hash_prefix))
        if len(asked) == 1:
            raise OSError("no network")
        Path(target).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    config = find_config(TINY, zoo)
    with pytest.raises(
        DetectorError, match=r"cannot be fetched from https://example.invalid.*no network.*weights=FILE"
    ):
        download(config)
    assert download(config) == download(config) == tmp_path / "hub" / "checkpoints" / "tiny-0123abcd_20230101.pth"
    assert asked == [("https://example.invalid/zoo/tiny-0123abcd_20230101.pth", "0123abcd")] * 2
    with pytest.raises(DetectorError, match="publishes no weights for rtmpose-x; give weights=FILE"):
        published(find_config("rtmpose-x", zoo))


def test_a_stand_in_refuses_and_goes() -> None:
    with stand_ins(["not_there_at_all"], "get it"):
        import not_there_at_all

        assert hasattr(not_there_at_all, "nms")
        with pytest.raises(DetectorError, match="not_there_at_all.nms was called, which is not installed; get it"):
            not_there_at_all.nms(1)
    assert "not_there_at_all" not in sys.modules
    with stand_ins(["json"], ""):
        assert sys.modules["json"].loads("1") == 1
    assert "json" in sys.modules


def test_without_the_library_the_way_to_get_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = mmpose_pose.importlib.import_module

    def without(name: str, package: str | None = None) -> object:
        if name.split(".")[0] == "mmcv":
            raise ImportError(f"No module named {name!r}")
        return real(name, package)

    monkeypatch.setattr(mmpose_pose.importlib, "import_module", without)
    with pytest.raises(DetectorError, match=r"not installed \(No module named 'mmcv'; docker/mmpose.sh installs"):
        load("mmpose")


# From here on with the library.


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    decoded = [image for (_, image), _ in zip(media.read(assets.fetch("sample-cam02")), range(3), strict=False)]
    return np.stack([cv2.resize(image, (192, 256), interpolation=cv2.INTER_AREA) for image in decoded])


@pytest.fixture(scope="module", params=[TINY, "wholebody"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Random weights of a model in a file as MMEngine writes it, with NumPy arrays beside the tensors."""
    pytest.importorskip("mmpose")
    import torch

    mm = mmpose_pose.library()
    config = mmpose_pose._prepared(mm.Config.fromfile(str(find_config(request.param, mm.configs))), 1.0)
    torch.manual_seed(0)
    network = mm.init_model(config, None, device="cpu")
    path = tmp_path_factory.mktemp("mmpose") / "some.pth"
    meta = {"dataset_meta": network.dataset_meta, "epoch": np.int64(3), "loss": np.float64(0.5)}
    torch.save({"state_dict": network.state_dict(), "meta": meta}, path)
    return request.param, path


@pytest.mark.parametrize(("detect", "wanted"), [(False, (15, 10, 65, 110)), (True, (20, 20, 60, 100))])
def test_the_box_of_the_track_is_looked_at(detect: bool, wanted: tuple[float, ...]) -> None:
    """Widened by 1.25, which with `detect` the pipeline does."""
    detector = MMPose.__new__(MMPose)
    detector._finders, detector._dataset = object() if detect else None, {}
    detector._pipeline = lambda info: info
    frame = np.zeros((120, 90, 3), np.uint8)
    sample = detector._sample(frame, np.array([20, 20, 60, 100], np.float32))
    assert np.allclose(sample["bbox"], [wanted])
    if not detect:
        assert detector._sample(frame)["bbox"].tolist() == [[0, 0, 90, 120]]


@pytest.mark.slow
@pytest.mark.detectors
def test_keypoints_of_real_frames(checkpoint: tuple[str, Path], frames: np.ndarray) -> None:
    model, path = checkpoint
    detector = load(f"mmpose:{model}", weights=str(path), settings={"device": "cpu", "threshold": 0.0, "batch": 2})
    assert isinstance(detector, Detector)
    assert detector.schema == {TINY: "coco17", "wholebody": "wholebody133"}[model]
    keypoints = detector(frames)["keypoints"]
    assert keypoints.shape == (3, len(keypoint_set(detector.schema)), 3) and keypoints.dtype == np.float32
    seen = keypoints[..., 2] > 0
    assert seen.mean() > 0.5 and not keypoints[~seen].any()
    assert ((keypoints[..., :2] >= 0) & (keypoints[..., :2] < (192, 256))).all() and keypoints[..., 2].max() <= 1
    assert len(np.unique(keypoints[seen][:, 0])) > 3
    assert np.array_equal(keypoints[2:], detector(frames[2:])["keypoints"])
    assert detector(frames[:0])["keypoints"].shape == (0, *keypoints.shape[1:])


@pytest.mark.slow
@pytest.mark.detectors
def test_the_frame_meets_the_input(checkpoint: tuple[str, Path], frames: np.ndarray) -> None:
    """A frame of the input's size goes in as it is, and pixel 0 of the answer is half a pixel from the corner."""
    model, path = checkpoint
    detector = MMPose(model, path, device="cpu", threshold=0.0)
    inputs = detector._sample(frames[0])["inputs"]
    assert np.array_equal(inputs.numpy().transpose(1, 2, 0), frames[0][..., ::-1])
    keypoints = detector(frames)["keypoints"]
    from mmpose.apis import inference_topdown

    network = detector._network
    network.head.decode = detector._decode
    theirs = inference_topdown(network, np.ascontiguousarray(frames[0][..., ::-1]))[0].pred_instances
    seen = keypoints[0, :, 2] > 0
    assert np.allclose(keypoints[0, seen, :2], theirs.keypoints[0][seen] + 0.5, atol=1e-3)
    assert np.allclose(keypoints[0, seen, 2], theirs.keypoint_scores[0][seen].clip(0, 1), atol=1e-5)


@pytest.mark.slow
@pytest.mark.detectors
@pytest.mark.parametrize("detect", [False, True])
def test_no_frame_depends_on_its_company(checkpoint: tuple[str, Path], frames: np.ndarray, detect: bool) -> None:
    model, path = checkpoint
    larger = np.stack([cv2.resize(frame, (250, 310)) for frame in frames])
    settings = {"device": "cpu", "detect": detect, "threshold": 0.0}
    some = MMPose(model, path, batch=3, **settings)
    assert_company_changes_nothing(some, larger)
    assert some(larger)["keypoints"].tobytes() == MMPose(model, path, **settings)(larger)["keypoints"].tobytes()
    # `split` is called by several threads.
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda t: some.split(larger[t : t + 1]), range(3)))
    assert np.concatenate(parts).tobytes() == some.split(larger).tobytes()


@pytest.mark.slow
@pytest.mark.detectors
@pytest.mark.parametrize("checkpoint", [TINY], indirect=True)
def test_clips_that_share_batches_get_the_keypoints_they_get_alone(
    checkpoint: tuple[str, Path], own_dancers: Any
) -> None:
    model, path = checkpoint
    settings = {"device": "cpu", "batch": 7, "threshold": 0.0, "detect": True}
    job = plan_job(own_dancers, "pose", f"mmpose:{model}", weights=str(path), settings=settings)
    assert [r.shard for r in annotate_shards(own_dancers.url, range(2), [job], threads=2)] == [0, 1]
    alone = MMPose(model, path, device="cpu", threshold=0.0, detect=True)
    for clip in [clip for clip in own_dancers.clips if clip.shard < 2]:
        frames = own_dancers.read_arrays("frames", "frames", clip)["frames"]
        found = own_dancers.read_arrays(job.folder, "pose", clip)["keypoints"]
        assert found.any() and np.array_equal(found, alone(frames)["keypoints"])


@pytest.mark.slow
@pytest.mark.detectors
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_card_makes_what_the_processor_makes(
    checkpoint: tuple[str, Path], frames: np.ndarray, precision: str
) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    model, path = checkpoint
    one, other = (MMPose(model, path, device=device, batch=3, precision=precision) for device in ("cpu", "cuda"))
    wanted, found = (landed(detector.infer(detector.split(frames))) for detector in (one, other))
    assert wanted["place"].tobytes() == found["place"].tobytes()
    for name in ("map0", "map1"):
        assert np.abs(wanted[name] - found[name]).max() < 0.1 * np.abs(wanted[name]).max(), name
    assert other(frames)["keypoints"].any()


@pytest.mark.slow
@pytest.mark.detectors
def test_half_precision_is_near(checkpoint: tuple[str, Path], frames: np.ndarray) -> None:
    model, path = checkpoint
    full, half = (MMPose(model, path, device="cpu", precision=kind) for kind in ("float32", "bfloat16"))
    items = full.split(frames)
    one, other = full.infer(items), half.infer(items)
    for name in ("map0", "map1"):
        assert one[name].dtype == other[name].dtype == np.float32
        assert 0 < np.abs(one[name] - other[name]).max() < 0.1 * np.abs(one[name]).max(), name
    kinds = {kind: {str(t.dtype) for t in part.parameters()} for kind, part in half._network.named_children()}
    assert "torch.bfloat16" in kinds["backbone"] and kinds["head"] == {"torch.float32"}
    assert half.fingerprint()["settings"]["precision"] == "bfloat16"
    assert "precision" not in full.fingerprint()["settings"]


@pytest.mark.slow
@pytest.mark.detectors
def test_fingerprint(checkpoint: tuple[str, Path]) -> None:
    model, path = checkpoint
    one = MMPose(model, path, device="cpu", batch=1).fingerprint()
    assert one == MMPose(model, path, device="cpu", batch=5).fingerprint()
    others = [MMPose(model, path, device="cpu", **s).fingerprint() for s in ({"margin": 1.25}, {"threshold": 0.1})]
    assert len({str(f) for f in (one, *others)}) == 3


@pytest.mark.slow
@pytest.mark.detectors
def test_the_person_is_looked_for_first(checkpoint: tuple[str, Path], frames: np.ndarray) -> None:
    model, path = checkpoint
    detector = MMPose(model, path, device="cpu", detect=True)
    boxes = [body.box for body in detector._finders.finder.body_boxes(frames[0])]
    assert boxes and "detect" in detector.fingerprint()["settings"]
    sample = detector._sample(frames[0])
    assert np.allclose(sample["data_samples"].gt_instances.bboxes, [boxes[0]])
    assert np.allclose(
        sample["data_samples"].gt_instances.bbox_scales.max(),
        max(np.subtract(boxes[0][2:], boxes[0][:2])) * 1.25,
        rtol=0.4,
    )
    nobody = detector._sample(np.full_like(frames[0], 127))
    assert np.allclose(nobody["data_samples"].gt_instances.bboxes, [[0, 0, 192, 256]])


@pytest.mark.slow
@pytest.mark.detectors
def test_wrong_checkpoints(checkpoint: tuple[str, Path], tmp_path: Path) -> None:
    import torch

    model, path = checkpoint
    other = "wholebody" if model == TINY else TINY

    def refusal(file: Path, model: str = model, **settings: object) -> str:
        with pytest.raises(DetectorError) as caught:
            MMPose(model, file, device="cpu", **settings)
        return str(caught.value)

    assert "do not fit" in refusal(path, other) and "of another shape" in refusal(path, other)
    assert "there is no weights file" in refusal(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_bytes(b"text")
    assert "cannot be read as a file of tensors" in refusal(tmp_path / "text.pth")
    torch.save([1], tmp_path / "list.pth")
    assert "holds no tensors by name" in refusal(tmp_path / "list.pth")
    assert "trust is for a file that you name" in refusal(None, trust=True)
    assert "the margin is 0" in refusal(path, margin=0)
    assert "has no model 'nothing'" in refusal(path, "nothing")
    assert "no top-down model" in refusal(path, "rtmo-s_8xb32-600e_coco-640x640")


class Marks:
    """Unpickling it leaves a trace."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return builtins.exec, (f"open({self.path!r}, 'w')",)


@pytest.mark.slow
@pytest.mark.detectors
def test_pickle_only_where_it_is_asked_for(checkpoint: tuple[str, Path], tmp_path: Path) -> None:
    import torch

    model, path = checkpoint
    content = _torch.read_checkpoint(path, "mmpose", "", mmpose_pose._harmless())
    torch.save({**content, "more": Marks(str(tmp_path / "ran"))}, tmp_path / "some.pth")
    with pytest.raises(DetectorError, match="cannot be read as a file of tensors.*trust=true if you trust"):
        MMPose(model, tmp_path / "some.pth", device="cpu")
    assert not (tmp_path / "ran").exists()
    MMPose(model, tmp_path / "some.pth", device="cpu", trust=True)
    assert (tmp_path / "ran").exists()
