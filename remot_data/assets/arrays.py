"""Weights that are published as a pickle of NumPy arrays: read as data, kept as safetensors."""

from __future__ import annotations

import io
import json
import pickle
from typing import Any

import numpy as np

from remot_data.assets.table import AssetError


class _OnlyArrays(pickle.Unpickler):
    """Makes NumPy's arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (found := _KNOWN.get((module, name))) is None:
            raise AssetError(f"a pickle of arrays asks for {module}.{name}")
        return found


def _reconstruct(kind: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An empty array that its pickle fills."""
    if kind is not np.ndarray or shape != (0,):
        raise AssetError("a pickle of arrays has something else in it")
    return np.ndarray.__new__(np.ndarray, shape, dtype)


# The module moved with NumPy 2.
_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def arrays_of(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a pickle of nested dicts of them, by ``outer/inner`` names.

    Raises:
        AssetError: for a pickle of anything else; none of it is run.
    """
    try:
        todo = [("", _OnlyArrays(io.BytesIO(data)).load())]
    except AssetError:
        raise
    except Exception as error:  # damaged pickles raise many kinds
        raise AssetError(f"this is no pickle of arrays: {error}") from error
    found: dict[str, np.ndarray] = {}
    for prefix, value in todo:  # grows on the way
        if isinstance(value, dict):
            todo += [(f"{prefix}/{name}" if prefix else str(name), one) for name, one in value.items()]
        elif isinstance(value, np.ndarray) and value.dtype == np.float32:
            found[prefix] = value
        else:
            raise AssetError(f"a pickle of arrays has {type(value).__name__} in it")
    return found


def as_safetensors(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays of float32 in the format of the safetensors library, by name: equal arrays give equal bytes."""
    header, at = {}, 0
    for name, array in sorted(arrays.items()):
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join(
        [len(text).to_bytes(8, "little"), text, *(a.astype("<f4").tobytes() for _, a in sorted(arrays.items()))]
    )
