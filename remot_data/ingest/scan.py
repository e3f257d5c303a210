"""Looking through one video: its shots, the persons in each, and the clips or rejects that come of them.

The work is done in a child process that can be killed. What is refused here is lost to the store, so every bound of
`Policy` is for what is hopeless; whoever wants less than all that is left filters by scores when reading.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2

from remot_data import media
from remot_data.detectors.base import DetectorError
from remot_data.ingest import cuts, people
from remot_data.ingest.duplicates import signature, signature_with_persons
from remot_data.ingest.inputs import Input
from remot_data.ingest.judging import judge
from remot_data.ingest.policy import Policy
from remot_data.media import in_child, sandbox
from remot_data.media.identity import checked, hashing, stamp
from remot_data.records import Reject, Video

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
        Plain values: input, stamp, video, clips, rejects, frames, signature, seconds; `notes` where there are some, of
        what was left out of the video.

    Raises:
        RuntimeError: the file cannot be seen here but could be there, or no child process can be started.
        DetectorError, DeviceError, AssetError: persons cannot be looked for on this machine.
    """
    started = time.monotonic()
    source = Input.from_json(item)
    line: dict[str, Any] = {"input": source.to_json(), "stamp": seen or stamp(source.path)}
    refusal = (source.refused, source.detail) if source.refused else _closed(source.path, seen)
    if refusal:
        line.update(_refused(source, *refusal))
    else:
        people.prepare(finder, policy.get("finder"))
        cuts.prepare(policy.get("shots"))
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
    source = Input.from_json(item)
    steps = checked(source.path, _look_through(source, Policy.from_json(policy), finder), 0)
    with in_child.kept() as said:
        while True:
            try:
                yield {"frames": next(steps)}, b""
            except StopIteration as end:
                notes = list(dict.fromkeys(words for _, words in said))
                yield {"line": {**end.value, **({"notes": notes} if notes else {})}}, b""
                return


def _look_through(source: Input, policy: Policy, finder: str | None = None) -> Generator[int, None, dict[str, Any]]:
    probe = media.probe(source.path, source.fps, policy.times)
    yield 0
    if probe.size[1] < policy.min_height:
        detail = f"the picture is {probe.size[0]}x{probe.size[1]}, a person has to be {policy.min_height} pixels high"
        raise media.VideoError("too-small", detail)
    seen = yield from people.watching(
        source.path,
        probe=probe,
        rate=policy.looks,
        fps=source.fps,
        finder=finder,
        dense=policy.persons is not None,
        times=policy.times,
        shots=policy.shots,
    )
    try:
        sha = yield from hashing(source.path)
    except OSError as error:
        raise media.VideoError("unavailable", f"{source.path}: {error}") from error
    found = _describe(source, seen, sha)
    judged = judge(found, seen, policy)
    return {
        "video": found.to_json(),
        "clips": [c.to_json() for c in judged.clips],
        "rejects": [r.to_json() for r in judged.rejects],
        "frames": judged.frames,
        **judged.persons,
        "signature": signature_with_persons(seen)
        if policy.duplicates == "persons"
        else signature(seen.moments, probe.seconds, probe.size),
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
