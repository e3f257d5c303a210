"""A dancer who left and came back, who ran, or whose jump cut was no shot, lost half of her frames or more.

Those frames were said to show nobody. The scenes are drawn, so that who stands where in each frame is known.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import made_scenes, persons
from remot_data.assets import AssetError
from remot_data.ingest import people
from remot_data.ingest.build import Summary, build
from remot_data.records import Clip
from remot_data.store import Store, open_store

pytestmark = pytest.mark.slow

KINDS = ("leaves_comes_back", "runs_across", "jump_cut")
SEVERAL = ("relay", "takes_place", "side_by_side", "crossing_slow")
# Seeds of each kind. BlazePose's finder sees only some of the dancers in every look: who is not seen cannot be kept.
SEEDS = {
    "ssd-0": dict.fromkeys(KINDS, 0),
    "ssd-1": dict.fromkeys(KINDS, 1),
    "blazepose": {"leaves_comes_back": 1, "runs_across": 1, "jump_cut": 3},
}
NEAR = 3  # frames by which an end may be off


class Made(NamedTuple):
    cases: dict[str, persons.Case]
    store: Store
    summary: Summary

    def parts(self, name: str) -> list[persons.Shown]:
        case = self.cases[name]
        times = np.arange(case.truth.frames) * self.clips(name)[0].time_base[1] // made_scenes.FPS
        return [persons.shown(clip, self.store.boxes(clip), times, case.truth) for clip in self.clips(name)]

    def clips(self, name: str) -> list[Clip]:
        """The clips of a scene by their first frame."""
        found = [clip for clip in self.store.clips if Path(clip.path) == self.cases[name].path]
        return sorted(found, key=lambda clip: clip.pts[0])

    def spans(self, name: str) -> list[tuple[int, int]]:
        """First frame and one past the last of each clip."""
        per = [clip.time_base[1] // made_scenes.FPS for clip in self.clips(name)]
        return [(clip.pts[0] // n, clip.pts[-1] // n + 1) for clip, n in zip(self.clips(name), per, strict=True)]

    def nobody(self, name: str) -> set[int]:
        """Frames that were refused because nobody was seen in them."""
        of = [r for r in self.summary.rejects if Path(r["path"]) == self.cases[name].path and r["code"] == "no-person"]
        spans = [map(int, re.match(r"frames (\d+) to (\d+)", reject["detail"]).groups()) for reject in of]
        return {frame for first, last in spans for frame in range(first, last + 1)}


def _made(folder: Path, seeds: Mapping[str, int], finder: str) -> Made:
    if finder == "ssd":
        try:
            people.open_finder(finder).fingerprint()
        except AssetError as error:
            pytest.skip(f"the network that finds persons cannot be had: {error}")
    found = [case for name, seed in seeds.items() for case in persons.made_cases(folder, [name], [seed])]
    paths = [str(case.path) for case in found]
    summary = build(paths, str(folder / "store"), layers={}, finder=finder, workers=0)
    return Made({case.name: case for case in found}, open_store(summary.store), summary)


@pytest.fixture(
    scope="module",
    params=["ssd-0", "ssd-1", "blazepose"],
)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _made(tmp_path_factory.mktemp("persons"), SEEDS[request.param], request.param.partition("-")[0])


def _there(case: persons.Case) -> list[tuple[int, int, int, int]]:
    """Of each time that the one person is there: first frame seen, first and last wholly visible, last seen."""
    frames = case.truth.at
    seen = np.flatnonzero([bool(frames[n]) for n in range(case.truth.frames)])
    whole = np.array([n for n in seen if frames[n][0].shown == "all"])
    out = []
    for stay in np.split(seen, np.flatnonzero(np.diff(seen) > 1) + 1):
        inside = whole[(whole >= stay[0]) & (whole <= stay[-1])]
        out.append((int(stay[0]), int(inside[0]), int(inside[-1]), int(stay[-1])))
    return out


def test_who_leaves_and_comes_back_has_a_clip_each_time(made):
    stays = _there(made.cases["leaves_comes_back"])
    spans = made.spans("leaves_comes_back")
    assert len(stays) == len(spans) == 2
    for (start, stop), (first, whole, whole_last, last) in zip(spans, stays, strict=True):
        assert first - NEAR <= start <= whole + NEAR
        assert whole_last - NEAR <= stop - 1 <= last + NEAR


def test_only_the_gap_is_refused_as_nobody(made):
    frames = made.cases["leaves_comes_back"].truth.at
    stands = {n for n, seen in frames.items() if any(person.shown == "all" for person in seen)}
    gap = {n for n, seen in frames.items() if not seen}
    nobody = made.nobody("leaves_comes_back")
    assert not {n for n in nobody if all(m in stands for m in range(n - NEAR, n + NEAR + 1) if m in frames)}
    assert not {n for n in gap - nobody if all(m in gap for m in range(n - NEAR, n + NEAR + 1))}


def test_who_runs_across_is_kept_in_one_clip(made):
    frames = made.cases["runs_across"].truth.frames
    ((start, stop),) = made.spans("runs_across")
    assert start <= NEAR and stop >= frames - NEAR
    assert sum(clip.frames for clip in made.clips("runs_across")) >= frames - NEAR
    assert not made.nobody("runs_across")


def test_a_jump_cut_on_the_same_set_makes_two_clips_and_loses_nothing(made):
    frames = made.cases["jump_cut"].truth.frames
    (start, before), (after, stop) = made.spans("jump_cut")
    assert start <= NEAR and stop >= frames - NEAR
    assert abs(before - frames // 2) <= NEAR and abs(after - frames // 2) <= NEAR
    assert sum(clip.frames for clip in made.clips("jump_cut")) >= frames - NEAR


@pytest.mark.parametrize("name", KINDS)
def test_the_boxes_of_a_clip_are_those_of_its_person(made, name):
    counts = persons.count_clips(made.parts(name), made.cases[name].truth)
    assert counts["kept"] >= 0.97 * counts["pairs"] > 0
    assert counts["in_clip"] == counts["in_person"] == 0


@pytest.mark.parametrize("seed", (0,))
def test_each_of_several_persons_has_her_frames_in_clips_of_her_own(tmp_path, seed):
    made = _made(tmp_path, dict.fromkeys(SEVERAL, seed), "ssd")
    for name in SEVERAL:
        counts = persons.count_clips(made.parts(name), made.cases[name].truth)
        assert counts["kept"] >= 0.97 * counts["pairs"] > 0, name
        assert counts["in_clip"] == counts["in_person"] == 0, name
