"""Joining the layers of a snapshot in pipelines of the webdataset library; the shards in the `datasets` library."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import webdataset

from remot_data.annotating.annotate import switch
from remot_data.reading.joining import Join
from remot_data.store import StoreError, open_store
from remot_data.store.layers import flow, kind


def pipeline(join, *stages):
    return webdataset.DataPipeline(webdataset.SimpleShardList(join.urls), join, *stages)


def test_every_frame_comes_with_its_layers(dancers):
    samples = list(pipeline(Join(dancers)))
    assert [s["__key__"] for s in samples] == [clip.key(t) for clip in dancers.clips for t in range(clip.frames)]
    for sample in samples[::7]:
        stored = dancers[sample["__key__"]]
        assert np.array_equal(kind("parsing").decode("png", sample["parsing.png"]), stored["labels"])
        assert np.array_equal(kind("pose").decode("npy", sample["pose.npy"]), stored["keypoints"])
        assert np.array_equal(kind("flow").decode("npz", sample["flow.npz"]), stored["flow"])
        assert {"jpg", "pose.mask.png", "background.jpg", "background.seen.png", "scores.json"} <= set(sample)


def test_the_librarys_own_stages_follow(dancers):
    decoded = list(
        pipeline(Join(dancers, layers=["flow", "parsing"]), webdataset.decode("rgb8"), webdataset.shuffle(9))
    )
    assert len(decoded) == 100
    for sample in decoded[:5]:
        assert sample["jpg"].shape == (64, 48, 3) and sample["flow.npz"]["flow"].dtype == np.int16
        assert set(sample) == {"__key__", "__url__", "jpg", "flow.npz", "parsing.png"}


def failing(store):
    """The store with its first clip missing in the flow layer, as where a detector failed on it."""
    clip, layer = store.clips[0], store.snapshot("main").layers["flow"]
    folder = f"layers/flow/{layer}"
    from remot_data.store.shards import Sample, encoded

    kept = []
    for other in store.shard_clips(clip.shard):
        if other.id != clip.id:
            for sample in encoded("flow", other, store.read_arrays(folder, "flow", other)):
                kept.append(Sample(sample.key, sample.members))
    store.write_shard(folder, clip.shard, kept)
    info = dataclasses.replace(store.layer("flow", layer), failed={clip.id: "too dark"})
    store.write_json(f"{folder}/layer.json", info.to_json())
    return open_store(store.url), clip


def test_a_layer_that_lacks_a_clip_follows_the_policy_and_is_said(own_dancers, caplog):
    store, clip = failing(own_dancers)
    with pytest.raises(StoreError, match=f"{clip.key(0)} has no flow; choose policy='drop' or 'none'"):
        list(pipeline(Join(store)))
    with caplog.at_level(logging.WARNING):
        join = Join(store, policy="drop")
        dropped = list(pipeline(join))
    assert len(dropped) == 80 and not any(s["__key__"].startswith(clip.id) for s in dropped)
    assert join.missing == {"flow": 20} and "left out: 20 without flow" in caplog.text
    with caplog.at_level(logging.WARNING):
        kept = list(pipeline(Join(store, policy="none")))
    assert len(kept) == 100 and sum("flow.npz" not in s for s in kept) == 20
    assert all(s["flow.npz"] for s in kept[20:]) and "given without it: 20 without flow" in caplog.text
    caplog.clear()
    assert len(list(pipeline(Join(store, layers=["pose"])))) == 100 and not caplog.text


def test_filter_split_and_removal_hold(own_dancers):
    switch(own_dancers, "main", {}, split="time:0.3")
    assert len(list(pipeline(Join(own_dancers, split="test")))) == 5 * 6
    own_dancers.remove({own_dancers.clips[0].id: "by hand"})
    assert len(list(pipeline(Join(own_dancers, split="train")))) == 4 * 14


def test_what_makes_no_sense_is_refused(dancers):
    with pytest.raises(ValueError, match="error, drop, none"):
        Join(dancers, policy="skip")
    with pytest.raises(StoreError, match="has no depth layer"):
        Join(dancers, layers=["depth"])


def test_the_datasets_library_streams_every_layer_side_by_side(dancers):
    """Shard i of each layer holds the clips of shard i of the frames, so plain streams of the library can be zipped."""
    datasets = pytest.importorskip("datasets")
    streams = {}
    for name, folder in {"frames": "frames", **dancers.folders(dancers.snapshot("main"))}.items():
        tars = [f"{dancers.url}/{folder}/shard-{shard:05d}.tar" for shard in range(dancers.shard_count)]
        streams[name] = datasets.load_dataset("webdataset", data_files={"train": tars}, split="train", streaming=True)
    rows = {name: list(stream) for name, stream in streams.items()}
    keys = [row["__key__"] for row in rows["frames"]]
    assert len(keys) == 100
    for name in ("pose", "parsing", "flow", "scores"):
        assert [row["__key__"] for row in rows[name]] == keys
    assert len(rows["background"]) == len(dancers.clips)
    for row, sample in zip(rows["parsing"], rows["flow"], strict=True):
        stored = dancers[row["__key__"]]
        assert np.array_equal(np.asarray(row["png"]), stored["labels"])
        assert np.allclose(np.asarray(sample["npz"]["flow"])[:2] / flow.SCALE, stored["flow"][:2])
        break
