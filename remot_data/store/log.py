"""Lines that are kept as they come: a ledger that an interruption leaves readable."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Mapping
from typing import Any

from remot_data.records import NO_SEAL, canonical_json, sealed
from remot_data.store.disk import explained
from remot_data.store.files import Files


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
        with explained(f"{self._files.url}/{self._base}.jsonl"):
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
        # Read together, records share the texts of their fields, which is most of their memory.
        records += json.loads(b"[" + b",".join(lines) + b"]")
    for record in records:
        record.pop("seal")
    return records, names
