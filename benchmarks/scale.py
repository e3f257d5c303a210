"""How memory and time grow with the number of clips, measured with empty tasks and invented videos.

Five parts, each number measured in a process of its own, so that its peak memory is its own:

- engine: empty tasks through the engine with two workers; driver and scheduler are that process. All tasks are given
  to the engine; of more than 20,000 only the first 20,000 are waited for, since no more than a few are ever under way
- plan: from the ledger of a finished look through to the plan of the store: read the lines, find duplicates, lay out,
  write clips.parquet; and what one task then reads to know the clips of its shard
- signatures: finding videos that show the same, alone
- watch: `remot status` (bound 0.3 s for 100,000 clips) and `remot diff` of two snapshots (bound 2 s)
- resume: `remot build` on a finished store of 10,000 shards with all layers; bound 10 seconds

Every invented video has one clip of 300 frames. A name that ends in -vfr has a variable frame rate, with times that
pack badly.

    python benchmarks/scale.py [engine plan plan-vfr signatures watch resume] [--counts 10000 100000]
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

FRAMES = 300
BOUND = 10.0  # seconds for going on with a finished build
_CLOCK = 15360  # of the PTS, as muxers of 30 and 60 frames a second write it


def peak() -> int:
    """Most resident bytes this process had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return call(), time.perf_counter() - started


# --- engine -------------------------------------------------------------------------------------------------


WAITED = 20_000  # empty tasks that are waited for, at most


def nothing(url: str, shard: int) -> int:
    """An empty task, with arguments like those of a real one."""
    return shard


def engine(count: int, folder: Path) -> dict[str, float]:
    from remot_data.engine import open_engine

    with open_engine(workers=2) as workers:
        list(workers.map(nothing, [{"url": "warm", "shard": n} for n in range(500)]))
        before, spent = peak(), time.process_time()
        tasks = [{"url": "a/store/at/a/usual/path", "shard": n} for n in range(count)]
        results = itertools.islice(workers.map(nothing, tasks, "empty"), WAITED)
        done, seconds = timed(lambda: sum(1 for _ in results))
        assert done == min(count, WAITED)
        return {
            "ms a task": 1e3 * seconds / done,
            "CPU ms a task, driver and scheduler": 1e3 * (time.process_time() - spent) / done,
            "bytes a task": (peak() - before) / count,
            "MB in all": peak() / 1e6,
        }


# --- planning -----------------------------------------------------------------------------------------------


def lines(count: int, variable: bool) -> Iterator[dict[str, Any]]:
    """What `remot_data.ingest.scan.scan` says of invented videos."""
    from remot_data.records import Clip, Video

    rng = np.random.default_rng(0)
    for n in range(count):
        steps = rng.integers(400, 620, FRAMES) if variable else np.full(FRAMES, 512)
        sha, path = f"{n:064x}", f"/data/videos/part-{n % 1000:03d}/dance-{n:07d}.mp4"
        seconds = float(rng.uniform(5, 65))
        video = Video(sha[-16:], path, sha, (1920, 1080), FRAMES, seconds, 30.0, (1, _CLOCK), "h264")
        clip = Clip(
            id=f"{sha[-16:]}-000-00",
            video=sha[-16:],
            path=path,
            sha256=sha,
            shot=0,
            pts=tuple(np.cumsum(steps).tolist()),
            time_base=(1, _CLOCK),
            fps=30.0,
            source_size=(1920, 1080),
            crop=(400.5, 20.25, 780.0, 1040.0),
            person=f"person-{n % 997}",
            split="train",
        )
        yield {
            "input": {"path": path},
            "stamp": f"{n}-{n}",
            "video": video.to_json(),
            "clips": [clip.to_json()],
            "rejects": [],
            "frames": {"decoded": FRAMES, "kept": FRAMES, "refused": 0, "resampled": 0},
            "signature": signature(rng, seconds),
            "seconds": 1.0,
        }


def signature(rng: np.random.Generator, seconds: float) -> str:
    """As `remot_data.ingest.duplicates.signature` packs one: pictures of 12 x 12 cells around a common background."""
    from remot_data.ingest.duplicates import _GRID

    scene = rng.integers(40, 216) + rng.normal(0, 30, _GRID[1:])
    cells = np.clip(scene + rng.normal(0, 15, _GRID), 0, 255).astype(np.uint8)
    return base64.b64encode(struct.pack("<ff", seconds, 16 / 9) + cells.tobytes()).decode()


def plan(count: int, folder: Path, variable: bool = False) -> dict[str, float]:
    """Written by one process, planned by another, which does not have the memory of the writing."""
    from remot_data.ingest.planning import plan as planned
    from remot_data.ingest.policy import Policy
    from remot_data.store import Store, create_store

    policy = Policy()
    store = create_store(str(folder / "store"), {"policy": policy.to_json(), "size": policy.size})
    if os.fork() == 0:
        with store.log("videos") as log:
            for line in lines(count, variable):
                log.add(line)
        os._exit(0)
    assert os.wait()[1] == 0
    ledger = sum(f.stat().st_size for f in (folder / "store" / "ledger").rglob("*") if f.is_file())
    before = peak()
    found, reading = timed(lambda: store.logged("videos"))
    read = peak()
    made, planning = timed(lambda: planned(found, policy))
    assert len(made.clips) == count
    _, writing = timed(lambda: store.write_clips(made.clips))
    middle = made.clips[-1].shard // 2
    (clips, _), task = timed(lambda: (Store(store.url).shard_clips(middle), None))
    assert clips and all(clip.shard == middle for clip in clips)
    return {
        "ledger bytes a clip": ledger / count,
        "us a clip: read the ledger": 1e6 * reading / count,
        "us a clip: plan": 1e6 * planning / count,
        "us a clip: write clips.parquet": 1e6 * writing / count,
        "clips.parquet bytes a clip": (folder / "store" / "clips.parquet").stat().st_size / count,
        "driver bytes a clip: the lines": (read - before) / count,
        "driver bytes a clip: at most": (peak() - before) / count,
        "ms a task: the clips of its shard": 1e3 * task,
    }


def watch(count: int, folder: Path) -> dict[str, float]:
    """`remot status` and `remot diff` of a planned store whose files of shards are there, and empty."""
    from remot_data.care.diff import State, diff
    from remot_data.care.status import status
    from remot_data.ingest.planning import plan as planned
    from remot_data.ingest.policy import Policy
    from remot_data.records import Snapshot
    from remot_data.store import Store, create_store
    from remot_data.store.history import note

    policy = Policy()
    store = create_store(str(folder / "store"), {"policy": policy.to_json(), "size": policy.size})
    store.write_clips(planned(list(lines(count, False)), policy).clips)
    for name in (
        "frames",
        *(f"layers/{kind}/{kind}-1" for kind in ("pose", "parsing", "flow", "background", "scores")),
    ):
        (folder / "store" / name).mkdir(parents=True)
        for shard in range(store.shard_count):
            for end in ("tar", "parquet"):
                (folder / "store" / name / f"shard-{shard:05d}.{end}").touch()
    for name, where in (("main", ""), ("other", "")):
        snapshot = Snapshot(name, {"pose": f"pose-{name}"}, where)
        store.write_json(f"snapshots/{name}.json", snapshot.to_json())
        note(store, "snapshot", **snapshot.to_json())
    (found, seconds), fresh = timed(lambda: status(Store(store.url))), Store(store.url)
    assert found.clips == count and len(found.layers) == 5
    made, between = timed(lambda: diff(State(fresh, "main"), State(fresh, "other")))
    assert made.clips == (count, count) and len(made.layers) == 1
    _, then = timed(lambda: diff(State(fresh, "main@2999-01-01"), State(fresh, "main")))
    return {"s: status": seconds, "s: diff of two snapshots": between, "s: diff with a day": then}


def signatures(count: int, folder: Path) -> dict[str, float]:
    from remot_data.ingest.duplicates import _Signatures

    rng = np.random.default_rng(0)
    texts = [signature(rng, float(rng.uniform(5, 65))) for _ in range(count)]
    before = peak()
    found, seconds = timed(lambda: _Signatures(texts).originals())
    assert found == list(range(count))
    return {"us a video": 1e6 * seconds / count, "bytes a video": (peak() - before) / count, "s in all": seconds}


# --- going on with a finished build -------------------------------------------------------------------------


def finished(count: int, folder: Path) -> None:
    """A store of `count` shards with a clip of 16 frames each and all default layers, as a build leaves it.

    The files are as small as they can be: going on reads receipts and names, never their content.
    """
    from remot_data.annotating.annotate import plan_jobs
    from remot_data.detectors.base import DEFAULTS
    from remot_data.ingest.inputs import find_inputs
    from remot_data.ingest.policy import Policy
    from remot_data.media.identity import stamp
    from remot_data.records import Receipt
    from remot_data.store import create_store
    from remot_data.store.shards import Sample

    os.fsync = lambda file: None  # type: ignore[assignment]  # 120,000 files that nobody will miss
    (folder / "videos").mkdir()
    for n in range(count):
        (folder / "videos" / f"dance-{n:06d}.mp4").write_bytes(b"%d" % n)
    policy = Policy(shard_frames=FRAMES)
    store = create_store(str(folder / "store"), {"policy": policy.to_json(), "size": policy.size})
    inputs, _ = find_inputs(folder / "videos")
    with store.log("videos") as log:
        for item, line in zip(inputs, lines(count, False), strict=True):
            log.add({**line, "input": item.to_json(), "stamp": stamp(item.path)})
    from remot_data.ingest.planning import plan as planned

    clips = planned(store.logged("videos"), policy).clips
    store.write_clips(clips)
    assert store.shard_count == count
    jobs = plan_jobs(store, DEFAULTS)
    with store.log("receipts") as log:
        for clip in clips:
            samples = [Sample(clip.key(0), {"bin": b"frame"}, {"pts": 0})]
            made = {"frames": store.write_shard("frames", clip.shard, samples)}
            log.add(Receipt("frames", clip.shard, clip.frames, 1, dict(made)).to_json())
            for job in jobs:
                sources = {"frames": "frames", **job.reads}
                saw = {kind: made[folder]["sha256"] for kind, folder in sources.items()}
                made[job.folder] = store.write_shard(job.folder, clip.shard, samples, saw)
            del made["frames"]
            log.add(Receipt("annotate", clip.shard, clip.frames, 1, made).to_json())


def resume(count: int, folder: Path) -> dict[str, float]:
    if os.fork() == 0:
        finished(count, folder)
        os._exit(0)
    assert os.wait()[1] == 0
    command = [sys.executable, "-c", "from remot_data.cli import main; main()", "build", str(folder / "videos")]
    command += ["--out", str(folder / "store"), "--shard-frames", str(FRAMES), "--workers", "2", "--json"]

    def again() -> dict[str, Any]:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    # The first writes what a build writes at its end; from then on there is nothing to do.
    _, first = timed(again)
    said, seconds = timed(again)
    assert said["clips"] == count and said["shards"] == count
    size = sum(1 for _ in (folder / "store").rglob("*"))
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
    return {"s the first time": first, "s": seconds, "files": size, "MB of the largest process": children}


# --- the table ----------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[int, Path], dict[str, float]]] = {
    "engine": engine,
    "plan": plan,
    "plan-vfr": lambda count, folder: plan(count, folder, variable=True),
    "signatures": signatures,
    "watch": watch,
    "resume": resume,
}


def measured(part: str, count: int) -> dict[str, float]:
    """Run one part for one count in a new process, in a folder of its own that is removed again."""
    folder = tempfile.mkdtemp(prefix="remot-scale-")
    try:
        command = [sys.executable, __file__, "--one", part, str(count), folder]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])
    finally:
        shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000], help="how many tasks or clips")
    parser.add_argument("--shards", type=int, default=10_000, help="of the finished build")
    parser.add_argument("--one", nargs=3, metavar=("PART", "COUNT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        part, count, folder = options.one
        print(json.dumps(PARTS[part](int(count), Path(folder))))
        return 0
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    late = False
    for part in options.parts:
        counts = [options.shards] if part == "resume" else options.counts
        results = [measured(part, count) for count in counts]
        print(f"{part:<38}" + "".join(f"{count:>12,}" for count in counts))
        for name in results[0]:
            print(f"  {name:<36}" + "".join(f"{result[name]:>12,.3g}" for result in results), flush=True)
        late |= part == "resume" and results[0]["s"] > BOUND
    return 1 if late else 0


if __name__ == "__main__":
    raise SystemExit(main())
