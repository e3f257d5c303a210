"""The commands ``remot train``, ``transfer``, ``evaluate``, ``export-onnx`` and ``app``.

Importing this module needs no torch: what does is imported when a command runs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from remot_data.cli.options import PlanOnly, Price, tell

if TYPE_CHECKING:
    from remot_model.config import Config

# What `pip install "remot[train]"` adds, by the names they are imported under.
_TRAIN_EXTRA = ("torch", "safetensors", "skimage", "tensorboard", "accelerate")


class Stage(str, Enum):
    """What `remot train --stage` takes."""

    layout = "layout"
    region = "region"
    whole = "whole"
    all = "all"


Json = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON, last.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, mps (untested), or auto: CUDA where there is one.")]
RunFolder = Annotated[Path, typer.Option("--run", help="A run folder that `remot train` wrote.")]
Stores = Annotated[list[str], typer.Argument(metavar="STORE...", help="One store or several, at any fsspec URL.")]


def train(
    stores: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STORE...", help="One store or several, at any fsspec URL; with --resume those of before."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run folder.")] = None,
    stage: Annotated[
        Stage | None, typer.Option(help="What to train; `all`, the default, goes through them in order.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="tiny, small or paper, with variants like :no-tam or :layout6; by default the run's, else small."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="Another value for a field of the configuration; repeatable."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Batches a stage, instead of the preset's.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Time for all stages together.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Windows in a batch, instead of the preset's.")] = None,
    features: Annotated[
        str | None,
        typer.Option(help="Perceptual features: auto, vgg19, vgg19:FILE, vgg16 or efficientnet-lite0."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last save, with all that was asked for before.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and augmentation; 0.")] = None,
    snapshot: Annotated[str | None, typer.Option(help="The snapshot to read; main.")] = None,
    split: Annotated[str | None, typer.Option(help="The split to read; train.")] = None,
    save_every: Annotated[int | None, typer.Option(min=1, help="Steps from one save to the next; 250.")] = None,
    workers: Annotated[
        str, typer.Option(help="Processes that read; 0 for threads, auto for what a GPU needs, or threads on a CPU.")
    ] = "auto",
    only_read: Annotated[
        float | None,
        typer.Option("--only-read", metavar="SECONDS", help="Train nothing: read as training does, and say how fast."),
    ] = None,
    plan: PlanOnly = False,
    price: Price = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train REMOT on the windows of one store or several.

    On several GPUs: `torchrun --nproc-per-node 8 --no-python remot train ... --batch 8`, or `accelerate launch` alike.
    """
    with _reported(), _together() as first:
        from remot_data.care.planned import Clock, sentence
        from remot_data.cli.console import Line, when_stopped
        from remot_model import devices
        from remot_model.training import journal, resuming
        from remot_model.training.reading import read_only
        from remot_model.training.train import train as run_training

        stages = None if stage is None else [] if stage is Stage.all else [stage.value]
        given: dict[str, Any] = {"stores": stores, "stages": stages, "snapshot": snapshot, "split": split}
        given |= {"steps": steps, "minutes": minutes, "save_every": save_every, "seed": seed}
        asked = resuming.asked(out if resume else None, given)
        if not (stores := asked.pop("stores")):
            _refuse("name a store to train from; only --resume knows which it was")
        devices.pick(device)  # before a store is opened, for its sentence
        config = _config(stores, out, preset, {"perceptual": features}, batch, settings or [])
        reading: dict[str, Any] = {name: asked.pop(name) for name in ("snapshot", "split", "seed")}
        reading |= {"device": device, "workers": _readers(workers)}
        if only_read is not None:
            names = asked["stages"] or config.stages
            rates = [read_only(stores, config=config, stage=name, seconds=only_read, **reading) for name in names]
            if first:
                _finish({"preset": config.name, "stages": rates}, as_json, "\n".join(map(_rate, rates)))
            return
        told = {name: asked[name] for name in ("stages", "steps", "minutes")}
        if plan:
            from remot_model.training.forecast import of_train

            target = (str(out), str(told)) if out else ()
            tell(of_train(stores, out, config=config, **told, **reading), price, as_json, *target)
            return
        if out is None:
            _refuse("training needs a run folder to write: give --out; only --only-read needs none")
        clock = Clock("train", str(out), str(told))
        line = Line() if sys.stderr.isatty() else None
        try:
            with when_stopped(partial(resuming.how_to_resume, out)):
                results = run_training(
                    stores,
                    out,
                    config=config,
                    resume=resume,
                    **asked,
                    **reading,
                    say=line.say if line else partial(typer.echo, err=True),
                    show=line.show if line else None,
                )
        finally:
            if line:
                line.end()
        summary = {"run": str(out), "preset": config.name, "stages": [dataclasses.asdict(r) for r in results]}
        if first:
            words = f"trained {', '.join(r.stage for r in results)} into {out}"
            if pair := clock.beside({r.stage: r.here for r in results}):
                journal.planned(out, pair)
                words += f"\n{sentence(pair)}"
            _finish(summary, as_json, words)


def transfer(
    run: RunFolder,
    source: Annotated[
        Path, typer.Option(help="Who appears: an image, a video whose first frame is taken, or a folder of these.")
    ],
    driving: Annotated[Path, typer.Option(help="Who moves: a video, a folder of its frames, or a folder of videos.")],
    out: Annotated[Path, typer.Option(help="The video to write: .mp4, .mkv or .mov; for folders a folder.")],
    background: Annotated[str, typer.Option(help="source, driving, black, or an image file.")] = "source",
    show: Annotated[
        str, typer.Option(help="Views in one picture, by comma: source, driving, pose, layout, gam, ..., result.")
    ] = "result",
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Short for --show source,driving,result.")
    ] = False,
    save: Annotated[
        str,
        typer.Option(help="Views to save next to OUT, by comma: layout, regions, coarse, mask, weight, aligned, ..."),
    ] = "",
    png: Annotated[bool, typer.Option("--png", help="Save them as folders of PNG instead of videos.")] = False,
    stages: Annotated[Path | None, typer.Option(help="A second video that shows every stage.")] = None,
    gam: Annotated[str, typer.Option(help="paper, or steady: by joints and smoothed over time.")] = "paper",
    region: Annotated[
        list[str] | None,
        typer.Option(metavar="REGION=SOURCE", help="Take top, bottom, head, limbs or shoes from another; repeatable."),
    ] = None,
    pairs: Annotated[str, typer.Option(help="For folders: all, or zip, in the order of their names.")] = "all",
    parallel: Annotated[int, typer.Option(min=1, help="For folders: pairs that are made at once.")] = 1,
    scale: Annotated[int, typer.Option(min=1, help="Enlarge the result so many times.")] = 1,
    start: Annotated[float | None, typer.Option(help="Second of the driving video to begin at.")] = None,
    end: Annotated[float | None, typer.Option(help="Second of the driving video to end at.")] = None,
    pose: Annotated[
        str, typer.Option("--pose-with", help="Pose detector, as `remot detectors` lists it.")
    ] = "blazepose",
    parsing: Annotated[
        str, typer.Option("--parsing-with", help="Parser, as `remot detectors` lists it.")
    ] = "pose-guided",
    person: Annotated[
        int | None, typer.Option(min=1, help="Who drives, where the video shows several: 1 for who is seen most.")
    ] = None,
    finder: Annotated[
        str | None, typer.Option(help="What finds the persons of the driving video: ssd, blazepose, ultralytics, ...")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Compute the run's networks otherwise: precision, channels_last, gpu_kernels, cuda_graphs, "
            "cpu_kernels; auto is what is best on the device; repeatable.",
        ),
    ] = None,
    plan: PlanOnly = False,
    price: Price = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Make the person of an image move as the person of a video does; repeated, it resumes where it stopped."""
    with _reported():
        from remot_data.care.planned import Clock, sentence
        from remot_model.transferring import batch
        from remot_model.transferring import transfer as single
        from remot_model.transferring.request import TransferError

        options: dict[str, Any] = {
            "background": background,
            "show": ("source", "driving", "result") if side_by_side else _names(show),
            "save": _names(save),
            "png": png,
            "gam": gam,
            "regions": dict(_assigned(setting, "--region takes REGION=SOURCE") for setting in region or []),
            "scale": scale,
            "start": start,
            "end": end,
            "pose": pose,
            "parsing": parsing,
            "person": person,
            "finder": finder,
            "computed": {n: _value(v) for n, v in (_assigned(s, "--set takes FIELD=VALUE") for s in settings or [])},
            "device": device,
        }
        pair = [str(part) for part in (source, driving, start, end)]
        is_folder = batch.is_folder_of_many
        many = is_folder(source, videos_only=False) or is_folder(driving, videos_only=True)
        if plan:
            from remot_model.transferring.forecast import of_transfer

            tell(of_transfer(run, source, driving, out, **options), price, as_json, out, *pair)
            return
        clock = Clock("transfer", str(out), *pair)
        with _progress("transfer", "frames") as progress:
            if many:
                if stages is not None:
                    raise TransferError("--stages names one video; for folders use --save")
                say = lambda line: typer.echo(line, err=True)  # noqa: E731
                summary = batch.transfer_all(
                    run, source, driving, out, pairing=pairs, parallel=parallel, progress=progress, say=say, **options
                )
            else:
                if parallel > 1:
                    raise TransferError("--parallel makes pairs of folders at once; this is one pair")
                summary = single.transfer(run, source, driving, out, stages=stages, progress=progress, **options)
        if many:
            counts = ", ".join(f"{len(summary[kind])} {kind}" for kind in ("done", "kept", "failed"))
            failures = [f"{pair['source']} with {pair['driving']}: {pair['error']}" for pair in summary["failed"]]
            _finish(summary, as_json, "\n".join([f"wrote to {out}: {counts}", *failures]))
            raise typer.Exit(1 if failures else 0)
        if beside := clock.beside({"transfer": summary["seconds"]}):
            summary["planned"] = beside["wall"][0]
            summary["notes"] = [*summary["notes"], sentence(beside)]
        rate = f"{summary['frames_per_second']:g} frames/s"
        words = [f"wrote {out}: {summary['frames']} frames at {summary['fps']:g} fps ({rate})"]
        _finish(summary, as_json, "\n".join([*words, *(f"note: {note}" for note in summary["notes"])]))


def evaluate(
    stores: Stores,
    run: RunFolder,
    snapshot: Annotated[str, typer.Option(help="The snapshot to read.")] = "main",
    split: Annotated[str, typer.Option(help="The held-out split.")] = "test",
    length: Annotated[int, typer.Option(min=2, help="Frames of a window.")] = 16,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many windows, spread over all.")] = None,
    skip: Annotated[
        int, typer.Option(min=0, help="Frames at the start of a sequence that are not scored; 4 as the released code.")
    ] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the results; RUN/evaluation by default.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure a run by self-reenactment: SSIM, PSNR, LPIPS, FID, TCM and the masked ones, next to two baselines."""
    with _reported():
        from remot_model.evaluating.evaluate import evaluate as run_evaluation

        with _progress("evaluate", "windows") as progress:
            report = run_evaluation(
                run,
                stores,
                snapshot=snapshot,
                split=split,
                length=length,
                limit=limit,
                skip=skip,
                out=out,
                device=device,
                progress=progress,
            )
        _finish(report, as_json, _measured(report))


def export_onnx(
    run: RunFolder,
    out: Annotated[Path, typer.Option("--out", help="Folder of the ONNX files.")],
    as_json: Json = False,
) -> None:
    """Write the networks of a run as ONNX files and check them against torch."""
    with _reported():
        from remot_model.onnx_export import export

        differences = export(run, out)
        lines = [f"{out / name}.onnx: differs from torch by {x:.1e} at most" for name, x in differences.items()]
        _finish({"out": str(out), "differences": differences}, as_json, "\n".join(lines))


def app(
    run: RunFolder,
    host: Annotated[str, typer.Option(help="Address to serve on; 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to serve on.")] = 7860,
    device: Device = "auto",
) -> None:
    """Serve a page for the browser: image and video in, result and its stages out."""
    with _reported():
        try:
            from remot_model.app import serve
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            _refuse('this command needs gradio, which is not installed: pip install "remot[train,app]"', error)
        typer.echo(f"serving {run} at http://{host}:{port}; Ctrl-C ends it", err=True)
        serve(run, host=host, port=port, device=device)


def _config(
    stores: list[str],
    out: Path | None,
    preset: str | None,
    fields: dict[str, Any],
    batch: int | None,
    settings: list[str],
) -> Config:
    """The configuration: of the run that is there where no preset is named, changed by the options.

    A preset is of the run's size, or for a new run of the shape of the first store's frames.
    """
    from remot_data.store import open_store
    from remot_model import checkpoint
    from remot_model import config as configs

    made = checkpoint.read_info(out)["config"] if out is not None and (out / "config.json").is_file() else None
    if preset is None and made:
        plain = made
    else:
        chosen = configs.preset(preset or "small")
        if configs.PORTRAIT not in chosen.name.split(":"):
            chosen = configs.fitted(chosen, made["size"] if made else open_store(stores[0]).size)
        plain = chosen.to_json()
    plain |= {name: value for name, value in fields.items() if value is not None}
    for setting in settings:
        name, value = _assigned(setting, "--set takes FIELD=VALUE")
        _set(plain, name.split("."), _value(value))
    if batch is not None:
        for name in configs.STAGES:
            plain[name]["batch"] = batch
    config = configs.Config.from_json(plain)
    if fields.get("perceptual") and not config.perceptual_on:
        raise configs.ConfigError(
            f"--features has no effect: lambda_per and lambda_gram of {config.name!r} are 0; add --set lambda_per=10"
        )
    return config


def _readers(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _rate(found: dict[str, Any]) -> str:
    (height, width), count = found["size"], found["workers"]
    by = f"{count} process{'es' if count > 1 else ''}" if count else "threads"
    a_core = f"{found['frames_per_second_per_core']:g} a core, {found['cores']:g} cores busy"
    return (
        f"{found['stage']}: {found['frames_per_second']:g} frames/s ({a_core}), {found['windows_per_second']:g} "
        f"windows/s, {found['mb_per_second']:g} MB/s; batches of {found['batch']} windows of {found['length']} frames "
        f"of {height}x{width} on {found['device']}, {by}"
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _assigned(setting: str, rule: str) -> tuple[str, str]:
    from remot_model.config import ConfigError

    name, sign, value = setting.partition("=")
    if not sign:
        raise ConfigError(f"{rule}, not {setting!r}")
    return name, value


def _set(plain: dict[str, Any], path: list[str], value: Any) -> None:
    from remot_model.config import ConfigError

    for name in path[:-1]:
        plain = plain.get(name, {})
    if not isinstance(plain, dict) or path[-1] not in plain:
        raise ConfigError(f"the configuration has no field {'.'.join(path)!r}")
    plain[path[-1]] = value


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except ValueError:
        return text


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def _measured(report: dict[str, Any]) -> str:
    lines = [f"{report['frames']} frames of {report['clips']} clips"]
    for method, values in report["methods"].items():
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in values.items() if value is not None)
        lines.append(f"{method}: {numbers}")
    lines += [f"{name} is not measured: {reason}" for name, reason in report["unavailable"].items()]
    return "\n".join(lines)


def _finish(summary: dict[str, Any], as_json: bool, words: str) -> None:
    from remot_data.cli.console import as_line

    typer.echo(as_line(summary) if as_json else words)


@contextmanager
def _progress(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr with rate and time left, as a function of what is done and the total."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None, rate="")

        def show(done: int, total: int) -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:.1f} {unit}/s" if speed else "")

        yield show


@contextmanager
def _reported() -> Iterator[None]:
    """`console.reported`, which also says what to install, and takes every error of the system for the user's."""
    from remot_data.cli.console import reported

    with reported():
        try:
            yield
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in _TRAIN_EXTRA:
                raise
            _refuse(f'this command needs {error.name}, which is not installed: pip install "remot[train]"', error)
        except OSError as error:
            _refuse(str(error), error)


@contextmanager
def _together() -> Iterator[bool]:
    """Whether this is the first or only of the processes that train together; afterwards their connection ends."""
    yield os.environ.get("RANK", "0") == "0"
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _refuse(sentence: str, error: Exception | None = None) -> NoReturn:
    from remot_data.errors import RemotError

    raise RemotError(sentence) from error
