"""One source image, any driving video, one result: the person of the image moves as the person of the video does.

Memory does not grow with the length of the video, every frame comes out, and an interrupted transfer is resumed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from remot_data import media
from remot_data.assets import AssetError
from remot_data.detectors.base import DetectorError, file_sha256
from remot_data.media import sandbox
from remot_data.media.sandbox import ChildError
from remot_data.records import digest
from remot_data.schemas import REGIONS, SchemaError
from remot_data.store.disk import FilesError
from remot_model import devices
from remot_model.checkpoint import CheckpointError, Run, load_run, versions
from remot_model.generating.inference import Runner
from remot_model.transferring.background import find_background
from remot_model.transferring.driving import Driving, Piece, find_driving, read_pieces
from remot_model.transferring.eyes import Eyes, has_hands, load_eyes
from remot_model.transferring.files import Work
from remot_model.transferring.request import Request, TransferError, checked, inputs
from remot_model.transferring.source import Source, dressed, find_source
from remot_model.transferring.threads import Behind, ahead, mapped
from remot_model.transferring.views import Made, Renderer

log = logging.getLogger(__name__)

# Pieces that a pose detector on the CPU looks at at once, where the networks are on a GPU and wait for it.
_MOST_EYES = 4

Progress = Callable[[int, int], None]


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
    person: int | None = None,
    finder: str | None = None,
    computed: Mapping[str, bool | str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a video of the source person doing what the driving person does.

    The picture is the driving person's crop, 3:4 or whatever the run's size is, at the run's size times `scale`.
    Number, times and sound of the frames are those of the driving video. A transfer that is interrupted leaves a work
    folder next to `out`; the same call resumes after its last whole segment and gives the same frames.

    The driving video is read and looked at ahead of the networks, and the result encoded behind them, by threads.

    Args:
        run: the run folder, with every stage trained, or an opened run.
        source: an image, or a video whose first frame is taken.
        driving: a video, or a folder of its frames.
        out: the video to write, ``.mp4``, ``.mkv`` or ``.mov``.
        background: ``source`` (the source picture without its person, inpainted), ``driving`` (what the driving
            video shows around its person), ``black``, or an image file.
        show: what `out` shows side by side, of `remot_model.transferring.request.VIEWS`; if it is more than the result,
            at least 256 pixels high.
        save: views to write next to `out`, each as a video of its own at the run's size, ``OUT.layout.mp4``, ...
        png: write those as folders of PNG instead, ``OUT.layout/000000.png``, ...
        stages: a second video, of pose, layout, aligned source, regions and result.
        gam: ``paper``, or ``steady``: by joints and smoothed, see `remot_model.generating.alignment.Steady`.
        regions: region (top, bottom, head, limbs, shoes) -> another source to take it from.
        scale: the result is enlarged so many times, bicubic.
        start, end: seconds of the driving video.
        pose, parsing: detectors, as `remot_data.detectors.base.load` names them; those the run was trained on fit best.
        person: who drives, where the video shows several: 1 for who is seen most, 2 for the next. None for the main
            person of each shot. While she is away, the result stands still.
        finder: what finds the persons of the driving video: ``ssd`` (the default), ``blazepose``, ...
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
            that do not fit. Nothing is left behind then. Also where reading a file hung or crashed; the work folder
            of a transfer that had begun stays then, to resume from.
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
        person,
        finder,
    )
    sandbox.prepare()  # while the networks are loaded
    with clearly():
        run, place = opened(run, device, computed)
        return Transfer(run, request, place).make(progress)


def opened(run: str | Path | Run, device: str, computed: Mapping[str, bool | str] | None) -> tuple[Run, str]:
    """The run and where it is."""
    place = str(devices.pick(device))
    if not isinstance(run, Run):
        return load_run(run, place, computed), place
    if computed:
        raise TransferError("an opened run is computed as it was opened: give `computed` to load_run")
    return run, place


@contextmanager
def clearly() -> Iterator[None]:
    """Errors of the parts as one kind, each message a clear sentence."""
    try:
        yield
    except (DetectorError, CheckpointError, SchemaError, AssetError, media.EncodeError, FilesError) as error:
        raise TransferError(str(error)) from error
    except (media.VideoError, ChildError) as error:
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


class Transfer:
    """A request that was looked at, and what its result depends on."""

    def __init__(
        self, run: Run, request: Request, device: str, parallel: int = 1, stop: threading.Event | None = None
    ) -> None:
        """`parallel`: how many are made at once. Where `stop` is set, `make` ends as by Ctrl-C."""
        self.run, self.request, self.device, self.parallel, self.stop = run, request, device, parallel, stop
        self.outputs = checked(run, request)
        self.eyes = load_eyes(run, request.pose, request.parsing)
        self.job = {
            "request": {k: v for k, v in dataclasses.asdict(request).items() if k not in ("out", "stages")},
            "outputs": [[str(o.path.absolute()), *o.views, o.height, o.png] for o in self.outputs],
            "files": {str(path): _content(path) for path in inputs(request)},
            "networks": run.digests(),
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
            except ChildError:  # it need not
                if not work.frames:
                    work.remove()
                raise
        return self._summary(drive, who, renderer, silence, work.frames, resumed, time.monotonic() - began)

    def _begin(self, work: Work, runner: Runner) -> tuple[Driving, Source, Renderer]:
        request, size = self.request, self.run.config.size
        if work.progress:
            drive = Driving.from_json(work.progress["drive"])
        else:
            span = request.start, request.end
            drive = find_driving(request.driving, size, *span, request.person, request.finder, self.eyes.outside)
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
        after = work.progress["after"] if work.progress else None
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
            read = stack.enter_context(closing(read_pieces(drive, self.eyes.size, work.frames, after)))
            pieces = stack.enter_context(closing(ahead(read)))
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
            "notes": _notes(who, renderer, drive, silence, self.request.person),
        }


def _content(path: Path) -> Any:
    """What the result depends on of an input: the digest of the file, or of each file of a folder."""
    if path.is_dir():
        return {entry.name: file_sha256(entry) for entry in sorted(path.iterdir()) if entry.is_file()}
    return file_sha256(path) if path.is_file() else None


def _notes(who: Source, renderer: Renderer, drive: Driving, silence: str, person: int | None) -> list[str]:
    notes = list(who.notes)
    if drive.others >= 0.1:
        whom = (
            "the main one is followed; --person N chooses another" if person is None else f"number {person} is followed"
        )
        notes.append(f"the driving video shows several persons in {drive.others:.0%} of the looks; {whom}")
    if renderer.without_pose:
        notes.append(
            f"nobody was found in {renderer.without_pose} frames; they repeat the pose before them, if there is one"
        )
    eyes = renderer.eyes
    if has_hands(eyes.schema) and not has_hands(eyes.pose.schema):
        notes.append(f"the run was trained with hands and face, which {eyes.pose.name} does not give: none are drawn")
    if drive.uneven:
        notes.append("the driving video's frame rate varies; every frame of the result has the time that it has there")
    if renderer.device.type == "cuda" and (why := renderer.plain):
        notes.append(f"the kernels of a piece are launched one by one, which is slower than recorded: {why}")
    if silence:
        notes.append(f"the sound could not be copied: {silence}")
    for note in notes:
        log.warning("%s", note)
    return notes
