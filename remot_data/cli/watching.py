"""Commands that say what is going on in a store, what changed in it, and what it looks like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from remot_data.cli.console import finish, out, progress_bars
from remot_data.cli.options import AsJson, StorePlace

if TYPE_CHECKING:
    from remot_data.care.status import Doing, Status, Writer


def status(store: StorePlace, as_json: AsJson = False) -> None:
    """Who builds or annotates a store, how far they are, how fast, how long still, and what failed lately."""
    from remot_data.care.status import status as run
    from remot_data.store import Store

    found = run(Store(store))
    for line in _status_lines(found):
        out.print(escape(line))
    finish(found.to_json(), as_json)


def _status_lines(found: Status) -> list[str]:
    lines = [
        f"{found.store}: {found.clips} clips, {found.frames} frames, {found.written} of {found.shards} shards written, "
        f"{found.rejects} refused"
    ]
    lines += [f"  {layer}: {count} of {found.shards} shards" for layer, count in found.layers.items()]
    lines += [line for writer in found.writers for line in _writer_lines(writer)] or ["nobody is writing"]
    if found.lately:
        lines += ["failed lately:", *(f"  {text}" for text in found.lately)]
    return lines


def _writer_lines(writer: Writer) -> list[str]:
    what = "the store" if writer.lock == "store" else f"layer {writer.lock}"
    who = f"process {writer.pid} on {writer.host}"
    if not writer.alive:
        gone = f"{who} was writing {what} and is gone, {_span(writer.silent)} since its last sign of life"
        return [f"{gone}: run the same command again to resume", *(f"  {_stage(d)}" for d in writer.doing)]
    return [f"{who} is writing {what}", *(f"  {_stage(d)}" for d in writer.doing)]


def _stage(doing: Doing) -> str:
    ended = doing.done >= doing.total
    rate = f", {doing.rate:.3g}/s" if doing.rate else ""
    left = f", {_span(doing.left)} left" if doing.left and not ended else ""
    return f"{doing.what}: {doing.done} of {doing.total} in {_span(doing.seconds)}{rate}{left}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def diff(
    store: StorePlace,
    a: Annotated[str, typer.Argument(help="A snapshot, or what it was: main@2026-11-27, main@2026-11-27T14:30 (UTC).")],
    b: Annotated[str, typer.Argument(help="Likewise.")] = "main",
    other: Annotated[str | None, typer.Option("--in", help="The store that B is in, where it is another.")] = None,
    to: Annotated[Path | None, typer.Option("--out", help="An HTML page to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """What changed from A to B: clips, frames, splits, layers, filters."""
    from remot_data.care.diff import State, sentences
    from remot_data.care.diff import diff as run
    from remot_data.report.changes import write_page
    from remot_data.store import open_store

    opened = open_store(store)
    found = run(State(opened, a), State(open_store(other) if other else opened, b))
    for line in sentences(found):
        out.print(escape(line))
    if to is not None:
        write_page(found.to_json(), to)
        out.print(f"wrote {to}")
    finish(found.to_json(), as_json)


def card(
    store: StorePlace,
    to: Annotated[
        Path | None, typer.Option("--out", help="The folder to write to; the store's own by default.")
    ] = None,
    snapshot: Annotated[str, typer.Option(help="Whose layers and filter are told.")] = "main",
) -> None:
    """Write README.md for the Hugging Face Hub, and Croissant: counts, licences, how it was made, what is wrong."""
    from remot_data.care.card import write_card
    from remot_data.store import open_store

    doubts = write_card(open_store(store), to, snapshot)
    for sentence in doubts:
        out.print(escape(f"note: {sentence}"))
    out.print(f"wrote {to or store}/README.md and croissant.json")


def publish(
    store: StorePlace,
    url: Annotated[str, typer.Argument(help="hf://datasets/ORG/NAME, with @BRANCH for another branch than main.")],
    snapshot: Annotated[str, typer.Option(help="Whose layers and filter the card tells.")] = "main",
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public; private by default.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="In public also where licences are not clear.")] = False,
    as_json: AsJson = False,
) -> None:
    """Upload a store with its card to the Hugging Face Hub; what is there already is left, so it resumes."""
    import tempfile

    from remot_data.care.card import write_card
    from remot_data.exchange.publish import PublishError
    from remot_data.exchange.publish import publish as run
    from remot_data.store import open_store

    opened = open_store(store)
    with tempfile.TemporaryDirectory() as folder, progress_bars() as progress:
        doubts = write_card(opened, folder, snapshot, url)
        for sentence in doubts:
            out.print(escape(f"note: {sentence}"))
        if public and doubts and not anyway:
            raise PublishError("the licences are not clear (see the notes): leave --public out, or give --anyway too")
        done = run(opened, url, Path(folder), private=not public, progress=progress)
    out.print(
        escape(f"{done.url}: {done.sent} of {done.files} files sent, {done.bytes:,} bytes, {done.commits} commits")
    )
    finish(done.to_json(), as_json)


def view(
    store: StorePlace,
    clip: Annotated[str, typer.Argument(help="The id of a clip, or its beginning; `remot stats --clips` lists them.")],
    to: Annotated[Path, typer.Option("--out", help="The video to write.")] = Path("clip.mp4"),
    layer: Annotated[
        list[str] | None,
        typer.Option(help="A kind of the snapshot, or kind=ID; each beside the other. All of the snapshot by default."),
    ] = None,
    snapshot: Annotated[str, typer.Option(help="Whose layers.")] = "main",
    sound: Annotated[bool, typer.Option(help="Take the sound of the source video, where it is there.")] = True,
) -> None:
    """Write a clip as a video, with layers drawn beside the frames."""
    from remot_data.report.film import write_film
    from remot_data.store import open_store

    with progress_bars() as progress:
        made = write_film(open_store(store), clip, to, layers=layer, snapshot=snapshot, sound=sound, progress=progress)
    out.print(escape(f"wrote {to}: {made}"))
