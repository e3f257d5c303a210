"""What a video file is known again by: a stamp that is cheap, and the sha256 of its content."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Generator
from typing import Any, TypeVar

from remot_data import media

T = TypeVar("T")


def stamp(path: str) -> str:
    """Changes when the file does, or any picture of a folder; ``absent`` where nothing can be seen."""
    try:
        status = os.stat(path)
        if not stat.S_ISDIR(status.st_mode):
            return f"{status.st_size}-{status.st_mtime_ns}"
        sha = hashlib.sha256()
        for name in _pictures(path):
            picture = os.stat(os.path.join(path, name))
            sha.update(os.fsencode(name) + f"\0{picture.st_size}-{picture.st_mtime_ns}\0".encode())
        return f"folder-{sha.hexdigest()[:32]}"
    except (OSError, ValueError):
        return "absent"


def _pictures(folder: str) -> list[str]:
    try:
        return media.frame_names(folder)
    except media.VideoError:
        return []


def content_sha256(path: str) -> str:
    """sha256 of a file; of a folder that of the names, sizes and bytes of its pictures, in their order.

    Raises:
        OSError: a file that cannot be read.
        VideoError: a folder without pictures.
    """
    return _result(hashing(path))


def hashing(path: str) -> Generator[int, None, str]:
    """`content_sha256`, with a sign of life every 64 MiB."""
    sha = hashlib.sha256()
    folder = os.path.isdir(path)
    blocks = 0
    for name in media.frame_names(path) if folder else [""]:
        with open(os.path.join(path, name) if folder else path, "rb") as file:
            if folder:
                sha.update(os.fsencode(name) + f"\0{os.fstat(file.fileno()).st_size}\0".encode())
            while block := file.read(1 << 20):
                sha.update(block)
                blocks += 1
                if blocks % 64 == 0:
                    yield blocks
    return sha.hexdigest()


def checked(path: str, steps: Generator[Any, None, T], sign: Any) -> Generator[Any, None, T]:
    """What `steps`, which read a video, give. Where they find it damaged, its bytes are read, giving `sign` at times.

    Raises:
        VideoError: as they do; ``unavailable`` where this machine cannot read the bytes, which then are not at fault.
    """
    try:
        return (yield from steps)
    except (media.VideoError, OSError) as error:
        if getattr(error, "code", "unreadable") in _OF_BYTES:
            yield from _read_through(path, sign)
        raise


_OF_BYTES = ("unreadable", "truncated", "no-video-stream", "no-frames", "changed")
_OF_NAMES = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)


def _read_through(path: str, sign: Any) -> Generator[Any, None, None]:
    try:
        for _ in hashing(path):
            yield sign
    except media.VideoError:
        pass  # a folder without a picture
    except (OSError, ValueError) as error:
        if getattr(error, "errno", errno.EINVAL) not in _OF_NAMES:
            why = getattr(error, "strerror", None) or error
            raise media.VideoError("unavailable", f"{path} cannot be read on this machine: {why}") from error


def _result(steps: Generator[Any, None, Any]) -> Any:
    """What a generator returns in the end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
