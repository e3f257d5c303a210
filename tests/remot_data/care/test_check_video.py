"""An ffmpeg that is absent, no ffmpeg or lacks something; decoders that are missing or give wrong frames."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from remot_data import media
from remot_data.care import check_video
from tests.remot_data.care.conftest import by_name, one


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REMOT_FFMPEG", str(tmp_path / "ffmpeg"))


def _program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_without_ffmpeg_it_says_how_to_get_one(no_ffmpeg: None) -> None:
    finding = one(check_video._ffmpeg(None))
    assert finding.state == "bad" and "imageio-ffmpeg" in finding.remedy and "REMOT_FFMPEG" in finding.remedy
    assert "is no program" in finding.detail
    written = one(check_video._writing(None))
    assert written.state == "bad" and "is no program" in written.detail


def test_it_says_that_the_ffmpeg_is_the_carried_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REMOT_FFMPEG", raising=False)
    finding = one(check_video._ffmpeg(None))
    assert finding.state == "ok" and "imageio-ffmpeg" in finding.detail and "carries" in finding.detail
    assert media.carried_ffmpeg() in finding.detail


def test_a_chosen_ffmpeg_with_all_that_is_needed_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOT_FFMPEG", media.carried_ffmpeg())
    finding = one(check_video._ffmpeg(None))
    assert finding.state == "ok" and "chosen by REMOT_FFMPEG" in finding.detail


@pytest.mark.parametrize("word, lost", [
    ("passthrough", "no video can be written"), ("libx264", "no video can be written"), ("aac", "a cut with sound"),
])  # fmt: skip
def test_it_says_what_a_chosen_ffmpeg_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, lost: str
) -> None:
    refuse = f'for word; do [ "$word" = {word} ] && exit 1; done\nexec {shlex.quote(media.carried_ffmpeg())} "$@"'
    chosen = _program(tmp_path / "other", refuse)
    monkeypatch.setenv("REMOT_FFMPEG", str(chosen))
    finding = one(check_video._ffmpeg(None))
    assert finding.state == "warn" and "unset REMOT_FFMPEG" in finding.remedy
    assert str(chosen) in finding.detail and lost in finding.detail.split("it lacks")[1]
    assert len(re.findall(r"\((no|a cut)", finding.detail)) == 1


def test_without_ffmpeg_the_decoders_are_looked_up_and_said_to_be_untried(no_ffmpeg: None) -> None:
    found = list(check_video._decoders(None))
    assert [f.state for f in found] == ["ok"] * 4 and all("not tried" in f.detail for f in found)


def test_another_program_called_ffmpeg_is_no_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOT_FFMPEG", str(_program(tmp_path / "ffmpeg", "echo hello")))
    finding = one(check_video._ffmpeg(None))
    assert finding.state == "bad" and "hello" in finding.detail


def test_a_missing_decoder_is_found(no_ffmpeg: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_video, "_ENCODERS", {"h264": {}, "no-such-codec": {}})
    good, missing = check_video._decoders(None)
    assert good.state == "ok" and missing.state == "warn" and "no decoder" in missing.detail


def test_frames_are_told_apart() -> None:
    drawn = check_video._drawn()
    right = list(enumerate(drawn))
    assert check_video._difference(right, drawn) is None
    noisy = [(t, np.clip(frame.astype(int) + 3, 0, 255).astype(np.uint8)) for t, frame in right]
    assert check_video._difference(noisy, drawn) is None
    assert "9 of 10 frames" in check_video._difference(right[1:], drawn)
    assert "frame 3 is not the one" in check_video._difference([*right[:3], (3, drawn[4]), *right[4:]], drawn)
    assert "frame 0 is not the one" in check_video._difference([(t, 255 - frame) for t, frame in right], drawn)
    assert "do not increase" in check_video._difference([(0, frame) for frame in drawn], drawn)


def test_a_decoder_that_gives_wrong_frames_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    read = media.read
    monkeypatch.setattr(media, "read", lambda path, **options: list(read(path, **options))[1:])
    found = by_name(check_video._decoders(None))
    assert found["decoding h264"].state == "bad" and "9 of 10" in found["decoding h264"].detail
    assert found["decoding vp9"].state == "warn"
    assert one(check_video._writing(None)).state == "bad"


def test_decord_that_disagrees_is_not_to_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_video.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(media, "decord_agrees", lambda path: False)
    finding = by_name(check_video._writing(None))["decord"]
    assert finding.state == "warn" and "pyav" in finding.remedy
    monkeypatch.setattr(check_video.importlib.util, "find_spec", lambda name: None)
    assert by_name(check_video._writing(None))["decord"].state == "ok"
