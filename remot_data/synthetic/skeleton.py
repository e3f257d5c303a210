"""The joints of a drawn dancer over time: a 3D skeleton that dances, turns and is projected into the image.

Lengths are in body heights. The skeleton turns about the vertical axis, so that left and right change places
in the image.
"""

from __future__ import annotations

import numpy as np

from remot_data.schemas import KEYPOINTS
from remot_data.synthetic.dancer import Dancer

# How much lower in the image a point one body height nearer appears: a camera slightly above the dancer.
_PITCH = 0.18
# Lengths in body heights.
TORSO, NECK, UPPER_ARM, FOREARM, THIGH, SHIN, FOOT = 0.285, 0.105, 0.16, 0.14, 0.235, 0.23, 0.10


class Body:
    """Joints over time, projected into the image, and the angles that the drawing needs.

    Body axes before turning: x to the dancer's left, y down, z to the front; all in body heights.
    """

    def __init__(
        self,
        dancer: Dancer,
        seconds: np.ndarray,
        size: tuple[int, int],
        rng: np.random.Generator,
        turned: float | None = None,
        crossed: bool = False,
    ) -> None:
        self.dancer = dancer
        self.unit = dancer.height * size[0]
        wave = _Waves(rng, seconds)
        self.yaw, self.lean = _turning(rng, seconds, wave, turned), wave(0.12, 1)
        self.head_yaw = self.yaw + wave(0.35, 0.6)
        self.head_roll = self.lean * np.cos(self.yaw) + wave(0.13, 1)
        local = _upper_joints(dancer, wave, self.lean, crossed) | _legs(dancer, wave, rng, seconds, crossed)
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
        rw, rh = head_radii(self.dancer)
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


def _turning(rng: np.random.Generator, seconds: np.ndarray, wave: _Waves, turned: float | None) -> np.ndarray:
    """The angle of the body to the camera, in radians: swaying, spinning, from behind or from the side.

    With `turned` it sways about that angle, by less than half.
    """
    style = rng.random()
    sway = wave(rng.uniform(0.2, 0.7), 0.7)
    if turned is not None:
        return turned + 0.5 * sway
    if style < 0.6:
        return sway
    if style < 0.85:
        return sway + rng.choice((-1, 1)) * 2 * np.pi * rng.uniform(0.1, 0.3) * seconds
    return sway + (np.pi if style < 0.94 else rng.choice((-1.3, 1.3)))


def _direction(side: int, out: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """Unit vectors [T, 3]: hanging down, lifted sideways by `out` and to the front by `forward` radians."""
    return np.stack([side * np.sin(out) * np.cos(forward), np.cos(out) * np.cos(forward), np.sin(forward)], -1)


def _upper_joints(dancer: Dancer, wave: _Waves, lean: np.ndarray, crossed: bool) -> dict[str, np.ndarray]:
    """Everything above the hips, [T, 3] each, relative to the middle of the hips."""
    up = np.stack([np.sin(lean), -np.cos(lean), wave(0.05, 1, 0.02)], -1)
    across = np.stack([np.cos(lean), np.sin(lean), np.zeros_like(lean)], -1)
    neck = TORSO * up
    joints = {"neck": neck, "mid-hip": 0 * neck, "head": neck + NECK * up}
    for side, name in ((1, "left"), (-1, "right")):
        shoulder = neck + side * dancer.shoulders * across
        raised = wave.rng.uniform(0.3, 1.6)
        out = np.clip(wave(1.25, 0.8, raised), 0.08, 2.9)
        forward = wave(0.45, 0.9, 0.15)
        bent_out, bent_forward = np.clip(wave(0.9, 1, 0.5), -0.35, 1.6), np.clip(wave(0.5, 0.9, 0.3), 0, 0.9)
        if crossed:
            out, forward = 0.1 + 0.15 * out, 0.5 + 0.3 * forward
            bent_out, bent_forward = -1.6 - 0.15 * bent_out, 0.1 + 0.2 * bent_forward
        elbow = shoulder + UPPER_ARM * _direction(side, out, forward)
        wrist = elbow + FOREARM * _direction(side, out + bent_out, forward + bent_forward)
        joints |= {f"{name}-shoulder": shoulder, f"{name}-elbow": elbow, f"{name}-wrist": wrist}
    return joints


def _legs(
    dancer: Dancer, wave: _Waves, rng: np.random.Generator, seconds: np.ndarray, crossed: bool
) -> dict[str, np.ndarray]:
    """Hips, knees, ankles and feet, [T, 3] each: steps, kicks and squats, relative to the middle of the hips."""
    step, kick = rng.uniform(0.2, 0.9), rng.uniform(0, 0.8)
    squat = rng.uniform(0.1, 0.75) * np.maximum(np.sin(np.pi * wave.beat * seconds + rng.uniform(0, 6)), 0) ** 2
    joints: dict[str, np.ndarray] = {}
    for side, name in ((1, "left"), (-1, "right")):
        lift = np.maximum(side * np.sin(np.pi * wave.beat * seconds), 0) ** 2
        out = wave(0.06, 1, rng.uniform(0.08, 0.2)) + kick * lift + 0.35 * squat
        forward = step * lift + squat
        if crossed:
            out, forward = out - 0.4, forward + 0.15 * side
        hip = np.broadcast_to([side * dancer.hips, 0.0, 0.0], (len(seconds), 3))
        knee = hip + THIGH * _direction(side, out, forward)
        ankle = knee + SHIN * _direction(side, out * 0.6 - 0.35 * squat, forward - 1.5 * step * lift - 1.9 * squat)
        turned, dropped = 0.35 + 0 * lift, 0.7 * lift * step
        toe = np.stack([side * np.sin(turned), dropped, np.cos(turned)], -1)
        aside = np.stack([side * np.cos(turned), 0 * lift, -np.sin(turned)], -1)
        low = np.array([0, 0.03, 0])
        joints |= {f"{name}-hip": hip.copy(), f"{name}-knee": knee, f"{name}-ankle": ankle}
        joints[f"{name}-heel"] = ankle + low - 0.025 * toe
        joints[f"{name}-big-toe"] = ankle + low + FOOT * toe - 0.008 * aside
        joints[f"{name}-small-toe"] = ankle + low + 0.88 * FOOT * toe + 0.018 * aside
    return joints


def _turn(point: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Points [T, 3] turned about the vertical axis."""
    x, y, z = point.T
    return np.stack([x * np.cos(yaw) + z * np.sin(yaw), y, z * np.cos(yaw) - x * np.sin(yaw)], -1)


def head_radii(dancer: Dancer) -> tuple[float, float]:
    return 0.06 * dancer.head, 0.076 * dancer.head
