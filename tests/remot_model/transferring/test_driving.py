from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from remot_model.transferring import driving  # noqa: E402
from remot_model.transferring.request import TransferError  # noqa: E402
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
