import dataclasses
import itertools
import threading

import numpy as np
import pytest
import torch

from remot_data import render
from remot_data.schemas import MIRROR_11
from remot_model import data
from remot_model.data import DataError, augmented, batches, prefetch
from tests.remot_model.windows import SIZE, Windows, clip_arrays, small_config


@pytest.fixture(scope="module")
def arrays():
    return clip_arrays(12)


def config_of(batch: int = 2, **fields):
    config = small_config(**fields)
    return dataclasses.replace(config, whole=dataclasses.replace(config.whole, batch=batch))


def take(arrays, config, count, start=0, **options):
    opened = []

    def epochs(number):
        opened.append(number)
        return Windows(arrays, 4)

    found = batches(epochs, config, "whole", start=start, **options)
    try:
        return list(itertools.islice(found, count)), opened
    finally:
        found.close()


def test_batches_have_the_documented_shapes(arrays):
    (batch,), _ = take(arrays, config_of(), 1)
    assert batch["frames"].shape == (2, 4, 3, *SIZE)
    assert batch["frames"].min() >= -1 and batch["frames"].max() <= 1
    assert batch["labels"].shape == (2, 4, *SIZE) and batch["labels"].dtype == torch.int64
    assert batch["flow"].shape == (2, 4, 2, *SIZE)
    assert batch["source"].shape == (2, 3, *SIZE)


def test_starting_later_gives_the_same_batches(arrays):
    all_of_them, opened = take(arrays, config_of(), 5)
    assert opened[:3] == [0, 1, 2]
    later, _ = take(arrays, config_of(), 2, start=6)
    for a, b in zip(all_of_them[3:], later, strict=True):
        assert set(a) == set(b)
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_the_augmentation_differs_from_epoch_to_epoch(arrays):
    found, _ = take(arrays, config_of(batch=3), 2)
    assert not torch.equal(found[0]["frames"], found[1]["frames"])
    plain, _ = take(arrays, config_of(batch=3), 2, augment=False)
    assert torch.equal(plain[0]["frames"], plain[1]["frames"])


def test_a_mirrored_window_is_a_true_one(arrays):
    window = Windows(arrays, 4).window(1)
    found = augmented(window, config_of(flip=1.0, colour_jitter=False), "body25", np.random.default_rng(0)).arrays
    assert np.array_equal(found["frames"], window.arrays["frames"][:, :, ::-1])
    assert np.array_equal(found["source"], window.arrays["source"][:, ::-1])
    assert np.array_equal(found["labels"], np.array(MIRROR_11)[window.arrays["labels"][:, :, ::-1]])
    assert np.array_equal(found["flow"], window.arrays["flow"][:, :, ::-1] * [-1, 1])
    right, left = 2, 5
    seen = found["keypoints"][0, left, 2] > 0
    assert seen
    assert found["keypoints"][0, left, 0] == pytest.approx(SIZE[1] - window.arrays["keypoints"][0, right, 0])
    assert np.array_equal(found["pose_map"][0], render.pose_map(found["keypoints"][0], "body25", SIZE))


def test_mirroring_twice_is_nothing(arrays):
    window = Windows(arrays, 4).window(0)
    config = config_of(flip=1.0, colour_jitter=False)
    twice = augmented(
        augmented(window, config, "body25", np.random.default_rng(0)), config, "body25", np.random.default_rng(0)
    )
    for name in ("frames", "labels", "flow", "source_labels", "confidence", "pose_map"):
        assert np.array_equal(twice.arrays[name], window.arrays[name]), name


def test_one_colour_shift_for_the_whole_window(arrays):
    window = Windows(arrays, 4).window(0)
    found = augmented(window, config_of(flip=0.0), "body25", np.random.default_rng(3)).arrays
    assert not np.array_equal(found["frames"], window.arrays["frames"])
    assert np.array_equal(found["frames"][0], found["source"])
    assert np.array_equal(found["labels"], window.arrays["labels"])


@pytest.mark.parametrize(("gone", "layer"), [("pose_map", "pose"), ("labels", "parsing"), ("flow", "flow")])
def test_a_missing_layer_is_named(arrays, gone, layer):
    found = batches(lambda epoch: Windows(arrays, 4, (gone,)), config_of(), "whole", augment=False)
    with pytest.raises(DataError, match=f"{layer} layer"):
        next(found)


def test_a_missing_background_is_no_error(arrays):
    found = batches(lambda epoch: Windows(arrays, 4, ("background",)), config_of(), "whole")
    assert "background" not in next(found)
    found.close()


def test_an_error_of_the_thread_reaches_the_reader():
    def items():
        yield 1
        raise OSError("the disk is gone")

    found = prefetch(items(), 2)
    assert next(found) == 1
    with pytest.raises(OSError, match="disk is gone"):
        next(found)


def test_prefetch_gives_everything_in_order_and_ends():
    assert list(prefetch(iter(range(20)), 3)) == list(range(20))


def test_closing_ends_the_thread():
    before = threading.active_count()
    found = prefetch(itertools.count(), 2)
    assert next(found) == 0
    assert threading.active_count() == before + 1
    found.close()
    assert threading.active_count() == before


def test_stores_of_other_schemas_are_refused(monkeypatch):
    monkeypatch.setattr(data, "store_schemas", lambda store, snapshot: {"pose": store})
    assert data.schemas("body25", "main") == {"pose": "body25"}
    with pytest.raises(DataError, match="'coco18'.*'body25'"):
        data.schemas(["body25", "coco18"], "main")
