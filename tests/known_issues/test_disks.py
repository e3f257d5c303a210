"""Disks that lack what a usual one can do: hard links (exFAT, mounts of buckets), or a file put over another.

Made input: `os.link` and `os.replace` that answer as such disks do. Right: without hard links a store is built, and is
kept to one build at a time by files that are created exclusively; without the other a sentence says that none is.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time

import pytest

from remot_data.care import check_machine
from remot_data.ingest.build import build
from remot_data.store import open_store
from remot_data.store.disk import FilesError
from remot_data.store.files import Files
from remot_data.store.lock import Busy, Lock

NAME = "ledger/lock-store.json"


@pytest.fixture(params=[errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM])
def no_links(request, monkeypatch):
    def link(source, target, **_):
        raise OSError(request.param, os.strerror(request.param), source, None, target)

    monkeypatch.setattr(os, "link", link)


@pytest.fixture
def no_renaming(monkeypatch):
    real = os.replace

    def replace(source, target, **_):
        if os.path.exists(target):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), source, None, target)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)


@pytest.fixture
def stills(tmp_path):
    """A folder without one video: all but the frames of a store is written."""
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "none.mp4").write_bytes(b"no video")
    return folder


def test_a_store_is_built_without_hard_links(stills, tmp_path, no_links):
    done = build([stills], str(tmp_path / "store"), layers={}, workers=0)
    assert done.refused == 1
    assert open_store(str(tmp_path / "store")).clips == []
    assert not [name for name in os.listdir(tmp_path / "store/ledger") if name.startswith("lock")]


def test_one_of_several_holds_the_lock_without_hard_links(tmp_path, no_links, monkeypatch):
    monkeypatch.setattr(Lock, "SETTLE", 0.01)
    barrier, held = threading.Barrier(4), []

    def take() -> None:
        barrier.wait()
        try:
            with Lock(Files(str(tmp_path)), NAME):
                held.append(1)
                time.sleep(0.5)
        except Busy:
            pass

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held == [1]


def test_a_lock_that_is_half_written_is_not_a_dead_ones(tmp_path):
    files = Files(str(tmp_path))
    with Lock(files, NAME):
        whole = files.read(NAME)
    path = tmp_path / NAME
    path.write_bytes(whole[:20])

    def finish() -> None:
        time.sleep(0.3)
        path.write_bytes(whole)

    writer = threading.Thread(target=finish)
    writer.start()
    with pytest.raises(Busy, match=f"process {os.getpid()}"):
        Lock(files, NAME).__enter__()
    writer.join()
    assert json.loads(files.read(NAME)) == json.loads(whole)


def test_a_lock_that_stays_half_written_is_taken_over(tmp_path, no_links, monkeypatch):
    monkeypatch.setattr(Lock, "WRITING", 0.2)
    files = Files(str(tmp_path))
    files.write(NAME, b'{"host": ')
    with Lock(files, NAME):
        assert json.loads(files.read(NAME))["pid"] == os.getpid()


def test_a_disk_that_cannot_put_a_file_over_another_is_refused_at_once(stills, tmp_path, no_renaming):
    with pytest.raises(FilesError, match="this disk cannot put a file in the place of another .*another disk"):
        build([stills], str(tmp_path / "store"), layers={}, workers=0)
    assert not os.path.exists(tmp_path / "store/ledger/videos.jsonl")


def test_doctor_names_what_a_disk_lacks(tmp_path, no_links, no_renaming):
    found = {f.detail: f.state for f in check_machine.CHECKS["disk"][0](str(tmp_path))}
    assert any("hard links" in detail and state == "warn" for detail, state in found.items())
    assert any("in the place of another" in detail and state == "bad" for detail, state in found.items())
