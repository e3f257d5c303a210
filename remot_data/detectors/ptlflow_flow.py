"""Flow by any two-frame network of ptlflow: FlowNet2, PWC-Net, RAFT, GMA, SEA-RAFT and many more."""

from __future__ import annotations

import contextlib
import io
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np

from remot_data.detectors._network import at_least_one, inference, load_tensors, tensors
from remot_data.detectors._pairs import flow_layer, padded
from remot_data.detectors._torch import choose_device, read_checkpoint
from remot_data.detectors.base import Arrays, DetectorError, file_sha256

_LEAST = 128  # smaller frames have too few cells on the coarsest level of most networks
_USUAL_STRIDE = 64


class PTLFlow:
    """Flow from each frame back to the one before it by a network of ptlflow, in both directions for the confidence.

    Args:
        model: its name in ptlflow, as ``raft``, ``flownet2`` or ``sea_raft_s``.
        weights: a checkpoint of ptlflow or a state dict; if not given, `checkpoint` is downloaded.
        checkpoint: name of one of ptlflow's own checkpoints for the model; put into the cache of torch.hub.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``cuda`` if not given and torch sees one.
        batch: pairs of frames that go through the network together; each frame needs two.

    Raises:
        DetectorError: for an unknown name, weights that cannot be had, or weights of another network.
    """

    name = "ptlflow"
    kind = "flow"
    version = "1"
    schema = "backward"
    needs: tuple[str, ...] = ()
    licence = "Apache-2.0; networks and weights have licences of their own, mostly for research only"
    approximate = False

    def __init__(
        self,
        model: str = "raft",
        weights: str | Path | None = None,
        *,
        checkpoint: str = "things",
        device: str | None = None,
        batch: int = 8,
    ):
        library = _ptlflow()
        if model not in library.get_model_names():
            raise DetectorError(f"{self.name} has no model {model!r}; choose {', '.join(library.get_model_names())}")
        self.model, self.batch = model, at_least_one(batch, self.name)
        self.device = choose_device(device, self.name, "a second (flownet2, pwcnet, gmflow) to ten (raft, gma) a frame")
        self.library = version("ptlflow")
        self.path = Path(weights) if weights is not None else _downloaded(library, model, checkpoint)
        network = _network(library, model)
        _fill(network, self.path, model)
        self._network = network.eval().requires_grad_(False)
        self._stride = network.output_stride or _USUAL_STRIDE

    def fingerprint(self) -> dict[str, Any]:
        return {
            "detector": self.name,
            "version": self.version,
            "ptlflow": self.library,
            "model": self.model,
            "weights": file_sha256(self.path),
            "settings": {},
        }

    def __call__(self, frames: np.ndarray, **needed: Arrays) -> Arrays:
        """`flow` and `confidence` of frames uint8 [T, H, W, 3], as `remot_data.detectors.dis` gives them."""
        with inference(self.device, self._network):
            return flow_layer(frames, self._estimate, self.batch)

    def _estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        import torch

        (one, (rows, columns)), (two, _) = padded(first, self._stride, _LEAST), padded(second, self._stride, _LEAST)
        pairs = torch.from_numpy(np.stack([one, two], 1)).to(self.device)
        # ptlflow reads images with OpenCV: channels are BGR, values 0 to 1.
        images = pairs.permute(0, 1, 4, 2, 3).flip(2).float().div_(255)
        flows = self._network({"images": images})["flows"]
        if tuple(flows.shape) != (len(first), 1, 2, *one.shape[1:3]):
            raise DetectorError(
                f"{self.name}: {self.model} gives flows {tuple(flows.shape)} for two frames; take a two-frame network"
            )
        return np.ascontiguousarray(flows[:, 0].permute(0, 2, 3, 1)[:, rows, columns].float().cpu().numpy())


def _ptlflow() -> Any:
    """The library, imported without the lines that its optional parts print."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import ptlflow
        from loguru import logger as loguru_logger
    finally:
        logger.setLevel(before)
    loguru_logger.disable("ptlflow")
    return ptlflow


def _downloaded(library: Any, model: str, checkpoint: str) -> Path:
    """The file of one of ptlflow's checkpoints in the cache of torch.hub."""
    import torch

    known = getattr(library.get_model_reference(model), "pretrained_checkpoints", {})
    if checkpoint not in known:
        offered = f"choose {', '.join(known)}" if known else "it offers none"
        raise DetectorError(f"ptlflow: {model} has no checkpoint {checkpoint!r}; {offered}, or give weights=FILE")
    path = Path(torch.hub.get_dir()) / "checkpoints" / known[checkpoint].rpartition("/")[2]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.load_state_dict_from_url(
                known[checkpoint], map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
        except (URLError, OSError, RuntimeError) as error:
            raise DetectorError(
                f"ptlflow: {known[checkpoint]} cannot be downloaded ({error}); fetch it by other means and give "
                "weights=FILE"
            ) from error
    return path


def _network(library: Any, model: str) -> Any:
    """A network of ptlflow; a few fetch the weights of a backbone of theirs, although a checkpoint holds them too."""
    try:
        return library.get_model(model)
    except (URLError, OSError) as error:
        raise DetectorError(
            f"ptlflow: {model} fetches weights of its backbone when it is made, and could not ({error}); run it once "
            "where there is a network, or put that file into the cache of torch.hub"
        ) from error


def _fill(network: Any, path: Path, model: str) -> None:
    """Load a checkpoint of ptlflow, with what else it says of the network, or a bare state dict."""
    expected = f"a checkpoint of ptlflow's {model} or a state dict of it"
    content = read_checkpoint(path, "ptlflow", expected)
    parameters = content.get("hyper_parameters") if isinstance(content, dict) else None
    for name, value in ((parameters or {}).get("extra_params") or {}).items():
        network.add_extra_param(name, value)
    if parameters and parameters.get("train_size") is not None:
        network.train_size = parameters["train_size"]
    load_tensors(network, tensors(content), "ptlflow", path, expected)
