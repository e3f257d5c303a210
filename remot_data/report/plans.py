"""What plans had said beside what the runs then took, as `remot_data.care.planned` writes it down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from remot_data.report.html import Html, count, table


def plans(lines: Iterable[Mapping[str, Any]]) -> Html:
    """A table with a row for each stage of each run that was planned, and one for the whole; empty without one."""
    rows = []
    for line in lines:
        workers, many = line["workers"], len(line["stages"]) > 1
        who = f"{line['command']}, {workers} worker{'s' * (workers > 1)}"
        for stage in line["stages"]:
            rows.append([who, f"{stage['what']}: {count(stage['todo'])} {stage['unit']}", *_pair(stage["wall"])])
            who = ""
        if many:
            rows.append(["", "in all, until the command ended", *_pair(line["wall"])])
        if None not in line["cpu"]:
            rows.append(["", "CPUs, added up", *_pair(line["cpu"])])
    if not rows:
        return Html("")
    head = ["run", "", "planned", "took", "planned / took"]
    return table("What --plan had said beside what it took, in seconds", head, rows, range(2, 5), "narrow")


def _pair(pair: tuple[float | None, float | None]) -> list[Any]:
    planned, took = pair
    texts = ["unknown" if seconds is None else f"{seconds:,.1f}" for seconds in pair]
    if planned is None or not took:
        return [*texts, "–"]
    return [*texts, f"{planned / took:.2f}"]
