"""Computing layers, shard by shard: the plan, and the task as a plain function.

A job is one layer to make. Several jobs share one pass over a shard, so that frames are decoded once and a
detector that needs another's output gets its arrays without a detour over the disk.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from remot_data import layers as layer_kinds
from remot_data import native
from remot_data.child import ChildError
from remot_data.detectors import base
from remot_data.detectors._torch import gpu_name, lost_gpu, out_of_memory, visible_gpus
from remot_data.engine import Engine, Progress, Spoilt, open_engine
from remot_data.records import Clip, LayerInfo, Receipt, Record, Snapshot, canonical_json
from remot_data.shards import Sample
from remot_data.store import Store, StoreError, open_store
from remot_data.video import VideoError


@dataclass(frozen=True)
class Job(Record):
    """One layer to make: which detector, with what, under which id, from which other layers.

    `source` is 0 for the stored frames, or the most rows at which frames are read again from the source videos.
    """

    kind: str
    spec: str
    id: str = ""
    weights: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    source: int = 0

    @property
    def folder(self) -> str:
        return f"layers/{self.kind}/{self.id}"

    @property
    def reads(self) -> dict[str, str]:
        """Kind -> folder of all that it reads."""
        return _sources(self.inputs)

    def detector(self) -> base.Detector:
        return _detector(self.spec, self.weights, canonical_json(self.settings))


@dataclass(frozen=True)
class Summary(Record):
    """What `annotate` did; `failed` are clips the layer could not be made for, each with the reason."""

    store: str
    layer: str
    id: str
    shards: int
    computed: int
    frames: int
    seconds: float
    failed: dict[str, str] = field(default_factory=dict)


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
    source: int = 0,
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
            but at most so many rows; what the detector finds is mapped back. 0 for the stored frames.
        snapshot: name of a snapshot to make or to switch to the new layer, once it is complete. A new one starts as
            a copy of ``main``.
        retry: try again the clips that the detector failed on before.
        wait: if somebody else is making this layer, wait until they are done.
        workers: local worker processes for a detector that runs on processors, one each by default. One that runs on
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
    return Summary(store.url, layer, job.id, store.shard_count, len(receipts), frames, seconds, failed)


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
    source: int = 0,
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
    seen = {"policy": store.policy, "inputs": inputs, **({"source": source} if source else {})}
    return Job(kind, spec, base.short_id(detector, seen), weights, job.settings, inputs, source)


def plan_jobs(store: Store, specs: Mapping[str, str | Job], kept: Iterable[Job] = ()) -> list[Job]:
    """Jobs for several kinds at once, ordered so that each comes after what it needs.

    Args:
        specs: kind -> detector, or a job of which the detector and what it is given count.
        kept: jobs that were planned before.
    """
    jobs = {job.kind: job for job in kept}
    waiting = {kind: Job(kind, spec) if isinstance(spec, str) else spec for kind, spec in specs.items()}
    for kind in waiting:
        layer_kinds.kind(kind)
    while waiting:
        have = {kind: job.id for kind, job in jobs.items()}
        ready = [k for k in layer_kinds.KINDS if k in waiting and set(waiting[k].detector().needs) <= set(have)]
        if not ready:
            raise StoreError(f"the layers {', '.join(waiting)} need layers that are not being made")
        job = waiting.pop(ready[0])
        jobs[job.kind] = plan_job(store, job.kind, job.spec, job.weights, job.settings, have, job.source)
    return list(jobs.values())


def recorded_job(info: LayerInfo) -> Job:
    """The job that made a layer, to make parts of it again or to make it for new shards.

    Raises:
        StoreError: if no detector made it, or the detector here is not the one that did.
    """
    if not info.spec:
        raise StoreError(f"the {info.kind} layer {info.id} was not made by a detector: it cannot be computed here")
    job = Job(info.kind, info.spec, info.id, info.weights, dict(info.settings), dict(info.inputs), info.source)
    if job.detector().fingerprint() != info.fingerprint:
        raise StoreError(
            f"the {info.kind} layer {info.id} was made by {info.detector} {info.version}; the detector {info.spec!r} "
            "here is another version or has other weights: annotate with it as a new layer"
        )
    return job


def known_shards(store: Store) -> dict[str, dict[int, dict[str, Any]]]:
    """Folder -> shard -> metadata, as the receipts tell: so that a finished store is not read again."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for receipt in store.logged("receipts"):
        for folder, meta in receipt["made"].items():
            found.setdefault(folder, {})[receipt["shard"]] = meta
    return found


def shards_of(store: Store, folder: str, known: Mapping[str, Mapping[int, Any]]) -> dict[int, dict[str, Any]]:
    """Metadata of every complete shard of a folder; read from its index where no receipt tells."""
    told = known.get(folder, {})
    metas = ((shard, told.get(shard) or store.meta(folder, shard)) for shard in sorted(store.present(folder)))
    return {shard: meta for shard, meta in metas if meta is not None}


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

    Jobs that run on processors and jobs that run on GPUs take passes of their own over a shard, side by side where
    none reads what another makes.

    `known` is what `known_shards` gives, to spare reading the indexes; without it, each shard's own index tells.

    A clip that a detector fails on costs that clip: the layer is made without it, and says so.

    Raises:
        DetectorError: if a detector fails on every clip.
    """
    with ExitStack() as locks:
        for job in jobs:
            locks.enter_context(store.lock(job.id, wait))
            store.sweep(job.folder)
        log = locks.enter_context(store.log("receipts"))
        state = _State(store, jobs, known or {})
        plan = _Plan(store, _passes(engine, jobs), state, retry, engine.here)
        if plan.total:
            with store.log("jobs") as made:
                for job in jobs:
                    made.add(job.to_json())
        done, counts = [], Counter[str]()
        what = f"annotate {'+'.join(job.kind for job in jobs)}"
        for receipt in engine.run(annotate_shard, plan.work, what):
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
    return done


@dataclass(eq=False)
class _Pass:
    """Jobs that are done together on one look at a shard, and the passes whose layers they read."""

    need: str
    jobs: list[Job]
    after: list[_Pass] = field(default_factory=list)

    @property
    def label(self) -> str:
        return "+".join(job.kind for job in self.jobs)

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

    def __init__(self, store: Store, passes: Sequence[_Pass], state: _State, retry: bool, here: bool) -> None:
        self._common = {"url": store.url, "retry": retry}
        self._here = here
        self.work: dict[str, deque[dict[str, Any]]] = {p.need: deque() for p in passes}
        self.total: Counter[str] = Counter()
        self._unfinished: dict[int, list[_Pass]] = {}
        for shard in range(store.shard_count):
            todo: list[_Pass] = []
            for p in passes:
                if p.waits_for(todo) or not all(state.is_current(job, shard, retry) for job in p.jobs):
                    todo.append(p)
            self._unfinished[shard] = todo
            self.total.update(p.label for p in todo)
            for p in todo:
                if not p.waits_for(todo):
                    self._begin(p, shard)

    def _begin(self, which: _Pass, shard: int) -> None:
        jobs = [(job if self._here else _without_number(job)).to_json() for job in which.jobs]
        self.work[which.need].append({**self._common, "shard": shard, "jobs": jobs})

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
        sources = {kind: self.metas[folder].get(shard) for kind, folder in job.reads.items()}
        if meta is None or None in sources.values():
            return False
        return meta["saw"] == {k: m["sha256"] for k, m in sources.items() if m} and not (retry and meta["failed"])

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
        spec=job.spec,
        weights=job.weights,
        settings=dict(job.settings),
        source=job.source,
    )


def saw(store: Store, inputs: Mapping[str, str], shard: int) -> dict[str, str]:
    """The sha256 of every shard that a layer's shard is made from."""
    return {kind: store.sha256(folder, shard) for kind, folder in _sources(inputs).items()}


def _sources(inputs: Mapping[str, str]) -> dict[str, str]:
    folders = {"frames": "frames", **{kind: f"layers/{kind}/{layer_id}" for kind, layer_id in inputs.items()}}
    return dict(sorted(folders.items()))


def is_current(store: Store, job: Job, shard: int) -> bool:
    """Whether a job's shard is there and was made from the frames and layers as they are now."""
    meta = store.meta(job.folder, shard)
    sources = {kind: store.meta(folder, shard) for kind, folder in job.reads.items()}
    if meta is None or None in sources.values():
        return False
    return meta["saw"] == {kind: m["sha256"] for kind, m in sources.items() if m}


def annotate_shard(url: str, shard: int, jobs: Sequence[Mapping[str, Any]], retry: bool = False) -> Receipt:
    """The task: make one shard of every job's layer. Harmless to run twice."""
    # Processes are the unit of parallel work; and no threading can change a byte.
    cv2.setNumThreads(1)
    store = Store(url)
    todo = [job for job in map(Job.from_json, jobs) if retry or not is_current(store, job, shard)]
    samples: dict[str, list[Sample]] = {job.kind: [] for job in todo}
    failed: dict[str, dict[str, str]] = {job.kind: {} for job in todo}
    seconds = dict.fromkeys(["frames", *(job.kind for job in todo), "encode", "write"], 0.0)
    clips = store.shard_clips(shard)
    for clip in clips if todo else ():
        frames = _Frames(store, clip, seconds)
        made: dict[str, dict[str, np.ndarray]] = {}
        for job in todo:
            try:
                given = frames.of(job.source)
                with _timed(seconds, job.kind):
                    made[job.kind] = _detect(store, job, clip, given, made, failed)
            except base.DetectorError as error:
                failed[job.kind][clip.id] = str(error)
                continue
            with _timed(seconds, "encode"):
                samples[job.kind] += encoded(job.kind, clip, made[job.kind])
    written = {}
    with _timed(seconds, "write"):
        now = Store(url)
        for job in map(Job.from_json, jobs):
            # Somebody else may have been quicker; since then the shard may even have been made shorter: theirs stays.
            if job not in todo or (not retry and is_current(now, job, shard)):
                written[job.folder] = now.meta(job.folder, shard)
            else:
                seen = saw(store, job.inputs, shard)
                written[job.folder] = store.write_shard(
                    job.folder, shard, samples[job.kind], seen, failed[job.kind], gpu_name(_device(job))
                )
    return Receipt(
        "annotate",
        shard=shard,
        frames=sum(clip.frames for clip in clips),
        clips=len(clips),
        made=written,
        seconds={k: round(v, 4) for k, v in seconds.items()},
    )


class _Frames:
    """The frames of one clip, read when they are first asked for: the stored ones, and those of the source."""

    def __init__(self, store: Store, clip: Clip, seconds: dict[str, float]) -> None:
        self._store, self._clip, self._seconds = store, clip, seconds
        self._found: dict[int, np.ndarray] = {}

    def of(self, source: int) -> np.ndarray:
        if source not in self._found:
            with _timed(self._seconds, "frames"):
                self._found[source] = self._read(source)
        return self._found[source]

    def _read(self, source: int) -> np.ndarray:
        if not source:
            return self._store.read_arrays("frames", "frames", self._clip)["frames"]
        if not self._clip.path:
            raise base.DetectorError("this clip has no source video to read again")
        try:
            return native.read_native(self._clip, native.native_size(self._clip, self._store.size, source))
        except (VideoError, ChildError) as error:
            raise base.DetectorError(f"its source cannot be read again: {error}") from error


def _detect(
    store: Store,
    job: Job,
    clip: Clip,
    frames: np.ndarray,
    made: Mapping[str, dict[str, np.ndarray]],
    failed: Mapping[str, Mapping[str, str]],
) -> dict[str, np.ndarray]:
    needed = {}
    for kind, layer_id in job.inputs.items():
        folder = f"layers/{kind}/{layer_id}"
        before = failed[kind] if kind in failed else (store.meta(folder, clip.shard) or {}).get("failed", {})
        if clip.id in before:
            raise base.DetectorError(f"it reads the {kind} layer, which failed")
        needed[kind] = made[kind] if kind in made else store.read_arrays(folder, kind, clip)
    try:
        size = frames.shape[1:3]
        needed = {kind: native.at_size(kind, arrays, store.size, size) for kind, arrays in needed.items()}
        arrays = native.at_size(job.kind, job.detector()(frames, **needed), size, store.size)
        layer_kinds.kind(job.kind).check(arrays, clip.frames, store.size)
    except base.DetectorError:
        raise
    except Exception as error:
        raise _failure(job, error) from error
    return arrays


class GPUMemoryError(RuntimeError):
    """A detector asks for more memory than its GPU has."""


def _failure(job: Job, error: Exception) -> Exception:
    """What an error in a detector comes to: a clip that fails, an end of the run, or of the worker."""
    said = f"{type(error).__name__}: {error}"
    first = said.splitlines()[0][:200]
    if out_of_memory(error):
        batch = getattr(job.detector(), "batch", None)
        now = f", less than {batch}" if batch else ""
        return GPUMemoryError(f"{job.spec} needs more memory than its GPU has ({first}); give --setting batch=N{now}")
    if lost_gpu(error):
        return Spoilt(f"{job.spec} has lost its GPU ({first}); `nvidia-smi` and the system's log say more")
    return base.DetectorError(f"{job.spec}: {said}")


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
