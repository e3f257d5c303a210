"""Probe, decode and write videos. Time is PTS; the picture is the displayed one.

The reference decoder is PyAV read in order: variable frame rate, edit lists and B-frames come out right, and
nothing depends on the frame count that a container claims. The displayed picture is the stored one with
non-square pixels made square, mirrored and turned as its display matrix says; every size and crop here is in
displayed pixels. Only local files are opened.

A folder of pictures (PNG, JPEG, BMP, WebP) is a video too: a frame a file, in natural order of the names, at a
frame rate that the caller gives. An EXIF orientation is not applied to them.

What comes out is 8-bit RGB by the matrix and range that the file names. Deeper pictures are rounded to 8 bits.
There is no tone mapping: HDR (PQ, HLG) keeps its code values and looks flat. Interlaced pictures come out as they
are coded, both fields woven. Transparency is dropped.
"""

from __future__ import annotations

from remot_data.media.container import VideoError
from remot_data.media.folders import frame_names
from remot_data.media.probing import Probe, probe, round_crop
from remot_data.media.reading import read
from remot_data.media.times import pick
from remot_data.media.with_decord import decord_agrees
from remot_data.media.writing import (
    EncodeError,
    VideoWriter,
    carried_ffmpeg,
    chosen_ffmpeg,
    cut,
    ffmpeg_binary,
    join,
    mux_audio,
    retime,
)

__all__ = [
    "EncodeError",
    "Probe",
    "VideoError",
    "VideoWriter",
    "carried_ffmpeg",
    "chosen_ffmpeg",
    "cut",
    "decord_agrees",
    "ffmpeg_binary",
    "frame_names",
    "join",
    "mux_audio",
    "pick",
    "probe",
    "read",
    "retime",
    "round_crop",
]
