"""Training as it is started: by `torchrun` with several processes, and killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from remot_data.reading.stream import to_torch
from remot_data.store import Store
from remot_model import checkpoint, networks
from remot_model.config import STAGES, StagePlan
from remot_model.training import processes
from remot_model.training.stages import Setting, needed_generators
from remot_model.training.trainer import Trainer
from tests.remot_model.windows import Windows, clip_arrays, small_config

ROOT = Path(__file__).parents[3]
# Trains on the store given, with the configuration given as JSON.
SCRIPT = """
import json, sys
import torch
from remot_model.config import Config
from remot_model.training.train import train
torch.set_num_threads(1)
store, run, config, options = sys.argv[1:]
train(store, run, config=Config.from_json(json.loads(config)), device="cpu", **json.loads(options))
"""


@pytest.fixture(scope="module")
def dancers(tmp_path_factory) -> Store:
    from remot_data.synthetic.store import build_synthetic

    url = str(tmp_path_factory.mktemp("stores") / "dancers")
    return build_synthetic(url, dancers=4, frames=20, test=1, size=(64, 48), workers=0)


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node")
ACCELERATE = "accelerate.commands.launch --multi_gpu --num_machines 1 --mixed_precision no --dynamo_backend no"


def command(store, run, config, processes=1, launcher=TORCHRUN, **options):
    many = ["-m", *launcher, str(processes)] if processes > 1 else []
    script = Path(run).parent / "script.py"
    script.write_text(SCRIPT)
    return [sys.executable, *many, str(script), store.url, str(run), json.dumps(config.to_json()), json.dumps(options)]


def start(*args, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(*args, **options), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process, seconds=240):
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"training hangs:\n{process.communicate()[0]}")
    assert process.returncode == 0, out
    return out


def state(run, stage):
    return checkpoint.load_state(Path(run), stage)


def rows(run, stage):
    return [json.loads(line) for line in (Path(run) / stage / "stats.jsonl").read_text().splitlines()]


def flat(weights):
    return torch.cat([x.flatten() for x in weights.values()])


class Exchange:
    """Stands in for torch.distributed with two processes that do the same: a sum is twice what one has.

    Sums that nobody waits for are made when they are waited for; `calls` says what each was of.
    """

    def __init__(self, monkeypatch, trainer_of):
        self.calls: list[dict] = []
        monkeypatch.setattr(processes, "count", lambda: 2)
        monkeypatch.setattr(processes.distributed, "all_reduce", self.all_reduce)
        self.trainer = trainer_of()
        self.weights = [p for n in (self.trainer.net, self.trainer.judges) for p in n.parameters() if p.requires_grad]

    def all_reduce(self, x, async_op=False):
        missing = sum(p.grad is None for p in self.weights)
        self.calls.append({"size": x.numel(), "ahead": async_op, "missing": missing})
        if not async_op:
            x.mul_(2)
        return SimpleNamespace(wait=lambda: x.mul_(2))


def batch_of(frames):
    return {name: x[None] for name, x in to_torch(Windows(clip_arrays(frames), frames).window(0)).items()}


def trainer_of(stage, chunk=4, batch=1, accumulate=1):
    torch.manual_seed(0)
    plan = StagePlan(1, batch, length=4, chunk=chunk, lr=1e-3, accumulate=accumulate)
    config = small_config(**{stage: plan}, temporal_scales=1)
    earlier = {n: networks.generator(n, config).requires_grad_(False) for n in needed_generators(stage, config)}
    return Trainer(stage, Setting(config, None, earlier), torch.device("cpu"), 0)


@pytest.mark.parametrize("stage", STAGES)
def test_gradients_travel_while_others_are_made(monkeypatch, stage):
    """Buckets leave in the order of the backward pass, full ones before the last gradient is there, the judges' first;
    and the update is that of one process."""
    alone, batch = trainer_of(stage), batch_of(4)
    expected = dict(alone.step(batch, 1e-3))
    monkeypatch.setattr(processes, "_BUCKET", 4000)
    fake = Exchange(monkeypatch, lambda: trainer_of(stage))
    assert fake.trainer.averager is not None
    found = dict(fake.trainer.step(batch, 1e-3))
    *buckets, table = fake.calls
    assert not table["ahead"] and all(call["ahead"] for call in buckets), "losses are summed last"
    assert sum(call["size"] for call in buckets) == sum(p.numel() for p in fake.weights)
    missing = [call["missing"] for call in buckets]
    assert missing[0] > missing[-1] == 0 and missing == sorted(missing, reverse=True)
    early = [call for call in buckets if call["missing"]]
    assert len(early) >= len(buckets) / 3
    of_judges = sum(p.numel() for p in fake.trainer.judges.parameters() if p.requires_grad)
    of_net = sum(p.requires_grad for p in fake.trainer.net.parameters())
    assert sum(call["size"] for call in buckets if call["missing"] >= of_net) > of_judges / 2
    assert found == pytest.approx(expected, rel=1e-5)
    for name, x in alone.net.state_dict().items():
        torch.testing.assert_close(fake.trainer.net.state_dict()[name], x, rtol=1e-5, atol=1e-7)


def test_a_weight_without_a_gradient_is_not_moved_by_several_processes_either(monkeypatch):
    """The second chunk of a clip takes the features of its source layout from the first, cut off from the graph."""
    alone, batch = trainer_of("layout", chunk=2), batch_of(4)
    alone.step(batch, 1e-3)
    together = Exchange(monkeypatch, lambda: trainer_of("layout", chunk=2)).trainer
    together.step(batch, 1e-3)
    for trainer in (alone, together):
        state = trainer.optimizers["generator"].state
        steps = {n: int(state[p]["step"]) for n, p in trainer.net.named_parameters() if p.requires_grad}
        assert {steps[n] for n in steps if n.startswith("encode_source")} == {1}
        assert {steps[n] for n in steps if not n.startswith("encode_source")} == {2}


def test_parts_of_a_batch_travel_together(monkeypatch):
    batch, sizes = {name: torch.cat([x, x.flip(-1)]) for name, x in batch_of(4).items()}, []
    for parts in (1, 2):
        fake = Exchange(monkeypatch, lambda n=parts: trainer_of("layout", batch=2, accumulate=n))
        fake.trainer.step(batch, 1e-3)
        sizes.append([call["size"] for call in fake.calls])
    assert sizes[0] == sizes[1]


@pytest.mark.slow
def test_two_processes_learn_what_one_does_with_the_whole_batch(dancers, tmp_path):
    """Losses, weights and averages of every stage, to the tolerance of summing in another order; and nobody hangs."""
    plan = StagePlan(3, 2, length=4, chunk=2, lr=1e-5)
    config = small_config(layout=plan, region=plan, whole=plan, flip=0.5)
    runs = {count: tmp_path / f"of-{count}" for count in (1, 2)}
    for count, run in runs.items():
        out = finish(start(dancers, run, config, processes=count, save_every=2))
        assert out.count("run folder") == 1, "only the first process speaks"
    assert "2 processes" in out
    assert checkpoint.read_info(runs[2])["environment"]["processes"] == 2
    for stage in STAGES:
        for a, b in zip(rows(runs[1], stage), rows(runs[2], stage), strict=True):
            assert a.keys() == b.keys() and a == pytest.approx(b, rel=2e-3, abs=1e-5)
        one, two = (state(run, stage) for run in runs.values())
        fresh = Trainer(stage, Setting(config), torch.device("cpu"), 0).state()
        for part in ("generator", "judges"):
            first, a, b = (flat(x[part]) for x in (fresh, one, two))
            # Adam makes a whole step of what is nothing but rounding, so single weights may differ by as much.
            assert float((a - b).norm()) < 0.25 * float((a - first).norm())
        assert one["average"]["n_averaged"] == two["average"]["n_averaged"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [TORCHRUN, (*ACCELERATE.split(), "--num_processes")], ids=["torchrun", "accelerate"]
)
def test_processes_end_together_when_time_is_up(dancers, tmp_path, launcher):
    config = small_config(layout=StagePlan(3, 2, length=4, chunk=4, lr=1e-3))
    given = {"processes": 2, "launcher": launcher, "stages": ["layout"], "minutes": 0.05}
    assert "2 processes" in finish(start(dancers, tmp_path / "run", config, **given))
    assert len(rows(tmp_path / "run", "layout")) >= 1


@pytest.mark.slow
def test_a_batch_that_the_processes_cannot_share_is_refused(dancers, tmp_path):
    process = start(dancers, tmp_path / "run", small_config(), processes=2, stages=["layout"])
    out, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and "give --batch 2 or a multiple" in out


@pytest.mark.slow
def test_killed_twice_and_resumed_equals_never_killed_to_the_bit(dancers, tmp_path):
    """SIGKILL within an epoch; the saved weights and optimizers and every byte of the statistics are the same."""
    plan = StagePlan(24, 2, length=2, chunk=2, lr=1e-3, accumulate=2, doublings=1)
    config = small_config(layout=plan, flip=0.5)
    options = {"stages": ["layout"], "save_every": 3}
    finish(start(dancers, tmp_path / "whole", config, **options))
    killed = tmp_path / "killed"
    for step in (5, 14):
        process = start(dancers, killed, config, resume=True, **options)
        stats = killed / "layout" / "stats.jsonl"
        until = time.monotonic() + 120
        while not (stats.is_file() and stats.read_bytes().count(b"\n") >= step):
            assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert 5 <= len(rows(killed, "layout")) < 24
    assert "resumed at step" in finish(start(dancers, killed, config, resume=True, **options))
    assert (killed / "layout/stats.jsonl").read_bytes() == (tmp_path / "whole/layout/stats.jsonl").read_bytes()
    assert _equal(*(checkpoint.load_run(tmp_path / n).generators["layout"].state_dict() for n in ("whole", "killed")))
    one, two = (state(tmp_path / name, "layout") for name in ("whole", "killed"))
    assert _equal({**one, "seconds": 0}, {**two, "seconds": 0})


def _equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
