"""Smoothed keypoints as a layer of their own, of any pose layer: without lag, by time stamps, never across a gap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.interpolate import make_smoothing_spline

from remot_data.detectors.base import Arrays, DetectorError
from remot_data.records import TIMES

_FEWEST = 5  # frames that a smoothing spline takes
_PAUSE = 2.5  # median steps between frames from which a joint is not followed across


class Smooth:
    """Smoothing splines through the keypoints of another pose layer, a joint and a coordinate at a time.

    A cubic smoothing spline minimises ``sum w (x - f)**2 + lam * integral f''**2``. On even samples it passes the
    frequency f at ``1 / (1 + (f / hertz)**4)``, without any shift in time: what a Butterworth filter of second order
    does that runs forwards and backwards (Unser et al., "B-spline signal processing", 1993). Here the samples lie where
    the frames' times say, with the confidence of a joint as its weight. A joint that is lost stays lost, and what lies
    before and after is smoothed apart; so is what lies before and after a pause. Masks, confidences and marks are those
    of the layer that is read.

    Args:
        model: id of the pose layer to smooth, or its beginning; that of the snapshot ``main`` if not given.
        hertz: what moves as fast as this is halved, what is slower passes.
    """

    name = "smooth"
    kind = "pose"
    version = "1"
    schema = ""  # that of the layer it reads
    needs = ("pose", TIMES)
    licence = "Apache-2.0"
    approximate = False

    def __init__(self, model: str = "", hertz: float = 6.0):
        if not 0 < hertz < float("inf"):
            raise DetectorError(f"smooth: hertz is {hertz}; give a frequency above 0, for example 6")
        self.hertz = float(hertz)
        self.reads = {"pose": model} if model else {}

    def fingerprint(self) -> dict[str, Any]:
        return {"detector": self.name, "version": self.version, "settings": {"hertz": self.hertz}}

    def __call__(self, frames: np.ndarray, **needed: Arrays) -> Arrays:
        """The arrays of the pose layer `needed["pose"]`, its `keypoints` float32 [T, K, 3] smoothed.

        `needed["times"]["times"]` are the seconds of the frames, float64 [T], which rise.
        """
        pose, times = dict(needed["pose"]), needed[TIMES][TIMES]
        pose["keypoints"] = smoothed(pose["keypoints"], times, self.hertz)
        return pose


def smoothed(keypoints: np.ndarray, times: np.ndarray, hertz: float) -> np.ndarray:
    """Keypoints float32 [T, K, 3] smoothed in time, see `Smooth`; `times` are seconds, float64 [T]."""
    out = keypoints.copy()
    if len(times) < _FEWEST:
        return out
    step = float(np.median(np.diff(times)))
    pauses = np.flatnonzero(np.diff(times) > _PAUSE * step) + 1
    for joint in range(keypoints.shape[1]):
        for span in _spans(keypoints[:, joint, 2] > 0, pauses):
            out[span, joint, :2] = _spline(keypoints[span, joint], times[span], hertz)
    return out


def _spans(seen: np.ndarray, pauses: np.ndarray) -> Iterator[slice]:
    """Where a joint is seen without a break, long enough to smooth."""
    edges = np.flatnonzero(np.diff(seen.astype(np.int8))) + 1
    bounds = np.unique(np.concatenate([[0], edges, pauses, [len(seen)]])).astype(int)
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if seen[start] and end - start >= _FEWEST:
            yield slice(start, end)


def _spline(points: np.ndarray, times: np.ndarray, hertz: float) -> np.ndarray:
    """x and y [T, 2] of a joint [T, 3]; each sample counts for the time around it, so that `hertz` means the same at
    every frame rate."""
    around = np.gradient(times)
    weight = points[:, 2] / np.median(points[:, 2]) * around
    lam = (2 * np.pi * hertz) ** -4
    seconds = times - times[0]
    return np.stack([make_smoothing_spline(seconds, points[:, i], weight, lam=lam)(seconds) for i in (0, 1)], 1)
