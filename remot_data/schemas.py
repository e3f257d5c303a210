"""Label sets and keypoint sets as tables, and every conversion between them.

Keypoint arrays are ``float32 [..., K, 3]``: x, y in pixels and a confidence in [0, 1]. The origin is the
top-left *corner* of the image (pixel i covers [i, i+1)), so that resizing is a plain multiplication. A
point that was not seen is ``0, 0, 0``, as OpenPose writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from remot_data.errors import RemotError


class SchemaError(RemotError, ValueError):
    """Two schemas that have no conversion, or an unknown schema name."""


@dataclass(frozen=True)
class LabelSet:
    """Names of a set of body-part labels; the position of a name is its label id."""

    name: str
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def palette(self) -> np.ndarray:
        """One RGB colour a label, ``uint8 [len, 3]``: the bit-interleaved Pascal VOC palette."""
        ids = np.arange(len(self.labels))
        colours = np.zeros((len(ids), 3), np.uint8)
        for bit in range(3):
            for channel in range(3):
                colours[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
        return colours


LABELS = {
    s.name: s
    for s in (
        LabelSet(
            "atr18",
            tuple(
                "background hat hair sunglasses upper-clothes skirt pants dress belt left-shoe right-shoe face "
                "left-leg right-leg left-arm right-arm bag scarf".split()
            ),
        ),
        LabelSet(
            "lip20",
            tuple(
                "background hat hair glove sunglasses upper-clothes dress coat socks pants jumpsuits scarf skirt face "
                "left-arm right-arm left-leg right-leg left-shoe right-shoe".split()
            ),
        ),
        LabelSet(
            "cihp20",
            tuple(
                "background hat hair glove sunglasses upper-clothes dress coat socks pants torso-skin scarf skirt face "
                "left-arm right-arm left-leg right-leg left-shoe right-shoe".split()
            ),
        ),
        LabelSet(
            "remot11",
            tuple("background top bottom hair face left-shoe right-shoe left-leg right-leg left-arm right-arm".split()),
        ),
        LabelSet("remot6", tuple("background top bottom head limbs shoes".split())),
    )
}

# The scores that layers of a schema always have; beside them `agreement` and `valid`, where a store knows them.
SCORES = {
    "basic": ("sharpness", "visible_joints", "persons", "motion"),
    "quality": tuple(
        "disagreement mended sure least_sure jitter jumps swapped twist lost limbs stretch off_person no_limb apart "
        "flicker face hand camera overlay clipped".split()
    ),
}

# Region channels 1..5 of the six-class layout, in the order the model uses.
REGIONS = LABELS["remot6"].labels[1:]

# The merges of the authors' preview release; skirt goes to top there, see docs/architecture.md.
_TO_11 = {
    "atr18": (0, 3, 3, 4, 1, 1, 2, 1, 2, 5, 6, 4, 7, 8, 9, 10, 1, 1),
    "lip20": (0, 3, 3, 1, 4, 1, 1, 1, 2, 2, 1, 1, 2, 4, 9, 10, 7, 8, 5, 6),
    "cihp20": (0, 3, 3, 1, 4, 1, 1, 1, 2, 2, 4, 1, 2, 4, 9, 10, 7, 8, 5, 6),
}
_11_TO_6 = (0, 1, 2, 3, 3, 5, 5, 4, 4, 4, 4)
# 11-class ids after mirroring the image: left and right change places.
MIRROR_11 = (0, 1, 2, 3, 4, 6, 5, 8, 7, 10, 9)


def label_set(name: str) -> LabelSet:
    """The label set called `name`; `SchemaError` lists the known names."""
    if name not in LABELS:
        raise SchemaError(f"unknown label set {name!r}; known: {', '.join(LABELS)}")
    return LABELS[name]


@lru_cache
def label_table(source: str, target: str) -> np.ndarray:
    """Lookup table ``uint8 [256]`` from label ids of `source` to those of `target`.

    Ids outside the source set map to 255, which `convert_labels` reports.
    """
    size = len(label_set(source))
    label_set(target)
    if source == target:
        merged = tuple(range(size))
    elif target == "remot11" and source in _TO_11:
        merged = _TO_11[source]
    elif target == "remot6" and source == "remot11":
        merged = _11_TO_6
    elif target == "remot6" and source in _TO_11:
        merged = tuple(_11_TO_6[i] for i in _TO_11[source])
    else:
        raise SchemaError(f"no conversion of labels from {source!r} to {target!r}")
    table = np.full(256, 255, np.uint8)
    table[:size] = merged
    table.setflags(write=False)
    return table


def convert_labels(labels: np.ndarray, source: str, target: str) -> np.ndarray:
    """Merge a label map ``uint8 [...]`` of one set into another; `SchemaError` for an id outside the source set."""
    out = label_table(source, target)[labels]
    if out.size and out.max() == 255:
        raise SchemaError(f"label {int(labels[out == 255].max())} is outside the set {source!r}")
    return out


@dataclass(frozen=True)
class KeypointSet:
    """Names of keypoints, and the pairs drawn as limbs."""

    name: str
    points: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.points)

    def index(self, point: str) -> int:
        return self.points.index(point)


_BODY_25 = (
    "nose neck right-shoulder right-elbow right-wrist left-shoulder left-elbow left-wrist mid-hip right-hip right-knee "
    "right-ankle left-hip left-knee left-ankle right-eye left-eye right-ear left-ear left-big-toe left-small-toe "
    "left-heel right-big-toe right-small-toe right-heel"
)
_COCO_18 = (
    "nose neck right-shoulder right-elbow right-wrist left-shoulder left-elbow left-wrist right-hip right-knee "
    "right-ankle left-hip left-knee left-ankle right-eye left-eye right-ear left-ear"
)
_COCO_17 = (
    "nose left-eye right-eye left-ear right-ear left-shoulder right-shoulder left-elbow right-elbow left-wrist "
    "right-wrist left-hip right-hip left-knee right-knee left-ankle right-ankle"
)
_BLAZEPOSE_33 = (
    "nose left-eye-inner left-eye left-eye-outer right-eye-inner right-eye right-eye-outer left-ear right-ear "
    "mouth-left mouth-right left-shoulder right-shoulder left-elbow right-elbow left-wrist right-wrist left-pinky "
    "right-pinky left-index right-index left-thumb right-thumb left-hip right-hip left-knee right-knee left-ankle "
    "right-ankle left-heel right-heel left-foot-index right-foot-index"
)
_WHOLEBODY_133 = (
    _COCO_17.split()
    + "left-big-toe left-small-toe left-heel right-big-toe right-small-toe right-heel".split()
    + [f"face-{i}" for i in range(68)]
    + [f"left-hand-{i}" for i in range(21)]
    + [f"right-hand-{i}" for i in range(21)]
)
# OpenPose's body, hands and face: wrist, then four points a finger from the thumb on; iBUG's 68 points of a face,
# then the right and the left pupil.
_OPENPOSE_137 = (
    _BODY_25.split()
    + [f"left-hand-{i}" for i in range(21)]
    + [f"right-hand-{i}" for i in range(21)]
    + [f"face-{i}" for i in range(70)]
)

KEYPOINTS = {
    s.name: s
    for s in (
        KeypointSet(
            "body25",
            tuple(_BODY_25.split()),
            (
                (1, 8), (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (10, 11), (8, 12), (12, 13),
                (13, 14), (1, 0), (0, 15), (15, 17), (0, 16), (16, 18), (14, 19), (19, 20), (14, 21), (11, 22),
                (22, 23), (11, 24),
            ),
        ),
        KeypointSet(
            "coco18",
            tuple(_COCO_18.split()),
            (
                (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
                (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
            ),
        ),
        KeypointSet("coco17", tuple(_COCO_17.split())),
        KeypointSet("blazepose33", tuple(_BLAZEPOSE_33.split())),
        KeypointSet("wholebody133", tuple(_WHOLEBODY_133)),
        KeypointSet("openpose137", tuple(_OPENPOSE_137)),
    )
}  # fmt: skip

# A point that some sets lack, as the mean of two they have.
_MEANS = {"neck": ("left-shoulder", "right-shoulder"), "mid-hip": ("left-hip", "right-hip")}
# BlazePose gives one point for the front of a foot; it stands for the big toe.
_ALIASES = {"left-big-toe": "left-foot-index", "right-big-toe": "right-foot-index"}


def _mirrored_face() -> dict[str, str]:
    """The point of a face that lies in the place of each after mirroring; the nose and the middles stay."""
    jaw = [(i, 16 - i) for i in range(8)]
    brows_and_nostrils = [(i, 43 - i) for i in range(17, 22)] + [(31, 35), (32, 34)]
    eyes = [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46), (68, 69)]
    mouth = [(48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63), (65, 67)]
    pairs = [*jaw, *brows_and_nostrils, *eyes, *mouth]
    return {f"face-{i}": f"face-{j}" for a, b in pairs for i, j in ((a, b), (b, a))}


_FACE_MIRROR = _mirrored_face()


def keypoint_set(name: str) -> KeypointSet:
    """The keypoint set called `name`; `SchemaError` lists the known names."""
    if name not in KEYPOINTS:
        raise SchemaError(f"unknown keypoint set {name!r}; known: {', '.join(KEYPOINTS)}")
    return KEYPOINTS[name]


def convert_keypoints(points: np.ndarray, source: str, target: str) -> np.ndarray:
    """Keypoints ``float32 [..., K, 3]`` of one set as those of another, matched by name.

    Neck and mid-hip are the mean of the two shoulders or hips, with the lower of the two confidences, and
    absent where either is; points the source has no name for are ``0, 0, 0``.
    """
    have, want = keypoint_set(source), keypoint_set(target)
    if points.shape[-2:] != (len(have), 3):
        raise SchemaError(f"keypoints of {source!r} have the shape [..., {len(have)}, 3], not {points.shape}")
    out = np.zeros((*points.shape[:-2], len(want), 3), np.float32)
    for i, name in enumerate(want.points):
        name = name if name in have.points else _ALIASES.get(name, name)
        if name in have.points:
            out[..., i, :] = points[..., have.index(name), :]
        elif name in _MEANS:
            a, b = (points[..., have.index(p), :] for p in _MEANS[name])
            confidence = np.minimum(a[..., 2], b[..., 2])
            mean = (a[..., :2] + b[..., :2]) / 2 * (confidence > 0)[..., None]
            out[..., i, :] = np.concatenate([mean, confidence[..., None]], -1)
    return out


def mirror_keypoints(points: np.ndarray, schema: str, width: float) -> np.ndarray:
    """Keypoints ``[..., K, 3]`` of the mirrored image: x becomes width - x, left and right change places."""
    names = keypoint_set(schema).points

    def other(name: str) -> str:
        if name.startswith("face-"):
            return _FACE_MIRROR.get(name, name)
        swap = {"left": "right", "right": "left"}
        return "-".join(swap.get(word, word) for word in name.split("-"))

    order = [names.index(other(n)) if other(n) in names else i for i, n in enumerate(names)]
    out = points[..., order, :].copy()
    seen = out[..., 2] > 0
    out[..., 0] = np.where(seen, width - out[..., 0], 0)
    return out
