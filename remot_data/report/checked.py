"""The page of `remot check`: which rules fired, on which clips, what to do, and the worst frames with their poses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from remot_data.records import Snapshot
from remot_data.report.html import Html, bar, count, data_url, join, markup, plural, short, table, write_html
from remot_data.store import Store
from remot_data.store import layers as layer_kinds

_CLIPS, _OF_A_CLIP = 12, 4  # that are shown in pictures, and frames of each
_LISTED = 200  # clips in the table


def write_page(store: Store, found: Mapping[str, Any], rules: Sequence[Mapping[str, str]], out: Path) -> None:
    """Write one self-contained HTML page.

    Args:
        found: what `remot_data.care.check.Report.to_json` gives.
        rules: the table of rules: name, what, limit, why, cure, and `of`: ``frames``, ``clips`` or ``sets``.
    """
    title = "Check of " + (store.url.rstrip("/").rsplit("/", 1)[-1] or store.url)
    sections = [
        ("rules", "What was found", _rules(found, rules)),
        ("filter", "The filter that drops it", _filter(found)),
        ("worst", "Worst frames", _worst(store, found)),
        ("clips", "Clips, worst first", _clips(found)),
    ]
    body = [
        markup(
            '<header><h1>{}</h1><p class="path soft">Store <span class="id">{}</span></p></header>', title, store.url
        ),
        markup("<main>"),
        *(markup('<section id="{}"><h2>{}</h2>{}</section>', *section) for section in sections),
        markup("</main>"),
    ]
    write_html(out, title, body)


def _rules(found: Mapping[str, Any], rules: Sequence[Mapping[str, str]]) -> Html:
    of_sets = {fired["rule"]: fired for fired in found["whole"]}
    rows = []
    for rule in rules:
        name = rule["name"]
        if name in found["unjudged"]:
            state, what = "not judged", found["unjudged"][name]
        elif name in of_sets:
            state, what = "the set", _said(of_sets[name], rule)
        elif number := found["counts"].get(name, 0):
            state, what = plural(number, "clip"), f"{rule['what']} beyond {rule['limit']}: {rule['why']}"
        else:
            state, what = "none", rule["what"]
        badge = markup('<span class="badge {}">{}</span>', "warn" if name in found["counts"] else "plain", state)
        cure = rule["cure"] if name in found["counts"] else ""
        rows.append([markup("<code>{}</code>", name), badge, _with_code(what), _with_code(cure)])
    checked = f"{plural(found['checked'], 'clip')} with {plural(found['frames'], 'frame')}"
    sick = len(found["clips"])
    sound = found["checked"] - sick
    return join(
        [
            bar(
                [(f"{sound} sound", sound, "kept"), (f"{len(found['clips'])} not", len(found["clips"]), "refused")],
                checked,
            ),
            markup("<p>{} were checked; on {} of them a rule fired.</p>", checked, count(sick)),
            table("Rules", ["rule", "fired on", "what", "what to do"], rows),
        ]
    )


def _with_code(text: str) -> Html:
    """Text in which what stands between backticks is code."""
    parts = (markup("<code>{}</code>" if n % 2 else "{}", part) for n, part in enumerate(text.split("`")))
    return join(parts)


def _said(fired: Mapping[str, Any], rule: Mapping[str, str]) -> str:
    detail = f" ({fired['detail']})" if fired["detail"] else ""
    return f"{rule['what']}: {short(fired['value'])}{detail}, limit {rule['limit']}; {rule['why']}"


def _filter(found: Mapping[str, Any]) -> Html:
    if not found["filter"]:
        return markup("<p>No rule of frames fired: there is nothing to filter.</p>")
    if found["keeps"] == found["passes"]:
        told = "The filter of the snapshot <b>{}</b> leaves these frames out already: {} of {} pass it."
        passes = count(found["passes"]), count(found["frames"])
        return markup(f"<p>{told}</p>", found["snapshot"], *passes)
    return markup(
        "<p><code>{}</code></p><p>It keeps {} of {} frames; {} pass the filter of the snapshot <b>{}</b> as it is.</p>",
        found["command"],
        count(found["keeps"]),
        count(found["frames"]),
        count(found["passes"]),
        found["snapshot"],
    )


def _clips(found: Mapping[str, Any]) -> Html:
    rows = [
        [
            markup('<th scope=row><span class="id">{}</span></th>', sick["clip"]),
            sick["person"],
            count(sick["frames"]),
            short(sick["score"]),
            join((_fired(fired) for fired in sick["fired"]), markup("<br>")),
        ]
        for sick in found["clips"][:_LISTED]
    ]
    if not rows:
        return markup("<p>No rule fired on any clip.</p>")
    more = len(found["clips"]) - len(rows)
    rest = markup("<p>and {}.</p>", plural(more, "more clip")) if more else markup("")
    head = ["clip", "person", "frames", "score", "rules"]
    return join([table("The score adds up the shares of its frames that rules mark", head, rows, (2, 3)), rest])


def _fired(fired: Mapping[str, Any]) -> Html:
    detail = f" ({fired['detail']})" if fired["detail"] else ""
    return markup("<code>{}</code> {}{}, limit {}", fired["rule"], short(fired["value"]), detail, short(fired["limit"]))


def _worst(store: Store, found: Mapping[str, Any]) -> Html:
    snapshot = store.snapshot(found["snapshot"])
    figures = [figure for sick in found["clips"][:_CLIPS] for figure in _figures(store, snapshot, sick)]
    if not figures:
        return markup("<p>No rule fired on any clip.</p>")
    note = markup('<p class="soft">Each frame as it is, with its pose and with its labels.</p>')
    columns = "display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),1fr));gap:1rem"
    return join([note, markup('<div style="{}">{}</div>', columns, join(figures))])


def _figures(store: Store, snapshot: Snapshot, sick: Mapping[str, Any]) -> list[Html]:
    """Pictures of a clip's worst frames; of one where no rule of frames fired, of its middle."""
    rules: dict[int, list[str]] = {}
    for fired in sick["fired"]:
        for t in fired["frames"]:
            rules.setdefault(t, []).append(fired["rule"])
    middle = {sick["frames"] // 2: [fired["rule"] for fired in sick["fired"]]}
    chosen = sorted(rules, key=lambda t: (-len(rules[t]), t))[:_OF_A_CLIP]
    shown = {t: rules[t] for t in sorted(chosen)} or middle
    clip, which = store.clip[sick["clip"]], list(shown)
    frames = store.read_arrays("frames", "frames", clip, which=which)["frames"]
    views = [frames, *_views(store, snapshot, sick["clip"], which, frames)]
    return [
        markup(
            '<figure class="still"><figcaption>{}</figcaption><img alt="{}" src="{}"></figure>',
            f"{clip.key(t)}: {', '.join(names)}",
            f"Frame {t} of {clip.id}, with its pose and labels",
            data_url("image/jpeg", _jpeg(np.hstack([view[i] for view in views]))),
        )
        for i, (t, names) in enumerate(shown.items())
    ]


def _views(
    store: Store, snapshot: Snapshot, clip_id: str, which: Sequence[int], frames: np.ndarray
) -> list[Sequence[np.ndarray]]:
    """The frames with the pose drawn in, and with the labels, where there are such layers of the clip."""
    clip, out = store.clip[clip_id], []
    for kind in ("pose", "parsing"):
        folder = store.folders(snapshot).get(kind)
        if folder is not None and clip.id in store.index(folder, clip.shard).spans:
            arrays = store.read_arrays(folder, kind, clip, which=which)
            schema = store.layer(kind, snapshot.layers[kind]).schema
            out.append(layer_kinds.kind(kind).pictures(frames, arrays, schema))
    return out


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
