"""A clip as a video file, with layers drawn beside its frames, at its own times and with its sound."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from remot_data import media
from remot_data.media import VideoError, in_child
from remot_data.media.sandbox import ChildError
from remot_data.records import HW, Clip, LayerInfo
from remot_data.store import Store, StoreError
from remot_data.store import layers as layer_kinds
from remot_data.store.disk import replacing

_AT_ONCE = 64  # frames


def write_film(
    store: Store,
    clip: str,
    out: str | os.PathLike[str],
    *,
    layers: Sequence[str] | None = None,
    snapshot: str = "main",
    sound: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> str:
    """Write a clip with layers side by side; returns what is shown, in words.

    Args:
        clip: its id, or the unique beginning of one.
        layers: kinds of the snapshot, or ``kind=id`` for any layer; all of the snapshot that have pictures by default.
        sound: with the sound of the source, where that is there and has one.

    Raises:
        StoreError: for a clip or a layer that is not there, or a kind without pictures.
    """
    found = _clip(store, clip)
    chosen = store.snapshot(snapshot).layers if layers is None else dict(_named(store, snapshot, layers))
    infos = [store.layer(kind, chosen[kind]) for kind in layer_kinds.ordered(chosen) if layer_kinds.is_known(kind)]
    plain = [info.kind for info in infos if not layer_kinds.kind(info.kind).is_drawn]
    if plain and layers is not None:
        raise StoreError(f"{', '.join(plain)} layers have no picture")
    shown = [info for info in infos if info.kind not in plain]
    missing = [info.kind for info in shown if found.id not in store.index(info.folder, found.shard).spans]
    shown = [info for info in shown if info.kind not in missing]
    panels = 1 + len(shown)
    height, width = (side + side % 2 for side in store.size)

    def strips() -> Iterator[np.ndarray]:
        for start in range(0, found.frames, _AT_ONCE):
            which = range(start, min(start + _AT_ONCE, found.frames))
            yield from _strips(store, found, shown, which, (height, width))
            if progress:
                progress("frames", which[-1] + 1, found.frames)

    heard = write_frames(Path(out), found, range(found.frames), strips(), (height, width * panels), sound)
    names = ", ".join(["frames", *(f"{info.kind} ({info.id})" for info in shown)])
    lacking = f"; it has no {', '.join(missing)}" if missing else ""
    return f"clip {found.id}, {found.frames} frames: {names}{' and sound' if heard else ''}{lacking}"


def _strips(store: Store, clip: Clip, infos: Sequence[LayerInfo], which: range, size: HW) -> Iterator[np.ndarray]:
    """Each frame with its layers side by side, uint8 [H, n * W, 3], every panel of an even size."""
    frames = store.read_arrays("frames", "frames", clip, which=which)["frames"]
    views: list[Sequence[np.ndarray]] = [frames]
    for info in infos:
        kind = layer_kinds.kind(info.kind)
        arrays = store.read_arrays(info.folder, info.kind, clip, which=[0] if kind.per_clip else which)
        pictures = kind.pictures(frames[:1] if kind.per_clip else frames, arrays, info.schema)
        views.append([pictures[0]] * len(frames) if kind.per_clip else pictures)
    edge = [(0, size[0] - frames.shape[1]), (0, size[1] - frames.shape[2]), (0, 0)]
    for panels in zip(*views, strict=True):
        yield np.concatenate([np.pad(panel, edge, mode="edge") for panel in panels], 1)


def write_frames(
    out: Path, clip: Clip, which: range, pictures: Iterable[np.ndarray], size: HW, sound: bool = True
) -> bool:
    """Write pictures of some consecutive frames of a clip as H.264, at the times of these frames.

    Args:
        pictures: uint8 [H, W, 3] of `size`, which is even, one for each of `which`.
        sound: with the sound of the source, where that is there and has one.

    Returns:
        Whether there is sound in it.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "clip.mp4")
        with media.VideoWriter(made, clip.fps or 30.0, size) as writer:
            for picture in pictures:
                writer.write(picture)
        pts = clip.pts.array()[which.start : which.stop]
        if len(pts) > 1:
            media.retime(made, made, (pts - pts[0]).tolist(), clip.time_base)
        heard = _heard(clip, int(pts[0]), made, Path(folder)) if sound else None
        with replacing(out) as file, open(heard or made, "rb") as source:
            shutil.copyfileobj(source, file)
    return heard is not None


def _heard(clip: Clip, first: int, made: Path, folder: Path) -> Path | None:
    """The video with the sound of its source from a time on; None where the source is not there, or has none."""
    try:
        source = in_child.probe(clip.path)
        if not source.has_audio:
            return None
        start = (first - source.first_pts) * clip.time_base[0] / clip.time_base[1]
        in_child.mux_audio(made, clip.path, folder / "heard.mp4", max(start, 0.0))
    except (VideoError, media.EncodeError, ChildError, OSError):
        return None
    return folder / "heard.mp4"


def _clip(store: Store, name: str) -> Clip:
    if name in store.clip:
        return store.clip[name]
    found = [clip for clip in store.clips if clip.id.startswith(name)]
    if len(found) != 1:
        some = [clip.id for clip in found or store.clips]
        there = ", ".join(some[:5]) + (" and others" if len(some) > 5 else "")
        raise StoreError(f"{store.url} has no single clip called {name!r}; there is {there}")
    return found[0]


def _named(store: Store, snapshot: str, layers: Sequence[str]) -> Sequence[tuple[str, str]]:
    """Kind and id of each layer that is asked for."""
    known = store.snapshot(snapshot).layers if any("=" not in name for name in layers) else {}
    found = []
    for name in layers:
        kind, _, layer_id = name.partition("=")
        if not layer_id and kind not in known:
            raise StoreError(f"snapshot {snapshot!r} has no {kind} layer; it has {', '.join(known) or 'none'}")
        found.append((kind, store.layer(kind, layer_id or known[kind]).id))
    return found
