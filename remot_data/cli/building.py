"""Commands that put something into a store: videos, drawn dancers, files of other tools."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

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
    chosen_layers,
    rows_of,
    say_approximate,
    say_planned,
    say_source,
    settings_of,
    size_of,
    tell,
)
from remot_data.detectors._torch import only_gpus
from remot_data.records import PASSING


def build(
    videos: Annotated[list[Path], typer.Argument(help="Videos, folders of videos, or manifests (.yaml).")],
    to: Annotated[str, typer.Option("--out", help="The store to make, to resume, or to add to.")],
    size: Annotated[str | None, typer.Option(help="Height x width of the stored frames; 256x192.")] = None,
    fps: Annotated[str | None, typer.Option(help="Frames a second, or 'source' (the default).")] = None,
    margin: Annotated[float | None, typer.Option(help="Room around the person, as a share of its height; 0.1.")] = None,
    min_frames: Annotated[int | None, typer.Option(help="A shorter shot is refused; 16.")] = None,
    max_frames: Annotated[int | None, typer.Option(help="A longer shot becomes several clips; 600.")] = None,
    min_height: Annotated[int | None, typer.Option(help="Least height of the person in source pixels; 64.")] = None,
    max_gap: Annotated[
        str | None, typer.Option(help="Seconds; where the recording pauses longer a clip is split, or 'none'; 0.5.")
    ] = None,
    shard_frames: Annotated[int | None, typer.Option(help="Frames after which a shard is full; 4096.")] = None,
    test: Annotated[float | None, typer.Option(help="Share of the videos whose split is 'test'; 0.1.")] = None,
    decoder: Annotated[str | None, typer.Option(help="pyav, or decord where it was proved to agree.")] = None,
    persons: Annotated[str | None, typer.Option(help="Whose clips are made: all (the default), or main.")] = None,
    finder: Annotated[
        str | None,
        typer.Option(help="What finds the persons: ssd, blazepose, ultralytics[:model or file], file.py:Class."),
    ] = None,
    outside: Annotated[
        str | None, typer.Option(help="What a crop shows where it has to reach out of the picture: black, blur, smear.")
    ] = None,
    shots: Annotated[str | None, typer.Option(help="What finds the shots: contrast (the default), transnetv2.")] = None,
    rule: Annotated[list[str] | None, typer.Option(help="name=value, any other field of the policy.")] = None,
    split: Annotated[str | None, typer.Option(help="Split policy of the snapshot: 'column' or 'time:F'.")] = None,
    where: Annotated[
        str | None,
        typer.Option(help="Filter of the snapshot, '' for none. New stores have one against wrong frames."),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data, in place of the manifest's root.")] = None,
    retry: Annotated[str, typer.Option(help="Reason codes (a,b): what was refused for them is tried again.")] = "",
    limit_rejects: Annotated[float | None, typer.Option(help="Stop when a larger share of inputs is refused.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds without a frame after which a video is given up.")] = 120.0,
    memory: Annotated[float, typer.Option(help="GiB that reading one video may take.")] = 4.0,
    no_layers: Annotated[bool, typer.Option("--no-layers", help="Write frames only.")] = False,
    layer: Annotated[list[str] | None, typer.Option(help="kind=detector, in place of the default; repeat it.")] = None,
    weights: Annotated[list[str] | None, typer.Option(help="kind=FILE, weights of a detector of --layer.")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="kind.name=value, a setting of one of --layer.")] = None,
    read: Annotated[str, typer.Option("--from", help="What poses are looked for in, as for annotate.")] = "auto",
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
    """Build a store: decode, find the persons, crop to each, write frames, run the default layers.

    If the store exists, the build resumes, and new videos are added; options that are not given stay as they were.
    """
    from remot_data.annotating.jobs import Job
    from remot_data.care.planned import Clock
    from remot_data.detectors.base import DEFAULTS
    from remot_data.ingest.build import build as run
    from remot_data.ingest.build import stored_policy
    from remot_data.ingest.inputs import load_manifest
    from remot_data.ingest.policy import Policy
    from remot_data.media.sandbox import Limits
    from remot_data.records import OUTSIDE
    from remot_data.store import open_store

    given = {
        "size": size and size_of(size),
        "margin": margin,
        "min_frames": min_frames,
        "max_frames": max_frames,
        "min_height": min_height,
        "shard_frames": shard_frames,
        "test": test,
        "decoder": decoder,
        "persons": persons,
        "outside": outside,
        **settings_of(rule or []),
    }
    given = {name: value for name, value in given.items() if value is not None}
    if fps is not None:
        given["fps"] = None if fps == "source" else _rate(fps)
    if max_gap is not None:
        given["max_gap"] = None if max_gap == "none" else _seconds("--max-gap", max_gap)
    unknown = sorted(set(given) - {f.name for f in dataclasses.fields(Policy)} | {"finder", "shots"} & set(given))
    if unknown:
        raise typer.BadParameter(f"--rule: the policy has no field {', '.join(unknown)}")
    if given.get("persons", "all") not in ("all", "main"):
        raise typer.BadParameter(f"--persons is all or main, not {given['persons']!r}")
    if given.get("outside", OUTSIDE[0]) not in OUTSIDE:
        raise typer.BadParameter(f"--outside is {', '.join(OUTSIDE)}, not {given['outside']!r}")
    if given.get("decoder", "pyav") not in ("pyav", "decord"):
        raise typer.BadParameter(f"--decoder is pyav or decord, not {decoder!r}")
    for path in (p for p in videos if p.suffix in (".yaml", ".yml") and p.exists()):
        for sentence in load_manifest(path, root).shortfall():
            err.print(f"note: {sentence}")
    instead = chosen_layers(layer or [], weights or [], setting or [])
    if no_layers and instead:
        raise typer.BadParameter("--no-layers makes none: leave it or --layer out")
    stored = stored_policy(to)
    chosen: dict[str, Any] = {
        "policy": dataclasses.replace(stored or Policy(), **given),
        "layers": {} if no_layers else None,
        "instead": instead,
        "root": root,
        "finder": finder,
        "shots": shots,
        "source": rows_of(read),
    }
    if plan:
        from remot_data.care.forecast import of_build

        tell(of_build(videos, to, **chosen), price, as_json, to, *videos, workers=workers)
        return
    clock = None if scheduler else Clock("build", to, *map(str, videos), workers=workers)
    if decoder == "decord":
        err.print("note: files where decord is not proved to give the same frames are read with PyAV")
    with only_gpus(gpus), progress_bars() as bars, watched("build", to, bars, events, metrics) as progress:
        if not no_layers:
            defaults = [Job(kind, spec) for kind, spec in DEFAULTS.items()] if stored is None else []
            say_approximate({job.kind: job for job in (*defaults, *instead)}.values())
        summary = run(
            videos,
            to,
            split=split,
            where=where,
            retry=[code for code in retry.split(",") if code],
            limit_rejects=limit_rejects,
            limits=Limits(stall=timeout, memory=int(memory * 2**30)),
            wait=wait,
            workers=workers,
            scheduler=scheduler,
            progress=progress,
            **chosen,
        )
        progress.finished(summary.to_json())
    _print_build(summary)
    if stored is None and read == "auto" and (pose := summary.layers.get("pose")):
        say_source("pose", open_store(to).layer("pose", pose).source)
    say_where_all_clips_are(to)
    if clock:
        say_planned(clock, summary.seconds, to)
    finish(summary.to_json(), as_json, 1 if summary.rejects or summary.failed else 0)


def _seconds(option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise typer.BadParameter(f"{option} takes seconds, more than 0, not {text!r}")
    return value


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

    with progress_bars() as progress:
        made = build_synthetic(to, dancers, frames, test, size_of(size), shard_frames, seed, workers, progress)
    out.print(f"{made.url}: {len(made.clips)} dancers, {sum(c.frames for c in made.clips)} frames")


def import_files(
    store: StorePlace,
    source: Annotated[Path, typer.Argument(help="A folder of files, or a manifest with 'layers'.")],
    layer: Annotated[str | None, typer.Option(help="Kind of layer: pose, parsing or flow.")] = None,
    form: Annotated[str | None, typer.Option(help="openpose, labels, flo-backward or flo-forward.")] = None,
    schema: Annotated[str | None, typer.Option(help="Label or keypoint set of the files.")] = None,
    first: Annotated[int | None, typer.Option(help="Number of the first frame in the file names, 0 or 1.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second of what the files were made from.")] = None,
    missing: Annotated[
        str, typer.Option(help="'none': nobody is in frames after the last file. 'refuse': such a video is refused.")
    ] = "refuse",
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

    run: dict[str, Any] = {"snapshot": snapshot, "wait": wait, "workers": workers, "scheduler": scheduler}
    run |= {"first": first, "fps": fps, "missing": missing}
    with progress_bars() as progress:
        if source.suffix in (".yaml", ".yml"):
            done = import_manifest(open_store(store), source, root, progress=progress, **run)
        elif layer and form:
            told: dict[str, Any] = {"form": form, "schema": schema, "name": name}
            done = [import_layer(open_store(store), layer, source, progress=progress, **told, **run)]
        else:
            raise typer.BadParameter("a folder needs --layer and --form")
    for summary in done:
        nobody = f", {summary.nobody} of them with nobody ({summary.absent} without a file)" if summary.nobody else ""
        out.print(f"{summary.layer} layer {summary.id}: {summary.frames} frames{nobody}")
        print_failed({summary.layer: summary.failed})
        if summary.refused and snapshot:
            out.print(f"snapshot {snapshot} stays as it is: files of {len(summary.refused)} clips do not fit")
    finish({"layers": [d.to_json() for d in done]}, as_json, 1 if any(d.failed for d in done) else 0)


def _rate(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"--fps is a number or 'source', not {text!r}") from None


def say_where_all_clips_are(url: str, snapshot: str = "main") -> None:
    """Say it where every clip is in the split that training does not read, and what changes that."""
    from remot_data.store import open_store

    store = open_store(url)
    splits = {clip.split for clip in store.clips}
    if splits == {"test"} and (snapshot not in store.snapshots or store.snapshot(snapshot).split == "column"):
        out.print(
            "all clips are in the split test, into which a share of the videos is drawn (--test, for new stores): "
            "train on them by `remot train --split test`, or divide each by time: "
            f"`remot snapshot {escape(url)} {escape(snapshot)} --split time:0.1`"
        )


def _print_build(summary: Any) -> None:
    frames = summary.frames
    out.print(
        f"{summary.store}: {summary.inputs} inputs = {summary.videos} kept + {summary.refused} refused"
        + (f" ({summary.ignored} other files skipped)" if summary.ignored else "")
    )
    out.print(
        f"{frames['decoded']} frames = {frames['kept']} kept + {frames['refused']} refused + "
        f"{frames['resampled']} left out by the frame rate; {summary.clips} clips in {summary.shards} shards"
    )
    if persons := summary.person_frames:
        why = ", ".join(f"{code} {number}" for code, number in persons["refused"].items())
        refused = sum(persons["refused"].values())
        out.print(
            f"{persons['seen']} frames of persons = {persons['kept']} kept + {refused} refused"
            + f" ({why})" * bool(why)
        )
    for reject in summary.rejects:
        out.print(escape(f"refused {reject['what']} {reject['id']}: {reject['code']} ({reject['detail']})"))
    for note in summary.notes:
        out.print(escape(f"note: {note}"))
    codes = {reject["code"] for reject in summary.rejects}
    if again := sorted(codes & {"crashed", "timeout", "out-of-memory"}):
        out.print(f"to try again what was refused for it: the same command with --retry {','.join(again)}")
    if codes & PASSING:
        out.print("what was unavailable is tried again by the same command")
    if summary.where:
        out.print(f"training reads the frames with {summary.where}; `remot check` tells which they are", markup=False)
    print_failed(summary.failed)
