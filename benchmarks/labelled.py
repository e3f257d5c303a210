"""Forty frames of real clips whose labels were drawn by hand: benchmarks/truth/labels.json, for `benchmarks/parser.py`.

No number was tuned on them; two faults were first seen there (wide trousers as a skirt, bare feet and shins as boots)
and mended on drawn dancers. The sample clips are assets; the other videos are looked for in the folder that is given,
by their paths in their packages (`benchmarks/truth/README.md` says where they come from), and rows of videos that are
not there are left out. Poses and masks are those of the default detector on the frames around, as in a store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from remot_data import assets
from remot_data.detectors.base import Detector
from remot_data.schemas import LABELS

TRUTH = Path(__file__).parent / "truth" / "labels.json"
AROUND = 20  # frames before and after a labelled one that make a clip of it
COARSE = 2  # pixels by which a border may be off
# Of the six layout classes, in the order in which they are painted: the later hides the earlier.
_ORDER = ("top", "bottom", "limbs", "shoes", "head")
_SAMPLE = "Pose2Sim/Demo_SinglePerson/videos/"


@dataclass(frozen=True)
class Labelled:
    """Frames uint8 [T, H, W, 3] around a labelled one, its number `at`, and its labels uint8 [H, W] of `remot6`.

    `near` bool [H, W] is where a border between labels is so near that it may lie elsewhere: polygons are coarse.
    """

    frames: np.ndarray
    at: int
    labels: np.ndarray
    near: np.ndarray


def rows(material: Path | None) -> Iterator[tuple[str, list[Labelled]]]:
    """The labelled frames by video, of the videos that are at hand."""
    truth = json.loads(TRUTH.read_text())
    by_video: dict[str, list[dict[str, Any]]] = {}
    for entry in truth["frames"]:
        by_video.setdefault(entry["video"], []).append(entry)
    for video, entries in by_video.items():
        path = _found(video, material)
        if path is None:
            print(f"{video} is not there: give the folder by --material")
            continue
        pictures = _decoded(path, {n for e in entries for n in _around(e["frame"])})
        yield video.removeprefix(_SAMPLE), [_labelled(entry, pictures, tuple(truth["size"])) for entry in entries]


def _around(frame: int) -> range:
    return range(max(frame - AROUND, 0), frame + AROUND + 1)


def _found(video: str, material: Path | None) -> Path | None:
    if video.startswith(_SAMPLE):
        return Path(assets.fetch("sample-" + Path(video).stem))
    # By the whole path: packages have several videos of one name.
    found = sorted(material.rglob(video)) if material else []
    return found[0] if found else None


def _decoded(path: Path, numbers: set[int]) -> dict[int, np.ndarray]:
    with av.open(str(path)) as container:
        return {
            n: frame.to_ndarray(format="rgb24") for n, frame in enumerate(container.decode(video=0)) if n in numbers
        }


def _labelled(entry: dict[str, Any], pictures: dict[int, np.ndarray], size: tuple[int, int]) -> Labelled:
    numbers = [n for n in _around(entry["frame"]) if n in pictures]
    labels = np.zeros(size, np.uint8)
    for name in _ORDER:
        for polygon in entry["labels"].get(name, ()):
            cv2.fillPoly(labels, [np.array(polygon, np.int32)], LABELS["remot6"].labels.index(name))
    frames = np.stack([_cropped(pictures[n], entry["crop"], size) for n in numbers])
    window = np.ones((2 * COARSE + 1,) * 2, np.uint8)
    near = cv2.dilate(labels, window) != cv2.erode(labels, window)
    return Labelled(frames, numbers.index(entry["frame"]), labels, near)


def _cropped(picture: np.ndarray, crop: list[float], size: tuple[int, int]) -> np.ndarray:
    """The part left, top, width, height of a picture at a size, black outside."""
    left, top, width, height = (round(v) for v in crop)
    rows, columns = picture.shape[:2]
    border = max(-left, -top, left + width - columns, top + height - rows, 0)
    wide = cv2.copyMakeBorder(picture, border, border, border, border, cv2.BORDER_CONSTANT)
    part = wide[top + border : top + border + height, left + border : left + border + width]
    return cv2.resize(part, size[::-1], interpolation=cv2.INTER_AREA)


def parsed(one: Labelled, detector: Detector, pose: Detector) -> dict[str, np.ndarray]:
    """What the detector makes of the clip around a labelled frame: its arrays for that frame, [1, H, W] each."""
    needed = {"pose": pose(one.frames)} if "pose" in detector.needs else {}
    return {name: values[one.at][None] for name, values in detector(one.frames, **needed).items()}
