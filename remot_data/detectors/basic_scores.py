"""Numbers by which frames can be chosen: how sharp, how complete, how many people, how much motion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from remot_data.detectors._boxes import mostly_in_view, sights
from remot_data.detectors._limbs import as_body25
from remot_data.detectors.base import Arrays, DetectorError, file_sha256
from remot_data.detectors.blazepose import PersonDetector
from remot_data.records import BOXES, VALID

# Nose, neck, shoulders, elbows, wrists, hips, knees, ankles: what every body detector can give.
_MAIN = slice(0, 15)
_TRUNK = (2, 5, 9, 12)  # shoulders and hips
_SHARPNESS_HEIGHT = 128  # pixels that the person is brought to before the Laplacian is taken


class BasicScores:
    """Scores of every frame from its pose and its picture.

    Args:
        every: people are counted in every so many frames, and the number holds until the next count.
        visible: confidence from which a joint counts as visible.
        weights: a ``pose_detection.tflite`` to count people with; the asset ``blazepose-detector`` if not given.
        threads: CPU threads of LiteRT.
    """

    name = "basic-scores"
    kind = "scores"
    version = "1"
    schema = "basic"
    needs: tuple[str, ...] = ("pose", BOXES, VALID)
    licence = "Apache-2.0"
    approximate = False

    def __init__(self, every: int = 15, visible: float = 0.5, weights: str | Path | None = None, threads: int = 1):
        if every < 1:
            raise DetectorError(f"basic-scores: every is {every}; give 1 to count people in every frame, or more")
        self.every, self.visible, self.threads = every, visible, threads
        self._people = PersonDetector(weights, threads)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "detector": self.name,
            "version": self.version,
            "weights": file_sha256(self._people.path),
            "settings": {"every": self.every, "visible": self.visible, "threads": self.threads},
        }

    def __call__(self, frames: np.ndarray, **needed: Arrays) -> Arrays:
        """Scores float32 [T] each, of frames uint8 [T, H, W, 3]; `needed["pose"]` has `keypoints` [T, K, 3].

        Returns:
            `sharpness`: variance of the Laplacian of the grey values inside the person's box, the person brought
            to a height of 128 pixels so that frames of different sizes compare; of the whole frame without a person.
            `visible_joints`: share of the 15 main joints that are visible.
            `persons`: number of people in the frame.
            `motion`: mean distance that the main joints moved since the frame before, in heights of the person;
            the first frame has the value of the second.

        Given `boxes`, `persons` are those of whose box most lies in the frame, and there is `agreement`: 1 where the
        pose lies on the person of the own box, or on nobody else where that is not known; 0 elsewhere, and without a
        pose. Given `valid`, there is a score of that name: the share of the pixels that are of the source's picture.
        """
        keypoints, boxes, found = as_body25(needed["pose"]["keypoints"]), needed.get(BOXES), Arrays()
        if boxes is None:
            people = self._persons(frames)
        else:
            everybody = np.concatenate([boxes["own"][:, None], boxes["others"]], 1)
            people = mostly_in_view(everybody, frames.shape[1:3]).sum(1).astype(np.float32)
            found["agreement"] = agreement(keypoints, boxes, frames)
        if VALID in needed:
            found[VALID] = np.full(len(frames), needed[VALID][VALID].mean(), np.float32)
        return {**scores(frames, keypoints, people, self.visible), **found}

    def _persons(self, frames: np.ndarray) -> np.ndarray:
        counts = [len(self._people(frame)) for frame in frames[:: self.every]]
        return np.repeat(np.array(counts, np.float32), self.every)[: len(frames)]


def scores(frames: np.ndarray, keypoints: np.ndarray, people: np.ndarray, visible: float = 0.5) -> Arrays:
    """Scores of the schema ``basic``, see `BasicScores.__call__`, from ``body25`` keypoints and a count of people."""
    sharp = [sharpness(frame, _box(points, frame.shape)) for frame, points in zip(frames, keypoints, strict=True)]
    return {
        "sharpness": np.array(sharp, np.float32),
        "visible_joints": (keypoints[:, _MAIN, 2] >= visible).mean(1).astype(np.float32),
        "persons": people,
        "motion": motion(keypoints),
    }


def sharpness(frame: np.ndarray, box: tuple[int, int, int, int]) -> float:
    """Variance of the Laplacian of a box x0, y0, x1, y1 of an image uint8 [H, W, 3], at 128 pixels height."""
    x0, y0, x1, y1 = box
    grey = cv2.cvtColor(np.ascontiguousarray(frame[y0:y1, x0:x1]), cv2.COLOR_RGB2GRAY)
    width = max(round(_SHARPNESS_HEIGHT * grey.shape[1] / grey.shape[0]), 1)
    grey = cv2.resize(grey, (width, _SHARPNESS_HEIGHT), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def agreement(keypoints: np.ndarray, boxes: Arrays, frames: np.ndarray) -> np.ndarray:
    """Whether ``body25`` keypoints [T, 25, 3] lie on the person of the own box: float32 [T] of 0 and 1."""
    out = np.zeros(len(frames), np.float32)
    for t, sight in enumerate(sights(boxes, frames.shape[1:3])):
        points = keypoints[t][keypoints[t, :, 2] > 0, :2]
        if len(points) >= 2:
            trunk = keypoints[t, _TRUNK]
            middle = trunk[trunk[:, 2] > 0, :2] if (trunk[:, 2] > 0).any() else points
            out[t] = sight.holds(np.concatenate([points.min(0), points.max(0)]), middle.mean(0))
    return out


def motion(keypoints: np.ndarray) -> np.ndarray:
    """Mean move of the main joints since the frame before in heights of the person, float32 [T].

    0 where no joint is seen in both frames. The height is the median over the clip of that of the joints seen.
    """
    joints = keypoints[:, _MAIN]
    seen = joints[..., 2] > 0
    out = np.zeros(len(joints), np.float32)
    if len(joints) < 2 or not seen.any():
        return out
    heights = [np.ptp(points[valid, 1]) for points, valid in zip(joints, seen, strict=True) if valid.sum() > 1]
    height = max(float(np.median(heights)), 1.0) if heights else 1.0
    both = seen[1:] & seen[:-1]
    moves = np.hypot(*np.moveaxis(joints[1:, :, :2] - joints[:-1, :, :2], -1, 0)) * both
    out[1:] = moves.sum(1) / np.maximum(both.sum(1), 1) / height
    out[0] = out[1]
    return out


def _box(keypoints: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Box of the keypoints seen, at least 8 pixels a side and inside the image; the whole image without any."""
    h, w = shape[:2]
    points = keypoints[keypoints[:, 2] > 0, :2]
    if len(points) < 2:
        return 0, 0, w, h
    (x0, y0), (x1, y1) = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int)
    x0, y0 = max(min(x0, w - 8), 0), max(min(y0, h - 8), 0)
    return int(x0), int(y0), int(min(max(x1, x0 + 8), w)), int(min(max(y1, y0 + 8), h))
