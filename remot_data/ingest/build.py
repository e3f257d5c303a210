"""From videos to a store: looking through each input, planning shards, writing frames; and taking clips out again.

Three passes: every video is looked through once (shots, the main person, one crop a clip), then the clips are
laid out over shards, then each shard's frames are decoded, cropped and written. The plan depends on the inputs,
the policy and what the store holds already, so the number of workers and the order in which they finish leave no
trace. A store that grows keeps its shards: new clips go to new ones.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from remot_data import media
from remot_data.annotating.annotate import Outdated, plan_jobs, recorded_job, run_jobs, switch, with_inputs
from remot_data.annotating.jobs import AUTO, Job
from remot_data.detectors._torch import visible_gpus
from remot_data.detectors.base import DEFAULTS
from remot_data.detectors.quality_scores import QualityScores
from remot_data.engine import Engine, Progress, open_engine
from remot_data.ingest import cuts, people
from remot_data.ingest.inputs import Input, find_inputs
from remot_data.ingest.planning import Plan, plan, read_rejects, write_boxes, write_rejects
from remot_data.ingest.policy import Policy
from remot_data.ingest.scan import scan
from remot_data.media import sandbox
from remot_data.media.identity import stamp
from remot_data.reading import filters
from remot_data.records import BOXES, PASSING, REASONS, Clip, LayerInfo, Receipt, Record, Reject
from remot_data.store import Store, StoreError, check_store, create_store, shard_name
from remot_data.store.currency import in_order, known_shards, shards_of
from remot_data.store.history import gather, note
from remot_data.store.shards import Sample

# Inputs after which `limit_rejects` may end a build.
_ENOUGH = 20


@dataclass(frozen=True)
class Summary(Record):
    """What a build did. Frames add up: decoded = kept + refused + resampled (left out by the fps policy).

    `notes` say what of a video that was kept is not in it: frames that damage may have reached, or without a time.
    `where` is the filter of the snapshot, where the build gave it one.

    `person_frames` has every frame once for each person followed in it: seen = kept + refused, which is by code.
    """

    store: str
    inputs: int = 0
    ignored: int = 0
    videos: int = 0
    refused: int = 0
    clips: int = 0
    added: int = 0
    shards: int = 0
    frames: dict[str, int] = field(default_factory=dict)
    person_frames: dict[str, Any] = field(default_factory=dict)
    rejects: tuple[dict[str, Any], ...] = ()
    layers: dict[str, str] = field(default_factory=dict)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    where: str = ""


def build(
    videos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str,
    *,
    policy: Policy | None = None,
    layers: Mapping[str, str] | None = None,
    instead: Sequence[Job] = (),
    source: int = AUTO,
    snapshot: str = "main",
    split: str | None = None,
    where: str | None = None,
    root: str | os.PathLike[str] | None = None,
    retry: Collection[str] = (),
    limit_rejects: float | None = None,
    limits: sandbox.Limits | None = None,
    finder: str | None = None,
    shots: str | None = None,
    wait: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Build a store from videos, or add videos to one; run again after an interruption, it resumes.

    Args:
        videos: files, folders (searched through) or manifests (``.yaml``).
        out: URL of the store.
        policy: None for that of the store that is there, or the defaults for a new one. Its `finder` is filled in.
        layers: kind -> detector. None: those of the snapshot that is there, or else the defaults of
            `remot_data.detectors.base.DEFAULTS`. Empty for frames only.
        instead: layers to make in place of those of their kind, or besides: ``Job(kind, detector)``, with weights and
            settings. The snapshot has them from then on, with new layers of those that read the ones replaced.
        source: how the pose layer reads where it is planned anew, as for `annotate`: at most so many rows of the
            videos, 0 for the stored frames. By default (-1) the videos, while those of all clips are here. A layer that
            grows goes on as it was made.
        split: split policy of the snapshot, see `Snapshot`.
        where: filter of the snapshot. None for that of the snapshot that is there; a new store whose scores are of the
            schema ``quality`` has `filters.DEFAULT` or `filters.DEFAULT_WITH_BOXES`, other new ones have none.
        root: folder of the data, in place of the ``root`` of a manifest.
        retry: reason codes; videos and clips refused for these are tried again. Those refused as ``unavailable``, for
            which this machine is to blame, always are.
        limit_rejects: share of the inputs (of at least 20) that may be refused before the build stops.
        limits: time and memory that reading one video may take.
        finder: what finds the persons: ``ssd``, ``blazepose`` or see `people.open_finder`; its fingerprint becomes part
            of the policy. None for that of the store that is there, or for the default of `people.default_finder`.
        shots: what finds the shots: ``contrast`` or ``transnetv2``; it becomes part of the policy. None for that of
            the policy.
        wait: if somebody else is writing the store, wait until they are done.

    Raises:
        InputError, StoreError, AssetError, DetectorError, EngineError, Busy: when it cannot run. A bad video is a
            reject, no error.
    """
    unknown = sorted(set(retry) - set(REASONS))
    if unknown:
        raise StoreError(f"--retry takes reason codes, not {', '.join(unknown)}; they are {', '.join(REASONS)}")
    if where:
        _ = list(filters.conditions(where))  # which raises, for one that cannot be read
    inputs, ignored = find_inputs(videos, root)
    stored = stored_policy(out)
    finder = finder or _finder_of(stored)
    policy = policy or stored or Policy()
    if finder is not None:
        made_by = None if finder == people.BLAZEPOSE else people.open_finder(finder).fingerprint()
        policy = dataclasses.replace(policy, finder=made_by)
    finder = None if finder == people.BLAZEPOSE else finder
    if shots is not None:
        policy = dataclasses.replace(policy, shots=cuts.by_name(shots))
    config = {"policy": policy.to_json(), "size": policy.size}
    store = check_store(out, config)
    seconds: dict[str, float] = {}
    given = ""
    bounds = (limits or sandbox.Limits()).to_json()
    with store.lock(wait=wait) as lock, open_engine(workers, scheduler, visible_gpus) as engine:
        progress = lock.telling(progress)
        store = create_store(out, config)
        store.sweep("", "ledger", "frames", BOXES)
        # Before anything is decoded, for what cannot be done.
        jobs, chosen = _jobs(store, snapshot, layers, instead, source)
        started = time.monotonic()
        lines, earlier = scan_all(engine, store, inputs, policy, retry, limit_rejects, bounds, progress, finder)
        seconds["look through"] = time.monotonic() - started
        existing = []
        if store.files.exists("clips.parquet"):
            existing = store.planned
            store.trim()
        faults = {r.id: r for r in read_rejects(store) if r.what == "clip" and r.code not in PASSING | set(retry)}
        made = plan(lines, policy, existing, earlier, store.removed, faults)
        _note_rejects(store, inputs, made)
        if [(c.id, c.path) for c in made.clips] != [(c.id, c.path) for c in existing] or not existing:
            store.write_clips(made.clips)
            store.trim()
        if policy.persons is not None:
            write_boxes(store, [*lines, *earlier])
        if not made.clips:
            chosen = {}
        else:
            started = time.monotonic()
            found = write_frames(engine, store, policy, bounds, progress)
            if found:
                made = plan(lines, policy, store.planned, earlier, store.removed, {**faults, **found})
                _drop(store, inputs, made, found)
            seconds["frames"] = time.monotonic() - started
            started = time.monotonic()
            if jobs:
                run_jobs(engine, store, jobs, progress, wait=wait, known=known_shards(store))
            seconds["layers"] = time.monotonic() - started
            known = store.snapshots
            if layers is not None or instead or split is not None or where is not None or snapshot not in known:
                filter_ = _default_filter(store, chosen) if where is None and not known else where
                given = switch(store, snapshot, chosen, filter_, split).where
        store.compact_log("videos", lambda line: line["input"]["path"])
        store.compact_log("receipts", lambda r: (r["shard"], *sorted(r["made"])))
        store.compact_log("jobs", lambda job: job["id"])
        if len(made.clips) != len(existing):
            before = 1 + max((clip.shard for clip in existing), default=-1)
            frames = sum(clip.frames for clip in made.clips)
            note(store, "build", before=before, shards=store.shard_count, clips=len(made.clips), frames=frames)
        gather(store)
    notes = tuple(note for line in lines for note in line.get("notes", ()))
    done = _summary(store, inputs, ignored, made, len(made.clips) - len(existing), chosen, seconds, notes)
    return dataclasses.replace(done, where=given)


def _finder_of(stored: Policy | None) -> str | None:
    """What finds the persons where nobody says so: the default of new stores, or what has found them, if it is ours."""
    if stored is None:
        return people.default_finder()
    if stored.finder is None:
        return people.BLAZEPOSE
    name = stored.finder.get("detector")
    return name if name == people.SSD else None


def stored_policy(out: str) -> Policy | None:
    """The policy of the store at `out`, or None where there is none."""
    store = Store(out)
    if not store.files.exists("store.json"):
        return None
    if "policy" not in store.config:
        raise StoreError(f"{out} was not built from videos: none can be added to it")
    return Policy.from_json(store.config["policy"])


def _jobs(
    store: Store, snapshot: str, layers: Mapping[str, str] | None, instead: Sequence[Job], source: int
) -> tuple[list[Job], dict[str, str]]:
    """What to annotate with: what was asked for, or what the snapshot holds, or the defaults.

    Returns:
        The jobs, those too that make what others read; and kind -> id of the layers that the snapshot is to hold.
    """
    known, wanted = store.snapshots, {job.kind: job for job in instead}
    if (pose := wanted.get("pose")) is not None and pose.source == AUTO:
        wanted["pose"] = dataclasses.replace(pose, source=source)
    if layers is not None or snapshot not in known:
        fresh: dict[str, str | Job] = {**(DEFAULTS if layers is None else layers)}
        if isinstance(spec := fresh.get("pose"), str):
            fresh["pose"] = Job("pose", spec, source=source)
        jobs = plan_jobs(store, {**fresh, **wanted})
        return with_inputs(store, jobs), _ids(jobs)
    held = in_order(store.layer(kind, layer_id) for kind, layer_id in known[snapshot].layers.items())
    kept: list[Job] = []
    try:
        for made_by in held:
            kind = made_by.kind
            if kind not in wanted and wanted.keys().isdisjoint(made_by.inputs):
                kept.append(recorded_job(made_by))
            elif kind not in wanted:
                wanted[kind] = recorded_job(made_by)
        return with_inputs(store, chosen := plan_jobs(store, wanted, kept)), _ids(chosen)
    except Outdated as error:
        raise Outdated(f"{error}, before this store grows: {_anew(store, snapshot, held)}") from error


def _ids(jobs: Iterable[Job]) -> dict[str, str]:
    return {job.kind: job.id for job in jobs}


def _anew(store: Store, snapshot: str, held: Sequence[LayerInfo]) -> str:
    """The commands that make the layers again whose detectors have changed, and those that read them."""
    stale: set[str] = set()
    commands = []
    for made_by in held:
        try:
            with_inputs(store, [recorded_job(made_by)])
        except Outdated:
            stale.add(made_by.kind)
        if made_by.kind in stale or not stale.isdisjoint(made_by.inputs):
            stale.add(made_by.kind)
            commands.append(f"remot annotate {store.url} --layer {made_by.kind} --with {_told(made_by)}")
    return "; ".join(f"{command} --snapshot {snapshot}" for command in commands)


def _told(made_by: LayerInfo) -> str:
    """Detector, weights and settings of a layer as options."""
    spec = made_by.spec.partition(":")[0] if made_by.kind in made_by.inputs else made_by.spec
    weights = [f"--weights {made_by.weights}"] if made_by.weights else []
    settings = [f"--setting {name}={json.dumps(value)}" for name, value in made_by.settings.items()]
    return " ".join([spec, *weights, *settings])


def _default_filter(store: Store, layers: Mapping[str, str]) -> str | None:
    """The filter of a new store with these layers."""
    if "scores" in layers and store.layer("scores", layers["scores"]).schema == QualityScores.schema:
        return filters.DEFAULT_WITH_BOXES if store.has_boxes else filters.DEFAULT
    return None


# Looking through


def scan_all(
    engine: Engine,
    store: Store,
    inputs: Sequence[Input],
    policy: Policy,
    retry: Collection[str] = (),
    limit: float | None = None,
    limits: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    finder: str | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What each input holds, in the order of the inputs, and what the ledger knows of other videos.

    Inputs looked through before come from the ledger, unless they were refused for a reason in `retry`, or because
    the machine had failed.
    """
    known = {(line["input"]["path"], line["stamp"]): line for line in store.logged("videos")}
    wanted = {item.path: (item.path, stamp(item.path)) for item in inputs}

    again = PASSING | set(retry)

    def is_known(item: Input) -> bool:
        line = known.get(wanted[item.path])
        if line is None or line["input"] != item.to_json():
            return False
        return not any(r["what"] == "video" and r["code"] in again for r in line["rejects"])

    fresh = [item for item in inputs if not is_known(item)]
    if fresh and policy.finder is not None and finder is None:
        raise StoreError(
            f"{store.url} has videos to look through, and its persons are found by {policy.finder.get('detector')} "
            f"(weights {str(policy.finder.get('weights'))[:12]}); give that again with --finder"
        )
    common = {"policy": policy.to_json(), "limits": limits, "finder": finder}
    tasks = [{"item": i.to_json(), "seen": wanted[i.path][1], **common} for i in fresh]
    with store.log("videos") as log:
        refused = Counter[str]()
        for seen, line in enumerate(engine.map(scan, tasks, "look through", log=log, progress=progress), 1):
            known[wanted[line["input"]["path"]]] = line
            if not line["clips"]:
                refused.update({r["code"] for r in line["rejects"]})
            _check_limit(limit, seen, refused)
    lines = [known.pop(wanted[item.path]) for item in inputs]
    return lines, list(known.values())


def _check_limit(limit: float | None, seen: int, refused: Counter[str]) -> None:
    total = refused.total()
    if limit is None or seen < _ENOUGH or total <= limit * seen:
        return
    counts = ", ".join(f"{code} {count}" for code, count in refused.most_common())
    raise StoreError(
        f"stopped: of the first {seen} inputs {total} were refused, more than {limit:.0%} ({counts}); what was looked "
        "through is kept, so run again with another limit to resume"
    )


def _note_rejects(store: Store, inputs: Sequence[Input], made: Plan) -> None:
    """Write the rejects of these inputs, and those noted before of others."""
    now = {item.path for item in inputs} | made.moved.keys()
    write_rejects(store, [*(r for r in read_rejects(store) if r.path not in now), *made.rejects])


def _drop(store: Store, inputs: Sequence[Input], made: Plan, faults: Mapping[str, Reject]) -> None:
    """Take clips without frames out of the plan; shards at the end that held nothing else go with them."""
    gone = [clip for clip in store.planned if clip.id in faults]
    _note_rejects(store, inputs, made)
    store.write_clips(made.clips)
    store.trim()
    if store.has_boxes:
        for shard in {clip.shard for clip in gone if clip.shard < store.shard_count}:
            left = {clip.id for clip in store.shard_clips(shard)}
            store.write_boxes(shard, {name: seen for name, seen in store.shard_boxes(shard).items() if name in left})


# Frames


def write_frames(
    engine: Engine,
    store: Store,
    policy: Policy,
    limits: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Reject]:
    """Write every frames shard that is missing; returns the clips that could not be read, by id."""
    done = shards_of(store, "frames", known_shards(store))
    missing = [shard for shard in range(store.shard_count) if shard not in done]
    tasks = [{"url": store.url, "shard": shard, "policy": policy.to_json(), "limits": limits} for shard in missing]
    with store.log("receipts") as log:
        for receipt in engine.map(frames_shard, tasks, "frames", log=log, progress=progress):
            done[receipt.shard] = receipt.made["frames"]
    failed = {clip: why for meta in done.values() for clip, why in meta["failed"].items()}
    clips = {clip.id: clip for clip in store.planned if clip.id in failed}
    return {name: _refused_clip(clip, failed[name]) for name, clip in clips.items()}


def _refused_clip(clip: Clip, why: str) -> Reject:
    code, _, detail = why.partition(": ")
    return Reject("clip", clip.id, clip.path, code, detail, clip.frames)


def frames_shard(url: str, shard: int, policy: Mapping[str, Any], limits: Mapping[str, Any] | None = None) -> Receipt:
    """The task: decode, crop and write one shard of frames. Harmless to run twice.

    Videos are decoded in a child process that can be killed; a clip that cannot be read is left out, with the reason.
    """
    started = time.monotonic()
    store = Store(url)
    bounds = sandbox.Limits.from_json(limits or {})
    clips = store.shard_clips(shard)
    failed: dict[str, str] = {}
    meta = _written(store, shard)

    def samples() -> Iterator[Sample]:
        for clip in clips:
            try:
                yield from _frames_of(clip, policy, bounds)
            except (sandbox.ChildError, media.VideoError) as error:
                failed[clip.id] = f"{error.code}: {error.detail}"
        if _written(store, shard) is not None:
            raise _Late

    if meta is None:
        try:
            meta = store.write_shard("frames", shard, samples(), failed=failed)
        except _Late:
            meta = _written(store, shard)
            assert meta is not None
    seconds = {"frames": round(time.monotonic() - started, 4)}
    return Receipt("frames", shard, meta["samples"], len(clips) - len(meta["failed"]), {"frames": meta}, seconds)


class _Late(Exception):
    """Somebody else was quicker; since then the shard may even have been made shorter, so theirs stays."""


def _written(store: Store, shard: int) -> dict[str, Any] | None:
    """Metadata of a shard of frames that is complete."""
    return store.meta("frames", shard) if store.files.exists(shard_name("frames", shard)) else None


def _frames_of(clip: Clip, policy: Mapping[str, Any], limits: sandbox.Limits) -> list[Sample]:
    """All frames of a clip, encoded, or an error: a part of a clip is never written."""
    arguments = {"clip": clip.to_json(), "policy": dict(policy)}
    messages = sandbox.call("remot_data.ingest.decoding:decoding", arguments, limits)
    return [Sample(m["key"], {"jpg": data}, {"pts": m["pts"]}) for m, data in messages if "key" in m]


def _summary(
    store: Store,
    inputs: Sequence[Input],
    ignored: int,
    made: Plan,
    added: int,
    layers: Mapping[str, str],
    seconds: Mapping[str, float],
    notes: tuple[str, ...],
) -> Summary:
    paths = {item.path for item in inputs}
    live = [clip for clip in made.clips if clip.id not in store.removed]
    videos = len({clip.path for clip in live if clip.path in paths})
    failed = {kind: store.layer(kind, layer_id).failed for kind, layer_id in layers.items()}
    return Summary(
        store=store.url,
        inputs=len(inputs),
        ignored=ignored,
        videos=videos,
        refused=len(inputs) - videos,
        clips=len(live),
        added=added,
        shards=store.shard_count if made.clips else 0,
        frames=dict(made.frames),
        person_frames=dict(made.person_frames),
        rejects=tuple(r.to_json() for r in made.rejects),
        layers=dict(layers),
        failed={kind: clips for kind, clips in failed.items() if clips},
        seconds={k: round(v, 2) for k, v in seconds.items()},
        notes=notes,
    )
