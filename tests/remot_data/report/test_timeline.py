"""The time lines of a report, out of made lines of the ledger."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from remot_data.records import Clip
from remot_data.report.timeline import timelines


def clip(name, person=""):
    return Clip(
        name, "v-1", "/v.mp4", "0" * 64, 0, range(40), (1, 30), 30.0, (640, 360), (0, 0, 96, 128), person, "train"
    )


def line(number=1, tracks=None, rejects=()):
    kept = {"shot": 0, "number": 0, "rank": 0, "person": "", "parts": [[0, 40, f"v-{number}-000-00", ""]]}
    other = [60, 90, "track-too-short", "9 frames, 16 asked for <b>"]
    return {
        "video": {"id": f"v-{number}", "path": f"/v{number}.mp4", "frames": 120, "seconds": 4.0, "person": "ann"},
        "shots": [[0, 50], [50, 120]],
        "tracks": [kept, {"shot": 1, "number": 1, "rank": 1, "person": f"v-{number}-p1", "parts": [other]}]
        if tracks is None
        else tracks,
        "clips": [{"id": f"v-{number}-000-00"}],
        "rejects": rejects or [{"code": "no-person", "detail": "frames 40 to 119: nobody is found"}],
    }


def view(*lines):
    frames = {"frames": np.full((1, 128, 96, 3), 200, np.uint8)}
    store = SimpleNamespace(url="/store", read_arrays=lambda *a, **k: frames, boxes=lambda clip: None)
    return SimpleNamespace(inputs=lines, clips=[clip("v-1-000-00")], store=store)


def test_a_store_that_does_not_follow_persons_has_no_time_lines():
    assert timelines(view({"video": None, "rejects": [], "clips": []})) == ""


def test_bars_say_what_was_kept_and_what_was_refused_and_why():
    page = timelines(view(line()))
    assert 'class="kept" style="left:0.00%;width:33.33%" title="frames 0 to 39: clip v-1-000-00"' in page
    assert 'style="left:50.00%;width:25.00%" title="frames 60 to 89: track-too-short' in page
    assert "9 frames, 16 asked for &lt;b&gt;" in page and "<b>" not in page
    assert "frames 40 to 119: <code>no-person</code>, nobody is found" in page
    assert page.count('<img class="face"') == 1 and "4 s</span>" in page
    assert "ann" in page and ">p1, shot 1<" in page


def test_videos_that_tell_something_come_first_and_no_more_than_fit():
    dull = [line(n, tracks=[], rejects=[{"code": "static", "detail": "as a whole"}]) for n in range(2, 30)]
    page = timelines(view(*dull, line(1)))
    assert page.count("<article") == 12 and "12 of 29 videos" in page


def test_many_tracks_are_told_and_not_drawn():
    track = {"shot": 0, "number": 0, "rank": 0, "person": "p", "parts": [[0, 30, "static", "nothing moves"]]}
    assert "and 8 more" in timelines(view(line(tracks=[track] * 20)))
