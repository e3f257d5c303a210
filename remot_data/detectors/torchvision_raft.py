"""Flow by the RAFT networks of torchvision (Teed and Deng, ECCV 2020)."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

from remot_data.detectors._network import Runner, load_tensors
from remot_data.detectors._pairs import Pairs
from remot_data.detectors._torch import choose_device, read_checkpoint
from remot_data.detectors.base import DetectorError, file_sha256

_SECONDS = {"raft_large": "some 6 seconds a frame of 256 x 192", "raft_small": "some 2 seconds a frame of 256 x 192"}


class TorchvisionRAFT(Pairs):
    """Flow from each frame back to the one before it by RAFT, in both directions for the confidence.

    Args:
        model: ``raft_large`` or ``raft_small``.
        weights: a state dict of it; if not given, torchvision downloads its own into the cache of torch.hub.
        variant: which of torchvision's weights to download, as ``C_T_V2``; ``DEFAULT`` is its recommended one.
        updates: how often the network refines the flow.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``cuda`` if not given and torch sees one.
        batch: frames that go through the network together, each with the one before it in both directions; 16 on a
            card and 1 elsewhere if not given.
        precision: ``float32``, or ``bfloat16`` for what torch's autocast runs in it.

    Raises:
        DetectorError: for an unknown name, weights that cannot be had, or weights of another network.
    """

    name = "torchvision-raft"
    kind = "flow"
    version = "2"
    schema = "backward"
    needs: tuple[str, ...] = ()
    licence = "BSD-3-Clause; weights trained on data sets for research only"
    approximate = False
    multiple, least = 8, 128

    def __init__(
        self,
        model: str = "raft_large",
        weights: str | Path | None = None,
        *,
        variant: str = "DEFAULT",
        updates: int = 12,
        device: str | None = None,
        batch: int | None = None,
        precision: str = "float32",
    ):
        import torchvision
        from torchvision.models import optical_flow

        if model not in _SECONDS:
            raise DetectorError(f"{self.name} has no model {model!r}; choose one of {', '.join(_SECONDS)}")
        if updates < 1:
            raise DetectorError(f"{self.name}: {updates} updates give no flow; give at least 1, 12 is usual")
        self.model, self.updates = model, updates
        self.device = choose_device(device, self.name, _SECONDS[model])
        self._runner = Runner(self.name, self.device, batch, precision, on_card=16)
        self.batch = self._runner.batch
        self.library = torchvision.__version__.partition("+")[0]
        self.path = Path(weights) if weights is not None else _downloaded(self.name, model, variant)
        network = getattr(optical_flow, model)(weights=None)
        expected = f"a state dict of torchvision's {model}"
        load_tensors(network, read_checkpoint(self.path, self.name, expected), self.name, self.path, expected)
        self._network = self._runner.place(network)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "detector": self.name,
            "version": self.version,
            "torchvision": self.library,
            "model": self.model,
            "weights": file_sha256(self.path),
            "settings": {"updates": self.updates, **self._runner.settings},
        }

    def estimate(self, first: Any, second: Any) -> Any:
        images = (images.div(127.5).sub(1) for images in (first, second))
        return self._network(*images, num_flow_updates=self.updates)[-1]


def _downloaded(detector: str, model: str, variant: str) -> Path:
    """The file of one of torchvision's weights in the cache of torch.hub."""
    import torch
    from torchvision.models import get_model_weights

    known = get_model_weights(model)
    if variant not in known.__members__:
        raise DetectorError(f"{detector}: {model} has no weights {variant!r}; choose {', '.join(known.__members__)}")
    chosen = known[variant]
    try:
        chosen.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise DetectorError(
            f"{detector}: {chosen.url} cannot be downloaded ({error}); fetch it by other means and give weights=FILE"
        ) from error
    return Path(torch.hub.get_dir()) / "checkpoints" / chosen.url.rpartition("/")[2]
