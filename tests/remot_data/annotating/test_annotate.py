from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from remot_data.annotating.annotate import annotate, plan_job, recorded_job, run_jobs, switch
from remot_data.care.verify import verify
from remot_data.detectors import base
from remot_data.detectors.base import DetectorError
from remot_data.engine import open_engine
from remot_data.reading.stream import stream
from remot_data.store import StoreError, open_store
from remot_data.store.layers import LayerError
from tests.remot_data.conftest import digests

DETECTOR = '''
import numpy as np

class Bright:
    """Calls every bright pixel upper-clothes."""

    name, kind, version, schema = "bright", "parsing", "1", "atr18"
    needs, licence, approximate = (), "Apache-2.0", True

    def __init__(self, threshold=128, weights=None):
        self.threshold = threshold

    def fingerprint(self):
        return {"name": self.name, "version": self.version, "settings": {"threshold": self.threshold}}

    def __call__(self, frames):
        return {"labels": np.where(frames.mean(-1) > self.threshold, 4, 0).astype(np.uint8)}

class Needy(Bright):
    name, needs = "needy", ("pose", "flow")

    def __call__(self, frames, pose, flow):
        assert pose["keypoints"].shape[0] == flow["flow"].shape[0] == len(frames)
        return super().__call__(frames)

class Broken(Bright):
    name = "broken"

    def __call__(self, frames):
        return {"labels": frames[..., 0].astype(np.int32)}

class Picky(Bright):
    """Fails on the second clip it sees."""

    name, seen = "picky", 0

    def __call__(self, frames):
        type(self).seen += 1
        1 / (type(self).seen - 2)
        return super().__call__(frames)

class Reader(Bright):
    name, kind, schema, needs = "reader", "flow", "backward", ("parsing",)

    def __call__(self, frames, parsing):
        zeros = np.zeros((len(frames), 32, 24, 2), np.float32)
        return {"flow": zeros, "confidence": zeros[..., 0].astype(np.uint8)}

class NoDetector:
    pass
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(DETECTOR)
    return path


def test_a_new_layer_is_written_and_nothing_else(own_dancers, file):
    before = digests(own_dancers.url)
    done = annotate(own_dancers, "parsing", f"{file}:Bright", workers=0)
    after = digests(own_dancers.url)
    assert {k: after[k] for k in before if not k.startswith("ledger/")} == {
        k: v for k, v in before.items() if not k.startswith("ledger/")
    }
    fresh = {k for k in set(after) - set(before) if not k.startswith("ledger/")}
    assert fresh == {
        f"layers/parsing/{done.id}/{n}"
        for n in ("layer.json", *(f"shard-{i:05d}.{e}" for i in range(3) for e in ("tar", "parquet")))
    }
    assert list(verify(open_store(own_dancers.url))) == []
    clip = own_dancers.clips[0]
    labels = own_dancers.read_arrays(f"layers/parsing/{done.id}", "parsing", clip)["labels"]
    frames = own_dancers.read_arrays("frames", "frames", clip)["frames"]
    assert np.array_equal(labels == 4, frames.mean(-1) > 128)


def test_what_is_there_is_not_computed_again(own_dancers, file):
    assert annotate(own_dancers, "parsing", f"{file}:Bright", workers=0).computed == 3
    before = digests(own_dancers.url)
    assert annotate(own_dancers, "parsing", f"{file}:Bright", workers=0).computed == 0
    assert digests(own_dancers.url) == before


def test_an_interrupted_layer_is_gone_on_with_and_equal(own_dancers, file):
    done = annotate(own_dancers, "parsing", f"{file}:Bright", workers=0)
    before = digests(own_dancers.url)
    folder = Path(own_dancers.url) / "layers/parsing" / done.id
    (folder / "shard-00001.parquet").unlink()
    (folder / "shard-00002.tar").unlink()
    (folder / "shard-00002.parquet").unlink()
    again = annotate(open_store(own_dancers.url), "parsing", f"{file}:Bright", workers=0)
    assert again.computed == 2
    after = digests(own_dancers.url)
    assert {k: v for k, v in after.items() if "ledger" not in k} == {
        k: v for k, v in before.items() if "ledger" not in k
    }


def test_settings_and_inputs_are_part_of_the_id(own_dancers, file):
    spec = f"{file}:Bright"
    ids = {plan_job(own_dancers, "parsing", spec, settings={"threshold": t}).id for t in (100, 128)}
    assert len(ids) == 2
    needy = [
        plan_job(own_dancers, "parsing", f"{file}:Needy", available={"pose": pose, "flow": "f"}).id
        for pose in ("a", "b")
    ]
    assert needy[0] != needy[1]


def test_a_stale_shard_alone_is_computed_again(own_dancers, file):
    from remot_data.store.layers import kind
    from remot_data.store.shards import Sample

    annotate(own_dancers, "parsing", f"{file}:Bright", workers=0)
    white = {"frames": np.full((20, 64, 48, 3), 255, np.uint8)}
    clips = own_dancers.shard_clips(1)
    samples = [Sample(c.key(t), kind("frames").encode(white, t), {"pts": t}) for c in clips for t in range(c.frames)]
    own_dancers.write_shard("frames", 1, samples)
    done = annotate(open_store(own_dancers.url), "parsing", f"{file}:Bright", workers=0)
    assert done.computed == 1
    store = open_store(own_dancers.url)
    assert store.read_arrays(f"layers/parsing/{done.id}", "parsing", clips[0])["labels"].min() == 4


def test_a_detector_gets_the_layers_it_needs_and_the_snapshot_can_switch(own_dancers, file):
    before = own_dancers.snapshot("main")
    done = annotate(own_dancers, "parsing", f"{file}:Needy", workers=0, snapshot="bright")
    assert own_dancers.snapshot("bright").layers == {**before.layers, "parsing": done.id}
    assert own_dancers.snapshot("main") == before
    switch(own_dancers, "main", {"parsing": done.id})
    switch(own_dancers, "main", {"parsing": before.layers["parsing"]})
    assert own_dancers.snapshot("main") == before


def test_switching_and_back_gives_the_same_windows_to_the_bit(own_dancers, file):
    def windows():
        return [(w.id, {k: v.tobytes() for k, v in w.arrays.items()}) for w in stream(own_dancers.url, split=None)]

    before, old = windows(), own_dancers.snapshot("main").layers["parsing"]
    done = annotate(own_dancers, "parsing", f"{file}:Bright", snapshot="main", workers=0)
    switched = windows()
    assert [key for key, _ in switched] == [key for key, _ in before]
    changed = {name for (_, a), (_, b) in zip(before, switched, strict=True) for name in a if a[name] != b[name]}
    assert changed == {"labels", "source_labels"}
    switch(own_dancers, "main", {"parsing": old})
    assert windows() == before and done.id != old


def test_making_one_layer_again_reads_the_frames_and_no_other_layer(own_dancers, file, monkeypatch):
    from remot_data.store.files import Files

    opened = set()
    for name in ("open", "read", "parts"):
        plain = getattr(Files, name)
        monkeypatch.setattr(
            Files, name, lambda self, path, *a, _f=plain, **k: opened.add(path) or _f(self, path, *a, **k)
        )
    done = annotate(own_dancers.url, "parsing", f"{file}:Bright", workers=0)
    tars = {path for path in opened if path.endswith(".tar")}
    assert tars == {f"frames/shard-{n:05d}.tar" for n in range(3)}
    assert {path for path in opened if path.startswith("layers/") and done.id not in path} == set()


def test_a_missing_input_layer_is_named(own_dancers, file):
    with pytest.raises(StoreError, match="reads the layer flow"):
        plan_job(own_dancers, "parsing", f"{file}:Needy", available={"pose": "a"})


def test_a_detector_that_fails_on_every_clip_is_an_error_that_names_one(own_dancers, file):
    with pytest.raises(DetectorError, match=r"failed on every clip; on dancer-000-00000.*must be uint8"):
        annotate(own_dancers, "parsing", f"{file}:Broken", workers=0)
    assert [i.detector for i in own_dancers.layers if i.kind == "parsing"] == ["synthetic"]


def test_a_clip_that_a_detector_fails_on_costs_that_clip(own_dancers, file):
    done = annotate(own_dancers, "parsing", f"{file}:Picky", workers=0, snapshot="picky")
    (clip, reason), *others = done.failed.items()
    assert not others and "ZeroDivisionError" in reason
    store = open_store(own_dancers.url)
    assert list(verify(store)) == []
    assert {w.clip for w in stream(store, snapshot="picky", split=None)} == {c.id for c in store.clips} - {clip}
    needy = annotate(store, "flow", f"{file}:Reader", inputs={"parsing": done.id}, workers=0)
    assert needy.failed == {clip: "it reads the parsing layer, which failed"}
    assert annotate(store, "parsing", f"{file}:Picky", workers=0).computed == 0
    assert annotate(store, "parsing", f"{file}:Picky", workers=0, retry=True).computed == 1


@pytest.mark.parametrize(
    ("kind", "spec", "error", "says"),
    [
        ("parsing", "nobody", DetectorError, "remot detectors"),
        ("parsing", "missing.py:X", DetectorError, "is not a file and a class name"),
        ("parsing", "{file}:Absent", DetectorError, "has no class 'Absent'"),
        ("parsing", "{file}:NoDetector", DetectorError, "is no detector"),
        ("pose", "{file}:Bright", DetectorError, "makes a parsing layer, not pose"),
        ("smell", "{file}:Bright", LayerError, "known: frames, pose"),
    ],
)
def test_a_wrong_choice_is_one_clear_sentence(own_dancers, file, kind, spec, error, says):
    with pytest.raises(error, match=says):
        plan_job(own_dancers, kind, spec.format(file=file))


def test_an_unknown_setting_is_named(file):
    with pytest.raises(DetectorError, match="colour"):
        base.load(f"{file}:Bright", settings={"colour": 3})


@pytest.mark.slow
def test_two_workers_write_the_same_bytes_as_none(own_dancers, file, tmp_path):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(own_dancers.url, other)
    annotate(own_dancers, "parsing", f"{file}:Bright", workers=0)
    annotate(str(other), "parsing", f"{file}:Bright", workers=2)
    one, two = digests(own_dancers.url), digests(other)
    assert {k: v for k, v in one.items() if "ledger" not in k} == {k: v for k, v in two.items() if "ledger" not in k}


LEARNT = """
class Learnt(Bright):
    before = {"soft": False}

    def __init__(self, threshold=128, soft=True):
        super().__init__(threshold)
        self.soft = soft

    def fingerprint(self):
        made = super().fingerprint()
        return {**made, "settings": {**made["settings"], "soft": True}} if self.soft else made

    def __call__(self, frames):
        return {"labels": super().__call__(frames)["labels"] * np.uint8(2 if self.soft else 1)}
"""


def test_a_layer_older_than_a_setting_is_made_again_as_it_was(own_dancers, file):
    """The detector has since learnt a setting, whose default gives something else."""
    older = annotate(own_dancers, "parsing", f"{file}:Bright", workers=0)
    file.write_text(file.read_text() + LEARNT)
    before = digests(own_dancers.url)
    folder = Path(own_dancers.url) / "layers/parsing" / older.id
    for name in ("shard-00001.parquet", "shard-00001.tar"):
        (folder / name).unlink()

    store = open_store(own_dancers.url)
    made_by = dataclasses.replace(store.layer("parsing", older.id), spec=f"{file}:Learnt")
    job = recorded_job(made_by)
    assert job.id == older.id and job.settings == {"soft": False}
    with open_engine(0) as engine:
        run_jobs(engine, store, [job])
    after = digests(own_dancers.url)
    assert {k for k in before if "ledger" not in k and after[k] != before[k]} == {
        f"layers/parsing/{older.id}/layer.json"  # which names the class
    }
    assert open_store(store.url).layer("parsing", older.id).settings == {}
    assert annotate(store, "parsing", f"{file}:Learnt", workers=0).id != older.id
