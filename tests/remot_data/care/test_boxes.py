"""The boxes of a store: verified, made again out of the ledger, and without the clips that were removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from remot_data.annotating.annotate import annotate
from remot_data.care.compact import compact, remove
from remot_data.care.verify import repair, verify
from remot_data.store import Store, open_store
from remot_data.store.boxes import of_clip, pack
from remot_data.store.content import stats
from tests.remot_data.conftest import digests, give_boxes

OWN, BESIDE = (0.2, 0.1, 0.6, 0.9), (0.7, 0.1, 1.0, 0.9)
READER = """
import numpy as np

class Framed:
    name, kind, version, schema = "framed", "parsing", "1", "atr18"
    needs, licence, approximate = ("boxes",), "Apache-2.0", True

    def fingerprint(self):
        return {"name": self.name, "version": self.version}

    def __call__(self, frames, boxes=None):
        labels = np.zeros(frames.shape[:3], np.uint8)
        if boxes is not None:
            for image, (x0, y0, x1, y1) in zip(labels, np.rint(boxes["own"]).astype(int)):
                image[y0:y1, x0:x1] = 4
        return {"labels": labels}
"""


@pytest.fixture
def store(own_dancers: Store, tmp_path: Path) -> Store:
    """With boxes, a layer made from them, and in the ledger what they can be made again from."""
    store = give_boxes(own_dancers, OWN, BESIDE)
    with store.log("videos") as log:
        for clip in store.clips:
            boxes = store.boxes(clip)
            looks = pack(boxes.pts, boxes.look, boxes.track, boxes.box, boxes.score)
            log.add({"clips": [clip.to_json()], "looks": looks, "own": {clip.id: boxes.own}})
    (tmp_path / "framed.py").write_text(READER)
    annotate(store, "parsing", f"{tmp_path / 'framed.py'}:Framed", workers=0)
    return open_store(store.url)


def problems(store: Store) -> list[str]:
    return [str(problem) for problem in verify(open_store(store.url))]


def test_a_sound_store_has_no_problems(store: Store) -> None:
    assert problems(store) == []


def test_every_byte_of_boxes_counts(store: Store) -> None:
    path = Path(store.url) / "boxes/shard-00000.parquet"
    good = path.read_bytes()
    for at in (0, 50, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        assert problems(store)[0].startswith("boxes/shard-00000.parquet is damaged")


def test_boxes_that_are_missing_strange_or_of_other_clips_are_named(store: Store) -> None:
    root = Path(store.url) / "boxes"
    (root / "shard-00001.parquet").unlink()
    store.write_boxes(9, {})
    store.write_boxes(0, dict(list(store.shard_boxes(0).items())[:1]))
    found = "\n".join(problems(store))
    assert "boxes/shard-00000.parquet has other clips than clips.parquet says" in found
    assert "boxes/shard-00001.parquet is missing" in found
    assert "boxes/shard-00009.parquet does not belong to this store" in found


def test_boxes_of_a_store_without_are_strays(own_dancers: Store) -> None:
    own_dancers.write_boxes(0, {})
    assert problems(own_dancers) == ["boxes/shard-00000.parquet does not belong to this store"]
    assert not repair(own_dancers, list(verify(own_dancers)), workers=0) and problems(own_dancers) == []


def test_damaged_and_missing_boxes_are_made_again_from_the_ledger(store: Store) -> None:
    before, root = digests(store.url), Path(store.url) / "boxes"
    (root / "shard-00000.parquet").write_bytes(b"nothing")
    (root / "shard-00001.parquet").unlink()
    assert not repair(store, list(verify(open_store(store.url))), workers=0)
    assert problems(store) == []
    assert {n: d for n, d in digests(store.url).items() if not n.startswith("ledger")} == {
        n: d for n, d in before.items() if not n.startswith("ledger")
    }


def test_boxes_that_the_ledger_does_not_tell_are_named(own_dancers: Store) -> None:
    store = give_boxes(own_dancers, OWN)
    (Path(store.url) / "boxes/shard-00002.parquet").unlink()
    (left,) = repair(store, list(verify(open_store(store.url))), workers=0)
    assert left.startswith("boxes/shard-00002.parquet cannot be made again: the ledger does not tell")
    assert store.shard_clips(2)[0].id in left


def test_a_layer_made_from_other_boxes_is_stale_in_their_shard_alone(store: Store, tmp_path: Path) -> None:
    done = annotate(store, "parsing", f"{tmp_path / 'framed.py'}:Framed", workers=0)
    assert done.computed == 0
    store.write_boxes(1, {c.id: of_clip(store.boxes(c).looks, c, 2) for c in store.shard_clips(1)})
    folder = f"layers/parsing/{done.id}"
    (problem,) = problems(store)
    assert problem.startswith(f"{folder}/shard-00001.tar is stale: it was made from other boxes")
    assert "other boxes" in next(i["stale"] for i in stats(open_store(store.url))["layers"] if i["id"] == done.id)
    assert annotate(open_store(store.url), "parsing", f"{tmp_path / 'framed.py'}:Framed", workers=0).computed == 1
    assert problems(store) == []


def test_compacting_drops_removed_clips_from_the_boxes_and_leaves_layers_current(store: Store) -> None:
    gone, kept = store.shard_clips(0)
    layers = {i.id: i.fingerprint for i in store.layers}
    wanted = store.boxes(kept)
    remove(store, [gone.id])
    assert compact(store, workers=0) == 1
    store = open_store(store.url)
    assert problems(store) == [] and {i.id: i.fingerprint for i in store.layers} == layers
    assert store.shard_boxes(0).keys() == {kept.id}
    assert store.boxes(kept).box.tolist() == wanted.box.tolist()
    assert not any(i["stale"] for i in stats(store)["layers"])
    # And a repair gives what compacting left.
    sha = store.sha256("boxes", 0)
    (Path(store.url) / "boxes/shard-00000.parquet").unlink()
    assert not repair(store, list(verify(open_store(store.url))), workers=0)
    assert open_store(store.url).sha256("boxes", 0) == sha and problems(store) == []


def test_compacting_that_was_stopped_before_the_boxes_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    remove(store, [store.shard_clips(0)[0].id])
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_boxes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            compact(store, workers=0)
    store = open_store(store.url)
    assert compact(store, workers=0) == 1 and problems(store) == []
    assert len(open_store(store.url).shard_boxes(0)) == 1
