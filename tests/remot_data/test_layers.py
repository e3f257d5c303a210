from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from remot_data.layers import KINDS, LayerError, flow, pose


def _members(kind, values, t=0):
    return KINDS[kind].encode(values, t)


@given(arrays(np.float32, (2, 25, 3), elements=st.floats(0, 1, width=32)))
def test_keypoints_come_back_exactly_and_numpy_reads_them(points):
    data = _members("pose", {"keypoints": points}, 1)["npy"]
    assert np.array_equal(pose.decode("npy", data), points[1])
    assert np.array_equal(np.load(io.BytesIO(data)), points[1])


def test_the_mask_comes_back_within_half_a_grey_level_of_sixteen():
    mask = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    points = np.zeros((1, 25, 3), np.float32)
    data = _members("pose", {"keypoints": points, "mask": mask})["mask.png"]
    assert np.abs(pose.decode("mask.png", data).astype(int) - mask[0]).max() <= 9


@settings(max_examples=30)
@given(
    arrays(np.float32, (1, 6, 5, 2), elements=st.floats(-500, 500, width=32)),
    arrays(np.uint8, (1, 6, 5), elements=st.integers(0, 3)),
)
def test_flow_comes_back_within_half_a_step_and_numpy_reads_it(values, confidence):
    data = _members("flow", {"flow": values, "confidence": confidence})["npz"]
    found = flow.decode("npz", data)
    assert np.abs(np.moveaxis(found[:2], 0, -1) - values[0]).max() <= 0.5 / flow.SCALE
    assert np.array_equal(found[2], confidence[0])
    with np.load(io.BytesIO(data)) as archive:
        assert np.array_equal(archive["flow"][2], confidence[0])


@given(arrays(np.uint8, (1, 7, 9), elements=st.integers(0, 17)))
def test_labels_come_back_exactly(labels):
    data = _members("parsing", {"labels": labels})["png"]
    assert np.array_equal(KINDS["parsing"].decode("png", data), labels[0])


def test_encoding_twice_gives_the_same_bytes():
    rng = np.random.default_rng(0)
    values = {"flow": rng.normal(size=(1, 8, 8, 2)).astype(np.float32), "confidence": np.ones((1, 8, 8), np.uint8)}
    assert _members("flow", values) == _members("flow", values)


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        ("parsing", {}, "missing"),
        ("parsing", {"labels": np.zeros((2, 4, 4), np.int64)}, "must be uint8"),
        ("parsing", {"labels": np.zeros((2, 4, 5), np.uint8)}, r"\[2x4x4\]"),
        ("pose", {"keypoints": np.full((2, 25, 3), np.nan, np.float32)}, "finite"),
        ("pose", {"keypoints": np.full((2, 25, 3), 2, np.float32)}, "confidences"),
        (
            "flow",
            {"flow": np.full((2, 2, 2, 2), 600, np.float32), "confidence": np.zeros((2, 2, 2), np.uint8)},
            "below 512",
        ),
        (
            "flow",
            {"flow": np.zeros((2, 2, 2, 2), np.float32), "confidence": np.ones((2, 2, 2), np.uint8)},
            "no earlier frame",
        ),
        ("scores", {}, "at least one"),
        ("background", {"image": np.zeros((4, 4, 3), np.uint8)}, "'seen' is missing"),
    ],
)
def test_wrong_arrays_are_refused_with_what_is_wrong(kind, values, says):
    with pytest.raises(LayerError, match=says):
        KINDS[kind].check(values, 2, (4, 4))


def test_a_cut_picture_is_an_error_not_a_grey_frame():
    data = KINDS["frames"].encode({"frames": np.zeros((1, 8, 8, 3), np.uint8)}, 0)["jpg"]
    with pytest.raises(LayerError, match="cannot be decoded"):
        KINDS["frames"].decode("jpg", data[:20])
