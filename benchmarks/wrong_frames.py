"""How many wrong frames a filter over scores finds, and how many good ones it loses.

Three materials, each in a part that limits were set on and a part that is reported:

- drawn: dancers of `remot_data.synthetic`, their exact poses made to tremble as a detector's do, spans of which are spoilt:
  sides exchanged (of all, arms or legs), limbs lost, an arm elsewhere, the whole pose elsewhere, somebody else's pose,
  labels beside the person. A spoilt frame is wrong where a joint is off by 6 % of the height or lost, or labels moved.
- mirrored: the default pose detector on clips and on their mirrored copies. A frame is wrong where the poses, mirrored
  back, disagree on a shoulder, elbow, wrist, hip, knee or ankle by more than 10 % of the height, or only one has it.
- gloves: `benchmarks/gloves.py` judges the dancer of `musicalgestures`: wrong is swapped, far or missing.

`found` is the share of the wrong frames that the filter leaves out, `lost` that of the good ones.

    python benchmarks/wrong_frames.py [--store STORE] [--where FILTER] [--part report|tune] [--dancers 40]

`--store` has clips with the layers of the default pose and parsing detectors (`remot build`); without it only drawn
dancers are judged.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from remot_data.detectors.base import Arrays
from remot_data.detectors.quality_scores import QualityScores
from remot_data.schemas import keypoint_set
from remot_data.synthetic import Dancer, dance

SEEDS = {"tune": 0, "report": 5000}
_P = keypoint_set("body25").points
_PAIRS = [(i, _P.index(name.replace("left", "right"))) for i, name in enumerate(_P) if name.startswith("left")]
_ARMS = [p for p in _PAIRS if _P[p[0]].endswith(("shoulder", "elbow", "wrist"))]
_LEGS = [p for p in _PAIRS if _P[p[0]].endswith(("hip", "knee", "ankle", "toe", "heel"))]
_LIMBS = [[_P.index(f"{side}-{n}") for n in names]
          for side in ("left", "right") for names in (("elbow", "wrist"), ("wrist",), ("knee", "ankle", "big-toe", "small-toe", "heel"))]  # fmt: skip
_JOINTS = slice(0, 15)
_OFF, _APART = 0.06, 0.10


@dataclass
class Judged:
    """Scores of the frames of a clip, which of them are wrong, and which count at all."""

    name: str
    scores: Arrays
    wrong: np.ndarray
    counted: np.ndarray


def trembling(points: np.ndarray, tall: float, rng: np.random.Generator) -> np.ndarray:
    """Keypoints with the noise of a detector: 0.4 % of the height each frame, 0.6 % that lasts, and confidences."""
    out = points.copy()
    slow = rng.normal(0, 0.006 * tall, points[..., :2].shape)
    for t in range(1, len(slow)):
        slow[t] = 0.8 * slow[t - 1] + 0.6 * slow[t]
    out[..., :2] += (slow + rng.normal(0, 0.004 * tall, slow.shape)) * (points[..., 2:] > 0)
    out[..., 2] *= rng.uniform(0.75, 1, points.shape[:2])
    return out.astype(np.float32)


def exchanged(points: np.ndarray, pairs: list[tuple[int, int]]) -> np.ndarray:
    out = points.copy()
    a, b = np.array(pairs).T
    out[:, a], out[:, b] = points[:, b], points[:, a]
    return out


def spoil(kind: str, points: np.ndarray, other: np.ndarray, tall: float, rng: np.random.Generator) -> np.ndarray:
    """Some frames' keypoints [T, 25, 3], spoilt."""
    out = points.copy()
    if kind == "swapped":
        return exchanged(points, _PAIRS)
    if kind in ("arms swapped", "legs swapped"):
        return exchanged(points, _ARMS if kind[0] == "a" else _LEGS)
    if kind == "lost":
        out[:, _LIMBS[int(rng.integers(len(_LIMBS)))]] = 0
    if kind == "arm elsewhere":
        which = _LIMBS[int(rng.choice([0, 3]))]
        angle = rng.uniform(0, 2 * np.pi)
        push = rng.uniform(0.12, 0.3) * tall * np.array([np.cos(angle), np.sin(angle)])
        out[:, which[0], :2] += 0.5 * push
        out[:, which[1], :2] += push
    if kind == "elsewhere":
        angle = rng.uniform(0, 2 * np.pi)
        out[..., :2] += rng.uniform(0.15, 0.4) * tall * np.array([np.cos(angle), np.sin(angle)])
    if kind == "somebody else":
        hips = _P.index("mid-hip")
        out[..., :2] = other[..., :2] - other[:, [hips], :2] + points[:, [hips], :2]
        out[..., 2] = other[..., 2]
    return out.astype(np.float32)


KINDS = ("swapped", "arms swapped", "legs swapped", "lost", "arm elsewhere", "elsewhere", "somebody else", "labels beside")


def drawn(part: str, dancers: int, frames: int = 90) -> Iterator[Judged]:
    """Clips of drawn dancers with one kind of fault in a few spans each; every ninth has none."""
    detector = QualityScores()
    for number in range(dancers):
        seed = SEEDS[part] + number
        rng = np.random.default_rng([seed, 18])
        scene, other = (dance(Dancer.random(seed + k), frames, seed=seed + k) for k in (0, 100_000))
        ys = scene.keypoints[..., 1][scene.keypoints[..., 2] > 0]
        tall = float(np.ptp(ys.reshape(-1))) if len(ys) else 1.0
        good = trembling(scene.keypoints, tall, rng)
        points, labels = good.copy(), scene.labels.copy()
        wrong, counted = np.zeros(frames, bool), np.ones(frames, bool)
        kind = [*KINDS, "none"][number % 9]
        at = int(rng.integers(3, 20))
        while kind != "none" and at < frames - 3:
            long = int(rng.choice([1, 2, 3, 5, 8, 14, 22]))
            span = slice(at, min(at + long, frames))
            if kind == "labels beside":
                move = rng.uniform(0.06, 0.2) * tall * rng.choice((-1, 1))
                labels[span] = np.roll(labels[span], int(move), 2)
                wrong[span] = True
            else:
                points[span] = spoil(kind, good[span], other.keypoints[span], tall, rng)
                off = np.hypot(*np.moveaxis(points[span, _JOINTS, :2] - good[span, _JOINTS, :2], -1, 0)).max(1) / tall
                wrong[span] = off > _OFF
                counted[span] = off > _OFF
            at += long + int(rng.integers(20, 50))
        needed = {"pose": {"keypoints": points, "mask": scene.mask}, "parsing": {"labels": labels}}
        boxes = {"own": np.full((frames, 4), np.nan, np.float32), "others": np.zeros((frames, 0, 4), np.float32)}
        yield Judged(f"drawn, {kind}", detector(scene.frames, **needed, boxes=boxes), wrong, counted)
