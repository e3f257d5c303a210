"""Driving frames through the networks, and everything there is to see on the way as pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import cv2
import numpy as np
import torch

from remot_data import render
from remot_model import rollout
from remot_model.alignment import Steady
from remot_model.checkpoint import Run
from remot_model.transfer_inputs import Eyes, Piece, Source, TransferError, resized

# Frames that go through the networks at once. On a CPU more are no faster, and each takes memory.
_PIECE, _PIECE_ON_CPU = 8, 1
# What can be shown and saved: the source crop, the driving crop, the drawn pose, the layout, the source after GAM, the
# same over the driving crop, the five regions side by side, their sum; of the composition network the foreground,
# the background mask, the image before and its flow and weight; the result.
VIEWS = (
    "source", "driving", "pose", "layout", "aligned", "gam", "regions", "coarse", "foreground", "mask", "raw", "flow",
    "weight", "result",
)  # fmt: skip
_OF_WHOLE = ("foreground", "mask", "raw", "flow", "weight")
_CYAN, _YELLOW, _WHITE, _BLACK = (0, 220, 255), (255, 220, 0), (255, 255, 255), (0, 0, 0)

Pictures = dict[str, np.ndarray]


class Renderer:
    """Driving frames to pictures, piece by piece; the networks' memory is carried until a shot begins.

    Args:
        who: the source person.
        background: uint8 [H, W, 3] at the networks' size.
        gam: ``paper``, or ``steady`` for `remot_model.alignment.Steady`.
        fps: driving frames a second.

    Attributes:
        without_pose: frames so far in which nobody was found; they repeat the pose before, if there is one.

    Raises:
        TransferError: if the steady GAM is asked for and the source's trunk was not seen.
    """

    def __init__(
        self,
        run: Run,
        who: Source,
        background: np.ndarray,
        eyes: Eyes,
        device: torch.device,
        gam: str = "paper",
        fps: float = 30.0,
    ) -> None:
        self.run, self.eyes, self.device, self.without_pose = run, eyes, device, 0
        size = run.config.size
        self._picture = who.image
        self._source = self._images(resized(who.image, size)[None])
        small = cv2.resize(who.labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        self._labels = torch.from_numpy(small).long()[None].to(device)
        self._background = self._images(background[None])
        self._states: dict[str, rollout.State] | None = None
        self._last_pose: np.ndarray | None = None
        self._steady = None
        if gam == "steady":
            try:
                self._steady = Steady(self._scaled(who.keypoints), eyes.schema, fps)
            except ValueError as error:
                raise TransferError(
                    f"{error}, which the steady GAM needs; use the paper's, or another source"
                ) from error

    def __call__(self, piece: Piece, names: Collection[str]) -> Pictures:
        """The views `names` of a piece by name, each uint8 [T, h, w, 3]."""
        if piece.begins:
            self._states = self._last_pose = None
            if self._steady:
                self._steady.memory = {}
        points, maps = self._poses(piece.frames)
        parts = []
        step = _PIECE_ON_CPU if self.device.type == "cpu" else _PIECE
        for i in range(0, len(maps), step):
            part = slice(i, i + step)
            done = self._run(points[part], maps[part])
            parts.append(self._views(piece.frames[part], maps[part], done, names))
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    def memory(self) -> dict[str, Any]:
        """What goes on from piece to piece, as tensors and plain values; `restore` takes it."""
        # A view written to a file would bring the whole piece it was cut from.
        states = {name: _each(state, torch.Tensor.clone) for name, state in (self._states or {}).items()}
        return {
            "states": states or None,
            "last_pose": None if self._last_pose is None else torch.from_numpy(self._last_pose),
            "steady": self._steady and self._steady.memory,
            "without_pose": self.without_pose,
        }

    def restore(self, memory: dict[str, Any]) -> None:
        """Go on behind the piece after which `memory` was taken."""
        states, pose = memory["states"], memory["last_pose"]
        if states is not None:
            there = {name: rollout.State(**state) for name, state in states.items()}
            moved = {name: _each(state, lambda v: v.to(self.device)) for name, state in there.items()}
            self._states = {name: rollout.State(**state) for name, state in moved.items()}
        self._last_pose = None if pose is None else pose.numpy()
        self.without_pose = memory["without_pose"]
        if self._steady:
            self._steady.memory = memory["steady"]

    def _scaled(self, points: np.ndarray) -> np.ndarray:
        """Keypoints in pixels of the detectors' frames as in pixels of the networks'."""
        factor = self.run.config.size[0] / self.eyes.size[0]
        return np.concatenate([points[..., :2] * np.float32(factor), points[..., 2:]], -1)

    def _poses(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints [T, K, 3] at the networks' size, as they were found, and pose maps uint8 [T, H, W, 3]."""
        points = self._scaled(self.eyes.keypoints(self.eyes.pose(frames)))
        seen = (points[..., 2] > 0).any(1)
        self.without_pose += int((~seen).sum())
        maps = []
        for one, found in zip(points, seen, strict=True):
            if found or self._last_pose is None:
                self._last_pose = one
            maps.append(render.pose_map(self._last_pose, self.eyes.schema, self.run.config.size))
        return points, np.stack(maps)

    def _run(self, points: np.ndarray, maps: np.ndarray) -> rollout.Transferred:
        placed = None
        if self._steady:
            scale, offset = self._steady(points)
            placed = tuple(torch.from_numpy(x)[None].to(self.device) for x in (scale, offset))
        done, self._states = rollout.transfer(
            self.run.generators,
            self.run.config,
            self._source,
            self._labels,
            self._images(maps)[None],
            self._background,
            states=self._states,
            placed=placed,
        )
        return done

    def _views(
        self, frames: np.ndarray, maps: np.ndarray, done: rollout.Transferred, names: Collection[str]
    ) -> Pictures:
        whole, scale = done.whole, self.run.config.flow_scale / 4
        labels = done.labels[0].cpu().numpy().astype(np.uint8)
        make = {
            "source": lambda: np.broadcast_to(self._picture, (len(frames), *self._picture.shape)),
            "driving": lambda: frames,
            "pose": lambda: maps,
            "layout": lambda: render.colour_labels(labels, "remot6"),
            "aligned": lambda: to_uint8(done.aligned.image[0]),
            "gam": lambda: gam_overlay(frames, labels, done),
            "regions": lambda: np.concatenate([to_uint8(done.regions[0, :, i]) for i in range(5)], 2),
            "coarse": lambda: to_uint8(done.coarse[0]),
            "foreground": lambda: to_uint8(whole.foreground[0]),
            "mask": lambda: _grey(whole.shade[0]),
            "raw": lambda: to_uint8(whole.raw[0]),
            "flow": lambda: np.stack(
                [render.flow_image(f, scale) for f in whole.flow[0].float().movedim(1, -1).cpu().numpy()]
            ),
            "weight": lambda: _grey(whole.weight[0]),
            "result": lambda: to_uint8(done.images[0]),
        }
        return {name: make[name]() for name in names}

    def _images(self, images: np.ndarray) -> torch.Tensor:
        """uint8 [T, H, W, 3] -> float32 [T, 3, H, W] in [-1, 1]."""
        return torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, 1).float().to(self.device) / 127.5 - 1


def check_views(names: Collection[str], run: Run) -> None:
    """`TransferError` for a view that does not exist, or that the run has not."""
    if unknown := [name for name in names if name not in VIEWS]:
        raise TransferError(f"there is no view {', '.join(unknown)}; there are {', '.join(VIEWS)}")
    if not run.config.use_wcn and (absent := [name for name in names if name in _OF_WHOLE]):
        raise TransferError(f"{run.path} has no composition network, so there is no {', '.join(absent)} to see")


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """float [T, 3, H, W] in [-1, 1] -> uint8 [T, H, W, 3], rounded."""
    scaled = (images.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).movedim(1, -1).cpu().numpy()


def _each(state: rollout.State, act: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor | None]:
    """The fields of a state, each that is there passed through `act`."""
    return {name: None if value is None else act(value) for name, value in vars(state).items()}


def _grey(shares: torch.Tensor) -> np.ndarray:
    """float [T, 1, H, W] in [0, 1] -> uint8 [T, H, W, 3]."""
    return to_uint8(shares.expand(-1, 3, -1, -1) * 2 - 1)


def gam_overlay(frames: np.ndarray, labels: np.ndarray, done: rollout.Transferred) -> np.ndarray:
    """The aligned source over the driving frames uint8 [T, h, w, 3]: its outline and that of the layout, s and P.

    `labels` uint8 [T, H, W] is the layout. Cyan is the source, yellow the layout; where they part, the GAM is off.
    """
    size = frames.shape[1:3]
    aligned, moved = to_uint8(done.aligned.image[0]), done.aligned.labels[0].cpu().numpy().astype(np.uint8)
    shown = []
    for t, frame in enumerate(frames):
        picture = frame.copy()
        person = _enlarged(moved[t] > 0, size)
        blend = cv2.addWeighted(frame, 0.4, resized(aligned[t], size), 0.6, 0)
        picture[person > 0] = blend[person > 0]
        for mask, colour in ((_enlarged(labels[t] > 0, size), _YELLOW), (person, _CYAN)):
            lines = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
            cv2.drawContours(picture, lines, -1, colour, 1)
        scale, (x, y) = done.aligned.scale[0, t].item(), done.aligned.offset[0, t].tolist()
        for colour, thick in ((_BLACK, 3), (_WHITE, 1)):
            text = f"s {scale:.3f}  P {x:+.1f} {y:+.1f}"
            cv2.putText(picture, text, (4, size[0] - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, thick, cv2.LINE_AA)
        shown.append(picture)
    return np.stack(shown)


def _enlarged(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
