from __future__ import annotations

import ast
import builtins
import copy
import importlib
import pickle
from collections.abc import Iterator
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import pytest
import typer

from remot_data import cli
from remot_data.cli import commands, console
from remot_data.detectors.base import DetectorError, DeviceLost
from remot_data.errors import PARTS, RemotError
from remot_data.media import VideoError, sandbox
from remot_data.store.disk import FilesError

_ROOT = Path(__file__).parents[2]
# What their own constructors take; all others take a sentence.
_MADE_OF = {"VideoError": ("truncated", "a.mp4 ends at 3 s"), "ChildError": ("crashed", "it died", 9)}
_PARTS = {"what": "access is refused", "where": "s3://a", "why": "403", "what_next": "check the credentials"}
_SENTENCE = "s3://a: access is refused (403); check the credentials"


def _classes() -> Iterator[tuple[str, str]]:
    """Module and name of every public exception class of both packages, as their files define them."""
    known = {name for name, found in vars(builtins).items() if isinstance(found, type) and "Error" in name}
    known |= {"Exception", "BaseException", "RemotError"}
    defined = []
    for path in sorted(p for package in ("remot_data", "remot_model") for p in (_ROOT / package).rglob("*.py")):
        module = ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text())
        for node in (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)):
            defined.append((module, node.name, {ast.unparse(base).split(".")[-1] for base in node.bases}))
    while more := {name for _, name, bases in defined if bases & known} - known:
        known |= more
    return ((module, name) for module, name, bases in defined if bases & known and not name.startswith("_"))


_FOUND = list(_classes())


@pytest.fixture(params=_FOUND, ids=[name for _, name in _FOUND])
def error_class(request: pytest.FixtureRequest) -> type[RemotError]:
    module, name = request.param
    if module.startswith("remot_model") and module != "remot_model.config" and find_spec("torch") is None:
        pytest.skip("the networks need torch")
    return getattr(importlib.import_module(module), name)


def made(found: type[RemotError]) -> RemotError:
    error = found(*_MADE_OF.get(found.__name__, ("it cannot be done",)))
    vars(error).update(_PARTS)
    return error


def alike(one: BaseException, other: BaseException) -> bool:
    return type(one) is type(other) and str(one) == str(other) and one.args == other.args and vars(one) == vars(other)


def test_all_are_found():
    names = {name for _, name in _FOUND}
    assert {"RemotError", "EngineError", "Spoilt", "DeviceLost", "LayerError", "Busy", "ConfigError"} <= names
    assert len(names) == len(_FOUND) >= 28


def test_every_error_is_under_the_root_with_a_built_in_base_after_it(error_class):
    assert issubclass(error_class, RemotError)
    builtin = next(c for c in error_class.__mro__ if c.__module__ == "builtins")
    wanted = {"ConfigError": ValueError, "FilesError": OSError, "VideoError": Exception, "StoreError": RuntimeError}
    assert builtin is wanted.get(error_class.__name__, builtin)
    assert builtin is not Exception or error_class.__name__ in ("RemotError", "VideoError")


def test_every_error_ends_a_command_with_its_sentence_and_status(error_class, capsys):
    error = made(error_class)
    assert console.explained(error) == (str(error), 2)
    with pytest.raises(typer.Exit) as end, console.reported():
        raise error
    assert end.value.exit_code == 2
    assert capsys.readouterr().err == f"error: {error}\n"


def test_every_error_survives_pickling_and_copying(error_class):
    error = made(error_class)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert alike(pickle.loads(pickle.dumps(error, protocol)), error)
    assert alike(copy.copy(error), error)


def test_every_error_comes_home_from_a_child(error_class):
    error = made(error_class)
    assert alike(sandbox._error_from(sandbox._report(error)), error)


def test_the_parts_make_the_sentence_where_there_is_none():
    assert str(DetectorError(**_PARTS)) == str(FilesError(**_PARTS)) == _SENTENCE
    assert str(DetectorError(what="no card")) == "no card"
    assert str(DetectorError(what="no card", what_next="get one")) == "no card; get one"
    assert str(DetectorError(why="sold out", what_next="wait")) == "(sold out); wait"
    told = DetectorError("as it was", **_PARTS)
    assert str(told) == "as it was" and {part: getattr(told, part) for part in PARTS} == _PARTS
    assert str(DetectorError()) == "" and DetectorError("a", 1).args == ("a", 1)
    numbered = FilesError(28, "no room")
    assert (str(numbered), numbered.errno, numbered.args) == ("no room", 28, (28, "no room"))


# --- from other processes -----------------------------------------------------------------------------------


class Deeper(DetectorError):
    """As in the file of a detector, which the parent does not load."""


class Odd(DetectorError):
    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name} has {number}")


def raising(error: str) -> Iterator[tuple[dict, bytes]]:
    """What a child does."""
    yield {}, b""
    raise {
        "parts": FilesError(**_PARTS),
        "video": VideoError("truncated", "x" * 5000),
        "array": FilesError(5, float("nan")),
    }[error]


def home(error: str) -> RemotError:
    with pytest.raises(RemotError) as caught:
        list(sandbox.call(f"{__name__}:raising", {"error": error}))
    return caught.value


@pytest.mark.slow
def test_a_child_sends_the_class_the_sentence_and_the_parts():
    assert alike(home("parts"), FilesError(**_PARTS))
    cut = home("video")
    assert isinstance(cut, VideoError) and cut.code == "truncated" and len(cut.detail) == 4000
    assert str(home("array")) == "nan"


def test_a_class_that_is_not_known_here_comes_as_the_nearest_above():
    report = sandbox._report(Deeper("no weights"))
    unknown = {**report, "classes": ["own.Deeper", *report["classes"][1:]]}
    assert alike(sandbox._error_from(unknown), DetectorError("no weights"))
    assert alike(sandbox._error_from(sandbox._report(Odd("it", 3))), DetectorError("it has 3"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": 3},
        {"classes": ["builtins.SystemExit", "os._exit"]},
        {"classes": [["remot_data.store.StoreError"]]},
        {"classes": ["remot_data.media.VideoError"], "args": ["no-code", "detail"]},
        {"classes": ["remot_data.media.VideoError"], "args": 3},
    ],
)
def test_what_is_no_report_is_a_crash(wrong):
    error = sandbox._error_from({"kind": "remot", "text": "words", "args": [], **wrong})
    assert isinstance(error, sandbox.ChildError) and (error.code, error.detail) == ("crashed", "words")


def _task(number: int) -> None:
    raise FilesError(**_PARTS) if number else VideoError("truncated", "a.mp4")


@pytest.mark.slow
def test_the_parts_come_out_of_a_pool_of_processes():
    with get_context("spawn").Pool(1) as pool:
        for number, error in enumerate((VideoError("truncated", "a.mp4"), FilesError(**_PARTS))):
            with pytest.raises(type(error)) as caught:
                pool.apply(_task, (number,))
            assert str(caught.value) == str(error)
            assert {part: getattr(caught.value, part) for part in PARTS} == {p: getattr(error, p) for p in PARTS}


# --- on the command line ------------------------------------------------------------------------------------


def _told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException) -> tuple[int, str]:
    """Status and stderr of a command that ends with an error."""

    def command(*args: object, **options: object) -> int:
        raise error

    monkeypatch.setattr(commands, "_called", lambda arguments: command)
    return cli.run(["stats"]), capsys.readouterr().err


class Held(RemotError):
    exit_status = 75


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (DetectorError("no [bold]weights[/bold]: :x:"), 2, "error: no [bold]weights[/bold]: :x:\n"),
        (DeviceLost("the card failed"), 2, "error: the card failed\n"),
        (Held("somebody holds it"), 75, "error: somebody holds it\n"),
        (FileNotFoundError(2, "No such file or directory", "a.mp4"), 2, "error: a.mp4: No such file or directory\n"),
        (PermissionError("only for others"), 2, "error: only for others\n"),
        (KeyboardInterrupt(), 130, "stopped; what is finished is kept: run the same command again to resume\n"),
        (typer.Exit(1), 1, ""),
    ],
)
def test_a_command_ends_with_one_sentence_and_a_status(monkeypatch, capsys, error, status, words):
    assert _told(monkeypatch, capsys, error) == (status, words)


@pytest.mark.parametrize("bug", [ZeroDivisionError("bug"), OSError(5, "I/O error"), RuntimeError("bug"), KeyError("k")])
def test_a_bug_is_not_hidden(monkeypatch, capsys, bug):
    with pytest.raises(type(bug)) as caught:
        _told(monkeypatch, capsys, bug)
    assert caught.value is bug and capsys.readouterr().err == ""
