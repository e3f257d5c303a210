"""Who is who in the looks at a shot: boxes linked into tracks by where persons move and by what they wear.

Boxes of successive looks are assigned to tracks all at once (`scipy.optimize.linear_sum_assignment`), by the distance
from where each track is expected, by size and by colours. Then tracks that exchanged their persons where they crossed
are put right, and pieces of one person's track are joined. All limits are in seconds and in heights of the person.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from remot_data import persons
from remot_data.persons import Person
from remot_data.store import boxes

LOST = 1.0  # seconds that a track waits for its person; a longer absence parts the clips of a track
_SLACK = 0.3  # heights that a box may be off where its track is expected: arms move it, too
_SPEED = 4.0  # heights a second of a person of whom nothing is known
_TURN = 1.6  # heights a second by which a known speed may be wrong
_COASTS = 0.5  # seconds that a person who is not seen is thought to go on as before
_GROWS = 0.7  # of the logarithm of heights, at once: who crouches
_ALIKE = 0.3  # of `persons.differ`: below it two looks may well be of one person
_SAME = 0.2  # and below it they are, where nobody else in view looks so
_OTHER = 0.8  # above it they are of two, however near: one takes the other's place
_MIXED = 0.6  # share of a box that others cover above which it may well be made of them,
_BEHIND = 0.45  # so that colours decide sooner
_MEETS = 0.8  # heights between the middles of two who may be mixed up
_TELLS = 0.08  # by which colours have to be nearer after a crossing to be believed
_CLEAN = 0.15  # share of a box that others may cover where its colours count
_SURE = 3  # looks that make a track
_FEW = 24  # ways that are tried one by one: scipy takes as long to import as all else that `remot build` needs


@dataclass
class Track:
    """One person through a shot: what was seen, in the order of the looks, and at which seconds."""

    seen: list[Person] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    @property
    def weight(self) -> float:
        """By which the main person is told: the sum of score times the area of the box."""
        return sum(p.score * (p.box[2] - p.box[0]) * persons.height(p.box) for p in self.seen)

    def add(self, time: float, person: Person) -> None:
        self.seen.append(person)
        self.times.append(time)


def track(looks: Sequence[Sequence[Person]], times: Sequence[float]) -> list[Track]:
    """The tracks of one shot, that of the main person first, then by weight.

    Args:
        looks: persons of each look, with `colours`.
        times: seconds of the looks, increasing.

    Boxes that a finder has tracked itself stay together. A track that fewer than three sure looks show is none, unless
    there are no more looks.
    """
    pieces = _found(looks, times) if any(p.track is not None for look in looks for p in look) else _linked(looks, times)
    covered = _covered(looks)
    _put_right(pieces, covered)
    joined = _joined(pieces, covered)
    least = min(_SURE, len(looks))
    real = [t for t in joined if sum(p.sure for p in t.seen) >= least]
    return sorted(real, key=lambda t: (-t.weight, t.times[0]))


def _found(looks: Sequence[Sequence[Person]], times: Sequence[float]) -> list[Track]:
    """The tracks of a finder that tracks; whom it could not place stands alone."""
    made: dict[int, Track] = {}
    alone: list[Track] = []
    for time, look in zip(times, looks, strict=True):
        for person in look:
            if person.track is None:
                alone.append(Track([person], [time]))
            else:
                made.setdefault(person.track, Track()).add(time, person)
    return [*made.values(), *alone]


def alike(one: Track, others: Sequence[Track]) -> Track | None:
    """Who of others wears most nearly what `one` does, as in another shot; None where nobody does."""
    mine = _wears(one.seen, {})
    if mine is None:
        return None
    found = [(persons.differ(mine, theirs), t) for t in others if (theirs := _wears(t.seen, {})) is not None]
    best = min(found, key=lambda pair: pair[0], default=None)
    return best[1] if best is not None and best[0] < _ALIKE else None


def packed(pts: np.ndarray, looks: Sequence[Sequence[Person]], number: Mapping[int, int]) -> str:
    """Who was seen where in a video, as `remot_data.store.boxes.pack` has it.

    Args:
        pts: int64 [L], of each look.
        number: id of a person -> number of her track. Weak boxes in no track are left out.
    """
    rows = [(look, p) for look, found in enumerate(looks) for p in found if p.sure or id(p) in number]
    return boxes.pack(
        pts,
        np.array([look for look, _ in rows], np.int64),
        np.array([number.get(id(p), -1) for _, p in rows], np.int64),
        np.array([p.box for _, p in rows], np.float64).reshape(-1, 4),
        np.array([p.score for _, p in rows], np.float64),
    )


# Linking


class _Live(Track):
    """A track that is being made: where its person is expected."""

    def __init__(self, time: float, person: Person) -> None:
        super().__init__()
        self.speed = np.zeros(2)
        self.colours = person.colours
        self.add(time, person)

    def add(self, time: float, person: Person, is_clean: bool = True) -> None:
        centre = _centre(person)
        if self.seen:
            passed = max(time - self.times[-1], 1e-3)
            speed = (centre - _centre(self.seen[-1])) / passed
            # Noise of boxes counts for less the more time lies between them.
            keep = 0.0 if len(self.seen) == 1 else 0.5 * np.exp(-passed)
            self.speed = keep * self.speed + (1 - keep) * speed
        super().add(time, person)
        if is_clean and person.colours is not None:
            old = person.colours if self.colours is None else self.colours
            self.colours = old + 0.2 * (person.colours - old)

    def cost(self, time: float, person: Person, hidden: float) -> float:
        """How badly a box fits, of which others cover the share `hidden`: 0 to about 3; inf where it cannot be hers."""
        last, passed = self.seen[-1], time - self.times[-1]
        tall = max(persons.height(last.box), persons.height(person.box), 1.0)
        expected = _centre(last) + self.speed * min(passed, _COASTS)
        reach = _SLACK + passed * (_TURN if len(self.seen) > 1 else _SPEED)
        if not person.sure:
            reach = min(reach, _SLACK)
        away = float(np.hypot(*(_centre(person) - expected))) / tall
        grown = abs(np.log(max(persons.height(person.box), 1.0) / max(persons.height(last.box), 1.0)))
        if away > reach or grown > _GROWS * (1 + passed):
            return np.inf
        a, b = self.colours, person.colours
        other = persons.differ(a, b) if a is not None and b is not None else 0.0
        if other > (_OTHER if hidden <= _MIXED else _BEHIND):
            return np.inf
        return away / reach + 0.5 * grown + 2.0 * other - 0.5 * persons.overlap(last.box, person.box)


def _centre(person: Person) -> np.ndarray:
    x0, y0, x1, y1 = person.box
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2])


def _linked(looks: Sequence[Sequence[Person]], times: Sequence[float]) -> list[Track]:
    live: list[_Live] = []
    done: list[_Live] = []
    for time, look in zip(times, looks, strict=True):
        hidden = _covered([look])
        done += [t for t in live if time - t.times[-1] > LOST]
        live = [t for t in live if time - t.times[-1] <= LOST]
        left = list(look)
        waiting = list(live)
        for sure in (True, False):
            chosen = [p for p in left if p.sure == sure]
            for t, p in _assigned(waiting, chosen, time, hidden):
                t.add(time, p, hidden[id(p)] <= _CLEAN)
                waiting = [w for w in waiting if w is not t]
                left = [q for q in left if q is not p]
        live += [_Live(time, p) for p in left if p.sure]
    return [*done, *live]


def _assigned(
    tracks: Sequence[_Live], found: Sequence[Person], time: float, hidden: Mapping[int, float]
) -> list[tuple[_Live, Person]]:
    """Each box with the track that it fits, so that the costs of all are least."""
    if not tracks or not found:
        return []
    costs = np.array([[t.cost(time, p, hidden[id(p)]) for p in found] for t in tracks])
    return [(tracks[i], found[j]) for i, j in _least(costs)]


def _least(costs: np.ndarray) -> list[tuple[int, int]]:
    """The assignment [rows, columns] of least cost, as many as can be, without those of inf."""
    can = np.isfinite(costs)
    lines, places = np.flatnonzero(can.any(1)), np.flatnonzero(can.any(0))
    if not len(lines):
        return []
    left = np.where(can, costs, 1e6)[np.ix_(lines, places)]
    tall = left.shape[0] > left.shape[1]
    rows, columns = _fitted(left.T if tall else left)
    if tall:
        rows, columns = columns, rows
    found = ((int(lines[i]), int(places[j])) for i, j in zip(rows, columns, strict=True))
    return [(i, j) for i, j in found if can[i, j]]


def _fitted(costs: np.ndarray) -> tuple[Sequence[int], Sequence[int]]:
    """The rows of a table that is at least as wide as high, and the column of each in the assignment of least cost."""
    rows = list(range(len(costs)))
    if math.perm(costs.shape[1], len(costs)) <= _FEW:
        ways = itertools.permutations(range(costs.shape[1]), len(costs))
        return rows, min(ways, key=lambda way: float(costs[rows, list(way)].sum()))
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(costs)


# Colours of tracks


def _share_covered(person: Person, look: Sequence[Person]) -> float:
    return max((persons.share(person.box, other.box) for other in look if other is not person), default=0.0)


def _covered(looks: Sequence[Sequence[Person]]) -> dict[int, float]:
    """id of each person in the looks -> the share of her box that another's covers."""
    return {id(p): _share_covered(p, look) for look in looks for p in look}


def _wears(people: Sequence[Person], covered: dict[int, float]) -> np.ndarray | None:
    """The mean colours of those looks in which nobody else is in the box, or of all where there is none."""
    told = [(p.colours, covered.get(id(p), 0.0)) for p in people if p.colours is not None]
    clean = [wears for wears, hidden in told if hidden <= _CLEAN] or [wears for wears, _ in told]
    return np.mean(clean, axis=0) if clean else None


# Crossings


def _put_right(pieces: list[Track], covered: dict[int, float]) -> None:
    """Exchange the rest of two tracks from where they met, if their colours say that they were mixed up there."""
    for a, b in itertools.combinations(pieces, 2):
        for run in _meetings(a, b):
            _exchange(a, b, run, covered)


def _meetings(a: Track, b: Track) -> list[list[float]]:
    """Seconds of the looks at each time that two tracks were so near that they could be mixed up."""
    met: list[list[float]] = []
    at = dict(zip(b.times, b.seen, strict=True))
    for time, person in zip(a.times, a.seen, strict=True):
        other = at.get(time)
        if other is not None and np.hypot(*(_centre(person) - _centre(other))) < _MEETS * persons.height(person.box):
            if met and time - met[-1][-1] < LOST:
                met[-1].append(time)
            else:
                met.append([time])
    return met


def _exchange(a: Track, b: Track, run: Sequence[float], covered: dict[int, float]) -> None:
    """Exchange what comes after the look of a meeting at which the colours change places, if they do."""
    a0, b0 = (_wears([p for t, p in zip(x.times, x.seen, strict=True) if t < run[0]], covered) for x in (a, b))
    a1, b1 = (_wears([p for t, p in zip(x.times, x.seen, strict=True) if t > run[-1]], covered) for x in (a, b))
    if a0 is None or a1 is None or b0 is None or b1 is None:
        return
    stay = persons.differ(a0, a1) + persons.differ(b0, b1)
    change = persons.differ(a0, b1) + persons.differ(b0, a1)
    if change >= stay - 2 * _TELLS:
        return
    # At each look: by how much they look exchanged. The cut has the looks that do behind it.
    seen_at = [dict(zip(x.times, x.seen, strict=True)) for x in (a, b)]
    told = [_looks_exchanged(seen_at[0].get(t), seen_at[1].get(t), a0, b0) for t in run]
    behind = [sum(told[n:]) - sum(told[:n]) for n in range(len(run) + 1)]
    first = int(np.argmax(behind))
    time = run[first] if first < len(run) else np.nextafter(run[-1], np.inf)
    cut = [int(np.searchsorted(x.times, time, side="left")) for x in (a, b)]
    tails = [(x.seen[n:], x.times[n:]) for x, n in zip((a, b), cut, strict=True)]
    for x, n, (seen, times) in zip((a, b), cut, reversed(tails), strict=True):
        x.seen[n:], x.times[n:] = seen, times


def _looks_exchanged(a: Person | None, b: Person | None, a0: np.ndarray, b0: np.ndarray) -> float:
    """By how much two persons wear rather what the other wore before, below 0 where rather their own."""
    told = 0.0
    for person, own, other in ((a, a0, b0), (b, b0, a0)):
        if person is not None and person.colours is not None:
            told += persons.differ(person.colours, own) - persons.differ(person.colours, other)
    return told


# Joining


def _joined(pieces: Sequence[Track], covered: dict[int, float]) -> list[Track]:
    """Pieces of one person's track put together, over gaps in which she was not seen."""
    tracks = sorted((t for t in pieces if t.seen), key=lambda t: t.times[0])
    wears = [_wears(t.seen, covered) for t in tracks]
    costs = np.full((len(tracks), len(tracks)), np.inf)
    for i, j in itertools.permutations(range(len(tracks)), 2):
        if tracks[i].times[-1] < tracks[j].times[0]:
            costs[i, j] = _join_cost(tracks, wears, i, j)
    follows = dict(_least(costs)) if len(tracks) else {}
    made: list[Track] = []
    for i in sorted(set(range(len(tracks))) - set(follows.values())):
        whole, at = Track(), i
        while True:
            whole.seen += tracks[at].seen
            whole.times += tracks[at].times
            if at not in follows:
                break
            at = follows[at]
        made.append(whole)
    return made


def _join_cost(tracks: Sequence[Track], wears: Sequence[np.ndarray | None], i: int, j: int) -> float:
    before, after = tracks[i], tracks[j]
    gap = after.times[0] - before.times[-1]
    last, first = before.seen[-1], after.seen[0]
    tall = max(persons.height(last.box), persons.height(first.box), 1.0)
    away = float(np.hypot(*(_centre(first) - _centre(last)))) / tall
    a, b = wears[i], wears[j]
    other = persons.differ(a, b) if a is not None and b is not None else _ALIKE
    near = away < _SLACK + _TURN * gap and gap <= 2 * LOST
    if other < (_ALIKE if near else _SAME) and (near or not _has_double(tracks, wears, i, j)):
        return other + 0.05 * gap + (0.0 if near else 0.2)
    return np.inf


def _has_double(tracks: Sequence[Track], wears: Sequence[np.ndarray | None], i: int, j: int) -> bool:
    """Whether somebody who is in view with one of two tracks looks like it, so that colours do not tell."""
    for k, other in enumerate(tracks):
        for known in (i, j):
            together = other.times[0] <= tracks[known].times[-1] and tracks[known].times[0] <= other.times[-1]
            a, b = wears[k], wears[known]
            if k not in (i, j) and together and a is not None and b is not None and persons.differ(a, b) < _SAME:
                return True
    return False
