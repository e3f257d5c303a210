"""Joints carried over time: which of several looks at a frame is right, and which side is left.

Looks are float32 [P, T, 33, 3] of x, y, confidence in BlazePose's order, NaN and 0 where a pass did not look or found
nobody: the forward pass first, then the backward one and the mirrored picture.
"""

from __future__ import annotations

import numpy as np

from remot_data.detectors._doubts import RATE, pace, spans

FORWARD, BACKWARD, MIRRORED = range(3)
# Bits of the marks of a joint.
FILLED, EXCHANGED, OF_BACKWARD, OF_MIRRORED, DISPUTED = 1, 2, 4, 8, 16
_OF = np.array([0, OF_BACKWARD, OF_MIRRORED], np.uint8)
FILL = 0.2  # seconds between two frames that a joint is seen in over which it is filled in
UNKNOWN, UNIT = 255, 250  # of a disagreement that is not known; a height in its units
OTHER_SIDE = np.array(
    [0, 4, 5, 6, 1, 2, 3, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15, 18, 17, 20, 19, 22, 21, 24, 23, 26, 25, 28, 27, 30, 29]
    + [32, 31]
)
# What changes sides together: shoulders, arms from the elbow on, hips, legs from the knee on; where limbs begin, and on
# what joints they hang.
_SHOULDERS, _ARMS, _HIPS, _LEGS = _GROUPS = ([11, 12], list(range(13, 23)), [23, 24], list(range(25, 33)))
_GOES_ON, _FASTEST = (
    0.5,
    0.1,
)  # share of a joint's last step that it is expected to go on by; steps that count, in heights
_FARTHEST = 0.25  # of the height, from frame to frame: what lies further away is as bad
# What 1/25 s costs, in ways of one joint of four in heights: with left and right exchanged; of each pass. Sides of the
# mirrored picture alone are wrong three times as often as those of the others (benchmarks/gloves.py).
_EXCHANGE, _PASS = 0.035, np.array([0, 0.01, 0.03])
_TWIST = 1.0  # what it costs that hips lie the other way round than shoulders, for each height that they are apart
_SLOWEST = 2.0  # so many times 1/25 s a frame stands for at most
_MISSING = 1e3
_REACH = 1.0  # seconds over which joints that are unsure are helped by surer ones
_STEP = 0.1  # of the height: what an unsure joint may move from a frame to the next
_WAY = 0.2  # of the height: what a joint may move while it is filled in


def decide(looks: np.ndarray, heights: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best of several looks at each frame: bodies float32 [T, 33, 3], and marks uint8 [T, 33] of what was taken.

    The way through all frames is searched that goes on most evenly (Viterbi), over every look at shoulders, arms, hips
    and legs, each as it is and with left and right exchanged. Surer joints count more. Taking another look than that of
    the forward pass costs a little; exchanging the sides of the whole body costs more, for the network is mostly right,
    and so does exchanging a part alone, which then hangs on the wrong side of the others. Hips seldom lie the other way
    round than shoulders: legs that come close to each other do not change sides there.

    Args:
        heights: of the person, float [T] in pixels.
    """
    passes, frames = len(looks), np.arange(looks.shape[1])
    here = ~np.isnan(looks[:, :, 0, 0])
    # What no group holds is of the first pass that found somebody.
    first = np.where(here.any(0), here.argmax(0), FORWARD)
    bodies, marks = looks[first, frames].copy(), np.zeros(looks.shape[1:3], np.uint8)
    marks[:] = _OF[first][:, None]
    states = [_states(looks, group) for group in _GROUPS]
    ways = _cheapest([_moves(one, heights, pace(times)) for one in states], _prices(looks, heights, times))
    for group, one, way in zip(_GROUPS, states, ways, strict=True):
        bodies[:, group] = one[frames, way]
        taken = _OF[way % passes] | EXCHANGED * (way >= passes)
        marks[:, group] = np.where(here.any(0), taken, 0)[:, None]
    return bodies, marks


def _states(looks: np.ndarray, joints: list[int]) -> np.ndarray:
    """Joints in every look, and then with sides exchanged: [T, S = 2 P, J, 3]."""
    return np.concatenate([looks[:, :, joints], looks[:, :, OTHER_SIDE[joints]]]).swapaxes(0, 1)


def _moves(states: np.ndarray, heights: np.ndarray, paces: np.ndarray) -> np.ndarray:
    """What it costs to come to each state from each of the frame before: float32 [T, S, S], of the first frame 0.

    A joint is expected to go on as it came, by half of its last step: shoulders that cross in a turn do, and do not
    bounce off each other.
    """
    points, sure = np.nan_to_num(states[..., :2]), states[..., 2]
    out = np.zeros((len(states), states.shape[1], states.shape[1]), np.float32)
    last = np.where((sure[1:] * sure[:-1] > 0)[..., None], np.diff(points, axis=0), 0)
    near = np.hypot(last[..., 0], last[..., 1]) <= _FASTEST * (heights * paces)[1:, None, None]
    expected = points[:-1].copy()
    expected[1:] += (_GOES_ON * last * near[..., None])[:-1]
    step = points[1:, :, None] - expected[:, None]
    far = np.hypot(step[..., 0], step[..., 1]) / (heights * paces)[1:, None, None, None]
    out[1:] = 4 * (np.minimum(far, _FARTHEST) * np.sqrt(sure[1:, :, None] * sure[:-1, None])).mean(-1)
    return out


def _prices(looks: np.ndarray, heights: np.ndarray, times: np.ndarray) -> np.ndarray:
    """What states of shoulders, arms, hips and legs cost by themselves: float32 [T, S, S, S, S]."""
    passes = len(looks)
    lasts = np.clip(np.diff(times, prepend=times[:1]) * RATE, 0, _SLOWEST)[:, None, None]
    missing = np.where(np.isnan(looks[:, :, 0, 0]), _MISSING, 0).T
    one = np.tile(missing + lasts[..., 0] * _PASS[:passes], 2)
    sides = np.arange(2 * passes) >= passes
    other = _EXCHANGE * (sides[:, None] != sides)
    shoulders = one + lasts[..., 0] * _EXCHANGE * sides
    arms, legs = (
        one[:, None] + lasts * (other + _reach(looks, hangs, begins[:2], heights))
        for hangs, begins in ((_SHOULDERS, _ARMS), (_HIPS, _LEGS))
    )
    hips = one[:, None] + lasts * (other + _TWIST * _twist(looks, heights))
    upper, lower = shoulders[:, :, None] + arms, hips[..., None] + legs[:, None]
    return (upper[..., None, None] + lower[:, :, None]).astype(np.float32)


def _reach(looks: np.ndarray, hangs: list[int], begins: list[int], heights: np.ndarray) -> np.ndarray:
    """How far limbs begin from what they hang on, in heights, for each pair of states: [T, S, S]."""
    way = _states(looks, hangs)[:, :, None, :, :2] - _states(looks, begins)[:, None, ..., :2]
    return np.nan_to_num(np.hypot(way[..., 0], way[..., 1])).sum(-1) / heights[:, None, None]


def _twist(looks: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """How far hips are apart against the direction of the shoulders, in heights, for each pair of states: [T, S, S]."""
    across, hips = (np.diff(_states(looks, pair)[..., :2], axis=2)[:, :, 0] for pair in (_SHOULDERS, _HIPS))
    across = across / np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-6)
    along = np.nan_to_num(np.einsum("tac,tbc->tab", across, hips)) / heights[:, None, None]
    return np.maximum(-along, 0)


def _cheapest(moves: list[np.ndarray], prices: np.ndarray) -> np.ndarray:
    """The states of all groups, int [G, T], that together cost least from the first frame to the last.

    Moves of groups are added, so the best state before is searched group by group.
    """
    groups, count, shape = len(moves), len(prices), prices.shape[1:]
    came = np.zeros((count, groups, *shape), np.int8)
    cost = prices[0]
    for t in range(1, count):
        for group, move in enumerate(moves):
            over = np.moveaxis(cost, group, 0)[None] + move[t].reshape(*move[t].shape, *[1] * (groups - 1))
            came[t, group] = np.moveaxis(over.argmin(1), 0, group)
            cost = np.moveaxis(over.min(1), 0, group)
        cost = cost + prices[t]
    way = np.zeros((groups, count), np.int64)
    way[:, -1] = np.unravel_index(cost.argmin(), shape)
    for t in range(count - 1, 0, -1):
        now = way[:, t].copy()
        for group in reversed(range(groups)):
            now[group] = came[t, group][tuple(now)]
        way[:, t - 1] = now
    return way


def helped(bodies: np.ndarray, heights: np.ndarray, times: np.ndarray, threshold: float) -> np.ndarray:
    """Which joints count as seen, bool [T, 33]: those of enough confidence, and those that these vouch for.

    A joint of a third of the threshold or more is helped by one that is seen within a second, before or after, if it
    moves little from frame to frame all the way from there.
    """
    sure = bodies[..., 2] >= threshold
    steps = np.diff(bodies[..., :2], axis=0) / heights[1:, None, None]
    calm = np.hypot(steps[..., 0], steps[..., 1]) < _STEP * pace(times)[1:, None]
    maybe = bodies[..., 2] >= threshold / 3
    seen = sure.copy()
    for order in (range(1, len(bodies)), range(len(bodies) - 2, -1, -1)):
        since = np.where(sure, 0.0, np.inf)
        for t in order:
            before = t - 1 if order.step > 0 else t + 1
            link = maybe[t] & calm[min(t, before)]
            since[t] = np.where(link, np.minimum(since[t], since[before] + abs(times[t] - times[before])), since[t])
        seen |= since <= _REACH
    return seen


def fill(bodies: np.ndarray, seen: np.ndarray, heights: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Fill in single joints that are lost for a moment, in place; returns which, bool [T, 33].

    On the straight line between the frames before and after, which are at most 0.2 s apart, and only where the body is
    found. The confidence is half the smaller one of these two.
    """
    filled = np.zeros(seen.shape, bool)
    found = ~np.isnan(bodies[:, 0, 0])
    for joint in range(seen.shape[1]):
        for start, stop in spans(~seen[:, joint]):
            a, b = start - 1, stop
            if a < 0 or b == len(seen) or times[b] - times[a] > FILL + 1e-9 or not found[start:stop].all():
                continue
            (x, y), (u, v) = bodies[a, joint, :2], bodies[b, joint, :2]
            if np.hypot(u - x, v - y) > _WAY * heights[a]:
                continue
            part = ((times[start:stop] - times[a]) / (times[b] - times[a]))[:, None]
            bodies[start:stop, joint, :2] = (1 - part) * (x, y) + part * (u, v)
            bodies[start:stop, joint, 2] = min(bodies[a, joint, 2], bodies[b, joint, 2]) / 2
            filled[start:stop, joint] = True
    return filled


def apart(looks: np.ndarray, bodies: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far the backward and the mirrored look lie from what was taken, and where one calls the sides otherwise.

    Of shoulders, arms, hips and legs each with the sides that are nearer: which side is which is decided over time
    (`decide`); looks that only differ in that saw the same body.

    Returns:
        uint8 [T, 33] in 1/250 of the height, 255 where neither looked, and for joints that are not seen; and marks
        uint8 [T, 33], `DISPUTED` or 0.
    """
    widest, known, seen = np.zeros(bodies.shape[:2]), np.zeros(len(bodies), bool), bodies[..., 2] > 0
    marks = np.zeros(bodies.shape[:2], np.uint8)
    for look in looks[BACKWARD:]:
        here = ~np.isnan(look[:, 0, 0])
        far, exchanged = (
            np.where(seen, np.hypot(*np.moveaxis(one[..., :2] - bodies[..., :2], -1, 0)) / heights[:, None], 0)
            for one in (look, look[:, OTHER_SIDE])
        )
        for group in _GROUPS:
            nearer = exchanged[:, group[:4]].max(1) < far[:, group[:4]].max(1)
            far[:, group] = np.where(nearer[:, None], exchanged[:, group], far[:, group])
            marks[:, group] |= np.uint8(DISPUTED) * (nearer & here)[:, None]
        widest[here] = np.maximum(widest, far)[here]
        known |= here
    told = np.where(known[:, None] & seen, np.minimum(np.rint(widest * UNIT), UNIT), UNKNOWN)
    return told.astype(np.uint8), marks
