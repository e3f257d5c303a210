"""How small a hand or a face may be, and what finding them and drawing them costs.

Hands: the four sample clips as frames of several heights. Shown is the median size of a hand in pixels, the share of
those hands found in the largest frames that are found in these too, how far their points lie from there (median, in
sizes of the hand), and the time of the detector with hands and face over that without. The face in these clips is
blurred, so for faces the astronaut of scikit-image is made smaller. Drawing: a pose map of body, hands and face over
one of the body.

    python benchmarks/hands_face.py [--frames 8] [--heights 1024 512 256]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import av
import cv2
import numpy as np

from remot_data import assets
from remot_data.detectors.blazepose import BlazePose
from remot_data.render import pose_map

# x, y, width, height of the person in each clip.
_CROPS = {1: (24, 135, 1037, 1383), 2: (95, 259, 808, 1078), 3: (0, 250, 897, 1197), 4: (70, 217, 1015, 1353)}
_HANDS = slice(25, 46), slice(46, 67)
_FACE = slice(67, 137)


def clip(camera: int, count: int) -> np.ndarray:
    """Frames evenly spaced over a sample clip, cropped: uint8 [T, H, W, 3]."""
    x, y, w, h = _CROPS[camera]
    with av.open(str(assets.fetch(f"sample-cam{camera:02d}"))) as container:
        frames = [f.to_ndarray(format="rgb24")[y : y + h, x : x + w] for f in container.decode(video=0)]
    return np.stack(frames[:: max(len(frames) // count, 1)][:count])


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = call()
    return time.process_time() - started, result


def apart(points: np.ndarray, largest: np.ndarray) -> tuple[float, float]:
    """Size in pixels of a hand or face seen in both, and the median distance of its points over that size."""
    size = float(np.ptp(largest[:, :2], axis=0).max())
    both = (points[:, 2] > 0) & (largest[:, 2] > 0)
    return size, float(np.median(np.hypot(*(points[both, :2] - largest[both, :2]).T))) / size


def row(what: str, height: int, pairs: list[tuple[np.ndarray, np.ndarray]], ratio: float | None) -> None:
    """A line of the table of pairs [K, 3] of a part in frames of this height and in the largest, both in its pixels."""
    there = [(here, largest) for here, largest in pairs if largest[:, 2].any()]
    found = [apart(here, largest) for here, largest in there if here[:, 2].any()]
    sizes = [float(np.ptp(largest[largest[:, 2] > 0, :2], axis=0).max()) for _, largest in there]
    time_ratio = f"{ratio:.2f}" if ratio is not None else ""
    distance = f"{np.median([d for _, d in found]):.3f}" if found else "-"
    print(f"{what:<6}{height:>7}{np.median(sizes):>10.0f}{len(found):>6}/{len(there):<6}{distance:>9}{time_ratio:>7}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--frames", type=int, default=8)
    options.add_argument("--heights", type=int, nargs="+", default=[1024, 512, 256])
    args = options.parse_args()
    cv2.setNumThreads(1)
    body, whole = BlazePose(), BlazePose(hands_face=True)
    print(f"{'part':<6}{'height':>7}{'pixels':>10}{'found':>9}{'distance':>13}{'time':>7}")
    sources = [clip(camera, args.frames) for camera in _CROPS]
    largest: dict[int, np.ndarray] = {}
    for height in args.heights:
        size = (height * 3 // 4, height)
        pairs, seconds = [], np.zeros(2)
        for number, source in enumerate(sources):
            frames = np.stack([cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in source])
            plain, _ = timed(lambda frames=frames: body(frames))
            more, found = timed(lambda frames=frames: whole(frames)["keypoints"])
            seconds += plain, more
            best = largest.setdefault(number, found) * np.float32([height / args.heights[0]] * 2 + [1])
            pairs += [(a[part], b[part]) for a, b in zip(found, best, strict=True) for part in _HANDS]
        row("hands", height, pairs, seconds[1] / seconds[0])
    _faces(whole)
    _drawing(found[0])


def _faces(detector: BlazePose) -> None:
    from skimage.data import astronaut

    image = astronaut()
    best = detector(image[None])["keypoints"][0]
    for height in (512, 256, 128, 64):
        small = cv2.resize(image, (height, height), interpolation=cv2.INTER_AREA)
        found = detector(small[None])["keypoints"][0]
        row("face", height, [(found[_FACE], best[_FACE] * np.float32([height / 512] * 2 + [1]))], None)


def _drawing(points: np.ndarray) -> None:
    full = points.copy()
    full[:, 2] = 1
    times = []
    for keypoints, schema in ((full[:25], "body25"), (full, "openpose137")):
        seconds, _ = timed(lambda k=keypoints, s=schema: [pose_map(k, s) for _ in range(300)])
        times.append(seconds / 300 * 1e6)
    print(f"pose map: {times[0]:.0f} us the body, {times[1] / times[0]:.2f} times that with hands and face")


if __name__ == "__main__":
    main()
