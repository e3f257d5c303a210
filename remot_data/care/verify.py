"""Checking a store against itself, every byte of it, and making again what is broken."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from remot_data.annotating.annotate import info, recorded_job, run_jobs
from remot_data.annotating.jobs import Job
from remot_data.care.card import PICTURE
from remot_data.detectors._torch import visible_gpus
from remot_data.detectors.base import DetectorError
from remot_data.engine import Engine, Progress, open_engine
from remot_data.ingest.build import write_frames
from remot_data.ingest.policy import Policy
from remot_data.media.identity import content_sha256
from remot_data.records import BOXES, Clip, LayerInfo, digest, is_sealed, layer_folder
from remot_data.store import Store, StoreError, index_name, open_store, shard_name, shards
from remot_data.store import layers as layer_kinds
from remot_data.store.boxes import of_clip, unpack
from remot_data.store.currency import changed, in_order, known_shards, metas, shards_of
from remot_data.store.disk import TEMPORARY
from remot_data.synthetic.store import check_version, draw_missing

log = logging.getLogger(__name__)

_SHARD = re.compile(r"(frames|layers/(\w+)/([^/]+))/shard-(\d+)\.(tar|parquet)")
_LAYER = re.compile(r"layers/(\w+)/([^/]+)/layer\.json")
_BOXES = re.compile(r"boxes/shard-(\d+)\.parquet")
_SEALED = re.compile(
    r"(ledger/)?store\.json|removed\.json|clips\.parquet|snapshots/[\w-]+\.json|ledger/\w+\.parquet|"
    f"{_BOXES.pattern}|{_LAYER.pattern}"
)
_CARD = ("README.md", "croissant.json", PICTURE)
_STRAY = "does not belong to this store"
_DAMAGED = "is damaged: its bytes are not those its seal was made for"


@dataclass(frozen=True)
class Problem:
    """What is wrong with one file of a store.

    `cure` names what `repair` does about it; empty: it can do nothing. A pointer is right again with what it points to.
    """

    name: str
    what: str
    cure: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.what}"


def verify(store: Store) -> Iterator[Problem]:
    """What is wrong with a store; nothing for a sound one. Reads every file once.

    Every file but the shards carries its own sha256; that of a shard is in its index.

    Raises:
        StoreError: where there is no store.
    """
    files = store.files.walk()
    if not {"store.json", "ledger/store.json"} & set(files):
        _ = store.config
    copies = ("store.json", "ledger/store.json")
    if any(name in files for name in copies):
        yield from (Problem(name, "is missing", "copy") for name in copies if name not in files)
    broken = {name for name in files if _SEALED.fullmatch(name) and not is_sealed(store.files.read(name))}
    yield from (Problem(name, _DAMAGED, _cure(name)) for name in sorted(broken))
    if "store.json" in broken or "store.json" not in files or "clips.parquet" in broken:
        return
    if "clips.parquet" not in files:
        yield Problem("clips.parquet", "is missing: the build did not finish; run it again", "clips" * bool(files))
        return
    folders = {"frames": None, **{i.folder: i for i in _layers(store, broken)}}
    yield from _strays(store, files, folders)
    indexes = (name for name in files if _SHARD.fullmatch(name) and name.endswith(".parquet"))
    whole = {name for name in indexes if is_sealed(store.files.read(name))}
    whole |= {name for name in files if _BOXES.fullmatch(name)} - broken
    yield from _boxes(store, files, whole)
    made = _made_shards(store, files, broken, folders)
    for folder, made_by in folders.items():
        counted = _counted(made_by)
        for shard in range(store.shard_count):
            if shard in made.get(folder, {shard}):
                yield from _shard(store, set(files), whole, folder, made_by, shard, counted)
    yield from _pointers(store, files, broken, folders)


def _made_shards(
    store: Store, files: Sequence[str], broken: set[str], folders: Mapping[str, LayerInfo | None]
) -> dict[str, set[int]]:
    """The shards that were ever made of layers that no snapshot needs: a store may have grown without these.

    By folder; only of those whose receipts are there and whole.
    """
    logs = [name for name in files if name.startswith("ledger/receipts/")]
    lines = [line for name in logs for line in store.files.read(name).split(b"\n")[:-1]]
    if any(n.startswith(("ledger/receipts", "snapshots/")) for n in broken) or not all(map(is_sealed, lines)):
        return {}
    todo = [layer_folder(*layer) for chosen in store.snapshots.values() for layer in chosen.layers.items()]
    needed: set[str] = {"frames"}
    while todo:
        if (folder := todo.pop()) not in needed:
            needed.add(folder)
            todo += found.reads.values() if (found := folders.get(folder)) else []
    known = known_shards(store)
    return {f: {*known[f], *store.present(f)} for f in folders if f not in needed and f in known}


def _cure(name: str) -> str:
    """What `repair` does about a damaged sealed file."""
    if name in ("store.json", "ledger/store.json"):
        return "copy"
    if name == "clips.parquet":
        return "clips"
    if _LAYER.fullmatch(name):
        return "layer"
    if _BOXES.fullmatch(name):
        return "boxes"
    return "forget" if name.startswith("ledger/") else ""


def _layers(store: Store, broken: Iterable[str]) -> list[LayerInfo]:
    """The layers whose description can be read."""
    names = [m for m in map(_LAYER.fullmatch, store.files.walk()) if m and m[0] not in broken]
    return [LayerInfo.from_json(json.loads(store.files.read(m[0]))) for m in names]


def _boxes(store: Store, files: Sequence[str], whole: set[str]) -> Iterator[Problem]:
    """Boxes that are missing, of other clips than those of their shard, or of no shard."""
    wanted = {index_name(BOXES, shard): shard for shard in range(store.shard_count if store.has_boxes else 0)}
    for name, shard in wanted.items():
        if name not in files:
            yield Problem(name, "is missing", "boxes")
        elif name in whole and store.shard_boxes(shard).keys() != {clip.id for clip in store.shard_clips(shard)}:
            yield Problem(name, "has other clips than clips.parquet says", "boxes")
    yield from (Problem(name, _STRAY, "remove") for name in files if _BOXES.fullmatch(name) and name not in wanted)


def _strays(store: Store, files: Sequence[str], folders: Mapping[str, Any]) -> Iterator[Problem]:
    """Files that belong nowhere, lines of the ledger that are damaged, layers without a description."""
    unfinished = set()
    for name in files:
        shard = _SHARD.fullmatch(name)
        if name.endswith(TEMPORARY):
            yield Problem(name, "was left by an interrupted write", "remove")
        elif shard and shard[1] not in folders:
            unfinished.add(shard[1])
        elif shard and int(shard[4]) >= store.shard_count:
            yield Problem(name, _STRAY, "remove")
        elif re.fullmatch(r"ledger/\w+/[^/]+\.jsonl", name):
            lines = store.files.read(name).split(b"\n")[:-1]
            if not all(map(is_sealed, lines)):
                yield Problem(name, "has damaged lines", "lines")
        elif not (shard or name in _CARD or _SEALED.fullmatch(name) or re.fullmatch(r"ledger/lock-.+\.json", name)):
            yield Problem(name, _STRAY)
    for folder in sorted(unfinished):
        if f"{folder}/layer.json" not in files:
            yield Problem(folder, "is unfinished: it has no layer.json; annotate it again or remove it", "layer")


def _shard(
    store: Store,
    files: set[str],
    whole: set[str],
    folder: str,
    made_by: LayerInfo | None,
    shard: int,
    counted: Sequence[bool],
) -> Iterator[Problem]:
    tar, index = shard_name(folder, shard), index_name(folder, shard)
    missing = [name for name in (tar, index) if name not in files]
    if missing:
        yield from (Problem(name, "is missing", "shard") for name in missing)
        return
    if index not in whole:
        yield Problem(index, _DAMAGED, "shard")
        return
    found = store.index(folder, shard)
    with store.files.open(tar) as file:
        yield from (Problem(tar, what, "shard") for what in shards.check(file, found.table))
    clips = store.shard_clips(shard)
    if found.meta["keys"] not in [digest(list(_keys(clips, once, found.meta["failed"]))) for once in counted]:
        yield Problem(tar, "has other keys than clips.parquet says", "shard")
    elif made_by is not None:
        stale = changed(found.meta, metas(store, made_by.inputs, shard)) if _sound(whole, made_by, shard) else []
        if stale:
            yield Problem(
                tar, f"is stale: it was made from other {', '.join(stale)}; annotate that layer again", "shard"
            )


def _sound(whole: set[str], made_by: LayerInfo, shard: int) -> bool:
    """Whether the indexes of what a layer reads are whole, so that it can be compared with them."""
    return all(index_name(folder, shard) in whole for folder in made_by.reads.values())


def _counted(made_by: LayerInfo | None) -> tuple[bool, ...]:
    """Whether a layer has one sample a clip; either may be where its kind cannot be had here."""
    try:
        return (made_by is not None and layer_kinds.kind(made_by.kind).per_clip,)
    except layer_kinds.LayerError:
        return True, False


def _keys(clips: Sequence[Clip], once: bool, failed: Mapping[str, str]) -> Iterator[str]:
    for clip in clips:
        if clip.id not in failed:
            yield from (clip.key(t) for t in range(1 if once else clip.frames))


def _pointers(
    store: Store, files: Sequence[str], broken: Iterable[str], folders: Mapping[str, Any]
) -> Iterator[Problem]:
    for name in files:
        if name.startswith("snapshots/") and name not in broken:
            for kind, layer_id in json.loads(store.files.read(name))["layers"].items():
                if layer_folder(kind, layer_id) not in folders:
                    yield Problem(name, f"names the {kind} layer {layer_id!r}, which is not there", "pointer")


# Repair


def repair(
    store: Store,
    problems: Sequence[Problem],
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Make again exactly what is broken; returns a sentence for each problem that it can do nothing about.

    Frames are decoded again from the source videos, layers computed again by the detector that made them, each only
    where it has the same content or fingerprint as before. Where that is done on another card than before, a warning
    says so.

    Raises:
        StoreError, EngineError, Busy: when it cannot run.
    """
    left = [f"{p} (nothing to make it from; put a copy back)" for p in problems if not p.cure]
    with store.lock():
        for problem in problems:
            if problem.cure in ("remove", "forget"):
                store.files.remove(problem.name)
            elif problem.cure == "lines":
                _mend_lines(store, problem.name)
            elif problem.cure == "copy":
                other = "store.json" if problem.name.startswith("ledger") else "ledger/store.json"
                left += _copy(store, other, problem.name)
        store = open_store(store.url)
        if any(p.cure == "clips" for p in problems):
            _mend_clips(store)
        left += _mend_boxes(store, problems)
        with open_engine(workers, scheduler, visible_gpus) as engine:
            left += _mend_shards(engine, store, problems, progress)
    return left


def _copy(store: Store, source: str, name: str) -> list[str]:
    data = store.files.read(source) if store.files.exists(source) else b""
    if not is_sealed(data):
        return [f"{name} cannot be made again: its copy {source} is damaged or missing too"]
    store.files.write(name, data)
    return []


def _mend_lines(store: Store, name: str) -> None:
    good = [line + b"\n" for line in store.files.read(name).split(b"\n")[:-1] if is_sealed(line)]
    store.files.write(name, b"".join(good))


def _mend_clips(store: Store) -> None:
    """Make clips.parquet again: which clips are where, the indexes of the frames tell; what they are, the ledger."""
    known = {c["id"]: c for line in store.logged("videos") for c in line["clips"]}
    clips = []
    for shard in sorted(store.present("frames")):
        for name in store.index("frames", shard).spans:
            if name not in known:
                raise StoreError(f"clips.parquet cannot be made again: the ledger does not know the clip {name}")
            clips.append(Clip.from_json({**known[name], "shard": shard}))
    store.write_clips(clips)


def _mend_boxes(store: Store, problems: Sequence[Problem]) -> list[str]:
    """Make boxes again out of what the ledger keeps of the looks at each video, and of whose clips they became."""
    left = []
    found = [_BOXES.fullmatch(p.name) for p in problems if p.cure == "boxes"]
    lines = [line for line in store.logged("videos") if line.get("looks")] if found else []
    known = {clip: (line["looks"], own) for line in lines for clip, own in line["own"].items()}
    for match in filter(None, found):
        clips = store.shard_clips(int(match[1]))
        if lost := [clip.id for clip in clips if clip.id not in known]:
            left.append(f"{match[0]} cannot be made again: the ledger does not tell who was seen around {lost[0]}")
            continue
        looks = {text: unpack(text) for text in {known[clip.id][0] for clip in clips}}
        told = ((clip, *known[clip.id]) for clip in clips)
        store.write_boxes(int(match[1]), {clip.id: of_clip(looks[text], clip, own) for clip, text, own in told})
    return left


def _mend_shards(engine: Engine, store: Store, problems: Sequence[Problem], progress: Progress | None) -> list[str]:
    broken: dict[str, set[int]] = {}
    for match in (_SHARD.fullmatch(p.name) for p in problems if p.cure == "shard"):
        if match:
            broken.setdefault(match[1], set()).add(int(match[4]))
    if "synthetic" in store.config:
        drawn = [name for name in broken if name == "frames" or "/synthetic-" in name]
        if drawn:
            check_version(store)
        for folder in drawn:
            for shard in broken.pop(folder):
                _discard(store, folder, shard)
        draw_missing(engine, store, progress)
    left = _mend_frames(engine, store, broken.pop("frames", set()), progress)
    wanted = {*broken, *(p.name.removesuffix("/layer.json") for p in problems if p.cure == "layer")}
    jobs, sentences = _jobs(store, wanted)
    for job in jobs:
        for shard in broken.get(job.folder, ()):
            _discard(store, job.folder, shard)
        run_jobs(engine, store, [job], progress)
        _say_of_other_gpus(store, job, broken.get(job.folder, set()))
    return left + sentences


def _say_of_other_gpus(store: Store, job: Job, repaired: Collection[int]) -> None:
    """Say where shards were made again by another card than the rest of their layer."""
    made = shards_of(store, job.folder, {})
    now = {made[shard].get("gpu", "") for shard in repaired if shard in made}
    before = {meta.get("gpu", "") for shard, meta in made.items() if shard not in repaired}
    if before and now - before:
        cards = [", ".join(sorted(name or "a CPU" for name in names)) for names in (now, before)]
        log.warning(
            "%s: %d shards were made again on %s, the others on %s: their values may differ in the last digits",
            *(job.folder, len(repaired), *cards),
        )


def _mend_frames(engine: Engine, store: Store, broken: set[int], progress: Progress | None) -> list[str]:
    if not broken:
        return []
    if "policy" not in store.config:
        names = (shard_name("frames", shard) for shard in sorted(broken))
        return [f"{name} cannot be made again: this store was not built from videos" for name in names]
    left = []
    for shard in sorted(broken):
        gone = [clip.path for clip in store.shard_clips(shard) if not _is_there(clip)]
        if gone:
            left.append(f"{shard_name('frames', shard)} cannot be made again: {gone[0]} is gone or has changed")
        else:
            _discard(store, "frames", shard)
    faults = write_frames(engine, store, Policy.from_json(store.config["policy"]), None, progress)
    return left + [f"clip {r.id} cannot be read again: {r.code} ({r.detail})" for r in faults.values()]


def _is_there(clip: Clip) -> bool:
    return os.path.exists(clip.path) and content_sha256(clip.path) == clip.sha256


def _discard(store: Store, folder: str, shard: int) -> None:
    """Take a shard away, index first: from then on it counts as missing."""
    store.files.remove(index_name(folder, shard))
    store.files.remove(shard_name(folder, shard))


def _jobs(store: Store, folders: Iterable[str]) -> tuple[list[Job], list[str]]:
    """The jobs that made these layers, in an order in which they can run; and sentences about those that cannot."""
    logged = {job["id"]: Job.from_json(job) for job in store.logged("jobs")}
    known = {i.folder: i for i in _layers(store, [n for n in store.files.walk() if _damaged(store, n)])}
    jobs, left = [], []
    for folder in sorted(folders):
        try:
            if folder in known:
                jobs.append(recorded_job(known[folder]))
            else:
                job = logged.get(folder.split("/")[2])
                if job is None:
                    raise StoreError("the ledger does not say which detector made it; annotate again, or remove it")
                _ = info(store, job)
                jobs.append(job)
        except (StoreError, DetectorError) as error:
            left.append(f"{folder} cannot be made again: {error}")
    return in_order(jobs), left


def _damaged(store: Store, name: str) -> bool:
    return bool(_LAYER.fullmatch(name)) and not is_sealed(store.files.read(name))
