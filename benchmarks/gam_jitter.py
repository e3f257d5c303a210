"""How much the two alignments tremble, and how well they fit: the paper's GAM and the steady one, on a sample clip.

A frame of the clip is the source and the clip itself drives, so the driving frames are the truth. Of s and of P (in
pixels at a height of 256) the jitter is the root mean square of the second difference over time. The fit is the
intersection over union of the aligned source's outline with the layout's, the result's Mask-PSNR is against the
driving frames.

    python benchmarks/gam_jitter.py --run RUN [--clip sample-cam02|FILE]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from remot_data.assets import fetch
from remot_model.checkpoint import load_run
from remot_model.evaluating import metrics
from remot_model.generating.inference import Runner
from remot_model.transferring.background import find_background
from remot_model.transferring.driving import find_driving, read_pieces
from remot_model.transferring.eyes import load_eyes
from remot_model.transferring.source import find_source
from remot_model.transferring.views import Renderer


class Measuring(Renderer):
    """Keeps the placements and how well the outlines fit."""

    def _run(self, maps, placed):
        done = super()._run(maps, placed)
        aligned = done.aligned
        self.placed.append(torch.cat([aligned.scale[0][:, None], aligned.offset[0]], 1).numpy())
        ours, theirs = aligned.labels[0] > 0, done.labels[0] > 0
        self.fit += ((ours & theirs).sum((1, 2)) / (ours | theirs).sum((1, 2)).clamp(min=1)).tolist()
        return done


def jitter(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(np.diff(values, 2, axis=0)).sum(-1).mean()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--clip", default="sample-cam02")
    args = parser.parse_args()
    torch.set_num_threads(1)
    run, path = load_run(args.run), Path(args.clip) if Path(args.clip).is_file() else fetch(args.clip)
    eyes = load_eyes(run, "blazepose", "pose-guided")
    drive = find_driving(path, run.config.size, None, None)
    who = find_source(path, eyes, drive.share)
    behind = find_background("driving", who, drive, eyes, run.config.size)
    height, width = run.config.size
    found = {}
    for gam in ("paper", "steady"):
        renderer = Measuring(run, who, behind, eyes, Runner(run.networks, lanes=False), gam, drive.fps)
        renderer.placed, renderer.fit = [], []
        values = []
        for piece in read_pieces(drive, eyes.size):
            made = renderer(piece, ["result"])["result"]
            real = np.stack([cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in piece.frames])
            masks = eyes.persons(piece.frames, eyes.pose(piece.frames))
            person = np.stack([cv2.resize(m, (width, height), interpolation=cv2.INTER_AREA) for m in masks])
            values.append(metrics.mask_psnr(real, made, person))
        placed = np.concatenate(renderer.placed)
        found[gam] = jitter(placed[:, :1]), jitter(placed[:, 1:]) * 256 / height
        print(
            f"{gam:7} s from {placed[:, 0].min():.3f} to {placed[:, 0].max():.3f}, jitter of s {found[gam][0]:.5f}, "
            f"of P {found[gam][1]:.3f} px; outlines overlap by {np.mean(renderer.fit):.3f}; Mask-PSNR of the result "
            f"{metrics.mean_psnr(np.concatenate(values)):.2f} dB"
        )
    ratios = [a / b for a, b in zip(*found.values(), strict=True)]
    print(f"jitter, paper against steady: s {ratios[0]:.1f} times, P {ratios[1]:.1f} times")
    return 0


if __name__ == "__main__":
    sys.exit(main())
