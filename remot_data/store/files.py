"""The only code that knows fsspec: files below one URL, and how they become visible.

Readers see a file whole or not at all. On a local disk bytes go to a temporary name, to the disk, and then under their
name; an object store takes a file in one upload, which it shows when it is complete; elsewhere the upload has a
temporary name and is moved. Trouble that may pass is tried again, with growing pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import logging
import math
import os
import random
import shutil
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar

import fsspec

from remot_data.store.disk import TEMPORARY, FilesError, create, explained, replacing
from remot_data.store.ranges import cut_out, together

log = logging.getLogger(__name__)

LOCK = "lock-"  # how the names of locks begin
_S3 = frozenset(("s3", "s3a"))
_HTTP = frozenset(("http", "https"))
# Stores that show a file only when its upload is complete, and cannot rename.
_OBJECT_STORES = _S3 | _HTTP | frozenset("gs gcs abfs abfss az oss memory".split())
_EXTRAS = {**dict.fromkeys(_S3, "s3"), **dict.fromkeys(_HTTP, "http")}
_PATIENCE = 60.0  # seconds that a remote store may be away
_PAUSES = (0.2, 8.0)  # seconds before the second try, doubled each time, and the most
_TIMEOUTS = (10.0, 30.0)  # seconds to connect to a web server, and for its next bytes
_SMALL = 2**20  # bytes of a file that is read at once where parts of it are wanted
_LASTING = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_LASTING_NUMBERS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSYS))
_LASTING_STATUS = frozenset((401, 403, 404, 405, 410, 414, 416, 501))
_LASTING_NAMES = frozenset("NoCredentialsError PartialCredentialsError ProfileNotFound ParamValidationError".split())
_LIBRARIES = frozenset("aiohttp botocore aiobotocore urllib3 requests gcsfs azure".split())

T = TypeVar("T")


class Files:
    """The files below a URL, by their name relative to it.

    Raises:
        FilesError: where the library for such URLs is missing; later, for a store that refuses, or that is away for
            longer than a minute.
    """

    def __init__(self, url: str) -> None:
        self.url = os.fspath(url)
        # What begins as a path is one, whatever comes after: "::" would chain file systems, "://" name one.
        self._path = self.url.startswith(("/", "./", "../", "~"))
        self._protocol = "file" if self._path else fsspec.utils.get_protocol(self.url)
        self.local = self._protocol in ("file", "local")
        self._moves = not self.local and self._protocol not in _OBJECT_STORES
        self._trouble: tuple[float, float] | None = None  # when the store was first and last seen failing
        self._connect()

    def _connect(self) -> None:
        options = {} if self.local else {"use_listings_cache": False}
        try:
            if self._path:
                self._fs = fsspec.filesystem("file")
                self.root = os.path.abspath(os.path.expanduser(self.url))
            else:
                self._fs, self.root = fsspec.core.url_to_fs(self.url, **options)
        except (ImportError, ValueError) as error:
            extra = _EXTRAS.get(self._protocol)
            cure = f'pip install "remot[{extra}]"' if extra else "install the fsspec package for such URLs"
            raise FilesError(f"{self.url} cannot be opened: {error}; {cure}") from error
        self._pid = os.getpid()
        if self.local:
            return
        _connected[id(self._fs)] = self._fs
        if hasattr(self._fs, "retries"):
            self._fs.retries = 1  # tries of a library's own would multiply with those made here
        if self._protocol in _HTTP:
            import aiohttp

            limits = aiohttp.ClientTimeout(total=None, sock_connect=_TIMEOUTS[0], sock_read=_TIMEOUTS[1])
            self._fs.client_kwargs = {"timeout": limits, **self._fs.client_kwargs}

    @property
    def fs(self) -> Any:
        """The fsspec file system; a process that was forked gets its own."""
        if self._pid != os.getpid():
            self._connect()
        return self._fs

    def path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    # Reading

    def exists(self, name: str) -> bool:
        if self._protocol not in _HTTP:
            return self._again(lambda: self._is_there(name))
        # fsspec takes a web server that is away for one that has no such file.
        with contextlib.suppress(FileNotFoundError):
            self.read(name, 0, 1)
            return True
        return False

    def _is_there(self, name: str) -> bool:
        try:
            self.fs.info(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def names(self, folder: str, temporary: bool = False) -> list[str]:
        """Sorted names in a folder, none if it is not there; those of half-written files only where asked for."""

        def listed() -> list[str]:
            try:
                return os.listdir(self.path(folder)) if self.local else self.fs.ls(self.path(folder), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []

        names = (path.rstrip("/").rsplit("/", 1)[-1] for path in self._again(listed))
        return sorted(n for n in names if temporary or not n.endswith(TEMPORARY))

    def walk(self) -> list[str]:
        """Every file, sorted, half-written ones too."""
        start = len(self.root.rstrip("/")) + 1
        found = self._again(lambda: self.fs.find(self.root))
        return sorted(path[start:] for path in found if len(path) > start)  # s3fs may name the empty folder itself

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """A whole file, or its bytes [start, end), fewer where it ends before."""
        if start is not None and end is not None:
            return self.parts(name, [(start, end)])[0]
        return self._again(lambda: self._whole(name, start, end))

    def _whole(self, name: str, start: int | None, end: int | None) -> bytes:
        if start is None and end is None and self._protocol in _S3:
            start = 0  # else s3fs asks for the size first
        try:
            return self.fs.cat_file(self.path(name), start=start, end=end)
        except NotADirectoryError as error:
            raise FileNotFoundError(error.errno, error.strerror, error.filename) from error
        except OSError as error:
            if start == 0 and _status(error) == 416:
                return b""
            raise

    def parts(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes [start, end) of a file for each range; those that lie close together are asked for at once."""
        return self.pieces([(name, start, end) for start, end in ranges])

    def pieces(self, wanted: Sequence[tuple[str, int, int]], waste: float = math.inf) -> list[bytes]:
        """The bytes [start, end) of each (name, start, end), fewer where a file ends before; all asked for at once.

        Ranges of a file that lie close together become one request. The gaps between them are read along, the smallest
        first, while they are not more than the share `waste` of the bytes wanted.
        """
        spans = together(wanted, waste)
        found = self._again(lambda: self._fetch(spans)) if spans else []
        for (name, start, end), data in zip(spans, found, strict=True):
            if len(data) > end - start:
                raise FilesError(
                    f"{self.url}/{name}: the server sends the whole file where a part is asked for; "
                    "use one that knows range requests, such as nginx"
                )
        return cut_out(wanted, spans, found)

    def _fetch(self, spans: Sequence[tuple[str, int, int]]) -> list[bytes]:
        paths, starts, ends = ([*column] for column in zip(*((self.path(n), a, b) for n, a, b in spans), strict=True))
        found = self.fs.cat_ranges(paths, starts, ends, on_error="return")
        for number, value in enumerate(found):
            if isinstance(value, Exception):
                if _status(value) != 416:  # the range begins behind the end
                    raise value
                found[number] = b""
        return found

    def open(self, name: str, buffer: int = 65536) -> BinaryIO:
        """A file to read from and to seek in; of a large remote one, at least `buffer` bytes are asked for at once."""
        if self.local:
            return self.fs.open(self.path(name), "rb")
        size = self.size(name)
        if size <= _SMALL:
            return io.BytesIO(self.read(name))
        return io.BufferedReader(_Ranged(self, name, size), buffer)

    def size(self, name: str) -> int:
        """Bytes of a file."""
        try:
            size = self._again(lambda: self.fs.info(self.path(name))["size"])
        except FileNotFoundError:
            if not self.exists(name):  # says so, where a web server is only away
                raise
            size = None
        if size is None:
            raise FilesError(f"{self.url}/{name}: the server does not tell how long the file is")
        return size

    # Writing

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file; readers see the old content or the new, never a part."""
        with self.writing(name) as file:
            file.write(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A file that appears under its name when the block ends well, and leaves nothing when it does not."""
        self._check_writable()
        with explained(f"{self.url}/{name}"):
            if self.local:
                with replacing(self.path(name)) as file:
                    yield file
            else:
                yield from self._uploading(name)

    def _check_writable(self) -> None:
        if self._protocol in _HTTP:
            raise FilesError(f"{self.url} can only be read: nothing is written over {self._protocol}")

    def _uploading(self, name: str) -> Iterator[BinaryIO]:
        with tempfile.NamedTemporaryFile(prefix="remot-") as spool:
            yield spool  # type: ignore[misc]
            spool.flush()
            with self._has_place(name):
                if self._moves:
                    self._moving(spool.name, self.path(name))
                else:
                    self._again(lambda: self.fs.put_file(spool.name, self.path(name)))

    def _moving(self, source: str, path: str) -> None:
        temporary = f"{path}.{uuid.uuid4().hex[:8]}{TEMPORARY}"

        def move() -> None:
            try:
                self.fs.mv(temporary, path)
            except FileNotFoundError:
                # An earlier try may have done it, and only its answer was lost.
                if self.fs.exists(temporary) or not self.fs.exists(path):
                    raise

        try:
            self._again(lambda: self.fs.makedirs(os.path.dirname(path), exist_ok=True))
            self._again(lambda: self.fs.put_file(source, temporary))
            self._again(move)
        except BaseException:
            with contextlib.suppress(Exception):
                self.fs.rm_file(temporary)
            raise

    @contextmanager
    def _has_place(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise FilesError(f"{self.url}/{name} cannot be written: there is no such bucket or folder") from error

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not be there yet; False where it is. Of several who try, one succeeds.

        A store that cannot refuse to overwrite is asked first instead: there, two may succeed within a moment.
        """
        self._check_writable()
        path = self.path(name)
        with explained(f"{self.url}/{name}"):
            if self.local:
                return create(path, data)
            return not self.exists(name) and self._created(name, data)

    def _created(self, name: str, data: bytes) -> bool:
        tries = 0

        def act() -> None:
            nonlocal tries
            tries += 1
            self.fs.pipe_file(self.path(name), data, mode="create")

        try:
            with self._has_place(name):
                self._again(act)
        except FileExistsError:
            # After a lost answer the file that is there may be this one.
            return tries > 1 and self.read(name) == data
        except (TypeError, NotImplementedError):
            self.write(name, data)
        return True

    def remove(self, name: str) -> None:
        """Remove a file; it may be gone already."""
        self._check_writable()
        with contextlib.suppress(FileNotFoundError), explained(f"{self.url}/{name}"):
            self._again(lambda: self.fs.rm_file(self.path(name)))

    def remove_folder(self, name: str) -> None:
        """Remove a folder and all in it."""
        self._check_writable()
        with explained(f"{self.url}/{name}"):
            if self.local:
                shutil.rmtree(self.path(name), ignore_errors=True)
            elif self.exists(name):
                self._again(lambda: self.fs.rm(self.path(name), recursive=True))

    def sweep(self, folder: str, of: str = "") -> None:
        """Remove what interrupted writes left in a folder: of the file `of`, or of every file but locks.

        Only for who holds the lock on the folder; the file of a lock may be being written by who waits for it.
        """
        if not self.local and not self._moves:
            return
        for name in self.names(folder, temporary=True):
            mine = name.startswith(f"{of}.") if of else not name.startswith(LOCK)
            if name.endswith(TEMPORARY) and mine:
                self.remove(f"{folder}/{name}" if folder else name)

    def _again(self, act: Callable[[], T]) -> T:
        """The result of `act`; on a remote store, tried again while the trouble may pass."""
        if self.local:
            return act()
        started = time.monotonic()
        pause, most = _PAUSES
        while True:
            try:
                result = act()
            except (FileNotFoundError, FileExistsError, FilesError):
                raise
            except Exception as error:
                if not _may_pass(error):
                    raise self._refused(error) from error
                self._wait(error, started, pause * random.uniform(0.8, 1.2))
                pause = min(2 * pause, most)
            else:
                self._trouble = None
                return result

    def _wait(self, error: Exception, started: float, pause: float) -> None:
        """Wait, unless the store has been away for too long: what follows then need not wait again."""
        now = time.monotonic()
        known = self._trouble is not None and started - self._trouble[1] <= _PATIENCE
        first = self._trouble[0] if self._trouble and known else started
        self._trouble = first, now
        if now + pause - first > _PATIENCE:
            self._trouble = now - _PATIENCE, now
            raise FilesError(
                f"{self.url} does not answer ({type(error).__name__}: {error}); when it does, run the same command "
                "again, what is finished is kept"
            ) from error
        if not known:
            log.warning("%s: %s: %s; trying again", self.url, type(error).__name__, error)
        time.sleep(pause)

    def _refused(self, error: Exception) -> Exception:
        """What to raise for an error that will not pass."""
        if isinstance(error, PermissionError) or _status(error) in (401, 403):
            cure = "check the credentials and the permissions"
            return FilesError(where=self.url, what="access is refused", why=str(error), what_next=cure)
        if _library(error) in _LIBRARIES:
            return FilesError(f"{self.url} cannot be used ({type(error).__name__}: {error})")
        return error


_connected: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_inherited: list[Any] = []


def _after_fork() -> None:
    """Keep what was inherited: to forget a file system closes its connections, which are those of the parent."""
    _inherited.extend(_connected.values())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Ranged(io.RawIOBase):
    """A remote file, read part by part."""

    def __init__(self, files: Files, name: str, size: int) -> None:
        self._files, self._name, self._size, self._at = files, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._bytes(min(self._at + len(buffer), self._size))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._bytes(self._size)

    def _bytes(self, end: int) -> bytes:
        data = self._files.read(self._name, self._at, end) if self._at < end else b""
        self._at += len(data)
        return data


def _may_pass(error: Exception) -> bool:
    if isinstance(error, _LASTING) or getattr(error, "errno", None) in _LASTING_NUMBERS:
        return False
    if _status(error) in _LASTING_STATUS or type(error).__name__ in _LASTING_NAMES:
        return False
    return isinstance(error, (OSError, TimeoutError, asyncio.TimeoutError)) or _library(error) in _LIBRARIES


def _library(error: Exception) -> str:
    return type(error).__module__.split(".")[0]


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error, where there is one."""
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if isinstance(response, Mapping):
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        status = getattr(one, "status", None) or getattr(one, "code", None)
        if isinstance(status, int):
            return status
    return None
