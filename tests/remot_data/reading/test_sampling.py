from __future__ import annotations

import time
import tracemalloc
from collections import Counter
from itertools import chain, islice, zip_longest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remot_data.reading import sampling
from remot_data.reading.sampling import Mix, Order, Rules

# Lengths of usable runs of frames, clip by clip, shard by shard.
SHARDS = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=4), min_size=1, max_size=6)


def order_of(shards, part=0, **rules):
    """An order over shards of clips with one run of frames each; sources are the even half of a clip's frames."""
    spans, sources = [], []
    for shard, lengths in enumerate(shards):
        for length in lengths:
            clip = len(spans)
            spans.append((shard, clip, 3, 3 + length))
            sources += [(clip, 0, 2), (clip, 3, 3 + max(length, 1))]
    return Order(np.array(spans), np.array(sources), Rules(**rules), part)


def all_of(order, number=0):
    return [order.window(number, index) for index in range(len(order))]


@settings(deadline=None)
@given(SHARDS, st.integers(1, 8), st.integers(1, 8), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))
def test_windows_lie_inside_their_spans_and_never_repeat(shards, length, stride, max_step, open_shards, number):
    order = order_of(shards, length=length, stride=stride, max_step=max_step, open_shards=open_shards)
    found = all_of(order, number)
    for clip, first, step, source in found:
        _, _, start, stop = order._spans[order._spans[:, 1] == clip][0]
        assert start <= first and first + (length - 1) * step < stop
        assert 1 <= step <= max_step
        assert source in order.sources(clip)
    if max_step == 1:
        assert len({(clip, first) for clip, first, _, _ in found}) == len(found)


@settings(deadline=None)
@given(SHARDS, st.integers(1, 8), st.integers(1, 8), st.integers(1, 4))
def test_every_pass_has_each_window_once_whatever_is_open(shards, length, stride, max_step):
    counts = set()
    for open_shards in (1, 2, 100):
        for number in range(3):
            order = order_of(shards, length=length, stride=stride, max_step=max_step, open_shards=open_shards)
            counts.add(frozenset(Counter(clip for clip, *_ in all_of(order, number)).items()))
            assert len(all_of(order, number)) == len(order)
    assert len(counts) == 1


def test_every_position_spacing_and_source_comes_up_over_the_passes():
    order = order_of([[20]], length=4, max_step=3)
    found = list(chain.from_iterable(all_of(order, number) for number in range(300)))
    assert {first for _, first, step, _ in found if step == 1} == set(range(3, 20))
    assert {step for _, _, step, _ in found} == {1, 2, 3}
    sources = Counter(source for *_, source in found)
    assert set(sources) == {0, 1, *range(3, 23)}
    assert max(sources.values()) < 3 * min(sources.values())


def test_without_shuffling_windows_tile_the_spans_in_order():
    found = all_of(order_of([[12], [4, 9]], length=4, shuffle=False))
    assert [window[:3] for window in found] == [(0, 3, 1), (0, 7, 1), (0, 11, 1), (1, 3, 1), (2, 3, 1), (2, 7, 1)]


@settings(deadline=None)
@given(SHARDS, st.integers(1, 3))
def test_a_shard_is_read_in_one_group_only(shards, open_shards):
    order = order_of(shards, length=2, open_shards=open_shards)
    groups = [set(order.shards(1, group).tolist()) for group in range(order.groups)]
    assert sum(map(len, groups)) == len(set.union(set(), *groups)) == len(shards)
    assert all(len(group) <= open_shards for group in groups)
    clips = {clip: shard for shard, clip, *_ in order._spans.tolist()}
    for group, shards_of in enumerate(groups):
        assert {clips[clip] for clip in order.table(1, group)[:, 0].tolist()} <= shards_of


def test_the_order_is_a_function_of_seed_part_and_pass_alone():
    shards = [[30, 20], [25]]
    first = all_of(order_of(shards, seed=4), 2)
    assert first == all_of(order_of(shards, seed=4), 2)
    for other in (all_of(order_of(shards, seed=5), 2), all_of(order_of(shards, seed=4), 3)):
        assert other != first
    assert all_of(order_of(shards, part=1, seed=4), 2) != first


def test_rules_that_make_no_sense_are_refused():
    for name in ("length", "stride", "max_step", "open_shards"):
        with pytest.raises(ValueError, match=f"{name} is 0"):
            Rules(**{name: 0})


# Mixing


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=4), st.data())
def test_a_mix_has_each_window_once_and_its_share_of_every_stretch(lengths, data):
    mix = Mix([order_of([[length]], part, length=1) for part, length in enumerate(lengths)])
    epoch = data.draw(st.integers(0, 2))
    found = [mix.locate(epoch * len(mix) + index) for index in range(len(mix))]
    for part, length in enumerate(lengths):
        assert [index for p, number, index in found if p == part] == list(range(length))
        assert {number for p, number, _ in found if p == part} == {epoch}
        at = np.cumsum([p == part for p, _, _ in found])
        even = np.arange(1, len(found) + 1) * length / len(mix)
        assert np.abs(at - even).max() <= len(lengths)


@settings(deadline=None)
@given(st.sampled_from([0.3, 0.5, 1.0, 2.5]), st.integers(2, 20))
def test_weights_show_all_windows_equally_often(weight, length):
    mix = Mix([order_of([[length]], 0, length=1), order_of([[9]], 1, length=1)], [weight, 1])
    size = max(1, round(weight * length))
    assert len(mix) == size + 9
    found = Counter(index for n in range(length * len(mix)) for part, _, index in [mix.locate(n)] if part == 0)
    assert set(found.values()) == {size} and len(found) == length


def test_weights_that_make_no_sense_are_refused():
    orders = [order_of([[5]]), order_of([[5]])]
    for weights in ([1], [1, 0], [1, -1], [1, float("nan")]):
        with pytest.raises(ValueError, match="as many weights above 0"):
            Mix(orders, weights)


# Sharing


def rounds(shares):
    """What several workers of one rank give, in the order a data loader takes it: one batch of each in turn."""
    return [part for part in chain.from_iterable(zip_longest(*shares)) if part is not None]


def merged(total, size, world_size, workers, start=0, last="drop", take=None):
    """The window numbers of all ranks, put together round by round."""
    ranks = []
    for rank in range(world_size):
        told = {"rank": rank, "world_size": world_size, "start": start, "workers": workers, "last": last}
        shares = [islice(sampling.batches(total, size, worker=w, **told), take) for w in range(workers)]
        ranks.append([numbers for _, numbers in rounds(shares)])
    assert len({len(batches) for batches in ranks}) == 1
    return [number for batch in zip(*ranks, strict=True) for row in zip(*batch, strict=True) for number in row]


WORLDS, WORKERS = st.integers(1, 64), st.integers(0, 16).map(lambda n: max(n, 1))  # 0 workers are this process


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 500), st.integers(1, 7), WORLDS, WORKERS, st.sampled_from(["drop", "pad"]))
def test_every_window_of_an_epoch_once_for_any_world_and_workers(total, size, world_size, workers, last):
    found = merged(total, size, world_size, workers, last=last)
    step = size * world_size
    if last == "drop":
        assert found == list(range(total // step * step))
    else:
        assert found[:total] == list(range(total)) and len(found) == -(-total // step) * step
        assert found[total:] == [i % total for i in range(total, len(found))]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 100), st.integers(1, 7), WORLDS, WORKERS, st.integers(0, 300))
def test_going_through_the_ends_loses_nothing_and_begins_anywhere(total, size, world_size, workers, start):
    found = merged(total, size, world_size, workers, start, "through", take=2)
    assert found == list(range(start, start + 2 * workers * size * world_size))


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 5), WORLDS, WORKERS, st.integers(1, 4), WORLDS, st.data())
def test_resuming_anywhere_in_any_shape_goes_on_with_the_same_order(total, size, world, workers, size2, world2, data):
    parts = list(sampling.batches(total, size, world_size=world))
    seen = data.draw(st.sampled_from([0, *(after for after, _ in parts)]))
    rest = merged(total, size2, world2, workers, seen) if seen < total else []
    before = list(range(seen))
    assert before + rest == list(range(len(before) + len(rest)))
    assert total - len(before) - len(rest) < size2 * world2


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 5), st.integers(1, 8), st.integers(1, 8), st.integers(0, 20), st.data())
def test_a_worker_goes_on_behind_what_it_has_done(total, size, world_size, workers, skip, data):
    told = {"world_size": world_size, "workers": workers, "worker": data.draw(st.integers(0, workers - 1))}
    whole = [numbers.tolist() for _, numbers in sampling.batches(total, size, **told)]
    rest = [numbers.tolist() for _, numbers in sampling.batches(total, size, skip=skip, **told)]
    assert rest == whole[skip:]


def test_shares_that_make_no_sense_are_refused():
    for wrong in ({"rank": 2, "world_size": 2}, {"worker": 1}, {"start": -1}):
        with pytest.raises(ValueError, match="need 0 <= rank"):
            next(sampling.batches(10, 1, **wrong))
    with pytest.raises(ValueError, match="drop, pad, through"):
        next(sampling.batches(10, 1, last="cut"))


@given(st.integers(0, 200), st.integers(1, 16), st.integers(0, 50))
def test_ranks_share_every_index_once_and_evenly(total, world, start):
    shares = [list(sampling.share(total, rank, world, start)) for rank in range(world)]
    assert len({len(s) for s in shares}) == 1
    merged = sorted(i for s in shares for i in s)
    assert merged == list(range(start, start + len(merged)))
    assert max(0, total - start) - len(merged) < world


@given(st.integers(0, 5000), st.integers(0, 30), st.integers(1, 300), st.integers(0, 9))
def test_a_spare_window_is_of_the_same_epoch_and_always_the_same(number, attempt, total, seed):
    found = sampling.spare(number, attempt, total, seed)
    assert found // total == number // total
    assert found == sampling.spare(number, attempt, total, seed)


def test_ten_million_windows_take_the_memory_of_their_clips():
    """100,000 clips of 600 frames in 15,000 shards."""
    clips, frames = 100_000, 600
    number = np.arange(clips)
    spans = np.stack([number * frames // 4000, number, np.zeros(clips, int), np.full(clips, frames)], 1)
    tracemalloc.start()
    order = Order(spans, spans[:, 1:], Rules(length=6))
    assert len(order) > 9_000_000
    started = time.perf_counter()
    found = [order.window(1, int(index)) for index in np.linspace(0, len(order) - 1, 50)]
    spent = time.perf_counter() - started
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(found)) == 50
    assert most < 60e6 and kept < 30e6
    assert spent < 5


# Splits and runs


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
