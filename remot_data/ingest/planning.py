"""The plan of a store: which clips of what was looked through it has, in which shards, and who was seen around them."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from remot_data.ingest.duplicates import duplicates
from remot_data.ingest.policy import Policy
from remot_data.records import BOXES, Clip, Reject, Video
from remot_data.store import Store, StoreError, boxes
from remot_data.store.shards import table_bytes
from remot_data.store.tables import read_table, table

REJECTS = "ledger/rejects.parquet"


@dataclass(frozen=True)
class Plan:
    """All clips of the store with their shards, and what became of the inputs: rejects and sums of frames.

    `person_frames` counts a frame once for each person followed in it: seen = kept + refused, and refused by code.
    `moved` has the earlier paths of videos that came from another place this time, each with the new one.
    """

    clips: list[Clip]
    rejects: list[Reject]
    frames: dict[str, int]
    person_frames: dict[str, Any] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)


def plan(
    lines: Sequence[Mapping[str, Any]],
    policy: Policy,
    existing: Sequence[Clip] = (),
    earlier: Sequence[Mapping[str, Any]] = (),
    removed: Mapping[str, str] | None = None,
    faults: Mapping[str, Reject] | None = None,
) -> Plan:
    """Lay the clips of the inputs out over shards.

    Args:
        lines: what looking through each input gave.
        existing: clips that the store holds; they keep their shards, new ones go to new shards.
        earlier: what looking through other videos gave, at other times: those the store holds count for duplicates.
        removed: clips taken out by hand, with the reason.
        faults: clips whose frames could not be read when they were to be written.

    A video whose content was seen before is a duplicate, of what the store holds or of an earlier input. One that the
    store holds, and that is not among the inputs at its old place, has moved: its clips get the new path.
    """
    removed, faults = removed or {}, faults or {}
    lines, moved = _moved(lines, existing, earlier)
    existing = [dataclasses.replace(clip, path=moved.get(clip.path, clip.path)) for clip in existing]
    at = {clip.path for clip in existing}
    held = {clip.video for clip in existing}

    def holds(line: Mapping[str, Any]) -> bool:
        return bool(line["video"]) and line["video"]["id"] in held

    first = [line for line in earlier if holds(line)]
    first += [line for line in lines if holds(line) and line["input"]["path"] in at]
    kept = set(map(id, first))
    rest = [line for line in lines if id(line) not in kept]
    repeats = _repeats([*first, *rest], policy, len(first))
    clips, rejects = {clip.id: clip for clip in existing if clip.id not in faults}, []
    counts = dict.fromkeys(("decoded", "kept", "refused", "resampled"), 0)
    new: list[Clip] = []
    persons: Counter[str] = Counter()
    by_code: Counter[str] = Counter()
    for line in lines:
        if id(line) in repeats:
            video = Video.from_json(line["video"])
            rejects.append(Reject("video", video.id, video.path, "duplicate", repeats[id(line)], video.frames))
            counts["decoded"] += video.frames
            counts["refused"] += video.frames
            continue
        counts = {name: counts[name] + line["frames"][name] for name in counts}
        if of_persons := line.get("person_frames"):
            persons.update({name: of_persons[name] for name in ("seen", "kept")})
            by_code.update(of_persons["refused"])
        rejects += [Reject.from_json(r) for r in line["rejects"]]
        found = list(map(Clip.from_json, line["clips"]))
        gone = {
            c.id: faults.get(c.id) or Reject("clip", c.id, c.path, "removed", removed[c.id], c.frames)
            for c in found
            if c.id in removed or c.id in faults
        }
        # A frame is lost with the last of the clips that have it.
        left = {pts for clip in found if clip.id not in gone for pts in clip.pts} if len(found) > 1 and gone else set()
        for clip in found:
            if clip.id in gone:
                if persons:
                    persons["kept"] -= clip.frames
                    by_code[gone[clip.id].code] += clip.frames
                lost = set(clip.pts) - left
                left |= lost
                rejects.append(dataclasses.replace(gone[clip.id], frames=len(lost)))
                counts["kept"] -= len(lost)
                counts["refused"] += len(lost)
            elif clip.id not in clips:
                new.append(clip)
    start = 1 + max((clip.shard for clip in existing), default=-1)
    new = list(_laid_out(sorted(new, key=lambda c: c.place[1]), policy.shard_frames, start))
    of_persons = {**persons, "refused": dict(sorted(by_code.items()))} if persons else {}
    return Plan(sorted([*clips.values(), *new], key=lambda c: c.place), rejects, counts, of_persons, moved)


def _moved(
    lines: Sequence[Mapping[str, Any]], existing: Sequence[Clip], earlier: Sequence[Mapping[str, Any]]
) -> tuple[list[Mapping[str, Any]], dict[str, str]]:
    """The lines, and the old path -> new path of what the store holds and was found at another place.

    A video that was given another name has another id now: its line becomes that of the time when it was looked
    through under the old one, whose clips the store holds.
    """
    held = {clip.sha256: clip for clip in existing}
    known = {line["video"]["id"]: line for line in earlier if line["video"]}
    now = {line["input"]["path"] for line in lines}
    found: list[Mapping[str, Any]] = []
    moved: dict[str, str] = {}
    for line in lines:
        video, path = line["video"] or {}, line["input"]["path"]
        clip = held.get(video.get("sha256", ""))
        if clip is None or (clip.path in now and clip.path != path) or clip.path in moved:
            found.append(line)
            continue
        if video["id"] != clip.video:
            old = known.get(clip.video)
            if old is None or (clip.path != path and os.path.exists(clip.path)):
                found.append(line)
                continue
            line = {**moved_line(old, path), "input": line["input"], "stamp": line["stamp"]}
        if clip.path != path:
            moved[clip.path] = path
        found.append(line)
    return found, moved


def moved_line(line: Mapping[str, Any], path: str) -> dict[str, Any]:
    """What looking through a video gave, where the video lies at `path` now."""
    new = {**line, "input": {**line["input"], "path": path}}
    for name in ("clips", "rejects"):
        new[name] = [{**record, "path": path} for record in line[name]]
    if line["video"]:
        new["video"] = {**line["video"], "path": path}
    return new


def read_rejects(store: Store) -> list[Reject]:
    """What the store has noted as refused."""
    if not store.files.exists(REJECTS):
        return []
    return [Reject.from_json(row) for row in read_table(store.files.read(REJECTS)).to_pylist()]


def write_rejects(store: Store, rejects: Iterable[Reject]) -> None:
    """Note these as refused, in the place of what was noted before."""
    rows = sorted(rejects, key=lambda r: (r.path, r.id, r.code, r.detail))
    names = [f.name for f in dataclasses.fields(Reject)]
    columns = {name: [getattr(r, name) for r in rows] for name in names}
    schema = pa.schema([(name, pa.int64() if name == "frames" else pa.string()) for name in names])
    store.files.write(REJECTS, table_bytes(table(columns, schema)))


def _repeats(lines: Sequence[Mapping[str, Any]], policy: Policy, held: int) -> dict[int, str]:
    """id of a line -> what it repeats; the first `held` lines are in the store and repeat nothing."""
    pairs = duplicates(lines, policy.duplicates).items()
    return {id(lines[i]): f"the same {what} as {lines[j]['video']['path']}" for i, (j, what) in pairs if i >= held}


def _laid_out(clips: Iterable[Clip], shard_frames: int, start: int) -> Iterator[Clip]:
    shard, filled = start, 0
    for clip in clips:
        if filled and filled + clip.frames > shard_frames:
            shard, filled = shard + 1, 0
        filled += clip.frames
        yield dataclasses.replace(clip, shard=shard)


def write_boxes(store: Store, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write who was seen where for the clips of every shard that lacks it."""
    missing = sorted(set(range(store.shard_count)) - store.present(BOXES))
    if not missing:
        return
    of_video = {line["video"]["id"]: line for line in lines if line["video"] and line.get("looks")}
    for shard in missing:
        clips = store.shard_clips(shard)
        if unknown := sorted({clip.video for clip in clips} - of_video.keys()):
            raise StoreError(
                f"{store.url} has lost who was seen where in shard {shard}, and its ledger does not know the video "
                f"{unknown[0]}: put a copy of the ledger or of boxes/ back, or build it anew"
            )
        known = {clip.video: boxes.unpack(of_video[clip.video]["looks"]) for clip in clips}
        own = {clip.id: of_video[clip.video]["own"][clip.id] for clip in clips}
        store.write_boxes(shard, {c.id: boxes.of_clip(known[c.video], c, own[c.id]) for c in clips})
