"""Files of a local disk: written whole or not at all, created by one of several, and what a disk lacks for that."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from remot_data.errors import RemotError

TEMPORARY = ".tmp"
# What disks without hard links or without renaming over a file answer: exFAT and FAT, mounts of buckets and of phones.
_NOT_KNOWN = frozenset((errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL))
_NO_LINKS = _NOT_KNOWN | {errno.EPERM, errno.EMLINK}
_NO_RENAME = _NOT_KNOWN | {errno.EEXIST}


class FilesError(RemotError, OSError):
    """A file that cannot be written, or a store that does not answer; the message says what to do."""

    def __str__(self) -> str:
        return str(self.args[-1])


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A local file to write that appears under its name when it is whole: readers see the old one or the new one."""
    temporary = f"{os.fspath(path)}.{uuid.uuid4().hex[:8]}{TEMPORARY}"
    os.makedirs(os.path.dirname(temporary) or ".", exist_ok=True)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        into_place(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a local file at once, see `replacing`."""
    with replacing(path) as file:
        file.write(data)


def into_place(temporary: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Give a finished file its name, in the place of another where there is one.

    Raises:
        FilesError: on a disk that cannot do that.
    """
    try:
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in _NO_RENAME or os.path.isdir(path):
            raise
        raise FilesError(
            where=os.path.dirname(path) or ".",
            what="this disk cannot put a file in the place of another",
            why=f"{error.strerror}",
            what_next="take a folder on another disk",
        ) from error


def create(path: str, data: bytes) -> bool:
    """Write a file that must not be there yet; False where it is. Of several who try, one succeeds.

    The file appears whole, by a hard link; a disk without those lets it be seen while it is written.
    """
    temporary = f"{path}.{uuid.uuid4().hex[:8]}{TEMPORARY}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(temporary, "wb") as file:
        file.write(data)
    try:
        os.link(temporary, path)
    except (FileExistsError, FileNotFoundError):  # the second: swept up by who was quicker
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create_exclusively(path, data)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    return True


def _create_exclusively(path: str, data: bytes) -> bool:
    try:
        number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        with open(number, "wb") as file:
            file.write(data)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    return True


def lacks(folder: str) -> list[str]:
    """What the disk of a folder cannot do, of what stores are written with; tried with two small files."""
    found: list[str] = []
    one, two = (os.path.join(folder, f"remot-doctor-{uuid.uuid4().hex[:8]}{TEMPORARY}") for _ in range(2))

    def attempt(what: str, act: Callable[[], None]) -> None:
        try:
            act()
        except OSError:
            found.append(what)

    try:
        for path in (one, two):
            with open(path, "wb"):
                pass
        attempt(REPLACING, lambda: os.replace(one, two))
        attempt(LINKS, lambda: os.link(two, one))
    finally:
        for path in (one, two):
            with contextlib.suppress(OSError):
                os.unlink(path)
    return found


LINKS, REPLACING = "hard links", "a file put in the place of another"


@contextmanager
def explained(where: str) -> Iterator[None]:
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
            errno.ENOTDIR: "a part of this path is a file, no folder",
            errno.EEXIST: "a part of this path is a file, no folder",
        }.get(error.errno or 0)
        if remedy is None:
            raise
        raise FilesError(error.errno, f"{where} cannot be written: {remedy}") from error
