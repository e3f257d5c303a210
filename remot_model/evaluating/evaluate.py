"""Self-reenactment on held-out windows: one frontal frame of a person, the poses of others, and the truth beside it.

Beside the model two baselines run on the same frames: the source frame itself, and the source person moved by the
GAM onto the background, at the real layouts. A model that does not beat both has learnt nothing.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from remot_data.errors import RemotError
from remot_data.reading.stream import Plan, Window, schemas, to_torch
from remot_data.records import VALID
from remot_data.store import open_store
from remot_data.store.layers import BUILT_IN
from remot_model import devices
from remot_model.checkpoint import Run, check_schemas, load_run, versions, write_whole
from remot_model.evaluating import metrics
from remot_model.evaluating import report as report_of
from remot_model.generating import rollout
from remot_model.generating.inference import Runner

METHODS = ("model", "source copied", "source after GAM")
_SHOWN, _WORST = 6, 8  # rows of the two sheets of frames


class EvaluationError(RemotError, RuntimeError):
    """An evaluation that cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Sample:
    """The scored frames of a window: their arrays, and the frames of every method, uint8 [T, H, W, 3].

    `first` and `source` are numbers of frames of the clip.
    """

    clip: str
    first: int
    source: int
    arrays: dict[str, np.ndarray]
    made: dict[str, np.ndarray]
    on_black: bool

    def shown(self, t: int) -> dict[str, np.ndarray]:
        """Pictures of scored frame `t` by name."""
        given = {"source": self.arrays["source"], "driving pose": self.arrays["pose_map"][t]}
        return {**given, "real": self.arrays["frames"][t], **{name: made[t] for name, made in self.made.items()}}


class Tally:
    """The metrics of one method: a row a scored frame, and FID over everything.

    The TCM of frames t-1 and t stands in the row of frame t, where both are scored.
    """

    def __init__(self, learned: metrics.Learned) -> None:
        self.learned = learned
        self.rows: list[dict[str, Any]] = []

    def add(self, sample: Sample, made: np.ndarray) -> list[dict[str, Any]]:
        """Take in generated frames uint8 [T, H, W, 3]; returns their rows."""
        arrays = sample.arrays
        real, person = arrays["frames"], arrays["labels"] != 0
        shown, wanted = made, real
        if VALID in arrays:
            shown, wanted, person = (metrics.inside(x, arrays[VALID]) for x in (made, real, person))
            made, real = (metrics.blackened(x, arrays[VALID]) for x in (made, real))
        measured = {
            "ssim": metrics.ssim(wanted, shown),
            "psnr": np.minimum(metrics.psnr(wanted, shown), metrics.PSNR_CAP),
            "mask_ssim": metrics.mask_ssim(wanted, shown, person),
            "mask_psnr": np.minimum(metrics.mask_psnr(wanted, shown, person), metrics.PSNR_CAP),
        }
        if (distance := self.learned.lpips(real, made)) is not None:
            measured["lpips"] = distance
        if "flow" in arrays:
            for name, visible in (("tcm", None), ("tcm_masked", arrays["confidence"])):
                measured[name] = np.append(np.nan, metrics.tcm(real, made, arrays["flow"], visible))
        rows = []
        for t in range(len(real)):
            values = {name: float(v[t]) if np.isfinite(v[t]) else None for name, v in measured.items()}
            rows.append({"clip": sample.clip, "frame": sample.first + t, **values})
        self.rows += rows
        self.learned.update(real, made)
        return rows

    def clips(self) -> dict[str, dict[str, float | None]]:
        """Clip -> metric -> mean over its frames, or over its pairs of frames for TCM."""
        by_clip: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            by_clip.setdefault(row["clip"], []).append(row)
        names = [name for name in self.rows[0] if name not in ("clip", "frame")]
        return {clip: {name: _mean(row[name] for row in rows) for name in names} for clip, rows in by_clip.items()}

    def means(self) -> dict[str, float | None]:
        """Metric -> mean: over frames, but for TCM over the frame pairs of each clip and then over clips."""
        clips = self.clips()
        out = {}
        for name in next(iter(clips.values())):
            parts = clips.values() if name.startswith("tcm") else self.rows
            out[name] = _mean(part[name] for part in parts)
        return out | self.learned.compute()


@dataclass(frozen=True)
class Bad:
    """A badly made frame: its row in the tally of the model, and its pictures by name."""

    row: dict[str, Any]
    pictures: dict[str, np.ndarray]


@dataclass
class Seen:
    """What was measured so far; memory does not grow with it but by a row a frame.

    Attributes:
        tallies: by method.
        sources: clip -> its source frame.
        scored: clip -> spans [first, last] of scored frames.
        grid: the first sample of some clips.
        worst: of each window the frame of lowest Mask-PSNR, of these the lowest.
    """

    tallies: dict[str, Tally]
    sources: dict[str, int] = field(default_factory=dict)
    scored: dict[str, list[list[int]]] = field(default_factory=dict)
    grid: dict[str, Sample] = field(default_factory=dict)
    worst: list[Bad] = field(default_factory=list)
    on_black: bool = False
    flow: bool = True

    def add(self, sample: Sample) -> None:
        """Measure a sample."""
        rows = {name: self.tallies[name].add(sample, made) for name, made in sample.made.items()}["model"]
        t = min(range(len(rows)), key=lambda t: rows[t]["mask_psnr"])
        bad = [*self.worst, Bad(rows[t], sample.shown(t))]
        self.worst = sorted(bad, key=lambda b: b.row["mask_psnr"])[:_WORST]
        if len(self.grid) < _SHOWN:
            self.grid.setdefault(sample.clip, sample)
        self.sources[sample.clip] = sample.source
        spans = self.scored.setdefault(sample.clip, [])
        if spans and spans[-1][1] == sample.first - 1:
            spans[-1][1] = rows[-1]["frame"]
        else:
            spans.append([sample.first, rows[-1]["frame"]])
        self.on_black |= sample.on_black
        self.flow &= "flow" in sample.arrays

    def results(self, snapshot: str) -> dict[str, Any]:
        """Counts and values, as they stand in ``metrics.json``."""
        model = self.tallies["model"]
        unavailable = dict(model.learned.unavailable)
        if not self.flow:
            reason = f"snapshot {snapshot!r} has no flow layer: run `remot annotate STORE --layer flow`"
            unavailable |= {"tcm": reason, "tcm_masked": reason}
        methods = {name: tally.means() for name, tally in self.tallies.items()}
        return {
            "clips": len(self.scored),
            "frames": len(model.rows),
            "background": "black: the snapshot has no background layer" if self.on_black else "layer",
            "methods": methods,
            "by_clip": model.clips(),
            "worst": [bad.row for bad in self.worst],
            "unavailable": unavailable,
            "conventions": {k: v for k, v in metrics.CONVENTIONS.items() if k in methods["model"]},
        }


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def evaluate(
    run: str | Path | Run,
    store: str | Sequence[str],
    *,
    snapshot: str = "main",
    split: str = "test",
    length: int = 16,
    limit: int | None = None,
    skip: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure a run by self-reenactment and write it down for people and programs.

    ``metrics.json`` and ``metrics.md`` hold the means, the protocol and the published tables; ``frames.csv`` a row a
    method and frame; ``samples.png`` a frame of several clips, ``worst.png`` the frames of lowest Mask-PSNR.

    The source is the most frontal frame of the clip, outside the held-out part where the split is by time. Poses are
    those of the store, layouts are generated. Windows that adjoin are one sequence: the networks' memory is kept.

    Args:
        run: the run folder, with every stage trained, or an opened run.
        store: one store or several.
        split: the held-out part.
        length: frames of a window; what is left of a clip behind its last whole window is not looked at.
        limit: at most so many windows, spread evenly over all; all of them without it.
        skip: frames at the beginning of each sequence that are generated and not scored; 4 is what the released code
            does, whose outputs begin at the fifth frame.
        out: where the results go; ``RUN/evaluation`` without it.
        device: ``cpu``, ``cuda``, ... or ``auto``, which takes CUDA where there is one. An opened run has to be there.
        progress: called with the windows done and their number.

    Returns:
        The content of ``metrics.json``: `methods` holds method -> metric -> mean, `unavailable` metric -> reason.

    Raises:
        EvaluationError: if the run lacks a stage or the snapshot a layer, for a limit below 1, or if nothing is scored.
        CheckpointError: if `run` is no run folder, or was trained on other schemas than the store has.
        StoreError: if there is no such store, snapshot or split.
    """
    if limit is not None and limit < 1:
        raise EvaluationError(f"a limit of {limit} windows leaves nothing to measure; give 1 or more")
    began = time.monotonic()
    place = devices.pick(device)
    run = run if isinstance(run, Run) else load_run(run, place)
    if lacks := run.untrained():
        raise EvaluationError(lacks)
    stores = [store] if isinstance(store, str) else list(store)
    for one in stores:
        check_schemas(run.schemas, schemas(one, snapshot), str(run.path))
    among = (*BUILT_IN, *((VALID,) if run.config.valid is True else ()))
    plan = Plan(stores, snapshot, split, length=length, source="frontal", shuffle=False, among=among)
    chosen = np.arange(len(plan)) if limit is None else _spread(len(plan), limit)

    seen = Seen({name: Tally(metrics.Learned(str(place))) for name in METHODS})
    for done, sample in enumerate(_samples(run, plan, chosen, place, skip), 1):
        if sample is not None:
            seen.add(sample)
        if progress:
            progress(done, len(chosen))
    if not seen.scored:
        raise EvaluationError(f"no sequence is longer than the {skip} frames to skip; skip fewer, take longer windows")
    about = {"stores": stores, "snapshot": snapshot, "split": split, "windows": len(chosen), "length": length}
    report = {
        "run": str(run.path),
        "preset": run.config.name,
        "size": list(run.config.size),
        **about,
        **seen.results(snapshot),
        "protocol": _protocol(run, seen, stores, snapshot, skip),
        "published": {
            "source": "arXiv 2209.00475",
            "note": report_of.NOT_COMPARABLE,
            "tables": report_of.PUBLISHED,
        },
        "seconds": round(time.monotonic() - began, 1),
    }
    _write(Path(out) if out is not None else run.path / "evaluation", seen, report)
    return report


def _write(folder: Path, seen: Seen, report: Mapping[str, Any]) -> None:
    middles = [sample.shown(len(sample.arrays["frames"]) // 2) for sample in seen.grid.values()]
    for name, shown in (("samples", middles), ("worst", [bad.pictures for bad in seen.worst])):
        write_whole(folder / f"{name}.png", report_of.png(report_of.sheet(shown)))
    table = report_of.frame_table({name: tally.rows for name, tally in seen.tallies.items()})
    write_whole(folder / "frames.csv", table)
    write_whole(folder / "metrics.md", report_of.markdown(report).encode())
    write_whole(folder / "metrics.json", (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())


def _protocol(run: Run, seen: Seen, stores: Sequence[str], snapshot: str, skip: int) -> dict[str, Any]:
    """All that the numbers depend on beside the data: what was compared with what, and by which networks."""
    return {
        "task": "self-reenactment: the source is a frame of the clip that drives",
        "source_rule": "the most frontal frame of the clip, outside the held-out part where the split is by time",
        "source_frames": seen.sources,
        "layouts": "generated by the model",
        "poses": "those of the pose layer",
        "sequences": "windows that adjoin are one sequence; what is left of a clip behind its last whole window is not "
        "looked at",
        "outside": _OUTSIDE[run.config.valid is True],
        "skipped": skip,
        "scored_frames": seen.scored,
        "networks": run.digests(),
        "config": run.config.digest(),
        "layers": {one: _layers(one, snapshot) for one in stores},
        "learned": seen.tallies["model"].learned.networks,
        "versions": versions(),
    }


_OUTSIDE = {
    True: "left out of SSIM, PSNR and their masked forms, and black in both frames for the other metrics",
    False: "counted like all others",
}


def _layers(store: str, snapshot: str) -> dict[str, str]:
    """Kind -> the layer a snapshot names, and what made it."""
    opened = open_store(store)
    infos = (opened.layer(kind, layer) for kind, layer in opened.snapshot(snapshot).layers.items())
    return {info.kind: f"{info.id} ({info.detector} {info.version})" for info in infos}


def _spread(total: int, limit: int) -> np.ndarray:
    return np.unique(np.linspace(0, total - 1, min(limit, total)).round().astype(int))


def _samples(run: Run, plan: Plan, chosen: np.ndarray, device: torch.device, skip: int) -> Iterator[Sample | None]:
    """Each chosen window without the first `skip` frames of its sequence; None where nothing is left of it."""
    states, expected, passed = None, ("", -1), 0
    with run.networks.lent() as runner:
        for index in chosen:
            found = plan.window(int(index), run.config.size)
            window = _complete(found)
            if (window.clip, window.first) != expected:
                states, passed = None, 0
            made, states = _methods(run, runner, window, states, device)
            expected = (window.clip, window.first + plan.length)
            left = max(0, skip - passed)
            passed += plan.length
            if left >= plan.length:
                yield None
                continue
            arrays = {k: v if k in _STILL else v[left:] for k, v in window.arrays.items()}
            made = {name: frames[left:] for name, frames in made.items()}
            on_black = "background" not in found.arrays
            yield Sample(window.clip, window.first + left, window.source, arrays, made, on_black)


# Arrays of a window that belong to no frame of it.
_STILL = ("source", "source_labels", "source_keypoints", "background", VALID)


def _complete(window: Window) -> Window:
    """The window, or where it has no background, with the people of all its images on black."""
    kinds = {"pose_map": "pose", "labels": "parsing"}
    missing = [kind for name, kind in kinds.items() if name not in window.arrays]
    if missing:
        raise EvaluationError(
            f"the snapshot has no {' and no '.join(missing)} layer, which an evaluation needs; make it with "
            f"`remot annotate STORE --layer {missing[0]}`"
        )
    if "background" in window.arrays:
        return window
    cut = {
        name: np.where(window.arrays[labels][..., None] != 0, window.arrays[name], np.uint8(0))
        for name, labels in (("frames", "labels"), ("source", "source_labels"))
    }
    black = np.zeros_like(window.arrays["source"])
    return dataclasses.replace(window, arrays={**window.arrays, **cut, "background": black})


def _methods(
    run: Run, runner: Runner, window: Window, states: dict[str, rollout.State] | None, device: torch.device
) -> tuple[dict[str, np.ndarray], dict[str, rollout.State]]:
    """Frames of every method for a window, and the networks' state behind it."""
    arrays = {k: v.to(device)[None] for k, v in to_torch(window).items()}
    source, source_labels, background = (arrays[k] for k in ("source", "source_labels", "background"))
    done, states = runner(source, source_labels, arrays["pose_map"], background, states=states)
    of_source, of_frames = (rollout.convert_labels(arrays[k], "remot11", "remot6") for k in ("source_labels", "labels"))
    moved = rollout.align_clip(dataclasses.replace(run.config, use_gam=True), source, of_source, of_frames)
    pasted = torch.where(moved.labels[:, :, None] > 0, moved.image, background[:, None])
    made = {
        "model": rollout.to_uint8(done.images[0]).cpu().numpy(),
        "source copied": np.repeat(window.arrays["source"][None], len(window.arrays["frames"]), 0),
        "source after GAM": rollout.to_uint8(pasted[0]).cpu().numpy(),
    }
    return made, states
