from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from remot_data import media
from remot_data.annotating.annotate import annotate
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


def test_a_video_that_changed_since_costs_its_clips(built):
    path = Path(built.clips[0].path)
    data = path.read_bytes()
    try:
        path.write_bytes(data + b"\0")
        with pytest.raises(DetectorError, match="cannot be read again: changed"):
            annotate(built, "flow", "dis", source=300, workers=0)
    finally:
        path.write_bytes(data)
