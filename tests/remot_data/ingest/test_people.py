from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remot_data import media, persons
from remot_data.detectors import base
from remot_data.ingest import people
from remot_data.persons import Person

BOX = st.tuples(st.floats(0, 500), st.floats(0, 800), st.floats(20, 400), st.floats(50, 900)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(st.lists(BOX, min_size=1, max_size=5), st.sampled_from([0.0, 0.1, 0.3]))
def test_the_crop_holds_every_box_with_its_margin_and_has_the_aspect(boxes, margin):
    size = (900, 1700)
    x, y, w, h = persons.crop(boxes, size, 0.75, margin)
    assert w / h == pytest.approx(0.75)
    union = np.array(boxes)
    assert x <= union[:, 0].min() + 1e-6 or w > size[0]
    assert x + w >= min(union[:, 2].max(), size[0]) - 1e-6
    assert y <= union[:, 1].min() + 1e-6 or h > size[1]
    assert y + h >= min(union[:, 3].max(), size[1]) - 1e-6


@given(BOX)
def test_a_crop_that_fits_lies_inside_the_picture(box):
    size = (4000, 4000)
    x, y, w, h = persons.crop([box], size, 0.75, 0.1)
    assert x >= 0 and y >= 0 and x + w <= size[0] and y + h <= size[1]


def test_the_main_person_is_the_large_one_and_is_followed_through_a_gap():
    def large(t):
        return Person(t, (100 + 5 * t, 50, 300 + 5 * t, 650), 0.8)

    def small(t):
        return Person(t, (600, 200, 650, 330), 0.99)

    looks = [[small(t)] if t == 3 else [small(t), large(t)] for t in range(8)]
    track = persons.main_track(looks)
    assert [p.frame for p in track] == [0, 1, 2, 4, 5, 6, 7]
    assert all(persons.height(p.box) == 600 for p in track)


def test_a_person_who_leaves_for_long_comes_back_as_another_track():
    looks = [[Person(t, (0, 0, 100, 300), 1.0)] if t < 2 or t > 8 else [] for t in range(11)]
    assert sorted(len(t) for t in persons.tracks(looks)) == [2, 2]


def test_no_looks_no_track():
    assert persons.main_track([[], []]) == []


class Alone:
    """A detector for one thread at a time, as LiteRT's networks are, and as slow in turns."""

    made = []

    def __init__(self):
        self.busy = threading.Lock()
        self.made.append(self)

    def allocate(self):
        pass

    def body_boxes(self, image, tiles):
        assert self.busy.acquire(blocking=False), "another thread is in it"
        time.sleep(0.001 * (int(image[0, 0, 0]) % 3))
        self.busy.release()
        box = (float(image[0, 0, 0]), 0.0, 300.0, 9.0)
        return [SimpleNamespace(box=box, score=0.9)]


@pytest.fixture
def alone(monkeypatch):
    monkeypatch.setattr(people.base, "load", lambda spec: Alone())
    monkeypatch.setattr(Alone, "made", [])
    people._finder.cache_clear()
    yield Alone.made
    people._finder.cache_clear()


def test_each_thread_that_looks_for_people_has_a_detector_of_its_own(alone):
    pictures = [np.full((8, 8, 3), i, np.uint8) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(people.find, pictures))
    assert [one[0].box[0] for one in found] == list(range(40))
    assert 1 <= len(alone) <= 4


def test_an_error_of_a_look_comes_out(alone, monkeypatch, tmp_path):
    path = tmp_path / "grey.mp4"
    with media.VideoWriter(path, 10, (32, 24)) as out:
        for t in range(20):
            out.write(np.full((32, 24, 3), 4 * t, np.uint8))

    def fails(self, image, tiles):
        raise RuntimeError("no memory")

    monkeypatch.setattr(Alone, "body_boxes", fails)
    for dense in (False, True):
        with pytest.raises(base.DetectorError, match="finding persons in frame 0 failed: RuntimeError: no memory"):
            people.watch(path, dense=dense)


def dressed(look, *boxes):
    """Persons in boxes, each with the colours of `look`'s clothes named beside it."""
    return [Person(0, box, score, colours=look[wears]) for box, wears, score in boxes]


def test_a_second_box_of_one_person_and_the_box_of_a_group_are_left_out():
    from tests.remot_data.ingest.test_tracking import BLUE, RED

    look = {"red": RED, "blue": BLUE}
    left, right = (100.0, 100.0, 180.0, 300.0), (170.0, 110.0, 250.0, 300.0)
    half, round_both = (105.0, 100.0, 175.0, 220.0), (98.0, 98.0, 252.0, 302.0)
    pair = dressed(look, (left, "red", 0.9), (right, "blue", 0.8))
    assert people._once(pair) == pair
    assert people._once([*dressed(look, (half, "red", 0.5)), *pair]) == pair
    # Somebody else's clothes: she stands behind.
    behind = dressed(look, (half, "blue", 0.5))
    assert people._once([*behind, *pair]) == [*behind, *pair]
    assert people._once([*pair, *dressed(look, (round_both, "red", 0.95))]) == pair
    # Two far behind one who is near are no group.
    near = dressed(look, ((90.0, 0.0, 400.0, 700.0), "red", 0.9))
    assert people._once([*near, *pair[1:], *dressed(look, ((300.0, 100.0, 330.0, 180.0), "blue", 0.7))])[0] is near[0]


def looks_of(monkeypatch, tmp_path, find):
    """Frames of the looks at a video of two seconds at 30 frames a second, whose persons `find(frame)` gives."""
    with media.VideoWriter(tmp_path / "v.mp4", 30, (64, 64)) as writer:
        for _ in range(60):
            writer.write(np.zeros((64, 64, 3), np.uint8))
    monkeypatch.setattr(people, "find", lambda image, frame, size: find(frame))
    return people.watch(tmp_path / "v.mp4", dense=True).at


def test_looks_are_denser_where_somebody_runs_and_where_she_comes(tmp_path, monkeypatch):
    def at(frame, x, **more):
        return [Person(frame, (x, 0.0, x + 10.0, 30.0), 0.9, **more)]

    even = list(range(0, 60, 6))
    assert looks_of(monkeypatch, tmp_path, lambda frame: at(frame, 5.0)) == even
    runs = looks_of(monkeypatch, tmp_path, lambda frame: at(frame, 5.0 if frame < 24 else 5.0 + 2 * (frame - 24)))
    assert set(even) < set(runs) and min(set(runs) - set(even)) > 23 and max(np.diff(runs)) <= 6
    comes = looks_of(monkeypatch, tmp_path, lambda frame: at(frame, 5.0) if frame >= 33 else [])
    assert set(comes) - set(even) and all(30 < n < 36 for n in set(comes) - set(even))
    # A finder that follows them itself sees the looks in their order.
    own = looks_of(monkeypatch, tmp_path, lambda frame: at(frame, 5.0 + 3 * frame, track=1))
    assert own == even
