"""What `remot status` tells: what is there, who writes and how far they are, what failed lately."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import psutil
import pytest

from remot_data.care.status import status
from remot_data.cli.commands import invoke
from remot_data.store import Store, StoreError, open_store


def held(store: Store, name: str, **changes: object) -> None:
    me = psutil.Process()
    now = time.time()
    stage = {"done": 11, "total": 41, "begun": now - 20, "at": now}
    about = {"host": socket.gethostname(), "pid": me.pid, "born": me.create_time(), "key": "k", "beat": now}
    store.files.write(f"ledger/lock-{name}.json", json.dumps({**about, "doing": {"frames": stage}, **changes}).encode())


def test_a_store_nobody_writes(own_dancers: Store) -> None:
    found = status(own_dancers)
    assert (found.clips, found.frames, found.shards, found.written) == (5, 100, 3, 3)
    assert found.writers == () and found.snapshots == ("main",) and found.lately == ()
    assert set(found.layers.values()) == {3} and {name.split("/")[0] for name in found.layers} >= {"pose", "parsing"}


def test_who_writes_and_how_far_they_are(own_dancers: Store) -> None:
    held(own_dancers, "store")
    (writer,) = status(own_dancers).writers
    assert writer.alive and writer.lock == "store" and writer.silent < 5
    (doing,) = writer.doing
    assert (doing.done, doing.total) == (11, 41)
    assert doing.rate == pytest.approx(0.5, rel=0.05) and doing.left == pytest.approx(60, rel=0.05)


def test_who_is_gone(own_dancers: Store, capsys: pytest.CaptureFixture[str]) -> None:
    held(own_dancers, "store", born=1.0)
    held(own_dancers, "pose-123", host="elsewhere", beat=time.time() - 3600)
    assert [w.alive for w in status(own_dancers).writers] == [False, False]
    assert invoke(["status", own_dancers.url]) == 0
    said = capsys.readouterr().out
    assert "was writing layer pose-123 and is gone, 1 h 00 min since its last sign of life" in said
    assert "run the same command again to resume" in said and "frames: 11 of 41" in said


def test_a_lock_that_is_half_written_or_older_is_no_trouble(own_dancers: Store) -> None:
    own_dancers.files.write("ledger/lock-a.json", b"")
    own_dancers.files.write("ledger/lock-b.json", b'{"host": "elsewhere", "pid": 3, "beat": 1.0}')
    (writer,) = status(own_dancers).writers
    assert (writer.lock, writer.alive, writer.doing) == ("b", False, ())


def test_a_holder_tells_how_far_it_is(own_dancers: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from remot_data.store.lock import Lock

    monkeypatch.setattr(Lock, "TELL", 0.02)
    heard: list[tuple[str, int, int]] = []
    with own_dancers.lock() as lock:
        progress = lock.telling(lambda *told: heard.append(told))
        progress("frames", 1, 9)
        progress("frames", 4, 9)
        end = time.monotonic() + 5
        while not (doing := status(own_dancers).writers[0].doing) or doing[0].done < 4:
            assert time.monotonic() < end
            time.sleep(0.02)
    assert heard == [("frames", 1, 9), ("frames", 4, 9)]
    assert doing[0].total == 9 and status(own_dancers).writers == ()


def test_what_failed_lately_stands_at_the_end_of_the_logs(own_dancers: Store) -> None:
    with own_dancers.log("videos") as log:
        for n in range(2000):
            rejects = [{"what": "video", "code": "no-person", "detail": ""}] if n in (3, 1999) else []
            log.add({"input": {"path": f"v{n}.mp4"}, "rejects": rejects})
    with own_dancers.log("receipts") as log:
        log.add({"made": {"layers/pose/x": {"failed": {"clip-7": "it is dark"}}}})
    assert status(own_dancers).lately == ("v1999.mp4: no-person", "layers/pose/x, clip clip-7: it is dark")


def test_a_build_that_has_only_begun(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is no store"):
        status(Store(str(tmp_path)))
    (tmp_path / "store.json").write_text('{"format": 2, "size": [64, 48]}')
    found = status(Store(str(tmp_path)))
    assert (found.clips, found.shards, found.written) == (0, 0, 0)


def test_as_json(own_dancers: Store, capsys: pytest.CaptureFixture[str]) -> None:
    held(own_dancers, "store")
    assert invoke(["status", own_dancers.url, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["clips"] == 5 and found["writers"][0]["doing"][0]["what"] == "frames"
    assert len(open_store(own_dancers.url).clips) == 5
