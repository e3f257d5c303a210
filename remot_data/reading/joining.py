"""The shards of a snapshot in a pipeline of the `webdataset` library: the frames with their layers, joined by key.

import webdataset
from remot_data.reading.joining import Join

join = Join("s3://bucket/dance", policy="drop")
samples = webdataset.DataPipeline(
    webdataset.SimpleShardList(join.urls, seed=0),
    webdataset.split_by_node,
    webdataset.split_by_worker,
    join,
    webdataset.shuffle(1000),
    webdataset.decode("rgb8"),
)
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from remot_data.reading import sampling
from remot_data.reading.filters import where
from remot_data.store import Store, StoreError, open_store, shard_name
from remot_data.store import layers as layer_kinds
from remot_data.store.disk import FilesError

log = logging.getLogger(__name__)

POLICIES = ("error", "drop", "none")
_BUFFER = 4 * 2**20  # bytes read at once of a remote tar

Sample = dict[str, Any]


class Join:
    """A stage of a pipeline: from {"url": name of a shard of frames} to samples with the members of all layers.

    A sample has ``__key__``, ``jpg`` and, for each layer, its members as ``KIND.EXTENSION``: ``pose.npy``,
    ``parsing.png``, ``flow.npz``. What a clip has once (its background) comes with each of its frames. Frames that the
    snapshot's filter or the split leaves out, and removed clips, are not there.

    Args:
        store: a store or its URL.
        layers: kinds to join; all that the snapshot has by default.
        split: as for `remot_data.reading.stream.stream`; None for every frame.
        policy: what becomes of a frame that some layer lacks (its detector failed on the clip): ``error``, ``drop``
            leaves the frame out, ``none`` gives it without that layer. `missing` counts such frames by layer,
            and a line at the end of each run says how many they were.

    Raises:
        ValueError: for another policy.
        StoreError: for a snapshot or layer that is not there; while iterating, under ``error``, naming key and layer.
    """

    def __init__(
        self,
        store: Store | str,
        snapshot: str = "main",
        layers: Sequence[str] | None = None,
        split: str | None = None,
        policy: str = "error",
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"policy is one of {', '.join(POLICIES)}, not {policy!r}")
        self.store = store if isinstance(store, Store) else open_store(store)
        self.snapshot, self.split, self.policy = self.store.snapshot(snapshot), split, policy
        folders = self.store.folders(self.snapshot)
        absent = [kind for kind in layers or () if kind not in folders]
        if absent:
            raise StoreError(f"snapshot {snapshot!r} of {self.store.url} has no {', '.join(absent)} layer")
        self.folders = {kind: folders[kind] for kind in (folders if layers is None else layers)}
        self.missing: Counter[str] = Counter()

    @cached_property
    def urls(self) -> list[str]:
        """What the first stage of a pipeline takes: the shards that hold clips of the snapshot."""
        return [shard_name("frames", shard) for shard in sorted({clip.shard for clip in self.store.clips})]

    def __call__(self, sources: Iterable[Mapping[str, Any]]) -> Iterator[Sample]:
        before = Counter(self.missing)
        for source in sources:
            url = source["url"]
            yield from self._joined(int(url.rpartition("-")[2].removesuffix(".tar")), url)
        found = self.missing - before
        if found:
            what = {"drop": "left out", "none": "given without it"}[self.policy]
            counts = ", ".join(f"{count} without {kind}" for kind, count in sorted(found.items()))
            log.warning("%s: frames that lack a layer are %s: %s", self.store.url, what, counts)

    def _joined(self, shard: int, url: str) -> Iterator[Sample]:
        layers = {
            kind: _Cursor(kind, self._samples(shard_name(folder, shard))) for kind, folder in self.folders.items()
        }
        allowed: dict[str, Any] = {}
        for sample in self._samples(url):
            key = sample["__key__"]
            name, _, t = key.rpartition("/")
            if name not in allowed:
                allowed[name] = self._allowed(name)
            if allowed[name] is None or not allowed[name][int(t)]:
                continue
            lacking = []
            for kind, cursor in layers.items():
                found = cursor.at(key)
                if found is None:
                    lacking.append(kind)
                else:
                    sample.update(found)
            if lacking and self.policy == "error":
                raise StoreError(f"{self.store.url}: {key} has no {', '.join(lacking)}; choose policy='drop' or 'none'")
            self.missing.update(lacking)
            if not lacking or self.policy == "none":
                yield sample

    def _allowed(self, name: str) -> Any:
        clip = self.store.clip.get(name)
        if clip is None:  # removed
            return None
        in_split = sampling.split_mask(clip.frames, self.snapshot.split, self.split, clip.split)
        return where(self.snapshot, self.store, clip) & in_split

    def _samples(self, name: str) -> Iterator[Sample]:
        """The samples of a tar, as the library itself reads them."""
        from webdataset.tariterators import group_by_keys, tar_file_expander

        try:
            file = self.store.files.open(name, _BUFFER)
        except FilesError:
            raise
        except OSError as error:
            raise StoreError(f"{self.store.url}/{name} cannot be read ({error}); run `remot verify`") from error
        with file:
            yield from group_by_keys(tar_file_expander([{"url": name, "stream": file}]))


class _Cursor:
    """One layer of a shard, read along with the keys of its frames; both are sorted."""

    def __init__(self, kind: str, samples: Iterator[Sample]) -> None:
        self._kind, self._samples = kind, samples
        self._per_clip = layer_kinds.kind(kind).per_clip
        self._held: Sample | None = next(samples, None)

    def at(self, key: str) -> Sample | None:
        """The members for a key, None where the layer has none; keys must come in order."""
        wanted = key.rpartition("/")[0] if self._per_clip else key
        while self._held is not None and self._of(self._held) < wanted:
            self._held = next(self._samples, None)
        if self._held is None or self._of(self._held) != wanted:
            return None
        return {f"{self._kind}.{name}": data for name, data in self._held.items() if not name.startswith("__")}

    def _of(self, sample: Sample) -> str:
        key = sample["__key__"]
        return key.rpartition("/")[0] if self._per_clip else key
