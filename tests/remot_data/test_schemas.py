from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from remot_data.schemas import (
    KEYPOINTS,
    LABELS,
    MIRROR_11,
    REGIONS,
    SchemaError,
    convert_keypoints,
    convert_labels,
    keypoint_set,
    label_set,
    label_table,
    mirror_keypoints,
)

PARSERS = ("atr18", "lip20", "cihp20")


def keypoints(schema: str, count: int = 2) -> st.SearchStrategy[np.ndarray]:
    """Keypoints in a 100 pixel wide image; an unseen point is 0, 0, 0."""
    shape = (count, len(KEYPOINTS[schema]), 3)
    # Quarters of a pixel, so that mirroring is exact.
    whole = hnp.arrays(np.int32, shape, elements=st.integers(0, 400))
    return whole.map(lambda a: _seen(a.astype(np.float32) / np.float32([4, 4, 400])))


def _seen(points: np.ndarray) -> np.ndarray:
    return points * (points[..., 2:] > 0)


@given(st.sampled_from(PARSERS).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, len(LABELS[n]) - 1))))
def test_merging_through_eleven_equals_merging_to_six(case: tuple[str, int]) -> None:
    name, label = case
    labels = np.full((3, 2), label, np.uint8)
    through = convert_labels(convert_labels(labels, name, "remot11"), "remot11", "remot6")
    assert np.array_equal(through, convert_labels(labels, name, "remot6")) and through.dtype == np.uint8


@pytest.mark.parametrize("name", PARSERS)
def test_merges_agree_by_name(name: str) -> None:
    """What every parser calls the same must merge alike, and sides must be kept apart in the eleven."""
    to_11, eleven = label_table(name, "remot11"), LABELS["remot11"]
    for side in ("left", "right"):
        for part in ("arm", "leg", "shoe"):
            label = LABELS[name].labels.index(f"{side}-{part}")
            assert eleven.labels[to_11[label]] == f"{side}-{part}"
    expected = {"background": "background", "hair": "hair", "hat": "hair", "face": "face", "sunglasses": "face",
                "upper-clothes": "top", "dress": "top", "pants": "bottom"}  # fmt: skip
    for label, merged in expected.items():
        assert eleven.labels[to_11[LABELS[name].labels.index(label)]] == merged


@pytest.mark.parametrize("name", PARSERS)
def test_every_region_is_reached(name: str) -> None:
    reached = set(label_table(name, "remot6")[: len(LABELS[name])].tolist())
    assert reached == set(range(6)) and REGIONS == ("top", "bottom", "head", "limbs", "shoes")


def test_six_class_merge_of_the_specification() -> None:
    assert label_table("atr18", "remot6")[:18].tolist() == [0, 3, 3, 3, 1, 1, 2, 1, 2, 5, 5, 3, 4, 4, 4, 4, 1, 1]


def test_mirrored_labels_swap_sides_and_keep_the_six() -> None:
    mirror, names = np.array(MIRROR_11, np.uint8), LABELS["remot11"].labels
    assert np.array_equal(mirror[mirror], np.arange(11))
    for i, name in enumerate(names):
        other = name.replace("left", "#").replace("right", "left").replace("#", "right")
        assert names[mirror[i]] == other
    to_6 = label_table("remot11", "remot6")[:11]
    assert np.array_equal(to_6[mirror], to_6)


def test_label_outside_the_set_is_an_error() -> None:
    with pytest.raises(SchemaError, match=r"18.*atr18"):
        convert_labels(np.array([[0, 18]], np.uint8), "atr18", "remot11")
    assert convert_labels(np.zeros((0, 4), np.uint8), "atr18", "remot11").shape == (0, 4)


def test_errors_name_both_schemas() -> None:
    with pytest.raises(SchemaError, match="'remot6'.*'atr18'"):
        convert_labels(np.zeros((1, 1), np.uint8), "remot6", "atr18")
    with pytest.raises(SchemaError, match="'atr18'.*'lip20'"):
        label_table("atr18", "lip20")
    with pytest.raises(SchemaError, match="no-such.*atr18"):
        label_set("no-such")
    with pytest.raises(SchemaError, match="no-such.*body25"):
        keypoint_set("no-such")
    with pytest.raises(SchemaError, match=r"coco17.*17.*\(25, 3\)"):
        convert_keypoints(np.zeros((25, 3), np.float32), "coco17", "body25")


@pytest.mark.parametrize("name", list(LABELS))
def test_palette_has_a_colour_a_label(name: str) -> None:
    palette = LABELS[name].palette
    assert palette.shape == (len(LABELS[name]), 3) and palette.dtype == np.uint8
    assert len(np.unique(palette, axis=0)) == len(palette) and not palette[0].any()
    assert palette[1:4].tolist() == [[128, 0, 0], [0, 128, 0], [128, 128, 0]]


@pytest.mark.parametrize("source", list(KEYPOINTS))
@pytest.mark.parametrize("target", list(KEYPOINTS))
def test_keypoints_are_matched_by_name(source: str, target: str) -> None:
    have, want = KEYPOINTS[source], KEYPOINTS[target]
    points = np.stack([np.arange(len(have)), np.arange(len(have)) + 0.5, np.ones(len(have))], -1).astype(np.float32)
    out = convert_keypoints(points, source, target)
    assert out.shape == (len(want), 3) and out.dtype == np.float32
    for i, name in enumerate(want.points):
        if name in have.points:
            assert np.array_equal(out[i], points[have.index(name)]), name
    if source == target:
        assert np.array_equal(out, points)


def test_coco17_becomes_openpose_by_the_known_table() -> None:
    table = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
    points = np.ones((17, 3), np.float32) * np.arange(17, dtype=np.float32)[:, None] / [1, 1, 17]
    out = convert_keypoints(points, "coco17", "coco18")
    for i, origin in enumerate(table):
        if origin is not None:
            assert np.allclose(out[i], points[origin])


@given(keypoints("coco17"))
def test_neck_and_mid_hip_are_means(points: np.ndarray) -> None:
    out, source, target = convert_keypoints(points, "coco17", "body25"), KEYPOINTS["coco17"], KEYPOINTS["body25"]
    for name, part in (("neck", "shoulder"), ("mid-hip", "hip")):
        left, right = (points[:, source.index(f"{side}-{part}")] for side in ("left", "right"))
        made = out[:, target.index(name)]
        both = (left[:, 2] > 0) & (right[:, 2] > 0)
        assert np.allclose(made[both, :2], (left[both, :2] + right[both, :2]) / 2)
        assert np.array_equal(made[both, 2], np.minimum(left[both, 2], right[both, 2]))
        assert not made[~both].any()


def test_one_foot_point_stands_for_the_big_toe() -> None:
    points = np.zeros((33, 3), np.float32)
    points[KEYPOINTS["blazepose33"].index("left-foot-index")] = 7, 8, 1
    out = convert_keypoints(points, "blazepose33", "body25")
    assert out[KEYPOINTS["body25"].index("left-big-toe")].tolist() == [7, 8, 1]
    assert not out[KEYPOINTS["body25"].index("left-small-toe")].any()


@given(st.sampled_from(list(KEYPOINTS)).flatmap(lambda name: st.tuples(st.just(name), keypoints(name))))
def test_mirroring_twice_changes_nothing(case: tuple[str, np.ndarray]) -> None:
    name, points = case
    once = mirror_keypoints(points, name, 100)
    assert np.array_equal(mirror_keypoints(once, name, 100), points)
    assert not once[once[..., 2] == 0].any()


@given(keypoints("coco17"))
def test_mirroring_before_or_after_conversion_is_the_same(points: np.ndarray) -> None:
    before = convert_keypoints(mirror_keypoints(points, "coco17", 100), "coco17", "body25")
    after = mirror_keypoints(convert_keypoints(points, "coco17", "body25"), "body25", 100)
    assert np.allclose(before, after)


def test_mirroring_swaps_left_and_right() -> None:
    points = np.zeros((25, 3), np.float32)
    points[KEYPOINTS["body25"].index("left-wrist")] = 10, 20, 1
    out = mirror_keypoints(points, "body25", 100)
    assert out[KEYPOINTS["body25"].index("right-wrist")].tolist() == [90, 20, 1] and np.count_nonzero(out) == 3


def test_a_mirrored_face_has_its_points_in_the_places_of_the_other_side() -> None:
    """On a face that is symmetric about x = 50, mirrored at that line, no point moves."""
    right = {17: 20, 21: 40, 36: 30, 37: 33, 38: 36, 39: 40, 40: 36, 41: 33, 31: 45, 48: 40, 49: 43, 50: 47, 68: 35}
    left = {26: 80, 22: 60, 45: 70, 44: 67, 43: 64, 42: 60, 47: 64, 46: 67, 35: 55, 54: 60, 53: 57, 52: 53, 69: 65}
    jaw = {i: 10 + 5 * i for i in range(17)}
    middle = {i: 50 for i in (27, 28, 29, 30, 33, 51, 57, 62, 66)}
    for name in ("openpose137", "wholebody133"):
        known = {f"face-{i}": x for i, x in {**right, **left, **jaw, **middle}.items()}
        points = np.zeros((len(KEYPOINTS[name]), 3), np.float32)
        for i, point in enumerate(KEYPOINTS[name].points):
            if point in known:
                points[i] = known[point], 7, 1
        assert np.array_equal(mirror_keypoints(points, name, 100), points)


def test_mirroring_swaps_the_hands() -> None:
    points = np.zeros((137, 3), np.float32)
    points[KEYPOINTS["openpose137"].index("left-hand-8")] = 10, 20, 1
    out = mirror_keypoints(points, "openpose137", 100)
    assert out[KEYPOINTS["openpose137"].index("right-hand-8")].tolist() == [90, 20, 1]
    assert np.count_nonzero(out) == 3


def test_openpose137_is_body_hands_and_face_in_the_order_of_openpose() -> None:
    names = KEYPOINTS["openpose137"].points
    assert names[:25] == KEYPOINTS["body25"].points
    assert (names[25], names[46], names[67], names[136]) == ("left-hand-0", "right-hand-0", "face-0", "face-69")
    assert set(KEYPOINTS["wholebody133"].points) <= set(names)


@pytest.mark.parametrize("name", ["body25", "coco18"])
def test_limbs_name_existing_points(name: str) -> None:
    chosen = KEYPOINTS[name]
    assert chosen.limbs and all(0 <= a < len(chosen) and 0 <= b < len(chosen) for a, b in chosen.limbs)
    assert len(set(chosen.points)) == len(chosen)
