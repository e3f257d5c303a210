"""The public face: what the packages export, and the page about it."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("remot_data", "remot_model")


def told_to_type_checkers(package):
    """Name -> module of what a package's ``__init__`` imports for type checkers alone."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    return {alias.name: node.module for node in guarded.body for alias in node.names}


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_exported_is_there_typed_and_listed(package):
    if package == "remot_model":
        pytest.importorskip("torch")
    module = import_module(package)
    homes = {name: f"{package}.{home}" for name, home in module._HOME.items()}
    assert sorted(homes) == sorted(module.__all__) and told_to_type_checkers(package) == homes
    for name, home in homes.items():
        exported = getattr(module, name)
        assert exported is getattr(import_module(home), name) and exported.__doc__
    assert set(module.__all__) <= set(dir(module))
    assert (ROOT / package / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def test_the_page_is_up_to_date():
    pytest.importorskip("griffe2md")
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    page = made.page()
    assert page == (ROOT / "docs" / "api.md").read_text(), "run `python docs/make_api.py`"
    for package in PACKAGES:
        names = told_to_type_checkers(package)
        assert all(f"### `{package}.{name}`\n" in page for name in names)


@pytest.mark.slow
def test_a_program_that_uses_the_public_names_type_checks(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "program.py").write_text(
        "from remot_data import Loader, Plan, open_store, stream\n"
        "from remot_model import preset\n"
        "for window in stream('store', length=6, max_step=2, raw=True):\n"
        "    name: str = window.id\n"
        "loader = Loader(Plan('store', weights=None), 8)\n"
        "frames: int = open_store('store').clips[0].frames\n"
        "preset('tiny').ngf.nothing\n"
        "stream('store', lenght=6)\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "program.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"MYPYPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True
    )
    wrong = [line.partition(": error: ")[0] for line in done.stdout.splitlines() if ": error: " in line]
    assert wrong == ["program.py:7", "program.py:8"], done.stdout + done.stderr
