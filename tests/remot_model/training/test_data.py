import dataclasses
import itertools
from contextlib import closing

import cv2
import numpy as np
import pytest
import torch

from remot_data import render
from remot_data.schemas import MIRROR_11
from remot_model.training import data
from remot_model.training.data import DataError, augmented, batches
from tests.remot_model.windows import SIZE, Windows, clip_arrays, small_config


@pytest.fixture(scope="module")
def arrays():
    return clip_arrays(12)


def config_of(batch: int = 2, **fields):
    config = small_config(**fields)
    return dataclasses.replace(config, whole=dataclasses.replace(config.whole, batch=batch))


def take(arrays, config, count, start=0, **options):
    with closing(batches(Windows(arrays, 4), config, "whole", start=start, **options)) as found:
        return list(itertools.islice(found, count))


def changed(window, config, chance):
    """The arrays of a window as `augmented` leaves them."""
    arrays = {name: array.copy() for name, array in window.arrays.items()}
    augmented(arrays, config, "body25", chance)
    return arrays


def test_batches_have_the_documented_shapes(arrays):
    (batch,) = take(arrays, config_of(), 1)
    assert batch["frames"].shape == (2, 4, 3, *SIZE)
    assert batch["frames"].min() >= -1 and batch["frames"].max() <= 1
    assert batch["labels"].shape == (2, 4, *SIZE) and batch["labels"].dtype == torch.int64
    assert batch["flow"].shape == (2, 4, 2, *SIZE)
    assert batch["source"].shape == (2, 3, *SIZE)


def test_starting_later_gives_the_same_batches(arrays):
    all_of_them = take(arrays, config_of(), 5)
    later = take(arrays, config_of(), 2, start=6)
    for a, b in zip(all_of_them[3:], later, strict=True):
        assert set(a) == set(b)
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_worker_processes_give_the_same_batches(arrays):
    config = config_of(flip=0.5)
    for a, b in zip(take(arrays, config, 4), take(arrays, config, 4, workers=2), strict=True):
        assert set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


def test_the_augmentation_differs_from_epoch_to_epoch(arrays):
    found = take(arrays, config_of(batch=3), 2)
    assert not torch.equal(found[0]["frames"], found[1]["frames"])
    plain = take(arrays, config_of(batch=3), 2, augment=False)
    assert torch.equal(plain[0]["frames"], plain[1]["frames"])


def test_a_mirrored_window_is_a_true_one(arrays):
    window = Windows(arrays, 4).window(1)
    found = changed(window, config_of(flip=1.0, colour_jitter=False), np.random.default_rng(0))
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
    window.arrays["others"] = window.arrays["labels"] == window.arrays["labels"].max()
    config = config_of(flip=1.0, colour_jitter=False)
    once = dataclasses.replace(window, arrays=changed(window, config, np.random.default_rng(0)))
    twice = changed(once, config, np.random.default_rng(0))
    for name in ("frames", "labels", "flow", "source_labels", "confidence", "others", "pose_map"):
        assert not np.array_equal(once.arrays[name], window.arrays[name]), name
        assert np.array_equal(twice[name], window.arrays[name]), name


def test_one_colour_shift_for_the_whole_window(arrays):
    window = Windows(arrays, 4).window(0)
    found = changed(window, config_of(flip=0.0), np.random.default_rng(3))
    assert not np.array_equal(found["frames"], window.arrays["frames"])
    assert np.array_equal(found["frames"][0], found["source"])
    assert np.array_equal(found["labels"], window.arrays["labels"])


@pytest.mark.parametrize(("gone", "layer"), [("pose_map", "pose"), ("labels", "parsing"), ("flow", "flow")])
def test_a_missing_layer_is_named(arrays, gone, layer):
    found = batches(Windows(arrays, 4, (gone,)), config_of(), "whole", augment=False)
    with pytest.raises(DataError, match=f"{layer} layer"):
        next(found)


def test_a_missing_background_is_no_error(arrays):
    found = batches(Windows(arrays, 4, ("background",)), config_of(), "whole")
    assert "background" not in next(found)
    found.close()


def test_processes_share_every_batch(arrays):
    whole = take(arrays, config_of(batch=4), 3)
    for rank in range(2):
        part = take(arrays, config_of(batch=4), 3, rank=rank, processes=2)
        assert all(torch.equal(a["frames"][rank::2], b["frames"]) for a, b in zip(whole, part, strict=True))
    with pytest.raises(DataError, match="3 processes cannot share batches of 4"):
        take(arrays, config_of(batch=4), 1, processes=3)


def test_colours_change_as_the_formula_says():
    chance = np.random.default_rng(1)
    image = chance.integers(0, 256, (16, 12, 3), np.uint8)
    gains, shifts = chance.uniform(0.8, 1.2, 3), chance.uniform(-1, 1, 3)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL).astype(np.float64)
    hsv[..., 0] = (hsv[..., 0] + 30 * shifts[0]) % 256
    hsv[..., 1:] = np.clip(hsv[..., 1:] * gains[1:] + 10 * shifts[1:], 0, 255)
    wanted = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB_FULL)
    data._jitter(image, data._jitter_table(gains, shifts))
    assert np.abs(image.astype(int) - wanted).max() <= 3  # a value at the edge of two may round to the other


def test_stores_of_other_schemas_are_refused(monkeypatch):
    monkeypatch.setattr(data, "store_schemas", lambda store, snapshot: {"pose": store})
    assert data.schemas("body25", "main") == {"pose": "body25"}
    with pytest.raises(DataError, match="'coco18'.*'body25'"):
        data.schemas(["body25", "coco18"], "main")


def test_frames_of_a_window_lie_up_to_max_step_apart(tmp_path):
    from remot_data.synthetic.store import build_synthetic

    build_synthetic(str(tmp_path / "store"), dancers=2, frames=14, test=0, size=SIZE, workers=0)
    config = config_of(batch=8, max_step=4)
    plan = data.epochs(str(tmp_path / "store"), config, "whole")
    with closing(batches(plan, config, "whole", augment=False)) as found:
        steps = next(found)["pts"].diff(dim=1)
    assert (steps == steps[:, :1]).all() and set(steps[:, 0].tolist()) > {1}
    assert steps.max() <= 4
