from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest
import torch

from remot_model.training import journal
from remot_model.training.journal import Journal, Pace

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(journal.time, "monotonic", lambda: now[0])
    return now


def row(step, **losses):
    return {"step": step, "lr": 2e-4, **losses}


def test_the_line_names_a_few_losses_and_the_files_have_all(tmp_path, clock):
    shown = []
    made = Journal(tmp_path, "region", 0, 9, ("total", "rec", "d"), lambda line, last: shown.append((line, last)))
    pace = Pace(0, 0.0, 0.0)
    for step in range(1, 10):
        clock[0] += 0.4
        made.write([row(step, total=12.3456, rec=0.5, per=7.0, gram=1.0, d=0.25)], pace, step / 9, CPU)
    made.close()
    lines = [line for line, _ in shown]
    assert lines[-1].startswith("region 9/9 | total 12.35, rec 0.5, d 0.25 | 2.5 steps/s | data wait 0 % | ")
    assert [line.split()[1] for line in lines] == ["1/9", "4/9", "7/9", "9/9"]  # about one a second, and the last
    assert [last for _, last in shown] == [False, False, False, True]
    rows = [json.loads(line) for line in (tmp_path / "region" / "stats.jsonl").read_text().splitlines()]
    assert len(rows) == 9 and set(rows[0]) == {"step", "lr", "total", "rec", "per", "gram", "d"}


@pytest.mark.parametrize("size", [1e-9, 1.0, 123456.789, float("nan")])
def test_the_line_has_at_most_120_characters(tmp_path, clock, size):
    shown = []
    named = ("total", "foreground", "d")
    made = Journal(tmp_path, "layout", 0, 900_000, named, lambda line, last: shown.append(line))
    pace = Pace(0, 0.0, 0.0)
    clock[0] += 1.0
    pace.waited = 1.0
    made.write([row(899_999, **dict.fromkeys(named, size))], pace, 0.001, CPU)
    made.close()
    assert len(shown[0]) <= 120 and shown[0].startswith("layout 899999/900000 | total ")
    assert size != 1.0 or shown[0].endswith(" left")


def test_where_nothing_can_be_redrawn_a_line_comes_every_30_seconds_and_at_the_end(clock):
    said = []
    show = journal.printed(said.append)
    for second in range(70):
        show(str(second), second == 69)
        clock[0] += 1.0
    assert said == ["0", "30", "60", "69"]


TRAIN = """
import sys
from remot_data import cli
from remot_model.training import train as module
def train(stores, run, *, say, show, **options):
    say("reading: threads")
    show("region 1/3 | total 5", False)
    show("region 2/3 | total 4", False)
    if "--stage" in sys.argv:
        raise KeyboardInterrupt
    show("region 3/3 | total 3", True)
    return [module.StageResult("region", 3, 1.0, 3.0, 0.1, {})]
module.train = train
sys.exit(cli.run(["train", "store", "--out", "run", "--preset", "tiny:portrait", *sys.argv[1:]]))
"""


def on_a_terminal(*options):
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", TRAIN, *options], stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 4096):
            said += piece
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    return process.wait(60), said.decode().replace("\r\n", "\n")


@pytest.mark.slow
def test_on_a_terminal_the_line_is_redrawn_in_place():
    status, said = on_a_terminal()
    assert status == 0
    redrawn = "".join(f"\rregion {n}/3 | total {6 - n}\x1b[K" for n in (1, 2, 3))
    assert said == f"\r\x1b[Kreading: threads\n{redrawn}\ntrained region into run\n"


@pytest.mark.slow
def test_a_sentence_after_ctrl_c_begins_a_new_line():
    status, said = on_a_terminal("--stage", "region")
    assert status == 130
    assert "total 4\x1b[K\nstopped; " in said
