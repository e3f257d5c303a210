from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remot_data.render import colour_labels, draw_keypoints, flow_image, grid, overlay, pose_map
from remot_data.schemas import KEYPOINTS, LABELS, SchemaError, convert_keypoints


def points(schema_size: int = 25, **seen: tuple[float, float]) -> np.ndarray:
    """Keypoints with only the given indices seen, as `p3=(x, y)`."""
    out = np.zeros((schema_size, 3), np.float32)
    for name, (x, y) in seen.items():
        out[int(name[1:])] = x, y, 1
    return out


def test_limb_has_the_colour_of_the_table_and_the_rest_is_black() -> None:
    drawn = pose_map(points(p2=(30, 100), p3=(30, 160)), "body25", (256, 192))
    assert drawn.shape == (256, 192, 3) and drawn.dtype == np.uint8
    assert drawn[130, 29].tolist() == [153, 102, 0]
    assert not drawn[:, 40:].any() and not drawn[:90].any()


def test_coco18_limb_takes_the_colour_of_its_second_point() -> None:
    drawn = pose_map(points(18, p8=(30, 100), p9=(30, 160)), "coco18", (256, 192))
    assert drawn[130, 29].tolist() == [0, 153, 102]


def test_crossing_limbs_are_averaged() -> None:
    # Right forearm (3-4) lies over the right upper leg (9-10), which is drawn later.
    drawn = pose_map(points(p3=(20, 100), p4=(100, 100), p9=(60, 60), p10=(60, 140)), "body25", (256, 192))
    crossing = drawn[98:102, 58:62].reshape(-1, 3).tolist()
    assert any(np.abs(np.subtract(p, (76, 153, 51))).max() <= 2 for p in crossing)
    assert drawn[99:101, 80].max(0).tolist() == [153, 153, 0]


def test_limb_with_a_missing_end_is_left_out() -> None:
    keypoints = points(p2=(30, 100), p3=(30, 160))
    keypoints[3, 2] = 0.01
    assert not pose_map(keypoints).any()
    assert pose_map(keypoints, threshold=0.0).any()
    assert not pose_map(np.zeros((25, 3), np.float32)).any()


def test_origin_is_the_corner_of_the_image() -> None:
    # A vertical limb at x = 24.0, the middle of 48 columns, must be symmetric about it.
    drawn = pose_map(points(p1=(24, 10), p8=(24, 50)), "body25", (64, 48)).astype(int)
    assert np.abs(drawn - drawn[:, ::-1]).max() <= 12
    assert drawn[30, 23].any() and drawn[30, 24].any()


def test_same_pose_at_half_size_looks_the_same() -> None:
    keypoints = points(p1=(90, 60), p8=(100, 130), p2=(60, 62), p3=(40, 100))
    half = keypoints * np.float32([0.5, 0.5, 1])
    small = pose_map(half, "body25", (128, 96)).astype(float)
    large = pose_map(keypoints, "body25", (256, 192)).astype(float).reshape(128, 2, 96, 2, 3).mean((1, 3))
    overlap = (small.max(-1) > 60) & (large.max(-1) > 60)
    assert overlap.sum() > 0.7 * (large.max(-1) > 60).sum()


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=50, max_size=50),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
)
@settings(max_examples=60, deadline=None)
def test_any_coordinates_give_a_map_of_the_size(values: list[float], size: tuple[int, int]) -> None:
    keypoints = np.ones((25, 3), np.float32)
    keypoints[:, :2] = np.reshape(values, (25, 2))
    drawn = pose_map(keypoints, "body25", size)
    assert drawn.shape == (*size, 3) and drawn.max() <= 153


def test_wrong_keypoints_are_refused() -> None:
    with pytest.raises(SchemaError, match="body25"):
        pose_map(np.zeros((18, 3), np.float32), "body25")
    with pytest.raises(SchemaError, match="coco17"):
        pose_map(np.zeros((18, 3), np.float32), "coco17")
    with pytest.raises(SchemaError, match="no-such"):
        pose_map(np.zeros((18, 3), np.float32), "no-such")


def whole(**seen: tuple[float, float]) -> np.ndarray:
    """Keypoints of openpose137 with only the named points seen, as `left_hand_3=(x, y)`."""
    names = KEYPOINTS["openpose137"].points
    return points(137, **{f"p{names.index(name.replace('_', '-'))}": place for name, place in seen.items()})


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("finger", "colour"), list(enumerate([(204, 0, 0), (163, 204, 0), (0, 204, 82), (0, 82, 204), (163, 0, 204)]))
)
def test_each_finger_is_a_line_in_its_colour_from_the_wrist(
    side: str, finger: int, colour: tuple[int, int, int]
) -> None:
    joints = {f"{side}_hand_{i}": (60.5, 40 + 20.0 * (i - 4 * finger)) for i in range(4 * finger + 1, 4 * finger + 5)}
    drawn = pose_map(whole(**{f"{side}_hand_0": (60.5, 40.5)}, **joints), "openpose137", (1024, 768))
    assert drawn[45:115, 60].tolist() == [list(colour)] * 70
    assert not drawn[130:].any() and not drawn[:, 70:].any()


def test_a_face_is_drawn_white_without_its_jaw_and_pupils() -> None:
    def drawn(*lines: range, confidence: float = 1.0) -> np.ndarray:
        seen = {f"face_{i}": (20.5 + 20 * (i % 17), 30.5 + 20 * (i // 17)) for line in lines for i in line}
        return pose_map(whole(**seen) * np.float32([1, 1, confidence]), "openpose137", (1024, 768))

    assert not drawn(range(17), range(68, 70), range(60, 68)).any()
    for line in (
        range(17, 22),
        range(22, 27),
        range(27, 31),
        range(31, 36),
        range(36, 42),
        range(42, 48),
        range(48, 60),
    ):
        assert drawn(line).max((0, 1)).tolist() == [255] * 3, line
        assert not drawn(line, confidence=0.09).any()
    # A brow does not go on to the other, nor the bridge of the nose to the nostrils.
    assert not drawn(range(21, 23)).any() and not drawn(range(30, 32)).any()


def test_lines_of_hands_are_a_third_of_a_limb_and_at_least_a_pixel_wide() -> None:
    limb = whole(neck=(30.5, 20), mid_hip=(30.5, 200))
    finger = whole(left_hand_0=(30.5, 20), left_hand_1=(30.5, 200))

    def width(keypoints: np.ndarray, size: tuple[int, int]) -> int:
        return int((pose_map(keypoints, "openpose137", size)[110].max(-1) > 100).sum())

    assert [(width(limb, size), width(finger, size)) for size in ((256, 192), (768, 576))] == [(3, 1), (7, 3)]


def test_sets_without_a_map_of_their_own_are_drawn_through_one_that_has() -> None:
    body = points(25, p5=(60, 60), p6=(60, 100), p7=(30, 60))
    assert (pose_map(convert_keypoints(body, "body25", "coco17"), "coco17") == pose_map(body)).all()
    hand = whole(left_shoulder=(60, 60), left_elbow=(60, 100), left_hand_0=(20, 20), left_hand_1=(20, 40))
    drawn = pose_map(convert_keypoints(hand, "openpose137", "wholebody133"), "wholebody133")
    assert (drawn == pose_map(hand, "openpose137")).all() and drawn[30, 19:21].any()
    assert (pose_map(convert_keypoints(body, "body25", "openpose137"), "openpose137") == pose_map(body)).all()


def test_draw_keypoints_changes_only_the_pose_and_takes_any_set() -> None:
    frame = np.full((64, 48, 3), 90, np.uint8)
    keypoints = points(17, p5=(10, 20), p6=(30, 20), p7=(10, 40))
    drawn = draw_keypoints(frame, keypoints, "coco17")
    assert (drawn == draw_keypoints(frame, convert_keypoints(keypoints, "coco17", "body25"))).all()
    assert (drawn[55:] == 90).all() and drawn.max() > 240


def test_overlay_keeps_the_background() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (20, 10, 3), np.uint8)
    labels = np.zeros((20, 10), np.uint8)
    labels[5:10] = 4
    drawn = overlay(frame, labels, "atr18")
    assert (drawn[:5] == frame[:5]).all() and (drawn[10:] == frame[10:]).all()
    assert (overlay(frame, labels, "atr18", alpha=1.0)[5:10] == LABELS["atr18"].palette[4]).all()


def test_colour_labels_uses_the_palette_and_refuses_other_ids() -> None:
    ids = np.arange(18, dtype=np.uint8)[None]
    coloured = colour_labels(ids, "atr18")
    assert (coloured[0] == LABELS["atr18"].palette).all() and len({tuple(c) for c in coloured[0].tolist()}) == 18
    with pytest.raises(SchemaError, match="remot6"):
        colour_labels(ids, "remot6")


def test_flow_image_still_is_white_and_hue_is_direction() -> None:
    flow = np.zeros((4, 4, 2), np.float32)
    flow[1, :, 0] = 5
    flow[2, :, 0] = -5
    drawn = flow_image(flow, scale=5)
    assert (drawn[0] == 255).all()
    assert drawn[1, 0].tolist() == [255, 0, 0] and drawn[2, 0].tolist() == [0, 255, 255]
    dark = flow_image(flow, scale=5, confidence=np.zeros((4, 4), np.uint8))
    assert (dark[0] == 85).all()


def test_grid_places_images_of_different_sizes() -> None:
    red, blue = np.zeros((4, 6, 3), np.uint8), np.zeros((8, 3, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = grid([[red, blue], [blue]], gap=1)
    assert sheet.shape == (1 + 8 + 1 + 8 + 1, 1 + 6 + 1 + 3 + 1, 3)
    assert (sheet[1:5, 1:7] == red).all() and (sheet[1:9, 8:11] == blue).all() and (sheet[10:18, 1:4] == blue).all()
    assert grid([[red, blue]], ["a", "b"], gap=0, height=16).shape == (32, 24 + 6, 3)
    with pytest.raises(ValueError, match="at least one image"):
        grid([[]])
