"""docs/tour.md leads to files that are there, and the docs and the help name what it says they have to name."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from remot_data.care.check_rules import RULES
from remot_data.cli import commands
from remot_data.detectors.base import BUILTIN
from remot_data.exchange.exports import FORMATS
from remot_data.reading.filters import DEFAULT
from remot_data.schemas import SCORES
from remot_data.store.layers import BUILT_IN
from remot_model import cli
from remot_model.config import PRESETS, VARIANTS

ROOT = Path(__file__).parents[1]
TOUR = (ROOT / "docs/tour.md").read_text()
# Files of the tour that are there only when the change has been made.
INVENTED = re.compile("NAME|TOPIC|bright")


def named_files() -> set[str]:
    """What the tour names by its path, or links to, relative to the root."""
    paths = {path for path in re.findall(r"`([\w/.-]+(?:\.py|\.md|\.toml|/))`", TOUR) if "/" in path}
    return {p for p in paths | {f"docs/{p}" for p in re.findall(r"\]\(([\w.]+)\)", TOUR)} if not INVENTED.search(p)}


def test_every_file_that_the_tour_names_is_there():
    assert len(named_files()) > 30
    assert not sorted(path for path in named_files() if not (ROOT / path).exists())


def test_every_table_that_the_tour_names_is_in_a_file_that_it_names():
    text = "\n".join((ROOT / path).read_text() for path in named_files() if path.endswith(".py"))
    tables = set(re.findall(r"`(_?[A-Z][A-Z_]+)`", TOUR))
    assert len(tables) > 10
    assert not sorted(name for name in tables if not re.search(rf"^ *{name}\b.* = ", text, re.MULTILINE))


def absent(names: Iterable[str], text: str) -> list[str]:
    """Names that do not stand in a text as words of their own."""
    return [name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)]


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("architecture", [f"| {kind}" for kind in BUILT_IN]),
        ("data", [f"| `{name}`" for name in FORMATS]),
        ("checking", [f"| `{name}`" for name in (*SCORES["quality"], *RULES)]),
        ("checking", [DEFAULT, *(rule.filter for rule in RULES.values() if rule.filter)]),
        ("detectors", [f"`{name}`" for name in BUILTIN]),
        ("model", [*(f"| `{name}`" for name in PRESETS), *(f":{name}" for name in VARIANTS)]),
    ],
)
def test_a_page_names_every_one(page, names):
    assert not absent(names, (ROOT / "docs" / f"{page}.md").read_text())


def test_the_page_on_transfer_names_every_view():
    request = pytest.importorskip("remot_model.transferring.request")
    assert not absent([f"`{name}`" for name in request.VIEWS], (ROOT / "docs/transfer.md").read_text())


def test_the_help_names_every_format_and_preset():
    training = typer.Typer()
    training.command()(cli.train)
    for app, words, names in ((commands.app, ["export"], FORMATS), (training, [], PRESETS)):
        assert not absent(names, CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "400"}).output)


def test_every_detector_is_what_its_entry_says():
    for name, entry in BUILTIN.items():
        module, _, attribute = entry.target.partition(":")
        try:
            made = getattr(importlib.import_module(module), attribute)
        except ImportError:
            assert not entry.is_here, name
            continue
        assert (made.name, made.kind) == (name, entry.kind)
