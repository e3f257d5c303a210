"""How many pixels of a store no camera saw: with crops as in older stores, and with those of new ones.

A store is built twice over the sample clips and the videos given: by `Policy(outside=None)`, whose crops reach out of
the picture wherever the margin round the person does, and by the default. Shown is, of each video and of all, the share
of the stored pixels that lie outside the picture, the share that repeats its border (outside and not black, as decoded
from the store; 24 of 255 is left to JPEG), and the height of the person over that of the frame.

    python benchmarks/real_pixels.py [VIDEO ...] [--size 256x192] [--sheet FILE.png]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from remot_data import assets, persons
from remot_data.cli.options import size_of
from remot_data.ingest.build import build
from remot_data.ingest.policy import Policy
from remot_data.records import HW, Clip
from remot_data.store import Store, open_store

_BLACK = 24


def counted(store: Store, clip: Clip) -> np.ndarray:
    """Pixels of a clip, those outside the picture and those of them that repeat its border; frames, and the sum of the
    person's height over theirs."""
    frames = store.read_arrays("frames", "frames", clip)["frames"]
    valid = persons.valid(clip.crop, clip.source_size, store.size)
    smeared = (frames[:, ~valid].max(-1) > _BLACK).sum()
    boxes = store.boxes(clip)
    assert boxes is not None
    own, _ = boxes.in_frames(clip, store.size)
    heights = (own[:, 3] - own[:, 1]) / store.size[0]
    return np.array([frames[..., 0].size, len(frames) * (~valid).sum(), smeared, len(frames), np.nansum(heights)])


def told(name: str, counts: np.ndarray) -> str:
    pixels, outside, smeared, frames, heights = counts
    return f"{name:24} outside {outside / pixels:6.2%}, smeared {smeared / pixels:6.2%}, person {heights / frames:.2f}"


def sheet(stores: list[Store]) -> np.ndarray:
    """The middle frame of each clip of each video in a column, a row a store."""
    rows = []
    for store in stores:
        clips = sorted(store.clips, key=lambda clip: clip.id)
        middles = [store.read_arrays("frames", "frames", c, which=[c.frames // 2])["frames"][0] for c in clips]
        rows.append(np.concatenate([np.pad(m, ((4, 4), (4, 4), (0, 0)), constant_values=255) for m in middles], 1))
    wide = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(r, ((0, 0), (0, wide - r.shape[1]), (0, 0)), constant_values=255) for r in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*")
    parser.add_argument("--size", default="256x192")
    parser.add_argument("--sheet", help="a picture of a frame a clip, as it was above, as it is below")
    args = parser.parse_args()
    size: HW = size_of(args.size)
    videos = [*(str(assets.fetch(f"sample-cam{n:02d}")) for n in range(1, 5)), *args.videos]
    with tempfile.TemporaryDirectory() as folder:
        stores = []
        for outside in (None, "black"):
            to = f"{folder}/{outside}"
            build(videos, to, policy=Policy(size=size, outside=outside, duplicates="bytes"), layers={}, workers=1)
            stores.append(open_store(to))
            print(f"outside={outside}")
            found: dict[str, np.ndarray] = {}
            for clip in stores[-1].clips:
                name = f"{Path(clip.path).stem} {clip.source_size[0]}x{clip.source_size[1]}"
                found[name] = found.get(name, np.zeros(5)) + counted(stores[-1], clip)
            for name, counts in sorted(found.items()):
                print(" ", told(name, counts))
            print(" ", told("all", np.sum(list(found.values()), 0)), flush=True)
        if args.sheet:
            cv2.imwrite(args.sheet, sheet(stores)[..., ::-1])


if __name__ == "__main__":
    main()
