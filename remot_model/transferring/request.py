"""What a transfer is asked for: sources, options and outputs, checked before anything is read or made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from remot_data.errors import RemotError
from remot_data.schemas import REGIONS
from remot_model.checkpoint import Run

GAMS = ("paper", "steady")
STAGES = ("driving", "pose", "layout", "aligned", "regions", "coarse", "result")
CONTAINERS = (".mp4", ".mkv", ".mov")
# What can be shown and saved: the source crop, the driving crop, the drawn pose, the layout, the source after GAM, the
# same over the driving crop, the five regions side by side, their sum; of the composition network the foreground,
# the background mask, the image before and its flow and weight; the result.
VIEWS = (
    "source", "driving", "pose", "layout", "aligned", "gam", "regions", "coarse", "foreground", "mask", "raw", "flow",
    "weight", "result",
)  # fmt: skip
_OF_WHOLE = ("foreground", "mask", "raw", "flow", "weight")


class TransferError(RemotError, RuntimeError):
    """A transfer that cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Request:
    """One transfer that is asked for; the fields are the arguments of `transfer`."""

    source: Path
    driving: Path
    out: Path
    background: str = "source"
    show: tuple[str, ...] = ("result",)
    save: tuple[str, ...] = ()
    png: bool = False
    stages: Path | None = None
    gam: str = "paper"
    regions: Mapping[str, str] = field(default_factory=dict)
    scale: int = 1
    start: float | None = None
    end: float | None = None
    pose: str = "blazepose"
    parsing: str = "pose-guided"
    person: int | None = None
    finder: str | None = None


@dataclass(frozen=True)
class Output:
    """A video to write, or a folder of PNG: the `views` its pictures show side by side, each `height` pixels high."""

    path: Path
    views: tuple[str, ...]
    height: int
    png: bool = False


def checked(run: Run, request: Request) -> list[Output]:
    """What a request writes, the result first; `TransferError` where it cannot be made so."""
    if lacks := run.untrained():
        raise TransferError(lacks)
    if request.scale < 1:
        raise TransferError(f"a scale of {request.scale} leaves no picture; give 1 or more")
    if request.gam not in GAMS:
        raise TransferError(f"there is no GAM {request.gam!r}; there are {', '.join(GAMS)}")
    if unknown := [name for name in request.regions if name not in REGIONS]:
        raise TransferError(f"there is no region {', '.join(unknown)}; there are {', '.join(REGIONS)}")
    if not request.show:
        raise TransferError("nothing is to be shown; name a view at least")
    check_views((*request.show, *request.save), run)
    outputs = _outputs(run, request)
    _check_files(request, outputs)
    return outputs


def check_views(names: Collection[str], run: Run) -> None:
    """`TransferError` for a view that does not exist, or that the run has not."""
    if unknown := [name for name in names if name not in VIEWS]:
        raise TransferError(f"there is no view {', '.join(unknown)}; there are {', '.join(VIEWS)}")
    if not run.config.use_wcn and (absent := [name for name in names if name in _OF_WHOLE]):
        raise TransferError(f"{run.path} has no composition network, so there is no {', '.join(absent)} to see")


def _outputs(run: Run, request: Request) -> list[Output]:
    out, height = request.out, run.config.size[0]
    upto256 = -(-256 // height)
    factor = max(request.scale, upto256 if request.show != ("result",) else 1)
    outputs = [Output(out, request.show, height * factor)]
    if request.stages is not None:
        outputs.append(Output(request.stages, STAGES, height * upto256))
    for name in dict.fromkeys(request.save):
        path = out.with_name(f"{out.stem}.{name}" if request.png else f"{out.stem}.{name}{out.suffix}")
        outputs.append(Output(path, (name,), height * request.scale, request.png))
    return outputs


def _check_files(request: Request, outputs: Sequence[Output]) -> None:
    taken = {path.resolve() for path in inputs(request)}
    for output in outputs:
        path = output.path
        if not output.png and path.suffix.lower() not in CONTAINERS:
            raise TransferError(f"{path} would be no video: end its name with {', '.join(CONTAINERS)}")
        if path.resolve() in taken:
            raise TransferError(f"{path} is named twice; name another file to write")
        taken.add(path.resolve())


def inputs(request: Request) -> list[Path]:
    """The files and folders that a request reads."""
    named = [request.source, request.driving, *map(Path, request.regions.values())]
    return named + [path for path in [Path(request.background)] if path.is_file()]
