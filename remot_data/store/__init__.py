"""A store: its files, shards, index and layers, and how they are opened."""

from remot_data.store.index import DamagedError, Members, StoreError, index_name, member_key, shard_name
from remot_data.store.opening import check_store, create_store, open_store
from remot_data.store.store import Store

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
