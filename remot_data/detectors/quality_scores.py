"""Numbers that tell wrong frames from good ones: poses that jump, sides that change, masks beside the person."""

from __future__ import annotations

import numpy as np

from remot_data.detectors import _motions, _surfaces
from remot_data.detectors._limbs import as_body25, torso_lengths
from remot_data.detectors.base import Arrays
from remot_data.detectors.basic_scores import BasicScores
from remot_data.records import BOXES, TIMES, VALID
from remot_data.schemas import keypoint_set

UNKNOWN = -1.0  # of a column that is never negative otherwise: nothing is known of the frame
_P = {name: i for i, name in enumerate(keypoint_set("body25").points)}
_FACE = [_P[name] for name in ("nose", "left-eye", "right-eye")]
_FOREARMS = [(_P[f"{side}-elbow"], _P[f"{side}-wrist"]) for side in ("left", "right")]
_ENDS = [_P[f"{side}-{name}"] for side in ("left", "right") for name in ("elbow", "wrist", "knee", "ankle")]
_HEAD, _HAND = 0.5, 0.6  # of a head's height over the torso's length, of a hand's length over the forearm's
_MENDED = 1 | 2  # marks of a pose layer's `checks`: filled in over time, left and right exchanged
_STEP, _ALONE = 1 / 250, 255  # of the person's height, in `checks`; what says there that only one pass looked
_FPS = 30.0  # frames a second where no times are given


class QualityScores(BasicScores):
    """The scores of `BasicScores`, and beside them those that find wrong frames; arguments as there.

    Heights are those of the person, 3.5 torso lengths (the median of the clip). Main joints are nose, neck, shoulders,
    elbows, wrists, hips, knees and ankles. Where there is nothing to measure a column says 0; where nothing is known
    it says `UNKNOWN`, -1, which is neither good nor bad: a condition ``<=`` lets such frames pass, ``>=0`` does not.

    ================  =============  ===============================================================================
    column            range          what
    ================  =============  ===============================================================================
    ``disagreement``  0 to 1, or -1  heights by which the backward look of the pose detector, or that at the mirrored
                                     picture, lies from the pose, on the main joint on which it lies farthest; looks
                                     that only call the sides otherwise agree; -1 where only one pass looked
    ``mended``        0 to 1, or -1  share of the main joints that were filled in over time, or whose sides were
                                     exchanged; -1 for a pose layer that does not say
    ``sure``          0 to 1         mean confidence of the main joints
    ``least_sure``    0 to 1         the lowest confidence of elbows, wrists, knees and ankles, here or within 0.1 s
    ``jitter``        0 and more     heights that the main joint which trembles most goes out and back within 0.1 s
    ``jumps``         0 to 1         share of the main joints in short spans that they jump into and out of
    ``swapped``       0, 0.5, 1      whether arms and legs have other sides than in most of the clip: either, both
    ``twist``         0 and more     heights that shoulders and hips lie apart in opposite order from left to right
    ``lost``          0 to 1         share of the main joints not seen, though seen inside the frame within 1 s
    ``limbs``         0 and more     heights that a limb is longer than nine tenths of the clip have it
    ``stretch``       0 and more     heights by which a limb's length differs from those in both frames beside it
    ``off_person``    0 to 1         share of the main joints that lie off the mask or the labels, whichever is more
    ``no_limb``       0 to 1         share of the pixels of mask or labels, whichever is more, that lie near no limb
    ``apart``         0 to 1         share of the pixels of mask or labels that are in one of both alone
    ``flicker``       0 to 1         share of the labelled pixels whose label is nowhere near in any frame beside it
    ``face``          pixels         height of the head where a face is seen, else 0
    ``hand``          pixels         length of the longer hand, by its forearm; 0 where none is seen
    ``camera``        0 and more     heights of the frame that what is no person moved since the frame before
    ``overlay``       0 to 1         share of the person's pixels under lines that stand still while she moves
    ``clipped``       0 to 1         share of the person's pixels that are blown (251 and more) or black (4 and less)
    ================  =============  ===============================================================================
    """

    name = "quality-scores"
    version = "1"
    schema = "quality"
    needs = ("pose", "parsing", BOXES, VALID, TIMES)

    def __call__(self, frames: np.ndarray, **needed: Arrays) -> Arrays:
        """Scores float32 [T] each, of frames uint8 [T, H, W, 3], by the names of the class.

        Args:
            needed: `pose` with `keypoints` [T, K, 3] and perhaps `mask` and `checks`, `parsing` with `labels`; see
                `BasicScores.__call__` for the others.
        """
        return {**super().__call__(frames, **needed), **quality(frames, **needed)}


def quality(frames: np.ndarray, **needed: Arrays) -> Arrays:
    """The scores that `QualityScores` has beside those of `BasicScores`."""
    pose = needed["pose"]
    points = as_body25(pose["keypoints"])
    valid = needed[VALID][VALID] if VALID in needed else None
    times = needed[TIMES][TIMES] if TIMES in needed else np.arange(len(frames)) / _FPS
    clip = _surfaces.raster(frames, points, pose.get("mask"), needed["parsing"]["labels"], valid)
    tall = _motions.height(points)
    off, bare, apart = _surfaces.against_pose(clip)
    found = {
        **_passes(pose),
        **_confidence(points, times),
        "jitter": _motions.jitter(points, times, tall),
        "jumps": _motions.jumps(points, times, tall),
        "swapped": _motions.swapped(points, times, tall),
        "twist": _motions.twist(points, tall),
        "lost": _motions.lost(points, times, frames.shape[1:3]),
        "limbs": _motions.limbs(points, tall),
        "stretch": _motions.stretch(points, tall),
        "off_person": off,
        "no_limb": bare,
        "apart": apart,
        "flicker": _surfaces.flicker(clip),
        **_sizes(points),
        "camera": _surfaces.camera(clip),
        "overlay": _surfaces.overlay(clip, times),
        "clipped": _surfaces.clipped(clip),
    }
    return {name: np.asarray(values, np.float32) for name, values in found.items()}


def _passes(pose: Arrays) -> Arrays:
    """What the passes of the pose detector say of each other."""
    checks = pose.get("checks")
    if checks is None:
        unknown = np.full(len(pose["keypoints"]), UNKNOWN, np.float32)
        return {"disagreement": unknown, "mended": unknown}
    # Marks are no confidences: brought to the main joints, each takes those of the points that it is made of.
    marks, apart = (_of_main(checks[:, row], pose["keypoints"]) for row in (0, 1))
    known = np.where(apart == _ALONE, UNKNOWN, apart * _STEP)
    return {"disagreement": known.max(1), "mended": ((marks & _MENDED) > 0).mean(1)}


def _of_main(values: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Values uint8 [T, K] of keypoints of any known set as those of the main joints, [T, 15]."""
    places = np.zeros((1, keypoints.shape[1], 3), np.float32)
    places[0, :, 0], places[0, :, 2] = np.arange(keypoints.shape[1]), 1
    which = as_body25(places)[0, _motions.MAIN, 0]
    return values[:, np.floor(which).astype(int)]


def _confidence(points: np.ndarray, times: np.ndarray) -> Arrays:
    least = points[:, _ENDS, 2].min(1)
    first = np.searchsorted(times, times - _motions.NEAR, "left")
    last = np.searchsorted(times, times + _motions.NEAR, "right")
    around = [least[a:b].min() for a, b in zip(first, last, strict=True)]
    return {"sure": points[:, _motions.MAIN, 2].mean(1), "least_sure": np.array(around)}


def _sizes(points: np.ndarray) -> Arrays:
    """Height of the head and length of the longer hand, in pixels of the frame; 0 where neither is seen."""
    unit = torso_lengths(points)
    face = np.where((points[:, _FACE, 2] > 0).any(1), _HEAD * unit, 0)
    a, b = (points[:, [pair[i] for pair in _FOREARMS]] for i in (0, 1))
    seen = (a[..., 2] > 0) & (b[..., 2] > 0)
    hand = np.where(seen, _HAND * np.hypot(*np.moveaxis(b[..., :2] - a[..., :2], -1, 0)), 0).max(1)
    return {"face": face, "hand": hand}
