"""Failures of a machine that were taken for failures of the data, and stayed refused for good.

Made input: videos that are absent for a while, on a disk that does not read or is full, whose reader is killed from
outside, or that have moved. Right: the same command tries again by itself, once a run; paths follow known content.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal

import pytest

from remot_data.care.relocate import relocate
from remot_data.detectors.base import DetectorError
from remot_data.ingest.build import build
from remot_data.ingest.policy import Policy
from remot_data.media import sandbox
from remot_data.records import digest
from remot_data.store import StoreError, open_store

SMALL = Policy(size=(64, 48), finder=None)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Forty frames of somebody."""
    from remot_data import assets, media

    path = tmp_path_factory.mktemp("video") / "dance.mp4"
    with media.VideoWriter(path, 30, (240, 320)) as out:
        for number, (_, frame) in enumerate(media.read(assets.fetch("sample-cam01"), size=(240, 320))):
            if number == 40:
                break
            out.write(frame)
    return path


@pytest.fixture
def folder(tmp_path, video):
    (tmp_path / "in").mkdir()
    shutil.copy2(video, tmp_path / "in/dance.mp4")
    return tmp_path / "in"


def made(folder, tmp_path, **options):
    return build([folder], str(tmp_path / "store"), policy=SMALL, layers={}, workers=0, **options)


def codes(done):
    return [reject["code"] for reject in done.rejects if reject["what"] != "shot"]


def broken(monkeypatch, function, error):
    """Children that are asked for `function` fail so, as `error` tells the parent."""
    real = sandbox.call

    def call(name, arguments, limits=None):
        if name.endswith(function):
            raise error
        return real(name, arguments, limits)

    monkeypatch.setattr(sandbox, "call", call)


@pytest.mark.slow
@pytest.mark.parametrize("function", ["scan:looking", "decoding:decoding"])
def test_what_a_machine_failed_on_is_tried_again_by_the_next_run(folder, tmp_path, monkeypatch, function):
    with monkeypatch.context() as patch:
        broken(patch, function, sandbox.ChildError("unavailable", "OSError: no space left on device"))
        assert codes(made(folder, tmp_path)) == ["unavailable"]
    done = made(folder, tmp_path)
    assert (codes(done), done.frames["kept"]) == ([], 40)


@pytest.mark.slow
@pytest.mark.parametrize("code", ["crashed", "timeout"])
def test_what_the_data_may_be_at_fault_for_stays_refused(folder, tmp_path, monkeypatch, code, capsys):
    from remot_data.cli import run

    with monkeypatch.context() as patch:
        broken(patch, "scan:looking", sandbox.ChildError(code, "it stood still"))
        assert codes(made(folder, tmp_path)) == [code]
    run(["build", str(folder), "--out", str(tmp_path / "store"), "--no-layers", "--workers", "0"])
    assert f"the same command with --retry {code}" in capsys.readouterr().out
    assert codes(made(folder, tmp_path, retry=[code])) == []


def full(**_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    yield


def killed(**_):
    os.kill(os.getpid(), signal.SIGKILL)
    yield


@pytest.mark.parametrize("how", ["full", pytest.param("killed", marks=pytest.mark.slow)])
def test_a_full_disk_and_a_kill_from_outside_are_the_machines(how):
    with pytest.raises(sandbox.ChildError) as caught:
        list(sandbox.call(f"{__name__}:{how}", {}))
    assert caught.value.code == "unavailable"


def test_a_disk_that_does_not_read_is_told_from_a_damaged_file(folder, tmp_path, monkeypatch):
    from remot_data import media
    from remot_data.media import identity

    path = str(folder / "dance.mp4")

    def steps():
        yield 0
        raise media.VideoError("truncated", "it ends early")

    with pytest.raises(media.VideoError, match="truncated"):
        list(identity.checked(path, steps(), 0))

    def unread(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(identity, "open", unread, raising=False)
    with pytest.raises(media.VideoError, match="unavailable: .*cannot be read on this machine: Input/output error"):
        list(identity.checked(path, steps(), 0))


def test_an_absent_video_is_unavailable(folder):
    from remot_data.ingest.inputs import Input
    from remot_data.ingest.scan import scan

    gone = Input(str(folder / "gone.mp4"))
    assert [r["code"] for r in scan(gone.to_json(), SMALL.to_json())["rejects"]] == ["unavailable"]


def state(store):
    return {name: digest(store.files.read(name).hex()) for name in store.files.walk() if name.startswith("frames/")}


@pytest.mark.slow
def test_a_build_from_a_new_place_renews_the_paths(folder, tmp_path):
    made(folder, tmp_path)
    before = state(open_store(str(tmp_path / "store")))
    for name in ("elsewhere", "third"):
        folder = place = folder.rename(tmp_path / name)
        done = made(place, tmp_path)
        assert (done.videos, done.refused, done.added, codes(done)) == (1, 0, 0, [])
        store = open_store(str(tmp_path / "store"))
        assert [clip.path for clip in store.clips] == [str(place / "dance.mp4")]
        assert state(store) == before


@pytest.mark.slow
def test_a_video_of_another_name_is_known_again_once_the_old_one_is_gone(folder, tmp_path):
    made(folder, tmp_path)
    (folder / "dance.mp4").rename(folder / "solo.mp4")
    for _ in range(2):
        done = made(folder, tmp_path)
        assert (done.videos, done.refused, done.added, codes(done)) == (1, 0, 0, [])
        (clip,) = open_store(str(tmp_path / "store")).clips
        assert (clip.path, clip.id.split("-")[0]) == (str(folder / "solo.mp4"), "dance")


@pytest.mark.slow
def test_a_copy_beside_it_is_a_duplicate(folder, tmp_path):
    made(folder, tmp_path)
    (tmp_path / "in/copy").mkdir()
    shutil.copy2(folder / "dance.mp4", folder / "copy/dance.mp4")
    done = made(folder, tmp_path)
    assert (done.videos, codes(done)) == (1, ["duplicate"])
    assert [clip.path for clip in open_store(str(tmp_path / "store")).clips] == [str(folder / "dance.mp4")]


def test_relocate_tells_a_store_where_its_videos_are(folder, tmp_path, monkeypatch):
    (folder / "no.mp4").write_bytes(b"nothing")
    made(folder, tmp_path)
    store = open_store(str(tmp_path / "store"))
    with pytest.raises(StoreError, match=f"no video of the store lies at /nowhere; they lie in {folder}"):
        relocate(store, "/nowhere=/there")
    with pytest.raises(StoreError, match="write OLD=NEW"):
        relocate(store, str(folder))
    place = folder.rename(tmp_path / "a=b")
    changed, absent = relocate(store, f"{folder}={place}")
    assert ([clip.path for clip in changed], absent) == ([str(folder / "dance.mp4")], [])
    with monkeypatch.context() as patch:  # what was looked through is known at the new place
        broken(patch, "scan:looking", AssertionError("it is looked through again"))
        done = made(place, tmp_path)
    assert (done.videos, done.added, codes(done)) == (1, 0, ["unreadable"])
    assert {r["path"] for r in done.rejects} == {str(place / "no.mp4")}
    assert relocate(open_store(store.url), f"{place}={tmp_path}/gone")[1] == [
        f"{tmp_path}/gone/{name}" for name in ("dance.mp4", "no.mp4")
    ]


def test_a_layer_is_made_again_where_its_source_was_not_there(folder, tmp_path):
    from remot_data.annotating.annotate import annotate

    made(folder, tmp_path)
    (folder / "dance.mp4").rename(tmp_path / "away.mp4")
    flow = {"detector": "dis", "source": 96, "workers": 0}
    with pytest.raises(DetectorError, match="cannot be read again: unavailable: "):
        annotate(str(tmp_path / "store"), "flow", **flow)
    (tmp_path / "away.mp4").rename(folder / "dance.mp4")
    done = annotate(str(tmp_path / "store"), "flow", **flow)
    assert (done.failed, done.frames) == ({}, 40)
