"""Torch networks that come out the same on every machine's processor, with weights that must fit them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from remot_data.detectors.base import DetectorError

if TYPE_CHECKING:
    import torch


@contextmanager
def inference(device: str, *networks: torch.nn.Module) -> Iterator[None]:
    """No gradients; and on the processor one thread, since sums that are split over threads round differently.

    Work is spread over processes. Networks that are not on the device yet are put there: a detector is made with its
    weights in main memory, so that a process that only asks for its fingerprint leaves the GPUs alone.
    """
    import torch

    for network in networks if device != "cpu" else ():
        if next(network.parameters()).device.type == "cpu":
            network.to(device)
    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)


def at_least_one(batch: int, detector: str) -> int:
    """A batch size that can be worked with; `DetectorError` if it is none."""
    if batch < 1:
        raise DetectorError(f"{detector}: the batch is {batch}; give at least 1")
    return batch


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
