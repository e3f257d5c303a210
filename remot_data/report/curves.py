"""Scores as small curves under a clip's film, with what a filter does not let through marked, and its worst frame."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from remot_data.reading.filters import DEFAULT, conditions, passing
from remot_data.report.html import Html, join, markup, short

_HIGH = 18  # of a curve, in the units of its drawing; it is as wide as there are frames
_SHOWN = 8  # curves under a clip: those whose limit is passed furthest, then the others in the order of the filter


def curves(scores: Mapping[str, np.ndarray], which: range, filter_: str = "") -> Html:
    """Curves of the scores that a filter looks at, over the frames `which` that a film shows.

    A click on a curve shows that frame, and so does the button for the worst one.

    Args:
        scores: values of every frame of the clip, by name; below 0 is what nothing is known of.
        filter_: the snapshot's; where it looks at no score, that of new stores.
    """
    limits = _limits(filter_, scores) or _limits(DEFAULT, scores)
    if not limits or len(which) < 2:
        return Html("")
    shown = {name: np.asarray(scores[name], float)[list(which)] for name in limits}
    over = {name: _excess(values, *limits[name]) for name, values in shown.items()}
    order = sorted(limits, key=lambda name: -float(over[name].max()))[:_SHOWN]
    total = np.sum(list(over.values()), axis=0)
    worst = int(total.argmax())
    bad = [name for name in order if over[name][worst] > 0]
    words = (
        f"worst frame: {which[worst]} ({', '.join(n.replace('_', ' ') for n in bad)})" if bad else "no frame is wrong"
    )
    button = markup('<button type="button" data-frame="{}">{}</button>', worst, words) if bad else markup("{}", words)
    rows = join(_curve(name, shown[name], over[name] > 0, limits[name]) for name in order)
    return markup('<div class="curves" data-frames="{}"><p>{}</p>{}</div>', len(which), button, rows)


def _limits(filter_: str, scores: Mapping[str, np.ndarray]) -> dict[str, tuple[str, float]]:
    """Score -> operator and limit, of the conditions on scores."""
    found = {}
    for name, sign, text in conditions(filter_):
        if name in scores and sign in ("<", "<=", ">", ">="):
            found[name] = sign, float(text)
    return found


def _excess(values: np.ndarray, sign: str, limit: float) -> np.ndarray:
    """How far values are beyond a limit, in spans of the limit or of the values; 0 where they pass."""
    fails = ~passing(f"x {sign} {limit}", {"x": values}, len(values))
    span = max(abs(limit), float(np.ptp(values)) / 4, 1e-9)
    return np.where(fails, np.abs(values - limit) / span + 0.01, 0.0)


def _curve(name: str, values: np.ndarray, fails: np.ndarray, limit: tuple[str, float]) -> Html:
    known = np.where(values < 0, np.nan, values)
    high = max(float(np.nanmax(known)) if not np.isnan(known).all() else 0.0, limit[1], 1e-9)
    wide = len(values) - 1

    def at(value: float) -> str:
        return f"{_HIGH * (1 - value / high):.1f}"

    points, pen = [], "M"
    for t, value in enumerate(known):
        if np.isnan(value):
            pen = "M"
            continue
        points.append(f"{pen}{t} {at(value)}")
        pen = "L"
    marks = join(
        markup('<rect x="{}" y="0" width="1" height="{}"/>', f"{t - 0.5:g}", _HIGH) for t in np.flatnonzero(fails)
    )
    return markup(
        '<div class="curve"><span>{name}</span><svg viewBox="0 0 {wide} {high}" preserveAspectRatio="none" role="img" '
        'aria-label="{name} of each frame, at most {most}; {count} frames beyond {sign} {limit}">'
        '<g class="bad">{marks}</g><path class="axis" d="M0 {line}H{wide}"/><path class="value" d="{points}"/>'
        '<path class="now" d="M0 0V{high}"/></svg><span>{most}</span></div>',
        name=name.replace("_", " "),
        wide=wide,
        high=_HIGH,
        most=short(high),
        count=int(fails.sum()),
        sign=limit[0],
        limit=f"{limit[1]:g}",
        marks=marks,
        line=at(min(limit[1], high)),
        points="".join(points),
    )
