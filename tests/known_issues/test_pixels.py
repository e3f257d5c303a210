"""Crops reached out of the picture and repeated its border: hands became bars, up to two fifths of a portrait video.

The crop left its usual margin round the person whether the picture had room or not. The kind: pixels that no camera
saw, taken for real ones. Made: a red dancer before noise, near the borders of portrait pictures or taller than a crop
of the frames' shape can be inside them. Right: no such pixel where she fits; elsewhere they are black (or what the
policy says), and windows, scores, layers, losses and metrics know which they are.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from remot_data import cli, media, persons
from remot_data.annotating.annotate import annotate
from remot_data.annotating.source_frames import native_size, read_native
from remot_data.care.verify import repair, verify
from remot_data.detectors.pose_guided import PoseGuidedParser
from remot_data.detectors.temporal_median import TemporalMedian
from remot_data.ingest.build import build
from remot_data.ingest.policy import Policy
from remot_data.media.geometry import Geometry
from remot_data.persons import Person
from remot_data.reading.stream import Plan, to_torch
from remot_data.records import Clip
from remot_data.store import Store, open_store
from remot_model import networks
from remot_model.config import STAGES, Config, StagePlan
from remot_model.evaluating.evaluate import Sample, Tally
from remot_model.evaluating.metrics import Learned
from remot_model.training.data import augmented
from remot_model.training.feeding import converted
from remot_model.training.stages import Setting, needed_generators
from remot_model.training.train import train
from remot_model.training.trainer import Trainer
from tests.remot_model.training.test_trainer import Blurred
from tests.remot_model.windows import Windows, clip_arrays, small_config

SIZE, FRAMES = (64, 48), 24
RED = (220, 30, 30)
# Of dancers in portrait pictures of 288 x 512: left, top, width, height.
FITS, TALL = (6, 96, 100, 352), (60, 16, 130, 480)


class Red:
    """Finds the red thing, as a finder and as a pose detector."""

    name, kind, version, schema, licence, approximate = "red", "pose", "1", "body25", "none", False
    needs = ()

    def fingerprint(self) -> dict[str, str]:
        return {"detector": "red"}

    def follow(self) -> Callable[[np.ndarray, int, tuple[int, int]], list[Person]]:
        return self._found

    @staticmethod
    def _found(image: np.ndarray, number: int, size: tuple[int, int]) -> list[Person]:
        grow = size[0] / image.shape[1]
        return [Person(number, tuple(grow * v for v in _red(image)), 0.9)]

    def __call__(self, frames: np.ndarray, **needed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        points = np.zeros((len(frames), 25, 3), np.float32)
        for t, frame in enumerate(frames):
            x0, y0, x1, y1 = _red(frame)
            points[t, :15] = [*zip(np.linspace(x0, x1, 15), np.linspace(y0, y1, 15), np.ones(15), strict=True)]
        return {"keypoints": points}


class Brightest:
    """The brightest value outside the picture, and how high the frames are that it was given."""

    name, kind, version, schema, licence, approximate = "brightest", "scores", "1", "own", "none", False
    needs = ("valid",)

    def fingerprint(self) -> dict[str, str]:
        return {"detector": "brightest"}

    def __call__(self, frames: np.ndarray, **needed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        brightest = frames[:, ~needed["valid"]["valid"]].max((1, 2)).astype(np.float32)
        return {"brightest": brightest, "height": np.full(len(frames), frames.shape[1], np.float32)}


def _red(image: np.ndarray) -> tuple[float, float, float, float]:
    # Colour is stored at half size, so a pixel at the border of the red is only somewhat red.
    y, x = np.nonzero((image[..., 0] > 150) & (image[..., 1] < 90))
    return float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1)


def _pictures(size: tuple[int, int], box: tuple[int, int, int, int]) -> list[np.ndarray]:
    """Noise that stands still, light everywhere, and a red dancer who steps to the right and back."""
    width, height = size
    rough = np.random.default_rng(0).integers(110, 250, (height // 16 + 1, width // 16 + 1, 3)).astype(np.uint8)
    room = cv2.resize(rough, (width, height), interpolation=cv2.INTER_LINEAR)
    x, y, wide, tall = box
    out = []
    for t in range(FRAMES):
        step = 8 * (t % 8 < 4)
        out.append(room.copy())
        out[-1][y : y + tall, x + step : x + step + wide] = RED
    return out


def _video(path: Path, box: tuple[int, int, int, int], size: tuple[int, int] = (288, 512)) -> Path:
    pictures = _pictures(size, box)
    with media.VideoWriter(path, 12, size[::-1], crf=5) as writer:
        for picture in pictures:
            writer.write(picture)
    return path


def _lossless(path: Path, box: tuple[int, int, int, int], size: tuple[int, int]) -> Path:
    """Of any size, also with odd sides."""
    pictures = np.stack(_pictures(size, box))
    raw = f"-y -v error -f rawvideo -pix_fmt rgb24 -s {size[0]}x{size[1]} -r 12 -i - -c:v ffv1 -pix_fmt yuv420p".split()
    subprocess.run([media.ffmpeg_binary(), *raw, str(path)], input=pictures.tobytes(), check=True)
    return path


def _built(path: Path, out: Path, outside: str | None = "black", **options: object) -> Store:
    policy = Policy(size=SIZE, min_frames=8, looks=12.0, outside=outside)
    options = {"layers": {}, "finder": f"{__file__}:Red", "workers": 0, **options}
    build(path, str(out), policy=policy, **options)
    return open_store(str(out))


def _only(store: Store) -> tuple[Clip, np.ndarray, np.ndarray]:
    """The one clip of a store, its frames, and which of their pixels are of the picture."""
    (clip,) = store.clips
    frames = store.read_arrays("frames", "frames", clip)["frames"]
    return clip, frames, persons.valid(clip.crop, clip.source_size, store.size)


@pytest.fixture(scope="module")
def tall(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Of a dancer who is taller than a crop of 3:4 can be in her picture."""
    folder = tmp_path_factory.mktemp("tall")
    layers = {"pose": f"{__file__}:Red", "scores": "basic-scores"}
    return _built(_video(folder / "tall.mp4", TALL), folder / "store", layers=layers)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((288, 512), FITS),
        ((288, 512), (170, 2, 100, 380)),
        ((287, 511), (171, 131, 100, 379)),
        ((641, 361), (520, 1, 100, 360)),
    ],
)
def test_the_crop_stays_inside_wherever_the_person_fits(tmp_path, size, box):
    clip, _, valid = _only(_built(_lossless(tmp_path / "near.mkv", box, size), tmp_path / "store"))
    (x, y, wide, high), (left, top, width, height) = clip.crop, box
    assert x >= 0 and y >= 0 and x + wide <= size[0] and y + high <= size[1]
    assert valid.all()
    assert wide / high == pytest.approx(0.75, abs=0.01)
    # All of her is in it, but for a column or row of a picture with odd sides, and her step to the right.
    assert x <= left + 1 and x + wide >= left + width + 7 and y <= top + 1 and y + high >= top + height - 1


def test_in_old_stores_it_reaches_out_and_the_border_is_repeated(tmp_path):
    store = _built(_video(tmp_path / "near.mp4", FITS), tmp_path / "store", outside=None)
    assert "outside" not in store.config["policy"] and store.outside is None
    clip, frames, valid = _only(store)
    assert clip.crop[2] > 288 and clip.crop[3] == pytest.approx(1.2 * 352, abs=6) and not valid.all()
    assert np.abs(np.diff(frames[:, :, :1].astype(int), axis=2)).max(initial=0) == 0
    (columns,) = np.nonzero(~valid.all(0))
    assert frames[:, :, columns].min() > 60
    assert "valid" not in Plan(store, split=None).window(0).arrays


def test_where_she_does_not_fit_no_more_is_outside_than_has_to_be(tall):
    clip, frames, valid = _only(tall)
    assert clip.crop[3] == pytest.approx(480, abs=4)  # she from head to feet
    assert valid.mean() == pytest.approx(288 / 360, abs=0.03)
    assert valid.all(0).sum() == valid.any(0).sum()  # whole columns
    assert frames[:, ~valid].mean() < 2 and np.percentile(frames[:, ~valid], 99) <= 12  # JPEG rings a little
    assert frames[:, valid].min(-1).mean() > 60


def test_what_is_outside_changes_no_pixel_of_the_picture(tmp_path, tall):
    path = _only(tall)[0].path
    _, black, valid = _only(tall)
    _, smear, _ = _only(_built(path, tmp_path / "smear", outside="smear"))
    _, blur, _ = _only(_built(path, tmp_path / "blur", outside="blur"))
    inner = cv2.erode(valid.astype(np.uint8), np.ones((17, 17)), borderValue=1) > 0  # a block of JPEG away
    assert inner.any()
    for other in (smear, blur):
        np.testing.assert_array_equal(other[:, inner], black[:, inner])
        assert other[:, ~valid].mean() > 60
    assert (
        np.abs(np.diff(smear.astype(int), axis=1))[:, 1:, 0].mean()
        > np.abs(np.diff(blur.astype(int), axis=1))[:, 1:, 0].mean()
    )


def test_windows_scores_and_layers_know_which_pixels_are_real(tall):
    clip, _, valid = _only(tall)
    plan = Plan(tall, split=None, length=4)
    window = plan.window(0)
    np.testing.assert_array_equal(window.arrays["valid"], valid)
    assert to_torch(window)["valid"].shape == (1, *SIZE)
    small = plan.window(0, (32, 24)).arrays["valid"]
    np.testing.assert_array_equal(small, valid.reshape(32, 2, 24, 2).all((1, 3)))
    assert "valid" not in Plan(tall, split=None, layers=["pose"]).window(0).arrays
    told = tall.read_arrays(tall.folders(tall.snapshot("main"))["scores"], "scores", clip)["valid"]
    np.testing.assert_allclose(told, valid.mean(), atol=1e-4)


def test_layers_from_the_source_see_what_the_store_shows(tall):
    made = annotate(tall, "scores", f"{__file__}:Brightest", source=128, workers=0)
    clip, _, _ = _only(tall)
    found = tall.read_arrays(f"layers/scores/{made.id}", "scores", clip)
    assert found["brightest"].max() == 0 and set(found["height"]) == {128}
    size = native_size(clip, SIZE, 128)
    smear, blur = (read_native(clip, size, outside=outside) for outside in ("smear", "blur"))
    assert smear[:, ~persons.valid(clip.crop, clip.source_size, size)].min() > 60
    assert (smear != blur).any() and (read_native(clip, size) == smear).all()


def test_a_repair_writes_the_bytes_that_were_there(tmp_path):
    store = _built(_video(tmp_path / "tall.mp4", TALL), tmp_path / "store")
    tar = tmp_path / "store" / "frames" / "shard-00000.tar"
    before = tar.read_bytes()
    tar.write_bytes(before[: len(before) // 2])
    assert not repair(store, list(verify(store)), workers=0)
    assert tar.read_bytes() == before


def test_no_label_and_no_background_is_taken_from_outside():
    frames, valid = np.full((6, *SIZE, 3), 90, np.uint8), np.ones(SIZE, bool)
    valid[:, :16] = False
    frames[:, ~valid] = 0
    points = np.zeros((6, 25, 3), np.float32)
    points[:, :15] = [*zip(np.linspace(4, 44, 15), np.linspace(4, 60, 15), np.ones(15), strict=True)]
    pose = {"keypoints": points, "mask": np.full((6, *SIZE), 255, np.uint8)}
    parser, median = PoseGuidedParser(), TemporalMedian(margin=0)
    labels = parser(frames, pose=pose, valid={"valid": valid})["labels"]
    assert parser(frames, pose=pose)["labels"][:, ~valid].any() and labels[:, valid].any()
    assert not labels[:, ~valid].any()
    nobody = {"labels": np.zeros((6, *SIZE), np.uint8)}
    behind = median(frames, parsing=nobody, valid={"valid": valid})
    np.testing.assert_array_equal(behind["seen"] > 0, valid)
    assert np.abs(behind["image"].astype(int) - 90).max() <= 3  # as it is filled in, and not darker
    assert (median(frames, parsing=nobody)["image"][~valid] == 0).all()


@pytest.mark.parametrize("angle", (0, 90, 180))
@pytest.mark.parametrize("size", [(40, 30), (41, 27), (150, 120)])
def test_what_is_told_to_be_outside_is_what_is_black(tmp_path, angle, size):
    """Also where a picture is turned: of white pictures everything else is white."""
    plain, path = tmp_path / "plain.mp4", tmp_path / "turned.mp4"
    with media.VideoWriter(plain, 12, (96, 128)) as writer:
        writer.write(np.full((96, 128, 3), 255, np.uint8))
    turned = [media.ffmpeg_binary(), "-y", "-v", "error", "-display_rotation", str(angle), "-i", str(plain)]
    subprocess.run([*turned, "-c", "copy", str(path)], check=True)
    found = media.probe(path)
    assert found.rotation == angle
    for box in ((-20, -14, 90, 70), (30, 40, 140, 120), (-9, 10, 150, 60), (10, 20, 60, 50)):
        crop = media.round_crop(box, found)
        ((_, frame),) = media.read(path, crop=crop, size=size, outside="black")
        valid = persons.valid(crop, found.size, size)
        np.testing.assert_array_equal(frame.min(-1) > 200, valid)
        np.testing.assert_array_equal(frame.max(-1) == 0, ~valid)
        assert valid.any() and valid.all() == (box == (10, 20, 60, 50))


_SIDES = st.integers(33, 300)


@given(_SIDES, _SIDES, st.integers(0, 3), st.booleans(), st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 1))
def test_rounding_does_not_step_over_the_border(width, height, turns, mirrored, left, top, scale):
    geometry = Geometry((width, height), (width, height), turns, mirrored)
    wide, high = (max(scale * side, 8) for side in geometry.displayed)
    crop = (left * (geometry.displayed[0] - wide), top * (geometry.displayed[1] - high), wide, high)
    x, y, w, h = geometry.even_box(crop, inside=True)
    assert x >= 0 and y >= 0 and x + w <= width and y + h <= height and min(w, h) >= 2
    assert np.abs(np.array(geometry.to_displayed((x, y, w, h))) - crop).max() <= 3


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Networks this small lose far more to a second thread on a busy machine than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _batch(valid: np.ndarray | None, outside: int = 0) -> dict[str, torch.Tensor]:
    """A window of a drawn dancer; `outside` is a seed of what is invented where pixels are not valid."""
    window = Windows(clip_arrays(8), 8).window(0)
    if valid is not None:
        chance = np.random.default_rng(outside)
        for name, most in (("frames", 256), ("labels", 11)):
            invented = chance.integers(0, most, window.arrays[name].shape).astype(np.uint8)
            shape = valid[..., None] if name == "frames" else valid
            window.arrays[name] = np.where(shape, window.arrays[name], invented)
        window.arrays["valid"] = valid
    return {name: x[None] for name, x in to_torch(window).items()}


def _step(stage: str, batch: dict[str, torch.Tensor]) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Losses and weights of a step; face crops and temporal judges, which look at the frames too, among them."""
    config = small_config(lambda_per=1.0, **{stage: StagePlan(1, 1, length=8, chunk=8, lr=1e-3)})
    earlier = {n: networks.generator(n, config).requires_grad_(False) for n in needed_generators(stage, config)}
    torch.manual_seed(0)
    for net in earlier.values():
        for parameter in net.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape))
    trainer = Trainer(stage, Setting(config, Blurred(), earlier), torch.device("cpu"), 0)
    losses = dict(trainer.step(batch, 1e-3))
    return losses, [*trainer.net.parameters(), *trainer.judges.parameters()]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("stage", ("layout", "region", "whole"))
def test_losses_do_not_see_what_is_outside(stage):
    everything, part = np.ones((32, 24), bool), np.ones((32, 24), bool)
    part[:, 14:] = False
    plain, ones = _step(stage, _batch(None)), _step(stage, _batch(everything))
    assert plain[0] == ones[0]
    assert all(torch.equal(a, b) for a, b in zip(plain[1], ones[1], strict=True))
    one, other = (_step(stage, _batch(part, seed)) for seed in (1, 2))
    assert one[0] == other[0] and all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))
    assert one[0] != plain[0]
    unmasked = [_step(stage, {n: x for n, x in _batch(part, seed).items() if n != "valid"})[0] for seed in (1, 2)]
    assert unmasked[0] != unmasked[1]


def test_a_mirrored_window_is_mirrored_with_its_mask():
    part = np.ones((32, 24), bool)
    part[:, 14:] = False
    arrays = Windows(clip_arrays(8), 8).window(0).arrays | {"valid": part.copy()}
    augmented(arrays, small_config(flip=1.0, colour_jitter=False), "body25", np.random.default_rng(0))
    np.testing.assert_array_equal(arrays["valid"], part[:, ::-1])
    batch = {"valid": torch.from_numpy(arrays["valid"])}
    np.testing.assert_array_equal(converted("valid", batch["valid"]), to_torch(arrays)["valid"])


def test_metrics_do_not_see_what_is_outside():
    part = np.ones((32, 24), bool)
    part[:, 14:] = False
    arrays = clip_arrays(8)
    made = np.random.default_rng(0).integers(0, 256, arrays["frames"].shape).astype(np.uint8)

    def rows(valid: np.ndarray | None, made: np.ndarray) -> list[dict[str, float]]:
        given = {**arrays, **({} if valid is None else {"valid": valid})}
        tally = Tally(Learned("cpu"))
        tally.learned.update = lambda real, made: None
        return tally.add(Sample("clip", 0, 0, given, {"model": made}, False), made)

    assert rows(None, made) == rows(np.ones((32, 24), bool), made)
    other = np.where(part[..., None], made, 255 - made)
    assert rows(part, made) == rows(part, other) != rows(None, made)
    assert rows(None, made) != rows(None, other)
    right = np.where(part[..., None], arrays["frames"], made)
    assert {row["psnr"] for row in rows(part, right)} == {100.0}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_new_runs_on_new_stores_leave_it_out_and_old_ones_do_not(tmp_path, tall):
    def config_of(name: str) -> dict[str, object]:
        return json.loads((tmp_path / name / "config.json").read_text())

    store, snapshot = open_store(tall.url), tall.snapshot("main")
    for kind, detector in (("parsing", "pose-guided"), ("flow", "dis")):
        annotate(store, kind, detector, snapshot="main", workers=0)
    plan = {s: StagePlan(1, 1, length=4, chunk=4) for s in STAGES}
    config = small_config(**plan)
    assert config.valid == "auto" and Config(name="of before").valid is False
    said: list[str] = []
    train(store.url, tmp_path / "new", config=config, stages=["layout"], split=None, device="cpu", say=said.append)
    assert config_of("new")["config"]["valid"] is True and config_of("new")["outside"] == "black"
    assert any("valid=true" in line for line in said)
    shutil.copytree(store.url, tmp_path / "store")
    for name in ("store.json", "ledger/store.json"):
        old = json.loads((tmp_path / "store" / name).read_text())
        del old["policy"]["outside"], old["seal"]
        Store(str(tmp_path / "store")).write_json(name, old)
    train(str(tmp_path / "store"), tmp_path / "old", config=config, stages=["layout"], split=None, device="cpu")
    assert config_of("old")["config"]["valid"] is False and config_of("old")["outside"] is None
    # A run from before is resumed as it was, also on a store that could tell.
    info = config_of("new")
    del info["config"]["valid"], info["outside"]
    (tmp_path / "new" / "config.json").write_text(json.dumps(info))
    asked = dataclasses.replace(config, layout=dataclasses.replace(plan["layout"], steps=2))
    train(store.url, tmp_path / "new", config=asked, stages=["layout"], split=None, device="cpu", resume=True)
    assert config_of("new")["config"]["valid"] is False and config_of("new")["outside"] is None
    assert snapshot.layers.keys() < store.snapshot("main").layers.keys()


def test_the_command_takes_it_and_says_what_it_takes(tmp_path, capsys):
    video = _video(tmp_path / "tall.mp4", TALL)
    common = f"build {video} --out {tmp_path / 's'} --size 64x48 --no-layers --workers 0 --finder {__file__}:Red"
    for value, status in (("green", 2), ("blur", 0)):
        assert cli.run(f"{common} --outside {value} --min-frames 8 --json".split()) == status
        said = capsys.readouterr()
        assert "black, blur, smear" in said.err or json.loads(said.out.splitlines()[-1])["clips"] == 1
    assert open_store(str(tmp_path / "s")).outside == "blur"
