"""The house: files in rooms, rooms in an order, and imports that run down only. docs/architecture.md draws it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The rooms of a package, folders and files beside them, from the top down: a room imports only what stands below it.
ROOMS = {
    "remot_model": (
        "__init__", "cli", "app", "onnx_export", "training", "evaluating", "transferring", "checkpoint", "generating",
        "networks", "devices", "config",
    ),
    "remot_data": (
        "__init__", "cli", "care", "exchange", "report", "ingest", "annotating", "reading", "synthetic",
        "detectors", "media", "store", "persons", "render", "engine", "assets", "schemas", "records", "errors",
    ),
}  # fmt: skip
PACKAGES = ("remot_model", "remot_data")  # likewise from the top down
MOST_LINES = 500
LONGER = {"remot_data.media.sandbox"}  # it is one thing

Graph = dict[str, set[str]]


def modules(root: Path, package: str) -> dict[str, Path]:
    """Dotted name -> file of each module; the name of a folder is that of its ``__init__.py``."""
    found = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, wherever in it: in functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph(files: dict[str, Path]) -> Graph:
    """Module -> modules of the same package that it imports."""
    found: Graph = {}
    for name, path in files.items():
        # What is imported out of a module is no module itself.
        targets = {n if n in files else n.rpartition(".")[0] for n in imported(path)}
        found[name] = {n for n in targets if n in files and n != name}
    return found


def circle(arrows: Graph) -> list[str]:
    """Nodes that lead to each other, the first again at the end; empty where there are none."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def room(module: str) -> str:
    return module.split(".")[1]


def upward(arrows: Graph, rooms: tuple[str, ...]) -> list[str]:
    """Imports of a room that does not stand below."""
    floor = {name: number for number, name in enumerate(rooms)}
    pairs = [(a, b) for a, targets in arrows.items() for b in targets if room(a) != room(b)]
    return sorted(f"{a} imports {b}" for a, b in pairs if floor[room(a)] >= floor[room(b)])


@pytest.mark.parametrize("package", ROOMS)
def test_every_file_is_in_a_room(package):
    files = modules(ROOT, package)
    assert len(files) > 20
    assert {room(name) for name in files} == set(ROOMS[package])


@pytest.mark.parametrize("package", ROOMS)
def test_no_circle_of_files(package):
    assert not circle(graph(modules(ROOT, package)))


@pytest.mark.parametrize("package", ROOMS)
def test_imports_run_down(package):
    """So there is no circle of rooms either."""
    assert not upward(graph(modules(ROOT, package)), ROOMS[package])


def test_packages_import_down():
    for number, package in enumerate(PACKAGES):
        for path in modules(ROOT, package).values():
            assert not {n.split(".")[0] for n in imported(path)} & set(PACKAGES[:number]), path


@pytest.mark.parametrize("package", ROOMS)
def test_no_file_is_too_long(package):
    lines = {name: len(path.read_text().splitlines()) for name, path in modules(ROOT, package).items()}
    assert {name: count for name, count in lines.items() if count > MOST_LINES and name not in LONGER} == {}


@pytest.mark.parametrize("package", ROOMS)
def test_no_private_name_leaves_its_module(package):
    files = modules(ROOT, package)
    own = {f"{p}." for p in PACKAGES}
    found = {(name, target) for name, path in files.items() for target in imported(path)}
    private = {t for t in found if t[1].rpartition(".")[2].startswith("_") and t[1].startswith(tuple(own))}
    assert {(name, t) for name, t in private if t not in files and not t.endswith("__")} == set()


@pytest.mark.parametrize("package", ROOMS)
def test_a_public_name_is_not_that_of_a_module(package):
    """Else what `from package import name` gives depends on what was imported before."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    assert names and not set(names) & {room(name) for name in modules(ROOT, package)}


@pytest.mark.parametrize("package", ROOMS)
def test_folders_of_tests_are_rooms(package):
    folders = {path.name for path in (ROOT / "tests" / package).iterdir() if list(path.glob("test_*.py"))}
    assert folders and folders <= set(ROOMS[package])


def test_circles_and_upward_imports_are_found(tmp_path):
    sources = {
        "__init__": "",
        "upper/__init__": "",
        "upper/a": "from house.lower import c\nfrom house.upper.b import name",
        "upper/b": "def f():\n    import house.upper.a",
        "lower/__init__": "from house.lower.c import x",
        "lower/c": "import house.lower",
        "lower/d": "import os\nfrom house.upper import b",
    }
    for name, text in sources.items():
        path = tmp_path / "house" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = graph(modules(tmp_path, "house"))
    assert found["house.upper.a"] == {"house.lower.c", "house.upper.b"}
    assert upward(found, ("__init__", "upper", "lower")) == ["house.lower.d imports house.upper.b"]
    assert set(circle(found)) in ({"house.upper.a", "house.upper.b"}, {"house.lower", "house.lower.c"})
    del found["house.upper.b"], found["house.lower.c"]
    assert circle(found) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_nothing_heavy(package):
    code = f"import {package}, sys; print(*({{'pyarrow', 'cv2', 'dask', 'av', 'torch', 'numpy'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_a_command_that_only_reads_a_store_loads_neither_pandas_nor_scipy():
    """Each takes as long to import as all of ours. Arrow asks for pandas wherever it makes an array of NumPy's."""
    store = ROOT / "tests/data/store-1c74548"
    code = (
        "import sys, remot_data; from remot_data.cli.commands import invoke\n"
        f"for name in ('status', 'stats', 'verify'): assert invoke([name, {str(store)!r}]) == 0, name\n"
        f"next(remot_data.stream({str(store)!r}, split=None, length=2))\n"
        "heavy = {'pandas', 'pyarrow.dataset', 'scipy', 'torch', 'dask', 'remot_model'}; "
        "print(*(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout and done.stderr == "\n"


def test_a_process_that_decodes_loads_nothing_of_stores():
    """One is started beside every worker, and whoever waits for the first frame waits for what it imports."""
    names = "ingest.scan ingest.decoding annotating.source_frames media.in_child".split()
    code = (
        f"import importlib, sys; [importlib.import_module(f'remot_data.{{n}}') for n in {names}]; "
        "print(*({'pyarrow', 'fsspec', 'dask', 'pydantic', 'scipy', 'remot_data.store.store'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
