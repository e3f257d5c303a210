"""The contact sheet: some clips as films of their layers side by side, with their background, crop and facts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from remot_data import media
from remot_data.records import Clip
from remot_data.report.curves import curves
from remot_data.report.html import Html, count, data_url, facts, join, legend, markup, plural, short
from remot_data.report.view import View, evenly, known

# A clip is shown with at most so many frames, about so many a second, at most so high, in this quality of x264.
_SHOWN, _RATE, _HEIGHT, _CRF = 90, 30, 256, 29


def contact_sheet(view: View, most: int) -> Html:
    if not view.clips:
        return markup("<p>There are no clips.</p>")
    chosen = [view.clips[i] for i in evenly(len(view.clips), most)]
    some = (
        f"All {plural(len(chosen), 'clip')}"
        if len(chosen) == len(view.clips)
        else (f"{len(chosen)} of {plural(len(view.clips), 'clip')}, chosen evenly")
    )
    notes = [f"{some}. Hover over a clip or press play; every clip runs in a loop."]
    if view.snapshot.name:
        notes.append(f"The layers are those of the snapshot {view.snapshot.name}.")
    notes += [layer.about_pictures for layer in view.drawn if layer.about_pictures]
    notes += [f"The {kind} layer is not shown: no kind of layer is called so here." for kind in view.unknown]
    keys = [legend(names) for layer in view.drawn if (names := layer.legend(view.schema[layer.name]))]
    return join(
        [markup('<p class="soft">{}</p>{}', " ".join(notes), join(keys)), *(_clip(view, clip) for clip in chosen)]
    )


def _clip(view: View, clip: Clip) -> Html:
    which = _shown(clip)
    names, strips = _strips(view, clip, which)
    film = _film(names, strips, (clip.fps or _RATE) / which.step, clip.id)
    return markup(
        '<article class="clip"><h3>{}</h3><div class="show" style="--n:{}">{}{}</div>{}'
        '<dl class="facts">{}</dl></article>',
        clip.id,
        len(names),
        film,
        join(_stills(view, clip)),
        curves(view.scores.get(clip.id, {}), which, view.snapshot.where),
        facts(_about(view, clip, which)),
    )


def _shown(clip: Clip) -> range:
    """The frames of a clip that its film shows: from the first on, thinned out where they come fast."""
    return range(0, clip.frames, max(1, round(clip.fps / _RATE)))[:_SHOWN]


def _strips(view: View, clip: Clip, which: range) -> tuple[list[str], list[np.ndarray]]:
    """The names of the views of a clip, and each frame's views side by side, uint8 [H, n * W, 3]."""
    frames = view.store.read_arrays("frames", "frames", clip, which=which)["frames"]
    shown = {"frame": frames}
    for layer in (layer for layer in view.drawn if not layer.per_clip):
        arrays = view.arrays(layer.name, clip, which)
        if arrays is not None:
            shown[layer.name] = layer.pictures(frames, arrays, view.schema[layer.name])
        for info in (info for info in view.beside if info.kind == layer.name):
            if clip.id in view.store.index(info.folder, clip.shard).spans:
                arrays = view.store.read_arrays(info.folder, info.kind, clip, which=which)
                shown[f"{info.kind} {info.id}"] = layer.pictures(frames, arrays, info.schema)
    return list(shown), [_fitted(np.hstack(strip), len(shown)) for strip in zip(*shown.values(), strict=True)]


def _fitted(strip: np.ndarray, panels: int) -> np.ndarray:
    """A strip no higher than a panel of the page, and even in size, as H.264 wants it."""
    height, width = strip.shape[0], strip.shape[1] // panels
    factor = min(1.0, _HEIGHT / height)
    size = round(width * factor / 2) * 2 * panels, round(height * factor / 2) * 2
    return strip if size == strip.shape[1::-1] else cv2.resize(strip, size, interpolation=cv2.INTER_AREA)


def _film(names: Sequence[str], strips: Sequence[np.ndarray], fps: float, clip: str) -> Html:
    height, width = strips[0].shape[:2]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        with media.VideoWriter(path, fps, (height, width), crf=_CRF) as writer:
            for strip in strips:
                writer.write(strip)
        film = path.read_bytes()
    return markup(
        '<div class="film"><ol class="names">{}</ol><video data-hover muted loop playsinline controls preload="none" '
        'width="{}" height="{}" aria-label="{}" poster="{}" src="{}"></video></div>',
        join(markup("<li>{}</li>", name) for name in names),
        width,
        height,
        f"Clip {clip}: {', '.join(names)} side by side",
        data_url("image/jpeg", _jpeg(strips[len(strips) // 2])),
        data_url("video/mp4", film),
    )


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 78])[1].tobytes()


def _stills(view: View, clip: Clip) -> Iterator[Html]:
    """The pictures of what a clip has once."""
    for layer in (layer for layer in view.drawn if layer.per_clip):
        arrays = view.arrays(layer.name, clip, [0])
        if arrays is None:
            continue
        first = view.store.read_arrays("frames", "frames", clip, which=[0])["frames"]
        image = _fitted(layer.pictures(first, arrays, view.schema[layer.name])[0], 1)
        yield markup(
            '<figure class="still"><figcaption>{}</figcaption><img width="{}" height="{}" alt="{}" src="{}"></figure>',
            layer.caption(arrays),
            image.shape[1],
            image.shape[0],
            f"{layer.name.capitalize()} of clip {clip.id}",
            data_url("image/jpeg", _jpeg(image)),
        )


def _about(view: View, clip: Clip, which: range) -> list[tuple[str, Any]]:
    base = clip.time_base[0] / clip.time_base[1]
    span = f"{clip.pts[0]} – {clip.pts[-1]}, {clip.pts[0] * base:.2f} – {clip.pts[-1] * base:.2f} s"
    x, y, width, height = clip.crop
    shown = (
        "all"
        if len(which) == clip.frames
        else f"{which[0]} – {which[-1]}" + (f", one in {which.step}" if which.step > 1 else "")
    )
    means = [
        (f"{name.replace('_', ' ')}, mean", short(float(told.mean())) if len(told := known(name, v)) else "unknown")
        for name, v in view.scores.get(clip.id, {}).items()
    ]
    return [
        ("crop", _crop(clip)),
        (
            "in the source",
            f"{width:.0f}×{height:.0f} at {x:.0f}, {y:.0f} of {clip.source_size[0]}×{clip.source_size[1]}",
        ),
        ("video", clip.video),
        ("person", clip.person),
        ("split", clip.split or "train"),
        ("frames", f"{count(clip.frames)} at {clip.fps:.4g} a second"),
        ("shown", shown),
        (f"PTS, 1/{clip.time_base[1] / clip.time_base[0]:g} s", span),
        *([("licence", clip.licence)] if clip.licence else []),
        *([("from", clip.url)] if clip.url else []),
        *means,
    ]


def _crop(clip: Clip) -> Html:
    """A sketch of the crop on the picture it was cut from."""
    wide, high = clip.source_size
    x, y, width, height = clip.crop
    left, top = min(0.0, x), min(0.0, y)
    right, bottom = max(float(wide), x + width), max(float(high), y + height)
    return markup(
        '<svg class="crop" viewBox="{} {} {} {}" role="img" aria-label="The crop on the source picture">'
        '<rect class="picture" width="{}" height="{}"/><rect class="cut" x="{}" y="{}" width="{}" height="{}"/></svg>',
        *(left, top, right - left, bottom - top, wide, high, x, y, width, height),
    )
