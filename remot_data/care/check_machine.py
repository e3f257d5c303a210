"""Checks of the installation and the machine: versions, memory and CPUs, open files, the disk."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remot_data.care.findings import AGAIN, REINSTALL, Check, Finding

if TYPE_CHECKING:
    from remot_data.store.files import Files

_GIB = 2**30


def _python(out: str | None) -> Iterator[Finding]:
    versions = [f"Python {platform.python_version()}", f"remot {importlib.metadata.version('remot')}"]
    packages = ("av", "opencv-python-headless", "numpy", "pyarrow", "distributed")
    versions += [f"{name} {importlib.metadata.version(name)}" for name in packages]
    where = f"{', '.join(versions)}, {platform.system()} {platform.machine()}"
    yield Finding("python", "ok", where)


def _memory(out: str | None) -> Iterator[Finding]:
    total, counted = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), _cpus()
    limit, share = group_limits()
    memory, cpus = min(total, limit or total), min(counted, share or counted)
    workers = max(1, min(math.ceil(cpus), int(memory / (2 * _GIB))))
    detail = f"{cpus:g} CPUs, {memory / _GIB:.1f} GiB of memory"
    if limit and limit < total or share and share < counted:
        detail += f" (a control group's limit; the machine has {counted} and {total / _GIB:.1f} GiB)"
    if math.ceil(cpus) < counted or workers < counted:
        remedy = f"start no more workers than fit, at 2 GiB each: --workers {workers}"
        yield Finding("memory and CPUs", "warn", detail, remedy)
    else:
        yield Finding("memory and CPUs", "ok", detail)


def group_limits(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> tuple[int | None, float | None]:
    """The memory in bytes and the CPUs that the control groups of this process allow; None for no limit.

    Reads both versions of control groups, and the groups above, since each may set a limit.
    """
    memory: list[int] = []
    cpus: list[float] = []
    lines = own.read_text().splitlines() if own.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        base = root / controllers
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            memory += [int(v) for name in _MEMORY_FILES for v in _words(folder / name) if v.isdigit()]
            quota = _words(folder / "cpu.max") or _words(folder / "cpu.cfs_quota_us") + _words(
                folder / "cpu.cfs_period_us"
            )
            if len(quota) == 2 and quota[0].isdigit():
                cpus.append(int(quota[0]) / int(quota[1]))
            if folder == base:
                break
    return min(memory, default=None), min(cpus, default=None)


_MEMORY_FILES = ("memory.max", "memory.limit_in_bytes")


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.is_file() else []


def _cpus() -> int:
    from remot_data.engine.cluster import cpus

    return cpus()


def _files(out: str | None) -> Iterator[Finding]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < 1024:
        yield Finding("open files", "warn", f"at most {soft}", f"`ulimit -n {min(hard, 4096)}` before starting remot")
    else:
        yield Finding("open files", "ok", f"at most {soft}")


def _disk(out: str | None) -> Iterator[Finding]:
    from remot_data.store.disk import FilesError
    from remot_data.store.files import Files

    url = out or os.getcwd()
    try:
        files = Files(url)
    except FilesError as error:
        yield Finding("disk", "bad", str(error), f"do what it says, or {_OTHER_OUT}")
        return
    if files.local:
        folder = Path(files.root)
        while not folder.exists():
            folder = folder.parent
        files = Files(str(folder))
        yield _space(folder)
        yield from _abilities(files.root)
    yield _written(files)


def _space(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    detail = f"{free / _GIB:.1f} GiB free in {folder}"
    if free > 10 * _GIB:
        return Finding("disk space", "ok", detail)
    return Finding("disk space", "warn" if free > _GIB else "bad", detail, f"free some space, or {_OTHER_OUT}")


def _written(files: Files) -> Finding:
    """A file is written as a build writes one, read back, refused to a second writer, and removed."""
    name, data = f"remot-doctor-{uuid.uuid4().hex[:8]}.tmp", os.urandom(1 << 20)
    try:
        seconds = _seconds(files.write, name, data)
        if seconds < 0.2:
            data *= 32 if files.local else 8
            seconds = _seconds(files.write, name, data)
        try:
            back, taken_twice = files.read(name), files.create(name, b"")
        finally:
            files.remove(name)
    except Exception as error:  # Each file system has errors of its own.
        remedy = "get write access" if files.local else "check the address, and the credentials in the environment"
        return Finding("disk", "bad", f"{type(error).__name__} in {files.url}: {error}", f"{remedy}, or {_OTHER_OUT}")
    speed = len(data) / seconds / 1e6
    detail = f"{speed:.0f} MB/s: {len(data) >> 20} MiB written and brought to the disk in {files.url}"
    if back != data:
        return Finding("disk", "bad", f"{files.url} gave other bytes than were written", _OTHER_OUT)
    if taken_twice:
        return Finding(
            "disk", "warn", f"{files.url} cannot keep two builds apart", "let one build at a time write to it"
        )
    if speed < (20 if files.local else 2):
        return Finding("disk", "warn", detail, f"the workers will wait for it: {_OTHER_OUT}, if there is a faster one")
    return Finding("disk", "ok", detail)


def _abilities(folder: str) -> Iterator[Finding]:
    """What the disk lacks; nothing where it lacks nothing."""
    from remot_data.store.disk import LINKS, REPLACING, lacks

    try:
        missing = lacks(folder)
    except OSError:
        return  # the check of writing says why
    if REPLACING in missing:
        yield Finding("disk", "bad", f"{folder} does not know {REPLACING}: no store can be written there", _OTHER_OUT)
    if LINKS in missing:
        detail = f"{folder} does not know {LINKS}: builds are kept apart by files that are created exclusively"
        yield Finding("disk", "warn", detail, "let one machine at a time build there, if several see this folder")


def _seconds(call: Callable[..., Any], *arguments: Any) -> float:
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


_OTHER_OUT = "give another --out"

# Each check, and what to do where the check itself crashes, hangs or fails.
CHECKS: dict[str, tuple[Check, str]] = {
    "python": (_python, REINSTALL),
    "memory and CPUs": (_memory, AGAIN),
    "open files": (_files, AGAIN),
    "disk": (_disk, f"check that the folder answers (`ls`) and the address is right, or {_OTHER_OUT}"),
}
