"""The loss terms (sections 4, 5, 7 and 8 of the specification). Every mean runs over all elements, masked or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remot_model.config import Config
from remot_model.networks import gpu
from remot_model.networks.warping import chain_flow, constant, warp
from remot_model.training.features import Features

PHOTOMETRIC_LIMIT = 0.02
# The smooth L1 has a kernel that subtracts, takes the mean and its gradient at once; so sharp it is the plain one.
_L1 = partial(F.smooth_l1_loss, beta=1e-9)


@dataclass(frozen=True)
class Pair:
    """What one discriminator judges: conditions and images side by side as channels.

    `real` is [M, c, H, W]; each of `fakes` (the final and the raw output, say) has the same shape. `weight`
    multiplies the generator's losses. `keep`, float [M] of 0 and 1, leaves images out: losses are means over the
    others, 0 where there is none. So shapes do not depend on what is in the images.
    """

    real: Tensor
    fakes: tuple[Tensor, ...]
    weight: float = 1.0
    keep: Tensor | None = None


@dataclass(frozen=True)
class Pairs:
    """Pairs of several sizes for one discriminator; each counts by its share in `shares`."""

    pairs: tuple[Pair, ...]
    shares: tuple[float, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Judgement:
    """Losses of one discriminator: `d` for itself, `gan` and `feat` (feature matching) for the generator."""

    d: Tensor
    gan: Tensor
    feat: Tensor


def judge(discriminator: nn.Module, pair: Pair | Pairs, config: Config) -> Judgement:
    """LSGAN and feature matching from one pass over the real and one over all fake images.

    `d` is half the sum of (real + fake) over the fakes, so the real images weigh as much as all fakes together.
    The same logits serve both sides: take `d`'s gradient with respect to the discriminator only, that of `gan` and
    `feat` with respect to the generator only.
    """
    if isinstance(pair, Pairs):
        found = [judge(discriminator, each, config) for each in pair.pairs]
        d, gan, feat = (
            torch.stack([share * getattr(j, name) for share, j in zip(pair.shares, found, strict=True)]).sum()
            for name in ("d", "gan", "feat")
        )
        return Judgement(d, gan, feat)
    count = len(pair.fakes)
    real = discriminator(pair.real)
    fake = discriminator(torch.cat(pair.fakes) if count > 1 else pair.fakes[0])
    of_d: list[Tensor] = []
    of_gan: list[Tensor] = []
    of_feat: list[Tensor] = []
    shares = None if pair.keep is None else pair.keep / pair.keep.sum().clamp(min=1)
    for of_real, of_fake in zip(real, fake, strict=True):
        of_d += [_mean_square(of_real[-1], 1.0, shares), _mean_square(of_fake[-1], 0.0, shares)]
        of_gan.append(_mean_square(of_fake[-1], 1.0, shares))
        for a, b in zip(of_real[:-1], of_fake[:-1], strict=True):
            wanted = a.detach()[None].expand(count, *a.shape).flatten(0, 1)
            of_feat.append(_distance(b, wanted, config) if shares is None else _mean(_L1, b, wanted, shares))
    share = 4 / (config.d_layers + 1) / len(real)
    return Judgement(_sum(of_d) * (count / 2), _sum(of_gan) * count, _sum(of_feat) * (count * share))


def _distance(x: Tensor, y: Tensor, config: Config) -> Tensor:
    """mean |x - y| of two maps, a gradient for x alone."""
    if config.fuses and gpu.takes(x):
        return gpu.distance(x, y)
    return _L1(x, y)


def _sum(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum()


def _mean_square(x: Tensor, wanted: float, shares: Tensor | None) -> Tensor:
    return _mean(F.mse_loss, x, constant(_filled, wanted, x.dtype, x.device).expand_as(x), shares)


def _mean(loss: Callable[..., Tensor], x: Tensor, y: Tensor, shares: Tensor | None) -> Tensor:
    """The mean of a loss over x and y [M, ...]; with `shares` [m], of the images of each of M / m fakes."""
    if shares is None:
        return loss(x, y)
    each = loss(x, y, reduction="none").mean(tuple(range(1, x.ndim)))
    versions = len(each) // len(shares)
    return torch.dot(each, shares.repeat(versions)) / versions


def _filled(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((), value, dtype=dtype, device=device)


def layout_nll(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Negative log likelihood: probabilities [M, K, H, W], labels int64 [M, H, W]."""
    # The mean of each pixel's loss: nll_loss itself adds them in any order on a GPU, and no two runs agree.
    return F.nll_loss(torch.log(probabilities + 1e-6), labels, reduction="none").mean()


def masked_l1(a: Tensor, b: Tensor, confidence: Tensor) -> Tensor:
    """mean |(a - b) * confidence| of [M, c, H, W] and [M, 1, H, W]."""
    return ((a - b) * confidence).abs().mean()


def photometric_confidence(frames: Tensor, before: Tensor, flow: Tensor) -> Tensor:
    """1 where the squared difference to the warped frame before, summed over channels, is below 0.02, else 0.

    Args:
        frames: [M, 3, H, W] in [-1, 1].
        before: the frames before them.
        flow: [M, 2, H, W] in pixels.

    Returns:
        float [M, 1, H, W].
    """
    error = (frames - warp(before, flow)).square().sum(1, keepdim=True)
    return (error < PHOTOMETRIC_LIMIT).to(frames.dtype)


@dataclass(frozen=True)
class Motion:
    """What the temporal losses compare: all [M, c, H, W], M frames of any clips.

    `real` and `made` with the frame before each; `flow` and `weight` of the network; `measured` flow with its
    `confidence`.
    """

    real: Tensor
    real_before: Tensor
    made: Tensor
    made_before: Tensor
    flow: Tensor
    weight: Tensor
    measured: Tensor
    confidence: Tensor


def motion_losses(m: Motion, config: Config) -> dict[str, Tensor]:
    """The weighted terms `flow`, `flow_warp`, `warp` and `weight` of stages 1 and 3."""
    warped = warp(m.made_before, m.measured).detach()
    return {
        "flow": config.lambda_flow * masked_l1(m.flow, m.measured, m.confidence),
        "flow_warp": config.lambda_flow_warp * masked_l1(warp(m.real_before, m.flow), m.real, m.confidence),
        "warp": config.lambda_warp * masked_l1(m.made, warped, m.confidence),
        "weight": config.lambda_weight * (m.weight * m.confidence).abs().mean(),
    }


def image_losses(made: Tensor, real: Tensor, features: Features | None, config: Config) -> dict[str, Tensor]:
    """The weighted terms `per` and `gram`, equation (7), where chosen: images [M, 3, H, W] in [-1, 1].

    `made` may hold several versions of `real` one after the other, [n * M, 3, H, W]; the terms are means over all.
    """
    if features is None:
        return {}
    with torch.no_grad():
        wanted = features(real)
    count = len(made) // len(real)
    layers = list(zip(features.weights, features(made), wanted, strict=False))
    terms = {}
    if config.lambda_per:
        far = [w * _distance(a, b.repeat(count, 1, 1, 1) if count > 1 else b, config) for w, a, b in layers]
        terms["per"] = config.lambda_per * torch.stack(far).sum()
    if config.lambda_gram:
        style = [(gram(a).unflatten(0, (count, -1)) - gram(b)).abs().mean() for _, a, b in layers]
        terms["gram"] = config.lambda_gram * torch.stack(style).mean()
    return terms


def gram(features: Tensor) -> Tensor:
    """Gram matrices [M, C, C] of features [M, C, H, W], over C * H * W, scaled to a Frobenius norm of 1."""
    flat = features.flatten(2)
    g = flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])
    return g / g.flatten(1).norm(dim=1).clamp(min=1e-8)[:, None, None]


def triplets(
    clips: Sequence[Tensor], flows: Tensor, spacing: int, new: int, unit: float = 1.0
) -> tuple[Tensor, ...] | None:
    """Inputs of a temporal discriminator: three frames and the two flows between them, of several versions of a clip.

    Args:
        clips: each [N, T, c, H, W]; only the last `new` frames are new, the others have been judged before.
        flows: [N, T, 2, H, W] in pixels, from each frame back to the one before.
        spacing: frames from one of the three to the next; flow over several frames is chained.
        new: how many frames may end a triplet.
        unit: pixels that are 1 in the result.

    Returns:
        For each of `clips` [M, 3c + 4, H, W], oldest frame first, or None if the frames do not reach.
    """
    count, back = flows.shape[1], 2 * spacing
    first = max(count - new, back)
    if first >= count:
        return None
    # The flow over `spacing` frames that ends at each frame from first - spacing on.
    steps = [flows[:, i : i + count - first + spacing].flatten(0, 1) for i in range(first - back + 1, count)[:spacing]]
    chained = chain_flow(torch.stack(steps, 1)).unflatten(0, (len(flows), -1)) / unit
    between = [chained[:, : count - first], chained[:, spacing:]]
    frames = [[x[:, first - back : count - back], x[:, first - spacing : count - spacing], x[:, first:]] for x in clips]
    return tuple(torch.cat([*three, *between], 2).flatten(0, 1) for three in frames)


def crops(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Squares [M, c, size, size] centred on boxes int64 [M, 4] (top, bottom, left, right), kept inside the image."""
    h, w = images.shape[-2:]
    top = ((boxes[:, 0] + boxes[:, 1]) // 2 - size // 2).clamp(0, h - size)
    left = ((boxes[:, 2] + boxes[:, 3]) // 2 - size // 2).clamp(0, w - size)
    steps = torch.arange(size, device=images.device)
    rows, columns = top[:, None] + steps, left[:, None] + steps
    each = torch.arange(len(images), device=images.device)[:, None, None]
    return images[each, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
