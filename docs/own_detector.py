"""A template for a detector of your own; docs/detectors.md says how it is run. Copy it, and put your network in."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class Bright:
    """Calls every bright pixel upper-clothes.

    Args:
        threshold: grey level above which a pixel is bright; what follows `weights` is given by --setting name=value.
        weights: file given by --weights, or None.
    """

    name = "bright"  # the layer's id begins with it: no spaces, no slashes
    kind = "parsing"  # pose, parsing, flow, background or scores
    version = "1"  # raise it whenever the same frames give another output
    schema = "atr18"  # the label or keypoint set of the output, see remot_data/schemas.py
    needs: tuple[str, ...] = ()  # kinds of layers it reads besides the frames
    licence = "Apache-2.0"
    approximate = True  # whether it stands in for a trained network; said at the start of a run

    def __init__(self, weights: str | Path | None = None, *, threshold: float = 128):
        # Import your library here, not at the top: an ImportError becomes a sentence that says what is not installed.
        self.threshold = threshold

    def fingerprint(self) -> dict[str, object]:
        """All that the output depends on: put `remot_data.detectors.base.file_sha256` of your weights in, too."""
        return {"detector": self.name, "version": self.version, "threshold": self.threshold}

    def __call__(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """One clip: frames uint8 [T, H, W, 3], RGB. With needs = ("pose",) it is __call__(self, frames, pose).

        The arrays of each kind are checked as remot_data/layers has them:
            pose: keypoints float32 [T, K, 3] of x, y, confidence, 0, 0, 0 where not seen; mask uint8 [T, H, W], if any
            parsing: labels uint8 [T, H, W]
            flow: flow float32 [T, H / 2, W / 2, 2] back to the frame before, confidence uint8 [T, H / 2, W / 2]
        """
        bright = frames.mean(-1) > self.threshold
        return {"labels": np.where(bright, 4, 0).astype(np.uint8)}  # 4 is upper-clothes
