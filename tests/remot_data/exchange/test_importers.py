"""Layers out of other tools' files: what is refused, what makes an id, manifests."""

from __future__ import annotations

import pytest

from remot_data.exchange.importers import import_layer, import_manifest
from remot_data.store import StoreError
from tests.remot_data.conftest import digests
from tests.remot_data.exchange.conftest import FRAMES, made_store, write_png, write_pose


def test_nothing_is_made_when_not_one_clip_can_be(store, scene, tmp_path):
    (tmp_path / "dance").mkdir()
    with pytest.raises(StoreError, match="no clip of .* has what it needs; clip-0: there is no .png file in"):
        import_layer(store, "parsing", tmp_path, form="labels", schema="atr18", workers=0)
    assert not store.files.exists("layers")


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("pose", {"form": "labels"}, "not imported from 'labels'"),
        ("pose", {"form": "csv"}, "known forms are openpose"),
        ("parsing", {"form": "labels"}, "--schema"),
        ("pose", {"form": "openpose", "first": 2}, "0 or 1"),
    ],
)
def test_arguments_that_do_not_fit_are_one_sentence(store, kind, options, says):
    with pytest.raises(StoreError, match=says):
        import_layer(store, kind, "x", workers=0, **options)


def test_the_id_names_the_bytes_of_the_files_and_a_second_import_does_nothing(store, scene, tmp_path):
    for t, labels in enumerate(scene.labels):
        write_png(tmp_path / f"dance/img_{t + 7:04d}.png", labels)
    ids, computed = [], []
    for schema in ("atr18", "atr18", "lip20"):
        done = import_layer(store, "parsing", tmp_path, form="labels", schema=schema, name="schp", workers=0)
        ids.append(done.id)
        computed.append(done.computed)
    assert computed == [1, 0, 1] and ids[0] == ids[1] != ids[2] and ids[0].startswith("schp-")
    write_png(tmp_path / "dance/img_0007.png", scene.labels[1])
    assert import_layer(store, "parsing", tmp_path, form="labels", schema="atr18", name="schp", workers=0).id not in ids


def test_a_manifest_names_where_its_layers_are(tmp_path, pictures, scene):
    for t, labels in enumerate(scene.labels):
        write_png(tmp_path / f"data/dance/labels/img_{t + 7:04d}.png", labels)
        target = tmp_path / f"data/dance/images/img_{t + 7:04d}.png"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((pictures / target.name).read_bytes())
    write_pose(
        tmp_path / "data/dance/pose", [f"img_{t + 7:04d}" for t in range(FRAMES)], [[p] for p in scene.keypoints]
    )
    (tmp_path / "m.yaml").write_text(
        "videos:\n  - find: '{name}/images'\n"
        "layers:\n  pose: {folder: '{name}/pose', form: openpose}\n"
        "  parsing: {folder: '{name}/labels', form: labels, schema: atr18}\n"
    )
    store = made_store(tmp_path / "s", [(tmp_path / "data/dance/images", range(FRAMES))])
    pose, parsing = import_manifest(store, tmp_path / "m.yaml", tmp_path / "data", snapshot="main", workers=0)
    assert store.snapshot("main").layers == {"pose": pose.id, "parsing": parsing.id}
    (tmp_path / "m.yaml").write_text("videos:\n  - find: '{name}/images'\n")
    with pytest.raises(StoreError, match="names no 'layers'"):
        import_manifest(store, tmp_path / "m.yaml", tmp_path / "data")


@pytest.mark.slow
def test_two_workers_write_the_same_layer_as_none(tmp_path, pictures, scene):
    names = [f"img_{t + 7:04d}" for t in range(FRAMES)]
    write_pose(tmp_path / "dance", names, [[p] for p in scene.keypoints])
    written = []
    for workers in (0, 2):
        store = made_store(tmp_path / str(workers), [(pictures, range(5)), (pictures, range(5, 10))])
        done = import_layer(store, "pose", tmp_path, form="openpose", workers=workers)
        written.append(digests(f"{store.url}/layers/pose/{done.id}"))
    assert len(written[0]) == 5 and written[0] == written[1]
