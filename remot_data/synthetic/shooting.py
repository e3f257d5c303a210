"""What happens to drawn dancers before they are a video: coloured light, subtitles, joints that a detector loses."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from remot_data.synthetic.dancer import Colour
from remot_data.synthetic.scene import Scene


def in_coloured_light(scene: Scene, colours: tuple[Colour, Colour]) -> Scene:
    """The scene on a stage: one colour of light from the left, another from the right, bright where both meet."""
    width = scene.frames.shape[2]
    share = np.linspace(0, 1, width, dtype=np.float32)[None, :, None]
    left, right = (np.array(c, np.float32) / 255 for c in colours)
    light = 0.12 + (1 - 0.7 * share) * left + (0.3 + 0.7 * share) * right
    lit = np.clip(np.rint(scene.frames * light), 0, 255).astype(np.uint8)
    return replace(scene, frames=lit)


def subtitled(scene: Scene, text: str, top: float, colour: Colour = (250, 250, 250)) -> Scene:
    """The scene with a line of text across it, `top` of the way down; the mask takes it for the person's where it is
    next to her, as masks of detectors do. Labels look through it."""
    frames, mask = scene.frames.copy(), scene.mask.copy()
    height, width = mask.shape[1:]
    size = 0.9 * height / 256 * 0.75
    (wide, tall), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, size, 1)
    at = ((width - wide) // 2, int(top * height) + tall)
    plate: np.ndarray = np.zeros((height, width), np.uint8)
    cv2.putText(plate, text, at, cv2.FONT_HERSHEY_DUPLEX, size, 255, 3, cv2.LINE_AA)
    reach = 2 * round(0.05 * height) + 1
    for frame, own in zip(frames, mask, strict=True):
        cv2.putText(frame, text, at, cv2.FONT_HERSHEY_DUPLEX, size, (15, 15, 15), 3, cv2.LINE_AA)
        cv2.putText(frame, text, at, cv2.FONT_HERSHEY_DUPLEX, size, colour, 1, cv2.LINE_AA)
        near = cv2.dilate(own, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
        own[(near > 0) & (plate > 127)] = 255
    return replace(scene, frames=frames, mask=mask)


def without_joints(scene: Scene, joints: tuple[int, ...]) -> Scene:
    """The scene with joints of BODY_25 that the pose has lost."""
    keypoints = scene.keypoints.copy()
    keypoints[:, list(joints)] = 0
    return replace(scene, keypoints=keypoints)
