"""A store that an older version built, at commit 1c74548: two sample clips of 12 frames with all default layers.

It opens, verifies and streams what it streamed then, nothing of it is stale, and it grows and is repaired.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from remot_data import media
from remot_data.annotating.annotate import annotate, plan_jobs
from remot_data.assets import fetch
from remot_data.care.verify import repair, verify
from remot_data.detectors.base import DEFAULTS
from remot_data.ingest.build import build
from remot_data.ingest.policy import Policy
from remot_data.reading.stream import Plan
from remot_data.store import Store, open_store

DATA = Path(__file__).parent / "data"
THEN = {**DEFAULTS, "scores": "basic-scores"}  # what were the defaults
OLD, SOURCE = DATA / "store-1c74548", DATA / "store-1c74548-cam1.mp4"


@pytest.fixture
def old(tmp_path: Path) -> Store:
    """A copy; the source video of its first clip is where its table says, that of the other is not."""
    store = Store(str(shutil.copytree(OLD, tmp_path / "store")))
    paths = [str(SOURCE) if clip.id.startswith("cam1") else str(tmp_path / "gone.mp4") for clip in store.clips]
    store.write_clips([dataclasses.replace(clip, path=path) for clip, path in zip(store.clips, paths, strict=True)])
    return open_store(store.url)


def windows(store: Store, clips: set[str]) -> list[dict[str, object]]:
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


def test_its_layers_are_those_of_todays_default_detectors(old: Store) -> None:
    layers = old.snapshot("main").layers
    assert {job.kind: job.id for job in plan_jobs(old, THEN)} == layers
    for kind, name in THEN.items():
        done = annotate(old, kind, name, inputs=layers, workers=0)
        assert (done.computed, done.id) == (0, layers[kind]), kind


@pytest.mark.slow
def test_it_grows_under_its_own_rules(old: Store, tmp_path: Path) -> None:
    before = open_store(str(OLD))
    media.cut(fetch("sample-cam02"), tmp_path / "more.mp4", 0.1, 0.3)
    done = build([tmp_path / "more.mp4"], old.url, workers=0)
    assert done.clips == 3 and not list(verify(old := open_store(old.url)))
    assert old.config["policy"] == before.config["policy"]
    assert old.snapshot("main") == before.snapshot("main"), "its layers, and no filter"
    assert windows(old, set(before.clip)) == windows(before, set(before.clip))


def test_what_is_lost_of_it_is_made_again(old: Store) -> None:
    layers = old.snapshot("main").layers
    (clip,) = (c for c in old.clips if c.path == str(SOURCE))
    for kind in ("flow", "parsing"):
        (Path(old.url) / f"layers/{kind}/{layers[kind]}/shard-{clip.shard:05d}.tar").unlink()
    problems = list(verify(old))
    assert len(problems) >= 2
    assert not repair(old, problems, workers=0)
    assert not list(verify(open_store(old.url)))


def test_its_sources_are_read_again(old: Store) -> None:
    (clip,) = (c for c in old.clips if c.path == str(SOURCE))
    done = annotate(old, "flow", "dis", source=96, workers=0)
    assert set(done.failed) == set(old.clip) - {clip.id}, "the other clip's source is not there"
    flow = old.read_arrays(f"layers/flow/{done.id}", "flow", clip)["flow"]
    assert flow.shape == (12, 32, 24, 2) and abs(flow).max() > 0.01
