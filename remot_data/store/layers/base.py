"""What a kind of layer is: one class with all that is particular to it. `docs/layers.md` says how to add one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from remot_data.records import Clip
from remot_data.store.layers._check import LayerError

Arrays = dict[str, np.ndarray]
Size = tuple[int, int]  # height, width


class Cut(NamedTuple):
    """The frames of a window: first, first + step, ... and the source."""

    clip: Clip
    first: int
    step: int
    length: int
    source: int

    @property
    def frames(self) -> range:
        return range(self.first, self.first + self.length * self.step, self.step)

    @property
    def id(self) -> str:
        step = f":{self.step}" if self.step > 1 else ""
        return f"{self.clip.id}:{self.first}-{self.frames[-1]}{step}/{self.source}"


@dataclass(frozen=True)
class Slot:
    """Where a kind puts what a window holds of it.

    `stored` is the height and width of the store's frames, `size` that of the window's, `schema` the layer's. Where
    `raw`, what is derived at load is left out. `place(name, shape, dtype)` gives the array to fill. `optional` says
    whether the clip has the field `Kind.window_optional`; None where windows of this reading have no such array;
    `valid` whether the frames are to tell which of their pixels are of the source.
    """

    cut: Cut
    stored: Size
    size: Size
    raw: bool
    schema: str
    place: Callable[[str, tuple[int, ...], Any], np.ndarray]
    optional: bool | None = None
    valid: bool = False


class Kind(ABC):
    """Base of every kind of layer. It keeps no state: one object serves all threads.

    Attributes:
        name: of the kind: letters, digits and _.
        fields: array name -> extension of the member that holds it.
        per_clip: true where a clip has one sample instead of one a frame.
        window_field: the array whose members windows read; empty where windows hold nothing of the kind.
        window_optional: an array that some clips have. Where it is called like something to ask for (`SURE`), windows
            have it if that was asked for; else if all that is read together was made from boxes. Its members for the
            frames come after those of `samples` in a clip that has it, and in one that has none the array is to be
            filled all the same.
        window_arrays: arrays of a window that the kind fills -> their form, which says how they become tensors:
            ``image`` (uint8 [..., H, W, 3]), ``labels`` (uint8), ``vectors`` (float32 [..., H, W, C], which lie in
            memory as planes [..., C, H, W]), ``map`` (bool or float32 [..., H, W], which become
            float32 [..., 1, H, W]) or ``plain``, which stay as they are.
        about_agreement: a sentence that says what an agreement of 0.9 means.
        about_pictures: a sentence that says how to read a picture; may be empty.
    """

    name: str
    fields: Mapping[str, str]
    per_clip: bool = False
    window_field: str = ""
    window_optional: str = ""
    window_arrays: Mapping[str, str] = {}
    about_agreement: str = ""
    about_pictures: str = ""

    # Bytes, and the arrays of a clip

    @abstractmethod
    def encode(self, arrays: Mapping[str, np.ndarray], t: int) -> dict[str, bytes]:
        """Extension -> bytes of one sample; equal arrays give equal bytes. `t` is 0 where `per_clip`."""

    @abstractmethod
    def decode(self, extension: str, data: Any) -> Any:
        """The array of one member, the inverse of `encode` up to what `stored` rounds.

        Raises:
            LayerError: for damaged data.
        """

    @abstractmethod
    def check(self, arrays: Mapping[str, np.ndarray], frames: int, size: Size) -> None:
        """Raise `LayerError` for arrays of a wrong name, shape, dtype or range: those of a clip of so many frames."""

    def columns(self, arrays: Mapping[str, np.ndarray], t: int) -> dict[str, float]:
        """Extra columns of the shard's index for one sample."""
        return {}

    def stored(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """The arrays of a clip as they come back: what a layer made from them may see."""
        return dict(arrays)

    def stacked(self, samples: Mapping[str, Sequence[Any]]) -> Arrays:
        """The arrays of a clip, or of some of its samples, out of what `decode` gave for each; by array name."""
        return {name: values[0] if self.per_clip else np.stack(values) for name, values in samples.items()}

    def at_size(self, arrays: Mapping[str, np.ndarray], old: Size, new: Size) -> Arrays:
        """The arrays of a clip whose frames are of the size `old`, as they are for frames of the size `new`."""
        return dict(arrays) if tuple(old) == tuple(new) else self.resized(arrays, old, new)

    def resized(self, arrays: Mapping[str, np.ndarray], old: Size, new: Size) -> Arrays:
        """`at_size` of two sizes that differ. Coordinates have their origin at the top-left corner of the picture."""
        raise LayerError(f"{self.name} layers cannot be brought to another size: annotate without --from source")

    # Windows

    def samples(self, cut: Cut) -> Sequence[int]:
        """Numbers of the samples that a window reads, in order."""
        return (0,) if self.per_clip else (*cut.frames, cut.source)

    def window(self, members: Iterator[bytes], slot: Slot) -> None:
        """Fill the arrays `window_arrays` out of the members of `samples`."""
        raise LayerError(f"windows hold no {self.name} layer")

    def schemas(self, schema: str) -> dict[str, str]:
        """Names under which windows tell schemas -> schema, for a layer of this one."""
        return {}

    # Comparing two layers

    @property
    def is_comparable(self) -> bool:
        return type(self).agreement is not Kind.agreement

    def agreement(
        self, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], schema_a: str, schema_b: str, size: Size
    ) -> Arrays:
        """How far two layers of one clip agree: ``agreement`` in [0, 1] first, then other measures, a value a sample.

        NaN where there is nothing to compare. `size` is that of the frames.
        """
        raise LayerError(f"layers of kind {self.name!r} cannot be compared")

    # Pictures for people

    @property
    def is_drawn(self) -> bool:
        return type(self).pictures is not Kind.pictures

    def pictures(
        self, frames: np.ndarray, arrays: Mapping[str, np.ndarray], schema: str, common: bool = False
    ) -> Sequence[np.ndarray]:
        """A picture of each sample, uint8 [H, W, 3] of the frames' size.

        Args:
            frames: uint8 [T, H, W, 3].
            arrays: of the layer for these frames; where `per_clip`, those of the clip.
            common: the picture will stand beside that of another layer, maybe of another schema: draw both alike.
        """
        raise LayerError(f"{self.name} layers have no picture")

    def caption(self, arrays: Mapping[str, np.ndarray]) -> str:
        """What stands over the picture of a kind that is `per_clip`."""
        return self.name

    def legend(self, schema: str) -> list[tuple[str, str]]:
        """Names of what is seen in the pictures and their colours, ``#rrggbb``."""
        return []
