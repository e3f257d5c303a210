"""Clips and rejects of shots in stores that follow persons, out of drawn boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remot_data import media
from remot_data.ingest.judging import judge
from remot_data.ingest.people import Watched
from remot_data.ingest.policy import Policy
from remot_data.persons import Person
from remot_data.records import Video
from remot_data.store import boxes
from tests.remot_data.ingest.test_tracking import BLUE, GREEN, RED

RATE, EVERY = 30, 6
SHOWN = {"licence": "CC0", "person": "ann"}
FOUND = Video("v-1", "/v.mp4", "0" * 64, (640, 480), 0, 0.0, float(RATE), (1, RATE), "h264", **SHOWN)


def at(x, tall=300.0):
    return x - 0.2 * tall, 100.0, x + 0.2 * tall, 100.0 + tall


def watched(looks, frames=120, shots=None, cells=None):
    """Look number i is at frame 6 i and holds the (box, colours) of `looks(i)`, with sharpness 0.5."""
    at = list(range(0, frames, EVERY))
    found = [
        [Person(t, box, 0.9, 0.5, sure=sure, colours=wears) for box, wears, *rest in looks(i) for sure in [not rest]]
        for i, t in enumerate(at)
    ]
    if cells is None:
        cells = np.random.default_rng(0).integers(0, 255, (len(at), 32, 32)).astype(np.uint8)
    probe = media.Probe((640, 480), (640, 480), 0, "h264", (1, RATE), frames, RATE, frames / RATE, False, 0)
    return Watched(probe, np.arange(frames), shots or [(0, frames)], at, found, cells, np.zeros((8, 12, 12), np.uint8))


def judged(seen, policy=Policy()):  # noqa: B008 - frozen
    made = judge(FOUND, seen, policy)
    counts, persons = made.frames, made.persons
    kept = set().union(*(clip.pts for clip in made.clips))
    assert counts["decoded"] == len(seen.pts) == counts["kept"] + counts["refused"] + counts["resampled"]
    assert counts["kept"] == len(kept) and counts["refused"] == sum(r.frames for r in made.rejects)
    count = persons["person_frames"]
    assert count["seen"] == count["kept"] + sum(count["refused"].values())
    assert count["kept"] == sum(clip.frames for clip in made.clips)
    assert set(persons["own"]) == {clip.id for clip in made.clips}
    assert len({clip.id for clip in made.clips}) == len(made.clips)
    return made


def reasons(made):
    return [(r.code, *map(int, r.detail.split(":")[0].split()[1::2])) for r in made.rejects]


def test_one_person_has_the_clip_that_she_had_before_persons_were_followed():
    seen = watched(lambda i: [(at(300), RED)])
    (clip,), (old,) = judged(seen).clips, judge(FOUND, seen, Policy(persons=None)).clips
    assert clip == old and clip.id == "v-1-000-00" and clip.person == "ann" and clip.licence == "CC0"


def test_everybody_has_clips_and_the_manifest_speaks_of_the_main_person():
    seen = watched(lambda i: [(at(150), BLUE), (at(450, 320), RED)])
    a, b = judged(seen).clips
    assert (a.id, a.person, a.licence) == ("v-1-000-00", "ann", "CC0")
    assert (b.id, b.person, b.licence) == ("v-1-000-00-t01", "v-1-p1", "")
    assert a.split == b.split and a.crop != b.crop
    assert b.crop[0] < 150 < b.crop[0] + b.crop[2]


def test_main_leaves_the_others_out_and_says_so():
    both = watched(lambda i: [(at(450, 320), RED)] * (i < 10) + [(at(150), BLUE)])
    made = judged(both, Policy(persons="main"))
    assert [clip.id for clip in made.clips] == ["v-1-000-00"] and made.clips[0].frames == 120
    made = judged(watched(lambda i: [(at(450, 390), RED)] * (i < 12) + [(at(150, 200), BLUE)]), Policy(persons="main"))
    assert made.clips[0].frames == 67
    assert reasons(made) == [("not-main", 67, 119)]


def test_who_comes_back_has_a_second_clip_and_only_the_gap_has_no_person():
    made = judged(watched(lambda i: [(at(100 + 10 * i), RED)] if i < 8 or i >= 20 else [], frames=180))
    assert [(clip.id, clip.person) for clip in made.clips] == [("v-1-000-00", "ann"), ("v-1-000-01", "ann")]
    assert reasons(made) == [("no-person", 43, 119)]


def test_a_short_absence_is_bridged():
    made = judged(watched(lambda i: [] if 5 <= i < 9 else [(at(300), RED)]))
    assert [clip.frames for clip in made.clips] == [120] and not made.rejects


def test_a_jump_inside_a_set_parts_the_clip():
    made = judged(watched(lambda i: [(at(60 if i < 10 else 580, 200), RED)]))
    assert [clip.frames for clip in made.clips] == [60, 60] and not made.rejects
    assert made.clips[0].crop != made.clips[1].crop


def test_who_goes_far_has_several_clips_in_which_she_is_large_enough():
    def runs(i):
        return [(at(30 + 15 * i, 60), RED)]

    seen = watched(runs)
    made = judged(seen, Policy(min_height=50, min_share=0.33))
    shares = [60 / clip.crop[3] for clip in made.clips]
    assert len(shares) > 2 and min(shares) >= 0.33 and not made.rejects
    assert {clip.person for clip in made.clips} == {"ann"}
    assert [clip.frames for clip in judged(seen, Policy(min_height=50)).clips] == [120]
    # Shorter than a clip may be is none of them.
    assert [clip.frames for clip in judged(seen, Policy(min_height=50, min_share=0.33, min_frames=60)).clips] == [
        60,
        60,
    ]


def test_frames_in_which_somebody_is_in_the_way_are_left_out_and_the_rest_is_kept():
    """For the first eight of twenty looks another one stands before her."""
    seen = watched(lambda i: [(at(300), RED), *([(at(320, 280), BLUE)] if i < 8 else [])])
    made = judged(seen)
    mine = [clip for clip in made.clips if clip.person == "ann"]
    assert [clip.frames for clip in mine] == [74] and mine[0].pts[0] == 46
    assert judged(seen, Policy(max_others=0.5)).clips[0].frames == 120
    beside = judged(watched(lambda i: [(at(200), RED), (at(340), BLUE)]))
    assert [clip.frames for clip in beside.clips] == [120, 120]


@pytest.mark.parametrize(
    ("looks", "code"),
    [
        (lambda i: [(at(300), RED)] * (i < 2), "not-followed"),
        (lambda i: [(at(300), RED, "weak")], "no-person"),
        (lambda i: [(at(300, 50), RED)], "person-too-small"),
        (lambda i: [], "no-person"),
        (lambda i: [(at(300), RED)] * (6 < i < 10), "track-too-short"),
    ],
)
def test_no_person_is_said_only_where_nobody_was_found(looks, code):
    made = judged(watched(looks))
    found = [r[0] for r in reasons(made)]
    assert not made.clips and code in found and set(found) <= {code, "no-person"}


def test_a_still_of_a_person_beside_a_dancer_is_no_clip():
    cells = np.repeat(np.random.default_rng(1).integers(0, 250, (1, 32, 32)).astype(np.uint8), 20, 0)
    cells[:, :, 20:] = np.arange(0, 200, 10, dtype=np.uint8)[:, None, None]
    made = judged(watched(lambda i: [(at(520), RED), (at(100), BLUE)], cells=cells))
    assert [clip.person for clip in made.clips] == ["ann"]
    assert made.persons["person_frames"]["refused"] == {"static": 120}
    assert not made.rejects  # these frames are in a clip


def test_numbers_go_on_over_shots():
    seen = watched(lambda i: [(at(150), BLUE), (at(450, 320), RED)], shots=[(0, 60), (60, 120)])
    made = judged(seen)
    assert [clip.person for clip in made.clips] == ["ann", "v-1-p1", "ann", "v-1-p2"]
    assert [t["number"] for t in made.persons["tracks"]] == [0, 1, 2, 3]
    assert [clip.id[-7:] for clip in made.clips] == ["-000-00", "-00-t01", "-001-00", "-00-t01"]


def test_boxes_of_all_looks_are_told():
    made = judged(watched(lambda i: [(at(150), BLUE), (at(450, 320), RED), (at(620, 100), GREEN, "weak")]))
    looks = boxes.unpack(made.persons["looks"])
    assert len(looks.pts) == 20 and len(looks.track) == 40
    first, second = (boxes.of_clip(looks, clip, made.persons["own"][clip.id]) for clip in made.clips)
    own, others = first.at(made.clips[0].pts.array(), FOUND.time_base)
    np.testing.assert_allclose(own[60], np.rint(at(450, 320)), atol=1)
    np.testing.assert_allclose(others[60, 0], np.rint(at(150)), atol=1)
    assert second.own == 1


def test_frames_left_out_by_the_rate_are_counted_once():
    made = judged(watched(lambda i: [(at(150), BLUE), (at(450, 320), RED)] * (i < 10)), Policy(fps=10.0))
    assert made.frames["resampled"] == 80


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(60, 580), st.sampled_from([50, 120, 300]), st.integers(0, 2)), max_size=3),
        min_size=20,
        max_size=20,
    ),
    st.sampled_from(["all", "main"]),
    st.sampled_from([[(0, 120)], [(0, 50), (50, 53), (53, 120)]]),
    st.sampled_from([None, 10.0]),
)
def test_every_frame_is_accounted_for_once(drawn, whom, shots, fps):
    wears = (RED, BLUE, GREEN)
    seen = watched(lambda i: [(at(x, tall), wears[w]) for x, tall, w in drawn[i]], shots=shots)
    judged(seen, Policy(persons=whom, fps=fps, min_frames=8, max_frames=40))
