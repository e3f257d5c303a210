"""How many wrong frames a filter over scores finds, and how many good ones it loses.

Three materials, each in a part that limits were set on (`--part tune`) and another that is reported:

- drawn: dancers of `remot_data.synthetic` (seeds from 0 for tuning, from 5000 for the report), their exact poses made
  to tremble as a detector's do, with one kind of fault in a few spans of 1 to 22 frames each: sides exchanged (of all,
  arms or legs), a limb lost, an arm elsewhere, the whole pose elsewhere, somebody else's pose, labels beside her.
  A spoilt frame is wrong where a joint is off by 6 % of the height or lost, or labels moved; others do not count.
- mirrored: the default pose detector on clips and on their mirrored copies. A frame is wrong where the poses, mirrored
  back, disagree on a shoulder, elbow, wrist, hip, knee or ankle by more than 10 % of the height, or only one has it;
  good where both have all of them, and agree. So what both do wrong alike is called good. Both are looked for in the
  same frames, those that a new store takes for it: the sources'.
  Tuning: sample-cam01, sample-cam03 and the dancer's first part; report: sample-cam02, sample-cam04 and her others.
- gloves: the dancer of `benchmarks/gloves.py`, where both gloves are judged; wrong is swapped, off or missing. Tuning:
  her first part; report: the others.

`found` is the share of the wrong frames that the filter leaves out, `lost` that of the good ones.

    python benchmarks/wrong_frames.py [FOLDER] [--clip dancer.avi] [--where FILTER] [--part report] [--dancers 90]

FOLDER is for the stores of real clips, which are made there where they lack; without it only drawn dancers are judged.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gloves

from remot_data import assets, persons
from remot_data.annotating import source_frames
from remot_data.detectors._motions import height
from remot_data.detectors.base import Arrays, load
from remot_data.detectors.quality_scores import QualityScores
from remot_data.ingest.build import build
from remot_data.reading.filters import DEFAULT, passing
from remot_data.records import BOXES, TIMES, VALID, Clip
from remot_data.schemas import keypoint_set
from remot_data.store import Store, open_store
from remot_data.store.boxes import boxes_at_size
from remot_data.synthetic import Dancer, dance

SEEDS = {"tune": 0, "report": 5000}
_P = keypoint_set("body25").points
_PAIRS = [(i, _P.index(name.replace("left", "right"))) for i, name in enumerate(_P) if name.startswith("left")]
_ARMS = [p for p in _PAIRS if _P[p[0]].endswith(("shoulder", "elbow", "wrist"))]
_LEGS = [p for p in _PAIRS if _P[p[0]].endswith(("hip", "knee", "ankle", "toe", "heel"))]
_LIMBS = [
    [_P.index(f"{side}-{name}") for name in names]
    for side in ("left", "right")
    for names in (("elbow", "wrist"), ("wrist",), ("knee", "ankle", "big-toe", "small-toe", "heel"))
]
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


KINDS = (
    "swapped",
    "arms swapped",
    "legs swapped",
    "lost",
    "arm elsewhere",
    "elsewhere",
    "somebody else",
    "labels beside",
)


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
        seconds = {TIMES: np.arange(frames) / scene.fps}
        yield Judged(f"drawn, {kind}", detector(scene.frames, **needed, boxes=boxes, times=seconds), wrong, counted)


PARTS = {"tune": ("sample-cam01", "sample-cam03", "A"), "report": ("sample-cam02", "sample-cam04", "B", "C")}


def real(part: str, folder: Path, dancer: Path | None) -> Iterator[Judged]:
    """Clips of the samples and of the dancer with gloves, judged by their mirrored copies and by the gloves."""
    layers = {"pose": "blazepose", "parsing": "pose-guided"}
    found = gloves.stores(folder, dancer, layers)
    found = {name: found[name] for name in found if name[-1] in PARTS[part]}
    for name in PARTS[part]:
        if name.startswith("sample"):
            build([assets.fetch(name)], str(folder / name), layers=layers, workers=0)
            found[name] = open_store(str(folder / name))
    for name, store in found.items():
        for clip in store.clips:
            frames, needed = given(store, clip)
            scores = QualityScores()(frames, **needed)
            points = needed["pose"]["keypoints"]
            looked_at, boxes = as_looked_at(store, clip, frames, needed[BOXES])
            yield Judged("mirrored", scores, *against_mirror(looked_at, boxes, points, needed[TIMES], frames.shape[2]))
            if not name.startswith("sample"):
                verdict = gloves.judge(store, name, store.snapshot("main").layers["pose"])
                wrong, counted = np.zeros((2, len(frames)), bool)
                wrong[verdict.swapped + verdict.off] = True
                counted[verdict.judged] = True
                yield Judged("gloves", scores, wrong, counted)


def given(store: Store, clip: Clip) -> tuple[np.ndarray, dict[str, Any]]:
    """Frames of a clip, and what a detector of scores is given of it."""
    folders = store.folders(store.snapshot("main"))
    needed: dict[str, Any] = {kind: store.read_arrays(folders[kind], kind, clip) for kind in ("pose", "parsing")}
    boxes = store.boxes(clip)
    assert boxes is not None
    needed[BOXES] = dict(zip(("own", "others"), boxes.in_frames(clip, store.size), strict=True))
    needed[VALID] = {VALID: persons.valid(clip.crop, clip.source_size, store.size)}
    needed[TIMES] = {TIMES: clip.seconds}
    return store.read_arrays("frames", "frames", clip)["frames"], needed


def as_looked_at(store: Store, clip: Clip, frames: np.ndarray, boxes: Arrays) -> tuple[np.ndarray, Arrays]:
    """The frames that the pose layer was made from, and the boxes of persons in them."""
    if rows := store.layer("pose", store.snapshot("main").layers["pose"]).source:
        size = source_frames.native_size(clip, store.size, rows)
        policy = store.config["policy"]
        frames = source_frames.read_native(clip, size, times=policy.get("times"), outside=store.outside)
        return frames, boxes_at_size(boxes, store.size, size)
    return frames, boxes


def against_mirror(
    frames: np.ndarray, boxes: Arrays, points: np.ndarray, times: Arrays, wide: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where the pose of the mirrored clip is another, and where that tells something: bool [T] each.

    `points` are those of the layer, in frames that are `wide` pixels wide.
    """
    width = frames.shape[2]
    turned = {
        name: np.stack([width - b[..., 2], b[..., 1], width - b[..., 0], b[..., 3]], -1) for name, b in boxes.items()
    }
    told = {BOXES: turned, TIMES: times}
    found = load("blazepose")(np.ascontiguousarray(frames[:, :, ::-1]), **told)["keypoints"].copy()
    found[..., 0] = np.where(found[..., 2] > 0, width - found[..., 0], 0)
    found[..., :2] *= wide / width
    pairs = np.ravel(_ARMS + [p for p in _LEGS if p[0] < 15])
    a, b = points[:, pairs], exchanged(found, _PAIRS)[:, pairs]
    both, one = (a[..., 2] > 0) & (b[..., 2] > 0), (a[..., 2] > 0) != (b[..., 2] > 0)
    off = np.hypot(*np.moveaxis(a[..., :2] - b[..., :2], -1, 0)) > _APART * height(points)
    wrong = (one | (both & off)).any(1)
    return wrong, wrong | (both | one).all(1)


def told(name: str, judged: list[Judged], where: str) -> str:
    """A line: of the wrong frames how many are found, of the good ones how many are lost."""
    out = [~passing(where, j.scores, len(j.wrong)) for j in judged]
    wrong, good = (
        np.concatenate([o[j.counted & (j.wrong if bad else ~j.wrong)] for o, j in zip(out, judged, strict=True)])
        for bad in (True, False)
    )
    shares = [f"{int(x.sum()):5d} of {len(x):5d} {100 * x.mean() if len(x) else 0:5.1f} %" for x in (wrong, good)]
    return f"{name:22} found {shares[0]}   lost {shares[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--clip", type=Path, help="the video of the dancer, where it is here already")
    parser.add_argument("--where", help="a filter; by default that of new stores, and visible_joints>=0.8 beside it")
    parser.add_argument("--part", choices=["tune", "report"], default="report")
    parser.add_argument("--dancers", type=int, default=90)
    args = parser.parse_args()
    judged = list(drawn(args.part, args.dancers))
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
        judged += real(args.part, args.folder, args.clip)
    for where in [args.where] if args.where else [DEFAULT, "visible_joints>=0.8"]:
        print(where)
        for name in dict.fromkeys(j.name for j in judged):
            print("  " + told(name, [j for j in judged if j.name == name], where))
        for kind in dict.fromkeys(j.name.partition(",")[0] for j in judged):
            print("  " + told(f"all {kind}", [j for j in judged if j.name.startswith(kind)], where))
        print("  " + told("all", judged, where))


if __name__ == "__main__":
    main()
