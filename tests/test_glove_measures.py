"""What benchmarks/gloves.py counts, on keypoints whose faults are known; and where the dancer is here, her gloves."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gloves
from remot_data.schemas import keypoint_set

INDEX = keypoint_set("body25").index
FIRST = 199


def dancer(count: int) -> np.ndarray:
    """Keypoints [T, 25, 3] whose hands lie on the gloves, with legs 60 pixels apart."""
    points = np.zeros((count, 25, 3), np.float32)
    for t in range(count):
        at = gloves.truth()["at"].get(str(FIRST + t), {"right": [200, 200], "left": [300, 200]})
        for side, x in (("right", 230), ("left", 290)):
            hand = np.array(at[side], float)
            elbow = hand + (0, 40.5)
            points[t, INDEX(f"{side}-elbow")] = (*elbow, 1)
            points[t, INDEX(f"{side}-wrist")] = (*(elbow - (0, 30)), 1)
            points[t, INDEX(f"{side}-knee")] = (x, 380, 1)
            points[t, INDEX(f"{side}-ankle")] = (x, 460, 1)
    return points


def exchanged(points: np.ndarray, *names: str) -> np.ndarray:
    out = points.copy()
    for name in names:
        right, left = INDEX(f"right-{name}"), INDEX(f"left-{name}")
        out[[right, left]] = points[[left, right]]
    return out


def test_right_hands_are_right():
    found = gloves.judged(dancer(20), FIRST)
    assert len(found.judged) > 10 and not found.swapped and not found.off and not found.leg_swaps


def test_swapped_hands_are_swapped_and_not_off():
    points = dancer(20)
    points[4] = exchanged(points[4], "elbow", "wrist")
    found = gloves.judged(points, FIRST)
    assert found.swapped == [4] and not found.off


def test_a_hand_far_away_or_missing_is_off():
    points = dancer(20)
    points[3, INDEX("left-wrist"), 0] += 40
    points[5, INDEX("right-wrist")] = 0
    assert gloves.judged(points, FIRST).off == [3, 5]


def test_legs_that_change_places_for_one_frame_swap_twice():
    points = dancer(20)
    points[7] = exchanged(points[7], "knee", "ankle")
    found = gloves.judged(points, FIRST)
    assert found.leg_swaps == [7, 8] and not found.swapped


@pytest.mark.slow
def test_the_dancer_herself(tmp_path):
    """Her gloves are where the frames are red and white."""
    place = os.environ.get("REMOT_DANCER")
    if not place:
        pytest.skip("REMOT_DANCER does not name the dancer.avi of musicalgestures==1.32.0")
    from remot_data.media import read

    video = gloves.video(tmp_path, Path(place))
    wanted = {int(number): at for number, at in gloves.truth()["at"].items() if int(number) % 10 == 0}
    for number, (_, frame) in enumerate(read(video)):
        if number in wanted:
            x, y = wanted[number]["left"]
            patch = frame[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 3).mean(0)
            assert patch[0] > 2 * patch[1] and patch[0] > patch[2], number
