"""The results of an evaluation for people: the page with the published tables, sheets of frames, the table of all.

Published numbers are those of the paper (arXiv 2209.00475). They are for orientation: other data, size and detectors.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from remot_data import render

_FULL = ("ssim", "psnr", "lpips", "fid", "tcm")
_MASKED = ("mask_ssim", "mask_psnr", "lpips", "fid", "tcm")


def _rows(names: Sequence[str], rows: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {method: dict(zip(names, values, strict=False)) for method, values in rows.items()}


# Tables 1 to 4 as they are printed; the ablations are masked, and have the learned metrics for two of the variants.
PUBLISHED = {
    "Table 1, iPER": _rows(
        _FULL,
        {
            "EDN": (0.840, 23.39, 0.076, 56.29, 0.361),
            "FSV2V": (0.780, 20.44, 0.110, 110.99, 0.184),
            "LWGAN": (0.825, 21.43, 0.091, 77.99, 0.197),
            "C2F": (0.849, 24.27, 0.072, 55.07, 0.687),
            "REMOT": (0.856, 25.33, 0.065, 53.04, 0.793),
        },
    ),
    "Table 2, SoloDance": _rows(
        (*_FULL, "mask_ssim", "mask_psnr"),
        {
            "EDN": (0.811, 23.22, 0.051, 53.17, 0.347),
            "FSV2V": (0.721, 20.84, 0.132, 112.99, 0.106),
            "LWGAN": (0.786, 20.87, 0.106, 86.53, 0.176, 0.935, 22.48),
            "C2F": (0.879, 26.65, 0.049, 46.49, 0.641, 0.935, 24.94),
            "REMOT": (0.850, 24.83, 0.045, 53.29, 0.788, 0.953, 27.89),
        },
    ),
    "Table 3, ablation on iPER": _rows(
        _MASKED,
        {
            "RGN without GAM": (0.892, 20.94),
            "REMOT without WCN": (0.895, 21.32),
            "REMOT without TAM": (0.928, 26.62, 0.074, 55.23, 0.715),
            "REMOT": (0.952, 28.87, 0.065, 53.04, 0.793),
        },
    ),
    "Table 4, ablation on SoloDance": _rows(
        _MASKED,
        {
            "RGN without GAM": (0.921, 24.56),
            "REMOT without WCN": (0.937, 25.54),
            "REMOT without TAM": (0.941, 26.25, 0.053, 64.37, 0.723),
            "REMOT": (0.953, 27.89, 0.045, 53.29, 0.788),
        },
    ),
}
NOT_COMPARABLE = (
    "The published numbers are for 256x192 frames of iPER and SoloDance with OpenPose, SCHP and FlowNet2. They stand "
    "here for orientation and are not comparable with numbers of other data, another size or other detectors."
)
_ORDER = ("ssim", "psnr", "mask_ssim", "mask_psnr", "lpips", "fid", "tcm", "tcm_masked")
_SIGNS = {"ssim": "SSIM ↑", "psnr": "PSNR ↑", "mask_ssim": "Mask-SSIM ↑", "mask_psnr": "Mask-PSNR ↑"} | {
    "lpips": "LPIPS ↓", "fid": "FID ↓", "tcm": "TCM ↑", "tcm_masked": "TCM, unoccluded ↑",
}  # fmt: skip


def sheet(rows: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Rows of pictures uint8 [H, W, 3] by name, side by side under their names; uint8 RGB."""
    pictures = [list(row.values()) for row in rows]
    return render.grid(pictures, list(rows[0]), height=max(192, pictures[0][0].shape[0]))


def png(image: np.ndarray) -> bytes:
    """A picture uint8 [H, W, 3], RGB, as PNG."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def frame_table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """CSV with a line a method and scored frame."""
    text = io.StringIO()
    names = list(dict.fromkeys(name for lines in rows.values() for line in lines for name in line))
    out = csv.DictWriter(text, ["method", *names], lineterminator="\n")
    out.writeheader()
    for method, lines in rows.items():
        out.writerows({"method": method, **line} for line in lines)
    return text.getvalue().encode()


def markdown(report: Mapping[str, Any]) -> str:
    """The report as a page: measured values, their conventions, and the published tables beside them."""
    height, width = report["size"]
    lines = [
        f"# Evaluation of {report['run']}",
        "",
        f"Self-reenactment: preset {report['preset']}, {height}x{width}, split `{report['split']}` of snapshot "
        f"`{report['snapshot']}` of {', '.join(report['stores'])}; {report['frames']} scored frames of "
        f"{report['windows']} windows of {report['length']} from {report['clips']} clips.",
        *([f"\nBackground {report['background']}."] if report["background"] != "layer" else []),
        "",
        *_table({f"**{name}**" if name == "model" else name: v for name, v in report["methods"].items()}),
        "",
        *(f"- {_SIGNS[name]}: {text}." for name, text in report["conventions"].items()),
        *(f"- {_SIGNS[name]}: not measured; {reason}." for name, reason in report["unavailable"].items()),
        "",
        "## Protocol",
        "",
        *_protocol(report["protocol"]),
        "",
        "## By clip",
        "",
        *_table(report["by_clip"]),
        "",
        "## Worst frames, by Mask-PSNR (`worst.png`)",
        "",
        *_table({f"{row['clip']}, frame {row['frame']}": row for row in report["worst"]}),
        "",
        f"## Published ({report['published']['source']})",
        "",
        report["published"]["note"],
    ]
    for name, table in report["published"]["tables"].items():
        lines += ["", f"{name}, published, not comparable:", "", *_table(table)]
    return "\n".join(lines) + "\n"


def _protocol(protocol: Mapping[str, Any]) -> list[str]:
    spans = {clip: ", ".join(f"{a} to {b}" for a, b in spans) for clip, spans in protocol["scored_frames"].items()}
    sources = protocol["source_frames"]
    return [
        f"- Task: {protocol['task']}. Source: {protocol['source_rule']}. "
        f"Layouts are {protocol['layouts']}, poses {protocol['poses']}.",
        f"- Frames: {protocol['sequences']}; the first {protocol['skipped']} of each sequence are not scored.",
        f"- Pixels outside the picture of a clip's source are {protocol['outside']}.",
        *(f"- `{clip}`: source frame {sources[clip]}; scored {text}." for clip, text in spans.items()),
        *(f"- Network `{stage}`: sha256 {sha}." for stage, sha in protocol["networks"].items()),
        *(f"- {name.upper()} network: {text}." for name, text in protocol["learned"].items()),
        *(
            f"- Layers of {store}: {', '.join(f'{kind} {layer}' for kind, layer in layers.items())}."
            for store, layers in protocol["layers"].items()
        ),
        f"- Configuration {protocol['config']}; {', '.join(f'{k} {v}' for k, v in protocol['versions'].items())}.",
    ]


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
