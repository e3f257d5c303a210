"""A template for a detector of your own; docs/detectors.md says how it is run. Copy it, and put your network in."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from remot_data.detectors.base import Arrays, Batched


class Bright(Batched):
    """Calls every bright pixel upper-clothes.

    Args:
        weights: file given by --weights, or None.
        threshold: grey level above which a pixel is bright; what follows `weights` is given by --setting name=value.
        batch: frames that go through the network together.
    """

    name = "bright"  # the layer's id begins with it: no spaces, no slashes
    kind = "parsing"  # pose, parsing, flow, background, scores; or one of your own, docs/layers.md
    version = "1"  # raise it whenever the same frames give another output
    schema = "atr18"  # the label or keypoint set of the output, see remot_data/schemas.py
    needs: tuple[str, ...] = ()  # kinds of layers it reads besides the frames
    licence = "Apache-2.0"
    approximate = True  # whether it stands in for a trained network; said at the start of a run

    def __init__(self, weights: str | Path | None = None, *, threshold: float = 128, batch: int = 16):
        # Import your library here, not at the top: an ImportError becomes a sentence that says what is not installed.
        # A network on a GPU has an attribute `device` that begins with "cuda".
        self.threshold, self.batch = threshold, batch

    def fingerprint(self) -> dict[str, object]:
        """All that the output depends on: put `remot_data.detectors.base.file_sha256` of your weights in, too.

        `batch` is not in it: no frame's result depends on who shares its batch.
        """
        return {"detector": self.name, "version": self.version, "threshold": self.threshold}

    # The batched form, for a network that sees frames, or pairs of frames, each for itself: reading and encoding go on
    # beside it, and clips share its batches. Where a detector needs a clip as a whole, leave the base class and these
    # three methods out and write the one that they stand for; it gets a thread of its own all the same:
    #
    #     def __call__(self, frames: np.ndarray) -> dict[str, np.ndarray]:

    def split(self, frames: np.ndarray) -> np.ndarray:
        """Items of one clip, one for each frame or pair; small ones, as uint8. Frames are uint8 [T, H, W, 3], RGB.

        With needs = ("pose",) it is split(self, frames, pose), and so is `join`. It may run in several threads at once.
        """
        return frames

    def infer(self, items: np.ndarray) -> Arrays:
        """The network on items [batch, ...], always so many: outputs by name, each [batch, ...].

        For a GPU: pinned memory, copies that do not block, and something with a method `result` that waits and gives
        the outputs, so that nothing waits here; `Runner` in remot_data/detectors/_network.py does so for torch.
        """
        return {"bright": items.mean(-1) > self.threshold}

    def join(self, frames: np.ndarray, outputs: Arrays) -> Arrays:
        """The arrays of the layer for one clip, out of the outputs of its items; several threads, as `split`.

        The arrays of each kind are checked as remot_data/store/layers has them:
            pose: keypoints float32 [T, K, 3] of x, y, confidence, 0, 0, 0 where not seen; mask uint8 [T, H, W], if any
            parsing: labels uint8 [T, H, W]
            flow: flow float32 [T, H / 2, W / 2, 2] back to the frame before, confidence uint8 [T, H / 2, W / 2]
        """
        return {"labels": np.where(outputs["bright"], 4, 0).astype(np.uint8)}  # 4 is upper-clothes
