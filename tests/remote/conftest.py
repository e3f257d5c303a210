"""What the tests of remote stores share: videos, policies and finished stores on the disk to compare with."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest

from remot_data.ingest.build import build
from remot_data.ingest.policy import Policy
from remot_data.store import Store
from remot_data.store.files import Files
from remot_data.synthetic.store import build_synthetic
from tests.crash import harness

POLICY = Policy(size=(128, 96), fps=12.0, min_frames=4, max_frames=8, shard_frames=8, persons="main")
LAYERS = {"pose": "blazepose", "scores": "basic-scores"}


def videos(count: int = 1) -> list[str]:
    return _cut()[:count]


@cache
def _cut() -> list[str]:
    """All of two sample clips, small and with few frames: what is tested is where stores are."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    paths = [folder / f"sample-cam0{number}.mp4" for number in (2, 1)]
    for path in paths:
        harness.cut(path, path.stem, 0.0, 20, fps=12)
    return [str(path) for path in paths]


def content(url: str) -> dict[str, str]:
    """sha256 of every file of a store but those of the ledger, which keeps times."""
    files = Files(url)
    names = [name for name in files.walk() if not name.startswith("ledger/")]
    return {name: hashlib.sha256(files.read(name)).hexdigest() for name in names}


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Content of a store of one video without layers."""
    url = str(tmp_path_factory.mktemp("plain") / "store")
    build(videos(), url, policy=POLICY, layers={}, workers=0)
    return content(url)


@pytest.fixture(scope="session")
def layered(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a store of one video with pose and scores."""
    url = str(tmp_path_factory.mktemp("layered") / "store")
    build(videos(), url, policy=POLICY, layers=LAYERS, workers=0)
    return url


@pytest.fixture(scope="session")
def dancers(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three drawn dancers with every layer, frames of the usual size."""
    url = str(tmp_path_factory.mktemp("dancers") / "store")
    return build_synthetic(url, dancers=3, frames=30, test=1, size=(256, 192), shard_frames=60, workers=0)


def copied(source: Path | str, url: str) -> None:
    """Put a finished store somewhere else, file by file."""
    here, there = Files(str(source)), Files(url)
    for name in here.walk():
        there.write(name, here.read(name))
