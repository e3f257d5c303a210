"""Layers from what other tools have made.

A layer is imported from files of whole pictures of the source videos. They are brought into the store's frames through
the crop of each clip, and become an ordinary layer, whose id names the bytes it was made from.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from remot_data import media
from remot_data.annotating.annotate import switch
from remot_data.detectors.dis import one_opencv_thread
from remot_data.engine import Progress, open_engine
from remot_data.exchange import flo, labels, openpose
from remot_data.exchange.places import FORMS, Misfit, Numbering, Place, Unusable, clip_files, find_places, look_anew
from remot_data.ingest.inputs import load_manifest
from remot_data.media import sandbox
from remot_data.records import Clip, LayerInfo, Receipt, Record, digest
from remot_data.schemas import keypoint_set, label_set
from remot_data.store import Store, StoreError, open_store
from remot_data.store import layers as layer_kinds
from remot_data.store.currency import is_current, metas, saw
from remot_data.store.layers import LayerError
from remot_data.store.shards import Sample, encoded

# Form of the files -> what makes the arrays of a clip out of them.
_ARRAYS: dict[str, Callable[[Store, Clip, list[str | None], str], dict[str, np.ndarray]]] = {
    "openpose": openpose.arrays,
    "labels": labels.arrays,
    "flo-backward": flo.backward,
    "flo-forward": flo.forward,
}
# Raise when the same files give other arrays.
IMPORT_VERSION = "1"


@dataclass(frozen=True)
class ImportSummary(Record):
    """What `import_layer` did.

    `absent` counts frames without a file of keypoints, and `nobody` all in which nobody is, those among them; `failed`
    are clips the layer could not be made for, each with the reason, and `refused` those of them whose files are of
    other frames than those of the video. Where there are any, no snapshot was switched.
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
    nobody: int = 0
    refused: list[str] = field(default_factory=list)


def import_layer(
    store: str | Store,
    kind: str,
    folder: str | os.PathLike[str] | Mapping[str, str],
    *,
    form: str,
    name: str | None = None,
    schema: str | None = None,
    first: int | None = None,
    fps: float | None = None,
    missing: str = "refuse",
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
        first, fps, missing: see `Numbering`. With `fps`, each frame takes the file that is next to it in time.
        snapshot: name of a snapshot to make or to switch to the new layer, unless the files of a video do not fit it.
        wait: if somebody else is making this layer, wait until they are done.

    Raises:
        StoreError: for arguments that do not fit, or when not one clip has what it needs (names the first reason).
    """
    store = store if isinstance(store, Store) else open_store(store)
    started = time.monotonic()
    _check_arguments(kind, form, schema)
    numbering = Numbering(first, fps, missing)
    look_anew()
    places, lost = find_places(store, folder, form)
    with open_engine(workers, scheduler) as engine:
        if engine.here:
            sandbox.prepare()
        tasks = [
            {"url": store.url, "shard": shard, "form": form, "places": found, "numbering": numbering.to_json()}
            for shard in range(store.shard_count)
            if (found := {clip.id: places[clip.id] for clip in store.shard_clips(shard) if clip.id in places})
        ]
        looked = list(engine.map(look_at_files, tasks, "look at files", progress=progress))
        refused = _refused_videos(store, looked)
        made = _Import(
            store, kind, form, _schema(kind, schema, looked), name or form, numbering, looked, {**lost, **refused}
        )
        with store.lock(made.info.id, wait), store.log("receipts") as log:
            store.files.sweep(made.folder)
            todo = [s for s in range(store.shard_count) if not made.is_current(s)]
            tasks = [made.task(shard, places) for shard in todo]
            _ = list(engine.map(import_shard, tasks, f"import {kind}", log=log, progress=progress))
            failed = made.finish()
    if snapshot is not None and not refused:
        switch(store, snapshot, {kind: made.info.id})
    frames = sum(clip.frames for clip in store.planned if clip.id not in failed)
    absent, nobody = (sum(result[name] for result in looked) for name in ("absent", "nobody"))
    seconds = round(time.monotonic() - started, 3)
    return ImportSummary(
        store.url,
        kind,
        made.info.id,
        store.shard_count,
        len(todo),
        frames,
        absent,
        seconds,
        failed,
        nobody,
        sorted(refused),
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


def _check_arguments(kind: str, form: str, schema: str | None) -> None:
    if form not in FORMS or FORMS[form][0] != kind:
        known = ", ".join(f"{form} ({k})" for form, (k, _) in FORMS.items())
        raise StoreError(f"{kind!r} is not imported from {form!r}; known forms are {known}")
    if kind == "parsing":
        if schema is None:
            raise StoreError("say which set the labels are of: --schema cihp20, lip20, atr18, ...")
        label_set(schema)
    elif kind == "pose" and schema is not None:
        keypoint_set(schema)


def _schema(kind: str, schema: str | None, looked: Sequence[Mapping[str, Any]]) -> str:
    """The schema of a layer: as given, or as the files show it."""
    if kind == "flow":
        return "backward"
    if kind == "parsing":
        return str(schema)
    return openpose.schema_of(sorted({count for result in looked for count in result["points"]}), schema)


def _refused_videos(store: Store, looked: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """All clips of videos whose files are of other frames, each with the reason."""
    reasons = {clip: result["failed"][clip] for result in looked for clip in result["misfits"]}
    of_video = {clip.video: reasons[clip.id] for clip in reversed(store.planned) if clip.id in reasons}
    return {clip.id: of_video[clip.video] for clip in store.planned if clip.video in of_video}


class _Import:
    """One layer being imported: its id, its tasks, and what is there of it."""

    def __init__(
        self,
        store: Store,
        kind: str,
        form: str,
        schema: str,
        name: str,
        numbering: Numbering,
        looked: Sequence[Mapping[str, Any]],
        lost: Mapping[str, str],
    ) -> None:
        self.store, self.numbering = store, numbering
        self.lost = {**lost, **{clip: why for result in looked for clip, why in result["failed"].items()}}
        self.digests = {c: sha for result in looked for c, sha in result["digests"].items() if c not in self.lost}
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
            "numbering": self.numbering.to_json(),
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


def look_at_files(
    url: str, shard: int, form: str, places: Mapping[str, Sequence[str]], numbering: Mapping[str, Any]
) -> dict[str, Any]:
    """The task: digests of the files of each clip of a shard, and what is missing.

    Returns plain values: `digests` and `failed` by clip, `misfits` among those, `absent` frames without a file,
    `nobody` frames without a person, `points` a person.
    """
    out: dict[str, Any] = {"digests": {}, "failed": {}, "misfits": [], "absent": 0, "nobody": 0, "points": []}
    points: set[int] = set()
    look_anew()
    for clip in Store(url).shard_clips(shard):
        if clip.id not in places:
            continue
        try:
            files = clip_files(clip, places[clip.id], form, Numbering.from_json(numbering))
            if form == "openpose":
                sizes, nobody = openpose.look(clip, files)
                points |= sizes
                out["nobody"] += nobody
            out["digests"][clip.id] = _digest_of(files)
            out["absent"] += files.count(None)
        except (Unusable, OSError, media.VideoError) as error:
            out["failed"][clip.id] = str(error)
            out["misfits"] += [clip.id] * isinstance(error, Misfit)
    out["points"] = sorted(points)
    return out


def _digest_of(files: Sequence[str | None]) -> str:
    sha = hashlib.sha256()
    for path in files:
        sha.update(hashlib.sha256(Path(path).read_bytes() if path else b"").digest())
    return sha.hexdigest()


def import_shard(
    url: str,
    shard: int,
    form: str,
    schema: str,
    folder: str,
    places: Mapping[str, Sequence[str]],
    digests: Mapping[str, str],
    lost: Mapping[str, str],
    numbering: Mapping[str, Any],
) -> Receipt:
    """The task: make one shard of an imported layer. Harmless to run twice."""
    store, kind = Store(url), FORMS[form][0]
    failed = dict(lost)
    started = time.perf_counter()
    clips = store.shard_clips(shard)
    look_anew()

    def samples() -> Iterator[Sample]:
        for clip in clips:
            if clip.id in failed:
                continue
            try:
                files = clip_files(clip, places[clip.id], form, Numbering.from_json(numbering))
                if _digest_of(files) != digests[clip.id]:
                    raise Unusable("its files changed while they were imported; run the import again")
                arrays = _ARRAYS[form](store, clip, files, schema)
                layer_kinds.kind(kind).check(arrays, clip.frames, store.size)
            except (Unusable, LayerError, OSError, media.VideoError) as error:
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
