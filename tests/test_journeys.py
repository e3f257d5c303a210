"""The four ways through the rooms in docs/architecture.md, held against traces of small runs."""

from __future__ import annotations

import inspect
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from remot_data import cli
from remot_data.media import sandbox
from tests.remot_data.conftest import dancers, own_dancers, red  # noqa: F401
from tests.remot_model.conftest import files, run, seers  # noqa: F401

ROOT = Path(__file__).parents[1]
PACKAGES = ("remot_data", "remot_model")
# What every journey may lean on without a place in its list, by the beginning of its name.
GROUND = tuple(
    f"remot_data/{name}"
    for name in "cli/__init__ cli/commands cli/console cli/events cli/options care/planned engine/ media/ store/ "
    "assets persons records render schemas errors".split()
) + tuple(
    f"remot_model/{name}"
    for name in "checkpoint config devices networks/__init__ networks/blocks networks/cpu networks/discriminator "
    "networks/warping".split()
)

pytestmark = pytest.mark.slow


def listed() -> dict[str, list[str]]:
    """Title of each journey in the document -> its files, in order."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.partition("\n## Four journeys\n")[2].partition("\n## ")[0]
    parts = re.split(r"\n### ", section)[1:]
    return {part.partition("\n")[0]: re.findall(r"^\d+\. `(remot_\w+/[\w/]+)`", part, re.MULTILINE) for part in parts}


def entered_by(work: Callable[[], object]) -> list[str]:
    """The files of both packages whose functions `work` enters, in the order in which it enters them first."""
    names = {str(p): str(p.relative_to(ROOT).with_suffix("")) for name in PACKAGES for p in (ROOT / name).rglob("*.py")}
    found: dict[str, None] = {}

    def seen(frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename in names and code.co_flags & inspect.CO_OPTIMIZED:
            found.setdefault(names[code.co_filename])

    threading.setprofile(seen)
    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return list(found)


def in_this_process(function: str, arguments: dict[str, Any], limits: Any = None) -> Any:
    module, _, name = function.partition(":")
    yield from getattr(import_module(module), name)(**arguments)


def held(title: str, work: Callable[[int], object]) -> None:
    """`work` is done twice: the first time modules are imported, which enters files too."""
    work(0)
    entered = entered_by(lambda: work(1))
    journey = listed()[title]
    assert [name for name in entered if name in journey] == journey
    others = [name for name in entered if name not in journey and not name.startswith(GROUND)]
    assert [name for name in others if not Path(name).name.startswith("_")] == []


def test_no_file_stands_in_the_lists_more_than_three_times():
    journeys = listed()
    assert len(journeys) == 4
    counts = Counter(name for journey in journeys.values() for name in journey)
    assert max(counts.values()) <= 3 and all((ROOT / f"{name}.py").is_file() for name in counts)


def test_from_a_video_to_a_tar(red, tmp_path, monkeypatch):  # noqa: F811
    finder, video = red
    monkeypatch.setattr(sandbox, "call", in_this_process)
    options = f"--finder {finder} --size 64x48 --no-layers --workers 0".split()
    held("From a video to a tar", lambda n: cli.run(["build", str(video), "--out", str(tmp_path / str(n)), *options]))


def test_from_a_detector_to_a_layer(own_dancers):  # noqa: F811
    own = f"--layer parsing --with {ROOT / 'docs' / 'own_detector.py'}:Bright --workers 0".split()
    line = ["annotate", own_dancers.url, *own, "--setting"]
    held("From a detector to a layer", lambda n: cli.run([*line, f"threshold={60 + n}"]))


def test_from_a_store_to_a_training_step(own_dancers, tmp_path):  # noqa: F811
    pytest.importorskip("torch")
    options = "--preset tiny --stage region --steps 1 --set lambda_per=0 --device cpu".split()
    line = ["train", own_dancers.url, *options, "--out"]
    held("From a store to a training step", lambda n: cli.run([*line, str(tmp_path / str(n))]))


def test_from_a_source_image_to_a_written_frame(run, files, seers, monkeypatch):  # noqa: F811
    from remot_model import transfer

    monkeypatch.setattr(sandbox, "call", in_this_process)
    monkeypatch.setattr(sandbox, "prepare", lambda: None)
    work = lambda n: transfer(run, files.source, files.driving, files.folder / f"{n}.mp4")  # noqa: E731
    held("From a source image to a written frame", work)
