"""Cuts by an absolute change alone: jump cuts on one set were none, dissolves and fades stayed inside clips, and both
edges of a flash were cuts.

The kind is a picture that changes at an edit, or seems to. The scenes are drawn: a wall of blotches, and a dancer in
red before it. Right is a shot on either side of a cut, however little it changes; a transition refused by a code of its
own; and one shot where a light flashes, the camera moves or somebody passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from remot_data import media
from remot_data.ingest.build import build
from remot_data.ingest.cuts import Contrast, ShotFinder
from remot_data.ingest.policy import Policy
from remot_data.store import open_store
from tests.remot_data.conftest import RED_FINDER

SIZE = (320, 180)
Frames = list[np.ndarray]


def room(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    wall = np.full((SIZE[1], SIZE[0], 3), rng.uniform(90, 170), np.float32)
    for cells, light in ((9, 18), (32, 18)):
        patches = rng.normal(0, light, (cells * 9 // 16, cells, 3)).astype(np.float32)
        wall += cv2.resize(patches, SIZE, interpolation=cv2.INTER_CUBIC)
    return np.clip(wall, 0, 255).astype(np.uint8)


def dance(frames: int, set_of: int, x: float, begins: int = 0) -> Frames:
    """Somebody in red who sways round `x` and lifts an arm, before the wall `set_of`, with a little noise."""
    wall, out = room(set_of), []
    noise = np.random.default_rng([set_of, begins])
    for t in range(begins, begins + frames):
        picture = wall.copy()
        left = round(x + 10 * np.sin(t / 5))
        arm = round(12 + 12 * np.cos(t / 4))
        picture[60:165, left : left + 26] = (210, 30, 35)
        picture[75 : 75 + 8, left + 26 : left + 26 + arm] = (210, 30, 35)
        grain = noise.normal(0, 1.5, picture.shape)
        out.append(np.clip(picture + grain, 0, 255).astype(np.uint8))
    return out


def mixed(a: Frames, b: Frames, over: int) -> Frames:
    """One after the other, dissolved over so many frames that both have."""
    shares = (np.arange(over) + 1) / (over + 1)
    both = [x * (1 - s) + y * s for x, y, s in zip(a[-over:], b, shares, strict=False)]
    return [*a[:-over], *(np.rint(x).astype(np.uint8) for x in both), *b[over:]]


def faded(frames: Frames, into: int = 0, out: int = 0) -> Frames:
    gains = np.ones(len(frames))
    gains[:into] = np.arange(into) / max(into, 1)
    gains[len(gains) - out :] = (np.arange(out)[::-1]) / max(out, 1)
    return [np.rint(x * g).astype(np.uint8) for x, g in zip(frames, gains, strict=True)]


def spans(frames: Sequence[np.ndarray], finder: Contrast | ShotFinder | None = None) -> tuple[list, list]:
    finder = finder or Contrast(30)
    for frame in frames:
        finder.see(frame)
    return finder.spans()


def old(frames: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    return spans(frames, ShotFinder())[0]


def test_a_jump_cut_on_one_set_is_a_cut():
    frames = dance(60, 1, 60) + dance(60, 1, 200, begins=97)
    assert old(frames) == [(0, 120)]
    assert spans(frames) == ([(0, 60), (60, 120)], [])


@pytest.mark.parametrize("over", [4, 12, 30, 45])
def test_a_dissolve_is_of_neither_shot(over):
    frames = mixed(dance(75, 1, 60), dance(75, 2, 200), over)
    shots, ((start, stop),) = spans(frames)
    assert shots == [(0, start), (stop, len(frames))]
    assert start <= 75 - over and start >= 75 - over - 4 and 75 <= stop <= 79


def test_a_fade_through_black_is_one_transition():
    frames = (
        faded(dance(60, 1, 60), out=10) + [np.zeros((180, 320, 3), np.uint8)] * 6 + faded(dance(60, 2, 60), into=10)
    )
    shots, ((start, stop),) = spans(frames)
    assert shots == [(0, start), (stop, len(frames))] and 45 <= start <= 51 and 75 <= stop <= 81


def test_the_fades_at_the_ends_of_a_video_are_of_no_shot():
    frames = faded(dance(90, 1, 60), into=12, out=12)
    ((start, stop),), gone = spans(frames)
    assert 10 <= start <= 14 and 76 <= stop <= 80 and gone == [(0, start), (stop, 90)]


def flash(frames: Frames) -> Frames:
    return [255 - (255 - f) // 6 if 40 <= n < 43 else f for n, f in enumerate(frames)]


def light(frames: Frames) -> Frames:
    return [f // 2 if n >= 40 else f for n, f in enumerate(frames)]


def strobe(frames: Frames) -> Frames:
    return [f // 3 if 30 <= n < 60 and n // 2 % 2 else f for n, f in enumerate(frames)]


def shake(frames: Frames) -> Frames:
    shifts = np.random.default_rng(0).integers(-8, 9, (len(frames), 2))
    return [np.roll(f, s, (0, 1)) if 30 <= n < 50 else f for n, (f, s) in enumerate(zip(frames, shifts, strict=True))]


def pan(frames: Frames) -> Frames:
    return [np.roll(f, 12 * min(max(n - 40, 0), 10), 1) for n, f in enumerate(frames)]


def zoom(frames: Frames) -> Frames:
    grown = (cv2.getRotationMatrix2D((160, 90), 0, 1 + 0.03 * min(max(n - 40, 0), 12)) for n in range(len(frames)))
    return [cv2.warpAffine(f, m, SIZE) for f, m in zip(frames, grown, strict=True)]


def passing(frames: Frames) -> Frames:
    def behind(picture: np.ndarray, n: int) -> np.ndarray:
        left = -160 + 40 * (n - 35)
        out = picture.copy()
        out[:, max(left, 0) : max(left + 160, 0)] = (40, 30, 35)
        return out

    return [behind(f, n) for n, f in enumerate(frames)]


@pytest.mark.parametrize("change", [flash, light, strobe, shake, pan, zoom, passing])
def test_what_is_no_edit_parts_nothing(change):
    frames = change(dance(90, 1, 120))
    assert spans(frames) == ([(0, 90)], [])


def test_both_edges_of_a_flash_used_to_be_cuts():
    assert len(old(flash(dance(90, 1, 120)))) == 3


@pytest.mark.slow
def test_it_decides_alike_in_long_videos_and_forgets_what_is_past():
    parts = [dance(150, n % 3, 60 + 20 * n, begins=7 * n) for n in range(6)]
    finder = Contrast(30)
    frames = [frame for part in parts for frame in part]
    assert spans(frames, finder)[0] == [(n, n + 150) for n in range(0, 900, 150)]
    alone = [spans(parts[n] + parts[n + 1])[0] for n in range(5)]
    assert alone == [[(0, 150), (150, 300)]] * 5


@pytest.fixture
def built(tmp_path: Path) -> Iterator[object]:
    (tmp_path / "red.py").write_text(RED_FINDER)

    def run(frames: Frames, **policy: object):
        with media.VideoWriter(tmp_path / "v.mp4", 30, (180, 320)) as writer:
            for frame in frames:
                writer.write(frame)
        rules = Policy(size=(64, 48), **policy)
        finder = f"{tmp_path / 'red.py'}:Red"
        made = build(str(tmp_path / "v.mp4"), str(tmp_path / "s"), policy=rules, layers={}, finder=finder, workers=0)
        clips = sorted((c.pts[0] * 30 // c.time_base[1], c.frames) for c in open_store(made.store).clips)
        return clips, made

    yield run


def test_a_dissolve_is_refused_by_a_code_of_its_own(built):
    clips, made = built(mixed(dance(75, 1, 60), dance(75, 2, 200), 30))
    (first, before), (second, after) = clips
    assert first == 0 and before <= 45 and second >= 75 and second + after == 120
    (reject,) = made.rejects
    assert (reject["code"], reject["frames"]) == ("transition", 120 - before - after)
    assert made.frames == {"decoded": 120, "kept": before + after, "refused": reject["frames"], "resampled": 0}


def test_a_jump_cut_makes_two_clips_and_loses_nothing(built):
    clips, made = built(dance(60, 1, 60) + dance(60, 1, 200, begins=97))
    assert clips == [(0, 60), (60, 60)] and not made.rejects


def test_a_store_from_before_has_its_shots_as_before(built):
    clips, made = built(mixed(dance(75, 1, 60), dance(75, 2, 200), 30), shots=None)
    assert made.frames["kept"] == 120 and not made.rejects
    assert any(start < 60 < start + frames for start, frames in clips)
    assert "shots" not in open_store(made.store).config["policy"]
