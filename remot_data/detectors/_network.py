"""Torch networks that come out the same on every machine's CPU, with weights that must fit them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from remot_data.detectors.base import Arrays, DetectorError, Pending

if TYPE_CHECKING:
    import torch

PRECISIONS = ("float32", "bfloat16")


class _OneThread:
    """Who has torch on one thread now, and how many it had before: some of its libraries count for all threads."""

    lock = threading.Lock()
    users, before = 0, 1


@contextmanager
def inference(device: str, *networks: torch.nn.Module) -> Iterator[None]:
    """No gradients; and on the CPU one thread, since sums that are split over threads round differently.

    Work is spread over processes, and over detectors. Networks that are not on the device yet are put there: a detector
    is made with its weights in main memory, so that a process that only asks for its fingerprint leaves GPUs alone.
    """
    import torch

    if device != "cpu":
        for network in networks:
            if next(network.parameters()).device.type == "cpu":
                network.to(device)
        with torch.inference_mode():
            yield
        return
    with _OneThread.lock:
        if not _OneThread.users:
            _OneThread.before = torch.get_num_threads()
        _OneThread.users += 1
        torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        with _OneThread.lock:
            _OneThread.users -= 1
            if not _OneThread.users:
                torch.set_num_threads(_OneThread.before)


def at_least_one(batch: int, detector: str) -> int:
    """A batch size that can be worked with; `DetectorError` if it is none."""
    if batch < 1:
        raise DetectorError(f"{detector}: the batch is {batch}; give at least 1")
    return batch


class Runner:
    """Runs the network of a batched detector where it belongs: bytes go up, results come down, a batch at a time.

    On the CPU items go through the network one by one, so `batch` changes nothing there, to the byte.

    Args:
        detector: its name, for errors.
        device: as `choose_device` gives it.
        batch: items that go through the network together; if not given, `on_card` on a card and 1 elsewhere.
        precision: ``float32`` or ``bfloat16``.

    Raises:
        DetectorError: for a batch below 1 or another precision.
    """

    def __init__(self, detector: str, device: str, batch: int | None, precision: str, on_card: int = 32):
        if precision not in PRECISIONS:
            raise DetectorError(f"{detector}: there is no precision {precision!r}; give {' or '.join(PRECISIONS)}")
        self.device, self.precision = device, precision
        self.batch = at_least_one(batch if batch is not None else 1 if device == "cpu" else on_card, detector)
        self._mixed = False
        self._networks: list[torch.nn.Module] = []

    @property
    def settings(self) -> dict[str, str]:
        """What a fingerprint says of it: the precision, unless it is float32."""
        return {} if self.precision == "float32" else {"precision": self.precision}

    @property
    def dtype(self) -> torch.dtype:
        """Of the images that the network takes."""
        import torch

        return torch.float32 if self._mixed else getattr(torch, self.precision)

    def place(self, network: Any, mixed: bool = True, exact: Sequence[torch.nn.Module] = ()) -> Any:
        """The network, made ready for inference; it goes to the device when it is first used.

        Args:
            mixed: with bfloat16 only convolutions and products are in it (torch's autocast), not the whole network.
            exact: parts of a mixed one that stay in float32 all the same; they are called within `exact`.
        """
        import torch

        network, kind = network.eval().requires_grad_(False), getattr(torch, self.precision)
        self._mixed = mixed
        heavy = (torch.nn.modules.conv._ConvNd, torch.nn.Linear)
        kept = {module for part in exact for module in part.modules()}
        # Converted once: autocast alone would convert weights again at every call.
        for module in [m for m in network.modules() if isinstance(m, heavy) and m not in kept] if mixed else [network]:
            module.to(kind)
        self._networks.append(network)
        return network

    def exact(self) -> AbstractContextManager[Any]:
        """Without autocast, for parts placed as exact: beyond 256, bfloat16 cannot tell a pixel from the next."""
        import torch

        return torch.autocast(self.device.partition(":")[0], enabled=False)

    def __call__(
        self, function: Callable[[torch.Tensor], Mapping[str, torch.Tensor]], items: np.ndarray
    ) -> Arrays | Pending:
        """What a function makes of items [batch, ...], by name.

        Args:
            function: takes tensors uint8 [n, ...] on the device, and gives tensors [n, ...]; n is `batch` or 1.
        """
        import torch

        kind = self.device.partition(":")[0]
        half = self._mixed and self.precision == "bfloat16"
        with inference(self.device, *self._networks), torch.autocast(kind, torch.bfloat16) if half else nullcontext():
            if kind == "cpu":
                found = [function(torch.from_numpy(items[i : i + 1])) for i in range(len(items))]
                return {name: torch.cat([part[name] for part in found]).numpy() for name in found[0]}
            with torch.cuda.device(self.device):
                return self._on_card(function, items)

    def _on_card(self, function: Callable[[torch.Tensor], Mapping[str, torch.Tensor]], items: np.ndarray) -> Pending:
        """All is only begun: pinned memory goes up and comes down while the host prepares the next batch."""
        import torch

        # torch keeps pinned memory for the next batch, and gives none away before its copy is done.
        up = torch.empty(items.shape, dtype=torch.uint8, pin_memory=True)
        np.copyto(up.numpy(), items)
        down = {}
        for name, tensor in function(up.to(self.device, non_blocking=True)).items():
            down[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            down[name].copy_(tensor, non_blocking=True)
        event = torch.cuda.Event(blocking=True)
        event.record()
        return _Coming(event, down)


class _Coming:
    """Outputs on their way down from a card."""

    def __init__(self, event: torch.cuda.Event, outputs: Mapping[str, torch.Tensor]):
        self._event, self._outputs = event, outputs

    def result(self) -> Arrays:
        self._event.synchronize()
        return {name: tensor.numpy() for name, tensor in self._outputs.items()}


def normalised(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Images [N, C, H, W] less a mean over a standard deviation, for each channel.

    Numbers, not tensors: taking a tensor to a card would wait for all that the card has to do.
    """
    import torch

    parts = zip(images.unbind(1), mean, std, strict=True)
    return torch.stack([(channel - middle) / spread for channel, middle, spread in parts], 1)


def tensors(checkpoint: Any) -> dict[str, torch.Tensor] | None:
    """The tensors by name of what a torch file holds: itself, or what is under ``state_dict`` or ``model``.

    ``module.``, which parallel training puts before every name, is taken off; None if there are no tensors.
    """
    import torch

    if not isinstance(checkpoint, Mapping):
        return None
    for key in ("state_dict", "model"):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    if not checkpoint or not all(isinstance(value, torch.Tensor) for value in checkpoint.values()):
        return None
    return {str(key).removeprefix("module."): value for key, value in checkpoint.items()}


def load_tensors(network: torch.nn.Module, checkpoint: Any, detector: str, path: object, expected: str) -> None:
    """Give a network all its tensors.

    Raises:
        DetectorError: if one is missing, too many or of another shape; `expected` says which file would fit.
    """
    state = tensors(checkpoint)
    if state is None:
        raise DetectorError(f"{detector}: {path} holds no tensors by name; give {expected}")
    wanted = network.state_dict()
    said = misfits(
        {key: tuple(value.shape) for key, value in state.items()},
        {key: tuple(value.shape) for key, value in wanted.items()},
    )
    if said:
        raise DetectorError(f"{detector}: the tensors of {path} do not fit the network: {said}; give {expected}")
    network.load_state_dict(state, strict=False)


def misfits(have: Mapping[str, tuple[int, ...]], want: Mapping[str, tuple[int, ...]]) -> str:
    """How the shapes of some tensors differ from those wanted, in words; empty if they do not.

    The counters of batch norms do not matter.
    """
    counter = "num_batches_tracked"
    common = have.keys() & want.keys()
    wrong = {
        "missing": [key for key in want if key not in have and not key.endswith(counter)],
        "not of this network": [key for key in have if key not in want and not key.endswith(counter)],
        "of another shape": sorted(key for key in common if have[key] != want[key]),
    }
    return "; ".join(
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' * (len(keys) > 3)})" for what, keys in wrong.items() if keys
    )
