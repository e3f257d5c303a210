"""What layers were made from, as a picture: frames at the left, what reads them to the right, stale parts marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from remot_data.records import BOXES, LayerInfo
from remot_data.report.html import Html, join, markup

_WIDE, _HIGH, _APART, _BETWEEN = 190, 40, 14, 44  # of a box, and between boxes


def lineage(infos: Sequence[LayerInfo], stale: Mapping[str, str], used: Mapping[str, Sequence[str]]) -> Html:
    """A box for the frames and for each layer, an arrow from each that it reads.

    Args:
        stale: ``kind/id`` -> why, for layers that were made from something else than what is there now.
        used: ``kind/id`` -> snapshots that hold it.
    """
    if not infos:
        return Html("")
    names = {info.folder: f"{info.kind}/{info.id}" for info in infos}
    reads = {info.folder: [f for f in info.reads.values() if f in names] for info in infos}
    column: dict[str, int] = {"frames": 0}

    def depth(folder: str) -> int:
        if folder not in column:
            column[folder] = 1 + max((depth(other) for other in reads[folder]), default=0)
        return column[folder]

    for info in infos:
        depth(info.folder)
    rows: dict[int, int] = {}
    place: dict[str, tuple[int, int]] = {}
    for folder, x in sorted(column.items(), key=lambda item: item[1]):
        y = rows.get(x, 0)
        rows[x] = y + 1
        place[folder] = x * (_WIDE + _BETWEEN), y * (_HIGH + _APART)
    arrows = [(source, info.folder) for info in infos for source in (reads[info.folder] or ["frames"])]
    boxes = [_box("frames", "boxes too" if any(BOXES in i.inputs for i in infos) else "", place["frames"], "plain", "")]
    for info in infos:
        name = names[info.folder]
        why, holders = stale.get(name, ""), ", ".join(used.get(name, ()))
        kind = "stale" if why else "used" if holders else "plain"
        about = f"stale: {why}" if why else f"in {holders}" if holders else "in no snapshot"
        boxes.append(_box(info.kind, info.id, place[info.folder], kind, about))
    wide = (1 + max(column.values())) * (_WIDE + _BETWEEN) - _BETWEEN
    high = max(rows.values()) * (_HIGH + _APART) - _APART
    return markup(
        '<figure class="lineage"><svg viewBox="-2 -2 {} {}" style="max-width:{}px" role="img" '
        'aria-label="What each layer was made from">{}{}</svg></figure>',
        wide + 4,
        high + 4,
        wide,
        join(_arrow(place[a], place[b]) for a, b in arrows),
        join(boxes),
    )


def _box(title: str, name: str, at: tuple[int, int], kind: str, about: str) -> Html:
    x, y = at
    return markup(
        '<g class="{}"><title>{}</title><rect x="{}" y="{}" width="{}" height="{}" rx="5"/>'
        '<text x="{}" y="{}">{}</text><text class="soft" x="{}" y="{}">{}</text></g>',
        *(kind, f"{title} {name}: {about}" if about else title, x, y, _WIDE, _HIGH),
        *(x + 8, y + 16, title + (" (stale)" if kind == "stale" else ""), x + 8, y + 32, name),
    )


def _arrow(a: tuple[int, int], b: tuple[int, int]) -> Html:
    x0, y0, x1, y1 = a[0] + _WIDE, a[1] + _HIGH // 2, b[0], b[1] + _HIGH // 2
    middle = (x0 + x1) // 2
    return markup('<path class="arrow" d="M{} {}C{} {} {} {} {} {}"/>', x0, y0, middle, y0, middle, y1, x1, y1)
