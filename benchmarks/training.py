"""Time and memory of a training step by preset and stage, and where the time of the last stage goes.

Every stage runs in a process of its own on a store of drawn dancers of the preset's size: `steps` steps after one that
is not counted. Memory is the most that the process ever held (on CUDA also the most that torch held there). The frozen
share is the part of a step of the `whole` stage that is spent in the Region GAN, GAM and labels: what computing them
ahead could save at most.

    python benchmarks/training.py [--presets tiny small] [--steps 3] [--batch 1 --chunk 2] [--precision bfloat16]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time

import torch

from remot_data.synthetic.store import build_synthetic
from remot_model import devices, networks
from remot_model.config import STAGES, Config, preset
from remot_model.training import data
from remot_model.training.stages import Setting, needed_generators
from remot_model.training.trainer import Trainer


def planned(name: str, stage: str, args: argparse.Namespace) -> Config:
    """The preset with batch and chunk as given, or its own; a window is one chunk."""
    config = preset(name)
    plan = config.plan(stage)
    chunk = args.chunk or min(plan.chunk, plan.length)
    plan = dataclasses.replace(plan, batch=args.batch or plan.batch, length=chunk, chunk=chunk, accumulate=1)
    # Perceptual features need weights that may not be at hand; they come on top.
    return dataclasses.replace(config, precision=args.precision, lambda_per=0.0, **{stage: plan})


def measure(name: str, stage: str, store: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step, the frozen share of it, and peak memory in bytes, in this process."""
    config, device = planned(name, stage, args), devices.pick(args.device)
    earlier = {n: networks.generator(n, config) for n in needed_generators(stage, config)}
    earlier = {n: net.to(device).eval().requires_grad_(False) for n, net in earlier.items()}
    trainer = Trainer(stage, Setting(config, None, earlier), device, 0)
    batches = data.batches(data.epochs(store, config, stage), config, stage)
    batch = next(batches)
    batches.close()
    prepared, plain = [], trainer.stage.prepare

    def timed(*given: object) -> object:
        began = time.perf_counter()
        out = plain(*given)
        _wait(device)
        prepared.append(time.perf_counter() - began)
        return out

    trainer.stage.prepare = timed
    for step in range(args.steps + 1):
        if step == 1 or args.steps == 0:
            began = time.perf_counter()
            prepared.clear()
        trainer.step(batch, 1e-4)
        _wait(device)
    seconds = (time.perf_counter() - began) / max(args.steps, 1)
    found = {
        "batch": config.plan(stage).batch,
        "frames": config.plan(stage).chunk,
        "seconds": seconds,
        "frozen": sum(prepared) / max(args.steps, 1) / seconds,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "parameters": sum(networks.parameter_count(n) for n in (trainer.net, trainer.judges)),
    }
    if device.type == "cuda":
        found["cuda"] = torch.cuda.max_memory_allocated(device)
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["tiny", "small"])
    parser.add_argument("--stages", nargs="+", default=list(STAGES))
    parser.add_argument("--steps", type=int, default=3, help="counted steps; 0 counts the first and only one")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--chunk", type=int)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--one", nargs=3, metavar=("PRESET", "STAGE", "STORE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one, args)))
        return
    print("| preset | stage | parameters, with discriminators | windows x frames | s a step | peak memory | frozen |")
    print("|---|---|---|---|---|---|---|")
    for name in args.presets:
        with tempfile.TemporaryDirectory() as folder:
            size = preset(name).size
            build_synthetic(f"{folder}/store", dancers=2, frames=16, test=0, size=size, workers=0)
            for stage in args.stages:
                command = [sys.executable, *sys.argv, "--one", name, stage, f"{folder}/store"]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                print(_row(name, stage, json.loads(out.splitlines()[-1])), flush=True)


def _row(name: str, stage: str, found: dict[str, float]) -> str:
    memory = f"{found['memory'] / 1e9:.1f} GB" + (f", GPU {found['cuda'] / 1e9:.1f} GB" if "cuda" in found else "")
    frozen = f"{100 * found['frozen']:.0f} %" if stage == "whole" else ""
    size = f"{found['batch']} x {found['frames']}"
    millions = f"{found['parameters'] / 1e6:.1f} M"
    return f"| {name} | {stage} | {millions} | {size} | {found['seconds']:.2f} | {memory} | {frozen} |"


if __name__ == "__main__":
    main()
