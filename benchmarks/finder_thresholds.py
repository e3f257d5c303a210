"""The thresholds of the finder ``ssd``: set on half of the material, reported on the other half.

Set on: made scenes of a seed below `made_scenes.REPORTED`, cameras 1 and 4 of pose2sim's two persons, the dancer of
musicalgestures. Reported on: a seed from there on, cameras 2 and 3, sports2d's passer-by and jump. The measures are the
looks of `benchmarks/persons.py`.

    python benchmarks/finder_thresholds.py FOLDER --material FOLDER [--sure 0.4 0.45 0.5] [--least 0.25 0.3 0.35]
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import made_scenes, persons
from remot_data import media
from remot_data.detectors.ssd_persons import SSDFinder

SET = ("pose2sim-multi-cam01", "pose2sim-multi-cam04", "musicalgestures-dancer")


def pictures(case: persons.Case) -> Iterator[tuple[int, np.ndarray]]:
    """Number and picture, uint8 [H, W, 3], of each frame looked at."""
    size = media.probe(case.path).size
    scale = min(1.0, SSDFinder.longest / max(size))
    step = made_scenes.FPS // persons.RATE if case.made else 1
    for number, (_, picture) in enumerate(media.read(case.path, size=(round(size[1] * scale), round(size[0] * scale)))):
        if number in case.truth.at and number % step == 0:
            yield number, picture


def rows(cases: Iterable[persons.Case], finders: Sequence[SSDFinder]) -> Iterator[dict[str, float]]:
    """A row for each finder: the shares of looks and boxes, over all cases."""
    counts: list[Counter[str]] = [Counter() for _ in finders]
    for case in cases:
        looks = list(pictures(case))
        for finder, count in zip(finders, counts, strict=True):
            look = finder.follow()
            for number, picture in looks:
                count.update(persons.count_look(look(picture, number, case.truth.size), case.truth.at[number]))
    for finder, n in zip(finders, counts, strict=True):
        shares = {"all found": n["complete"] / n["looks"], "weak": n["weak"] / n["looks"]}
        shares["phantoms"] = n["phantoms"] / n["boxes"]
        yield {**finder.fingerprint()["settings"], "looks": n["looks"], **shares}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--material", type=Path, required=True)
    options.add_argument("--sure", type=float, nargs="+", default=[0.4, 0.45, 0.5])
    options.add_argument("--least", type=float, nargs="+", default=[0.25, 0.3, 0.35])
    given = options.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    finders = [SSDFinder(sure=sure, least=least) for sure, least in itertools.product(given.sure, given.least)]
    real = list(persons.real_cases(given.material))
    for title, seed, half in (("set on", 0, True), ("reported on", made_scenes.REPORTED, False)):
        made = persons.made_cases(given.folder, made_scenes.SCENES, [seed])
        cases = itertools.chain(made, (case for case in real if (case.name in SET) == half))
        persons.printed(title, list(rows(cases, finders)))


if __name__ == "__main__":
    main()
