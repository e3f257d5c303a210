"""How `mediapipe.npz` was made: MediaPipe's own pose solution on fixed crops of the four sample clips.

It needs an environment of its own, because the mediapipe package wants numpy < 2:

    python -m venv golden-env
    golden-env/bin/pip install mediapipe==0.10.21 av
    golden-env/bin/python tests/remot_data/detectors/golden/make_golden.py CLIPS

CLIPS is a folder with cam01.mp4 .. cam04.mp4 (`remot assets` fetches them as sample-cam01 .. sample-cam04).
The test imports `CROPS` and `cropped` from here, so that both see the same pixels.

`mediapipe.npz` holds, for each clip and size, `<clip>-<height>-<mode>`: float16 [T, 33, 4] of x and y in 0..1,
visibility, and 1 where the frame has landmarks. Mode `video` has static_image_mode=False, smooth_landmarks=False;
mode `image` has static_image_mode=True and holds every fifth of those frames.
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
import cv2
import numpy as np

# x, y, width, height in the pixels of the clip.
CROPS = {
    "cam01": (24, 135, 1037, 1383),
    "cam02": (95, 259, 808, 1078),
    "cam03": (0, 250, 897, 1197),
    "cam04": (70, 217, 1015, 1353),
}
SIZES = ((256, 192), (512, 384))
EVERY = 4  # frames of the clip from one of ours to the next
IMAGE_EVERY = 5


def cropped(clip: Path, crop: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """Every fourth frame of a clip, cropped and resized to height, width `size`: uint8 [T, H, W, 3]."""
    x, y, w, h = crop
    out = []
    with av.open(str(clip)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i % EVERY == 0:
                image = frame.to_ndarray(format="rgb24")[y : y + h, x : x + w]
                out.append(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA))
    return np.stack(out)


def landmarks(frames: np.ndarray, static: bool) -> np.ndarray:
    """MediaPipe's landmarks float16 [T, 33, 4] of the frames."""
    from mediapipe.python.solutions.pose import Pose

    out = np.zeros((len(frames), 33, 4), np.float16)
    with Pose(static_image_mode=static, model_complexity=1, smooth_landmarks=False) as pose:
        for t, frame in enumerate(frames):
            found = pose.process(np.ascontiguousarray(frame)).pose_landmarks
            if found is not None:
                out[t] = [(p.x, p.y, p.visibility, 1) for p in found.landmark]
    return out


def main(clips: Path) -> None:
    arrays = {}
    for name, crop in CROPS.items():
        for size in SIZES:
            frames = cropped(clips / f"{name}.mp4", crop, size)
            arrays[f"{name}-{size[0]}-video"] = landmarks(frames, static=False)
            arrays[f"{name}-{size[0]}-image"] = landmarks(frames[::IMAGE_EVERY], static=True)
    np.savez_compressed(Path(__file__).with_name("mediapipe.npz"), **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
