"""Which frames to keep for a frame rate."""

from __future__ import annotations

import math

import numpy as np


def pick(times: np.ndarray, fps: float | None) -> np.ndarray:
    """Which frames to keep for a frame rate, chosen by time: indices, strictly increasing, starting with 0.

    At each tick k / fps after the first frame the frame on show is kept, once; the last frame is on show as long
    as the one before it. A source that is nowhere faster than `fps` gives every frame once: nothing is repeated.
    Containers round times to their time base, so times that differ by up to 1 ms (at most a quarter of a tick)
    count as the same in both rules.

    Args:
        times: float [N], seconds, strictly increasing.
        fps: frames a second wanted, or None for every frame.

    Raises:
        ValueError: times that do not increase, or a rate that is not positive.
    """
    times = np.asarray(times, np.float64)
    gaps = np.diff(times) if times.ndim == 1 else np.zeros(1)
    if not (gaps > 0).all():
        raise ValueError("the times of the frames have to be one strictly increasing row of numbers")
    if fps is not None and not (fps > 0 and math.isfinite(fps)):
        raise ValueError(f"a frame rate has to be positive, not {fps}")
    slack = 0.0 if fps is None else min(1e-3, 0.25 / fps)
    if fps is None or gaps.min(initial=np.inf) >= 1 / fps - slack:
        return np.arange(len(times))
    since = times - times[0]
    ticks = np.arange(math.ceil((since[-1] + gaps[-1]) * fps)) / fps
    shown = np.searchsorted(since, ticks[ticks < since[-1] + gaps[-1] - slack] + slack, side="right") - 1
    return np.unique(shown)
