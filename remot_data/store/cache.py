"""A cache on local disk for what is read of remote shards, shared by all processes of a machine.

Shards are kept in blocks. A block is named by the sha256 of its tar and its number, so it can never be out of date, and
ends with the sha256 of its bytes, so a torn one is noticed and fetched again. Whoever is killed leaves at most a
temporary file, which the next eviction sweeps, and locks that the kernel takes back.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from remot_data.store.disk import TEMPORARY
from remot_data.store.files import Files
from remot_data.store.ranges import cut_out, together

log = logging.getLogger(__name__)

BLOCK = 2**20  # bytes fetched at once
_DIGEST = 32  # bytes of the sha256 behind the data of a block
_STRIPES = 256  # locks on blocks; two blocks of one lock only wait for each other
_WAIT = 90.0  # seconds to wait for another process to fetch a block, before fetching it too
_STEP = 64 * 2**20  # most bytes a process writes between two looks at the size of the cache
_ROOM = 0.9  # share of the limit that an eviction leaves
_FRESH = 60.0  # seconds in which a block need not be marked as used again
_STALE = 600.0  # seconds after which a temporary file belongs to nobody


class Cache:
    """At most about `limit` bytes of blocks in a folder.

    The size is looked at after every 64 MB written (a twentieth of the limit, if that is less): so for each process
    that writes, the limit may be passed by that much for a moment. What was not used for longest goes first. Where the
    disk is full or refuses, reading continues without the cache, which is said once; it is tried again after a minute.

    A cache can be pickled, and used by several threads and in forked processes.
    """

    def __init__(self, folder: str | Path, limit: float = 50e9) -> None:
        self.folder, self.limit = Path(folder), int(limit)
        if self.limit < BLOCK:
            raise ValueError(f"a cache of {self.limit} bytes holds no block of {BLOCK}; give it more")
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is no folder; the cache needs one of its own")
        self._begin()

    def _begin(self) -> None:
        self._checked: dict[str, None] = {}  # blocks whose sha256 this process has seen to fit
        self._guard = threading.Lock()
        self._pid, self._names = os.getpid(), itertools.count()
        self._written, self._off, self._said = self.limit, 0.0, False

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "limit": self.limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def pieces(self, files: Files, wanted: Sequence[tuple[str, int, int]], stamps: Mapping[str, str]) -> list[bytes]:
        """As `Files.pieces`, through the cache; `stamps` gives the sha256 of each file."""
        if self._pid != os.getpid():
            self._begin()
        known = {name: f"{stamp}-{BLOCK}" for name, stamp in stamps.items()}
        spans = together(wanted)
        found = [self._piece(known[name], start, end) for name, start, end in spans]
        absent = [span for span, piece in zip(spans, found, strict=True) if piece is None]
        if absent and time.monotonic() < self._off:
            fetched = iter(files.pieces(absent))
        else:
            blocks = self._fetched(files, sorted({b for span in absent for b in _of(*span)}), known) if absent else {}
            fetched = (_of_blocks(blocks, span) for span in absent)
        found = [next(fetched) if piece is None else piece for piece in found]
        return cut_out(wanted, spans, found)  # type: ignore[arg-type]

    def _fetched(
        self, files: Files, blocks: Sequence[tuple[str, int]], known: Mapping[str, str]
    ) -> dict[tuple[str, int], bytes]:
        """The bytes of blocks, fetched together where no other process has fetched them meanwhile."""
        paths = {block: self._path(known[block[0]], block[1]) for block in blocks}
        with self._claimed(paths.values()):
            held = {block: self._read(path, 0, BLOCK) for block, path in paths.items()}
            missing = [block for block in blocks if held[block] is None]
            fetched = files.pieces([(name, n * BLOCK, (n + 1) * BLOCK) for name, n in missing])
            for block, data in zip(missing, fetched, strict=True):
                held[block] = data
                self._keep(paths[block], data)
        self._evict()
        return held  # type: ignore[return-value]

    def _piece(self, stamp: str, start: int, end: int) -> bytes | None:
        """The bytes [start, end) of a file if all its blocks are here; less where the file ends before."""
        out = []
        for n in range(start // BLOCK, -(-end // BLOCK)):
            data = self._read(self._path(stamp, n), max(start - n * BLOCK, 0), min(end - n * BLOCK, BLOCK))
            if data is None:
                return None
            out.append(data)
        return out[0] if len(out) == 1 else b"".join(out)

    def _path(self, stamp: str, number: int) -> str:
        name = hashlib.sha256(f"{stamp}-{number}".encode()).hexdigest()[:40]
        return f"{self.folder}/{name[:2]}/{name[2:]}"

    def _read(self, path: str, start: int, end: int) -> bytes | None:
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError:
            return None
        try:
            about = os.fstat(file)
            if path not in self._checked and not self._sound(path, os.pread(file, about.st_size, 0)):
                return None
            if time.time() - about.st_mtime > _FRESH:
                with contextlib.suppress(OSError):
                    os.utime(file)
            return os.pread(file, min(end, about.st_size - _DIGEST) - start, start) if start < about.st_size else b""
        except OSError:  # a disk that fails is no worse than a block that is not there
            return None
        finally:
            os.close(file)

    def _sound(self, path: str, content: bytes) -> bool:
        if len(content) < _DIGEST or hashlib.sha256(content[:-_DIGEST]).digest() != content[-_DIGEST:]:
            log.warning("%s was torn or damaged; it is fetched again", path)
            with contextlib.suppress(OSError):
                os.unlink(path)
            return False
        self._seen(path)
        return True

    def _seen(self, path: str) -> None:
        with self._guard:
            self._checked[path] = None
            while len(self._checked) > 100_000:
                self._checked.pop(next(iter(self._checked)))

    def _keep(self, path: str, data: bytes) -> None:
        temporary = f"{path}.{os.getpid()}-{next(self._names)}{TEMPORARY}"
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.write(hashlib.sha256(data).digest())
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            self._turn_off(error)
        else:
            self._written += len(data)
            self._seen(path)

    def _turn_off(self, error: OSError) -> None:
        self._off = time.monotonic() + 60
        with self._guard:
            said, self._said = self._said, True
        if not said:
            why = "the cache %s cannot be written (%s); reading continues without it"
            log.warning(why, self.folder, error.strerror)

    @contextmanager
    def _claimed(self, paths: Iterable[str]) -> Iterator[None]:
        """Hold the locks of some blocks, taken in one order by all; given up by the kernel when a process dies."""
        stripes = sorted({int(os.path.basename(path)[:8], 16) % _STRIPES for path in paths})
        with contextlib.ExitStack() as stack:
            try:
                os.makedirs(self.folder, exist_ok=True)
                deadline = time.monotonic() + _WAIT
                for stripe in stripes:
                    file = stack.enter_context(open(f"{self.folder}/lock-{stripe:02x}", "ab"))
                    while not _locked(file) and time.monotonic() < deadline:
                        time.sleep(0.005)
            except OSError as error:  # no room for the locks themselves: two may fetch the same
                self._turn_off(error)
            yield

    def _evict(self) -> None:
        """Remove what was not used for longest, if enough was written since the last look; one process at a time."""
        with self._guard:
            if self._written < min(_STEP, self.limit // 20):
                return
            self._written = 0
        with contextlib.suppress(OSError), open(f"{self.folder}/lock-evict", "ab") as lock:
            if _locked(lock):
                self._make_room()

    def _make_room(self) -> None:
        blocks, total = [], 0
        for folder in os.scandir(self.folder):
            for entry in os.scandir(folder) if folder.is_dir() else ():
                with contextlib.suppress(FileNotFoundError):
                    about = entry.stat()
                    if entry.name.endswith(TEMPORARY):
                        if time.time() - about.st_mtime > _STALE:
                            os.unlink(entry)
                        continue
                    blocks.append((about.st_mtime_ns, about.st_size, entry.path))
                    total += about.st_size
        if total <= self.limit:
            return
        for _, size, path in sorted(blocks):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
            if total <= _ROOM * self.limit:
                return


def _of(name: str, start: int, end: int) -> list[tuple[str, int]]:
    """The blocks of a file that the bytes [start, end) lie in."""
    return [(name, n) for n in range(start // BLOCK, -(-end // BLOCK))]


def _of_blocks(blocks: Mapping[tuple[str, int], bytes], span: tuple[str, int, int]) -> bytes:
    _, start, end = span
    data = b"".join(blocks[block] for block in _of(*span))
    begin = start % BLOCK
    return data[begin : begin + end - start]


def _locked(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
