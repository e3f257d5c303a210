"""COCO's keypoints against the store they come from."""

from __future__ import annotations

import json

import numpy as np

from remot_data.exchange.coco import annotation
from remot_data.schemas import convert_keypoints
from tests.remot_data.exchange.conftest import arrays


def test_coco_keypoints_are_those_of_the_store(dancers, exported):
    for split, count in (("train", 80), ("test", 20)):
        told = json.loads((exported / f"coco/annotations/person_keypoints_{split}.json").read_text())
        assert len(told["images"]) == count == len(told["annotations"])
        ids = [image["id"] for image in told["images"]]
        assert len(set(ids)) == count and [a["image_id"] for a in told["annotations"]] == ids
        assert len(told["categories"][0]["keypoints"]) == 17
        assert told["categories"][0]["keypoints"][told["categories"][0]["skeleton"][0][0] - 1] == "left_ankle"
    clip = dancers.clips[-1]
    image = told["images"][3]
    assert image["file_name"] == f"{clip.id}/000003.jpg"
    stored = next(dancers.read_members("frames", clip, "jpg", [3]))
    assert (exported / "coco/images" / image["file_name"]).read_bytes() == stored
    note = told["annotations"][3]
    points = np.reshape(note["keypoints"], (17, 3))
    wanted = convert_keypoints(arrays(dancers, "pose", clip)["keypoints"][3], "body25", "coco17")
    np.testing.assert_allclose(points[:, :2], wanted[:, :2], atol=0.01)
    assert set(points[wanted[:, 2] > 0, 2]) == {2}
    assert note["num_keypoints"] == (points[:, 2] > 0).sum()
    person = arrays(dancers, "parsing", clip)["labels"][3] != 0
    x, y, w, h = map(int, note["bbox"])
    assert person[y : y + h, x : x + w].sum() == person.sum() == note["area"]
    assert person[y].any() and person[y + h - 1].any() and person[:, x].any() and person[:, x + w - 1].any()


def test_coco_flags_say_found_hidden_or_absent():
    points = np.zeros((17, 3), np.float32)
    points[0], points[1], points[2], points[3] = (10, 20, 0.9), (30, 40, 0.2), (-5, 10, 0.9), (64, 10, 0.9)
    note = annotation(points, None, (48, 64))
    assert np.reshape(note["keypoints"], (17, 3))[:4].tolist() == [[10, 20, 2], [30, 40, 1], [0, 0, 0], [0, 0, 0]]
    assert (note["num_keypoints"], note["bbox"], note["area"]) == (2, [10, 20, 20, 20], 400)
    assert annotation(np.zeros((17, 3)), None, (48, 64)) is None
