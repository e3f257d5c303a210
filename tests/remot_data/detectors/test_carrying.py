"""Sides and lost joints over time, on drawn bodies whose faults are put in on purpose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remot_data.detectors import _carrying as carrying
from remot_data.detectors._doubts import doubtful, grown, probes, spans

HEIGHT = 200.0
ARMS, LEGS, TRUNK = list(range(13, 23)), list(range(25, 33)), [11, 12, 23, 24]


def dancer(count: int, seconds: float = 0.04) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bodies [T, 33, 3] of somebody who sways and swings her arms, her heights and the times."""
    times = np.arange(count) * seconds
    body = np.zeros((count, 33, 3), np.float32)
    left = np.isin(np.arange(33), [1, 2, 3, 7, 9, *range(11, 33, 2)])
    across = np.select([np.isin(np.arange(33), LEGS), np.isin(np.arange(33), ARMS)], [12.0, 40.0], 20.0)
    down = np.interp(np.arange(33), [0, 11, 15, 23, 27, 32], [20, 50, 90, 110, 190, 200])
    swing = np.where(np.isin(np.arange(33), ARMS), 15.0, 3.0)
    body[..., 0] = 100 + np.where(left, across, -across) + swing * np.sin(2 * times)[:, None]
    body[..., 1] = down + 0.5 * swing * np.cos(2 * times)[:, None] * np.where(left, 1, -1)
    body[..., 2] = 0.95
    return body, np.full(count, HEIGHT), times


def exchanged(body: np.ndarray, frames: slice, group: list[int]) -> np.ndarray:
    out = body.copy()
    out[frames, group] = body[frames][:, carrying.OTHER_SIDE[group]]
    return out


def looks(*passes: np.ndarray | None) -> np.ndarray:
    nothing = np.full_like(passes[0], np.nan)
    nothing[..., 2] = 0
    return np.stack([nothing if one is None else one for one in passes])


@pytest.mark.parametrize("group", [ARMS, LEGS, TRUNK])
def test_sides_that_change_for_a_moment_change_back(group):
    """No other pass is needed for that; and only what was wrong is marked."""
    truth, heights, times = dancer(40)
    wrong = exchanged(truth, slice(15, 19), group)
    found, marks = carrying.decide(looks(wrong, None, None), heights, times)
    assert np.array_equal(found, truth)
    expected = np.zeros((40, 33), np.uint8)
    expected[15:19, group] = carrying.EXCHANGED
    assert np.array_equal(marks, expected)


def test_sides_that_stay_exchanged_for_long_are_those_of_the_network():
    """It is mostly right: when somebody turns, sides change for good."""
    truth, heights, times = dancer(120)
    turned = exchanged(truth, slice(40, None), [*ARMS, *LEGS, *TRUNK])
    found, marks = carrying.decide(looks(turned, None, None), heights, times)
    assert np.array_equal(found[60:], turned[60:]) and not marks[60:].any()


def test_a_limb_that_one_pass_loses_is_that_of_another():
    truth, heights, times = dancer(30)
    wrong = truth.copy()
    wrong[10:14, ARMS, 0] += 60
    away = truth.copy()
    away[10:14, ARMS, 0] += 60
    away[10:14, LEGS, 0] -= 60
    found, marks = carrying.decide(looks(wrong, away, truth), heights, times)
    assert np.array_equal(found, truth)
    assert (marks[10:14, ARMS] == carrying.OF_MIRRORED).all() and not marks[:, LEGS].any()
    found, marks = carrying.decide(looks(wrong, truth, None), heights, times)
    assert np.array_equal(found, truth) and (marks[10:14, ARMS] == carrying.OF_BACKWARD).all()


def test_who_is_lost_forward_is_there_backward():
    truth, heights, times = dancer(20)
    gone = truth.copy()
    gone[5:9] = np.nan, np.nan, 0
    found, marks = carrying.decide(looks(gone, truth, None), heights, times)
    assert np.array_equal(found, truth) and (marks[5:9] == carrying.OF_BACKWARD).all() and not marks[9:].any()


def test_an_unsure_joint_is_helped_while_it_moves_little():
    body, heights, times = dancer(60)
    body[10:30, 15, 2] = 0.15  # within a second of a surer one, before or after
    body[10:60, 16, 2] = 0.15  # only for a second
    body[20:24, 14, 2] = 0.05  # too unsure
    body[5:9, 13, 2] = 0.2
    body[5:9, 13, 0] += 80  # elsewhere
    seen = carrying.helped(body, heights, times, 0.3)
    assert seen[:, 15].all() and not seen[20:24, 14].any() and not seen[5:9, 13].any()
    assert seen[10:34, 16].all() and not seen[36:, 16].any()
    assert seen[:, [11, 12, *LEGS]].all()


@given(st.integers(2, 40), st.floats(0.005, 0.3), st.integers(0, 2**20), st.floats(0, 0.6))
def test_filling_stays_within_its_time_and_on_the_line(count, seconds, seed, share):
    rng = np.random.default_rng(seed)
    body, heights, times = dancer(count, seconds)
    times = np.cumsum(rng.uniform(0.2, 1.8, count)) * seconds
    seen = rng.random((count, 33)) >= share
    before = body.copy()
    filled = carrying.fill(body, seen, heights, times)
    assert not (filled & seen).any() and np.array_equal(body[~filled], before[~filled])
    for joint in range(33):
        for start, stop in spans(filled[:, joint]):
            assert seen[start - 1, joint] and seen[stop, joint]
            assert times[stop] - times[start - 1] <= carrying.FILL + 1e-6
            ends = before[[start - 1, stop], joint]
            assert (body[start:stop, joint, :2] >= ends[:, :2].min(0) - 1e-3).all()
            assert (body[start:stop, joint, :2] <= ends[:, :2].max(0) + 1e-3).all()
            assert np.allclose(body[start:stop, joint, 2], ends[:, 2].min() / 2)


def test_a_gap_is_filled_by_seconds_not_by_frames():
    for seconds, wanted in ((0.04, True), (0.02, True), (0.06, False)):
        body, heights, times = dancer(20, seconds)
        truth = body.copy()
        seen = np.ones((20, 33), bool)
        seen[8:12, 15] = False
        body[8:12, 15] = 0
        filled = carrying.fill(body, seen, heights, times)
        assert filled[8:12, 15].all() == wanted and filled.sum() == 4 * wanted
        if wanted:
            assert np.abs(body[8:12, 15, :2] - truth[8:12, 15, :2]).max() < 1


def test_how_far_other_looks_lie_from_the_pose_is_told_in_heights():
    body, heights, _ = dancer(6)
    other, lost = body.copy(), body.copy()
    other[2, 15, 0] += 20
    other[3, 16, 1] += 60
    told, disputed = carrying.apart(looks(body, None, other), body, heights)
    assert not disputed.any()
    assert told[2, 15] == 25 and told[3, 16] == 75 and told[0].max() == 0
    assert (carrying.apart(looks(body, None, None), body, heights)[0] == 255).all()
    lost[1, 27, 2] = 0
    told, _ = carrying.apart(looks(body, other, None), lost, heights)
    assert told[1, 27] == 255 and told[2, 15] == 25


def test_looks_that_only_call_the_sides_otherwise_saw_the_same_body():
    body, heights, _ = dancer(6)
    other = exchanged(body, slice(2, 4), [*TRUNK, *ARMS, *LEGS])
    other[3, 15, 0] += 20
    told, disputed = carrying.apart(looks(other, body, other), body, heights)
    assert told[2].max() == 0 and told[3].max() == 25
    assert (disputed[2:4][:, [*TRUNK, *ARMS, *LEGS]] == carrying.DISPUTED).all() and not disputed[[0, 1, 4, 5]].any()


def test_a_calm_clip_has_no_doubts():
    body, heights, times = dancer(50)
    assert not doubtful(body, heights, times).any()
    assert probes(np.ones(50, bool), times) == [0, 13, 26, 39]


def test_every_sign_is_a_doubt():
    body, heights, times = dancer(50)

    def flagged(change) -> list[int]:
        made = body.copy()
        change(made)
        return np.flatnonzero(doubtful(made, heights, times)).tolist()

    def jump(made):
        made[20, 15, 0] += 30

    def unsure(made):
        made[20, 16, 2] = 0.05

    def longer(made):
        made[20:, [15, 17, 19, 21], 1] += 25

    def crossing(made):
        made[20:, TRUNK] = made[20:][:, carrying.OTHER_SIDE[TRUNK]]

    def gone(made):
        made[20] = np.nan, np.nan, 0

    assert {20} <= set(flagged(jump)) <= set(range(16, 25))
    assert flagged(unsure) == [18, 19, 20, 21, 22]
    assert {19, 20} <= set(flagged(longer)) <= set(range(16, 25))
    assert {19, 20} <= set(flagged(crossing)) <= set(range(16, 25))
    assert {19, 20, 21} <= set(flagged(gone)) <= set(range(16, 25))


def test_doubts_go_by_seconds():
    """At eight frames a second a body that moves alike is no more doubtful."""
    body, heights, times = dancer(20, 0.125)
    assert not doubtful(body, heights, times).any()


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 4))
def test_flags_grow_to_both_sides(flags, count):
    flags = np.array(flags, bool)
    wide = grown(flags, count)
    expected = [any(flags[max(0, t - count) : t + count + 1]) for t in range(len(flags))]
    assert wide.tolist() == expected
