from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from remot_model.transferring import driving  # noqa: E402
from remot_model.transferring.request import TransferError  # noqa: E402
from tests.remot_data.conftest import red  # noqa: E402, F401
from tests.remot_model.red_people import CONFIG, picture, write_video  # noqa: E402

pytestmark = pytest.mark.usefixtures("seers")


def test_pieces_end_at_cuts(tmp_path):
    shots = [picture(40 + t) for t in range(12)] + [picture(90 - t, colour=(200, 220, 240)) for t in range(9)]
    drive = driving.find_driving(write_video(tmp_path / "cut.mp4", shots), CONFIG.size, None, None)
    assert drive.shots == {0, 12}
    pieces = [(piece.begins, len(piece.frames)) for piece in driving.read_pieces(drive, (256, 192))]
    assert pieces == [(True, 12), (True, 9)]


def test_a_part_of_the_driving_video(run, files):
    whole = driving.find_driving(files.driving, CONFIG.size, None, None)
    part = driving.find_driving(files.driving, CONFIG.size, 0.4, 1.2)
    assert (whole.frames, part.frames) == (21, 10)
    first = next(driving.read_pieces(dataclasses.replace(part, crop=whole.crop), (64, 48))).frames[0]
    np.testing.assert_array_equal(first, next(driving.read_pieces(whole, (64, 48))).frames[5])
    with pytest.raises(TransferError, match="no frame from 9 s"):
        driving.find_driving(files.driving, CONFIG.size, 9, None)


def test_reading_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(driving, "_CHUNK", 4)
    shots = [picture(40 + t) for t in range(10)] + [picture(90 - t, colour=(200, 220, 240)) for t in range(7)]
    drive = driving.find_driving(write_video(tmp_path / "cut.mp4", shots), CONFIG.size, None, None)
    pieces = list(driving.read_pieces(drive, (64, 48)))
    assert [(p.begins, len(p.frames)) for p in pieces] == [(True, 4), (False, 4), (False, 2), (True, 4), (False, 3)]
    done = 0
    for i, piece in enumerate(pieces, 1):
        done += len(piece.frames)
        rest = list(driving.read_pieces(drive, (64, 48), done, piece.last_pts))
        assert [p.begins for p in rest] == [p.begins for p in pieces[i:]]
        for a, b in zip(rest, pieces[i:], strict=True):
            np.testing.assert_array_equal(a.frames, b.frames)


def test_what_was_found_in_a_video_survives_being_written_down(files):
    drive = driving.find_driving(files.driving, CONFIG.size, 0.2, None)
    assert driving.Driving.from_json(json.loads(json.dumps(drive.to_json()))) == drive


def test_the_person_who_is_asked_for_drives_and_the_others_are_told(red):  # noqa: F811
    finder, path = red
    tall, small = (driving.find_driving(path, CONFIG.size, None, None, person=n, finder=finder) for n in (1, 2))
    assert driving.find_driving(path, CONFIG.size, None, None, finder=finder) == tall
    assert tall.crop[0] < 110 < 220 < small.crop[0] + small.crop[2] and tall.others == 1.0
    for drive in (tall, small):
        piece = next(driving.read_pieces(drive, (64, 48)))
        own, others = piece.boxes["own"], piece.boxes["others"]
        assert own.shape == (40, 4) and others.shape == (40, 1, 4) and np.isfinite(own).all()
        x0, y0, x1, y1 = own[0].round().astype(int).clip(0)
        inside = piece.frames[0][y0 + 2 : y1 - 2, x0 + 2 : x1 - 2]
        assert (inside[..., 0] > 150).mean() > 0.9  # she is where she is said to be
    with pytest.raises(TransferError, match="shows 2 persons, not 3"):
        driving.find_driving(path, CONFIG.size, None, None, person=3, finder=finder)


def test_candidates_come_with_a_picture_of_each(red):  # noqa: F811
    finder, path = red
    found = driving.candidates(path, finder)
    assert [one.number for one in found] == [1, 2]
    assert all(one.picture.shape == (256, 192, 3) and (one.picture[128, 96, 0] > 150) for one in found)


def test_while_she_is_away_nobody_is_said_to_be_there(tmp_path):
    away = [picture(40 + t) for t in range(12)] + [picture(person=False)] * 30 + [picture(40 + t) for t in range(12)]
    drive = driving.find_driving(write_video(tmp_path / "away.mp4", away), CONFIG.size, None, None)
    (piece,) = driving.read_pieces(drive, (64, 48))
    there = np.isfinite(piece.boxes["own"]).all(1)
    assert there[:12].all() and there[-12:].all() and not there[17:37].any()
