"""The driving video: looked through once for its person and its shots, then read piece by piece, in flat memory."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remot_data import media, persons
from remot_data.ingest import people
from remot_data.media import in_child
from remot_data.records import HW, XYWH
from remot_model.transferring.pictures import MARGIN
from remot_model.transferring.request import TransferError

# Frames that are decoded and annotated at once.
_CHUNK = 64


@dataclass(frozen=True)
class Driving:
    """What looking through the driving video found.

    `share` is the height of the person over that of the crop, `shots` the numbers of the frames that begin one,
    `others` the share of the looks that show more than one person.
    """

    path: Path
    fps: float
    has_audio: bool
    crop: XYWH
    share: float
    span: tuple[int | None, int | None]
    frames: int
    shots: frozenset[int]
    uneven: bool
    others: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` gives an equal one."""
        return {**asdict(self), "path": str(self.path), "shots": sorted(self.shots)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Driving:
        """What `to_json` wrote."""
        tuples = {name: tuple(value[name]) for name in ("crop", "span")}
        return cls(**{**value, **tuples, "path": Path(value["path"]), "shots": frozenset(value["shots"])})


@dataclass(frozen=True)
class Piece:
    """Consecutive driving frames uint8 [T, h, w, 3] of one shot.

    `begins` tells whether the first of them begins the shot, `last_pts` is the time stamp of the last.
    """

    begins: bool
    frames: np.ndarray
    last_pts: int


def find_driving(path: Path, size: HW, start: float | None, end: float | None, threads: int = 1) -> Driving:
    """Look through a video for its main person and its shots, by `threads`; `TransferError` where there is nobody."""
    probe = in_child.probe(path)
    second = probe.time_base[1] / probe.time_base[0]
    first, last = (None if t is None else round(probe.first_pts + t * second) for t in (start, end))
    span = first, last
    try:
        seen = people.watch(path, probe=probe, start_pts=span[0], end_pts=span[1], threads=threads, read=in_child.read)
    except media.VideoError as error:
        if error.code != "no-frames":
            raise
        raise TransferError(
            f"the driving video {path} has no frame from {start or 0:g} s to {end or probe.seconds:g} s"
        ) from error
    tracks = [persons.main_track([[p for p in look if a <= p.frame < b] for look in seen.looks]) for a, b in seen.shots]
    boxes = [person.box for track in tracks for person in track]
    if not boxes:
        raise TransferError(f"no person was found in the driving video {path}; give one that shows a person")
    crop = media.round_crop(persons.crop(boxes, probe.size, size[1] / size[0], MARGIN), probe)
    steps = np.diff(seen.pts)
    uneven = bool(len(steps) and np.abs(steps - steps.mean()).max() > 0.5 * steps.mean())
    share = float(np.median([persons.height(box) for box in boxes])) / crop[3]
    begins = frozenset(a for a, _ in seen.shots)
    others = sum(len(look) > 1 for look in seen.looks) / len(seen.looks)
    return Driving(path, probe.fps, probe.has_audio, crop, share, span, len(seen.pts), begins, uneven, others)


def read_pieces(drive: Driving, size: HW, done: int = 0, after: int | None = None) -> Generator[Piece, None, None]:
    """The frames of the crop at `size`, in pieces of at most `_CHUNK`.

    To resume where an earlier reading stopped, at the end of a piece: `done` frames before, the last of them at the
    time stamp `after`.
    """
    frames: list[np.ndarray] = []
    begins, last = done == 0 or done in drive.shots, 0
    start = drive.span[0] if after is None else after + 1
    read = in_child.read(drive.path, start_pts=start, end_pts=drive.span[1], crop=drive.crop, size=size)
    with closing(read) as source:
        for number, (pts, frame) in enumerate(source, done):
            if frames and (number in drive.shots or len(frames) == _CHUNK):
                yield Piece(begins, np.stack(frames), last)
                frames, begins = [], number in drive.shots
            frames.append(frame)
            last = pts
    if frames:
        yield Piece(begins, np.stack(frames), last)


def sampled(drive: Driving, size: HW, count: int) -> np.ndarray:
    """Frames of the crop at `size`, at most `count` spread evenly over the video, uint8 [N, h, w, 3]."""
    wanted = set(np.linspace(0, drive.frames - 1, min(count, drive.frames)).round().astype(int).tolist())
    source = in_child.read(drive.path, start_pts=drive.span[0], end_pts=drive.span[1], crop=drive.crop, size=size)
    return np.stack([frame for number, (_, frame) in enumerate(source) if number in wanted])
