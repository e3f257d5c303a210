from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from remot_data import media
from remot_data.assets import fetch
from remot_data.care.verify import repair, verify
from remot_data.ingest.build import build
from remot_data.ingest.policy import Policy
from remot_data.store import Store, StoreError, open_store
from remot_data.store.content import content, stats
from tests.remot_data.conftest import digests

verify_module = sys.modules["remot_data.care.verify"]


def problems(store):
    return [str(problem) for problem in verify(open_store(store.url))]


def test_a_sound_store_has_no_problems(dancers):
    assert problems(dancers) == []


@pytest.mark.slow
def test_every_flipped_byte_of_every_file_is_found_and_its_file_named(own_dancers):
    """One random byte in each of 500 copies of files of a store."""
    rng = np.random.default_rng(5)
    root = Path(own_dancers.url)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    kinds = {p.name if p.suffix == ".json" else p.suffix for p in files}
    assert {".tar", ".parquet", "store.json", "layer.json", "main.json", ".jsonl"} <= kinds
    for path in [*files, *rng.choice(files, 500 - len(files))]:
        good = path.read_bytes()
        broken = bytearray(good)
        broken[rng.integers(len(good))] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        found = list(verify(Store(own_dancers.url)))
        assert str(path.relative_to(root)) in {problem.name for problem in found}
        path.write_bytes(good)
    assert problems(own_dancers) == []


def test_missing_cut_and_strange_files_are_named(own_dancers):
    root = Path(own_dancers.url)
    (root / "frames/shard-00001.tar").unlink()
    (root / "frames/shard-00009.tar").write_bytes(b"")
    layer = own_dancers.snapshot("main").layers["flow"]
    index = root / f"layers/flow/{layer}/shard-00000.parquet"
    index.write_bytes(index.read_bytes()[:100])
    found = "\n".join(problems(own_dancers))
    assert "frames/shard-00001.tar is missing" in found
    assert "frames/shard-00009.tar does not belong" in found
    assert f"layers/flow/{layer}/shard-00000.parquet is damaged" in found


def test_a_stale_layer_is_named(own_dancers):
    clip = own_dancers.clips[0]
    from remot_data.store.layers import kind
    from remot_data.store.shards import Sample

    black = {"frames": np.zeros((clip.frames, 64, 48, 3), np.uint8)}
    clips = own_dancers.shard_clips(0)
    samples = [Sample(c.key(t), kind("frames").encode(black, t), {"pts": t}) for c in clips for t in range(c.frames)]
    own_dancers.write_shard("frames", 0, samples)
    found = problems(own_dancers)
    assert len(found) == 5
    assert all("shard-00000.tar is stale: it was made from other frames" in line for line in found)
    reasons = {f"{layer['kind']}/{layer['id']}": layer["stale"] for layer in stats(own_dancers)["layers"]}
    assert set(reasons.values()) == {"its shard 0 was made from other frames"}
    assert content(own_dancers, "main").stale == reasons


def test_the_content_of_a_snapshot_is_what_reading_it_gives(own_dancers):
    before = content(own_dancers, "main")
    assert before.stale == {}
    assert content(Store(own_dancers.url), "main") == before
    main = own_dancers.snapshot("main")
    pose = main.layers["pose"]
    # Another layer beside it changes nothing; another filter, a clip less or other bytes do.
    own_dancers.write_json("layers/pose/other/layer.json", own_dancers.layer("pose", pose).to_json() | {"id": "other"})
    assert content(own_dancers, "main") == before
    own_dancers.write_snapshot(dataclasses.replace(main, where="motion<9"))
    assert content(own_dancers, "main").digest != before.digest
    own_dancers.write_snapshot(main)
    own_dancers.remove({own_dancers.clips[0].id: "test"})
    assert content(own_dancers, "main").digest != before.digest
    (Path(own_dancers.url) / f"layers/pose/{pose}/shard-00000.parquet").unlink()
    assert content(Store(own_dancers.url), "main").stale == {f"pose/{pose}": "its shard 0 is missing"}


def test_a_snapshot_that_points_to_nothing_and_an_unfinished_layer_are_named(own_dancers):
    layer = own_dancers.snapshot("main").layers["pose"]
    (Path(own_dancers.url) / f"layers/pose/{layer}/layer.json").unlink()
    found = "\n".join(problems(own_dancers))
    assert f"names the pose layer '{layer}', which is not there" in found
    assert f"layers/pose/{layer} is unfinished" in found


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A store of two short videos with two layers, and its content."""
    folder = tmp_path_factory.mktemp("small")
    for name in ("sample-cam02", "sample-cam03"):
        media.cut(fetch(name), folder / f"{name}.mp4", 0.0, 0.4)
    layers = {"pose": "blazepose", "scores": "basic-scores"}
    build(folder, str(folder / "store"), policy=Policy(size=(64, 48), min_frames=6), layers=layers, workers=0)
    return folder / "store"


@pytest.fixture
def own(small, tmp_path):
    shutil.copytree(small, tmp_path / "store")
    return Store(str(tmp_path / "store"))


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "harm"),
    [
        ("frames/shard-00000.tar", damage),
        ("frames/shard-00000.parquet", damage),
        ("frames/shard-00000.tar", Path.unlink),
        ("layers/pose/*/shard-00000.tar", damage),
        ("layers/scores/*/shard-00000.parquet", Path.unlink),
        ("layers/pose/*/layer.json", damage),
        ("layers/scores/*/layer.json", Path.unlink),
        ("clips.parquet", damage),
        ("store.json", damage),
        ("store.json", Path.unlink),
        ("ledger/store.json", damage),
        ("ledger/receipts.parquet", damage),
    ],
)
def test_repair_makes_exactly_what_is_broken_again(own, small, pattern, harm):
    before = {k: v for k, v in digests(small).items() if not k.startswith("ledger/")}
    times = {p: p.stat().st_mtime_ns for p in Path(own.url).rglob("shard-*")}
    (path,) = Path(own.url).glob(pattern)
    harm(path)
    found = list(verify(own))
    assert found
    assert repair(Store(own.url), found, workers=0) == []
    assert list(verify(Store(own.url))) == []
    assert {k: v for k, v in digests(own.url).items() if not k.startswith("ledger/")} == before
    stem = str(path).removesuffix(path.suffix)
    touched = {p for p, t in times.items() if p.stat().st_mtime_ns != t}
    assert all(str(p).startswith(stem) for p in touched)


@pytest.mark.slow
def test_what_nothing_can_make_again_is_said(own):
    damage(Path(own.url) / "snapshots/main.json")
    (Path(own.url) / "stray.txt").write_text("mine")
    left = repair(Store(own.url), list(verify(own)), workers=0)
    assert ["snapshots/main.json" in left[0], "stray.txt" in left[1]] == [True, True]
    assert (Path(own.url) / "stray.txt").exists()


@pytest.mark.slow
def test_frames_whose_video_is_gone_stay_as_they_are_and_are_named(own, monkeypatch):
    (tar,) = Path(own.url).glob("frames/*.tar")
    damage(tar)
    broken = tar.read_bytes()
    monkeypatch.setattr(verify_module.os.path, "exists", lambda path: not str(path).endswith(".mp4"))
    left = repair(Store(own.url), list(verify(own)), workers=0)
    assert "is gone or has changed" in left[0]
    assert tar.read_bytes() == broken


@pytest.mark.slow
def test_left_over_temporary_files_are_named_and_repaired(own):
    rest = Path(own.url) / "frames/shard-00000.tar.1234abcd.tmp"
    rest.write_bytes(b"half a shard")
    found = list(verify(own))
    assert [str(p) for p in found] == ["frames/shard-00000.tar.1234abcd.tmp was left by an interrupted write"]
    assert repair(own, found, workers=0) == []
    assert not rest.exists()


def test_stats_count_what_is_there(dancers):
    found = stats(dancers)
    assert (found["clips"], found["frames"], found["shards"]) == (5, 100, 3)
    assert found["splits"] == {"test": 1, "train": 4}
    assert found["bytes"]["frames"] == sum(p.stat().st_size for p in Path(dancers.url).glob("frames/*.tar"))


@pytest.mark.parametrize("name", ["webdataset", "datasets"])
def test_other_libraries_read_the_shards(dancers, name):
    """The plain libraries see the same keys, as many, and the same fields in every sample."""
    pytest.importorskip(name)
    keys = [clip.key(t) for clip in dancers.clips for t in range(clip.frames)]
    snapshot = dancers.snapshot("main").layers
    folders = {"frames": {"jpg"}, f"layers/pose/{snapshot['pose']}": {"npy", "mask.png"}}
    folders |= {f"layers/parsing/{snapshot['parsing']}": {"png"}, f"layers/flow/{snapshot['flow']}": {"npz"}}
    for folder, fields in folders.items():
        tars = sorted(str(p) for p in (Path(dancers.url) / folder).glob("*.tar"))
        samples = _read(name, tars)
        assert [s["__key__"] for s in samples] == keys
        assert all({f for f in s if not f.startswith("__")} == fields for s in samples)


def _read(name, tars):
    if name == "webdataset":
        import webdataset

        return list(webdataset.WebDataset(tars, shardshuffle=False))
    import datasets

    return list(datasets.load_dataset("webdataset", data_files={"train": tars}, split="train", streaming=True))


def test_a_store_drawn_by_another_version_is_not_repaired_with_other_values(own_dancers):
    store = own_dancers
    config = json.loads(store.files.read("store.json"))
    config["synthetic"]["version"] = "1"
    for name in ("store.json", "ledger/store.json"):
        store.write_json(name, config)
    shard = Path(store.url) / "frames/shard-00000.tar"
    shard.write_bytes(shard.read_bytes()[:-1024])
    broken = Store(store.url)
    before = sorted(path for path in Path(store.url).rglob("*.tar"))
    with pytest.raises(StoreError, match="drawn by version 1, this is 2"):
        repair(broken, list(verify(broken)), workers=0)
    assert sorted(path for path in Path(store.url).rglob("*.tar")) == before
