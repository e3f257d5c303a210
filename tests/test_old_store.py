"""A store that an older version built, at commit 1c74548: two sample clips of 12 frames with all default layers.

It opens, verifies and streams what it streamed then, nothing of it is stale, and it grows and is repaired.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from remot_data import media
from remot_data.annotating.annotate import Outdated, annotate, plan_jobs, recorded_job
from remot_data.assets import fetch
from remot_data.care.verify import repair, verify
from remot_data.ingest.build import build
from remot_data.ingest.policy import Policy
from remot_data.reading.stream import Plan
from remot_data.store import Store, open_store

DATA = Path(__file__).parent / "data"
OLD, SOURCE = DATA / "store-1c74548", DATA / "store-1c74548-cam1.mp4"


@pytest.fixture
def old(tmp_path: Path) -> Store:
    """A copy; the source video of its first clip is where its table says, that of the other is not."""
    store = Store(str(shutil.copytree(OLD, tmp_path / "store")))
    paths = [str(SOURCE) if clip.id.startswith("cam1") else str(tmp_path / "gone.mp4") for clip in store.clips]
    store.write_clips([dataclasses.replace(clip, path=path) for clip, path in zip(store.clips, paths, strict=True)])
    return open_store(store.url)


def windows(store: Store, clips: set[str]) -> list[dict[str, Any]]:
    plan = Plan(store, length=4, stride=4, shuffle=False, raw=True)
    found = []
    for window in map(plan.window, range(len(plan))):
        if window.clip in clips:
            sha = {name: hashlib.sha256(x.tobytes()).hexdigest() for name, x in sorted(window.arrays.items())}
            found.append({"clip": window.clip, "first": window.first, "sha256": sha})
    return found


def test_it_verifies_and_streams_what_it_streamed() -> None:
    store = open_store(str(OLD))
    assert not list(verify(store))
    expected = json.loads((DATA / "store-1c74548-windows.json").read_text())
    assert windows(store, set(store.clip)) == expected and len(expected) == 6


def test_its_policy_is_written_today_as_it_was_then() -> None:
    """A new field that is not among `policy._LATER` would make it a store of another policy, which cannot grow."""
    policy = open_store(str(OLD)).config["policy"]
    assert json.loads(json.dumps(Policy.from_json(policy).to_json())) == policy


def test_its_layers_are_made_again_as_they_were(old: Store) -> None:
    """Under their ids: settings that came later have the values of before, and frames are read as they were.

    All but parsing, whose detector has another version.
    """
    layers = old.snapshot("main").layers
    with pytest.raises(Outdated, match="was made by pose-guided 3"):
        recorded_job(old.layer("parsing", layers["parsing"]))
    for kind, layer_id in layers.items():
        if kind == "parsing":
            continue
        job = recorded_job(old.layer(kind, layer_id))
        done = annotate(old, kind, job.spec, settings=job.settings, inputs=layers, source=job.source, workers=0)
        assert (done.computed, done.id) == (0, layer_id), kind


def test_pose_is_looked_for_anew_in_its_frames_for_not_all_sources_are_here(old: Store) -> None:
    (job,) = plan_jobs(old, {"pose": "blazepose"})
    assert job.source == 0 and job.id != old.snapshot("main").layers["pose"]
    store = Store(old.url)
    store.write_clips([dataclasses.replace(clip, path=str(SOURCE)) for clip in store.clips])
    (job,) = plan_jobs(open_store(old.url), {"pose": "blazepose"})
    assert job.source == 512


@pytest.mark.slow
def test_it_grows_under_its_own_rules_once_it_is_parsed_anew(old: Store, tmp_path: Path) -> None:
    first = open_store(str(OLD))
    media.cut(fetch("sample-cam02"), tmp_path / "more.mp4", 0.1, 0.3)
    with pytest.raises(Outdated, match="annotate .* --layer parsing --with pose-guided --snapshot main"):
        build([tmp_path / "more.mp4"], old.url, workers=0)
    annotate(old, "parsing", "pose-guided", snapshot="main", workers=0)
    annotate(old, "background", "temporal-median", settings={"moving": False}, snapshot="main", workers=0)
    done = build([tmp_path / "more.mp4"], old.url, workers=0)
    assert done.clips == 3 and not list(verify(old := open_store(old.url)))
    assert old.config["policy"] == first.config["policy"]
    kept = {kind: layer for kind, layer in first.snapshot("main").layers.items() if kind not in ANEW}
    assert {kind: layer for kind, layer in old.snapshot("main").layers.items() if kind in kept} == kept
    assert old.snapshot("main").where == first.snapshot("main").where == "", "no filter that it had not"
    shown, then = windows(old, set(first.clip)), windows(first, set(first.clip))
    assert [_without_anew(window) for window in shown] == [_without_anew(window) for window in then]


ANEW = ("parsing", "background")  # what is made anew before it grows: backgrounds read the parsing


def _without_anew(window: dict[str, Any]) -> dict[str, Any]:
    arrays = window["sha256"].items()
    return {**window, "sha256": {k: v for k, v in arrays if k not in ("labels", "source_labels", "background")}}


def test_what_is_lost_of_it_is_made_again(old: Store) -> None:
    layers = old.snapshot("main").layers
    (clip,) = (c for c in old.clips if c.path == str(SOURCE))
    for kind in ("flow", "background"):
        (Path(old.url) / f"layers/{kind}/{layers[kind]}/shard-{clip.shard:05d}.tar").unlink()
    problems = list(verify(old))
    assert len(problems) >= 2
    assert not repair(old, problems, workers=0)
    assert not list(verify(open_store(old.url)))


def test_lost_labels_of_a_parser_that_is_gone_are_said(old: Store) -> None:
    layers = old.snapshot("main").layers
    (clip,) = (c for c in old.clips if c.path == str(SOURCE))
    (Path(old.url) / f"layers/parsing/{layers['parsing']}/shard-{clip.shard:05d}.tar").unlink()
    (left,) = repair(old, list(verify(old)), workers=0)
    assert "pose-guided 3" in left and "annotate with it as a new layer" in left


def test_its_sources_are_read_again(old: Store) -> None:
    (clip,) = (c for c in old.clips if c.path == str(SOURCE))
    done = annotate(old, "flow", "dis", source=96, workers=0)
    assert set(done.failed) == set(old.clip) - {clip.id}, "the other clip's source is not there"
    flow = old.read_arrays(f"layers/flow/{done.id}", "flow", clip)["flow"]
    assert flow.shape == (12, 32, 24, 2) and abs(flow).max() > 0.01
