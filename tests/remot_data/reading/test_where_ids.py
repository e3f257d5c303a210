"""A snapshot that reads a list of clips or frames, as another engine found them."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from remot_data.annotating.annotate import switch
from remot_data.care.diff import State, diff
from remot_data.cli.commands import invoke
from remot_data.exchange.exports import export
from remot_data.reading.filters import ids_of, where
from remot_data.reading.stream import Plan
from remot_data.records import Snapshot
from remot_data.store import Store, StoreError, open_store


def test_what_duckdb_finds_is_what_training_reads(own_dancers: Store, tmp_path: Path) -> None:
    """The queries of docs/data.md."""
    scores = Path(own_dancers.url) / own_dancers.folders(own_dancers.snapshot("main"))["scores"]
    found = duckdb.sql(
        "SELECT split_part(key, '/', 1) AS id, count(*) AS frames, min(visible_joints) AS worst, avg(motion) AS motion "
        f"FROM '{scores}/*.parquet' GROUP BY id ORDER BY worst"
    ).fetchall()
    assert len(found) == 5 and all(row[1] == 20 for row in found)
    lively = sorted(row[0] for row in found if row[3] > 0.007)
    assert 0 < len(lively) < 5
    file = tmp_path / "lively.csv"
    duckdb.sql(
        f"COPY (SELECT c.id FROM '{own_dancers.url}/clips.parquet' c JOIN (SELECT split_part(key, '/', 1) AS id, "
        f"avg(motion) AS m FROM '{scores}/*.parquet' GROUP BY id) s USING (id) WHERE s.m > 0.007) TO '{file}'"
    )
    assert invoke(["snapshot", own_dancers.url, "lively", "--where-ids", str(file)]) == 0
    store = open_store(own_dancers.url)
    plan = Plan(store, snapshot="lively", split=None, length=4, stride=4)
    assert sorted({plan.window(i).clip for i in range(len(plan))}) == lively
    assert diff(State(store, "main"), State(store, "lively")).passing == (100, 20 * len(lively))
    assert export(store, "coco", tmp_path / "coco", snapshot="lively", workers=0).clips == len(lively)
    assert invoke(["snapshot", own_dancers.url, "lively", "--where-ids", "none"]) == 0
    assert "ids" not in json.loads((Path(own_dancers.url) / "snapshots/lively.json").read_text())


@pytest.mark.parametrize("form", ["csv", "parquet", "txt"])
def test_frames_are_named_by_their_keys(form: str, own_dancers: Store, tmp_path: Path) -> None:
    first, second = own_dancers.clips[:2]
    keys, file = [first.key(3), first.key(7), second.id], tmp_path / f"some.{form}"
    if form == "parquet":
        duckdb.sql(f"COPY (SELECT unnest({keys}) AS key) TO '{file}' (FORMAT parquet)")
    else:
        file.write_text(
            "\n".join([*(["key,why"] if form == "csv" else []), *(f"{k},x" if form == "csv" else k for k in keys)])
        )
    snapshot = Snapshot("s", {}, ids=ids_of(file, own_dancers))
    masks = [where(snapshot, own_dancers, clip) for clip in own_dancers.clips]
    assert masks[0].nonzero()[0].tolist() == [3, 7] and masks[1].all() and not any(m.any() for m in masks[2:])
    assert Snapshot.from_json(json.loads(json.dumps(snapshot.to_json()))) == snapshot


def test_the_filter_holds_besides(own_dancers: Store) -> None:
    clip = own_dancers.clips[0]
    layers = own_dancers.snapshot("main").layers
    both = Snapshot("s", layers, "motion<0.007", ids=(clip.id,))
    alone = Snapshot("s", layers, "motion<0.007")
    assert (where(both, own_dancers, clip) == where(alone, own_dancers, clip)).all()
    assert not where(both, own_dancers, own_dancers.clips[1]).any()
    switch(own_dancers, "listed", {}, ids=[clip.id])
    assert switch(own_dancers, "listed", {}, where="motion<1").ids == (clip.id,), "another option leaves it as it was"


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "names no clip"), ("id\nnobody\n", "names 'nobody', which"), ("key\n{clip}/000099\n", "000099', which")],
)
def test_what_is_not_there_is_named(text: str, words: str, own_dancers: Store, tmp_path: Path) -> None:
    file = tmp_path / "ids.csv"
    file.write_text(text.replace("{clip}", own_dancers.clips[0].id))
    with pytest.raises(StoreError, match=words):
        ids_of(file, own_dancers)
    with pytest.raises(StoreError, match="cannot be read"):
        ids_of(tmp_path / "absent.csv", own_dancers)
