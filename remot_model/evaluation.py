"""Self-reenactment on held-out windows: one frontal frame of a person, the poses of others, and the truth beside it.

Beside the model two baselines run on the same frames: the source frame itself, and the source person moved by the
GAM onto the background, at the real layouts. A model that does not beat both has learnt nothing.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from remot_data import render
from remot_data.stream import Plan, Window, schemas, to_torch
from remot_model import metrics, rollout
from remot_model.checkpoint import Run, check_schemas, load_run, write_atomically
from remot_model.motion_transfer import to_uint8
from remot_model.train import pick_device

# Published numbers (tables 1 to 4 of arXiv 2209.00475); an asterisk is the masked variant.
PUBLISHED = {
    "iPER": {
        "EDN": {"ssim": 0.840, "psnr": 23.39, "lpips": 0.076, "fid": 56.29, "tcm": 0.361},
        "FSV2V": {"ssim": 0.780, "psnr": 20.44, "lpips": 0.110, "fid": 110.99, "tcm": 0.184},
        "LWGAN": {"ssim": 0.825, "psnr": 21.43, "lpips": 0.091, "fid": 77.99, "tcm": 0.197},
        "C2F": {"ssim": 0.849, "psnr": 24.27, "lpips": 0.072, "fid": 55.07, "tcm": 0.687},
        "REMOT": {
            "ssim": 0.856, "psnr": 25.33, "mask_ssim": 0.952, "mask_psnr": 28.87, "lpips": 0.065, "fid": 53.04,
            "tcm": 0.793,
        },
    },
    "SoloDance": {
        "EDN": {"ssim": 0.811, "psnr": 23.22, "lpips": 0.051, "fid": 53.17, "tcm": 0.347},
        "FSV2V": {"ssim": 0.721, "psnr": 20.84, "lpips": 0.132, "fid": 112.99, "tcm": 0.106},
        "LWGAN": {
            "ssim": 0.786, "psnr": 20.87, "mask_ssim": 0.935, "mask_psnr": 22.48, "lpips": 0.106, "fid": 86.53,
            "tcm": 0.176,
        },
        "C2F": {
            "ssim": 0.879, "psnr": 26.65, "mask_ssim": 0.935, "mask_psnr": 24.94, "lpips": 0.049, "fid": 46.49,
            "tcm": 0.641,
        },
        "REMOT": {
            "ssim": 0.850, "psnr": 24.83, "mask_ssim": 0.953, "mask_psnr": 27.89, "lpips": 0.045, "fid": 53.29,
            "tcm": 0.788,
        },
    },
}  # fmt: skip
NOT_COMPARABLE = (
    "The published numbers are for 256x192 frames of iPER and SoloDance with OpenPose, SCHP and FlowNet2. They stand "
    "here for orientation and are not comparable with numbers of other data, another size or other detectors."
)
METHODS = ("model", "source copied", "source after GAM")
_ORDER = ("ssim", "psnr", "mask_ssim", "mask_psnr", "lpips", "fid", "tcm", "tcm_masked")
_SIGNS = {"ssim": "SSIM ↑", "psnr": "PSNR ↑", "mask_ssim": "Mask-SSIM ↑", "mask_psnr": "Mask-PSNR ↑"} | {
    "lpips": "LPIPS ↓", "fid": "FID ↓", "tcm": "TCM ↑", "tcm_masked": "TCM, unoccluded ↑",
}  # fmt: skip


class EvaluationError(RuntimeError):
    """An evaluation that cannot be made; the message says why and what to do."""


@dataclass
class Tally:
    """Values of the metrics of one method, clip by clip, and the learned metrics over everything."""

    learned: metrics.Learned
    values: dict[str, dict[str, list[np.ndarray]]] = field(default_factory=dict)

    def add(self, clip: str, window: dict[str, np.ndarray], made: np.ndarray) -> None:
        """Take in generated frames uint8 [T, H, W, 3] for a window of `clip`."""
        real, person = window["frames"], window["labels"] != 0
        measured = {
            "ssim": metrics.ssim(real, made),
            "psnr": np.minimum(metrics.psnr(real, made), metrics.PSNR_CAP),
            "mask_ssim": metrics.mask_ssim(real, made, person),
            "mask_psnr": np.minimum(metrics.mask_psnr(real, made, person), metrics.PSNR_CAP),
        }
        if "flow" in window:
            measured["tcm"] = metrics.tcm(real, made, window["flow"])
            measured["tcm_masked"] = metrics.tcm(real, made, window["flow"], window["confidence"])
        for name, values in measured.items():
            self.values.setdefault(name, {}).setdefault(clip, []).append(values)
        self.learned.update(real, made)

    def means(self) -> dict[str, float | None]:
        """Metric -> mean: over frames, but for TCM over the frame pairs of each clip and then over clips."""
        out: dict[str, float | None] = {}
        for name, clips in self.values.items():
            parts = [np.concatenate(values) for values in clips.values()]
            if name.startswith("tcm"):
                parts = [np.array([metrics.mean_tcm(p)]) for p in parts]
            finite = np.concatenate(parts)
            finite = finite[np.isfinite(finite)]
            out[name] = float(finite.mean()) if len(finite) else None
        return out | self.learned.compute()


@dataclass(frozen=True)
class Sample:
    """One evaluated window: its arrays, and the frames of every method, uint8 [T, H, W, 3]."""

    clip: str
    arrays: dict[str, np.ndarray]
    made: dict[str, np.ndarray]
    on_black: bool


def evaluate(
    run: str | Path | Run,
    store: str | Sequence[str],
    *,
    snapshot: str = "main",
    split: str = "test",
    length: int = 16,
    limit: int | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure a run by self-reenactment and write ``metrics.json``, ``metrics.md`` and ``samples.png``.

    The source is the most frontal frame of the clip, outside the held-out part where the split is by time. Poses are
    those of the store, layouts are generated. Windows that adjoin are one sequence: the networks' memory goes on.

    Args:
        run: the run folder, with every stage trained, or an opened run.
        store: one store or several.
        split: the held-out part.
        length: frames of a window; what is left of a clip behind its last whole window is not looked at.
        limit: at most so many windows, spread evenly over all; all of them without it.
        out: where the results go; ``RUN/evaluation`` without it.
        device: ``cpu``, ``cuda``, ... or ``auto``, which takes CUDA where there is one. An opened run has to be there.
        progress: called with the windows done and their number.

    Returns:
        The content of ``metrics.json``: `methods` holds method -> metric -> mean, `unavailable` metric -> reason.

    Raises:
        EvaluationError: if the run lacks a stage or the snapshot a layer, or for a limit below 1.
        CheckpointError: if `run` is no run folder, or was trained on other schemas than the store has.
        StoreError: if there is no such store, snapshot or split.
    """
    if limit is not None and limit < 1:
        raise EvaluationError(f"a limit of {limit} windows leaves nothing to measure; give 1 or more")
    began = time.monotonic()
    device = pick_device(device)
    run = run if isinstance(run, Run) else load_run(run, device)
    _check_stages(run)
    stores = [store] if isinstance(store, str) else list(store)
    for one in stores:
        check_schemas(run.schemas, schemas(one, snapshot), str(run.path))
    plan = Plan(stores, snapshot, split, length=length, source="frontal", shuffle=False)
    chosen = np.arange(len(plan)) if limit is None else _spread(len(plan), limit)

    tallies = {name: Tally(metrics.Learned(device)) for name in METHODS}
    grid: dict[str, Sample] = {}
    windows = 0
    for sample in _samples(run, plan, chosen, torch.device(device)):
        for name, made in sample.made.items():
            tallies[name].add(sample.clip, sample.arrays, made)
        if len(grid) < 6:
            grid.setdefault(sample.clip, sample)
        windows += 1
        if progress:
            progress(windows, len(chosen))

    unavailable = dict(tallies["model"].learned.unavailable)
    if "flow" not in sample.arrays:
        reason = f"snapshot {snapshot!r} has no flow layer: run `remot annotate STORE --layer flow`"
        unavailable |= {"tcm": reason, "tcm_masked": reason}
    methods = {name: tally.means() for name, tally in tallies.items()}
    report = {
        "run": str(run.path),
        "preset": run.config.name,
        "size": list(run.config.size),
        "stores": stores,
        "snapshot": snapshot,
        "split": split,
        "clips": len({clip for values in tallies["model"].values.values() for clip in values}),
        "windows": windows,
        "frames": windows * length,
        "length": length,
        "background": "black: the snapshot has no background layer" if sample.on_black else "layer",
        "methods": methods,
        "unavailable": unavailable,
        "conventions": {k: v for k, v in metrics.CONVENTIONS.items() if k in methods["model"]},
        "published": {"source": "arXiv 2209.00475", "note": NOT_COMPARABLE, "tables": PUBLISHED},
        "seconds": round(time.monotonic() - began, 1),
    }
    folder = Path(out) if out is not None else run.path / "evaluation"
    write_atomically(folder / "samples.png", _png(picture(list(grid.values()))))
    write_atomically(folder / "metrics.md", markdown(report).encode())
    write_atomically(folder / "metrics.json", (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    return report


def _check_stages(run: Run) -> None:
    missing = [stage for stage in run.config.stages if stage not in run.generators]
    if missing:
        raise EvaluationError(
            f"{run.path} has no trained {' and '.join(missing)} stage; train it with "
            f"`remot train STORE --stage {missing[0]} --out {run.path}`"
        )


def _spread(total: int, limit: int) -> np.ndarray:
    return np.unique(np.linspace(0, total - 1, min(limit, total)).round().astype(int))


def _samples(run: Run, plan: Plan, chosen: np.ndarray, device: torch.device) -> Iterator[Sample]:
    states, expected = None, ("", -1)
    for index in chosen:
        found = plan.window(int(index), run.config.size)
        window = _complete(found)
        if (window.clip, window.first) != expected:
            states = None
        made, states = _methods(run, window, states, device)
        expected = (window.clip, window.first + plan.length)
        yield Sample(window.clip, window.arrays, made, on_black="background" not in found.arrays)


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
    run: Run, window: Window, states: Mapping[str, rollout.State] | None, device: torch.device
) -> tuple[dict[str, np.ndarray], dict[str, rollout.State]]:
    """Frames of every method for a window, and the networks' state behind it."""
    arrays = {k: v.to(device)[None] for k, v in to_torch(window).items()}
    source, source_labels, background = (arrays[k] for k in ("source", "source_labels", "background"))
    done, states = rollout.transfer(
        run.generators, run.config, source, source_labels, arrays["pose_map"], background, states=states
    )
    six = [rollout.convert_labels(arrays[k], "remot11", "remot6") for k in ("source_labels", "labels")]
    moved = rollout.align_clip(dataclasses.replace(run.config, use_gam=True), source, *six)
    pasted = torch.where(moved.labels[:, :, None] > 0, moved.image, background[:, None])
    made = {
        "model": to_uint8(done.images[0]),
        "source copied": np.repeat(window.arrays["source"][None], len(window.arrays["frames"]), 0),
        "source after GAM": to_uint8(pasted[0]),
    }
    return made, states


def picture(samples: Sequence[Sample]) -> np.ndarray:
    """The middle frame of each sample in a row: source, driving pose, real, and every method; uint8 RGB."""
    rows = []
    for sample in samples:
        t, arrays = len(sample.arrays["frames"]) // 2, sample.arrays
        shown = [arrays["source"], arrays["pose_map"][t], arrays["frames"][t]]
        rows.append([*shown, *(sample.made[name][t] for name in METHODS)])
    names = ("source", "driving pose", "real", *METHODS)
    return render.grid(rows, names, height=max(192, rows[0][0].shape[0]))


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def markdown(report: Mapping[str, Any]) -> str:
    """The report as a page: measured values, their conventions, and the published tables beside them."""
    height, width = report["size"]
    lines = [
        f"# Evaluation of {report['run']}",
        "",
        f"Self-reenactment: preset {report['preset']}, {height}x{width}, split `{report['split']}` of snapshot "
        f"`{report['snapshot']}` of {', '.join(report['stores'])}; {report['frames']} frames in {report['windows']} "
        f"windows of {report['length']} from {report['clips']} clips. Sources are frontal frames of the same clip; "
        "layouts are generated by the model.",
        *([f"\nBackground {report['background']}."] if report["background"] != "layer" else []),
        "",
        *_table({f"**{name}**" if name == "model" else name: v for name, v in report["methods"].items()}),
        "",
        *(f"- {_SIGNS[name]}: {text}." for name, text in report["conventions"].items()),
        *(f"- {_SIGNS[name]}: not measured; {reason}." for name, reason in report["unavailable"].items()),
        "",
        f"## Published ({report['published']['source']})",
        "",
        report["published"]["note"],
    ]
    for data, table in report["published"]["tables"].items():
        lines += ["", f"{data}, published:", "", *_table(table)]
    return "\n".join(lines) + "\n"


def _table(rows: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    columns = [name for name in _ORDER if any(name in row for row in rows.values())]
    lines = ["| | " + " | ".join(_SIGNS[c] for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        cells = (_cell(c, row.get(c)) for c in columns)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _cell(metric: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if metric in ("psnr", "mask_psnr", "fid") else f"{value:.3f}"
