"""Options that several commands have, and what their texts mean."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remot_data.cli.console import err, finish, out

if TYPE_CHECKING:
    from remot_data.annotating.jobs import Job
    from remot_data.care.planned import Clock, Forecast

StorePlace = Annotated[
    str,
    typer.Argument(metavar="STORE", help="Its folder, or s3://BUCKET/NAME and the like; to read also https://..."),
]
Workers = Annotated[
    int | None, typer.Option(help="Local worker processes, in addition to one per GPU; 0 runs everything in this one.")
]
Scheduler = Annotated[str | None, typer.Option(help="Address of a running dask scheduler, tcp://host:port.")]
Gpus = Annotated[str | None, typer.Option(help="GPUs to use, as 0,1 or their UUIDs, or none; all by default.")]
Wait = Annotated[bool, typer.Option("--wait", help="If somebody else is writing, wait until they are done.")]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Say what would be done and what it takes, and do nothing.")]
Price = Annotated[str | None, typer.Option(help="With --plan: what a GPU costs, as 2.5/gpu-h.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON line at the end.")]


def say_approximate(jobs: Iterable[Job]) -> None:
    """Say once, at the start, where a detector only approximates."""
    for job in jobs:
        if job.detector().approximate:
            err.print(f"note: the {job.kind} detector {job.spec!r} is approximate; see docs for what it stands in for")


def say_source(kind: str, rows: int) -> None:
    """Say which frames were chosen for a layer where nobody said it."""
    if rows:
        err.print(f"note: {kind} was looked for in the source videos, at most {rows} rows high (or --from frames)")
    elif kind == "pose":
        err.print("note: pose was looked for in the stored frames; with the source videos of all clips it is better")


def chosen_layers(layers: list[str], weights: list[str], settings: list[str]) -> list[Job]:
    """The layers of --layer, --weights and --setting of `remot build`."""
    from remot_data.annotating.jobs import Job

    told = {"--layer kind=detector": layers, "--weights kind=FILE": weights, "--setting kind.name=value": settings}
    for form, items in told.items():
        wrong = [item for item in items if not all(item.partition("=")[::2])]
        if wrong:
            raise typer.BadParameter(f"{wrong[0]!r} is not of the form {form}")
    specs, files = (dict(item.partition("=")[::2] for item in items) for items in (layers, weights))
    given: dict[str, dict[str, Any]] = {}
    for name, value in settings_of(settings).items():
        kind, _, own = name.partition(".")
        given.setdefault(kind, {})[own] = value
    if spare := sorted((files.keys() | given.keys()) - specs.keys()):
        raise typer.BadParameter(f"--weights or --setting for {', '.join(spare)}, but no --layer {spare[0]}=detector")
    return [Job(kind, spec, weights=files.get(kind), settings=given.get(kind, {})) for kind, spec in specs.items()]


def settings_of(items: list[str]) -> dict[str, Any]:
    import yaml

    return {name: yaml.safe_load(value) for name, _, value in (item.partition("=") for item in items)}


def price_of(text: str | None) -> float | None:
    """What an hour of a GPU costs."""
    if text is None:
        return None
    number, _, unit = text.partition("/")
    try:
        price = float(number)
    except ValueError:
        price = -1.0
    if unit != "gpu-h" or not price > 0:
        raise typer.BadParameter(f"--price is of the form 2.5/gpu-h, not {text!r}")
    return price


def tell(
    made: Forecast, price: str | None, as_json: bool, *target: str | os.PathLike[str], workers: int | None = None
) -> None:
    """Print what `--plan` has found, and keep it for the run on its target."""
    from remot_data.care.planned import keep, sentences

    for line in sentences(made, workers, price_of(price)):
        out.print(line, markup=False)
    try:
        keep(made, *(os.fspath(part) for part in target))
    except OSError as error:
        err.print(f"note: the plan is not kept for comparison ({error.filename}: {error.strerror})", markup=False)
    finish(made.to_json(), as_json)


def say_planned(clock: Clock, stages: Mapping[str, float], store: str) -> None:
    """Put what was planned beside what it took, where something was: in the store's history, and in a sentence."""
    from remot_data.care.planned import sentence
    from remot_data.store import open_store
    from remot_data.store.history import note

    if pair := clock.beside(stages):
        note(open_store(store), "planned", **pair)
        out.print(sentence(pair))


def rows_of(read: str) -> int:
    """The most rows to read from the source videos, 0 for the stored frames, `jobs.AUTO` to have it chosen."""
    from remot_data.annotating.jobs import AUTO

    name, _, rows = read.partition(":")
    if name in ("auto", "frames") and not rows:
        return 0 if name == "frames" else AUTO
    if name != "source" or (rows and not rows.isdigit()):
        raise typer.BadParameter(f"--from is auto, frames, source or source:ROWS, not {read!r}")
    return int(rows or 768)


def size_of(text: str) -> tuple[int, int]:
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise typer.BadParameter(f"a size is HEIGHTxWIDTH, for example 256x192, not {text!r}") from None
    if min(height, width) < 16 or height % 2 or width % 2:
        raise typer.BadParameter(f"height and width are even and at least 16, not {text}")
    return height, width
