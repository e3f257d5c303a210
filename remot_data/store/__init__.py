"""A store: its files, shards, index and layers, and how they are opened.

What is listed in ``__all__`` is imported when it is first asked for: a process that only decodes reads no store.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remot_data.store.index import DamagedError, Members, StoreError, index_name, member_key, shard_name
    from remot_data.store.opening import check_store, create_store, open_store
    from remot_data.store.store import Store

# Name -> module.
_HOME = {
    **dict.fromkeys(("DamagedError", "Members", "StoreError", "index_name", "member_key", "shard_name"), "index"),
    **dict.fromkeys(("check_store", "create_store", "open_store"), "opening"),
    "Store": "store",
}

__all__ = [
    "DamagedError",
    "Members",
    "Store",
    "StoreError",
    "check_store",
    "create_store",
    "index_name",
    "member_key",
    "open_store",
    "shard_name",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"remot_data.store.{_HOME[name]}"), name)
    raise AttributeError(f"module 'remot_data.store' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
