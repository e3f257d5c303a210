"""Pose maps for the model, and pictures for people: palettes, overlays, flow colours, grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np

from remot_data.schemas import SchemaError, convert_keypoints, keypoint_set, label_set

# The limbs of the pose map in the order of drawing, with their colours at 0.6 of OpenPose's.
_BODY_25_LIMBS: tuple[tuple[int, int, tuple[int, int, int]], ...] = (
    (17, 15, (153, 0, 153)),
    (15, 0, (153, 0, 102)),
    (0, 16, (102, 0, 153)),
    (16, 18, (51, 0, 153)),
    (0, 1, (153, 0, 51)),
    (1, 8, (153, 0, 0)),
    (1, 2, (153, 51, 0)),
    (2, 3, (153, 102, 0)),
    (3, 4, (153, 153, 0)),
    (1, 5, (102, 153, 0)),
    (5, 6, (51, 153, 0)),
    (6, 7, (0, 153, 0)),
    (8, 9, (0, 153, 51)),
    (9, 10, (0, 153, 102)),
    (10, 11, (0, 153, 153)),
    (8, 12, (0, 102, 153)),
    (12, 13, (0, 51, 153)),
    (13, 14, (0, 0, 153)),
    (11, 24, (0, 153, 153)),
    (11, 22, (0, 153, 153)),
    (22, 23, (0, 153, 153)),
    (14, 21, (0, 0, 153)),
    (14, 19, (0, 0, 153)),
    (19, 20, (0, 0, 153)),
)
# OpenPose's full-scale colour of each COCO-18 point; a limb takes the colour of its second point.
_COCO_18_COLOURS = (
    (255, 0, 85), (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0),
    (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (255, 0, 170),
    (170, 0, 255), (255, 0, 255), (85, 0, 255),
)  # fmt: skip

_SHIFT = 4  # fractional bits of the coordinates handed to OpenCV


# OpenPose's fingers from the wrist, thumb first, in the colours of the pose map.
_FINGERS = (
    ((0, 1, 2, 3, 4), (204, 0, 0)),
    ((0, 5, 6, 7, 8), (163, 204, 0)),
    ((0, 9, 10, 11, 12), (0, 204, 82)),
    ((0, 13, 14, 15, 16), (0, 82, 204)),
    ((0, 17, 18, 19, 20), (163, 0, 204)),
)
# Brows, nose, eyes and the outline of the mouth; the jaw is not drawn.
_FACE_LINES = (
    (17, 18, 19, 20, 21),
    (22, 23, 24, 25, 26),
    (27, 28, 29, 30),
    (31, 32, 33, 34, 35),
    (36, 37, 38, 39, 40, 41, 36),
    (42, 43, 44, 45, 46, 47, 42),
    (48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 48),
)
_FACE_SEEN = 0.1  # least confidence of a point of the face
_THIN = 1 / 3  # width of the lines of hands and face over that of a limb

# The set whose pose map stands for that of another, which it has more or the same points as.
_DRAWN_AS = {"coco17": "body25", "blazepose33": "body25", "wholebody133": "openpose137"}


@dataclass(frozen=True)
class _Limb:
    """A line between two points: its colour with 1 for coverage, and whether it is thin, without discs at its ends."""

    a: int
    b: int
    colour: tuple[int, int, int, int]
    thin: bool = False
    least: float = 0.0


@lru_cache
def _limbs(schema: str) -> tuple[_Limb, ...]:
    """The lines drawn for a keypoint set, in their order."""
    if schema == "coco18":
        scaled = [(round(0.6 * r), round(0.6 * g), round(0.6 * b)) for r, g, b in _COCO_18_COLOURS]
        return tuple(_Limb(a, b, (*scaled[b], 1)) for a, b in keypoint_set("coco18").limbs)
    limbs = [_Limb(a, b, (*colour, 1)) for a, b, colour in _BODY_25_LIMBS]
    if schema == "openpose137":
        points = keypoint_set(schema)
        for hand in ("left-hand-0", "right-hand-0"):
            for finger, colour in _FINGERS:
                limbs += _thin_lines(points.index(hand), finger, colour, 0.0)
        for line in _FACE_LINES:
            limbs += _thin_lines(points.index("face-0"), line, (255, 255, 255), _FACE_SEEN)
    return tuple(limbs)


def _thin_lines(first: int, line: Sequence[int], colour: tuple[int, int, int], least: float) -> list[_Limb]:
    return [_Limb(first + a, first + b, (*colour, 1), True, least) for a, b in pairwise(line)]


def pose_map(
    keypoints: np.ndarray,
    schema: str = "body25",
    size: tuple[int, int] = (256, 192),
    *,
    stroke: float | None = None,
    threshold: float = 0.01,
) -> np.ndarray:
    """Draw a pose as the model sees it: coloured limbs on black, fingers in five colours, the lines of a face white.

    Where a line crosses earlier ones, their colours are averaged. A line with an end at or below the
    confidence threshold is left out.

    Args:
        keypoints: float32 [K, 3]: x, y in pixels from the top-left corner of the image, and confidence.
        schema: their set. Hands and face are drawn of those that have them; what has no map of its own is drawn
            through ``body25`` or ``openpose137``.
        size: height and width of the map, the image that the coordinates are in.
        stroke: width of a limb and radius of the discs at its ends, in pixels; by default 2 at a height of
            256, in proportion at others, and at least 1. Lines of hands and face have a third of it, and no discs.
        threshold: the confidence that both ends of a line must exceed, 0.1 at least for those of a face.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        SchemaError: for an unknown keypoint set, or keypoints of another shape than it has.
    """
    if keypoints.shape != (len(keypoint_set(schema)), 3):
        raise SchemaError(
            f"keypoints of {schema!r} have the shape [{len(keypoint_set(schema))}, 3], not {keypoints.shape}"
        )
    if schema in _DRAWN_AS:
        keypoints, schema = convert_keypoints(keypoints, schema, _DRAWN_AS[schema]), _DRAWN_AS[schema]
    height, width = size
    stroke = max(1.0, 2.0 * height / 256) if stroke is None else stroke
    # The fourth channel is 1 where a limb covers at least half a pixel: the anti-aliasing rounds it.
    canvas = np.zeros((height, width, 4), np.uint8)
    points, confidence = _fixed_point(keypoints, size), keypoints[:, 2].tolist()
    widths = {False: max(1, round(stroke)), True: max(1, round(stroke * _THIN))}
    radius, margin = round(stroke * (1 << _SHIFT)), int(stroke) + 3
    for limb in _limbs(schema):
        if min(confidence[limb.a], confidence[limb.b]) <= max(threshold, limb.least):
            continue
        (ax, ay), (bx, by) = p, q = points[limb.a], points[limb.b]
        left, right = (ax, bx) if ax < bx else (bx, ax)
        top, bottom = (ay, by) if ay < by else (by, ay)
        left, right = max((left >> _SHIFT) - margin, 0), (right >> _SHIFT) + margin
        top, bottom = max((top >> _SHIFT) - margin, 0), (bottom >> _SHIFT) + margin
        if right <= 0 or bottom <= 0 or left >= width or top >= height:
            continue
        region = canvas[top:bottom, left:right]
        before = region.copy()
        cv2.line(canvas, p, q, limb.colour, widths[limb.thin], cv2.LINE_AA, _SHIFT)
        if not limb.thin:
            cv2.circle(canvas, p, radius, limb.colour, -1, cv2.LINE_AA, _SHIFT)
            cv2.circle(canvas, q, radius, limb.colour, -1, cv2.LINE_AA, _SHIFT)
        # Pixels of the region that this limb does not touch are the mean of two equals.
        cv2.copyTo(cv2.addWeighted(before, 0.5, region, 0.5, 0), cv2.extractChannel(before, 3), region)
    return cv2.cvtColor(canvas, cv2.COLOR_RGBA2RGB)


def _fixed_point(keypoints: np.ndarray, size: tuple[int, int]) -> list[list[int]]:
    """Coordinates as OpenCV draws them: counted from the centre of the first pixel, in 1/16 of a pixel."""
    reach = 4 * sum(size)  # far outside the image, and within OpenCV's integers
    centred = np.clip(np.nan_to_num(keypoints[:, :2]) - 0.5, -reach, reach)
    return np.rint(centred * (1 << _SHIFT)).astype(np.int64).tolist()


def draw_keypoints(
    frame: np.ndarray, keypoints: np.ndarray, schema: str = "body25", threshold: float = 0.01
) -> np.ndarray:
    """A frame ``uint8 [H, W, 3]`` with the pose drawn over it, bright, for people to look at."""
    drawn = pose_map(keypoints, schema, frame.shape[:2], threshold=threshold)
    coverage = drawn.max(-1, keepdims=True).astype(np.float32) / 153
    bright = np.minimum(drawn * (255 / 153), 255)
    return np.rint(frame * (1 - np.minimum(coverage, 1)) + bright * np.minimum(coverage, 1)).astype(np.uint8)


def colour_labels(labels: np.ndarray, schema: str) -> np.ndarray:
    """A label map ``uint8 [H, W]`` in the colours of its set, ``uint8 [H, W, 3]``.

    Raises:
        SchemaError: for a label id that the set does not have.
    """
    palette = label_set(schema).palette
    if labels.size and labels.max() >= len(palette):
        raise SchemaError(f"label {int(labels.max())} is outside the set {schema!r}, which has {len(palette)}")
    return palette[labels]


def overlay(frame: np.ndarray, labels: np.ndarray, schema: str, alpha: float = 0.5) -> np.ndarray:
    """A frame ``uint8 [H, W, 3]`` tinted by its labels ``uint8 [H, W]``; the background stays as it is."""
    tint = alpha * (labels != 0)[..., None].astype(np.float32)
    return np.rint(frame * (1 - tint) + colour_labels(labels, schema) * tint).astype(np.uint8)


def flow_image(flow: np.ndarray, scale: float | None = None, confidence: np.ndarray | None = None) -> np.ndarray:
    """Flow as colours: hue is its direction, saturation its length, white is still.

    Args:
        flow: float32 [H, W, 2], dx and dy in pixels.
        scale: the length in pixels shown fully saturated; by default the 99th percentile, at least 1.
        confidence: [H, W], zero where the flow is not to be trusted; such pixels are darkened.

    Returns:
        uint8 [H, W, 3], RGB.
    """
    length, angle = cv2.cartToPolar(
        np.ascontiguousarray(flow[..., 0], np.float32), np.ascontiguousarray(flow[..., 1], np.float32)
    )
    if scale is None:
        scale = max(1.0, float(np.percentile(length, 99)))
    hue = angle * (180 / (2 * np.pi))
    hsv = np.stack([hue, np.minimum(length / scale, 1) * 255, np.full_like(hue, 255)], -1)
    colours = cv2.cvtColor(np.rint(hsv).astype(np.uint8), cv2.COLOR_HSV2RGB)
    if confidence is None:
        return colours
    return np.where((np.asarray(confidence) != 0)[..., None], colours, colours // 3)


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    labels: Sequence[str] | None = None,
    *,
    gap: int = 2,
    height: int | None = None,
    colour: tuple[int, int, int] = (32, 32, 32),
) -> np.ndarray:
    """Tile images ``uint8 [h, w, 3]`` into one; column widths and row heights fit the largest of each.

    Args:
        rows: the images, row by row; rows may differ in length, and images in size.
        labels: one text a column, written above it.
        gap: pixels between images.
        height: if given, every image is brought to this height by nearest-neighbour scaling.
        colour: RGB of the gaps.

    Returns:
        uint8 [H, W, 3].
    """
    if not any(len(row) for row in rows):
        raise ValueError("a grid needs at least one image; the rows are empty")
    if height is not None:
        rows = [[_to_height(image, height) for image in row] for row in rows]
    columns = max(len(row) for row in rows)
    widths = [max(row[i].shape[1] for row in rows if len(row) > i) for i in range(columns)]
    heights = [max((image.shape[0] for image in row), default=0) for row in rows]
    top = 16 if labels else 0
    size = (top + sum(heights) + gap * (len(rows) + 1), sum(widths) + gap * (columns + 1))
    sheet = np.empty((*size, 3), np.uint8)
    sheet[:] = colour
    y = top + gap
    for row, tall in zip(rows, heights, strict=True):
        x = gap
        for image, wide in zip(row, widths, strict=False):
            sheet[y : y + image.shape[0], x : x + image.shape[1]] = image
            x += wide + gap
        y += tall + gap
    x = gap
    for text, wide in zip(labels or (), widths, strict=False):
        cv2.putText(sheet, text, (x + 2, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (230, 230, 230), 1, cv2.LINE_AA)
        x += wide + gap
    return sheet


def _to_height(image: np.ndarray, height: int) -> np.ndarray:
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)
