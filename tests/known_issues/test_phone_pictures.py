"""Pictures as phones and shops make them: tiles, turned, transparent, in the colours of print.

Of HEIC one tile of four was read, AVIF and TIFF came unturned or not at all, what was transparent was black. Made: a
picture whose corners differ, in each format. Right: the whole picture, upright, on white, and a sentence on what was
changed; or a sentence that says how to convert it.
"""

from __future__ import annotations

import importlib.util
import re
import struct
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from remot_data.care.check_video import CHECKS
from remot_data.media import VideoError, in_child
from remot_data.media.pictures import is_picture, picture
from tests.known_issues.test_side_data import SHOWN

WIDTH, HEIGHT = 64, 48
DATA = Path(__file__).parents[1] / "data"


def drawn() -> np.ndarray:
    """A colour a corner, so that turning and mirroring show."""
    corners = np.array([[(220, 30, 30), (30, 200, 30)], [(30, 30, 220), (220, 200, 40)]], np.uint8)
    return np.repeat(np.repeat(corners, HEIGHT // 2, 0), WIDTH // 2, 1)


def saved(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def near(path: Path, expected: np.ndarray, most: float = 6) -> tuple[str, ...]:
    """Asserts that a file shows this; what is said of it."""
    found = in_child.image(path)
    assert found is not None and found.pixels.dtype == np.uint8 and found.pixels.shape == expected.shape
    assert np.abs(found.pixels.astype(int) - expected).mean() < most
    return found.notes


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", SHOWN)
def test_the_orientation_is_that_of_the_file(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"photo.{suffix}", drawn(), exif=exif.tobytes())
    assert near(path, SHOWN[orientation](drawn())) == ()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif", "bmp", "gif", "jp2", "ppm"])
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"photo.{suffix}", drawn())
    assert near(path, drawn()) == ()
    other = path.rename(tmp_path / "what it is says the file, not its name.mp4")
    assert is_picture(other) and near(other, drawn()) == ()


def test_tiles_are_put_together() -> None:
    pytest.importorskip("pi_heif", reason="pip install pi-heif")
    path = DATA / "tiles.heic"
    with av.open(str(path)) as file:  # as FFmpeg has it, a tile is a stream
        tiles = [
            next(file.decode(stream)).to_ndarray(format="rgb24") for stream in file.streams.video if not file.seek(0)
        ]
    whole = np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])])
    assert whole.shape == (640, 384, 3) and near(path, whole) == ()


def transformed(data: bytes, box: bytes) -> bytes:
    """`tiles.heic` with a property more of its grid, the item 5: a box of 9 bytes that turns it, as phones do."""
    found = bytearray(data)
    items = found.index(b"iloc") + 12  # of method 0 the offset is that in the file
    for at in range(items, items + 5 * 16, 16):
        if found[at + 3] == 0:
            struct.pack_into(">I", found, at + 8, struct.unpack_from(">I", found, at + 8)[0] + 10)
    for name, more in ((b"meta", 10), (b"iprp", 10), (b"ipco", 9), (b"ipma", 1)):
        size = found.index(name) - 4
        struct.pack_into(">I", found, size, struct.unpack_from(">I", found, size)[0] + more)
    entry = found.index(bytes((0, 5, 1, 3)), found.index(b"ipma"))
    found[entry : entry + 4] = bytes((0, 5, 2, 3, 0x84))
    found[found.index(b"ipma") - 4 : found.index(b"ipma") - 4] = box
    return bytes(found)


@pytest.mark.parametrize(
    ("name", "value", "turn"),
    [
        *((b"irot", angle, lambda p, angle=angle: np.rot90(p, angle)) for angle in (1, 2, 3)),
        (b"imir", 0, np.flipud),
        (b"imir", 1, np.fliplr),
    ],
)
def test_heic_is_turned_and_mirrored(tmp_path: Path, name: bytes, value: int, turn: Any) -> None:
    pytest.importorskip("pi_heif", reason="pip install pi-heif")
    path = tmp_path / "turned.heic"
    path.write_bytes(transformed((DATA / "tiles.heic").read_bytes(), struct.pack(">I4sB", 9, name, value)))
    plain = in_child.image(DATA / "tiles.heic")
    assert plain is not None and near(path, turn(plain.pixels), 1) == ()


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.png", "RGBA"), ("a.webp", "RGBA"), ("a.png", "LA"), ("a.png", "P"), ("a.avif", "RGBA"), ("a.gif", "P")],
)
def test_what_is_transparent_is_white(tmp_path: Path, name: str, mode: str) -> None:
    clear = np.zeros((HEIGHT, WIDTH), bool)
    clear[:, : WIDTH // 2] = True
    if mode == "P":
        image = Image.fromarray(drawn()).quantize(8)
        image = image.point(lambda index: index + 1)  # colour 0 is nobody's
        image.putpalette([0, 0, 0, *(Image.fromarray(drawn()).quantize(8).getpalette() or [])])
        image.paste(0, (0, 0, WIDTH // 2, HEIGHT))
        image.save(tmp_path / name, transparency=0)
        expected = np.where(clear[..., None], 255, drawn())
    else:
        alpha = np.where(clear, 0, 255).astype(np.uint8)
        rgba = np.dstack([np.where(clear[..., None], 0, drawn()), alpha]).astype(np.uint8)
        image = Image.fromarray(rgba).convert(mode)
        image.save(tmp_path / name, **({"quality": 95} if name == "a.avif" else {}))
        shown = np.asarray(image.convert("RGB"))
        expected = np.where(clear[..., None], 255, shown)
    (note,) = near(tmp_path / name, expected)
    assert note.endswith("a" + name[1:] + " is transparent in parts; these are white")


@pytest.mark.parametrize(("alpha", "warns"), [(255, False), (0, True)])
def test_a_folder_of_transparent_pictures_says_what_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, alpha: int, warns: bool
) -> None:
    clear = np.full((HEIGHT, WIDTH), 255, np.uint8)
    clear[:8] = alpha
    for n in range(3):
        saved(tmp_path / f"{n}.png", np.dstack([drawn(), clear]))
    assert in_child.probe(tmp_path).frames == 3
    assert [record.getMessage() for record in caplog.records if "transparent in parts" in record.getMessage()] == [
        f"{tmp_path}: its pictures are transparent in parts, which is dropped; lay them on a background"
    ] * warns


def test_an_alpha_channel_that_hides_nothing_is_not_spoken_of(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.dstack([drawn(), np.full((HEIGHT, WIDTH), 255, np.uint8)]))
    assert near(path, drawn()) == ()


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_the_colours_of_print(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"print.{suffix}"
    Image.fromarray(drawn()).convert("CMYK").save(path)
    (note,) = near(path, drawn())
    assert note.endswith("(CMYK), which were converted roughly, as it has no profile")
    # A profile that is none.
    Image.fromarray(drawn()).convert("CMYK").save(path, icc_profile=b"no profile" * 20)
    (note,) = near(path, drawn())
    assert note.endswith("roughly, as its profile is damaged")


def test_sixteen_bits_are_rounded_to_eight(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    expected = np.repeat(np.round(grey / 257)[..., None], 3, -1)
    assert near(tmp_path / "deep.png", expected, 0.01) == ()
    cv2.imwrite(str(tmp_path / "deep.tif"), drawn()[..., ::-1].astype(np.uint16) * 257)
    assert near(tmp_path / "deep.tif", drawn(), 1) == ()


UNREAD = {
    "photo.jxl": (b"\xff\x0a" + bytes(100), "is in JPEG XL, which is not read; convert it to PNG or JPEG, for example"),
    "photo.dng": (b"II*\0" + bytes(100), "is in a camera's raw format, which is not read"),
    "photo.psd": (b"8BPS" + bytes(100), "is in Photoshop's format"),
    "photo.svg": (b"<?xml version='1.0'?><svg></svg>", "is in SVG"),
    "photo.pdf": (b"%PDF-1.7" + bytes(100), "is in PDF"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_not_read_says_how_to_convert_it(tmp_path: Path, name: str) -> None:
    data, says = UNREAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(VideoError, match=re.escape(says)) as error:
        in_child.image(tmp_path / name)
    assert f"magick {name} photo.png" in str(error.value)


def test_heic_without_its_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By whoever meets such a picture, and by the doctor."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "pi_heif" else found(name, *more)
    )
    says = r"tiles.heic is HEIC, which is not read .* pip install pi-heif, or convert it .* magick tiles.heic tiles.png"
    with pytest.raises(VideoError, match=says):
        picture(DATA / "tiles.heic")
    (finding,) = CHECKS["pictures"][0](None)
    assert (finding.state, finding.remedy) == ("warn", "HEIC: pip install pi-heif") and "not read" in finding.detail


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif", "gif", "jp2"])
def test_a_picture_that_was_cut_off_is_damaged(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    path = saved(tmp_path / f"photo.{suffix}", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match=f"photo.{suffix} is a damaged image"):
        in_child.image(path)


def test_anything_else_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("P")
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "absent.png"):
        assert not is_picture(path) and picture(path) is None
