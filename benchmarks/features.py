"""What perceptual features do for a short run: none, EfficientNet-Lite0 and VGG-16, same steps, some seeds.

The layout stage does not look at features: it is trained once a seed and shared. Measured is self-reenactment on the
held-out frames of the store, and what a step of the whole stage costs.

    python benchmarks/features.py STORE [STORE ...] --out FOLDER [--seeds 0 1] [--steps 400 160 150]

The first store is evaluated. Started again it goes on; the table is `features.md`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

from remot_model.config import Config, preset
from remot_model.evaluating.evaluate import evaluate
from remot_model.training.train import train

FEATURES = ("none", "efficientnet-lite0", "vgg16")
SHOWN = {"mask_ssim": "Mask-SSIM", "mask_psnr": "Mask-PSNR", "ssim": "SSIM", "psnr": "PSNR", "lpips": "LPIPS"}


def config_of(features: str) -> Config:
    plain = preset("tiny").to_json()
    if features != "none":
        plain |= {"lambda_per": 10.0, "perceptual": features}
    return Config.from_json(plain)


def one(stores: list[str], folder: Path, seed: int, features: str, steps: list[int]) -> dict[str, float]:
    """Train and measure one run; what is there is not done again."""
    run, result = folder / f"{features}-{seed}", folder / f"{features}-{seed}.json"
    if result.exists():
        return json.loads(result.read_text())
    layout = folder / f"layout-{seed}"
    if not (layout / "done").exists():
        shutil.rmtree(layout, ignore_errors=True)
        train(stores, layout, config=config_of("none"), stages=["layout"], steps=steps[0], seed=seed)
        (layout / "done").touch()
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    shutil.copytree(layout / "layout", run / "layout")
    info = json.loads((layout / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**info, "config": config_of(features).to_json()}))
    config, seconds = config_of(features), 0.0
    for stage, count in (("region", steps[1]), ("whole", steps[2])):
        (done,) = train(stores, run, config=config, stages=[stage], steps=count, seed=seed, resume=True)
        seconds = done.seconds / count
    report = evaluate(run, stores[0], length=20)
    found = {name: report["methods"]["model"][name] for name in SHOWN} | {"step_s": seconds}
    result.write_text(json.dumps(found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stores", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--steps", type=int, nargs=3, default=[400, 160, 150])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    lines = ["| features | seed | " + " | ".join(SHOWN.values()) + " | s a step |", "|---" * (len(SHOWN) + 3) + "|"]
    for seed in args.seeds:
        for features in FEATURES:
            row = one(args.stores, args.out, seed, features, args.steps)
            cells = [f"{row[name]:.3f}" if np.isfinite(row[name]) else "" for name in (*SHOWN, "step_s")]
            lines.append(f"| {features} | {seed} | " + " | ".join(cells) + " |")
            (args.out / "features.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
