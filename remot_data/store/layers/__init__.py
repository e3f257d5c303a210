"""The kinds of layers: one file each, with all that is particular to it (`base.Kind`), and how they are found by name.

Other packages add kinds by the entry point group ``remot.layers``, detectors by an attribute `layer_kind`; the
environment variable REMOT_LAYERS names those in files. They are imported when a kind is asked for that is not built in.
Reading runs no code that a store names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from remot_data.store.layers._check import LayerError, expect
from remot_data.store.layers._own import class_in
from remot_data.store.layers.background import Background
from remot_data.store.layers.base import Cut, Kind, Slot
from remot_data.store.layers.flow import Flow
from remot_data.store.layers.frames import Frames
from remot_data.store.layers.parsing import Parsing
from remot_data.store.layers.pose import Pose
from remot_data.store.layers.scores import Scores

__all__ = [
    "BUILT_IN",
    "Cut",
    "Kind",
    "LayerError",
    "Slot",
    "class_in",
    "expect",
    "form",
    "is_known",
    "kind",
    "known",
    "load",
    "ordered",
    "origin",
    "register",
]

_KINDS: dict[str, Kind] = {k.name: k for k in (Frames(), Pose(), Parsing(), Flow(), Background(), Scores())}
_ORIGINS: dict[str, str] = {}
BUILT_IN = tuple(_KINDS)
FORMS = ("image", "labels", "vectors", "map", "plain")


def kind(name: str) -> Kind:
    """The kind of this name: built in, registered, of a file that REMOT_LAYERS names, or of a package that offers it.

    Raises:
        LayerError: lists the known ones; or says why that of a file or a package cannot be used.
    """
    if not is_known(name):
        raise LayerError(
            f"no kind of layer is called {name!r}; known: {', '.join(known())}; install the package that brings it or "
            "name its file in REMOT_LAYERS (docs/layers.md)"
        )
    if name not in _KINDS:
        point = _offered()[name]
        try:
            found = point.load()
        except Exception as error:  # whatever the package raises while it is imported
            raise LayerError(f"the kind of layer {name!r} ({point.value}) cannot be imported: {error}") from error
        if register(found).name != name:
            raise LayerError(f"the kind of layer {name!r} ({point.value}) calls itself {found.name!r}")
    return _KINDS[name]


def known() -> list[str]:
    """The names of all kinds that can be had here."""
    _load_files(os.environ.get("REMOT_LAYERS", ""))
    return ordered({*_KINDS, *_offered()})


def is_known(name: str) -> bool:
    return name in _KINDS or name in known()


def ordered(names: Iterable[str]) -> list[str]:
    """Names of kinds in the order in which they are told: those built in first."""
    return sorted(names, key=lambda n: (BUILT_IN.index(n) if n in BUILT_IN else len(BUILT_IN), n))


def register(made: Any, source: str = "") -> Kind:
    """Make a kind known in this process: a `Kind`, or its class. It takes the place of an earlier one of its name.

    `source` is the ``path/to/file.py:ClassName`` of a detector that brings it, so that other processes can find it.

    Raises:
        LayerError: for what is no kind, a name that is built in, or an array of windows that another kind has.
    """
    try:
        found = made() if isinstance(made, type) else made
    except TypeError as error:  # it lacks a method
        raise LayerError(f"{made!r} is no kind of layer: {error}") from error
    if not isinstance(found, Kind) or not re.fullmatch(r"\w+", getattr(found, "name", "")):
        raise LayerError(f"{made!r} is no kind of layer: derive it from `Kind`, with a name of letters, digits and _")
    if not getattr(found, "fields", None) or found.window_field not in ("", *found.fields):
        raise LayerError(f"the kind of layer {found.name!r} needs fields, and among them its window_field")
    if found.name in BUILT_IN:
        raise LayerError(f"the kind of layer {found.name!r} is built in: give yours another name")
    for array, shape in found.window_arrays.items():
        owner = _owner(array)
        if owner not in (None, found.name) or array == "pts" or shape not in FORMS:
            why = f"has the form {shape!r}" if shape not in FORMS else f"is one of {owner or 'every window'}"
            raise LayerError(f"the array {array!r} of the kind of layer {found.name!r} {why}; choose another")
    _KINDS[found.name], _ORIGINS[found.name] = found, source
    return found


def load(spec: str) -> Kind:
    """Make the kind known that a class in a file is, or that a detector in it brings: ``path/to/file.py:ClassName``.

    Raises:
        LayerError: if there is none.
    """
    found = class_in(spec)
    return register(getattr(found, "layer_kind", found), spec)


@lru_cache(maxsize=1)
def _load_files(specs: str) -> None:
    for spec in filter(None, specs.split(",")):
        try:
            load(spec)
        except Exception as error:  # whatever the file raises while it is run
            raise LayerError(f"REMOT_LAYERS names {spec}, which cannot be loaded: {error}") from error


def origin(name: str) -> str:
    """The detector's file that brought a kind; empty where every process finds it by itself."""
    return _ORIGINS.get(name, "")


def form(array: str) -> str:
    """The form of an array of windows, as `Kind.window_arrays` has it; ``plain`` where no kind says."""
    owner = _owner(array)
    return _KINDS[owner].window_arrays[array] if owner else "plain"


def _owner(array: str) -> str | None:
    return next((name for name, k in _KINDS.items() if array in k.window_arrays), None)


def _offered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="remot.layers")}
