"""Human parsing by SCHP: the official ATR and LIP checkpoints in our own network.

Two things decide whether a checkpoint gives its published results. The official code normalises with InPlaceABN,
whose scale is ``|weight| + 1e-5``; and it takes images in BGR, scaled so that the centres of the outermost pixels of
the longer side meet those of the network's input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from remot_data.detectors._boxes import without_others
from remot_data.detectors._network import Runner, misfits, normalised
from remot_data.detectors._torch import choose_device, read_checkpoint
from remot_data.detectors.base import Arrays, Batched, DetectorError, Pending, file_sha256
from remot_data.records import BOXES, VALID

if TYPE_CHECKING:
    import torch

_MEAN = (0.406, 0.456, 0.485)  # of BGR in [0, 1]
_STD = (0.225, 0.224, 0.229)
_ABN_EPSILON = 1e-5


@dataclass(frozen=True)
class Model:
    """One of the official trainings: its label set, how many labels, the side of its input, the name of its file."""

    schema: str
    classes: int
    size: int
    file: str


MODELS = {
    "atr": Model("atr18", 18, 512, "exp-schp-201908301523-atr.pth"),
    "lip": Model("lip20", 20, 473, "exp-schp-201908261155-lip.pth"),
}
_FILES = " or ".join(f"{m.file} ({name.upper()})" for name, m in MODELS.items())
_EXPECTED = f"{_FILES}, which the page of GoGoDuck912/Self-Correction-Human-Parsing links to"


class SCHP(Batched):
    """Labels of body parts and clothes for every frame, as the authors' simple extractor makes them.

    Args:
        model: ``atr`` (18 labels) or ``lip`` (20); what the checkpoint was trained for if not given.
        weights: an official checkpoint.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``cuda`` if not given and torch sees one.
        batch: frames that go through the network together; 32 on a card and 1 elsewhere if not given.
        precision: ``float32``, or ``bfloat16`` for what torch's autocast runs in it.

    Raises:
        DetectorError: if the file is no checkpoint of this network, or one of the other label set.
    """

    name = "schp"
    kind = "parsing"
    version = "2"
    needs: tuple[str, ...] = (BOXES, VALID)
    licence = "MIT"
    approximate = False

    def __init__(
        self,
        model: str | None = None,
        weights: str | Path | None = None,
        *,
        device: str | None = None,
        batch: int | None = None,
        precision: str = "float32",
    ):
        import torch

        from remot_data.detectors._schp_network import AugmentedCE2P

        if model is not None and model not in MODELS:
            raise DetectorError(f"schp has no model {model!r}; choose one of {', '.join(MODELS)}")
        if weights is None:
            raise DetectorError(f"schp needs its weights: give weights=FILE, {_EXPECTED}")
        self.path = Path(weights)
        self.device = choose_device(device, self.name, "some seconds a frame")
        self._runner = Runner(self.name, self.device, batch, precision)
        self.batch = self._runner.batch
        state = official_state(read_checkpoint(self.path, self.name, _EXPECTED), str(self.path))
        self.model = _which(state, model, str(self.path))
        self.schema = MODELS[self.model].schema
        with torch.device("meta"):
            network = AugmentedCE2P(MODELS[self.model].classes)
        wanted = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
        if said := misfits({key: tuple(tensor.shape) for key, tensor in state.items()}, wanted):
            raise DetectorError(f"schp: the tensors of {weights} do not fit the network: {said}; give {_EXPECTED}")
        network.load_state_dict(as_batch_norm(state), assign=True)
        self._network = self._runner.place(network)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "detector": self.name,
            "version": self.version,
            "model": self.model,
            "weights": file_sha256(self.path),
            "settings": self._runner.settings,
        }

    def infer(self, items: np.ndarray) -> Arrays | Pending:
        return self._runner(self._labels, items)

    def join(self, frames: np.ndarray, outputs: Arrays, **needed: Arrays) -> Arrays:
        """`labels` uint8 [T, H, W] of frames uint8 [T, H, W, 3], RGB."""
        labels = outputs["labels"] if outputs else np.zeros(frames.shape[:3], np.uint8)
        return {"labels": without_others(labels, needed.get(BOXES), needed.get(VALID))}

    def _labels(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        import torch

        images = prepared(frames, MODELS[self.model].size)
        logits = self._network(images).float()
        full = torch.nn.functional.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=True)
        return {"labels": to_frame(full, frames.shape[1], frames.shape[2]).argmax(1).to(torch.uint8)}


def to_input(height: int, width: int, size: int) -> np.ndarray:
    """Affine matrix float64 [2, 3] from pixel indices of a frame to those of the square input, aspect kept.

    The middles meet, and the outermost pixels of the longer side lie on those of the input.
    """
    scale = (size - 1) / max(height - 1, width - 1, 1)
    middle = (size - 1) / 2
    return np.array([[scale, 0, middle - scale * (width - 1) / 2], [0, scale, middle - scale * (height - 1) / 2]])


def prepared(frames: torch.Tensor, size: int) -> torch.Tensor:
    """Frames uint8 [N, H, W, 3], RGB, as the network takes them: float32 [N, 3, size, size], BGR, normalised.

    What lies outside the frame is black.
    """
    import torch

    height, width = frames.shape[1:3]
    (scale, _, left), (_, _, top) = to_input(height, width, size)
    at = torch.arange(size, device=frames.device, dtype=torch.float64)
    x, y = ((2 * (at - before) / scale + 1) / side - 1 for before, side in ((left, width), (top, height)))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).float().expand(len(frames), -1, -1, -1)
    images = frames.flip(3).permute(0, 3, 1, 2).float()
    warped = torch.nn.functional.grid_sample(images, grid, mode="bilinear", align_corners=False)
    return normalised(warped / 255, _MEAN, _STD)


def to_frame(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Logits float [N, C, S, S] of the input as those of the frame, float [N, C, height, width]; bilinear."""
    import torch

    size = logits.shape[-1]
    (scale, _, left), (_, _, top) = to_input(height, width, size)
    # With align_corners, -1 and 1 are the centres of the outermost pixels.
    x = (torch.arange(width, device=logits.device, dtype=torch.float64) * scale + left) * 2 / (size - 1) - 1
    y = (torch.arange(height, device=logits.device, dtype=torch.float64) * scale + top) * 2 / (size - 1) - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).to(logits.dtype)
    grid = grid.expand(len(logits), -1, -1, -1)
    return torch.nn.functional.grid_sample(logits, grid, mode="bilinear", align_corners=True)


def official_state(checkpoint: Any, path: str) -> dict[str, torch.Tensor]:
    """The tensors of an official checkpoint by the names of the network: those under ``state_dict``, no ``module.``."""
    import torch

    state = checkpoint.get("state_dict") if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise DetectorError(
            f"schp: {path} is no SCHP checkpoint, it has no tensors under 'state_dict'; give {_EXPECTED}"
        )
    return {str(key).removeprefix("module."): tensor for key, tensor in state.items()}


def _which(state: Mapping[str, torch.Tensor], wanted: str | None, path: str) -> str:
    """The model that a state is of, told by how many labels it makes."""
    last = state.get("fushion.3.weight")
    if last is None:
        raise DetectorError(f"schp: {path} is no SCHP checkpoint, it lacks 'fushion.3.weight'; give {_EXPECTED}")
    found = next((name for name, m in MODELS.items() if m.classes == len(last)), None)
    if found is None:
        raise DetectorError(
            f"schp: {path} makes {len(last)} labels; supported are 18 (ATR) and 20 (LIP): give {_EXPECTED}"
        )
    if wanted not in (None, found):
        raise DetectorError(
            f"schp: {path} makes {len(last)} labels, it is a checkpoint for {found.upper()}, but the model {wanted!r} "
            f"was asked for; give {MODELS[wanted].file}, or take schp:{found}"
        )
    return found


def as_batch_norm(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state of InPlaceABN for batch norms that scale by the weight itself: each becomes ``|weight| + 1e-5``."""
    norms = {key.removesuffix("running_mean") + "weight" for key in state if key.endswith("running_mean")}
    floats = {key: tensor.float() for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    return {key: t.abs() + _ABN_EPSILON if key in norms else t for key, t in floats.items()}
