"""Layers from what other tools have made.

A layer is imported from files of whole pictures of the source videos. They are brought into the store's frames through
the crop of each clip, and become an ordinary layer, whose id names the bytes it was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from remot_data import media, persons
from remot_data.annotating.annotate import switch
from remot_data.detectors.dis import CONSISTENT, PHOTOMETRIC, consistent, one_opencv_thread, photometric
from remot_data.engine import Progress, open_engine
from remot_data.ingest.inputs import load_manifest
from remot_data.records import XYWH, XYXY, Clip, LayerInfo, Receipt, Record, digest
from remot_data.schemas import convert_keypoints, keypoint_set, label_set
from remot_data.store import Store, StoreError, open_store
from remot_data.store import layers as layer_kinds
from remot_data.store.currency import is_current, metas, saw
from remot_data.store.layers import LayerError
from remot_data.store.shards import Sample, encoded

# --- layers out of files ------------------------------------------------------------------------------------

# Form of the files -> kind of layer, and how the files end.
FORMS = {
    "openpose": ("pose", ".json"),
    "labels": ("parsing", ".png"),
    "flo-backward": ("flow", ".flo"),
    "flo-forward": ("flow", ".flo"),
}
# Raise when the same files give other arrays.
IMPORT_VERSION = "1"

Place = tuple[str, str]


class _Unusable(ValueError):
    """Files that no layer of a clip can be made from; the sentence is recorded as the reason."""


@dataclass(frozen=True)
class ImportSummary(Record):
    """What `import_layer` did.

    `absent` counts frames without a file of keypoints, where nobody was found; `failed` are clips the layer could not
    be made for, each with the reason.
    """

    store: str
    layer: str
    id: str
    shards: int
    computed: int
    frames: int
    absent: int
    seconds: float
    failed: dict[str, str] = field(default_factory=dict)


def import_layer(
    store: str | Store,
    kind: str,
    folder: str | os.PathLike[str] | Mapping[str, str],
    *,
    form: str,
    name: str | None = None,
    schema: str | None = None,
    first: int | None = None,
    snapshot: str | None = None,
    wait: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> ImportSummary:
    """Make a layer from files that another tool made of the source videos.

    A frame without a file counts as one where nobody was found if the files are keypoints; labels and flow have to be
    there for every frame, or the clip is left out of the layer, with the reason.

    Args:
        kind: ``pose``, ``parsing`` or ``flow``.
        folder: where the files are: a folder (see `docs/data.md` for how those of a clip are found in it), a path with
            ``{stem}``, ``{split}``, ``{person}`` or ``{video}`` in it, or the path of each source -> its folder.
        form: one of `FORMS`. ``openpose``: a JSON file a frame; ``labels``: a PNG a frame, grey or with a palette;
            ``flo-backward`` and ``flo-forward``: Middlebury flow from each frame to the one before or after it.
        name: first part of the layer's id, the form by default.
        schema: the label set of ``labels``; of keypoints ``body25``, ``coco18`` or ``coco17`` is told by their number,
            ``openpose137`` and ``wholebody133`` take hands and face too.
        first: number of the first frame in the names of the files of a video, 0 or 1, where they do not show it.
        snapshot: name of a snapshot to make or to switch to the new layer.
        wait: if somebody else is making this layer, wait until they are done.

    Raises:
        StoreError: for arguments that do not fit, or when not one clip has what it needs (names the first reason).
    """
    store = store if isinstance(store, Store) else open_store(store)
    started = time.monotonic()
    _check_arguments(kind, form, schema, first)
    _look_anew()
    places, lost = _places(store, folder, form)
    with open_engine(workers, scheduler) as engine:
        tasks = [
            {"url": store.url, "shard": shard, "form": form, "places": found, "first": first}
            for shard in range(store.shard_count)
            if (found := {clip.id: places[clip.id] for clip in store.shard_clips(shard) if clip.id in places})
        ]
        looked = list(engine.map(look_at_files, tasks, "look at files", progress=progress))
        made = _Import(store, kind, form, _schema(kind, schema, looked), name or form, first, looked, lost)
        with store.lock(made.info.id, wait), store.log("receipts") as log:
            store.files.sweep(made.folder)
            todo = [s for s in range(store.shard_count) if not made.is_current(s)]
            tasks = [made.task(shard, places) for shard in todo]
            _ = list(engine.map(import_shard, tasks, f"import {kind}", log=log, progress=progress))
            failed = made.finish()
    if snapshot is not None:
        switch(store, snapshot, {kind: made.info.id})
    frames = sum(clip.frames for clip in store.planned if clip.id not in failed)
    absent = sum(result["absent"] for result in looked)
    seconds = round(time.monotonic() - started, 3)
    return ImportSummary(
        store.url, kind, made.info.id, store.shard_count, len(todo), frames, absent, seconds, dict(failed)
    )


def import_manifest(
    store: str | Store,
    manifest: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    **options: Any,
) -> list[ImportSummary]:
    """Import every layer that a manifest names, from where it says; `options` as for `import_layer`.

    Raises:
        InputError: as `load_manifest`.
        StoreError: as `import_layer`, or for a manifest that names no layer.
    """
    layers = load_manifest(manifest, root).layers
    if not layers:
        raise StoreError(f"{manifest} names no 'layers' to import")
    return [
        import_layer(store, source.kind, source.folders, form=source.form, schema=source.schema, **options)
        for source in layers
    ]


def _check_arguments(kind: str, form: str, schema: str | None, first: int | None) -> None:
    if form not in FORMS or FORMS[form][0] != kind:
        known = ", ".join(f"{form} ({k})" for form, (k, _) in FORMS.items())
        raise StoreError(f"{kind!r} is not imported from {form!r}; known forms are {known}")
    if kind == "parsing":
        if schema is None:
            raise StoreError("say which set the labels are of: --schema cihp20, lip20, atr18, ...")
        label_set(schema)
    elif kind == "pose" and schema is not None:
        keypoint_set(schema)
    if first not in (None, 0, 1):
        raise StoreError(f"the first frame is number 0 or 1 in the names of files, not {first}")


def _schema(kind: str, schema: str | None, looked: Sequence[Mapping[str, Any]]) -> str:
    """The schema of a layer: as given, or as the files show it."""
    if kind == "flow":
        return "backward"
    if kind == "parsing":
        return str(schema)
    counts = sorted({count for result in looked for count in result["points"]})
    if schema is None:
        fitting = set(counts) if len(counts) == 1 else set()
    else:
        fitting = set(_BY_COUNT) if schema in _WHOLE else {len(keypoint_set(schema))}
    if not set(counts) <= fitting & set(_BY_COUNT):
        sizes = " and ".join(map(str, counts))
        raise StoreError(f"the files hold {sizes} points a body; that is not {schema or 'body25, coco18 or coco17'}")
    return schema or _BY_COUNT[counts[0] if counts else 25]


_BY_COUNT = {25: "body25", 18: "coco18", 17: "coco17"}
_WHOLE = ("openpose137", "wholebody133")  # sets with hands and face, which OpenPose writes beside the body


class _Import:
    """One layer being imported: its id, its tasks, and what is there of it."""

    def __init__(
        self,
        store: Store,
        kind: str,
        form: str,
        schema: str,
        name: str,
        first: int | None,
        looked: Sequence[Mapping[str, Any]],
        lost: Mapping[str, str],
    ) -> None:
        self.store, self.first = store, first
        self.lost = {**lost, **{clip: why for result in looked for clip, why in result["failed"].items()}}
        self.digests = {clip: sha for result in looked for clip, sha in result["digests"].items()}
        if not self.digests:
            clip, why = next(iter(sorted(self.lost.items())), ("", "the store has no clips"))
            raise StoreError(f"no clip of {store.url} has what it needs; {clip}: {why}")
        fingerprint = {"import": form, "version": IMPORT_VERSION, "schema": schema, "files": digest(self.digests)}
        layer_id = f"{name}-{digest({'fingerprint': fingerprint, 'policy': store.policy})[:10]}"
        self.info = LayerInfo(layer_id, kind, name, IMPORT_VERSION, schema, fingerprint, store.policy)
        self.folder = self.info.folder

    def is_current(self, shard: int) -> bool:
        return is_current(self.store.meta(self.folder, shard), metas(self.store, {}, shard))

    def task(self, shard: int, places: Mapping[str, Place]) -> dict[str, Any]:
        clips = [clip.id for clip in self.store.shard_clips(shard)]
        return {
            "url": self.store.url,
            "shard": shard,
            "form": self.info.fingerprint["import"],
            "schema": self.info.schema,
            "folder": self.folder,
            "places": {clip: places[clip] for clip in clips if clip not in self.lost},
            "digests": {clip: self.digests[clip] for clip in clips if clip not in self.lost},
            "lost": {clip: self.lost[clip] for clip in clips if clip in self.lost},
            "first": self.first,
        }

    def finish(self) -> dict[str, str]:
        """Make the layer visible; the clips it lacks, each with the reason.

        Raises:
            StoreError: if it lacks every clip.
        """
        failed: dict[str, str] = {}
        for shard in range(self.store.shard_count):
            failed.update((self.store.meta(self.folder, shard) or {"failed": {}})["failed"])
        if len(failed) == len(self.store.planned):
            clip, why = next(iter(sorted(failed.items())))
            raise StoreError(f"not one clip could be imported; {clip}: {why}")
        self.store.write_json(f"{self.folder}/layer.json", {**self.info.to_json(), "failed": failed})
        return failed


# Where the files of a clip are


def _places(
    store: Store, folder: str | os.PathLike[str] | Mapping[str, str], form: str
) -> tuple[dict[str, Place], dict[str, str]]:
    """By clip the folder of its files and how their names begin; and the clips without one, with the reason.

    Raises:
        StoreError: if two sources would take the same files.
    """
    found: dict[str, Place] = {}
    lost: dict[str, str] = {}
    taken: dict[Place, str] = {}
    by_source: dict[tuple[str, str, str], Place | str] = {}
    sources = {clip.path for clip in store.planned}
    for clip in store.planned:
        key = (clip.path, clip.split, clip.person)
        if key not in by_source:
            by_source[key] = _place(clip, folder, form, len(sources) == 1)
        place = by_source[key]
        if isinstance(place, str):
            lost[clip.id] = place
            continue
        if taken.setdefault(place, clip.path) != clip.path:
            raise StoreError(
                f"{clip.path} and {taken[place]} would both take the files of {place[0]}; give the folder of each "
                "source by a pattern such as FOLDER/{split}/{stem}, or by a manifest"
            )
        found[clip.id] = place
    return found, lost


def _place(clip: Clip, folder: str | os.PathLike[str] | Mapping[str, str], form: str, only: bool) -> Place | str:
    """The folder and the beginning of the names of a clip's files, or why there is none."""
    if isinstance(folder, Mapping):
        if clip.path not in folder:
            return f"the manifest, with this root, does not name its source {clip.path}"
        return _existing(folder[clip.path])
    base, parts = os.fspath(folder), Path(clip.path).parts
    if "{" in base:
        fields = {"stem": Path(clip.path).stem, "split": clip.split, "person": clip.person, "video": clip.video}
        try:
            return _existing(base.format(**fields))
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise StoreError(f"{base} uses the field {error}; there are {', '.join(fields)}") from None
    stem = Path(clip.path).stem
    for name in dict.fromkeys((parts[-1] if parts else clip.video, stem)):
        for start in range(max(1, len(parts) - 5), len(parts)):
            inside = os.path.join(base, *parts[start:-1], name)
            if os.path.isdir(inside):
                return inside, ""
    names = _names(base, FORMS[form][1])
    if any(_rest(name, stem) is not None for name in names):
        return base, stem
    if only and names:
        return base, ""
    return f"{base} has neither a folder {stem} nor files {stem}_NUMBER{FORMS[form][1]}"


def _existing(folder: str) -> Place | str:
    return (folder, "") if os.path.isdir(folder) else f"there is no folder {folder}"


@lru_cache(maxsize=8)
def _names(folder: str, suffix: str) -> tuple[str, ...]:
    """Names of the files of a form in a folder, sorted."""
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted(e.name for e in entries if e.name.lower().endswith(suffix) and e.is_file()))
    except OSError:
        return ()


def _look_anew() -> None:
    """Forget the listings: a process that lives on must see files that came since."""
    for cached in (_names, _picture_names, _times):
        cached.cache_clear()


def _plain(name: str) -> str:
    """The name of a file without what OpenPose and the extension add to that of the frame."""
    return os.path.splitext(name)[0].removesuffix("_keypoints")


def _rest(name: str, stem: str) -> str | None:
    """The number in a name that is `stem` and a number, or None."""
    match = re.fullmatch(re.escape(stem) + r"[-_. ]?(\d+)", _plain(name))
    return match and match[1]


def _frame_files(clip: Clip, place: Place, form: str, first: int | None) -> list[str | None]:
    """The path of the file for each frame of a clip, or None where there is none.

    Raises:
        _Unusable: if it cannot be told which file belongs to which frame.
        VideoError: if the source cannot be read for its times.
    """
    folder, stem = place
    names = [n for n in _names(folder, FORMS[form][1]) if not stem or _rest(n, stem) is not None]
    if not names:
        raise _Unusable(f"there is no {FORMS[form][1]} file in {folder}")
    if os.path.isdir(clip.path):
        pictures = _picture_names(clip.path)
        by_name = {_plain(name): name for name in names}
        if clip.pts[-1] >= len(pictures):
            raise _Unusable(f"{clip.path} has fewer pictures than when the store was built")
        wanted = [os.path.splitext(pictures[number])[0] for number in clip.pts]
        if any(name in by_name for name in wanted):
            found = [by_name.get(name) for name in wanted]
        else:
            by_number = _numbered(names, folder)
            found = [by_number.get(_number(name)) for name in wanted]
    else:
        numbers, count = _frame_numbers(clip)
        by_number = _numbered(names, folder)
        start = _first(by_number, count, folder) if first is None else first
        found = [by_number.get(int(number) + start) for number in numbers]
    return [name and os.path.join(folder, name) for name in found]


@lru_cache(maxsize=4)
def _picture_names(folder: str) -> list[str]:
    return media.frame_names(folder)


def _number(name: str) -> int:
    digits = re.search(r"(\d+)$", name)
    return int(digits[1]) if digits else -1


def _numbered(names: Sequence[str], folder: str) -> dict[int, str]:
    found: dict[int, str] = {}
    for name in names:
        number = _number(_plain(name))
        if number >= 0 and found.setdefault(number, name) != name:
            raise _Unusable(f"{found[number]} and {name} in {folder} have the same number")
    return found


def _first(numbers: Mapping[int, str], count: int, folder: str) -> int:
    """0 or 1: the number that the first of `count` frames has in the names of files."""
    if (0 in numbers) != (count in numbers):
        return 0 if 0 in numbers else 1
    span = f"{min(numbers, default=-1)} to {max(numbers, default=-1)}"
    raise _Unusable(
        f"the files of {folder} have numbers from {span} and the video has {count} frames: "
        "say which number its first frame has (--first 0 or 1)"
    )


def _frame_numbers(clip: Clip) -> tuple[np.ndarray, int]:
    """The number of each frame of a clip in its source video, from 0, and how many frames that has."""
    every, times = _times(clip.path), clip.pts.array()
    numbers = np.searchsorted(every, times)
    if numbers.max(initial=0) >= len(every) or (every[numbers] != times).any():
        raise _Unusable(f"{clip.path} has other frames than when the store was built")
    return numbers, len(every)


@lru_cache(maxsize=4)
def _times(path: str) -> np.ndarray:
    """PTS of every frame of a video file, in order."""
    return np.array(media.container.scan(path).pts, np.int64)


# Tasks


def look_at_files(
    url: str, shard: int, form: str, places: Mapping[str, Sequence[str]], first: int | None
) -> dict[str, Any]:
    """The task: digests of the files of each clip of a shard, and what is missing.

    Returns plain values: `digests` and `failed` by clip, `absent` frames without a file, `points` a person.
    """
    out: dict[str, Any] = {"digests": {}, "failed": {}, "absent": 0, "points": []}
    points: set[int] = set()
    _look_anew()
    for clip in Store(url).shard_clips(shard):
        if clip.id not in places:
            continue
        try:
            files = _needed(clip, _frame_files(clip, _place_of(places, clip), form, first), form)
            if form == "openpose":
                points |= {len(p["body"]) for path in files if path for p in _persons(Path(path).read_bytes(), path)}
            out["digests"][clip.id] = _digest_of(files)
            out["absent"] += files.count(None)
        except (_Unusable, OSError, media.VideoError) as error:
            out["failed"][clip.id] = str(error)
    out["points"] = sorted(points)
    return out


def _digest_of(files: Sequence[str | None]) -> str:
    sha = hashlib.sha256()
    for path in files:
        sha.update(hashlib.sha256(Path(path).read_bytes() if path else b"").digest())
    return sha.hexdigest()


def _place_of(places: Mapping[str, Sequence[str]], clip: Clip) -> Place:
    folder, stem = places[clip.id]
    return folder, stem


def _needed(clip: Clip, files: list[str | None], form: str) -> list[str | None]:
    """The files that are read for a clip, one a frame (the first frame of a flow has none).

    Raises:
        _Unusable: where one is missing that has to be there.
    """
    if form == "openpose":
        if not any(files):
            raise _Unusable("not one of its frames has a file")
        return files
    needed = {"labels": files, "flo-backward": files[1:], "flo-forward": files[:-1]}[form]
    if None in needed:
        frame = needed.index(None) + (form == "flo-backward")
        there = next((os.path.dirname(p) for p in files if p), "")
        raise _Unusable(
            f"{needed.count(None)} of {len(needed)} files are missing in {there or 'its folder'}, "
            f"the first for frame {frame} (PTS {clip.pts[frame]})"
        )
    if form.startswith("flo-"):
        numbers = clip.pts.array() if os.path.isdir(clip.path) else _frame_numbers(clip)[0]
        gaps = np.flatnonzero(np.diff(numbers) != 1)
        if len(gaps):
            raise _Unusable(
                f"its frames {gaps[0]} and {gaps[0] + 1} are frames {numbers[gaps[0]]} and {numbers[gaps[0] + 1]} of "
                "the video, and flow reaches to the next one only; build the store without --fps"
            )
    return needed


def import_shard(
    url: str,
    shard: int,
    form: str,
    schema: str,
    folder: str,
    places: Mapping[str, Sequence[str]],
    digests: Mapping[str, str],
    lost: Mapping[str, str],
    first: int | None,
) -> Receipt:
    """The task: make one shard of an imported layer. Harmless to run twice."""
    store, kind = Store(url), FORMS[form][0]
    failed = dict(lost)
    started = time.perf_counter()
    clips = store.shard_clips(shard)
    _look_anew()

    def samples() -> Iterator[Sample]:
        for clip in clips:
            if clip.id in failed:
                continue
            try:
                files = _needed(clip, _frame_files(clip, _place_of(places, clip), form, first), form)
                if _digest_of(files) != digests[clip.id]:
                    raise _Unusable("its files changed while they were imported; run the import again")
                arrays = _ARRAYS[form](store, clip, files, schema)
                layer_kinds.kind(kind).check(arrays, clip.frames, store.size)
            except (_Unusable, LayerError, OSError, media.VideoError) as error:
                failed[clip.id] = str(error)
                continue
            yield from encoded(kind, clip, arrays)

    with one_opencv_thread():
        made = store.write_shard(folder, shard, samples(), saw(store, {}, shard), failed)
    return Receipt(
        "import",
        shard=shard,
        frames=sum(clip.frames for clip in clips),
        clips=len(clips),
        made={folder: made},
        seconds={kind: round(time.perf_counter() - started, 4)},
    )


# Keypoints


def _pose(store: Store, clip: Clip, files: Sequence[str | None], schema: str) -> dict[str, np.ndarray]:
    """Keypoints float32 [T, K, 3] of the person that the crop was made for."""
    found = [_persons(Path(path).read_bytes(), path) if path else [] for path in files]
    chosen = _main_person([[p["body"] for p in persons] for persons in found], clip.crop)
    points = np.zeros((clip.frames, len(keypoint_set(schema)), 3), np.float32)
    for t, number in enumerate(chosen):
        if number is not None:
            points[t] = _whole_body(found[t][number], schema) if schema in _WHOLE else found[t][number]["body"]
    extent = max((p["body"][:, :2].max() for persons in found for p in persons), default=0.0)
    if 0 < extent <= 1:
        raise _Unusable(f"the keypoints of {next(filter(None, files))} are no pixels; have them written unscaled")
    seen = points[..., 2] > 0
    x, y, w, h = clip.crop
    points[..., :2] = (points[..., :2] - np.float32([x, y])) * np.float32([store.size[1] / w, store.size[0] / h])
    # OpenPose's confidence is the height of a peak, which can be a little above 1.
    points[..., 2] = points[..., 2].clip(0, 1)
    points[~seen] = 0
    return {"keypoints": points}


def _persons(data: bytes, path: str) -> list[dict[str, np.ndarray]]:
    """The persons of one OpenPose file: ``body`` float32 [K, 3], and ``face``, ``left-hand``, ``right-hand``."""
    try:
        found = [
            {part: np.array(p.get(f"{key}_2d", p.get(key, [])), np.float32).reshape(-1, 3) for part, key in _PARTS}
            for p in json.loads(data)["people"]
        ]
        if not all(np.isfinite(points).all() for person in found for points in person.values()):
            raise ValueError("a value is not finite")
        return [person for person in found if len(person["body"])]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _Unusable(f"{path} is no JSON of OpenPose ({type(error).__name__}: {error})") from error


_PARTS = (
    ("body", "pose_keypoints"),
    ("face", "face_keypoints"),
    ("left-hand", "hand_left_keypoints"),
    ("right-hand", "hand_right_keypoints"),
)


def _whole_body(person: Mapping[str, np.ndarray], schema: str) -> np.ndarray:
    """Body, feet, face and hands of a person as float32 [K, 3]; `wholebody133` has no place for the two pupils."""
    body = person["body"]
    whole = convert_keypoints(body, _BY_COUNT[len(body)], schema)
    names = keypoint_set(schema)
    for part in ("face", "left-hand", "right-hand"):
        start, count = names.index(f"{part}-0"), sum(name.startswith(f"{part}-") for name in names.points)
        points = person[part][:count]
        whole[start : start + len(points)] = points
    return whole


def _main_person(bodies: Sequence[Sequence[np.ndarray]], crop: XYWH) -> list[int | None]:
    """Which person of each frame is the one that the crop was made for, or None where nobody is in it.

    The persons are linked over time by the overlap of their boxes, as when a store is built; the track that fills
    most of the crop is taken, and where it has a gap, the person that does.
    """
    x, y, w, h = crop
    looks: list[list[persons.Person]] = []
    which: dict[tuple[int, XYXY], int] = {}
    for t, found in enumerate(bodies):
        look = []
        for number, body in enumerate(found):
            seen = body[body[:, 2] > 0]
            if not len(seen):
                continue
            low, high = seen[:, :2].min(0), seen[:, :2].max(0)
            box = persons.as_box((max(low[0], x), max(low[1], y), min(high[0], x + w), min(high[1], y + h)))
            if box[2] > box[0] and box[3] > box[1]:
                which[t, box] = number
                look.append(persons.Person(t, box, float(seen[:, 2].mean())))
        looks.append(look)
    main = {person.frame: person for person in persons.main_track(looks)}

    def weight(person: persons.Person) -> float:
        return person.score * (person.box[2] - person.box[0]) * persons.height(person.box)

    chosen = (main.get(t) or max(look, key=weight, default=None) for t, look in enumerate(looks))
    return [None if person is None else which[person.frame, person.box] for person in chosen]


# Labels


def _labels(store: Store, clip: Clip, files: Sequence[str | None], schema: str) -> dict[str, np.ndarray]:
    """Labels uint8 [T, H, W]: at the centre of each pixel of a frame, that of the source pixel it lies in."""
    rows, columns = _source_pixels(clip, store.size)
    labels = np.empty((clip.frames, *store.size), np.uint8)
    for t, path in enumerate(files):
        whole = read_labels(str(path))
        if whole.shape[::-1] != tuple(clip.source_size):
            shapes = (f"{w}x{h}" for w, h in (whole.shape[::-1], clip.source_size))
            raise _Unusable("{} is {}, the pictures of the video are {}".format(path, *shapes))
        labels[t] = whole[np.ix_(rows, columns)]
        if labels[t].max() >= len(label_set(schema)):
            raise _Unusable(f"{path} has the label {labels[t].max()}, which is outside {schema}")
    return {"labels": labels}


def _source_pixels(clip: Clip, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the source pixels under the centres of a frame's pixels; outside, those of the border."""
    x, y, w, h = clip.crop
    spans = ((y, h, size[0], clip.source_size[1]), (x, w, size[1], clip.source_size[0]))
    rows, columns = (
        np.floor(start + (np.arange(count) + 0.5) * extent / count).clip(0, limit - 1).astype(int)
        for start, extent, count, limit in spans
    )
    return rows, columns


def read_labels(path: str) -> np.ndarray:
    """The labels of a PNG as uint8 [H, W]: grey values, or the numbers of its palette."""
    data = Path(path).read_bytes()
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise _Unusable(f"{path} is no PNG")
    try:
        context = av.CodecContext.create("png", "r")
        context.thread_count = 1
        (frame,) = [*context.decode(av.Packet(data)), *context.decode(None)]
    except (av.error.FFmpegError, ValueError) as error:
        raise _Unusable(f"{path} cannot be decoded: {error}") from error
    if frame.format.name == "pal8":
        return frame.to_ndarray()[0]
    if frame.format.name == "gray":
        return frame.to_ndarray()
    raise _Unusable(f"{path} is {frame.format.name}; labels are a PNG with 8-bit grey or a palette")


# Flow


def _backward(store: Store, clip: Clip, files: Sequence[str | None], schema: str) -> dict[str, np.ndarray]:
    return _flow(store, clip, files, forward=False)


def _forward(store: Store, clip: Clip, files: Sequence[str | None], schema: str) -> dict[str, np.ndarray]:
    return _flow(store, clip, files, forward=True)


def _flow(store: Store, clip: Clip, files: Sequence[str | None], forward: bool) -> dict[str, np.ndarray]:
    """Flow from each frame back to the one before on half the grid, and its confidence; see `docs/data.md`."""
    height, width = store.size
    h, w = max(height // 2, 1), max(width // 2, 1)
    frames = store.read_arrays("frames", "frames", clip)["frames"]
    flow = np.zeros((clip.frames, h, w, 2), np.float32)
    confidence = np.zeros((clip.frames, h, w), np.uint8)
    for t, path in enumerate(files, 1):
        given, known = _through_crop(read_flo(str(path), clip.source_size), clip, store.size)
        here, there = (frames[t - 1], frames[t]) if forward else (frames[t], frames[t - 1])
        alike = photometric(here, _warped(there, given)) & known
        other, reached = inverted(given, alike)
        back = other if forward else given
        if forward:
            known = reached
            alike = photometric(frames[t], _warped(frames[t - 1], back)) & known
        agree = consistent(back, given if forward else other, *_targets(back)) & known
        flow[t] = cv2.resize(back, (w, h), interpolation=cv2.INTER_AREA) * np.float32([w / width, h / height])
        for bit, holds in ((CONSISTENT, agree), (PHOTOMETRIC, alike)):
            share = cv2.resize(holds.view(np.uint8) * np.uint8(200), (w, h), interpolation=cv2.INTER_AREA)
            confidence[t] |= (share >= 100) * np.uint8(bit)
    return {"flow": flow, "confidence": confidence}


def _targets(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column and row that each pixel flows to: float32 [H, W] each."""
    height, width = flow.shape[:2]
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return columns + flow[..., 0], rows + flow[..., 1]


def _warped(frame: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """For each pixel what `frame` shows where it flows to."""
    return cv2.remap(frame, *_targets(flow), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def read_flo(path: str, size: Sequence[int]) -> np.ndarray:
    """A Middlebury ``.flo`` file of a picture of `size` = (width, height) as float32 [H, W, 2]."""
    data = Path(path).read_bytes()
    width, height = (int(n) for n in np.frombuffer(data[4:12].ljust(8, b"\0"), "<i4"))
    if data[:4] != b"PIEH" or len(data) != 12 + 8 * width * height:
        raise _Unusable(f"{path} is no whole .flo file")
    if (width, height) != tuple(size):
        raise _Unusable(f"{path} is {width}x{height}, the pictures of the video are {size[0]}x{size[1]}")
    return np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2)


def _through_crop(flow: np.ndarray, clip: Clip, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Flow of a source picture in pixels of the clip's frames, and where all of it is known: bool [H, W].

    Middlebury marks what is not known by values above 1e9; it becomes 0 here.
    """
    x, y, w, h = (round(v) for v in clip.crop)
    rows = np.arange(y, y + h).clip(0, flow.shape[0] - 1)
    columns = np.arange(x, x + w).clip(0, flow.shape[1] - 1)
    cut = flow[np.ix_(rows, columns)]
    known = (np.abs(cut) < 1e9).all(-1)
    cut[~known] = 0
    how = cv2.INTER_AREA if size[0] <= h else cv2.INTER_LINEAR
    small = cv2.resize(cut, size[::-1], interpolation=how) * np.float32([size[1] / w, size[0] / h])
    return small, cv2.resize(known.astype(np.float32), size[::-1], interpolation=how) > 0.999


def inverted(flow: np.ndarray, trusted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The flow the other way: float32 [H, W, 2], and where a pixel really came from: bool [H, W].

    Each pixel carries the negative of its flow to where it goes, spread over the four pixels there; what several
    pixels reach is their mean, in which the trusted ones (bool [H, W]) outweigh the others; what none reaches is
    filled in from around it. So what is hidden in the other frame does not agree with its way back.
    """
    height, width = flow.shape[:2]
    x, y = _targets(flow)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    belief = np.where(trusted, 1.0, 0.01)
    covered, mass, *sums = np.zeros((4, height * width))
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        share = (1 - np.abs(x - left - dx)) * (1 - np.abs(y - top - dy))
        inside = (left + dx >= 0) & (left + dx < width) & (top + dy >= 0) & (top + dy < height)
        where = ((top + dy) * width + left + dx)[inside]
        weight = share * belief
        for plane, values in zip(
            (covered, mass, *sums), (share, weight, -flow[..., 0] * weight, -flow[..., 1] * weight), strict=True
        ):
            plane += np.bincount(where, values[inside], height * width)
    reached = (covered > 0.25).reshape(height, width)
    planes = np.stack([mass, *sums], -1).reshape(height, width, 3) * reached[..., None]
    return _filled(planes, reached), reached


def _filled(planes: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """Weighted flow float64 [H, W, 3] (weight, dx, dy) divided by its weight, holes filled by ever wider means."""
    flow = planes[..., 1:] / np.maximum(planes[..., :1], 1e-9)
    empty, spread = ~reached, 3
    while empty.any() and spread <= 2 * max(reached.shape):
        around = cv2.blur(planes, (spread, spread))
        hit = empty & (around[..., 0] > 1e-9)
        flow[hit] = around[hit, 1:] / around[hit, :1]
        empty &= ~hit
        spread = 2 * spread + 1
    return flow.astype(np.float32)


_ARRAYS = {"openpose": _pose, "labels": _labels, "flo-backward": _backward, "flo-forward": _forward}
