"""The body of a drawn dancer as cut-out parts: sprites with a texture and a label map, and how each one moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from remot_data.schemas import LABELS
from remot_data.synthetic.dancer import Cloth, Colour, Dancer, tint
from remot_data.synthetic.skeleton import FOOT, FOREARM, SHIN, THIGH, TORSO, UPPER_ARM, Body, head_radii

THING = 255  # the label of what is held: it hides the person, and is none of her
_ID = {name: i for i, name in enumerate(LABELS["atr18"].labels)} | {"thing": THING}


# --- sprites ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sprite:
    """A drawn part: premultiplied ``uint8 [h, w, 4]``, labels ``uint8 [h, w]``, and where its corner lies.

    Local coordinates are body heights; pixel coordinates are ``(local - corner) * scale``.
    """

    image: np.ndarray
    labels: np.ndarray
    corner: tuple[float, float]
    scale: float


@dataclass(frozen=True)
class Part:
    """A sprite in motion: `to_image` [T, 2, 3] takes its pixels to the image's, greater `depth` [T] is nearer."""

    sprite: Sprite
    to_image: np.ndarray
    depth: np.ndarray
    shown: np.ndarray


class Easel:
    """Draws one sprite in local coordinates."""

    def __init__(self, box: tuple[float, float, float, float], scale: float) -> None:
        self.corner, self.scale = (box[0], box[1]), scale
        shape = [max(4, int(np.ceil((box[i + 2] - box[i]) * scale))) for i in (1, 0)]
        self.rgb, self.labels = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)

    def polygon(self, points: np.ndarray | Sequence[tuple[float, float]], label: str, cloth: Cloth | Colour) -> None:
        where = np.zeros_like(self.labels)
        cv2.fillPoly(where, [np.rint(self._pixels(np.array(points)) * 16).astype(np.int32)], 1, shift=4)
        self._fill(where, label, cloth)

    def ellipse(
        self, centre: tuple[float, float], radii: tuple[float, float], label: str, cloth: Cloth | Colour
    ) -> None:
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        points = np.stack([centre[0] + radii[0] * np.cos(angles), centre[1] + radii[1] * np.sin(angles)], -1)
        self.polygon(points, label, cloth)

    def sprite(self, shade: float = 0.22) -> Sprite:
        """The finished sprite, darker towards its left and right edges."""
        solid = (self.labels > 0).astype(np.uint8)
        u = np.linspace(-1, 1, solid.shape[1], dtype=np.float32)
        light = np.broadcast_to(1.04 - shade * (0.35 * u + u**2)[None], solid.shape).copy()
        rim = cv2.erode(solid, np.ones((1, 3), np.uint8), borderValue=0) == 0
        light[rim] *= 0.72
        image = np.clip(np.rint(self.rgb * (light * solid)[..., None]), 0, 255).astype(np.uint8)
        return Sprite(np.dstack([image, solid * 255]), self.labels, self.corner, self.scale)

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


# --- the parts of the figure --------------------------------------------------------------------------------


def _moved(
    sprite: Sprite,
    origin: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    depth: np.ndarray,
    shown: np.ndarray | None = None,
) -> Part:
    """A part whose local axes are `u` and `v` [T, 2] image pixels long, from `origin` [T, 2]."""
    along = u * sprite.corner[0] + v * sprite.corner[1]
    to_image = np.stack([u / sprite.scale, v / sprite.scale, origin + along], -1)
    return Part(sprite, to_image, depth, np.ones(len(depth), bool) if shown is None else shown)


def _along(body: Body, start: str, end: str, length: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origin and axes of a part that lies along a bone `length` long; it never looks shorter than 0.4 of that."""
    a, b = body.flat[start], body.flat[end]
    seen = np.linalg.norm(b - a, axis=-1, keepdims=True)
    d = (b - a) / np.maximum(seen, 1e-6)
    stretch = np.maximum(seen / length, 0.4 * body.unit)
    return (a + b - d * stretch * length) / 2, np.stack([d[:, 1], -d[:, 0]], -1) * body.unit, d * stretch


def _depth(body: Body, *joints: str) -> np.ndarray:
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
    scale: float,
    length: float,
    radii: tuple[float, float],
    skin: tuple[str, Colour],
    covers: Sequence[_Cover],
    glove: Colour | None = None,
    baggy: float = 1.0,
) -> Sprite:
    """An arm or leg segment: skin under cloth, with a hand at its end, or a glove, if it is a forearm."""
    r0, r1 = radii
    wide = 1.4 * r0 * baggy**2
    easel = Easel((-wide, -wide, wide, length + 0.06), scale)
    easel.polygon(_taper(r0, r1, 0, length), *skin)
    if length == FOREARM:
        if glove is not None:
            easel.polygon(_taper(1.1 * r1, 1.1 * r1, 0.8 * length, length), skin[0], tint(glove, 0.85))
        easel.ellipse((0, length + 0.02), (r1 * 1.2, 0.03), skin[0], skin[1] if glove is None else glove)
    for label, cloth, start, end in covers:
        if end > start:
            w0, w1 = (1.14 * baggy * (r0 + (r1 * baggy - r0) * share) for share in (start, end))
            easel.polygon(_taper(w0, w1, start * length, end * length, start == 0, end == 1), label, cloth)
    return easel.sprite()


def figure_parts(dancer: Dancer, body: Body, scale: float) -> list[Part]:
    """All the parts in motion, drawn with `scale` sprite pixels a body height."""
    return [*_leg_parts(dancer, body, scale), *_torso_parts(dancer, body, scale), *_arm_parts(dancer, body, scale),
            *_head_parts(dancer, body, scale)]  # fmt: skip


def _leg_parts(dancer: Dancer, body: Body, scale: float) -> list[Part]:
    g, parts = dancer.girth, []
    clothed = dancer.bottom in ("pants", "shorts")
    for side in ("left", "right"):
        skin = (f"{side}-leg", dancer.skin)
        upper: list[_Cover] = [("pants", dancer.lower, 0, min(dancer.hem, 1))] if clothed else []
        lower: list[_Cover] = [("pants", dancer.lower, 0, min(max(dancer.hem - 1, 0), 1))] if clothed else []
        if dancer.boots:
            lower.append((f"{side}-shoe", dancer.shoe, 0.5, 1))
        thigh = _limb(scale, THIGH, (0.05 * g, 0.034 * g), skin, upper, baggy=dancer.baggy**0.5)
        shin = _limb(scale, SHIN, (0.034 * g, 0.022 * g), skin, lower, baggy=dancer.baggy)
        hip, knee, ankle = (f"{side}-{joint}" for joint in ("hip", "knee", "ankle"))
        parts.append(_moved(thigh, *_along(body, hip, knee, THIGH), _depth(body, hip, knee) - 0.1))
        parts.append(_moved(shin, *_along(body, knee, ankle, SHIN), _depth(body, knee, ankle) - 0.105))
        foot = _along(body, f"{side}-heel", f"{side}-big-toe", FOOT + 0.025)
        parts.append(_moved(_shoe(dancer, side, scale), *foot, _depth(body, knee, ankle) - 0.1))
    return parts


def _shoe(dancer: Dancer, side: str, scale: float) -> Sprite:
    length, label = FOOT + 0.025, f"{side}-shoe"
    easel = Easel((-0.045, -0.035, 0.045, length + 0.04), scale)
    if dancer.barefoot:
        easel.polygon(_taper(0.022, 0.028, 0, length), label, dancer.skin)
        easel.polygon(_taper(0.02, 0.026, 0.85 * length, length, False), label, tint(dancer.skin, 0.93))
        return easel.sprite()
    easel.polygon(_taper(0.027, 0.03, 0, length), label, dancer.shoe)
    easel.polygon(_taper(0.022, 0.03, 0.8 * length, length, False), label, tint(dancer.shoe, 0.7))
    easel.polygon(_taper(0.012, 0.012, 0.4 * length, 0.65 * length), label, tint(dancer.shoe, 1.5))
    return easel.sprite()


def _torso_axes(body: Body) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neck, and the axes across and down the torso; seen from the side it is 0.62 as wide."""
    neck = body.flat["neck"]
    down = (body.flat["mid-hip"] - neck) / TORSO
    d = down / np.maximum(np.linalg.norm(down, axis=-1, keepdims=True), 1e-6)
    width = np.hypot(np.cos(body.yaw), 0.62 * np.sin(body.yaw))[:, None]
    return neck, np.stack([d[:, 1], -d[:, 0]], -1) * width * body.unit, down


def _torso_parts(dancer: Dancer, body: Body, scale: float) -> list[Part]:
    neck, u, v = _torso_axes(body)
    still = np.zeros(len(neck))
    parts = [_moved(_torso(dancer, scale), neck, u, v, still), _moved(_neck(dancer, scale), neck, u, v, still + 0.01)]
    if dancer.print_colour:
        parts.append(_print(dancer, body, scale, dancer.print_colour))
    if dancer.bottom in ("skirt", "dress"):
        parts.append(_skirt(dancer, body, scale))
    if dancer.scarf:
        easel = Easel((-0.07, -0.04, 0.07, 0.17), scale)
        easel.polygon(_taper(0.02, 0.018, 0.01, 0.14, round_end=False), "scarf", dancer.lower)
        easel.ellipse((0, -0.005), (0.055, 0.026), "scarf", dancer.lower)
        parts.append(_moved(easel.sprite(), neck, u, v, still + 0.011))
    if dancer.bag:
        side = dancer.hips + 0.02
        easel = Easel((-0.16, -0.02, 0.16, TORSO + 0.12), scale)
        easel.polygon([(-0.07, 0), (-0.05, 0), (side + 0.02, 0.24), (side, 0.25)], "bag", tint(dancer.shoe, 0.8))
        easel.ellipse((side, 0.29), (0.055, 0.05), "bag", dancer.shoe)
        parts.append(_moved(easel.sprite(), neck, u, v, _before_thighs(body) + 0.001))
    return parts


def _torso(dancer: Dancer, scale: float) -> Sprite:
    s, hips, waist = dancer.shoulders + 0.012, dancer.hips + 0.045 * dancer.girth, 0.72 * dancer.shoulders + 0.012
    waist = max(waist, 0.85 * hips)
    label, cloth = ("dress", dancer.lower) if dancer.bottom == "dress" else ("upper-clothes", dancer.top)
    easel = Easel((-0.17, -0.04, 0.17, TORSO + 0.09), scale)
    low = {"pants": ("pants", dancer.lower), "shorts": ("pants", dancer.lower), "skirt": ("skirt", dancer.lower)}
    easel.polygon(
        [(-waist, 0.7 * TORSO), (waist, 0.7 * TORSO), (hips, TORSO), (0.8 * hips, TORSO + 0.05),
         (0, TORSO + 0.075), (-0.8 * hips, TORSO + 0.05), (-hips, TORSO)],
        *low.get(dancer.bottom, (label, cloth)),
    )  # fmt: skip
    hem = (0.78 if dancer.belt else 1.02) * TORSO
    wide = waist + (hips - waist) * max(0.0, (hem / TORSO - 0.7) / 0.3) + 0.004
    right = [(0.03, -0.03), (s - 0.02, -0.008), (s, 0.02), (0.86 * s, 0.1), (waist, 0.65 * TORSO), (wide, hem)]
    easel.polygon([*right, *((-x, y) for x, y in reversed(right))], label, cloth)
    if dancer.belt:
        bar = [(-wide, hem - 0.012), (wide, hem - 0.012), (wide, hem + 0.014), (-wide, hem + 0.014)]
        easel.polygon(bar, "belt", tint(dancer.shoe, 0.5))
        easel.ellipse((0, hem), (0.014, 0.011), "belt", (214, 190, 110))
    return easel.sprite()


def _neck(dancer: Dancer, scale: float) -> Sprite:
    easel = Easel((-0.06, -0.1, 0.06, 0.05), scale)
    easel.polygon(_taper(0.03, 0.036, -0.06, -0.004), "face", tint(dancer.skin, 0.9))
    return easel.sprite()


def _print(dancer: Dancer, body: Body, scale: float, colour: Colour) -> Part:
    """A badge on the chest, seen from the front only."""
    neck, u, v = _torso_axes(body)
    easel = Easel((-0.06, -0.06, 0.06, 0.06), scale)
    label = "dress" if dancer.bottom == "dress" else "upper-clothes"
    easel.ellipse((0, 0), (0.04, 0.04), label, colour)
    easel.polygon([(0, -0.026), (0.024, 0.016), (-0.024, 0.016)], label, tint(colour, 0.55))
    front = np.cos(body.yaw)
    across = u / np.maximum(np.linalg.norm(u, axis=-1, keepdims=True), 1e-6) * body.unit
    origin = neck + 0.11 * v + across * (0.06 * np.sin(body.yaw))[:, None]
    return _moved(easel.sprite(), origin, across * np.maximum(front, 0.1)[:, None], v, 0 * front + 0.005, front > 0.25)


def _skirt(dancer: Dancer, body: Body, scale: float) -> Part:
    """From the waist towards the middle of the knees, wider as they part."""
    _, u, down = _torso_axes(body)
    hip, knees = body.flat["mid-hip"], (body.flat["left-knee"] + body.flat["right-knee"]) / 2
    parted = np.linalg.norm(body.flat["left-knee"] - body.flat["right-knee"], axis=-1) / body.unit
    length, top = dancer.hem * THIGH, dancer.hips + 0.045 * dancer.girth
    flare = (1.25 + 0.35 * dancer.hem) * dancer.flare
    easel = Easel((-top * flare - 0.01, -0.09, top * flare + 0.01, length + 0.03), scale)
    hem = [(top * flare * x, length + 0.012 * np.cos(14 * x)) for x in np.linspace(1, -1, 25)]
    if dancer.pleats:
        hem = [(x, y - 0.014 * (i % 2)) for i, (x, y) in enumerate(hem)]
    label = "dress" if dancer.bottom == "dress" else "skirt"
    easel.polygon([(-0.86 * top, -0.08), (0.86 * top, -0.08), (top, 0.01), *hem, (-top, 0.01)], label, dancer.lower)
    if dancer.pleats:
        _pleat(easel, dancer, top, flare, length, label)
    v = 0.6 * (knees - hip) / THIGH + 0.4 * down
    wide = np.clip(0.85 + 0.8 * parted / THIGH, 1, 1.35)[:, None]
    return _moved(easel.sprite(0.35), hip, u * wide, v, _before_thighs(body))


def _pleat(easel: Easel, dancer: Dancer, top: float, flare: float, length: float, label: str) -> None:
    """Every other strip of the skirt is in shade."""
    shade = Cloth("plain", tint(dancer.lower.colour, 0.6), tint(dancer.lower.colour, 0.5), dancer.lower.period)
    edges = np.linspace(-0.94, 0.94, 17)
    for left, right in zip(edges[::2], edges[1::2], strict=False):
        low = [(top * flare * x, length - 0.004) for x in (right, left)]
        easel.polygon([(0.86 * top * left, -0.06), (0.86 * top * right, -0.06), *low], label, shade)


def _before_thighs(body: Body) -> np.ndarray:
    thighs = (_depth(body, f"{side}-hip", f"{side}-knee") for side in ("left", "right"))
    return np.maximum(0.002, np.maximum(*thighs) - 0.09)


def _arm_parts(dancer: Dancer, body: Body, scale: float) -> list[Part]:
    g, parts = dancer.girth, []
    label, cloth = ("dress", dancer.lower) if dancer.bottom == "dress" else ("upper-clothes", dancer.top)
    for side in ("left", "right"):
        skin = (f"{side}-arm", dancer.skin)
        upper = _limb(scale, UPPER_ARM, (0.028 * g, 0.023 * g), skin, [(label, cloth, 0, min(dancer.sleeves, 1))])
        covered = min(max(dancer.sleeves - 1, 0), 0.95)
        lower = _limb(scale, FOREARM, (0.023 * g, 0.017 * g), skin, [(label, cloth, 0, covered)], dancer.gloves)
        shoulder, elbow, wrist = (f"{side}-{joint}" for joint in ("shoulder", "elbow", "wrist"))
        parts.append(_moved(upper, *_along(body, shoulder, elbow, UPPER_ARM), _depth(body, shoulder, elbow) + 0.02))
        parts.append(_moved(lower, *_along(body, elbow, wrist, FOREARM), _depth(body, elbow, wrist) + 0.03))
        if dancer.ball == side:
            parts.append(_ball(dancer, body, side, scale))
    return parts


def _ball(dancer: Dancer, body: Body, side: str, scale: float) -> Part:
    """A ball that lies in the hand, before it."""
    r, wrist, elbow = dancer.ball_radius, body.flat[f"{side}-wrist"], body.flat[f"{side}-elbow"]
    easel = Easel((-r - 0.01, -r - 0.01, r + 0.01, r + 0.01), scale)
    easel.ellipse((0, 0), (r, r), "thing", dancer.ball_colour)
    easel.ellipse((-0.35 * r, -0.35 * r), (0.3 * r, 0.3 * r), "thing", tint(dancer.ball_colour, 1.3))
    out = (wrist - elbow) / np.maximum(np.linalg.norm(wrist - elbow, axis=-1, keepdims=True), 1e-6)
    right = np.tile([body.unit, 0.0], (len(wrist), 1))
    near = _depth(body, f"{side}-elbow", f"{side}-wrist") + 0.031
    return _moved(easel.sprite(0.3), wrist + out * (0.04 + 0.8 * r) * body.unit, right, right[:, ::-1], near)


# --- the head -----------------------------------------------------------------------------------------------


def _head_parts(dancer: Dancer, body: Body, scale: float) -> list[Part]:
    rw, rh = head_radii(dancer)
    right = body.across_head() * body.unit
    down = right[:, ::-1] * [-1, 1]
    sine, cosine, face = np.sin(body.head_yaw), np.cos(body.head_yaw), body.facing()
    near = _depth(body, "head") + 0.08
    parts = [_moved(_skull(dancer, scale), body.flat["head"], right, down, near)]
    if dancer.hair in ("long", "bob", "bun", "ponytail"):
        origin = body.in_head(-(1.0 if dancer.hair in ("bun", "ponytail") else 0.3) * rw * sine, 0)
        parts.append(_moved(_back_hair(dancer, scale), origin, right, down, near - 0.1 * cosine))
    if dancer.hair in ("crop", "short", "bald", "bun", "ponytail"):
        easel = Easel((-0.02, -0.03, 0.02, 0.03), scale)
        easel.ellipse((0, 0), (0.013, 0.02), "face", tint(dancer.skin, 0.88))
        for side in (1, -1):
            origin = body.in_head(side * 0.97 * rw * cosine, 0.15 * rh)
            parts.append(_moved(easel.sprite(), origin, right, down, near + 0.001, -side * sine > -0.8))
    origin = body.in_head(0.6 * rw * sine, 0)
    shown, scaled = face > 0.1, right * np.maximum(face, 0.05)[:, None]
    parts.append(_moved(_face(dancer, scale), origin, scaled, down, near + 0.002, shown))
    if dancer.hat:
        parts.append(_moved(_hat(dancer, scale), body.flat["head"], right, down, near + 0.003))
    if dancer.hat == "cap":
        easel = Easel((-1.2 * rw, -rh, 1.2 * rw, 0), scale)
        easel.ellipse((0, -0.42 * rh), (0.98 * rw, 0.15 * rh), "hat", tint(dancer.hat_colour, 0.7))
        parts.append(
            _moved(easel.sprite(), origin, right * (0.5 + 0.5 * np.abs(face))[:, None], down, near + 0.004, shown)
        )
    return parts


def _hair_cloth(dancer: Dancer) -> Cloth:
    return Cloth("along", dancer.hair_colour, tint(dancer.hair_colour, 0.87), 0.025)


def _skull(dancer: Dancer, scale: float) -> Sprite:
    """The head without its face: hair, or skin if bald."""
    rw, rh = head_radii(dancer)
    easel = Easel((-2 * rw, -2 * rh, 2 * rw, 1.5 * rh), scale)
    easel.ellipse((0, 0.1 * rh), (0.95 * rw, 0.95 * rh), "face", dancer.skin)
    cloth = _hair_cloth(dancer)
    if dancer.hair == "afro":
        easel.ellipse((0, -0.25 * rh), (1.5 * rw, 1.3 * rh), "hair", Cloth("dots", cloth.colour, cloth.second, 0.03))
    elif dancer.hair != "bald":
        volume = 1.0 if dancer.hair == "crop" else 1.08
        easel.ellipse((0, -0.12 * rh), (volume * rw, volume * rh), "hair", cloth)
    return easel.sprite(0.12)


def _back_hair(dancer: Dancer, scale: float) -> Sprite:
    """Hair that hangs or stands at the back of the head."""
    rw, rh = head_radii(dancer)
    tall = (-1.5 * rw, -2 * rh, 1.5 * rw, max(3.4, 2.7 * dancer.mane) * rh)
    easel, cloth = Easel(tall, scale), _hair_cloth(dancer)
    if dancer.hair == "bun":
        easel.ellipse((0, -0.95 * rh), (0.55 * rw, 0.5 * rh), "hair", cloth)
    elif dancer.hair == "ponytail":
        easel.polygon(_taper(0.4 * rw, 0.2 * rw, -0.3 * rh, 2.3 * rh), "hair", cloth)
    else:
        end = 2.5 * dancer.mane * rh if dancer.hair == "long" else 1.0 * rh
        easel.polygon(_taper(1.1 * rw, 0.85 * rw, -0.1 * rh, end, True, False), "hair", cloth)
    return easel.sprite(0.15)


def _face(dancer: Dancer, scale: float) -> Sprite:
    """Eyes, brows, nose and mouth, with the hairline above; the eyes lie 0.4 of the head's half width aside."""
    rw, rh = head_radii(dancer)
    easel = Easel((-rw, -rh, rw, 1.15 * rh), scale)
    easel.ellipse((0, 0.1 * rh), (0.88 * rw, 0.95 * rh), "face", dancer.skin)
    dark = tint(dancer.hair_colour, 0.6) if dancer.hair != "bald" else (50, 36, 30)
    for side in (-1, 1):
        x = side * 0.4 * rw
        easel.ellipse((x, 0.05 * rh), (0.2 * rw, 0.12 * rh), "face", (245, 245, 240))
        easel.ellipse((x, 0.05 * rh), (0.1 * rw, 0.11 * rh), "face", (30, 26, 30))
        easel.polygon([(x - 0.22 * rw, -0.16 * rh), (x + 0.22 * rw, -0.16 * rh), (x, -0.24 * rh)], "face", dark)
        easel.ellipse((side * 0.52 * rw, 0.42 * rh), (0.16 * rw, 0.1 * rh), "face", _blush(dancer.skin))
    easel.polygon([(0, 0.12 * rh), (0.13 * rw, 0.38 * rh), (-0.13 * rw, 0.38 * rh)], "face", tint(dancer.skin, 0.78))
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


def _hat(dancer: Dancer, scale: float) -> Sprite:
    rw, rh = head_radii(dancer)
    easel = Easel((-1.5 * rw, -1.8 * rh, 1.5 * rw, 0.2 * rh), scale)
    crown = [(1.12 * rw * np.cos(a), -0.4 * rh - 0.95 * rh * np.sin(a)) for a in np.linspace(0, np.pi, 24)]
    easel.polygon(crown, "hat", Cloth("folds", dancer.hat_colour, tint(dancer.hat_colour, 0.8), 0.04))
    if dancer.hat == "beanie":
        band = [(-1.15 * rw, -0.62 * rh), (1.15 * rw, -0.62 * rh), (1.13 * rw, -0.3 * rh), (-1.13 * rw, -0.3 * rh)]
        easel.polygon(band, "hat", tint(dancer.hat_colour, 0.68))
        easel.ellipse((0, -1.42 * rh), (0.28 * rw, 0.24 * rh), "hat", tint(dancer.hat_colour, 1.35))
    return easel.sprite(0.15)
