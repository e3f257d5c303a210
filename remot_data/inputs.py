"""What a build is given: videos, folders of them and manifests, as one list of inputs in a fixed order."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from remot_data.records import Record

# Files that lie beside videos and are not meant to be one.
_SIDECARS = frozenset(
    ".txt .md .json .jsonl .csv .tsv .yaml .yml .xml .html .pdf .srt .vtt .ass .py .sh .log .zip .tar .gz "
    ".jpg .jpeg .png .webp .parquet .npy .npz".split()
)


class InputError(ValueError):
    """Inputs that name no video, or a manifest that cannot be read."""


@dataclass(frozen=True)
class Input(Record):
    """A file to build from, and what a manifest says of it."""

    path: str
    name: str = ""
    person: str = ""
    split: str = ""
    licence: str = ""
    url: str = ""


def find_inputs(videos: Any) -> tuple[list[Input], int]:
    """Every file to build from, in a fixed order, and how many other files of the folders were passed over.

    Raises:
        InputError: for a path that is not there, a manifest that cannot be read, or when nothing is left.
    """
    several = [videos] if isinstance(videos, (str, os.PathLike)) else list(videos)
    found: dict[str, Input] = {}
    ignored = 0
    for path in map(Path, several):
        if path.is_dir():
            files = [p for p in _walk(path) if p.is_file()]
            wanted = [p for p in files if p.suffix.lower() not in _SIDECARS]
            ignored += len(files) - len(wanted)
            items = [Input(_printable(p.absolute())) for p in wanted]
        elif path.suffix in (".yaml", ".yml"):
            items = read_manifest(path)
        elif path.exists():
            items = [Input(str(path.absolute()))]
        else:
            raise InputError(f"{path} does not exist")
        found.update((item.path, item) for item in items)
    if not found:
        raise InputError(f"no file to build from in {', '.join(map(str, several))} ({ignored} others passed over)")
    return [found[path] for path in sorted(found)], ignored


def _printable(path: Path) -> str:
    """The path as text that can be stored; a name that is not UTF-8 is changed, and then refused as unreadable."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield from (Path(root, name) for name in sorted(files) if not name.startswith("."))


def read_manifest(path: Path) -> list[Input]:
    """The inputs of a manifest: ``root``, shared fields, and ``videos`` with a ``path`` or ``asset`` each.

    Raises:
        InputError: for a file that is not such a manifest; names the entry.
    """
    try:
        content = yaml.safe_load(path.read_text())
        entries = content["videos"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no manifest with a list of 'videos' ({error!r})") from error
    root = (path.parent / content.get("root", ".")).absolute()
    shared = {k: content[k] for k in ("licence", "url", "split") if k in content}
    names = {f.name for f in dataclasses.fields(Input)} - {"path"}
    inputs = []
    for number, entry in enumerate(entries):
        entry = {"path": entry} if isinstance(entry, str) else dict(entry)
        known = {k: str(v) for k, v in {**shared, **entry}.items() if k in names}
        if "asset" in entry:
            from remot_data.assets import fetch

            inputs.append(Input(str(fetch(entry["asset"])), **{"name": entry["asset"], **known}))
        elif "path" in entry:
            inputs.append(Input(str(root / entry["path"]), **known))
        else:
            raise InputError(f"{path}: entry {number} of 'videos' has neither 'path' nor 'asset'")
    return inputs
