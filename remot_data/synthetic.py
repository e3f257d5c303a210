"""A dancer drawn with exact keypoints, labels, flow and background.

The figure is cut-out animation: every body part is a flat sprite with its own texture and label map, moved
by one affine map a frame. The maps give the truth: which part a pixel belongs to, and where the same point
of that part was one frame earlier. The joints come from a 3D skeleton in body heights, turned about the
vertical axis and projected, so that dancers turn round and their left and right change places in the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np

from remot_data.schemas import KEYPOINTS, LABELS

Colour = tuple[int, int, int]
Value = TypeVar("Value")
_ID = {name: i for i, name in enumerate(LABELS["atr18"].labels)}
_SUPERSAMPLE = 2
# How much lower in the image a point one body height nearer appears: a camera slightly above the dancer.
_PITCH = 0.18
# Lengths in body heights.
_TORSO, _NECK, _UPPER_ARM, _FOREARM, _THIGH, _SHIN, _FOOT = 0.285, 0.105, 0.16, 0.14, 0.235, 0.23, 0.10

_SKINS: tuple[Colour, ...] = (
    (255, 224, 196), (240, 200, 168), (224, 172, 130), (198, 140, 98), (160, 106, 70), (120, 78, 52), (86, 56, 40),
)  # fmt: skip
_HAIRS: tuple[Colour, ...] = (
    (24, 20, 18), (52, 36, 26), (92, 60, 34), (140, 92, 48), (206, 168, 96), (170, 66, 34), (150, 150, 154),
    (120, 60, 150), (40, 110, 150),
)  # fmt: skip


@dataclass(frozen=True)
class Cloth:
    """A fabric: a pattern in two colours; `period` is the pattern's repeat in body heights."""

    pattern: str
    colour: Colour
    second: Colour
    period: float


@dataclass(frozen=True)
class Dancer:
    """Looks, proportions and place of one figure.

    `height` and `ground` (where the feet stand) are shares of the frame's height, `place` of its width.
    `shoulders` and `hips` are half widths in body heights, `head` and `girth` factors of the usual size.
    `sleeves` and `hem` count along a limb: 0 none, 1 to the elbow or knee, 2 to the wrist or ankle.
    """

    height: float
    place: float
    ground: float
    shoulders: float
    hips: float
    head: float
    girth: float
    skin: Colour
    hair: str
    hair_colour: Colour
    hat: str
    hat_colour: Colour
    glasses: bool
    scarf: bool
    bag: bool
    belt: bool
    top: Cloth
    sleeves: float
    bottom: str
    lower: Cloth
    hem: float
    shoe: Colour
    boots: bool
    print_colour: Colour | None

    @classmethod
    def random(cls, seed: int) -> Dancer:
        """A dancer drawn from `seed`; equal seeds give equal dancers."""
        rng = np.random.default_rng([seed, 1])
        bottom = _choose(rng, ("pants",) * 5 + ("shorts",) * 2 + ("skirt",) * 2 + ("dress",) * 2)
        top, lower = _random_cloth(rng), _random_cloth(rng)
        hem = {"pants": rng.uniform(1.75, 2.0), "shorts": rng.uniform(0.45, 0.95)}.get(bottom, rng.uniform(0.55, 1.35))
        height = rng.uniform(0.62, 0.84)
        return cls(
            height=height,
            place=rng.uniform(0.42, 0.58) if rng.random() < 0.8 else _choose(rng, (0.2, 0.28, 0.72, 0.8)),
            ground=min(rng.uniform(0.9, 0.97), height + 0.13 + rng.uniform(0, 0.12)),
            shoulders=rng.uniform(0.1, 0.128),
            hips=rng.uniform(0.056, 0.072),
            head=rng.uniform(0.98, 1.2),
            girth=rng.uniform(0.88, 1.25),
            skin=_choose(rng, _SKINS),
            hair=_choose(rng, ("short", "short", "crop", "long", "long", "bob", "bun", "ponytail", "afro", "bald")),
            hair_colour=_choose(rng, _HAIRS),
            hat=_choose(rng, ("",) * 6 + ("beanie", "cap")),
            hat_colour=_random_colour(rng),
            glasses=bool(rng.random() < 0.14),
            scarf=bool(rng.random() < 0.1),
            bag=bool(rng.random() < 0.1),
            belt=bool(rng.random() < 0.3),
            top=top,
            sleeves=_choose(rng, (0.0, 0.45, 0.55, 0.7, 1.3, 1.85, 1.95)),
            bottom=bottom,
            lower=top if bottom == "dress" else lower,
            hem=float(hem),
            shoe=_random_colour(rng),
            boots=bool(rng.random() < 0.15),
            print_colour=_random_colour(rng) if rng.random() < 0.4 else None,
        )


@dataclass(frozen=True)
class Scene:
    """The drawn clip and the truth about it.

    Attributes:
        frames: uint8 [T, H, W, 3], RGB.
        keypoints: float32 [T, 25, 3], BODY_25; 0, 0, 0 outside the image, else confidence 1.
        mask: uint8 [T, H, W], 255 on the person.
        labels: uint8 [T, H, W], ATR-18.
        flow: float32 [T, H, W, 2], pixels from frame t back to frame t-1; zero for the first.
        confidence: uint8 [T, H, W]: bit 0 where the same point was visible in frame t-1, bit 1 where the
            warped frame t-1 agrees in colour (squared difference below 0.02 over images in [-1, 1]).
        background: uint8 [H, W, 3].
        fps: frames a second.
    """

    frames: np.ndarray
    keypoints: np.ndarray
    mask: np.ndarray
    labels: np.ndarray
    flow: np.ndarray
    confidence: np.ndarray
    background: np.ndarray
    fps: float


def dance(
    dancer: Dancer,
    frames: int,
    *,
    size: tuple[int, int] = (256, 192),
    fps: float = 30.0,
    seed: int = 0,
    background: np.ndarray | None = None,
) -> Scene:
    """Draw `dancer` dancing; `seed` chooses the dance and the background.

    Args:
        frames: how many, at least 1.
        size: height and width, each at least 16.
        background: uint8 [H, W, 3] to stand before, instead of a drawn one.

    Raises:
        ValueError: for fewer frames, a smaller size, or a background of another shape.
    """
    if frames < 1 or min(size) < 16:
        raise ValueError(f"a dance needs at least 1 frame of 16x16 pixels, not {frames} of {size[0]}x{size[1]}")
    rng = np.random.default_rng([seed, 2])
    drawn = _background(rng, size)
    if background is not None:
        if background.shape != (*size, 3) or background.dtype != np.uint8:
            raise ValueError(f"the background must be uint8 {[*size, 3]}, not {background.dtype} {background.shape}")
        drawn = background
    body = _Body(dancer, np.arange(frames) / fps, size, rng)
    parts = _parts(dancer, body, size[0] * dancer.height * _SUPERSAMPLE)
    images, labels, owners = _paint(parts, drawn, frames)
    flow, visible = _flow(parts, owners)
    confidence = visible.astype(np.uint8) | (_agrees(images, flow) << 1)
    confidence[0] = 0
    return Scene(
        frames=images,
        keypoints=_inside(body.keypoints(), size),
        mask=(labels != 0).astype(np.uint8) * 255,
        labels=labels,
        flow=flow,
        confidence=confidence,
        background=drawn,
        fps=fps,
    )


def layers(scene: Scene) -> dict[str, dict[str, np.ndarray]]:
    """The truth in the form that detectors return, by kind: pose, parsing, flow, background, scores.

    Flow is brought to half size by averaging, and trusted where all the pixels averaged are.
    """
    joints = (scene.keypoints[..., 2] > 0).mean(1)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in scene.frames]
    person = scene.mask != 0
    moved = np.linalg.norm(scene.flow, axis=-1) * person
    return {
        "pose": {"keypoints": scene.keypoints, "mask": scene.mask},
        "parsing": {"labels": scene.labels},
        "flow": _half_flow(scene.flow, scene.confidence),
        "background": {
            "image": scene.background,
            "seen": np.where(person.all(0), 0, 255).astype(np.uint8),
        },
        "scores": {
            "sharpness": np.array([cv2.Laplacian(g, cv2.CV_32F).var() for g in grey], np.float32),
            "visible_joints": joints.astype(np.float32),
            "persons": person.any((1, 2)).astype(np.float32),
            "motion": (moved.sum((1, 2)) / np.maximum(person.sum((1, 2)), 1)).astype(np.float32),
        },
    }


def _half_flow(flow: np.ndarray, confidence: np.ndarray) -> dict[str, np.ndarray]:
    frames, height, width = confidence.shape
    h, w = max(1, height // 2), max(1, width // 2)
    small, bits = np.empty((frames, h, w, 2), np.float32), np.zeros((frames, h, w), np.uint8)
    for t in range(frames):
        small[t] = cv2.resize(flow[t], (w, h), interpolation=cv2.INTER_AREA).reshape(h, w, 2)
        for bit in (1, 2):
            share = cv2.resize((confidence[t] & bit > 0).astype(np.float32), (w, h), interpolation=cv2.INTER_AREA)
            bits[t] |= np.where(share.reshape(h, w) > 0.999, bit, 0).astype(np.uint8)
    return {"flow": small * np.float32([w / width, h / height]), "confidence": bits}


# --- the body: a skeleton in motion -------------------------------------------------------------------------


class _Body:
    """Joints over time, projected into the image, and the angles that the drawing needs.

    Body axes before turning: x to the dancer's left, y down, z to the front; all in body heights.
    """

    def __init__(self, dancer: Dancer, seconds: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> None:
        self.dancer = dancer
        self.unit = dancer.height * size[0]
        wave = _Waves(rng, seconds)
        self.yaw, self.lean = _turning(rng, seconds, wave), wave(0.12, 1)
        self.head_yaw = self.yaw + wave(0.35, 0.6)
        self.head_roll = self.lean * np.cos(self.yaw) + wave(0.13, 1)
        local = _upper_joints(dancer, wave, self.lean) | _legs(dancer, wave, rng, seconds)
        self.space = {name: _turn(point, self.yaw) for name, point in local.items()}
        self.flat = {name: p[:, :2] + [0, _PITCH] * p[:, 2:] for name, p in self.space.items()}
        feet = [f"{side}-{point}" for side in ("left", "right") for point in ("ankle", "big-toe", "heel")]
        lowest = np.max([self.flat[name][:, 1] for name in feet], 0) + 0.02
        hop = rng.choice((0, 0, 0.05)) * np.maximum(np.sin(2 * np.pi * wave.beat * seconds), 0) ** 2
        x = dancer.place * size[1] + self.unit * wave(rng.uniform(0.02, 0.1), 0.4)
        y = dancer.ground * size[0] - self.unit * (lowest + hop)
        for point in self.flat.values():
            point *= self.unit
            point += np.stack([x, y], -1)

    def facing(self) -> np.ndarray:
        """Horizontal scale of the face: 1 from the front, negative from behind."""
        c = np.cos(self.head_yaw)
        return np.where(c >= 0, 0.35 + 0.65 * c, 0.35 + 1.35 * c)

    def across_head(self) -> np.ndarray:
        """Unit vector [T, 2] along the line of the eyes."""
        return np.stack([np.cos(self.head_roll), np.sin(self.head_roll)], -1)

    def in_head(self, u: np.ndarray | float, v: np.ndarray | float) -> np.ndarray:
        """Image position [T, 2] of a point in head coordinates: body heights right and down of its centre."""
        right = self.across_head() * self.unit
        down = right[:, ::-1] * [-1, 1]
        u, v = np.broadcast_to(u, self.yaw.shape), np.broadcast_to(v, self.yaw.shape)
        return self.flat["head"] + right * u[:, None] + down * v[:, None]

    def keypoints(self) -> np.ndarray:
        """float64 [T, 25, 2] in the order of BODY_25."""
        rw, rh = _head_radii(self.dancer)
        offset, sine = 0.6 * rw * np.sin(self.head_yaw), np.sin(self.head_yaw)
        eye, ear = 0.4 * rw * self.facing(), 0.97 * rw * np.cos(self.head_yaw)
        face = {
            "nose": self.in_head(offset + 0.12 * rw * sine, 0.3 * rh),
            "left-eye": self.in_head(offset + eye, 0.05 * rh),
            "right-eye": self.in_head(offset - eye, 0.05 * rh),
            "left-ear": self.in_head(ear, 0.15 * rh),
            "right-ear": self.in_head(-ear, 0.15 * rh),
        }
        return np.stack([face[n] if n in face else self.flat[n] for n in KEYPOINTS["body25"].points], 1)


class _Waves:
    """Smooth random movements to a common beat."""

    def __init__(self, rng: np.random.Generator, seconds: np.ndarray) -> None:
        self.rng, self.seconds, self.beat = rng, seconds, float(rng.uniform(0.6, 1.1))

    def __call__(self, amplitude: float, speed: float, centre: float = 0.0) -> np.ndarray:
        """A sum of a slow and a beating sinusoid around `centre`, at most `amplitude` away from it."""
        slow, phases = self.rng.uniform(0.15, 0.4) * speed, self.rng.uniform(0, 2 * np.pi, 2)
        share = self.rng.uniform(0.4, 0.8)
        drift = np.sin(2 * np.pi * slow * self.seconds + phases[0])
        swing = np.sin(2 * np.pi * self.beat * speed * self.seconds + phases[1])
        return centre + amplitude * (share * drift + (1 - share) * swing)


def _turning(rng: np.random.Generator, seconds: np.ndarray, wave: _Waves) -> np.ndarray:
    """The angle of the body to the camera, in radians: swaying, spinning, from behind or from the side."""
    style = rng.random()
    sway = wave(rng.uniform(0.2, 0.7), 0.7)
    if style < 0.6:
        return sway
    if style < 0.85:
        return sway + rng.choice((-1, 1)) * 2 * np.pi * rng.uniform(0.1, 0.3) * seconds
    return sway + (np.pi if style < 0.94 else rng.choice((-1.3, 1.3)))


def _direction(side: int, out: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """Unit vectors [T, 3]: hanging down, lifted sideways by `out` and to the front by `forward` radians."""
    return np.stack([side * np.sin(out) * np.cos(forward), np.cos(out) * np.cos(forward), np.sin(forward)], -1)


def _upper_joints(dancer: Dancer, wave: _Waves, lean: np.ndarray) -> dict[str, np.ndarray]:
    """Everything above the hips, [T, 3] each, relative to the middle of the hips."""
    up = np.stack([np.sin(lean), -np.cos(lean), wave(0.05, 1, 0.02)], -1)
    across = np.stack([np.cos(lean), np.sin(lean), np.zeros_like(lean)], -1)
    neck = _TORSO * up
    joints = {"neck": neck, "mid-hip": 0 * neck, "head": neck + _NECK * up}
    for side, name in ((1, "left"), (-1, "right")):
        shoulder = neck + side * dancer.shoulders * across
        raised = wave.rng.uniform(0.3, 1.6)
        out = np.clip(wave(1.25, 0.8, raised), 0.08, 2.9)
        forward = wave(0.45, 0.9, 0.15)
        bent_out, bent_forward = np.clip(wave(0.9, 1, 0.5), -0.35, 1.6), np.clip(wave(0.5, 0.9, 0.3), 0, 0.9)
        elbow = shoulder + _UPPER_ARM * _direction(side, out, forward)
        wrist = elbow + _FOREARM * _direction(side, out + bent_out, forward + bent_forward)
        joints |= {f"{name}-shoulder": shoulder, f"{name}-elbow": elbow, f"{name}-wrist": wrist}
    return joints


def _legs(dancer: Dancer, wave: _Waves, rng: np.random.Generator, seconds: np.ndarray) -> dict[str, np.ndarray]:
    """Hips, knees, ankles and feet, [T, 3] each: steps, kicks and squats, relative to the middle of the hips."""
    step, kick = rng.uniform(0.2, 0.9), rng.uniform(0, 0.8)
    squat = rng.uniform(0.1, 0.75) * np.maximum(np.sin(np.pi * wave.beat * seconds + rng.uniform(0, 6)), 0) ** 2
    joints = {}
    for side, name in ((1, "left"), (-1, "right")):
        lift = np.maximum(side * np.sin(np.pi * wave.beat * seconds), 0) ** 2
        out = wave(0.06, 1, rng.uniform(0.08, 0.2)) + kick * lift + 0.35 * squat
        forward = step * lift + squat
        hip = np.broadcast_to([side * dancer.hips, 0.0, 0.0], (len(seconds), 3))
        knee = hip + _THIGH * _direction(side, out, forward)
        ankle = knee + _SHIN * _direction(side, out * 0.6 - 0.35 * squat, forward - 1.5 * step * lift - 1.9 * squat)
        turned, dropped = 0.35 + 0 * lift, 0.7 * lift * step
        toe = np.stack([side * np.sin(turned), dropped, np.cos(turned)], -1)
        aside = np.stack([side * np.cos(turned), 0 * lift, -np.sin(turned)], -1)
        low = np.array([0, 0.03, 0])
        joints |= {f"{name}-hip": hip.copy(), f"{name}-knee": knee, f"{name}-ankle": ankle}
        joints[f"{name}-heel"] = ankle + low - 0.025 * toe
        joints[f"{name}-big-toe"] = ankle + low + _FOOT * toe - 0.008 * aside
        joints[f"{name}-small-toe"] = ankle + low + 0.88 * _FOOT * toe + 0.018 * aside
    return joints


def _turn(point: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Points [T, 3] turned about the vertical axis."""
    x, y, z = point.T
    return np.stack([x * np.cos(yaw) + z * np.sin(yaw), y, z * np.cos(yaw) - x * np.sin(yaw)], -1)


def _inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Keypoints float32 [T, K, 3] with confidence 1 inside the image and all zero outside."""
    seen = ((points >= 0) & (points < [size[1], size[0]])).all(-1, keepdims=True)
    return (np.concatenate([points, np.ones_like(points[..., :1])], -1) * seen).astype(np.float32)


def _head_radii(dancer: Dancer) -> tuple[float, float]:
    return 0.06 * dancer.head, 0.076 * dancer.head


# --- sprites ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sprite:
    """A drawn part: premultiplied ``uint8 [h, w, 4]``, labels ``uint8 [h, w]``, and where its corner lies.

    Local coordinates are body heights; pixel coordinates are ``(local - corner) * scale``.
    """

    image: np.ndarray
    labels: np.ndarray
    corner: tuple[float, float]
    scale: float


@dataclass(frozen=True)
class _Part:
    """A sprite in motion: `to_image` [T, 2, 3] takes its pixels to the image's, greater `depth` [T] is nearer."""

    sprite: _Sprite
    to_image: np.ndarray
    depth: np.ndarray
    shown: np.ndarray


class _Easel:
    """Draws one sprite in local coordinates."""

    def __init__(self, box: tuple[float, float, float, float], scale: float) -> None:
        self.corner, self.scale = (box[0], box[1]), scale
        shape = [max(4, int(np.ceil((box[i + 2] - box[i]) * scale))) for i in (1, 0)]
        self.rgb, self.labels = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)

    def polygon(self, points: Sequence[tuple[float, float]], label: str, cloth: Cloth | Colour) -> None:
        where = np.zeros_like(self.labels)
        cv2.fillPoly(where, [np.rint(self._pixels(np.array(points)) * 16).astype(np.int32)], 1, shift=4)
        self._fill(where, label, cloth)

    def ellipse(
        self, centre: tuple[float, float], radii: tuple[float, float], label: str, cloth: Cloth | Colour
    ) -> None:
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        points = np.stack([centre[0] + radii[0] * np.cos(angles), centre[1] + radii[1] * np.sin(angles)], -1)
        self.polygon(points, label, cloth)

    def sprite(self, shade: float = 0.22) -> _Sprite:
        """The finished sprite, darker towards its left and right edges."""
        solid = (self.labels > 0).astype(np.uint8)
        u = np.linspace(-1, 1, solid.shape[1], dtype=np.float32)
        light = np.broadcast_to(1.04 - shade * (0.35 * u + u**2)[None], solid.shape).copy()
        rim = cv2.erode(solid, np.ones((1, 3), np.uint8), borderValue=0) == 0
        light[rim] *= 0.72
        image = np.clip(np.rint(self.rgb * (light * solid)[..., None]), 0, 255).astype(np.uint8)
        return _Sprite(np.dstack([image, solid * 255]), self.labels, self.corner, self.scale)

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        return (points - self.corner) * self.scale - 0.5

    def _fill(self, where: np.ndarray, label: str, cloth: Cloth | Colour) -> None:
        inside = where > 0
        self.labels[inside] = _ID[label]
        if isinstance(cloth, Cloth):
            v, u = (np.indices(where.shape, np.float32) + 0.5) / self.scale
            self.rgb[inside] = _weave(cloth, u + self.corner[0], v + self.corner[1], self.scale)[inside]
        else:
            self.rgb[inside] = cloth


def _weave(cloth: Cloth, u: np.ndarray, v: np.ndarray, scale: float) -> np.ndarray:
    """The fabric's colours at local coordinates, uint8 [h, w, 3]; the repeat is at least 8 sprite pixels."""
    period = max(cloth.period, 8 / scale)
    a, b = u / period * 2 * np.pi, v / period * 2 * np.pi
    patterns: dict[str, Callable[[], np.ndarray]] = {
        "plain": lambda: 0.08 * np.sin(a * 0.7 + 1.3) * np.sin(b * 0.5),
        "across": lambda: 0.5 + 0.5 * np.tanh(3 * np.sin(b)),
        "along": lambda: 0.5 + 0.5 * np.tanh(3 * np.sin(a)),
        "checks": lambda: 0.5 + 0.25 * (np.tanh(3 * np.sin(a)) + np.tanh(3 * np.sin(b))),
        "dots": lambda: 0.5 + 0.5 * np.tanh(6 * (np.sin(a) * np.sin(b) - 0.45)),
        "fade": lambda: np.clip(0.5 + v * 2.5, 0, 1),
        "folds": lambda: 0.5 + 0.25 * np.sin(0.6 * a + 0.4 * b) + 0.25 * np.sin(1.3 * a - 0.5 * b),
    }
    mix = np.clip(patterns[cloth.pattern](), 0, 1)[..., None]
    return np.rint(np.array(cloth.colour) * (1 - mix) + np.array(cloth.second) * mix).astype(np.uint8)


def _choose(rng: np.random.Generator, values: Sequence[Value]) -> Value:
    return values[int(rng.integers(len(values)))]


def _random_colour(rng: np.random.Generator) -> Colour:
    hsv = np.array([[[rng.integers(180), rng.choice((30, 120, 190, 235)), rng.integers(60, 246)]]], np.uint8)
    r, g, b = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return r, g, b


def _random_cloth(rng: np.random.Generator) -> Cloth:
    pattern = _choose(rng, ("plain", "plain", "plain", "folds", "across", "along", "checks", "dots", "fade"))
    colour, second = _random_colour(rng), _random_colour(rng)
    if pattern in ("plain", "folds"):
        second = _tint(colour, 0.78)
    return Cloth(pattern, colour, second, float(rng.uniform(0.03, 0.08)))


def _tint(colour: Colour, factor: float) -> Colour:
    r, g, b = (min(255, int(c * factor)) for c in colour)
    return r, g, b


# --- the parts of the figure --------------------------------------------------------------------------------


def _moved(
    sprite: _Sprite,
    origin: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    depth: np.ndarray,
    shown: np.ndarray | None = None,
) -> _Part:
    """A part whose local axes are `u` and `v` [T, 2] image pixels long, from `origin` [T, 2]."""
    along = u * sprite.corner[0] + v * sprite.corner[1]
    to_image = np.stack([u / sprite.scale, v / sprite.scale, origin + along], -1)
    return _Part(sprite, to_image, depth, np.ones(len(depth), bool) if shown is None else shown)


def _along(body: _Body, start: str, end: str, length: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origin and axes of a part that lies along a bone `length` long; it never looks shorter than 0.4 of that."""
    a, b = body.flat[start], body.flat[end]
    seen = np.linalg.norm(b - a, axis=-1, keepdims=True)
    d = (b - a) / np.maximum(seen, 1e-6)
    stretch = np.maximum(seen / length, 0.4 * body.unit)
    return (a + b - d * stretch * length) / 2, np.stack([d[:, 1], -d[:, 0]], -1) * body.unit, d * stretch


def _depth(body: _Body, *joints: str) -> np.ndarray:
    return np.mean([body.space[j][:, 2] for j in joints], 0)


def _taper(
    r0: float, r1: float, v0: float, v1: float, round_start: bool = True, round_end: bool = True
) -> list[tuple[float, float]]:
    """Outline of a limb: half widths r0 at v0 and r1 at v1."""
    half = np.linspace(0, np.pi, 10)
    start = [(r0 * np.cos(a), v0 - r0 * np.sin(a)) for a in half] if round_start else [(r0, v0), (-r0, v0)]
    end = [(-r1 * np.cos(a), v1 + r1 * np.sin(a)) for a in half] if round_end else [(-r1, v1), (r1, v1)]
    return start + end


# A cover of a limb: label, cloth, and the share of the limb where it starts and ends.
_Cover = tuple[str, "Cloth | Colour", float, float]


def _limb(
    scale: float, length: float, radii: tuple[float, float], skin: tuple[str, Colour], covers: Sequence[_Cover]
) -> _Sprite:
    """An arm or leg segment: skin under cloth, with a hand at its end if it is a forearm."""
    r0, r1 = radii
    easel = _Easel((-1.4 * r0, -1.4 * r0, 1.4 * r0, length + 0.06), scale)
    easel.polygon(_taper(r0, r1, 0, length), *skin)
    if length == _FOREARM:
        easel.ellipse((0, length + 0.02), (r1 * 1.2, 0.03), *skin)
    for label, cloth, start, end in covers:
        if end > start:
            w0, w1 = (1.14 * (r0 + (r1 - r0) * share) for share in (start, end))
            easel.polygon(_taper(w0, w1, start * length, end * length, start == 0, end == 1), label, cloth)
    return easel.sprite()


def _parts(dancer: Dancer, body: _Body, scale: float) -> list[_Part]:
    """All the parts in motion, drawn with `scale` sprite pixels a body height."""
    return [*_leg_parts(dancer, body, scale), *_torso_parts(dancer, body, scale), *_arm_parts(dancer, body, scale),
            *_head_parts(dancer, body, scale)]  # fmt: skip


def _leg_parts(dancer: Dancer, body: _Body, scale: float) -> list[_Part]:
    g, parts = dancer.girth, []
    clothed = dancer.bottom in ("pants", "shorts")
    for side in ("left", "right"):
        skin = (f"{side}-leg", dancer.skin)
        upper: list[_Cover] = [("pants", dancer.lower, 0, min(dancer.hem, 1))] if clothed else []
        lower: list[_Cover] = [("pants", dancer.lower, 0, min(max(dancer.hem - 1, 0), 1))] if clothed else []
        if dancer.boots:
            lower.append((f"{side}-shoe", dancer.shoe, 0.5, 1))
        thigh = _limb(scale, _THIGH, (0.05 * g, 0.034 * g), skin, upper)
        shin = _limb(scale, _SHIN, (0.034 * g, 0.022 * g), skin, lower)
        hip, knee, ankle = (f"{side}-{joint}" for joint in ("hip", "knee", "ankle"))
        parts.append(_moved(thigh, *_along(body, hip, knee, _THIGH), _depth(body, hip, knee) - 0.1))
        parts.append(_moved(shin, *_along(body, knee, ankle, _SHIN), _depth(body, knee, ankle) - 0.105))
        foot = _along(body, f"{side}-heel", f"{side}-big-toe", _FOOT + 0.025)
        parts.append(_moved(_shoe(dancer, side, scale), *foot, _depth(body, knee, ankle) - 0.1))
    return parts


def _shoe(dancer: Dancer, side: str, scale: float) -> _Sprite:
    length, label = _FOOT + 0.025, f"{side}-shoe"
    easel = _Easel((-0.045, -0.035, 0.045, length + 0.04), scale)
    easel.polygon(_taper(0.027, 0.03, 0, length), label, dancer.shoe)
    easel.polygon(_taper(0.022, 0.03, 0.8 * length, length, False), label, _tint(dancer.shoe, 0.7))
    easel.polygon(_taper(0.012, 0.012, 0.4 * length, 0.65 * length), label, _tint(dancer.shoe, 1.5))
    return easel.sprite()


def _torso_axes(body: _Body) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neck, and the axes across and down the torso; seen from the side it is 0.62 as wide."""
    neck = body.flat["neck"]
    down = (body.flat["mid-hip"] - neck) / _TORSO
    d = down / np.maximum(np.linalg.norm(down, axis=-1, keepdims=True), 1e-6)
    width = np.hypot(np.cos(body.yaw), 0.62 * np.sin(body.yaw))[:, None]
    return neck, np.stack([d[:, 1], -d[:, 0]], -1) * width * body.unit, down


def _torso_parts(dancer: Dancer, body: _Body, scale: float) -> list[_Part]:
    neck, u, v = _torso_axes(body)
    still = np.zeros(len(neck))
    parts = [_moved(_torso(dancer, scale), neck, u, v, still), _moved(_neck(dancer, scale), neck, u, v, still + 0.01)]
    if dancer.print_colour:
        parts.append(_print(dancer, body, scale, dancer.print_colour))
    if dancer.bottom in ("skirt", "dress"):
        parts.append(_skirt(dancer, body, scale))
    if dancer.scarf:
        easel = _Easel((-0.07, -0.04, 0.07, 0.17), scale)
        easel.polygon(_taper(0.02, 0.018, 0.01, 0.14, round_end=False), "scarf", dancer.lower)
        easel.ellipse((0, -0.005), (0.055, 0.026), "scarf", dancer.lower)
        parts.append(_moved(easel.sprite(), neck, u, v, still + 0.011))
    if dancer.bag:
        side = dancer.hips + 0.02
        easel = _Easel((-0.16, -0.02, 0.16, _TORSO + 0.12), scale)
        easel.polygon([(-0.07, 0), (-0.05, 0), (side + 0.02, 0.24), (side, 0.25)], "bag", _tint(dancer.shoe, 0.8))
        easel.ellipse((side, 0.29), (0.055, 0.05), "bag", dancer.shoe)
        parts.append(_moved(easel.sprite(), neck, u, v, _before_thighs(body) + 0.001))
    return parts


def _torso(dancer: Dancer, scale: float) -> _Sprite:
    s, hips, waist = dancer.shoulders + 0.012, dancer.hips + 0.045 * dancer.girth, 0.72 * dancer.shoulders + 0.012
    waist = max(waist, 0.85 * hips)
    label, cloth = ("dress", dancer.lower) if dancer.bottom == "dress" else ("upper-clothes", dancer.top)
    easel = _Easel((-0.17, -0.04, 0.17, _TORSO + 0.09), scale)
    low = {"pants": ("pants", dancer.lower), "shorts": ("pants", dancer.lower), "skirt": ("skirt", dancer.lower)}
    easel.polygon(
        [(-waist, 0.7 * _TORSO), (waist, 0.7 * _TORSO), (hips, _TORSO), (0.8 * hips, _TORSO + 0.05),
         (0, _TORSO + 0.075), (-0.8 * hips, _TORSO + 0.05), (-hips, _TORSO)],
        *low.get(dancer.bottom, (label, cloth)),
    )  # fmt: skip
    hem = (0.78 if dancer.belt else 1.02) * _TORSO
    wide = waist + (hips - waist) * max(0.0, (hem / _TORSO - 0.7) / 0.3) + 0.004
    right = [(0.03, -0.03), (s - 0.02, -0.008), (s, 0.02), (0.86 * s, 0.1), (waist, 0.65 * _TORSO), (wide, hem)]
    easel.polygon([*right, *((-x, y) for x, y in reversed(right))], label, cloth)
    if dancer.belt:
        bar = [(-wide, hem - 0.012), (wide, hem - 0.012), (wide, hem + 0.014), (-wide, hem + 0.014)]
        easel.polygon(bar, "belt", _tint(dancer.shoe, 0.5))
        easel.ellipse((0, hem), (0.014, 0.011), "belt", (214, 190, 110))
    return easel.sprite()


def _neck(dancer: Dancer, scale: float) -> _Sprite:
    easel = _Easel((-0.06, -0.1, 0.06, 0.05), scale)
    easel.polygon(_taper(0.03, 0.036, -0.06, -0.004), "face", _tint(dancer.skin, 0.9))
    return easel.sprite()


def _print(dancer: Dancer, body: _Body, scale: float, colour: Colour) -> _Part:
    """A badge on the chest, seen from the front only."""
    neck, u, v = _torso_axes(body)
    easel = _Easel((-0.06, -0.06, 0.06, 0.06), scale)
    label = "dress" if dancer.bottom == "dress" else "upper-clothes"
    easel.ellipse((0, 0), (0.04, 0.04), label, colour)
    easel.polygon([(0, -0.026), (0.024, 0.016), (-0.024, 0.016)], label, _tint(colour, 0.55))
    front = np.cos(body.yaw)
    across = u / np.maximum(np.linalg.norm(u, axis=-1, keepdims=True), 1e-6) * body.unit
    origin = neck + 0.11 * v + across * (0.06 * np.sin(body.yaw))[:, None]
    return _moved(easel.sprite(), origin, across * np.maximum(front, 0.1)[:, None], v, 0 * front + 0.005, front > 0.25)


def _skirt(dancer: Dancer, body: _Body, scale: float) -> _Part:
    """From the waist towards the middle of the knees, wider as they part."""
    _, u, down = _torso_axes(body)
    hip, knees = body.flat["mid-hip"], (body.flat["left-knee"] + body.flat["right-knee"]) / 2
    parted = np.linalg.norm(body.flat["left-knee"] - body.flat["right-knee"], axis=-1) / body.unit
    length, top = dancer.hem * _THIGH, dancer.hips + 0.045 * dancer.girth
    flare = 1.25 + 0.35 * dancer.hem
    easel = _Easel((-top * flare - 0.01, -0.09, top * flare + 0.01, length + 0.03), scale)
    hem = [(top * flare * x, length + 0.012 * np.cos(14 * x)) for x in np.linspace(1, -1, 25)]
    label = "dress" if dancer.bottom == "dress" else "skirt"
    easel.polygon([(-0.86 * top, -0.08), (0.86 * top, -0.08), (top, 0.01), *hem, (-top, 0.01)], label, dancer.lower)
    v = 0.6 * (knees - hip) / _THIGH + 0.4 * down
    wide = np.clip(0.85 + 0.8 * parted / _THIGH, 1, 1.35)[:, None]
    return _moved(easel.sprite(0.35), hip, u * wide, v, _before_thighs(body))


def _before_thighs(body: _Body) -> np.ndarray:
    thighs = (_depth(body, f"{side}-hip", f"{side}-knee") for side in ("left", "right"))
    return np.maximum(0.002, np.maximum(*thighs) - 0.09)


def _arm_parts(dancer: Dancer, body: _Body, scale: float) -> list[_Part]:
    g, parts = dancer.girth, []
    label, cloth = ("dress", dancer.lower) if dancer.bottom == "dress" else ("upper-clothes", dancer.top)
    for side in ("left", "right"):
        skin = (f"{side}-arm", dancer.skin)
        upper = _limb(scale, _UPPER_ARM, (0.028 * g, 0.023 * g), skin, [(label, cloth, 0, min(dancer.sleeves, 1))])
        covered = min(max(dancer.sleeves - 1, 0), 0.95)
        lower = _limb(scale, _FOREARM, (0.023 * g, 0.017 * g), skin, [(label, cloth, 0, covered)])
        shoulder, elbow, wrist = (f"{side}-{joint}" for joint in ("shoulder", "elbow", "wrist"))
        parts.append(_moved(upper, *_along(body, shoulder, elbow, _UPPER_ARM), _depth(body, shoulder, elbow) + 0.02))
        parts.append(_moved(lower, *_along(body, elbow, wrist, _FOREARM), _depth(body, elbow, wrist) + 0.03))
    return parts


# --- the head -----------------------------------------------------------------------------------------------


def _head_parts(dancer: Dancer, body: _Body, scale: float) -> list[_Part]:
    rw, rh = _head_radii(dancer)
    right = body.across_head() * body.unit
    down = right[:, ::-1] * [-1, 1]
    sine, cosine, face = np.sin(body.head_yaw), np.cos(body.head_yaw), body.facing()
    near = _depth(body, "head") + 0.08
    parts = [_moved(_skull(dancer, scale), body.flat["head"], right, down, near)]
    if dancer.hair in ("long", "bob", "bun", "ponytail"):
        origin = body.in_head(-(1.0 if dancer.hair in ("bun", "ponytail") else 0.3) * rw * sine, 0)
        parts.append(_moved(_back_hair(dancer, scale), origin, right, down, near - 0.1 * cosine))
    if dancer.hair in ("crop", "short", "bald", "bun", "ponytail"):
        easel = _Easel((-0.02, -0.03, 0.02, 0.03), scale)
        easel.ellipse((0, 0), (0.013, 0.02), "face", _tint(dancer.skin, 0.88))
        for side in (1, -1):
            origin = body.in_head(side * 0.97 * rw * cosine, 0.15 * rh)
            parts.append(_moved(easel.sprite(), origin, right, down, near + 0.001, -side * sine > -0.8))
    origin = body.in_head(0.6 * rw * sine, 0)
    shown, scaled = face > 0.1, right * np.maximum(face, 0.05)[:, None]
    parts.append(_moved(_face(dancer, scale), origin, scaled, down, near + 0.002, shown))
    if dancer.hat:
        parts.append(_moved(_hat(dancer, scale), body.flat["head"], right, down, near + 0.003))
    if dancer.hat == "cap":
        easel = _Easel((-1.2 * rw, -rh, 1.2 * rw, 0), scale)
        easel.ellipse((0, -0.42 * rh), (0.98 * rw, 0.15 * rh), "hat", _tint(dancer.hat_colour, 0.7))
        parts.append(
            _moved(easel.sprite(), origin, right * (0.5 + 0.5 * np.abs(face))[:, None], down, near + 0.004, shown)
        )
    return parts


def _hair_cloth(dancer: Dancer) -> Cloth:
    return Cloth("along", dancer.hair_colour, _tint(dancer.hair_colour, 0.87), 0.025)


def _skull(dancer: Dancer, scale: float) -> _Sprite:
    """The head without its face: hair, or skin if bald."""
    rw, rh = _head_radii(dancer)
    easel = _Easel((-2 * rw, -2 * rh, 2 * rw, 1.5 * rh), scale)
    easel.ellipse((0, 0.1 * rh), (0.95 * rw, 0.95 * rh), "face", dancer.skin)
    cloth = _hair_cloth(dancer)
    if dancer.hair == "afro":
        easel.ellipse((0, -0.25 * rh), (1.5 * rw, 1.3 * rh), "hair", Cloth("dots", cloth.colour, cloth.second, 0.03))
    elif dancer.hair != "bald":
        volume = 1.0 if dancer.hair == "crop" else 1.08
        easel.ellipse((0, -0.12 * rh), (volume * rw, volume * rh), "hair", cloth)
    return easel.sprite(0.12)


def _back_hair(dancer: Dancer, scale: float) -> _Sprite:
    """Hair that hangs or stands at the back of the head."""
    rw, rh = _head_radii(dancer)
    easel, cloth = _Easel((-1.5 * rw, -2 * rh, 1.5 * rw, 3.4 * rh), scale), _hair_cloth(dancer)
    if dancer.hair == "bun":
        easel.ellipse((0, -0.95 * rh), (0.55 * rw, 0.5 * rh), "hair", cloth)
    elif dancer.hair == "ponytail":
        easel.polygon(_taper(0.4 * rw, 0.2 * rw, -0.3 * rh, 2.3 * rh), "hair", cloth)
    else:
        end = 2.5 * rh if dancer.hair == "long" else 1.0 * rh
        easel.polygon(_taper(1.1 * rw, 0.85 * rw, -0.1 * rh, end, True, False), "hair", cloth)
    return easel.sprite(0.15)


def _face(dancer: Dancer, scale: float) -> _Sprite:
    """Eyes, brows, nose and mouth, with the hairline above; the eyes lie 0.4 of the head's half width aside."""
    rw, rh = _head_radii(dancer)
    easel = _Easel((-rw, -rh, rw, 1.15 * rh), scale)
    easel.ellipse((0, 0.1 * rh), (0.88 * rw, 0.95 * rh), "face", dancer.skin)
    dark = _tint(dancer.hair_colour, 0.6) if dancer.hair != "bald" else (50, 36, 30)
    for side in (-1, 1):
        x = side * 0.4 * rw
        easel.ellipse((x, 0.05 * rh), (0.2 * rw, 0.12 * rh), "face", (245, 245, 240))
        easel.ellipse((x, 0.05 * rh), (0.1 * rw, 0.11 * rh), "face", (30, 26, 30))
        easel.polygon([(x - 0.22 * rw, -0.16 * rh), (x + 0.22 * rw, -0.16 * rh), (x, -0.24 * rh)], "face", dark)
        easel.ellipse((side * 0.52 * rw, 0.42 * rh), (0.16 * rw, 0.1 * rh), "face", _blush(dancer.skin))
    easel.polygon([(0, 0.12 * rh), (0.13 * rw, 0.38 * rh), (-0.13 * rw, 0.38 * rh)], "face", _tint(dancer.skin, 0.78))
    easel.ellipse((0, 0.64 * rh), (0.28 * rw, 0.075 * rh), "face", (176, 60, 62))
    if dancer.hair != "bald":
        fringe = [(0.95 * rw * np.sin(a), 0.1 * rh - 1.0 * rh * np.cos(a)) for a in np.linspace(-1.15, 1.15, 20)]
        parting = [(0.8 * rw, -0.22 * rh), (0.35 * rw, -0.4 * rh), (-0.3 * rw, -0.5 * rh), (-0.8 * rw, -0.2 * rh)]
        easel.polygon([*fringe, *parting], "hair", _hair_cloth(dancer))
    if dancer.glasses:
        for side in (-1, 1):
            easel.ellipse((side * 0.42 * rw, 0.06 * rh), (0.33 * rw, 0.2 * rh), "sunglasses", (22, 22, 28))
        bridge = [(-0.8 * rw, -0.03 * rh), (0.8 * rw, -0.03 * rh), (0.8 * rw, 0.06 * rh), (-0.8 * rw, 0.06 * rh)]
        easel.polygon(bridge, "sunglasses", (22, 22, 28))
    return easel.sprite(0.06)


def _blush(skin: Colour) -> Colour:
    return min(255, skin[0] + 6), int(skin[1] * 0.86), int(skin[2] * 0.86)


def _hat(dancer: Dancer, scale: float) -> _Sprite:
    rw, rh = _head_radii(dancer)
    easel = _Easel((-1.5 * rw, -1.8 * rh, 1.5 * rw, 0.2 * rh), scale)
    crown = [(1.12 * rw * np.cos(a), -0.4 * rh - 0.95 * rh * np.sin(a)) for a in np.linspace(0, np.pi, 24)]
    easel.polygon(crown, "hat", Cloth("folds", dancer.hat_colour, _tint(dancer.hat_colour, 0.8), 0.04))
    if dancer.hat == "beanie":
        band = [(-1.15 * rw, -0.62 * rh), (1.15 * rw, -0.62 * rh), (1.13 * rw, -0.3 * rh), (-1.13 * rw, -0.3 * rh)]
        easel.polygon(band, "hat", _tint(dancer.hat_colour, 0.68))
        easel.ellipse((0, -1.42 * rh), (0.28 * rw, 0.24 * rh), "hat", _tint(dancer.hat_colour, 1.35))
    return easel.sprite(0.15)


# --- painting and its truth ---------------------------------------------------------------------------------


def _paint(parts: list[_Part], background: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images ``uint8 [T, H, W, 3]``, labels ``uint8 [T, H, W]``, and the owner of each pixel: part number + 1 or 0."""
    height, width = background.shape[:2]
    images = np.empty((frames, height, width, 3), np.uint8)
    labels, owners = np.zeros((2, frames, height, width), np.uint8)
    large = cv2.resize(background, None, fx=_SUPERSAMPLE, fy=_SUPERSAMPLE, interpolation=cv2.INTER_NEAREST)
    depth = np.stack([np.where(part.shown, part.depth, -np.inf) for part in parts])
    boxes = [_boxes(part) for part in parts]
    for t in range(frames):
        canvas = large.copy()
        for index in np.argsort(depth[:, t], kind="stable").tolist():
            part = parts[index]
            if part.shown[t]:
                _stamp_image(canvas, part.sprite, part.to_image[t] * _SUPERSAMPLE, boxes[index][t] * _SUPERSAMPLE)
                _stamp_labels(labels[t], owners[t], index + 1, part.sprite, part.to_image[t], boxes[index][t])
        images[t] = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return images, labels, owners


def _boxes(part: _Part) -> np.ndarray:
    """float64 [T, 4]: left, top, right, bottom of the part in the image."""
    h, w = part.sprite.labels.shape
    corners = np.array([(0, 0, 1), (w, 0, 1), (0, h, 1), (w, h, 1)], float)
    there = np.einsum("tij,cj->tci", part.to_image, corners)
    return np.concatenate([there.min(1), there.max(1)], -1)


def _warped(source: np.ndarray, to_image: np.ndarray, box: np.ndarray, size: tuple[int, int], how: int) -> tuple | None:
    """The pixels of `source` as they fall into the image, with the slices they fall into; None if outside."""
    x0, y0 = max(int(box[0]) - 1, 0), max(int(box[1]) - 1, 0)
    x1, y1 = min(int(box[2]) + 2, size[1]), min(int(box[3]) + 2, size[0])
    linear = to_image[:, :2]
    if x1 <= x0 or y1 <= y0 or abs(np.linalg.det(linear)) < 1e-9:
        return None
    inverse = np.linalg.inv(linear)
    start = inverse @ (np.array([x0 + 0.5, y0 + 0.5]) - to_image[:, 2]) - 0.5
    matrix = np.column_stack([inverse, start])
    warped = cv2.warpAffine(source, matrix, (x1 - x0, y1 - y0), flags=how | cv2.WARP_INVERSE_MAP)
    return warped, (slice(y0, y1), slice(x0, x1))


def _stamp_image(canvas: np.ndarray, sprite: _Sprite, to_image: np.ndarray, box: np.ndarray) -> None:
    found = _warped(sprite.image, to_image, box, canvas.shape[:2], cv2.INTER_LINEAR)
    if found is not None:
        warped, where = found
        behind = 255 - cv2.cvtColor(cv2.extractChannel(warped, 3), cv2.COLOR_GRAY2RGB)
        region = canvas[where]
        canvas[where] = cv2.add(cv2.multiply(region, behind, scale=1 / 255), cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB))


def _stamp_labels(
    labels: np.ndarray, owners: np.ndarray, owner: int, sprite: _Sprite, to_image: np.ndarray, box: np.ndarray
) -> None:
    found = _warped(sprite.labels, to_image, box, labels.shape, cv2.INTER_NEAREST)
    if found is not None:
        warped, where = found
        cv2.copyTo(warped, warped, labels[where])
        owners[where][warped > 0] = owner


def _flow(parts: list[_Part], owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel's point was one frame earlier, ``float32 [T, H, W, 2]``, and whether it was seen there."""
    frames, height, width = owners.shape
    flow, visible = np.zeros((frames, height, width, 2), np.float32), np.zeros(owners.shape, bool)
    row = np.array([[[0, 0, 1]]])
    maps = np.stack([np.concatenate([p.to_image, np.repeat(row, frames, 0)], 1) for p in parts])
    back = maps[:, :-1] @ np.linalg.inv(maps[:, 1:]) - np.eye(3)
    for t in range(1, frames):
        visible[t] = (owners[t] == 0) & (owners[t - 1] == 0)
        y, x = np.nonzero(owners[t])
        part = owners[t, y, x]
        m = back[part - 1, t - 1]
        here = np.stack([x + 0.5, y + 0.5, np.ones(len(x))], -1)
        moved = np.einsum("nij,nj->ni", m[:, :2], here)
        flow[t, y, x] = moved
        px, py = np.floor(here[:, 0] + moved[:, 0]).astype(int), np.floor(here[:, 1] + moved[:, 1]).astype(int)
        inside = (px >= 0) & (py >= 0) & (px < width) & (py < height)
        before = owners[t - 1, np.where(inside, py, 0), np.where(inside, px, 0)]
        visible[t, y, x] = inside & (before == part)
    return flow, visible


def _agrees(images: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W], 1 where frame t-1 warped by the flow has the colour of frame t: the paper's flow code's test."""
    height, width = flow.shape[1:3]
    y, x = np.indices((height, width), np.float32)
    out = np.zeros(flow.shape[:3], np.uint8)
    for t in range(1, len(images)):
        warped = cv2.remap(
            images[t - 1], x + flow[t, ..., 0], y + flow[t, ..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        difference = (images[t].astype(np.float32) - warped) / 127.5
        out[t] = (difference**2).sum(-1) < 0.02
    return out


# --- backgrounds --------------------------------------------------------------------------------------------


def _background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A wall and a floor with shading, shapes and a soft texture, uint8 [H, W, 3]."""
    height, width = size
    y, x = np.indices(size, np.float32) / height
    image = np.empty((height, width, 3), np.float32)
    wall, floor = (np.array(_random_colour(rng)) * (1 - grey) + 128 * grey for grey in rng.uniform(0.2, 0.8, 2))
    slope = rng.uniform(-0.5, 0.5, 2)
    image[:] = wall * (0.9 + slope[0] * (y - 0.5) + slope[1] * (x - 0.4))[..., None]
    canvas = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(0, 7))):
        _shape(canvas, rng)
    horizon = int(height * rng.uniform(0.7, 0.9))
    if rng.random() < 0.85:
        canvas[horizon:] = np.clip(floor * (1.05 - 0.6 * (y[horizon:] - 0.7))[..., None], 0, 255)
        boards = int(rng.integers(0, 9))
        for i in range(boards):
            foot = (int((i + 0.5) / boards * 2 * width - width / 2), height)
            head = (int((i + 0.5) / boards * width), horizon)
            cv2.line(canvas, head, foot, (floor * 0.8).tolist(), 1, cv2.LINE_AA)
    grain = sum(
        cv2.resize(rng.normal(0, s, (n, n)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        for n, s in ((6, 8), (24, 5), (64, 3))
    )
    textured = canvas + (rng.uniform(0.3, 1.3) * grain)[..., None]
    return np.clip(np.rint(textured), 0, 255).astype(np.uint8)


def _shape(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """One rectangle (a window, a poster), disc or band on the wall."""
    height, width = canvas.shape[:2]
    colour, kind = _random_colour(rng), rng.integers(3)
    x, y = int(rng.integers(width)), int(rng.integers(int(height * 0.75)))
    w, h = (int(v * height) for v in rng.uniform(0.05, 0.22, 2))
    if kind == 0:
        cv2.rectangle(canvas, (x - w, y - h), (x + w, y + h), colour, -1)
        cv2.rectangle(canvas, (x - w, y - h), (x + w, y + h), _tint(colour, 0.6), max(1, height // 100))
    elif kind == 1:
        cv2.circle(canvas, (x, y), w, colour, -1, cv2.LINE_AA)
    else:
        cv2.line(canvas, (x, 0), (x + w, height), colour, max(1, w // 3), cv2.LINE_AA)
