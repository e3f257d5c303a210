"""The driver killed at every point where something changes on the disk, or refused there; then gone on with.

Everything runs in the driver (``--workers 0``), so that the points of tasks are among them. Each run is a process of
its own, which ends itself by kill -9.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.crash import harness
from tests.crash.harness import TINY, assert_sound, content, run, sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ALONE = ("--workers", "0")


class Scene:
    """A command on a copy of a store (or on nothing), and what the store is when nobody disturbs it."""

    def __init__(self, folder: Path, arguments: Sequence[str], base: Path | None = None, broken: str = "") -> None:
        self.folder, self.arguments, self.base, self.broken = folder, arguments, base, broken
        store = self.store(0)
        done = run(self.command(store), folder / "log-0", broken=broken)
        assert done.status == int(bool(broken)), done.printed
        self.points, self.wanted = done.points, content(store)

    def store(self, number: int) -> Path:
        store = self.folder / f"store-{number}"
        return Path(shutil.copytree(self.base, store)) if self.base else store

    def command(self, store: Path) -> list[str]:
        return [str(store) if word == "STORE" else word for word in self.arguments]

    def killed_at(self, number: int) -> bool:
        """Kill at a point, go on, compare; False past the last point."""
        store = self.store(number)
        killed = run(self.command(store), self.folder / f"log-{number}", kill_at=number, broken=self.broken)
        if number > len(self.points):
            assert killed.status == int(bool(self.broken))
            return False
        where = f"point {number}, {killed.points[-1]}"
        assert killed.status == -signal.SIGKILL, where
        again = run(self.command(store), self.folder / f"again-{number}", broken=self.broken)
        assert again.status == int(bool(self.broken)), f"{where}: {again.printed}"
        self.compare(store, where)
        return True

    def compare(self, store: Path, where: str) -> None:
        try:
            assert_sound(store, self.wanted)
        except Exception as error:
            error.add_note(where)
            raise
        shutil.rmtree(store)


def test_a_build_of_frames(clips, tmp_path):
    scene = Scene(tmp_path, ["build", *clips[:2], "--out", "STORE", *TINY, *ALONE, "--no-layers"])
    assert sweep(scene.killed_at) == len(scene.points) > 30


def test_a_build_of_layers(clips, frames_only, complete, tmp_path, copy):
    """From the first layer on, every seventh point: a shard has four, so all of the four come up."""
    base = copy(frames_only, "base")
    (base / "snapshots/main.json").unlink()  # as if that build had wanted layers, too
    scene = Scene(tmp_path, ["build", *clips[:2], "--out", "STORE", *ALONE], base)
    assert scene.wanted == content(complete)
    assert sweep(lambda n: scene.killed_at(7 * n - 6)) * 7 >= len(scene.points) > 60


def test_annotating(frames_only, tmp_path):
    command = ["annotate", "STORE", "--layer", "flow", "--with", "dis", "--snapshot", "main", *ALONE]
    scene = Scene(tmp_path, command, frames_only)
    assert sweep(scene.killed_at) == len(scene.points) > 15


def test_a_build_that_adds_a_video(clips, frames_only, tmp_path):
    scene = Scene(tmp_path, ["build", clips[2], "--out", "STORE", *ALONE], frames_only)
    assert sweep(scene.killed_at) == len(scene.points) > 15
    before = {item for item in content(frames_only).items() if item[0].startswith("frames/")}
    assert len(before) == 4 and before < scene.wanted.items()


def test_a_clip_that_fails_when_it_is_to_be_written(clips, frames_only, tmp_path, copy):
    """The plan becomes shorter, and the last shard goes."""
    base = copy(frames_only, "base")
    for path in (*base.glob("frames/shard-00001.*"), base / "ledger/receipts.parquet"):
        path.unlink()
    last = harness.open_store(str(base)).clips[-1].path
    scene = Scene(tmp_path, ["build", *clips[:2], "--out", "STORE", *ALONE], base, broken=last)
    assert not [name for name in scene.wanted if "shard-00001" in name]
    assert sweep(scene.killed_at) == len(scene.points) > 15


def test_compaction(clips, tmp_path, tmp_path_factory):
    """Every third point: a shard that is replaced has seven, and there are six."""
    base = tmp_path_factory.mktemp("base") / "store"
    build = ["build", *clips, "--out", str(base), *TINY, "--shard-frames", "16", *ALONE]
    assert run(build, tmp_path / "log-build").status == 0
    gone = harness.open_store(str(base)).clips[0].id
    assert run(["remove", str(base), gone], tmp_path / "log-remove").status == 0
    scene = Scene(tmp_path, ["compact", "STORE", *ALONE], base)
    assert sweep(lambda n: scene.killed_at(3 * n - 2)) * 3 >= len(scene.points) > 60


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(harness.FULL, "no space is left; free some and run the same command again"), (harness.READ_ONLY, "read-only")],
)
def test_a_disk_that_refuses_to_write(number, sentence, clips, tmp_path):
    """From any point on: status 2 and one sentence, nothing half-written; with room again, it goes on."""
    scene = Scene(tmp_path, ["build", *clips[:2], "--out", "STORE", *TINY, *ALONE, "--no-layers"])
    for point in range(1, len(scene.points) - 1, 6):  # a lock that cannot be removed is no error
        store = scene.store(point)
        refused = run(scene.command(store), tmp_path / f"log-{point}", refuse=(number, point))
        where = f"point {point}, {refused.points[-1]}: {refused.printed}"
        assert (refused.status, sentence in refused.printed) == (2, True), where
        assert "Traceback" not in refused.printed and refused.printed.count("error:") == 1, where
        assert not [name for name in harness.leftovers(store) if name.endswith(".tmp")], where
        assert run(scene.command(store), tmp_path / f"again-{point}").status == 0, where
        scene.compare(store, where)
