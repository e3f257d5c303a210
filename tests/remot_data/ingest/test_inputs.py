from __future__ import annotations

import os
import socket
import time

import pytest

from remot_data.ingest.inputs import InputError, find_inputs


def touch(folder, *names):
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass


def below(folder, items):
    """What was found: relative path -> reason code."""
    return {os.path.relpath(item.path, folder): item.refused for item in items}


def test_folders_are_searched_and_what_lies_beside_videos_is_counted(tmp_path):
    touch(tmp_path, "b/2.mp4", "b/a/1.MOV", "c", "b/notes.txt", "b/cover.JPG", ".hidden.mp4", ".git/x.mp4")
    items, ignored = find_inputs(tmp_path)
    assert below(tmp_path, items) == {"b/2.mp4": "", "b/a/1.MOV": "", "c": ""}
    assert ignored == 2
    assert [i.path for i in items] == sorted(i.path for i in items)


def test_what_is_no_regular_file_is_refused_and_never_opened(tmp_path, monkeypatch):
    touch(tmp_path, "good.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    listening = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)
    listening.bind("socket.mp4")
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    (tmp_path / "broken.mp4").symlink_to("not/there.mp4")
    (tmp_path / "itself.mp4").symlink_to("itself.mp4")
    items, _ = find_inputs(tmp_path)
    listening.close()
    assert below(tmp_path, items) == {
        "good.mp4": "",
        "pipe.mp4": "unsafe-path",
        "socket.mp4": "unsafe-path",
        "device.mp4": "unsafe-path",
        "broken.mp4": "unreadable",
        "itself.mp4": "unreadable",
    }
    details = {os.path.basename(i.path): i.detail for i in items}
    assert "a pipe" in details["pipe.mp4"] and "a device" in details["device.mp4"]
    assert "not/there.mp4" in details["broken.mp4"]
    for name in ("pipe.mp4", "broken.mp4"):
        (item,), _ = find_inputs(tmp_path / name)
        assert item.refused == below(tmp_path, items)[name]


def test_links_are_followed_and_loops_end(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    touch(inside, "real/1.mp4")
    touch(outside, "2.mp4", "3.mp4")
    (inside / "again").symlink_to("real")
    (inside / "real/up").symlink_to("..")
    (inside / "away").symlink_to(outside)
    (inside / "file.mp4").symlink_to(outside / "3.mp4")
    (outside / "back").symlink_to(inside)
    items, _ = find_inputs(inside)
    # A folder is entered once, under its real path where it has one in here.
    assert below(inside, items) == {"real/1.mp4": "", "away/2.mp4": "", "away/3.mp4": "", "file.mp4": ""}


def test_strange_names_are_kept_and_those_that_are_no_text_are_refused(tmp_path):
    names = ["a b.mp4", "new\nline.mp4", "dots...mp4", "舞踊.mp4", "[red]{x}.mp4", "é/é.mp4"]
    touch(tmp_path, *names)
    touch(tmp_path, b"not\xffutf8.mp4")
    items, _ = find_inputs(tmp_path)
    found = below(tmp_path, items)
    assert found == {**dict.fromkeys(names, ""), "not\\xffutf8.mp4": "unreadable"}
    for item in items:
        item.path.encode()


def test_a_folder_that_cannot_be_read_is_an_input_that_is_refused(tmp_path, monkeypatch):
    touch(tmp_path, "open/1.mp4", "shut/2.mp4")
    really = os.scandir

    def scandir(folder):
        if str(folder).endswith("shut"):  # chmod would not keep root out
            raise PermissionError(13, "Permission denied")
        return really(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    items, _ = find_inputs(tmp_path)
    assert below(tmp_path, items) == {"open/1.mp4": "", "shut": "unreadable"}


@pytest.mark.parametrize(("make", "says"), [((), "does not exist"), (("x/notes.txt",), "1 other files skipped")])
def test_inputs_that_hold_nothing_are_an_error(tmp_path, make, says):
    touch(tmp_path, *make)
    with pytest.raises(InputError, match=says):
        find_inputs(tmp_path / "x")


def test_many_files_in_one_folder_take_little_time(tmp_path):
    folder = os.fspath(tmp_path)
    for number in range(5000):
        os.close(os.open(f"{folder}/{number}.mp4", os.O_CREAT))
    started = time.process_time()
    items, _ = find_inputs(tmp_path)
    seconds = time.process_time() - started
    assert len(items) == 5000
    # 50,000 take half a second; a stat too many a file, or anything quadratic, is well above this.
    assert seconds < 1.0


def test_several_inputs_are_one_list_without_repetition(tmp_path):
    touch(tmp_path, "a/1.mp4", "b/2.mp4")
    items, _ = find_inputs([tmp_path / "b", tmp_path / "a/1.mp4", tmp_path])
    assert list(below(tmp_path, items)) == ["a/1.mp4", "b/2.mp4"]
