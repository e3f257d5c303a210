"""The corpus of odd and bad files: read one by one, and through a whole build."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from remot_data import media
from remot_data.ingest.build import Summary, build
from remot_data.ingest.policy import Policy
from remot_data.media import VideoError
from remot_data.store import Store, open_store
from tests import corpus
from tests.corpus import Case

# A person as small as the smallest picture holds, and clips as short as the shortest good file. All files show the
# same person, so only the same bytes are a duplicate.
POLICY = Policy(size=(128, 96), min_frames=6, min_height=48, duplicates="bytes", persons="main")


# --- the numbers in the pictures


@pytest.mark.parametrize("size", [(360, 640), (90, 160), (361, 641), (1080, 1920)])
def test_a_number_is_read_at_any_size_and_through_a_crop(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for number in range(32):
        base = rng.integers(60, 200, (*corpus.SIZE[::-1], 3), np.uint8)
        corpus.write_number(base, number)
        picture = _resized(base, size)
        assert corpus.read_number(picture, None, size) == number
        x, y, w, h = (v * size[0] / 360 for v in (60, 110, 225, 300))
        crop = (round(x), round(y), round(w), round(h))
        part = picture[crop[1] : crop[1] + crop[3], crop[0] : crop[0] + crop[2]]
        assert corpus.read_number(_resized(part, (96, 128)), crop, size) == number


def test_a_picture_without_a_number_has_none() -> None:
    for value in (0, 255):
        assert corpus.read_number(np.full((640, 360, 3), value, np.uint8)) is None
    assert corpus.read_number(np.zeros((20, 20, 3), np.uint8), (0, 0, 20, 20), (360, 640)) is None


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import cv2

    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


# --- file by file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corpus") / "files"


@pytest.fixture(scope="module")
def cases(folder: Path) -> list[Case]:
    return corpus.make(folder)


def _seen(path: Path, **options: object) -> tuple[list[int], list[int | None]] | str:
    """PTS and numbers of the frames that come, or the code of the error."""
    try:
        size = media.probe(path).size
        small = max(round(size[1] / size[0] * 120), 2), 120
        frames = list(media.read(path, size=small, **options))
    except VideoError as error:
        assert os.path.basename(os.fsencode(path)).decode(errors="replace")[:20] in error.detail or path.is_dir()
        return error.code
    return [pts for pts, _ in frames], [corpus.read_number(frame, None, size) for _, frame in frames]


def _wrong(case: Case, path: Path) -> Iterator[str]:
    found = _seen(path)
    if isinstance(found, str):
        if found not in case.codes or case.where not in ("read", "inputs"):
            yield f"refused as {found}, not {case.codes or 'at all'}"
        return
    pts, numbers = found
    if case.codes and case.where == "read" and not case.damaged:
        yield f"gives {len(pts)} frames, though it has to be refused as {case.codes}"
    if case.damaged:
        left = iter(case.numbers)
        if not all(number in left for number in numbers):
            yield f"gives {numbers}, not a part of {case.numbers}"
    elif case.numbers and numbers != list(case.numbers):
        yield f"gives {numbers}, not {case.numbers}"
    if not (np.diff(pts) > 0).all():
        yield f"its PTS do not increase: {pts}"
    for first in {len(pts) // 2, max(len(pts) - 3, 0)} if pts else ():
        span = {"start_pts": pts[first], "end_pts": pts[min(first + 3, len(pts) - 1)]}
        part = _seen(path, **span)
        if part != (pts[first : first + 3][: len(part[0])], numbers[first : first + 3][: len(part[0])]):
            yield f"reading from PTS {pts[first]} gives {part}"


@pytest.mark.slow
def test_every_good_file_gives_every_frame_and_every_bad_one_its_code(folder: Path, cases: list[Case]) -> None:
    assert len(cases) >= 80 and sum(bool(case.codes) for case in cases) >= 40
    wrong = {case.name: list(_wrong(case, folder / case.name)) for case in cases}
    assert {name: sentences for name, sentences in wrong.items() if sentences} == {}


@pytest.mark.slow
def test_damage_has_the_same_outcome_each_time(folder: Path, cases: list[Case]) -> None:
    damaged = [folder / case.name for case in cases if case.damaged]
    assert len(damaged) >= 8
    assert [_seen(path) for path in damaged] == [_seen(path) for path in damaged]


# --- a whole build


def build_inputs(folder: Path, cases: Sequence[Case], manifest: Path) -> list[Path]:
    """What to give to a build of the corpus below `folder`: folders of files, and of pictures in a manifest."""
    pictures = [case.name for case in cases if case.name.startswith("folders/")]
    entries = "".join(f"  - {{path: {name}, fps: 30}}\n" for name in pictures)
    manifest.write_text(f"root: {folder}\nvideos:\n{entries}")
    folders = sorted(p for p in folder.iterdir() if p.name != "folders" and not p.name.startswith("."))
    # In a folder an animation lies beside videos; by its own name it is one.
    return [manifest, *folders, *folder.rglob("*.gif")]


def check_build(summary: Summary, store: Store, cases: Sequence[Case], folder: Path) -> list[str]:
    """What is wrong with a build of the corpus below `folder`, a sentence each.

    Every file has to be kept whole, with the right picture at every PTS of its clips, or refused with its code.
    """
    clips, codes = defaultdict(list), defaultdict(set)
    for clip in store.clips:
        clips[clip.path].append(clip)
    for reject in summary.rejects:
        codes[reject["path"]].add(reject["code"])
    wrong = []
    for case in cases:
        path = os.fsencode(folder / case.name).decode("utf-8", "backslashreplace")
        kept, refused = clips.pop(path, []), codes.pop(path, set())
        wrong += [f"{case.name!a}: {sentence}" for sentence in _outcome(case, kept, refused, store, folder)]
    wrong += [f"{path!a} is none of the corpus" for path in (*clips, *codes)]
    frames = summary.frames
    if frames["decoded"] != frames["kept"] + frames["refused"] + frames["resampled"]:
        wrong.append(f"the sums of frames do not come out: {frames}")
    if frames["kept"] != sum(clip.frames for clip in store.clips) or summary.inputs != summary.videos + summary.refused:
        wrong.append(f"the sums of clips or inputs do not come out: {summary}")
    return wrong


def _outcome(case: Case, kept: list, refused: set[str], store: Store, folder: Path) -> Iterator[str]:
    if refused:
        if not refused <= set(case.codes):
            yield f"refused as {sorted(refused)}, not {case.codes or 'at all'}"
        if kept:
            yield f"kept {sum(c.frames for c in kept)} frames and refused as {sorted(refused)}"
        return
    if not kept:
        yield "neither kept nor refused"
        return
    if case.codes and not case.damaged and case.where != "inputs":
        yield f"kept, though it has to be refused as {case.codes}"
        return
    path = folder / case.name
    pts = [pts for pts, _ in media.read(path, size=(8, 8))]
    shown = dict(zip(pts, case.numbers if len(pts) == len(case.numbers) else _seen(path)[1], strict=True))
    if [p for clip in kept for p in clip.pts] != pts:
        yield f"kept {sum(c.frames for c in kept)} of {len(pts)} frames"
    for clip in kept:
        frames = store.read_arrays("frames", "frames", clip)["frames"]
        found = [corpus.read_number(frame, clip.crop, tuple(clip.source_size)) for frame in frames]
        if found != [shown[p] for p in clip.pts]:
            yield f"clip {clip.id} shows {found}"


@pytest.mark.slow
def test_a_build_of_the_corpus_keeps_what_is_good_and_names_what_is_bad(
    folder: Path, cases: list[Case], tmp_path: Path
) -> None:
    videos = build_inputs(folder, cases, tmp_path / "pictures.yaml")
    summary = build(videos, str(tmp_path / "store"), policy=POLICY, layers={}, workers=0)
    assert check_build(summary, open_store(summary.store), cases, folder) == []
