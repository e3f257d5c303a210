"""Odd paths, terminals, numbers and sizes of data that ended in a traceback, or in a message about something else.

Made input: a folder called ``x::y``, a terminal of Latin-1, ``nan`` for a number, a store whose only video was drawn
into ``test`` or was removed, a batch larger than the data, folders as phones leave them, somebody who lies. Right: it
works, or one sentence says what is meant.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from remot_data import persons
from remot_data.cli import run
from remot_data.exchange.exports import export
from remot_data.ingest.inputs import find_inputs
from remot_data.ingest.policy import Policy, PolicyError
from remot_data.store import StoreError, open_store
from remot_data.store.files import Files
from remot_data.synthetic.store import build_synthetic


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A store of one dancer, in the split test."""
    store = build_synthetic(str(tmp_path_factory.mktemp("drawn") / "store"), 1, 12, 0.0, (64, 48), workers=0)
    store.write_clips([dataclasses.replace(clip, split="test") for clip in store.planned])
    return open_store(store.url)


@pytest.mark.parametrize("name", ["x::y", "s3://bucket", "~weird"])
def test_what_begins_as_a_path_is_one(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    files = Files(f"./{name}")
    files.write("a/b", b"1")
    assert files.local and (tmp_path / name / "a/b").read_bytes() == b"1"
    assert Files("memory://x").local is False


SLOW = pytest.mark.slow


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("latin-1", marks=SLOW), pytest.param("utf-8", marks=SLOW)])
def test_output_on_any_terminal(tmp_path, encoding):
    folder = tmp_path / "tänzerin-ł-舞"
    folder.mkdir()
    (folder / "no-舞.mp4").write_bytes(b"")
    (folder / os.fsdecode(b"not-utf8-\xff.mp4")).write_bytes(b"")
    words = ["build", str(folder), "--out", str(tmp_path / "store"), "--no-layers", "--workers", "0", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; from remot_data.cli import main; sys.argv[1:] = {words!r}; main()"],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (1, False), done.stderr
    told = json.loads(done.stdout.decode(encoding).splitlines()[-1])
    assert {Path(r["path"]).parent.name for r in told["rejects"]} == {folder.name}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stream", "s", "--limit", "nan"], "--limit"),
        (["transfer", "--run", "r", "--source", "a", "--driving", "b", "--out", "c", "--start", "nan"], "--start"),
        (["train", "s", "--out", "r", "--minutes", "inf"], "--minutes"),
        (["build", "v", "--out", "s", "--margin", "nan"], "--margin"),
        (["build", "v", "--out", "s", "--fps", "nan"], "fps is no finite number"),
        (["build", "v", "--out", "s", "--fps", "fast"], "--fps is a number or 'source'"),
        (["build", "v", "--out", "s", "--rule", "looks=NaN"], "looks is no finite number"),
    ],
)
def test_no_number_is_refused_where_a_number_is_meant(words, said, capsys):
    assert run(words) == 2
    assert said in "".join(capsys.readouterr())


def test_a_policy_has_finite_numbers():
    with pytest.raises(PolicyError, match="margin is no finite number: inf"):
        Policy(margin=float("inf"))


def test_training_on_a_store_whose_clips_are_all_in_test_says_so(drawn):
    from remot_data import stream

    with pytest.raises(StoreError, match=r"is in split 'test', none in 'train': .*--split test.*--split time:0.1"):
        next(iter(stream(drawn, length=4)))
    assert next(iter(stream(drawn, length=4, split="test"))).arrays["frames"].shape[0] == 4
    with pytest.raises(StoreError, match="no window of 40 frames"):
        next(iter(stream(drawn, length=40, split="test")))


def test_a_build_says_that_all_clips_are_in_test(drawn, capsys):
    from remot_data.cli import building

    building.say_where_all_clips_are(drawn.url)
    said = capsys.readouterr().out
    assert "all clips are in the split test" in said and f"remot snapshot {drawn.url} main --split time:0.1" in said
    assert run(["snapshot", drawn.url, "main", "--split", "time:0.25"]) == 0
    capsys.readouterr()
    building.say_where_all_clips_are(drawn.url)
    assert capsys.readouterr().out == ""
    assert run(["snapshot", drawn.url, "main", "--split", "column"]) == 0


def test_a_batch_larger_than_the_data_is_said(drawn):
    from types import SimpleNamespace

    from remot_model.config import preset
    from remot_model.training.reading import Reading

    config, said = preset("tiny"), []
    config = config.with_plan("layout", dataclasses.replace(config.layout, batch=64))
    one = SimpleNamespace(process_index=0, num_processes=1)
    reading = Reading(drawn, config, "layout", "main", "test", "body25", 0, one, say=said.append)
    reading.batches(4, 0).close()
    assert len(said) == 1 and "a batch has 64 windows of 4 frames, an epoch of the data 2:" in said[0]


def test_an_emptied_store_has_nothing_to_export(drawn, tmp_path):
    store = build_synthetic(str(tmp_path / "store"), 1, 4, 0.0, (64, 48), workers=0)
    store.remove({store.clips[0].id: "by hand"})
    with pytest.raises(StoreError, match="has no clips to export, all were removed"):
        export(open_store(store.url), "webdataset", tmp_path / "out", workers=0)


def test_what_phones_and_desktops_leave_beside_videos_is_passed_over(tmp_path):
    names = "a.HEIC a.AAE b.GIF c.tiff d.avif Thumbs.db e.mp4.part desktop.ini"
    for name in [*names.split(), "dance.mp4"]:
        (tmp_path / name).write_bytes(b"")
    items, ignored = find_inputs([tmp_path])
    assert ([Path(i.path).name for i in items], ignored) == (["dance.mp4"], 8)


def test_somebody_who_lies_is_as_long_as_she_is_wide():
    from remot_data.ingest.shots import Shot

    shot = object.__new__(Shot)
    lying = [persons.Person(0, persons.as_box((10, 100, 210, 153)), 0.9)]
    shot.policy = Policy()
    assert shot.too_small(lying) == ""
    assert shot.too_small([persons.Person(0, persons.as_box((10, 100, 60, 153)), 0.9)]).startswith("53 pixels long")
    shot.policy = Policy(persons=None)
    assert shot.too_small(lying) == "53 pixels high, 64 asked for"


@pytest.mark.slow
def test_training_that_is_stopped_says_how_to_go_on(drawn, tmp_path, capsys, monkeypatch):
    from remot_model.checkpoint import read_info
    from remot_model.training.loop import Loop

    out, real = tmp_path / "run", Loop._step

    def step(self, batches, done):
        if self.trainer.steps == 2:
            raise KeyboardInterrupt
        real(self, batches, done)

    words = "--stage layout --preset tiny --set tau=2.0 --steps 3 --save-every 1 --split test --batch 2".split()
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", step)
        assert run(["train", drawn.url, "--out", str(out), *words]) == 130
    said = capsys.readouterr().err
    assert f"stopped; saved: layout at step 2. To go on: remot train --resume --out {out}" in said
    assert "run the same command again" not in said
    assert run(["train", "--resume", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(stage["stage"], stage["steps"]) for stage in told["stages"]] == [("layout", 3)]
    info = read_info(out)
    assert (info["config"]["tau"], info["split"], info["asked"]["steps"]) == (2.0, "test", 3)
    assert np.isfinite(told["stages"][0]["losses"]["total"])
