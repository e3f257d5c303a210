"""What a transfer is given, as the networks need it: the source person, the driving video and the background.

A driving video is looked through once for the person and the shots, then read again piece by piece, so memory does
not grow with its length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from remot_data import media
from remot_data.detectors import base as detectors
from remot_data.detectors.base import Detector
from remot_data.errors import RemotError
from remot_data.ingest import people
from remot_data.schemas import REGIONS, convert_keypoints, convert_labels, keypoint_set
from remot_model.alignment import align, boxes, centres, placement
from remot_model.checkpoint import Run

# Room round the person as a share of its height, as the default of `remot build`.
_MARGIN = 0.1
# Detectors see frames of at least this height, whatever the size of the networks.
_DETECTOR_HEIGHT = 256
_HANDS_HEIGHT = 768  # of what the detectors see where hands are wanted, which are a dozen pixels in 256
# Frames that are decoded and annotated at once.
_CHUNK = 64
_BACKGROUND_FRAMES = 48


class TransferError(RemotError, RuntimeError):
    """A transfer that cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Source:
    """Who appears: crop uint8 [h, w, 3] at the detectors' size, its labels uint8 [h, w] (remot11).

    `keypoints` float32 [K, 3] are in the run's schema; `notes` say what is not as it might be expected.
    """

    image: np.ndarray
    labels: np.ndarray
    keypoints: np.ndarray
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Driving:
    """What looking through the driving video found.

    `share` is the height of the person over that of the crop, `shots` the numbers of the frames that begin one,
    `others` the share of the looks that show more than one person.
    """

    path: Path
    fps: float
    has_audio: bool
    crop: people.Box
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


@dataclass(frozen=True)
class Eyes:
    """The detectors, the frame size they see, and the schema of the keypoints that the run was trained on."""

    pose: Detector
    parsing: Detector
    size: tuple[int, int]
    schema: str

    def keypoints(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Keypoints float32 [T, K, 3] in the run's schema."""
        return convert_keypoints(arrays["keypoints"], self.pose.schema, self.schema)

    def labels(self, frames: np.ndarray, pose: Mapping[str, np.ndarray]) -> np.ndarray:
        """Labels uint8 [T, h, w] of the set remot11."""
        needed = {"pose": dict(pose)} if "pose" in self.parsing.needs else {}
        return convert_labels(self.parsing(frames, **needed)["labels"], self.parsing.schema, "remot11")

    def persons(self, frames: np.ndarray, pose: Mapping[str, np.ndarray]) -> np.ndarray:
        """Where the person is, uint8 [T, h, w] of 0 and 1."""
        mask = pose["mask"] > 127 if "mask" in pose else self.labels(frames, pose) > 0
        return mask.astype(np.uint8)


def load_eyes(run: Run, pose: str, parsing: str) -> Eyes:
    """The detectors by name; `TransferError` if they do not fit the run."""
    schema = run.schemas.get("pose", "body25")
    more = {"settings": {"hands_face": True}} if pose == "blazepose" and has_hands(schema) else {}
    found = {"pose": detectors.load(pose, **more), "parsing": detectors.load(parsing)}
    for kind, detector in found.items():
        if detector.kind != kind:
            raise TransferError(f"the detector {detector.name!r} makes {detector.kind}, not {kind}; choose another")
    if missing := set(found["parsing"].needs) - {"pose"}:
        raise TransferError(f"the parser {parsing!r} needs {', '.join(missing)}, which a transfer does not make")
    factor = -(-(_HANDS_HEIGHT if has_hands(schema) else _DETECTOR_HEIGHT) // run.config.size[0])
    size = run.config.size[0] * factor, run.config.size[1] * factor
    eyes = Eyes(found["pose"], found["parsing"], size, schema)
    eyes.keypoints({"keypoints": np.zeros((1, len(keypoint_set(eyes.pose.schema)), 3), np.float32)})
    return eyes


def has_hands(schema: str) -> bool:
    """Whether a keypoint set has the points of hands."""
    return "left-hand-0" in keypoint_set(schema).points


# The source


def find_source(path: Path, eyes: Eyes, share: float = 1.0) -> Source:
    """The person of an image, cropped and parsed; `TransferError` where there is none.

    The person fills the share `share` of the crop's height, as in the driving crop: in training source and driving
    person are of one clip, so about as tall. The default margin is left at least.
    """
    image = read_image(path)
    if image is None:
        try:
            image = next(iter(media.read(path)))[1]
        except StopIteration:
            raise TransferError(f"the source {path} holds no frame; give an image") from None
        except media.VideoError as error:
            raise TransferError(f"the source {path} is neither an image nor a video that can be read") from error
    persons = sorted(people.find(image), key=lambda p: p.score * _area(p.box), reverse=True)
    if not persons:
        raise TransferError(
            f"no person was found in the source {path}; give a picture that shows one from head to feet"
        )
    margin = max(_MARGIN, (1 / share - 1) / 2)
    for person in persons:  # the largest may be several who stand close together
        crop = people.crop([person.box], image.shape[1::-1], eyes.size[1] / eyes.size[0], margin)
        frame = cut(image, crop, eyes.size)
        pose = eyes.pose(frame[None])
        labels = eyes.labels(frame[None], pose)[0]
        if labels.any():
            break
    else:
        raise TransferError(f"no person in the source {path} could be parsed; give a clearer or larger picture")
    notes = []
    if len(persons) > 1:
        notes.append(f"{len(persons)} persons are in the source {path}; the largest that is clear is taken")
    if absent := [name for name in REGIONS if not _region(labels, name).any()]:
        notes.append(f"the source {path} shows no {' and no '.join(absent)}; the networks have to make that up")
    return Source(frame, labels, eyes.keypoints(pose)[0], tuple(notes))


def _area(box: people.Box) -> float:
    return (box[2] - box[0]) * people.height(box)


def _region(labels: np.ndarray, name: str) -> np.ndarray:
    """Where a region is in labels of remot11, bool."""
    return convert_labels(labels, "remot11", "remot6") == 1 + REGIONS.index(name)


def dressed(who: Source, other: Source, region: str) -> Source:
    """`who` with one region of another person, scaled as by GAM and laid centre on centre over the same region.

    What the new region does not cover of the old one counts as background. `TransferError` if the other person
    does not show the region.
    """
    if not _region(other.labels, region).any():
        raise TransferError(f"the picture that is to give the {region} shows none; choose another")
    parts, bodies = (
        torch.from_numpy(np.stack(masks))
        for masks in zip(*((_region(x.labels, region), x.labels > 0) for x in (other, who)), strict=True)
    )
    scale, offset = placement(bodies[:1], bodies[1:])
    if parts[1].any():
        theirs, ours = centres(boxes(parts)[0])
        offset = (ours - scale * theirs)[None]
    image = torch.from_numpy(other.image).movedim(-1, 0)[None].float() / 127.5 - 1
    layouts = (torch.from_numpy(x.labels).long()[None] for x in (other, who))
    moved = align(image, *layouts, placed=(scale, offset))
    labels = moved.labels[0].numpy().astype(np.uint8)
    picture = ((moved.image[0].movedim(0, -1).numpy() + 1) * 127.5).clip(0, 255).round().astype(np.uint8)
    left = np.where(_region(who.labels, region), np.uint8(0), who.labels)
    new = _region(labels, region) & ~_region(left, "head")  # clothes may cover arms, never the head
    return replace(
        who,
        image=np.where(new[..., None], picture, who.image),
        labels=np.where(new, labels, left),
        notes=(*who.notes, *other.notes),
    )


def read_image(path: Path) -> np.ndarray | None:
    """An image file as uint8 [H, W, 3] RGB, turned as its EXIF tag says; None if it is no image."""
    if not path.is_file():
        raise TransferError(f"there is no file {path}")
    if not cv2.haveImageReader(str(path)):
        return None
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise TransferError(f"{path} is a damaged image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def cut(image: np.ndarray, crop: people.Box, size: tuple[int, int]) -> np.ndarray:
    """The crop x, y, width, height of an image at `size` (height, width); outside the image its border repeats."""
    x, y, width, height = (round(v) for v in crop)
    pad = max(0, -x, -y, x + width - image.shape[1], y + height - image.shape[0])
    padded = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE) if pad else image
    return resized(padded[y + pad : y + pad + height, x + pad : x + pad + width], size)


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image at another size (height, width): area-averaged where it shrinks, bicubic where it grows."""
    if image.shape[:2] == tuple(size):
        return image
    shrinks = size[0] < image.shape[0]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


# The driving video


def find_driving(
    path: Path, size: tuple[int, int], start: float | None, end: float | None, threads: int = 1
) -> Driving:
    """Look through a video for its main person and its shots, by `threads`; `TransferError` where there is nobody."""
    probe = media.probe(path)
    second = probe.time_base[1] / probe.time_base[0]
    span = tuple(None if t is None else round(probe.first_pts + t * second) for t in (start, end))
    try:
        seen = people.watch(path, start_pts=span[0], end_pts=span[1], threads=threads)
    except media.VideoError as error:
        if error.code != "no-frames":
            raise
        raise TransferError(
            f"the driving video {path} has no frame from {start or 0:g} s to {end or probe.seconds:g} s"
        ) from error
    tracks = [people.main_track([[p for p in look if a <= p.frame < b] for look in seen.looks]) for a, b in seen.shots]
    boxes = [person.box for track in tracks for person in track]
    if not boxes:
        raise TransferError(f"no person was found in the driving video {path}; give one that shows a person")
    crop = media.round_crop(people.crop(boxes, probe.size, size[1] / size[0], _MARGIN), probe)
    steps = np.diff(seen.pts)
    uneven = bool(len(steps) and np.abs(steps - steps.mean()).max() > 0.5 * steps.mean())
    share = float(np.median([people.height(box) for box in boxes])) / crop[3]
    begins = frozenset(a for a, _ in seen.shots)
    others = sum(len(look) > 1 for look in seen.looks) / len(seen.looks)
    return Driving(path, probe.fps, probe.has_audio, crop, share, span, len(seen.pts), begins, uneven, others)


def read_pieces(drive: Driving, size: tuple[int, int], done: int = 0, after: int | None = None) -> Iterator[Piece]:
    """The frames of the crop at `size`, in pieces of at most `_CHUNK`.

    To go on where an earlier reading stopped, at the end of a piece: `done` frames before, the last of them at the
    time stamp `after`.
    """
    frames, begins, last = [], done == 0 or done in drive.shots, 0
    start = drive.span[0] if after is None else after + 1
    source = media.read(drive.path, start_pts=start, end_pts=drive.span[1], crop=drive.crop, size=size)
    for number, (pts, frame) in enumerate(source, done):
        if frames and (number in drive.shots or len(frames) == _CHUNK):
            yield Piece(begins, np.stack(frames), last)
            frames, begins = [], number in drive.shots
        frames.append(frame)
        last = pts
    if frames:
        yield Piece(begins, np.stack(frames), last)


# The background


def find_background(choice: str | Path, who: Source, drive: Driving, eyes: Eyes, size: tuple[int, int]) -> np.ndarray:
    """The background uint8 [H, W, 3] at the networks' `size`."""
    if choice == "black":
        return np.zeros((*size, 3), np.uint8)
    median = detectors.load("temporal-median")
    if choice == "source":
        found = median(who.image[None], parsing={"labels": who.labels[None]})["image"]
        return resized(found, size)
    if choice == "driving":
        frames = _sampled(drive, eyes.size)
        return resized(median(frames, parsing={"labels": eyes.persons(frames, eyes.pose(frames))})["image"], size)
    image = read_image(Path(choice)) if Path(choice).is_file() else None
    if image is None:
        raise TransferError(f"the background {choice} is no image file, nor one of source, driving, black")
    height, width = image.shape[:2]
    wide, tall = min(width, height * size[1] / size[0]), min(height, width * size[0] / size[1])
    return cut(image, ((width - wide) / 2, (height - tall) / 2, wide, tall), size)


def _sampled(drive: Driving, size: tuple[int, int]) -> np.ndarray:
    wanted = set(np.linspace(0, drive.frames - 1, min(_BACKGROUND_FRAMES, drive.frames)).round().astype(int).tolist())
    source = media.read(drive.path, start_pts=drive.span[0], end_pts=drive.span[1], crop=drive.crop, size=size)
    return np.stack([frame for number, (_, frame) in enumerate(source) if number in wanted])
