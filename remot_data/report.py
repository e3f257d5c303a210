"""One HTML page about a store, and about what was trained from it: no other file, no network, no library.

Everything that comes from outside (names, messages, numbers) goes through `_html`, which escapes it; the page
itself forbids all but its own script and embedded data.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from html import escape
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from remot_data import layers as layer_kinds
from remot_data import render, video
from remot_data.annotate import LEDGER
from remot_data.records import KINDS, REASONS, Clip, Reject, Snapshot
from remot_data.sampling import split_mask
from remot_data.schemas import convert_labels, label_set
from remot_data.store import Store, StoreError, open_store
from remot_data.stream import where
from remot_data.verify import stats

_SCAN = "ledger/videos.jsonl"
_REJECTS = "ledger/rejects.parquet"

# A clip is shown with at most so many frames, about so many a second, at most so high, in this quality of x264.
_SHOWN, _RATE, _HEIGHT, _CRF = 90, 30, 256, 29
_LABELLED = 160
_EMBEDDED = 24 << 20
_OPEN_REJECTS = 30
# Width of a chart, in the units of its own drawing; a chart is 96 high.
_WIDE = 220

# With a mouse a clip plays while it is pointed at, and shows its controls only then or in focus.
_SCRIPT = """
if (matchMedia("(any-hover: hover)").matches)
  for (const film of document.querySelectorAll("video[data-hover]")) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const controls = (on) => () => { film.controls = on || document.activeElement === film; };
    film.controls = false;
    film.tabIndex = 0;
    film.addEventListener("pointerenter", controls(true));
    film.addEventListener("focus", controls(true));
    film.addEventListener("pointerleave", controls(false));
    film.addEventListener("blur", () => { film.controls = film.matches(":hover"); });
    if (!calm) film.addEventListener("pointerenter", () => film.play().catch(() => {}));
    if (!calm) film.addEventListener("pointerleave", () => film.pause());
  }
"""

# Metrics in the order of the table: title, and whether more is better.
_METRICS = {
    "ssim": ("SSIM", True), "psnr": ("PSNR", True), "mask_ssim": ("Mask-SSIM", True), "mask_psnr": ("Mask-PSNR", True),
    "lpips": ("LPIPS", False), "fid": ("FID", False), "tcm": ("TCM", True), "tcm_masked": ("TCM, unoccluded", True),
}  # fmt: skip
_SCORES = {
    "sharpness": "how sharp each frame is",
    "visible_joints": "share of joints seen in each frame",
    "persons": "persons in each frame",
    "motion": "motion from the frame before",
}
# What the seconds of a receipt are called in the table of times, by kind of task.
_TIMES = {
    "frames": {"frames": "decode, crop, write frames"},
    "annotate": {"frames": "read frames back", "encode": "encode layers", "write": "write layers"},
}


class ReportError(StoreError):
    """A ledger or a run folder that cannot be shown; the message names the file."""


def write_report(
    store: Store | str,
    out: str | os.PathLike[str],
    *,
    runs: Sequence[str | os.PathLike[str]] = (),
    most_clips: int = 24,
) -> Path:
    """Write a self-contained HTML page about a store, and about runs trained from it.

    Args:
        store: a store or its URL. Its clips are shown with the layers of the snapshot ``main``, or of the first
            one where there is no ``main``.
        out: the HTML file; it appears under its name when it is whole.
        runs: run folders of training; what they do not hold yet is left out.
        most_clips: most clips on the contact sheet, chosen evenly.

    Returns:
        The path of the page.

    Raises:
        ReportError: for a damaged ledger, or a run folder that is missing or holds a damaged file.
        StoreError: for a store that cannot be read.
    """
    view = _View(store if isinstance(store, Store) else open_store(store))
    # What may be damaged comes first: the films of the clips take longer.
    trained = [(f"run-{i}", f"Run {Path(run).resolve().name}", _run(Path(run))) for i, run in enumerate(runs, 1)]
    sections = [
        ("refused", "Refused", _refused(view)),
        ("snapshots", "Snapshots and layers", _layers(view)),
        ("clips", "Clips", _clips(view, most_clips)),
        ("distributions", "Distributions", _distributions(view)),
        ("time", "Time", _times(view)),
        *trained,
    ]
    shown = [(anchor, title, body) for anchor, title, body in sections if body]
    body = [
        _header(view, [(anchor, title) for anchor, title, _ in shown]),
        _html("<main>"),
        _overview(view),
        *(_html('<section id="{}"><h2>{}</h2>{}</section>', *section) for section in shown),
        _html("</main>"),
    ]
    page = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8")).substitute(
        title=_html("Report on {}", view.name),
        body=_join(body, "\n"),
        script=_SCRIPT,
        script_sha256=base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode(),
    )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, out)
    return out


@contextmanager
def _reading(path: object) -> Iterator[None]:
    """Whatever is wrong with the content of a file becomes an error that names it."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ReportError(f"{path} is damaged ({error!r}); restore it, make it again, or remove it") from error


# HTML


class _Html(str):
    """Text that is HTML already; every other value is escaped on its way into the page."""


def _html(template: str, *values: Any, **named: Any) -> _Html:
    return _Html(template.format(*map(_safe, values), **{k: _safe(v) for k, v in named.items()}))


def _safe(value: Any) -> str:
    return value if isinstance(value, _Html) else escape(str(value))


def _join(parts: Iterable[Any], between: str = "") -> _Html:
    return _Html(_safe(between).join(map(_safe, parts)))


def _table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Iterable[int] = (), kind: str = ""
) -> _Html:
    """A table whose first column names the rows; columns in `numbers` are aligned to the right."""
    right = set(numbers)

    def cell(i: int, value: Any) -> _Html:
        if isinstance(value, _Html) and value.startswith(("<td", "<th")):
            return value
        classes = _html(' class="number"') if i in right else ""
        return _html("<th scope=row{}>{}</th>" if i == 0 else "<td{}>{}</td>", classes, value)

    def title(i: int, text: str) -> _Html:
        return _html("<th scope=col{}>{}</th>", _html(' class="number"') if i in right else "", text)

    body = (_html("<tr>{}</tr>", _join(cell(i, v) for i, v in enumerate(row))) for row in rows)
    return _html(
        '<div class="scroll" role="region" tabindex="0" aria-label="{caption}"><table class="{kind}">'
        "<caption>{caption}</caption><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>",
        caption=caption,
        kind=kind,
        titles=_join(title(i, text) for i, text in enumerate(head)),
        body=_join(body),
    )


def _bar(parts: Sequence[tuple[str, float, str]], label: str, kind: str = "bar") -> _Html:
    """A bar of (name, amount, class or colour) parts, as wide as their amounts."""
    total = sum(amount for _, amount, _ in parts) or 1
    spans = (
        _html(
            '<span class="{}" style="width:{}%;{}" title="{}"></span>',
            "" if look.startswith("#") else look,
            f"{100 * amount / total:.2f}",
            f"background:{look}" if look.startswith("#") else "",
            name,
        )
        for name, amount, look in parts
        if amount
    )
    return _html('<div class="{}" role="img" aria-label="{}">{}</div>', kind, label, _join(spans))


def _legend(items: Iterable[tuple[str, str]]) -> _Html:
    """Names beside their colour: pairs of a name and a class or ``#rrggbb``."""
    entries = (
        _html('<li><span class="swatch" style="background:{}"></span>{}</li>', look, name)
        if look.startswith("#")
        else _html('<li><span class="swatch {}"></span>{}</li>', look, name)
        for name, look in items
    )
    return _html('<ul class="key">{}</ul>', _join(entries))


def _facts(pairs: Iterable[tuple[str, Any]]) -> _Html:
    return _join(_html("<div><dt>{}</dt><dd>{}</dd></div>", name, value) for name, value in pairs)


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _short(value: float) -> str:
    """A number as short as it stays meaningful."""
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"


def _plural(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def _size(amount: float) -> str:
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while amount >= 1000 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{amount:.0f} {units[0]}" if units[0] == "bytes" or amount >= 100 else f"{amount:.1f} {units[0]}"


def _colours(schema: str) -> list[tuple[str, str]]:
    """Every label of a set but the background, with its colour."""
    known = label_set(schema)
    return [(n, "#{:02x}{:02x}{:02x}".format(*c)) for n, c in zip(known.labels, known.palette, strict=True)][1:]


# What the store says


@dataclass(frozen=True)
class _Sums:
    """Inputs and frames, as the ledger counts them, and what became of them."""

    videos: tuple[int, int, int]
    frames: tuple[int, int, int, int]

    @property
    def even(self) -> bool:
        return self.videos[0] == sum(self.videos[1:]) and self.frames[0] == sum(self.frames[1:])


class _View:
    """A store as the report reads it: its ledger checked, and the snapshot to look through chosen."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.name = store.root.rstrip("/").rsplit("/", 1)[-1] or store.url
        # Where everything was refused there is no plan of clips, and that is when a report is wanted most.
        self.clips: list[Clip] = store.clips if store.exists("clips.parquet") else []
        self.snapshots = store.snapshots
        names = sorted(self.snapshots, key=lambda n: (n != "main", n))
        self.snapshot = self.snapshots[names[0]] if names else Snapshot("", {})
        self.folders = store.folders(self.snapshot)
        self.schema = {k: store.layer(k, v).schema for k, v in self.snapshot.layers.items()}

    @cached_property
    def stats(self) -> dict[str, Any] | None:
        _ = self.receipts  # read first, so that a damaged ledger is named
        return stats(self.store) if self.clips else None

    @cached_property
    def receipts(self) -> list[tuple[str, int, dict[str, float]]]:
        """Task, frames and seconds by stage of every receipt."""
        with _reading(f"{self.store.url}/{LEDGER}"):
            return [(line["task"], line["frames"], dict(line["seconds"])) for line in self.lines(LEDGER)]

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The lines of a file of the ledger, none if it is not there."""
        with _reading(f"{self.store.url}/{name}"):
            return self.store.read_lines(name)

    @cached_property
    def rejects(self) -> list[Reject]:
        if not self.store.exists(_REJECTS):
            return []
        with _reading(f"{self.store.url}/{_REJECTS}"):
            rows = pq.read_table(BytesIO(self.store.read_bytes(_REJECTS))).to_pylist()
            return [Reject.from_json(row) for row in rows]

    @cached_property
    def inputs(self) -> list[dict[str, Any]]:
        """The last ledger line of every input that this store was built from."""
        used = {clip.path for clip in self.clips} | {reject.path for reject in self.rejects}
        with _reading(f"{self.store.url}/{_SCAN}"):
            lines = {line["input"]["path"]: line for line in self.lines(_SCAN)}
        return [line for path, line in lines.items() if path in used]

    @cached_property
    def sums(self) -> _Sums | None:
        """How the sums come out, or None for a store that was not built from videos."""
        if not self.inputs:
            return None
        kept = {clip.path for clip in self.clips}
        repeated = {r.path for r in self.rejects if r.code == "duplicate"}
        with _reading(f"{self.store.url}/{_SCAN}"):
            resampled = sum(i["frames"]["resampled"] for i in self.inputs if i["input"]["path"] not in repeated)
            decoded = sum(i["frames"]["decoded"] for i in self.inputs)
        return _Sums(
            videos=(len(self.inputs), len(kept), len({r.path for r in self.rejects} - kept)),
            frames=(decoded, sum(c.frames for c in self.clips), sum(r.frames for r in self.rejects), resampled),
        )

    def members(self, kind: str, name: str, clip: Clip, which: Iterable[int]) -> list[np.ndarray] | None:
        """Decoded arrays of some samples of a clip, None where the snapshot has no such layer or array."""
        folder = "frames" if kind == "frames" else self.folders.get(kind)
        module = layer_kinds.kind(kind)
        if folder is None or module.FIELDS[name] not in self.store.index(folder, clip.shard).offsets:
            return None
        ext = module.FIELDS[name]
        return [module.decode(ext, data) for data in self.store.read_members(folder, clip, ext, which)]

    @cached_property
    def scores(self) -> dict[str, dict[str, np.ndarray]]:
        """Clip -> score -> one value a frame."""
        if "scores" not in self.folders:
            return {}
        out = {}
        for clip in self.clips:
            index = self.store.index(self.folders["scores"], clip.shard)
            out[clip.id] = {name: index.column(clip.id, name) for name in index.rows.column_names[4:]}
        return out


# Sections


def _header(view: _View, sections: Sequence[tuple[str, str]]) -> _Html:
    links = (_html('<li><a href="#{}">{}</a></li>', *section) for section in sections)
    return _html(
        '<header><h1>{}</h1><p class="path soft">Store <span class="id">{}</span></p>'
        '<nav aria-label="Sections"><ul>{}</ul></nav></header>',
        view.name,
        view.store.url,
        _join(links),
    )


def _overview(view: _View) -> _Html:
    facts = view.stats
    totals = [("clips", _count(len(view.clips))), ("frames", _count(sum(c.frames for c in view.clips)))]
    if facts:
        size = facts["bytes"]["frames"] + sum(layer["bytes"] for layer in facts["layers"])
        totals = [
            ("videos kept", _count(facts["videos"])),
            *totals,
            ("persons", _count(facts["persons"])),
            ("of video", f"{facts['seconds_of_video']:,.1f} s"),
            ("frame size", "{}×{}".format(*facts["size"])),
            ("on disk", _size(size)),
            ("shards", _count(facts["shards"])),
        ]
    return _html('<dl class="totals">{}</dl>{}', _facts(totals), _accounting(view))


def _accounting(view: _View) -> _Html:
    sums = view.sums
    if sums is None:
        return _html('<p class="soft">This store has no ledger of input videos: it was not built from videos.</p>')
    names, looks = ("kept", "refused", "left out by the frame rate"), ("kept", "refused", "left")
    rows, bars = [], []
    for word, (total, *parts) in (("videos", sums.videos), ("frames", sums.frames)):
        rows.append([word, _count(total), *map(_count, parts), *["–"] * (3 - len(parts))])
        label = f"{word}: {total} in, " + ", ".join(f"{n} {name}" for n, name in zip(parts, names, strict=False))
        shares = [(f"{_count(n)} {name}", n, look) for n, name, look in zip(parts, names, looks, strict=False)]
        bars += [_html("<span>{}</span>", word), _bar(shares, label)]
    warning = _html(
        '<p class="warning">These sums do not come out: what went in is not what was kept and refused. '
        "The build did not finish, or the ledger is not of this store; run the build again.</p>"
    )
    return _join(
        [
            _html('<div class="sum">{}</div>', _join(bars)),
            _legend(zip(names, looks, strict=True)),
            _table("In = kept + refused + left out by the frame rate", ["", "in", *names], rows, range(1, 5), "narrow"),
            _html("") if sums.even else warning,
        ]
    )


def _refused(view: _View) -> _Html:
    if view.sums is None and not view.rejects:
        return _html("")
    if not view.rejects:
        return _html("<p>Nothing was refused.</p>")
    by_code = {code: [r for r in view.rejects if r.code == code] for code in REASONS}
    reasons = [
        [_html("<code>{}</code>", code), REASONS[code], _count(len(found)), _count(sum(r.frames for r in found))]
        for code, found in sorted(by_code.items(), key=lambda item: -len(item[1]))
        if found
    ]
    every = [
        [
            r.what,
            r.id,
            _html("<code>{}</code>", r.code),
            r.detail,
            _html('<td class="path">{}</td>', r.path),
            _count(r.frames),
        ]
        for r in view.rejects
    ]
    return _html(
        "{}<details{}><summary>Every reject ({})</summary>{}</details>",
        _table("By reason", ["reason", "meaning", "rejects", "frames"], reasons, (2, 3)),
        _html(" open") if len(every) <= _OPEN_REJECTS else "",
        _count(len(every)),
        _table("One by one", ["what", "id", "reason", "detail", "file", "frames"], every, (5,)),
    )


def _layers(view: _View) -> _Html:
    if not view.clips:
        return _html("")
    counted = {name: _passing(view, snapshot) for name, snapshot in view.snapshots.items()}
    splits = sorted({split for counts in counted.values() for split in counts} - {""}, key=lambda s: (s != "train", s))
    rows = []
    for name, snapshot in view.snapshots.items():
        layers = [(kind, snapshot.layers[kind]) for kind in KINDS if kind in snapshot.layers]
        chosen = (_html('{} <span class="id">{}</span>', *layer) for layer in layers)
        policy = "that of each clip" if snapshot.split == "column" else _html("<code>{}</code>", snapshot.split)
        condition = _html("<code>{}</code>", snapshot.where) if snapshot.where else "none"
        counts = [_count(counted[name].get(split, 0)) for split in ("", *splits)]
        rows.append([name, _join(chosen, _html("<br>")) or "frames only", condition, policy, *counts])
    head = ["snapshot", "layers", "filter", "split", "frames that pass", *splits]
    snapshots = _table("Snapshots: what training reads", head, rows, range(4, len(head)))
    return _join([snapshots if rows else _html("<p>There is no snapshot yet.</p>"), _detectors(view)])


def _passing(view: _View, snapshot: Snapshot) -> dict[str, int]:
    """Frames that pass a snapshot's filter: in all under "", and split by split."""
    counts = {"": 0}
    for clip in view.clips:
        allowed = where(snapshot, view.store, clip)
        counts[""] += int(allowed.sum())
        for split in ["train", "test"] if snapshot.split != "column" else [clip.split or "train"]:
            mask = split_mask(clip.frames, snapshot.split, split, clip.split)
            counts[split] = counts.get(split, 0) + int((allowed & mask).sum())
    return counts


def _detectors(view: _View) -> _Html:
    infos, facts = view.store.layers, view.stats
    if not infos or not facts:
        return _html("<p>There are frames only, no layers.</p>")
    size = {(layer["kind"], layer["id"]): layer["bytes"] for layer in facts["layers"]}
    rows = []
    for info in infos:
        users = [name for name, s in view.snapshots.items() if s.layers.get(info.kind) == info.id]
        badge = _html(' <span class="badge warn">approximate</span>') if info.approximate else ""
        rows.append(
            [
                info.kind,
                _html('{}{}<br><span class="id soft">{}</span>', info.detector, badge, info.id),
                info.version,
                _html("<code>{}</code>", info.schema),
                info.licence or "–",
                _join(users, ", ") or _html('<span class="badge plain">not used</span>'),
                _size(size[info.kind, info.id]),
            ]
        )
    note = _html(
        '<p class="soft"><span class="badge warn">approximate</span> The result stands in for that of a trained '
        "network. Regenerate the layer with <code>remot annotate</code> before relying on it.</p>"
    )
    head = ["layer", "detector", "version", "schema", "licence", "snapshots", "on disk"]
    return _join(
        [
            _table("Layers and the detectors that made them", head, rows, (6,)),
            *[note] * any(i.approximate for i in infos),
        ]
    )


# Clips


def _clips(view: _View, most: int) -> _Html:
    if not view.clips:
        return _html("<p>There are no clips.</p>")
    chosen = [view.clips[i] for i in _evenly(len(view.clips), most)]
    some = (
        f"All {_plural(len(chosen), 'clip')}"
        if len(chosen) == len(view.clips)
        else (f"{len(chosen)} of {_plural(len(view.clips), 'clip')}, chosen evenly")
    )
    notes = [f"{some}. Hover over a clip or press play; every clip runs in a loop."]
    if view.snapshot.name:
        notes.append(f"The layers are those of the snapshot {view.snapshot.name}.")
    if "flow" in view.folders:
        notes.append("Flow: hue is its direction, saturation its length; dark where it is not to be trusted.")
    legend = _legend(_colours(view.schema["parsing"])) if "parsing" in view.schema else ""
    return _join([_html('<p class="soft">{}</p>{}', " ".join(notes), legend), *(_clip(view, clip) for clip in chosen)])


def _evenly(total: int, most: int) -> list[int]:
    """At most `most` of the numbers below `total`, spread evenly, the first and the last among them."""
    return np.unique(np.linspace(0, total - 1, max(0, min(total, most))).round().astype(int)).tolist()


def _clip(view: _View, clip: Clip) -> _Html:
    which = _shown(clip)
    names, strips = _strips(view, clip, which)
    film = _film(names, strips, (clip.fps or _RATE) / which.step, clip.id)
    return _html(
        '<article class="clip"><h3>{}</h3><div class="show" style="--n:{}">{}{}</div>'
        '<dl class="facts">{}</dl></article>',
        clip.id,
        len(names),
        film,
        _background(view, clip),
        _facts(_about(view, clip, which)),
    )


def _shown(clip: Clip) -> range:
    """The frames of a clip that its film shows: from the first on, thinned out where they come fast."""
    return range(0, clip.frames, max(1, round(clip.fps / _RATE)))[:_SHOWN]


def _strips(view: _View, clip: Clip, which: range) -> tuple[list[str], list[np.ndarray]]:
    """The names of the views of a clip, and each frame's views side by side, uint8 [H, n * W, 3]."""
    frames = view.members("frames", "frames", clip, which) or []
    given: dict[str, list[np.ndarray]] = {}
    for title, kind, name in (("pose", "pose", "keypoints"), ("parsing", "parsing", "labels")):
        found = view.members(kind, name, clip, which)
        if found is not None:
            given[title] = found
    packed = view.members("flow", "flow", clip, which)
    if packed is not None:
        lengths = [np.hypot(p[0], p[1]) for p in packed]
        scale = max(1.0, float(np.percentile(lengths, 99)))
        given["flow"] = [_flow(p, scale, view.store.size) for p in packed]
    strips = []
    for t, frame in enumerate(frames):
        shown = render.panel(
            frame,
            keypoints=given["pose"][t] if "pose" in given else None,
            labels=given["parsing"][t] if "parsing" in given else None,
            pose=view.schema.get("pose", "body25"),
            parsing=view.schema.get("parsing", "atr18"),
        )
        strips.append(_fitted(np.hstack([*shown, *([given["flow"][t]] if "flow" in given else [])]), len(given) + 1))
    return ["frame", *given], strips


def _flow(packed: np.ndarray, scale: float, size: tuple[int, int]) -> np.ndarray:
    dx, dy, bits = packed
    confident = bits == (layer_kinds.flow.FORWARD_BACKWARD | layer_kinds.flow.PHOTOMETRIC)
    image = render.flow_image(np.stack([dx, dy], -1), scale, confident)
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_NEAREST)


def _fitted(strip: np.ndarray, panels: int) -> np.ndarray:
    """A strip no higher than a panel of the page, and even in size, as H.264 wants it."""
    height, width = strip.shape[0], strip.shape[1] // panels
    factor = min(1.0, _HEIGHT / height)
    size = round(width * factor / 2) * 2 * panels, round(height * factor / 2) * 2
    return strip if size == strip.shape[1::-1] else cv2.resize(strip, size, interpolation=cv2.INTER_AREA)


def _film(names: Sequence[str], strips: Sequence[np.ndarray], fps: float, clip: str) -> _Html:
    height, width = strips[0].shape[:2]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        with video.VideoWriter(path, fps, (height, width), crf=_CRF) as writer:
            for strip in strips:
                writer.write(strip)
        film = path.read_bytes()
    return _html(
        '<div class="film"><ol class="names">{}</ol><video data-hover muted loop playsinline controls preload="none" '
        'width="{}" height="{}" aria-label="{}" poster="{}" src="{}"></video></div>',
        _join(_html("<li>{}</li>", name) for name in names),
        width,
        height,
        f"Clip {clip}: {', '.join(names)} side by side",
        _data("image/jpeg", _jpeg(strips[len(strips) // 2])),
        _data("video/mp4", film),
    )


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 78])[1].tobytes()


def _background(view: _View, clip: Clip) -> _Html:
    found = view.members("background", "image", clip, [0])
    if found is None:
        return _html("")
    image, caption = _fitted(found[0], 1), "background"
    seen = view.members("background", "seen", clip, [0])
    if seen is not None:
        caption += f", {100 * float((seen[0] > 0).mean()):.0f} % seen"
    return _html(
        '<figure class="still"><figcaption>{}</figcaption><img width="{}" height="{}" alt="{}" src="{}"></figure>',
        caption,
        image.shape[1],
        image.shape[0],
        f"Background of clip {clip.id}",
        _data("image/jpeg", _jpeg(image)),
    )


def _about(view: _View, clip: Clip, which: range) -> list[tuple[str, Any]]:
    base = clip.time_base[0] / clip.time_base[1]
    span = f"{clip.pts[0]} – {clip.pts[-1]}, {clip.pts[0] * base:.2f} – {clip.pts[-1] * base:.2f} s"
    x, y, width, height = clip.crop
    shown = (
        "all"
        if len(which) == clip.frames
        else f"{which[0]} – {which[-1]}" + (f", one in {which.step}" if which.step > 1 else "")
    )
    means = [
        (f"{name.replace('_', ' ')}, mean", _short(float(v.mean()))) for name, v in view.scores.get(clip.id, {}).items()
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
        ("frames", f"{_count(clip.frames)} at {clip.fps:.4g} a second"),
        ("shown", shown),
        (f"PTS, 1/{clip.time_base[1] / clip.time_base[0]:g} s", span),
        *([("licence", clip.licence)] if clip.licence else []),
        *([("from", clip.url)] if clip.url else []),
        *means,
    ]


def _crop(clip: Clip) -> _Html:
    """A sketch of the crop on the picture it was cut from."""
    wide, high = clip.source_size
    x, y, width, height = clip.crop
    left, top = min(0.0, x), min(0.0, y)
    right, bottom = max(float(wide), x + width), max(float(high), y + height)
    return _html(
        '<svg class="crop" viewBox="{} {} {} {}" role="img" aria-label="The crop on the source picture">'
        '<rect class="picture" width="{}" height="{}"/><rect class="cut" x="{}" y="{}" width="{}" height="{}"/></svg>',
        *(left, top, right - left, bottom - top, wide, high, x, y, width, height),
    )


# Distributions and time


def _distributions(view: _View) -> _Html:
    if not view.clips:
        return _html("")
    charts = [_histogram("clip length", "frames in each clip", np.array([c.frames for c in view.clips]))]
    names = dict.fromkeys(name for scores in view.scores.values() for name in scores)
    for name in sorted(names, key=lambda n: (list(_SCORES).index(n) if n in _SCORES else len(_SCORES), n)):
        values = np.concatenate([scores[name] for scores in view.scores.values() if name in scores])
        charts.append(_histogram(name.replace("_", " "), _SCORES.get(name, "a value a frame"), values))
    return _html('<div class="charts">{}</div>{}', _join(charts), _classes(view))


def _histogram(name: str, meaning: str, values: np.ndarray) -> _Html:
    values = values[np.isfinite(values)].astype(float)
    if not len(values):
        return _html("<figure><figcaption><b>{}</b>: no values</figcaption></figure>", name)
    low, high, middle = float(values.min()), float(values.max()), float(np.median(values))
    whole = low == high or (bool((values == np.rint(values)).all()) and high - low < 24)
    edges = np.arange(low - 0.5, high + 0.6) if whole else np.linspace(low, high, 25)
    counts = np.histogram(values, edges)[0]
    height, most, step = 96.0, counts.max(), _WIDE / len(counts)
    thick = min(step - 2 * min(1, step / 8), 36.0)
    columns = (
        _html(
            '<rect class="column" x="{}" y="{}" width="{}" height="{}"/>',
            f"{(i + 0.5) * step - thick / 2:.1f}",
            f"{height - height * n / most:.1f}",
            f"{thick:.1f}",
            f"{height * n / most:.1f}",
        )
        for i, n in enumerate(counts)
        if n
    )
    at = f"{_WIDE * (middle - edges[0]) / (edges[-1] - edges[0]):.1f}"
    spread = f"{_short(low)} to {_short(high)}"
    if low == high:
        ends = _html('<text x="{}" y="111" text-anchor="middle">{}</text>', at, _short(low))
    else:
        ends = _html(
            '<text x="0" y="111">{}</text><text x="{}" y="111" text-anchor="end">{}</text>',
            _short(low),
            _WIDE,
            _short(high),
        )
    return _html(
        '<figure><figcaption><b>{name}</b>, {meaning}</figcaption><svg viewBox="-1 -6 222 122" role="img" '
        'aria-label="Histogram of {name}: {count} values from {spread}, median {middle}">{columns}'
        '<path class="axis" d="M0 96H220"/><path class="middle" d="M{at} -4V96"/>'
        "{ends}</svg><figcaption>{count} values, median {middle}</figcaption></figure>",
        name=name,
        meaning=meaning,
        count=_count(len(values)),
        spread=spread,
        middle=_short(middle),
        ends=ends,
        at=at,
        columns=_join(columns),
    )


def _classes(view: _View) -> _Html:
    """How much of the sampled frames each class of the layout covers."""
    if "parsing" not in view.folders:
        return _html("")
    ends = np.cumsum([clip.frames for clip in view.clips])
    counts, sampled = np.zeros(len(label_set("remot6")), np.int64), _evenly(int(ends[-1]), _LABELLED)
    for place in sampled:
        clip = view.clips[number := int(np.searchsorted(ends, place, side="right"))]
        labels = (view.members("parsing", "labels", clip, [place - int(ends[number]) + clip.frames]) or [])[0]
        layout = convert_labels(labels, view.schema["parsing"], "remot6")
        counts += np.bincount(layout.ravel(), minlength=len(counts))
    person = max(1, int(counts[1:].sum()))
    colours = _colours("remot6")
    parts = [
        (f"{name} {100 * n / person:.1f} %", float(n), c) for (name, c), n in zip(colours, counts[1:], strict=True)
    ]
    rows = [["background", f"{100 * counts[0] / counts.sum():.1f} %", "–"]] + [
        [
            _html('<th scope=row><span class="swatch" style="background:{}"></span>{}</th>', colour, name),
            f"{100 * n / counts.sum():.1f} %",
            f"{100 * n / person:.1f} %",
        ]
        for (name, colour), n in zip(colours, counts[1:], strict=True)
    ]
    return _html(
        "<h3>Layout</h3>{}{}",
        _bar(parts, "Share of the person: " + ", ".join(name for name, _, _ in parts)),
        _table(
            f"The six classes of the layout over {_plural(len(sampled), 'sampled frame')}",
            ["class", "of the frame", "of the person"],
            rows,
            (1, 2),
            "narrow",
        ),
    )


def _times(view: _View) -> _Html:
    spent = _spent(view)
    if not spent:
        return _html("")
    order = ["look through", *_TIMES["frames"].values(), "read frames back", *KINDS, "encode layers", "write layers"]
    longest = max(seconds for seconds, _ in spent.values()) or 1
    rows = [
        [
            stage,
            f"{seconds:,.1f}",
            _count(frames),
            _count(frames / seconds) if seconds > 0 else "–",
            _html(
                '<td class="wide"><div class="bar thin" aria-hidden="true"><span class="kept" style="width:{}%">'
                "</span></div></td>",
                f"{100 * seconds / longest:.1f}",
            ),
        ]
        for stage, (seconds, frames) in sorted(
            spent.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)
        )
    ]
    total = sum(seconds for seconds, _ in spent.values())
    return _table(
        f"Seconds of all workers together, {total:,.1f} in all, by stage",
        ["stage", "seconds", "frames", "frames/s", ""],
        rows,
        (1, 2, 3),
    )


def _spent(view: _View) -> dict[str, tuple[float, int]]:
    """Stage -> seconds of all workers, and the frames they went through."""
    spent: dict[str, tuple[float, int]] = {}

    def add(stage: str, seconds: float, frames: int) -> None:
        before = spent.get(stage, (0.0, 0))
        spent[stage] = before[0] + seconds, before[1] + frames

    with _reading(f"{view.store.url}/{_SCAN}"):
        for line in view.inputs:
            add("look through", line["seconds"], line["frames"]["decoded"])
    for task, frames, seconds in view.receipts:
        names = _TIMES.get(task.split("/")[0], {})
        for stage, value in seconds.items():
            add(names.get(stage, stage), value, frames)
    return spent


# Runs


def _run(run: Path) -> _Html:
    if not run.is_dir():
        raise ReportError(f"{run} is no run folder: it is not there; make one with `remot train`")
    parts = [_settings(run), *(_stage(folder) for folder in _stages(run)), _evaluation(run / "evaluation"), _films(run)]
    return _join(parts) or _html("<p>There is nothing in this run folder yet.</p>")


def _json(path: Path) -> dict[str, Any]:
    """The content of a JSON file, empty if it is not there."""
    if not path.exists():
        return {}
    with _reading(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
    return content


def _settings(run: Path) -> _Html:
    info = _json(run / "config.json")
    if not info:
        return _html("")
    with _reading(run / "config.json"):
        config, perceptual = info.get("config") or {}, info.get("perceptual") or {}
        size = config.get("size")
        known = [
            ("configuration", config.get("name")),
            ("size", "×".join(map(str, size)) if size else None),
            ("stores", ", ".join(map(str, info.get("stores", ())))),
            ("snapshot", info.get("snapshot")),
            ("split", info.get("split")),
            ("seed", info.get("seed")),
            ("schemas", ", ".join(f"{k} {v}" for k, v in (info.get("schemas") or {}).items())),
            ("perceptual features", perceptual.get("name")),
            ("versions", ", ".join(f"{k} {v}" for k, v in (info.get("versions") or {}).items())),
        ]
        return _html('<dl class="facts panel">{}</dl>', _facts((k, v) for k, v in known if v not in (None, "")))


def _stages(run: Path) -> list[Path]:
    """The stage folders of a run in the order of training."""
    order = ("layout", "region", "whole")
    found = {p.parent for p in (*run.glob("*/stats.jsonl"), *run.glob("*/samples"))}
    return sorted(found, key=lambda p: (order.index(p.name) if p.name in order else len(order), p.name))


def _stage(folder: Path) -> _Html:
    rows = _stats(folder / "stats.jsonl")
    names = dict.fromkeys(k for row in rows for k in row if k not in ("step", "seconds", "lr"))
    facts = ""
    if rows:
        last = rows[-1]
        seconds = last.get("seconds", 0)
        facts = f"{_plural(int(last['step']), 'step')} in {seconds:,.0f} s"
        facts += f", {last['step'] / seconds:.2f} steps a second" if seconds else ""
    charts = _join(_curve(name, rows) for name in names)
    pictures = sorted((folder / "samples").glob("*.png"))
    return _html(
        "<h3>Stage {}</h3>{}{}{}",
        folder.name,
        _html('<p class="soft">{}. Losses: each step faint, smoothed over it.</p>', facts) if facts else "",
        _html('<div class="charts">{}</div>', charts) if charts else "",
        _picture(pictures[-1], f"Samples of the {folder.name} stage, {pictures[-1].stem}") if pictures else "",
    )


def _stats(path: Path) -> list[dict[str, float]]:
    """The lines of a file of losses; a last line cut off by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], 1):
        with _reading(f"line {number} of {path}"):
            row = {name: float(value) for name, value in json.loads(line).items()}
            if "step" not in row:
                raise ValueError("it has no step")
            rows.append(row)
    return rows


def _curve(name: str, rows: Sequence[Mapping[str, float]]) -> _Html:
    points = np.array([(row["step"], row[name]) for row in rows if name in row and np.isfinite(row[name])])
    if not len(points):
        return _html("")
    first, last = points[0, 0], points[-1, 0]
    points = np.array([part.mean(0) for part in np.array_split(points, min(len(points), 300))])
    steps, raw = points.T
    smooth = _smoothed(raw, max(1, len(raw) // 20))
    low, high = np.percentile(raw, 1), np.percentile(raw, 99)
    low, high = min(low, smooth.min()), max(high, smooth.max())

    def line(values: np.ndarray) -> str:
        x = _WIDE * (steps - steps[0]) / max(steps[-1] - steps[0], 1e-9)
        y = 96 - 92 * (np.clip(values, low, high) - low) / max(high - low, 1e-12)
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))

    return _html(
        '<figure><figcaption><b>{name}</b> {last}</figcaption><svg viewBox="-1 -6 222 122" role="img" '
        'aria-label="Loss {name} by step, from {start} to {last}"><path class="axis" d="M0 96H220"/>'
        '<polyline class="raw" points="{raw}"/><polyline class="smooth" points="{smooth}"/>'
        '<text x="0" y="111">step {first}</text><text x="220" y="111" text-anchor="end">{end}</text>'
        '<text x="220" y="4" text-anchor="end">{low} – {high}</text></svg></figure>',
        name=name.replace("_", " "),
        start=_short(float(smooth[0])),
        last=_short(float(smooth[-1])),
        raw=line(raw),
        smooth=line(smooth),
        first=_count(first),
        end=_count(last),
        low=_short(float(low)),
        high=_short(float(high)),
    )


def _smoothed(values: np.ndarray, reach: int) -> np.ndarray:
    """The mean of each value and `reach` neighbours on both sides, as far as there are any."""
    window = np.ones(2 * reach + 1)
    total, count = (np.convolve(v, window)[reach : reach + len(values)] for v in (values, np.ones(len(values))))
    return total / count


def _picture(path: Path, caption: str) -> _Html:
    content = path.read_bytes()
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if image is None:
        raise ReportError(f"{path} is no readable picture; make it again, or remove it")
    return _html(
        '<figure class="picture"><img width="{}" height="{}" alt="{}" src="{}"><figcaption>{}</figcaption></figure>',
        image.shape[1],
        image.shape[0],
        caption,
        _data("image/png", content),
        caption,
    )


def _evaluation(folder: Path) -> _Html:
    report = _json(folder / "metrics.json")
    pictures = [_picture(p, f"Evaluation, {p.stem}") for p in sorted(folder.glob("*.png"))]
    if not report and not pictures:
        return _html("")
    with _reading(folder / "metrics.json"):
        measured = _measured(report) if report else []
    return _join([_html("<h3>Evaluation</h3>"), *measured, *pictures])


def _measured(report: Mapping[str, Any]) -> list[_Html]:
    facts = ", ".join(
        f"{name} {'×'.join(map(str, value)) if isinstance(value, list) else value}"
        for name in ("preset", "size", "split", "clips", "windows", "frames")
        if (value := report.get(name)) is not None
    )
    parts = [_metrics("Self-reenactment" + (f": {facts}" if facts else ""), report.get("methods") or {})]
    told = [(_METRICS.get(k, (k, True))[0], text) for k, text in (report.get("conventions") or {}).items()]
    told += [
        (_METRICS.get(k, (k, True))[0], f"not measured; {v}") for k, v in (report.get("unavailable") or {}).items()
    ]
    if report.get("background", "layer") != "layer":
        told.append(("background", report["background"]))
    items = (_html("<li><b>{}</b>: {}</li>", *item) for item in told)
    parts.append(_html('<ul class="soft">{}</ul>', _join(items)) if told else _html(""))
    return [*parts, _published(report.get("published") or {})]


def _metrics(caption: str, methods: Mapping[str, Mapping[str, float | None]]) -> _Html:
    """A table of metrics, a method a row; the best of each column stands out."""
    known = [m for m in _METRICS if any(row.get(m) is not None for row in methods.values())]
    if not known:
        return _html("")
    rows = []
    for method, row in methods.items():
        cells: list[Any] = [method]
        for metric in known:
            value, more = row.get(metric), _METRICS[metric][1]
            others = [v for r in methods.values() if (v := r.get(metric)) is not None]
            best = len(others) > 1 and value is not None and value == (max if more else min)(others)
            text = "–" if value is None else f"{value:.{2 if metric.endswith(('psnr', 'fid')) else 3}f}"
            cells.append(_html('<b class="best">{}</b>', text) if best else text)
        rows.append(cells)
    head = ["method", *(f"{title} {'↑' if more else '↓'}" for title, more in (_METRICS[m] for m in known))]
    return _table(
        f"{caption}. ↑ more is better, ↓ less is better; the best of a column is bold.", head, rows, range(1, len(head))
    )


def _published(published: Mapping[str, Any]) -> _Html:
    tables = [_metrics(f"{name}, published", rows) for name, rows in (published.get("tables") or {}).items()]
    if not tables:
        return _html("")
    return _html(
        "<details><summary>Published numbers ({})</summary><p>{}</p>{}</details>",
        published.get("source", ""),
        published.get("note", ""),
        _join(tables),
    )


def _films(run: Path) -> _Html:
    paths = sorted(p for p in run.rglob("*.mp4") if not p.name.startswith("."))
    if not paths:
        return _html("")
    shown = (_video(path, path.relative_to(run).as_posix()) for path in paths)
    return _html('<h3>Videos</h3><div class="films">{}</div>', _join(shown))


def _video(path: Path, name: str) -> _Html:
    try:
        probe = video.probe(path)
    except video.VideoError as error:
        raise ReportError(f"{path} is no readable video ({error.detail}); make it again, or remove it") from error
    size = path.stat().st_size
    if size > _EMBEDDED:
        return _html(
            "<figure><figcaption><b>{}</b>, {}: too large to be shown here</figcaption></figure>", name, _size(size)
        )
    return _html(
        '<figure><video loop playsinline controls preload="metadata" width="{}" height="{}" aria-label="{}" src="{}">'
        "</video><figcaption>{}</figcaption></figure>",
        *probe.size,
        f"Video {name}",
        _data("video/mp4", path.read_bytes()),
        f"{name}, {probe.seconds:.1f} s",
    )
