"""What a build is given: videos, folders of them and manifests, as one list of inputs in a fixed order.

Nothing here opens a video. What must not be opened at all (a pipe, a device, a path that leaves its folder) becomes an
input that is refused already, so that the sums of a build come out. `docs/data.md` describes manifests.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

from remot_data.errors import RemotError
from remot_data.records import Record

# Files that lie beside videos and are not meant to be one.
_SIDECARS = frozenset(
    ".txt .md .json .jsonl .csv .tsv .yaml .yml .xml .html .pdf .srt .vtt .ass .py .sh .log .zip .tar .gz "
    ".jpg .jpeg .png .bmp .webp .flo .parquet .npy .npz "
    # what phones, cameras, browsers and desktops leave
    ".heic .heif .avif .gif .tif .tiff .dng .svg .aae .thm .xmp .gpx .part .crdownload .download .db .ini .lnk".split()
)
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class InputError(RemotError, ValueError):
    """Inputs that name no video, or a manifest that cannot be read."""


@dataclass(frozen=True)
class Input(Record):
    """A file, or a folder of numbered images, to build from, and what a manifest says of it.

    `fps` is the frame rate of a folder of images. `appearance` is the path of a picture of the same person, where the
    data set has one. `refused` is the reason code of an input that is not to be opened, and `detail` says why.
    """

    path: str
    name: str = ""
    person: str = ""
    split: str = ""
    licence: str = ""
    url: str = ""
    fps: float | None = None
    appearance: str = ""
    refused: str = ""
    detail: str = ""


def find_inputs(videos: Any, root: str | os.PathLike[str] | None = None) -> tuple[list[Input], int]:
    """Every file to build from, in a fixed order, and how many other files of the folders were skipped.

    Args:
        videos: files, folders (searched through) or manifests (``.yaml``), one or several.
        root: the folder that the paths of manifests are relative to, in place of their own ``root``.

    Raises:
        InputError: for a path that is not there, a manifest that cannot be read, or when nothing is left.
    """
    several = [videos] if isinstance(videos, (str, os.PathLike)) else list(videos)
    found: dict[str, Input] = {}
    ignored = 0
    for path in (os.fspath(each) for each in several):
        if os.path.isdir(path):
            items, others = _in_folder(os.path.abspath(path))
            ignored += others
        elif path.endswith((".yaml", ".yml")) and os.path.isfile(path):
            items = read_manifest(path, root)
        elif os.path.lexists(path):
            items = [_file(os.path.abspath(path))]
        else:
            raise InputError(f"{path} does not exist")
        found.update((item.path, item) for item in items)
    if not found:
        raise InputError(f"no file to build from in {', '.join(map(str, several))} ({ignored} other files skipped)")
    return [found[path] for path in sorted(found)], ignored


# Folders


def _in_folder(folder: str) -> tuple[list[Input], int]:
    """The inputs below a folder and how many other files it holds. Links are followed; no folder is entered twice."""
    items: list[Input] = []
    ignored, seen = 0, set()
    waiting = [folder]
    linked: list[str] = []
    while waiting or linked:
        # Real folders come first, so that a video has its real path wherever it has one in this folder.
        inside = waiting.pop() if waiting else linked.pop(0)
        try:
            status = os.stat(inside)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(inside) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            items.append(_refused(inside, "unreadable", f"the folder cannot be read: {error.strerror}"))
            continue
        folders: list[str] = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                (linked if entry.is_symlink() else folders).append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in _SIDECARS:
                ignored += 1
            else:
                items.append(_file(entry.path, entry))
        waiting += reversed(folders)
    return items, ignored


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _file(path: str, entry: os.DirEntry[str] | None = None) -> Input:
    """An input for something that is no folder: refused unless it is a regular file with a name that is text."""
    try:
        regular = entry.is_file() if entry is not None else os.path.isfile(path)
    except OSError:
        regular = False
    if not regular:
        return _refused(path, *_why_not(path))
    try:
        path.encode()
    except UnicodeEncodeError:
        return _refused(path, "unreadable", "its name is not UTF-8; rename it")
    return Input(path)


def _why_not(path: str) -> tuple[str, str]:
    """Reason code and sentence for a path that is no regular file."""
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except OSError as error:
        if os.path.islink(path):
            return "unreadable", f"it is a link to {_printable(os.readlink(path))}, which cannot be followed"
        return "unreadable", f"it cannot be read: {error.strerror}"
    return "unsafe-path", f"it is {_KINDS.get(kind, 'no regular file')} and is not opened"


def _refused(path: str, code: str, detail: str, **said: Any) -> Input:
    return Input(_printable(path), refused=code, detail=detail, **said)


def _printable(path: str) -> str:
    """The path as text that can be stored."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


# Manifests


@dataclass(frozen=True)
class LayerSource:
    """Where a manifest says that a layer lies: `folders` holds, by the path of each input, the folder of its files."""

    kind: str
    form: str
    schema: str | None
    folders: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class Manifest:
    """What a manifest holds. `counts` has, by split, how many videos were published and how many were found."""

    inputs: list[Input]
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    layers: list[LayerSource] = field(default_factory=list)

    def shortfall(self) -> list[str]:
        """A sentence for each split of which not all that was published was found."""
        return [
            f"{split}: {published} videos are published, {found} were found"
            for split, (published, found) in self.counts.items()
            if published != found
        ]


_SAID = ("name", "person", "split", "licence", "url")
_TOP = {"about", "root", "licence", "url", "split", "videos", "splits", "layers"}
_ENTRY = {*_SAID, "fps", "appearance"}
_FIND = {*_ENTRY, "find", "id", "every"}
_SPLIT = {"ids", "file", "rest", "count"}
_LAYER = {"folder", "form", "schema"}


def read_manifest(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> list[Input]:
    """The inputs of a manifest, see `load_manifest`."""
    return load_manifest(path, root).inputs


def load_manifest(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Manifest:
    """Read a manifest and look for the videos it names.

    Args:
        root: the folder its paths are relative to, in place of the ``root`` it states.

    Raises:
        InputError: for a file that is not such a manifest (names the entry and the field), or where nothing that it
            describes is there.
    """
    path = Path(path)
    try:
        # Every value stays text: a person called 001 is not the number 1.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
        entries = list(content["videos"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no manifest with a list of 'videos' ({error!r})") from error
    _known(path, "the top", content, _TOP)
    base = os.path.abspath(os.fspath(root) if root is not None else path.parent / content.get("root", "."))
    reader = _Reader(path, base, content)
    for number, entry in enumerate(entries):
        reader.entry(f"entry {number} of 'videos'", {"path": entry} if isinstance(entry, str) else entry)
    return reader.manifest()


def _known(path: Path, where: str, value: Any, names: Iterable[str]) -> None:
    """Raise `InputError` for a mapping with a field that is not among `names`."""
    if not isinstance(value, dict):
        raise InputError(f"{path}: {where} is no mapping of fields, but {value!r}")
    unknown = sorted(set(value) - set(names))
    if unknown:
        raise InputError(f"{path}: {where} has the unknown field {', '.join(unknown)}; known are {_listed(names)}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


class _Reader:
    """Turns the entries of one manifest into inputs."""

    def __init__(self, path: Path, root: str, content: Mapping[str, Any]) -> None:
        self.path, self.root, self.real_root = path, root, os.path.realpath(root)
        self.shared = {name: content[name] for name in ("licence", "url", "split") if name in content}
        self.splits = _Splits(path, root, content.get("splits", {}))
        self.layers = content.get("layers", {})
        _known(path, "'layers'", self.layers, self.layers)
        for kind, layer in self.layers.items():
            _known(path, f"the layer {kind!r}", layer, _LAYER)
            if not {"folder", "form"} <= set(layer):
                raise InputError(f"{path}: the layer {kind!r} needs a 'folder' and a 'form'")
        self.inputs: list[Input] = []
        self.folders: dict[str, dict[str, str]] = {kind: {} for kind in self.layers}

    def entry(self, where: str, entry: Any) -> None:
        if isinstance(entry, dict) and "find" in entry:
            _known(self.path, where, entry, _FIND)
            self._find(where, entry)
        elif isinstance(entry, dict) and "asset" in entry:
            from remot_data.assets import fetch

            _known(self.path, where, entry, {*_ENTRY, "asset"})
            self._add(str(fetch(entry["asset"])), {"name": entry["asset"], **entry}, {}, trusted=True)
        elif isinstance(entry, dict) and "path" in entry:
            _known(self.path, where, entry, {*_ENTRY, "path"})
            self._add(os.path.join(self.root, entry["path"]), entry, {})
        else:
            raise InputError(f"{self.path}: {where} has neither 'path' nor 'find' nor 'asset'")

    def manifest(self) -> Manifest:
        layers = [
            LayerSource(kind, layer["form"], layer.get("schema"), self.folders[kind])
            for kind, layer in self.layers.items()
        ]
        return Manifest(self.inputs, self.splits.counts(self.inputs), layers)

    def _find(self, where: str, entry: Mapping[str, Any]) -> None:
        patterns = entry["find"] if isinstance(entry["find"], list) else [entry["find"]]
        found: dict[str, dict[str, str]] = {}
        for pattern in patterns:
            found = dict(_matches(self.root, pattern))
            if found:
                break
        else:
            raise InputError(
                f"{self.path}: {where} finds nothing like {' or '.join(map(repr, patterns))} in {self.root}; "
                "name the folder with the data as root (--root)"
            )
        for path, fields in sorted(found.items()):
            self._add(path, self._filled(where, entry, fields), fields)
        for fields, why in self._missing(where, entry, list(found.values())):
            path = os.path.join(self.root, self._fill(where, pattern, fields))
            self.inputs.append(_refused(path, "unreadable", why, **self._said(self._filled(where, entry, fields))))

    def _filled(self, where: str, entry: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
        """The fields of a 'find' entry for one of its finds; person and split are captured where they are not given."""
        kept = {name: fields[name] for name in _SAID if name in fields}
        filled = {name: self._fill(where, entry[name], fields) for name in (*_SAID, "fps") if name in entry}
        if "appearance" in entry:
            filled["appearance"] = entry["appearance"]
        name = self._fill(where, entry["id"], fields) if "id" in entry else ""
        split = self.splits.of.get(name, self.splits.rest)
        return {**({"split": split} if split else {}), **kept, **filled}

    def _fill(self, where: str, text: str, fields: Mapping[str, str]) -> str:
        try:
            return _filled(text, fields)
        except KeyError as error:
            known = ", ".join(fields) or "none"
            raise InputError(f"{self.path}: {where} uses the field {error} in {text!r}; known are {known}") from None

    def _missing(
        self, where: str, entry: Mapping[str, Any], found: Sequence[Mapping[str, str]]
    ) -> Iterator[tuple[dict[str, str], str]]:
        """What the published lists, or the rule 'every', name and is not there: its fields, and a sentence."""
        there = {tuple(sorted(fields.items())) for fields in found}
        if "id" in entry:
            expression = re.compile(_expression(entry["id"], {}))
            for name, split in self.splits.of.items():
                match = expression.fullmatch(name)
                if match and (key := tuple(sorted(match.groupdict().items()))) not in there:
                    there.add(key)
                    yield match.groupdict(), f"{self.path.name} lists {name} as {split}, but it is not there"
        for field_name, values in entry.get("every", {}).items():
            for key in sorted({tuple(sorted({**f, field_name: v}.items())) for f in found for v in values} - there):
                there.add(key)
                yield dict(key), f"{self.path.name} expects one for every {field_name}, but it is not there"

    def _said(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        said = {name: value for name, value in {**self.shared, **entry}.items() if name in _SAID}
        if "fps" in entry:
            try:
                said["fps"] = float(entry["fps"])
            except ValueError:
                raise InputError(f"{self.path}: fps is a number, not {entry['fps']!r}") from None
        return said

    def _add(self, path: str, entry: Mapping[str, Any], fields: Mapping[str, str], trusted: bool = False) -> None:
        said = self._said(entry)
        path = os.path.normpath(path) if trusted else path
        item = Input(path) if trusted or os.path.isdir(path) else _file(path)
        if not trusted and not self._inside(path):
            item = _refused(path, "unsafe-path", f"it leads out of {self.root}; is that the right root (--root)?")
        if "appearance" in entry and not item.refused:
            item = dataclasses.replace(item, appearance=self._appearance(entry["appearance"], fields))
        item = dataclasses.replace(item, **said)
        self.inputs.append(item)
        values = {"stem": Path(path).stem, **{k: said.get(k, "") for k in _SAID}, **fields}
        for kind, layer in self.layers.items():
            folder = self._fill(f"the layer {kind!r}", layer["folder"], values)
            self.folders[kind][item.path] = os.path.join(self.root, folder)

    def _appearance(self, pattern: str, fields: Mapping[str, str]) -> str:
        """The first file that matches, or nothing where there is none."""
        above, _, name = pattern.rpartition("/")
        folder = os.path.join(self.root, self._fill("'appearance'", above, fields))
        expression = re.compile(_expression(name, fields))
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        paths = [os.path.join(folder, n) for n in names if expression.fullmatch(n)]
        return next((p for p in paths if os.path.isfile(p) and self._inside(p)), "")

    def _inside(self, path: str) -> bool:
        real = os.path.realpath(path)
        return real == self.real_root or real.startswith(self.real_root.rstrip(os.sep) + os.sep)


class _Splits:
    """The published lists of a manifest: `of` gives the split of an id, `rest` that of the ids no list names."""

    def __init__(self, path: Path, root: str, splits: Any) -> None:
        _known(path, "'splits'", splits, splits)
        self.of: dict[str, str] = {}
        self.rest = ""
        self.published: dict[str, int] = {}
        for split, said in splits.items():
            _known(path, f"the split {split!r}", said, _SPLIT)
            for name in [*said.get("ids", []), *self._from_file(path, root, said.get("file", ""))]:
                if self.of.setdefault(name, split) != split:
                    raise InputError(f"{path}: {name} is listed both as {self.of[name]} and as {split}")
            if said.get("rest") == "true":
                self.rest = split
            if "count" in said:
                self.published[split] = int(said["count"])

    def _from_file(self, path: Path, root: str, name: str) -> list[str]:
        file = os.path.join(root, name)
        if not name or not os.path.isfile(file):
            return []
        if not os.path.realpath(file).startswith(os.path.realpath(root) + os.sep):
            raise InputError(f"{path}: the list {name!r} leads out of {root}")
        return [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]

    def counts(self, inputs: Sequence[Input]) -> dict[str, tuple[int, int]]:
        found = [item.split for item in inputs if not item.refused]
        return {split: (published, found.count(split)) for split, published in self.published.items()}


def _matches(root: str, pattern: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Paths below `root` that match a pattern, each with the fields it captures.

    A pattern is a path in which ``{name}`` stands for a part of one name, the same wherever it occurs again, and
    ``*`` for anything. One that ends in an extension finds files, any other finds folders.
    """
    parts = pattern.split("/")
    if ".." in parts or os.path.isabs(pattern):
        raise InputError(f"the pattern {pattern!r} leads out of its root")
    files = bool(re.search(r"\.\w+$", parts[-1]))
    found: list[tuple[str, dict[str, str]]] = [(root, {})]
    for depth, part in enumerate(parts):
        wants_file = files and depth == len(parts) - 1
        found = [hit for path, fields in found for hit in _inside(path, part, fields, wants_file)]
    yield from found


def _inside(folder: str, part: str, fields: dict[str, str], files: bool) -> Iterator[tuple[str, dict[str, str]]]:
    expression = re.compile(_expression(part, fields))
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        match = None if entry.name.startswith(".") else expression.fullmatch(entry.name)
        if match and _is_folder(entry) != files:
            yield entry.path, {**fields, **match.groupdict()}


def _filled(text: str, fields: Mapping[str, str]) -> str:
    """`text` with the value of each ``{name}``; `KeyError` for one that is not among the fields."""
    return "".join(before + ("" if name is None else fields[name]) for before, name, _, _ in _parsed(text))


def _parsed(text: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(Formatter().parse(text))
    except ValueError as error:
        raise InputError(f"the pattern {text!r} cannot be read: {error}") from error


def _expression(pattern: str, known: Mapping[str, str]) -> str:
    """A regular expression for a pattern; fields that are known already stand for their value."""
    out, here = "", set()
    for text, name, _, _ in _parsed(pattern):
        out += ".*".join(re.escape(piece) for piece in text.split("*"))
        if name is None:
            continue
        if name in known:
            out += re.escape(known[name])
        elif name in here:
            out += f"(?P={name})"
        elif name.isidentifier():
            out += f"(?P<{name}>[^/]+?)"
            here.add(name)
        else:
            raise InputError(f"the pattern {pattern!r} has a field without a proper name: {{{name}}}")
    return out
