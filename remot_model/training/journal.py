"""What the training of a stage writes down and says: losses, speed and memory, sample pictures and a short video."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import torch
from torch import Tensor

from remot_data import render
from remot_data.media import VideoWriter
from remot_data.store.disk import write_whole
from remot_model.generating.rollout import to_uint8

_SAMPLED_FRAMES = 3
_VIDEO_FPS = 8
# Training seconds from one line to the next: of files and boards, of what a terminal shows, of what is printed.
_EVERY, _SHOWN_EVERY, _PRINTED_EVERY = 5.0, 1.0, 30.0
_WIDEST = 120
# Takes a line about how training goes, and whether it is the last of a stage.
Show = Callable[[str, bool], None]


@dataclass
class Pace:
    """The clock of a stage: `seconds` of training so far, other calls' included, and those that data was waited for."""

    steps: int
    done: float
    before: float

    def __post_init__(self) -> None:
        self.began, self.waited = time.monotonic(), 0.0

    @property
    def here(self) -> float:
        """Seconds of training in this call."""
        return time.monotonic() - self.began

    @property
    def seconds(self) -> float:
        return self.before + self.here

    def row(self, steps: int, done: float, device: torch.device) -> dict[str, float]:
        """How fast it goes, what it takes (bytes) and how long it will last, after `steps` and a share `done`."""
        here = max(self.here, 1e-9)
        row = {
            "step": steps,
            "seconds": round(self.seconds, 3),
            "steps_per_second": round((steps - self.steps) / here, 4),
            "data_wait": round(self.waited / here, 4),
            "memory": psutil.Process().memory_info().rss,
        }
        if device.type == "cuda":
            row["cuda_memory"] = torch.cuda.max_memory_allocated(device)
        if done > self.done:
            row["seconds_left"] = round(here * (1 - done) / (done - self.done), 1)
        return row


class Journal:
    """Files of one stage in a run folder, and status lines; only the first of several processes has one.

    ``stats.jsonl`` holds what depends on seed and data alone, so a resumed run writes the same bytes as one that was
    never killed; ``speed.jsonl`` holds what depends on the machine.
    """

    def __init__(self, run: Path, stage: str, step: int, total: int | None, named: Sequence[str], show: Show) -> None:
        """`named`: the losses that the status line shows, if a step has them; `show` takes that line."""
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.stage, self.total, self.named, self.show = run / stage, stage, total, named, show
        self.written, self.shown = 0.0, -_SHOWN_EVERY
        for name in ("stats.jsonl", "speed.jsonl"):
            _keep_lines(self.folder / name, step)
        self.board = SummaryWriter(str(run / "tensorboard" / stage), purge_step=step)

    def close(self) -> None:
        self.board.close()

    def write(self, rows: Sequence[Mapping[str, float]], pace: Pace, done: float, device: torch.device) -> None:
        """Note the losses of steps in a file, and now and then the speed there, on the board and as a status line."""
        for row in rows:
            _add(self.folder / "stats.jsonl", row)
        if pace.here - self.shown < _SHOWN_EVERY and done < 1:
            return
        row, speed, self.shown = rows[-1], pace.row(int(rows[-1]["step"]), done, device), pace.here
        self.show(self._status(row, speed), done >= 1)
        if pace.here - self.written < _EVERY and done < 1:
            return
        self.written = pace.here
        _add(self.folder / "speed.jsonl", speed)
        for name, value in {**row, **{f"speed/{k}": v for k, v in speed.items()}}.items():
            if not name.endswith("step"):
                self.board.add_scalar(name, value, int(row["step"]))

    def _status(self, row: Mapping[str, float], speed: Mapping[str, float]) -> str:
        """At most 120 characters; every loss is in ``stats.jsonl`` and on the board."""
        total = f"/{self.total}" if self.total is not None else ""
        terms = ", ".join(f"{name} {row[name]:.4g}" for name in self.named if name in row)
        parts = [f"{self.stage} {int(row['step'])}{total}", terms, f"{speed['steps_per_second']:.4g} steps/s"]
        parts.append(f"data wait {100 * speed['data_wait']:.0f} %")
        parts.append(f"{speed.get('cuda_memory', speed['memory']) / 2**30:.1f} GB")
        if "seconds_left" in speed:
            parts.append(f"{_duration(speed['seconds_left'])} left")
        return " | ".join(parts)[:_WIDEST]

    def draw(self, pictures: Mapping[str, Tensor], step: int) -> None:
        """Write the sample sheet of a step, and the same windows as the video ``samples.mp4`` in place of the last."""
        sheet = sample_grid(pictures)
        ok, png = cv2.imencode(".png", sheet[..., ::-1])
        assert ok
        write_whole(self.folder / "samples" / f"step-{step:06d}.png", png.tobytes())
        self.board.add_image("samples", sheet, step, dataformats="HWC")
        frames = [sample_grid(pictures, t) for t in range(next(iter(pictures.values())).shape[1])]
        even = [np.pad(f, [(0, f.shape[0] % 2), (0, f.shape[1] % 2), (0, 0)], "edge") for f in frames]
        with VideoWriter(self.folder / "samples.mp4", _VIDEO_FPS, even[0].shape[:2]) as film:
            for frame in even:
                film.write(frame)


def printed(say: Callable[[str], None]) -> Show:
    """What shows status lines where nothing can be redrawn: one every 30 seconds, and the last of a stage."""
    said = -_PRINTED_EVERY

    def show(line: str, last: bool) -> None:
        nonlocal said
        if last or time.monotonic() - said >= _PRINTED_EVERY:
            said = time.monotonic()
            say(line)

    return show


def sample_grid(pictures: Mapping[str, Tensor], moment: int | None = None) -> np.ndarray:
    """Pictures by name, [N, T, 3, H, W] in [-1, 1], as one labelled sheet uint8 [h, w, 3]: a column a name.

    A row is a frame of a window: the first, the middle and the last, or only number `moment`.
    """
    count, length = next(iter(pictures.values())).shape[:2]
    moments = sorted({round(i * (length - 1) / max(_SAMPLED_FRAMES - 1, 1)) for i in range(_SAMPLED_FRAMES)})
    moments = moments if moment is None else [moment]
    rows = [[to_uint8(p[n, t]).numpy() for p in pictures.values()] for n in range(count) for t in moments]
    return render.grid(rows, list(pictures), height=max(128, rows[0][0].shape[0]))


def planned(run: Path, pair: Mapping[str, Any]) -> None:
    """Write down what was planned for a training and what it took, see `remot_data.care.planned`."""
    _add(run / "planned.jsonl", pair)


def _add(path: Path, row: Mapping[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(dict(row)) + "\n")


def _keep_lines(path: Path, steps: int) -> None:
    """Drop the lines of steps after the last save: they are about to be done again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= steps]
    write_whole(path, "".join(line + "\n" for line in kept).encode())


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
