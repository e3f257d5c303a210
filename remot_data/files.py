"""The only code that knows fsspec: files below one URL, and how they become visible.

Readers see a file whole or not at all. On a local disk bytes go to a temporary name, to the disk, and then under their
name; an object store takes a file in one upload, which it shows when it is complete; elsewhere the upload has a
temporary name and is moved. Trouble that may pass is tried again, with growing pauses.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, BinaryIO, TypeVar

import fsspec
import psutil

from remot_data.records import NO_SEAL, canonical_json, sealed

TEMPORARY = ".tmp"
# Stores that show a file only when its upload is complete, and cannot rename.
_OBJECT_STORES = frozenset("s3 s3a gs gcs abfs abfss az oss memory http https".split())
_PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0)  # seconds before a second, third, ... try
_LASTING = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_LIBRARIES = ("aiohttp", "botocore", "aiobotocore", "urllib3", "requests", "gcsfs", "azure")

T = TypeVar("T")


class FilesError(OSError):
    """A file that cannot be written, or a store that does not answer; the message says what to do."""


class Busy(RuntimeError):
    """Somebody else is writing; the message says who."""


class Files:
    """The files below a URL, by their name relative to it."""

    def __init__(self, url: str) -> None:
        self.url = os.fspath(url)
        protocol = fsspec.utils.get_protocol(self.url)
        options = {} if protocol in ("file", "local") else {"use_listings_cache": False}
        self.fs, self.root = fsspec.core.url_to_fs(self.url, **options)
        self.local = protocol in ("file", "local")
        self._moves = not self.local and protocol not in _OBJECT_STORES

    def path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    # Reading

    def exists(self, name: str) -> bool:
        return self._again(lambda: self.fs.exists(self.path(name)))

    def names(self, folder: str, temporary: bool = False) -> list[str]:
        """Sorted names in a folder, none if it is not there; those of half-written files only where asked for."""

        def listed() -> list[str]:
            try:
                return self.fs.ls(self.path(folder), detail=False)
            except FileNotFoundError:
                return []

        names = (path.rstrip("/").rsplit("/", 1)[1] for path in self._again(listed))
        return sorted(n for n in names if temporary or not n.endswith(TEMPORARY))

    def walk(self) -> list[str]:
        """Every file, sorted, half-written ones too."""
        start = len(self.root.rstrip("/")) + 1
        return sorted(path[start:] for path in self._again(lambda: self.fs.find(self.root)))

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """A whole file, or its bytes [start, end)."""
        return self._again(lambda: self.fs.cat_file(self.path(name), start=start, end=end))

    def open(self, name: str) -> BinaryIO:
        return self._again(lambda: self.fs.open(self.path(name), "rb"))

    # Writing

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file; readers see the old content or the new, never a part."""
        with self.writing(name) as file:
            file.write(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A file that appears under its name when the block ends well, and leaves nothing when it does not."""
        with _explained(f"{self.url}/{name}"):
            if self.local:
                yield from self._replacing(name)
            else:
                yield from self._uploading(name)

    def _replacing(self, name: str) -> Iterator[BinaryIO]:
        path = self.path(name)
        temporary = f"{path}.{uuid.uuid4().hex[:8]}{TEMPORARY}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _uploading(self, name: str) -> Iterator[BinaryIO]:
        with tempfile.NamedTemporaryFile(prefix="remot-") as spool:
            yield spool  # type: ignore[misc]
            spool.flush()
            path = self.path(name)
            target = f"{path}.{uuid.uuid4().hex[:8]}{TEMPORARY}" if self._moves else path
            if self._moves:
                self._again(lambda: self.fs.makedirs(os.path.dirname(path), exist_ok=True))
            self._again(lambda: self.fs.put_file(spool.name, target))
            if self._moves:
                self._again(lambda: self.fs.mv(target, path))

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not be there yet; False where it is. Of several who try, one succeeds.

        A store that cannot refuse to overwrite is asked first instead: there, two may succeed within a moment.
        """
        path = self.path(name)
        with _explained(f"{self.url}/{name}"):
            if self.local:
                temporary = f"{path}.{uuid.uuid4().hex[:8]}{TEMPORARY}"
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(temporary, "wb") as file:
                    file.write(data)
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    return False
                finally:
                    os.unlink(temporary)
                return True
            if self.exists(name):
                return False
            try:
                self.fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
            except (TypeError, NotImplementedError):
                self.write(name, data)
            return True

    def remove(self, name: str) -> None:
        """Remove a file; it may be gone already."""
        with contextlib.suppress(FileNotFoundError), _explained(f"{self.url}/{name}"):
            self._again(lambda: self.fs.rm_file(self.path(name)))

    def remove_folder(self, name: str) -> None:
        """Remove a folder and all in it."""
        with _explained(f"{self.url}/{name}"):
            if self.local:
                shutil.rmtree(self.path(name), ignore_errors=True)
            elif self.exists(name):
                self._again(lambda: self.fs.rm(self.path(name), recursive=True))

    def sweep(self, folder: str) -> None:
        """Remove what interrupted writes left in a folder; only for who holds the lock on it."""
        for name in self.names(folder, temporary=True):
            if name.endswith(TEMPORARY):
                self.remove(f"{folder}/{name}")

    def _again(self, act: Callable[[], T]) -> T:
        """The result of `act`; on a remote store, tried again when the trouble may pass."""
        if self.local:
            return act()
        for pause in (*_PAUSES, None):
            try:
                return act()
            except Exception as error:
                if pause is None or not _may_pass(error):
                    raise
                time.sleep(pause * random.uniform(0.8, 1.2))
        raise AssertionError


def _may_pass(error: Exception) -> bool:
    if isinstance(error, _LASTING):
        return False
    return isinstance(error, (OSError, TimeoutError)) or type(error).__module__.split(".")[0] in _LIBRARIES


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Say what to do about a write that the disk refuses."""
    try:
        yield
    except FilesError:
        raise
    except OSError as error:
        go_on = "free some and run the same command again, what is finished is kept"
        remedy = {
            errno.ENOSPC: f"no space is left; {go_on}",
            errno.EDQUOT: f"the quota of space is used up; {go_on}",
            errno.EROFS: "the file system is read-only",
            errno.EACCES: "this user may not write there",
            errno.EPERM: "this user may not write there",
        }.get(error.errno or 0)
        if remedy is None:
            raise
        raise FilesError(error.errno, f"{where} cannot be written: {remedy}") from error


# Lines that are kept as they come


class Lines:
    """Appends records to a log: one file of JSON lines for each process that writes, in the folder `folder`.

    On a local disk every line is there at once; an object store, which cannot append, gets the new lines as another
    file every few seconds and at the end.
    """

    EVERY = 5.0  # seconds

    def __init__(self, files: Files, folder: str) -> None:
        self._files, self._base, self._part = files, f"{folder}/{time.time_ns():020d}-{uuid.uuid4().hex[:6]}", 0
        self._waiting: list[bytes] = []
        self._last = time.monotonic()
        self._file: Any = None

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: Any) -> None:
        self._flush()
        if self._file is not None:
            self._file.close()

    def add(self, record: Mapping[str, Any]) -> None:
        self._waiting.append(sealed(canonical_json({**record, "seal": NO_SEAL}).encode()) + b"\n")
        if self._files.local or time.monotonic() - self._last > self.EVERY:
            self._flush()

    def _flush(self) -> None:
        data, self._waiting, self._last = b"".join(self._waiting), [], time.monotonic()
        if not data:
            return
        if not self._files.local:
            self._files.write(f"{self._base}-{self._part:06d}.jsonl", data)
            self._part += 1
            return
        with _explained(f"{self._files.url}/{self._base}.jsonl"):
            if self._file is None:
                path = self._files.path(f"{self._base}.jsonl")
                os.makedirs(os.path.dirname(path), exist_ok=True)
                self._file = open(path, "ab")  # noqa: SIM115 - closed in __exit__
            self._file.write(data)
            self._file.flush()


def read_lines(files: Files, folder: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The records of a log in the order they were written, and the names of its files.

    What a kill cut off is left out: its task is simply done again.
    """
    names = [f"{folder}/{name}" for name in files.names(folder) if name.endswith(".jsonl")]
    records = []
    for name in names:
        *lines, _ = files.read(name).split(b"\n")
        records += [json.loads(line) for line in lines]
    for record in records:
        record.pop("seal")
    return records, names


# Locks


class Lock:
    """Held by one process at a time, over machines; a context manager.

    The file says who holds it and is renewed while it is held. It is taken over from a process of this machine that is
    gone, and from one elsewhere that gave no sign of life for a while. Should two ever work at once, they write
    the same bytes: the lock spares work, it is not what keeps a store right.
    """

    BEAT, DEAD = 15.0, 90.0  # seconds

    def __init__(self, files: Files, name: str, wait: bool = False) -> None:
        self._files, self._name, self._wait = files, name, wait
        me = psutil.Process()
        self._me = {"host": socket.gethostname(), "pid": me.pid, "born": me.create_time(), "key": uuid.uuid4().hex}
        self._done = threading.Event()

    def __enter__(self) -> Lock:
        while not self._take():
            if not self._wait:
                raise Busy(f"{self._files.url} is being written by {self._holder()}; wait for it, or use --wait")
            time.sleep(1.0)
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._done.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if self._read().get("key") == self._me["key"]:
                self._files.remove(self._name)

    def _take(self) -> bool:
        if self._files.create(self._name, self._content()):
            return True
        held = self._read()
        if self._alive(held):
            return False
        if held == self._read():
            self._files.remove(self._name)
        return self._files.create(self._name, self._content())

    def _alive(self, held: Mapping[str, Any]) -> bool:
        if held.get("host") == self._me["host"]:
            with contextlib.suppress(psutil.Error):
                return abs(psutil.Process(held["pid"]).create_time() - held["born"]) < 1.0
            return False
        return time.time() - held.get("beat", 0.0) < self.DEAD

    def _beat(self) -> None:
        while not self._done.wait(self.BEAT):
            with contextlib.suppress(OSError):
                self._files.write(self._name, self._content())

    def _content(self) -> bytes:
        return json.dumps({**self._me, "beat": time.time()}).encode()

    def _read(self) -> dict[str, Any]:
        try:
            return json.loads(self._files.read(self._name))
        except (FileNotFoundError, ValueError):
            return {}

    def _holder(self) -> str:
        held = self._read()
        beat = datetime.fromtimestamp(held.get("beat", 0.0), timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"process {held.get('pid')} on {held.get('host')} (last sign of life {beat})"
