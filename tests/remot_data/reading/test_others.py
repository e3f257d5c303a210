"""Windows of layers that tell where somebody else is: some clips have that, others have nobody else."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from remot_data.annotating.annotate import annotate, switch
from remot_data.care.compact import compact, remove
from remot_data.care.verify import verify
from remot_data.exchange.exports import export
from remot_data.reading.loader import Loader
from remot_data.reading.stream import Plan, stream, to_torch
from remot_data.store import Store, StoreError, open_store
from tests.remot_data.conftest import give_boxes

DETECTOR = """
import numpy as np

class Crowded:
    \"\"\"Says that everybody but the person is where their box is, in clips whose first pixel is odd.\"\"\"

    name, kind, version, schema, needs, licence, approximate = "crowded", "pose", "1", "body25", ("boxes",), "", False

    def fingerprint(self):
        return {"detector": self.name}

    def __call__(self, frames, boxes=None):
        out = {"keypoints": np.ones((len(frames), 25, 3), np.float32)}
        if boxes is not None and frames[0, 0, 0, 0] % 2:
            others = out["others"] = np.zeros(frames.shape[:3], np.uint8)
            for t, ((x0, y0, x1, y1),) in enumerate(np.rint(boxes["others"]).astype(int)):
                others[t, y0:y1, x0:x1] = 255 - t
        return out
"""
BESIDE = (0.5, 0.25, 0.75, 1.0)


@pytest.fixture
def store(own_dancers: Store, tmp_path: Path) -> Store:
    """A pose layer in which some clips of a shard have the mask of others, and some have none."""
    (tmp_path / "crowded.py").write_text(DETECTOR)
    store = give_boxes(own_dancers, (0.1, 0.1, 0.5, 0.9), BESIDE)
    annotate(store, "pose", f"{tmp_path / 'crowded.py'}:Crowded", snapshot="main", workers=0)
    assert 0 < sum(map(has_others, itertools.repeat(store), store.clips)) < len(store.clips)
    return store


def read(store: Store, clip: str) -> dict[str, np.ndarray]:
    found = store.clip[clip]
    return store.read_arrays(store.folders(store.snapshot("main"))["pose"], "pose", found)


def has_others(store: Store, clip: object) -> bool:
    return "others" in read(store, clip.id)  # type: ignore[attr-defined]


def test_the_mask_comes_back_where_a_clip_has_one(store: Store) -> None:
    assert not list(verify(store))
    wanted = np.zeros((64, 48), bool)
    wanted[16:64, 24:36] = True
    for clip in store.clips:
        if has_others(store, clip):
            others = read(store, clip.id)["others"]
            assert others.shape == (clip.frames, 64, 48) and ((others > 0) == wanted).all() and others.max() == 255
        assert store[f"{clip.id}/000001"].keys() >= {"keypoints"}
        assert ("others" in store[f"{clip.id}/000001"]) == has_others(store, clip)


def test_every_window_tells_of_others(store: Store) -> None:
    seen = set()
    for window in stream(store, length=3, split=None, max_step=2):
        others = window.arrays["others"]
        assert others.dtype == bool and others.shape == (3, 64, 48)
        whole = read(store, window.clip).get("others")
        wanted = np.zeros_like(others) if whole is None else whole[window.first :: window.step][:3] >= 128
        assert np.array_equal(others, wanted)
        seen.add(bool(others.any()))
    assert seen == {True, False}
    assert to_torch(window)["others"].shape == (3, 1, 64, 48)


def test_other_sizes_and_raw_windows_have_them(store: Store) -> None:
    plan = Plan(store, length=3, split=None, raw=True, shuffle=False)
    halves = [plan.window(i, (32, 24)).arrays["others"] for i in range(len(plan))]
    wholes = [plan.window(i).arrays["others"] for i in range(len(plan))]
    for half, whole in zip(halves, wholes, strict=True):
        assert half.shape == (3, 32, 24) and half.mean() == whole.mean()


@pytest.mark.parametrize("decoding", [{"threads": 0}, {"threads": 2}, {"workers": 1}], ids=str)
def test_batches_mix_clips_with_and_without(store: Store, decoding: dict[str, int]) -> None:
    plan = Plan(store, length=3, split=None)
    for batch in Loader(plan, 4, **decoding):
        for row, number in enumerate(batch["number"]):
            assert np.array_equal(batch["others"][row], plan.window(int(number)).arrays["others"])


def test_windows_of_layers_made_without_boxes_are_as_before(store: Store, dancers: Store) -> None:
    assert "others" not in next(iter(stream(dancers))).arrays
    pose = dancers.snapshot("main").layers["pose"]
    switch(store, "plain", {"pose": pose})
    assert "others" not in next(iter(stream(store, snapshot="plain"))).arrays
    assert "others" not in next(iter(stream(store, layers=["flow"]))).arrays


def test_stores_mixed_have_them_only_where_all_have(
    store: Store, dancers: Store, caplog: pytest.LogCaptureFixture
) -> None:
    for several in ([store, dancers], [dancers, store]):
        plan = Plan(several, length=3)
        assert not any("others" in plan.window(i).arrays for i in range(len(plan)))
    assert f"the pose layer of {dancers.url} cannot" in caplog.text
    plan = Plan([store, store], length=3)
    assert all("others" in plan.window(i).arrays for i in range(len(plan)))


def test_a_damaged_member_of_others_is_named(store: Store) -> None:
    folder = store.folders(store.snapshot("main"))["pose"]
    clip = next(c for c in store.clips if has_others(store, c))
    offsets, sizes = store.index(folder, clip.shard).members(clip.id, "others.png")
    with open(Path(store.url) / folder / f"shard-{clip.shard:05d}.tar", "r+b") as file:
        for offset, size in zip(offsets.tolist(), sizes.tolist(), strict=True):
            file.seek(offset)
            file.write(bytes(size))
    plan = Plan(open_store(store.url), length=3, split=None)
    with pytest.raises(StoreError, match=rf"{clip.id}/\d+.others.png cannot be used"):
        for number in range(len(plan)):
            plan.window(number)


def test_compacting_and_exporting_keep_them(store: Store, tmp_path: Path) -> None:
    gone = next(c for c in store.clips if not has_others(store, c) and len(store.shard_clips(c.shard)) > 1)
    before = {c.id: read(store, c.id).get("others") for c in store.clips if c.id != gone.id}
    remove(store, [gone.id])
    compact(store, workers=0)
    store = open_store(store.url)
    assert not list(verify(store))
    for clip, wanted in before.items():
        found = read(store, clip).get("others")
        assert (found is None) == (wanted is None) and (wanted is None or np.array_equal(found, wanted))
    export(store, "croissant", tmp_path / "croissant", workers=0)
    told = json.loads(next((tmp_path / "croissant").glob("*.json")).read_text())
    assert "*/*.others.png" in json.dumps(told)
    export(store, "webdataset", tmp_path / "tars", workers=0)
    assert any(b".pose.others.png" in path.read_bytes() for path in (tmp_path / "tars").glob("*.tar"))
    shutil.rmtree(tmp_path / "tars")
