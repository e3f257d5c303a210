"""A store on the Hugging Face Hub: what it holds is uploaded in commits, and what is there already is left.

Every file is compared by its digest, so an interrupted upload resumes, and a store that grew sends what is new. Paths
of this machine stay here: clips name their videos without folders, and of the ledger only the copy of ``store.json``
goes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remot_data.engine import Progress
from remot_data.errors import RemotError
from remot_data.records import NO_SEAL, Record, layer_folder, sealed
from remot_data.store import Store, StoreError, shards
from remot_data.store.clips_table import CLIP_GROUP, clip_table
from remot_data.store.disk import TEMPORARY

_TOGETHER, _BYTES = 100, 1 << 30  # files and bytes of a commit
_URL = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?")


class PublishError(RemotError, RuntimeError):
    """A store cannot be published; the message says why and what to do."""


@dataclass(frozen=True)
class Published(Record):
    """What `publish` did: files in all, those that were sent, their bytes, and in how many commits."""

    url: str
    files: int
    sent: int
    bytes: int
    commits: int


@dataclass(frozen=True)
class _File:
    """A file to be on the Hub; `data` where it is not that of the store, `sha256` where it is known without reading."""

    name: str
    size: int
    data: bytes | None = None
    sha256: str = ""


def publish(
    store: Store,
    url: str,
    card: Path,
    *,
    private: bool = True,
    endpoint: str | None = None,
    token: str | None = None,
    progress: Progress | None = None,
) -> Published:
    """Upload a store: the frames, the layers that its snapshots use, and its card.

    Args:
        url: ``hf://datasets/ORG/NAME``, with ``@BRANCH`` for another branch than ``main``; made where it is not there.
        card: folder with ``README.md`` and what belongs to it (`remot_data.care.card`).
        private: whether a repository that is made is private.
        endpoint: address of another Hub, instead of ``$HF_ENDPOINT`` or the public one.
        token: instead of the one that `hf auth login` has kept.

    Raises:
        PublishError: for another URL, a library that is not installed, or what the Hub refuses.
        StoreError: where removed clips are still in the shards.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise PublishError(f"{url!r} is no address of a data set: give hf://datasets/ORG/NAME")
    if lost := [clip.id for clip in store.planned if clip.id in store.removed]:
        raise StoreError(f"{len(lost)} removed clips are still in the shards: run `remot compact {store.url}` first")
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise PublishError('publishing needs huggingface_hub: pip install "remot[publish]"') from error
    repo, branch = match[1], match[2] or "main"
    api = HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        if branch != "main":
            api.create_branch(repo, branch=branch, repo_type="dataset", exist_ok=True)
        return _send(api, store, repo, branch, card, progress)
    except HfHubHTTPError as error:
        said = " ".join(str(error).split())[:300]
        raise PublishError(f"{url}: the Hub refused ({said}); what was sent is kept, run it again to resume") from error
    except Exception as error:
        if not isinstance(error, OSError) and not type(error).__module__.startswith("http"):  # those of its HTTP client
            raise
        raise PublishError(
            f"{url} cannot be reached ({error}); what was sent is kept, run it again to resume"
        ) from error


def _send(api: Any, store: Store, repo: str, branch: str, card: Path, progress: Progress | None) -> Published:
    files = [*_files(store), *(_File(p.name, p.stat().st_size, p.read_bytes()) for p in sorted(card.iterdir()))]
    there = {f.path: f for f in api.list_repo_tree(repo, recursive=True, revision=branch, repo_type="dataset")}
    todo = [file for file in files if not _is_there(store, file, there.get(file.name))]
    sent = commits = 0
    for batch in _batches(todo):
        from huggingface_hub import CommitOperationAdd

        operations = [CommitOperationAdd(file.name, _content(store, file)) for file in batch]
        words = f"{batch[0].name} and {len(batch) - 1} more" if len(batch) > 1 else batch[0].name
        api.create_commit(repo, operations, commit_message=f"Add {words}", repo_type="dataset", revision=branch)
        sent, commits = sent + len(batch), commits + 1
        if progress:
            progress("publish", sent, len(todo))
    at = f"{api.endpoint}/datasets/{repo}" + (f"/tree/{branch}" if branch != "main" else "")
    return Published(at, len(files), sent, sum(file.size for file in todo), commits)


def _files(store: Store) -> Iterator[_File]:
    """What of a store is published: shards first, then what names them."""
    used = _used(store)
    names = [n for n in store.files.walk() if not n.endswith(TEMPORARY)]
    folders = ("frames/", "boxes/", *(f"{folder}/" for folder in used))
    shown = [n for n in names if n.startswith(folders)]
    known = {f"{folder}/{stem}.tar": sha for folder, stem, sha in _shas(store, ["frames", *used])}
    for name in sorted(shown, key=lambda n: (n.endswith("layer.json"), not n.endswith(".tar"), n)):
        data = _without_paths(store.files.read(name)) if name.endswith("layer.json") else None
        yield _File(name, store.files.size(name) if data is None else len(data), data, known.get(name, ""))
    clips = [dataclasses.replace(clip, path=os.path.basename(clip.path)) for clip in store.planned]
    data = shards.table_bytes(clip_table(clips), group=CLIP_GROUP)
    yield _File("clips.parquet", len(data), data)
    for name in (*(n for n in names if n.startswith("snapshots/")), "store.json", "ledger/store.json", "removed.json"):
        if name in names:
            yield _File(name, store.files.size(name))


def _used(store: Store) -> set[str]:
    """The folders of the layers that snapshots hold, and of all that these were made from."""
    todo = [layer_folder(*layer) for chosen in store.snapshots.values() for layer in chosen.layers.items()]
    reads, used = {info.folder: info.reads for info in store.layers}, set[str]()
    while todo:
        if (folder := todo.pop()) not in used:
            used.add(folder)
            todo += [other for other in reads.get(folder, {}).values() if other in reads]
    return used


def _without_paths(data: bytes) -> bytes:
    """A ``layer.json`` that names weights and a detector's file without their folders."""
    told = json.loads(data)
    for name in ("weights", "spec"):
        if told.get(name):
            told[name] = os.path.basename(told[name])
    text = json.dumps({**told, "seal": NO_SEAL}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    return sealed(text.encode())


def _shas(store: Store, folders: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    for folder in folders:
        for shard in sorted(store.present(folder)):
            yield folder, f"shard-{shard:05d}", store.sha256(folder, shard)


def _is_there(store: Store, file: _File, found: Any) -> bool:
    """Whether the Hub has these bytes, by the digest that it has of them."""
    if found is None or getattr(found, "size", None) != file.size:
        return False
    if found.lfs is not None:
        return bool(found.lfs.sha256 == (file.sha256 or hashlib.sha256(_bytes(store, file)).hexdigest()))
    data = _bytes(store, file)
    return bool(found.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())  # as git names it


def _bytes(store: Store, file: _File) -> bytes:
    return store.files.read(file.name) if file.data is None else file.data


def _content(store: Store, file: _File) -> Any:
    if file.data is None and store.files.local:
        return store.files.path(file.name)
    return _bytes(store, file)


def _batches(files: Sequence[_File]) -> Iterator[list[_File]]:
    batch: list[_File] = []
    for file in files:
        if batch and (len(batch) == _TOGETHER or sum(f.size for f in batch) + file.size > _BYTES):
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch
