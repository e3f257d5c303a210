"""The page of a difference between two snapshots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from remot_data.report.html import Html, count, markup, plural, short, table, write_html

_LISTED = 500  # clips of a table


def write_page(found: Mapping[str, Any], out: Path) -> None:
    """Write one self-contained HTML page of what `remot_data.care.diff` found, as JSON."""
    title = "What changed"
    sections = [("sums", "Sums", _sums(found)), ("layers", "Layers", _layers(found))]
    for name, sign in (("added", "Clips added"), ("removed", "Clips removed")):
        sections.append((name, sign, _clips(found[name])))
    sections.append(("split", "Clips in another split", _splits(found["split"])))
    body = [
        markup("<header><h1>{}</h1><p>{} → {}</p></header><main>", title, found["a"], found["b"]),
        *(markup('<section id="{}"><h2>{}</h2>{}</section>', *section) for section in sections if section[2]),
        markup("</main>"),
    ]
    write_html(out, title, body)


def _sums(found: Mapping[str, Any]) -> Html:
    rows: list[tuple[Any, ...]] = []
    for name in ("clips", "frames", "passing"):
        if found[name]:
            old, new = found[name]
            rows.append(({"passing": "frames that pass"}.get(name, name), count(old), count(new), f"{new - old:+,}"))
    for name, words in (("where", "filter"), ("policy", "split policy")):
        if found[name]:
            rows.append((words, *(value or "none" for value in found[name]), ""))
    return table("Before and after", ["", "before", "after", "change"], rows, numbers=[1, 2, 3])


def _layers(found: Mapping[str, Any]) -> Html:
    if not found["layers"]:
        return markup("<p>The layers are the same.</p>")
    rows = []
    for x in found["layers"]:
        agreement = "not compared" if x["agreement"] is None else short(x["agreement"])
        rows.append((x["kind"], x["a"] or "none", x["b"] or "none", agreement))
    return table("Layers that are others", ["kind", "before", "after", "agreement"], rows, numbers=[3])


def _clips(clips: Mapping[str, int]) -> Html:
    if not clips:
        return Html("")
    shown = list(clips.items())[:_LISTED]
    about = f"{plural(len(clips), 'clip')}, {plural(sum(clips.values()), 'frame')}"
    return table(about + _more(clips), ["clip", "frames"], [(c, count(n)) for c, n in shown], numbers=[1])


def _splits(clips: Mapping[str, Iterable[str]]) -> Html:
    if not clips:
        return Html("")
    rows = [(clip, *(name or "train" for name in pair)) for clip, pair in list(clips.items())[:_LISTED]]
    return table(plural(len(clips), "clip") + _more(clips), ["clip", "before", "after"], rows)


def _more(clips: Mapping[str, Any]) -> str:
    return f"; the first {_LISTED} are listed" if len(clips) > _LISTED else ""
