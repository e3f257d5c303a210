"""Time stamps that are no clock: a step back, a lone outlier, a recording that pauses.

A step back made all later frames one tick of the container apart: no look, no frame rate and no clip was right there.
Made: packets with the time stamps of each case. Right: time goes on at the frame's step, a lone outlier is left out,
and a clip ends where the recording pauses; also when clips are read again, which is by time stamp.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remot_data import cli, media
from remot_data.annotating.source_frames import read_native
from remot_data.care.verify import repair, verify
from remot_data.exchange.importers import import_layer
from remot_data.ingest.build import Summary, build
from remot_data.ingest.policy import Policy
from remot_data.media import frames, in_child
from remot_data.media.container import in_order
from remot_data.records import Clip
from remot_data.store import Store, open_store
from tests.remot_data.conftest import RED_FINDER, digests
from tests.remot_data.media.test_media import encode, ffmpeg, number, numbered

STEP = 3000  # of 90000 a second: 30 frames a second
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "12", "-g", "15", "-pix_fmt", "yuv420p", "-f", "mpegts"]


def _packets(data: bytearray) -> list[int]:
    """Where the stamps of each frame lie in a transport stream: the five bytes of its PTS."""
    found = []
    for start in range(0, len(data), 188):
        begin = data.find(b"\0\0\1\xe0", start, start + 188)
        if data[start + 1] & 0x40 and begin >= 0:
            assert data[begin + 7] & 0xC0 == 0x80, "a DTS of its own: the input is to have no B frames"
            found.append(begin + 9)
    return found


def stamped(path: Path, stamps: list[int], draw: Callable[[int], np.ndarray] = numbered) -> Path:
    """A transport stream of drawn frames, with these PTS in place of its own."""
    pictures = [draw(n) for n in range(len(stamps))]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{pictures[0].shape[1]}x{pictures[0].shape[0]}", "-r", "30"]
    ffmpeg(*raw, "-i", "-", *X264, "-bf", "0", path, data=b"".join(picture.tobytes() for picture in pictures))
    data = bytearray(path.read_bytes())
    for at, stamp in zip(_packets(data), stamps, strict=True):
        parts = (
            0x21 | stamp >> 29 & 14,
            stamp >> 22 & 255,
            1 | stamp >> 14 & 254,
            stamp >> 7 & 255,
            1 | stamp << 1 & 254,
        )
        data[at : at + 5] = bytes(parts)
    path.write_bytes(data)
    return path


def joined(path: Path, b_frames: int = 2, count: int = 45) -> Path:
    """Two recordings one behind the other, with the same time stamps; B frames come before those they need."""
    parts = []
    for n in range(2):
        keep = [
            "-vf",
            f"select=between(n\\,{n * count}\\,{n * count + count - 1}),setpts=N/30/TB",
            "-bf",
            str(b_frames),
        ]
        parts.append(encode(path.with_suffix(f".{n}.ts"), 2 * count, [*X264, *keep]).read_bytes())
    path.write_bytes(b"".join(parts))
    return path


def grid(count: int, base: int = 10 * STEP) -> list[int]:
    return [base + STEP * n for n in range(count)]


# What the stamps are, which of 60 frames are left out, and how many steps each of the others is after the first.
FAR = 1000 * STEP
CASES = {
    "in order": (grid(60), [], list(range(60))),
    "a step back": (grid(30) + grid(30, 2 * STEP), [], list(range(60))),
    "several steps back": (grid(20) * 3, [], list(range(60))),
    "an outlier ahead": (grid(30) + [FAR] + grid(60)[31:], [30], [n for n in range(60) if n != 30]),
    "an outlier behind": (grid(45, FAR) + [0] + grid(60, FAR)[46:], [45], [n for n in range(60) if n != 45]),
    "the first is ahead": ([FAR] + grid(60)[1:], [0], list(range(59))),
    "a pause": (grid(30) + grid(30, 100 * STEP), [], [*range(30), *range(90, 120)]),
    "a pause and a step back": (
        grid(20) + grid(20, 100 * STEP) + grid(20), [], [*range(20), *range(90, 130)],
    ),
    "a stamp twice": (
        [*grid(30)[:-1], grid(29)[-1], *grid(60)[30:], ], [], [*range(29), 29, *range(30, 60)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_time_goes_on(tmp_path: Path, name: str) -> None:
    stamps, left_out, steps = CASES[name]
    path = stamped(tmp_path / "video.ts", stamps)
    shown = list(media.read(path, size=(128, 192)))
    assert [number(frame) for _, frame in shown] == [n for n in range(60) if n not in left_out]
    times = np.array([pts for pts, _ in shown])
    assert (times - times[0]).tolist() == [STEP * n for n in steps]
    found = media.probe(path)
    assert (found.frames, found.first_pts) == (len(shown), times[0])
    assert found.seconds == pytest.approx((steps[-1] + 1) / 30, abs=1e-3)
    every = np.array(frames.all_times(path))
    assert len(every) == 60 and np.searchsorted(every, times).tolist() == [n for n in range(60) if n not in left_out]


@pytest.mark.parametrize("name", CASES)
def test_frames_are_found_again_by_time(tmp_path: Path, name: str) -> None:
    path = stamped(tmp_path / "video.ts", CASES[name][0])
    shown = [(pts, number(frame)) for pts, frame in media.read(path)]
    for start in (1, 21, 33, 50):
        span = {"start_pts": shown[start][0], "end_pts": shown[start + 5][0]}
        assert [(p, number(f)) for p, f in media.read(path, **span)] == shown[start : start + 5]
        assert [(p, number(f)) for p, f in in_child.read(path, **span)] == shown[start : start + 5]
    some = shown[3::11]
    assert [(p, number(f)) for p, f in media.read(path, only=[p for p, _ in some])] == some
    assert in_child.probe(path) == media.probe(path)


def test_stores_from_before_keep_their_times(tmp_path: Path) -> None:
    """Their clips are read again by the time stamps that they were built with."""
    path = stamped(tmp_path / "video.ts", CASES["a step back"][0])
    old = [pts for pts, _ in media.read(path, times=None)]
    assert old == [*grid(30), *range(grid(30)[-1] + 1, grid(30)[-1] + 31)]
    assert media.probe(path, times=None).seconds == pytest.approx(38 / 30, abs=1e-3)
    assert Policy.from_json({"size": (256, 192)}).times is None and Policy().times == "continued"
    assert "times" not in dataclasses.replace(Policy(), times=None).to_json()


@pytest.mark.parametrize("b_frames", [0, 2])
def test_two_recordings_in_one_file(tmp_path: Path, b_frames: int) -> None:
    path = joined(tmp_path / "joined.ts", b_frames)
    assert not in_order(path) and in_order(path.with_suffix(".1.ts"))
    shown = list(media.read(path))
    assert [number(frame) for _, frame in shown] == list(range(90))
    assert set(np.diff([pts for pts, _ in shown])) == {STEP}
    found = media.probe(path)
    assert (found.frames, found.fps, found.seconds) == (90, pytest.approx(30), pytest.approx(3, abs=1e-3))
    second = shown[60][0]
    assert [number(frame) for _, frame in media.read(path, only=[second])] == [60]
    assert not media.decord_agrees(path)
    for start, end, first in ((0.5, 1.0, 15), (1.2, 2.0, 36), (2.0, 2.5, 60)):
        media.cut(path, tmp_path / "part.mp4", start, end)
        part = [number(frame) for _, frame in media.read(tmp_path / "part.mp4")]
        assert part == list(range(first, round(30 * end)))


def dancer(n: int) -> np.ndarray:
    """A person for the finder `Red`, before a grey that says the number of the frame."""
    picture = np.full((240, 320, 3), 30 + 3 * n, np.uint8)
    left = 60 + (10 if n % 8 < 4 else 0)
    picture[60:200, left : left + 40] = (220, 30, 30)
    return picture


def told(found: np.ndarray) -> list[int]:
    """The numbers of frames [T, h, w, 3] of `dancer`, each by the pixels of its left border."""
    return np.rint((found[:, :, :4].mean((1, 2, 3)) - 30) / 3).astype(int).tolist()


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("finder") / "red.py"
    path.write_text(RED_FINDER)
    return f"{path}:Red"


def made(folder: Path, stamps: list[int], finder: str, **rules: Any) -> tuple[Store, Summary]:
    path = stamped(folder / "video.ts", stamps, dancer)
    policy = Policy(size=(96, 64), min_frames=8, margin=0.3, **rules)
    summary = build(path, str(folder / "store"), policy=policy, layers={}, workers=0, finder=finder)
    return open_store(str(folder / "store")), summary


def stored(store: Store, clip: Clip) -> list[int]:
    return told(store.read_arrays("frames", "frames", clip)["frames"])


def rejected(summary: Summary) -> list[tuple[str, int]]:
    return [(r["code"], r["frames"]) for r in summary.rejects]


@pytest.mark.parametrize(("fps", "step"), [(None, 1), (10.0, 3), (20.0, 1.5)])
def test_a_build_goes_over_a_step_back(tmp_path: Path, red: str, fps: float | None, step: float) -> None:
    store, summary = made(tmp_path, grid(30) + grid(30, 2 * STEP), red, fps=fps)
    (clip,) = store.clips
    numbers = np.floor(np.arange(60 / step) * step).astype(int).tolist()
    assert stored(store, clip) == numbers and rejected(summary) == []
    assert clip.fps == pytest.approx(fps or 30, rel=1e-3)
    assert summary.frames == {"decoded": 60, "kept": len(numbers), "refused": 0, "resampled": 60 - len(numbers)}
    looked = np.diff(store.boxes(clip).pts) / 90000
    assert len(looked) >= 9 and looked.max() < 0.25


def test_what_is_read_again_is_the_same(tmp_path: Path, red: str) -> None:
    """Repair, layers from the source, and files of other tools for the frames of the video."""
    store, summary = made(tmp_path, grid(20) + [FAR] + grid(40)[21:] + grid(20, 5 * STEP), red)
    (note,) = summary.notes
    assert note.endswith("1 frame(s) whose time stamp lies far from those of its neighbours are left out")
    (clip,) = store.clips
    numbers = [n for n in range(60) if n != 20]
    assert stored(store, clip) == numbers
    assert told(read_native(clip, (192, 128), times=store.config["policy"]["times"])) == numbers
    before = digests(tmp_path / "store" / "frames")
    (tmp_path / "store" / "frames" / "shard-00000.tar").unlink()
    assert repair(store, list(verify(store)), workers=0) == []
    assert digests(tmp_path / "store" / "frames") == before
    (tmp_path / "poses").mkdir()
    for n in range(60):
        points = [v for joint in range(25) for v in (70.0 + joint, 70.0 + 5 * joint, 0.3 + 0.01 * n)]
        name = tmp_path / "poses" / f"video_{n:012d}_keypoints.json"
        name.write_text(json.dumps({"people": [{"pose_keypoints_2d": points}]}))
    layer = import_layer(store.url, "pose", tmp_path / "poses", form="openpose", workers=0)
    store = open_store(store.url)
    found = store.read_arrays(f"layers/pose/{layer.id}", "pose", clip)["keypoints"]
    assert np.rint((found[:, 0, 2] - 0.3) / 0.01).tolist() == numbers


def test_a_clip_ends_where_the_recording_pauses(tmp_path: Path, red: str) -> None:
    store, summary = made(tmp_path, grid(30) + grid(6, 60 * STEP) + grid(24, 100 * STEP), red)
    assert [stored(store, clip) for clip in store.clips] == [list(range(30)), list(range(36, 60))]
    assert [clip.fps for clip in store.clips] == [30, 30]
    assert rejected(summary) == [("time-gap", 6)] and summary.frames["kept"] == 54


def test_an_outlier_at_the_end_is_refused_with_a_code(tmp_path: Path, red: str) -> None:
    """No frame comes after it to tell it from a pause."""
    store, summary = made(tmp_path, [*grid(59), FAR], red)
    assert [stored(store, clip) for clip in store.clips] == [list(range(59))]
    assert rejected(summary) == [("time-gap", 1)] and store.clips[0].fps == 30


def test_a_short_pause_or_a_low_rate_is_none(tmp_path: Path, red: str) -> None:
    short = grid(30) + grid(30, 10 * STEP + 44 * STEP)  # 0.5 s from frame to frame
    (clip,) = made(tmp_path, short, red)[0].clips
    assert clip.frames == 60 and clip.fps == 30
    slow = [n * 15 * STEP for n in range(20)] + [(n + 2) * 15 * STEP for n in range(20, 40)]
    (tmp_path / "slow").mkdir()
    (clip,) = made(tmp_path / "slow", slow, red)[0].clips  # a median step is 0.5 s, the longest 1.5 s
    assert clip.frames == 40 and clip.fps == 2


def test_stores_without_the_rule_keep_pauses_in_clips(tmp_path: Path, red: str) -> None:
    stamps = grid(30) + grid(30, 100 * STEP)
    (clip,) = made(tmp_path, stamps, red, max_gap=None)[0].clips
    assert clip.frames == 60 and clip.fps == 30
    (tmp_path / "old").mkdir()
    store, _ = made(tmp_path / "old", stamps, red, max_gap=None, times=None)
    assert store.clips[0].fps == pytest.approx(59 / (119 / 30), abs=1e-3)  # a mean
    assert not {"times", "max_gap"} & set(store.config["policy"])


def test_the_option(tmp_path: Path, red: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = stamped(tmp_path / "video.ts", grid(30) + grid(30, 100 * STEP), dancer)
    options = ["--finder", red, "--no-layers", "--workers", "0", "--min-frames", "8"]
    for gap, clips in (("none", 1), ("5", 1), ("1", 2)):
        cli.run(["build", str(path), "--out", str(tmp_path / gap), "--max-gap", gap, *options])
        assert len(open_store(str(tmp_path / gap)).clips) == clips
    assert cli.run(["build", str(path), "--out", str(tmp_path / "bad"), "--max-gap", "soon", *options]) == 2
    assert "--max-gap takes seconds" in capsys.readouterr().err
    for rule, says in (("max_gap=0", "max_gap has to be positive"), ("times=old", "times are 'continued' or None")):
        assert cli.run(["build", str(path), "--out", str(tmp_path / "bad"), "--rule", rule, *options]) == 2
        assert says in " ".join(capsys.readouterr().err.split())
