"""Odd and bad files, made with ffmpeg and by changing bytes, to hold a build against what should come of them.

Every picture shows a real person and, beside the legs, its own number in eight black or white blocks: so the frame can
be told from any other after encoding, turning, cropping to the person and shrinking. `make` writes the files,
`read_number` reads a picture.
"""

from __future__ import annotations

import io
import os
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np

from remot_data import media
from remot_data.assets import fetch

FRAMES = 24
SIZE = (360, 640)  # width, height of the base pictures
_CORNER, _BLOCK, _COLUMNS, _BITS = (222, 290), 24, 2, 8  # right of the legs, within any crop of the person


@dataclass(frozen=True)
class Case:
    """A file (or a folder of pictures) and what has to come of it.

    Attributes:
        name: path below the folder of the corpus, with ``/``.
        numbers: of the frames that `media.read` has to give, in order. Empty where it may give none.
        codes: reason codes, of which the build has to refuse it with one. Empty where it has to keep it.
        where: who refuses it: ``read`` (`media.probe` and `media.read`), ``scan`` (looking through it), ``plan``
            (the build compares the inputs) or ``inputs`` (before anything is opened).
        damaged: frames may be missing, those beside the damage may show anything, and the codes are given or not;
            but the same every time.
    """

    name: str
    numbers: tuple[int, ...] = ()
    codes: tuple[str, ...] = ()
    where: str = "read"
    damaged: bool = False


ALL = tuple(range(FRAMES))


# --- numbers ------------------------------------------------------------------------------------------------


def _code(number: int) -> int:
    """Five bits of number and three that check it."""
    return number << 3 | (3 * number + 5) & 7


def _boxes() -> list[tuple[int, int]]:
    return [(_CORNER[0] + _BLOCK * (b % _COLUMNS), _CORNER[1] + _BLOCK * (b // _COLUMNS)) for b in range(_BITS)]


def write_number(picture: np.ndarray, number: int) -> None:
    """Draw `number` (0 to 31) into a base picture, uint8 [640, 360, 3]."""
    for bit, (x, y) in enumerate(_boxes()):
        picture[y : y + _BLOCK, x : x + _BLOCK] = 255 * (_code(number) >> bit & 1)


def read_number(
    picture: np.ndarray, crop: Sequence[float] | None = None, source_size: tuple[int, int] = SIZE
) -> int | None:
    """The number that a picture shows, uint8 [H, W, 3] of any size; None where there is none to be read.

    Args:
        crop: x, y, width, height of what `picture` shows, in pixels of the whole displayed picture; None for all.
        source_size: width and height of the whole displayed picture.
    """
    x0, y0, wide, tall = crop or (0.0, 0.0, *source_size)
    across, down = picture.shape[1] / wide, picture.shape[0] / tall
    code = 0
    for bit, (x, y) in enumerate(_boxes()):
        centre_x = ((x + _BLOCK / 2) * source_size[0] / SIZE[0] - x0) * across
        centre_y = ((y + _BLOCK / 2) * source_size[1] / SIZE[1] - y0) * down
        reach_x = max(0.25 * _BLOCK * source_size[0] / SIZE[0] * across, 0.5)
        reach_y = max(0.25 * _BLOCK * source_size[1] / SIZE[1] * down, 0.5)
        rows = slice(max(round(centre_y - reach_y), 0), max(round(centre_y + reach_y), 1))
        part = picture[rows, max(round(centre_x - reach_x), 0) : max(round(centre_x + reach_x), 1)]
        if not part.size:
            return None
        code |= int(part.mean() > 110) << bit
    return code >> 3 if code == _code(code >> 3) else None


# --- making -------------------------------------------------------------------------------------------------

_X264 = "-c:v libx264 -preset veryfast -crf 14 -bf 3 -g 12 -pix_fmt yuv420p"
_X265 = "-c:v libx265 -preset ultrafast -crf 14 -x265-params log-level=none:pools=1:frame-threads=1:keyint=12"
_VP9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -crf 16 -b:v 0 -g 12"
_VP9_HIDDEN = "-c:v libvpx-vp9 -cpu-used 8 -auto-alt-ref 1 -lag-in-frames 12 -crf 12 -b:v 0"
_AS_MATROSKA = "-c copy -f matroska"
_SOUND = "-f lavfi -i sine=frequency=440:duration=2"
_HDR10 = ":colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:hdr10=1"
_HLG = ":colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc"
_KEEP = tuple(n for n in ALL if n % 2 == 0 or n % 5 == 0)

# Encoded from the base: name, options of the output, numbers of the frames shown.
_ENCODED: list[tuple[str, str, tuple[int, ...]]] = [
    ("h264/b-frames.mp4", _X264, ALL),
    ("h264/faststart.mp4", f"{_X264} -movflags +faststart", ALL),
    ("h264/fragmented.mp4", f"{_X264} -movflags +frag_keyframe+empty_moov", ALL),
    ("h264/baseline.mov", f"{_X264} -profile:v baseline", ALL),
    ("h264/intra.mp4", f"{_X264} -g 1", ALL),
    ("h264/one-key-frame.mp4", f"{_X264} -g 300", ALL),
    ("h264/pyramid.mkv", f"{_X264} -bf 8 -x264-params b-pyramid=normal:ref=5", ALL),
    ("h264/open-groups.ts", f"{_X264} -x264-params open-gop=1:scenecut=0", ALL),
    ("h264/open-groups.mp4", f"{_X264} -x264-params open-gop=1:scenecut=0", ALL),
    ("h264/recovery-points.mkv", f"{_X264} -bf 0 -x264-params intra-refresh=1", ALL),
    ("h264/interlaced-top.mp4", f"{_X264} -flags +ilme+ildct -x264-params tff=1", ALL),
    ("h264/interlaced-bottom.ts", f"{_X264} -flags +ilme+ildct -x264-params bff=1", ALL),
    ("h264/ten-bit.mkv", f"{_X264} -pix_fmt yuv420p10le", ALL),
    ("h264/four-two-two.mov", f"{_X264} -pix_fmt yuv422p10le", ALL),
    ("h264/rgb.mkv", "-c:v libx264rgb -preset veryfast -crf 14 -pix_fmt rgb24", ALL),
    ("h264/full-range.mp4", f"{_X264} -vf scale=out_range=pc -color_range pc", ALL),
    ("h264/elementary.h264", _X264, ALL),
    ("h264/in-avi.avi", f"{_X264} -bf 0", ALL),
    ("h264/flash.flv", _X264, ALL),
    ("h264/negative-offsets.mp4", f"{_X264} -movflags +negative_cts_offsets", ALL),
    ("h264/below-zero.mkv", f"{_X264} -output_ts_offset -0.3 -avoid_negative_ts disabled", ALL),
    ("h264/wrapping.ts", f"{_X264} -output_ts_offset 95442.0", ALL),
    ("h264/blu-ray.m2ts", f"{_X264} -mpegts_m2ts_mode 1", ALL),
    ("h264/grey.mp4", f"{_X264} -pix_fmt gray", ALL),
    ("hevc/plain.mp4", f"{_X265} -pix_fmt yuv420p -tag:v hvc1", ALL),
    ("hevc/hdr10.mp4", f"{_X265}{_HDR10} -pix_fmt yuv420p10le", ALL),
    ("hevc/hlg.mkv", f"{_X265}{_HLG} -pix_fmt yuv420p10le", ALL),
    ("hevc/open-groups.ts", f"{_X265}:open-gop=1:bframes=4 -pix_fmt yuv420p", ALL),
    ("hevc/elementary.hevc", f"{_X265}:bframes=0 -pix_fmt yuv420p", ALL),
    ("vp8/plain.webm", "-c:v libvpx -deadline realtime -cpu-used 8 -crf 8 -b:v 4M -g 12", ALL),
    ("vp8/hidden-frames.webm", "-c:v libvpx -cpu-used 5 -auto-alt-ref 1 -lag-in-frames 12 -crf 8 -b:v 4M", ALL),
    ("vp9/plain.webm", f"{_VP9} -pix_fmt yuv420p", ALL),
    ("vp9/ten-bit.mkv", f"{_VP9} -pix_fmt yuv420p10le", ALL),
    ("vp9/in-mp4.mp4", f"{_VP9} -pix_fmt yuv420p", ALL),
    ("vp9/hidden-frames.webm", f"{_VP9_HIDDEN} -vf scale=180:320", ALL),
    ("vp9/odd-size.webm", f"{_VP9} -pix_fmt yuv420p -vf scale=361:641", ALL),
    ("vp9/transparent.webm", f"{_VP9} -pix_fmt yuva420p", ALL),
    ("av1/svt.mp4", "-c:v libsvtav1 -preset 12 -crf 20 -svtav1-params lp=1 -pix_fmt yuv420p", ALL),
    ("av1/ten-bit.mkv", "-c:v libsvtav1 -preset 12 -crf 20 -svtav1-params lp=1 -pix_fmt yuv420p10le", ALL),
    ("av1/aom.webm", "-c:v libaom-av1 -cpu-used 8 -usage realtime -crf 20 -pix_fmt yuv420p", ALL),
    ("old/mpeg1.mpg", "-c:v mpeg1video -q:v 2 -bf 2", ALL),
    ("old/mpeg2.ts", "-c:v mpeg2video -q:v 2 -bf 2", ALL),
    ("old/mpeg2-interlaced.vob", "-c:v mpeg2video -q:v 2 -bf 2 -flags +ilme+ildct", ALL),
    ("old/mpeg2.mxf", "-c:v mpeg2video -q:v 2 -bf 2", ALL),
    ("old/mpeg4-no-pts.avi", "-c:v mpeg4 -q:v 2 -bf 2", ALL),
    ("old/mpeg4.mp4", "-c:v mpeg4 -q:v 2 -bf 2", ALL),
    ("old/divx3.avi", "-c:v msmpeg4 -q:v 2", ALL),
    ("old/windows.wmv", "-c:v wmv2 -q:v 2", ALL),
    ("old/sorenson.flv", "-c:v flv -q:v 2", ALL),
    ("old/theora.ogv", "-c:v libtheora -q:v 9", ALL),
    ("old/motion.avi", "-c:v mjpeg -q:v 2 -pix_fmt yuvj422p", ALL),
    ("old/huffyuv.avi", "-c:v huffyuv -pix_fmt yuv422p", ALL),
    ("old/animation.gif", "-vf setpts=N/25/TB -r 25", ALL),
    ("studio/prores.mov", "-c:v prores_ks -profile:v 1", ALL),
    ("studio/dnxhr.mov", "-c:v dnxhd -profile:v dnxhr_sq -pix_fmt yuv422p", ALL),
    ("studio/animation.mov", "-c:v qtrle", ALL),
    ("studio/pictures.mov", "-c:v png -vf scale=180:320", ALL),
    ("studio/ffv1.mkv", "-c:v ffv1 -pix_fmt yuv420p", ALL),
    ("studio/plain.y4m", "-pix_fmt yuv420p", ALL),
    ("studio/animation.apng", "-c:v apng -vf scale=180:320", ALL),
    ("size/wide-pixels.mp4", f"{_X264} -vf scale=270:640,setsar=4/3", ALL),
    ("size/tall-pixels.mkv", f"{_X264} -vf scale=360:480,setsar=3/4", ALL),
    ("size/odd.mp4", f"{_X264} -vf scale=361:641 -pix_fmt yuv444p", ALL),
    ("size/odd-four-two-zero.mkv", "-c:v ffv1 -pix_fmt yuv420p -vf scale=363:643", ALL),
    ("size/tiny.mp4", f"{_X264} -vf scale=120:212:flags=area -crf 6", ALL),
    ("size/4k.mp4", f"{_X264} -preset ultrafast -vf scale=2160:3840 -frames:v 8", ALL[:8]),
    ("time/variable.mp4", rf"{_X264} -vf select=not(mod(n\,2))+not(mod(n\,5)) -fps_mode vfr", _KEEP),
    ("time/variable.webm", rf"{_VP9} -pix_fmt yuv420p -vf select=not(mod(n\,2))+not(mod(n\,5)) -fps_mode vfr", _KEEP),
    ("time/gap.mkv", rf"{_X264} -vf setpts=PTS+gte(N\,12)*2/TB -fps_mode passthrough", ALL),
    ("time/1-a-second.mp4", f"{_X264} -vf setpts=N/TB -r 1", ALL),
    ("time/240-a-second.mp4", f"{_X264} -vf settb=1/240,setpts=N -fps_mode passthrough", ALL),
    ("time/ntsc.mp4", f"{_X264} -vf setpts=N*1001/30000/TB -r 30000/1001", ALL),
    ("time/late-start.mp4", f"{_X264} -output_ts_offset 3.7", ALL),
]  # fmt: skip

# Copied from h264/b-frames.mp4 under another name; each differs in its title, or it would be a duplicate.
_NAMES = (
    "names/with  spaces .mp4",
    "names/v1.2.final...mp4",
    "names/two\nlines.mp4",
    "names/\"quotes\" and 'quotes' `$(true)`.mp4",
    "names/-leading-dash.mp4",
    "names/踊り手 танцор راقصة.mp4",
    "names/💃🕺.mp4",
    f"names/{'long ' * 38}name.mp4",
    "names/pattern%03d.mp4",
    "names/[glob]*?{a,b}.mp4",
    "names/http:video.mp4",
    "names/concat:a|b.mp4",
    "names/back\\slash.mp4",
    "names/UPPER.MP4",
    "names/no-suffix",
    "names/it is a.mkv",
    "names/deep/er/and/deep/er/down.mp4",
)
_NOT_TEXT = os.fsdecode(b"names/not \xff\xfe utf-8.mp4")

# Stored turned, with a flag that turns it back: the flag, and the filter that turns.
_TURNED = {
    "turned/90.mp4": ("-display_rotation 90", "transpose=clock"),
    "turned/180.mp4": ("-display_rotation 180", "hflip,vflip"),
    "turned/270.mov": ("-display_rotation 270", "transpose=cclock"),
    "turned/mirror.mp4": ("-display_hflip", "hflip"),
    "turned/upside-down.mp4": ("-display_vflip", "vflip"),
    "turned/90-mirror.mp4": ("-display_rotation 90 -display_hflip", "transpose=clock_flip"),
}


class _Maker:
    """Writes the files below `folder`; everything is made from one file without loss."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder, self.scratch = folder, scratch
        self.base, self.plain, self.front = scratch / "base.mkv", scratch / "plain.mp4", scratch / "front.mp4"
        self.matroska, self.fragments, self.webm = scratch / "a.mkv", scratch / "fragments.mp4", scratch / "a.webm"
        self.transport, self.avi = scratch / "a.ts", scratch / "a.avi"
        self.other, self.copy = scratch / "other.ts", scratch / "copy.mp4"

    def ffmpeg(self, *arguments: object, data: bytes | None = None) -> bytes:
        """Run ffmpeg; texts are split at spaces, paths are not."""
        words = [w for a in arguments for w in (["file:" + str(a)] if isinstance(a, Path) else str(a).split())]
        command = [media.carried_ffmpeg(), "-hide_banner", "-v", "error", "-y", *words]
        done = subprocess.run(command, input=data, capture_output=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"{command} failed: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def path(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def begin(self) -> None:
        """The base, and the files that bad ones are made from."""
        found = media.read(fetch("sample-cam02"), size=SIZE[::-1], only=_sample_pts())
        pictures = []
        for number, (_, picture) in enumerate(found):
            write_number(picture, number)
            pictures.append(picture)
        assert len(pictures) == FRAMES
        self.pictures = pictures
        raw = f"-f rawvideo -pix_fmt rgb24 -s {SIZE[0]}x{SIZE[1]} -r 30 -i -"
        data = b"".join(p.tobytes() for p in pictures)
        self.ffmpeg(raw, "-c:v ffv1 -pix_fmt bgr0", self.base, data=data)
        self.ffmpeg("-i", self.base, _X264, _EXACT, self.plain)
        self.ffmpeg("-i", self.plain, "-c copy -movflags +faststart", _EXACT, self.front)
        self.ffmpeg("-i", self.plain, "-c copy -movflags +frag_keyframe+empty_moov", _EXACT, self.fragments)
        self.ffmpeg("-i", self.plain, "-c copy -metadata title=copy", _EXACT, self.copy)
        self.ffmpeg("-i", self.plain, "-c copy", _EXACT, self.matroska)
        self.ffmpeg("-i", self.plain, "-c copy", _EXACT, self.transport)
        self.ffmpeg("-i", self.base, _VP9, _EXACT, self.webm)
        self.ffmpeg("-i", self.base, "-c:v mpeg4 -q:v 2", _EXACT, self.avi)
        self.ffmpeg("-i", self.base, "-vf scale=180:320", _X264, _EXACT, self.other)
        secret = self.path(".targets/secret.ts")
        self.ffmpeg("-i", self.base, _X264, _EXACT, secret)

    def encoded(self, name: str, options: str, source: str = "") -> None:
        self.ffmpeg(source, "-i", self.base, options, _EXACT, self.path(name))

    def copied(self, name: str, before: str = "", options: str = "-c copy") -> None:
        """A copy without encoding, with a title of its own so that no two files are equal."""
        self.ffmpeg(before, "-i", self.plain, options, f"-metadata title={_sum(name)}", _EXACT, self.path(name))

    def turned(self, name: str) -> None:
        flag, turn = _TURNED[name]
        stored = self.scratch / f"{Path(name).stem}.mp4"
        self.ffmpeg("-i", self.base, f"-vf {turn}", _X264, _EXACT, stored)
        self.ffmpeg(flag, "-i", stored, "-c copy", _EXACT, self.path(name))

    def piped(self, name: str, options: str) -> None:
        """Written to a pipe, so that nothing can be put in afterwards: no index, no duration."""
        self.path(name).write_bytes(self.ffmpeg("-i", self.base, options, _EXACT, "pipe:1"))

    def write(self, name: str, data: bytes) -> None:
        self.path(name).write_bytes(data)


# The same bytes on every run and machine; one thread, since two processes share the cores.
_EXACT = "-fflags +bitexact -flags:v +bitexact -threads 1"


def _sum(name: str) -> int:
    """A number for a name that is the same on every run."""
    return zlib.crc32(os.fsencode(name))


def _sample_pts() -> list[int]:
    """Every second frame of the sample clip, so that the person moves as at 30 frames a second."""
    return [512 * n for n in ALL]


def make(folder: str | os.PathLike[str]) -> list[Case]:
    """Write the corpus below `folder` (made if missing) and return its cases, in order of their names.

    Takes about a minute on two cores. The same ffmpeg writes the same bytes.
    """
    root = Path(folder).absolute()
    with tempfile.TemporaryDirectory() as scratch:
        maker = _Maker(root, Path(scratch))
        maker.begin()
        tasks = [*_good(maker), *_bad(maker)]
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(write) for _, write in tasks]:
                done.result()
        cases = [case for case, _ in tasks]
    assert len({case.name for case in cases}) == len(cases)
    return sorted(cases, key=lambda case: case.name)


Task = tuple[Case, Callable[[], None]]


# --- good files ---------------------------------------------------------------------------------------------


def _good(m: _Maker) -> Iterator[Task]:
    for name, options, numbers in _ENCODED:
        yield Case(name, numbers), partial(m.encoded, name, options)
    for name in _TURNED:
        yield Case(name, ALL), partial(m.turned, name)
    for name in _NAMES:
        yield Case(name, ALL), partial(m.copied, name, options="-c copy -f mp4")
    yield Case(_NOT_TEXT, ALL, ("unreadable", "unsafe-path"), "inputs"), partial(m.copied, _NOT_TEXT)
    yield Case("time/edit-list.mp4", ALL[8:]), partial(m.copied, "time/edit-list.mp4", "-ss 0.25")
    yield Case("time/edit-list.mov", ALL[13:]), partial(m.copied, "time/edit-list.mov", "-ss 0.42")
    yield Case("matroska/no-index.mkv", ALL), partial(m.piped, "matroska/no-index.mkv", f"{_X264} -f matroska")
    yield Case("matroska/live.webm", ALL), partial(m.piped, "matroska/live.webm", f"{_VP9} -f webm -live 1")
    yield Case("matroska/wrong-suffix.mp4", ALL), partial(m.copied, "matroska/wrong-suffix.mp4", "", _AS_MATROSKA)
    yield from _with_other_streams(m)
    yield from _links(m)
    for suffix in ("png", "jpg", "bmp", "webp"):
        yield Case(f"folders/{suffix}", ALL), partial(_pictures, m, f"folders/{suffix}", suffix)
    zeros = "damaged/zeros-after-the-end.mp4"
    yield Case(zeros, ALL), lambda: m.write(zeros, m.front.read_bytes() + bytes(50_000))


def _with_other_streams(m: _Maker) -> Iterator[Task]:
    sound, small = _SOUND, "-f lavfi -i testsrc=s=160x120:r=30:d=0.8"
    streams = {
        "streams/sound.mp4": ("", f"{sound} -map 0:v -map 1:a -c:v copy -c:a aac"),
        "streams/sound-first.mp4": ("-itsoffset 0.7", f"{sound} -map 1:a -map 0:v -c:v copy -c:a aac"),
        "streams/sound-later.mkv": ("", f"-itsoffset 0.5 {sound} -map 0:v -map 1:a -c:v copy -c:a aac"),
        "streams/two-videos.mp4": ("", f"{small} -map 1:v -map 0:v {_X264}"),
        "streams/two-videos.mkv": ("", f"{small} -map 1:v -map 0:v {_X264}"),
    }
    for name, (before, options) in streams.items():
        yield Case(name, ALL), partial(m.copied, name, before, options)
    yield Case("streams/cover.mp4", ALL), partial(_cover, m, "streams/cover.mp4")


def _cover(m: _Maker, name: str, sound: str = "") -> None:
    picture = m.scratch / f"{_sum(name)}.png"
    cv2.imwrite(str(picture), np.full((1200, 1200, 3), 90, np.uint8))
    maps = "-map 0 -map 1:v -c copy -disposition:v:1 attached_pic"
    if sound:
        m.ffmpeg(sound, "-i", picture, "-map 0:a -map 1:v -c:v copy -disposition:v attached_pic", _EXACT, m.path(name))
    else:
        m.ffmpeg("-i", m.plain, "-i", picture, maps, _EXACT, m.path(name))


def _links(m: _Maker) -> Iterator[Task]:
    def link() -> None:
        m.copied(".targets/linked.mp4")
        m.path("links/link.mp4").symlink_to("../.targets/linked.mp4")

    def broken() -> None:
        m.path("links/broken.mp4").symlink_to("gone.mp4")

    def pipe() -> None:
        os.mkfifo(m.path("links/pipe.mp4"))

    yield Case("links/link.mp4", ALL), link
    yield Case("links/broken.mp4", codes=("unreadable", "unsafe-path"), where="inputs"), broken
    yield Case("links/pipe.mp4", codes=("unreadable", "unsafe-path"), where="inputs"), pipe


def _pictures(m: _Maker, name: str, suffix: str) -> None:
    m.path(name).mkdir()
    quick = {"png": [cv2.IMWRITE_PNG_COMPRESSION, 1], "webp": [cv2.IMWRITE_WEBP_QUALITY, 90]}.get(suffix, [])
    for number, picture in enumerate(m.pictures):
        # Without leading zeros: the order is that of the numbers.
        assert cv2.imwrite(str(m.path(f"{name}/frame {number}.{suffix}")), picture[..., ::-1], quick)


# --- bad files ----------------------------------------------------------------------------------------------


def _bad(m: _Maker) -> Iterator[Task]:
    yield from _no_videos(m)
    yield from _cut_off(m)
    yield from _damaged(m)
    yield from _useless(m)


def _no_videos(m: _Maker) -> Iterator[Task]:
    rng = np.random.default_rng(3)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(zipfile.ZipInfo("video.mp4"), rng.bytes(5000))
    elsewhere = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{}\n#EXT-X-ENDLIST\n"
    files = {
        "empty.mp4": b"",
        "one-byte.mp4": b"\0",
        "zeros.mp4": bytes(20_000),
        "text.mp4": b"dear diary, " * 800,
        "page.mp4": b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n" * 30,
        "random.mp4": rng.bytes(50_000),
        "archive.mp4": archive.getvalue(),
        "header.mp4": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41",
        "header.mkv": bytes.fromhex("1a45dfa3a34286810142f7810142f2810442f381084282886d6174726f736b61"),
        "header.avi": b"RIFF\xff\xff\xff\x7fAVI LIST",
        "playlist.m3u8": elsewhere.format("../.targets/secret.ts").encode(),
        "playlist.mp4": elsewhere.format("http://127.0.0.1:9/a.ts").encode(),
        "concat.mp4": b"ffconcat version 1.0\nfile ../.targets/secret.ts\n",
        "session.sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    }
    for name, data in files.items():
        yield Case(f"no-video/{name}", codes=("unreadable",)), partial(m.write, f"no-video/{name}", data)
    sound, song = "no-video/sound.mp4", "no-video/song-with-cover.mp3"
    yield Case(sound, codes=("no-video-stream",)), lambda: m.ffmpeg(_SOUND, "-c:a aac", _EXACT, m.path(sound))
    yield Case(song, codes=("no-video-stream",)), partial(_cover, m, song, _SOUND)


def _cut_off(m: _Maker) -> Iterator[Task]:
    def cut(source: Path, share: float, name: str) -> None:
        data = source.read_bytes()
        m.write(name, data[: int(share * len(data))])

    plan = [(m.plain, "index-last", share, "unreadable") for share in (0.25, 0.5, 0.9, 0.999)]
    plan += [(m.front, "index-first", share, "truncated") for share in (0.1, 0.4, 0.7, 0.999)]
    plan += [(m.matroska, "matroska", share, "truncated") for share in (0.2, 0.5)]
    plan += [(m.webm, "webm", share, "truncated") for share in (0.2, 0.5)]
    plan += [(m.fragments, "fragments", 0.3, "truncated"), (m.front, "head", 0.005, "unreadable")]
    for source, kind, share, code in plan:
        name = f"cut/{kind}-{share}{source.suffix}"
        yield Case(name, codes=(code,)), partial(cut, source, share, name)
    # What has no index and no length that could be missed gives what is there.
    yield Case("cut/stream.ts", ALL, damaged=True), partial(cut, m.transport, 0.6, "cut/stream.ts")
    yield Case("cut/old.avi", ALL, ("truncated",), damaged=True), partial(cut, m.avi, 0.6, "cut/old.avi")


def _damaged(m: _Maker) -> Iterator[Task]:
    def changed(name: str, change: Callable[[bytearray], bytes | bytearray], source: Path = m.front) -> None:
        m.write(name, bytes(change(bytearray(source.read_bytes()))))

    def flips(seed: int, count: int) -> Callable[[bytearray], bytearray]:
        def change(data: bytearray) -> bytearray:
            rng = np.random.default_rng(seed)
            for at in rng.integers(data.index(b"mdat") + 100, len(data), count):
                data[at] ^= 1 << int(rng.integers(8))
            return data

        return change

    def unknown(data: bytearray) -> bytes:
        at = data.index(b"stsd")
        return bytes(data[:at]) + bytes(data[at:]).replace(b"avc1", b"zzzz", 1).replace(b"avcC", b"zzzz", 1)

    def zeroed(first: float, last: float) -> Callable[[bytearray], bytearray]:
        def change(data: bytearray) -> bytearray:
            start, stop = int(first * len(data)), int(last * len(data))
            data[start:stop] = bytes(stop - start)
            return data

        return change

    def no_index(data: bytearray) -> bytearray:
        at = data.index(b"moov")
        size = int.from_bytes(data[at - 4 : at], "big")
        data[at + 4 : at - 4 + size] = bytes(size - 8)
        return data

    def no_pictures(data: bytearray) -> bytearray:
        with av.open(str(m.front)) as container:
            packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
        for at, size in packets:
            data[at : at + size] = bytes(size)
        return data

    def huge_box(data: bytearray) -> bytearray:
        at = data.index(b"trak")
        data[at - 4 : at] = b"\x7f\xff\xff\xff"
        return data

    def huge_count(data: bytearray) -> bytearray:
        at = data.index(b"stsz")
        data[at + 12 : at + 16] = b"\x7f\xff\xff\xff"
        return data

    def huge_picture(data: bytearray) -> bytearray:
        at = data.index(b"avc1", data.index(b"stsd"))
        data[at + 28 : at + 32] = b"\xff\xff\xff\xff"
        return data

    for seed, count in ((1, 1), (2, 5), (3, 40), (4, 400)):
        name = f"damaged/{count}-flips.mp4"
        yield (
            Case(name, ALL, ("no-frames", "too-short"), damaged=True),
            partial(changed, name, flips(seed, count)),
        )
    surgery = {
        "zero-tail": (zeroed(0.6, 1.0), ALL),
        "zero-middle": (zeroed(0.5, 0.55), ALL),
        "huge-picture": (huge_picture, ALL),
        "huge-box": (huge_box, ALL),
        "zero-index": (no_index, "no-video-stream"),
        "huge-count": (huge_count, "unreadable"),
        "zero-pictures": (no_pictures, "no-frames"),
        "unknown-codec": (unknown, "unreadable"),
    }
    for kind, (change, result) in surgery.items():
        name = f"damaged/{kind}.mp4"
        case = Case(name, codes=(result,)) if isinstance(result, str) else Case(name, result, damaged=True)
        yield case, partial(changed, name, change)
    key = "-encryption_scheme cenc-aes-ctr -encryption_key 76a6c65c5ea762046bd749a2e632ccbb"
    secret = "damaged/encrypted.mp4"
    yield (
        Case(secret, codes=("no-frames", "unreadable")),
        partial(m.copied, secret, "", f"-c copy {key} -encryption_kid a7e61c373e219033c21091fa607bf3b8"),
    )
    size = "damaged/two-sizes.ts"
    yield Case(size, codes=("unreadable",)), lambda: m.write(size, m.transport.read_bytes() + m.other.read_bytes())


def _useless(m: _Maker) -> Iterator[Task]:
    """Sound files that no clip can come of."""
    still, nobody = "-vf loop=loop=59:size=1,trim=end_frame=60", "-f lavfi -i testsrc=s=320x240:r=20:d=1"
    made = {
        "one-frame.mp4": ("too-short", f"{_X264} -frames:v 1", ALL[:1]),
        "four-frames.mp4": ("too-short", f"{_X264} -frames:v 4", ALL[:4]),
        "still.mp4": ("static", f"{still} {_X264}", (0,) * 60),
        "far-away.mp4": ("person-too-small", f"-vf scale=54:96:flags=area,pad=640:360:300:200:gray {_X264}", None),
    }
    for name, (code, options, numbers) in made.items():
        codes = (code, "no-person") if numbers is None else (code,)
        yield Case(f"useless/{name}", numbers or (), codes, "scan"), partial(m.encoded, f"useless/{name}", options)
    for name, options in (("nobody.mp4", ""), ("black.mp4", "-vf drawbox=t=fill:c=black")):
        path = f"useless/{name}"
        write = partial(lambda p, o: m.ffmpeg(nobody, o, _X264, _EXACT, m.path(p)), path, options)
        yield Case(path, (), ("no-person", "static"), "scan"), write
    picture = "useless/picture.mp4"
    data = cv2.imencode(".jpg", m.pictures[0][..., ::-1])[1].tobytes()
    yield Case(picture, (0,), ("too-short",), "scan"), partial(m.write, picture, data)
    first, second = "twice/first.mp4", "twice/second.mp4"
    yield Case(first, ALL), lambda: m.write(first, m.copy.read_bytes())
    yield Case(second, ALL, ("duplicate",), "plan"), lambda: m.write(second, m.copy.read_bytes())
    yield from _bad_folders(m)


def _bad_folders(m: _Maker) -> Iterator[Task]:
    def folder(name: str, number: int, change: Callable[[bytes], bytes]) -> None:
        _pictures(m, name, "png")
        path = m.path(f"{name}/frame {number}.png")
        path.write_bytes(change(path.read_bytes()))

    small = cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    plan = {
        "cut": (lambda data: data[:-100], "truncated"),
        "text": (lambda data: b"no picture", "unreadable"),
        "another-size": (lambda data: small, "unreadable"),
    }
    for kind, (change, code) in plan.items():
        yield Case(f"folders/{kind}", codes=(code,)), partial(folder, f"folders/{kind}", 7, change)
