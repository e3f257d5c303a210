"""What a video is: size, orientation, codec, times; measured, not believed."""

from __future__ import annotations

import logging
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from remot_data.media.container import VideoError, frame_time, open_container, scan, time_base, video_stream
from remot_data.media.folders import decode_picture, folder_rate, frame_names
from remot_data.media.frames import frames_from
from remot_data.media.geometry import Geometry, orientation
from remot_data.records import WH, XYWH, Record

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probe(Record):
    """What a video is, measured by demuxing all of it and decoding one frame.

    `size` is the displayed width, height; `stored_size` that of the coded picture; `rotation` the degrees
    (0, 90, 180, 270) that the stored picture is turned counter-clockwise for display, after it was mirrored
    left to right where `mirrored` says so. `codec` is ``images`` for a folder of pictures. `frames` counts the
    packets that are to be shown (the container's own count is never used), `fps` is the average over them,
    `seconds` the time from the first frame to the end of the last. `first_pts` is in units of `time_base`
    (numerator, denominator) seconds.
    """

    size: WH
    stored_size: WH
    rotation: int
    codec: str
    time_base: tuple[int, int]
    frames: int
    fps: float
    seconds: float
    has_audio: bool
    first_pts: int
    mirrored: bool = False


def round_crop(crop: XYWH, video: Probe, inside: bool = False) -> XYWH:
    """The crop that `read` really uses for `crop`: even whole pixels of the stored picture.

    Even, because chroma is stored at half size; given in displayed pixels, so it is whole there too unless
    the pixels are not square. Rounding a rounded crop changes nothing, so record this one.

    Args:
        inside: a crop that lies in the picture still does when it is rounded, also where that has odd sides.

    Raises:
        ValueError: the crop lies wholly outside the picture.
    """
    turns = video.rotation // 90
    upright = video.size if turns % 2 == 0 else video.size[::-1]
    geometry = Geometry(video.stored_size, upright, turns, video.mirrored)
    x, y, w, h = geometry.to_displayed(XYWH(geometry.even_box(crop, inside)))
    return XYWH((float(x), float(y), float(w), float(h)))


def probe(path: str | Path, fps: float | None = None, times: str | None = "continued") -> Probe:
    """Size, rotation, codec, frame count and timing of a video; reads the whole file, decodes one frame.

    Where time stamps jump and are mended, all frames are decoded.

    A file that was cut off is found by its index, by a broken fragment, or by a Matroska header. What has none of
    these (MPEG-TS, AVI, a fragmented MP4 cut between two fragments) gives the frames that are there.

    Args:
        fps: frames a second of a folder of pictures, 30 by default; ignored for a file, which has times.
        times: what mends time stamps that jump, as for `read`.

    Raises:
        VideoError: ``unreadable``, ``no-video-stream``, ``truncated`` or ``no-frames``.
    """
    if os.path.isdir(path):
        return _probe_folder(path, fps)
    timing = scan(path)
    with closing(frames_from(path, None, times)) as frames:
        pts, frame = next(frames, (0, None))
        if frame is None:
            raise VideoError("no-frames", f"{path}: none of {len(timing.pts)} packets gives a frame")
        shown = [pts, *(p for p, _ in frames)] if times and timing.jumps else timing.pts
    with open_container(path) as container:
        stream = video_stream(container, path)
        end = timing.end if shown is timing.pts else shown[-1] + frame_time(stream)
        geometry = Geometry.of(frame, stream.sample_aspect_ratio)
        span = float((shown[-1] - shown[0]) * time_base(stream))
        nominal = float(stream.average_rate or stream.guessed_rate or 0)
        return Probe(
            size=geometry.displayed,
            stored_size=geometry.stored,
            rotation=geometry.turns * 90,
            mirrored=geometry.mirrored,
            codec=stream.codec_context.name,
            time_base=time_base(stream).as_integer_ratio(),
            frames=len(shown),
            fps=(len(shown) - 1) / span if span else nominal,
            seconds=float((end - shown[0]) * time_base(stream)),
            has_audio=bool(container.streams.audio),
            first_pts=pts,
        )


def _probe_folder(folder: str | Path, fps: float | None) -> Probe:
    names, rate = frame_names(folder), folder_rate(fps)
    frame = decode_picture(os.path.join(folder, names[0]))
    if orientation(frame) != (0, False):
        log.warning("%s: the EXIF orientation of its pictures is not followed; turn them before", folder)
    if any(part.is_alpha for part in frame.format.components) and frame.to_ndarray(format="rgba")[..., 3].min() < 255:
        log.warning("%s: its pictures are transparent in parts, which is dropped; lay them on a background", folder)
    return Probe(
        size=(frame.width, frame.height),
        stored_size=(frame.width, frame.height),
        rotation=0,
        codec="images",
        time_base=(rate.denominator, rate.numerator),
        frames=len(names),
        fps=float(rate),
        seconds=float(len(names) / rate),
        has_audio=False,
        first_pts=0,
    )
