"""Commands about layers and choices of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from remot_data.cli.console import err, finish, out, print_failed, progress_bars
from remot_data.cli.events import Events, Metrics, watched
from remot_data.cli.options import (
    AsJson,
    Gpus,
    PlanOnly,
    Price,
    Scheduler,
    StorePlace,
    Wait,
    Workers,
    rows_of,
    say_approximate,
    say_planned,
    say_source,
    settings_of,
    tell,
)
from remot_data.detectors._torch import only_gpus
from remot_data.store import StoreError


def annotate(
    store: StorePlace,
    layer: Annotated[str, typer.Option(help="Kind of layer: pose, parsing, flow, background or scores.")],
    detector: Annotated[str, typer.Option("--with", help="A name of `remot detectors`, or path/to/file.py:Class.")],
    weights: Annotated[Path | None, typer.Option(help="Weights file in place of the default.")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="name=value, a setting of the detector.")] = None,
    read: Annotated[str, typer.Option("--from", help="frames (the stored), source, or source:ROWS.")] = "frames",
    snapshot: Annotated[str | None, typer.Option(help="Switch this snapshot to the new layer.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try the clips again that the detector failed on.")] = False,
    wait: Wait = False,
    workers: Workers = None,
    gpus: Gpus = None,
    scheduler: Scheduler = None,
    events: Events = None,
    metrics: Metrics = None,
    plan: PlanOnly = False,
    price: Price = None,
    as_json: AsJson = False,
) -> None:
    """Make one layer with a detector, for every shard that lacks it, and nothing else."""
    from remot_data.annotating.annotate import annotate as run
    from remot_data.annotating.jobs import Job
    from remot_data.care.planned import Clock

    settings = settings_of(setting or [])
    if workers != 0 and str(settings.get("device")).startswith("cuda:"):
        raise typer.BadParameter(
            f"--setting device={settings['device']} is for --workers 0; a worker sees one GPU, and --gpus says which"
        )
    if plan:
        from remot_data.care.forecast import of_annotate

        told: dict[str, Any] = {
            "weights": str(weights) if weights else None,
            "settings": settings,
            "source": rows_of(read),
        }
        tell(of_annotate(store, layer, detector, **told), price, as_json, store, layer, detector, workers=workers)
        return
    clock = None if scheduler else Clock("annotate", store, layer, detector, workers=workers)
    with only_gpus(gpus), progress_bars() as bars, watched("annotate", store, bars, events, metrics) as progress:
        say_approximate([Job(layer, detector, weights=str(weights) if weights else None, settings=settings)])
        summary = run(
            store,
            layer,
            detector,
            weights=str(weights) if weights else None,
            settings=settings,
            source=rows_of(read),
            snapshot=snapshot,
            retry=retry,
            wait=wait,
            workers=workers,
            scheduler=scheduler,
            progress=progress,
        )
        progress.finished(summary.to_json())
    out.print(f"{summary.layer} layer {summary.id}: {summary.computed} of {summary.shards} shards computed")
    if read == "auto":
        say_source(layer, summary.source)
    print_failed({layer: summary.failed})
    if clock:
        say_planned(clock, {layer: summary.seconds}, store)
    finish(summary.to_json(), as_json, 1 if summary.failed else 0)


def snapshot(
    store: StorePlace,
    name: str,
    layer: Annotated[list[str] | None, typer.Option(help="kind=id; the beginning of an id will do.")] = None,
    where: Annotated[str | None, typer.Option(help="Filter, for example 'jumps<=0.05 and swapped<=0'.")] = None,
    split: Annotated[str | None, typer.Option(help="Split policy: 'column' or 'time:F'.")] = None,
    where_ids: Annotated[
        str | None,
        typer.Option(help="CSV, Parquet or text with ids of clips, or keys of frames, that alone are read; or 'none'."),
    ] = None,
) -> None:
    """Name a choice of layers and a filter; training reads it by name. Starts from the one there is, or from main."""
    from remot_data.annotating.annotate import switch
    from remot_data.reading.filters import ids_of
    from remot_data.reading.filters import where as allowed
    from remot_data.reading.sampling import split_mask
    from remot_data.store import open_store
    from remot_data.store.history import note

    opened = open_store(store)
    chosen = {kind: opened.layer(kind, i).id for kind, _, i in (item.partition("=") for item in layer or [])}
    if split is not None:
        try:
            split_mask(1, split, "train", "")
        except ValueError as error:
            raise StoreError(str(error)) from error
    ids: Any = "as before"
    if where_ids is not None:
        ids = None if where_ids == "none" else ids_of(Path(where_ids), opened)
    planned = switch(opened, name, chosen, where, split, write=False, ids=ids)
    kept = sum(int(allowed(planned, opened, clip).sum()) for clip in opened.clips)
    opened.write_snapshot(planned)
    note(opened, "snapshot", **planned.to_json())
    total = sum(clip.frames for clip in opened.clips)
    out.print(f"snapshot {name}: {kept} of {total} frames pass; layers {json.dumps(planned.layers)}")


def compare(
    store: StorePlace,
    a: Annotated[str, typer.Argument(help="Id of a layer, or its beginning.")],
    b: Annotated[str, typer.Argument(help="Id of another layer of that kind.")],
    layer: Annotated[str, typer.Option(help="Kind of layer: pose, parsing or flow.")],
    to: Annotated[Path, typer.Option("--out", help="Folder for agreement.parquet and index.html.")] = Path("compare"),
    fail_below: Annotated[float | None, typer.Option(help="End with status 1 if they agree less than this.")] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
) -> None:
    """Show how far two layers of one kind agree, by clip and frame, the worst frames first."""
    from remot_data.care.compare import compare as run
    from remot_data.store import open_store

    with progress_bars() as progress:
        made = run(open_store(store), layer, a, b, to, workers=workers, scheduler=scheduler, progress=progress)
    out.print(f"{made.a} and {made.b}: agreement {made.agreement:.4f} over {made.frames} frames of {made.clips} clips")
    out.print(", ".join(f"{name} {value:.4g}" for name, value in made.measures.items()))
    out.print(f"wrote {to / 'index.html'} and {made.table}")
    failed = fail_below is not None and made.agreement < fail_below
    if failed:
        err.print(f"[red]wrong[/red] the agreement is below {fail_below}")
    finish(made.to_json(), as_json, 1 if failed else 0)


def detectors() -> None:
    """List the detectors, and which library, extra and weights each needs."""
    from remot_data.detectors.base import DEFAULTS, FINDERS, SHOTS, known
    from remot_data.ingest.people import default_finder

    defaults = {**DEFAULTS, "persons": default_finder()}
    table = Table("name", "layer", "default", "library", "needs", box=None)
    for name, entry in sorted(
        [*known().items(), *FINDERS.items(), *SHOTS.items()], key=lambda item: (item[1].kind, item[0])
    ):
        needs = ", ".join([entry.install] * bool(entry.install) + list(entry.weights))
        default = "yes" if defaults.get(entry.kind) == name else ""
        library = "here" if entry.is_here else "missing"
        table.add_row(name, entry.kind, default, library, escape(needs or "nothing more"))
    out.print(table)
