"""The few records that everything passes around, and the reason codes of rejects.

All of them are frozen, hold only plain values and turn into JSON and back with `to_json` and `from_json`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

FORMAT = 1

KINDS = ("pose", "parsing", "flow", "background", "scores")

REASONS = {
    "unreadable": "the file is not a video that FFmpeg can open",
    "truncated": "the file ends before its index says it should",
    "no-video-stream": "the file has no video stream",
    "no-frames": "the video stream holds no decodable frame",
    "timeout": "reading it took longer than allowed, or stood still",
    "crashed": "the process that read it died",
    "out-of-memory": "reading it took more memory than allowed",
    "unsafe-path": "the path leaves its folder or is not that of a regular file",
    "duplicate": "another input has the same content",
    "too-small": "the picture is smaller than the smallest size asked for",
    "too-short": "the video has fewer frames than the shortest clip asked for",
    "shot-too-short": "a shot has fewer frames than the shortest clip asked for",
    "no-person": "no person was found in the frames looked at",
    "several-persons": "others stand in the crop of the main person",
    "person-too-small": "the person is smaller than the smallest height asked for",
    "occluded": "the person is hidden too often",
    "blurred": "the person is too blurred",
    "static": "nothing moves",
    "detector-failed": "a detector raised an error on these frames",
}


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spare space: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of `value`, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


R = TypeVar("R", bound="Record")


class Record:
    """Conversion of a frozen dataclass to plain JSON values and back."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls: type[R], value: Mapping[str, Any]) -> R:
        known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in value.items() if k in known})


@dataclass(frozen=True)
class Video(Record):
    """A source file as probing found it. `size` is width, height as displayed, after rotation."""

    id: str
    path: str
    sha256: str
    size: tuple[int, int]
    frames: int
    seconds: float
    fps: float
    time_base: tuple[int, int]
    codec: str
    rotation: int = 0
    licence: str = ""
    url: str = ""
    person: str = ""
    split: str = ""


@dataclass(frozen=True)
class Clip(Record):
    """One track with one fixed crop: the unit of everything.

    `pts` are in units of `time_base` seconds, one a frame, after the fps policy. `crop` is x, y, width,
    height in displayed source pixels; it may reach outside the picture, where the frame repeats the border.
    """

    id: str
    video: str
    path: str
    sha256: str
    shot: int
    pts: tuple[int, ...]
    time_base: tuple[int, int]
    fps: float
    source_size: tuple[int, int]
    crop: tuple[float, float, float, float]
    person: str
    split: str
    licence: str = ""
    url: str = ""
    shard: int = -1

    @property
    def frames(self) -> int:
        return len(self.pts)

    def key(self, frame: int) -> str:
        """The WebDataset key of a frame."""
        return f"{self.id}/{frame:06d}"


@dataclass(frozen=True)
class Reject(Record):
    """A video, shot or clip refused: `code` is one of `REASONS`, `frames` what was lost with it."""

    what: str
    id: str
    path: str
    code: str
    detail: str = ""
    frames: int = 0

    def __post_init__(self) -> None:
        if self.code not in REASONS:
            raise ValueError(f"unknown reason code {self.code!r}; known: {', '.join(REASONS)}")


@dataclass(frozen=True)
class Receipt(Record):
    """What a finished task returns: small, and enough to account for its time and output."""

    task: str
    frames: int = 0
    clips: int = 0
    bytes: int = 0
    sha256: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerInfo(Record):
    """What made a layer: the content of ``layer.json``.

    `policy` is the digest of the store's ``store.json``, `inputs` the layers it read. The frames it saw are
    named shard by shard, in the metadata of each index, so that a store can grow without making layers stale.
    """

    id: str
    kind: str
    detector: str
    version: str
    schema: str
    fingerprint: dict[str, Any]
    policy: str
    inputs: dict[str, str] = field(default_factory=dict)
    licence: str = ""
    approximate: bool = False


@dataclass(frozen=True)
class Snapshot(Record):
    """A named choice of one layer a kind, a filter and a split policy: what training reads.

    `where` is a filter over the columns of the scores layer and of ``clips.parquet``, for example
    ``visible_joints>=0.8``. `split` is ``column`` (the split of each clip) or ``time:F`` (the last share F
    of every clip is ``test``).
    """

    name: str
    layers: dict[str, str]
    where: str = ""
    split: str = "column"
