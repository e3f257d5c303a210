"""Exports against the store they come from, and a round trip through the tree of SoloDance."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import webdataset

from remot_data import media
from remot_data.annotating.annotate import switch
from remot_data.assets import fetch
from remot_data.detectors.base import file_sha256
from remot_data.exchange.exports import FORMATS, export
from remot_data.exchange.importers import import_manifest
from remot_data.exchange.labels import read_labels
from remot_data.ingest.build import build
from remot_data.ingest.inputs import load_manifest
from remot_data.ingest.policy import Policy
from remot_data.records import LayerInfo
from remot_data.schemas import LABELS, convert_keypoints, convert_labels
from remot_data.store import Store, StoreError, open_store
from remot_data.store.layers import pose as pose_layer
from tests.remot_data.conftest import digests

SOLODANCE = Path(__file__).parents[3] / "manifests/solodance.yaml"


@pytest.fixture(scope="module")
def exported(dancers, tmp_path_factory):
    """The five dancers in every format."""
    folder = tmp_path_factory.mktemp("exports")
    for to in FORMATS:
        done = export(dancers, to, folder / to, workers=0)
        assert (done.clips, done.frames, done.left_out) == (5, 100, 0)
        assert done.splits == {"train": 80, "test": 20}
    return folder


def arrays(store, kind, clip, snapshot="main"):
    folder = "frames" if kind == "frames" else store.folders(store.snapshot(snapshot))[kind]
    return store.read_arrays(folder, kind, clip)


def test_an_export_is_the_same_bytes_again(dancers, exported, tmp_path):
    for to in FORMATS:
        if to != "croissant":  # that one names files relative to its own place
            export(dancers, to, tmp_path / to, workers=0)
            assert digests(tmp_path / to) == digests(exported / to)
    assert not list(tmp_path.glob("*.unfinished"))


# What may leave the store


@pytest.mark.parametrize("to", FORMATS)
def test_only_what_the_filter_lets_through_and_nothing_removed_is_written(own_dancers, tmp_path, to):
    store = own_dancers
    gone, failing = store.clips[0], store.clips[1]
    motion = {clip.id: arrays(store, "scores", clip)["motion"] for clip in store.clips}
    limit = round(min(float(np.median(m)) for m in motion.values()), 3)
    passing = {clip: int((m > limit).sum()) for clip, m in motion.items()}
    assert all(count > 0 for count in passing.values()) and min(passing.values()) < 20
    store.remove({gone.id: "asked for"})
    info = store.layer("pose", store.snapshot("main").layers["pose"])
    failed = {**info.to_json(), "failed": {failing.id: "nobody"}}
    store.write_json(f"layers/pose/{info.id}/layer.json", LayerInfo.from_json(failed).to_json())
    switch(store, "main", {}, where=f"motion>{limit}")
    done = export(Store(store.url), to, tmp_path / "out", workers=0)
    kept = sum(passing.values()) - passing[gone.id] - passing[failing.id]
    assert (done.frames, done.left_out) == (kept, 80 - kept)
    names = " ".join(str(p) for p in (tmp_path / "out").rglob("*"))
    for clip in (gone, failing):
        assert clip.id not in names
    if to == "solodance":
        assert len(list((tmp_path / "out").glob("*/*_img/source/*/*.png"))) == kept
    elif to == "coco":
        assert len(list((tmp_path / "out/images").rglob("*.jpg"))) == kept


@pytest.mark.parametrize(
    ("to", "change", "says"),
    [
        ("mpeg", {}, "no export to 'mpeg'; known are solodance"),
        ("coco", {"snapshot": "bare"}, "coco needs the pose layer, which snapshot 'bare' does not have"),
        ("webdataset", {"snapshot": "none"}, "lets no frame through"),
        ("webdataset", {"snapshot": "absent"}, "has no snapshot 'absent'"),
        ("webdataset", {"out": "full"}, "exists; choose another"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence_and_leaves_nothing(own_dancers, tmp_path, to, change, says):
    store = own_dancers
    store.write_json("snapshots/bare.json", {"name": "bare", "layers": {}, "where": "", "split": "column"})
    switch(store, "none", {}, where="motion>1000")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    out = tmp_path / change.pop("out", "out")
    with pytest.raises(StoreError, match=says):
        export(store, to, out, workers=0, **change)
    assert {p.name for p in tmp_path.iterdir()} == {"store", "full"}
    assert (tmp_path / "full/mine.txt").exists()


@pytest.mark.parametrize("field", ["id", "split"])
def test_no_name_in_a_store_leads_out_of_the_folder(own_dancers, tmp_path, field):
    first, *others = own_dancers.clips
    own_dancers.write_clips([dataclasses.replace(first, **{field: "../../../evil"}), *others])
    with pytest.raises(Exception, match="no safe name for a file"):
        export(Store(own_dancers.url), "coco", tmp_path / "out", workers=0)
    assert not list(tmp_path.glob("**/evil*"))


def test_a_split_by_time_parts_every_clip(own_dancers, tmp_path):
    switch(own_dancers, "main", {}, split="time:0.25")
    done = export(own_dancers, "webdataset", tmp_path / "out", workers=0)
    assert done.splits == {"train": 75, "test": 25}
    assert done.clips == 5


# Merged tars


def test_merged_tars_are_read_by_plain_webdataset(dancers, exported):
    tars = sorted(str(p) for p in (exported / "webdataset").glob("*.tar"))
    assert [Path(p).name for p in tars] == ["test-00002.tar", "train-00000.tar", "train-00001.tar"]
    samples = {s["__key__"]: s for s in webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8")}
    assert len(samples) == 100
    clip = dancers.clips[2]
    sample, frames = samples[clip.key(7)], arrays(dancers, "frames", clip)["frames"]
    # Decoders may differ by a little; labels and numbers may not.
    assert np.abs(sample["jpg"].astype(int) - frames[7]).mean() < 1
    np.testing.assert_array_equal(sample["pose.npy"], arrays(dancers, "pose", clip)["keypoints"][7])
    np.testing.assert_array_equal(sample["labels.png"][..., 0], arrays(dancers, "parsing", clip)["labels"][7])
    packed = sample["flow.npz"]["flow"]
    np.testing.assert_allclose(packed[:2] / 64, np.moveaxis(arrays(dancers, "flow", clip)["flow"][7], -1, 0))
    assert {"background.jpg", "background.seen.png", "pose.mask.png", "scores.json"} <= set(sample)
    assert sample["json"]["clip"] == clip.id and sample["json"]["frame"] == 7
    assert sample["json"]["pts"] == clip.pts[7] and sample["json"]["split"] == "train"


def test_the_list_of_tars_has_their_digests_and_the_schemas(exported):
    told = json.loads((exported / "webdataset/dataset.json").read_text())
    assert told["schemas"]["pose"] == "body25" and told["schemas"]["parsing"] == "atr18"
    tars = [tar for split in ("train", "test") for tar in told["splits"][split]]
    assert [t["samples"] for t in tars] == [40, 40, 20]
    for tar in tars:
        assert file_sha256(exported / "webdataset" / tar["name"]) == tar["sha256"]


# COCO


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
    from remot_data.exchange.exports import _annotation

    points = np.zeros((17, 3), np.float32)
    points[0], points[1], points[2], points[3] = (10, 20, 0.9), (30, 40, 0.2), (-5, 10, 0.9), (64, 10, 0.9)
    note = _annotation(points, None, (48, 64))
    assert np.reshape(note["keypoints"], (17, 3))[:4].tolist() == [[10, 20, 2], [30, 40, 1], [0, 0, 0], [0, 0, 0]]
    assert (note["num_keypoints"], note["bbox"], note["area"]) == (2, [10, 20, 20, 20], 400)
    assert _annotation(np.zeros((17, 3)), None, (48, 64)) is None


# Croissant


def test_croissant_names_every_file_by_its_digest(dancers, exported):
    folder = exported / "croissant"
    told = json.loads((folder / "croissant.json").read_text())
    assert told["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert told["license"] == "Apache-2.0"
    files = [d for d in told["distribution"] if d["@type"] == "cr:FileObject"]
    assert len(files) == 1 + 6 * 3
    for file in files:
        path = (folder / file["contentUrl"]).resolve()
        assert file_sha256(path) == file["sha256"]
        assert file["contentSize"] == f"{path.stat().st_size} B"
    ids = [d["@id"] for d in told["distribution"]] + [f["@id"] for r in told["recordSet"] for f in [r, *r["field"]]]
    # One name is one thing, except that a layer's records and its only file may not share it.
    assert len(ids) == len(set(ids))
    for record in told["recordSet"]:
        for field in record["field"]:
            source = field.get("source", {})
            named = source.get("fileSet", source.get("fileObject"))
            assert named is None or named["@id"] in ids
    splits = next(r for r in told["recordSet"] if r["@id"] == "splits")
    assert {row["splits/name"] for row in splits["data"]} == {"train", "test"}


# SoloDance


def test_the_tree_of_solodance_has_its_folders_and_their_roles(dancers, exported):
    tree = exported / "solodance"
    loaded = load_manifest(SOLODANCE, tree)
    assert loaded.counts == {"train": (153, 4), "test": (26, 1)}
    assert len(loaded.shortfall()) == 2
    for split, count in (("train", 4), ("test", 1)):
        for what, name in (
            ("img", "timg_*.jpg"),
            ("fg", "tfg_*.jpg"),
            ("parsing", "tparsing_*.png"),
            ("pose", "tpose_*.json"),
        ):
            sources = sorted((tree / split / f"{split}_{what}/source").iterdir())
            targets = sorted((tree / split / f"{split}_{what}/target").iterdir())
            assert [s.name for s in sources] == [t.name for t in targets]
            assert len(sources) == count and all(len(list(s.iterdir())) == 20 for s in sources)
            assert all(len(list(t.glob(name))) == 1 == len(list(t.iterdir())) for t in targets)
        assert len(list((tree / split / f"{split}_bg").glob("*.jpg"))) == count
    clip = dancers.clips[0]
    one = next(i for i in loaded.inputs if i.path.endswith(f"video-{clip.id}"))
    picture = cv2.imread(f"{one.path}/000004.png")[..., ::-1]
    np.testing.assert_array_equal(picture, arrays(dancers, "frames", clip)["frames"][4])
    labels = arrays(dancers, "parsing", clip)["labels"][4]
    shown = cv2.imread(f"{one.path}/000004.png".replace("_img", "_fg"))[..., ::-1]
    np.testing.assert_array_equal(shown, picture * (labels != 0)[..., None])
    # Twenty labels that merge to the same eleven; a skirt alone belongs to the legs there.
    twenty = read_labels(f"{one.path}/000004.png".replace("_img", "_parsing"))
    eleven = convert_labels(twenty, "cihp20", "remot11")
    skirt = labels == LABELS["atr18"].labels.index("skirt")
    np.testing.assert_array_equal(eleven[~skirt], convert_labels(labels, "atr18", "remot11")[~skirt])
    # Their target is a frame of this clip.
    stored = list(dancers.read_members("frames", clip, "jpg", range(clip.frames)))
    assert Path(one.appearance).read_bytes() == stored[int(one.appearance[-10:-4])]


@pytest.fixture(scope="module")
def person(tmp_path_factory):
    """Nine frames of a real person, built with pose and parsing."""
    folder = tmp_path_factory.mktemp("real")
    media.cut(fetch("sample-cam02"), folder / "man.mp4", 0.0, 0.15)
    detectors = {"pose": "blazepose", "parsing": "pose-guided"}
    policy = Policy(size=(256, 192), min_frames=6)
    return open_store(build(folder / "man.mp4", str(folder / "s"), policy=policy, layers=detectors, workers=0).store)


def test_out_to_solodance_and_back_gives_the_same_keypoints_and_labels(person, tmp_path):
    export(person, "solodance", tmp_path / "SoloDance", workers=0)
    again = build(
        SOLODANCE, str(tmp_path / "s"), policy=Policy(size=(256, 192), min_frames=6), layers={},
        root=tmp_path / "SoloDance", workers=0,
    )  # fmt: skip
    assert (again.clips, again.refused) == (1, 0)
    store = open_store(again.store)
    pose, parsing = import_manifest(store, SOLODANCE, tmp_path / "SoloDance", snapshot="main", workers=0)
    assert (pose.failed, pose.absent, parsing.failed) == ({}, 0, {})
    (old,), (new,) = person.clips, store.clips
    assert (new.frames, new.split, new.source_size) == (old.frames, old.split, (192, 256))
    x, y, w, h = new.crop
    before, after = arrays(person, "pose", old)["keypoints"], arrays(store, "pose", new)["keypoints"]
    back = after[..., :2] * [w / 192, h / 256] + [x, y]
    seen = before[..., 2] > 0
    assert seen.mean() > 0.5
    np.testing.assert_array_equal(after[..., 2] > 0, seen)
    assert np.abs(back - before[..., :2])[seen].max() < 0.01
    rows = np.floor(y + (np.arange(256) + 0.5) * h / 256).clip(0, 255).astype(int)
    columns = np.floor(x + (np.arange(192) + 0.5) * w / 192).clip(0, 191).astype(int)
    whole, cut = arrays(person, "parsing", old)["labels"], arrays(store, "parsing", new)["labels"]
    names, theirs = LABELS["atr18"].labels, LABELS["cihp20"].labels
    same = [theirs.index(name) if name in theirs else -1 for name in names]
    wanted = np.array(same)[whole[:, rows][:, :, columns]]
    known = wanted >= 0
    assert known.mean() > 0.99
    np.testing.assert_array_equal(cut[known], wanted[known])
    assert store.layer("parsing", parsing.id).schema == "cihp20"


def test_members_of_merged_tars_are_those_of_the_store(person, tmp_path):
    """The bytes go over as they are, so this package's own readers take them too."""
    export(person, "webdataset", tmp_path / "out", workers=0)
    (clip,) = person.clips
    (tar,) = (tmp_path / "out").glob("*.tar")
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    assert len(samples) == clip.frames
    found = np.stack([pose_layer.from_npy(s["pose.npy"]) for s in samples])
    np.testing.assert_array_equal(found, arrays(person, "pose", clip)["keypoints"])
    assert "flow.npz" not in samples[0]
