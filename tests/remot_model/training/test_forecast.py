"""`remot train --plan`: steps that are left, their time, and no run folder."""

from __future__ import annotations

import tempfile

import pytest

from remot_data.care.planned import sentences
from remot_model.training import train
from remot_model.training.forecast import of_train
from tests.remot_model.training.test_train import arrays, quiet, store  # noqa: F401 - fixtures
from tests.remot_model.windows import small_config


@pytest.mark.slow
def test_steps_that_are_left_and_their_time(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run = tmp_path / "run"
    train.train("s", run, config=small_config(), stages=["layout"], steps=3, say=quiet)
    made = of_train("s", run, config=small_config(), stages=["layout", "region"], steps=10)
    layout, region = made.stages
    assert (layout.todo, layout.there, region.todo, region.there) == (7, 3, 10, 0)
    assert 0 < layout.seconds < 120 and region.seconds > 0 and not made.parallel
    assert any(line.startswith("  takes ") for line in sentences(made, None))
    assert not list(tmp_path.glob("remot-plan-*"))
    limited = of_train("s", None, config=small_config(), stages=["region"], minutes=2)
    assert limited.stages[0].todo * (limited.stages[0].seconds / limited.stages[0].todo) == pytest.approx(120, rel=0.1)
