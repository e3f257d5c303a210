"""Flow by any two-frame network of ptlflow: FlowNet2, PWC-Net, RAFT, GMA, SEA-RAFT and many more."""

from __future__ import annotations

import contextlib
import io
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.error import URLError

from remot_data.detectors._network import Runner, load_tensors, tensors
from remot_data.detectors._pairs import Pairs
from remot_data.detectors._torch import choose_device, read_checkpoint
from remot_data.detectors.base import DetectorError, file_sha256

_USUAL_STRIDE = 64


class PTLFlow(Pairs):
    """Flow from each frame back to the one before it by a network of ptlflow, in both directions for the confidence.

    Args:
        model: its name in ptlflow, as ``raft``, ``flownet2`` or ``sea_raft_s``.
        weights: a checkpoint of ptlflow or a state dict; if not given, `checkpoint` is downloaded.
        checkpoint: name of one of ptlflow's own checkpoints for the model; put into the cache of torch.hub.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``cuda`` if not given and torch sees one.
        batch: frames that go through the network together, each with the one before it in both directions; 16 on a
            card and 1 elsewhere if not given.
        precision: ``float32``, or ``bfloat16`` for what torch's autocast runs in it.

    Raises:
        DetectorError: for an unknown name, weights that cannot be had, or weights of another network.
    """

    name = "ptlflow"
    kind = "flow"
    version = "2"
    schema = "backward"
    needs: tuple[str, ...] = ()
    licence = "Apache-2.0; networks and weights have licences of their own, mostly for research only"
    approximate = False
    least = 128  # smaller frames have too few cells on the coarsest level of most networks

    def __init__(
        self,
        model: str = "raft",
        weights: str | Path | None = None,
        *,
        checkpoint: str = "things",
        device: str | None = None,
        batch: int | None = None,
        precision: str = "float32",
    ):
        library = _ptlflow()
        if model not in library.get_model_names():
            raise DetectorError(f"{self.name} has no model {model!r}; choose {', '.join(library.get_model_names())}")
        self.model = model
        self.device = choose_device(device, self.name, "a second (flownet2, pwcnet, gmflow) to ten (raft, gma) a frame")
        self._runner = Runner(self.name, self.device, batch, precision, on_card=16)
        self.batch = self._runner.batch
        self.library = version("ptlflow")
        self.path = Path(weights) if weights is not None else _downloaded(library, model, checkpoint)
        network = _network(library, model)
        _fill(network, self.path, model)
        self._network = self._runner.place(network)
        self.multiple = network.output_stride or _USUAL_STRIDE

    def fingerprint(self) -> dict[str, Any]:
        return {
            "detector": self.name,
            "version": self.version,
            "ptlflow": self.library,
            "model": self.model,
            "weights": file_sha256(self.path),
            "settings": self._runner.settings,
        }

    def estimate(self, first: Any, second: Any) -> Any:
        import torch

        # ptlflow reads images with OpenCV: channels are BGR, values 0 to 1.
        images = torch.stack([first, second], 1).flip(2).div(255)
        flows = self._network({"images": images})["flows"]
        if tuple(flows.shape) != (len(first), 1, 2, *first.shape[2:]):
            raise DetectorError(
                f"{self.name}: {self.model} gives flows {tuple(flows.shape)} for two frames; take a two-frame network"
            )
        return flows[:, 0]


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
