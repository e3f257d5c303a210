"""What detectors are given that ask for boxes, and what the layers they make are called."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from remot_data.annotating.annotate import annotate, plan_job, plan_jobs, recorded_job, switch
from remot_data.care.verify import verify
from remot_data.detectors.base import BUILTIN, DEFAULTS, DetectorError, load
from remot_data.reading.stream import stream
from remot_data.schemas import SCORES
from remot_data.store import Store, open_store
from tests.remot_data.conftest import digests, give_boxes

OLD = Path(__file__).parents[2] / "data" / "store-1c74548"
OWN, BESIDE = (0.25, 0.125, 0.75, 0.875), (0.5, 0.0, 1.0, 1.0)
ASKS = '''
import json
import numpy as np
from remot_data.detectors.base import Batched

class Asks:
    """Says as scores what boxes it was given."""

    name, kind, version, schema = "asks", "scores", "1", "asks"
    needs, licence, approximate = ("boxes",), "Apache-2.0", True

    def fingerprint(self):
        return {"name": self.name, "version": self.version}

    def __call__(self, frames, **needed):
        given = np.full(len(frames), "boxes" in needed, np.float32)
        if "boxes" not in needed:
            return {"given": given}
        own, others = needed["boxes"]["own"], needed["boxes"]["others"]
        assert own.dtype == others.dtype == np.float32 and own.shape[:1] + others.shape[:1] == 2 * (len(frames),)
        scale = np.array(frames.shape[2:0:-1] * 2, np.float32)
        names = [f"own{i}" for i in range(4)] + [f"other{i}" for i in range(4)]
        columns = np.concatenate([own / scale, others[:, 0] / scale], 1).T
        return {"given": given, **dict(zip(names, columns.astype(np.float32)))}

class InBatches(Batched, Asks):
    name, batch = "in-batches", 4

    def split(self, frames, **needed):
        assert "boxes" in needed
        return frames

    def infer(self, items):
        return {"light": items.mean((1, 2, 3)).astype(np.float32)}

    def join(self, frames, outputs, **needed):
        return {"light": outputs["light"], "left": needed["boxes"]["own"][:, 0].copy()}
'''


@pytest.fixture
def asks(tmp_path: Path) -> str:
    (tmp_path / "asks.py").write_text(ASKS)
    return f"{tmp_path / 'asks.py'}:Asks"


def made(store: Store, layer_id: str) -> dict[str, np.ndarray]:
    return store.read_arrays(f"layers/scores/{layer_id}", "scores", store.clips[0])


def test_a_detector_that_asks_gets_the_boxes_in_its_frames(own_dancers: Store, asks: str) -> None:
    store = give_boxes(own_dancers, OWN, BESIDE)
    done = annotate(store, "scores", asks, workers=0)
    found = made(store, done.id)
    assert found["given"].all()
    half = 0.5 / min(store.clips[0].crop[2:]) + 1e-3
    for i in range(4):
        assert np.abs(found[f"own{i}"] - OWN[i]).max() < half and np.abs(found[f"other{i}"] - BESIDE[i]).max() < half
    info = store.layer("scores", done.id)
    assert info.inputs == {"boxes": "boxes"} and recorded_job(info).inputs == info.inputs
    seen = store.index(info.folder, 1).meta["saw"]
    assert seen == {kind: store.sha256(kind, 1) for kind in ("boxes", "frames")}


def test_in_batches_both_ends_get_them(own_dancers: Store, asks: str) -> None:
    store = give_boxes(own_dancers, OWN)
    found = made(store, annotate(store, "scores", asks.replace("Asks", "InBatches"), workers=0).id)
    assert np.abs(found["left"] - OWN[0] * 48).max() < 1


def test_a_store_without_boxes_gives_none_and_the_layer_is_as_before(own_dancers: Store, asks: str) -> None:
    before = plan_job(own_dancers, "scores", asks)
    done = annotate(own_dancers, "scores", asks, workers=0)
    assert not made(own_dancers, done.id)["given"].any()
    assert done.id == before.id and not own_dancers.layer("scores", done.id).inputs
    text = Path(asks.partition(":")[0])
    text.write_text(ASKS.replace('("boxes",)', "()"))
    assert plan_job(own_dancers, "scores", f"{shutil.copy(text, text.with_name('other.py'))}:Asks").id == done.id


def test_ids_of_one_policy_differ_by_whether_there_are_boxes(own_dancers: Store, asks: str) -> None:
    """Not only by the policy: what does not ask for boxes has the same digest of inputs."""
    store = give_boxes(own_dancers, OWN)
    with_boxes = plan_job(store, "scores", asks)
    assert with_boxes.inputs == {"boxes": "boxes"} and with_boxes.reads == {"boxes": "boxes", "frames": "frames"}
    plain = plan_job(store, "flow", "dis")
    assert not plain.inputs and plan_job(store, "scores", asks).id == with_boxes.id


def test_default_jobs_are_planned_in_the_order_of_layers(own_dancers: Store) -> None:
    store = give_boxes(own_dancers, OWN)
    jobs = {job.kind: job for job in plan_jobs(store, DEFAULTS)}
    assert list(jobs) == ["pose", "parsing", "flow", "background", "scores"]
    assert jobs["pose"].inputs == {"boxes": "boxes"}
    assert jobs["scores"].inputs == {"pose": jobs["pose"].id, "parsing": jobs["parsing"].id, "boxes": "boxes"}
    assert jobs["parsing"].inputs == {"pose": jobs["pose"].id}
    assert not jobs["flow"].inputs


def test_missing_boxes_end_the_run_and_cost_no_clip(own_dancers: Store, asks: str) -> None:
    store = give_boxes(own_dancers, OWN)
    (Path(store.url) / "boxes/shard-00001.parquet").unlink()
    with pytest.raises(Exception, match="boxes/shard-00001.parquet is missing: run the build again"):
        annotate(open_store(store.url), "scores", asks, workers=0)


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_boxes_are_in_no_fingerprint(name: str) -> None:
    """Where there are none, layers have the ids that they had."""
    try:
        mark = load(name).fingerprint()
    except DetectorError:
        pytest.skip(f"{name} needs a library or weights that are not here")
    assert "boxes" not in json.dumps(mark)


def test_from_the_source_boxes_have_the_size_of_its_frames(tmp_path: Path, asks: str) -> None:
    store = Store(str(shutil.copytree(OLD, tmp_path / "store")))
    source = OLD.parent / "store-1c74548-cam1.mp4"
    (clip,) = (c for c in store.clips if c.id.startswith("cam1"))
    store.write_clips([dataclasses.replace(c, path=str(source if c.id == clip.id else "")) for c in store.clips])
    store = give_boxes(open_store(store.url), OWN, BESIDE)
    done = annotate(store, "scores", asks, source=96, workers=0)
    found = store.read_arrays(f"layers/scores/{done.id}", "scores", clip)
    assert abs(found["own2"] - OWN[2]).max() < 0.01 and abs(found["other1"] - BESIDE[1]).max() < 0.01


@pytest.mark.slow
def test_layers_of_the_old_store_are_made_again_to_the_byte(tmp_path: Path) -> None:
    """What its detectors make of it does not depend on whether they could ask for boxes.

    Parsing is by a version that is gone.
    """
    layers = open_store(str(OLD)).snapshot("main").layers
    urls = [str(shutil.copytree(OLD, tmp_path / name)) for name in ("one", "two")]
    for url in urls:
        for kind in ("pose", "scores"):
            for path in (Path(url) / f"layers/{kind}/{layers[kind]}").glob("shard-*"):
                path.unlink()
    one, two = map(open_store, urls)
    jobs = {kind: recorded_job(one.layer(kind, layers[kind])) for kind in ("pose", "scores")}
    for kind, job in jobs.items():
        annotate(one, kind, job.spec, settings=job.settings, inputs=layers, source=job.source, workers=0)
    for clip in two.clips:
        frames = two.read_arrays("frames", "frames", clip)["frames"]
        arrays = jobs["pose"].detector()(frames)
        assert "others" not in arrays
        kept = one.read_arrays(f"layers/pose/{layers['pose']}", "pose", clip)
        assert kept.keys() == arrays.keys() and np.array_equal(kept["keypoints"], arrays["keypoints"])
    assert {n for n in digests(one.url) if n.startswith("layers")} == {
        n for n in digests(OLD) if n.startswith("layers")
    }


@pytest.mark.slow
def test_the_default_layers_of_a_store_with_boxes(tmp_path: Path) -> None:
    """All of the way: boxes, pose with others, parsing and scores from it, a filter, windows; and nothing is stale."""
    store = give_boxes(Store(str(shutil.copytree(OLD, tmp_path / "store"))), (0.2, 0.0, 0.8, 1.0), (0.8, 0.0, 1.0, 0.9))
    old = store.snapshot("main").layers
    for kind in ("pose", "parsing", "scores"):
        done = annotate(store, kind, DEFAULTS[kind], snapshot="main", workers=0)
        assert done.id != old[kind] and not done.failed
    store = open_store(store.url)
    folders = store.folders(store.snapshot("main"))
    for clip in store.clips:
        pose = store.read_arrays(folders["pose"], "pose", clip)
        assert pose.keys() == {"keypoints", "mask", "others", "checks"} and pose["keypoints"][..., 2].max() > 0.5
        scores = store.read_arrays(folders["scores"], "scores", clip)
        assert scores.keys() == {*SCORES["basic"], *SCORES["quality"], "agreement"}
        assert set(scores["persons"]) == {2.0} and set(scores["agreement"]) <= {0.0, 1.0}
    switch(store, "main", {}, where="agreement>=1")
    windows = list(stream(store, length=2, split=None))
    assert windows and all(window.arrays["others"].shape == (2, *store.size) for window in windows)
    assert not [str(problem) for problem in verify(store) if "stale" in str(problem)]
    assert all(annotate(store, kind, DEFAULTS[kind], workers=0).computed == 0 for kind in ("pose", "parsing", "scores"))
