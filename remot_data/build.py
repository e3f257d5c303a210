"""From videos to a store: what the inputs are, looking through each, planning shards, writing frames.

Three passes: every video is looked through once (shots, the main person, one crop a clip), then the clips are
laid out over shards, then each shard's frames are decoded, cropped and written. The plan depends on the inputs
and the policy alone, so the number of workers and the order in which they finish leave no trace.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pyarrow as pa

from remot_data import video
from remot_data.annotate import LEDGER, plan_jobs, run_jobs, switch
from remot_data.detectors.base import DEFAULTS, file_sha256
from remot_data.engine import Engine, Progress, open_engine
from remot_data.inputs import Input, find_inputs
from remot_data.layers import frames as frames_layer
from remot_data.records import Clip, Receipt, Record, Reject, Video
from remot_data.scan import Policy, scan, stamp
from remot_data.shards import Sample, table_bytes
from remot_data.store import Store, StoreError, create_store

SCAN = "ledger/videos.jsonl"


@dataclass(frozen=True)
class Summary(Record):
    """What a build did. Frames add up: decoded = kept + refused + resampled (left out by the fps policy)."""

    store: str
    inputs: int = 0
    ignored: int = 0
    videos: int = 0
    refused: int = 0
    clips: int = 0
    shards: int = 0
    frames: dict[str, int] = field(default_factory=dict)
    rejects: tuple[dict[str, Any], ...] = ()
    layers: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def build(
    videos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str,
    *,
    policy: Policy | None = None,
    layers: Mapping[str, str] | None = None,
    snapshot: str = "main",
    split: str | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Build a store from videos; run again after an interruption, it goes on where it was.

    Args:
        videos: files, folders (searched through) or manifests (``.yaml``).
        out: URL of the store.
        layers: kind -> detector; the defaults of `remot_data.detectors.base.DEFAULTS`. Empty for frames only.
        split: split policy of the snapshot, see `Snapshot`.

    Raises:
        InputError, StoreError, AssetError, EngineError: when it cannot run; a bad video is a reject, not an error.
    """
    policy = policy or Policy()
    inputs, ignored = find_inputs(videos)
    store = create_store(out, {"policy": policy.to_json(), "size": policy.size})
    seconds: dict[str, float] = {}
    with open_engine(workers, scheduler) as engine:
        started = time.monotonic()
        scans = scan_all(engine, store, inputs, policy, progress)
        seconds["look through"] = time.monotonic() - started
        clips, rejects, counts = plan(scans, policy)
        _write_rejects(store, rejects)
        store.write_clips(clips)
        chosen = {}
        if clips:
            started = time.monotonic()
            write_frames(engine, store, policy, progress)
            seconds["frames"] = time.monotonic() - started
            started = time.monotonic()
            jobs = plan_jobs(store, DEFAULTS if layers is None else layers)
            if jobs:
                run_jobs(engine, store, jobs, progress)
                chosen = {job.kind: job.id for job in jobs}
            seconds["layers"] = time.monotonic() - started
            switch(store, snapshot, chosen, split=split)
    return _summary(store, len(scans), ignored, clips, rejects, counts, chosen, seconds)


# Looking through


def scan_all(
    engine: Engine, store: Store, inputs: Sequence[Input], policy: Policy, progress: Progress | None
) -> list[dict[str, Any]]:
    """What each input holds, in the order of the inputs; those looked through before come from the ledger."""
    known = {(line["input"]["path"], line["stamp"]): line for line in store.read_lines(SCAN)}
    wanted = {item.path: (item.path, stamp(item.path)) for item in inputs}
    fresh = [i for i in inputs if known.get(wanted[i.path], {}).get("input") != i.to_json()]
    tasks = [{"item": item.to_json(), "policy": policy.to_json()} for item in fresh]
    for done, line in enumerate(engine.map(scan, tasks, "look through"), 1):
        store.append_lines(SCAN, [line])
        known[line["input"]["path"], line["stamp"]] = line
        if progress:
            progress("look through", done, len(tasks))
    return [known[wanted[item.path]] for item in inputs]


# Planning


def plan(scans: Sequence[Mapping[str, Any]], policy: Policy) -> tuple[list[Clip], list[Reject], dict[str, int]]:
    """All clips in key order with their shards, all rejects, and the sums of frames.

    A file whose bytes were seen before is a duplicate.
    """
    counts = dict.fromkeys(("decoded", "kept", "refused", "resampled"), 0)
    clips: list[Clip] = []
    rejects: list[Reject] = []
    first: dict[str, str] = {}
    for line in scans:
        found = line["video"] and Video.from_json(line["video"])
        if found and found.sha256 in first:
            detail = f"the same bytes as {first[found.sha256]}"
            rejects.append(Reject("video", found.id, found.path, "duplicate", detail, found.frames))
            counts["decoded"] += found.frames
            counts["refused"] += found.frames
            continue
        counts = {name: counts[name] + line["frames"][name] for name in counts}
        if found:
            first[found.sha256] = found.path
        clips += [Clip.from_json(c) for c in line["clips"]]
        rejects += [Reject.from_json(r) for r in line["rejects"]]
    return list(_laid_out(sorted(clips, key=lambda c: c.id), policy.shard_frames)), rejects, counts


def _laid_out(clips: Iterable[Clip], shard_frames: int) -> Iterator[Clip]:
    shard, filled = 0, 0
    for clip in clips:
        if filled and filled + clip.frames > shard_frames:
            shard, filled = shard + 1, 0
        filled += clip.frames
        yield dataclasses.replace(clip, shard=shard)


def _write_rejects(store: Store, rejects: Sequence[Reject]) -> None:
    names = [f.name for f in dataclasses.fields(Reject)]
    columns = {name: [getattr(r, name) for r in rejects] for name in names}
    schema = pa.schema([(name, pa.int64() if name == "frames" else pa.string()) for name in names])
    store.write_bytes("ledger/rejects.parquet", table_bytes(pa.table(columns, schema=schema)))


# Frames


def write_frames(engine: Engine, store: Store, policy: Policy, progress: Progress | None = None) -> None:
    """Write every frames shard that is missing."""
    missing = [shard for shard in range(store.shard_count) if not store.is_done("frames", shard)]
    tasks = [{"url": store.url, "shard": shard, "policy": policy.to_json()} for shard in missing]
    for done, receipt in enumerate(engine.map(frames_shard, tasks, "frames"), 1):
        store.append_lines(LEDGER, [receipt.to_json()])
        if progress:
            progress("frames", done, len(tasks))


def frames_shard(url: str, shard: int, policy: Mapping[str, Any]) -> Receipt:
    """The task: decode, crop and write one shard of frames. Harmless to run twice."""
    started = time.monotonic()
    store, rules = Store(url), Policy.from_json(policy)
    clips = store.shard_clips(shard)
    samples = (sample for clip in clips for sample in _frames_of(clip, rules))
    meta = store.write_shard("frames", shard, samples)
    return Receipt(
        f"frames/{shard:05d}",
        frames=meta["samples"],
        clips=len(clips),
        bytes=meta["bytes"],
        sha256=meta["sha256"],
        seconds={"frames": round(time.monotonic() - started, 4)},
    )


def _frames_of(clip: Clip, policy: Policy) -> Iterator[Sample]:
    if _sha256(clip.path, stamp(clip.path)) != clip.sha256:
        raise StoreError(f"{clip.path} has changed since it was looked through; put the old file back or build anew")
    wanted = dict.fromkeys(clip.pts)
    numbers = {pts: number for number, pts in enumerate(wanted)}
    decoder = policy.decoder if policy.decoder == "pyav" or video.decord_agrees(clip.path) else "pyav"
    frames = video.read(
        clip.path, start_pts=clip.pts[0], end_pts=clip.pts[-1] + 1, crop=clip.crop, size=policy.size, decoder=decoder
    )
    written = 0
    for pts, frame in frames:
        if pts in numbers:
            yield Sample(clip.key(numbers[pts]), frames_layer.encode({"frames": frame[None]}, 0), {"pts": pts})
            written += 1
    if written != clip.frames:
        raise StoreError(f"{clip.path}: {written} of {clip.frames} frames of clip {clip.id} were found again by PTS")


@lru_cache(maxsize=256)
def _sha256(path: str, stamp: str) -> str:
    return file_sha256(path)


def _summary(
    store: Store,
    inputs: int,
    ignored: int,
    clips: Sequence[Clip],
    rejects: Sequence[Reject],
    counts: Mapping[str, int],
    layers: Mapping[str, str],
    seconds: Mapping[str, float],
) -> Summary:
    videos = len({clip.video for clip in clips})
    return Summary(
        store=store.url,
        inputs=inputs,
        ignored=ignored,
        videos=videos,
        refused=inputs - videos,
        clips=len(clips),
        shards=store.shard_count if clips else 0,
        frames=dict(counts),
        rejects=tuple(r.to_json() for r in rejects),
        layers=dict(layers),
        seconds={k: round(v, 2) for k, v in seconds.items()},
    )
