from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remot_data import media
from remot_data.annotating.annotate import annotate
from remot_data.annotating.source_frames import at_size, native_size, read_native
from remot_data.assets import fetch
from remot_data.care.compare import pose_agreement
from remot_data.detectors.base import DetectorError
from remot_data.ingest.build import build
from remot_data.ingest.policy import Policy
from remot_data.records import Clip
from remot_data.store import open_store

CLIP = Clip("a", "a", "a.mp4", "", 0, range(5), (1, 30), 30.0, (1920, 1080), (0.0, 0.0, 600.0, 800.0), "p", "train")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("native")
    media.cut(fetch("sample-cam02"), folder / "a.mp4", 0.0, 0.3)
    build(folder / "a.mp4", str(folder / "s"), policy=Policy(size=(128, 96), min_frames=6), layers={}, workers=0)
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


def test_a_layer_from_the_source_is_in_the_frames_of_the_store_and_another_layer(built):
    near, far = (annotate(built, "pose", "blazepose", source=rows, workers=0).id for rows in (512, 0))
    assert near != far
    assert (built.layer("pose", near).source, built.layer("pose", far).source) == (512, 0)
    clip = built.clips[0]
    found = [built.read_arrays(f"layers/pose/{i}", "pose", clip) for i in (near, far)]
    assert found[0]["mask"].shape[1:] == built.size
    assert np.nanmean(pose_agreement(*found, "body25", "body25", built.size)["agreement"]) > 0.9
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


@given(st.sampled_from([(64, 48), (128, 96), (96, 64)]), st.sampled_from([(64, 48), (256, 192)]))
def test_going_there_and_back_keeps_what_is_smooth(old, new):
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(0, 40, (2, 25, 2)), np.ones((2, 25, 1))], -1).astype(np.float32)
    there = at_size("pose", {"keypoints": points}, old, new)
    assert np.allclose(there["keypoints"][..., 0], points[..., 0] * new[1] / old[1], atol=1e-3)
    assert np.allclose(at_size("pose", there, new, old)["keypoints"], points, atol=1e-3)
    flow = {
        "flow": np.full((2, old[0] // 2, old[1] // 2, 2), 1.5, np.float32),
        "confidence": np.ones((2, *old), np.uint8),
    }
    flow["confidence"] = flow["confidence"][:, ::2, ::2]
    back = at_size("flow", at_size("flow", flow, old, new), new, old)
    assert np.allclose(back["flow"], flow["flow"], atol=1e-4) and back["confidence"].shape == flow["confidence"].shape
    labels = {"labels": np.zeros((2, *old), np.uint8)}
    labels["labels"][:, : old[0] // 2] = 4
    assert np.array_equal(
        at_size("parsing", at_size("parsing", labels, old, old), old, old)["labels"], labels["labels"]
    )
    assert set(np.unique(at_size("parsing", labels, old, new)["labels"])) == {0, 4}
    image = {"image": np.full((*old, 3), 90, np.uint8), "seen": np.full(old, 255, np.uint8)}
    assert at_size("background", image, old, new)["image"].shape == (*new, 3)
    assert at_size("scores", {"motion": np.ones(3)}, old, new)["motion"].sum() == 3
