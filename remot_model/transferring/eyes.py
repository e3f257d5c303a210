"""The detectors of a transfer: pose and parsing as the run was trained on, whatever the detector calls its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from remot_data.detectors import base as detectors
from remot_data.detectors.base import Arrays, Detector
from remot_data.records import BOXES, HW, NO_LAYERS, TIMES, VALID
from remot_data.schemas import convert_keypoints, convert_labels, keypoint_set
from remot_model.checkpoint import Run
from remot_model.transferring.request import TransferError

# Detectors see frames of at least this height, whatever the size of the networks.
_DETECTOR_HEIGHT = 256
_HANDS_HEIGHT = 768  # of what the detectors see where hands are wanted, which are a dozen pixels in 256


@dataclass(frozen=True)
class Eyes:
    """The detectors, the frame size they see, and the schema of the keypoints that the run was trained on.

    `outside` is what the frames it was trained on show where a crop reaches out of its picture (`remot_data.Policy`).
    """

    pose: Detector
    parsing: Detector
    size: HW
    schema: str
    outside: str | None = None

    def look(
        self,
        frames: np.ndarray,
        boxes: Mapping[str, np.ndarray] | None = None,
        seconds: np.ndarray | None = None,
    ) -> Arrays:
        """What the pose detector finds in frames uint8 [T, h, w, 3]: of the person in the boxes, where it asks.

        `seconds` float64 [T] are the times of the frames, for a detector that asks.
        """
        return self.pose(frames, **_asked(self.pose, boxes, seconds))

    def keypoints(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Keypoints float32 [T, K, 3] in the run's schema."""
        return convert_keypoints(arrays["keypoints"], self.pose.schema, self.schema)

    def labels(self, frames: np.ndarray, pose: Mapping[str, np.ndarray], valid: np.ndarray | None = None) -> np.ndarray:
        """Labels uint8 [T, h, w] of the set remot11; `valid` bool [h, w] says which pixels are of the picture."""
        needed = {"pose": dict(pose)} if "pose" in self.parsing.needs else {}
        if valid is not None and VALID in self.parsing.needs:
            needed[VALID] = {VALID: valid}
        return convert_labels(self.parsing(frames, **needed)["labels"], self.parsing.schema, "remot11")

    def persons(self, frames: np.ndarray, pose: Mapping[str, np.ndarray]) -> np.ndarray:
        """Where the person is, uint8 [T, h, w] of 0 and 1."""
        mask = pose["mask"] > 127 if "mask" in pose else self.labels(frames, pose) > 0
        return mask.astype(np.uint8)


def load_eyes(run: Run, pose: str, parsing: str) -> Eyes:
    """The detectors by name; `TransferError` if they do not fit the run."""
    schema = run.schemas.get("pose", "body25")
    settings = {"hands_face": True} if pose == "blazepose" and has_hands(schema) else None
    found = {"pose": detectors.load(pose, settings=settings), "parsing": detectors.load(parsing)}
    for kind, detector in found.items():
        if detector.kind != kind:
            raise TransferError(f"the detector {detector.name!r} makes {detector.kind}, not {kind}; choose another")
    if missing := set(found["parsing"].needs) - {"pose", *NO_LAYERS}:
        raise TransferError(f"the parser {parsing!r} needs {', '.join(missing)}, which a transfer does not make")
    factor = -(-(_HANDS_HEIGHT if has_hands(schema) else _DETECTOR_HEIGHT) // run.config.size[0])
    size = run.config.size[0] * factor, run.config.size[1] * factor
    eyes = Eyes(found["pose"], found["parsing"], size, schema, run.outside)
    eyes.keypoints({"keypoints": np.zeros((1, len(keypoint_set(eyes.pose.schema)), 3), np.float32)})
    return eyes


def _asked(detector: Detector, boxes: Mapping[str, np.ndarray] | None, seconds: np.ndarray | None) -> dict[str, Arrays]:
    times = {TIMES: {TIMES: seconds}} if seconds is not None and TIMES in detector.needs else {}
    return {**times, **({BOXES: dict(boxes)} if boxes is not None and BOXES in detector.needs else {})}


def has_hands(schema: str) -> bool:
    """Whether a keypoint set has the points of hands."""
    return "left-hand-0" in keypoint_set(schema).points
