import sys

import pytest
import torch
import typer
from typer.testing import CliRunner

from remot_model import checkpoint, cli, networks, onnx_export
from remot_model.checkpoint import Run
from remot_model.generating import rollout
from remot_model.generating.rollout import one_hot
from remot_model.onnx_export import ExportError, export
from tests.remot_model.windows import SCHEMAS, SIZE, small_config


def a_run(path, **fields):
    config = small_config(clip_regions=False, crop_regions=False, **fields)
    torch.manual_seed(0)
    return Run(path, config, {s: networks.generator(s, config).eval() for s in config.stages}, SCHEMAS, {})


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"onnxruntime: pip install 'remot\[onnx\]'"):
        export(a_run(tmp_path), tmp_path / "onnx")


@pytest.mark.slow
def test_a_clip_through_the_files_equals_the_clip_through_torch(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = a_run(tmp_path)
    checkpoint.write_info(tmp_path, {"config": run.config.to_json(), "schemas": SCHEMAS})
    for stage, net in run.generators.items():
        checkpoint.save_generator(tmp_path, stage, net, run.config, SCHEMAS)
    app = typer.Typer()
    app.command()(cli.export_onnx)
    done = CliRunner().invoke(app, ["--run", str(tmp_path), "--out", str(tmp_path / "onnx"), "--json"])
    assert done.exit_code == 0, done.output

    def call(name, **inputs):
        session = runtime.InferenceSession(str(tmp_path / "onnx" / f"{name}.onnx"))
        return [torch.from_numpy(x) for x in session.run(None, {k: v.numpy() for k, v in inputs.items()})]

    poses, images, background = torch.rand(1, 3, 3, *SIZE), torch.rand(1, 3, 3, *SIZE), torch.rand(1, 3, *SIZE)
    labels = torch.randint(0, 6, (1, 3, *SIZE))
    source = one_hot(torch.randint(0, 11, (1, *SIZE)), 11)
    with torch.no_grad():
        layouts, _ = rollout.layouts(run.generators["layout"], source, poses)
        parts, _ = rollout.regions(run.generators["region"], run.config, labels, images, labels)
        coarse = parts.sum(2)
        given = (poses, labels, coarse, images, background)
        whole, _ = rollout.whole(run.generators["whole"], run.config, *given)
    (features,) = call("layout_source", layout=source)
    masks = one_hot(labels, 6)[0, :, 1:, None]  # [T, 5, 1, H, W]
    windows = {
        "poses": rollout.windows(poses, None),
        "masks": rollout.windows(masks.transpose(0, 1), None),
        "context": rollout.windows(torch.cat([poses, one_hot(labels, 6)], 2), None),
    }
    behind = rollout.background_of(run.config, background, labels)
    memory = {"layout": torch.zeros(1, 2, 11, *SIZE), "region": torch.zeros(5, 2, 3, *SIZE)}
    memory["whole"] = torch.zeros(1, 2, 3, *SIZE)
    for t in range(3):
        made, raw = call("layout", features=features, poses=windows["poses"][:, t], memory=memory["layout"])
        now = {"layout": made if t else raw}
        aligned = images[0, t] * masks[t]
        (now["region"],) = call("region", masks=windows["masks"][:, t], aligned=aligned, memory=memory["region"])
        scene = {"context": windows["context"][:, t], "aligned": images[:, t], "background": behind[:, t]}
        scene |= {"coarse": coarse[:, t], "person": (labels[:, t, None] > 0).float()}
        made, raw = call("whole", **scene, memory=memory["whole"])
        now["whole"] = made if t else raw
        for name, expected in (("layout", layouts.layout), ("region", parts), ("whole", whole.image)):
            assert torch.allclose(now[name].squeeze(0), expected[0, t], atol=1e-4), (name, t)
        memory = {name: torch.stack([memory[name][:, 1], x], 1) for name, x in now.items()}


@pytest.mark.slow
def test_a_file_that_differs_from_torch_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = a_run(tmp_path, use_wcn=False)
    original = onnx_export._write

    def spoilt(step, graph, path):
        original(step, graph, path)
        with torch.no_grad():
            next(step.parameters()).add_(1.0)

    monkeypatch.setattr(onnx_export, "_write", spoilt)
    run.generators.pop("region")
    with pytest.raises(ExportError, match="layout_source.onnx differs from torch"):
        export(run, tmp_path / "onnx")
