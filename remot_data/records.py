"""The few records that everything passes around, and the reason codes of rejects.

All of them are frozen, hold only plain values and turn into JSON and back with `to_json` and `from_json`.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NewType, TypeVar

import numpy as np

FORMAT = 2
BOXES = "boxes"  # what detectors read beside layers: who was seen where
SURE = "sure"  # in windows, where asked for: which labels the parser is sure of
VALID = "valid"  # likewise, and in windows: which pixels of a clip's frames are of its source
TIMES = "times"  # likewise: when each frame is to be seen
NO_LAYERS = frozenset({BOXES, VALID, TIMES})
# What a frame shows where its crop reaches out of the picture: black, the border repeated and blurred, or repeated.
OUTSIDE = ("black", "blur", "smear")

# Boxes and sizes in pixels, by the order of their numbers: left, top, right and bottom edge; left, top, width, height.
XYXY = NewType("XYXY", tuple[float, float, float, float])
XYWH = NewType("XYWH", tuple[float, float, float, float])
HW = tuple[int, int]  # of arrays, and of what is made of them
WH = tuple[int, int]  # of videos, and of what OpenCV takes

REASONS = {
    "unavailable": "this machine could not read it (absent, a disk or process failed); the next run tries again",
    "unreadable": "the file is not a video that FFmpeg can open",
    "truncated": "the file ends before its index says it should",
    "no-video-stream": "the file has no video stream",
    "no-frames": "the video stream holds no decodable frame",
    "timeout": "reading it took longer than allowed, or stood still",
    "crashed": "the process that read it died",
    "out-of-memory": "reading it took more memory than allowed",
    "unsafe-path": "the path leaves its folder or is not that of a regular file",
    "changed": "the file changed while the store was built",
    "duplicate": "another input has the same content",
    "too-small": "the picture is smaller than the smallest size asked for",
    "too-short": "the video has fewer frames than the shortest clip asked for",
    "shot-too-short": "a shot has fewer frames than the shortest clip asked for",
    "transition": "a dissolve, a fade or what is black between two shots",
    "no-person": "no person was found in the frames looked at",
    "several-persons": "others stand in the crop of the main person, or before or behind her",
    "not-main": "others than the main person are in view, and only she is asked for",
    "not-followed": "somebody was found, in too few looks to be followed",
    "track-too-short": "a person is in view for fewer frames than the shortest clip asked for",
    "time-gap": "fewer frames than the shortest clip asked for lie between pauses of the recording",
    "person-too-small": "the person is smaller than the smallest height asked for",
    "occluded": "the person is hidden too often",
    "blurred": "the person is too blurred",
    "static": "nothing moves",
    "removed": "it was removed by hand",
    "detector-failed": "a detector raised an error on these frames",
}


# Failures of a machine, which say nothing of the data: every run tries again once what was refused for them.
PASSING = frozenset(("unavailable",))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spare space: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of `value`, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


_SEAL = re.compile(rb'"seal": ?"([0-9a-f]{64})"')
NO_SEAL = "0" * 64


def sealed(data: bytes) -> bytes:
    """`data` with its own sha256 in it: put in the place of `NO_SEAL`, the value of a JSON field ``seal``.

    The sha256 is taken while the field still holds `NO_SEAL`. So a file of any kind that can hold a little JSON proves
    its own bytes, without a second file.
    """
    place = _SEAL.search(data)
    if place is None or place[1] != NO_SEAL.encode():
        raise ValueError("there is no empty seal to fill")
    return data[: place.start(1)] + hashlib.sha256(data).hexdigest().encode() + data[place.end(1) :]


def is_sealed(data: bytes) -> bool:
    """Whether every byte is as `sealed` left it."""
    place = _SEAL.search(data)
    if place is None:
        return False
    blank = data[: place.start(1)] + NO_SEAL.encode() + data[place.end(1) :]
    return hashlib.sha256(blank).hexdigest().encode() == place[1]


R = TypeVar("R", bound="Record")


class Record:
    """Conversion of a frozen dataclass to plain JSON values and back."""

    __slots__ = ()

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
    size: WH
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


class Times(Sequence[int]):
    """The PTS of a clip: a sequence of ints that takes little memory, whatever the frame rate does.

    Kept as the first value and the packed differences, so that a million clips fit into a driver; `array` unpacks.
    """

    __slots__ = ("_count", "_first", "_steps")

    def __init__(self, values: Iterable[int] | np.ndarray) -> None:
        times = np.asarray(values if isinstance(values, np.ndarray) else list(values), np.int64)
        steps = np.diff(times)
        even = steps[:1] if len(steps) and (steps == steps[0]).all() else steps
        self._first, self._count = (int(times[0]) if len(times) else 0), len(times)
        self._steps = zlib.compress(even.astype("<i8").tobytes(), 6)

    def array(self) -> np.ndarray:
        """All values: int64 [T]."""
        if not self._count:
            return np.empty(0, np.int64)
        steps = np.frombuffer(zlib.decompress(self._steps), "<i8")
        out = np.empty(self._count, np.int64)
        out[0], out[1:] = self._first, steps  # one step for all, or each its own
        return np.cumsum(out, out=out)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, which: Any) -> Any:
        found = self.array()[which]
        return Times(found) if isinstance(which, slice) else int(found)

    def __iter__(self) -> Any:
        return iter(self.array().tolist())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Times) and (self._first, self._count) != (other._first, other._count):
            return False
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash((self._first, self._count))

    def __repr__(self) -> str:
        return f"Times({self._count} from {self._first})"

    def to_json(self) -> dict[str, Any]:
        return {"first": self._first, "count": self._count, "steps": base64.b64encode(self._steps).decode()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Times:
        made = cls(())
        made._first, made._count, made._steps = value["first"], value["count"], base64.b64decode(value["steps"])
        return made


@dataclass(frozen=True, slots=True)
class Clip(Record):
    """One track with one fixed crop: the unit of everything.

    `pts` are in units of `time_base` seconds, one a frame, after the fps policy. `crop` is x, y, width,
    height in displayed source pixels; it may reach outside the picture (see `persons.valid`), where the frame is what
    the store's `Policy.outside` says.
    """

    id: str
    video: str
    path: str
    sha256: str
    shot: int
    pts: Times
    time_base: tuple[int, int]
    fps: float
    source_size: WH
    crop: XYWH
    person: str
    split: str
    licence: str = ""
    url: str = ""
    shard: int = -1

    def __post_init__(self) -> None:
        if not isinstance(self.pts, Times):
            object.__setattr__(self, "pts", Times(self.pts))

    @property
    def frames(self) -> int:
        return len(self.pts)

    @property
    def seconds(self) -> np.ndarray:
        """When each frame is to be seen, by the clock of its video: float64 [T] seconds."""
        return self.pts.array() * (self.time_base[0] / self.time_base[1])

    @property
    def place(self) -> tuple[int, str]:
        """By which clips are sorted in a store: that of their keys, in which ``/`` comes after ``-``."""
        return self.shard, f"{self.id}/"

    def key(self, frame: int) -> str:
        """The WebDataset key of a frame."""
        return f"{self.id}/{frame:06d}"

    def to_json(self) -> dict[str, Any]:
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**plain, "pts": self.pts.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Clip:
        known = {f.name for f in dataclasses.fields(cls)}
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items() if k in known}
        pts = value["pts"]
        plain["pts"] = Times.from_json(pts) if isinstance(pts, Mapping) else Times(pts)
        return cls(**plain)


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
    """What a finished task returns: small, and enough to account for its time and output.

    `made` holds, by folder of the store, the metadata of the shard written there, without its seal. `seconds` are those
    that a stage was busy, added up over threads: stages may overlap.
    """

    task: str
    shard: int = -1
    frames: int = 0
    clips: int = 0
    made: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(meta["bytes"] for meta in self.made.values())


@dataclass(frozen=True)
class LayerInfo(Record):
    """What made a layer: the content of ``layer.json``.

    `policy` is the digest of the store's ``store.json``, `inputs` the layers it read. The frames it saw are
    named shard by shard, in the metadata of each index, so that a store can grow without making layers stale.
    `spec`, `weights` and `settings` are what `annotate` was told, so that a part of the layer can be made again;
    `source` is how many rows at most it saw of the source videos, 0 where it saw the stored frames;
    `failed` are the clips it could not be made for, each with the reason.
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
    spec: str = ""
    weights: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    source: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Where it lies in the store."""
        return layer_folder(self.kind, self.id)

    @property
    def reads(self) -> dict[str, str]:
        """Kind -> folder of all that it reads."""
        return sources(self.inputs)


def layer_folder(kind: str, layer_id: str) -> str:
    """Where a layer lies in a store."""
    return f"layers/{kind}/{layer_id}"


def sources(inputs: Mapping[str, str]) -> dict[str, str]:
    """Kind -> folder of all that a layer with these inputs (kind -> layer id) is made from: the frames, too.

    Boxes are no layer; among the inputs they stand under their own name.
    """
    layers = {kind: layer_folder(kind, layer_id) for kind, layer_id in inputs.items() if kind != BOXES}
    folders = {"frames": "frames", **layers, **({BOXES: BOXES} if BOXES in inputs else {})}
    return dict(sorted(folders.items()))


@dataclass(frozen=True)
class Snapshot(Record):
    """A named choice of one layer a kind, a filter and a split policy: what training reads.

    `where` is a filter over the columns of the scores layer and of ``clips.parquet``, for example
    ``jumps<=0.05 and swapped<=0``. `split` is ``column`` (the split of each clip) or ``time:F`` (the last share F
    of every clip is ``test``). `ids` are clips, or keys of frames, that alone are let through, on top of the filter;
    None for all.
    """

    name: str
    layers: dict[str, str]
    where: str = ""
    split: str = "column"
    ids: tuple[str, ...] | None = None

    @property
    def is_filtered(self) -> bool:
        return bool(self.where) or self.ids is not None

    @cached_property
    def chosen(self) -> dict[str, set[int] | None]:
        """Clip -> numbers of the frames that `ids` name, None for all of it."""
        found: dict[str, set[int] | None] = {}
        for name in self.ids or ():
            clip, _, frame = name.partition("/")
            if not frame:
                found[clip] = None
            elif (frames := found.setdefault(clip, set())) is not None:
                frames.add(int(frame))
        return found

    def to_json(self) -> dict[str, Any]:
        plain = dataclasses.asdict(self)
        if self.ids is None:
            del plain["ids"]
        return plain


@dataclass(frozen=True)
class Comparison(Record):
    """How far two layers agree.

    `agreement` in [0, 1] is what a gate looks at: for pose the share of joints seen by both that lie within 5 % of the
    person's height (PCK@0.05), for parsing the mean IoU over the six layout classes, for flow the share of pixels with
    an end-point error below one pixel. `measures` holds the mean of every column of the table.
    """

    store: str
    layer: str
    a: str
    b: str
    clips: int
    frames: int
    agreement: float
    measures: dict[str, float] = field(default_factory=dict)
    table: str = ""
