"""Videos: every frame carries its number in its pixels, so that the right frame can be told from a near one."""

from __future__ import annotations

import gc
import importlib.util
import pickle
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remot_data import media
from remot_data.media import EncodeError, VideoError, VideoWriter, frames, reading
from remot_data.records import HW, XYWH

WIDTH, HEIGHT, BLOCK, BITS = 192, 128, 32, 8
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "12", "-bf", "3", "-g", "12", "-pix_fmt", "yuv420p"]
SOUND = ["-f", "lavfi", "-i", "sine=frequency=440:duration=3"]


def numbered(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A frame with `number` in binary, as two rows of white and black blocks over a colour gradient."""
    y, x = np.mgrid[:height, :width]
    frame = np.stack([x * 255 // width, y * 255 // height, 128 + 0 * x], -1).astype(np.uint8)
    for bit in range(BITS):
        top, left = BLOCK * (bit // 4), BLOCK * (bit % 4)
        frame[top : top + BLOCK, left : left + BLOCK] = 255 * (number >> bit & 1)
    return frame


def number(frame: np.ndarray) -> int:
    means = frame[: 2 * BLOCK, : 4 * BLOCK].reshape(2, BLOCK, 4, BLOCK, 3).mean((1, 3, 4)).reshape(-1)
    return sum(1 << bit for bit, mean in enumerate(means) if mean > 128)


def numbers(path: Path, **options: object) -> list[int]:
    return [number(frame) for _, frame in media.read(path, **options)]


def ffmpeg(*arguments: object, data: bytes | None = None) -> bytes:
    command = [media.carried_ffmpeg(), "-hide_banner", "-v", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True, timeout=60)
    if done.returncode:
        text = done.stderr.decode(errors="replace")
        if "Unknown encoder" in text or "Encoder not found" in text:
            pytest.skip(f"this ffmpeg lacks an encoder: {text.strip()}")
        raise AssertionError(text)
    return done.stdout


def encode(path: Path, count: int, options: list[str], shape: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    data = b"".join(numbered(i, *shape).tobytes() for i in range(count))
    size = f"{shape[0]}x{shape[1]}"
    ffmpeg("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", "30", "-i", "-", *options, path, data=data)
    return path


def reference(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The frames as the ffmpeg program shows them: uint8 [N, H, W, 3]."""
    flags = ["-sws_flags", "bicubic+accurate_rnd+full_chroma_int"]
    out = ffmpeg("-i", path, *flags, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(out, np.uint8).reshape(-1, *size, 3)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9)))


# Each gives a file and the numbers of the frames it shows.
def _constant(folder: Path) -> tuple[Path, list[int]]:
    return encode(folder / "constant.mp4", 90, X264), list(range(90))


def _matroska(folder: Path) -> tuple[Path, list[int]]:
    return encode(folder / "matroska.mkv", 90, X264), list(range(90))


def _hevc(folder: Path) -> tuple[Path, list[int]]:
    options = ["-c:v", "libx265", "-preset", "ultrafast", "-crf", "16", "-x265-params", "log-level=none:keyint=12"]
    return encode(folder / "hevc.mp4", 60, [*options, "-pix_fmt", "yuv420p"]), list(range(60))


def _ten_bit(folder: Path) -> tuple[Path, list[int]]:
    return encode(folder / "ten.mp4", 40, [*X264[:-1], "yuv420p10le"]), list(range(40))


def _vp9(folder: Path) -> tuple[Path, list[int]]:
    options = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-crf", "20", "-b:v", "0", "-g", "12"]
    options += ["-pix_fmt", "yuv420p"]
    return encode(folder / "vp9.webm", 60, options), list(range(60))


def _variable(folder: Path) -> tuple[Path, list[int]]:
    keep = r"select=not(mod(n\,2))+gt(n\,40)*not(mod(n\,5))"
    path = encode(folder / "variable.mp4", 90, ["-vf", keep, "-fps_mode", "vfr", *X264])
    return path, [n for n in range(90) if n % 2 == 0 or (n > 40 and n % 5 == 0)]


def _edit_list(folder: Path) -> tuple[Path, list[int]]:
    whole = encode(folder / "whole.mp4", 90, X264)
    path = folder / "edited.mp4"
    ffmpeg("-ss", "0.55", "-i", whole, "-c", "copy", path)
    return path, list(range(17, 90))


def _open_groups(folder: Path) -> tuple[Path, list[int]]:
    options = [*X264, "-x264-params", "open-gop=1:scenecut=0", "-f", "mpegts"]
    return encode(folder / "open.ts", 90, options), list(range(90))


def _no_pts(folder: Path) -> tuple[Path, list[int]]:
    return encode(folder / "old.avi", 60, ["-c:v", "mpeg4", "-q:v", "2", "-bf", "2"]), list(range(60))


def _raw(folder: Path) -> tuple[Path, list[int]]:
    return encode(folder / "raw.h264", 60, X264), list(range(60))


KINDS = [_constant, _matroska, _hevc, _ten_bit, _vp9, _variable, _edit_list, _open_groups, _no_pts, _raw]
Made = Callable[[Callable[[Path], tuple[Path, list[int]]]], tuple[Path, list[int]]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Makes each kind of file once."""
    done: dict[str, tuple[Path, list[int]]] = {}

    def get(kind: Callable[[Path], tuple[Path, list[int]]]) -> tuple[Path, list[int]]:
        if kind.__name__ not in done:
            done[kind.__name__] = kind(tmp_path_factory.mktemp("videos"))
        return done[kind.__name__]

    return get


@pytest.mark.parametrize("kind", KINDS)
def test_reading_in_order_gives_every_frame_once(made: Made, kind: Callable) -> None:
    path, expected = made(kind)
    frames = list(media.read(path))
    assert [number(frame) for _, frame in frames] == expected
    pts = np.array([p for p, _ in frames])
    assert (np.diff(pts) > 0).all()
    found = media.probe(path)
    assert (found.frames, found.first_pts, found.size) == (len(expected), pts[0], (WIDTH, HEIGHT))
    seconds = (pts - pts[0]) * found.time_base[0] / found.time_base[1]
    rate = 25 if path.suffix == ".h264" else 30  # a raw stream has no times: FFmpeg takes 25 frames a second
    assert np.abs(seconds - (np.array(expected) - expected[0]) / rate).max() < 2e-3
    assert found.fps == pytest.approx((len(expected) - 1) / seconds[-1], rel=1e-3)
    assert found.seconds == pytest.approx(seconds[-1] + 1 / rate, abs=0.04)
    assert not found.has_audio and found.rotation == 0


@pytest.mark.parametrize("kind", KINDS)
def test_reading_from_a_pts_gives_the_frames_of_reading_in_order(made: Made, kind: Callable) -> None:
    path, _ = made(kind)
    frames = list(media.read(path))
    for first in (1, len(frames) // 2 + 1, len(frames) - 7):
        part = list(media.read(path, start_pts=frames[first][0], end_pts=frames[first + 3][0]))
        assert [pts for pts, _ in part] == [pts for pts, _ in frames[first : first + 3]]
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(part, frames[first:], strict=False))


def test_a_late_start_does_not_decode_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "long.mp4", 240, X264)
    decoded = []
    keep = frames.mended
    monkeypatch.setattr(frames, "mended", lambda found, stream: (decoded.append(1) or f for f in keep(found, stream)))
    assert numbers(path, start_pts=200 * 512) == list(range(200, 240))
    assert 40 + 30 <= len(decoded) < 40 + 30 + 3 * 12


def test_only_the_wanted_frames_are_converted(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = made(_constant)
    frames = dict(media.read(path, size=(32, 48)))
    pts = sorted(frames)
    converted = []
    keep = reading._Picture.__call__
    monkeypatch.setattr(reading._Picture, "__call__", lambda self, frame: converted.append(1) or keep(self, frame))
    wanted = [pts[3], pts[40], pts[40] + 1, pts[42]]
    found = dict(media.read(path, only=wanted, size=(32, 48)))
    assert list(found) == [pts[3], pts[40], pts[42]] and len(converted) == 3
    assert all(np.array_equal(frames[p], frame) for p, frame in found.items())
    assert [p for p, _ in media.read(path, only=wanted, start_pts=pts[4], end_pts=pts[42])] == [pts[40]]
    assert list(media.read(path, only=[])) == []


def test_a_frame_is_let_go_when_the_next_one_comes(made: Made) -> None:
    gc.collect()
    gc.disable()
    try:
        for kind in (_constant, _hevc):
            list(media.read(made(kind)[0]))
            media.probe(made(kind)[0])
        left = [type(o).__name__ for o in gc.get_objects() if isinstance(o, av.VideoFrame)]
    finally:
        gc.enable()
    assert left == []


def test_a_range_is_half_open_and_may_lie_between_frames(made: Made) -> None:
    path, _ = made(_constant)
    pts = [p for p, _ in media.read(path)]
    assert numbers(path, start_pts=pts[50] - 1, end_pts=pts[53]) == [50, 51, 52]
    assert numbers(path, start_pts=pts[50] + 1, end_pts=pts[53] + 1) == [51, 52, 53]
    assert numbers(path, start_pts=pts[-1] + 1) == []


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_the_rotation_flag_is_applied(made: Made, tmp_path: Path, angle: int) -> None:
    path = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", angle, "-i", made(_constant)[0], "-t", "0.3", "-c", "copy", path)
    found = media.probe(path)
    assert found.rotation == angle and found.stored_size == (WIDTH, HEIGHT)
    assert found.size == ((WIDTH, HEIGHT) if angle == 180 else (HEIGHT, WIDTH))
    shown = np.array([frame for _, frame in media.read(path)])
    theirs = reference(path, found.size[::-1])
    assert shown.shape == theirs.shape and psnr(shown, theirs) > 45
    crop = media.round_crop((11, 17, 40, 60), found)
    x, y, w, h = map(int, crop)
    part = np.array([frame for _, frame in media.read(path, crop=crop)])
    assert psnr(part[:, 2:-2, 2:-2], shown[:, y + 2 : y + h - 2, x + 2 : x + w - 2]) > 45
    assert next(media.read(path, crop=crop, size=(30, 20)))[1].shape == (30, 20, 3)


@pytest.mark.parametrize("flips", [
    ["-display_hflip"], ["-display_vflip"], ["-display_rotation", 90, "-display_hflip"],
    ["-display_rotation", 270, "-display_hflip"], ["-display_rotation", 90, "-display_vflip"],
])  # fmt: skip
def test_the_mirror_flag_is_applied(made: Made, tmp_path: Path, flips: list[object]) -> None:
    path = tmp_path / "mirrored.mp4"
    ffmpeg(*flips, "-i", made(_constant)[0], "-t", "0.2", "-c", "copy", path)
    found = media.probe(path)
    assert found.mirrored and found.size == ((HEIGHT, WIDTH) if found.rotation % 180 else (WIDTH, HEIGHT))
    shown = np.array([frame for _, frame in media.read(path)])
    theirs = reference(path, found.size[::-1])
    assert shown.shape == theirs.shape and psnr(shown, theirs) > 45
    x, y, w, h = map(int, media.round_crop((11, 17, 40, 60), found))
    part = np.array([frame for _, frame in media.read(path, crop=(x, y, w, h))])
    assert psnr(part[:, 2:-2, 2:-2], shown[:, y + 2 : y + h - 2, x + 2 : x + w - 2]) > 45


def test_pixels_that_are_not_square_are_made_square(tmp_path: Path) -> None:
    path = encode(tmp_path / "wide.mp4", 3, ["-vf", "setsar=4/3", *X264])
    found = media.probe(path)
    assert found.size == (256, 128) and found.stored_size == (192, 128)
    frame = next(media.read(path))[1]
    assert frame.shape == (128, 256, 3)
    stored = reference(path, (HEIGHT, WIDTH))[0]
    assert psnr(frame, cv2.resize(stored, (256, 128), interpolation=cv2.INTER_CUBIC)) > 30
    crop = media.round_crop((100, 20, 61, 50), found)
    assert abs(crop[0] - 100) <= 4 / 3 and next(media.read(path, crop=crop))[1].shape == (50, round(crop[2]), 3)


def test_odd_sizes(tmp_path: Path) -> None:
    path = encode(tmp_path / "odd.mkv", 3, ["-c:v", "ffv1", "-pix_fmt", "yuv420p"], (161, 131))
    assert media.probe(path).size == (161, 131)
    frame = next(media.read(path))[1]
    assert frame.shape == (131, 161, 3) and psnr(frame, reference(path, (131, 161))[0]) > 45
    edge = next(media.read(path, crop=(120, 100, 42, 32)))[1]
    wanted = np.pad(frame, ((0, 1), (0, 1), (0, 0)), mode="edge")[100:, 120:]
    assert edge.shape == (32, 42, 3) and psnr(edge, wanted) > 35


def _photo(tmp_path: Path) -> Path:
    """One frame of sharp, colourful detail (smooth noise, lines) without loss."""
    rng = np.random.default_rng(0)
    frame = cv2.resize(rng.integers(60, 200, (27, 48, 3), np.uint8), (768, 432), interpolation=cv2.INTER_CUBIC)
    frame[::3, :300] = 40
    frame[:, 400:700:5] = 220
    path = tmp_path / "photo.mkv"
    options = ["-c:v", "ffv1", "-pix_fmt", "yuv420p", "-colorspace", "bt709"]
    matrix = ["-vf", "scale=out_color_matrix=bt709:flags=accurate_rnd+full_chroma_int"]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "768x432", "-i", "-"]
    ffmpeg(*raw, *matrix, *options, path, data=frame.tobytes())
    return path


CROPS = [(0, 0, 768, 432), (100, 40, 288, 384), (-60, -40, 384, 512), (600, 100, 300, 400), (-10, -10, 800, 460)]


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("size", [(96, 72), (130, 90)])
def test_crop_and_size_are_an_area_average(tmp_path: Path, crop: XYWH, size: HW) -> None:
    path = _photo(tmp_path)
    whole = next(media.read(path))[1]
    x, y, w, h = map(int, media.round_crop(crop, media.probe(path)))
    wide = np.pad(whole, ((600, 600), (900, 900), (0, 0)), "edge")[600 + y :, 900 + x :][:h, :w]
    exact = cv2.resize(wide.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    found = next(media.read(path, crop=crop, size=size))[1]
    assert found.shape == (*size, 3) and psnr(found, exact) > 38


def test_shrinking_does_not_alias(tmp_path: Path) -> None:
    y, x = np.mgrid[:480, :640]
    stripes = np.repeat((((x + y) % 2) * 255).astype(np.uint8)[..., None], 3, -1)
    path = tmp_path / "stripes.mkv"
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "640x480", "-i", "-"]
    ffmpeg(*raw, "-c:v", "ffv1", "-pix_fmt", "yuv420p", path, data=stripes.tobytes())
    for crop in (None, (64, 32, 360, 440)):
        frame = next(media.read(path, crop=crop, size=(100, 75)))[1].astype(float)
        assert np.abs(frame - 127.5).max() < 12


@pytest.mark.parametrize("matrix, value", [("bt709", "tv"), ("smpte170m", "tv"), ("bt709", "pc")])
@pytest.mark.parametrize("pixels", ["yuv444p", "yuv420p", "yuv411p", "yuv420p10le"])
def test_the_colours_are_those_of_the_file(tmp_path: Path, matrix: str, value: str, pixels: str) -> None:
    frame = np.zeros((63, 96, 3), np.uint8)
    frame[:, :32], frame[:, 32:64], frame[:, 64:] = (220, 40, 30), (30, 200, 60), (40, 60, 210)
    path = tmp_path / "colours.mkv"
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "96x63", "-i", "-"]
    scale = f"scale=out_color_matrix={matrix}:out_range={value}"
    colour = ["-vf", scale, "-pix_fmt", pixels, "-colorspace", matrix, "-color_range", value]
    ffmpeg(*raw, *colour, "-c:v", "ffv1", path, data=frame.tobytes())
    crops = [(0, 0, 96, 64), (-16, 0, 112, 64), (-16, -2, 112, 68), (0, 0, 96, 64)]
    for options in ({}, *({"crop": crop, "size": crop[:1:-1]} for crop in crops)):
        shown = next(media.read(path, **options))[1]
        assert np.abs(shown[2:-2, -88::32].astype(int) - frame[2:3, 8::32]).max() <= 6


def test_pictures_of_an_hdr_video_are_exact_and_have_8_bits(tmp_path: Path) -> None:
    colours = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:hdr10=1:log-level=none"
    options = ["-c:v", "libx265", "-preset", "ultrafast", "-crf", "10", "-x265-params", colours]
    path = encode(tmp_path / "hdr.mp4", 6, [*options, "-pix_fmt", "yuv420p10le"])
    frames = [frame for _, frame in media.read(path)]
    assert [number(frame) for frame in frames] == list(range(6)) and frames[0].dtype == np.uint8


# --- folders of pictures


def _shot(name: str) -> np.ndarray:
    """A picture file as OpenCV reads it, without its EXIF orientation; RGB."""
    return cv2.imread(name, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)[..., ::-1]


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "bmp", "webp"])
def test_a_folder_of_pictures_is_a_video(tmp_path: Path, suffix: str) -> None:
    for i in range(12):
        assert cv2.imwrite(str(tmp_path / f"take 2, {i + 1}.{suffix}"), numbered(i)[..., ::-1])
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_text("not to be seen")
    (tmp_path / "folder.png").mkdir()
    assert media.frame_names(tmp_path) == [f"take 2, {i + 1}.{suffix}" for i in range(12)]
    found = media.probe(tmp_path, fps=29.97)
    assert (found.codec, found.frames, found.size, found.time_base) == ("images", 12, (WIDTH, HEIGHT), (100, 2997))
    assert found.seconds == pytest.approx(12 / 29.97) and media.probe(tmp_path).time_base == (1, 30)
    frames = list(media.read(tmp_path))
    assert [(pts, number(frame)) for pts, frame in frames] == [(i, i) for i in range(12)]
    for (_, frame), name in zip(frames, media.frame_names(tmp_path), strict=True):
        assert psnr(frame, _shot(str(tmp_path / name))) > (33 if suffix == "webp" else 45)
    assert [p for p, _ in media.read(tmp_path, start_pts=3, end_pts=9, only=[2, 5, 8, 9])] == [5, 8]
    small = next(media.read(tmp_path, crop=(32, 0, 96, 64), size=(32, 48)))[1]
    assert psnr(small, cv2.resize(frames[0][1][:64, 32:128], (48, 32), interpolation=cv2.INTER_AREA)) > 38
    assert not media.decord_agrees(tmp_path)


def test_pictures_of_other_kinds_of_pixels_fit_together(tmp_path: Path) -> None:
    colour = numbered(5)
    grey = cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)
    clear = np.concatenate([colour[..., ::-1], np.full((HEIGHT, WIDTH, 1), 7, np.uint8)], -1)
    deep = colour[..., ::-1].astype(np.uint16) * 257
    for name, image in (("a", colour[..., ::-1]), ("b", grey), ("c", clear), ("d", deep)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    found = [frame for _, frame in media.read(tmp_path)]
    assert np.array_equal(found[0], colour) and np.array_equal(found[1], np.repeat(grey[..., None], 3, -1))
    assert np.array_equal(found[2], colour) and np.abs(found[3].astype(int) - colour).max() <= 1


def test_the_exif_orientation_of_a_picture_is_not_applied(tmp_path: Path) -> None:
    data = cv2.imencode(".jpg", numbered(3)[..., ::-1])[1].tobytes()
    turned = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    marker = b"\xff\xe1" + (len(turned) + 2).to_bytes(2, "big") + turned
    (tmp_path / "a.jpg").write_bytes(data[:2] + marker + data[2:])
    assert cv2.imread(str(tmp_path / "a.jpg")).shape == (WIDTH, HEIGHT, 3)
    assert media.probe(tmp_path).size == (WIDTH, HEIGHT) and numbers(tmp_path) == [3]


def test_a_folder_with_a_bad_picture_names_it(tmp_path: Path) -> None:
    def code(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(VideoError, match=name) as caught:
            list(media.read(tmp_path))
        (tmp_path / name).unlink()
        return caught.value.code

    data = {s: cv2.imencode(f".{s}", numbered(0))[1].tobytes() for s in ("png", "jpg", "bmp", "webp")}
    (tmp_path / "0.png").write_bytes(data["png"])
    for suffix, good in data.items():
        for part in (0.2, 0.6, 0.99):
            assert code(f"1.{suffix}", good[: int(part * len(good))]) == "truncated"
        assert code(f"1.{suffix}", b"") == "unreadable"
    assert code("1.png", b"#EXTM3U\nhttp://127.0.0.1:9/a.png\n") == "unreadable"
    assert code("1.png", cv2.imencode(".png", numbered(0, 64, 64))[1].tobytes()) == "unreadable"
    assert code("1.png", data["png"][:40] + b"\xff" * 200 + data["png"][240:]) == "unreadable"
    (tmp_path / "1.png").symlink_to("gone.png")
    with pytest.raises(VideoError, match="unreadable: .*1.png is not a file"):
        media.probe(tmp_path)
    (tmp_path / "1.png").unlink()
    with pytest.raises(ValueError, match="positive"):
        media.probe(tmp_path, fps=0)
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "gone"):
        with pytest.raises(VideoError, match="unreadable"):
            media.frame_names(path)


# --- files that are not good videos


def _code(path: Path) -> str:
    with pytest.raises(VideoError) as caught:
        media.probe(path)
    assert path.name in str(caught.value)
    return caught.value.code


def test_files_that_are_no_video(tmp_path: Path) -> None:
    text, empty, sound = tmp_path / "text.mp4", tmp_path / "empty.mp4", tmp_path / "sound.mp4"
    text.write_text("dear diary, " * 500)
    empty.touch()
    ffmpeg(*SOUND, "-c:a", "aac", sound)
    assert [_code(p) for p in (text, empty, tmp_path / "gone.mp4", tmp_path)] == ["unreadable"] * 4
    assert _code(sound) == "no-video-stream"
    with pytest.raises(VideoError, match="unreadable"):
        next(media.read(text))


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    picture, song = tmp_path / "cover.jpg", tmp_path / "song.mp3"
    cv2.imwrite(str(picture), numbered(0))
    ffmpeg(*SOUND, "-i", picture, "-map", "0", "-map", "1", "-c:v", "copy", "-disposition:v", "attached_pic", song)
    assert _code(song) == "no-video-stream"


@pytest.mark.parametrize("name, options, code", [
    ("late-index.mp4", [], "unreadable"),
    ("early-index.mp4", ["-movflags", "+faststart"], "truncated"),
    ("pieces.mp4", ["-movflags", "+frag_keyframe+empty_moov"], "truncated"),
    ("matroska.mkv", [], "truncated"),
])  # fmt: skip
def test_truncated_files(made: Made, tmp_path: Path, name: str, options: list[str], code: str) -> None:
    path = tmp_path / name
    ffmpeg("-i", made(_constant)[0], "-c", "copy", *options, path)
    assert media.probe(path).frames == 90
    data = path.read_bytes()
    for share in (0.3, 0.99):
        path.write_bytes(data[: int(share * len(data))])
        if name != "pieces.mp4" or share < 0.99:  # all its pieces are there: only the list of them is cut
            assert _code(path) == code


def test_a_stream_without_a_frame(made: Made, tmp_path: Path) -> None:
    data = bytearray(made(_matroska)[0].read_bytes())
    with av.open(str(made(_matroska)[0])) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    for pos, size in packets:
        data[pos + 8 : pos + 8 + size - 8] = bytes(size - 8)
    broken = tmp_path / "zeros.mkv"
    broken.write_bytes(data)
    assert _code(broken) == "no-frames"


@pytest.mark.parametrize("damage", ["all", "middle"])
def test_no_frame_comes_out_that_damage_may_have_reached(
    made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    source = made(_constant)[0]
    with av.open(str(source)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    packet = max(packets[38:42], key=lambda p: p.size)  # one that others are predicted from
    data = bytearray(source.read_bytes())
    start = packet.pos + (0 if damage == "all" else packet.size // 2)
    data[start : packet.pos + packet.size] = b"\xff" * (packet.pos + packet.size - start)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    whole, found = list(media.read(source)), list(media.read(path))
    kept = [pts // 512 for pts, _ in found]
    assert kept[:34] == list(range(34)) and kept[-42:] == list(range(48, 90)) and len(kept) < 86
    assert all(np.array_equal(frame, whole[pts // 512][1]) for pts, frame in found)
    assert "damaged frame(s) are left out" in caplog.text
    part = list(media.read(path, start_pts=60 * 512))
    assert [pts for pts, _ in part] == [pts for pts, _ in whole[60:]]


def test_a_stream_that_no_decoder_knows(made: Made, tmp_path: Path) -> None:
    data = made(_constant)[0].read_bytes()
    at = data.index(b"stsd")
    path = tmp_path / "unknown.mp4"
    path.write_bytes(data[:at] + data[at:].replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzz"))
    assert _code(path) == "unreadable"


def test_a_playlist_opens_nothing_but_itself(made: Made, tmp_path: Path) -> None:
    (tmp_path / "a.ts").write_bytes(made(_open_groups)[0].read_bytes())
    for address in ("a.ts", "http://127.0.0.1:9/a.ts"):
        path = tmp_path / "list.m3u8"
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{address}\n#EXT-X-ENDLIST\n")
        assert _code(path) == "unreadable"
    path = tmp_path / "list.mp4"
    path.write_text("ffconcat version 1.0\nfile a.ts\n")
    assert _code(path) == "unreadable"
    with pytest.raises(VideoError, match="is not a file"):
        media.probe("http://127.0.0.1:9/a.mp4")


def test_a_picture_that_changes_size_is_named(tmp_path: Path) -> None:
    a = encode(tmp_path / "a.ts", 20, X264)
    b = encode(tmp_path / "b.ts", 20, X264, (256, 160))
    both = tmp_path / "both.ts"
    both.write_bytes(a.read_bytes() + b.read_bytes())
    with pytest.raises(VideoError, match="changes from 192x128 .* to 256x160"):
        list(media.read(both))


def test_an_error_has_a_known_code_and_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(VideoError("truncated", "where and why")))
    assert (error.code, error.detail, str(error)) == ("truncated", "where and why", "truncated: where and why")
    with pytest.raises(ValueError, match="unknown reason"):
        VideoError("odd", "detail")


# --- crops and time as pure functions

PROBES = st.builds(
    lambda size, rotation, wide: media.Probe(
        size=(size if rotation % 180 == 0 else size[::-1]),
        stored_size=(size[0] * 3 // 4 if wide else size[0], size[1]), rotation=rotation, codec="h264",
        time_base=(1, 30), frames=1, fps=30.0, seconds=1.0, has_audio=False, first_pts=0,
    ),
    st.tuples(st.integers(64, 2000), st.integers(64, 2000)), st.sampled_from([0, 90, 180, 270]), st.booleans(),
)  # fmt: skip
SPAN = st.floats(3, 1500)


@given(PROBES, st.floats(-50, 60), st.floats(-50, 60), SPAN, SPAN)
def test_rounding_a_crop_is_stable_and_near(found: media.Probe, x: float, y: float, w: float, h: float) -> None:
    crop = (x, y, max(w, 60), max(h, 60))
    rounded = media.round_crop(crop, found)
    assert np.allclose(media.round_crop(rounded, found), rounded, atol=1e-6)
    corners = np.array([rounded[0], rounded[1], rounded[0] + rounded[2], rounded[1] + rounded[3]])
    asked = np.array([crop[0], crop[1], crop[0] + crop[2], crop[1] + crop[3]])
    assert np.abs(corners - asked).max() <= 1.5
    if found.stored_size in (found.size, found.size[::-1]):
        assert all(value == int(value) for value in rounded)


def test_a_crop_outside_the_picture_is_refused(made: Made) -> None:
    path, _ = made(_constant)
    with pytest.raises(ValueError, match="outside the picture"):
        next(media.read(path, crop=(500, 0, 40, 40)))


TIMES = st.lists(st.floats(0.005, 0.5), min_size=0, max_size=60).map(lambda gaps: 7.0 + np.cumsum([0.0, *gaps]))


@given(TIMES, st.floats(0.5, 120))
@settings(max_examples=200)
def test_picking_keeps_the_frame_on_show_at_each_tick(times: np.ndarray, fps: float) -> None:
    kept = media.pick(times, fps)
    assert kept[0] == 0 and (np.diff(kept) > 0).all() and kept[-1] < len(times)
    slack = min(1e-3, 0.25 / fps)
    assert len(kept) <= (times[-1] - times[0]) / (1 / fps - slack) + 2
    for tick in np.arange(times[0], times[-1], 1 / fps):
        shown = {int(np.searchsorted(times, t, side="right")) - 1 for t in (tick, tick + 0.0011)}
        assert shown & set(kept.tolist())


@given(TIMES)
def test_picking_without_a_rate_keeps_everything(times: np.ndarray) -> None:
    assert media.pick(times, None).tolist() == list(range(len(times)))
    assert media.pick(times, 1000.0).tolist() == list(range(len(times)))


@pytest.mark.parametrize(
    "rate, wanted, step", [(60, 30, 2), (30, 30, 1), (30000 / 1001, 30, 1), (25, 30, 1), (50, 10, 5)]
)
def test_picking_from_a_constant_rate(rate: float, wanted: float, step: int) -> None:
    exact = np.arange(3000) / rate
    assert media.pick(exact, wanted).tolist() == list(range(0, 3000, step))
    assert media.pick(np.round(exact, 3), wanted).tolist() == list(range(0, 3000, step))


def test_picking_refuses_what_makes_no_sense() -> None:
    assert media.pick(np.array([]), 30).tolist() == []
    with pytest.raises(ValueError, match="increasing"):
        media.pick(np.array([0.0, 0.1, 0.1]), 30)
    for rate in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive"):
            media.pick(np.array([0.0, 0.1]), rate)


# --- decord


@pytest.mark.parametrize("kind, agrees", [
    (_constant, True), (_variable, True), (_hevc, True), (_vp9, True), (_matroska, True), (_edit_list, False),
    (_open_groups, False), (_ten_bit, False), (_no_pts, False),
])  # fmt: skip
def test_decord_only_where_it_is_proved(made: Made, kind: Callable, agrees: bool) -> None:
    pytest.importorskip("decord")
    path, expected = made(kind)
    assert media.decord_agrees(path) == agrees
    if not agrees:
        with pytest.raises(ValueError, match="not proved"):
            next(media.read(path, decoder="decord"))
        return
    ours, theirs = list(media.read(path, size=(64, 96))), list(media.read(path, size=(64, 96), decoder="decord"))
    assert [p for p, _ in ours] == [p for p, _ in theirs]
    assert min(psnr(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True)) > 32
    assert numbers(path, decoder="decord", start_pts=ours[20][0], end_pts=ours[23][0]) == expected[20:23]


def test_decord_that_is_not_installed(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not media.decord_agrees(made(_constant)[0])
    with pytest.raises(ValueError, match="not installed"):
        media.read(made(_constant)[0], decoder="decord")
    with pytest.raises(ValueError, match="unknown decoder"):
        media.read(made(_constant)[0], decoder="opencv")


# --- writing


def test_writing_and_reading_back(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, 29.97, (HEIGHT, WIDTH), crf=10) as writer:
        for i in range(20):
            writer.write(numbered(i))
        assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    found = media.probe(path)
    assert (found.frames, found.codec) == (20, "h264") and found.fps == pytest.approx(29.97, rel=1e-4)
    frames = [frame for _, frame in media.read(path)]
    assert [number(frame) for frame in frames] == list(range(20))
    assert psnr(frames[5][70:, 130:], numbered(5)[70:, 130:]) > 38
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError), VideoWriter(tmp_path / "a.mp4", 30, (64, 64)) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8))
        raise KeyError("stop")
    with pytest.raises(ValueError, match="uint8 frames"), VideoWriter(tmp_path / "b.mp4", 30, (64, 64)) as writer:
        writer.write(np.zeros((64, 64, 3), np.float32))
    with pytest.raises(EncodeError, match="no frame"), VideoWriter(tmp_path / "c.mp4", 30, (64, 64)):
        pass
    with pytest.raises(EncodeError, match="there is no folder"), VideoWriter(tmp_path / "no/d.mp4", 30, (64, 64)):
        pass
    with (
        pytest.raises(EncodeError, match="e.odd cannot be written: ffmpeg ended with status .*odd"),
        VideoWriter(tmp_path / "e.odd", 30, (64, 64)) as writer,
    ):
        for _ in range(500):
            writer.write(np.zeros((64, 64, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="even height and width, not 63 x 64"):
        VideoWriter(tmp_path / "f.mp4", 30, (63, 64))


def test_an_error_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), VideoWriter(path, 30, (64, 64)) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8))
        raise KeyError("stop")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("name, codec", [("a.mp4", "aac"), ("a.mkv", "pcm_s16le")])
def test_the_sound_is_that_of_the_driving_video(made: Made, tmp_path: Path, name: str, codec: str) -> None:
    driving, out, silent = tmp_path / name, tmp_path / "out.mp4", made(_variable)[0]
    ffmpeg("-i", made(_constant)[0], *SOUND, "-c:v", "copy", "-c:a", codec, "-t", "1", driving)
    media.mux_audio(silent, driving, out)
    assert numbers(out) == made(_variable)[1]
    with av.open(str(out)) as container:
        sound = container.streams.audio[0]
        assert sound.codec_context.name == "aac"
        heard = np.concatenate([frame.to_ndarray().mean(0) for frame in container.decode(sound)])
    assert len(heard) / 44100 == pytest.approx(1, abs=0.1)
    tone = np.abs(np.fft.rfft(heard[:44100]))
    assert abs(tone.argmax() * 44100 / len(heard[:44100]) - 440) < 5
    with pytest.raises(ValueError, match="no sound"):
        media.mux_audio(driving, silent, out)


def test_cutting_a_part(made: Made, tmp_path: Path) -> None:
    source, out = tmp_path / "sound.mp4", tmp_path / "cut.mp4"
    ffmpeg("-i", made(_constant)[0], *SOUND, "-c:v", "copy", "-c:a", "aac", source)
    media.cut(source, out, 0.5, 1.0)
    assert numbers(out) == list(range(15, 30))
    assert media.probe(out).has_audio
    media.cut(made(_variable)[0], out, 0.5, 1.0)
    assert numbers(out) == [n for n in made(_variable)[1] if 15 <= n < 30]
    for start, end in ((1, 1), (50, 51), (-1, 1)):
        with pytest.raises(ValueError, match="has no part"):
            media.cut(source, out, start, end)
    with pytest.raises(EncodeError, match="ffmpeg ended"):
        media.cut(source, tmp_path / "cut.odd", 0, 1)


def _in_matroska(folder: Path) -> tuple[Path, list[int]]:
    path, expected = _variable(folder)
    ffmpeg("-i", path, "-c", "copy", folder / "variable.mkv")
    return folder / "variable.mkv", expected


def _in_a_stream(folder: Path) -> tuple[Path, list[int]]:
    path, expected = _variable(folder)
    ffmpeg("-i", path, *SOUND, "-c:v", "copy", "-output_ts_offset", "7", folder / "variable.ts")
    return folder / "variable.ts", expected


def _after_its_sound(folder: Path) -> tuple[Path, list[int]]:
    path, expected = _variable(folder)
    maps = ["-map", "0:a", "-map", "1:v", "-c:v", "copy", "-c:a", "aac"]
    ffmpeg(*SOUND, "-itsoffset", "0.7", "-i", path, *maps, folder / "sound.mp4")
    return folder / "sound.mp4", expected


def _behind_another(folder: Path) -> tuple[Path, list[int]]:
    path, expected = _variable(folder)
    small = ["-f", "lavfi", "-i", "testsrc=s=96x64:r=30:d=3"]
    ffmpeg(*small, "-i", path, "-map", "0", "-map", "1", *X264, "-c:v:1", "copy", folder / "two.mp4")
    return folder / "two.mp4", expected


@pytest.fixture(params=["carried", "of this machine"])
def any_ffmpeg(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The carried ffmpeg, then the one on the PATH: what comes out may not hang on the version."""
    monkeypatch.delenv("REMOT_FFMPEG", raising=False)
    if request.param == "carried":
        return
    monkeypatch.setenv("REMOT_FFMPEG", "ffmpeg")
    try:
        ffmpeg = media.ffmpeg_binary()
    except EncodeError:
        pytest.skip("no ffmpeg on the PATH beside the carried one")
    options = [
        "-f",
        "lavfi",
        "-i",
        "nullsrc=s=16x16:d=0.1",
        "-fps_mode",
        "passthrough",
        "-c:v",
        "libx264",
        "-f",
        "null",
    ]
    if subprocess.run([ffmpeg, "-v", "error", *options, "-"], capture_output=True).returncode:
        pytest.skip(f"{ffmpeg} has no -fps_mode (older than 5.1), or no libx264")


OTHERS = [_in_matroska, _in_a_stream, _after_its_sound, _behind_another]


# A raw stream has no times, so no part of it can be told.
@pytest.mark.parametrize("kind", [*KINDS[:-1], *OTHERS])
def test_cutting_keeps_every_frame_and_its_time(made: Made, tmp_path: Path, any_ffmpeg: None, kind: Callable) -> None:
    path, _ = made(kind)
    whole = _seconds(path)
    for start, end in ((0.5, 1.0), (0.0, 0.7), (1.2, 9.0)):
        part = [(n, t - start) for n, t in whole if start - 1e-4 < t < end - 1e-4]
        media.cut(path, tmp_path / "part.mp4", start, end)
        found = _seconds(tmp_path / "part.mp4")
        assert [n for n, _ in found] == [n for n, _ in part]
        assert np.abs(np.array([t for _, t in found]) - [t - part[0][1] for _, t in part]).max() < 1e-6
        assert media.probe(tmp_path / "part.mp4").has_audio == media.probe(path).has_audio


def _seconds(path: Path) -> list[tuple[int, float]]:
    """The number and the time of every frame, in seconds from the first."""
    found = media.probe(path)
    frames = media.read(path)
    return [(number(f), (pts - found.first_pts) * found.time_base[0] / found.time_base[1]) for pts, f in frames]


def test_the_sound_of_a_part_is_that_of_its_pictures(tmp_path: Path) -> None:
    """A tone that begins half way, in a container that is sought in and in one that is not."""
    tone = ["-f", "lavfi", "-i", "aevalsrc=gte(t\\,1)*sin(2764*t):d=3"]
    for suffix in ("mp4", "ts"):
        path = tmp_path / f"a.{suffix}"
        ffmpeg(*tone, "-i", encode(tmp_path / "pictures.mp4", 90, X264), "-c:v", "copy", "-c:a", "aac", path)
        media.cut(path, tmp_path / "part.mp4", 0.5, 2.0)
        with av.open(str(tmp_path / "part.mp4")) as container:
            heard = [frame.to_ndarray().mean(0) for frame in container.decode(audio=0)]
        loud = np.abs(np.concatenate(heard)) > 0.1
        assert loud.argmax() / 44100 == pytest.approx(0.5, abs=0.06)
        assert len(loud) / 44100 == pytest.approx(1.5, abs=0.06)


def test_a_chosen_ffmpeg_has_to_be_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").write_text("no program")
    for name in (str(tmp_path / "text"), str(tmp_path / "gone"), "no-such-program"):
        monkeypatch.setenv("REMOT_FFMPEG", name)
        with (
            pytest.raises(EncodeError, match=f"REMOT_FFMPEG={name} is no program that can be run"),
            VideoWriter(tmp_path / "a.mp4", 30, (64, 64)),
        ):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_a_wheel_that_carries_no_ffmpeg_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REMOT_FFMPEG", raising=False)
    package = types.ModuleType("imageio_ffmpeg")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", package)
    with pytest.raises(EncodeError, match="carries no ffmpeg .* set REMOT_FFMPEG"):
        media.ffmpeg_binary()
    (tmp_path / "binaries").mkdir()
    (tmp_path / "binaries" / "ffmpeg-of-another-machine").write_text("no program")
    with pytest.raises(EncodeError, match="that can be run"):
        media.ffmpeg_binary()
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(EncodeError, match="is not installed"):
        media.ffmpeg_binary()


def test_frames_passed_over_can_be_told_of(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", 12, ["-c:v", "libx264"])
    every = [pts for pts, _ in media.read(path)]
    found = list(media.read(path, only=every[4:8:2], size=(32, 24), passing=True))
    assert [pts for pts, picture in found if picture.size] == every[4:8:2]
    assert every[5] in [pts for pts, picture in found if picture.shape == (0, 0, 3)]
