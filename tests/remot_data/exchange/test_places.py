"""Which file belongs to which clip and frame."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from remot_data import media
from remot_data.exchange.importers import import_layer
from remot_data.store import StoreError
from tests.remot_data.exchange.conftest import FRAMES, layer, made_store, through_crop, write_pose


@pytest.fixture(scope="module")
def film(scene, tmp_path_factory):
    """The dancer as a video with B-frames, 25 frames a second."""
    path = tmp_path_factory.mktemp("film") / "a film.v2.mp4"
    with media.VideoWriter(path, 25, (160, 200)) as out:
        for frame in scene.frames:
            out.write(frame)
    return path


@pytest.mark.parametrize("start", [0, 1])
def test_files_of_a_video_are_found_by_frame_number(tmp_path, film, scene, start):
    every = [pts for pts, _ in media.read(film)]
    store = made_store(tmp_path / "s", [(film, every[3:9:2])])
    names = [f"a film.v2_{t + start:012d}_keypoints" for t in range(FRAMES)]
    write_pose(tmp_path / "flat", names, [[p] for p in scene.keypoints])
    (tmp_path / "flat/other_000000000003_keypoints.json").write_text("{")
    done = import_layer(store, "pose", tmp_path / "flat", form="openpose", workers=0)
    np.testing.assert_allclose(layer(store, "pose", done)["keypoints"], through_crop(scene.keypoints)[3:9:2], atol=1e-3)


def test_where_the_numbers_begin_is_asked_for_if_they_do_not_show_it(tmp_path, film, scene):
    every = [pts for pts, _ in media.read(film)]
    store = made_store(tmp_path / "s", [(film, every)])
    names = [f"{t:03d}" for t in range(1, FRAMES)]
    write_pose(tmp_path / "flat", names, [[p] for p in scene.keypoints[1:]])
    with pytest.raises(StoreError, match="numbers from 1 to 9 and the video has 10 frames: .*--first"):
        import_layer(store, "pose", tmp_path / "flat", form="openpose", workers=0)
    done = import_layer(store, "pose", tmp_path / "flat", form="openpose", first=0, workers=0)
    assert done.absent == 1
    np.testing.assert_allclose(
        layer(store, "pose", done)["keypoints"][1:], through_crop(scene.keypoints)[1:], atol=1e-3
    )


def test_clips_find_their_folder_by_the_end_of_the_path_or_by_a_pattern(tmp_path, pictures, scene):
    other = tmp_path / "elsewhere/dance"
    other.mkdir(parents=True)
    for path in pictures.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    store = made_store(tmp_path / "s", [(pictures, range(FRAMES)), (other, range(FRAMES))])
    names = [f"img_{t + 7:04d}" for t in range(FRAMES)]
    write_pose(tmp_path / "one/dance", names, [[p] for p in scene.keypoints])
    with pytest.raises(StoreError, match="would both take the files"):
        import_layer(store, "pose", tmp_path / "one", form="openpose", workers=0)
    write_pose(tmp_path / "two/train/dance", names, [[p] for p in scene.keypoints])
    write_pose(tmp_path / "two/test/dance", names, [[p + [1, 0, 0]] for p in scene.keypoints])
    for folder in (tmp_path / "two/{split}/{stem}", {str(pictures): str(tmp_path / "two/train/dance")}):
        done = import_layer(store, "pose", folder, form="openpose", workers=0)
        assert list(done.failed) == ([] if isinstance(folder, Path) else ["clip-1"])
    with pytest.raises(StoreError, match="'outfit'; there are stem, split, person, video"):
        import_layer(store, "pose", tmp_path / "{outfit}", form="openpose", workers=0)
    with pytest.raises(StoreError, match="neither a folder dance nor files dance_NUMBER.json"):
        import_layer(store, "pose", tmp_path / "absent", form="openpose", workers=0)


def test_files_that_came_since_are_seen(store, scene, tmp_path):
    (tmp_path / "flat").mkdir()
    with pytest.raises(StoreError, match="neither a folder"):
        import_layer(store, "pose", tmp_path / "flat", form="openpose", workers=0)
    write_pose(tmp_path / "flat", [f"dance_{t + 7}" for t in range(FRAMES - 1)], [[p] for p in scene.keypoints[1:]])
    done = import_layer(store, "pose", tmp_path / "flat", form="openpose", missing="none", workers=0)
    assert (done.absent, done.nobody) == (1, 1)
    write_pose(tmp_path / "flat", ["dance_16"], [[scene.keypoints[-1]]])
    assert import_layer(store, "pose", tmp_path / "flat", form="openpose", workers=0).absent == 0


def test_the_times_of_a_video_are_read_in_a_child(tmp_path, film, scene, monkeypatch):
    film = shutil.copy(film, tmp_path)
    store = made_store(tmp_path / "s", [(film, [pts for pts, _ in media.read(film)])])
    write_pose(tmp_path / "flat", [f"{t:03d}" for t in range(FRAMES)], [[p] for p in scene.keypoints])
    monkeypatch.setattr(media.frames, "all_times", lambda path: pytest.fail("it was opened in this process"))
    assert import_layer(store, "pose", tmp_path / "flat", form="openpose", workers=0).failed == {}


def test_a_video_that_spoils_the_reader_costs_its_clips_alone(tmp_path, film, pictures, scene, spoilt_decoder):
    film = shutil.copy(film, tmp_path)  # one whose times no test has read
    every = [pts for pts, _ in media.read(film)]
    store = made_store(tmp_path / "s", [(pictures, range(FRAMES)), (film, every[:5]), (film, every[5:])])
    names = [f"img_{t + 7:04d}" for t in range(FRAMES)]
    write_pose(tmp_path / "all/dance", names, [[p] for p in scene.keypoints])
    write_pose(tmp_path / "all/a film.v2", names, [[p] for p in scene.keypoints])
    done = import_layer(store, "pose", tmp_path / "all", form="openpose", workers=0)
    assert list(done.failed) == ["clip-1", "clip-2"]
    for reason in done.failed.values():
        assert re.fullmatch(f"{re.escape(str(film))} cannot be read for its times: {spoilt_decoder}", reason)
    assert done.frames == FRAMES
