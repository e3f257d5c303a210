"""Where on the body a pixel lies, told by the keypoints: limbs as capsules, and the sphere of the head."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from remot_data.schemas import KEYPOINTS, SchemaError, convert_keypoints, keypoint_set

_P = {name: i for i, name in enumerate(keypoint_set("body25").points)}

# Points the capsules need beside those of BODY_25, appended after them.
_HEAD, _LEFT_HAND, _RIGHT_HAND, _LEFT_TOE, _RIGHT_TOE, _LEFT_THIGH, _RIGHT_THIGH = range(len(_P), len(_P) + 7)


@dataclass(frozen=True)
class Capsule:
    """A limb from point `a` to point `b`, with its half width at either end in torso lengths."""

    part: str
    a: int
    b: int
    width_a: float
    width_b: float


def _side(side: str, toe: int, hand: int, thigh: int) -> tuple[Capsule, ...]:
    def p(name: str) -> int:
        return _P[f"{side}-{name}"]

    return (
        Capsule("torso", p("shoulder"), p("hip"), 0.20, 0.22),
        Capsule(f"{side}-upper-arm", p("shoulder"), p("elbow"), 0.16, 0.13),
        Capsule(f"{side}-forearm", p("elbow"), p("wrist"), 0.13, 0.09),
        Capsule(f"{side}-hand", p("wrist"), hand, 0.09, 0.09),
        Capsule(f"{side}-thigh", thigh, p("knee"), 0.24, 0.17),
        Capsule(f"{side}-shin", p("knee"), p("ankle"), 0.17, 0.10),
        Capsule(f"{side}-foot", p("ankle"), toe, 0.10, 0.09),
        Capsule(f"{side}-foot", p("heel"), toe, 0.10, 0.09),
    )


CAPSULES = (
    Capsule("head", _HEAD, _HEAD, 0.33, 0.33),
    Capsule("neck", _P["neck"], _HEAD, 0.16, 0.16),
    Capsule("torso", _P["neck"], _P["mid-hip"], 0.30, 0.30),
    *_side("left", _LEFT_TOE, _LEFT_HAND, _LEFT_THIGH),
    *_side("right", _RIGHT_TOE, _RIGHT_HAND, _RIGHT_THIGH),
)
PARTS = tuple(dict.fromkeys(c.part for c in CAPSULES))
LIMBS = np.array([part.partition("-")[2] or part for part in PARTS])  # of each part, without its side
_PART_OF = np.array([PARTS.index(c.part) for c in CAPSULES], np.uint8)
_A, _B = np.array([(c.a, c.b) for c in CAPSULES]).T
_IS_ARM = np.array([part.endswith(("arm", "hand")) for part in PARTS])
_IS_LEG = np.array([part.endswith(("thigh", "shin", "foot")) for part in PARTS])
_ONLY_TORSO = np.array([part == "torso" for part in PARTS])
_IS_TORSO = np.array([c.part == "torso" for c in CAPSULES])
# Where a capsule begins and ends on an arm or a leg.
_SPAN = {"upper-arm": (0, 1), "forearm": (1, 2), "hand": (2, 2), "thigh": (0.2, 1), "shin": (1, 2), "foot": (2, 2)}
_START, _END = np.array([_SPAN.get(c.part.partition("-")[2], (0, 0)) for c in CAPSULES], np.float32).T
_RADIUS = 0.27  # of the head, in torso lengths
_WIDTHS = np.array([(c.width_a, c.width_b) for c in CAPSULES], np.float32)
# A limb in front of the torso is nearer than the torso within this share of its width.
_FLOOR = np.where(_IS_TORSO, 0.75, 0.0).astype(np.float32)


def confidences(points: np.ndarray) -> np.ndarray:
    """How sure the pose is of each of `PARTS`, float32 in [0, 1]: half a confidence is taken for all of it."""
    of_capsule = np.minimum(points[_A, 2], points[_B, 2])
    out = np.zeros(len(PARTS), np.float32)
    np.maximum.at(out, _PART_OF, of_capsule)
    return (2 * out).clip(0, 1)


def as_body25(keypoints: np.ndarray) -> np.ndarray:
    """Keypoints float32 [..., K, 3] of any known set as BODY_25; the set is told by K."""
    for name, points in KEYPOINTS.items():
        if keypoints.shape[-2] == len(points):
            return convert_keypoints(keypoints, name, "body25")
    raise SchemaError(
        f"no known keypoint set has {keypoints.shape[-2]} points; known: "
        + ", ".join(f"{name} ({len(points)})" for name, points in KEYPOINTS.items())
    )


def with_extras(keypoints: np.ndarray) -> np.ndarray:
    """BODY_25 keypoints [T, 25, 3] with head centre, finger tips, toes and thighs appended: float32 [T, 32, 3].

    A finger tip goes on from the wrist along the forearm, a toe that the detector does not give along the shin.
    A thigh starts a fifth below the hip: what is above belongs to the trunk. Hips that are not seen, as in a picture of
    the upper body, are put where they would be below the shoulders.
    """
    keypoints = _with_hips(keypoints)
    out = np.zeros((len(keypoints), _RIGHT_THIGH + 1, 3), np.float32)
    out[:, : len(_P)] = keypoints
    out[:, _HEAD] = _head(keypoints)
    for side, hand, toe, thigh in (
        ("left", _LEFT_HAND, _LEFT_TOE, _LEFT_THIGH),
        ("right", _RIGHT_HAND, _RIGHT_TOE, _RIGHT_THIGH),
    ):
        out[:, thigh] = _beyond(keypoints, f"{side}-knee", f"{side}-hip", -0.2)
        out[:, hand] = _beyond(keypoints, f"{side}-elbow", f"{side}-wrist", 0.35)
        seen = keypoints[:, _P[f"{side}-big-toe"]]
        out[:, toe] = np.where(seen[:, 2:] > 0, seen, _beyond(keypoints, f"{side}-knee", f"{side}-ankle", 0.25))
    return out


def _with_hips(keypoints: np.ndarray) -> np.ndarray:
    """BODY_25 keypoints with hips where only shoulders are seen: a torso length from the neck, away from the head."""
    out, head, neck = keypoints.copy(), _head(keypoints), keypoints[:, _P["neck"]]
    missing = (keypoints[:, _P["mid-hip"], 2] == 0) & (neck[:, 2] > 0)
    down = np.where(head[:, 2:] > 0, neck[:, :2] - head[:, :2], np.array([0, 1], np.float32))
    down /= np.maximum(np.linalg.norm(down, axis=1, keepdims=True), 1e-6)
    middle = neck[:, :2] + torso_lengths(keypoints)[:, None] * down
    half = (keypoints[:, _P["left-shoulder"], :2] - keypoints[:, _P["right-shoulder"], :2]) * 0.3
    for name, aside in (("mid-hip", 0), ("left-hip", 1), ("right-hip", -1)):
        hip = np.concatenate([middle + aside * half, neck[:, 2:]], 1)
        out[:, _P[name]] = np.where(missing[:, None], hip, keypoints[:, _P[name]])
    return out


def _beyond(keypoints: np.ndarray, start: str, end: str, share: float) -> np.ndarray:
    """Points [T, 3] a share of a limb's length past its end, absent where the limb is."""
    a, b = keypoints[:, _P[start]], keypoints[:, _P[end]]
    confidence = np.minimum(a[:, 2], b[:, 2])
    point = b[:, :2] + share * (b[:, :2] - a[:, :2])
    return np.concatenate([point * (confidence > 0)[:, None], confidence[:, None]], 1)


def _head(keypoints: np.ndarray) -> np.ndarray:
    """Centre of the head [T, 3]: between the ears, else the mean of the face's points, else above the neck."""
    face = keypoints[:, [_P[n] for n in ("nose", "left-eye", "right-eye", "left-ear", "right-ear")]]
    weight = (face[..., 2] > 0) * np.array([1, 1, 1, 4, 4], np.float32)
    total = weight.sum(1)
    centre = (face[..., :2] * weight[..., None]).sum(1) / np.maximum(total, 1)[:, None]
    neck, hips = keypoints[:, _P["neck"]], keypoints[:, _P["mid-hip"]]
    above = neck[:, :2] + 0.45 * (neck[:, :2] - hips[:, :2])
    known = np.minimum(neck[:, 2], hips[:, 2])
    point = np.where((total > 0)[:, None], centre, above)
    confidence = np.where(total > 0, face[..., 2].max(1), known)
    return np.concatenate([point * (confidence > 0)[:, None], confidence[:, None]], 1)


# Limbs and their usual length in torso lengths.
_LENGTHS = (
    ("neck", "mid-hip", 1.0),
    ("left-shoulder", "right-shoulder", 0.75),
    ("left-hip", "left-knee", 0.85),
    ("right-hip", "right-knee", 0.85),
    ("left-knee", "left-ankle", 0.8),
    ("right-knee", "right-ankle", 0.8),
)


def torso_lengths(keypoints: np.ndarray) -> np.ndarray:
    """The person's scale float32 [T]: a torso length in pixels, as the least foreshortened limb shows it.

    Each frame stays within a quarter of the clip's median; 0 in a clip without any limb.
    """
    found = np.zeros(len(keypoints), np.float32)
    for a, b, usual in _LENGTHS:
        p, q = keypoints[:, _P[a]], keypoints[:, _P[b]]
        length = np.hypot(*(p[:, :2] - q[:, :2]).T) / usual
        found = np.maximum(found, length * ((p[:, 2] > 0) & (q[:, 2] > 0)))
    if not (found > 0).any():
        return found
    middle = np.median(found[found > 0])
    return np.where(found > 0, found.clip(0.8 * middle, 1.25 * middle), middle).astype(np.float32)


@dataclass(frozen=True)
class Place:
    """Where on the body pixels lie; an array [N] each.

    Attributes:
        part: uint8, index into `PARTS` of the limb whose axis is nearest in half widths of that limb.
        away: float32, that distance; 1 at the limb's usual edge.
        along: float32, on arms and legs from 0 at the shoulder or hip over 1 at elbow or knee to 2 at wrist or ankle.
        trunk: float32, distance from the axis of the torso in its half widths.
        behind: bool, whether the torso, seen from its back, likely hides it: what lies nearest to an arm there.
        height: float32, above the hips along the torso, in torso lengths; 1 where the torso is not known.
        crown: float32, up from the centre of the head along its axis, in torso lengths.
        face: float32, on a head taken as a sphere, the cosine of the angle from where the face looks; -1 elsewhere.
        hand: float32, distance from the nearer hand, in torso lengths.
        lost: bool, whether it lies on an arm of which the pose has lost elbow or wrist, as far as can be told.
    """

    part: np.ndarray
    away: np.ndarray
    along: np.ndarray
    trunk: np.ndarray
    behind: np.ndarray
    height: np.ndarray
    crown: np.ndarray
    face: np.ndarray
    hand: np.ndarray
    lost: np.ndarray

    def __getitem__(self, chosen: np.ndarray | slice) -> Place:
        return Place(*(getattr(self, f)[chosen] for f in self.__dataclass_fields__))

    def is_on(self, *limbs: str) -> np.ndarray:
        """Which of the pixels lie on these limbs of either side: bool [N]."""
        return np.isin(LIMBS, limbs)[self.part]


def locate(points: np.ndarray, unit: float, pixels: np.ndarray) -> Place:
    """The place of pixels float32 [2, N] (x and y of their centres) on the body.

    Args:
        points: float32 [32, 3], see `with_extras`.
        unit: torso length in pixels.
    """
    distance, t, kept = _to_capsules(points, unit, pixels)
    trunk = distance[_IS_TORSO[kept]].min(0) if _IS_TORSO[kept].any() else np.full(len(t[0]), 9, np.float32)
    np.maximum(distance, _FLOOR[kept][:, None], out=distance)
    nearest = distance.argmin(0)[None]
    along = np.take_along_axis(t, nearest, 0)[0]
    capsule = kept[nearest[0]]
    along = _START[capsule] + along * (_END - _START)[capsule]
    part = _PART_OF[capsule]
    crown, face = _on_head(points, unit, pixels, part == PARTS.index("head"))
    away = np.take_along_axis(distance, nearest, 0)[0]
    behind = _IS_ARM[part] & (trunk < 1) & _from_behind(points, unit)
    hand = _from_hands(points, unit, pixels)
    lost = _on_lost_arm(points, unit, pixels, part, away, along)
    away[lost] = 1
    return Place(part, away, along, trunk, behind, _height(points, pixels), crown, face, hand, lost)


def _from_hands(points: np.ndarray, unit: float, pixels: np.ndarray) -> np.ndarray:
    """Distance float32 [N] from the nearer finger tip in torso lengths; 9 where no hand is known."""
    found = np.full(pixels.shape[1], 9, np.float32)
    for tip in (_LEFT_HAND, _RIGHT_HAND):
        if points[tip, 2] > 0:
            np.minimum(found, np.hypot(pixels[0] - points[tip, 0], pixels[1] - points[tip, 1]) / unit, out=found)
    return found


_ARM = 1.2  # length of an arm with its hand, in torso lengths


def _on_lost_arm(
    points: np.ndarray, unit: float, pixels: np.ndarray, part: np.ndarray, away: np.ndarray, along: np.ndarray
) -> np.ndarray:
    """Pixels of an arm of which the pose has lost elbow or wrist: bool [N].

    They are those beside the torso, or far from all limbs, that it can reach. Their part and how far along they lie
    are put right, in `part` and `along`.
    """
    lost: np.ndarray = np.zeros(len(part), bool)
    free = (away > np.where(_ONLY_TORSO[part], 0.95, 1.35)) & ~_IS_LEG[part]
    nearest = np.full(len(part), np.inf, np.float32)
    for side in ("left", "right"):
        shoulder, elbow, wrist = (points[_P[f"{side}-{joint}"]] for joint in ("shoulder", "elbow", "wrist"))
        if shoulder[2] == 0 or (elbow[2] > 0 and wrist[2] > 0):
            continue
        start, begun = (elbow, 1.0) if elbow[2] > 0 else (shoulder, 0.0)
        far = np.hypot(pixels[0] - start[0], pixels[1] - start[1]) / unit
        at = begun + far / (0.5 * _ARM)
        here = free & (at < 2.3) & (far < nearest)
        lost |= here
        nearest[here] = far[here]
        part[here] = np.where(at[here] < 1, PARTS.index(f"{side}-upper-arm"), PARTS.index(f"{side}-forearm"))
        along[here] = at[here].clip(0, 2)
    return lost


def _from_behind(points: np.ndarray, unit: float) -> bool:
    """Whether the left shoulder is clearly on the left of the right one, seen with the head up."""
    left, right = points[_P["left-shoulder"]], points[_P["right-shoulder"]]
    neck, hips = points[_P["neck"]], points[_P["mid-hip"]]
    if min(left[2], right[2], neck[2], hips[2]) == 0:
        return False
    up = neck[:2] - hips[:2]
    across = np.array([-up[1], up[0]], np.float32) / max(float(np.hypot(*up)), 1e-6)
    return bool((left[:2] - right[:2]) @ across < -0.2 * unit)


def _to_capsules(points: np.ndarray, unit: float, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances [C, N] in half widths from the capsules that are there, shares [C, N] along them, their indices [C]."""
    present = (points[_A, 2] > 0) & (points[_B, 2] > 0)
    kept = np.flatnonzero(present)
    a, b = points[_A[kept], :2], points[_B[kept], :2]
    along = b - a
    length2 = np.maximum((along**2).sum(1), 1e-6)
    dx, dy = pixels[0] - a[:, :1], pixels[1] - a[:, 1:]
    t = dx * (along[:, :1] / length2[:, None])
    t += dy * (along[:, 1:] / length2[:, None])
    np.clip(t, 0, 1, out=t)
    dx -= t * along[:, :1]
    dy -= t * along[:, 1:]
    width = _WIDTHS[kept] * unit
    dx *= dx
    dy *= dy
    dx += dy
    distance = np.sqrt(dx, out=dx)
    distance /= t * (width[:, 1:] - width[:, :1]) + width[:, :1]
    return distance, t, kept


def _height(points: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    neck, hips = points[_P["neck"]], points[_P["mid-hip"]]
    if min(neck[2], hips[2]) == 0:
        return np.ones(pixels.shape[1], np.float32)
    up = neck[:2] - hips[:2]
    return ((pixels[0] - hips[0]) * up[0] + (pixels[1] - hips[1]) * up[1]) / max(float(up @ up), 1e-6)


def head_yaw(points: np.ndarray) -> float | None:
    """The angle by which the head is turned from the camera, in radians: 0 from the front, positive towards the right
    of the image, pi from behind; None where neither face nor shoulders tell.

    The nose lies off the middle of the ears by some 1.2 times half their distance times the sine, one ear by the
    cosine. Left and right decide, not confidence: pose networks put a face on the back of a head, too.
    """
    across = _across_head(points)
    left, right, nose = (points[_P[n]] for n in ("left-ear", "right-ear", "nose"))
    if min(left[2], right[2], nose[2]) > 0:
        cosine = (left[:2] - right[:2]) @ across / 2
        sine = (nose[:2] - (left[:2] + right[:2]) / 2) @ across / 1.2
        return float(np.arctan2(sine, cosine))
    left, right = (points[_P[f"{side}-shoulder"]] for side in ("left", "right"))
    if min(left[2], right[2]) == 0:
        return None
    return 0.0 if (left[:2] - right[:2]) @ across >= 0 else float(np.pi)


def _across_head(points: np.ndarray) -> np.ndarray:
    """Unit vector [2] across the head, to the right of the image if it is upright."""
    up = (
        points[_HEAD, :2] - points[_P["neck"], :2]
        if min(points[[_HEAD, _P["neck"]], 2]) > 0
        else np.array([0, -1], np.float32)
    )
    return np.array([-up[1], up[0]], np.float32) / max(float(np.hypot(*up)), 1e-6)


def _on_head(points: np.ndarray, unit: float, pixels: np.ndarray, head: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`Place.crown` and `Place.face`; the latter where `head` bool [N] is true."""
    across, yaw = _across_head(points), head_yaw(points)
    up = np.array([across[1], -across[0]], np.float32)
    x, y = pixels[0] - points[_HEAD, 0], pixels[1] - points[_HEAD, 1]
    crown = (x * up[0] + y * up[1]) / unit
    face = np.full(len(crown), -1, np.float32)
    if yaw is not None:
        aside = (x[head] * across[0] + y[head] * across[1]) / (_RADIUS * unit)
        above = crown[head] / _RADIUS
        near = np.sqrt(np.maximum(1 - aside**2 - above**2, 0))
        face[head] = aside * np.sin(yaw) + near * np.cos(yaw)
    return crown, face


def person_mask(
    points: np.ndarray, unit: float, soft: np.ndarray | None, size: tuple[int, int], threshold: int = 128
) -> np.ndarray:
    """The pixels of the person, bool [H, W].

    Of a soft mask uint8 [H, W] the pieces count that the skeleton touches; without one, capsules of the limbs'
    usual widths.
    """
    skeleton = np.zeros(size, np.uint8)
    for capsule in CAPSULES:
        if points[[capsule.a, capsule.b], 2].min() > 0:
            width = 0.04 if soft is not None else capsule.width_a + capsule.width_b
            _line(skeleton, points, capsule, width * unit)
    if soft is None:
        return skeleton > 0
    _, pieces = cv2.connectedComponents((soft >= threshold).astype(np.uint8))
    touched = np.bincount(pieces[skeleton > 0], minlength=int(pieces.max()) + 1) > 0
    touched[0] = False
    return touched[pieces]


def _line(image: np.ndarray, points: np.ndarray, capsule: Capsule, width: float) -> None:
    a, b = (tuple(int(v) for v in points[i, :2]) for i in (capsule.a, capsule.b))
    cv2.line(image, a, b, 255, max(round(width), 1))


def limb_distance(keypoints: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Distance float32 [N] of pixels float32 [2, N] from the nearest limb, in half widths of it; inf without any.

    Args:
        keypoints: BODY_25 of one person, [25, 3].
    """
    points, (unit,) = with_extras(keypoints[None])[0], torso_lengths(keypoints[None])
    if unit == 0:
        return np.full(pixels.shape[1], np.inf, np.float32)
    return _to_capsules(points, float(unit), pixels)[0].min(0, initial=np.inf)
