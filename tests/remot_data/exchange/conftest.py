"""What the tests of imports and exports share: a dancer whose layers are known and files of them, exported stores."""

from __future__ import annotations

import ctypes
import json
import struct
import time
import zlib

import cv2
import numpy as np
import pytest

from remot_data import media, synthetic
from remot_data.assets import fetch
from remot_data.exchange.exports import FORMATS, export
from remot_data.ingest.build import build
from remot_data.ingest.policy import Policy
from remot_data.media import sandbox
from remot_data.records import Clip
from remot_data.store import create_store, open_store
from remot_data.store.shards import encoded

SIZE = (64, 48)
# A crop of twice the size of the frames, well inside the picture of 200 x 160.
CROP = (60.0, 20.0, 96.0, 128.0)
FRAMES = 10


@pytest.fixture(scope="module")
def scene():
    """A dancer in pictures of 200 x 160, with the truth in source pixels."""
    return synthetic.dance(synthetic.Dancer.random(3), FRAMES, size=(160, 200), seed=3)


@pytest.fixture(scope="module")
def pictures(scene, tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "dance"
    folder.mkdir()
    for t, frame in enumerate(scene.frames):
        cv2.imwrite(str(folder / f"img_{t + 7:04d}.png"), frame[..., ::-1])
    return folder


def made_store(url, sources, crop=CROP, size=SIZE):
    """A store of one clip a source, with pts and crop as they are given."""
    store = create_store(str(url), {"size": list(size)})
    clips = []
    for number, (path, pts) in enumerate(sources):
        probe = media.probe(path)
        clips.append(
            Clip(
                f"clip-{number}",
                f"video-{number}",
                str(path),
                "",
                0,
                tuple(pts),
                probe.time_base,
                probe.fps,
                probe.size,
                crop,
                "ada",
                "test" if number else "train",
                shard=number,
            )  # fmt: skip
        )
    store.write_clips(clips)
    for clip in clips:
        found = dict(media.read(clip.path, crop=clip.crop, size=size))
        frames = np.stack([found[pts] for pts in clip.pts])
        store.write_shard("frames", clip.shard, encoded("frames", clip, {"frames": frames}))
    return open_store(str(url))


@pytest.fixture
def store(tmp_path, pictures):
    return made_store(tmp_path / "store", [(pictures, range(FRAMES))])


def through_crop(points, crop=CROP, size=SIZE):
    x, y, w, h = crop
    moved = (points[..., :2] - [x, y]) * [size[1] / w, size[0] / h]
    return np.concatenate([moved, points[..., 2:]], -1) * (points[..., 2:] > 0)


def write_pose(folder, names, persons):
    """One OpenPose file a name: `persons` is a list for each, of body arrays or of mappings."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, bodies in zip(names, persons, strict=True):
        bodies = [b if isinstance(b, dict) else {"pose_keypoints_2d": np.ravel(b).tolist()} for b in bodies]
        (folder / f"{name}.json").write_text(json.dumps({"version": 1.3, "people": bodies}))
    return folder


def layer(store, kind, summary):
    clip = open_store(store.url).clips[0]
    return open_store(store.url).read_arrays(f"layers/{kind}/{summary.id}", kind, clip)


def write_png(path, labels, palette=None):
    """A PNG with 8-bit grey or a palette, without any library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = labels.shape
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0 if palette is None else 3, 0, 0, 0))]
    if palette is not None:
        chunks.append((b"PLTE", np.asarray(palette, np.uint8).tobytes()))
    rows = b"".join(b"\0" + row.tobytes() for row in labels.astype(np.uint8))
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def write_flo(path, flow):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = flow.shape[:2]
    path.write_bytes(b"PIEH" + struct.pack("<ii", width, height) + flow.astype("<f4").tobytes())


def spoilt(how, payload):
    """Stands for a decoder in a child: it gives one message, and then crashes or hangs."""
    yield {}, bytes(payload)
    if how == "crash":
        ctypes.string_at(0)
    time.sleep(1000)


@pytest.fixture(params=["crash", pytest.param("hang", marks=pytest.mark.slow)])
def spoilt_decoder(request, monkeypatch):
    """In every child the decoder is spoilt; a pattern of how that ends. A busy machine may stall before the message."""
    real, called, stall = sandbox.call, f"{__name__}:spoilt", 1 if request.param == "hang" else 60
    arguments = {"how": request.param, "payload": SIZE[0] * SIZE[1]}
    monkeypatch.setattr(sandbox, "call", lambda *_: real(called, arguments, sandbox.Limits(stall=stall)))
    return {
        "crash": "crashed: the process was ended by SIGSEGV",
        "hang": "timeout: no sign of life for 1 s, after [01] messages",
    }[request.param]


@pytest.fixture(scope="session")
def exported(dancers, tmp_path_factory):
    """The five dancers in every format."""
    folder = tmp_path_factory.mktemp("exports")
    for to in FORMATS:
        done = export(dancers, to, folder / to, workers=0)
        assert (done.clips, done.frames, done.left_out) == (5, 100, 0)
        assert done.splits == {"train": 80, "test": 20}
        assert any(path.is_file() for path in (folder / to).rglob("*")), f"{to} writes nothing"
    return folder


def arrays(store, kind, clip, snapshot="main"):
    folder = "frames" if kind == "frames" else store.folders(store.snapshot(snapshot))[kind]
    return store.read_arrays(folder, kind, clip)


@pytest.fixture(scope="session")
def person(tmp_path_factory):
    """Nine frames of a real person, built with pose and parsing."""
    folder = tmp_path_factory.mktemp("real")
    media.cut(fetch("sample-cam02"), folder / "man.mp4", 0.0, 0.15)
    detectors = {"pose": "blazepose", "parsing": "pose-guided"}
    policy = Policy(size=(256, 192), min_frames=6, persons="main")  # a woman stands behind him
    return open_store(build(folder / "man.mp4", str(folder / "s"), policy=policy, layers=detectors, workers=0).store)
