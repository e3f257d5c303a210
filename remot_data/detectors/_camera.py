"""How a camera moves over what stands still: frames registered on the pixels that are no person."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

_FEATURES = 400  # at most, in one frame
_FEWEST = 10  # matches that a registration takes
_CLEAR = 2e-4  # least eigenvalue of a corner that is no noise of compression, as `cornerMinEigenVal` counts
_STILL = 0.9  # pixels of a frame 256 high by which no corner of a still camera's frames moves
_WINDOW = (15, 15)
_TO = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 30, 0.01)


def views(frames: np.ndarray, masks: np.ndarray, reference: int) -> np.ndarray | None:
    """The homographies float64 [T, 3, 3] that take pixels of one frame to those of the others.

    Each frame is followed to the next, and what that leads to is then fitted to the frame `reference` itself, so that
    errors do not add up. A frame whose view cannot be told, or does not overlap with that of `reference`, has NaN.

    Args:
        frames: uint8 [T, H, W, 3].
        masks: bool [T, H, W], true where a pixel is not to be looked at.
        reference: number of a frame.

    Returns:
        None where the camera stands still, as far as can be seen.
    """
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    clear = (~masks).astype(np.uint8)
    size = grey.shape[1] / 256
    if not _moves(grey, clear, reference, size):
        return None
    out = np.full((len(grey), 3, 3), np.nan)
    out[reference] = np.eye(3)
    points = _points(grey[reference], clear[reference], size)
    for step in (1, -1):
        last, far = reference, np.eye(3)
        for t in range(reference + step, len(grey) if step > 0 else -1, step):
            near = _fitted(grey[last], grey[t], _points(grey[last], clear[last], size), clear[t], np.eye(3), size)
            if near is None:
                break
            last, far = t, near @ far
            fine = _fitted(grey[reference], grey[t], points, clear[t], far, size)
            if fine is not None:
                out[t] = far = fine
    return out


def _moves(grey: np.ndarray, clear: np.ndarray, reference: int, size: float) -> bool:
    """Whether the corners move between the reference and frames that are spread over the clip."""
    points = _points(grey[reference], clear[reference], size)
    corners = _corners(grey.shape[1:])
    neighbours = {reference + 1, reference - 1} & set(range(len(grey)))
    spread = set(np.linspace(0, len(grey) - 1, min(8, len(grey))).round().astype(int).tolist())
    lost = 0
    for t in sorted((spread | neighbours) - {reference}):
        view = _fitted(grey[reference], grey[t], points, clear[t], np.eye(3), size)
        if view is None:
            lost += 1
        elif np.abs(cv2.perspectiveTransform(corners, view) - corners).max() > _STILL * size:
            return True
    # Frames far away may have nothing in common with the reference; then its neighbours have moved, or nothing tells.
    return False if not lost else _drifts(grey, clear, size)


def _drifts(grey: np.ndarray, clear: np.ndarray, size: float) -> bool:
    """Whether steps between neighbouring frames add up to a motion of the camera."""
    corners, far = _corners(grey.shape[1:]), np.eye(3)
    for t in range(1, len(grey)):
        near = _fitted(grey[t - 1], grey[t], _points(grey[t - 1], clear[t - 1], size), clear[t], np.eye(3), size)
        far = np.eye(3) if near is None else near @ far
        if np.abs(cv2.perspectiveTransform(corners, far) - corners).max() > 4 * _STILL * size:
            return True
    return False


def _corners(size: tuple[int, ...]) -> np.ndarray:
    h, w = size
    return np.array([[[0, 0], [w, 0], [0, h], [w, h]]], np.float64)


def _points(grey: np.ndarray, clear: np.ndarray, size: float) -> np.ndarray:
    """Corners of what is seen, float32 [N, 1, 2]."""
    found = cv2.goodFeaturesToTrack(grey, _FEATURES, 0.01, max(5 * size, 3), mask=clear)
    if found is None:
        return np.zeros((0, 1, 2), np.float32)
    x, y = found[:, 0].astype(int).T
    return found[cv2.cornerMinEigenVal(grey, 3)[y, x] > _CLEAR]


_NONE: Any = None


def _fitted(
    a: np.ndarray, b: np.ndarray, points: np.ndarray, clear: np.ndarray, guess: np.ndarray, size: float
) -> np.ndarray | None:
    """The homography [3, 3] from image `a` to `b`, near `guess`; None where too few points agree on one.

    Args:
        points: float32 [N, 1, 2] of `a`.
        clear: uint8 [H, W], 1 where `b` may be looked at.
    """
    height, width = b.shape
    if len(points) < _FEWEST:
        return None
    start = cv2.perspectiveTransform(points, guess)
    inside = ((start > 0) & (start < [width - 1, height - 1])).all((1, 2))
    points, start = points[inside], start[inside]
    if len(points) < _FEWEST:
        return None
    # Shown as the guess says it looks from there, a view that is turned or nearer can be followed, too.
    seen = cv2.warpPerspective(b, guess, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    there, ok, _ = cv2.calcOpticalFlowPyrLK(a, seen, points, points.copy(), winSize=_WINDOW, maxLevel=4, criteria=_TO,
                                            flags=cv2.OPTFLOW_USE_INITIAL_FLOW)  # fmt: skip
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(seen, a, there, there.copy(), winSize=_WINDOW, maxLevel=4,
                                                criteria=_TO, flags=cv2.OPTFLOW_USE_INITIAL_FLOW)  # fmt: skip
    kept = (ok[:, 0] > 0) & (ok_back[:, 0] > 0) & (np.abs(back - points).max((1, 2)) < 0.5 * size)
    to = cv2.perspectiveTransform(there, guess) if len(there) else there
    place = np.rint(to[:, 0]).astype(int)
    kept &= ((place >= 0) & (place < [width, height])).all(1)
    kept[kept] = clear[place[kept, 1], place[kept, 0]] > 0
    points, to = points[kept, 0], to[kept, 0]
    if len(points) < _FEWEST:
        return None
    # Few points, or points in one corner, tell a similarity at most.
    wide = np.ptp(points, 0).min() > 0.3 * min(height, width) and len(points) >= 4 * _FEWEST
    if wide:
        found, inliers = cv2.findHomography(points, to, cv2.RANSAC, 1.0 * size, maxIters=500)
    else:
        found, inliers = cv2.estimateAffinePartial2D(points, to, method=cv2.RANSAC, ransacReprojThreshold=1.0 * size)
        found = None if found is None else np.concatenate([found, [[0, 0, 1]]])
    if found is None or inliers.sum() < max(_FEWEST, 0.5 * len(points)):
        return None
    return found if 0.25 < np.linalg.det(found[:2, :2]) < 4 else None
