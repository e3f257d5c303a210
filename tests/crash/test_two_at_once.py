"""Two builds on one store: the second waits or says who holds it. Locks of the dead and of other machines."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from remot_data.store import open_store
from remot_data.store.lock import Lock
from tests.crash.harness import TINY, assert_sound, content, leftovers, remot, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def building(clips: list[str], out: Path, *options: str) -> list[str]:
    return ["build", *clips[:2], "--out", str(out), *TINY, "--no-layers", "--workers", "0", *options]


def leave_lock(store: Path, **holder: object) -> None:
    told = {"host": "elsewhere", "pid": 7, "born": 0.0, "key": "x", "beat": time.time(), **holder}
    (store / "ledger/lock-store.json").write_text(json.dumps(told))


def test_the_second_says_who_holds_it_or_waits(clips, frames_only, tmp_path, copy):
    out = copy(frames_only)
    with open_store(str(out)).lock():
        status, printed = remot(*building(clips, out))
        assert status == 2 and f"is being written by process {os.getpid()} on " in printed, printed
        assert "--wait" in printed and "Traceback" not in printed
        with started(*building(clips, out, "--wait")) as waiting:
            time.sleep(4)
            assert waiting.poll() is None
            held = open_store(str(out)).files.read("ledger/lock-store.json")
            assert json.loads(held)["pid"] == os.getpid()
            began = time.monotonic()
            Path(out / "ledger/lock-store.json").unlink()
            printed, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0 and time.monotonic() - began < 20, printed
    assert_sound(out, content(frames_only))


def test_two_that_begin_at_the_same_time(clips, frames_only, tmp_path):
    out = tmp_path / "store"
    with started(*building(clips, out, "--wait")) as one, started(*building(clips, out, "--wait")) as other:
        for build in (one, other):
            printed, _ = build.communicate(timeout=120)
            assert build.returncode == 0, printed
    assert_sound(out, content(frames_only))


def test_the_lock_of_a_process_that_is_gone_is_taken_over_at_once(clips, frames_only, tmp_path, copy):
    import socket

    out = copy(frames_only)
    leave_lock(out, host=socket.gethostname(), pid=2**22 + 1)
    status, printed = remot(*building(clips, out))
    assert status == 0, printed
    # The same number belongs to another process now.
    leave_lock(out, host=socket.gethostname(), pid=os.getpid(), born=1.0)
    assert remot(*building(clips, out))[0] == 0
    assert_sound(out, content(frames_only))


def test_the_lock_of_another_machine_is_taken_over_when_it_gives_no_sign_of_life(clips, frames_only, copy):
    out = copy(frames_only)
    leave_lock(out, beat=time.time() - Lock.DEAD / 2)
    status, printed = remot(*building(clips, out))
    assert status == 2 and "process 7 on elsewhere (last sign of life" in printed, printed
    leave_lock(out, beat=time.time() - Lock.DEAD - 1)
    status, printed = remot(*building(clips, out))
    assert status == 0, printed
    assert_sound(out, content(frames_only))


def test_a_layer_that_somebody_makes_holds_up_compaction_but_not_when_they_are_gone(complete, copy):
    out = copy(complete)
    store = open_store(str(out))
    layer = store.layers[0].id
    assert remot("remove", out, store.clips[0].id)[0] == 0
    with store.lock(layer):
        status, printed = remot("compact", out, "--workers", "0")
        assert status == 2 and f"is being written by process {os.getpid()}" in printed, printed
    (out / f"ledger/lock-{layer}.json").write_text(json.dumps({"host": "elsewhere", "pid": 7, "beat": 0.0}))
    status, printed = remot("compact", out, "--workers", "0")
    assert status == 0, printed
    assert_sound(out, content(out))


def test_a_lock_that_is_interrupted_while_it_is_taken_is_let_go(frames_only, copy, monkeypatch):
    store = open_store(str(copy(frames_only)))

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store.files, "sweep", interrupt)
    with pytest.raises(KeyboardInterrupt), store.lock():
        pass
    assert leftovers(store.url) == []
