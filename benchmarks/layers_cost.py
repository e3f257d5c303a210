"""What the default pose, parsing and flow cost beside the bare calls of the libraries that do the work.

- cost: all are timed in one process on the same frames of a sample clip at the size of a store. Bare is, on one core:
  the landmark network once a frame, the person detector once a clip, DIS forward and back for every pair. Detectors is:
  the three default detectors on those frames. Whole is `remot annotate --workers 0` for a store of such clips, all
  cores: read the frames out of shards, run the three, encode, write and index their shards. The bound for the whole is
  1.1 times the bare calls, on two cores or more.
- again: one layer at a time, as when it is made again in a finished store: `annotate` over the store, beside the
  detector alone on the same frames in memory. Its bound, for pose, is 1.1 times the detector.
- workers: the three with the default workers, over eight clips in eight shards and over eight in one.
- carried: all default layers of stores of the sample clips, made with joints carried over time and poses looked for in
  the source videos, over the same with the poses of each frame on its own in the stored frames, as before; CPU time,
  with that of the processes that read videos. The bounds are 1.6, and 1.2 for an easy clip (cameras 1 and 4).
- card: a detector that sleeps 10 ms a batch stands for one on the only GPU; the share of the time that it is busy in a
  task is at least 0.9.

    python benchmarks/layers_cost.py [cost again workers carried card] [--frames 60] [--clips 4] [--repeats 3]
        [--size 256 192]
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import av
import cv2
import numpy as np

from remot_data import assets
from remot_data.annotating.annotate import annotate, plan_job, plan_jobs, run_jobs
from remot_data.annotating.jobs import Job
from remot_data.annotating.task import annotate_shards
from remot_data.detectors.base import DEFAULTS, Arrays, Batched, Detector, load
from remot_data.engine import cpus, open_engine
from remot_data.ingest.build import build
from remot_data.records import Clip, Receipt
from remot_data.store import Store, create_store, open_store
from remot_data.store.layers import kind as layer_kind
from remot_data.store.shards import Sample

TABLES = ("cost", "again", "workers", "carried", "card")
BOUND = 1.1
AGAIN = 1.1
CARRIED = {"sample-cam01": 1.2, "sample-cam02": 1.6, "sample-cam03": 1.6, "sample-cam04": 1.2}
BUSY = 0.9
KINDS = ("pose", "parsing", "flow")
_CROP = (24, 135, 1037, 1383)  # x, y, width, height of the person in sample-cam01


def sample_frames(count: int, size: tuple[int, int]) -> np.ndarray:
    """The first frames of a sample clip as a store holds them: uint8 [T, H, W, 3]."""
    x, y, w, h = _CROP
    out = []
    with av.open(str(assets.fetch("sample-cam01"))) as container:
        for frame in container.decode(video=0):
            image = frame.to_ndarray(format="rgb24")[y : y + h, x : x + w]
            out.append(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA))
            if len(out) == count:
                break
    return np.stack(out)


class Bare:
    """The calls of LiteRT and OpenCV that cannot be avoided, on inputs made beforehand."""

    def __init__(self, threads: int = 1):
        from ai_edge_litert.interpreter import Interpreter

        self._networks = []
        for name in ("blazepose-detector", "blazepose-landmarks"):
            network = Interpreter(str(assets.fetch(name)), num_threads=threads)
            network.allocate_tensors()
            shape = tuple(network.get_input_details()[0]["shape"])
            network.set_tensor(network.get_input_details()[0]["index"], np.zeros(shape, np.float32))
            self._networks.append(network)

    def __call__(self, frames: np.ndarray) -> None:
        detector, landmarks = self._networks
        detector.invoke()
        for _ in frames:
            landmarks.invoke()
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
        for a, b in zip(grey[1:], grey[:-1], strict=True):
            dis.calc(a, b, None)
            dis.calc(b, a, None)


class Full:
    """The default detectors of pose, parsing and flow, each given what it needs."""

    def __init__(self) -> None:
        self.detectors: list[Detector] = [load(name) for name in ("blazepose", "pose-guided", "dis")]
        self.seconds = dict.fromkeys((d.name for d in self.detectors), 0.0)

    def __call__(self, frames: np.ndarray) -> dict[str, Arrays]:
        layers: dict[str, Arrays] = {}
        for detector in self.detectors:
            start = time.perf_counter()
            layers[detector.kind] = detector(frames, **{kind: layers[kind] for kind in detector.needs})
            self.seconds[detector.name] += time.perf_counter() - start
        return layers


def store_of(clips: Sequence[np.ndarray], folder: str, a_shard: int) -> Store:
    """A store of clips, `a_shard` of them in each shard."""
    store = create_store(folder, {"size": clips[0].shape[1:3]})
    crop = (0.0, 0.0, 1.0, 1.0)
    planned = [
        Clip(
            f"clip-{n:03d}",
            "v",
            "",
            "",
            0,
            tuple(range(len(frames))),
            (1, 60),
            60.0,
            (1, 1),
            crop,
            "p",
            "",
            shard=n // a_shard,
        )
        for n, frames in enumerate(clips)
    ]
    store.write_clips(planned)
    for shard in range(store.shard_count):
        samples = [
            Sample(clip.key(t), layer_kind("frames").encode({"frames": frames}, t), {"pts": t})
            for clip, frames in zip(planned, clips, strict=True)
            for t in range(len(frames))
            if clip.shard == shard
        ]
        store.write_shard("frames", shard, samples)
    return store


class Whole:
    """The three layers of a store, by so many workers."""

    def __init__(self, store: Store, workers: int | None) -> None:
        self.store, self.workers = store, workers
        self.jobs = plan_jobs(store, {kind: DEFAULTS[kind] for kind in KINDS})

    def __call__(self, clips: Sequence[np.ndarray]) -> list[Receipt]:
        shutil.rmtree(self.store.files.path("layers"), ignore_errors=True)
        with open_engine(self.workers) as engine:
            list(engine.map(dict, [{}]))  # starts the workers before the clock
            self.started = time.perf_counter()
            done = run_jobs(engine, self.store, self.jobs)
            self.seconds = time.perf_counter() - self.started
        assert sum(receipt.frames for receipt in done) == sum(map(len, clips))
        return done


class Again:
    """One layer made again in a finished store, and the detector alone on what it was given there."""

    def __init__(self, whole: Whole, spec: str):
        self.store, self.detector, self.spec = whole.store, load(spec), spec
        self.inputs = {job.kind: job.id for job in whole.jobs if job.kind in self.detector.needs}
        self.given = [
            (
                self.store.read_arrays("frames", "frames", clip)["frames"],
                {kind: self.store.read_arrays(f"layers/{kind}/{i}", kind, clip) for kind, i in self.inputs.items()},
            )
            for clip in self.store.clips
        ]

    def bare(self) -> None:
        for frames, needed in self.given:
            self.detector(frames, **needed)

    def made(self) -> None:
        shutil.rmtree(self.store.files.path(f"layers/{self.detector.kind}"), ignore_errors=True)
        done = annotate(self.store.url, self.detector.kind, self.spec, inputs=self.inputs, workers=0)
        assert done.computed == self.store.shard_count


class Sleeps(Batched):
    """A network on a pretended card: a thread that sleeps 10 ms for 8 frames, one batch at a time."""

    name, kind, version, schema = "sleeps", "parsing", "1", "atr18"
    needs: tuple[str, ...] = ()
    licence, approximate, batch = "", True, 8

    def __init__(self) -> None:
        self._card, self.busy = ThreadPoolExecutor(1), 0.0

    def fingerprint(self) -> dict[str, object]:
        return {"detector": self.name}

    def infer(self, items: np.ndarray) -> Future[Arrays]:
        return self._card.submit(self._work, items)

    def _work(self, items: np.ndarray) -> Arrays:
        start = time.perf_counter()
        time.sleep(0.01)
        self.busy += time.perf_counter() - start
        return {"labels": items[..., 1] >> 6}


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def cost(clips: Sequence[np.ndarray], folder: str, repeats: int) -> bool:
    bare, full = Bare(), Full()
    whole = Whole(store_of(clips, f"{folder}/cost", max(1, len(clips) // 2)), 0)

    def each(call: Callable[[np.ndarray], object]) -> Callable[[], object]:
        return lambda: [call(frames) for frames in clips]

    bare(clips[0][:4]), full(clips[0][:4]), whole(clips)
    full.seconds = dict.fromkeys(full.seconds, 0.0)
    # In turns, so that all meet the same machine; the fastest of each counts.
    calls = {"bare": each(bare), "detectors": each(full), "whole": lambda: whole(clips)}
    runs = [[seconds(call) for call in calls.values()] for _ in range(repeats)]
    least = [min(column) for column in zip(*runs, strict=True)]
    frames = sum(map(len, clips))
    print(f"{len(clips)} clips, {frames} frames of {clips[0].shape[1:3]}, fastest of {repeats}, ms a frame:")
    for name, value in zip(calls, least, strict=True):
        print(f"  {name:12s} {1000 * value / frames:5.1f}   {value / least[0]:.2f}")
    for name, spent in full.seconds.items():
        print(f"  {name:12s} {1000 * spent / frames / repeats:5.1f}   mean")
    print(f"whole over bare {least[2] / least[0]:.2f} (bound {BOUND}, {cpus()} cores)")
    return least[2] <= BOUND * least[0] or cpus() < 2


def again(clips: Sequence[np.ndarray], folder: str, repeats: int) -> bool:
    whole = Whole(store_of(clips, f"{folder}/again", max(1, len(clips) // 2)), 0)
    whole(clips)
    each, good = 1000 / sum(map(len, clips)), True
    for spec in ("dis", "pose-guided", "blazepose"):
        both = Again(whole, spec)
        runs = [(seconds(both.bare), seconds(both.made)) for _ in range(repeats + 1)][1:]
        alone, made = min(bare for bare, _ in runs), min(made for _, made in runs)
        print(f"{spec} alone {alone * each:.1f} ms, made again in the store {made * each:.1f}: {made / alone:.2f}")
        good = spec != "blazepose" or made <= AGAIN * alone
    return good


def workers(clips: Sequence[np.ndarray], folder: str, repeats: int) -> bool:
    eight = [clips[n % len(clips)] for n in range(8)]
    for a_shard in (1, 8):
        whole = Whole(store_of(eight, f"{folder}/workers-{a_shard}", a_shard), None)
        spent = []
        for _ in range(repeats):
            whole(eight)
            spent.append(whole.seconds)
        each = 1000 * min(spent) / sum(map(len, eight))
        print(f"default workers, 8 clips in {8 // a_shard} shards: {each:.1f} ms a frame, fastest of {repeats}")
    return True


def cpu_seconds() -> float:
    """CPU time of this process, and of those it has started and seen end."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def carried(clips: Sequence[np.ndarray], folder: str, repeats: int) -> bool:
    good = True
    for name, bound in CARRIED.items():
        build([str(assets.fetch(name))], f"{folder}/{name}", layers={}, workers=0)
        store = open_store(f"{folder}/{name}")
        frames = sum(clip.frames for clip in store.clips)
        old = Job("pose", "blazepose", settings={"carry": False}, source=0)
        plans = {"before": plan_jobs(store, {**DEFAULTS, "pose": old}), "now": plan_jobs(store, DEFAULTS)}
        spent: dict[str, list[float]] = {what: [] for what in plans}
        for _ in range(repeats):
            for what, jobs in plans.items():
                shutil.rmtree(store.files.path("layers"), ignore_errors=True)
                started = cpu_seconds()
                with open_engine(0) as engine:
                    run_jobs(engine, open_store(store.url), jobs)
                spent[what].append(cpu_seconds() - started)
        before, now = (1000 * min(values) / frames for values in spent.values())
        ratio = now / before
        print(f"{name}: {before:.1f} ms of CPU a frame before, {now:.1f} now: {ratio:.2f} (bound {bound})")
        good &= ratio <= bound
    return good


def card(clips: Sequence[np.ndarray], folder: str, repeats: int) -> bool:
    many = [clips[n % len(clips)] for n in range(-(-1600 // len(clips[0])))]
    store = store_of(many, f"{folder}/card", max(1, len(many) // 2))
    job = plan_job(store, "parsing", f"{__file__}:Sleeps")
    detector: Any = job.detector()
    shares = []
    for _ in range(repeats):
        shutil.rmtree(store.files.path("layers"), ignore_errors=True)
        detector.busy = 0.0
        wall = seconds(lambda: list(annotate_shards(store.url, range(store.shard_count), [job], cpus())))
        shares.append(detector.busy / wall)
    print(f"a pretended card is busy {max(shares):.2f} of a task of {wall:.1f} s (bound {BUSY}), best of {repeats}")
    return max(shares) >= BUSY


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", default=TABLES, metavar="|".join(TABLES))
    parser.add_argument("--frames", type=int, default=60, help="of a clip")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 192), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    cv2.setNumThreads(1)
    frames = sample_frames(options.frames * options.clips, tuple(options.size))
    clips = np.array_split(frames, options.clips)
    with tempfile.TemporaryDirectory() as folder:
        tables = [globals()[name] for name in TABLES if name in options.tables]
        return 0 if all([table(clips, folder, options.repeats) for table in tables]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
