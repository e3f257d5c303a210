"""Looking through one video: its shots, the main person of each, and the clips or rejects that come of them.

The work is done in a child process that can be killed. What is refused here is lost to the store, so every bound of
`Policy` is for what is hopeless; whoever wants less than all that is left filters by scores when reading.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from remot_data import media, persons
from remot_data.detectors.base import DetectorError
from remot_data.ingest import people
from remot_data.ingest.duplicates import signature
from remot_data.ingest.inputs import Input
from remot_data.ingest.policy import Policy
from remot_data.media import sandbox
from remot_data.media.identity import hashing, stamp
from remot_data.records import WH, XYWH, XYXY, Clip, Reject, Video

# The task and its child


def scan(
    item: Mapping[str, Any],
    policy: Mapping[str, Any],
    limits: Mapping[str, Any] | None = None,
    seen: str | None = None,
    finder: str | None = None,
) -> dict[str, Any]:
    """The task: look through one input.

    Args:
        item, policy: an `Input` and a `Policy` as JSON.
        limits: what it may take, `sandbox.Limits` as JSON.
        seen: the `stamp` of the file where the task was made.
        finder: what finds the persons, see `people.open_finder`; its fingerprint is that of the policy.

    Returns:
        Plain values: input, stamp, video, clips, rejects, frames, signature, seconds.

    Raises:
        RuntimeError: the file cannot be seen here but could be there, or no child process can be started.
        DetectorError, AssetError: persons cannot be looked for on this machine.
    """
    started = time.monotonic()
    source = Input.from_json(item)
    line: dict[str, Any] = {"input": source.to_json(), "stamp": seen or stamp(source.path)}
    refusal = (source.refused, source.detail) if source.refused else _closed(source.path, seen)
    if refusal:
        line.update(_refused(source, *refusal))
    else:
        people.prepare(finder, policy.get("finder"))
        line.update(_looked_through(source, policy, sandbox.Limits.from_json(limits or {}), finder))
    line["seconds"] = round(time.monotonic() - started, 3)
    return line


def _closed(path: str, seen: str | None) -> tuple[str, str] | None:
    """Code and detail of a path that is not to be opened."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        if seen not in (None, "absent"):
            raise RuntimeError(
                f"this worker does not see {path} ({error}), though the build does: give all machines the same file "
                "system, at the same place"
            ) from error
        return None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return "unsafe-path", f"{path} is a pipe, a socket or a device, not a file"
    return None


def _refused(source: Input, code: str, detail: str) -> dict[str, Any]:
    reject = Reject("video", Path(source.path).name, source.path, code, detail)
    frames = dict.fromkeys(("decoded", "kept", "refused", "resampled"), 0)
    return {"video": None, "clips": [], "rejects": [reject.to_json()], "frames": frames, "signature": ""}


def _looked_through(
    source: Input, policy: Mapping[str, Any], limits: sandbox.Limits, finder: str | None
) -> dict[str, Any]:
    """The part of the line that the child makes, or that of the reject it ended with."""
    arguments = {"item": source.to_json(), "policy": dict(policy), "finder": finder}
    try:
        *_, (last, _) = sandbox.call("remot_data.ingest.scan:looking", arguments, limits)
        return last["line"]
    except (sandbox.ChildError, media.VideoError) as error:
        return _refused(source, error.code, error.detail)
    except DetectorError as error:
        return _refused(source, "detector-failed", str(error))


def looking(
    item: Mapping[str, Any], policy: Mapping[str, Any], finder: str | None = None
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """What the child does: signs of life, and last the line with video, clips, rejects, frames and signature.

    Raises:
        VideoError, DetectorError: what the video is refused for.
    """
    cv2.setNumThreads(1)
    steps = _look_through(Input.from_json(item), Policy.from_json(policy), finder)
    while True:
        try:
            yield {"frames": next(steps)}, b""
        except StopIteration as end:
            yield {"line": end.value}, b""
            return


def _look_through(source: Input, policy: Policy, finder: str | None = None) -> Generator[int, None, dict[str, Any]]:
    probe = media.probe(source.path, source.fps)
    yield 0
    if probe.size[1] < policy.min_height:
        detail = f"the picture is {probe.size[0]}x{probe.size[1]}, a person has to be {policy.min_height} pixels high"
        raise media.VideoError("too-small", detail)
    seen = yield from people.watching(source.path, probe=probe, rate=policy.looks, fps=source.fps, finder=finder)
    try:
        sha = yield from hashing(source.path)
    except OSError as error:
        raise media.VideoError("unreadable", f"{source.path}: {error}") from error
    found = _describe(source, seen, sha)
    clips, rejects, frames = judge(found, seen, policy)
    return {
        "video": found.to_json(),
        "clips": [c.to_json() for c in clips],
        "rejects": [r.to_json() for r in rejects],
        "frames": frames,
        "signature": signature(seen.moments, probe.seconds, probe.size),
    }


def _describe(source: Input, seen: people.Watched, sha: str) -> Video:
    probe, pts = seen.probe, seen.pts
    stem = re.sub(r"[^a-z0-9]+", "-", (source.name or Path(source.path).stem).lower()).strip("-")[:32] or "video"
    seconds = int(pts[-1] - pts[0]) * probe.time_base[0] / probe.time_base[1]
    return Video(
        id=f"{stem}-{sha[:8]}",
        path=source.path,
        sha256=sha,
        size=probe.size,
        frames=len(pts),
        seconds=round(seconds, 4),
        fps=round((len(pts) - 1) / seconds, 4) if seconds > 0 else 0.0,
        time_base=probe.time_base,
        codec=probe.codec,
        rotation=probe.rotation,
        licence=source.licence,
        url=source.url,
        person=source.person,
        split=source.split,
    )


# Judging


def judge(found: Video, seen: people.Watched, policy: Policy) -> tuple[list[Clip], list[Reject], dict[str, int]]:
    """Clips and rejects of a video that was looked through, and the sums of its frames.

    Decoded = kept + refused + resampled (left out by the frame rate). A reject is of a shot, or of the span of it
    that its detail names.
    """
    times = seen.pts * (seen.probe.time_base[0] / seen.probe.time_base[1])
    picked = np.zeros(len(times), bool)
    picked[media.pick(times, policy.fps)] = True
    shots = [_Shot(found, seen, picked, policy, number) for number in range(len(seen.shots))]
    for shot in shots:
        shot.judge()
    clips = [clip for shot in shots for clip in shot.clips]
    rejects = [reject for shot in shots for reject in shot.rejects]
    kept, refused = sum(c.frames for c in clips), sum(r.frames for r in rejects)
    counts = {"decoded": len(times), "kept": kept, "refused": refused, "resampled": len(times) - kept - refused}
    return clips, rejects, counts


class _Shot:
    """One shot and what comes of it: clips and rejects, which together have all its picked frames."""

    def __init__(self, found: Video, seen: people.Watched, picked: np.ndarray, policy: Policy, number: int) -> None:
        self.found, self.seen, self.picked, self.policy, self.number = found, seen, picked, policy, number
        self.span = seen.shots[number]
        self.clips: list[Clip] = []
        self.rejects: list[Reject] = []

    def judge(self) -> None:
        looks = self._looks(*self.span)
        track = persons.main_track([self.seen.looks[i] for i in looks])
        if not track:
            return self._refuse("no-person", self.span, f"nobody in {len(looks)} looks")
        tall = float(np.median([persons.height(p.box) for p in track]))
        if tall < self.policy.min_height:
            detail = f"{tall:.0f} pixels high, {self.policy.min_height} asked for"
            return self._refuse("person-too-small", self.span, detail)
        first, last = _span(track, self.span, [self.seen.at[i] for i in looks])
        numbers = self._picked(first, last)
        few = len(numbers) < self.policy.min_frames
        if few and len(self._picked(*self.span)) >= self.policy.min_frames:
            somebody = sum(bool(self.seen.looks[i]) for i in looks)
            if somebody < self.policy.min_seen * len(looks):
                return self._refuse("occluded", self.span, _seen_in(somebody, len(looks), self.policy))
        self._refuse("no-person", (self.span[0], first), "before the person is seen")
        self._refuse("no-person", (last, self.span[1]), "after the person is last seen")
        if few:
            code = "too-short" if len(self.seen.shots) == 1 else "shot-too-short"
            return self._refuse(code, (first, last), f"{len(numbers)} frames, {self.policy.min_frames} asked for")
        for part, chosen in enumerate(np.array_split(numbers, -(-len(numbers) // self.policy.max_frames))):
            self._judge_part(part, chosen, track)

    def _judge_part(self, part: int, numbers: np.ndarray, track: Sequence[persons.Person]) -> None:
        # From the look before the first frame to that after the last: the person is somewhere between them.
        before, after = np.searchsorted(self.seen.at, (numbers[0], numbers[-1] + 1)) + (-1, 0)
        bounds = self.seen.at[max(before, 0)], self.seen.at[min(after, len(self.seen.at) - 1)]
        around = [p for p in track if bounds[0] <= p.frame <= bounds[1]]
        around = around or [min(track, key=lambda p: abs(p.frame - numbers[len(numbers) // 2]))]
        aspect = self.policy.size[1] / self.policy.size[0]
        crop = persons.crop([p.box for p in around], self.found.size, aspect, self.policy.margin)
        fault = self._fault(numbers, track, around, crop)
        if fault:
            self._refuse(fault[0], (int(numbers[0]), int(numbers[-1]) + 1), fault[1])
        else:
            self.clips.append(self._clip(part, numbers, crop))

    def _fault(
        self, numbers: np.ndarray, track: Sequence[persons.Person], around: Sequence[persons.Person], crop: XYWH
    ) -> tuple[str, str] | None:
        """Code and detail of what makes these frames hopeless."""
        policy, seen = self.policy, self.seen
        looks = self._looks(int(numbers[0]), int(numbers[-1]) + 1)
        main = {p.frame: p for p in track}
        present = [i for i in looks if seen.at[i] in main]
        if len(present) < policy.min_seen * len(looks):
            return "occluded", _seen_in(len(present), len(looks), policy)
        base = self.found.time_base[0] / self.found.time_base[1]
        lasts = float(seen.pts[numbers[-1]] - seen.pts[numbers[0]]) * base
        moved = motion(seen.cells[looks], crop, self.found.size) if lasts >= 1.0 and len(looks) > 1 else np.inf
        if moved < policy.min_motion:
            return "static", f"nothing changes by more than {moved:.0f} grey levels, at least {policy.min_motion:g}"
        sharp = float(np.median([p.sharpness for p in around]))
        if sharp < policy.min_sharpness:
            return "blurred", f"sharpness {sharp:.3f}, at least {policy.min_sharpness:g}"
        crowded = sum(_others_in(crop, main[seen.at[i]], seen.looks[i]) for i in present)
        if crowded > max(1, policy.max_others * len(present)):
            share = f"{crowded / len(present):.0%} of {len(present)} looks"
            return "several-persons", f"somebody else stands in the crop in {share}, at most {policy.max_others:.0%}"
        return None

    def _looks(self, start: int, stop: int) -> list[int]:
        """Numbers of the looks at frames start to stop - 1."""
        return list(range(*np.searchsorted(self.seen.at, (start, stop)).tolist()))

    def _picked(self, start: int, stop: int) -> np.ndarray:
        return start + np.flatnonzero(self.picked[start:stop])

    def _refuse(self, code: str, span: tuple[int, int], detail: str) -> None:
        lost = len(self._picked(*span))
        if lost:
            where = f"frames {span[0]} to {span[1] - 1}: {detail}"
            name = f"{self.found.id}-{self.number:03d}"
            self.rejects.append(Reject("shot", name, self.found.path, code, where, lost))

    def _clip(self, part: int, numbers: np.ndarray, crop: XYWH) -> Clip:
        found, pts = self.found, self.seen.pts[numbers]
        seconds = int(pts[-1] - pts[0]) * (found.time_base[0] / found.time_base[1])
        chance = int(hashlib.sha256((found.person or found.id).encode()).hexdigest()[:8], 16) / 2**32
        return Clip(
            id=f"{found.id}-{self.number:03d}-{part:02d}",
            video=found.id,
            path=found.path,
            sha256=found.sha256,
            shot=self.number,
            pts=pts,
            time_base=found.time_base,
            fps=round((len(pts) - 1) / seconds, 4) if seconds > 0 else 0.0,
            source_size=found.size,
            crop=media.round_crop(crop, self.seen.probe),
            person=found.person or f"{found.id}-{self.number:03d}",
            split=found.split or ("test" if chance < self.policy.test else "train"),
            licence=found.licence,
            url=found.url,
        )


def _span(track: Sequence[persons.Person], shot: tuple[int, int], at: Sequence[int]) -> tuple[int, int]:
    """First frame and one past the last of a track; `at` are the frames of the looks at the shot.

    To the end of the shot where no later look missed the person, from its beginning where one earlier look did at most.
    """
    first = shot[0] if track[0].frame <= at[:2][-1] else track[0].frame
    last = shot[1] if track[-1].frame == at[-1] else track[-1].frame + 1
    return first, last


def _seen_in(present: int, looks: int, policy: Policy) -> str:
    return f"the person is found in {present} of {looks} looks, at least {policy.min_seen:.0%}"


def _others_in(crop: XYWH, main: persons.Person, look: Sequence[persons.Person]) -> bool:
    """Whether somebody else, at least half as tall as the main person, stands for the most part in the crop."""
    inside = XYXY((crop[0], crop[1], crop[0] + crop[2], crop[1] + crop[3]))
    tall = persons.height(main.box) / 2
    return any(p != main and persons.height(p.box) >= tall and persons.share(p.box, inside) > 0.5 for p in look)


def motion(cells: np.ndarray, crop: XYWH, size: WH) -> float:
    """How much the most changing part of a crop changes: the range of a cell's grey level over all looks.

    Args:
        cells: uint8 [looks, 32, 32], a grid over a picture of `size`.
        crop: in that picture.
    """
    rows, columns = cells.shape[1:]
    x0, x1 = _cell_span(crop[0], crop[2], columns / size[0], columns)
    y0, y1 = _cell_span(crop[1], crop[3], rows / size[1], rows)
    return float(np.ptp(cells[:, y0:y1, x0:x1].astype(np.int16), axis=0).max())


def _cell_span(start: float, extent: float, scale: float, count: int) -> tuple[int, int]:
    first = min(max(int(start * scale), 0), count - 1)
    return first, max(min(int(np.ceil((start + extent) * scale)), count), first + 1)
