from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from remot_data import media  # noqa: E402
from remot_data.detectors import base as detectors  # noqa: E402
from remot_data.media import in_child, sandbox  # noqa: E402
from remot_model import devices, networks  # noqa: E402
from remot_model.transferring import batch, eyes, transfer, views  # noqa: E402
from remot_model.transferring import driving as driving_video  # noqa: E402
from remot_model.transferring.request import TransferError  # noqa: E402
from tests.remot_data.media.test_sandbox import is_gone, written_in  # noqa: E402
from tests.remot_model.red_people import FPS, Seer, frames_of, picture, write_image, write_video  # noqa: E402

pytestmark = [pytest.mark.usefixtures("seers"), pytest.mark.slow]


def test_every_frame_comes_out_at_the_same_rate(run, files):
    seen = []
    summary = transfer.transfer(
        run, files.source, files.driving, files.out, progress=lambda done, total: seen.append((done, total))
    )
    probe = media.probe(files.out)
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
    assert eyes.load_eyes(hands, "blazepose", "pose-guided").size == (768, 576)
    # What stands for the detector here knows the body alone.
    assert any("trained with hands and face" in note for note in summary["notes"])


def test_several_views_are_side_by_side_at_256_pixels(run, files):
    summary = transfer.transfer(run, files.source, files.driving, files.out, show=("source", "driving", "result"))
    shown = frames_of(files.out)
    assert shown.shape == (21, 256, 3 * 192, 3)
    assert summary["size"] == [256, 576]
    assert Seer.box(shown[0][:, :192]) and Seer.box(shown[0][:, 192:384])


def test_scale_enlarges_and_stages_are_a_second_video(run, files):
    stages = files.folder / "stages.mkv"
    transfer.transfer(run, files.source, files.driving, files.out, scale=3, stages=stages)
    assert media.probe(files.out).size == (72, 96)
    assert media.probe(stages).size == (11 * 192, 256)
    assert media.probe(stages).frames == 21


@pytest.mark.parametrize("piece", [None, 2])
def test_memory_is_carried_over_pieces_and_no_piece_is_large(run, files, monkeypatch, piece):
    monkeypatch.setattr(driving_video, "_CHUNK", 5)
    if piece:
        monkeypatch.setattr(views, "_PIECE_ON_CPU", piece)
    calls = []
    real = views.rollout.transfer

    def spied(*args, states=None, **options):
        done, later = real(*args, states=states, **options)
        calls.append((args[4].shape[1], states, later))
        return done, later

    monkeypatch.setattr(views.rollout, "transfer", spied)
    transfer.transfer(run, files.source, files.driving, files.out)
    assert [length for length, _, _ in calls] == ([2, 2, 1] * 4 + [1] if piece else [1] * 21)
    assert not calls[0][1]
    for (_, _, left), (_, taken, _) in zip(calls, calls[1:], strict=False):
        assert taken is left


@pytest.mark.parametrize("gam", ["paper", "steady"])
def test_the_frames_do_not_depend_on_how_many_go_through_at_once(run, files, monkeypatch, gam):
    made = []
    for piece in (1, 8):
        monkeypatch.setattr(views, "_PIECE_ON_CPU", piece)
        transfer.transfer(run, files.source, files.driving, files.out, gam=gam)
        made.append(frames_of(files.out))
    np.testing.assert_array_equal(*made)


def with_sound(driving: Path, path: Path) -> Path:
    sine = ["-f", "lavfi", "-i", "sine=frequency=440:duration=3", "-shortest", "-c:v", "copy", "-c:a", "aac"]
    command = [media.ffmpeg_binary(), "-v", "error", "-i", str(driving), *sine, str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def test_the_sound_of_the_driving_video_is_kept(run, files, tmp_path):
    loud = with_sound(files.driving, tmp_path / "loud.mp4")
    for times in ({}, {"start": 0.4, "end": 1.2}):
        summary = transfer.transfer(run, files.source, loud, files.out, **times)
        assert summary["sound"] and media.probe(files.out).has_audio
        assert media.probe(files.out).frames == summary["frames"]
    assert [p.name for p in files.folder.iterdir()] == ["result.mp4"]


def test_sound_that_cannot_be_copied_is_reported_not_fatal(run, files, tmp_path, monkeypatch):
    loud = with_sound(files.driving, tmp_path / "loud.mp4")
    program = tmp_path / "ffmpeg"  # knows no sound
    strange = '#!/bin/sh\ncase "$*" in *acodec*) echo strange codec >&2; exit 1;; esac\nexec '
    program.write_text(f'{strange}{media.carried_ffmpeg()} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("REMOT_FFMPEG", str(program))
    summary = transfer.transfer(run, files.source, loud, files.out)
    assert not summary["sound"] and "strange codec" in summary["notes"][0]
    assert media.probe(files.out).frames == 21


def test_frames_without_a_person_repeat_the_pose_and_are_counted(run, files, tmp_path):
    frames = [picture(40 + t, person=t not in (7, 8, 9)) for t in range(15)]
    summary = transfer.transfer(run, files.source, write_video(tmp_path / "gap.mp4", frames), files.out)
    assert (summary["frames"], summary["frames_without_pose"]) == (15, 3)
    assert "3 frames" in summary["notes"][0]


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
    refused(run, files, "no region hat; there are top", regions={"hat": files.source})
    refused(run, files, "no GAM 'best'; there are paper, steady", gam="best")
    refused(run, files, "no view nothing", save=("nothing",))
    refused(run, files, "name a view", show=())
    refused(run, files, "makes parsing, not pose", pose="pose-guided")


def test_a_decoder_that_hangs_or_dies_ends_the_transfer_in_a_sentence(run, files, decoder):
    decoder("frames", "hangs")
    refused(run, files, r"^.*driving.mp4: no sign of life for 1 s, after 0 messages \(timeout\)$")
    decoder("frames", "dies")
    refused(run, files, r"^.*driving.mp4: the process was ended by SIGABRT; its last words: .* \(crashed\)$")
    decoder("working", "dies")
    refused(run, files, r"^.*driving.mp4: .* \(crashed\)$")


def test_a_decoder_that_is_killed_from_outside_leaves_what_was_made(run, files, decoder, monkeypatch):
    monkeypatch.setattr(driving_video, "_CHUNK", 4)
    with monkeypatch.context() as patch:
        real = transfer.find_driving

        def found(*given):
            drive = real(*given)
            decoder("frames", "is_killed")
            return drive

        patch.setattr(transfer, "find_driving", found)
        with pytest.raises(TransferError, match="driving.mp4: the process was killed from outside"):
            transfer.transfer(run, files.source, files.driving, files.out)
    assert [p.name for p in files.folder.iterdir()] == ["result.mp4.work"]
    decoder("nothing", "")
    summary = transfer.transfer(run, files.source, files.driving, files.out)
    assert summary["resumed"] in (4, 8) and summary["frames"] == 21


INTERRUPTED = """
import sys
sys.path[:] = {path!r}
from pathlib import Path
from remot_data.media import sandbox
from remot_model.transferring.driving import find_driving
from tests import bad_decoders

sandbox.call = bad_decoders.taken("frames", "hangs")
try:
    find_driving(Path({driving!r}), (32, 24), None, None)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does this")
@pytest.mark.parametrize(("how", "said"), [(signal.SIGINT, b"interrupted\n"), (signal.SIGKILL, b"")])
def test_a_transfer_that_is_ended_leaves_no_decoder_behind(files, tmp_path, how, said):
    note = tmp_path / "pid"
    code = INTERRUPTED.format(path=sys.path, driving=str(files.driving))
    environment = {**os.environ, "REMOT_TEST_NOTE": str(note)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    pid = written_in(note)
    assert not is_gone(pid, 0.2)
    process.send_signal(how)
    assert process.communicate(timeout=60)[0] == said
    assert is_gone(pid, 5)


def test_a_video_in_which_no_pose_is_found_is_refused(run, files, monkeypatch):
    real = Seer.__call__
    blind = lambda self, frames, **needed: real(self, frames * np.uint8(len(frames) == 1), **needed)  # noqa: E731
    monkeypatch.setattr(Seer, "__call__", blind)
    refused(run, files, "no pose was found in any of 21 frames")


def test_runs_that_do_not_serve_are_refused(run, files, tmp_path):
    refused(tmp_path, files, "is no run folder")
    part = dataclasses.replace(run, generators={"layout": run.generators["layout"]})
    refused(part, files, "no trained region and whole stage; train it with `remot train STORE --stage region")


@pytest.mark.parametrize("gam", ["paper", "steady"])
def test_an_interrupted_transfer_goes_on_and_gives_the_same_frames(run, files, tmp_path, monkeypatch, gam, stopping):
    shots = [picture(40 + 2 * t, person=t not in (7, 8, 9)) for t in range(14)]
    shots += [picture(90 - t, colour=(200, 220, 240)) for t in range(9)]
    driving = with_sound(write_video(tmp_path / "cut.mp4", shots), tmp_path / "loud.mp4")
    options = {"gam": gam, "save": ("layout",), "png": True}
    stopping(100, KeyboardInterrupt())
    whole = transfer.transfer(run, files.source, driving, tmp_path / "whole" / "result.mp4", **options)
    stopping(3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        transfer.transfer(run, files.source, driving, files.out, **options)
    assert not sandbox._the_keeper()._busy
    assert [p.name for p in files.folder.iterdir()] == ["result.mp4.work"]
    # The video is not looked through again.
    monkeypatch.setattr(transfer, "find_driving", None)
    rest = transfer.transfer(run, files.source, driving, files.out, **options)
    assert (whole["resumed"], rest["resumed"], rest["frames"], rest["frames_without_pose"]) == (0, 12, 23, 3)
    assert sorted(p.name for p in files.folder.iterdir()) == ["result.layout", "result.mp4"]
    np.testing.assert_array_equal(frames_of(files.out), frames_of(tmp_path / "whole" / "result.mp4"))
    assert media.probe(files.out) == media.probe(tmp_path / "whole" / "result.mp4")
    pictures = sorted((files.folder / "result.layout").iterdir())
    assert [p.name for p in pictures] == [f"{t:06d}.png" for t in range(23)]
    for path in pictures:
        assert path.read_bytes() == (tmp_path / "whole" / "result.layout" / path.name).read_bytes()


def test_several_threads_that_look_see_what_one_sees(run, files, tmp_path, monkeypatch):
    monkeypatch.setattr(driving_video, "_CHUNK", 4)
    shots = [picture(40 + 2 * t, person=t not in (3, 4, 5, 12)) for t in range(14)]
    shots += [picture(90 - t, colour=(200, 220, 240)) for t in range(9)]
    driving = write_video(tmp_path / "cut.mp4", shots)
    made = {}
    for count in (1, 3):
        monkeypatch.setattr(transfer.Transfer, "_lookers", lambda self, count=count: count)
        out = tmp_path / f"{count}.mp4"
        made[count] = transfer.transfer(run, files.source, driving, out, gam="steady", show=("pose", "result"))
        made[count] |= {"frames": frames_of(out)}
    np.testing.assert_array_equal(made[1]["frames"], made[3]["frames"])
    assert made[1]["frames_without_pose"] == made[3]["frames_without_pose"] == 4


def test_an_error_of_the_writing_thread_comes_out_and_leaves_what_was_written(run, files, monkeypatch):
    monkeypatch.setattr(driving_video, "_CHUNK", 4)
    segment = transfer.Work.segment

    def fails(work, *given):
        if work.frames == 8:
            raise OSError(28, "No space left on device")
        segment(work, *given)

    with monkeypatch.context() as patch:
        patch.setattr(transfer.Work, "segment", fails)
        with pytest.raises(TransferError, match="cannot be read or written: .*No space left"):
            transfer.transfer(run, files.source, files.driving, files.out)
    assert [p.name for p in files.folder.iterdir()] == ["result.mp4.work"]
    summary = transfer.transfer(run, files.source, files.driving, files.out)
    assert (summary["resumed"], summary["frames"]) == (8, 21)


def test_an_error_of_the_reading_thread_comes_out(run, files, monkeypatch):
    real = transfer.read_pieces

    def breaks(*given):
        yield next(real(*given))
        raise media.VideoError("no-frames", "the stream ends")

    monkeypatch.setattr(driving_video, "_CHUNK", 4)
    monkeypatch.setattr(transfer, "read_pieces", breaks)
    in_child.probe(files.driving)  # the thread that keeps children is there to stay
    before = threading.active_count()
    refused(run, files, "the stream ends .no-frames.")
    assert threading.active_count() == before


def test_another_job_does_not_go_on_from_the_work_of_this_one(run, files, tmp_path, monkeypatch, caplog, stopping):
    stopping(3, RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        transfer.transfer(run, files.source, files.driving, files.out)
    other = write_image(tmp_path / "other.png", picture(50))
    summary = transfer.transfer(run, other, files.driving, files.out)
    assert summary["resumed"] == 0 and "another job" in caplog.text
    assert [p.name for p in files.folder.iterdir()] == ["result.mp4"]


def test_the_times_of_the_joined_segments_are_even(run, files, monkeypatch):
    monkeypatch.setattr(driving_video, "_CHUNK", 4)
    for suffix in (".mp4", ".mkv", ".mov"):
        out = files.out.with_suffix(suffix)
        transfer.transfer(run, files.source, files.driving, out)
        seconds = np.array([pts for pts, _ in media.read(out)]) * np.divide(*media.probe(out).time_base)
        np.testing.assert_allclose(np.diff(seconds), 1 / FPS, atol=1.1e-3)


def test_two_at_once_do_not_write_the_same_output(run, files):
    def second(done: int, total: int) -> None:
        with pytest.raises(TransferError, match="is being written by process"):
            transfer.transfer(run, files.source, files.driving, files.out)

    assert transfer.transfer(run, files.source, files.driving, files.out, progress=second)["frames"] == 21


def test_views_are_saved_as_videos(run, files):
    summary = transfer.transfer(run, files.source, files.driving, files.out, save=("regions", "mask"), scale=2)
    assert [Path(p).name for p in summary["saved"]] == ["result.regions.mp4", "result.mask.mp4"]
    assert [media.probe(p).size for p in summary["saved"]] == [(5 * 48, 64), (48, 64)]
    assert all(media.probe(p).frames == 21 for p in summary["saved"])


def test_a_region_of_another_source_changes_the_result_but_not_the_background(run, files, tmp_path):
    blue = cv2.imread(str(files.source))[..., ::-1].copy()
    blue[30:100, 60:70] = (180, 60, 220)  # still red enough to be found
    other = write_image(tmp_path / "other.png", blue)
    made = {}
    for name, regions in (("plain", {}), ("mixed", {"top": other})):
        out = files.folder / f"{name}.mp4"
        transfer.transfer(run, files.source, files.driving, out, show=("source", "aligned"), regions=regions)
        made[name] = frames_of(out)[5].astype(int)
    difference = np.abs(made["plain"] - made["mixed"]).max(-1)
    rows = np.flatnonzero((difference[:, :192] > 40).any(1))
    box = Seer.box(made["plain"][:, :192].astype(np.uint8))
    tall = box[3] - box[1]
    assert box[1] + 0.1 * tall < rows[0] and rows[-1] < box[1] + 0.6 * tall
    assert (difference[:, 192:] > 40).any()


@pytest.mark.parametrize(("factor", "size"), [(0.5, (121, 161)), (2.0, (301, 203))])
def test_driving_persons_half_and_twice_as_tall_give_the_same_person_in_the_crop(run, files, tmp_path, factor, size):
    def drawn(t: int) -> np.ndarray:
        image = np.full((*size, 3), 90, np.uint8)
        tall, wide = round(70 * factor), round(24 * factor)
        image[40 : 40 + tall, 50 + t : 50 + t + wide] = (220, 30, 30)
        return image

    driving = write_video(tmp_path / "other.mkv", [pad_even(drawn(t)) for t in range(9)])
    shown = {}
    for name, path in (("same", files.driving), ("other", driving)):
        out = files.folder / f"{name}.mp4"
        transfer.transfer(run, files.source, path, out, show=("source", "driving"), end=0.7)
        shown[name] = frames_of(out)[3]
        heights = [Seer.box(half) for half in np.split(shown[name], 2, 1)]
        source, drive = (box[3] - box[1] for box in heights)
        assert source == pytest.approx(drive, rel=0.1)


def pad_even(image: np.ndarray) -> np.ndarray:
    return np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use")
@pytest.mark.parametrize("graphs", [False, True])
def test_on_a_card_an_interrupted_transfer_and_several_at_once_give_the_same_frames(
    run, files, tmp_path, monkeypatch, graphs
):
    auto = dict.fromkeys(("precision", "channels_last", "gpu_kernels"), "auto")
    config = dataclasses.replace(run.config, crop_regions=False, cuda_graphs=graphs, **auto)
    config = devices.resolved(config, "cuda")
    nets = {s: networks.generator(s, config).to("cuda").eval().requires_grad_(False) for s in config.stages}
    card = dataclasses.replace(run, config=config, generators=nets)
    driving = write_video(tmp_path / "long.mp4", [picture(40 + t // 4) for t in range(230)])
    options = {"device": "cuda", "save": ("flow", "regions", "mask", "gam"), "png": True}
    whole = transfer.transfer(card, files.source, driving, tmp_path / "whole" / "result.mp4", **options)
    assert any("one by one" in note for note in whole["notes"]) is not graphs
    segment = transfer.Work.segment

    def stops(work, *given):
        if work.frames == 128:
            raise OSError(28, "No space left on device")
        segment(work, *given)

    with monkeypatch.context() as patch:
        patch.setattr(transfer.Work, "segment", stops)
        with pytest.raises(TransferError, match="No space left"):
            transfer.transfer(card, files.source, driving, files.out, **options)
    assert transfer.transfer(card, files.source, driving, files.out, **options)["resumed"] == 128
    (tmp_path / "drivings").mkdir()
    for name in "abcd":
        shutil.copy(driving, tmp_path / "drivings" / f"{name}.mp4")
    many = batch.transfer_all(card, files.source, tmp_path / "drivings", tmp_path / "many", parallel=4, **options)
    assert len(many["done"]) == 4
    made = [files.out, *(Path(pair["out"]) for pair in many["done"])]
    for path in made:
        np.testing.assert_array_equal(frames_of(path), frames_of(tmp_path / "whole" / "result.mp4"))
        for view in options["save"]:
            for picture_of in sorted((tmp_path / "whole" / f"result.{view}").iterdir()):
                other = path.with_name(f"{path.stem}.{view}") / picture_of.name
                assert other.read_bytes() == picture_of.read_bytes()


# Folders
