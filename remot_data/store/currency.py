"""What the shards of layers were made from, whether that is still so, and in what order layers are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from remot_data.records import PASSING, sources

if TYPE_CHECKING:
    from remot_data.store import Store


class _Layer(Protocol):
    @property
    def kind(self) -> str: ...

    @property
    def id(self) -> str: ...

    @property
    def inputs(self) -> Mapping[str, str]: ...


Layer = TypeVar("Layer", bound=_Layer)


def saw(store: Store, inputs: Mapping[str, str], shard: int) -> dict[str, str]:
    """The sha256 of each shard that a layer's shard is made from, by kind."""
    return {kind: store.sha256(folder, shard) for kind, folder in sources(inputs).items()}


def changed(meta: Mapping[str, Any], now: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """The kinds that a shard was not made from as they are now.

    Args:
        meta: of the shard's index.
        now: kind -> metadata of the same shard of all that the layer reads, None where it is missing.
    """
    return [kind for kind, m in now.items() if m is None or meta["saw"].get(kind) != m["sha256"]]


def is_current(meta: Mapping[str, Any] | None, now: Mapping[str, Mapping[str, Any] | None]) -> bool:
    """Whether a shard is there and was made from what is there now; arguments as of `changed`."""
    return meta is not None and not changed(meta, now)


def may_pass(meta: Mapping[str, Any]) -> bool:
    """Whether clips are not in a shard because the machine failed: the next run tries again."""
    # The code stands first, or behind the words of who read: "its source cannot be read again: unavailable: ...".
    return any(code in why.split(": ") for why in meta["failed"].values() for code in PASSING)


def metas(store: Store, inputs: Mapping[str, str], shard: int) -> dict[str, dict[str, Any] | None]:
    """Kind -> metadata of a shard of all that a layer with these inputs reads, None where it is missing."""
    return {kind: store.meta(folder, shard) for kind, folder in sources(inputs).items()}


def in_order(layers: Iterable[Layer]) -> list[Layer]:
    """Layers, or jobs that make them, each after those of them that it reads."""
    done: list[Layer] = []
    waiting = list(layers)
    while waiting:
        ready = [i for i in waiting if not any((o.kind, o.id) in i.inputs.items() for o in waiting)] or waiting[:1]
        done += ready
        waiting = [i for i in waiting if not any(i is r for r in ready)]
    return done


def known_shards(store: Store) -> dict[str, dict[int, dict[str, Any]]]:
    """Folder -> shard -> metadata, as the receipts tell: so that a finished store is not read again."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for receipt in store.logged("receipts"):
        for folder, meta in receipt["made"].items():
            found.setdefault(folder, {})[receipt["shard"]] = meta
    return found


def shards_of(store: Store, folder: str, known: Mapping[str, Mapping[int, Any]]) -> dict[int, dict[str, Any]]:
    """Metadata of every complete shard of a folder; read from its index where no receipt tells."""
    told = known.get(folder, {})
    metas = ((shard, told.get(shard) or store.meta(folder, shard)) for shard in sorted(store.present(folder)))
    return {shard: meta for shard, meta in metas if meta is not None}
