"""Flow out of ``.flo`` files: scaled with the crop, turned around, and trusted only where it can be."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from remot_data.exchange.flo import inverted
from remot_data.exchange.importers import import_layer
from remot_data.store import StoreError
from tests.remot_data.exchange.conftest import CROP, FRAMES, layer, made_store, write_flo


def test_flow_to_the_frame_before_is_scaled_with_the_crop(store, scene, tmp_path):
    for t in range(1, FRAMES):
        write_flo(tmp_path / f"dance/img_{t + 7:04d}.flo", scene.flow[t])
    done = import_layer(store, "flow", tmp_path, form="flo-backward", workers=0)
    found = layer(store, "flow", done)
    x, y, w, h = map(int, CROP)
    # From source pixels to half of the frames' grid is a quarter in both directions.
    wanted = [cv2.resize(f[y : y + h, x : x + w], (24, 32), interpolation=cv2.INTER_AREA) / 4 for f in scene.flow[1:]]
    np.testing.assert_allclose(found["flow"][1:], wanted, atol=1 / 64)
    assert not found["flow"][0].any() and not found["confidence"][0].any()
    assert (found["confidence"][1:] == 3).mean() > 0.8


@pytest.mark.parametrize("form", ["flo-backward", "flo-forward"])
def test_the_confidence_of_flow_finds_what_is_hidden_in_the_frame_before(tmp_path, form):
    """A square of noise moves 8 pixels to the right over noise: what it uncovers was not to be seen before."""
    rng = np.random.default_rng(0)
    noise = (cv2.GaussianBlur(rng.normal(0, 1, shape), (0, 0), 1.5) for shape in ((128, 96, 3), (48, 32, 3)))
    behind, square = ((128 + 70 * n / n.std()).clip(0, 255).astype(np.uint8) for n in noise)
    folder = tmp_path / "source/moving"
    folder.mkdir(parents=True)
    for t in range(3):
        picture, flow = behind.copy(), np.zeros((128, 96, 2), np.float32)
        left = 16 + 8 * t
        picture[40:88, left : left + 32] = square
        flow[40:88, left : left + 32] = (-8, 0) if form == "flo-backward" else (8, 0)
        cv2.imwrite(str(folder / f"{t}.png"), picture)
        write_flo(tmp_path / f"flow/moving/{t}.flo", flow)
    store = made_store(tmp_path / "s", [(folder, range(3))], (0.0, 0.0, 96.0, 128.0), (128, 96))
    found = layer(store, "flow", import_layer(store, "flow", tmp_path / "flow", form=form, workers=0))
    for t in (1, 2):
        left = (16 + 8 * t) // 2
        sure = found["confidence"][t] == 3
        inside, uncovered = sure[22:42, left + 2 : left + 14], sure[22:42, left - 3 : left - 1]
        assert inside.mean() > 0.95
        assert uncovered.mean() < 0.1
        assert sure[2:18].mean() > 0.95
        # Where noise looks like noise by chance, a way back can be a mean of two.
        assert (np.abs(found["flow"][t][22:42, left + 2 : left + 14] - [-4, 0]).max(-1) < 0.1).mean() > 0.97
        np.testing.assert_allclose(found["flow"][t][2:18], 0, atol=0.1)


def test_flow_that_is_not_known_is_not_trusted(store, scene, tmp_path):
    for t in range(1, FRAMES):
        flow = scene.flow[t].copy()
        flow[20:84, 60:156] = 1.7e9
        write_flo(tmp_path / f"dance/img_{t + 7:04d}.flo", flow)
    done = import_layer(store, "flow", tmp_path, form="flo-backward", workers=0)
    found = layer(store, "flow", done)
    assert not found["confidence"][:, :15].any()
    assert found["confidence"][1:, 17:].any()


def test_flow_between_other_frames_than_the_stores_is_refused(tmp_path, pictures, scene):
    store = made_store(tmp_path / "s", [(pictures, range(0, 10, 2))])
    for t in range(FRAMES):
        write_flo(tmp_path / f"dance/img_{t + 7:04d}.flo", scene.flow[t])
    with pytest.raises(StoreError, match="frames 0 and 2 of the video.*without --fps"):
        import_layer(store, "flow", tmp_path, form="flo-backward", workers=0)


def test_a_file_that_is_no_flow_is_named(store, scene, tmp_path):
    for t in range(1, FRAMES):
        write_flo(tmp_path / f"dance/img_{t + 7:04d}.flo", scene.flow[t])
    whole = (tmp_path / "dance/img_0009.flo").read_bytes()
    for data in (whole[:-1], b"PIEX" + whole[4:], b""):
        (tmp_path / "dance/img_0009.flo").write_bytes(data)
        with pytest.raises(StoreError, match="img_0009.flo is no whole .flo file"):
            import_layer(store, "flow", tmp_path, form="flo-backward", workers=0)


def test_a_flow_turned_around_twice_is_itself_where_nothing_is_hidden():
    y, x = np.mgrid[:40, :60].astype(np.float32)
    flow = np.stack([2 + 0.05 * x, -1 + 0.03 * y], -1)
    every = np.ones((40, 60), bool)
    back, reached = inverted(inverted(flow, every)[0], every)
    inner = np.s_[8:-8, 8:-8]
    assert reached[inner].all()
    np.testing.assert_allclose(back[inner], flow[inner], atol=0.02)
