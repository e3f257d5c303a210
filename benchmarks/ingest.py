"""What the frames stage of a build costs beside bare loops, and whether its memory grows with the length of a video.

Speed: `build.frames_shard` (decode in a child, crop, shrink, JPEG, tar, index) against two loops without any care, with
the same number of processes, on the same 1080p H.264 clip, in turns. The naive loop converts whole pictures to BGR and
shrinks them with OpenCV; the best one does crop, scale and conversion in one pass of swscale. All write the same kind
of JPEG. The bounds: 0.8 of the speed of the best loop, and no less than that of the naive one.

Memory: the peak of a worker and its children, while it looks through a video and writes its frames, for one minute and
for sixty. The bound: 1.2 times.

    python benchmarks/ingest.py [--frames 600] [--processes 2] [--rounds 3] [--minutes 60] [--only speed]
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av
import av.filter
import cv2
import psutil

from remot_data import media
from remot_data.assets import fetch
from remot_data.detectors.base import file_sha256
from remot_data.ingest.build import frames_shard
from remot_data.ingest.policy import Policy
from remot_data.ingest.scan import scan
from remot_data.records import Clip
from remot_data.store import Store, create_store
from remot_data.store.layers._images import _JPEG

BEST, NAIVE, MEMORY = 0.8, 1.0, 1.2
CROP = (500.0, 30.0, 750.0, 1000.0)
POLICY = Policy(size=(256, 192))
# Few looks and no thresholds: what is measured is memory, and the video is blurred and long.
SMALL = Policy(size=(64, 48), looks=0.2, min_height=16, min_seen=0.0, min_sharpness=0.0, min_motion=0.0)


# --- speed --------------------------------------------------------------------------------------------------


def make_clip(path: Path, frames: int, number: int) -> None:
    """A moving test picture with noise, so that it costs about as much to decode as filmed material."""
    source = f"testsrc2=size=1920x1080:rate=30:duration={frames / 30},noise=alls=6:allf=t:all_seed={number}"
    encoder = "-c:v libx264 -preset fast -crf 23 -pix_fmt yuv420p".split()
    command = [media.ffmpeg_binary(), "-v", "error", "-y", "-f", "lavfi", "-i", source, *encoder, str(path)]
    subprocess.run(command, check=True)


def decoded(path: str) -> Iterator[av.VideoFrame]:
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        yield from container.decode(stream)


def write_tar(path: str, jpegs: Iterator[bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, data in enumerate(jpegs):
            info = tarfile.TarInfo(f"clip/{number:06d}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def naive(path: str, out: str, _: int) -> None:
    x, y, w, h = map(int, CROP)
    pictures = (frame.to_ndarray(format="bgr24")[y : y + h, x : x + w] for frame in decoded(path))
    small = (cv2.resize(picture, POLICY.size[::-1], interpolation=cv2.INTER_AREA) for picture in pictures)
    write_tar(f"{out}/naive.tar", (cv2.imencode(".jpg", picture, _JPEG)[1].tobytes() for picture in small))


def best(path: str, out: str, _: int) -> None:
    def small() -> Iterator[bytes]:
        graph = None
        for frame in decoded(path):
            graph = graph or _graph(frame)
            graph.push(frame)
            yield cv2.imencode(".jpg", graph.pull().to_ndarray(), _JPEG)[1].tobytes()

    write_tar(f"{out}/best.tar", small())


def _graph(frame: av.VideoFrame) -> av.filter.Graph:
    x, y, w, h = map(int, CROP)
    graph = av.filter.Graph()
    if hasattr(graph, "threads"):
        graph.threads = 1
    last = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    scale = f"{POLICY.size[1]}:{POLICY.size[0]}:flags=area"
    steps = [("crop", f"{w}:{h}:{x}:{y}"), ("scale", scale), ("format", "bgr24"), ("buffersink", None)]
    for name, arguments in steps:
        node = graph.add(name, arguments)
        last.link_to(node)
        last = node
    graph.configure()
    return graph


def stage(_: str, out: str, shard: int) -> None:
    store = Store(f"{out}/store")
    assert not Path(out, "store", "frames", f"shard-{shard:05d}.tar").exists(), "what is there is not written again"
    receipt = frames_shard(store.url, shard, POLICY.to_json())
    assert receipt.frames == sum(clip.frames for clip in store.shard_clips(shard))


def new_store(out: Path, clips: list[Clip]) -> None:
    """A store at `out` with these clips planned and nothing written."""
    shutil.rmtree(out, ignore_errors=True)
    create_store(str(out), {"policy": POLICY.to_json(), "size": POLICY.size}).write_clips(clips)


WAYS: dict[str, Callable[[str, str, int], None]] = {"frames stage": stage, "best loop": best, "naive loop": naive}


def plan(path: Path, shard: int, number: int = 0) -> list[Clip]:
    """The clips of a video without looking for a person: a fixed crop, at most `max_frames` frames each."""
    found = media.probe(path)
    pts = [p for p, _ in media.read(path, size=(8, 8))]
    sha, size = file_sha256(path), POLICY.max_frames
    crop = media.round_crop(CROP if found.size == (1920, 1080) else (0, 0, *found.size), found)
    shared = {"sha256": sha, "shot": 0, "time_base": found.time_base, "fps": found.fps, "source_size": found.size}
    return [
        Clip(f"clip-{number:02d}-{i:06d}", "v", str(path), pts=tuple(pts[i : i + size]), crop=crop, person="p",
             split="train", shard=shard + i // (6 * size), **shared)
        for i in range(0, len(pts), size)
    ]  # fmt: skip


def speed(folder: Path, frames: int, processes: int, rounds: int) -> bool:
    paths = [folder / f"clip{number}.mp4" for number in range(processes)]
    for number, path in enumerate(paths):
        make_clip(path, frames, number)
    clips = [clip for shard, path in enumerate(paths) for clip in plan(path, shard, shard)]
    outs = [folder / str(number) for number in range(processes)]
    for out in outs:
        new_store(out / "store", clips)
    tasks = [(str(path), str(out), number) for number, (path, out) in enumerate(zip(paths, outs, strict=True))]
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    work: dict[str, list[float]] = {name: [] for name in WAYS}
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(stage, *zip(*tasks, strict=True)))  # starts the workers and their children
        for _ in range(rounds):
            for out in outs:
                new_store(out / "store", clips)
            for name, way in WAYS.items():
                started, spent = time.perf_counter(), _spent()
                list(pool.map(way, *zip(*tasks, strict=True)))
                seconds[name].append(time.perf_counter() - started)
                work[name].append(_spent() - spent)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    total = frames * processes
    print(f"{total} frames of 1080p H.264 to {POLICY.size}, {processes} processes, median of {rounds}:")
    for name, value in medians.items():
        each = 1000 * statistics.median(work[name]) / total
        print(f"  {name:<14}{total / value:>8.1f} frames/s{each:>8.2f} ms of CPU time a frame")
    of_best, of_naive = (medians[name] / medians["frames stage"] for name in ("best loop", "naive loop"))
    print(f"  of the best loop {of_best:.2f} (bound {BEST}), of the naive one {of_naive:.2f} (bound {NAIVE})")
    return of_best >= BEST and of_naive >= NAIVE


def _spent() -> float:
    """Seconds of CPU time of all processes that this one began, and of theirs."""
    times = [each.cpu_times() for each in psutil.Process().children(recursive=True)]
    return sum(t.user + t.system for t in times)


# --- memory -------------------------------------------------------------------------------------------------


def make_minutes(folder: Path, minutes: int) -> tuple[Path, Path]:
    """One minute of a person, small and at 10 frames a second, and the same many times over, copied."""
    short, long = folder / "minute.mp4", folder / "minutes.mp4"
    ffmpeg = [media.ffmpeg_binary(), "-v", "error", "-y"]
    encoder = "-an -vf scale=180:320,setpts=N/10/TB,fps=10 -t 60 -c:v libx264 -preset veryfast -pix_fmt yuv420p".split()
    source = ["-stream_loop", "-1", "-i", str(fetch("sample-cam02"))]
    subprocess.run([*ffmpeg, *source, *encoder, str(short)], check=True)
    repeated = ["-stream_loop", str(minutes - 1), "-i", str(short), "-c", "copy", str(long)]
    subprocess.run([*ffmpeg, *repeated], check=True)
    return short, long


def work(what: str, path: str, out: str) -> None:
    """What a worker does, in a process of its own: all of one video."""
    if what == "scan":
        line = scan({"path": path}, SMALL.to_json())
        print(json.dumps({"frames": line["frames"]["decoded"], "clips": len(line["clips"])}))
        return
    store = Store(out)
    for shard in range(store.shard_count):
        frames_shard(out, shard, SMALL.to_json())
    print(json.dumps({"frames": sum(clip.frames for clip in store.clips)}))


def peak(what: str, path: Path, out: str) -> tuple[float, dict[str, int], float]:
    """Most MB that a worker and its children held together, what it did, and the seconds it took."""
    started, most = time.perf_counter(), 0
    command = [sys.executable, __file__, "--work", what, str(path), out]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            most = max(most, _held(psutil.Process(process.pid)))
            time.sleep(0.02)
        done = json.loads(process.stdout.read())
    if process.returncode:
        raise RuntimeError(f"{what} of {path} failed")
    return most / 2**20, done, time.perf_counter() - started


def _held(process: psutil.Process) -> int:
    total = 0
    for each in (process, *process.children(recursive=True)):
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def memory(folder: Path, minutes: int) -> bool:
    videos = make_minutes(folder, minutes)
    fine = True
    for what in ("scan", "frames"):
        found = []
        for path in videos:
            out = f"{folder}/{path.stem}"
            if what == "frames":
                create_store(out, {"policy": SMALL.to_json(), "size": SMALL.size}).write_clips(plan(path, 0))
            found.append(peak(what, path, out))
        ratio = found[1][0] / found[0][0]
        fine &= ratio <= MEMORY
        print(f"{what}: peak of a worker and its children, 1 and {minutes} minutes: {ratio:.2f} times (bound {MEMORY})")
        for megabytes, done, seconds in found:
            print(f"  {megabytes:>7.1f} MB  {seconds:>6.1f} s  {done}")
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=600, help="length of the clip of each process")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is measured, in turns")
    parser.add_argument("--minutes", type=int, default=60, help="length of the long video")
    parser.add_argument("--only", choices=("speed", "memory"))
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.work:
        work(*options.work)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        fine = options.only == "memory" or speed(Path(folder), options.frames, options.processes, options.rounds)
        fine &= options.only == "speed" or memory(Path(folder), options.minutes)
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
