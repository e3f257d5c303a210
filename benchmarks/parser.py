"""How well a parser labels drawn dancers over real backgrounds, given exact keypoints and masks.

Dancers whose labels are known exactly are drawn before the backgrounds of the sample clips (the person removed by the
default pose and background detectors), then lit unevenly, blurred, made noisy and compressed. Each row is a set of
clips: the three views of random dancers, then what parsers find hard, in all three views by turns. IoU is over the six
classes of the layout (`remot6`), intersections and unions summed over all frames of a row; a class that a row's truth
lacks is left out of its mean. Two kinds of flicker, in percent of the person's pixels seen in the frame before too:
`still` is how many of those that the true flow moves by less than a quarter pixel change their label, `moving` how many
of all differ from the label that the true flow brings there; the truth's own change is taken out by leaving out pixels
where the true label changes. Times are CPU time on one thread.

The dancers keep to the rules of the labels that the docs of the pose-guided parser state: the skin of a bare torso is
`upper-clothes`. They share no constant with the parser.

    python benchmarks/parser.py [--with pose-guided] [--clips 6] [--frames 24] [--seed 1000] [--sheet out.png]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import av
import cv2
import numpy as np

from remot_data import assets
from remot_data.detectors.base import Detector, load
from remot_data.render import overlay
from remot_data.schemas import LABELS, convert_labels
from remot_data.synthetic import Cloth, Dancer, Scene, dance

SIZE = (256, 192)
VIEWS = {"front": 0.0, "side": np.pi / 2, "back": np.pi}
CLASSES = LABELS["remot6"].labels
FLOOR, MEAN = 0.6, 0.8


def _skirt(d: Dancer, rng: np.random.Generator) -> Dancer:
    return replace(d, bottom="skirt", hem=rng.uniform(0.5, 1.3), belt=False)


def _dress(d: Dancer, rng: np.random.Generator) -> Dancer:
    return replace(d, bottom="dress", hem=rng.uniform(0.5, 1.6), lower=d.top, belt=False)


def _bare(d: Dancer, rng: np.random.Generator) -> Dancer:
    """No shirt, and shorts or trousers; nothing on the chest."""
    bottom, hem = (("pants", 1.9), ("shorts", 0.7))[int(rng.integers(2))]
    skin = Cloth("folds", d.skin, tuple(int(0.93 * c) for c in d.skin), 0.08)
    return replace(d, top=skin, sleeves=0.0, bottom=bottom, hem=hem, print_colour=None, scarf=False, bag=False)


def _nude(d: Dancer, rng: np.random.Generator) -> Dancer:
    """Trousers and, for every other one, a shirt in a paler or greyer tone of the skin."""
    grey, light = rng.uniform(0.2, 0.35), rng.uniform(0.85, 1.1)
    tone = tuple(min(255, int(light * ((1 - grey) * c + grey * np.mean(d.skin)))) for c in d.skin)
    cloth = Cloth("folds", tone, tuple(int(0.9 * c) for c in tone), 0.06)
    top = cloth if rng.random() < 0.5 else d.top
    return replace(d, top=top, lower=cloth, bottom="pants", hem=rng.uniform(1.2, 2.0))


def _small(d: Dancer, rng: np.random.Generator) -> Dancer:
    return replace(d, height=0.3, ground=rng.uniform(0.5, 0.9))


HARD: dict[str, Callable[[Dancer, np.random.Generator], Dancer]] = {
    "skirt": _skirt,
    "dress": _dress,
    "bare torso": _bare,
    "skin-coloured": _nude,
    "crossed limbs": lambda d, rng: d,
    "small": _small,
}


def real_backgrounds() -> list[np.ndarray]:
    """The sample clips' backgrounds, uint8 [H, W, 3] each, 640 rows high."""
    pose, remover = load("blazepose"), load("temporal-median")
    out = []
    for name in sorted(a for a in assets.ASSETS if a.startswith("sample-cam")):
        with av.open(str(assets.fetch(name))) as container:
            frames = [f.to_ndarray(format="rgb24") for i, f in enumerate(container.decode(video=0)) if i % 8 == 0]
        height, width = frames[0].shape[:2]
        small = np.stack([cv2.resize(f, (640 * width // height, 640), interpolation=cv2.INTER_AREA) for f in frames])
        person = pose(small)["mask"] >= 32
        out.append(remover(small, parsing={"labels": person.astype(np.uint8)})["image"])
    return out


def scenes(case: str, backgrounds: list[np.ndarray], clips: int, frames: int, seed: int) -> Iterator[Scene]:
    """The clips of one row."""
    for number in range(clips):
        rng = np.random.default_rng([seed, number, *case.encode()])
        picked = int(rng.integers(1 << 30))
        dancer = HARD[case](Dancer.random(picked), rng) if case in HARD else Dancer.random(picked)
        turned = VIEWS[case if case in VIEWS else list(VIEWS)[number % 3]] * rng.choice((-1, 1))
        scene = dance(
            dancer,
            frames,
            size=SIZE,
            seed=picked,
            background=_window(backgrounds[int(rng.integers(len(backgrounds)))], rng),
            turned=turned,
            crossed=case == "crossed limbs",
        )
        yield replace(scene, frames=photographed(scene.frames, rng))


def _window(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random part of a picture, 256 x 192 after shrinking."""
    height, width = image.shape[:2]
    rows = int(rng.uniform(SIZE[0], min(height, width * SIZE[0] // SIZE[1])))
    columns = rows * SIZE[1] // SIZE[0]
    y, x = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    return cv2.resize(image[y : y + rows, x : x + columns], SIZE[::-1], interpolation=cv2.INTER_AREA)


def photographed(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] in uneven light of one colour, a little blurred, noisy and JPEG-compressed."""
    y, x = np.indices(frames.shape[1:3], np.float32) / frames.shape[1] - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0, 0.45) * (x * np.cos(angle) + y * np.sin(angle))
    patches = rng.normal(0, 0.1, (5, 4)).astype(np.float32)
    light += cv2.resize(patches, frames.shape[2:0:-1], interpolation=cv2.INTER_CUBIC)
    gain = (rng.uniform(0.75, 1.05) * rng.uniform(0.94, 1.06, 3)).astype(np.float32)
    blur, noise = rng.uniform(0.3, 0.8), rng.uniform(2, 6)
    out = []
    for frame in frames:
        lit = cv2.GaussianBlur(frame.astype(np.float32) * light[..., None] * gain, None, blur)
        lit += rng.normal(0, noise, frame.shape)
        _, packed = cv2.imencode(".jpg", np.clip(np.rint(lit), 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
        out.append(cv2.imdecode(packed, cv2.IMREAD_COLOR))
    return np.stack(out)


class Tally:
    """Sums over the clips of a row."""

    def __init__(self) -> None:
        self.shared, self.either, self.true = np.zeros((3, len(CLASSES)))
        self.changed, self.counted = np.zeros((2, 2))
        self.seconds, self.frames = 0.0, 0

    def add(self, scene: Scene, found: np.ndarray, schema: str, seconds: float) -> None:
        self.seconds, self.frames = self.seconds + seconds, self.frames + len(found)
        labels, truth = convert_labels(found, schema, "remot6"), convert_labels(scene.labels, "atr18", "remot6")
        for k in range(len(CLASSES)):
            a, b = labels == k, truth == k
            self.shared[k] += (a & b).sum()
            self.either[k] += (a | b).sum()
            self.true[k] += b.sum()
        y, x = np.indices(labels.shape[1:])
        for t in range(1, len(labels)):
            py, px = (np.rint(v + scene.flow[t, ..., i]).astype(int) for i, v in ((1, y), (0, x)))
            py, px = py.clip(0, y.max()), px.clip(0, x.max())
            same = (truth[t] > 0) & (truth[t - 1][py, px] == truth[t]) & ((scene.confidence[t] & 1) > 0)
            still = same & (np.linalg.norm(scene.flow[t], axis=-1) < 0.25)
            changed = labels[t - 1][py, px] != labels[t]
            self.changed += (changed & still).sum(), (changed & same).sum()
            self.counted += still.sum(), same.sum()

    @property
    def iou(self) -> np.ndarray:
        """float64 [6], nan for a class that the truth lacks."""
        return np.where(self.true > 0, self.shared / np.maximum(self.either, 1), np.nan)

    def row(self, name: str) -> str:
        flicker = 100 * self.changed / np.maximum(self.counted, 1)
        cells = [f"{v:.2f}" for v in (*self.iou, np.nanmean(self.iou), np.nanmean(self.iou[1:]))]
        cells += [f"{v:.1f}" for v in (*flicker, 1000 * self.seconds / self.frames)]
        return f"| {name:13s} | " + " | ".join(cells) + " |"


def measure(detector: Detector, clips: Iterator[Scene], sheet: list[np.ndarray]) -> Tally:
    tally = Tally()
    for scene in clips:
        pose = {"keypoints": scene.keypoints, "mask": scene.mask}
        start = time.process_time()
        found = detector(scene.frames, **{kind: {"pose": pose}[kind] for kind in detector.needs})["labels"]
        tally.add(scene, found, detector.schema, time.process_time() - start)
        t = len(found) // 2
        truth, made = (
            overlay(scene.frames[t], m[t], s) for m, s in ((scene.labels, "atr18"), (found, detector.schema))
        )
        sheet.append(np.concatenate([scene.frames[t], truth, made], 1))
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--with", dest="spec", default="pose-guided", help="a detector of labels, as for annotate")
    parser.add_argument("--weights", help="its weights")
    parser.add_argument("--clips", type=int, default=6, help="clips a row")
    parser.add_argument("--frames", type=int, default=24, help="frames a clip")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--rows", nargs="*", default=[*VIEWS, *HARD], choices=[*VIEWS, *HARD])
    parser.add_argument("--sheet", help="picture of a frame of each clip: frame, truth, labels found")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    detector, backgrounds = load(options.spec, weights=options.weights), real_backgrounds()
    print(f"{options.spec}, {options.clips} clips of {options.frames} frames a row, seed {options.seed}")
    print("| | " + " | ".join((*CLASSES, "mean", "without background", "still %", "moving %", "ms a frame")) + " |")
    print("|---" * (len(CLASSES) + 6) + "|")
    pictures, good = [], True
    for case in options.rows:
        row: list[np.ndarray] = []
        clips = scenes(case, backgrounds, options.clips, options.frames, options.seed)
        tally = measure(detector, clips, row)
        print(tally.row(case), flush=True)
        pictures.append(np.concatenate(row, 1))
        good &= case not in VIEWS or bool(np.nanmean(tally.iou) >= MEAN and np.nanmin(tally.iou) >= FLOOR)
    if options.sheet:
        cv2.imwrite(options.sheet, np.concatenate(pictures)[..., ::-1])
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
