from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remot_data import sampling

SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 60)), min_size=1, max_size=8).map(
    lambda pairs: [(i, start, start + length) for i, (start, length) in enumerate(pairs)]
)


@given(SPANS, st.integers(1, 12), st.integers(1, 12), st.integers(0, 5))
def test_windows_lie_inside_their_spans_and_never_repeat(spans, length, stride, epoch):
    found = sampling.windows(spans, length, stride=stride, seed=1, epoch=epoch)
    limits = {clip: (start, stop) for clip, start, stop in spans}
    assert len({tuple(w) for w in found}) == len(found)
    assert all(limits[c][0] <= f and f + length <= limits[c][1] for c, f in found)


@given(SPANS, st.integers(1, 12), st.integers(1, 12))
def test_every_epoch_has_as_many_windows(spans, length, stride):
    counts = {len(sampling.windows(spans, length, stride=stride, epoch=e)) for e in range(4)}
    assert len(counts) == 1


def test_every_position_is_reached_over_the_epochs():
    starts = {int(f) for e in range(60) for _, f in sampling.windows([(0, 0, 20)], 4, epoch=e)}
    assert starts == set(range(17))


def test_without_shuffling_windows_tile_the_span():
    found = sampling.windows([(0, 3, 15)], 4, shuffle=False)
    assert found.tolist() == [[0, 3], [0, 7], [0, 11]]


@given(st.integers(0, 200), st.integers(1, 16), st.integers(0, 50))
def test_ranks_share_every_index_once_and_evenly(total, world, start):
    shares = [list(sampling.share(total, rank, world, start)) for rank in range(world)]
    assert len({len(s) for s in shares}) == 1
    merged = sorted(i for s in shares for i in s)
    assert merged == list(range(start, start + len(merged)))
    assert max(0, total - start) - len(merged) < world


def test_resume_gives_the_rest_of_the_same_order():
    whole = [list(sampling.share(40, r, 2)) for r in range(2)]
    rest = [list(sampling.share(40, r, 2, start=10)) for r in range(2)]
    assert sorted(sum(rest, [])) == sorted(i for share in whole for i in share if i >= 10)


@given(st.integers(1, 100), st.floats(0, 1))
def test_time_splits_part_a_clip_in_two(frames, part):
    train, test = (sampling.split_mask(frames, f"time:{part}", s, "") for s in ("train", "test"))
    assert np.array_equal(train, ~test)
    assert test.sum() == round(frames * part)
    assert not test.any() or test[-1]


def test_an_unknown_split_policy_is_refused():
    with pytest.raises(ValueError, match="time:F"):
        sampling.split_mask(5, "random", "train", "")


@given(st.lists(st.booleans(), max_size=40))
def test_runs_cover_just_the_true_values(values):
    mask = np.array(values, bool)
    found = np.zeros(len(mask), bool)
    for start, stop in sampling.runs(mask):
        assert not found[start:stop].any()
        found[start:stop] = True
    assert np.array_equal(found, mask)


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    spans = [(0, 0, 50)]
    first = sampling.windows(spans, 3, seed=4, epoch=2)
    assert np.array_equal(first, sampling.windows(spans, 3, seed=4, epoch=2))
    assert not np.array_equal(first, sampling.windows(spans, 3, seed=5, epoch=2))
    assert sampling.source_frame(np.arange(50), 4, 2, 9) == sampling.source_frame(np.arange(50), 4, 2, 9)
