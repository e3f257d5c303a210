"""From videos to a store: what the inputs are, looking through each, planning shards, writing frames.

Three passes: every video is looked through once (shots, the main person, one crop a clip), then the clips are
laid out over shards, then each shard's frames are decoded, cropped and written. The plan depends on the inputs
and the policy alone, so the number of workers and the order in which they finish leave no trace.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from remot_data import people, video
from remot_data.annotate import LEDGER, plan_jobs, run_jobs, switch
from remot_data.detectors.base import DEFAULTS, file_sha256
from remot_data.engine import Engine, Progress, open_engine
from remot_data.layers import frames as frames_layer
from remot_data.records import Clip, Receipt, Record, Reject, Video
from remot_data.shards import Sample, table_bytes
from remot_data.store import Store, StoreError, create_store

SCAN = "ledger/videos.jsonl"
# Files that lie beside videos and are not meant to be one.
_SIDECARS = frozenset(
    ".txt .md .json .jsonl .csv .tsv .yaml .yml .xml .html .pdf .srt .vtt .ass .py .sh .log .zip .tar .gz "
    ".jpg .jpeg .png .webp .parquet .npy .npz".split()
)


class InputError(ValueError):
    """Inputs that name no video, or a manifest that cannot be read."""


@dataclass(frozen=True)
class Policy(Record):
    """What decides how videos become clips; kept in ``store.json``.

    Attributes:
        size: height and width of the stored frames.
        fps: frames a second, chosen by time, or None for those of the source.
        margin: room around the union of the person's boxes, as a share of its height.
        min_frames, max_frames: a shorter shot is refused, a longer one becomes several clips of about equal length.
        min_height: least height of the person in source pixels.
        looks: times a second that persons are searched for.
        shard_frames: frames after which a shard is full.
        test: share of the videos whose split is ``test`` where a manifest does not say.
        decoder: ``pyav``, or ``decord`` for the files where it was proved to give the same frames.
    """

    size: tuple[int, int] = (256, 192)
    fps: float | None = None
    margin: float = 0.1
    min_frames: int = 16
    max_frames: int = 600
    min_height: int = 64
    looks: float = 5.0
    shard_frames: int = 4096
    test: float = 0.1
    decoder: str = "pyav"


@dataclass(frozen=True)
class Input(Record):
    """A file to build from, and what a manifest says of it."""

    path: str
    name: str = ""
    person: str = ""
    split: str = ""
    licence: str = ""
    url: str = ""


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


# Inputs


def find_inputs(videos: Any) -> tuple[list[Input], int]:
    """Every file to build from, in a fixed order, and how many other files of the folders were passed over.

    Raises:
        InputError: for a path that is not there, a manifest that cannot be read, or when nothing is left.
    """
    several = [videos] if isinstance(videos, (str, os.PathLike)) else list(videos)
    found: dict[str, Input] = {}
    ignored = 0
    for path in map(Path, several):
        if path.is_dir():
            files = [p for p in _walk(path) if p.is_file()]
            wanted = [p for p in files if p.suffix.lower() not in _SIDECARS]
            ignored += len(files) - len(wanted)
            items = [Input(_printable(p.absolute())) for p in wanted]
        elif path.suffix in (".yaml", ".yml"):
            items = read_manifest(path)
        elif path.exists():
            items = [Input(str(path.absolute()))]
        else:
            raise InputError(f"{path} does not exist")
        found.update((item.path, item) for item in items)
    if not found:
        raise InputError(f"no file to build from in {', '.join(map(str, several))} ({ignored} others passed over)")
    return [found[path] for path in sorted(found)], ignored


def _printable(path: Path) -> str:
    """The path as text that can be stored; a name that is not UTF-8 is changed, and then refused as unreadable."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield from (Path(root, name) for name in sorted(files) if not name.startswith("."))


def read_manifest(path: Path) -> list[Input]:
    """The inputs of a manifest: ``root``, shared fields, and ``videos`` with a ``path`` or ``asset`` each.

    Raises:
        InputError: for a file that is not such a manifest; names the entry.
    """
    try:
        content = yaml.safe_load(path.read_text())
        entries = content["videos"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no manifest with a list of 'videos' ({error!r})") from error
    root = (path.parent / content.get("root", ".")).absolute()
    shared = {k: content[k] for k in ("licence", "url", "split") if k in content}
    names = {f.name for f in dataclasses.fields(Input)} - {"path"}
    inputs = []
    for number, entry in enumerate(entries):
        entry = {"path": entry} if isinstance(entry, str) else dict(entry)
        known = {k: str(v) for k, v in {**shared, **entry}.items() if k in names}
        if "asset" in entry:
            from remot_data.assets import fetch

            inputs.append(Input(str(fetch(entry["asset"])), **{"name": entry["asset"], **known}))
        elif "path" in entry:
            inputs.append(Input(str(root / entry["path"]), **known))
        else:
            raise InputError(f"{path}: entry {number} of 'videos' has neither 'path' nor 'asset'")
    return inputs


# Looking through


def scan_all(
    engine: Engine, store: Store, inputs: Sequence[Input], policy: Policy, progress: Progress | None
) -> list[dict[str, Any]]:
    """What each input holds, in the order of the inputs; those looked through before come from the ledger."""
    known = {(line["input"]["path"], line["stamp"]): line for line in store.read_lines(SCAN)}
    wanted = {item.path: (item.path, _stamp(item.path)) for item in inputs}
    fresh = [i for i in inputs if known.get(wanted[i.path], {}).get("input") != i.to_json()]
    tasks = [{"item": item.to_json(), "policy": policy.to_json()} for item in fresh]
    for done, line in enumerate(engine.map(scan, tasks, "look through"), 1):
        store.append_lines(SCAN, [line])
        known[line["input"]["path"], line["stamp"]] = line
        if progress:
            progress("look through", done, len(tasks))
    return [known[wanted[item.path]] for item in inputs]


def _stamp(path: str) -> str:
    """Changes when the file does."""
    try:
        status = os.stat(path)
    except OSError:
        return "absent"
    return f"{status.st_size}-{status.st_mtime_ns}"


def scan(item: Mapping[str, Any], policy: Mapping[str, Any]) -> dict[str, Any]:
    """The task: look through one input. Returns plain values: input, video, clips, rejects, frames, seconds."""
    started = time.monotonic()
    source, rules = Input.from_json(item), Policy.from_json(policy)
    line: dict[str, Any] = {"input": source.to_json(), "stamp": _stamp(source.path), "video": None, "clips": []}
    try:
        found, clips, rejects, counts = _look_through(source, rules)
        line.update(video=found.to_json(), clips=[c.to_json() for c in clips], frames=counts)
    except video.VideoError as error:
        rejects = [Reject("video", Path(source.path).name, source.path, error.code, error.detail)]
        line["frames"] = {"decoded": 0, "kept": 0, "refused": 0, "resampled": 0}
    line.update(rejects=[r.to_json() for r in rejects], seconds=round(time.monotonic() - started, 3))
    return line


def _look_through(source: Input, policy: Policy) -> tuple[Video, list[Clip], list[Reject], dict[str, int]]:
    seen = people.watch(source.path, rate=policy.looks)
    probe, pts = seen.probe, seen.pts
    found = _describe(source, probe, pts)
    times = np.array(pts) * (probe.time_base[0] / probe.time_base[1])
    picked = np.zeros(len(pts), bool)
    picked[video.pick(times, policy.fps)] = True
    clips, rejects, refused = _clips(found, seen.shots, seen.looks, pts, picked, policy)
    clips = [dataclasses.replace(c, crop=video.round_crop(c.crop, probe)) for c in clips]
    kept = sum(c.frames for c in clips)
    counts = {"decoded": len(pts), "kept": kept, "refused": refused, "resampled": len(pts) - kept - refused}
    return found, clips, rejects, counts


def _describe(source: Input, probe: Any, pts: Sequence[int]) -> Video:
    sha = file_sha256(source.path)
    stem = re.sub(r"[^a-z0-9]+", "-", (source.name or Path(source.path).stem).lower()).strip("-")[:32] or "video"
    seconds = (pts[-1] - pts[0]) * probe.time_base[0] / probe.time_base[1]
    return Video(
        id=f"{stem}-{sha[:8]}",
        path=source.path,
        sha256=sha,
        size=probe.size,
        frames=len(pts),
        seconds=round(seconds, 4),
        fps=round((len(pts) - 1) / seconds, 4) if seconds > 0 else 0.0,
        time_base=tuple(probe.time_base),
        codec=probe.codec,
        rotation=probe.rotation,
        licence=source.licence,
        url=source.url,
        person=source.person,
        split=source.split,
    )


def _clips(
    found: Video,
    shots: Sequence[tuple[int, int]],
    looks: Sequence[Sequence[people.Person]],
    pts: Sequence[int],
    picked: np.ndarray,
    policy: Policy,
) -> tuple[list[Clip], list[Reject], int]:
    """Clips of one video, what was refused, and how many picked frames that are."""
    clips: list[Clip] = []
    rejects: list[Reject] = []
    too_short = "too-short" if len(shots) == 1 else "shot-too-short"
    for number, (start, stop) in enumerate(shots):
        name = f"{found.id}-{number:03d}"

        def refuse(code: str, span: tuple[int, int], detail: str, name: str = name) -> None:
            lost = int(picked[span[0] : span[1]].sum())
            if lost:
                rejects.append(Reject("shot", name, found.path, code, detail, lost))

        track = people.main_track([[p for p in look if start <= p.frame < stop] for look in looks])
        if not track:
            refuse("no-person", (start, stop), f"frames {start} to {stop - 1}")
            continue
        tall = float(np.median([people.height(p.box) for p in track]))
        if tall < policy.min_height:
            refuse("person-too-small", (start, stop), f"{tall:.0f} pixels high, {policy.min_height} asked for")
            continue
        first, last = _span(track, (start, stop), max(1, round(found.fps / policy.looks)))
        refuse("no-person", (start, first), f"frames {start} to {first - 1}, before the person is seen")
        refuse("no-person", (last, stop), f"frames {last} to {stop - 1}, after the person is last seen")
        numbers = first + np.flatnonzero(picked[first:last])
        if len(numbers) < policy.min_frames:
            refuse(too_short, (first, last), f"{len(numbers)} frames, {policy.min_frames} asked for")
            continue
        parts = np.array_split(numbers, -(-len(numbers) // policy.max_frames))
        clips += [_clip(found, number, i, part, track, pts, policy) for i, part in enumerate(parts)]
    return clips, rejects, sum(r.frames for r in rejects)


def _span(track: Sequence[people.Person], shot: tuple[int, int], gap: int) -> tuple[int, int]:
    """First frame and one past the last of a track: to the end of the shot where no look in between missed it."""
    first = shot[0] if track[0].frame - shot[0] <= gap else track[0].frame
    last = shot[1] if shot[1] - track[-1].frame <= gap + 1 else track[-1].frame + 1
    return first, last


def _clip(
    found: Video,
    shot: int,
    part: int,
    numbers: np.ndarray,
    track: Sequence[people.Person],
    pts: Sequence[int],
    policy: Policy,
) -> Clip:
    near = found.fps / policy.looks + 1
    boxes = [p.box for p in track if numbers[0] - near <= p.frame <= numbers[-1] + near]
    crop = people.crop(boxes, found.size, policy.size[1] / policy.size[0], policy.margin)
    base = found.time_base[0] / found.time_base[1]
    seconds = (pts[numbers[-1]] - pts[numbers[0]]) * base
    group = found.person or found.id
    chance = int(hashlib.sha256(group.encode()).hexdigest()[:8], 16) / 2**32
    return Clip(
        id=f"{found.id}-{shot:03d}-{part:02d}",
        video=found.id,
        path=found.path,
        sha256=found.sha256,
        shot=shot,
        pts=tuple(int(pts[i]) for i in numbers),
        time_base=found.time_base,
        fps=round((len(numbers) - 1) / seconds, 4) if seconds > 0 else 0.0,
        source_size=found.size,
        crop=crop,
        person=found.person or f"{found.id}-{shot:03d}",
        split=found.split or ("test" if chance < policy.test else "train"),
        licence=found.licence,
        url=found.url,
    )


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
    if _sha256(clip.path, _stamp(clip.path)) != clip.sha256:
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
