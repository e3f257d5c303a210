"""What the detectors of MediaPipe have in common: LiteRT networks, and the regions of the image that they look at."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import cv2
import numpy as np

from remot_data import assets
from remot_data.detectors.base import DetectorError, DeviceError


@dataclass(frozen=True)
class Region:
    """A square region of interest in pixels: its centre, side and rotation in radians (clockwise)."""

    x: float
    y: float
    side: float
    rotation: float = 0.0

    def to_tensor(self, size: int) -> np.ndarray:
        """Affine matrix ``float64 [2, 3]`` from image pixels to the pixels of a `size` x `size` tensor."""
        scale = size / self.side
        cos, sin = math.cos(self.rotation) * scale, math.sin(self.rotation) * scale
        return np.array(
            [
                [cos, sin, size / 2 - cos * self.x - sin * self.y],
                [-sin, cos, size / 2 + sin * self.x - cos * self.y],
            ]
        )

    def to_image(self, points: np.ndarray, size: int) -> np.ndarray:
        """Points ``float64 [N, 2]`` in image pixels of points [N, 2] in those of a `size` x `size` tensor."""
        inverse = cv2.invertAffineTransform(self.to_tensor(size))
        return points @ inverse[:, :2].T + inverse[:, 2]


def turned(start: np.ndarray, end: np.ndarray, target: float = math.pi / 2) -> float:
    """The rotation of a region in which the way from `start` to `end` has the direction `target`; pi / 2 is up."""
    dx, dy = float(end[0] - start[0]), float(end[1] - start[1])
    rotation = target - math.atan2(-dy, dx)
    return rotation - 2 * math.pi * math.floor((rotation + math.pi) / (2 * math.pi))


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of one box with each of [N, 4]."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = (high - low).clip(0).prod(1)
    return common / ((box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - common).clip(1e-9)


def crop(image: np.ndarray, region: Region, size: int, border: int) -> np.ndarray:
    """The region as uint8 [size, size, 3], area-averaged first where it is shrunk to a quarter or less.

    `border` is what lies outside the image, as OpenCV names it.
    """
    factor = int(region.side / size / 2)
    if factor > 1:
        reach = region.side * (abs(math.cos(region.rotation)) + abs(math.sin(region.rotation))) / 2 + factor
        x0, y0 = max(int(region.x - reach), 0), max(int(region.y - reach), 0)
        cut = image[y0 : int(region.y + reach) + 1, x0 : int(region.x + reach) + 1]
        h, w = cut.shape[0] // factor, cut.shape[1] // factor
        if h and w:
            image = cv2.resize(cut[: h * factor, : w * factor], (w, h), interpolation=cv2.INTER_AREA)
            x, y = (region.x - x0 + 0.5) / factor - 0.5, (region.y - y0 + 0.5) / factor - 0.5
            region = Region(x, y, region.side / factor, region.rotation)
    matrix = region.to_tensor(size)
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -80, 80)))


def weights_file(given: str | Path | None, asset: str) -> Path:
    """The file that was given, or else the asset; `DetectorError` if there is no such file."""
    path = Path(given) if given is not None else assets.fetch(asset)
    if not path.is_file():
        raise DetectorError(f"there is no weights file {path}; give another, or none for {asset!r} of `remot assets`")
    return path


_quieting = threading.Lock()  # else one thread would keep the silence of another for the standard error
_NOTICE = b"Created TensorFlow Lite XNNPACK delegate"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep LiteRT's notice of its delegate, which no setting turns off, out of the standard error."""
    with _quieting, _memory() as sink:
        sys.stderr.flush()
        kept = os.dup(2)
        try:
            os.dup2(sink.fileno(), 2)
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            sink.seek(0)
            for line in sink:  # what other threads said in the meantime
                if _NOTICE not in line:
                    os.write(2, line)


def _memory() -> IO[bytes]:
    """A file that needs no room on a disk, which may be full, where the system has such files."""
    return os.fdopen(os.memfd_create("said"), "w+b") if hasattr(os, "memfd_create") else TemporaryFile()


class Network:
    """A LiteRT network with fixed shapes; `DetectorError` if the file holds another one.

    Outputs are told by their shapes; of those with the same shape, the file's order counts. A driver builds detectors
    only to know what they are: memory is allocated by `allocate`, or else at the first call.
    """

    def __init__(
        self, path: Path, what: str, inputs: tuple[int, ...], outputs: tuple[tuple[int, ...], ...], threads: int
    ):
        from ai_edge_litert.interpreter import Interpreter

        self.path, self._what, self._allocated = path, what, False
        try:
            self._interpreter = Interpreter(str(path), num_threads=threads)
        except (ValueError, RuntimeError) as error:
            raise DetectorError(
                f"{path} is not a LiteRT file that can be run ({error}); give the {what} of MediaPipe"
            ) from error
        self._input = self._interpreter.get_input_details()[0]
        details = self._interpreter.get_output_details()
        shapes = [tuple(int(n) for n in d["shape"]) for d in details]
        if tuple(self._input["shape"]) != inputs or Counter(outputs) - Counter(shapes):
            raise DetectorError(
                f"{path} takes {tuple(map(int, self._input['shape']))} and gives {shapes}, but the {what} takes "
                f"{inputs} and gives {list(outputs)}; give the file of MediaPipe"
            )
        left = list(zip(shapes, details, strict=True))
        self._outputs = []
        for wanted in outputs:
            found = next(i for i, (shape, _) in enumerate(left) if shape == wanted)
            self._outputs.append(left.pop(found)[1]["index"])

    def allocate(self) -> None:
        """Take the memory that running it needs; `DeviceError` where that cannot be had: no picture is to blame."""
        if self._allocated:
            return
        try:
            with _quiet():
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise DeviceError(
                f"{self.path} cannot be run here ({error}); free memory, or give the {self._what} of MediaPipe"
            ) from error
        self._allocated = True

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        self.allocate()
        self._interpreter.set_tensor(self._input["index"], image[None])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(i)[0] for i in self._outputs]
