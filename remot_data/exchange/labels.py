"""Labels out of PNG files of whole pictures. They are decoded in a child process that can be killed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from remot_data.exchange.places import Unusable
from remot_data.media import sandbox
from remot_data.records import Clip
from remot_data.schemas import label_set
from remot_data.store import Store


def arrays(store: Store, clip: Clip, files: Sequence[str | None], schema: str) -> dict[str, np.ndarray]:
    """Labels uint8 [T, H, W]: at the centre of each pixel of a frame, that of the source pixel it lies in.

    Raises:
        Unusable: a file that is no such picture, or whose decoding hung, crashed or took too much memory.
    """
    arguments = {"clip": clip.to_json(), "files": files, "schema": schema, "size": store.size}
    labels, read = np.empty((clip.frames, *store.size), np.uint8), 0
    try:
        for _, data in sandbox.call("remot_data.exchange.labels:reading", arguments):
            labels[read] = np.frombuffer(data, np.uint8).reshape(store.size)
            read += 1
    except sandbox.ChildError as error:
        raise Unusable(f"{files[min(read, len(files) - 1)]} cannot be decoded: {error}") from error
    return {"labels": labels}


def reading(
    clip: Mapping[str, Any], files: Sequence[str], schema: str, size: tuple[int, int]
) -> Iterator[tuple[dict[str, Any], Any]]:
    """What the child does: the labels of every frame of a clip, in order, as bytes."""
    found = Clip.from_json(clip)
    rows, columns = _source_pixels(found, size)
    for path in files:
        whole = read_labels(path)
        if whole.shape[::-1] != tuple(found.source_size):
            shapes = (f"{w}x{h}" for w, h in (whole.shape[::-1], found.source_size))
            raise Unusable("{} is {}, the pictures of the video are {}".format(path, *shapes))
        labels = whole[np.ix_(rows, columns)]
        if labels.max() >= len(label_set(schema)):
            raise Unusable(f"{path} has the label {labels.max()}, which is outside {schema}")
        yield {}, labels


def _source_pixels(clip: Clip, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the source pixels under the centres of a frame's pixels; outside, those of the border."""
    x, y, w, h = clip.crop
    spans = ((y, h, size[0], clip.source_size[1]), (x, w, size[1], clip.source_size[0]))
    rows, columns = (
        np.floor(start + (np.arange(count) + 0.5) * extent / count).clip(0, limit - 1).astype(int)
        for start, extent, count, limit in spans
    )
    return rows, columns


def read_labels(path: str) -> np.ndarray:
    """The labels of a PNG as uint8 [H, W]: grey values, or the numbers of its palette. Decodes in this process.

    Raises:
        Unusable: what is no such PNG.
    """
    data = Path(path).read_bytes()
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise Unusable(f"{path} is no PNG")
    try:
        context = av.CodecContext.create("png", "r")
        context.thread_count = 1
        (frame,) = [*context.decode(av.Packet(data)), *context.decode(None)]
    except (av.error.FFmpegError, ValueError) as error:
        raise Unusable(f"{path} cannot be decoded: {error}") from error
    if frame.format.name == "pal8":
        return frame.to_ndarray()[0]
    if frame.format.name == "gray":
        return frame.to_ndarray()
    raise Unusable(f"{path} is {frame.format.name}; labels are a PNG with 8-bit grey or a palette")
