"""Batches on a device: the values of the CPU, copied ahead, and nothing overwritten that is still read."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import subprocess
import sys
import threading
import time
import weakref
from contextlib import closing

import numpy as np
import pytest
import torch

from remot_data.reading.loader import Loader
from remot_data.reading.stream import to_torch
from remot_model.config import ConfigError
from remot_model.training import data, feeding, reading, train
from remot_model.training.data import DataError
from remot_model.training.feeding import Feeder, PinnedSlot, readers
from tests.remot_model.windows import Windows, clip_arrays, small_config

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def arrays():
    return clip_arrays(24)


class PlainSlot:
    """Memory of the CPU in place of a device's; `log` tells what was done in which thread."""

    def __init__(self, like, log):
        self.memory, self.log = {name: torch.empty_like(x) for name, x in like.items()}, log

    def fill(self, batch):
        self.log.append(("fill", threading.current_thread().name))
        feeding.check_alike(self.memory, batch)
        for name, x in batch.items():
            self.memory[name].copy_(x)

    def take(self):
        self.log.append(("take", threading.current_thread().name))
        return {name: feeding.converted(name, x) for name, x in self.memory.items()}


def plain(log=None):
    log = [] if log is None else log
    return lambda like: PlainSlot(like, log)


def stored(arrays, **options):
    config = small_config(flip=0.5)
    return data.stored(Windows(arrays, 4), config, "whole", **options)


def take(batches, count):
    with closing(batches):
        return list(itertools.islice(batches, count))


def wanted(arrays, count):
    return take(data.batches(Windows(arrays, 4), small_config(flip=0.5), "whole"), count)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for name in b:
            assert (a[name].dtype, a[name].shape, a[name].stride()) == (b[name].dtype, b[name].shape, b[name].stride())
            assert torch.equal(a[name].cpu(), b[name]), name


def test_what_is_converted_on_a_device_is_what_to_torch_gives(arrays):
    (batch,) = take(stored(arrays), 1)
    found = {name: feeding.converted(name, x) for name, x in feeding._as_stored(batch, "whole").items()}
    assert_same([found], [data.needed(to_torch(batch), "whole")])
    assert {"frames", "source", "background", "pose_map", "labels", "source_labels", "flow", "confidence"} < set(found)


def every_value() -> np.ndarray:
    return np.arange(256 * 3, dtype=np.int64).reshape(1, 1, 16, 16, 3).astype(np.uint8)


def test_every_value_of_a_pixel_is_converted_alike():
    pixels = every_value()
    assert torch.equal(feeding.converted("frames", torch.from_numpy(pixels)), to_torch({"frames": pixels})["frames"])


def test_nothing_that_is_converted_shares_the_memory_of_its_slot(arrays):
    (batch,) = take(stored(arrays), 1)
    for name, x in feeding._as_stored(batch, "whole").items():
        before = feeding.converted(name, x)
        after = before.clone()
        x.zero_()
        assert torch.equal(before, after), name


@pytest.mark.parametrize("reading", [{"threads": 0}, {"threads": 2}, {"workers": 2}], ids=str)
@pytest.mark.parametrize("slot", [None, plain()], ids=["cpu", "device"])
def test_a_feeder_gives_the_batches_of_the_cpu(arrays, slot, reading):
    assert_same(take(Feeder(stored(arrays, **reading), "cpu", "whole", slot=slot), 9), wanted(arrays, 9))


def test_batches_are_copied_ahead_in_a_thread_while_one_is_in_use(arrays):
    log, read = [], []

    def counted():
        with closing(stored(arrays)) as batches:
            for batch in batches:
                read.append(threading.current_thread().name)
                yield batch

    with closing(Feeder(counted(), "cpu", "whole", slot=plain(log))) as feeder:
        next(feeder)
        deadline = time.monotonic() + 10
        while len(read) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(read) == 3, "two are ready, and no third is read before one of them is asked for"
    # The first is read where processes may be forked; the others beside the step.
    assert read[0] == threading.current_thread().name and set(read[1:]) == {"remot-feed"}
    assert [what for what, _ in log].count("fill") == 3
    assert {name for what, name in log if what == "take"} == {threading.current_thread().name}


def test_arrays_are_given_back_to_the_loader_once_they_are_copied(arrays):
    class Array(np.ndarray):
        """One that can be watched."""

    alive = []

    def watched():
        with closing(stored(arrays)) as batches:
            for batch in batches:
                frames = batch["frames"].copy().view(Array)
                alive.append(weakref.ref(frames))
                given = {**batch, "frames": frames}
                del frames, batch
                yield given
                del given

    with closing(Feeder(watched(), "cpu", "whole", slot=plain())) as feeder:
        for _ in range(3):
            next(feeder)
        deadline = time.monotonic() + 10
        while sum(ref() is not None for ref in alive) > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sum(ref() is not None for ref in alive) <= 1, "only what the generator itself holds"


@pytest.mark.parametrize("slot", [None, plain()], ids=["cpu", "device"])
def test_a_missing_layer_is_named(arrays, slot):
    batches = data.stored(Windows(arrays, 4, ("flow",)), small_config(), "whole", augment=False)
    with closing(Feeder(batches, "cpu", "whole", slot=slot)) as feeder, pytest.raises(DataError, match="flow layer"):
        next(feeder)


@pytest.mark.parametrize("slot", [None, plain()], ids=["cpu", "device"])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_what_goes_wrong_while_reading_is_raised_where_the_batch_is_asked_for(arrays, slot, count):
    def broken():
        with closing(stored(arrays)) as batches:
            yield from itertools.islice(batches, count)
        raise OSError("the disk is gone")

    found = []
    with closing(Feeder(broken(), "cpu", "whole", slot=slot)) as feeder, pytest.raises(OSError, match="disk is gone"):
        for batch in feeder:
            found.append(batch)
    assert_same(found, wanted(arrays, count))


@pytest.mark.parametrize("slot", [None, plain()], ids=["cpu", "device"])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_feeder_ends_with_its_batches(arrays, slot, count):
    some = take(stored(arrays), count)
    assert_same(take(Feeder(iter(some), "cpu", "whole", slot=slot), 99), wanted(arrays, count))


def feeding_threads():
    return [thread for thread in threading.enumerate() if thread.name == "remot-feed"]


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_closing_ends_the_thread_and_the_reading(arrays, taken):
    ended = []

    def watched():
        try:
            with closing(stored(arrays, workers=1)) as batches:
                yield from batches
        finally:
            ended.append(threading.current_thread().name)

    import psutil

    children = set(psutil.Process().children())
    feeder = Feeder(watched(), "cpu", "whole", slot=plain())
    list(itertools.islice(feeder, taken))
    assert bool(feeding_threads()) == (taken > 0)
    feeder.close()
    feeder.close()
    assert not feeding_threads() and set(psutil.Process().children()) <= children
    assert ended == ([threading.current_thread().name] if taken else [])
    assert next(feeder, None) is None


def test_batches_of_another_form_are_refused(arrays):
    some = take(stored(arrays), 2)
    for changed in ({**some[1], "frames": some[1]["frames"][:, :1]}, {n: x for n, x in some[1].items() if n != "pts"}):
        with closing(Feeder(iter([some[0], changed]), "cpu", "whole", slot=plain())) as feeder:
            next(feeder)
            with pytest.raises(ValueError, match="one form, but (frames|pts) changed"):
                next(feeder)


@pytest.fixture
def pretended(monkeypatch):
    """CUDA's streams and events as names in a list of what was told to them, over memory of the CPU."""
    told: list[tuple[str, ...]] = []

    class Stream:
        device = CPU

        def __init__(self, name):
            self.name = name

        def wait_event(self, event):
            told.append((self.name, "waits for", event.name))

    class Event:
        made = itertools.cycle(("copied", "used"))

        def __init__(self, blocking=False):
            self.name = next(self.made)
            assert blocking == (self.name == "copied"), "a thread that waits must not spin"

        def record(self, stream):
            told.append((stream.name, "reaches", self.name))

        def synchronize(self):
            told.append(("thread", "waits for", self.name))

    empty, copy, current = torch.empty, torch.Tensor.copy_, [Stream("step")]

    @contextlib.contextmanager
    def within(stream):
        current.append(stream)
        yield
        current.pop()

    def copied(self, other, non_blocking=False):
        told.append((current[-1].name, "copies", "ahead" if non_blocking else "here"))
        return copy(self, other)

    def made(*shape, pin_memory=False, **more):
        assert current[-1].name == "side"
        return empty(*shape, **more)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[0])
    monkeypatch.setattr(torch, "empty", made)
    monkeypatch.setattr(torch.Tensor, "copy_", copied)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, stream: told.append(("memory", "of", stream.name)))
    return told, Stream("side")


def test_a_pinned_slot_tells_streams_to_wait_and_the_step_never(arrays, pretended):
    told, stream = pretended
    some = take(stored(arrays), 2)
    batch = feeding._as_stored(some[0], "whole")
    count = len(batch)
    slot = PinnedSlot(batch, stream)
    told.clear()
    slot.fill(batch)
    assert told == [
        ("thread", "waits for", "copied"),
        *[("step", "copies", "here")] * count,
        ("side", "waits for", "used"),
        *[("side", "copies", "ahead")] * count,
        ("side", "reaches", "copied"),
    ]
    told.clear()
    slot.take()
    assert told[: count + 1] == [("step", "waits for", "copied"), *[("memory", "of", "step")] * count]
    assert told[-1] == ("step", "reaches", "used")
    assert not [line for line in told if line[0] == "thread"]


def test_pinned_slots_give_the_batches_of_the_cpu(arrays, pretended):
    _, stream = pretended
    expected = wanted(arrays, 1)
    slot = PinnedSlot(batch := feeding._as_stored(take(stored(arrays), 1)[0], "whole"), stream)
    slot.fill(batch)
    assert_same([slot.take()], expected)


@pytest.mark.parametrize(
    ("workers", "stages", "place", "cores", "ranks", "count"),
    [
        ("auto", ["layout"], "cpu", 16, 1, 0),
        ("auto", ["layout"], "cuda", 16, 1, 2),
        ("auto", ["region"], "cuda", 16, 1, 1),
        ("auto", ["region", "layout", "whole"], "cuda", 16, 1, 2),
        ("auto", ["layout"], "cuda", 16, 8, 1),
        ("auto", ["layout"], "cuda", 24, 8, 2),
        ("auto", ["layout"], "cuda", 1, 1, 1),
        (5, ["layout"], "cpu", 2, 1, 5),
        (0, ["layout"], "cuda", 2, 1, 0),
    ],
)
def test_as_many_processes_read_as_cores_and_speed_need(monkeypatch, workers, stages, place, cores, ranks, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert readers(workers, stages, torch.device(place)) == count


@pytest.mark.parametrize("wrong", [-1, "many", 1.5])
def test_other_numbers_of_processes_are_refused(wrong):
    with pytest.raises(DataError, match="'auto' or a number of processes"):
        readers(wrong, ["layout"], CPU)


# Reading without training


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    from remot_data.synthetic.store import build_synthetic

    url = str(tmp_path_factory.mktemp("stores") / "dancers")
    return build_synthetic(url, dancers=2, frames=14, test=0, size=(32, 24), workers=0)


@pytest.mark.parametrize("workers", ["auto", 1])
def test_reading_alone_says_how_fast(store, workers):
    config = small_config(whole=dataclasses.replace(small_config().whole, batch=3))
    found = reading.read_only(store, config=config, stage="whole", seconds=0.3, device="cpu", workers=workers)
    assert (found["stage"], found["batch"], found["length"], found["size"]) == ("whole", 3, 4, [32, 24])
    assert (found["device"], found["workers"], found["preset"]) == ("cpu", 0 if workers == "auto" else 1, "tiny")
    assert found["windows"] % 3 == 0 and found["windows"] > 0 and found["seconds"] >= 0.3
    assert found["frames_per_second"] == pytest.approx(4 * found["windows"] / found["seconds"], rel=0.01)
    assert found["windows_per_second"] == pytest.approx(found["windows"] / found["seconds"], rel=0.01)
    a_core = found["frames_per_second_per_core"]
    # `cores` is rounded to hundredths, which counts where a busy machine gives few.
    assert a_core * found["cores"] == pytest.approx(found["frames_per_second"], rel=0.1, abs=0.006 * a_core)
    plan = data.epochs(store, config, "whole")
    size = np.mean([sum(map(len, plan.fetch(n))) for n in range(min(found["windows"], 16))])
    assert found["mb_per_second"] == pytest.approx(found["windows_per_second"] * size / 1e6, rel=0.05, abs=0.01)


def test_processors_are_counted_with_those_of_the_children():
    before = reading._cpu_seconds()
    spin = "import time\nwhile time.process_time() < 0.5: pass\nprint('done', flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "done\n"
        assert reading._cpu_seconds() - before >= 0.45
        child.kill()


def test_every_process_reads_its_share(store, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    told = []
    monkeypatch.setattr(
        data, "Loader", lambda *args, **options: told.append((args[1], options)) or Loader(*args, **options)
    )
    config = small_config(whole=dataclasses.replace(small_config().whole, batch=6))
    reading.read_only(store, config=config, stage="whole", seconds=0.01, device="cpu")
    assert (told[0][0], told[0][1]["rank"], told[0][1]["world_size"]) == (2, 1, 3)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="4 processes .* evenly"):
        reading.read_only(store, config=config, stage="whole", seconds=0.01, device="cpu")


@pytest.mark.parametrize(
    ("stage", "gone"), [("layout", "flow"), ("region", "parsing"), ("whole", "pose"), ("region", "pose")]
)
def test_reading_alone_names_a_layer_that_is_missing(store, stage, gone):
    snapshot = store.snapshot("main")
    some = {kind: layer for kind, layer in snapshot.layers.items() if kind != gone}
    store.write_snapshot(dataclasses.replace(snapshot, name=f"without-{gone}", layers=some))
    config = small_config(source_frame="frontal")
    with pytest.raises(DataError, match=f"{stage} stage needs the {gone} layer, which snapshot 'without-{gone}' of "):
        reading.read_only(store, config=config, stage=stage, snapshot=f"without-{gone}", device="cpu")


def test_a_stage_that_the_configuration_has_not_cannot_be_read(store):
    with pytest.raises(ConfigError, match="no whole stage"):
        reading.read_only(store, config=small_config(use_wcn=False), stage="whole", device="cpu")


@pytest.mark.parametrize(("workers", "line"), [("auto", "reading: threads"), (2, "reading: 2 processes")])
def test_training_says_once_what_reads(store, tmp_path, monkeypatch, workers, line):
    said, made = [], []
    monkeypatch.setattr(train, "Trainer", lambda *given: None)
    monkeypatch.setattr(train, "_setting", lambda *given: None)

    class Loop:
        def __init__(self, run, trainer, source, *more):
            made.append(source)

        def go(self, resume):
            return train.StageResult("layout", 0, 0.0, 0.0, 0.0, {})

    monkeypatch.setattr(train, "Loop", Loop)
    told = {"stages": ["layout", "region"], "device": "cpu", "workers": workers, "say": said.append}
    train.train(store, tmp_path / "run", config=small_config(), **told)
    assert [said_line for said_line in said if "reading" in said_line] == [line]
    assert [(source.workers, source.device) for source in made] == [(0 if workers == "auto" else 2, CPU)] * 2
    with closing(made[0].batches(4, 0)) as batches:
        assert isinstance(batches, Feeder) and next(batches)["frames"].shape == (1, 4, 3, 32, 24)


# On a GPU


@needs_cuda
def test_cuda_converts_every_value_of_a_pixel_as_the_cpu_does():
    pixels = every_value()
    found = feeding.converted("frames", torch.from_numpy(pixels).cuda())
    assert torch.equal(found.cpu(), to_torch({"frames": pixels})["frames"])


@needs_cuda
@pytest.mark.parametrize("reading", [{"threads": 2}, {"workers": 2}], ids=str)
@pytest.mark.parametrize("busy", [0, 50_000_000], ids=["idle", "busy"])
def test_cuda_gives_the_batches_of_the_cpu(arrays, reading, busy):
    """Also where the stream of the step is behind by several batches, so that slots are in use when they are filled."""
    expected, found = wanted(arrays, 12), []
    torch.zeros(1).cuda()  # processes are forked while CUDA is in use
    with closing(Feeder(stored(arrays, **reading), "cuda", "whole")) as feeder:
        for batch in itertools.islice(feeder, 12):
            assert all(x.is_cuda for x in batch.values())
            if busy:
                torch.cuda._sleep(busy)
            found.append({name: x.clone() for name, x in batch.items()})
            del batch
    assert_same(found, expected)


@needs_cuda
def test_who_trains_does_not_wait_for_the_device(arrays):
    with closing(Feeder(stored(arrays), "cuda", "whole")) as feeder:
        for _ in range(3):
            next(feeder)
        time.sleep(0.5)  # both slots are full
        torch.cuda.synchronize()
        torch.cuda._sleep(4_000_000_000)  # two seconds or so
        began = time.monotonic()
        next(feeder)
        assert time.monotonic() - began < 0.2
        torch.cuda.synchronize()
