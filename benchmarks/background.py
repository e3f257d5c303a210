"""How well the background of a moving camera is put together: a crop is moved over a picture, a drawn dancer before it.

The pictures are the backgrounds of the sample clips (the person removed), the motions a pan over all of the picture, a
camera held by hand that turns a little, and one that comes nearer. The truth is the picture as the frame in the middle
of the clip sees it. PSNR is over the pixels that the layer calls seen; `before` is the plain median over time.

    python benchmarks/background.py [--frames 60] [--seed 0] [--sheet out.png]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.parser import real_backgrounds
from remot_data.detectors.temporal_median import TemporalMedian
from remot_data.synthetic import Dancer, dance

SIZE = (256, 192)
WANTED = 30.0
MOTIONS = ("pan", "by hand", "nearer")


def crops(picture: np.ndarray, motion: str, frames: int) -> np.ndarray:
    """What a camera sees of a picture uint8 [H, W, 3]: uint8 [T, 256, 192, 3]."""
    share = np.linspace(0, 1, frames)
    height, width = picture.shape[:2]
    x, y = 0.3 * (width - SIZE[1]) + 0 * share, 0.3 * (height - SIZE[0]) + 0 * share
    near, turned = 1 + 0 * share, 0 * share
    if motion == "pan":
        x, y = 2 + share * (width - SIZE[1] - 4), y + 20 * np.sin(6 * share)
    elif motion == "by hand":
        x, y = x + 8 * np.sin(7 * share) + 2 * np.sin(31 * share), y + 5 * np.cos(9 * share)
        turned = 0.05 * np.sin(8 * share)
    else:
        near = 1 + 0.25 * share
    out = []
    for t in range(frames):
        c, s = np.cos(turned[t]) / near[t], np.sin(turned[t]) / near[t]
        matrix = np.array([[c, -s, x[t]], [s, c, y[t]]])
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        out.append(cv2.warpAffine(picture, matrix, SIZE[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT))
    return np.stack(out)


def filmed(views: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A drawn dancer before what a camera sees, with a little noise: frames and her labels uint8 [T, H, W]."""
    rng = np.random.default_rng(seed)
    scene = dance(Dancer.random(seed), len(views), size=views.shape[1:3], seed=seed)
    frames = np.where(scene.mask[..., None] > 0, scene.frames, views).astype(np.float32)
    frames += rng.normal(0, 2, frames.shape)
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8), scene.labels


def psnr(image: np.ndarray, truth: np.ndarray, where: np.ndarray) -> float:
    """In decibels, over the pixels bool [H, W]."""
    return float(10 * np.log10(255**2 / np.maximum(((image[where].astype(float) - truth[where]) ** 2).mean(), 1e-9)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=60, help="frames a clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", help="picture: frame, truth, background, seen")
    options = parser.parse_args()
    print(
        "| picture | motion | PSNR where seen | seen % | PSNR before | seen % before | ms a frame |\n"
        + "|---" * 7
        + "|"
    )
    good, sheet = True, []
    for number, picture in enumerate(real_backgrounds()):
        for motion in MOTIONS:
            views = crops(picture, motion, options.frames)
            frames, labels = filmed(views, options.seed + number)
            truth, cells = views[len(views) // 2], []
            for moving in (True, False):
                start = time.process_time()
                made = TemporalMedian(moving=moving)(frames, parsing={"labels": labels})
                took = time.process_time() - start
                seen = made["seen"] > 0
                cells += [f"{psnr(made['image'], truth, seen):.1f}", f"{100 * seen.mean():.0f}"]
                if moving:
                    good &= psnr(made["image"], truth, seen) >= WANTED
                    cost = 1000 * took / len(frames)
                    marks = np.repeat(made["seen"][..., None], 3, 2)
                    sheet.append(np.concatenate([frames[len(frames) // 2], truth, made["image"], marks], 1))
            print(f"| {number} | {motion} | " + " | ".join(cells) + f" | {cost:.1f} |", flush=True)
    if options.sheet:
        cv2.imwrite(options.sheet, np.concatenate(sheet)[..., ::-1])
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
