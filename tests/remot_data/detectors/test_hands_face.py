"""Hands and face: the geometry against hand-made numbers, the whole against MediaPipe's own holistic solution."""

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
from remot_data.detectors import _hands_face
from remot_data.detectors._hands_face import Found, face70, hand_region, palm_region, without_double
from remot_data.detectors._litert import Region
from remot_data.detectors.blazepose import BlazePose
from remot_data.schemas import keypoint_set, mirror_keypoints
from remot_data.store import layers

GOLDEN = Path(__file__).parent / "golden"
RECIPE = runpy.run_path(str(GOLDEN / "make_golden.py"))
SIZE = RECIPE["HANDS_SIZE"]
LEFT, RIGHT, FACE = slice(25, 46), slice(46, 67), slice(67, 137)
# A hand with its wrist at the bottom and its fingers up, thumb on the left: 21 points in units of its size.
HAND = np.array(
    [(0, 0)] + [(0.2 * (f - 2), -0.4 - 0.12 * j) for f in range(5) for j in range(4)], float
)  # fmt: skip


@pytest.fixture(scope="module")
def pose() -> BlazePose:
    return BlazePose(hands_face=True)


@lru_cache
def clip(name: str) -> np.ndarray:
    """The frames of a clip that the golden file was made from, uint8 [25, 1024, 768, 3]; read only."""
    frames = RECIPE["cropped"](assets.fetch(f"sample-{name}"), RECIPE["CROPS"][name], SIZE)
    frames.setflags(write=False)
    return frames


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return pytest.importorskip("skimage.data").astronaut()


def mediapipe(name: str, mode: str, part: str) -> np.ndarray:
    """MediaPipe's landmarks in pixels [T, N, 2], NaN where there are none."""
    with np.load(GOLDEN / "holistic.npz") as arrays:
        return arrays[f"{name}-{mode}-{part}"].astype(np.float32) * SIZE[::-1]


def far(points: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Distance of each point that is seen from where it is wanted, in sizes of the hand or face."""
    size = np.ptp(wanted, axis=0).max()
    seen = points[:, 2] > 0
    return np.hypot(*(points[seen, :2] - wanted[seen]).T) / size


def compared(keypoints: np.ndarray, name: str, mode: str) -> tuple[np.ndarray, list[bool], list[bool]]:
    """Distances of both hands over all frames, and whether each hand was found by us and by MediaPipe."""
    distances, ours, theirs = [], [], []
    for part, where in (("left", LEFT), ("right", RIGHT)):
        for points, wanted in zip(keypoints[:, where], mediapipe(name, mode, part), strict=True):
            ours.append(bool(points[:, 2].any()))
            theirs.append(bool(np.isfinite(wanted).all()))
            if ours[-1] and theirs[-1]:
                distances.append(far(points, wanted))
    return np.concatenate(distances), ours, theirs


@pytest.mark.slow
def test_hands_of_single_images_agree_with_mediapipe(pose: BlazePose) -> None:
    every = RECIPE["IMAGE_EVERY"]
    distances, agree = [], []
    for name in RECIPE["CROPS"]:
        keypoints = np.concatenate([pose(frame[None])["keypoints"] for frame in clip(name)[::every]])
        apart, ours, theirs = compared(keypoints, name, "image")
        distances.append(apart)
        agree += np.equal(ours, theirs).tolist()
    together = np.concatenate(distances)
    assert len(together) > 300
    assert np.median(together) < 0.02 and (together < 0.1).mean() > 0.9
    assert np.mean(agree) >= 0.85


@pytest.mark.slow
def test_hands_followed_through_a_clip_agree_with_mediapipe(pose: BlazePose) -> None:
    apart, ours, theirs = compared(pose(clip("cam04"))["keypoints"], "cam04", "video")
    assert len(apart) > 400
    assert np.median(apart) < 0.03 and (apart < 0.15).mean() > 0.8


def test_a_face_agrees_with_mediapipe(pose: BlazePose, astronaut: np.ndarray) -> None:
    face = pose(astronaut[None])["keypoints"][0, FACE]
    with np.load(GOLDEN / "holistic.npz") as arrays:
        mesh = arrays["astronaut-image-face"][0].astype(np.float32) * astronaut.shape[1::-1]
    apart = far(face, face70(mesh))
    assert len(apart) == 70 and np.median(apart) < 0.01 and apart.max() < 0.04


def test_the_points_of_a_face_are_where_their_names_say(pose: BlazePose, astronaut: np.ndarray) -> None:
    face = pose(astronaut[None])["keypoints"][0, FACE]
    x, y = face[:, 0], face[:, 1]
    # Her right side is on the left of the picture: from ear to ear, from brow to brow, from lid to lid.
    assert x[0] < x[8] < x[16] and (np.diff(x[17:27]) > 0).all() and (np.diff(x[31:36]) > 0).all()
    assert x[36] < x[39] < x[42] < x[45] and x[48] < x[51] < x[54] and x[60] < x[62] < x[64]
    # Brows, eyes, the nose from its bridge down, the lips, the chin.
    assert y[17:27].max() < y[36:48].min() and (np.diff(y[27:31]) > 0).all()
    assert y[30] < y[33] < y[51] < y[62] <= y[66] < y[57] < y[8]
    for lids, pupil in ((slice(36, 42), 68), (slice(42, 48), 69)):
        assert x[lids].min() < x[pupil] < x[lids].max() and y[lids].min() < y[pupil] < y[lids].max()
    # The eyes and nose of the pose, which another network has found, lie in those of the face.
    body = pose(astronaut[None])["keypoints"][0, :25]
    eye = np.ptp(x[36:42])
    for name, point in (("right-eye", 68), ("left-eye", 69), ("nose", 30)):
        assert np.hypot(*(body[keypoint_set("body25").index(name), :2] - face[point, :2])) < eye


@pytest.mark.slow
def test_a_mirrored_picture_gives_the_mirrored_hands_and_face(pose: BlazePose, astronaut: np.ndarray) -> None:
    for image, parts in ((clip("cam04")[8], (LEFT, RIGHT)), (clip("cam01")[16], (LEFT, RIGHT)), (astronaut, (FACE,))):
        here = pose(image[None])["keypoints"][0]
        there = pose(np.ascontiguousarray(image[None, :, ::-1]))["keypoints"][0]
        back = mirror_keypoints(there, "openpose137", image.shape[1])
        both = [part for part in parts if here[part, 2].any() and back[part, 2].any()]
        assert both
        for part in both:
            assert np.median(far(back[part], here[part, :2])) < 0.1


def test_hands_that_are_not_there_are_zeros(pose: BlazePose) -> None:
    frame = clip("cam04")[8]
    whole = pose(frame[None])["keypoints"][0]
    assert whole[LEFT, 2].any()
    # The picture ends beside the hand: what is found must lie in it, or not be there.
    wrist = whole[keypoint_set("body25").index("left-wrist"), :2]
    cut = frame[: int(wrist[1]) - 10]
    points = pose(np.ascontiguousarray(cut)[None])["keypoints"][0]
    assert not points[LEFT].any()
    covered = frame.copy()
    x, y = whole[LEFT, :2].mean(0).astype(int)
    covered[y - 60 : y + 60, x - 60 : x + 60] = 127
    assert not pose(covered[None])["keypoints"][0, LEFT].any()


@pytest.mark.slow
def test_the_layer_is_valid_and_empty_where_nobody_is(pose: BlazePose) -> None:
    frames = np.full((3, 256, 192, 3), 127, np.uint8)
    frames[1] = RECIPE["cropped"](assets.fetch("sample-cam03"), RECIPE["CROPS"]["cam03"], (256, 192))[0]
    found = pose(frames)
    layers.kind("pose").check(found, 3, (256, 192))
    assert pose.schema == "openpose137" and found["keypoints"].shape == (3, 137, 3)
    assert found["keypoints"][1].any() and not found["keypoints"][[0, 2]].any()
    unseen = found["keypoints"][..., 2] == 0
    assert (found["keypoints"][unseen] == 0).all()
    # The body is that of the detector without hands and face.
    assert (found["keypoints"][:, :25] == BlazePose()(frames)["keypoints"]).all()


def test_the_fingerprint_names_the_networks_only_where_they_are_used(pose: BlazePose) -> None:
    mark, plain = pose.fingerprint(), BlazePose().fingerprint()
    assert json.loads(json.dumps(mark)) == mark and "hands_face" not in plain
    assert mark.pop("hands_face") == {name: assets.ASSETS[name].sha256 for name in _hands_face.ASSETS}
    assert mark == plain


def test_a_hand_is_looked_for_along_the_forearm() -> None:
    """Wrist (0, 0), knuckles above: the region is 2.7 times twice the way, a tenth of it further up."""
    region = hand_region(np.array([0.0, 0.0]), np.array([3.0, -30.0]), np.array([-1.5, -30.0]))
    assert (region.x, region.side, region.rotation) == pytest.approx((0, 2.7 * 60, 0))
    assert region.y == pytest.approx(-30 - 0.1 * 60)
    lying = hand_region(np.array([0.0, 0.0]), np.array([30.0, 3.0]), np.array([30.0, -1.5]))
    assert (lying.x, lying.y, lying.rotation) == pytest.approx((36, 0, math.pi / 2))


@given(st.floats(-3, 3), st.floats(5, 300), st.floats(-99, 99), st.floats(-99, 99))
def test_the_region_of_a_hand_turns_grows_and_moves_with_it(turn: float, size: float, x: float, y: float) -> None:
    cos, sin = math.cos(turn), math.sin(turn)
    first = palm_region(HAND)
    moved = palm_region(size * HAND @ np.array([[cos, sin], [-sin, cos]]) + (x, y))
    assert moved.side == pytest.approx(max(size * first.side, 1.0))
    assert math.remainder(moved.rotation - first.rotation - turn, 2 * math.pi) == pytest.approx(0, abs=1e-6)
    centre = size * np.array([cos * first.x - sin * first.y, sin * first.x + cos * first.y]) + (x, y)
    assert (moved.x, moved.y) == pytest.approx(tuple(centre), abs=1e-6 * size + 1e-6)


@given(st.floats(-200, 200), st.floats(-200, 200), st.floats(10, 300), st.floats(-3.1, 3.1))
def test_points_of_a_tensor_come_back_to_the_image(x: float, y: float, side: float, rotation: float) -> None:
    region = Region(x, y, side, rotation)
    points = np.array([[0.0, 0.0], [224.0, 0.0], [112.0, 112.0], [30.0, 200.0]])
    matrix = region.to_tensor(224)
    back = region.to_image(points, 224) @ matrix[:, :2].T + matrix[:, 2]
    assert back == pytest.approx(points, abs=1e-6)
    assert region.to_image(points[2:3], 224)[0] == pytest.approx((x, y), abs=1e-6)


@pytest.mark.parametrize(
    ("old", "kept"),
    [
        (Region(50, 50, 100, 0.3), True),
        (Region(69, 50, 100, 0.3), True),
        (Region(95, 50, 100, 0.3), False),
        (Region(50, 50, 100, 0.3 + math.radians(41)), False),
        (Region(50, 50, 100, 0.3 - 2 * math.pi), True),
        (Region(50, 50, 145, 0.3), False),
    ],
)
def test_what_is_followed_is_left_where_it_moved_turned_or_grew(old: Region, kept: bool) -> None:
    fresh, inside = Region(50, 50, 100, 0.3), np.array([[45.0, 60.0], [60.0, 45.0]])
    assert _hands_face._HAND_NEAR.holds(old, inside, fresh) == kept
    assert not _hands_face._HAND_NEAR.holds(old, inside + (60, 0), fresh)


def test_one_hand_that_was_found_twice_stays_on_the_side_that_it_looks_like() -> None:
    def hand(right: float, x: float = 0.0) -> Found:
        return Found(100 * HAND + (x, 0), 0.9, right)

    left, right = hand(0.9), hand(0.95, 5)
    assert without_double(left, right) == (None, right)
    left, right = hand(0.1), hand(0.05, 5)
    assert without_double(left, right) == (left, None)
    # Folded hands, and hands apart of which one is mistaken, are two.
    for left, right in ((hand(0.1), hand(0.9, 5)), (hand(0.9), hand(0.9, 80)), (None, hand(0.1))):
        assert without_double(left, right) == (left, right)
