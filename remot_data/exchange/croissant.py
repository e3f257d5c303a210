"""Croissant 1.0: metadata of a store as it is, its files by sha256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from remot_data.exchange.view import write_json
from remot_data.records import Snapshot
from remot_data.store import Store, shard_name
from remot_data.store import layers as layer_kinds

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
    "sure.png": "image/png",
    "mask.png": "image/png",
    "checks.png": "image/png",
    "others.png": "image/png",
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


def finish(
    store: Store, snapshot: Snapshot, part: Path, target: Path | None, done: Sequence[Mapping[str, Any]], url: str = ""
) -> None:
    """``croissant.json``: Croissant 1.0 metadata of the store as it is, its files by sha256.

    Args:
        target: where the file will lie; None for beside the store's files, wherever that is.
        url: of the data set, where clips name none; the store's own by default.
    """
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
    write_json(
        part / "croissant.json",
        {
            "@context": _CONTEXT,
            "@type": "sc:Dataset",
            "conformsTo": "http://mlcommons.org/croissant/1.0",
            "name": name,
            "description": _description(store, snapshot, frames),
            "version": "1.0.0",
            "license": licences if len(licences) > 1 else licences[0],
            "url": urls[0] if urls else url or store.url,
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


def _where_from(store: Store, target: Path | None, name: str) -> str:
    """The address of a file of the store, relative to the metadata where both are on this machine."""
    if target is None:
        return name
    if not store.files.local:
        return f"{store.url.rstrip('/')}/{name}"
    return Path(os.path.relpath(store.files.path(name), target)).as_posix()


def _clips_object(store: Store, target: Path | None) -> dict[str, Any]:
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
    store: Store, target: Path | None, title: str, kind: str, folder: str
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
    sets: list[dict[str, Any]] = []
    fields: list[dict[str, Any]] = []
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
