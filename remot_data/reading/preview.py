"""What training will read, before it starts: how much, in which order, and how fast this machine can."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import numpy as np

from remot_data.reading import sampling
from remot_data.reading.loader import Loader
from remot_data.reading.stream import Plan

_SAMPLE = 256  # windows looked at for bytes, and batches for the mixing


def describe(loader: Loader) -> dict[str, Any]:
    """What an epoch reads and how well it is mixed, as plain values.

    Bytes are estimated from 256 windows spread evenly over the epoch; of remote stores only the indexes of their shards
    are read. ``clips`` and ``persons`` are how many different ones a batch of all ranks holds on average, and
    ``of_a_full_shuffle`` the same where all windows of the epoch are shuffled at once.
    """
    plan, batch = loader.plan, loader.batch * loader.world_size
    read, stored = _bytes(plan)
    shards = [len(np.unique([c.shard for c in r.store.clips])) for r in plan.readers]
    return {
        "windows": len(plan),
        "batches": len(loader),
        "uneven": loader.uneven,
        "shards": sum(shards),
        "open_shards": min(plan.rules.open_shards * len(shards), sum(shards)),
        "open_bytes": round(sum(min(plan.rules.open_shards, n) * size for n, size in zip(shards, stored, strict=True))),
        "bytes_read": {kind: round(size * len(plan)) for kind, size in read.items()},
        "bytes_stored": round(sum(n * size for n, size in zip(shards, stored, strict=True))),
        "batch": batch,
        **_mixing(plan, batch),
    }


def _bytes(plan: Plan) -> tuple[dict[str, float], list[float]]:
    """Bytes of a window by layer, and of a shard with all layers that are read, of each store; means over a sample."""
    read: dict[str, float] = defaultdict(float)
    shards: list[dict[int, int]] = [{} for _ in plan.readers]
    numbers = np.unique(np.linspace(0, len(plan) - 1, min(_SAMPLE, len(plan)), dtype=np.int64)).tolist()
    for number in numbers:
        part, members = plan.members(number)
        store = plan.readers[part].store
        for folder, clip, ext, which in members:
            kind = "frames" if folder == "frames" else folder.split("/")[1]
            sizes = store.index(folder, clip.shard).members(clip.id, ext)[1]
            read[kind] += int(sizes[list(which)].sum())
        shard = members[0].clip.shard
        if shard not in shards[part]:
            folders = {one.folder for one in members}
            shards[part][shard] = sum(store.index(folder, shard).meta["bytes"] for folder in folders)
    means = [float(np.mean(list(found.values()))) if found else 0.0 for found in shards]
    return {kind: size / len(numbers) for kind, size in read.items()}, means


def _mixing(plan: Plan, batch: int) -> dict[str, Any]:
    clips = [len(reader.store.clips) for reader in plan.readers]
    first = np.cumsum([0, *clips])
    names = [clip.person or clip.video for reader in plan.readers for clip in reader.store.clips]
    person = np.unique(names, return_inverse=True)[1]
    of_clips = np.concatenate([order.of_clips(n) for order, n in zip(plan.order.orders, clips, strict=True)])
    weights = np.repeat([s / max(len(o), 1) for s, o in zip(plan.order.sizes, plan.order.orders, strict=True)], clips)
    shown = np.rint(of_clips * weights).astype(np.int64)
    batch = min(batch, len(plan))
    begins = np.unique(np.linspace(0, len(plan) - batch, min(_SAMPLE, len(plan) // batch), dtype=np.int64)).tolist()
    seen = np.array([[first[p] + c for p, c, *_ in map(plan.order.window, range(b, b + batch))] for b in begins])
    return {
        "clips": float(np.mean([len(np.unique(row)) for row in seen])),
        "persons": float(np.mean([len(np.unique(person[row])) for row in seen])),
        "of_a_full_shuffle": {
            "clips": sampling.distinct(shown, batch),
            "persons": sampling.distinct(np.bincount(person, shown).astype(np.int64), batch),
        },
    }


def measure(loader: Loader, windows: int) -> dict[str, Any]:
    """Read so many windows and more to fill a batch: seconds to the first batch, and the rate behind it."""
    started = time.perf_counter()
    with closing(iter(loader)) as batches:
        next(batches)
        first = time.perf_counter() - started
        count = 0
        while count < windows:
            next(batches)
            count += loader.batch
    spent = time.perf_counter() - started - first
    return {"windows": count, "first": first, "rate": count / spent, "damaged": len(loader.replaced)}


def sentences(found: Mapping[str, Any]) -> Iterator[str]:
    """What `describe` or `measure` found, for people."""
    if "rate" in found:
        yield f"first batch after {found['first']:.2f} s, then {found['rate']:.0f} windows a second"
        if found["damaged"]:
            yield f"{found['damaged']} windows are damaged; `remot verify` says where"
        return
    full, size = found["of_a_full_shuffle"], found["batch"]
    yield f"an epoch: {found['windows']} windows, {found['batches']} batches, {found['uneven']} windows over"
    yield f"in a batch of {size}: {found['clips']:.1f} clips (full shuffle {full['clips']:.1f}), " + (
        f"{found['persons']:.1f} persons (full shuffle {full['persons']:.1f})"
    )
    yield f"{found['open_shards']} of {found['shards']} shards are open at a time: {_mb(found['open_bytes'])}"
    parts = ", ".join(f"{kind} {_mb(size)}" for kind, size in found["bytes_read"].items())
    yield f"an epoch reads {_mb(sum(found['bytes_read'].values()))} ({parts}) of {_mb(found['bytes_stored'])} stored"


def _mb(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
