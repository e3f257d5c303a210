"""Who is found, whose frames are kept, and whose pose is stored, held against scenes and clips whose truth is known.

Made scenes (`benchmarks/made_scenes.py`; seeds from `REPORTED` on) and, with `--material`, real clips with the truth of
benchmarks/truth, drawn by hand. A person counts where she is at least 64 pixels high. The measures, by name:

- `looks`: pictures 5 times a second (real ones: those of the truth) as the finder sees them. `all found` is the share
  of the looks in which everybody who is at least half visible has a box of her own, with an IoU of at least 0.3; `of
  several` that of the looks at two or more. `phantoms` is the share of the boxes that match nobody, or somebody who has
  a better one. Boxes that may only go on a track are left out; `weak` is the share found with them.
- `clips`: a store is built. `kept` is the share of the pairs (frame, wholly visible person) that lie in a clip of that
  person: the clip's own box in the frame matches her box best. `switches` counts how often a clip, or the clips of one
  name in `person`, go from one person to another, `split` the names beyond the first that one person has.
- `pose`: of the frames of clips in which the person is wholly visible, `own` is the share whose pose lies on her (in
  her box, and nearer to her joints than to those of others), `other` the share on somebody else, `off` on nobody,
  `none` without a pose; `exact` are those whose median distance to her joints is below 0.1 of her height. Made scenes
  only.
- `time`: CPU time of looking through 1080p videos of one and of three persons, as a ratio to BlazePose's finder and the
  linking of stores from before persons were followed, in one process, in turns.

    python benchmarks/persons.py FOLDER [--measures looks clips] [--finders blazepose ssd] [--seeds 1000 1001]
        [--only relay jump_cut] [--material FOLDER] [--sheets] [--json out.json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import made_scenes
from benchmarks.made_scenes import Seen, Truth
from remot_data import media
from remot_data.detectors.base import DEFAULTS, file_sha256
from remot_data.ingest import people
from remot_data.ingest.build import build
from remot_data.ingest.inputs import Input
from remot_data.ingest.policy import Policy
from remot_data.ingest.scan import looking
from remot_data.persons import Person, as_box, overlap
from remot_data.records import Clip, layer_folder
from remot_data.store import Store, open_store

LEAST, SAME, RATE = 64, 0.3, 5  # pixels of height, IoU, looks a second
NEAR = 0.1  # of her height, from joint to joint


@dataclass(frozen=True)
class Case:
    """A video and its truth; `name` is the row of the table that it counts for."""

    name: str
    path: Path
    truth: Truth
    made: bool


# --- looks --------------------------------------------------------------------------------------------------


def matched(boxes: Sequence[np.ndarray], people: Sequence[Seen]) -> list[int | None]:
    """Whom of `people` each box shows: pairs of an IoU of at least `SAME`, best first, each person once."""
    pairs = itertools.product(range(len(boxes)), range(len(people)))
    ranked = sorted(((overlap(as_box(boxes[i]), as_box(people[j].box)), i, j) for i, j in pairs), reverse=True)
    out: list[int | None] = [None] * len(boxes)
    for value, i, j in ranked:
        if value >= SAME and out[i] is None and j not in out:
            out[i] = j
    return out


def count_look(found: Sequence[Person], people: Sequence[Seen]) -> Counter[str]:
    """What one look adds: looks (somebody is to be found), several (two or more), complete, weak, boxes, phantoms."""
    wanted = {j for j, person in enumerate(people) if person.shown != "part" and person.height >= LEAST}
    sure = [person for person in found if person.sure]
    hits, weak_hits = (matched([np.array(p.box) for p in boxes], people) for boxes in (sure, found))
    tall = [hit for person, hit in zip(sure, hits, strict=True) if person.box[3] - person.box[1] >= LEAST]
    counts = Counter(boxes=len(tall), phantoms=tall.count(None))
    if wanted:
        complete = int(wanted <= set(hits))
        counts.update(looks=1, complete=complete, weak=int(wanted <= set(weak_hits)))
        if len(wanted) > 1:
            counts.update(several=1, complete_several=complete)
    return counts


def look_at(case: Case, finder: str) -> Iterator[tuple[int, list[Person]]]:
    """The persons that a finder sees in the pictures of a video that are known: in made ones `RATE` a second."""
    one = people.open_finder(finder) if finder != "blazepose" else None
    look, longest = (one.follow(), one.longest) if one else (people.find, 640)
    probe = media.probe(case.path)
    scale = min(1.0, longest / max(probe.size))
    shape = max(2, round(probe.size[1] * scale)), max(2, round(probe.size[0] * scale))
    wanted = {n for n in case.truth.at if not case.made or n % (made_scenes.FPS // RATE) == 0}
    for number, (_, picture) in enumerate(media.read(case.path, size=shape)):
        if number in wanted:
            yield number, look(picture, number, probe.size)


def looks(cases: Sequence[Case], finder: str) -> list[dict[str, Any]]:
    rows: dict[str, Counter[str]] = {}
    for case in cases:
        for number, found in look_at(case, finder):
            rows.setdefault(case.name, Counter()).update(count_look(found, case.truth.at[number]))
    return [
        {
            "scene": name,
            "looks": n["looks"],
            "all found": _share(n["complete"], n["looks"]),
            "of several": _share(n["complete_several"], n["several"]),
            "weak": _share(n["weak"], n["looks"]),
            "boxes": n["boxes"],
            "phantoms": _share(n["phantoms"], n["boxes"]),
        }
        for name, n in _with_totals(rows, cases)
    ]


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _with_totals(rows: Mapping[str, Counter[str]], cases: Sequence[Case]) -> Iterator[tuple[str, Counter[str]]]:
    yield from rows.items()
    for total, made in (("MADE", True), ("REAL", False)):
        names = dict.fromkeys(case.name for case in cases if case.made == made and case.name in rows)
        if names:
            yield total, sum((rows[name] for name in names), Counter())


# --- clips --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """Frames of a clip whose truth is known: `frames` int [N] of the video, `of` int [N] of the clip, `own` [N, 4]."""

    clip: Clip
    frames: np.ndarray
    of: np.ndarray
    own: np.ndarray


def shown(clip: Clip, boxes: Any, times: np.ndarray, truth: Truth) -> Shown:
    """The box of a clip's own person in each of its frames that the truth knows.

    Args:
        boxes: `store.boxes(clip)`.
        times: int64 [frames], the PTS of the video's frames.
    """
    pts = clip.pts.array()
    numbers = np.searchsorted(times, pts)
    if not np.array_equal(times[numbers.clip(0, len(times) - 1)], pts):
        raise ValueError(f"clip {clip.id} has frames that {clip.path} lacks")
    own = np.asarray(boxes.at(pts, clip.time_base)[0], float)
    known = np.array([number in truth.at for number in numbers.tolist()], bool)
    return Shown(clip, numbers[known], np.flatnonzero(known), own[known])


def persons_of(part: Shown, truth: Truth) -> list[str | None]:
    """Whom the clip shows in each frame: whose box its own matches best, or None."""
    out: list[str | None] = []
    for frame, box in zip(part.frames.tolist(), part.own, strict=True):
        values = {person.id: _iou(box, person.box) for person in truth.at[frame]}
        best = max(values, key=lambda one: values[one], default=None)
        out.append(best if best is not None and values[best] >= SAME else None)
    return out


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return overlap(as_box(a), as_box(b)) if np.isfinite(a).all() else 0.0


def followed(part: Shown, truth: Truth, before: str | None = None) -> tuple[int, str | None]:
    """How often a clip changes its person, and whom it ends with.

    As in CLEAR MOT it stays with whom it has as long as their boxes match at all: two who cross are no switch.
    """
    switches = 0
    for frame, box, best in zip(part.frames.tolist(), part.own, persons_of(part, truth), strict=True):
        stays = any(person.id == before and _iou(box, person.box) >= SAME for person in truth.at[frame])
        if best is not None and not stays:
            switches += before is not None
            before = best
    return switches, before


def count_clips(parts: Sequence[Shown], truth: Truth) -> Counter[str]:
    """What one video adds: pairs, kept, clips, switches in_clip and in_person (between clips of a name), split.

    `split` is how many names of persons there are for the same person beyond the first.
    """
    counts, held, names = Counter(clips=len(parts)), set(), set()
    for part in parts:
        counts["in_clip"] += followed(part, truth)[0]
        shows = persons_of(part, truth)
        held |= set(zip(part.frames.tolist(), shows, strict=True))
        names |= {(whom, part.clip.person) for whom, _ in Counter(filter(None, shows)).most_common(1)}
    counts["split"] = len(names) - len({whom for whom, _ in names})
    for name in sorted({part.clip.person for part in parts}):
        of_name = sorted((p for p in parts if p.clip.person == name), key=lambda p: p.clip.pts[0])
        last: str | None = None
        for part in of_name:
            switches, last = followed(part, truth, last)
            counts["in_person"] += switches - followed(part, truth)[0]
    for frame, persons in truth.at.items():
        for person in persons:
            if person.shown == "all" and person.height >= LEAST:
                counts["pairs"] += 1
                counts["kept"] += (frame, person.id) in held
    return counts


def built(cases: Sequence[Case], folder: Path, finder: str, persons: str, layers: Mapping[str, str]) -> Store:
    """A new store of all videos. Rooms are alike in made scenes: only equal bytes are duplicates."""
    shutil.rmtree(folder, ignore_errors=True)
    policy = Policy(duplicates="bytes", persons=persons)
    paths = [str(case.path) for case in cases]
    build(paths, str(folder), policy=policy, finder=finder, layers=layers, workers=0)
    return open_store(str(folder))


def clips(cases: Sequence[Case], store: Store) -> list[dict[str, Any]]:
    rows: dict[str, Counter[str]] = {}
    for case, parts in _parts(cases, store):
        rows.setdefault(case.name, Counter()).update(count_clips(parts, case.truth))
    return [
        {
            "scene": name,
            "pairs": n["pairs"],
            "kept": _share(n["kept"], n["pairs"]),
            "clips": n["clips"],
            "switches in a clip": n["in_clip"],
            "switches in a person": n["in_person"],
            "split": n["split"],
        }
        for name, n in _with_totals(rows, cases)
    ]


def _parts(cases: Sequence[Case], store: Store) -> Iterator[tuple[Case, list[Shown]]]:
    for case in cases:
        times = np.array([stamp for stamp, _ in media.read(case.path, size=(16, 16))], np.int64)
        of_video = [clip for clip in store.clips if Path(clip.path).resolve() == case.path.resolve()]
        yield case, [shown(clip, store.boxes(clip), times, case.truth) for clip in of_video]


_COLOURS = ((255, 60, 60), (60, 220, 60), (80, 120, 255), (255, 210, 0), (255, 80, 255), (0, 230, 230))


def sheets(cases: Sequence[Case], store: Store, folder: Path, count: int = 12) -> None:
    """For each video a picture of frames with the own boxes of its clips, a colour a clip, in white what is true."""
    folder.mkdir(parents=True, exist_ok=True)
    for case, parts in _parts(cases, store):
        numbers = sorted(case.truth.at)[:: max(1, len(case.truth.at) // count)][:count]
        width = 480
        height = round(width * case.truth.size[1] / case.truth.size[0])
        scale, tiles = width / case.truth.size[0], []
        for number, (_, picture) in enumerate(media.read(case.path, size=(height, width))):
            if number in numbers:
                _outlined(picture, number, parts, case.truth, scale)
                tiles.append(picture)
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 4)
        rows = [np.hstack(tiles[first : first + 4]) for first in range(0, len(tiles), 4)]
        cv2.imwrite(str(folder / f"{case.path.stem}-{case.name}.png"), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))


def _outlined(picture: np.ndarray, number: int, parts: Sequence[Shown], truth: Truth, scale: float) -> None:
    boxes = [(person.box, (255, 255, 255), person.id, 1) for person in truth.at[number]]
    for rank, part in enumerate(parts):
        own = part.own[part.frames == number]
        boxes += [(box, _COLOURS[rank % len(_COLOURS)], part.clip.id[-6:], 2) for box in own if np.isfinite(box).all()]
    for box, colour, text, thick in boxes:
        x0, y0, x1, y1 = np.rint(box * scale).astype(int).tolist()
        cv2.rectangle(picture, (x0, y0), (x1, y1), colour, thick)
        cv2.putText(picture, text, (x0, y0 - 3 if thick == 1 else y1 + 11), cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1)
    cv2.putText(picture, str(number), (3, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1)


# --- pose ---------------------------------------------------------------------------------------------------


def whose_pose(points: np.ndarray, own: str, people: Sequence[Seen]) -> str:
    """Whom a pose float [25, 3] in source pixels lies on: ``own``, ``other``, ``off`` (nobody), ``none`` (no pose).

    On somebody in whose box, 10 % larger to each side, four fifths of the joints are; of several the one whose joints
    are nearest.
    """
    joints = points[points[:, 2] > 0, :2]
    if not len(joints):
        return "none"
    on = [person for person in people if _inside(joints, person.box) >= 0.8]
    nearest = min(on, key=lambda person: apart(points, person), default=None)
    return "off" if nearest is None else "own" if nearest.id == own else "other"


def _inside(joints: np.ndarray, box: np.ndarray) -> float:
    room = 0.1 * (box[2:] - box[:2])
    return float(((joints >= box[:2] - room) & (joints <= box[2:] + room)).all(1).mean())


def apart(points: np.ndarray, person: Seen) -> float:
    """Median distance of the joints that both have, as a share of the person's height; inf where none is in both."""
    if person.keypoints is None:
        raise ValueError(f"the joints of {person.id} are not known")
    both = (points[:, 2] > 0) & (person.keypoints[:, 2] > 0)
    distances = np.hypot(*(points[both, :2] - person.keypoints[both, :2]).T)
    return float(np.median(distances) / person.height) if both.any() else np.inf


def count_poses(part: Shown, keypoints: np.ndarray, size: tuple[int, int], truth: Truth) -> Counter[str]:
    """What one clip adds: frames in which its person is wholly visible, by `whose_pose`; and those that are exact.

    Args:
        keypoints: float32 [T, 25, 3] of the clip, in pixels of its frames of height and width `size`.
    """
    x, y, wide, tall = part.clip.crop
    counts: Counter[str] = Counter()
    for frame, number, own in zip(part.frames.tolist(), part.of.tolist(), persons_of(part, truth), strict=True):
        everybody = truth.at[frame]
        of_her = [p for p in everybody if p.id == own and p.shown == "all" and p.height >= LEAST]
        if of_her:
            points = keypoints[number] * np.array([wide / size[1], tall / size[0], 1.0])
            points[:, :2] += np.where(points[:, 2:] > 0, (x, y), 0)
            counts[whose_pose(points, own, everybody)] += 1
            counts["exact"] += apart(points, of_her[0]) < NEAR
    return counts


def poses(cases: Sequence[Case], store: Store) -> list[dict[str, Any]]:
    made, rows = [case for case in cases if case.made], {}
    folder = layer_folder("pose", store.snapshot("main").layers["pose"])
    for case, parts in _parts(made, store):
        for part in parts:
            keypoints = store.read_arrays(folder, "pose", part.clip, ["keypoints"])["keypoints"]
            rows.setdefault(case.name, Counter()).update(count_poses(part, keypoints, store.size, case.truth))
    kinds = ("own", "other", "off", "none", "exact")
    totals = [(name, sum(n[kind] for kind in kinds[:-1]), n) for name, n in _with_totals(rows, made)]
    return [{"scene": name, "frames": all_, **{k: _share(n[k], all_) for k in kinds}} for name, all_, n in totals]


# --- time ---------------------------------------------------------------------------------------------------

_BEFORE = {"blazepose": None}  # `persons` of the policy by the finder: as in stores from before; others look for all


def times(folder: Path, finders: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """CPU seconds of `looking` in this process, the least of `rounds`."""
    cv2.setNumThreads(1)
    rows = []
    for count in (1, 3):
        path = _crowd(folder, count)
        spent: dict[str, list[float]] = {finder: [] for finder in dict.fromkeys(("blazepose", *finders))}
        for _, finder in itertools.product(range(rounds + 1), spent):  # the first round loads what is needed
            spent[finder].append(_seconds(path, finder))
        least = {finder: min(values[1:]) for finder, values in spent.items()}
        ratios = {f"{f} / blazepose": value / least["blazepose"] for f, value in least.items() if f != "blazepose"}
        rows.append({"scene": path.stem, **{f"{f} s": value for f, value in least.items()}, **ratios})
    return rows


def _crowd(folder: Path, count: int) -> Path:
    """8 seconds of 1080p with persons next to each other, up to 330 pixels high."""
    path = folder / f"crowd-{count}.mp4"
    if not path.exists():
        stage = made_scenes.Stage(np.random.default_rng(count), (1920, 1080), 8.0)
        for place in range(count):
            stage.actor(280, 330).x += ((place + 0.5) / count - 0.5) * 0.8 * stage.size[0]
        made_scenes.write(folder, "crowd", count, stage.plan())
    return path


def _seconds(path: Path, finder: str) -> float:
    fingerprint = people.open_finder(finder).fingerprint() if finder != "blazepose" else None
    policy = Policy(persons=_BEFORE.get(finder, "all"), finder=fingerprint)
    started = time.process_time()
    for _ in looking(Input(str(path)).to_json(), policy.to_json(), finder if fingerprint else None):
        pass
    return time.process_time() - started


# --- all together -------------------------------------------------------------------------------------------


def made_cases(folder: Path, names: Iterable[str], seeds: Iterable[int]) -> Iterator[Case]:
    """The scenes, drawn where they are not there yet."""
    for name, seed in itertools.product(names, seeds):
        path = folder / f"{name}-{seed}.mp4"
        if not path.with_suffix(".json").exists():
            made_scenes.write(folder, name, seed)
        yield Case(name, path, made_scenes.read_truth(path.with_suffix(".json")), True)


def real_cases(material: Path) -> Iterator[Case]:
    """The clips with a truth drawn by hand; `material` is the folder where their packages were unpacked.

    Raises:
        ValueError: a video is not there, or another.
    """
    for path in sorted((Path(__file__).resolve().parent / "truth").glob("*.json")):
        plain = json.loads(path.read_text())
        if "at" not in plain:
            continue  # labels.json: what is worn, not who is where
        truth = made_scenes.read_truth(path)
        video = material / truth.video
        if not video.is_file() or file_sha256(video) != plain["sha256"]:
            raise ValueError(f"{video} is not the video out of {plain['package']}: see benchmarks/truth/README.md")
        yield Case(path.stem, video, truth, False)


def printed(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    print(f"\n{title}")
    if not rows:
        return
    names = list(rows[0])
    print(f"{names[0]:<24}" + "".join(f"{name:>22}" for name in names[1:]))
    for row in rows:
        print(f"{row[names[0]]:<24}" + "".join(f"{_cell(row[name]):>22}" for name in names[1:]), flush=True)


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


MEASURES = ("looks", "clips", "pose", "time")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path, help="where scenes and stores go")
    options.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES))
    options.add_argument("--finders", nargs="+", default=["blazepose", "ssd"])
    options.add_argument("--seeds", type=int, nargs="+", default=[made_scenes.REPORTED, made_scenes.REPORTED + 1])
    options.add_argument("--only", nargs="*", choices=list(made_scenes.SCENES), default=list(made_scenes.SCENES))
    options.add_argument("--persons", choices=("all", "main"), default="all")
    options.add_argument("--material", type=Path, help="unpacked packages of real clips, see benchmarks/truth")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--sheets", action="store_true", help="with clips: pictures of them in FOLDER/sheets-FINDER")
    options.add_argument("--json", type=Path)
    args = options.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    cases = list(made_cases(args.folder, args.only, args.seeds))
    cases += list(real_cases(args.material)) if args.material else []
    tables: dict[str, list[dict[str, Any]]] = {}
    for finder in args.finders:
        if "looks" in args.measures:
            tables[f"looks, {finder}"] = looks(cases, finder)
            printed(f"looks, {finder}", tables[f"looks, {finder}"])
        if {"clips", "pose"} & set(args.measures):
            layers = {"pose": DEFAULTS["pose"]} if "pose" in args.measures else {}
            store = built(cases, args.folder / f"store-{finder}", finder, args.persons, layers)
            if args.sheets:
                sheets(cases, store, args.folder / f"sheets-{finder}")
            for measure, count in (("clips", clips), ("pose", poses)):
                if measure in args.measures:
                    tables[f"{measure}, {finder}"] = count(cases, store)
                    printed(f"{measure}, {finder}", tables[f"{measure}, {finder}"])
    if "time" in args.measures:
        tables["time"] = times(args.folder, args.finders, args.rounds)
        printed("time", tables["time"])
    if args.json:
        args.json.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
