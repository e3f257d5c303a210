"""The networks of a run as ONNX files, one for what a stage computes for one frame.

Between the networks lies plain arithmetic, which `remot_model.generating.rollout` shows: windows of three frames,
argmax, GAM, cutting and pasting of crops, the last two outputs as memory.

- ``layout_source``: layout one-hot [1, K, H, W] -> features, once a clip
- ``layout``: features, poses [1, 9, H, W], memory [1, 2, K, H, W] -> layout, raw
- ``region``: masks [M, mask_frames, h, w], aligned [M, 3, h, w], memory [M, 2, 3, h, w] -> image; M, h and w are free
- ``whole``: context [1, 27, H, W], aligned, coarse and background [1, 3, H, W], person [1, 1, H, W], memory
  [1, 2, 3, H, W] -> image, raw

The first frame of a clip takes `raw`, if the configuration says so. Images are in [-1, 1], masks 0 or 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from remot_data.errors import RemotError
from remot_model.checkpoint import Run, load_run
from remot_model.config import Config
from remot_model.networks.layout import LayoutGenerator
from remot_model.networks.whole import WholeGenerator

OPSET = 20  # the first whose GridSample and Pad are those of the networks without a workaround
TOLERANCE = 1e-3


class ExportError(RemotError, RuntimeError):
    """A graph that cannot be exported, or whose results differ from those of torch."""


class _Step(nn.Module):
    """A function of a network as a module, which is what the exporter takes."""

    def __init__(self, network: nn.Module, function: Callable[..., object]) -> None:
        super().__init__()
        self.network, self.function = network, function

    def forward(self, *inputs: Tensor) -> object:
        return self.function(self.network, *inputs)


@dataclass(frozen=True)
class _Graph:
    """What goes into a file: a function of a network, shapes of its inputs, names of its outputs."""

    stage: str
    function: Callable[..., object]
    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    free: bool = False  # batch and size may change


def _layout(net: LayoutGenerator, features: Tensor, poses: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    frame = net.step(features, net.encode_pose(poses), memory, False)
    return frame.layout, frame.raw


def _whole(
    net: WholeGenerator,
    context: Tensor,
    aligned: Tensor,
    coarse: Tensor,
    background: Tensor,
    person: Tensor,
    memory: Tensor,
) -> tuple[Tensor, Tensor]:
    (codes,) = net.encode(context[:, None], aligned[:, None]).frames()
    frame = net.step(*codes, coarse, person > 0, background, memory, False)
    return frame.image, frame.raw


def _graphs(c: Config) -> dict[str, _Graph]:
    size, k, image = c.size, c.layout_classes, (1, 3, *c.size)
    features = (1, c.features, *(s // 2**c.n_downsample for s in size))
    pieces: dict[str, tuple[int, ...]] = {
        "masks": (5, c.mask_frames, *size),
        "aligned": (5, 3, *size),
        "memory": (5, 2, 3, *size),
    }
    context: dict[str, tuple[int, ...]] = {
        "context": (1, 27, *size),
        "aligned": image,
        "coarse": image,
        "background": image,
    }
    context |= {"person": (1, 1, *size), "memory": (1, 2, 3, *size)}
    step = {"features": features, "poses": (1, 9, *size), "memory": (1, 2, k, *size)}
    return {
        "layout_source": _Graph(
            "layout", lambda net, x: net.encode_source(x), {"layout": (1, k, *size)}, ("features",)
        ),
        "layout": _Graph("layout", _layout, step, ("layout", "raw")),
        "region": _Graph("region", lambda net, *x: net.frame(*x), pieces, ("image",), free=True),
        "whole": _Graph("whole", _whole, context, ("image", "raw")),
    }


def export(run: str | Path | Run, out: str | Path) -> dict[str, float]:
    """Write the networks of a run into the folder `out` and check them with onnxruntime.

    Args:
        run: a run folder or an opened run; stages that were not trained are left out.
        out: a folder; its files are written anew.

    Returns:
        The largest difference to torch of every file, by its name without suffix.

    Raises:
        ExportError: if a package is missing, or a result differs from torch's by more than 0.001.
        remot_model.checkpoint.CheckpointError: if the run cannot be read.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(f"ONNX export needs {error.name}: pip install 'remot[onnx]'") from error
    run = run if isinstance(run, Run) else load_run(run)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    differences = {}
    for name, graph in _graphs(run.config).items():
        if graph.stage in run.generators:
            step = _Step(run.generators[graph.stage].cpu().float(), graph.function).eval()
            _write(step, graph, out / f"{name}.onnx")
            differences[name] = _difference(step, graph, out / f"{name}.onnx", run.config)
            if not differences[name] <= TOLERANCE:
                raise ExportError(f"{out / name}.onnx differs from torch by {differences[name]:.2g}; do not use it")
    return differences


def _examples(shapes: Mapping[str, tuple[int, ...]], chance: torch.Generator) -> list[Tensor]:
    """Random inputs: 0 or 1 where a mask or one-hot layout is meant, else in [-1, 1]."""
    made = [torch.rand(shape, generator=chance) * 2 - 1 for shape in shapes.values()]
    return [(x > 0).float() if name in ("masks", "person") else x for name, x in zip(shapes, made, strict=True)]


def _write(step: nn.Module, graph: _Graph, path: Path) -> None:
    free = {0: torch.export.Dim.AUTO, -2: torch.export.Dim.AUTO, -1: torch.export.Dim.AUTO}
    shapes = tuple({i % len(s): d for i, d in free.items()} for s in graph.inputs.values()) if graph.free else None
    with torch.no_grad(), warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.simplefilter("ignore")  # the exporter's own: deprecations inside of it
        torch.onnx.export(
            step,
            tuple(_examples(graph.inputs, torch.Generator().manual_seed(0))),
            path,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=(shapes,) if shapes else None,
            external_data=False,
            verbose=False,
        )


@torch.no_grad()
def _difference(step: nn.Module, graph: _Graph, path: Path, config: Config) -> float:
    """Largest difference between torch and onnxruntime, at another size too where that is free."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    cell, worst = 2**config.n_downsample, 0.0
    sizes = [config.size, (4 * cell, 2 * cell)] if graph.free else [config.size]
    for seed, size in enumerate(sizes, 1):
        shapes = {n: (*s[:-2], *size) if graph.free else s for n, s in graph.inputs.items()}
        inputs = _examples(shapes, torch.Generator().manual_seed(seed))
        found = session.run(None, {n: x.numpy() for n, x in zip(graph.inputs, inputs, strict=True)})
        expected = step(*inputs)
        expected = expected if isinstance(expected, tuple) else (expected,)
        worst = max(
            worst, *(float((torch.from_numpy(a) - b).abs().max()) for a, b in zip(found, expected, strict=True))
        )
    return worst
