"""Keypoints out of OpenPose's files: through the crop, of the right person, in the right set."""

from __future__ import annotations

import json

import numpy as np
import pytest

from remot_data.care.verify import verify
from remot_data.exchange.importers import import_layer
from remot_data.schemas import convert_keypoints, keypoint_set
from remot_data.store import StoreError, open_store
from tests.remot_data.exchange.conftest import FRAMES, layer, made_store, through_crop, write_flo, write_pose


def test_keypoints_go_through_the_crop(store, scene, tmp_path):
    names = [f"img_{t + 7:04d}_keypoints" for t in range(FRAMES)]
    folder = write_pose(tmp_path / "pose/dance", names, [[p] for p in scene.keypoints])
    done = import_layer(store, "pose", tmp_path / "pose", form="openpose", snapshot="theirs", workers=0)
    found = layer(store, "pose", done)["keypoints"]
    np.testing.assert_allclose(found, through_crop(scene.keypoints), atol=1e-3)
    assert (done.frames, done.absent, done.failed, done.computed) == (FRAMES, 0, {}, 1)
    assert store.snapshot("theirs").layers == {"pose": done.id}
    assert store.layer("pose", done.id).schema == "body25"
    assert list(verify(open_store(store.url))) == []
    assert folder.exists()


def test_a_crop_of_another_shape_is_scaled_by_side(tmp_path, pictures, scene):
    crop = (50.0, 10.0, 108.0, 128.0)
    store = made_store(tmp_path / "s", [(pictures, range(FRAMES))], crop)
    write_pose(tmp_path / "dance", [f"img_{t + 7:04d}" for t in range(FRAMES)], [[p] for p in scene.keypoints])
    for t in range(1, FRAMES):
        write_flo(tmp_path / f"dance/img_{t + 7:04d}.flo", np.full((160, 200, 2), (4.5, -4.0)))
    pose = import_layer(store, "pose", tmp_path, form="openpose", workers=0)
    np.testing.assert_allclose(layer(store, "pose", pose)["keypoints"], through_crop(scene.keypoints, crop), atol=1e-3)
    flow = import_layer(store, "flow", tmp_path, form="flo-backward", workers=0)
    np.testing.assert_allclose(layer(store, "flow", flow)["flow"][1:], np.full((9, 32, 24, 2), (1, -1)), atol=0.02)


def test_a_frame_without_a_file_has_nobody_and_is_counted(store, scene, tmp_path):
    write_pose(tmp_path / "dance", [f"img_{t + 7:04d}" for t in range(FRAMES)], [[p] for p in scene.keypoints])
    (tmp_path / "dance/img_0010.json").unlink()
    (tmp_path / "dance/img_0011.json").write_text('{"people": []}')
    done = import_layer(store, "pose", tmp_path, form="openpose", workers=0)
    found = layer(store, "pose", done)["keypoints"]
    assert done.absent == 1
    assert [bool(p.any()) for p in found] == [True] * 3 + [False] * 2 + [True] * 5


def test_the_person_in_the_crop_is_taken_wherever_it_is_listed(store, scene, tmp_path):
    rng = np.random.default_rng(0)
    beside = np.full((25, 3), 0.9)
    beside[:, 0], beside[:, 1] = rng.uniform(0, 40, 25), rng.uniform(0, 160, 25)
    # Someone small who stands still within the crop, seen with more confidence than the dancer.
    small = np.full((25, 3), 1.0)
    small[:, 0], small[:, 1] = np.linspace(62, 92, 25), rng.permutation(np.linspace(24, 124, 25))
    dancer = [np.concatenate([p[:, :2], p[:, 2:] * 0.7], 1) for p in scene.keypoints]
    # For once only the upper half of the dancer is seen, which fills less of the crop than the other one.
    half = dancer[6]
    half[half[:, 1] > (half[:, 1].min() + half[:, 1].max()) / 2] = 0
    box = np.ptp(half[half[:, 2] > 0, :2], axis=0)
    assert 0.7 * box.prod() < 30 * 100 < 0.7 * np.ptp(dancer[5][:, :2], axis=0).prod()
    persons = [[beside, small, d] if t % 2 else [d, beside, small] for t, d in enumerate(dancer)]
    persons[4] = [np.zeros((25, 3))]
    write_pose(tmp_path / "dance", [f"img_{t + 7:04d}" for t in range(FRAMES)], persons)
    found = layer(store, "pose", import_layer(store, "pose", tmp_path, form="openpose", workers=0))["keypoints"]
    wanted = through_crop(np.stack(dancer))
    wanted[4] = 0
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("schema", ["coco18", "coco17"])
def test_the_keypoint_set_is_told_by_the_number_of_points(store, scene, tmp_path, schema):
    points = convert_keypoints(scene.keypoints, "body25", schema)
    write_pose(tmp_path / "dance", [f"img_{t + 7:04d}" for t in range(FRAMES)], [[p] for p in points])
    done = import_layer(store, "pose", tmp_path, form="openpose", workers=0)
    assert store.layer("pose", done.id).schema == schema
    np.testing.assert_allclose(layer(store, "pose", done)["keypoints"], through_crop(points), atol=1e-3)
    with pytest.raises(StoreError, match=f"hold {points.shape[1]} points a body; that is not body25"):
        import_layer(store, "pose", tmp_path, form="openpose", schema="body25", workers=0)


@pytest.mark.parametrize(("schema", "face_points"), [("wholebody133", 68), ("openpose137", 70)])
def test_hands_and_face_come_with_the_sets_that_have_them(store, scene, tmp_path, schema, face_points):
    hand, face = np.full((21, 3), 0.5) * [200, 160, 1], np.full((70, 3), 0.25) * [400, 400, 2]
    one = {
        "pose_keypoints_2d": np.ravel(scene.keypoints[0]).tolist(),
        "hand_left_keypoints_2d": np.ravel(hand).tolist(),
        "face_keypoints_2d": np.ravel(face).tolist(),
    }
    write_pose(tmp_path / "dance", [f"img_{t + 7:04d}" for t in range(FRAMES)], [[one]] * FRAMES)
    done = import_layer(store, "pose", tmp_path, form="openpose", schema=schema, workers=0)
    found, names = layer(store, "pose", done)["keypoints"][0], keypoint_set(schema)
    first = {part: names.index(f"{part}-0") for part in ("face", "left-hand", "right-hand")}
    body = convert_keypoints(through_crop(scene.keypoints[0]).astype(np.float32), "body25", schema)
    named = min(first.values())
    np.testing.assert_allclose(found[:named], body[:named], atol=1e-3)
    np.testing.assert_allclose(found[first["face"] :][:face_points], through_crop(face[:face_points]), atol=1e-3)
    np.testing.assert_allclose(found[first["left-hand"] :][:21], through_crop(hand), atol=1e-3)
    assert not found[first["right-hand"] :][:21].any()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no JSON of OpenPose"),
        ('{"persons": []}', "is no JSON of OpenPose"),
        ('{"people": [{"pose_keypoints_2d": [1, 2]}]}', "is no JSON of OpenPose"),
        ("[" * 100_000, "is no JSON of OpenPose"),
        (json.dumps({"people": [{"pose_keypoints_2d": [0.5, 0.5, 1] * 25}]}), "are no pixels"),
        (json.dumps({"people": [{"pose_keypoints_2d": [float("nan"), 0, 1] * 25}]}), "not finite"),
    ],
)
def test_bad_keypoints_cost_their_clip_and_say_which_file(tmp_path, pictures, scene, text, says):
    store = made_store(tmp_path / "s", [(pictures, range(4)), (pictures, range(4, 8))])
    names = [f"img_{t + 7:04d}" for t in range(4, 8)]
    write_pose(tmp_path / "dance", names, [[p] for p in scene.keypoints[4:8]])
    for t in range(4):
        (tmp_path / f"dance/img_{t + 7:04d}.json").write_text(text)
    done = import_layer(store, "pose", tmp_path, form="openpose", workers=0)
    assert list(done.failed) == ["clip-0"] and says in done.failed["clip-0"]
    assert store.layer("pose", done.id).failed == done.failed
    assert list(verify(open_store(store.url))) == []
