"""Batches: the same windows in the same order whatever the threads, ranks, workers, restarts and damages."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from remot_data.reading.loader import Loader
from remot_data.reading.stream import Plan, stream, to_torch
from remot_data.reading.workers import WorkerError
from remot_data.store import StoreError
from remot_data.synthetic.store import build_synthetic


@pytest.fixture(scope="module")
def plan(dancers):
    """Windows of 2 frames of the four dancers of the training split: 36 an epoch."""
    return Plan(dancers, length=2, seed=3, open_shards=2)


def ids(batches):
    return [name for batch in batches for name in batch["id"]]


DECODING = [{"threads": 0}, {"threads": 3}, {"workers": 1}, {"workers": 3}]


@pytest.mark.parametrize("decoding", DECODING, ids=str)
@pytest.mark.parametrize("raw", [False, True])
def test_batches_hold_the_windows_of_the_stream(dancers, decoding, raw):
    told = {"length": 3, "seed": 5, "max_step": 2, "raw": raw, "size": (32, 24)}
    windows = list(stream(dancers, **told))
    size = told.pop("size")
    batches = list(Loader(Plan(dancers, **told), 4, size=size, last="pad", **decoding))
    assert ids(batches)[: len(windows)] == [window.id for window in windows]
    for number, window in enumerate(windows):
        batch = batches[number // 4]
        assert batch["number"][number % 4] == number
        assert batch.keys() == window.arrays.keys() | {"id", "number"}
        for name, array in window.arrays.items():
            found = batch[name][number % 4]
            assert found.dtype == array.dtype and np.array_equal(found, array), name


@pytest.mark.parametrize("decoding", DECODING, ids=str)
def test_batches_are_not_written_to_again(plan, decoding):
    batches = list(Loader(plan, 3, **decoding))
    kept = [batch["frames"].copy() for batch in batches]
    list(Loader(plan, 3, threads=2))
    assert all(np.array_equal(batch["frames"], frames) for batch, frames in zip(batches, kept, strict=True))


@pytest.mark.parametrize("decoding", [{"threads": 1}, {"workers": 1}], ids=str)
def test_memory_that_somebody_holds_is_not_used_again_and_other_memory_is(plan, decoding):
    torch = pytest.importorskip("torch")
    loader, kept, places = Loader(plan, 3, ahead=1, **decoding), [], set()
    for number, batch in enumerate(islice(loader, 9)):
        places.add(batch["source"].ctypes.data)
        if number == 1:
            view, flow = batch["frames"][1, 0, :, ::2], torch.from_numpy(batch["flow"][..., 0])
            kept = [view.copy(), flow.clone()]
        del batch
    assert len(places) <= 5
    assert np.array_equal(view, kept[0]) and torch.equal(flow, kept[1])


def test_epochs_follow_each_other_and_differ(plan):
    loader = Loader(plan, 5)
    first, second = ids(loader), ids(loader)
    assert loader.seen == 2 * len(plan)
    assert len(first) == len(second) == 35 and loader.uneven == 1
    assert len(set(first)) == 35 and first != second
    again = Loader(plan, 5)
    again.load_state_dict({"seen": len(plan)})
    assert ids(again) == second


@pytest.mark.slow
@pytest.mark.parametrize("last", ["drop", "pad", "through"])
def test_going_on_behind_any_batch(plan, last):
    loader, found, states = Loader(plan, 5, last=last, threads=1), [], []
    for batch in islice(loader, 12):
        found.append(batch["id"])
        states.append(loader.state_dict())
    whole = len(found)
    assert whole == {"drop": 7, "pad": 8, "through": 12}[last]
    for taken, state in enumerate(states, 1):
        again = Loader(plan, 5, last=last, threads=0)
        again.load_state_dict(state)
        if last == "pad" and taken == whole:
            assert again.seen == len(plan)  # the next epoch
            continue
        assert [batch["id"] for batch in islice(again, whole - taken)] == found[taken:]


def test_another_world_size_in_the_middle_keeps_the_order(plan):
    whole = ids(islice(Loader(plan, 1, last="through"), 60))
    found, seen = [], 0
    for world_size, batch, rounds in ((3, 2, 4), (1, 5, 2), (4, 1, 6)):
        ranks = [Loader(plan, batch, rank=r, world_size=world_size, last="through") for r in range(world_size)]
        parts = []
        for loader in ranks:
            loader.load_state_dict({"seen": seen})
            parts.append(list(islice(loader, rounds)))
        assert len({loader.seen for loader in ranks}) == 1
        seen = ranks[0].seen
        for batches in zip(*parts, strict=True):
            found += [name for row in zip(*(b["id"] for b in batches), strict=True) for name in row]
    assert found == whole[: len(found)] and len(found) == seen == 58


@pytest.mark.parametrize("decoding", DECODING, ids=str)
def test_a_change_is_made_in_place_and_told_the_number(plan, decoding):
    def change(number, arrays):
        arrays["frames"][:] = number % 251

    for batch in islice(Loader(plan, 4, change=change, **decoding), 3):
        assert [int(frames.max()) for frames in batch["frames"]] == [n % 251 for n in batch["number"]]


def test_batches_as_torch_tensors(plan):
    torch = pytest.importorskip("torch")
    batch = next(iter(Loader(plan, 3)))
    tensors = to_torch(batch)
    assert tensors["frames"].shape == (3, 2, 3, 64, 48)
    assert tensors["flow"].shape == (3, 2, 2, 64, 48) and tensors["flow"].is_contiguous()
    assert tensors["confidence"].shape == (3, 2, 1, 64, 48)
    assert tensors["source"].shape == (3, 3, 64, 48)
    assert torch.equal(tensors["flow"][1, 1, 0], torch.from_numpy(np.ascontiguousarray(batch["flow"][1, 1, ..., 0])))
    assert tensors["id"] == batch["id"]


def test_a_plan_can_be_sent_to_another_process(plan):
    assert ids(Loader(pickle.loads(pickle.dumps(plan)), 4)) == ids(Loader(plan, 4))


def test_stores_of_other_sizes_need_a_size(dancers, tmp_path):
    other = build_synthetic(str(tmp_path / "s"), dancers=2, frames=20, test=0, size=(32, 32), seed=9, workers=0)
    plan = Plan([dancers, other], length=2, weights=[1, 3])
    with pytest.raises(StoreError, match=r"frames has the shape .* give a size"):
        list(Loader(plan, 4))
    found = ids(Loader(plan, 4, size=(32, 24), last="pad"))
    # Two dancers of 19 windows at least, three times; and the same share in every stretch.
    share = sum(name.startswith("dancer-009") for name in found) / len(found)
    part = sum(name.startswith("dancer-009") for name in found[:20]) / 20
    assert share == pytest.approx(3 * 18 / (3 * 18 + 36), abs=0.02) and part == pytest.approx(share, abs=0.06)


def test_a_layer_that_one_store_lacks_is_left_out_and_said(dancers, tmp_path, caplog):
    import shutil

    from remot_data.records import Snapshot
    from remot_data.store import open_store

    shutil.copytree(dancers.url, tmp_path / "s")
    other = open_store(str(tmp_path / "s"))
    layers = dancers.snapshot("main").layers
    other.write_snapshot(Snapshot("main", {kind: layers[kind] for kind in ("pose", "parsing")}))
    with caplog.at_level(logging.WARNING):
        batch = next(iter(Loader(Plan([dancers, other], length=2), 6)))
    assert "flow" not in batch and "labels" in batch
    assert "the flow, background layer is not read" in caplog.text


def test_closing_ends_the_threads_and_what_they_do(plan):
    before = threading.active_count()
    batches = iter(Loader(plan, 2, threads=3))
    next(batches)
    assert threading.active_count() == before + 3
    batches.close()
    assert threading.active_count() == before


class Unpicklable(Exception):
    def __init__(self, number):
        super().__init__(f"no change for {number}")
        self.lock = threading.Lock()


@pytest.mark.parametrize("decoding", DECODING, ids=str)
@pytest.mark.parametrize("kind", [LookupError, Unpicklable])
def test_an_error_of_a_change_reaches_the_reader(plan, decoding, kind):
    def change(number, arrays):
        if number > 8:
            raise kind(f"no change for {number}")

    with pytest.raises(Exception, match="no change for") as raised:
        list(Loader(plan, 2, change=change, **decoding))
    assert raised.type is (RuntimeError if kind is Unpicklable and decoding.get("workers") else kind)


def alive(pid):
    """Whether a process runs; one that has ended and waits to be asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children():
    import psutil

    return [child.pid for child in psutil.Process().children()]


def test_two_iterations_of_one_loader_do_not_meet(plan):
    loader = Loader(plan, 3, workers=1)
    one, other = loader.part(), loader.part()
    found = [(next(one)[1], next(other)[1]) for _ in range(6)]
    wanted = list(islice(Loader(plan, 3, threads=0), 6))
    for pair, batch in zip(found, wanted, strict=True):
        assert all(np.array_equal(x["frames"], batch["frames"]) and x["id"] == batch["id"] for x in pair)
    one.close()
    other.close()


def test_closing_ends_the_workers(plan):
    before = set(children())
    batches = iter(Loader(plan, 2, workers=2))
    next(batches)
    begun = set(children()) - before
    assert len(begun) == 2
    batches.close()
    assert not any(map(alive, begun))


def test_a_killed_worker_is_an_error_at_once_and_the_state_goes_on(plan):
    before = set(children())
    loader, found = Loader(plan, 1, workers=2), []
    batches = iter(loader)
    found += [next(batches)["id"] for _ in range(3)]
    victim = (set(children()) - before).pop()
    os.kill(victim, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(WorkerError, match=rf"{victim} of the loader is gone \(exit code -9"):
        for batch in batches:
            found.append(batch["id"])
    assert time.monotonic() - started < 10 and not set(children()) - before
    again = Loader(plan, 1, workers=2)
    again.load_state_dict(loader.state_dict())
    assert sum([*found, *(batch["id"] for batch in again)], []) == ids(Loader(plan, 1))


def test_a_worker_never_frees_what_it_inherited(plan, tmp_path):
    """Garbage of the reader may be tensors of a GPU, which a forked process must leave alone."""

    class Garbage:
        def __init__(self):
            self.me = self

        def __del__(self):
            (tmp_path / str(os.getpid())).touch()

    gc.collect()
    gc.disable()
    try:
        Garbage()
        here = os.getpid()
        loader = Loader(plan, 2, workers=1, change=lambda number, arrays: os.getpid() == here or gc.collect())
        batches = iter(loader)
        next(batches)
        batches.close()
        assert not list(tmp_path.iterdir())
    finally:
        gc.enable()
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == [str(here)]


LONELY = """
import sys, time
from remot_data.reading.loader import Loader
from remot_data.reading.stream import Plan

batches = iter(Loader(Plan(sys.argv[1], length=2), 2, workers=2))
next(batches)
import psutil
try:
    print(*(child.pid for child in psutil.Process().children()), flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_who_reads_and_leave_ctrl_c_to_it(dancers, how):
    command = [sys.executable, "-c", LONELY, dancers.url]
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, **told) as reader:
        workers = [int(pid) for pid in reader.stdout.readline().split()]
        assert len(workers) == 2 and all(map(alive, workers))
        if how is signal.SIGINT:
            os.killpg(reader.pid, how)  # as a terminal does
        else:
            reader.send_signal(how)
        out, err = reader.communicate(timeout=20)
    deadline = time.monotonic() + 10
    while any(map(alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (out, err) == (("interrupted\n", "") if how is signal.SIGINT else ("", ""))


def test_memory_does_not_grow_over_the_epochs(plan):
    """Arrays of finished batches are given back; what is kept has a bound."""
    import psutil

    process, loader = psutil.Process(), Loader(plan, 4, threads=2)
    for _ in range(3):
        list(iter(loader).__next__() for _ in range(1))
    sizes = []
    for _ in range(12):
        for _ in loader:
            pass
        sizes.append(process.memory_info().rss)
    assert sizes[-1] - sizes[3] < 12e6


def test_nonsense_is_refused_at_once(plan):
    for wrong in (
        {"threads": -1},
        {"workers": -1},
        {"threads": 1, "workers": 1},
        {"ahead": 0},
        {"last": "cut"},
        {"rank": 1},
    ):
        with pytest.raises(ValueError):
            Loader(plan, 2, **wrong)
    with pytest.raises(ValueError):
        Loader(plan, 0)


# Damage


def flow_tar(store):
    return next((Path(store.url) / store.folders(store.snapshot("main"))["flow"]).glob("shard-00000.tar"))


def damage(store, clip, t):
    """Spoil the flow of one frame; gives its key."""
    folder = store.folders(store.snapshot("main"))["flow"]
    offsets, sizes = store.index(folder, clip.shard).members(clip.id, "npz")
    with open(f"{store.url}/{folder}/shard-{clip.shard:05d}.tar", "r+b") as file:
        file.seek(int(offsets[t]) + int(sizes[t]) // 2)
        file.write(b"\xff" * 40)
    return f"{clip.key(t)}.npz"


@pytest.mark.parametrize("decoding", [{"threads": 2}, {"workers": 2}], ids=str)
def test_a_damaged_member_is_replaced_alike_everywhere_and_said(own_dancers, caplog, decoding):
    clip = own_dancers.clips[0]
    told = {"length": 2, "seed": 3}
    healthy = ids(Loader(Plan(own_dancers, **told), 1))
    key = damage(own_dancers, clip, 5)
    plan = Plan(own_dancers.url, **told)
    with caplog.at_level(logging.WARNING):
        loader = Loader(plan, 1, most_damaged=1, **decoding)
        found = ids(loader)
    bad = [n for n, name in enumerate(healthy) if name != found[n]]
    assert bad and len(found) == len(healthy) and set(loader.replaced) >= set(bad)
    assert all(name.startswith(clip.id) for name in (healthy[n] for n in bad))
    assert f"{len(loader.replaced)} windows of this epoch were damaged and replaced" in caplog.text
    assert key in caplog.text and "flow" in caplog.text and "shard-00000.tar" in caplog.text
    ranks = [ids(Loader(plan, 1, rank=rank, world_size=2, most_damaged=1, threads=0)) for rank in range(2)]
    assert [ranks[n % 2][n // 2] for n in range(len(found) // 2 * 2)] == found[: len(found) // 2 * 2]


def test_too_much_damage_is_an_error_that_names_key_and_shard(own_dancers):
    for clip in own_dancers.clips:
        for t in range(clip.frames):
            damage(own_dancers, clip, t)
    for decoding in DECODING:
        with pytest.raises(StoreError, match=r"2 windows of this epoch are damaged, and 1 are allowed.*shard-0.*\.npz"):
            list(Loader(Plan(own_dancers.url, length=2), 2, **decoding))


@pytest.mark.parametrize("how", ["gone", "cut", "no index"])
def test_a_shard_that_is_gone_or_cut_is_damage(own_dancers, how):
    tar = flow_tar(own_dancers)
    if how == "cut":
        os.truncate(tar, 3000)
    else:
        (tar if how == "gone" else tar.with_suffix(".parquet")).unlink()
    plan = Plan(own_dancers.url, length=2)
    loader = Loader(plan, 2, most_damaged=1)
    found = ids(loader)
    assert len(found) == len(plan) and loader.replaced
    assert any("shard-00000" in why for why in loader.replaced.values())
    with pytest.raises(StoreError, match="shard-00000"):
        list(Loader(plan, 2))


def test_a_label_outside_its_set_is_damage(dancers, monkeypatch):
    from remot_data.store.layers import kind

    parsing = kind("parsing")
    clip, real = dancers.clips[1], parsing.decode
    folder = dancers.folders(dancers.snapshot("main"))["parsing"]
    (spoilt,) = dancers.read_members(folder, clip, "png", [7])

    def decode(extension, data):
        return np.full_like(real(extension, data), 99) if data == spoilt else real(extension, data)

    monkeypatch.setattr(parsing, "decode", decode)
    loader = Loader(Plan(dancers, length=2, layers=["parsing"]), 2, most_damaged=1)
    assert len(ids(loader)) == len(loader.plan)
    assert loader.replaced and all(clip.key(7) in why for why in loader.replaced.values())
    assert all("label 99 is outside the set 'atr18'" in why for why in loader.replaced.values())
