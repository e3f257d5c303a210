"""Opening and creating stores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from remot_data.records import FORMAT, canonical_json
from remot_data.store.cache import Cache
from remot_data.store.index import StoreError
from remot_data.store.store import Store


def open_store(url: str, cache: Cache | None = None) -> Store:
    """The store at `url`; what is read of the shards of a remote one is kept in `cache`.

    Raises:
        StoreError: where there is none, or of another format.
    """
    store = Store(url, cache)
    _ = store.config
    return store


def create_store(url: str, config: Mapping[str, Any] | None) -> Store:
    """A new store with this policy, or the one that is there; without a policy, the one that has to be there.

    To be called under the lock on it where others may do the same.

    Raises:
        StoreError: see `check_store`.
    """
    store = check_store(url, config)
    if config is not None and not store.files.exists("store.json"):
        for name in ("ledger/store.json", "store.json"):
            store.write_json(name, _stored(config))
    return store


def _stored(config: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(canonical_json({"format": FORMAT, **config}))


def check_store(url: str, config: Mapping[str, Any] | None) -> Store:
    """The store that is there, or is to be made, without writing anything.

    Raises:
        StoreError: where the folder holds something else, or a store of another policy (names what differs).
    """
    store = Store(url)
    if config is None:
        _ = store.config
        return store
    wanted = _stored(config)
    if not store.files.exists("store.json"):
        if [name for name in store.files.names("") if name != "ledger"]:
            raise StoreError(f"{url} exists and is no store; choose another --out or empty that folder")
        return store
    different = list(_differences(store.config, wanted))
    if different:
        raise StoreError(
            f"{url} was made with another policy ({', '.join(different)}); "
            "leave these options out, or use another --out"
        )
    return store


def _differences(have: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for name in {**wanted, **have}:
        old, new = have.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new)
        elif old != new:
            yield f"{name} is {old}, not {new}"
