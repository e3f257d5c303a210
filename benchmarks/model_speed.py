"""A training step of stage 2 and the transfer of a frame: the package against the equations written down plainly.

The plain version is `tests/remot_model/reference.py`: a region and a frame at a time on whole frames, every encoder and
every discriminator pass as often as the equations name it, attention with its matrix. Each runs in a process of its
own, which also gives its peak memory. The person is a drawn dancer; the weights are fresh, and so are those of VGG-19,
which does not change the cost. In the transfer the Layout GAN runs, but the stages after it get the dancer's layouts:
what fresh weights draw is noise, and the crops follow the layout. Ratios are of CPU time, which other work on the
machine disturbs least; on a machine without any it is the threads' number times the seconds. A clip is transferred, not
one frame: the plain version holds all of its frames, the package those of a piece, one on a CPU.

    python benchmarks/model_speed.py [--preset paper] [--frames 1] [--clip 16] [--set FIELD=VALUE ...]
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

import numpy as np
import torch
import yaml
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from remot_data import render, synthetic
from remot_data.reading.stream import Window, to_torch
from remot_data.schemas import convert_labels as convert
from remot_model import devices, networks
from remot_model.config import Config, StagePlan, preset
from remot_model.generating import rollout
from remot_model.generating.rollout import convert_labels, one_hot
from remot_model.training.features import VGG, Features
from remot_model.training.stages import Setting
from remot_model.training.trainer import Trainer
from tests.remot_model import reference

TARGET = 2.0


def batch_of(config: Config, frames: int) -> dict[str, Tensor]:
    """One window of a drawn dance; its source is a frame well before it. Of eight dancers, one with average crops."""
    scene = synthetic.dance(synthetic.Dancer.random(1), 30 + frames, size=config.size, seed=1)
    labels = convert(scene.labels, "atr18", "remot11")
    arrays = {
        "frames": scene.frames[30:],
        "pose_map": np.stack([render.pose_map(k, "body25", config.size) for k in scene.keypoints[30:]]),
        "labels": labels[30:],
        "flow": scene.flow[30:],
        "confidence": scene.confidence[30:] == 3,
        "background": scene.background,
        "source": scene.frames[0],
        "source_labels": labels[0],
    }
    return {name: x[None] for name, x in to_torch(Window("dance:30/0", "dance", 30, 0, arrays)).items()}


def aligned_to(config: Config, batch: dict[str, Tensor]) -> tuple[Tensor, rollout.Aligned]:
    six = convert_labels(batch["labels"], "remot11", "remot6")
    return six, rollout.align_clip(
        config, batch["source"], convert_labels(batch["source_labels"], "remot11", "remot6"), six
    )


def train_package(config: Config, batch: dict[str, Tensor], features: Features) -> float:
    trainer = Trainer("region", Setting(config, features), torch.device("cpu"), 0)
    began = time.process_time()
    trainer.step(batch, 1e-4)
    return time.process_time() - began


def train_reference(config: Config, batch: dict[str, Tensor], features: Features) -> float:
    net, judge = networks.generator("region", config), networks.discriminators("region", config)["image"]
    optimizers = [torch.optim.Adam(x.parameters(), lr=1e-4, betas=config.betas, fused=True) for x in (net, judge)]
    began = time.process_time()
    six, moved = aligned_to(config, batch)
    terms, d_loss = reference.region_losses(
        net, judge, config, six[0], batch["frames"][0], moved.image[0], moved.labels[0], features
    )
    optimizers[0].zero_grad()
    sum(terms.values()).backward()
    optimizers[0].step()
    optimizers[1].zero_grad()
    d_loss.backward()
    optimizers[1].step()
    return time.process_time() - began


def generators_of(config: Config) -> dict[str, torch.nn.Module]:
    return {stage: networks.generator(stage, config).eval().requires_grad_(False) for stage in config.stages}


@torch.no_grad()
def transfer_package(config: Config, batch: dict[str, Tensor], _: Features) -> float:
    """Frames after the first, which has filled the states, one by one as `remot transfer` does on a CPU."""
    nets, states, layout_state = generators_of(config), None, None
    source = one_hot(convert_labels(batch["source_labels"], "remot11", config.layout_schema), config.layout_classes)
    began = 0.0
    for t in range(batch["pose_map"].shape[1]):
        if t == 1:
            began = time.process_time()
        piece = slice(t, t + 1)
        poses, labels = batch["pose_map"][:, piece], batch["labels"][:, piece]
        layout_state = rollout.layouts(nets["layout"], source, poses, layout_state)[1]
        given = (batch["source"], batch["source_labels"], poses, batch["background"], labels, states)
        states = rollout.transfer(nets, config, *given)[1]
    return time.process_time() - began


@torch.no_grad()
def transfer_reference(config: Config, batch: dict[str, Tensor], _: Features) -> float:
    """All frames; each costs the same."""
    nets = generators_of(config)
    began = time.process_time()
    source = one_hot(convert_labels(batch["source_labels"], "remot11", config.layout_schema), config.layout_classes)
    poses = list(batch["pose_map"].unbind(1))
    reference.layouts(nets["layout"], config, source, poses)
    six, moved = aligned_to(config, batch)
    images = list(moved.image.unbind(1))
    coarse = 0
    for i in range(1, 6):
        masks, source_masks = ([m[:, None] for m in (x == i).float().unbind(1)] for x in (six, moved.labels))
        coarse = coarse + torch.stack(reference.region(nets["region"], config, masks, images, source_masks), 1)
    layouts = [one_hot(x, 6) for x in six.unbind(1)]
    reference.whole(nets["whole"], config, poses, layouts, list(coarse.unbind(1)), images, batch["background"])
    return (time.process_time() - began) * (len(poses) - 1) / len(poses)


WORK = {
    ("train", "plain"): train_reference,
    ("train", "package"): train_package,
    ("transfer", "plain"): transfer_reference,
    ("transfer", "package"): transfer_package,
}


def configuration(args: argparse.Namespace, task: str, version: str) -> tuple[Config, int]:
    """The configuration and the number of frames; the plain version works on whole frames."""
    fields = {name: yaml.safe_load(value) for name, value in (item.split("=", 1) for item in args.set)}
    frames = 1 + args.clip if task == "transfer" else args.frames
    plan = StagePlan(1, 1, length=frames, chunk=frames)
    config = dataclasses.replace(preset(args.preset), region=plan, **({} if version == "plain" else fields))
    if version == "plain":
        config = dataclasses.replace(config, crop_regions=False, cpu_kernels=False)
    return devices.resolved(config, "cpu"), frames


def child(args: argparse.Namespace) -> None:
    task, version = args.child
    torch.manual_seed(0)
    torch.nn.functional.conv2d(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 3, 3))  # starts the threads
    config, frames = configuration(args, task, version)
    features = Features(VGG("vgg19"), "VGG-19 with fresh weights", "", (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0))
    seconds = WORK[task, version](config, batch_of(config, frames), features)
    seconds /= args.clip if task == "transfer" else args.frames
    print(json.dumps({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--frames", type=int, default=1, help="frames of the training step")
    parser.add_argument("--clip", type=int, default=16, help="frames of the transfer, after one that is not counted")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for the package's version")
    parser.add_argument("--only", choices=("train", "transfer"))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return 0
    config, frames = configuration(args, "train", "package")
    batch = batch_of(config, frames)
    six, moved = aligned_to(config, batch)
    crops = rollout.region_crops(config, six, moved.labels) or []
    share = sum(c.area for frame in crops for c in frame if c) / max(
        1, len(crops) * 5 * config.size[0] * config.size[1]
    )
    print(f"{args.preset}, {torch.get_num_threads()} threads; crops hold {share:.2f} of the five frames")
    met = True
    for task in [args.only] if args.only else ("train", "transfer"):
        found = {}
        for version in ("plain", "package"):
            command = [sys.executable, __file__, *sys.argv[1:], "--child", task, version]
            found[version] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            cost = "{seconds:7.2f} CPU seconds a frame, peak {peak:.2f} GB".format(**found[version])
            print(f"{task:9} {version:8} {cost}", flush=True)
        times = found["plain"]["seconds"] / found["package"]["seconds"]
        memory = found["package"]["peak"] / found["plain"]["peak"]
        met &= times >= TARGET and memory <= 1
        print(f"{task:9} {times:.2f} times as fast, {memory:.2f} of the memory")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
