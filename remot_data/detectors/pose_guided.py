"""An approximate human parser that needs no network: the pose says which part, the colour says skin or cloth.

Every pixel of the person goes to the limb it is nearest to, measured in widths of that limb. Skin is then
told from cloth by the colour that face, hands and forearms have over the whole clip, and small patches are
voted away. Rules that the label set forces or that keep the parts whole:

- a torso is always ``upper-clothes``, bare or not, because ATR has no label for its skin;
- a foot is always a shoe, bare or not;
- what lies below the waist and is not skin is ``pants``: skirts and dresses are not told apart;
- the head is ``face`` where it has the colour of skin or lies between eyes, nose and ears of a face that is
  seen, and otherwise ``hair``, or ``hat`` where its colour is no colour of hair.

It fails where clothes have the colour of skin, and where the pose is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from remot_data.detectors.base import Arrays
from remot_data.schemas import KEYPOINTS, SchemaError, convert_keypoints, keypoint_set, label_set

_ATR = {name: np.uint8(i) for i, name in enumerate(label_set("atr18").labels)}
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
_PART_OF = np.array([PARTS.index(c.part) for c in CAPSULES], np.uint8)
_A, _B = np.array([(c.a, c.b) for c in CAPSULES]).T
_WIDTHS = np.array([(c.width_a, c.width_b) for c in CAPSULES], np.float32)
# A limb in front of the torso is nearer than the torso within this share of its width.
_FLOOR = np.where([c.part == "torso" for c in CAPSULES], 0.75, 0.0).astype(np.float32)


def _bare(part: str) -> np.uint8:
    """The label of a part where it is skin."""
    side, _, limb = part.partition("-")
    kinds = {"upper-arm": "arm", "forearm": "arm", "hand": "arm", "thigh": "leg", "shin": "leg", "foot": "shoe"}
    return _ATR[f"{side}-{kinds[limb]}"] if limb else _ATR["upper-clothes" if part == "torso" else "face"]


def _clothed(part: str) -> np.uint8:
    """The label of a part where it is not skin; hands and feet stay what they are."""
    if part.endswith(("hand", "foot")):
        return _bare(part)
    return _ATR["pants" if part.endswith(("thigh", "shin")) else "upper-clothes"]


_SKIN_LABEL = np.array([_bare(part) for part in PARTS])
_CLOTH_LABEL = np.array([_clothed(part) for part in PARTS])
_IS_LEG = np.array([part.endswith(("thigh", "shin")) for part in PARTS])


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
    A thigh starts a fifth below the hip: what is above belongs to the trunk.
    """
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


def _beyond(keypoints: np.ndarray, start: str, end: str, share: float) -> np.ndarray:
    """Points [T, 3] a share of a limb's length past its end, absent where the limb is."""
    a, b = keypoints[:, _P[start]], keypoints[:, _P[end]]
    confidence = np.minimum(a[:, 2], b[:, 2])
    point = b[:, :2] + share * (b[:, :2] - a[:, :2])
    return np.concatenate([point * (confidence > 0)[:, None], confidence[:, None]], 1)


def _head(keypoints: np.ndarray) -> np.ndarray:
    """Centre of the head [T, 3]: between the ears, else the mean of the face's points, else above the neck."""
    face = keypoints[:, [_P[n] for n in ("nose", "left-eye", "right-eye", "left-ear", "right-ear")]]
    weight = (face[..., 2] > 0) * np.float32([1, 1, 1, 4, 4])
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


def nearest_parts(points: np.ndarray, unit: float, pixels: np.ndarray) -> np.ndarray:
    """The part that each pixel belongs to.

    Args:
        points: float32 [32, 3], see `with_extras`.
        unit: torso length in pixels.
        pixels: float32 [2, N], x and y of the pixels' centres.

    Returns:
        uint8 [N], index into `PARTS` of the limb whose axis is nearest in widths of that limb.
    """
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
    t *= width[:, 1:] - width[:, :1]
    t += width[:, :1]
    distance /= t
    np.maximum(distance, _FLOOR[kept][:, None], out=distance)
    return _PART_OF[kept][distance.argmin(0)]


@dataclass(frozen=True)
class Look:
    """What a clip tells about its person: colours, whether the head wears a hat, and where the waist is.

    Colours are float32 [N, 3] in OpenCV's 8-bit Lab: `skin` has one or, where no skin is seen, none; `top` and
    `bottom` have some each. `waist` is in torso lengths above the hips.
    """

    skin: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    hat: bool
    waist: float


def _skin_like(lab: np.ndarray) -> np.ndarray:
    """A wide gate for skin of any tone in Lab (8 bits a channel) [N, 3]: red and yellow, and not black."""
    light, a, b = (lab[:, i].astype(np.float32) for i in range(3))
    a, b = a - 128, b - 128
    return (light > 30) & (a > 3) & (a < 40) & (b > 2) & (b < 45) & (b > 0.3 * a)


def _samples(lab: np.ndarray, points: np.ndarray, unit: float, spots: tuple[tuple[int, int, float], ...]) -> np.ndarray:
    """Colours [N, 3] of small squares at points a share of the way from a to b, for spots (a, b, share)."""
    h, w = lab.shape[:2]
    reach = max(round(0.04 * unit), 1)
    out = []
    for a, b, share in spots:
        if points[a, 2] >= 0.5 and points[b, 2] >= 0.5:
            x, y = ((1 - share) * points[a, :2] + share * points[b, :2]).astype(int)
            out.append(lab[max(y - reach, 0) : min(y + reach + 1, h), max(x - reach, 0) : min(x + reach + 1, w)])
    return np.concatenate([o.reshape(-1, 3) for o in out]) if out else np.zeros((0, 3), np.uint8)


def _spots(sides: bool, *spots: tuple[int | str, int | str, float]) -> tuple[tuple[int, int, float], ...]:
    """Spots (a, b, share) with the names of points as indices; with `sides`, each on the left and on the right."""

    def index(point: int | str, side: str) -> int:
        return point if isinstance(point, int) else _P[f"{side}-{point}" if sides else point]

    return tuple((index(a, s), index(b, s), share) for s in ("left", "right")[: 1 + sides] for a, b, share in spots)


_FACE_SPOTS = tuple((_P["nose"], b, 0.5) for _, b, _ in _spots(True, ("eye", "eye", 0), ("ear", "ear", 0)))
_WRISTS = ((_P["left-wrist"], _LEFT_HAND), (_P["right-wrist"], _RIGHT_HAND))
_HAND_SPOTS = tuple((wrist, tip, share) for wrist, tip in _WRISTS for share in (0.4, 0.7))
_ARM_SPOTS = _spots(True, ("elbow", "wrist", 0.4), ("elbow", "wrist", 0.6), ("elbow", "wrist", 0.8))
_TOP_SPOTS = (
    _spots(False, ("neck", "mid-hip", 0.25), ("neck", "mid-hip", 0.5)),
    _spots(True, ("shoulder", "hip", 0.3)),
    _spots(True, ("shoulder", "hip", 0.6)),
)
_BOTTOM_SPOTS = (
    _spots(False, ("left-hip", "right-hip", 0.5), ("left-hip", "right-hip", 0.2), ("left-hip", "right-hip", 0.8)),
    _spots(True, ("hip", "knee", 0.2)),
)


def find_look(labs: list[np.ndarray], masks: list[np.ndarray], points: np.ndarray, units: np.ndarray) -> Look:
    """The look of a clip from some of its frames: Lab images, person masks bool, points, torso lengths."""
    frames = list(zip(labs, masks, points, units, strict=True))

    def colours(spots: tuple[tuple[int, int, float], ...]) -> np.ndarray:
        return np.concatenate([_samples(lab, p, unit, spots) for lab, _, p, unit in frames])

    def medians(groups: tuple[tuple[tuple[int, int, float], ...], ...]) -> np.ndarray:
        found = [np.median(c, 0) for c in map(colours, groups) if len(c)]
        return np.array(found, np.float32).reshape(-1, 3)

    skin = np.zeros((0, 3), np.float32)
    for spots in (_FACE_SPOTS, _HAND_SPOTS, _ARM_SPOTS):
        seen = colours(spots)
        like = _skin_like(seen)
        if len(seen) and like.mean() > 0.5:
            skin = np.median(seen[like], 0, keepdims=True).astype(np.float32)
            break
    return Look(skin, medians(_TOP_SPOTS), medians(_BOTTOM_SPOTS), _wears_hat(frames), _waist(frames))


def _wears_hat(frames: list[tuple[np.ndarray, np.ndarray, np.ndarray, float]]) -> bool:
    """Whether the crown of the head is green, blue or violet, or deep red: no colour of hair."""
    crowns = [_crown(*frame) for frame in frames]
    colours = np.concatenate([c for c in crowns if len(c)] or [np.zeros((0, 3))]).astype(np.float32)
    if not len(colours):
        return False
    a, b = np.median(colours[:, 1]) - 128, np.median(colours[:, 2]) - 128
    return bool(b < -8 or a < -8 or (a > 30 and a > b))


def _crown(lab: np.ndarray, mask: np.ndarray, points: np.ndarray, unit: float) -> np.ndarray:
    """Colours [N, 3] of the person at the top of the head."""
    head, neck = points[_HEAD], points[_P["neck"]]
    if min(head[2], neck[2]) < 0.3:
        return np.zeros((0, 3), lab.dtype)
    up = head[:2] - neck[:2]
    x, y = (head[:2] + up / max(float(np.hypot(*up)), 1e-6) * 0.22 * unit).astype(int)
    reach = max(round(0.08 * unit), 1)
    window = (slice(max(y - reach, 0), max(y + reach + 1, 0)), slice(max(x - reach, 0), max(x + reach + 1, 0)))
    return lab[window][mask[window]]


_WAISTS = np.arange(-0.15, 0.41, 0.05)
_WAIST = 0.12  # where the colours do not tell


def _waist(frames: list[tuple[np.ndarray, np.ndarray, np.ndarray, float]]) -> float:
    """Height of the waist above the hips in torso lengths, where the colour along the torso changes most."""
    steps = np.arange(_WAISTS[0] - 0.2, _WAISTS[-1] + 0.21, 0.05)
    rows = []
    for lab, mask, points, _ in frames:
        neck, hips = points[_P["neck"]], points[_P["mid-hip"]]
        if min(neck[2], hips[2]) >= 0.5:
            up = neck[:2] - hips[:2]
            across = np.array([up[1], -up[0]])
            places = hips[:2] + steps[:, None, None] * up + np.array([-0.08, 0, 0.08])[None, :, None] * across
            x, y = places[..., 0].astype(int), places[..., 1].astype(int)
            inside = (x >= 0) & (y >= 0) & (x < lab.shape[1]) & (y < lab.shape[0])
            x, y = x.clip(0, lab.shape[1] - 1), y.clip(0, lab.shape[0] - 1)
            colour = lab[y, x].astype(np.float32)
            colour[~(inside & mask[y, x])] = np.nan
            rows.append(colour.reshape(len(steps), -1))
    if not rows:
        return _WAIST
    with np.errstate(all="ignore"):
        profile = np.stack(rows, 1)
    contrast = np.array([_contrast(profile, i + 4) for i in range(len(_WAISTS))])
    best = int(contrast.argmax())
    return float(_WAISTS[best]) if contrast[best] > 12 else _WAIST


def _contrast(profile: np.ndarray, i: int) -> float:
    """Distance of the mean colours of the 0.2 torso lengths above and below step `i` of a profile [S, F, 9]."""
    above, below = profile[i : i + 4].reshape(-1, 3), profile[i - 4 : i].reshape(-1, 3)
    above, below = above[~np.isnan(above[:, 0])], below[~np.isnan(below[:, 0])]
    if len(above) < 12 or len(below) < 12:
        return 0.0
    return float(np.linalg.norm(above.mean(0) - below.mean(0)))


class PoseGuidedParser:
    """ATR-18 labels from pose, person mask and colour; without a mask, the limbs' capsules stand for it.

    Args:
        mask_threshold: smallest value (of 255) of the person mask that counts as person.
        samples: at most so many frames of a clip are looked at for its colours.
    """

    name = "pose-guided"
    kind = "parsing"
    version = "1"
    schema = "atr18"
    needs = ("pose",)
    licence = "Apache-2.0"
    approximate = True

    def __init__(self, mask_threshold: int = 128, samples: int = 16):
        self.mask_threshold, self.samples = mask_threshold, samples

    def fingerprint(self) -> dict[str, Any]:
        return {
            "detector": self.name,
            "version": self.version,
            "settings": {"mask_threshold": self.mask_threshold, "samples": self.samples},
        }

    def __call__(self, frames: np.ndarray, **needed: Arrays) -> Arrays:
        """`labels` uint8 [T, H, W] of frames uint8 [T, H, W, 3].

        `needed["pose"]` has `keypoints` float32 [T, K, 3] and, if there is one, `mask` uint8 [T, H, W].
        """
        pose = needed["pose"]
        keypoints = as_body25(pose["keypoints"])
        points, units = with_extras(keypoints), torso_lengths(keypoints)
        seen = np.flatnonzero(((keypoints[..., 2] > 0).sum(1) >= 3) & (units > 0))
        labels = np.zeros(frames.shape[:3], np.uint8)
        if not len(seen):
            return {"labels": labels}

        def mask(t: int) -> np.ndarray:
            soft = pose["mask"][t] if "mask" in pose else None
            return person_mask(points[t], float(units[t]), soft, frames.shape[1:3], self.mask_threshold)

        some = seen[np.unique(np.linspace(0, len(seen) - 1, min(self.samples, len(seen))).astype(int))]
        look = find_look([_lab(frames[t]) for t in some], [mask(t) for t in some], points[some], units[some])
        for t in seen:
            labels[t] = parse(frames[t], mask(t), points[t], float(units[t]), look)
        return {"labels": labels}


def _lab(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2LAB)


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


def parse(frame: np.ndarray, mask: np.ndarray, points: np.ndarray, unit: float, look: Look) -> np.ndarray:
    """ATR-18 labels uint8 [H, W] of one frame; `mask` is bool [H, W], `points` as `with_extras` gives them."""
    out = np.zeros(mask.shape, np.uint8)
    x0, y0, w, h = cv2.boundingRect(mask.view(np.uint8))
    if not w:
        return out
    box = (slice(y0, y0 + h), slice(x0, x0 + w))
    mask = mask[box]
    rows, columns = np.nonzero(mask)
    pixels = np.stack([columns + (x0 + 0.5), rows + (y0 + 0.5)]).astype(np.float32)
    part = nearest_parts(points, unit, pixels)
    skin = _skin(_lab(frame[box]), mask, part, unit, look)
    labels = np.where(skin, _SKIN_LABEL[part], _CLOTH_LABEL[part])
    head, face = part == PARTS.index("head"), _on_face(points, unit, pixels)
    labels[head & ~skin] = _ATR["hat" if look.hat else "hair"]
    labels[(head | (part == PARTS.index("neck"))) & face] = _ATR["face"]
    labels[(part == PARTS.index("torso")) & _below_waist(points, pixels, look.waist)] = _ATR["pants"]
    image = np.zeros((h, w), np.uint8)
    image[mask] = labels
    out[box] = vote(image, mask, 2 * round(0.06 * unit) + 1)
    return out


# Lab distances count in these: light and shade change lightness much and hue little.
_SPREAD = np.float32([60, 11, 13])


def _distance2(colours: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Squared distance float32 [N] of colours [N, 3] from the nearest of some references [R, 3]."""
    best = np.full(len(colours), np.inf, np.float32)
    for reference in references:
        delta = (colours - reference) / _SPREAD
        np.minimum(best, np.einsum("nc,nc->n", delta, delta), out=best)
    return best


def _skin(lab: np.ndarray, mask: np.ndarray, part: np.ndarray, unit: float, look: Look) -> np.ndarray:
    """Which pixels of the mask are skin, bool [N]: nearer to the colour of skin than to that of the clothes beside,
    in the eyes of most of a small window."""
    colours = lab[mask].astype(np.float32)
    to_skin = _distance2(colours, look.skin)
    below = _IS_LEG[part]
    to_cloth = np.where(below, _distance2(colours, look.bottom), _distance2(colours, _not_skin(look)))
    to_cloth[part == PARTS.index("head")] = 1.0
    like = np.zeros(mask.shape, np.uint8)
    like[mask] = (to_skin < to_cloth) & (to_skin < 6)
    size = (2 * round(0.06 * unit) + 1,) * 2
    share = cv2.boxFilter(like, cv2.CV_32F, size, normalize=False)
    return 2 * share[mask] > cv2.boxFilter(mask.view(np.uint8), cv2.CV_32F, size, normalize=False)[mask]


def _not_skin(look: Look) -> np.ndarray:
    """The colours of the top without those of skin, in any light: a bare torso is no cloth to tell an arm from."""
    shadeless = look.skin * np.float32([0, 1, 1]), look.top * np.float32([0, 1, 1])
    return look.top[(_distance2(shadeless[1], shadeless[0]) > 1) | ~_skin_like(look.top)]


def _on_face(points: np.ndarray, unit: float, pixels: np.ndarray) -> np.ndarray:
    """Whether pixels float32 [2, N] lie on a face that looks into the camera, bool [N]."""
    features = points[[_P["nose"], _P["left-eye"], _P["right-eye"]]]
    if features[:, 2].min() < 0.5:
        return np.zeros(pixels.shape[1], bool)
    x, y = features[:, :2].mean(0)
    return (pixels[0] - x) ** 2 + (pixels[1] - y) ** 2 < (0.15 * unit) ** 2


def _below_waist(points: np.ndarray, pixels: np.ndarray, waist: float) -> np.ndarray:
    """Whether pixels float32 [2, N] lie below the waist, along the torso's axis, bool [N]."""
    neck, hips = points[_P["neck"]], points[_P["mid-hip"]]
    if min(neck[2], hips[2]) == 0:
        return np.zeros(pixels.shape[1], bool)
    up = neck[:2] - hips[:2]
    height = (pixels[0] - hips[0]) * up[0] + (pixels[1] - hips[1]) * up[1]
    return height < waist * float(up @ up)


def vote(labels: np.ndarray, mask: np.ndarray, size: int) -> np.ndarray:
    """Each pixel of the mask takes the label that most pixels of its window have; 0 outside the mask."""
    present = np.flatnonzero(np.bincount(labels[mask], minlength=1))
    counts = np.stack([cv2.boxFilter((labels == k).view(np.uint8), cv2.CV_16S, (size, size), normalize=False,
                                     borderType=cv2.BORDER_CONSTANT) for k in present])  # fmt: skip
    return np.where(mask, present.astype(np.uint8)[counts.argmax(0)], np.uint8(0))
