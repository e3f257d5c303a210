"""A store as the report reads it: its ledger checked and summed, and the layers of one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from remot_data.records import Clip, LayerInfo, Reject, Snapshot
from remot_data.report.errors import reading
from remot_data.schemas import SCORES
from remot_data.store import Store
from remot_data.store import layers as layer_kinds
from remot_data.store.content import stats
from remot_data.store.layers import Kind
from remot_data.store.tables import read_table

SCAN, RECEIPTS, HISTORY = "videos", "receipts", "history"
_REJECTS = "ledger/rejects.parquet"


@dataclass(frozen=True)
class Sums:
    """Inputs and frames, as the ledger counts them, and what became of them."""

    videos: tuple[int, int, int]
    frames: tuple[int, int, int, int]

    @property
    def even(self) -> bool:
        return self.videos[0] == sum(self.videos[1:]) and self.frames[0] == sum(self.frames[1:])


class View:
    """A store as the report reads it: its ledger checked, and the snapshot to look through chosen.

    `beside` are layers that are shown next to those of the snapshot.
    """

    def __init__(self, store: Store, beside: Sequence[LayerInfo] = ()) -> None:
        self.store, self.beside = store, beside
        self.name = store.url.rstrip("/").rsplit("/", 1)[-1] or store.url
        # Where everything was refused there is no plan of clips, and that is when a report is wanted most.
        self.clips: list[Clip] = store.clips if store.files.exists("clips.parquet") else []
        self.snapshots = store.snapshots
        names = sorted(self.snapshots, key=lambda n: (n != "main", n))
        self.snapshot = self.snapshots[names[0]] if names else Snapshot("", {})
        self.folders = store.folders(self.snapshot)
        self.schema = {k: store.layer(k, v).schema for k, v in self.snapshot.layers.items()}

    @cached_property
    def stats(self) -> dict[str, Any] | None:
        _ = self.receipts  # read first, so that a damaged ledger is named
        return stats(self.store) if self.clips else None

    @cached_property
    def receipts(self) -> list[tuple[str, int, dict[str, float]]]:
        """Task, frames and seconds by stage of every receipt."""
        with reading(f"{self.store.url}/ledger/{RECEIPTS}"):
            return [(line["task"], line["frames"], dict(line["seconds"])) for line in self.lines(RECEIPTS)]

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The records of a log of the ledger, none if it is not there."""
        with reading(f"{self.store.url}/ledger/{name}"):
            return self.store.logged(name)

    @cached_property
    def rejects(self) -> list[Reject]:
        if not self.store.files.exists(_REJECTS):
            return []
        with reading(f"{self.store.url}/{_REJECTS}"):
            rows = read_table(self.store.files.read(_REJECTS)).to_pylist()
            return [Reject.from_json(row) for row in rows]

    @cached_property
    def inputs(self) -> list[dict[str, Any]]:
        """The last ledger line of every input that this store was built from."""
        used = {clip.path for clip in self.clips} | {reject.path for reject in self.rejects}
        with reading(f"{self.store.url}/ledger/{SCAN}"):
            lines = {line["input"]["path"]: line for line in self.lines(SCAN)}
        return [line for path, line in lines.items() if path in used]

    @cached_property
    def sums(self) -> Sums | None:
        """How the sums come out, or None for a store that was not built from videos."""
        if not self.inputs:
            return None
        kept = {clip.path for clip in self.clips}
        repeated = {r.path for r in self.rejects if r.code == "duplicate"}
        with reading(f"{self.store.url}/ledger/{SCAN}"):
            resampled = sum(i["frames"]["resampled"] for i in self.inputs if i["input"]["path"] not in repeated)
            decoded = sum(i["frames"]["decoded"] for i in self.inputs)
        return Sums(
            videos=(len(self.inputs), len(kept), len({r.path for r in self.rejects} - kept)),
            frames=(decoded, self._kept(), sum(r.frames for r in self.rejects), resampled),
        )

    def _kept(self) -> int:
        """Frames of videos that are in any clip: those of several persons count once."""
        if not self.store.has_boxes:
            return sum(clip.frames for clip in self.clips)
        times: dict[str, list[np.ndarray]] = {}
        for clip in self.clips:
            times.setdefault(clip.video, []).append(clip.pts.array())
        return sum(len(np.unique(np.concatenate(found))) for found in times.values())

    @cached_property
    def drawn(self) -> list[Kind]:
        """The kinds of the snapshot that have pictures."""
        kinds = (layer_kinds.kind(k) for k in layer_kinds.ordered(self.folders) if k not in self.unknown)
        return [k for k in kinds if k.is_drawn]

    @property
    def unknown(self) -> list[str]:
        """The kinds of the snapshot that are not known here."""
        return [k for k in self.folders if not layer_kinds.is_known(k)]

    def arrays(self, kind: str, clip: Clip, which: Sequence[int]) -> dict[str, np.ndarray] | None:
        """Decoded arrays of some frames of a clip, None where the snapshot has no such layer of it."""
        folder = self.folders.get(kind)
        if folder is None or clip.id not in self.store.index(folder, clip.shard).spans:
            return None
        return self.store.read_arrays(folder, kind, clip, which=which)

    @cached_property
    def scores(self) -> dict[str, dict[str, np.ndarray]]:
        """Clip -> score -> one value a frame."""
        if "scores" not in self.folders:
            return {}
        out = {}
        for clip in self.clips:
            index = self.store.index(self.folders["scores"], clip.shard)
            if clip.id in index.spans:
                out[clip.id] = {name: index.column(clip.id, name) for name in index.rows.column_names[4:]}
        return out


def evenly(total: int, most: int) -> list[int]:
    """At most `most` of the numbers below `total`, spread evenly, the first and the last among them."""
    return np.unique(np.linspace(0, total - 1, max(0, min(total, most))).round().astype(int)).tolist()


def known(name: str, values: np.ndarray) -> np.ndarray:
    """The values of a score that are known: below 0 is what nothing is known of, in scores of ours."""
    return values[values >= 0] if name in SCORES["quality"] else values
