"""New stores have a filter that drops wrong frames; what is there keeps the one it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from remot_data import media
from remot_data.annotating.annotate import switch
from remot_data.assets import fetch
from remot_data.ingest.build import build
from remot_data.ingest.policy import Policy
from remot_data.reading.filters import DEFAULT, where
from remot_data.store import StoreError, open_store

pytestmark = pytest.mark.slow

SMALL = Policy(persons="main", size=(128, 96), min_frames=6)
LAYERS = {"pose": "blazepose", "parsing": "pose-guided", "scores": "quality-scores"}


def cut(folder: Path, name: str) -> Path:
    media.cut(fetch(name), folder / f"{name}.mp4", 0.0, 0.4)
    return folder / f"{name}.mp4"


def test_a_new_store_has_it_and_keeps_what_is_chosen(tmp_path: Path) -> None:
    out = str(tmp_path / "store")
    build(first := cut(tmp_path, "sample-cam01"), out, policy=SMALL, layers=LAYERS, workers=0)
    store = open_store(out)
    snapshot = store.snapshot("main")
    assert snapshot.where == DEFAULT and store.layer("scores", snapshot.layers["scores"]).schema == "quality"
    assert where(snapshot, store, store.clips[0]).any()
    build(first, out, workers=0)
    assert open_store(out).snapshot("main") == snapshot
    switch(store, "main", {}, where="jumps<=0.5")
    build([first, cut(tmp_path, "sample-cam04")], out, workers=0)
    grown = open_store(out)
    assert len(grown.clips) == 2 and grown.snapshot("main").where == "jumps<=0.5"
    build(first, out, where="", workers=0)
    assert open_store(out).snapshot("main").where == ""


def test_scores_that_do_not_have_the_columns_get_none(tmp_path: Path) -> None:
    out = str(tmp_path / "store")
    layers = {"pose": "blazepose", "scores": "basic-scores"}
    build(cut(tmp_path, "sample-cam01"), out, policy=SMALL, layers=layers, workers=0)
    assert open_store(out).snapshot("main").where == ""


def test_a_filter_that_cannot_be_read_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not of the form"):
        build(tmp_path / "absent.mp4", str(tmp_path / "store"), where="jumps", workers=0)
    assert not (tmp_path / "store").exists()
