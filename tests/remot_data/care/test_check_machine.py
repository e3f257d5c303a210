"""Memory and CPUs that control groups allow, open files, disks that are full, read-only or lie."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

import pytest

from remot_data.care import check_machine
from tests.remot_data.care.conftest import by_name, one


def _group(root: Path, path: str, **files: str) -> None:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_limits_of_control_groups_are_the_least_of_the_group_and_those_above(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/job/step\n")
    _group(tmp_path, "job/step", memory__max="max", cpu__max="250000 100000")
    _group(tmp_path, "job", memory__max="3221225472", cpu__max="max 100000")
    _group(tmp_path, ".", memory__max="8589934592")
    assert check_machine.group_limits(tmp_path, own) == (3 << 30, 2.5)


def test_limits_of_the_first_version_of_control_groups(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("4:memory:/slurm/job\n3:cpu,cpuacct:/slurm/job\n1:name=systemd:/\n")
    _group(tmp_path, "memory/slurm/job", memory__limit_in_bytes="1073741824")
    _group(tmp_path, "cpu,cpuacct/slurm", cpu__cfs_quota_us="150000", cpu__cfs_period_us="100000")
    _group(tmp_path, "cpu,cpuacct/slurm/job", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert check_machine.group_limits(tmp_path, own) == (1 << 30, 1.5)


def test_no_control_groups_no_limits(tmp_path: Path) -> None:
    assert check_machine.group_limits(tmp_path, tmp_path / "own") == (None, None)


@pytest.mark.parametrize(
    ("memory", "share", "workers"), [(5 << 30, None, 2), (None, 1.5, 2), (1 << 30, 8.0, 1), (64 << 30, None, None)]
)
def test_fewer_workers_are_advised_where_a_group_is_smaller_than_the_machine(
    memory: int | None, share: float | None, workers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gib = 2**30
    monkeypatch.setattr(check_machine, "_cpus", lambda: 8)
    monkeypatch.setattr(check_machine, "group_limits", lambda: (memory, share))
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 32 * gib // 4096, "SC_PAGE_SIZE": 4096}.__getitem__)
    finding = one(check_machine._memory(None))
    assert finding.state == ("warn" if workers else "ok")
    assert finding.remedy.endswith(f"--workers {workers}" if workers else "")


def test_few_open_files_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda what: (256, 2048))
    finding = one(check_machine._files(None))
    assert finding.state == "warn" and "ulimit -n 2048" in finding.remedy


def test_the_disk_of_a_folder_that_is_not_there_yet_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    found = by_name(check_machine._disk(str(tmp_path / "a" / "store")))
    assert found["disk"].state == "ok" and str(tmp_path) in found["disk"].detail
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("remot_data.store.disk.open", refuse, raising=False)
    finding = by_name(check_machine._disk(str(tmp_path)))["disk"]
    assert finding.state == "bad" and "read-only" in finding.detail and "--out" in finding.remedy


def test_a_full_disk_is_bad_and_a_filling_one_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, state in ((10**8, "bad"), (5 * 10**9, "warn"), (10**12, "ok")):
        usage = shutil._ntuple_diskusage(2 * 10**12, 0, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path, usage=usage: usage)
        assert by_name(check_machine._disk(str(tmp_path)))["disk space"].state == state


@pytest.mark.parametrize(
    ("name", "changed", "state", "says"),
    [
        ("read", lambda self, name: b"other", "bad", "other bytes"),
        ("create", lambda self, name, data: True, "warn", "two builds apart"),
        ("write", lambda self, name, data: time.sleep(0.25), "warn", "MB/s"),
    ],
)
def test_a_disk_that_lies_or_crawls_is_found(
    name: str, changed: object, state: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from remot_data.store.files import Files

    if name == "write":
        kept: dict[str, bytes] = {}
        monkeypatch.setattr(Files, "write", lambda self, n, data: (kept.update({n: data}), changed(self, n, data)))
        monkeypatch.setattr(Files, "read", lambda self, n: kept[n])
        monkeypatch.setattr(Files, "create", lambda self, n, data: False)
    else:
        monkeypatch.setattr(Files, name, changed)
    finding = by_name(check_machine._disk(str(tmp_path)))["disk"]
    assert finding.state == state and says in finding.detail


def test_a_store_that_is_no_folder_is_written_and_read_too() -> None:
    import fsspec

    finding = one(check_machine._disk("memory://doctor/store"))
    assert finding.state == "ok" and "memory://doctor/store" in finding.detail
    assert not any("remot-doctor" in path for path in fsspec.filesystem("memory").find("/"))


def test_an_address_of_an_unknown_kind_is_bad() -> None:
    finding = one(check_machine._disk("pigeon://loft/store"))
    assert finding.state == "bad" and "pigeon" in finding.detail and "install" in finding.detail
