from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from remot_data.cli.commands import app
from remot_data.reading import preview, sampling
from remot_data.reading.loader import Loader
from remot_data.reading.stream import Plan


def test_bytes_are_those_of_the_members_of_an_epoch(dancers):
    plan = Plan(dancers, length=3, layers=["pose", "flow"])
    found = preview.describe(Loader(plan, 4))
    wanted = {"frames": 0, "pose": 0, "flow": 0}
    for number in range(len(plan)):
        data = iter(plan.fetch(number))
        for folder, _, _, which in plan.members(number)[1]:
            kind = "frames" if folder == "frames" else folder.split("/")[1]
            wanted[kind] += sum(len(next(data)) for _ in which)
    assert found["bytes_read"] == wanted
    assert found["windows"] == len(plan) and found["batches"] == len(plan) // 4 and found["uneven"] == len(plan) % 4


def test_mixing_is_measured_against_a_full_shuffle(dancers):
    whole = preview.describe(Loader(Plan(dancers, length=2), 6, world_size=2))
    assert whole["batch"] == 12 and whole["shards"] == 3
    assert whole["clips"] == pytest.approx(whole["of_a_full_shuffle"]["clips"], rel=0.15)
    narrow = preview.describe(Loader(Plan(dancers, length=2, open_shards=1), 12))
    assert narrow["open_shards"] == 1 and narrow["open_bytes"] < whole["open_bytes"]
    assert narrow["clips"] < 0.7 * narrow["of_a_full_shuffle"]["clips"]


@pytest.mark.parametrize(("counts", "batch"), [([5, 5, 5], 4), ([1, 9], 3), ([2, 0, 3], 5), ([4], 2)])
def test_distinct_kinds_of_a_batch_agree_with_trying(counts, batch):
    chance, kinds = np.random.default_rng(0), np.repeat(np.arange(len(counts)), counts)
    tried = [len(set(chance.permutation(kinds)[:batch].tolist())) for _ in range(4000)]
    assert sampling.distinct(np.array(counts), batch) == pytest.approx(np.mean(tried), abs=0.05)


def test_the_command_says_what_it_read_and_what_an_epoch_reads(dancers):
    run = CliRunner().invoke(app, ["stream", dancers.url, "--plan", "--batch", "4", "--max-step", "2", "--json"])
    assert run.exit_code == 0
    told = json.loads(run.stdout.splitlines()[-1])
    assert told["batch"] == 4 and set(told["bytes_read"]) == {"frames", "pose", "parsing", "flow", "background"}
    assert "shards are open at a time" in run.stdout and "full shuffle" in run.stdout
    for decoding in ([], ["--workers", "1"]):
        read = ["stream", dancers.url, "--windows", "20", "--batch", "4", "--layer", "pose", "--json", *decoding]
        run = CliRunner().invoke(app, read)
        told = json.loads(run.stdout.splitlines()[-1])
        assert told["windows"] == 20 and told["rate"] > 0 and "windows a second" in run.stdout
    run = CliRunner().invoke(app, ["stream", dancers.url, "--workers", "1", "--threads", "1"])
    assert run.exit_code == 2 and "choose one" in run.output
    run = CliRunner().invoke(app, ["stream", dancers.url, "--weight", "0"])
    assert run.exit_code == 2 and "as many weights above 0" in run.output
