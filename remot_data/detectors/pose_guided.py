"""An approximate human parser that needs no network: the pose says which part, colours say what covers it.

Every pixel of the person goes to the limb it is nearest to, measured in widths of that limb (`_limbs`). What is seen
there, top, bottom, skin, shoe or hair, is decided by colours and by place, both learnt from the whole clip: which
colours each has, how far sleeves, trousers and boots reach along the limbs, where the waist is, and whether a skirt is
worn. Labels are carried from frame to frame along a coarse flow of the parser's own, so that they flicker less and no
other layer is needed. Rules that the label set forces or that keep the parts whole:

- a torso is always ``upper-clothes`` (or ``dress``), bare or not, because ATR has no label for its skin;
- a foot is always a shoe, bare or not;
- what hangs beside the legs makes a ``skirt``, or a ``dress`` where top and skirt have the same colours;
- which way the head looks follows from left and right of ears and nose: from behind it is hair, or ``hat`` where its
  colour is no colour of hair.

It fails where the pose is wrong, and where neither colour nor place tells: a sleeve in the very tone of the skin is
taken for a bare arm, a skirt no wider than the legs for trousers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from remot_data.detectors._limbs import PARTS, Place, as_body25, locate, person_mask, torso_lengths, with_extras
from remot_data.detectors.base import Arrays
from remot_data.detectors.dis import one_opencv_thread
from remot_data.schemas import label_set

_ATR = {name: np.uint8(i) for i, name in enumerate(label_set("atr18").labels)}

STUFFS = ("top", "bottom", "skin", "shoe", "hair")
_TOP, _BOTTOM, _SKIN, _SHOE, _HAIR = range(len(STUFFS))
_NEVER = -20.0
_LIMB = np.array([part.partition("-")[2] or part for part in PARTS])

# How much less likely a stuff is on a part than what usually covers it, as a logarithm; in the order of `STUFFS`.
_ODDS = {
    "head": (-5, _NEVER, 0, _NEVER, 0),
    "neck": (-1, _NEVER, 0, _NEVER, -0.5),
    "torso": (0, 0, _NEVER, _NEVER, -2),
    "upper-arm": (0, _NEVER, 0, _NEVER, -3),
    "forearm": (0, -3, 0, _NEVER, _NEVER),
    "hand": (-2, -3, 0, _NEVER, _NEVER),
    "thigh": (-2, 0, 0, _NEVER, _NEVER),
    "shin": (_NEVER, 0, 0, 0, _NEVER),
    "foot": (_NEVER, -1, _NEVER, 0, _NEVER),
}
_PRIOR = np.float32([_ODDS[limb] for limb in _LIMB])


def _label(part: str, stuff: str) -> np.uint8:
    side, _, limb = part.partition("-")
    if limb == "foot" or (limb == "shin" and stuff == "shoe"):
        return _ATR["pants" if stuff == "bottom" else f"{side}-shoe"]
    skin = {"thigh": "leg", "shin": "leg"}.get(limb, "arm")
    return _ATR[{"top": "upper-clothes", "bottom": "pants", "skin": f"{side}-{skin}" if limb else "face",
                 "shoe": "upper-clothes", "hair": "hair"}[stuff]]  # fmt: skip


_LABEL = np.array([[_label(part, stuff) for stuff in STUFFS] for part in PARTS])


def _is(place: Place, *limbs: str) -> np.ndarray:
    return np.isin(_LIMB, limbs)[place.part]


# --- what a clip tells --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What a clip tells about its person.

    Attributes:
        colours: for each of `STUFFS`, its colours float32 [K, 3] in OpenCV's 8-bit Lab; none where it is not seen.
        waist: in torso lengths above the hips.
        sleeve: how far sleeves reach along the arm, 0 to 2 as `Place.along` counts; below 0 on a bare torso.
        hem: how far trousers or a skirt reach along the leg; from `boot` on it is shoe.
        boot: see `hem`.
        skirt: whether the bottom is a skirt, `dress` whether that and the top are one.
        hat: whether the head wears a hat.
        scores: float32 [bins, 5], how well the colours of each bin fit each of `STUFFS`.
        labels: uint8 [parts, 5], the label of each of `STUFFS` on each of `PARTS`.
    """

    colours: tuple[np.ndarray, ...]
    waist: float
    sleeve: float
    hem: float
    boot: float
    skirt: bool
    dress: bool
    hat: bool

    @cached_property
    def scores(self) -> np.ndarray:
        return np.stack([score_table(references) for references in self.colours], 1)

    @cached_property
    def labels(self) -> np.ndarray:
        out, skirt = _LABEL.copy(), _ATR["dress" if self.dress else "skirt"]
        if self.hat:
            out[out == _ATR["hair"]] = _ATR["hat"]
        if self.skirt:
            out[out == _ATR["pants"]] = skirt
        if self.dress:
            out[out == _ATR["upper-clothes"]] = skirt
        return out


# Where a score ends: what fits worse does not matter more.
_WORST = -6.0


def spread(references: np.ndarray) -> np.ndarray:
    """How much Lab colours float32 [K, 3] of one thing vary: light and shade change lightness much and hue little, and
    all in proportion to the light."""
    light = references[:, :1]
    return np.concatenate([8 + 0.2 * light, 3 + 0.018 * light, 3.5 + 0.022 * light], 1)


def score(colours: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Logarithm of how well colours float32 [N, 3] fit the nearest of some references [K, 3]: float32 [N], at most 0.

    It ends at -6, which is also what no references give.
    """
    best = np.full(len(colours), -2 * _WORST, np.float32)
    for reference, scale in zip(references, spread(references), strict=True):
        delta = (colours - reference) / scale
        np.minimum(best, np.einsum("nc,nc->n", delta, delta), out=best)
    return -0.5 * best


# Bins of Lab for looking scores up: 8 levels of lightness and 3 of either hue, as far as hues go in practice.
_LEVEL = np.arange(256)
_HUE = ((_LEVEL - 56) // 3).clip(0, 47)
_BIN = tuple(bins.astype(np.int32) for bins in (_LEVEL // 8 * 48 * 48, _HUE * 48, _HUE))
_CENTRES = (np.arange(32, dtype=np.float32) * 8 + 3.5, *2 * (np.arange(48, dtype=np.float32) * 3 + 57,))


def score_table(references: np.ndarray) -> np.ndarray:
    """`score` at the middle of every bin, float32 [32 * 48 * 48]."""
    best = np.full((32, 48, 48), -2 * _WORST, np.float32)
    for reference, scale in zip(references, spread(references), strict=True):
        light, a, b = (((c - r) / s) ** 2 for c, r, s in zip(_CENTRES, reference, scale, strict=True))
        np.minimum(best, light[:, None, None] + a[:, None] + b, out=best)
    return -0.5 * best.ravel()


def skin_like(lab: np.ndarray) -> np.ndarray:
    """A wide gate for skin of any tone in Lab (8 bits a channel) [N, 3]: red and yellow, and not black."""
    light, a, b = (lab[:, i].astype(np.float32) for i in range(3))
    a, b = a - 128, b - 128
    return (light > 30) & (a > 1) & (a < 40) & (b > 0) & (b < 45) & (b > 0.3 * a)


def find_look(colours: np.ndarray, place: Place) -> Look:
    """The look of a clip from pixels of some of its frames: Lab colours float32 [N, 3] and where each lies."""
    trunk = _is(place, "torso") & (place.trunk < 1.1)
    bottom = centres(colours[(trunk & (place.height < 0)) | (_is(place, "thigh") & (place.along < 0.4))], 3)
    shoe = centres(colours[_is(place, "foot") & (place.away < 1)], 2)
    torso = trunk & (place.height > 0.35) & (place.height < 0.9)
    skin = _skin_colours(colours, place, centres(colours[torso], 3), bottom)
    hair, hat = _hair_colours(colours, place, skin)
    chest = _without(colours[torso], hair)
    top = centres(chest, 3)
    bare = _is_bare(chest, skin)
    if bare:
        skin = np.concatenate([skin, top])
    refs = (top, bottom, skin, shoe, hair)
    scores = np.stack([score(colours, r) for r in refs])
    arm = _is(place, "upper-arm", "forearm", "hand") & (place.away < 0.8)
    # Where an arm crosses the torso it may be hidden: what looks like a sleeve there may be the torso.
    sleeved = (scores[_TOP] - scores[_SKIN]).clip(-2, 2)[arm]
    sleeved *= np.where((place.trunk[arm] > 1) | (sleeved < 0), 1, 0.15)
    sleeve = -0.1 if bare else _reach(place.along[arm], sleeved)
    if _alike(shoe, skin):
        scores[_SHOE] = _WORST  # feet without shoes
    hem, boot = _trousers(scores, place)
    belly = trunk & (place.height > -0.25) & (place.height < 0.5)
    waist = 0.5 - 0.375 * _reach(2 - (place.height[belly] + 0.25) / 0.375, (scores[_TOP] - scores[_BOTTOM])[belly], 1)
    skirt, reach = _skirt(place)
    if skirt:
        hem = min(hem, reach)
    return Look(refs, waist, sleeve, hem, boot, skirt, skirt and _alike(top, bottom), hat)


def _skin_colours(colours: np.ndarray, place: Place, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Colours of skin: those that face, hands, forearms, shins and neck agree on most; none where nothing tells."""
    head = _is(place, "head")
    apart = np.maximum(score(colours, top), score(colours, bottom)) < -1.5
    free = (place.away < 0.8) & ((place.trunk > 1) | (apart & ~place.behind))
    spots = [head & (place.face > 0.6), _is(place, "hand") & free, _is(place, "forearm") & free]
    spots += [_is(place, "shin") & free, _is(place, "neck") & (place.away < 0.8) & (place.height > 1.05)]
    enough = [max(8, 0.1 * head.sum()), 8, 8, 8, 8]
    seen = {i: colours[where] for i, where in enumerate(spots) if where.sum() >= enough[i]}
    middles = {i: np.median(c, 0) for i, c in seen.items()}
    # Shins of the colour of the hips are likely covered.
    if 3 in middles and score(middles[3][None], bottom)[0] > -1.5:
        del middles[3]
    if not middles:
        return np.zeros((0, 3), np.float32)
    every = np.stack(list(middles.values()))
    votes = {i: (score(every, m[None]) > -1.5).sum() + (skin_like(seen[i]).mean() > 0.5) for i, m in middles.items()}
    best = max(votes, key=lambda i: votes[i])
    if votes[best] < 2:
        return np.zeros((0, 3), np.float32)
    # All but face and hands may be covered: they only count where nothing else is seen.
    shown = np.concatenate([c for i, c in seen.items() if i in (0, 1, best)])
    return centres(shown[score(shown, middles[best][None]) > -1], 2)


def _is_bare(chest: np.ndarray, skin: np.ndarray) -> bool:
    """Whether the chest has the colours of skin, or its hue, in proportion to the lightness, which differs."""
    if not len(chest) or not len(skin) or skin_like(chest).mean() < 0.5:
        return False
    if np.median(score(chest, skin)) > -0.75:
        return True
    here, there = (np.median((c[:, 1:] - 128) / np.maximum(c[:, :1], 8), 0) for c in (chest, skin))
    return bool((np.abs(here - there) < [0.07, 0.03]).all())


def _without(seen: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Colours [N, 3] without those of something else, unless that leaves little."""
    clear = seen[score(seen, others) < -1]
    return clear if len(clear) > 0.3 * len(seen) else seen


def _hair_colours(colours: np.ndarray, place: Place, skin: np.ndarray) -> tuple[np.ndarray, bool]:
    """Colours of hair, and whether it is a hat: green, blue, violet or deep red."""
    above = _is(place, "head") & (((place.face < -0.2) & (place.crown > -0.1)) | (place.crown > 0.2))
    seen = colours[above]
    a, b = np.median(seen[:, 1:], 0) - 128 if len(seen) else (0, 0)
    return centres(_without(seen, skin), 2), bool(b < -8 or a < -8 or (a > 30 and a > b))


def centres(colours: np.ndarray, count: int) -> np.ndarray:
    """Cluster centres float32 [K <= count, 3] of colours [N, 3] by k-means; starts far apart, so without chance."""
    if not len(colours):
        return np.zeros((0, 3), np.float32)
    colours = colours[:: max(len(colours) // 2000, 1)]
    scale = spread(np.median(colours, 0, keepdims=True))
    colours = colours / scale
    found = np.median(colours, 0, keepdims=True)
    for _ in range(count - 1):
        distance = ((colours[:, None] - found) ** 2).sum(-1).min(1)
        # Not the very farthest: that may be a speck of something else.
        found = np.concatenate([found, colours[[np.argsort(distance)[int(0.9 * len(distance))]]]])
    for _ in range(6):
        owner = ((colours[:, None] - found) ** 2).sum(-1).argmin(1)
        found = np.stack([colours[owner == k].mean(0) if (owner == k).any() else found[k] for k in range(len(found))])
    share = np.bincount(owner, minlength=len(found)) / len(owner)
    return (found[share > 0.06] * scale).astype(np.float32)


_STEP = 0.1


def _profile(along: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of values [N] in each of 20 steps along arm or leg: float64 [20], shrunk to 0 where there are few."""
    bins = (along / _STEP).astype(int).clip(0, 19)
    count = np.bincount(bins, minlength=20)
    return np.bincount(bins, values, 20) / np.maximum(count, 30)


def _reach(along: np.ndarray, evidence: np.ndarray, usual: float | None = None) -> float:
    """How far along a limb a cover reaches: `evidence` [N], clipped to 2, is for it where positive."""
    profile = _profile(along, evidence.clip(-2, 2))
    gain = np.concatenate([[0], np.cumsum(profile)]) - np.concatenate([np.cumsum(profile[::-1])[::-1], [0]])
    if usual is not None:
        gain -= ((np.arange(21) * _STEP - usual) / 0.3) ** 2
    return float(gain.argmax() * _STEP)


def _trousers(scores: np.ndarray, place: Place) -> tuple[float, float]:
    """`Look.hem` and `Look.boot`: the best way to cut the leg into cloth, skin and shoe, in this order."""
    leg = _is(place, "thigh", "shin") & (place.away < 0.8)
    sums = []
    for stuff in (_BOTTOM, _SKIN, _SHOE):
        others = np.max([scores[s] for s in (_BOTTOM, _SKIN, _SHOE) if s != stuff], 0)
        profile = _profile(place.along[leg], (scores[stuff] - others)[leg].clip(-2, 2))
        sums.append(np.concatenate([[0], np.cumsum(profile)]))
    cloth, skin, shoe = sums
    best, found = -np.inf, (2.0, 2.0)
    for boot in range(12, 21):
        for hem in range(boot + 1):
            gain = cloth[hem] + skin[boot] - skin[hem] + shoe[20] - shoe[boot] - 0.3 * (20 - boot)
            if gain > best:
                best, found = gain, (hem * _STEP, boot * _STEP)
    return found


def _skirt(place: Place) -> tuple[bool, float]:
    """Whether enough of the person is beside the legs for a skirt, and how far down the legs that goes."""
    leg = _is(place, "thigh", "shin") & (place.along > 0.3)
    beside = (place.away[leg] > 1.2) & (place.height[leg] < 0)
    thigh = place.along[leg] < 1
    share = _profile(place.along[leg], beside)
    reach = _STEP * (np.flatnonzero(share > 0.08).max(initial=0) + 2)
    return bool(thigh.any() and beside[thigh].mean() > 0.06), reach


def _alike(top: np.ndarray, bottom: np.ndarray) -> bool:
    """Whether two sets of colours are those of one cloth."""
    if not len(top) or not len(bottom):
        return False
    return bool(score(bottom, top).mean() + score(top, bottom).mean() > -2)


# --- the labels of a frame ----------------------------------------------------------------------------------


def odds(place: Place, look: Look) -> np.ndarray:
    """Logarithm of how likely each of `STUFFS` is by place alone, up to a constant: float32 [5, N]."""
    out = np.ascontiguousarray(_PRIOR[place.part].T)
    arm = np.flatnonzero(_is(place, "upper-arm", "forearm"))
    past = 10 * (place.along[arm] - look.sleeve)
    out[_TOP, arm] -= past.clip(0, 3)
    out[_SKIN, arm] -= (-past).clip(0, 3)
    leg = np.flatnonzero(_is(place, "thigh", "shin"))
    past, boot = 10 * (place.along[leg] - look.hem), 10 * (place.along[leg] - look.boot)
    out[_BOTTOM, leg] -= past.clip(0, 3)
    out[_SKIN, leg] -= np.maximum(-past, boot).clip(0, 3)
    out[_SHOE, leg] -= (-boot).clip(0, 3)
    trunk = np.flatnonzero(_is(place, "torso"))
    above = 20 * (place.height[trunk] - look.waist)
    out[_BOTTOM, trunk] -= above.clip(0, 4)
    out[_TOP, trunk] -= (-above).clip(0, 4)
    neck = np.flatnonzero(_is(place, "neck"))
    out[_SKIN, neck] -= (20 * (1 - place.height[neck])).clip(0, 3)
    hair = np.flatnonzero(_is(place, "torso", "upper-arm", "neck"))
    out[_HAIR, hair] -= (4 * (-place.crown[hair] - 0.8)).clip(0, 20)
    out[_SKIN, place.behind] -= 2
    head = np.flatnonzero(_is(place, "head"))
    face = np.minimum(8 * (place.face[head] - 0.25), 12 * (0.17 - place.crown[head]))
    out[_SKIN, head] -= (-face).clip(0, 3)
    out[_HAIR, head] -= face.clip(0, 3)
    if look.skirt:
        beside = leg[place.away[leg] > 1.15]
        out[_SKIN, beside] -= 3
        out[_BOTTOM, beside] = 0
    return out


class PoseGuidedParser:
    """ATR-18 labels from pose, person mask and colour; without a mask, the limbs' capsules stand for it.

    Args:
        mask_threshold: smallest value (of 255) of the person mask that counts as person.
        samples: at most so many frames of a clip are looked at for its colours.
    """

    name = "pose-guided"
    kind = "parsing"
    version = "3"
    schema = "atr18"
    needs = ("pose",)
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
        """`labels` uint8 [T, H, W] of frames uint8 [T, H, W, 3].

        `needed["pose"]` has `keypoints` float32 [T, K, 3] and, if there is one, `mask` uint8 [T, H, W].
        """
        keypoints = as_body25(needed["pose"]["keypoints"])
        points, units = with_extras(keypoints), torso_lengths(keypoints)
        seen = np.flatnonzero(((keypoints[..., 2] > 0).sum(1) >= 3) & (units > 0))
        labels = np.zeros(frames.shape[:3], np.uint8)
        if not len(seen):
            return {"labels": labels}
        soft = needed["pose"].get("mask")

        def person(t: int) -> Person | None:
            mask = person_mask(
                points[t], float(units[t]), None if soft is None else soft[t], labels.shape[1:], self.mask_threshold
            )
            return Person.found(frames[t], mask, points[t], float(units[t]))

        with one_opencv_thread():
            some = seen[np.unique(np.linspace(0, len(seen) - 1, min(self.samples, len(seen))).astype(int))]
            sampled = {int(t): person(t) for t in some}
            look = _look_of([p for p in sampled.values() if p is not None])
            carry = Carry()
            for t in seen:
                found = sampled[t] if t in sampled else person(t)
                if found is not None and look is not None:
                    labels[t] = found.labels(look, carry.to(frames[t], t))
                carry.keep(labels[t], t)
        return {"labels": labels}


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
    """

    box: tuple[slice, slice]
    size: tuple[int, int]
    pixels: np.ndarray
    unit: float
    lab: np.ndarray
    place: Place
    cell: np.ndarray

    @classmethod
    def found(cls, frame: np.ndarray, mask: np.ndarray, points: np.ndarray, unit: float) -> Person | None:
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
        return cls(box, mask.shape, pixels, unit, cv2.cvtColor(frame[box], cv2.COLOR_RGB2LAB), place, number[cell])

    def thinned(self) -> tuple[np.ndarray, Place]:
        """Colours and places of at most some 1500 of its pixels."""
        step = slice(None, None, max(len(self.pixels) // 1500, 1))
        return self.lab.reshape(-1, 3)[self.pixels[step]].astype(np.float32), self.place[self.cell[step]]

    def labels(self, look: Look, before: np.ndarray | None) -> np.ndarray:
        """ATR-18 labels uint8 [H, W]; `before` are those of the frame before, brought here, where they are known."""
        window = (2 * round(0.05 * self.unit) + 1,) * 2
        shape = self.lab.shape[:2]
        mask = np.zeros(shape, np.float32)
        mask.ravel()[self.pixels] = 1
        bins = np.zeros(shape, np.int32)
        for channel, of_level in zip(cv2.split(self.lab), _BIN, strict=True):
            bins += of_level[channel]
        scores = np.take(look.scores, bins, axis=0) * mask[..., None]
        weight = np.take(cv2.boxFilter(mask, -1, window).ravel(), self.pixels)
        total = np.take(cv2.boxFilter(scores, -1, window).reshape(-1, len(STUFFS)), self.pixels, axis=0)
        total /= weight[:, None]
        total += np.take(odds(self.place, look).T, self.cell, axis=0)
        part = self.place.part[self.cell]
        if before is not None:
            total += 0.7 * (look.labels[part] == before[self.box].ravel()[self.pixels][:, None])
        image = np.zeros(shape, np.uint8)
        image.ravel()[self.pixels] = look.labels[part, _argmax(total)]
        out = np.zeros(self.size, np.uint8)
        out[self.box] = vote(image, mask > 0, window[0], None if before is None else before[self.box])
        return out


def _argmax(values: np.ndarray) -> np.ndarray:
    """Index of the greatest of few columns of values [N, K]: NumPy's own takes longest where K is small."""
    best, found = values[:, 0].copy(), np.zeros(len(values), np.uint8)
    for k in range(1, values.shape[1]):
        found[values[:, k] > best] = k
        np.maximum(best, values[:, k], out=best)
    return found


class Carry:
    """Brings the labels of one frame to the next along a coarse flow."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
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
        differs = cv2.absdiff(grey, cv2.remap(last, to, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)) > 12
        small = cv2.resize(self._labels, half, interpolation=cv2.INTER_NEAREST)
        carried = cv2.remap(small, to, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=255)
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
        count = cv2.boxFilter((labels == k).view(np.uint8), cv2.CV_16S, (size, size), normalize=False,
                              borderType=cv2.BORDER_CONSTANT)  # fmt: skip
        if before is not None:
            count += (before == k) * np.int16(size * size // 3)
        winner[count > most] = k
        np.maximum(most, count, out=most)
    winner[~mask] = 0
    return winner
