"""What comes of a video that was looked through: clips, rejects, the sums of its frames, and who was where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from remot_data import media
from remot_data.ingest import people, tracking
from remot_data.ingest.everybody import Everybody
from remot_data.ingest.main_person import MainPerson
from remot_data.ingest.policy import Policy
from remot_data.ingest.shots import Shot
from remot_data.records import Clip, Reject, Video


@dataclass(frozen=True)
class Judged:
    """Clips, rejects and the sums of frames of a video.

    `persons` is empty in a store that does not follow them, or holds plain values: ``shots``, spans of frames;
    ``tracks``, each with its shot, number, rank in the shot (0 is the main person), what she is called, and parts
    (start, stop, clip id or code, detail); ``looks``, see `remot_data.store.boxes.pack`; ``own``, clip id -> number
    of the track; ``person_frames``, how many were seen, kept and refused, by code.
    """

    clips: list[Clip]
    rejects: list[Reject]
    frames: dict[str, int]
    persons: dict[str, Any] = field(default_factory=dict)


def judge(found: Video, seen: people.Watched, policy: Policy) -> Judged:
    """Judge a video.

    Decoded = kept + refused + resampled (left out by the frame rate), where a frame is kept if it is in any clip. A
    reject is of a shot, or of the span of it that its detail names.
    """
    times = seen.pts * (seen.probe.time_base[0] / seen.probe.time_base[1])
    picked = np.zeros(len(times), bool)
    picked[media.pick(times, policy.fps)] = True
    kind = MainPerson if policy.persons is None else Everybody
    shots = [kind(found, seen, picked, policy, number) for number in range(len(seen.shots))]
    number = others = 0
    for shot in shots:
        if isinstance(shot, Everybody):
            shot.follow(number, others)
            number += len(shot.followed)
            others += max(len(shot.followed) - 1, 0)
        shot.judge()
    clips = [clip for shot in shots for clip in shot.clips]
    rejects = [reject for shot in shots for reject in shot.rejects] + _transitions(found, seen, picked)
    refused = sum(r.frames for r in rejects)
    kept = int(picked.sum()) - refused
    counts = {"decoded": len(times), "kept": kept, "refused": refused, "resampled": len(times) - kept - refused}
    return Judged(clips, rejects, counts, _persons(seen, shots) if policy.persons is not None else {})


def _transitions(found: Video, seen: people.Watched, picked: np.ndarray) -> list[Reject]:
    """A reject for each transition, under the number of the shot before it."""
    made = []
    for start, stop in seen.transitions:
        lost, number = int(picked[start:stop].sum()), max(0, sum(a < start for a, _ in seen.shots) - 1)
        if lost:
            where = "before the first shot" if not start else "between two shots"
            where = where if stop < len(picked) else "after the last shot"
            detail = f"frames {start} to {stop - 1}: {where}"
            made.append(Reject("shot", f"{found.id}-{number:03d}", found.path, "transition", detail, lost))
    return made


def _persons(seen: people.Watched, shots: Sequence[Shot]) -> dict[str, Any]:
    followed = [(shot, one) for shot in shots if isinstance(shot, Everybody) for one in shot.followed]
    number = {id(p): one.number for _, one in followed for p in one.track.seen}
    kept, refused = 0, Counter[str]()
    for shot in shots:
        if isinstance(shot, Everybody):
            some, others = shot.person_frames()
            kept, refused = kept + some, refused + others
    return {
        "shots": [list(span) for span in seen.shots],
        "tracks": [
            {
                "shot": shot.number,
                "number": one.number,
                "rank": one.rank,
                "person": one.person,
                "parts": [part.to_json() for part in one.parts],
            }
            for shot, one in followed
        ],
        "looks": tracking.packed(seen.pts[seen.at], seen.looks, number),
        "own": {part.clip: one.number for _, one in followed for part in one.parts if part.clip},
        "person_frames": {"seen": kept + refused.total(), "kept": kept, "refused": dict(sorted(refused.items()))},
    }
