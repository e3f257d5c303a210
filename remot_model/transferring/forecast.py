"""How long a transfer would take: its first frames, made in a folder that is removed again."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from remot_data.care.forecast import peak
from remot_data.care.planned import Forecast, Stage
from remot_data.media import in_child
from remot_model import devices
from remot_model.transferring.batch import is_folder_of_many
from remot_model.transferring.request import TransferError
from remot_model.transferring.transfer import transfer

_SECONDS = 0.6  # of the driving video that are made twice: once to load what is loaded once


def of_transfer(
    run: Any,
    source: str | Path,
    driving: str | Path,
    out: str | Path,
    *,
    start: float | None = None,
    end: float | None = None,
    device: str = "auto",
    **options: Any,
) -> Forecast:
    """What `transfer` would do with these arguments, for one pair.

    Raises:
        TransferError, CheckpointError, VideoError: as `transfer`.
    """
    options = {name: value for name, value in options.items() if name not in ("progress", "stages")}
    if is_folder_of_many(Path(source), videos_only=False) or is_folder_of_many(Path(driving), videos_only=True):
        raise TransferError("--plan is for one source and one driving video")
    video = in_child.probe(driving)
    begin = start or 0.0
    stop = min(end if end is not None else video.seconds, video.seconds)
    frames = max(round((stop - begin) * video.fps), 1)
    with tempfile.TemporaryDirectory(prefix="remot-plan-") as folder:
        part = min(begin + _SECONDS, stop)
        spent = []
        for number, last in enumerate((part, part, min(begin + 3 * _SECONDS, stop))):
            began = time.monotonic()
            target = Path(folder, f"{number}{Path(out).suffix or '.mp4'}")
            done = transfer(run, source, driving, target, start=begin, end=last, device=device, **options)
            spent.append((done["frames"], time.monotonic() - began))
    (few, short), (more, long) = spent[1:]
    pace = (long - short) / (more - few) if more > few else short / max(few, 1)
    seconds = max(short + pace * (frames - few), 0.0)
    place = devices.pick(device)
    words = f"measured here on {more} frames, on {place}"
    stages = (Stage("transfer", "frames", frames, 0, seconds),)
    if place.type != "cuda":
        return Forecast("transfer", stages, words, memory=peak(), parallel=False)
    card = torch.cuda.get_device_name(place)
    return Forecast("transfer", stages, words, gpu=card, gpu_seconds=seconds, parallel=False)
