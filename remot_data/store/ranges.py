"""Ranges of files: those that lie close together as one request."""

from __future__ import annotations

import math
from collections.abc import Sequence

_GAP = 8192  # bytes between two ranges that are read along rather than asked for apart
_HEADER = 1024  # bytes between the members of a tar that follow each other, at most: these are always read along


def together(wanted: Sequence[tuple[str, int, int]], waste: float = math.inf) -> list[tuple[str, int, int]]:
    """What to ask for, to have all ranges; see `Files.pieces`."""
    ranges, gaps, reached = sorted(wanted), [], ("", 0)
    for at, (name, start, end) in enumerate(ranges):
        if name == reached[0] and start - reached[1] <= _GAP:
            gaps.append((max(start - reached[1], 0), at))
        reached = name, max(end, reached[1] if name == reached[0] else 0)
    most, total, merged = waste * sum(end - start for _, start, end in ranges), 0, set()
    for gap, at in sorted(gaps):
        total += gap
        if gap <= _HEADER or total <= most:
            merged.add(at)
    spans: list[tuple[str, int, int]] = []
    for at, (name, start, end) in enumerate(ranges):
        if at in merged:
            spans[-1] = (name, spans[-1][1], max(end, spans[-1][2]))
        else:
            spans.append((name, start, end))
    return spans


def cut_out(
    wanted: Sequence[tuple[str, int, int]], spans: Sequence[tuple[str, int, int]], found: Sequence[bytes]
) -> list[bytes]:
    """The bytes of the ranges `wanted` out of those of the ranges `spans` that `together` made of them."""
    held: dict[str, list[tuple[int, memoryview]]] = {}
    for (name, start, _), data in zip(spans, found, strict=True):
        held.setdefault(name, []).append((start, memoryview(data)))

    def piece(name: str, start: int, end: int) -> bytes:
        first, data = next(h for h in reversed(held[name]) if h[0] <= start)
        return bytes(data[start - first : end - first])

    return [piece(*one) for one in wanted]
