"""Curves under clips, and what layers were made from."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from remot_data.annotating.annotate import annotate, switch
from remot_data.records import LayerInfo
from remot_data.report import write_report
from remot_data.report.curves import curves
from remot_data.report.lineage import lineage
from remot_data.store import Store


def test_the_worst_frame_is_the_one_furthest_beyond_the_limits() -> None:
    scores = {"jitter": np.full(10, 0.01), "jumps": np.zeros(10), "sharpness": np.arange(10.0)}
    scores["jitter"][[2, 6]] = 0.07, 0.2
    scores["jumps"][2] = 0.06
    found = curves(scores, range(10), "jitter<=0.06 and jumps<=0.05")
    assert 'data-frame="6">worst frame: 6 (jitter)<' in found
    assert found.count('class="curve"') == 2 and "sharpness" not in found
    assert re.findall(r"(\d+) frames beyond", found) == ["2", "1"], "the curve with the worst frame comes first"
    thinned = curves(scores, range(0, 10, 2), "jitter<=0.06")
    assert 'data-frame="3">worst frame: 6 ' in thinned and 'data-frames="5"' in thinned


def test_what_nothing_is_known_of_is_no_curve_and_no_fault() -> None:
    scores = {"disagreement": np.array([-1, -1, 0.02, 0.03, -1, 0.01])}
    found = curves(scores, range(6), "disagreement<=0.1")
    assert "no frame is wrong" in found and found.count("M2 ") == 1 and "M5 " in found
    assert curves({}, range(6), "disagreement<=0.1") == "" and curves(scores, range(1), "") == ""


@pytest.mark.slow
def test_means_leave_out_what_nothing_is_known_of(own_dancers: Store, tmp_path: Path) -> None:
    annotate(own_dancers, "scores", "quality-scores", snapshot="main", workers=0)
    page = tmp_path / "report.html"
    write_report(own_dancers, page, most_clips=2)
    text = page.read_text()
    assert text.count("<dt>disagreement, mean</dt><dd>unknown</dd>") == 2 and not re.search(r", mean</dt><dd>-", text)


def info(kind: str, name: str, **inputs: str) -> LayerInfo:
    return LayerInfo(name, kind, "d", "1", "", {}, "", inputs=inputs)


def test_layers_stand_to_the_right_of_what_they_read() -> None:
    infos = [info("background", "b", parsing="p"), info("pose", "q"), info("parsing", "p", pose="q"), info("flow", "f")]
    found = lineage(infos, {"parsing/p": "its shard 0 was made from other pose"}, {"pose/q": ["main"]})
    left = {name: int(x) for x, name in re.findall(r'<rect x="(\d+)"[^>]*/><text [^>]*>(\w+)', found)}
    assert left["frames"] < left["pose"] == left["flow"] < left["parsing"] < left["background"]
    assert found.count('class="arrow"') == 4
    assert 'class="stale"' in found and "parsing (stale)" in found and 'class="used"' in found
    assert lineage([], {}, {}) == ""


def test_two_layers_of_a_kind_stand_beside_each_other(own_dancers: Store, tmp_path: Path) -> None:
    even = annotate(own_dancers, "pose", "smooth", workers=0).id
    switch(own_dancers, "main", {}, where="motion<0.007")
    page = tmp_path / "report.html"
    write_report(own_dancers, page, most_clips=1, beside={"pose": even[:8]})
    text = page.read_text()
    assert f"<li>pose {even}</li>" in text and 'class="lineage"' in text and "worst frame: " in text
    assert "frames beyond &lt; 0.007" in text
