"""How fast videos become frames: decoding alone, `remot_data.media.read` with a crop, and the plain way.

Everything is measured in one run, in turns, on one generated 1080p H.264 clip, so compare the ratios: the
absolute numbers depend on the machine. Run it with ``python benchmarks/decode.py``.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np

from remot_data import media

CROP = (500.0, 30.0, 750.0, 1000.0)
OUTSIDE = (500.0, -20.0, 840.0, 1120.0)
SIZE = (256, 192)


def make_clip(path: Path, frames: int) -> None:
    """A moving test picture with noise, so that it costs about as much to decode as filmed material."""
    source = f"testsrc2=size=1920x1080:rate=30:duration={frames / 30},noise=alls=6:allf=t"
    encoder = ["-c:v", "libx264", "-preset", "fast", "-crf", "23", "-pix_fmt", "yuv420p"]
    command = [media.ffmpeg_binary(), "-v", "error", "-y", "-f", "lavfi", "-i", source, *encoder, str(path)]
    subprocess.run(command, check=True)


def decoded(path: Path) -> Iterator[av.VideoFrame]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        yield from container.decode(stream)


def plain(path: Path) -> Iterator[np.ndarray]:
    """Convert the whole frame to RGB, cut, then shrink with OpenCV."""
    x, y, w, h = map(int, CROP)
    for frame in decoded(path):
        picture = frame.to_ndarray(format="rgb24")
        yield cv2.resize(picture[y : y + h, x : x + w], SIZE[::-1], interpolation=cv2.INTER_AREA)


WAYS: dict[str, Callable[[Path], Iterator[object]]] = {
    "decode only (PyAV)": decoded,
    "read, crop and size": lambda path: media.read(path, crop=CROP, size=SIZE),
    "read, crop over the border": lambda path: media.read(path, crop=OUTSIDE, size=SIZE),
    "read, whole picture to size": lambda path: media.read(path, size=SIZE),
    "read, full size": lambda path: media.read(path),
    "plain: to RGB, OpenCV area": plain,
}
if importlib.util.find_spec("decord"):
    WAYS["read, crop and size, decord"] = lambda path: media.read(path, crop=CROP, size=SIZE, decoder="decord")


def measure(path: Path, rounds: int) -> dict[str, tuple[float, float]]:
    """The best frames per second of each way: of CPU time, and by the clock."""
    best = dict.fromkeys(WAYS, (0.0, 0.0))
    for _ in range(rounds):
        for name, way in WAYS.items():
            cpu, clock = time.process_time(), time.perf_counter()
            count = sum(1 for _ in way(path))
            rates = count / (time.process_time() - cpu), count / (time.perf_counter() - clock)
            best[name] = max(best[name], rates)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=150, help="length of the clip")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is measured; the best counts")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        make_clip(clip, options.frames)
        best = measure(clip, options.rounds)
    base = best["decode only (PyAV)"][0]
    print(f"{'way':<30}{'frames / CPU s':>15}{'frames / s':>12}{'of decoding':>13}{'ms a frame more':>17}")
    for name, (cpu, clock) in best.items():
        print(f"{name:<30}{cpu:>15.1f}{clock:>12.1f}{cpu / base:>13.2f}{1000 / cpu - 1000 / base:>17.1f}")


if __name__ == "__main__":
    main()
