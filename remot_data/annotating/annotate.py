"""Computing layers, shard by shard: the plan, and the task (`remot_data.annotating.task`) as a plain function.

A job is one layer to make. Several jobs share one pass over a shard, so that frames are decoded once and a
detector that needs another's output gets its arrays without a detour over the disk.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, Literal

from remot_data.annotating.jobs import AUTO, AUTO_ROWS, Job
from remot_data.annotating.task import annotate_shards
from remot_data.detectors import base
from remot_data.detectors._torch import visible_gpus
from remot_data.engine import Engine, Progress, Spoilt, cpus, open_engine
from remot_data.media.identity import stamp
from remot_data.records import BOXES, NO_LAYERS, LayerInfo, Receipt, Record, Snapshot
from remot_data.store import Store, StoreError, open_store
from remot_data.store import layers as layer_kinds
from remot_data.store.currency import in_order, is_current, may_pass, shards_of
from remot_data.store.history import note


@dataclass(frozen=True)
class Summary(Record):
    """What `annotate` did; `failed` are clips the layer could not be made for, each with the reason.

    `source` is the most rows that were read of the source videos, 0 for the stored frames.
    """

    store: str
    layer: str
    id: str
    shards: int
    computed: int
    frames: int
    seconds: float
    failed: dict[str, str] = field(default_factory=dict)
    source: int = 0


def annotate(
    store: str | Store,
    layer: str,
    detector: str,
    *,
    weights: str | None = None,
    settings: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    source: int = AUTO,
    snapshot: str | None = None,
    retry: bool = False,
    wait: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Make one layer with one detector, for every shard that lacks it, and nothing else.

    Args:
        layer: kind of layer.
        detector: a name of `remot detectors`, or ``path/to/file.py:ClassName``.
        inputs: kind -> id of the layers a detector reads; those of the snapshot ``main`` by default.
        source: read the frames again from the source videos, through the recorded crops, at their own resolution
            but at most so many rows; what the detector finds is mapped back. 0 for the stored frames. By default (-1),
            poses are looked for in the source videos at most 512 rows high, if those of all clips are here, and all
            else in the stored frames; which it is, is chosen once for a layer.
        snapshot: name of a snapshot to make or to switch to the new layer, once it is complete. A new one starts as
            a copy of ``main``.
        retry: try again the clips that the detector failed on before; those that a machine was to blame for always are.
        wait: if somebody else is making this layer, wait until they are done.
        workers: local worker processes for a detector that runs on CPUs, one each by default. One that runs on
            a GPU gets a worker for each GPU of ``CUDA_VISIBLE_DEVICES``, or of this machine. 0: everything runs in
            this process, on the first of them.

    Raises:
        StoreError, DetectorError, EngineError, Busy: with what to do about it.
    """
    store = store if isinstance(store, Store) else open_store(store)
    started = time.monotonic()
    current = store.snapshots.get("main", Snapshot("main", {}))
    job = plan_job(store, layer, detector, weights, settings, {**current.layers, **(inputs or {})}, source)
    with open_engine(workers, scheduler, visible_gpus) as engine:
        receipts = run_jobs(engine, store, [job], progress, retry, wait)
    if snapshot is not None:
        switch(store, snapshot, {layer: job.id})
    frames = sum(r.frames for r in receipts)
    seconds = round(time.monotonic() - started, 3)
    failed = store.layer(layer, job.id).failed
    count = len(receipts)
    return Summary(store.url, layer, job.id, store.shard_count, count, frames, seconds, failed, job.source)


def switch(
    store: Store,
    name: str,
    layers: Mapping[str, str],
    where: str | None = None,
    split: str | None = None,
    write: bool = True,
    ids: Sequence[str] | None | Literal["as before"] = "as before",
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
        old.ids if ids == "as before" else None if ids is None else tuple(ids),
    )
    if write:
        store.write_snapshot(made)
        note(store, "snapshot", **made.to_json())
    return made


def plan_job(
    store: Store,
    kind: str,
    spec: str,
    weights: str | None = None,
    settings: Mapping[str, Any] | None = None,
    available: Mapping[str, str] | None = None,
    source: int = AUTO,
) -> Job:
    """The job for a detector, its id named by all that its output depends on, and from which frames chosen.

    Raises:
        DetectorError: if the detector makes another kind.
        LayerError: if nobody knows the kind.
        StoreError: if a layer it needs is not among `available`.
    """
    job = Job(kind, spec, weights=weights, settings=dict(settings or {}))
    detector = job.detector()  # which may bring the kind
    needs = [need for need in detector.needs if need not in NO_LAYERS]
    for name in (kind, *needs):
        layer_kinds.kind(name)
    if detector.kind != kind:
        raise base.DetectorError(f"detector {spec!r} makes a {detector.kind} layer, not {kind}")
    named = {need: store.layer(need, layer_id).id for need, layer_id in base.reads(detector).items()}
    known = {**(available or {}), **named}
    missing = [need for need in needs if need not in known]
    if missing:
        raise StoreError(f"detector {spec!r} reads the layer {', '.join(missing)}; annotate that first")
    inputs = {need: known[need] for need in needs}
    if store.has_boxes and BOXES in detector.needs:
        inputs[BOXES] = BOXES
    if source == AUTO:
        source = AUTO_ROWS if kind == "pose" and not base.reads(detector) and has_sources(store) else 0
    seen = {"policy": store.policy, "inputs": inputs, **({"source": source} if source else {})}
    return Job(kind, spec, base.short_id(detector, seen), weights, job.settings, inputs, source)


def has_sources(store: Store) -> bool:
    """Whether the source videos of all clips are here, as they were when they were looked through.

    So they are where a store is still to be built from videos.
    """
    if "policy" not in store.config:
        return False
    clips = store.planned if store.files.exists("clips.parquet") else ()
    seen: dict[str, set[str]] = {}
    for line in store.logged("videos") if clips else ():
        seen.setdefault(line["input"]["path"], set()).add(line["stamp"])
    for path in {clip.path for clip in clips}:
        now = stamp(path) if path else "absent"
        if now == "absent" or now not in seen.get(path, {now}):
            return False
    return True


def plan_jobs(store: Store, specs: Mapping[str, str | Job], kept: Iterable[Job] = ()) -> list[Job]:
    """Jobs for several kinds at once, ordered so that each comes after what it needs.

    Args:
        specs: kind -> detector, or a job of which the detector and what it is given count.
        kept: jobs that were planned before.
    """
    jobs = list(kept)
    waiting = {kind: Job(kind, spec) if isinstance(spec, str) else spec for kind, spec in specs.items()}
    while waiting:
        have = {job.kind: job.id for job in jobs}
        ready = [kind for kind in layer_kinds.ordered(waiting) if _lacks(waiting[kind]) <= have.keys()]
        if not ready:
            raise StoreError(f"the layers {', '.join(waiting)} need layers that are not being made")
        job = waiting.pop(ready[0])
        jobs.append(plan_job(store, job.kind, job.spec, job.weights, job.settings, have, job.source))
    return jobs


def _lacks(job: Job) -> set[str]:
    """Kinds of layers that a job reads and does not name one of."""
    detector = job.detector()
    return {*detector.needs} - NO_LAYERS - base.reads(detector).keys()


def with_inputs(store: Store, jobs: Sequence[Job]) -> list[Job]:
    """Jobs, and those that made the layers which they read and which none of them makes, in order.

    So a layer that grows may read one that no snapshot holds: a smoothed pose its raw one.

    Raises:
        StoreError: as `recorded_job`.
    """
    found, todo = list(jobs), list(jobs)
    while todo:
        for folder in todo.pop().reads.values():
            if folder.startswith("layers/") and not any(job.folder == folder for job in found):
                _, kind, layer_id = folder.split("/")
                found.append(recorded_job(store.layer(kind, layer_id)))
                todo.append(found[-1])
    return in_order(found)


class Outdated(StoreError):
    """A layer that its detector would make in another way today."""


def recorded_job(info: LayerInfo) -> Job:
    """The job that made a layer, to make parts of it again or to make it for new shards.

    Raises:
        StoreError: if no detector made it.
        Outdated: if the detector here is not the one that did.
    """
    if not info.spec:
        raise StoreError(f"the {info.kind} layer {info.id} was not made by a detector: it cannot be computed here")
    job = Job(info.kind, info.spec, info.id, info.weights, dict(info.settings), dict(info.inputs), info.source)
    known = info.fingerprint.get("settings", {})
    if then := {name: value for name, value in base.before(job.detector()).items() if name not in known}:
        job = dataclasses.replace(job, settings={**then, **job.settings})
    if job.detector().fingerprint() != info.fingerprint:
        raise Outdated(
            f"the {info.kind} layer {info.id} was made by {info.detector} {info.version}; the detector {info.spec!r} "
            "here is another version or has other weights: annotate with it as a new layer"
        )
    return job


def run_jobs(
    engine: Engine,
    store: Store,
    jobs: Sequence[Job],
    progress: Progress | None = None,
    retry: bool = False,
    wait: bool = False,
    known: Mapping[str, Mapping[int, Any]] | None = None,
) -> list[Receipt]:
    """Run jobs over every shard that lacks one of them, then make the finished layers visible.

    Jobs that run on CPUs and jobs that run on GPUs take passes of their own over a shard, side by side where
    none reads what another makes.

    `known` is what `known_shards` gives, to spare reading the indexes; without it, each shard's own index tells.

    A clip that a detector fails on costs that clip: the layer is made without it, and says so.

    Raises:
        DetectorError: if a detector fails on every clip.
    """
    with ExitStack() as locks:
        for job in jobs:
            progress = locks.enter_context(store.lock(job.id, wait)).telling(progress)
            store.sweep(job.folder)
        log = locks.enter_context(store.log("receipts"))
        state = _State(store, jobs, known or {})
        plan = _Plan(store, _passes(engine, jobs), state, retry, engine)
        if plan.total:
            with store.log("jobs") as made:
                for job in jobs:
                    made.add(job.to_json())
        done, counts = [], Counter[str]()
        what = f"annotate {'+'.join(dict.fromkeys(job.kind for job in jobs))}"
        for receipt in locks.enter_context(closing(engine.run(annotate_tasks, plan.work, what))):
            log.add(receipt.to_json())
            done.append(receipt)
            state.add(receipt)
            label = plan.finish(receipt)
            counts[label] += 1
            if progress:
                progress(label, counts[label], plan.total[label])
        for job in jobs:
            failed = state.failed(job)
            if failed and len(failed) == len(store.planned):
                clip, reason = next(iter(failed.items()))
                raise base.DetectorError(f"{job.spec} failed on every clip; on {clip}: {reason}")
            made_by = dataclasses.replace(info(store, job), failed=failed)
            store.write_json(f"{job.folder}/layer.json", made_by.to_json())
            if mine := [r for r in done if job.folder in r.made]:
                seconds = round(sum(r.seconds.get(job.kind, 0.0) for r in mine), 3)
                about = {"shards": len(mine), "frames": sum(r.frames for r in mine), "seconds": seconds}
                note(store, "annotate", layer=job.kind, id=job.id, **about)
    return done


@dataclass(eq=False)
class _Pass:
    """Jobs that are done together on one look at a shard, and the passes whose layers they read."""

    need: str
    jobs: list[Job]
    after: list[_Pass] = field(default_factory=list)

    @property
    def label(self) -> str:
        return "+".join(dict.fromkeys(job.kind for job in self.jobs))

    def makes(self, folders: Iterable[str]) -> bool:
        return not {job.folder for job in self.jobs}.isdisjoint(folders)

    def waits_for(self, others: Sequence[_Pass]) -> bool:
        return any(other in self.after for other in others)


def _passes(engine: Engine, jobs: Sequence[Job]) -> list[_Pass]:
    """Jobs by where they run: each in the first pass of its kind that does not come before one whose layer it reads.

    In this process one pass does it all, since frames are then decoded once.
    """
    passes: list[_Pass] = []
    for job in jobs:
        need = _need(job, engine)
        reads = [n for n, earlier in enumerate(passes) if earlier.makes(job.reads.values())]
        found = next((p for p in passes[max(reads, default=0) :] if p.need == need), None)
        if found is None:
            passes.append(found := _Pass(need, []))
        found.jobs.append(job)
        found.after += [p for n in reads if (p := passes[n]) is not found and p not in found.after]
    return passes


class _Plan:
    """The tasks of passes over every shard that lacks one of their layers.

    `work` holds those that can begin, by what they need; `total` counts all of them by the label of their pass.
    """

    def __init__(self, store: Store, passes: Sequence[_Pass], state: _State, retry: bool, engine: Engine) -> None:
        self._common, self._engine = {"url": store.url, "retry": retry}, engine
        self.work: dict[str, deque[dict[str, Any]]] = {p.need: deque() for p in passes}
        self.total: Counter[str] = Counter()
        self._unfinished: dict[int, list[_Pass]] = {}
        for shard in range(store.shard_count):
            todo: list[_Pass] = []
            for p in passes:
                if p.waits_for(todo) or not all(state.is_current(job, shard, retry) for job in p.jobs):
                    todo.append(p)
            if todo:
                self._unfinished[shard] = todo
                self.total.update(p.label for p in todo)
        for shard, todo in self._unfinished.items():
            for p in todo:
                if not p.waits_for(todo):
                    self._begin(p, shard)

    def _begin(self, which: _Pass, shard: int) -> None:
        jobs = [(job if self._engine.here else _without_number(job)).to_json() for job in which.jobs]
        threads = self._engine.threads(len(self._unfinished), which.need)
        self.work[which.need].append({**self._common, "shard": shard, "jobs": jobs, "threads": threads})

    def finish(self, receipt: Receipt) -> str:
        """Add to the work what waited for this receipt; returns the label of its pass."""
        todo = self._unfinished[receipt.shard]
        finished = next(p for p in todo if p.makes(receipt.made))
        todo.remove(finished)
        for p in todo:
            if finished in p.after and not p.waits_for(todo):
                self._begin(p, receipt.shard)
        return finished.label


class _State:
    """What is there of the jobs and of all they read."""

    def __init__(self, store: Store, jobs: Sequence[Job], known: Mapping[str, Mapping[int, Any]]) -> None:
        folders = {"frames", *(job.folder for job in jobs), *(f for job in jobs for f in job.reads.values())}
        self.metas = {folder: shards_of(store, folder, known) for folder in folders}

    def is_current(self, job: Job, shard: int, retry: bool) -> bool:
        meta = self.metas[job.folder].get(shard)
        now = {kind: self.metas[folder].get(shard) for kind, folder in job.reads.items()}
        return is_current(meta, now) and not (meta and (may_pass(meta) or retry and meta["failed"]))

    def add(self, receipt: Receipt) -> None:
        for folder, meta in receipt.made.items():
            self.metas[folder][receipt.shard] = meta

    def failed(self, job: Job) -> dict[str, str]:
        metas = self.metas[job.folder]
        return {clip: why for shard in sorted(metas) for clip, why in sorted(metas[shard]["failed"].items())}


def _device(job: Job) -> str:
    return str(getattr(job.detector(), "device", ""))


def _need(job: Job, engine: Engine) -> str:
    """Whether a job asks for a ``GPU`` or a ``CPU``."""
    if engine.here:
        return "CPU"
    if _device(job).startswith("cuda"):
        return "GPU"
    # Who starts a run on a cluster may have no GPU where workers have: there the detector chooses again.
    chose = _device(job) and job.settings.get("device") is None
    return "GPU" if chose and engine.offers("GPU") else "CPU"


def _without_number(job: Job) -> Job:
    """The job as a worker is given it that sees one GPU, whatever number the GPU has elsewhere."""
    if not str(job.settings.get("device")).startswith("cuda:"):
        return job
    return dataclasses.replace(job, settings={**job.settings, "device": "cuda"})


def info(store: Store, job: Job) -> LayerInfo:
    """The description of the layer that a job makes."""
    d = job.detector()
    before = base.before(d)
    told = {k: v for k, v in job.settings.items() if k not in before or before[k] != v}
    return LayerInfo(
        id=job.id,
        kind=job.kind,
        detector=d.name,
        version=d.version,
        schema=d.schema or store.layer(job.kind, job.inputs[job.kind]).schema,
        fingerprint=d.fingerprint(),
        policy=store.policy,
        inputs=dict(job.inputs),
        licence=d.licence,
        approximate=d.approximate,
        spec=job.spec,
        weights=job.weights,
        settings=told,
        source=job.source,
    )


def annotate_shard(
    url: str, shard: int, jobs: Sequence[Mapping[str, Any]], retry: bool = False, threads: int = 0
) -> Receipt:
    """The task: make one shard of every job's layer. Harmless to run twice.

    `threads` are the CPUs it may use, 0 for all that its process may.
    """
    (receipt,) = annotate_tasks([{"url": url, "shard": shard, "jobs": jobs, "retry": retry, "threads": threads}])
    return receipt


def annotate_tasks(tasks: Sequence[Mapping[str, Any]]) -> Generator[Receipt]:
    """Several tasks of one run, whose stages overlap where they make the same layers; a receipt each, in order."""
    for jobs, alike in itertools.groupby(tasks, lambda task: task["jobs"]):
        same = list(alike)
        url, retry, threads = (same[0][name] for name in ("url", "retry", "threads"))
        shards = [task["shard"] for task in same]
        try:
            yield from annotate_shards(url, shards, list(map(Job.from_json, jobs)), threads or cpus(), retry)
        except base.DeviceLost as error:
            raise Spoilt(str(error)) from error
