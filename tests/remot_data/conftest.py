"""Stores that many tests read: drawn dancers, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from remot_data.store import Store, open_store
from remot_data.synthetic_store import build_synthetic


@pytest.fixture(scope="session")
def dancers(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Five dancers of 20 frames, 64 x 48, in three shards. Read only."""
    url = str(tmp_path_factory.mktemp("stores") / "dancers")
    return build_synthetic(url, dancers=5, frames=20, test=1, size=(64, 48), shard_frames=40, workers=0)


@pytest.fixture
def own_dancers(dancers: Store, tmp_path: Path) -> Store:
    """A copy of `dancers` that a test may change."""
    shutil.copytree(dancers.url, tmp_path / "store")
    return open_store(str(tmp_path / "store"))


def digests(folder: str | Path) -> dict[str, str]:
    """sha256 of every file below a folder, by relative path."""
    from remot_data.detectors.base import file_sha256

    root = Path(folder)
    return {str(p.relative_to(root)): file_sha256(p) for p in sorted(root.rglob("*")) if p.is_file()}
