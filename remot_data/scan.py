"""Looking through one video: its shots, the main person of each, and the clips or rejects that come of them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remot_data import people, video
from remot_data.detectors.base import file_sha256
from remot_data.inputs import Input
from remot_data.records import Clip, Record, Reject, Video


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


def stamp(path: str) -> str:
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
    line: dict[str, Any] = {"input": source.to_json(), "stamp": stamp(source.path), "video": None, "clips": []}
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
