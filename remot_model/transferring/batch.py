"""Transfers between folders of sources and driving videos: in pairs, several at once, with a record to resume from."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from remot_data.ingest.inputs import InputError, find_inputs
from remot_data.media import VideoError, frame_names
from remot_data.media.pictures import is_picture
from remot_data.store.disk import write_whole
from remot_model.checkpoint import Run
from remot_model.transferring.request import CONTAINERS, Request, TransferError
from remot_model.transferring.transfer import Progress, Transfer, clearly, opened

PAIRINGS = ("all", "zip")
# Names of videos, where a folder holds other files too.
_VIDEOS = frozenset((
    *CONTAINERS, ".3g2", ".3gp", ".asf", ".avi", ".dv", ".flv", ".m2ts", ".m4v", ".mjpeg", ".mjpg", ".mpeg", ".mpg",
    ".mts", ".mxf", ".ogg", ".ogv", ".qt", ".rm", ".ts", ".vob", ".webm", ".wmv",
))  # fmt: skip

Result = tuple[str, dict[str, Any]]


def transfer_all(
    run: str | Path | Run,
    sources: str | Path,
    drivings: str | Path,
    out: str | Path,
    *,
    pairing: str = "all",
    parallel: int = 1,
    computed: Mapping[str, bool | str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> dict[str, Any]:
    """Transfer between folders of sources and driving videos: a video ``SOURCE--DRIVING.mp4`` a pair.

    A pair that fails does not stop the others. Called again, it resumes: pairs that are there, of the same files and
    options, are kept. ``OUT/transfers.json`` holds what was returned.

    Args:
        run: the run folder, with every stage trained, or an opened run.
        sources: a folder of images and videos, or one of them.
        drivings: a folder of videos, searched through as by `remot build`, or one of them; a folder of pictures is one
            video.
        out: the folder to write to.
        pairing: ``all``, every source with every driving video, or ``zip``, in the order of their names.
        parallel: pairs that are made at once, each as it would be alone; on a GPU that its networks do not fill.
        computed, device: as for `transfer`.
        progress: called with the frames done and their number, of the pair at work, or of all that began where they are
            made at once.
        say: called with a line about each pair when it is over.
        options: of `transfer`, but `stages`.

    Returns:
        `done`, `kept` and `failed` pairs, each a list of records with `source`, `driving`, `out`, and the summary of
        `transfer` or `error`, in the order of the pairs; and `passed_over`, files that are neither images nor videos.

    Raises:
        TransferError: if a folder holds nothing, the numbers do not match for ``zip``, or two pairs have one name.
    """
    if parallel < 1:
        raise TransferError(f"{parallel} pairs at once make nothing; give 1 or more")
    with clearly():
        run, place = opened(run, device, computed)
        pairs, passed_over = _pairs(Path(sources), Path(drivings), pairing)
        requests = _requests(pairs, Path(out), options)
        record = Path(out) / "transfers.json"
        made = _made_before(record)
        before = [made.get(str(request.out), {}) for request in requests]
        found: list[tuple[str, dict[str, Any]] | None] = [None] * len(requests)
        report: dict[str, Any] = {}
        for number, result in _all(run, requests, before, place, parallel, progress):
            found[number], (kind, told) = result, result
            say(f"{requests[number].out.name}: {kind}{': ' + told['error'] if 'error' in told else ''}")
            report = {name: [x[1] for x in found if x and x[0] == name] for name in ("done", "kept", "failed")}
            report["passed_over"] = passed_over
            # An interruption must not forget the pairs of an earlier call that were not looked at yet.
            waiting = [old for old, new in zip(before, found, strict=True) if old and not new]
            written = {**report, "kept": [*report["kept"], *waiting]}
            write_whole(record, (json.dumps(written, indent=1, ensure_ascii=False) + "\n").encode())
    return report


def is_folder_of_many(path: Path, videos_only: bool) -> bool:
    """Whether a path is a folder of inputs: for `videos_only`, one with videos (pictures alone are one video)."""
    return path.is_dir() and (not videos_only or bool(_videos(path)[0]))


def _listed(folder: Path, videos_only: bool) -> tuple[list[Path], list[str]]:
    """The files of a folder that serve, by name, and the names of those that do not."""
    if videos_only:
        return _videos(folder)
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    serve = [p for p in files if p.suffix.lower() in _VIDEOS or is_picture(p)]
    return serve, [path.name for path in files if path not in serve]


def _videos(folder: Path) -> tuple[list[Path], list[str]]:
    """What `remot build` would take of a folder, and the names of its other files.

    Where pictures lie in the folder, only what has a video's name: they are one video, with something beside them.
    """
    try:
        found, _ = find_inputs(folder)
    except InputError:
        found = []
    inside = [folder / os.path.relpath(item.path, os.path.abspath(folder)) for item in found if not item.refused]
    taken = [path for path in inside if not is_picture(path)]
    try:
        is_video = bool(frame_names(folder))
    except VideoError:
        is_video = False
    if is_video:
        taken = [path for path in taken if path.suffix.lower() in _VIDEOS]
    others = sorted(p.name for p in folder.iterdir() if not p.is_dir() and not p.name.startswith("."))
    return taken, [name for name in others if folder / name not in taken]


def _pairs(sources: Path, drivings: Path, pairing: str) -> tuple[list[tuple[Path, Path]], list[str]]:
    if pairing not in PAIRINGS:
        raise TransferError(f"there is no pairing {pairing!r}; there are {', '.join(PAIRINGS)}")
    found, passed_over = [], []
    for path, videos_only in ((sources, False), (drivings, True)):
        serve = [path]
        if is_folder_of_many(path, videos_only):
            serve, others = _listed(path, videos_only)
            passed_over += others
        if not serve:
            raise TransferError(f"the folder {path} holds no image and no video")
        found.append(serve)
    if pairing == "all":
        return [(source, driving) for driving in found[1] for source in found[0]], passed_over
    if len(found[0]) != len(found[1]):
        raise TransferError(
            f"{len(found[0])} sources and {len(found[1])} driving videos make no pairs; give as many, or pair all"
        )
    return list(zip(*found, strict=True)), passed_over


def _requests(pairs: Sequence[tuple[Path, Path]], out: Path, options: Mapping[str, Any]) -> list[Request]:
    if out.suffix.lower() in CONTAINERS or out.is_file():
        raise TransferError(f"{out} would be one file for {len(pairs)} pairs; name a folder")
    plain: dict[str, Any] = {n: tuple(value) if n in ("show", "save") else value for n, value in options.items()}
    requests: dict[Path, Request] = {}
    for source, driving in pairs:
        path = out / f"{source.stem}--{driving.stem}.mp4"
        if path in requests:
            raise TransferError(f"{requests[path].source} and {source} would both be written to {path}; rename one")
        requests[path] = Request(source, driving, path, **plain)
    return list(requests.values())


def _made_before(record: Path) -> dict[str, dict[str, Any]]:
    """Output -> record of the pairs that an earlier call made."""
    try:
        report = json.loads(record.read_text(encoding="utf-8"))
        return {pair["out"]: pair for pair in (*report["done"], *report["kept"])}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise TransferError(f"{record} is damaged ({error}); remove it to make every pair anew") from error


def _all(
    run: Run,
    requests: Sequence[Request],
    before: Sequence[Mapping[str, Any]],
    place: str,
    parallel: int,
    progress: Progress | None,
) -> Iterator[tuple[int, Result]]:
    """The number of each pair and what `_one` gives for it, as they end."""
    if min(parallel, len(requests)) == 1:
        for number, (request, old) in enumerate(zip(requests, before, strict=True)):
            yield number, _one(run, request, place, old, progress)
        return
    _ = run.networks  # made once, before threads ask for them
    stop, frames = threading.Event(), _Sum(progress)
    with ThreadPoolExecutor(parallel, "remot-pair") as pool:
        futures = {
            pool.submit(_one, run, request, place, old, frames.part(number), parallel, stop): number
            for number, (request, old) in enumerate(zip(requests, before, strict=True))
        }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:  # at the end there is nothing left to stop
            stop.set()
            pool.shutdown(cancel_futures=True)


def _one(
    run: Run,
    request: Request,
    place: str,
    before: Mapping[str, Any],
    progress: Progress | None,
    parallel: int = 1,
    stop: threading.Event | None = None,
) -> Result:
    """A pair of a folder: ``done``, ``kept`` or ``failed``, and its record."""
    told = {name: str(getattr(request, name)) for name in ("source", "driving", "out")}
    try:
        with clearly():
            one = Transfer(run, request, place, parallel, stop)
            if before.get("job") == one.job_digest and all(output.path.exists() for output in one.outputs):
                return "kept", dict(before)
            return "done", {**told, **one.make(progress)}
    except TransferError as error:
        return "failed", {**told, "error": str(error)}


class _Sum:
    """The progress of several at once as one."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._lock = progress, threading.Lock()
        self._parts: dict[int, tuple[int, int]] = {}

    def part(self, number: int) -> Progress:
        def report(done: int, total: int) -> None:
            with self._lock:
                self._parts[number] = done, total
                if self._progress:
                    self._progress(*map(sum, zip(*self._parts.values(), strict=True)))

        return report
