from __future__ import annotations

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from remot_data import cli, media
from remot_data.assets import fetch
from remot_data.care.compact import compact, remove
from remot_data.care.verify import verify
from remot_data.ingest.build import build
from remot_data.ingest.inputs import InputError, find_inputs
from remot_data.ingest.planning import plan
from remot_data.ingest.policy import Policy
from remot_data.ingest.scan import scan
from remot_data.media.sandbox import Limits
from remot_data.reading.stream import stream
from remot_data.records import Clip, Reject
from remot_data.store import StoreError, open_store
from remot_data.store.lock import Busy
from tests.remot_data.conftest import digests

pytestmark = pytest.mark.slow

build_module = sys.modules["remot_data.ingest.build"]
SMALL = Policy(persons="main", size=(128, 96), min_frames=6, shard_frames=20)


@pytest.fixture(scope="session")
def person(tmp_path_factory):
    """Half a second of a real person."""
    path = tmp_path_factory.mktemp("videos") / "A Person (1).mp4"
    media.cut(fetch("sample-cam02"), path, 0.0, 0.5)
    return path


@pytest.fixture(scope="session")
def other(tmp_path_factory):
    """Half a second of the same man, seen by another camera."""
    path = tmp_path_factory.mktemp("videos") / "another.mp4"
    media.cut(fetch("sample-cam03"), path, 0.0, 0.5)
    return path


@pytest.fixture(scope="session")
def mixed(tmp_path_factory, person):
    """A folder with one good video and every kind of bad one."""
    folder = tmp_path_factory.mktemp("mixed")
    good = person.read_bytes()
    (folder / "good.mp4").write_bytes(good)
    (folder / "again.mp4").write_bytes(good)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video\n" * 50)
    (folder / "cut.mp4").write_bytes(good[: len(good) // 2])
    (folder / "notes.txt").write_text("about these videos")
    binary = media.ffmpeg_binary()
    sound = ["-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac"]
    nobody = ["-f", "lavfi", "-i", "testsrc=d=1:s=320x240:r=20", "-pix_fmt", "yuv420p"]
    for name, options in (("sound.mp4", sound), ("nobody.mp4", nobody)):
        subprocess.run([binary, "-loglevel", "error", *options, str(folder / name)], check=True)
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory, mixed):
    """That folder, built without layers."""
    out = str(tmp_path_factory.mktemp("built") / "store")
    return build(mixed, out, policy=SMALL, layers={}, workers=0)


def test_the_good_one_is_kept_and_every_bad_one_has_its_reason(built):
    reasons = {r["path"].rsplit("/", 1)[1]: r["code"] for r in built.rejects}
    assert reasons.pop("good.mp4", "duplicate") == "duplicate"
    reasons.pop("again.mp4", None)
    assert reasons == {
        "empty.mp4": "unreadable",
        "text.mp4": "unreadable",
        "cut.mp4": "truncated",
        "sound.mp4": "no-video-stream",
        "nobody.mp4": "no-person",
    }
    assert sorted(r["code"] for r in built.rejects).count("duplicate") == 1


def test_the_sums_come_out(built):
    assert (built.inputs, built.videos, built.refused, built.ignored) == (7, 1, 6, 1)
    frames = built.frames
    assert frames["decoded"] == frames["kept"] + frames["refused"] + frames["resampled"]
    assert frames["kept"] == sum(c.frames for c in open_store(built.store).clips)
    assert frames["refused"] == sum(r["frames"] for r in built.rejects)


def test_the_rejects_are_in_the_ledger_too(built):
    store = open_store(built.store)
    rows = pq.read_table(store.files.path("ledger/rejects.parquet")).to_pylist()
    assert [Reject.from_json(r) for r in rows] == [Reject.from_json(r) for r in built.rejects]


def test_the_store_is_sound_and_its_frames_are_those_of_the_video(built, mixed):
    store = open_store(built.store)
    assert list(verify(store)) == []
    clip = store.clips[0]
    found = dict(media.read(clip.path, crop=clip.crop, size=store.size))
    frames = store.read_arrays("frames", "frames", clip)["frames"]
    assert len(frames) == clip.frames
    for pts, frame in zip(clip.pts, frames, strict=True):
        assert abs(frame.astype(int) - found[pts]).mean() < 3


def test_building_again_changes_nothing(built, mixed):
    before = {k: v for k, v in digests(built.store).items() if "ledger" not in k}
    again = build(mixed, built.store, policy=SMALL, layers={}, workers=0)
    assert again.frames == built.frames
    assert {k: v for k, v in digests(built.store).items() if "ledger" not in k} == before


def test_added_videos_go_to_new_shards_and_old_shards_keep_their_bytes(tmp_path, person, other):
    out = str(tmp_path / "store")
    first = build(person, out, policy=SMALL, layers={"flow": "dis"}, workers=0)
    before = digests(out)
    grown = build(other, out, workers=0)
    assert (grown.inputs, grown.videos, grown.added) == (1, 1, 1)
    assert grown.shards > first.shards
    after = digests(out)
    kept = {k for k in before if "shard-" in k}
    assert {k: after[k] for k in kept} == {k: before[k] for k in kept}
    store = open_store(out)
    assert list(verify(store)) == []
    assert [clip.shard for clip in store.clips] == sorted(clip.shard for clip in store.clips)
    again = build([person, other], out, workers=0)
    assert (again.inputs, again.videos, again.added) == (2, 2, 0)
    assert {k: v for k, v in digests(out).items() if "ledger" not in k} == {
        k: v for k, v in after.items() if "ledger" not in k
    }


def test_what_the_store_holds_is_a_duplicate_under_another_name(tmp_path, person):
    out = str(tmp_path / "store")
    build(person, out, policy=SMALL, layers={}, workers=0)
    copy = tmp_path / "a copy.mp4"
    copy.write_bytes(person.read_bytes())
    done = build(copy, out, workers=0)
    assert [(r["code"], r["path"]) for r in done.rejects] == [("duplicate", str(copy))]
    assert done.added == 0


def test_a_removed_video_is_gone_for_readers_and_stays_gone(tmp_path, person, other):
    out = str(tmp_path / "store")
    build([person, other], out, policy=SMALL, layers={"pose": "blazepose", "scores": "basic-scores"}, workers=0)
    store = open_store(out)
    gone = store.clips[0]
    assert [c.id for c in remove(store, [gone.video])] == [c.id for c in store.planned if c.video == gone.video]
    assert gone.id not in {w.clip for w in stream(open_store(out), split=None)}
    assert list(verify(open_store(out))) == []
    again = build([person, other], out, workers=0)
    assert ("removed", gone.video[:3]) in {(r["code"], r["id"][:3]) for r in again.rejects}
    assert again.frames["decoded"] == sum(again.frames[k] for k in ("kept", "refused", "resampled"))
    windows = [w.id for w in stream(open_store(out), split=None)]
    assert compact(open_store(out), workers=0) > 0
    store = open_store(out)
    assert list(verify(store)) == []
    assert gone.id not in {c.id for c in store.planned}
    assert [w.id for w in stream(store, split=None)] == windows
    assert compact(store, workers=0) == 0
    assert build([person, other], out, workers=0).added == 0
    with pytest.raises(StoreError, match="no video or clip 'nobody'"):
        remove(store, ["nobody"])


def test_refused_videos_are_tried_again_by_reason(tmp_path, person, monkeypatch):
    out = str(tmp_path / "store")
    never = Limits(stall=1e-3, total=1e-3)
    refused = build(person, out, policy=SMALL, layers={}, limits=never, workers=0)
    assert [r["code"] for r in refused.rejects] == ["timeout"]
    assert [r["code"] for r in build(person, out, layers={}, workers=0).rejects] == ["timeout"]
    assert [r["code"] for r in build(person, out, layers={}, retry=["crashed"], workers=0).rejects] == ["timeout"]
    done = build(person, out, layers={}, retry=["timeout", "crashed"], workers=0)
    assert (done.rejects, done.videos, done.added) == ((), 1, 1)
    with pytest.raises(StoreError, match="not bored"):
        build(person, out, retry=["bored"], workers=0)


def test_a_clip_whose_frames_cannot_be_read_again_costs_that_clip(tmp_path, person, other, monkeypatch):
    out = str(tmp_path / "store")
    mine = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for path, source in zip(mine, (person, other), strict=True):
        path.write_bytes(source.read_bytes())
    scanned = build_module.scan_all

    def then_spoilt(*args, **options):
        found = scanned(*args, **options)
        mine[0].write_bytes(b"no video any more")
        return found

    monkeypatch.setattr(build_module, "scan_all", then_spoilt)
    done = build(mine, out, policy=SMALL, layers={}, workers=0)
    assert {(r["what"], r["code"]) for r in done.rejects} == {("clip", "changed")}
    assert done.videos == 1
    assert done.frames["decoded"] == sum(done.frames[k] for k in ("kept", "refused", "resampled"))
    assert list(verify(open_store(out))) == []


def test_too_many_refusals_stop_the_build_with_the_counts(tmp_path):
    for number in range(30):
        (tmp_path / f"{number}.mp4").write_text("no video")
    with pytest.raises(StoreError, match=r"first 20 inputs 20 were refused, more than 20% \(unreadable 20\)"):
        build(tmp_path, str(tmp_path.parent / "s"), policy=SMALL, limit_rejects=0.2, workers=0)


def test_a_second_builder_is_told_who_holds_the_store(tmp_path, person):
    out = str(tmp_path / "store")
    build(person, out, policy=SMALL, layers={}, workers=0)
    with open_store(out).lock(), pytest.raises(Busy, match=rf"written by process {os.getpid()} on"):
        build(person, out, workers=0)


def test_the_command_says_what_was_refused_and_ends_with_status_1(mixed, tmp_path, capsys):
    status = cli.run(
        f"build {mixed} --out {tmp_path / 's'} --size 128x96 --min-frames 6 --no-layers --workers 0 --json".split()
    )
    printed = capsys.readouterr().out
    assert status == 1
    assert "7 inputs = 1 kept + 6 refused (1 other files skipped)" in printed
    assert "no-video-stream" in printed
    assert json.loads(printed.strip().splitlines()[-1])["refused"] == 6


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("build {folder}/absent.mp4 --out {folder}/s", "does not exist"),
        ("build {folder}/empty --out {folder}/s", "no file to build from"),
        ("build {folder}/full/x --out {folder}/full --workers 0", "exists and is no store"),
        ("build {folder}/bad.yaml --out {folder}/s", "is no manifest"),
        ("stats {folder}", "is no store"),
        ("annotate {folder}/full --layer pose --with blazepose", "is no store"),
        ("build {folder}/full/x --out {folder}/s --size 12", "HEIGHTxWIDTH"),
        ("build {folder}/full/x --out {folder}/s --decoder gpu", "pyav or decord"),
    ],
)
def test_what_cannot_run_is_one_sentence_and_status_2(tmp_path, capsys, line, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("no video")
    (tmp_path / "bad.yaml").write_text("clips: []")
    assert cli.run(line.format(folder=tmp_path).split()) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert says in message
    assert "Traceback" not in message
    assert not (tmp_path / "s").exists()


def test_strange_file_names_are_kept_or_refused_but_never_stop_a_build(person, tmp_path, capsys):
    folder = tmp_path / "in [" / "x] ünïcode 😀\n"
    folder.mkdir(parents=True)
    (folder / "[red]<b>.mp4").write_bytes(person.read_bytes())
    bad = os.fsencode(folder) + b"/not\xffutf8.mp4"
    with open(bad, "wb") as file:
        file.write(person.read_bytes())
    status = cli.run(["build", str(tmp_path / "in ["), "--out", str(tmp_path / "s"), "--no-layers", "--workers", "0"])
    printed = capsys.readouterr()
    assert status == 1, printed.err
    assert "2 inputs = 1 kept + 1 refused" in printed.out
    assert "not\\xffutf8.mp4" in printed.out and "unreadable" in printed.out
    assert list(verify(open_store(str(tmp_path / "s")))) == []


def test_a_store_where_everything_was_refused_can_be_looked_at(tmp_path, capsys):
    (tmp_path / "bad.mp4").write_text("no video")
    summary = build(tmp_path / "bad.mp4", str(tmp_path / "s"), workers=0)
    assert (summary.videos, summary.refused, summary.clips) == (0, 1, 0)
    assert cli.run(["stats", str(tmp_path / "s")]) == 0
    assert cli.run(["verify", str(tmp_path / "s")]) == 0


def test_a_manifest_names_persons_splits_and_licences(tmp_path, person):
    (tmp_path / "m.yaml").write_text(
        f"root: {person.parent}\nlicence: CC0\nvideos:\n  - path: {person.name}\n    person: ada\n    split: test\n"
    )
    (item,), _ = find_inputs(tmp_path / "m.yaml")
    assert (item.path, item.person, item.split, item.licence) == (str(person), "ada", "test", "CC0")
    (tmp_path / "m.yaml").write_text("videos:\n  - {person: ada}\n")
    with pytest.raises(InputError, match="entry 0 of 'videos'"):
        find_inputs(tmp_path / "m.yaml")


def test_a_target_frame_rate_picks_by_time(person, tmp_path):
    line = scan({"path": str(person)}, Policy(fps=15, min_frames=4).to_json())
    (clip,) = (Clip.from_json(c) for c in line["clips"])
    steps = {b - a for a, b in zip(clip.pts, clip.pts[1:], strict=False)}
    assert steps == {4 * 256}
    assert line["frames"]["decoded"] == clip.frames + line["frames"]["resampled"] + line["frames"]["refused"]


def test_long_shots_become_several_clips_and_shards_fill_up(person):
    policy = Policy(min_frames=4, max_frames=10, shard_frames=16)
    made = plan([scan({"path": str(person)}, policy.to_json())], policy)
    clips, counts = made.clips, made.frames
    assert [c.frames for c in clips] == [10, 10, 10]
    assert [c.shard for c in clips] == [0, 1, 2]
    assert [c.id[-2:] for c in clips] == ["00", "01", "02"]
    assert counts["kept"] == 30
    assert len({p for c in clips for p in c.pts}) == 30


def test_a_bystander_is_not_taken_for_the_main_person():
    """Cameras 1 and 2 see another person, standing still in the background."""
    for name in ("sample-cam01", "sample-cam02"):
        line = scan({"path": str(fetch(name))}, Policy().to_json())
        (clip,) = (Clip.from_json(c) for c in line["clips"])
        assert clip.frames == 100
        x, y, w, h = clip.crop
        centre = (x + w / 2) / clip.source_size[0], (y + h / 2) / clip.source_size[1]
        assert 0.3 < centre[0] < 0.7 and 0.3 < centre[1] < 0.6
        assert 0.5 < h / clip.source_size[1] < 0.9


@pytest.mark.slow
def test_one_worker_and_two_write_the_same_bytes(person, tmp_path):
    videos = [fetch(f"sample-cam0{i}") for i in (1, 3)]
    policy = Policy(size=(128, 96), fps=15, shard_frames=20, persons="main")
    for workers in (1, 2):
        build(videos, str(tmp_path / str(workers)), policy=policy, workers=workers)
    one, two = (digests(tmp_path / str(n)) for n in (1, 2))
    assert sum(name.endswith(".tar") for name in one) == 12
    assert {k: v for k, v in one.items() if "ledger" not in k} == {k: v for k, v in two.items() if "ledger" not in k}


@pytest.mark.slow
def test_layers_by_other_detectors_take_the_place_of_the_defaults(person, other, tmp_path, capsys):
    from remot_data.detectors.base import DEFAULTS
    from tests.remot_data.annotating.test_annotate import DETECTOR

    (tmp_path / "mine.py").write_text(DETECTOR)
    weights = tmp_path / "weights"
    weights.touch()
    out = str(tmp_path / "store")
    common = ["--out", out, "--size", "128x96", "--shard-frames", "20", "--workers", "0"]
    mine = ["--layer", f"parsing={tmp_path / 'mine.py'}:Bright", "--setting", "parsing.threshold=100"]
    assert cli.run(["build", str(person), *common, *mine, "--weights", f"parsing={weights}"]) == 0
    assert f"the parsing detector '{tmp_path / 'mine.py'}:Bright' is approximate" in capsys.readouterr().err

    def chosen() -> dict[str, str]:
        return {k: i.rsplit("-", 1)[0] for k, i in open_store(out).snapshot("main").layers.items()}

    store = open_store(out)
    assert chosen() == {**DEFAULTS, "parsing": "bright"}
    first = store.snapshot("main").layers
    made_by = store.layer("parsing", first["parsing"])
    assert made_by.settings == {"threshold": 100} and made_by.weights == str(weights)
    assert store.layer("background", first["background"]).inputs == {"parsing": first["parsing"]}
    assert len(store.layers) == 5  # no default parser has run
    # A store that grows keeps its layers; with another of one kind, those that read it are made again.
    before = {k: v for k, v in digests(out).items() if k.startswith(("layers/", "frames/"))}
    assert cli.run(["build", str(person), str(other), *common]) == 0
    assert open_store(out).snapshot("main").layers == first
    assert cli.run(["build", str(other), *common, "--layer", "parsing=pose-guided"]) == 0
    assert chosen() == DEFAULTS
    second = open_store(out).snapshot("main").layers
    assert {kind for kind in second if second[kind] != first[kind]} == {"parsing", "background", "scores"}
    tars = {k: v for k, v in before.items() if k.endswith(".tar")}
    assert {k: v for k, v in digests(out).items() if k in tars} == tars
    assert list(verify(open_store(out))) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--layer", "parsing"], "is not of the form --layer kind=detector"),
        (["--setting", "parsing.batch=3"], "but no --layer parsing=detector"),
        (["--layer", "flow=dis", "--weights", "pose=x"], "for pose, but no --layer pose=detector"),
        (["--layer", "flow=dis", "--no-layers"], "leave it or --layer out"),
        (["--layer", "flow=nobody"], "no detector is called 'nobody'"),
        (["--layer", "parsing=dis"], "makes a flow layer, not parsing"),
        (["--layer", "smell=dis"], "known: frames, pose"),
    ],
)
def test_a_wrong_choice_of_layers_is_said_before_anything_is_decoded(person, tmp_path, capsys, options, says):
    assert cli.run(["build", str(person), "--out", str(tmp_path / "store"), "--workers", "0", *options]) == 2
    assert says in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not (tmp_path / "store/clips.parquet").exists()
