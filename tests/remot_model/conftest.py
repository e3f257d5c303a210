"""All tests of the model run torch in one thread; and what the tests of transfers share."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small lose far more to a second thread on a busy machine than they gain."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def drawn_store(monkeypatch):
    """Stands in for a store: one drawn clip of 16 frames, which is what `remot_model.training.data` finds anywhere."""
    pytest.importorskip("torch")
    from remot_data.store.content import Content
    from remot_model.training import data
    from tests.remot_model.windows import SCHEMAS, SIZE, Windows, clip_arrays

    arrays = clip_arrays(16)
    monkeypatch.setattr(data, "schemas", lambda stores, snapshot: SCHEMAS)
    monkeypatch.setattr(data, "contents", lambda stores, snapshot: [Content("abc", {})])
    monkeypatch.setattr(data, "shown", lambda stores: [data.Shown("drawn", SIZE, None)])
    monkeypatch.setattr(data, "tell_sure", lambda stores, snapshot: False)
    monkeypatch.setattr(data, "epochs", lambda stores, config, stage, **_: Windows(arrays, config.plan(stage).length))
    return arrays


@pytest.fixture
def seers(monkeypatch):
    """The default detectors find red rectangles."""
    from remot_data.detectors import base as detectors
    from remot_data.ingest import people
    from tests.remot_model.red_people import Seer

    real = detectors.load
    found = {"blazepose": Seer("pose"), "pose-guided": Seer("parsing", ("pose",))}
    monkeypatch.setattr(detectors, "load", lambda spec, **more: found[spec] if spec in found else real(spec, **more))
    monkeypatch.setenv("REMOT_FINDER", "blazepose")
    people._finder.cache_clear()
    yield
    people._finder.cache_clear()


@pytest.fixture
def decoder(monkeypatch):
    """A function: let a function of `media.in_child` end in a way of `tests.bad_decoders`, noticed after a second."""
    from remot_data.media import in_child, sandbox
    from tests import bad_decoders

    def ends(function: str, how: str) -> None:
        monkeypatch.setattr(sandbox, "call", bad_decoders.taken(function, how))
        monkeypatch.setattr(in_child, "READING", sandbox.Limits(stall=1))

    return ends


@pytest.fixture
def run(tmp_path: Path):
    """A run of untrained networks of 32x24."""
    torch = pytest.importorskip("torch")
    from remot_model import networks
    from remot_model.checkpoint import Run
    from tests.remot_model.red_people import CONFIG

    torch.manual_seed(0)
    nets = {s: networks.generator(s, CONFIG).eval().requires_grad_(False) for s in CONFIG.stages}
    return Run(tmp_path / "run", CONFIG, nets, {"pose": "body25", "labels": "remot11"}, {})


@pytest.fixture
def files(tmp_path: Path) -> SimpleNamespace:
    """A source image and a driving video of 21 frames."""
    from tests.remot_model.red_people import picture, write_image, write_video

    source = write_image(tmp_path / "source.png", picture())
    driving = write_video(tmp_path / "driving.mp4", [picture(40 + 2 * t) for t in range(21)])
    (tmp_path / "out").mkdir()
    return SimpleNamespace(source=source, driving=driving, out=tmp_path / "out" / "result.mp4", folder=tmp_path / "out")
