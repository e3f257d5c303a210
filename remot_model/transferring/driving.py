"""The driving video: looked through once for its person and its shots, then read piece by piece, in flat memory."""

from __future__ import annotations

import bisect
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from remot_data import media, persons
from remot_data.ingest import cuts, people
from remot_data.ingest.tracking import Track, alike, packed, track
from remot_data.media import in_child
from remot_data.records import HW, OUTSIDE, WH, XYWH, Times
from remot_data.store.boxes import Boxes, unpack
from remot_model.transferring.pictures import MARGIN
from remot_model.transferring.request import TransferError

# Frames that are decoded and annotated at once.
_CHUNK = 64


@dataclass(frozen=True)
class Driving:
    """What looking through the driving video found.

    `share` is the height of the person over that of the crop, `pts` are the times of the frames in `time_base`,
    `uneven` says whether they are half a frame or more off those of a constant rate `fps`. `shots` are the numbers of
    the frames that begin one, `others` is the share of the looks that show more than one person. `looks` says who was
    seen where (`remot_data.store.boxes.pack`), `own` which track is the person's in each shot, -1 where there is none.
    `picture` is the size of the whole picture, `outside` what is shown where the crop reaches out of it
    (`remot_data.Policy`).
    """

    path: Path
    fps: float
    has_audio: bool
    crop: XYWH
    share: float
    span: tuple[int | None, int | None]
    pts: Times
    shots: frozenset[int]
    uneven: bool
    others: float
    time_base: tuple[int, int]
    own: tuple[int, ...]
    looks: str
    picture: WH = (0, 0)
    outside: str | None = None

    @property
    def frames(self) -> int:
        return len(self.pts)

    def seconds(self, pts: Sequence[int] | np.ndarray) -> np.ndarray:
        """Times as seconds, float64 [N]."""
        return np.asarray(pts) * (self.time_base[0] / self.time_base[1])

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` gives an equal one."""
        return {**asdict(self), "path": str(self.path), "shots": sorted(self.shots), "pts": self.pts.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Driving:
        """What `to_json` wrote."""
        tuples = {name: tuple(value[name]) for name in ("crop", "span", "time_base", "own", "picture")}
        others = {"path": Path(value["path"]), "shots": frozenset(value["shots"]), "pts": Times.from_json(value["pts"])}
        return cls(**{**value, **tuples, **others})

    def valid(self, size: HW) -> np.ndarray | None:
        """Which pixels of the crop at `size` are of the picture, bool [H, W]; None where it is not to matter."""
        return persons.valid(self.crop, self.picture, size) if self.outside is not None else None

    def boxes(self, shot: int, pts: Sequence[int], size: HW) -> dict[str, np.ndarray]:
        """Where the person and others are in frames of the crop at `size`, as a detector takes it.

        Args:
            shot: its number.
            pts: of frames of that shot.

        Returns:
            `own` float32 [T, 4] and `others` float32 [T, N, 4], NaN where nobody is.
        """
        seen = Boxes(self.own[shot], *unpack(self.looks))
        own, others = seen.at(np.array(pts), self.time_base)
        x, y, width, height = self.crop
        shift = np.array((x, y) * 2, np.float32)
        grow = np.array((size[1] / width, size[0] / height) * 2, np.float32)
        return {"own": (own - shift) * grow, "others": (others - shift) * grow}


@dataclass(frozen=True)
class Piece:
    """Consecutive driving frames uint8 [T, h, w, 3] of one shot.

    `begins` tells whether the first of them begins the shot, `last_pts` is the time stamp of the last; `boxes` is what
    `Driving.boxes` gives for them, `seconds` float64 [T] when they are shown.
    """

    begins: bool
    frames: np.ndarray
    last_pts: int
    boxes: Mapping[str, np.ndarray] | None = None
    seconds: np.ndarray | None = None


@dataclass(frozen=True)
class Candidate:
    """Somebody who may drive: her number, and a picture of her uint8 [H, W, 3] out of the video."""

    number: int
    picture: np.ndarray


class _Found:
    """The tracks of a video's shots, and which of them are of one person."""

    def __init__(self, path: Path, probe: media.Probe, seen: people.Watched) -> None:
        self.path, self.probe, self.seen = path, probe, seen
        times = seen.pts * (probe.time_base[0] / probe.time_base[1])
        self.shots = []
        for start, stop in seen.shots:
            looks = [i for i, at in enumerate(seen.at) if start <= at < stop]
            found = track([seen.looks[i] for i in looks], [float(times[seen.at[i]]) for i in looks])
            self.shots.append(found)
        self.persons = sorted((t for found in self.shots for t in found), key=lambda t: -t.weight)

    def chosen(self, number: int | None) -> list[Track | None]:
        """The track of a person in each shot: of the main person, or of number `number`, 1 for the first of all.

        In other shots than that where she stands out, she is whoever is dressed most like her.
        """
        if not self.persons:
            raise TransferError(f"no person was found in the driving video {self.path}; give one that shows a person")
        if number is None:
            return [found[0] if found else None for found in self.shots]
        if not 1 <= number <= len(self.persons):
            raise TransferError(f"the driving video {self.path} shows {len(self.persons)} persons, not {number}")
        she = self.persons[number - 1]
        return [she if any(t is she for t in found) else alike(she, found) for found in self.shots]


def _look_through(
    path: Path, start: float | None, end: float | None, finder: str | None
) -> tuple[_Found, tuple[int | None, int | None]]:
    probe = in_child.probe(path)
    second = probe.time_base[1] / probe.time_base[0]
    first, last = (None if t is None else round(probe.first_pts + t * second) for t in (start, end))
    finder = finder or people.default_finder()
    try:
        seen = people.watch(
            path,
            probe=probe,
            start_pts=first,
            end_pts=last,
            finder=None if finder == people.BLAZEPOSE else finder,
            dense=True,
            shots=cuts.CONTRAST,
            read=in_child.read,
        )
    except media.VideoError as error:
        if error.code != "no-frames":
            raise
        raise TransferError(
            f"the driving video {path} has no frame from {start or 0:g} s to {end or probe.seconds:g} s"
        ) from error
    seen = replace(seen, shots=cuts.joined(seen.shots, len(seen.pts)), transitions=[])
    return _Found(path, probe, seen), (first, last)


def find_driving(
    path: Path,
    size: HW,
    start: float | None,
    end: float | None,
    person: int | None = None,
    finder: str | None = None,
    outside: str | None = "black",
) -> Driving:
    """Look through a video for its person and its shots; `TransferError` where there is nobody.

    Args:
        person: number of who drives, 1 for who is seen most; None for the main person of each shot.
        finder: what finds the persons, as for `remot_data.build`.
        outside: as of `remot_data.Policy`, where the crop cannot stay inside the picture.
    """
    found, span = _look_through(path, start, end, finder)
    probe, seen, own = found.probe, found.seen, found.chosen(person)
    boxes = [p.box for t in own if t for p in t.seen]
    inside = outside is not None
    crop = media.round_crop(persons.crop(boxes, probe.size, size[1] / size[0], MARGIN, inside), probe, inside)
    fps, uneven = _rate(seen.pts, probe)
    share = float(np.median([persons.height(box) for box in boxes])) / crop[3]
    begins = frozenset(a for a, _ in seen.shots)
    others = sum(sum(p.sure for p in look) > 1 for look in seen.looks) / len(seen.looks)
    number = {id(p): n for n, t in enumerate(t for shot in found.shots for t in shot) for p in t.seen}
    return Driving(
        path=path,
        fps=fps,
        has_audio=probe.has_audio,
        crop=crop,
        share=share,
        span=span,
        pts=Times(seen.pts),
        shots=begins,
        uneven=uneven,
        others=others,
        time_base=probe.time_base,
        own=tuple(number[id(t.seen[0])] if t else -2 for t in own),
        looks=packed(seen.pts[seen.at], seen.looks, number),
        picture=probe.size,
        outside=outside,
    )


def _rate(pts: np.ndarray, probe: media.Probe) -> tuple[float, bool]:
    """Frames a second, and whether their times are half a frame or more off those of any constant rate."""
    times = (pts - pts[0]) * (probe.time_base[0] / probe.time_base[1])
    mean = (len(pts) - 1) / times[-1] if len(pts) > 1 else probe.fps
    for fps in (probe.fps, mean):
        if fps > 0 and np.abs(times * fps - np.arange(len(pts))).max() < 0.5:
            return float(fps), False
    return float(mean), True


def candidates(path: Path, finder: str | None = None) -> list[Candidate]:
    """Who may drive, with a picture each, in the order of their numbers.

    Raises:
        TransferError: nobody is in the video.
    """
    found, _ = _look_through(path, None, None, finder)
    made = []
    for number in range(1, len(found.persons) + 1):
        she = found.persons[number - 1]
        best = max(she.seen, key=lambda p: p.score * (p.box[2] - p.box[0]) * persons.height(p.box))
        crop = media.round_crop(persons.crop([best.box], found.probe.size, 3 / 4, MARGIN), found.probe, inside=True)
        pts = int(found.seen.pts[best.frame])
        ((_, picture),) = in_child.read(path, only=[pts], crop=crop, size=(256, 192), outside=OUTSIDE[0])
        made.append(Candidate(number, picture))
    if not made:
        found.chosen(None)
    return made


def read_pieces(drive: Driving, size: HW, done: int = 0, after: int | None = None) -> Generator[Piece, None, None]:
    """The frames of the crop at `size`, in pieces of at most `_CHUNK`.

    To resume where an earlier reading stopped, at the end of a piece: `done` frames before, the last of them at the
    time stamp `after`.
    """
    frames: list[np.ndarray] = []
    times: list[int] = []
    begins, starts = done == 0 or done in drive.shots, sorted(drive.shots)

    def piece(end: int) -> Piece:
        shot = bisect.bisect_right(starts, end - 1) - 1
        return Piece(begins, np.stack(frames), times[-1], drive.boxes(shot, times, size), drive.seconds(times))

    start = drive.span[0] if after is None else after + 1
    shown: dict[str, Any] = {"crop": drive.crop, "size": size, "outside": drive.outside}
    read = in_child.read(drive.path, start_pts=start, end_pts=drive.span[1], **shown)
    with closing(read) as source:
        for number, (pts, frame) in enumerate(source, done):
            if frames and (number in drive.shots or len(frames) == _CHUNK):
                yield piece(number)
                frames, times, begins = [], [], number in drive.shots
            frames.append(frame)
            times.append(pts)
            done = number + 1
    if frames:
        yield piece(done)


def sampled(drive: Driving, size: HW, count: int) -> np.ndarray:
    """Frames of the crop at `size`, at most `count` spread evenly over the video, uint8 [N, h, w, 3]."""
    wanted = set(np.linspace(0, drive.frames - 1, min(count, drive.frames)).round().astype(int).tolist())
    shown: dict[str, Any] = {"crop": drive.crop, "size": size, "outside": drive.outside}
    source = in_child.read(drive.path, start_pts=drive.span[0], end_pts=drive.span[1], **shown)
    return np.stack([frame for number, (_, frame) in enumerate(source) if number in wanted])
