"""Debian's ffmpeg 5.1 on the PATH was preferred to the carried one: it doubled frames, and wrote other bytes.

Now another ffmpeg runs only where `REMOT_FFMPEG` names it, and no command leaves the frame rate mode to ffmpeg.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import numpy as np
import pytest

from remot_data import media


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another ffmpeg, first on the PATH: it writes down what it was asked, and adds a line to what it writes."""
    monkeypatch.delenv("REMOT_FFMPEG", raising=False)
    folder = tmp_path / "bin"
    folder.mkdir()
    asked, carried = shlex.quote(str(tmp_path / "asked")), shlex.quote(media.carried_ffmpeg())
    script = (
        f'#!/bin/sh\necho "$@" >> {asked}\n{carried} "$@" || exit\n'
        'for word; do case "$word" in file:*) out="${word#file:}" ;; esac; done\necho other >> "$out"\n'
    )
    (folder / "ffmpeg").write_text(script)
    (folder / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder / "ffmpeg"


def _written(path: Path) -> bytes:
    with media.VideoWriter(path, 30, (64, 96)) as writer:
        for level in range(0, 240, 20):
            writer.write(np.full((64, 96, 3), level, np.uint8))
    return path.read_bytes()


def test_another_ffmpeg_on_the_path_changes_neither_program_nor_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: Path
) -> None:
    beside = _written(tmp_path / "a.mp4")
    assert media.ffmpeg_binary() == media.carried_ffmpeg()
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(other))  # imageio-ffmpeg's own way to another one
    assert media.ffmpeg_binary() == media.carried_ffmpeg() and _written(tmp_path / "b.mp4") == beside
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _written(tmp_path / "c.mp4") == beside
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("by_name", [True, False])
def test_a_chosen_ffmpeg_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: Path, by_name: bool) -> None:
    plain = _written(tmp_path / "a.mp4")
    monkeypatch.setenv("REMOT_FFMPEG", "ffmpeg" if by_name else str(other))
    assert media.ffmpeg_binary() == str(other)
    assert _written(tmp_path / "b.mp4") == plain + b"other\n"
    monkeypatch.setenv("REMOT_FFMPEG", "")
    assert _written(tmp_path / "c.mp4") == plain


def test_every_command_says_its_frame_rate_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: Path) -> None:
    monkeypatch.setenv("REMOT_FFMPEG", str(other))
    a, b, out = tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "out.mp4"
    _written(a)
    media.cut(a, b, 0.1, 0.3)
    media.join([a, b], out)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == 3 and all(" -fps_mode passthrough " in line for line in asked)
