"""Where the files of a clip are, and which of them belongs to which frame."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from remot_data import media
from remot_data.errors import RemotError
from remot_data.media import sandbox
from remot_data.media.identity import stamp
from remot_data.records import Clip, Record
from remot_data.store import Store, StoreError

# Form of the files -> kind of layer, and how the files end.
FORMS = {
    "openpose": ("pose", ".json"),
    "labels": ("parsing", ".png"),
    "flo-backward": ("flow", ".flo"),
    "flo-forward": ("flow", ".flo"),
}

Place = tuple[str, str]


class Unusable(RemotError, ValueError):
    """Files that no layer of a clip can be made from; the sentence is recorded as the reason."""


class Misfit(Unusable):
    """Files that were made of other frames than those of the video, as far as it shows."""


@dataclass(frozen=True)
class Numbering(Record):
    """What is known of the numbers in the names of the files of a video.

    Attributes:
        first: number of the first frame, 0 or 1; None where the numbers show it.
        fps: frames a second of what the files were made from; None where each is of one frame of the video.
        missing: ``none`` where nobody is in the frames after the last file, ``refuse`` where it is to be taken for a
            sign that the files are of something else.
    """

    first: int | None = None
    fps: float | None = None
    missing: str = "refuse"

    def __post_init__(self) -> None:
        if self.first not in (None, 0, 1):
            raise StoreError(f"the first frame is number 0 or 1 in the names of files, not {self.first}")
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise StoreError(f"the frame rate of the files is a number above 0, not {self.fps}")
        if self.missing not in ("refuse", "none"):
            raise StoreError(f"missing files at the end are 'refuse' or 'none', not {self.missing!r}")


def find_places(
    store: Store, folder: str | os.PathLike[str] | Mapping[str, str], form: str
) -> tuple[dict[str, Place], dict[str, str]]:
    """By clip the folder of its files and how their names begin; and the clips without one, with the reason.

    Raises:
        StoreError: if two sources would take the same files.
    """
    found: dict[str, Place] = {}
    lost: dict[str, str] = {}
    taken: dict[Place, str] = {}
    by_source: dict[tuple[str, str, str], Place | str] = {}
    sources = {clip.path for clip in store.planned}
    for clip in store.planned:
        key = (clip.path, clip.split, clip.person)
        if key not in by_source:
            by_source[key] = _place(clip, folder, form, len(sources) == 1)
        place = by_source[key]
        if isinstance(place, str):
            lost[clip.id] = place
            continue
        if taken.setdefault(place, clip.path) != clip.path:
            raise StoreError(
                f"{clip.path} and {taken[place]} would both take the files of {place[0]}; give the folder of each "
                "source by a pattern such as FOLDER/{split}/{stem}, or by a manifest"
            )
        found[clip.id] = place
    return found, lost


def _place(clip: Clip, folder: str | os.PathLike[str] | Mapping[str, str], form: str, only: bool) -> Place | str:
    """The folder and the beginning of the names of a clip's files, or why there is none."""
    if isinstance(folder, Mapping):
        if clip.path not in folder:
            return f"the manifest, with this root, does not name its source {clip.path}"
        return _existing(folder[clip.path])
    base, parts = os.fspath(folder), Path(clip.path).parts
    if "{" in base:
        fields = {"stem": Path(clip.path).stem, "split": clip.split, "person": clip.person, "video": clip.video}
        try:
            return _existing(base.format(**fields))
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise StoreError(f"{base} uses the field {error}; there are {', '.join(fields)}") from None
    stem = Path(clip.path).stem
    for name in dict.fromkeys((parts[-1] if parts else clip.video, stem)):
        for start in range(max(1, len(parts) - 5), len(parts)):
            inside = os.path.join(base, *parts[start:-1], name)
            if os.path.isdir(inside):
                return inside, ""
    names = _names(base, FORMS[form][1])
    if any(_rest(name, stem) is not None for name in names):
        return base, stem
    if only and names:
        return base, ""
    return f"{base} has neither a folder {stem} nor files {stem}_NUMBER{FORMS[form][1]}"


def _existing(folder: str) -> Place | str:
    return (folder, "") if os.path.isdir(folder) else f"there is no folder {folder}"


@lru_cache(maxsize=8)
def _names(folder: str, suffix: str) -> tuple[str, ...]:
    """Names of the files of a form in a folder, sorted."""
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted(e.name for e in entries if e.name.lower().endswith(suffix) and e.is_file()))
    except OSError:
        return ()


def look_anew() -> None:
    """Forget the listings: a process that lives on must see files that came since."""
    for cached in (_names, _picture_names):
        cached.cache_clear()
    _unreadable.clear()


def _plain(name: str) -> str:
    """The name of a file without what OpenPose and the extension add to that of the frame."""
    return os.path.splitext(name)[0].removesuffix("_keypoints")


def _rest(name: str, stem: str) -> str | None:
    """The number in a name that is `stem` and a number, or None."""
    match = re.fullmatch(re.escape(stem) + r"[-_. ]?(\d+)", _plain(name))
    return match and match[1]


def clip_files(clip: Clip, place: Sequence[str], form: str, numbering: Numbering) -> list[str | None]:
    """The files that are read for a clip, one a frame (the first frame of a flow has none); None: it has no file.

    Raises:
        Misfit: if the files are of other frames than those of the video.
        Unusable: where one is missing that has to be there, or if it cannot be told which belongs to which frame.
        VideoError: a source folder that holds no pictures any more.
    """
    files = _frame_files(clip, place, form, numbering)
    if form == "openpose":
        if not any(files):
            raise Unusable("not one of its frames has a file")
        return files
    needed = {"labels": files, "flo-backward": files[1:], "flo-forward": files[:-1]}[form]
    if None in needed:
        frame = needed.index(None) + (form == "flo-backward")
        there = next((os.path.dirname(p) for p in files if p), "")
        raise Unusable(
            f"{needed.count(None)} of {len(needed)} files are missing in {there or 'its folder'}, "
            f"the first for frame {frame} (PTS {clip.pts[frame]})"
        )
    if form.startswith("flo-"):
        numbers = clip.pts.array() if os.path.isdir(clip.path) else _frame_numbers(clip)[0]
        gaps = np.flatnonzero(np.diff(numbers) != 1)
        if len(gaps):
            raise Unusable(
                f"its frames {gaps[0]} and {gaps[0] + 1} are frames {numbers[gaps[0]]} and {numbers[gaps[0] + 1]} of "
                "the video, and flow reaches to the next one only; build the store without --fps"
            )
    return needed


def _frame_files(clip: Clip, place: Sequence[str], form: str, numbering: Numbering) -> list[str | None]:
    """The path of the file for each frame of a clip, or None where there is none."""
    folder, stem = place
    names = [n for n in _names(folder, FORMS[form][1]) if not stem or _rest(n, stem) is not None]
    if not names:
        raise Unusable(f"there is no {FORMS[form][1]} file in {folder}")
    if os.path.isdir(clip.path):
        found = _files_of_pictures(clip, names, folder, numbering)
    else:
        by_number = _numbered(names, folder)
        wanted = _files_of_times(clip, by_number, folder, form, numbering)
        found = [by_number.get(number) for number in wanted]
    return [name and os.path.join(folder, name) for name in found]


def _files_of_pictures(clip: Clip, names: Sequence[str], folder: str, numbering: Numbering) -> list[str | None]:
    """By the names of the pictures of a source folder; where no file has one, by the numbers at their ends."""
    if numbering.fps is not None:
        raise Unusable(f"{clip.path} is a folder of pictures, which have no times: --fps of the files is for videos")
    pictures = _picture_names(clip.path)
    if clip.pts[-1] >= len(pictures):
        raise Unusable(f"{clip.path} has fewer pictures than when the store was built")
    plain = [os.path.splitext(name)[0] for name in pictures]
    by_name = {_plain(name): name for name in names}
    if any(plain[pts] in by_name for pts in clip.pts):
        return [by_name.get(plain[pts]) for pts in clip.pts]
    by_number = _numbered(names, folder)
    numbers = [_number(name) for name in plain]
    _check_numbers(by_number, (min(numbers), max(numbers)), max(numbers), folder, numbering)
    return [by_number.get(numbers[pts]) for pts in clip.pts]


def _files_of_times(
    clip: Clip, by_number: Mapping[int, str], folder: str, form: str, numbering: Numbering
) -> list[int]:
    """The number of the file for each frame of a clip of a video."""
    numbers, seconds = _frame_numbers(clip)
    count, lasts = len(seconds), float(seconds[-1])
    if numbering.fps is None:
        start = _first(by_number, count, folder) if numbering.first is None else numbering.first
        last = start + count - 1
        rate = (count - 1) / lasts if lasts else None
        _check_numbers(by_number, (start, last), last - (form == "flo-forward"), folder, numbering, rate)
        return (numbers + start).tolist()
    if form.startswith("flo-"):
        raise Unusable("flow leads from frame to frame, and cannot be taken from files of another frame rate")
    start = numbering.first if numbering.first is not None else int(0 not in by_number)
    end = start + lasts * numbering.fps
    # The last frame lasts too, and whoever made the files may have rounded the duration either way.
    most = end + lasts / max(count - 1, 1) * numbering.fps
    _check_numbers(by_number, (start, math.ceil(most - 1e-6)), end - 1, folder, numbering)
    files = start + np.round(seconds[numbers] * numbering.fps).astype(int)
    return (np.minimum(files, max(by_number)) if max(by_number) >= end - 1 else files).tolist()


def _check_numbers(
    by_number: Mapping[int, str],
    span: tuple[int, int],
    needed: float,
    folder: str,
    numbering: Numbering,
    rate: float | None = None,
) -> None:
    """Whether the numbers of files are those of the frames of a video.

    Args:
        span: the first and the last number that a frame has.
        needed: the least that the number of the last file may be.
        rate: frames a second of the video, to say which other rate would fit.

    Raises:
        Misfit: if there are files for other frames, or if there is none for the last.
    """
    low, high = min(by_number), max(by_number)
    surplus = low < span[0] or high > span[1]
    if not surplus and (high >= needed or numbering.missing == "none"):
        return
    cures = []
    if rate:
        fitting = rate * (high - span[0]) / max(span[1] - span[0], 1)
        cures.append(f"if they were made at another frame rate, say it (--fps {fitting:.4g} would fit)")
    if not surplus:
        cures.append("if nobody is in the frames after the last file, say --missing none")
    told = f"the files of {folder} have numbers from {low} to {high}, the frames {span[0]} to {span[1]}"
    raise Misfit("; ".join([told, *cures]))


@lru_cache(maxsize=4)
def _picture_names(folder: str) -> list[str]:
    return media.frame_names(folder)


def _number(name: str) -> int:
    digits = re.search(r"(\d+)$", name)
    return int(digits[1]) if digits else -1


def _numbered(names: Sequence[str], folder: str) -> dict[int, str]:
    found: dict[int, str] = {}
    for name in names:
        number = _number(_plain(name))
        if number >= 0 and found.setdefault(number, name) != name:
            raise Unusable(f"{found[number]} and {name} in {folder} have the same number")
    if not found:
        raise Unusable(f"the names of the files of {folder} end in no number")
    return found


def _first(numbers: Mapping[int, str], count: int, folder: str) -> int:
    """0 or 1: the number that the first of `count` frames has in the names of files."""
    if (0 in numbers) != (count in numbers) or max(numbers) > count:
        return 0 if 0 in numbers else 1
    span = f"{min(numbers)} to {max(numbers)}"
    raise Misfit(
        f"the files of {folder} have numbers from {span} and the video has {count} frames: "
        "say which number its first frame has (--first 0 or 1)"
    )


def _frame_numbers(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """The number of each frame of a clip in its source video, from 0, and the seconds of every frame of that."""
    if clip.path in _unreadable:
        raise Unusable(_unreadable[clip.path])
    try:
        every, times = _times(clip.path, stamp(clip.path)), clip.pts.array()
    except (media.VideoError, Unusable) as error:
        _unreadable[clip.path] = str(error)
        raise
    numbers = np.searchsorted(every, times)
    if numbers.max(initial=0) >= len(every) or (every[numbers] != times).any():
        raise Unusable(f"{clip.path} has other frames than when the store was built")
    return numbers, (every - every[0]) * (clip.time_base[0] / clip.time_base[1])


# Videos whose times cannot be read, and why: a reader that hangs costs a shard its time limit once.
_unreadable: dict[str, str] = {}


@lru_cache(maxsize=4)
def _times(path: str, seen: str) -> np.ndarray:
    """PTS of every frame of a video file with this stamp, int64, in order."""
    try:
        ((_, data),) = sandbox.call("remot_data.exchange.places:reading_times", {"path": path})
    except sandbox.ChildError as error:
        raise Unusable(f"{path} cannot be read for its times: {error}") from error
    return np.frombuffer(data, np.int64)


def reading_times(path: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """What the child does: the PTS of a video file."""
    yield {}, np.array(media.frames.all_times(path), np.int64)
