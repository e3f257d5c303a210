"""What every batched detector must hold: no item's output depends on who shares its batch."""

from __future__ import annotations

import numpy as np

from remot_data.detectors.base import Arrays, Batched, filled, landed


def assert_company_changes_nothing(detector: Batched, frames: np.ndarray) -> None:
    """A clip's items give equal bytes alone in padded batches, among those of another clip, and in another place."""
    items, size = detector.split(frames), detector.batch
    assert len(items) >= 2 and size >= 2, "give three frames and a batch of two or more"
    noise = np.random.default_rng(0).integers(0, 256, (size, *items.shape[1:]), items.dtype)
    alone = [_outputs(detector, [items[i : i + 1]], size, [0]) for i in range(len(items))]
    for at in range(size):
        company = [noise[:at], items[:1], noise[at + 1 :]]
        _assert_equal(alone[0], _outputs(detector, company, size, [at]))
    # All of the clip, after the last items of another one.
    row = [*noise[1:], *items]
    for start in range(0, len(row), size):
        part = np.stack(row[start : start + size])
        found = landed(detector.infer(filled([part], size)))
        for at in range(len(part)):
            if (which := start + at - len(noise) + 1) >= 0:
                _assert_equal(alone[which], {name: array[at : at + 1] for name, array in found.items()})


def _outputs(detector: Batched, parts: list[np.ndarray], size: int, which: list[int]) -> Arrays:
    outputs = landed(detector.infer(filled([part for part in parts if len(part)], size)))
    assert all(len(array) == size for array in outputs.values())
    return {name: array[which] for name, array in outputs.items()}


def _assert_equal(one: Arrays, other: Arrays) -> None:
    assert one.keys() == other.keys() and one
    for name, array in one.items():
        assert array.dtype == other[name].dtype and array.tobytes() == other[name].tobytes(), name
