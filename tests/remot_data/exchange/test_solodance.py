"""The tree of SoloDance against the store it comes from, and a round trip through it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from remot_data.exchange.exports import export
from remot_data.exchange.importers import import_manifest
from remot_data.exchange.labels import read_labels
from remot_data.ingest.build import build
from remot_data.ingest.inputs import load_manifest
from remot_data.ingest.policy import Policy
from remot_data.schemas import LABELS, convert_labels
from remot_data.store import open_store
from tests.remot_data.exchange.conftest import arrays

pytestmark = pytest.mark.slow

SOLODANCE = Path(__file__).parents[3] / "manifests/solodance.yaml"


def test_the_tree_of_solodance_has_its_folders_and_their_roles(dancers, exported):
    tree = exported / "solodance"
    loaded = load_manifest(SOLODANCE, tree)
    assert loaded.counts == {"train": (153, 4), "test": (26, 1)}
    assert len(loaded.shortfall()) == 2
    for split, count in (("train", 4), ("test", 1)):
        for what, name in (
            ("img", "timg_*.jpg"),
            ("fg", "tfg_*.jpg"),
            ("parsing", "tparsing_*.png"),
            ("pose", "tpose_*.json"),
        ):
            sources = sorted((tree / split / f"{split}_{what}/source").iterdir())
            targets = sorted((tree / split / f"{split}_{what}/target").iterdir())
            assert [s.name for s in sources] == [t.name for t in targets]
            assert len(sources) == count and all(len(list(s.iterdir())) == 20 for s in sources)
            assert all(len(list(t.glob(name))) == 1 == len(list(t.iterdir())) for t in targets)
        assert len(list((tree / split / f"{split}_bg").glob("*.jpg"))) == count
    clip = dancers.clips[0]
    one = next(i for i in loaded.inputs if i.path.endswith(f"video-{clip.id}"))
    picture = cv2.imread(f"{one.path}/000004.png")[..., ::-1]
    np.testing.assert_array_equal(picture, arrays(dancers, "frames", clip)["frames"][4])
    labels = arrays(dancers, "parsing", clip)["labels"][4]
    shown = cv2.imread(f"{one.path}/000004.png".replace("_img", "_fg"))[..., ::-1]
    np.testing.assert_array_equal(shown, picture * (labels != 0)[..., None])
    # Twenty labels that merge to the same eleven; a skirt alone belongs to the legs there.
    twenty = read_labels(f"{one.path}/000004.png".replace("_img", "_parsing"))
    eleven = convert_labels(twenty, "cihp20", "remot11")
    skirt = labels == LABELS["atr18"].labels.index("skirt")
    np.testing.assert_array_equal(eleven[~skirt], convert_labels(labels, "atr18", "remot11")[~skirt])
    # Their target is a frame of this clip.
    stored = list(dancers.read_members("frames", clip, "jpg", range(clip.frames)))
    assert Path(one.appearance).read_bytes() == stored[int(one.appearance[-10:-4])]


def test_out_to_solodance_and_back_gives_the_same_keypoints_and_labels(person, tmp_path):
    export(person, "solodance", tmp_path / "SoloDance", workers=0)
    again = build(
        SOLODANCE, str(tmp_path / "s"), policy=Policy(size=(256, 192), min_frames=6, persons="main"), layers={},
        root=tmp_path / "SoloDance", workers=0,
    )  # fmt: skip
    assert (again.clips, again.refused) == (1, 0)
    store = open_store(again.store)
    pose, parsing = import_manifest(store, SOLODANCE, tmp_path / "SoloDance", snapshot="main", workers=0)
    assert (pose.failed, pose.absent, parsing.failed) == ({}, 0, {})
    (old,), (new,) = person.clips, store.clips
    assert (new.frames, new.split, new.source_size) == (old.frames, old.split, (192, 256))
    x, y, w, h = new.crop
    before, after = arrays(person, "pose", old)["keypoints"], arrays(store, "pose", new)["keypoints"]
    back = after[..., :2] * [w / 192, h / 256] + [x, y]
    seen = before[..., 2] > 0
    assert seen.mean() > 0.5
    np.testing.assert_array_equal(after[..., 2] > 0, seen)
    assert np.abs(back - before[..., :2])[seen].max() < 0.01
    rows = np.floor(y + (np.arange(256) + 0.5) * h / 256).clip(0, 255).astype(int)
    columns = np.floor(x + (np.arange(192) + 0.5) * w / 192).clip(0, 191).astype(int)
    whole, cut = arrays(person, "parsing", old)["labels"], arrays(store, "parsing", new)["labels"]
    names, theirs = LABELS["atr18"].labels, LABELS["cihp20"].labels
    same = [theirs.index(name) if name in theirs else -1 for name in names]
    wanted = np.array(same)[whole[:, rows][:, :, columns]]
    known = wanted >= 0
    assert known.mean() > 0.99
    np.testing.assert_array_equal(cut[known], wanted[known])
    assert store.layer("parsing", parsing.id).schema == "cihp20"
