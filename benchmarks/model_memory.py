"""What one training update of a stage takes: time and peak memory on this CPU, and a count of what a GPU has to hold.

Each stage runs in a process of its own: one update on a drawn dancer with the batch and chunk of the preset and with
VGG-19 (fresh weights, which cost the same). The count goes through hooks: every tensor that autograd keeps for the
backward pass is counted once by its storage, parameters left out, for one window of one frame and of two; the
difference is a frame's share. To it come weights, gradients and the two moments of Adam (16 bytes a parameter of
generator and discriminators) and 4 bytes a parameter of frozen networks. What a GPU needs above that is workspace,
gradients of activations on the way back, and fragmentation.

    python benchmarks/model_memory.py [--preset paper] [--stage layout] [--count-only]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))

from model_speed import batch_of

from remot_model import networks
from remot_model.config import STAGES, Config, StagePlan, preset
from remot_model.features import VGG19, Features
from remot_model.stages import Setting, needed_generators
from remot_model.train import Trainer

GIB = 2**30


def trainer_of(config: Config, stage: str) -> tuple[Trainer, list[nn.Module]]:
    """A trainer, and the frozen networks it uses."""
    features = Features(VGG19(), "VGG-19 with fresh weights", "", (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0))
    earlier = {
        name: networks.generator(name, config).requires_grad_(False) for name in needed_generators(stage, config)
    }
    trainer = Trainer(stage, Setting(config, features, earlier), torch.device("cpu"), 0)
    return trainer, [*earlier.values(), *([features] if stage != "layout" else [])]


def with_plan(config: Config, stage: str, batch: int, frames: int) -> Config:
    plan = StagePlan(1, batch, length=frames, chunk=frames)
    return dataclasses.replace(config, **{stage: plan})


def update(config: Config, stage: str) -> dict[str, float]:
    plan = config.plan(stage)
    frames = min(plan.chunk, plan.length)
    batch = batch_of(config, frames, "whole")
    batch = {name: x.repeat_interleave(plan.batch, 0) for name, x in batch.items()}
    trainer, _ = trainer_of(with_plan(config, stage, plan.batch, frames), stage)
    began = time.perf_counter()
    trainer.step(batch, 1e-4)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": time.perf_counter() - began, "peak": peak / GIB}


def kept(config: Config, stage: str, frames: int) -> tuple[int, int]:
    """Bytes that autograd keeps for an update of `frames` frames of one window; bytes of everything that stays."""
    trainer, frozen = trainer_of(with_plan(config, stage, 1, frames), stage)
    trained = [trainer.net, trainer.judges]
    known = {p.untyped_storage().data_ptr() for net in (*trained, *frozen) for p in net.parameters()}
    sizes: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        trainer.step(batch_of(config, frames, "whole"), 1e-4)
    fixed = 16 * sum(map(networks.parameter_count, trained)) + 4 * sum(map(networks.parameter_count, frozen))
    return sum(sizes.values()), fixed


def count(config: Config, stage: str) -> dict[str, float]:
    plan = config.plan(stage)
    (one, fixed), (two, _) = (kept(config, stage, frames) for frames in (1, 2))
    frame = two - one
    return {
        "fixed": fixed / GIB,
        "frame": frame / GIB,
        "total": (fixed + one - frame + plan.batch * min(plan.chunk, plan.length) * frame) / GIB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--stage", choices=STAGES, help="one stage only")
    parser.add_argument("--count-only", action="store_true", help="no whole update")
    parser.add_argument("--child", choices=("count", "update"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    config = preset(args.preset)
    if args.child:
        torch.manual_seed(0)
        print(json.dumps({"count": count, "update": update}[args.child](config, args.stage)))
        return
    for stage in [args.stage] if args.stage else STAGES:
        plan, found = config.plan(stage), {}
        size = f"batch {plan.batch}, chunk {min(plan.chunk, plan.length)}"
        for task in ("count",) if args.count_only else ("count", "update"):
            command = [sys.executable, __file__, "--preset", args.preset, "--stage", stage, "--child", task]
            found |= json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        print(
            f"{args.preset} {stage}, {size}: {found['fixed']:.2f} GiB stay, "
            f"{found['frame']:.3f} GiB a frame, {found['total']:.1f} GiB counted",
            end="" if "peak" in found else "\n",
        )
        if "peak" in found:
            print(f"; here {found['peak']:.1f} GiB at the peak, {found['seconds']:.0f} s an update", flush=True)


if __name__ == "__main__":
    main()
