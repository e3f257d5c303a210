"""All commands in the order of the help, those of other packages, and a run of several by a recipe."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from functools import wraps
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.markup import escape

from remot_data import assets
from remot_data.cli import building, care, layers, reading, watching
from remot_data.cli.console import err, reported, stopped
from remot_data.engine import EngineError
from remot_data.store import StoreError

HELP = """Turn dance videos into checked, annotated training data, train REMOT on it, and run what was trained.

Exit status 0: done. 1: done, but something was refused or found wrong, and is listed. 2: cannot run, and why.
"""


def _typer() -> typer.Typer:
    made = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=HELP)
    made.callback()(lambda: None)  # else one command alone would not be called by its name
    return made


app = _typer()

app.command()(building.build)
app.command()(layers.annotate)
app.command()(layers.snapshot)
app.command()(layers.compare)
app.command()(watching.status)
app.command()(watching.diff)
app.command()(care.remove)
app.command()(care.compact)
app.command()(care.relocate)
app.command()(care.verify)
app.command("import")(building.import_files)
app.command()(reading.export)
app.command()(reading.stream)
app.command()(care.check)
app.command()(care.doctor)
app.command()(reading.stats)
app.command()(reading.report)
app.command()(watching.view)
app.command()(watching.card)
app.command()(watching.publish)
app.command()(building.synthetic)
app.command()(layers.detectors)
app.command()(care.assets)


@app.command("run")
def run_recipe(
    recipe: Annotated[Path, typer.Argument(help="A YAML file with 'steps', each a remot command line.")],
    setting: Annotated[list[str] | None, typer.Option("--set", help="name=value, fills {name} in the steps.")] = None,
) -> None:
    """Run the steps of a recipe in order; stops at the first that cannot run."""
    import yaml

    try:
        content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        steps, values = list(content["steps"]), dict(content.get("settings") or {})
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise StoreError(f"{recipe} is no recipe with a list of 'steps' ({error})") from error
    values.update(item.partition("=")[::2] for item in setting or [])
    values.update(here=str(recipe.parent), assets=_Assets())
    worst = 0
    for step in steps:
        try:
            line = step.format(**values)
        except KeyError as missing:
            raise StoreError(f"{recipe} needs a value: --set {missing.args[0]}=...") from missing
        err.print(f"[bold]remot {escape(line)}[/bold]")
        code = invoke(shlex.split(line))
        worst = max(worst, code)
        if code >= 2:
            break
    raise typer.Exit(worst)


class _Assets:
    """Lets a recipe write {assets[NAME]} for the path of a fetched asset."""

    def __getitem__(self, name: str) -> str:
        return shlex.quote(str(assets.fetch(name)))


def invoke(arguments: list[str]) -> int:
    called = _called(arguments)
    try:
        with reported():
            code = called(arguments, standalone_mode=False)
    except typer.Exit as end:
        return end.exit_code
    except typer.exceptions.TyperException as error:
        cast(Any, error).show()  # those that a command line raises have it
        return 2
    except KeyboardInterrupt:
        code = 130
    if code == 130:
        stopped()
    return code if isinstance(code, int) else 0


def _called(arguments: list[str]) -> typer.Typer:
    """All commands, or only the one that is called by its name: Typer builds what it has, which takes long for all."""
    alone = _typer()
    if not any([_name(known)] == arguments[:1] for known in app.registered_commands):
        _add_commands()
    alone.registered_commands = [known for known in app.registered_commands if [_name(known)] == arguments[:1]]
    called = alone if alone.registered_commands else app
    for known in called.registered_commands:
        if known.callback and not hasattr(known.callback, "__wrapped__"):
            known.callback = _with_finite_numbers(known.callback)
    return called


def _name(command: typer.models.CommandInfo) -> str:
    return command.name or (command.callback.__name__ if command.callback else "")


def _add_commands() -> None:
    """Add the commands other packages offer, such as `remot train`, once."""
    names = {_name(command) for command in app.registered_commands}
    for point in entry_points(group="remot.commands"):
        if point.name not in names:
            try:
                command = point.load()
            except ImportError as error:
                command = _unavailable(point.name, error)
            app.command(point.name)(command)


def _with_finite_numbers(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that refuses ``nan`` and ``inf`` for every number, which typer takes."""

    @wraps(command)
    def checked(**options: Any) -> Any:
        for name, value in options.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise typer.BadParameter(f"{value} is no number that can be meant", param_hint=f"--{name}")
        return command(**options)

    return checked


def _unavailable(name: str, error: ImportError) -> Any:
    def command() -> None:
        raise EngineError(f"`remot {name}` cannot be imported: {error}")

    command.__doc__ = f"Not available: {error}"
    return command
