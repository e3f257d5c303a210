"""One module per kind of layer: how its arrays become members of a shard and come back.

Each module has

- ``FIELDS``: array name -> extension of the member that holds it,
- ``PER_CLIP``: true where a clip has one sample instead of one a frame,
- ``encode(arrays, t) -> {extension: bytes}`` for one sample (`t` is ignored where ``PER_CLIP``),
- ``decode(extension, data) -> array``, the inverse up to what the module documents as lost,
- ``check(arrays, frames, size)``: raises `LayerError` for arrays of a wrong name, shape, dtype or range;
- ``stored(arrays) -> arrays``, where something is lost: all of them as they come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import numpy as np

from remot_data.store.layers import background, flow, frames, parsing, pose, scores
from remot_data.store.layers._check import LayerError

KINDS: dict[str, ModuleType] = {
    "frames": frames,
    "pose": pose,
    "parsing": parsing,
    "flow": flow,
    "background": background,
    "scores": scores,
}

__all__ = ["KINDS", "LayerError", "kind", "stored"]


def kind(name: str) -> ModuleType:
    """The module of a kind; `LayerError` lists the known ones."""
    if name not in KINDS:
        raise LayerError(f"no kind of layer is called {name!r}; known: {', '.join(KINDS)}")
    return KINDS[name]


def stored(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of a layer, rounded as they are when they are read again: what a layer made from them may see."""
    return dict(getattr(kind(name), "stored", dict)(arrays))
