"""How much faster two workers build than one: the sample clips, several parts of each, in turns, medians.

The workers have built once before: starting them and loading the models is the same for a minute of video and for a
week of it. The absolute numbers depend on the machine, and the ratio on its having two idle CPUs: so the last
line gives what two processes gain over one that only multiply. Run it with ``python benchmarks/workers.py``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from distributed import LocalCluster

from remot_data import media
from remot_data.assets import fetch
from remot_data.ingest.build import build
from remot_data.ingest.policy import Policy

STAGES = ("look through", "frames", "layers")


def make_videos(folder: Path, parts: int) -> None:
    """Parts of the four sample clips, so that there is as much work for two as for one."""
    for camera in range(1, 5):
        for part in range(parts):
            start = part * 1.6 / parts
            media.cut(fetch(f"sample-cam0{camera}"), folder / f"{camera}-{part}.mp4", start, start + 1.6 / parts)


def seconds(folder: Path, cluster: LocalCluster, layers: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as out:
        policy = Policy(min_frames=4, shard_frames=64)
        wanted = None if layers else {}
        return build(folder, f"{out}/store", policy=policy, layers=wanted, scheduler=cluster.scheduler_address).seconds


def multiply(count: int) -> int:
    return sum(n * n for n in range(count))


def bare_ratio(pool: ProcessPoolExecutor, tasks: int = 8, count: int = 5_000_000) -> float:
    """What two processes gain over one with nothing to share."""
    list(pool.map(multiply, [1000] * 4))
    started = time.perf_counter()
    for _ in range(tasks):
        pool.submit(multiply, count).result()
    middle = time.perf_counter()
    list(pool.map(multiply, [count] * tasks))
    return (middle - started) / (time.perf_counter() - middle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", type=int, default=2, help="videos cut from each of the four clips")
    parser.add_argument("--no-layers", action="store_true")
    options = parser.parse_args()
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    bare = []
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        make_videos(folder, options.parts)
        pool = running.enter_context(ProcessPoolExecutor(2))
        clusters = {
            count: running.enter_context(LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None))
            for count in found
        }
        for cluster in clusters.values():
            seconds(folder, cluster, not options.no_layers)
        for _ in range(options.rounds):
            bare.append(bare_ratio(pool))
            for workers, rounds in found.items():
                rounds.append(seconds(folder, clusters[workers], not options.no_layers))
    print(f"{'stage':<14}{'1 worker, s':>12}{'2 workers, s':>13}{'ratio':>8}")
    stages = [stage for stage in STAGES if any(stage in r for r in found[1])]
    one, two = ({s: statistics.median(r.get(s, 0.0) for r in found[w]) for s in stages} for w in (1, 2))
    for stage in stages:
        print(f"{stage:<14}{one[stage]:>12.2f}{two[stage]:>13.2f}{one[stage] / max(two[stage], 1e-9):>8.2f}")
    ratio = sum(one.values()) / sum(two.values())
    print(f"{'together':<14}{sum(one.values()):>12.2f}{sum(two.values()):>13.2f}{ratio:>8.2f}")
    print(f"{'bare processes':<39}{statistics.median(bare):>8.2f}")


if __name__ == "__main__":
    main()
