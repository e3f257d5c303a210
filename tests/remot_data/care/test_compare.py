from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from remot_data import cli
from remot_data.annotating.annotate import annotate
from remot_data.care.compare import compare
from remot_data.schemas import convert_keypoints
from remot_data.store import StoreError
from remot_data.store.layers import kind

SHIFTED = '''
import numpy as np
from remot_data.store import Store

class Shifted:
    """The drawn labels, moved down by two pixels, and one frame of each clip empty."""

    name, kind, version, schema = "shifted", "parsing", "1", "atr18"
    needs, licence, approximate = ("pose",), "Apache-2.0", True

    def __init__(self, rows=2, weights=None):
        self.rows = rows

    def fingerprint(self):
        return {"name": self.name, "rows": self.rows}

    def __call__(self, frames, pose):
        labels = np.zeros(frames.shape[:3], np.uint8)
        labels[:, self.rows :] = 4
        labels[5] = 0
        return {"labels": labels}
'''


@pytest.fixture
def two(own_dancers, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(SHIFTED)
    made = [annotate(own_dancers, "parsing", f"{file}:Shifted", settings={"rows": r}, workers=0).id for r in (2, 34)]
    return own_dancers, made


def test_a_layer_agrees_with_itself(dancers, tmp_path):
    layers = dancers.snapshot("main").layers
    for name in ("pose", "parsing", "flow"):
        made = compare(dancers, name, layers[name], layers[name], tmp_path / name, workers=0)
        assert (made.agreement, made.clips, made.frames) == (1.0, 5, 100)
        assert (tmp_path / name / "index.html").stat().st_size > 10_000


def test_bodies_with_and_without_hands_are_compared_by_the_points_both_sets_have(dancers):
    clip = dancers.clips[0]
    layer = dancers.snapshot("main").layers["pose"]
    body = np.stack(
        [kind("pose").decode("npy", m) for m in dancers.read_members(f"layers/pose/{layer}", clip, "npy", range(4))]
    )
    whole = convert_keypoints(body, "body25", "openpose137")
    whole[:, 25:] = 30, 20, 0.9
    rows = kind("pose").agreement({"keypoints": body}, {"keypoints": whole}, "body25", "openpose137", (64, 48))
    assert (rows["agreement"] == 1).all() and not rows["only_b"].any()
    rows = kind("pose").agreement({"keypoints": whole}, {"keypoints": body}, "openpose137", "body25", (64, 48))
    assert (rows["distance"] == 0).all()


def test_the_worst_frames_come_first(two, tmp_path):
    store, (a, b) = two
    made = compare(store, "parsing", a, b, tmp_path / "out", workers=0)
    table = pq.read_table(made.table).to_pydict()
    assert len(table["frame"]) == 100 and set(table["clip"]) == {c.id for c in store.clips}
    by_frame = dict(zip(table["frame"][:20], table["agreement"][:20], strict=True))
    assert by_frame[5] == 1.0, "both are empty there"
    assert by_frame[0] == pytest.approx(np.mean([2 / 34, 30 / 62]))
    page = (tmp_path / "out" / "index.html").read_text()
    assert a in page and b in page
    assert page.count("<figure") == 15, "three frames of each of five clips"


def test_it_can_be_used_as_a_gate(two, tmp_path, capsys):
    store, (a, b) = two
    command = f"compare {store.url} --layer parsing {a} {b} --out {tmp_path / 'x'} --workers 0"
    assert cli.run(f"{command} --fail-below 0.9".split()) == 1
    assert cli.run(f"{command} --fail-below 0.1".split()) == 0
    assert "agreement" in capsys.readouterr().out


def test_what_cannot_be_compared_is_said(dancers, tmp_path):
    layers = dancers.snapshot("main").layers
    with pytest.raises(StoreError, match="kind 'scores' cannot be compared"):
        compare(dancers, "scores", layers["scores"], layers["scores"], tmp_path)
    with pytest.raises(StoreError, match="no single pose layer"):
        compare(dancers, "pose", layers["pose"], "mmpose", tmp_path)


def test_keypoints_of_different_sets_meet_by_name():
    body = np.zeros((1, 25, 3), np.float32)
    body[0, :, :] = np.stack([np.arange(25), np.arange(25) * 4, np.ones(25)], -1)
    coco = np.zeros((1, 17, 3), np.float32)
    coco[0, 0] = (*body[0, 0, :2] + (3, 4), 1)  # the nose, five pixels off; the person is 96 pixels high
    coco[0, 9] = (*body[0, 7, :2], 1)  # the left wrist
    rows = kind("pose").agreement({"keypoints": body}, {"keypoints": coco}, "body25", "coco17", (100, 50))
    assert rows["agreement"][0] == 0.5
    assert rows["pck@0.1"][0] == 1.0
    assert rows["distance"][0] == pytest.approx(5 / 96 / 2)
    assert rows["only_b"][0] == 0.0 and rows["only_a"][0] == pytest.approx(15 / 17)


def test_a_frame_where_nobody_is_seen_has_no_agreement():
    nobody = np.zeros((2, 25, 3), np.float32)
    rows = kind("pose").agreement({"keypoints": nobody}, {"keypoints": nobody}, "body25", "body25", (64, 48))
    assert np.isnan(rows["agreement"]).all()


def test_labels_of_different_sets_meet_in_the_layout():
    atr, eleven = np.full((1, 4, 4), 4, np.uint8), np.full((1, 4, 4), 1, np.uint8)
    rows = kind("parsing").agreement({"labels": atr}, {"labels": eleven}, "atr18", "remot11", (4, 4))
    assert rows["agreement"][0] == 1.0 and np.isnan(rows["iou_head"][0])


def test_flow_of_different_grids_meets_in_pixels_of_the_frame():
    coarse, fine = np.full((2, 8, 6, 2), 1.0, np.float32), np.full((2, 16, 12, 2), 2.0, np.float32)
    fine[1, :, :6, 0] += 3
    rows = kind("flow").agreement({"flow": coarse}, {"flow": fine}, "backward", "backward", (16, 12))
    assert np.isnan(rows["epe"][0])
    assert rows["epe"][1] == pytest.approx(1.5) and rows["agreement"][1] == 0.5
