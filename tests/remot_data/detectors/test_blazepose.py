"""BlazePose: the pieces against hand-made numbers, the whole against MediaPipe's own results."""

from __future__ import annotations

import json
import math
import runpy
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remot_data import assets
from remot_data.detectors import blazepose
from remot_data.detectors.base import Detector, DetectorError, load
from remot_data.detectors.blazepose import BlazePose, Detection, PersonDetector, Region, refine
from remot_data.schemas import convert_keypoints

GOLDEN = Path(__file__).parent / "golden"
RECIPE = runpy.run_path(str(GOLDEN / "make_golden.py"))
CROPS = RECIPE["CROPS"]


@pytest.fixture(scope="module")
def pose() -> BlazePose:
    return BlazePose()


@pytest.fixture(scope="module")
def forward() -> BlazePose:
    """Without what MediaPipe does not do: it swaps sides in cam02, and carrying joints puts that right."""
    return BlazePose(carry=False)


@lru_cache
def clip(name: str, size: tuple[int, int] = (256, 192)) -> np.ndarray:
    """The frames of a clip that the golden file was made from, uint8 [25, H, W, 3]; read only."""
    frames = RECIPE["cropped"](assets.fetch(f"sample-{name}"), CROPS[name], size)
    frames.setflags(write=False)
    return frames


def mediapipe(name: str, mode: str, size: tuple[int, int]) -> np.ndarray:
    """MediaPipe's visible keypoints inside the image as BODY_25, float32 [T, 25, 3]."""
    with np.load(GOLDEN / "mediapipe.npz") as arrays:
        found = arrays[f"{name}-{size[0]}-{mode}"].astype(np.float32)
    x, y, visibility = found[..., 0], found[..., 1], found[..., 2]
    visible = (visibility >= 0.5) & (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
    points = np.stack([x * size[1], y * size[0], visibility], -1) * visible[..., None]
    return convert_keypoints(points, "blazepose33", "body25")


def distances(keypoints: np.ndarray, golden: np.ndarray) -> np.ndarray:
    """Distance of each visible joint from MediaPipe's in heights of the person, all frames in one row."""
    out = []
    for points, wanted in zip(keypoints, golden, strict=True):
        seen = wanted[:, 2] > 0
        height = np.ptp(wanted[seen, 1])
        out.append(np.hypot(*(points[seen, :2] - wanted[seen, :2]).T) / height)
    return np.concatenate(out)


@pytest.mark.slow
@pytest.mark.parametrize("name", CROPS)
def test_tracking_agrees_with_mediapipe(forward: BlazePose, name: str) -> None:
    far = distances(forward(clip(name))["keypoints"], mediapipe(name, "video", (256, 192)))
    assert len(far) > 400
    assert (far < 0.05).mean() >= 0.97
    assert np.median(far) < 0.005


@pytest.mark.slow
def test_single_images_agree_with_mediapipe(forward: BlazePose) -> None:
    every = RECIPE["IMAGE_EVERY"]
    far = [
        distances(
            np.concatenate([forward(frame[None])["keypoints"] for frame in clip(name)[::every]]),
            mediapipe(name, "image", (256, 192)),
        )
        for name in CROPS
    ]
    assert (np.concatenate(far) < 0.05).mean() >= 0.97


@pytest.mark.slow
def test_larger_frames_agree_with_mediapipe(forward: BlazePose) -> None:
    far = [distances(forward(clip(n, (512, 384)))["keypoints"], mediapipe(n, "video", (512, 384))) for n in CROPS]
    assert (np.concatenate(far) < 0.05).mean() >= 0.97


def test_output_is_what_the_layer_holds_and_repeats(pose: BlazePose) -> None:
    frames = clip("cam01")[:4]
    first, second = pose(frames), BlazePose()(frames)
    keypoints, mask = first["keypoints"], first["mask"]
    assert keypoints.shape == (4, 25, 3) and keypoints.dtype == np.float32
    assert mask.shape == (4, 256, 192) and mask.dtype == np.uint8
    assert all(first[key].tobytes() == second[key].tobytes() for key in ("keypoints", "mask"))
    unseen = keypoints[..., 2] == 0
    assert (keypoints[unseen] == 0).all()
    assert (keypoints[~unseen][:, 2] >= 0.3).all()
    assert ((keypoints[..., :2] >= 0) & (keypoints[..., :2] < (192, 256))).all()


def test_mask_covers_the_joints_and_little_else(pose: BlazePose) -> None:
    found = pose(clip("cam01")[:1])
    points, person = found["keypoints"][0], found["mask"][0] > 127
    inner = points[[1, 2, 5, 8, 9, 10, 12, 13], :2].astype(int)
    assert person[inner[:, 1], inner[:, 0]].all()
    x0, y0 = points[points[:, 2] > 0, :2].min(0) - 20
    x1, y1 = points[points[:, 2] > 0, :2].max(0) + 20
    outside = person.copy()
    outside[int(y0) : int(y1), int(x0) : int(x1)] = False
    assert person.mean() > 0.03 and outside.sum() < 0.01 * person.sum()


def test_nobody_gives_zeros(pose: BlazePose) -> None:
    empty = np.full((2, 256, 192, 3), 127, np.uint8)
    found = pose(empty)
    assert not found["keypoints"].any() and not found["mask"].any()
    assert pose.body_boxes(empty[0], tiles=True) == []


def test_a_person_who_comes_back_is_found_again(pose: BlazePose) -> None:
    frames = clip("cam03")[:5].copy()
    frames[2] = 127
    seen = pose(frames)["keypoints"][..., 2].max(1) > 0
    assert seen.tolist() == [True, True, False, True, True]


def test_a_jump_between_frames_is_followed_at_once(pose: BlazePose) -> None:
    near = clip("cam01")[0]
    far = np.roll(near, 60, axis=0)
    alone = pose(far[None])["keypoints"][0]
    after = pose(np.stack([near, far]))["keypoints"][1]
    both = (alone[:15, 2] > 0.5) & (after[:15, 2] > 0.5)
    assert both.sum() >= 12
    assert np.abs(alone[:15, :2] - after[:15, :2])[both].max() < 12


def test_the_central_person_is_kept(pose: BlazePose) -> None:
    person = clip("cam04")[0]
    wide = np.full((256, 448, 3), 127, np.uint8)
    wide[:, 128:320] = person
    wide[130:258, :96] = person[::2, ::2][:126]
    hips = pose(wide[None])["keypoints"][0, 8]
    assert np.abs(hips[:2] - pose(person[None])["keypoints"][0, 8, :2] - (128, 0)).max() < 6


@pytest.mark.parametrize(("name", "wanted"), [("cam01", (225, 360, 574, 1181)), ("cam02", (391, 428, 767, 1130))])
def test_body_boxes_of_a_whole_video_frame(pose: BlazePose, name: str, wanted: tuple[int, ...]) -> None:
    import av

    with av.open(str(assets.fetch(f"sample-{name}"))) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    bodies = pose.body_boxes(frame)
    assert np.abs(np.array(bodies[0].box) - wanted).max() < 40
    assert bodies[0].score > 0.8 and (bodies[0].keypoints[:15, 2] > 0.5).sum() >= 13
    assert [b.score for b in bodies] == sorted((b.score for b in bodies), reverse=True)


def test_tiles_find_a_small_person(pose: BlazePose) -> None:
    person = clip("cam01")[0]
    wide = np.full((960, 540, 3), 127, np.uint8)
    wide[400:656, 200:392] = person
    assert PersonDetector(threshold=0.7)(wide) == []
    found = PersonDetector(threshold=0.7)(wide, tiles=True)
    assert len(found) == 1 and found[0].box[0] > 150 and found[0].box[2] < 450


def test_smoothing_is_off_by_default_and_changes_only_later_frames(pose: BlazePose) -> None:
    frames = clip("cam01")[:4]
    raw, smooth = pose(frames)["keypoints"], BlazePose(smooth=True)(frames)["keypoints"]
    assert (raw[0] == smooth[0]).all()
    assert (raw[1:] != smooth[1:]).any()


def test_fingerprint_names_both_weights_and_every_setting(pose: BlazePose) -> None:
    mark = pose.fingerprint()
    assert json.loads(json.dumps(mark)) == mark
    assert mark["weights"] == assets.ASSETS["blazepose-landmarks"].sha256
    assert mark["detector_weights"] == assets.ASSETS["blazepose-detector"].sha256
    assert BlazePose(threshold=0.5).fingerprint() != mark
    assert isinstance(load("blazepose"), Detector)


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match=r"landmark network takes .*256.*give the file"):
        BlazePose(assets.fetch("blazepose-detector"))
    with pytest.raises(DetectorError, match=r"person detector takes"):
        PersonDetector(assets.fetch("blazepose-landmarks"))
    junk = tmp_path / "junk.tflite"
    junk.write_bytes(b"no network")
    with pytest.raises(DetectorError, match="not a LiteRT file"):
        BlazePose(junk)
    with pytest.raises(DetectorError, match="no weights file"):
        BlazePose(tmp_path / "missing.tflite")


def test_anchors_cover_the_input_evenly() -> None:
    anchors = blazepose.anchors()
    assert anchors.shape == (2254, 2)
    assert np.allclose(anchors.mean(0), 0.5)
    assert np.allclose(anchors[:2], 4 / 224) and np.allclose(anchors[-6:], 208 / 224)


@given(
    st.floats(-50, 500),
    st.floats(-50, 500),
    st.floats(10, 900),
    st.floats(-3.1, 3.1),
    st.floats(0, 256),
    st.floats(0, 256),
)
def test_region_is_a_similarity(x: float, y: float, side: float, rotation: float, u: float, v: float) -> None:
    matrix = Region(x, y, side, rotation).to_tensor(256)
    assert matrix @ (x, y, 1) == pytest.approx((128, 128), abs=1e-6)
    back = np.linalg.solve(matrix[:, :2], (u, v) - matrix[:, 2])
    assert math.hypot(*(back - (x, y))) == pytest.approx(math.hypot(u - 128, v - 128) * side / 256, abs=1e-6)


def test_refine_moves_a_point_to_its_heatmap_and_leaves_it_where_there_is_none() -> None:
    heatmaps = np.full((64, 64, 3), -20, np.float32)
    heatmaps[30, 21, :2] = 8
    points = np.array([[20.5, 31.5], [40.5, 31.5], [-3.0, 31.5]], np.float32) / 64
    out = refine(points, heatmaps) * 64
    assert out[0] == pytest.approx((21, 30), abs=1e-3)
    assert (out[1:] == points[1:] * 64).all()


def test_overlapping_faces_are_merged_and_distant_ones_kept() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [100, 0, 110, 10]], float)
    points = np.zeros((3, 4, 2))
    points[0, :, 1], points[1, :, 1], points[2, :, 0] = 10, 40, 100
    points[:, 1, 1] += 20
    merged = blazepose._merge(np.array([0.9, 0.6, 0.8]), boxes, points)
    assert [d.score for d in merged] == [0.9, 0.8]
    assert merged[0].points[0] == pytest.approx((0, (0.9 * 10 + 0.6 * 40) / 1.5))


def test_a_body_found_twice_counts_once() -> None:
    points = np.array([[50, 50], [50, 0], [50, 30], [50, 10]], np.float32)
    near, away = Detection(0.9, points), Detection(0.8, points + np.float32([40, 0]))
    assert blazepose._same_person(near, Detection(0.7, points + 5))
    assert not blazepose._same_person(near, away)
