"""Whether the memory of a transfer grows with the length of the driving video.

A sample clip, slowed to 5 frames a second and repeated, drives an untrained `tiny` run for 10 seconds and for
10 minutes, each in a process of its own. The bound: the longer one's peak is at most 1.1 times that of the shorter.

    python benchmarks/transfer_memory.py [--minutes 10] [--gam steady]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from remot_data import media
from remot_data.assets import fetch

BOUND = 1.1
RATE = 5


def make_driving(path: Path, seconds: float) -> None:
    """The sample clip of 100 frames again and again, 5 frames a second, 480 pixels high."""
    slow = f"setpts=N/({RATE}*TB),scale=-2:480"
    loop = ["-stream_loop", "-1", "-i", str(fetch("sample-cam02")), "-vf", slow, "-r", str(RATE), "-an"]
    command = [media.ffmpeg_binary(), "-v", "error", "-y", *loop, "-t", str(seconds), "-preset", "fast", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def make_run(path: Path) -> None:
    """A run of untrained networks of the preset `tiny`: its memory is that of a trained one."""
    from remot_model import checkpoint, networks
    from remot_model.config import preset

    config, schemas = preset("tiny"), {"pose": "body25", "labels": "remot11"}
    checkpoint.write_info(path, {"config": config.to_json(), "schemas": schemas})
    for stage in config.stages:
        checkpoint.save_generator(path, stage, networks.generator(stage, config), config, schemas)


def measure(folder: Path, name: str, gam: str) -> None:
    """Transfer in this process; print what was done and the peak of its memory in MB."""
    import torch

    from remot_model import transfer

    torch.set_num_threads(1)
    done = transfer(folder / "run", fetch("sample-cam01"), folder / f"{name}.mp4", folder / f"{name}-out.mp4", gam=gam)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = {key: done[key] for key in ("frames", "seconds", "frames_per_second")}
    print(json.dumps({**told, "peak": peak}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--gam", default="paper")
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "NAME"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(Path(args.measure[0]), args.measure[1], args.gam)
        return 0
    peaks = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_run(folder / "run")
        for label, seconds in (("short", 10.0), ("long", args.minutes * 60)):
            make_driving(folder / f"{label}.mp4", seconds)
            command = [sys.executable, __file__, "--measure", name, label, "--gam", args.gam]
            done = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            peaks[label] = done["peak"]
            print(
                f"{seconds:6.0f} s of video, {done['frames']} frames: {done['peak']:.0f} MB, "
                f"{done['seconds']:.0f} s, {done['frames_per_second']:.2f} frames/s"
            )
    ratio = peaks["long"] / peaks["short"]
    print(f"peak memory, long against short: {ratio:.3f} (bound {BOUND})")
    return int(ratio > BOUND)


if __name__ == "__main__":
    sys.exit(main())
