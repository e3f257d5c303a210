"""What other projects train from: sequences of a store as videos or folders of pictures, and lists that name them.

A trainer wants some views of each sequence, under names and in places of its own: `TRAINERS` says which. A sequence is
a run of frames of a clip that the snapshot's filter lets through; those of less than 16 frames are left out.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from remot_data import render
from remot_data.exchange import lerobot
from remot_data.exchange.view import View, write, write_json
from remot_data.reading.filters import frontality
from remot_data.records import Clip, Snapshot
from remot_data.report.film import write_frames
from remot_data.schemas import convert_labels
from remot_data.store import Store, StoreError

SHORTEST = 16  # frames of a sequence
PROMPT = "a person dancing"


@dataclass(frozen=True)
class Take:
    """A sequence: consecutive frames of a clip."""

    clip: Clip
    split: str
    which: range

    @property
    def name(self) -> str:
        return f"{self.clip.id}-{self.which.start:06d}"


@dataclass(frozen=True)
class Trainer:
    """What a trainer wants of each sequence.

    Attributes:
        needs: layers that the views are made of.
        videos: column of its list -> view, an MP4 each. Those of `loud` have the sound of the source.
        pictures: folder -> view, a picture a frame; ``{split}`` is filled in.
        still: column of the most frontal frame as a picture; empty for none.
        rows: makes the files that list the sequences, out of a row each, in a folder that will have another name.
        extra: writes more of a sequence, and returns more of its row.
    """

    needs: tuple[str, ...]
    rows: Callable[[Store, Sequence[Mapping[str, Any]], Path, Path], None]
    videos: Mapping[str, str] = field(default_factory=dict)
    loud: tuple[str, ...] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)
    still: str = ""
    extra: Callable[[View, Clip, range, Path], dict[str, Any]] | None = None


def takes(view: View) -> Iterator[Take]:
    """The sequences of a shard."""
    for clip in view.clips:
        for split, mask in sorted(view.splits(clip).items()):
            edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
            for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
                if stop - start >= SHORTEST:
                    yield Take(clip, split, range(start, stop))


# Views: pictures of a sequence, uint8 [H, W, 3] each


def _frames(view: View, take: Take) -> Sequence[np.ndarray]:
    return list(view.store.read_arrays("frames", "frames", take.clip, which=take.which)["frames"])


def _pose(view: View, take: Take) -> Sequence[np.ndarray]:
    schema = view.infos["pose"].schema
    return [render.pose_map(points, schema, view.store.size) for points in _keypoints(view, take)]


def _layout(view: View, take: Take) -> Sequence[np.ndarray]:
    """The six classes, a grey value each, so that a trainer may read them as labels."""
    found = view.store.read_arrays(view.folders["parsing"], "parsing", take.clip, which=take.which)["labels"]
    return list(convert_labels(found, view.infos["parsing"].schema, "remot6")[..., None].repeat(3, -1))


VIEWS: dict[str, Callable[[View, Take], Sequence[np.ndarray]]] = {"frames": _frames, "pose": _pose, "layout": _layout}


def _keypoints(view: View, take: Take) -> np.ndarray:
    return view.store.read_arrays(view.folders["pose"], "pose", take.clip, which=take.which)["keypoints"]


def write_shard_for(trainer: Trainer) -> Callable[[View, Path], list[Any]]:
    """What writes the sequences of a shard; returns their rows."""

    def write_shard(view: View, out: Path) -> list[Any]:
        return [_row(trainer, view, take, out) for take in takes(view)]

    return write_shard


def _row(trainer: Trainer, view: View, take: Take, out: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"name": take.name, "split": take.split, "frames": len(take.which), "fps": take.clip.fps}
    height, width = (side + side % 2 for side in view.store.size)
    for column, name in trainer.videos.items():
        path = f"{take.split}/{column}/{take.name}.mp4"
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        shown = (_padded(picture, (height, width)) for picture in VIEWS[name](view, take))
        write_frames(out / path, take.clip, take.which, shown, (height, width), column in trainer.loud)
        row[column] = path
    for folder, name in trainer.pictures.items():
        for t, picture in zip(take.which, VIEWS[name](view, take), strict=True):
            write(out / folder.format(split=take.split) / take.name / f"{t:06d}.png", _png(picture))
    if trainer.still:
        facing = frontality(_keypoints(view, take), view.infos["pose"].schema)
        row[trainer.still] = f"{take.split}/{trainer.still}/{take.name}.png"
        best = take.which.start + int(facing.argmax())
        write(out / row[trainer.still], _png(_frames(view, Take(take.clip, take.split, range(best, best + 1)))[0]))
    return row | (trainer.extra(view, take.clip, take.which, out) if trainer.extra else {})


def _padded(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    grow = [(0, size[0] - picture.shape[0]), (0, size[1] - picture.shape[1]), (0, 0)]
    return np.pad(picture, grow, mode="edge") if any(map(any, grow)) else picture


def _png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


def finish_for(trainer: Trainer) -> Callable[[Store, Snapshot, Path, Path, Sequence[Mapping[str, Any]]], None]:
    """What writes the lists when all shards are written."""

    def finish(store: Store, snapshot: Snapshot, part: Path, target: Path, done: Sequence[Mapping[str, Any]]) -> None:
        rows = [row for result in done for row in result["files"]]
        if not rows:
            raise StoreError(f"snapshot {snapshot.name!r} has no {SHORTEST} frames in a row that pass its filter")
        trainer.rows(store, rows, part, target)

    return finish


# Lists

_PAIRS = {"video_path": "frames", "kps_path": "pose"}


def _by_split(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["split"], []).append(row)
    return found


def _diffsynth(store: Store, rows: Sequence[Mapping[str, Any]], out: Path, target: Path) -> None:
    """``metadata.csv`` of DiffSynth-Studio: of the split ``train``; others as ``metadata_SPLIT.csv``."""
    columns = ("video", "prompt", "control_video", "reference_image")
    for split, some in _by_split(rows).items():
        text = io.StringIO()
        table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows({**row, "prompt": PROMPT} for row in some)
        write(out / ("metadata.csv" if split == "train" else f"metadata_{split}.csv"), text.getvalue().encode())


def _animate_anyone(store: Store, rows: Sequence[Mapping[str, Any]], out: Path, target: Path) -> None:
    """A JSON list a split, as Moore-AnimateAnyone and MusePose read it: where the files will lie on this machine."""
    for split, some in _by_split(rows).items():
        pairs = [{name: str(target / row[name]) for name in _PAIRS} for row in some]
        write_json(out / f"{split}_meta.json", pairs, indent=1)


def _nothing(store: Store, rows: Sequence[Mapping[str, Any]], out: Path, target: Path) -> None:
    """vid2vid lists its folders itself."""


def _lerobot(store: Store, rows: Sequence[Mapping[str, Any]], out: Path, target: Path) -> None:
    lerobot.write_meta(store, rows, out, PROMPT)
    for split in _by_split(rows):
        shutil.rmtree(out / split, ignore_errors=True)


TRAINERS = {
    "diffsynth": Trainer(
        ("pose",), _diffsynth, {"video": "frames", "control_video": "pose"}, ("video",), still="reference_image"
    ),
    "animate-anyone": Trainer(("pose",), _animate_anyone, _PAIRS, ("video_path",)),
    "musepose": Trainer(("pose",), _animate_anyone, _PAIRS, ("video_path",)),
    "vid2vid": Trainer(("pose",), _nothing, pictures={"{split}_A": "pose", "{split}_B": "frames"}),
    "vid2vid-labels": Trainer(("parsing",), _nothing, pictures={"{split}_A": "layout", "{split}_B": "frames"}),
    "lerobot": Trainer(("pose",), _lerobot, {"frames": "frames", "pose": "pose"}, ("frames",), extra=lerobot.states),
}
