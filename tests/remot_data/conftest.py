"""Stores that many tests read: drawn dancers, made once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from remot_data import media
from remot_data.records import Clip
from remot_data.store import Store, open_store
from remot_data.store.boxes import Boxes, Looks, of_clip, pack, unpack
from remot_data.synthetic.store import build_synthetic


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


RED_FINDER = """
import numpy as np
from remot_data.persons import Person


class Red:
    \"\"\"Finds what is red on the left and on the right, and knows each by a number.\"\"\"

    def fingerprint(self):
        return {"detector": "red", "weights": "WEIGHTS"}

    def follow(self):
        def look(image, frame, size):
            found = []
            for number, part in enumerate(np.hsplit(image, 2)):
                y, x = np.nonzero((part[..., 0] > 150) & (part[..., 1] < 100))
                if len(x):
                    x = x + number * part.shape[1]
                    grow = size[0] / image.shape[1]
                    box = tuple(float(v) * grow for v in (x.min(), y.min(), x.max() + 1, y.max() + 1))
                    found.append(Person(frame, box, 0.9, 0.5, number))
            return found

        return look
"""


@pytest.fixture
def red(tmp_path):
    """Spec of a finder of red things, and a video of 40 frames in which two of them, of different height, dance."""
    (tmp_path / "red.py").write_text(RED_FINDER)
    with media.VideoWriter(tmp_path / "red.mp4", 20, (240, 320)) as writer:
        for t in range(40):
            frame = np.full((240, 320, 3), 90, np.uint8)
            step = 10 if t % 8 < 4 else 0
            frame[60:200, 60 + step : 100 + step] = frame[100:200, 220 + step : 250 + step] = (220, 30, 30)
            writer.write(frame)
    return f"{tmp_path / 'red.py'}:Red", tmp_path / "red.mp4"


def give_boxes(store: Store, own: Sequence[float], *others: Sequence[float]) -> Store:
    """The store as one that knows who was seen where: persons in boxes that are given as parts of each clip's crop.

    The clip's person has track 1, others have 2 and so on. All stand still, and are looked at with every third frame.
    """
    config = {name: value for name, value in store.config.items() if name != "synthetic"}
    for name in ("store.json", "ledger/store.json"):
        store.write_json(name, {**config, "policy": {**config.get("policy", {}), "persons": "all"}})
    store = open_store(store.url)
    for shard in range(store.shard_count):
        store.write_boxes(shard, {clip.id: boxes_of(clip, own, *others) for clip in store.shard_clips(shard)})
    return store


def boxes_of(clip: Clip, *parts: Sequence[float]) -> Boxes:
    """See `give_boxes`."""
    x, y, width, height = clip.crop
    pts = clip.pts.array()[::3]
    corners = np.array(parts) * (width, height, width, height) + (x, y, x, y)
    look, which = (grid.ravel() for grid in np.meshgrid(np.arange(len(pts)), np.arange(len(parts)), indexing="ij"))
    looks = Looks(pts, look, 1 + which, corners[which], np.full(len(look), 0.8))
    return of_clip(unpack(pack(*looks)), clip, 1)
