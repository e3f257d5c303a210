"""What a training step asks of a GPU, counted without one; and that the counter sees what it has to see."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from benchmarks._counting import batch_of, count_step, counted, few_channels, trainer_of  # noqa: E402
from remot_model import networks  # noqa: E402
from remot_model.generating import inference  # noqa: E402

# About the kernels that a GPU launches for a step of `paper` on whole frames. Whoever lowers them lowers these.
MOST = {"region": 2000, "whole": 4500, "layout": 3200}
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("stage", MOST)
def test_a_step_launches_little_and_never_waits_for_a_value(stage: str) -> None:
    found = count_step(stage, few_channels("paper", stage, size=(64, 48), precision="float32"))
    assert found.operations.total() <= MOST[stage], found.operations.most_common(15)
    assert not found.places


@pytest.mark.slow
def test_a_piece_of_a_transfer_launches_little_and_never_waits_for_a_value() -> None:
    config = few_channels("paper", "region", size=(64, 48), precision="float32", cpu_kernels=False)
    nets = {s: networks.generator(s, config).eval().requires_grad_(False) for s in config.stages}
    runner = inference.Runner(inference.Networks(nets, config), lanes=False)
    runner._together = 4  # as on a GPU
    batch = batch_of(config, 1, 16)
    clip = [batch[name] for name in ("source", "source_labels", "pose_map", "background")]
    _, states = runner(*clip)
    with counted() as found:
        runner(*clip, states=states)
    assert found.operations.total() <= 16 * 700, found.operations.most_common(15)
    assert not found.places


WAITS: dict[str, Callable[[torch.Tensor], object]] = {
    "cpu": lambda x: x.cpu(),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.sum()),
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.sum()),
    "to cpu": lambda x: x.to("cpu"),
    "index": lambda x: x[x > 0],
    "index_put_": lambda x: x.clone().index_put_([x > 0], x[0]),
    "nonzero": lambda x: x.nonzero(),
    "masked_select": lambda x: x.masked_select(x > 0),
    "_unique2": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "repeat_interleave": lambda x: x.repeat_interleave(torch.ones(3, dtype=torch.int64)),
    "tensor": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
}


@pytest.mark.parametrize("name", WAITS)
def test_every_kind_of_wait_is_seen_once(name: str) -> None:
    x = torch.tensor([1.0, -1.0, 2.0])
    with counted() as count:
        WAITS[name](x)
    assert count.waits == {name: 1}
    assert [Path(__file__).name in place for place in count.places] == [True]


def test_what_a_gpu_does_by_itself_is_no_wait() -> None:
    x = torch.tensor([1.0, -1.0, 2.0])
    with counted() as count:
        kept = torch.where(x > 0, x, 0.0)[torch.arange(2)].to(x.device).to(torch.float64)
        kept.masked_fill(kept > 1, 0.0).repeat_interleave(2)
    assert not count.waits
    assert count.operations["where"] == count.operations["masked_fill"] == count.operations["_to_copy"] == 1


def test_a_condition_on_a_tensor_is_a_wait() -> None:
    with pytest.raises(ValueError), counted() as count:
        if torch.ones(()):
            raise ValueError
    assert count.waits == {"bool": 1}


def test_tensors_are_as_before_when_the_count_is_over() -> None:
    before = [dict(vars(torch.Tensor)), torch.tensor, torch.as_tensor]
    with counted():
        pass
    assert [dict(vars(torch.Tensor)), torch.tensor, torch.as_tensor] == before
    assert torch.ones(()) and int(torch.ones(())) == 1


def test_views_and_empty_memory_are_no_operations_and_copies_are() -> None:
    x = torch.ones(2, 3, 4)
    with counted() as count:
        x.view(6, 4).movedim(0, 1)[1:].unsqueeze(0).expand(5, -1, -1).detach()
        torch.empty_like(x).reshape(-1).chunk(2)
    assert not count.operations
    with counted() as count:
        x.transpose(0, 2).reshape(-1).copy_(torch.zeros(24).fill_(1))
        x.clone().double()
    assert count.operations == {"clone": 2, "copy_": 1, "zeros": 1, "fill_": 1, "_to_copy": 1}


def test_a_custom_operator_counts_what_is_in_it() -> None:
    @torch.library.custom_op("remot_counting::inner", mutates_args=())
    def inner(x: torch.Tensor) -> torch.Tensor:
        return (x + x).exp()

    @torch.library.custom_op("remot_counting::outer", mutates_args=())
    def outer(x: torch.Tensor) -> torch.Tensor:
        return inner(x).view(-1) * float(x.sum())

    outer.register_autograd(lambda ctx, gradient: gradient.sin().view(2, 2))
    x, gradient = torch.ones(2, 2, requires_grad=True), torch.ones(4)
    with counted() as count:
        outer(x).backward(gradient)
    assert count.operations == {"add": 1, "exp": 1, "sum": 1, "mul": 1, "sin": 1, "_local_scalar_dense": 1}
    assert count.waits == {"float": 1}


def test_inference_mode_hides_nothing() -> None:
    layer, x = torch.nn.InstanceNorm2d(3, affine=True), torch.ones(2, 3, 4, 4)
    with torch.no_grad(), counted() as plain:
        layer(x)
    with torch.inference_mode(), counted() as inference:
        layer(x)
    assert plain.operations == inference.operations
    assert plain.operations["repeat"] == 2


@pytest.mark.slow
def test_the_count_does_not_depend_on_the_size() -> None:
    small, large = (few_channels("paper", "layout", size=size) for size in ((64, 48), (96, 80)))
    assert count_step("layout", small).operations == count_step("layout", large).operations


def test_the_windows_fit_the_trainer_and_have_a_face() -> None:
    config = few_channels("paper", "whole", size=(64, 48))
    batch = batch_of(config, 2, 6)
    assert batch["frames"].shape == (2, 6, 3, 64, 48)
    trainer = trainer_of("whole", config, torch.device("cpu"))
    assert "face" in trainer.judges
    assert (batch["source_labels"] > 0).any(-1).any(-1).all()


@pytest.mark.slow
def test_without_a_gpu_one_sentence_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    ran = subprocess.run([sys.executable, "benchmarks/gpu.py"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stdout.count("\n") == 1 and "--count" in ran.stdout


@pytest.mark.slow
def test_all_tables_come_out_small_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    out.write_text(json.dumps({"rows": [{"table": "of before"}, {"table": "training", "stage": "old"}]}))
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--tiny", "--minutes", "9", "--out", str(out)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = json.loads(out.read_text())["rows"]
    by_table = {name: [row for row in rows if row["table"] == name] for name in (row["table"] for row in rows)}
    assert {name: len(found) for name, found in by_table.items()} == {
        "of before": 1, "card": 1, "training": 6, "transfer": 4, "detectors": 4, "feeding": 3,
    }  # fmt: skip
    assert by_table["card"][0]["bfloat16_tflops"] > 0
    for row in by_table["training"]:
        assert row["frames_s"] * row["step_s"] == pytest.approx(3 * row["windows"])
        assert row["share"] > 0 and row["first_s"] > 0 and row["tflop_step"] > 0
    assert all(row["frames_s"] > 0 and (row["eyes"] or row["tflop_frame"] > 0) for row in by_table["transfer"])
    assert [(row["pairs"], row["eyes"], row.get("frames")) for row in by_table["transfer"]] == [
        (1, False, None), (2, False, None), (1, True, 24), (2, True, 48)
    ]  # fmt: skip
    assert all(row.get("skipped") or row["bare_calls_s"] > 0 for row in by_table["detectors"])
    assert all(row["frames_s"] > 0 and 0 <= row["data_wait"] < 1 for row in by_table["feeding"])
    assert "| region | auto | 1 |" in ran.stdout


@pytest.mark.slow
def test_a_row_that_fails_or_kills_its_process_ends_itself_only(tmp_path: Path, monkeypatch) -> None:
    from benchmarks import gpu

    args = gpu.arguments(["--device", "cpu", "--tiny"])
    args.until, args.scratch = float("inf"), str(tmp_path)
    rows = [{"table": "training", "stage": stage, "fields": "auto", "windows": 1} for stage in ("none", "layout")]
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--tiny"])
    failed, done = gpu.in_a_process(rows, args, float("inf"))
    assert "none" in failed["error"] and done["frames_s"] > 0
    monkeypatch.setattr(gpu, "CAPS", {"training": -29.9})
    (killed,) = gpu.in_a_process(rows[1:], args, float("inf"))
    assert "status -9" in killed["error"]


@pytest.mark.slow
def test_a_row_has_a_time_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from benchmarks import gpu

    args = gpu.arguments(["--device", "cpu", "--tiny"])
    args.until = time.time() + 5.2
    monkeypatch.setitem(gpu.WORK, "card", lambda *_: time.sleep(60))
    assert "not done after 5 s" in gpu.measure({"table": "card"}, args)["error"]
    assert gpu.measure({"table": "card"}, args)["skipped"]
