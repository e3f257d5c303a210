"""Commands that read a store: for training, for other projects, for a look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from remot_data.cli.console import finish, out, progress_bars
from remot_data.cli.options import (
    AsJson,
    Scheduler,
    StorePlace,
    Workers,
    size_of,
)
from remot_data.errors import RemotError


def stream(
    stores: Annotated[list[str], typer.Argument(help="A store, or several that are mixed.")],
    plan: Annotated[bool, typer.Option("--plan", help="Say what an epoch reads and how well it is mixed.")] = False,
    snapshot: Annotated[str, typer.Option(help="The snapshot to read.")] = "main",
    split: Annotated[str, typer.Option(help="The split to read; 'all' for every frame.")] = "train",
    layer: Annotated[list[str] | None, typer.Option(help="Kinds to read apart from frames; all by default.")] = None,
    weight: Annotated[list[float] | None, typer.Option(help="For each store, how much of it an epoch shows.")] = None,
    length: Annotated[int, typer.Option(min=1, help="Frames of a window.")] = 6,
    max_step: Annotated[int, typer.Option(min=1, help="Frames of a window lie 1 to so many apart.")] = 1,
    open_shards: Annotated[int, typer.Option(min=1, help="Shards that are shuffled together.")] = 16,
    batch: Annotated[int, typer.Option(min=1, help="Windows in a batch.")] = 8,
    world_size: Annotated[int, typer.Option(min=1, help="Processes that share the batches; this is the first.")] = 1,
    threads: Annotated[int | None, typer.Option(min=0, help="Threads that decode; one a CPU.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode, instead of threads.")] = 0,
    size: Annotated[str | None, typer.Option(help="Height x width to resize to.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder to keep what is read of remote stores in.")] = None,
    cache_gb: Annotated[float, typer.Option(help="Size of that folder.")] = 50.0,
    windows: Annotated[int, typer.Option(min=1, help="How many to read.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal orders.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Read windows as training does, and say how fast; with --plan, say what training will read, and read none."""
    from remot_data.reading import preview
    from remot_data.reading.loader import Loader
    from remot_data.reading.stream import Plan
    from remot_data.store.cache import Cache

    try:
        made = Plan(
            stores,
            snapshot,
            None if split == "all" else split,
            layer,
            length,
            seed=seed,
            weights=weight,
            max_step=max_step,
            open_shards=open_shards,
            cache=Cache(cache, cache_gb * 1e9) if cache else None,
        )
    except RemotError:
        raise
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        shared: dict[str, Any] = {"world_size": world_size, "threads": threads, "workers": workers, "last": "through"}
        loader = Loader(made, batch, size=size_of(size) if size else None, **shared)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    found = preview.describe(loader) if plan else preview.measure(loader, windows)
    for line in preview.sentences(found):
        out.print(line)
    finish(found, as_json)


def export(
    store: StorePlace,
    form: Annotated[
        str,
        typer.Option(
            "--to",
            help="webdataset, coco, croissant, solodance, diffsynth, animate-anyone, musepose, vid2vid, "
            "vid2vid-labels, lerobot.",
        ),
    ],
    to: Annotated[Path, typer.Option("--out", help="The folder to make.")],
    snapshot: Annotated[str, typer.Option(help="What to export: its layers, its filter.")] = "main",
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
) -> None:
    """Write a snapshot in another project's format."""
    from remot_data.exchange.exports import export as run
    from remot_data.store import open_store

    with progress_bars() as progress:
        done = run(
            open_store(store), form, to, snapshot=snapshot, workers=workers, scheduler=scheduler, progress=progress
        )
    out.print(f"{done.out}: {done.clips} clips, {done.frames} frames as {done.to} ({done.left_out} frames left out)")
    finish(done.to_json(), as_json)


def stats(
    store: StorePlace,
    clips: Annotated[bool, typer.Option("--clips", help="List every clip.")] = False,
    as_json: AsJson = False,
) -> None:
    """Counts, sizes, layers and timing of a store."""
    from remot_data.store import open_store
    from remot_data.store.content import stats as run

    opened = open_store(store)
    found = run(opened)
    if clips:
        for clip in opened.clips:
            out.print(escape(f"{clip.id}  {clip.frames} frames  video {clip.video}  {clip.split}  {clip.path}"))
    table = Table(show_header=False, box=None)
    for name in ("videos", "clips", "removed", "persons", "frames", "seconds_of_video", "shards", "splits"):
        table.add_row(name.replace("_", " "), str(found[name]))
    table.add_row("frames bytes", f"{found['bytes']['frames']:,}")
    for layer in found["layers"]:
        failed = f", {layer['failed']} clips failed" if layer["failed"] else ""
        failed += f", stale: {layer['stale']}; annotate it again" if layer["stale"] else ""
        about = f"{layer['schema']}{', approximate' if layer['approximate'] else ''}"
        table.add_row(f"{layer['kind']} layer", f"{layer['id']} ({about}), {layer['bytes']:,} bytes" + failed)
    for name, value in found["snapshots"].items():
        table.add_row(f"snapshot {name}", f"where {value['where'] or 'everything'}, split {value['split']}")
    out.print(table)
    finish(found, as_json)


def report(
    store: StorePlace,
    to: Annotated[Path, typer.Option("--out", help="The HTML file to write.")] = Path("report.html"),
    run: Annotated[list[Path] | None, typer.Option(help="Run folders of training to show.")] = None,
    clips: Annotated[int, typer.Option(help="Most clips on the contact sheet.")] = 24,
    beside: Annotated[
        list[str] | None, typer.Option(help="kind=ID, a layer to show next to that of the snapshot; repeat it.")
    ] = None,
) -> None:
    """Write one self-contained HTML page about a store: what went in, what was refused, what the layers look like."""
    from remot_data.report import write_report
    from remot_data.store import open_store

    shown = dict(item.partition("=")[::2] for item in beside or [])
    write_report(open_store(store), to, runs=run or [], most_clips=clips, beside=shown)
    out.print(f"wrote {to}")
