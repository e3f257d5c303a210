"""Stages that overlap: the same bytes, every error, no thread left, and a card that is kept busy."""

from __future__ import annotations

import dataclasses
import gc
import os
import shutil
import signal
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remot_data.annotating import task
from remot_data.annotating.annotate import annotate, plan_job, plan_jobs, run_jobs
from remot_data.detectors.base import DEFAULTS, Arrays, Batched, load
from remot_data.engine import EngineError, open_engine
from remot_data.records import Clip, Times
from remot_data.store import Store, create_store, open_store
from remot_data.store.layers import kind
from remot_data.store.shards import Sample
from tests.remot_data.conftest import digests

HERE = f"{__file__}:"


class Rows(Batched):
    """Labels of frames by a batched detector: what is bright is clothes.

    `bad` is the sum of a frame that the stage `at` fails on.
    """

    name, kind, version, schema = "rows", "parsing", "1", "atr18"
    needs: tuple[str, ...] = ()
    licence, approximate = "", True

    def __init__(self, batch: int = 8, bad: int = -1, at: str = "infer", error: str = "ValueError"):
        self.batch, self._bad, self._at = batch, bad, at
        self._error = type(error, (RuntimeError,), {})
        self.seen: list[int] = []

    def fingerprint(self) -> dict[str, Any]:
        return {"detector": self.name, "batch": self.batch, "bad": self._bad, "at": self._at}

    def _check(self, at: str, frames: np.ndarray) -> None:
        if at == self._at and self._bad in frames.reshape(len(frames), -1).sum(1, dtype=int):
            raise self._error("bad item")

    def split(self, frames: np.ndarray, **needed: Arrays) -> np.ndarray:
        self._check("split", frames)
        return frames

    def infer(self, items: np.ndarray) -> Arrays:
        self._check("infer", items)
        assert len(items) == self.batch and items.flags["C_CONTIGUOUS"]
        self.seen.append(len(items))
        return {"labels": np.where(items.mean(-1) > 128, 4, 0).astype(np.uint8)}

    def join(self, frames: np.ndarray, outputs: Arrays, **needed: Arrays) -> Arrays:
        self._check("join", frames)
        return outputs


class Moves(Batched):
    """Flow of pairs, which reads the parsing: for the second of two batched detectors in a row."""

    name, kind, version, schema = "moves", "flow", "1", "backward"
    needs = ("parsing",)
    licence, approximate, batch = "", True, 5

    def fingerprint(self) -> dict[str, Any]:
        return {"detector": self.name}

    def split(self, frames: np.ndarray, **needed: Arrays) -> np.ndarray:
        assert needed["parsing"]["labels"].shape == frames.shape[:3]
        return (
            np.stack([frames[1:], frames[:-1]], 1) if len(frames) > 1 else np.zeros((0, 2, *frames.shape[1:]), np.uint8)
        )

    def infer(self, items: np.ndarray) -> Future[Arrays]:
        found: Future[Arrays] = Future()
        found.set_result({"mean": items.mean((1, 2, 3, 4)).astype(np.float32)})
        return found

    def join(self, frames: np.ndarray, outputs: Arrays, **needed: Arrays) -> Arrays:
        grid = len(frames), frames.shape[1] // 2, frames.shape[2] // 2
        flow = np.zeros((*grid, 2), np.float32)
        if outputs:
            flow[1:] = outputs["mean"][:, None, None, None]
        return {"flow": flow, "confidence": np.zeros(grid, np.uint8)}


class Flowing:
    """Flow and a mask of values that storing rounds."""

    name, version, schema = "flowing", "1", "backward"
    needs: tuple[str, ...] = ()
    licence, approximate = "", True

    def __init__(self, kind: str = "flow"):
        self.kind, self.schema = kind, {"flow": "backward", "pose": "body25"}[kind]

    def fingerprint(self) -> dict[str, Any]:
        return {"detector": self.name, "kind": self.kind}

    def __call__(self, frames: np.ndarray, **needed: Arrays) -> Arrays:
        rng, (count, h, w) = np.random.default_rng(len(frames)), frames.shape[:3]
        if self.kind == "pose":
            return {
                "keypoints": np.zeros((count, 25, 3), np.float32),
                "mask": rng.integers(0, 256, (count, h, w), dtype=np.uint8),
            }
        flow = rng.normal(0, 3, (count, h // 2, w // 2, 2)).astype(np.float32)
        return {"flow": flow, "confidence": np.zeros(flow.shape[:3], np.uint8)}


class Reading(Flowing):
    """Labels that depend on the last bits of a flow and a mask."""

    name, kind, schema = "reading", "parsing", "atr18"
    needs = ("flow", "pose")

    def __init__(self) -> None:
        pass

    def __call__(self, frames: np.ndarray, **needed: Arrays) -> Arrays:
        fine = (needed["flow"]["flow"] * 1000).astype(np.int64).sum(-1) % 3
        labels = needed["pose"]["mask"] % 13
        labels[:, ::2, ::2] += fine.astype(np.uint8)
        return {"labels": labels}


class Plain:
    """A detector of the plain form; `seconds` a clip."""

    name, kind, version, schema = "plain", "parsing", "1", "atr18"
    needs: tuple[str, ...] = ()
    licence, approximate = "", True

    def __init__(self, seconds: float = 0.0):
        self._seconds = seconds

    def fingerprint(self) -> dict[str, Any]:
        return {"detector": self.name, "seconds": self._seconds}

    def __call__(self, frames: np.ndarray, **needed: Arrays) -> Arrays:
        end = time.monotonic() + self._seconds
        while time.monotonic() < end:
            time.sleep(0.001)
        return {"labels": np.zeros(frames.shape[:3], np.uint8)}


class Clock:
    """Scores: the seconds of each frame, as they were given."""

    name, kind, version, schema = "clock", "scores", "1", "clock"
    needs = ("times",)
    licence, approximate = "", True

    def fingerprint(self) -> dict[str, Any]:
        return {"detector": self.name}

    def __call__(self, frames: np.ndarray, **needed: Arrays) -> Arrays:
        times = needed["times"]["times"]
        assert times.dtype == np.float64 and times.shape == (len(frames),)
        return {"seconds": times.astype(np.float32)}


class Card(Rows):
    """Sleeps 10 ms a batch in one thread, the card, and comes back with the outputs later."""

    name = "card"

    def __init__(self) -> None:
        super().__init__(batch=1)
        self._card = ThreadPoolExecutor(1)

    def infer(self, items: np.ndarray) -> Future[Arrays]:
        return self._card.submit(self._work, items)

    def _work(self, items: np.ndarray) -> Arrays:
        time.sleep(0.01)
        return {"labels": items[..., 0] >> 4}


def layers(store: Store) -> dict[str, str]:
    return {name: sha for name, sha in digests(store.url).items() if name.startswith("layers/")}


def labels(store: Store, layer_id: str) -> dict[str, np.ndarray]:
    return {c.id: store.read_arrays(f"layers/parsing/{layer_id}", "parsing", c)["labels"] for c in store.clips}


def pictures(store: Store, clip: Clip) -> np.ndarray:
    return store.read_arrays("frames", "frames", clip)["frames"]


@pytest.fixture
def short_clips(tmp_path: Path) -> Store:
    """A shard of forty clips of one to three frames, and one of two."""
    store = create_store(str(tmp_path / "short"), {"size": (16, 12)})
    counts = [1 + n % 3 for n in range(42)]
    crop = (0.0, 0.0, 1.0, 1.0)
    clips = [
        Clip(f"c{n:02d}", "v", "", "", 0, tuple(range(k)), (1, 30), 30.0, (1, 1), crop, "p", "", shard=n // 40)
        for n, k in enumerate(counts)
    ]
    store.write_clips(clips)
    random = np.random.default_rng(0)
    for shard in (0, 1):
        samples = []
        for clip in (c for c in clips if c.shard == shard):
            frames = {"frames": random.integers(0, 256, (clip.frames, 16, 12, 3), np.uint8)}
            samples += [Sample(clip.key(t), kind("frames").encode(frames, t), {"pts": t}) for t in range(clip.frames)]
        store.write_shard("frames", shard, samples)
    return open_store(store.url)


def no_threads_left(before: set[threading.Thread]) -> bool:
    return {thread for thread in threading.enumerate() if thread.is_alive()} <= before


@pytest.mark.slow
def test_threads_change_no_byte(own_dancers):
    jobs = plan_jobs(own_dancers, DEFAULTS)
    made = []
    for threads in (1, 4):
        for job in jobs:
            shutil.rmtree(own_dancers.files.path(job.folder), ignore_errors=True)
        receipts = list(task.annotate_shards(own_dancers.url, range(3), jobs, threads=threads))
        assert [receipt.shard for receipt in receipts] == [0, 1, 2]
        assert all(set(r.seconds) == {"frames", *DEFAULTS, "encode", "write"} for r in receipts)
        assert all(r.seconds[kind] > 0 for r in receipts for kind in ("frames", "pose", "flow", "encode", "write"))
        made.append((layers(own_dancers), [receipt.made for receipt in receipts]))
    assert made[0] == made[1]
    assert all(f"{job.folder}/shard-00002.tar" in made[0][0] for job in jobs)


def test_a_layer_does_not_depend_on_whether_what_it_reads_was_made_in_the_same_pass(own_dancers, tmp_path):
    other = Store(shutil.copytree(own_dancers.url, tmp_path / "other"))
    for store, passes in ((own_dancers, [3]), (other, [2, 1])):
        pose, flow = (plan_job(store, kind, f"{HERE}Flowing", settings={"kind": kind}) for kind in ("pose", "flow"))
        reading = plan_job(store, "parsing", f"{HERE}Reading", available={"pose": pose.id, "flow": flow.id})
        jobs = [pose, flow, reading]
        with open_engine(0) as engine:
            for count in passes:
                run_jobs(engine, store, [jobs.pop(0) for _ in range(count)])
    assert layers(own_dancers) == layers(other) and any(name.endswith(".tar") for name in layers(other))


def test_a_detector_that_asks_is_told_when_each_frame_is_seen(own_dancers):
    """Also where the frame rate changes; no layer is read for it, so none is among the inputs."""
    clips = own_dancers.planned
    paused = Times([5 * t + 40 * (t > 3) for t in range(clips[0].frames)])
    own_dancers.write_clips([dataclasses.replace(clips[0], pts=paused, time_base=(1, 50)), *clips[1:]])
    store = open_store(own_dancers.url)
    done = annotate(store, "scores", f"{HERE}Clock", workers=0)
    found = store.read_arrays(f"layers/scores/{done.id}", "scores", store.clip[clips[0].id])["seconds"]
    assert np.allclose(found[:6], [0, 0.1, 0.2, 0.3, 1.2, 1.3]) and not store.layer("scores", done.id).inputs


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_clips_share_batches_and_each_gets_its_own(own_dancers, threads):
    job = plan_job(own_dancers, "parsing", f"{HERE}Rows")
    job.detector().seen.clear()
    list(task.annotate_shards(own_dancers.url, range(3), [job], threads=threads))
    # Of 40, 40 and 20 frames; clips of 20 frames alone would make 15 batches.
    assert job.detector().seen == [8] * (5 + 5 + 3)
    for clip, found in labels(own_dancers, job.id).items():
        assert (found == load(f"{HERE}Rows")(pictures(own_dancers, own_dancers.clip[clip]))["labels"]).all()


@pytest.mark.parametrize("ahead", [0, 1 << 30])
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_however_little_is_read_ahead_no_clip_waits_for_ever(short_clips, monkeypatch, ahead, batch):
    monkeypatch.setattr(task, "_AHEAD", ahead)
    parsing = plan_job(short_clips, "parsing", f"{HERE}Rows", settings={"batch": batch})
    flow = plan_job(short_clips, "flow", f"{HERE}Moves", available={"parsing": parsing.id})
    receipts = list(task.annotate_shards(short_clips.url, range(2), [parsing, flow], threads=3))
    assert [len(r.made) for r in receipts] == [2, 2] and sum(r.frames for r in receipts) == 84
    for clip in short_clips.clips:
        frames = pictures(short_clips, clip)
        found = short_clips.read_arrays(flow.folder, "flow", clip)["flow"]
        means = (frames[1:].mean((1, 2, 3)) + frames[:-1].mean((1, 2, 3))) / 2
        assert np.abs(found[1:] - means[:, None, None, None]).max(initial=0) <= 1 / 64
        assert (labels(short_clips, parsing.id)[clip.id] == np.where(frames.mean(-1) > 128, 4, 0)).all()


@pytest.mark.parametrize("at", ["split", "infer", "join"])
def test_an_error_costs_its_clip_and_none_of_those_it_shares_a_batch_with(short_clips, at):
    victim = short_clips.clips[17]
    settings = {"bad": int(pictures(short_clips, victim)[0].sum(dtype=int)), "at": at, "batch": 16}
    done = annotate(short_clips, "parsing", f"{HERE}Rows", settings=settings, workers=0)
    assert set(done.failed) == {victim.id} and done.failed[victim.id].endswith("ValueError: bad item")
    store = open_store(short_clips.url)
    for clip in (c for c in store.clips if c.id != victim.id):
        found = store.read_arrays(f"layers/parsing/{done.id}", "parsing", clip)["labels"]
        assert (found == np.where(pictures(store, clip).mean(-1) > 128, 4, 0)).all()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("OutOfMemoryError", "rows: the card has too little memory.*--setting batch="),
        ("AcceleratorError", "card failed"),
    ],
)
def test_a_card_that_cannot_go_on_ends_the_run(own_dancers, error, says):
    settings = {"bad": int(pictures(own_dancers, own_dancers.clips[3])[7].sum(dtype=int)), "error": error}
    before = set(threading.enumerate())
    with pytest.raises(EngineError, match=says):
        annotate(own_dancers, "parsing", f"{HERE}Rows", settings=settings, workers=0)
    assert no_threads_left(before)


@pytest.mark.parametrize("spec", ["Rows", "Plain"])
def test_an_error_of_any_thread_reaches_the_caller(own_dancers, monkeypatch, spec):
    real, calls = task.encoded, []

    def failing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise OSError("the disk is full")
        return real(*arguments)

    monkeypatch.setattr(task, "encoded", failing)
    before = set(threading.enumerate())
    with pytest.raises(EngineError, match="annotate parsing .*OSError: the disk is full"):
        annotate(own_dancers, "parsing", HERE + spec, workers=0)
    assert no_threads_left(before)
    monkeypatch.undo()
    assert annotate(open_store(own_dancers.url), "parsing", HERE + spec, workers=0).computed in (1, 2, 3)


def test_an_interrupt_ends_all_threads_at_once(own_dancers):
    before = set(threading.enumerate())
    started = time.monotonic()
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        annotate(own_dancers, "parsing", f"{HERE}Plain", settings={"seconds": 60}, workers=0)
    timer.join()
    assert time.monotonic() - started < 10 and no_threads_left(before)


def test_who_stops_listening_ends_all_threads(own_dancers):
    before = set(threading.enumerate())
    receipts = task.annotate_shards(own_dancers.url, range(3), [plan_job(own_dancers, "parsing", f"{HERE}Plain")], 2)
    assert next(receipts).shard == 0
    receipts.close()
    assert no_threads_left(before)


@pytest.mark.parametrize("spec", ["Plain", "Rows"])
def test_few_clips_are_in_memory(short_clips, monkeypatch, spec):
    lock, now, most, read = threading.Lock(), 0, 0, task._read

    def count(step: int) -> None:
        nonlocal now, most
        with lock:
            now += step
            most = max(most, now)

    def reading(*arguments: Any) -> np.ndarray:
        frames = read(*arguments)
        count(1)
        weakref.finalize(frames, count, -1)
        return frames

    monkeypatch.setattr(task, "_AHEAD", 10 * 16 * 12 * 3)  # ten frames
    monkeypatch.setattr(task, "_read", reading)
    settings = {"batch": 2} if spec == "Rows" else {"seconds": 0.01}
    job = plan_job(short_clips, "parsing", HERE + spec, settings=settings)
    gc.collect()
    gc.disable()
    try:
        list(task.annotate_shards(short_clips.url, [0], [job], threads=4))
    finally:
        gc.enable()
    # The oldest, ten frames in clips of two at the mean, the one that reached the bound, and one that was just done.
    assert 4 <= most <= 9 and now == 0


@pytest.mark.slow
def test_a_pretended_card_is_kept_busy(own_dancers):
    """Nine tenths of what the card does when batches only wait for it, on this machine with whatever else it does."""
    job = plan_job(own_dancers, "parsing", f"{HERE}Card")
    shares = []
    for _ in range(4):
        shutil.rmtree(own_dancers.files.path(job.folder), ignore_errors=True)
        card: Any = job.detector()
        started = time.perf_counter()
        for _ in range(100):
            waiting = card.infer(np.zeros((1, 64, 48, 3), np.uint8))
        waiting.result()
        bare = time.perf_counter() - started
        started = time.perf_counter()
        (*_, last) = task.annotate_shards(own_dancers.url, range(3), [job], threads=2)
        shares.append(bare / (time.perf_counter() - started))
        assert last.seconds["parsing"] >= 0.01 * 20
        if max(shares) >= 0.9:
            return
    raise AssertionError(f"the card was busy {max(shares):.2f} of the time")


def test_tasks_are_handed_out_together_and_an_error_names_the_one_that_was_due():
    def halves(tasks: Any) -> Any:
        for one in tasks:
            yield 12 / one["number"]

    def run(*numbers: int) -> list[Any]:
        return list(engine.run(halves, {"CPU": deque({"number": n} for n in numbers)}, "halve"))

    with open_engine(0) as engine:
        assert run(3, 1) == [4, 12]
        assert run() == []
        with pytest.raises(EngineError, match=r"halve \{'number': 0\} failed: ZeroDivisionError"):
            run(3, 0, 1)
        assert engine.threads(5) == 0
