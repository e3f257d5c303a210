"""The kernels of a GPU against plain torch: here in Triton's interpreter, which runs them on the CPU; on a GPU truly.

The interpreter has to be chosen before Triton is imported, for the whole process. So what runs in it is started as a
process of its own, with this file as its test module again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from remot_model.config import STAGES  # noqa: E402
from remot_model.networks import gpu  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_TRITON, HAS_GPU = find_spec("triton") is not None, torch.cuda.is_available()
ROOT = Path(__file__).parents[3]
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed; torch for CUDA brings it along")
on_gpu = pytest.mark.skipif(not HAS_GPU or INTERPRETED, reason="there is no GPU that torch can use")
# What runs either in the interpreter or on a GPU.
either = pytest.mark.skipif(
    not (INTERPRETED or (HAS_GPU and HAS_TRITON)), reason="runs in Triton's interpreter, by the test below, or on a GPU"
)
DEVICE = torch.device("cuda" if HAS_GPU and not INTERPRETED else "cpu")
KINDS = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def _take(monkeypatch, request):
    """In the interpreter maps on the CPU are taken too."""
    if INTERPRETED:
        monkeypatch.setattr(gpu, "takes", lambda x: not torch.compiler.is_compiling())
    torch.manual_seed(0)


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is the process that the test starts")
@pytest.mark.parametrize(
    ("chosen", "seconds"), [("not whole_step", 300), ("whole_step", 550)], ids=["kernels", "steps"]
)
def test_in_the_interpreter(chosen, seconds):
    words = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(Path(__file__)), "-k", chosen]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def map_of(n, c, h, w, kind=torch.float32, middle=0.0, spread=1.0):
    x = middle + spread * torch.randn(n, c, h, w)
    return x.to(DEVICE, kind).contiguous(memory_format=torch.channels_last)


def both(function, plain, tensors, limit):
    """Values and gradients of a function of tensors, against a plain one in float64 of the same numbers."""
    own = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_(x.requires_grad) for x in tensors]
    wide = [x.detach().double().requires_grad_(x.requires_grad) for x in tensors]
    made, expected = function(*own), plain(*wide)
    _close(made, expected, limit, "values")
    gradient = torch.randn_like(expected).to(made.dtype)
    wanted = [[x for x in each if x.requires_grad] for each in (own, wide)]
    found = torch.autograd.grad(made, wanted[0], gradient)
    right = torch.autograd.grad(expected, wanted[1], gradient.double())
    for i, (a, b, x) in enumerate(zip(found, right, wanted[0], strict=True)):
        assert a.dtype == x.dtype and a.shape == x.shape
        _close(a, b, limit, f"gradient {i}")
    return made


def _close(a, b, limit, what):
    """As close as rounding a value of that size allows, and far closer in the mean."""
    a, scale = a.double(), max(1e-3, float(b.detach().abs().max()))
    assert (a - b).abs().max() <= limit * scale, what
    assert (a - b).norm() <= limit * b.norm() + 1e-12, what


def limit_of(kind):
    return 2e-5 if kind == torch.float32 else 1e-2


SHAPES = [(1, 3, 5, 4), (2, 8, 9, 7), (1, 70, 6, 11), (2, 64, 12, 9)]


@pytest.fixture(params=[False, True], ids=["in parts", "small maps whole"])
def small(request):
    return request.param


def parameters_of(c):
    return [(m + 0.3 * torch.randn(c)).to(DEVICE).requires_grad_() for m in (1.0, 0.0)]


def plain_norm(x, weight, bias, residual=None, slope=1.0, pad=0):
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
    y = (x - mean) / (variance + 1e-5).sqrt() * weight[:, None, None] + bias[:, None, None]
    y = torch.where(y > 0, y, y * slope)
    if residual is not None:
        y = y + residual
    return F.pad(y, (pad,) * 4, mode="reflect") if pad else y


@either
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(
    ("slope", "pad", "adds"), [(1.0, 0, False), (0.0, 0, False), (0.2, 0, True), (0.0, 1, False), (1.0, 3, False)]
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norm(shape, slope, pad, adds, kind, small):
    tensors = [map_of(*shape, kind).requires_grad_(), *parameters_of(shape[1])]
    if adds:
        tensors.append(map_of(*shape, kind).requires_grad_())
    made = both(
        lambda x, w, b, r=None: gpu.norm(x, w, b, 1e-5, slope, pad, r, small),
        lambda x, w, b, r=None: plain_norm(x, w, b, r, slope, pad),
        tensors,
        limit_of(kind),
    )
    assert made.dtype == kind and made.is_contiguous(memory_format=torch.channels_last)


@either
@pytest.mark.parametrize("size", [(5, 4), (12, 9), (40, 33)])
def test_norm_of_a_map_far_from_zero(size, small):
    """1000 +- 1: the squares of such numbers have no digits left for their variance."""
    x = map_of(1, 8, *size, middle=1000.0).requires_grad_()
    both(lambda x, w, b: gpu.norm(x, w, b, 1e-5, small=small), plain_norm, [x, *parameters_of(8)], 5e-4)


@either
def test_norm_of_a_map_that_is_everywhere_the_same(small):
    weight, bias = parameters_of(8)
    x = torch.full((2, 8, 6, 5), 3.0, device=DEVICE).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = gpu.norm(x, weight, bias, 1e-5, small=small)
    assert torch.equal(y, bias.detach()[None, :, None, None].expand_as(y))
    assert torch.autograd.grad(y.square().sum(), x)[0].abs().max() < 1e-3


@either
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("pad", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reflect(shape, pad, kind):
    x = map_of(*shape, kind).requires_grad_()
    made = both(lambda x: gpu.reflect(x, pad), lambda x: F.pad(x, (pad,) * 4, mode="reflect"), [x], limit_of(kind))
    assert torch.equal(made, F.pad(x.float(), (pad,) * 4, mode="reflect").to(kind))
    assert made.is_contiguous(memory_format=torch.channels_last)


@either
@pytest.mark.parametrize("shape", [(1, 3, 5, 4), (2, 27, 9, 7), (1, 70, 6, 5)], ids=str)
def test_reflect_fills_channels_up_and_converts(shape):
    whole = -(-shape[1] // 8) * 8
    x = map_of(*shape).requires_grad_()
    y = gpu.reflect(x, 3, whole, torch.bfloat16)
    assert y.shape[1] == whole and y.dtype == torch.bfloat16
    expected = F.pad(x, (3,) * 4, mode="reflect").bfloat16()
    torch.testing.assert_close(y[:, : shape[1]], expected, rtol=2**-7 if INTERPRETED else 0, atol=0)  # it truncates
    assert not y[:, shape[1] :].any()
    gradient = torch.randn(y.shape, device=DEVICE).bfloat16()  # not channels last
    (found,) = torch.autograd.grad(y, x, gradient)
    plain = x.detach().requires_grad_()
    F.pad(plain, (3,) * 4, mode="reflect").backward(gradient[:, : shape[1]].float())
    torch.testing.assert_close(found, plain.grad, rtol=1e-5, atol=1e-5)


@either
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_shifted(shape, slope, kind):
    def plain(x, bias):
        y = x + bias[:, None, None]
        return torch.where(y > 0, y, y * slope)

    tensors = [map_of(*shape, kind).requires_grad_(), parameters_of(shape[1])[1]]
    both(lambda x, bias: gpu.shifted(x * 1.0, bias, slope), plain, tensors, limit_of(kind))


@either
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", [*SHAPES[:3], (3, 40, 33, 31)], ids=str)
def test_distance(shape, kind):
    y = map_of(*shape, kind)
    x = map_of(*shape, kind).requires_grad_()
    with torch.no_grad():
        x[:, :, 0, 0] = y[:, :, 0, 0]  # where they are the same there is no gradient
    made = both(gpu.distance, lambda x, y: (x - y).abs().mean(), [x, y], limit_of(kind))
    assert made.dtype == torch.float32 and made.shape == ()
    (gradient,) = torch.autograd.grad(gpu.distance(x, y), x)
    assert not gradient[:, :, 0, 0].any()
    assert gpu.distance(x, y).grad_fn is not None and not gpu.distance(x.detach(), y.requires_grad_()).requires_grad


@either
@pytest.mark.parametrize("name", ["norm", "reflect", "distance"])
def test_maps_in_another_memory_layout_are_taken_too(name):
    x, y = (torch.randn(2, 5, 6, 7, device=DEVICE) for _ in range(2))
    weight, bias = (p.detach() for p in parameters_of(5))
    function = {
        "norm": lambda x, y: gpu.norm(x, weight, bias, 1e-5, residual=y),
        "reflect": lambda x, y: gpu.reflect(x, 2),
        "distance": gpu.distance,
    }[name]
    last = [t.contiguous(memory_format=torch.channels_last) for t in (x, y)]
    assert torch.equal(function(x, y), function(*last))


def trainer_and_batch(stage, own=True, **fields):
    from benchmarks._counting import batch_of, few_channels, trainer_of

    fields = {
        "size": (24, 16), "n_downsample": 2, "ngf": 4, "ndf": 4, "region_ndf": 4, "n_blocks": 2, "decoder_blocks": 1,
        "num_d": 1, "d_layers": 2, "temporal_scales": 1,
        "channels_last": True, "gpu_kernels": own, "precision": "float32", "cuda_graphs": False, **fields,
    }  # fmt: skip
    config = few_channels("paper:no-crops", stage, **fields)
    torch.manual_seed(0)
    batch = {name: x.to(DEVICE) for name, x in batch_of(config, 1, 3).items()}
    return trainer_of(stage, config, DEVICE), batch


@either
@pytest.mark.parametrize("stage", STAGES)
def test_a_whole_step_with_the_kernels_and_without(stage, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # rounds to ten bits, so that more signs turn
    found = []
    for own in (False, True):
        trainer, batch = trainer_and_batch(stage, own)
        before = {name: x.clone() for name, x in trainer.net.state_dict().items()}
        losses = dict(trainer.step(batch, 1e-4))
        found.append((losses, {name: x - before[name] for name, x in trainer.net.state_dict().items()}))
    plain, own = (torch.cat([x.flatten() for x in change.values()]) for _, change in found)
    assert found[1][0] == pytest.approx(found[0][0], rel=2e-3, abs=1e-4)
    # Adam's first step is the sign of the gradient, which rounding decides where it is next to nothing.
    assert (plain - own).norm() < 0.25 * plain.norm()


SIGNATURE = {
    "sums": "*fp32", "found": "*fp32", "totals": "*fp32", "weight": "*fp32", "bias": "*fp32", "c": "i32",
    "pixels": "i32", "h": "i32", "w": "i32", "eps": "fp32", "slope": "fp32", "parts": "i32", "channels": "i32",
    "count": "i32",
}  # fmt: skip
TILE = {"PIXELS": 64, "CHANNELS": 64}
FIXED = {
    "moments": [{"EACH": 128, **TILE}],
    "normalise": [
        {"EACH": 128, "MANY": 8, "WRITTEN": 256, "PAD": 0, "ADDS": True, "ACTS": True, **TILE},
        {"EACH": 128, "MANY": 1, "WRITTEN": 256, "PAD": 1, "ADDS": False, "ACTS": True, "residual": None, **TILE},
    ],
    "gradient_sums": [{"EACH": 128, "PAD": pad, "ACTS": True, **TILE} for pad in (0, 1)],
    "normalise_back": [{"MANY": 8, "WRITTEN": 256, "PAD": pad, "ACTS": True, **TILE} for pad in (0, 1)],
    "norm_small": [
        {"PAD": 0, "ADDS": True, "ACTS": True, "PIXELS": 1024, "CHANNELS": 8},
        {"PAD": 1, "ADDS": False, "ACTS": True, "residual": None, "PIXELS": 1024, "CHANNELS": 8},
    ],
    "norm_small_back": [{"PAD": pad, "ACTS": True, "PIXELS": 1024, "CHANNELS": 8} for pad in (0, 1)],
    "reflected": [{"PAD": 3, "PIXELS": 64, "CHANNELS": 16}],
    "reflected_back": [{"PAD": 3, **TILE}],
    "shifted": [{"MANY": 2048}],
    "shifted_back": [{"MANY": 2048}],
    "distances": [{"ROUNDS": 4, "MANY": 2048}],
    "distance_back": [{"MANY": 2048}],
}
# Tensors of the maps' type that are float32 elsewhere, and the other way round.
OTHERS = {"shifted_back": {"found": "map"}, "shifted": {"bias": "map"}, "distance_back": {"g": "*fp32"}}


def _ptxas():
    if not HAS_TRITON or INTERPRETED:
        return False
    from triton import knobs

    try:
        return bool(knobs.nvidia.ptxas.path)
    except (RuntimeError, OSError):  # it is not there, or does not start
        return False


@pytest.mark.skipif(not HAS_TRITON or INTERPRETED or not _ptxas(), reason="Triton's assembler for GPUs is missing")
@pytest.mark.parametrize("kind", ["*bf16", pytest.param("*fp32", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FIXED)
@pytest.mark.slow
def test_kernels_compile_for_a_gpu_without_one(name, kind, monkeypatch, tmp_path):
    """Down to the code of an H100; and a program's shared memory fits any card."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from remot_model.networks import kernels

    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    function = getattr(kernels, name)
    kinds = {**SIGNATURE, **dict.fromkeys(("x", "y", "g", "out", "residual"), kind)}
    kinds |= {key: kind if value == "map" else value for key, value in OTHERS.get(name, {}).items()}
    for fixed in FIXED[name]:
        signature = {n: "constexpr" if n in fixed else kinds[n] for n in function.arg_names}
        constants = {(function.arg_names.index(n),): value for n, value in fixed.items()}
        source = ASTSource(function, signature, constexprs=constants)
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
        assert made.asm["cubin"] and made.metadata.shared <= 48 * 1024


@pytest.mark.skipif(not HAS_TRITON or INTERPRETED, reason="only what Triton compiles has the names of its arguments")
def test_every_kernel_is_in_the_list():
    from remot_model.networks import kernels

    jitted = {name for name in vars(kernels) if getattr(getattr(kernels, name), "arg_names", None) is not None}
    helpers = {"_store_padded", "_load_padded", "_mirrored", "_quotient"}
    assert jitted - helpers == set(FIXED)


@on_gpu
class TestOnAGpu:
    """What neither an interpreter nor a compiler shows."""

    @pytest.mark.parametrize("stage", STAGES)
    def test_a_recorded_step_equals_the_plain_one_to_the_bit(self, stage):
        states = []
        for recorded in (False, True):
            trainer, batch = self._trainer(stage, recorded)
            losses = [dict(trainer.step(batch, 1e-4 / (1 + n))) for n in range(6)]
            assert bool(trainer._recorded) == recorded
            states.append((losses, trainer.state()))
        assert states[0][0] == states[1][0]
        assert not _differing(states[0][1], states[1][1])

    @pytest.mark.parametrize("stage", STAGES)
    def test_a_resumed_run_equals_one_that_went_through(self, stage):
        import io

        through, batch = self._trainer(stage, True)
        for _ in range(6):
            through.step(batch, 1e-4)
        stopped, _ = self._trainer(stage, True)
        for _ in range(4):
            stopped.step(batch, 1e-4)
        buffer = io.BytesIO()
        torch.save(stopped.state(), buffer)
        buffer.seek(0)
        resumed, _ = self._trainer(stage, True)
        resumed.load(torch.load(buffer, map_location="cpu", weights_only=True))
        for _ in range(2):
            resumed.step(batch, 1e-4)
        assert not _differing(through.state(), resumed.state())

    def test_a_spoilt_batch_leaves_everything_as_it_was(self):
        from remot_model.training.trainer import TrainingError

        trainer, batch = self._trainer("region", True)
        for _ in range(4):
            trainer.step(batch, 1e-4)
        before = {k: v.clone() for k, v in trainer.net.state_dict().items()}
        spoilt = {**batch, "frames": torch.full_like(batch["frames"], float("nan"))}
        unread = [trainer.step(b, 1e-4) for b in (spoilt, batch)]
        assert not _differing(before, dict(trainer.net.state_dict()))
        for losses in unread:
            with pytest.raises(TrainingError):
                dict(losses)

    def _trainer(self, stage, recorded):
        return trainer_and_batch(stage, precision="bfloat16", cuda_graphs=recorded, ngf=16, ndf=16, region_ndf=16)


def _differing(a, b, where=""):
    """The paths of what is not the same, to the bit."""
    if isinstance(a, dict):
        return [x for k in a.keys() | b.keys() for x in _differing(a.get(k), b.get(k), f"{where}/{k}")]
    if isinstance(a, list | tuple):
        return [x for i, (c, d) in enumerate(zip(a, b, strict=True)) for x in _differing(c, d, f"{where}/{i}")]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if same else [where]
