"""What may leave a store, and what cannot be exported."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from remot_data.annotating.annotate import switch
from remot_data.exchange.exports import FORMATS, export
from remot_data.exchange.trainers import TRAINERS
from remot_data.records import LayerInfo
from remot_data.store import Store, StoreError
from tests.remot_data.conftest import digests
from tests.remot_data.exchange.conftest import arrays

pytestmark = pytest.mark.slow


def test_an_export_is_the_same_bytes_again(dancers, exported, tmp_path):
    for to in FORMATS:
        if to != "croissant":  # that one names files relative to its own place
            export(dancers, to, tmp_path / to, workers=0)
            made, before = (
                {n: d for n, d in digests(x / to).items() if "_meta" not in n} for x in (tmp_path, exported)
            )
            assert made == before, "all but the lists that say where the files are"
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize("to", [to for to in FORMATS if to not in TRAINERS])  # those leave short runs out
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
