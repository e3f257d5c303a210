"""People who are red rectangles, and detectors that find them: a transfer without real detectors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from remot_data import media
from remot_model.config import preset

CONFIG = dataclasses.replace(preset("tiny"), name="test", size=(32, 24), ngf=4, n_blocks=2, decoder_blocks=1)
FPS = 12.5
GREY, RED = (90, 90, 90), (220, 30, 30)
# Face, upper clothes, trousers, leg and shoe of ATR-18, and where they begin below the top of the person.
PARTS = {11: 0.0, 4: 0.2, 6: 0.5, 12: 0.7, 9: 0.9}
# The first 15 points of BODY_25 in a box of 1 x 1.
STANDING = np.array(
    [(0.5, 0.1), (0.5, 0.2), (0.3, 0.2), (0.1, 0.3), (0.0, 0.1), (0.7, 0.2), (0.9, 0.35), (1.0, 0.5), (0.5, 0.5)]
    + [(0.4, 0.5), (0.2, 0.7), (0.3, 1.0), (0.6, 0.5), (0.8, 0.75), (0.7, 1.0)]
)


class Seer:
    """Finds red rectangles: as people, as poses and as layouts."""

    name, version, licence, approximate = "red", "1", "none", False

    def __init__(self, kind: str, needs: tuple[str, ...] = ()) -> None:
        self.kind, self.needs, self.schema = kind, needs, {"pose": "body25", "parsing": "atr18"}[kind]

    def fingerprint(self) -> dict:
        return {"detector": self.name}

    @staticmethod
    def box(frame: np.ndarray) -> tuple[float, ...] | None:
        y, x = np.nonzero((frame[..., 0] > 150) & (frame[..., 1] < 100))
        return None if not len(x) else (x.min(), y.min(), x.max() + 1, y.max() + 1)

    def allocate(self) -> None:
        pass

    def body_boxes(self, frame: np.ndarray, tiles: bool = False) -> list[SimpleNamespace]:
        box = self.box(frame)
        return [SimpleNamespace(box=tuple(float(v) for v in box), score=0.9)] if box else []

    def __call__(self, frames: np.ndarray, **needed) -> dict[str, np.ndarray]:
        points = np.zeros((len(frames), 25, 3), np.float32)
        labels = np.zeros(frames.shape[:3], np.uint8)
        for t, frame in enumerate(frames):
            if box := self.box(frame):
                x0, y0, x1, y1 = (int(v) for v in box)
                points[t, :15, :2] = (x0, y0) + STANDING * (x1 - x0, y1 - y0)
                points[t, :15, 2] = 1
                for label, begin in PARTS.items():
                    labels[t, round(y0 + begin * (y1 - y0)) : y1, x0:x1] = label
        if self.kind == "pose":
            return {"keypoints": points, "mask": (labels > 0).astype(np.uint8) * 255}
        return {"labels": labels}


def picture(x: int = 60, person: bool = True, colour=GREY, size=(120, 160)) -> np.ndarray:
    image = np.full((*size, 3), colour, np.uint8)
    if person:
        image[30:100, x : x + 24] = RED
    return image


def write_image(path: Path, image: np.ndarray) -> Path:
    cv2.imwrite(str(path), image[..., ::-1])
    return path


def write_video(path: Path, frames: list[np.ndarray], fps: float = FPS) -> Path:
    with media.VideoWriter(path, fps, frames[0].shape[:2]) as out:
        for frame in frames:
            out.write(frame)
    return path


def frames_of(path: Path) -> np.ndarray:
    return np.stack([frame for _, frame in media.read(path)])
