"""What a clip tells about its person: the colours of clothes, skin and hair, and how far along the limbs they reach."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from remot_data.detectors._limbs import PARTS, Place
from remot_data.schemas import label_set

_ATR = {name: np.uint8(i) for i, name in enumerate(label_set("atr18").labels)}

STUFFS = ("top", "bottom", "skin", "shoe", "hair")
TOP, BOTTOM, SKIN, SHOE, HAIR = range(len(STUFFS))


def _label(part: str, stuff: str) -> np.uint8:
    side, _, limb = part.partition("-")
    if limb == "foot" or (limb == "shin" and stuff == "shoe"):
        return _ATR["pants" if stuff == "bottom" else f"{side}-shoe"]
    skin = {"thigh": "leg", "shin": "leg"}.get(limb, "arm")
    return _ATR[{"top": "upper-clothes", "bottom": "pants", "skin": f"{side}-{skin}" if limb else "face",
                 "shoe": "upper-clothes", "hair": "hair"}[stuff]]  # fmt: skip


_LABEL = np.array([[_label(part, stuff) for stuff in STUFFS] for part in PARTS])


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
        mane: how far hair may hang below the centre of the head, in torso lengths: farther where its colours are not
            those of the top.
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
    mane: float

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
_BIN = tuple(number.astype(np.int32) for number in (_LEVEL // 8 * 48 * 48, _HUE * 48, _HUE))
_CENTRES = (np.arange(32, dtype=np.float32) * 8 + 3.5, *2 * (np.arange(48, dtype=np.float32) * 3 + 57,))


def bins(lab: np.ndarray) -> np.ndarray:
    """The bin int32 [h, w] of each pixel of Lab uint8 [h, w, 3]."""
    out = np.zeros(lab.shape[:2], np.int32)
    for channel, of_level in zip(cv2.split(lab), _BIN, strict=True):
        out += of_level[channel]
    return out


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
    trunk = place.is_on("torso") & (place.trunk < 1.1)
    hips = colours[(trunk & (place.height < 0)) | (place.is_on("thigh") & (place.along < 0.4) & (place.away < 1.1))]
    bottom = centres(hips, 3)
    shoe = centres(colours[place.is_on("foot") & (place.away < 1)], 2)
    torso = trunk & (place.height > 0.35) & (place.height < 0.9)
    skin = _skin_colours(colours, place, centres(colours[torso], 3), hips, bottom)
    hair, hat = _hair_colours(colours, place, skin)
    chest = colours[torso] if _is_worn(colours, place, hair) else _without(colours[torso], hair, _HAIRY)
    top = centres(chest, 3)
    told = _is_told(colours, place, skin)
    bare = told and not _alike(top, bottom) and _is_bare(chest, skin)
    if bare:
        skin = np.concatenate([skin, top[score(top, skin) >= score(top, bottom)]])
    refs = (top, bottom, skin, shoe, hair)
    scores = np.stack([score(colours, r) for r in refs])
    arm = place.is_on("upper-arm", "forearm", "hand") & (place.away < 0.8)
    # Where an arm crosses the torso it may be hidden: what looks like a sleeve there may be the torso.
    sleeved = (scores[TOP] - scores[SKIN] + _paler(colours, top, skin)).clip(-2, 2)[arm]
    if not told:
        sleeved += 0.5  # gloves and sleeves of one colour are likelier than skin of an unusual one
    sleeved *= np.where((place.trunk[arm] > 1) | (sleeved < 0), 1, 0.15)
    sleeve = -0.1 if bare else _reach(place.along[arm], sleeved)
    if _alike(shoe, skin) or _is_bare_foot(colours, place):
        scores[SHOE] = _WORST  # feet without shoes
    hem, boot = _trousers(scores, place)
    belly = trunk & (place.height > -0.25) & (place.height < 0.5)
    waist = 0.5 - 0.375 * _reach(2 - (place.height[belly] + 0.25) / 0.375, (scores[TOP] - scores[BOTTOM])[belly], 1)
    skirt, reach = _skirt(place, (scores[BOTTOM] > -2) & (scores[BOTTOM] > scores[SKIN]), hem)
    if skirt:
        hem = min(hem, reach)
    apart = len(hair) > 0 and len(top) > 0 and score(hair, top).max() < -2 and score(top, hair).max() < -2
    return Look(refs, waist, sleeve, hem, boot, skirt, skirt and _alike(top, bottom), hat, 1.6 if apart else 0.8)


def _skin_colours(
    colours: np.ndarray, place: Place, top: np.ndarray, hips: np.ndarray, bottom: np.ndarray
) -> np.ndarray:
    """Colours of skin: those that face, hands, forearms, shins and neck agree on most; none where nothing tells.

    `top` and `bottom` are references, `hips` the colours of the pixels that `bottom` is of.
    """
    head = place.is_on("head")
    apart = np.maximum(score(colours, top), score(colours, bottom)) < -1.5
    free = (place.away < 0.8) & ((place.trunk > 1) | (apart & ~place.behind))
    spots = {"face": head & (place.face > 0.6), "hand": place.is_on("hand") & free}
    spots |= {"forearm": place.is_on("forearm") & free}
    spots |= {"neck": place.is_on("neck") & (place.away < 0.8) & (place.height > 1.05)}
    seen = {name: colours[where] for name, where in spots.items()}
    leg = place.is_on("thigh", "shin") & free & (place.along > 0.75)
    shins = [colours[leg & place.is_on("shin")], *_parts(colours[leg])]  # leg and boot are two things
    seen |= {f"shin {n}": part for n, part in enumerate(shins)}
    seen = {name: c for name, c in seen.items() if len(c) >= max(8, 0.1 * head.sum() * (name == "face"))}
    middles = {name: np.median(c, 0) for name, c in seen.items()}
    # Shins of the colour of the hips are likely covered.
    for name in [name for name in middles if name.startswith("shin")]:
        if (score(hips, middles[name][None]) > -1.5).sum() > (0.2 if name == "shin 0" else 0.05) * len(hips):
            del middles[name]
    # So are arms of the colour of the top, unless that is a tone of skin, or face or shins have it too.
    bare = np.array([m for name, m in middles.items() if name.startswith(("face", "shin"))]).reshape(-1, 3)
    for name in {"hand", "forearm"} & middles.keys():
        m = middles[name]
        worn = score(m[None], top)[0] > -1.5 and score(m[None], bare)[0] <= -1.5
        if worn and skin_like(seen[name]).mean() < 0.3:
            del middles[name]
    if not middles:
        return np.zeros((0, 3), np.float32)
    every = np.stack(list(middles.values()))
    votes = {}
    for name, m in middles.items():
        agree = {n.split()[0] for n, fits in zip(middles, score(every, m[None]) > -1.5, strict=True) if fits}
        votes[name] = len(agree) + (skin_like(seen[name]).mean() > 0.5) + 0.9 * _usual_skin(m)
    best = max(votes, key=lambda name: votes[name])
    if votes[best] < 2:
        return np.zeros((0, 3), np.float32)
    # All but face and hands may be covered: they only count where nothing else is seen.
    alike = score(every, middles[best][None]) > -1.5
    spot = {name for name, fits in zip(middles, alike, strict=True) if fits and name.split()[0] == best.split()[0]}
    shown = np.concatenate([seen[name] for name in middles if name in {"face", "hand", *spot}])
    return centres(shown[score(shown, np.stack([middles[name] for name in sorted(spot)])) > -1], 2)


def _parts(seen: np.ndarray) -> list[np.ndarray]:
    """Colours [N, 3] by the things that they are of, at most three."""
    found = centres(seen, 3)
    owner = np.stack([score(seen, one[None]) for one in found]).argmax(0) if len(found) else np.zeros(0, int)
    return [seen[owner == n] for n in range(len(found))]


def _usual_skin(lab: np.ndarray) -> float:
    """How usual a Lab colour [3] is for skin in white light, from 0 to 1: gloves have its hue more rarely."""
    return float(np.exp(-(((lab[1:] - [141, 146]) / [9, 11]) ** 2).sum()))


def _is_told(colours: np.ndarray, place: Place, skin: np.ndarray) -> bool:
    """Whether skin is known to be skin: a face has its colours, or they are usual for skin.

    From behind gloves alone may have told them.
    """
    if not len(skin):
        return False
    head = place.is_on("head")
    face = head & (place.face > 0.6)
    if face.sum() >= max(8, 0.1 * head.sum()) and np.median(score(colours[face], skin)) > -1.5:
        return True
    return max(map(_usual_skin, skin)) > 0.1


def _is_bare_foot(colours: np.ndarray, place: Place) -> bool:
    """Whether feet and shins have one tone of skin: boots in it are rarer than bare legs."""
    shin = colours[place.is_on("shin") & (place.along > 1.2) & (place.along < 1.8) & (place.away < 0.8)]
    foot = colours[place.is_on("foot") & (place.away < 1)]
    if len(shin) < 20 or len(foot) < 20 or min(skin_like(shin).mean(), skin_like(foot).mean()) < 0.6:
        return False
    return bool(np.median(score(foot, centres(shin, 2))) > -1.5)


_PALE = 0.88  # share of the strength of skin's hue below which something in its tone is cloth


def _strength(colours: np.ndarray) -> np.ndarray:
    """How strong the hue of Lab colours float32 [N, 3] is in proportion to their lightness: float32 [N]."""
    return np.hypot(colours[:, 1] - 128, colours[:, 2] - 128) / np.maximum(colours[:, 0], 8)


def _paler(colours: np.ndarray, cloth: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """Evidence float32 [N], from -2 to 2, that colours are those of a cloth in the tone of the skin, only paler.

    0 where cloth and skin are told apart by their colours, or not even by this.
    """
    if not len(cloth) or not len(skin) or score(cloth, skin).max() < -1.5:
        return np.zeros(len(colours), np.float32)
    here, there = np.median(_strength(cloth)), np.median(_strength(skin))
    if here >= _PALE * there:
        return np.zeros(len(colours), np.float32)
    return (4 * ((here + there) / 2 - _strength(colours)) / (there - here)).clip(-2, 2)


def _is_bare(chest: np.ndarray, skin: np.ndarray) -> bool:
    """Whether the chest has the colours of skin, or its hue, in proportion to the lightness, which differs."""
    if not len(chest) or not len(skin) or skin_like(chest).mean() < 0.5:
        return False
    if np.median(_strength(chest)) < _PALE * np.median(_strength(skin)):
        return False
    if np.median(score(chest, skin)) > -0.75:
        return True
    here, there = (np.median((c[:, 1:] - 128) / np.maximum(c[:, :1], 8), 0) for c in (chest, skin))
    return bool((np.abs(here - there) < [0.07, 0.03]).all())


def _without(seen: np.ndarray, others: np.ndarray, apart: float = -1) -> np.ndarray:
    """Colours [N, 3] without those of something else (a score of `apart` or more), unless that leaves little."""
    clear = seen[score(seen, others) < apart]
    return clear if len(clear) > 0.15 * len(seen) else seen


_HAIRY = -2.5  # score from which colours of the chest may be hair that hangs there


def _is_worn(colours: np.ndarray, place: Place, hair: np.ndarray) -> bool:
    """Whether the top has the colours of the hair: seen from the front, hair leaves most of the chest's middle free."""
    head = place.is_on("head")
    if (head & (place.face > 0.6)).sum() < max(1, 0.3 * head.sum()):
        return False
    middle = place.is_on("torso") & (place.trunk < 0.5) & (place.height > 0.35) & (place.height < 0.75)
    return bool(middle.sum() >= 20 and (score(colours[middle], hair) > _HAIRY).mean() > 0.5)


_SKIN = np.array([0.78, 0.45, 0.28], np.float32)  # linear RGB of skin in white light, up to its brightness


def _hair_colours(colours: np.ndarray, place: Place, skin: np.ndarray) -> tuple[np.ndarray, bool]:
    """Colours of hair, and whether it is a hat: green, blue, violet or deep red in the light that the skin is in."""
    above = place.is_on("head") & (((place.face < -0.2) & (place.crown > -0.1)) | (place.crown > 0.2))
    seen = colours[above]
    return centres(_without(seen, skin), 2), len(seen) > 0 and len(skin) > 0 and _is_hat(np.median(seen, 0), skin[0])


def _is_hat(seen: np.ndarray, skin: np.ndarray) -> bool:
    """Whether Lab [3] of what is on the head is the colour of a hat, where skin has the colour `skin` [3].

    What light does to the skin it does to hair: dark hair on a stage has the light's hue. Black is no hue at all.
    """
    if seen[0] < 45:
        return False
    hair, face = (_linear(c) for c in (seen, skin))
    light = face / _SKIN
    lab = _lab(np.clip(hair / np.maximum(light / light.max(), 0.1), 0, 1))
    a, b = lab[1:] - 128
    plain_a, plain_b = seen[1:] - 128
    found, as_seen = ((b < -8 or a < -8 or (a > 30 and a > b)) for a, b in ((a, b), (plain_a, plain_b)))
    return bool(found and as_seen)


def _linear(lab: np.ndarray) -> np.ndarray:
    """Linear RGB float32 [3] of OpenCV's 8-bit Lab [3]."""
    pixel = np.array([[[lab[0] / 2.55, lab[1] - 128, lab[2] - 128]]], np.float32)
    return np.clip(cv2.cvtColor(pixel, cv2.COLOR_Lab2LRGB)[0, 0], 1e-4, 1)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """8-bit Lab, as float32 [3], of linear RGB [3]."""
    lab = cv2.cvtColor(rgb[None, None].astype(np.float32), cv2.COLOR_LRGB2Lab)[0, 0]
    return lab * np.array([2.55, 1, 1], np.float32) + np.array([0, 128, 128], np.float32)


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
    leg = place.is_on("thigh", "shin") & (place.away < 0.8)
    sums = []
    for stuff in (BOTTOM, SKIN, SHOE):
        others = np.max([scores[s] for s in (BOTTOM, SKIN, SHOE) if s != stuff], 0)
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


def _skirt(place: Place, cloth: np.ndarray, hem: float) -> tuple[bool, float]:
    """Whether enough of the cloth is beside the legs for a skirt, and how far down the legs that goes.

    `cloth` bool [N] is what has the colours of the hips and not of the skin: what is held, or written on the picture,
    is no skirt. Wide trousers reach as far to the side as a narrow skirt, but hardly a leg's width farther; skirts that
    end above the shins are told from shorts by less.
    """
    far, enough = (1.2, 0.04) if hem < 1.45 else (1.4, 0.06) if hem < 1.85 else (1.6, 0.05)
    leg = place.is_on("thigh", "shin") & (place.along > 0.3) & cloth
    beside = (place.away[leg] > 1.2) & (place.height[leg] < 0)
    above = place.along[leg] <= max(hem, 0.5)
    share = _profile(place.along[leg], beside)
    reach = _STEP * (np.flatnonzero(share > 0.08).max(initial=0) + 2)
    clear = (beside & (place.away[leg] > far))[above]
    return bool(len(clear) > 20 and clear.mean() > enough), max(reach, min(hem, 1.0))


def _alike(top: np.ndarray, bottom: np.ndarray) -> bool:
    """Whether two sets of colours are those of one cloth."""
    if not len(top) or not len(bottom):
        return False
    return bool(score(bottom, top).mean() + score(top, bottom).mean() > -2)
