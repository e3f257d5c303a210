"""The loader inside torch's own: worker processes, torchdata's states, several ranks, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import islice

import pytest

from remot_data.reading.loader import Loader
from remot_data.reading.stream import Plan
from tests.remote.servers import free_port

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

from torch.utils.data import DataLoader  # noqa: E402

from remot_data.reading.torch_dataset import BatchDataset  # noqa: E402

TOLD = {"length": 2, "seed": 3, "layers": ["pose"]}


@pytest.fixture(scope="module")
def plan(dancers):
    return Plan(dancers, **TOLD)


def ids(batches):
    return [name for batch in batches for name in batch["id"]]


def loading(loader, workers, kind=DataLoader, start="fork", **more):
    context = {"multiprocessing_context": start} if workers else {}
    return kind(BatchDataset(loader), batch_size=None, num_workers=workers, **context, **more)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("last", ["drop", "pad"])
def test_workers_give_the_same_batches_in_the_same_order(plan, workers, last):
    wanted = list(Loader(plan, 5, last=last))
    found = list(loading(Loader(plan, 5, last=last), workers))
    assert ids(found) == ids(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(torch.as_tensor(a["frames"]), torch.from_numpy(b["frames"]))


def test_spawned_workers_too(plan):
    assert ids(loading(Loader(plan, 5), 2, start="spawn")) == ids(Loader(plan, 5))


def test_workers_that_live_on_go_through_the_epochs(plan):
    loader, reference = loading(Loader(plan, 5), 2, persistent_workers=True), Loader(plan, 5)
    for _ in range(3):
        assert ids(loader) == ids(reference)


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_torchdata_keeps_and_loads_the_state(plan, workers):
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    reference = Loader(plan, 3)
    whole = [batch["id"] for _ in range(2) for batch in reference]
    for taken in (1, 4, 11):
        loader = loading(Loader(plan, 3), workers, stateful)
        before = [batch["id"] for batch in islice(loader, taken)]
        state = loader.state_dict()
        again = loading(Loader(plan, 3), workers, stateful)
        again.load_state_dict(state)
        after = [batch["id"] for batch in again]
        assert before + after == whole[: len(before + after)]
        assert len(before + after) == 12


def test_a_killed_worker_is_an_error_at_once(plan):
    class Slow(Loader):
        def part(self, *told):
            for found in super().part(*told):
                time.sleep(0.2)
                yield found

    batches = iter(loading(Slow(plan, 1), 2))
    next(batches)
    threading.Timer(0.3, os.kill, (batches._workers[0].pid, signal.SIGKILL)).start()
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="exited unexpectedly|killed by signal"):
        list(batches)
    assert time.monotonic() - started < 30


# A rank of a training: waits for the others at every step, and writes down what it got.
RANK = """
import json, sys, time
import torch.distributed as dist
from torch.utils.data import DataLoader
from remot_data.reading.loader import Loader
from remot_data.reading.stream import Plan
from remot_data.reading.torch_dataset import BatchDataset

if __name__ == "__main__":
    url, out, told = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    seen, steps, pause = (float(value) for value in sys.argv[4:7])
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    share = {"rank": rank, "world_size": world_size}
    loader = Loader(Plan(url, **told), 12 // world_size, last="through", **share)
    loader.load_state_dict({"seen": seen})
    batches = iter(DataLoader(BatchDataset(loader), batch_size=None, num_workers=2, multiprocessing_context="fork"))
    with open(f"{out}-{rank}.jsonl", "a") as log:
        for _ in range(int(steps)):
            batch = next(batches)
            dist.barrier()
            seen += 12
            log.write(json.dumps({"seen": seen, "windows": [*zip(batch["number"].tolist(), batch["id"])]}) + "\\n")
            log.flush()
            time.sleep(pause)
    dist.barrier()
"""


def started(script, url, out, seen, steps, world_size, pause=0.0):
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world_size)}
    command = [sys.executable, script, url, out, json.dumps(TOLD), str(seen), str(steps), str(pause)]
    each = [{**os.environ, **told, "OMP_NUM_THREADS": "1", "RANK": str(rank)} for rank in range(world_size)]
    return [subprocess.Popen(command, env=env, start_new_session=True) for env in each]


def test_two_ranks_of_two_workers_are_killed_and_one_goes_on(dancers, tmp_path):
    """Three epochs of 36 windows in steps of 12; nothing is lost or seen twice, nobody hangs."""
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    both = started(script, dancers.url, tmp_path / "two", 0, 9, 2, pause=0.3)
    logs = [tmp_path / f"two-{rank}.jsonl" for rank in range(2)]
    deadline = time.monotonic() + 90
    while not all(log.exists() and log.read_text().count("\n") >= 4 for log in logs):
        assert time.monotonic() < deadline and all(process.poll() is None for process in both)
        time.sleep(0.02)
    for process in both:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
    rows = [[json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")] for log in logs]
    done = min(map(len, rows))  # what a checkpoint of both would hold
    assert 4 <= done < 9
    (one,) = started(script, dancers.url, tmp_path / "one", rows[0][done - 1]["seen"], 9 - done, 1)
    assert one.wait(90) == 0
    rest = [json.loads(line) for line in (tmp_path / "one-0.jsonl").read_text().splitlines()]
    taken = sorted(tuple(pair) for row in [*rows[0][:done], *rows[1][:done], *rest] for pair in row["windows"])
    wanted = ids(islice(Loader(Plan(dancers, **TOLD), 1, last="through"), 108))
    assert taken == list(enumerate(wanted))
    assert all(len(set(wanted[epoch : epoch + 36])) == 36 for epoch in (0, 36, 72))
