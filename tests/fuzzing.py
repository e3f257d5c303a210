"""Damaged copies of small videos of every usual container and codec, and what comes of them.

`originals` writes ten files, `damaged` the n-th damaged copy of them (a function of n alone), `Trial` takes copies
through a build, a transfer and an import, and notes what must not happen: an error that is no sentence, a file that
ends neither as clips nor as a reject.
"""

from __future__ import annotations

import json
import random
import subprocess
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from remot_data import media
from remot_data.assets import fetch
from remot_data.errors import RemotError
from remot_data.exchange.importers import import_layer
from remot_data.ingest.build import build
from remot_data.ingest.policy import Policy
from remot_data.media import in_child, sandbox
from remot_data.records import Clip
from remot_data.store import create_store, open_store
from remot_data.store.shards import encoded

FRAMES, SIZE = 20, (160, 128)  # height and width
LIMITS = sandbox.Limits(stall=10.0, memory=2**30)
# What is damaged is files: the finder that costs least will do, and few looks.
OPTIONS: dict[str, Any] = {
    "policy": Policy(size=(64, 48), min_frames=4, looks=2.0), "finder": "blazepose", "layers": {}, "limits": LIMITS
}  # fmt: skip

_SOUND = "-f lavfi -i sine=frequency=440:duration=1 -shortest"
ORIGINALS = {
    "h264.mp4": "-c:v libx264 -bf 2 -g 8 -pix_fmt yuv420p",
    "hevc-fragments.mp4": "-c:v libx265 -x265-params log-level=none:keyint=8 -movflags +frag_keyframe+empty_moov",
    "prores.mov": "-c:v prores_ks -profile:v 0",
    "sound.mkv": f"{_SOUND} -c:v libx264 -g 8 -pix_fmt yuv420p -c:a libopus",
    "vp9.webm": "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -b:v 200k",
    "av1.webm": "-c:v libaom-av1 -cpu-used 8 -usage realtime -b:v 200k",
    "mjpeg.avi": "-c:v mjpeg -q:v 4 -pix_fmt yuvj420p",
    "mpeg2.ts": "-c:v mpeg2video -g 8 -q:v 4 -pix_fmt yuv420p",
    "flash.flv": "-c:v flv -g 8 -q:v 4",
    "theora.ogv": "-c:v libtheora -q:v 6 -g 8",
}


def originals(folder: Path) -> list[Path]:
    """Write the ten files: 20 frames of a real person, 160 x 128."""
    folder.mkdir(parents=True, exist_ok=True)
    found = media.read(fetch("sample-cam02"), crop=None, size=(SIZE[0] * 2, SIZE[1] * 4))
    frames = [np.ascontiguousarray(f[40:-40, 130:-130]) for (_, f), _ in zip(found, range(FRAMES), strict=False)]
    height, width = frames[0].shape[:2]
    raw = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r 20 -i pipe:0".split()
    for name, options in ORIGINALS.items():
        scale = ["-vf", f"scale={SIZE[1]}:{SIZE[0]}"]
        command = [media.carried_ffmpeg(), "-hide_banner", "-v", "error", "-y", *raw, *options.split(), *scale]
        subprocess.run([*command, str(folder / name)], input=b"".join(f.tobytes() for f in frames), check=True)
    return [folder / name for name in ORIGINALS]


# --- damage -------------------------------------------------------------------------------------------------


def _flipped(data: bytearray, rng: random.Random, _: bytes) -> bytearray:
    for _ in range(rng.choice((1, 3, 10, 60))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _flipped_in_head(data: bytearray, rng: random.Random, _: bytes) -> bytearray:
    for _ in range(rng.choice((1, 3, 10))):
        data[rng.randrange(min(len(data), 2048))] = rng.randrange(256)
    return data


def _cut(data: bytearray, rng: random.Random, _: bytes) -> bytearray:
    return data[: rng.randrange(len(data))] if rng.random() < 0.7 else data[rng.randrange(len(data)) :]


def _spliced(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    at, start = rng.randrange(len(data)), rng.randrange(len(other))
    part = other[start : start + rng.choice((16, 500, 5000, len(other)))]
    data[at : at + rng.choice((0, len(part)))] = part
    return data


def _repeated(data: bytearray, rng: random.Random, _: bytes) -> bytearray:
    start = rng.randrange(len(data))
    part = data[start : start + rng.choice((188, 1000, 10000))]
    at = rng.randrange(len(data))
    data[at:at] = part * rng.choice((1, 2, 20))
    return data


def _reordered(data: bytearray, rng: random.Random, _: bytes) -> bytearray:
    parts = elements(bytes(data))
    deep = [i for i, part in enumerate(parts) if part[4:8] in (b"moov", b"moof")]
    if deep and rng.random() < 0.5:
        i = rng.choice(deep)
        inner = elements(parts[i][8:])
        rng.shuffle(inner)
        parts[i] = parts[i][:8] + b"".join(inner)
    else:
        rng.shuffle(parts)
    return bytearray(b"".join(parts))


def _lied(data: bytearray, rng: random.Random, _: bytes) -> bytearray:
    """Some four bytes that may be a size or a count get another value."""
    spots = [i for tag in _SIZED for i in _found(data, tag)] or list(range(0, min(len(data) - 4, 512), 4))
    for _ in range(rng.choice((1, 1, 3))):
        at = max(rng.choice(spots) + rng.choice((-4, 4, 8, 12, 16)), 0)
        value = rng.choice((0, 1, 7, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, len(data) * 2, rng.getrandbits(32)))
        data[at : at + 4] = (value & 0xFFFFFFFF).to_bytes(4, rng.choice(("big", "little")))
    return data


_SIZED = (
    b"moov", b"trak", b"mdat", b"stsz", b"stco", b"stts", b"stsc", b"ctts", b"stsd", b"tkhd", b"elst", b"trun", b"tfhd",
    b"avcC", b"hvcC", b"LIST", b"movi", b"idx1", b"strf", b"strh", b"OggS", b"\x1f\x43\xb6\x75", b"\x16\x54\xae\x6b",
    b"\x18\x53\x80\x67", b"\xa3", b"FLV\x01", b"onMetaData",
)  # fmt: skip


def _found(data: bytes | bytearray, tag: bytes) -> list[int]:
    at, found = data.find(tag), []
    while at >= 0 and len(found) < 50:
        found.append(at)
        at = data.find(tag, at + 1)
    return found


def elements(data: bytes) -> list[bytes]:
    """The parts of a file that have a size of their own: atoms, EBML elements, pages, packets; or twelve parts."""
    if data[4:8] in (b"ftyp", b"moov", b"mvhd", b"mfhd", b"styp"):
        return _walked(data, lambda i: (int.from_bytes(data[i : i + 4], "big"), 0))
    if data.startswith(b"\x1a\x45\xdf\xa3"):
        return _walked(data, lambda i: _ebml(data, i))
    if data.startswith(b"OggS"):
        starts = _found(data, b"OggS")
    elif data[:1] == b"\x47":
        starts = list(range(0, len(data), 188))
    else:
        starts = list(range(0, len(data), max(len(data) // 12, 1)))
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


def _walked(data: bytes, size: Callable[[int], tuple[int, int]]) -> list[bytes]:
    parts, at = [], 0
    while at < len(data):
        length, header = size(at)
        length = header or max(length, 8)
        parts.append(data[at : at + length])
        at += length
    return parts


def _ebml(data: bytes, at: int) -> tuple[int, int]:
    """Length of an element; of the segment that of its header, so that its children follow."""
    head = 9 - data[at].bit_length() if data[at] else 1
    if at + head >= len(data) or not data[at + head]:
        return len(data) - at, 0
    width = 9 - data[at + head].bit_length()
    value = int.from_bytes(data[at + head : at + head + width], "big") & (1 << 7 * width) - 1
    if data[at : at + 4] == b"\x18\x53\x80\x67":
        return 0, head + width
    return head + width + value, 0


DAMAGE = (_flipped, _flipped_in_head, _cut, _spliced, _repeated, _reordered, _lied)


def damaged(files: Sequence[Path], number: int) -> tuple[str, bytes]:
    """The name and the bytes of a damaged copy: every file with every kind of damage, in turn; sometimes with two."""
    rng = random.Random(number)
    path = files[number % len(files)]
    kinds = [DAMAGE[number // len(files) % len(DAMAGE)]] + [rng.choice(DAMAGE)] * (rng.random() < 0.2)
    data = bytearray(path.read_bytes())
    other = files[rng.randrange(len(files))].read_bytes()
    for kind in kinds:
        data = kind(data, rng, other) if data else data
    return f"{number:06d}-{kinds[0].__name__.strip('_')}-{path.name}", bytes(data)


# --- trials -------------------------------------------------------------------------------------------------


class Trial:
    """What became of damaged files; `bad` has what must not happen, each with the file's name."""

    def __init__(self, files: Sequence[Path], folder: Path) -> None:
        self.files, self.folder = files, folder
        self.ends: Counter[str] = Counter()
        self.bad: list[str] = []

    def run(self, numbers: Sequence[int], workers: int = 0) -> None:
        """Build from the copies with these numbers; one of ten also drives, dresses a transfer, and is imported for."""
        inputs = self.folder / "in"
        inputs.mkdir(parents=True)
        paths = {}
        for number in numbers:
            name, data = damaged(self.files, number)
            paths[number] = inputs / name
            paths[number].write_bytes(data)
        try:
            done = build([inputs], str(self.folder / "store"), workers=workers, **OPTIONS)
        except Exception:
            self.bad.append(f"build of {numbers[0]} to {numbers[-1]}: {traceback.format_exc()}")
            return
        self._account(done, list(paths.values()))
        for number, path in paths.items():
            if (number + number // 10) % 10 == 0:  # of other files and damage in every ten
                self.attempt("driving", path, lambda p=path: _drive(p))
                self.attempt("source", path, lambda p=path: _dress(p))
                self.attempt("import", path, lambda p=path: self._import(p))

    def _account(self, done: Any, paths: Sequence[Path]) -> None:
        if done.inputs != len(paths):
            self.bad.append(f"{done.inputs} inputs of {len(paths)} files")
        frames = done.frames
        if frames["decoded"] != frames["kept"] + frames["refused"] + frames["resampled"]:
            self.bad.append(f"the frames do not add up: {frames}")
        kept = {clip.path for clip in open_store(done.store).clips} if done.clips else set()
        refused: dict[str, list[dict[str, Any]]] = {}
        for reject in done.rejects:
            refused.setdefault(reject["path"], []).append(reject)
        for path in map(str, paths):
            rejects = refused.get(path, [])
            if path not in kept and not rejects:
                self.bad.append(f"{path}: neither clips nor a reject")
            self.ends["clips" if path in kept else rejects[0]["code"] if rejects else "nothing"] += 1
            crashes = (reject["detail"] for reject in rejects if reject["code"] == "crashed")
            self.bad += [f"{path}: {detail}" for detail in crashes if "Error: " in detail]

    def attempt(self, what: str, path: Path, act: Callable[[], Any]) -> None:
        """Do it: it has to end well or with a sentence."""
        try:
            act()
            self.ends[f"{what}: done"] += 1
        except RemotError as error:
            code = getattr(error, "code", type(error).__name__)
            self.ends[f"{what}: {code}"] += 1
            if code == "crashed" and "Error: " in str(error):
                self.bad.append(f"{what} of {path}: {error}")
        except Exception:
            self.bad.append(f"{what} of {path}: {traceback.format_exc()}")

    def _import(self, path: Path) -> None:
        """Poses for a clip of the damaged file, as if it had been whole when the store was built."""
        store = create_store(str(self.folder / f"for-{path.name}"), {"size": [64, 48]})
        whole = next(file for file in self.files if path.name.endswith(file.name))
        probe, pts = media.probe(whole), tuple(media.container.scan(whole).pts[:2])
        crop = (0.0, 0.0, 96.0, 128.0)
        clip = Clip("c", "v", str(path), "", 0, pts, probe.time_base, 20.0, SIZE[::-1], crop, "ada", "train", shard=0)
        store.write_clips([clip])
        store.write_shard("frames", 0, encoded("frames", clip, {"frames": np.zeros((2, 64, 48, 3), np.uint8)}))
        poses = self.folder / f"poses-{path.name}"
        poses.mkdir()
        body = np.stack([np.linspace(30, 60, 25), np.linspace(20, 120, 25), np.ones(25)], 1).ravel().tolist()
        for number in range(FRAMES):
            text = json.dumps({"people": [{"pose_keypoints_2d": body}]})
            (poses / f"{number:04d}.json").write_text(text)
        import_layer(store, "pose", poses, form="openpose", workers=0)


def _drive(path: Path) -> None:
    from remot_model.transferring.driving import find_driving, read_pieces

    for _ in read_pieces(find_driving(path, (64, 48), None, None, finder="blazepose"), (64, 48)):
        pass


def _dress(path: Path) -> None:
    in_child.first_frame(path)
