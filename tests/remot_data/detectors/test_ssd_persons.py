"""The finder of several persons: decoding on made tensors, judging with stand-ins, the networks on the sample clips."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from remot_data import assets, media
from remot_data.detectors import ssd_persons
from remot_data.detectors.base import FINDERS, DetectorError, load_finder
from remot_data.detectors.blazepose import Body
from remot_data.detectors.ssd_persons import PersonNetwork, Seen, SSDFinder, anchors, covered, decode, without_parts
from remot_data.ingest import people
from remot_data.persons import Person, as_box, overlap
from remot_data.records import XYXY


def logit(score: float) -> float:
    return math.log(score / (1 - score))


def box(*corners: float) -> XYXY:
    return as_box(corners)


# --- the network's numbers ----------------------------------------------------------------------------------


def test_anchors_are_those_of_the_published_graph() -> None:
    assert anchors().shape == (1917, 4) and anchors().dtype == np.float32
    first, last = anchors()[:3], anchors()[-6:]
    assert np.allclose(first[:, :2], 0.5 / 19) and np.allclose(last[:, :2], 0.5)
    root = math.sqrt(2)
    assert np.allclose(first[:, 2:], [(0.1, 0.1), (0.2 * root, 0.2 / root), (0.2 / root, 0.2 * root)])
    assert np.allclose(last[[0, 3, 5], 2:], [(0.95, 0.95), (0.95 * 3**0.5, 0.95 / 3**0.5), (0.95**0.5, 0.95**0.5)])


def test_decoding_moves_and_stretches_anchors_and_keeps_persons_alone() -> None:
    values, logits = np.zeros((1917, 4), np.float32), np.full((1917, 24), -9, np.float32)
    values[700] = (2, -1, 5 * math.log(2), 5 * math.log(0.5))  # down, to the left, twice as high, half as wide
    logits[700, 4], logits[701, 4], logits[702, 5] = logit(0.8), logit(0.2), logit(0.9)
    scores, boxes = decode(values, logits, 0.3)
    x, y, w, h = anchors()[700].tolist()
    middle = x - 0.1 * w, y + 0.2 * h
    assert scores == pytest.approx([0.8])
    assert boxes[0] == pytest.approx([middle[0] - w / 4, middle[1] - h, middle[0] + w / 4, middle[1] + h], abs=1e-6)


def test_of_boxes_of_one_person_the_best_stays_even_without_an_area() -> None:
    boxes = np.array([(0, 0, 10, 30), (1, 0, 11, 30), (40, 0, 50, 30), (5, 5, 5, 5)], float)
    assert ssd_persons.best_of(np.array([0.5, 0.9, 0.6, 0.3]), boxes).tolist() == [1, 2, 3]
    assert len(ssd_persons.best_of(np.zeros(0), np.zeros((0, 4)))) == 0


@pytest.mark.parametrize("size", [(1280, 720), (720, 1280), (518, 496), (64, 48)])
def test_windows_of_either_size_cover_the_picture(size: tuple[int, int]) -> None:
    every = ssd_persons.windows(size)
    for side in {w[2] - w[0] for w in every}:
        seen = np.zeros(size[::-1], bool)
        for x0, y0, x1, y1 in (w for w in every if w[2] - w[0] == side):
            assert min(x0, y0) >= 0 and x1 <= size[0] and y1 <= size[1]
            seen[y0:y1, x0:x1] = True
        assert seen.all()
    x0, y0, x1, y1 = ssd_persons.window_round(box(0, 0, 5, min(size) / 10), size)
    assert x0 == y0 == 0 and x1 == y1 == round(0.3 * min(size))


def test_a_part_seen_in_a_window_is_nobody_beside_the_large_person() -> None:
    whole = [Seen(box(100, 50, 300, 650), 0.6, True), Seen(box(800, 300, 850, 420), 0.3, False)]
    near = [Seen(box(120, 60, 280, 300), 0.7, True), Seen(box(802, 301, 851, 421), 0.5, True)]
    kept = without_parts(whole, near)
    assert [one.score for one in kept] == [0.6, 0.5]
    assert without_parts([], near) == sorted(near, key=lambda one: -one.score) and without_parts([], []) == []


def test_the_covered_share_of_a_box() -> None:
    assert covered(box(0, 0, 16, 16), []) == 0
    assert covered(box(0, 0, 16, 16), [box(0, 0, 8, 16), box(4, 0, 12, 16)]) == pytest.approx(0.75)


# --- who is a person ----------------------------------------------------------------------------------------


class Pose:
    """Stands in for BlazePose: bodies in the whole picture, and those that the landmark network sees when asked."""

    def __init__(self, bodies: Sequence[Body] = (), asked: Sequence[Body] = ()):
        self._bodies, self._asked, self.regions = list(bodies), list(asked), []

    def body_boxes(self, image: np.ndarray) -> list[Body]:
        return self._bodies

    def body_in(self, image: np.ndarray, region: ssd_persons.Region, score: float, twice: bool) -> Body | None:
        self.regions.append(region)
        inside = [b for b in self._asked if abs((b.box[0] + b.box[2]) / 2 - region.x) < 20]
        return inside[0] if inside else None


class Network:
    """Stands in for the SSD: what it sees by the window it is asked for, which it writes down."""

    def __init__(self, whole: Sequence[tuple[float, XYXY]] = (), near: Sequence[tuple[float, XYXY]] = ()):
        self.whole, self.near, self.windows = whole, near, list[ssd_persons.Window]()

    def __call__(self, image: np.ndarray, window: ssd_persons.Window, least: float) -> tuple[np.ndarray, np.ndarray]:
        self.windows.append(window)
        all_of_it = window == (0, 0, *image.shape[1::-1])
        x0, y0, x1, y1 = window
        seen = [s for s in (self.whole if all_of_it else self.near) if s[0] >= least]
        seen = [s for s in seen if s[1][0] >= x0 and s[1][1] >= y0 and s[1][2] <= x1 and s[1][3] <= y1]
        return np.array([s for s, _ in seen]), np.array([b for _, b in seen], float).reshape(-1, 4)


def finder(network: Network, pose: Pose) -> SSDFinder:
    made = SSDFinder.__new__(SSDFinder)
    made._ssd, made._blazepose, made._sure, made._least, made._allocate = network, pose, 0.45, 0.3, ()  # type: ignore[assignment]
    return made


def body(corners: XYXY, score: float = 0.8, confirmed: bool = True) -> Body:
    """A body whose joints fill its box."""
    x0, y0, x1, y1 = corners
    t = np.linspace(0, 1, 25)
    joints = np.stack([x0 + t * (x1 - x0), y0 + t * (y1 - y0), np.full(25, 0.9)], 1).astype(np.float32)
    return Body(corners, score, joints if confirmed else np.zeros((25, 3), np.float32))


IMAGE = np.zeros((360, 640, 3), np.uint8)
LEFT, RIGHT = box(100, 50, 200, 300), box(400, 60, 490, 310)


def found(network: Network, pose: Pose) -> list[Person]:
    return finder(network, pose).find(IMAGE)


def test_two_persons_stand_by_the_ssd_and_who_is_confirmed_has_the_box_of_her_landmarks() -> None:
    tight = box(105, 55, 195, 295)
    persons = found(Network([(0.6, LEFT), (0.5, RIGHT)]), Pose([body(tight, 0.9)]))
    assert [(p.box, p.score, p.sure) for p in persons] == [(tight, 0.9, True), (RIGHT, 0.5, True)]
    grown = finder(Network([(0.6, LEFT)]), Pose()).find(IMAGE, 7, (1920, 1080))
    assert (grown[0].frame, grown[0].box) == (7, tuple(3 * v for v in LEFT))


def test_a_body_that_is_denied_and_that_no_box_covers_is_nobody() -> None:
    denied = Pose([body(RIGHT, confirmed=False)])
    assert found(Network(), denied) == []
    assert [p.box for p in found(Network([(0.6, RIGHT)]), denied)] == [RIGHT]


def test_a_confirmed_body_that_the_ssd_misses_stays_unless_it_is_made_of_others() -> None:
    assert [p.box for p in found(Network([(0.6, LEFT)]), Pose([body(RIGHT)]))] == [LEFT, RIGHT]
    between = box(100, 50, 490, 310)
    assert [p.box for p in found(Network([(0.6, LEFT), (0.6, RIGHT)]), Pose([body(between)]))] == [LEFT, RIGHT]


def test_a_weak_box_needs_the_landmark_network_or_a_track() -> None:
    pose, weak = Pose(asked=[body(RIGHT)]), Network([(0.35, RIGHT), (0.32, LEFT)])
    persons = found(weak, pose)
    assert [(p.box, p.score, p.sure) for p in persons] == [(RIGHT, 0.35, True), (LEFT, 0.32, False)]
    assert pose.regions[0].side == pytest.approx(1.25 * 250) and pose.regions[0].x == 445
    assert found(Network([(0.29, RIGHT)]), pose) == []


def test_of_one_person_only_one_box_is_sure() -> None:
    """Boxes of half of her, or of more than her: the landmark network sees the same joints in them."""
    half = box(100, 50, 200, 150)
    persons = found(Network([(0.6, LEFT), (0.5, half)]), Pose([body(LEFT)], asked=[body(LEFT)]))
    assert [(p.box, p.sure) for p in persons] == [(LEFT, True), (half, False)]
    weak = found(Network([(0.6, LEFT), (0.4, half)]), Pose([body(LEFT)]))
    assert [p.box for p in weak] == [LEFT]


def test_one_before_another_is_found_where_her_joints_are_her_own() -> None:
    child = box(110, 100, 190, 240)
    own = Body(child, 0.5, body(child).keypoints[::-1].copy())
    persons = found(Network([(0.6, LEFT), (0.5, child)]), Pose([body(LEFT)], asked=[own]))
    assert [(p.box, p.sure) for p in persons] == [(LEFT, True), (child, True)]


# --- the looks at a video -----------------------------------------------------------------------------------

WHOLE = (0, 0, 640, 360)
FAR = box(300, 100, 320, 160)


def test_somebody_small_is_looked_for_everywhere_first_and_then_where_she_was() -> None:
    network = Network(near=[(0.6, FAR)])
    look = finder(network, Pose()).follow()
    assert [p.box for p in look(IMAGE, 0, (640, 360))] == [FAR]
    assert network.windows == [WHOLE, *ssd_persons.windows((640, 360))]
    network.windows.clear()
    assert [p.box for p in look(IMAGE, 6, (640, 360))] == [FAR]
    assert network.windows == [WHOLE, ssd_persons.window_round(FAR, (640, 360)), ssd_persons.windows((640, 360))[0]]


def test_who_is_gone_is_forgotten_and_then_all_windows_come_in_turns() -> None:
    network = Network([(0.6, RIGHT)])
    look = finder(network, Pose()).follow()
    look(IMAGE, 0, (640, 360))
    assert network.windows == [WHOLE, *ssd_persons.windows((640, 360), (0.6,))]
    network.whole = []
    for _ in range(6):
        look(IMAGE, 0, (640, 360))
    network.windows.clear()
    for _ in range(4):
        assert look(IMAGE, 0, (640, 360)) == []
    every = ssd_persons.windows((640, 360))
    assert sorted(network.windows) == sorted([*every, *[WHOLE] * 4])


def test_one_who_is_alone_costs_one_look_of_the_ssd_and_company_is_seen_at_the_next() -> None:
    network, pose = Network([(0.6, LEFT)]), Pose([body(LEFT)])
    look = finder(network, pose).follow()
    look(IMAGE, 0, (640, 360))
    network.whole = [(0.6, LEFT), (0.6, RIGHT)]
    network.windows.clear()
    assert [p.box for p in look(IMAGE, 6, (640, 360))] == [LEFT] and WHOLE not in network.windows
    assert [p.box for p in look(IMAGE, 12, (640, 360))] == [LEFT, RIGHT]
    assert [p.box for p in look(IMAGE, 18, (640, 360))] == [LEFT, RIGHT]
    pose._bodies = []
    look = finder(network, pose).follow()
    look(IMAGE, 0, (640, 360))
    assert len(look(IMAGE, 6, (640, 360))) == 2


def test_what_the_edge_of_a_window_cuts_is_left_to_the_next_window() -> None:
    x0, y0, x1, y1 = ssd_persons.windows((640, 360))[1]
    cut, whole = box(x0, y0 + 50, x0 + 40, y0 + 150), box(x0 + 50, y0 + 50, x0 + 90, y0 + 150)
    seen = finder(Network(near=[(0.6, cut), (0.6, whole)]), Pose()).seen(IMAGE, (x0, y0, x1, y1))
    assert [one.box for one in seen] == [whole] and y0 == 0 and x0 > 0


# --- the true networks --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def true(ssd: Path) -> SSDFinder:
    return SSDFinder(ssd)


def picture(camera: int, longest: int = 960) -> np.ndarray:
    path = assets.fetch(f"sample-cam{camera:02d}")
    width, height = media.probe(path).size
    scale = longest / max(width, height)
    frames = media.read(path, size=(round(height * scale), round(width * scale)))
    return next(image for _, image in frames)


def test_the_man_of_a_sample_clip_has_the_box_of_before(true: SSDFinder) -> None:
    image = picture(3)
    (person,) = (p for p in true.find(image) if p.sure)
    (before,) = people.find(picture(3, 640), size=image.shape[1::-1])
    assert overlap(person.box, before.box) > 0.97 and 0.1 < person.sharpness < 1


def test_a_bystander_whom_blazepose_misses_is_found(true: SSDFinder) -> None:
    image = picture(1)
    sure = sorted((p for p in true.find(image) if p.sure), key=lambda p: p.box[0])
    assert len(sure) == 2 and len(people.find(picture(1, 640))) == 1
    assert overlap(sure[0].box, box(0, 139, 73, 375)) > 0.6  # drawn by hand
    assert overlap(sure[1].box, box(125, 156, 293, 578)) > 0.7


def test_two_men_side_by_side_are_two(true: SSDFinder) -> None:
    one = picture(3, 720)
    persons = [p for p in true.find(np.concatenate([one, one], 1)) if p.sure]
    assert len(persons) == 2 and overlap(persons[0].box, persons[1].box) == 0


def test_nobody_is_found_in_noise(true: SSDFinder) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)
    assert [p for p in true.find(noise) if p.sure] == []


def test_the_fingerprint_names_all_weights_and_thresholds(true: SSDFinder, ssd: Path) -> None:
    mark = true.fingerprint()
    assert mark["weights"] == assets.ASSETS["person-detector"].sha256
    assert mark["blazepose"]["detector_weights"] == assets.ASSETS["blazepose-detector"].sha256
    assert mark["blazepose"]["weights"] == assets.ASSETS["blazepose-landmarks"].sha256
    assert SSDFinder(ssd, sure=0.5).fingerprint() != mark == json.loads(json.dumps(SSDFinder(ssd).fingerprint()))


def test_finders_are_known_by_name_and_go_through_a_video(ssd: Path) -> None:
    assert {"ssd", "ultralytics"} == set(FINDERS)
    assert isinstance(load_finder("ssd"), SSDFinder) and load_finder("ssd").longest == 960
    seen = people.watch(assets.fetch("sample-cam02"), rate=3.0, finder="ssd")
    assert len(seen.looks) == 5 and all(any(p.sure for p in look) for look in seen.looks)


def test_another_file_is_refused() -> None:
    with pytest.raises(DetectorError, match="SSD of Objectron takes"):
        PersonNetwork(assets.fetch("blazepose-detector"))
