"""Manifests: what they may say, and the published ones against trees of the shape that is downloaded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import pytest

from remot_data import media
from remot_data.assets import fetch
from remot_data.ingest.build import build
from remot_data.ingest.inputs import Input, InputError, find_inputs, load_manifest, read_manifest
from remot_data.ingest.policy import Policy
from remot_data.store import open_store

MANIFESTS = Path(__file__).parents[2] / "manifests"


def manifest(folder, text):
    path = folder / "m.yaml"
    path.write_text(text)
    return path


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_manifest_names_persons_splits_and_licences(tmp_path):
    touch(tmp_path, "data/a.mp4", "data/b.mp4")
    path = manifest(
        tmp_path,
        "about: two videos\nroot: data\nlicence: CC0\nsplit: train\nvideos:\n  - a.mp4\n"
        "  - {path: b.mp4, person: 007, split: test, url: 'https://example.org/b'}\n",
    )
    a, b = read_manifest(path)
    assert a == Input(str(tmp_path / "data/a.mp4"), licence="CC0", split="train")
    assert (b.person, b.split, b.licence, b.url) == ("007", "test", "CC0", "https://example.org/b")


def test_the_root_can_be_given_from_outside(tmp_path):
    touch(tmp_path, "elsewhere/a.mp4")
    path = manifest(tmp_path, "root: data\nvideos: [a.mp4]\n")
    assert read_manifest(path)[0].refused == "unreadable"
    for found in (read_manifest(path, tmp_path / "elsewhere"), find_inputs(path, root=tmp_path / "elsewhere")[0]):
        assert found == [Input(str(tmp_path / "elsewhere/a.mp4"))]


def test_a_folder_that_an_entry_names_is_one_video_of_pictures(tmp_path):
    touch(tmp_path, "shots/000001.png", "shots/000002.png")
    (item,) = read_manifest(manifest(tmp_path, "videos:\n  - {path: shots, fps: 12.5}\n"))
    assert item == Input(str(tmp_path / "shots"), fps=12.5)
    assert Input.from_json(item.to_json()) == item


def test_entries_that_leave_the_root_are_refused(tmp_path):
    touch(tmp_path, "secret.mp4", "data/a.mp4", "away/b.mp4")
    (tmp_path / "data/link.mp4").symlink_to(tmp_path / "secret.mp4")
    (tmp_path / "data/folder").symlink_to(tmp_path / "away")
    (tmp_path / "data/inside.mp4").symlink_to("a.mp4")
    names = ["a.mp4", "inside.mp4", "x/../a.mp4", "../secret.mp4", str(tmp_path / "secret.mp4"), "link.mp4", "folder",
             "folder/b.mp4", "../dat", "absent.mp4"]  # fmt: skip
    items = read_manifest(manifest(tmp_path, "root: data\nvideos:\n" + "".join(f"  - {n}\n" for n in names)))
    found = [item.refused for item in items]
    assert found[:3] == ["", "", "unreadable"]  # there is no folder x
    assert found[3:9] == ["unsafe-path"] * 6
    assert found[9] == "unreadable"
    assert all("leads out of" in item.detail for item in items[3:9])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clips: []", "is no manifest"),
        ("videos: [", "is no manifest"),
        ("- a.mp4", "is no manifest"),
        ("videos: [a.mp4]\nlicense: CC0", "the top has the unknown field license"),
        ("videos:\n  - a.mp4\n  - {path: b.mp4, persn: ada, spilt: x}", "entry 1 of 'videos' .* persn, spilt; known"),
        ("videos:\n  - {person: ada}", "entry 0 of 'videos' has neither"),
        ("videos:\n  - [a]", "entry 0 of 'videos' has neither"),
        ("videos:\n  - {path: data, fps: fast}", "fps is a number"),
        ("videos:\n  - {find: '{x}/{y}'}", "finds nothing like .*--root"),
        ("videos:\n  - {find: '../{x}.mp4'}", "leads out of its root"),
        ("videos:\n  - {find: 'data/{x}.mp4', name: '{z}'}", "'z' in '{z}'; known are x"),
        ("videos:\n  - {find: 'data/{x}.mp4', person: '{x.__class__}'}", "known are x"),
        ("videos:\n  - {find: 'data/{x.mp4'}", "cannot be read"),
        ("videos: [data/a.mp4]\nsplits: {test: {idz: [a]}}", "the split 'test' has the unknown field idz"),
        ("videos: [data/a.mp4]\nsplits: {test: {ids: [a]}, train: {ids: [a]}}", "a is listed both as test and as"),
        ("videos: [data/a.mp4]\nlayers: {pose: {folder: x}}", "'pose' needs a 'folder' and a 'form'"),
        ("videos: [data/a.mp4]\nlayers: {pose: {folder: 'x/{person}/{y}', form: openpose}}", "'y' in"),
    ],
)
def test_a_manifest_with_a_mistake_is_an_error_that_names_it(tmp_path, text, says):
    touch(tmp_path, "data/a.mp4")
    with pytest.raises(InputError, match=says):
        read_manifest(manifest(tmp_path, text))


def test_a_pattern_reads_a_whole_tree(tmp_path):
    touch(tmp_path, "ada/1/x.mp4", "ada/2/y.mp4", "bob/1/x.mp4", "bob/1/x.mov", "bob/x.mp4", ".no/1/x.mp4")
    found = read_manifest(
        manifest(tmp_path, "videos:\n  - {find: '{person}/{take}/*.mp4', name: 'v-{person}-{take}', split: test}\n")
    )
    assert [(i.name, i.person, i.split) for i in found] == [
        ("v-ada-1", "ada", "test"),
        ("v-ada-2", "ada", "test"),
        ("v-bob-1", "bob", "test"),
    ]


def test_a_field_that_occurs_twice_has_one_value(tmp_path):
    touch(tmp_path, "train/train_img/v/1.png", "train/test_img/v/1.png", "test/test_img/w/1.png")
    found = read_manifest(manifest(tmp_path, "videos:\n  - find: '{split}/{split}_img/{name}'\n"))
    assert [(i.name, i.split) for i in found] == [("w", "test"), ("v", "train")]


def test_a_find_never_leaves_the_root_by_a_link(tmp_path):
    touch(tmp_path, "away/b/1.png", "data/a/1.png")
    (tmp_path / "data/l").symlink_to(tmp_path / "away/b")
    found = read_manifest(manifest(tmp_path, "root: data\nvideos:\n  - find: '{name}'\n"))
    assert [(i.name, i.refused) for i in found] == [("a", ""), ("l", "unsafe-path")]


# --- the published ones -------------------------------------------------------------------------------------


def iper_test_ids():
    return [name for name, split in _published("iper").items() if split == "test"]


def _published(name):
    import yaml

    splits = yaml.safe_load((MANIFESTS / f"{name}.yaml").read_text())["splits"]
    return {i: split for split, said in splits.items() for i in said.get("ids", [])}


def iper_ids():
    """206 ids of the published shape: the test list, and as many others as were published, for 30 actors."""
    test = iper_test_ids()
    outfits = {i.rsplit("/", 1)[0] for i in test}
    others = [f"{actor:03d}/{outfit}" for outfit in range(1, 40) for actor in range(1, 31)]
    others = [o for o in others if o not in outfits][:82]
    return test + [f"{o}/{action}" for o in others for action in (1, 2)]


def iper_tree(folder, ids):
    for name in ids:
        (folder / "images_HD" / name).mkdir(parents=True)
    return folder


def test_iper_has_the_published_split(tmp_path):
    ids = iper_ids()
    assert len(ids) == 206 and len({i.split("/")[0] for i in ids}) == 30
    loaded = load_manifest(MANIFESTS / "iper.yaml", iper_tree(tmp_path, ids))
    assert Counter(i.split for i in loaded.inputs) == {"train": 164, "test": 42}
    assert loaded.counts == {"train": (164, 164), "test": (42, 42)}
    assert loaded.shortfall() == []
    by_name = {i.name: i for i in loaded.inputs}
    assert len(by_name) == 206
    one = by_name["iper-001-9-2"]
    assert one.path == str(tmp_path / "images_HD/001/9/2")
    assert (one.person, one.split, one.fps, one.refused) == ("iper-001", "test", 30.0, "")
    assert one.licence and one.url


def test_iper_says_what_is_missing(tmp_path):
    ids = iper_ids()
    trained = next(i for i in ids if i not in iper_test_ids())
    gone = ["001/9/1", trained]
    loaded = load_manifest(MANIFESTS / "iper.yaml", iper_tree(tmp_path, [i for i in ids if i not in gone]))
    refused = {i.name: i for i in loaded.inputs if i.refused}
    assert set(refused) == {f"iper-{i.replace('/', '-')}" for i in gone}
    assert {i.refused for i in refused.values()} == {"unreadable"}
    assert refused["iper-001-9-1"].path == str(tmp_path / "images_HD/001/9/1")
    assert "lists 001/9/1 as test" in refused["iper-001-9-1"].detail
    assert loaded.shortfall() == [
        "train: 164 videos are published, 163 were found",
        "test: 42 videos are published, 41 were found",
    ]


def test_iper_is_read_from_the_release_of_small_videos_too_and_its_list_names_what_is_missing(tmp_path):
    ids = iper_ids()
    train = [i for i in ids if i not in iper_test_ids()]
    both_gone = [train[0], train[1]]
    for name in set(ids) - set(both_gone):
        touch(tmp_path, f"iPER_256_video_release/{name.replace('/', '_')}.mp4")
    (tmp_path / "train.txt").write_text("".join(f"{i}\n" for i in train))
    loaded = load_manifest(MANIFESTS / "iper.yaml", tmp_path)
    assert len(loaded.inputs) == 206
    gone = [i for i in loaded.inputs if i.refused]
    assert [i.path for i in gone] == [
        str(tmp_path / f"iPER_256_video_release/{i.replace('/', '_')}.mp4") for i in both_gone
    ]
    assert all("as train" in i.detail for i in gone)
    # A list that contradicts the published one is no quiet matter.
    (tmp_path / "train.txt").write_text("001/9/1\n")
    with pytest.raises(InputError, match="001/9/1 is listed both as"):
        load_manifest(MANIFESTS / "iper.yaml", tmp_path)


def test_solodance_keeps_its_split_and_swaps_the_roles(tmp_path):
    for split, count in (("train", 153), ("test", 26)):
        for number in range(count):
            video = f"{split}/{split}_img/{{}}/video{number:03d}"
            touch(tmp_path, f"{video.format('source')}/000000.png", f"{video.format('target')}/timg_12.jpg")
    loaded = load_manifest(MANIFESTS / "solodance.yaml", tmp_path)
    assert loaded.counts == {"train": (153, 153), "test": (26, 26)}
    one = next(i for i in loaded.inputs if i.path.endswith("test_img/source/video007"))
    assert (one.name, one.split, one.fps) == ("solodance-video007", "test", 30.0)
    assert one.appearance == str(tmp_path / "test/test_img/target/video007/timg_12.jpg")
    pose, parsing = loaded.layers
    assert (pose.kind, pose.form, pose.schema) == ("pose", "openpose", "body25")
    assert (parsing.kind, parsing.form, parsing.schema) == ("parsing", "labels", "cihp20")
    assert pose.folders[one.path] == str(tmp_path / "test/test_pose/source/video007")
    assert len(parsing.folders) == 179


def test_a_root_without_the_data_is_one_sentence(tmp_path):
    for name in ("iper", "solodance"):
        with pytest.raises(InputError, match="finds nothing like .*--root"):
            load_manifest(MANIFESTS / f"{name}.yaml", tmp_path)


def test_the_sample_clips_are_four_of_one_person():
    items = read_manifest(MANIFESTS / "samples.yaml")
    assert [i.name for i in items] == ["cam01", "cam02", "cam03", "cam04"]
    assert {(i.person, i.licence) for i in items} == {("balancing-man", "BSD-3-Clause")}


@pytest.mark.slow
def test_a_build_of_an_incomplete_iper_keeps_what_is_there_and_names_the_rest(tmp_path):
    """Frames of a sample clip in folders as they are downloaded: one video to train, one to test."""
    for name, camera in (("002/1/1", "sample-cam02"), ("001/9/2", "sample-cam04")):
        folder = tmp_path / "images_HD" / name
        folder.mkdir(parents=True)
        for number, (_, frame) in zip(range(8), media.read(fetch(camera), size=(360, 640)), strict=False):
            cv2.imwrite(str(folder / f"{number:04d}.png"), frame[..., ::-1])
    policy = Policy(size=(128, 96), min_frames=6)
    manifest = MANIFESTS / "iper.yaml"
    done = build(manifest, str(tmp_path / "s"), policy=policy, layers={}, root=tmp_path, workers=0)
    # The 41 others of the test list, and the second video of the outfit 002/1.
    assert (done.inputs, done.videos, done.refused) == (44, 2, 42)
    assert done.frames == {"decoded": 16, "kept": 16, "refused": 0, "resampled": 0}
    assert {r["code"] for r in done.rejects} == {"unreadable"}
    assert sum("as test" in r["detail"] for r in done.rejects) == 41
    clips = {clip.split: clip for clip in open_store(done.store).clips}
    assert clips["train"].person == "iper-002" and clips["test"].person == "iper-001"
    assert clips["test"].path == str(tmp_path / "images_HD/001/9/2")
    assert (clips["test"].frames, clips["test"].fps, clips["test"].time_base) == (8, 30.0, (1, 30))
