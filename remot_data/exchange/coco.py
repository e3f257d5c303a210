"""COCO: images, and 17 keypoints of the person in each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from remot_data.exchange.view import View, write
from remot_data.records import Snapshot
from remot_data.schemas import convert_keypoints, keypoint_set
from remot_data.store import Store

_SKELETON = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9), (8, 10), (9, 11),
    (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip
# Ids of a shard's images begin at its number times this.
_PER_SHARD = 10_000_000
_SURE = 0.5


def write_shard(view: View, out: Path) -> list[Any]:
    """Images as they are stored; descriptions as lines, which `finish` puts together."""
    number = view.shard * _PER_SHARD
    splits = []
    for split, clips in view.by_split():
        splits.append(split)
        images, notes = [], []
        for clip, which in clips:
            points = convert_keypoints(view.arrays("pose", clip)["keypoints"], view.infos["pose"].schema, "coco17")
            persons = view.arrays("parsing", clip)["labels"] != 0 if "parsing" in view.infos else None
            for t, data in zip(which.tolist(), view.members("frames", clip, which.tolist())["jpg"], strict=True):
                number += 1
                name = f"{clip.key(t)}.jpg"
                write(out / "images" / name, data)
                height, width = view.store.size
                images.append({"id": number, "file_name": name, "width": width, "height": height})
                note = annotation(points[t], None if persons is None else persons[t], view.store.size)
                if note:
                    notes.append({"id": number, "image_id": number, **note})
        for what, rows in (("images", images), ("annotations", notes)):
            lines = ",\n".join(json.dumps(row) for row in rows)
            write(out / "parts" / f"{split}-{what}-{view.shard:05d}", lines.encode())
    return splits


def annotation(points: np.ndarray, person: np.ndarray | None, size: tuple[int, int]) -> dict[str, Any] | None:
    """A COCO annotation of 17 keypoints, or None where nobody was found.

    A point is 0 where it was not found or lies outside the picture, 1 (hidden) below a confidence of 0.5, else 2. The
    box and the area are those of the labelled person, or of the keypoints where there are no labels.
    """
    inside = (points[:, :2] >= 0).all(1) & (points[:, :2] < [size[1], size[0]]).all(1) & (points[:, 2] > 0)
    if not inside.any():
        return None
    flags = np.where(inside, np.where(points[:, 2] < _SURE, 1, 2), 0)
    numbers = np.c_[points[:, :2].round(2) * inside[:, None], flags]
    if person is not None and person.any():
        rows, columns = np.flatnonzero(person.any(1)), np.flatnonzero(person.any(0))
        low, high, area = (columns[0], rows[0]), (columns[-1] + 1, rows[-1] + 1), float(person.sum())
    else:
        low, high = points[inside, :2].min(0), points[inside, :2].max(0)
        area = float(np.prod(high - low))
    box = [low[0], low[1], high[0] - low[0], high[1] - low[1]]
    return {
        "category_id": 1,
        "iscrowd": 0,
        "keypoints": [int(v) if i % 3 == 2 else round(float(v), 2) for i, v in enumerate(numbers.ravel())],
        "num_keypoints": int(inside.sum()),
        "bbox": [round(float(v), 2) for v in box],
        "area": round(area, 2),
        "segmentation": [],
    }


def finish(store: Store, snapshot: Snapshot, part: Path, target: Path, done: Sequence[Mapping[str, Any]]) -> None:
    """``annotations/person_keypoints_<split>.json`` out of the parts of all shards, without holding them."""
    names = [name.replace("-", "_") for name in keypoint_set("coco17").points]
    category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": names, "skeleton": _SKELETON}
    licences = sorted({clip.licence for clip in store.clips if clip.licence})
    head = {
        "info": {"description": "REMOT Toolkit store, 17 keypoints", "version": "1.0"},
        "licenses": [{"id": i, "name": name} for i, name in enumerate(licences, 1)],
        "categories": [category],
    }
    (part / "annotations").mkdir()
    for split in sorted({split for result in done for split in result["files"]}):
        with open(part / "annotations" / f"person_keypoints_{split}.json", "wb") as file:
            file.write(json.dumps(head).encode()[:-1])
            for what in ("images", "annotations"):
                file.write(f', "{what}": [\n'.encode())
                parts = sorted((part / "parts").glob(f"{split}-{what}-*"))
                filled = [path for path in parts if path.stat().st_size]
                for number, path in enumerate(filled):
                    file.write(b",\n" * (number > 0) + path.read_bytes())
                file.write(b"\n]")
            file.write(b"}\n")
    shutil.rmtree(part / "parts")
