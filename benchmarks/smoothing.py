"""What `smooth` does to keypoints: error, jitter, lag and overshoot, on drawn dancers with noise as detectors have it.

The truth is the keypoints that a dancer is drawn by. Noise has three parts, as shares of the person's height: white
(0.6 %), slow (0.8 %, correlated over some frames), and one joint in a hundred off by 8 %, of low confidence; some spans
are lost. Everything is told for 30, 15 and 60 frames a second and for times that vary.

- error: root mean square distance to the truth, in percent of the height;
- jitter: that of the second difference in time, divided by the truth's;
- lag: by how many milliseconds the result must be moved to fit the truth best;
- overshoot: how far a joint that jumps by one and stops goes beyond it, in percent;
- peak: how much of a fast wrist's way between its turning points is left.

    python benchmarks/smoothing.py [--seeds 20 21 22] [--hertz 3 4 5 6 8 10]

Chosen on seeds 0 to 9; what is written in the docs is of seeds 20 to 29.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from remot_data.detectors._following import OneEuro
from remot_data.detectors.smooth import smoothed
from remot_data.synthetic.dancer import Dancer
from remot_data.synthetic.skeleton import Body

SIZE, SECONDS = (256, 192), 8.0
WHITE, SLOW, FAR, FAR_SHARE, LOST = 0.006, 0.008, 0.08, 0.01, 0.01
Smoother = Callable[[np.ndarray, np.ndarray], np.ndarray]


def truth(seed: int, times: np.ndarray) -> tuple[np.ndarray, float]:
    """Keypoints [T, 25, 2] of a dancer at these seconds, and her height in pixels."""
    dancer = Dancer.random(seed)
    body = Body(dancer, times, SIZE, np.random.default_rng([seed, 2]))
    return body.keypoints(), body.unit


def detected(points: np.ndarray, height: float, fps: float, rng: np.random.Generator) -> np.ndarray:
    """Keypoints [T, 25, 3] as a detector would give them."""
    slow = np.zeros_like(points)
    keep = np.exp(-8 / fps)
    for t in range(1, len(points)):
        slow[t] = keep * slow[t - 1] + np.sqrt(1 - keep**2) * rng.standard_normal(points.shape[1:])
    noisy = points + height * (WHITE * rng.standard_normal(points.shape) + SLOW * slow)
    sure = rng.uniform(0.7, 1.0, points.shape[:2])
    far = rng.random(points.shape[:2]) < FAR_SHARE
    noisy[far] += height * FAR * rng.standard_normal((far.sum(), 2))
    sure[far] = rng.uniform(0.3, 0.6, far.sum())
    out = np.concatenate([noisy, sure[..., None]], -1)
    for joint in range(points.shape[1]):
        for start in np.flatnonzero(rng.random(len(points)) < LOST / 3):
            out[start : start + int(rng.integers(1, 6)), joint] = 0
    return out.astype(np.float32)


def one_euro(keypoints: np.ndarray, times: np.ndarray) -> np.ndarray:
    """MediaPipe's filter, which BlazePose's own `smooth` uses: it looks back only."""
    out, follow = keypoints.copy(), OneEuro(0.05, 80.0)
    for t, points in enumerate(keypoints):
        out[t, :, :2] = follow(points[:, :2], 0.7 * SIZE[0])
    out[keypoints[..., 2] == 0] = 0
    return out


def clocks(rng: np.random.Generator) -> dict[str, tuple[np.ndarray, float]]:
    """Times in seconds, by name, and how many frames a second they are."""
    steady = {f"{fps} frames/s": (np.arange(int(SECONDS * fps)) / fps, float(fps)) for fps in (15, 30, 60)}
    varying = np.cumsum(rng.choice((1 / 60, 1 / 30, 1 / 20), int(SECONDS * 30)))
    return {**steady, "varying": (varying, 30.0)}


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).sum(-1).mean()))


def lag(made: np.ndarray, seen: np.ndarray, seed: int, times: np.ndarray) -> float:
    """Milliseconds by which the truth must be delayed to be nearest to what was made."""
    delays = np.arange(-0.1, 0.1001, 0.005)
    errors = [rms((made[..., :2] - truth(seed, times - d)[0])[seen]) for d in delays]
    return 1000 * float(delays[int(np.argmin(errors))])


def measured(smoother: Smoother, seeds: list[int]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        rng = np.random.default_rng([seed, 3])
        for name, (times, fps) in clocks(rng).items():
            true, height = truth(seed, times)
            given = detected(true, height, fps, rng)
            made, seen = smoother(given, times), given[..., 2] > 0
            inside = seen[1:-1] & seen[:-2] & seen[2:]
            second = [np.diff(x, 2, axis=0)[inside] for x in (made[..., :2].astype(np.float64), true)]
            row = found.setdefault(name, {"error": [], "jitter": [], "lag": []})
            row["error"].append(100 * rms((made[..., :2] - true)[seen]) / height)
            row["jitter"].append(rms(second[0]) / rms(second[1]))
            if fps == 30.0 and name != "varying":
                row["lag"].append(lag(made, seen, seed, times))
    return {name: {k: float(np.mean(v)) for k, v in row.items() if v} for name, row in found.items()}


def stops(smoother: Smoother) -> tuple[float, float]:
    """Overshoot of a joint that jumps by one, and what is left of a wrist that swings three times a second."""
    times = np.arange(240) / 30
    sure = np.ones((240, 1, 1))
    jump = np.repeat((times > 4)[:, None, None], 2, 2) * 10.0
    swing = 10 * np.sin(2 * np.pi * 3 * times)[:, None, None].repeat(2, 2)
    first, second = (smoother(np.concatenate([x, sure], 2).astype(np.float32), times)[..., 0] for x in (jump, swing))
    return 100 * (float(first.max()) - 10) / 10, float(np.ptp(second[60:-60])) / 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(20, 30)))
    parser.add_argument("--hertz", type=float, nargs="*", default=[3, 4, 5, 6, 8, 10])
    args = parser.parse_args()
    ways: dict[str, Smoother] = {"as detected": lambda k, t: k, "one-euro": one_euro}
    ways |= {f"smooth, {h:g} Hz": lambda k, t, h=h: smoothed(k, t, h) for h in args.hertz}
    for name, way in ways.items():
        over, peak = stops(way)
        print(f"{name}: overshoot {over:.1f} %, peak {peak:.2f}")
        for clock, row in measured(way, args.seeds).items():
            print(f"  {clock:12}" + ", ".join(f"{k} {v:.2f}" for k, v in row.items()))


if __name__ == "__main__":
    main()
