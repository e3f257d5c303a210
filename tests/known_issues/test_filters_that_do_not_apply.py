"""A filter that could not be applied ended in a traceback: on a clip without scores, or a number against a word.

The input is a store whose scores a detector could not make for one clip, or a filter with a word. No frame of such a
clip passes a condition on a score, wherever filters are read; what cannot be compared is an error with a sentence,
status 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remot_data.annotating.annotate import annotate, switch
from remot_data.cli.commands import invoke
from remot_data.detectors.base import DetectorError
from remot_data.reading.filters import where
from remot_data.report import write_report
from remot_data.store import Store, open_store
from tests.remot_data.conftest import dancers, own_dancers  # noqa: F401


class Light:
    """Scores of a clip; it fails on what is lighter than its limit."""

    name, kind, version, schema, licence, approximate = "light", "scores", "1", "own", "none", False
    needs = ()

    def __init__(self, most: float = 255.0) -> None:
        self.most = most

    def fingerprint(self) -> dict[str, Any]:
        return {"detector": self.name, "settings": {"most": self.most}}

    def __call__(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        if frames.mean() > self.most:
            raise DetectorError("too light")
        return {"light": frames.mean((1, 2, 3)).astype(np.float32)}


@pytest.fixture
def unscored(own_dancers: Store) -> tuple[Store, str]:  # noqa: F811
    """A store whose lightest clip has no scores, and the id of that clip."""
    light = {c.id: float(own_dancers.read_arrays("frames", "frames", c)["frames"].mean()) for c in own_dancers.clips}
    lightest, (most, second) = max(light, key=light.__getitem__), sorted(light.values(), reverse=True)[:2]
    settings = {"most": (most + second) / 2}
    done = annotate(own_dancers, "scores", f"{__file__}:Light", settings=settings, snapshot="main", workers=0)
    assert done.failed.keys() == {lightest}
    switch(own_dancers, "main", {}, where="light>=0")
    return open_store(own_dancers.url), lightest


def test_no_frame_of_a_clip_without_scores_passes(unscored: tuple[Store, str], capsys: Any, tmp_path: Path) -> None:
    store, lightest = unscored
    assert {c.id for c in store.clips if not where(store.snapshot("main"), store, c).any()} == {lightest}
    write_report(store, tmp_path / "report.html")
    frames = sum(clip.frames for clip in store.clips)
    assert invoke(["snapshot", store.url, "main", "--where", "light>=0"]) == 0
    assert f"{frames - store.clip[lightest].frames} of {frames} frames pass" in capsys.readouterr().out
    assert invoke(["check", store.url]) == 0


@pytest.mark.parametrize("text", ["light>=bright", "light>=nan"])
def test_what_is_compared_with_a_word_is_an_error(unscored: tuple[Store, str], text: str, capsys: Any) -> None:
    assert invoke(["snapshot", unscored[0].url, "main", "--where", text]) == 2
    assert "is a number" in " ".join(capsys.readouterr().err.split())
