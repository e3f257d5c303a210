"""Damaged copies of ten small videos: each ends as clips or as a reject, and none as a traceback."""

from __future__ import annotations

import pytest

from tests import fuzzing


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return fuzzing.originals(tmp_path_factory.mktemp("originals"))


@pytest.mark.slow
def test_the_originals_become_clips(files, tmp_path):
    done = fuzzing.build([files[0].parent], str(tmp_path / "store"), workers=0, **fuzzing.OPTIONS)
    # They show the same, and so the first is kept and the others are its duplicates.
    assert {r["code"] for r in done.rejects if r["what"] == "video"} <= {"duplicate"}
    assert done.videos >= 1 and done.frames["decoded"] >= 9 * fuzzing.FRAMES


@pytest.mark.slow
def test_damaged_copies_end_as_clips_or_rejects(files, tmp_path):
    trial = fuzzing.Trial(files, tmp_path)
    trial.run(range(150), workers=0)
    assert trial.bad == []
    assert sum(trial.ends[end] for end in trial.ends if ":" not in end) == 150
    assert trial.ends["clips"] >= 10


@pytest.mark.slow
def test_a_damaged_copy_is_a_function_of_its_number(files):
    assert fuzzing.damaged(files, 77) == fuzzing.damaged(files, 77)
    assert len({fuzzing.damaged(files, n)[1] for n in range(70)}) > 60
    assert {fuzzing.damaged(files, n)[0].split("-")[1] for n in range(70)} == {
        kind.__name__.strip("_") for kind in fuzzing.DAMAGE
    }
