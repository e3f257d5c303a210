"""Charts as SVG: how values are distributed, and how they change with the steps of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from remot_data.report.html import Html, count, join, markup, short

# Width of a chart, in the units of its own drawing; a chart is 96 high.
_WIDE = 220


def histogram(name: str, meaning: str, values: np.ndarray) -> Html:
    values = values[np.isfinite(values)].astype(float)
    if not len(values):
        return markup("<figure><figcaption><b>{}</b>: no values</figcaption></figure>", name)
    low, high, middle = float(values.min()), float(values.max()), float(np.median(values))
    whole = low == high or (bool((values == np.rint(values)).all()) and high - low < 24)
    edges = np.arange(low - 0.5, high + 0.6) if whole else np.linspace(low, high, 25)
    counts = np.histogram(values, edges)[0]
    height, most, step = 96.0, counts.max(), _WIDE / len(counts)
    thick = min(step - 2 * min(1, step / 8), 36.0)
    columns = (
        markup(
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
    spread = f"{short(low)} to {short(high)}"
    if low == high:
        ends = markup('<text x="{}" y="111" text-anchor="middle">{}</text>', at, short(low))
    else:
        ends = markup(
            '<text x="0" y="111">{}</text><text x="{}" y="111" text-anchor="end">{}</text>',
            short(low),
            _WIDE,
            short(high),
        )
    return markup(
        '<figure><figcaption><b>{name}</b>, {meaning}</figcaption><svg viewBox="-1 -6 222 122" role="img" '
        'aria-label="Histogram of {name}: {count} values from {spread}, median {middle}">{columns}'
        '<path class="axis" d="M0 96H220"/><path class="middle" d="M{at} -4V96"/>'
        "{ends}</svg><figcaption>{count} values, median {middle}</figcaption></figure>",
        name=name,
        meaning=meaning,
        count=count(len(values)),
        spread=spread,
        middle=short(middle),
        ends=ends,
        at=at,
        columns=join(columns),
    )


def curve(name: str, rows: Sequence[Mapping[str, float]]) -> Html:
    points = np.array([(row["step"], row[name]) for row in rows if name in row and np.isfinite(row[name])])
    if not len(points):
        return markup("")
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

    return markup(
        '<figure><figcaption><b>{name}</b> {last}</figcaption><svg viewBox="-1 -6 222 122" role="img" '
        'aria-label="Loss {name} by step, from {start} to {last}"><path class="axis" d="M0 96H220"/>'
        '<polyline class="raw" points="{raw}"/><polyline class="smooth" points="{smooth}"/>'
        '<text x="0" y="111">step {first}</text><text x="220" y="111" text-anchor="end">{end}</text>'
        '<text x="220" y="4" text-anchor="end">{low} – {high}</text></svg></figure>',
        name=name.replace("_", " "),
        start=short(float(smooth[0])),
        last=short(float(smooth[-1])),
        raw=line(raw),
        smooth=line(smooth),
        first=count(first),
        end=count(last),
        low=short(float(low)),
        high=short(float(high)),
    )


def _smoothed(values: np.ndarray, reach: int) -> np.ndarray:
    """The mean of each value and `reach` neighbours on both sides, as far as there are any."""
    window = np.ones(2 * reach + 1)
    total, number = (np.convolve(v, window)[reach : reach + len(values)] for v in (values, np.ones(len(values))))
    return total / number
