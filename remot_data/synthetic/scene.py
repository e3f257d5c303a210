"""A dancer drawn with exact keypoints, labels, flow and background.

The figure is cut-out animation: every body part is a flat sprite with its own texture and label map, moved
by one affine map a frame. The maps give the truth: which part a pixel belongs to, and where the same point
of that part was one frame earlier. What the dancer looks like is `_dancer`, how it moves `_skeleton`, and what
its parts are `_figure`; here they are painted and measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from remot_data.detectors.basic_scores import scores
from remot_data.store.layers.flow import CONSISTENT, PHOTOMETRIC
from remot_data.synthetic.dancer import Cloth, Dancer, random_colour, tint
from remot_data.synthetic.figure import THING, Part, Sprite, figure_parts
from remot_data.synthetic.skeleton import Body

__all__ = ["Cloth", "Dancer", "Scene", "dance", "layers"]

_SUPERSAMPLE = 2


@dataclass(frozen=True)
class Scene:
    """The drawn clip and the truth about it.

    Attributes:
        frames: uint8 [T, H, W, 3], RGB.
        keypoints: float32 [T, 25, 3], BODY_25; 0, 0, 0 outside the image, else confidence 1.
        mask: uint8 [T, H, W], 255 on the person and on what she holds, as the masks of detectors are.
        labels: uint8 [T, H, W], ATR-18.
        flow: float32 [T, H, W, 2], pixels from frame t back to frame t-1; zero for the first.
        confidence: uint8 [T, H, W]: bit 0 where the same point was visible in frame t-1, bit 1 where the
            warped frame t-1 agrees in colour (squared difference below 0.02 over images in [-1, 1]).
        background: uint8 [H, W, 3].
        fps: frames a second.
    """

    frames: np.ndarray
    keypoints: np.ndarray
    mask: np.ndarray
    labels: np.ndarray
    flow: np.ndarray
    confidence: np.ndarray
    background: np.ndarray
    fps: float


def dance(
    dancer: Dancer,
    frames: int,
    *,
    size: tuple[int, int] = (256, 192),
    fps: float = 30.0,
    seed: int = 0,
    background: np.ndarray | None = None,
    turned: float | None = None,
    crossed: bool = False,
) -> Scene:
    """Draw `dancer` dancing; `seed` chooses the dance and the background.

    Args:
        frames: how many, at least 1.
        size: height and width, each at least 16.
        background: uint8 [H, W, 3] to stand before, instead of a drawn one.
        turned: angle to the camera that the body sways about, in radians: 0 from the front, pi / 2 from the side, pi
            from behind; without it the seed chooses.
        crossed: whether the arms cross before the chest, and the legs.

    Raises:
        ValueError: for fewer frames, a smaller size, or a background of another shape.
    """
    if frames < 1 or min(size) < 16:
        raise ValueError(f"a dance needs at least 1 frame of 16x16 pixels, not {frames} of {size[0]}x{size[1]}")
    rng = np.random.default_rng([seed, 2])
    drawn = _background(rng, size)
    if background is not None:
        if background.shape != (*size, 3) or background.dtype != np.uint8:
            raise ValueError(f"the background must be uint8 {[*size, 3]}, not {background.dtype} {background.shape}")
        drawn = background
    body = Body(dancer, np.arange(frames) / fps, size, rng, turned, crossed)
    parts = figure_parts(dancer, body, size[0] * dancer.height * _SUPERSAMPLE)
    images, labels, owners = _paint(parts, drawn, frames)
    flow, visible = _flow(parts, owners)
    confidence = visible.astype(np.uint8) | (_agrees(images, flow) << 1)
    confidence[0] = 0
    mask = (labels != 0).astype(np.uint8) * 255
    labels[labels == THING] = 0
    return Scene(
        frames=images,
        keypoints=_inside(body.keypoints(), size),
        mask=mask,
        labels=labels,
        flow=flow,
        confidence=confidence,
        background=drawn,
        fps=fps,
    )


def layers(scene: Scene) -> dict[str, dict[str, np.ndarray]]:
    """The truth in the form that detectors return, by kind: pose, parsing, flow, background, scores.

    Flow is brought to half size by averaging, and trusted where all the pixels averaged are.
    """
    person = scene.mask != 0
    return {
        "pose": {"keypoints": scene.keypoints, "mask": scene.mask},
        "parsing": {"labels": scene.labels},
        "flow": _half_flow(scene.flow, scene.confidence),
        "background": {
            "image": scene.background,
            "seen": np.where(person.all(0), 0, 255).astype(np.uint8),
        },
        "scores": scores(scene.frames, scene.keypoints, person.any((1, 2)).astype(np.float32)),
    }


def _half_flow(flow: np.ndarray, confidence: np.ndarray) -> dict[str, np.ndarray]:
    frames, height, width = confidence.shape
    h, w = max(1, height // 2), max(1, width // 2)
    small, bits = np.empty((frames, h, w, 2), np.float32), np.zeros((frames, h, w), np.uint8)
    for t in range(frames):
        small[t] = cv2.resize(flow[t], (w, h), interpolation=cv2.INTER_AREA).reshape(h, w, 2)
        for bit in (CONSISTENT, PHOTOMETRIC):
            share = cv2.resize((confidence[t] & bit > 0).astype(np.float32), (w, h), interpolation=cv2.INTER_AREA)
            bits[t] |= np.where(share.reshape(h, w) > 0.999, bit, 0).astype(np.uint8)
    return {"flow": small * np.array([w / width, h / height], np.float32), "confidence": bits}


def _inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Keypoints float32 [T, K, 3] with confidence 1 inside the image and all zero outside."""
    seen = ((points >= 0) & (points < [size[1], size[0]])).all(-1, keepdims=True)
    return (np.concatenate([points, np.ones_like(points[..., :1])], -1) * seen).astype(np.float32)


# --- painting and its truth ---------------------------------------------------------------------------------


def _paint(parts: list[Part], background: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images ``uint8 [T, H, W, 3]``, labels ``uint8 [T, H, W]``, and the owner of each pixel: part number + 1 or 0."""
    height, width = background.shape[:2]
    images = np.empty((frames, height, width, 3), np.uint8)
    labels, owners = np.zeros((2, frames, height, width), np.uint8)
    large = cv2.resize(background, None, fx=_SUPERSAMPLE, fy=_SUPERSAMPLE, interpolation=cv2.INTER_NEAREST)
    depth = np.stack([np.where(part.shown, part.depth, -np.inf) for part in parts])
    boxes = [_boxes(part) for part in parts]
    for t in range(frames):
        canvas = large.copy()
        for index in np.argsort(depth[:, t], kind="stable").tolist():
            part = parts[index]
            if part.shown[t]:
                _stamp_image(canvas, part.sprite, part.to_image[t] * _SUPERSAMPLE, boxes[index][t] * _SUPERSAMPLE)
                _stamp_labels(labels[t], owners[t], index + 1, part.sprite, part.to_image[t], boxes[index][t])
        images[t] = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return images, labels, owners


def _boxes(part: Part) -> np.ndarray:
    """float64 [T, 4]: left, top, right, bottom of the part in the image."""
    h, w = part.sprite.labels.shape
    corners = np.array([(0, 0, 1), (w, 0, 1), (0, h, 1), (w, h, 1)], float)
    there = np.einsum("tij,cj->tci", part.to_image, corners)
    return np.concatenate([there.min(1), there.max(1)], -1)


def _warped(source: np.ndarray, to_image: np.ndarray, box: np.ndarray, size: tuple[int, int], how: int) -> tuple | None:
    """The pixels of `source` as they fall into the image, with the slices they fall into; None if outside."""
    x0, y0 = max(int(box[0]) - 1, 0), max(int(box[1]) - 1, 0)
    x1, y1 = min(int(box[2]) + 2, size[1]), min(int(box[3]) + 2, size[0])
    linear = to_image[:, :2]
    if x1 <= x0 or y1 <= y0 or abs(np.linalg.det(linear)) < 1e-9:
        return None
    inverse = np.linalg.inv(linear)
    start = inverse @ (np.array([x0 + 0.5, y0 + 0.5]) - to_image[:, 2]) - 0.5
    matrix = np.column_stack([inverse, start])
    warped = cv2.warpAffine(source, matrix, (x1 - x0, y1 - y0), flags=how | cv2.WARP_INVERSE_MAP)
    return warped, (slice(y0, y1), slice(x0, x1))


def _stamp_image(canvas: np.ndarray, sprite: Sprite, to_image: np.ndarray, box: np.ndarray) -> None:
    found = _warped(sprite.image, to_image, box, canvas.shape[:2], cv2.INTER_LINEAR)
    if found is not None:
        warped, where = found
        behind = 255 - cv2.cvtColor(cv2.extractChannel(warped, 3), cv2.COLOR_GRAY2RGB)
        region = canvas[where]
        canvas[where] = cv2.add(cv2.multiply(region, behind, scale=1 / 255), cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB))


def _stamp_labels(
    labels: np.ndarray, owners: np.ndarray, owner: int, sprite: Sprite, to_image: np.ndarray, box: np.ndarray
) -> None:
    found = _warped(sprite.labels, to_image, box, labels.shape, cv2.INTER_NEAREST)
    if found is not None:
        warped, where = found
        cv2.copyTo(warped, warped, labels[where])
        owners[where][warped > 0] = owner


def _flow(parts: list[Part], owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel's point was one frame earlier, ``float32 [T, H, W, 2]``, and whether it was seen there."""
    frames, height, width = owners.shape
    flow, visible = np.zeros((frames, height, width, 2), np.float32), np.zeros(owners.shape, bool)
    row = np.array([[[0, 0, 1]]])
    maps = np.stack([np.concatenate([p.to_image, np.repeat(row, frames, 0)], 1) for p in parts])
    back = maps[:, :-1] @ np.linalg.inv(maps[:, 1:]) - np.eye(3)
    for t in range(1, frames):
        visible[t] = (owners[t] == 0) & (owners[t - 1] == 0)
        y, x = np.nonzero(owners[t])
        part = owners[t, y, x]
        m = back[part - 1, t - 1]
        here = np.stack([x + 0.5, y + 0.5, np.ones(len(x))], -1)
        moved = np.einsum("nij,nj->ni", m[:, :2], here)
        flow[t, y, x] = moved
        px, py = np.floor(here[:, 0] + moved[:, 0]).astype(int), np.floor(here[:, 1] + moved[:, 1]).astype(int)
        inside = (px >= 0) & (py >= 0) & (px < width) & (py < height)
        before = owners[t - 1, np.where(inside, py, 0), np.where(inside, px, 0)]
        visible[t, y, x] = inside & (before == part)
    return flow, visible


def _agrees(images: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W], 1 where frame t-1 warped by the flow has the colour of frame t: the paper's flow code's test."""
    height, width = flow.shape[1:3]
    y, x = np.indices((height, width), np.float32)
    out = np.zeros(flow.shape[:3], np.uint8)
    for t in range(1, len(images)):
        warped = cv2.remap(
            images[t - 1], x + flow[t, ..., 0], y + flow[t, ..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        difference = (images[t].astype(np.float32) - warped) / 127.5
        out[t] = (difference**2).sum(-1) < 0.02
    return out


# --- backgrounds --------------------------------------------------------------------------------------------


def _background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A wall and a floor with shading, shapes and a soft texture, uint8 [H, W, 3]."""
    height, width = size
    y, x = np.indices(size, np.float32) / height
    image = np.empty((height, width, 3), np.float32)
    wall, floor = (np.array(random_colour(rng)) * (1 - grey) + 128 * grey for grey in rng.uniform(0.2, 0.8, 2))
    slope = rng.uniform(-0.5, 0.5, 2)
    image[:] = wall * (0.9 + slope[0] * (y - 0.5) + slope[1] * (x - 0.4))[..., None]
    canvas = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(0, 7))):
        _shape(canvas, rng)
    horizon = int(height * rng.uniform(0.7, 0.9))
    if rng.random() < 0.85:
        canvas[horizon:] = np.clip(floor * (1.05 - 0.6 * (y[horizon:] - 0.7))[..., None], 0, 255)
        boards = int(rng.integers(0, 9))
        for i in range(boards):
            foot = (int((i + 0.5) / boards * 2 * width - width / 2), height)
            head = (int((i + 0.5) / boards * width), horizon)
            cv2.line(canvas, head, foot, (floor * 0.8).tolist(), 1, cv2.LINE_AA)
    grain = np.zeros((height, width), np.float32)
    for n, s in ((6, 8), (24, 5), (64, 3)):
        coarse = rng.normal(0, s, (n, n)).astype(np.float32)
        grain = grain + cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    textured = canvas + (rng.uniform(0.3, 1.3) * grain)[..., None]
    return np.clip(np.rint(textured), 0, 255).astype(np.uint8)


def _shape(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """One rectangle (a window, a poster), disc or band on the wall."""
    height, width = canvas.shape[:2]
    colour, kind = random_colour(rng), rng.integers(3)
    x, y = int(rng.integers(width)), int(rng.integers(int(height * 0.75)))
    w, h = (int(v * height) for v in rng.uniform(0.05, 0.22, 2))
    if kind == 0:
        cv2.rectangle(canvas, (x - w, y - h), (x + w, y + h), colour, -1)
        cv2.rectangle(canvas, (x - w, y - h), (x + w, y + h), tint(colour, 0.6), max(1, height // 100))
    elif kind == 1:
        cv2.circle(canvas, (x, y), w, colour, -1, cv2.LINE_AA)
    else:
        cv2.line(canvas, (x, 0), (x + w, height), colour, max(1, w // 3), cv2.LINE_AA)
