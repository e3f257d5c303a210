"""Image files as they are to be seen: tiles put together, turned, on white where they are transparent, in RGB.

What a file is, its first bytes say. Pillow decodes it, with pi-heif where it is HEIC; both come with the model
(`pip install "remot[train]"`). To be called in a child process: `in_child.image`.
"""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remot_data.media.container import VideoError

_HEAD = 4096  # bytes of a file that say what it is
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"}
# Formats by the names that Pillow has for them, in the order in which they are tried.
_READ: dict[str, Callable[[bytes], bool]] = {
    "JPEG": lambda head: head.startswith(b"\xff\xd8\xff"),
    "PNG": lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"),
    "WEBP": lambda head: head.startswith(b"RIFF") and head[8:12] == b"WEBP",
    "BMP": lambda head: head.startswith(b"BM"),
    "GIF": lambda head: head.startswith((b"GIF87a", b"GIF89a")),
    "TIFF": lambda head: head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    "JPEG2000": lambda head: head.startswith((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
    "PPM": lambda head: head[:1] == b"P" and head[1:2] in b"1 2 3 4 5 6".split() and head[2:3].isspace(),
    "AVIF": lambda head: not {b"avif", b"avis"}.isdisjoint(_brands(head)),
    "HEIF": lambda head: not _HEIC.isdisjoint(_brands(head)),
}
_NOT_READ: dict[str, Callable[[bytes], bool]] = {
    "JPEG XL": lambda head: head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    "Photoshop's format": lambda head: head.startswith(b"8BPS"),
    "PDF": lambda head: head.startswith(b"%PDF"),
    "SVG": lambda head: head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith((b"<svg", b"<?xml")) and b"<svg" in head,
    "OpenEXR": lambda head: head.startswith(b"\x76\x2f\x31\x01"),
}
_RAW = frozenset(".dng .cr2 .cr3 .crw .nef .nrw .arw .srf .raf .orf .rw2 .pef .srw .3fr .iiq".split())


@dataclass(frozen=True)
class Picture:
    """An image, uint8 [H, W, 3] RGB, and sentences on what of it was not taken as it is."""

    pixels: np.ndarray
    notes: tuple[str, ...] = ()


def is_picture(path: str | Path) -> bool:
    """Whether a file begins as a picture does, of a format that is read or of one that is known and not read."""
    return kind_of(path) is not None


def kind_of(path: str | Path) -> str | None:
    """Name of the picture's format; None for anything else, and for what is no file."""
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if os.path.splitext(path)[1].lower() in _RAW:
        return "a camera's raw format"
    return next((name for name, begins in {**_READ, **_NOT_READ}.items() if begins(head)), None)


def lacking() -> dict[str, str]:
    """What of this machine's libraries is missing to read pictures, Pillow itself or a format, and how to get it."""
    if importlib.util.find_spec("PIL") is None:
        return {"Pillow": "pip install pillow"}
    from PIL import features

    avif = {} if features.check("avif") else {"AVIF": "pip install -U pillow"}
    heic = {} if importlib.util.find_spec("pi_heif") else {"HEIC": "pip install pi-heif"}
    return {**avif, **heic}


def _brands(head: bytes) -> list[bytes]:
    """The brands of an ISO media file, the major one first."""
    if head[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]


def picture(path: str | Path) -> Picture | None:
    """An image file: of several pictures the first, or the one that the file says is the main one; None if it is none.

    Raises:
        VideoError: ``unreadable``: a damaged image, or one of a format that is not read; it says how to convert it.
    """
    kind = kind_of(path)
    if kind is None:
        return None
    if kind not in _READ:
        raise VideoError("unreadable", f"{path} is in {kind}, which is not read; {_convert(path)}")
    pil = _pillow(path, kind)
    try:
        # The memory of a child is bounded: what phones with 200 million pixels make is no attack.
        pil.MAX_IMAGE_PIXELS = None
        with pil.open(path, formats=("JPEG", "MPO") if kind == "JPEG" else (kind,)) as image:
            image.load()
            return _seen(image, path)
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError) as error:
        raise VideoError("unreadable", f"{path} is a damaged image ({kind}): {error}") from error


def _convert(path: str | Path) -> str:
    name, stem = os.path.basename(path), os.path.splitext(os.path.basename(path))[0]
    return f"convert it to PNG or JPEG, for example with ImageMagick: magick {name} {stem}.png"


def _pillow(path: str | Path, kind: str) -> Any:
    what, lacks = "HEIC" if kind == "HEIF" else kind, lacking()
    if how := lacks.get("Pillow") or lacks.get(what):
        raise VideoError(
            "unreadable", f"{path} is {what}, which is not read on this machine: {how}, or {_convert(path)}"
        )
    from PIL import Image

    if kind == "HEIF":
        from pi_heif import register_heif_opener

        register_heif_opener()
    return Image


def _seen(image: Any, path: str | Path) -> Picture:
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    notes = []
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = np.asarray(image, np.float64)
        image = Image.fromarray(np.clip(grey / (1 if image.mode == "F" else 257), 0, 255).round().astype(np.uint8))
    if image.mode == "CMYK":
        image, how = _from_cmyk(image)
        notes.append(f"{path} is in the colours of print (CMYK), which were converted {how}")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            notes.append(f"{path} is transparent in parts; these are white")
    return Picture(np.asarray(image.convert("RGB")), tuple(notes))


def _from_cmyk(image: Any) -> tuple[Any, str]:
    """By the profile that the file has, or roughly."""
    from PIL import ImageCms

    if profile := image.info.get("icc_profile"):
        try:
            source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, source, target, outputMode="RGB"), "by its profile"
        except (ImageCms.PyCMSError, OSError):
            return image.convert("RGB"), "roughly, as its profile is damaged"
    return image.convert("RGB"), "roughly, as it has no profile"
