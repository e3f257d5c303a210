"""A store in the formats of other projects. Only what the snapshot's filter lets through, and nothing that was removed.

An export appears under its name when it is complete. Frames keep the bytes they have in the store wherever the format
takes JPEG.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from remot_data.engine import Progress, open_engine
from remot_data.reading import sampling
from remot_data.reading.filters import frontality, where
from remot_data.records import Clip, Record, Snapshot, canonical_json
from remot_data.schemas import convert_keypoints, keypoint_set, label_set
from remot_data.store import Store, StoreError, open_store, shard_name, shards
from remot_data.store import layers as layer_kinds
from remot_data.store.shards import Sample

# Format -> the layers it cannot do without.
FORMATS: dict[str, tuple[str, ...]] = {
    "solodance": ("pose", "parsing"),
    "webdataset": (),
    "coco": ("pose",),
    "croissant": (),
}


@dataclass(frozen=True)
class ExportSummary(Record):
    """What `export` wrote: `frames` of `clips`, and how many of the store's frames the filter and failures left out."""

    store: str
    to: str
    out: str
    clips: int
    frames: int
    left_out: int
    splits: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def export(
    store: str | Store,
    to: str,
    out: str | os.PathLike[str],
    *,
    snapshot: str = "main",
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> ExportSummary:
    """Write a store in another format; see `docs/data.md` for what lies where.

    Args:
        to: one of `FORMATS`.
        out: the folder to make.

    Raises:
        StoreError: for an unknown format, a layer that the snapshot lacks or of a schema that has no conversion, a
            folder that holds something, or a filter that lets nothing through.
    """
    store = store if isinstance(store, Store) else open_store(store)
    chosen, target, started = store.snapshot(snapshot), Path(out).absolute(), time.monotonic()
    _check(store, chosen, to, target)
    part = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    tasks = [
        {"url": store.url, "shard": shard, "snapshot": snapshot, "to": to, "out": str(part)}
        for shard in range(store.shard_count)
    ]
    with open_engine(workers, scheduler) as engine:
        done = list(engine.map(export_shard, tasks, f"export {to}", progress=progress))
    done.sort(key=lambda result: result["shard"])
    splits: dict[str, int] = {}
    for result in done:
        for split, frames in result["splits"].items():
            splits[split] = splits.get(split, 0) + frames
    if not any(splits.values()):
        shutil.rmtree(part)
        raise StoreError(f"snapshot {snapshot!r} of {store.url} lets no frame through; loosen its filter")
    if to in _FINISH:
        _FINISH[to](store, chosen, part, target, done)
    if target.exists():
        target.rmdir()
    part.rename(target)
    frames = sum(splits.values())
    return ExportSummary(
        store.url,
        to,
        str(target),
        sum(result["clips"] for result in done),
        frames,
        sum(clip.frames for clip in store.clips) - frames,
        splits,
        round(time.monotonic() - started, 3),
    )


def _check(store: Store, snapshot: Snapshot, to: str, target: Path) -> None:
    if to not in FORMATS:
        raise StoreError(f"there is no export to {to!r}; known are {', '.join(FORMATS)}")
    missing = [kind for kind in FORMATS[to] if kind not in snapshot.layers]
    if missing:
        raise StoreError(
            f"{to} needs the {' and '.join(missing)} layer, which snapshot {snapshot.name!r} does not have"
        )
    if to == "solodance":
        _twenty(store.layer("parsing", snapshot.layers["parsing"]).schema)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{target} exists; choose another --out or remove it")


def export_shard(url: str, shard: int, snapshot: str, to: str, out: str) -> dict[str, Any]:
    """The task: write what comes of one shard. Returns plain values; harmless to run twice."""
    cv2.setNumThreads(1)
    store = Store(url)
    view = _View(store, store.snapshot(snapshot), shard)
    result: dict[str, Any] = {"shard": shard, "clips": 0, "splits": {}, "files": []}
    for clip in view.clips:
        kept = {split: int(mask.sum()) for split, mask in view.splits(clip).items() if mask.any()}
        result["clips"] += bool(kept)
        for split, frames in kept.items():
            result["splits"][split] = result["splits"].get(split, 0) + frames
    if to in _SHARD:
        result["files"] = _SHARD[to](view, Path(out))
    return result


class _View:
    """What one shard of a store holds for a snapshot."""

    def __init__(self, store: Store, snapshot: Snapshot, shard: int) -> None:
        self.store, self.snapshot, self.shard = store, snapshot, shard
        self.infos = {kind: store.layer(kind, layer_id) for kind, layer_id in snapshot.layers.items()}
        self.folders = {"frames": "frames", **store.folders(snapshot)}
        lost = {clip for info in self.infos.values() for clip in info.failed} | set(store.removed)
        self.clips = [clip for clip in store.shard_clips(shard) if clip.id not in lost]
        for name in (name for clip in self.clips for name in (clip.id, clip.split or "train")):
            if not re.fullmatch(r"[\w-]+", name):
                raise StoreError(f"{store.url} has a clip or split called {name!r}, which is no safe name for a file")

    def splits(self, clip: Clip) -> dict[str, np.ndarray]:
        """Split -> which frames of a clip are in it and pass the filter: bool [frames]."""
        policy, allowed = self.snapshot.split, where(self.snapshot, self.store, clip)
        names = [clip.split or "train"] if policy == "column" else ["train", "test"]
        return {name: allowed & sampling.split_mask(clip.frames, policy, name, clip.split) for name in names}

    def by_split(self) -> Iterator[tuple[str, list[tuple[Clip, np.ndarray]]]]:
        """Each split that has frames here, with its clips and the numbers of their frames."""
        found: dict[str, list[tuple[Clip, np.ndarray]]] = {}
        for clip in self.clips:
            for split, mask in self.splits(clip).items():
                if mask.any():
                    found.setdefault(split, []).append((clip, np.flatnonzero(mask)))
        yield from sorted(found.items())

    def arrays(self, kind: str, clip: Clip) -> dict[str, np.ndarray]:
        return self.store.read_arrays(self.folders[kind], kind, clip)

    def members(self, kind: str, clip: Clip, which: Sequence[int]) -> dict[str, list[bytes]]:
        """The bytes of each member of a kind, by extension."""
        folder, fields = self.folders[kind], layer_kinds.kind(kind).fields
        there = [ext for ext in fields.values() if ext in self.store.index(folder, self.shard).offsets]
        return {ext: list(self.store.read_members(folder, clip, ext, which)) for ext in there}


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _json(path: Path, value: Any, indent: int | None = None) -> None:
    _write(path, (json.dumps(value, indent=indent, ensure_ascii=False, sort_keys=indent is None) + "\n").encode())


# --- SoloDance ----------------------------------------------------------------------------------------------

# What a set calls by a name that the 20 labels lack; merged to the layout both come to the same.
_STAND_INS = {
    "belt": "pants",
    "bag": "upper-clothes",
    "jumpsuits": "dress",
    "top": "upper-clothes",
    "bottom": "pants",
}


@lru_cache
def _twenty(schema: str) -> np.ndarray:
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


def _solodance(view: _View, out: Path) -> list[Any]:
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


def _solodance_video(view: _View, clip: Clip, which: range, folder: Path, split: str, name: str) -> None:
    points = view.arrays("pose", clip)["keypoints"]
    schema = view.infos["pose"].schema
    frontal = which[int(np.argmax(frontality(points, schema)[which.start : which.stop]))]
    points = convert_keypoints(points, schema, "openpose137")
    labels = _twenty(view.infos["parsing"].schema)[view.arrays("parsing", clip)["labels"]]
    frames = view.arrays("frames", clip)["frames"]
    stored = view.members("frames", clip, [frontal])["jpg"][0]

    def place(what: str, role: str, file: str) -> Path:
        return folder / f"{split}_{what}" / role / name / file

    jpeg = layer_kinds.kind("frames").encode
    png = partial(layer_kinds.kind("parsing").encode, {"labels": labels})
    for t in which:
        person = frames[t] * (labels[t] != 0)[..., None]
        _write(place("img", "source", f"{t:06d}.png"), _png(frames[t]))
        _write(place("fg", "source", f"{t:06d}.png"), _png(person))
        _write(place("parsing", "source", f"{t:06d}.png"), png(t)["png"])
        _json(place("pose", "source", f"{t:06d}_keypoints.json"), _openpose(points[t]))
    person = frames[frontal] * (labels[frontal] != 0)[..., None]
    _write(place("img", "target", f"timg_{frontal:06d}.jpg"), stored)
    _write(place("fg", "target", f"tfg_{frontal:06d}.jpg"), jpeg({"frames": person[None]}, 0)["jpg"])
    _write(place("parsing", "target", f"tparsing_{frontal:06d}.png"), png(frontal)["png"])
    _json(place("pose", "target", f"tpose_{frontal:06d}_keypoints.json"), _openpose(points[frontal]))
    if "background" in view.infos:
        _write(folder / f"{split}_bg" / f"{name}.jpg", view.members("background", clip, [0])["jpg"][0])


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


# --- merged training tars -----------------------------------------------------------------------------------

# Layer -> what its members are called in a merged sample.
_NAMES = {"pose": "pose", "parsing": "labels", "flow": "flow", "background": "background", "scores": "scores"}


def _webdataset(view: _View, out: Path) -> list[Any]:
    """A tar a split, with all layers of a frame in one sample."""
    files = []
    for split, clips in view.by_split():
        name = f"{split}-{view.shard:05d}.tar"
        with open(out / name, "wb") as file:
            table = shards.write(file, (s for clip, which in clips for s in _merged(view, clip, which, split)))
        meta = shards.index_meta(table)
        files.append([split, {"name": name, **{k: meta[k] for k in ("samples", "bytes", "sha256")}}])
    return files


def _merged(view: _View, clip: Clip, which: np.ndarray, split: str) -> Iterator[Sample]:
    columns = {"jpg": view.members("frames", clip, which.tolist())["jpg"]}
    for kind in view.infos:
        per_clip = layer_kinds.kind(kind).per_clip
        for ext, data in view.members(kind, clip, [0] if per_clip else which.tolist()).items():
            columns[f"{_NAMES.get(kind, kind)}.{ext}"] = data * len(which) if per_clip else data
    times = clip.pts.array()
    seconds = clip.time_base[0] / clip.time_base[1]
    said = {"clip": clip.id, "video": clip.video, "person": clip.person, "split": split, "licence": clip.licence}
    for row, t in enumerate(which.tolist()):
        about = {**said, "frame": t, "pts": int(times[t]), "seconds": round(float(times[t]) * seconds, 6)}
        members = {name: data[row] for name, data in columns.items()}
        yield Sample(clip.key(t), {**members, "json": canonical_json(about).encode()})


def _finish_webdataset(
    store: Store, snapshot: Snapshot, part: Path, target: Path, done: Sequence[Mapping[str, Any]]
) -> None:
    """``dataset.json``: the tars of each split, and the schemas of their labels and keypoints."""
    splits: dict[str, list[Any]] = {}
    for split, meta in (file for result in done for file in result["files"]):
        splits.setdefault(split, []).append(meta)
    layers = {kind: store.layer(kind, i).schema for kind, i in snapshot.layers.items()}
    _json(part / "dataset.json", {"size": list(store.size), "schemas": layers, "splits": splits}, indent=1)


# --- COCO ---------------------------------------------------------------------------------------------------

_SKELETON = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9), (8, 10), (9, 11),
    (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip
# Ids of a shard's images begin at its number times this.
_PER_SHARD = 10_000_000
_SURE = 0.5


def _coco(view: _View, out: Path) -> list[Any]:
    """Images as they are stored; descriptions as lines, which `_finish_coco` puts together."""
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
                _write(out / "images" / name, data)
                height, width = view.store.size
                images.append({"id": number, "file_name": name, "width": width, "height": height})
                note = _annotation(points[t], None if persons is None else persons[t], view.store.size)
                if note:
                    notes.append({"id": number, "image_id": number, **note})
        for what, rows in (("images", images), ("annotations", notes)):
            lines = ",\n".join(json.dumps(row) for row in rows)
            _write(out / "parts" / f"{split}-{what}-{view.shard:05d}", lines.encode())
    return splits


def _annotation(points: np.ndarray, person: np.ndarray | None, size: tuple[int, int]) -> dict[str, Any] | None:
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


def _finish_coco(store: Store, snapshot: Snapshot, part: Path, target: Path, done: Sequence[Mapping[str, Any]]) -> None:
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


# --- Croissant ----------------------------------------------------------------------------------------------

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_FORMATS = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "seen.png": "image/png",
    "mask.png": "image/png",
    "npy": "application/octet-stream",
    "npz": "application/zip",
    "json": "application/json",
}
_COLUMNS = {
    "id": "sc:Text",
    "video": "sc:Text",
    "person": "sc:Text",
    "split": "sc:Text",
    "fps": "sc:Float",
    "licence": "sc:Text",
    "url": "sc:Text",
    "shard": "sc:Integer",
}
_SPLIT_URLS = {"train": "cr:TrainingSplit", "test": "cr:TestSplit", "val": "cr:ValidationSplit"}


def _finish_croissant(
    store: Store, snapshot: Snapshot, part: Path, target: Path, done: Sequence[Mapping[str, Any]]
) -> None:
    """``croissant.json``: Croissant 1.0 metadata of the store as it is, its files by sha256."""
    folders = {"frames": ("frames", "frames"), **{k: (k, f) for k, f in store.folders(snapshot).items()}}
    licences = sorted({clip.licence for clip in store.clips if clip.licence}) or ["unknown"]
    urls = sorted({clip.url for clip in store.clips if clip.url})
    name = os.path.basename(store.url.rstrip("/")) or "store"
    frames = sum(clip.frames for clip in store.clips)
    distribution = [_clips_object(store, target)]
    records = [_split_records(done), _clip_records()]
    for title, (kind, folder) in folders.items():
        tars, sets, record = _layer_objects(store, target, title, kind, folder)
        distribution += [*tars, *sets]
        records.append(record)
    _json(
        part / "croissant.json",
        {
            "@context": _CONTEXT,
            "@type": "sc:Dataset",
            "conformsTo": "http://mlcommons.org/croissant/1.0",
            "name": name,
            "description": _description(store, snapshot, frames),
            "version": "1.0.0",
            "license": licences if len(licences) > 1 else licences[0],
            "url": urls[0] if urls else store.url,
            "distribution": distribution,
            "recordSet": records,
        },
        indent=1,
    )


def _description(store: Store, snapshot: Snapshot, frames: int) -> str:
    layers = ", ".join(f"{kind} by {i} ({store.layer(kind, i).schema})" for kind, i in snapshot.layers.items())
    text = f"{len(store.clips)} clips of dancing people, {frames} frames of {store.size[0]} x {store.size[1]} pixels."
    text += f" Layers: {layers}." if layers else ""
    text += f" Use the frames with {snapshot.where}." if snapshot.where else ""
    if store.removed:
        text += " Clips that clips.parquet lists and removed.json names are withdrawn: do not use them."
    return text


def _where_from(store: Store, target: Path, name: str) -> str:
    """The address of a file of the store, relative to the metadata where both are on this machine."""
    if not store.files.local:
        return f"{store.url.rstrip('/')}/{name}"
    return Path(os.path.relpath(store.files.path(name), target)).as_posix()


def _clips_object(store: Store, target: Path) -> dict[str, Any]:
    data = store.files.read("clips.parquet")
    return {
        "@type": "cr:FileObject",
        "@id": "clips.parquet",
        "name": "clips.parquet",
        "contentUrl": _where_from(store, target, "clips.parquet"),
        "contentSize": f"{len(data)} B",
        "encodingFormat": "application/x-parquet",
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _split_records(done: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = sorted({split for result in done for split in result["splits"]} | {"train", "test"})
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [_field("splits/name", "sc:Text"), _field("splits/url", "sc:URL")],
        "data": [{"splits/name": name, "splits/url": _SPLIT_URLS.get(name, "cr:Split")} for name in names],
    }


def _clip_records() -> dict[str, Any]:
    fields = []
    for column, kind in _COLUMNS.items():
        source = {"fileObject": {"@id": "clips.parquet"}, "extract": {"column": column}}
        more = {"references": {"field": {"@id": "splits/name"}}} if column == "split" else {}
        fields.append({**_field(f"clips/{column}", kind), "source": source, **more})
    key = {"@id": "clips/id"}
    return {"@type": "cr:RecordSet", "@id": "clips", "name": "clips", "key": key, "field": fields}


def _layer_objects(
    store: Store, target: Path, title: str, kind: str, folder: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """The tars of a layer, the members in them, and the records they make."""
    tars = []
    for shard in range(store.shard_count):
        meta, name = store.index(folder, shard).meta, shard_name(folder, shard)
        tars.append(
            {
                "@type": "cr:FileObject",
                "@id": f"{title}-{shard:05d}",
                "name": f"{title}-{shard:05d}",
                "contentUrl": _where_from(store, target, name),
                "contentSize": f"{meta['bytes']} B",
                "encodingFormat": "application/x-tar",
                "sha256": meta["sha256"],
            }
        )
    there = {ext for shard in range(store.shard_count) for ext in store.index(folder, shard).offsets}
    sets, fields = [], []
    for name, ext in layer_kinds.kind(kind).fields.items():
        if ext not in there:
            continue
        which = f"{title}-{name}"
        sets.append(
            {
                "@type": "cr:FileSet",
                "@id": which,
                "name": which,
                "containedIn": [{"@id": tar["@id"]} for tar in tars],
                "encodingFormat": _FORMATS.get(ext, "application/octet-stream"),
                "includes": f"*/*.{ext}",
            }
        )
        data_type = "sc:ImageObject" if _FORMATS.get(ext, "").startswith("image/") else "sc:Text"
        if not fields:
            key = {"fileSet": {"@id": which}, "extract": {"fileProperty": "fullpath"}}
            fields.append({**_field(f"{title}/key", "sc:Text"), "source": key})
        content = {"fileSet": {"@id": which}, "extract": {"fileProperty": "content"}}
        if name == next(iter(layer_kinds.kind(kind).fields)):
            fields.append({**_field(f"{title}/{name}", data_type), "source": content})
    return tars, sets, {"@type": "cr:RecordSet", "@id": title, "name": title, "field": fields}


def _field(name: str, data_type: str) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": name, "name": name, "dataType": data_type}


_SHARD: dict[str, Callable[[_View, Path], list[Any]]] = {
    "solodance": _solodance,
    "webdataset": _webdataset,
    "coco": _coco,
}
_FINISH: dict[str, Callable[[Store, Snapshot, Path, Path, Sequence[Mapping[str, Any]]], None]] = {
    "webdataset": _finish_webdataset,
    "coco": _finish_coco,
    "croissant": _finish_croissant,
}
