"""What the default pose, parsing and flow cost beside the bare calls of the libraries that do the work.

All are timed in one process on the same frames of a sample clip at the size of a store. Bare is: the landmark
network once a frame, the person detector once, DIS forward and back for every pair. Detectors is: the three default
detectors on those frames. Whole is the task of a build: read the frames out of a shard, run the three, encode, write
and index their shards. The bound for the whole is 1.5 times the bare calls.

Then one layer at a time, as when it is made again in a finished store: `annotate` over the store, beside the detector
alone on the same frames in memory. Its bound, for pose, is 1.1 times the detector.

    python benchmarks/layers_cost.py [--frames 60] [--repeats 3] [--size 256 192]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable

import av
import cv2
import numpy as np

from remot_data import assets
from remot_data.annotate import annotate, annotate_shard, plan_jobs
from remot_data.detectors.base import DEFAULTS, Arrays, Detector, load
from remot_data.layers.frames import encode
from remot_data.records import Clip
from remot_data.shards import Sample
from remot_data.store import create_store

BOUND = 1.5
AGAIN = 1.1
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


class Whole:
    """The task of a build over a store that holds the frames as one clip."""

    def __init__(self, frames: np.ndarray, folder: str) -> None:
        size, count = frames.shape[1:3], len(frames)
        self.store = create_store(folder, {"size": size})
        pts, crop = tuple(range(count)), (0.0, 0.0, 1.0, 1.0)
        clip = Clip("clip", "v", "", "", 0, pts, (1, 60), 60.0, (1, 1), crop, "p", "", shard=0)
        self.store.write_clips([clip])
        samples = [Sample(clip.key(t), encode({"frames": frames}, t), {"pts": t}) for t in range(count)]
        self.store.write_shard("frames", 0, samples)
        self.jobs = [j.to_json() for j in plan_jobs(self.store, {k: DEFAULTS[k] for k in ("pose", "parsing", "flow")})]

    def __call__(self, frames: np.ndarray) -> None:
        shutil.rmtree(self.store.files.path("layers"), ignore_errors=True)
        done = annotate_shard(self.store.url, 0, self.jobs)
        assert done.frames == len(frames) and done.bytes > 0


class Again:
    """One layer made again in a finished store, and the detector alone on what it was given there."""

    def __init__(self, whole: Whole, frames: np.ndarray, spec: str):
        self.store, self.detector, self.spec = whole.store, load(spec), spec
        inputs = {job["kind"]: job["id"] for job in whole.jobs if job["kind"] in self.detector.needs}
        clip = self.store.clips[0]
        self.needed = {k: self.store.read_arrays(f"layers/{k}/{i}", k, clip) for k, i in inputs.items()}
        self.inputs = inputs
        self.frames = self.store.read_arrays("frames", "frames", clip)["frames"]

    def bare(self, frames: np.ndarray) -> None:
        self.detector(self.frames, **self.needed)

    def made(self, frames: np.ndarray) -> None:
        shutil.rmtree(self.store.files.path(f"layers/{self.detector.kind}"), ignore_errors=True)
        assert annotate(self.store.url, self.detector.kind, self.spec, inputs=self.inputs, workers=0).computed == 1


def seconds(call: Callable[[np.ndarray], object], frames: np.ndarray) -> float:
    start = time.perf_counter()
    call(frames)
    return time.perf_counter() - start


def again(whole: Whole, frames: np.ndarray, spec: str, repeats: int) -> tuple[float, float]:
    """Seconds of the detector alone, and of its layer made again: the fastest of each, in turns."""
    both = Again(whole, frames, spec)
    runs = [(seconds(both.bare, frames), seconds(both.made, frames)) for _ in range(repeats + 1)]
    return min(bare for bare, _ in runs[1:]), min(made for _, made in runs[1:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 192), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    cv2.setNumThreads(1)
    frames = sample_frames(options.frames, tuple(options.size))
    with tempfile.TemporaryDirectory() as folder:
        bare, full, whole = Bare(), Full(), Whole(frames, f"{folder}/store")
        bare(frames[:4]), full(frames[:4]), whole(frames)
        full.seconds = dict.fromkeys(full.seconds, 0.0)
        # In turns, so that all meet the same machine; the fastest of each counts.
        runs = [[seconds(call, frames) for call in (bare, full, whole)] for _ in range(options.repeats)]
        ratios = {spec: again(whole, frames, spec, options.repeats) for spec in ("dis", "pose-guided", "blazepose")}
    least = [min(column) for column in zip(*runs, strict=True)]
    each = 1000 / len(frames)
    ratio = least[2] / least[0]
    print(f"{len(frames)} frames of {frames.shape[1]}x{frames.shape[2]}, fastest of {options.repeats}, ms a frame:")
    for name, value in zip(("bare", "detectors", "whole"), least, strict=True):
        print(f"  {name:12s} {value * each:5.1f}   {value / least[0]:.2f}")
    print(f"whole over bare {ratio:.2f} (bound {BOUND}); by detector, mean:")
    for name, spent in full.seconds.items():
        print(f"  {name:12s} {spent * each / options.repeats:.1f} (mean)")
    for spec, (alone, made) in ratios.items():
        print(f"{spec} alone {alone * each:.1f}, made again in the store {made * each:.1f}: {made / alone:.2f}")
    alone, made = ratios["blazepose"]
    return 0 if ratio <= BOUND and made <= AGAIN * alone else 1


if __name__ == "__main__":
    raise SystemExit(main())
