"""Layers out of other tools' files, against a drawn dancer whose keypoints, labels and flow are known."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from remot_data import media, synthetic
from remot_data.care.verify import verify
from remot_data.exchange.importers import import_layer, import_manifest, inverted, read_labels
from remot_data.records import Clip
from remot_data.schemas import convert_keypoints, keypoint_set
from remot_data.store import StoreError, create_store, open_store
from remot_data.store.shards import encoded
from tests.remot_data.conftest import digests

SIZE = (64, 48)
# A crop of twice the size of the frames, well inside the picture of 200 x 160.
CROP = (60.0, 20.0, 96.0, 128.0)
FRAMES = 10


@pytest.fixture(scope="module")
def scene():
    """A dancer in pictures of 200 x 160, with the truth in source pixels."""
    return synthetic.dance(synthetic.Dancer.random(3), FRAMES, size=(160, 200), seed=3)


@pytest.fixture(scope="module")
def pictures(scene, tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "dance"
    folder.mkdir()
    for t, frame in enumerate(scene.frames):
        cv2.imwrite(str(folder / f"img_{t + 7:04d}.png"), frame[..., ::-1])
    return folder


def made_store(url, sources, crop=CROP, size=SIZE):
    """A store of one clip a source, with pts and crop as they are given."""
    store = create_store(str(url), {"size": list(size)})
    clips = []
    for number, (path, pts) in enumerate(sources):
        probe = media.probe(path)
        clips.append(
            Clip(
                f"clip-{number}",
                f"video-{number}",
                str(path),
                "",
                0,
                tuple(pts),
                probe.time_base,
                probe.fps,
                probe.size,
                crop,
                "ada",
                "test" if number else "train",
                shard=number,
            )  # fmt: skip
        )
    store.write_clips(clips)
    for clip in clips:
        found = dict(media.read(clip.path, crop=clip.crop, size=size))
        frames = np.stack([found[pts] for pts in clip.pts])
        store.write_shard("frames", clip.shard, encoded("frames", clip, {"frames": frames}))
    return open_store(str(url))


@pytest.fixture
def store(tmp_path, pictures):
    return made_store(tmp_path / "store", [(pictures, range(FRAMES))])


def through_crop(points, crop=CROP, size=SIZE):
    x, y, w, h = crop
    moved = (points[..., :2] - [x, y]) * [size[1] / w, size[0] / h]
    return np.concatenate([moved, points[..., 2:]], -1) * (points[..., 2:] > 0)


def write_pose(folder, names, persons):
    """One OpenPose file a name: `persons` is a list for each, of body arrays or of mappings."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, bodies in zip(names, persons, strict=True):
        bodies = [b if isinstance(b, dict) else {"pose_keypoints_2d": np.ravel(b).tolist()} for b in bodies]
        (folder / f"{name}.json").write_text(json.dumps({"version": 1.3, "people": bodies}))
    return folder


def layer(store, kind, summary):
    clip = open_store(store.url).clips[0]
    return open_store(store.url).read_arrays(f"layers/{kind}/{summary.id}", kind, clip)


# Keypoints


def test_keypoints_go_through_the_crop(store, scene, tmp_path):
    names = [f"img_{t + 7:04d}_keypoints" for t in range(FRAMES)]
    folder = write_pose(tmp_path / "pose/dance", names, [[p] for p in scene.keypoints])
    done = import_layer(store, "pose", tmp_path / "pose", form="openpose", snapshot="theirs", workers=0)
    found = layer(store, "pose", done)["keypoints"]
    np.testing.assert_allclose(found, through_crop(scene.keypoints), atol=1e-3)
    assert (done.frames, done.absent, done.failed, done.computed) == (FRAMES, 0, {}, 1)
    assert store.snapshot("theirs").layers == {"pose": done.id}
    assert store.layer("pose", done.id).schema == "body25"
    assert list(verify(open_store(store.url))) == []
    assert folder.exists()


def test_a_crop_of_another_shape_is_scaled_by_side(tmp_path, pictures, scene):
    crop = (50.0, 10.0, 108.0, 128.0)
    store = made_store(tmp_path / "s", [(pictures, range(FRAMES))], crop)
    write_pose(tmp_path / "dance", [f"img_{t + 7:04d}" for t in range(FRAMES)], [[p] for p in scene.keypoints])
    for t in range(1, FRAMES):
        write_flo(tmp_path / f"dance/img_{t + 7:04d}.flo", np.full((160, 200, 2), (4.5, -4.0)))
    pose = import_layer(store, "pose", tmp_path, form="openpose", workers=0)
    np.testing.assert_allclose(layer(store, "pose", pose)["keypoints"], through_crop(scene.keypoints, crop), atol=1e-3)
    flow = import_layer(store, "flow", tmp_path, form="flo-backward", workers=0)
    np.testing.assert_allclose(layer(store, "flow", flow)["flow"][1:], np.full((9, 32, 24, 2), (1, -1)), atol=0.02)


def test_a_frame_without_a_file_has_nobody_and_is_counted(store, scene, tmp_path):
    write_pose(tmp_path / "dance", [f"img_{t + 7:04d}" for t in range(FRAMES)], [[p] for p in scene.keypoints])
    (tmp_path / "dance/img_0010.json").unlink()
    (tmp_path / "dance/img_0011.json").write_text('{"people": []}')
    done = import_layer(store, "pose", tmp_path, form="openpose", workers=0)
    found = layer(store, "pose", done)["keypoints"]
    assert done.absent == 1
    assert [bool(p.any()) for p in found] == [True] * 3 + [False] * 2 + [True] * 5


def test_the_person_in_the_crop_is_taken_wherever_it_is_listed(store, scene, tmp_path):
    rng = np.random.default_rng(0)
    beside = np.full((25, 3), 0.9)
    beside[:, 0], beside[:, 1] = rng.uniform(0, 40, 25), rng.uniform(0, 160, 25)
    # Someone small who stands still within the crop, seen with more confidence than the dancer.
    small = np.full((25, 3), 1.0)
    small[:, 0], small[:, 1] = np.linspace(62, 92, 25), rng.permutation(np.linspace(24, 124, 25))
    dancer = [np.concatenate([p[:, :2], p[:, 2:] * 0.7], 1) for p in scene.keypoints]
    # For once only the upper half of the dancer is seen, which fills less of the crop than the other one.
    half = dancer[6]
    half[half[:, 1] > (half[:, 1].min() + half[:, 1].max()) / 2] = 0
    box = np.ptp(half[half[:, 2] > 0, :2], axis=0)
    assert 0.7 * box.prod() < 30 * 100 < 0.7 * np.ptp(dancer[5][:, :2], axis=0).prod()
    persons = [[beside, small, d] if t % 2 else [d, beside, small] for t, d in enumerate(dancer)]
    persons[4] = [np.zeros((25, 3))]
    write_pose(tmp_path / "dance", [f"img_{t + 7:04d}" for t in range(FRAMES)], persons)
    found = layer(store, "pose", import_layer(store, "pose", tmp_path, form="openpose", workers=0))["keypoints"]
    wanted = through_crop(np.stack(dancer))
    wanted[4] = 0
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("schema", ["coco18", "coco17"])
def test_the_keypoint_set_is_told_by_the_number_of_points(store, scene, tmp_path, schema):
    points = convert_keypoints(scene.keypoints, "body25", schema)
    write_pose(tmp_path / "dance", [f"img_{t + 7:04d}" for t in range(FRAMES)], [[p] for p in points])
    done = import_layer(store, "pose", tmp_path, form="openpose", workers=0)
    assert store.layer("pose", done.id).schema == schema
    np.testing.assert_allclose(layer(store, "pose", done)["keypoints"], through_crop(points), atol=1e-3)
    with pytest.raises(StoreError, match=f"hold {points.shape[1]} points a body; that is not body25"):
        import_layer(store, "pose", tmp_path, form="openpose", schema="body25", workers=0)


@pytest.mark.parametrize(("schema", "face_points"), [("wholebody133", 68), ("openpose137", 70)])
def test_hands_and_face_come_with_the_sets_that_have_them(store, scene, tmp_path, schema, face_points):
    hand, face = np.full((21, 3), 0.5) * [200, 160, 1], np.full((70, 3), 0.25) * [400, 400, 2]
    one = {
        "pose_keypoints_2d": np.ravel(scene.keypoints[0]).tolist(),
        "hand_left_keypoints_2d": np.ravel(hand).tolist(),
        "face_keypoints_2d": np.ravel(face).tolist(),
    }
    write_pose(tmp_path / "dance", [f"img_{t + 7:04d}" for t in range(FRAMES)], [[one]] * FRAMES)
    done = import_layer(store, "pose", tmp_path, form="openpose", schema=schema, workers=0)
    found, names = layer(store, "pose", done)["keypoints"][0], keypoint_set(schema)
    first = {part: names.index(f"{part}-0") for part in ("face", "left-hand", "right-hand")}
    body = convert_keypoints(through_crop(scene.keypoints[0]).astype(np.float32), "body25", schema)
    named = min(first.values())
    np.testing.assert_allclose(found[:named], body[:named], atol=1e-3)
    np.testing.assert_allclose(found[first["face"] :][:face_points], through_crop(face[:face_points]), atol=1e-3)
    np.testing.assert_allclose(found[first["left-hand"] :][:21], through_crop(hand), atol=1e-3)
    assert not found[first["right-hand"] :][:21].any()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no JSON of OpenPose"),
        ('{"persons": []}', "is no JSON of OpenPose"),
        ('{"people": [{"pose_keypoints_2d": [1, 2]}]}', "is no JSON of OpenPose"),
        ("[" * 100_000, "is no JSON of OpenPose"),
        (json.dumps({"people": [{"pose_keypoints_2d": [0.5, 0.5, 1] * 25}]}), "are no pixels"),
        (json.dumps({"people": [{"pose_keypoints_2d": [float("nan"), 0, 1] * 25}]}), "not finite"),
    ],
)
def test_bad_keypoints_cost_their_clip_and_say_which_file(tmp_path, pictures, scene, text, says):
    store = made_store(tmp_path / "s", [(pictures, range(4)), (pictures, range(4, 8))])
    names = [f"img_{t + 7:04d}" for t in range(4, 8)]
    write_pose(tmp_path / "dance", names, [[p] for p in scene.keypoints[4:8]])
    for t in range(4):
        (tmp_path / f"dance/img_{t + 7:04d}.json").write_text(text)
    done = import_layer(store, "pose", tmp_path, form="openpose", workers=0)
    assert list(done.failed) == ["clip-0"] and says in done.failed["clip-0"]
    assert store.layer("pose", done.id).failed == done.failed
    assert list(verify(open_store(store.url))) == []


# Which file belongs to which frame


@pytest.fixture(scope="module")
def film(scene, tmp_path_factory):
    """The dancer as a video with B-frames, 25 frames a second."""
    path = tmp_path_factory.mktemp("film") / "a film.v2.mp4"
    with media.VideoWriter(path, 25, (160, 200)) as out:
        for frame in scene.frames:
            out.write(frame)
    return path


@pytest.mark.parametrize("start", [0, 1])
def test_files_of_a_video_are_found_by_frame_number(tmp_path, film, scene, start):
    every = [pts for pts, _ in media.read(film)]
    store = made_store(tmp_path / "s", [(film, every[3:9:2])])
    names = [f"a film.v2_{t + start:012d}_keypoints" for t in range(FRAMES)]
    write_pose(tmp_path / "flat", names, [[p] for p in scene.keypoints])
    (tmp_path / "flat/other_000000000003_keypoints.json").write_text("{")
    done = import_layer(store, "pose", tmp_path / "flat", form="openpose", workers=0)
    np.testing.assert_allclose(layer(store, "pose", done)["keypoints"], through_crop(scene.keypoints)[3:9:2], atol=1e-3)


def test_where_the_numbers_begin_is_asked_for_if_they_do_not_show_it(tmp_path, film, scene):
    every = [pts for pts, _ in media.read(film)]
    store = made_store(tmp_path / "s", [(film, every)])
    names = [f"{t:03d}" for t in range(1, FRAMES)]
    write_pose(tmp_path / "flat", names, [[p] for p in scene.keypoints[1:]])
    with pytest.raises(StoreError, match="numbers from 1 to 9 and the video has 10 frames: .*--first"):
        import_layer(store, "pose", tmp_path / "flat", form="openpose", workers=0)
    done = import_layer(store, "pose", tmp_path / "flat", form="openpose", first=0, workers=0)
    assert done.absent == 1
    np.testing.assert_allclose(
        layer(store, "pose", done)["keypoints"][1:], through_crop(scene.keypoints)[1:], atol=1e-3
    )


def test_clips_find_their_folder_by_the_end_of_the_path_or_by_a_pattern(tmp_path, pictures, scene):
    other = tmp_path / "elsewhere/dance"
    other.mkdir(parents=True)
    for path in pictures.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    store = made_store(tmp_path / "s", [(pictures, range(FRAMES)), (other, range(FRAMES))])
    names = [f"img_{t + 7:04d}" for t in range(FRAMES)]
    write_pose(tmp_path / "one/dance", names, [[p] for p in scene.keypoints])
    with pytest.raises(StoreError, match="would both take the files"):
        import_layer(store, "pose", tmp_path / "one", form="openpose", workers=0)
    write_pose(tmp_path / "two/train/dance", names, [[p] for p in scene.keypoints])
    write_pose(tmp_path / "two/test/dance", names, [[p + [1, 0, 0]] for p in scene.keypoints])
    for folder in (tmp_path / "two/{split}/{stem}", {str(pictures): str(tmp_path / "two/train/dance")}):
        done = import_layer(store, "pose", folder, form="openpose", workers=0)
        assert list(done.failed) == ([] if isinstance(folder, Path) else ["clip-1"])
    with pytest.raises(StoreError, match="'outfit'; there are stem, split, person, video"):
        import_layer(store, "pose", tmp_path / "{outfit}", form="openpose", workers=0)
    with pytest.raises(StoreError, match="neither a folder dance nor files dance_NUMBER.json"):
        import_layer(store, "pose", tmp_path / "absent", form="openpose", workers=0)


def test_files_that_came_since_are_seen(store, scene, tmp_path):
    (tmp_path / "flat").mkdir()
    with pytest.raises(StoreError, match="neither a folder"):
        import_layer(store, "pose", tmp_path / "flat", form="openpose", workers=0)
    write_pose(tmp_path / "flat", [f"dance_{t + 7}" for t in range(FRAMES - 1)], [[p] for p in scene.keypoints[1:]])
    assert import_layer(store, "pose", tmp_path / "flat", form="openpose", workers=0).absent == 1
    write_pose(tmp_path / "flat", ["dance_16"], [[scene.keypoints[-1]]])
    assert import_layer(store, "pose", tmp_path / "flat", form="openpose", workers=0).absent == 0


# Labels


def write_png(path, labels, palette=None):
    """A PNG with 8-bit grey or a palette, without any library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = labels.shape
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0 if palette is None else 3, 0, 0, 0))]
    if palette is not None:
        chunks.append((b"PLTE", np.asarray(palette, np.uint8).tobytes()))
    rows = b"".join(b"\0" + row.tobytes() for row in labels.astype(np.uint8))
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_grey_and_palette_pngs_give_their_numbers(tmp_path):
    labels = np.random.default_rng(0).integers(0, 20, (9, 7)).astype(np.uint8)
    write_png(tmp_path / "grey.png", labels)
    # Several labels of one colour: only the numbers count.
    write_png(tmp_path / "palette.png", labels, np.full((20, 3), 9))
    for name in ("grey.png", "palette.png"):
        np.testing.assert_array_equal(read_labels(str(tmp_path / name)), labels)
    cv2.imwrite(str(tmp_path / "colour.png"), np.zeros((9, 7, 3), np.uint8))
    (tmp_path / "no.png").write_bytes(b"GIF89a")
    for name, says in (("colour.png", "8-bit grey or a palette"), ("no.png", "is no PNG")):
        with pytest.raises(ValueError, match=says):
            read_labels(str(tmp_path / name))


def test_labels_go_through_the_crop(store, scene, tmp_path):
    for t, labels in enumerate(scene.labels):
        write_png(tmp_path / f"dance/img_{t + 7:04d}.png", labels, np.zeros((18, 3)) if t % 2 else None)
    done = import_layer(store, "parsing", tmp_path, form="labels", schema="atr18", workers=0)
    x, y, w, h = map(int, CROP)
    wanted = scene.labels[:, y + 1 : y + h : 2, x + 1 : x + w : 2]
    np.testing.assert_array_equal(layer(store, "parsing", done)["labels"], wanted)
    assert store.layer("parsing", done.id).schema == "atr18"


def test_labels_outside_the_picture_repeat_its_border_as_frames_do(tmp_path, pictures):
    crop = (-24.0, -32.0, 96.0, 128.0)
    store = made_store(tmp_path / "s", [(pictures, range(2))], crop)
    whole = np.add.outer(np.arange(160) % 5, np.arange(200) % 3).astype(np.uint8)
    for t in range(2):
        write_png(tmp_path / f"dance/img_{t + 7:04d}.png", whole)
    done = import_layer(store, "parsing", tmp_path, form="labels", schema="lip20", workers=0)
    found = layer(store, "parsing", done)["labels"][0]
    np.testing.assert_array_equal(found[16:, 12:], whole[1:96:2, 1:72:2])
    assert (found[:16, :12] == whole[0, 0]).all()


@pytest.mark.parametrize("fault", ["missing", "size", "label"])
def test_a_clip_whose_labels_are_not_all_there_is_left_out_and_says_why(tmp_path, pictures, scene, fault):
    store = made_store(tmp_path / "s", [(pictures, range(5)), (pictures, range(5, 10))])
    for t, labels in enumerate(scene.labels):
        write_png(tmp_path / f"dance/img_{t + 7:04d}.png", labels)
    bad = tmp_path / "dance/img_0009.png"
    says = {
        "missing": "1 of 5 files are missing in .*, the first for frame 2",
        "size": "img_0009.png is 100x160, the pictures of the video are 200x160",
        "label": "img_0009.png has the label 18, which is outside atr18",
    }[fault]
    if fault == "missing":
        bad.unlink()
    else:
        write_png(bad, scene.labels[2][:, ::2] if fault == "size" else np.full((160, 200), 18))
    done = import_layer(store, "parsing", tmp_path, form="labels", schema="atr18", workers=0)
    assert list(done.failed) == ["clip-0"]
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(done.failed["clip-0"])
    assert done.frames == 5
    assert list(verify(open_store(store.url))) == []


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


# Flow


def write_flo(path, flow):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = flow.shape[:2]
    path.write_bytes(b"PIEH" + struct.pack("<ii", width, height) + flow.astype("<f4").tobytes())


def test_flow_to_the_frame_before_is_scaled_with_the_crop(store, scene, tmp_path):
    for t in range(1, FRAMES):
        write_flo(tmp_path / f"dance/img_{t + 7:04d}.flo", scene.flow[t])
    done = import_layer(store, "flow", tmp_path, form="flo-backward", workers=0)
    found = layer(store, "flow", done)
    x, y, w, h = map(int, CROP)
    # From source pixels to half of the frames' grid is a quarter in both directions.
    wanted = [cv2.resize(f[y : y + h, x : x + w], (24, 32), interpolation=cv2.INTER_AREA) / 4 for f in scene.flow[1:]]
    np.testing.assert_allclose(found["flow"][1:], wanted, atol=1 / 64)
    assert not found["flow"][0].any() and not found["confidence"][0].any()
    assert (found["confidence"][1:] == 3).mean() > 0.8


@pytest.mark.parametrize("form", ["flo-backward", "flo-forward"])
def test_the_confidence_of_flow_finds_what_is_hidden_in_the_frame_before(tmp_path, form):
    """A square of noise moves 8 pixels to the right over noise: what it uncovers was not to be seen before."""
    rng = np.random.default_rng(0)
    noise = (cv2.GaussianBlur(rng.normal(0, 1, shape), (0, 0), 1.5) for shape in ((128, 96, 3), (48, 32, 3)))
    behind, square = ((128 + 70 * n / n.std()).clip(0, 255).astype(np.uint8) for n in noise)
    folder = tmp_path / "source/moving"
    folder.mkdir(parents=True)
    for t in range(3):
        picture, flow = behind.copy(), np.zeros((128, 96, 2), np.float32)
        left = 16 + 8 * t
        picture[40:88, left : left + 32] = square
        flow[40:88, left : left + 32] = (-8, 0) if form == "flo-backward" else (8, 0)
        cv2.imwrite(str(folder / f"{t}.png"), picture)
        write_flo(tmp_path / f"flow/moving/{t}.flo", flow)
    store = made_store(tmp_path / "s", [(folder, range(3))], (0.0, 0.0, 96.0, 128.0), (128, 96))
    found = layer(store, "flow", import_layer(store, "flow", tmp_path / "flow", form=form, workers=0))
    for t in (1, 2):
        left = (16 + 8 * t) // 2
        sure = found["confidence"][t] == 3
        inside, uncovered = sure[22:42, left + 2 : left + 14], sure[22:42, left - 3 : left - 1]
        assert inside.mean() > 0.95
        assert uncovered.mean() < 0.1
        assert sure[2:18].mean() > 0.95
        # Where noise looks like noise by chance, a way back can be a mean of two.
        assert (np.abs(found["flow"][t][22:42, left + 2 : left + 14] - [-4, 0]).max(-1) < 0.1).mean() > 0.97
        np.testing.assert_allclose(found["flow"][t][2:18], 0, atol=0.1)


def test_flow_that_is_not_known_is_not_trusted(store, scene, tmp_path):
    for t in range(1, FRAMES):
        flow = scene.flow[t].copy()
        flow[20:84, 60:156] = 1.7e9
        write_flo(tmp_path / f"dance/img_{t + 7:04d}.flo", flow)
    done = import_layer(store, "flow", tmp_path, form="flo-backward", workers=0)
    found = layer(store, "flow", done)
    assert not found["confidence"][:, :15].any()
    assert found["confidence"][1:, 17:].any()


def test_flow_between_other_frames_than_the_stores_is_refused(tmp_path, pictures, scene):
    store = made_store(tmp_path / "s", [(pictures, range(0, 10, 2))])
    for t in range(FRAMES):
        write_flo(tmp_path / f"dance/img_{t + 7:04d}.flo", scene.flow[t])
    with pytest.raises(StoreError, match="frames 0 and 2 of the video.*without --fps"):
        import_layer(store, "flow", tmp_path, form="flo-backward", workers=0)


def test_a_file_that_is_no_flow_is_named(store, scene, tmp_path):
    for t in range(1, FRAMES):
        write_flo(tmp_path / f"dance/img_{t + 7:04d}.flo", scene.flow[t])
    whole = (tmp_path / "dance/img_0009.flo").read_bytes()
    for data in (whole[:-1], b"PIEX" + whole[4:], b""):
        (tmp_path / "dance/img_0009.flo").write_bytes(data)
        with pytest.raises(StoreError, match="img_0009.flo is no whole .flo file"):
            import_layer(store, "flow", tmp_path, form="flo-backward", workers=0)


def test_a_flow_turned_around_twice_is_itself_where_nothing_is_hidden():
    y, x = np.mgrid[:40, :60].astype(np.float32)
    flow = np.stack([2 + 0.05 * x, -1 + 0.03 * y], -1)
    every = np.ones((40, 60), bool)
    back, reached = inverted(inverted(flow, every)[0], every)
    inner = np.s_[8:-8, 8:-8]
    assert reached[inner].all()
    np.testing.assert_allclose(back[inner], flow[inner], atol=0.02)


# Manifests


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
