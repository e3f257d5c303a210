"""Which frames a snapshot's filter lets through, and how frontal a frame is."""

from __future__ import annotations

import operator
import re

import numpy as np

from remot_data.records import Clip, Snapshot
from remot_data.schemas import keypoint_set
from remot_data.store import Store, StoreError

_OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


_CONDITION = re.compile(r"\s*(\w+)\s*(>=|<=|==|!=|>|<)\s*(\S+?)\s*")


def where(snapshot: Snapshot, store: Store, clip: Clip) -> np.ndarray:
    """Which frames of a clip pass a snapshot's filter: bool [frames].

    A filter is conditions joined by ``and``; a condition compares a column of the scores layer (a value a frame)
    or of the clip (one value) with a number or a word.

    Raises:
        StoreError: for a condition that cannot be read, or a column that is not there (lists what is).
    """
    keep = np.ones(clip.frames, bool)
    for part in filter(str.strip, re.split(r"\band\b|,", snapshot.where)):
        match = _CONDITION.fullmatch(part)
        if match is None:
            raise StoreError(f"the filter {part.strip()!r} is not of the form 'column >= value'")
        name, sign, text = match.groups()
        values = _column(snapshot, store, clip, name)
        wanted = text.strip("\"'") if values.dtype.kind in "UO" else float(text)
        keep &= _OPERATORS[sign](values, wanted)
    return keep


def _column(snapshot: Snapshot, store: Store, clip: Clip, name: str) -> np.ndarray:
    described = {**clip.to_json(), "frames": clip.frames}
    if "scores" in snapshot.layers:
        index = store.index(store.folders(snapshot)["scores"], clip.shard)
        if name in index.rows.column_names:
            return index.column(clip.id, name)
        known = [*index.rows.column_names[4:], *described]
    else:
        known = list(described)
    if not isinstance(described.get(name), (str, int, float)):
        raise StoreError(f"there is no column {name!r} to filter by; there are {', '.join(known)}")
    return np.array(described[name])


def frontality(keypoints: np.ndarray, schema: str) -> np.ndarray:
    """How much each pose faces the camera: float32 [T], from keypoints float32 [T, K, 3].

    The signed width of the shoulders over the length of the trunk (positive when the left shoulder is on the
    right of the picture, as for a person seen from the front), plus the share of nose and eyes that are visible.
    """
    names = keypoint_set(schema)
    left, right = (keypoints[:, names.index(f"{side}-shoulder")] for side in ("left", "right"))
    hips = [keypoints[:, names.index(f"{side}-hip")] for side in ("left", "right")]
    trunk = np.hypot(*np.moveaxis(((left + right) - (hips[0] + hips[1]))[:, :2] / 2, -1, 0))
    seen = (left[:, 2] > 0) & (right[:, 2] > 0) & (trunk > 1)
    width = np.where(seen, (left[:, 0] - right[:, 0]) / np.maximum(trunk, 1), -1).clip(-1, 1)
    face = np.mean([keypoints[:, names.index(p), 2] > 0 for p in ("nose", "left-eye", "right-eye")], axis=0)
    return (width + face).astype(np.float32)
