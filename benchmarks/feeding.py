"""What reading a window for training costs a core, where that goes, and how many cores a card needs.

For each stage, windows as the preset trains on them, of a store of drawn dancers at its size, are read one after the
other in one thread, with the CPU's clock around each part; of some rounds the fastest counts. Beside it, what
`remot_model.training.reading.read_only` says of the whole path, by seconds of CPUs.

    python benchmarks/feeding.py [--preset paper] [--windows 100] [--rounds 5] [--store URL]
"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch

from remot_data import render
from remot_data.reading.stream import to_torch
from remot_data.store.layers import flow
from remot_data.synthetic.store import build_synthetic
from remot_model.config import STAGES, Config, preset
from remot_model.training import data
from remot_model.training.reading import read_only

stream = importlib.import_module("remot_data.reading.stream")  # the package calls its function so too

AIMED = {"layout": 250, "region": 100, "whole": 100}  # frames/s of one card at 256x192
AUGMENTATION = ("jitter", "mirror", "pose maps again")
PARTS = ("decode", "resize", "chain flow", "pose maps", *AUGMENTATION, "to float")


@contextmanager
def clocked(parts: Counter[str], current: list[str]) -> Iterator[None]:
    """Time the functions that make up the parts; `current` names the one that calls them."""
    told = [
        (stream, "_resize", "resize"),
        (stream, "_nearest", "resize"),
        (flow, "chain", "chain flow"),
        (render, "pose_map", "pose maps"),
        (data, "_jitter", "jitter"),
    ]
    plain = [(module, name, getattr(module, name)) for module, name, _ in told]

    def timed(call: Callable[..., Any], part: str) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            began = time.thread_time()
            out = call(*given, **named)
            again = part == "pose maps" and current[0] == "augmentation"
            parts["pose maps again" if again else part] += time.thread_time() - began
            return out

        return run

    for (module, name, call), (_, _, part) in zip(plain, told, strict=True):
        setattr(module, name, timed(call, part))
    yield
    for module, name, call in plain:
        setattr(module, name, call)


def costs(store: str, config: Config, stage: str, windows: int) -> Counter[str]:
    """Seconds of each part for all windows together, after one that is not counted."""
    plan = data.epochs(store, config, stage)
    schema = data.schemas(store, "main").get("pose", "body25")
    found: Counter[str] = Counter()
    inner: Counter[str] = Counter()
    current, arrays = [""], {}

    def part(name: str, call: Callable[[], Any]) -> Any:
        current[0], inside, began = name, inner.total(), time.thread_time()
        out = call()
        found[name] += time.thread_time() - began - (inner.total() - inside)
        return out

    with clocked(inner, current):
        for number in range(windows + 1):
            if number == 1:
                found.clear()
                inner.clear()
            chance = np.random.default_rng((0, 1, number))
            members = part("decode", lambda number=number: plan.fetch(number))
            part("decode", lambda number=number, members=members: plan.fill(number, members, arrays, config.size))
            part("augmentation", lambda chance=chance: data.augmented(arrays, config, schema, chance))
            part("to float", lambda: to_torch({name: array[None] for name, array in arrays.items()}))
    found["mirror"] = found.pop("augmentation")
    return found + inner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--store", help="read this one instead of a drawn one")
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of reading by the whole path, for each stage")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    config = preset(args.preset)
    print(f"{args.preset}, {config.size[0]}x{config.size[1]}, {len(os.sched_getaffinity(0))} cores")
    heads = [
        "stage",
        "ms a window",
        *PARTS,
        "augmentation",
        "frames/s a core",
        "whole path",
        "for a GPU",
        "aimed",
        "cores",
    ]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    with tempfile.TemporaryDirectory() as folder:
        store = args.store or f"{folder}/store"
        if not args.store:
            build_synthetic(store, dancers=6, frames=60, test=0, size=config.size, workers=0)
        for stage in STAGES:
            rounds = [costs(store, config, stage, args.windows) for _ in range(args.rounds)]
            best = min(rounds, key=lambda found: found.total())
            path = read_only(store, config=config, stage=stage, seconds=args.seconds, device="cpu", workers=1)
            speed = path["frames_per_second_per_core"]
            print(row(stage, best, args.windows, config.plan(stage).length, speed), flush=True)


def row(stage: str, found: Counter[str], windows: int, length: int, path: float) -> str:
    total, frames = found.total(), windows * length
    shares = [f"{100 * found[name] / total:.0f} %" for name in PARTS]
    augmentation = sum(found[name] for name in AUGMENTATION) / total
    # What a GPU trains on is made floating point there.
    for_gpu = frames / (total - found["to float"])
    cells = [stage, f"{1000 * total / windows:.1f}", *shares, f"{100 * augmentation:.0f} %", f"{frames / total:.0f}"]
    cells += [f"{path:.0f}", f"{for_gpu:.0f}", f"{AIMED[stage]}", f"{AIMED[stage] / for_gpu:.2f}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
