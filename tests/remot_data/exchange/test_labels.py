"""Labels out of PNG: their numbers, through the crop, decoded where that can be killed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from remot_data.care.verify import verify
from remot_data.exchange import labels as module
from remot_data.exchange.importers import import_layer
from remot_data.exchange.labels import read_labels
from remot_data.store import StoreError, open_store
from tests.remot_data.exchange.conftest import CROP, layer, made_store, write_png


def test_grey_and_palette_pngs_give_their_numbers(tmp_path):
    labels = np.random.default_rng(0).integers(0, 20, (9, 7)).astype(np.uint8)
    write_png(tmp_path / "grey.png", labels)
    # Several labels of one colour: only the numbers count.
    write_png(tmp_path / "palette.png", labels, np.full((20, 3), 9))
    for name in ("grey.png", "palette.png"):
        np.testing.assert_array_equal(read_labels(str(tmp_path / name)), labels)
    cv2.imwrite(str(tmp_path / "colour.png"), np.zeros((9, 7, 3), np.uint8))
    (tmp_path / "no.png").write_bytes(b"GIF89a")
    for name, says in (("colour.png", "8-bit grey or a palette"), ("no.png", "is no PNG")):
        with pytest.raises(ValueError, match=says):
            read_labels(str(tmp_path / name))


def test_labels_go_through_the_crop(store, scene, tmp_path):
    for t, labels in enumerate(scene.labels):
        write_png(tmp_path / f"dance/img_{t + 7:04d}.png", labels, np.zeros((18, 3)) if t % 2 else None)
    done = import_layer(store, "parsing", tmp_path, form="labels", schema="atr18", workers=0)
    x, y, w, h = map(int, CROP)
    wanted = scene.labels[:, y + 1 : y + h : 2, x + 1 : x + w : 2]
    np.testing.assert_array_equal(layer(store, "parsing", done)["labels"], wanted)
    assert store.layer("parsing", done.id).schema == "atr18"


def test_labels_outside_the_picture_repeat_its_border_as_frames_do(tmp_path, pictures):
    crop = (-24.0, -32.0, 96.0, 128.0)
    store = made_store(tmp_path / "s", [(pictures, range(2))], crop)
    whole = np.add.outer(np.arange(160) % 5, np.arange(200) % 3).astype(np.uint8)
    for t in range(2):
        write_png(tmp_path / f"dance/img_{t + 7:04d}.png", whole)
    done = import_layer(store, "parsing", tmp_path, form="labels", schema="lip20", workers=0)
    found = layer(store, "parsing", done)["labels"][0]
    np.testing.assert_array_equal(found[16:, 12:], whole[1:96:2, 1:72:2])
    assert (found[:16, :12] == whole[0, 0]).all()


@pytest.mark.parametrize("fault", ["missing", "size", "label"])
def test_a_clip_whose_labels_are_not_all_there_is_left_out_and_says_why(tmp_path, pictures, scene, fault):
    store = made_store(tmp_path / "s", [(pictures, range(5)), (pictures, range(5, 10))])
    for t, labels in enumerate(scene.labels):
        write_png(tmp_path / f"dance/img_{t + 7:04d}.png", labels)
    bad = tmp_path / "dance/img_0009.png"
    says = {
        "missing": "1 of 5 files are missing in .*, the first for frame 2",
        "size": "img_0009.png is 100x160, the pictures of the video are 200x160",
        "label": "img_0009.png has the label 18, which is outside atr18",
    }[fault]
    if fault == "missing":
        bad.unlink()
    else:
        write_png(bad, scene.labels[2][:, ::2] if fault == "size" else np.full((160, 200), 18))
    done = import_layer(store, "parsing", tmp_path, form="labels", schema="atr18", workers=0)
    assert list(done.failed) == ["clip-0"]
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(done.failed["clip-0"])
    assert done.frames == 5
    assert list(verify(open_store(store.url))) == []


def test_labels_are_decoded_in_a_child(store, scene, tmp_path, monkeypatch):
    for t, labels in enumerate(scene.labels):
        write_png(tmp_path / f"dance/img_{t + 7:04d}.png", labels)
    monkeypatch.setattr(module, "read_labels", lambda path: pytest.fail("it was decoded in this process"))
    assert import_layer(store, "parsing", tmp_path, form="labels", schema="atr18", workers=0).failed == {}


def test_a_file_that_spoils_the_decoder_is_named(store, scene, tmp_path, spoilt_decoder):
    for t, labels in enumerate(scene.labels):
        write_png(tmp_path / f"dance/img_{t + 7:04d}.png", labels)
    with pytest.raises(StoreError, match=f"clip-0: .*img_000[78].png cannot be decoded: {spoilt_decoder}"):
        import_layer(store, "parsing", tmp_path, form="labels", schema="atr18", workers=0)
