from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from remot_data.store import open_store
from remot_data.verify import stats, verify


def problems(store):
    return [str(problem) for problem in verify(open_store(store.url))]


def test_a_sound_store_has_no_problems(dancers):
    assert problems(dancers) == []


def test_every_flipped_byte_is_found_and_its_file_named(own_dancers):
    rng = np.random.default_rng(5)
    files = sorted(Path(own_dancers.url).rglob("shard-*.tar"))
    for path in rng.choice(files, 12, replace=False):
        good = path.read_bytes()
        broken = bytearray(good)
        broken[rng.integers(len(good))] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        found = problems(own_dancers)
        assert found and str(path.relative_to(own_dancers.url)) in found[0]
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
    from remot_data.layers import frames
    from remot_data.shards import Sample

    black = {"frames": np.zeros((clip.frames, 64, 48, 3), np.uint8)}
    clips = own_dancers.shard_clips(0)
    samples = [Sample(c.key(t), frames.encode(black, t), {"pts": t}) for c in clips for t in range(c.frames)]
    own_dancers.write_shard("frames", 0, samples)
    found = problems(own_dancers)
    assert len(found) == 5
    assert all("shard-00000.tar is stale: it was made from other frames" in line for line in found)


def test_a_snapshot_that_points_to_nothing_and_an_unfinished_layer_are_named(own_dancers):
    layer = own_dancers.snapshot("main").layers["pose"]
    (Path(own_dancers.url) / f"layers/pose/{layer}/layer.json").unlink()
    found = "\n".join(problems(own_dancers))
    assert f"names the pose layer '{layer}', which is not there" in found
    assert f"layers/pose/{layer} is unfinished" in found


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
