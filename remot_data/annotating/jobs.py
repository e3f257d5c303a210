"""A job: one layer to make, with which detector, from what."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from remot_data.detectors import base
from remot_data.records import Record, canonical_json, layer_folder, sources

AUTO = -1  # rows to read from the source videos: to be chosen when the layer is planned
AUTO_ROWS = 512  # where that is chosen: twice what the pose network sees of a person


@dataclass(frozen=True)
class Job(Record):
    """One layer to make: which detector, with what, under which id, from which other layers.

    `source` is 0 for the stored frames, or the most rows at which frames are read again from the source videos; `AUTO`
    until it is planned.
    """

    kind: str
    spec: str
    id: str = ""
    weights: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    source: int = AUTO

    @property
    def folder(self) -> str:
        return layer_folder(self.kind, self.id)

    @property
    def reads(self) -> dict[str, str]:
        """Kind -> folder of all that it reads."""
        return sources(self.inputs)

    def detector(self) -> base.Detector:
        return _detector(self.spec, self.weights, canonical_json(self.settings))


@lru_cache(maxsize=8)
def _detector(spec: str, weights: str | None, settings: str) -> base.Detector:
    return base.load(spec, weights=weights, settings=json.loads(settings))
