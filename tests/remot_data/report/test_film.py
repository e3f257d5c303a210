"""A clip as a video: its layers beside the frames, at its own times."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from remot_data import media
from remot_data.cli.commands import invoke
from remot_data.report.film import write_film
from remot_data.store import Store, StoreError, open_store


def test_layers_stand_beside_the_frames(dancers: Store, tmp_path: Path) -> None:
    out, clip = tmp_path / "clip.mp4", dancers.clips[0]
    said = write_film(dancers, clip.id, out, layers=["parsing", "background"])
    assert "20 frames: frames, parsing (" in said and "background (" in said
    shown = np.stack([frame for _, frame in media.read(out)])
    assert shown.shape == (20, 64, 3 * 48, 3)
    frames = dancers.read_arrays("frames", "frames", clip)["frames"]
    assert np.abs(shown[:, :, :48].astype(int) - frames).mean() < 12
    assert shown[:, :, 96:].std(0).mean() < 2, "the background is one picture"


def test_it_has_the_times_of_the_clip(own_dancers: Store, tmp_path: Path) -> None:
    first = own_dancers.clips[0]
    pts = np.cumsum([0, *([1, 3] * 10)][:20]) + 7
    own_dancers.write_clips(
        [dataclasses.replace(c, pts=pts, time_base=(1, 30)) if c is first else c for c in own_dancers.clips]
    )
    out = tmp_path / "clip.mp4"
    assert invoke(["view", own_dancers.url, first.id, "--out", str(out), "--layer", "pose"]) == 0
    found = media.probe(out)
    seconds = np.array([p for p, _ in media.read(out)]) * found.time_base[0] / found.time_base[1]
    assert np.allclose(seconds - seconds[0], (pts - pts[0]) / 30, atol=1e-3)


def test_what_is_not_there_is_named(dancers: Store, tmp_path: Path) -> None:
    for clip, layers, words in (
        ("nobody", None, "no single clip called 'nobody'; there is"),
        (dancers.clips[0].id, ["hands"], "has no hands layer; it has"),
        (dancers.clips[0].id, ["pose=none"], "no single pose layer called 'none'"),
        (dancers.clips[0].id, ["scores"], "scores layers have no picture"),
    ):
        with pytest.raises(StoreError, match=words):
            write_film(dancers, clip, tmp_path / "clip.mp4", layers=layers)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_sound_of_the_source_is_that_of_the_clip(own_dancers: Store, tmp_path: Path) -> None:
    import subprocess

    source = tmp_path / "source.mp4"
    make = ["-f", "lavfi", "-i", "testsrc=d=4:r=30:s=64x48", "-f", "lavfi", "-i", "sine=d=4", "-shortest", str(source)]
    subprocess.run([media.ffmpeg_binary(), "-loglevel", "error", *make], check=True)
    first = own_dancers.clips[0]
    changes = {"path": str(source), "pts": np.arange(60, 80), "time_base": (1, 30)}
    own_dancers.write_clips([dataclasses.replace(c, **changes) if c is first else c for c in own_dancers.clips])
    store = open_store(own_dancers.url)
    assert "and sound" in write_film(store, first.id, tmp_path / "clip.mp4", layers=[])
    assert media.probe(tmp_path / "clip.mp4").has_audio
    assert "and sound" not in write_film(store, first.id, tmp_path / "quiet.mp4", layers=[], sound=False)
