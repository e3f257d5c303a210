"""What `remot diff` tells: between snapshots, days and stores."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from remot_data.annotating.annotate import annotate, switch
from remot_data.care.compact import compact, remove
from remot_data.care.compare import compare
from remot_data.care.diff import Difference, State, diff, sentences
from remot_data.cli.commands import invoke
from remot_data.store import Store, StoreError, open_store
from remot_data.store.history import gather, history, note


def between(store: Store, a: str, b: str = "main") -> Difference:
    return diff(State(store, a), State(open_store(store.url), b))


def test_a_snapshot_and_itself(own_dancers: Store) -> None:
    found = between(own_dancers, "main")
    assert found.is_empty and found.clips == (5, 5) and found.frames == (100, 100) and found.passing is None


def test_filters_layers_and_split_policies(own_dancers: Store, tmp_path: Path) -> None:
    raw = own_dancers.snapshot("main").layers["pose"]
    even = annotate(own_dancers, "pose", "smooth", workers=0).id
    switch(own_dancers, "other", {"pose": even}, where="motion<0.007", split="time:0.2")
    found = between(own_dancers, "main", "other")
    assert found.where == ("", "motion<0.007") and found.policy == ("column", "time:0.2")
    assert found.passing[0] == 100 and 0 < found.passing[1] < 100
    assert [(x.kind, x.a, x.b, x.agreement) for x in found.layers] == [("pose", raw, even, None)]
    compare(own_dancers, "pose", raw, even, tmp_path / "compare", workers=0)
    (layer,) = between(own_dancers, "other", "main").layers
    assert layer.agreement > 0.9 and (layer.a, layer.b) == (even, raw)


def test_of_a_long_filter_what_changed_is_told(own_dancers: Store) -> None:
    switch(own_dancers, "main", {}, where="motion<1 and sharpness>0 and visible_joints>=0.1")
    switch(own_dancers, "other", {}, where="motion<1 and sharpness>0 and visible_joints>=0.2")
    switch(own_dancers, "none", {}, where="")
    told = {
        name: next(line for line in sentences(between(own_dancers, name)) if line.startswith("filter"))
        for name in ("other", "none")
    }
    assert told["other"] == "filter: without visible_joints>=0.2, with visible_joints>=0.1"
    assert told["none"] == "filter: none -> motion<1 and sharpness>0 and visible_joints>=0.1"


def test_what_it_was_on_a_day(own_dancers: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removed, switched and grown since then; what was compacted away is still told."""
    store = own_dancers
    dates = iter(["2026-01-01T10:00:00+00:00", "2026-01-02T10:00:00+00:00", "2026-01-03T10:00:00+00:00",
                  "2026-01-04T10:00:00+00:00", "2026-01-05T10:00:00+00:00"])  # fmt: skip
    monkeypatch.setattr("remot_data.store.history.now", lambda: next(dates))
    before = len(history(store))  # what other tests have compared in the store that this is a copy of
    switch(store, "main", {})
    gone = store.clips[1]
    remove(store, [gone.id])
    compact(store, workers=0)
    store = open_store(store.url)
    switch(store, "main", {}, where="motion<0.02")
    note(store, "build", before=2, shards=3, clips=4, frames=80)
    gather(store)
    own = [line for line in history(store) if line["at"].startswith("2026-01-0")]
    assert len(history(store)) == before + len(own)
    assert [line["what"] for line in own] == ["snapshot", "remove", "compact", "snapshot", "build"]

    late = {clip.id for clip in store.clips if clip.shard == 2}
    found = between(store, "main@2026-01-01")
    assert found.removed == {gone.id: 20} and set(found.added) == late and found.where == ("", "motion<0.02")
    assert not between(store, "main@2026-01-02").removed
    assert between(store, "main@2026-01-05").is_empty
    assert between(store, "main@2026-01-02T09:00").removed == {gone.id: 20}
    with pytest.raises(StoreError, match="its history begins at 2026-01-01T10:00 UTC"):
        between(store, "main@2025-12-31")
    with pytest.raises(StoreError, match="'yesterday' is no day or time"):
        between(store, "main@yesterday")


def test_two_stores(own_dancers: Store, dancers: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = [dataclasses.replace(c, split="test" if c is own_dancers.clips[0] else c.split) for c in own_dancers.clips]
    own_dancers.write_clips(moved)
    remove(own_dancers, [own_dancers.clips[3].id])
    page = tmp_path / "diff.html"
    assert invoke(["diff", dancers.url, "main", "main", "--in", own_dancers.url, "--out", str(page), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert found["clips"] == [5, 4] and len(found["removed"]) == 1 and len(found["split"]) == 1
    assert "split train -> test: 1 clips" in lines and "clips: 5 -> 4" in lines
    text = page.read_text()
    assert "Clips in another split" in text and moved[0].id in text and "Clips removed" in text
