"""A transfer keeps time: pictures of a variable-rate driving video came at its mean rate, up to 1.5 s from their sound.

Made: a driving video of 60, then of 15 frames a second, whose grey tells the frame and whose sound clicks now and then.
Right: every frame has the time that it has in the driving video, whole and in part, and each click comes when it did.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from remot_data import media  # noqa: E402
from remot_model.generating.alignment import Steady  # noqa: E402
from remot_model.transferring import driving as driving_video  # noqa: E402
from remot_model.transferring import transfer, views  # noqa: E402
from tests.known_issues.test_times import grid, stamped  # noqa: E402
from tests.remot_data.media.test_media import encode, ffmpeg, number  # noqa: E402
from tests.remot_model.conftest import files, one_thread, run, seers  # noqa: E402, F401
from tests.remot_model.red_people import picture  # noqa: E402

pytestmark = [pytest.mark.usefixtures("seers", "one_thread"), pytest.mark.slow]

FAST, SLOW = 30, 24  # frames of 1/60 s, then of 1/15 s
TIMES = np.array([n / 60 for n in range(FAST)] + [FAST / 60 + n / 15 for n in range(SLOW)])
CLICKS = np.array([0.0, 0.4, 1.05, 1.35, 1.9])  # seconds, at uneven distances
SOUND = f"0.8*sin(2*PI*1000*t)*({'+'.join(f'between(t,{t},{t + 0.05})' for t in CLICKS)})".replace(",", "\\,")


def drawn(n: int) -> np.ndarray:
    return picture(40 + n, colour=(40 + 3 * n,) * 3)


def phone(path: Path, stretch: str = f"if(lt(N\\,{FAST})\\,N*256\\,{FAST}*256+(N-{FAST})*1024)") -> Path:
    data = b"".join(drawn(n).tobytes() for n in range(len(TIMES)))
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "160x120", "-r", "30", "-i", "-"]
    sound = ["-f", "lavfi", "-i", f"aevalsrc={SOUND}:s=16000:d=4"]
    codecs = [
        "-c:v",
        "libx264",
        "-crf",
        "10",
        "-bf",
        "2",
        "-g",
        "12",
        "-pix_fmt",
        "yuv420p",
        "-c:a",
        "aac",
        "-shortest",
    ]
    tune = ["-vf", f"settb=1/15360,setpts={stretch}", "-fps_mode", "passthrough", "-enc_time_base:v", "1/15360"]
    ffmpeg(*raw, *sound, *tune, *codecs, path, data=data)
    return path


def shown(path: Path) -> np.ndarray:
    """When each frame is shown, in seconds."""
    found = media.probe(path)
    return np.array([pts for pts, _ in media.read(path, size=(16, 16))]) * found.time_base[0] / found.time_base[1]


def grey(frame: np.ndarray) -> float:
    return float(frame[:, :1].mean())


def clicks(path: Path) -> np.ndarray:
    """When the sound begins to click, in seconds on the clock of the pictures."""
    heard: list[tuple[float, float]] = []
    with av.open(str(path)) as file:
        for frame in file.decode(audio=0):
            samples = np.abs(frame.to_ndarray().astype(float)).max(0)
            at = float(frame.pts * frame.time_base) + np.arange(len(samples)) / frame.sample_rate
            heard += zip(at[samples > 0.2], samples[samples > 0.2], strict=True)
    times = np.array([t for t, _ in heard])
    return times[np.r_[True, np.diff(times) > 0.2]]


def made(run: Any, files: SimpleNamespace, driving: Path, out: Path, **options: Any) -> tuple[dict, np.ndarray]:  # noqa: F811
    summary = transfer.transfer(run, files.source, driving, out, **options)
    times = shown(out)
    assert summary["frames"] == len(times) and times[0] == pytest.approx(0, abs=2e-3)
    return summary, times


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("span", [(None, None), (0.3, None), (1.27, None), (0.2, 1.0), (1.0, 1.6)])
def test_pictures_stay_with_their_sound(run, files, tmp_path, monkeypatch, kind, span):  # noqa: F811
    monkeypatch.setattr(driving_video, "_CHUNK", 8)
    start, end = (span[0] or 0.0) - 1e-6, (span[1] or 9.0) - 1e-6
    driving = phone(tmp_path / f"phone.{kind}")
    there = (start <= TIMES) & (end > TIMES)
    expected = TIMES[there] - TIMES[there][0]
    out = files.out.with_suffix(".mkv" if kind == "mkv" else ".mp4")
    summary, times = made(run, files, driving, out, start=span[0], end=span[1], save=("driving",))
    np.testing.assert_allclose(times, expected, atol=2e-3)
    seen = out.with_name(f"result.driving{out.suffix}")
    np.testing.assert_allclose(shown(seen), expected, atol=2e-3)
    np.testing.assert_allclose([grey(frame) for _, frame in media.read(seen)], 40 + 3 * np.flatnonzero(there), atol=2.9)
    lasts = expected[-1]
    assert summary["sound"] and media.probe(out).seconds == pytest.approx(2 * lasts - expected[-2], abs=0.03)
    wanted = [t for t in CLICKS - TIMES[there][0] if 0.03 < t < lasts - 0.03]
    found = [t for t in clicks(out) if 0.03 < t < lasts - 0.03]
    np.testing.assert_allclose(found, wanted, atol=1 / 60)
    varies = len(set(np.diff(expected).round(3))) > 1
    assert len([note for note in summary["notes"] if "frame rate varies" in note]) == varies
    assert summary["fps"] == pytest.approx((len(times) - 1) / times[-1], rel=1e-3)


def test_a_rate_that_changes_by_little_is_kept_too(run, files, tmp_path):  # noqa: F811
    """At its mean rate no step is off by more than a fifth, and the middle of the video by 0.15 s."""
    driving = phone(tmp_path / "phone.mp4", "if(lt(N\\,27)\\,N*512\\,27*512+(N-27)*680)")
    _, times = made(run, files, driving, files.out)
    np.testing.assert_allclose(times, shown(driving) - shown(driving)[0], atol=1e-3)
    assert np.abs(np.diff(times) - np.diff(times).mean()).max() < 0.2 * np.diff(times).mean()


def test_small_unrest_is_evened_out(run, files, tmp_path):  # noqa: F811
    driving = phone(tmp_path / "phone.mp4", "N*512+120*mod(N\\,2)")
    summary, times = made(run, files, driving, files.out)
    np.testing.assert_allclose(np.diff(times), 1 / 30, atol=1e-3)
    assert not any("varies" in note for note in summary["notes"])


def test_stamps_that_jump_back_go_on(run, files, tmp_path):  # noqa: F811
    driving = stamped(tmp_path / "joined.ts", grid(20) + grid(20, 2 * 3000), drawn)
    summary, times = made(run, files, driving, files.out, start=0.5)
    assert summary["frames"] == 25
    np.testing.assert_allclose(np.diff(times), 1 / 30, atol=1e-3)


def test_sound_goes_on_with_joined_recordings(run, files, tmp_path):  # noqa: F811
    part = phone(tmp_path / "part.ts")
    driving = tmp_path / "joined.ts"
    driving.write_bytes(part.read_bytes() * 2)
    again = TIMES[-1] + 1 / 15  # seconds at which the second begins
    for start in (None, 1.0):
        _, times = made(run, files, driving, files.out, start=start)
        expected = np.r_[TIMES, TIMES + again]
        expected = expected[expected >= (start or 0) - 1e-6]
        np.testing.assert_allclose(times, expected - expected[0], atol=2e-3)
        heard, wanted = clicks(files.out), np.r_[CLICKS, CLICKS[1:] + again] - expected[0]
        np.testing.assert_allclose(heard[heard > 0.03], wanted[wanted > 0.03], atol=1 / 60)


def test_an_interrupted_transfer_keeps_its_times(run, files, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(driving_video, "_CHUNK", 8)
    driving = phone(tmp_path / "phone.mp4")
    real, calls = views.Renderer.show, []

    def stops(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(views.Renderer, "show", stops)
    with pytest.raises(KeyboardInterrupt):
        transfer.transfer(run, files.source, driving, files.out, gam="steady")
    summary, times = made(run, files, driving, files.out, gam="steady")
    assert summary["resumed"] == 24
    np.testing.assert_allclose(times, TIMES, atol=1e-3)


@pytest.mark.parametrize("delay", [0, 2])
def test_pictures_are_given_other_times(tmp_path, delay):
    x264 = ["-c:v", "libx264", "-bf", str(delay), "-g", "8", "-pix_fmt", "yuv420p"]
    encode(tmp_path / "even.mp4", 20, x264)
    pts = np.cumsum([0, *[1000, 3000, 500, 9000] * 5])[:20].tolist()
    for suffix in (".mp4", ".mkv", ".mov"):
        out = tmp_path / f"uneven{suffix}"
        media.retime(tmp_path / "even.mp4", out, pts, (1, 30000))
        assert [number(frame) for _, frame in media.read(out)] == list(range(20))
        np.testing.assert_allclose(shown(out) - shown(out)[0], np.array(pts) / 30000, atol=1.1e-3)
        assert media.probe(out).first_pts == 0
    for wrong in (pts[:-1], [*pts[:-1], 0]):
        with pytest.raises(ValueError, match="times that increase are asked for, of 20 frames"):
            media.retime(tmp_path / "even.mp4", tmp_path / "wrong.mp4", wrong, (1, 30000))
    with pytest.raises(media.EncodeError, match="cannot be written"):
        media.retime(tmp_path / "even.mp4", tmp_path / "absent" / "out.mp4", pts, (1, 30000))
    assert not (tmp_path / "wrong.mp4").exists() and not list(tmp_path.glob(".*part*"))


def body(scale: float, x: float) -> np.ndarray:
    points = np.zeros((25, 3), np.float32)
    for index, height in ((0, 10), (1, 20), (8, 40), (9, 40), (10, 60), (11, 80)):
        points[index] = (50 * scale + x, height * scale, 1)
    return points


def test_the_steady_gam_goes_by_time():
    """Someone who grows and runs is followed alike at 60 frames a second, at 15, and where the rate changes."""
    found = {}
    for name, times in {"fast": np.arange(121) / 60, "slow": np.arange(31) / 15, "both": TIMES}.items():
        steady = Steady(body(1, 0), "body25", 30)
        start = steady(body(1, 0)[None], np.array([-1.0]))
        assert start[0] == 1
        scale, _ = steady(np.stack([body(1.5, 20 * t) for t in times]), times)
        found[name] = np.interp([0.5, 1.0, 1.5], times, np.log(scale / 1.5))
    # The scale's way to its goal has a time constant of half a second; the first step is of one second.
    left = np.log(1 / 1.5) * np.exp(-2)
    for name in found:
        np.testing.assert_allclose(found[name], left * np.exp(-np.array([0.5, 1.0, 1.5]) / 0.5), rtol=0.03)
