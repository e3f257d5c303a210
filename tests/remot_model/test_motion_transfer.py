from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from remot_data import people, video  # noqa: E402
from remot_data.detectors import base as detectors  # noqa: E402
from remot_model import motion_transfer as transfer  # noqa: E402
from remot_model import networks  # noqa: E402
from remot_model.checkpoint import Run  # noqa: E402
from remot_model.config import preset  # noqa: E402
from remot_model.motion_transfer import TransferError  # noqa: E402

CONFIG = dataclasses.replace(preset("tiny"), name="test", size=(32, 24), ngf=4, n_blocks=2, decoder_blocks=1)
FPS = 12.5
GREY, RED = (90, 90, 90), (220, 30, 30)
# The first 15 points of BODY_25 in a box of 1 x 1.
STANDING = np.array(
    [(0.5, 0.1), (0.5, 0.2), (0.3, 0.2), (0.1, 0.3), (0.0, 0.1), (0.7, 0.2), (0.9, 0.35), (1.0, 0.5), (0.5, 0.5)]
    + [(0.4, 0.5), (0.2, 0.7), (0.3, 1.0), (0.6, 0.5), (0.8, 0.75), (0.7, 1.0)]
)


class Seer:
    """Finds red rectangles: as people, as poses and as layouts."""

    name, version, licence, approximate = "red", "1", "none", False

    def __init__(self, kind: str, needs: tuple[str, ...] = ()) -> None:
        self.kind, self.needs, self.schema = kind, needs, {"pose": "body25", "parsing": "atr18"}[kind]

    def fingerprint(self) -> dict:
        return {"detector": self.name}

    @staticmethod
    def box(frame: np.ndarray) -> tuple[float, ...] | None:
        y, x = np.nonzero((frame[..., 0] > 150) & (frame[..., 1] < 100))
        return None if not len(x) else (x.min(), y.min(), x.max() + 1, y.max() + 1)

    def body_boxes(self, frame: np.ndarray, tiles: bool = False) -> list[SimpleNamespace]:
        box = self.box(frame)
        return [SimpleNamespace(box=tuple(float(v) for v in box), score=0.9)] if box else []

    def __call__(self, frames: np.ndarray, **needed) -> dict[str, np.ndarray]:
        points = np.zeros((len(frames), 25, 3), np.float32)
        labels = np.zeros(frames.shape[:3], np.uint8)
        for t, frame in enumerate(frames):
            if box := self.box(frame):
                x0, y0, x1, y1 = (int(v) for v in box)
                points[t, :15, :2] = (x0, y0) + STANDING * (x1 - x0, y1 - y0)
                points[t, :15, 2] = 1
                labels[t, y0:y1, x0:x1] = 4
                labels[t, (y0 + y1) // 2 : y1, x0:x1] = 6
        if self.kind == "pose":
            return {"keypoints": points, "mask": (labels > 0).astype(np.uint8) * 255}
        return {"labels": labels}


@pytest.fixture(autouse=True)
def seers(monkeypatch):
    real = detectors.load
    found = {"blazepose": Seer("pose"), "pose-guided": Seer("parsing", ("pose",))}
    monkeypatch.setattr(detectors, "load", lambda spec, **more: found[spec] if spec in found else real(spec, **more))
    people._finder.cache_clear()
    yield
    people._finder.cache_clear()


def picture(x: int = 60, person: bool = True, colour=GREY, size=(120, 160)) -> np.ndarray:
    image = np.full((*size, 3), colour, np.uint8)
    if person:
        image[30:100, x : x + 24] = RED
    return image


def write_image(path: Path, image: np.ndarray) -> Path:
    cv2.imwrite(str(path), image[..., ::-1])
    return path


def write_video(path: Path, frames: list[np.ndarray], fps: float = FPS) -> Path:
    with video.VideoWriter(path, fps, frames[0].shape[:2]) as out:
        for frame in frames:
            out.write(frame)
    return path


@pytest.fixture
def run(tmp_path) -> Run:
    torch.manual_seed(0)
    nets = {s: networks.generator(s, CONFIG).eval().requires_grad_(False) for s in CONFIG.stages}
    return Run(tmp_path / "run", CONFIG, nets, {"pose": "body25", "labels": "remot11"}, {})


@pytest.fixture
def files(tmp_path) -> SimpleNamespace:
    """A source image and a driving video of 21 frames."""
    source = write_image(tmp_path / "source.png", picture())
    driving = write_video(tmp_path / "driving.mp4", [picture(40 + 2 * t) for t in range(21)])
    (tmp_path / "out").mkdir()
    return SimpleNamespace(source=source, driving=driving, out=tmp_path / "out" / "result.mp4", folder=tmp_path / "out")


def frames_of(path: Path) -> np.ndarray:
    return np.stack([frame for _, frame in video.read(path)])


def test_every_frame_comes_out_at_the_same_rate(run, files):
    seen = []
    summary = transfer.transfer(
        run, files.source, files.driving, files.out, progress=lambda done, total: seen.append((done, total))
    )
    probe = video.probe(files.out)
    assert (probe.frames, probe.size) == (21, (24, 32))
    assert probe.fps == pytest.approx(FPS)
    assert summary["frames"] == 21 and summary["size"] == [32, 24] and summary["notes"] == []
    assert seen[-1] == (21, 21)
    assert [p.name for p in files.folder.iterdir()] == ["result.mp4"]


def test_a_run_trained_with_hands_asks_the_default_detector_for_them(run, files, monkeypatch):
    hands = dataclasses.replace(run, schemas={**run.schemas, "pose": "openpose137"})
    asked = []
    seers = detectors.load
    monkeypatch.setattr(detectors, "load", lambda spec, **more: asked.append((spec, more)) or seers(spec, **more))
    summary = transfer.transfer(hands, files.source, files.driving, files.out)
    assert ("blazepose", {"settings": {"hands_face": True}}) in asked and ("pose-guided", {}) in asked
    assert transfer._eyes(hands, "blazepose", "pose-guided").size == (768, 576)
    # What stands for the detector here knows the body alone.
    assert any("trained with hands and face" in note for note in summary["notes"])


def test_side_by_side_shows_source_driving_and_result_at_256_pixels(run, files):
    summary = transfer.transfer(run, files.source, files.driving, files.out, side_by_side=True)
    shown = frames_of(files.out)
    assert shown.shape == (21, 256, 3 * 192, 3)
    assert summary["size"] == [256, 576]
    assert Seer.box(shown[0][:, :192]) and Seer.box(shown[0][:, 192:384])


def test_scale_enlarges_and_stages_are_a_second_video(run, files):
    stages = files.folder / "stages.mkv"
    transfer.transfer(run, files.source, files.driving, files.out, scale=3, stages=stages)
    assert video.probe(files.out).size == (72, 96)
    assert video.probe(stages).size == (6 * 192, 256)
    assert video.probe(stages).frames == 21


def test_memory_is_carried_over_pieces_and_no_piece_is_large(run, files, monkeypatch):
    monkeypatch.setattr(transfer, "_CHUNK", 5)
    monkeypatch.setattr(transfer, "_PIECE", 2)
    calls = []
    real = transfer.rollout.transfer

    def spied(*args, states=None):
        done, later = real(*args, states=states)
        calls.append((args[4].shape[1], states, later))
        return done, later

    monkeypatch.setattr(transfer.rollout, "transfer", spied)
    transfer.transfer(run, files.source, files.driving, files.out)
    assert [length for length, _, _ in calls] == [2, 2, 1] * 4 + [1]
    assert calls[0][1] is None
    for (_, _, left), (_, taken, _) in zip(calls, calls[1:], strict=False):
        assert taken is left


def test_a_cut_begins_anew(run, files, tmp_path):
    shots = [picture(40 + t) for t in range(12)] + [picture(90 - t, colour=(200, 220, 240)) for t in range(9)]
    drive = transfer.find_driving(write_video(tmp_path / "cut.mp4", shots), CONFIG.size, None, None)
    assert drive.shots == {0, 12}
    pieces = [(begins, len(frames)) for begins, frames in transfer._pieces(drive, (256, 192))]
    assert pieces == [(True, 12), (True, 9)]
    eyes = transfer._eyes(run, "blazepose", "pose-guided")
    who = transfer.find_source(files.source, eyes)
    made = []
    for start in (0, 1):
        renderer = transfer.Renderer(run, who, np.zeros((32, 24, 3), np.uint8), eyes, torch.device("cpu"))
        made.append([renderer(*piece)["result"] for piece in list(transfer._pieces(drive, eyes.size))[start:]][-1])
    np.testing.assert_array_equal(*made)


def test_a_part_of_the_driving_video(run, files):
    whole = transfer.find_driving(files.driving, CONFIG.size, None, None)
    part = transfer.find_driving(files.driving, CONFIG.size, 0.4, 1.2)
    assert (whole.frames, part.frames) == (21, 10)
    first = next(transfer._pieces(dataclasses.replace(part, crop=whole.crop), (64, 48)))[1][0]
    np.testing.assert_array_equal(first, next(transfer._pieces(whole, (64, 48)))[1][5])
    with pytest.raises(TransferError, match="no frame from 9 s"):
        transfer.find_driving(files.driving, CONFIG.size, 9, None)


def with_sound(files, path: Path) -> Path:
    sine = ["-f", "lavfi", "-i", "sine=frequency=440:duration=3", "-shortest", "-c:v", "copy", "-c:a", "aac"]
    command = [video.ffmpeg_binary(), "-v", "error", "-i", str(files.driving), *sine, str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def test_the_sound_of_the_driving_video_is_kept(run, files, tmp_path):
    loud = with_sound(files, tmp_path / "loud.mp4")
    for times in ({}, {"start": 0.4, "end": 1.2}):
        summary = transfer.transfer(run, files.source, loud, files.out, **times)
        assert summary["sound"] and video.probe(files.out).has_audio
        assert video.probe(files.out).frames == summary["frames"]
    assert [p.name for p in files.folder.iterdir()] == ["result.mp4"]


def test_sound_that_cannot_be_copied_is_reported_not_fatal(run, files, tmp_path, monkeypatch):
    def fails(*args):
        raise video.EncodeError("strange codec")

    monkeypatch.setattr(video, "mux_audio", fails)
    summary = transfer.transfer(run, files.source, with_sound(files, tmp_path / "loud.mp4"), files.out)
    assert not summary["sound"] and "strange codec" in summary["notes"][0]
    assert video.probe(files.out).frames == 21


def test_frames_without_a_person_repeat_the_pose_and_are_counted(run, files, tmp_path):
    frames = [picture(40 + t, person=t not in (7, 8, 9)) for t in range(15)]
    summary = transfer.transfer(run, files.source, write_video(tmp_path / "gap.mp4", frames), files.out)
    assert (summary["frames"], summary["frames_without_pose"]) == (15, 3)
    assert "3 frames" in summary["notes"][0]


def test_backgrounds(run, files, tmp_path):
    eyes = transfer._eyes(run, "blazepose", "pose-guided")
    who = transfer.find_source(files.source, eyes)
    drive = transfer.find_driving(files.driving, CONFIG.size, None, None)
    blue = write_image(tmp_path / "blue.png", np.full((50, 90, 3), (10, 20, 200), np.uint8))

    def found(choice):
        return transfer.find_background(choice, who, drive, eyes, CONFIG.size)

    for choice in ("source", "driving"):
        assert found(choice).shape == (32, 24, 3)
        assert np.abs(found(choice).astype(int) - 90).max() < 12, choice
    assert not found("black").any()
    assert (found(str(blue)) == (10, 20, 200)).all()
    with pytest.raises(TransferError, match="nor one of source, driving, black"):
        found("somewhere")


def test_the_source_person_is_as_tall_in_its_crop_as_the_driving_person(run, files):
    eyes = transfer._eyes(run, "blazepose", "pose-guided")
    heights = {}
    for share in (0.3, 0.6):
        labels = transfer.find_source(files.source, eyes, share).labels
        heights[share] = np.flatnonzero(labels.any(1)).size / labels.shape[0]
    assert heights == pytest.approx({0.3: 0.3, 0.6: 0.6}, abs=0.05)


def test_a_video_can_be_the_source(run, files):
    eyes = transfer._eyes(run, "blazepose", "pose-guided")
    who = transfer.find_source(files.driving, eyes)
    assert who.image.shape == (256, 192, 3)
    assert set(np.unique(who.labels)) == {0, 1, 2}


def test_cut_repeats_the_border_outside():
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    want = np.pad(image, ((1, 2), (2, 0), (0, 0)), mode="edge")
    np.testing.assert_array_equal(transfer.cut(image, (-2, -1, 7, 7), (7, 7)), want)
    np.testing.assert_array_equal(transfer.cut(image, (1, 1, 3, 2), (2, 3)), image[1:3, 1:4])


def refused(run, files, words: str, **changes) -> None:
    arguments = {"source": files.source, "driving": files.driving, "out": files.out, **changes}
    with pytest.raises(TransferError, match=words):
        transfer.transfer(run, **arguments)
    assert list(files.folder.iterdir()) == []


def test_files_that_do_not_serve_are_refused(run, files, tmp_path):
    empty = write_image(tmp_path / "empty.png", picture(person=False))
    still = write_video(tmp_path / "still.mp4", [picture(person=False)] * 5)
    (tmp_path / "text.mp4").write_text("no video")
    refused(run, files, "no person was found in the source .*empty.png", source=empty)
    refused(run, files, "no person was found in the driving video .*still.mp4", driving=still)
    refused(run, files, "text.mp4", driving=tmp_path / "text.mp4")
    refused(run, files, "neither an image nor a video", source=tmp_path / "text.mp4")
    refused(run, files, "there is no file .*absent.png", source=tmp_path / "absent.png")
    refused(run, files, "absent.mp4 is not a file", driving=tmp_path / "absent.mp4")
    refused(run, files, "end its name with .mp4", out=files.folder / "result.gif")
    refused(run, files, "driving.mp4 is named twice", out=files.driving)
    refused(run, files, "result.mp4 is named twice", stages=files.out)
    refused(run, files, "no detector is called", pose="nothing")
    refused(run, files, "makes parsing, not pose", pose="pose-guided")


def test_a_video_in_which_no_pose_is_found_is_refused(run, files, monkeypatch):
    real = Seer.__call__
    blind = lambda self, frames, **needed: real(self, frames * np.uint8(len(frames) == 1), **needed)  # noqa: E731
    monkeypatch.setattr(Seer, "__call__", blind)
    refused(run, files, "no pose was found in any of 21 frames")


def test_runs_that_do_not_serve_are_refused(run, files, tmp_path):
    refused(tmp_path, files, "is no run folder")
    part = dataclasses.replace(run, generators={"layout": run.generators["layout"]})
    refused(part, files, "no trained region and whole stage; train it with `remot train STORE --stage region")


def test_an_error_midway_leaves_nothing_behind(run, files, monkeypatch):
    calls = []
    real = transfer.rollout.transfer

    def fails_later(*args, **options):
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("out of memory")
        return real(*args, **options)

    monkeypatch.setattr(transfer.rollout, "transfer", fails_later)
    with pytest.raises(RuntimeError, match="out of memory"):
        transfer.transfer(run, files.source, files.driving, files.out)
    assert list(files.folder.iterdir()) == []


def test_images_are_rounded_to_bytes():
    images = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]).reshape(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert transfer.to_uint8(images)[0, 0, :, 0].tolist() == [0, 0, 128, 191, 255, 255]
