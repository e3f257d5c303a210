"""An approximate human parser that needs no network: the pose says which part, colours say what covers it.

Every pixel of the person goes to the limb it is nearest to, measured in widths of that limb (`_limbs`). What is seen
there, top, bottom, skin, shoe or hair, is decided by colours and by place, both learnt from the whole clip
(`_clothes`): which colours each has, how far sleeves, trousers and boots reach along the limbs, where the waist is, and
whether a skirt is worn. Labels are carried from frame to frame along a coarse flow of the parser's own, so that they
flicker less and no other layer is needed. Rules that the label set forces or that keep the parts whole:

- a torso is always ``upper-clothes`` (or ``dress``), bare or not, because ATR has no label for its skin;
- a foot is always a shoe, bare or not;
- what hangs beside the legs makes a ``skirt``, or a ``dress`` where top and skirt have the same colours;
- which way the head looks follows from left and right of ears and nose: from behind it is hair, or ``hat`` where its
  colour is no colour of hair.

What is held, and writing next to the person, is often in her mask: what lies far from all limbs and has none of her
colours is background. An arm whose joints the pose has lost is told by what an arm can reach. Beside the labels stands
how sure they are (`sure`).

It fails where the pose is wrong, and where neither colour nor place tells: a sleeve in the very tone of the skin is
taken for a bare arm, a long skirt no wider than the legs for trousers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from remot_data.detectors._clothes import BOTTOM, HAIR, SHOE, SKIN, STUFFS, TOP, Look, bins, find_look
from remot_data.detectors._limbs import (
    LIMBS,
    Place,
    as_body25,
    confidences,
    locate,
    person_mask,
    torso_lengths,
    with_extras,
)
from remot_data.detectors.base import Arrays
from remot_data.detectors.dis import one_opencv_thread
from remot_data.records import SURE, VALID

_NEVER = -20.0

# How much less likely a stuff is on a part than what usually covers it, as a logarithm; in the order of `STUFFS`.
_ODDS = {
    "head": (-5, _NEVER, 0, _NEVER, 0),
    "neck": (-1, _NEVER, 0, _NEVER, -0.5),
    "torso": (0, 0, _NEVER, _NEVER, -2),
    "upper-arm": (0, _NEVER, 0, _NEVER, -3),
    "forearm": (0, -3, 0, _NEVER, _NEVER),
    "hand": (-5, -6, 0, _NEVER, _NEVER),
    "thigh": (-2, 0, 0, _NEVER, _NEVER),
    "shin": (_NEVER, 0, 0, 0, _NEVER),
    "foot": (_NEVER, -1, _NEVER, 0, _NEVER),
}
_PRIOR = np.array([_ODDS[limb] for limb in LIMBS], np.float32)

# How far from a limb's axis, in its half widths, what is worn reaches; what is farther may be something else.
_REACH = {"head": 2.3, "neck": 2.6, "torso": 1.9, "upper-arm": 2.4, "forearm": 2.4, "hand": 1.9, "thigh": 2.0,
          "shin": 2.2, "foot": 1.9}  # fmt: skip
_REACHES = np.array([_REACH[limb] for limb in LIMBS], np.float32)
_SKIRT_REACH = 3.5  # of the legs


def odds(place: Place, look: Look) -> np.ndarray:
    """Logarithm of how likely each of `STUFFS` is by place alone, up to a constant: float32 [5, N]."""
    out = np.ascontiguousarray(_PRIOR[place.part].T)
    arm = np.flatnonzero(place.is_on("upper-arm", "forearm"))
    past = 10 * (place.along[arm] - look.sleeve)
    out[TOP, arm] -= past.clip(0, 3)
    out[SKIN, arm] -= (-past).clip(0, 3)
    leg = np.flatnonzero(place.is_on("thigh", "shin"))
    past, boot = 10 * (place.along[leg] - look.hem), 10 * (place.along[leg] - look.boot)
    out[BOTTOM, leg] -= past.clip(0, 3)
    out[SKIN, leg] -= np.maximum(-past, boot).clip(0, 3)
    out[SHOE, leg] -= (-boot).clip(0, 3)
    trunk = np.flatnonzero(place.is_on("torso"))
    above = 20 * (place.height[trunk] - look.waist)
    out[BOTTOM, trunk] -= above.clip(0, 4)
    out[TOP, trunk] -= (-above).clip(0, 4)
    neck = np.flatnonzero(place.is_on("neck"))
    out[SKIN, neck] -= (20 * (1 - place.height[neck])).clip(0, 3)
    out[HAIR, place.lost] = -1.5
    out[SKIN, place.lost] = np.maximum(out[SKIN, place.lost], -0.5)
    out[TOP, place.lost] = np.maximum(out[TOP, place.lost], -1)
    hair = np.flatnonzero(place.is_on("torso", "upper-arm", "neck") & ~place.lost)
    out[HAIR, hair] -= (4 * (-place.crown[hair] - look.mane)).clip(0, 20)
    if look.mane > 1:
        out[HAIR, hair] += 1
    out[SKIN, place.behind] -= 2
    head = np.flatnonzero(place.is_on("head"))
    face = np.minimum(8 * (place.face[head] - 0.25), 12 * (0.17 - place.crown[head]))
    out[SKIN, head] -= (-face).clip(0, 3)
    out[HAIR, head] -= face.clip(0, 3)
    if look.skirt:
        beside = leg[place.away[leg] > 1.15]
        out[SKIN, beside] -= 3
        out[BOTTOM, beside] = 0
    return out


def nothing(place: Place, look: Look) -> np.ndarray:
    """How likely it is by place alone that something is none of the person, as `odds`: float32 [N].

    The mask of a person often has what she holds, or writing next to her.
    """
    reach = _REACHES[place.part]
    if look.skirt:
        reach = np.where(place.is_on("thigh", "shin"), _SKIRT_REACH, reach)
    out = (6 * (place.away - reach)).clip(_NEVER, 0.7) - 1.7
    # What is held may lie before the body; it has none of the colours that are worn.
    held = (place.hand < 0.75) & ~(place.is_on("hand", "forearm") & (place.away < 1.15))
    return np.where(held, np.maximum(out, -3.5), out)


_LEAD = 2.0  # by which a label leads the next best where it is clear


def clear(mask: np.ndarray, soft: np.ndarray | None, unit: float) -> np.ndarray:
    """How clear it is of each pixel whether it is in the mask bool [H, W], uint8 [H, W].

    The soft mask uint8 tells; pieces of it that were left out are unclear. Without one, the limbs' usual widths are
    not to be trusted farther in and out than by a twentieth of the torso's length `unit`.
    """
    if soft is None:
        reach = 2 * max(round(0.05 * unit), 1) + 1
        own = mask.view(np.uint8)
        edge = cv2.morphologyEx(own, cv2.MORPH_GRADIENT, np.ones((reach, reach), np.uint8))
        return (edge == 0).astype(np.uint8) * np.uint8(255)
    away = np.abs(soft.astype(np.int16) - 128)
    out = np.clip(4 * away, 0, 255).astype(np.uint8)
    out[(soft >= 128) & ~mask] = 0
    return out


class PoseGuidedParser:
    """ATR-18 labels from pose, person mask and colour; without a mask, the limbs' capsules stand for it.

    Args:
        mask_threshold: smallest value (of 255) of the person mask that counts as person.
        samples: at most so many frames of a clip are looked at for its colours.
    """

    name = "pose-guided"
    kind = "parsing"
    version = "4"
    schema = "atr18"
    needs = ("pose", VALID)
    licence = "Apache-2.0"
    approximate = True

    def __init__(self, mask_threshold: int = 128, samples: int = 16):
        self.mask_threshold, self.samples = mask_threshold, samples

    def fingerprint(self) -> dict[str, Any]:
        return {
            "detector": self.name,
            "version": self.version,
            "settings": {"mask_threshold": self.mask_threshold, "samples": self.samples},
        }

    def __call__(self, frames: np.ndarray, **needed: Arrays) -> Arrays:
        """`labels` and `sure` uint8 [T, H, W] of frames uint8 [T, H, W, 3].

        `sure` is 255 where a label is clear, and less the nearer another one comes: where colours and place tell
        little, at edges of the mask, on parts whose joints the pose is unsure of or has lost; 0 in frames without a
        pose.

        `needed["pose"]` has `keypoints` float32 [T, K, 3] and may have `mask` and `others` uint8 [T, H, W]: what is
        others' is background, and what `needed["valid"]` says is none of the picture.
        """
        keypoints = as_body25(needed["pose"]["keypoints"])
        points, units = with_extras(keypoints), torso_lengths(keypoints)
        seen = np.flatnonzero(((keypoints[..., 2] > 0).sum(1) >= 3) & (units > 0))
        labels, sure = np.zeros((2, *frames.shape[:3]), np.uint8)
        if not len(seen):
            return {"labels": labels, SURE: sure}
        soft, others = needed["pose"].get("mask"), needed["pose"].get("others")

        def person(t: int) -> Person | None:
            size = labels.shape[1], labels.shape[2]
            mask = person_mask(points[t], float(units[t]), None if soft is None else soft[t], size, self.mask_threshold)
            if others is not None:
                mask &= others[t] < self.mask_threshold
            if VALID in needed:
                mask &= needed[VALID][VALID]
            edge = clear(mask, None if soft is None else soft[t], float(units[t]))
            return Person.found(frames[t], mask, points[t], float(units[t]), edge)

        with one_opencv_thread():
            some = seen[np.unique(np.linspace(0, len(seen) - 1, min(self.samples, len(seen))).astype(int))]
            sampled = {int(t): person(t) for t in some}
            look = _look_of([p for p in sampled.values() if p is not None])
            carry = Carry()
            for t in seen.tolist():
                found = sampled[t] if t in sampled else person(t)
                if found is not None and look is not None:
                    labels[t], sure[t] = found.labels(look, carry.to(frames[t], t))
                carry.keep(labels[t], t)
        return {"labels": labels, SURE: sure}


def _look_of(people: list[Person]) -> Look | None:
    if not people:
        return None
    thin = [p.thinned() for p in people]
    places = [p for _, p in thin]
    joined = Place(*(np.concatenate([getattr(p, f) for p in places]) for f in Place.__dataclass_fields__))
    return find_look(np.concatenate([c for c, _ in thin]), joined)


@dataclass(frozen=True)
class Person:
    """The person of one frame.

    Attributes:
        box: the part of the image that holds the person, h x w pixels; `size` is that of the image.
        pixels: int [N], indices into the box of the person's pixels.
        unit: torso length in pixels.
        lab: uint8 [h, w, 3], the box in Lab.
        place: where the cells of a grid lie on the body: a large person is located in cells of 2 x 2 pixels.
        cell: int [N], the cell of each pixel.
        edge: uint8 [H, W], how clear it is whether a pixel is the person's.
        known: float32 [parts], how sure the pose is of each of `PARTS`.
    """

    box: tuple[slice, slice]
    size: tuple[int, int]
    pixels: np.ndarray
    unit: float
    lab: np.ndarray
    place: Place
    cell: np.ndarray
    edge: np.ndarray
    known: np.ndarray

    @classmethod
    def found(
        cls, frame: np.ndarray, mask: np.ndarray, points: np.ndarray, unit: float, edge: np.ndarray
    ) -> Person | None:
        x0, y0, w, h = cv2.boundingRect(mask.view(np.uint8))
        if not w:
            return None
        box = (slice(y0, y0 + h), slice(x0, x0 + w))
        pixels = np.flatnonzero(mask[box])
        side = 2 if unit >= 40 else 1
        columns = w // side + 1
        cell = pixels // w // side * columns + pixels % w // side
        number = np.zeros((h // side + 1) * columns, np.int32)
        number[cell] = 1
        cells = np.flatnonzero(number)
        number[cells] = np.arange(len(cells))
        centres = np.stack([x0 + (cells % columns + 0.5) * side, y0 + (cells // columns + 0.5) * side])
        place = locate(points, unit, centres.astype(np.float32))
        lab = cv2.cvtColor(frame[box], cv2.COLOR_RGB2LAB)
        return cls(box, mask.shape, pixels, unit, lab, place, number[cell], edge, confidences(points))

    def thinned(self) -> tuple[np.ndarray, Place]:
        """Colours and places of at most some 1500 of its pixels."""
        step = slice(None, None, max(len(self.pixels) // 1500, 1))
        return self.lab.reshape(-1, 3)[self.pixels[step]].astype(np.float32), self.place[self.cell[step]]

    def labels(self, look: Look, before: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """ATR-18 labels and how sure they are, uint8 [H, W] each.

        `before` are the labels of the frame before, brought here, where they are known.
        """
        window = (2 * round(0.05 * self.unit) + 1,) * 2
        shape = self.lab.shape[:2]
        mask = np.zeros(shape, np.float32)
        mask.ravel()[self.pixels] = 1
        scores = np.take(look.scores, bins(self.lab), axis=0) * mask[..., None]
        weight = np.take(cv2.boxFilter(mask, -1, window).ravel(), self.pixels)
        total: np.ndarray = np.take(cv2.boxFilter(scores, -1, window).reshape(-1, len(STUFFS)), self.pixels, axis=0)
        total = total / weight[:, None]
        total += np.take(odds(self.place, look).T, self.cell, axis=0)
        part = self.place.part[self.cell]
        none = nothing(self.place, look)[self.cell]
        if before is not None:
            last = before[self.box].ravel()[self.pixels]
            total += 0.7 * (look.labels[part] == last[:, None])
            none += 0.7 * (last == 0)
        best, most = _argmax(total)
        image = np.zeros(shape, np.uint8)
        image.ravel()[self.pixels] = look.labels[part, best] * (most >= none)
        out = np.zeros(self.size, np.uint8)
        out[self.box] = vote(image, mask > 0, window[0], None if before is None else before[self.box])
        return out, self._sure(out[self.box], total, none, part, look)

    def _sure(
        self, labels: np.ndarray, total: np.ndarray, none: np.ndarray, part: np.ndarray, look: Look
    ) -> np.ndarray:
        """How sure the labels uint8 [h, w] of the box are: by how much they lead the next best, uint8 [H, W]."""
        taken = labels.ravel()[self.pixels]
        own, other = np.full((2, len(taken)), _NEVER, np.float32)
        names = look.labels[part]
        for k in range(len(STUFFS)):
            same = names[:, k] == taken
            np.maximum(own, np.where(same, total[:, k], _NEVER), out=own)
            np.maximum(other, np.where(same, _NEVER, total[:, k]), out=other)
        gone = taken == 0
        own[gone], other[gone] = none[gone], total[gone].max(1)
        np.maximum(other, np.where(gone, _NEVER, none), out=other)
        lead = ((own - other) / _LEAD).clip(0, 1) * self.known[part]
        lead[self.place.lost[self.cell]] = 0
        sure = self.edge.copy()
        inside = sure[self.box]
        values = np.minimum((255 * lead).astype(np.uint8), inside.ravel()[self.pixels])
        inside[self.pixels // inside.shape[1], self.pixels % inside.shape[1]] = values
        return sure


def _argmax(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the greatest of few columns of values [N, K], and that: NumPy's own takes longest where K is small."""
    best, found = values[:, 0].copy(), np.zeros(len(values), np.uint8)
    for k in range(1, values.shape[1]):
        found[values[:, k] > best] = k
        np.maximum(best, values[:, k], out=best)
    return found, best


_NO_MAP: Any = None  # `remap` is given both maps in one


class Carry:
    """Brings the labels of one frame to the next along a coarse flow."""

    def __init__(self) -> None:
        self._flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._labels: np.ndarray | None = None
        self._grey: np.ndarray | None = None
        self._kept = -2

    def to(self, frame: np.ndarray, t: int) -> np.ndarray | None:
        """The labels kept of frame t - 1 as they lie in frame t, uint8 [H, W], 255 where the two look different."""
        h, w = frame.shape[:2]
        half = (max(w // 2, 1), max(h // 2, 1))
        grey = cv2.cvtColor(cv2.resize(frame, half, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        last, self._grey = self._grey, grey
        if self._labels is None or last is None or self._kept != t - 1 or min(half) < 16:
            return None
        to = self._flow.calc(grey, last, None)
        to[..., 0] += np.arange(half[0], dtype=np.float32)
        to[..., 1] += np.arange(half[1], dtype=np.float32)[:, None]
        differs = (
            cv2.absdiff(grey, cv2.remap(last, to, _NO_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)) > 12
        )
        small = cv2.resize(self._labels, half, interpolation=cv2.INTER_NEAREST)
        carried = cv2.remap(small, to, _NO_MAP, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=255)
        carried[differs] = 255
        return cv2.resize(carried, (w, h), interpolation=cv2.INTER_NEAREST)

    def keep(self, labels: np.ndarray, t: int) -> None:
        self._labels, self._kept = labels, t


def vote(labels: np.ndarray, mask: np.ndarray, size: int, before: np.ndarray | None = None) -> np.ndarray:
    """Each pixel of the mask takes the label that most pixels of its window have; 0 outside the mask.

    The label that the pixel had `before` counts as a third of a window more.
    """
    most, winner = np.zeros(labels.shape, np.int16), np.zeros(labels.shape, np.uint8)
    for k in np.flatnonzero(np.bincount(labels[mask], minlength=1)):
        here = labels == k if k else mask & (labels == 0)
        count = cv2.boxFilter(here.view(np.uint8), cv2.CV_16S, (size, size), normalize=False,
                              borderType=cv2.BORDER_CONSTANT)  # fmt: skip
        if before is not None:
            count += (before == k) * np.int16(size * size // 3)
        winner[count > most] = k
        np.maximum(most, count, out=most)
    winner[~mask] = 0
    return winner
