"""Telling a store that its source videos lie somewhere else."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from remot_data.ingest.planning import moved_line, read_rejects, write_rejects
from remot_data.records import Clip
from remot_data.store import Store, StoreError


def relocate(store: Store, moves: str) -> tuple[list[Clip], list[str]]:
    """Change the paths of source videos, in the plan, the rejects and the ledger. No video is opened.

    Args:
        moves: ``OLD=NEW``: a file or a folder as the store names it, and where it is now.

    Returns:
        The clips whose path changed, and the new paths at which this machine sees nothing.

    Raises:
        StoreError: where no path of the store begins with OLD.
    """
    with store.lock():
        paths = {clip.path for clip in store.planned} | {line["input"]["path"] for line in store.logged("videos")}
        old, new = _parted(moves, paths)

        def moved(path: str) -> str:
            return new + path[len(old) :] if _below(path, old) else path

        def moved_record(line: dict[str, Any]) -> dict[str, Any]:
            path = line["input"]["path"]
            return moved_line(line, moved(path)) if _below(path, old) else line

        # The plan last: whoever is interrupted finds the old paths there, and runs the same command again.
        store.compact_log("videos", lambda line: line["input"]["path"], moved_record)
        write_rejects(store, [dataclasses.replace(r, path=moved(r.path)) for r in read_rejects(store)])
        changed = [clip for clip in store.planned if _below(clip.path, old)]
        store.write_clips([dataclasses.replace(clip, path=moved(clip.path)) for clip in store.planned])
        return changed, sorted({moved(p) for p in paths if _below(p, old) and not os.path.exists(moved(p))})


def _parted(moves: str, paths: set[str]) -> tuple[str, str]:
    """OLD and NEW, either of which may hold an equals sign."""
    places = [i for i, letter in enumerate(moves) if letter == "="]
    for i in places:
        for old in (moves[:i], os.path.abspath(moves[:i])):
            old = old.rstrip("/")
            if old and any(_below(path, old) for path in paths):
                return old, os.path.abspath(moves[i + 1 :]) if moves[i + 1 :] else ""
    if not places:
        raise StoreError(f"write OLD=NEW, not {moves!r}")
    some = ", ".join(sorted({os.path.dirname(path) for path in paths})[:3])
    raise StoreError(f"no video of the store lies at {moves[: places[0]]}; they lie in {some or 'no folder'}")


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
