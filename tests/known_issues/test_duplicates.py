"""Two takes by one camera that both fade in and out were refused as duplicates.

The kind is a likeness that comes of what videos have in common, here of brightness that changes in both: whole pictures
then moved so much that a small dancer who moved otherwise did not count. The takes are drawn; right is that both are
kept, and that a copy, however encoded, is none the less found.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from remot_data import media
from remot_data.ingest import people
from remot_data.ingest.build import build
from remot_data.ingest.duplicates import same_content, signature_with_persons
from remot_data.ingest.policy import Policy
from tests.known_issues.test_shots import Frames, faded, room
from tests.remot_data.conftest import RED_FINDER

COPIES = {
    "half": ["-vf", "scale=iw/2:ih/2", "-crf", "35"],
    "slower": ["-r", "15"],
    "faster": ["-r", "60"],
    "vp8": ["-c:v", "libvpx", "-b:v", "300k", "-deadline", "realtime"],
    "brighter": ["-vf", "eq=brightness=0.08"],
    "flatter": ["-vf", "eq=contrast=0.8"],
}


def take(begins: int) -> Frames:
    """A dancer 76 pixels high in a picture of 640 x 360, who swings an arm; it fades in and out."""
    grey = cv2.resize(room(1).mean(2, keepdims=True).astype(np.uint8), (640, 360))
    wall, out = np.stack([grey] * 3, axis=-1), []
    for t in range(begins, begins + 90):
        picture, left = wall.copy(), round(300 + 8 * np.sin(t / 6))
        arm = round(12 + 10 * np.cos(t / 4))
        picture[220:296, left : left + 16] = picture[232:240, left + 16 : left + 16 + arm] = (210, 30, 35)
        out.append(picture)
    return faded(out, into=14, out=14)


def written(path: Path, frames: Frames) -> Path:
    with media.VideoWriter(path, 30, frames[0].shape[:2]) as writer:
        for frame in frames:
            writer.write(frame)
    return path


@pytest.fixture
def takes(tmp_path: Path) -> tuple[Path, Path]:
    return written(tmp_path / "take1.mp4", take(0)), written(tmp_path / "take2.mp4", take(60))


@pytest.fixture
def finder(tmp_path: Path) -> str:
    (tmp_path / "red.py").write_text(RED_FINDER)
    return f"{tmp_path / 'red.py'}:Red"


def copied(path: Path, name: str) -> Path:
    out = path.with_name(f"{name}.{'webm' if name == 'vp8' else 'mp4'}")
    subprocess.run([media.carried_ffmpeg(), "-loglevel", "error", "-i", path, *COPIES[name], out], check=True)
    return out


def refused(paths: list[Path], finder: str, **policy: str) -> set[str]:
    rules = Policy(size=(64, 48), **policy)
    store = paths[0].with_name("-".join(["store", *policy.values()]))
    made = build(paths, str(store), policy=rules, layers={}, finder=finder, workers=0)
    return {Path(r["path"]).name for r in made.rejects if r["code"] == "duplicate"}


@pytest.mark.slow
def test_both_takes_are_kept_and_a_copy_is_refused(takes, finder):
    copy = copied(takes[0], "slower")
    assert refused([*takes, copy], finder) == {copy.name, "take1.mp4"} - {min(copy.name, "take1.mp4")}


@pytest.mark.slow
def test_whole_pictures_take_them_for_the_same_as_before(takes, finder):
    assert refused([*takes], finder, duplicates="pictures") == {"take2.mp4"}


@pytest.mark.slow
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_the_same_however_it_was_encoded(takes, finder, name):
    def signed(path: Path) -> str:
        return signature_with_persons(people.watch(path, finder=finder, dense=True))

    first, second = (signed(path) for path in takes)
    copy = signed(copied(takes[0], name))
    assert (same_content(first, copy), same_content(second, copy)) == (True, False)
