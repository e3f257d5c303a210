"""Tracks of drawn boxes: no pictures, so that who moves how, and who wears what, is exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment

from remot_data.ingest.tracking import Track, _least, _put_right, track
from remot_data.persons import Person, as_box, colours, differ

STEP = 0.2  # seconds between looks
TALL = 200.0


def clothes(*rgb):
    """The colours of somebody in a shirt and trousers of two colours."""
    picture = np.zeros((100, 40, 3), np.uint8)
    picture[:50], picture[50:] = rgb[0], rgb[-1]
    return colours(picture, as_box((0, 0, 40, 100)))


RED, BLUE, GREEN = clothes((200, 30, 30), (20, 20, 20)), clothes((40, 60, 200)), clothes((60, 180, 70), (230, 230, 210))


def person(look, x, wears=RED, tall=TALL, score=0.9, sure=True):
    wide = 0.4 * tall
    return Person(look * 6, as_box((x - wide / 2, 100, x + wide / 2, 100 + tall)), score, sure=sure, colours=wears)


def tracked(looks, step=STEP):
    return track(looks, [i * step for i in range(len(looks))])


def wearing(found):
    """For each track, whom it shows, by colours, in the order of its looks."""
    names = {id(RED): "r", id(BLUE): "b", id(GREEN): "g"}
    return ["".join(names[id(p.colours)] for p in t.seen) for t in found]


def test_colours_tell_clothes_apart_and_light_does_not():
    assert differ(RED, RED) == pytest.approx(0, abs=1e-6)
    assert differ(RED, BLUE) > 0.9
    assert differ(clothes((200, 30, 30), (20, 20, 20)), clothes((204, 33, 31), (22, 22, 22))) < 0.05
    nowhere = colours(np.zeros((10, 10, 3), np.uint8), as_box((50, 50, 60, 60)))
    assert nowhere.shape == (2, 125) and not nowhere.any()


@pytest.mark.parametrize("widths", [0, 1, 2, 4, 6])
def test_a_person_is_followed_at_any_speed(widths):
    speed = widths * 0.4 * TALL * STEP
    (one,) = tracked([[person(i, 100 + i * speed)] for i in range(20)])
    assert len(one.seen) == 20


@pytest.mark.parametrize("hidden", [0, 1, 2])
def test_two_who_cross_keep_their_names(hidden):
    """While they are behind each other one box is all there is."""
    looks = []
    for i in range(21):
        a, b = person(i, 100 + 40 * i, RED), person(i, 900 - 40 * i, BLUE)
        looks.append([a] if abs(i - 10) <= hidden else [a, b])
    assert sorted(wearing(tracked(looks))) == ["b" * (21 - 1 - 2 * hidden), "r" * 21]


def test_three_who_cross_keep_their_names():
    paths = {"r": (RED, 100, 40), "b": (BLUE, 900, -40), "g": (GREEN, 300, 20)}
    looks = [[person(i, x + v * i, wears) for wears, x, v in paths.values()] for i in range(21)]
    assert sorted(wearing(tracked(looks))) == ["b" * 21, "g" * 21, "r" * 21]


@pytest.mark.parametrize("apart", [10, 40])
def test_who_turns_round_at_the_meeting_is_told_by_her_clothes(apart):
    """By their ways alone the two went past each other."""
    looks = []
    for i in range(21):
        near = 500 - 40 * abs(i - 10)
        looks.append([person(i, near - apart, RED), person(i, 1000 - near + apart, BLUE)])
    assert sorted(wearing(tracked(looks))) == ["b" * 21, "r" * 21]


def test_tracks_that_were_mixed_up_are_exchanged_at_the_look_at_which_they_were():
    """Boxes on the wrong tracks from the eighth look on, which is one of the meeting."""
    ways = [(100 + 40 * i, 420 - 4 * i) for i in range(16)]
    left, right = Track(), Track()
    for i, (a, b) in enumerate(ways):
        mine, hers = person(i, a, RED), person(i, b, BLUE)
        for piece, one in zip((left, right), (mine, hers) if i < 8 else (hers, mine), strict=True):
            piece.add(i * STEP, one)
    _put_right([left, right], {})
    assert wearing([left, right]) == ["r" * 16, "b" * 16]


def test_who_leaves_and_comes_back_is_the_same():
    looks = [[person(i, 100 + 20 * i)] if i < 10 or i >= 40 else [] for i in range(50)]
    (one,) = tracked(looks)
    assert len(one.seen) == 20


def test_who_takes_another_s_place_is_another():
    relay = [[person(i, 400, RED if i < 10 else BLUE)] for i in range(20)]
    assert sorted(wearing(tracked(relay))) == ["b" * 10, "r" * 10]


def test_one_of_a_crew_who_dress_alike_is_not_taken_for_another_who_comes_later():
    looks = [
        [person(i, 100), *([person(i, 900)] if i < 10 else []), *([person(i, 500)] if i > 30 else [])]
        for i in range(40)
    ]
    assert [len(t.seen) for t in tracked(looks)] == [40, 10, 9]


def test_a_jump_inside_a_set_is_of_the_same_person():
    (one,) = tracked([[person(i, 100 if i < 10 else 800)] for i in range(20)])
    assert len(one.seen) == 20


def test_weak_boxes_continue_a_track_and_begin_none():
    looks = [[person(i, 100 + 10 * i, sure=i % 2 == 0), person(i, 700, BLUE, sure=False)] for i in range(20)]
    (one,) = tracked(looks)
    assert len(one.seen) == 20


def test_the_main_person_comes_first():
    looks = [[person(i, 100, BLUE, tall=80), person(i, 600, RED)] for i in range(10)]
    assert wearing(tracked(looks)) == ["r" * 10, "b" * 10]


def test_a_box_in_two_looks_is_no_track_unless_there_are_no_more():
    assert tracked([[person(i, 100)] if i < 2 else [] for i in range(10)]) == []
    assert len(tracked([[person(i, 100)] for i in range(2)])) == 1
    assert tracked([]) == [] == tracked([[]])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 1200), st.integers(64, 400), st.booleans(), st.integers(0, 2)), max_size=4),
        max_size=12,
    ),
    st.sampled_from([0.05, 0.2, 1.0]),
)
def test_no_box_is_in_two_tracks_and_no_track_has_two_boxes_of_a_look(drawn, step):
    wears = (RED, BLUE, GREEN)
    looks = [[person(i, x, wears[w], tall, sure=s) for x, tall, s, w in look] for i, look in enumerate(drawn)]
    found = tracked(looks, step)
    boxes = [id(p) for t in found for p in t.seen]
    assert len(boxes) == len(set(boxes)) and set(boxes) <= {id(p) for look in looks for p in look}
    for t in found:
        assert t.times == sorted(set(t.times)) and len(t.times) == len(t.seen)
        assert [p.frame for p in t.seen] == sorted(p.frame for p in t.seen)


@given(hnp.arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.floats(0, 9)), st.data())
def test_boxes_and_tracks_are_assigned_at_the_least_cost(costs, data):
    """What fits nothing is left out first, and few ways are tried one by one: scipy is not loaded for them."""
    costs[data.draw(hnp.arrays(bool, costs.shape))] = np.inf
    table = np.where(np.isfinite(costs), costs, 1e6)
    rows, columns = linear_sum_assignment(table)
    found = _least(costs)
    assert len({i for i, _ in found}) == len({j for _, j in found}) == len(found)
    assert len(found) == np.isfinite(costs[rows, columns]).sum()
    assert sum(costs[i, j] for i, j in found) == pytest.approx(
        costs[rows, columns][np.isfinite(costs[rows, columns])].sum()
    )
