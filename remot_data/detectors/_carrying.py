"""Joints carried over time: which of several looks at a frame is right, and which side is left.

Looks are float32 [P, T, 33, 3] of x, y, confidence in BlazePose's order, NaN and 0 where a pass did not look or found
nobody: the forward pass first, then the backward one and the mirrored picture.
"""

from __future__ import annotations

import numpy as np

from remot_data.detectors._doubts import spans

FORWARD, BACKWARD, MIRRORED = range(3)
# Bits of the marks of a joint.
FILLED, EXCHANGED, OF_BACKWARD, OF_MIRRORED = 1, 2, 4, 8
FILL = 0.2  # seconds between two frames that a joint is seen in over which it is filled in
UNKNOWN, UNIT = 255, 250  # of a disagreement that is not known; a height in its units
OTHER_SIDE = np.array(
    [0, 4, 5, 6, 1, 2, 3, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15, 18, 17, 20, 19, 22, 21, 24, 23, 26, 25, 28, 27, 30, 29]
    + [32, 31]
)
# What changes sides together: shoulders and hips; arms from the elbow on; legs from the knee on.
_GROUPS = ([11, 12, 23, 24], list(range(13, 23)), list(range(25, 33)))
_ALL = list(range(33))
_FARTHEST = 0.25  # of the height, from frame to frame: what lies further away is as bad
# What a frame costs, in ways of one joint of four in heights: with left and right exchanged, and of another pass.
_EXCHANGE, _ANOTHER = 0.05, 0.01
_MISSING = 1e3
_REACH = 1.0  # seconds over which joints that are unsure are helped by surer ones
_STEP = 0.1  # of the height: what an unsure joint may move from a frame to the next
_WAY = 0.2  # of the height: what a joint may move while it is filled in


def decide(looks: np.ndarray, heights: np.ndarray, pace: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best of several looks at each frame: bodies float32 [T, 33, 3], and marks uint8 [T, 33] of what was taken.

    For shoulders and hips, arms, and legs, each by itself, the way through all frames is searched that moves least:
    over every look, as it is and with left and right exchanged. Surer joints count more; taking another look than that
    of the forward pass costs a little, exchanging sides costs more, for the network is mostly right.

    Args:
        heights: of the person, float [T] in pixels.
        pace: how far a body may move from the frame before, as of `_doubts.pace`.
    """
    passes, count = looks.shape[:2]
    here = ~np.isnan(looks[:, :, 0, 0])
    # What no group holds is of the first pass that found somebody.
    first = np.where(here.any(0), here.argmax(0), FORWARD)
    frames = np.arange(count)
    bodies, marks = looks[first, frames].copy(), np.zeros((count, 33), np.uint8)
    marks[:] = np.array([0, OF_BACKWARD, OF_MIRRORED])[first][:, None]
    for group in _GROUPS:
        both = np.concatenate([looks[:, :, group], looks[:, :, OTHER_SIDE[group]]]).swapaxes(0, 1)
        price = np.where(here, np.array([0.0, _ANOTHER, _ANOTHER])[:passes, None], _MISSING)
        way = _cheapest(both, np.concatenate([price, price + _EXCHANGE]).T, heights, pace)
        bodies[:, group] = both[frames, way]
        taken = np.array([0, OF_BACKWARD, OF_MIRRORED])[way % passes] | EXCHANGED * (way >= passes)
        marks[:, group] = np.where(here.any(0), taken, 0)[:, None]
    return bodies, marks


def _cheapest(states: np.ndarray, price: np.ndarray, heights: np.ndarray, pace: np.ndarray) -> np.ndarray:
    """The way of least cost through states [T, S, J, 3], each with its price [T, S]: Viterbi's, int [T]."""
    points, sure = np.nan_to_num(states[..., :2]).astype(np.float64), states[..., 2].astype(np.float64)
    came = np.zeros(price.shape, np.int64)
    cost = price[0].astype(np.float64)
    for t in range(1, len(states)):
        moved = points[t][:, None] - points[t - 1][None]
        far = np.minimum(np.hypot(moved[..., 0], moved[..., 1]) / heights[t] / pace[t], _FARTHEST)
        moves = 4 * (far * np.sqrt(sure[t][:, None] * sure[t - 1][None])).mean(-1)
        total = moves + cost[None]
        came[t] = total.argmin(1)
        cost = total.min(1) + price[t]
    way = np.zeros(len(states), np.int64)
    way[-1] = cost.argmin()
    for t in range(len(states) - 1, 0, -1):
        way[t - 1] = came[t, way[t]]
    return way


def helped(
    bodies: np.ndarray, heights: np.ndarray, times: np.ndarray, pace: np.ndarray, threshold: float
) -> np.ndarray:
    """Which joints count as seen, bool [T, 33]: those of enough confidence, and those that these vouch for.

    A joint of a third of the threshold or more is helped by one that is seen within a second, before or after, if it
    moves little from frame to frame all the way from there.
    """
    sure = bodies[..., 2] >= threshold
    steps = np.diff(bodies[..., :2], axis=0) / heights[1:, None, None]
    calm = np.hypot(steps[..., 0], steps[..., 1]) < _STEP * pace[1:, None]
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
