"""The equations of the model written down plainly: a clip, a frame and a region at a time, nothing shared or reused.

Slow on purpose. Tests and `benchmarks/model_speed.py` compare the package with it. It takes the layers from the
package's networks and does everything else itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remot_model.config import Config
from remot_model.networks.warping import warp
from remot_model.training.features import Features


def with_two_before(frames: list[Tensor], before: list[Tensor] | None = None) -> list[Tensor]:
    """Channels of the frames t-2, t-1, t for every t; the first frame stands in for those before it."""
    padded = (before or [frames[0], frames[0]]) + frames
    return [torch.cat(padded[t : t + 3], 1) for t in range(len(frames))]


def layouts(net: nn.Module, config: Config, source: Tensor, poses: list[Tensor]) -> list[dict[str, Tensor]]:
    """Equations (2a) to (2c) for source [N, K, H, W] and poses [N, 3, H, W]."""
    out: list[dict[str, Tensor]] = []
    memory = [torch.zeros_like(source)] * 2
    for t, window in enumerate(with_two_before(poses)):
        f_l, f_p, f_pre = net.encode_source(source), net.encode_pose(window), net.encode_previous(torch.cat(memory, 1))
        raw = net.layout(f_l + f_p + f_pre)
        flow, weight = net.motion(f_p + f_pre)
        layout = weight * raw + (1 - weight) * warp(memory[1], flow)
        if t == 0 and config.first_frame_raw:
            layout = raw
        out.append({"layout": layout, "raw": raw, "flow": flow, "weight": weight})
        memory = [memory[1], layout.detach()]
    return out


Where = tuple[slice, slice]


def crops_of(config: Config, *masks: Tensor) -> list[Where]:
    """Rows and columns that hold all masks [1, 1, H, W]: in cells, one more on each side; none where all are empty.

    With `crop_parts`, two empty rows or columns of cells part them into several, where those have at most 0.8 of the
    area. With `crop_regions="sizes"` they grow to the next of five sizes.
    """
    if not config.crop_regions:
        return [(slice(None), slice(None))]
    cell = 2**config.n_downsample
    height, width = (n // cell for n in config.size)
    seen = sum(m[0, 0] for m in masks).numpy().reshape(height, cell, width, cell).any((1, 3))
    found = parts(seen, config.crop_parts)
    if config.crop_regions == "sizes":
        found = [next_size(height, width, *place) for place in found]
    return [(slice(a * cell, b * cell), slice(c * cell, d * cell)) for a, b, c, d in found]


def next_size(height: int, width: int, top: int, bottom: int, left: int, right: int) -> tuple[int, int, int, int]:
    """The smallest place of one of five sizes in a grid that holds another; of those the one most in its middle."""
    places = []
    for number, (down, along) in enumerate([(0.25, 0.5), (0.5, 0.5), (0.5, 1), (1, 0.5), (1, 1)]):
        rows, columns = math.ceil(down * height), math.ceil(along * width)
        for a in range(height - rows + 1):
            for c in range(width - columns + 1):
                sides = (top - a, a + rows - bottom, left - c, c + columns - right)
                if min(sides) >= 0:
                    uneven = abs(sides[0] - sides[1]) + abs(sides[2] - sides[3])
                    places.append((rows * columns, number, uneven, -a, -c, a + rows, c + columns))
    *_, a, c, below, behind = min(places)
    return -a, below, -c, behind


def parts(seen: np.ndarray, several: bool) -> list[tuple[int, int, int, int]]:
    """First and last row and column (the last not included) of each part of a grid, with their margins."""
    if not seen.any():
        return []
    rows, columns = np.nonzero(seen)
    top, bottom = max(0, rows.min() - 1), min(seen.shape[0], rows.max() + 2)
    left, right = max(0, columns.min() - 1), min(seen.shape[1], columns.max() + 2)
    best = [(top, bottom, left, right)]

    def area(found: list[tuple[int, int, int, int]]) -> int:
        return sum((b - a) * (d - c) for a, b, c, d in found)

    for turned in (False, True) if several else ():
        grid = seen.T if turned else seen
        for i in range(1, len(grid) - 2):
            if grid[:i].any() and not grid[i : i + 2].any() and grid[i + 2 :].any():
                halves = [grid.copy(), grid.copy()]
                halves[0][i:] = halves[1][: i + 2] = False
                found = [part for half in halves for part in parts(half.T if turned else half, several)]
                if area(found) < area(best):
                    best = found
    whole = [(top, bottom, left, right)]
    return best if area(best) <= 0.8 * area(whole) else whole


def region(
    net: nn.Module, config: Config, masks: list[Tensor], aligned: list[Tensor], aligned_masks: list[Tensor]
) -> list[Tensor]:
    """Equation (5) for one region of one clip: masks [1, 1, H, W], the aligned source [1, 3, H, W] and its masks."""
    out: list[Tensor] = []
    memory = [torch.zeros_like(aligned[0])] * 2
    windows = with_two_before(masks) if config.mask_frames == 3 else masks
    for t, window in enumerate(windows):
        made = torch.zeros_like(aligned[t])
        for y, x in crops_of(config, masks[t], aligned_masks[t]):
            seen = torch.cat([*memory, aligned[t] * aligned_masks[t]], 1)
            features = net.encode_mask(window[..., y, x]) + net.encode_image(seen[..., y, x])
            made[..., y, x] = net.image(features)
        if config.clip_regions:
            made = made * masks[t]
        out.append(made)
        memory = [memory[1], made.detach()]
    return out


def attention(generated: Tensor, source: Tensor, tau: float) -> Tensor:
    """Equations (12) and (13) with the N x N matrix written out, for one image [1, C, h, w]."""
    f_g, f_s = generated.flatten(2)[0], source.flatten(2)[0]
    a = (f_s.T @ f_g) / (f_s.norm(dim=0)[:, None] * f_g.norm(dim=0)[None, :]).clamp(min=1e-6)
    a = (a / tau).exp()
    a = a / a.sum(0, keepdim=True)
    return generated + (f_s @ a).reshape(generated.shape)


def whole(
    net: nn.Module,
    config: Config,
    poses: list[Tensor],
    layouts: list[Tensor],
    coarse: list[Tensor],
    aligned: list[Tensor],
    background: Tensor,
) -> list[dict[str, Tensor]]:
    """Equations (12) to (15) for one clip: one-hot six-class layouts [1, 6, H, W], everything else [1, 3, H, W]."""
    out: list[dict[str, Tensor]] = []
    memory = [torch.zeros_like(background)] * 2
    windows = with_two_before([torch.cat([p, m], 1) for p, m in zip(poses, layouts, strict=True)])
    for t, window in enumerate(windows):
        person = 1 - layouts[t][:, :1]
        f_c, f_s = net.encode_context(window), net.encode_source(aligned[t])
        f_g = net.encode_generated(torch.cat([coarse[t], *memory], 1))
        f_f = attention(f_g, f_s, config.tau) if config.use_tam else f_g + f_s
        foreground = net.foreground(f_c + f_f)
        if config.refine_coarse:
            foreground = foreground + coarse[t] * person - (1 - person)
        shared = net.shared(f_c + f_g)
        shade, (flow, weight) = net.shade(shared), net.motion(shared)
        behind = background * (1 - person) - person if config.background_hole else background
        raw = foreground + shade * (behind + 1)
        image = weight * raw + (1 - weight) * warp(memory[1], flow)
        if t == 0 and config.first_frame_raw:
            image = raw
        out.append(
            {"image": image, "raw": raw, "foreground": foreground, "shade": shade, "flow": flow, "weight": weight}
        )
        memory = [memory[1], image.detach()]
    return out


def discriminator_loss(net: nn.Module, real: Tensor, fakes: list[Tensor]) -> Tensor:
    """LSGAN: half of (real to 1) + (fake to 0) for every fake, the generator left out."""
    total = torch.zeros(())
    for fake in fakes:
        for scale in net(real):
            total = total + (scale[-1] - 1).square().mean() / 2
        for scale in net(fake.detach()):
            total = total + scale[-1].square().mean() / 2
    return total


def generator_gan_loss(net: nn.Module, real: Tensor, fakes: list[Tensor], config: Config) -> tuple[Tensor, Tensor]:
    """LSGAN's other side, and feature matching over the four layers before the last."""
    gan = feat = torch.zeros(())
    for fake in fakes:
        scales = net(fake)
        gan = gan + sum((scale[-1] - 1).square().mean() for scale in scales)
        with torch.no_grad():
            wanted = net(real)
        for a, b in zip(scales, wanted, strict=True):
            for i in range(config.d_layers + 1):
                feat = feat + F.l1_loss(a[i], b[i]) / len(scales) * 4 / (config.d_layers + 1)
    return gan, feat


def perceptual(features: Callable[[Tensor], list[Tensor]], made: Tensor, real: Tensor, weights: tuple) -> Tensor:
    """The content part of equation (7)."""
    with torch.no_grad():
        wanted = features(real)
    pairs = zip(weights, features(made), wanted, strict=False)
    return sum(w * F.l1_loss(a, b) for w, a, b in pairs)


def region_losses(
    net: nn.Module,
    judge: nn.Module,
    config: Config,
    labels: Tensor,
    frames: Tensor,
    aligned: Tensor,
    aligned_labels: Tensor,
    features: Features | None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Section 7: the generator's terms and the discriminator's loss, means over the regions and frames of one clip.

    Labels are int64 [T, H, W] in remot6, images [T, 3, H, W]. With `crop_regions` a region is judged on its crop, each
    mean still counting as one over the frame; an absent region only counts in the reconstruction, where it is right.
    """
    terms = {name: torch.zeros(()) for name in ("rec", "per", "gan_image", "feat_image")}
    d_loss = torch.zeros(())
    count = 5 * len(labels)
    for number in range(1, 6):
        masks = [(x == number)[None, None].float() for x in labels]
        moved = [(x == number)[None, None].float() for x in aligned_labels]
        made = region(net, config, masks, [x[None] for x in aligned], moved)
        for t, image in enumerate(made):
            real, mask = frames[t][None] * masks[t], masks[t]
            terms["rec"] = terms["rec"] + F.l1_loss(image, real) / count
            for y, x in crops_of(config, mask, moved[t]):
                m, r, i = (of[..., y, x] for of in (mask, real, image))
                share = m.numel() / labels[0].numel() / count
                if features is not None:
                    terms["per"] = terms["per"] + share * perceptual(features, i, r, features.weights)
                of_real, of_made = torch.cat([m, r], 1), torch.cat([m, i], 1)
                gan, feat = generator_gan_loss(judge, of_real, [of_made], config)
                terms["gan_image"], terms["feat_image"] = (
                    terms["gan_image"] + share * gan,
                    terms["feat_image"] + share * feat,
                )
                d_loss = d_loss + share * discriminator_loss(judge, of_real, [of_made])
    weights = {"rec": config.lambda_rec, "per": config.lambda_per, "gan_image": config.lambda_gan}
    weights["feat_image"] = config.lambda_feat
    return {name: weights[name] * value for name, value in terms.items()}, d_loss


def confidences(frames: Tensor, labels: Tensor, flow: Tensor, stored: Tensor) -> list[Tensor]:
    """Where the flow of a frame is trusted, [1, 1, H, W]: not in the first, then by colour on black and as stored."""
    out = [torch.zeros_like(stored[:1])]
    for t in range(1, len(frames)):
        now, before = (torch.where(labels[i][None, None] > 0, frames[i][None], -1.0) for i in (t, t - 1))
        error = (now - warp(before, flow[t][None])).square().sum(1, keepdim=True)
        out.append((error < 0.02).float() * stored[t][None])
    return out


def motion_terms(
    config: Config,
    real: list[Tensor],
    made: list[Tensor],
    flow: list[Tensor],
    weight: list[Tensor],
    measured: list[Tensor],
    sure: list[Tensor],
) -> dict[str, Tensor]:
    """The four terms of sections 5 and 8 that look at the flow, means over the frames; the first frame has none."""
    terms = {name: torch.zeros(()) for name in ("flow", "flow_warp", "warp", "weight")}
    for t in range(1, len(real)):
        terms["flow"] = terms["flow"] + ((flow[t] - measured[t]) * sure[t]).abs().mean()
        terms["flow_warp"] = terms["flow_warp"] + ((warp(real[t - 1], flow[t]) - real[t]) * sure[t]).abs().mean()
        warped = warp(made[t - 1], measured[t]).detach()
        terms["warp"] = terms["warp"] + ((made[t] - warped) * sure[t]).abs().mean()
        terms["weight"] = terms["weight"] + (weight[t] * sure[t]).abs().mean()
    return {name: getattr(config, f"lambda_{name}") * value / len(real) for name, value in terms.items()}


def judged(judge: nn.Module, config: Config, pairs: list[tuple[Tensor, list[Tensor]]]) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted GAN and feature matching terms and the discriminator's loss, means over pairs of real and generated."""
    found = [(*generator_gan_loss(judge, *pair, config), discriminator_loss(judge, *pair)) for pair in pairs]
    gan, feat, d = (sum(x) / len(pairs) for x in zip(*found, strict=True))
    return config.lambda_gan * gan, config.lambda_feat * feat, d


def triplets(config: Config, frames: list[Tensor], flow: list[Tensor], spacing: int) -> list[Tensor]:
    """Section 8: frames t - 2s, t - s, t and the two flows between them, in units of the flow head; s is 1 or 3."""
    out = []
    for t in range(2 * spacing, len(frames)):
        flows = []
        for end in (t - spacing, t):
            total = flow[end - spacing + 1]
            for i in range(end - spacing + 2, end + 1):
                total = flow[i] + warp(total, flow[i])
            flows.append(total / config.flow_scale)
        out.append(torch.cat([frames[t - 2 * spacing], frames[t - spacing], frames[t], *flows], 1))
    return out


def layout_losses(
    net: nn.Module, judges: nn.ModuleDict, config: Config, source: Tensor, clip: dict[str, Tensor]
) -> tuple[dict[str, Tensor], Tensor]:
    """Section 5 for one clip: `labels` [T, H, W] of its own set; `poses`, `frames`, `flow`, `stored` [T, c, H, W]."""
    poses, flow = ([x[None] for x in clip[name]] for name in ("poses", "flow"))
    real = [F.one_hot(x, config.layout_classes).movedim(-1, 0)[None].float() for x in clip["labels"]]
    out = layouts(net, config, source, poses)
    made, raw = ([frame[name] for frame in out] for name in ("layout", "raw"))
    sure = confidences(clip["frames"], clip["labels"], clip["flow"], clip["stored"])
    terms = motion_terms(config, real, made, [f["flow"] for f in out], [f["weight"] for f in out], flow, sure)
    for name, frames in (("nll", made), ("nll_raw", raw)):
        each = [-(torch.log(p + 1e-6) * x).sum(1).mean() for p, x in zip(frames, real, strict=True)]
        terms[name] = config.lambda_nll * sum(each) / len(each)
    pairs = []
    for t, pose in enumerate(poses):
        with_condition = [torch.cat([source, pose, x], 1) for x in (real[t], made[t], raw[t])]
        pairs.append((with_condition[0], with_condition[1:]))
    terms["gan_image"], terms["feat_image"], d_loss = judged(judges["image"], config, pairs)
    return _with_temporal(judges, config, terms, d_loss, real, made, flow)


def whole_losses(
    net: nn.Module,
    judges: nn.ModuleDict,
    config: Config,
    clip: dict[str, Tensor],
    background: Tensor,
    features: Features | None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Section 8 for one clip that has a background and whose source shows its head.

    `labels` are [T, H, W] in remot6, `poses`, `frames`, `coarse`, `aligned`, `flow`, `stored` [T, c, H, W].
    """
    poses, coarse, aligned, flow = ([x[None] for x in clip[name]] for name in ("poses", "coarse", "aligned", "flow"))
    layout = [F.one_hot(x, 6).movedim(-1, 0)[None].float() for x in clip["labels"]]
    real = [x[None] for x in clip["frames"]]
    person = [1 - x[:, :1] for x in layout]
    real_fg = [x * m - (1 - m) for x, m in zip(real, person, strict=True)]
    out = whole(net, config, poses, layout, coarse, aligned, background)
    made, raw, fg = ([frame[name] for frame in out] for name in ("image", "raw", "foreground"))
    sure = confidences(clip["frames"], clip["labels"], clip["flow"], clip["stored"])
    terms = motion_terms(config, real, made, [f["flow"] for f in out], [f["weight"] for f in out], flow, sure)
    count = len(real)
    terms["foreground"] = config.lambda_rec * sum(F.l1_loss(a, b) for a, b in zip(fg, real_fg, strict=True)) / count
    if features is not None:
        each = [perceptual(features, x, y, features.weights) for i in (made, raw) for x, y in zip(i, real, strict=True)]
        terms["per"] = config.lambda_per * sum(each) / count
    pairs = {"image": [], "foreground": [], "face": []}
    for t in range(count):
        behind = background * (1 - person[t]) - person[t]
        full = [torch.cat([poses[t], layout[t], behind, x], 1) for x in (real[t], made[t], raw[t])]
        only = [torch.cat([poses[t], layout[t], x], 1) for x in (real_fg[t], fg[t])]
        pairs["image"].append((full[0], full[1:]))
        pairs["foreground"].append((only[0], only[1:]))
        rows, columns = np.nonzero(layout[t][0, 3].numpy())
        if len(rows):
            side = config.face_size
            y, x = (
                int(min(max((line.min() + line.max()) // 2 - side // 2, 0), limit - side))
                for line, limit in ((rows, config.size[0]), (columns, config.size[1]))
            )
            head = [torch.cat([layout[t][:, 3:4], i], 1)[..., y : y + side, x : x + side] for i in (real_fg[t], fg[t])]
            pairs["face"].append((head[0], head[1:]))
    d_loss = torch.zeros(())
    for name, found in pairs.items():
        gan, feat, d = judged(judges[name], config, found)
        factor = config.lambda_face if name == "face" else 1
        terms[f"gan_{name}"], terms[f"feat_{name}"], d_loss = factor * gan, factor * feat, d_loss + d
    return _with_temporal(judges, config, terms, d_loss, real, made, flow)


def _with_temporal(
    judges: nn.ModuleDict,
    config: Config,
    terms: dict[str, Tensor],
    d_loss: Tensor,
    real: list[Tensor],
    made: list[Tensor],
    flow: list[Tensor],
) -> tuple[dict[str, Tensor], Tensor]:
    for spacing in (1, 3):
        of_real, of_made = (triplets(config, x, flow, spacing) for x in (real, made))
        pairs = [(a, [b]) for a, b in zip(of_real, of_made, strict=True)]
        name = f"temporal{spacing}"
        terms[f"gan_{name}"], terms[f"feat_{name}"], d = judged(judges[name], config, pairs)
        d_loss = d_loss + d
    return terms, d_loss
