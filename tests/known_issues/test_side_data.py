"""Side data that nobody asked for never matters: a kind newer than PyAV made it raise, and the video "crashed".

Made: Motion JPEG whose pictures carry EXIF (action cameras), in AVI and MOV. Right: every frame comes, turned as its
EXIF says.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.sidedata.sidedata import Type

from remot_data import media
from remot_data.assets import fetch
from remot_data.ingest.build import build
from remot_data.ingest.policy import Policy
from remot_data.media import in_child
from remot_data.store import open_store

COUNT, WIDTH, HEIGHT = 24, 128, 80
CORNERS = np.array([[(220, 30, 30), (30, 220, 30)], [(30, 30, 220), (220, 220, 220)]], np.uint8)
# EXIF orientation -> what has to be done to the stored picture.
SHOWN = {
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: lambda p: np.rot90(np.fliplr(p), 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(np.fliplr(p), -1),
    8: lambda p: np.rot90(p, 1),
}


def picture(number: int = 0) -> np.ndarray:
    """Four colours, one a corner, and a bright bar that goes from left to right."""
    found = cv2.resize(CORNERS, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
    found[:, 4 * number : 4 * number + 4] = 255
    return found


def with_exif(jpeg: bytes, orientation: int) -> bytes:
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def motion_jpeg(path: Path, orientation: int, pictures: Iterable[np.ndarray]) -> Path:
    """`pictures` are the stored ones."""
    with av.open(str(path), "w") as out:
        for number, stored in enumerate(pictures):
            if not number:
                stream = out.add_stream("mjpeg", rate=30)
                stream.height, stream.width, stream.pix_fmt = *stored.shape[:2], "yuvj420p"
            jpeg = cv2.imencode(".jpg", stored[..., ::-1])[1].tobytes()
            packet = av.Packet(with_exif(jpeg, orientation))
            packet.stream, packet.time_base = stream, Fraction(1, 30)
            packet.pts = packet.dts = number
            packet.is_keyframe = True
            out.mux(packet)
    return path


def test_pyav_does_not_know_every_kind_by_name(tmp_path: Path) -> None:
    with av.open(str(motion_jpeg(tmp_path / "a.avi", 1, [picture()]))) as file:
        kinds = {side.type.name for side in next(file.decode(video=0)).side_data}
    assert any(name.startswith("KIND_") for name in kinds), f"the made input is no case any more: {kinds}"
    assert Type["DISPLAYMATRIX"] in Type and len({Type(31), Type(31), Type(77)}) >= 2


@pytest.mark.parametrize("suffix", [".avi", ".mov", ".mkv"])
@pytest.mark.parametrize("orientation", SHOWN)
def test_frames_with_exif_come_turned(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = motion_jpeg(tmp_path / f"camera{suffix}", orientation, map(picture, range(3)))
    expected = SHOWN[orientation](picture(2))
    assert media.probe(path).size == (expected.shape[1], expected.shape[0])
    shown = [frame for _, frame in media.read(path)]
    assert len(shown) == 3 and shown[2].shape == expected.shape
    assert np.abs(shown[2].astype(int) - expected).mean() < 12
    assert np.array_equal(in_child.first_frame(path), shown[0])
    crop = media.round_crop((16, 8, 40, 32), media.probe(path))
    x, y, w, h = map(int, crop)
    (cut, *_) = (frame for _, frame in media.read(path, crop=crop))
    assert np.abs(cut.astype(int) - shown[0][y : y + h, x : x + w]).mean() < 6


def test_a_folder_of_turned_pictures_says_that_it_stays_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        jpeg = cv2.imencode(".jpg", picture(number)[..., ::-1])[1].tobytes()
        (tmp_path / f"{number}.jpg").write_bytes(with_exif(jpeg, 6))
    assert in_child.probe(tmp_path).size == media.probe(tmp_path).size == (WIDTH, HEIGHT)
    assert [r.getMessage().partition(": ")[2] for r in caplog.records] == [
        "the EXIF orientation of its pictures is not followed; turn them before"
    ] * 2


@pytest.mark.slow
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_build_keeps_every_frame(tmp_path: Path, orientation: int) -> None:
    """The case was "crashed (ValueError: 31 is not a valid Type)"."""
    frames = [frame for _, frame in itertools.islice(media.read(fetch("sample-cam03"), size=(540, 960)), COUNT)]
    stored = frames if orientation == 1 else [np.rot90(frame, 1) for frame in frames]
    folder = tmp_path / "videos"
    folder.mkdir()
    for suffix in (".avi", ".mov"):
        motion_jpeg(folder / f"camera{suffix}", orientation, stored)
    store, rules = str(tmp_path / "store"), Policy(size=(64, 48), duplicates="bytes", persons="main")
    summary = build([folder], store, policy=rules, layers={}, workers=0)
    assert not {r["code"] for r in summary.rejects} - {"not-main"} and summary.videos == 2
    assert [clip.frames for clip in open_store(store).clips] == [COUNT, COUNT]
    assert {clip.source_size for clip in open_store(store).clips} == {(960, 540)}
