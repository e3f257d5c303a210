"""Flow out of Middlebury ``.flo`` files: through the crop, turned around where it has to be, with its confidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from remot_data.detectors.dis import consistent, photometric
from remot_data.exchange.places import Unusable
from remot_data.records import Clip
from remot_data.store import Store
from remot_data.store.layers.flow import CONSISTENT, PHOTOMETRIC


def backward(store: Store, clip: Clip, files: Sequence[str | None], schema: str) -> dict[str, np.ndarray]:
    return _flow(store, clip, files, forward=False)


def forward(store: Store, clip: Clip, files: Sequence[str | None], schema: str) -> dict[str, np.ndarray]:
    return _flow(store, clip, files, forward=True)


def _flow(store: Store, clip: Clip, files: Sequence[str | None], forward: bool) -> dict[str, np.ndarray]:
    """Flow from each frame back to the one before on half the grid, and its confidence; see `docs/data.md`."""
    height, width = store.size
    h, w = max(height // 2, 1), max(width // 2, 1)
    frames = store.read_arrays("frames", "frames", clip)["frames"]
    flow = np.zeros((clip.frames, h, w, 2), np.float32)
    confidence = np.zeros((clip.frames, h, w), np.uint8)
    for t, path in enumerate(files, 1):
        given, known = _through_crop(read_flo(str(path), clip.source_size), clip, store.size)
        here, there = (frames[t - 1], frames[t]) if forward else (frames[t], frames[t - 1])
        alike = photometric(here, _warped(there, given)) & known
        other, reached = inverted(given, alike)
        back = other if forward else given
        if forward:
            known = reached
            alike = photometric(frames[t], _warped(frames[t - 1], back)) & known
        agree = consistent(back, given if forward else other, *_targets(back)) & known
        flow[t] = cv2.resize(back, (w, h), interpolation=cv2.INTER_AREA) * np.array([w / width, h / height], np.float32)
        for bit, holds in ((CONSISTENT, agree), (PHOTOMETRIC, alike)):
            share = cv2.resize(holds.view(np.uint8) * np.uint8(200), (w, h), interpolation=cv2.INTER_AREA)
            confidence[t] |= (share >= 100) * np.uint8(bit)
    return {"flow": flow, "confidence": confidence}


def _targets(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column and row that each pixel flows to: float32 [H, W] each."""
    height, width = flow.shape[:2]
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return columns + flow[..., 0], rows + flow[..., 1]


def _warped(frame: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """For each pixel what `frame` shows where it flows to."""
    return cv2.remap(frame, *_targets(flow), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def read_flo(path: str, size: Sequence[int]) -> np.ndarray:
    """A Middlebury ``.flo`` file of a picture of `size` = (width, height) as float32 [H, W, 2]."""
    data = Path(path).read_bytes()
    width, height = (int(n) for n in np.frombuffer(data[4:12].ljust(8, b"\0"), "<i4"))
    if data[:4] != b"PIEH" or len(data) != 12 + 8 * width * height:
        raise Unusable(f"{path} is no whole .flo file")
    if (width, height) != tuple(size):
        raise Unusable(f"{path} is {width}x{height}, the pictures of the video are {size[0]}x{size[1]}")
    return np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2)


def _through_crop(flow: np.ndarray, clip: Clip, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Flow of a source picture in pixels of the clip's frames, and where all of it is known: bool [H, W].

    Middlebury marks what is not known by values above 1e9; it becomes 0 here.
    """
    x, y, w, h = (round(v) for v in clip.crop)
    rows = np.arange(y, y + h).clip(0, flow.shape[0] - 1)
    columns = np.arange(x, x + w).clip(0, flow.shape[1] - 1)
    cut = flow[np.ix_(rows, columns)]
    known = (np.abs(cut) < 1e9).all(-1)
    cut[~known] = 0
    how = cv2.INTER_AREA if size[0] <= h else cv2.INTER_LINEAR
    small = cv2.resize(cut, size[::-1], interpolation=how) * np.array([size[1] / w, size[0] / h], np.float32)
    return small, cv2.resize(known.astype(np.float32), size[::-1], interpolation=how) > 0.999


def inverted(flow: np.ndarray, trusted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The flow the other way: float32 [H, W, 2], and where a pixel really came from: bool [H, W].

    Each pixel carries the negative of its flow to where it goes, spread over the four pixels there; what several
    pixels reach is their mean, in which the trusted ones (bool [H, W]) outweigh the others; what none reaches is
    filled in from around it. So what is hidden in the other frame does not agree with its way back.
    """
    height, width = flow.shape[:2]
    x, y = _targets(flow)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    belief = np.where(trusted, 1.0, 0.01)
    covered, mass, *sums = np.zeros((4, height * width))
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        share = (1 - np.abs(x - left - dx)) * (1 - np.abs(y - top - dy))
        inside = (left + dx >= 0) & (left + dx < width) & (top + dy >= 0) & (top + dy < height)
        where = ((top + dy) * width + left + dx)[inside]
        weight = share * belief
        for plane, values in zip(
            (covered, mass, *sums), (share, weight, -flow[..., 0] * weight, -flow[..., 1] * weight), strict=True
        ):
            plane += np.bincount(where, values[inside], height * width)
    reached = (covered > 0.25).reshape(height, width)
    planes = np.stack([mass, *sums], -1).reshape(height, width, 3) * reached[..., None]
    return _filled(planes, reached), reached


def _filled(planes: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """Weighted flow float64 [H, W, 3] (weight, dx, dy) divided by its weight, holes filled by ever wider means."""
    flow = planes[..., 1:] / np.maximum(planes[..., :1], 1e-9)
    empty, spread = ~reached, 3
    while empty.any() and spread <= 2 * max(reached.shape):
        around = cv2.blur(planes, (spread, spread))
        hit = empty & (around[..., 0] > 1e-9)
        flow[hit] = around[hit, 1:] / around[hit, :1]
        empty &= ~hit
        spread = 2 * spread + 1
    return flow.astype(np.float32)
