"""Checks of what reads and writes video: ffmpeg, decoders and encoders, each with frames that were drawn for it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from remot_data.care.findings import Check, Finding

_FRAMES = 10

# What ffmpeg can write each codec with, and the options that make it quick and quiet.
_ENCODERS: dict[str, dict[str, tuple[str, ...]]] = {
    "h264": {"libx264": (), "libopenh264": ()},
    "hevc": {"libx265": ("-x265-params", "log-level=none"), "libkvazaar": ()},
    "vp9": {"libvpx-vp9": ("-deadline", "realtime", "-cpu-used", "8")},
    "av1": {"libaom-av1": ("-usage", "realtime", "-cpu-used", "8"), "libsvtav1": ("-preset", "12"), "librav1e": ()},
}
_FFMPEG_REMEDY = "pip install --force-reinstall imageio-ffmpeg, or set REMOT_FFMPEG to the path of another ffmpeg"
_PYAV_REMEDY = "pip install --force-reinstall av: its wheels carry these decoders"

# What writing, cutting and muxing ask of ffmpeg: options that try it, and what does not work without.
_NEEDED = {
    "-fps_mode (of FFmpeg 5.1)": (("-fps_mode", "passthrough"), "no video can be written"),
    "libx264": (("-c:v", "libx264", "-pix_fmt", "yuv420p"), "no video can be written"),
    "scale with colours": (("-vf", "scale=out_color_matrix=bt709:out_range=tv"), "no video can be written"),
    "trim and setpts": (("-vf", "trim=end=1,setpts=PTS-0/TB"), "no part can be cut out of a video"),
    "atrim and asetpts": (("-af", "atrim=end=1,asetpts=PTS-0/TB"), "no part can be cut out of a video with sound"),
    "aac": (("-c:a", "aac"), "a cut with sound fails, and sound that is neither AAC nor MP3 is left out"),
}


def _ffmpeg(out: str | None) -> Iterator[Finding]:
    from remot_data import media

    try:
        binary = media.ffmpeg_binary()
        first = _run([binary, "-hide_banner", "-version"]).stdout.decode(errors="replace").partition("\n")[0]
    except media.EncodeError as error:
        yield Finding("ffmpeg", "bad", str(error), _FFMPEG_REMEDY)
        return
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding("ffmpeg", "bad", f"it does not start: {error}", _FFMPEG_REMEDY)
        return
    version = re.match(r"ffmpeg version (\S+)", first)
    if version is None:
        yield Finding("ffmpeg", "bad", f"{binary} is no ffmpeg: it says {first[:80]!r}", _FFMPEG_REMEDY)
    elif media.chosen_ffmpeg() is None:
        wheel = f"imageio-ffmpeg {importlib.metadata.version('imageio-ffmpeg')}"
        yield Finding("ffmpeg", "ok", f"{version[1]}, the one that {wheel} carries, {binary}")
    else:
        yield _chosen(binary, f"{version[1]}, chosen by REMOT_FFMPEG, {binary}")


def _chosen(binary: str, detail: str) -> Finding:
    """Another ffmpeg than the carried one, with all that is needed or not."""
    drawn = _drawn()
    lacking = []
    for name, (options, loss) in _NEEDED.items():
        sound = options[0] in ("-af", "-c:a")
        source = ["-f", "s16le", "-ar", "44100"] if sound else _raw_frames(drawn)
        done = _run([binary, "-v", "error", *source, "-i", "-", *options, "-f", "null", "-"], drawn.tobytes())
        if done.returncode:
            lacking.append(f"{name} ({loss})")
    if lacking:
        detail += f"; it lacks {', '.join(lacking)}"
        return Finding("ffmpeg", "warn", detail, "unset REMOT_FFMPEG: the carried one has all that")
    return Finding("ffmpeg", "ok", detail)


def _raw_frames(drawn: np.ndarray) -> list[str]:
    return ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{drawn.shape[2]}x{drawn.shape[1]}", "-r", "30"]


def _writing(out: str | None) -> Iterator[Finding]:
    from remot_data import media

    drawn = _drawn()
    with _folder() as folder:
        path = folder / "written.mp4"
        try:
            with media.VideoWriter(path, 30, drawn.shape[1:3]) as writer:
                for frame in drawn:
                    writer.write(frame)
        except media.EncodeError as error:
            yield Finding("writing video", "bad", str(error), _FFMPEG_REMEDY)
            return
        wrong = _difference(media.read(path), drawn)
        if wrong:
            yield Finding("writing video", "bad", f"H.264 written with libx264: {wrong}", _PYAV_REMEDY)
            return
        yield Finding("writing video", "ok", f"{len(drawn)} frames written with libx264 and read back right")
        yield _decord(path, drawn)


def _decord(path: Path, drawn: np.ndarray) -> Finding:
    from remot_data import media

    if importlib.util.find_spec("decord") is None:
        return Finding("decord", "ok", "not installed; PyAV reads everything")
    if not media.decord_agrees(path):
        return Finding("decord", "warn", "it shows other frames than PyAV", "leave --decoder at pyav")
    wrong = _difference(media.read(path, decoder="decord"), drawn)
    if wrong:
        return Finding("decord", "warn", wrong, "leave --decoder at pyav")
    return Finding("decord", "ok", f"{importlib.metadata.version('decord')}, the same frames as PyAV")


def _decoders(out: str | None) -> Iterator[Finding]:
    from remot_data import media

    drawn = _drawn()
    with _folder() as folder:
        for codec in _ENCODERS:
            what = f"decoding {codec}"
            path = _encoded(codec, drawn, folder)
            try:
                wrong = _difference(media.read(path), drawn) if path else _no_decoder(codec)
            except media.VideoError as error:
                wrong = error.detail
            if wrong:
                yield Finding(what, "bad" if codec == "h264" else "warn", wrong, _PYAV_REMEDY)
            elif path:
                yield Finding(what, "ok", f"{len(drawn)} of {len(drawn)} frames right ({path.stem})")
            else:
                yield Finding(what, "ok", "PyAV has a decoder; not tried, as ffmpeg cannot write such a video here")


def _no_decoder(codec: str) -> str | None:
    import av

    try:
        av.codec.Codec(codec, "r")
    except av.codec.codec.UnknownCodecError as error:
        return f"PyAV has no decoder for {codec} ({error})"
    return None


def _encoded(codec: str, drawn: np.ndarray, folder: Path) -> Path | None:
    """A video of the drawn frames in this codec, by the first encoder that does it; None where none does."""
    from remot_data.media import EncodeError, ffmpeg_binary

    for encoder, options in _ENCODERS[codec].items():
        path = folder / f"{encoder}.mkv"
        written = ["-fps_mode", "passthrough", "-c:v", encoder, *options, "-pix_fmt", "yuv420p", str(path)]
        try:
            command = [ffmpeg_binary(), "-v", "error", "-y", *_raw_frames(drawn), "-i", "-", *written]
            done = _run(command, drawn.tobytes())
        except (OSError, EncodeError, subprocess.SubprocessError):
            return None  # `_ffmpeg` has said why.
        if done.returncode == 0:
            return path
    return None


def _run(command: Sequence[str], data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=data or b"", capture_output=True, timeout=10)


def _drawn() -> np.ndarray:
    """uint8 [10, 64, 128, 3]: a bright square moves over a slope, so that no two frames are alike."""
    y, x = np.indices((64, 128))
    frames = np.broadcast_to((x + y)[None, ..., None], (_FRAMES, 64, 128, 3)).astype(np.uint8)
    for t, frame in enumerate(frames):
        frame[16:48, 4 + 12 * t : 16 + 12 * t] = 250
    return frames


def _difference(read: Iterable[tuple[int, np.ndarray]], drawn: np.ndarray) -> str | None:
    """What is wrong with the frames that were read of a video of `drawn`; None where every frame is the right one."""
    found = list(read)
    if len(found) != len(drawn):
        return f"{len(found)} of {len(drawn)} frames came out"
    if any(b <= a for (a, _), (b, _) in zip(found, found[1:], strict=False)):
        return "the times of the frames do not increase"
    for t, (_, frame) in enumerate(found):
        away = np.abs(drawn.astype(np.int16) - frame).mean((1, 2, 3))
        if away.argmin() != t or away[t] > 6:
            return f"frame {t} is not the one that was written (its grey levels are {away[t]:.1f} off)"
    return None


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="remot-doctor-") as folder:
        yield Path(folder)


def _pictures(out: str | None) -> Iterator[Finding]:
    """The formats of pictures that are read, as sources of a transfer."""
    from remot_data.media.pictures import lacking

    lacks = lacking()
    if "Pillow" in lacks:
        yield Finding("pictures", "ok", "Pillow is not installed, and only the sources of a transfer need it")
        return
    detail = f"Pillow {importlib.metadata.version('pillow')}"
    if lacks:
        remedy = "; ".join(f"{kind}: {how}" for kind, how in lacks.items())
        yield Finding("pictures", "warn", f"{detail}; {' and '.join(lacks)} are not read", remedy)
        return
    yield Finding("pictures", "ok", f"{detail} and pi-heif {importlib.metadata.version('pi-heif')}")


# Each check, and what to do where the check itself crashes, hangs or fails.
CHECKS: dict[str, tuple[Check, str]] = {
    "ffmpeg": (_ffmpeg, _FFMPEG_REMEDY),
    "writing video": (_writing, _PYAV_REMEDY),
    "decoding": (_decoders, _PYAV_REMEDY),
    "pictures": (_pictures, 'pip install --force-reinstall "remot[train]"'),
}
