"""The page of a comparison: how two layers agree, clip by clip, and the frames where they differ most, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from remot_data.records import Clip, LayerInfo
from remot_data.report.html import Html, count, data_url, join, markup, short, table, write_html
from remot_data.store import Store
from remot_data.store import layers as layer_kinds

if TYPE_CHECKING:
    from remot_data.records import Comparison

# Frames shown; at most this many of one clip and so far apart, so that one bad moment does not hide the others.
_WORST, _OF_ONE_CLIP, _APART = 24, 3, 5


def write_page(
    store: Store, made: Comparison, infos: Sequence[LayerInfo], rows: Mapping[str, np.ndarray], out: Path
) -> None:
    """Write one self-contained HTML page; `rows` are the columns of the table of `made`."""
    title = f"{made.layer}: {made.a} and {made.b}"
    body = [
        markup("<header><h1>{}</h1><p>{}</p></header><main>", title, store.url),
        markup('<section id="sum"><h2>Agreement</h2>{}</section>', _sum(made)),
        markup('<section id="worst"><h2>Where they differ most</h2>{}</section>', _worst(store, made, infos, rows)),
        markup('<section id="clips"><h2>Clips</h2>{}</section></main>', _clips(rows)),
    ]
    write_html(out, title, body)


def _sum(made: Comparison) -> Html:
    rows = [("agreement", short(made.agreement)), *((k, short(v)) for k, v in made.measures.items())]
    meaning = layer_kinds.kind(made.layer).about_agreement
    about = markup("<p>{} frames of {} clips. {}</p>", count(made.frames), count(made.clips), meaning)
    return join([about, table("Means over all frames", ["measure", "value"], rows, numbers=[1])])


def _clips(rows: Mapping[str, np.ndarray]) -> Html:
    names = [n for n in rows if n not in ("clip", "frame")]
    clips = rows["clip"].astype(str)
    found = []
    for clip in np.unique(clips):
        here = clips == clip
        values = [_mean(rows[n][here]) for n in names]
        found.append((values[0], [clip, count(int(here.sum())), *(short(v) if v == v else "–" for v in values)]))
    found.sort(key=lambda item: (item[0] == item[0], item[0]))
    head = ["clip", "frames", *(n.replace("_", " ") for n in names)]
    return table("Worst first", head, [row for _, row in found], numbers=range(1, len(head)))


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def _worst(store: Store, made: Comparison, infos: Sequence[LayerInfo], rows: Mapping[str, np.ndarray]) -> Html:
    chosen = _choose(rows)
    if not chosen:
        return markup("<p>There is no frame to compare.</p>")
    figures, is_drawn = [], layer_kinds.kind(made.layer).is_drawn
    for i in chosen:
        clip, t = store.clip[str(rows["clip"][i])], int(rows["frame"][i])
        frames = store.read_arrays("frames", "frames", clip, which=[t])["frames"]
        views = [_view(store, info, clip, t, frames) for info in infos] if is_drawn else []
        caption = f"{clip.key(t)}: agreement {short(float(rows['agreement'][i]))}"
        figures.append(
            markup(
                '<figure class="still"><figcaption>{}</figcaption>'
                '<img style="width:100%;height:auto" alt="{}" src="{}"></figure>',
                caption,
                f"The frame, {made.a} and {made.b}" if is_drawn else "The frame",
                data_url("image/jpeg", _jpeg(np.hstack([frames[0], *views]))),
            )
        )
    shown = (
        f"The frame, then {made.a}, then {made.b}." if is_drawn else "The frames; layers of this kind are not drawn."
    )
    note = markup('<p class="soft">{}</p>', shown)
    return join(
        [
            note,
            markup(
                '<div style="display:grid;grid-template-columns:repeat(auto-fill,minmax(24rem,1fr));gap:1rem">{}</div>',
                join(figures),
            ),
        ]
    )


def _choose(rows: Mapping[str, np.ndarray]) -> list[int]:
    """Rows of the frames to show, worst first."""
    agreement = rows["agreement"]
    shown: dict[str, list[int]] = {}
    chosen: list[int] = []
    for i in np.argsort(agreement, kind="stable"):
        clip = str(rows["clip"][i])
        if np.isnan(agreement[i]) or len(chosen) == _WORST:
            break
        near = any(abs(int(rows["frame"][i]) - t) < _APART for t in shown.get(clip, ()))
        if not near and len(shown.get(clip, ())) < _OF_ONE_CLIP:
            shown.setdefault(clip, []).append(int(rows["frame"][i]))
            chosen.append(int(i))
    return chosen


def _view(store: Store, info: LayerInfo, clip: Clip, t: int, frames: np.ndarray) -> np.ndarray:
    arrays = store.read_arrays(info.folder, info.kind, clip, which=[t])
    return layer_kinds.kind(info.kind).pictures(frames, arrays, info.schema, common=True)[0]


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
