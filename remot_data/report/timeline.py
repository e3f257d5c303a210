"""Who was where in the videos, and what became of it: shots, persons as bars, what was kept or refused, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from remot_data.records import Clip
from remot_data.report.errors import reading
from remot_data.report.html import Html, data_url, join, legend, markup, plural
from remot_data.report.view import SCAN, View, evenly

_MOST = 12  # videos
_MOST_TRACKS = 12  # of a video
_FACE = 56  # pixels of the height of a picture of a person, times two for sharp screens
_SPAN = re.compile(r"frames (\d+) to (\d+): (.*)")


def timelines(view: View) -> Html:
    """The time lines of some videos, those first in which something was refused or several persons were seen."""
    lines = [line for line in view.inputs if line.get("tracks") is not None]
    if not lines:
        return markup("")
    telling = sorted(lines, key=lambda line: not (line["rejects"] or len(line["tracks"]) > 1))
    many = sum(bool(line["rejects"]) or len(line["tracks"]) > 1 for line in lines)
    chosen = [telling[i] for i in evenly(many, _MOST)] if many > _MOST else telling[:_MOST]
    some = (
        f"All {plural(len(lines), 'video')}" if len(chosen) == len(lines) else f"{len(chosen)} of {len(lines)} videos"
    )
    note = f"{some}; those come first that show several persons, or of which something was refused."
    keys = legend(
        [("kept in a clip", "kept"), ("refused", "refused"), ("in no clip", "refused faint"), ("shot", "left")]
    )
    with reading(f"{view.store.url}/ledger/{SCAN}"):
        drawn = [_video(view, line) for line in chosen]
    return markup('<p class="soft">{}</p>{}{}', note, keys, join(drawn))


def _video(view: View, line: Mapping[str, Any]) -> Html:
    frames, seconds = max(line["video"]["frames"], 1), line["video"]["seconds"]
    clips = {clip.id: clip for clip in view.clips if clip.video == line["video"]["id"]}
    shots = [(a, b, "left", f"shot {n}: frames {a} to {b - 1}") for n, (a, b) in enumerate(line["shots"])]
    rows = [_row("shots", None, shots, frames)]
    for one in line["tracks"][:_MOST_TRACKS]:
        parts = [_part(part, clips) for part in one["parts"]]
        shown = next((clips[part[2]] for part in one["parts"] if part[2] in clips), None)
        name = one["person"] or line["video"]["person"] or "main person"
        label = name.removeprefix(f"{line['video']['id']}-") + (
            f", shot {one['shot']}" if len(line["shots"]) > 1 else ""
        )
        rows.append(_row(label, _face(view, shown), parts, frames))
    if hidden := len(line["tracks"]) - _MOST_TRACKS:
        rows += [_row(f"and {hidden} more", None, [], frames)] if hidden > 0 else []
    lost = [(r["code"], _SPAN.fullmatch(r["detail"])) for r in line["rejects"]]
    refused = [(int(m[1]), int(m[2]) + 1, code, m[3]) for code, m in lost if m]
    bars = [(a, b, "refused faint", f"frames {a} to {b - 1}: {code} ({why})") for a, b, code, why in refused]
    rows.append(_row("in no clip", None, bars, frames))
    words = [
        markup("<li>frames {} to {}: <code>{}</code>, {}</li>", a, b - 1, code, why) for a, b, code, why in refused
    ]
    words += [
        markup("<li>{}, frames {} to {}: <code>{}</code>, {}</li>", one["person"] or "main person", a, b - 1, code, why)
        for one in line["tracks"][:_MOST_TRACKS]
        for a, b, code, why in one["parts"]
        if code not in clips and code not in {c["id"] for c in line["clips"]}
    ]
    reasons = markup("<details><summary>Why ({})</summary><ul>{}</ul></details>", len(words), join(words))
    return markup(
        '<article class="clip"><h3>{}</h3><p class="path soft">{}</p><div class="line">{}{}</div>{}</article>',
        line["video"]["id"],
        line["video"]["path"],
        join(rows),
        _axis(seconds),
        reasons if words else markup(""),
    )


def _part(part: Sequence[Any], clips: Mapping[str, Clip]) -> tuple[int, int, str, str]:
    start, stop, what, why = part
    span = f"frames {start} to {stop - 1}"
    if why:
        return start, stop, "refused", f"{span}: {what} ({why})"
    return (
        (start, stop, "kept", f"{span}: clip {what}") if what in clips else (start, stop, "refused", f"{span}: {what}")
    )


def _row(name: str, face: Html | None, parts: Sequence[tuple[int, int, str, str]], frames: int) -> Html:
    bars = (
        markup(
            '<span class="{}" style="left:{}%;width:{}%" title="{}"></span>',
            look,
            f"{100 * start / frames:.2f}",
            f"{100 * (stop - start) / frames:.2f}",
            title,
        )
        for start, stop, look, title in parts
    )
    told = "; ".join(title for *_, title in parts) or "nothing"
    return markup(
        '<span class="who">{}{}</span><div class="track" role="img" aria-label="{}">{}</div>',
        face or markup(""),
        name,
        f"{name}: {told}",
        join(bars),
    )


def _axis(seconds: float) -> Html:
    marks = (markup("<span>{} s</span>", f"{seconds * i / 4:.3g}") for i in range(5))
    return markup('<span></span><div class="axis" aria-hidden="true">{}</div>', join(marks))


def _face(view: View, clip: Clip | None) -> Html | None:
    """A small picture of the person out of the middle of a clip."""
    if clip is None:
        return None
    middle = clip.frames // 2
    frame = view.store.read_arrays("frames", "frames", clip, which=[middle])["frames"][0]
    if (seen := view.store.boxes(clip)) is not None:
        own = seen.in_frames(clip, frame.shape[:2])[0][middle]
        if np.isfinite(own).all():
            x0, y0, x1, y1 = (int(v) for v in (*np.floor(own[:2]).clip(0), *np.ceil(own[2:])))
            frame = frame[y0 : max(y1, y0 + 2), x0 : max(x1, x0 + 2)]
    height, width = frame.shape[:2]
    size = max(1, round(2 * _FACE * width / height)), 2 * _FACE
    image = cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    return markup(
        '<img class="face" width="{}" height="{}" alt="{}" src="{}">',
        size[0] // 2,
        _FACE,
        f"Frame {middle} of clip {clip.id}",
        data_url("image/jpeg", data),
    )
