"""A kind of layer that this package knows nothing of, the template of docs/own_layer.py, through every room."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as arrays_of

from remot_data import cli
from remot_data.annotating.annotate import annotate, plan_jobs, run_jobs, switch
from remot_data.care.compact import compact, remove
from remot_data.care.compare import compare
from remot_data.care.verify import verify
from remot_data.detectors import base
from remot_data.detectors.base import DetectorError
from remot_data.engine import open_engine
from remot_data.exchange.exports import export
from remot_data.reading.loader import Loader
from remot_data.reading.stream import Plan, stream, to_torch
from remot_data.report import write_report
from remot_data.store import Store, layers, open_store
from remot_data.store.layers import LayerError
from remot_data.store.shards import Sample

TEMPLATE = Path(__file__).parents[2] / "docs" / "own_layer.py"
WRONG = """
from own_layer import Depth, Ramp
from remot_data.store.layers import Kind
from remot_data.store.layers.pose import Pose


class Stereo(Ramp):
    kind = "stereo"


class Body(Ramp):
    kind, layer_kind = "pose", Pose


class Names(Ramp):
    class layer_kind(Depth):
        name = "depth map"


class Frames(Ramp):
    class layer_kind(Depth):
        window_arrays = {"depth": "map", "frames": "image"}


class Form(Ramp):
    class layer_kind(Depth):
        window_arrays = {"depth": "metres"}


class Half(Ramp):
    class layer_kind(Kind):
        name, fields = "depth", {"depth": "png"}


class Field(Ramp):
    class layer_kind(Depth):
        window_field = "map"


class Number(Ramp):
    layer_kind = 3
"""


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Whatever kinds a test makes known are not known to the next."""
    kinds, origins = dict(layers._KINDS), dict(layers._ORIGINS)
    yield
    for known, before in ((layers._KINDS, kinds), (layers._ORIGINS, origins)):
        known.clear()
        known.update(before)
    layers._load_files.cache_clear()


def forget() -> None:
    """As in a process that never heard of it."""
    layers._KINDS.pop("depth", None)
    layers._load_files.cache_clear()


@pytest.fixture
def spec(tmp_path: Path) -> str:
    shutil.copy(TEMPLATE, tmp_path / "mine.py")
    return f"{tmp_path / 'mine.py'}:Ramp"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that is installed and offers the kind and the detector."""
    site = tmp_path / "site"
    about = site / "depths-1.0.dist-info"
    about.mkdir(parents=True)
    shutil.copy(TEMPLATE, site / "depths.py")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: depths\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[remot.layers]\ndepth = depths:Depth\n\n[remot.detectors]\nramp = depths:Ramp\n"
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "depths", raising=False)
    return about / "entry_points.txt"


def through_every_room(store: Store, spec: str, out: Path) -> None:
    command = f"annotate {store.url} --layer depth --with {spec} --snapshot depth --workers 0 --setting"
    assert [cli.run([*command.split(), f"far={far}"]) for far in (5.0, 5.2, 9.0)] == [0, 0, 0]
    made = [annotate(store, "depth", spec, settings={"far": far}, workers=0).id for far in (5.0, 5.2, 9.0)]
    assert [i.id for i in store.layers if i.kind == "depth"] == sorted(made)
    assert store.snapshot("depth").layers["depth"] == made[-1]
    assert cli.run(["snapshot", store.url, "depth", "--layer", f"depth={made[0]}"]) == 0
    assert store.snapshot("depth").layers == {**store.snapshot("main").layers, "depth": made[0]}
    assert cli.run(["stats", store.url]) == 0

    rows = np.rint(np.linspace(5, 1, 64) * 1000).astype(np.float32) / np.float32(1000)
    clip = store.clips[0]
    found = store.read_arrays(f"layers/depth/{made[0]}", "depth", clip)["depth"]
    assert found.dtype == np.float32 and np.array_equal(found, np.broadcast_to(rows[:, None], (20, 64, 48)))

    window = next(stream(store, snapshot="depth", shuffle=False, size=(32, 24)))
    assert {"keypoints", "labels", "flow", "background", "depth"} <= set(window.arrays)
    assert window.arrays["depth"].shape == (6, 32, 24) and window.arrays["source_depth"].shape == (32, 24)
    assert np.isin(window.arrays["depth"], rows).all()
    only = next(stream(store, snapshot="depth", shuffle=False, layers=["depth"]))
    assert set(only.arrays) == {"frames", "pts", "source", "depth", "source_depth"}
    assert np.array_equal(only.arrays["depth"][0], found[0])
    batch = next(iter(Loader(Plan(store, "depth", layers=["depth"]), 2, threads=0)))
    assert batch["depth"].shape == (2, 6, 64, 48)

    with pytest.raises(LayerError, match="no kind of layer is called 'dept'; known: frames, .*, depth; "):
        annotate(store, "dept", spec)
    alike, apart = (compare(store, "depth", made[0], other, out / other, workers=0) for other in made[1:])
    assert alike.agreement == 1.0 and apart.agreement < 0.3 < 0.4 < apart.measures["relative_error"]
    assert alike.frames == 100 and len(pq.read_table(alike.table)) == 100
    page = (out / made[1] / "index.html").read_text()
    assert page.count("<figure") == 15 and "whose depths differ by less than 5 %" in page

    assert list(verify(store)) == []
    page = shown(store, out / "report.html")
    assert "frame, pose, parsing, flow, depth side by side" in page and "Depth: from red, near" in page
    command = f"compare {store.url} --layer depth {made[0]} {made[2]} --out {out / 'gate'} --workers 0 --fail-below 0.9"
    assert cli.run(command.split()) == 1


def shown(store: Store, out: Path) -> str:
    """The report of a store, whose main snapshot now has the layer."""
    switch(store, "main", store.snapshot("depth").layers)
    write_report(open_store(store.url), out)
    return out.read_text()


@pytest.mark.slow
def test_a_kind_that_a_detector_brings_goes_through_every_room(own_dancers, spec, tmp_path):
    through_every_room(own_dancers, spec, tmp_path)
    assert layers.origin("depth") == spec


@pytest.mark.slow
def test_a_kind_of_a_package_goes_through_every_room(own_dancers, package, tmp_path):
    through_every_room(own_dancers, "ramp", tmp_path)
    assert layers.origin("depth") == ""


def test_a_kind_of_a_package_is_found_by_who_reads_without_the_detector(own_dancers, package, tmp_path):
    made = annotate(own_dancers, "depth", "ramp", snapshot="depth", workers=0).id
    forget()
    assert "depth" not in layers._KINDS and layers.is_known("depth") and layers.known()[-1] == "depth"
    assert next(stream(own_dancers, snapshot="depth")).arrays["depth"].shape == (6, 64, 48)
    forget()
    assert own_dancers.read_arrays(f"layers/depth/{made}", "depth", own_dancers.clips[0])["depth"].max() == 5


def test_it_is_made_with_others_in_one_run(own_dancers, spec):
    jobs = plan_jobs(own_dancers, {"depth": spec, "flow": "dis"})
    assert [job.kind for job in jobs] == ["flow", "depth"]
    with open_engine(0) as engine:
        run_jobs(engine, own_dancers, jobs)
    assert list(verify(own_dancers)) == []


@pytest.mark.slow
def test_a_kind_of_a_file_is_found_by_every_process_that_is_told(own_dancers, spec, tmp_path, monkeypatch):
    annotate(own_dancers, "depth", spec, snapshot="depth", workers=0)
    forget()
    monkeypatch.setenv("REMOT_LAYERS", spec)
    assert next(stream(own_dancers, snapshot="depth")).arrays["depth"].shape == (6, 64, 48)
    command = [sys.executable, "-c", "from remot_data.cli import main; main()", "stream", own_dancers.url]
    told = subprocess.run([*command, "--snapshot", "depth", "--plan"], capture_output=True, text=True, check=True)
    assert ", depth 0." in told.stdout
    monkeypatch.setenv("REMOT_LAYERS", f"{spec.replace('Ramp', 'Depth')},{tmp_path / 'gone.py'}:Depth")
    forget()
    with pytest.raises(LayerError, match="REMOT_LAYERS names .*gone.py:Depth, which cannot be loaded: .* not a file"):
        layers.kind("depth")
    forget()
    monkeypatch.setenv("REMOT_LAYERS", spec.replace("Ramp", "Depth"))
    assert layers.kind("depth").name == "depth"


@pytest.mark.slow
def test_workers_find_the_kind_of_a_file(own_dancers, spec, tmp_path):
    a, b = (annotate(own_dancers, "depth", spec, settings={"far": far}, workers=1).id for far in (5.0, 5.1))
    assert compare(own_dancers, "depth", a, b, tmp_path / "out", workers=1).agreement == 1.0


def test_it_is_exported_repaired_and_compacted_as_any_other(own_dancers, spec, tmp_path):
    made = annotate(own_dancers, "depth", spec, snapshot="depth", workers=0).id
    shard = Path(own_dancers.url, "layers", "depth", made, "shard-00000.tar")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:700] + b"?" + whole[701:])
    assert cli.run(["verify", own_dancers.url, "--repair", "--workers", "0"]) == 0
    assert shard.read_bytes() == whole
    export(own_dancers, "webdataset", tmp_path / "tars", snapshot="depth", workers=0)
    assert json.loads((tmp_path / "tars" / "dataset.json").read_text())["schemas"]["depth"] == "metres"
    remove(own_dancers, [own_dancers.clips[0].id])
    forget()
    compact(open_store(own_dancers.url), workers=0)
    assert list(verify(open_store(own_dancers.url))) == []


def test_a_store_with_an_unknown_kind_opens_and_is_verified_and_reading_it_names_the_kind(
    own_dancers, spec, tmp_path, capsys
):
    made = annotate(own_dancers, "depth", spec, snapshot="depth", workers=0).id
    forget()
    store = open_store(own_dancers.url)
    clip, says = (
        store.clips[0],
        "no kind of layer is called 'depth'; known: frames, pose, [^;]*; install the",
    )
    assert [info.id for info in store.layers if info.kind == "depth"] == [made]
    assert list(verify(store)) == []
    assert cli.run(["stats", store.url]) == 0
    for read in (
        lambda: store.read_arrays(f"layers/depth/{made}", "depth", clip),
        lambda: next(stream(store, snapshot="depth")),
        lambda: next(stream(store, snapshot="depth", layers=["pose", "depth"])),
        lambda: compare(store, "depth", made, made, tmp_path / "out", workers=0),
    ):
        with pytest.raises(LayerError, match=says):
            read()
    capsys.readouterr()
    assert cli.run(f"compare {store.url} {made} {made} --layer depth".split()) == 2
    assert capsys.readouterr().err.lstrip().startswith("error: no kind of layer is called 'depth'")
    assert Plan(store, "depth", among=layers.BUILT_IN).readers[0].kinds == ["pose", "parsing", "flow", "background"]
    page = shown(store, tmp_path / "r.html")
    assert "frame, pose, parsing, flow side by side" in page
    assert "The depth layer is not shown: no kind of layer is called so here." in page

    shard = Path(store.url, "layers", "depth", made, "shard-00001.tar")
    data = shard.read_bytes()
    shard.write_bytes(data[:-3000] + bytes([data[-3000] ^ 1]) + data[-2999:])
    assert {p.name for p in verify(open_store(store.url))} == {f"layers/depth/{made}/shard-00001.tar"}


def test_keys_of_an_unknown_kind_are_checked(own_dancers, spec):
    made = annotate(own_dancers, "depth", spec, workers=0).id
    forget()
    folder = f"layers/depth/{made}"
    meta = own_dancers.meta(folder, 0)
    kept = [
        Sample(clip.key(t), {"png": next(own_dancers.read_members(folder, clip, "png", [t]))})
        for clip in own_dancers.shard_clips(0)
        for t in range(clip.frames - 1)
    ]
    own_dancers.write_shard(folder, 0, kept, meta["saw"])
    assert ["other keys" in p.what for p in verify(open_store(own_dancers.url))] == [True]


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("Stereo", DetectorError, "makes a stereo layer, but its layer_kind is 'depth'"),
        ("Body", LayerError, "'pose' is built in"),
        ("Names", LayerError, "is no kind of layer"),
        ("Frames", LayerError, "the array 'frames' of the kind of layer 'depth' is one of frames"),
        ("Form", LayerError, "has the form 'metres'"),
        ("Half", LayerError, "is no kind of layer: Can't instantiate abstract class"),
        ("Field", LayerError, "'depth' needs fields, and among them its window_field"),
        ("Number", LayerError, "3 is no kind of layer"),
    ],
)
def test_a_layer_kind_that_will_not_do_is_one_sentence(tmp_path, monkeypatch, name, error, says):
    shutil.copy(TEMPLATE, tmp_path / "own_layer.py")
    (tmp_path / "wrong.py").write_text(WRONG)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(error, match=says):
        base.load(f"{tmp_path / 'wrong.py'}:{name}")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("depths:Nothing", "cannot be imported: .*Nothing"),
        ("no_such_depths:Depth", "cannot be imported: No module named 'no_such_depths'"),
        ("depths:Ramp", "is no kind of layer"),
    ],
)
def test_a_package_that_offers_none_is_one_sentence(package, target, says):
    package.write_text(f"[remot.layers]\ndepth = {target}\n")
    with pytest.raises(LayerError, match=says):
        layers.kind("depth")
    package.write_text("[remot.layers]\nstereo = depths:Depth\n")
    with pytest.raises(LayerError, match="calls itself 'depth'"):
        layers.kind("stereo")


def test_a_kind_need_not_do_everything(own_dancers, tmp_path):
    """Bytes, and what is a valid value: then it is stored and verified, and the rest is refused with a sentence."""
    file = tmp_path / "bare.py"
    file.write_text(TEMPLATE.read_text().split("    def resized(")[0] + BARE)
    made = annotate(own_dancers, "depth", f"{file}:Ramp", snapshot="depth", workers=0).id
    assert list(verify(own_dancers)) == []
    with pytest.raises(RuntimeError, match="'depth' cannot be compared; those of pose, .* can"):
        compare(own_dancers, "depth", made, made, tmp_path / "out", workers=0)
    with pytest.raises(RuntimeError, match="windows hold no depth layer"):
        next(stream(own_dancers, snapshot="depth", layers=["depth"]))
    assert "depth" not in next(stream(own_dancers, snapshot="depth")).arrays
    assert "flow side by side" in shown(own_dancers, tmp_path / "r.html")
    with pytest.raises(LayerError, match="annotate without --from source"):
        layers.kind("depth").at_size({"depth": np.zeros((1, 4, 4), np.float32)}, (4, 4), (8, 8))


BARE = """
    window_field = ""


""" + TEMPLATE.read_text()[TEMPLATE.read_text().index("class Ramp") :]


@settings(max_examples=30)
@given(arrays_of(np.float32, (2, 5, 4), elements=st.floats(0, 65, width=32)))
def test_the_template_keeps_what_it_says(depth):
    kind = base.load(f"{TEMPLATE}:Ramp").layer_kind()
    kind.check({"depth": depth}, 2, (5, 4))
    back = kind.stacked({"depth": [kind.decode("png", kind.encode({"depth": depth}, t)["png"]) for t in (0, 1)]})
    assert np.array_equal(back["depth"], kind.stored({"depth": depth})["depth"])
    assert np.abs(back["depth"] - depth).max() <= 0.0006
    assert kind.resized({"depth": depth}, (5, 4), (10, 8))["depth"].shape == (2, 10, 8)


def test_its_arrays_become_tensors_of_the_form_it_says(spec):
    torch = pytest.importorskip("torch")
    base.load(spec)
    found = to_torch({"depth": np.ones((2, 6, 4, 3), np.float32), "other": np.ones((2, 3), np.float32)})
    assert found["depth"].shape == (2, 6, 1, 4, 3) and found["depth"].dtype == torch.float32
    assert found["other"].shape == (2, 3)
