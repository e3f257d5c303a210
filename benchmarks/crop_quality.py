"""What cropping the regions costs in quality: the Region GAN at tiny size, trained all four ways on the same windows.

Drawn dancers, other ones for training than for testing. Layouts are the drawn ones and the source is another frame of
the same dancer, so all that differs is whether a region's network sees the frame, the region's crop, crops of its
parts, or a crop of one of a few sizes. Printed is the Mask-PSNR of the coarse foreground (both images masked by the
real person, mean over all pixels of a test clip, in dB), of the frames and of the change from frame to frame, which
shows flicker. The copied, aligned source is there to compare.

    python benchmarks/crop_quality.py [--steps 200] [--seeds 3] [--ways frames crops sizes]
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from remot_data import synthetic
from remot_data.reading.stream import Window, to_torch
from remot_data.schemas import convert_labels as convert
from remot_model.config import Config, preset
from remot_model.generating import rollout
from remot_model.training.stages import Setting
from remot_model.training.trainer import Trainer

TRAINED, TESTED, FRAMES = 24, 8, 24


def dancers(config: Config, seeds: range) -> list[dict[str, np.ndarray]]:
    clips = []
    for seed in seeds:
        scene = synthetic.dance(synthetic.Dancer.random(seed), FRAMES, size=config.size, fps=10, seed=seed)
        clips.append({"frames": scene.frames, "labels": convert(scene.labels, "atr18", "remot11")})
    return clips


def window(clip: dict[str, np.ndarray], first: int, length: int, source: int) -> dict[str, Tensor]:
    arrays = {name: x[first : first + length] for name, x in clip.items()}
    arrays |= {"source": clip["frames"][source], "source_labels": clip["labels"][source]}
    return to_torch(Window(f"clip:{first}/{source}", "clip", first, source, arrays))


def trained(config: Config, clips: list[dict[str, np.ndarray]], steps: int, seed: int) -> tuple[Trainer, float]:
    trainer, chance = Trainer("region", Setting(config), torch.device("cpu"), seed), np.random.default_rng(seed)
    plan, began, losses = config.region, time.perf_counter(), {}
    for step in range(steps):
        rows = []
        for _ in range(plan.batch):
            clip = clips[chance.integers(len(clips))]
            rows.append(window(clip, chance.integers(FRAMES - plan.length + 1), plan.length, chance.integers(FRAMES)))
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        losses = trainer.step(batch, config.learning_rate("region", step / steps))
    dict(losses)  # an error if one was no number in any step
    return trainer, (time.perf_counter() - began) / steps


def psnr(error: Tensor) -> float:
    return -10 * math.log10((error / 2).square().mean().item())


@torch.no_grad()
def scores(trainer: Trainer, clips: list[dict[str, np.ndarray]]) -> np.ndarray:
    """Mask-PSNR of frames and of changes of the coarse foreground, then of the aligned source."""
    rows = []
    for clip in clips:
        row = window(clip, 0, FRAMES, FRAMES // 2)
        data = trainer.stage.prepare({name: x[None] for name, x in row.items()})
        given = (data["six"], data["aligned"], data["aligned_labels"])
        made, _ = rollout.regions(trainer.result.eval(), trainer.config, *given)
        mask = (data["six"] > 0)[:, :, None]
        for image in (made.sum(2), data["aligned"]):
            error = (image - data["frames"]) * mask
            rows += [psnr(error), psnr(error.diff(dim=1))]
    return np.array(rows).reshape(len(clips), 4).mean(0)


WAYS = {
    "frames": {"crop_regions": False},
    "crops": {"crop_regions": True},
    "parts": {"crop_regions": True, "crop_parts": True},
    "sizes": {"crop_regions": "sizes"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    args = parser.parse_args()
    torch.set_num_threads(1)  # two wait for each other on a busy machine
    config = preset("tiny")
    clips = dancers(config, range(TRAINED + TESTED))
    print(f"{args.steps} steps, {TRAINED} dancers to train on, {TESTED} others to test")
    for seed in range(args.seeds):
        for name in args.ways:
            chosen = dataclasses.replace(config, **WAYS[name])
            trainer, seconds = trained(chosen, clips[:TRAINED], args.steps, seed)
            made, change, source, source_change = scores(trainer, clips[TRAINED:])
            print(f"seed {seed} {name:6} {made:.2f} dB, change {change:.2f} dB, {seconds:.3f} s a step", end=" | ")
            print(f"aligned source {source:.2f}, {source_change:.2f} dB", flush=True)


if __name__ == "__main__":
    main()
