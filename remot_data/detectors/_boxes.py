"""What the boxes of tracks tell a detector: whose body it is looking at, and which pixels are somebody else's.

`needed["boxes"]` has ``own`` float32 [T, 4] and ``others`` float32 [T, N, 4]: XYXY in pixels of the frames, NaN where
nobody is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from remot_data.records import HW, VALID

_REACHES = 0.02  # of the height and width of a frame: what less of a box lies in is not in it
_LEAST = 0.25  # fit from which a body may be that of a box
_THEIRS = 0.6  # fit from which a body is that of somebody else's box where the own one is not known
_RATHER = 0.1  # a body is somebody else's where their box fits better by more than that


@dataclass(frozen=True)
class Sight:
    """Whose box is where in one frame of the size `size`: `own` float32 [4], NaN where it is not known, and those of
    `others` that reach into the frame, float32 [M, 4]."""

    own: np.ndarray
    others: np.ndarray
    size: HW

    @property
    def is_known(self) -> bool:
        return not np.isnan(self.own).any()

    def holds(self, body: np.ndarray | None, middle: np.ndarray) -> bool:
        """Whether a body is the own person's; where the own box is not known, whether it is nobody else's.

        Args:
            body: its tight box [4]; None where its size is not known.
            middle: its middle between hips and shoulders, [2].
        """
        fit = self._fit(body, middle)
        others = float(fit[1:].max(initial=0))
        return bool(fit[0] >= max(_LEAST, others - _RATHER)) if self.is_known else others < _THEIRS

    def fit(self, body: np.ndarray | None, middle: np.ndarray) -> float:
        """How well a body fits the own box, 0 to 1."""
        return float(self._fit(body, middle)[0])

    def _fit(self, body: np.ndarray | None, middle: np.ndarray) -> np.ndarray:
        """How well a body fits each box, the own one first: how near its middle is, and how far both overlap."""
        boxes = np.vstack([self.own[None], self.others])
        sides = (boxes[:, 2:] - boxes[:, :2]).max(1).clip(1)
        away = np.hypot(*((boxes[:, :2] + boxes[:, 2:]) / 2 - middle).T) / sides
        near = np.exp(-((away / 0.3) ** 2))
        found = near if body is None else (near + overlaps(body, within(boxes, self.size))) / 2
        return np.nan_to_num(found)


def sights(boxes: Mapping[str, np.ndarray], size: HW) -> Iterator[Sight]:
    """What is known of each frame in turn."""
    for own, others in zip(boxes["own"], boxes["others"], strict=True):
        yield Sight(own, others[in_view(others, size)], size)


def which(sight: Sight, boxes: np.ndarray) -> int | None:
    """Which of the bodies whose boxes are [N, 4] is the own person's, None if none is."""
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    mine = [i for i in np.flatnonzero(area(boxes)).tolist() if sight.holds(boxes[i], middles[i])]
    return max(mine, key=lambda i: sight.fit(boxes[i], middles[i]), default=None)


def without_others(
    labels: np.ndarray, boxes: Mapping[str, np.ndarray] | None, valid: Mapping[str, np.ndarray] | None = None
) -> np.ndarray:
    """Labels uint8 [T, H, W] with background (0) in the boxes of others where the own box, if it is known, is not.

    Also where `valid`, as detectors are given it, says that a pixel is none of the picture.
    """
    if valid is not None:
        labels = labels * valid[VALID]
    if boxes is None:
        return labels
    out, size = labels.copy(), (labels.shape[1], labels.shape[2])
    for t, sight in enumerate(sights(boxes, size)):
        if sight.is_known:
            for x0, y0, x1, y1 in _pixels(sight.others, size):
                out[t, y0:y1, x0:x1] = 0
            ((x0, y0, x1, y1),) = _pixels(sight.own[None], size)
            out[t, y0:y1, x0:x1] = labels[t, y0:y1, x0:x1]
    return out


def _pixels(boxes: np.ndarray, size: HW) -> list[list[int]]:
    return np.rint(within(boxes, size)).astype(int).tolist()


def within(boxes: np.ndarray, size: HW) -> np.ndarray:
    """Boxes [..., 4] as far as they lie in a frame."""
    return np.clip(boxes, 0, np.array((size[1], size[0]) * 2, np.float32))


def area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(-1)


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of one box with each of [N, 4]."""
    common = area(np.concatenate([np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])], 1))
    return common / (area(box) + area(boxes) - common).clip(1e-9)


def in_view(boxes: np.ndarray, size: HW) -> np.ndarray:
    """Which of boxes [..., 4] reach into a frame."""
    seen = within(boxes, size)
    shares = (seen[..., 2:] - seen[..., :2]) / np.array(size[::-1], np.float32)
    return (shares >= _REACHES).all(-1)  # no NaN is


def mostly_in_view(boxes: np.ndarray, size: HW) -> np.ndarray:
    """Which of boxes [..., 4] lie in a frame for the most part."""
    return area(within(boxes, size)) > area(boxes) / 2
