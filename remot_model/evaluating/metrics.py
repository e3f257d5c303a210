"""Measures of generated frames against real ones, with the convention of each.

Frames are uint8 [T, H, W, 3], RGB. Everything is computed in floating point: differences of uint8 arrays wrap
around.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from remot_data.assets import AssetError, fetch
from remot_data.detectors.base import file_sha256
from remot_model.networks.lpips import ASSET as LPIPS_ASSET
from remot_model.networks.lpips import LPIPS
from remot_model.networks.lpips import SMALLEST as LPIPS_SMALLEST

FID_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
# The PSNR that identical frames count as in a mean; the largest finite one at 256x192 is 100 dB or so.
PSNR_CAP = 100.0
# Per-pixel energy in [-1, 1] units below which a frame counts as frozen: TCM divides by it.
_FROZEN = 1e-8

CONVENTIONS = {
    "ssim": "scikit-image structural_similarity, 7x7 uniform window, channels averaged, 3-pixel border left out, "
    "data range 255; mean over frames",
    "psnr": f"10 log10(255^2 / MSE) per frame over all channels, identical frames count as {PSNR_CAP:g} dB; mean over "
    "frames",
    "mask_ssim": "ssim after both frames are multiplied by the person mask of the real one (parsing != 0), over the "
    "whole frame",
    "mask_psnr": "psnr after both frames are multiplied by the person mask of the real one (parsing != 0), over the "
    "whole frame",
    "tcm": "exp(-|e_generated / e_real - 1|), e = squared change after warping with the flow of the real frames, all "
    "pixels; mean over the frame pairs of a clip, then over clips",
    "tcm_masked": "tcm over the pixels whose flow agrees forward and backward and keeps the colour",
    "lpips": "version 0.1 with AlexNet, inputs in [-1, 1] at the size of the run; mean over frames",
    "fid": "torchmetrics, Inception of 2015-12-05, 2048 features of pool3, bilinear to 299x299; all generated against "
    "all real frames; biased upwards where these are few",
}


def blackened(frames: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Frames [T, H, W, 3], black where they lie outside the picture of their source: where `valid` [H, W] is not."""
    return frames * valid[..., None]


def inside(frames: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The part of arrays [T, H, W, ...] that lies inside their source's picture: as `valid` [H, W], a rectangle."""
    rows, columns = np.flatnonzero(valid.any(1)), np.flatnonzero(valid.any(0))
    return frames[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def ssim(real: np.ndarray, made: np.ndarray) -> np.ndarray:
    """Structural similarity of each frame, float64 [T].

    scikit-image's `structural_similarity` with its defaults: a uniform 7x7 window, the mean over channels and
    over all pixels but a 3-pixel border, data range 255.
    """
    from skimage.metrics import structural_similarity

    _check(real, made)
    return np.array(
        [structural_similarity(a, b, channel_axis=-1, data_range=255) for a, b in zip(real, made, strict=True)]
    )


def psnr(real: np.ndarray, made: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each frame in dB, float64 [T]: 10 log10(255² / MSE), infinite for equal frames.

    `mean_psnr` averages such values.
    """
    _check(real, made)
    error = np.square(real.astype(np.float64) - made).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255.0**2 / error)


def mean_psnr(values: np.ndarray) -> float:
    """Mean of PSNR values with each capped at `PSNR_CAP`: one pair of equal frames must not make it infinite."""
    return float(np.minimum(values, PSNR_CAP).mean())


def mask_ssim(real: np.ndarray, made: np.ndarray, person: np.ndarray) -> np.ndarray:
    """`ssim` with both frames multiplied by the real person's mask, bool [T, H, W], over the whole frame."""
    return ssim(*_masked(real, made, person))


def mask_psnr(real: np.ndarray, made: np.ndarray, person: np.ndarray) -> np.ndarray:
    """`psnr` with both frames multiplied by the real person's mask, bool [T, H, W], over the whole frame."""
    return psnr(*_masked(real, made, person))


def warp(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Backward warp: out(x, y) = image(x + flow_x, y + flow_y), bilinear, the border repeated.

    Args:
        image: float32 [H, W, C].
        flow: float32 [H, W, 2], dx and dy in pixels.
    """
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    # cv2.remap rounds to 1/32 pixel, which would put noise into small energies.
    x = np.clip(x + flow[..., 0], 0, width - 1)
    y = np.clip(y + flow[..., 1], 0, height - 1)
    left, top = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = (x - left)[..., None], (y - top)[..., None]
    upper = image[top, left] * (1 - fx) + image[top, right] * fx
    lower = image[bottom, left] * (1 - fx) + image[bottom, right] * fx
    return upper * (1 - fy) + lower * fy


def tcm(real: np.ndarray, made: np.ndarray, flow: np.ndarray, visible: np.ndarray | None = None) -> np.ndarray:
    """Temporal consistency of each pair of frames (t-1, t), float64 [T-1], in (0, 1], after Yao et al. 2017.

    exp(-|e_made / (e_real + 1e-9) - 1|) with e = ||m (I_t - W(I_{t-1}, O_t))||² and images in [-1, 1]. It is 1
    where the generated video changes as much as the real one: flicker and over-smoothing both lower it. Pairs
    whose real energy is about zero (frozen frames) are NaN: average with `mean_tcm`. Values depend on the
    estimator of the flow, so they are comparable only where that is the same.

    Args:
        real, made: uint8 [T, H, W, 3].
        flow: float32 [T, H, W, 2] of the real frames, from frame t back to frame t-1, in pixels; flow[0] is unused.
        visible: bool [T, H, W], true where a pixel takes part (not occluded); all of them without it.
    """
    _check(real, made)
    if flow.shape != (*real.shape[:3], 2):
        raise ValueError(f"the flow of frames {real.shape} has the shape {(*real.shape[:3], 2)}, not {flow.shape}")
    out = np.full(max(len(real) - 1, 0), np.nan)
    for t in range(1, len(real)):
        mask = np.ones(real.shape[1:3], bool) if visible is None else visible[t].astype(bool)
        e_real, e_made = (_change(frames[t - 1], frames[t], flow[t], mask) for frames in (real, made))
        if e_real > _FROZEN * max(mask.sum(), 1):
            out[t - 1] = np.exp(-abs(e_made / (e_real + 1e-9) - 1))
    return out


def mean_tcm(values: np.ndarray) -> float:
    """Mean of `tcm` values over the pairs that are not frozen; NaN where there is none."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _check(real: np.ndarray, made: np.ndarray) -> None:
    if real.dtype != np.uint8 or made.dtype != np.uint8 or real.shape != made.shape or real.ndim != 4:
        raise ValueError(
            f"metrics compare two uint8 arrays [T, H, W, 3] of one shape, not {real.dtype} {real.shape} and "
            f"{made.dtype} {made.shape}"
        )


def _masked(real: np.ndarray, made: np.ndarray, person: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if person.shape != real.shape[:3]:
        raise ValueError(f"the person mask of frames {real.shape} has the shape {real.shape[:3]}, not {person.shape}")
    mask = (person != 0)[..., None]
    return np.where(mask, real, np.uint8(0)), np.where(mask, made, np.uint8(0))


def _change(before: np.ndarray, after: np.ndarray, flow: np.ndarray, mask: np.ndarray) -> float:
    before, after = (f.astype(np.float32) / 127.5 - 1 for f in (before, after))
    return float(np.square(after - warp(before, flow)).sum(-1, dtype=np.float64)[mask].sum())


class Learned:
    """The metrics of trained networks: LPIPS for each frame, and FID of all of them where its weights are at hand.

    LPIPS's network is an asset, which may be downloaded; the weights of FID never are.

    Attributes:
        unavailable: metric -> why it is absent and what to do.
        networks: metric -> the weights it runs on, with their sha256.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.unavailable: dict[str, str] = {}
        self.networks: dict[str, str] = {}
        self._lpips = self._had("lpips", _lpips_file, LPIPS.load)
        self._fid = self._had("fid", _fid_file, _fid)

    def _had(self, name: str, find: Callable[[], Path], build: Callable[[Path], Any]) -> Any:
        """A network on its weights, or None where it cannot be had, and why."""
        try:
            path = find()
            network = build(path).to(self.device)
        except (_MissingError, AssetError) as error:
            self.unavailable[name] = str(error)
            return None
        except Exception as error:  # a foreign library with foreign weights: any kind may come
            self.unavailable[name] = f"it could not be loaded: {' '.join(str(error).split())[:200]}"
            return None
        self.networks[name] = f"{path.name}, sha256 {file_sha256(path)}"
        return network

    def lpips(self, real: np.ndarray, made: np.ndarray) -> np.ndarray | None:
        """LPIPS of each frame, float32 [T], of frames uint8 [T, H, W, 3] of both kinds; None where it cannot be had."""
        if self._lpips is not None and min(real.shape[1:3]) < LPIPS_SMALLEST:
            self.unavailable["lpips"] = f"the frames are smaller than {LPIPS_SMALLEST} pixels"
            self._lpips = None
        if self._lpips is None:
            return None
        import torch

        pairs = [(torch.from_numpy(x).permute(0, 3, 1, 2).to(self.device).float() / 127.5 - 1) for x in (real, made)]
        with torch.no_grad():
            return np.concatenate([self._lpips(a[None], b[None]).cpu().numpy() for a, b in zip(*pairs, strict=True)])

    def update(self, real: np.ndarray, made: np.ndarray) -> None:
        """Take in frames uint8 [T, H, W, 3] of both kinds for FID."""
        if self._fid is not None:
            import torch

            for frames, is_real in ((real, True), (made, False)):
                self._fid.update(torch.from_numpy(frames).permute(0, 3, 1, 2).to(self.device), real=is_real)

    def compute(self) -> dict[str, float]:
        """FID of everything taken in, where it can be had."""
        return {} if self._fid is None else {"fid": float(self._fid.compute())}


class _MissingError(Exception):
    """Why a metric cannot be had here, and what to do."""


def _lpips_file() -> Path:
    if find_spec("safetensors") is None:
        raise _MissingError('needs safetensors: pip install "remot[train]"')
    return fetch(LPIPS_ASSET)


def _fid_file() -> Path:
    """The weights that torch-fidelity loads out of torch's hub; a name ends with the first digits of its sha256."""
    absent = [library for library in ("torch", "torchmetrics", "torch_fidelity") if find_spec(library) is None]
    if absent:
        raise _MissingError(f'needs {" and ".join(absent)}: pip install "remot[metrics]"')
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch"
    path = Path(home) / "hub" / "checkpoints" / FID_WEIGHTS
    if not path.is_file():
        raise _MissingError(
            f"its weights {FID_WEIGHTS} are not in {path.parent}: fetch them where a network is at hand and copy them "
            "there"
        )
    sha256 = file_sha256(path)
    if not sha256.startswith(path.stem.rsplit("-", 1)[1]):
        raise _MissingError(f"{path} has the sha256 {sha256[:8]}..., so it is damaged or another file; fetch it again")
    return path


def _fid(path: Path) -> Any:
    from torchmetrics.image.fid import FrechetInceptionDistance

    return FrechetInceptionDistance(feature=2048)
