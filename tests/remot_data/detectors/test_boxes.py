"""What boxes tell of bodies and of labels, by hand-made numbers."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from remot_data.detectors._boxes import Sight, in_view, mostly_in_view, sights, which, without_others
from remot_data.detectors.base import BUILTIN
from remot_data.detectors.schp import SCHP
from remot_data.detectors.segformer import SegFormerClothes

NONE = (np.nan,) * 4
SIZE = (100, 80)


def sight(own: tuple[float, ...], *others: tuple[float, ...]) -> Sight:
    return Sight(np.array(own, np.float32), np.array(others, np.float32).reshape(-1, 4), SIZE)


def holds(seen: Sight, *body: float) -> bool:
    box = np.array(body, np.float32)
    return seen.holds(box, (box[:2] + box[2:]) / 2)


def test_a_body_is_that_of_the_box_it_fits_best() -> None:
    seen = sight((10, 10, 30, 90), (40, 10, 60, 90))
    assert holds(seen, 11, 12, 29, 88) and not holds(seen, 41, 12, 59, 88)
    assert holds(sight((40, 10, 60, 90), (10, 10, 30, 90)), 41, 12, 59, 88)
    # Somewhere else, or between the two and as near to either.
    assert not holds(seen, 65, 60, 80, 90) and holds(seen, 25, 10, 45, 90)


def test_of_two_boxes_that_lie_on_each_other_the_own_one_holds() -> None:
    assert holds(sight((10, 10, 30, 90), (12, 10, 32, 90)), 13, 12, 31, 88)


def test_half_a_body_and_arms_held_out_fit_all_the_same() -> None:
    assert holds(sight((10, 10, 30, 90)), 12, 10, 28, 50)
    assert holds(sight((10, 10, 30, 90)), 0, 10, 40, 90)


def test_without_an_own_box_a_body_may_be_anybodys_but_somebody_elses() -> None:
    seen = sight(NONE, (40, 10, 60, 90))
    assert not seen.is_known and not holds(seen, 41, 12, 59, 88) and holds(seen, 10, 10, 30, 90)
    assert holds(sight(NONE), 41, 12, 59, 88)


def test_of_a_body_of_unknown_size_the_middle_counts() -> None:
    seen = sight((10, 10, 30, 90), (40, 10, 60, 90))
    assert seen.holds(None, np.array([21, 45])) and not seen.holds(None, np.array([50, 45]))


def test_which_of_several_bodies_is_the_own_one() -> None:
    bodies = np.array([(41, 10, 60, 90), (0, 0, 0, 0), (12, 30, 30, 90), (10, 11, 30, 89)], np.float32)
    seen = sight((10, 10, 30, 90), (40, 10, 60, 90))
    assert which(seen, bodies) == 3 and which(seen, bodies[:2]) is None and which(seen, bodies[:0]) is None
    assert which(sight(NONE, (40, 10, 60, 90)), bodies) == 2, "the first that is nobody else's"
    assert which(sight((0, 0, 2, 2)), bodies[1:2]) is None, "what is no box"


def test_what_is_in_view() -> None:
    boxes = np.array([(-50, 0, 1, 90), (-50, 0, 9, 90), (-50, 0, 60, 90), (0, 0, 80, 1), NONE], np.float32)
    assert in_view(boxes, SIZE).tolist() == [False, True, True, False, False]
    assert mostly_in_view(boxes, SIZE).tolist() == [False, False, True, True, False]
    seen = next(sights({"own": boxes[:1], "others": boxes[None]}, SIZE))
    assert seen.others.tolist() == boxes[1:3].tolist()


def test_labels_in_boxes_of_others_become_background_but_not_in_the_own_box() -> None:
    labels = np.full((2, *SIZE), 4, np.uint8)
    own = np.array([(10, 10, 30, 90), NONE], np.float32)
    others = np.array([[(25, 0, 50, 100), NONE], [(25, 0, 50, 100), NONE]], np.float32)
    found = without_others(labels, {"own": own, "others": others})
    assert (found[0, :, 30:50] == 0).all() and (found[0, :10, 25:50] == 0).all()
    assert (found[0, 10:90, 10:30] == 4).all() and (found[0, :, 50:] == 4).all()
    assert (found[1] == 4).all(), "where the own box is not known, nothing is taken away"
    assert without_others(labels, None) is labels and (labels == 4).all()


@pytest.mark.parametrize("parser", [SCHP, SegFormerClothes])
def test_parsers_call_background_what_is_in_the_box_of_others(parser: type) -> None:
    outputs = {"labels": np.full((1, *SIZE), 4, np.uint8)}
    frames = np.zeros((1, *SIZE, 3), np.uint8)
    boxes = {"own": np.array([(0, 0, 40, 100)], np.float32), "others": np.array([[(30, 0, 80, 100)]], np.float32)}
    join = parser.__new__(parser).join
    assert (join(frames, outputs)["labels"] == 4).all()
    assert (join(frames, outputs, boxes=boxes)["labels"][0, 0] == [4] * 40 + [0] * 40).all()
    assert join(frames[:0], {}, boxes={name: b[:0] for name, b in boxes.items()})["labels"].shape == (0, *SIZE)


@pytest.mark.parametrize("name", ["schp", "segformer", "mmpose", "ultralytics", "detectron2", "blazepose"])
def test_those_that_choose_a_person_ask_for_boxes(name: str) -> None:
    module, _, attribute = BUILTIN[name].target.partition(":")
    assert "boxes" in getattr(importlib.import_module(module), attribute).needs
