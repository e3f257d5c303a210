"""Which frames a snapshot's filter lets through, and how frontal a frame is."""

from __future__ import annotations

import csv
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from remot_data.records import Clip, Snapshot
from remot_data.schemas import SCORES, keypoint_set
from remot_data.store import Store, StoreError
from remot_data.store.tables import read_table

# The filter of new stores, whose scores are of the schema ``quality``; `benchmarks/wrong_frames.py` is how it was set.
DEFAULT = (
    "swapped<=0 and twist<=0.03 and jumps<=0.05 and jitter<=0.06 and lost<=0.05 and limbs<=0.04 and disagreement<=0.05 "
    "and off_person<=0.07 and no_limb<=0.07 and apart<=0.2 and sure>=0.2"
)
DEFAULT_WITH_BOXES = f"{DEFAULT} and agreement>=1"  # where it is known whose pose it has to be

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
    or of the clip (one value) with a number or a word. Of a clip that the scores could not be made for no frame passes
    a condition on one of them. Where the snapshot has a list (`Snapshot.ids`), only what that names passes.

    Raises:
        StoreError: for a condition that cannot be read, or a column that is not there (names the command that makes it,
            or lists what is).
    """
    keep = _kept(snapshot.where, lambda name: _column(snapshot, store, clip, name), clip.frames)
    if snapshot.ids is not None:
        frames = snapshot.chosen.get(clip.id, set())
        if frames is not None:
            keep &= np.isin(np.arange(clip.frames), list(frames))
    return keep


def ids_of(path: Path, store: Store) -> tuple[str, ...]:
    """Ids of clips, or keys of frames, out of CSV or Parquet with a column ``id`` or ``key``, or text with one a line.

    Raises:
        StoreError: for a file that cannot be read so, or a name that the store does not have.
    """
    try:
        if path.suffix == ".parquet":
            table = read_table(path.read_bytes())
            column = next((name for name in ("key", "id") if name in table.column_names), "")
            names = table[column].to_pylist() if column else []
        else:
            rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
            head = rows[0] if rows else []
            at = next((head.index(name) for name in ("key", "id") if name in head), None)
            names = [row[at or 0].strip() for row in (rows if at is None else rows[1:]) if any(row)]
    except (OSError, ValueError, IndexError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    if not names:
        raise StoreError(f"{path} names no clip: it needs a column 'id' or 'key', or a name a line")
    frames = {clip.id: clip.frames for clip in store.planned}
    for name in names:
        clip, _, frame = str(name).partition("/")
        if clip not in frames or (frame and not (frame.isdigit() and int(frame) < frames[clip])):
            raise StoreError(f"{path} names {name!r}, which {store.url} does not have")
    return tuple(sorted(set(map(str, names))))


def passing(filter_: str, columns: Mapping[str, np.ndarray], frames: int) -> np.ndarray:
    """Which frames pass a filter over these columns, a value a frame each: bool [frames].

    Raises:
        StoreError: as `where`.
    """

    def column(name: str) -> np.ndarray:
        if name not in columns:
            raise StoreError(f"there is no column {name!r} to filter by; there are {', '.join(columns)}")
        return columns[name]

    return _kept(filter_, column, frames)


def conditions(filter_: str) -> Iterator[tuple[str, str, str]]:
    """The conditions of a filter: column, operator, and what it is compared with.

    Raises:
        StoreError: for one that cannot be read.
    """
    for part in filter(str.strip, re.split(r"\band\b|,", filter_)):
        match = _CONDITION.fullmatch(part)
        if match is None:
            raise StoreError(f"the filter {part.strip()!r} is not of the form 'column >= value'")
        yield match[1], match[2], match[3]


def _kept(filter_: str, column: Callable[[str], np.ndarray], frames: int) -> np.ndarray:
    keep = np.ones(frames, bool)
    for name, sign, text in conditions(filter_):
        values = column(name)
        keep &= _OPERATORS[sign](values, text.strip("\"'") if values.dtype.kind in "UO" else _number(name, text))
        if values.dtype.kind == "f":
            keep &= ~np.isnan(values)
    return keep


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if np.isnan(value):
        raise StoreError(f"the filter compares {name!r}, which is a number, with {text!r}")
    return value


def _column(snapshot: Snapshot, store: Store, clip: Clip, name: str) -> np.ndarray:
    described: dict[str, Any] = {**clip.to_json(), "frames": clip.frames}
    known = list(described)
    if "scores" in snapshot.layers:
        index = store.index(store.folders(snapshot)["scores"], clip.shard)
        if clip.id not in index.spans and name not in described:
            return np.full(clip.frames, np.nan)
        if name in index.rows.column_names:
            return index.column(clip.id, name)
        known = [*index.rows.column_names[4:], *described]
    if isinstance(described.get(name), (str, int, float)):
        return np.array(described[name])
    detector = next((f"{schema}-scores" for schema, names in SCORES.items() if name in names), None)
    if detector is None:
        raise StoreError(f"there is no column {name!r} to filter by; there are {', '.join(known)}")
    to = f"--snapshot {snapshot.name}"
    raise StoreError(
        f"there is no column {name!r} to filter by in snapshot {snapshot.name!r}; make it with "
        f"`remot annotate {store.url} --layer scores --with {detector} {to}`; there are {', '.join(known)}"
    )


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
