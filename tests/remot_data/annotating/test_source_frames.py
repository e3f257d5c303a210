from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from remot_data import cli, media
from remot_data.annotating.annotate import annotate, plan_job, plan_jobs
from remot_data.annotating.jobs import Job
from remot_data.annotating.source_frames import native_size, read_native
from remot_data.assets import fetch
from remot_data.detectors.base import DetectorError
from remot_data.ingest.build import build
from remot_data.ingest.policy import Policy
from remot_data.records import Clip
from remot_data.store import open_store
from remot_data.store.layers import kind

POLICY = Policy(size=(128, 96), min_frames=6, persons="main")
CLIP = Clip("a", "a", "a.mp4", "", 0, range(5), (1, 30), 30.0, (1920, 1080), (0.0, 0.0, 600.0, 800.0), "p", "train")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("native")
    media.cut(fetch("sample-cam02"), folder / "a.mp4", 0.0, 0.3)
    build(folder / "a.mp4", str(folder / "s"), policy=POLICY, layers={}, workers=0)
    return open_store(str(folder / "s"))


@pytest.mark.parametrize(("most", "size"), [(768, (768, 576)), (2000, (800, 600)), (100, (256, 192))])
def test_the_native_size_is_that_of_the_crop_within_bounds(most, size):
    assert native_size(CLIP, (256, 192), most) == size


def test_native_frames_are_the_stored_ones_with_more_detail(built):
    clip = built.clips[0]
    size = native_size(clip, built.size, 512)
    assert size == (512, 384)
    frames = read_native(clip, size)
    stored = built.read_arrays("frames", "frames", clip)["frames"]
    small = frames.reshape(len(frames), 128, 4, 96, 4, 3).mean((2, 4))
    assert np.abs(small - stored).mean() < 3


@pytest.mark.slow
def test_a_layer_from_the_source_is_in_the_frames_of_the_store_and_another_layer(built):
    near, far = (annotate(built, "pose", "blazepose", source=rows, workers=0).id for rows in (512, 0))
    assert near != far
    assert (built.layer("pose", near).source, built.layer("pose", far).source) == (512, 0)
    clip = built.clips[0]
    found = [built.read_arrays(f"layers/pose/{i}", "pose", clip) for i in (near, far)]
    assert found[0]["mask"].shape[1:] == built.size
    assert np.nanmean(kind("pose").agreement(*found, "body25", "body25", built.size)["agreement"]) > 0.9
    assert annotate(built, "pose", "blazepose", source=512, workers=0).computed == 0


def test_poses_are_looked_for_in_the_source_while_all_of_it_is_here(built, own_dancers, tmp_path):
    """Gone, changed, or of no video: then the stored frames are read for all; what is asked for is done in any case."""

    def rows(store, **told):
        return plan_job(store, "pose", "blazepose", **told).source

    path, aside = Path(built.clips[0].path), tmp_path / "aside.mp4"
    assert rows(built) == 512 and plan_job(built, "flow", "dis").source == 0 and rows(built, source=0) == 0
    assert rows(own_dancers) == 0
    path.rename(aside)
    try:
        assert rows(built) == 0 and rows(built, source=300) == 300
        path.write_bytes(aside.read_bytes() + b"\0")
        assert rows(built) == 0
    finally:
        aside.rename(path)
    assert rows(built) == 512
    made_so = {
        job.kind: job.source for job in plan_jobs(built, {"pose": Job("pose", "blazepose", source=0), "flow": "dis"})
    }
    assert made_so == {"pose": 0, "flow": 0}


@pytest.mark.slow
def test_the_build_says_what_poses_are_looked_for_in_and_a_layer_grows_as_it_was_made(built, tmp_path, capsys):
    video, store = built.clips[0].path, str(tmp_path / "s")
    options = ["--size", "128x96", "--rule", "min_frames=6", "--persons", "main", "--workers", "0"]
    assert cli.run(["build", video, "--out", store, *options, "--layer", "pose=blazepose"]) == 0
    said = capsys.readouterr().err
    assert said.count("pose was looked for in the source videos, at most 512 rows high") == 1
    pose = open_store(store).snapshot("main").layers["pose"]
    assert open_store(store).layer("pose", pose).source == 512
    media.cut(fetch("sample-cam04"), tmp_path / "more.mp4", 0.0, 0.3)
    assert cli.run(["build", str(tmp_path / "more.mp4"), "--out", store, "--from", "frames", "--workers", "0"]) == 0
    assert open_store(store).snapshot("main").layers["pose"] == pose and "looked for" not in capsys.readouterr().err
    other = str(tmp_path / "t")
    assert cli.run(["build", video, "--out", other, *options, "--from", "frames"]) == 0
    assert open_store(other).layer("pose", open_store(other).snapshot("main").layers["pose"]).source == 0


def test_a_video_that_changed_since_costs_its_clips(built):
    path = Path(built.clips[0].path)
    data = path.read_bytes()
    try:
        path.write_bytes(data + b"\0")
        with pytest.raises(DetectorError, match="cannot be read again: changed"):
            annotate(built, "flow", "dis", source=300, workers=0)
    finally:
        path.write_bytes(data)
