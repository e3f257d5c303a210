"""One source image, any driving video, one result: the person of the image moves as the person of the video does.

The driving video is looked through once for the person and the shots, then read again piece by piece, so memory
does not grow with its length. Every frame comes out.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from remot_data import people, render, video
from remot_data.assets import AssetError
from remot_data.detectors import base as detectors
from remot_data.detectors.base import Detector, DetectorError
from remot_data.schemas import SchemaError, convert_keypoints, convert_labels, keypoint_set
from remot_model import rollout
from remot_model.checkpoint import CheckpointError, Run, load_run
from remot_model.train import pick_device

log = logging.getLogger(__name__)

# Room round the person as a share of its height, as the default of `remot build`.
_MARGIN = 0.1
# Detectors see frames of at least this height, whatever the size of the networks.
_DETECTOR_HEIGHT = 256
_HANDS_HEIGHT = 768  # of what the detectors see where hands are wanted, which are a dozen pixels in 256
# Frames that are decoded and annotated at once, and that go through the networks at once.
_CHUNK, _PIECE = 64, 8
_BACKGROUND_FRAMES = 48
_CONTAINERS = (".mp4", ".mkv", ".mov")

Pictures = dict[str, np.ndarray]


class TransferError(RuntimeError):
    """A transfer that cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Source:
    """Who appears: crop uint8 [h, w, 3] at the detectors' size, its labels uint8 [h, w] (remot11)."""

    image: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Driving:
    """What looking through the driving video found.

    `share` is the height of the person over that of the crop, `shots` the numbers of the frames that begin one.
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


def transfer(
    run: str | Path | Run,
    source: str | Path,
    driving: str | Path,
    out: str | Path,
    *,
    background: str | Path = "source",
    side_by_side: bool = False,
    stages: str | Path | None = None,
    scale: int = 1,
    start: float | None = None,
    end: float | None = None,
    pose: str = "blazepose",
    parsing: str = "pose-guided",
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write a video of the source person doing what the driving person does.

    The picture is the driving person's crop, 3:4 or whatever the run's size is, at the run's size times `scale`.
    Rate, number of frames and sound are those of the driving video.

    Args:
        run: the run folder, with every stage trained, or an opened run.
        source: an image, or a video whose first frame is taken.
        driving: a video.
        out: the video to write, ``.mp4``, ``.mkv`` or ``.mov``.
        background: ``source`` (the source picture without its person, inpainted), ``driving`` (what the driving
            video shows beside its person), ``black``, or an image file.
        side_by_side: source, driving crop and result in one picture at least 256 pixels high.
        stages: a second video, of pose, layout, aligned source, regions and result.
        scale: the result is enlarged so many times, bicubic.
        start, end: seconds of the driving video.
        pose, parsing: detectors, as `remot_data.detectors.base.load` names them; those the run was trained on fit best.
        device: ``cpu``, ``cuda``, ... or ``auto``, which takes CUDA where there is one. An opened run has to be there.
        progress: called with the frames done and their number.

    Returns:
        What was done: `out`, `frames`, `fps`, `size`, `crop`, `shots`, `frames_without_pose`, `sound`, `background`,
        `seconds`, `frames_per_second` and `notes`, sentences on what is not as it might be expected.

    Raises:
        TransferError: for files that cannot be read, pictures without a person, a run that lacks a stage, or detectors
            that do not fit. Nothing is left behind then.
    """
    began = time.monotonic()
    with _clearly():
        place = pick_device(device)
        run = run if isinstance(run, Run) else load_run(run, place)
        _check(run, scale)
        _check_files([Path(source), Path(driving)], [Path(out), *([Path(stages)] if stages is not None else [])])
        eyes = _eyes(run, pose, parsing)
        drive = find_driving(Path(driving), run.config.size, start, end)
        who = find_source(Path(source), eyes, drive.share)
        behind = find_background(background, who, drive, eyes, run.config.size)
        renderer = Renderer(run, who, behind, eyes, torch.device(place))
        names = ("source", "driving", "result") if side_by_side else ("result",)
        panels = {Path(out): (names, max(scale, _upto256(run) if side_by_side else 1))}
        if stages is not None:
            panels[Path(stages)] = (("driving", "pose", "layout", "aligned", "regions", "result"), _upto256(run))
        frames, sound = _write(renderer, drive, panels, progress)
    seconds = time.monotonic() - began
    factor = panels[Path(out)][1]
    return {
        "out": str(out),
        "frames": frames,
        "fps": drive.fps,
        "size": [run.config.size[0] * factor, run.config.size[1] * factor * len(names)],
        "crop": list(drive.crop),
        "shots": len(drive.shots),
        "frames_without_pose": renderer.without_pose,
        "sound": drive.has_audio and not sound,
        "background": str(background),
        "seconds": round(seconds, 2),
        "frames_per_second": round(frames / seconds, 2),
        "notes": _notes(renderer, drive, sound),
    }


@contextmanager
def _clearly() -> Iterator[None]:
    """Errors of the parts as one kind, each message a clear sentence."""
    try:
        yield
    except (DetectorError, CheckpointError, SchemaError, AssetError, video.EncodeError) as error:
        raise TransferError(str(error)) from error
    except video.VideoError as error:
        raise TransferError(f"{error.detail} ({error.code})") from error
    except OSError as error:
        raise TransferError(f"a file cannot be read or written: {error}") from error


def _check(run: Run, scale: int) -> None:
    missing = [stage for stage in run.config.stages if stage not in run.generators]
    if missing:
        raise TransferError(
            f"{run.path} has no trained {' and '.join(missing)} stage; train it with "
            f"`remot train STORE --stage {missing[0]} --out {run.path}`"
        )
    if scale < 1:
        raise TransferError(f"a scale of {scale} leaves no picture; give 1 or more")


def _check_files(inputs: list[Path], outputs: list[Path]) -> None:
    taken = {path.resolve() for path in inputs}
    for path in outputs:
        if path.suffix.lower() not in _CONTAINERS:
            raise TransferError(f"{path} would be no video: end its name with {', '.join(_CONTAINERS)}")
        if path.is_dir():
            raise TransferError(f"{path} is a folder; name a file to write")
        if path.resolve() in taken:
            raise TransferError(f"{path} is named twice; name another file to write")
        taken.add(path.resolve())


def _upto256(run: Run) -> int:
    return -(-256 // run.config.size[0])


def _eyes(run: Run, pose: str, parsing: str) -> Eyes:
    schema = run.schemas.get("pose", "body25")
    more = {"settings": {"hands_face": True}} if pose == "blazepose" and _has_hands(schema) else {}
    found = {"pose": detectors.load(pose, **more), "parsing": detectors.load(parsing)}
    for kind, detector in found.items():
        if detector.kind != kind:
            raise TransferError(f"the detector {detector.name!r} makes {detector.kind}, not {kind}; choose another")
    if missing := set(found["parsing"].needs) - {"pose"}:
        raise TransferError(f"the parser {parsing!r} needs {', '.join(missing)}, which a transfer does not make")
    factor = -(-(_HANDS_HEIGHT if _has_hands(schema) else _DETECTOR_HEIGHT) // run.config.size[0])
    size = run.config.size[0] * factor, run.config.size[1] * factor
    eyes = Eyes(found["pose"], found["parsing"], size, schema)
    eyes.keypoints({"keypoints": np.zeros((1, len(keypoint_set(eyes.pose.schema)), 3), np.float32)})
    return eyes


def _has_hands(schema: str) -> bool:
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
            image = next(iter(video.read(path)))[1]
        except StopIteration:
            raise TransferError(f"the source {path} holds no frame; give an image") from None
        except video.VideoError as error:
            raise TransferError(f"the source {path} is neither an image nor a video that can be read") from error
    track = people.main_track([people.find(image)])
    if not track:
        raise TransferError(
            f"no person was found in the source {path}; give a picture that shows one from head to feet"
        )
    margin = max(_MARGIN, (1 / share - 1) / 2)
    crop = people.crop([track[0].box], image.shape[1::-1], eyes.size[1] / eyes.size[0], margin)
    frame = cut(image, crop, eyes.size)
    labels = eyes.labels(frame[None], eyes.pose(frame[None]))[0]
    if not labels.any():
        raise TransferError(f"the person in the source {path} could not be parsed; give a clearer or larger picture")
    return Source(frame, labels)


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


def find_driving(path: Path, size: tuple[int, int], start: float | None, end: float | None) -> Driving:
    """Look through a video for its main person and its shots; `TransferError` where there is nobody."""
    probe = video.probe(path)
    second = probe.time_base[1] / probe.time_base[0]
    span = tuple(None if t is None else round(probe.first_pts + t * second) for t in (start, end))
    try:
        seen = people.watch(path, start_pts=span[0], end_pts=span[1])
    except video.VideoError as error:
        if error.code != "no-frames":
            raise
        raise TransferError(
            f"the driving video {path} has no frame from {start or 0:g} s to {end or probe.seconds:g} s"
        ) from error
    tracks = [people.main_track([[p for p in look if a <= p.frame < b] for look in seen.looks]) for a, b in seen.shots]
    boxes = [person.box for track in tracks for person in track]
    if not boxes:
        raise TransferError(f"no person was found in the driving video {path}; give one that shows a person")
    crop = video.round_crop(people.crop(boxes, probe.size, size[1] / size[0], _MARGIN), probe)
    steps = np.diff(seen.pts)
    uneven = bool(len(steps) and np.abs(steps - steps.mean()).max() > 0.5 * steps.mean())
    share = float(np.median([people.height(box) for box in boxes])) / crop[3]
    begins = frozenset(a for a, _ in seen.shots)
    return Driving(path, probe.fps, probe.has_audio, crop, share, span, len(seen.pts), begins, uneven)


def _pieces(drive: Driving, size: tuple[int, int]) -> Iterator[tuple[bool, np.ndarray]]:
    """Consecutive frames uint8 [T, h, w, 3] of the crop, at most `_CHUNK`, and whether they begin a shot."""
    frames, begins = [], True
    source = video.read(drive.path, start_pts=drive.span[0], end_pts=drive.span[1], crop=drive.crop, size=size)
    for number, (_, frame) in enumerate(source):
        if frames and (number in drive.shots or len(frames) == _CHUNK):
            yield begins, np.stack(frames)
            frames, begins = [], number in drive.shots
        frames.append(frame)
    if frames:
        yield begins, np.stack(frames)


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
    source = video.read(drive.path, start_pts=drive.span[0], end_pts=drive.span[1], crop=drive.crop, size=size)
    return np.stack([frame for number, (_, frame) in enumerate(source) if number in wanted])


# The result


class Renderer:
    """Driving frames to pictures, piece by piece; the networks' memory is carried until a shot begins.

    Attributes:
        without_pose: frames so far in which nobody was found; they repeat the pose before, if there is one.
    """

    def __init__(self, run: Run, who: Source, background: np.ndarray, eyes: Eyes, device: torch.device) -> None:
        self.run, self.eyes, self.device, self.without_pose = run, eyes, device, 0
        size = run.config.size
        self._picture = who.image
        self._source = self._images(resized(who.image, size)[None])
        small = cv2.resize(who.labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        self._labels = torch.from_numpy(small).long()[None].to(device)
        self._background = self._images(background[None])
        self._states: dict[str, rollout.State] | None = None
        self._last_pose: np.ndarray | None = None

    def __call__(self, begins: bool, frames: np.ndarray) -> Pictures:
        """Pictures by name, uint8 [T, h, w, 3], of consecutive driving frames at the detectors' size."""
        if begins:
            self._states = self._last_pose = None
        maps = self._pose_maps(frames)
        parts = [self._piece(maps[i : i + _PIECE]) for i in range(0, len(maps), _PIECE)]
        made = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        source = np.broadcast_to(self._picture, (len(frames), *self._picture.shape))
        return {"source": source, "driving": frames, "pose": maps, **made}

    def _pose_maps(self, frames: np.ndarray) -> np.ndarray:
        points = self.eyes.keypoints(self.eyes.pose(frames))
        size = self.run.config.size
        points[..., :2] *= size[0] / self.eyes.size[0]
        seen = (points[..., 2] > 0).any(1)
        self.without_pose += int((~seen).sum())
        maps = []
        for one, found in zip(points, seen, strict=True):
            if found or self._last_pose is None:
                self._last_pose = one
            maps.append(render.pose_map(self._last_pose, self.eyes.schema, size))
        return np.stack(maps)

    def _piece(self, maps: np.ndarray) -> Pictures:
        done, self._states = rollout.transfer(
            self.run.generators,
            self.run.config,
            self._source,
            self._labels,
            self._images(maps)[None],
            self._background,
            states=self._states,
        )
        return {
            "result": to_uint8(done.images[0]),
            "layout": render.colour_labels(done.labels[0].cpu().numpy(), "remot6"),
            "aligned": to_uint8(done.aligned[0]),
            "regions": to_uint8(done.coarse[0]),
        }

    def _images(self, images: np.ndarray) -> torch.Tensor:
        """uint8 [T, H, W, 3] -> float32 [T, 3, H, W] in [-1, 1]."""
        return torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, 1).float().to(self.device) / 127.5 - 1


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """float [T, 3, H, W] in [-1, 1] -> uint8 [T, H, W, 3], rounded."""
    scaled = (images.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).movedim(1, -1).cpu().numpy()


def _write(
    renderer: Renderer,
    drive: Driving,
    panels: Mapping[Path, tuple[tuple[str, ...], int]],
    progress: Callable[[int, int], None] | None,
) -> tuple[int, str]:
    """Render the video into files: how many frames, and why the sound is missing where it is."""
    height, width = renderer.run.config.size
    done = 0
    with ExitStack() as stack:
        parts = {}
        for path in panels:
            path.parent.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".remot-", dir=path.parent))
            parts[path] = Path(folder) / f"silent{path.suffix}"
        with ExitStack() as writers:
            outs = {
                path: writers.enter_context(
                    video.VideoWriter(parts[path], drive.fps, (height * factor, width * factor * len(names)))
                )
                for path, (names, factor) in panels.items()
            }
            for begins, frames in _pieces(drive, renderer.eyes.size):
                pictures = renderer(begins, frames)
                for path, (names, factor) in panels.items():
                    for t in range(len(frames)):
                        row = [resized(pictures[name][t], (height * factor, width * factor)) for name in names]
                        outs[path].write(np.hstack(row))
                done += len(frames)
                if progress:
                    progress(done, drive.frames)
            if renderer.without_pose == done:
                raise TransferError(f"no pose was found in any of {done} frames of {drive.path}; show a whole person")
        silence = ""
        for path, part in parts.items():
            silence = _add_sound(part, drive) or silence
            os.replace(part, path)
    return done, silence


def _add_sound(part: Path, drive: Driving) -> str:
    """Give the video the driving video's sound; the reason where that fails."""
    if not drive.has_audio:
        return ""
    loud, span = part.with_name(f"sound{part.suffix}"), part.with_name(f"span{part.suffix}")
    try:
        source = drive.path
        if drive.span[0] is not None:
            probe = video.probe(drive.path)
            start = (drive.span[0] - probe.first_pts) * probe.time_base[0] / probe.time_base[1]
            video.cut(drive.path, span, start, start + drive.frames / drive.fps + 1)
            source = span
        video.mux_audio(part, source, loud)
    except (video.EncodeError, video.VideoError, ValueError) as error:
        return " ".join(str(error).split())
    os.replace(loud, part)
    return ""


def _notes(renderer: Renderer, drive: Driving, silence: str) -> list[str]:
    notes = []
    if renderer.without_pose:
        notes.append(
            f"nobody was found in {renderer.without_pose} frames; they repeat the pose before them, if there is one"
        )
    eyes = renderer.eyes
    if _has_hands(eyes.schema) and not _has_hands(eyes.pose.schema):
        notes.append(f"the run was trained with hands and face, which {eyes.pose.name} does not give: none are drawn")
    if drive.uneven:
        notes.append(f"the driving video's frame rate varies; the result has its mean, {drive.fps:.3f} a second")
    if silence:
        notes.append(f"the sound could not be copied: {silence}")
    for note in notes:
        log.warning("%s", note)
    return notes
