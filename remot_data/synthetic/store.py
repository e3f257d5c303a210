"""Stores of drawn dancers with exact layers."""

from __future__ import annotations

from collections.abc import Mapping

from remot_data import synthetic
from remot_data.engine import Engine, Progress, open_engine
from remot_data.records import XYWH, Clip, LayerInfo, Receipt, Snapshot, Times, digest, layer_folder
from remot_data.store import Store, StoreError, create_store
from remot_data.store import layers as layer_kinds
from remot_data.store.currency import saw
from remot_data.store.shards import Sample, encoded

# Raise when `synthetic` draws the same seed differently.
VERSION = "2"
_SCHEMAS = {"pose": "body25", "parsing": "atr18", "flow": "backward", "background": "rgb", "scores": "basic"}


def build_synthetic(
    out: str,
    dancers: int = 8,
    frames: int = 60,
    test: int = 2,
    size: tuple[int, int] = (256, 192),
    shard_frames: int = 4096,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Store:
    """A store of drawn dancers, a clip each; the last `test` of them have the split ``test``.

    Raises:
        StoreError: if `out` holds something else.
    """
    policy = {
        "synthetic": {"version": VERSION, "dancers": dancers, "frames": frames, "test": test, "seed": seed},
        "size": list(size),
    }
    store = create_store(out, policy)
    per_shard = max(1, shard_frames // frames)
    if not store.files.exists("clips.parquet"):
        splits = ["test" if i >= dancers - test else "train" for i in range(dancers)]
        store.write_clips([_clip(i, frames, size, i // per_shard, split, seed) for i, split in enumerate(splits)])
    with store.lock(), open_engine(workers) as engine:
        draw_missing(engine, store, progress)
    ids = _ids(store)
    for kind, layer_id in ids.items():
        info = LayerInfo(
            id=layer_id,
            kind=kind,
            detector="synthetic",
            version=VERSION,
            schema=_SCHEMAS[kind],
            fingerprint=policy,
            policy=store.policy,
        )
        store.write_json(f"{info.folder}/layer.json", info.to_json())
    store.write_snapshot(Snapshot("main", ids))
    return store


def check_version(store: Store) -> None:
    """Raise `StoreError` if what is missing in a drawn store would be drawn otherwise now."""
    version = store.config["synthetic"]["version"]
    if version != VERSION:
        raise StoreError(f"{store.url} was drawn by version {version}, this is {VERSION}: draw a new store instead")


def draw_missing(engine: Engine, store: Store, progress: Progress | None = None) -> None:
    """Draw every shard that lacks its frames or one of its layers."""
    ids = _ids(store)
    folders = ["frames", *(layer_folder(kind, layer_id) for kind, layer_id in ids.items())]
    there = set.intersection(*(store.present(folder) for folder in folders))
    missing = [shard for shard in range(store.shard_count) if shard not in there]
    if missing:
        check_version(store)
    seed = store.config["synthetic"]["seed"]
    tasks = [{"url": store.url, "shard": shard, "ids": ids, "seed": seed} for shard in missing]
    with store.log("receipts") as log:
        _ = list(engine.map(dancers_shard, tasks, "dancers", log=log, progress=progress))


def _ids(store: Store) -> dict[str, str]:
    return {kind: f"synthetic-{digest([store.policy, kind])[:10]}" for kind in _SCHEMAS}


def dancers_shard(url: str, shard: int, ids: Mapping[str, str], seed: int) -> Receipt:
    """The task: draw the dancers of one shard and write its frames and every layer. Harmless to run twice."""
    store = Store(url)
    samples: dict[str, list[Sample]] = {"frames": [], **{kind: [] for kind in ids}}
    clips = store.shard_clips(shard)
    for clip in clips:
        number = int(clip.id.rsplit("-", 1)[1])
        scene = synthetic.dance(
            synthetic.Dancer.random(seed * 100_003 + number), clip.frames, size=store.size, fps=clip.fps, seed=number
        )
        for t, pts in enumerate(clip.pts):
            samples["frames"].append(
                Sample(clip.key(t), layer_kinds.kind("frames").encode({"frames": scene.frames}, t), {"pts": pts})
            )
        for kind, arrays in synthetic.layers(scene).items():
            layer_kinds.kind(kind).check(arrays, clip.frames, store.size)
            samples[kind] += encoded(kind, clip, arrays)
    made = {"frames": store.write_shard("frames", shard, samples.pop("frames"))}
    seen = saw(store, {}, shard)
    for kind, layer_id in ids.items():
        folder = layer_folder(kind, layer_id)
        made[folder] = store.write_shard(folder, shard, samples[kind], seen)
    return Receipt("dancers", shard=shard, frames=sum(c.frames for c in clips), clips=len(clips), made=made)


def _clip(number: int, frames: int, size: tuple[int, int], shard: int, split: str, seed: int) -> Clip:
    name = f"dancer-{seed:03d}-{number:05d}"
    return Clip(
        id=name,
        video=name,
        path="",
        sha256="",
        shot=0,
        pts=Times(range(frames)),
        time_base=(1, 30),
        fps=30.0,
        source_size=(size[1], size[0]),
        crop=XYWH((0.0, 0.0, float(size[1]), float(size[0]))),
        person=name,
        split=split,
        licence="Apache-2.0",
        shard=shard,
    )
