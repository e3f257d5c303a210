"""The sections on the store as a whole: what went in, what was refused, which layers there are, what they hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from remot_data.reading.filters import where
from remot_data.reading.sampling import split_mask
from remot_data.records import REASONS, Snapshot
from remot_data.report.charts import histogram
from remot_data.report.errors import reading
from remot_data.report.html import Html, bar, count, facts, file_size, join, legend, markup, plural, table
from remot_data.report.lineage import lineage
from remot_data.report.plans import plans
from remot_data.report.view import HISTORY, SCAN, View, evenly, known
from remot_data.schemas import convert_labels, label_set
from remot_data.store import layers as layer_kinds

# So many frames are read for the shares of the layout; so many rejects are listed unfolded.
_LABELLED = 160
_OPEN_REJECTS = 30

_SCORES = {
    "sharpness": "how sharp each frame is",
    "visible_joints": "share of joints seen in each frame",
    "persons": "persons in each frame",
    "motion": "motion from the frame before",
    "agreement": "whether the pose is on the clip's person",
    "valid": "share of pixels of the source's picture",
    "disagreement": "heights that passes of the pose detector differ by",
    "mended": "share of joints filled in or exchanged",
    "sure": "mean confidence of the joints",
    "least_sure": "lowest confidence of a limb",
    "jitter": "heights that a joint trembles by",
    "jumps": "share of joints between two jumps",
    "swapped": "arms and legs with exchanged sides",
    "twist": "heights that shoulders and hips oppose by",
    "lost": "share of joints lost for a while",
    "limbs": "heights that a limb is too long by",
    "stretch": "heights that a limb's length changes by",
    "off_person": "share of joints off mask or labels",
    "no_limb": "share of mask or labels near no limb",
    "apart": "share of mask and labels in one alone",
    "flicker": "share of labels found in one frame alone",
    "face": "pixels of the head's height",
    "hand": "pixels of the hand's length",
    "camera": "frame heights that the camera moves",
    "overlay": "share of the person under writing",
    "clipped": "share of the person blown or black",
}
# What the seconds of a receipt are called in the table of times, by kind of task.
_TIMES = {
    "frames": {"frames": "decode, crop, write frames"},
    "annotate": {"frames": "read frames back", "encode": "encode layers", "write": "write layers"},
}


def header(view: View, sections: Sequence[tuple[str, str]]) -> Html:
    links = (markup('<li><a href="#{}">{}</a></li>', *section) for section in sections)
    return markup(
        '<header><h1>{}</h1><p class="path soft">Store <span class="id">{}</span></p>'
        '<nav aria-label="Sections"><ul>{}</ul></nav></header>',
        view.name,
        view.store.url,
        join(links),
    )


def overview(view: View) -> Html:
    stats = view.stats
    totals = [("clips", count(len(view.clips))), ("frames", count(sum(c.frames for c in view.clips)))]
    if stats:
        size = stats["bytes"]["frames"] + sum(layer["bytes"] for layer in stats["layers"])
        totals = [
            ("videos kept", count(stats["videos"])),
            *totals,
            ("persons", count(stats["persons"])),
            ("of video", f"{stats['seconds_of_video']:,.1f} s"),
            ("frame size", "{}×{}".format(*stats["size"])),
            ("on disk", file_size(size)),
            ("shards", count(stats["shards"])),
        ]
    return markup('<dl class="totals">{}</dl>{}', facts(totals), _accounting(view))


def _accounting(view: View) -> Html:
    sums = view.sums
    if sums is None:
        return markup('<p class="soft">This store has no ledger of input videos: it was not built from videos.</p>')
    names, looks = ("kept", "refused", "left out by the frame rate"), ("kept", "refused", "left")
    rows, bars = [], []
    for word, (total, *parts) in (("videos", sums.videos), ("frames", sums.frames)):
        rows.append([word, count(total), *map(count, parts), *["–"] * (3 - len(parts))])
        label = f"{word}: {total} in, " + ", ".join(f"{n} {name}" for n, name in zip(parts, names, strict=False))
        shares = [(f"{count(n)} {name}", n, look) for n, name, look in zip(parts, names, looks, strict=False)]
        bars += [markup("<span>{}</span>", word), bar(shares, label)]
    warning = markup(
        '<p class="warning">These sums do not come out: what went in is not what was kept and refused. '
        "The build did not finish, or the ledger is not of this store; run the build again.</p>"
    )
    return join(
        [
            markup('<div class="sum">{}</div>', join(bars)),
            legend(zip(names, looks, strict=True)),
            table("In = kept + refused + left out by the frame rate", ["", "in", *names], rows, range(1, 5), "narrow"),
            markup("") if sums.even else warning,
        ]
    )


def refused(view: View) -> Html:
    if view.sums is None and not view.rejects:
        return markup("")
    if not view.rejects:
        return markup("<p>Nothing was refused.</p>")
    by_code = {code: [r for r in view.rejects if r.code == code] for code in REASONS}
    reasons = [
        [markup("<code>{}</code>", code), REASONS[code], count(len(found)), count(sum(r.frames for r in found))]
        for code, found in sorted(by_code.items(), key=lambda item: -len(item[1]))
        if found
    ]
    every = [
        [
            r.what,
            r.id,
            markup("<code>{}</code>", r.code),
            r.detail,
            markup('<td class="path">{}</td>', r.path),
            count(r.frames),
        ]
        for r in view.rejects
    ]
    return markup(
        "{}<details{}><summary>Every reject ({})</summary>{}</details>",
        table("By reason", ["reason", "meaning", "rejects", "frames"], reasons, (2, 3)),
        markup(" open") if len(every) <= _OPEN_REJECTS else "",
        count(len(every)),
        table("One by one", ["what", "id", "reason", "detail", "file", "frames"], every, (5,)),
    )


def snapshots_and_layers(view: View) -> Html:
    if not view.clips:
        return markup("")
    counted = {name: _passing(view, snapshot) for name, snapshot in view.snapshots.items()}
    splits = sorted({split for counts in counted.values() for split in counts} - {""}, key=lambda s: (s != "train", s))
    rows = []
    for name, snapshot in view.snapshots.items():
        layers = [(kind, snapshot.layers[kind]) for kind in layer_kinds.ordered(snapshot.layers)]
        chosen = (markup('{} <span class="id">{}</span>', *layer) for layer in layers)
        policy = "that of each clip" if snapshot.split == "column" else markup("<code>{}</code>", snapshot.split)
        condition = markup("<code>{}</code>", snapshot.where) if snapshot.where else "none"
        counts = [count(counted[name].get(split, 0)) for split in ("", *splits)]
        rows.append([name, join(chosen, markup("<br>")) or "frames only", condition, policy, *counts])
    head = ["snapshot", "layers", "filter", "split", "frames that pass", *splits]
    snapshots = table("Snapshots: what training reads", head, rows, range(4, len(head)))
    nothing = markup("<p>There is no snapshot yet.</p>")
    return join([snapshots if rows else nothing, _lineage(view), _detectors(view)])


def _lineage(view: View) -> Html:
    """What each layer was made from; unfinished ones have no place in it."""
    infos = view.store.layers
    stale = {f"{layer['kind']}/{layer['id']}": layer["stale"] for layer in (view.stats or {}).get("layers", ())}
    used: dict[str, list[str]] = {}
    for name, snapshot in view.snapshots.items():
        for kind, layer_id in snapshot.layers.items():
            used.setdefault(f"{kind}/{layer_id}", []).append(name)
    return lineage(infos, stale, used)


def _passing(view: View, snapshot: Snapshot) -> dict[str, int]:
    """Frames that pass a snapshot's filter: in all under "", and split by split."""
    counts = {"": 0}
    for clip in view.clips:
        allowed = where(snapshot, view.store, clip)
        counts[""] += int(allowed.sum())
        for split in ["train", "test"] if snapshot.split != "column" else [clip.split or "train"]:
            mask = split_mask(clip.frames, snapshot.split, split, clip.split)
            counts[split] = counts.get(split, 0) + int((allowed & mask).sum())
    return counts


def _detectors(view: View) -> Html:
    infos, stats = view.store.layers, view.stats
    if not infos or not stats:
        return markup("<p>There are frames only, no layers.</p>")
    size = {(layer["kind"], layer["id"]): layer["bytes"] for layer in stats["layers"]}
    rows = []
    for info in infos:
        users = [name for name, s in view.snapshots.items() if s.layers.get(info.kind) == info.id]
        badge = markup(' <span class="badge warn">approximate</span>') if info.approximate else ""
        rows.append(
            [
                info.kind,
                markup('{}{}<br><span class="id soft">{}</span>', info.detector, badge, info.id),
                info.version,
                markup("<code>{}</code>", info.schema),
                info.licence or "–",
                join(users, ", ") or markup('<span class="badge plain">not used</span>'),
                file_size(size[info.kind, info.id]),
            ]
        )
    note = markup(
        '<p class="soft"><span class="badge warn">approximate</span> The result stands in for that of a trained '
        "network. Regenerate the layer with <code>remot annotate</code> before relying on it.</p>"
    )
    head = ["layer", "detector", "version", "schema", "licence", "snapshots", "on disk"]
    return join(
        [
            table("Layers and the detectors that made them", head, rows, (6,)),
            *[note] * any(i.approximate for i in infos),
        ]
    )


def distributions(view: View) -> Html:
    if not view.clips:
        return markup("")
    charts = [histogram("clip length", "frames in each clip", np.array([c.frames for c in view.clips]))]
    names = dict.fromkeys(name for scores in view.scores.values() for name in scores)
    for name in sorted(names, key=lambda n: (list(_SCORES).index(n) if n in _SCORES else len(_SCORES), n)):
        values = known(name, np.concatenate([scores[name] for scores in view.scores.values() if name in scores]))
        charts.append(histogram(name.replace("_", " "), _SCORES.get(name, "a value a frame"), values))
    return markup('<div class="charts">{}</div>{}', join(charts), _classes(view))


def _classes(view: View) -> Html:
    """How much of the sampled frames each class of the layout covers."""
    if "parsing" not in view.folders:
        return markup("")
    ends = np.cumsum([clip.frames for clip in view.clips])
    counts, sampled = np.zeros(len(label_set("remot6")), np.int64), evenly(int(ends[-1]), _LABELLED)
    for place in sampled:
        clip = view.clips[number := int(np.searchsorted(ends, place, side="right"))]
        found = view.arrays("parsing", clip, [place - int(ends[number]) + clip.frames])
        if found is None:  # its detector failed there
            continue
        layout = convert_labels(found["labels"], view.schema["parsing"], "remot6")
        counts += np.bincount(layout.ravel(), minlength=len(counts))
    person = max(1, int(counts[1:].sum()))
    classes = layer_kinds.kind("parsing").legend("remot6")
    parts = [
        (f"{name} {100 * n / person:.1f} %", float(n), c) for (name, c), n in zip(classes, counts[1:], strict=True)
    ]
    rows = [["background", f"{100 * counts[0] / counts.sum():.1f} %", "–"]] + [
        [
            markup('<th scope=row><span class="swatch" style="background:{}"></span>{}</th>', colour, name),
            f"{100 * n / counts.sum():.1f} %",
            f"{100 * n / person:.1f} %",
        ]
        for (name, colour), n in zip(classes, counts[1:], strict=True)
    ]
    return markup(
        "<h3>Layout</h3>{}{}",
        bar(parts, "Share of the person: " + ", ".join(name for name, _, _ in parts)),
        table(
            f"The six classes of the layout over {plural(len(sampled), 'sampled frame')}",
            ["class", "of the frame", "of the person"],
            rows,
            (1, 2),
            "narrow",
        ),
    )


def times(view: View) -> Html:
    """Seconds by stage, and what was planned beside what it took."""
    return join([_times(view), plans(line for line in view.lines(HISTORY) if line["what"] == "planned")])


def _times(view: View) -> Html:
    spent = _spent(view)
    if not spent:
        return markup("")
    order = [
        "look through",
        *_TIMES["frames"].values(),
        "read frames back",
        *layer_kinds.BUILT_IN,
        "encode layers",
        "write layers",
    ]
    longest = max(seconds for seconds, _ in spent.values()) or 1
    rows = [
        [
            stage,
            f"{seconds:,.1f}",
            count(frames),
            count(frames / seconds) if seconds > 0 else "–",
            markup(
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
    return table(
        f"Seconds of all workers and threads together, {total:,.1f} in all, by stage",
        ["stage", "seconds", "frames", "frames/s", ""],
        rows,
        (1, 2, 3),
    )


def _spent(view: View) -> dict[str, tuple[float, int]]:
    """Stage -> seconds of all workers, and the frames they went through."""
    spent: dict[str, tuple[float, int]] = {}

    def add(stage: str, seconds: float, frames: int) -> None:
        before = spent.get(stage, (0.0, 0))
        spent[stage] = before[0] + seconds, before[1] + frames

    with reading(f"{view.store.url}/ledger/{SCAN}"):
        for line in view.inputs:
            add("look through", line["seconds"], line["frames"]["decoded"])
    for task, frames, seconds in view.receipts:
        names = _TIMES.get(task.split("/")[0], {})
        for stage, value in seconds.items():
            add(names.get(stage, stage), value, frames)
    return spent
