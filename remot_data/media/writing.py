"""Writing, joining and cutting videos by ffmpeg."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.container
import numpy as np

from remot_data.errors import RemotError
from remot_data.media.container import SEEKABLE, in_order, open_container, video_stream
from remot_data.media.probing import Probe, probe
from remot_data.records import HW
from remot_data.store.disk import into_place

log = logging.getLogger(__name__)


class EncodeError(RemotError, RuntimeError):
    """ffmpeg refused to write a video; the message ends with ffmpeg's own words."""


def ffmpeg_binary() -> str:
    """The ffmpeg that writes videos: the one that `REMOT_FFMPEG` names, or else the carried one.

    Not the first on the PATH: another version may write other bytes, or drop what it does not know.

    Raises:
        EncodeError: there is none.
    """
    return chosen_ffmpeg() or carried_ffmpeg()


def chosen_ffmpeg() -> str | None:
    """The program that the environment variable `REMOT_FFMPEG` names, a path or a name on the PATH; None if unset.

    Raises:
        EncodeError: it is no program.
    """
    name = os.environ.get("REMOT_FFMPEG")
    if not name:
        return None
    found = shutil.which(name)
    if found is None:
        raise EncodeError(f"REMOT_FFMPEG={name} is no program that can be run; unset it to use the carried ffmpeg")
    return os.path.abspath(found)


def carried_ffmpeg() -> str:
    """The program in the wheel of imageio-ffmpeg.

    Raises:
        EncodeError: the package carries none.
    """
    # Not `imageio_ffmpeg.get_ffmpeg_exe`: where it finds none of its own, that answers with any other.
    try:
        import imageio_ffmpeg

        folders = list(imageio_ffmpeg.__path__)
    except ImportError:
        folders = []
    for path in sorted(path for folder in folders for path in Path(folder, "binaries").glob("ffmpeg-*")):
        if os.access(path, os.X_OK):
            return str(path)
    raise EncodeError(
        f"imageio-ffmpeg carries no ffmpeg that can be run ({', '.join(folders) or 'it is not installed'}): "
        "install its wheel for this machine, or set REMOT_FFMPEG to the path of another ffmpeg, 5.1 or newer"
    )


def _input(path: str | Path, **options: Any) -> Any:
    """A local file as an input of an ffmpeg command."""
    import ffmpeg

    return ffmpeg.input("file:" + os.path.abspath(path), protocol_whitelist="file", **options)


def _part(out: Path) -> Path:
    """A temporary name beside `out`; the suffix stays, since it chooses the container."""
    return out.with_name(f".{out.stem}.{uuid.uuid4().hex[:12]}.part{out.suffix}")


class _Encoding:
    """A running ffmpeg that writes `out` under a temporary name until it is whole."""

    def __init__(self, out: Path, streams: list[Any], options: dict[str, Any]) -> None:
        import ffmpeg

        self._out, self._part = out, _part(out)
        # A frame in is a frame out. Left to itself, ffmpeg doubles or drops frames as version and container have it.
        options = {"fps_mode": "passthrough", **options}
        node = ffmpeg.output(*streams, "file:" + os.path.abspath(self._part), **options)
        command = node.global_args("-hide_banner", "-v", "error", "-y").compile(cmd=ffmpeg_binary())
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
            )
        except OSError as error:
            self._errors.close()
            raise EncodeError(f"{out} cannot be written: ffmpeg does not start: {error}") from error

    def write(self, data: bytes | memoryview) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
        except BrokenPipeError as error:
            raise self._failed() from error

    def finish(self) -> None:
        """Wait for ffmpeg and give the file its name."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError as error:
            raise self._failed() from error
        if self._process.wait():
            raise self._failed()
        into_place(self._part, self._out)

    def close(self) -> None:
        """Stop ffmpeg if it still runs and remove what is not finished."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdin is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                log.debug("ffmpeg had already closed its input")
        self._errors.close()
        self._part.unlink(missing_ok=True)

    def _failed(self) -> EncodeError:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        words = "; ".join(line.strip() for line in lines[-4:]) or "it gave no reason"
        return EncodeError(f"{self._out} cannot be written: ffmpeg ended with status {status}: {words}")


def _h264(crf: int) -> dict[str, Any]:
    """H.264 that every player and browser opens, tagged with the colours it has."""
    return {
        "vcodec": "libx264",
        "crf": crf,
        "pix_fmt": "yuv420p",
        "movflags": "+faststart",
        "vf": "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int",
        "colorspace": "bt709",
        "color_primaries": "bt709",
        "color_trc": "bt709",
        "color_range": "tv",
    }


class VideoWriter:
    """Write RGB frames as an H.264 video of constant frame rate; a context manager.

    The file appears under its name when the block ends without an error, and not at all otherwise.

    Args:
        path: the file; its suffix chooses the container (``.mp4``, ``.mkv``, ``.mov``).
        fps: frames a second.
        size: (H, W) of the frames, both even (4:2:0 has no odd sizes).
        crf: quality of x264, 0 (lossless) to 51; 18 looks like the original.
    """

    def __init__(self, path: str | Path, fps: float | Fraction, size: HW, *, crf: int = 18) -> None:
        if fps <= 0:
            raise ValueError(f"a frame rate has to be positive, not {fps}")
        if size[0] % 2 or size[1] % 2 or min(size) <= 0:
            raise ValueError(f"H.264 needs an even height and width, not {size[0]} x {size[1]}; pad the frames by one")
        self.path = Path(path)
        self.size = (int(size[0]), int(size[1]))
        self.frames = 0
        self._rate, self._crf = Fraction(fps).limit_denominator(1001), crf

    def __enter__(self) -> VideoWriter:
        import ffmpeg

        if not self.path.parent.is_dir():
            raise EncodeError(f"{self.path} cannot be written: there is no folder {self.path.parent}")
        height, width = self.size
        pipe = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=str(self._rate))
        self._encoding = _Encoding(self.path, [pipe], _h264(self._crf))
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append a frame, uint8 [H, W, 3] RGB."""
        if frame.shape != (*self.size, 3) or frame.dtype != np.uint8:
            raise ValueError(f"{self.path} takes uint8 frames of {(*self.size, 3)}, not {frame.dtype} {frame.shape}")
        self._encoding.write(np.ascontiguousarray(frame).data)
        self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and not self.frames:
                raise EncodeError(f"{self.path} cannot be written: it was given no frame")
            if kind is None:
                self._encoding.finish()
        finally:
            self._encoding.close()


def _encode(out: str | Path, streams: list[Any], options: dict[str, Any]) -> None:
    encoding = _Encoding(Path(out), streams, options)
    try:
        encoding.finish()
    finally:
        encoding.close()


def join(parts: Sequence[str | Path], out: str | Path) -> None:
    """Write the pictures of videos of one size, rate and encoding one after the other, untouched and without sound.

    All have to lie in one folder; a list of them is there while it is read.

    Raises:
        EncodeError: ffmpeg failed.
    """
    import ffmpeg

    names = [Path(part).name for part in parts]
    listing = Path(parts[0]).with_name(f".{uuid.uuid4().hex[:12]}.txt")
    try:
        listing.write_text("".join(f"file '{name}'\n" for name in names), encoding="utf-8")
        source = ffmpeg.input("file:" + os.path.abspath(listing), format="concat", protocol_whitelist="file")
        _encode(out, [source["v:0"]], {"vcodec": "copy", "movflags": "+faststart"})
    finally:
        listing.unlink(missing_ok=True)


def retime(video: str | Path, out: str | Path, pts: Sequence[int], unit: tuple[int, int]) -> None:
    """Write the pictures of an H.264 `video`, untouched and without sound, at other times.

    Args:
        pts: when each frame is shown, strictly increasing, from 0, in `unit` (numerator, denominator) seconds. The last
            is shown as long as the one before it.

    Raises:
        ValueError: not a time for each frame.
        EncodeError: the file cannot be written.
    """
    with av.open(str(video)) as source:
        shown = [packet.pts for packet in source.demux(video=0) if packet.size and packet.pts is not None]
    rank = np.argsort(np.argsort(shown))  # of each packet, in decoding order
    if len(rank) != len(pts) or (np.diff(pts) <= 0).any():
        raise ValueError(f"{len(pts)} times that increase are asked for, of {len(rank)} frames")
    last = pts[-1] - pts[-2] if len(pts) > 1 else round(unit[1] / unit[0] / 25)
    delay = int(max(np.arange(len(rank)) - rank))
    decoded, ends = [*(pts[0] - last * n for n in range(delay, 0, -1)), *pts], [*pts[1:], pts[-1] + last]
    part = _part(Path(out))
    try:
        with av.open(str(video)) as source, av.open(str(part), "w", options={"movflags": "faststart"}) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            stream.time_base = Fraction(*unit)
            packets = (packet for packet in source.demux(video=0) if packet.size)
            for number, packet in enumerate(packets):
                packet.stream, packet.time_base = stream, Fraction(*unit)
                packet.pts, packet.dts = pts[rank[number]], decoded[number]
                packet.duration = ends[rank[number]] - packet.pts
                target.mux(packet)
        os.replace(part, out)
    except (av.error.FFmpegError, OSError) as error:
        raise EncodeError(f"{out} cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def mux_audio(video: str | Path, sound_from: str | Path, out: str | Path, start: float = 0.0) -> None:
    """Write `out` with the pictures of `video`, untouched, and the sound of `sound_from` from its first frame on.

    AAC and MP3 are copied, any other sound becomes AAC. The sound is cut where the pictures end; where it ends
    earlier the pictures go on in silence.

    Args:
        start: seconds after the first frame of `sound_from` from which its sound is taken, encoded anew.

    Raises:
        ValueError: `sound_from` has no sound.
        EncodeError: ffmpeg failed.
    """
    heard, shown = probe(sound_from), probe(video)
    if not heard.has_audio:
        raise ValueError(f"{sound_from} has no sound to copy")
    with open_container(sound_from) as container:
        codec = container.streams.audio[0].codec_context.name
        skip = float(_before_the_first_frame(container, heard)) + start
        sought = container.format.name.startswith(SEEKABLE[:2]) and in_order(sound_from)
    options = {"vcodec": "copy", "acodec": "copy" if codec in ("aac", "mp3") and not start else "aac"}
    if start and not sought:
        sound = _input(sound_from)
        options["af"] = f"atrim=start={skip:.6f},asetpts=PTS-{skip:.6f}/TB"
    else:
        sound = _input(sound_from, **({"ss": f"{skip:.6f}"} if skip > 0 else {}))
    options.update(movflags="+faststart", t=f"{shown.seconds:.6f}")
    _encode(out, [_input(video)["v:0"], sound["a:0"]], options)


def cut(path: str | Path, out: str | Path, start: float, end: float) -> None:
    """Write the part of a video from `start` to `end` (seconds from its first frame), encoded anew, with its sound.

    Every frame of the part comes out once, as long after the others as it was. Times are rounded to the time base of
    the video.

    Raises:
        ValueError: the part is empty or lies outside the video, or the video is a folder of pictures.
        VideoError: as `probe`.
        EncodeError: ffmpeg failed.
    """
    found = probe(path)
    if found.codec == "images":
        raise ValueError(f"{path} is a folder of pictures; copy the files of the part that is wanted")
    if not 0 <= start < min(end, found.seconds):
        raise ValueError(f"{path} of {found.seconds:.2f} s has no part from {start} s to {end} s")
    with open_container(path) as container:
        sought = container.format.name.startswith(SEEKABLE[:2]) and in_order(path)
        first = start + max(float(_before_the_first_frame(container, found)), 0.0)
        shown = str(video_stream(container, path).index)
    # By the clock: a duration (-t) would begin to count at the first frame of the part. Where a seek may land behind
    # its target, everything is decoded and the clock set back.
    if sought:
        source, trim, back = _input(path, ss=f"{first:.6f}"), f"trim=end={end - start:.6f}", "null"
    else:
        source, trim = _input(path), f"trim=start={first:.6f}:end={first + end - start:.6f}"
        back = f"setpts=PTS-{first:.6f}/TB"
    # In the source's own time base: the encoder's would be the average frame time, which a variable rate does not keep.
    options = {**_h264(18), "enc_time_base:v": "/".join(map(str, found.time_base))}
    options["vf"] = f"{trim},{back},{options['vf']}"
    streams = [source[shown]]
    if found.has_audio:
        streams.append(source["a:0"])
        options.update(acodec="aac", af=f"a{trim},a{back}")
    _encode(out, streams, options)


def _before_the_first_frame(container: av.container.InputContainer, found: Probe) -> Fraction:
    """Seconds from ffmpeg's zero, where the first of all streams begins, to the first frame."""
    return found.first_pts * Fraction(*found.time_base) - Fraction(container.start_time or 0, av.time_base)
