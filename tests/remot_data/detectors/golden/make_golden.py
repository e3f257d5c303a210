"""How `mediapipe.npz` and `holistic.npz` were made: MediaPipe's own solutions on fixed crops of the four sample clips.

It needs an environment of its own, because the mediapipe package wants numpy < 2:

    python -m venv golden-env
    golden-env/bin/pip install mediapipe==0.10.21 av scikit-image
    golden-env/bin/python tests/remot_data/detectors/golden/make_golden.py CLIPS

CLIPS is a folder with cam01.mp4 .. cam04.mp4 (`remot assets` fetches them as sample-cam01 .. sample-cam04).
The tests import `CROPS` and `cropped` from here, so that both see the same pixels.

`mediapipe.npz` holds, for each clip and size, `<clip>-<height>-<mode>`: float16 [T, 33, 4] of x and y in 0..1,
visibility, and 1 where the frame has landmarks. Mode `video` has static_image_mode=False, smooth_landmarks=False;
mode `image` has static_image_mode=True and holds every fifth of those frames.

`holistic.npz` holds, as `<clip>-<mode>-<part>`, what the holistic solution finds in crops of 1024 x 768: float16
[T, 21, 2] of x and y in 0..1 for the parts `left` and `right`, NaN where there is no hand. The face of the man in the
clips is blurred, so `astronaut-image-face` [1, 468, 2] is that of the astronaut that comes with scikit-image.
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
HANDS_SIZE = (1024, 768)
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


def hands_face(frames: np.ndarray, static: bool) -> dict[str, np.ndarray]:
    """MediaPipe's hands and face of the frames, float16 [T, 21 or 468, 2] by part."""
    from mediapipe.python.solutions.holistic import Holistic

    out = {p: np.full((len(frames), n, 2), np.nan, np.float16) for p, n in (("left", 21), ("right", 21), ("face", 468))}
    with Holistic(static_image_mode=static, model_complexity=1, smooth_landmarks=False) as holistic:
        for t, frame in enumerate(frames):
            found = holistic.process(np.ascontiguousarray(frame))
            parts = (found.left_hand_landmarks, found.right_hand_landmarks, found.face_landmarks)
            for part, landmarks in zip(out.values(), parts, strict=True):
                if landmarks is not None:
                    part[t] = [(p.x, p.y) for p in landmarks.landmark]
    return out


def main(clips: Path) -> None:
    from skimage.data import astronaut

    arrays, holistic = {}, {"astronaut-image-face": hands_face(astronaut()[None], static=True)["face"]}
    for name, crop in CROPS.items():
        for size in SIZES:
            frames = cropped(clips / f"{name}.mp4", crop, size)
            arrays[f"{name}-{size[0]}-video"] = landmarks(frames, static=False)
            arrays[f"{name}-{size[0]}-image"] = landmarks(frames[::IMAGE_EVERY], static=True)
        frames = cropped(clips / f"{name}.mp4", crop, HANDS_SIZE)
        for mode, found in (("video", hands_face(frames, False)), ("image", hands_face(frames[::IMAGE_EVERY], True))):
            holistic |= {f"{name}-{mode}-{part}": found[part] for part in ("left", "right")}
    np.savez_compressed(Path(__file__).with_name("holistic.npz"), **holistic)
    np.savez_compressed(Path(__file__).with_name("mediapipe.npz"), **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
