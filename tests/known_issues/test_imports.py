"""Files that were made of other frames than those of the video, and were taken for its own.

Made input: a video of 20 frames at 20 frames a second, and OpenPose files or label PNGs as a tool writes them that read
it at another rate, stopped early, or saw another picture. Right: what does not fit is refused, video by video, and no
snapshot is switched; with the frame rate of the files every frame has that which is next to it in time.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from remot_data import media
from remot_data.cli import run
from remot_data.exchange.importers import import_layer
from remot_data.store import StoreError, open_store
from tests.remot_data.exchange.conftest import CROP, SIZE, made_store, write_png, write_pose

COUNT, RATE, PICTURE = 20, 20, (200, 160)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "plain.mp4"
    with media.VideoWriter(path, RATE, PICTURE[::-1]) as out:
        for t in range(COUNT):
            out.write(np.full((*PICTURE[::-1], 3), 5 * t, np.uint8))
    return path


@pytest.fixture
def store(tmp_path, video):
    """A clip of each of two copies of the video."""
    again = shutil.copy(video, tmp_path / "again.mp4")
    times = [pts for pts, _ in media.read(video)]
    return made_store(tmp_path / "store", [(video, times), (again, times)])


def body(t, scale=1.0):
    """Somebody in the middle of the crop, one pixel further right in each frame."""
    points = np.stack([np.linspace(80, 120, 25) + t, np.linspace(30, 140, 25), np.full(25, 0.9)], 1)
    return points * [scale, scale, 1]


def poses(folder, numbers, at=lambda t: t, scale=1.0):
    return write_pose(folder, [f"{n:04d}_keypoints" for n in numbers], [[body(at(n), scale)] for n in numbers])


def imported(store, tmp_path, **options):
    return import_layer(store, "pose", tmp_path / "files/{stem}", form="openpose", snapshot="new", workers=0, **options)


def right_by(store, summary, clip):
    """How far right of its place in frame 0 the body is in each frame of a clip, in source pixels."""
    points = store.read_arrays(f"layers/pose/{summary.id}", "pose", store.clips[clip])["keypoints"]
    return (points[:, 0, 0] * CROP[2] / SIZE[1] + CROP[0] - 80).round(3)


@pytest.mark.parametrize(
    ("numbers", "options", "reason"),
    [
        (range(10), {}, r"from 0 to 9, the frames 0 to 19; .*--fps 9\.474 would fit.*--missing none"),
        (range(1, 41), {}, r"from 1 to 40, the frames 1 to 20; .*--fps 41\.05 would fit\)$"),
        (range(1, 41), {"missing": "none"}, "from 1 to 40, the frames 1 to 20"),
        (range(COUNT), {"first": 1}, "from 0 to 19, the frames 1 to 20"),
        (range(COUNT), {"fps": 10}, "from 0 to 19, the frames 0 to 10"),
    ],
)
def test_files_of_other_frames_are_refused_and_no_snapshot_switched(store, tmp_path, numbers, options, reason):
    poses(tmp_path / "files/plain", numbers)
    with pytest.raises(StoreError, match=f"clip-0: .*{reason}"):
        imported(store, tmp_path, **options)
    assert "new" not in open_store(store.url).snapshots


def test_what_fits_is_imported_and_what_does_not_is_listed(store, tmp_path, capsys):
    poses(tmp_path / "files/plain", range(10))
    poses(tmp_path / "files/again", range(COUNT))
    arguments = [store.url, str(tmp_path / "files"), "--layer", "pose", "--form", "openpose", "--snapshot", "new"]
    assert run(["import", *arguments, "--workers", "0", "--json"]) == 1
    said = capsys.readouterr().out
    assert "snapshot new stays as it is: files of 1 clips do not fit" in said
    (summary,) = json.loads(said.splitlines()[-1])["layers"]
    assert summary["refused"] == ["clip-0"] == list(summary["failed"])
    assert "new" not in open_store(store.url).snapshots


def test_nobody_after_the_last_file_where_that_is_meant(store, tmp_path):
    for name in ("plain", "again"):
        poses(tmp_path / "files" / name, range(10))
    done = imported(store, tmp_path, missing="none")
    assert (done.absent, done.nobody, done.failed) == (20, 20, {})
    assert "new" in open_store(store.url).snapshots


@pytest.mark.parametrize("rate", [10, 40])
def test_files_of_another_rate_are_taken_by_time(store, tmp_path, rate):
    for name, first in (("plain", 0), ("again", 1)):
        poses(tmp_path / "files" / name, range(first, COUNT * rate // RATE + first), lambda n, f=first: n - f)
    done = imported(store, tmp_path, fps=rate)
    assert (done.failed, done.nobody) == ({}, 0)
    for clip in range(2):
        moved = right_by(store, done, clip)
        assert np.abs(moved - np.arange(COUNT) * rate / RATE).max() <= 0.5, moved


@pytest.mark.parametrize(
    ("scale", "reason"), [(4.0, "lie outside the picture of 200x160"), (1 / 1000, "are no pixels")]
)
def test_keypoints_of_other_pictures(store, tmp_path, scale, reason):
    for name in ("plain", "again"):
        poses(tmp_path / "files" / name, range(COUNT), scale=scale)
    with pytest.raises(StoreError, match=reason):
        imported(store, tmp_path)


def test_keypoints_beside_the_clip(store, tmp_path):
    aside = body(0) * [0.2, 1, 1]
    for name in ("plain", "again"):
        write_pose(tmp_path / "files" / name, [f"{t:03d}" for t in range(COUNT)], [[aside]] * COUNT)
    with pytest.raises(StoreError, match="not one of the persons in its files is in the clip's part"):
        imported(store, tmp_path)


def test_labels_that_are_numbered_past_the_last_frame(store, tmp_path):
    for number in range(1, 2 * COUNT + 1):
        write_png(tmp_path / f"files/plain/{number:04d}.png", np.zeros(PICTURE[::-1], np.uint8))
    with pytest.raises(StoreError, match="from 1 to 40, the frames 1 to 20"):
        import_layer(store, "parsing", tmp_path / "files/{stem}", form="labels", schema="atr18", workers=0)
