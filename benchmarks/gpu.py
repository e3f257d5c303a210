"""What training asks of a GPU.

    python benchmarks/gpu.py --count [--stages region whole layout] [--precision bfloat16] [--breakdown]

With `--count` nothing but a CPU is needed, and half a minute: it prints the operations of one training step by stage
(what a GPU would have to launch) and how often the step waits for a value. Networks have the preset's structure and few
channels, since neither number depends on those; one window of 6 frames, whole frames, no perceptual features.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import _counting

STAGES = ("region", "whole", "layout")


def count(args: argparse.Namespace) -> int:
    """Operations and waits of a step by stage; a line each."""
    for stage in args.stages:
        config = _counting.few_channels(args.preset, stage, precision=args.precision)
        found = _counting.count_step(stage, config)
        print(f"{stage} {found.operations.total()} operations, {found.waits.total()} waits", flush=True)
        if args.breakdown:
            for name, number in found.operations.most_common(25):
                print(f"    {number:6} {name}")
            for place, number in found.places.most_common():
                print(f"    {number:6} waits: {place}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", action="store_true", help="count operations instead; needs no GPU")
    parser.add_argument("--preset", default="paper:no-crops")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--breakdown", action="store_true", help="also the most common operators, and where it waits")
    args = parser.parse_args()
    if args.count:
        return count(args)
    if not torch.cuda.is_available():
        print("torch sees no CUDA device here; `--count` needs none")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
