"""Windows of drawn dancers without a store, and a configuration so small that a step takes a blink."""

from __future__ import annotations

import dataclasses

import numpy as np

from remot_data import render, synthetic
from remot_data.reading.stream import Window
from remot_data.schemas import convert_labels
from remot_model.config import Config, StagePlan, preset

SIZE = (32, 24)
SCHEMAS = {"pose": "body25", "labels": "remot11"}


def small_config(**fields: object) -> Config:
    """A configuration of 32x24 pixels with every part of the model in it."""
    plan = StagePlan(4, 1, length=4, chunk=4, lr=1e-3)
    values = {
        "size": SIZE, "ngf": 4, "ndf": 4, "region_ndf": 4, "n_downsample": 2, "n_blocks": 2, "decoder_blocks": 1,
        "crop_regions": True,
        "layout": plan, "region": plan, "whole": plan,
    } | fields  # fmt: skip
    return dataclasses.replace(preset("tiny"), **values)


def clip_arrays(frames: int = 8, size: tuple[int, int] = SIZE, seed: int = 0) -> dict[str, np.ndarray]:
    """A drawn dance, as the arrays of one long window without its source."""
    scene = synthetic.dance(synthetic.Dancer.random(seed), frames, size=size, seed=seed)
    return {
        "frames": scene.frames,
        "keypoints": scene.keypoints,
        "pose_map": np.stack([render.pose_map(k, "body25", size) for k in scene.keypoints]),
        "labels": convert_labels(scene.labels, "atr18", "remot11"),
        "flow": scene.flow,
        "confidence": scene.confidence == 3,
        "background": scene.background,
    }


class Windows:
    """The order over one clip, as `remot_data.reading.stream.Plan`: windows in a row, the first frame as source."""

    remote, seed = False, 0

    def __init__(self, arrays: dict[str, np.ndarray], length: int, drop: tuple[str, ...] = ()) -> None:
        self.arrays, self.length = {k: v for k, v in arrays.items() if k not in drop}, length

    def __len__(self) -> int:
        return len(self.arrays["frames"]) // self.length

    def window(self, number: int, size: tuple[int, int] | None = None) -> Window:
        a = number % len(self) * self.length
        cut = {k: v.copy() if k == "background" else v[a : a + self.length].copy() for k, v in self.arrays.items()}
        cut["pts"] = np.arange(a, a + self.length)
        for name, layer in (("source", "frames"), ("source_labels", "labels"), ("source_keypoints", "keypoints")):
            if layer in self.arrays:
                cut[name] = self.arrays[layer][0].copy()
        return Window(f"clip:{a}-{a + self.length - 1}/0", "clip", a, 0, cut)

    def fetch(self, number: int) -> list[bytes]:
        return []

    def fill(
        self, number: int, data: list[bytes], out: dict[str, np.ndarray], size: tuple[int, int] | None = None
    ) -> str:
        window = self.window(number, size)
        for name, array in window.arrays.items():
            out.setdefault(name, np.empty_like(array))[:] = array
        return window.id
