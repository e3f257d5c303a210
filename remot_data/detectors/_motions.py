"""What poses over time say against themselves: joints that jump away and back, sides that change, limbs that grow.

All take ``body25`` keypoints float32 [T, 25, 3], times float64 [T] in seconds, and `tall`, the person's height in
pixels.
"""

from __future__ import annotations

import numpy as np

from remot_data.detectors._limbs import torso_lengths
from remot_data.schemas import keypoint_set

_P = {name: i for i, name in enumerate(keypoint_set("body25").points)}
MAIN = slice(0, 15)  # nose, neck, shoulders, elbows, wrists, hips, knees, ankles
ARMS, LEGS = (
    tuple((_P[f"left-{n}"], _P[f"right-{n}"]) for n in names)
    for names in (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle"))
)
_BONES = np.array(
    [
        (_P[f"{side}-{a}"], _P[f"{side}-{b}"])
        for side in ("left", "right")
        for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))
    ]
    + [(_P["neck"], _P["mid-hip"])]
)
Pairs = tuple[tuple[int, int], ...]
_HEIGHTS = 3.5  # torso lengths of a person's height
_FASTEST = 2.0  # heights a second that a joint moves at most, and
_SLACK = 0.03  # heights besides, that detectors tremble by
_RETURNS = 1.0  # seconds after which somebody who jumped has rather come than gone
NEAR = 0.1  # seconds to both sides that jitter is measured over
_LOST = 1.0  # seconds to both sides in which a joint was seen that is lost now
_EDGE = 0.05  # of the frame, from its edge: what is last seen there has left
_CROSSED = 0.1  # heights by which limbs move less if their sides are exchanged: then they were
_LIKELY = 0.12  # heights that a second of exchanged sides costs: that they are right is likelier


def height(keypoints: np.ndarray) -> float:
    """The person's height in pixels as the lengths of limbs tell it, at least 1."""
    lengths = torso_lengths(keypoints)
    return max(_HEIGHTS * float(np.median(lengths[lengths > 0])), 1.0) if (lengths > 0).any() else 1.0


def jitter(keypoints: np.ndarray, times: np.ndarray, tall: float) -> np.ndarray:
    """How far the main joint that trembles most went out and back within 0.1 s to both sides, in heights: [T].

    From before to now and on to after is a way; what that is longer than straight from before to after, halved.
    """
    points, seen = keypoints[:, MAIN, :2], keypoints[:, MAIN, 2] > 0
    out = np.zeros(len(points), np.float32)
    for step in range(1, len(points)):
        a, b = slice(None, -2 * step), slice(2 * step, None)
        near = (times[b] - times[a] <= 2 * NEAR + 1e-6) if len(points) > 2 * step else np.zeros(0, bool)
        if not near.any():
            break
        now = slice(step, -step)
        way = _apart(points[now], points[a]) + _apart(points[b], points[now]) - _apart(points[b], points[a])
        way = np.where(seen[a] & seen[now] & seen[b] & near[:, None], way / 2, 0).max(1) / tall
        out[now] = np.maximum(out[now], way)
    return out


def jumps(keypoints: np.ndarray, times: np.ndarray, tall: float) -> np.ndarray:
    """Share of the main joints that stand where they jumped to and soon jump away from again: float32 [T].

    A joint jumps where it moves by more than 2 heights a second. It stands out between two jumps, there and back, that
    are at most a second apart, and half as near to each other as to the jumps before and after; or between a jump and
    the clip's end, 0.1 s apart.
    """
    points, seen = keypoints[:, MAIN, :2] / tall, keypoints[:, MAIN, 2] > 0
    out = np.zeros(seen.shape, bool)
    for j in range(points.shape[1]):
        there = np.flatnonzero(seen[:, j])
        if len(there) > 2:
            out[there, j] = _between_jumps(points[there, j], times[there])
    return out.mean(1).astype(np.float32)


def _between_jumps(points: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Which places [N, 2] of one joint at times [N] are in short spans between jumps: bool [N]."""
    steps = np.hypot(*np.diff(points, axis=0).T)
    ends = np.concatenate([[0], np.flatnonzero(steps > _SLACK + _FASTEST * np.diff(times)) + 1, [len(points)]])
    spans = list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))
    lasts = [times[b - 1] - times[a] for a, b in spans]
    out = np.zeros(len(points), bool)
    for n, (a, b) in enumerate(spans):
        least = min(lasts[max(n - 1, 0) : n] + lasts[n + 1 : n + 2], default=0.0) / 2
        inside = a > 0 and b < len(points)
        if lasts[n] <= (_RETURNS if inside else NEAR) and lasts[n] < least:
            out[a:b] = not inside or np.hypot(*(points[b] - points[a - 1])) < (steps[a - 1] + steps[b - 1]) / 2
    return out


def swapped(keypoints: np.ndarray, times: np.ndarray, tall: float) -> np.ndarray:
    """Which of arms and legs have sides other than in most of the clip: 0, 0.5 for either or 1 for both, float32 [T].

    Sides change between two frames where the joints of both limbs move less, by 0.1 heights on the average, if left
    and right are exchanged in one of them; where that would put much of the clip on the other sides, by more.
    """
    return (_exchanged(keypoints, ARMS, times, tall) + _exchanged(keypoints, LEGS, times, tall)) / np.float32(2)


def _exchanged(keypoints: np.ndarray, pairs: Pairs, times: np.ndarray, tall: float) -> np.ndarray:
    """Where the sides of two limbs are exchanged, float32 [T] of 0 and 1: what costs least from frame to frame."""
    left, right = (_held(keypoints[:, [pair[side] for pair in pairs]]) for side in (0, 1))
    both = (np.minimum(left[..., 2], right[..., 2])[1:] > 0) & (np.minimum(left[..., 2], right[..., 2])[:-1] > 0)
    kept = _apart(left[1:], left[:-1]) + _apart(right[1:], right[:-1])
    crossed = _apart(left[1:], right[:-1]) + _apart(right[1:], left[:-1])
    stay, change = (np.where(both, x, 0).sum(1) / np.maximum(2 * both.sum(1), 1) / tall for x in (kept, crossed))
    lasts = _LIKELY * np.diff(times, append=times[-1])
    cost, came = np.array([0.0, lasts[0]]), np.zeros((len(times), 2), int)
    for t in range(1, len(times)):
        same, other = stay[t - 1], change[t - 1] + _CROSSED
        ways = cost[:, None] + np.array([[same, other], [other, same]])
        came[t] = ways.argmin(0)
        cost = ways.min(0) + (0, lasts[t])
    out, state = np.zeros(len(times), np.float32), int(cost.argmin())
    for t in range(len(times) - 1, -1, -1):
        out[t], state = state, came[t, state]
    return out


def _held(points: np.ndarray) -> np.ndarray:
    """Points [T, N, 3], those that are not seen where they were seen last."""
    last = np.maximum.accumulate(np.where(points[..., 2] > 0, np.arange(len(points))[:, None], 0), 0)
    return np.take_along_axis(points, last[..., None], 0)


def twist(keypoints: np.ndarray, tall: float) -> np.ndarray:
    """How far hips and shoulders lie in opposite order from left to right, in heights: [T], 0 where they agree."""
    wide = []
    for name in ("shoulder", "hip"):
        left, right = keypoints[:, _P[f"left-{name}"]], keypoints[:, _P[f"right-{name}"]]
        wide.append(np.where((left[:, 2] > 0) & (right[:, 2] > 0), left[:, 0] - right[:, 0], 0) / tall)
    apart = np.minimum(*np.abs(wide))
    return np.where(np.sign(wide[0]) * np.sign(wide[1]) < 0, apart, 0).astype(np.float32)


def lost(keypoints: np.ndarray, times: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Share of the main joints that are not seen, but were within a second before and are within one after: [T].

    A joint that was seen last, or is seen next, within a twentieth of the frame's `size` (height, width) from its edge
    was out of the picture. At the ends of a clip one side is enough.
    """
    points, seen = keypoints[:, MAIN, :2], keypoints[:, MAIN, 2] > 0
    limits = np.array(size[::-1])
    staying = (np.minimum(points, limits - points) > _EDGE * limits).all(-1)
    count = len(seen)
    rows = np.arange(count)[:, None]
    before = np.maximum.accumulate(np.where(seen, rows, -1), 0)
    after = np.minimum.accumulate(np.where(seen, rows, count)[::-1], 0)[::-1]
    fine = ~seen
    for found, end, there in ((before, times[0], before >= 0), (after, times[-1], after < count)):
        at = found.clip(0, count - 1)
        near = np.abs(times[:, None] - times[at]) <= _LOST
        stays = np.take_along_axis(staying, at, 0)
        fine &= np.where(there, near & stays, np.abs(times - end)[:, None] <= _LOST)
    return (fine & ((before >= 0) | (after < count))).mean(1).astype(np.float32)


def limbs(keypoints: np.ndarray, tall: float) -> np.ndarray:
    """By how much the limb that changes most is longer than usual in the clip, in heights: float32 [T].

    Turned to the camera a limb looks shorter, never longer. Usual is what nine tenths of the frames are below; left and
    right are of one length.
    """
    a, b = keypoints[:, _BONES[:, 0]], keypoints[:, _BONES[:, 1]]
    length = np.where((a[..., 2] > 0) & (b[..., 2] > 0), _apart(a, b) / tall, np.nan)
    pairs = length.reshape(len(length), -1)
    usual = np.zeros(pairs.shape[1], np.float32)
    for i in range(4):
        known = pairs[:, [i, i + 4]]
        usual[[i, i + 4]] = np.nanpercentile(known, 90) if not np.isnan(known).all() else np.inf
    usual[8] = np.nanpercentile(pairs[:, 8], 90) if not np.isnan(pairs[:, 8]).all() else np.inf
    return np.nan_to_num(np.maximum(pairs - usual, 0), posinf=0).max(1).astype(np.float32)


def stretch(keypoints: np.ndarray, tall: float) -> np.ndarray:
    """By how much the limb that changes most has another length than in both frames beside it, in heights: [T]."""
    a, b = keypoints[:, _BONES[:, 0]], keypoints[:, _BONES[:, 1]]
    length = np.where((a[..., 2] > 0) & (b[..., 2] > 0), _apart(a, b) / tall, np.nan)
    change = np.abs(np.diff(length, axis=0))
    edge = np.full((1, change.shape[1]), np.inf)
    least = np.fmin(np.concatenate([edge, change]), np.concatenate([change, edge]))
    return np.where(np.isfinite(least), least, 0).max(1).astype(np.float32)


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances of points [..., 2 or more]."""
    return np.hypot(a[..., 0] - b[..., 0], a[..., 1] - b[..., 1])
