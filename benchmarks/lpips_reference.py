"""LPIPS of the reference package, for pairs of pictures that scikit-image ships: what the tests compare ours with.

Runs where ``pip install torch torchvision lpips==0.1.4 scikit-image`` did. The package brings its heads; AlexNet's
weights, which it would download, are those of the asset, which are torchvision's.

    python benchmarks/lpips_reference.py > tests/data/lpips-reference.json
"""

from __future__ import annotations

import json
from importlib.metadata import version

import lpips
import numpy as np
import torch
from safetensors.torch import load_file
from skimage import data

from remot_data.assets import fetch

SIZE = (256, 192)
PLACES = {"astronaut": (0, 120), "chelsea": (20, 100), "coffee": (60, 200), "rocket": (100, 220)}


def picture(name: str) -> np.ndarray:
    """A part of a picture, uint8 [256, 192, 3]."""
    y, x = PLACES[name]
    return getattr(data, name)()[y : y + SIZE[0], x : x + SIZE[1], :3]


def spoilt(image: np.ndarray, how: str) -> np.ndarray:
    """A picture made worse in a way that needs no library: uint8 [256, 192, 3]."""
    values = image.astype(np.int32)
    if how == "shifted":
        return np.roll(image, (2, -3), (0, 1))
    if how == "noisy":
        noise = np.random.default_rng(0).integers(-30, 31, image.shape)
        return (values + noise).clip(0, 255).astype(np.uint8)
    if how == "coarse":
        return image[::4, ::4].repeat(4, 0).repeat(4, 1)
    return (values // 2).astype(np.uint8)


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def main() -> None:
    measure = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False).eval()
    convs = [layer for layer in measure.net.modules() if isinstance(layer, torch.nn.Conv2d)]
    weights = load_file(fetch("lpips-alexnet"))
    with torch.no_grad():
        for i, conv in enumerate(convs):
            conv.weight.copy_(weights[f"AlexNet_0/Conv_{i}/kernel"].permute(3, 2, 0, 1))
            conv.bias.copy_(weights[f"AlexNet_0/Conv_{i}/bias"])
        pairs = [(a, how) for a in PLACES for how in ("shifted", "noisy", "coarse", "dark")]
        found = {f"{a} {how}": measure(tensor(picture(a)), tensor(spoilt(picture(a), how))).item() for a, how in pairs}
        names = list(PLACES)
        for a, b in zip(names, names[1:], strict=False):
            found[f"{a} {b}"] = measure(tensor(picture(a)), tensor(picture(b))).item()
    print(json.dumps({"package": f"lpips {version('lpips')}", "values": found}, indent=1))


if __name__ == "__main__":
    main()
