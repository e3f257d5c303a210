"""Left and right of a pose that change places for a while, though nobody moves so.

The kind: a network that sees each frame by itself takes left for right, in all of the body or in two limbs, for one
frame or for half a second. Made input: drawn bodies whose sides are exchanged, in all looks alike. The right value: the
sides of before and after, and no limb that hangs on the other side of the trunk.

And the other way round: somebody who does turn, at up to 2.5 turns a second, keeps the sides that all looks agree on.
"""

from __future__ import annotations

import numpy as np
import pytest

from remot_data.detectors import _carrying as carrying
from tests.remot_data.detectors.test_carrying import ARMS, LEGS, TRUNK, dancer, exchanged, looks


@pytest.mark.parametrize("rate", [25, 60])
@pytest.mark.parametrize("seconds", [0.04, 0.5])
@pytest.mark.parametrize("group", [ARMS, LEGS, [*TRUNK, *ARMS, *LEGS]], ids=["arms", "legs", "all"])
def test_sides_come_back_whatever_the_frame_rate(rate, seconds, group):
    truth, heights, times = dancer(3 * rate, 1 / rate)
    wrong = exchanged(truth, slice(rate, rate + max(1, round(seconds * rate))), group)
    found, marks = carrying.decide(looks(wrong, wrong, None), heights, times)
    assert np.array_equal(found, truth)
    assert ((marks & carrying.EXCHANGED) > 0).any(1).sum() == max(1, round(seconds * rate))


def test_arms_do_not_stay_alone_on_the_other_side_of_the_trunk():
    """Where one pass exchanges arms for long and another has both as they are, they are taken from that one."""
    truth, heights, times = dancer(75)
    wrong = exchanged(truth, slice(20, None), ARMS)
    found, _ = carrying.decide(looks(wrong, None, truth), heights, times)
    assert np.array_equal(found, truth)


@pytest.mark.parametrize("rate", [0.5, 1.5, 2.5])
def test_who_spins_keeps_her_sides(rate):
    times = np.arange(100) / 25
    angles = np.clip((times - 1) * rate * 2 * np.pi, 0, 2 * np.pi)
    still, heights, _ = dancer(1)
    truth = np.repeat(still, len(times), 0)
    truth[..., 0] = 100 + (still[..., 0] - 100) * np.cos(angles)[:, None]
    seen = np.stack([truth] * 3)
    seen[..., :2] += np.random.default_rng(1).normal(0, 1.0, seen[..., :2].shape)
    found, _ = carrying.decide(seen, np.repeat(heights, len(times)), times)
    off = [np.abs(found[:, TRUNK, 0] - x).sum(1) for x in (truth[:, TRUNK, 0], truth[:, carrying.OTHER_SIDE[TRUNK], 0])]
    clear = np.abs(np.cos(angles)) > 0.3
    assert not (off[1] < off[0])[clear].any()
