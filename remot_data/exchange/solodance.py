"""The tree of SoloDance: 20 labels, OpenPose's keypoints, a picture for the appearance of each video."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from remot_data.exchange.view import View, write, write_json
from remot_data.reading import sampling
from remot_data.reading.filters import frontality
from remot_data.records import Clip
from remot_data.schemas import convert_keypoints, label_set
from remot_data.store import StoreError
from remot_data.store import layers as layer_kinds

# What a set calls by a name that the 20 labels lack; merged to the layout both come to the same.
_STAND_INS = {
    "belt": "pants",
    "bag": "upper-clothes",
    "jumpsuits": "dress",
    "top": "upper-clothes",
    "bottom": "pants",
}


@lru_cache
def to_twenty(schema: str) -> np.ndarray:
    """Lookup table uint8 [256] from a label set to the 20 labels of CIHP.

    Raises:
        StoreError: for a set that does not tell enough apart.
    """
    table, target = np.zeros(256, np.uint8), label_set("cihp20").labels
    for number, name in enumerate(label_set(schema).labels):
        name = name if name in target else _STAND_INS.get(name, name)
        if name not in target:
            raise StoreError(f"labels of the set {schema!r} have no conversion to SoloDance's 20: it lacks {name!r}")
        table[number] = target.index(name)
    return table


def write_shard(view: View, out: Path) -> list[Any]:
    """Their tree: what they call "source" is the driving video, "target" one picture for the appearance."""
    for split, clips in view.by_split():
        for clip, which in clips:
            mask = np.zeros(clip.frames, bool)
            mask[which] = True
            runs = sampling.runs(mask)
            for start, stop in runs:
                # Their loader finds the background by what follows "video" in the path.
                name = f"video-{clip.id}" + (f"-{start:06d}" if len(runs) > 1 else "")
                _solodance_video(view, clip, range(start, stop), out / split, split, name)
    return []


def _solodance_video(view: View, clip: Clip, which: range, folder: Path, split: str, name: str) -> None:
    points = view.arrays("pose", clip)["keypoints"]
    schema = view.infos["pose"].schema
    frontal = which[int(np.argmax(frontality(points, schema)[which.start : which.stop]))]
    points = convert_keypoints(points, schema, "openpose137")
    labels = to_twenty(view.infos["parsing"].schema)[view.arrays("parsing", clip)["labels"]]
    frames = view.arrays("frames", clip)["frames"]
    stored = view.members("frames", clip, [frontal])["jpg"][0]

    def place(what: str, role: str, file: str) -> Path:
        return folder / f"{split}_{what}" / role / name / file

    jpeg = layer_kinds.kind("frames").encode
    png = partial(layer_kinds.kind("parsing").encode, {"labels": labels})
    for t in which:
        person = frames[t] * (labels[t] != 0)[..., None]
        write(place("img", "source", f"{t:06d}.png"), _png(frames[t]))
        write(place("fg", "source", f"{t:06d}.png"), _png(person))
        write(place("parsing", "source", f"{t:06d}.png"), png(t)["png"])
        write_json(place("pose", "source", f"{t:06d}_keypoints.json"), _openpose(points[t]))
    person = frames[frontal] * (labels[frontal] != 0)[..., None]
    write(place("img", "target", f"timg_{frontal:06d}.jpg"), stored)
    write(place("fg", "target", f"tfg_{frontal:06d}.jpg"), jpeg({"frames": person[None]}, 0)["jpg"])
    write(place("parsing", "target", f"tparsing_{frontal:06d}.png"), png(frontal)["png"])
    write_json(place("pose", "target", f"tpose_{frontal:06d}_keypoints.json"), _openpose(points[frontal]))
    if "background" in view.infos:
        write(folder / f"{split}_bg" / f"{name}.jpg", view.members("background", clip, [0])["jpg"][0])


def _openpose(points: np.ndarray) -> dict[str, Any]:
    """Keypoints [137, 3] as OpenPose writes them, without hands or face that were not found; nobody where none was."""
    body, left, right, face = np.split(points, (25, 46, 67))
    person: dict[str, Any] = {"person_id": [-1], "pose_keypoints_2d": _numbers(body)}
    for name, part in (("face", face), ("hand_left", left), ("hand_right", right)):
        person[f"{name}_keypoints_2d"] = _numbers(part) if part[:, 2].any() else []
    return {"version": 1.3, "people": [person] if points[:, 2].any() else []}


def _numbers(points: np.ndarray) -> list[float]:
    return [round(float(v), 3) for v in points.ravel()]


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()
