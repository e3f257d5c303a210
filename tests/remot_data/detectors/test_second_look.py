"""A second look at a clip: by stand-ins for the networks that swap sides and lose joints where they are told to."""

from __future__ import annotations

import numpy as np
import pytest

from remot_data.detectors._carrying import DISPUTED, EXCHANGED, FILLED, OF_BACKWARD, OTHER_SIDE, UNKNOWN
from remot_data.detectors._following import Landmarks, soft_mask
from remot_data.detectors._litert import Region
from remot_data.detectors.base import DetectorError
from remot_data.detectors.blazepose import BlazePose, body25
from remot_data.schemas import keypoint_set
from tests.remot_data.detectors.test_carrying import ARMS, LEGS, dancer, exchanged

COUNT = 60
INDEX = keypoint_set("body25").index
REGION = Region(100.0, 125.0, 250.0)


class Looks:
    """A landmark network that knows the bodies: one for looks forward, one for backward, one for mirrored pictures.

    Frames tell their number by their first pixel. `calls` are the numbers of the frames looked at, by direction.
    """

    def __init__(self, forward: np.ndarray, backward: np.ndarray, mirrored: np.ndarray) -> None:
        self._bodies = {"forward": forward, "backward": backward, "mirrored": mirrored}
        self.calls: dict[str, list[int]] = {name: [] for name in self._bodies}
        self._last, self._back = -1, False

    def __call__(self, image: np.ndarray, region: Region, mirrored: bool = False) -> Landmarks:
        t = int(image[0, 0, 0])
        if not mirrored:
            self._back |= t < self._last
            self._last = t
        which = "mirrored" if mirrored else "backward" if self._back else "forward"
        self.calls[which].append(t)
        body = self._bodies[which][t]
        points = np.zeros((39, 4), np.float32)
        points[:33] = np.nan_to_num(body)[:, [0, 1, 2, 2]]
        points[33:35, :2] = (100, 125), (100, 25)
        return Landmarks(points, 0.0 if np.isnan(body).any() else 0.99, np.zeros((256, 256), np.float32), REGION)


class Finds:
    """A detector network that finds nobody: the whole picture is looked at."""

    def __call__(self, image: np.ndarray) -> list[object]:
        return []

    def within(self, image: np.ndarray, region: Region) -> list[object]:
        return []


def drawn() -> np.ndarray:
    body, _, _ = dancer(COUNT)
    return body


def pose_of(forward, backward=None, mirrored=None, **settings) -> tuple[dict[str, np.ndarray], Looks]:
    made = BlazePose(**settings)
    looks = Looks(forward, drawn() if backward is None else backward, drawn() if mirrored is None else mirrored)
    made._landmarks, made._detector = looks, Finds()
    frames = np.zeros((COUNT, 256, 192, 3), np.uint8)
    frames[:, 0, 0, 0] = np.arange(COUNT)
    return made(frames, times={"times": np.arange(COUNT) * 0.04}), looks


@pytest.fixture(scope="module")
def right() -> np.ndarray:
    return pose_of(drawn(), carry=False)[0]["keypoints"]


def test_a_clip_without_doubts_is_the_forward_pass_to_the_bit(right):
    found, looks = pose_of(drawn())
    assert found["keypoints"].tobytes() == right.tobytes() and not found["checks"][:, 0].any()
    assert not looks.calls["backward"] and len(looks.calls["mirrored"]) == 5
    told = found["checks"][:, 1, INDEX("left-wrist")]
    assert (told[looks.calls["mirrored"]] == 0).all() and (told == UNKNOWN).sum() == COUNT - 5


@pytest.mark.parametrize("group", [ARMS, LEGS])
def test_swapped_limbs_are_put_right_and_marked(right, group):
    wrong = exchanged(drawn(), slice(20, 24), group)
    found, looks = pose_of(wrong, wrong, wrong)  # no look is right
    assert np.array_equal(found["keypoints"], right)
    marks = found["checks"][:, 0]
    names = {"left-wrist": ARMS, "left-knee": LEGS}
    for name, of in names.items():
        assert np.flatnonzero(marks[:, INDEX(name)]).tolist() == (list(range(20, 24)) if of is group else [])
    assert set(np.unique(marks)) == {0, EXCHANGED | DISPUTED}, "the other looks were exchanged, too"
    assert set(looks.calls["backward"]) <= set(range(15, 30))


def test_who_is_lost_is_found_backward(right):
    gone = drawn()
    gone[30:33] = np.nan
    found, _ = pose_of(gone)
    assert np.array_equal(found["keypoints"], right) and found["mask"][31].any()
    assert (found["checks"][30:33, 0, INDEX("nose")] == OF_BACKWARD).all()
    before, _ = pose_of(gone, carry=False)
    assert not before["keypoints"][30:33].any() and not before["mask"][31].any() and "checks" not in before


def test_a_joint_that_all_looks_lose_is_filled_in(right):
    lost = drawn()
    lost[40:43, 15, 2] = 0.02
    found, _ = pose_of(lost, lost, lost)
    wrist = INDEX("left-wrist")
    assert (found["checks"][40:43, 0, wrist] == FILLED).all() and found["checks"][:, 0, wrist].sum() == 3
    assert np.abs(found["keypoints"][40:43, wrist, :2] - right[40:43, wrist, :2]).max() < 1
    assert (found["keypoints"][40:43, wrist, 2] > 0).all()
    longer = drawn()
    longer[40:47, 15, 2] = 0.02
    found, _ = pose_of(longer, longer, longer)
    assert not found["keypoints"][40:47, wrist].any() and not found["checks"][40:47, 0, wrist].any()


def test_a_joint_outside_the_picture_is_not_filled_in():
    away = drawn()
    away[40:43, 15, 0] = 400
    found, _ = pose_of(away, away, away)
    assert not found["keypoints"][40:43, INDEX("left-wrist")].any()


def test_a_long_swap_is_doubted_by_the_probes():
    """Nothing jumps where the clip begins swapped, but the mirrored picture says otherwise."""
    wrong = exchanged(drawn(), slice(0, COUNT), [*ARMS, *LEGS, 11, 12, 23, 24])
    found, looks = pose_of(wrong)
    assert len(looks.calls["mirrored"]) == COUNT and len(looks.calls["backward"]) == COUNT - 1
    assert (found["checks"][:, 0, INDEX("left-wrist")] & DISPUTED > 0).all()
    assert (found["checks"][:, 1, INDEX("left-wrist")] < 25).all(), "they saw the same body"


def test_what_the_mirrored_picture_gives_is_mirrored_back():
    """With the real network: both looks at a symmetrical picture agree, with left and right where they were."""
    from tests.remot_data.detectors.test_blazepose import clip

    network = BlazePose()._landmarks
    frame = clip("cam01")[0]
    region = Region(96.0, 128.0, 250.0, 0.2)
    plain, other = network(frame, region), network(frame, region, mirrored=True)
    assert np.abs(plain.points[11:29, :2] - other.points[11:29, :2]).max() < 8
    assert ((plain.logits > 0) == (other.logits > 0)).mean() > 0.98
    flipped = np.ascontiguousarray(frame[:, ::-1])
    seen = network(flipped, Region(191 - region.x, region.y, region.side, -region.rotation))
    back = seen.points[:33][OTHER_SIDE]
    assert np.abs(191 - back[:, 0] - other.points[:33, 0]).max() < 2.5
    assert np.abs(back[:, 1] - other.points[:33, 1]).max() < 2.5


def test_settings_of_before_have_the_fingerprint_of_before():
    as_before = BlazePose(carry=False).fingerprint()["settings"]
    assert as_before == {"threads": 1, "threshold": 0.3, "smooth": False}
    assert BlazePose().fingerprint()["settings"] == {**as_before, "carry": True}
    assert BlazePose(smooth=True).fingerprint()["settings"] == {**as_before, "smooth": True}
    assert BlazePose.before == {"carry": False, "model": "full"}


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(DetectorError, match="carry=false"):
        BlazePose(smooth=True, carry=True)
    with pytest.raises(DetectorError, match="full, heavy"):
        BlazePose(model="light")


def test_without_carrying_each_frame_is_by_itself_to_the_bit():
    """As layers were made before there was the setting: landmarks of the forward pass, and nothing else."""
    from tests.remot_data.detectors.test_blazepose import clip

    frames, pose = clip("cam03")[:6], BlazePose(carry=False)
    track, found = pose.track(), pose(frames)
    for t, frame in enumerate(frames):
        seen = track(frame)
        assert seen is not None
        assert found["keypoints"][t].tobytes() == body25(seen.points, frame.shape[:2], 0.3).tobytes()
        assert found["mask"][t].tobytes() == soft_mask(seen, frame.shape[:2]).tobytes()
    assert found.keys() == {"keypoints", "mask"}
