"""One step of training: what reaches the optimizers, and what a batch that spoils it leaves behind."""

from __future__ import annotations

import copy

import pytest
import torch

from remot_data.reading.stream import to_torch
from remot_model import networks
from remot_model.config import StagePlan
from remot_model.training.stages import Setting, needed_generators
from remot_model.training.trainer import Trainer, TrainingError
from tests.remot_model.windows import Windows, clip_arrays, small_config

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


class Blurred(torch.nn.Module):
    """Stands in for perceptual features: the image at half and quarter size."""

    weights = (0.5, 1.0)

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Identity()

    def forward(self, images):
        return [torch.nn.functional.avg_pool2d(images, n) for n in (2, 4)]


@pytest.fixture(scope="module")
def batch():
    """A window of eight frames, enough for every temporal discriminator."""
    return {name: x[None] for name, x in to_torch(Windows(clip_arrays(8), 8).window(0)).items()}


def trainer_of(stage, fields, length=8):
    plan = StagePlan(1, 1, length=length, chunk=fields.pop("chunk", length), lr=1e-3)
    config = small_config(**{stage: plan, **fields})
    earlier = {
        name: networks.generator(name, config).requires_grad_(False) for name in needed_generators(stage, config)
    }
    return Trainer(stage, Setting(config, Blurred() if config.perceptual_on else None, earlier), CPU, 0)


def keeping_gradients(trainer):
    """The gradients that the optimizers are given, by the parameter; the last of each."""
    seen = {}
    for optimizer in trainer.optimizers.values():

        def step(*args, original=optimizer.step, groups=optimizer.param_groups):
            seen.update({p: p.grad for group in groups for p in group["params"] if p.grad is not None})
            return original(*args)

        optimizer.step = step
    return seen


VARIANTS = [
    ("layout", {}),
    ("layout", {"layout_classes": 6, "norm": "layer"}),
    ("layout", {"first_frame_raw": False, "chunk": 3}),
    ("region", {"crop_regions": True}),
    ("region", {"crop_regions": False, "mask_frames": 1}),
    ("region", {"crop_regions": "sizes", "norm": "layer"}),
    ("region", {"crop_parts": True, "lambda_per": 10.0, "lambda_gram": 1.0}),
    ("whole", {"lambda_image": 0.0}),
    ("whole", {"lambda_image": 10.0, "lambda_per": 10.0, "norm": "layer"}),
    ("whole", {"use_tam": False, "first_frame_raw": False, "chunk": 3}),
    ("whole", {"tam_softmax": False, "refine_coarse": False, "background_hole": False}),
    ("whole", {"predicted_layouts": 1.0, "crop_regions": False}),
]


slow = pytest.mark.slow
LAYOUTS = [("float32", False), ("bfloat16", True)]
OTHERS = [pytest.param(precision, not last, marks=slow) for precision, last in LAYOUTS]


@pytest.mark.parametrize(("precision", "last"), [*LAYOUTS, *OTHERS])
@pytest.mark.parametrize(("stage", "fields"), VARIANTS, ids=str)
def test_each_trained_weight_gets_a_gradient_in_its_own_memory_layout(batch, stage, fields, precision, last):
    """The fused Adam of a GPU goes through weights and gradients side by side, in the order of their memory."""
    trainer = trainer_of(stage, {**fields, "precision": precision, "channels_last": last})
    seen = keeping_gradients(trainer)
    dict(trainer.step(batch, 1e-3))
    trained = {n: p for net in (trainer.net, trainer.judges) for n, p in net.named_parameters() if p.requires_grad}
    assert not [name for name, p in trained.items() if p not in seen]
    assert {p.dtype for p in seen} == {torch.float32}
    wrong = {n: (p.stride(), seen[p].stride()) for n, p in trained.items() if seen[p].stride() != p.stride()}
    assert not wrong
    if last:
        assert any(p.ndim == 4 and not p.is_contiguous() for p in trained.values())
    resting = [p for net in (trainer.net, trainer.judges) for p in net.parameters() if not p.requires_grad]
    assert all(p not in seen and not p.any() for p in resting), "biases that a norm takes away"


def all_of(trainer):
    """Everything that a step may change, but the number of steps, as copies."""
    state = copy.deepcopy(trainer.state())
    del state["steps"]
    return state


def differing(a, b, where=""):
    """The paths of what is not the same, to the bit."""
    if isinstance(a, dict):
        return [x for k in a.keys() | b.keys() for x in differing(a.get(k), b.get(k), f"{where}/{k}")]
    if isinstance(a, list | tuple):
        return [x for i, (c, d) in enumerate(zip(a, b, strict=True)) for x in differing(c, d, f"{where}/{i}")]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if same else [where]


def spoilt(batch, name, value):
    found = dict(batch)
    found[name] = batch[name].clone(memory_format=torch.contiguous_format)
    found[name].view(-1)[found[name].numel() // 2] = value
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "name", "value"),
    [
        ("layout", "flow", float("inf")),
        ("layout", "pose_map", float("nan")),
        ("region", "frames", float("nan")),
        ("whole", "frames", float("nan")),
        ("whole", "flow", float("inf")),
    ],
)
def test_a_spoilt_batch_leaves_everything_as_it_was_for_good(batch, stage, name, value):
    trainer = trainer_of(stage, {})
    dict(trainer.step(batch, 1e-3))
    before = all_of(trainer)
    unread = [trainer.step(spoilt(batch, name, value), 1e-3), *(trainer.step(batch, 1e-3) for _ in range(2))]
    assert not differing(before, all_of(trainer))
    with pytest.raises(TrainingError, match=f"the losses .* of the {stage} stage are not finite"):
        dict(unread[0])
    for later in unread[1:]:  # whose losses are fine, but nothing was learnt from them
        with pytest.raises(TrainingError, match=f"gradients of the {stage} stage are not finite"):
            dict(later)


def test_what_came_before_the_spoilt_chunk_of_a_step_is_kept(batch):
    """The second chunk of two is spoilt: the weights are those after the first."""
    states, bad = [], spoilt(batch, "flow", float("inf"))
    assert bad["flow"][:, :4].isfinite().all()
    for frames in (4, 8):
        trainer = trainer_of("layout", {"chunk": 4, "temporal_scales": 1})
        losses = trainer.step({k: x[:, :frames] if x.ndim > 3 and x.shape[1] == 8 else x for k, x in bad.items()}, 1e-3)
        states.append(all_of(trainer))
    assert not differing(*states)
    with pytest.raises(TrainingError, match="losses flow"):
        dict(losses)


@pytest.mark.parametrize("network", ["net", "judges"])
def test_a_gradient_that_is_not_finite_is_found_where_no_loss_shows_it(batch, network):
    trainer = trainer_of("region", {})
    losses = trainer.step(batch, 1e-3)
    before, finite = all_of(trainer), dict(losses)
    weight = next(p for p in getattr(trainer, network).parameters() if p.requires_grad)
    hook = weight.register_hook(lambda g: torch.full_like(g, float("inf")))
    losses = trainer.step(batch, 1e-3)
    hook.remove()
    later = trainer.step(batch, 1e-3)
    assert not differing(before, all_of(trainer))
    for each in (losses, later):
        with pytest.raises(TrainingError, match="gradients of the region stage are not finite; its losses are .*rec"):
            each["rec"]
    assert all(abs(x) < float("inf") for x in finite.values())


@pytest.mark.slow
def test_an_overflow_in_float16_is_no_error(batch):
    trainer = trainer_of("region", {"precision": "float16"})
    trainer.step(batch, 1e-3)  # makes the scale
    trainer.scaler.update(2.0**40)
    before = all_of(trainer)
    losses = dict(trainer.step(batch, 1e-3))
    changed = [path for path in differing(before, all_of(trainer)) if not path.startswith(("/scaler", "/average"))]
    assert not changed and trainer.scaler.get_scale() == 2.0**39 and all(abs(x) < float("inf") for x in losses.values())
    trainer.scaler.update(2.0**4)
    dict(trainer.step(batch, 1e-3))
    assert differing(before["generator"], all_of(trainer)["generator"])


def test_losses_are_read_when_somebody_asks_and_stay(batch):
    trainer = trainer_of("layout", {})
    losses = trainer.step(batch, 1e-3)
    assert losses._read is None
    first = dict(losses)
    trainer.step(batch, 1e-3)
    assert dict(losses) == first and len(losses) == len(first) and "gan_temporal3" in losses


def test_a_loss_that_the_stage_does_not_name_ends_the_first_step(batch):
    trainer = trainer_of("layout", {})
    trainer.stage.terms = tuple(name for name in trainer.stage.terms if name not in ("nll_raw", "flow"))
    with pytest.raises(TrainingError, match="losses flow, nll_raw are not among the terms"):
        trainer.step(batch, 1e-3)


def test_a_loss_without_images_is_absent_and_no_nan(batch):
    """Nobody shows a head, so the face discriminator judges nothing; its weights stay."""
    faceless = dict(batch)
    faceless["labels"] = torch.where((batch["labels"] == 3) | (batch["labels"] == 4), 0, batch["labels"])
    trainer = trainer_of("whole", {})
    before = copy.deepcopy(trainer.judges["face"].state_dict())
    losses = trainer.step(faceless, 1e-3)
    assert "gan_face" not in losses and "feat_face" not in losses and "gan_image" in losses
    assert not differing(before, dict(trainer.judges["face"].state_dict()))


@pytest.mark.slow
def test_a_spoilt_batch_in_float16_is_told_and_its_step_left_out(batch):
    trainer = trainer_of("region", {"precision": "float16"})
    trainer.step(batch, 1e-3)  # makes the scale
    trainer.scaler.update(2.0**4)
    dict(trainer.step(batch, 1e-3))
    before = all_of(trainer)
    losses = trainer.step(spoilt(batch, "frames", float("nan")), 1e-3)
    changed = [path for path in differing(before, all_of(trainer)) if not path.startswith("/scaler")]
    assert not changed and trainer.scaler.get_scale() == 2.0**3
    with pytest.raises(TrainingError, match="losses rec"):
        dict(losses)
    with pytest.raises(TrainingError, match="gradients"):
        dict(trainer.step(batch, 1e-3))
