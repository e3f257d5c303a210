"""Videos of several persons whose truth is known: who stands where in every frame, and how much of her is seen.

The dancer of the sample clips, cut out by the default pose detector's mask and dressed anew for each person of a
scene, moves before a drawn room. The truth has, for every frame and person, the box of what was pasted, cut at the
border of the picture, how much of her is seen, and the keypoints that the detector finds in the large cut-out. Scenes
are the same for the same seed; seeds below `REPORTED` are for setting thresholds, the others for what is reported.

    python benchmarks/made_scenes.py FOLDER [--seeds 1000 1001] [--only relay jump_cut]

It writes `NAME-SEED.mp4` and beside it `NAME-SEED.json`, which `read_truth` reads.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from remot_data import media
from remot_data.assets import fetch
from remot_data.detectors.base import load
from remot_data.records import WH, XYWH

FPS = 30
REPORTED = 1000
# A person is wholly visible where all of her lies in the picture and nobody in front hides more than this share.
HIDDEN = 0.02


# --- truth --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """One person in one frame.

    Attributes:
        id: the same in all frames of a video.
        box: float64 [4], XYXY in displayed pixels, inside the picture; what others hide of her belongs to it.
        shown: ``all`` if she is wholly visible, ``most`` if at least half of her is, else ``part``.
        keypoints: float32 [25, 3], BODY_25, also of joints that are hidden; None where they are not known.
    """

    id: str
    box: np.ndarray
    shown: str
    keypoints: np.ndarray | None = None

    @property
    def height(self) -> float:
        return float(self.box[3] - self.box[1])


@dataclass(frozen=True)
class Truth:
    """Who is where in a video: `at` has the frames that are known, by their number; an empty list is nobody."""

    video: str
    size: WH
    frames: int
    at: Mapping[int, Sequence[Seen]]


def read_truth(path: Path) -> Truth:
    """The truth in a JSON file, made here or drawn by hand (see benchmarks/truth/README.md)."""
    plain = json.loads(path.read_text())
    at = {int(frame): [_seen(person) for person in people] for frame, people in plain["at"].items()}
    return Truth(plain["video"], (plain["size"][0], plain["size"][1]), plain["frames"], at)


def _seen(plain: Mapping[str, Any]) -> Seen:
    keypoints = np.array(plain["keypoints"], np.float32).reshape(25, 3) if "keypoints" in plain else None
    return Seen(plain["id"], np.array(plain["box"], float), plain["shown"], keypoints)


def write_truth(path: Path, truth: Truth) -> None:
    at = {str(frame): [_plain(person) for person in people] for frame, people in truth.at.items()}
    plain = {"video": truth.video, "size": truth.size, "frames": truth.frames, "at": at}
    path.write_text(json.dumps(plain, separators=(",", ":")) + "\n")


def _plain(person: Seen) -> dict[str, Any]:
    plain = {"id": person.id, "box": person.box.round(1).tolist(), "shown": person.shown}
    if person.keypoints is None:
        return plain
    return {**plain, "keypoints": [round(float(value), 2) for value in person.keypoints.ravel()]}


# --- cut-outs -----------------------------------------------------------------------------------------------

# x, y, width, height round the dancer in each sample clip.
_CROPS = {1: (24, 135, 1037, 1383), 2: (95, 259, 808, 1078), 3: (0, 250, 897, 1197), 4: (70, 217, 1015, 1353)}
_TILT = {1: 14.0, 2: 0.0, 3: 0.0, 4: -18.0}  # degrees that the camera was turned by
_WIDTH = 480


@dataclass(frozen=True)
class Cutout:
    """A dancer without her surroundings.

    Attributes:
        pictures: uint8 [T, H, W, 3].
        alpha: float32 [T, H, W], 0 to 1.
        keypoints: float32 [T, 25, 3], BODY_25 in pixels of the pictures.
        boxes: float64 [T, 4], XYXY of where alpha is at least a half.
    """

    pictures: np.ndarray
    alpha: np.ndarray
    keypoints: np.ndarray
    boxes: np.ndarray

    @property
    def height(self) -> float:
        return float(np.median(self.boxes[:, 3] - self.boxes[:, 1]))

    @property
    def width(self) -> float:
        return float(np.median(self.boxes[:, 2] - self.boxes[:, 0]))


@lru_cache
def cutout(camera: int) -> Cutout:
    """The dancer as one of the four cameras saw him, 30 frames a second."""
    x, y, wide, tall = _CROPS[camera]
    shape = round(_WIDTH * tall / wide), _WIDTH
    clip = media.read(fetch(f"sample-cam{camera:02d}"), crop=XYWH((x, y, wide, tall)), size=shape)
    upright = cv2.getRotationMatrix2D((shape[1] / 2, shape[0] / 2), _TILT[camera], 1.0)
    pictures = np.stack([_turned(picture, upright) for number, (_, picture) in enumerate(clip) if number % 2 == 0])
    found = load("blazepose", settings={"carry": False})(pictures)
    alpha = np.stack([_cleaned(mask) for mask in found["mask"]])
    return Cutout(pictures, alpha, found["keypoints"], np.stack([_box(a) for a in alpha]))


def _turned(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(picture, matrix, picture.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


def _cleaned(mask: np.ndarray) -> np.ndarray:
    """Alpha of the one person in a soft mask, without what is not joined to her, and with soft edges."""
    inside = cv2.morphologyEx((mask >= 140).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside)
    if count < 2:
        raise ValueError("nobody is seen in a sample clip: the pose detector finds no mask")
    largest = (labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()) & (inside > 0)
    return cv2.GaussianBlur(largest.astype(np.float32), None, 1.2)


def _box(alpha: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero((alpha >= 0.5).any(1)), np.flatnonzero((alpha >= 0.5).any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


@dataclass(frozen=True)
class Outfit:
    """Colours of cap, shorts and shirt, and what the skin is multiplied by; None leaves them as they are."""

    cap: tuple[int, int, int] | None = None
    shorts: tuple[int, int, int] | None = None
    shirt: tuple[int, int, int] | None = None
    skin: tuple[float, float, float] = (1.0, 1.0, 1.0)


OUTFITS = (
    Outfit(),
    Outfit((190, 40, 40), (70, 110, 200), None, (0.55, 0.5, 0.48)),
    Outfit((235, 220, 90), (170, 40, 60), (235, 235, 230)),
    Outfit((40, 40, 45), (60, 130, 70), (220, 150, 40), (0.8, 0.75, 0.7)),
    Outfit((240, 240, 240), (150, 110, 60), (60, 60, 150), (1.15, 1.1, 1.1)),
    Outfit((120, 60, 140), (220, 200, 190), (150, 30, 40), (0.5, 0.45, 0.43)),
)


@lru_cache(maxsize=16)
def dressed(camera: int, outfit: Outfit, mirrored: bool) -> Cutout:
    """A person of her own: a cut-out with other clothes and skin."""
    one = cutout(camera)
    shirts = [_torso(points, alpha.shape) for points, alpha in zip(one.keypoints, one.alpha, strict=True)]
    both = zip(one.pictures, shirts, strict=True)
    one = replace(one, pictures=np.stack([_recoloured(picture, shirt, outfit) for picture, shirt in both]))
    return _mirrored(one) if mirrored else one


def _torso(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Where a shirt would be: bool [H, W], between shoulders and hips and a little round them."""
    corners, area = points[[2, 5, 12, 9]], np.zeros(shape, np.uint8)
    if (corners[:, 2] > 0).all():
        cv2.fillConvexPoly(area, cv2.convexHull(corners[:, :2].round().astype(np.int32)), 1)
        area = cv2.dilate(area, np.ones((15, 15), np.uint8))
    return area > 0


def _recoloured(picture: np.ndarray, torso: np.ndarray, outfit: Outfit) -> np.ndarray:
    hue, strong, light = cv2.split(cv2.cvtColor(picture, cv2.COLOR_RGB2HSV))
    cap = (abs(hue.astype(int) - 97) < 14) & (strong > 110)
    shorts = ~cap & (light < 80)
    out = np.where((cap | shorts)[..., None], picture, picture * np.array(outfit.skin, np.float32))
    for area, colour in ((torso & ~cap & ~shorts, outfit.shirt), (cap, outfit.cap), (shorts, outfit.shorts)):
        if colour is not None and area.any():
            shade = light[area] / max(float(np.median(light[area])), 1.0)
            out[area] = shade.clip(0.5, 1.4)[:, None] * np.array(colour)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


# Left and right change places in BODY_25.
_MIRROR_25 = [0, 1, 5, 6, 7, 2, 3, 4, 8, 12, 13, 14, 9, 10, 11, 16, 15, 18, 17, 22, 23, 24, 19, 20, 21]


def _mirrored(one: Cutout) -> Cutout:
    wide = one.alpha.shape[2]
    keypoints, boxes = one.keypoints[:, _MIRROR_25].copy(), one.boxes.copy()
    keypoints[..., 0] = np.where(keypoints[..., 2] > 0, wide - keypoints[..., 0], 0)
    boxes[:, [0, 2]] = wide - boxes[:, [2, 0]]
    return Cutout(one.pictures[:, :, ::-1], one.alpha[:, :, ::-1], keypoints, boxes)


# --- scenes -------------------------------------------------------------------------------------------------


@dataclass
class Actor:
    """A person of a scene.

    Attributes:
        height: median height of her boxes in pixels.
        x: float [T], where the middle of her feet is, in pixels; outside the picture where she is away.
        ground: y of her feet.
        step: int [T], the frame of the cut-out in each frame of the scene; it is played to and fro.
    """

    id: str
    person: Cutout
    height: float
    x: np.ndarray
    ground: float
    step: np.ndarray

    @property
    def scale(self) -> float:
        return self.height / self.person.height

    @property
    def width(self) -> float:
        return self.person.width * self.scale


@dataclass(frozen=True)
class Plan:
    """A scene before it is drawn: its actors from the back to the front, the size of its picture, its frames."""

    size: WH
    frames: int
    actors: Sequence[Actor]


class Stage:
    """What the plans of scenes are made with: chance, the size of the picture, and how long the scene lasts."""

    def __init__(self, rng: np.random.Generator, size: WH, seconds: float) -> None:
        self.rng, self.size, self.frames = rng, size, round(seconds * FPS)
        self.cameras, self.outfits = list(rng.permutation([2, 3, 1, 4])), list(rng.permutation(len(OUTFITS)))
        self.cast: list[Actor] = []

    def actor(self, low: float, high: float, ground: float | None = None) -> Actor:
        """Somebody new, `low` to `high` pixels tall, in the middle; `ground` is a share of the picture's height."""
        number = len(self.cast)
        outfit = OUTFITS[self.outfits[number % len(OUTFITS)]]
        person = dressed(int(self.cameras[number % 4]), outfit, bool(self.rng.integers(2)))
        down = self.rng.uniform(0.82, 0.9) if ground is None else ground
        start, frames = int(self.rng.integers(2 * len(person.alpha))), np.arange(self.frames)
        middle = np.full(self.frames, self.size[0] / 2)
        height = self.rng.uniform(low, high)
        one = Actor("abcdef"[number], person, height, middle, down * self.size[1], start + frames)
        self.cast.append(one)
        return one

    def plan(self) -> Plan:
        """The plan: who stands lower in the picture stands in front."""
        return Plan(self.size, self.frames, sorted(self.cast, key=lambda a: a.ground))

    def away(self, one: Actor, side: int) -> float:
        """An x at which nothing of her is seen, beyond the left (-1) or the right border (1)."""
        boxes = one.person.boxes
        feet = np.median(boxes[:, [0, 2]])
        reach = max(feet - boxes[:, 0].min(), boxes[:, 2].max() - feet) * one.scale + 4
        return -reach if side < 0 else self.size[0] + reach

    def go(self, one: Actor, *points: tuple[float, float]) -> None:
        """Send her through (seconds, x); she speeds up and slows down within a fifth of a second."""
        times, places = zip(*points, strict=True)
        if any(after <= before for before, after in itertools.pairwise(times)):
            raise ValueError(f"the way of {one.id} goes back in time: {times}")
        x = np.interp(np.arange(-3, self.frames + 3) / FPS, times, places)
        one.x = np.convolve(x, np.full(7, 1 / 7), "valid")

    def to_and_fro(self, one: Actor, widths: float) -> None:
        """Let her move between the sides of the picture, `widths` body widths a second."""
        room = one.width * 0.9
        span, speed = self.size[0] - 2 * room, widths * one.width
        begins, turns = self.rng.uniform(0, 0.3) * span, [0.0]
        while turns[-1] * speed < begins + speed * self.frames / FPS:
            turns.append((len(turns) * span) / speed)
        points = [(t - begins / speed, room + span * (n % 2)) for n, t in enumerate(turns)]
        self.go(one, *points)


def _still(rng: np.random.Generator) -> Plan:
    stage = Stage(rng, (640, 360), 3.0)
    one = stage.actor(80, 150)
    one.x += rng.uniform(-0.2, 0.2) * stage.size[0]
    return stage.plan()


def _lateral(widths: float, size: WH, low: float, high: float) -> Callable[[np.random.Generator], Plan]:
    def plan(rng: np.random.Generator) -> Plan:
        stage = Stage(rng, size, 4.5)
        stage.to_and_fro(stage.actor(low, high), widths)
        return stage.plan()

    return plan


def _leaves(rng: np.random.Generator) -> Plan:
    """She dances, runs out of the picture, is away for a while, comes back on the same side or the other."""
    stage = Stage(rng, (640, 360), 8.0)
    one = stage.actor(90, 130)
    out, back = rng.choice([-1, 1], 2)
    place = (0.5 + rng.uniform(0.0, 0.15, 2) * (out, back)) * stage.size[0]
    gone, comes = stage.away(one, out), stage.away(one, back)
    seconds = np.abs(np.array([gone, comes]) - place) / (3.5 * one.width)
    last, first = 1.5 + seconds[0], 2.8 + seconds[0]
    stage.go(one, (first, comes), (first + seconds[1], place[1]))
    returns = one.x
    stage.go(one, (1.5, place[0]), (last, gone))
    one.x = np.where(np.arange(stage.frames) < FPS * (last + first) / 2, one.x, returns)
    return stage.plan()


def _runs(rng: np.random.Generator) -> Plan:
    """She dances on one side, runs to the other in one go and dances there."""
    stage = Stage(rng, (640, 360), 5.0)
    one = stage.actor(100, 130)
    left, right = one.width, stage.size[0] - one.width
    ends = (left, right) if rng.integers(2) else (right, left)
    stage.go(one, (2.0, ends[0]), (2.0 + (right - left) / (3.5 * one.width), ends[1]))
    return stage.plan()


def _jump_cut(rng: np.random.Generator) -> Plan:
    """The same set and dancer, but from one frame to the next she stands elsewhere in another pose."""
    stage = Stage(rng, (640, 360), 4.0)
    one = stage.actor(90, 130)
    cut, half = stage.frames // 2, stage.size[0] / 2
    place = half + rng.choice([-1, 1]) * rng.uniform(0.2, 0.3) * stage.size[0] * np.array([1, -1])
    one.x = np.repeat(place, [cut, stage.frames - cut])
    one.step[cut:] += int(rng.integers(15, 35)) - cut
    return stage.plan()


def _crossing(first: float, second: float, size: WH, low: float, high: float) -> Callable[[np.random.Generator], Plan]:
    """Two come from opposite sides, at these body widths a second, and meet in the middle of the time."""

    def plan(rng: np.random.Generator) -> Plan:
        stage = Stage(rng, size, 4.5)
        a, b = stage.actor(low, high, 0.86), stage.actor(low, high, rng.choice([0.8, 0.92]))
        for one, widths in ((a, first), (b, -second)):
            _passes(stage, one, widths, stage.size[0] * 0.5, 2.25)
        return stage.plan()

    return plan


def _passes(stage: Stage, one: Actor, widths: float, place: float, when: float) -> None:
    """Let her go through the picture, past `place` after `when` seconds; to the left if `widths` is negative."""
    speed, side = widths * one.width, 1 if widths > 0 else -1
    stage.go(one, *((when + (x - place) / speed, x) for x in (stage.away(one, -side), stage.away(one, side))))


def _three(rng: np.random.Generator) -> Plan:
    """Three at different speeds, whose ways all cross."""
    stage = Stage(rng, (1280, 720), 5.0)
    grounds = rng.permutation([0.8, 0.86, 0.92])
    for ground, widths, place in zip(grounds, (1.0, -1.7, 2.6), (0.45, 0.55, 0.5), strict=True):
        _passes(stage, stage.actor(150, 220, float(ground)), widths, place * stage.size[0], rng.uniform(2.2, 2.8))
    return stage.plan()


def _relay(rng: np.random.Generator) -> Plan:
    """One leaves the picture; when she is gone another one comes in."""
    stage = Stage(rng, (640, 360), 6.5)
    a, b = stage.actor(90, 130), stage.actor(90, 130)
    out, comes, half = *rng.choice([-1, 1], 2), stage.size[0] / 2
    gone = 1.3 + abs(stage.away(a, out) - half) / (3 * a.width)
    stage.go(a, (1.3, half), (gone, stage.away(a, out)))
    there = 0.2 + gone + abs(stage.away(b, comes) - half) / (3 * b.width)
    stage.go(b, (gone + 0.2, stage.away(b, comes)), (there, half))
    return stage.plan()


def _takes_place(rng: np.random.Generator) -> Plan:
    """One walks out of the picture while another one comes in from the other side, to where she stood."""
    stage = Stage(rng, (1280, 720), 5.5)
    a, b = stage.actor(180, 240), stage.actor(180, 240)
    side, half = rng.choice([-1, 1]), stage.size[0] / 2
    leaves, speed = 1.3, 2.0
    stage.go(a, (leaves, half), (leaves + abs(stage.away(a, side) - half) / (speed * a.width), stage.away(a, side)))
    there = leaves + 0.8
    stage.go(b, (there - abs(stage.away(b, -side) - half) / (speed * b.width), stage.away(b, -side)), (there, half))
    return stage.plan()


def _passer_by(rng: np.random.Generator) -> Plan:
    """Somebody walks through behind the dancer, smaller and higher up in the picture."""
    stage = Stage(rng, (1920, 1080), 5.0)
    stage.actor(250, 300, 0.92)
    other, side = stage.actor(130, 170, 0.8), rng.choice([-1, 1])
    speed = 4.0 * other.width
    way = [
        (2.5 + (stage.away(other, s) - stage.size[0] / 2) * side / speed, stage.away(other, s)) for s in (-side, side)
    ]
    stage.go(other, *way)
    return stage.plan()


def _side_by_side(rng: np.random.Generator) -> Plan:
    stage = Stage(rng, (640, 360), 3.5)
    a, b = stage.actor(76, 100, 0.86), stage.actor(76, 100, 0.87)
    apart, middle = rng.uniform(1.3, 1.6) * (a.width + b.width) / 2, rng.uniform(0.4, 0.6) * stage.size[0]
    a.x, b.x = a.x * 0 + middle - apart / 2, b.x * 0 + middle + apart / 2
    return stage.plan()


SCENES: dict[str, Callable[[np.random.Generator], Plan]] = {
    "still": _still,
    "lateral_1": _lateral(1.0, (640, 360), 90, 130),
    "lateral_2": _lateral(2.0, (1280, 720), 150, 220),
    "lateral_4": _lateral(4.0, (1920, 1080), 170, 260),
    "lateral_6": _lateral(6.0, (640, 360), 80, 110),
    "leaves_comes_back": _leaves,
    "runs_across": _runs,
    "jump_cut": _jump_cut,
    "crossing_slow": _crossing(1.0, 1.5, (1280, 720), 180, 260),
    "crossing_fast": _crossing(2.0, 3.5, (1920, 1080), 180, 300),
    "three_crossing": _three,
    "relay": _relay,
    "takes_place": _takes_place,
    "passer_by": _passer_by,
    "side_by_side": _side_by_side,
}


# --- drawing ------------------------------------------------------------------------------------------------


def room(size: WH, rng: np.random.Generator) -> np.ndarray:
    """A wall with blotches and seams above a floor: uint8 [H, W, 3]."""
    wide, tall = size
    picture = np.empty((tall, wide, 3), np.float32)
    picture[:] = rng.uniform(120, 200) + rng.uniform(-25, 25, 3)
    for cells, light, colour in ((12, 12, 5), (40, 11, 7)):
        shape = max(cells * tall // wide, 2), cells
        patches = rng.normal(0, light, (*shape, 1)) + rng.normal(0, colour, (*shape, 3))
        picture += cv2.resize(patches.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    for x in np.arange(1, 8) * wide // 8:
        picture[:, x : x + max(wide // 320, 1)] *= 0.75
    floor = round(0.74 * tall)
    shade = np.linspace(0.85, 1.1, tall - floor, dtype=np.float32)[:, None, None]
    grain = rng.normal(0, 6, (tall - floor, wide, 1)).astype(np.float32)
    picture[floor:] = rng.uniform(70, 130, 3) * shade + cv2.GaussianBlur(grain, None, 1.0)[..., None]
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _smaller(person: Cutout, number: int, size: Sequence[int]) -> np.ndarray:
    """One frame of a cut-out, float32 [h, w, 4] with alpha last."""
    both = person.pictures[number].astype(np.float32), person.alpha[number]
    return np.dstack([cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in both])


class _Drawn:
    """An actor's cut-outs at the size of the scene, and where they go in each frame."""

    def __init__(self, actor: Actor) -> None:
        self.actor, person, scale = actor, actor.person, actor.scale
        size = [max(2, round(extent * scale)) for extent in person.alpha.shape[:0:-1]]
        self._grow = np.array(size) / person.alpha.shape[:0:-1]
        needed = sorted(set(self._steps().tolist()))
        self._small = {n: _smaller(person, n, size) for n in needed}
        feet = np.array([np.median(person.boxes[:, [0, 2]]), np.median(person.boxes[:, 3])])
        self._feet = feet * self._grow

    def _steps(self) -> np.ndarray:
        count = len(self.actor.person.alpha)
        return count - 1 - abs(self.actor.step % (2 * count - 2) - (count - 1))

    def put(self, frame: int, size: WH) -> _Layer:
        step = int(self._steps()[frame])
        corner = np.array([self.actor.x[frame], self.actor.ground]) - self._feet
        whole = np.floor(corner).astype(int)
        small, shift = self._small[step], np.array([[1, 0, corner[0] - whole[0]], [0, 1, corner[1] - whole[1]]])
        patch = cv2.warpAffine(small, shift, (small.shape[1] + 1, small.shape[0] + 1))
        low = np.clip(whole, 0, size)
        high = np.maximum(np.clip(whole + patch.shape[1::-1], 0, size), low)
        part = tuple(slice(low[i] - whole[i], high[i] - whole[i]) for i in (1, 0))
        box = self.actor.person.boxes[step] * np.tile(self._grow, 2) + np.tile(corner, 2)
        keypoints = self.actor.person.keypoints[step].copy()
        keypoints[:, :2] = np.where(keypoints[:, 2:] > 0, keypoints[:, :2] * self._grow + corner, 0)
        solid = np.zeros(size[::-1], bool)
        where = slice(low[1], high[1]), slice(low[0], high[0])
        solid[where] = patch[part][..., 3] >= 0.5
        return _Layer(patch[part], where, solid, int((patch[..., 3] >= 0.5).sum()), box, keypoints)


@dataclass(frozen=True)
class _Layer:
    """One actor in one frame: what to paste where, her pixels in the picture and how many there are in all."""

    patch: np.ndarray
    where: tuple[slice, slice]
    solid: np.ndarray
    pixels: int
    box: np.ndarray
    keypoints: np.ndarray


def drawn(plan: Plan, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, list[Seen]]]:
    """The frames of a scene, uint8 [H, W, 3], and who is in them."""
    back, actors = room(plan.size, rng), [_Drawn(actor) for actor in plan.actors]
    for frame in range(plan.frames):
        picture, layers = back.copy(), [actor.put(frame, plan.size) for actor in actors]
        for layer in layers:
            part = picture[layer.where].astype(np.float32)
            part += layer.patch[..., 3:] * (layer.patch[..., :3] - part)
            picture[layer.where] = np.clip(np.rint(part), 0, 255)
        people = []
        for depth, (actor, layer) in enumerate(zip(plan.actors, layers, strict=True)):
            hidden = np.any([front.solid for front in layers[depth + 1 :]] or [np.zeros_like(layer.solid)], axis=0)
            share = float((layer.solid & ~hidden).sum() / layer.pixels)
            within = np.clip(layer.box, 0, np.tile(plan.size, 2))
            whole = bool((within == layer.box).all()) and share >= 1 - HIDDEN
            if layer.solid.any():
                shown = "all" if whole else "most" if share >= 0.5 else "part"
                people.append(Seen(actor.id, within, shown, layer.keypoints))
        yield picture, sorted(people, key=lambda p: p.id)


def write(folder: Path, name: str, seed: int, plan: Plan | None = None) -> tuple[Path, Truth]:
    """Draw a scene of `SCENES` (or another plan) into ``NAME-SEED.mp4`` with its truth in ``NAME-SEED.json``."""
    rng = np.random.default_rng([seed, *name.encode()])
    plan = SCENES[name](rng) if plan is None else plan
    path, at = folder / f"{name}-{seed}.mp4", {}
    with media.VideoWriter(path, FPS, plan.size[::-1]) as writer:
        for number, (picture, people) in enumerate(drawn(plan, rng)):
            writer.write(picture)
            at[number] = people
    truth = Truth(path.name, plan.size, plan.frames, at)
    write_truth(path.with_suffix(".json"), truth)
    return path, truth


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--seeds", type=int, nargs="+", default=[REPORTED])
    options.add_argument("--only", nargs="+", choices=list(SCENES), default=list(SCENES))
    args = options.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for name in args.only:
            path, truth = write(args.folder, name, seed)
            whole = sum(person.shown == "all" for people in truth.at.values() for person in people)
            print(f"{path.name}: {truth.frames} frames, {whole} times somebody wholly visible", flush=True)


if __name__ == "__main__":
    main()
