"""The task of annotating: shards of layers made out of shards of frames, in stages that overlap.

Threads read and decode clips ahead, each detector has a thread of its own, and threads encode and write behind; all of
it goes on from one clip to the next and from one shard to the next. What is written does not depend on that: clips keep
their order, a detector sees one clip after the other, and batches are filled in that order and end with their shard.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from remot_data import persons
from remot_data.annotating import source_frames
from remot_data.annotating.lanes import Lane, Lanes
from remot_data.detectors import base
from remot_data.detectors._torch import gpu_name
from remot_data.detectors.base import Arrays, Batched, Detector
from remot_data.media import VideoError
from remot_data.media.sandbox import ChildError
from remot_data.records import BOXES, TIMES, VALID, Clip, Receipt, layer_folder
from remot_data.store import Store
from remot_data.store import layers as layer_kinds
from remot_data.store.boxes import boxes_at_size
from remot_data.store.currency import is_current, may_pass, metas, saw
from remot_data.store.shards import Sample, encoded

if TYPE_CHECKING:
    from remot_data.annotating.jobs import Job

# Bytes of pictures that are read ahead of the oldest clip in work.
_AHEAD = 64 << 20
_MOST_THREADS = 8  # that read and encode: more only take turns at the interpreter's lock
_IN_FLIGHT = 3  # batches that a network has been given and that are not back
_UNWRITTEN = 2  # shards whose layers are held in memory until they are written


def annotate_shards(
    url: str, shards: Sequence[int], jobs: Sequence[Job], threads: int, retry: bool = False
) -> Iterator[Receipt]:
    """Make shards of every job's layer, and give a receipt as each is written, in order. Harmless to run twice.

    Args:
        jobs: in such an order that each comes after those whose layers it reads.
        threads: CPUs to use. With one, nothing overlaps, unless a batched detector is used.
        retry: also the shards that are current.

    Raises:
        StoreError, DetectorError, DeviceError: what no clip is to blame for. Then, as on Ctrl-C, all threads end.
    """
    # Detectors have a thread each; and no threading can change a byte.
    cv2.setNumThreads(1)
    store = Store(url)
    with Lanes(expected=(base.DetectorError,)) as lanes:
        stages = _Stages(lanes, store, jobs, threads)
        parts: deque[_Part] = deque()
        for shard in shards:
            part = _Part(store, shard, jobs, retry)
            stages.begin(part)
            parts.append(part)
            for clip in part.clips:
                stages.make_room()
                stages.start(part, clip)
                while parts[0].is_written:
                    yield stages.receipt(parts.popleft())
            while len(parts) > _UNWRITTEN or (parts and parts[0].is_written):
                yield stages.receipt(parts.popleft())
        while parts:
            yield stages.receipt(parts.popleft())


class _Seconds:
    """Busy seconds by stage, added up by several threads."""

    def __init__(self, names: Sequence[str]) -> None:
        self.spent = dict.fromkeys(names, 0.0)
        self._lock = threading.Lock()

    def add(self, name: str, seconds: float) -> None:
        with self._lock:
            self.spent[name] += seconds


class _timed:
    """Adds the seconds of a block to those of a stage."""

    def __init__(self, into: _Seconds, name: str) -> None:
        self.into, self.name = into, name

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *error: Any) -> None:
        self.into.add(self.name, time.perf_counter() - self.started)


class _Part:
    """One shard: what is to be made of it, and what is made so far."""

    def __init__(self, store: Store, shard: int, jobs: Sequence[Job], retry: bool) -> None:
        self.store, self.shard, self.jobs, self.retry = store, shard, jobs, retry
        self.todo = [job for job in jobs if retry or not _current(store, job, shard)]
        self.all_clips = store.shard_clips(shard)
        self.clips = self.all_clips if self.todo else []
        self.samples: dict[str, list[Sample]] = {job.folder: [] for job in self.todo}
        self.failed: dict[str, dict[str, str]] = {job.folder: {} for job in self.todo}
        self.seconds = _Seconds(["frames", *(job.kind for job in self.todo), "encode", "write"])
        self.left = len(self.clips)
        self.receipt: Future[Receipt] | None = None

    @property
    def is_written(self) -> bool:
        return self.receipt is not None and self.receipt.done()

    def write(self) -> Receipt:
        """Write the shard of every layer, and tell."""
        written: dict[str, Any] = {}
        with _timed(self.seconds, "write"):
            now = Store(self.store.url)
            for job in self.jobs:
                # Somebody else may have been quicker, and the shard made shorter since then: theirs stays.
                if job not in self.todo or (not self.retry and _current(now, job, self.shard)):
                    written[job.folder] = now.meta(job.folder, self.shard)
                else:
                    seen = saw(self.store, job.inputs, self.shard)
                    samples, failed = self.samples.pop(job.folder), self.failed[job.folder]
                    written[job.folder] = self.store.write_shard(
                        job.folder, self.shard, samples, seen, failed, gpu_name(getattr(job.detector(), "device", ""))
                    )
        return Receipt(
            "annotate",
            shard=self.shard,
            frames=sum(clip.frames for clip in self.all_clips),
            clips=len(self.all_clips),
            made=written,
            seconds={name: round(value, 4) for name, value in self.seconds.spent.items()},
        )


class _Work:
    """One clip on its way: the futures of what is read, made and encoded for it."""

    def __init__(self, part: _Part, clip: Clip, size: int) -> None:
        self.part, self.clip, self.bytes = part, clip, size
        self.samples: dict[str, Future[list[Sample]]] = {}


class _Stages:
    """The lanes, and how a clip goes through them."""

    def __init__(self, lanes: Lanes, store: Store, jobs: Sequence[Job], threads: int) -> None:
        self._lanes, self._store, self._jobs = lanes, store, jobs
        self._detectors: dict[str, Detector] = {}
        self._overlap = threads > 1
        self._threads = max(2, min(threads, _MOST_THREADS))
        self._clips: deque[_Work] = deque()
        self._own: dict[int, Lane] = {}
        self._batches: dict[str, _Batches] = {}
        self._ahead = 0
        self._started = 0

    def begin(self, part: _Part) -> None:
        """Load the detectors and start the threads with the first shard that needs them."""
        if part.todo and not self._detectors:
            # Here, in the caller's thread: libraries are not made to be imported by several at a time.
            self._detectors = {job.folder: job.detector() for job in self._jobs}
            batched = {k: d for k, d in self._detectors.items() if isinstance(d, Batched)}
            self._overlap |= bool(batched)
            self._pool = self._lane(self._threads, "clips")
            self._sources = self._lane(1, "sources")  # a child process decodes, and its frames are large
            self._writer = self._lane(1, "write")
            for folder, detector in self._detectors.items():
                if id(detector) not in self._own:
                    self._own[id(detector)] = self._lane(1, folder)
            self._batches = {k: _Batches(self._lanes, d, self._lane(1, f"{k}-landing")) for k, d in batched.items()}
        if self._batches:
            # Enough to fill every batch that a clip waits in, where clips have two frames and one item, and where one
            # batched detector reads another's layer.
            longest = max((clip.frames for clip in part.clips), default=0)
            self._ahead = 2 * sum(b.size for b in self._batches.values()) + (len(self._batches) - 1) * longest
        if not part.left:
            part.receipt = self._lanes.promise()
            self._lanes.settle(part.receipt, part.write, ())

    def _lane(self, count: int, name: str) -> Lane:
        return self._lanes.lane(count if self._overlap else 0, name)

    def make_room(self) -> None:
        """Wait until so much is done that another clip may be read."""
        while self._clips and self._is_full():
            self._finish(self._clips.popleft())

    def _is_full(self) -> bool:
        behind = list(self._clips)[1:]
        return not self._overlap or (
            sum(work.bytes for work in behind) >= _AHEAD and sum(work.clip.frames for work in behind) >= self._ahead
        )

    def receipt(self, part: _Part) -> Receipt:
        """Wait until a shard is written."""
        while part.receipt is None:
            self._finish(self._clips.popleft())
        return self._lanes.result(part.receipt)

    def start(self, part: _Part, clip: Clip) -> None:
        """Give a clip to the lanes. Where threads are short, older clips come first."""
        turn = self._started = self._started + 1
        frames: dict[int, Future[np.ndarray]] = {}
        for source in dict.fromkeys(job.source for job in part.todo):
            lane = self._sources if source else self._pool
            frames[source] = lane.submit(_read, self._store, part, clip, source, turn=turn)
        work = _Work(part, clip, sum(_bytes(self._store, clip, source) for source in frames))
        made: dict[str, Future[Arrays]] = {}
        for job in part.todo:
            needs = {
                kind: made[layer_folder(kind, layer)]
                if layer_folder(kind, layer) in made
                else self._pool.submit(_stored, self._store, part, clip, kind, layer, turn=turn)
                for kind, layer in job.inputs.items()
            }
            detector = self._detectors[job.folder]
            fresh = frozenset(kind for kind, found in needs.items() if found in made.values())
            given = _Given(self._store, part, job, clip, detector, frames[job.source], needs, fresh)
            if (batches := self._batches.get(job.folder)) is not None:
                items = self._pool.after([given.frames, *needs.values()], given.split, turn=turn)
                found: Future[Arrays] = self._lanes.promise()
                is_last = clip is part.clips[-1]
                self._own[id(given.detector)].submit(batches.feed, given, items, found, is_last)
            else:
                found = self._own[id(given.detector)].submit(given.call)
            made[job.folder] = arrays = self._pool.after([found], given.finish, found, turn=turn)
            work.samples[job.folder] = self._pool.after([arrays], given.encode, arrays, turn=turn)
        self._clips.append(work)

    def _finish(self, work: _Work) -> None:
        """Wait for a clip; the last of a shard has it written."""
        part = work.part
        for folder, future in work.samples.items():
            try:
                part.samples[folder] += self._lanes.result(future)
            except base.DetectorError as error:
                part.failed[folder][work.clip.id] = str(error)
        part.left -= 1
        if not part.left:
            part.receipt = self._writer.submit(part.write)


class _Given:
    """What a detector is given for one clip, and what is done with what it gives."""

    def __init__(
        self,
        store: Store,
        part: _Part,
        job: Job,
        clip: Clip,
        detector: Any,
        frames: Future[np.ndarray],
        needs: Mapping[str, Future[Arrays]],
        fresh: frozenset[str],
    ) -> None:
        """`fresh` are the kinds of `needs` that are made in this pass."""
        self.job, self.detector, self.frames, self.seconds = job, detector, frames, part.seconds
        self._store, self._clip, self._needs, self._fresh = store, clip, needs, fresh
        self._needed: dict[str, Arrays] = {}

    def call(self) -> Arrays:
        """The arrays that a detector of the plain form makes."""
        frames = self._collected()
        with _timed(self.seconds, self.job.kind):
            return _detect(self, self.detector, frames, **self._needed)

    def split(self) -> np.ndarray:
        """The items of a batched one."""
        frames = self._collected()
        with _timed(self.seconds, self.job.kind):
            items = _detect(self, self.detector.split, frames, **self._needed)
        if len(items) < len(frames) - 1:
            raise base.DetectorError(
                f"split gave {len(items)} items for {len(frames)} frames; give one for each or each pair"
            )
        return items

    def finish(self, found: Future[Arrays]) -> Arrays:
        """The arrays of the layer, checked, of what the detector found."""
        arrays, frames = found.result(), self.frames.result()
        with _timed(self.seconds, self.job.kind):
            if isinstance(self.detector, Batched):
                arrays = _detect(self, self.detector.join, frames, arrays, **self._needed)
            return _detect(self, self._checked, arrays, frames.shape[1:3])

    def encode(self, made: Future[Arrays]) -> list[Sample]:
        arrays = made.result()
        with _timed(self.seconds, "encode"):
            return encoded(self.job.kind, self._clip, arrays)

    def _collected(self) -> np.ndarray:
        """The frames; and all it needs, at their size."""
        frames = self.frames.result()
        for kind, future in self._needs.items():
            try:
                arrays = future.result()
            except base.DetectorError as error:
                raise base.DetectorError(f"it reads the {kind} layer, which failed") from error
            if kind in self._fresh:  # as another pass would read it
                arrays = layer_kinds.kind(kind).stored(arrays)
            at_size = boxes_at_size if kind == BOXES else layer_kinds.kind(kind).at_size
            self._needed[kind] = _detect(self, at_size, arrays, self._store.size, frames.shape[1:3])
        if self._store.outside is not None and VALID in self.detector.needs:
            size = frames.shape[1], frames.shape[2]
            self._needed[VALID] = {VALID: persons.valid(self._clip.crop, self._clip.source_size, size)}
        if TIMES in self.detector.needs:
            self._needed[TIMES] = {TIMES: self._clip.seconds}
        return frames

    def _checked(self, arrays: Arrays, size: tuple[int, int]) -> Arrays:
        layer = layer_kinds.kind(self.job.kind)
        arrays = layer.at_size(arrays, size, self._store.size)
        layer.check(arrays, self._clip.frames, self._store.size)
        return arrays


def _detect(given: _Given, function: Callable[..., Any], *arguments: Any, **needed: Arrays) -> Any:
    """What a function of a detector gives; an error costs the clip, unless it is the device's."""
    try:
        return function(*arguments, **needed)
    except (base.DetectorError, base.DeviceError):
        raise
    except Exception as error:
        base.check_device(error, given.detector)
        raise base.DetectorError(f"{given.job.spec}: {type(error).__name__}: {error}") from error


def _read(store: Store, part: _Part, clip: Clip, source: int) -> np.ndarray:
    """The frames of one clip: the stored ones, or those of the source at most `source` rows high."""
    with _timed(part.seconds, "frames"):
        if not source:
            return store.read_arrays("frames", "frames", clip)["frames"]
        if not clip.path:
            raise base.DetectorError("this clip has no source video to read again")
        try:
            size = source_frames.native_size(clip, store.size, source)
            return source_frames.read_native(
                clip, size, times=store.config.get("policy", {}).get("times"), outside=store.outside
            )
        except (VideoError, ChildError) as error:
            raise base.DetectorError(f"its source cannot be read again: {error}") from error


def _bytes(store: Store, clip: Clip, source: int) -> int:
    height, width = source_frames.native_size(clip, store.size, source) if source else store.size
    return clip.frames * height * width * 3


def _stored(store: Store, part: _Part, clip: Clip, kind: str, layer_id: str) -> Arrays:
    """The arrays of a layer that is there already, or the boxes."""
    if kind == BOXES:
        return _boxes(store, clip)
    folder = layer_folder(kind, layer_id)
    failed = (store.meta(folder, clip.shard) or {}).get("failed", {})
    if clip.id in failed:
        raise base.DetectorError(failed[clip.id])
    with _timed(part.seconds, "frames"):
        return store.read_arrays(folder, kind, clip)


def _boxes(store: Store, clip: Clip) -> Arrays:
    found = store.boxes(clip)
    assert found is not None  # else no job names them
    own, others = found.in_frames(clip, store.size)
    return {"own": own, "others": others}


class _Batches:
    """Fills the batches of one detector with the items of clip after clip. Used by the thread of the detector."""

    def __init__(self, lanes: Lanes, detector: Batched, landing: Lane) -> None:
        self.size = detector.batch
        self._lanes, self._infer, self._landing = lanes, detector.infer, landing
        self._open: list[tuple[_Rows, np.ndarray]] = []
        self._flying: deque[Future[None]] = deque()
        self._landed = 0.0

    def feed(self, given: _Given, items: Future[np.ndarray], found: Future[Arrays], is_last: bool) -> None:
        """Take the items of a clip, whose outputs will be the result of `found`; after the last clip none may wait."""
        try:
            rows = items.result()
            if not len(rows):
                found.set_result({})
        except base.DetectorError as error:
            found.set_exception(error)
            rows = np.empty(0)
        # A clip without items fills no batch that an older one waits in.
        if self._open and (not len(rows) or self._open[-1][1].shape[1:] != rows.shape[1:]):
            self._run()
        if len(rows):
            self._add(_Rows(given, len(rows), found), rows)
        if is_last and self._open:
            self._run()

    def _add(self, rows: _Rows, items: np.ndarray) -> None:
        at = 0
        while at < len(items):
            taken = items[at : at + self.size - sum(len(part) for _, part in self._open)]
            self._open.append((rows, taken))
            at += len(taken)
            if sum(len(part) for _, part in self._open) == self.size:
                self._run()

    def _run(self) -> None:
        """Give the network the open batch, filled up."""
        parts, self._open = self._open, []
        while len(self._flying) >= _IN_FLIGHT:
            self._flying.popleft().result()
        started = time.perf_counter()
        try:
            outputs = self._outputs(parts)
        except base.DetectorError as error:
            if len(parts) == 1:
                parts[0][0].fail(error)
                return
            # Whose fault is it? Items do not depend on each other, so each clip may as well be tried alone.
            for part in parts:
                self._open = [part]
                self._run()
            return
        self._flying.append(self._landing.submit(self._land, parts, outputs, started))

    def _outputs(self, parts: Sequence[tuple[_Rows, np.ndarray]]) -> Arrays | base.Pending:
        items = base.filled([part for _, part in parts], self.size)
        return _detect(parts[0][0].given, self._infer, items)

    def _land(self, parts: Sequence[tuple[_Rows, np.ndarray]], outputs: Arrays | base.Pending, started: float) -> None:
        """Wait for the outputs of a batch, and hand them out."""
        try:
            arrays = _detect(parts[0][0].given, self._checked, outputs)
        except base.DetectorError as error:
            for rows, _ in parts:
                rows.fail(error)
            return
        # The seconds that the network was busy with this batch: it begins when the one before is done.
        now = time.perf_counter()
        given = parts[0][0].given
        given.seconds.add(given.job.kind, now - max(started, self._landed))
        self._landed, at = now, 0
        for rows, part in parts:
            rows.take({name: array[at : at + len(part)] for name, array in arrays.items()})
            at += len(part)

    def _checked(self, outputs: Arrays | base.Pending) -> Arrays:
        arrays = base.landed(outputs)
        shapes = {name: array.shape for name, array in arrays.items()}
        if not shapes or any(shape[:1] != (self.size,) for shape in shapes.values()):
            raise base.DetectorError(f"infer gave {shapes} for {self.size} items; give each output so many rows")
        return arrays


class _Rows:
    """The outputs of one clip's items, as they come."""

    def __init__(self, given: _Given, count: int, found: Future[Arrays]) -> None:
        self.given, self._count, self._found = given, count, found
        self._outputs: Arrays = {}
        self._at = 0

    def take(self, outputs: Arrays) -> None:
        """The next rows; they come in order."""
        if self._found.done():
            return
        rows = len(next(iter(outputs.values())))
        for name, array in outputs.items():
            whole = self._outputs.setdefault(name, np.empty((self._count, *array.shape[1:]), array.dtype))
            whole[self._at : self._at + rows] = array
        self._at += rows
        if self._at == self._count:
            self._found.set_result(self._outputs)

    def fail(self, error: base.DetectorError) -> None:
        if not self._found.done():
            self._found.set_exception(error)


def _current(store: Store, job: Job, shard: int) -> bool:
    meta = store.meta(job.folder, shard)
    return is_current(meta, metas(store, job.inputs, shard)) and not (meta and may_pass(meta))
