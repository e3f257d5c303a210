"""Who may write: a lock in the store itself."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

import psutil

from remot_data.errors import RemotError
from remot_data.store.files import Files

log = logging.getLogger(__name__)


class Busy(RemotError, RuntimeError):
    """Somebody else is writing; the message says who."""


def is_alive(held: Mapping[str, Any]) -> bool:
    """Whether the holder of a lock, as its file says, is there: a process here, or signs of life from elsewhere."""
    if held.get("host") == socket.gethostname():
        with contextlib.suppress(psutil.Error):
            return abs(psutil.Process(held["pid"]).create_time() - held["born"]) < 1.0
        return False
    return time.time() - held.get("beat", 0.0) < Lock.DEAD


class Lock:
    """Held by one process at a time, over machines; a context manager.

    The file says who holds it and is renewed while it is held. It is taken over from a process of this machine that is
    gone, and from one elsewhere that gave no sign of life for a while. Should two ever work at once, they write
    the same bytes: the lock spares work, it is not what keeps a store right.
    """

    BEAT, DEAD, SETTLE, POLL = 15.0, 90.0, 0.5, 1.0  # seconds
    TELL = 2.0  # seconds after which a local file says how far its holder is
    WRITING = 2.0  # seconds that the file may be seen before all of it is, on a disk that shows it at once

    def __init__(self, files: Files, name: str, wait: bool = False) -> None:
        self._files, self._name, self._wait = files, name, wait
        me = psutil.Process()
        self._me = {"host": socket.gethostname(), "pid": me.pid, "born": me.create_time(), "key": uuid.uuid4().hex}
        self._done = threading.Event()
        self._doing: dict[str, dict[str, Any]] = {}

    def telling(self, progress: Callable[[str, int, int], None] | None = None) -> Callable[[str, int, int], None]:
        """`progress` that also has the lock's file say how far its holder is: what `remot status` shows."""

        def told(label: str, done: int, total: int) -> None:
            begun = self._doing.get(label, {}).get("begun") or time.time()
            self._doing = {**self._doing, label: {"done": done, "total": total, "begun": begun, "at": time.time()}}
            if progress is not None:
                progress(label, done, total)

        return told

    def __enter__(self) -> Lock:
        try:
            while not self._take():
                if not self._wait:
                    raise Busy(f"{self._files.url} is being written by {self._holder()}; wait for it, or use --wait")
                time.sleep(self.POLL)
            if self._files.local:
                # The first sign of life at once: a disk that cannot renew a file is found before the work, not after.
                self._files.write(self._name, self._content())
            self._files.sweep(*self._name.rsplit("/", 1))
            self._thread = threading.Thread(target=self._beat, daemon=True)
            self._thread.start()
            return self
        except BaseException:  # Ctrl-C may come when the file is there already
            self._done.set()
            self._release()
            raise

    def __exit__(self, *error: Any) -> None:
        self._done.set()
        self._thread.join()
        self._release()

    def _release(self) -> None:
        with contextlib.suppress(OSError):
            if self._is_mine():
                self._files.remove(self._name)

    def _take(self) -> bool:
        if self._files.create(self._name, self._content()):
            return True
        held = self._written()
        if self._alive(held):
            return False
        if held == self._read():
            self._files.remove(self._name)
        if not self._files.create(self._name, self._content()):
            return False
        # Another who saw the same dead holder may have taken this for that one's, and put its own in its place.
        time.sleep(self.SETTLE)
        return self._is_mine()

    def _is_mine(self) -> bool:
        return self._read().get("key") == self._me["key"]

    def _alive(self, held: Mapping[str, Any]) -> bool:
        return is_alive(held)

    def _beat(self) -> None:
        last, told = time.monotonic(), self._doing
        while not self._done.wait(min(self.TELL, self.BEAT) if self._files.local else self.BEAT):
            if told is self._doing and time.monotonic() - last < self.BEAT:
                continue
            last, told = time.monotonic(), self._doing
            with contextlib.suppress(OSError):
                if not self._is_mine():
                    log.warning("%s: the lock was taken over; both continue, and write the same bytes", self._files.url)
                    return
                self._files.write(self._name, self._content())

    def _content(self) -> bytes:
        return json.dumps({**self._me, "beat": time.time(), "doing": self._doing}).encode()

    def _read(self) -> dict[str, Any]:
        try:
            return json.loads(self._files.read(self._name))
        except (FileNotFoundError, ValueError):
            return {}

    def _written(self) -> dict[str, Any]:
        """What the file says; empty where there is none, or where who began to write it died at once."""
        end = time.monotonic() + self.WRITING
        while not (held := self._read()) and self._files.exists(self._name) and time.monotonic() < end:
            time.sleep(0.05)
        return held

    def _holder(self) -> str:
        held = self._read()
        beat = datetime.fromtimestamp(held.get("beat", 0.0), timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"process {held.get('pid')} on {held.get('host')} (last sign of life {beat})"
