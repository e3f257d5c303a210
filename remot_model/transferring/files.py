"""The files of a transfer: written in segments, so that it can be interrupted and resumed.

Next to the output lies a work folder while the transfer runs:

    OUT.work/job.json        what is being made, out of what; another job does not resume from here
    OUT.work/progress.pt     the networks' memory behind the last whole segment
    OUT.work/<view>/00000.mp4, ...    a segment of an output; or PNG of its frames

A segment counts once `progress.pt` says so. At the end the segments are joined as they are, so an interrupted transfer
gives the frames of an uninterrupted one.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from remot_data import media
from remot_data.media import in_child
from remot_data.media.sandbox import ChildError
from remot_data.store.disk import into_place, write_whole
from remot_data.store.files import Files
from remot_data.store.lock import Busy, Lock
from remot_model.transferring.driving import Driving
from remot_model.transferring.pictures import resized
from remot_model.transferring.request import Output, TransferError

log = logging.getLogger(__name__)


class Work:
    """The work folder of a transfer; a context manager that holds it alone.

    Args:
        outputs: what is to be written; the folder lies next to the first.
        job: plain values that say what is made out of what. Where the folder holds another job, it is emptied.

    Attributes:
        frames: that are in whole segments.
        progress: what was given to `segment` last; None at the start.

    Raises:
        TransferError: on entering, if another process is at work on the same output.
    """

    def __init__(self, outputs: Sequence[Output], job: Mapping[str, Any]) -> None:
        out = outputs[0].path
        self.folder = out.with_name(f"{out.name}.work")
        self.outputs, self._job = outputs, json.dumps(job, sort_keys=True, indent=1)
        self._segments, self.frames, self._over = 0, 0, False
        self.progress: Mapping[str, Any] | None = None

    def __enter__(self) -> Work:
        for output in self.outputs:
            output.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(Files(str(self.folder.parent)), f"{self.folder.name}/lock-transfer")
        try:
            self._lock.__enter__()
        except Busy as error:
            raise TransferError(f"{error}".replace("; wait for it, or use --wait", "; wait for it")) from error
        if self._holds_the_job():
            saved = torch.load(self.folder / "progress.pt", map_location="cpu", weights_only=True)
            self._segments, self.frames, self.progress = saved["segments"], saved["frames"], saved["progress"]
        else:
            self._empty()
            write_whole(self.folder / "job.json", self._job.encode())
        return self

    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(*error)
        if self._over:
            shutil.rmtree(self.folder)

    def _holds_the_job(self) -> bool:
        job = self.folder / "job.json"
        return (
            job.is_file() and job.read_text(encoding="utf-8") == self._job and (self.folder / "progress.pt").is_file()
        )

    def _empty(self) -> None:
        if (self.folder / "progress.pt").is_file():
            log.warning("%s holds another job, which is given up", self.folder)
        for entry in self.folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif not entry.name.startswith("lock-"):
                entry.unlink()

    def _place(self, number: int) -> Path:
        return self.folder / f"{number}-{'-'.join(self.outputs[number].views)[:40]}"

    def segment(self, pictures: Mapping[str, np.ndarray], fps: float, progress: Mapping[str, Any]) -> None:
        """Write the pictures of a piece, uint8 [T, h, w, 3] by view, and what is needed to resume after it."""
        count = len(next(iter(pictures.values())))
        for number, output in enumerate(self.outputs):
            folder = self._place(number)
            folder.mkdir(exist_ok=True)
            if output.png:
                for t in range(count):
                    image = cv2.cvtColor(_picture(output, pictures, t), cv2.COLOR_RGB2BGR)
                    cv2.imwrite(str(folder / f"{self.frames + t:06d}.png"), image)
                continue
            first = _picture(output, pictures, 0)
            with media.VideoWriter(folder / f"{self._segments:05d}.mp4", fps, first.shape[:2]) as out:
                for t in range(count):
                    out.write(_picture(output, pictures, t))
        self._segments, self.frames, self.progress = self._segments + 1, self.frames + count, progress
        saved = {"segments": self._segments, "frames": self.frames, "progress": progress}
        buffer = io.BytesIO()
        torch.save(saved, buffer)
        write_whole(self.folder / "progress.pt", buffer.getvalue())

    def finish(self, drive: Driving) -> str:
        """Join the segments, add the sound of the driving video, and put everything in its place.

        Returns:
            Why the sound is missing, where it could not be copied.
        """
        silence, made = "", []
        for number, output in enumerate(self.outputs):
            if output.png:
                made.append(self._place(number))
                continue
            joined = self.folder / f"{number}{output.path.suffix}"
            parts = [self._place(number) / f"{segment:05d}.mp4" for segment in range(self._segments)]
            media.join(parts, joined)
            if drive.uneven:
                pts = drive.pts.array()
                media.retime(joined, joined, (pts - pts[0]).tolist(), drive.time_base)
            silence = _add_sound(joined, drive) or silence
            made.append(joined)
        for path, output in zip(made, self.outputs, strict=True):
            into_place(path, output.path)
        return silence

    def remove(self) -> None:
        """Remove the folder on leaving: after `finish`, or where nothing can come of the job."""
        self._over = True


def _picture(output: Output, pictures: Mapping[str, np.ndarray], t: int) -> np.ndarray:
    """Frame `t` of an output, its views side by side, as uint8 [h, w, 3]."""
    row = []
    for name in output.views:
        image = pictures[name][t]
        row.append(resized(image, (output.height, round(image.shape[1] * output.height / image.shape[0]))))
    return np.hstack(row)


def _add_sound(part: Path, drive: Driving) -> str:
    """Give the video the driving video's sound; the reason where that fails."""
    if not drive.has_audio:
        return ""
    loud = part.with_name(f"sound{part.suffix}")
    try:
        first = 0 if drive.span[0] is None else drive.pts[0] - in_child.probe(drive.path).first_pts
        in_child.mux_audio(part, drive.path, loud, first * drive.time_base[0] / drive.time_base[1])
    except (media.EncodeError, media.VideoError, ChildError, OSError) as error:
        return " ".join(str(error).split())
    os.replace(loud, part)
    return ""
