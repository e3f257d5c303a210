from __future__ import annotations

import numpy as np
import pytest

from remot_data import schemas
from remot_data.annotating.annotate import annotate, switch
from remot_data.reading.filters import frontality
from remot_data.reading.stream import Plan, stream, to_torch
from remot_data.reading.stream import schemas as names
from remot_data.records import Snapshot
from remot_data.store import StoreError, open_store
from remot_data.synthetic.store import build_synthetic

ARRAYS = {"frames", "pts", "keypoints", "pose_map", "labels", "flow", "confidence", "background"}
OF_THE_SOURCE = {"source", "source_keypoints", "source_labels"}


def test_a_window_holds_what_was_stored(dancers):
    for window in stream(dancers, length=6):
        clip = dancers.clip[window.clip]
        folders = dancers.folders(dancers.snapshot("main"))
        which = slice(window.first, window.first + 6)
        assert set(window.arrays) == ARRAYS | OF_THE_SOURCE
        frames = dancers.read_arrays("frames", "frames", clip)["frames"]
        assert np.array_equal(window.arrays["frames"], frames[which])
        assert np.array_equal(window.arrays["source"], frames[window.source])
        assert window.id == f"{clip.id}:{window.first}-{window.first + 5}/{window.source}"
        assert window.arrays["pts"].tolist() == list(clip.pts[which])
        labels = dancers.read_arrays(folders["parsing"], "parsing", clip)["labels"][which]
        assert np.array_equal(window.arrays["labels"], schemas.convert_labels(labels, "atr18", "remot11"))


def test_only_the_layers_asked_for_are_there(dancers):
    window = next(iter(stream(dancers, layers=["pose"])))
    assert set(window.arrays) == {"frames", "pts", "keypoints", "pose_map", "source", "source_keypoints"}


AGAIN = """
from remot_data.schemas import convert_keypoints


class Again:
    \"\"\"The drawn pose in another keypoint set, one hand raised where the set has hands.\"\"\"

    name, kind, version, needs, licence, approximate = "again", "pose", "1", (), "Apache-2.0", False

    def __init__(self, schema, weights=None):
        self.schema = schema

    def fingerprint(self):
        return {"detector": self.name, "schema": self.schema}

    def __call__(self, frames):
        import numpy as np
        points = np.zeros((len(frames), 137, 3), np.float32)
        points[:, 25:46, 0], points[:, 25:46, 1], points[:, 25:46, 2] = 5.5, np.linspace(4, 40, 21), 0.9
        points[:, 5:7] = (30, 20, 1), (30, 40, 1)
        return {"keypoints": convert_keypoints(points, "openpose137", self.schema)}
"""


@pytest.mark.parametrize(("schema", "hands"), [("openpose137", True), ("wholebody133", True), ("coco17", False)])
def test_every_keypoint_set_is_drawn(own_dancers, tmp_path, schema, hands):
    (tmp_path / "again.py").write_text(AGAIN)
    spec = f"{tmp_path / 'again.py'}:Again"
    annotate(own_dancers, "pose", spec, settings={"schema": schema}, snapshot="other", workers=0)
    window = next(iter(stream(open_store(own_dancers.url), snapshot="other", layers=["pose"])))
    assert window.arrays["keypoints"].shape == (6, len(schemas.keypoint_set(schema)), 3)
    drawn = window.arrays["pose_map"]
    assert drawn[:, 30, 29:31].any() and bool(drawn[:, 4:40, 5].any()) == hands


def test_a_layer_the_snapshot_lacks_is_an_error(own_dancers):
    own_dancers.write_snapshot(Snapshot("bare", {}))
    with pytest.raises(StoreError, match="has no flow layer"):
        next(iter(stream(own_dancers, snapshot="bare", layers=["flow"])))


def test_resized_at_load(dancers):
    window = next(iter(stream(dancers, size=(32, 24))))
    full = Plan(dancers).window(0)
    assert window.id == full.id
    assert window.arrays["frames"].shape == (6, 32, 24, 3)
    assert window.arrays["flow"].shape == (6, 32, 24, 2)
    assert window.arrays["pose_map"].shape == (6, 32, 24, 3)
    assert np.allclose(window.arrays["keypoints"][..., :2] * 2, full.arrays["keypoints"][..., :2])
    # Half the frame size is the flow's own grid: there it comes as it was stored.
    folder = dancers.folders(dancers.snapshot("main"))["flow"]
    stored = dancers.read_arrays(folder, "flow", dancers.clip[window.clip])["flow"]
    assert np.array_equal(window.arrays["flow"], stored[window.first : window.first + 6])


def test_warping_by_the_flow_of_a_window_gives_the_frame(dancers):
    """The flow is in pixels of the window and points to the frame before."""
    import cv2

    window = Plan(dancers, seed=2).window(0)
    frames, flow = window.arrays["frames"].astype(np.float32), window.arrays["flow"]
    ys, xs = np.mgrid[:64, :48].astype(np.float32)
    warped = cv2.remap(frames[2], xs + flow[3, ..., 0], ys + flow[3, ..., 1], cv2.INTER_LINEAR)
    sure = window.arrays["confidence"][3]
    assert sure.mean() > 0.5
    with_flow = np.abs(warped - frames[3])[sure].mean()
    assert with_flow <= np.abs(frames[2] - frames[3])[sure].mean()


@pytest.mark.parametrize("raw", [False, True])
def test_windows_of_wider_spacing(dancers, raw):
    windows = [w for epoch in range(3) for w in stream(dancers, length=4, max_step=3, epoch=epoch, raw=raw)]
    assert {w.step for w in windows} == {1, 2, 3}
    for window in windows:
        clip, last = dancers.clip[window.clip], window.first + 3 * window.step
        shown = f":{window.step}" if window.step > 1 else ""
        assert window.id == f"{window.clip}:{window.first}-{last}{shown}/{window.source}" and last < clip.frames
        assert window.arrays["pts"].tolist() == list(range(window.first, last + 1, window.step))
        frames = dancers.read_arrays("frames", "frames", clip)["frames"]
        assert np.array_equal(window.arrays["frames"], frames[window.first : last + 1 : window.step])


def test_flow_of_wider_spacing_leads_to_the_frame_before(dancers):
    """Warped by the chained flow, the frame before is closer than it is as it stands; where the flow is trusted."""
    import cv2

    moved = still = pixels = 0.0
    for window in stream(dancers, length=3, max_step=3, seed=2):
        if window.step == 1:
            continue
        frames, flow, sure = (window.arrays[name] for name in ("frames", "flow", "confidence"))
        assert not sure[0].any() and not flow[0].any()
        rows, columns = np.indices(frames.shape[1:3], np.float32)
        for t in (1, 2):
            x, y = columns + flow[t, ..., 0], rows + flow[t, ..., 1]
            warped = cv2.remap(frames[t - 1], x, y, cv2.INTER_LINEAR).astype(np.float32)
            where = sure[t] & (np.hypot(flow[t, ..., 0], flow[t, ..., 1]) > 0.3)
            moved += np.abs(warped - frames[t])[where].sum()
            still += np.abs(frames[t - 1].astype(np.float32) - frames[t])[where].sum()
            pixels += where.sum()
    assert pixels > 500
    assert moved < 0.75 * still


def test_raw_windows_are_as_they_are_stored(dancers):
    folders = dancers.folders(dancers.snapshot("main"))
    window = next(iter(stream(dancers, length=3, raw=True)))
    clip, which = dancers.clip[window.clip], slice(window.first, window.first + 3)
    assert "pose_map" not in window.arrays
    stored = dancers.read_arrays(folders["flow"], "flow", clip)
    assert np.array_equal(window.arrays["flow"], stored["flow"][which])
    assert np.array_equal(window.arrays["confidence"], stored["confidence"][which] == 3)
    labels = dancers.read_arrays(folders["parsing"], "parsing", clip)["labels"]
    assert np.array_equal(window.arrays["labels"], labels[which])


def test_splits_part_the_persons(dancers):
    train = {w.clip for w in stream(dancers, layers=[])}
    test = {w.clip for w in stream(dancers, split="test", layers=[])}
    assert not train & test
    assert train | test == {w.clip for w in stream(dancers, split=None, layers=[])}


def test_a_split_by_time_takes_the_source_from_the_training_part(own_dancers):
    switch(own_dancers, "main", {}, split="time:0.3")
    windows = list(stream(own_dancers, split="test", length=3, layers=[], shuffle=False))
    assert windows
    assert all(w.first >= 14 and w.source < 14 for w in windows)
    assert all(w.first + 3 <= 14 for w in stream(own_dancers, length=3, layers=[]))


def test_ranks_resume_and_the_whole_agree(dancers):
    whole = [w.id for w in stream(dancers, length=2, layers=[])]
    ranks = [[w.id for w in stream(dancers, length=2, layers=[], rank=r, world_size=3)] for r in range(3)]
    merged = [ranks[i % 3][i // 3] for i in range(sum(map(len, ranks)))]
    assert merged == whole[: len(merged)]
    assert [w.id for w in stream(dancers, length=2, layers=[], start=7)] == whole[7:]


def test_filters_leave_frames_out(own_dancers):
    switch(own_dancers, "main", {}, where="visible_joints>=2")
    with pytest.raises(StoreError, match="loosen the snapshot's filter"):
        next(iter(stream(own_dancers)))
    switch(own_dancers, "main", {}, where="visible_joints>=0.01 and person == dancer-000-00001")
    assert {w.clip for w in stream(own_dancers, layers=[])} == {"dancer-000-00001"}


@pytest.mark.parametrize(("where", "says"), [("sharpness", "not of the form"), ("beauty>3", "no column 'beauty'")])
def test_a_filter_that_cannot_be_read_is_an_error(own_dancers, where, says):
    switch(own_dancers, "main", {}, where=where)
    with pytest.raises(StoreError, match=says):
        Plan(own_dancers)


def test_several_stores_are_mixed(dancers, tmp_path):
    more = build_synthetic(str(tmp_path / "s"), dancers=2, frames=20, test=0, size=(32, 32), seed=9, workers=0)
    found = {w.clip[:10] for w in stream([dancers, more], size=(32, 24), layers=["pose"])}
    assert found == {"dancer-000", "dancer-009"}


def test_one_store_with_several_splits(dancers):
    told = {"length": 4, "layers": []}
    parts = [{w.id for w in stream(dancers, split=split, **told)} for split in ("train", "test")]
    both = [w.id for w in stream([dancers, dancers], split=["train", "test"], weights=[1, 2], **told)]
    clips = [{name.split(":")[0] for name in part} for part in parts]
    counts = [sum(name.split(":")[0] in part for name in both) for part in clips]
    assert counts == [len(parts[0]), 2 * len(parts[1])]
    with pytest.raises(ValueError, match="2 stores need one split or as many"):
        Plan([dancers, dancers], split=["train"])


def test_the_frontal_source_is_the_most_frontal_frame(dancers):
    plan = Plan(dancers, source="frontal", layers=["pose"])
    for index in range(len(plan)):
        window = plan.window(index)
        clip = dancers.clip[window.clip]
        points = dancers.read_arrays(dancers.folders(dancers.snapshot("main"))["pose"], "pose", clip)["keypoints"]
        assert window.source == int(np.argmax(frontality(points, "body25")))


def test_torch_tensors_have_the_documented_forms(dancers):
    torch = pytest.importorskip("torch")
    window = next(iter(stream(dancers)))
    tensors = to_torch(window)
    assert tensors["frames"].shape == (6, 3, 64, 48) and tensors["frames"].dtype == torch.float32
    assert tensors["frames"].min() >= -1 and tensors["frames"].max() <= 1
    assert tensors["labels"].dtype == torch.int64
    assert tensors["flow"].shape == (6, 2, 64, 48)
    assert tensors["confidence"].shape == (6, 1, 64, 48)
    assert tensors["background"].shape == tensors["source"].shape == (3, 64, 48)
    back = ((tensors["frames"][2].movedim(0, -1) + 1) * 127.5).round().to(torch.uint8).numpy()
    assert np.array_equal(back, window.arrays["frames"][2])


def test_schemas_name_what_windows_hold(dancers):
    assert names(dancers) == {"pose": "body25", "labels": "remot11"}
