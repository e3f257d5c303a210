"""How well each stage learns one clip by heart, in its own terms, at `tiny` size: minutes on one core.

Trained and measured on the same drawn dancer of 24 frames, from its frontal frame. Bounds: the layout alone, mean
intersection over union of the five regions and the background 0.9; the Region GAN, Mask-PSNR of the coarse foreground
at the real layouts 28 dB; the last stage, Mask-PSNR of the final image at the real layouts 28 dB. Beside them stands
what GAM alone gives.

    python benchmarks/overfit.py [--steps 1200 600 400] [--out RUN]
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import torch

from remot_data.reading.stream import Plan, to_torch
from remot_data.store import Store
from remot_data.synthetic.store import build_synthetic
from remot_model.checkpoint import load_run
from remot_model.config import STAGES, Config, StagePlan, preset
from remot_model.evaluating import metrics
from remot_model.generating import rollout
from remot_model.training.train import train

SIZE, FRAMES = (64, 48), 24
BOUNDS = {"layout": 0.9, "region": 28.0, "whole": 28.0}


def configuration(steps: list[int], rates: tuple[float, ...] = (2e-3, 2e-3, 1e-3)) -> Config:
    """The preset ``tiny`` without augmentation, and with a budget that one clip needs."""
    plans = {s: StagePlan(n, 1, length=6, chunk=6, lr=lr) for s, n, lr in zip(STAGES, steps, rates, strict=True)}
    return dataclasses.replace(preset("tiny"), flip=0.0, colour_jitter=False, lambda_rec=100.0, **plans)


@torch.no_grad()
def measure(run: Path, store: Store) -> dict[str, float]:
    """What each trained stage reaches on the whole clip as one sequence, and GAM alone."""
    trained = load_run(run)
    config, nets = trained.config, trained.generators
    window = Plan(store, length=FRAMES, source="frontal", shuffle=False).window(0)
    x = {name: tensor[None] for name, tensor in to_torch(window).items()}
    six = [rollout.convert_labels(x[name], "remot11", "remot6") for name in ("source_labels", "labels")]
    moved = rollout.align_clip(config, x["source"], *six)
    found = {"GAM alone": _psnr(window.arrays, moved.image)}
    start = rollout.one_hot(x["source_labels"], config.layout_classes)
    made = rollout.layouts(nets["layout"], start, x["pose_map"])[0].layout.argmax(2)
    labels = rollout.convert_labels(made, config.layout_schema, "remot6")
    pairs = ((labels == k, six[1] == k) for k in range(6))
    found["layout"] = float(np.mean([float((a & b).sum() / (a | b).sum().clamp(min=1)) for a, b in pairs]))
    done, _ = rollout.transfer(
        nets, config, x["source"], x["source_labels"], x["pose_map"], x["background"], labels=x["labels"]
    )
    return found | {"region": _psnr(window.arrays, done.coarse), "whole": _psnr(window.arrays, done.images)}


def _psnr(arrays: dict[str, np.ndarray], images: torch.Tensor) -> float:
    made = images[0].add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, -1).numpy()
    return metrics.mean_psnr(metrics.mask_psnr(arrays["frames"], made, arrays["labels"] != 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs=3, default=[1200, 600, 400], metavar=("LAYOUT", "REGION", "WHOLE"))
    parser.add_argument("--out", type=Path, help="keep the run here, and go on with it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        store = build_synthetic(str(folder / "store"), dancers=1, frames=FRAMES, test=0, size=SIZE, workers=0)
        config = configuration(args.steps)
        results = train(store.url, folder / "run", config=config, device="cpu", resume=True)
        found = measure(folder / "run", store)
    print(f"\nGAM alone: Mask-PSNR {found.pop('GAM alone'):.1f} dB")
    for result in results:
        unit = "mean IoU" if result.stage == "layout" else "dB Mask-PSNR"
        value, bound = found[result.stage], BOUNDS[result.stage]
        print(
            f"{result.stage}: {value:.3f} {unit} after {result.steps} steps in {result.seconds:.0f} s "
            f"({'reaches' if value >= bound else 'MISSES'} {bound:g})"
        )


if __name__ == "__main__":
    main()
