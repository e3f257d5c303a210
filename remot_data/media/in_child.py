"""Videos and image files in a child process that can be killed: what `media` does, for files that are not trusted.

A file that hangs a decoder, crashes it or makes it eat memory ends in an error here. Functions have the names and give
the results of those of `media`; warnings come out of the loggers they were given to.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from remot_data.media import pictures, probing, reading, sandbox, writing
from remot_data.media.container import VideoError
from remot_data.media.pictures import Picture
from remot_data.media.probing import Probe
from remot_data.records import HW, XYWH

# Whoever reads a video sets the pace, maybe for days.
READING = sandbox.Limits(total=math.inf)


def probe(path: str | Path, fps: float | None = None, times: str | None = "continued") -> Probe:
    """As `media.probe`.

    Raises:
        VideoError: as `media.probe`.
        ChildError: it hung, crashed or took too much memory; like those of all functions here, it names the file.
    """
    header, _ = _made(path, "probe", {"path": str(path), "fps": fps, "times": times})
    return Probe.from_json(header["made"])


def image(path: str | Path) -> Picture | None:
    """As `pictures.picture`: an image file as it is to be seen; None if it is no image.

    Raises:
        VideoError: as `pictures.picture`.
        ChildError: as `probe`.
    """
    header, payload = _made(path, "image", {"path": str(path)})
    return Picture(_picture(header, payload), tuple(header["notes"])) if "shape" in header else None


def first_frame(path: str | Path) -> np.ndarray:
    """The first frame of a video, uint8 [H, W, 3] RGB.

    Raises:
        VideoError: as `media.read`, and ``no-frames`` where it has none.
        ChildError: as `probe`.
    """
    return _picture(*_made(path, "first_frame", {"path": str(path)}))


def read(
    path: str | Path,
    *,
    start_pts: int | None = None,
    end_pts: int | None = None,
    only: Collection[int] | None = None,
    crop: XYWH | None = None,
    size: HW | None = None,
    fps: float | None = None,
    times: str | None = "continued",
    outside: str | None = None,
) -> Generator[tuple[int, np.ndarray], None, None]:
    """As `media.read`, with the default decoder. Closed early, it kills the child.

    Raises:
        VideoError: as `media.read`.
        ChildError: as `probe`.
    """
    span = {"start_pts": start_pts, "end_pts": end_pts, "only": None if only is None else list(only)}
    shown = {"crop": crop, "size": size, "fps": fps, "times": times, "outside": outside}
    arguments = {"path": str(path), **span, **shown}
    with closing(_called(path, "frames", arguments, READING)) as messages:
        for pts, frame in received(messages):
            yield pts, frame.copy()


def cut(path: str | Path, out: str | Path, start: float, end: float) -> None:
    """As `media.cut`.

    Raises:
        VideoError, EncodeError: as `media.cut`.
        ChildError: as `probe`; also where the part is empty or lies outside the video.
    """
    _made(path, "cut", {"path": str(path), "out": str(out), "start": start, "end": end}, _writing(60 * end))


def mux_audio(video: str | Path, sound_from: str | Path, out: str | Path, start: float = 0.0) -> None:
    """As `media.mux_audio`.

    Raises:
        VideoError, EncodeError: as `media.mux_audio`.
        ChildError: as `probe`; also where `sound_from` has no sound.
    """
    arguments = {"video": str(video), "sound_from": str(sound_from), "out": str(out), "start": start}
    _made(sound_from, "mux_audio", arguments, _writing(os.path.getsize(sound_from) / 1e5))


def _writing(seconds: float) -> sandbox.Limits:
    """For ffmpeg, which gives no sign of life while it works, and takes more memory with more cores."""
    return sandbox.Limits(stall=120 + seconds, total=math.inf, memory=2**34)


def received(messages: Iterator[sandbox.Message]) -> Iterator[tuple[int, np.ndarray]]:
    """PTS and pictures, uint8 [H, W, 3] that cannot be written to, out of what `frames` yields in a child."""
    for header, payload in messages:
        _tell(header)
        if "pts" in header:
            yield header["pts"], _picture(header, payload)


def _called(
    path: str | Path, function: str, arguments: Mapping[str, Any], limits: sandbox.Limits | None = None
) -> Generator[sandbox.Message, None, None]:
    """What a function of this module yields in a child; where that is ended or dies, the error names the file."""
    try:
        with closing(sandbox.call(f"{__name__}:{function}", arguments, limits)) as messages:
            yield from messages
    except sandbox.ChildError as error:
        raise sandbox.ChildError(error.code, f"{path}: {error.detail}", error.by_signal) from error


def _made(
    path: str | Path, work: str, arguments: Mapping[str, Any], limits: sandbox.Limits | None = None
) -> sandbox.Message:
    ((header, payload),) = _called(path, "working", {"work": work, "arguments": dict(arguments)}, limits)
    _tell(header)
    return header, payload


def _picture(header: Mapping[str, Any], payload: bytes) -> np.ndarray:
    return np.frombuffer(payload, np.uint8).reshape(header["shape"])


def _tell(header: Mapping[str, Any]) -> None:
    for name, words in header.get("said", ()):
        logging.getLogger(name).warning("%s", words)


# In the child


def frames(path: str, **options: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """What the child does for `read`: every frame, signs of life on the way to the first, and warnings."""
    with kept() as said:
        for pts, frame in reading.read(path, passing=True, **options):
            yield ({"pts": pts, "shape": frame.shape}, frame) if frame.size else ({}, b"")
    if said:
        yield {"said": said}, b""


def working(work: str, arguments: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], Any]]:
    """What the child does for the others: one piece of work, of which the only message tells what it gave."""
    with kept() as said:
        made = _WORK[work](**arguments)
    if isinstance(made, np.ndarray):
        made = Picture(made)
    if isinstance(made, Picture):
        header = {"said": said, "shape": made.pixels.shape, "notes": list(made.notes)}
        yield header, np.ascontiguousarray(made.pixels)
    else:
        yield {"said": said, "made": made.to_json() if made else None}, b""


def _first_frame(path: str) -> np.ndarray:
    for _, frame in reading.read(path):
        return frame
    raise VideoError("no-frames", f"{path}: no frame could be decoded")


_WORK: dict[str, Callable[..., Any]] = {
    "probe": probing.probe,
    "image": pictures.picture,
    "first_frame": _first_frame,
    "cut": writing.cut,
    "mux_audio": writing.mux_audio,
}


class _Keeping(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append((record.name, record.getMessage()))


@contextmanager
def kept() -> Iterator[list[tuple[str, str]]]:
    """Name of the logger and words of the warnings of this package."""
    handler, logger = _Keeping(), logging.getLogger("remot_data")
    logger.addHandler(handler)
    try:
        yield handler.said
    finally:
        logger.removeHandler(handler)
