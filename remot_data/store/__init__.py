"""A store: its files, shards, index and layers, and how they are opened."""

from remot_data.store.store import (
    DamagedError,
    Members,
    Store,
    StoreError,
    check_store,
    create_store,
    index_name,
    member_key,
    open_store,
    shard_name,
)

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
