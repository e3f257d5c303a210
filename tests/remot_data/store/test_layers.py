from __future__ import annotations

import contextlib
import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from remot_data.records import Clip
from remot_data.store import create_store
from remot_data.store.layers import BUILT_IN, LayerError, _images, flow, kind
from remot_data.store.shards import encoded


def _members(name, values, t=0):
    return kind(name).encode(values, t)


@given(arrays(np.float32, (2, 25, 3), elements=st.floats(0, 1, width=32)))
def test_keypoints_come_back_exactly_and_numpy_reads_them(points):
    data = _members("pose", {"keypoints": points}, 1)["npy"]
    assert np.array_equal(kind("pose").decode("npy", data), points[1])
    assert np.array_equal(np.load(io.BytesIO(data)), points[1])


def test_the_mask_comes_back_within_half_a_grey_level_of_sixteen():
    mask = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    points = np.zeros((1, 25, 3), np.float32)
    data = _members("pose", {"keypoints": points, "mask": mask})["mask.png"]
    assert np.abs(kind("pose").decode("mask.png", data).astype(int) - mask[0]).max() <= 9


@settings(max_examples=30)
@given(
    arrays(np.float32, (1, 6, 5, 2), elements=st.floats(-500, 500, width=32)),
    arrays(np.uint8, (1, 6, 5), elements=st.integers(0, 3)),
)
def test_flow_comes_back_within_half_a_step_and_numpy_reads_it(values, confidence):
    data = _members("flow", {"flow": values, "confidence": confidence})["npz"]
    found = kind("flow").decode("npz", data)
    assert np.abs(np.moveaxis(found[:2], 0, -1) - values[0]).max() <= 0.5 / flow.SCALE
    assert np.array_equal(found[2], confidence[0])
    with np.load(io.BytesIO(data)) as archive:
        assert np.array_equal(archive["flow"][2], confidence[0])


@given(arrays(np.uint8, (1, 7, 9), elements=st.integers(0, 17)))
def test_labels_come_back_exactly(labels):
    data = _members("parsing", {"labels": labels})["png"]
    assert np.array_equal(kind("parsing").decode("png", data), labels[0])


def _random(name):
    """Arrays of two frames of 8x6 with values that storing rounds."""
    rng = np.random.default_rng(1)
    byte = rng.integers(0, 256, (2, 8, 6), dtype=np.uint8)
    return {
        "pose": {"keypoints": rng.random((2, 25, 3), np.float32), "mask": byte},
        "parsing": {"labels": byte % 18},
        "flow": {"flow": rng.normal(0, 3, (2, 4, 3, 2)).astype(np.float32), "confidence": byte[:, :4, :3] % 4},
        "background": {"image": rng.integers(0, 256, (8, 6, 3), dtype=np.uint8), "seen": byte[0]},
        "scores": {name: rng.random(2).astype(np.float32) for name in ("sharpness", "motion")},
    }[name]


@pytest.mark.parametrize("layer", BUILT_IN[1:])
def test_what_is_stored_is_what_comes_back(layer, tmp_path):
    """So that a layer made from another does not depend on whether both are made in one pass."""
    values = _random(layer)
    clip = Clip("c", "v", "", "", 0, (0, 1), (1, 30), 30.0, (1, 1), (0.0, 0.0, 1.0, 1.0), "p", "", shard=0)
    store = create_store(str(tmp_path / "store"), {"size": (8, 6)})
    store.write_clips([clip])
    store.write_shard(f"layers/{layer}/x", 0, encoded(layer, clip, values), {})
    read = store.read_arrays(f"layers/{layer}/x", layer, clip)
    found = kind(layer).stored(values)
    assert found.keys() == read.keys() == values.keys()
    for name, array in found.items():
        assert array.dtype == read[name].dtype and np.array_equal(array, read[name]), name


def test_encoding_twice_gives_the_same_bytes():
    rng = np.random.default_rng(0)
    values = {"flow": rng.normal(size=(1, 8, 8, 2)).astype(np.float32), "confidence": np.ones((1, 8, 8), np.uint8)}
    assert _members("flow", values) == _members("flow", values)


@pytest.mark.parametrize(
    ("layer", "values", "says"),
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
def test_wrong_arrays_are_refused_with_what_is_wrong(layer, values, says):
    with pytest.raises(LayerError, match=says):
        kind(layer).check(values, 2, (4, 4))


def test_a_cut_picture_is_an_error_not_a_grey_frame():
    data = kind("frames").encode({"frames": np.zeros((1, 8, 8, 3), np.uint8)}, 0)["jpg"]
    with pytest.raises(LayerError, match="cannot be decoded"):
        kind("frames").decode("jpg", data[:20])


def _flow(dx: float, dy: float, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    out = np.empty((3, *size), np.int16)
    out[0], out[1], out[2] = round(dx * flow.SCALE), round(dy * flow.SCALE), 3
    return out


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=4))
def test_even_flow_adds_up_where_it_stays_inside(steps):
    chained = flow.chain([_flow(*step) for step in steps])
    total = sum(np.round(np.array(step) * flow.SCALE) for step in steps)
    assert np.allclose(chained[:2], total[:, None, None], atol=1e-3)
    rows, columns = np.indices((12, 16))
    inside = np.ones((12, 16), bool)
    x, y = columns.astype(float), rows.astype(float)
    for dx, dy in [np.round(np.array(step) * flow.SCALE) / flow.SCALE for step in reversed(steps)][:-1]:
        x, y = x + dx, y + dy
        inside &= (x >= 0) & (x <= 15) & (y >= 0) & (y <= 11)
    assert np.array_equal(chained[2] == 3, inside)


def test_the_flow_of_a_turning_and_growing_picture_is_followed_along_its_way():
    """Each step maps x to A x about the centre; three steps map it to A A A x."""
    angle, scale = 0.08, 1.05
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rows, columns = np.indices((64, 64))
    points = np.stack([columns, rows], -1) - 31.5

    def of(matrix: np.ndarray) -> np.ndarray:
        return np.moveaxis(points @ matrix.T - points, -1, 0)

    one = np.concatenate([np.rint(of(turn) * flow.SCALE), np.full((1, 64, 64), 3)]).astype(np.int16)
    error = flow.chain([one, one, one])[:2] / flow.SCALE - of(turn @ turn @ turn)
    assert np.abs(error[:, 16:48, 16:48]).max() < 0.05
    assert np.abs(3 * of(turn) - of(turn @ turn @ turn))[:, 16:48, 16:48].max() > 0.3  # adding up would not do


@settings(max_examples=60)
@given(arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_labels_come_back_and_every_reader_of_png_agrees(labels):
    data = _images.to_png(labels)
    assert np.array_equal(_images.from_png(data), labels)
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), labels)
    assert _images._unfiltered(data) is not None
    for strategy in (cv2.IMWRITE_PNG_STRATEGY_RLE, cv2.IMWRITE_PNG_STRATEGY_FILTERED):
        other = cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_STRATEGY, strategy])[1].tobytes()
        assert np.array_equal(_images.from_png(other), labels)


@given(st.data())
def test_a_damaged_png_is_never_taken_for_another_picture(data):
    labels = np.arange(400, dtype=np.uint8).reshape(20, 20) % 7
    whole = bytearray(_images.to_png(labels))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(LayerError):
        assert np.array_equal(_images.from_png(bytes(whole)), labels)


def _at_size(name, *arguments):
    return kind(name).at_size(*arguments)


@given(st.sampled_from([(64, 48), (128, 96), (96, 64)]), st.sampled_from([(64, 48), (256, 192)]))
def test_going_there_and_back_keeps_what_is_smooth(old, new):
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(0, 40, (2, 25, 2)), np.ones((2, 25, 1))], -1).astype(np.float32)
    there = _at_size("pose", {"keypoints": points}, old, new)
    assert np.allclose(there["keypoints"][..., 0], points[..., 0] * new[1] / old[1], atol=1e-3)
    assert np.allclose(_at_size("pose", there, new, old)["keypoints"], points, atol=1e-3)
    flow = {
        "flow": np.full((2, old[0] // 2, old[1] // 2, 2), 1.5, np.float32),
        "confidence": np.ones((2, *old), np.uint8),
    }
    flow["confidence"] = flow["confidence"][:, ::2, ::2]
    back = _at_size("flow", _at_size("flow", flow, old, new), new, old)
    assert np.allclose(back["flow"], flow["flow"], atol=1e-4) and back["confidence"].shape == flow["confidence"].shape
    labels = {"labels": np.zeros((2, *old), np.uint8)}
    labels["labels"][:, : old[0] // 2] = 4
    assert np.array_equal(
        _at_size("parsing", _at_size("parsing", labels, old, old), old, old)["labels"], labels["labels"]
    )
    assert set(np.unique(_at_size("parsing", labels, old, new)["labels"])) == {0, 4}
    image = {"image": np.full((*old, 3), 90, np.uint8), "seen": np.full(old, 255, np.uint8)}
    assert _at_size("background", image, old, new)["image"].shape == (*new, 3)
    assert _at_size("scores", {"motion": np.ones(3)}, old, new)["motion"].sum() == 3


def test_how_joints_were_found_comes_back_exactly_and_may_be_absent():
    rng = np.random.default_rng(0)
    given = {"keypoints": np.zeros((3, 25, 3), np.float32), "checks": rng.integers(0, 256, (3, 2, 25)).astype(np.uint8)}
    pose = kind("pose")
    pose.check(given, 3, (16, 16))
    members = pose.encode(given, 1)
    assert members.keys() == {"npy", "checks.png"}
    assert np.array_equal(pose.decode("checks.png", members["checks.png"]), given["checks"][1])
    assert np.array_equal(pose.resized(given, (16, 16), (32, 32))["checks"], given["checks"])
    assert pose.encode({"keypoints": given["keypoints"]}, 1) == {"npy": members["npy"]}
    with pytest.raises(LayerError, match="checks"):
        pose.check({**given, "checks": given["checks"][..., :24]}, 3, (16, 16))


def test_others_are_kept_like_the_mask_and_are_absent_where_there_are_none():
    mask = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    given = {"keypoints": np.zeros((1, 25, 3), np.float32), "mask": mask, "others": mask[:, ::-1].copy()}
    pose = kind("pose")
    pose.check(given, 1, (16, 16))
    members, stored = pose.encode(given, 0), pose.stored(given)
    assert members.keys() == {"npy", "mask.png", "others.png"}
    assert np.array_equal(pose.decode("others.png", members["others.png"]), stored["others"][0])
    assert np.array_equal(stored["others"], stored["mask"][:, ::-1]) and len(np.unique(stored["others"])) == 16
    assert pose.resized(given, (16, 16), (32, 32))["others"].shape == (1, 32, 32)
    alone = {name: x for name, x in given.items() if name != "others"}
    assert pose.encode(alone, 0) == {name: data for name, data in members.items() if name != "others.png"}
    assert "others" not in pose.resized(alone, (16, 16), (32, 32))
    with pytest.raises(LayerError, match="'others' must be uint8"):
        pose.check({**given, "others": mask.astype(np.float32)}, 1, (16, 16))
