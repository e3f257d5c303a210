"""Joints carried over time: which of several looks at a frame is right, and which side is left.

Looks are float32 [P, T, 33, 3] of x, y, confidence in BlazePose's order, NaN and 0 where a pass did not look or found
nobody: the forward pass first, then the backward one and the mirrored picture.
"""

from __future__ import annotations

import numpy as np

from remot_data.detectors._doubts import RATE, pace, spans

FORWARD, BACKWARD, MIRRORED = range(3)
# Bits of the marks of a joint.
FILLED, EXCHANGED, OF_BACKWARD, OF_MIRRORED = 1, 2, 4, 8
_OF = np.array([0, OF_BACKWARD, OF_MIRRORED], np.uint8)
FILL = 0.2  # seconds between two frames that a joint is seen in over which it is filled in
UNKNOWN, UNIT = 255, 250  # of a disagreement that is not known; a height in its units
OTHER_SIDE = np.array(
    [0, 4, 5, 6, 1, 2, 3, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15, 18, 17, 20, 19, 22, 21, 24, 23, 26, 25, 28, 27, 30, 29]
    + [32, 31]
)
# What changes sides together: trunk, arms from the elbow on, legs from the knee on; where limbs begin, and on what
# joints of the trunk they hang.
_GROUPS = ([11, 12, 23, 24], list(range(13, 23)), list(range(25, 33)))
_HANG = (([13, 14], [11, 12]), ([25, 26], [23, 24]))
_FARTHEST = 0.25  # of the height, from frame to frame: what lies further away is as bad
# What 1/25 s costs, in ways of one joint of four in heights: with left and right exchanged; of each pass. Sides of the
# mirrored picture alone are wrong three times as often as those of the others (benchmarks/gloves.py).
_EXCHANGE, _PASS = 0.05, np.array([0, 0.01, 0.03])
_SLOWEST = 2.0  # so many times 1/25 s a frame stands for at most
_MISSING = 1e3
_REACH = 1.0  # seconds over which joints that are unsure are helped by surer ones
_STEP = 0.1  # of the height: what an unsure joint may move from a frame to the next
_WAY = 0.2  # of the height: what a joint may move while it is filled in


def decide(looks: np.ndarray, heights: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best of several looks at each frame: bodies float32 [T, 33, 3], and marks uint8 [T, 33] of what was taken.

    The way through all frames is searched that moves least (Viterbi), over every look at the trunk, at both arms and at
    both legs, each as it is and with left and right exchanged. Surer joints count more. Taking another look than that
    of the forward pass costs a little; exchanging the sides of the whole body costs more, for the network is mostly
    right, and so does exchanging arms or legs alone, which then hang on the wrong side of the trunk.

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
    """What it costs to come to each state from each of the frame before: float32 [T, S, S], of the first frame 0."""
    points, sure = np.nan_to_num(states[..., :2]), states[..., 2]
    out = np.zeros((len(states), states.shape[1], states.shape[1]), np.float32)
    step = points[1:, :, None] - points[:-1, None]
    far = np.hypot(step[..., 0], step[..., 1]) / (heights * paces)[1:, None, None, None]
    out[1:] = 4 * (np.minimum(far, _FARTHEST) * np.sqrt(sure[1:, :, None] * sure[:-1, None])).mean(-1)
    return out


def _prices(looks: np.ndarray, heights: np.ndarray, times: np.ndarray) -> np.ndarray:
    """What states of trunk, arms and legs cost by themselves: float32 [T, S, S, S]."""
    passes = len(looks)
    lasts = np.clip(np.diff(times, prepend=times[:1]) * RATE, 0, _SLOWEST)[:, None, None]
    missing = np.where(np.isnan(looks[:, :, 0, 0]), _MISSING, 0).T
    one = np.tile(missing + lasts[..., 0] * _PASS[:passes], 2)
    sides = np.arange(2 * passes) >= passes
    trunk = one + lasts[..., 0] * _EXCHANGE * sides
    limbs = []
    for begins, hangs in _HANG:
        reach = _states(looks, hangs)[:, :, None, :, :2] - _states(looks, begins)[:, None, ..., :2]
        long = np.nan_to_num(np.hypot(reach[..., 0], reach[..., 1])).sum(-1) / heights[:, None, None]
        limbs.append(one[:, None] + lasts * (_EXCHANGE * (sides[:, None] != sides) + long))
    arms, legs = limbs
    return (trunk[:, :, None, None] + arms[..., None] + legs[:, :, None]).astype(np.float32)


def _cheapest(moves: list[np.ndarray], prices: np.ndarray) -> np.ndarray:
    """The states of trunk, arms and legs, int [3, T], that together cost least from the first frame to the last."""
    count, size = prices.shape[:2]
    came = np.zeros((count, size**3), np.int32)
    cost = prices[0].ravel()
    trunk, arms, legs = moves
    for t in range(1, count):
        both = trunk[t][:, None, None, :, None, None] + arms[t][:, None, None, :, None]
        total = ((both + legs[t][:, None, None, :]).reshape(size**3, size**3)) + cost
        came[t] = total.argmin(1)
        cost = total[np.arange(size**3), came[t]] + prices[t].ravel()
    way = np.zeros(count, np.int64)
    way[-1] = cost.argmin()
    for t in range(count - 1, 0, -1):
        way[t - 1] = came[t, way[t]]
    return np.stack(np.unravel_index(way, (size, size, size)))


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


def apart(looks: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """How far the looks at a frame lie apart in each joint, uint8 [T, 33] in 1/250 of the height; 255 for one look."""
    widest = np.zeros(looks.shape[1:3])
    both = np.zeros(looks.shape[1:3], bool)
    for one in range(len(looks)):
        for other in range(one):
            gap = looks[one, ..., :2] - looks[other, ..., :2]
            far = np.hypot(gap[..., 0], gap[..., 1]) / heights[:, None]
            both |= ~np.isnan(far)
            widest = np.fmax(widest, far)
    return np.where(both, np.minimum(np.rint(widest * UNIT), UNIT), UNKNOWN).astype(np.uint8)
