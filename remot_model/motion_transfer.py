"""One source image, any driving video, one result: the person of the image moves as the person of the video does.

Memory does not grow with the length of the video, every frame comes out, and what was interrupted goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import cv2
import numpy as np
import torch

from remot_data import media
from remot_data.assets import AssetError
from remot_data.detectors.base import DetectorError, file_sha256
from remot_data.records import digest
from remot_data.schemas import REGIONS, SchemaError
from remot_data.store.files import FilesError
from remot_model import devices
from remot_model.checkpoint import CheckpointError, Run, load_run, write_atomically
from remot_model.inference import Runner
from remot_model.metrics import versions
from remot_model.transfer_files import Output, Work
from remot_model.transfer_inputs import (
    Driving,
    Eyes,
    Piece,
    Source,
    TransferError,
    dressed,
    find_background,
    find_driving,
    find_source,
    has_hands,
    load_eyes,
    read_pieces,
)
from remot_model.transfer_threads import Behind, ahead, mapped
from remot_model.transfer_views import Made, Renderer, check_views

__all__ = ["TransferError", "transfer", "transfer_all"]

log = logging.getLogger(__name__)

GAMS = ("paper", "steady")
PAIRINGS = ("all", "zip")
STAGES = ("driving", "pose", "layout", "aligned", "regions", "coarse", "result")
_CONTAINERS = (".mp4", ".mkv", ".mov")
_VIDEOS = (*_CONTAINERS, ".avi", ".m4v", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv")

# Pieces that a pose detector on the CPU looks at at once, where the networks are on a GPU and wait for it.
_MOST_EYES = 4

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Request:
    """One transfer that is asked for; the fields are the arguments of `transfer`."""

    source: Path
    driving: Path
    out: Path
    background: str = "source"
    show: tuple[str, ...] = ("result",)
    save: tuple[str, ...] = ()
    png: bool = False
    stages: Path | None = None
    gam: str = "paper"
    regions: Mapping[str, str] = field(default_factory=dict)
    scale: int = 1
    start: float | None = None
    end: float | None = None
    pose: str = "blazepose"
    parsing: str = "pose-guided"


def transfer(
    run: str | Path | Run,
    source: str | Path,
    driving: str | Path,
    out: str | Path,
    *,
    background: str | Path = "source",
    show: Sequence[str] = ("result",),
    save: Sequence[str] = (),
    png: bool = False,
    stages: str | Path | None = None,
    gam: str = "paper",
    regions: Mapping[str, str | Path] | None = None,
    scale: int = 1,
    start: float | None = None,
    end: float | None = None,
    pose: str = "blazepose",
    parsing: str = "pose-guided",
    computed: Mapping[str, bool | str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a video of the source person doing what the driving person does.

    The picture is the driving person's crop, 3:4 or whatever the run's size is, at the run's size times `scale`.
    Rate, number of frames and sound are those of the driving video. A transfer that is interrupted leaves a work
    folder beside `out`; the same call goes on behind its last whole segment and gives the same frames.

    The driving video is read and looked at ahead of the networks, and the result encoded behind them, by threads.

    Args:
        run: the run folder, with every stage trained, or an opened run.
        source: an image, or a video whose first frame is taken.
        driving: a video, or a folder of its frames.
        out: the video to write, ``.mp4``, ``.mkv`` or ``.mov``.
        background: ``source`` (the source picture without its person, inpainted), ``driving`` (what the driving
            video shows beside its person), ``black``, or an image file.
        show: what `out` shows side by side, of `remot_model.transfer_views.VIEWS`; if it is more than the result, at
            least 256 pixels high.
        save: views to write beside `out`, each as a video of its own at the run's size, ``OUT.layout.mp4``, ...
        png: write those as folders of PNG instead, ``OUT.layout/000000.png``, ...
        stages: a second video, of pose, layout, aligned source, regions and result.
        gam: ``paper``, or ``steady``: by joints and smoothed, see `remot_model.alignment.Steady`.
        regions: region (top, bottom, head, limbs, shoes) -> another source to take it from.
        scale: the result is enlarged so many times, bicubic.
        start, end: seconds of the driving video.
        pose, parsing: detectors, as `remot_data.detectors.base.load` names them; those the run was trained on fit best.
        computed: fields of the run's configuration to change, see `remot_model.checkpoint.load_run`; not for an opened
            run.
        device: ``cpu``, ``cuda``, ... or ``auto``, which takes CUDA where there is one. An opened run has to be there.
        progress: called with the frames done and their number.

    Returns:
        What was done: `out`, `saved`, `frames`, `resumed` (frames that were there from an interrupted transfer), `fps`,
        `size`, `crop`, `shots`, `frames_without_pose`, `sound`, `background`, `gam`, `job` (a digest of all that the
        result depends on), `seconds`, `frames_per_second` and `notes`, sentences on what may be unexpected.

    Raises:
        TransferError: for files that cannot be read, pictures without a person, a run that lacks a stage, or detectors
            that do not fit. Nothing is left behind then.
    """
    request = Request(
        Path(source),
        Path(driving),
        Path(out),
        str(background),
        tuple(show),
        tuple(save),
        png,
        None if stages is None else Path(stages),
        gam,
        {name: str(path) for name, path in (regions or {}).items()},
        scale,
        start,
        end,
        pose,
        parsing,
    )
    with _clearly():
        run, place = _opened(run, device, computed)
        return _Transfer(run, request, place).make(progress)


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

    A pair that fails does not stop the others. Called again, it goes on: pairs that are there, of the same files and
    options, are kept. ``OUT/transfers.json`` holds what was returned.

    Args:
        run: the run folder, with every stage trained, or an opened run.
        sources: a folder of images and videos, or one of them.
        drivings: a folder of videos, or one of them; a folder of pictures alone is one video.
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
    with _clearly():
        run, place = _opened(run, device, computed)
        pairs, passed_over = _pairs(Path(sources), Path(drivings), pairing)
        requests = _requests(pairs, Path(out), options)
        record = Path(out) / "transfers.json"
        made = _made_before(record)
        before = [made.get(str(request.out), {}) for request in requests]
        found: list[tuple[str, dict[str, Any]] | None] = [None] * len(requests)
        report = {}
        for number, result in _all(run, requests, before, place, parallel, progress):
            found[number], (kind, told) = result, result
            say(f"{requests[number].out.name}: {kind}{': ' + told['error'] if 'error' in told else ''}")
            report = {name: [x[1] for x in found if x and x[0] == name] for name in ("done", "kept", "failed")}
            report["passed_over"] = passed_over
            # An interruption must not forget the pairs of an earlier call that were not looked at yet.
            waiting = [old for old, new in zip(before, found, strict=True) if old and not new]
            written = {**report, "kept": [*report["kept"], *waiting]}
            write_atomically(record, (json.dumps(written, indent=1, ensure_ascii=False) + "\n").encode())
    return report


def _opened(run: str | Path | Run, device: str, computed: Mapping[str, bool | str] | None) -> tuple[Run, str]:
    """The run and where it is."""
    place = str(devices.pick(device))
    if not isinstance(run, Run):
        return load_run(run, place, computed), place
    if computed:
        raise TransferError("an opened run is computed as it was opened: give `computed` to load_run")
    return run, place


Result = tuple[str, dict[str, Any]]


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


class _Sum:
    """The progress of several at once as one."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._parts, self._lock = progress, {}, threading.Lock()

    def part(self, number: int) -> Progress:
        def report(done: int, total: int) -> None:
            with self._lock:
                self._parts[number] = done, total
                if self._progress:
                    self._progress(*map(sum, zip(*self._parts.values(), strict=True)))

        return report


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
        with _clearly():
            one = _Transfer(run, request, place, parallel, stop)
            if before.get("job") == one.job_digest and all(output.path.exists() for output in one.outputs):
                return "kept", dict(before)
            return "done", {**told, **one.make(progress)}
    except TransferError as error:
        return "failed", {**told, "error": str(error)}


@contextmanager
def _clearly() -> Iterator[None]:
    """Errors of the parts as one kind, each message a clear sentence."""
    try:
        yield
    except (DetectorError, CheckpointError, SchemaError, AssetError, media.EncodeError, FilesError) as error:
        raise TransferError(str(error)) from error
    except media.VideoError as error:
        raise TransferError(f"{error.detail} ({error.code})") from error
    except OSError as error:
        raise TransferError(f"a file cannot be read or written: {error}") from error


class _Looks:
    """Keypoints of pieces by several threads at once, each with eyes of its own: a network is for one at a time."""

    def __init__(self, eyes: Sequence[Eyes], renderer: Renderer) -> None:
        self.count, self._look = len(eyes), renderer.look
        self._free: SimpleQueue[Eyes] = SimpleQueue()
        for one in eyes:
            self._free.put(one)

    def __call__(self, piece: Piece) -> tuple[Piece, np.ndarray]:
        eyes = self._free.get()
        try:
            return piece, self._look(piece, eyes)
        finally:
            self._free.put(eyes)


class _Transfer:
    """A request that was looked at, and what its result depends on."""

    def __init__(
        self, run: Run, request: Request, device: str, parallel: int = 1, stop: threading.Event | None = None
    ) -> None:
        """`parallel`: how many are made at once. Where `stop` is set, `make` ends as by Ctrl-C."""
        self.run, self.request, self.device, self.parallel, self.stop = run, request, device, parallel, stop
        _check(run, request)
        self.outputs = _outputs(run, request)
        _check_files(request, self.outputs)
        self.eyes = load_eyes(run, request.pose, request.parsing)
        self.job = {
            "request": {k: v for k, v in dataclasses.asdict(request).items() if k not in ("out", "stages")},
            "outputs": [[str(o.path.absolute()), *o.views, o.height, o.png] for o in self.outputs],
            "files": {str(path): _content(path) for path in _inputs(request)},
            "networks": network_digests(run),
            "config": run.config.to_json(),
            "detectors": [self.eyes.pose.fingerprint(), self.eyes.parsing.fingerprint()],
            "device": device,
            "versions": versions(),
        }
        self.job = json.loads(json.dumps(self.job, default=str))
        self.job_digest = digest(self.job)

    def make(self, progress: Progress | None) -> dict[str, Any]:
        """Do what is not done yet, and tell what was done."""
        began = time.monotonic()
        for path in (output.path for output in self.outputs):
            if path.is_dir():
                raise TransferError(f"{path} is a folder that is there already; remove it, or name another output")
        with Work(self.outputs, self.job) as work, self.run.networks.lent() as runner:
            resumed = work.frames
            try:
                drive, who, renderer = self._begin(work, runner)
                self._roll(work, drive, renderer, progress)
                if renderer.without_pose == work.frames:
                    raise TransferError(
                        f"no pose was found in any of {work.frames} frames of {drive.path}; show a whole person"
                    )
                silence = work.finish(drive)
                work.remove()
            except (TransferError, DetectorError, SchemaError, media.VideoError):
                work.remove()  # it will fail again
                raise
        return self._summary(drive, who, renderer, silence, work.frames, resumed, time.monotonic() - began)

    def _begin(self, work: Work, runner: Runner) -> tuple[Driving, Source, Renderer]:
        request, size = self.request, self.run.config.size
        if work.progress:
            drive = Driving.from_json(work.progress["drive"])
        else:
            drive = find_driving(request.driving, size, request.start, request.end, self._lookers())
        who = find_source(request.source, self.eyes, drive.share)
        behind = find_background(request.background, who, drive, self.eyes, size)
        for region, path in request.regions.items():
            who = dressed(who, find_source(Path(path), self.eyes, drive.share), region)
        renderer = Renderer(self.run, who, behind, self.eyes, runner, request.gam, drive.fps)
        if work.progress:
            renderer.restore(work.progress["renderer"])
        return drive, who, renderer

    def _roll(self, work: Work, drive: Driving, renderer: Renderer, progress: Progress | None) -> None:
        """All frames that are not there yet: read and looked at ahead by threads, written behind by another."""
        names = {name for output in self.outputs for name in output.views}
        after = work.progress and work.progress["after"]
        told = work.frames

        def tell() -> None:
            nonlocal told
            if progress and work.frames > told:
                told = work.frames
                progress(told, drive.frames)

        def write(made: Made) -> None:
            pictures = renderer.show(made, names)
            behind = {"drive": drive.to_json(), "after": made.seen.piece.last_pts, "renderer": made.memory}
            work.segment(pictures, drive.fps, behind)

        looks = _Looks(self._eyes(), renderer)
        with ExitStack() as stack:
            pieces = stack.enter_context(closing(ahead(read_pieces(drive, self.eyes.size, work.frames, after))))
            looked = stack.enter_context(closing(mapped(looks, pieces, looks.count)))
            seen = stack.enter_context(closing(ahead(renderer.see(*pair) for pair in looked)))
            write_behind = stack.enter_context(Behind(write))
            for one in seen:
                write_behind(renderer.run(one, names, self._check))
                tell()
        tell()

    def _check(self) -> None:
        if self.stop and self.stop.is_set():
            raise KeyboardInterrupt

    def _lookers(self) -> int:
        """Threads that look at the driving video: a detector on the CPU keeps one core busy, and a GPU waiting."""
        cores = len(os.sched_getaffinity(0)) // self.parallel
        on_gpu = self.run.networks.device.type == "cuda"
        return max(1, min(_MOST_EYES, cores // 2)) if on_gpu else 1

    def _eyes(self) -> list[Eyes]:
        """Eyes for each thread that looks for poses."""
        count = self._lookers() if getattr(self.eyes.pose, "device", "cpu") == "cpu" else 1
        more = (load_eyes(self.run, self.request.pose, self.request.parsing) for _ in range(count - 1))
        return [self.eyes, *more]

    def _summary(
        self, drive: Driving, who: Source, renderer: Renderer, silence: str, frames: int, resumed: int, seconds: float
    ) -> dict[str, Any]:
        height, width = self.run.config.size
        factor = self.outputs[0].height // height
        shares = sum(len(REGIONS) if name == "regions" else 1 for name in self.request.show)
        return {
            "out": str(self.request.out),
            "saved": [str(output.path) for output in self.outputs[1:]],
            "frames": frames,
            "resumed": resumed,
            "fps": drive.fps,
            "size": [height * factor, width * factor * shares],
            "crop": list(drive.crop),
            "shots": len(drive.shots),
            "frames_without_pose": renderer.without_pose,
            "sound": drive.has_audio and not silence,
            "background": self.request.background,
            "gam": self.request.gam,
            "job": self.job_digest,
            "seconds": round(seconds, 2),
            "frames_per_second": round((frames - resumed) / seconds, 2),
            "notes": _notes(who, renderer, drive, silence),
        }


def network_digests(run: Run) -> dict[str, str]:
    """Stage -> sha256 over the names and values of its generator's tensors."""
    found = {}
    for stage, net in run.generators.items():
        sha = hashlib.sha256()
        for name, value in sorted(net.state_dict().items()):
            sha.update(name.encode())
            sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        found[stage] = sha.hexdigest()
    return found


def untrained(run: Run) -> str:
    """A sentence on the stages that the run has not been trained in; empty where it has every one."""
    missing = [stage for stage in run.config.stages if stage not in run.generators]
    if not missing:
        return ""
    return (
        f"{run.path} has no trained {' and '.join(missing)} stage; train it with "
        f"`remot train STORE --stage {missing[0]} --out {run.path}`"
    )


def _check(run: Run, request: Request) -> None:
    if lacks := untrained(run):
        raise TransferError(lacks)
    if request.scale < 1:
        raise TransferError(f"a scale of {request.scale} leaves no picture; give 1 or more")
    if request.gam not in GAMS:
        raise TransferError(f"there is no GAM {request.gam!r}; there are {', '.join(GAMS)}")
    if unknown := [name for name in request.regions if name not in REGIONS]:
        raise TransferError(f"there is no region {', '.join(unknown)}; there are {', '.join(REGIONS)}")
    if not request.show:
        raise TransferError("nothing is to be shown; name a view at least")
    check_views((*request.show, *request.save), run)


def _outputs(run: Run, request: Request) -> list[Output]:
    out, height = request.out, run.config.size[0]
    upto256 = -(-256 // height)
    factor = max(request.scale, upto256 if request.show != ("result",) else 1)
    outputs = [Output(out, request.show, height * factor)]
    if request.stages is not None:
        outputs.append(Output(request.stages, STAGES, height * upto256))
    for name in dict.fromkeys(request.save):
        path = out.with_name(f"{out.stem}.{name}" if request.png else f"{out.stem}.{name}{out.suffix}")
        outputs.append(Output(path, (name,), height * request.scale, request.png))
    return outputs


def _check_files(request: Request, outputs: Sequence[Output]) -> None:
    taken = {path.resolve() for path in _inputs(request)}
    for output in outputs:
        path = output.path
        if not output.png and path.suffix.lower() not in _CONTAINERS:
            raise TransferError(f"{path} would be no video: end its name with {', '.join(_CONTAINERS)}")
        if path.resolve() in taken:
            raise TransferError(f"{path} is named twice; name another file to write")
        taken.add(path.resolve())


def _inputs(request: Request) -> list[Path]:
    named = [request.source, request.driving, *map(Path, request.regions.values())]
    return named + [path for path in [Path(request.background)] if path.is_file()]


def _content(path: Path) -> Any:
    """What the result depends on of an input: the digest of the file, or of each file of a folder."""
    if path.is_dir():
        return {entry.name: file_sha256(entry) for entry in sorted(path.iterdir()) if entry.is_file()}
    return file_sha256(path) if path.is_file() else None


def _notes(who: Source, renderer: Renderer, drive: Driving, silence: str) -> list[str]:
    notes = list(who.notes)
    if drive.others >= 0.1:
        notes.append(
            f"the driving video shows several persons in {drive.others:.0%} of the looks; the main one is followed"
        )
    if renderer.without_pose:
        notes.append(
            f"nobody was found in {renderer.without_pose} frames; they repeat the pose before them, if there is one"
        )
    eyes = renderer.eyes
    if has_hands(eyes.schema) and not has_hands(eyes.pose.schema):
        notes.append(f"the run was trained with hands and face, which {eyes.pose.name} does not give: none are drawn")
    if drive.uneven:
        notes.append(f"the driving video's frame rate varies; the result has its mean, {drive.fps:.3f} a second")
    if renderer.device.type == "cuda" and (why := renderer.plain):
        notes.append(f"the kernels of a piece are launched one by one, which is slower than recorded: {why}")
    if silence:
        notes.append(f"the sound could not be copied: {silence}")
    for note in notes:
        log.warning("%s", note)
    return notes


# Folders


def is_folder_of_many(path: Path, videos_only: bool) -> bool:
    """Whether a path is a folder of inputs: for `videos_only`, one with videos (pictures alone are one video)."""
    return path.is_dir() and (not videos_only or bool(_listed(path, True)[0]))


def _listed(folder: Path, videos_only: bool) -> tuple[list[Path], list[str]]:
    """The files of a folder that serve, by name, and the names of those that do not."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    serve = [p for p in files if p.suffix.lower() in _VIDEOS or (not videos_only and cv2.haveImageReader(str(p)))]
    return serve, [path.name for path in files if path not in serve]


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
    if out.suffix.lower() in _CONTAINERS or out.is_file():
        raise TransferError(f"{out} would be one file for {len(pairs)} pairs; name a folder")
    plain = {name: tuple(value) if name in ("show", "save") else value for name, value in options.items()}
    requests = {}
    for source, driving in pairs:
        path = out / f"{source.stem}--{driving.stem}.mp4"
        if path in requests:
            raise TransferError(f"{requests[path].source} and {source} would both be written to {path}; rename one")
        requests[path] = Request(source, driving, path, **plain)
    return list(requests.values())


def _made_before(record: Path) -> dict[str, dict[str, Any]]:
    """Output -> record of the pairs that an earlier call made."""
    try:
        report = json.loads(record.read_text())
        return {pair["out"]: pair for pair in (*report["done"], *report["kept"])}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise TransferError(f"{record} is damaged ({error}); remove it to make every pair anew") from error
