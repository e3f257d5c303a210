"""What a GPU has to hold for a training update of each stage, by counting; nothing of it needs a GPU.

Every tensor that autograd keeps for the backward pass goes through a hook and is counted once by its storage, weights
left out, for one window of one frame and of two of a drawn dancer; the difference is a frame's share. To it come 16
bytes a weight of generator and discriminators (weight, gradient, Adam's two moments), 4 more for the average of the
generator, and 4 bytes a weight of frozen networks, VGG-19 among them (fresh weights keep as much as trained ones). A
real update needs some more: gradients of activations, workspace, fragmentation. `benchmarks/training.py` measures what
a process really holds.

    python benchmarks/model_memory.py [--preset paper] [--stages layout region whole]
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from model_speed import batch_of

from remot_model import networks
from remot_model.config import STAGES, Config, StagePlan, preset
from remot_model.training.features import VGG, Features
from remot_model.training.stages import Setting, needed_generators
from remot_model.training.trainer import Trainer

GIB = 2**30


def kept(config: Config, stage: str, frames: int) -> tuple[int, int]:
    """Bytes that autograd keeps for an update of `frames` frames of one window; bytes of everything that stays."""
    config = dataclasses.replace(config, **{stage: StagePlan(1, 1, length=frames, chunk=frames)})
    features = Features(VGG("vgg19"), "VGG-19 with fresh weights", "", (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0))
    earlier = {
        name: networks.generator(name, config).requires_grad_(False) for name in needed_generators(stage, config)
    }
    trainer = Trainer(stage, Setting(config, features, earlier), torch.device("cpu"), 0)
    used = vars(trainer.stage)  # the trainer works with copies of what is frozen
    trained, frozen = [trainer.net, trainer.judges], [*used.get("generators", {}).values()]
    frozen += [used["features"]] if "features" in used else []
    known = {p.untyped_storage().data_ptr() for net in (*trained, *frozen) for p in net.parameters()}
    sizes: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        trainer.step(batch_of(config, frames), 1e-4)
    weights, average = sum(map(networks.parameter_count, trained)), networks.parameter_count(trainer.net)
    fixed = 16 * weights + 4 * bool(config.ema) * average + 4 * sum(map(networks.parameter_count, frozen))
    return sum(sizes.values()), fixed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    args = parser.parse_args()
    config = preset(args.preset)
    print("| stage | stays | a frame | windows x frames of the preset | all |\n|---|---|---|---|---|")
    for stage in args.stages:
        (one, fixed), (two, _) = (kept(config, stage, frames) for frames in (1, 2))
        plan = config.plan(stage)
        frames = min(plan.chunk, plan.length)
        total = fixed + one + (plan.batch * frames - 1) * (two - one)
        cells = [f"{x / GIB:.2f} GiB" for x in (fixed, two - one, total)]
        print(f"| {stage} | {cells[0]} | {cells[1]} | {plan.batch} x {frames} | {cells[2]} |", flush=True)


if __name__ == "__main__":
    main()
