from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from remot_data.records import Snapshot
from remot_data.store import StoreError, create_store, open_store
from remot_data.store.shards import Sample
from tests.remot_data.conftest import digests


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match="is no store"):
        open_store(str(tmp_path))
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="exists and is no store"):
        create_store(str(tmp_path), {"size": [64, 48]})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_store_json_that_is_not_json_is_refused(tmp_path):
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(StoreError, match="is not JSON"):
        open_store(str(tmp_path))


def test_another_format_is_refused(tmp_path):
    (tmp_path / "store.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(StoreError, match="format 99"):
        open_store(str(tmp_path))


def test_another_policy_is_refused_and_named(tmp_path):
    create_store(str(tmp_path / "s"), {"size": [64, 48]})
    create_store(str(tmp_path / "s"), {"size": [64, 48]})
    with pytest.raises(StoreError, match=r"size is \[64, 48\], not \[32, 32\]"):
        create_store(str(tmp_path / "s"), {"size": [32, 32]})


def test_nothing_half_written_stays_or_is_seen(tmp_path):
    store = create_store(str(tmp_path / "s"), {"size": [64, 48]})

    def samples():
        yield Sample("a/000000", {"jpg": b"1"})
        raise RuntimeError("the detector died")

    with pytest.raises(RuntimeError):
        store.write_shard("frames", 0, samples())
    assert store.files.names("frames") == []
    assert store.present("frames") == set()


def test_one_frame_by_its_key(dancers):
    clip = dancers.clips[3]
    found = dancers[clip.key(7)]
    assert found["frames"].shape == (64, 48, 3)
    assert found["labels"].shape == (64, 48)
    assert found["keypoints"].shape == (25, 3)
    assert found["pts"] == clip.pts[7]
    whole = dancers.read_arrays("frames", "frames", clip)["frames"]
    assert np.array_equal(whole[7], found["frames"])


@pytest.mark.parametrize("key", ["nobody/000000", "000000", "dancer-000-00000/000020", "dancer-000-00000/x"])
def test_a_key_that_is_not_there_is_a_key_error(dancers, key):
    with pytest.raises(KeyError):
        dancers[key]


def test_scores_are_columns_of_their_index(dancers):
    clip = dancers.clips[1]
    folder = dancers.folders(dancers.snapshot("main"))["scores"]
    column = dancers.index(folder, clip.shard).column(clip.id, "motion")
    assert np.allclose(column, dancers.read_arrays(folder, "scores", clip)["motion"])


def test_a_snapshot_must_point_to_layers_that_exist(own_dancers):
    with pytest.raises(StoreError, match="names the pose layer 'nothing'"):
        own_dancers.write_snapshot(Snapshot("x", {"pose": "nothing"}))
    with pytest.raises(StoreError, match="letters, digits"):
        own_dancers.write_snapshot(Snapshot("../x", {}))
    with pytest.raises(StoreError, match="no snapshot 'x'; there is main"):
        own_dancers.snapshot("x")


def test_a_layer_is_found_by_the_beginning_of_its_id(dancers):
    pose = dancers.snapshot("main").layers["pose"]
    assert dancers.layer("pose", pose[:12]).id == pose
    with pytest.raises(StoreError, match="no single pose layer"):
        dancers.layer("pose", "mmpose")


def test_a_cut_ledger_line_is_left_out_and_spoils_no_other(own_dancers):
    with own_dancers.log("x") as log:
        log.add({"a": 1})
        log.add({"a": 2})
    name = own_dancers.files.names("ledger/x")[0]
    with open(own_dancers.files.path(f"ledger/x/{name}"), "ab") as file:
        file.write(b'{"a": "\xc3')
    assert own_dancers.logged("x") == [{"a": 1}, {"a": 2}]
    with own_dancers.log("x") as log:
        log.add({"a": 3})
    assert own_dancers.logged("x") == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_a_compacted_log_keeps_the_last_of_each_key_in_one_file(own_dancers):
    for value in (1, 2):
        with own_dancers.log("x") as log:
            log.add({"key": "k", "value": value})
            log.add({"key": value})
    own_dancers.compact_log("x", lambda record: record["key"])
    assert own_dancers.logged("x") == [{"key": 1}, {"key": "k", "value": 2}, {"key": 2}]
    assert own_dancers.files.names("ledger/x") == []
    own_dancers.compact_log("x", lambda record: record["key"])
    assert len(own_dancers.logged("x")) == 3


def test_a_task_that_asks_for_one_shard_gets_its_clips(dancers):
    fresh = open_store(dancers.url)
    assert [c.id for c in fresh.shard_clips(1)] == [c.id for c in dancers.clips if c.shard == 1]
    assert "planned" not in fresh.__dict__


def test_a_store_travels_by_its_url(dancers):
    assert pickle.loads(pickle.dumps(dancers)).clips == dancers.clips


def test_drawing_the_same_dancers_again_writes_nothing(own_dancers):
    from remot_data.synthetic.store import build_synthetic

    before = digests(own_dancers.url)
    build_synthetic(own_dancers.url, dancers=5, frames=20, test=1, size=(64, 48), shard_frames=40, workers=0)
    assert digests(own_dancers.url) == before
