"""Ultralytics: who the main person is, what is kept of the keypoints, and the real library on real frames."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from remot_data import assets, media, persons
from remot_data.annotating.annotate import plan_job
from remot_data.annotating.task import annotate_shards
from remot_data.detectors import base
from remot_data.detectors.base import Detector, DetectorError, landed, load, load_finder
from remot_data.detectors.ultralytics_pose import UltralyticsFinder, _Batches, letterbox, main_person, seen_points
from remot_data.ingest import people
from remot_data.persons import Person
from tests.remot_data.detectors.company import assert_company_changes_nothing

pytestmark = pytest.mark.detectors

SIZE = (192, 256)
DANCER, BYSTANDER = (60.0, 20.0, 130.0, 240.0), (0.0, 100.0, 40.0, 200.0)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = base.Entry("pose", "remot_data.detectors.ultralytics_pose:UltralyticsPose", extra="ultralytics")
    monkeypatch.setitem(base.BUILTIN, "ultralytics", entry)


def look(frame: int, *boxes: tuple[float, ...], score: float = 0.9) -> list[Person]:
    return [Person(frame, tuple(box), score) for box in boxes]


def shifted(box: tuple[float, ...], dx: float) -> tuple[float, ...]:
    return box[0] + dx, box[1], box[2] + dx, box[3]


def test_without_ultralytics_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(DetectorError, match=r'not installed .*ultralytics.*pip install "remot\[ultralytics\]"'):
        load("ultralytics")


def test_the_main_person_is_followed_whatever_the_order() -> None:
    looks = [look(0, DANCER, BYSTANDER), look(1, BYSTANDER, shifted(DANCER, 5)), look(2, shifted(DANCER, 10))]
    assert main_person(looks, SIZE) == [0, 1, 0]
    # A bystander who is surer in one frame is still not the main person.
    looks[1] = [Person(1, BYSTANDER, 1.0), Person(1, shifted(DANCER, 5), 0.3)]
    assert main_person(looks, SIZE) == [0, 1, 0]


def test_of_two_alike_the_central_one_is_taken() -> None:
    left, middle = (0.0, 50.0, 60.0, 250.0), (66.0, 50.0, 126.0, 250.0)
    assert main_person([look(t, left, middle) for t in range(3)], SIZE) == [1, 1, 1]


def test_a_frame_with_nobody_is_none_and_the_person_is_found_again() -> None:
    looks = [look(0, DANCER), [], look(2, DANCER), look(3), look(4), look(5), look(6), look(7), look(8, DANCER)]
    assert main_person(looks, SIZE) == [0, None, 0, None, None, None, None, None, 0]
    assert main_person([[], []], SIZE) == [None, None]


def test_a_gap_is_not_filled_with_somebody_of_another_size() -> None:
    small = (90.0, 100.0, 110.0, 150.0)
    looks = [look(0, DANCER), look(1, DANCER), *[look(t, small) for t in range(2, 8)]]
    assert main_person(looks, SIZE) == [0, 0, *[None] * 6]


def test_points_outside_or_unsure_are_not_seen() -> None:
    points = np.array([[10, 20, 0.9], [10, 20, 0.2], [-1, 20, 0.9], [10, 256, 0.9], [191.9, 255.9, 1.1]])
    kept = seen_points(points, (256, 192), 0.3)
    assert kept.dtype == np.float32 and points[4, 2] == 1.1
    assert kept == pytest.approx(
        np.array([[10, 20, 0.9], [0, 0, 0], [0, 0, 0], [0, 0, 0], [191.9, 255.9, 1]], np.float32)
    )


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Three frames of a real video, uint8 [3, 256, 192, 3]."""
    decoded = [image for (_, image), _ in zip(media.read(assets.fetch("sample-cam02")), range(3), strict=False)]
    return np.stack([cv2.resize(image, (192, 256), interpolation=cv2.INTER_AREA) for image in decoded])


def settled(network: Any, frames: np.ndarray) -> None:
    """Let norms follow the features once, which else fade away: then all places of a frame look the same."""
    import torch

    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momentum = norms[0].momentum
    for step, mode in ((1.0, True), (momentum, False)):
        for norm in norms:
            norm.momentum = step
        network.train(mode)
        with torch.no_grad():
            network(torch.from_numpy(frames).permute(0, 3, 1, 2) / 255)
    for name, module in network.model[-1].named_modules():
        if isinstance(module, torch.nn.Conv2d) and name.endswith(".2"):  # the last ones, which still give large numbers
            module.weight.data *= 0.02
            if module.out_channels == network.model[-1].nc:
                module.bias.data[0] += 3  # a person, rather than anything else


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, frames: np.ndarray) -> dict[str, Path]:
    """The smallest models of each task with random weights, as the library saves them; class 0 is a person."""
    folder = tmp_path_factory.mktemp("yolo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOLO_CONFIG_DIR", str(folder))
        ultralytics = pytest.importorskip("ultralytics")
        import torch

        out = {}
        for name in ("yolo11n-pose", "yolo11n-seg", "yolo11n", "yolo26n-pose"):
            torch.manual_seed(0)
            model = ultralytics.YOLO(f"{name}.yaml", verbose=False)
            model.model.names[0] = "person"
            if name != "yolo11n":
                settled(model.model, frames)
            out[name] = folder / f"{name}.pt"
            model.save(str(out[name]))
        return out


def opened(models: dict[str, Path], name: str = "yolo11n-pose", **settings: Any) -> Any:
    return load("ultralytics", weights=str(models[name]), settings={"device": "cpu", "size": 320, **settings})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolo11n-pose", "yolo26n-pose"])
def test_real_frames_give_keypoints_of_coco(models: dict[str, Path], name: str, frames: np.ndarray) -> None:
    pose = opened(models, name, person=1e-5, threshold=0.0)
    assert isinstance(pose, Detector) and pose.schema == "coco17"
    found = pose(frames)
    assert set(found) == {"keypoints"}
    points = found["keypoints"]
    assert points.shape == (3, 17, 3) and points.dtype == np.float32
    assert points.any() and np.isfinite(points).all()
    assert (points[points[..., 2] == 0] == 0).all() and (points[..., 2] <= 1).all()
    assert ((points[..., :2] >= 0) & (points[..., :2] < (192, 256))).all()
    assert pose(frames)["keypoints"].tobytes() == points.tobytes()
    assert not opened(models, name)(frames)["keypoints"].any()  # random weights are sure of nobody


@pytest.mark.slow
def test_the_mask_is_that_of_the_person_with_the_pose(models: dict[str, Path], frames: np.ndarray) -> None:
    pose = opened(models, seg=str(models["yolo11n-seg"]), person=1e-5)
    real = pose(frames)["mask"]
    assert real.shape == (3, 256, 192) and real.dtype == np.uint8 and set(np.unique(real)) <= {0, 255}

    def rows(*boxes: tuple[float, ...], extra: int) -> np.ndarray:
        """Candidates in pixels of the input, 320 x 256 with 8 columns of border on either side."""
        out = np.zeros((4, 5 + extra), np.float32)
        for row, box in zip(out, boxes, strict=False):
            row[:5] = [*np.multiply(box, 1.25) + [8, 0, 8, 0], 0.9]
            row[5:] = 1 if extra == 32 else [(box[0] + 1) * 1.25 + 8, (box[1] + 1) * 1.25, 0.9] * 17
        return out

    near = shifted(DANCER, 3)
    outputs = {
        "pose": np.stack([rows(*boxes, extra=51) for boxes in ([BYSTANDER, DANCER], [DANCER], [])]),
        "seg": np.stack([rows(*boxes, extra=32) for boxes in ([BYSTANDER, near], [BYSTANDER], [DANCER])]),
        "protos": np.ones((3, 32, 80, 64), np.float16),
    }
    found = pose.join(frames, outputs)
    assert found["keypoints"][:, 0] == pytest.approx(np.array([[61, 21, 0.9], [61, 21, 0.9], [0, 0, 0]]))
    assert (found["mask"][0] > 0).sum() == 70 * 220 and found["mask"][0, 100, 64] == 255 and not found["mask"][1:].any()
    # By the boxes of tracks: the bystander; nobody, where the box is where nobody was found.
    own = np.array([shifted(BYSTANDER, 2), BYSTANDER, BYSTANDER], np.float32)
    boxes = {"own": own, "others": np.array([[DANCER]] * 3, np.float32)}
    found = pose.join(frames, outputs, boxes=boxes)
    left, top = np.array(BYSTANDER[:2]) + 1
    assert found["keypoints"][:, 0] == pytest.approx(np.array([[left, top, 0.9], [0, 0, 0], [0, 0, 0]]))
    assert found["mask"][0].any() and not found["mask"][1:].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolo11n-pose", "yolo26n-pose"])
@pytest.mark.parametrize("shape", [(256, 192), (150, 301)])
def test_what_is_found_is_what_the_library_predicts(
    models: dict[str, Path],
    frames: np.ndarray,
    name: str,
    shape: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch
    import ultralytics

    frames = np.stack([cv2.resize(frame, shape[::-1], interpolation=cv2.INTER_AREA) for frame in frames])
    pose = opened(models, name, seg=str(models["yolo11n-seg"]), person=1e-5)
    options = {"imgsz": 320, "conf": 1e-5, "classes": [0], "device": "cpu", "verbose": False, "retina_masks": True}
    library = [ultralytics.YOLO(models[key]) for key in (name, "yolo11n-seg")]
    images = [np.ascontiguousarray(frame[..., ::-1]) for frame in frames]
    people_found, masked = (model.predict(images, **options) for model in library)
    picture = library[0].predictor.preprocess(images)
    ours = pose._pose.prepared(torch.from_numpy(frames))
    assert ours.shape == picture.shape and (ours - picture).abs().max() < 1.01 / 255  # its resizing rounds otherwise
    # From the same picture on, all is the same.
    pictures = iter([part for part in picture.split(1) for _ in (pose._pose, pose._seg)])
    monkeypatch.setattr(_Batches, "prepared", lambda model, frames: next(pictures))
    outputs = pose.infer(frames)
    place = letterbox(shape, pose._pose.size, pose._pose.stride)
    for rows, theirs in zip(pose._found(outputs["pose"], shape, pose._pose), people_found, strict=True):
        count = min(len(rows), len(theirs.boxes), 20)
        assert count > 5 and rows[:count, :5] == pytest.approx(theirs.boxes.data[:count, :5].numpy(), abs=1e-2)
        points = place.to_frame(rows[0, 5:].reshape(-1, 3)[:, :2]).clip(0, shape[::-1])
        assert points == pytest.approx(theirs.keypoints.data[0, :, :2].numpy(), abs=1e-2)
    boxes = [result.boxes.xyxy[0].numpy() for result in masked]
    masks = pose._masks(pose._seg, outputs, boxes, shape) > 0
    assert 0 < masks.mean() < 1
    assert (masks == np.stack([result.masks.data[0].numpy() > 0 for result in masked])).mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolo11n-pose", "yolo26n-pose"])
def test_no_frame_depends_on_its_company(models: dict[str, Path], name: str, frames: np.ndarray) -> None:
    settings = {"seg": str(models["yolo11n-seg"]), "person": 1e-5, "threshold": 0.0}
    some = opened(models, name, batch=3, **settings)
    assert_company_changes_nothing(some, frames)
    one, other = some(frames), opened(models, name, **settings)(frames)
    assert all(array.tobytes() == other[key].tobytes() for key, array in one.items())
    none = {key: array.shape for key, array in some(frames[:0]).items()}
    assert none == {"keypoints": (0, 17, 3), "mask": (0, 256, 192)}


@pytest.mark.slow
def test_clips_that_share_batches_get_the_poses_they_get_alone(models: dict[str, Path], own_dancers: Any) -> None:
    settings = {"device": "cpu", "size": 64, "person": 1e-5, "threshold": 0.0, "seg": str(models["yolo11n-seg"])}
    weights = str(models["yolo11n-pose"])
    job = plan_job(own_dancers, "pose", "ultralytics", weights=weights, settings={**settings, "batch": 7})
    assert [r.shard for r in annotate_shards(own_dancers.url, range(2), [job], threads=2)] == [0, 1]
    alone = opened(models, **settings)
    for clip in [clip for clip in own_dancers.clips if clip.shard < 2]:
        frames = own_dancers.read_arrays("frames", "frames", clip)["frames"]
        found, wanted = own_dancers.read_arrays(job.folder, "pose", clip), alone(frames)
        assert found["keypoints"].any() and np.array_equal(found["keypoints"], wanted["keypoints"])
        assert (found["mask"] > 127).mean() == pytest.approx((wanted["mask"] > 127).mean(), abs=0.02)  # a lossy picture


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_card_makes_what_the_processor_makes(models: dict[str, Path], frames: np.ndarray, precision: str) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    settings = {"seg": str(models["yolo11n-seg"]), "person": 1e-5, "batch": 3, "precision": precision}
    one, other = (opened(models, **{**settings, "device": device}) for device in ("cpu", "cuda"))
    wanted, found = (landed(detector.infer(frames)) for detector in (one, other))
    assert {name: array.shape for name, array in wanted.items()} == {name: array.shape for name, array in found.items()}
    assert found["pose"][:, :5, 4] == pytest.approx(wanted["pose"][:, :5, 4], rel=0.2)
    assert np.abs(np.subtract(found["protos"], wanted["protos"], dtype=float)).max() < 0.1 * wanted["protos"].max()
    assert other(frames)["mask"].shape == (3, 256, 192)


@pytest.mark.slow
def test_half_precision_leaves_the_head_as_it_is(models: dict[str, Path], frames: np.ndarray) -> None:
    full, half = (opened(models, precision=kind) for kind in ("float32", "bfloat16"))
    kinds = [{str(t.dtype) for t in part.parameters()} for part in half._pose.network.model]
    assert "torch.bfloat16" in kinds[0] and kinds[-1] == {"torch.float32"}
    one, other = (model.infer(frames)["pose"] for model in (full, half))
    assert one.dtype == other.dtype == np.float32
    assert other[:, 0, 4] == pytest.approx(one[:, 0, 4], rel=0.2) and (one != other).any()
    assert half.fingerprint()["settings"]["precision"] == "bfloat16"
    assert "precision" not in full.fingerprint()["settings"]


@pytest.mark.slow
def test_the_finder_gives_what_people_find_gives(models: dict[str, Path], frames: np.ndarray) -> None:
    finder = UltralyticsFinder(weights=models["yolo11n"], person=1e-5, size=320, device="cpu")
    here, there = finder.find(frames[0], 7), finder.find(frames[0], 7, (384, 512))
    assert here and all(isinstance(p, Person) and p.frame == 7 for p in here)
    assert [p.score for p in here] == sorted((p.score for p in here), reverse=True)
    assert np.array(there[0].box) == pytest.approx(2 * np.array(here[0].box))
    assert all(p.track is None for p in here)
    grey = cv2.cvtColor(frames[0], cv2.COLOR_RGB2GRAY)
    assert here[0].sharpness == persons.sharpness(grey, here[0].box)
    assert finder.fingerprint()["weights"] == base.file_sha256(models["yolo11n"])


@pytest.mark.slow
def test_the_finder_follows_each_person_with_the_tracker_of_the_library(
    models: dict[str, Path], frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from ultralytics.engine.results import Results

    finder = UltralyticsFinder(weights=models["yolo11n"], person=0.25, device="cpu")

    def result(*rows: tuple[float, ...]) -> Results:
        boxes = torch.tensor([[*row, 0.0] for row in rows]).reshape(-1, 6)
        return Results(np.zeros((256, 192, 3), np.uint8), "", {0: "person"}, boxes=boxes)

    def at(x: float, score: float) -> tuple[float, ...]:
        return (x, 20.0, x + 50, 220.0, score)

    # They pass each other, each time listed in another order; in the third look one is hardly seen.
    seen = [result(at(10, 0.9), at(130, 0.8)), result(at(120, 0.8), at(20, 0.9)), result(at(110, 0.15), at(30, 0.9))]
    looks = []
    follow = finder.follow()
    for t, found in enumerate(seen):
        monkeypatch.setattr(finder, "_model", lambda image, found=found: found)
        looks.append(follow(frames[0], t, (384, 512)))
    tracks = persons.tracks(looks)
    assert [[p.box[0] for p in track] for track in tracks] == [[20, 40, 60], [260, 240, 220]]
    assert [p.score for p in tracks[1]] == pytest.approx([0.8, 0.8, 0.15])
    # Without a track so low a score is nobody, and another video begins anew.
    assert [p.box[0] for p in finder.find(frames[0])] == [30]
    assert {p.track for p in finder.follow()(frames[0], 0, (192, 256))} == {1}


@pytest.mark.slow
def test_a_video_is_looked_through_with_the_real_library(models: dict[str, Path]) -> None:
    finder = f"ultralytics:{models['yolo11n']}"
    mark = people.open_finder(finder).fingerprint()
    assert mark["weights"] == base.file_sha256(models["yolo11n"]) and mark["settings"]["tracker"]
    people.prepare(finder, json.loads(json.dumps(mark)))
    seen = people.watch(assets.fetch("sample-cam02"), rate=3.0, finder=finder)
    assert len(seen.looks) == 5 and not any(seen.looks)  # random weights are sure of nobody


def test_without_lap_the_finder_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ultralytics")
    monkeypatch.setitem(sys.modules, "lap", None)
    with pytest.raises(DetectorError, match="need the package lap.*pip install lap"):
        load_finder("ultralytics")


@pytest.mark.slow
def test_the_fingerprint_says_what_the_pose_depends_on(models: dict[str, Path]) -> None:
    mark = opened(models).fingerprint()
    assert json.loads(json.dumps(mark)) == mark and mark["seg"] is None
    assert mark["weights"] == base.file_sha256(models["yolo11n-pose"])
    assert opened(models, batch=1).fingerprint() == mark
    assert opened(models, seg=str(models["yolo11n-seg"])).fingerprint() != mark
    assert opened(models, threshold=0.5).fingerprint() != mark != opened(models, "yolo26n-pose").fingerprint()


class Trap:
    """Unpickling it would run a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.write_text, (self.target, "run")


@pytest.mark.slow
def test_wrong_files_are_named_and_nothing_in_them_is_run(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from ultralytics.utils import checks, downloads, events

    def raised(weights: Path | None, **settings: Any) -> str:
        with pytest.raises(DetectorError) as error:
            load("ultralytics", weights=weights and str(weights), settings={"device": "cpu", **settings})
        return str(error.value)

    assert "task 'detect'" in raised(models["yolo11n"]) and "needs one for 'pose'" in raised(models["yolo11n"])
    assert "needs one for 'segment'" in raised(models["yolo11n-pose"], seg=str(models["yolo11n"]))
    assert "there is no weights file" in raised(tmp_path / "missing.pt")
    torch.save({"model": Trap(tmp_path / "trapped")}, tmp_path / "trap.pt")
    assert "cannot be read as a checkpoint of Ultralytics that holds only a model" in raised(tmp_path / "trap.pt")
    assert not (tmp_path / "trapped").exists()
    (tmp_path / "junk.pt").write_bytes(b"junk")
    assert "cannot be read as a checkpoint" in raised(tmp_path / "junk.pt")
    assert "offers no model 'nothing'; choose one as yolo11" in raised(None, model="nothing")
    assert not events.events.enabled and not checks.AUTOINSTALL

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(assets, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(downloads, "attempt_download_asset", offline)
    assert "yolo11m-pose.pt cannot be downloaded (ConnectionError: no network)" in raised(None)
    assert list((tmp_path / "cache" / "ultralytics").iterdir()) == []


@pytest.mark.slow
def test_a_model_by_name_is_downloaded_once(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.utils import downloads

    calls: list[str] = []

    def fetched(file: str) -> str:
        if not Path(file).is_file():  # the library asks for files it has, too
            calls.append(file)
            Path(file).write_bytes(models["yolo11n-pose"].read_bytes())
        return file

    monkeypatch.setattr(assets, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(downloads, "attempt_download_asset", fetched)
    for _ in range(2):
        pose = load("ultralytics:yolo11n-pose", settings={"device": "cpu"})
    assert len(calls) == 1 and pose.fingerprint()["weights"] == base.file_sha256(models["yolo11n-pose"])
    assert [p.name for p in (tmp_path / "ultralytics").iterdir()] == ["yolo11n-pose.pt"]
