"""GAM, the global alignment module: the source person moved and scaled to where the driving person stands.

Section 6 of the specification, equation (4): I_gs(x) = I_fs((x - C_t) / s + C_s) with s = H_t / H_s, from the
boxes of the two person masks. It has no parameters. A box grows when an arm goes up and shrinks in a crouch, and the
source with it; `Steady` measures bodies along their joints instead, and smooths over time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from remot_data.schemas import convert_keypoints, keypoint_set
from remot_model.networks.warping import constant


@dataclass(frozen=True)
class Aligned:
    """The aligned source: `image` [N, 3, H, W], -1 outside the person; `labels` int64 [N, H, W].

    A pixel p of the source lands at `scale` * p + `offset`; `scale` is [N], `offset` [N, 2] as x, y in pixels.
    """

    image: Tensor
    labels: Tensor
    scale: Tensor
    offset: Tensor


def boxes(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes of masks and whether there is anything in them.

    Args:
        masks: bool [N, H, W].

    Returns:
        int64 [N, 4], the first and last row and the first and last column (top, bottom, left, right), zeros for an
        empty mask; bool [N], true where the mask is not empty.
    """
    found = masks.flatten(1).any(1)
    sides = []
    for axis in (2, 1):
        line = masks.any(axis).to(torch.int64)
        sides += [line.argmax(1), line.shape[1] - 1 - line.flip(1).argmax(1)]
    return torch.stack(sides, 1) * found[:, None], found


def placement(source_masks: Tensor, driving_masks: Tensor) -> tuple[Tensor, Tensor]:
    """Scale [N] and offset [N, 2] (x, y) that bring the source box to the height and centre of the driving box.

    Heights are last row - first row and centres those of the boxes, so the box's first and last row land exactly
    on those of the driving box. The released code rounds centre and offset to whole pixels of a 1024-pixel canvas;
    here nothing is rounded. Where a mask is empty or one row high there is no alignment: scale 1, offset 0.
    """
    (source, a), (driving, b) = boxes(source_masks), boxes(driving_masks)
    h_s, h_t = source[:, 1] - source[:, 0], driving[:, 1] - driving[:, 0]
    usable = a & b & (h_s > 0) & (h_t > 0)
    scale = torch.where(usable, h_t / h_s.clamp(min=1), 1.0)
    offset = centres(driving) - scale[:, None] * centres(source)
    return scale, torch.where(usable[:, None], offset, 0.0)


def align(
    image: Tensor,
    labels: Tensor,
    driving_labels: Tensor,
    *,
    enabled: bool = True,
    placed: tuple[Tensor, Tensor] | None = None,
) -> Aligned:
    """The source foreground aligned to the driving person.

    Args:
        image: float [N, 3, H, W] in [-1, 1], the source image.
        labels: int64 [N, H, W], its layout; 0 is background.
        driving_labels: int64 [N, H, W], the layout to align to.
        enabled: false gives the foreground where it was, for the ablation without GAM.
        placed: scale [N] and offset [N, 2] to use instead of those of `placement`, where they are not NaN.
    """
    foreground = torch.where(labels[:, None] > 0, image, -1.0)
    scale, offset = placement(labels > 0, driving_labels > 0)
    if placed is not None:
        scale = torch.where(placed[0].isnan(), scale, placed[0])
        offset = torch.where(placed[1].isnan(), offset, placed[1])
    if not enabled:
        scale, offset = torch.ones_like(scale), torch.zeros_like(offset)
    grid = _grid(scale, offset, (image.shape[-2], image.shape[-1])).to(image.dtype)
    moved = F.grid_sample(
        _blur(foreground + 1, scale), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    moved_labels = F.grid_sample(
        labels[:, None].to(image.dtype), grid, mode="nearest", padding_mode="zeros", align_corners=False
    )
    return Aligned(moved - 1, moved_labels[:, 0].round().long(), scale, offset)


def centres(box: Tensor) -> Tensor:
    """Middles x, y of boxes [N, 4] as `boxes` gives them, float [N, 2]."""
    top, bottom, left, right = box.unbind(1)
    return torch.stack([left + right, top + bottom], 1) / 2


def _grid(scale: Tensor, offset: Tensor, size: tuple[int, int]) -> Tensor:
    """Sampling grid [N, H, W, 2] for `align_corners=False`; pixel p of the source lands at scale * p + offset."""
    h, w = size
    y, x = torch.meshgrid(
        torch.arange(h, device=scale.device, dtype=torch.float32),
        torch.arange(w, device=scale.device, dtype=torch.float32),
        indexing="ij",
    )
    place = (torch.stack([x, y], -1) - offset[:, None, None]) / scale[:, None, None, None]
    return torch.stack([(2 * place[..., i] + 1) / n - 1 for i, n in enumerate((w, h))], -1)


def _blur(images: Tensor, scale: Tensor) -> Tensor:
    """A tent of the width of an output pixel where the image shrinks (as PIL's bilinear resize does).

    Along each axis it is a matrix, the identity where nothing shrinks: a radius to loop over would be waited for.
    """
    reach = torch.clamp(1 / scale, min=1.0)[:, None].to(images.dtype)
    with torch.autocast(images.device.type, enabled=False):
        down, along = (_tents(reach, n) for n in images.shape[-2:])
        return down @ images @ along


def _tents(reach: Tensor, size: int) -> Tensor:
    """Tents of a sum of 1 over all pixels, also those beside the image: [N, 1, size, size], a pixel's in each row."""
    far = constant(_distances, size, reach.device)
    tent = torch.clamp(1 - far / reach, min=0)
    tent = tent / tent.sum(1, keepdim=True)
    return tent.unfold(1, size, 1).flip(1)[:, None]


def _distances(size: int, device: torch.device) -> Tensor:
    return torch.arange(1 - size, size, dtype=torch.float32, device=device).abs()


# The chain from head to foot, as pairs of points of BODY_25; of two sides the longer one is less foreshortened.
_CHAIN = (
    (("neck", "nose"),),
    (("neck", "mid-hip"),),
    (("right-hip", "right-knee"), ("left-hip", "left-knee")),
    (("right-knee", "right-ankle"), ("left-knee", "left-ankle")),
)
_TRUNK = ("neck", "mid-hip")
# From the neck to the top of the head is so many times the way to the nose, in people who look straight ahead.
_HEAD_TOP = 1.6
_LEAST, _MOST = 0.5, 2.0


def body_lengths(keypoints: np.ndarray, schema: str = "body25") -> np.ndarray:
    """Lengths along the body, float64 [..., 4]: neck to the top of the head, neck to hip, hip to knee, knee to ankle.

    Their sum is the height from head top to ankle of somebody who stands upright; it hardly depends on arms or
    bent knees. A part whose ends were not seen is NaN.

    Args:
        keypoints: float32 [..., K, 3] of the set `schema`; points of confidence 0 were not seen.
    """
    points = convert_keypoints(keypoints, schema, "body25").astype(np.float64)
    index = keypoint_set("body25").index
    lengths = []
    for sides in _CHAIN:
        found = []
        for a, b in sides:
            p, q = points[..., index(a), :], points[..., index(b), :]
            seen = (p[..., 2] > 0) & (q[..., 2] > 0)
            found.append(np.where(seen, np.hypot(*np.moveaxis(p[..., :2] - q[..., :2], -1, 0)), -1.0))
        longest = np.max(found, 0)
        lengths.append(np.where(longest < 0, np.nan, longest))
    lengths[0] = lengths[0] * _HEAD_TOP
    return np.stack(lengths, -1)


class Steady:
    """A placement for `align` that does not follow arms and crouches: from joints, smoothed, frame after frame.

    The scale is the ratio of the two bodies' lengths from head top to ankle, over the parts that are seen in both
    (`body_lengths`), low-passed with a time constant of half a second and kept within 0.5 and 2. The offset brings
    the middle of the source's trunk onto that of the driving person, which passes a one-euro filter (Casiez et al.,
    CHI 2012): still where the person stands still, without lag where it moves fast. Both are causal, go by the time
    that passed, and remember one frame.

    Args:
        source: float32 [K, 3], the keypoints of the source person.
        schema: of all keypoints.
        fps: driving frames a second, where their times are not told.

    Attributes:
        memory: what the next frame needs, plain numbers and lists; empty it where a new shot begins.

    Raises:
        ValueError: if the trunk of the source person, neck and hips, was not seen.
    """

    SECONDS = 0.5  # time constant of the scale
    CUTOFF, SPEED_CUTOFF, BETA = 1.0, 1.0, 6.0  # Hz, Hz, Hz for a speed of one body length a second

    def __init__(self, source: np.ndarray, schema: str, fps: float) -> None:
        self._lengths, self._schema, self._fps = body_lengths(source, schema), schema, fps
        self._trunk = _trunk(source, schema)
        if np.isnan(self._trunk).any():
            raise ValueError("neck and hips of the source person were not seen")
        self.memory: dict[str, Any] = {}

    def __call__(self, keypoints: np.ndarray, seconds: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Scale [T] and offset [T, 2] in pixels, float32, of frames [T, K, 3]; NaN before a body was ever seen.

        `seconds` float64 [T] says when each is shown, over all calls; None for `fps` of them a second.

        A frame in which the trunk was not seen gets what the frame before had.
        """
        lengths, trunks = body_lengths(keypoints, self._schema), _trunk(keypoints, self._schema)
        times = [None] * len(lengths) if seconds is None else seconds.tolist()
        placed = [self._step(*one) for one in zip(lengths, trunks, times, strict=True)]
        out = np.array(placed, np.float32).reshape(-1, 3)
        return out[:, 0], out[:, 1:]

    def _step(self, lengths: np.ndarray, trunk: np.ndarray, time: float | None) -> tuple[float, float, float]:
        common = np.isfinite(lengths) & np.isfinite(self._lengths)
        ours, theirs = self._lengths[common].sum(), lengths[common].sum()
        if np.isfinite(trunk).all() and ours > 0 and theirs > 0:
            self._see(math.log(min(max(theirs / ours, _LEAST), _MOST)), trunk, float(theirs), time)
        if not self.memory:
            return math.nan, math.nan, math.nan
        scale = math.exp(self.memory["log_scale"])
        x, y = np.array(self.memory["trunk"]) - scale * self._trunk
        return scale, float(x), float(y)

    def _see(self, log_scale: float, trunk: np.ndarray, length: float, time: float | None) -> None:
        old = self.memory
        if not old:
            self.memory = {"log_scale": log_scale, "trunk": trunk.tolist(), "raw": trunk.tolist(), "speed": [0.0, 0.0]}
            self.memory["time"] = time
            return
        fps = self._fps if time is None else 1 / (time - old["time"])
        share = 1 - math.exp(-1 / (self.SECONDS * fps))
        speed = np.array(old["speed"])
        speed = speed + _share(self.SPEED_CUTOFF, fps) * ((trunk - old["raw"]) * fps - speed)
        quick = _share(self.CUTOFF + self.BETA * float(np.hypot(*speed)) / length, fps)
        self.memory = {
            "log_scale": old["log_scale"] + share * (log_scale - old["log_scale"]),
            "trunk": (old["trunk"] + quick * (trunk - old["trunk"])).tolist(),
            "raw": trunk.tolist(),
            "speed": speed.tolist(),
            "time": time,
        }


def _share(cutoff: float, fps: float) -> float:
    """Of a new value in a low-pass of the first order."""
    return 1 / (1 + fps / (2 * math.pi * cutoff))


def _trunk(keypoints: np.ndarray, schema: str) -> np.ndarray:
    """The pixel in the middle between neck and hips, float64 [..., 2]; NaN where one of them was not seen."""
    points = convert_keypoints(keypoints, schema, "body25").astype(np.float64)
    ends = points[..., [keypoint_set("body25").index(name) for name in _TRUNK], :]
    # Keypoints count from the corner of the image, pixels from the centre of the first.
    seen = np.all(ends[..., 2] > 0, -1, keepdims=True)
    return np.where(seen, ends[..., :2].mean(-2) - 0.5, np.nan)
