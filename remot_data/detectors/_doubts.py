"""Which frames of a body that was followed are worth a second look: cheap signs that a pose may be wrong.

Bodies are float32 [T, 33, 3] of x, y, confidence in BlazePose's order, NaN and 0 where nobody was found; `heights`
float [T] are the person's in pixels, `times` float64 [T] are in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SEEN = 0.3  # confidence from which a joint's way is looked at
APART = 0.1  # of the height: two looks at one frame that differ by more in a joint do not agree
_JOINTS = [11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]  # shoulders to wrists, hips to ankles
_BONES = ([11, 13, 12, 14, 23, 25, 24, 26, 11, 23], [13, 15, 14, 16, 25, 27, 26, 28, 12, 24])
_PAIRS = ([11, 12], [23, 24])  # which change sides when somebody turns
_JUMP = 0.05  # of the height: how far a joint lies off the middle between the frames around
_LENGTH = 0.05  # of the height: by how much a limb's length changes from frame to frame
_LEAST = 0.1  # confidence below which a joint is as good as lost
_AROUND = 2  # frames before and after a doubtful one
_NEAR = 0.2  # seconds from somebody who is seen within which being lost is doubtful
_RATE = 25.0  # frames a second above which the bounds do not change: a body moves less in less time
_PROBE = 0.5  # seconds between frames that are probed although nothing is doubtful


def pace(times: np.ndarray) -> np.ndarray:
    """How much further than at 25 frames a second a body may move from the frame before: float64 [T], at least 1."""
    return np.maximum(np.diff(times, prepend=times[:1]) * _RATE, 1.0)


def doubtful(bodies: np.ndarray, heights: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Frames whose pose may be wrong, with two on either side: bool [T]."""
    found = ~np.isnan(bodies[:, 0, 0])
    if not found.any():
        return found
    step, gaps = pace(times), np.abs(times - times[found][:, None]).min(0)
    points, confident = bodies[:, _JOINTS, :2] / heights[:, None, None], bodies[:, _JOINTS, 2] >= SEEN
    doubts = np.where(found, (bodies[:, _JOINTS, 2] < _LEAST).any(1), gaps <= _NEAR)
    off = _norm(points[1:-1] - (points[:-2] + points[2:]) / 2)
    moves = confident[1:-1] & confident[:-2] & confident[2:] & (off > _JUMP * np.maximum(step[1:-1], step[2:])[:, None])
    doubts[1:-1] |= moves.any(1)
    lengths = _norm(bodies[:, _BONES[0], :2] - bodies[:, _BONES[1], :2]) / heights[:, None]
    seen = (bodies[:, _BONES[0], 2] >= SEEN) & (bodies[:, _BONES[1], 2] >= SEEN)
    changes = seen[1:] & seen[:-1] & (np.abs(np.diff(lengths, axis=0)) > _LENGTH * step[1:, None])
    crosses = np.diff(_facing(bodies), axis=0) != 0  # NaN is unequal to all, so who comes or goes is doubtful
    between = changes.any(1) | (crosses.any(1) & (found[1:] | found[:-1]))
    doubts[1:] |= between
    doubts[:-1] |= between
    return grown(doubts, _AROUND)


def _facing(bodies: np.ndarray) -> np.ndarray:
    """On which side of the spine the right shoulder and hip lie: float [T, 2] of -1, 0 and 1."""
    (a, b), (c, d) = (([pair[0] for pair in _PAIRS], [pair[1] for pair in _PAIRS]), _PAIRS)
    spine = bodies[:, c, :2].mean(1) - bodies[:, d, :2].mean(1)
    across = bodies[:, a, :2] - bodies[:, b, :2]
    return np.sign(across[..., 0] * spine[:, None, 1] - across[..., 1] * spine[:, None, 0])


def probes(found: np.ndarray, times: np.ndarray) -> list[int]:
    """Numbers of frames, half a second apart, that are looked at again whatever the signs say."""
    out: list[int] = []
    for t in np.flatnonzero(found).tolist():
        if not out or times[t] - times[out[-1]] >= _PROBE:
            out.append(t)
    return out


def around_probe(t: int, times: np.ndarray) -> np.ndarray:
    """The frames that a probe stands for, bool [T]: those that it is the next one to."""
    return np.abs(times - times[t]) <= _PROBE / 2


def disagree(a: np.ndarray, b: np.ndarray, height: float) -> bool:
    """Whether two looks [33, 3] at one body put a joint that the first is sure of quite elsewhere."""
    sure = a[_JOINTS, 2] >= SEEN
    return bool((_norm(a[_JOINTS, :2] - b[_JOINTS, :2])[sure] > APART * height).any())


def grown(flags: np.ndarray, count: int) -> np.ndarray:
    """Flags bool [T] that hold for so many frames before and after, too."""
    out = flags.copy()
    for n in range(1, count + 1):
        out[n:] |= flags[:-n]
        out[:-n] |= flags[n:]
    return out


def spans(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """First frame, and the one after the last, of each run of flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _norm(vectors: np.ndarray) -> np.ndarray:
    return np.hypot(vectors[..., 0], vectors[..., 1])
