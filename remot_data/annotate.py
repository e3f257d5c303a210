"""Computing layers, shard by shard: the plan, and the task as a plain function.

A job is one layer to make. Several jobs share one pass over a shard, so that frames are decoded once and a
detector that needs another's output gets its arrays without a detour over the disk.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from remot_data import layers as layer_kinds
from remot_data.detectors import base
from remot_data.engine import Engine, Progress, open_engine
from remot_data.records import Clip, LayerInfo, Receipt, Record, Snapshot, canonical_json
from remot_data.shards import Sample
from remot_data.store import Store, StoreError, open_store

LEDGER = "ledger/receipts.jsonl"


@dataclass(frozen=True)
class Job(Record):
    """One layer to make: which detector, with what, under which id, from which other layers."""

    kind: str
    spec: str
    id: str = ""
    weights: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        return f"layers/{self.kind}/{self.id}"

    def detector(self) -> base.Detector:
        return _detector(self.spec, self.weights, canonical_json(self.settings))


@dataclass(frozen=True)
class Summary(Record):
    """What `annotate` did."""

    store: str
    layer: str
    id: str
    shards: int
    computed: int
    frames: int
    seconds: float


@lru_cache(maxsize=8)
def _detector(spec: str, weights: str | None, settings: str) -> base.Detector:
    return base.load(spec, weights=weights, settings=json.loads(settings))


def annotate(
    store: str | Store,
    layer: str,
    detector: str,
    *,
    weights: str | None = None,
    settings: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    snapshot: str | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Make one layer with one detector, for every shard that lacks it, and nothing else.

    Args:
        layer: kind of layer.
        detector: a name of `remot detectors`, or ``path/to/file.py:ClassName``.
        inputs: kind -> id of the layers a detector reads; those of the snapshot ``main`` by default.
        snapshot: name of a snapshot to make or to switch to the new layer, once it is complete. A new one starts as
            a copy of ``main``.

    Raises:
        StoreError, DetectorError, EngineError: with what to do about it.
    """
    store = store if isinstance(store, Store) else open_store(store)
    started = time.monotonic()
    current = store.snapshots.get("main", Snapshot("main", {}))
    job = plan_job(store, layer, detector, weights, settings, {**current.layers, **(inputs or {})})
    with open_engine(workers, scheduler) as engine:
        receipts = run_jobs(engine, store, [job], progress)
    if snapshot is not None:
        switch(store, snapshot, {layer: job.id})
    frames = sum(r.frames for r in receipts)
    seconds = round(time.monotonic() - started, 3)
    return Summary(store.url, layer, job.id, store.shard_count, len(receipts), frames, seconds)


def switch(
    store: Store,
    name: str,
    layers: Mapping[str, str],
    where: str | None = None,
    split: str | None = None,
    write: bool = True,
) -> Snapshot:
    """The snapshot `name` with these layers in place of those it had, written unless told not to.

    A new one starts as a copy of ``main``.
    """
    known = store.snapshots
    old = known.get(name) or known.get("main") or Snapshot(name, {})
    made = Snapshot(
        name,
        {**old.layers, **layers},
        old.where if where is None else where,
        old.split if split is None else split,
    )
    if write:
        store.write_snapshot(made)
    return made


def plan_job(
    store: Store,
    kind: str,
    spec: str,
    weights: str | None = None,
    settings: Mapping[str, Any] | None = None,
    available: Mapping[str, str] | None = None,
) -> Job:
    """The job for a detector, its id named by all that its output depends on.

    Raises:
        DetectorError: if the detector makes another kind.
        StoreError: if a layer it needs is not among `available`.
    """
    layer_kinds.kind(kind)
    job = Job(kind, spec, weights=weights, settings=dict(settings or {}))
    detector = job.detector()
    if detector.kind != kind:
        raise base.DetectorError(f"detector {spec!r} makes a {detector.kind} layer, not {kind}")
    missing = [need for need in detector.needs if need not in (available or {})]
    if missing:
        raise StoreError(f"detector {spec!r} reads the layer {', '.join(missing)}; annotate that first")
    inputs = {need: (available or {})[need] for need in detector.needs}
    layer_id = base.short_id(detector, {"policy": store.policy, "inputs": inputs})
    return Job(kind, spec, layer_id, weights, job.settings, inputs)


def plan_jobs(store: Store, specs: Mapping[str, str]) -> list[Job]:
    """Jobs for several kinds at once, ordered so that each comes after what it needs."""
    jobs: dict[str, Job] = {}
    waiting = dict(specs)
    while waiting:
        have = {kind: job.id for kind, job in jobs.items()}
        ready = [k for k in layer_kinds.KINDS if k in waiting and set(Job(k, waiting[k]).detector().needs) <= set(have)]
        if not ready:
            raise StoreError(f"the layers {', '.join(waiting)} need layers that are not being made")
        jobs[ready[0]] = plan_job(store, ready[0], waiting.pop(ready[0]), available=have)
    return list(jobs.values())


def run_jobs(engine: Engine, store: Store, jobs: Sequence[Job], progress: Progress | None = None) -> list[Receipt]:
    """Run jobs over every shard that lacks one of them, then make the finished layers visible."""
    tasks = [
        {"url": store.url, "shard": shard, "jobs": [job.to_json() for job in jobs]}
        for shard in range(store.shard_count)
        if not all(is_current(store, job, shard) for job in jobs)
    ]
    label, done = "+".join(job.kind for job in jobs), []
    for receipt in engine.map(annotate_shard, tasks, f"annotate {label}"):
        store.append_lines(LEDGER, [receipt.to_json()])
        done.append(receipt)
        if progress:
            progress(label, len(done), len(tasks))
    for job in jobs:
        store.write_bytes(
            f"{job.folder}/layer.json", (json.dumps(info(store, job).to_json(), indent=1) + "\n").encode()
        )
    return done


def info(store: Store, job: Job) -> LayerInfo:
    """The description of the layer that a job makes."""
    d = job.detector()
    return LayerInfo(
        id=job.id,
        kind=job.kind,
        detector=d.name,
        version=d.version,
        schema=d.schema,
        fingerprint=d.fingerprint(),
        policy=store.policy,
        inputs=dict(job.inputs),
        licence=d.licence,
        approximate=d.approximate,
    )


def saw(store: Store, inputs: Mapping[str, str], shard: int) -> dict[str, str]:
    """The sha256 of every shard that a layer's shard is made from."""
    sources = {"frames": "frames", **{kind: f"layers/{kind}/{layer_id}" for kind, layer_id in inputs.items()}}
    return {kind: store.sha256(folder, shard) for kind, folder in sorted(sources.items())}


def is_current(store: Store, job: Job, shard: int) -> bool:
    """Whether a job's shard is there and was made from the frames and layers as they are now."""
    folders = ["frames", *(f"layers/{kind}/{layer_id}" for kind, layer_id in job.inputs.items())]
    if not all(store.is_done(folder, shard) for folder in folders):
        return False
    return store.is_done(job.folder, shard, saw(store, job.inputs, shard))


def annotate_shard(url: str, shard: int, jobs: Sequence[Mapping[str, Any]]) -> Receipt:
    """The task: make one shard of every job's layer. Harmless to run twice."""
    # Processes are the unit of parallel work; and no threading can change a byte.
    cv2.setNumThreads(1)
    store = Store(url)
    todo = [job for job in (Job.from_json(j) for j in jobs) if not is_current(store, job, shard)]
    samples: dict[str, list[Sample]] = {job.kind: [] for job in todo}
    seconds = dict.fromkeys(["frames", *(job.kind for job in todo), "encode", "write"], 0.0)
    clips = store.shard_clips(shard)
    for clip in clips:
        with _timed(seconds, "frames"):
            frames = store.read_arrays("frames", "frames", clip)["frames"]
        made: dict[str, dict[str, np.ndarray]] = {}
        for job in todo:
            with _timed(seconds, job.kind):
                made[job.kind] = _detect(store, job, clip, frames, made)
            with _timed(seconds, "encode"):
                samples[job.kind] += encoded(job.kind, clip, made[job.kind])
    written = 0
    with _timed(seconds, "write"):
        for job in todo:
            written += store.write_shard(job.folder, shard, samples[job.kind], saw(store, job.inputs, shard))["bytes"]
    return Receipt(
        f"annotate/{'+'.join(job.id for job in todo)}/{shard:05d}",
        frames=sum(clip.frames for clip in clips),
        clips=len(clips),
        bytes=written,
        seconds={k: round(v, 4) for k, v in seconds.items()},
    )


def _detect(
    store: Store, job: Job, clip: Clip, frames: np.ndarray, made: Mapping[str, dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    needed = {}
    for kind, layer_id in job.inputs.items():
        needed[kind] = made[kind] if kind in made else store.read_arrays(f"layers/{kind}/{layer_id}", kind, clip)
    try:
        arrays = job.detector()(frames, **needed)
        layer_kinds.kind(job.kind).check(arrays, clip.frames, store.size)
    except (ValueError, RuntimeError, cv2.error) as error:
        raise base.DetectorError(f"{job.spec} on clip {clip.id} of {store.url}: {error}") from error
    return arrays


def encoded(kind: str, clip: Clip, arrays: Mapping[str, np.ndarray]) -> list[Sample]:
    """The samples of one clip of a layer, ready to be written."""
    module = layer_kinds.kind(kind)
    if module.PER_CLIP:
        return [Sample(clip.key(0), module.encode(arrays, 0))]
    columns = getattr(module, "columns", lambda arrays, t: {})
    return [Sample(clip.key(t), module.encode(arrays, t), columns(arrays, t)) for t in range(clip.frames)]


class _timed:
    """Adds the seconds of a block to ``into[name]``."""

    def __init__(self, into: dict[str, float], name: str) -> None:
        self.into, self.name = into, name

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *error: Any) -> None:
        self.into[self.name] += time.perf_counter() - self.started
