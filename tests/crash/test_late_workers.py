"""A task that two workers do, and one that ends long after its work was done elsewhere."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from remot_data import annotate as _  # noqa: F401 - the function; the module is fetched below
from remot_data.annotating.annotate import annotate_shard, recorded_job
from remot_data.care.compact import compact, remove
from remot_data.ingest.build import build, frames_shard, stored_policy
from remot_data.media import sandbox
from remot_data.store import Store, open_store
from tests.crash.harness import assert_sound, content

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def frames_task(store: Path, shard: int) -> dict[str, Any]:
    policy = stored_policy(str(store))
    assert policy is not None
    return {"url": str(store), "shard": shard, "policy": policy.to_json()}


def layers_task(store: Path, shard: int) -> dict[str, Any]:
    """In the order of the snapshot's layers, which comes after what each reads."""
    opened = open_store(str(store))
    kinds = sorted(opened.layers, key=lambda i: (len(i.inputs), i.kind != "pose", i.kind == "scores"))
    return {"url": str(store), "shard": shard, "jobs": [recorded_job(i).to_json() for i in kinds]}


def take_away(store: Path, folder: str, shard: int) -> None:
    for end in ("parquet", "tar"):
        (store / folder / f"shard-{shard:05d}.{end}").unlink()


def test_two_workers_that_do_the_same_tasks_at_the_same_time(complete, copy):
    out = copy(complete)
    layers = layers_task(out, 0)
    take_away(out, "frames", 0)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        receipts = [f.result(120) for f in [pool.submit(frames_shard, **frames_task(out, 0)) for _ in range(2)]]
        assert receipts[0].made == receipts[1].made
        for info in open_store(str(out)).layers:
            take_away(out, f"layers/{info.kind}/{info.id}", 0)
        receipts = [f.result(120) for f in [pool.submit(annotate_shard, **layers) for _ in range(2)]]
    assert receipts[0].made == receipts[1].made and len(receipts[0].made) == 5
    assert_sound(out, content(complete))


def test_a_task_done_again_tells_the_same_as_the_first_time(complete, copy):
    """The driver never heard of the first time: its worker died after the last write."""
    out = copy(complete)
    shutil.rmtree(out / "ledger")
    known = {r["task"]: r["made"] for r in Store(str(complete)).logged("receipts") if r["shard"] == 0}
    assert frames_shard(**frames_task(out, 0)).made == known["frames"]
    assert annotate_shard(**layers_task(out, 0)).made == known["annotate"]
    assert content(out).items() <= content(complete).items()


@pytest.fixture
def half_removed(clips, tmp_path) -> Path:
    """One shard with two clips, of which one was removed, frames and flow."""
    out = tmp_path / "store"
    policy = {"size": (64, 48), "min_frames": 4, "max_frames": 8, "shard_frames": 16, "persons": "main"}
    build(clips[:2], str(out), policy=policy_of(policy), layers={"flow": "dis"}, workers=0)
    remove(open_store(str(out)), [open_store(str(out)).clips[0].id])
    return out


def policy_of(fields: dict[str, Any]) -> Any:
    return importlib.import_module("remot_data.ingest.scan").Policy(**fields)


def test_frames_that_come_after_a_compaction_change_nothing(half_removed, monkeypatch):
    out, task = half_removed, frames_task(half_removed, 0)
    kept = Path(shutil.copytree(out / "frames", out.parent / "kept"))
    take_away(out, "frames", 0)
    real = sandbox.call

    def call(function: str, arguments: dict[str, Any], limits: Any = None) -> Iterator[Any]:
        """In the middle of this task, another worker ends it, and the store is compacted."""
        monkeypatch.setattr(sandbox, "call", real)
        shutil.copytree(kept, out / "frames", dirs_exist_ok=True)
        assert compact(open_store(str(out)), workers=0) == 1
        yield from real(function, arguments, limits)

    monkeypatch.setattr(sandbox, "call", call)
    frames_shard(**task)
    assert_sound(out, compacted(out))


def test_a_layer_that_comes_after_a_compaction_changes_nothing(half_removed, monkeypatch):
    out, task = half_removed, layers_task(half_removed, 0)
    flow = f"layers/flow/{open_store(str(out)).layers[0].id}"
    kept = Path(shutil.copytree(out / flow, out.parent / "kept"))
    take_away(out, flow, 0)
    module = importlib.import_module("remot_data.annotating.task")
    real: Callable[..., Any] = module._detect

    def detect(*arguments: Any, **needed: Any) -> Any:
        monkeypatch.setattr(module, "_detect", real)
        found = real(*arguments, **needed)
        shutil.copytree(kept, out / flow, dirs_exist_ok=True)
        assert compact(open_store(str(out)), workers=0) == 1
        return found

    monkeypatch.setattr(module, "_detect", detect)
    annotate_shard(**task)
    assert_sound(out, compacted(out))


def compacted(store: Path) -> dict[str, str]:
    """What the store is, once it is known to hold one clip of eight frames in every shard."""
    opened = open_store(str(store))
    assert [clip.frames for clip in opened.planned] == [8]
    for folder in ("frames", *(f"layers/{info.kind}/{info.id}" for info in opened.layers)):
        assert list(opened.index(folder, 0).spans) == [opened.planned[0].id], folder
    return content(store)


def test_a_last_shard_that_compaction_empties_is_not_taken_for_that_of_a_new_video(clips, complete, copy):
    out = copy(complete)
    remove(open_store(str(out)), [open_store(str(out)).clips[-1].id])
    compact(open_store(str(out)), workers=0)
    assert_sound(out, content(out))
    build(clips[2:], str(out), workers=0)
    opened = open_store(str(out))
    assert [clip.shard for clip in opened.clips] == [0, 1]
    assert_sound(out, content(out))
