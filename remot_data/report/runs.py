"""What was trained from the store: the settings, losses, samples, metrics and films that a run folder holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from remot_data import media
from remot_data.media import in_child, sandbox
from remot_data.report.charts import curve
from remot_data.report.errors import ReportError, reading
from remot_data.report.html import Html, data_url, facts, file_size, join, markup, plural, table
from remot_data.report.plans import plans
from remot_data.store.layers._images import to_jpeg

# A film of a run that is larger is named instead of shown.
_EMBEDDED = 24 << 20

# Metrics in the order of the table: title, and whether more is better.
_METRICS = {
    "ssim": ("SSIM", True), "psnr": ("PSNR", True), "mask_ssim": ("Mask-SSIM", True), "mask_psnr": ("Mask-PSNR", True),
    "lpips": ("LPIPS", False), "fid": ("FID", False), "tcm": ("TCM", True), "tcm_masked": ("TCM, unoccluded", True),
}  # fmt: skip


def run_section(run: Path) -> Html:
    if not run.is_dir():
        raise ReportError(f"{run} is no run folder: it is not there; make one with `remot train`")
    parts = [_settings(run), *(_stage(folder) for folder in _stages(run)), _planned(run / "planned.jsonl")]
    parts += [_evaluation(run / "evaluation"), _films(run)]
    return join(parts) or markup("<p>There is nothing in this run folder yet.</p>")


def _json(path: Path) -> dict[str, Any]:
    """The content of a JSON file, empty if it is not there."""
    if not path.exists():
        return {}
    with reading(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
    return content


def _settings(run: Path) -> Html:
    info = _json(run / "config.json")
    if not info:
        return markup("")
    with reading(run / "config.json"):
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
        return markup('<dl class="facts panel">{}</dl>', facts((k, v) for k, v in known if v not in (None, "")))


def _stages(run: Path) -> list[Path]:
    """The stage folders of a run in the order of training."""
    order = ("layout", "region", "whole")
    found = {p.parent for p in (*run.glob("*/stats.jsonl"), *run.glob("*/samples"))}
    return sorted(found, key=lambda p: (order.index(p.name) if p.name in order else len(order), p.name))


def _stage(folder: Path) -> Html:
    rows, speeds = (_rows(folder / name) for name in ("stats.jsonl", "speed.jsonl"))
    names = dict.fromkeys(k for row in rows for k in row if k not in ("step", "lr"))
    progress = plural(int(rows[-1]["step"]), "step") if rows else ""
    if rows and speeds:
        seconds = speeds[-1].get("seconds", 0)
        progress += f" in {seconds:,.0f} s"
        progress += f", {speeds[-1]['step'] / seconds:.2f} steps a second" if seconds else ""
    charts = join(curve(name, rows) for name in names)
    pictures = sorted((folder / "samples").glob("*.png"))
    return markup(
        "<h3>Stage {}</h3>{}{}{}",
        folder.name,
        markup('<p class="soft">{}. Losses: each step faint, smoothed over it.</p>', progress) if progress else "",
        markup('<div class="charts">{}</div>', charts) if charts else "",
        _picture(pictures[-1], f"Samples of the {folder.name} stage, {pictures[-1].stem}") if pictures else "",
    )


def _planned(path: Path) -> Html:
    if not path.exists():
        return Html("")
    with reading(path):
        return plans(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def _rows(path: Path) -> list[dict[str, float]]:
    """The lines of a file of losses or speeds; a last line cut off by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], 1):
        with reading(f"line {number} of {path}"):
            row = {name: float(value) for name, value in json.loads(line).items()}
            if "step" not in row:
                raise ValueError("it has no step")
            rows.append(row)
    return rows


def _picture(path: Path, caption: str) -> Html:
    content = path.read_bytes()
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if image is None:
        raise ReportError(f"{path} is no readable picture; make it again, or remove it")
    return markup(
        '<figure class="picture"><img width="{}" height="{}" alt="{}" src="{}"><figcaption>{}</figcaption></figure>',
        image.shape[1],
        image.shape[0],
        caption,
        data_url("image/png", content),
        caption,
    )


def _evaluation(folder: Path) -> Html:
    report = _json(folder / "metrics.json")
    pictures = [_picture(p, f"Evaluation, {p.stem}") for p in sorted(folder.glob("*.png"))]
    if not report and not pictures:
        return markup("")
    with reading(folder / "metrics.json"):
        measured = _measured(report) if report else []
    return join([markup("<h3>Evaluation</h3>"), *measured, *pictures])


def _measured(report: Mapping[str, Any]) -> list[Html]:
    conditions = ", ".join(
        f"{name} {'×'.join(map(str, value)) if isinstance(value, list) else value}"
        for name in ("preset", "size", "split", "clips", "windows", "frames")
        if (value := report.get(name)) is not None
    )
    parts = [_metrics("Self-reenactment" + (f": {conditions}" if conditions else ""), report.get("methods") or {})]
    told = [(_METRICS.get(k, (k, True))[0], text) for k, text in (report.get("conventions") or {}).items()]
    told += [
        (_METRICS.get(k, (k, True))[0], f"not measured; {v}") for k, v in (report.get("unavailable") or {}).items()
    ]
    if report.get("background", "layer") != "layer":
        told.append(("background", report["background"]))
    items = (markup("<li><b>{}</b>: {}</li>", *item) for item in told)
    parts.append(markup('<ul class="soft">{}</ul>', join(items)) if told else markup(""))
    return [*parts, _published(report.get("published") or {})]


def _metrics(caption: str, methods: Mapping[str, Mapping[str, float | None]]) -> Html:
    """A table of metrics, a method a row; the best of each column stands out."""
    known = [m for m in _METRICS if any(row.get(m) is not None for row in methods.values())]
    if not known:
        return markup("")
    rows = []
    for method, row in methods.items():
        cells: list[Any] = [method]
        for metric in known:
            value, more = row.get(metric), _METRICS[metric][1]
            others = [v for r in methods.values() if (v := r.get(metric)) is not None]
            best = len(others) > 1 and value is not None and value == (max if more else min)(others)
            text = "–" if value is None else f"{value:.{2 if metric.endswith(('psnr', 'fid')) else 3}f}"
            cells.append(markup('<b class="best">{}</b>', text) if best else text)
        rows.append(cells)
    head = ["method", *(f"{title} {'↑' if more else '↓'}" for title, more in (_METRICS[m] for m in known))]
    return table(
        f"{caption}. ↑ more is better, ↓ less is better; the best of a column is bold.", head, rows, range(1, len(head))
    )


def _published(published: Mapping[str, Any]) -> Html:
    tables = [_metrics(f"{name}, published", rows) for name, rows in (published.get("tables") or {}).items()]
    if not tables:
        return markup("")
    return markup(
        "<details><summary>Published numbers ({})</summary><p>{}</p>{}</details>",
        published.get("source", ""),
        published.get("note", ""),
        join(tables),
    )


def _films(run: Path) -> Html:
    paths = sorted(p for p in run.rglob("*.mp4") if not p.name.startswith("."))
    if not paths:
        return markup("")
    shown = (_video(path, path.relative_to(run).as_posix()) for path in paths)
    return markup('<h3>Videos</h3><div class="films">{}</div>', join(shown))


def _video(path: Path, name: str) -> Html:
    try:
        probe, poster = in_child.probe(path), in_child.first_frame(path)
    except (media.VideoError, sandbox.ChildError) as error:
        raise ReportError(f"{path} is no readable video ({error.detail}); make it again, or remove it") from error
    size = path.stat().st_size
    if size > _EMBEDDED:
        return markup(
            "<figure><figcaption><b>{}</b>, {}: too large to be shown here</figcaption></figure>", name, file_size(size)
        )
    return markup(
        '<figure><video loop playsinline controls preload="metadata" width="{}" height="{}" aria-label="{}" '
        'poster="{}" src="{}"></video><figcaption>{}</figcaption></figure>',
        *probe.size,
        f"Video {name}",
        data_url("image/jpeg", to_jpeg(poster)),
        data_url("video/mp4", path.read_bytes()),
        f"{name}, {probe.seconds:.1f} s",
    )
