"""What a drawn dancer looks like, and the random choice of it: colours, fabrics, clothes, proportions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np

Colour = tuple[int, int, int]
_Value = TypeVar("_Value")

_SKINS: tuple[Colour, ...] = (
    (255, 224, 196), (240, 200, 168), (224, 172, 130), (198, 140, 98), (160, 106, 70), (120, 78, 52), (86, 56, 40),
)  # fmt: skip
_HAIRS: tuple[Colour, ...] = (
    (24, 20, 18), (52, 36, 26), (92, 60, 34), (140, 92, 48), (206, 168, 96), (170, 66, 34), (150, 150, 154),
    (120, 60, 150), (40, 110, 150),
)  # fmt: skip


@dataclass(frozen=True)
class Cloth:
    """A fabric: a pattern in two colours; `period` is the pattern's repeat in body heights."""

    pattern: str
    colour: Colour
    second: Colour
    period: float


@dataclass(frozen=True)
class Dancer:
    """Looks, proportions and place of one figure.

    `height` and `ground` (where the feet stand) are shares of the frame's height, `place` of its width.
    `shoulders` and `hips` are half widths in body heights, `head` and `girth` factors of the usual size.
    `sleeves` and `hem` count along a limb: 0 none, 1 to the elbow or knee, 2 to the wrist or ankle.

    What follows `print_colour` no random dancer has: gloves, bare feet, a skirt with pleats, or `flare` times as wide
    at its hem, trousers `baggy` times as wide, long hair `mane` times as long as usual, and a ball in one hand (`ball`
    is its side), with a radius in body heights.
    """

    height: float
    place: float
    ground: float
    shoulders: float
    hips: float
    head: float
    girth: float
    skin: Colour
    hair: str
    hair_colour: Colour
    hat: str
    hat_colour: Colour
    glasses: bool
    scarf: bool
    bag: bool
    belt: bool
    top: Cloth
    sleeves: float
    bottom: str
    lower: Cloth
    hem: float
    shoe: Colour
    boots: bool
    print_colour: Colour | None
    gloves: Colour | None = None
    barefoot: bool = False
    pleats: bool = False
    flare: float = 1.0
    baggy: float = 1.0
    mane: float = 1.0
    ball: str = ""
    ball_colour: Colour = (210, 40, 40)
    ball_radius: float = 0.07

    @classmethod
    def random(cls, seed: int) -> Dancer:
        """A dancer drawn from `seed`; equal seeds give equal dancers."""
        rng = np.random.default_rng([seed, 1])
        bottom = _choose(rng, ("pants",) * 5 + ("shorts",) * 2 + ("skirt",) * 2 + ("dress",) * 2)
        top, lower = _random_cloth(rng), _random_cloth(rng)
        hem = {"pants": rng.uniform(1.75, 2.0), "shorts": rng.uniform(0.45, 0.95)}.get(bottom, rng.uniform(0.55, 1.35))
        height = rng.uniform(0.62, 0.84)
        return cls(
            height=height,
            place=rng.uniform(0.42, 0.58) if rng.random() < 0.8 else _choose(rng, (0.2, 0.28, 0.72, 0.8)),
            ground=min(rng.uniform(0.9, 0.97), height + 0.13 + rng.uniform(0, 0.12)),
            shoulders=rng.uniform(0.1, 0.128),
            hips=rng.uniform(0.056, 0.072),
            head=rng.uniform(0.98, 1.2),
            girth=rng.uniform(0.88, 1.25),
            skin=_choose(rng, _SKINS),
            hair=_choose(rng, ("short", "short", "crop", "long", "long", "bob", "bun", "ponytail", "afro", "bald")),
            hair_colour=_choose(rng, _HAIRS),
            hat=_choose(rng, ("",) * 6 + ("beanie", "cap")),
            hat_colour=random_colour(rng),
            glasses=bool(rng.random() < 0.14),
            scarf=bool(rng.random() < 0.1),
            bag=bool(rng.random() < 0.1),
            belt=bool(rng.random() < 0.3),
            top=top,
            sleeves=_choose(rng, (0.0, 0.45, 0.55, 0.7, 1.3, 1.85, 1.95)),
            bottom=bottom,
            lower=top if bottom == "dress" else lower,
            hem=float(hem),
            shoe=random_colour(rng),
            boots=bool(rng.random() < 0.15),
            print_colour=random_colour(rng) if rng.random() < 0.4 else None,
        )


def _choose(rng: np.random.Generator, values: Sequence[_Value]) -> _Value:
    return values[int(rng.integers(len(values)))]


def random_colour(rng: np.random.Generator) -> Colour:
    hsv = np.array([[[rng.integers(180), rng.choice((30, 120, 190, 235)), rng.integers(60, 246)]]], np.uint8)
    r, g, b = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return r, g, b


def _random_cloth(rng: np.random.Generator) -> Cloth:
    pattern = _choose(rng, ("plain", "plain", "plain", "folds", "across", "along", "checks", "dots", "fade"))
    colour, second = random_colour(rng), random_colour(rng)
    if pattern in ("plain", "folds"):
        second = tint(colour, 0.78)
    return Cloth(pattern, colour, second, float(rng.uniform(0.03, 0.08)))


def tint(colour: Colour, factor: float) -> Colour:
    r, g, b = (min(255, int(c * factor)) for c in colour)
    return r, g, b
