"""Filters of snapshots: a column that is not there is one error, which says what makes it, wherever one is read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remot_data.annotating.annotate import annotate, switch
from remot_data.cli.commands import invoke
from remot_data.reading.filters import DEFAULT, conditions, passing, where
from remot_data.schemas import SCORES
from remot_data.store import Store, StoreError, open_store


@pytest.mark.parametrize("command", ["stream", "stream --plan", "report --out r.html", "export --to coco --out e"])
def test_a_missing_column_is_one_error_with_the_command(
    own_dancers: Store, command: str, capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    switch(own_dancers, "main", {}, where=DEFAULT)
    name, *rest = command.split()
    assert invoke([name, own_dancers.url, *rest, *(["--workers", "0"] if name == "export" else [])]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert err.count("error:") == 1
    assert f"remot annotate {own_dancers.url} --layer scores --with quality-scores --snapshot main" in err


def test_that_command_makes_it(own_dancers: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["snapshot", own_dancers.url, "clean", "--where", DEFAULT]) == 2
    assert "--with quality-scores --snapshot clean" in " ".join(capsys.readouterr().err.split())
    annotate(own_dancers, "scores", "quality-scores", snapshot="clean", workers=0)
    assert open_store(own_dancers.url).snapshot("clean").where == "", "nobody asked for a filter"
    assert invoke(["snapshot", own_dancers.url, "clean", "--where", DEFAULT]) == 0
    assert "frames pass" in capsys.readouterr().out


def test_of_a_snapshot_without_scores(own_dancers: Store) -> None:
    bare = dataclasses.replace(own_dancers.snapshot("main"), layers={}, where="sharpness>1")
    with pytest.raises(StoreError, match="--layer scores --with basic-scores"):
        where(bare, own_dancers, own_dancers.clips[0])


def test_no_frame_of_a_clip_without_scores_passes(own_dancers: Store) -> None:
    """Once a KeyError in reports and in `remot snapshot`."""
    snapshot = dataclasses.replace(own_dancers.snapshot("main"), where="sharpness>=0")
    clip = dataclasses.replace(own_dancers.clips[0], id="not-scored")
    assert not where(snapshot, own_dancers, clip).any()
    assert where(dataclasses.replace(snapshot, where="frames>=1"), own_dancers, clip).all()


@pytest.mark.parametrize("text", ["jumps<=few", "jumps<=nan", "jumps"])
def test_what_means_nothing_is_an_error(text: str) -> None:
    with pytest.raises(StoreError):
        passing(text, {"jumps": np.zeros(3)}, 3)


def test_conditions_are_read() -> None:
    assert list(conditions("a>=1 and b<0.5, c==x")) == [("a", ">=", "1"), ("b", "<", "0.5"), ("c", "==", "x")]
    assert {name for name, _, _ in conditions(DEFAULT)} <= set(SCORES["quality"])
    with pytest.raises(StoreError, match="there are a"):
        passing("b>1", {"a": np.zeros(2)}, 2)
