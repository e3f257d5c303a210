from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from remot_model.transferring import batch, transfer, views  # noqa: E402
from remot_model.transferring import driving as driving_video  # noqa: E402
from remot_model.transferring.request import TransferError  # noqa: E402
from tests.remot_model.red_people import frames_of, picture, write_image  # noqa: E402

pytestmark = [pytest.mark.usefixtures("seers"), pytest.mark.slow]


@pytest.fixture
def folders(files, tmp_path):
    """Two sources, one of them without a person, two driving videos, and a text."""
    for name in ("sources", "drivings"):
        (tmp_path / name).mkdir()
    shutil.copy(files.source, tmp_path / "sources" / "a.png")
    write_image(tmp_path / "sources" / "empty.png", picture(person=False))
    (tmp_path / "sources" / "notes.txt").write_text("no picture")
    for name in ("x.mp4", "y.mp4"):
        shutil.copy(files.driving, tmp_path / "drivings" / name)
    return tmp_path / "sources", tmp_path / "drivings", files.folder


def test_every_pair_of_two_folders_and_one_that_fails_stops_nobody(run, folders):
    said = []
    report = batch.transfer_all(run, *folders, say=said.append, save=("layout",))
    assert [Path(pair["out"]).name for pair in report["done"]] == ["a--x.mp4", "a--y.mp4"]
    assert [Path(pair["out"]).name for pair in report["failed"]] == ["empty--x.mp4", "empty--y.mp4"]
    assert all("no person was found in the source" in pair["error"] for pair in report["failed"])
    assert report["passed_over"] == ["notes.txt"] and len(said) == 4
    assert json.loads((folders[2] / "transfers.json").read_text()) == report
    again = batch.transfer_all(run, *folders, save=("layout",))
    assert [len(again[kind]) for kind in ("done", "kept", "failed")] == [0, 2, 2]
    other = batch.transfer_all(run, *folders, save=("layout",), background="black")
    assert [len(other[kind]) for kind in ("done", "kept", "failed")] == [2, 0, 2]


def test_an_interrupted_run_over_folders_keeps_what_earlier_ones_made(run, folders, stopping):
    batch.transfer_all(run, *folders)
    stopping(0, KeyboardInterrupt())
    (folders[2] / "a--x.mp4").unlink()
    with pytest.raises(KeyboardInterrupt):
        batch.transfer_all(run, *folders)
    report = batch.transfer_all(run, *folders)
    assert [Path(pair["out"]).name for pair in report["done"]] == ["a--x.mp4"]
    assert [Path(pair["out"]).name for pair in report["kept"]] == ["a--y.mp4"]


def test_pairs_at_once_are_what_each_is_alone(run, folders, tmp_path):
    shutil.copy(folders[0] / "a.png", folders[0] / "b.png")
    one, told = batch.transfer_all(run, *folders[:2], tmp_path / "one", save=("layout",)), []
    seen = []
    three = batch.transfer_all(
        run, *folders, save=("layout",), parallel=3, say=told.append, progress=lambda *pair: seen.append(pair)
    )
    assert sorted(told) == sorted(
        f"{Path(pair['out']).name}: {kind}" + (f": {pair['error']}" if kind == "failed" else "")
        for kind in ("done", "failed")
        for pair in three[kind]
    )
    for kind, count in (("done", 4), ("kept", 0), ("failed", 2)):  # in the order of the pairs, whatever ended first
        assert [Path(p["out"]).name for p in three[kind]] == [Path(p["out"]).name for p in one[kind]]
        assert len(three[kind]) == count
    for pair in three["done"]:
        for name in (Path(pair["out"]).name, f"{Path(pair['out']).stem}.layout.mp4"):
            np.testing.assert_array_equal(frames_of(folders[2] / name), frames_of(tmp_path / "one" / name))
    assert seen[-1] == (4 * 21, 4 * 21)
    assert json.loads((folders[2] / "transfers.json").read_text()) == three
    again = batch.transfer_all(run, *folders, save=("layout",), parallel=2)
    assert [len(again[kind]) for kind in ("done", "kept", "failed")] == [0, 4, 2]
    with pytest.raises(TransferError, match="0 pairs at once"):
        batch.transfer_all(run, *folders, parallel=0)


def test_pairs_at_once_can_be_interrupted_and_go_on(run, folders, tmp_path, monkeypatch):
    """The first pair that makes its second piece stands for Ctrl-C, which reaches who waits for all of them."""
    (folders[0] / "empty.png").unlink()
    monkeypatch.setattr(driving_video, "_CHUNK", 4)
    whole = batch.transfer_all(run, *folders[:2], tmp_path / "whole")
    ends = threading.Event()
    segment = transfer.Work.segment

    def slow(work, *given):
        segment(work, *given)
        if work.frames >= 8:
            ends.set()

    def stopped(futures):
        assert ends.wait(30)
        raise KeyboardInterrupt
        yield

    with monkeypatch.context() as patch:
        patch.setattr(transfer.Work, "segment", slow)
        patch.setattr(batch, "as_completed", stopped)
        patch.setattr(views, "_PIECE_ON_CPU", 1)
        real = views.rollout.transfer
        patch.setattr(views.rollout, "transfer", lambda *a, **o: time.sleep(0.02) or real(*a, **o))
        before = threading.active_count()
        with pytest.raises(KeyboardInterrupt):
            batch.transfer_all(run, *folders, parallel=2)
        assert threading.active_count() == before
    assert {p.name for p in folders[2].iterdir()} == {"a--x.mp4.work", "a--y.mp4.work"}
    report = batch.transfer_all(run, *folders, parallel=2)
    assert max(pair["resumed"] for pair in report["done"]) >= 8
    for pair in whole["done"]:
        name = Path(pair["out"]).name
        np.testing.assert_array_equal(frames_of(folders[2] / name), frames_of(tmp_path / "whole" / name))


def test_pairs_in_the_order_of_names(run, folders):
    pairs, _ = batch._pairs(*folders[:2], "zip")
    assert [(a.name, b.name) for a, b in pairs] == [("a.png", "x.mp4"), ("empty.png", "y.mp4")]
    (folders[1] / "y.mp4").unlink()
    with pytest.raises(TransferError, match="2 sources and 1 driving videos make no pairs"):
        batch._pairs(*folders[:2], "zip")
    pairs, _ = batch._pairs(folders[0] / "a.png", folders[1], "all")
    assert [(a.name, b.name) for a, b in pairs] == [("a.png", "x.mp4")]


def test_a_folder_of_pictures_is_one_driving_video(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for t in range(3):
        write_image(folder / f"{t}.png", picture(40 + t))
    assert not batch.is_folder_of_many(folder, videos_only=True)
    assert batch.is_folder_of_many(folder, videos_only=False)


def test_folders_take_what_a_build_takes(tmp_path, monkeypatch):
    """Whatever its name, and in folders within; pictures and other files beside the videos are passed over."""
    (tmp_path / "phone" / "more").mkdir(parents=True)
    for name in ("a.3gp", "b.without_a_known_end", "more/c.MOV", ".hidden.mp4", "notes.txt"):
        (tmp_path / "phone" / name).write_bytes(b"video")
    write_image(tmp_path / "photo.png", picture()).rename(tmp_path / "phone" / "photo.heic")  # its bytes tell
    for folder in (tmp_path / "phone", Path("phone")):
        monkeypatch.chdir(tmp_path)
        found, others = batch._listed(folder, videos_only=True)
        assert found == [folder / name for name in ("a.3gp", "b.without_a_known_end", "more/c.MOV")]
        assert others == ["notes.txt", "photo.heic"] and batch.is_folder_of_many(folder, videos_only=True)
    sources, others = batch._listed(tmp_path / "phone", videos_only=False)
    assert [path.name for path in sources] == ["a.3gp", "photo.heic"]


def test_folders_that_do_not_serve_are_refused(run, folders, tmp_path):
    with pytest.raises(TransferError, match="name a folder"):
        batch.transfer_all(run, *folders[:2], tmp_path / "one.mp4")
    shutil.copy(folders[0] / "a.png", folders[0] / "a.bmp")
    with pytest.raises(TransferError, match="would both be written to"):
        batch.transfer_all(run, *folders)
