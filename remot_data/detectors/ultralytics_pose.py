"""Poses, person masks and person boxes by the YOLO models of Ultralytics.

The library and everything trained with it are AGPL-3.0. It counts its uses with its makers unless told not to, and may
install packages by itself: both are turned off here.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from remot_data import assets, persons
from remot_data.detectors._boxes import sights, which
from remot_data.detectors._network import Runner, inference
from remot_data.detectors._torch import choose_device
from remot_data.detectors.base import Arrays, Batched, DetectorError, Pending, file_sha256
from remot_data.persons import Person, as_box
from remot_data.records import BOXES
from remot_data.schemas import keypoint_set

if TYPE_CHECKING:
    import torch

_ON_CPU = "a fifth of a second (yolo11n) to some seconds (yolo11x) a frame"
_SAME = 0.5  # least overlap of a mask's box with the box of the pose
_SAME_PERSON = 0.7  # overlap above which two candidates are of one person, as the library has it
_MOST = 512  # candidates of a frame that are looked at: some ten to twenty are of one person


class UltralyticsPose(Batched):
    """COCO-17 keypoints of the main person in every frame and, where a segmentation model is given, its mask.

    The main person is that of the clip's track where the store has boxes, else chosen once, see `main_person`.

    Args:
        model: a pose model of Ultralytics, as ``yolo11m-pose``; downloaded where no weights are given.
        weights: a ``.pt`` file of a pose model with 17 keypoints.
        seg: a segmentation model of people for the mask: a ``.pt`` file, or a name as ``yolo11m-seg``.
        size: longer side in pixels that frames are scaled to for the network.
        person: smallest score of a person.
        threshold: keypoints of smaller confidence are stored as not seen.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``cuda`` if not given and torch sees one.
        batch: frames that go through the network together; 32 on a card and 1 elsewhere if not given.
        precision: ``float32``, or ``bfloat16`` for what torch's autocast runs in it of all but the head.

    Raises:
        DetectorError: if the weights cannot be had, hold more than a model, or a model of another task.
    """

    name = "ultralytics"
    kind = "pose"
    version = "2"
    schema = "coco17"
    needs: tuple[str, ...] = (BOXES,)
    licence = "AGPL-3.0"
    approximate = False

    def __init__(
        self,
        model: str = "yolo11m-pose",
        weights: str | Path | None = None,
        *,
        seg: str | Path | None = None,
        size: int = 640,
        person: float = 0.25,
        threshold: float = 0.3,
        device: str | None = None,
        batch: int | None = None,
        precision: str = "float32",
    ):
        self.device = _device(device)
        self._runner = Runner(self.name, self.device, batch, precision)
        self.batch = self._runner.batch
        self._settings: dict[str, Any] = {"size": size, "person": person, "threshold": threshold}
        self._pose = _Batches("pose", weights or model, size, self._runner)
        self._seg = _Batches("segment", seg, size, self._runner) if seg is not None else None
        shape = tuple(self._pose.network.kpt_shape)
        if shape != (len(keypoint_set(self.schema)), 3):
            raise DetectorError(
                f"ultralytics: {self._pose.path} gives keypoints {list(shape)} and not the 17 of COCO with their "
                "confidence; give a model trained on COCO, as yolo11m-pose"
            )

    def fingerprint(self) -> dict[str, Any]:
        return {
            "detector": self.name,
            "version": self.version,
            "ultralytics": self._pose.library,
            "weights": file_sha256(self._pose.path),
            "seg": file_sha256(self._seg.path) if self._seg else None,
            "settings": {**self._settings, **self._runner.settings},
        }

    def infer(self, items: np.ndarray) -> Arrays | Pending:
        return self._runner(self._candidates, items)

    def join(self, frames: np.ndarray, outputs: Arrays, **needed: Arrays) -> Arrays:
        """`keypoints` float32 [T, 17, 3], and `mask` uint8 [T, H, W] where there is a segmentation model."""
        count, size = len(frames), frames.shape[1:3]
        keypoints = np.zeros((count, len(keypoint_set(self.schema)), 3), np.float32)
        found = self._found(outputs.get("pose"), size, self._pose)
        if BOXES in needed:
            chosen = [which(sight, rows[:, :4]) for sight, rows in zip(sights(needed[BOXES], size), found, strict=True)]
        else:
            chosen = main_person([_looked(rows, t) for t, rows in enumerate(found)], (size[1], size[0]))
        for t, person in enumerate(chosen):
            if person is not None:
                points = found[t][person, 5:].reshape(-1, 3)
                points[:, :2] = letterbox(size, self._pose.size, self._pose.stride).to_frame(points[:, :2])
                keypoints[t] = seen_points(points, size, self._settings["threshold"])
        if self._seg is None:
            return {"keypoints": keypoints}
        boxes = [None if person is None else found[t][person, :4] for t, person in enumerate(chosen)]
        return {"keypoints": keypoints, "mask": self._masks(self._seg, outputs, boxes, size)}

    def _candidates(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        """The surest candidates of each network, as `_Batches` gives them, and what masks are made of."""
        out = {"pose": self._pose(frames)[0]}
        if self._seg is not None:
            out["seg"], protos = self._seg(frames)
            assert protos is not None  # a network for masks
            out["protos"] = protos.half()
        return out

    def _found(self, candidates: np.ndarray | None, size: tuple[int, int], model: _Batches) -> list[np.ndarray]:
        """Of candidates [T, N, 5 + K] the persons in each frame, the surest first, boxes in pixels of the frame."""
        import torch
        from torchvision.ops import nms

        out = []
        place = letterbox(size, model.size, model.stride)
        for rows in candidates if candidates is not None else ():
            rows = rows[rows[:, 4] > self._settings["person"]]
            if not model.is_final:
                rows = rows[nms(*map(torch.from_numpy, (rows[:, :4], rows[:, 4])), _SAME_PERSON).numpy()]
            rows[:, :4] = place.to_frame(rows[:, :4].reshape(-1, 2)).clip(0, size[::-1]).reshape(-1, 4)
            out.append(rows)
        return out

    def _masks(
        self, seg: _Batches, outputs: Arrays, boxes: Sequence[np.ndarray | None], size: tuple[int, int]
    ) -> np.ndarray:
        """The masks uint8 [T, H, W], 0 or 255, of the persons whose boxes are given; 0 where nobody fits the box."""
        import torch
        from ultralytics.utils.ops import process_mask_native

        masks = np.zeros((len(boxes), *size), np.uint8)
        found = self._found(outputs.get("seg"), size, seg)
        with inference("cpu"):
            for t, (rows, box) in enumerate(zip(found, boxes, strict=True)):
                overlaps = [persons.overlap(as_box(box), as_box(row[:4])) for row in rows] if box is not None else []
                if overlaps and max(overlaps) >= _SAME:
                    row = torch.from_numpy(rows[[int(np.argmax(overlaps))]])
                    protos = torch.from_numpy(outputs["protos"][t])
                    masks[t] = process_mask_native(protos, row[:, 5:], row[:, :4], size)[0].numpy() * np.uint8(255)
        return masks


class UltralyticsFinder:
    """Finds persons in whole pictures and follows them over a video with the library's ByteTrack.

    Args:
        model: a detection model of Ultralytics, as ``yolo11m``; downloaded where no weights are given.
        weights: a ``.pt`` file of a detection model whose first class is ``person``.
        size: longer side in pixels that a picture is scaled to for the network.
        person: smallest score of a person that is not yet followed.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``cuda`` if not given and torch sees one.

    Raises:
        DetectorError: as `UltralyticsPose`, or if the package ``lap`` is missing.
    """

    name = "ultralytics"
    version = "1"
    licence = "AGPL-3.0"

    def __init__(
        self,
        model: str = "yolo11m",
        weights: str | Path | None = None,
        *,
        size: int = 640,
        person: float = 0.25,
        device: str | None = None,
    ):
        self.device = _device(device)
        self._tracking = _tracking()
        self._settings: dict[str, Any] = {"size": size, "person": person, "tracker": self._tracking}
        # ByteTrack holds on to a person by boxes of smaller scores than one that begins a track.
        least = min(person, self._tracking["track_low_thresh"])
        self._model = _Model("detect", weights or model, size, least, self.device)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "detector": self.name,
            "version": self.version,
            "ultralytics": self._model.library,
            "weights": file_sha256(self._model.path),
            "settings": self._settings,
        }

    def find(self, image: np.ndarray, frame: int = 0, size: tuple[int, int] | None = None) -> list[Person]:
        """The persons of an image uint8 [H, W, 3], best score first.

        Boxes are in pixels of the image, or of a picture `size` = (W, H) that it was made smaller from.
        """
        return self._look(image, frame, size or image.shape[1::-1], None)

    def follow(self) -> Callable[[np.ndarray, int, tuple[int, int]], list[Person]]:
        """`find` for the pictures of one video in order, which also gives each person its `track`.

        Who was not linked to a track, as somebody seen for the first time in the middle of a video, has none.
        """
        from ultralytics.trackers.byte_tracker import BYTETracker
        from ultralytics.utils import IterableSimpleNamespace

        tracker = BYTETracker(IterableSimpleNamespace(**self._tracking))
        return lambda image, frame, size: self._look(image, frame, size, tracker)

    def _look(self, image: np.ndarray, frame: int, size: tuple[int, int], tracker: Any) -> list[Person]:
        grow = np.array([size[0] / image.shape[1], size[1] / image.shape[0]] * 2)
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        result = self._model(image)
        rows = tracker.update(result.boxes.cpu().numpy(), image) if tracker is not None else ()
        tracks = {int(row[-1]): int(row[4]) for row in rows}  # a row ends with the number of its detection
        found = [
            Person(frame, as_box(np.array(p.box) * grow), p.score, persons.sharpness(grey, p.box), tracks.get(i))
            for i, p in enumerate(_persons(result, frame))
        ]
        found = [p for p in found if p.track is not None or p.score >= self._settings["person"]]
        return sorted(found, key=lambda p: -p.score)


def _tracking() -> dict[str, Any]:
    """The library's settings of ByteTrack."""
    try:
        import lap  # noqa: F401 - the library would install it by itself
    except ImportError as error:
        raise DetectorError(
            "ultralytics: its trackers need the package lap, which is not installed; get it with pip install lap"
        ) from error
    from ultralytics.utils import YAML
    from ultralytics.utils.checks import check_yaml

    return dict(YAML.load(check_yaml("bytetrack.yaml")))


def main_person(looks: Sequence[Sequence[Person]], size: tuple[int, int]) -> list[int | None]:
    """Which of the persons found in each frame is the main one, or None.

    Persons are linked into tracks. The main track is the one with the largest sum, over its frames, of score times
    area times nearness to the middle of the picture. Frames it does not reach are filled from the next best tracks
    that share no frame with those taken and whose boxes are of like size: the same person, lost and found again.

    Args:
        looks: for each frame, the persons found in it.
        size: width and height of the frames in pixels.
    """

    def weight(person: Person) -> float:
        x0, y0, x1, y1 = person.box
        away = math.hypot((x0 + x1 - size[0]) / size[0], (y0 + y1 - size[1]) / size[1]) / math.sqrt(2)
        return person.score * (x1 - x0) * (y1 - y0) * max(1 - away, 0.0)

    chosen: dict[int, Person] = {}
    for track in sorted(persons.tracks(looks), key=lambda track: -sum(map(weight, track))):
        if not chosen or _continues(track, chosen):
            chosen.update({person.frame: person for person in track})
    where = [{id(person): i for i, person in enumerate(look)} for look in looks]
    return [where[t][id(chosen[t])] if t in chosen else None for t in range(len(looks))]


def _continues(track: Sequence[Person], chosen: dict[int, Person]) -> bool:
    """Whether a track may be the person chosen in other frames: it shares none of them, and is of like height."""
    if any(person.frame in chosen for person in track):
        return False
    gaps = [(abs(a - b.frame), a, b) for b in (track[0], track[-1]) for a in chosen]
    _, at, person = min(gaps, key=lambda gap: gap[:2])
    ratio = persons.height(person.box) / max(persons.height(chosen[at].box), 1e-6)
    return 0.5 < ratio < 2


def seen_points(points: np.ndarray, size: tuple[int, ...], threshold: float) -> np.ndarray:
    """Keypoints [K, 3] as float32; those outside a frame of height and width `size`, or of less confidence, are 0."""
    points = np.asarray(points, np.float32).copy()
    points[:, 2] = points[:, 2].clip(0, 1)
    inside = ((points[:, :2] >= 0) & (points[:, :2] < (size[1], size[0]))).all(1)
    points[~inside | (points[:, 2] < threshold)] = 0
    return points


def _persons(result: Any, frame: int) -> list[Person]:
    """The persons of a result of Ultralytics, in its order."""
    boxes, scores = result.boxes.xyxy.cpu().numpy(), result.boxes.conf.cpu().numpy()
    return [Person(frame, as_box(box), float(score)) for box, score in zip(boxes, scores, strict=True)]


def _looked(rows: np.ndarray, frame: int) -> list[Person]:
    return [Person(frame, as_box(row[:4]), float(row[4])) for row in rows]


@dataclass(frozen=True)
class Letterbox:
    """How a frame is laid into the input of a network: brought to `inner` = (H, W), then a border on each side."""

    inner: tuple[int, int]
    left: int
    right: int
    top: int
    bottom: int
    gain: tuple[float, float]

    def to_frame(self, points: np.ndarray) -> np.ndarray:
        """Points (x, y) [N, 2] of the input in pixels of the frame."""
        return (points - np.array([self.left, self.top], np.float32)) / np.array(self.gain, np.float32)


@lru_cache
def letterbox(frame: tuple[int, int], size: int, stride: int) -> Letterbox:
    """As the library lays a frame of `frame` = (H, W) pixels into the smallest input with a longer side of `size`."""
    ratio = size / max(frame)
    inner = max(round(frame[0] * ratio), 1), max(round(frame[1] * ratio), 1)
    (top, bottom), (left, right) = (
        (round(spare - 0.1), round(spare + 0.1)) for spare in ((size - side) % stride / 2 for side in inner)
    )
    return Letterbox(inner, left, right, top, bottom, (inner[1] / frame[1], inner[0] / frame[0]))


class _Batches:
    """A model of one task for batches of frames, prepared where the network runs."""

    def __init__(self, task: str, weights: str | Path, size: int, runner: Runner):
        self.library, self._runner = _ultralytics().__version__, runner
        self.path = _weights_file(weights, task)
        network = _network(self.path, task)
        network.end2end = False  # as the library predicts, unless only the other head is left
        network.fuse(verbose=False)
        head = network.model[-1]
        self.stride, self.is_final = max(int(network.stride.max()), 32), bool(head.end2end)
        self.size = math.ceil(size / self.stride) * self.stride
        self._classes, self._inner = head.nc, head.forward
        head.forward = self._head
        self.network = runner.place(network, exact=[head])

    def __call__(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The surest candidates of frames uint8 [n, H, W, 3], RGB, float32 [n, N, 5 + K], and the prototypes of masks.

        A candidate is the corners of its box in pixels of the input, the score of a person (0 for what is rather
        something else), and what the task has beside it. A network of a final head has the surest first.
        """
        import torch
        from ultralytics.utils.ops import xywh2xyxy

        found = self.network(self.prepared(frames))[0]
        found, protos = found if isinstance(found, tuple) else (found, None)
        if self.is_final:
            score = torch.where(found[..., 5] == 0, found[..., 4], 0)
            return torch.cat([found[..., :4], score[..., None], found[..., 6:]], -1), protos
        found, first = found.transpose(1, 2), 4 + self._classes
        score, best = found[..., 4:first].max(-1)
        score, at = torch.where(best == 0, score, 0).topk(min(_MOST, found.shape[1]), dim=1)
        found = found.gather(1, at[..., None].expand(-1, -1, found.shape[-1]))
        return torch.cat([xywh2xyxy(found[..., :4]), score[..., None], found[..., first:]], -1), protos

    def prepared(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames uint8 [n, H, W, 3] as the network takes them, float32 [n, 3, h, w]."""
        from torch.nn.functional import interpolate, pad

        box = letterbox(tuple(frames.shape[1:3]), self.size, self.stride)
        images = interpolate(frames.permute(0, 3, 1, 2).float(), box.inner, mode="bilinear", align_corners=False)
        # The library resizes to whole grey levels.
        return pad(images.round(), (box.left, box.right, box.top, box.bottom), value=114) / 255

    def _head(self, features: Sequence[torch.Tensor]) -> Any:
        with self._runner.exact():
            return self._inner([part.float() for part in features])


class _Model:
    """A model that finds persons with the library's own way in and out, a picture at a time."""

    def __init__(self, task: str, weights: str | Path, size: int, person: float, device: str):
        self.library, self.device = _ultralytics().__version__, device
        self.path = _weights_file(weights, task)
        self.network = _network(self.path, task)
        self._options = {"imgsz": size, "conf": person, "classes": [0]}

    @cached_property
    def _predictor(self) -> Any:
        """The library's way in and out, which puts the network on its device."""
        import torch
        from ultralytics.models.yolo.detect import DetectionPredictor

        predictor = DetectionPredictor(overrides={**self._options, "verbose": False, "save": False})
        predictor.args.device = torch.device(self.device)
        predictor.setup_model(self.network, verbose=False)
        return predictor

    def __call__(self, image: np.ndarray) -> Any:
        """What Ultralytics finds in an image uint8 [H, W, 3], RGB."""
        with inference(self.device):
            return self._predictor([np.ascontiguousarray(image[..., ::-1])])[0]


def _device(wanted: str | None) -> str:
    _ultralytics()
    return choose_device(wanted, "ultralytics", _ON_CPU)


def _ultralytics() -> Any:
    """The library, told neither to report its use nor to install packages."""
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    import ultralytics
    from ultralytics.utils import checks, events

    checks.AUTOINSTALL = False
    events.events.enabled = False
    return ultralytics


def _network(path: Path, task: str) -> Any:
    """The model in a checkpoint, which may hold layers of Ultralytics and torch and plain data, and nothing else."""
    import torch
    from ultralytics.nn.tasks import torch_safe_load

    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):  # the library would unpickle anything
        raise DetectorError(
            f"ultralytics: torch {torch.__version__} cannot read models safely; install torch 2.6 or newer"
        )
    try:
        content, _ = torch_safe_load(path, safe_only=True)
        network = (content.get("ema") or content.get("model")).float().eval()
        found, first = network.task, str(network.names[0])
    except Exception as error:  # a damaged file can raise anything
        what = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:200]
        raise DetectorError(
            f"ultralytics: {path} cannot be read as a checkpoint of Ultralytics that holds only a model ({what}); "
            "give a .pt file as `yolo train` or the makers' releases have it"
        ) from error
    if found != task or first != "person":
        raise DetectorError(
            f"ultralytics: {path} is a model for the task {found!r} whose first class is {first!r}; this needs one for "
            f"{task!r} whose first class is 'person'"
        )
    return network


def _weights_file(weights: str | Path, task: str) -> Path:
    """A checkpoint on this machine: the file given, or the model of that name, downloaded once into the cache."""
    path = Path(weights)
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise DetectorError(f"ultralytics: there is no weights file {path}; give a .pt file of a {task} model")
    from ultralytics.utils import downloads

    kept = assets.cache_folder() / "ultralytics" / f"{path.name}.pt"
    if kept.is_file():
        return kept
    if kept.name not in downloads.GITHUB_ASSETS_NAMES:
        known = sorted(n.removesuffix(".pt") for n in downloads.GITHUB_ASSETS_NAMES if n.startswith("yolo11"))
        raise DetectorError(f"ultralytics offers no model {path.name!r}; choose one as {', '.join(known)}")
    part = kept.with_name(f"{uuid.uuid4().hex}.part") / kept.name
    part.parent.mkdir(parents=True)
    try:
        downloads.attempt_download_asset(str(part))
        os.replace(part, kept)
    except Exception as error:  # the library raises bare ones, and what its network layer raises
        what = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:200]
        raise DetectorError(
            f"ultralytics: {kept.name} cannot be downloaded ({what}); fetch it by other means and give weights=FILE"
        ) from error
    finally:
        part.unlink(missing_ok=True)
        part.parent.rmdir()
    return kept
