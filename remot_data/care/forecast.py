"""What a build or an annotation would do, and what it would cost: told before, measured on a small part.

Seconds are those of CPUs, added up over workers. They come out of the store's own ledger, where that knows enough
frames, or out of a part of the inputs that is worked on in a folder which is removed again. What a GPU would take is
known only from shards that such a card has made.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from remot_data import media
from remot_data.annotating.annotate import annotate_shard, plan_job
from remot_data.annotating.jobs import AUTO, Job
from remot_data.care.planned import Forecast, Stage, spent
from remot_data.errors import RemotError
from remot_data.ingest.build import Summary, build
from remot_data.ingest.inputs import Input, find_inputs
from remot_data.ingest.policy import Policy
from remot_data.media import in_child
from remot_data.media.identity import stamp
from remot_data.media.sandbox import ChildError
from remot_data.records import BOXES
from remot_data.store import Store, create_store, open_store
from remot_data.store.currency import is_current, metas
from remot_data.store.shards import Sample

_ENOUGH = 300  # frames of a ledger that are believed
_PROBED = 200  # inputs that are opened; the others are taken to be alike for their size
_PARTS, _SECONDS = 2, 2.0  # how many inputs the sample is of, and how much of each
_FRAMES = 64  # of the sample of a detector


class ForecastError(RemotError, RuntimeError):
    """Nothing can be said; the message says why."""


def of_build(
    videos: Sequence[str | os.PathLike[str]],
    out: str,
    *,
    policy: Policy | None = None,
    layers: Mapping[str, str] | None = None,
    instead: Sequence[Job] = (),
    root: str | os.PathLike[str] | None = None,
    finder: str | None = None,
    shots: str | None = None,
    source: int = AUTO,
) -> Forecast:
    """What `build` would do with these arguments.

    Raises:
        InputError, StoreError, DetectorError: as `build`.
        ForecastError: where no input can be read.
    """
    inputs, _ = find_inputs(videos, root)
    store = Store(out)
    lines = store.logged("videos") if store.files.exists("store.json") else []
    known = {(line["input"]["path"], line["stamp"]) for line in lines}
    fresh = [item for item in inputs if (item.path, stamp(item.path)) not in known]
    decoded, longest = _frames_of(fresh, policy)
    options: dict[str, Any] = {"policy": policy, "layers": layers, "instead": instead, "finder": finder, "shots": shots}
    options["source"] = source
    rates = (_from_ledger(store, lines) or _measured(fresh, options)) if fresh else None
    if rates is None:
        return Forecast("build", (Stage("look through", "videos", 0, len(inputs), 0.0),), "nothing is left to do")
    kept = round(decoded * rates.kept)
    done = sum(clip.frames for clip in store.planned) if store.files.exists("clips.parquet") else 0
    a_shard = (policy or Policy()).shard_frames  # is a task
    stages = []
    for name, pace in rates.paces.items():
        if name == "look through":
            units, there, work, task = "videos", len(inputs) - len(fresh), decoded, longest
            stages.append(pace.stage(name, units, len(fresh), there, work, task))
        else:
            stages.append(pace.stage(name, "frames", kept, done, kept, min(kept, a_shard)))
    return Forecast("build", tuple(stages), rates.source, rates.start, round(kept * rates.bytes), rates.memory)


def of_annotate(
    store: Store | str,
    layer: str,
    detector: str,
    *,
    weights: str | None = None,
    settings: Mapping[str, Any] | None = None,
    source: int = AUTO,
) -> Forecast:
    """What `annotate` would do with these arguments.

    Raises:
        StoreError, DetectorError: as `annotate`.
    """
    store = store if isinstance(store, Store) else open_store(store)
    chosen = store.snapshots.get("main")
    job = plan_job(store, layer, detector, weights, settings, chosen.layers if chosen else {}, source)
    todo = [s for s in range(store.shard_count) if not _is_current(store, job, s)]
    sizes = {shard: sum(clip.frames for clip in store.shard_clips(shard)) for shard in range(store.shard_count)}
    frames, there = sum(sizes[s] for s in todo), sum(n for s, n in sizes.items() if s not in todo)
    device = str(getattr(job.detector(), "device", ""))
    gpu, each = _of_cards(store, job) if device.startswith("cuda") else ("", None)
    if device.startswith("cuda"):
        seconds = None if each is None else each * frames
        stage = Stage(layer, "frames", frames, there, None if seconds is None else 0.0)
        words = f"shards that {gpu} made" if gpu else "no shard of this detector by a GPU is in the ledger"
        return Forecast("annotate", (stage,), words, gpu=gpu, gpu_seconds=seconds)
    if not todo:
        return Forecast("annotate", (Stage(layer, "frames", 0, there, 0.0),), "nothing is left to do")
    pace, bytes_each, words = _tried(store, job)
    stage = pace.stage(layer, "frames", frames, there, frames, max(sizes[s] for s in todo))
    return Forecast("annotate", (stage,), words, _start_up(), round(frames * bytes_each), peak())


# How fast


@dataclass(frozen=True)
class _Pace:
    """Of a stage: seconds of CPUs, and of a clock by one worker, for a frame; and what each worker takes once."""

    cpu: float
    alone: float
    once: float = 0.0

    def stage(self, name: str, unit: str, todo: int, there: int, frames: int, longest: int) -> Stage:
        return Stage(name, unit, todo, there, frames * self.cpu, frames * self.alone, longest * self.alone, self.once)


@dataclass(frozen=True)
class _Rates:
    """Paces by stage: of `look through` for a frame that is decoded, of other stages for one that is kept."""

    paces: dict[str, _Pace]
    kept: float
    bytes: float
    source: str
    start: float
    memory: int | None = None


def _from_ledger(store: Store, lines: Sequence[Mapping[str, Any]]) -> _Rates | None:
    decoded = sum(line["frames"]["decoded"] for line in lines)
    receipts = store.logged("receipts")
    frames = sum(r["frames"] for r in receipts if r["task"] == "frames")
    if decoded < _ENOUGH or not frames:
        return None
    seconds = {"look through": sum(line["seconds"] for line in lines) / decoded}
    for receipt in receipts:
        stage = "frames" if receipt["task"] == "frames" else "layers"
        seconds[stage] = seconds.get(stage, 0.0) + sum(receipt["seconds"].values()) / frames
    written = sum(meta["bytes"] for r in receipts for meta in r["made"].values())
    kept = frames / decoded
    paces = {name: _Pace(each, each) for name, each in seconds.items()}
    return _Rates(paces, kept, written / frames, f"the ledger: {decoded:,} frames looked through", _start_up())


def _measured(fresh: Sequence[Input], options: Mapping[str, Any]) -> _Rates:
    """Work on parts of some inputs in a folder that is removed again."""
    chosen = [fresh[i] for i in np.unique(np.linspace(0, len(fresh) - 1, min(_PARTS, len(fresh))).astype(int))]
    with tempfile.TemporaryDirectory(prefix="remot-plan-") as folder:
        parts = [p for n, item in enumerate(chosen) if (p := _part(item.path, Path(folder, f"{n}.mp4"))) is not None]
        if not parts:
            raise ForecastError("no part of the inputs can be read: nothing can be measured")
        first, out = Path(folder, "first.mp4"), str(Path(folder, "store"))
        media.cut(parts[0], first, 0.0, min(0.5, media.probe(parts[0]).seconds))
        warm = build([first], str(Path(folder, "warm")), workers=0, **options)  # loads what is loaded once
        before = spent()
        done = build(parts, out, workers=0, **options)
        taken = spent() - before
        size = sum(p.stat().st_size for p in Path(out).rglob("*") if p.is_file() and "ledger" not in p.parts)
    counts = {"decoded": done.frames["decoded"], "kept": _written(done)}
    decoded, kept = counts["decoded"], counts["kept"]
    if not decoded:
        raise ForecastError("no part of the inputs can be read: nothing can be measured")
    whole = sum(done.seconds.values()) or 1.0
    paces = {}
    for name, seconds in done.seconds.items():
        which = "decoded" if name == "look through" else "kept"
        alone = seconds / max(counts[which], 1)
        begun = warm.frames["decoded"] if which == "decoded" else _written(warm)
        once = max(warm.seconds.get(name, 0.0) - alone * begun, 0.0)
        paces[name] = _Pace(alone * taken / whole, alone, once)
    words = f"measured here on {decoded} frames of {len(parts)} inputs"
    return _Rates(paces, kept / decoded, size / max(kept, 1), words, _start_up(), peak())


def _written(done: Summary) -> int:
    """Frames of clips: of several persons in a picture each has her own."""
    return int(done.person_frames.get("kept", done.frames["kept"]))


def _part(path: str, out: Path) -> Path | None:
    """Some seconds out of the middle of a video; None where it cannot be read."""
    try:
        seconds = in_child.probe(path).seconds
        start = max((seconds - _SECONDS) / 2, 0.0)
        in_child.cut(path, out, start, min(start + _SECONDS, seconds))
    except (media.VideoError, media.EncodeError, ChildError, ValueError):
        return None
    return out


def _frames_of(fresh: Sequence[Input], policy: Policy | None) -> tuple[int, int]:
    """How many frames the inputs have together, and the longest of them."""
    some = (
        [fresh[i] for i in np.unique(np.linspace(0, len(fresh) - 1, min(_PROBED, len(fresh))).astype(int))]
        if fresh
        else []
    )
    counts, sizes = [], []
    for item in some:
        try:
            counts.append(in_child.probe(item.path).frames)
            sizes.append(_size(item.path))
        except (media.VideoError, ChildError):
            continue
    if not counts:
        return 0, 0
    rest = sum(_size(item.path) for item in fresh) - sum(sizes)
    left = len(fresh) - len(some)
    return sum(counts) + (round(rest * sum(counts) / max(sum(sizes), 1)) if left else 0), max(counts)


def _size(path: str) -> int:
    if os.path.isdir(path):
        return sum(f.stat().st_size for f in Path(path).rglob("*") if f.is_file())
    return os.path.getsize(path) if os.path.exists(path) else 0


def _tried(store: Store, job: Job) -> tuple[_Pace, float, str]:
    """The pace of a detector, and bytes a frame, on the beginning of a clip."""
    with tempfile.TemporaryDirectory(prefix="remot-plan-") as folder:
        part = _beginning(store, str(Path(folder, "store")), job)
        began = time.monotonic()
        annotate_shard(part.url, 0, [job.to_json()], threads=1)  # loads what is loaded once
        between, before = time.monotonic(), spent()
        receipt = annotate_shard(part.url, 0, [job.to_json()], retry=True, threads=1)
        taken, seconds = spent() - before, time.monotonic() - between
    frames = max(receipt.frames, 1)
    pace = _Pace(taken / frames, seconds / frames, max(between - began - seconds, 0.0))
    return pace, receipt.made[job.folder]["bytes"] / frames, f"measured here on {receipt.frames} frames"


@lru_cache
def _start_up() -> float:
    """Seconds of a CPU that a process takes until it can work."""
    before = os.times()
    subprocess.run([sys.executable, "-c", "import dask.distributed, remot_data.ingest.build"], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def _beginning(store: Store, to: str, job: Job) -> Store:
    """A store of the first frames of one clip, with all that a job reads of them."""
    folders = [folder for kind, folder in job.reads.items() if kind != BOXES]
    whole = (c for c in store.clips if all(c.id in store.index(folder, c.shard).spans for folder in folders))
    if (clip := next(whole, None)) is None:
        raise ForecastError(f"{store.url} has no clip with all that {job.spec} reads: nothing can be measured")
    count = min(clip.frames, _FRAMES)
    part = create_store(to, {name: value for name, value in store.config.items() if name not in ("format", "seal")})
    first = replace(clip, pts=clip.pts[:count], shard=0)
    part.write_clips([first])
    for folder in folders:
        index = store.index(folder, clip.shard)
        start, stop = index.spans[clip.id]
        which, has = range(min(stop - start, count)), [ext for ext in index.offsets if index.has(clip.id, ext)]
        members = {ext: list(store.read_members(folder, clip, ext, which)) for ext in has}
        columns = {name: index.column(clip.id, name).tolist() for name in index.rows.column_names[4:]}
        samples = (
            Sample(first.key(t), {e: data[t] for e, data in members.items()}, {n: c[t] for n, c in columns.items()})
            for t in which
        )
        part.write_shard(folder, 0, samples)
    if (boxes := store.boxes(clip)) is not None:
        part.write_boxes(0, {clip.id: boxes})
    return part


def _of_cards(store: Store, job: Job) -> tuple[str, float | None]:
    """The card that made shards of this detector, and its seconds a frame; of the most frames."""
    by_card: dict[str, tuple[float, int]] = {}
    for receipt in store.logged("receipts"):
        for folder, meta in receipt["made"].items():
            if folder.startswith(f"layers/{job.kind}/{job.detector().name}-") and meta.get("gpu"):
                seconds, frames = by_card.get(meta["gpu"], (0.0, 0))
                by_card[meta["gpu"]] = seconds + receipt["seconds"].get(job.kind, 0.0), frames + receipt["frames"]
    if not by_card:
        return "", None
    card = max(by_card, key=lambda name: by_card[name][1])
    seconds, frames = by_card[card]
    return card, seconds / max(frames, 1)


def _is_current(store: Store, job: Job, shard: int) -> bool:
    return is_current(store.meta(job.folder, shard), metas(store, job.inputs, shard))


def peak() -> int:
    """Bytes that this process, or a child of it, has held at most."""
    return 1024 * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
