"""Files in a child give what they give here, and their decoders' ends name them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from remot_data import media
from remot_data.assets import fetch
from remot_data.media import VideoError, in_child, sandbox
from remot_data.media.sandbox import ChildError
from tests import bad_decoders

pytestmark = pytest.mark.slow  # a child process each


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    media.cut(fetch("sample-cam02"), path, 0.0, 0.8)
    return path


def test_what_a_video_is_and_its_frames_are_the_same(clip):
    probe = media.probe(clip)
    assert in_child.probe(clip) == probe
    start = probe.first_pts + 10 * 512
    wanted = [pts for pts, _ in media.read(clip)][3:9:2]
    crop = media.round_crop((-20.0, 30.0, 300.0, 400.0), probe)
    for options in ({}, {"crop": crop, "size": (128, 96)}, {"start_pts": start, "size": (64, 64)}, {"only": wanted}):
        pairs = list(zip(in_child.read(clip, **options), media.read(clip, **options), strict=True))
        assert len(pairs) > 2
        for (pts, frame), (real_pts, real) in pairs:
            assert pts == real_pts and frame.dtype == np.uint8 and frame.flags.writeable
            np.testing.assert_array_equal(frame, real)
    np.testing.assert_array_equal(in_child.first_frame(clip), next(iter(media.read(clip)))[1])


def test_a_folder_of_pictures_is_a_video_there_too(tmp_path):
    for t in range(3):
        cv2.imwrite(str(tmp_path / f"{t}.png"), np.full((20, 30, 3), 50 * t, np.uint8))
    assert in_child.probe(tmp_path, 12.5) == media.probe(tmp_path, 12.5)
    assert [(pts, int(frame.mean())) for pts, frame in in_child.read(tmp_path)] == [(0, 0), (1, 50), (2, 100)]


def test_an_image_is_turned_upright_and_anything_else_is_none(tmp_path, clip):
    image = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    np.testing.assert_array_equal(in_child.image(tmp_path / "a.png").pixels, image[..., ::-1])
    assert in_child.image(clip) is None
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(VideoError, match="b.png is a damaged image"):
        in_child.image(tmp_path / "b.png")


def test_sound_is_cut_and_copied_as_here(tmp_path, clip):
    for name, module in (("here", media), ("there", in_child)):
        module.cut(clip, tmp_path / f"{name}.mp4", 0.2, 0.6)
        module.mux_audio(clip, tmp_path / f"{name}.mp4", tmp_path / f"{name}.mkv")
    assert (tmp_path / "here.mp4").read_bytes() == (tmp_path / "there.mp4").read_bytes()
    assert media.probe(tmp_path / "here.mkv") == media.probe(tmp_path / "there.mkv")
    with media.VideoWriter(tmp_path / "silent.mp4", 25, (32, 32)) as out:
        out.write(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ChildError, match=r"silent.mp4: ValueError: .* has no sound to copy"):
        in_child.mux_audio(clip, tmp_path / "silent.mp4", tmp_path / "loud.mp4")


def test_errors_and_warnings_are_those_of_reading_here(tmp_path, clip, caplog):
    (tmp_path / "text.mp4").write_text("no video")
    for work in (in_child.probe, in_child.first_frame, lambda path: list(in_child.read(path))):
        with pytest.raises(VideoError, match="text.mp4: Invalid data") as caught:
            work(tmp_path / "text.mp4")
        assert caught.value.code == "unreadable"
    data = bytearray(clip.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = b"\x55" * 2000
    (tmp_path / "damaged.mp4").write_bytes(data)
    real = [pts for pts, _ in media.read(tmp_path / "damaged.mp4")]
    said = [record.getMessage() for record in caplog.records]
    assert len(real) < media.probe(clip).frames and "damaged frame(s) are left out" in said[-1]
    caplog.clear()
    assert [pts for pts, _ in in_child.read(tmp_path / "damaged.mp4")] == real
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("remot_data.media.frames", said[-1])]


def test_the_end_of_a_child_names_the_file(clip, monkeypatch):
    monkeypatch.setattr(sandbox, "call", bad_decoders.taken("working", "dies"))
    with pytest.raises(ChildError, match=r"^crashed: .*a.mp4: .*SIGABRT; its last words: the decoder: a bad block"):
        in_child.probe(clip)
    monkeypatch.setattr(sandbox, "call", bad_decoders.taken("frames", "hangs"))
    monkeypatch.setattr(in_child, "READING", sandbox.Limits(stall=0.5))
    with pytest.raises(ChildError, match="^timeout: .*a.mp4: no sign of life for 0.5 s"):
        list(in_child.read(clip))


def test_who_reads_takes_as_long_as_it_likes_and_closing_ends_the_child(clip):
    assert in_child.READING.total == float("inf")
    with closing(in_child.read(clip)) as found:
        next(found)
        (busy,) = sandbox._the_keeper()._busy
    assert not busy.is_alive() and not sandbox._the_keeper()._busy
