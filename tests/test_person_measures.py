"""That the measures of benchmarks/persons.py count what they say, on boxes, clips and poses made by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import made_scenes, persons
from benchmarks.made_scenes import Seen, Truth
from remot_data.persons import Person
from remot_data.records import XYWH, Clip, Times

WHOLE = XYWH((0.0, 0.0, 192.0, 256.0))
A, B = (0.0, 0.0, 50.0, 100.0), (200.0, 0.0, 250.0, 100.0)


def seen(name: str, box: tuple[float, ...], shown: str = "all") -> Seen:
    """Somebody with all joints on a line down the middle of her box."""
    middle, joints = (box[0] + box[2]) / 2, np.ones((25, 3), np.float32)
    joints[:, 0], joints[:, 1] = middle, np.linspace(box[1], box[3], 25)
    return Seen(name, np.array(box, float), shown, joints)


def clip(frames: range, person: str = "p", crop: XYWH = WHOLE) -> Clip:
    pts = Times([frame * 10 for frame in frames])
    return Clip("c", "v", "v.mp4", "", 0, pts, (1, 300), 30.0, (300, 120), crop, person, "train")


def part(frames: range, boxes: list[tuple[float, ...]], truth: Truth, person: str = "p") -> persons.Shown:
    known = SimpleNamespace(at=lambda pts, base: (np.array(boxes), np.empty((len(boxes), 0, 4))))
    return persons.shown(clip(frames, person), known, np.arange(truth.frames) * 10, truth)


def truth_of(frames: int, *people: tuple[str, tuple[float, ...]]) -> Truth:
    return Truth("v.mp4", (300, 120), frames, {f: [seen(*one) for one in people] for f in range(frames)})


def test_a_look_is_complete_only_if_everybody_has_a_box_of_her_own():
    people = [seen("a", A), seen("b", B)]
    both, one = [Person(0, A, 0.9), Person(0, B, 0.9)], [Person(0, A, 0.9), Person(0, (2.0, 0.0, 50.0, 100.0), 0.8)]
    common = {"looks": 1, "several": 1, "boxes": 2}
    found = persons.count_look(both, people)
    assert found == {**common, "complete": 1, "complete_several": 1, "weak": 1, "phantoms": 0}
    assert persons.count_look(one, people) == {**common, "complete": 0, "complete_several": 0, "weak": 0, "phantoms": 1}


def test_who_is_hardly_seen_or_small_need_not_be_found_but_is_no_phantom():
    people = [seen("a", A), seen("b", B, "part"), seen("c", (100.0, 0.0, 130.0, 60.0))]
    found = [Person(0, A, 0.9), Person(0, B, 0.9)]
    assert persons.count_look(found, people) == {"looks": 1, "complete": 1, "weak": 1, "boxes": 2, "phantoms": 0}
    assert persons.count_look(found[:1], people)["complete"] == 1
    assert persons.count_look([], [people[1]]) == {"boxes": 0, "phantoms": 0}


def test_weak_boxes_are_counted_apart():
    found = [Person(0, A, 0.9), Person(0, B, 0.2, sure=False), Person(0, (100.0, 0.0, 150.0, 100.0), 0.2, sure=False)]
    counts = persons.count_look(found, [seen("a", A), seen("b", B)])
    assert (counts["complete"], counts["weak"], counts["boxes"], counts["phantoms"]) == (0, 1, 1, 0)


def test_pairs_are_kept_only_in_a_clip_of_that_person():
    truth = truth_of(20, ("a", A), ("b", B))
    counts = persons.count_clips([part(range(10), [A] * 10, truth)], truth)
    assert (counts["pairs"], counts["kept"], counts["clips"]) == (40, 10, 1)
    nowhere = (np.nan,) * 4
    counts = persons.count_clips([part(range(10), [A] * 6 + [nowhere] * 4, truth)], truth)
    assert (counts["kept"], counts["in_clip"]) == (6, 0)


def test_only_frames_that_the_truth_knows_are_counted():
    truth = Truth("v.mp4", (300, 120), 30, {0: [seen("a", A)], 15: [seen("a", A)]})
    counts = persons.count_clips([part(range(5, 30), [A] * 25, truth)], truth)
    assert (counts["pairs"], counts["kept"]) == (2, 1)


def test_switches_are_counted_in_clips_and_between_those_of_a_name():
    truth = truth_of(20, ("a", A), ("b", B))
    swaps = part(range(10), [A] * 5 + [B] * 5, truth)
    assert persons.count_clips([swaps], truth)["in_clip"] == 1
    first, second = part(range(10), [A] * 10, truth), part(range(10, 20), [B] * 10, truth)
    assert persons.count_clips([first, second], truth)["in_person"] == 1
    other = part(range(10, 20), [B] * 10, truth, "q")
    counts = persons.count_clips([first, other], truth)
    assert (counts["in_clip"], counts["in_person"], counts["kept"], counts["split"]) == (0, 0, 20, 0)


def test_a_person_of_two_names_is_split():
    truth = truth_of(20, ("a", A), ("b", B))
    first, second = part(range(10), [A] * 10, truth), part(range(10, 20), [A] * 10, truth, "q")
    assert persons.count_clips([first, second], truth)["split"] == 1
    again = part(range(10, 20), [A] * 10, truth)
    assert persons.count_clips([first, again], truth)["split"] == 0


def test_who_crosses_closely_is_no_switch():
    near = (15.0, 0.0, 65.0, 100.0)
    truth = truth_of(3, ("a", A), ("b", near))
    boxes = [A, (8.0, 0.0, 58.0, 100.0), (0.0, 0.0, 50.0, 100.0)]
    assert persons.count_clips([part(range(3), boxes, truth)], truth)["in_clip"] == 0


def test_a_clip_of_frames_that_the_video_lacks_is_an_error():
    with pytest.raises(ValueError, match="lacks"):
        part(range(5, 25), [A] * 20, truth_of(20, ("a", A)))


def test_whose_pose_it_is():
    people = [seen("a", A), seen("b", B)]
    own, other, none = people[0].keypoints, people[1].keypoints, np.zeros((25, 3))
    assert [persons.whose_pose(p, "a", people) for p in (own, other, none)] == ["own", "other", "none"]
    assert persons.whose_pose(own + np.array([60.0, 0, 0]), "a", people) == "off"
    near = seen("c", (15.0, 0.0, 65.0, 100.0))
    assert persons.whose_pose(near.keypoints, "a", [people[0], near]) == "other"
    assert persons.whose_pose(own, "a", [people[0], near]) == "own"


def test_poses_are_held_against_the_truth_in_source_pixels():
    truth, crop = truth_of(4, ("a", A), ("b", B)), XYWH((-20.0, -10.0, 96.0, 128.0))
    made = persons.Shown(clip(range(4), crop=crop), np.arange(4), np.arange(4), np.array([A] * 4))
    points = np.stack([truth.at[0][0].keypoints] * 4)
    points[..., :2] = (points[..., :2] - crop[:2]) * (192 / 96, 256 / 128)
    assert persons.count_poses(made, points, (256, 192), truth) == {"own": 4, "exact": 4}
    assert persons.count_poses(made, points, (128, 96), truth)["own"] == 0


def test_truth_is_written_and_read_as_it_is(tmp_path):
    truth = truth_of(2, ("a", A), ("b", B))
    made_scenes.write_truth(tmp_path / "v.json", truth)
    again = made_scenes.read_truth(tmp_path / "v.json")
    assert (again.video, again.size, again.frames) == (truth.video, truth.size, truth.frames)
    for ours, theirs in zip(truth.at[1], again.at[1], strict=True):
        assert (ours.id, ours.shown) == (theirs.id, theirs.shown)
        assert np.allclose(ours.box, theirs.box) and np.allclose(ours.keypoints, theirs.keypoints, atol=0.01)


@pytest.mark.slow
def test_what_is_drawn_lies_in_the_boxes_and_is_the_same_again():
    def scene():
        stage = made_scenes.Stage(np.random.default_rng(5), (320, 180), 0.2)
        front, back = stage.actor(90, 90, 0.9), stage.actor(90, 90, 0.85)
        front.x, back.x = front.x - 60 + 20 * np.arange(6), back.x + 145
        rng = np.random.default_rng(6)
        return made_scenes.room((320, 180), rng), list(made_scenes.drawn(stage.plan(), np.random.default_rng(6)))

    room, frames = scene()
    for (picture, people), (again, _) in zip(frames, scene()[1], strict=True):
        assert np.array_equal(picture, again)
        assert [person.id for person in people] == ["a", "b"] and [person.shown for person in people][0] == "all"
        rest = abs(picture.astype(int) - room).max(2)
        for person in people:
            x0, y0, x1, y1 = np.rint(person.box).astype(int)
            assert rest[y0:y1, x0:x1].any()
            joints = person.keypoints[person.keypoints[:, 2] > 0, :2]
            assert len(joints) > 15
            rest[max(y0 - 3, 0) : y1 + 3, max(x0 - 3, 0) : x1 + 3] = 0
        assert not rest.any()
    assert frames[0][1][1].shown in ("most", "part")  # b stands half outside


def test_what_was_drawn_by_hand_is_possible():
    files = sorted(path for path in (Path(persons.__file__).parent / "truth").glob("*.json") if path.stem != "labels")
    assert len(files) == 6
    for path in files:
        truth = made_scenes.read_truth(path)
        for frame, people in truth.at.items():
            assert 0 <= frame < truth.frames
            assert len({person.id for person in people}) == len(people)
            for person in people:
                x0, y0, x1, y1 = person.box
                assert 0 <= x0 < x1 <= truth.size[0] and 0 <= y0 < y1 <= truth.size[1], (path, frame, person)
                assert person.height >= persons.LEAST and person.shown in ("all", "most", "part")


def test_of_the_files_drawn_by_hand_only_those_of_persons_are_read(tmp_path):
    """labels.json lies beside them and has no boxes: it was read as if it had."""
    with pytest.raises(ValueError, match="is not the video out of musicalgestures"):
        list(persons.real_cases(tmp_path))
