"""Driving frames through the networks, and everything there is to see on the way as pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from remot_data import render
from remot_data.records import HW
from remot_model.checkpoint import Run
from remot_model.generating import rollout
from remot_model.generating.alignment import Steady
from remot_model.generating.inference import Runner
from remot_model.transferring.driving import Piece
from remot_model.transferring.eyes import Eyes
from remot_model.transferring.pictures import resized
from remot_model.transferring.request import TransferError
from remot_model.transferring.source import Source

# Frames that go through the networks at once, of a GPU with one launch. On a CPU more are no faster, and take memory.
_PIECE, _PIECE_ON_CPU = 16, 1
_CYAN, _YELLOW, _WHITE, _BLACK = (0, 220, 255), (255, 220, 0), (255, 255, 255), (0, 0, 0)

Pictures = dict[str, np.ndarray]


@dataclass(frozen=True)
class Seen:
    """A piece and what the eyes made of it: pose maps uint8 [T, 3, H, W], on the CPU.

    `placed`: scale [T] and offset [T, 2] for the GAM, or None for its own. `memory` is what the next piece goes on
    from, plain values and tensors.
    """

    piece: Piece
    maps: torch.Tensor
    placed: tuple[torch.Tensor, torch.Tensor] | None
    memory: dict[str, Any]


@dataclass(frozen=True)
class Made:
    """What the networks made of a piece, on its way from the device.

    `parts` are what `_taken` gives of consecutive frames; `memory` as `Renderer.memory` gives it.
    """

    seen: Seen
    parts: list[dict[str, torch.Tensor]]
    memory: dict[str, Any]
    arrived: torch.cuda.Event | None

    def wait(self) -> None:
        """Until the tensors are there: before, nobody may look at them."""
        if self.arrived:
            self.arrived.synchronize()


class Renderer:
    """Driving frames to pictures, piece by piece; the networks' memory is carried until a shot begins.

    A piece passes `look`, `see`, `run` and `show`, which may be in four threads; of all but `look` and `show` the order
    of the pieces counts.

    Args:
        who: the source person.
        background: uint8 [H, W, 3] at the networks' size.
        runner: of the run's networks; those of `run` run here in any case.
        gam: ``paper``, or ``steady`` for `remot_model.generating.alignment.Steady`.
        fps: driving frames a second.

    Attributes:
        without_pose: frames so far in which nobody was found; they repeat the pose before, if there is one.
        plain: as of `remot_model.generating.inference.Networks`.

    Raises:
        TransferError: if the steady GAM is asked for and the source's trunk was not seen.
    """

    def __init__(
        self,
        run: Run,
        who: Source,
        background: np.ndarray,
        eyes: Eyes,
        runner: Runner,
        gam: str = "paper",
        fps: float = 30.0,
    ) -> None:
        self.config, self.eyes, self.device, self.without_pose = run.config, eyes, run.networks.device, 0
        self.plain, self._runner = run.networks.plain, runner
        size = run.config.size
        self._picture = who.image
        self._source = self._images(_planes(resized(who.image, size)[None]))
        small = cv2.resize(who.labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        self._labels = torch.from_numpy(small).long()[None].to(self.device)
        self._background = self._images(_planes(background[None]))
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
        return self.show(self.run(self.see(piece, self.look(piece, self.eyes)), names), names)

    def memory(self) -> dict[str, Any]:
        """What is carried from piece to piece, as tensors on the CPU and plain values; `restore` takes it."""
        made = self._memory(self._seen())
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return made

    def restore(self, memory: dict[str, Any]) -> None:
        """Go on behind the piece after which `memory` was taken."""
        states, pose = memory["states"], memory["last_pose"]
        if states is not None:
            self._states = {name: _each(rollout.State(**state), self._here) for name, state in states.items()}
        self._last_pose = None if pose is None else pose.numpy()
        self.without_pose = memory["without_pose"]
        if self._steady:
            self._steady.memory = memory["steady"]

    def _here(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(self.device)

    def look(self, piece: Piece, eyes: Eyes) -> np.ndarray:
        """Keypoints float32 [T, K, 3] of a piece as `eyes` find them, at the networks' size."""
        return self._scaled(eyes.keypoints(eyes.look(piece.frames, piece.boxes, piece.seconds)))

    def see(self, piece: Piece, points: np.ndarray) -> Seen:
        """What the networks are given of a piece, out of what `look` found in it."""
        if piece.begins:
            self._last_pose = None
            if self._steady:
                self._steady.memory = {}
        seen = np.any(points[..., 2] > 0, axis=1)
        self.without_pose += int((~seen).sum())
        maps = []
        for one, found in zip(points, seen, strict=True):
            if found or self._last_pose is None:
                self._last_pose = one
            maps.append(render.pose_map(self._last_pose, self.eyes.schema, self.config.size))
        placed = None
        if self._steady:
            scale, offset = map(torch.from_numpy, self._steady(points, piece.seconds))
            placed = scale, offset
        return Seen(piece, _planes(np.stack(maps)), placed, self._seen())

    def run(self, seen: Seen, names: Collection[str], check: Callable[[], None] = lambda: None) -> Made:
        """Let the networks make what the views `names` show; on a GPU nobody waits until it is done.

        `check` is called again and again, and may end the work by an error.
        """
        if seen.piece.begins:
            self._states = None
        # From page-locked memory a GPU copies while nobody waits for it.
        maps = seen.maps.pin_memory() if self.device.type == "cuda" else seen.maps
        maps = maps.to(self.device, non_blocking=True)
        placed = None if seen.placed is None else tuple(x.to(self.device, non_blocking=True) for x in seen.placed)
        step = _PIECE_ON_CPU if self.device.type == "cpu" else _PIECE
        parts = []
        for i in range(0, len(maps), step):
            check()
            part = slice(i, i + step)
            done = self._run(maps[part], None if placed is None else (placed[0][part], placed[1][part]))
            parts.append({name: _home(x) for name, x in _taken(done, names).items()})
        made = Made(seen, parts, self._memory(seen.memory), torch.cuda.Event(blocking=True) if maps.is_cuda else None)
        if made.arrived:
            made.arrived.record()
        return made

    def show(self, made: Made, names: Collection[str]) -> Pictures:
        """The views `names` of a piece by name, each uint8 [T, h, w, 3]."""
        made.wait()
        found = {name: np.concatenate([part[name].numpy() for part in made.parts]) for name in made.parts[0]}
        frames, scale = made.seen.piece.frames, self.config.flow_scale / 4
        make = {
            "source": lambda: np.broadcast_to(self._picture, (len(frames), *self._picture.shape)),
            "driving": lambda: frames,
            "pose": lambda: np.moveaxis(made.seen.maps.numpy(), 1, -1),
            "layout": lambda: render.colour_labels(found["labels"], "remot6"),
            "gam": lambda: gam_overlay(frames, *(found[name] for name in _OF_GAM)),
            "regions": lambda: np.concatenate(list(np.moveaxis(found["regions"], 1, 0)), 2),
            "mask": lambda: _grey(found["shade"]),
            "flow": lambda: np.stack([render.flow_image(flow, scale) for flow in found["flow"]]),
            "weight": lambda: _grey(found["weight"]),
        }
        return {name: make[name]() if name in make else found[_PLAIN[name]] for name in names}

    def _seen(self) -> dict[str, Any]:
        """What of `memory` the eyes continue from."""
        return {
            "last_pose": None if self._last_pose is None else torch.from_numpy(self._last_pose),
            "steady": self._steady and self._steady.memory,
            "without_pose": self.without_pose,
        }

    def _memory(self, seen: dict[str, Any]) -> dict[str, Any]:
        # A view written to a file would bring the whole piece it was cut from.
        states = {name: vars(_each(state, lambda v: _home(v.clone()))) for name, state in (self._states or {}).items()}
        return {"states": states or None, **seen}

    def _scaled(self, points: np.ndarray) -> np.ndarray:
        """Keypoints in pixels of the detectors' frames as in pixels of the networks'."""
        factor = self.config.size[0] / self.eyes.size[0]
        return np.concatenate([points[..., :2] * np.float32(factor), points[..., 2:]], -1)

    def _run(self, maps: torch.Tensor, placed: tuple[torch.Tensor, torch.Tensor] | None) -> rollout.Transferred:
        done, self._states = self._runner(
            self._source,
            self._labels,
            self._images(maps)[None],
            self._background,
            states=self._states,
            placed=None if placed is None else (placed[0][None], placed[1][None]),
        )
        return done

    def _images(self, planes: torch.Tensor) -> torch.Tensor:
        """uint8 [T, 3, H, W] -> float32 in [-1, 1], on the device."""
        return planes.to(self.device).float() / 127.5 - 1


def _planes(images: np.ndarray) -> torch.Tensor:
    """uint8 [T, H, W, 3] -> [T, 3, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, 1)


# Views that are pictures as they come from the device, by the names of `_taken`.
_PLAIN = {"aligned": "aligned", "coarse": "coarse", "foreground": "foreground", "raw": "raw", "result": "result"}
_OF_GAM = ("labels", "aligned", "moved", "scale", "offset")
# What else a view needs of it.
_NEEDS = {"layout": ("labels",), "gam": _OF_GAM, "regions": ("regions",), "mask": ("shade",), "flow": ("flow",)}
_NEEDS |= {"weight": ("weight",)} | {view: (name,) for view, name in _PLAIN.items()}


def _taken(done: rollout.Transferred, views: Collection[str]) -> dict[str, torch.Tensor]:
    """What `views` need of frames, made on the device: pictures uint8 [T, ..., H, W, 3], and the others [T, ...]."""
    whole: Any = done.whole  # asked for only where there is one
    make = {
        "labels": lambda: done.labels[0].to(torch.uint8),
        "aligned": lambda: rollout.to_uint8(done.aligned.image[0]),
        "moved": lambda: done.aligned.labels[0].to(torch.uint8),
        "scale": lambda: done.aligned.scale[0],
        "offset": lambda: done.aligned.offset[0],
        "regions": lambda: rollout.to_uint8(done.regions[0]),
        "coarse": lambda: rollout.to_uint8(done.coarse[0]),
        "foreground": lambda: rollout.to_uint8(whole.foreground[0]),
        "shade": lambda: rollout.to_uint8(whole.shade[0] * 2 - 1),
        "raw": lambda: rollout.to_uint8(whole.raw[0]),
        "flow": lambda: whole.flow[0].float().movedim(1, -1),
        "weight": lambda: rollout.to_uint8(whole.weight[0] * 2 - 1),
        "result": lambda: rollout.to_uint8(done.images[0]),
    }
    wanted = {name for view in views for name in _NEEDS.get(view, ())}
    return {name: make[name]() for name in make if name in wanted}


def _home(x: torch.Tensor) -> torch.Tensor:
    """The tensor on the CPU; from a GPU it is on its way there, to page-locked memory."""
    return x.to("cpu", non_blocking=True)


def _each(state: rollout.State, act: Callable[[torch.Tensor], torch.Tensor]) -> rollout.State:
    """The state with each tensor that is there passed through `act`."""
    there = {name: act(value) for name, value in vars(state).items() if value is not None}
    return rollout.State(**there)


def _grey(shares: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W, 1] -> [T, H, W, 3]."""
    return np.repeat(shares, 3, -1)


def gam_overlay(
    frames: np.ndarray,
    labels: np.ndarray,
    aligned: np.ndarray,
    moved: np.ndarray,
    scale: np.ndarray,
    offset: np.ndarray,
) -> np.ndarray:
    """The aligned source over the driving frames uint8 [T, h, w, 3]: its outline and that of the layout, s and P.

    Cyan is the source, yellow the layout; where they part, the GAM is off.

    Args:
        frames: the driving frames.
        labels: uint8 [T, H, W], the layout.
        aligned, moved: uint8 [T, H, W, 3] and [T, H, W], the aligned source and its labels.
        scale, offset: s [T] and P [T, 2] as x, y.
    """
    size, shown = frames.shape[1:3], []
    for t, frame in enumerate(frames):
        picture = frame.copy()
        person = _enlarged(moved[t] > 0, size)
        blend = cv2.addWeighted(frame, 0.4, resized(aligned[t], size), 0.6, 0)
        picture[person > 0] = blend[person > 0]
        for mask, colour in ((_enlarged(labels[t] > 0, size), _YELLOW), (person, _CYAN)):
            lines = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
            cv2.drawContours(picture, lines, -1, colour, 1)
        (x, y), s = offset[t], scale[t]
        for colour, thick in ((_BLACK, 3), (_WHITE, 1)):
            text = f"s {s:.3f}  P {x:+.1f} {y:+.1f}"
            cv2.putText(picture, text, (4, size[0] - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, thick, cv2.LINE_AA)
        shown.append(picture)
    return np.stack(shown)


def _enlarged(mask: np.ndarray, size: HW) -> np.ndarray:
    return cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
