"""Clips and finished stores that the crash tests compare with. Read only: take a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from remot_data import assets
from remot_data.detectors import base
from remot_data.ingest import people
from tests.crash import harness


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    # Else the first run would write them, and later ones have fewer points.
    assets.fetch_all(base.FINDERS[people.default_finder()].weights)
    return harness.cut_clips(tmp_path_factory.mktemp("clips"))


def _built(folder: Path, *arguments: str) -> Path:
    done = harness.run(["build", *arguments, "--out", str(folder / "store"), "--workers", "0"], folder / "log")
    assert done.status == 0, done.printed
    return folder / "store"


@pytest.fixture(scope="session")
def frames_only(clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, two shards, no layers."""
    return _built(tmp_path_factory.mktemp("frames-only"), *clips[:2], *harness.TINY, "--no-layers")


@pytest.fixture(scope="session")
def complete(clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the default layers, made in one go."""
    return _built(tmp_path_factory.mktemp("complete"), *clips[:2], *harness.TINY)


@pytest.fixture
def copy(tmp_path: Path):
    """Makes a copy of a store and says where it is."""

    def copied(store: Path, name: str = "store") -> Path:
        return Path(shutil.copytree(store, tmp_path / name))

    return copied
